#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: long timeout=900
"""Programs are taken away under sessions: the loop continues until the last one has left the kernel, and nothing is lost.

What has to happen while an interface is leaving is decided by the order of events in the daemon: the server's host drops the
session's segments, so that it can't leave; requests and datagrams that are answered after an interface was seen leaving, and
before it is seen leaving once more, were served meanwhile. The session has some seconds before it is brought back as it is. On
a busy machine these may be over too soon: then it is tried again.
"""
import json
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import l7net  # noqa: E402
import l7test  # noqa: E402
import tcpflow  # noqa: E402
import upgrade  # noqa: E402
from tcpsplice import Base  # noqa: E402
from test_offload_adopt import Traffic  # noqa: E402

TRIES = 10
ADMIN = 1235
ECHO = ("10.9.1.1", 9500)
BOTH = {"offload_ifs": "legA,legB"}
ONE = {"offload_ifs": "legA"}
UDP_SESSIONS = 1000 if l7test.FULL else 300


class Leaving(Base):
    def setUp(self):
        super().setUp()
        self.blocked = False
        self.before = frozenset(l7test.Proxy.running)
        self.addCleanup(lambda: l7test.Proxy.kill_left(self.before))
        l7net.sh("nsenter", f"--net={self.b.path}", "nft", "list ruleset")  # the kernel has it
        self.echo = self.a.udp(5500)
        self.addCleanup(self.echo.close)

    def config(self, *args, **kw):
        cfg = super().config(*args, **kw)
        cfg["listeners"] += [
            {"name": "echo", "spec": {"protocol": "UDP", "address": ECHO[0], "port": ECHO[1]}, "options": {"offload": "never"},
             "rules": [{"action": {"route": {"destination": {"name": "echo", "spec": {"protocol": "Echo"}}}}}]},
            {"name": "udp", "spec": {"protocol": "UDP", "address": "10.9.1.1", "port": 9000},
             "rules": [{"action": {"route": {"destination": {
                 "name": "udp-up", "spec": {"protocol": "UDP", "port": 9001}, "endpoints": [{"spec": {"address": "10.9.2.2"}}]}}}}]},
        ]
        return cfg

    def running(self, p):
        """A session that sends as much as it can, both ways, in the kernel."""
        c, s = self.connect()
        end = tcpflow.Both(c, 1, 2), tcpflow.Both(s, 2, 1)
        self.wait_fast(p)
        return end

    def more(self, p, end, n=2 << 20):
        at = [e.receiver.received for e in end]
        self.wait(lambda: all(e.receiver.received > a + n for e, a in zip(end, at)), p)

    def over(self, p, end):
        """All that was sent has arrived once, and was right; nothing is left."""
        for e in end:
            e.sender.stop()
        self.finish([end])
        self.nothing_left(p)

    # ---- a session that can't leave ----

    def block(self, end):
        """Segments of the client are dropped by the server's host; one is on its way, unacknowledged."""
        port = end[1].sock.getsockname()[1]
        for command in ("add table ip h", "add chain ip h c { type filter hook prerouting priority -300; }",
                        f"add rule ip h c tcp dport {port} drop"):
            l7net.sh("nsenter", f"--net={self.b.path}", "nft", command)
        self.blocked = True
        at = -1
        while at != end[1].receiver.received:  # what had come is read
            at = end[1].receiver.received
            self.wait(lambda: end[0].sender.sent > end[1].receiver.received)

    def unblock(self):
        if self.blocked:
            l7net.sh("nsenter", f"--net={self.b.path}", "nft", "delete table ip h")
        self.blocked = False

    def interfaces(self, p):
        return {i["name"]: i for i in p.api.get("/offload")[1]["interfaces"]}

    def leaving(self, p):
        return sorted(name for name, i in self.interfaces(p).items() if i.get("leaving") and i["hook"] != "none")

    def admin(self, p, change):
        status, answer = p.api.post("/admin", {"admin": change})
        self.assertEqual(status, 200, answer)

    def leave(self, p, end, change, names, back=BOTH):
        """Makes the change while the session can't leave the kernel: these interfaces are leaving, and everything continues."""
        def there():
            return self.leaving(p) == names and all(l7net.filters(n) for n in names)
        for i in range(TRIES):
            self.wait_fast(p)
            self.block(end)
            self.admin(p, change)
            before = there()
            self.echo.sendto(b"%d" % i, ECHO)
            self.assertEqual(self.echo.recv(100), b"%d" % i)
            c = self.a.udp()  # a session that begins now
            c.sendto(b"new", ECHO)
            self.assertEqual(c.recv(100), b"new")
            c.close()
            if before and there():
                return
            self.unblock()
            self.admin(p, back)
        self.fail(f"not seen leaving: {self.log_of(p)}")

    def wait_left(self, p, names):
        for name in names:
            self.wait(lambda n=name: not l7net.filters(n) and "clsact" not in l7net.qdiscs(n) and not l7net.xdp(n), p)
        self.wait(lambda: not self.leaving(p), p)

    # ---- tests ----

    def test_one(self):
        """one of two: others are served meanwhile, and no byte is lost"""
        with self.proxy() as p:
            end = self.running(p)
            self.leave(p, end, ONE, ["legB"])
            self.unblock()
            self.wait_left(p, ["legB"])
            self.assertEqual(self.reason(p), "interface-not-enabled")
            self.more(p, end)
            self.admin(p, BOTH)
            self.wait_fast(p)
            self.over(p, end)

    def test_two(self):
        """both at once"""
        with self.proxy() as p:
            end = self.running(p)
            self.leave(p, end, {"offload_ifs": "lo"}, ["legA", "legB"])
            self.unblock()
            self.wait_left(p, ["legA", "legB"])
            self.more(p, end)
            self.assertEqual(sorted(self.interfaces(p)), ["lo"])
            self.admin(p, BOTH)
            self.wait_fast(p)
            self.over(p, end)

    def test_too_long(self):
        """a session that can't leave does not keep the interface: it continues in user space when its peer is back"""
        with self.proxy() as p:
            end = self.running(p)
            self.leave(p, end, ONE, ["legB"])
            self.wait_left(p, ["legB"])
            self.unblock()
            self.more(p, end)
            self.over(p, end)

    def test_wanted_again(self):
        """in offload_ifs again while it leaves: it stays, with the program that it has, and the session comes back"""
        with self.proxy() as p:
            end = self.running(p)
            for _ in range(TRIES):
                was = l7net.filters("legB")
                self.leave(p, end, ONE, ["legB"])
                self.admin(p, BOTH)
                self.assertEqual(self.leaving(p), [])
                stayed = p.stderr().count("legB stays")
                self.unblock()
                self.wait_fast(p)
                if stayed:
                    break
            self.assertTrue(stayed, self.log_of(p))
            self.assertEqual(l7net.filters("legB"), was)
            self.more(p, end)
            self.over(p, end)

    def test_deleted(self):
        """deleted while it leaves: the session continues by the one that comes in its place"""
        with self.proxy() as p:
            end = self.running(p)
            self.leave(p, end, ONE, ["legB"])
            l7net.ip("link del legB")
            self.wait(lambda: "legB" not in self.interfaces(p), p)
            self.unblock()
            l7net.ip(f"link add legB type veth peer name eth0 netns {self.b.name}")
            self.b.run("ip link set eth0 up")
            self.b.run("ip addr add 10.9.2.2/24 dev eth0")
            self.b.run("ip route add default via 10.9.2.1")
            l7net.ip("addr add 10.9.2.1/24 dev legB")
            l7net.ip("link set legB up")
            self.more(p, end)
            self.assertEqual(l7net.filters("legB"), [])
            self.over(p, end)

    def test_mode(self):
        """another hook: it is attached when the session has left, which comes back"""
        for peer in (self.a, self.b):
            peer.run("ethtool -K eth0 tx off")
        with self.proxy() as p:
            end = self.running(p)
            before = p.api.get("/offload")[1]
            self.leave(p, end, {"offload_mode": "native"}, ["legA", "legB"], {"offload_mode": "auto"})
            self.assertEqual(self.interfaces(p)["legA"]["hook"], "tc")
            self.unblock()
            self.wait(lambda: {i["hook"] for i in self.interfaces(p).values()} == {"native"}, p)
            self.wait_fast(p)
            self.more(p, end)
            self.admin(p, {"offload_mode": "auto"})
            self.wait(lambda: {i["hook"] for i in self.interfaces(p).values()} == {"tc"}, p)
            self.assertIsNone(l7net.xdp("legA"))
            self.wait_fast(p)
            # The maps are the same: nothing was loaded.
            self.assertGreaterEqual(p.api.get("/offload")[1]["flows"]["added"], before["flows"]["added"] + 2)
            self.over(p, end)

    def test_removed_by_others(self):
        """others remove a program: the session goes on in user space, and comes back when the interface is configured again"""
        with self.proxy() as p:
            end = self.running(p)
            for leg, other in (("legB", "legA"), ("legA", "legB")):
                l7net.sh("tc", "qdisc", "del", "dev", leg, "clsact")
                self.wait(lambda: self.reason(p) == "hook-lost", p)
                self.more(p, end)
                self.assertEqual((self.leaving(p), self.interfaces(p)[leg]["hook"]), ([], "none"))
                self.assertIn("hook-lost", self.interfaces(p)[leg]["reason"])
                self.admin(p, {"offload_ifs": other})
                self.admin(p, BOTH)
                self.wait_fast(p)
            self.over(p, end)

    def test_disable(self):
        """switched off: `stopping` until the session has left, then nothing is left; switched on again meanwhile: it continues"""
        on = {"offload": "init"}
        with self.proxy() as p:
            end = self.running(p)
            was = l7net.filters("legB")
            for _ in range(TRIES):
                self.leave(p, end, {"offload": "disable"}, ["legA", "legB"], on)
                self.assertIn(p.api.get("/offload")[1]["state"], ("stopping", "disabled"))
                self.admin(p, on)
                stayed = p.api.get("/offload")[1]["state"] == "active"
                self.unblock()
                self.wait_fast(p)
                if stayed:
                    break
            self.assertTrue(stayed, self.log_of(p))
            self.assertEqual(l7net.filters("legB"), was)
            self.more(p, end)
            self.leave(p, end, {"offload": "disable"}, ["legA", "legB"], on)
            self.unblock()
            self.wait(lambda: p.api.get("/offload")[1]["state"] == "disabled", p)
            self.wait_left(p, ["legA", "legB"])
            self.assertFalse(self.pins.exists())
            self.assertEqual(self.reason(p), "disabled")
            self.more(p, end)
            self.admin(p, on)
            self.wait_fast(p)
            self.over(p, end)

    def test_capacity(self):
        """another size of the tables: they are made when the session has left, which comes back"""
        with self.proxy() as p:
            end = self.running(p)
            self.leave(p, end, {"limits": {"max_flows": 512}}, ["legA", "legB"], {"limits": {"max_flows": 262144}})
            self.unblock()

            def capacity():
                return {m["capacity"] for m in p.api.get("/offload")[1]["maps"] if m["name"] == "flows4"} == {512}
            self.wait(capacity, p)
            self.wait_fast(p)
            self.more(p, end)
            self.over(p, end)

    def test_end(self):
        """SIGTERM while it leaves: nothing is left"""
        p = self.proxy()
        end = self.running(p)
        self.leave(p, end, ONE, ["legB"])
        p.stop()
        self.unblock()
        for e in end:
            e.close()
        self.wait_left_by_all()

    def wait_left_by_all(self):
        for dev in ("legA", "legB"):
            self.assertEqual(l7net.filters(dev), [])
            self.assertNotIn("clsact", l7net.qdiscs(dev))
        self.assertFalse(self.pins.exists())

    def test_upgrade(self):
        """an upgrade while it leaves: the old process takes its program away, the new one attaches its own, and the session continues"""
        directory = tempfile.TemporaryDirectory(prefix="l7mp-")
        self.addCleanup(directory.cleanup)
        self.log = directory.name + "/access.log"
        self.servers = {False: tcpflow.listener(self.b, 9001)}
        self.addCleanup(self.servers[False].close)
        cfg = self.config()
        cfg["admin"]["server"] = {"enabled": True, "address": "127.0.0.1", "port": ADMIN}
        chain = upgrade.Chain(cfg, ADMIN)
        self.addCleanup(chain.kill)
        p = chain.proxy
        end = self.running(p)
        self.leave(p, end, ONE, ["legB"])
        self.assertNotIn("failed", chain.upgrade(), p.stderr())
        self.unblock()
        self.wait_fast(p)
        self.assertEqual(self.leaving(p), [])
        self.more(p, end)
        self.over(p, end)
        chain.stop()
        self.wait_left_by_all()

    def killed(self):
        """A process is killed while an interface leaves, and the session's flows are in the kernel still."""
        for _ in range(TRIES):
            p = self.proxy()
            end = self.running(p)
            self.leave(p, end, ONE, ["legB"])
            p.process.kill()
            p.process.wait()
            self.unblock()
            if json.loads(l7net.sh("bpftool", "-j", "map", "dump", "pinned", str(self.pins / "flows4"))):
                return end
            print("# too late: " + self.log_of(p).replace("\n", "\n# "))
            for e in end:
                e.close()
        self.fail("it had always left")

    def test_killed(self):
        """SIGKILL while it leaves: the next process takes the session over, and what is not wanted away"""
        for ifs in ("legA,legB", "legA"):
            with self.subTest(ifs=ifs):
                end = self.killed()
                cfg = self.config()
                cfg["admin"]["offload_ifs"] = ifs
                with l7test.Proxy(cfg) as q:
                    self.assertEqual(len(q.api.get("/offload")[1]["adopted"]["removals"]), 0, q.stderr())
                    self.more(q, end)
                    self.assertEqual(self.leaving(q), [])
                    self.assertEqual(bool(l7net.filters("legB")), "legB" in ifs)
                    self.over(q, end)
                self.wait_left_by_all()

    def test_datagrams(self):
        """numbered datagrams of many sessions, both ways, while an interface goes and comes back: none is lost or comes twice"""
        with self.proxy() as p:
            end = self.running(p)
            udp = Traffic(self.a, self.b, UDP_SESSIONS, 500)
            self.addCleanup(udp.close)

            def fast():
                return sum(s["offload"]["state"] == "fast" for s in p.api.get("/sessions")[1] if s["name"].startswith("UDP:"))
            udp.begin()
            self.wait(lambda: fast() == UDP_SESSIONS, p)
            udp.run()
            for _ in range(3):
                self.leave(p, end, ONE, ["legB"])
                self.unblock()
                self.wait_left(p, ["legB"])
                self.wait(lambda: fast() == 0, p)
                self.more(p, end)
                self.admin(p, BOTH)
                self.wait(lambda: fast() == UDP_SESSIONS, p)
            self.assertEqual((udp.pause(), udp.moved, udp.again), ((0, 0), 0, 0))
            # docs/fastpath.md, the hand-over: on a busy machine a datagram may be overtaken when its flow moves into the kernel.
            flows = p.api.get("/offload")[1]["flows"]
            self.assertLessEqual(udp.overtaken, flows["handover_late"] + flows["handover_forced"])
            self.assertGreater(min(min(w) for w in udp.got), 0)
            udp.close()
            for e in end:
                e.sender.stop()
            self.finish([end])


if __name__ == "__main__":
    l7test.main()
