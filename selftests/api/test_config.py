#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The whole configuration over REST: posted back, as a difference, refused, on its own listener; PUT of listeners."""
import copy
import http.client
import json
import os
import socket
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402

OK = (200, {"status": 200, "message": "OK"})
LISTS = ("listeners", "clusters", "rulelists", "rules", "routes", "endpoints")


def echo_listener(name, port, proto="TCP"):
    return {"name": name, "spec": {"protocol": proto, "address": "127.0.0.1", "port": port},
            "rules": [{"action": {"route": {"destination": {"spec": {"protocol": "Echo"}}}}}]}


CONFIG = {
    "listeners": [
        l7test.controller(),
        echo_listener("tcp", 15000),
        {"name": "udp", "spec": {"protocol": "UDP", "port": 15001}, "options": {"idle_timeout": 5.5},
         "rules": ["r1", {"match": {"op": "starts", "path": "/IP/src_addr", "value": "127."},
                          "action": {"rewrite": [{"path": "/a/b", "value": [1, None, {"c": "d"}]}], "apply": "rl"}}]},
        {"name": "free", "spec": {"protocol": "tcp", "port": 0}, "rules": "rl"},
        {"name": "inline-list", "spec": {"protocol": "WS", "port": 15003, "path": "/x"},
         "rules": {"rules": [{"action": {"route": "ro"}}]}},
    ],
    "clusters": [
        {"name": "c", "spec": {"protocol": "TCP", "port": 1}, "loadbalancer": {"policy": "ConsistentHash", "key": "IP/src_addr"},
         "endpoints": [{"spec": {"address": "127.0.0.1"}}, {"name": "e", "spec": {"address": "::1"}, "weight": 2.5}],
         "options": {"mine": [1, 2]}},
        {"name": "log", "spec": {"protocol": "logger", "log_prefix": "x: "}},
    ],
    "rulelists": [{"name": "rl", "rules": ["r1", {"action": {"route": {"cluster": "c"}}}, "missing"]}],
    "rules": [{"name": "r1", "match": "*", "action": {"route": {"destination": "none", "egress": ["log", {"spec": {"protocol": "Echo"}}]}}}],
    "routes": [{"name": "ro", "destination": {"spec": {"protocol": "Discard"}}, "ingress": ["log", "log"],
                "retry": {"retry_on": "always", "num_retries": 7, "timeout": 10}}],
}


class Base(unittest.TestCase):
    strict = ()

    def setUp(self):
        self.proxy = l7test.Proxy(copy.deepcopy(CONFIG), "-l", "info", *self.strict)
        self.api = self.proxy.api

    def tearDown(self):
        self.proxy.stop()

    def config(self, query=""):
        status, body = self.api.get("/config" + query)
        self.assertEqual(status, 200)
        body.pop("sessions")
        return l7test.without_health(body)

    def connect(self, port=15000):
        s = socket.create_connection(("127.0.0.1", port), 30)
        s.settimeout(30)
        self.addCleanup(s.close)
        self.assertTrue(self.echoes(s))
        return s

    def echoes(self, s):
        s.sendall(b"ping")
        return s.recv(100) == b"ping"


