#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=300
"""Multipath routes that choose a leg by ports: a flow leaves by the leg that its session's socket takes."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import l7net  # noqa: E402
import l7test  # noqa: E402
from test_offload_basic import Base, cluster  # noqa: E402

SESSIONS = 16


class Multipath(Base):
    def setUp(self):
        super().setUp()
        self.c = l7net.Peer("legC", "10.9.3.1", "10.9.3.2")
        self.addCleanup(self.c.close)
        for peer in (self.b, self.c):
            peer.run("ip addr add 10.77.0.1/32 dev lo")
        l7net.ip("addr add 10.10.0.1/32 dev lo")  # a leg's own address would decide
        self.addCleanup(l7net.ip, "addr del 10.10.0.1/32 dev lo")
        self.addCleanup(l7net.sh, "sysctl", "-qw", "net.ipv4.fib_multipath_hash_policy=0")
        error = l7net.ip_error("route add 10.77.0.0/24 src 10.10.0.1 nexthop via 10.9.2.2 dev legB nexthop via 10.9.3.2 dev legC")
        if error:
            self.skipTest(f"this kernel has no multipath routes: {error.strip()}")

    def legs(self, p):
        """Port of the client: the interface by which its flow leaves."""
        return {int(f["match"].split(" -> ")[0].rsplit(":", 1)[1]): f["out"]
                for f in p.api.get("/offload/flows")[1] if f["in"] == "legA"}

    def run_sessions(self, set_late):
        servers = {"legB": self.b.udp(9001, "10.77.0.1", timeout=0.01), "legC": self.c.udp(9001, "10.77.0.1", timeout=0.01)}
        clients = {6000 + i: self.a.udp(6000 + i) for i in range(SESSIONS)}
        if not set_late:
            l7net.sh("sysctl", "-qw", "net.ipv4.fib_multipath_hash_policy=1")
        with self.proxy(ifs="legA,legB,legC", destination=cluster("10.77.0.1")) as p:
            if set_late:
                for c in clients.values():
                    c.sendto(b"early", ("10.9.1.1", 9000))
                self.assertTrue(l7test.wait_for(lambda: len(self.legs(p)) == SESSIONS, l7net.WAIT), self.legs(p))
                l7net.sh("sysctl", "-qw", "net.ipv4.fib_multipath_hash_policy=1")
                # The sockets' own routes are looked up again when the kernel's have changed.
                l7net.ip("route add 10.78.0.0/24 dev legB")
            expected = {}
            for port, local in self.locals_of(p, clients).items():
                route = l7net.ip(f"route get 10.77.0.1 from 10.10.0.1 ipproto udp sport {local} dport 9001")
                expected[port] = "legB" if "dev legB" in route else "legC"
            print(f"# {sorted(expected.values())}")
            self.assertEqual(set(expected.values()), {"legB", "legC"})
            self.assertTrue(l7test.wait_for(lambda: self.legs(p) == expected, l7net.WAIT), (self.legs(p), expected))
            for port, leg in expected.items():
                clients[port].sendto(b"last%d" % port, ("10.9.1.1", 9000))
                self.assertTrue(l7test.wait_for(lambda p=port, s=servers[leg]: s.recv(100) == b"last%d" % p, l7net.WAIT))
        for s in (*servers.values(), *clients.values()):
            s.close()

    def locals_of(self, p, clients):
        """Port of the client: the local port of its session's upstream socket."""
        for c in clients.values():
            c.sendto(b"first", ("10.9.1.1", 9000))
        found = {}

        def all_of_them():
            for f in p.api.get("/offload/flows")[1]:
                if f["in"] == "legA":
                    found[int(f["match"].split(" -> ")[0].rsplit(":", 1)[1])] = int(
                        f["rewrite"].split(" -> ")[0].rsplit(":", 1)[1])
            return len(found) == SESSIONS
        self.assertTrue(l7test.wait_for(all_of_them, l7net.WAIT), found)
        return found

    def test_hash_of_ports(self):
        """fib_multipath_hash_policy 1: half of the sessions leave by the other leg, as their sockets do"""
        self.run_sessions(False)

    def test_set_later(self):
        """the same, set while flows run: they follow"""
        self.run_sessions(True)


if __name__ == "__main__":
    l7test.main()
