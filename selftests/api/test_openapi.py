#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=600
"""Every answer is what /openapi.json says: each route, with each status that it may have, in each format.

The cases are made from the document, so that a new route is tested, too: for one that nobody wrote a
request for, the test fails.
"""
import json
import os
import socket
import sys
import unittest
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402
import openapi  # noqa: E402
import yaml  # noqa: E402

FORMATS = ("plain", "terse", "space", "lines", "diffy")
JSON = "application/json"
HOSTILE = {"name": "hostile", "rules": [{"name": "h", "match": {"op": "matches", "path": "/name", "value": "^(a|aa)+$"}, "action": {}}]}
CONFIG = {
    "admin": {"log_level": "error", "limits": {"max_body": 100000}},
    "listeners": [
        l7test.controller(),
        {"name": "tcp", "spec": {"protocol": "TCP", "address": "127.0.0.1", "port": 15000}, "rules": "list", "options": {"track": 1000}},
        {"name": "udp", "spec": {"protocol": "UDP", "address": "127.0.0.1", "port": 0}, "rules": [{"action": {"route": {
            "destination": {"name": "echo", "spec": {"protocol": "Echo"}}, "ingress": [{"name": "log", "spec": {"protocol": "Logger"}}]}}}]}],
    "clusters": [{"name": "c", "spec": {"protocol": "TCP", "port": 15009}, "endpoints": [
        {"name": "e", "spec": {"address": "127.0.0.1"}, "weight": 2}, {"name": "e2", "spec": {"address": "127.0.0.2", "port": 9}, "drop": True}],
                  "loadbalancer": {"policy": "ConsistentHash", "key": "/IP/src_addr"}}],
    "rulelists": [{"name": "list", "rules": ["r", {"name": "r2", "action": {"apply": "list2"}}]}, {"name": "list2", "rules": []}, HOSTILE],
    "rules": [{"name": "r", "match": {"op": "defined", "path": "/IP"}, "action": {"rewrite": [{"path": "/x", "value": 1}], "route": "route"}}],
    "routes": [{"name": "route", "destination": "c", "retry": {"retry_on": "connect-failure", "num_retries": 0, "timeout": 100}}],
}
NAMES = {"listeners": "tcp", "clusters": "c", "rulelists": "list", "rules": "r", "routes": "route", "endpoints": "e"}
NEW = {  # wrapper: an object that is not there
    "listener": {"name": "new", "spec": {"protocol": "TCP", "address": "127.0.0.1", "port": 15001}, "rules": "list"},
    "cluster": {"name": "new", "spec": {"protocol": "UDP", "port": 1}}, "endpoint": {"name": "new", "spec": {"address": "127.0.0.2"}},
    "rulelist": {"name": "new", "rules": []}, "rule": {"name": "new", "action": {}}, "route": {"name": "new", "destination": "c"}}
BROKEN = {"listener": {"name": "bad", "spec": {"protocol": "TCP", "port": -1}}, "cluster": {"name": "bad", "spec": {"protocol": "Nothing"}},
          "endpoint": {"name": "bad", "spec": 5}, "rulelist": {"name": "bad"}, "rule": {"name": "bad", "match": {"op": "x"}},
          "route": {"name": "bad", "retry": {"retry_on": "x"}}}