class PostedBack(Base):
    def check_unchanged(self, body):
        before, rec = self.config(), self.config("?recursive=true")
        s = self.connect()
        self.assertEqual(self.api.post("/config", body), OK)
        self.assertEqual(self.config(), before)
        self.assertEqual(self.config("?recursive=true"), rec)
        self.assertTrue(self.echoes(s), "a session ended although nothing changed")

    def test_bare(self):
        """GET /config posted back changes nothing, bare"""
        self.check_unchanged(self.api.get("/config")[1])

    def test_wrapped(self):
        """GET /config posted back changes nothing, wrapped"""
        self.check_unchanged({"config": self.api.get("/config")[1]})

    def test_recursive(self):
        """GET /config?recursive=true is for people: posted back it is refused and changes nothing"""
        before = self.config()
        status, answer = self.api.post("/config", self.api.get("/config?recursive=true")[1])
        self.assertEqual(status, 422, answer)
        self.assertEqual(self.config(), before)

    def test_original(self):
        """the file's own text posted back changes nothing: unnamed inline objects are compared by content"""
        self.check_unchanged(copy.deepcopy(CONFIG))

    def test_original_yaml(self):
        """the same as YAML"""
        import yaml
        before = self.config()
        self.assertEqual(self.api.yaml("/config", yaml.safe_dump(CONFIG)), OK)
        self.assertEqual(self.config(), before)

    def test_reordered_keys(self):
        """the order of keys does not matter"""
        def turn(node):
            if isinstance(node, dict):
                return {k: turn(node[k]) for k in reversed(list(node))}
            return [turn(v) for v in node] if isinstance(node, list) else node
        self.check_unchanged(turn(CONFIG))


class PostedBackStrict(PostedBack):
    strict = ("-s",)


