#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Who is on this host is decided when a connection is accepted, and stays so: relays, resets, ports that are used again."""
import http.client
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import certs  # noqa: E402
import l7test  # noqa: E402
import upgrade  # noqa: E402

NEAR, FAR = "10.99.7.1", "10.99.7.2"
API = {"protocol": "TCP", "port": 1234}


def forward(name, spec, destination, endpoint):
    return {"name": name, "spec": spec, "rules": [{"action": {"route": {"destination": {
        "spec": destination, "endpoints": [{"spec": {"address": endpoint}}]}}}}]}


def second_api(name, **spec):
    """Another listener that leads to the API."""
    return {"name": name, "spec": {"protocol": "HTTP", **spec}, "rules": [{"action": {"route": {"destination": {
        "name": f"{name}-api", "spec": {"protocol": "L7mpController"}}}}}]}


def shell(name, port):
    """A listener that runs commands for every client: what an attacker would post."""
    return {"listener": {"name": name, "spec": {"protocol": "TCP", "port": port}, "rules": [{"action": {"route": {"destination": {
        "spec": {"protocol": "STDIO-fork", "command": ["/bin/cat"]}}}}}]}}


# Runs in the other network namespace: holds idle connections, and posts from ones that are reset at once.
ATTACK = """
import socket, struct, sys, time
host, port, idle, posts, hold, request = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]), sys.argv[6].encode()
held = []
for _ in range(idle):
    s = socket.create_connection((host, port), timeout=30)
    held.append(s)
for n in range(posts):
    s = socket.create_connection((host, port), timeout=30)
    body = request.replace(b"NAME", b"evil%d" % n)
    s.sendall(b"POST /api/v1/listeners HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
    time.sleep(0.02 * (n % 3))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()
time.sleep(hold)
"""

# Runs there, too: asks over one TLS connection for each line of its input, and prints the status of each answer.
ASK = """
import http.client, socket, ssl, sys
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
s = context.wrap_socket(socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30))
for _ in sys.stdin:
    s.sendall(b"GET /api/v1/listeners HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n")
    answer = http.client.HTTPResponse(s)
    answer.begin()
    answer.read()
    print(answer.status, flush=True)
"""


