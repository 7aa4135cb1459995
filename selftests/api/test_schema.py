#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=180
"""For each object and each key of the schema: wrong type, out of range, unknown, missing; broken documents."""
import copy
import json
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402

ROUTE = {"destination": {"spec": {"protocol": "Echo"}}}
# Complete documents, from which each mutation departs: kind -> list of (what, object).
RETRY = {"retry_on": "always", "num_retries": 1, "timeout": 100}
OBJECTS = {
    "listener": [
        ("UDP", {"spec": {"protocol": "UDP", "address": "127.0.0.1", "port": 0, "connect": {"address": "127.0.0.1", "port": 9},
                          "options": {"mode": "server", "dscp": 1, "rcvbuf": 65536, "sndbuf": 65536, "reuseport": False}},
                 "rules": [{"action": {"route": ROUTE}}], "options": {"track": 1, "idle_timeout": 1, "offload": "never"}}),
        ("TCP", {"spec": {"protocol": "TCP", "address": "127.0.0.1", "port": 0}, "rules": "x"}),
        ("HTTP", {"spec": {"protocol": "HTTP", "address": "127.0.0.1", "port": 0, "options": {"user_timeout": 30}}, "rules": "x"}),
        ("WebSocket", {"spec": {"protocol": "WebSocket", "address": "127.0.0.1", "port": 0, "path": "/x"}, "rules": "x"}),
        ("UNIX", {"spec": {"protocol": "UnixDomainSocket", "filename": "@l7mp-test-schema"}, "rules": "x"}),
    ],
    "cluster": [
        ("UDP", {"spec": {"protocol": "UDP", "port": 9, "bind": {"address": "127.0.0.1", "port": 0}},
                 "endpoints": [{"name": "en", "spec": {"address": "127.0.0.1"}, "weight": 2}],
                 "loadbalancer": {"policy": "HashRing", "key": "/a"}, "options": {}}),
        ("TCP", {"spec": {"protocol": "TCP", "port": 9, "bind": {"address": "127.0.0.1", "port": 0}}}),
        ("WebSocket", {"spec": {"protocol": "WebSocket", "port": 9, "path": "/", "subprotocol": "x", "bind": {"address": "127.0.0.1"}}}),
        ("UNIX", {"spec": {"protocol": "UnixDomainSocket"}, "endpoints": [{"spec": {"address": "@x"}}]}),
        ("Logger", {"spec": {"protocol": "Logger", "log_file": "-", "log_prefix": "x"}}),
        ("Echo", {"spec": {"protocol": "Echo"}}),
    ],
    "rulelist": [("", {"rules": [{"action": {"route": "x"}}, "x"]})],
    "rule": [("", {"match": {"op": "and", "path": "/a", "apply": [
        {"op": "contains", "path": "/x", "value": "y", "ignore_case": True}, {"op": "matches", "path": "/b", "value": "a.*"},
        {"op": "in", "path": "/b", "value": [1]}, {"op": "type", "path": "/b", "value": "date"},
        {"op": "less", "path": "/b", "value": 1}, {"op": "not", "apply": [{"op": "defined", "path": "/x"}]}]},
        "action": {"rewrite": [{"path": "/a", "value": 1}], "route": ROUTE, "apply": "x"}})],
    "route": [("", {"destination": {"spec": {"protocol": "Echo"}}, "ingress": ["x", {"spec": {"protocol": "Logger"}}],
                    "egress": ["y"], "retry": RETRY, "offload": "auto"})],
}
PLURAL = {"listener": "listeners", "cluster": "clusters", "rulelist": "rulelists", "rule": "rules", "route": "routes"}
# One value of each JSON type; those that fit a key are found by asking, never by assuming.
VALUES = [None, True, 17.5, -1, 4294967296.5, "", "a b", "\u0001", [], [None], [[]], {}, {"x": {}}, 1e30, 1e300]