class Difference(Base):
    def change(self, fn):
        body = self.api.get("/config")[1]
        fn(body)
        return self.api.post("/config", body)

    def test_added_and_removed(self):
        """what is missing is deleted with what was made for it; what is new is added; the rest stays"""
        s = self.connect()
        gone = socket.create_connection(("127.0.0.1", 15000), 30)
        before = self.config()
        new = copy.deepcopy(CONFIG)
        new["listeners"] = [x for x in new["listeners"] if x["name"] != "free"] + [echo_listener("more", 15010)]
        self.assertEqual(self.api.post("/config", new), OK)
        names = [x["name"] for x in self.config()["listeners"]]
        self.assertEqual(names, ["controller-listener", "tcp", "udp", "inline-list", "more"])
        self.assertTrue(self.echoes(s))
        more = self.connect(15010)
        del new["listeners"][1]
        self.assertEqual(self.api.post("/config", new), OK)
        self.assertEqual(s.recv(10), b"", "the session of a deleted listener goes on")
        self.assertTrue(self.echoes(more))
        with self.assertRaises(OSError):
            socket.create_connection(("127.0.0.1", 15000), 1)
        gone.close()
        del new["listeners"][-1]
        new["listeners"] = copy.deepcopy(CONFIG["listeners"])
        self.assertEqual(self.api.post("/config", new), OK)
        after = self.config()
        for key in LISTS:
            self.assertEqual(len(after[key]), len(before[key]), key)

    def test_changed_inline(self):
        """an inline object that changed is the same object in a new version"""
        before = self.config()
        new = copy.deepcopy(CONFIG)
        new["routes"][0]["destination"]["spec"] = {"protocol": "Echo"}
        self.assertEqual(self.api.post("/config", new), OK)
        after = self.config()
        self.assertEqual([len(after[k]) for k in LISTS], [len(before[k]) for k in LISTS])
        changed = [c for c in after["clusters"] if c not in before["clusters"]]
        self.assertEqual([c["spec"]["protocol"] for c in changed], ["Echo"])

    def test_empty_lists(self):
        """an empty list keeps admin and deletes all else; the answer still comes"""
        s = self.connect()
        self.assertEqual(self.api.post("/config", {"listeners": []}), OK)
        self.assertEqual(s.recv(10), b"")
        with self.assertRaises(OSError):
            for _ in range(50):
                socket.create_connection(("127.0.0.1", 1234), 1).close()
        self.assertTrue(self.proxy.alive())

    def refused(self, status, body, *words):
        before, s = self.config(), self.connect()
        got, answer = self.api.post("/config", body)
        self.assertEqual(got, status, answer)
        for word in words:
            self.assertIn(word, json.dumps(answer))
        self.assertEqual(self.config(), before)
        self.assertTrue(self.echoes(s))

    def test_lost_lists(self):
        """listeners that are missing, misspelt or null, and any list that is null, are refused: nothing is deleted"""
        for body in ({}, {"listners": []}, {"listeners": None}, {"listeners": [], "clusters": None},
                     {"listeners": [], "rules": None}, {"listeners": [], "routes": None},
                     {"listeners": [], "rulelists": None}):
            self.refused(422, body, "expected an array")

    def test_misspelt_lists(self):
        """a list that is missing while there is an unknown key, which may be the list, is refused: nothing is deleted"""
        for wrong in ("cluster", "Clusters", "clusters ", "rotues", "rule", "rulelist", "x"):
            new = copy.deepcopy(CONFIG)
            new[wrong] = new.pop("clusters")
            self.refused(422, new, wrong.strip(), "clusters", "would be deleted")
            self.refused(422, {"config": new}, wrong.strip(), "would be deleted")
        for lost in ("clusters", "rulelists", "rules", "routes"):
            new = copy.deepcopy(CONFIG)
            new["my" + lost] = new.pop(lost)
            self.refused(422, new, "my" + lost, lost, "would be deleted")
        new = copy.deepcopy(CONFIG)
        new["x"] = 1
        before = self.config()
        status = self.api.post("/config", new)[0]
        self.assertEqual(status, 422 if self.strict else 200, "no list is missing: an unknown key is what it is elsewhere")
        self.assertEqual(self.config(), before)

    def test_beside_the_wrapper(self):
        """what stands beside the wrapper is refused: which of the two is meant is not clear"""
        for body in ({"config": CONFIG, "listeners": []}, {"listeners": [], "config": CONFIG}, {"config": CONFIG, "x": 1},
                     {"config": None, "listeners": []}, {"config": {}}):
            self.refused(422, body)
        self.assertEqual(self.api.post("/admin", {"admin": {}, "log_level": "silent"})[0], 422)

    def test_nothing(self):
        """documents with nothing in them are refused in JSON and in YAML: nothing is deleted"""
        before, s = self.config(), self.connect()
        for kind, texts in (("application/json", ("", " ", "null", "{}", "[]", '""', "0", '{"config": null}', '{"config": {}}')),
                            ("text/yaml", ("", " ", "---", "---\n...\n", "~", "# nothing\n", "{}", "config:\n", "listeners:\n", "listeners: ~\n"))):
            for text in texts:
                with self.subTest(kind=kind, text=text):
                    self.assertIn(self.api.call("POST", "/config", text, kind)[0], (400, 422))
                    self.assertEqual(self.config(), before)
        self.assertTrue(self.echoes(s))

    def test_parts(self):
        """null in the place of a part of an object is refused, too: nothing of it is deleted"""
        for path, wrapper, keys in (("/clusters/c", "cluster", ("endpoints", "spec")), ("/rulelists/rl", "rulelist", ("rules",)),
                                    ("/rules/r1", "rule", ("action",)), ("/routes/ro", "route", ("destination", "ingress", "egress")),
                                    ("/listeners/free", "listener", ("rules", "spec"))):
            shown = self.api.get(path)[1]
            for key in keys:
                with self.subTest(path=path, key=key):
                    self.assertEqual(self.api.put(path, {wrapper: {**shown, key: None}})[0], 422)
                    self.assertEqual(self.api.get(path)[1], shown)

    def test_refused_schema(self):
        """a config that is not valid changes nothing and names the place"""
        new = copy.deepcopy(CONFIG)
        new["listeners"][0]["spec"]["port"] = 99999
        new["clusters"][0]["loadbalancer"]["policy"] = "Best"
        self.refused(422, new, "listeners[0].spec.port", "expected 0..65535, got 99999",
                     "clusters[0].loadbalancer.policy")

    def test_refused_port(self):
        """a config whose last port is in use changes nothing"""
        with socket.create_server(("127.0.0.1", 15020)):
            new = copy.deepcopy(CONFIG)
            new["listeners"] = new["listeners"][:1] + [echo_listener("fine", 15021), echo_listener("busy", 15020)]
            self.refused(400, new, "listeners[2].spec.port", "15020", "in use")
        with self.assertRaises(OSError):
            socket.create_connection(("127.0.0.1", 15021), 1)

    def test_refused_twice(self):
        """a name twice changes nothing"""
        new = copy.deepcopy(CONFIG)
        new["clusters"].append({"name": "c", "spec": {"protocol": "Echo"}})
        status, answer = self.api.post("/config", new)
        self.assertIn(status, (409, 422), answer)
        self.refused(status, new, "clusters[2].name", "given twice")

    def test_refused_admin(self):
        """what of admin can't change at run time refuses the whole"""
        new = copy.deepcopy(CONFIG)
        new["admin"] = {"instance": "other"}
        new["clusters"].append({"name": "late", "spec": {"protocol": "Echo"}})
        self.refused(400, new, "instance")

    def test_unknown_key(self):
        """an unknown key is a warning, in strict mode an error"""
        new = copy.deepcopy(CONFIG)
        new["listeners"][0]["colour"] = "red"
        before = self.config()
        self.assertEqual(self.api.post("/config", new), OK)
        self.assertEqual(self.config(), before)
        self.assertIn("colour", self.proxy.stderr())
        new["admin"] = {"strict": True}
        status, answer = self.api.post("/config", new)
        self.assertIn(status, (200, 400, 422), answer)

    def test_large_integers(self):
        """an integer that JSON readers round, beyond 2^53, is refused in JSON and in YAML: two would become one"""
        before = self.config()
        for number, good in ((1 << 53, True), ((1 << 53) + 1, False), (-(1 << 53) - 1, False)):
            rule = {"rule": {"name": f"n{number}", "match": {"op": "test", "path": "/room", "value": number}, "action": {}}}
            for kind in ("application/json", "application/yaml"):
                status, answer = self.api.post("/rules", json.dumps(rule), kind)
                self.assertEqual(status, 200 if good else 400, (number, kind, answer))
                if good:
                    self.assertEqual(self.api.delete(f"/rules/n{number}"), OK)
        self.assertEqual(self.config(), before)

    def test_wrong_root(self):
        """the root has to be an object"""
        for body in ([], "x", 5, None, {"config": []}, {"config": None}):
            status, answer = self.api.post("/config", json.dumps(body), "application/json")
            self.assertEqual(status, 422, (body, answer))


