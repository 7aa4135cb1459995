#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: long timeout=900
"""A daemon that starts takes over what the previous daemon left in the kernel when it was killed: flows forward on, sessions come
back under their names on the same sockets, and what can't be taken over goes, with a reason."""
import json
import os
import pathlib
import select
import socket
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7net  # noqa: E402
import l7test  # noqa: E402

SESSIONS = 1000 if l7test.FULL else 100
KILLS = 20 if l7test.FULL else 3
GATE = ("10.9.1.1", 9000)


class Traffic:
    """Numbered datagrams of many clients to one server and back, both ways all the time; what is lost of which session."""

    def __init__(self, a, b, n, rate, gate=GATE, hosts=(None, None)):
        self.n, self.gap, self.gate = n, 1 / rate, gate
        self.clients = [a.udp(host=hosts[0], rcvbuf=1 << 20) for _ in range(n)]
        self.server = b.udp(9001, hosts[1], rcvbuf=64 << 20)
        self.sent = [[0] * n, [0] * n]
        self.got = [[0] * n, [0] * n]
        self.again = 0      # arrived a second time
        self.overtaken = 0  # arrived after a later one
        self.peers = [None] * n
        self.moved = 0
        self.over, self.quiet = threading.Event(), threading.Event()
        self.poll = select.epoll()
        self.by_fd = {}
        for i, c in enumerate(self.clients):
            c.setblocking(False)
            self.by_fd[c.fileno()] = i
            self.poll.register(c.fileno(), select.EPOLLIN)
        self.server.setblocking(False)
        self.poll.register(self.server.fileno(), select.EPOLLIN)
        self.receiver = threading.Thread(target=self.receive)
        self.receiver.start()

    def receive(self):
        seen = [[-1] * self.n, [-1] * self.n]
        missing = set()
        while not self.over.is_set():
            for fd, _ in self.poll.poll(0.1):
                s = self.server if fd == self.server.fileno() else self.clients[self.by_fd[fd]]
                for _ in range(64):
                    try:
                        data, peer = s.recvfrom(64)
                    except BlockingIOError:
                        break
                    except ConnectionRefusedError:
                        continue
                    way, i, number = struct.unpack("!III", data)
                    if way == 0:
                        self.moved += self.peers[i] not in (None, peer)
                        self.peers[i] = peer
                    if number > seen[way][i]:
                        missing.update((way, i, n) for n in range(seen[way][i] + 1, number))
                        seen[way][i] = number
                    elif (way, i, number) in missing:
                        missing.remove((way, i, number))
                        self.overtaken += 1
                    else:
                        self.again += 1
                    self.got[way][i] += 1

    @property
    def twice(self):
        """Of flows that stay in the kernel none may come again, nor be overtaken."""
        return self.again + self.overtaken

    def send_one(self, i, both=True):
        self.clients[i].sendto(struct.pack("!III", 0, i, self.sent[0][i]), self.gate)
        self.sent[0][i] += 1
        if both:
            self.server.sendto(struct.pack("!III", 1, i, self.sent[1][i]), self.peers[i])
            self.sent[1][i] += 1

    def begin(self):
        """The first datagram of each session."""
        for i in range(self.n):
            self.send_one(i, both=False)
            time.sleep(0.001)
        assert l7test.wait_for(lambda: all(self.peers)), "the first datagrams did not arrive"

    def run(self):
        def send():
            i = 0
            while not self.quiet.is_set():
                self.send_one(i)
                i = (i + 1) % self.n
                time.sleep(self.gap)
        self.sender = threading.Thread(target=send)
        self.sender.start()

    def pause(self):
        """Stops sending; the number of datagrams lost so far, (to the server, to clients)."""
        self.quiet.set()
        self.sender.join()
        self.quiet.clear()
        l7test.wait_for(lambda: self.got == self.sent, 1) if self.got == self.sent else self.settle()
        return tuple(sum(self.sent[w]) - sum(self.got[w]) for w in (0, 1))

    def settle(self):
        """What is on its way needs a moment; what is lost never comes."""
        for _ in range(100):
            if self.got == self.sent:
                return
            time.sleep(0.02)

    def close(self):
        self.quiet.set()
        self.over.set()
        self.receiver.join()
        for s in [*self.clients, self.server]:
            s.close()


