#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Every resource of the REST API: methods, wrappers, recursion, statuses, formats."""
import http.client
import json
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402
import yaml  # noqa: E402

OK = (200, {"status": 200, "message": "OK"})
ECHO = {"destination": {"spec": {"protocol": "Echo"}}}
PLURAL = {"listener": "listeners", "cluster": "clusters", "rulelist": "rulelists", "rule": "rules", "route": "routes"}
SAMPLES = {
    "listener": ({"name": "l", "spec": {"protocol": "UDP", "port": 15000}, "rules": "rl"},
                 {"spec": {"protocol": "UDP", "port": 15001}, "rules": "other"}),
    "cluster": ({"name": "c", "spec": {"protocol": "TCP", "port": 15100}, "endpoints": [
        {"name": "c-e", "spec": {"address": "127.0.0.1"}}]},
        {"spec": {"protocol": "UDP", "port": 15101}, "loadbalancer": {"policy": "RoundRobin"}}),
    "rulelist": ({"name": "rl", "rules": ["r"]}, {"rules": ["r", "r2"]}),
    "rule": ({"name": "r", "match": {"op": "defined", "path": "/a"}, "action": {"route": "ro"}},
             {"match": {"op": "undefined", "path": "/a"}, "action": {"apply": "rl2"}}),
    "route": ({"name": "ro", "destination": "c"}, {"destination": "c2", "retry": {"retry_on": "always"}}),
}


class Base(unittest.TestCase):
    def setUp(self):
        self.proxy = l7test.Proxy(None, "-l", "warn")
        self.api = self.proxy.api

    def tearDown(self):
        self.proxy.stop()

    def is_error(self, answer, status):
        got, body = answer
        self.assertEqual(got, status, body)
        self.assertIsInstance(body, dict, body)
        self.assertEqual(body["status"], status)
        self.assertTrue(body["message"], body)
        self.assertIsInstance(body["content"], list)
        for entry in body["content"]:
            self.assertIn("path", entry)
            self.assertTrue(entry["reason"])
        return body

    def names(self, path):
        status, body = self.api.get(path)
        self.assertEqual(status, 200)
        return [o["name"] for o in body]


