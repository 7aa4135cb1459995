#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: full alone timeout_full=600
"""REST and data under load with ThreadSanitizer, nothing suppressed."""
import os
import sys
import threading
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402

BUILD = os.environ.get("L7MP_TSAN", "build/tsan")
ECHO = [{"action": {"route": {"destination": {"spec": {"protocol": "Echo"}}}}}]


@unittest.skipUnless(os.path.exists(l7test.ROOT / BUILD / "l7mp-proxy"), f"{BUILD}/l7mp-proxy is not built (make BUILD={BUILD} SAN=tsan)")
class Tsan(unittest.TestCase):
    def test_load(self):
        """50 clients, bodies both ways, listeners that come and go, reloads: no race"""
        config = {"admin": {"server": {}}, "listeners": [l7test.controller(), {"name": "http", "spec": {"protocol": "HTTP", "address": "127.0.0.1", "port": 15003},
                                                      "rules": ECHO}]}
        p = l7test.Proxy(config, "-l", "verbose", build=BUILD, env={"TSAN_OPTIONS": "halt_on_error=0 exitcode=66"})
        wrong = []

        def run(i):
            try:
                for k in range(10):
                    body = f"{i}-{k}" * (1 + 5000 * (k % 2))
                    got = l7test.Api(15003).call("POST", "/x", body, "text/plain", timeout=60)
                    if got[0] != 200 or str(got[1]) != body:
                        wrong.append((i, k, got[0], str(got[1])[:50]))
                    status, _ = l7test.Api(1235).get("/sessions" if k % 2 else "/config", timeout=60)
                    if status not in (200, 503):  # 503: all its threads are busy
                        wrong.append(("admin server", status))
                    name = f"l{i}-{k}"
                    for method, path, doc in (("POST", "/listeners", {"listener": {"name": name, "spec": {
                            "protocol": "HTTP" if k == 5 and i < 5 else "TCP", "address": "127.0.0.1", "port": 0}, "rules": ECHO}}),
                            ("GET", "/config", None), ("DELETE", f"/listeners/{name}?recursive=true", None)):
                        status, answer = p.api.call(method, path, doc, timeout=60)
                        # a reload may come between: it takes away what the file doesn't have
                        if status != 200 and (method, status) != ("DELETE", 404):
                            wrong.append((method, path, status, answer))
            except Exception as e:  # noqa: B902: whatever it is, it is wrong
                wrong.append((i, repr(e)))
        threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(50)]
        for t in threads:
            t.start()
        for i in range(5):
            p.hup()
            p.api.post("/admin", {"admin": {"metrics": {"sessions": bool(i % 2)}}}, timeout=60)
        for t in threads:
            t.join(200)
        self.assertTrue(p.alive(), p.stderr()[-5000:])
        p.stop(60)  # fails when the sanitizer said anything
        self.assertEqual(wrong[:3], [])


if __name__ == "__main__":
    l7test.main()
