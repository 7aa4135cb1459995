#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: long timeout=900
"""An upgrade with the fast path: UDP flows forward in the kernel from the first to the last moment, while one process takes the
sessions over from the other; TCP connections leave the kernel for it, and come back."""
import json
import os
import pathlib
import sys
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import l7net  # noqa: E402
import l7test  # noqa: E402
import test_offload_adopt as adopt  # noqa: E402
import upgrade  # noqa: E402

SESSIONS = 1000 if l7test.FULL else 50
UPGRADES = 20 if l7test.FULL else 2
ADMIN = 1235
FAULTS = os.environ.get("L7MP_BUILD", "build/asan") != "build"


class Base(adopt.Base):
    ends = ()

    def chain(self, env=None, **kw):
        cfg = self.config(**kw)
        cfg["admin"]["server"] = {"enabled": True, "address": "127.0.0.1", "port": ADMIN}
        self.addCleanup(lambda: [end() for end in self.ends])
        chain = upgrade.Chain(cfg, ADMIN, env)
        self.addCleanup(chain.kill)
        return chain

    def rewrite(self, chain, **kw):
        """Another configuration for the next process."""
        cfg = self.config(**kw)
        cfg["admin"]["server"] = {"enabled": True, "address": "127.0.0.1", "port": ADMIN}
        pathlib.Path(chain.proxy.path).write_text(json.dumps(cfg))

    def upgraded(self, chain, **kw):
        result = chain.upgrade()
        self.assertNotIn("failed", result, chain.proxy.stderr())
        return result

    def one(self, **kw):
        """A session in the kernel: (chain, client, server, the server's peer). Ends what an earlier part of the test has left."""
        for end in self.ends:
            end()
        client, server = self.a.udp(5000), self.b.udp(9001)
        self.ends = [client.close, server.close]
        chain = self.chain(**kw)
        self.ends.append(chain.kill)
        peer = self.ping(client, server)
        self.wait_fast(chain, 1)
        for _ in range(5):
            self.ping(client, server)
        return chain, client, server, peer

    def wait_fast(self, p, n):
        return super().wait_fast(getattr(p, "proxy", p), n)


class Nothing(Base):
    def test_is_lost(self):
        """again and again under traffic both ways: no datagram is lost, comes twice, or is relayed by user space"""
        traffic = adopt.Traffic(self.a, self.b, SESSIONS, 1500)
        self.addCleanup(traffic.close)
        chain = self.chain()
        traffic.begin()
        was = self.wait_fast(chain, SESSIONS)
        traffic.run()
        pauses = []
        for i in range(UPGRADES):
            before = self.sessions(chain)
            result = self.upgraded(chain)
            self.assertEqual((result["sessions_taken"], result["sessions_refused"]), (SESSIONS, 0))
            answer = self.adopted(chain)
            self.assertEqual((answer["sessions"], answer["removed"]), (SESSIONS, 0), (answer, chain.proxy.stderr()))
            after = self.sessions(chain)
            self.assertEqual(after.keys(), was.keys())
            for name, s in after.items():
                self.assertEqual((s["metadata"], s["offload"]["state"]), (was[name]["metadata"], "fast"), f"upgrade {i}")
                for way in ("ingress", "egress"):
                    self.assertGreaterEqual(s["stats"][way]["fast"]["packets"], before[name]["stats"][way]["fast"]["packets"], name)
                    self.assertEqual(s["stats"][way]["slow"], was[name]["stats"][way]["slow"], f"{name}, upgrade {i}")
        lost = traffic.pause()
        self.assertEqual((lost, traffic.moved, traffic.twice), ((0, 0), 0, 0), chain.proxy.stderr())
        for way, index in (("ingress", 0), ("egress", 1)):
            counted = sum(s["stats"][way]["packets"] for s in self.sessions(chain).values())
            self.assertEqual(counted, sum(traffic.sent[index]), way)
        chain.stop()
        self.nothing_left()


