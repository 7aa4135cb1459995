#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""UDP for media: peers are learnt on both sides (latch), ports come from a range, RTP and RTCP have a pair of them."""
import copy
import os
import signal
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402
from l7test import udp_socket, wait_for  # noqa: E402


def listener(name, port, spec_options=None, target=16000, **more):
    return {"name": name, "spec": {"protocol": "UDP", "address": "127.0.0.1", "port": port, "options": spec_options or {}},
            "rules": [{"action": {"route": {"destination": {"spec": {"protocol": "UDP", "port": target},
                                                            "endpoints": [{"spec": {"address": "127.0.0.1"}}]}}}}], **more}


class Base(unittest.TestCase):
    listeners = []

    def setUp(self):
        self.proxy = l7test.Proxy({"listeners": [l7test.controller(), *copy.deepcopy(self.listeners)]}, "-l", "info")
        self.api = self.proxy.api
        self.rtp, self.rtcp = udp_socket(16000), udp_socket(16001)
        self.addCleanup(self.rtp.close)
        self.addCleanup(self.rtcp.close)

    def tearDown(self):
        self.proxy.stop()

    def socket(self, port=0):
        s = udp_socket(port)
        self.addCleanup(s.close)
        return s

    def port(self, name):
        return self.api.get(f"/listeners/{name}")[1]["spec"]["port"]


class Latch(Base):
    listeners = [listener("strict", 15000, {"latch": True}), listener("window", 15001, {"latch": {"window": 3600}}),
                 listener("short", 15002, {"latch": True}, options={"idle_timeout": 0.5})]

    def test_strict_source(self):
        """the first source is the peer; datagrams of others reach nobody, and get no answers"""
        first, second = self.socket(), self.socket()
        first.sendto(b"a", ("127.0.0.1", 15000))
        data, upstream = self.rtp.recvfrom(100)
        self.assertEqual(data, b"a")
        for i in range(10):
            second.sendto(b"evil", ("127.0.0.1", 15000))
        first.sendto(b"b", ("127.0.0.1", 15000))
        self.assertEqual(self.rtp.recv(100), b"b")
        self.rtp.sendto(b"answer", upstream)
        self.assertEqual(first.recv(100), b"answer")
        second.setblocking(False)
        with self.assertRaises(BlockingIOError):
            second.recv(100)
        self.assertEqual(len([s for s in self.api.get("/sessions")[1] if "UDP" in s["metadata"]]), 1)

    def test_strict_at_once(self):
        """the same when both write before the proxy reads"""
        first, second = self.socket(), self.socket()
        os.kill(self.proxy.pid, signal.SIGSTOP)
        first.sendto(b"a", ("127.0.0.1", 15000))
        for _ in range(5):
            second.sendto(b"evil", ("127.0.0.1", 15000))
        first.sendto(b"b", ("127.0.0.1", 15000))
        os.kill(self.proxy.pid, signal.SIGCONT)
        self.assertEqual([self.rtp.recv(100) for _ in range(2)], [b"a", b"b"])

    def test_window(self):
        """within the window another source becomes the peer of the same session, which keeps its upstream port"""
        first, second = self.socket(), self.socket()
        first.sendto(b"a", ("127.0.0.1", 15001))
        data, upstream = self.rtp.recvfrom(100)
        second.sendto(b"b", ("127.0.0.1", 15001))
        data, again = self.rtp.recvfrom(100)
        self.assertEqual((data, again), (b"b", upstream))
        self.rtp.sendto(b"answer", upstream)
        self.assertEqual(second.recv(100), b"answer")
        session = next(s for s in self.api.get("/sessions")[1] if "UDP" in s["metadata"])
        self.assertIn("LATCHED", [e["status"] if "status" in e else e.get("event") for e in session["events"]], session["events"])

    def test_idle(self):
        """after the idle time-out the next source begins a session of its own"""
        first, second = self.socket(), self.socket()
        first.sendto(b"a", ("127.0.0.1", 15002))
        self.assertEqual(self.rtp.recv(100), b"a")

        def taken():
            second.sendto(b"b", ("127.0.0.1", 15002))
            self.rtp.settimeout(0.1)
            try:
                return self.rtp.recv(100) == b"b"
            except TimeoutError:
                return False
        wait_for(taken)


def destination(name, port, latch, target=16000, host="127.0.0.1", address="127.0.0.1", **spec_options):
    """A listener whose endpoint is learnt."""
    got = listener(name, port, spec_options, target)
    got["spec"]["address"] = address
    cluster = got["rules"][0]["action"]["route"]["destination"]
    cluster["spec"]["options"] = {"latch": latch}
    cluster["endpoints"][0]["spec"]["address"] = host
    return got


