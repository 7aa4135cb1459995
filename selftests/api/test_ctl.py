#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""l7mpctl: every command against a running proxy."""
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402
import yaml  # noqa: E402

ECHO = [{"action": {"route": {"destination": {"spec": {"protocol": "Echo"}}}}}]
DOCS = {
    "clusters": ({"name": "c", "spec": {"protocol": "TCP", "port": 9}}, {"spec": {"protocol": "UDP", "port": 10}}),
    "listeners": ({"name": "l", "spec": {"protocol": "UDP", "port": 0}, "rules": ECHO}, {"spec": {"protocol": "TCP", "port": 0}, "rules": "x"}),
    "rules": ({"name": "r", "match": {"op": "defined", "path": "/a"}, "action": {"route": "ro"}}, {"action": {"route": "other"}}),
    "rulelists": ({"name": "rl", "rules": ["r"]}, {"rules": ["r", "s"]}),
    "routes": ({"name": "ro", "destination": "c"}, {"destination": "d"}),
}


def ctl(*args, text="", status=0, env=None):
    r = subprocess.run([l7test.program("l7mpctl"), *args], input=text, capture_output=True, text=True, timeout=30,
                       env=dict(os.environ, **(env or {})))
    assert r.returncode == status, (args, r.returncode, r.stdout, r.stderr)
    assert not l7test.SANITIZER.search(r.stderr), r.stderr
    return r.stdout if status == 0 else r.stderr


