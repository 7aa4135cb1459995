#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: full alone timeout_full=600
"""A whole life of the plain build under valgrind: start, use, reload, stop; no error, no leak, no descriptor left."""
import os
import re
import shutil
import socket
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402

PLAIN = os.environ.get("L7MP_PLAIN", "build")
ECHO = [{"action": {"route": {"destination": {"spec": {"protocol": "Echo"}}, "ingress": [{"spec": {"protocol": "Logger"}}]}}}]
CONFIG = {"listeners": [l7test.controller()] + [
    {"name": name, "spec": {"protocol": proto, "address": "127.0.0.1", "port": port}, "rules": ECHO}
    for name, proto, port in (("tcp", "TCP", 15000), ("udp", "UDP", 15001), ("ws", "WebSocket", 15002), ("http", "HTTP", 15003))]}
WS = (b"GET /x HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
      b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")


@unittest.skipUnless(shutil.which("valgrind"), "valgrind is not installed")
class Valgrind(unittest.TestCase):
    def test_life(self):
        """start, use, stop under valgrind: no error and nothing definitely or indirectly lost"""
        p = l7test.Proxy(CONFIG, "-l", "warn", build=PLAIN, wait=False, wrapper=(
            "valgrind", "--leak-check=full", "--show-leak-kinds=definite,indirect,possible", "--errors-for-leak-kinds=definite,indirect",
            "--error-exitcode=99", "--track-fds=yes", "--num-callers=20", "-q"))
        p.wait_ready(60)
        for i in range(20):
            for k, port in enumerate((15000, 15002)):
                s = socket.create_connection(("127.0.0.1", port), 20)
                s.settimeout(20)
                if k:
                    s.sendall(WS)
                    s.recv(4096)
                s.sendall(b"hello" if not k else b"\x82\x85\0\0\0\0hello")
                self.assertTrue(s.recv(100).endswith(b"hello"))
                s.close()
            with l7test.udp_socket(timeout=60) as u:
                u.sendto(b"hello", ("127.0.0.1", 15001))
                self.assertEqual(u.recv(10), b"hello")
            self.assertEqual(l7test.Api(15003).call("POST", "/x", "hello", "text/plain"), (200, "hello"))
            self.assertEqual(p.api.post("/clusters", {"cluster": {"name": f"c{i}", "spec": {"protocol": "TCP", "port": 1}, "endpoints": [
                {"spec": {"address": "127.0.0.1"}}]}})[0], 200)
            self.assertEqual(p.api.post("/clusters", {"cluster": {"name": f"c{i}"}})[0], 422)
            self.assertEqual(p.api.post("/clusters", "{", "application/json")[0], 400)
            self.assertEqual(p.api.get("/config?recursive=true")[0], 200)
            self.assertEqual(p.api.delete(f"/clusters/c{i}?recursive=true")[0], 200)
        self.assertEqual(p.api.get("/openapi.yaml")[0], 200)
        p.hup()
        still = socket.create_connection(("127.0.0.1", 15000), 20)
        still.sendall(b"open at the end")
        still.recv(100)
        err_path = p.err_path
        p.process.terminate()
        status = p.process.wait(60)
        with open(err_path, errors="replace") as f:
            err = f.read()
        p.stop(check=False)
        self.assertEqual(status, 0, err[-6000:])
        self.assertNotIn("definitely lost", err)
        left = [x for x in re.findall(r"Open (?:file descriptor|AF_\w+ socket) \d+.*", err) if "inherited" not in x]
        print(f"# valgrind's last words: {err[-300:]!r}" if err else "# valgrind had nothing to say")
        self.assertFalse([x for x in left if "inet" in x.lower()], left)


if __name__ == "__main__":
    l7test.main()