class Base(l7net.Gateway):
    def setUp(self):
        super().setUp()
        self.before = frozenset(l7test.Proxy.running)
        self.addCleanup(lambda: l7test.Proxy.kill_left(self.before))

    def config(self, listener=None, destination=None, route=None, rule=None, admin=None, listeners=()):
        return {
            "admin": {"offload": "init", "offload_ifs": "legA,legB", "instance": self.instance, "log_level": "info",
                      **(admin or {})},
            "clusters": [
                {"name": "upstream", "spec": {"protocol": "UDP", "port": 9001},
                 "endpoints": [{"name": "one", "spec": {"address": "10.9.2.2"}}]},
                {"name": "six", "spec": {"protocol": "UDP", "port": 9001},
                 "endpoints": [{"name": "of-six", "spec": {"address": "fd09:2::2"}}]},
                {"name": "elsewhere", "spec": {"protocol": "UDP", "port": 9001},
                 "endpoints": [{"spec": {"address": "10.9.2.99"}}]},
                {"name": "echo", "spec": {"protocol": "Echo"}},
                {"name": "discard", "spec": {"protocol": "Discard"}},
                {"name": "metric", "spec": {"protocol": "Metric"}},
            ],
            "listeners": [
                {"name": "udp", "spec": {"protocol": "UDP", "address": "10.9.1.1", "port": 9000},
                 "rules": [{**(rule or {}), "action": {"route": {"destination": destination or "upstream", **(route or {})}}}],
                 **(listener or {})},
                *listeners,
                l7test.controller(),
            ],
        }

    def start(self, **kw):
        p = l7test.Proxy(self.config(**kw))
        self.assertEqual(p.api.get("/offload")[0], 200)
        return p

    @staticmethod
    def kill(p):
        p.process.kill()
        p.process.wait()
        p.notify.close()
        p.dir.cleanup()

    @staticmethod
    def sessions(p):
        return {s["name"]: s for s in p.api.get("/sessions")[1] if s["name"].startswith("UDP:")}

    def wait_fast(self, p, n):
        def fast():
            sessions = self.sessions(p)
            return len(sessions) == n and all(s["offload"]["state"] == "fast" for s in sessions.values()) and sessions
        got = l7test.wait_for(fast, l7net.WAIT)
        self.assertTrue(got, f"not offloaded: {json.dumps(self.sessions(p))[:2000]} {p.stderr()}")
        return got

    def adopted(self, p):
        return p.api.get("/offload")[1]["adopted"]

    def nothing_left(self):
        for dev in ("legA", "legB"):
            self.assertEqual(l7net.filters(dev), [])
            self.assertNotIn("clsact", l7net.qdiscs(dev))
            self.assertIsNone(l7net.xdp(dev))
        self.assertFalse(self.pins.exists(), f"{self.pins} is still there: {list(self.pins.glob('*'))}")

    def killed(self, **kw):
        """A session in the kernel whose daemon was killed: (client, server, the server's peer, what it was)."""
        client, server = self.a.udp(5000), self.b.udp(9001)
        self.addCleanup(client.close)
        self.addCleanup(server.close)
        p = self.start(**kw)
        peer = self.ping(client, server)
        self.wait_fast(p, 1)
        for _ in range(5):
            self.ping(client, server)
        was = next(iter(self.sessions(p).values()))
        self.kill(p)
        return client, server, peer, was


class Nothing(Base):
    def test_is_lost(self):
        """kill -9 and start, again and again, under traffic both ways: 0 datagrams lost, names, start and counters continue"""
        traffic = Traffic(self.a, self.b, SESSIONS, 1500)
        self.addCleanup(traffic.close)
        p = self.start()
        traffic.begin()
        was = self.wait_fast(p, SESSIONS)
        traffic.run()
        time.sleep(0.5)
        for _ in range(KILLS):
            before = self.sessions(p)
            self.kill(p)
            time.sleep(0.3)
            p = self.start()
            time.sleep(0.3)
            answer = self.adopted(p)
            self.assertEqual((answer["sessions"], answer["removed"]), (SESSIONS, 0), answer)
            after = self.sessions(p)
            self.assertEqual(after.keys(), was.keys())
            for name, s in after.items():
                self.assertEqual(s["metadata"], was[name]["metadata"])
                for way in ("ingress", "egress"):
                    self.assertGreaterEqual(s["stats"][way]["packets"], before[name]["stats"][way]["packets"], name)
                    self.assertEqual(s["stats"][way]["slow"], was[name]["stats"][way]["slow"], name)
        lost = traffic.pause()
        self.assertEqual((lost, traffic.moved, traffic.twice), ((0, 0), 0, 0), p.stderr())
        # Each datagram was counted once, by whichever process or by the kernel alone.
        for way, index in (("ingress", 0), ("egress", 1)):
            self.assertEqual(sum(s["stats"][way]["packets"] for s in self.sessions(p).values()), sum(traffic.sent[index]))
        p.stop()
        self.nothing_left()


