#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: long
"""The admin server: a way in for the operator that the data plane can't block."""
import http.client
import json
import os
import socket
import struct
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402

PORT = 1235
CLUSTER = b'{"cluster": {"name": "%s", "spec": {"protocol": "Echo"}}}'


def forward(name, port, to):
    return {"name": name, "spec": {"protocol": "TCP", "port": port, "address": "127.0.0.1"}, "rules": [{"action": {"route": {
        "destination": {"spec": {"protocol": "TCP", "port": to}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}}}}]}


def connect(port=PORT):
    s = socket.create_connection(("127.0.0.1", port), timeout=60)
    return s


def rest(s):
    """All that the server says until it closes."""
    out = b""
    try:
        while data := s.recv(65536):
            out += data
    except ConnectionResetError:
        pass
    s.close()
    return out


def raw(data, port=PORT):
    s = connect(port)
    s.sendall(data)
    return rest(s)


def status(answer):
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def post(name, length=None, more=b""):
    body = CLUSTER % name.encode()
    return (b"POST /api/v1/clusters HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + more +
            b"Content-Length: %d\r\n\r\n" % (len(body) if length is None else length) + body)


def plain(path, port=PORT, headers=None, method="GET"):
    conn = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        conn.request(method, path, headers=headers or {})
        r = conn.getresponse()
        return r.status, r.read().decode(), {k.lower(): v for k, v in r.getheaders()}
    finally:
        conn.close()


class Base(unittest.TestCase):
    def start(self, *listeners, server=None, **admin):
        admin["server"] = {} if server is None else server
        self.proxy = l7test.Proxy({"admin": admin, "listeners": [l7test.controller(), *listeners]})
        self.api = l7test.Api(PORT)

    def tearDown(self):
        if self.proxy.alive():
            self.proxy.stop(seconds=60)

    def names(self):
        return [c["name"] for c in self.api.get("/clusters")[1]]