class Objects(Base):
    def test_each_kind(self):
        """GET, POST, PUT, DELETE of each kind of object; 404, 409, 405"""
        for kind, (sample, other) in SAMPLES.items():
            plural, name = "/" + PLURAL[kind], sample["name"]
            with self.subTest(kind=kind):
                before = self.names(plural)
                self.is_error(self.api.get(f"{plural}/{name}"), 404)
                self.is_error(self.api.delete(f"{plural}/{name}"), 404)
                self.assertEqual(self.api.put(f"{plural}/{name}", {kind: other}), OK, "made by PUT")
                self.assertEqual(self.api.delete(f"{plural}/{name}?recursive=true"), OK)
                self.assertEqual(self.api.post(plural, {kind: sample}), OK)
                self.is_error(self.api.post(plural, {kind: sample}), 409)
                self.assertEqual(self.names(plural), before + [name])
                status, got = self.api.get(f"{plural}/{name}")
                self.assertEqual(status, 200)
                for key, value in sample.items():
                    if key == "endpoints":
                        self.assertEqual(got[key], len(value))
                    else:
                        self.assertEqual(got[key], value, key)
                self.assertEqual(self.api.put(f"{plural}/{name}", {kind: other}), OK)
                status, got = self.api.get(f"{plural}/{name}")
                self.assertEqual(got["name"], name)
                for key, value in other.items():
                    if isinstance(value, dict):
                        self.assertLessEqual(value.items(), got[key].items(), key)
                    else:
                        self.assertEqual(got[key], value, key)
                # the name in the body may stand, but not be another one
                self.assertEqual(self.api.put(f"{plural}/{name}", {kind: dict(other, name=name)}), OK)
                self.is_error(self.api.put(f"{plural}/{name}", {kind: dict(other, name="another")}), 422)
                self.assertEqual(self.api.delete(f"{plural}/{name}"), OK)
                self.assertEqual(self.names(plural), before)
                for method in ("PATCH", "OPTIONS", "PUT", "DELETE"):
                    self.is_error(self.api.call(method, plural), 405)
                    self.assertEqual(self.api.last_headers["allow"], "GET, HEAD, POST")
                for method in ("POST", "PATCH"):
                    self.is_error(self.api.call(method, f"{plural}/x", {}), 405)
                    self.assertEqual(self.api.last_headers["allow"], "GET, HEAD, PUT, DELETE")

    def test_wrappers(self):
        """a body without its wrapper, with another one, or with two is refused"""
        for kind, (sample, _) in SAMPLES.items():
            plural = "/" + PLURAL[kind]
            body = self.is_error(self.api.post(plural, sample), 422)
            self.assertIn(f"'{kind}'", body["message"])
            wrong = "route" if kind != "route" else "rule"
            self.is_error(self.api.post(plural, {wrong: sample}), 422)
            self.is_error(self.api.post(plural, [sample]), 422)
            self.is_error(self.api.post(plural, {kind: [sample]}), 422)
            self.is_error(self.api.post(plural, {kind: None}), 422)
            self.is_error(self.api.post(plural, "null", "application/json"), 422)
        self.assertNotIn("l", self.names("/listeners"))

    def test_generated_names(self):
        """unnamed objects get the names of the contract, inline ones their owner's"""
        listener = {"name": "u", "spec": {"protocol": "UDP", "port": 0}, "rules": [{"action": {"route": {
            "destination": {"spec": {"protocol": "TCP", "port": 1}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]},
            "ingress": [{"spec": {"protocol": "Logger"}}], "egress": [{"spec": {"protocol": "Echo"}}]}}}]}
        self.assertEqual(self.api.post("/listeners", {"listener": listener}), OK)
        got = self.api.get("/listeners/u?recursive=true")[1]
        rl = self.api.get("/listeners/u")[1]["rules"]
        self.assertRegex(rl, r"^u-RuleList-\d+$")
        rule = got["rules"][0]
        self.assertRegex(rule["name"], rf"^{rl}-Rule-\d+$")
        route = rule["action"]["route"]
        self.assertRegex(route["name"], rf"^{rule['name']}-Route-\d+$")
        cluster = route["destination"]
        self.assertRegex(cluster["name"], rf"^{route['name']}-Cluster-\d+$")
        self.assertRegex(route["ingress"][0]["name"], rf"^{route['name']}-ingress-Cluster-\d+$")
        self.assertRegex(route["egress"][0]["name"], rf"^{route['name']}-egress-Cluster-\d+$")
        self.assertRegex(cluster["endpoints"][0]["name"], rf"^{cluster['name']}-EndPoint-\d+$")
        count = {p: len(self.names("/" + p)) for p in PLURAL.values()}
        self.assertEqual(self.api.delete("/listeners/u?recursive=true"), OK)
        left = {p: len(self.names("/" + p)) for p in PLURAL.values()}
        self.assertEqual(left, {"listeners": count["listeners"] - 1, "clusters": count["clusters"] - 3,
                                "rulelists": count["rulelists"] - 1, "rules": count["rules"] - 1,
                                "routes": count["routes"] - 1})
        self.is_error(self.api.get(f"/endpoints/{cluster['endpoints'][0]['name']}"), 404)
        # counted up for the life of the process
        self.assertEqual(self.api.post("/listeners", {"listener": listener}), OK)
        self.assertNotEqual(self.api.get("/listeners/u")[1]["rules"], rl)

    def test_plain_delete_leaves_inline(self):
        """a delete that is not recursive leaves what was made for the object"""
        self.api.post("/routes", {"route": {"name": "ro", **ECHO}})
        cluster = self.api.get("/routes/ro")[1]["destination"]
        self.assertEqual(self.api.delete("/routes/ro"), OK)
        self.assertEqual(self.api.get(f"/clusters/{cluster}")[0], 200)
        self.assertEqual(self.api.delete(f"/clusters/{cluster}"), OK)

    def test_named_inline(self):
        """what is only named survives a recursive delete; a named inline object does not"""
        self.api.post("/clusters", {"cluster": {"name": "stays", "spec": {"protocol": "Echo"}}})
        self.api.post("/routes", {"route": {"name": "ro", "destination": "stays",
                                            "ingress": [{"name": "goes", "spec": {"protocol": "Logger"}}]}})
        self.assertEqual(self.api.delete("/routes/ro?recursive=true"), OK)
        self.assertEqual(self.api.get("/clusters/stays")[0], 200)
        self.is_error(self.api.get("/clusters/goes"), 404)

    def test_conflict_leaves_nothing(self):
        """an inline object whose name is taken refuses the whole, and nothing of it stays"""
        before = self.api.get("/config")[1]
        self.api.post("/clusters", {"cluster": {"name": "taken", "spec": {"protocol": "Echo"}}})
        self.is_error(self.api.post("/listeners", {"listener": {
            "name": "l", "spec": {"protocol": "UDP", "port": 0}, "rules": [
                {"action": {"route": {"destination": {"name": "fresh", "spec": {"protocol": "Echo"}},
                                      "egress": [{"name": "taken", "spec": {"protocol": "Echo"}}]}}}]}}), 409)
        self.assertEqual(self.api.delete("/clusters/taken"), OK)
        after = self.api.get("/config")[1]
        for key in (*PLURAL.values(), "endpoints"):
            self.assertEqual(before[key], after[key], key)

    def test_realise_failure_leaves_nothing(self):
        """a port in use is 400 and leaves neither the listener nor its inline objects"""
        before = self.api.get("/config")[1]
        for proto, port in (("HTTP", 1234), ("TCP", 1234), ("WebSocket", 1234)):
            body = self.is_error(self.api.post("/listeners", {"listener": {
                "name": "l", "spec": {"protocol": proto, "address": "127.0.0.1", "port": port},
                "rules": [{"action": {"route": ECHO}}]}}), 400)
            self.assertIn("listener", json.dumps(body))
        after = self.api.get("/config")[1]
        for key in (*PLURAL.values(), "endpoints"):
            self.assertEqual(before[key], after[key], key)

    def test_stale(self):
        """a missing reference is shown as <name>:<STALE>, and heals"""
        self.api.post("/routes", {"route": {"name": "ro", "destination": "later", "ingress": ["in"]}})
        self.assertEqual(self.api.get("/routes/ro")[1]["destination"], "later")
        got = self.api.get("/routes/ro?recursive=true")[1]
        self.assertEqual(got["destination"], "later:<STALE>")
        self.assertEqual(got["ingress"], ["in:<STALE>"])
        self.api.post("/rules", {"rule": {"name": "r", "action": {"route": "no-route"}}})
        self.assertEqual(self.api.get("/rules/r?recursive=true")[1]["action"]["route"], "no-route:<STALE>")
        self.api.post("/rulelists", {"rulelist": {"name": "rl", "rules": ["r", "no-rule"]}})
        got = self.api.get("/rulelists/rl?recursive=true")[1]["rules"]
        self.assertEqual([got[0]["name"], got[1]], ["r", "no-rule:<STALE>"])
        self.api.post("/listeners", {"listener": {"name": "l", "spec": {"protocol": "UDP", "port": 0},
                                                  "rules": "no-list"}})
        self.assertEqual(self.api.get("/listeners/l?recursive=true")[1]["rules"], "no-list:<STALE>")
        self.api.post("/clusters", {"cluster": {"name": "later", "spec": {"protocol": "Echo"}}})
        got = self.api.get("/routes/ro?recursive=true")[1]["destination"]
        self.assertEqual(got["name"], "later")
        self.assertEqual([e["name"] for e in got["endpoints"]], ["later"])

    def test_shapes(self):
        """what GET shows of each kind, with defaults filled in"""
        self.api.post("/routes", {"route": {"name": "ro", "cluster": "c"}})
        self.assertEqual(self.api.get("/routes/ro")[1], {
            "name": "ro", "destination": "c", "ingress": [], "egress": [],
            "retry": {"retry_on": "never", "num_retries": 1, "timeout": 2000}})
        self.api.post("/rules", {"rule": {"name": "r", "action": {"route": "ro"}}})
        self.assertEqual(self.api.get("/rules/r")[1], {
            "name": "r", "match": "*", "action": {"route": "ro"}})
        self.api.post("/rulelists", {"rulelist": {"name": "rl", "rules": ["r"]}})
        self.assertEqual(self.api.get("/rulelists/rl")[1], {"name": "rl", "rules": ["r"]})
        self.api.post("/clusters", {"cluster": {"name": "c", "spec": {"protocol": "tcp", "port": 9}}})
        got = self.api.get("/clusters/c")[1]
        self.assertEqual((got["spec"], got["endpoints"], got["loadbalancer"]["policy"]),
                         ({"protocol": "tcp", "port": 9}, 0, "Trivial"))
        self.api.post("/listeners", {"listener": {"name": "l", "spec": {"protocol": "udp", "port": 15000},
                                                  "rules": "rl", "options": {"track": 3}}})
        got = self.api.get("/listeners/l")[1]
        self.assertEqual((got["spec"], got["rules"], got["options"]["track"]),
                         ({"protocol": "udp", "port": 15000}, "rl", 3))

    def test_port_zero(self):
        """port 0 takes a free port, and GET shows which"""
        for proto, kind in (("UDP", 2), ("TCP", 1), ("HTTP", 1), ("WebSocket", 1)):
            name = proto.lower()
            self.assertEqual(self.api.post("/listeners", {"listener": {
                "name": name, "spec": {"protocol": proto, "address": "127.0.0.1", "port": 0},
                "rules": [{"action": {"route": ECHO}}]}}), OK)
            port = self.api.get(f"/listeners/{name}")[1]["spec"]["port"]
            self.assertGreater(port, 0)
            self.assertEqual([x["spec"]["port"] for x in self.api.get("/listeners")[1] if x["name"] == name], [port])
            with __import__("socket").socket(2, kind) as s:
                s.settimeout(30)
                s.connect(("127.0.0.1", port))
                if proto in ("UDP", "TCP"):
                    s.send(b"hello")
                    self.assertEqual(s.recv(100), b"hello")

    def test_encoded_names(self):
        """names are decoded per segment: slash, percent, UTF-8, brackets"""
        for name in ("a/b", "50%", "ütf-8-✓", "u:[::1]:5", "?x=1&y", "..", "a//b", "#h"):
            quoted = "".join(f"%{b:02X}" for b in name.encode())
            self.assertEqual(self.api.post("/clusters", {"cluster": {"name": name, "spec": {"protocol": "Echo"}}}), OK)
            self.assertEqual(self.api.get(f"/clusters/{quoted}")[1]["name"], name)
            self.assertEqual(self.api.get(f"/clusters/{quoted}/endpoints")[0], 200)
            self.assertEqual(self.api.delete(f"/clusters/{quoted}"), OK)
        self.is_error(self.api.get("/clusters/a%ff"), 400)
        # Refused by the HTTP listener, before the API sees it.
        self.assertEqual(self.api.get("/clusters/a%00b")[0], 400)
        self.assertEqual(self.api.get("/clusters/a%zz")[0], 400)
        self.is_error(self.api.post("/clusters", {"cluster": {"name": "a b", "spec": {"protocol": "Echo"}}}), 422)


