#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=600
"""What GET shows of an object can be put back as it is, single and recursive: for every object of every example.

Nothing changes then: neither what GET shows, nor the whole config, nor a version (ETag), nor a session.
"""
import os
import socket
import subprocess
import sys
import tempfile
import unittest
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402
import yaml  # noqa: E402
from certs import Certs  # noqa: E402

FILES = sorted(p for p in (l7test.ROOT / "config").iterdir() if p.suffix in (".yaml", ".yml", ".json"))
KINDS = ("listeners", "clusters", "rulelists", "rules", "routes", "endpoints")
OK = {"status": 200, "message": "OK"}


CERTS = []  # the folder with the certificate that the TLS examples name, once it was asked for


def example(path):
    """The example's config as it can run here, with a controller that needs no token at port 1234."""
    text = path.read_text()
    if "/tmp/l7mp-example.pem" in text:
        if not CERTS:
            CERTS.append(tempfile.TemporaryDirectory(prefix="l7mp-test-"))
            Certs(CERTS[0].name).cert("l7mp-example")
        text = text.replace("/tmp/l7mp-example.", CERTS[0].name + "/l7mp-example.")
    config = yaml.safe_load(text)
    if "eth1" in path.read_text() and not os.path.exists("/sys/class/net/eth1"):
        subprocess.run(["ip", "link", "add", "eth1", "up", "type", "veth", "peer", "name", "eth1p"], check=True)
    config.setdefault("admin", {}).pop("api_token_file", None)
    if not any(s.get("spec", {}).get("port") == 1234 for s in config["listeners"]):
        config["listeners"].append(l7test.controller())
    return config


def echo(port, cluster="Echo", **more):
    return {"spec": {"protocol": "TCP", "address": "127.0.0.1", "port": port},
            "rules": [{"action": {"route": {"destination": {"spec": {"protocol": cluster}}}}}], **more}


# What the examples do not have: everything that is shared, missing, or goes in circles.
SHARED = {
    "listeners": [
        l7test.controller(),
        {"name": "a", "spec": {"protocol": "TCP", "address": "127.0.0.1", "port": 0}, "rules": "list", "options": {"track": 5}},
        {"name": "b", "spec": {"protocol": "UDP", "address": "127.0.0.1", "port": 0}, "rules": "list"},
        {"name": "c", "spec": {"protocol": "TCP", "address": "127.0.0.1", "port": 15001}, "rules": "gone"},
        {"name": "d", "spec": {"protocol": "TCP", "address": "127.0.0.1", "port": 15002}, "rules": [
            "shared", {"name": "own", "match": {"op": "defined", "path": "/x"}, "action": {"apply": "list", "route": {
                "name": "own-route", "destination": "c2", "ingress": ["c2", {"name": "log", "spec": {"protocol": "Logger"}}], "egress": ["log", "c2"]}}},
            {"action": {"route": "own-route"}}, {"action": {"route": "no-route"}},
            {"action": {"apply": {"rules": [{"match": {"op": "defined", "path": "/y"}, "action": {"route": "shared-route"}}]}}}]},
    ],
    "clusters": [{"name": "c2", "spec": {"protocol": "UDP", "port": 9}, "endpoints": [
        {"name": "e/1", "spec": {"address": "127.0.0.1"}, "weight": 3}, {"spec": {"address": "127.0.0.2", "port": 10}, "weight": 0},
        {"name": "e3", "spec": {"address": "127.0.0.3"}, "drop": True}],
        "loadbalancer": {"policy": "ConsistentHash", "key": "/IP/src_addr"}}, {"name": "none", "spec": {"protocol": "TCP", "port": 1}}],
    "rulelists": [{"name": "list", "rules": ["shared", "shared", "missing", {"name": "circle", "action": {"apply": "list"}}]}, {"name": "empty", "rules": []}],
    "rules": [{"name": "shared", "match": {"op": "not", "apply": [{"op": "defined", "path": "/z"}]}, "action": {
        "rewrite": [{"path": "/a/b", "value": [1, {"x": None}]}], "route": "shared-route"}}],
    "routes": [{"name": "shared-route", "destination": "c2", "ingress": ["not-there"], "retry": {"retry_on": "always", "num_retries": 3, "timeout": 100}}],
}


