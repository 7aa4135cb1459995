#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""HTTP listeners as a data path: requests are sessions, bodies stream."""
import hashlib
import http.client
import os
import random
import socket
import subprocess
import threading
import time

import l7test
from traffic import (Case, Peak, TcpServer, UdpEcho, WsServer, cluster, connect, echo, inline, listener, recv_all,
                     reset, retry)

MB = 1 << 20


def curl(*args, data=None, timeout=60):
    r = subprocess.run(["curl", "-s", "-m", str(timeout), *args], input=data, capture_output=True, timeout=timeout + 5)
    return r.returncode, r.stdout


def request(port, method="GET", path="/", body=None, headers=None, timeout=60, **kw):
    conn = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        conn.request(method, path, body, headers or {}, **kw)
        r = conn.getresponse()
        return r.status, r.read(), {k.lower(): v for k, v in r.getheaders()}
    finally:
        conn.close()


class Http(Case):
    def test_hello(self):
        """http: curl -d hello to Echo, to a TCP, UDP and WebSocket cluster"""
        got = []

        def serve(conn, _):
            got.append(recv_all(conn))
            conn.sendall(b"tcp says " + got[-1])
            conn.close()
        TcpServer(9001, serve)
        self.start(listener("e", "HTTP", 9000, inline("Echo")), listener("t", "HTTP", 9002, cluster("TCP", 9001)))
        self.assertEqual(curl("-d", "hello", "http://127.0.0.1:9000/"), (0, b"hello"))
        self.assertEqual(curl("-d", "hello", "http://127.0.0.1:9002/"), (0, b"tcp says hello"))
        self.assertEqual(got, [b"hello"])

    def test_metadata(self):
        """http: metadata has version, method, url and headers, and rules match on them"""
        self.start(listener("l", "HTTP", 9000, inline("Echo"), options={"track": 30},
                            match={"op": "and", "apply": [
                                {"op": "test", "path": "/HTTP/method", "value": "PUT"},
                                {"op": "starts", "path": "/HTTP/url/path", "value": "/a/b%20c"}]}))
        status, body, _ = request(9000, "PUT", "/a/b%20c?x=1&y=%41", b"data", {"X-Thing": "Value", "Host": "example.org:81"})
        self.assertEqual((status, body), (200, b"data"))
        http_meta = self.ended("HTTP:127.0.0.1:")["metadata"]["HTTP"]
        url = http_meta["url"]
        self.assertEqual((http_meta["version"], http_meta["method"]), ("1.1", "PUT"))
        self.assertEqual((url["path"], url["host"], str(url["port"])), ("/a/b%20c", "example.org", "81"))
        self.assertIn("x=1&y=%41", url["query"])
        self.assertEqual({k.lower(): v for k, v in http_meta["headers"].items()}["x-thing"], "Value")
        status, body, headers = request(9000, "GET", "/a/b%20c")
        self.assertEqual(status, 404)
        self.assertIn(b'"status"', body)
        self.assertIn("application/json", headers["content-type"])

    def test_errors(self):
        """http: 502 for a failed connect, 504 for its time-out, 502 for stale references, JSON bodies"""
        self.start(listener("refused", "HTTP", 9001, cluster("TCP", 9999)),
                   listener("silent", "HTTP", 9002, cluster("TCP", 9999, "192.0.2.1"), retry=retry("never", 0, 700)),
                   listener("stale", "HTTP", 9003, "no-such-cluster"),
                   listener("name", "HTTP", 9004, cluster("TCP", 9999, "no-such-host.invalid"),
                            retry=retry("never", 0, 8000)))
        subprocess.run(["ip", "route", "add", "blackhole", "192.0.2.0/24"], check=False)
        for port, want in ((9001, 502), (9003, 502), (9004, 502)):
            status, body, headers = request(port, "POST", "/", b"x")
            self.assertEqual(status, want, (port, body))
            self.assertIn(b'"message"', body)
            self.assertIn("application/json", headers["content-type"])
        status, body, _ = request(9002, "POST", "/", b"x")
        self.assertIn(status, (502, 504), body)

    def test_connect_timeout(self):
        """http: 504 when a connect does not finish in time"""
        # A listener whose backlog is full leaves a SYN unanswered.
        full = socket.socket()
        full.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        full.bind(("127.0.0.1", 9001))
        full.listen(0)
        waiting = []
        for _ in range(4):
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex(("127.0.0.1", 9001))
            waiting.append(s)
        self.start(listener("l", "HTTP", 9000, cluster("TCP", 9001), retry=retry("never", 0, 500)))
        # The kernel would continue trying for two minutes, and then it is a failed connect: 502.
        status, body, _ = request(9000, "POST", "/", b"x")
        self.assertEqual(status, 504, body)
        full.close()

    def test_limit_is_503(self):
        """http: a limit answers 503"""
        server = TcpServer(9001, lambda conn, _: (recv_all(conn), conn.close()))
        self.start(listener("l", "HTTP", 9000, cluster("TCP", 9001)), admin={"limits": {"max_sessions": 1}})
        time.sleep(0.3)  # the session that told that the proxy is up has to be over
        s = connect(9000)
        s.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
        self.later(lambda: server.count == 1)
        status, body, _ = request(9000, "POST", "/", b"x")
        self.assertEqual(status, 503, body)
        s.close()

    def test_large_bodies(self):
        """http: 64 MB (8 in fast mode) stream through Echo both ways at once, bounded"""
        size = (64 if l7test.FULL else 8) * MB
        proxy = self.start(listener("l", "HTTP", 9000, inline("Echo")), measured=True)
        data = os.urandom(size)
        path = os.path.join(proxy.dir.name, "data")
        with open(path, "wb") as f:
            f.write(data)
        peak = Peak(proxy)
        status, out = curl("-T", path, "http://127.0.0.1:9000/", timeout=60)
        self.assertEqual(status, 0)
        self.assertEqual(hashlib.sha256(out).digest(), hashlib.sha256(data).digest())
        self.assertLess(peak.grown(), 24 * 1024)

    def test_large_to_tcp(self):
        """http: a chunked 8 MB body reaches a TCP cluster, its end is a half-close, the answer streams back"""
        result = []

        def serve(conn, _):
            data = recv_all(conn)
            result.append(hashlib.sha256(data).hexdigest())
            for _i in range(100):
                conn.sendall(b"x" * 50_000)
            conn.close()
        TcpServer(9001, serve)
        self.start(listener("l", "HTTP", 9000, cluster("TCP", 9001), options={"track": 30}))
        blocks = [os.urandom(random.Random(i).randrange(1, 200_000)) for i in range(80)]
        status, body, headers = request(9000, "POST", "/", iter(blocks), encode_chunked=True,
                                        headers={"Transfer-Encoding": "chunked"})
        self.assertEqual((status, body == b"x" * 5_000_000), (200, True))
        self.assertEqual(headers.get("transfer-encoding"), "chunked")
        self.assertEqual(result, [hashlib.sha256(b"".join(blocks)).hexdigest()])
        stats = self.ended("HTTP:")["stats"]
        self.assertEqual(stats["ingress"]["bytes"], sum(map(len, blocks)))
        self.assertEqual(stats["egress"]["bytes"], 5_000_000)

    def test_streaming(self):
        """http: an answer is seen while it is made, before it ends"""
        go = threading.Event()

        def serve(conn, _):
            recv_all(conn)
            conn.sendall(b"first")
            go.wait(60)
            conn.sendall(b"second")
            conn.close()
        TcpServer(9001, serve)
        self.start(listener("l", "HTTP", 9000, cluster("TCP", 9001)))
        conn = http.client.HTTPConnection("127.0.0.1", 9000, timeout=60)
        conn.request("GET", "/")
        r = conn.getresponse()
        self.assertEqual(r.read(5), b"first")
        go.set()
        self.assertEqual(r.read(), b"second")
        conn.close()

    def test_keep_alive_and_head(self):
        """http: many requests on one connection; HEAD has no body; an empty answer is complete"""
        TcpServer(9001, lambda conn, _: (recv_all(conn), conn.close()))
        self.start(listener("l", "HTTP", 9000, inline("Echo")), listener("m", "HTTP", 9002, cluster("TCP", 9001)))
        conn = http.client.HTTPConnection("127.0.0.1", 9000, timeout=60)
        for n in range(20):
            conn.request("POST", f"/{n}", b"body %d" % n)
            r = conn.getresponse()
            self.assertEqual((r.status, r.read()), (200, b"body %d" % n))
        conn.request("HEAD", "/")
        r = conn.getresponse()
        self.assertEqual((r.status, r.read()), (200, b""))
        conn.request("POST", "/after", b"head")
        self.assertEqual(conn.getresponse().read(), b"head")
        conn.close()
        self.assertEqual(request(9002, "GET")[:2], (200, b""))

    def test_abort_after_first_byte(self):
        """http: an upstream that is reset in the midst of its answer aborts the body: no clean end"""
        def serve(conn, _):
            conn.recv(1000)
            conn.sendall(b"begin of the answer")
            time.sleep(0.3)
            reset(conn)
        TcpServer(9001, serve)
        self.start(listener("l", "HTTP", 9000, cluster("TCP", 9001), options={"track": 30}))
        with self.assertRaises((http.client.IncompleteRead, ConnectionResetError)):
            request(9000, "POST", "/", b"x")
        self.assertIn("destination", " ".join(self.texts(self.ended("HTTP:"), "ERROR")))

    def test_client_aborts(self):
        """http: clients that vanish in head, body or answer leave nothing behind"""
        seen = []

        def serve(conn, _):
            try:
                seen.append(len(recv_all(conn)))
                while True:
                    conn.sendall(bytes(65536))
            except OSError as e:
                seen.append(e)
        TcpServer(9001, serve)
        self.start(listener("l", "HTTP", 9000, cluster("TCP", 9001)))
        for how in ("head", "body", "answer"):
            s = connect(9000)
            s.sendall({"head": b"POST / HT", "body": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 5000,
                       "answer": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"}[how])
            if how == "answer":
                s.recv(1000)
            time.sleep(0.1)
            reset(s)
        self.later(lambda: not self.sessions(), 15, "sessions of aborted requests stay")
        self.later(lambda: len(seen) >= 2)

    def test_many_at_once(self):
        """http: 60 requests at once (more than the listener has threads)"""
        TcpServer(9001, echo)
        self.start(listener("l", "HTTP", 9000, cluster("TCP", 9001)))
        wrong = []

        def one(i):
            body = random.Random(i).randbytes(50_000 + i)
            got = request(9000, "POST", f"/{i}", body)
            if got[:2] != (200, body):
                wrong.append((i, got[0]))
        threads = [threading.Thread(target=one, args=(i,)) for i in range(60)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(wrong, [])
        self.later(lambda: not self.sessions())

    def test_datagram_clusters(self):
        """http: to UDP and WebSocket clusters: body as datagrams, the answer ends with the upstream or idle"""
        UdpEcho(9001)

        async def once(ws, server):
            server.received.append(await ws.recv())
            await ws.send(b"ws answer")
        server = WsServer(9002, once)
        self.start(listener("w", "HTTP", 9004, cluster("WebSocket", 9002), options={"track": 30}),
                   listener("u", "HTTP", 9003, cluster("UDP", 9001), options={"idle_timeout": 1}))
        status, body, _ = request(9003, "POST", "/", b"to udp")
        self.assertEqual((status, body), (200, b"to udp"))
        status, body, _ = request(9004, "POST", "/p", b"to ws")
        self.assertEqual((status, body), (200, b"ws answer"))
        self.assertEqual(server.received, [b"to ws"])
        self.assertEqual(server.peers[0].path, "/p")

    def test_slow_client(self):
        """http: a client that reads slowly stops the upstream; memory stays bounded"""
        sent = []

        def serve(conn, _):
            recv_all(conn)
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            for i in range(1000):
                conn.sendall(bytes(65536))
                sent.append(i)
        TcpServer(9001, serve)
        proxy = self.start(listener("l", "HTTP", 9000, cluster("TCP", 9001)), measured=True)
        peak = Peak(proxy)
        with connect(9000) as s:
            s.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            time.sleep(1.5)
        self.assertLess(len(sent), 400)
        self.assertLess(peak.grown(), 24 * 1024)

    def test_noise(self):
        """http: noise, over-long heads, smuggling attempts, slow heads"""
        self.start(listener("l", "HTTP", 9000, inline("Echo")))
        rng = random.Random(11)
        slow = connect(9000)
        slow.sendall(b"GET / HTTP/1.1\r\nHost:")
        for data in [rng.randbytes(rng.randrange(1, 4000)) for _ in range(8)] + [
                b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20000, b"GET " + b"a" * 100_000,
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\nx",
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc",
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\nx",
                b"GET http://[::1 HTTP/1.1\r\n\r\n", b"\r\n" * 1000, b"GET / HTTP/9.9\r\n\r\n"]:
            with connect(9000) as s:
                try:
                    s.sendall(data)
                    s.shutdown(socket.SHUT_WR)
                    s.settimeout(30)
                    recv_all(s)
                except OSError:
                    pass
        self.assertEqual(request(9000, "POST", "/", b"fine")[:2], (200, b"fine"))
        slow.close()
        self.later(lambda: not self.sessions(), 15)


if __name__ == "__main__":
    l7test.main()
