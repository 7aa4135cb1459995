#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Upstreams and clients that vanish, refuse, hang or hang up, over each protocol (docs/protocols.md)."""
import os
import shutil
import socket
import tempfile
import time

import l7test
import wsraw
from faults import Faults
from l7test import udp_socket
from traffic import (Peak, TcpServer, UdpEcho, cluster, connect, echo, inline, listener, recv_all, recv_exact, reset,
                     retry)
from wsraw import BINARY, CONT, PING, TEXT

SEQPACKET = socket.SOCK_SEQPACKET


class Peers(Faults):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="l7f-")

    def tearDown(self):
        try:
            super().tearDown()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.folder, name)

    def unix(self, name, kind=socket.SOCK_STREAM):
        s = socket.socket(socket.AF_UNIX, kind)
        s.bind(self.path(name))
        if kind != socket.SOCK_DGRAM:
            s.listen(8)
        s.settimeout(30)
        self.addCleanup(s.close)
        return s

    def ends(self, s):
        """The other side's end is seen on s, in whatever form."""
        try:
            while s.recv(65536):
                pass
        except ConnectionError:
            pass

    # ---- TCP ----

    def test_reset(self):
        """peers: an upstream's reset in the midst of a transfer resets the client, and is named"""
        def serve(conn, _):
            conn.sendall(b"x" * 100000)
            time.sleep(0.2)
            reset(conn)
        TcpServer(9001, serve)
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001), options={"track": 60}))
        with connect(9000) as s:
            with self.assertRaises(ConnectionResetError):
                while s.recv(65536):
                    pass
        self.assertIn("reset", self.failure("TCP:"))

    def test_client_reset(self):
        """peers: a client's reset in the midst of a transfer resets the upstream"""
        seen = []

        def serve(conn, _):
            try:
                while conn.send(b"x" * 1000):
                    pass
            except OSError as e:
                seen.append(type(e))
        TcpServer(9001, serve)
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001)))
        s = connect(9000)
        recv_exact(s, 100000)
        reset(s)
        self.later(lambda: seen)
        self.assertIn(seen[0], (ConnectionResetError, BrokenPipeError))

    def test_mute(self):
        """peers: an upstream that accepts and never answers: idle_timeout ends the session, others continue"""
        TcpServer(9001, lambda conn, _: time.sleep(20))
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001), options={"track": 60, "idle_timeout": 1}))
        with connect(9000) as s:
            s.sendall(b"hello?")
            begin = time.monotonic()
            self.ends(s)
            self.assertTrue(0.8 < time.monotonic() - begin < 5)

    def test_mute_handshake(self):
        """peers: an upstream that accepts and never answers the handshake of WebSocket, JSONSocket, TLS: timed out"""
        TcpServer(9001, lambda conn, _: time.sleep(20))
        ca = self.path("ca.pem")
        os.system(f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /dev/null -out {ca} "
                  "-subj /CN=x -days 2 2>/dev/null")
        for name, up in (("ws", cluster("WebSocket", 9001)), ("wss", cluster("WebSocket", 9001, tls={"ca": ca})),
                         ("tls", cluster("TCP", 9001, tls={"ca": ca})),
                         ("js", {"spec": {"protocol": "JSONSocket", "transport": {"protocol": "TCP", "port": 9001}},
                                 "endpoints": [{"spec": {"address": "127.0.0.1"}}]})):
            with self.subTest(name):
                self.start(listener("l", "TCP", 9000, up, options={"track": 60}, retry=retry("never", 0, 700)))
                with connect(9000) as s:
                    begin = time.monotonic()
                    self.ends(s)
                    self.assertTrue(0.5 < time.monotonic() - begin < 4, time.monotonic() - begin)
                self.assertIn("700 ms", self.failure("TCP:"))
                self.stop()

    def test_closes_at_once(self):
        """peers: an upstream that hangs up at once costs one connection per timeout, for each protocol"""
        server = TcpServer(9001, lambda conn, _: conn.close())
        unix = self.unix("s")
        unix.setblocking(False)
        accepted = []

        def pump():
            try:
                while True:
                    unix.accept()[0].close()
                    accepted.append(1)
            except BlockingIOError:
                pass
        for name, up in (("tcp", cluster("TCP", 9001)), ("ws", cluster("WebSocket", 9001)),
                         ("unix", cluster("UnixDomainSocket", address=self.path("s")))):
            with self.subTest(name):
                server.count = 0
                accepted.clear()
                self.start(listener("l", "TCP", 9000, up, retry=retry("always", 1000, 250)))
                with connect(9000) as s:
                    end = time.monotonic() + 2.2
                    while time.monotonic() < end:
                        pump()
                        time.sleep(0.02)
                    n = server.count + len(accepted)
                    self.assertTrue(4 <= n <= 11, n)
                    name = self.session("TCP:")["name"]
                    self.api.delete(f"/sessions/{name}")
                    self.ends(s)
                pump()
                self.stop()

    def test_refused(self):
        """peers: endpoints that refuse, are not there or can't be resolved: the session names stage, address and why"""
        for name, up, words in (
                ("tcp", cluster("TCP", 9001), ("127.0.0.1:9001", "refused")),
                ("ws", cluster("WebSocket", 9001), ("127.0.0.1:9001", "refused")),
                ("udp", cluster("UDP", 9001, "no-such-name.invalid"), ("no-such-name.invalid",)),
                ("name", cluster("TCP", 9001, "no-such-name.invalid"), ("no-such-name.invalid",)),
                ("ws-name", cluster("WebSocket", 9001, "no-such-name.invalid"), ("no-such-name.invalid",)),
                ("unix", cluster("UnixDomainSocket", address=self.path("none")), (self.path("none"), "no such")),
                ("seq", cluster("UNIX/seqpacket", address=self.path("none")), (self.path("none"), "no such")),
                ("dgram", cluster("UNIX/dgram", address=self.path("none")), (self.path("none"), "no such"))):
            with self.subTest(name):
                self.start(listener("l", "TCP", 9000, up, options={"track": 60}, retry=retry("connect-failure", 1, 300)))
                with connect(9000, timeout=60) as s:
                    self.ends(s)
                text = self.failure("TCP:", 20)
                for word in ("destination", *words):
                    self.assertIn(word.lower(), text.lower())
                self.stop()

    # ---- UNIX ----

    def test_unix_server_vanishes(self):
        """peers: a UNIX stream or seqpacket server that vanishes in the midst: the client sees it, retry finds the next"""
        for protocol, kind in (("UnixDomainSocket", socket.SOCK_STREAM), ("UNIX/seqpacket", SEQPACKET)):
            with self.subTest(protocol):
                name = "s" + str(int(kind))
                server = self.unix(name, kind)
                self.start(
                    listener("once", "TCP", 9000, cluster(protocol, address=self.path(name))),
                    listener("again", "TCP", 9002, cluster(protocol, address=self.path(name)),
                             retry=retry("always", 20, 200)))
                once, again = connect(9000), connect(9002)
                ups = []
                for s, word in ((once, b"once"), (again, b"again")):
                    s.sendall(word)
                    ups.append(server.accept()[0])
                    self.assertEqual(ups[-1].recv(10), word)
                for up in ups:
                    up.sendall(b"last words")
                server.close()
                os.unlink(self.path(name))
                for up in ups:
                    up.close()
                self.assertEqual(recv_exact(once, 10), b"last words")
                self.ends(once)
                self.assertEqual(recv_exact(again, 10), b"last words")
                time.sleep(0.5)
                server = self.unix(name, kind)
                again.sendall(b"still here")
                up, _ = server.accept()
                self.assertEqual(up.recv(20), b"still here")
                again.close()
                self.assertEqual(up.recv(20), b"")
                up.close()
                once.close()
                self.stop()

    def test_unix_client_vanishes(self):
        """peers: UNIX clients that vanish with unread data: the session ends, the upstream sees it"""
        server = TcpServer(9001, lambda conn, _: (conn.sendall(bytes(1 << 20)), recv_all(conn)))
        self.start(listener("a", "UnixDomainSocket", None, cluster("TCP", 9001), filename=self.path("a")),
                   listener("b", "UNIX/seqpacket", None, cluster("TCP", 9001), filename=self.path("b")))
        for name, kind in (("a", socket.SOCK_STREAM), ("b", SEQPACKET)):
            s = socket.socket(socket.AF_UNIX, kind)
            s.settimeout(30)
            s.connect(self.path(name))
            self.assertTrue(s.recv(100))
            s.close()
        self.gone()
        self.assertEqual(server.count, 2)

    def test_dgram_server_vanishes(self):
        """peers: a UNIX datagram server that goes and comes back: without retry the session ends and a new one begins"""
        server = self.unix("s", socket.SOCK_DGRAM)
        self.start(listener("l", "UNIX/dgram", None, cluster("UNIX/dgram", address=self.path("s")), filename=self.path("l")))
        client = self.unix("c", socket.SOCK_DGRAM)
        client.sendto(b"one", self.path("l"))
        data, peer = server.recvfrom(100)
        self.assertEqual(data, b"one")
        server.sendto(b"ONE", peer)
        self.assertEqual(client.recv(100), b"ONE")
        server.close()
        os.unlink(self.path("s"))
        for _ in range(3):
            client.sendto(b"nobody", self.path("l"))
            time.sleep(0.05)
        server = self.unix("s", socket.SOCK_DGRAM)

        def found():
            client.sendto(b"two", self.path("l"))
            server.settimeout(0.2)
            while server.recv(100) != b"two":
                pass
            return True
        self.assertTrue(l7test.wait_for(found, 10))
        for s in self.sessions("UNIXD:"):
            self.api.delete("/sessions/" + s["name"])

    def test_dgram_client_vanishes(self):
        """peers: a UNIX datagram client whose socket is gone: answers to it are dropped and counted, others continue"""
        self.start(listener("l", "UNIX/dgram", None, inline("Echo"), filename=self.path("l"), options={"idle_timeout": 2}))
        a, b = self.unix("a", socket.SOCK_DGRAM), self.unix("b", socket.SOCK_DGRAM)
        for _ in range(50):
            a.sendto(b"x", self.path("l"))
        a.close()
        os.unlink(self.path("a"))
        for n in range(20):
            b.sendto(b"%d" % n, self.path("l"))
            self.assertEqual(b.recv(10), b"%d" % n)

    def test_dgram_client_reads_nothing(self):
        """peers: a UNIX datagram client that reads nothing loses its answers, and no other client does"""
        proxy = self.start(listener("l", "UNIX/dgram", None, inline("Echo"), filename=self.path("l"),
                                    options={"idle_timeout": 2}), lean=True)
        lazy, good = self.unix("lazy", socket.SOCK_DGRAM), self.unix("good", socket.SOCK_DGRAM)
        lazy.setblocking(False)
        peak, end = Peak(proxy), time.monotonic() + 1.5
        n = 0
        while time.monotonic() < end:
            for _ in range(50):
                try:
                    lazy.sendto(bytes(1000), self.path("l"))
                except BlockingIOError:
                    break
            good.sendto(b"%d" % n, self.path("l"))
            self.assertEqual(good.recv(10), b"%d" % n)
            n += 1
        self.assertLess(peak.grown(), 30 * 1024)

    # ---- FIFOs ----

    def test_fifo_without_reader(self):
        """peers: a FIFO that nobody reads: a failed connect that says so; with retry it is found when it comes"""
        self.start(listener("once", "TCP", 9000, cluster("PIPE", address=self.path("f")), options={"track": 60},
                            retry=retry("never", 0, 500)),
                   listener("again", "TCP", 9001, cluster("PIPE", address=self.path("g")), retry=retry("always", 20, 200)))
        try:
            with connect(9000) as s:
                self.ends(s)
        except ConnectionResetError:
            pass  # refused before the connect was over
        text = self.failure("TCP:")
        self.assertIn(self.path("f"), text)
        with connect(9001) as s:
            s.sendall(b"early")
            time.sleep(0.6)
            fd = os.open(self.path("g"), os.O_RDONLY | os.O_NONBLOCK)
            got = b""
            end = time.monotonic() + 5
            while got != b"early" and time.monotonic() < end:
                try:
                    got += os.read(fd, 100)
                except BlockingIOError:
                    pass
                time.sleep(0.01)
            self.assertEqual(got, b"early")
            os.close(fd)
        self.gone()

    def test_fifo_reader_vanishes(self):
        """peers: a FIFO's reader that goes in the midst: the session ends, and the client is told"""
        os.mkfifo(self.path("f"))
        fd = os.open(self.path("f"), os.O_RDONLY | os.O_NONBLOCK)
        self.start(listener("l", "TCP", 9000, cluster("PIPE", address=self.path("f")), options={"track": 60}))
        with connect(9000) as s:
            s.sendall(b"x" * 1000)
            time.sleep(0.3)
            self.assertEqual(len(os.read(fd, 10000)), 1000)
            os.close(fd)
            try:
                for _ in range(50):
                    s.sendall(b"x" * 1000)
                    time.sleep(0.02)
                self.ends(s)
            except ConnectionError:
                pass
        self.assertIn(self.path("f"), self.failure("TCP:"))

    # ---- WebSocket behind other protocols ----

    def test_ws_server_behind_udp(self):
        """peers: fragments, pings and an oversized message of a WebSocket server, seen by a UDP client"""
        server = wsraw.Server(9001)
        self.addCleanup(server.close)
        self.start(listener("l", "UDP", 9000, cluster("WebSocket", 9001), options={"track": 60}))
        self.assertEqual(self.drops("too-large"), 0)
        self.settle()
        with udp_socket() as s:
            s.sendto(b"hello", ("127.0.0.1", 9000))
            up = server.accept()
            self.assertEqual(up.message(), (BINARY, b"hello"))
            up.send(TEXT, b"in ", fin=False)
            up.send(PING, b"there?")
            up.send(CONT, b"three ", fin=False)
            up.send(CONT, b"parts")
            self.assertEqual(s.recv(100), b"in three parts")
            self.assertEqual(up.recv().data, b"there?")
            up.send(BINARY, bytes(70000))  # more than a datagram carries: dropped and counted
            up.send(BINARY, b"next")
            self.assertEqual(s.recv(100), b"next")
            self.assertEqual(self.drops("too-large"), 1)
            up.send(BINARY, bytes(1 << 16), length=(16 << 20) + 1)
            self.assertEqual(up.closed(), 1009)
            up.close()
        self.assertIn("16777216", self.failure("UDP:"))

    def test_ws_code_behind_tcp(self):
        """peers: a WebSocket server that closes with a code: a TCP client sees the end, a retry connects again"""
        server = wsraw.Server(9001)
        self.addCleanup(server.close)
        self.start(listener("once", "TCP", 9000, cluster("WebSocket", 9001)),
                   listener("again", "TCP", 9002, cluster("WebSocket", 9001), retry=retry("disconnect", 3, 200)))
        with connect(9000) as s:
            up = server.accept()
            up.send(BINARY, b"bye")
            up.send_close(4013)
            self.assertEqual(recv_all(s), b"bye")
            self.assertEqual(up.closed(), 4013)
            up.close()
        with connect(9002) as s:
            up = server.accept()
            up.send_close(4012)
            self.assertEqual(up.closed(), 4012)
            up.close()
            up = server.accept()
            s.sendall(b"again")
            self.assertEqual(up.message(), (BINARY, b"again"))
            up.close()
        self.gone()

    def test_ws_frozen(self):
        """peers: a WebSocket server that stops reading: the TCP client is stopped, memory stays, DELETE ends it"""
        server = wsraw.Server(9001)
        self.addCleanup(server.close)
        proxy = self.start(listener("l", "TCP", 9000, cluster("WebSocket", 9001)), lean=True)
        with connect(9000) as s:
            up = server.accept()
            peak = Peak(proxy)
            s.setblocking(False)
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                try:
                    s.send(bytes(65536))
                except BlockingIOError:
                    time.sleep(0.01)
            self.assertLess(peak.grown(), 20 * 1024)
            self.api.delete("/sessions/" + self.session("TCP:")["name"])
            s.settimeout(30)
            self.ends(s)
            up.close()

    # ---- descriptors ----

    def test_descriptors(self):
        """peers: few descriptors left: sessions with upstreams of any kind are refused, counted, and work again later"""
        TcpServer(9001, echo)
        UdpEcho(9002)
        server = wsraw.Server(9003)
        self.addCleanup(server.close)
        unix = self.unix("s")
        ups = {"tcp": cluster("TCP", 9001), "udp": cluster("UDP", 9002), "ws": cluster("WebSocket", 9003),
               "unix": cluster("UnixDomainSocket", address=self.path("s")),
               "fork": {"spec": {"protocol": "STDIO-fork", "command": ["cat"]}}}
        self.start(listener("fill", "TCP", 9100, inline("Echo")),
                   *(listener(n, "UDP", 9010 + i, up, options={"track": 60}, retry=retry("never", 0, 1000))
                     for i, (n, up) in enumerate(ups.items())),
                   wrapper=("prlimit", "--nofile=90:90"))
        unix.close()
        refused = self.metric("l7mp_refusals_total", 'limit="descriptors"')
        fill = []
        for _ in range(100):
            s = connect(9100)
            fill.append(s)
            s.settimeout(0.2)
            try:
                s.sendall(b"x")
                if s.recv(1) != b"x":
                    break
            except OSError:
                break
        with udp_socket() as s:
            for i in range(len(ups)):
                s.sendto(b"x", ("127.0.0.1", 9010 + i))
            # UDP may use less of the descriptors than TCP, as its sources may be forged.
            time.sleep(1)
            for f in fill:
                f.close()
            self.gone()
            self.assertGreaterEqual(self.metric("l7mp_refusals_total", 'limit="descriptors"') - refused, len(ups))
            self.assertEqual(self.sessions("UDP:"), [])
            s.sendto(b"again", ("127.0.0.1", 9010))
            self.assertEqual(s.recv(100), b"again")
        self.assertEqual(self.api.delete("/listeners/metrics?recursive=true")[0], 200)
        for x in self.sessions("UDP:"):
            self.api.delete("/sessions/" + x["name"])


if __name__ == "__main__":
    l7test.main()
