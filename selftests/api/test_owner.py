#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""POST /config?owner=: each owner keeps its own objects beside the others', and inserts rules into their lists; GET /status."""
import copy
import os
import socket
import sys
import time
import threading
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402

ECHO = {"destination": {"spec": {"protocol": "Echo"}}}


def listener(name, port, rules=None):
    return {"name": name, "spec": {"protocol": "TCP", "address": "127.0.0.1", "port": port},
            "rules": rules or [{"action": {"route": ECHO}}]}


STATIC = {
    "listeners": [l7test.controller(), listener("static", 15000, "list")],
    "clusters": [{"name": "shared", "spec": {"protocol": "Echo"}}],
    "rulelists": [{"name": "list", "rules": ["first", "second"]}],
    "rules": [{"name": "first", "match": {"op": "test", "path": "/IP/src_port", "value": 1}, "action": {"route": ECHO}},
              {"name": "second", "action": {"route": ECHO}}],
}
OWN = {"listeners": [listener("mine", 15001)], "clusters": [{"name": "c", "spec": {"protocol": "UDP", "port": 9},
                                                            "endpoints": [{"name": "e", "spec": {"address": "127.0.0.1"}}]}]}


def inserting(*inserts):
    """A document of rules that are inserted: (list, position, rule)."""
    names = sorted({i[2] for i in inserts})
    return {"listeners": [], "rules": [{"name": n, "match": {"op": "test", "path": "/IP/src_port", "value": 2}, "action": {"route": ECHO}}
                                       for n in names],
            "rule_inserts": [{"rulelist": r, "position": p, "rule": n} for r, p, n in inserts]}


class Base(unittest.TestCase):
    def setUp(self):
        self.proxy = l7test.Proxy(copy.deepcopy(STATIC), "-l", "info")
        self.api = self.proxy.api

    def tearDown(self):
        self.proxy.stop()

    def names(self, plural, query=""):
        return [o["name"] for o in self.api.get("/config" + query)[1][plural]]

    def post(self, owner, doc, status=200):
        got, answer = self.api.post(f"/config?owner={owner}", {"config": copy.deepcopy(doc)})
        self.assertEqual(got, status, answer)
        return answer

    def owner(self, name):
        status = self.api.get("/status")[1]
        return next((o for o in status["owners"] if o["name"] == name), None)

    def rules(self, name="list"):
        return self.api.get(f"/rulelists/{name}")[1]["rules"]


