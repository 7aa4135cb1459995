#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=300
"""Packet filters and NAT of this host beside the fast path, by nftables: a session whose packets a filter refuses, or
whose packets don't reach the program as the listener's socket sees them, stays in user space or comes back to it."""
import json
import pathlib
import shutil
import socket
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import l7net  # noqa: E402
import l7test  # noqa: E402
from test_offload_basic import Base  # noqa: E402


class Netfilter(Base):
    def setUp(self):
        super().setUp()
        if not shutil.which("nft"):
            self.skipTest("there is no nft")

    def nft(self, text):
        r = subprocess.run(["nft", "-f", "-"], input=text, text=True, capture_output=True, check=False)
        if r.returncode and ("Operation not supported" in r.stderr or "No such file" in r.stderr):
            self.skipTest(f"this kernel lacks what nft asks for: {r.stderr.strip().splitlines()[0]}")
        self.assertEqual(r.returncode, 0, r.stderr)
        self.addCleanup(subprocess.run, ["nft", "flush", "ruleset"], check=False)

    def says(self, p, reason):
        got = l7test.wait_for(lambda: (s := self.session(p)) and s["offload"]["directions"][0]["reason"] == reason, l7net.WAIT)
        self.assertTrue(got, self.session(p)["offload"])

    def output_rule(self, verdict):
        """An output rule that refuses what the session sends."""
        self.nft(f"""table inet filter {{
            chain out {{
                type filter hook output priority 0;
                ip daddr 10.9.2.2 udp dport 9001 {verdict}
            }}
        }}""")
        client, server = self.a.udp(), self.b.udp(9001, timeout=0.1)
        self.addCleanup(client.close)
        with self.proxy() as p:
            seen = set()

            def send(i):
                client.sendto(b"%d" % i, ("10.9.1.1", 9000))
                time.sleep(0.02)
                s = self.session(p)
                if s:
                    seen.add((s["offload"]["state"], s["offload"]["directions"][0]["reason"]))
            for i in range(150):
                send(i)
            self.says(p, "send-filtered")
            self.assertNotIn("fast", {state for state, _ in seen})
            with self.assertRaises(TimeoutError):
                server.recv(100)
            self.assertEqual(p.api.get("/offload/flows")[1], [])
            subprocess.run(["nft", "flush", "ruleset"], check=True)

            def fast():
                send(1000)
                return self.session(p)["offload"]["state"] == "fast"
            self.assertTrue(l7test.wait_for(fast, l7net.WAIT), self.session(p)["offload"])

    def test_output_drop(self):
        """an output rule drops all that the session sends: it never goes fast, and does when the rule is gone"""
        self.output_rule("drop")

    def test_output_reject(self):
        """the same with reject, which also answers with ICMP"""
        self.output_rule("reject")
        self.output_rule("reject with icmpx admin-prohibited")

    def test_redirect(self):
        """REDIRECT to the listener's port: answers come from the port that the client has asked, again and again"""
        self.nft("""table ip nat {
            chain pre {
                type nat hook prerouting priority -100;
                iifname "legA" udp dport 7000 redirect to :9000
            }
        }""")
        client, server = self.a.udp(5000), self.b.udp(9001)
        client.connect(("10.9.1.1", 7000))  # takes no other source
        with self.proxy() as p:
            answered, n = 0, 0

            def ask():
                nonlocal answered, n
                n += 1
                client.send(b"%d" % n)
                data, peer = server.recvfrom(100)
                server.sendto(data, peer)
                client.settimeout(0.3)
                try:
                    answered = answered + 1 if client.recv(100) == b"%d" % n else 0
                except TimeoutError:
                    answered = 0
                return answered >= 10 and self.session(p)["offload"]["directions"][0]["reason"] == "bypassed"
            self.assertTrue(l7test.wait_for(ask, l7net.WAIT), json.dumps(self.session(p)["offload"]))
            # The client lost only what was answered before that was known.
            stats = self.session(p)["stats"]
            self.assertEqual(stats["ingress"]["fast"]["packets"], 0)

    def test_mixed_sizes(self):
        """fragments and small packets in turn take one path: none overtakes another"""
        client, server = self.a.udp(5000), self.b.udp(9001, rcvbuf=64 << 20)
        client.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER: fragments
        l7net.one_cpu(self)
        with self.proxy() as p:
            self.ping(client, server)
            self.wait_fast(p)

            def burst(first, n):
                for i in range(first, first + n):
                    client.sendto(b"%08d" % i + bytes(2500 if i % 4 == 0 else 50), ("10.9.1.1", 9000))
                return [int(server.recv(4000)[:8]) for _ in range(n)]
            at = 0

            def mixed():
                nonlocal at
                burst(at, 40)
                at += 40
                return self.session(p)["offload"]["directions"][0]["reason"] == "mixed-paths"
            self.assertTrue(l7test.wait_for(mixed, l7net.WAIT), self.session(p)["offload"])
            for _ in range(20):
                got = burst(at, 100)
                self.assertEqual(got, list(range(at, at + 100)))
                at += 100
            self.assertEqual(self.session(p)["offload"]["directions"][0]["reason"], "mixed-paths")


if __name__ == "__main__":
    l7test.main()
