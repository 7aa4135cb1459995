#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout_full=900
"""Back-pressure from end to end: the resident memory of the plain build, without a sanitizer's.

L7MP_PLAIN_BUILD names its folder; without it the suite takes build/.
"""
import hashlib
import os
import socket
import time
import unittest

import l7test
from traffic import Case, Peak, TcpServer, cluster, connect, inline, listener, recv_all

MB = 1 << 20
PLAIN = os.environ.get("L7MP_PLAIN_BUILD", "build")
SIZE = (64 if l7test.FULL else 8) * MB
RATE = 2 * MB
BOUND = 10 * 1024


@unittest.skipUnless(os.path.exists(l7test.ROOT / PLAIN / "l7mp-proxy"), f"no plain build in {PLAIN}")
class BackPressure(Case):
    def slow(self, result):
        """A reader of 2 MB/s that keeps a digest; a deadline in real time, so that reads don't add up."""
        def serve(conn, _):
            digest, n, begin = hashlib.sha256(), 0, time.monotonic()
            while data := conn.recv(16384):
                digest.update(data)
                n += len(data)
                ahead = n / RATE - (time.monotonic() - begin)
                if ahead > 0:
                    time.sleep(ahead)
            result.append((n, digest.hexdigest(), time.monotonic() - begin))
            conn.close()
        return serve

    def send(self, port, timeout):
        data = os.urandom(SIZE)
        with connect(port, timeout=timeout) as s:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            recv_all(s)
        return hashlib.sha256(data).hexdigest()

    def run_through(self, *listeners, processes=1):
        result = []
        TcpServer(9001, self.slow(result), rcvbuf=65536)
        proxy = self.start(*listeners, build=PLAIN)
        # Warm: the first sessions bring pools and libraries to their usual size.
        peak = Peak(proxy)
        digest = self.send(9000, SIZE / RATE + 30)
        self.later(lambda: result, SIZE / RATE + 30)
        self.assertEqual(result[0][:2], (SIZE, digest))
        self.assertGreater(result[0][2], SIZE / RATE * 0.8)
        grown = peak.grown()
        self.assertLess(grown, BOUND, f"{grown} KiB")
        return grown

    def test_tcp(self):
        """back-pressure: TCP to TCP with a reader of 2 MB/s: below 10 MB"""
        self.run_through(listener("l", "TCP", 9000, cluster("TCP", 9001)))

    def test_tcp_ws_tcp(self):
        """back-pressure: TCP to WebSocket to TCP through two listeners: whole, below 10 MB"""
        self.run_through(listener("a", "TCP", 9000, cluster("WebSocket", 9002)),
                         listener("b", "WebSocket", 9002, cluster("TCP", 9001)))

    def test_tcp_ws_ws_tcp(self):
        """back-pressure: TCP to WebSocket to WebSocket to TCP, with a Logger between: whole, below 10 MB"""
        self.run_through(listener("a", "TCP", 9000, cluster("WebSocket", 9002)),
                         listener("b", "WebSocket", 9002, cluster("WebSocket", 9003)),
                         listener("c", "WebSocket", 9003, cluster("TCP", 9001),
                                  ingress=[inline("Logger", log_file="/dev/null")]))

    def test_tcp_chain(self):
        """back-pressure: TCP through two listeners and transformers: whole, below 10 MB"""
        self.run_through(listener("a", "TCP", 9000, cluster("TCP", 9002), ingress=[inline("Echo"), inline("Echo")]),
                         listener("b", "TCP", 9002, cluster("TCP", 9001)))

    def test_answers(self):
        """back-pressure: the answers' direction: a client of 2 MB/s, WebSocket to TCP between"""
        data = os.urandom(SIZE)

        def serve(conn, _):
            conn.recv(10)
            conn.sendall(data)
            conn.close()
        TcpServer(9001, serve)
        proxy = self.start(listener("a", "TCP", 9000, cluster("WebSocket", 9002)),
                           listener("b", "WebSocket", 9002, cluster("TCP", 9001)), build=PLAIN)
        peak = Peak(proxy)
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        s.settimeout(SIZE / RATE + 30)
        s.connect(("127.0.0.1", 9000))
        s.sendall(b"go")
        got, begin = bytearray(), time.monotonic()
        while part := s.recv(16384):
            got += part
            ahead = len(got) / RATE - (time.monotonic() - begin)
            if ahead > 0:
                time.sleep(ahead)
        s.close()
        self.assertEqual(hashlib.sha256(got).digest(), hashlib.sha256(data).digest())
        grown = peak.grown()
        self.assertLess(grown, BOUND, f"{grown} KiB")

    def test_http(self):
        """back-pressure: an HTTP body to a TCP cluster of 2 MB/s: whole, below 10 MB"""
        result = []
        TcpServer(9001, self.slow(result), rcvbuf=65536)
        proxy = self.start(listener("h", "HTTP", 9000, cluster("TCP", 9001)), build=PLAIN)
        data = os.urandom(SIZE)
        peak = Peak(proxy)
        with connect(9000, timeout=SIZE / RATE + 30) as s:
            s.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % SIZE)
            s.sendall(data)
            recv_all(s)
        self.later(lambda: result)
        self.assertEqual(result[0][:2], (SIZE, hashlib.sha256(data).hexdigest()))
        grown = peak.grown()
        self.assertLess(grown, BOUND, f"{grown} KiB")


if __name__ == "__main__":
    l7test.main()