def places(node, path=()):
    """The path of every key and element below node."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield path + (key,)
        yield from places(value, path + (key,))


def at(node, path):
    for key in path:
        node = node[key]
    return node


def text(path):
    out = ""
    for key in path:
        out += f"[{key}]" if isinstance(key, int) else ("." if out else "") + key
    return out


class Schema(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.proxy = l7test.Proxy({"admin": {"strict": True}, "listeners": [l7test.controller()]}, "-l", "error")
        cls.api = cls.proxy.api
        cls.before = cls.config()

    @classmethod
    def tearDownClass(cls):
        cls.proxy.stop()

    @classmethod
    def config(cls):
        body = cls.api.get("/config")[1]
        body.pop("sessions", None)
        return body

    def refused(self, kind, obj, where, what):
        """422 whose content names `where` (or a place within), as object and within a whole config."""
        status, body = self.api.post("/" + PLURAL[kind], {kind: obj})
        self.assertEqual(status, 422, (what, obj, body))
        paths = [c["path"] for c in body["content"]]
        self.assertTrue(paths and all(c["reason"] for c in body["content"]), (what, body))
        self.assertTrue(any(p.startswith(kind) for p in paths), (what, paths))
        if where is not None:
            self.assertTrue(any(where in p for p in paths), (what, where, body["content"]))
        return body

    def each(self):
        for kind, samples in OBJECTS.items():
            for what, sample in samples:
                yield kind, f"{kind} {what}", dict(sample, name="n")

    def drop(self, kind, api=None):
        status, body = self.api.delete(f"/{PLURAL[kind]}/n?recursive=true")
        self.assertEqual(status, 200, body)

    def test_samples_are_valid(self):
        """the documents that the mutations start from are accepted in strict mode"""
        for kind, what, sample in self.each():
            status, body = self.api.post("/" + PLURAL[kind], {kind: sample})
            self.assertEqual(status, 200, (what, body))
            self.drop(kind)
        self.assertEqual(self.config(), self.before)

    def test_wrong_type(self):
        """each key with a value of each JSON type: accepted as valid or 422 with its path"""
        refused = accepted = 0
        for kind, what, sample in self.each():
            for path in places(sample):
                wrong = 0
                for value in VALUES:
                    obj = copy.deepcopy(sample)
                    at(obj, path[:-1])[path[-1]] = value
                    status, body = self.api.post("/" + PLURAL[kind], {kind: obj})
                    if status == 200:
                        accepted += 1
                        name = obj.get("name") if isinstance(obj.get("name"), str) else None
                        if name == "n":
                            self.drop(kind)
                        else:
                            self.clean(kind)
                        continue
                    self.assertEqual(status, 422, (what, text(path), value, body))
                    paths = [c["path"] for c in body["content"]]
                    self.assertTrue(paths, (what, text(path), value, body))
                    head = f"{kind}.{text(path[:1])}"
                    self.assertTrue(any(p.startswith(head) or p == kind for p in paths), (what, text(path), value, body))
                    wrong += 1
                    refused += 1
                if "value" not in path and path[-1] not in ("options", "offload") and "options" not in path[-2:]:
                    self.assertGreater(wrong, 4, f"{what}: {text(path)} takes nearly anything")
        print(f"# {refused} refused, {accepted} accepted")
        self.assertEqual(self.config(), self.before)

    def clean(self, kind):
        for o in self.api.get("/" + PLURAL[kind])[1]:
            if o["name"] not in [b["name"] for b in self.before[PLURAL[kind]]]:
                from urllib.parse import quote
                status, body = self.api.delete(f"/{PLURAL[kind]}/{quote(o['name'], safe='')}?recursive=true")
                self.assertEqual(status, 200, body)

    def test_unknown(self):
        """an unknown key in each object: 422 in strict mode, with its path"""
        for kind, what, sample in self.each():
            for path in [()] + list(places(sample)):
                if not isinstance(at(sample, path), dict) or path[-1:] in (("options",), ("value",)) and kind == "cluster":
                    continue
                obj = copy.deepcopy(sample)
                at(obj, path)["surprise"] = 1
                self.refused(kind, obj, "surprise", (what, text(path)))
        self.assertEqual(self.config(), self.before)

    def test_missing(self):
        """each key left out: valid, or 422 that says which is missing"""
        required = set()
        for kind, what, sample in self.each():
            for path in places(sample):
                if isinstance(path[-1], int):
                    continue
                obj = copy.deepcopy(sample)
                del at(obj, path[:-1])[path[-1]]
                status, body = self.api.post("/" + PLURAL[kind], {kind: obj})
                if status == 200:
                    self.clean(kind)
                    continue
                self.assertEqual(status, 422, (what, text(path), body))
                self.assertIn(path[-1], json.dumps(body), (what, text(path), body))
                required.add((kind, text(path)))
        for key in (("listener", "name"), ("listener", "spec"), ("listener", "spec.protocol"), ("listener", "spec.port"),
                    ("listener", "rules"), ("cluster", "spec"), ("cluster", "endpoints[0].spec.address"),
                    ("rule", "action"), ("rulelist", "rules"), ("route", "destination"), ("rule", "match.apply[0].value"),
                    ("rule", "action.rewrite[0].path"), ("cluster", "loadbalancer.policy")):
            self.assertIn(key, required)
        self.assertEqual(self.config(), self.before)

    def test_ranges(self):
        """numbers just beyond their range, enumerations beyond their list"""
        def spec(**kw):
            return {"name": "n", "spec": dict({"protocol": "UDP", "port": 1}, **kw), "rules": "x"}
        for kind, obj, where in (
                ("listener", spec(port=65536), "spec.port"), ("listener", spec(port=-1), "spec.port"),
                ("listener", spec(port=1.5), "spec.port"), ("listener", spec(port="80"), "spec.port"),
                ("listener", spec(address="1.2.3"), "spec.address"), ("listener", spec(address="localhost"), "spec.address"),
                ("listener", spec(connect={"port": 0}), "spec.connect.port"),
                ("listener", spec(options={"mode": "client"}), "spec.options.mode"),
                ("listener", spec(protocol="SCTP"), "spec.protocol"),
                ("listener", spec(protocol="Echo"), "spec.protocol"),
                ("listener", dict(spec(), options={"track": -1}), "options.track"),
                ("listener", dict(spec(), options={"idle_timeout": -0.1}), "options.idle_timeout"),
                ("listener", dict(spec(), options={"offload": "maybe"}), "options.offload"),
                ("cluster", {"name": "n", "spec": {"protocol": "HTTP", "port": 1}}, "spec.protocol"),
                ("cluster", {"name": "n", "spec": {"protocol": "TCP", "port": 0}}, "spec.port"),
                ("cluster", {"name": "n", "spec": {"protocol": "TCP", "port": 1}, "endpoints": [
                    {"spec": {"address": "::1"}, "weight": -1}]}, "endpoints[0].weight"),
                ("cluster", {"name": "n", "spec": {"protocol": "TCP", "port": 1}, "loadbalancer": {"policy": "x"}}, "loadbalancer.policy"),
                ("route", {"name": "n", "destination": "x", "retry": {"retry_on": "sometimes"}}, "retry.retry_on"),
                ("route", {"name": "n", "destination": "x", "retry": {"num_retries": -1}}, "retry.num_retries"),
                ("route", {"name": "n", "destination": "x", "retry": {"timeout": 0}}, "retry.timeout"),
                ("rule", {"name": "n", "match": {"op": "near", "path": "/a"}, "action": {"route": "x"}}, "match.op"),
                ("rule", {"name": "n", "match": {"op": "matches", "path": "/a", "value": "("}, "action": {"route": "x"}}, "match"),
                ("rule", {"name": "n" * 256, "action": {"route": "x"}}, "name")):
            self.refused(kind, obj, where, obj)
        deep = leaf = {}
        for _ in range(300):
            leaf["apply"] = [{"op": "and"}]
            leaf = leaf["apply"][0]
        status, _ = self.api.post("/rules", {"rule": {"name": "n", "match": dict(deep, op="and"), "action": {"route": "x"}}})
        self.assertIn(status, (400, 422))
        for key, value in (("max_sessions", 0), ("max_body", 10), ("new_sessions_per_second", -5), ("max_queue", 1)):
            status, body = self.api.post("/admin", {"admin": {"limits": {key: value}}})
            self.assertEqual((status, body["content"][0]["path"]), (422, f"admin.limits.{key}"))
        self.assertEqual(self.config(), self.before)

    def test_broken_documents(self):
        """text that is not JSON or YAML is 400 with a line; what is too deep or too big in effect is refused"""
        jsons = ["{", "}", "[1,", '{"a":}', '{"a":1,}', "{'a':1}", "nul", '{"a":"\x01"}', '{"a":01}', '{"a":1} x', '"\\ud800"x',
                 "\x00", '{"a": NaN}', "[" * 5000, '{"a":' * 5000, '{"a":1,"a":2}', "\ufeff{", '{"a":"' + "x" * 100]
        for t in jsons:
            status, body = self.api.post("/clusters", t.encode(), "application/json")
            self.assertIn(status, (400, 422), (t[:40], body))
        bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))
        yamls = ["a: [", "a: b: c", "\ta: 1", "a: 1\na: 2", "*x", "a: *x", "&a a: *a", "--- a\n--- b", "- " * 5000, "{" * 5000,
                 bomb, "a: !!binary x\n b", "%YAML 9.9\n---\na: 1", "a: \"\\q\"", "\x00", "? [a]\n: b", "<<: 5", "a: .nan"]
        for t in yamls:
            status, body = self.api.post("/clusters", t.encode(), "text/yaml")
            self.assertIn(status, (400, 422), (t[:40], body))
        body = self.api.post("/clusters", '{\n"a": 1,\n"b" 2}', "application/json")[1]
        self.assertIn("line 3", body["message"])
        body = self.api.post("/clusters", "a: 1\nb: 2\nc: [\n", "text/yaml")[1]
        self.assertRegex(body["message"], "line [345]")
        for noise in (bytes(range(256)), b"\xff\xfe{\x00}\x00", os.urandom(3000)):
            for kind in ("application/json", "text/yaml"):
                self.assertIn(self.api.post("/clusters", noise, kind)[0], (400, 422))
        self.assertEqual(self.config(), self.before)


if __name__ == "__main__":
    l7test.main()
