#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=120
"""What bpftool prints of the pinned maps is what the API says of the flows."""
import ipaddress
import json
import pathlib
import shutil
import socket
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import l7net  # noqa: E402
import l7test  # noqa: E402
from test_offload_basic import Base, cluster  # noqa: E402

BPFTOOL = shutil.which("bpftool") or shutil.which("bpftool", path="/usr/sbin:/sbin")
SESSIONS = 500 if l7test.FULL else 50
VERBS = {1: "forward", 2: "reflect", 3: "count"}


def port(number):
    """A __be16 as bpftool prints it, read as the port it is."""
    return socket.ntohs(number)


def address(field):
    """An address: bytes in the order in which they are written, of IPv6 in a struct l7mp_abi_addr."""
    return str(ipaddress.ip_address(bytes(field["bytes"] if isinstance(field, dict) else field)))


def mac(numbers):
    return ":".join(f"{n:02x}" for n in numbers)


def key_of(key):
    return (key["l4"], address(key["saddr"]), port(key["sport"]), address(key["daddr"]), port(key["dport"]))


def parts(value, family):
    """Of a flow's value: the action, and what has its addresses."""
    return (value, value) if family == 4 else (value["action"], value)


class Bpftool(Base):
    def setUp(self):
        super().setUp()
        if not BPFTOOL:
            self.skipTest("needs bpftool")

    def dump(self, name):
        """The pinned map, as a list of (key, value or values) with the types of its BTF."""
        out = json.loads(l7net.sh(BPFTOOL, "-j", "map", "dump", "pinned", str(self.pins / name)))
        self.assertNotIsInstance(out, dict, out)
        for entry in out:
            self.assertIn("formatted", entry, "the map has no BTF")
        return [(e["formatted"]["key"], e["formatted"].get("value", e["formatted"].get("values"))) for e in out]

    def traffic(self, address, to, own, far):
        """Sessions of different use; the sockets of the clients."""
        server = self.b.udp(9001, far)
        clients = []
        for i in range(SESSIONS):
            clients.append(self.a.udp(0, own))
            for n in range(1 + i % 3):
                self.ping(clients[-1], server, to, b"x" * (1 + (i * 7 + n) % 1000))
        return server, clients

    def use(self, p, server, clients, to):
        """Until all are in the kernel, then more, in different measure."""
        def all_fast():
            # A neighbour that did not answer in time is asked again for packets, not for waiting.
            self.ping(clients[0], server, to)
            return p.api.get("/offload")[1]["flows"]["now"] == SESSIONS
        l7test.wait_for(all_fast, 10, 0.1)
        self.assertEqual(p.api.get("/offload")[1]["flows"]["now"], SESSIONS,
                         (self.session(p)["offload"], l7net.ip("neigh"), l7net.ip("-6 route")))
        for i, c in enumerate(clients):
            for n in range(i % 5):
                self.ping(c, server, to, b"y" * (i + n))

    def compare(self, p, family):
        flows = {}
        for f in p.api.get("/offload/flows")[1]:
            k = f["key"]
            flows[(17, k["saddr"], k["sport"], k["daddr"], k["dport"])] = f
        self.assertEqual(len(flows), 2 * SESSIONS)
        table = {key_of(k): v for k, v in self.dump(f"flows{family}")}
        self.compare_flows(flows, table, family)
        counters = dict(self.dump("counters"))
        slots = {k: parts(v, family)[0]["slot"] for k, v in table.items()}
        self.assertEqual(len(set(slots.values())), len(table))
        self.compare_counters(flows, {k: counters[s] for k, s in slots.items()})
        self.assertEqual(self.dump(f"flows{10 - family}"), [])

    def compare_flows(self, flows, table, family):
        self.assertEqual(set(table), set(flows))
        links = {v["ifindex"]: v["ifname"] for v in json.loads(l7net.ip("-j link"))}
        for k, f in flows.items():
            value, addresses = parts(table[k], family)
            with self.subTest(flow=f["match"]):
                to = f["to"]
                self.assertEqual(
                    {**{n: to[n] for n in ("saddr", "sport", "daddr", "dport")}, "action": f["action"],
                     "out": f["out"], "ifindex": f["egress"]["ifindex"], "mtu": f["egress"]["mtu"],
                     "dmac": f["egress"]["dmac"], "smac": f["egress"]["smac"], "vlans": f["egress"]["vlans"]},
                    {"saddr": address(addresses["saddr"]), "sport": value["sport_host"],
                     "daddr": address(addresses["daddr"]), "dport": value["dport_host"],
                     "action": VERBS[value["verb"]], "out": links[value["ifindex"]], "ifindex": value["ifindex"],
                     "mtu": value["mtu"], "dmac": mac(value["dmac"]), "smac": mac(value["smac"]),
                     "vlans": value["n_vlans"]})
                # What people read is what the programs use.
                self.assertEqual((value["match_sport_host"], value["match_dport_host"]), (k[2], k[4]))
                self.assertEqual(value["version"], value["version_end"])
                self.assertEqual((value["sport_host"], value["dport_host"]),
                                 (port(value["sport"]), port(value["dport"])))

    def compare_counters(self, flows, table):
        self.assertEqual(set(table), set(flows))
        used = 0
        for k, f in flows.items():
            with self.subTest(flow=f["match"]):
                for field in ("packets", "bytes"):
                    self.assertEqual(sum(cpu["value"][field] for cpu in table[k]), f[field])
                used += f["packets"] > 0
                self.assertEqual(any(cpu["value"]["last_seen"] for cpu in table[k]), f["packets"] > 0)
        self.assertGreater(used, SESSIONS)

    def run_family(self, family, address, to, own, far):
        # Not more counters than a dump of them all is read in a moment.
        with self.proxy(address=address, destination=cluster(far), admin={"limits": {"max_flows": 4 * SESSIONS}}) as p:
            server, clients = self.traffic(address, to, own, far)
            self.use(p, server, clients, to)
            start = time.monotonic()
            self.compare(p, family)
            print(f"# {2 * SESSIONS} flows compared in {time.monotonic() - start:.2f} s")
            for c in clients[: SESSIONS // 2]:
                self.ping(c, server, to)
            self.compare(p, family)
            for s in (server, *clients):
                s.close()
        self.nothing_left()

    def test_ipv4(self):
        """bpftool and the API agree on match, action and counters of every flow: IPv4"""
        self.run_family(4, "10.9.1.1", ("10.9.1.1", 9000), "10.9.1.2", "10.9.2.2")

    def test_ipv6(self):
        """bpftool and the API agree on match, action and counters of every flow: IPv6"""
        self.run_family(6, "fd09:1::1", ("fd09:1::1", 9000), "fd09:1::2", "fd09:2::2")

    def test_readable(self):
        """without -j: addresses as bytes, ports in host order, names of all fields"""
        client, server = self.a.udp(5000), self.b.udp(9001)
        with self.proxy() as p:
            self.ping(client, server)
            self.wait_fast(p)
            text = l7net.sh(BPFTOOL, "map", "dump", "pinned", str(self.pins / "flows4"))
            entries = json.loads(text)
            self.assertEqual(len(entries), 2)
            there = next(e for e in entries if e["value"]["match_sport_host"] == 5000)
            self.assertEqual(there["key"]["saddr"], [10, 9, 1, 2])
            self.assertEqual(there["value"]["daddr"], [10, 9, 2, 2])
            self.assertEqual((there["value"]["match_dport_host"], there["value"]["dport_host"]), (9000, 9001))
            for field in ("saddr", "daddr", "sport_host", "dport_host", "verb", "ifindex", "mtu", "dmac", "slot", "session"):
                self.assertIn(f'"{field}"', text)

    def test_record(self):
        """each session in the kernel has a record with its names, under the id that its flows carry"""
        client, server = self.a.udp(5000), self.b.udp(9001)
        with self.proxy() as p:
            self.ping(client, server)
            session = self.wait_fast(p)
            entries = json.loads(l7net.sh(BPFTOOL, "map", "dump", "pinned", str(self.pins / "sessions")))
            self.assertEqual(len(entries), 1)
            record = entries[0]["value"]
            text = json.loads(record["text"])
            self.assertEqual((text["name"], text["listener"], text["cluster"], text["endpoint"], text["metadata"]),
                             (session["name"], "udp", session["destination"]["origin"],
                              session["destination"]["endpoint"]["name"], session["metadata"]))
            self.assertEqual(record["record"], 1)
            self.assertAlmostEqual(record["started_ms"] / 1000, time.time(), delta=60)
            flows = json.loads(l7net.sh(BPFTOOL, "map", "dump", "pinned", str(self.pins / "flows4")))
            self.assertEqual([f["value"]["session"] for f in flows], [entries[0]["key"]] * 2)
            p.api.delete("/sessions/" + session["name"])
            self.assertTrue(l7test.wait_for(lambda: json.loads(l7net.sh(
                BPFTOOL, "map", "dump", "pinned", str(self.pins / "sessions"))) == [], 5))


if __name__ == "__main__":
    l7test.main()
