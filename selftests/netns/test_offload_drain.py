#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: long timeout=900
"""A daemon that starts and finds the flows of another ABI lets them go on beside its own until they end, and then takes everything
away. The other ABI is this one with another number in the pinned map `abi`, which is all that a daemon looks at."""
import contextlib
import json
import pathlib
import socket
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import l7net  # noqa: E402
import l7test  # noqa: E402
import test_offload_adopt as adopt  # noqa: E402
import test_packet_adopt  # noqa: E402
import test_tcp_adopt  # noqa: E402

SESSIONS = 1000 if l7test.FULL else 100
LONG = {"idle": 3600, "deadline": 3600}


def bpftool(*args):
    return json.loads(l7net.sh("bpftool", "-j", *args) or "[]")


def set_abi(pins, version):
    """The version that the maps pinned there say they have; returns what it was."""
    pin = str(pins / "abi")
    value = [int(x, 16) for x in bpftool("map", "dump", "pinned", pin)[0]["value"]]
    l7net.sh("bpftool", "map", "update", "pinned", pin, "key", "0", "0", "0", "0", "value",
             *(str(x) for x in [*version.to_bytes(4, sys.byteorder), *value[4:]]))
    return int.from_bytes(bytes(value[:4]), sys.byteorder)


def pinned(pins):
    """Ids of the programs and maps that are pinned there."""
    progs, maps = set(), set()
    for pin in pins.iterdir():
        if pin.is_dir():
            continue
        kind, ids = ("prog", progs) if "prog_" in pin.name else ("map", maps)
        ids.add(bpftool(kind, "show", "pinned", str(pin))["id"])
    return progs, maps


@contextlib.contextmanager
def ports(first, last):
    """The local ports that the kernel may choose, for a while: the test's own connections need some, too."""
    name = "net.ipv4.ip_local_port_range"
    before = l7net.sh("sysctl", "-n", name).split()
    l7net.sh("sysctl", "-qw", f"{name}={first} {last}")
    try:
        yield
    finally:
        l7net.sh("sysctl", "-qw", f"{name}={' '.join(before)}")


def left(ids):
    """What of that is still in the kernel: it is freed a moment after the last reference."""
    def look():
        return [x for kind, mine in zip(("prog", "map"), ids) for x in bpftool(kind, "show") if x["id"] in mine]
    l7test.wait_for(lambda: not look())
    return look()


class Draining:
    """What the tests below share."""

    def begin(self, drain=None, **kw):
        kw["admin"] = {"offload_drain": {**LONG, **(drain or {})}, **kw.get("admin", {})}
        return self.start(**kw)

    def offload(self, p):
        return p.api.get("/offload")[1]

    def draining(self, p):
        return self.offload(p)["draining"]

    def age(self, n_abi=1):
        """The killed daemon was one of another ABI."""
        self.ids = pinned(self.pins)
        self.own = set_abi(self.pins, 1000 + n_abi)

    def wait_drained(self, p, reason, entries=None):
        self.assertTrue(l7test.wait_for(lambda: not self.draining(p)), self.draining(p))
        drained = self.offload(p)["drained"]
        self.assertEqual(len(drained), 1, drained)
        self.assertRegex(drained[0]["reason"], reason)
        self.assertRegex(p.stderr(), f"are removed.*{reason}")
        self.assertEqual(drained[0]["abi"], 1001)
        if entries:
            self.assertEqual(drained[0]["entries"], entries)
        self.assertEqual(list(self.pins.glob("draining*")), [])
        self.assertEqual(left(self.ids), [], "something of the other ABI is still in the kernel")


