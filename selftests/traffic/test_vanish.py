#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=400
"""Peers that vanish silently under traffic: every protocol over TCP gives them up (TCP_USER_TIMEOUT)."""
import base64
import hashlib
import pathlib
import re
import socket
import sys
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import l7net  # noqa: E402
import l7test  # noqa: E402
import traffic  # noqa: E402
from traffic import cluster, listener  # noqa: E402

OPTIONS = {"user_timeout": 2}


class Vanish(traffic.Case):
    def setUp(self):
        super().setUp()
        self.peer = l7net.Peer("l7leg0", "10.77.0.1", "10.77.0.2")
        self.addCleanup(self.peer.close)

    def gone(self, prefix):
        """Ends by itself although nothing can be delivered; the kernel's own patience is a quarter of an hour."""
        self.later(lambda: not self.sessions(prefix), 120)

    def client(self, port):
        with self.peer.inside():
            s = socket.socket()
        s.settimeout(60)
        s.connect(("10.77.0.1", port))
        return s

    def unplug(self):
        self.peer.run("ip link set eth0 down")

    def pour(self, sock, stop):
        """Traffic without end, from a thread of its own."""
        def go():
            try:
                while not stop.is_set():
                    sock.send(b"x" * 1000)
                    time.sleep(0.05)
            except OSError:
                pass
        threading.Thread(target=go, daemon=True).start()

    def client_vanishes(self, protocol, hello, answer=b"", **keys):
        """The destination of a client's session sends without end; the client is unplugged."""
        entry = listener("l", protocol, 9000, cluster("TCP", 9001), **keys)
        entry["spec"]["options"] = OPTIONS
        self.start(entry)
        stop = threading.Event()
        with socket.create_server(("127.0.0.1", 9001)) as server, self.client(9000) as s:
            s.sendall(hello)
            self.assertIn(answer, s.recv(1000) if answer else b"")
            server.settimeout(60)
            upstream, _ = server.accept()
            with upstream:
                self.later(self.sessions)
                self.pour(upstream, stop)
                self.unplug()
                self.gone("")
                stop.set()

    def upstream_vanishes(self, destination, handshake):
        """A local client sends without end to an upstream in the other namespace, which is unplugged."""
        destination["spec"].get("transport", destination["spec"])["options"] = OPTIONS
        self.start(listener("l", "TCP", 9000, destination))
        stop = threading.Event()
        with self.peer.inside():
            server = socket.create_server(("10.77.0.2", 9001))
        with server, socket.create_connection(("127.0.0.1", 9000), 60) as s:
            server.settimeout(60)
            conn, _ = server.accept()
            with conn:
                conn.settimeout(60)
                handshake(conn)
                self.later(lambda: self.session("TCP")["status"] == "CONNECTED")
                self.pour(s, stop)
                self.unplug()
                self.gone("TCP")
                stop.set()

    def test_tcp_client(self):
        """a TCP client that vanishes"""
        self.client_vanishes("TCP", b"x")

    def test_http_client(self):
        """an HTTP client that vanishes in the middle of its answer"""
        self.client_vanishes("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    def test_websocket_client(self):
        """a WebSocket client that vanishes, with pings off"""
        self.client_vanishes("WebSocket", b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                             b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", b" 101 ",
                             ping_interval=0)

    def test_tcp_upstream(self):
        """a TCP upstream that vanishes"""
        self.upstream_vanishes(cluster("TCP", 9001, "10.77.0.2"), lambda conn: None)

    def test_websocket_upstream(self):
        """a WebSocket upstream that vanishes, with pings off"""
        def handshake(conn):
            key = re.search(rb"Sec-WebSocket-Key: (\S+)", conn.recv(4000), re.I).group(1)
            accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
            conn.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                         b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        self.upstream_vanishes(cluster("WebSocket", 9001, "10.77.0.2", ping_interval=0), handshake)

    def test_jsonsocket_upstream(self):
        """a JSONSocket upstream over TCP that vanishes"""
        destination = cluster("JSONSocket", None, "10.77.0.2", transport={"protocol": "TCP", "port": 9001})
        self.upstream_vanishes(destination, lambda conn: (conn.recv(4000), conn.sendall(
            b'{"JSONSocketVersion":1,"JSONSocketStatus":200,"JSONSocketMessage":"OK"}\n')))


if __name__ == "__main__":
    l7test.main()
