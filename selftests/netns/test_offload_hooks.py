#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=300
"""Others change tc and XDP under the fast path: a program that is taken away takes its sessions out of the kernel, a
filter of others in front is noticed by what it does to their packets, and one that was there before is no hindrance."""
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import l7net  # noqa: E402
import l7test  # noqa: E402
from test_offload_basic import Base  # noqa: E402

ALL_OK = ("protocol", "all", "bpf", "bytecode", "1,6 0 0 4294967295", "flowid", "1:1")  # takes every packet


class Hooks(Base):
    def filter_in_front(self, dev, preference):
        """A filter that takes every packet and lets it go up."""
        r = subprocess.run(["tc", "filter", "add", "dev", dev, "ingress", "pref", str(preference), *ALL_OK],
                           capture_output=True, text=True, check=False)
        if r.returncode:
            self.skipTest(f"this kernel refuses a classic filter: {r.stderr.strip()}")

    def says(self, p, reason):
        def said():
            return {d["reason"] for d in self.session(p)["offload"]["directions"]} == {reason}
        self.assertTrue(l7test.wait_for(said, l7net.WAIT), f"{self.session(p)['offload']} {p.stderr()[-2000:]}")

    def slow_only(self, p, client, server):
        before = self.session(p)["stats"]
        for i in range(20):
            self.ping(client, server, payload=b"%d" % i)
        after = self.session(p)["stats"]
        for direction in ("ingress", "egress"):
            self.assertEqual(after[direction]["slow"]["packets"] - before[direction]["slow"]["packets"], 20)
            self.assertEqual(after[direction]["fast"], before[direction]["fast"])

    def fast_only(self, p, client, server):
        before = self.wait_fast(p)["stats"]
        for i in range(20):
            self.ping(client, server, payload=b"%d" % i)
        after = self.session(p)["stats"]
        for direction in ("ingress", "egress"):
            self.assertEqual(after[direction]["slow"], before[direction]["slow"])
            self.assertEqual(after[direction]["fast"]["packets"] - before[direction]["fast"]["packets"], 20)

    def taken_away(self, take, hook="tc", **kw):
        client, server = self.a.udp(5000), self.b.udp(9001)
        with self.proxy(**kw) as p:
            self.ping(client, server)
            self.wait_fast(p)
            hooks = {i["name"]: i["hook"] for i in p.api.get("/offload")[1]["interfaces"]}
            if hooks != {"legA": hook, "legB": hook}:
                self.skipTest(f"this kernel gives other hooks: {hooks}")
            take()
            self.says(p, "hook-lost")
            self.assertEqual(p.api.get("/offload/flows")[1], [])
            leg = [i for i in p.api.get("/offload")[1]["interfaces"] if i["name"] == "legA"][0]
            self.assertEqual(leg["hook"], "none")
            self.assertIn("hook-lost", leg["reason"])
            self.slow_only(p, client, server)
            # It is served again when it is configured again.
            self.assertEqual(p.api.post("/admin", {"admin": {"offload_ifs": "legB"}})[0], 200)
            self.assertEqual(p.api.post("/admin", {"admin": {"offload_ifs": "legA,legB"}})[0], 200)
            self.fast_only(p, client, server)
        self.nothing_left()

    def test_filter_deleted(self):
        """our filter is deleted"""
        self.taken_away(lambda: l7net.sh("tc", "filter", "del", "dev", "legA", "ingress"))

    def test_qdisc_deleted(self):
        """the qdisc is deleted that our filter is in"""
        self.taken_away(lambda: l7net.sh("tc", "qdisc", "del", "dev", "legA", "clsact"))

    def test_xdp_off(self):
        """our XDP program is taken off"""
        self.taken_away(lambda: l7net.ip("link set dev legA xdpgeneric off"), "generic", admin={"offload_mode": "generic"})

    def test_front(self):
        """a filter of others takes the packets before ours: the session comes out of the kernel"""
        client, server = self.a.udp(5000), self.b.udp(9001)
        with self.proxy() as p:
            self.ping(client, server)
            self.fast_only(p, client, server)
            self.filter_in_front("legA", 1)

            def out():
                self.ping(client, server)
                return self.session(p)["offload"]["state"] == "slow"
            self.assertTrue(l7test.wait_for(out, l7net.WAIT), self.session(p)["offload"])
            self.assertIn(self.session(p)["offload"]["directions"][0]["reason"], ("bypassed", "mixed-paths"))
            self.slow_only(p, client, server)

    def test_behind(self):
        """filters that others had there before don't come before ours"""
        l7net.sh("tc", "qdisc", "add", "dev", "legA", "clsact")
        self.filter_in_front("legA", 10)
        client, server = self.a.udp(5000), self.b.udp(9001)
        with self.proxy() as p:
            self.ping(client, server)
            self.fast_only(p, client, server)


if __name__ == "__main__":
    l7test.main()
