# SPDX-License-Identifier: MIT
"""What every test of a fault asks afterwards: is the proxy alive and well, and is nothing left of the fault?"""
import os

import l7test
from traffic import Case, connect, inline, listener, recv_exact

PROBE = 9990  # a listener that echoes, to see whether the proxy still serves


class Faults(Case):
    """Like Case; after each test the proxy serves, has the descriptors it had and no child process."""

    def start(self, *listeners, lean=False, **kw):
        """lean: the sanitizer gives freed memory back at once, so that resident memory says something."""
        # libwebsockets keeps a descriptor or two from its first use on: a listener is one.
        probe = (listener("probe", "TCP", PROBE, inline("Echo")),
                 listener("probe-ws", "WebSocket", PROBE + 1, inline("Echo")))
        options = os.environ.get("ASAN_OPTIONS", "")
        if lean:
            os.environ["ASAN_OPTIONS"] = options + ":quarantine_size_mb=1"
        proxy = super().start(*probe, *listeners, **kw)
        os.environ["ASAN_OPTIONS"] = options
        self.settle()
        return proxy

    def settle(self):
        """What is there now is what has to be there at the end."""
        self.serves()
        self.gone()
        self.before = self.proxy.fds()

    def serves(self):
        """Another client's session works."""
        with connect(PROBE) as s:
            s.sendall(b"still there?")
            self.assertEqual(recv_exact(s, 12), b"still there?")

    def children(self):
        """Processes that the proxy has started and not reaped."""
        found = []
        for task in os.listdir(f"/proc/{self.proxy.pid}/task"):
            with open(f"/proc/{self.proxy.pid}/task/{task}/children") as f:
                found += [int(pid) for pid in f.read().split()]
        return found

    def gone(self, seconds=12):
        """All sessions have ended (tracked ones may still be shown)."""
        def none():
            return all(s["status"] == "DESTROYED" for s in self.sessions())
        self.assertTrue(l7test.wait_for(none, seconds, 0.05), f"left: {[s['name'] for s in self.sessions()]}")

    def failure(self, prefix="", seconds=12):
        """The errors of the session that ended, in one text."""
        return " ".join(self.texts(self.ended(prefix, seconds), "ERROR"))

    def stop(self):
        if self.proxy:
            try:
                self.assertTrue(self.proxy.alive(), "the proxy is gone")
                self.serves()
                self.gone()
                self.assertTrue(l7test.wait_for(lambda: not self.children(), 8, 0.05), f"children: {self.children()}")
                self.assertTrue(l7test.wait_for(lambda: self.proxy.fds() <= self.before, 8, 0.05),
                                f"{self.proxy.fds()} descriptors, {self.before} before")
            except AssertionError:
                self.proxy.process.terminate()
                self.proxy.process.wait()
                self.proxy = None
                raise
        super().stop()
