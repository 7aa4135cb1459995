#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: long timeout=900
"""Sessions of AF_PACKET outlive a SIGKILL: their frames forward on in the kernel, and the next process takes them over under
their names, with their packet sockets and counters; what the configuration does not allow is removed, with a reason."""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import l7net  # noqa: E402
import l7test  # noqa: E402
import test_offload_adopt as adopt  # noqa: E402
from test_offload_packet import HOST_A, HOST_B, PEER_A, PEER_B, Packet, frame, listener, packet_cluster  # noqa: E402

SESSIONS = 200 if l7test.FULL else 20
KILLS = 20 if l7test.FULL else 3


class Adopt(Packet):
    def setUp(self):
        super().setUp()
        before = frozenset(l7test.Proxy.running)
        self.addCleanup(lambda: l7test.Proxy.kill_left(before))

    @staticmethod
    def sessions(p):
        return {s["name"]: s for s in p.api.get("/sessions")[1] if s["name"].startswith("PACKET:")}

    def all_fast(self, p, n):
        def fast():
            got = self.sessions(p)
            return len(got) == n and all(s["offload"]["state"] == "fast" for s in got.values()) and got
        got = l7test.wait_for(fast, l7net.WAIT)
        self.assertTrue(got, f"not offloaded: {self.sessions(p)} {p.stderr()}")
        self.assertTrue(l7test.wait_for(lambda: p.api.get("/offload")[1]["flows"]["beginning"] == 0, l7net.WAIT))
        return got

    def adopted(self, p):
        return p.api.get("/offload")[1]["adopted"]


class Conversations(Adopt):
    def test_nothing_is_lost(self):
        """kill -9 and start, again and again, under traffic both ways: no frame lost, none twice, names and counters continue"""
        traffic = adopt.Traffic(self.a, self.b, SESSIONS, 1000, gate=(HOST_B, 9001), hosts=(HOST_A, HOST_B))
        self.addCleanup(traffic.close)
        parts = (listener("legA", packet_cluster("legB")),)
        p = self.start(*parts)
        traffic.begin()
        was = self.all_fast(p, SESSIONS)
        traffic.run()
        self.assertTrue(l7test.wait_for(lambda: min(traffic.got[0]) > 2, l7net.WAIT))
        slow = {n: {w: s["stats"][w]["slow"] for w in ("ingress", "egress")} for n, s in self.sessions(p).items()}
        for _ in range(KILLS):
            before = self.sessions(p)
            adopt.Base.kill(p)
            seen = sum(traffic.got[0])
            self.assertTrue(l7test.wait_for(lambda: sum(traffic.got[0]) > seen + 200, l7net.WAIT), "nothing passes without a process")
            p = self.start(*parts)
            answer = self.adopted(p)
            self.assertEqual((answer["sessions"], answer["removed"]), (SESSIONS, 0), (answer, p.stderr()))
            after = self.sessions(p)
            self.assertEqual(after.keys(), was.keys())
            for name, s in after.items():
                self.assertEqual(s["metadata"], was[name]["metadata"])
                self.assertEqual(s["offload"]["state"], "fast", s)
                for way in ("ingress", "egress"):
                    self.assertGreaterEqual(s["stats"][way]["packets"], before[name]["stats"][way]["packets"], name)
                    self.assertEqual(s["stats"][way]["slow"], slow[name][way], name)
            seen = sum(traffic.got[1])
            self.assertTrue(l7test.wait_for(lambda: sum(traffic.got[1]) > seen + 200, l7net.WAIT), "nothing passes after the start")
        lost = traffic.pause()
        self.assertEqual((lost, traffic.moved, traffic.twice), ((0, 0), 0, 0), p.stderr())
        for way, index in (("ingress", 0), ("egress", 1)):
            self.assertEqual(sum(s["stats"][way]["packets"] for s in self.sessions(p).values()), sum(traffic.sent[index]))
            for name, s in self.sessions(p).items():
                self.assertEqual(s["stats"][way]["slow"], slow[name][way], name)
        p.stop()
        self.nothing_left()