class Objects(Base):
    def test_own_objects_only(self):
        """an owner's config adds, changes and deletes its own objects; all others stay"""
        before = self.names("listeners")
        self.post("a", OWN)
        self.post("b", {"listeners": [listener("b", 15002)]})
        self.assertEqual(self.names("listeners"), before + ["mine", "b"])
        self.assertEqual(self.names("listeners", "?owner=a"), ["mine"])
        self.assertIn("c", self.names("clusters", "?owner=a"))
        self.assertEqual(self.names("listeners", "?owner="), before)
        self.assertEqual(self.api.get("/listeners/mine")[1]["owner"], "a")
        self.assertNotIn("owner", self.api.get("/listeners/static")[1])
        self.post("a", {"listeners": [listener("other", 15003)]})
        self.assertEqual(self.names("listeners"), before + ["b", "other"])
        self.assertEqual(self.names("clusters", "?owner=a")[0].startswith("other-"), True)
        self.post("a", {"listeners": []})
        self.post("b", {"listeners": []})
        self.assertEqual(self.names("listeners"), before)
        self.assertIsNone(self.owner("a"))
        self.assertEqual(self.api.get("/config?owner=a")[1]["listeners"], [])

    def test_posted_back(self):
        """what GET /config?owner= shows and the whole GET /config, posted back, change nothing: no session ends, no generation"""
        self.post("a", {**OWN, **inserting(("list", 0, "x")), "listeners": OWN["listeners"]})
        with socket.create_connection(("127.0.0.1", 15001), 30) as s:
            s.settimeout(30)
            s.sendall(b"x")
            self.assertEqual(s.recv(9), b"x")
            before = self.api.get("/status")[1]
            self.post("a", self.api.get("/config?owner=a")[1])
            whole = self.api.get("/config?limit=0")[1]
            self.assertEqual(self.api.post("/config", {"config": whole})[0], 200)
            self.post("", self.api.get("/config?owner=")[1])
            self.assertEqual(self.api.get("/status")[1], before)
            self.assertEqual(self.rules(), ["x", "first", "second"])
            s.sendall(b"y")
            self.assertEqual(s.recv(9), b"y")

    def test_conflicts(self):
        """names and ports of others are 409, and nothing of the document is done; their names may be referred to"""
        self.post("a", OWN)
        for doc in ({"listeners": [listener("static", 15009)]}, {"listeners": [], "clusters": STATIC["clusters"]},
                    {"listeners": [listener("b", 15002)], "clusters": OWN["clusters"]},
                    {"listeners": [], "clusters": [{"name": "new", "spec": {"protocol": "UDP", "port": 1}, "endpoints": [
                        {"name": "e", "spec": {"address": "127.0.0.2"}}]}]},
                    {"listeners": [listener("b", 15000)]}, {"listeners": [listener("b", 15001)]}):
            answer = self.post("b", doc, 409)
            self.assertNotIn("internal", answer["message"])
            self.assertIsNone(self.owner("b"))
        answer = self.post("b", {"listeners": [], "clusters": OWN["clusters"]}, 409)
        self.assertIn('cluster "c" belongs to the owner a', answer["message"])
        self.post("b", {"listeners": [listener("b", 15002, [{"action": {"route": {"destination": "shared"}}}])]})
        with socket.create_connection(("127.0.0.1", 15002), 30) as s:
            s.settimeout(30)
            s.sendall(b"x")
            self.assertEqual(s.recv(9), b"x")

    def test_refused(self):
        """admin, bad owner names, rule_inserts without owner, owner where there is none"""
        self.assertIn("admin", self.post("a", {**OWN, "admin": {"log_level": "warn"}}, 422)["message"])
        self.post("a%20b", OWN, 400)
        self.post("x" * 256, OWN, 400)
        self.assertEqual(self.api.get("/sessions?owner=a")[0], 400)
        status, answer = self.api.post("/config", {"config": {**STATIC, **inserting(("list", 0, "x"))}})
        self.assertEqual(status, 422, answer)
        self.assertIn("rule_inserts", answer["message"])

    def test_many_owners(self):
        """owners are bounded, and the place of one that has nothing any more is free again"""
        for i in range(63):
            self.post(f"o{i}", {"listeners": [], "clusters": [{"name": f"c{i}", "spec": {"protocol": "Echo"}}]})
        self.assertIn("owner", self.post("more", {"listeners": [], "clusters": [{"name": "m", "spec": {"protocol": "Echo"}}]}, 503)["message"])
        self.post("o7", {"listeners": []})
        self.post("more", {"listeners": [], "clusters": [{"name": "m", "spec": {"protocol": "Echo"}}]})
        self.assertEqual(self.api.get("/clusters/m")[1]["owner"], "more")

    def test_single_changes(self):
        """a change of one object keeps its owner; a new endpoint is its cluster's"""
        self.post("a", OWN)
        self.assertEqual(self.api.put("/clusters/c", {"cluster": {**OWN["clusters"][0], "options": {"n": 1}}})[0], 200)
        self.assertEqual(self.api.post("/clusters/c/endpoints", {"endpoint": {"name": "e2", "spec": {"address": "127.0.0.3"}}})[0], 200)
        self.assertEqual(self.api.get("/clusters/c")[1]["owner"], "a")
        self.post("a", OWN)
        self.assertEqual(self.names("endpoints"), ["e"])
        self.assertEqual(self.api.get("/clusters/c")[1]["options"], {})

    def test_reload(self):
        """SIGHUP makes the objects without owner what the file has; the owners' stay"""
        self.post("a", {**OWN, **inserting(("list", 1, "x")), "listeners": OWN["listeners"]})
        self.assertEqual(self.api.post("/clusters", {"cluster": {"name": "temporary", "spec": {"protocol": "Echo"}}})[0], 200)
        self.proxy.hup()
        l7test.wait_for(lambda: "temporary" not in self.names("clusters"))
        self.assertIn("mine", self.names("listeners"))
        self.assertEqual(self.rules(), ["first", "x", "second"])

    def test_port_moves(self):
        """a port moves from one listener to another in one document, whatever the protocols are; no connection is refused meanwhile"""
        def one(name, protocol, port):
            return {**listener(name, port), "spec": {"protocol": protocol, "port": port}}
        stop, refused, n = threading.Event(), [], [0]

        def connect():
            while not stop.is_set():
                try:
                    socket.create_connection(("127.0.0.1", 15010), 60).close()
                    n[0] += 1
                except OSError as e:
                    refused.append(e)
                time.sleep(0.001)
        self.post("a", {"listeners": [one("a", "TCP", 15010)]})
        t = threading.Thread(target=connect)
        t.start()
        self.addCleanup(t.join)
        self.addCleanup(stop.set)
        for name, protocol in (("b", "TCP"), ("b", "HTTP"), ("c", "WebSocket"), ("c", "TCP"), ("d", "HTTP"), ("e", "HTTP"), ("e", "WebSocket"), ("a", "HTTP")):
            self.post("a", {"listeners": [one(name, protocol, 15010)]})
        self.post("a", {"listeners": [one("a", "TCP", 15011), one("b", "HTTP", 15010)]})
        self.post("a", {"listeners": [one("a", "TCP", 15010), one("b", "HTTP", 15011)]})  # they change places
        before = n[0]
        self.assertTrue(l7test.wait_for(lambda: n[0] > before + 5))
        stop.set()
        t.join()
        self.assertEqual(refused, [])
        for name in ("x", "y"):
            self.post("a", {"listeners": [one(name, "UDP", 15010)]})

    def at(self, protocol, address, status=200, name="a"):
        spec = {"protocol": protocol, "port": 15012, **({"address": address} if address else {})}
        return self.post("a", {"listeners": [{**listener(name, 15012), "spec": spec}]}, status)

    def test_address_changes(self):
        """a listener gets another address on the same port in one document, also one that overlaps with the old one"""
        local = {a: socket.AF_INET6 if ":" in a else socket.AF_INET for a in ("127.0.0.1", "127.0.0.2", "::1")}
        steps = ("0.0.0.0", ("127.0.0.1", "127.0.0.2")), ("127.0.0.1", ("127.0.0.1",)), ("127.0.0.2", ("127.0.0.2",)), (None, tuple(local)), \
            ("::", ("::1",)), ("::1", ("::1",)), (None, tuple(local)), ("0.0.0.0", ("127.0.0.1", "127.0.0.2")), ("::", ("::1",)), ("127.0.0.1", ("127.0.0.1",))

        def answers(protocol, address):
            with socket.socket(local[address], socket.SOCK_DGRAM if protocol == "UDP" else socket.SOCK_STREAM) as c:
                c.settimeout(30)
                try:
                    c.connect((address, 15012))
                    c.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" if protocol == "HTTP" else b"x")
                    return bool(c.recv(9))
                except ConnectionRefusedError:
                    return False
        for protocol in ("TCP", "UDP", "HTTP", "WebSocket"):
            for i, (address, served) in enumerate(steps):
                self.at(protocol, address, name="ab"[i % 2])
                if protocol == "WebSocket":
                    continue
                for a in local:
                    with self.subTest(protocol=protocol, step=i, address=a):
                        # Sessions of an earlier step keep its UDP socket, which serves nobody else: its host says nothing.
                        if protocol != "UDP" or a in served:
                            self.assertEqual(answers(protocol, a), a in served)
            # Nobody else can share the port: the options that made room are gone.
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM if protocol == "UDP" else socket.SOCK_STREAM) as c:
                    c.setsockopt(socket.SOL_SOCKET, option, 1)
                    self.assertRaises(OSError, c.bind, ("0.0.0.0", 15012))
            # Only what the document replaces makes room.
            self.post("b", {"listeners": [{**listener("other", 15012), "spec": {"protocol": protocol, "port": 15012, "address": "0.0.0.0"}}]}, 409)
        two = [{**listener(n, 15012), "spec": {"protocol": "TCP", "port": 15012, "address": "127.0.0.1"}} for n in ("c", "d")]
        self.post("a", {"listeners": two}, 409)

    def test_sessions_of_changed_address(self):
        """UDP sessions stay what they are when the listener gets another address, and new peers get new ones there"""
        def peer():
            c = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.addCleanup(c.close)
            c.settimeout(30)
            c.connect(("127.0.0.1", 15012))
            return c

        def ask(c):
            c.send(b"x")
            return c.recv(9)

        def sessions():
            return sorted(x["name"] for x in self.api.get("/sessions")[1] if x["name"].startswith("UDP"))
        self.at("UDP", "0.0.0.0")
        old = [peer() for _ in range(3)]
        for c in old:
            self.assertEqual(ask(c), b"x")
        before = sessions()
        self.assertEqual(len(before), 3, self.api.get("/sessions")[1])
        for n, address in enumerate(("127.0.0.1", "0.0.0.0", "127.0.0.1", None), 4):
            self.at("UDP", address)
            for c in old:
                self.assertEqual(ask(c), b"x")
            self.assertEqual(sessions(), before)
            old.append(peer())
            self.assertEqual(ask(old[-1]), b"x")
            before = sessions()
            self.assertEqual(len(before), n)

    def test_drop_and_weight(self):
        """an endpoint that only becomes `drop`, or gets another weight, is a change"""
        doc = copy.deepcopy(OWN)
        hashes = set()
        for extra in ({}, {"drop": True}, {"weight": 0}):
            doc["clusters"][0]["endpoints"][0] = {**OWN["clusters"][0]["endpoints"][0], **extra}
            hashes.add(self.post("a", doc)["hash"])
            shown = self.api.get("/clusters/c?recursive=true")[1]["endpoints"][0]
            self.assertEqual(shown.get("drop", False), extra.get("drop", False))
        self.assertEqual(len(hashes), 3)