class Ctl(unittest.TestCase):
    def setUp(self):
        self.proxy = l7test.Proxy({"listeners": [l7test.controller(), {
            "name": "tcp", "spec": {"protocol": "TCP", "address": "127.0.0.1", "port": 15000}, "rules": ECHO}]}, "-l", "warn")
        self.tmp = tempfile.TemporaryDirectory(prefix="l7mp-test-")
        self.addCleanup(self.tmp.cleanup)

    def tearDown(self):
        self.proxy.stop()

    def file(self, name, doc):
        path = os.path.join(self.tmp.name, name)
        with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as f:
            f.write(doc if isinstance(doc, str) else json.dumps(doc, indent=1))
        return path

    def test_objects(self):
        """list, get, add, replace, delete of every kind, as table, JSON and YAML, from file and stdin"""
        for plural, (doc, other) in DOCS.items():
            wrapper, name = plural[:-1], doc["name"]
            ctl(plural, "add", text=json.dumps(doc))
            ctl(plural, "delete", name)
            ctl(plural, "add", text=yaml.safe_dump({wrapper: doc}))
            self.assertIn("409", ctl(plural, "add", text=json.dumps(doc), status=1))
            ctl(plural, "delete", name, "-r")
            ctl(plural, "add", "-f", self.file("x.yaml", yaml.safe_dump(doc)))
            table = ctl(plural, "list")
            self.assertTrue(table.startswith("NAME"))
            self.assertIn(name, table)
            # The counters of the cluster that answers have changed.
            self.assertEqual(re.sub(r" +\d+", "", ctl(plural)), re.sub(r" +\d+", "", table))
            self.assertIn(name, [o["name"] for o in json.loads(ctl(plural, "list", "-o", "json"))])
            self.assertIn(name, [o["name"] for o in yaml.safe_load(ctl(plural, "list", "-o", "yaml"))])
            self.assertEqual(json.loads(ctl(plural, "get", name, "-o", "json")), yaml.safe_load(ctl(plural, "get", name, "-o", "yaml")))
            self.assertIn(name, ctl(plural, "get", name, "--recursive"))
            ctl(plural, "replace", name, "-f", self.file("y.json", other))
            for key, value in other.items():
                if key != "rules" and key != "spec":
                    self.assertEqual(json.loads(ctl(plural, "get", name, "-o", "json"))[key], value)
            ctl(plural, "delete", name)
            self.assertIn("404", ctl(plural, "get", name, status=1))

    def test_nested(self):
        """endpoints, rules of a list by position, lookup"""
        ctl("clusters", "add", text="name: c\nspec: { protocol: TCP, port: 9 }\n")
        ctl("endpoints", "add", "c", text="name: e\nspec: { address: 127.0.0.1 }\n")
        self.assertRegex(ctl("endpoints", "list"), r"e +c +127\.0\.0\.1 +1")
        self.assertEqual(json.loads(ctl("endpoints", "get", "e", "-o", "json"))["spec"], {"address": "127.0.0.1"})
        ctl("endpoints", "replace", "e", text="spec: { address: 127.0.0.2 }\nweight: 3\n")
        self.assertRegex(ctl("endpoints"), r"127\.0\.0\.2 +3")
        ctl("endpoints", "delete", "e")
        self.assertNotIn("127.0.0.2", ctl("endpoints"))
        ctl("routes", "add", text="name: ro\ndestination: c\n")
        ctl("rulelists", "add", text="name: rl\nrules: []\n")
        ctl("rulelists", "insert", "rl", "0", text="name: r\nmatch: { op: defined, path: /a }\naction: { route: ro, rewrite: [ { path: /b, value: 1 } ] }\n")
        ctl("rulelists", "insert", "rl", "0", "later")
        self.assertEqual(json.loads(ctl("rulelists", "get", "rl", "-o", "json"))["rules"], ["later", "r"])
        found = json.loads(ctl("lookup", "rl", "-f", self.file("m.json", {"a": 1}), "-o", "json"))
        self.assertEqual((found["rule"], found["metadata"]), ("r", {"a": 1, "b": 1}))
        self.assertEqual(json.loads(ctl("lookup", "rl", "-f", self.file("m.yaml", "metadata: { a: 1 }\n"), "-o", "json"))["rule"], "r")
        self.assertIn("404", ctl("lookup", "rl", status=1))
        ctl("rulelists", "remove", "rl", "later")
        ctl("rulelists", "remove", "rl", "0", "-r")
        self.assertEqual(json.loads(ctl("rulelists", "get", "rl", "-o", "json"))["rules"], [])

    def test_sessions(self):
        """sessions list, get, delete, watch; explain"""
        watch = subprocess.Popen([l7test.program("l7mpctl"), "sessions", "watch", "-i", "0.05"], stdout=subprocess.PIPE, text=True)
        time.sleep(0.5)
        with socket.create_connection(("127.0.0.1", 15000), 30) as s:
            s.settimeout(30)
            s.sendall(b"12345")
            s.recv(10)
            name = f"TCP:127.0.0.1:{s.getsockname()[1]}-127.0.0.1:15000"
            self.assertRegex(ctl("sessions"), rf"{name} +CONNECTED +tcp .* 5 +5 ")
            self.assertEqual(json.loads(ctl("sessions", "get", name, "-o", "json"))["name"], name)
            text = ctl("explain", name)
            for word in ("ingress:", "egress:", "kernel:", "events:", "CONNECTED"):
                self.assertIn(word, text)
            time.sleep(0.3)
            ctl("sessions", "delete", name)
            self.assertEqual(s.recv(10), b"")
        self.assertIn("404", ctl("sessions", "get", name, status=1))
        time.sleep(0.4)
        watch.send_signal(signal.SIGINT)
        out = watch.communicate(timeout=60)[0]
        self.assertRegex(out, rf"\+ {name}")
        self.assertRegex(out, rf"- {name}")

    def test_long_list(self):
        """a table has 200 sessions and says that there are more; --limit; JSON has all"""
        clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(205)]
        try:
            ctl("listeners", "add", "-f", self.file("many.yaml", "listener: {name: many, spec: {protocol: UDP, address: 127.0.0.1, port: 15900}, "
                                                    "rules: [{action: {route: {destination: {spec: {protocol: Discard}}}}}]}\n"))
            for s in clients:
                s.sendto(b"x", ("127.0.0.1", 15900))
            names = lambda text: len(re.findall(r"^UDP:", text, re.M))  # noqa: E731
            self.assertTrue(l7test.wait_for(lambda: names(ctl("sessions", "-n", "0")) == 205))
            self.assertEqual(sum(x["name"].startswith("UDP:") for x in json.loads(ctl("sessions", "-o", "json"))), 205)
            self.assertEqual(len(json.loads(ctl("sessions", "-o", "json", "-n", "7"))), 7)
            r = subprocess.run([l7test.program("l7mpctl"), "sessions"], capture_output=True, text=True, timeout=60)
            self.assertEqual(len(r.stdout.splitlines()), 201)
            self.assertIn("first 200 sessions; --limit 0 shows all", r.stderr)
            self.assertIn("0..1000000", ctl("sessions", "-n", "x", status=2))
        finally:
            for s in clients:
                s.close()
            ctl("listeners", "delete", "many", "-r")

    def test_config(self):
        """config dump, load and check; admin; offload; flows; version"""
        dump = ctl("config", "dump")
        path = self.file("dump.yaml", ctl("config", "dump", "-o", "yaml"))
        ctl("config", "load", path)
        self.assertEqual(ctl("config", "dump"), dump)
        ctl("config", "check", path)
        bad = self.file("bad.yaml", "listeners:\n  - name: l\n    rules: x\n    spec: { protocol: UDP, port: 99999 }\n")
        self.assertIn("bad.yaml:4", ctl("config", "check", bad, status=1))
        err = ctl("config", "load", bad, status=1)
        self.assertIn("422", err)
        self.assertIn("bad.yaml:4", err)
        ctl("admin", "set", "log_level=error", "limits.max_sessions=77")
        admin = json.loads(ctl("admin", "-o", "json"))
        self.assertEqual((admin["log_level"], admin["limits"]["max_sessions"]), ("error", 77))
        ctl("admin", "set", "-f", self.file("a.json", {"log_level": "warn"}))
        self.assertIn("422", ctl("admin", "set", "log_level=loud", status=1))
        for value in ("[va, vb]", '["va","vb"]', "va,vb"):
            ctl("admin", "set", "offload=disable", f"offload_ifs={value}")
            self.assertEqual(json.loads(ctl("admin", "-o", "json"))["offload_ifs"], ["va", "vb"], value)
            ctl("admin", "set", "offload_ifs=[]")
        ctl("admin", "set", "limits={max_sessions: 78}")
        self.assertEqual(json.loads(ctl("admin", "-o", "json"))["limits"]["max_sessions"], 78)
        self.assertIn("offload_ifs=[va", ctl("admin", "set", "offload_ifs=[va, vb", status=1))
        for value in ("va],vb", "'va'", "[a/b]", "sixteen-bytes-xx"):
            self.assertIn("422", ctl("admin", "set", f"offload_ifs={value}", status=1), value)
        self.assertIn("state", ctl("offload"))
        self.assertIn("no flows", ctl("flows"))
        version = (l7test.ROOT / "VERSION").read_text().strip()
        self.assertEqual(ctl("version").count(version), 2)
        self.assertIn(version, ctl("--version"))

    def test_usage(self):
        """wrong usage is status 2 with a hint, an unreachable API status 1"""
        for args in ((), ("nothing",), ("clusters", "grow"), ("clusters", "get"), ("-o", "xml", "clusters"), ("-x",), ("lookup",),
                     ("explain",), ("config",), ("admin", "set", "novalue"), ("-i", "x", "sessions")):
            self.assertTrue(ctl(*args, status=2), args)
        self.assertIn("insert LIST POSITION", ctl("rulelists", "insert", "x", status=2))
        self.assertIn("Usage", ctl("--help"))
        self.assertIn("127.0.0.1:9", ctl("-a", "http://127.0.0.1:9", "clusters", status=1))
        self.assertIn("/nonexistent", ctl("clusters", "add", "-f", "/nonexistent", status=1))
        self.assertIn("stdin:1", ctl("clusters", "add", text="{", status=1))
        self.assertTrue(ctl("-a", "http://127.0.0.1:15000", "--timeout", "1", "clusters", status=1))

    def test_token(self):
        """--token, $L7MP_TOKEN_FILE and $L7MP_API"""
        token = self.file("token", "\n  s3cret \n")
        with l7test.Proxy({"admin": {"api_token_file": token}, "listeners": [l7test.controller(1235)]}, port=1235):
            self.assertIn("401", ctl("-a", "http://127.0.0.1:1235", "clusters", status=1))
            self.assertIn("http://127.0.0.1:1235 needs a token: give one with --token FILE", ctl("-a", "http://127.0.0.1:1235", "clusters", status=1))
            wrong = self.file("wrong", "wr0ng")
            self.assertIn(f"http://127.0.0.1:1235 refused the token in {wrong}\n", ctl("-a", "http://127.0.0.1:1235", "-t", wrong, "clusters", status=1))
            self.assertIn("l7mp-controller", ctl("-a", "http://127.0.0.1:1235/", "-t", token, "clusters"))
            self.assertIn("l7mp-controller", ctl("clusters", env={"L7MP_API": "http://localhost:1235", "L7MP_TOKEN_FILE": token}))
            self.assertIn("/nonexistent", ctl("-t", "/nonexistent", "clusters", status=1))
            self.assertIn("empty", ctl("-t", self.file("blank", " \n"), "clusters", status=1))

    @unittest.skipUnless(l7test.ISOLATED, "needs root for namespaces")
    def test_default_token(self):
        """the token of this host's proxy, /etc/l7mp/token, goes to this host only; one that is named goes where it is told to"""
        subprocess.run(["ip", "addr", "add", "10.99.8.1/32", "dev", "lo"], check=True, timeout=30)
        self.addCleanup(subprocess.run, ["ip", "addr", "del", "10.99.8.1/32", "dev", "lo"], check=True, timeout=30)
        token, heads = self.file("token", "s3cret"), []
        servers = [socket.create_server(("", 1300)), socket.socket(socket.AF_UNIX)]
        servers[1].bind(os.path.join(self.tmp.name, "api"))
        servers[1].listen()

        def serve(server):
            while True:
                try:
                    s, _ = server.accept()
                except OSError:
                    return
                heads.append(s.recv(10000))
                s.sendall(b'HTTP/1.1 401 Unauthorized\r\nContent-Length: 15\r\nConnection: close\r\n\r\n{"status": 401}')
                s.close()
        for server in servers:
            self.addCleanup(server.close)
            self.addCleanup(server.shutdown, socket.SHUT_RDWR)
            threading.Thread(target=serve, args=(server,), daemon=True).start()

        def ask(api, *args):
            """What l7mpctl says and sends, where /etc has nothing but the token."""
            heads.clear()
            script = 'mount -t tmpfs none /etc && mkdir /etc/l7mp && cp "$0" /etc/l7mp/token && exec "$@"'
            r = subprocess.run(["unshare", "-m", "sh", "-c", script, token, l7test.program("l7mpctl"), "-a", api, "clusters", *args],
                               capture_output=True, text=True, timeout=30, check=False)
            self.assertEqual(r.returncode, 1, r.stderr)
            return r.stderr, b"Authorization: Bearer s3cret" in heads[0]
        for api in ("http://127.0.0.1:1300", "http://localhost:1300", f"unix:{self.tmp.name}/api"):
            self.assertTrue(ask(api)[1], api)
        for api in ("http://10.99.8.1:1300", "http://localhost@10.99.8.1:1300", "http://127.0.0.1:1300@10.99.8.1:1300"):
            said, sent = ask(api)
            self.assertFalse(sent, api)
            self.assertIn("/etc/l7mp/token is not sent to another host", said)
        self.assertTrue(ask("http://10.99.8.1:1300", "-t", token)[1])

    def test_finding(self):
        """without --api: the admin server if it answers, else port 1234; an error says where it was looked for"""
        self.assertIn("l7mp-controller", ctl("clusters"))  # port 1234
        with l7test.Proxy({"admin": {"server": {}}, "clusters": [{"name": "admin-found", "spec": {"protocol": "Echo"}}], "listeners": []}):
            self.assertIn("admin-found", ctl("clusters"))
            self.assertIn("l7mp-controller", ctl("-a", "http://127.0.0.1:1234", "clusters"))
            self.assertIn("l7mp-controller", ctl("clusters", env={"L7MP_API": "http://127.0.0.1:1234"}))
        # Something else at that port is not mistaken for it.
        other = socket.create_server(("127.0.0.1", 1235))
        try:
            def hello():
                while True:
                    try:
                        s, _ = other.accept()
                    except OSError:
                        return
                    self.assertNotIn(b"Bearer", s.recv(10000))
                    s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
                    s.close()
            threading.Thread(target=hello, daemon=True).start()
            self.assertIn("l7mp-controller", ctl("-t", self.file("token", "t0ken"), "clusters"))
        finally:
            other.shutdown(socket.SHUT_RDWR)
            other.close()
        self.proxy.stop()
        err = ctl("clusters", status=1)
        for text in ("http://127.0.0.1:1234", "http://127.0.0.1:1235", "--api"):
            self.assertIn(text, err)
        self.assertNotIn("looked for", ctl("-a", "http://127.0.0.1:1234", "clusters", status=1))
        self.proxy = l7test.Proxy({"listeners": [l7test.controller(), {
            "name": "tcp", "spec": {"protocol": "TCP", "address": "127.0.0.1", "port": 15000}, "rules": ECHO}]}, "-l", "warn")

    def test_unix_socket(self):
        """--api unix:PATH and unix:@NAME"""
        for name in (self.tmp.name + "/api.sock", f"@l7mp-test-ctl-{os.getpid()}"):
            ctl("listeners", "add", text=json.dumps({"name": "unix", "spec": {"protocol": "UnixDomainSocket", "filename": name}, "rules": [
                {"action": {"route": {"destination": {"spec": {"protocol": "TCP", "port": 1234}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}}}}]}))
            self.assertIn("l7mp-controller", ctl("-a", "unix:" + name, "clusters"))
            ctl("listeners", "delete", "unix", "-r")
        self.assertIn("unix:/nonexistent", ctl("-a", "unix:/nonexistent", "clusters", status=1))

    @staticmethod
    def serve(answer):
        """a server whose connections `answer` handles, one at a time; returns its URL"""
        server = socket.create_server(("127.0.0.1", 0))

        def run():
            while True:
                try:
                    s, _ = server.accept()
                except OSError:
                    return
                with s:
                    try:
                        s.recv(65536)
                        answer(s)
                    except OSError:
                        pass
        threading.Thread(target=run, daemon=True).start()
        return server, f"http://127.0.0.1:{server.getsockname()[1]}"

    def test_not_a_list(self):
        """an answer that is JSON of another shape is an error, not an empty table"""
        lists = ("clusters", "listeners", "rulelists", "rules", "routes", "endpoints", "sessions", "flows")
        objects = ("offload", "admin", ["clusters", "get", "x"], ["sessions", "get", "x"], ["config", "dump"], ["drain", "show"])
        for body, commands in ((b'{"a":1}', lists), (b"[1]", lists), (b"null", lists), (b"[]", objects), (b'"x"', objects)):
            server, url = self.serve(lambda s, b=body: s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(b) + b))
            with server:
                for command in commands:
                    command = [command] if isinstance(command, str) else command
                    for output in ("table", "json"):
                        self.assertIn("is this the REST API", ctl(*command, "-o", output, "--api", url, status=1), (body, command))

    def test_endless(self):
        """an answer without an end is given up at 512 MiB, and says so"""
        sent = [0]

        def answer(s):
            s.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n[")
            piece = b'"' + b"x" * 1048573 + b'",'
            while sent[0] < 2000:
                s.sendall(piece)
                sent[0] += 1
        server, url = self.serve(answer)
        with server:
            self.assertIn("larger than 512 MiB", ctl("sessions", "list", "--api", url, status=1))
            self.assertLess(sent[0], 600)

    def test_busy(self):
        """503 with Retry-After is tried again for a while"""
        server = socket.create_server(("127.0.0.1", 15001))
        answers = [b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                   b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]"]

        def serve():
            for answer in answers:
                s, _ = server.accept()
                s.recv(10000)
                s.sendall(answer)
                s.close()
        threading.Thread(target=serve, daemon=True).start()
        self.assertIn("NAME", ctl("-a", "http://127.0.0.1:15001", "clusters"))
        server.close()


if __name__ == "__main__":
    l7test.main()
