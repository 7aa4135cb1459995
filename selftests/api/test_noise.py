#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=180
"""What hostile or broken peers send: the proxy continues, others are served, no sanitizer finds anything."""
import os
import random
import re
import socket
import struct
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402

ROUNDS = 400 if l7test.FULL else 60
ECHO = [{"action": {"route": {"destination": {"spec": {"protocol": "Echo"}}}}}]
CONFIG = {"listeners": [l7test.controller()] + [
    {"name": name, "spec": {"protocol": proto, "address": "127.0.0.1", "port": port, **more}, "rules": ECHO}
    for name, proto, port, more in (("tcp", "TCP", 15000, {}), ("udp", "UDP", 15001, {}), ("ws", "WebSocket", 15002, {}),
                                    ("http", "HTTP", 15003, {}))]}
TCP_PORTS = (1234, 15000, 15002, 15003)
WS_HEAD = (b"GET /x HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
           b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")


class Noise(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        random.seed(4711)
        cls.proxy = l7test.Proxy(CONFIG, "-l", "error")
        cls.api = cls.proxy.api

    @classmethod
    def tearDownClass(cls):
        cls.proxy.stop()

    def tearDown(self):
        self.healthy()

    def healthy(self):
        """Every port still serves."""
        self.assertTrue(self.proxy.alive(), self.proxy.stderr()[-3000:])
        self.assertEqual(self.api.get("/config", timeout=60)[0], 200)
        with self.connect(15000) as s:
            s.sendall(b"hello")
            self.assertEqual(s.recv(10), b"hello")
        with l7test.udp_socket() as u:
            u.sendto(b"hello", ("127.0.0.1", 15001))
            self.assertEqual(u.recv(10), b"hello")
        with self.connect(15002) as s:
            s.sendall(WS_HEAD)
            self.assertIn(b"101", s.recv(4096).split(b"\r\n")[0])
            s.sendall(b"\x82\x85\0\0\0\0hello")
            self.assertEqual(s.recv(100), b"\x82\x05hello")
        status, body = l7test.Api(15003).call("POST", "/x", "hello", "text/plain")
        self.assertEqual((status, body), (200, "hello"))

    @staticmethod
    def connect(port, timeout=60):
        s = socket.create_connection(("127.0.0.1", port), timeout)
        s.settimeout(timeout)
        return s

    def ask(self, request, port=1234, timeout=60, shut=True):
        """Sends raw bytes; all that comes back."""
        got = b""
        with self.connect(port, timeout) as s:
            try:
                s.sendall(request)
                if shut:
                    s.shutdown(socket.SHUT_WR)
                while piece := s.recv(65536):
                    got += piece
            except OSError:
                pass
        return got

    def statuses(self, answer):
        return [int(x) for x in re.findall(rb"(?:^|[\r\n}])HTTP/1\.[01] (\d{3})", answer)]

    def test_binary(self):
        """binary noise at the HTTP, WebSocket, TCP and UDP ports"""
        u = l7test.udp_socket()
        for i in range(ROUNDS):
            noise = random.randbytes(random.choice((1, 2, 10, 100, 1000, 9000)))
            for port in TCP_PORTS:
                with self.connect(port) as s:
                    try:
                        s.sendall(noise)
                        if i % 3 == 0:
                            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    except OSError:
                        pass
            u.sendto(noise[:8000], ("127.0.0.1", 15001))
        u.sendto(b"", ("127.0.0.1", 15001))
        u.close()

    def test_request_lines(self):
        """request lines and headers that are none"""
        for r in (b"\r\n\r\n", b"GET\r\n\r\n", b"GET /\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET  /  HTTP/1.1\r\n\r\n",
                  b"get / http/1.1\r\nHost: localhost\r\n\r\n", b"\0\0\0\0\r\n\r\n", b"GET /\0x HTTP/1.1\r\nHost: localhost\r\n\r\n",
                  b"G\xc3\x84T / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET http://localhost/api/v1/config HTTP/1.1\r\n\r\n",
                  b"GET http://example.org/ HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET * HTTP/1.1\r\nHost: localhost\r\n\r\n",
                  b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                  b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /%2e%2e/%2fetc HTTP/1.1\r\nHost: localhost\r\n\r\n",
                  b"GET /api/v1/config?" + b"a=b&" * 2000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
                  b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
                  b"GET / HTTP/1.1\r\nHost: localhost\r\nbroken\r\n\r\n", b"GET / HTTP/1.1\r\n: empty\r\nHost: localhost\r\n\r\n",
                  b"GET / HTTP/1.1\r\nHost: localhost\r\n folded: x\r\n\r\n", b"GET / HTTP/1.1\nHost: localhost\n\n",
                  b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200)):
            for port in (1234, 15002, 15003):
                got = self.statuses(self.ask(r, port))
                self.assertTrue(all(200 <= s < 600 for s in got), (r[:60], got))
                if port == 1234:
                    self.assertTrue(all(s != 200 for s in got) or b"/api/v1" in r, (r[:60], got))
                self.assertNotIn(500, got, r[:60])

    def test_headers(self):
        """huge and many headers are refused, within bounds"""
        before = self.proxy.rss_kb()
        for r in (b"GET /api/v1/config HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 1000000 + b"\r\n\r\n",
                  b"GET /api/v1/config HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"X%d: y\r\n" % i for i in range(5000)) + b"\r\n",
                  b"GET /api/v1/config HTTP/1.1\r\nHost: localhost\r\nCookie: " + b"\xff" * 3000 + b"\r\n\r\n",
                  b"GET /api/v1/config HTTP/1.1\r\nHost: localhost\r\nConnection: " + b"x," * 4000 + b"\r\n\r\n"):
            for _ in range(5):
                for port in (1234, 15002, 15003):
                    self.assertNotIn(500, self.statuses(self.ask(r, port)))
        self.assertLess(self.proxy.rss_kb() - before, 60000)

    def test_smuggling(self):
        """bodies whose length two readers could read in two ways are refused, and end the connection"""
        body = b'{"cluster":{"name":"smuggled","spec":{"protocol":"Echo"}}}'
        inner = (b"POST /api/v1/clusters HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                 b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        head = b"POST /api/v1/clusters HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        for heads in (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                      b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
                      b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
                      b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
                      b"Content-Length: 5, 5\r\n\r\nhello", b"Content-Length: +5\r\n\r\nhello", b"Content-Length: 0x5\r\n\r\nhello",
                      b"Content-Length: -5\r\n\r\nhello", b"Content-Length: 5 5\r\n\r\nhello", b"Content-Length: \r\n\r\n",
                      b"Content-Length: 99999999999999999999999\r\n\r\n",
                      b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
                      b"Transfer-Encoding: identity\r\n\r\n", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                      b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
                      b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
                      b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n5;ext\rhello\r\n0\r\n\r\n",
                      b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n\r\n\r\n"):
            got = self.statuses(self.ask(head + heads + inner))
            self.assertTrue(all(s >= 400 for s in got), (heads, got))
            self.assertEqual(self.api.get("/clusters/smuggled")[0], 404, heads)
        self.assertIn(200, self.statuses(self.ask(inner)))
        self.assertEqual(self.api.delete("/clusters/smuggled")[0], 200)

    def test_host(self):
        """no Host, or two, are refused in HTTP/1.1"""
        for r in (b"GET /api/v1/config HTTP/1.1\r\n\r\n", b"GET /api/v1/config HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n"):
            self.assertEqual(self.statuses(self.ask(r)), [400])

    def test_early_disconnects(self):
        """clients that leave at every point of a request"""
        body = b'{"cluster":{"name":"never","spec":{"protocol":"Echo"}}}'
        r = (b"POST /api/v1/clusters HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
             b"Content-Length: %d\r\n\r\n%s" % (len(body) + 1, body))
        get = b"GET /api/v1/config HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for i in range(ROUNDS):
            for data, port in ((r[:len(r) * i // ROUNDS], 1234), (get, 1234), (r.replace(b"api/v1/clusters", b"x"), 15003),
                               (WS_HEAD[:len(WS_HEAD) * i // ROUNDS + 1], 15002), (WS_HEAD, 15002)):
                with self.connect(port) as s:
                    s.sendall(data)
                    if i % 2:
                        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.assertEqual(self.api.get("/clusters/never")[0], 404)
        # UDP sessions have no end that a peer could tell
        gone = l7test.wait_for(lambda: len([x for x in self.api.get("/sessions")[1] if x["name"][:3] != "UDP"]) == 1, 20)
        self.assertTrue(gone, self.api.get("/sessions")[1][:3])

    def test_slow_loris(self):
        """50 clients that send a byte now and then, while others are served"""
        stop = threading.Event()
        head = b"POST /api/v1/clusters HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"

        def slow(i):
            data = head if i % 2 else head[:-2] + b"X: " + b"y" * 500
            with self.connect(1234, 20) as s:
                try:
                    for b in data[:40 if i % 3 else 200]:
                        s.send(bytes([b]))
                        if stop.wait(0.1):
                            return
                    stop.wait(20)
                except OSError:
                    pass
        clients = [threading.Thread(target=slow, args=(i,), daemon=True) for i in range(50)]
        for c in clients:
            c.start()
        time.sleep(1)
        worst = 0.0
        for _ in range(10):
            t = time.monotonic()
            self.assertEqual(self.api.get("/clusters", timeout=60)[0], 200)
            worst = max(worst, time.monotonic() - t)
            time.sleep(0.2)
        print(f"# slow-loris: worst answer for others {worst:.2f} s")
        with self.connect(15000) as s:
            s.sendall(b"x")
            self.assertEqual(s.recv(10), b"x")
        stop.set()
        for c in clients:
            c.join()
        self.assertLess(worst, 12)

    def test_websocket_frames(self):
        """frames that break RFC 6455 end their connection, not others"""
        good = [self.connect(15002) for _ in range(3)]
        for s in good:
            s.sendall(WS_HEAD)
            self.assertIn(b"101", s.recv(4096))
        for frame in (b"\x82\x05hello", b"\xf2\x85\0\0\0\0hello", b"\x83\x80\0\0\0\0", b"\x89\xfe\x00\xff\0\0\0\0" + bytes(255),
                      b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", b"\x80\x85\0\0\0\0hello", b"\x88\x81\0\0\0\0x",
                      b"\x81\x82\0\0\0\0\xc3\x28", b"\x88\x82\0\0\0\0\x00\x01", b"\x02\x81\0\0\0\0a\x82\x81\0\0\0\0b",
                      random.randbytes(2000), b"\x82\xff\0\0\0\0\x7f\xff\xff\xff\0\0\0\0" + bytes(10000)):
            for cut in (len(frame), len(frame) // 2):
                with self.connect(15002, 3) as s:
                    s.sendall(WS_HEAD)
                    s.recv(4096)
                    try:
                        s.sendall(frame[:cut])
                        s.shutdown(socket.SHUT_WR)
                        while s.recv(65536):
                            pass
                    except OSError:
                        pass
        for s in good:
            s.sendall(b"\x82\x82\0\0\0\0ok")
            self.assertEqual(s.recv(10), b"\x82\x02ok")
            s.close()
        for head in (WS_HEAD.replace(b"13", b"8"), WS_HEAD.replace(b"Upgrade: websocket\r\n", b""), WS_HEAD.replace(b"Connection: Upgrade\r\n", b""),
                     WS_HEAD.replace(b"GET", b"POST")):
            self.assertNotIn(101, self.statuses(self.ask(head, 15002)))

    def test_pipelining(self):
        """many requests in one packet are all answered, in order"""
        get = b"GET /api/v1/clusters HTTP/1.1\r\nHost: localhost\r\n\r\n"
        last = get.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        got = self.statuses(self.ask(get * 20 + last, shut=False))
        self.assertEqual(got, [200] * 21)


if __name__ == "__main__":
    l7test.main()