class Hashes(Base):
    def test_hash(self):
        """the hash follows the objects, not their order, their history or other owners"""
        answer = self.post("a", OWN)
        first = answer["hash"]
        self.assertEqual(first, self.owner("a")["hash"])
        self.assertEqual(answer["generation"], self.api.get("/status")[1]["generation"])
        self.assertEqual(self.owner("a")["objects"], len([o for k in ("listeners", "clusters", "rulelists", "rules", "routes", "endpoints")
                                                         for o in self.api.get("/config?owner=a")[1][k]]))
        static = self.owner("")["hash"]
        self.post("b", {"listeners": [listener("b", 15002)]})
        self.assertEqual((self.owner("a")["hash"], self.owner("")["hash"]), (first, static))
        two = {"listeners": [], "clusters": [{"name": n, "spec": {"protocol": "Echo"}} for n in ("x", "y")]}
        forward = self.post("a", two)["hash"]
        self.post("a", {"listeners": []})
        two["clusters"].reverse()
        self.assertEqual(self.post("a", two)["hash"], forward)
        self.assertNotEqual(forward, first)
        changed = copy.deepcopy(two)
        changed["clusters"][0]["options"] = {"k": 1}
        self.assertNotEqual(self.post("a", changed)["hash"], forward)
        self.assertEqual(self.api.delete("/clusters/x")[0], 200)
        self.assertNotEqual(self.owner("a")["hash"], forward)
        self.assertEqual(self.post("a", two)["hash"], forward)

    def test_boot_id(self):
        """another process has another boot id"""
        one = self.api.get("/status")[1]
        self.proxy.stop()
        self.proxy = l7test.Proxy(copy.deepcopy(STATIC))
        self.api = self.proxy.api
        two = self.api.get("/status")[1]
        self.assertNotEqual(one["boot_id"], two["boot_id"])