class Identity(unittest.TestCase):
    def start(self, config):
        self.proxy = l7test.Proxy(config, "-o", "disable")
        self.addCleanup(lambda: self.proxy.alive() and self.proxy.stop())
        self.api = self.proxy.api

    def config(self):
        config = self.api.get("/config")[1]
        config.pop("sessions")
        return config

    def paths(self):
        config = self.api.get("/config")[1]
        return [f"/{kind}/{urllib.parse.quote(o['name'], safe='')}" for kind in KINDS for o in config[kind]]

    def put_back(self):
        """GET, PUT, GET of each object, in both views."""
        before = self.config()
        version = self.api.last_headers["etag"]
        for path in self.paths():
            for query in ("", "?recursive=true"):
                with self.subTest(path=path + query):
                    status, shown = self.api.get(path + query)
                    self.assertEqual(status, 200)
                    self.assertEqual(self.api.put(path, shown), (200, OK))
                    self.assertEqual(l7test.without_health(self.api.get(path + query)[1]), l7test.without_health(shown))
        self.assertEqual(self.config(), before)
        self.assertEqual(self.api.last_headers["etag"], version, "a change was made although nothing differs")

    def test_shared(self):
        """objects that are shared, missing, there twice, or in a circle"""
        self.start(SHARED)
        self.put_back()

    def test_made_again(self):
        """a listener that was deleted is made by PUT of what GET showed, whatever it shares with others"""
        self.start(SHARED)
        for recursive in ("", "?recursive=true"):
            for name in ("listeners/b", "listeners/d", "rulelists/list", "clusters/c2", "routes/shared-route", "rules/shared"):
                with self.subTest(name=name, recursive=recursive):
                    path = "/" + name
                    shown = self.api.get(path + recursive)[1]
                    whole = self.api.get(path + "?recursive=true")[1]
                    self.assertEqual(self.api.delete(path)[0], 200)
                    if name == "clusters/c2" and not recursive:
                        shown["endpoints"] = [{"name": "e/1", "spec": {"address": "127.0.0.1"}}]
                    self.assertEqual(self.api.put(path, shown), (200, OK))
                    again = self.api.get(path + "?recursive=true")[1]
                    if name == "listeners/b":  # a recursive view does not name the listener's rule list, so this is a new one
                        self.assertEqual([r if isinstance(r, str) else r["name"] for r in again["rules"]], [
                            r if isinstance(r, str) else r["name"] for r in whole["rules"]])
                    elif recursive:
                        self.assertEqual(again, whole)

    def test_others(self):
        """what differs from an object of another owner is refused, and nothing of it is made"""
        self.start(SHARED)
        before = self.config()
        shown = self.api.get("/listeners/d?recursive=true")[1]
        shown["rules"][0]["action"]["route"]["retry"]["num_retries"] = 7
        shown["rules"][1]["match"] = "*"
        status, answer = self.api.put("/listeners/d", shown)
        self.assertEqual(status, 409, answer)
        self.assertIn("exists already", answer["message"])
        self.assertEqual(self.config(), before)
        shown["rules"][0]["action"]["route"]["retry"]["num_retries"] = 3
        self.assertEqual(self.api.put("/listeners/d", shown), (200, OK))
        after = self.config()
        self.assertEqual([r for r in after["rules"] if r not in before["rules"]], [{**r, "match": "*"} for r in before["rules"] if r["name"] == "own"])
        self.assertEqual({**after, "rules": 0}, {**before, "rules": 0})

    def test_session_stays(self):
        """a session and its socket stay when its listener, with a port that was free, is put back"""
        self.start(SHARED)
        self.assertEqual(self.api.post("/listeners", {"listener": echo(0, name="echo")})[0], 200)
        port = self.api.get("/listeners/echo")[1]["spec"]["port"]
        self.assertNotEqual(port, 0)
        with socket.create_connection(("127.0.0.1", port), 60) as s:
            s.settimeout(60)
            for query in ("", "?recursive=true"):
                self.assertEqual(self.api.put("/listeners/echo", self.api.get("/listeners/echo" + query)[1]), (200, OK))
                s.sendall(b"x")
                self.assertEqual(s.recv(1), b"x")
        self.assertEqual([o["spec"]["port"] for o in self.config()["listeners"] if o["name"] == "echo"], [0])

    def test_if_match(self):
        """ETag and If-Match of each kind: 412 with one that is not it, and nothing is changed"""
        self.start(SHARED)
        for path in self.paths():
            with self.subTest(path=path):
                shown = self.api.get(path)[1]
                tag = self.api.last_headers["etag"]
                self.assertRegex(tag, r'^"[0-9a-f]+-o\d+"$')
                self.assertEqual(self.api.put(path, shown, headers={"If-Match": tag}), (200, OK))
                self.assertEqual(self.api.put(path, shown, headers={"If-Match": '"other"'})[0], 412)
                self.assertEqual(self.api.put(path, shown, headers={"If-Match": "W/" + tag})[0], 412)
                self.assertEqual(self.api.delete(path, headers={"If-Match": '"other"'})[0], 412)
        self.assertEqual(self.api.put("/routes/new", {"destination": "c2"}, headers={"If-Match": "*"})[0], 412)
        self.assertEqual(self.api.get("/routes/new")[0], 404)


def of_file(path):
    def test(self):
        self.start(example(path))
        self.put_back()
    test.__doc__ = f"config/{path.name}: each object can be put back"
    return test


for p in FILES:
    setattr(Identity, f"test_config_{p.name.replace('-', '_').replace('.', '_')}", of_file(p))


if __name__ == "__main__":
    l7test.main()