class Use(Base):
    def test_everything(self):
        """the API, metrics, probes and the OpenAPI text; each connection is for one request"""
        self.start()
        self.assertEqual(self.api.get("/admin")[1]["server"], {"address": "127.0.0.1", "port": PORT, "threads": 4})
        self.assertEqual(self.api.yaml("/clusters", "cluster: {name: a/b, spec: {protocol: Echo}}")[0], 200)
        self.assertEqual(self.api.get("/clusters/a%2Fb")[1]["name"], "a/b")
        self.assertEqual(self.api.last_headers["connection"], "close")
        self.assertEqual(self.api.get("/clusters/nothing")[0], 404)
        self.assertEqual(self.api.delete("/clusters/a%2Fb")[0], 200)
        self.assertEqual(self.api.call("PATCH", "/clusters")[0], 405)
        self.assertEqual(self.api.get("/sessions")[1], [])  # an admin request is no session
        for path in ("/healthz", "/readyz"):
            self.assertEqual(plain(path)[0], 200, path)
            self.assertEqual(plain(path, method="POST")[0], 405, path)
        code, text, headers = plain("/metrics")
        self.assertEqual((code, "l7mp_build_info" in text, headers["content-type"].split(";")[0]), (200, True, "text/plain"))
        self.assertNotIn("session_packet_counter_total", text)
        self.assertEqual(json.loads(plain("/openapi.json")[1])["openapi"][:2], "3.")
        self.assertEqual(plain("/openapi.yaml")[2]["content-type"], "application/yaml")
        code, text, headers = plain("/api/v1/admin", method="HEAD")
        self.assertEqual((code, text, int(headers["content-length"]) > 100), (200, "", True))
        for path in ("/", "/etc/passwd", "/../../etc/passwd", "/api/v2/config", "/metrics/x"):
            self.assertEqual(plain(path)[0], 404, path)

    def test_config_goes_back(self):
        """what GET shows can be posted back, and it changes nothing"""
        self.start()
        config = self.api.get("/config")[1]
        self.assertEqual(self.api.post("/config", config)[0], 200)
        self.assertEqual(self.api.get("/config")[1]["admin"], config["admin"])
        self.assertEqual(plain("/healthz")[0], 200)

    def test_who_may(self):
        """the same rule as for the controller; probes need none, as they say nothing"""
        token = f"/tmp/l7mp-test-admin-token-{os.getpid()}"
        with open(os.open(token, os.O_CREAT | os.O_WRONLY, 0o600), "w") as f:
            f.write("s3cret\n")
        try:
            self.start()
            for host, origin, expected in (("localhost", None, 200), ("example.org", None, 403), ("127.0.0.1:1235", "http://example.org", 403),
                                           ("localhost", "http://localhost:8080", 200), ("localhost", "null", 403)):
                headers = {"Host": host, **({"Origin": origin} if origin else {})}
                self.assertEqual(plain("/api/v1/admin", headers=headers)[0], expected, headers)
                self.assertEqual(plain("/metrics", headers=headers)[0], expected, headers)
                self.assertEqual(plain("/healthz", headers=headers)[0], 200, headers)
            self.proxy.stop(seconds=60)
            self.start(api_token_file=token)
            self.assertEqual([plain(p)[0] for p in ("/api/v1/config", "/metrics", "/openapi.json", "/healthz", "/readyz")], [401, 401, 401, 200, 200])
            auth = {"Authorization": "Bearer s3cret"}
            self.assertEqual([plain(p, headers=auth)[0] for p in ("/api/v1/config", "/metrics", "/openapi.json")], [200, 200, 200])
        finally:
            os.unlink(token)

    def test_bodies(self):
        """limits.max_body, chunked bodies, Expect; an unwanted body does not prevent the answer"""
        self.start(limits={"max_body": 4096})
        self.assertEqual(self.api.post("/clusters", {"cluster": {"name": "x" * 5000, "spec": {"protocol": "Echo"}}})[0], 413)
        self.assertEqual(status(raw(post("big", 10 ** 12))), 413)
        body = CLUSTER % b"chunks"
        pieces = b"".join(b"%x\r\n%s\r\n" % (len(body[i:i + 7]), body[i:i + 7]) for i in range(0, len(body), 7))
        head = b"POST /api/v1/clusters HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
        self.assertEqual(status(raw(head + b"\r\n" + pieces + b"0\r\n\r\n")), 200)
        self.assertEqual(status(raw(head + b"\r\nzz\r\nx")), 400)
        self.assertEqual(status(raw(head + b"\r\n" + b"".join(b"400\r\n" + b" " * 1024 + b"\r\n" for _ in range(5)) + b"0\r\n\r\n")), 413)
        s = connect()
        s.sendall(post("expects", 57 + 7, b"Expect: 100-continue\r\n").split(b"\r\n\r\n")[0] + b"\r\n\r\n")
        self.assertEqual(s.recv(100), b"HTTP/1.1 100 Continue\r\n\r\n")
        body = CLUSTER % b"expects"
        s.sendall(body + b" " * (64 - len(body)))
        self.assertEqual(status(rest(s)), 200)
        s = connect()
        s.sendall(post("expects2", 10 ** 9, b"Expect: 100-continue\r\n").split(b"\r\n\r\n")[0] + b"\r\n\r\n")
        self.assertEqual(status(s.recv(100)), 413)
        s.close()
        self.assertEqual(status(raw(post("no", None, b"Expect: 200-maybe\r\n"))), 417)
        self.assertEqual(sorted(n for n in self.names() if n != "l7mp-controller"), ["chunks", "expects"])

    def test_malformed(self):
        """what civetweb can't read or represent is refused, and nothing behind it is read as a request"""
        self.start()
        self.assertEqual(self.api.post("/clusters", {"cluster": {"name": "victim", "spec": {"protocol": "Echo"}}})[0], 200)
        hidden = b"DELETE /api/v1/clusters/victim HTTP/1.1\r\nHost: localhost\r\n\r\n"
        head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
        length = b"Content-Length: %d\r\n\r\n" % len(hidden) + hidden

        def fields(n):
            return b"".join(b"X-%d: v\r\n" % i for i in range(n))
        cases = [
            ("62 more fields", head + fields(62) + b"\r\n" + hidden, 200),
            ("64 fields", head + fields(63) + b"\r\n", 400),
            ("65 fields, then a length", head + fields(63) + length, 400),
            ("300 fields, then a length", head + fields(299) + length, 400),
            ("folded", head + b"X: a\r\n b\r\n" + length, 400),
            ("folded with a tab", head + b"X: a\r\n\tb\r\n" + length, 400),
            ("folded first", b"GET /healthz HTTP/1.1\r\n X: a\r\nHost: localhost\r\n" + length, 400),
            ("nameless", head + b": a\r\n" + length, 400),
            ("nameless first", b"GET /healthz HTTP/1.1\r\n: a\r\nHost: localhost\r\n" + length, 400),
            ("no colon", head + b"X\r\n" + length, 400),
            ("blank before the colon", head + b"Content-Length : %d\r\n\r\n" % len(hidden) + hidden, 400),
            ("bare LF", head + b"X: a\n" + length, 400),
            ("bare LF all over", (head + length).replace(b"\r\n", b"\n"), 400),
            ("bare CR", head + b"X: a\rb\r\n" + length, 400),
            ("NUL", head + b"X: a\0\r\n" + length, 400),
            ("two lengths", head + b"Content-Length: 0\r\n" + length, 400),
            ("two equal lengths", head + b"Content-Length: %d\r\n" % len(hidden) + length, 400),
            ("a list of lengths", head + b"Content-Length: 0, %d\r\n\r\n" % len(hidden) + hidden, 400),
            ("signed length", head + b"Content-Length: +%d\r\n\r\n" % len(hidden) + hidden, 400),
            ("hexadecimal length", head + b"Content-Length: 0x10\r\n\r\n" + hidden, 400),
            ("huge length", head + b"Content-Length: 99999999999999999999\r\n\r\n" + hidden, 400),
            ("length and coding", head + b"Transfer-Encoding: chunked\r\n" + length, 400),
            ("two codings", head + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, 400),
            ("another coding", head + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + hidden, 400),
            ("coding in 1.0", b"GET /healthz HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, 400),
            ("no Host", b"GET /healthz HTTP/1.1\r\n\r\n", 400),
            ("two Hosts", head + b"Host: localhost\r\n\r\n", 400),
            ("pipelined", head + b"\r\n" + hidden, 200),
            ("upgrade", head + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
             b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" + hidden, 200),
            ("1.0", b"GET /healthz HTTP/1.0\r\n\r\n", 200),
            ("2.0", b"GET /healthz HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
            ("absolute form", b"GET http://localhost:1235/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
            ("another server", b"GET http://example.org/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
            ("asterisk", b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
            ("preflight", b"OPTIONS /healthz HTTP/1.1\r\nHost: localhost\r\nOrigin: http://example.org\r\nAccess-Control-Request-Method: POST\r\n\r\n", 405),
            ("CONNECT", b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
            ("a head that is too long", head + b"X: " + b"a" * 40000 + b"\r\n\r\n", 400),
            ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 600, 400),
            ("no request", b"hello\r\n\r\n", 400),
        ]
        for name, data, expected in cases:
            answer = raw(data)
            self.assertEqual((status(answer), answer.count(b"HTTP/1.1 ")), (expected, 1), f"{name}: {answer}")
        self.assertIn("victim", self.names())
        self.assertNotIn("access-control", plain("/healthz", headers={"Origin": "http://localhost"})[2])


class Hostile(Base):
    def slow_bodies(self, n):
        conns = [connect() for _ in range(n)]
        for i, s in enumerate(conns):
            s.sendall(post(f"slow{i}", 10 ** 6))
        return conns

    def test_slow_bodies(self):
        """bodies that come byte by byte hold their threads only for a while; meanwhile the answer is 503 and not silence"""
        self.start()
        conns = self.slow_bodies(4)
        stop = threading.Event()

        def drip():
            while not stop.wait(0.3):
                for s in conns:
                    try:
                        s.send(b" ")
                    except OSError:
                        pass
        t = threading.Thread(target=drip)
        t.start()
        try:
            self.assertTrue(l7test.wait_for(lambda: plain("/healthz")[0] == 503, 30))
            code, text, headers = plain("/api/v1/config")
            self.assertEqual((code, "threads" in text, headers.get("retry-after")), (503, True, "1"))
            # The listeners of the data plane, and their API, don't notice.
            self.assertEqual(self.proxy.api.get("/admin")[0], 200)
            for s in conns:
                s.settimeout(60)
            self.assertEqual([status(rest(s)) for s in conns], [408] * 4)
            self.assertEqual(plain("/healthz")[0], 200)
        finally:
            stop.set()
            t.join()
        self.assertEqual(self.names(), ["l7mp-controller"])

    def test_slow_heads(self):
        """half a request on each thread, and more waiting: an operator gets in when their time is over"""
        self.start()
        conns = [connect() for _ in range(8)]
        for s in conns:
            s.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
        self.assertEqual(plain("/healthz")[0], 200)
        for s in conns:
            s.close()

    def test_slow_readers(self):
        """answers that are not read hold neither the loop nor, for long, a thread"""
        self.start()
        # More than the sockets' buffers take: 12 MB.
        for i in range(60):
            rules = [{"name": f"r{i}-{j}", "match": {"op": "test", "path": "/x", "value": "y" * 20000}, "action": {}} for j in range(10)]
            code, body = self.api.post("/rulelists", {"rulelist": {"name": f"l{i}", "rules": rules}})
            self.assertEqual(code, 200, body)
        conns = []
        while len(conns) < 4:
            s = socket.socket()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            s.settimeout(60)
            s.connect(("127.0.0.1", PORT))
            s.sendall(b"GET /api/v1/rulelists?recursive=true HTTP/1.1\r\nHost: localhost\r\n\r\n")
            if s.recv(12) == b"HTTP/1.1 200":
                conns.append(s)
            else:  # the thread of the request before was not free yet
                s.close()
        self.assertTrue(l7test.wait_for(lambda: plain("/healthz")[0] == 503, 30))
        self.assertEqual(self.proxy.api.get("/admin")[0], 200)
        self.assertTrue(l7test.wait_for(lambda: plain("/healthz")[0] == 200, 60))
        for s in conns:
            s.close()

    def test_limits_do_not_reach_it(self):
        """max_sessions is reached on the data plane, and its API is shut: the admin server still answers"""
        self.start(forward("relay", 2001, 2002), limits={"max_sessions": 3})
        echo = l7test.TcpEcho(2002)
        conns = [connect(2001) for _ in range(5)]
        try:
            self.assertTrue(l7test.wait_for(lambda: len(self.api.get("/sessions")[1]) == 3, 30))
            self.assertEqual(self.proxy.api.get("/admin")[0], 503)
            self.assertEqual(self.api.get("/admin")[0], 200)
            self.assertEqual(self.api.post("/admin", {"admin": {"limits": {"max_sessions": 100}}})[0], 200)
            self.assertEqual(self.proxy.api.get("/admin")[0], 200)
        finally:
            for s in conns:
                s.close()
            echo.close()

    def test_request_without_client(self):
        """a request that waited for a thread while its client went away is not served, whatever comes from where"""
        self.start(forward("relay", 2001, PORT), server={"threads": 1})
        self.assertEqual(l7test.Api(2001).get("/admin")[0], 200)  # from this host, through the relay
        holders = [connect() for _ in range(2)]
        for s in holders:
            s.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
        time.sleep(0.2)
        fork = json.dumps({"listener": {"name": "evil", "spec": {"protocol": "TCP", "port": 2003}, "rules": [{"action": {"route": {"destination": {
            "spec": {"protocol": "STDIO-fork", "command": ["sh"]}, "endpoints": [{"spec": {}}]}}}}]}}).encode()
        data = (b"POST /api/v1/listeners HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n" % len(fork) + fork)
        for port in (2001, PORT):  # through the relay, and directly
            for how in ("reset", "closed"):
                s = connect(port)
                s.sendall(data.replace(b"evil", b"evi" + how[:1].encode()))
                # The relay has passed it on.
                if port == 2001:
                    l7test.wait_for(lambda: any(int(x["stats"]["ingress"]["slow"]["bytes"] if "slow" in x["stats"]["ingress"] else x["stats"]["ingress"]["bytes"]) >= len(data)
                                                for x in self.proxy.api.get("/sessions")[1] if x["name"].startswith("TCP:")), 20)
                if how == "reset":
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                s.close()
        self.assertTrue(l7test.wait_for(lambda: not [x for x in self.proxy.api.get("/sessions")[1] if x["name"].startswith("TCP:")], 30))
        for s in holders:
            s.close()
        self.assertTrue(l7test.wait_for(lambda: plain("/healthz")[0] == 200, 60))
        self.assertTrue(l7test.wait_for(lambda: "403" in json.dumps(self.refusals()), 30))
        # The one thread may still be busy with one of them: 503 then.
        self.assertTrue(l7test.wait_for(lambda: self.api.get("/listeners")[0] == 200, 60))
        self.assertEqual([x["name"] for x in self.api.get("/listeners")[1]], ["controller-listener", "relay"])

    def refusals(self):
        return [line for line in plain("/metrics")[1].splitlines() if line.startswith("l7mp_rest_requests_total")]


class Life(Base):
    def test_rebind(self):
        """the address is changed by POST and by SIGHUP, the old one answers what it has begun; a port in use is refused and changes nothing"""
        self.start()
        half = connect()
        half.sendall(post("half", None)[:-10])
        self.assertTrue(l7test.wait_for(lambda: self.api.post("/admin", {"admin": {"server": {"port": 1236}}})[0] == 200))
        self.assertEqual(plain("/healthz", 1236)[0], 200)
        half.sendall(post("half", None)[-10:])
        self.assertIn(status(rest(half)), (200, 0))  # the old server was being stopped
        api = l7test.Api(1236)
        code, body = api.post("/admin", {"admin": {"server": {"port": 1234}}})
        self.assertEqual((code, "admin.server" in body["message"], "address already in use" in body["message"]), (400, True, True), body)
        self.assertEqual(api.get("/admin")[1]["server"]["port"], 1236)
        # More threads at the same address: the new server begins when the old one is gone.
        self.assertEqual(api.post("/admin", {"admin": {"server": {"threads": 2}}})[0], 200)
        self.assertTrue(l7test.wait_for(lambda: api.get("/admin")[1].get("server", {}).get("threads") == 2, 30))
        config = api.get("/config")[1]
        config["admin"]["server"] = {"port": 1237}
        with open(self.proxy.path, "w") as f:
            json.dump({k: config[k] for k in ("admin", "listeners", "clusters", "rulelists", "rules", "routes")}, f)
        self.proxy.hup()
        self.assertTrue(l7test.wait_for(lambda: plain("/readyz", 1237)[0] == 200, 30))
        self.assertTrue(l7test.wait_for(lambda: self.gone(1236), 30))
        self.assertEqual(l7test.Api(1237).post("/admin", {"admin": {"server": {"enabled": False}}})[0], 200)
        self.assertTrue(l7test.wait_for(lambda: self.gone(1237), 30))
        self.assertNotIn("server", self.proxy.api.get("/admin")[1])
        self.assertEqual(self.proxy.api.post("/admin", {"admin": {"server": {"enabled": True}}})[0], 200)
        self.assertTrue(l7test.wait_for(lambda: plain("/readyz", 1237)[0] == 200, 30))

    def test_restart_under_load(self):
        """connections that come while the server is replaced are answered or closed, and none stays open"""
        self.start(server={"threads": 2})
        answered, over, silent = [0], threading.Event(), []

        def client():
            while not over.is_set():
                try:
                    answered[0] += l7test.Api(PORT).get("/admin")[0] == 200
                except TimeoutError as e:
                    silent.append(e)
                except (OSError, http.client.HTTPException):
                    pass  # refused, or closed without an answer

        clients = [threading.Thread(target=client) for _ in range(6)]
        for t in clients:
            t.start()
        try:
            for i in range(20):
                threads = 3 - i % 2
                self.assertEqual(self.proxy.api.post("/admin", {"admin": {"server": {"threads": threads}}})[0], 200)
                before = answered[0]
                self.assertTrue(l7test.wait_for(lambda: answered[0] > before + 6))
        finally:
            over.set()
            for t in clients:
                t.join()
        self.assertEqual(silent, [])
        self.assertEqual(self.proxy.api.post("/admin", {"admin": {"server": {"enabled": False}}})[0], 200)
        self.assertTrue(l7test.wait_for(lambda: self.gone(PORT)))
        self.assertTrue(l7test.wait_for(lambda: self.connections(PORT) == 0), self.connections(PORT))

    @staticmethod
    def connections(port):
        """TCP sockets of the server's port that belong to a process: those in /proc/net/tcp that have an inode."""
        with open("/proc/net/tcp") as f:
            rows = [line.split() for line in f.readlines()[1:]]
        return sum(r[1].endswith(f":{port:04X}") and r[9] != "0" for r in rows)

    @staticmethod
    def gone(port):
        try:
            connect(port).close()
            return False
        except ConnectionRefusedError:
            return True

    def test_start_fails(self):
        """a port in use, or an address that is not here, ends the start with one clear message"""
        self.start()
        for server, message in (({"port": 1234}, "admin.server: port 1234: address already in use"),
                                ({"address": "192.0.2.1"}, "admin.server"), ({"address": "::1"}, "expected an IPv4 address"),
                                ({"port": 70000}, "admin.server.port"), ({"threads": 0}, "admin.server.threads")):
            path = os.path.join(self.proxy.dir.name, "other.json")
            with open(path, "w") as f:
                json.dump({"admin": {"server": server}, "listeners": []}, f)
            code, _, err = l7test.run_proxy("-c", path)
            self.assertEqual((code, message in err), (1, True), err)

    def test_shutdown(self):
        """SIGTERM under load and with silent clients: answers until the end, exit status 0"""
        self.start(forward("relay", 2001, 2002))
        echo = l7test.TcpEcho(2002)
        seen, stop = [], threading.Event()

        def hammer():
            while not stop.is_set():
                try:
                    seen.append(plain("/api/v1/config")[0])
                except (OSError, http.client.HTTPException):
                    pass
        threads = [threading.Thread(target=hammer) for _ in range(6)]
        for t in threads:
            t.start()
        silent = [connect() for _ in range(3)]
        silent[0].sendall(b"GET /healthz HTTP/1.1\r\n")
        silent[1].sendall(post("silent", 1000))
        held = connect(2001)
        held.sendall(b"x")
        self.assertEqual(held.recv(1), b"x")
        try:
            self.assertTrue(l7test.wait_for(lambda: seen.count(200) > 20, 60))
            self.proxy.stop(seconds=60)
        finally:
            stop.set()
            for t in threads:
                t.join()
            for s in (*silent, held):
                s.close()
            echo.close()
        self.assertEqual(set(seen) - {200, 503}, set())


if __name__ == "__main__":
    l7test.main()