class Answers(unittest.TestCase):
    def start(self, config=None, *args):
        self.proxy = l7test.Proxy(config or CONFIG, "-o", "disable", *args)
        self.addCleanup(lambda: self.proxy.alive() and self.proxy.stop())
        self.api = self.proxy.api
        self.document = None

    def load(self, **kw):
        self.document = openapi.Document(self.api.get("/openapi.json", **kw)[1])
        self.operations = [(path, method.upper()) for path, methods in self.document.document["paths"].items() for method in methods
                           if (path, method) != ("/upgrade", "post")]  # test_upgrade.py: the process would be another one

    def wrapper(self, path):
        kind = path.split("/")[1]
        if path.endswith("/endpoints"):
            return "endpoint"
        if "/rules/" in path:
            return "rule"
        return kind.rstrip("s") if kind in NAMES else None

    def fill(self, path, name=None, position="0"):
        kind = path.split("/")[1]
        if kind == "sessions" and name is None and "{name}" in path:
            name = self.session()
        name = name or NAMES.get(kind, "")
        return path.replace("{name}", urllib.parse.quote(name, safe="")).replace("{position}", position)

    def session(self):
        """The name of one that is there: the one that lists it would not be any more."""
        return next(s["name"] for s in self.api.get("/sessions")[1] if s["name"].startswith("TCP:"))

    def body(self, path, good=True):
        table, wrapper = NEW if good else BROKEN, self.wrapper(path)
        if path == "/config":
            return {"config": CONFIG if good else {"listeners": None}}
        if path == "/admin":
            return {"admin": {"log_level": "error" if good else 5}}
        if "{position}" in path and good:  # the rule by its name: once it is made, it is in the way of /rules
            return {"rule": "r2"}
        if path.endswith("/lookup"):
            return {"metadata": {"IP": {}, "name": "x"}} if good else {"metadata": 5}
        if path == "/drain":
            return {"timeout": 0 if good else -1}
        return {wrapper: table[wrapper]}

    def check(self, path, method, target, status=None, body=None, kind=None, headers=None, text=None):
        """Does one request and holds the answer against the document."""
        got, answer = self.api.call(method, target, text if text is not None else body, kind, headers)
        media = self.api.last_headers["content-type"]
        if media == "application/yaml":
            answer = yaml.safe_load(answer)
        if media.startswith("text/plain"):
            answer = str(answer)
        with self.subTest(method=method, target=target, status=got):
            if status is not None:
                self.assertEqual(got, status, str(answer)[:300])
            self.assertEqual(self.document.answer_errors(path, method, got, media, answer), [])
            if got != 200 and media == JSON:
                self.assertEqual(answer["status"], got)
        return got, answer

    def dead_session(self):
        """Its upstream refuses, so that the client may be reset as soon as it is accepted."""
        try:
            socket.create_connection(("127.0.0.1", 15000), 60).close()
        except ConnectionError:
            pass
        self.assertTrue(l7test.wait_for(self.session))

    def test_success(self):
        """200 of each GET in each format, single and recursive"""
        self.start()
        self.load()
        self.dead_session()
        for path, method in self.operations:
            if method != "GET":
                continue
            parameters = {p["name"] for p in self.document.document["paths"][path]["get"]["parameters"]}
            for form in FORMATS if "format" in parameters else ("",):
                for query in ("", "&recursive=true") if "recursive" in parameters else ("",):
                    self.check(path, method, f"{self.fill(path)}?format={form}{query}" if form else self.fill(path), 200)
        # Names and positions, pages, and what is not a list of one's own.
        self.check("/rulelists/{name}/rules/{position}", "GET", "/rulelists/list/rules/r", 200)
        self.check("/sessions", "GET", "/sessions?limit=1", 200)
        self.check("/listeners", "GET", "/listeners?limit=1&after=tcp", 200)

    def test_changes(self):
        """200 of each change, in JSON and in YAML; then 409, 412 and, once it is gone, 404"""
        self.start()
        self.load()
        for text in (json.dumps, yaml.safe_dump):
            kind = JSON if text is json.dumps else "application/yaml"
            self.assertEqual(self.api.post("/config", CONFIG)[0], 200)
            self.dead_session()
            for path, method in self.operations:
                target, body = self.fill(path), self.body(path) if method in ("POST", "PUT") else None
                responses = self.document.document["paths"][path][method.lower()]["responses"]
                if method == "POST":
                    self.check(path, method, target, 200, kind=kind, text=text(body))
                    if "409" in responses and "position" not in path:
                        self.check(path, method, target, 409, kind=kind, text=text(body))
                if method == "PUT":
                    shown = self.api.get(target)[1]
                    self.check(path, method, target, 200, kind=kind, text=text({self.wrapper(path): shown}))
                if path == "/drain" and method == "POST":
                    self.check(path, "GET", target, 200)
                    self.check(path, "DELETE", target, 200)
                if "412" in responses:
                    self.check(path, method, target, 412, kind=kind if body else None, text=text(body) if body else None, headers={"If-Match": '"x"'})
            for path, method in self.operations:
                if method == "DELETE":
                    name = None if "position" in path or "sessions" in path else "new"
                    if name and path.startswith("/endpoints"):
                        name = "e"
                    target = self.fill(path, name)
                    self.check(path, method, target, 200)

    def test_not_there(self):
        """404 of each route with a name, and of what a page is to continue after"""
        self.start()
        self.load()
        for path, method in self.operations:
            body = self.body(path) if method in ("POST", "PUT") else None
            if "{name}" in path and (method != "PUT" or path.startswith("/endpoints")):
                self.check(path, method, self.fill(path, "not/there"), 404, body)
            if "{position}" in path:
                self.check(path, method, self.fill(path, position="17"), 404, body)
        for path in ("/sessions", "/listeners", "/config", "/offload/flows"):
            self.check(path, "GET", path + "?after=not-there", 404 if path != "/config" else None)
        self.check("/rulelists/{name}/lookup", "POST", "/rulelists/list2/lookup", 404, {"metadata": {}})

    def test_refused(self):
        """400, 413, 415, 422 and 503 of each route that may have them"""
        self.start()
        self.load()
        for path, method in self.operations:
            responses = self.document.document["paths"][path][method.lower()]["responses"]
            target = self.fill(path, "x" if "sessions" in path else None)
            if "format" in {p["name"] for p in self.document.document["paths"][path][method.lower()]["parameters"]}:
                self.check(path, method, target + "?format=bad", 400)
            self.check(path, method, target + "?recursive=perhaps", 400)
            if "{name}" in path:
                self.check(path, method, self.fill(path, "x").replace("/x", "/%zz"), 400)
            if "422" not in responses:
                continue
            for form in FORMATS:
                query = f"?format={form}"
                self.check(path, method, target + query, 422, self.body(path, False))
                self.check(path, method, target + query, 422, text=yaml.safe_dump(self.body(path, False)), kind="text/yaml")
                self.check(path, method, target + query, 422, text="[]", kind=JSON)
                self.check(path, method, target + query, 400, text="{", kind=JSON)
                self.check(path, method, target + query, 400, text="a: [", kind="text/x-yaml")
                if self.document.document["paths"][path][method.lower()]["requestBody"]["required"]:
                    self.check(path, method, target + query, 400, text="", kind=JSON)
                self.check(path, method, target + query, 415, text="{}", kind="text/html")
                self.check(path, method, target + query, 413, text="x" * 200000, kind=JSON)
        with socket.create_server(("127.0.0.1", 15001)):
            self.check("/listeners", "POST", "/listeners", 400, self.body("/listeners"))
        self.check("/rulelists/{name}/lookup", "POST", "/rulelists/hostile/lookup", 503, {"metadata": {"name": "a" * 10000 + "!"}})
        self.check("/routes/{name}", "PUT", "/routes/route", 409, {"destination": {"name": "c", "spec": {"protocol": "UDP", "port": 5}}})

    def test_methods(self):
        """405 with Allow of each path, and 404 where there is none: errors as the document has them"""
        self.start()
        self.load()
        error = {"$ref": "#/components/schemas/error"}
        for path in self.document.document["paths"]:
            known = {m for p, m in self.operations if p == path} | ({"POST"} if path == "/upgrade" else set())
            for method in ("GET", "POST", "PUT", "DELETE", "PATCH"):
                if method in known:
                    continue
                status, answer = self.api.call(method, self.fill(path, "x"))
                self.assertEqual((status, self.document.errors(error, answer)), (405, []))
                self.assertEqual(set(self.api.last_headers["allow"].split(", ")), known | ({"HEAD"} if "GET" in known else set()))
        status, answer = self.api.get("/nothing")
        self.assertEqual((status, self.document.errors(error, answer)), (404, []))

    def test_who(self):
        """401, 429 and 403 of each route: no token, a wrong one too often, a host that is not this one"""
        token = os.path.join("/tmp", f"l7mp-test-token-{os.getpid()}")
        with open(os.open(token, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w") as f:
            f.write("secret")
        self.addCleanup(os.unlink, token)
        self.start({**CONFIG, "admin": {"api_token_file": token}})
        self.load(headers={"Authorization": "Bearer secret"})
        for i, (path, method) in enumerate(self.operations):
            self.api.source = f"127.0.1.{1 + i}"  # each address may be wrong some times
            self.check(path, method, self.fill(path, "x"), 401)
        limited = False
        for _ in range(200):
            limited = limited or self.check("/admin", "GET", "/admin", headers={"Authorization": "Bearer wrong"})[0] == 429
        self.assertTrue(limited)
        for path, method in self.operations:
            self.check(path, method, self.fill(path, "x"), 429, headers={"Authorization": "Bearer wrong"})
        self.proxy.stop()
        self.start()
        self.load()
        for path, method in self.operations:
            self.check(path, method, self.fill(path, "x"), 403, headers={"Host": "example.com"})


if __name__ == "__main__":
    l7test.main()
