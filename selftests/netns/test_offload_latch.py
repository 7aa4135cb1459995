#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=200
"""A destination that learns its peer (options.latch of a UDP cluster) in the kernel: the flow has the learnt address, others
don't pass beside it, another source within the window gets the flow, and the next daemon keeps what was learnt."""
import pathlib
import re
import sys
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import l7net  # noqa: E402
import l7test  # noqa: E402
from test_offload_adopt import GATE, Base as Adopt  # noqa: E402

NOBODY = "10.9.2.77"  # what the endpoint says that its address is


class Latch(Adopt):
    def config(self, latch=True, **kw):
        cfg = super().config(destination="nat", **kw)
        cfg["listeners"][0]["spec"]["options"] = {"latch": latch}
        cfg["listeners"].append({"name": "metrics", "spec": {"protocol": "HTTP", "address": "127.0.0.1", "port": 9100},
                                 "rules": [{"action": {"route": {"destination": {"spec": {"protocol": "Prometheus"}}}}}]})
        cfg["clusters"].append({"name": "nat", "spec": {"protocol": "UDP", "port": 9001, "options": {"latch": latch}},
                                "endpoints": [{"name": "behind-nat", "spec": {"address": NOBODY}}]})
        return cfg

    def call(self, p):
        """A session whose endpoint has not been heard: (caller, endpoint, where the endpoint sends to)."""
        client, endpoint = self.a.udp(5000), self.b.udp(7000)
        self.addCleanup(client.close)
        self.addCleanup(endpoint.close)
        for _ in range(5):
            client.sendto(b"early", GATE)
        self.assertTrue(l7test.wait_for(lambda: self.session(p) and self.session(p)["stats"]["ingress"]["packets"] == 5))
        s = self.session(p)
        self.assertEqual(s["destination"]["peer"], f"{NOBODY}:9001")
        # Who comes first must be heard in user space.
        self.assertEqual([d["reason"] for d in s["offload"]["directions"]], ["not-established"] * 2)
        return client, endpoint, ("10.9.2.1", int(s["destination"]["local"].rsplit(":", 1)[1]))

    def session(self, p):
        return next(iter(self.sessions(p).values()), None)

    def both_ways(self, client, endpoint, upstream):
        endpoint.sendto(b"from", upstream)
        self.assertEqual(client.recv(2000), b"from")
        client.sendto(b"to", GATE)
        self.assertEqual(endpoint.recv(2000), b"to")

    def fast(self, p, client, endpoint, upstream):
        """Until the kernel has the flow to this endpoint: what the session is then."""
        address = "%s:%d" % endpoint.getsockname()

        def there():
            self.both_ways(client, endpoint, upstream)
            s = self.session(p)
            return s if s["offload"]["state"] == "fast" and s["destination"]["peer"] == address else None
        s = l7test.wait_for(there, l7net.WAIT)
        self.assertTrue(s, self.session(p))
        return s

    def carries(self, p, client, endpoint, upstream, n=200):
        """The flow counts them, user space none."""
        before = self.fast(p, client, endpoint, upstream)["stats"]
        for _ in range(n):
            self.both_ways(client, endpoint, upstream)
        after = self.session(p)["stats"]
        for way in ("ingress", "egress"):
            self.assertEqual(after[way]["slow"], before[way]["slow"], way)
            self.assertEqual(after[way]["fast"]["packets"] - before[way]["fast"]["packets"], n, way)

    def others(self, client, upstream, *sockets):
        for s in sockets:
            for _ in range(20):
                s.sendto(b"evil", upstream)
        client.setblocking(False)
        self.assertRaises(BlockingIOError, client.recv, 2000)
        client.settimeout(l7net.WAIT)


class Kernel(Latch):
    def test_learnt(self):
        """the flow goes to who was heard first; others are dropped beside it, and counted"""
        self.b.run(f"ip addr add {NOBODY}/24 dev eth0")
        attacker, meant = self.b.udp(7001), self.b.udp(9001, NOBODY)
        self.addCleanup(attacker.close)
        self.addCleanup(meant.close)
        with self.start() as p:
            client, endpoint, upstream = self.call(p)
            self.carries(p, client, endpoint, upstream)
            flows = p.api.get("/offload/flows")[1]
            self.assertEqual(len(flows), 2)
            self.assertIn("10.9.2.2", str(flows))
            self.assertNotIn(NOBODY, str(flows))
            self.others(client, upstream, attacker, meant)
            self.assertTrue(l7test.wait_for(lambda: self.peer_drops() == 40), self.peer_drops())
            self.carries(p, client, endpoint, upstream)
        self.nothing_left()

    @staticmethod
    def peer_drops():
        with urllib.request.urlopen("http://127.0.0.1:9100/metrics") as r:
            found = re.search(r'^l7mp_drops_total\{reason="peer"\} (\d+)', r.read().decode(), re.M)
        return int(found.group(1)) if found else 0

    def test_window(self):
        """another source within the window: the flow leaves the kernel, and comes back with the new address"""
        other = self.b.udp(7001)
        self.addCleanup(other.close)
        with self.start(latch={"window": 3600}) as p:
            client, endpoint, upstream = self.call(p)
            for who in (endpoint, other, endpoint):
                self.carries(p, client, who, upstream)
            names = [e["message"] for e in self.session(p)["events"] if e["event"] == "LATCHED"]
            self.assertEqual(names, ["10.9.2.2:7000", "10.9.2.2:7001", "10.9.2.2:7000"])
            self.assertEqual(len(p.api.get("/offload/flows")[1]), 2)
        self.nothing_left()

    def test_killed(self):
        """the daemon that comes after a crash keeps the learnt peer, and takes no other, whatever the window"""
        other, caller = self.b.udp(7001), self.a.udp(5001)
        self.addCleanup(other.close)
        self.addCleanup(caller.close)
        p = self.start(latch={"window": 3600})
        client, endpoint, upstream = self.call(p)
        self.carries(p, client, endpoint, upstream)
        was = self.session(p)
        self.kill(p)
        with self.start(latch={"window": 3600}) as q:
            self.assertEqual(self.adopted(q)["sessions"], 1, self.adopted(q))
            self.assertEqual(self.session(q)["name"], was["name"])
            self.others(client, upstream, other)
            caller.sendto(b"evil", GATE)
            self.carries(q, client, endpoint, upstream)
            self.assertEqual([s["destination"]["peer"] for s in self.sessions(q).values()], [was["destination"]["peer"]])
        self.nothing_left()


if __name__ == "__main__":
    l7test.main()