class Session(Base):
    def check_goes_on(self, client, server, peer, was, **kw):
        with self.start(**kw) as q:
            answer = self.adopted(q)
            self.assertEqual((answer["sessions"], answer["removed"]), (1, 0), answer)
            now = self.wait_fast(q, 1)[was["name"]]
            self.assertEqual((now["metadata"], now["stats"]["ingress"]["packets"]), (was["metadata"], was["stats"]["ingress"]["packets"]))
            self.assertEqual(self.ping(client, server), peer)
            # What the program has a doubt about arrives in user space, at the same sockets.
            client.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER: fragments
            self.assertEqual(self.ping(client, server, payload=b"f" * 3000), peer)
            after = self.sessions(q)[was["name"]]["stats"]
            for way in ("ingress", "egress"):
                self.assertEqual(after[way]["slow"]["packets"], was["stats"][way]["slow"]["packets"] + 1, way)
                self.assertEqual(after[way]["fast"]["packets"], was["stats"][way]["fast"]["packets"] + 1, way)
            # The next session has a name and a port of its own.
            other = self.a.udp(5001)
            self.assertNotEqual(self.ping(other, server)[1], peer[1])
            self.assertEqual(len(self.sessions(q)), 2)
        self.nothing_left()

    def test_goes_on(self):
        """the session of before, with what comes up unchanged"""
        self.check_goes_on(*self.killed())

    def test_hooks(self):
        """programs are replaced in their places: native XDP, generic XDP; and one kind by another"""
        for first, then in (("native", "native"), ("generic", "generic"), ("tc", "native"), ("native", "tc"), ("generic", "native")):
            with self.subTest(first=first, then=then):
                for peer in (self.a, self.b):
                    peer.run("ethtool -K eth0 tx off gro on")
                state = self.killed(admin={"offload_mode": first})
                with self.start(admin={"offload_mode": then}) as q:
                    self.assertEqual(self.adopted(q)["sessions"], 1)
                    self.wait_fast(q, 1)
                    for i in q.api.get("/offload")[1]["interfaces"]:
                        self.assertEqual(i["hook"], then)
                    self.assertEqual(len(l7net.filters("legA")), 1)
                    self.assertEqual(l7net.xdp("legA") is not None, then != "tc")
                    self.assertEqual(self.ping(state[0], state[1]), state[2])
                self.nothing_left()
                for s in state[:2]:
                    s.close()

    def test_kinds(self):
        """Echo, Discard, IPv6, a chain of Metric, and a rule that rewrites metadata"""
        six = {"name": "udp6", "spec": {"protocol": "UDP", "address": "fd09:1::1", "port": 9000},
               "rules": [{"action": {"route": {"destination": "six"}}}]}
        echo = {"name": "echoes", "spec": {"protocol": "UDP", "address": "10.9.1.1", "port": 9002},
                "rules": [{"action": {"route": {"destination": "echo"}}}]}
        discard = {"name": "discards", "spec": {"protocol": "UDP", "address": "10.9.1.1", "port": 9003},
                   "rules": [{"action": {"route": {"destination": "discard"}}}]}
        kw = {"listeners": (six, echo, discard), "route": {"ingress": ["metric"]},
              "rule": {"match": {"op": "test", "path": "/IP/src_addr", "value": "10.9.1.2"}},
              "listener": {"rules": [{"match": {"op": "test", "path": "/IP/src_addr", "value": "10.9.1.2"}, "action": {
                  "rewrite": [{"path": "/IP/src_addr", "value": "rewritten"}],
                  "route": {"destination": "upstream", "ingress": ["metric"]}}}]}}
        client, server = self.a.udp(5000), self.b.udp(9001)
        client6, server6 = self.a.udp(5000, "fd09:1::2"), self.b.udp(9001, "fd09:2::2")
        p = self.start(**kw)

        def all_of_them():
            self.ping(client, server)
            self.ping(client6, server6, to=("fd09:1::1", 9000))
            client.sendto(b"echo", ("10.9.1.1", 9002))
            self.assertEqual(client.recv(100), b"echo")
            client.sendto(b"discard", ("10.9.1.1", 9003))
        all_of_them()
        was = self.wait_fast(p, 4)
        self.kill(p)
        all_of_them()
        with self.start(**kw) as q:
            answer = self.adopted(q)
            self.assertEqual((answer["sessions"], answer["removed"]), (4, 0), answer)
            now = self.wait_fast(q, 4)
            self.assertEqual(now.keys(), was.keys())
            for name, s in now.items():
                self.assertEqual(s["metadata"], was[name]["metadata"])
                self.assertEqual(s["stats"]["ingress"]["packets"], was[name]["stats"]["ingress"]["packets"] + 1, name)
            all_of_them()
            self.assertEqual([s["stats"]["ingress"]["packets"] for s in self.sessions(q).values()], [3, 3, 3, 3])
        self.nothing_left()