class Endpoints(Base):
    def test_endpoints(self):
        """endpoints are added to, shown with, replaced in and deleted from their cluster"""
        self.api.post("/clusters", {"cluster": {"name": "c", "spec": {"protocol": "TCP", "port": 1}}})
        self.assertEqual(self.api.get("/clusters/c/endpoints"), (200, []))
        self.assertEqual(self.api.post("/clusters/c/endpoints", {"endpoint": {
            "name": "e", "spec": {"address": "127.0.0.1"}, "weight": 2}}), OK)
        self.assertEqual(self.api.post("/clusters/c/endpoints", {"endpoint": {"spec": {"address": "127.0.0.2"}}}), OK)
        self.is_error(self.api.post("/clusters/c/endpoints", {"endpoint": {
            "name": "e", "spec": {"address": "127.0.0.3"}}}), 409)
        self.is_error(self.api.post("/clusters/none/endpoints", {"endpoint": {"spec": {"address": "::1"}}}), 404)
        self.is_error(self.api.post("/clusters/c/endpoints", {"endpoint": {"spec": {}}}), 422)
        got = self.api.get("/clusters/c/endpoints")[1]
        self.assertEqual([(e["spec"]["address"], e["weight"]) for e in got], [("127.0.0.1", 2), ("127.0.0.2", 1)])
        self.assertRegex(got[1]["name"], r"^c-EndPoint-\d+$")
        self.assertEqual(self.api.get("/clusters/c")[1]["endpoints"], 2)
        self.assertEqual(self.api.get("/clusters/c?recursive=true")[1]["endpoints"], got)
        self.assertEqual(self.api.get("/endpoints/e")[1], {"name": "e", "spec": {"address": "127.0.0.1"}, "weight": 2,
                                                           "health": {"sessions": 0, "connects": 0, "failed": 0, "lost": 0}})
        self.assertEqual(self.api.put("/endpoints/e", {"endpoint": {"spec": {"address": "127.0.0.9"}}}), OK)
        self.assertEqual(self.api.get("/endpoints/e")[1]["spec"]["address"], "127.0.0.9")
        self.assertEqual(self.api.get("/clusters/c/endpoints")[1][0]["name"], "e")
        self.assertEqual(self.api.delete("/endpoints/e?recursive=true"), OK)
        self.is_error(self.api.get("/endpoints/e"), 404)
        self.assertEqual(self.api.get("/clusters/c")[1]["endpoints"], 1)
        self.assertEqual(len(self.api.get("/config")[1]["endpoints"]), 1)
        self.assertEqual(self.api.delete("/clusters/c"), OK)
        self.assertEqual(self.api.get("/config")[1]["endpoints"], [])
        self.is_error(self.api.call("PATCH", "/endpoints/e"), 405)


