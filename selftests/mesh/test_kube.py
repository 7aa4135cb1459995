#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: long
"""The operator against an API server that misbehaves: after each fault the proxies have what the objects say."""
import json
import os
import sys
import threading
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import kube_api  # noqa: E402
import l7test  # noqa: E402
from kube_api import pod, target, vsvc  # noqa: E402
from l7test import wait_for  # noqa: E402
from mesh import MeshProxy, Operator  # noqa: E402

ADDRESS = "127.0.1.1"
GW = {"app": "gw"}


class Base(unittest.TestCase):
    def setUp(self):
        self.api = kube_api.KubeApi()
        self.addCleanup(self.api.stop)
        self.proxy = MeshProxy(ADDRESS)
        self.addCleanup(self.proxy.stop)
        self.api.apply(pod("p1", ADDRESS, GW))
        self.operators = []

    def operator(self, *args, **kw):
        o = Operator(*args, **kw)
        self.operators.append(o)
        self.addCleanup(o.stop)
        return o

    def has(self, *names, proxy=None):
        want = sorted(names)
        self.assertTrue(wait_for(lambda: (proxy or self.proxy).names() == want),
                        f"expected {want}, got {(proxy or self.proxy).names()}\n{self.operators[-1].stderr()[-3000:]}")

    def programmed(self, kind, name):
        self.assertTrue(wait_for(lambda: self.api.condition(kind, name, "Programmed").get("status") == "True"),
                        f"{self.api.get(kind, name)}\n{self.operators[-1].stderr()[-3000:]}")


class Normal(Base):
    def test_life(self):
        """objects come, change and go; statuses say so, once"""
        self.api.apply(target("a", GW))
        o = self.operator().ready()
        self.has("a")
        self.programmed("Target", "a")
        self.api.apply(target("b", GW))
        self.api.apply(vsvc("v", GW, 15000, "b"))
        self.has("a", "b")
        self.programmed("VirtualService", "v")
        self.assertEqual(self.api.get("VirtualService", "v")["status"]["proxies"], "1/1")
        self.assertEqual(self.proxy.names("listeners"), ["v"])
        with l7test.udp_socket() as s, l7test.udp_socket(16000) as echo:
            s.sendto(b"ping", ("127.0.0.1", 15000))
            self.assertEqual(echo.recvfrom(100)[0], b"ping")
        writes = o.metric("status_writes_total")
        posts = o.metric("proxy_posts_total")
        # What does not matter is not written: neither to the proxy nor to the API server.
        self.api.apply(pod("p1", ADDRESS, GW, annotations={"seen": "1"}))
        self.api.apply({"kind": "Service", "metadata": {"name": "other"}, "spec": {"ports": [{"port": 1}]}})
        self.assertTrue(wait_for(lambda: o.metric("watch_events_total", kind="Service") == 1))
        self.api.apply(target("a", GW, port=16001))
        self.assertTrue(wait_for(lambda: self.api.condition("Target", "a", "Programmed").get("observedGeneration") == 2))
        self.programmed("Target", "a")
        self.assertEqual(o.metric("proxy_posts_total"), posts + 1)
        self.assertLessEqual(o.metric("status_writes_total"), writes + 2)
        self.api.delete("VirtualService", "v")
        self.api.delete("Target", "b")
        self.has("a")
        self.assertEqual(self.proxy.names("listeners"), [])
        self.assertEqual(o.metric("proxies", state="programmed"), 1)
        self.assertEqual(o.page("/healthz"), (200, "ok\n"))
        self.assertEqual(o.page("/other")[0], 404)

    def test_pages(self):
        """a list of many pages, in which objects vanish between the pages; the token runs out once"""
        for i in range(1203):
            self.api.apply({"kind": "Service", "metadata": {"name": f"s{i}"}, "spec": {"ports": [{"port": 1}]}})
        self.api.apply(target("a", GW))
        late = self.api.fault(r"GET /api/v1/services\?.*continue=", status=410)
        o = self.operator().ready()
        self.has("a")
        self.assertEqual(late.hits, 1)
        self.assertEqual(o.metric("objects", kind="Service"), 1203)
        self.assertGreaterEqual(self.api.count(r"GET /api/v1/services\?limit=500&continue="), 3)

    def test_missing_kinds(self):
        """without the CRDs of the Gateway API, which then come; with one whose kind goes away"""
        gateway = {self.api.resource(k) for k in ("GatewayClass", "Gateway", "ListenerSet", "UDPRoute", "TCPRoute", "ReferenceGrant")}
        self.api.served -= gateway
        self.api.apply(target("a", GW))
        o = self.operator().ready()
        self.has("a")
        self.api.served |= gateway
        self.assertTrue(wait_for(lambda: o.metric("lists_total", kind="UDPRoute") == 1))

    def test_namespaces(self):
        """only some namespaces; Secrets only where they are allowed, and only their names arrive"""
        self.api.apply(target("a", GW))
        self.api.apply(dict(target("far", GW), metadata={"name": "far", "namespace": "other"}))
        self.api.apply({"kind": "Secret", "metadata": {"name": "s"}, "data": {"key": "c2VjcmV0"}})
        self.api.forbidden |= {("", "namespaces"), (kube_api.GATEWAY, "gatewayclasses")}
        o = self.operator("--namespace", "default,third", "--secrets", "default").ready()
        self.has("a")
        self.assertEqual(o.metric("objects", kind="Target"), 1)
        self.assertEqual(o.metric("objects", kind="Secret"), 1)
        self.assertEqual(self.api.count("GET /apis/l7mp.io/v1/targets"), 0)
        self.assertEqual(self.api.count("GET /api/v1/secrets"), 0)