class Refused(Base):
    def check_gone(self, reason, state=None, **kw):
        state = state or self.killed()
        with self.start(**kw) as q:
            answer = self.adopted(q)
            self.assertEqual((answer["sessions"], answer["removed"]), (0, 1), answer)
            self.assertRegex(answer["removals"][0]["reason"], reason)
            self.assertRegex(q.stderr(), reason)
            self.assertEqual(q.api.get("/offload/flows")[1], [])
            self.assertEqual(q.api.get("/offload")[1]["flows"]["now"], 0)
            maps = {m["name"]: m["entries"] for m in q.api.get("/offload")[1]["maps"]}
            self.assertEqual((maps["flows4"], maps["counters"], maps["sessions"], maps["handover"]), (0, 0, 0, 0))
            for name in ("flows4", "sessions"):
                self.assertEqual(json.loads(l7net.sh("bpftool", "-j", "map", "dump", "pinned", str(self.pins / name))), [])
        self.nothing_left()
        for s in state[:2]:
            s.close()

    def test_what_the_config_does_not_allow(self):
        """no such listener, another address, no rule, another cluster, another kind of destination"""
        for reason, kw in (
                ("there is no listener 'udp'", {"listener": {"name": "other"}}),
                ("takes nothing from 10.9.1.2:5000", {"listener": {"spec": {"protocol": "UDP", "address": "10.9.1.1", "port": 9009}}}),
                ("takes nothing from", {"listener": {"spec": {"protocol": "UDP", "address": "10.9.1.1", "port": 9000,
                                                              "connect": {"address": "10.9.1.77"}}}}),
                ("no rule of .* matches", {"rule": {"match": {"op": "test", "path": "/IP/src_addr", "value": "10.9.1.3"}}}),
                ("no endpoint of cluster 'elsewhere' has the address", {"destination": "elsewhere"}),
                ("another kind of destination", {"destination": "echo"})):
            with self.subTest(reason=reason):
                self.check_gone(reason, **kw)

    def test_port_is_taken(self):
        """another process has the session's upstream port"""
        state = self.killed()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.bind(("10.9.2.1", state[2][1]))
            self.check_gone("[Aa]ddress already in use", state)

    def test_record_is_damaged(self):
        """without its record, and with one of another version, a session is not known"""
        for change in ("delete", "version"):
            with self.subTest(change=change):
                state = self.killed()
                pin = str(self.pins / "sessions")
                entry = json.loads(l7net.sh("bpftool", "-j", "map", "dump", "pinned", pin))[0]
                key = entry["key"]
                if change == "delete":
                    l7net.sh("bpftool", "map", "delete", "pinned", pin, "key", *key)
                else:
                    value = [f"{99:#x}", *entry["value"][1:]]
                    l7net.sh("bpftool", "map", "update", "pinned", pin, "key", *key, "value", *value)
                self.check_gone("record is (missing|of another version)", state)

    def test_half_a_flow(self):
        """a crash between two writes leaves one direction only"""
        state = self.killed()
        pin = str(self.pins / "flows4")
        entry = json.loads(l7net.sh("bpftool", "-j", "map", "dump", "pinned", pin))[0]
        l7net.sh("bpftool", "map", "delete", "pinned", pin, "key", *entry["key"])
        self.check_gone("only one of its directions", state)

    def test_flow_is_not_wanted(self):
        """offload: never in the route by now, or the interface is not served: the session continues in user space"""
        for kw in ({"route": {"offload": "never"}}, {"admin": {"offload_ifs": "legA"}}, {"route": {"ingress": ["echo"]}}):
            with self.subTest(**kw):
                client, server, peer, was = self.killed()
                try:
                    self.check_slow(kw, client, server, peer, was)
                finally:
                    client.close()
                    server.close()

    def check_slow(self, kw, client, server, peer, was):
        with self.start(**kw) as q:
            self.assertEqual(self.adopted(q)["sessions"], 1)
            s = self.sessions(q)[was["name"]]
            self.assertEqual((s["offload"]["state"], s["stats"]["ingress"]["packets"]), ("slow", was["stats"]["ingress"]["packets"]))
            if kw != {"route": {"ingress": ["echo"]}}:
                self.assertEqual(self.ping(client, server), peer)
            self.assertEqual(q.api.get("/offload/flows")[1], [])
            if "admin" in kw:
                self.assertEqual(l7net.filters("legB"), [])
        self.nothing_left()

    def fail_to_start(self, **kw):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.bind(("10.9.1.1", 9000))
            path = pathlib.Path(f"/tmp/l7mp-{self.instance}.json")
            path.write_text(json.dumps(self.config(**kw)))
            try:
                status, _, err = l7test.run_proxy("-c", str(path))
            finally:
                path.unlink()
            self.assertEqual(status, 1, err)

    def test_no_init_after_failed_start(self):
        """no_init uses the programs that starts with init have attached before they failed; the next init replaces them"""
        for mode, failures in (("tc", 1), ("native", 1), ("tc", 2)):
            with self.subTest(mode=mode, failures=failures):
                for peer in (self.a, self.b):
                    peer.run("ethtool -K eth0 tx off gro on")
                admin = {"offload_mode": mode}
                client, server, peer, was = self.killed(admin=admin)
                for _ in range(failures):
                    self.fail_to_start(admin=admin)
                ids = [f["options"]["prog"]["id"] for f in l7net.filters("legA")]
                q = self.start(admin={**admin, "offload": "no_init"})
                self.assertEqual(self.adopted(q)["sessions"], 1, q.stderr())
                self.wait_fast(q, 1)
                self.assertEqual({(i["name"], i["hook"]) for i in q.api.get("/offload")[1]["interfaces"]},
                                 {("legA", mode), ("legB", mode)})
                self.assertEqual(self.ping(client, server), peer)
                stats = self.sessions(q)[was["name"]]["stats"]
                for way in ("ingress", "egress"):
                    self.assertEqual(stats[way]["slow"], was["stats"][way]["slow"])
                self.assertEqual([f["options"]["prog"]["id"] for f in l7net.filters("legA")], ids)
                self.assertEqual([x.name for x in self.pins.glob("new_*")], [])
                self.kill(q)
                Session.check_goes_on(self, client, server, peer, {**was, "stats": self.more(was["stats"], 1)})
                client.close()
                server.close()

    def test_failed_start_changes_nothing(self):
        """a daemon that can't start leaves what is in the kernel to the next one"""
        client, server, peer, was = self.killed()
        self.fail_to_start()
        self.assertEqual(self.ping(client, server), peer)
        Session.check_goes_on(self, client, server, peer, {**was, "stats": self.more(was["stats"], 1)})

    @staticmethod
    def more(stats, n):
        return {way: {**stats[way], "packets": stats[way]["packets"] + n,
                      "fast": {**stats[way]["fast"], "packets": stats[way]["fast"]["packets"] + n}} for way in ("ingress", "egress")}

    def test_no_init(self):
        """no_init uses the programs as they are, takes the sessions over, and leaves all in place at its end"""
        client, server, peer, was = self.killed()
        ids = [f["options"]["prog"]["id"] for f in l7net.filters("legA")]
        q = self.start(admin={"offload": "no_init"})
        self.assertEqual(self.adopted(q)["sessions"], 1)
        self.wait_fast(q, 1)
        self.assertEqual(self.ping(client, server), peer)
        self.assertEqual([f["options"]["prog"]["id"] for f in l7net.filters("legA")], ids)
        self.kill(q)
        Session.check_goes_on(self, client, server, peer, {**was, "stats": self.more(was["stats"], 1)})


if __name__ == "__main__":
    l7test.main()
