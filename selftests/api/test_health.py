#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What the API, the metrics and l7mpctl show of endpoints, found out by connecting to them."""
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402

PORT, DEAD, ADMIN = 15000, 17999, 1235
ZERO = {"sessions": 0, "connects": 0, "failed": 0, "lost": 0}
TIME = r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d\d\dZ$"
TRY_TWICE = {"retry_on": "connect-failure", "num_retries": 1, "timeout": 300}


def serve(answer):
    """A TCP server, which gives each connection to `answer` after its first bytes. Returns the socket and its port."""
    server = socket.create_server(("127.0.0.1", 0))

    def run():
        kept = []
        while True:
            try:
                s, _ = server.accept()
                kept.append(s)
                s.settimeout(30)
                s.recv(65536)
                answer(s)
            except OSError:
                if server.fileno() < 0:
                    return
    threading.Thread(target=run, daemon=True).start()
    return server, server.getsockname()[1]


class Health(unittest.TestCase):
    def setUp(self):
        self.proxy = l7test.Proxy({"admin": {"server": {"port": ADMIN}, "strict": True}, "listeners": [l7test.controller()]}, "-o", "disable")
        self.addCleanup(lambda: self.proxy.alive() and self.proxy.stop())
        self.api = l7test.Api()
        self.tmp = tempfile.TemporaryDirectory(prefix="l7mp-test-")
        self.addCleanup(self.tmp.cleanup)

    def route(self, cluster, retry=None, source="TCP"):
        """A listener that leads to the cluster."""
        route = {"destination": cluster, **({"retry": retry} if retry else {})}
        self.assertEqual(self.api.put("/listeners/in", {"listener": {
            "spec": {"protocol": source, "address": "127.0.0.1", "port": PORT}, "rules": [{"action": {"route": route}}]}})[0], 200)

    def connect(self):
        s = socket.socket()
        s.settimeout(30)
        self.addCleanup(s.close)
        try:
            s.connect(("127.0.0.1", PORT))
        except ConnectionResetError:  # the session has ended already
            pass
        return s

    def health(self, path="/endpoints/e"):
        return self.api.get(path)[1]["health"]

    def until(self, path="/endpoints/e", **want):
        self.assertTrue(l7test.wait_for(lambda: {k: self.health(path)[k] for k in want} == want), (self.health(path), want))

    def failing(self):
        """Clusters whose only endpoint can't be connected: name, spec, endpoint's spec, part of the error."""
        def refuse(s):
            s.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            s.close()

        def refuse_json(s):
            s.sendall(json.dumps({"JSONSocketVersion": 1, "JSONSocketStatus": 403, "JSONSocketMessage": "not you"}).encode() + b"\n")
        servers = [serve(refuse), serve(refuse_json), serve(lambda s: s.close()), serve(lambda s: None)]
        for s, _ in servers:
            self.addCleanup(s.close)
        not_found, forbidden, closing, silent = (port for _, port in servers)
        lo = {"address": "127.0.0.1"}
        os.mkfifo(os.path.join(self.tmp.name, "fifo"))
        return [
            ("TCP", {"protocol": "TCP", "port": DEAD}, lo, "refused"),
            ("no name", {"protocol": "TCP", "port": DEAD}, {"address": "no-such-host.invalid"}, ""),
            ("TLS", {"protocol": "TCP", "port": closing, "tls": {"insecure": True}}, lo, ""),
            ("WebSocket", {"protocol": "WebSocket", "port": not_found}, lo, "404"),
            ("WebSocket, refused", {"protocol": "WebSocket", "port": DEAD}, lo, "refused"),
            ("time-out", {"protocol": "WebSocket", "port": silent}, lo, f"WebSocket 127.0.0.1:{silent}: not connected within 300 ms"),
            ("UNIX", {"protocol": "UNIX/stream"}, {"address": self.tmp.name + "/none"}, ""),
            ("seqpacket", {"protocol": "UNIX/seqpacket"}, {"address": self.tmp.name + "/none"}, ""),
            ("dgram", {"protocol": "UNIX/dgram"}, {"address": self.tmp.name + "/none"}, ""),
            ("PIPE", {"protocol": "PIPE"}, {"address": self.tmp.name + "/fifo"}, ""),
            ("JSONSocket", {"protocol": "JSONSocket", "transport": {"protocol": "TCP", "port": forbidden}}, lo, "403"),
        ]

    def test_failed_connects(self):
        """an attempt counts once, whatever fails in whichever protocol; a retry is another attempt"""
        for name, spec, endpoint, error in self.failing():
            with self.subTest(name):
                self.assertEqual(self.api.put("/clusters/c", {"cluster": {"spec": spec, "endpoints": [{"name": "e", "spec": endpoint}]}})[1]["message"], "OK")
                self.assertEqual(self.health(), ZERO)
                self.route("c", TRY_TWICE)
                with self.connect():
                    self.until(failed=2)
                got = self.health()
                self.assertEqual({k: got[k] for k in ZERO}, {**ZERO, "connects": 2, "failed": 2})
                self.assertRegex(got["last_failure"], TIME)
                self.assertNotIn("last_success", got)
                self.assertIn(error, got["last_error"])
                self.assertTrue(got["last_error"])
                self.assertEqual(self.health("/clusters/c"), got)
                self.assertEqual(self.api.delete("/clusters/c?recursive=true")[0], 200)

    def test_process(self):
        """a program that can't be started, and one that fails; the health is the cluster's"""
        for command, failed, lost in ((["/no/such/program"], 2, 0), (["/bin/sh", "-c", "exit 3"], 0, 1)):
            self.assertEqual(self.api.put("/clusters/c", {"cluster": {"spec": {"protocol": "STDIO-fork", "command": command}}})[0], 200)
            self.assertEqual(self.health("/clusters/c"), ZERO)
            self.route("c", TRY_TWICE)
            with self.connect():
                self.until("/clusters/c", failed=failed, lost=lost, sessions=0)
            self.assertTrue(self.health("/clusters/c")["last_error"])
            shown = self.api.get("/clusters/c?recursive=true")[1]
            self.assertEqual(shown["endpoints"][0]["health"], shown["health"])

    def sent(self, n):
        return any(x["stats"]["ingress"]["packets"] == n for x in self.api.get("/sessions")[1] if x["source"]["listener"] == "in")

    def test_udp(self):
        """UDP connects always; an ICMP error is a lost connection"""
        self.api.post("/clusters", {"cluster": {"name": "c", "spec": {"protocol": "UDP", "port": DEAD}, "endpoints": [
            {"name": "e", "spec": {"address": "127.0.0.1"}}]}})
        self.route("c", source="UDP")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            for i in range(3):  # once for a session, which goes on
                s.sendto(b"x", ("127.0.0.1", PORT))
                self.assertTrue(l7test.wait_for(lambda want=i + 1: self.sent(want)))
            self.until(lost=1)
            got = self.health()
            self.assertEqual({k: got[k] for k in ZERO}, {**ZERO, "sessions": 1, "connects": 1, "lost": 1})
            self.assertEqual(got["last_error"], f"UDP 127.0.0.1:{DEAD}: connection refused")
            session = next(x for x in self.api.get("/sessions")[1] if x["source"]["listener"] == "in")
            self.api.delete("/sessions/" + session["name"])
            self.until(lost=1, sessions=0)

    def test_counting(self):
        """sessions come and go; retries count at the other endpoint; a lost connection; a new address begins at zero"""
        server = socket.create_server(("127.0.0.1", 17000))
        self.addCleanup(server.close)
        server.settimeout(30)
        self.api.post("/clusters", {"cluster": {"name": "c", "spec": {"protocol": "TCP", "port": 17000}, "endpoints": [
            {"name": "bad", "spec": {"address": "127.0.0.9"}}, {"name": "e", "spec": {"address": "127.0.0.1"}}]}})
        self.route("c", {"retry_on": "connect-failure", "num_retries": 1, "timeout": 100})
        clients, ups = [], []
        for i in range(3):
            clients.append(self.connect())
            ups.append(server.accept()[0])
            self.until(sessions=i + 1, connects=i + 1, failed=0)
        self.until("/endpoints/bad", sessions=0, connects=3, failed=3)
        self.until("/clusters/c", sessions=3, connects=6, failed=3)
        clients[0].close()  # in order, when the server closes, too
        ups[0].close()
        self.until(sessions=2, lost=0)
        ups[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        ups[1].close()
        self.until(sessions=1, lost=1)
        self.assertIn("reset", self.health()["last_error"])
        # A document of GET can be put back, also in strict mode; the counters stay.
        for path in ("/endpoints/e", "/clusters/c", "/clusters/c?recursive=true"):
            shown = self.api.get(path)[1]
            self.assertIn("health", shown)
            self.assertEqual(self.api.put(path.split("?")[0], shown)[0], 200)
            self.assertEqual(self.api.get(path)[1], shown)
        self.api.put("/endpoints/e", {**shown["endpoints"][1], "weight": 0, "health": {"sessions": 99}})
        self.until(sessions=1, connects=3)
        self.assertNotIn('"lost"', json.dumps(self.api.get("/config")[1]))
        # Another address: the session that is left does not count for it, nor does its end.
        self.api.put("/endpoints/e", {"spec": {"address": "127.0.0.2"}})
        self.assertEqual(self.health(), ZERO)
        clients[2].close()
        ups[2].close()
        self.assertTrue(l7test.wait_for(lambda: not [x for x in self.api.get("/sessions")[1] if x["source"]["listener"] == "in"]))
        self.assertEqual(self.health(), ZERO)

    def test_access_log(self):
        """the access log has the endpoint's address with its port, or else the cluster's"""
        log = os.path.join(self.tmp.name, "access.log")
        self.proxy.stop()
        self.proxy = l7test.Proxy({"admin": {"server": {"port": ADMIN}, "access_log_path": log}, "listeners": [l7test.controller()]}, "-o", "disable")
        for spec, endpoint, want in (
                ({"protocol": "TCP", "port": DEAD}, {"address": "127.0.0.1"}, f"127.0.0.1:{DEAD}"),
                ({"protocol": "TCP", "port": 1}, {"address": "::1", "port": DEAD}, f"[::1]:{DEAD}"),
                ({"protocol": "JSONSocket", "transport": {"protocol": "TCP", "port": DEAD}}, {"address": "localhost"}, f"localhost:{DEAD}"),
                ({"protocol": "UNIX/stream"}, {"address": self.tmp.name + "/none"}, self.tmp.name + "/none")):
            self.assertEqual(self.api.put("/clusters/c", {"cluster": {"spec": spec, "endpoints": [{"name": "e", "spec": endpoint}]}})[0], 200)
            self.route("c")
            self.connect()

            def found():
                with open(log, encoding="utf-8") as f:
                    records = [json.loads(line) for line in f if line.endswith("\n")]
                return [r["destination"]["address"] for r in records if r["source"]["listener"] == "in"][-1:]
            self.assertTrue(l7test.wait_for(lambda w=want: found() == [w]), (found(), want))

    def metrics(self):
        conn = http.client.HTTPConnection("127.0.0.1", ADMIN, timeout=60)
        conn.request("GET", "/metrics")
        text = conn.getresponse().read().decode()
        conn.close()
        return text

    def test_metrics_and_ctl(self):
        """series of the endpoints that were tried, all lines of a metric together; columns of l7mpctl"""
        self.api.post("/clusters", {"cluster": {"name": "c", "spec": {"protocol": "TCP", "port": DEAD}, "endpoints": [
            {"name": f"e{i}", "spec": {"address": "127.0.0.1" if i == 150 else f"127.0.1.{i + 1}"}, "weight": 1 if i == 150 else 0}
            for i in range(200)]}})
        self.api.post("/clusters", {"cluster": {"name": "d", "spec": {"protocol": "Echo"}}})
        self.route("c")
        self.connect()
        self.until("/endpoints/e150", failed=1)
        text = self.metrics()
        for name, n in (("sessions", 0), ("connects_total", 1), ("failures_total", 1), ("lost_total", 0), ("last_success_timestamp_seconds", 0)):
            lines = re.findall(rf'^l7mp_endpoint_{name}\{{cluster="c",endpoint="([^"]*)"\}} (\d+)$', text, re.M)
            self.assertEqual(lines, [("e150", str(n))], name)
        self.assertNotIn('cluster="d"', text)
        names = re.findall(r"^(?:# HELP )?(l7mp_endpoint_\w+)", text, re.M)
        self.assertEqual(len(re.sub(r"\b(\w+)( \1\b)*", r"\1", " ".join(names)).split()), 5)
        self.assertEqual(self.api.put("/clusters/d", {"spec": {"protocol": "Echo"}})[0], 200)
        self.route("d")
        self.connect()
        self.until("/clusters/d", sessions=1)
        now = self.metrics()
        self.assertIn('l7mp_endpoint_sessions{cluster="d",endpoint="d"} 1\n', now)
        self.assertGreater(int(re.search(r'last_success_timestamp_seconds\{cluster="d",endpoint="d"\} (\d+)', now)[1]), 1600000000)

        def ctl(what):
            return subprocess.run([l7test.program("l7mpctl"), what, "list"], capture_output=True, text=True, timeout=30, check=True).stdout
        table = ctl("endpoints")
        self.assertRegex(table, r"^NAME +CLUSTER +ADDRESS +WEIGHT +SESSIONS +CONNECTS +FAILED +LOST +LAST-ERROR\n")
        self.assertRegex(table, r"(?m)^e150 +c +127\.0\.0\.1 +1 +0 +1 +1 +0 +20\S+Z .*refused")
        self.assertRegex(table, r"(?m)^e3 +c +127\.0\.1\.4 +0 +0 +0 +0 +0 +-$")
        self.assertRegex(ctl("clusters"), r"(?m)^c +TCP +\S+ +200 +Trivial +0 +1 +1 +0$")


if __name__ == "__main__":
    l7test.main()