@unittest.skipUnless(l7test.ISOLATED, "needs root for namespaces")
class FarAway(unittest.TestCase):
    """A client on another host: a namespace behind a veth pair."""

    count = 0

    def setUp(self):
        FarAway.count += 1  # the last test's device is there until the kernel has taken its namespace down
        name = f"l7o{os.getpid() % 100000}x{FarAway.count}"
        self.peer = subprocess.Popen(["unshare", "-n", "sleep", "300"])
        self.addCleanup(self.peer.wait)
        self.addCleanup(self.peer.kill)
        l7test.wait_for(lambda: os.readlink(f"/proc/{self.peer.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
        subprocess.run(["bash", "-ec", f"""
            ip link add {name} type veth peer name {name}p; ip link set {name}p netns {self.peer.pid}
            ip addr add {NEAR}/24 dev {name}; ip link set {name} up
            nsenter --net=/proc/{self.peer.pid}/ns/net bash -ec 'ip link set lo up; ip addr add {FAR}/24 dev {name}p; ip link set {name}p up'"""],
                       check=True, timeout=20)

    def start(self, *listeners, **admin):
        self.proxy = l7test.Proxy({"admin": admin, "listeners": list(listeners)})
        self.addCleanup(self.proxy.stop)

    def far(self, *args, timeout=60):
        return subprocess.run(["nsenter", f"--net=/proc/{self.peer.pid}/ns/net", *args], capture_output=True, text=True, timeout=timeout, check=False).stdout

    def far_status(self, url):
        return self.far("curl", "-ks", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Host: localhost", url)

    def near_status(self, port):
        conn = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            conn.request("GET", "/api/v1/listeners")
            return conn.getresponse().status
        finally:
            conn.close()

    def test_unspecified(self):
        """a cluster that connects to no address (0.0.0.0, ::) connects to this host, and is known"""
        self.start(l7test.controller(), forward("any", {"protocol": "TCP", "port": 2001}, API, "0.0.0.0"),
                   forward("six", {"protocol": "TCP", "port": 2002}, {"protocol": "TCP", "port": 2003}, "::"),
                   forward("six2", {"protocol": "TCP", "port": 2003, "address": "::1"}, API, "127.0.0.1"),
                   forward("bound", {"protocol": "TCP", "port": 2004}, {**API, "bind": {"address": "127.0.0.9"}}, "0.0.0.0"))
        for port in (2001, 2002):
            self.assertEqual(self.far_status(f"http://{NEAR}:{port}/api/v1/listeners"), "403", port)
            self.assertEqual(self.near_status(port), 200, port)
        self.assertNotEqual(self.far_status(f"http://{NEAR}:2004/api/v1/listeners"), "200")

    def test_tls(self):
        """behind TLS, whose handshake comes after the decision"""
        with tempfile.TemporaryDirectory() as folder:
            pair = certs.Certs(folder).cert("server")
            self.start(second_api("secure", port=1236, address="127.0.0.1", tls=pair), l7test.controller(), forward("relay", {"protocol": "TCP", "port": 2001}, API | {"port": 1236}, "127.0.0.1"))
            self.assertEqual(self.far_status(f"https://{NEAR}:2001/api/v1/listeners"), "403")
            near = subprocess.run(["curl", "-ks", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", "https://127.0.0.1:2001/api/v1/listeners"],
                                  capture_output=True, text=True, timeout=30, check=False).stdout
            self.assertEqual(near, "200")

    def test_unix(self):
        """an HTTP listener on a UNIX socket serves processes of this host, but not our own relaying"""
        path = f"/tmp/l7mp-test-origin-{os.getpid()}.sock"
        self.start(l7test.controller(), second_api("unix", filename=path), forward("relay", {"protocol": "TCP", "port": 2001}, {"protocol": "UNIX/stream"}, path))
        near = subprocess.run(["curl", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", path, "http://localhost/api/v1/listeners"],
                              capture_output=True, text=True, timeout=30, check=False).stdout
        self.assertEqual(near, "200")
        self.assertEqual(self.far_status(f"http://{NEAR}:2001/api/v1/listeners"), "403")

    def test_reset_post(self):
        """requests through a relay whose clients are reset at once are not served, not even a minute later"""
        self.start(l7test.controller(), forward("relay", {"protocol": "TCP", "port": 2001}, API, "127.0.0.1"),
                   server={"address": "127.0.0.1", "port": 1235, "threads": 4})
        hold = 70 if l7test.FULL else 1
        evil = json.dumps(shell("NAME", 0))
        self.far("python3", "-c", ATTACK, NEAR, "2001", "420", "40", str(hold), evil, timeout=hold + 120)
        self.assertEqual([x["name"] for x in self.proxy.api.get("/listeners")[1]], ["controller-listener", "relay"])
        self.assertEqual(self.near_status(1235), 200)

    def test_pipelined(self):
        """a request that waits behind another one of its connection has that connection's origin, whichever client has its port then"""
        self.start(l7test.controller(), forward("relay", {"protocol": "TCP", "port": 2001}, API, "127.0.0.1"))
        request = b"GET /api/v1/listeners HTTP/1.1\r\nHost: localhost\r\n\r\n"
        answer = self.far("python3", "-c", f"""
import socket
s = socket.create_connection(({NEAR!r}, 2001), timeout=30)
s.sendall({request * 50!r})
s.shutdown(socket.SHUT_WR)
text = b''
while piece := s.recv(65536):
    text += piece
print(text.count(b'HTTP/1.1 403'), text.count(b'HTTP/1.1 200'))""")
        self.assertEqual(answer.split(), ["50", "0"])

    def test_upgrade(self):
        """sessions that stay in the old process at an upgrade connect to the new one: their clients are as far away as before"""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        pair = certs.Certs(folder.name).cert("server")
        unix = f"@l7mp-test-origin-{os.getpid()}"
        relays = {2001: (API, "127.0.0.1"), 2002: ({"protocol": "UNIX/stream"}, unix), 2003: (API | {"port": 1235}, "0.0.0.0"),
                  2004: (API | {"port": 1236}, "::1"), 2005: (API, "::ffff:127.0.0.1")}
        listeners = [forward(f"relay{port}", {"protocol": "TCP", "port": port, "tls": pair}, spec, endpoint) for port, (spec, endpoint) in relays.items()]
        for relay in listeners:  # each answer ends the cluster's connection, and it connects again for the next request
            relay["rules"][0]["action"]["route"]["retry"] = {"retry_on": "disconnect", "num_retries": 10, "timeout": 100}
        chain = upgrade.Chain({"admin": {"server": {"address": "127.0.0.1", "port": 1235}}, "listeners": [
            l7test.controller(), second_api("local", filename=unix), second_api("six", address="::1", port=1236), *listeners]}, 1234)
        self.addCleanup(chain.kill)
        clients = {}
        for port in relays:
            clients[port] = subprocess.Popen(["nsenter", f"--net=/proc/{self.peer.pid}/ns/net", sys.executable, "-c", ASK, NEAR, str(port)],
                                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            self.addCleanup(clients[port].communicate, timeout=30)

        def ask(client):
            client.stdin.write("\n")
            return client.stdout.readline().strip()
        self.assertEqual({port: ask(client) for port, client in clients.items()}, dict.fromkeys(relays, "403"))
        self.assertNotIn("failed", chain.upgrade())
        for _ in range(3):
            self.assertEqual({port: ask(client) for port, client in clients.items()}, dict.fromkeys(relays, "403"))
        self.assertEqual(self.near_status(1234), 200)
        self.assertEqual(self.near_status(1235), 200)

    def test_token_guesses(self):
        """who guesses at the token from another host is shut out, also through relays; who is on this host is not"""
        path = f"/tmp/l7mp-test-origin-token-{os.getpid()}"
        with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w") as f:
            f.write("right")
        self.addCleanup(os.unlink, path)
        unix = f"@l7mp-test-origin-{os.getpid()}"
        self.start(l7test.controller(), second_api("local", filename=unix), forward("tcp", {"protocol": "TCP", "port": 2001}, API, "127.0.0.1"),
                   forward("unix", {"protocol": "TCP", "port": 2002}, {"protocol": "UNIX/stream"}, unix), api_token_file=path)

        def guess(port, token):
            return self.far("curl", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", "-H", f"Authorization: Bearer {token}",
                            f"http://{NEAR}:{port}/api/v1/listeners")
        for port in (2001, 2002):
            self.assertIn("429", [guess(port, f"wrong{n}") for n in range(20)], port)
            self.assertEqual(guess(port, "right"), "429", port)
        conn = http.client.HTTPConnection("127.0.0.1", 1234, timeout=10)
        conn.request("GET", "/api/v1/listeners", headers={"Authorization": "Bearer right"})
        self.assertEqual(conn.getresponse().status, 200)
        conn.close()


class NearPorts(unittest.TestCase):
    """The same port again, without any other host."""

    def test_port_again(self):
        """a port that a relay of ours has given back belongs to its next user"""
        upstream = socket.create_server(("127.0.0.1", 0))
        upstream.settimeout(30)
        proxy = l7test.Proxy({"listeners": [l7test.controller(), forward(
            "relay", {"protocol": "TCP", "port": 2001}, {"protocol": "TCP", "port": upstream.getsockname()[1]}, "127.0.0.1")]})
        self.addCleanup(proxy.stop)
        client = socket.create_connection(("127.0.0.1", 2001), timeout=30)
        accepted, (_, port) = upstream.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()
        client.close()
        upstream.close()
        l7test.wait_for(lambda: not [s for s in proxy.api.get("/sessions")[1] if s["name"].startswith("TCP")])
        for _ in range(50):
            try:
                conn = http.client.HTTPConnection("127.0.0.1", 1234, timeout=10, source_address=("127.0.0.1", port))
                conn.request("GET", "/api/v1/listeners")
                break
            except OSError:
                time.sleep(0.1)
        self.assertEqual(conn.getresponse().status, 200)
        conn.close()


if __name__ == "__main__":
    l7test.main()
