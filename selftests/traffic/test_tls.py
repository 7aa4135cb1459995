#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""TLS against real peers: openssl s_client and s_server, socat, curl, Python's ssl and websockets, in
both roles; certificates that are wrong, noise, SIGHUP, and the REST API behind a TLS listener."""
import asyncio
import json
import os
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import l7test  # noqa: E402
import websockets  # noqa: E402
from certs import Certs  # noqa: E402
from l7test import Proxy, TcpEcho, controller, wait_for  # noqa: E402


def rule(cluster, **route):
    return [{"action": {"route": {"destination": cluster, **route}}}]


def tcp_tls(port, tls, cluster, **spec):
    return {"name": f"l{port}", "spec": {"protocol": "TCP", "address": "127.0.0.1", "port": port, "tls": tls, **spec},
            "rules": rule(cluster)}


def echo_to(port):
    return {"spec": {"protocol": "TCP", "port": port}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}


def client_context(certs, **kw):
    c = ssl.create_default_context(cafile=certs.path("ca.pem"))
    for k, v in kw.items():
        setattr(c, k, v)
    return c


def read_all(sock):
    data = b""
    while block := sock.recv(65536):
        data += block
    return data


def stop(server):
    """close() alone leaves the port taken while a thread waits in accept()."""
    try:
        server.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    server.close()


class TlsServer(threading.Thread):
    """Python's TLS echo server."""

    def __init__(self, port, context):
        super().__init__(daemon=True)
        self.server = socket.create_server(("127.0.0.1", port))
        self.context = context
        self.names = []
        self.alpn = []
        context.sni_callback = lambda s, name, c: self.names.append(name)
        self.start()

    def run(self):
        while True:
            try:
                conn, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(conn,), daemon=True).start()

    def serve(self, conn):
        try:
            with self.context.wrap_socket(conn, server_side=True) as s:
                self.alpn.append(s.selected_alpn_protocol())
                while data := s.recv(65536):
                    s.sendall(data)
                s.unwrap()
        except OSError:
            pass

    def close(self):
        stop(self.server)