class LatchOfDestination(Base):
    listeners = [destination("strict", 15030, True), destination("window", 15031, {"window": 3600}),
                 destination("port", 15032, {"same_address": True}), destination("pair", 15034, True, rtcp=True),
                 destination("six", 15036, True, host="::1", address="::1")]

    def call(self, port, endpoint=None, client=None, address="127.0.0.1"):
        """A session with its first datagram: (caller, where the endpoint has to send to)."""
        client = client or self.socket()
        client.sendto(b"a", (address, port))
        data, upstream = (endpoint or self.rtp).recvfrom(100)
        self.assertEqual(data, b"a")
        return client, upstream

    def both_ways(self, client, port, endpoint, upstream, address="127.0.0.1"):
        endpoint.sendto(b"from", upstream)
        self.assertEqual(client.recv(100), b"from")
        client.sendto(b"to", (address, port))
        self.assertEqual(endpoint.recv(100), b"to")

    def session(self):
        return next(s for s in self.api.get("/sessions")[1] if "UDP" in s["metadata"])

    def test_learnt(self):
        """who writes first is the peer, and shown; others are dropped and counted, also the endpoint's own address"""
        client, upstream = self.call(15030)
        s = self.session()["destination"]
        self.assertEqual((s["peer"], s["local"]), ("127.0.0.1:16000", f"0.0.0.0:{upstream[1]}"))
        nat, other = udp_socket(0, "127.0.0.7"), self.socket()
        self.addCleanup(nat.close)
        self.both_ways(client, 15030, nat, upstream)
        s = self.session()
        self.assertEqual((s["destination"]["peer"], s["destination"]["local"]),
                         (f"127.0.0.7:{nat.getsockname()[1]}", f"127.0.0.1:{upstream[1]}"))
        self.assertEqual(s["destination"]["endpoint"]["spec"]["address"], "127.0.0.1")
        self.assertEqual(s["source"]["peer"], f"127.0.0.1:{client.getsockname()[1]}")
        event = next(e for e in s["events"] if e["event"] == "LATCHED")
        self.assertEqual((event["message"], event["content"]["stage"]), (s["destination"]["peer"], "destination"))
        for _ in range(5):
            other.sendto(b"evil", upstream)
            self.rtp.sendto(b"late", upstream)
        self.both_ways(client, 15030, nat, upstream)
        client.setblocking(False)
        self.assertRaises(BlockingIOError, client.recv, 100)

    def test_window(self):
        """within the window another source takes over, and the endpoint's own address ends that"""
        client, upstream = self.call(15031)
        first, second = self.socket(), self.socket()
        for s in (first, second, first, self.rtp):
            self.both_ways(client, 15031, s, upstream)
        second.sendto(b"evil", upstream)
        self.both_ways(client, 15031, self.rtp, upstream)

    def test_same_address(self):
        """only another port of the endpoint's address"""
        client, upstream = self.call(15032)
        with udp_socket(0, "127.0.0.7") as other:
            other.sendto(b"evil", upstream)
        self.both_ways(client, 15032, self.socket(), upstream)

    def test_pair(self):
        """RTP and RTCP are learnt each for itself: NAT gives each another port"""
        client, upstream = self.call(15034)
        control, upstream_rtcp = self.call(15035, self.rtcp)
        nat, nat_rtcp = self.socket(), self.socket()
        self.both_ways(client, 15034, nat, upstream)
        self.both_ways(control, 15035, nat_rtcp, upstream_rtcp)
        self.both_ways(client, 15034, nat, upstream)

    def test_ipv6(self):
        """the same over IPv6"""
        endpoint, client, nat = udp_socket(16000, "::1"), udp_socket(0, "::1"), udp_socket(0, "::1")
        for s in (endpoint, client, nat):
            self.addCleanup(s.close)
        _, upstream = self.call(15036, endpoint, client, "::1")
        self.both_ways(client, 15036, nat, upstream[:2], "::1")

    def test_refused(self):
        """what can't be: with a name that is followed; and what is no key"""
        bad = destination("bad", 15040, True)
        bad["rules"][0]["action"]["route"]["destination"]["spec"]["options"]["dns_refresh"] = 5
        status, answer = self.api.post("/listeners", {"listener": bad})
        self.assertEqual(status, 422, answer)
        self.assertIn("options.latch", answer["message"])
        for latch in ({"window": -1}, 3, {"same_address": 1}, {"timeout": -1}):
            self.assertEqual(self.api.post("/listeners", {"listener": destination("bad", 15040, latch)})[0], 422, latch)


