#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=600 timeout_full=1200
"""TCP sessions that end in each phase of their way into the kernel and back: FIN and RST of either peer."""
import itertools
import pathlib
import socket
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7net  # noqa: E402
import l7test  # noqa: E402
import tcpflow  # noqa: E402
from tcpproof import Proof  # noqa: E402

NOW = {"after_bytes": 0, "after_ms": 0}
SOME = 40000


class Ends(Proof):
    """FIN and RST of either end in each phase."""

    def finish_first(self, p, first, last, before=0):
        """`first` has sent `before` bytes of stream 9 and its FIN; `last` continues, then finishes, too."""
        receiver = tcpflow.Receiver(last, 9)
        sender, answer = tcpflow.Sender(last, 5, 1 << 18), tcpflow.Receiver(first, 5)
        self.join(receiver, sender, answer)
        for r, n in ((receiver, before), (answer, 1 << 18)):
            self.assertIsNone(r.wrong)
            self.assertIsNone(r.error)
            self.assertEqual(r.received, n)
        first.close()
        last.close()
        self.wait(lambda: self.session(p) is None, p)

    def reset_first(self, p, first, last):
        tcpflow.reset(first)
        with self.assertRaises(ConnectionResetError):
            while last.recv(1 << 16):
                pass
            self.fail("an orderly end instead of a reset")
        last.close()
        self.wait(lambda: self.session(p) is None, p)

    def each(self, begin, p, **kw):
        """begin() makes a connection that is in a phase; what it has sent by then; then it ends in all ways."""
        for how, who in itertools.product(("fin", "rst"), (0, 1)):
            with self.subTest(how=how, who=who):
                pair, sent = begin(who, **kw)
                if how == "fin":
                    pair[who].shutdown(socket.SHUT_WR)
                    self.undo()
                    self.finish_first(p, pair[who], pair[1 - who], sent)
                else:
                    self.undo()
                    self.reset_first(p, pair[who], pair[1 - who])

    def undo(self):
        """What holds a phase up."""

    def test_watch(self):
        """in WATCH: the program has not seen both directions yet"""
        with self.proxy(tcp=NOW) as p:
            def begin(who):
                pair = self.connect()
                pair[who].sendall(tcpflow.expected(9, 0, 1))
                self.phase(p, "watch")
                return pair, 1
            self.each(begin, p)
            self.nothing_left(p)

    def test_relay(self):
        """in RELAY: the other end does not read what the sockets hold"""
        for peer in (self.a, self.b):  # more than the windows, less than the proxy's sockets take
            l7net.sh("nsenter", f"--net={peer.path}", "sh", "-c", "echo 4096 8192 8192 >/proc/sys/net/ipv4/tcp_rmem")
        with self.proxy(tcp=NOW) as p:
            def begin(who):
                pair = self.connect()
                pair[who].sendall(tcpflow.expected(9, 0, 1))
                self.phase(p, "watch")
                pair[who].sendall(tcpflow.expected(9, 1, SOME))
                self.phase(p, "relay")
                return pair, 1 + SOME
            self.each(begin, p)
            self.nothing_left(p)

    def test_stop(self):
        """in STOP: it lasts, since there is no route for the sockets that have to be made"""
        with self.proxy() as p:
            def begin(who):
                pair = self.fast_pair(p)
                to = "10.9.2.2" if who == 0 else "10.9.1.2"
                l7net.ip(f"route add unreachable {to}")
                self.undo = lambda: (time.sleep(0.1), l7net.ip(f"route del unreachable {to}"))
                self.phase(p, "stop")
                return pair, 0
            self.each(begin, p)
            self.nothing_left(p)

    def test_any_moment(self):
        """at any moment while the session goes in, and while it comes back"""
        steps = 40 if l7test.FULL else 5
        with self.proxy(tcp=NOW) as p:
            for i in range(steps):
                def begin(who, i=i):
                    self.again(p)
                    pair = self.connect()
                    self.ping(*pair)
                    time.sleep(i * 12e-3 / steps)
                    return pair, 0
                self.each(begin, p)

                def begin_out(who, i=i):
                    self.again(p)
                    pair = self.fast_pair(p)
                    p.api.post("/admin", {"admin": {"offload_tcp": {"enabled": False}}})
                    time.sleep(i * 12e-3 / steps)
                    return pair, 0
                self.each(begin_out, p)
            self.nothing_left(p)


if __name__ == "__main__":
    l7test.main()
