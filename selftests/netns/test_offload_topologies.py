#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=180
"""The kernel fast path in other places than a plain gateway: hairpin, sidecar over lo, VLANs,
native and generic XDP, a small egress MTU, a routed nexthop."""
import pathlib
import socket
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import l7net  # noqa: E402
import l7test  # noqa: E402
from test_offload_basic import Base, cluster  # noqa: E402


def sysctl(name, value=None, dev="lo"):
    path = pathlib.Path(f"/proc/sys/net/ipv4/conf/{dev}/{name}")
    if value is not None:
        path.write_text(f"{value}\n")
    return path.read_text().strip()


class Topologies(Base):
    def through_flow(self, p, client, server, to=("10.9.1.1", 9000), n=100, hook=None, size=200):
        """n messages there and back, all of them in the kernel."""
        self.ping(client, server, to)
        before = self.wait_fast(p)
        if hook:
            self.assertEqual([d["hook"] for d in before["offload"]["directions"]], hook)
        before = before["stats"]
        for i in range(n):
            self.ping(client, server, to, (b"%d" % i) * (size // 3))
        after = self.session(p)["stats"]
        for way in ("ingress", "egress"):
            self.assertEqual(after[way]["slow"], before[way]["slow"], way)
            self.assertEqual(after[way]["fast"]["packets"] - before[way]["fast"]["packets"], n)

    def test_hairpin(self):
        """in and out by the same interface"""
        client = self.a.udp(5000)
        self.a.run("ip addr add 10.9.1.3/24 dev eth0")
        server = self.a.udp(9001, "10.9.1.3")
        with self.proxy(ifs="legA", destination=cluster("10.9.1.3")) as p:
            self.through_flow(p, client, server, hook=["tc", "tc"])
        self.nothing_left(["legA"])

    def sidecar(self, app, address, to, own):
        """an application of this host"""
        family = socket.AF_INET6 if ":" in app else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as server:
            server.bind((app, 9001))
            server.settimeout(l7net.WAIT)
            client = self.a.udp(5000, own)
            with self.proxy(ifs="legA,lo", destination=cluster(app), address=address) as p:
                self.through_flow(p, client, server, to)
                lo = [i for i in p.api.get("/offload")[1]["interfaces"] if i["name"] == "lo"][0]
                self.assertTrue(lo["sysctls_before"]["ready"])
            client.close()

    def test_sidecar(self):
        """an application on 127.0.0.1 and on an own address, with the sysctls of lo alone"""
        for name in ("route_localnet", "accept_local", "rp_filter"):
            sysctl(name, 0, "all")
            sysctl(name, 0, "lo")
        self.sidecar("127.0.0.1", "10.9.1.1", ("10.9.1.1", 9000), "10.9.1.2")
        self.sidecar("10.9.2.1", "10.9.1.1", ("10.9.1.1", 9000), "10.9.1.2")
        self.assertEqual([sysctl("route_localnet"), sysctl("accept_local")], ["0", "0"])
        self.assertEqual([sysctl("route_localnet", dev="all"), sysctl("accept_local", dev="all")], ["0", "0"])
        self.sidecar("::1", "fd09:1::1", ("fd09:1::1", 9000), "fd09:1::2")
        self.nothing_left(["legA", "lo"])

    def test_sidecar_needs_the_sysctls(self):
        """without our two sysctls the same packet does not arrive: the test above proves something"""
        for name in ("route_localnet", "accept_local", "rp_filter"):
            sysctl(name, 0, "all")
            sysctl(name, 0, "lo")
        client = self.a.udp(5000)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", 9001))
            server.settimeout(l7net.WAIT)
            with self.proxy(ifs="legA,lo", destination=cluster("127.0.0.1")) as p:
                self.ping(client, server)
                self.wait_fast(p)
                sysctl("route_localnet", 0)
                server.settimeout(0.5)
                client.sendto(b"lost", ("10.9.1.1", 9000))
                with self.assertRaises(TimeoutError):
                    server.recv(100)
                server.settimeout(l7net.WAIT)
                sysctl("route_localnet", 1)
                self.ping(client, server)

    def vlan(self, peer, tag, four, own, parent=None):
        """A tagged leg; parent: a tag below it."""
        if "Unknown device type" in l7net.ip_error("link add link legB name probe type vlan id 4000"):
            self.skipTest("this kernel has no VLAN devices (8021q)")
        l7net.ip("link del probe", check=False)
        low, plow = peer.leg, "eth0"
        if parent:
            l7net.ip(f"link add link {low} name {low}.{parent} type vlan id {parent} protocol 802.1ad")
            peer.run(f"ip link add link eth0 name eth0.{parent} type vlan id {parent} protocol 802.1ad")
            l7net.ip(f"link set {low}.{parent} up")
            peer.run(f"ip link set eth0.{parent} up")
            low, plow = f"{low}.{parent}", f"eth0.{parent}"
        l7net.ip(f"link add link {low} name {low}.{tag} type vlan id {tag}")
        peer.run(f"ip link add link {plow} name {plow}.{tag} type vlan id {tag}")
        l7net.ip(f"addr add {four}/24 dev {low}.{tag}")
        peer.run(f"ip addr add {own}/24 dev {plow}.{tag}")
        l7net.ip(f"link set {low}.{tag} up")
        peer.run(f"ip link set {plow}.{tag} up")
        return f"{low}.{tag}"

    def test_vlan(self):
        """out by a VLAN device, in by it or by the device below it"""
        dev = self.vlan(self.b, 7, "10.9.7.1", "10.9.7.2")
        client = self.a.udp(5000)
        for ifs in (f"legA,{dev}", "legA,legB"):
            with self.subTest(ifs=ifs):
                server = self.b.udp(9001, "10.9.7.2")
                with self.proxy(ifs=ifs, destination=cluster("10.9.7.2")) as p:
                    self.through_flow(p, client, server)
                server.close()
        self.nothing_left(["legA", "legB", dev])

    def test_vlan_generic_xdp(self):
        """XDP writes the tags itself, one and two"""
        one = self.vlan(self.b, 7, "10.9.7.1", "10.9.7.2")
        two = self.vlan(self.b, 8, "10.9.8.1", "10.9.8.2", parent=9)
        self.assertTrue(one and two)
        self.no_offloads()
        client = self.a.udp(5000)
        for address in ("10.9.7.2", "10.9.8.2"):
            with self.subTest(address=address):
                server = self.b.udp(9001, address)
                with self.proxy(destination=cluster(address), admin={"offload_mode": "generic"}) as p:
                    self.through_flow(p, client, server, hook=["generic", "generic"])
                    flow, back = p.api.get("/offload/flows")[1]
                    self.assertEqual(flow["egress"]["vlans"], 1 if address == "10.9.7.2" else 2)
                    self.assertFalse(flow["egress"]["tc_only"])
                    # A tag that the device took off is out of XDP's sight: tc removes it.
                    self.assertTrue(back["egress"]["tc_only"])
                server.close()

    def no_offloads(self):
        """Peers complete their checksums: XDP can't see partial ones."""
        for peer in (self.a, self.b):
            peer.run("ethtool -K eth0 tx off")

    def test_native(self):
        """native XDP on veth: what XDP can't send into a veth leaves by the tc program behind"""
        self.no_offloads()
        client, server = self.a.udp(5000), self.b.udp(9001)
        with self.proxy(admin={"offload_mode": "native"}) as p:
            self.through_flow(p, client, server, hook=["native", "native"])
            self.assertTrue(all(f["egress"]["tc_only"] for f in p.api.get("/offload/flows")[1]))
        self.nothing_left()

    def test_native_devmap(self):
        """native XDP on veth: by devmap when the peer can take it"""
        self.no_offloads()
        client, server = self.a.udp(5000), self.b.udp(9001)
        for peer in (self.a, self.b):
            peer.run("ethtool -K eth0 gro on")
        with self.proxy(admin={"offload_mode": "native"}) as p:
            self.ping(client, server)
            self.wait_fast(p)
            if any(f["egress"]["tc_only"] for f in p.api.get("/offload/flows")[1]):
                self.skipTest("this kernel does not say that the peer of a veth can take XDP frames")
            self.through_flow(p, client, server, hook=["native", "native"])
            self.assertEqual(self.verdicts(p)["to-tc"], 0)
        self.nothing_left()

    def test_mtu(self):
        """a packet that is too large for the egress interface is passed up, and is relayed on the slow path"""
        l7net.ip("link set legB mtu 1000")
        client, server = self.a.udp(5000), self.b.udp(9001)
        with self.proxy() as p:
            self.through_flow(p, client, server, n=20)
            before = self.session(p)["stats"]["ingress"]
            seen = self.verdicts(p)["mtu"]
            client.sendto(b"m" * 1200, ("10.9.1.1", 9000))
            self.assertEqual(server.recv(2000), b"m" * 1200)  # in two fragments
            after = self.session(p)["stats"]["ingress"]
            self.assertEqual(after["slow"]["packets"] - before["slow"]["packets"], 1)
            self.assertEqual(self.verdicts(p)["mtu"] - seen, 1)
            l7net.ip("link set legB mtu 1500")
            l7test.wait_for(lambda: p.api.get("/offload/flows")[1][0]["egress"]["mtu"] == 1500, l7net.WAIT)
            self.ping(client, server, payload=b"m" * 1200)
            self.assertEqual(self.session(p)["stats"]["ingress"]["slow"], after["slow"])

    def test_path_mtu(self):
        """a router behind takes less: once it has said so, what is too large is relayed in fragments"""
        for text in ("ip link add far type veth peer name farther", "ip link set far mtu 1280 up", "ip link set farther up",
                     "ip addr add 10.88.0.1/24 dev far", "ip neigh add 10.88.0.2 lladdr 02:00:00:00:00:77 dev far",
                     "sysctl -qw net.ipv4.ip_forward=1"):
            self.b.run(text)
        l7net.ip("route add 10.88.0.0/24 via 10.9.2.2 src 10.9.2.1")
        with self.b.inside():
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        self.addCleanup(wire.close)
        wire.bind(("farther", 0x0800))
        wire.settimeout(l7net.WAIT)
        client = self.a.udp(5000)
        client.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO: don't fragment

        def arrives(size):
            client.sendto(b"p" * size, ("10.9.1.1", 9000))
            return len(wire.recv(2000))

        def mtus():
            return {f["egress"]["mtu"] for f in p.api.get("/offload/flows")[1] if f["out"] == "legB"}
        with self.proxy(destination=cluster("10.88.0.2")) as p:
            self.assertEqual(arrives(100), 128)
            self.wait_fast(p)
            before = self.session(p)["stats"]["ingress"]["slow"]
            self.assertEqual(arrives(1200), 1228)
            client.sendto(b"l" * 1400, ("10.9.1.1", 9000))  # lost, and the router says why
            self.assertTrue(l7test.wait_for(lambda: mtus() == {1280}, l7net.WAIT), mtus())
            self.assertEqual(self.session(p)["stats"]["ingress"]["slow"], before)
            self.assertEqual(arrives(1400) + len(wire.recv(2000)), 1408 + 2 * 20)  # in two fragments
            self.assertEqual(self.session(p)["stats"]["ingress"]["slow"]["packets"], before["packets"] + 1)
            self.assertEqual(arrives(1200), 1228)
            self.assertEqual(self.session(p)["stats"]["ingress"]["slow"]["packets"], before["packets"] + 1)

    def test_next_hop(self):
        """a route through a nexthop, moved to another interface under the flow"""
        self.a.run("ip addr add 10.77.0.1/32 dev lo")
        self.b.run("ip addr add 10.77.0.1/32 dev lo")
        l7net.ip("route add 10.77.0.0/24 via 10.9.2.2 src 10.9.2.1")
        client = self.a.udp(5000)
        first, second = self.b.udp(9001, "10.77.0.1"), self.a.udp(9001, "10.77.0.1")
        with self.proxy(destination=cluster("10.77.0.1")) as p:
            self.through_flow(p, client, first, n=20)
            l7net.ip("route replace 10.77.0.0/24 via 10.9.1.2 src 10.9.2.1")
            out = l7test.wait_for(lambda: [f["out"] for f in p.api.get("/offload/flows")[1]] == ["legA", "legA"], l7net.WAIT)
            self.assertTrue(out, p.api.get("/offload/flows"))
            self.ping(client, second)
            l7net.ip("route del 10.77.0.0/24")
            self.assertTrue(l7test.wait_for(lambda: p.api.get("/offload/flows")[1] == [], l7net.WAIT))
            self.assertTrue(l7test.wait_for(lambda: self.session(p)["offload"]["directions"][0]["reason"] == "no-route"))


if __name__ == "__main__":
    l7test.main()
