#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=180
"""RFC 6455 from an independent client and an independent server, frame by frame (wsraw.py): what Autobahn's
test suite asks in its basic chapters, of our listener and of our cluster.

A relay of ours stands between a raw client and a raw server on ports 9001 and 9101, so that what comes out
behind it can be seen; an Echo on 9000. docs/protocols.md says what each fault leads to.
"""
import ctypes
import ctypes.util
import os
import random
import re
import socket
import sys
import time
import unittest

import l7test
import wsraw
from traffic import cluster, inline, listener
from wsraw import BINARY, CLOSE, CONT, PING, PONG, TEXT, Server, close_payload, connect, encode, request

SIZES = (0, 1, 125, 126, 127, 128, 65535, 65536, 1 << 20)
LIMIT = 16 << 20  # of a message
VALID = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)
NEW_CODES = (1012, 1013, 1014)  # that IANA registered after RFC 6455
INVALID = (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
# Text that is no UTF-8: what is wrong, and the bytes.
NO_UTF8 = {
    "a byte that never occurs": b"fine \xff", "a continuation first": b"\x80abc", "overlong": b"\xc0\xaf",
    "overlong, three bytes": b"\xe0\x80\xaf", "a surrogate": b"x\xed\xa0\x80", "beyond U+10FFFF": b"\xf4\x90\x80\x80",
    "five bytes": b"\xf8\x88\x80\x80\x80", "cut short": b"abc\xe2\x82", "cut by an ASCII byte": b"\xe2\x82A",
}
# Frames that break the protocol, as (opcode, payload, keys of wsraw.encode): closed with 1002.
BROKEN = {
    **{f"reserved bits {rsv}": [(TEXT, b"x", {"rsv": rsv})] for rsv in range(1, 8)},
    "reserved bit on a ping": [(PING, b"x", {"rsv": 4})],
    **{f"opcode {op}": [(op, b"x", {})] for op in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "opcode 3 without payload": [(3, b"", {})],
    "a continuation of nothing": [(CONT, b"x", {})],
    "an unfinished continuation of nothing": [(CONT, b"x", {"fin": False})],
    "a continuation after a whole message": [(TEXT, b"x", {}), (CONT, b"y", {})],
    "text within a message": [(TEXT, b"x", {"fin": False}), (TEXT, b"y", {})],
    "binary within a message": [(TEXT, b"x", {"fin": False}), (CONT, b"y", {"fin": False}), (BINARY, b"z", {})],
    "a ping in fragments": [(PING, b"x", {"fin": False}), (CONT, b"y", {})],
    "a pong in fragments": [(PONG, b"x", {"fin": False})],
    "a Close frame in fragments": [(CLOSE, close_payload(1000), {"fin": False})],
    "a ping of 126 bytes": [(PING, bytes(126), {})],
    "a pong of 126 bytes": [(PONG, bytes(126), {})],
    "a Close frame of 126 bytes": [(CLOSE, close_payload(1000, b"r" * 124), {})],
    "a ping with a 64-bit length": [(PING, b"x", {"width": 64})],
    "a length of 2^63": [(BINARY, b"abc", {"length": 1 << 63, "width": 64})],
    "a Close frame of one byte": [(CLOSE, b"x", {})],
}


class Conformance(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(9101)
        config = {"admin": {"offload": "disable"}, "listeners": [
            l7test.controller(1234),
            listener("echo", "WebSocket", 9000, inline("Echo"), options={"track": 600}),
            listener("relay", "WebSocket", 9001, cluster("WebSocket", 9101), options={"track": 600}),
            listener("path", "WebSocket", 9002, inline("Echo"), path="/only"),
            listener("bytes", "TCP", 9003, cluster("WebSocket", 9101)),
        ]}
        lean = os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=1"  # for the test of memory
        cls.proxy = l7test.Proxy(config, "-l", "info", "-s", env={"ASAN_OPTIONS": lean})
        cls.api = cls.proxy.api

    @classmethod
    def tearDownClass(cls):
        cls.server.close()
        cls.proxy.stop()

    def tearDown(self):
        self.doCleanups()  # hangs up

        def none():
            return not [s for s in self.api.get("/sessions")[1] if s["status"] != "DESTROYED"
                        and s["source"]["listener"] != "controller-listener"]
        self.assertTrue(l7test.wait_for(none, 12), "a session is left")

    def echo(self, **kw):
        peer = connect(9000, **kw)
        self.addCleanup(peer.close)
        return peer

    def pair(self, **kw):
        """A client, and the server's end of the session that it made."""
        peer = connect(9001, **kw)
        self.addCleanup(peer.close)
        up = self.server.accept()
        self.addCleanup(up.close)
        return peer, up

    def error(self):
        """The error of the newest session."""
        def look():
            s = [s for s in self.api.get("/sessions")[1] if s["source"]["listener"] in ("echo", "relay")]
            return s[-1]["status"] == "DESTROYED" and s[-1]
        s = l7test.wait_for(look, 10)
        self.assertTrue(s, "the session did not end")
        return " ".join(e.get("message") or "" for e in s["events"] if e["event"] == "ERROR")

    def frames(self, peer, frames):
        peer.sock.sendall(b"".join(peer.frame(op, data, **kw) for op, data, kw in frames))

    # ---- messages ----

    def test_sizes(self):
        """conformance: text and binary of 0 bytes to 1 MiB come back as they were, and pass a relay"""
        peer = self.echo()
        both = self.pair()
        for size in SIZES:
            data = random.Random(size).randbytes(size)
            for opcode, payload in ((BINARY, data), (TEXT, data.hex()[:size].encode())):
                peer.send(opcode, payload)
                self.assertEqual(peer.message(), (opcode, payload), size)
                for a, b in (both, both[::-1]):
                    a.send(opcode, payload)
                    self.assertEqual(b.message(), (opcode, payload), size)
        both[0].send_close(1000)
        both[1].closed()

    def test_masks(self):
        """conformance: any masking key; we mask as a client with keys that change, never as a server"""
        peer, up = self.pair()
        for key in (bytes(4), b"\xff" * 4, b"\0\0\0\1", b"\1\0\0\0"):
            peer.send(BINARY, b"abcdefg", mask=key)
            self.assertEqual(up.message(), (BINARY, b"abcdefg"))
        keys = set()
        for _ in range(8):
            peer.send(BINARY, bytes(16))
            self.assertTrue(up._need(22))
            keys.add(up.raw[2:6])
            self.assertTrue(up.recv().masked)
        self.assertGreater(len(keys), 6)
        up.send(BINARY, b"down")
        self.assertFalse(peer.recv().masked)

    def test_fragments(self):
        """conformance: fragments become one message, pings between them are answered at once"""
        peer = self.echo()
        for parts in ((b"", b""), (b"one", b""), (b"", b"two"), (b"a", b"b", b"c"), tuple(b"%d" % n for n in range(500))):
            peer.send(TEXT, parts[0], fin=False)
            for p in parts[1:-1]:
                peer.send(CONT, p, fin=False)
            peer.send(CONT, parts[-1])
            self.assertEqual(peer.message(), (TEXT, b"".join(parts)))
        peer.send(BINARY, b"x", fin=False)
        for n in range(3):
            peer.send(PING, b"%d" % n)
            self.assertEqual(peer.recv()[2::2], (PONG, b"%d" % n))
            peer.send(CONT, b"y", fin=False)
        peer.send(PONG, b"nobody asked")
        peer.send(CONT, b"z")
        self.assertEqual(peer.message(), (BINARY, b"xyyyz"))

    def test_bytewise(self):
        """conformance: handshake and frames that arrive byte by byte; many frames in one segment"""
        peer = self.echo(bytewise=True)
        frames = [(TEXT, b"\xc3\xa4" * 30), (BINARY, bytes(200)), (PING, b"ping"), (TEXT, b"")]
        for opcode, data in frames:
            for i in range(len(raw := peer.frame(opcode, data))):
                peer.sock.sendall(raw[i:i + 1])
            if opcode == PING:
                self.assertEqual(peer.recv()[2::2], (PONG, data))
            else:
                self.assertEqual(peer.message(), (opcode, data))
        peer.sock.sendall(b"".join(peer.frame(BINARY, b"%d" % n) for n in range(1000)))
        self.assertEqual([peer.message()[1] for _ in range(1000)], [b"%d" % n for n in range(1000)])

    def test_right_behind(self):
        """conformance: frames in the same segment as the handshake are not lost; neither a server's"""
        first = encode(TEXT, b"first", mask=b"abcd")
        peer = self.echo(behind=first)
        self.assertEqual(peer.message(), (TEXT, b"first"))
        plain = Server.agree
        self.server.agree = lambda head: plain(head) + encode(TEXT, b"hello")
        try:
            peer, _ = self.pair(behind=first)
        finally:
            del self.server.agree
        self.assertEqual(peer.message(), (TEXT, b"hello"))
        self.assertEqual(_.message(), (TEXT, b"first"))

    # ---- control frames ----

    def test_pings(self):
        """conformance: a ping of 0 to 125 bytes gets its bytes back, from listener and cluster; it is not passed on"""
        peer, up = self.pair()
        for a, b in ((peer, up), (up, peer)):
            for size in (0, 1, 2, 64, 124, 125):
                a.send(PING, bytes(range(size)))
                self.assertEqual(a.recv()[2::2], (PONG, bytes(range(size))))
            a.send(TEXT, b"behind the pings")
            self.assertEqual(b.recv()[2::2], (TEXT, b"behind the pings"))

    def test_many_pings(self):
        """conformance: of many pings at once some are answered, in order, and messages continue"""
        for peer in (self.echo(), *self.pair()):
            self.assertTrue(self.burst(peer))

    def burst(self, peer):
        """A hundred pings in one segment: the numbers of those that are answered."""
        peer.sock.sendall(b"".join(peer.frame(PING, b"%d" % n) for n in range(100)))
        time.sleep(0.2)
        peer.send(PING, b"100")
        got = []
        while not got or got[-1] != 100:
            f = peer.recv()
            self.assertEqual(f.opcode, PONG)
            got.append(int(f.data))
        self.assertEqual(got, sorted(set(got)))
        return got[:-1]

    def test_pong_flood(self):
        """conformance: pings without end from a peer that reads nothing grow no memory"""
        peer = self.echo()
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        peer.sock.setblocking(False)
        ping = peer.frame(PING, bytes(125)) * 500
        before, end, at = self.proxy.rss_kb(), time.monotonic() + 1.5, 0
        while time.monotonic() < end:
            try:
                at = (at + peer.sock.send(ping[at:])) % len(ping)
            except BlockingIOError:
                time.sleep(0.01)
        self.assertLess(self.proxy.rss_kb() - before, 20 * 1024)
        peer.reset()

    def test_pongs(self):
        """conformance: pongs that nobody asked for are ignored"""
        peer, up = self.pair()
        for a, b in ((peer, up), (up, peer)):
            for size in (0, 5, 125):
                a.send(PONG, bytes(size))
            a.send(TEXT, b"x")
            self.assertEqual(b.recv()[2::2], (TEXT, b"x"))

    # ---- faults ----

    def test_broken_client(self):
        """conformance: a client that breaks the protocol is closed with 1002; its upstream is dropped"""
        for what, frames in BROKEN.items():
            with self.subTest(what):
                peer, up = self.pair()
                self.frames(peer, frames)
                self.assertEqual(peer.closed(), 1002)
                self.assertIn(up.closed(), (None, 1002))
                peer.close()
                self.assertIn("source: WebSocket", self.error())

    def test_broken_server(self):
        """conformance: a server that breaks the protocol is closed with 1002; the client is dropped"""
        for what, frames in BROKEN.items():
            with self.subTest(what):
                peer, up = self.pair()
                self.frames(up, frames)
                self.assertEqual(up.closed(), 1002)
                up.close()
                self.assertIn(peer.closed(), (None, 1002))
                self.assertIn("destination", self.error())

    def test_utf8(self):
        """conformance: text that is not UTF-8 is answered with 1007, also in fragments; it is not passed on"""
        for what, data in NO_UTF8.items():
            with self.subTest(what):
                for cut in {0, 1, len(data) - 1, len(data)}:
                    for n in (0, 1):
                        ends = self.pair()
                        a, b = ends[n], ends[1 - n]
                        if cut in (0, len(data)):
                            a.send(TEXT, data)
                        else:
                            self.frames(a, [(TEXT, data[:cut], {"fin": False}), (CONT, data[cut:], {})])
                        self.assertEqual(a.closed(), 1007)
                        a.close()
                        self.assertIsNone(b.message())
                        b.close()
        text = "grüße, κόσμε, 日本語, 🂡".encode()
        peer = self.echo()
        for cut in range(1, len(text)):
            self.frames(peer, [(TEXT, text[:cut], {"fin": False}), (CONT, text[cut:], {})])
            self.assertEqual(peer.message(), (TEXT, text))
        for i in range(len(text)):
            peer.send(CONT if i else TEXT, text[i:i + 1], fin=i == len(text) - 1)
        self.assertEqual(peer.message(), (TEXT, text))
        peer.send(BINARY, b"\xff\xfe")
        self.assertEqual(peer.message(), (BINARY, b"\xff\xfe"))

    def test_oversized(self):
        """conformance: 16 MiB pass; one byte more, announced or in fragments, is answered with 1009"""
        peer = self.echo()
        data = bytes(LIMIT)
        peer.send(BINARY, data, mask=bytes(4))
        self.assertEqual(peer.message(), (BINARY, data))
        for n in (0, 1):
            ends = self.pair()
            ends[n].send(BINARY, bytes(1 << 16), length=LIMIT + 1)  # only the begin of it
            self.assertEqual(ends[n].closed(), 1009)
            ends[n].close()
            self.assertIsNone(ends[1 - n].message())
            self.assertIn("more than 16777216 bytes", self.error())
        peer = self.echo()
        part = peer.frame(CONT, bytes(1 << 20), fin=False, mask=bytes(4))
        peer.send(BINARY, b"x", fin=False)
        try:
            for _ in range(17):
                peer.sock.sendall(part)
        except ConnectionError:
            pass
        self.assertIn(peer.closed(), (1009, None))
        self.assertIn("more than 16777216 bytes", self.error())

    # ---- closing ----

    def test_close_codes(self):
        """conformance: a close code that may be sent is passed on and answered, in both directions"""
        for code in VALID:
            for n in (0, 1):
                ends = self.pair()
                a, b = ends[n], ends[1 - n]
                a.send_close(code, b"why")
                self.assertEqual(b.closed(), code)
                b.send_close(code)
                self.assertEqual(a.closed(), code)
                self.assertEqual(a.gone() + b.gone(), 0)

    def test_bad_close_codes(self):
        """conformance: a close code that may not be sent is answered with 1002, which the other side gets"""
        for code in INVALID:
            for n in (0, 1):
                with self.subTest(code=code, end=n):
                    ends = self.pair()
                    a, b = ends[n], ends[1 - n]
                    a.send_close(code)
                    self.assertEqual(a.closed(), 1002)
                    a.close()
                    self.assertIn(b.closed(), (None, 1002))

    def test_close_payloads(self):
        """conformance: a Close frame without a code is passed on as 1000; a reason that is no UTF-8: 1007"""
        for n in (0, 1):
            ends = self.pair()
            a, b = ends[n], ends[1 - n]
            a.send_close()
            self.assertIn(b.closed(), (1000, 0))
            b.send_close(1000)
            self.assertIn(a.closed(), (0, 1000))
            ends = self.pair()
            a, b = ends[n], ends[1 - n]
            a.send_close(1000, "grüße ".encode() * 15)
            self.assertEqual(b.closed(), 1000)
            b.send_close(1000)
            self.assertEqual(a.closed(), 1000)
            for bad in (b"\xff", b"\xe2\x82"):
                ends = self.pair()
                a, b = ends[n], ends[1 - n]
                a.send_close(1000, bad)
                self.assertEqual(a.closed(), 1007)
                a.close()
                self.assertIn(b.closed(), (None, 1007))

    def test_after_close(self):
        """conformance: what comes behind a Close frame is ignored, another one too"""
        peer, up = self.pair()
        peer.sock.sendall(b"".join((peer.frame(TEXT, b"before"), peer.frame(CLOSE, close_payload(4001)),
                                    peer.frame(TEXT, b"after"), peer.frame(PING, b"x"),
                                    peer.frame(CLOSE, close_payload(4002)))))
        self.assertEqual(up.message(), (TEXT, b"before"))
        self.assertEqual(up.closed(), 4001)
        up.send_close(4001)
        self.assertEqual(peer.closed(), 4001)
        self.assertEqual(peer.gone(), 0)

    def test_queued_before_close(self):
        """conformance: all that was sent before a Close frame arrives before it, and the code with it"""
        for n in (0, 1):
            ends = self.pair()
            a, b = ends[n], ends[1 - n]
            a.sock.sendall(b"".join(a.frame(BINARY, bytes(60000)) for _ in range(100)) +
                           a.frame(CLOSE, close_payload(4321)))
            for _ in range(100):
                self.assertEqual(len(b.message()[1]), 60000)
            self.assertEqual(b.closed(), 4321)
            b.send_close(4321)

    def test_close_while_busy(self):
        """conformance: a Close frame from a peer that has much to read yet passes its code on, and is answered"""
        for n in (0, 1):
            ends = self.pair()
            a, b = ends[n], ends[1 - n]
            for _ in range(60):
                b.send(BINARY, bytes(60000))
            time.sleep(0.2)
            a.send_close(4007)
            self.assertEqual(b.closed(), 4007)
            b.send_close(4007)
            got = 0
            while (f := a.recv()) and f.opcode == BINARY:
                got += 1
            self.assertTrue(f and f.opcode == CLOSE, f)
            self.assertGreater(got, 20)  # what was on its way; the rest nobody wants any more

    def test_answer_is_late(self):
        """conformance: a peer that does not answer our Close frame is dropped after 5 s"""
        peer, up = self.pair()
        peer.send_close(1001)
        self.assertEqual(up.closed(), 1001)
        begin = time.monotonic()
        up.gone()
        self.assertTrue(3 < time.monotonic() - begin < 8, time.monotonic() - begin)

    def test_half_open(self):
        """conformance: connections that end without a Close frame, also in the midst of a frame"""
        for n in (0, 1):
            for tail in (b"", b"\x82", encode(BINARY, bytes(1000))[:500]):
                ends = self.pair()
                a, b = ends[n], ends[1 - n]
                a.send(TEXT, b"x")
                self.assertEqual(b.message(), (TEXT, b"x"))
                if n == 0 and tail[1:]:
                    tail = a.frame(BINARY, bytes(1000))[:500]
                a.sock.sendall(tail)
                a.sock.shutdown(socket.SHUT_WR)
                self.assertIn(b.closed(), (None, 1001, 1002, 1011))
                self.assertIn("without a Close frame", self.error())
                a.close()
                b.close()
            ends = self.pair()
            ends[n].reset()
            self.assertIn(ends[1 - n].closed(), (None, 1001, 1011))
            ends[1 - n].close()
            self.error()

    # ---- handshakes ----

    def refused(self, data, port=9000):
        with socket.create_connection(("127.0.0.1", port), 30) as s:
            s.sendall(data)
            head, rest = wsraw.read_head(s)
            while part := s.recv(65536):
                rest += part
        line = head.split(b"\r\n")[0].split(b" ")
        return int(line[1]) if len(line) > 1 else None, head, rest

    def test_handshakes(self):
        """conformance: handshakes that are refused, and with what"""
        for what, want, data in (
                ("no key", 400, request(Sec_WebSocket_Key=None)),
                ("no Host", 400, request(Host=None)),
                ("a key of another size", 400, request(key="c2hvcnQ=")),
                ("a key that is no base64", 400, request(key="!!!!!!!!!!!!!!!!!!!!!!==")),
                ("version 12", 426, request(version="12")),
                ("no version", 426, request(Sec_WebSocket_Version=None)),
                ("no Upgrade", 426, request(Upgrade=None)),
                ("another Upgrade", 426, request(Upgrade="h2c")),
                ("no Connection", 426, request(Connection=None)),
                ("POST", 405, request(method="POST")),
                ("HTTP/1.0", 505, request(http="HTTP/1.0")),
                ("noise", 400, b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n"),
                ("no request line", 400, b"\r\nnothing\r\n\r\n"),
                ("a broken header", 400, request(Upgrade="websocket\r\nno colon")),
                ("17 KiB", 431, request(X="a" * 17000))):
            with self.subTest(what):
                status, head, body = self.refused(data)
                self.assertEqual(status, want, head)
                self.assertIn(b'"status"', body)
                if want == 426:
                    self.assertEqual(wsraw.answer_header(head, "Sec-WebSocket-Version"), b"13")
                if want == 405:
                    self.assertEqual(wsraw.answer_header(head, "Allow"), b"GET")
        self.assertEqual(self.refused(request("/other"), 9002)[0], 404)
        self.assertEqual(self.refused(request("/only/more"), 9002)[0], 404)
        connect(9002, path="/only").close()
        connect(9002, path="/only?query=1").close()

    def test_handshake_variants(self):
        """conformance: handshakes that are fine: any case, lists, absolute URL, unknown headers and extensions"""
        for head in ({"Upgrade": "WebSocket"}, {"Connection": "keep-alive, Upgrade"}, {"Connection": "UPGRADE"},
                     {"Sec_WebSocket_Extensions": "permessage-deflate; client_max_window_bits"}, {"X_Long": "a" * 8000},
                     {"Origin": "http://example.org"}):
            peer = connect(9000, **head)
            self.assertIsNone(wsraw.answer_header(peer.head, "Sec-WebSocket-Extensions"))
            peer.send(TEXT, b"x")
            self.assertEqual(peer.message(), (TEXT, b"x"), head)
            peer.close()
        peer = connect(9000, path="http://127.0.0.1:9000/a")
        peer.send(TEXT, b"x")
        self.assertEqual(peer.message(), (TEXT, b"x"))
        peer.close()
        peer = connect(9000, Sec_WebSocket_Protocol="chat, superchat")  # Echo has none
        self.assertIsNone(wsraw.answer_header(peer.head, "Sec-WebSocket-Protocol"))
        peer.close()
        connect(9000).close()

    def test_slow_handshake(self):
        """conformance: a handshake that does not come within 5 s is cut, with 408; a silent one too"""
        begin = time.monotonic()
        slow = socket.create_connection(("127.0.0.1", 9000), 15)
        mute = socket.create_connection(("127.0.0.1", 9000), 15)
        slow.sendall(request()[:-20])
        self.assertIn(b" 408 ", wsraw.read_head(slow)[0])
        wsraw.read_head(mute)
        self.assertTrue(4 < time.monotonic() - begin < 9)
        slow.close()
        mute.close()

    def test_server_handshakes(self):
        """conformance: a server that does not agree, or not to us, is a failed connect; the client gets a 502"""
        accept = Server.agree
        for what, answer in (
                ("200", lambda h: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"),
                ("302", lambda h: b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"),
                ("401", lambda h: b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"),
                ("a wrong accept", lambda h: accept(h).replace(b"Accept: ", b"Accept: x")),
                ("no accept", lambda h: accept(h).replace(b"Sec-WebSocket-Accept", b"X-Accept")),
                ("no Upgrade", lambda h: accept(h).replace(b"Upgrade: websocket\r\n", b"")),
                ("a subprotocol that was not offered",
                 lambda h: accept(h).replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: chat\r\n\r\n")),
                ("an extension that was not offered",
                 lambda h: accept(h).replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n")),
                ("noise", lambda h: b"\0\1\2\3" * 100 + b"\r\n\r\n"),
                ("an endless head", lambda h: b"HTTP/1.1 101 OK\r\n" + b"X: y\r\n" * 10000)):
            with self.subTest(what):
                self.server.agree = answer
                try:
                    with self.assertRaisesRegex(ConnectionError, "HTTP/1.1 50[24] "):
                        self.pair()
                    self.server.accept().close()
                    self.assertIn("destination", self.error())
                finally:
                    del self.server.agree

    # ---- what libwebsockets does otherwise ----

    def pings_last(self):
        for peer in (self.echo(), *self.pair()):
            self.assertIn(99, self.burst(peer))

    def unmasked_client(self):
        for opcode, data in ((TEXT, b"hello"), (BINARY, b""), (PING, b"")):
            peer, _ = self.pair()
            peer.send(opcode, data, mask=None)
            peer.sock.settimeout(3)
            self.assertEqual(self.closed_in_time(peer), 1002)

    def masked_server(self):
        for opcode, data in ((TEXT, b"hello"), (BINARY, b""), (PING, b"")):
            _, up = self.pair()
            up.send(opcode, data, mask=b"abcd")
            self.assertEqual(self.closed_in_time(up), 1002)

    def new_codes(self, n):
        for code in NEW_CODES:
            ends = self.pair()
            ends[n].send_close(code)
            self.assertEqual(ends[1 - n].closed(), code)

    def new_codes_of_clients(self):
        self.new_codes(0)

    def new_codes_of_servers(self):
        self.new_codes(1)

    @staticmethod
    def closed_in_time(peer):
        peer.sock.settimeout(3)
        try:
            return peer.closed()
        except TimeoutError:
            return "not closed"


# What RFC 6455 asks for, where it is not what libwebsockets does; in which versions, and what it does.
DEVIATIONS = (
    (Conformance.pings_last, {"4.1", "4.3"}, "Of many pings that come at once the last one is answered (5.5.3)",
     "one of them is, not always the last"),
    (Conformance.unmasked_client, {"4.1", "4.3"}, "A client's frame without a mask ends the connection with 1002 (5.1)",
     "it is taken"),
    (Conformance.masked_server, {"4.1"}, "A server's frame with a mask ends the connection with 1002 (5.1)",
     "it is taken"),
    (Conformance.new_codes_of_clients, {"4.1", "4.3"}, "The close codes 1012, 1013 and 1014 of a client are passed on",
     "they become 1002"),
    (Conformance.new_codes_of_servers, {"4.1"}, "The close codes 1012, 1013 and 1014 of a server are passed on",
     "they become 1002"),
)


def version():
    """Of the libwebsockets that this machine's programs run with: 4.1.6."""
    lib = ctypes.CDLL(ctypes.util.find_library("websockets"))
    lib.lws_get_library_version.restype = ctypes.c_char_p
    return re.match(r"[\d.]+", lib.lws_get_library_version().decode()).group()


def table():
    """For docs/protocols.md: `test_ws_conformance.py --table` prints it."""
    yield "| What RFC 6455 asks for | 4.1.6 (Debian 12) | 4.3.5 (Debian 13) |"
    yield "| --- | --- | --- |"
    for _, versions, want, does in DEVIATIONS:
        yield f"| {want} | " + " | ".join(does if v in versions else "yes" for v in ("4.1", "4.3")) + " |"


def expect(check, versions, want):
    def test(self):
        deviates = version().rsplit(".", 1)[0] in versions
        try:
            check(self)
        except AssertionError:
            if not deviates:
                raise
            return
        self.assertFalse(deviates, f"libwebsockets {version()} does it right: take it off the list, here and in the docs")
    test.__doc__ = f"conformance: known deviation: {want}"
    return test


for _check, _versions, _want, _ in DEVIATIONS:
    setattr(Conformance, "test_known_" + _check.__name__, expect(_check, _versions, _want))


class Docs(unittest.TestCase):
    def test_table(self):
        """conformance: docs/protocols.md has the table of what is not as RFC 6455 asks"""
        text = (l7test.ROOT / "docs/protocols.md").read_text()
        self.assertTrue("\n".join(table()) in text, "put there what test_ws_conformance.py --table prints")


if __name__ == "__main__":
    if "--table" in sys.argv:
        print("\n".join(table()))
    else:
        l7test.main()
