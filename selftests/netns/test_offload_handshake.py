#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=120
"""The fast path behind a handshake: JSONSocket over UDP goes into the kernel with the first payload, nothing
of the handshake gets through, and Metric clusters count what the kernel carries."""
import json
import os
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7net  # noqa: E402
import l7test  # noqa: E402
import promtext  # noqa: E402

PACKETS = 20_000 if l7test.FULL else 2_000
HEADER = b'{"JSONSocketVersion":1,"room":"a"}' + b" " * 200


class Handshake(unittest.TestCase):
    def setUp(self):
        if not l7test.ISOLATED:
            self.skipTest("needs root")
        l7net.need_bpffs(self)
        self.a = l7net.Peer("legA", "10.9.1.1", "10.9.1.2")
        self.b = l7net.Peer("legB", "10.9.2.1", "10.9.2.2")
        self.addCleanup(self.a.close)
        self.addCleanup(self.b.close)

    def config(self):
        metric = [{"name": "in", "spec": {"protocol": "Metric"}}], [{"name": "out", "spec": {"protocol": "Metric"}}]
        return {
            "admin": {"offload": "init", "offload_ifs": "legA,legB", "instance": f"h{os.getpid()}",
                      "metrics": {"sessions": True}},
            "listeners": [
                l7test.controller(),
                {"name": "prom", "spec": {"protocol": "HTTP", "address": "127.0.0.1", "port": 9099},
                 "rules": [{"action": {"route": {"destination": {"spec": {"protocol": "Prometheus"}}}}}]},
                {"name": "js", "spec": {"protocol": "JSONSocket", "transport": {
                    "protocol": "UDP", "address": "10.9.1.1", "port": 9000}},
                 "rules": [{"action": {"route": {"destination": "up", "ingress": metric[0], "egress": metric[1]}}}]}],
            "clusters": [{"name": "up", "spec": {"protocol": "UDP", "port": 9001},
                          "endpoints": [{"spec": {"address": "10.9.2.2"}}]}]}

    @staticmethod
    def session(p):
        name = [s for s in (x if isinstance(x, str) else x["name"] for x in p.api.get("/sessions")[1])
                if s.startswith("JSONSocket:")][0]
        return p.api.get("/sessions/" + name)[1]

    def test_handshake(self):
        """not-established until the first payload, then fast; Metric and the API agree with the wire"""
        client, server = self.a.udp(), self.b.udp(9001)
        with l7test.Proxy(self.config()) as p:
            self.assertTrue(l7test.wait_for(lambda: p.api.get("/admin")[0] == 200))
            client.connect(("10.9.1.1", 9000))
            for _ in range(3):
                client.send(HEADER)
                self.assertEqual(json.loads(client.recv(1000))["JSONSocketStatus"], 200)
            s = self.session(p)
            self.assertEqual(s["offload"]["state"], "slow")
            n = sent = 0
            while n < PACKETS:
                payload = b"%06d" % n
                client.send(payload)
                data, peer = server.recvfrom(2000)
                self.assertEqual(data, payload)
                server.sendto(data, peer)
                self.assertEqual(client.recv(2000), payload)
                n, sent = n + 1, sent + len(payload)
                if n == 20:
                    s = l7test.wait_for(lambda: (lambda x: x if x["offload"]["state"] == "fast" else None)(
                        self.session(p)), 5)
                    self.assertIsNotNone(s, json.dumps(self.session(p)))
                    client.send(HEADER)  # is payload now
                    self.assertEqual(server.recv(2000), HEADER)
                    n, sent = n + 1, sent + len(HEADER)
                    server.sendto(HEADER, peer)
                    self.assertEqual(client.recv(2000), HEADER)

            def counted():
                families = promtext.parse(l7test.Api(9099).call("GET", "/api/metrics")[1].encode())
                got = [promtext.value(families, f"session_{what}_counter_total", sessionName=s["name"], clusterName=c)
                       for c in ("in", "out") for what in ("packet", "byte")]
                fast = [promtext.value(families, "l7mp_fast_path_packets_total", direction=d)
                        for d in ("ingress", "egress")]
                return got == [n, sent, n, sent] and min(fast) >= n - 40, got, fast
            l7test.wait_for(lambda: counted()[0], l7net.WAIT)
            self.assertTrue(counted()[0], (counted(), n, sent))
            self.assertEqual(self.session(p)["stats"]["ingress"]["packets"], n)


if __name__ == "__main__":
    l7test.main()
