#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Who may use the REST API: clients on this host only, or clients with the token."""
import errno
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402


def forward(name, spec, destination, endpoint):
    return {"name": name, "spec": spec, "rules": [{"action": {"route": {"destination": {
        "spec": destination, "endpoints": [{"spec": {"address": endpoint}}]}}}}]}


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(self.path)


def status_of(conn, headers=None):
    try:
        conn.request("GET", "/api/v1/config", headers=headers or {})
        r = conn.getresponse()
        r.read()
        return r.status
    finally:
        conn.close()


class Auth(unittest.TestCase):
    def tearDown(self):
        self.proxy.stop()

    def status(self, headers=None, port=1234, host="127.0.0.1"):
        return status_of(http.client.HTTPConnection(host, port, timeout=60), headers)

    def test_host_and_origin(self):
        """a foreign Host or Origin is refused, one that names this host is not"""
        self.proxy = l7test.Proxy()
        mine = socket.gethostname()
        for host in ("localhost", "LOCALHOST:1234", "localhost.", "127.0.0.1", "127.0.0.1:1234", "127.9.9.9", "[::1]:80", mine):
            self.assertEqual(self.status({"Host": host}), 200, host)
        for host in ("example.org", "evil.localhost.example.org", "localhost.example.org", "192.0.2.1", "[2001:db8::1]", "localhost@example.org",
                     "localhost:1234, example.org", "localhost/x", "[::1", "127.0.0.1.example.org", "localhost:x", "0"):
            # What is no host at all is refused by the HTTP listener, before the API sees it.
            self.assertIn(self.status({"Host": host}), (400, 403), host)
        for origin in ("http://localhost", "http://127.0.0.1:8080", "https://[::1]"):
            self.assertEqual(self.status({"Origin": origin}), 200, origin)
        for origin in ("http://example.org", "null", "http://localhost.example.org", "file://", "", "localhost", "http://localhost@example.org"):
            self.assertEqual(self.status({"Origin": origin}), 403, origin)
        status, body = self.proxy.api.call("GET", "/config", headers={"Host": "example.org"})
        self.assertEqual((status, body["status"], "Host" in body["message"]), (403, 403, True))

    def test_unix_in_front(self):
        """through a UNIX listener of this proxy a local client is allowed"""
        path = "/tmp/l7mp-test-auth.sock"
        self.proxy = l7test.Proxy({"listeners": [l7test.controller(), forward(
            "unix", {"protocol": "UnixDomainSocket", "filename": path}, {"protocol": "TCP", "port": 1234}, "127.0.0.1")]})
        self.assertEqual(status_of(UnixConnection(path)), 200)
        self.assertEqual(status_of(UnixConnection(path), {"Host": "example.org"}), 403)

    @unittest.skipUnless(l7test.ISOLATED, "needs root for namespaces")
    def test_remote(self):
        """a client in another namespace is refused, directly and through TCP listeners of this proxy"""
        name = f"l7a{os.getpid()}"

        def sh(text):
            subprocess.run(["bash", "-ec", text], check=True, timeout=60)
        peer = subprocess.Popen(["unshare", "-n", "sleep", "60"])
        try:
            l7test.wait_for(lambda: os.readlink(f"/proc/{peer.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
            sh(f"ip link add {name} type veth peer name {name}p; ip link set {name}p netns {peer.pid}; ip addr add 10.99.0.1/24 dev {name};"
               f"ip link set {name} up; nsenter --net=/proc/{peer.pid}/ns/net bash -ec 'ip link set lo up; ip addr add 10.99.0.2/24 dev {name}p;"
               f"ip link set {name}p up'")
            hop = forward("hop1", {"protocol": "TCP", "port": 2001}, {"protocol": "TCP", "port": 1234}, "127.0.0.1")
            hop2 = forward("hop2", {"protocol": "TCP", "port": 2002}, {"protocol": "TCP", "port": 2001}, "127.0.0.1")
            via_unix = forward("hop3", {"protocol": "TCP", "port": 2003}, {"protocol": "UnixDomainSocket"}, "@l7mp-test-auth")
            unix = forward("unix", {"protocol": "UnixDomainSocket", "filename": "@l7mp-test-auth"}, {"protocol": "TCP", "port": 1234}, "127.0.0.1")
            api = {"protocol": "TCP", "port": 1234}
            # the accepting side hears of these before our own cluster is connected: names, and handshakes on top of TCP
            early = [
                forward("name", {"protocol": "TCP", "port": 2004}, {"protocol": "TCP", "port": 2005}, "localhost"),
                forward("name2", {"protocol": "TCP", "port": 2005}, api, "127.0.0.1"),
                forward("ws", {"protocol": "TCP", "port": 2006}, {"protocol": "WebSocket", "port": 2007}, "127.0.0.1"),
                forward("ws2", {"protocol": "WebSocket", "port": 2007}, api, "127.0.0.1"),
                forward("js", {"protocol": "TCP", "port": 2008}, {"protocol": "JSONSocket", "transport": {"protocol": "TCP", "port": 2009}}, "localhost"),
                forward("js2", {"protocol": "JSONSocket", "transport": {"protocol": "TCP", "port": 2009}}, api, "127.0.0.1"),
            ]
            six = [forward("six", {"protocol": "TCP", "port": 2010}, {"protocol": "TCP", "port": 2011}, "::1"),
                   forward("six2", {"protocol": "TCP", "port": 2011, "address": "::1"}, api, "127.0.0.1")]
            # rules may write what they like into the metadata: the decision does not come from there
            liar = forward("liar", {"protocol": "TCP", "port": 2012}, api, "127.0.0.1")
            liar["rules"][0]["action"]["rewrite"] = [{"path": "/IP/src_addr", "value": "127.0.0.1"}, {"path": "/UNIX/pid", "value": 1}]
            self.proxy = l7test.Proxy({"listeners": [l7test.controller(address="0.0.0.0"), hop, hop2, via_unix, unix, *early, *six, liar]})

            def remote(port, headers=""):
                r = subprocess.run(["nsenter", f"--net=/proc/{peer.pid}/ns/net", "bash", "-c",
                                    f"curl -s -m 5 -o /dev/null -w '%{{http_code}}' {headers} http://10.99.0.1:{port}/api/v1/config"],
                                   capture_output=True, text=True, timeout=60)
                return r.stdout
            for port in (1234, 2001, 2002, 2003, 2004, 2006, 2008, 2010, 2012):
                self.assertEqual(remote(port), "403", port)
                self.assertEqual(remote(port, "-H 'Host: localhost'"), "403", port)
            for port in (1234, 2001, 2002, 2004, 2006, 2008, 2010, 2012):  # from this host all of them are ours
                self.assertEqual(self.status(port=port), 200, port)
            self.assertEqual(self.status(host="10.99.0.1"), 200)
        finally:
            peer.kill()
            peer.wait()

    @unittest.skipUnless(l7test.ISOLATED, "needs root for namespaces")
    def test_udp_says_nothing_of_tcp(self):
        """UDP sessions of remote clients, whose upstream is on this host, take no client's right away: not even from the same port"""
        name = f"l7u{os.getpid()}"
        peer = subprocess.Popen(["unshare", "-n", "sleep", "60"])
        upstream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        upstream.bind(("127.0.0.1", 0))
        upstream.settimeout(30)
        try:
            l7test.wait_for(lambda: os.readlink(f"/proc/{peer.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
            subprocess.run(["bash", "-ec", f"ip link add {name} type veth peer name {name}p; ip link set {name}p netns {peer.pid}; ip addr add 10.99.1.1/24 dev {name};"
                            f"ip link set {name} up; nsenter --net=/proc/{peer.pid}/ns/net bash -ec 'ip addr add 10.99.1.2/24 dev {name}p; ip link set {name}p up'"],
                           check=True, timeout=60)
            self.proxy = l7test.Proxy({"listeners": [l7test.controller(), forward(
                "udp", {"protocol": "UDP", "port": 2001}, {"protocol": "UDP", "port": upstream.getsockname()[1]}, "127.0.0.1")]})
            subprocess.run(["nsenter", f"--net=/proc/{peer.pid}/ns/net", "bash", "-c", "for i in $(seq 50); do echo $i >/dev/udp/10.99.1.1/2001; done"],
                           check=True, timeout=60)
            ports = {upstream.recvfrom(100)[1][1] for _ in range(50)}
            tried = 0
            for port in ports:
                conn = http.client.HTTPConnection("127.0.0.1", 1234, timeout=60, source_address=("127.0.0.1", port))
                try:
                    self.assertEqual(status_of(conn), 200, port)
                except OSError as e:
                    self.assertEqual(e.errno, errno.EADDRINUSE)  # of an earlier connection, in TIME_WAIT
                    continue
                tried += 1
            self.assertGreater(tried, 10)
        finally:
            upstream.close()
            peer.kill()
            peer.wait()

    def test_token(self):
        """with a token file every request needs the token, from everywhere; it is read again"""
        path = f"/tmp/l7mp-test-token-{os.getpid()}"
        with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w") as f:
            f.write("  s3cret \nsecond line\n")
        try:
            self.proxy = l7test.Proxy({"admin": {"api_token_file": path}, "listeners": [l7test.controller()]})
            status, body = self.proxy.api.get("/config")
            self.assertEqual((status, body["status"], self.proxy.api.last_headers["www-authenticate"].split()[0]), (401, 401, "Bearer"))
            for wrong in ("Bearer wrong", "Bearer s3cret2", "Bearer s3cre", "Basic s3cret", "s3cret", "Bearer", "Bearer ", "Bearer second line"):
                self.assertEqual(self.status({"Authorization": wrong}), 401, wrong)
            for right in ("Bearer s3cret", "bearer s3cret", "Bearer   s3cret"):
                self.assertEqual(self.status({"Authorization": right}), 200, right)
            self.assertEqual(self.status({"Authorization": "Bearer s3cret", "Host": "example.org"}), 200)
            self.assertEqual(self.proxy.api.call("DELETE", "/clusters/l7mp-controller")[0], 401)
            self.assertEqual(self.proxy.api.call("GET", "/nothing")[0], 401)
            self.assertNotIn("s3cret", self.proxy.stderr())
            with open(path, "w") as f:
                f.write("n3w")
            self.assertIn(self.status({"Authorization": "Bearer s3cret"}), (401, 429))
            self.assertEqual(self.status({"Authorization": "Bearer n3w"}), 200)
            # What others can read is no secret any more.
            os.chmod(path, 0o644)
            self.assertIn(self.status({"Authorization": "Bearer n3w"}), (401, 429))
            self.assertIn("others can read", self.proxy.stderr())
            os.chmod(path, 0o640)
            self.assertEqual(self.status({"Authorization": "Bearer n3w"}), 200)
            # A guessing client on this host gets 429, the one who has the token gets in.
            self.assertIn(429, [self.status({"Authorization": f"Bearer guess{i}"}) for i in range(50)])
            self.assertEqual(self.status({"Authorization": "Bearer n3w"}), 200)
            os.unlink(path)
            self.assertIn(self.status({"Authorization": "Bearer n3w"}), (401, 429))
            os.mkfifo(path, 0o600)
            self.assertIn(self.status({"Authorization": "Bearer n3w"}), (401, 429))
            os.unlink(path)
            for mode in (0o644, 0o604, 0o660):
                with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w") as f:
                    f.write("token")
                os.chmod(path, mode)
                with tempfile.NamedTemporaryFile("w", suffix=".json") as config:
                    json.dump({"admin": {"api_token_file": path}, "listeners": []}, config)
                    config.flush()
                    code, _, err = l7test.run_proxy("-c", config.name)
                    self.assertEqual((code, "others can read or change it" in err), (1, True), err)
                os.unlink(path)
        finally:
            if os.path.exists(path):
                os.unlink(path)


if __name__ == "__main__":
    l7test.main()