class Session(Base):
    def test_goes_on(self):
        """the session of before, with its flow; what the program has a doubt about, and new sessions, come to the new process"""
        chain, client, server, peer = self.one()
        was = next(iter(self.sessions(chain).values()))
        self.upgraded(chain)
        self.assertEqual(self.adopted(chain)["sessions"], 1)
        self.assertEqual(self.ping(client, server), peer)
        client.setsockopt(0, 10, 0)  # IP_MTU_DISCOVER: fragments
        self.assertEqual(self.ping(client, server, payload=b"f" * 3000), peer)
        now = self.sessions(chain)[was["name"]]["stats"]
        for way in ("ingress", "egress"):
            self.assertEqual(now[way]["fast"]["packets"], was["stats"][way]["fast"]["packets"] + 1, way)
            self.assertEqual(now[way]["slow"]["packets"], was["stats"][way]["slow"]["packets"] + 1, way)
        other = self.a.udp(5001)
        self.addCleanup(other.close)
        self.assertNotEqual(self.ping(other, server), peer)
        self.wait_fast(chain, 2)
        # The fast path is the new process's in all it does: a neighbour that changes, the end.
        chain.stop()
        self.nothing_left()

    @unittest.skipUnless(l7test.FULL, "full size")
    def test_hooks(self):
        """programs are replaced in their places, and one kind by another"""
        for first, then in (("tc", "native"), ("native", "native"), ("native", "tc")):
            with self.subTest(first=first, then=then):
                for leg in (self.a, self.b):
                    leg.run("ethtool -K eth0 tx off gro on")
                chain, client, server, peer = self.one(admin={"offload_mode": first})
                self.rewrite(chain, admin={"offload_mode": then})
                self.upgraded(chain)
                self.assertEqual(self.adopted(chain)["sessions"], 1)
                self.wait_fast(chain, 1)
                for i in chain.api.get("/offload")[1]["interfaces"]:
                    self.assertEqual(i["hook"], then)
                self.assertEqual(self.ping(client, server), peer)
                chain.stop()
                self.nothing_left()
                client.close()
                server.close()

    @unittest.skipUnless(l7test.FULL, "full size")
    def test_not_taken(self):
        """a new configuration without the fast path, of another instance, or without the session's route"""
        for kw, slow in (({"admin": {"offload": "disable"}}, True), ({"admin": {"instance": self.instance + "x"}}, True),
                         ({"route": {"offload": "never"}}, True), ({"admin": {"offload_ifs": "legA"}}, True),
                         ({"listener": {"name": "other"}}, False)):
            with self.subTest(**kw):
                chain, client, server, peer = self.one()
                self.rewrite(chain, **kw)
                result = self.upgraded(chain)
                self.assertEqual((result["sessions_taken"], result["sessions_refused"]), (int(slow), int(not slow)))
                # Taking clsact away stops a device for a moment: not before the old process has done that.
                chain.ended(chain.old.pop())
                if slow:
                    self.assertEqual(self.ping(client, server), peer)
                if "instance" in kw.get("admin", {}):
                    self.wait_fast(chain, 1)
                    self.assertTrue((l7net.PINS / (self.instance + "x")).exists())
                else:
                    l7test.wait_for(lambda: chain.api.get("/offload/flows")[1] == [])
                    self.assertEqual(chain.api.get("/offload/flows")[1], [])
                # Alone, and with nothing of the other's.
                chain.stop()
                self.nothing_left()
                client.close()
                server.close()

    @unittest.skipUnless(l7test.FULL, "full size")
    def test_neighbour_changes(self):
        """a neighbour that changes its address during the upgrade is known afterwards"""
        chain, client, server, peer = self.one()
        was = next(iter(self.sessions(chain).values()))
        self.b.run("ip link set eth0 address 02:00:00:00:00:77")
        change = threading.Thread(target=lambda: l7net.sh("ip", "neigh", "replace", "10.9.2.2", "lladdr", "02:00:00:00:00:77",
                                                          "dev", "legB"))
        change.start()
        self.upgraded(chain)
        change.join()
        self.wait_fast(chain, 1)
        for _ in range(5):
            self.assertEqual(self.ping(client, server), peer)
        self.assertGreaterEqual(self.sessions(chain)[was["name"]]["stats"]["ingress"]["fast"]["packets"],
                                was["stats"]["ingress"]["fast"]["packets"] + 4)
        chain.stop()
        self.nothing_left()


@unittest.skipUnless(FAULTS, "a build with fault points")
class Faults(Base):
    def failed(self, step, how, limit):
        chain, client, server, peer = self.one(env={"L7MP_FAULT": f"upgrade-{step}:{how}", "L7MP_UPGRADE_LIMIT": limit})
        was = next(iter(self.sessions(chain).values()))
        result = chain.upgrade()
        self.assertIn("failed", result)
        self.assertEqual(result["pid"], chain.pid)
        now = self.sessions(chain)[was["name"]]
        self.assertEqual(now["offload"]["state"], "fast")
        self.assertEqual(self.ping(client, server), peer)
        after = self.sessions(chain)[was["name"]]["stats"]
        for way in ("ingress", "egress"):
            self.assertEqual(after[way]["fast"]["packets"], was["stats"][way]["fast"]["packets"] + 1, way)
            self.assertEqual(after[way]["slow"], was["stats"][way]["slow"], way)
        # The engine does what it did before: the next session gets a flow.
        other = self.a.udp(5001)
        self.ping(other, server)
        self.wait_fast(chain, 2)
        chain.stop()
        self.nothing_left()
        for s in (client, server, other):
            s.close()

    def test_new_one_fails(self):
        """the new process is killed, or hangs, at any step: the flow has been in the kernel all the time"""
        steps = (("commit", "hang", "1500"), ("listeners", "kill", "30000"), ("bound", "kill", "30000"), ("session", "kill", "30000"),
                 ("commit", "kill", "30000"))
        for step, how, limit in steps if l7test.FULL else steps[:1]:
            with self.subTest(step=step, how=how):
                self.failed(step, how, limit)

    def test_old_one_dies(self):
        """the new process continues with the flow, whether it had got the session or not"""
        for step in ("hello", "bound", "commit", "running") if l7test.FULL else ("commit",):
            with self.subTest(step=step):
                chain, client, server, peer = self.one(env={"L7MP_FAULT": f"upgrade-{step}:orphan"})
                was = next(iter(self.sessions(chain).values()))
                chain.upgrade()
                self.assertEqual(self.adopted(chain)["sessions"], 1)
                self.assertEqual(self.ping(client, server), peer)
                now = self.wait_fast(chain, 1)[was["name"]]
                for way in ("ingress", "egress"):
                    self.assertEqual(now["stats"][way]["fast"]["packets"], was["stats"][way]["fast"]["packets"] + 1, way)
                    self.assertEqual(now["stats"][way]["slow"], was["stats"][way]["slow"], way)
                os.kill(chain.pid, 15)
                chain.ended(chain.pid)
                chain.proxy.process.wait()
                self.nothing_left()
                client.close()
                server.close()


if __name__ == "__main__":
    l7test.main()