class OwnListener(Base):
    def test_answer_when_own_listener_goes(self):
        """DELETE of the own listener, recursive, is answered"""
        self.assertEqual(self.api.delete("/listeners/controller-listener?recursive=true"), OK)
        with self.assertRaises(OSError):
            for _ in range(50):
                socket.create_connection(("127.0.0.1", 1234), 1).close()
        self.assertTrue(self.echoes(self.connect()))

    def test_moves(self):
        """a config that moves its own listener is answered on the old port and served on the new one"""
        new = copy.deepcopy(CONFIG)
        new["listeners"][0]["spec"]["port"] = 1235
        self.assertEqual(self.api.post("/config", new), OK)
        self.proxy.api.port = 1235
        self.assertEqual(self.api.get("/listeners/controller-listener")[1]["spec"]["port"], 1235)
        with self.assertRaises(OSError):
            for _ in range(50):
                socket.create_connection(("127.0.0.1", 1234), 1).close()

    def test_own_session(self):
        """DELETE of the session that carries the request is answered"""
        conn = http.client.HTTPConnection("127.0.0.1", 1234, timeout=60)
        conn.connect()
        port = conn.sock.getsockname()[1]
        conn.request("DELETE", f"/api/v1/sessions/HTTP:127.0.0.1:{port}-127.0.0.1:1234-1")
        r = conn.getresponse()
        self.assertIn(r.status, (200, 404), r.read())
        conn.close()

    def test_cluster_goes(self):
        """DELETE of the controller cluster is answered; then there is no controller"""
        self.assertEqual(self.api.delete("/clusters/l7mp-controller?recursive=true"), OK)
        status, body = self.api.get("/config")
        self.assertEqual(status, 502, body)

    def test_replaced_in_place(self):
        """replacing the own listener on the same port: no refused connection meanwhile"""
        new = {"listener": dict(l7test.controller(), rules=self.api.get("/listeners/controller-listener")[1]["rules"],
                                options={"track": 0})}
        for i in range(20):
            new["listener"]["options"]["track"] = i % 2
            self.assertEqual(self.api.put("/listeners/controller-listener", new), OK)
            self.assertEqual(self.api.get("/listeners/controller-listener")[1]["options"]["track"], i % 2)


