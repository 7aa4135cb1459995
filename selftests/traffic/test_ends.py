#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""How sessions and the proxy end: with peers that stall, in the midst of transfers, without descriptors."""
import asyncio
import os
import signal
import socket
import tempfile
import threading
import time

import l7test
import websockets
import wsraw
from l7test import udp_socket
from traffic import (Case, TcpServer, UdpEcho, WsServer, cluster, connect, echo, inline, listener, recv_all, recv_exact,
                     reset, retry)


def stall(conn, _index):
    time.sleep(60)


class Ends(Case):
    def test_http_client_leaves(self):
        """ends: an HTTP client that leaves while the upstream keeps it waiting: the session ends"""
        TcpServer(9001, stall)
        self.start(listener("l", "HTTP", 9000, cluster("TCP", 9001)))
        s = connect(9000)
        s.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        self.later(lambda: self.session("HTTP:")["status"] == "CONNECTED")
        s.close()
        self.later(lambda: not self.sessions("HTTP:"), 8, "the session of a client that left stays")

    def test_client_leaves_while_connecting(self):
        """ends: clients that are reset while the upstream is retried leave no session behind"""
        self.start(listener("t", "TCP", 9000, cluster("TCP", 9001), retry=retry("always", 5, 300)),
                   listener("w", "WebSocket", 9002, cluster("TCP", 9001), retry=retry("always", 5, 300)),
                   listener("h", "HTTP", 9003, cluster("TCP", 9001), retry=retry("always", 5, 300)))
        a, b, c = connect(9000), connect(9002), connect(9003)
        a.sendall(b"x")
        c.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        b.sendall(wsraw.request() + wsraw.encode(wsraw.TEXT, b"x", mask=b"mask"))
        self.later(lambda: len(self.sessions()) == 3)
        reset(a)
        reset(b)
        reset(c)
        self.later(lambda: not self.sessions(), 8)

    def test_stop_in_the_midst(self):
        """ends: SIGTERM with stalled and busy sessions of every kind: exit 0, in time, files gone"""
        TcpServer(9001, stall, rcvbuf=4096)
        TcpServer(9002, echo)

        async def lazy(ws, _server):
            await asyncio.sleep(60)
        ws_server = WsServer(9003, lazy, close_timeout=1)
        UdpEcho(9004)
        with tempfile.TemporaryDirectory() as d:
            path, log = os.path.join(d, "u.sock"), os.path.join(d, "access.log")
            proxy = self.start(
                listener("a", "TCP", 9010, cluster("TCP", 9001)), listener("b", "TCP", 9011, cluster("TCP", 9002)),
                listener("c", "TCP", 9012, cluster("WebSocket", 9003)), listener("d", "HTTP", 9013, cluster("TCP", 9001)),
                listener("e", "UDP", 9014, cluster("UDP", 9004)), listener("f", "WebSocket", 9015, cluster("TCP", 9001)),
                listener("g", "UnixDomainSocket", None, inline("Echo"), filename=path),
                listener("h", "TCP", 9016, cluster("TCP", 9999), retry=retry("always", 1000, 1000)),
                admin={"access_log_path": log})
            socks = [connect(p) for p in (9010, 9011, 9012, 9013, 9016)]
            for s in socks:
                s.setblocking(False)
            socks[3].sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
            unix = socket.socket(socket.AF_UNIX)
            unix.connect(path)
            with udp_socket() as u:
                u.sendto(b"x", ("127.0.0.1", 9014))
                u.recv(10)
            for _ in range(100):
                for s in socks:
                    try:
                        s.send(bytes(65536))
                    except OSError:
                        pass
            raw = connect(9015)
            raw.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
            self.assertIn(b"101", raw.recv(1000))
            half = connect(9013)
            half.sendall(b"GET / HT")
            self.assertEqual(len(self.sessions()), 8)
            self.proxy = None
            proxy.stop()
            self.assertFalse(os.path.exists(path))
            with open(log) as f:
                names = [l7test.json.loads(row)["name"].split(":")[0] for row in f]
            self.assertEqual(sorted(n for n in names if n != "HTTP"), ["TCP"] * 4 + ["UDP", "UNIX", "WS"])
            for s in [*socks, unix, raw, half]:
                s.close()
            self.assertTrue(ws_server)

    def test_second_signal(self):
        """ends: a second signal ends at once"""
        TcpServer(9001, stall, rcvbuf=4096)
        proxy = self.start(listener("a", "TCP", 9000, cluster("TCP", 9001)))
        self.proxy = None
        s = connect(9000)
        s.setblocking(False)
        for _ in range(100):
            try:
                s.send(bytes(65536))
            except OSError:
                pass
        self.assertEqual(proxy.stop_twice(), -signal.SIGTERM)
        self.assertFalse(l7test.SANITIZER.search(proxy.stderr()), proxy.stderr())

    def test_descriptors_everywhere(self):
        """ends: descriptors run out under HTTP, WebSocket and UNIX listeners: they continue afterwards"""
        TcpServer(9001, echo)
        with tempfile.TemporaryDirectory() as d:
            path = os.path.join(d, "u.sock")
            proxy = self.start(listener("h", "HTTP", 9002, cluster("TCP", 9001)),
                               listener("w", "WebSocket", 9003, cluster("TCP", 9001)),
                               listener("u", "UnixDomainSocket", None, cluster("TCP", 9001), filename=path),
                               wrapper=("prlimit", "--nofile=96:96"))
            socks = []
            for i in range(120):
                try:
                    if i % 3 == 0:
                        s = socket.socket(socket.AF_UNIX)
                        s.settimeout(0.2)
                        s.connect(path)
                    else:
                        s = connect(9002 + i % 2, timeout=0.2)
                        s.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n" + (b"\r\n" if i % 2 else b""))
                    socks.append(s)
                except OSError:
                    pass
            time.sleep(0.5)
            self.assertTrue(proxy.alive())
            for s in socks:
                s.close()

            def http_fine():
                with connect(9002, timeout=2) as s:
                    s.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
                    return recv_all(s).endswith(b"ok") or b"ok" in recv_all(s)

            def unix_fine():
                with socket.socket(socket.AF_UNIX) as s:
                    s.settimeout(2)
                    s.connect(path)
                    s.sendall(b"ok")
                    return recv_exact(s, 2) == b"ok"

            async def ws():
                async with websockets.connect("ws://127.0.0.1:9003/", open_timeout=2) as c:
                    await c.send(b"ok")
                    return await asyncio.wait_for(c.recv(), 2)

            def ws_fine():
                try:
                    return asyncio.run(ws()) == b"ok"
                except (asyncio.TimeoutError, websockets.WebSocketException):
                    return False
            self.later(unix_fine, 15, "unix")
            self.later(ws_fine, 15, "websocket")
            self.later(http_fine, 15, "http")
            self.later(lambda: not self.sessions(), 10)

    def test_huge_ws_message(self):
        """ends: a WebSocket message without end is refused with 1009, memory stays bounded"""
        self.start(listener("w", "WebSocket", 9000, inline("Discard")))

        async def go():
            async with websockets.connect("ws://127.0.0.1:9000/", max_size=None, compression=None) as ws:
                try:
                    for n in range(2000):
                        await ws.write_frame(False, 0 if n else 2, bytes(65536))
                except (websockets.ConnectionClosed, websockets.InvalidState):
                    pass
                await ws.wait_closed()
                return ws.close_code
        self.assertEqual(asyncio.run(asyncio.wait_for(go(), 20)), 1009)

    def test_replace_listener(self):
        """ends: PUT of a listener under traffic: its port never closes, old sessions continue, new ones follow the new rules"""
        TcpServer(9001, lambda conn, _: (conn.sendall(b"1"), echo(conn)))
        TcpServer(9002, lambda conn, _: (conn.sendall(b"2"), echo(conn)))
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001)), listener("u", "UDP", 9003, inline("Echo")))
        old = connect(9000)
        self.assertEqual(old.recv(1), b"1")
        u = udp_socket()
        u.sendto(b"x", ("127.0.0.1", 9003))
        u.recv(1)
        stop, failed, seen = threading.Event(), [], set()

        def clients():
            while not stop.is_set():
                try:
                    with connect(9000, timeout=60) as s:
                        seen.add(s.recv(1))
                except OSError as e:
                    failed.append(e)
        t = threading.Thread(target=clients)
        t.start()
        for n in range(20):
            item = listener("l", "TCP", 9000, cluster("TCP", 9001 + n % 2))
            self.assertEqual(self.api.put("/listeners/l", {"listener": item})[0], 200)
            with connect(9000, timeout=60) as new:
                self.assertEqual(new.recv(1), b"%d" % (1 + n % 2))
            self.assertEqual(self.api.put("/listeners/u", {"listener": listener("u", "UDP", 9003, inline("Discard"))})[0], 200)
        stop.set()
        t.join()
        self.assertEqual(failed, [])
        self.assertLessEqual(seen, {b"1", b"2"})
        old.sendall(b"still")
        self.assertEqual(recv_exact(old, 5), b"still")
        u.sendto(b"y", ("127.0.0.1", 9003))
        self.assertEqual(u.recv(1), b"y")
        old.close()


if __name__ == "__main__":
    l7test.main()
