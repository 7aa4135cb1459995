#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: alone timeout=180 timeout_full=600
"""Changes of the network under flows, from the kernel's own message to the pinned map. And
interfaces that vanish, come back as others, or are renamed under a session in the kernel."""
import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import l7kernel as k  # noqa: E402
import l7net  # noqa: E402
import l7test  # noqa: E402
from test_offload_basic import Base, cluster  # noqa: E402

ROUNDS = 20 if l7test.FULL else 5
KEY, ACTION = 16, 128  # of flows4: include/l7mp/abi.h
DMAC = slice(48, 54)


class Follows(Base):
    def setUp(self):
        super().setUp()
        self.kernel = k.Rtnetlink()
        self.addCleanup(self.kernel.close)

    def start(self, **kw):
        """A session in the kernel; the proxy and the map of flows."""
        self.client, self.server = self.a.udp(5000), self.b.udp(9001)
        p = self.proxy(**kw)
        self.ping(self.client, self.server)
        self.wait_fast(p)
        flows = k.HashMap(self.pins / "flows4", KEY, ACTION)
        self.addCleanup(flows.close)
        return p, flows

    def follows(self, command, kind, match, followed, peer=None):
        """Runs `command` and returns the seconds from the kernel's message of it to its effect, seen here."""
        self.kernel.drain()
        enter = ["nsenter", f"--net={peer.path}"] if peer else []
        with subprocess.Popen([*enter, *command.split()]) as run:
            told = self.kernel.wait(kind, match)
            while not followed():
                self.assertLess(time.monotonic() - told, l7net.WAIT * l7test.SLOW, command)
            took = time.monotonic() - told
        self.assertEqual(run.returncode, 0, command)
        return took

    def rounds(self, what, one, undo, reason=None):
        """In each round the flows come back by themselves, without a packet."""
        with self.p:
            times = []
            for _ in range(ROUNDS):
                times.append(one())
                if reason:
                    # `pending` in between: the session is asked again at once.
                    self.assertTrue(l7test.wait_for(lambda: self.session(self.p)["offload"]["directions"][0]["reason"]
                                                    in reason), self.session(self.p)["offload"])
                undo()
                self.wait_fast(self.p)
            print(f"# {what}: {', '.join(f'{t * 1e3:.1f}' for t in sorted(times))} ms")
            self.ping(self.client, self.server)

    def test_link_down(self):
        """a link that is set down"""
        self.p, flows = self.start()
        self.rounds("link down",
                    lambda: self.follows("ip link set legB down", k.RTM_NEWLINK, k.link_is("legB", up=False),
                                         flows.empty),
                    lambda: l7net.ip("link set legB up"), ["no-route"])

    def test_carrier(self):
        """a link whose other end goes down"""
        self.p, flows = self.start()
        self.rounds("carrier lost",
                    lambda: self.follows("ip link set eth0 down", k.RTM_NEWLINK, k.link_is("legB", carrier=False),
                                         flows.empty, self.b),
                    lambda: self.b.run("ip link set eth0 up"), ["no-route", "no-neighbour"])

    def test_carrier_permanent_neighbour(self):
        """the same, with a neighbour that the kernel keeps"""
        l7net.ip(f"neigh replace 10.9.2.2 lladdr {self.b.mac()} dev legB nud permanent")
        self.p, flows = self.start()
        self.rounds("carrier lost, permanent neighbour",
                    lambda: self.follows("ip link set eth0 down", k.RTM_NEWLINK, k.link_is("legB", carrier=False),
                                         flows.empty, self.b),
                    lambda: self.b.run("ip link set eth0 up"), ["no-route"])

    def test_address(self):
        """the address that a session sends from is taken away"""
        self.p, flows = self.start()
        self.rounds("address gone",
                    lambda: self.follows("ip addr del 10.9.2.1/24 dev legB", k.RTM_DELADDR, lambda _: True,
                                         flows.empty),
                    lambda: l7net.ip("addr add 10.9.2.1/24 dev legB"), ["no-route"])

    def test_rule(self):
        """a rule that forbids the way"""
        self.p, flows = self.start()
        self.addCleanup(l7net.ip, "rule del to 10.9.2.2 unreachable", check=False)
        self.rounds("rule",
                    lambda: self.follows("ip rule add to 10.9.2.2 unreachable", k.RTM_NEWRULE, lambda _: True,
                                         flows.empty),
                    lambda: l7net.ip("rule del to 10.9.2.2 unreachable"), ["no-route"])

    def test_route(self):
        """the route goes"""
        self.p, flows = self.start()
        self.rounds("route gone",
                    lambda: self.follows("ip route del 10.9.2.0/24 dev legB", k.RTM_DELROUTE, lambda _: True,
                                         flows.empty),
                    lambda: l7net.ip("route add 10.9.2.0/24 dev legB src 10.9.2.1"), ["no-route"])

    def test_reason_follows(self):
        """slow for one reason, then for another: the session says what is so now, without a packet"""
        def says(reason):
            return l7test.wait_for(lambda: self.session(p)["offload"]["directions"][0]["reason"] == reason, l7net.WAIT)
        client = self.a.udp(5000)
        with self.proxy(destination=cluster("10.9.2.77")) as p:  # nobody
            client.sendto(b"one", ("10.9.1.1", 9000))
            self.assertTrue(l7test.wait_for(lambda: self.session(p), l7net.WAIT))
            self.assertTrue(says("no-neighbour"), self.session(p)["offload"])
            l7net.ip("route add unreachable 10.9.2.77")
            self.assertTrue(says("no-route"), self.session(p)["offload"])
            l7net.ip("route del unreachable 10.9.2.77")
            self.assertTrue(says("no-neighbour"), self.session(p)["offload"])

    def test_told_before(self):
        """a nexthop object is deleted: the kernel removes its routes after the event, and without events of their own"""
        n = 2000 if os.environ.get("L7MP_VM") else 100_000  # the table is searched from its beginning: that takes a while
        for text in ("nexthop add id 7 dev legB", "nexthop add id 8 dev legA", "route add 10.9.2.2 nhid 7 src 10.9.2.1",
                     "route del 10.9.2.0/24 dev legB"):
            l7net.ip(text)
        batch = "".join(f"route add 10.{i >> 16}.{i >> 8 & 255}.{i & 255} nhid 8\n" for i in range(n))
        subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True)
        self.p, flows = self.start()
        with self.p:
            took = self.follows("ip nexthop del id 7", k.RTM_DELNEXTHOP, lambda _: True, flows.empty)
            print(f"# nexthop deleted: {took * 1e3:.1f} ms")
            self.assertTrue(l7test.wait_for(lambda: self.session(self.p)["offload"]["directions"][0]["reason"] == "no-route"),
                            self.session(self.p)["offload"])
            l7net.ip("route add 10.9.2.0/24 dev legB src 10.9.2.1")
            self.wait_fast(self.p)
            self.ping(self.client, self.server)

    def test_neighbour(self):
        """the neighbour's link address changes, and it goes"""
        mac, ip = self.b.mac(), bytes([10, 9, 2, 2])
        self.p, flows = self.start()

        def is_in_flow(raw):
            return any(v[DMAC] == raw for v in flows.values())
        changed, gone = [], []
        with self.p:
            for i in range(ROUNDS):
                other = f"02:00:00:00:98:{i:02x}"
                raw = bytes.fromhex(other.replace(":", ""))
                changed.append(self.follows(f"ip neigh replace 10.9.2.2 lladdr {other} dev legB nud permanent",
                                            k.RTM_NEWNEIGH, lambda payload, r=raw: r in payload,
                                            lambda r=raw: is_in_flow(r)))
            for _ in range(ROUNDS):
                self.b.run("ip link set eth0 arp off")  # the proxy asks for it at once
                gone.append(self.follows("ip neigh del 10.9.2.2 dev legB", k.RTM_DELNEIGH, lambda payload: ip in payload,
                                         flows.empty))
                self.b.run("ip link set eth0 arp on")
                l7net.ip(f"neigh replace 10.9.2.2 lladdr {mac} dev legB nud permanent")
                self.wait_fast(self.p)
        for what, times in (("neighbour changed", changed), ("neighbour gone", gone)):
            print(f"# {what}: {', '.join(f'{t * 1e3:.1f}' for t in sorted(times))} ms")


    def test_many(self):
        """a thousand sessions and more of the daemon's own: all out of the map, and all back by themselves"""
        n = 4000 if l7test.FULL else 1000
        self.server = self.b.udp(9001)
        clients = [self.a.udp() for _ in range(n)]
        flows_of = []

        def send():
            for c in clients[len(flows_of) // 2:]:
                c.sendto(b"x", ("10.9.1.1", 9000))
                time.sleep(0.0005)

        def count():
            flows_of[:] = flows.keys()
            return len(flows_of)
        with self.proxy() as p:
            flows = k.HashMap(self.pins / "flows4", KEY, ACTION)
            self.addCleanup(flows.close)
            send()
            self.assertTrue(l7test.wait_for(lambda: count() == 2 * n or send(), l7net.WAIT, 0.5), count())
            down, up = [], []
            for _ in range(3):
                down.append(self.follows("ip link set legB down", k.RTM_NEWLINK, k.link_is("legB", up=False),
                                         flows.empty))
                l7net.ip("link set legB up")
                start = time.monotonic()
                self.assertTrue(l7test.wait_for(lambda: count() == 2 * n, l7net.WAIT, 0.05), (count(), p.stderr()[-2000:]))
                up.append(time.monotonic() - start)
            print(f"# {n} sessions out in {', '.join(f'{t * 1e3:.1f}' for t in sorted(down))} ms, "
                  f"back in {', '.join(f'{t * 1e3:.0f}' for t in sorted(up))} ms")
        for c in clients:
            c.close()


class Interfaces(Base):
    def served(self, p):
        return {i["name"]: i["hook"] for i in p.api.get("/offload")[1]["interfaces"] if i["hook"] != "none"}

    def state(self, p):
        s = self.session(p)
        return s and (s["offload"]["state"], s["offload"]["directions"][0]["reason"])

    def wait_slow(self, p, reason):
        got = l7test.wait_for(lambda: self.state(p) == ("slow", reason))
        self.assertTrue(got, f"{self.state(p)} {p.stderr()[-2000:]}")

    def leg_again(self, name="legB", index=None):
        """The link to peer b, created again by another program: only the namespace is the same."""
        at = f"index {index}" if index else ""
        l7net.ip(f"link add {name} {at} type veth peer name eth0 netns {self.b.name}")
        self.b.run("ip link set eth0 up")
        self.b.run("ip addr add 10.9.2.2/24 dev eth0")
        self.b.run("ip route add default via 10.9.2.1")
        l7net.ip(f"addr add 10.9.2.1/24 dev {name}")
        l7net.ip(f"link set {name} up")

    def index(self, name):
        return k.socket.if_nametoindex(name)

    def exits(self, p):
        return sorted(f["out"] for f in p.api.get("/offload/flows")[1])

    def again(self, ifs, twice_the_index):
        client, server = self.a.udp(5000), self.b.udp(9001)
        with self.proxy(ifs=ifs) as p:
            self.ping(client, server)
            self.wait_fast(p)
            for _ in range(3):
                old = self.index("legB")
                l7net.ip("link del legB")
                self.wait_slow(p, "no-route")
                self.assertEqual(p.api.get("/offload/flows")[1], [])
                self.assertTrue(l7test.wait_for(lambda: "legB" not in self.served(p)))
                self.leg_again(index=old if twice_the_index else None)
                self.assertEqual(self.index("legB") == old, twice_the_index)
                s = self.wait_fast(p)
                self.assertEqual(self.served(p), {"legA": "tc", "legB": "tc"})
                before = s["stats"]
                for i in range(20):
                    self.ping(client, server, payload=b"%d" % i)
                after = self.session(p)["stats"]
                for way in ("ingress", "egress"):
                    self.assertEqual(after[way]["fast"]["packets"] - before[way]["fast"]["packets"], 20)
                    self.assertEqual(after[way]["slow"], before[way]["slow"])
        self.nothing_left()

    def test_again(self):
        """deleted and made again under the same name, as another interface: flows come back by themselves"""
        self.again("legA,legB", False)

    def test_again_same_index(self):
        """the same, with the old one's index"""
        self.again("legA,legB", True)

    def test_again_all(self):
        """the same with `all`"""
        self.again("all", False)

    def rename(self, old, new):
        """While it is up, or (before 6.3) while it is down, which takes its routes; those of its addresses come back."""
        if l7net.ip_error(f"link set {old} name {new}"):
            l7net.ip(f"link set {old} down")
            l7net.ip(f"link set {old} name {new}")
            l7net.ip(f"link set {new} up")

    def test_renamed(self):
        """a served interface gets a name that is not in the list, and gets it back"""
        client, server = self.a.udp(5000), self.b.udp(9001)
        with self.proxy() as p:
            self.ping(client, server)
            self.wait_fast(p)
            self.rename("legB", "legX")
            self.wait_slow(p, "interface-not-enabled")
            self.assertEqual(self.served(p), {"legA": "tc"})
            self.assertEqual((l7net.filters("legX"), "clsact" in l7net.qdiscs("legX")), ([], False))
            self.ping(client, server)  # by the slow path
            self.rename("legX", "legB")
            self.wait_fast(p)
            self.assertEqual(self.served(p), {"legA": "tc", "legB": "tc"})
            self.ping(client, server)
        self.nothing_left()

    def test_renamed_to_match(self):
        """an interface gets a name that is in the list: its session goes into the kernel by itself"""
        client, server = self.a.udp(5000), self.b.udp(9001)
        with self.proxy(ifs="legA,legY") as p:
            self.ping(client, server)
            self.wait_slow(p, "interface-not-enabled")
            self.rename("legB", "legY")
            self.wait_fast(p)
            self.assertEqual(self.served(p), {"legA": "tc", "legY": "tc"})
            self.assertEqual(self.exits(p), ["legA", "legY"])
            self.ping(client, server)
            self.rename("legY", "legB")
            self.wait_slow(p, "interface-not-enabled")
        self.nothing_left()

    def test_renamed_both_named(self):
        """both names are in the list, or `all`: the session stays, or comes back, and shows the new name"""
        for ifs in ("legA,legB,legZ", "all"):
            client, server = self.a.udp(5000), self.b.udp(9001)
            with self.proxy(ifs=ifs) as p:
                self.ping(client, server)
                self.wait_fast(p)
                self.rename("legB", "legZ")
                self.assertTrue(l7test.wait_for(lambda q=p: self.exits(q) == ["legA", "legZ"]), self.exits(p))
                self.wait_fast(p)
                self.assertEqual(self.served(p), {"legA": "tc", "legZ": "tc"})
                self.ping(client, server)
                self.rename("legZ", "legB")
                self.assertTrue(l7test.wait_for(lambda q=p: self.exits(q) == ["legA", "legB"]), self.exits(p))
            client.close()
            server.close()
            self.nothing_left()

    def test_name_taken_over(self):
        """another interface takes the name of one that was renamed: the list means names"""
        client, server = self.a.udp(5000), self.b.udp(9001)
        with self.proxy() as p:
            self.ping(client, server)
            self.wait_fast(p)
            self.rename("legB", "legX")
            self.wait_slow(p, "interface-not-enabled")
            l7net.ip("link add legB type veth peer name other")
            self.addCleanup(l7net.ip, "link del legB", check=False)
            l7net.ip("link set other up")
            l7net.ip("link set legB up")
            self.assertTrue(l7test.wait_for(lambda: self.served(p) == {"legA": "tc", "legB": "tc"}), self.served(p))
            # It is served, but the session's packets don't go there.
            self.wait_slow(p, "interface-not-enabled")
            self.ping(client, server)
            l7net.ip("link del legB")
            self.assertTrue(l7test.wait_for(lambda: self.served(p) == {"legA": "tc"}), self.served(p))
            self.rename("legX", "legB")
            self.wait_fast(p)
            self.ping(client, server)
        self.nothing_left()


if __name__ == "__main__":
    l7test.main()
