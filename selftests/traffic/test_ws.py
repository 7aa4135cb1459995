#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""WebSocket listeners and clusters against Python's independent implementation."""
import asyncio
import os
import random
import socket
import struct
import threading
import time

import l7test
import websockets
import wsraw
from l7test import udp_socket
from traffic import (Case, Peak, TcpServer, UdpEcho, WsServer, cluster, connect, echo, flood, inline, listener, recv_all,
                     recv_exact, retry)

MB = 1 << 20


def client(port, path="/", host="127.0.0.1", **kw):
    options = {"max_size": None, "compression": None}
    options.update(kw)
    return websockets.connect(f"ws://{host}:{port}{path}", **options)


def timed(coroutine, seconds=20):
    async def go():
        return await asyncio.wait_for(coroutine, seconds)
    return asyncio.run(go())


class WebSocket(Case):
    def status(self, *args, **kw):
        """What a handshake is refused with."""
        async def go():
            async with client(*args, **kw):
                pass
        with self.assertRaises(websockets.InvalidStatusCode) as e:
            timed(go())
        return e.exception.status_code

    def test_refusals_before_101(self):
        """ws: no rule, a silent upstream and a wrong Origin are answered with a status in the place of 101"""
        TcpServer(9001, lambda conn, _: time.sleep(20))
        self.start(listener("a", "WebSocket", 9000, inline("Echo"), match={"op": "contains", "path": "HTTP/url/path",
                                                                         "value": "/yes"}),
                   listener("b", "WebSocket", 9002, cluster("WebSocket", 9001), retry=retry("never", 0, 500)),
                   listener("c", "WebSocket", 9003, inline("Echo"), origins=["https://a.example"]))
        self.assertEqual(self.status(9000, "/no"), 404)
        self.assertEqual(self.status(9002), 504)
        self.assertEqual(self.status(9003, origin="https://b.example"), 403)

        async def go():
            async with client(9000, "/yes"):
                pass
            async with client(9003, origin="https://a.example"):
                pass
            async with client(9003):  # not a browser
                pass
        timed(go())

    def test_subprotocols(self):
        """ws to ws: the client is told what the upstream has chosen, and nothing that it did not offer"""
        WsServer(9001, subprotocols=["b", "c"])
        self.start(listener("pass", "WebSocket", 9000, cluster("WebSocket", 9001)),
                   listener("fixed", "WebSocket", 9002, cluster("WebSocket", 9001, subprotocol="c")),
                   listener("own", "WebSocket", 9003, inline("Echo"), subprotocol=["y", "x"]),
                   listener("none", "WebSocket", 9004, inline("Echo")))

        async def go():
            told = []
            for port, offer in ((9000, ["a", "b"]), (9000, ["c", "b"]), (9000, ["z"]), (9002, ["a", "c"]),
                                (9002, ["b"]), (9003, ["x", "y"]), (9003, ["a"]), (9004, ["a"])):
                async with client(port, subprotocols=offer) as ws:
                    await ws.send("x")
                    await ws.recv()
                    told.append(ws.subprotocol)
            return told
        told = timed(go())
        self.assertIn(told[1], ("b", "c"))  # as the server's library prefers
        self.assertEqual(told[:1] + told[2:], ["b", None, "c", None, "y", None, None])

    def test_bind(self):
        """ws: a cluster's bind address and port are what the upstream sees"""
        server = WsServer(9001)
        self.start(listener("l", "WebSocket", 9000, cluster("WebSocket", 9001,
                                                            bind={"address": "127.0.0.77", "port": 9555})))

        async def go():
            async with client(9000) as ws:
                await ws.send("x")
                self.assertEqual(await ws.recv(), "x")
        timed(go())
        self.assertEqual(server.peers[0].remote_address[:2], ("127.0.0.77", 9555))

    def test_deflate_declined(self):
        """ws: clients and servers that would compress are not agreed with, and all works uncompressed"""
        server = WsServer(9001, compression="deflate", max_size=None)
        self.start(listener("l", "WebSocket", 9000, cluster("WebSocket", 9001)))

        async def go():
            async with client(9000, compression="deflate") as ws:
                self.assertEqual(ws.extensions, [])
                for m in ("", "", "a" * 100_000):
                    await ws.send(m)
                    self.assertEqual(await ws.recv(), m)
        timed(go())
        self.assertEqual(server.peers[0].extensions, [])

    def test_limit_before_101(self):
        """ws: a client beyond the limit of sessions is answered 503"""
        self.start(listener("l", "WebSocket", 9000, inline("Echo")), admin={"limits": {"max_sessions_per_source": 3}})

        async def go():
            held = []
            try:
                for _ in range(10):
                    held.append(await client(9000))
            except websockets.InvalidStatusCode as e:
                return e.status_code
            finally:
                for ws in held:
                    await ws.close()
        self.assertEqual(timed(go()), 503)

    def test_pings_both_ways(self):
        """ws: with ping_interval both ends are pinged; who does not answer is dropped"""
        server = wsraw.Server(9001)
        self.addCleanup(server.close)
        self.start(listener("l", "WebSocket", 9000, cluster("WebSocket", 9001, ping_interval=2), ping_interval=2,
                            options={"track": 30}))
        for answering in (True, False):
            peer = wsraw.connect(9000)
            up = server.accept()
            for _ in range(2 if answering else 1):
                for end in (peer, up):
                    f = end.recv()
                    self.assertEqual(f.opcode, wsraw.PING)
                    if answering:
                        end.send(wsraw.PONG, f.data)
            if answering:
                peer.send(wsraw.TEXT, b"still here")
                self.assertEqual(up.message(), (wsraw.TEXT, b"still here"))
                peer.close()
            else:
                self.assertIsNone(up.closed())
                self.later(lambda: all(s["status"] == "DESTROYED" for s in self.sessions()))
                self.assertIn("does not answer pings",
                              " ".join(" ".join(self.texts(s, "ERROR")) for s in self.sessions()))
                peer.close()
            up.close()

    def test_echo(self):
        """ws: Echo keeps message boundaries, order, text and binary"""
        self.start(listener("l", "WebSocket", 9000, inline("Echo")))
        rng = random.Random(1)
        want = ["text ä €", b"binary", "", b"", "x" * 70000, rng.randbytes(200_000), "last"]

        async def go():
            async with client(9000) as ws:
                for m in want:
                    await ws.send(m)
                return [await ws.recv() for _ in want]
        self.assertEqual(timed(go()), want)

    def test_ws_to_ws(self):
        """ws to ws: text and binary keep their type, path, query and headers reach the upstream"""
        server = WsServer(9001, max_size=None, compression=None)
        self.start(listener("l", "WebSocket", 9000, cluster("WebSocket", 9001)))
        want = ["text ä", b"\x00\xff", "", b"", "y" * 300_000]

        async def go():
            async with client(9000, "/a/b?c=d%20e", extra_headers={"X-Mine": "yes"}) as ws:
                for m in want:
                    await ws.send(m)
                return [await ws.recv() for _ in want]
        self.assertEqual(timed(go()), want)
        peer = server.peers[0]
        self.assertEqual(peer.path, "/a/b?c=d%20e")
        self.assertEqual(peer.request_headers["X-Mine"], "yes")

    def test_fragments_and_ping(self):
        """ws: fragmented messages arrive whole; a ping is answered in the midst of them"""
        server = WsServer(9001)
        self.start(listener("l", "WebSocket", 9000, cluster("WebSocket", 9001)))

        async def go():
            async with client(9000) as ws:
                async def parts():
                    for n in range(5):
                        yield f"part {n} "
                        if n == 2:
                            await asyncio.wait_for(await ws.ping(b"hello"), 3)
                await ws.send(parts())
                return await ws.recv()
        self.assertEqual(timed(go()), "part 0 part 1 part 2 part 3 part 4 ")
        self.assertEqual(len(server.received), 1)

    def test_close_codes(self):
        """ws to ws: a close code passes in both directions"""
        async def closing(ws, _server):
            await ws.recv()
            await ws.close(4321, "from the server")
        server = WsServer(9001)
        WsServer(9002, closing)
        self.start(listener("a", "WebSocket", 9000, cluster("WebSocket", 9001)),
                   listener("b", "WebSocket", 9003, cluster("WebSocket", 9002)))

        async def go():
            ws = await client(9000)
            await ws.send("x")
            await ws.recv()
            await ws.close(4123, "from the client")
            async with client(9003) as other:
                await other.send("x")
                try:
                    await other.recv()
                except websockets.ConnectionClosed:
                    pass
                return other.close_code
        self.assertEqual(timed(go()), 4321)
        self.later(lambda: server.closes)
        self.assertEqual(server.closes[0][0], 4123)

    def test_dropped_client(self):
        """ws: a client that drops without a Close frame ends the session with an error"""
        server = WsServer(9001)
        self.start(listener("l", "WebSocket", 9000, cluster("WebSocket", 9001), options={"track": 30}))

        async def go():
            ws = await client(9000)
            await ws.send("x")
            await ws.recv()
            ws.transport.abort()
        timed(go())
        self.ended("WS:")
        self.later(lambda: server.closes)

    def test_tcp_cluster(self):
        """ws to tcp: messages are written one after the other, with one warning; answers are binary"""
        TcpServer(9001, echo)
        self.start(listener("l", "WebSocket", 9000, cluster("TCP", 9001)))

        async def go():
            async with client(9000) as ws:
                for n in range(10):
                    await ws.send(f"message {n};")
                got = b""
                while len(got) < 100:
                    m = await ws.recv()
                    self.assertIsInstance(m, bytes)
                    got += m
                warnings = self.texts(self.session("WS:"), "WARNING")
                return got, len(warnings)
        self.assertEqual(timed(go()), (b"".join(b"message %d;" % n for n in range(10)), 1))

    def test_tcp_upstream_ends(self):
        """ws to tcp: an upstream that hangs up closes the WebSocket in order"""
        TcpServer(9001, lambda conn, _: (conn.recv(100), conn.sendall(b"bye"), conn.close()))
        self.start(listener("l", "WebSocket", 9000, cluster("TCP", 9001)))

        async def go():
            async with client(9000) as ws:
                await ws.send("x")
                first = await ws.recv()
                try:
                    await ws.recv()
                except websockets.ConnectionClosed as e:
                    return first, (e.rcvd.code if e.rcvd else None)
        self.assertEqual(timed(go()), (b"bye", 1000))

    def test_udp_cluster(self):
        """ws to udp: one message, one datagram; too large is dropped and counted"""
        up = UdpEcho(9001)
        self.start(listener("l", "WebSocket", 9000, cluster("UDP", 9001)))

        async def go():
            async with client(9000) as ws:
                for m in ("one", b"", bytes(65508), bytes(65507), "two"):
                    await ws.send(m)
                return [len(await ws.recv()) for _ in range(4)]
        self.assertEqual(timed(go()), [3, 0, 65507, 3])
        self.assertEqual(len(up.seen), 4)
        self.assertEqual(self.drops("too-large"), 1)

    def test_udp_to_ws(self):
        """udp to ws: one datagram, one binary message, and back; a rewrite sets path and headers"""
        server = WsServer(9001)
        http = {"url": {"path": "/from/udp"}, "headers": {"X-Set": "by a rule"}}
        self.start(listener("l", "UDP", 9000, cluster("WebSocket", 9001), rewrite=[{"path": "/HTTP", "value": http}]))
        with udp_socket() as s:
            want = [b"a", b"", b"ccc", os.urandom(60_000)]
            for m in want:
                s.sendto(m, ("127.0.0.1", 9000))
            self.assertEqual([s.recv(70000) for _ in want], want)
        self.assertEqual(server.received, want)
        self.assertEqual(server.peers[0].path, "/from/udp")
        self.assertEqual(server.peers[0].request_headers["X-Set"], "by a rule")

    def test_tcp_to_ws(self):
        """tcp to ws: bytes arrive in order; the client's end closes the WebSocket in order"""
        server = WsServer(9001, max_size=None)
        self.start(listener("l", "TCP", 9000, cluster("WebSocket", 9001)))
        data = os.urandom(MB)
        with connect(9000) as s:
            t = threading.Thread(target=s.sendall, args=(data,))
            t.start()
            self.assertEqual(recv_exact(s, len(data)), data)
            t.join()
            s.shutdown(socket.SHUT_WR)
            self.assertEqual(recv_all(s), b"")
        self.later(lambda: server.closes)
        self.assertEqual(server.closes[0][0], 1000)

    def test_ipv6_and_names(self):
        """ws: IPv6 listener and cluster, host name in the endpoint and in the Host header"""
        six = WsServer(9001, host="::1")
        name = WsServer(9002)
        self.start(listener("a", "WebSocket", 9000, cluster("WebSocket", 9001, "::1"), address="::1"),
                   listener("b", "WS", 9003, cluster("WebSocket", 9002, "localhost")))

        async def go():
            async with client(9000, host="[::1]") as ws:
                await ws.send("six")
                one = await ws.recv()
            async with client(9003) as ws:
                await ws.send("name")
                return one, await ws.recv()
        self.assertEqual(timed(go()), ("six", "name"))
        self.assertEqual(len(six.peers) + len(name.peers), 2)

    def test_path_and_subprotocol(self):
        """ws: a listener's path is the only one served; a cluster's subprotocol has to be agreed"""
        WsServer(9001, subprotocols=["chat"])
        WsServer(9002)
        self.start(listener("a", "WebSocket", 9000, cluster("WebSocket", 9001, subprotocol="chat"), path="/only"),
                   listener("b", "WebSocket", 9003, cluster("WebSocket", 9002, subprotocol="chat"),
                            options={"track": 30}))

        async def go():
            async with client(9000, "/only") as ws:
                await ws.send("x")
                await ws.recv()
            with self.assertRaises(websockets.InvalidStatusCode) as e:
                await client(9000, "/other")
            self.assertEqual(e.exception.status_code, 404)
            try:
                async with client(9003) as ws:
                    await ws.recv()
            except (websockets.ConnectionClosed, websockets.InvalidStatusCode, OSError):
                return
            raise AssertionError("an upstream without the subprotocol was taken")
        timed(go())
        self.assertIn("the subprotocol 'chat'", " ".join(self.texts(self.ended("WS:"), "ERROR")))

    def test_many_clients(self):
        """ws: 40 clients at once, three messages each, own answers in order"""
        WsServer(9001)
        self.start(listener("l", "WebSocket", 9000, cluster("WebSocket", 9001)))

        async def one(i):
            async with client(9000) as ws:
                for n in range(3):
                    await ws.send(f"{i}/{n}")
                return [await ws.recv() for _ in range(3)] == [f"{i}/{n}" for n in range(3)]

        async def go():
            return await asyncio.gather(*(one(i) for i in range(40)))
        self.assertTrue(all(timed(go(), 30)))
        self.later(lambda: not self.sessions())

    def test_refused_upstream(self):
        """ws: a refused upstream is a 502 for the client, with an error that names stage and address"""
        self.start(listener("l", "WebSocket", 9000, cluster("WebSocket", 9001, name="nobody"), options={"track": 30}))
        self.assertEqual(self.status(9000), 502)
        text = " ".join(self.texts(self.ended("WS:"), "ERROR"))
        for word in ("destination", "'nobody'", "127.0.0.1", "refused"):
            self.assertIn(word, text)

    def test_upstream_is_no_websocket(self):
        """ws: an upstream that answers noise, 404 or nothing fails the connect within its time"""
        TcpServer(9001, lambda conn, _: (conn.recv(1000), conn.sendall(os.urandom(3000)), time.sleep(3)))
        TcpServer(9002, lambda conn, _: (conn.recv(1000), conn.sendall(b"HTTP/1.1 404 Not Found\r\n\r\n"), conn.close()))
        TcpServer(9003, lambda conn, _: time.sleep(10))
        self.start(*(listener(f"l{i}", "UDP", 9010 + i, cluster("WebSocket", 9000 + i), options={"track": 30},
                              retry=retry("never", 0, 1000)) for i in (1, 2, 3)))
        with udp_socket() as s:
            for i in (1, 2, 3):
                s.sendto(b"x", ("127.0.0.1", 9010 + i))
            self.later(lambda: [x["status"] for x in self.sessions()] == ["DESTROYED"] * 3)
        for one in self.sessions():
            self.assertIn("destination", " ".join(self.texts(one, "ERROR")), one)

    def test_noise(self):
        """ws: noise, broken handshakes and broken frames at a listener"""
        self.start(listener("l", "WebSocket", 9000, inline("Echo")))
        rng = random.Random(9)
        shake = (b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                 b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
        frames = [b"\xff" * 50, b"\x81\x05hello", b"\x8f\x80\0\0\0\0", b"\x81\xff" + struct.pack("!Q", 1 << 62) + b"abcd",
                  b"\x89\xfe\xff\xff" + bytes(100), b"\x80\x80\0\0\0\0", b"\x88\x81\0\0\0\0x"]
        for data in [rng.randbytes(rng.randrange(1, 4000)) for _ in range(10)] + \
                [b"GET / HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 5000,
                 shake.replace(b"13", b"99"), shake[:50]] + [shake + f for f in frames]:
            with connect(9000) as s:
                try:
                    s.sendall(data)
                    s.settimeout(0.1)
                    while s.recv(65536):
                        pass
                except OSError:
                    pass

        async def go():
            async with client(9000) as ws:
                await ws.send("fine")
                return await ws.recv()
        self.assertEqual(timed(go()), "fine")
        self.later(lambda: not self.sessions())

    def test_bad_utf8(self):
        """ws: text that is not UTF-8 closes with 1007"""
        self.start(listener("l", "WebSocket", 9000, inline("Echo")))

        async def go():
            async with client(9000) as ws:
                await ws.ensure_open()
                await ws.write_frame(True, 1, b"\xff\xfe\xfd")
                try:
                    await ws.recv()
                except websockets.ConnectionClosed as e:
                    return e.rcvd.code if e.rcvd else None
        self.assertEqual(timed(go()), 1007)

    def test_slow_reader(self):
        """ws: a receiver that reads nothing: the TCP sender is stopped, memory stays bounded"""
        async def lazy(ws, _server):
            await asyncio.sleep(30)
        WsServer(9001, lazy, max_queue=1, read_limit=4096)
        proxy = self.start(listener("l", "TCP", 9000, cluster("WebSocket", 9001)), measured=True)
        peak = Peak(proxy)
        with connect(9000) as s:
            self.assertLess(flood(s, 64 * MB), 32 * MB)
        self.assertLess(peak.grown(), 20 * 1024)


if __name__ == "__main__":
    l7test.main()