class Rules(Base):
    def order(self):
        return self.api.get("/rulelists/rl")[1]["rules"]

    def setUp(self):
        super().setUp()
        for name in "xy":
            self.api.post("/routes", {"route": {"name": name, "destination": "c"}})
        self.api.post("/rulelists", {"rulelist": {"name": "rl", "rules": [
            {"name": "r0", "match": {"op": "test", "path": "/a", "value": 0}, "action": {"route": "x"}},
            {"name": "r1", "match": {"op": "test", "path": "/a", "value": 1},
             "action": {"rewrite": [{"path": "/b/c", "value": {"d": 1}}], "route": "y"}}]}})

    def test_positions(self):
        """rules of a list by position and by name: get, insert, delete"""
        self.assertEqual(self.api.get("/rulelists/rl/rules/0")[1]["name"], "r0")
        self.assertEqual(self.api.get("/rulelists/rl/rules/r1")[1]["name"], "r1")
        for bad in ("2", "99999999999999999999", "-1", "none", "1.0"):
            self.is_error(self.api.get(f"/rulelists/rl/rules/{bad}"), 404)
            self.is_error(self.api.delete(f"/rulelists/rl/rules/{bad}"), 404)
        self.is_error(self.api.get("/rulelists/none/rules/0"), 404)
        self.assertEqual(self.api.post("/rulelists/rl/rules/1", {"rule": {"name": "m", "action": {"route": "x"}}}), OK)
        self.assertEqual(self.order(), ["r0", "m", "r1"])
        self.assertEqual(self.api.post("/rulelists/rl/rules/3", {"rule": "later"}), OK)
        self.assertEqual(self.order(), ["r0", "m", "r1", "later"])
        self.is_error(self.api.get("/rulelists/rl/rules/3"), 404)
        self.is_error(self.api.post("/rulelists/rl/rules/5", {"rule": "x"}), 404)
        self.is_error(self.api.post("/rulelists/rl/rules/0", {"rule": {"name": "m", "action": {"route": "x"}}}), 409)
        self.is_error(self.api.post("/rulelists/rl/rules/0", {"rule": 5}), 422)
        self.is_error(self.api.post("/rulelists/rl/rules/0", {"rule": {"action": 5}}), 422)
        self.assertEqual(self.api.post("/rulelists/rl/rules/m", {"rule": {"action": {"route": "x"}}}), OK)
        self.assertRegex(self.order()[1], r"^rl-Rule-\d+$")
        self.assertEqual(self.api.delete("/rulelists/rl/rules/m"), OK)
        self.assertEqual(self.api.get("/rules/m")[0], 200)
        generated = self.order()[1]
        self.assertEqual(self.api.delete("/rulelists/rl/rules/1?recursive=true"), OK)
        self.is_error(self.api.get(f"/rules/{generated}"), 404)
        self.assertEqual(self.order(), ["r0", "r1", "later"])
        self.is_error(self.api.call("PATCH", "/rulelists/rl/rules/0", {}), 405)

    def test_lookup(self):
        """a dry-run look-up answers rule list, rule, action and rewritten metadata"""
        self.assertEqual(self.api.post("/rulelists/rl/lookup", {"metadata": {"a": 1}}), (200, {
            "rulelist": "rl", "rule": "r1",
            "action": {"rewrite": [{"path": "/b/c", "value": {"d": 1}}], "route": "y"},
            "metadata": {"a": 1, "b": {"c": {"d": 1}}}}))
        self.is_error(self.api.post("/rulelists/rl/lookup", {"metadata": {"a": 2}}), 404)
        self.api.delete("/routes/y")
        body = self.is_error(self.api.post("/rulelists/rl/lookup", {"metadata": {"a": 1}}), 404)
        self.assertIn("y", body["message"])
        self.is_error(self.api.post("/rulelists/none/lookup", {"metadata": {}}), 404)
        self.is_error(self.api.post("/rulelists/rl/lookup", {"a": 1}), 422)
        self.is_error(self.api.post("/rulelists/rl/lookup", {"metadata": 5}), 422)
        self.is_error(self.api.get("/rulelists/rl/lookup"), 405)

    def test_apply(self):
        """a look-up goes through apply; a loop is an error and not a hang"""
        self.api.post("/rules", {"rule": {"name": "outer", "action": {"apply": "rl"}}})
        self.api.post("/rulelists", {"rulelist": {"name": "top", "rules": ["outer"]}})
        self.assertEqual(self.api.post("/rulelists/top/lookup", {"metadata": {"a": 0}})[1]["rule"], "r0")
        self.api.post("/rules", {"rule": {"name": "loop", "action": {"apply": "ring"}}})
        self.api.post("/rulelists", {"rulelist": {"name": "ring", "rules": ["loop", "loop"]}})
        status, body = self.api.post("/rulelists/ring/lookup", {"metadata": {}})
        self.assertGreaterEqual(status, 400)
        self.assertIn("message", body)

    def test_apply_fans_out(self):
        """a recursive GET of rule lists that apply each other shows each of them in full once, and by name elsewhere"""
        for i in range(12):
            rules = [{"name": f"r{i}-{j}", "action": {"apply": f"l{i + 1}"}} for j in range(10)]
            self.assertEqual(self.api.post("/rulelists", {"rulelist": {"name": f"l{i}", "rules": rules}})[0], 200)
        status, body = self.api.get("/rulelists/l0?recursive=true")
        self.assertEqual(status, 200)
        shown, names = [], []

        def walk(rulelist):
            shown.append(rulelist["name"])
            for rule in rulelist["rules"]:
                to = rule["action"]["apply"]
                if isinstance(to, dict):
                    walk(to)
                else:
                    names.append(to)
        walk(body)
        self.assertEqual(shown, [f"l{i}" for i in range(12)])
        self.assertEqual(names.count("l5"), 9)
        self.assertEqual(set(names), {f"l{i}" for i in range(1, 12)} | {"l12:<STALE>"})
        self.assertEqual(self.api.call("PUT", "/rulelists/l0", {"rulelist": body})[0], 200)
        self.assertEqual(self.api.get("/rulelists/l0?recursive=true")[1], body)
        for path in ("/rulelists", "/config"):
            status, body = self.api.get(path + "?recursive=true")
            self.assertEqual(status, 200)
            self.assertLess(len(json.dumps(body)), 1 << 20)