class Inserts(Base):
    def test_positions(self):
        """rules go in front of the list's own rule of their position, in order; the look-up uses them"""
        self.post("a", inserting(("list", 1, "b"), ("list", 0, "a0"), ("list", 99, "z"), ("list", 0, "a1")))
        self.assertEqual(self.rules(), ["a0", "a1", "first", "b", "second", "z"])
        self.assertEqual([(i["rule"], i["position"], i["owner"]) for i in self.api.get("/rulelists/list")[1]["inserts"]],
                         [("a0", 0, "a"), ("a1", 0, "a"), ("b", 1, "a"), ("z", 99, "a")])
        found = self.api.post("/rulelists/list/lookup", {"metadata": {"IP": {"src_port": 2}}})[1]
        self.assertEqual(found["rule"], "a0")
        self.assertEqual(self.api.get("/config?owner=a")[1]["rule_inserts"],
                         [{"rulelist": "list", "position": p, "rule": r} for r, p in (("a0", 0), ("a1", 0), ("b", 1), ("z", 99))])

    def test_replaced(self):
        """an owner's new document replaces its insertions only; none removes them; another hash each time"""
        self.post("b", inserting(("list", 0, "other")))
        one = self.post("a", inserting(("list", 0, "x")))["hash"]
        self.assertEqual(self.rules(), ["other", "x", "first", "second"])
        two = self.post("a", inserting(("list", 1, "x")))["hash"]
        self.assertEqual(self.rules(), ["other", "first", "x", "second"])
        self.post("a", {"listeners": []})
        self.assertEqual(self.rules(), ["other", "first", "second"])
        self.post("b", {"listeners": []})
        self.assertEqual(self.rules(), ["first", "second"])
        self.assertNotIn("inserts", self.api.get("/rulelists/list")[1])
        self.assertNotEqual(one, two)

    def test_lists_own_rules(self):
        """changes of the list itself keep what is inserted in its place"""
        self.post("a", inserting(("list", 1, "x")))
        shown = self.api.get("/rulelists/list")[1]
        generation = self.api.get("/status")[1]["generation"]
        self.assertEqual(self.api.put("/rulelists/list", {"rulelist": shown})[0], 200)
        self.assertEqual(self.api.get("/status")[1]["generation"], generation)
        self.assertEqual(self.api.post("/rulelists/list/rules/0", {"rule": "second"})[0], 200)
        self.assertEqual(self.rules(), ["second", "x", "first", "second"])
        self.assertEqual(self.api.put("/rulelists/list", {"rulelist": {"rules": ["first"]}})[0], 200)
        self.assertEqual(self.rules(), ["first", "x"])
        self.assertEqual(self.api.delete("/rulelists/list/rules/x")[0], 200)
        self.assertEqual(self.rules(), ["first"])
        self.post("a", inserting(("list", 1, "x")))
        self.assertEqual(self.rules(), ["first", "x"])
        whole = self.api.get("/config?limit=0")[1]
        whole["rulelists"] = [{**r, "rules": ["first"]} if r["name"] == "list" else r for r in whole["rulelists"]]
        self.assertEqual(self.api.post("/config", {"config": whole})[0], 200)
        self.assertEqual(self.rules(), ["first"])

    def test_refused(self):
        """a list or rule that is not there, and an own list, are named"""
        for doc, path in ((inserting(("none", 0, "x")), "rule_inserts[0].rulelist"),
                          ({**inserting(("list", 0, "x")), "rules": []}, "rule_inserts[0].rule"),
                          ({**inserting(("own", 0, "x")), "rulelists": [{"name": "own", "rules": []}]}, "rule_inserts[0].rulelist")):
            answer = self.post("a", doc, 422)
            self.assertEqual(answer["content"][0]["path"], path)
        self.assertEqual(self.rules(), ["first", "second"])
        self.assertIsNone(self.owner("a"))


if __name__ == "__main__":
    l7test.main()
