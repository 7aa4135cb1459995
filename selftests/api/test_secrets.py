#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What a client proves itself with is shown nowhere: neither by the API, nor in logs."""
import base64
import json
import os
import pathlib
import socket
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402

SECRETS = ("Basic czNjcmV0LTE=", "session=s3cret-2", "Basic s3cret-3")
HEADERS = f"Authorization: {SECRETS[0]}\r\ncookie: {SECRETS[1]}\r\nPROXY-Authorization: {SECRETS[2]}\r\nX-Other: visible\r\n"


def rules(*clusters):
    *ingress, destination = clusters
    return [{"action": {"route": {"destination": destination, "ingress": ingress}}}]


class Secrets(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.access = os.path.join(folder.name, "access.log")
        inline = {"spec": {"protocol": "Echo"}}
        self.proxy = l7test.Proxy({"admin": {"log_level": "silly", "access_log_path": self.access, "server": {"address": "127.0.0.1", "port": 1235}}, "listeners": [
            l7test.controller() | {"options": {"track": 60}},
            {"name": "http", "spec": {"protocol": "HTTP", "address": "127.0.0.1", "port": 2001}, "options": {"track": 60},
             "rules": rules({"spec": {"protocol": "WebSocket", "port": 2002}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]})},
            {"name": "ws", "spec": {"protocol": "WebSocket", "address": "127.0.0.1", "port": 2002}, "options": {"track": 60},
             "rules": rules({"spec": {"protocol": "Logger", "log_file": "-"}}, inline)},
            {"name": "wrap", "spec": {"protocol": "HTTP", "address": "127.0.0.1", "port": 2003}, "rules": rules({"spec": {"protocol": "JSONEncap"}}, inline)},
            {"name": "none", "spec": {"protocol": "HTTP", "address": "127.0.0.1", "port": 2004},
             "rules": [{"match": {"op": "test", "path": "/HTTP/method", "value": "NONE"}, "action": {"route": {"destination": inline}}}]},
        ]})
        self.addCleanup(self.proxy.stop)

    def ask(self, port, path="/", more=""):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as s:
            s.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{HEADERS}{more}Connection: close\r\nContent-Length: 5\r\n\r\nhello".encode())
            answer = b""
            while piece := s.recv(65536):
                answer += piece
        return answer

    def check(self, text, where):
        for secret in SECRETS:
            for form in (secret, secret.split()[-1], base64.b64encode(secret.encode()).decode()):
                self.assertNotIn(form, text, where)

    def test_nowhere(self):
        """Authorization, Cookie and Proxy-Authorization of a session's client are shown by no list, event, record or log"""
        self.ask(2001)
        self.ask(2004)
        self.ask(1234, "/api/v1/nothing")
        self.ask(1235, "/api/v1/nothing")
        shown = [s for s in self.proxy.api.get("/sessions")[1] if "HTTP" in s["metadata"]]
        self.assertTrue({"http", "ws"} <= {s["source"]["listener"] for s in shown}, shown)
        seen = 0
        for session in shown:
            headers = {k.lower(): v for k, v in session["metadata"]["HTTP"]["headers"].items()}
            if "x-other" not in headers:
                continue
            seen += 1
            self.assertEqual(headers["x-other"], "visible")
            self.assertEqual(headers["cookie"], "***")
            self.assertEqual(headers["authorization"], "***")
        self.assertGreaterEqual(seen, 3)
        for port in (1234, 1235):
            api = l7test.Api(port)
            for path in ("/sessions", "/config", "/config?recursive=true", "/listeners?recursive=true", *(f"/sessions/{s['name'].replace('/', '%2F')}" for s in shown)):
                status, body = api.get(path)
                self.assertEqual(status, 200, path)
                self.check(json.dumps(body), (port, path))
        self.check(self.proxy.stderr(), "the log")
        self.check(self.proxy.stdout(), "the output")
        l7test.wait_for(lambda: os.path.exists(self.access))
        self.check(pathlib.Path(self.access).read_text(), "the access log")

    def test_data(self):
        """what goes to the route's own stages has them: JSONEncap"""
        body = self.ask(2003).split(b"\r\n\r\n", 1)[1]
        line = json.loads(body[body.index(b"{"):body.rindex(b"}") + 1])
        self.assertIn(SECRETS[0], line["metadata"]["HTTP"]["headers"].values())


if __name__ == "__main__":
    l7test.main()