class Http(Base):
    def test_content_types(self):
        """eight content types and their parameters; others are 415"""
        n = 0
        good = ["application/json", "application/x-json", "text/json", "text/x-json",
                "text/yaml", "text/x-yaml", "application/yaml", "application/x-yaml"]
        for given in good + [t.upper() for t in good] + [t + "; charset=utf-8" for t in good]:
            body = json.dumps({"cluster": {"name": f"n{n}", "spec": {"protocol": "Echo"}}})
            if "yaml" in given.lower():
                body = f"cluster:\n  name: n{n}\n  spec: {{ protocol: Echo }}\n"
            self.assertEqual(self.api.post("/clusters", body, given), OK, given)
            n += 1
        for given in ("text/plain", "application/x-www-form-urlencoded", "application/jsonx", "json", "multipart/form-data"):
            self.is_error(self.api.post("/clusters", '{"cluster":{}}', given), 415)
        self.is_error(self.api.post("/clusters", b'{"cluster":{}}'), 415)
        self.is_error(self.api.post("/clusters", "", "application/json"), 400)
        self.is_error(self.api.post("/clusters", "{", "application/json"), 400)
        self.is_error(self.api.post("/clusters", "a: [", "text/yaml"), 400)
        body = self.is_error(self.api.post("/clusters", "a: 1\nb: [\nc", "text/yaml"), 400)
        self.assertIn("line", body["message"])
        # an empty body with a JSON type is fine where none is needed
        self.assertEqual(self.api.call("GET", "/clusters", "", "application/json")[0], 200)
        self.assertEqual(self.api.call("DELETE", "/clusters/n0", "", "application/json"), OK)
        self.assertEqual(self.api.put("/clusters/n1", "cluster: { spec: { protocol: Discard } }", "text/yaml"), OK)

    def test_formats(self):
        """?format shapes the text, the content stays"""
        want = self.api.get("/config?format=plain")[1]
        for key in ("sessions",):
            want.pop(key)
        texts = set()
        for form in ("plain", "space", "lines", "diffy"):
            status, got = self.api.get(f"/config?format={form}")
            self.assertEqual(status, 200)
            got.pop("sessions")
            self.assertEqual(got, want, form)
            conn = http.client.HTTPConnection("127.0.0.1", 1234, timeout=60)
            conn.request("GET", f"/api/v1/clusters?format={form}")
            texts.add(conn.getresponse().read())
            conn.close()
        self.assertGreater(len(texts), 2, texts)
        status, got = self.api.get("/clusters?format=terse")
        self.assertEqual(status, 200)
        self.assertIn("l7mp-controller", str(got))
        self.is_error(self.api.get("/config?format=xml"), 400)
        self.is_error(self.api.get("/config?recursive=maybe"), 400)
        for yes in ("true", "1", "TRUE", ""):
            self.assertIsInstance(self.api.get(f"/listeners?recursive={yes}")[1][0]["rules"], list)
        self.assertIsInstance(self.api.get("/listeners?recursive=false")[1][0]["rules"], str)

    def test_unknown_paths(self):
        """what is not there is 404 with a body"""
        for path in ("/api/v1/nothing", "/api/v2/config", "/api/v1/listeners/a/b", "/api/v1/config/x",
                     "/api/v1x/config", "/api/v1/sessions/none", "/api/v1/a/b/c/d/e/f/g/h/i/j/k", "/api/v1/"):
            self.is_error(self.api.get(path), 404)
        self.is_error(self.api.delete("/sessions/none"), 404)
        conn = http.client.HTTPConnection("127.0.0.1", 1234, timeout=60)
        conn.request("GET", "/")
        self.assertEqual(conn.getresponse().status, 404)
        conn.close()

    def test_methods(self):
        """405 names what is allowed"""
        for path, allow in (("/config", "GET, HEAD, POST"), ("/admin", "GET, HEAD, POST"), ("/sessions", "GET, HEAD"),
                            ("/openapi.json", "GET, HEAD"), ("/offload", "GET, HEAD"),
                            ("/sessions/x", "GET, HEAD, DELETE"), ("/rulelists/x/lookup", "POST"),
                            ("/endpoints/x", "GET, HEAD, PUT, DELETE"), ("/clusters/x/endpoints", "GET, HEAD, POST"),
                            ("/rulelists/x/rules/0", "GET, HEAD, POST, DELETE")):
            self.is_error(self.api.call("PATCH", path, {}), 405)
            self.assertEqual(self.api.last_headers["allow"], allow, path)

    def test_head(self):
        """HEAD has GET's length and no body"""
        conn = http.client.HTTPConnection("127.0.0.1", 1234, timeout=60)
        conn.request("GET", "/api/v1/admin")
        length = len(conn.getresponse().read())
        conn.request("HEAD", "/api/v1/admin")
        r = conn.getresponse()
        self.assertEqual((r.status, r.getheader("content-length"), r.read()), (200, str(length), b""))
        conn.request("HEAD", "/api/v1/clusters")  # made while it is read: its length is not known
        r = conn.getresponse()
        self.assertEqual((r.status, r.read()), (200, b""))
        conn.close()

    def test_headers(self):
        """JSON says so, is not stored nor sniffed, and there is no CORS"""
        self.api.get("/config")
        h = self.api.last_headers
        self.assertEqual(h["content-type"], "application/json")
        self.assertEqual(h["cache-control"], "no-store")
        self.assertEqual(h["x-content-type-options"], "nosniff")
        self.assertNotIn("access-control-allow-origin", h)

    def test_too_large(self):
        """a body beyond max_body is 413, with length and chunked, and counted"""
        self.assertEqual(self.api.post("/admin", {"admin": {"limits": {"max_body": 4096}}}), OK)
        big = json.dumps({"cluster": {"name": "x" * 5000, "spec": {"protocol": "Echo"}}})
        self.is_error(self.api.post("/clusters", big, "application/json"), 413)
        conn = http.client.HTTPConnection("127.0.0.1", 1234, timeout=60)
        conn.request("POST", "/api/v1/clusters", iter([b"x" * 3000] * 5), {"Content-Type": "application/json"},
                     encode_chunked=True)
        self.assertEqual(conn.getresponse().status, 413)
        conn.close()
        small = json.dumps({"cluster": {"name": "x" * 100, "spec": {"protocol": "Echo"}}})
        conn = http.client.HTTPConnection("127.0.0.1", 1234, timeout=60)
        conn.request("POST", "/api/v1/clusters", iter([small[:20].encode(), small[20:].encode()]),
                     {"Content-Type": "application/json"}, encode_chunked=True)
        self.assertEqual(conn.getresponse().status, 200)
        conn.close()
        self.assertEqual(self.api.get("/clusters/" + "x" * 100)[0], 200)

    def test_admin(self):
        """admin: what can change at run time does, what can't is refused; version is read only"""
        admin = self.api.get("/admin")[1]
        self.assertIn("version", admin)
        self.assertEqual(admin["log_level"], "warn")
        self.assertEqual(self.api.post("/admin", {"admin": admin}), OK)
        self.assertEqual(self.api.post("/admin", {"log_level": "info", "limits": {"max_sessions": 77}}), OK)
        admin = self.api.get("/admin")[1]
        self.assertEqual((admin["log_level"], admin["limits"]["max_sessions"]), ("info", 77))
        self.is_error(self.api.post("/admin", {"admin": {"instance": "other"}}), 400)
        self.is_error(self.api.post("/admin", {"admin": {"log_level": "loud"}}), 422)
        self.is_error(self.api.post("/admin", {"admin": []}), 422)
        self.assertEqual(self.api.get("/admin")[1], admin)
        self.assertEqual(self.api.post("/admin", {"admin": {"log_level": "warn"}}), OK)

    def test_offload(self):
        """the kernel fast path's state and flows are shown"""
        status, body = self.api.get("/offload")
        self.assertEqual(status, 200)
        self.assertIn("state", body)
        self.assertIn("protocol", body["reasons"])
        status, body = self.api.get("/offload/flows")
        self.assertEqual((status, body), (200, []))

    def test_sessions(self):
        """sessions are listed, shown by name and deleted"""
        self.api.post("/listeners", {"listener": {
            "name": "t", "spec": {"protocol": "TCP", "address": "127.0.0.1", "port": 15000},
            "rules": [{"action": {"route": ECHO}}]}})
        import socket
        with socket.create_connection(("127.0.0.1", 15000), 30) as s:
            s.settimeout(30)
            s.sendall(b"x" * 1000)
            got = b""
            while len(got) < 1000:
                got += s.recv(2000)
            name = f"TCP:127.0.0.1:{s.getsockname()[1]}-127.0.0.1:15000"
            status, body = self.api.get("/sessions/" + name.replace(":", "%3A"))
            self.assertEqual((status, body["name"], body["status"]), (200, name, "CONNECTED"))
            for key in ("metadata", "source", "destination", "ingress", "egress", "events", "stats", "offload"):
                self.assertIn(key, body)
            self.assertEqual(body["source"]["listener"], "t")
            self.assertIn("1000", json.dumps(body["stats"]))
            self.assertEqual(len(self.api.get("/sessions")[1]), 2)
            self.assertEqual(self.api.delete("/sessions/" + name), OK)
            self.assertEqual(s.recv(10), b"")
        self.is_error(self.api.get("/sessions/" + name), 404)