class Raw(Adopt):
    def setUp(self):
        super().setUp()
        self.raw_a, self.raw_b = self.raw(self.a), self.raw(self.b)

    def both(self, n, there, back):
        for _ in range(n):
            self.raw_a.send(there[0])
            self.expect(self.raw_b, there[1])
            self.raw_b.send(back[0])
            self.expect(self.raw_a, back[1])
        self.expect(self.raw_b, there[1], silent=True)
        self.expect(self.raw_a, back[1], silent=True)

    def killed(self, parts, there, back, sessions=1):
        """The session's state before, after its process was killed and frames have passed without it."""
        p = self.start(*parts)
        self.both(1, there, back)
        self.all_fast(p, sessions)
        self.both(2, there, back)
        was = self.sessions(p)
        adopt.Base.kill(p)
        self.both(2, there, back)
        return was


class Kinds(Raw):
    def check(self, parts, there, back):
        was = self.killed(parts, there, back)
        name, s = next(iter(was.items()))
        with self.start(*parts) as q:
            answer = self.adopted(q)
            self.assertEqual((answer["sessions"], answer["removed"]), (1, 0), (answer, q.stderr()))
            self.both(2, there, back)
            now = self.all_fast(q, 1)[name]
            for way in ("ingress", "egress"):
                self.assertEqual(now["stats"][way]["slow"], s["stats"][way]["slow"], way)
                self.assertEqual(now["stats"][way]["fast"]["packets"], s["stats"][way]["fast"]["packets"] + 4, way)
            self.assertEqual(now["metadata"], s["metadata"])
        self.nothing_left()

    def test_singleton(self):
        """all frames of an interface, of one EtherType, behind a tag"""
        for ethertype, tags in ((None, ()), (0x88b5, ()), (0x88b5, ((0x8100, 7),)), (0x8100, ((0x8100, 7),))):
            with self.subTest(ethertype=ethertype, tags=tags):
                there, back = frame(PEER_A, PEER_B, b"there" * 9, tags=tags), frame(PEER_B, PEER_A, b"back" * 9, tags=tags)
                parts = (listener("legA", packet_cluster("legB", ethertype=ethertype), mode="singleton", ethertype=ethertype),)
                self.check(parts, (there, there), (back, back))

    def test_conversation_of_link_addresses(self):
        """a pair of link addresses, which are rewritten"""
        new = bytes.fromhex("020000000099")
        parts = (listener("legA", packet_cluster("legB", rewrite={"src_mac": "02:00:00:00:00:99"})),)
        there = frame(PEER_A, PEER_B, b"there" * 9), frame(new, PEER_B, b"there" * 9)
        back = frame(PEER_B, new, b"back" * 9), frame(PEER_B, new, b"back" * 9)
        self.check(parts, there, back)

    def test_xdp(self):
        """native XDP is replaced in its place"""
        for peer in (self.a, self.b):
            l7net.sh("ethtool", "-K", peer.leg, "rxvlan", "off")
            peer.run("ethtool -K eth0 tx off txvlan off gro on")
        start = self.start
        self.start = lambda *parts: start(*parts, admin={"offload_mode": "native"})
        there, back = frame(PEER_A, PEER_B, b"there" * 9), frame(PEER_B, PEER_A, b"back" * 9)
        self.check((listener("legA", packet_cluster("legB")),), (there, there), (back, back))

    def test_other_rewrite(self):
        """the cluster rewrites otherwise by now: the session continues, and its frames get the new addresses"""
        new = bytes.fromhex("020000000098")
        parts = (listener("legA", packet_cluster("legB"), mode="singleton"),)
        there, back = frame(PEER_A, PEER_B, b"there" * 9), frame(PEER_B, PEER_A, b"back" * 9)
        was = self.killed(parts, (there, there), (back, back))
        then = listener("legA", packet_cluster("legB", rewrite={"src_mac": "02:00:00:00:00:98"}), mode="singleton")
        with self.start(then) as q:
            self.assertEqual(self.adopted(q)["sessions"], 1, self.adopted(q))
            other = frame(new, PEER_B, b"there" * 9)
            self.both(1, (there, other), (back, back))
            self.assertEqual(self.all_fast(q, 1).keys(), was.keys())
            self.both(2, (there, other), (back, back))
        self.nothing_left()

    def test_what_passes_to_user_space(self):
        """a frame that the kernel leaves to user space is relayed by the new sockets; the next session gets another name"""
        there, back = frame(PEER_A, PEER_B, b"there" * 9), frame(PEER_B, PEER_A, b"back" * 9)
        parts = (listener("legA", packet_cluster("legB")),)
        was = self.killed(parts, (there, there), (back, back))
        with self.start(*parts) as q:
            self.assertEqual(self.adopted(q)["sessions"], 1, self.adopted(q))
            other = frame(PEER_A, PEER_B, b"another type" * 5, ethertype=0x88b6)
            self.raw_a.send(other)
            self.once(self.raw_b, other)
            self.assertEqual(len(self.sessions(q)), 2)
            self.assertEqual(len({n.rsplit("-", 1)[1] for n in self.sessions(q)}), 2, self.sessions(q).keys())
            self.assertTrue(was.keys() <= self.sessions(q).keys())
            q.api.delete("/sessions/" + next(iter(was)))
            self.assertTrue(l7test.wait_for(lambda: not was.keys() & self.sessions(q).keys(), l7net.WAIT))
            self.both(1, (there, there), (back, back))
        self.nothing_left()

    def test_singleton_ends(self):
        """a singleton that was taken over and is deleted: the next frame begins another one"""
        there, back = frame(PEER_A, PEER_B, b"there" * 9), frame(PEER_B, PEER_A, b"back" * 9)
        parts = (listener("legA", packet_cluster("legB"), mode="singleton"),)
        was = self.killed(parts, (there, there), (back, back))
        with self.start(*parts) as q:
            self.assertEqual(self.sessions(q).keys(), was.keys())
            q.api.delete("/sessions/" + next(iter(was)))
            self.assertTrue(l7test.wait_for(lambda: not was.keys() & self.sessions(q).keys(), l7net.WAIT))
            self.both(1, (there, there), (back, back))
            self.assertEqual(len(self.sessions(q)), 1)
        self.nothing_left()


