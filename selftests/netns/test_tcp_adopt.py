#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: long timeout=1800
"""TCP sessions in the kernel whose daemon was killed: their bytes continue, no peer is reset, and the next daemon has them back under
their names, with counters that continue, and ends them in order; what it must not have is reset at both ends."""
import json
import pathlib
import re
import socket
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import l7net  # noqa: E402
import l7test  # noqa: E402
import tcpflow  # noqa: E402
import test_offload_adopt as adopt  # noqa: E402

SESSIONS = 50 if l7test.FULL else 6
UDP_SESSIONS = 100 if l7test.FULL else 10
KILLS = 20 if l7test.FULL else 2
RATE = (256 << 10) if l7test.FULL else (2 << 20)  # bytes a second, of each sender
GATE = ("10.9.1.1", 9100)


class Resets:
    """The resets that come to or from a peer."""

    def __init__(self, peer):
        self.dump = peer.popen("tcpdump", "-nlUi", "eth0", "tcp[13] & 4 != 0 or (ip6 proto 6 and ip6[53] & 4 != 0)",
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.dump.stderr.readline()  # it listens

    def close(self):
        self.dump.terminate()
        out, _ = self.dump.communicate()
        return [line for line in out.splitlines() if line]


class Base(adopt.Base):
    def setUp(self):
        super().setUp()
        self.servers = {}

    def config(self, tcp=None, tcp_route=None, tcp_admin=None, admin=None, to="10.9.2.2", listen=None, **kw):
        def listener(name, address, server):
            return {"name": name, "spec": {"protocol": "TCP", "address": address, "port": 9100, **(listen or {})},
                    "rules": [{"action": {"route": {"destination": {
                        "name": f"{name}-upstream", "spec": {"protocol": "TCP", "port": 9101},
                        "endpoints": [{"spec": {"address": server}}]}, **(tcp_route or {})}}}], **(tcp or {})}
        both = (listener("tcp", "10.9.1.1", to), {**listener("tcp6", "fd09:1::1", "fd09:2::2"), "name": "tcp6"})
        return super().config(listeners=both, admin={"offload_tcp": {"after_bytes": 0, **(tcp_admin or {})}, **(admin or {})}, **kw)

    def serve(self, v6=False):
        self.servers[v6] = tcpflow.listener(self.b, 9101, self.b.own6 if v6 else self.b.own4)
        self.addCleanup(self.servers[v6].close)

    def connect(self, v6=False, **kw):
        if v6 not in self.servers:
            self.serve(v6)
        c = tcpflow.connect(self.a, ("fd09:1::1", 9100) if v6 else GATE, **kw)
        s = tcpflow.accept(self.servers[v6])
        for sock in (c, s):
            self.addCleanup(sock.close)
        return c, s

    @staticmethod
    def tcp_sessions(p):
        return {s["name"]: s for s in p.api.get("/sessions")[1] if s["name"].startswith("TCP:")}

    def all_fast(self, p, n, keep=lambda: None):
        def fast():
            keep()
            sessions = self.tcp_sessions(p)
            return len(sessions) == n and all(s["offload"]["state"] == "fast" for s in sessions.values()) and sessions
        got = l7test.wait_for(fast, l7net.WAIT)
        self.assertTrue(got, f"not in the kernel: {json.dumps(self.tcp_sessions(p))[:3000]} {p.stderr()[-3000:]}")
        return got

    def echo(self, c, s, data=b"x" * 4000):
        for one, other in ((c, s), (s, c)):
            one.sendall(data)
            self.assertEqual(tcpflow.exactly(other, len(data)), data)

    def killed_tcp(self, v6=False, **kw):
        """A session in the kernel whose daemon was killed: (client, server, what it was)."""
        p = self.start(**kw)
        c, s = self.connect(v6)
        was = next(iter(self.all_fast(p, 1, lambda: self.echo(c, s)).values()))
        was = next(iter(self.tcp_sessions(p).values()))
        self.kill(p)
        return c, s, was

    def no_pairs(self, p):
        def used():
            return {m["name"]: m["entries"] for m in p.api.get("/offload")[1]["maps"]}
        self.assertTrue(l7test.wait_for(lambda: used()["flows4"] + used()["flows6"] == 0, l7net.WAIT), used())
        self.assertEqual(used().get("tcp_pairs", 0), 0)
        self.assertEqual(used()["sessions"], 0)
        dump = json.loads(l7net.sh("bpftool", "-j", "map", "dump", "pinned", str(self.pins / "tcp_pairs")))
        self.assertEqual([e for e in dump if e.get("formatted", e)["value"]["phase"]], [])

        def sockets():
            lines = l7net.sh("ss", "-Htan", "( sport = 9100 or dport = 9101 )").splitlines()
            return [x for x in lines if not re.match(r"LISTEN|TIME-WAIT", x)]
        self.assertTrue(l7test.wait_for(lambda: not sockets(), l7net.WAIT), sockets())


class Streams(Base):
    def stats_go_on(self, before, after, was):
        self.assertEqual(after.keys(), was.keys())
        for name, s in after.items():
            self.assertEqual((s["metadata"], s["offload"]["state"]), (was[name]["metadata"], "fast"), s)
            for way in ("ingress", "egress"):
                now, then = s["stats"][way], before[name]["stats"][way]
                self.assertEqual(now["slow"], was[name]["stats"][way]["slow"], name)
                self.assertGreaterEqual(now["fast"]["packets"], then["fast"]["packets"], name)
                self.assertGreaterEqual(now["fast"]["bytes"], then["fast"]["bytes"], name)

    def finish(self, ends):
        for pair in ends:
            for e in pair:
                e.sender.stop()
        for pair in ends:
            for one, other in (pair, pair[::-1]):
                for t in (one.sender, other.receiver):
                    t.join(4 * l7net.WAIT)
                    self.assertFalse(t.is_alive(), "hangs")
                self.assertEqual((one.sender.error, other.receiver.error, other.receiver.wrong), (None, None, None))
                self.assertEqual((one.sender.sent, one.sender.hash.digest()), (other.receiver.received, other.receiver.hash.digest()))

    def log_has_each_byte(self, path, ends):
        """The sum over the sessions, as which of them is which does not show."""
        def lines():
            found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
            return [x for x in found if x["source"]["listener"] in ("tcp", "tcp6")]
        self.assertTrue(l7test.wait_for(lambda: len(lines()) == len(ends), l7net.WAIT), lines())
        for way, index in (("ingress", 0), ("egress", 1)):
            self.assertEqual(sorted(x[way]["bytes"] for x in lines()), sorted(pair[index].sender.sent for pair in ends))
        self.assertEqual({x["reason"] for x in lines()}, {"end of stream"})

    def test_go_on(self):
        """kill -9 and start, again and again, under traffic both ways, with UDP sessions beside: each byte arrives, no reset"""
        log = pathlib.Path(f"/tmp/l7mp-{self.instance}.log")
        self.addCleanup(log.unlink, missing_ok=True)
        kw = {"admin": {"access_log_path": str(log)}}
        resets = [Resets(self.a), Resets(self.b)]
        udp = adopt.Traffic(self.a, self.b, UDP_SESSIONS, 500)
        self.addCleanup(udp.close)
        p = self.start(**kw)
        udp.begin()
        self.wait_fast(p, UDP_SESSIONS)
        conns = [self.connect(v6=i % 4 == 3) for i in range(SESSIONS)]
        ends = [(tcpflow.Both(c, 2 * i, 2 * i + 1, rate=RATE), tcpflow.Both(s, 2 * i + 1, 2 * i, rate=RATE))
                for i, (c, s) in enumerate(conns)]
        was = self.all_fast(p, SESSIONS)
        udp.run()
        for _ in range(KILLS):
            before = self.tcp_sessions(p)
            self.kill(p)
            at = [e.receiver.received for pair in ends for e in pair]
            # Nobody is there, and all continue.
            self.assertTrue(l7test.wait_for(lambda: all(e.receiver.received > n + (RATE >> 3) for e, n in zip(
                [e for pair in ends for e in pair], at)), l7net.WAIT), "streams stand still while there is no daemon")
            p = self.start(**kw)
            answer = self.adopted(p)
            self.assertEqual((answer["sessions"], answer["removed"]), (SESSIONS + UDP_SESSIONS, 0), answer)
            after = self.all_fast(p, SESSIONS)
            self.stats_go_on(before, after, was)
            at = [e.receiver.received for pair in ends for e in pair]
            self.assertTrue(l7test.wait_for(lambda: all(e.receiver.received > n + (RATE >> 3) for e, n in zip(
                [e for pair in ends for e in pair], at)), l7net.WAIT), "streams stand still")
        slow = {name: s["stats"]["ingress"]["slow"] for name, s in self.tcp_sessions(p).items()}
        self.assertEqual(slow, {name: s["stats"]["ingress"]["slow"] for name, s in was.items()})
        self.assertEqual((udp.pause(), udp.moved, udp.twice), ((0, 0), 0, 0))
        self.finish(ends)
        self.assertTrue(l7test.wait_for(lambda: not self.tcp_sessions(p), l7net.WAIT), self.tcp_sessions(p))
        self.log_has_each_byte(log, ends)
        self.assertEqual([r.close() for r in resets], [[], []])
        p.stop()
        self.nothing_left()


class Session(Base):
    def restart(self, c, s, was, **kw):
        """The next daemon, which has the session, in the kernel."""
        q = self.start(**kw)
        answer = self.adopted(q)
        self.assertEqual((answer["sessions"], answer["removed"]), (1, 0), answer)
        self.assertEqual(list(self.tcp_sessions(q)), [was["name"]])
        return q

    def ends(self, q, c, s):
        """It ends in order, and nothing is left."""
        self.assertEqual((c.recv(1), s.recv(1)), (b"", b""))
        for sock in (c, s):
            sock.close()
        self.assertTrue(l7test.wait_for(lambda: not self.tcp_sessions(q), l7net.WAIT), self.tcp_sessions(q))
        self.no_pairs(q)
        q.stop()
        self.nothing_left()

    def test_delete(self):
        """DELETE ends both peers in order, after what they have sent, IPv4 and IPv6"""
        for v6 in (False, True) if l7test.FULL else (True,):
            with self.subTest(v6=v6):
                resets = [Resets(self.a), Resets(self.b)]
                c, s, was = self.killed_tcp(v6)
                q = self.restart(c, s, was)
                self.echo(c, s)
                self.assertEqual(q.api.delete(f"/sessions/{was['name']}")[0], 200)
                self.ends(q, c, s)
                self.assertEqual([r.close() for r in resets], [[], []])

    def test_back_and_forth(self):
        """a session that was taken over leaves the kernel, relays in user space, and goes in again"""
        c, s, was = self.killed_tcp()
        q = self.restart(c, s, was)
        q.api.post("/admin", {"admin": {"offload_tcp": {"enabled": False}}})
        self.assertTrue(l7test.wait_for(lambda: self.tcp_sessions(q)[was["name"]]["offload"]["state"] == "slow", l7net.WAIT))
        self.echo(c, s, b"y" * 100000)
        q.api.post("/admin", {"admin": {"offload_tcp": {"enabled": True, "after_bytes": 0}}})
        self.all_fast(q, 1, lambda: self.echo(c, s))
        s.sendall(b"last")
        s.close()
        self.assertEqual(tcpflow.exactly(c, 5), b"last")
        c.close()
        self.assertTrue(l7test.wait_for(lambda: not self.tcp_sessions(q), l7net.WAIT), self.tcp_sessions(q))
        self.no_pairs(q)
        q.stop()

    @unittest.skipUnless(l7test.FULL, "make test-full: takes many seconds")
    def test_half_closed(self):
        """one direction has ended, before or while there was no daemon: the other one continues, then the session ends"""
        for when in ("before", "meanwhile"):
            with self.subTest(when=when):
                p = self.start()
                c, s = self.connect()
                self.all_fast(p, 1, lambda: self.echo(c, s))
                was = next(iter(self.tcp_sessions(p).values()))
                if when == "before":
                    c.shutdown(socket.SHUT_WR)
                    self.assertEqual(s.recv(1), b"")
                self.kill(p)
                if when == "meanwhile":
                    c.shutdown(socket.SHUT_WR)
                    self.assertEqual(s.recv(1), b"")
                q = self.restart(c, s, was)
                s.sendall(b"more")
                self.assertEqual(tcpflow.exactly(c, 4), b"more")
                s.close()
                self.assertEqual(c.recv(1), b"")
                c.close()
                self.assertTrue(l7test.wait_for(lambda: not self.tcp_sessions(q), l7net.WAIT), self.tcp_sessions(q))
                self.no_pairs(q)
                q.stop()

    @unittest.skipUnless(l7test.FULL, "make test-full: takes many seconds")
    def test_ended_meanwhile(self):
        """the connections ended while there was no daemon, or were reset: so does the session"""
        for end in (socket.socket.close, tcpflow.reset):
            with self.subTest(end=end.__name__):
                log = pathlib.Path(f"/tmp/l7mp-{self.instance}.log")
                self.addCleanup(log.unlink, missing_ok=True)
                kw = {"admin": {"access_log_path": str(log)}}
                c, s, was = self.killed_tcp(**kw)
                c.sendall(b"the last of it")
                end(c)
                try:
                    self.assertEqual(tcpflow.exactly(s, 14), b"the last of it")
                    self.assertEqual(s.recv(1), b"")
                except ConnectionResetError:
                    self.assertEqual(end, tcpflow.reset)
                s.close()
                with self.start(**kw) as q:
                    self.assertEqual(self.adopted(q)["sessions"], 1)
                    self.assertTrue(l7test.wait_for(lambda q=q: not self.tcp_sessions(q), l7net.WAIT), self.tcp_sessions(q))
                    self.no_pairs(q)
                    lines = [json.loads(line) for line in log.read_text().splitlines()]
                    line = next(x for x in lines if x["source"]["listener"] == "tcp")
                    self.assertEqual(line["ingress"]["bytes"], was["stats"]["ingress"]["bytes"] + 14)
                    self.assertEqual(line["reason"], "end of stream" if end == socket.socket.close else "connection reset")
                self.nothing_left()
                log.unlink()

    @unittest.skipUnless(l7test.FULL, "make test-full: takes many seconds")
    def test_lingers(self):
        """a session that had ended shortly before the kill is not missed"""
        p = self.start()
        c, s = self.connect()
        self.all_fast(p, 1, lambda: self.echo(c, s))
        c.close()
        self.assertEqual(s.recv(1), b"")
        s.close()
        self.assertTrue(l7test.wait_for(lambda: not self.tcp_sessions(p), l7net.WAIT))
        there = json.loads(l7net.sh("bpftool", "-j", "map", "dump", "pinned", str(self.pins / "flows4")))
        self.kill(p)
        if not there:
            self.skipTest("this machine is too busy: the flows were gone already")
        with self.start() as q:
            answer = self.adopted(q)
            self.assertEqual((answer["sessions"], answer["removed"]), (0, 0), answer)
            self.no_pairs(q)
        self.nothing_left()

    def test_on_its_way_back(self):
        """killed in STOP: the next daemon has the session in user space, and no byte is missing"""
        p = self.start()
        c, s = self.connect()
        self.all_fast(p, 1, lambda: self.echo(c, s))
        was = next(iter(self.tcp_sessions(p).values()))
        # The server's host acknowledges nothing for a while, so that STOP lasts. (Its link stays up: without carrier
        # the session would leave the kernel before the data are sent.)
        self.b.run("ip route add blackhole 10.9.2.1/32")
        c.sendall(b"in flight")
        p.api.post("/admin", {"admin": {"offload_tcp": {"enabled": False}}})
        phase = l7test.wait_for(lambda: next(iter(self.tcp_sessions(p).values()))["offload"]["directions"][0].get("phase") == "stop",
                                l7net.WAIT)
        self.kill(p)
        self.b.run("ip route del blackhole 10.9.2.1/32")
        self.assertTrue(phase)
        q = self.restart(c, s, was)
        self.assertEqual(tcpflow.exactly(s, 9), b"in flight")
        self.all_fast(q, 1, lambda: self.echo(c, s))
        q.api.delete(f"/sessions/{was['name']}")
        self.ends(q, c, s)

    @unittest.skipUnless(l7test.FULL, "make test-full: takes many seconds")
    def test_twice(self):
        """a failed start, one with init, one with no_init, one with init: all have it"""
        c, s, was = self.killed_tcp()
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("10.9.1.1", 9100))
            other.listen()
            path = pathlib.Path(f"/tmp/l7mp-{self.instance}.json")
            path.write_text(json.dumps(self.config()))
            self.addCleanup(path.unlink)
            self.assertEqual(l7test.run_proxy("-c", str(path))[0], 1)
        self.echo(c, s)
        q = self.restart(c, s, was)
        self.echo(c, s)
        self.kill(q)
        self.echo(c, s)
        q = self.restart(c, s, was, admin={"offload": "no_init"})
        self.echo(c, s)
        self.assertEqual(self.tcp_sessions(q)[was["name"]]["offload"]["state"], "fast", self.tcp_sessions(q))
        self.kill(q)
        self.echo(c, s)
        q = self.restart(c, s, was)
        self.echo(c, s)
        q.api.delete(f"/sessions/{was['name']}")
        self.ends(q, c, s)

    @unittest.skipUnless(l7test.FULL, "make test-full: takes many seconds")
    def test_not_wanted_in_the_kernel(self):
        """offload: never by now, TCP is not to be offloaded, or an interface is not served: it continues in user space"""
        for kw in ({"tcp_route": {"offload": "never"}}, {"tcp_admin": {"enabled": False}}, {"admin": {"offload_ifs": "legA"}}):
            with self.subTest(**kw):
                resets = [Resets(self.a), Resets(self.b)]
                c, s, was = self.killed_tcp()
                q = self.restart(c, s, was, **kw)
                self.assertTrue(l7test.wait_for(lambda q=q, was=was: self.tcp_sessions(q)[was["name"]]["offload"]["state"] == "slow",
                                                l7net.WAIT), self.tcp_sessions(q))
                self.echo(c, s)
                self.no_flows(q)
                q.api.delete(f"/sessions/{was['name']}")
                self.ends(q, c, s)
                self.assertEqual([r.close() for r in resets], [[], []])

    def no_flows(self, q):
        self.assertTrue(l7test.wait_for(lambda: not q.api.get("/offload/flows")[1], l7net.WAIT), q.api.get("/offload/flows")[1])