class Put(Base):
    def test_listener(self):
        """PUT of a listener: running sessions keep what they have, new ones get the new"""
        s = self.connect()
        name = f"TCP:127.0.0.1:{s.getsockname()[1]}-127.0.0.1:15000"
        self.assertEqual(self.api.put("/listeners/tcp", {"listener": {
            "spec": {"protocol": "TCP", "address": "127.0.0.1", "port": 15000},
            "rules": [{"action": {"route": {"destination": {"spec": {"protocol": "Discard"}}}}}]}}), OK)
        self.assertTrue(self.echoes(s))
        self.assertEqual(self.api.get("/sessions/" + name)[1]["status"], "CONNECTED")
        other = socket.create_connection(("127.0.0.1", 15000), 30)
        other.settimeout(0.3)
        other.sendall(b"x")
        with self.assertRaises(TimeoutError):
            other.recv(10)
        other.close()

    def test_listener_moves(self):
        """PUT with another port: the old one is closed, its sessions continue"""
        s = self.connect()
        self.assertEqual(self.api.put("/listeners/tcp", {"listener": echo_listener("tcp", 15030)}), OK)
        self.assertTrue(self.echoes(s))
        self.connect(15030)
        with self.assertRaises(OSError):
            socket.create_connection(("127.0.0.1", 15000), 1)

    def test_listener_other_protocol(self):
        """PUT with another protocol on the same port, and back"""
        s = self.connect()
        self.assertEqual(self.api.put("/listeners/tcp", {"listener": echo_listener("tcp", 15000, "UDP")}), OK)
        u = l7test.udp_socket()
        u.sendto(b"hi", ("127.0.0.1", 15000))
        self.assertEqual(u.recv(10), b"hi")
        u.close()
        self.assertTrue(self.echoes(s))
        self.assertEqual(self.api.put("/listeners/tcp", {"listener": echo_listener("tcp", 15000)}), OK)
        self.connect()

    def test_failed_put(self):
        """a PUT that can't be realised leaves the old one serving"""
        with socket.create_server(("127.0.0.1", 15020)):
            status, body = self.api.put("/listeners/tcp", {"listener": echo_listener("tcp", 15020)})
            self.assertEqual(status, 400, body)
        self.assertEqual(self.api.get("/listeners/tcp")[1]["spec"]["port"], 15000)
        self.connect()

    def test_rules_and_routes(self):
        """PUT of a route: new sessions take the new one"""
        s = self.connect()
        listener = self.api.get("/listeners/tcp?recursive=true")[1]
        route = listener["rules"][0]["action"]["route"]["name"]
        self.assertEqual(self.api.put(f"/routes/{route}", {"route": {"destination": {"spec": {"protocol": "Discard"}}}}), OK)
        self.assertTrue(self.echoes(s))
        other = socket.create_connection(("127.0.0.1", 15000), 30)
        other.settimeout(0.3)
        other.sendall(b"x")
        with self.assertRaises(TimeoutError):
            other.recv(10)
        other.close()


if __name__ == "__main__":
    l7test.main()