class Refused(Raw):
    def test_what_the_config_does_not_allow(self):
        """no such listener, another mode or EtherType, another destination: removed with a reason, and frames find the new sessions"""
        there, back = frame(PEER_A, PEER_B, b"there" * 9), frame(PEER_B, PEER_A, b"back" * 9)
        first = (listener("legA", packet_cluster("legB"), mode="singleton"),)
        for reason, then in (
                ("there is no listener 'frames'", listener("legA", packet_cluster("legB"), mode="singleton", name="other")),
                ("listener 'frames' has other sessions", listener("legA", packet_cluster("legB"))),
                ("listener 'frames' has other sessions", listener("legA", packet_cluster("legB"), mode="singleton", ethertype=0x88b5)),
                ("no endpoint of cluster 'far' has the address", listener("legA", packet_cluster("legA"), mode="singleton")),
                ("another kind of destination", listener("legA", {"name": "echo", "spec": {"protocol": "Echo"}}, mode="singleton"))):
            with self.subTest(reason=reason):
                self.killed(first, (there, there), (back, back))
                with self.start(then) as q:
                    answer = self.adopted(q)
                    self.assertEqual((answer["sessions"], answer["removed"]), (0, 1), answer)
                    self.assertRegex(answer["removals"][0]["reason"], reason)
                    if "no listener" in reason or "other sessions" in reason:
                        self.both(1, (there, there), (back, back))
                self.nothing_left()

    def test_half_a_flow(self):
        """a crash between two writes leaves one direction only"""
        there, back = frame(PEER_A, PEER_B, b"there" * 9), frame(PEER_B, PEER_A, b"back" * 9)
        parts = (listener("legA", packet_cluster("legB"), mode="singleton"),)
        self.killed(parts, (there, there), (back, back))
        pin = str(self.pins / "frames")
        key = json.loads(l7net.sh("bpftool", "-j", "map", "dump", "pinned", pin))[0]["key"]
        l7net.sh("bpftool", "map", "delete", "pinned", pin, "key", *key)
        with self.start(*parts) as q:
            answer = self.adopted(q)
            self.assertEqual((answer["sessions"], answer["removed"]), (0, 1), answer)
            self.assertRegex(answer["removals"][0]["reason"], "only one of its directions")
            self.both(1, (there, there), (back, back))
        self.nothing_left()


if __name__ == "__main__":
    l7test.main()