class Udp(Draining, adopt.Base):
    def only_in_kernel(self, client, server, peer, p, n=5):
        """Datagrams of the old flow: by the old programs, none by the daemon."""
        before, = self.draining(p)
        sessions = self.sessions(p)
        for _ in range(n):
            self.assertEqual(self.ping(client, server), peer)
        self.assertTrue(l7test.wait_for(lambda: self.draining(p)[0]["packets"] == before["packets"] + 2 * n), self.draining(p))
        self.assertEqual(self.sessions(p).keys(), sessions.keys())

    def new_session(self, p, server, port=5001, **kw):
        """Another client's session, in the kernel by the new programs."""
        other = self.a.udp(port)
        self.addCleanup(other.close)
        peer = self.ping(other, server, **kw)

        def fast():
            return [s for s in self.sessions(p).values() if f":{port}-" in s["name"] and s["offload"]["state"] == "fast"]
        self.assertTrue(l7test.wait_for(fast), (self.sessions(p), p.stderr()))
        before = fast()[0]["stats"]["ingress"]
        for _ in range(3):
            self.assertEqual(self.ping(other, server, **kw), peer)
        after = fast()[0]["stats"]["ingress"]
        self.assertEqual((after["slow"], after["fast"]["packets"]), (before["slow"], before["fast"]["packets"] + 3))
        return other, peer

    def test_nothing_is_lost(self):
        """under traffic both ways of many flows: 0 lost, none moved; new sessions beside; then idle, and all is gone"""
        traffic = adopt.Traffic(self.a, self.b, SESSIONS, 1500)
        self.addCleanup(traffic.close)
        p = self.start()
        traffic.begin()
        self.wait_fast(p, SESSIONS)
        traffic.run()
        self.kill(p)
        self.age()
        two = {"name": "second", "spec": {"protocol": "UDP", "address": "10.9.1.1", "port": 9005}, "rules": [{"action": {"route": {
            "destination": {"name": "second-upstream", "spec": {"protocol": "UDP", "port": 9006}, "endpoints": [{"spec": {"address": "10.9.2.2"}}]}}}}]}
        with self.begin(listeners=(two,)) as q:
            drain, = self.draining(q)
            self.assertEqual((drain["abi"], drain["entries"]), (1001, 2 * SESSIONS))
            self.assertRegex(q.stderr(), "ABI 1001 can't be taken over: its programs forward them on")
            self.assertEqual(self.adopted(q), {"sessions": 0, "removed": 0, "removals": []})
            for dev in ("legA", "legB"):
                self.assertEqual(len(l7net.filters(dev)), 2)
            server = self.b.udp(9006)
            self.addCleanup(server.close)
            self.new_session(q, server, to=("10.9.1.1", 9005))
            # The old flows count on in their own maps; the daemon has no session of theirs.
            before, seen = self.draining(q)[0]["packets"], sum(traffic.got[0])
            self.assertTrue(l7test.wait_for(lambda: sum(traffic.got[0]) > seen + 1000))
            self.assertTrue(l7test.wait_for(lambda: self.draining(q)[0]["packets"] > before + 1000))
            self.assertEqual(len(self.sessions(q)), 1)
            lost = traffic.pause()
            self.assertEqual((lost, traffic.moved, traffic.twice), ((0, 0), 0, 0), q.stderr())
            # Once no packet has come for a while, they are taken to have ended.
            q.api.post("/admin", {"admin": {"offload_drain": {"idle": 2}}})
            self.wait_drained(q, "no packet for 2 s", 2 * SESSIONS)
            for dev in ("legA", "legB"):
                self.assertEqual(len(l7net.filters(dev)), 1)
            self.new_session(q, server, port=5002, to=("10.9.1.1", 9005))
            # What comes now of an old client is a session as any other.
            traffic.send_one(0, both=False)
            self.assertTrue(l7test.wait_for(lambda: len(self.sessions(q)) == 3), self.sessions(q))
        self.nothing_left()

    def test_order(self):
        """what the old program passes on begins a session of ours, which leaves the old flow as it is"""
        client, server, peer, _ = self.killed()
        self.age()
        with self.begin() as q:
            client.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER: fragments
            client.sendto(b"f" * 3000, adopt.GATE)
            data, other = server.recvfrom(65536)
            self.assertEqual((len(data), other == peer), (3000, False))
            server.sendto(b"back", other)
            self.assertEqual(client.recv(100), b"back")
            self.wait_fast(q, 1)
            self.only_in_kernel(client, server, peer, q)
        self.nothing_left()

    def test_deadline(self):
        """flows that do not end are removed at the deadline, which a restart does not prolong"""
        client, server, peer, _ = self.killed()
        self.age()
        q = self.begin()
        self.only_in_kernel(client, server, peer, q)
        began = self.draining(q)[0]["began"]
        self.kill(q)
        time.sleep(2)
        with self.begin() as q:
            self.only_in_kernel(client, server, peer, q)
            drain, = self.draining(q)
            self.assertEqual(drain["began"], began)
            self.assertLessEqual(drain["left"], LONG["deadline"] - 2)
            q.api.post("/admin", {"admin": {"offload_drain": {"deadline": 1}}})
            self.wait_drained(q, r"deadline has passed \(1 s\)", 2)
            self.assertNotEqual(self.ping(client, server), peer)
            self.wait_fast(q, 1)
        self.nothing_left()

    def test_deadline_of_0(self):
        """no draining: they are removed at the start, with the reason"""
        client, server, peer, _ = self.killed()
        self.age()
        with self.begin(drain={"deadline": 0}) as q:
            self.wait_drained(q, "offload_drain.deadline is 0", 2)
            self.assertNotEqual(self.ping(client, server), peer)
            self.wait_fast(q, 1)
        self.nothing_left()

    def test_end(self):
        """SIGTERM while draining leaves nothing; so does a new instance, or the fast path switched off"""
        for change in (None, {"offload": "disable"}, {"offload_ifs": ""}):
            with self.subTest(change=change):
                client, server, peer, _ = self.killed()
                self.age()
                with self.begin() as q:
                    self.only_in_kernel(client, server, peer, q)
                    if change:
                        q.api.post("/admin", {"admin": change})
                        self.wait_drained(q, "stops using the fast path", 2)
                        self.nothing_left()
                self.nothing_left()
                self.assertEqual(left(self.ids), [])
                client.close()
                server.close()

    def test_settings(self):
        """a change of settings for which the fast path is started again leaves the old flows as they are"""
        client, server, peer, _ = self.killed()
        self.age()
        with self.begin() as q:
            for change in ({"limits": {"max_flows": 4096}}, {"offload_mode": "generic"}, {"offload_tcp": {"enabled": False}}):
                q.api.post("/admin", {"admin": change})
                self.assertTrue(l7test.wait_for(lambda: self.offload(q)["state"] == "active"))
                self.only_in_kernel(client, server, peer, q)
                self.assertEqual(self.offload(q)["drained"], [])
        self.nothing_left()

    def test_failed_start(self):
        """a start that fails changes nothing; the next one drains on, or a daemon of that ABI takes its flows over again"""
        client, server, peer, was = self.killed()
        self.age()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(adopt.GATE)
            with self.assertRaises(AssertionError):
                self.begin()
        self.assertEqual(self.ping(client, server), peer)
        q = self.begin()
        self.only_in_kernel(client, server, peer, q)
        self.new_session(q, server)
        self.kill(q)
        # Back to the version of before: its flows are adopted, and those of the other one drained.
        old, = [x for x in self.pins.iterdir() if x.is_dir()]
        set_abi(old, self.own)
        self.age()
        with self.begin() as q:
            self.assertEqual(self.adopted(q)["sessions"], 1, q.stderr())
            self.assertEqual(list(self.sessions(q)), [was["name"]])
            before = self.sessions(q)[was["name"]]["stats"]["ingress"]["packets"]
            self.assertEqual(self.ping(client, server), peer)
            self.assertEqual(self.sessions(q)[was["name"]]["stats"]["ingress"]["packets"], before + 1)
            self.assertEqual([d["abi"] for d in self.draining(q)], [1001])
            q.api.post("/admin", {"admin": {"offload_drain": {"idle": 1}}})
            self.wait_drained(q, "no packet for 1 s", 2)
            self.assertEqual(self.ping(client, server), peer)
        self.nothing_left()

    def test_two_at_once(self):
        """two other versions, one after the other"""
        client, server, peer, _ = self.killed()
        self.age(1)
        q = self.begin()
        other, other_peer = self.new_session(q, server)
        self.kill(q)
        self.age(2)
        with self.begin() as q:
            self.assertEqual(sorted(d["abi"] for d in self.draining(q)), [1001, 1002])
            for _ in range(3):
                self.assertEqual(self.ping(client, server), peer)
                self.assertEqual(self.ping(other, server), other_peer)
            self.assertEqual(self.sessions(q), {})
            self.new_session(q, server, port=5002)
            for dev in ("legA", "legB"):
                self.assertEqual(len(l7net.filters(dev)), 3)
            doctor = json.loads(l7test.run_proxy("--doctor")[1])
            found, = [c for c in doctor["checks"] if c["check"] == "draining"]
            self.assertFalse(found["ok"])
            for abi in (1001, 1002):
                self.assertIn(f"2 flow entries of ABI {abi}", found["found"])
        self.nothing_left()

    def test_no_init(self):
        """no_init refuses the other ABI, goes on draining beside its own, and leaves it in place"""
        client, server, peer, _ = self.killed()
        self.age()
        with self.assertRaisesRegex(AssertionError, "have ABI 1001"):
            self.begin(admin={"offload": "no_init"})
        self.assertEqual(self.ping(client, server), peer)
        self.kill(self.begin())
        with self.begin(admin={"offload": "no_init"}) as q:
            self.only_in_kernel(client, server, peer, q)
        self.assertEqual(self.ping(client, server), peer)
        with self.begin(admin={"offload": "no_init"}) as q:
            q.api.post("/admin", {"admin": {"offload_drain": {"idle": 1}}})
            self.wait_drained(q, "no packet for 1 s", 2)
        with self.begin():
            pass
        self.nothing_left()

    def test_xdp(self):
        """where a dispatcher for two XDP programs is not to be had, ours is tc until the other one has gone"""
        for peer in (self.a, self.b):
            peer.run("ethtool -K eth0 tx off gro on")
        for mode, port in (("native", 5001), ("generic", 5003)):
            with self.subTest(mode=mode):
                client, server, peer, _ = self.killed(admin={"offload_mode": mode})
                self.age()
                with self.begin(admin={"offload_mode": mode}) as q:
                    self.only_in_kernel(client, server, peer, q)
                    for i in self.offload(q)["interfaces"]:
                        self.assertEqual(i["hook"], mode if i["dispatcher"] else "tc")
                        if not i["dispatcher"]:
                            self.assertIn("XDP program of ABI 1001 is attached until its flows have ended", i["reason"])
                    other, other_peer = self.new_session(q, server, port)
                    q.api.post("/admin", {"admin": {"offload_drain": {"idle": 1}}})
                    self.wait_drained(q, "no packet for 1 s", 2)
                    self.assertTrue(l7test.wait_for(lambda: all(i["hook"] == mode for i in self.offload(q)["interfaces"])),
                                    self.offload(q)["interfaces"])
                    self.assertEqual(self.ping(other, server), other_peer)
                    self.new_session(q, server, port + 1)
                self.nothing_left()
                client.close()
                server.close()

    def test_ports(self):
        """a new session never gets a port on which the old programs take what the server sends"""
        server = self.b.udp(9001)
        clients = [self.a.udp(5000 + i) for i in range(8)]
        for s in (server, *clients):
            self.addCleanup(s.close)
        p = self.start()
        with ports(40000, 40007):
            peers = [self.ping(c, server) for c in clients[:4]]
        self.wait_fast(p, 4)
        self.kill(p)
        self.age()
        with self.begin() as q:
            with ports(40000, 40007):
                more = [self.ping(c, server) for c in clients[4:]]
            self.assertEqual(len({*peers, *more}), 8, (peers, more))
            for c, peer in zip(clients, [*peers, *more]):
                self.assertEqual(self.ping(c, server), peer)
        self.nothing_left()

    def test_sysctls(self):
        """what flows into lo need stays as long as they go on, and is then as it was"""
        for name in ("route_localnet", "accept_local", "rp_filter"):
            for dev in ("all", "lo"):
                l7net.sh("sysctl", "-qw", f"net.ipv4.conf.{dev}.{name}=0")

        def now():
            return l7net.sh("sysctl", "-n", "net.ipv4.conf.lo.route_localnet", "net.ipv4.conf.lo.accept_local").split()
        local = {"name": "local", "spec": {"protocol": "UDP", "port": 9002}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}
        kw = {"destination": local, "admin": {"offload_ifs": "legA,lo"}}
        server = l7test.udp_socket(9002)
        client = self.a.udp(5000)
        for s in (server, client):
            self.addCleanup(s.close)
        p = self.begin(**kw)
        peer = self.ping(client, server)
        self.wait_fast(p, 1)
        self.kill(p)
        self.age()
        self.assertEqual(now(), ["1", "1"])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(adopt.GATE)
            with self.assertRaises(AssertionError):
                self.begin(**kw)
        self.assertEqual(now(), ["1", "1"])
        self.assertEqual(self.ping(client, server), peer)
        q = self.begin(**kw)
        self.only_in_kernel(client, server, peer, q)
        self.kill(q)
        with self.begin(**kw) as q:
            self.only_in_kernel(client, server, peer, q)
            q.api.post("/admin", {"admin": {"offload_ifs": "legA"}})
            self.only_in_kernel(client, server, peer, q)
            self.assertEqual(now(), ["1", "1"])
            q.api.post("/admin", {"admin": {"offload_drain": {"idle": 1}}})
            self.wait_drained(q, "no packet for 1 s", 2)
            self.assertEqual(now(), ["0", "0"])
            self.assertEqual(l7net.filters("lo"), [])
        self.nothing_left()
        self.assertNotIn("clsact", l7net.qdiscs("lo"))

    def test_upgrade(self):
        """the process that takes over by an upgrade drains on"""
        client, server, peer, _ = self.killed()
        self.age()
        q = self.begin()
        self.only_in_kernel(client, server, peer, q)
        began = self.draining(q)[0]["began"]
        self.new_session(q, server)
        status, answer = q.api.post("/upgrade", {})
        self.assertIn(status, (200, 202), answer)
        old = q.process
        self.assertTrue(l7test.wait_for(lambda: old.poll() is not None), q.stderr())
        self.assertTrue(l7test.wait_for(lambda: self.draining(q)))
        self.only_in_kernel(client, server, peer, q)
        self.assertEqual(self.draining(q)[0]["began"], began)
        pid = q.api.get("/upgrade")[1]["pid"]
        subprocess.run(["kill", "-TERM", str(pid)], check=True)
        self.assertTrue(l7test.wait_for(lambda: not self.pins.exists()), q.stderr())
        self.nothing_left()


