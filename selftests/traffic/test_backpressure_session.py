#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: alone timeout=180 timeout_full=600
"""Back-pressure within one session: first a reader of 2 MB/s, then one without a throttle.

TCP -> WebSocket -> TCP through two listeners of one proxy, with the resident memory of the plain build
(L7MP_PLAIN_BUILD names its folder; without it build/): below 10 MB over idle all the time, bytes exact.
"""
import hashlib
import os
import threading
import time
import unittest

import l7test
from traffic import Case, Peak, TcpServer, cluster, connect, listener

MB = 1 << 20
PLAIN = os.environ.get("L7MP_PLAIN_BUILD", "build")
SLOW = (64 if l7test.FULL else 6) * MB
FAST = (1024 if l7test.FULL else 64) * MB
RATE = 2 * MB
BOUND = 10 * 1024  # KiB


class Source:
    """Bytes that are cheap to make and differ everywhere: a block with a counter in each 4 KiB of it."""

    def __init__(self):
        self.block, self.n, self.digest = bytearray(os.urandom(65536)), 0, hashlib.sha256()

    def __call__(self):
        for at in range(0, 65536, 4096):
            self.block[at:at + 8] = self.n.to_bytes(8, "big")
            self.n += 1
        self.digest.update(self.block)
        return self.block


@unittest.skipUnless(os.path.exists(l7test.ROOT / PLAIN / "l7mp-proxy"), f"no plain build in {PLAIN}")
class OneSession(Case):
    def transfer(self, size, sender, receiver, rate, peak):
        """`size` bytes from one end to the other; the receiver's digest must be the sender's."""
        source, begin = Source(), time.monotonic()
        sent = []

        def send():
            for _ in range(size // 65536):
                sender.sendall(source())
            sent.append(time.monotonic() - begin)
        t = threading.Thread(target=send, daemon=True)
        t.start()
        digest, n, view = hashlib.sha256(), 0, memoryview(bytearray(1 << 17))
        while n < size:
            got = receiver.recv_into(view[:16384] if rate else view)
            self.assertTrue(got, f"ended after {n} bytes")
            digest.update(view[:got])
            n += got
            ahead = n / rate - (time.monotonic() - begin) if rate else 0
            if ahead > 0:
                time.sleep(ahead)
        t.join(10)
        self.assertEqual((n, digest.hexdigest()), (size, source.digest.hexdigest()))
        grown = peak.top - peak.begin
        self.assertLess(grown, BOUND, f"{grown} KiB over idle")
        return time.monotonic() - begin

    def run_both(self, *listeners):
        accepted = []
        TcpServer(9001, lambda conn, _: (accepted.append(conn), time.sleep(3600)), rcvbuf=65536)
        proxy = self.start(*listeners, build=PLAIN)
        peak = Peak(proxy)
        with connect(9000, timeout=600) as client:
            server = self.later(lambda: accepted)[0]
            server.settimeout(60)
            for a, b in ((client, server), (server, client)):
                slow = self.transfer(SLOW, a, b, RATE, peak)
                self.assertGreater(slow, SLOW / RATE * 0.9)
                self.transfer(FAST, a, b, None, peak)
                if not l7test.FULL:
                    break
            names = [s["name"] for s in self.sessions("TCP:")]
            self.assertEqual(len(names), 1)
        print(f"# {peak.grown()} KiB over idle")

    def test_one_proxy(self):
        """back-pressure: one session, TCP to WebSocket to TCP: a slow reader, then an unthrottled one; below 10 MB"""
        self.run_both(listener("a", "TCP", 9000, cluster("WebSocket", 9002)),
                      listener("b", "WebSocket", 9002, cluster("TCP", 9001)))


if __name__ == "__main__":
    l7test.main()