class Pairs(Base):
    listeners = [listener("pair", 15010, {"rtcp": True})]

    def test_pair(self):
        """what comes to the next port goes to the endpoint's next port, and back; each has a session"""
        client, control = self.socket(), self.socket()
        client.sendto(b"rtp", ("127.0.0.1", 15010))
        control.sendto(b"rtcp", ("127.0.0.1", 15011))
        self.assertEqual(self.rtp.recv(100), b"rtp")
        data, upstream = self.rtcp.recvfrom(100)
        self.assertEqual(data, b"rtcp")
        self.rtcp.sendto(b"report", upstream)
        self.assertEqual(control.recvfrom(100), (b"report", ("127.0.0.1", 15011)))
        sessions = [s for s in self.api.get("/sessions")[1] if "UDP" in s["metadata"]]
        self.assertEqual(sorted(s["metadata"]["UDP"].get("rtcp", False) for s in sessions), [False, True])

    def test_replaced(self):
        """a new version of the listener keeps both sockets and their sessions; deleted, both ports are free"""
        client = self.socket()
        for port, end in ((15010, self.rtp), (15011, self.rtcp)):
            client.sendto(b"x", ("127.0.0.1", port))
            self.assertEqual(end.recv(100), b"x")
        new = listener("pair", 15010, {"rtcp": True}, options={"track": 1})
        self.assertEqual(self.api.put("/listeners/pair", {"listener": new})[0], 200)
        for port, end in ((15010, self.rtp), (15011, self.rtcp)):
            client.sendto(b"y", ("127.0.0.1", port))
            self.assertEqual(end.recv(100), b"y")
        self.assertEqual(len([s for s in self.api.get("/sessions")[1] if "UDP" in s["metadata"]]), 2)
        self.assertEqual(self.api.delete("/listeners/pair?recursive=true")[0], 200)

        def free():
            try:
                self.socket(15010).close()
                self.socket(15011).close()
            except OSError:
                return False
            return True
        wait_for(free)

    def test_taken(self):
        """without both ports there is neither, and the message names the one that is taken"""
        with udp_socket(15021):
            status, answer = self.api.post("/listeners", {"listener": listener("other", 15020, {"rtcp": True})})
            self.assertEqual(status, 400, answer)
            self.assertIn("15021", answer["message"])
            self.socket(15020)
        status, answer = self.api.post("/listeners", {"listener": listener("last", 65535, {"rtcp": True})})
        self.assertEqual(status, 400, answer)


class Ranges(Base):
    def add(self, name, port, **options):
        return self.api.post("/listeners", {"listener": listener(name, port, options)})

    def test_range(self):
        """each listener gets a free port of the range; when none is left, that is the answer; a deleted one is used again"""
        blocker = self.socket(15103)
        got = set()
        for i in range(5):
            status, answer = self.add(f"r{i}", "15100-15105")
            self.assertEqual(status, 200, answer)
            got.add(self.port(f"r{i}"))
        self.assertEqual(got, {15100, 15101, 15102, 15104, 15105})
        status, answer = self.add("more", "15100-15105")
        self.assertEqual(status, 400)
        self.assertIn("15100-15105", answer["message"])
        gone = self.port("r2")
        self.assertEqual(self.api.delete("/listeners/r2")[0], 200)
        self.assertEqual(self.add("more", "15100-15105")[0], 200)
        self.assertEqual(self.port("more"), gone)
        blocker.close()

    def test_pairs_of_range(self):
        """RTP gets an even port, RTCP the next one"""
        self.socket(15201)
        for i in range(2):
            self.assertEqual(self.add(f"p{i}", "15199-15205", rtcp=True)[0], 200)
        self.assertEqual({self.port("p0"), self.port("p1")}, {15202, 15204})
        self.assertEqual(self.add("p2", "15199-15205", rtcp=True)[0], 400)
        self.assertEqual(self.add("any", 0, rtcp=True)[0], 200)
        self.assertEqual(self.port("any") % 2, 0)
        client = self.socket()
        client.sendto(b"x", ("127.0.0.1", self.port("any") + 1))
        self.assertEqual(self.rtcp.recv(10), b"x")

    def test_replaced(self):
        """what GET shows, put back, changes nothing; a changed listener keeps its port"""
        self.assertEqual(self.add("a", "15300-15399", rtcp=True)[0], 200)
        port = self.port("a")
        shown = self.api.get("/listeners/a")[1]
        etag = self.api.get("/config")[1]
        self.assertEqual(self.api.put("/listeners/a", {"listener": shown})[0], 200)
        self.assertEqual(self.api.get("/config")[1]["listeners"], etag["listeners"])
        self.assertEqual(next(x for x in etag["listeners"] if x["name"] == "a")["spec"]["port"], "15300-15399")
        new = listener("a", "15300-15399", {"rtcp": True}, options={"track": 1})
        self.assertEqual(self.api.put("/listeners/a", {"listener": new})[0], 200)
        self.assertEqual(self.port("a"), port)

    def test_refused(self):
        """what is no range is refused with the place"""
        for bad in ("15000", "2-1", "0-5", "1-65536", "-1-5", "1-2-3", "a-b", "1 -2", ""):
            status, answer = self.add("bad", bad)
            self.assertEqual(status, 422, (bad, answer))
            self.assertIn("listener.spec.port", answer["message"])
        status, answer = self.add("bad", 15400, latch=True, mode="server")
        self.assertEqual(status, 422)
        self.assertIn("latch", answer["message"])


if __name__ == "__main__":
    l7test.main()