class Packet(Draining, test_packet_adopt.Adopt):
    def test_frames(self):
        """flows of AF_PACKET are removed, with the reason: new packet sockets would relay their frames once more"""
        traffic = adopt.Traffic(self.a, self.b, 5, 500, gate=(test_packet_adopt.HOST_B, 9001), hosts=(test_packet_adopt.HOST_A, test_packet_adopt.HOST_B))
        self.addCleanup(traffic.close)
        parts = (test_packet_adopt.listener("legA", test_packet_adopt.packet_cluster("legB")),)
        p = self.start(*parts)
        traffic.begin()
        self.all_fast(p, 5)
        adopt.Base.kill(p)
        self.age()
        q = self.start(*parts)
        drained, = self.offload(q)["drained"]
        self.assertEqual((drained["abi"], drained["entries"], self.draining(q)), (1001, 0, []))
        self.assertIn("AF_PACKET", drained["reason"])
        self.assertEqual(left(self.ids), [])
        traffic.run()
        self.all_fast(q, 5)
        traffic.pause()
        self.assertEqual(traffic.twice, 0)
        q.stop()
        self.nothing_left()


class Tcp(Draining, test_tcp_adopt.Base):
    def test_connections(self):
        """TCP connections go on in the old programs; a new one gets no port of theirs"""
        p = self.start()
        with ports(40000, 40003):
            c, s = self.connect()
        self.all_fast(p, 1, lambda: self.echo(c, s))
        self.kill(p)
        self.age()
        with self.begin() as q:
            for _ in range(5):
                self.echo(c, s)
            self.assertEqual(self.tcp_sessions(q), {})
            used = {s.getpeername()[1]}
            for _ in range(3):
                with ports(40000, 40003):
                    c2, s2 = self.connect()
                    self.echo(c2, s2)
                used.add(s2.getpeername()[1])
            self.assertEqual(used, {40000, 40001, 40002, 40003})
            self.echo(c, s)
            for x in (c, s):
                x.close()
            q.api.post("/admin", {"admin": {"offload_drain": {"idle": 1}}})
            self.wait_drained(q, "no packet for 1 s", 2)
        self.nothing_left()


if __name__ == "__main__":
    l7test.main()