class OpenApi(Base):
    def test_openapi(self):
        """openapi.json and .yaml are the same document, its references resolve, its paths answer"""
        status, doc = self.api.get("/openapi.json")
        self.assertEqual(status, 200)
        status, text = self.api.get("/openapi.yaml")
        self.assertEqual(yaml.safe_load(text), doc)
        self.assertRegex(doc["openapi"], r"^3\.0\.\d+$")
        self.assertTrue(doc["info"]["title"] and doc["info"]["version"])

        def refs(node):
            if isinstance(node, dict):
                if isinstance(node.get("$ref"), str):
                    yield node["$ref"]
                for v in node.values():
                    yield from refs(v)
            elif isinstance(node, list):
                for v in node:
                    yield from refs(v)
        for ref in refs(doc):
            at = doc
            for part in ref.lstrip("#/").split("/"):
                at = at[part.replace("~1", "/").replace("~0", "~")]
        ids = [op["operationId"] for ops in doc["paths"].values() for k, op in ops.items() if k != "parameters"]
        self.assertEqual(len(ids), len(set(ids)))
        for path, ops in doc["paths"].items():
            path = path if path.startswith("/api/v1") else "/api/v1" + path
            real = path.replace("{name}", "nothing").replace("{position}", "0")
            for method in ("get", "post", "put", "delete"):
                if (method, real) == ("post", "/api/v1/upgrade"):
                    continue  # it would put another process in the place of this one: api/test_upgrade.py
                status, _ = self.api.call(method.upper(), real, b"" if method in ("post", "put") else None)
                if method in ops:
                    self.assertNotIn(status, (405, 500), (method, real))
                else:
                    self.assertEqual(status, 405, (method, real))


if __name__ == "__main__":
    l7test.main()