class Base(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory(prefix="l7mp-tls-")
        c = cls.certs = Certs(cls.dir.name)
        c.ca("other")
        cls.good = c.cert("server")
        cls.expired = c.cert("expired", days=-1)
        cls.wrong = c.cert("wrong", san="DNS:somewhere.example")
        cls.client = c.cert("client", san="DNS:client.example")
        cls.untrusted = c.cert("untrusted", ca="other")

    @classmethod
    def tearDownClass(cls):
        cls.dir.cleanup()

    def python_echo(self, port, payload, context=None, name="localhost"):
        context = context or client_context(self.certs)
        with socket.create_connection(("127.0.0.1", port), 30) as raw, \
                context.wrap_socket(raw, server_hostname=name) as s:
            s.sendall(payload)
            data = b""
            while len(data) < len(payload):
                block = s.recv(65536)
                self.assertTrue(block, "ended early")
                data += block
            self.assertEqual(data, payload)
            return s.version()


class Listener(Base):
    def setUp(self):
        self.echo = TcpEcho(7000)
        self.proxy = Proxy({"listeners": [
            controller(),
            tcp_tls(7001, self.good, echo_to(7000)),
            tcp_tls(7002, {**self.good, "client_ca": self.certs.path("ca.pem")}, echo_to(7000)),
        ]})

    def tearDown(self):
        stop(self.echo.server)
        self.echo.close()
        self.proxy.stop()

    def test_python(self):
        """tls: Python's ssl client, 1.2 and 1.3, 300 KB there and back"""
        payload = os.urandom(300000)
        self.assertEqual(self.python_echo(7001, payload), "TLSv1.3")
        old = client_context(self.certs, maximum_version=ssl.TLSVersion.TLSv1_2)
        self.assertEqual(self.python_echo(7001, payload, old), "TLSv1.2")

    def test_openssl(self):
        """tls: openssl s_client verifies the certificate, and ends in order"""
        with subprocess.Popen(["openssl", "s_client", "-connect", "127.0.0.1:7001", "-CAfile",
                               self.certs.path("ca.pem"), "-verify_return_error", "-verify_hostname", "localhost",
                               "-brief"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as p:
            p.stdin.write(b"hello over tls\n")
            p.stdin.flush()
            self.assertEqual(p.stdout.readline(), b"hello over tls\n")
            p.stdin.close()  # close_notify; the echo answers with its own end
            self.assertEqual(p.wait(60), 0)
            self.assertIn(b"Verification: OK", p.stderr.read())

    def test_socat(self):
        """tls: socat's OPENSSL, a file through and back"""
        payload = os.urandom(200000)
        r = subprocess.run(["socat", "-t", "5", "-", f"OPENSSL:localhost:7001,pf=ip4,cafile={self.certs.path('ca.pem')}"],
                           input=payload, capture_output=True, timeout=30)
        self.assertEqual(r.stdout, payload, r.stderr)

    def test_metadata(self):
        """tls: version, cipher, SNI and the client's subject are in the session's metadata"""
        context = client_context(self.certs)
        context.load_cert_chain(self.certs.path("client.pem"), self.certs.path("client.key"))
        with socket.create_connection(("127.0.0.1", 7002), 30) as raw, \
                context.wrap_socket(raw, server_hostname="localhost") as s:
            s.sendall(b"x")
            self.assertEqual(s.recv(1), b"x")
            _, sessions = self.proxy.api.get("/sessions")
            tls = [x["metadata"]["TLS"] for x in sessions if "TLS" in x["metadata"]]
            self.assertEqual(len(tls), 1)
            self.assertEqual(tls[0]["version"], "TLSv1.3")
            self.assertEqual(tls[0]["sni"], "localhost")
            self.assertEqual(tls[0]["client_subject"], "CN=client")
            self.assertEqual(tls[0]["client_cn"], "client")
            self.assertEqual(tls[0]["cipher"], s.cipher()[0])

    def tls_of(self, pair):
        """The TLS metadata of a client with this certificate; None: it gets no session."""
        context = client_context(self.certs)
        context.load_cert_chain(self.certs.path(f"{pair}.pem"), self.certs.path(f"{pair}.key"))
        try:
            with socket.create_connection(("127.0.0.1", 7002), 30) as raw, context.wrap_socket(raw, server_hostname="localhost") as s:
                s.sendall(b"x")
                if not s.recv(1):
                    return None
                port = s.getsockname()[1]
                return next(x["metadata"]["TLS"] for x in self.proxy.api.get("/sessions")[1] if x["metadata"].get("TCP", {}).get("src_port") == port)
        except OSError:
            return None

    def test_subjects(self):
        """tls: a subject is shown whole or the client is refused, and a CN only when there is one"""
        for name, subject, cn in (("two", "client/CN=ops", None), ("comma", "x,CN=ops", "x,CN=ops"),
                                  ("long", "ops-guest" + "".join(f"/OU={n:02}{'x' * 60}" for n in range(20)), "ops-guest")):
            self.certs.cert(name, cn=subject)
            tls = self.tls_of(name)
            self.assertEqual(tls.get("client_cn"), cn)
            self.assertEqual(tls["client_subject"].count("CN="), {"two": 2, "comma": 2, "long": 1}[name])
            self.assertTrue(tls["client_subject"].endswith({"two": "CN=client", "comma": "CN=x\\,CN=ops", "long": "CN=ops-guest"}[name]), tls)
        self.certs.cert("endless", cn="ops" + "".join(f"/OU={n:02}{'x' * 60}" for n in range(80)))
        self.assertIsNone(self.tls_of("endless"))
        self.assertTrue(wait_for(lambda: "the subject of the client's certificate is longer than 4096 bytes" in self.proxy.stderr()))

    def test_client_certificates(self):
        """tls: a client without a certificate, or with one of another CA, gets no session"""
        for pair in (None, "untrusted"):
            context = client_context(self.certs)
            if pair:
                context.load_cert_chain(self.certs.path(f"{pair}.pem"), self.certs.path(f"{pair}.key"))
            with self.assertRaises(ssl.SSLError), socket.create_connection(("127.0.0.1", 7002), 30) as raw, \
                    context.wrap_socket(raw, server_hostname="localhost") as s:
                s.sendall(b"x")
                s.recv(1)
        self.assertIn("the client showed no certificate", self.proxy.stderr())
        self.assertTrue(wait_for(lambda: "signed by an unknown CA: CN=other" in self.proxy.stderr()))
        self.assertEqual(self.echo.connections, [])

    def test_noise(self):
        """tls: a thousand clients that send noise are dropped, counted, and logged a few times"""
        before = self.proxy.fds()
        for i in range(1000):
            with socket.create_connection(("127.0.0.1", 7001), 30) as s:
                s.sendall(b"GET / HTTP/1.1\r\n\r\n" if i % 2 else os.urandom(64))
                try:
                    s.shutdown(socket.SHUT_WR)
                    while s.recv(4096):
                        pass
                except OSError:
                    pass
        self.assertTrue(wait_for(lambda: self.proxy.fds() <= before + 1))
        self.python_echo(7001, b"still here")
        log = self.proxy.stderr()
        self.assertIn("the peer speaks plain HTTP, expected TLS", log)
        self.assertLess(log.count(" failed: "), 60)
        self.assertEqual(self.echo.connections[1:], [])

    def test_stalled_handshakes(self):
        """tls: 1,100 clients that say nothing do not keep others out; the oldest are given up"""
        idle = [socket.create_connection(("127.0.0.1", 7001), 30) for _ in range(1100)]
        self.assertTrue(wait_for(lambda: "too many handshakes at once" in self.proxy.stderr()))
        self.python_echo(7001, b"still here")
        for s in idle:
            s.close()

    def test_handshake_timeout(self):
        """tls: a handshake that is not done within 10 s is given up"""
        start = time.monotonic()
        with socket.create_connection(("127.0.0.1", 7001), 15) as s:
            s.sendall(b"\x16\x03\x01\x02\x00\x01")
            try:
                self.assertEqual(s.recv(100), b"")
            except ConnectionResetError:
                pass
        self.assertTrue(9 < time.monotonic() - start < 13)
        self.assertIn("not done within 10 s", self.proxy.stderr())


class Reload(Base):
    def test_sighup(self):
        """tls: SIGHUP reads the certificate again; sessions continue; a broken file changes nothing"""
        self.certs.copy("server", "live")
        with Proxy({"listeners": [controller(),
                                  tcp_tls(7001, self.certs.pair("live"), {"spec": {"protocol": "Echo"}})]}) as proxy:
            def serial():
                context = client_context(self.certs)
                with socket.create_connection(("127.0.0.1", 7001), 30) as raw, \
                        context.wrap_socket(raw, server_hostname="localhost") as s:
                    return s.getpeercert()["subject"]

            first = serial()
            raw = socket.create_connection(("127.0.0.1", 7001), 30)
            running = client_context(self.certs).wrap_socket(raw, server_hostname="localhost")
            running.sendall(b"a")
            self.assertEqual(running.recv(1), b"a")
            self.certs.cert("second")
            self.certs.copy("second", "live")
            self.assertEqual(serial(), first)
            proxy.hup()
            self.assertTrue(wait_for(lambda: serial() != first))
            second = serial()
            running.sendall(b"b")
            self.assertEqual(running.recv(1), b"b")
            pathlib.Path(self.certs.path("live.pem")).write_text("broken")
            proxy.hup()
            self.assertTrue(wait_for(lambda: "has no PEM certificate" in proxy.stderr()))
            self.assertEqual(serial(), second)
            running.sendall(b"c")
            self.assertEqual(running.recv(1), b"c")
            running.close()


class Errors(Base):
    def test_files(self):
        """tls: a certificate or key that can't be used is an error at start, which names the file"""
        cases = ((dict(self.good, cert="/nonexistent.pem"), "spec.tls.cert: can't read '/nonexistent.pem'"),
                 (dict(self.good, key=self.expired["key"]), "does not belong to the certificate in"),
                 ({"cert": self.good["cert"]}, "spec.tls.key: "))
        for tls, text in cases:
            for protocol in ("TCP", "WebSocket", "HTTP"):
                listener = tcp_tls(7001, tls, {"spec": {"protocol": "Echo"}})
                listener["spec"]["protocol"] = protocol
                path = os.path.join(self.dir.name, "bad.json")
                pathlib.Path(path).write_text(json.dumps({"listeners": [listener]}))
                status, _, err = l7test.run_proxy("-c", path)
                self.assertEqual(status, 1)
                self.assertIn(text, err)
                self.assertIn("listeners[0].spec.tls", err)


class Names(Base):
    """One listener, several certificates and protocols."""

    def setUp(self):
        self.echo = TcpEcho(7000)
        self.more = [self.certs.cert("shop", san="DNS:shop.example,DNS:*.shop.example"),
                     self.certs.cert("mail", san="DNS:mail.example")]
        self.proxy = Proxy({"listeners": [
            controller(),
            tcp_tls(7001, {**self.good, "certificates": self.more, "alpn": ["sip/2", "dns"],
                           "client_ca": self.certs.path("ca.pem")}, echo_to(7000))]})

    def tearDown(self):
        stop(self.echo.server)
        self.echo.close()
        self.proxy.stop()

    def connect(self, name, alpn=None):
        context = client_context(self.certs)
        context.check_hostname = False
        context.load_cert_chain(self.good["cert"], self.good["key"])
        if alpn:
            context.set_alpn_protocols(alpn)
        with socket.create_connection(("127.0.0.1", 7001), 30) as raw:
            with context.wrap_socket(raw, server_hostname=name) as s:
                s.sendall(b"x")
                self.assertEqual(s.recv(1), b"x")  # also says that the client's certificate was asked for and taken
                names = [v for k, v in s.getpeercert()["subjectAltName"] if k == "DNS"]
                return names[0], s.selected_alpn_protocol()

    def test_sni(self):
        """tls: the certificate is chosen by the name that the client asks for"""
        for name, expected in (("localhost", "localhost"), ("shop.example", "shop.example"),
                               ("a.shop.example", "shop.example"), ("MAIL.example", "mail.example"),
                               ("unknown.example", "localhost"), (None, "localhost")):
            self.assertEqual(self.connect(name)[0], expected, name)

    def test_alpn(self):
        """tls: the listener's order decides among what the client offers, with every certificate"""
        for name in ("localhost", "mail.example"):
            self.assertEqual(self.connect(name, ["h2", "dns", "sip/2"])[1], "sip/2")
            self.assertEqual(self.connect(name, ["dns"])[1], "dns")
            self.assertIsNone(self.connect(name)[1])
            with self.assertRaises(ssl.SSLError) as e:
                self.connect(name, ["h2"])
            self.assertIn("NO_APPLICATION_PROTOCOL", str(e.exception).upper().replace(" ", "_"))

    def test_metadata(self):
        """tls: sessions say what was agreed on"""
        context = client_context(self.certs)
        context.load_cert_chain(self.good["cert"], self.good["key"])
        context.set_alpn_protocols(["dns"])
        with socket.create_connection(("127.0.0.1", 7001), 30) as raw, \
                context.wrap_socket(raw, server_hostname="localhost") as s:
            s.sendall(b"x")
            self.assertEqual(s.recv(1), b"x")
            _, sessions = self.proxy.api.get("/sessions")
            tls = [d["metadata"]["TLS"] for d in sessions if "TLS" in d["metadata"]]
            self.assertEqual((tls[0]["alpn"], tls[0]["sni"]), ("dns", "localhost"))

    def test_bad_certificate(self):
        """tls: a further certificate that can't be used is named"""
        for item, text in (({"cert": "/nowhere.pem", "key": self.good["key"]}, "certificates[0].cert: can't read"),
                           ({"cert": self.more[0]["cert"], "key": self.good["key"]},
                            "certificates[0].key: '")):
            path = os.path.join(self.certs.folder, "bad.json")
            pathlib.Path(path).write_text(json.dumps(
                {"listeners": [tcp_tls(7009, {**self.good, "certificates": [item]}, echo_to(7000))]}))
            status, _, err = l7test.run_proxy("-c", path)
            self.assertEqual(status, 1)
            self.assertIn("listeners[0].spec.tls." + text, err)


class Cluster(Base):
    """A plain TCP listener in front of TLS clusters."""

    def cluster(self, port, address="127.0.0.1", **tls):
        return {"spec": {"protocol": "TCP", "port": port, "tls": tls}, "endpoints": [{"spec": {"address": address}}]}

    def proxy_to(self, cluster, **kw):
        return Proxy({"listeners": [controller(), {
            "name": "plain", "spec": {"protocol": "TCP", "address": "127.0.0.1", "port": 7001},
            "options": {"track": 30}, "rules": rule(cluster, **kw)}]})

    def server(self, pair, port=7443, client_ca=None):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pair["cert"], pair["key"])
        if client_ca:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        server = TlsServer(port, context)
        self.addCleanup(server.close)
        return server

    def send(self, payload=b"over tls"):
        with socket.create_connection(("127.0.0.1", 7001), 30) as s:
            s.settimeout(30)
            s.sendall(payload)
            s.shutdown(socket.SHUT_WR)
            return read_all(s)

    def test_good(self):
        """tls cluster: verified, with SNI, half-close both ways, 1 MB"""
        server = self.server(self.good)
        payload = os.urandom(1 << 20)
        with self.proxy_to(self.cluster(7443, ca=self.certs.path("ca.pem"), sni="localhost")):
            self.assertEqual(self.send(payload), payload)
        self.assertEqual(server.names, ["localhost"])
        server.close()

    def failure(self, proxy):
        def events():
            _, sessions = proxy.api.get("/sessions")
            texts = [e.get("message") or "" for s in sessions if s["name"].startswith("TCP") for e in s["events"]]
            return texts if any("TLS" in t for t in texts) else None

        try:
            self.assertEqual(self.send(), b"")
        except OSError:
            pass
        return "\n".join(wait_for(events) or [])

    def test_refused(self):
        """tls cluster: expired, wrong name and unknown CA are in the session's events, with details"""
        ca = {"ca": self.certs.path("ca.pem")}
        cases = ((self.expired, ca, "the certificate has expired: it was valid until 20"),
                 (self.wrong, ca, "the certificate has the wrong name: expected 127.0.0.1, got somewhere.example"),
                 (self.good, {**ca, "sni": "db.example"}, "expected db.example, got localhost, 127.0.0.1, ::1"),
                 (self.untrusted, ca, "the certificate is signed by an unknown CA: CN=other"),
                 (self.good, {}, "the certificate is signed by an unknown CA: CN=ca"))
        for pair, tls, text in cases:
            server = self.server(pair)
            with self.proxy_to(self.cluster(7443, **tls)) as proxy:
                self.assertIn(text, self.failure(proxy))
            server.close()

    def test_common_name_alone(self):
        """tls cluster: a certificate without a subjectAltName is refused, whatever its CN (RFC 6125)"""
        for cn, tls in (("localhost", {"sni": "localhost"}), ("127.0.0.1", {})):
            server = self.server(self.certs.cert("cn-only", san=None, cn=cn))
            with self.proxy_to(self.cluster(7443, ca=self.certs.path("ca.pem"), **tls)) as proxy:
                self.assertIn("no subjectAltName", self.failure(proxy))
            server.close()

    def test_alpn(self):
        """tls cluster: what it offers by ALPN, and what the server chooses"""
        server = self.server(self.good)
        server.context.set_alpn_protocols(["dns", "sip/2"])
        for offer, chosen in ((["sip/2", "dns"], "dns"), (["sip/2"], "sip/2"), (None, None)):
            tls = {"ca": self.certs.path("ca.pem"), "sni": "localhost"}
            if offer:
                tls["alpn"] = offer
            with self.proxy_to(self.cluster(7443, **tls)):
                self.assertEqual(self.send(), b"over tls")
            self.assertEqual(server.alpn[-1], chosen)

    def test_not_tls(self):
        """tls cluster: a server that does not speak TLS"""
        server = socket.create_server(("127.0.0.1", 7443))
        threading.Thread(target=lambda: server.accept()[0].sendall(b"220 mail.example ESMTP\r\n"), daemon=True).start()
        with self.proxy_to(self.cluster(7443, insecure=True)) as proxy:
            self.assertIn("what the peer sends is not TLS", self.failure(proxy))
        stop(server)

    def test_insecure(self):
        """tls cluster: insecure takes any certificate"""
        server = self.server(self.expired)
        with self.proxy_to(self.cluster(7443, insecure=True)):
            self.assertEqual(self.send(), b"over tls")
        server.close()

    def test_client_certificate(self):
        """tls cluster: a client certificate is shown; without it the server's alert is in the events"""
        server = self.server(self.good, client_ca=self.certs.path("ca.pem"))
        ca = self.certs.path("ca.pem")
        with self.proxy_to(self.cluster(7443, ca=ca, **self.client)):
            self.assertEqual(self.send(), b"over tls")
        with self.proxy_to(self.cluster(7443, ca=ca)) as proxy:
            self.assertIn("certificate required", self.failure(proxy))
        server.close()

    def test_openssl_server(self):
        """tls cluster: openssl s_server, only TLS 1.2"""
        with subprocess.Popen(["openssl", "s_server", "-accept", "127.0.0.1:7443", "-cert", self.good["cert"], "-key",
                               self.good["key"], "-tls1_2", "-quiet", "-rev"], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, stdin=subprocess.PIPE) as server:
            def listening():
                with socket.create_connection(("127.0.0.1", 7443), 1):
                    return True
            self.assertTrue(wait_for(listening))
            with self.proxy_to(self.cluster(7443, ca=self.certs.path("ca.pem"))):
                with socket.create_connection(("127.0.0.1", 7001), 30) as s:
                    s.settimeout(30)
                    s.sendall(b"abc\n")
                    self.assertEqual(s.recv(10), b"cba\n")
            server.terminate()


class WebSocket(Base):
    def listener(self, port, tls, cluster, **spec):
        listener = tcp_tls(port, tls, cluster, **spec)
        listener["spec"]["protocol"] = "WebSocket"
        return listener

    def test_listener(self):
        """wss listener: Python's websockets; path, HTTP and TLS metadata; text and binary, 1 MB"""
        async def run():
            async with websockets.connect("wss://127.0.0.1:7001/chat?x=1", ssl=client_context(self.certs),
                                          max_size=None) as ws:
                await ws.send("text")
                self.assertEqual(await asyncio.wait_for(ws.recv(), 10), "text")
                big = os.urandom(1 << 20)
                await ws.send(big)
                self.assertEqual(await asyncio.wait_for(ws.recv(), 10), big)
                _, sessions = self.proxy.api.get("/sessions")
                meta = [s["metadata"] for s in sessions if "TLS" in s["metadata"]][0]
                self.assertEqual(meta["HTTP"]["url"]["protocol"], "wss")
                self.assertEqual(meta["HTTP"]["url"]["path"], "/chat")
                self.assertEqual(meta["TLS"]["version"], "TLSv1.3")
                self.assertEqual(meta["IP"]["src_addr"], "127.0.0.1")

        with Proxy({"listeners": [controller(), self.listener(7001, self.good, {"spec": {"protocol": "Echo"}},
                                                              path="/chat")]}) as self.proxy:
            asyncio.run(run())

            async def lost():
                async with websockets.connect("wss://127.0.0.1:7001/other", ssl=client_context(self.certs)):
                    pass
            with self.assertRaises(websockets.exceptions.InvalidStatusCode):
                asyncio.run(lost())

    def test_slow_head(self):
        """wss listener: a request that comes byte by byte"""
        with Proxy({"listeners": [controller(), self.listener(7001, self.good, {"spec": {"protocol": "Echo"}})]}):
            with socket.create_connection(("127.0.0.1", 7001), 30) as raw, \
                    client_context(self.certs).wrap_socket(raw, server_hostname="localhost") as s:
                head = (b"GET /a HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n")
                for b in head:
                    s.sendall(bytes((b,)))
                self.assertIn(b"101", s.recv(4096))

    def test_cluster(self):
        """wss cluster: Python's websockets server; SNI, Host, verification, close code"""
        seen = {}

        async def handler(ws, path=None):
            seen["host"] = ws.request_headers["Host"]
            seen["path"] = ws.path
            async for m in ws:
                if m == b"bye":
                    await ws.close(4001, "done")
                    return
                await ws.send(m)

        def serve(loop, ready, pair):
            async def main():
                context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
                context.load_cert_chain(pair["cert"], pair["key"])
                context.sni_callback = lambda s, name, c: seen.__setitem__("sni", name)
                async with websockets.serve(handler, "127.0.0.1", 7443, ssl=context):
                    ready.set()
                    await stop.wait()
            stop = loop.stop_event = asyncio.Event()
            loop.run_until_complete(main())

        for pair, tls, fails in ((self.good, {"sni": "localhost"}, None),
                                 (self.good, {}, None),
                                 (self.wrong, {}, "the certificate has the wrong name: expected 127.0.0.1"),
                                 (self.expired, {}, "the certificate has expired")):
            loop, ready = asyncio.new_event_loop(), threading.Event()
            thread = threading.Thread(target=serve, args=(loop, ready, pair), daemon=True)
            thread.start()
            self.assertTrue(ready.wait(60))
            cluster = {"spec": {"protocol": "WebSocket", "port": 7443, "path": "/up",
                                "tls": {"ca": self.certs.path("ca.pem"), **tls}},
                       "endpoints": [{"spec": {"address": "127.0.0.1"}}]}
            with Proxy({"listeners": [controller(), {
                    "name": "udp", "spec": {"protocol": "UDP", "address": "127.0.0.1", "port": 7001},
                    "options": {"track": 30}, "rules": rule(cluster)}]}) as proxy:
                with l7test.udp_socket() as s:
                    s.sendto(b"one", ("127.0.0.1", 7001))
                    if not fails:
                        self.assertEqual(s.recv(100), b"one")
                        s.sendto(b"two", ("127.0.0.1", 7001))
                        self.assertEqual(s.recv(100), b"two")
                        self.assertEqual(seen["path"], "/up")
                        self.assertEqual(seen["host"], "127.0.0.1:7443")
                        self.assertEqual(seen.get("sni"), tls.get("sni"))
                        s.sendto(b"bye", ("127.0.0.1", 7001))

                    def text():
                        _, sessions = proxy.api.get("/sessions")
                        own = [x for x in sessions if x["name"].startswith("UDP")]
                        events = json.dumps([x["events"] for x in own])
                        return events if own and own[0]["status"] in ("DESTROYED", "FINALIZING") else None
                    events = wait_for(text)
                    self.assertTrue(events)
                    if fails:
                        self.assertIn(fails, events)
                    seen.clear()
            loop.call_soon_threadsafe(loop.stop_event.set)
            thread.join(5)

    def test_chain(self):
        """wss: TCP over wss over TLS through three proxies' worth of listeners, 4 MB, bytes exact"""
        up = {"spec": {"protocol": "WebSocket", "port": 7002, "tls": {"ca": self.certs.path("ca.pem")}},
              "endpoints": [{"spec": {"address": "127.0.0.1"}}]}
        down = {"spec": {"protocol": "TCP", "port": 7003, "tls": {"ca": self.certs.path("ca.pem")}},
                "endpoints": [{"spec": {"address": "127.0.0.1"}}]}
        echo = TcpEcho(7000)
        with Proxy({"listeners": [
                controller(),
                {"name": "in", "spec": {"protocol": "TCP", "address": "127.0.0.1", "port": 7001}, "rules": rule(up)},
                self.listener(7002, self.good, down),
                tcp_tls(7003, self.good, echo_to(7000))]}) as proxy:
            payload = os.urandom(4 << 20)
            before = proxy.fds()
            with socket.create_connection(("127.0.0.1", 7001), 30) as s:
                s.settimeout(30)
                sender = threading.Thread(target=s.sendall, args=(payload,), daemon=True)
                sender.start()
                data = b""
                while len(data) < len(payload):
                    block = s.recv(1 << 20)
                    self.assertTrue(block)
                    data += block
                self.assertEqual(data, payload)
            self.assertTrue(wait_for(lambda: proxy.fds() <= before), "descriptors are left")
        stop(echo.server)
        echo.close()


@unittest.skipUnless(l7test.ISOLATED, "needs root")
class Https(Base):
    """The REST API behind a TLS listener."""

    def setUp(self):
        self.certs.cert("api", san="IP:127.0.0.1,IP:10.9.0.1,DNS:localhost")
        self.ns = f"l7tls{os.getpid()}"
        self.sh(f"ip netns add {self.ns}")
        self.sh(f"ip link add l7tls0 type veth peer name l7tls1 netns {self.ns}")
        self.sh("ip addr add 10.9.0.1/24 dev l7tls0 && ip link set l7tls0 up")
        self.sh(f"ip -n {self.ns} addr add 10.9.0.2/24 dev l7tls1 && ip -n {self.ns} link set l7tls1 up")
        self.token = os.path.join(self.dir.name, "token")
        pathlib.Path(self.token).write_text("secret\n")
        os.chmod(self.token, 0o600)

    def tearDown(self):
        self.sh(f"ip netns del {self.ns}")

    @staticmethod
    def sh(command):
        subprocess.run(command, shell=True, check=True, timeout=60)

    def config(self, **admin):
        """8443: a TCP listener that takes TLS off in front of the API; 8444: an HTTP listener with tls."""
        tls = self.certs.pair("api")
        return {"admin": admin, "listeners": [
            controller(),
            {"name": "https", "spec": {"protocol": "TCP", "port": 8443, "tls": tls}, "rules": rule(echo_to(1234))},
            {"name": "direct", "spec": {"protocol": "HTTP", "port": 8444, "tls": tls},
             "rules": rule({"spec": {"protocol": "L7mpController"}})}]}

    def curl(self, url, *args, ns=False):
        wrap = ["ip", "netns", "exec", self.ns] if ns else []
        r = subprocess.run([*wrap, "curl", "-sS", "-m", "10", "-o", "/dev/stdout", "-w", "\n%{http_code}", "--cacert",
                            self.certs.path("ca.pem"), *args, url], capture_output=True, timeout=60)
        body, _, status = r.stdout.decode().rpartition("\n")
        return int(status or 0), body, r.stderr.decode()

    def test_local_only(self):
        """https api: answered from this host; refused from another one, although the proxy itself asks"""
        with Proxy(self.config()):
            status, body, err = self.curl("https://127.0.0.1:8443/api/v1/admin")
            self.assertEqual(status, 200, err + body)
            json.loads(body)
            status, body, err = self.curl("https://10.9.0.1:8443/api/v1/admin", ns=True)
            self.assertEqual(status, 403, err + body)
            # The Host that a local client would send does not help.
            status, body, err = self.curl("https://10.9.0.1:8443/api/v1/admin", "-H", "Host: localhost:1234", ns=True)
            self.assertEqual(status, 403, err + body)

    def test_http_listener(self):
        """https api: an HTTP listener with tls answers this host, and refuses another one"""
        with Proxy(self.config()):
            status, body, err = self.curl("https://127.0.0.1:8444/api/v1/admin")
            self.assertEqual(status, 200, err + body)
            status, body, err = self.curl("https://localhost:8444/api/v1/listeners")
            self.assertEqual([x["name"] for x in json.loads(body)], ["controller-listener", "https", "direct"])
            status, body, err = self.curl("https://10.9.0.1:8444/api/v1/admin", ns=True)
            self.assertEqual(status, 403, err + body)

    def test_token(self):
        """https api: from another host with the token, and not without"""
        with Proxy(self.config(api_token_file=self.token), wait=False) as proxy:
            self.assertTrue(wait_for(lambda: socket.create_connection(("127.0.0.1", 8443), 1)))
            status, body, err = self.curl("https://10.9.0.1:8443/api/v1/admin", ns=True)
            self.assertEqual(status, 401, err + body)
            status, body, err = self.curl("https://10.9.0.1:8443/api/v1/config", "-H", "Authorization: Bearer secret",
                                          ns=True)
            self.assertEqual(status, 200, err + body)
            self.assertIn("https", body)
            status, body, err = self.curl("https://10.9.0.1:8443/api/v1/sessions", "-H",
                                          "Authorization: Bearer secret", ns=True)
            names = [s["name"] for s in json.loads(body)]
            self.assertTrue(any(re.match(r"TCP:10\.9\.0\.2:\d+-10\.9\.0\.1:8443", n) for n in names), names)
            self.assertTrue(proxy.alive())


if __name__ == "__main__":
    if not shutil.which("socat"):
        sys.exit("socat is missing")
    l7test.main()