class Watches(Base):
    def setUp(self):
        super().setUp()
        self.api.apply(target("a", GW))
        self.api.apply(target("b", GW))
        self.o = self.operator().ready()
        self.has("a", "b")
        self.assertTrue(wait_for(lambda: self.api.watching("Target") == 1))

    def tearDown(self):
        # In the end the caches are right, whatever was before.
        try:
            self.api.apply(target("last", GW))
            self.has(*(t["metadata"]["name"] for t in self.api.all("Target")))
        finally:
            super().tearDown()

    def test_cut(self):
        """watches that are cut continue where they ended, without another list"""
        for i in range(5):
            self.assertTrue(wait_for(lambda: self.api.watching("Target") == 1))
            self.api.script("Target", ("cut", None))
            self.api.apply(target(f"cut{i}", GW))
            self.assertTrue(wait_for(lambda n=f"cut{i}": n in self.proxy.names()))
        self.assertEqual(self.o.metric("relists_total", kind="Target"), 0)

    def test_half_line(self):
        """half of an event is no event: it comes again"""
        line = json.dumps({"type": "DELETED", "object": self.api.get("Target", "a")}).encode() + b"\n"
        self.api.script("Target", ("raw", line[:len(line) // 2]), ("cut", None))
        self.assertTrue(wait_for(lambda: self.o.metric("watches_total", kind="Target") >= 2))
        self.api.apply(target("c", GW))
        self.has("a", "b", "c")
        self.assertEqual(self.o.metric("relists_total", kind="Target"), 0)

    def test_dribble(self):
        """events in pieces of seven bytes"""
        self.api.dribble = True
        self.api.apply(dict(target("note", GW), metadata={"name": "note", "annotations": {"note": "Käse\n\u2028"}}))
        for i in range(20):
            self.api.apply(target(f"d{i}", GW))
        self.assertTrue(wait_for(lambda: "d19" in self.proxy.names()))

    def test_nonsense(self):
        """lines that are no events are left out, and the watch continues"""
        self.api.script("Target", ("raw", b"this is not JSON\n"), ("raw", b"\n{}\n[1]\n"), ("raw", b'{"type":"WHAT","object":{}}\n'),
                        ("raw", b'{"type":"ADDED","object":{"metadata":{}}}\n'), ("raw", b'{"type":"ADDED"}\n'))
        self.assertTrue(wait_for(lambda: (self.o.metric("bad_objects_total", kind="Target") or 0) >= 5))
        self.api.apply(target("c", GW))
        self.has("a", "b", "c")

    def test_compaction(self):
        """410 to a watch: what was deleted meanwhile is found by another list"""
        compacted = threading.Event()
        self.api.fault(r"targets\?watch", times=1, wait=compacted)
        self.api.script("Target", ("cut", None))
        self.api.silently("Target", "a")
        self.api.compact()
        compacted.set()
        self.has("b")
        self.assertTrue(wait_for(lambda: self.o.metric("relists_total", kind="Target") == 1))

    def test_error_event(self):
        """an event ERROR lists again, whatever its code"""
        for code in (410, 500):
            lists = self.o.metric("relists_total", kind="Target")
            self.assertTrue(wait_for(lambda: self.api.watching("Target") == 1))
            self.api.silently("Target", "a" if code == 410 else "b")
            self.api.script("Target", ("raw", json.dumps({"type": "ERROR", "object": {
                "kind": "Status", "code": code, "message": "scripted"}}).encode() + b"\n"))
            self.assertTrue(wait_for(lambda n=lists: self.o.metric("relists_total", kind="Target") > n))
        self.has()

    def test_bookmarks(self):
        """a watch continues from the last bookmark: what was compacted before does not matter"""
        self.api.bookmark_seconds = 0.1
        self.api.script("Target", ("cut", None))
        self.assertTrue(wait_for(lambda: (self.o.metric("watch_bookmarks_total", kind="Target") or 0) >= 2))
        for i in range(30):
            self.api.apply({"kind": "Event", "metadata": {"name": f"e{i}"}})
        seen = self.o.metric("watch_bookmarks_total", kind="Target")
        self.assertTrue(wait_for(lambda: self.o.metric("watch_bookmarks_total", kind="Target") >= seen + 3))
        with self.api.lock:
            self.api.compacted = self.api.version - 5
        self.api.script("Target", ("cut", None))
        self.api.apply(target("c", GW))
        self.has("a", "b", "c")
        self.assertEqual(self.o.metric("relists_total", kind="Target"), 0)

    def test_ends(self):
        """watches that end by their time-out continue"""
        self.api.watch_seconds = 0.2
        self.api.script("Target", ("cut", None))
        for i in range(8):
            self.api.apply(target(f"e{i}", GW))
            self.assertTrue(wait_for(lambda n=f"e{i}": n in self.proxy.names()))
        self.assertEqual(self.o.metric("relists_total", kind="Target"), 0)


class Answers(Base):
    def test_errors(self):
        """429 with Retry-After, 500, answers that are cut off or slow, while it starts"""
        self.api.apply(target("a", GW))
        faults = [self.api.fault(r"GET /api/v1/pods\?limit", status=429, headers={"Retry-After": "1"}),
                  self.api.fault(r"GET /api/v1/pods\?watch", status=429, headers={"Retry-After": "1"}),
                  self.api.fault(r"GET .*targets\?limit", times=2, status=500),
                  self.api.fault(r"GET .*targets\?limit", times=2, cut=30),
                  self.api.fault(r"GET .*rules\?limit", times=1, slow=1),
                  self.api.fault(r"PATCH", times=2, status=500),
                  self.api.fault(r"GET /api/v1/namespaces/default/pods/p1", times=2, status=500)]
        self.operator().ready()
        self.has("a")
        self.programmed("Target", "a")
        for f in faults:
            self.assertEqual(f.left, 0, f.what)

    def test_conflicts(self):
        """a status of an object that has changed meanwhile is written for the new one"""
        self.api.apply(target("a", GW))
        late = self.api.fault(r"PATCH .*/targets/a/status", times=3, status=409)
        o = self.operator().ready()
        for i in range(5):
            self.api.apply(target("a", GW, port=16001 + i))
            wait_for(lambda n=i + 1: late.hits >= min(n, 3))
        self.assertTrue(wait_for(lambda: self.api.condition("Target", "a", "Programmed").get("observedGeneration") == 6))
        self.programmed("Target", "a")
        self.assertGreaterEqual(o.metric("status_conflicts_total"), 1)

    def test_huge(self):
        """a huge object is left out and said to be, in a list and in a watch; its neighbours are not"""
        huge, big = target("huge", GW, note="y" * 3_000_000), target("big", GW, note="y" * 1_500_000)
        for o in (target("a", GW), huge, big, target("z", GW)):
            self.api.apply(o)
        o = self.operator().ready()
        self.has("a", "z")
        self.assertTrue(wait_for(lambda: {e["regarding"]["name"] for e in self.api.all("Event")} >= {"huge", "big"}),
                        f"{self.api.all('Event')} {o.stderr()}")
        for name in ("huge", "big"):
            self.assertTrue(wait_for(lambda n=name: self.api.condition("Target", n, "Accepted").get("status") == "False"))
        # One that was small, and becomes huge.
        self.api.apply(target("a", GW, note="y" * 3_000_000))
        self.has("z")
        self.assertTrue(wait_for(lambda: self.api.condition("Target", "a", "Accepted").get("reason") == "TooLarge"))
        self.api.apply(target("a", GW))
        self.programmed("Target", "a")
        self.assertEqual(self.api.condition("Target", "a", "Accepted")["status"], "True")
        self.api.delete("Target", "huge")
        self.has("a", "z")
        self.assertTrue(wait_for(lambda: o.metric("objects", kind="Target") == 3))

    def test_gone_and_back(self):
        """the API server goes away and comes back: what changed meanwhile is there soon, the proxy never noticed"""
        self.api.apply(target("a", GW))
        self.api.apply(vsvc("v", GW, 15000, "a"))
        o = self.operator().ready()
        self.programmed("VirtualService", "v")
        posts = o.metric("proxy_posts_total")
        self.api.stop()
        with l7test.udp_socket() as s, l7test.udp_socket(16000) as echo:
            self.assertTrue(wait_for(lambda: (o.metric("watch_errors_total", kind="Target") or 0) >= 3))
            s.sendto(b"still", ("127.0.0.1", 15000))
            self.assertEqual(echo.recvfrom(100)[0], b"still")
        self.assertEqual(o.metric("proxy_posts_total"), posts)
        self.api.delete("Target", "nothing")
        self.api.apply(target("b", GW))
        self.api.start()
        self.has("a", "b")
        self.programmed("Target", "b")


class Events(Base):
    def test_events(self):
        """an object that makes no sense gets a condition and one event, however often it is seen"""
        bad = target("bad", GW)
        bad["spec"]["cluster"]["spec"] = {"NoSuchProtocol": {}}
        self.api.apply(target("a", GW))
        self.api.apply(bad)
        o = self.operator().ready()
        self.has("a")
        self.assertTrue(wait_for(lambda: self.api.condition("Target", "bad", "Accepted").get("status") == "False"))
        for i in range(5):
            self.api.apply(target(f"more{i}", GW))
            self.programmed("Target", f"more{i}")
        events = [e for e in self.api.all("Event") if e["regarding"]["name"] == "bad"]
        self.assertEqual(len(events), 1, events)
        self.assertEqual(o.metric("events_repeated_total"), 0)
        self.assertEqual(events[0]["type"], "Warning")
        self.assertEqual(events[0]["regarding"]["uid"], self.api.get("Target", "bad")["metadata"]["uid"])
        self.assertIn("protocol", events[0]["note"])
        self.api.delete("Target", "bad")
        self.api.apply(target("between", GW))
        self.programmed("Target", "between")  # so statuses were computed without the bad one
        self.api.apply(dict(bad, metadata={"name": "bad", "uid": events[0]["regarding"]["uid"]}))
        self.assertTrue(wait_for(lambda: o.metric("events_repeated_total") == 1))


if __name__ == "__main__":
    l7test.main()
