#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Every file of config/ is valid, starts, and does what its first lines promise; so are the YAML blocks of the documents."""
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import unittest
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402
import yaml  # noqa: E402

FILES = sorted(p for p in (l7test.ROOT / "config").iterdir() if p.suffix in (".yaml", ".yml", ".json"))

PACKAGED = l7test.ROOT / "config" / "l7mp-packaged.yaml"


def tcp(port=15000, path=None):
    s = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
    s.settimeout(30)
    s.connect(path or ("127.0.0.1", port))
    return s


def ask(s, data):
    s.sendall(data)
    got = b""
    while len(got) < len(data):
        piece = s.recv(65536)
        if not piece:
            break
        got += piece
    s.close()
    return got


class Uses:
    """One function per example: uses(test, proxy)."""

    @staticmethod
    def access_log(t, p):
        t.assertEqual(ask(tcp(), b"hello"), b"hello")
        t.assertTrue(l7test.wait_for(lambda: any(json.loads(x)["name"].startswith("TCP:") for x in open("/tmp/l7mp-example-access.log"))))
        t.assertTrue(any(s["name"].startswith("TCP:") for s in p.api.get("/sessions")[1]), "an ended session stays listed (track)")
        for line in p.stderr().splitlines():
            json.loads(line)

    @staticmethod
    def http_echo(t, p):
        t.assertEqual(l7test.Api(15000).call("POST", "/api/x", "hello", "text/plain"), (200, "hello"))

    @staticmethod
    def rules(t, p):
        t.assertEqual(l7test.Api(15000).call("POST", "/api/anything", "hello", "text/plain"), (200, "hello"))
        import http.client
        conn = http.client.HTTPConnection("127.0.0.1", 15000, timeout=60)
        conn.request("GET", "/")
        t.assertEqual(conn.getresponse().status, 404)
        conn.close()

    @staticmethod
    def tcp_balance(t, p):
        a = l7test.TcpEcho(16000, "127.0.0.2")  # the other endpoint is down: retries find this one
        for _ in range(6):
            t.assertEqual(ask(tcp(), b"hello"), b"hello")
        a.close()

    @staticmethod
    def udp_relay(t, p):
        e = l7test.UdpEcho(16000)
        for _ in range(3):
            with l7test.udp_socket() as u:
                u.sendto(b"hello", ("127.0.0.1", 15000))
                t.assertEqual(u.recv(100), b"hello")
        t.assertEqual(len({peer for peer, _ in e.seen}), 3, "each client has an upstream port of its own")
        e.close()

    @staticmethod
    def udp_singleton(t, p):
        with l7test.udp_socket(15001) as u:
            u.sendto(b"hello", ("127.0.0.1", 15000))
            t.assertEqual(u.recv(100), b"hello")

    @staticmethod
    def hash_ring(t, p):
        a, b = l7test.UdpEcho(16000, "127.0.0.1"), l7test.UdpEcho(16000, "127.0.0.2")
        for host in ("127.0.0.1", "127.0.0.3", "127.0.0.4"):
            seen = set()
            for _ in range(4):
                na, nb = len(a.seen), len(b.seen)
                with l7test.udp_socket(host=host) as u:
                    u.sendto(b"x", ("127.0.0.1", 15000))
                    t.assertEqual(u.recv(10), b"x")
                seen.add("a" if len(a.seen) > na else "b" if len(b.seen) > nb else "?")
            t.assertEqual(len(seen), 1, "one source address, one endpoint")
        a.close()
        b.close()

    @staticmethod
    def unix(t, p):
        e = l7test.TcpEcho(16000)
        t.assertEqual(ask(tcp(path="/tmp/l7mp-example.sock"), b"hello"), b"hello")
        e.close()
        server = socket.socket(socket.AF_UNIX)
        server.bind("\0l7mp-example")
        server.listen()
        server.settimeout(30)
        s = tcp()
        s.sendall(b"hello")
        conn, _ = server.accept()
        t.assertEqual(conn.recv(100), b"hello")
        for x in (s, conn, server):
            x.close()

    @staticmethod
    def ws_to_udp(t, p):
        e = l7test.UdpEcho(16000)
        s = tcp()
        s.sendall(b"GET /media HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                  b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
        t.assertIn(b" 101 ", s.recv(4096))
        s.sendall(b"\x82\x85\0\0\0\0hello")
        t.assertEqual(s.recv(100), b"\x82\x05hello")
        s.close()
        e.close()

    @staticmethod
    def tls(t, p):
        e = l7test.TcpEcho(16000)
        context = ssl.create_default_context(cafile=CERT)
        t.assertEqual(ask(context.wrap_socket(tcp(), server_hostname="localhost"), b"hello"), b"hello")
        e.close()

    @staticmethod
    def wss(t, p):
        with l7test.udp_socket() as u:
            u.sendto(b"hello", ("127.0.0.1", 15000))
            t.assertEqual(u.recv(100), b"hello")

    @staticmethod
    def https(t, p):
        with urllib.request.urlopen("https://localhost:15443/api/v1/config", timeout=60,
                                    context=ssl.create_default_context(cafile=CERT)) as r:
            t.assertIn("api-https", r.read().decode())


CERT = "/tmp/l7mp-example.pem"


def prepare(path):
    """Makes what an example takes for granted: its network interface; a certificate, by the command in its first lines."""
    text = path.read_text()
    for name in re.findall(r"interface: (eth\d+)", text):
        if not l7test.ISOLATED:
            raise unittest.SkipTest("needs root for namespaces")
        if name not in (n for _, n in socket.if_nameindex()):
            subprocess.run(["ip", "link", "add", name, "up", "type", "veth"], check=True, timeout=30)
    if CERT not in text:
        return
    command = re.search(r"(openssl req(?:.*\\\n)*.*)", re.sub(r"^#\s*", "", text, flags=re.M)).group(1)
    subprocess.run(command, shell=True, check=True, capture_output=True, timeout=30)


USES = {
    "access-log": Uses.access_log, "consistent-hash": Uses.hash_ring, "http-echo": Uses.http_echo, "rules": Uses.rules,
    "tcp-proxy": Uses.tcp_balance, "udp-relay": Uses.udp_relay, "udp-singleton": Uses.udp_singleton, "unix-to-tcp": Uses.unix,
    "websocket-gateway": Uses.ws_to_udp, "tls-tcp": Uses.tls, "wss": Uses.wss, "api-https": Uses.https,
}


class Packaged(unittest.TestCase):
    def test_packaged(self):
        """l7mp-packaged.yaml starts with a token made as it says, and l7mpctl finds its way"""
        with tempfile.TemporaryDirectory(prefix="l7mp-test-") as tmp:
            token = os.path.join(tmp, "token")
            subprocess.run(f"(umask 077; openssl rand -hex 32 > {token}) && chmod 640 {token}", shell=True, check=True, timeout=30)
            config = os.path.join(tmp, "l7mp.yaml")
            with open(config, "w") as f:
                f.write(PACKAGED.read_text().replace("/etc/l7mp/token", token))
            with l7test.Proxy(config, "-s"):
                self.assertEqual(l7test.Api(1235).get("/config")[0], 401)
                r = subprocess.run([l7test.program("l7mpctl"), "-t", token, "-o", "json", "admin"], capture_output=True, text=True, timeout=60)
                self.assertEqual((r.returncode, json.loads(r.stdout)["server"]["port"]), (0, 1235), r.stderr)


class Examples(unittest.TestCase):
    def test_valid(self):
        """every example passes -t -s and says in its first line what it is"""
        self.assertGreater(len(FILES), 5)
        for path in FILES:
            status, out, err = l7test.run_proxy("-t", "-s", "-c", str(path))
            self.assertEqual((status, err), (0, ""), path.name)
            if path.suffix != ".json":
                self.assertTrue(path.read_text().startswith("# "), path.name)

    def test_documents(self):
        """the YAML blocks of README and docs/ that are whole configurations are valid in strict mode"""
        n = 0
        with tempfile.TemporaryDirectory(prefix="l7mp-test-") as tmp:
            for page in [l7test.ROOT / "README.md", *sorted((l7test.ROOT / "docs").glob("*.md"))]:
                for block in re.findall(r"^```ya?ml\n(.*?)^```", page.read_text(), re.S | re.M):
                    where = f"{page.name}: {block[:60]!r}"
                    if re.search(r"^(apiVersion|kind):", block, re.M):
                        continue  # objects of Kubernetes: mesh/test_render.py
                    doc = yaml.safe_load(block)
                    self.assertIsNotNone(doc, where)
                    whole = isinstance(doc, dict) and set(doc) <= {"admin", "listeners", "clusters", "rulelists", "rules", "routes", "config"}
                    if not whole:
                        continue
                    # A page may show one section alone; a config without listeners is refused (test_config.py).
                    block += "" if "listeners" in doc or "config" in doc else "\nlisteners: []\n"
                    path = os.path.join(tmp, "block.yaml")
                    with open(path, "w") as f:
                        f.write(block)
                    status, _, err = l7test.run_proxy("-t", "-s", "-c", path)
                    self.assertEqual((status, err), (0, ""), where)
                    n += 1
        print(f"# {n} configurations in documents")
        self.assertGreater(n, 0)


def start_and_use(path):
    def test(self):
        for left in ("/tmp/l7mp-example-access.log", "/tmp/l7mp-example.sock", CERT):
            if os.path.exists(left):
                os.unlink(left)
        prepare(path)
        p = l7test.Proxy(path, "-s")
        try:
            self.assertEqual(p.api.get("/config")[0], 200)
            use = USES.get(path.stem)
            if use:
                use(self, p)
            else:
                print(f"# {path.name}: started only")
        finally:
            p.stop()
        self.assertFalse(os.path.exists("/tmp/l7mp-example.sock"))
    test.__doc__ = f"{path.name} starts, and does what it promises"
    return test


for _path in FILES:
    if _path == PACKAGED:
        continue
    setattr(Examples, "test_file_" + re.sub(r"\W", "_", _path.name), start_and_use(_path))

if __name__ == "__main__":
    l7test.main()