class Refused(Base):
    def check_reset(self, reason, c, s, **kw):
        """Both peers are told, and not by silence, though they send nothing."""
        resets = [Resets(self.a), Resets(self.b)]
        with self.start(**kw) as q:
            answer = self.adopted(q)
            self.assertEqual((answer["sessions"], answer["removed"]), (0, 1), answer)
            self.assertRegex(answer["removals"][0]["reason"], reason)
            self.assertRegex(q.stderr(), reason)
            for sock in (c, s):
                with self.assertRaises(ConnectionResetError):
                    sock.recv(1)
                sock.close()
            self.no_pairs(q)
        self.nothing_left()
        self.assertTrue(all(r.close() for r in resets))

    def test_what_the_config_does_not_allow(self):
        """no such listener, another address, another port, no rule, another endpoint"""
        for reason, kw in (
                ("there is no listener 'tcp'", {"tcp": {"name": "other"}}),
                ("does not listen on 10.9.1.1:9100|address", {"listen": {"port": 9109}}),
                ("no rule of .* matches", {"tcp": {"rules": [{"match": {"op": "test", "path": "/IP/src_addr", "value": "10.9.1.3"},
                                                             "action": {"route": {"destination": "upstream"}}}]}}),
                ("no endpoint of cluster .* has the address", {"to": "10.9.2.99"}))[0 if l7test.FULL else -1:]:
            with self.subTest(reason=reason):
                c, s, _ = self.killed_tcp()
                self.check_reset(reason, c, s, **kw)

    def test_record_is_gone(self):
        """without its record a session is not known"""
        c, s, _ = self.killed_tcp()
        pin = str(self.pins / "sessions")
        entry = json.loads(l7net.sh("bpftool", "-j", "map", "dump", "pinned", pin))[0]
        l7net.sh("bpftool", "map", "delete", "pinned", pin, "key", *entry["key"])
        self.check_reset("record is missing", c, s)

    @unittest.skipUnless(l7test.FULL, "make test-full: takes many seconds")
    def test_busy(self):
        """streams in full flow are reset, too"""
        p = self.start()
        c, s = self.connect()
        ends = [tcpflow.Both(c, 0, 1), tcpflow.Both(s, 1, 0)]
        self.all_fast(p, 1)
        self.kill(p)
        with self.start(tcp={"name": "other"}) as q:
            for e in ends:
                for t in (e.sender, e.receiver):
                    t.join(4 * l7net.WAIT)
                    self.assertFalse(t.is_alive(), "hangs")
                self.assertTrue(e.sender.error or e.receiver.error)
                self.assertIsNone(e.receiver.wrong)
            self.no_pairs(q)


if __name__ == "__main__":
    l7test.main()
