#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=180
"""The daemon's life: options, clear errors, signals, reload, logs, sd_notify, start-up time."""
import json
import os
import re
import signal
import socket
import statistics
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402

ECHO = [{"action": {"route": {"destination": {"spec": {"protocol": "Echo"}}}}}]


def listener(name, proto, port, **more):
    return {"name": name, "spec": dict({"protocol": proto, "address": "127.0.0.1", "port": port}, **more), "rules": ECHO}


def config(*listeners, **admin):
    return {"admin": admin, "listeners": [l7test.controller(), *listeners]}


class Options(unittest.TestCase):
    def setUp(self):
        self.tmp = tempfile.TemporaryDirectory(prefix="l7mp-test-")
        self.addCleanup(self.tmp.cleanup)

    def file(self, name, text):
        path = os.path.join(self.tmp.name, name)
        with open(path, "w") as f:
            f.write(text if isinstance(text, str) else json.dumps(text, indent=1))
        return path

    def fails(self, path, *words, args=(), lines=1):
        status, out, err = l7test.run_proxy("-c", path, "-l", "warn", *args)
        self.assertEqual(status, 1, err)
        self.assertEqual(len(err.strip().splitlines()), lines, err)
        for word in words:
            self.assertRegex(err, word)
        self.assertFalse(l7test.SANITIZER.search(err), err)
        self.assertEqual(out, "")

    def test_help_and_version(self):
        """-h, -V and their long forms print and exit 0; wrong usage says what and exits 1"""
        for opt in ("-h", "--help"):
            status, out, err = l7test.run_proxy(opt)
            self.assertEqual((status, err), (0, ""))
            for word in ("-c", "-l", "-s", "-o", "-i", "-t", "-V"):
                self.assertIn(word, out)
        version = (l7test.ROOT / "VERSION").read_text().strip()
        for opt in ("-V", "--version"):
            self.assertEqual(l7test.run_proxy(opt), (0, f"l7mp-proxy {version}\n", ""))
        for args, word in (((), "-c FILE"), (("-x",), "-h"), (("-l", "loud", "-c", "x"), "loud"), (("-o", "on", "-c", "x"), "on"),
                           (("-c", "x", "y"), "'y'"), (("-c",), "-h")):
            status, out, err = l7test.run_proxy(*args)
            self.assertEqual((status, out), (1, ""), args)
            self.assertIn(word, err)

    def test_check(self):
        """-t checks without binding anything"""
        good = self.file("good.json", config())
        with socket.create_server(("127.0.0.1", 1234)):
            status, out, err = l7test.run_proxy("-t", "-c", good)
            self.assertEqual((status, err), (0, ""))
            self.assertIn("valid", out)
        bad = self.file("unknown.yaml", "listeners:\n  - name: l\n    colour: red\n    spec: { protocol: UDP, port: 1 }\n    rules: x\n")
        status, _, err = l7test.run_proxy("-t", "-c", bad)
        self.assertEqual(status, 0)
        self.assertRegex(err, r"warning: .*unknown.yaml:3: listeners\[0\].colour: unknown key")
        self.fails(bad, r"unknown.yaml:3: listeners\[0\].colour: unknown key", args=("-t", "-s"))

    def test_errors(self):
        """each unusable config is one message with file, line and path, and status 1"""
        self.fails("/nonexistent/x.yaml", "/nonexistent/x.yaml: .*[Nn]o such file")
        self.fails(self.tmp.name, "directory")
        self.fails(self.file("a.yaml", "listeners:\n  - name: [x\n"), r"a\.yaml:[23]: ")
        self.fails(self.file("b.json", '{\n "listeners": [\n}'), r"b\.json:3: ")
        self.fails(self.file("c.json", ""), r"c\.json")
        self.fails(self.file("d.yaml", "- a\n"), r"d\.yaml: .*expected an object")
        self.fails(self.file("e.yaml", "\nlisteners:\n  - name: l\n    rules: x\n    spec: { protocol: SCTP, port: 1 }\n"),
                   r"e\.yaml:5: listeners\[0\]\.spec\.protocol: .*SCTP")
        self.fails(self.file("f.yaml", "listeners:\n  - name: l\n    rules: x\n    spec:\n      protocol: UDP\n      port: 99999\n"),
                   r"f\.yaml:6: listeners\[0\]\.spec\.port: expected 0\.\.65535, got 99999")
        self.fails(self.file("g.json", {"listeners": [], "clusters": [{"name": "c", "spec": {"protocol": "TCP", "port": "x"}}]}),
                   r"g\.json:\d+: clusters\[0\]\.spec\.port: expected .*integer")
        self.fails(self.file("h.json", {"listeners": [], "clusters": [{"name": "c", "spec": {"protocol": "Echo"}}] * 2}), r"h\.json:\d+: clusters\[1\]\.name: .*twice")
        self.fails(self.file("i.yaml", "a: 1\na: 2\n"), r"i\.yaml:2: ")
        self.fails(self.file("j.json", config(api_token_file="/nonexistent/token")), "/nonexistent/token")
        self.fails(self.file("k.json", config(access_log_path="/nonexistent/log")), "/nonexistent/log")

    def test_port_in_use(self):
        """a port that can't be bound is one message with its path, and nothing half-started is left"""
        sock = os.path.join(self.tmp.name, "s")
        with socket.create_server(("127.0.0.1", 15000)):
            for proto in ("TCP", "WebSocket", "HTTP"):
                path = self.file("x.json", config(
                    {"name": "u", "spec": {"protocol": "UnixDomainSocket", "filename": sock}, "rules": ECHO}, listener("late", proto, 15000)))
                self.fails(path, r"x\.json:\d+: listeners\[2\]\.spec\.port: .*15000.*in use")
                self.assertFalse(os.path.exists(sock), "a socket file is left")
        with l7test.udp_socket(15000):
            self.fails(self.file("y.json", config(listener("late", "UDP", 15000))), r"listeners\[1\]\.spec\.port")
        path = self.file("z.json", config({"name": "u", "spec": {"protocol": "UnixDomainSocket", "filename": "/nonexistent/s"}, "rules": ECHO}))
        self.fails(path, "/nonexistent/s")

    def test_command_line_overrides(self):
        """the command line overrides the file"""
        p = l7test.Proxy(config(log_level="silly", strict=False, offload="init"), "-l", "error", "-s", "-o", "disable", "-i", "lo")
        admin = p.api.get("/admin")[1]
        self.assertEqual((admin["log_level"], admin["strict"], admin["offload"], admin["offload_ifs"]), ("error", True, "disable", ["lo"]))
        p.stop()


class Signals(unittest.TestCase):
    def test_term_with_sessions(self):
        """SIGTERM and SIGINT end open sessions, exit 0, and leave no socket file"""
        for sig in (signal.SIGTERM, signal.SIGINT):
            tmp = tempfile.mkdtemp(prefix="l7mp-test-")
            path = os.path.join(tmp, "s")
            p = l7test.Proxy(config(listener("tcp", "TCP", 15000), listener("udp", "UDP", 15001), listener("ws", "WebSocket", 15002),
                                    {"name": "u", "spec": {"protocol": "UnixDomainSocket", "filename": path}, "rules": ECHO}), "-l", "warn")
            open_ones = [socket.create_connection(("127.0.0.1", port), 30) for port in (15000, 15000, 15002, 1234)]
            unix = socket.socket(socket.AF_UNIX)
            unix.connect(path)
            for s in (open_ones[0], unix):
                s.settimeout(30)
                s.sendall(b"x")
                self.assertEqual(s.recv(10), b"x")
            u = l7test.udp_socket()
            u.sendto(b"x", ("127.0.0.1", 15001))
            u.recv(10)
            p.process.send_signal(sig)
            self.assertEqual(p.process.wait(60), 0, p.stderr())
            self.assertIn(open_ones[0].recv(10), (b"",))
            self.assertFalse(os.path.exists(path))
            p.stop()
            for s in (*open_ones, unix, u):
                s.close()
            os.rmdir(tmp)

    def test_hup_while_stopping(self):
        """SIGHUP behind SIGTERM changes nothing: the exit status is 0, however late it comes"""
        for i in range(100 if l7test.FULL else 15):
            p = l7test.Proxy(config(listener("tcp", "TCP", 15000)), "-l", "warn")
            p.process.send_signal(signal.SIGTERM)
            while p.process.poll() is None:
                p.process.send_signal(signal.SIGHUP)
                time.sleep(0.0001 * (i % 5))
            self.assertEqual(p.process.returncode, 0, p.stderr())
            p.stop()

    def test_ignored_child(self):
        """SIGCHLD that was inherited as ignored: processes are seen to end, with their status, and nothing spins"""
        fork = {"name": "f", "spec": {"protocol": "TCP", "address": "127.0.0.1", "port": 15000}, "options": {"track": 60},
                "rules": [{"action": {"route": {"destination": {"spec": {"protocol": "STDIO-fork",
                                                                         "command": ["sh", "-c", "echo here; exit 3"]}}}}}]}
        p = l7test.Proxy(config(fork), "-l", "warn", wrapper=("sh", "-c", "trap '' CHLD; exec \"$@\"", "sh"))
        with socket.create_connection(("127.0.0.1", 15000), 30) as s:
            s.settimeout(30)
            self.assertEqual(s.makefile("rb").read(), b"here\n")
        l7test.wait_for(lambda: "status 3" in json.dumps(p.api.get("/sessions")[1]))
        before = self.cpu(p.pid)
        time.sleep(1)
        self.assertLess(self.cpu(p.pid) - before, 0.7)
        p.stop()

    @staticmethod
    def cpu(pid):
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def test_api_port_comes_last(self):
        """the ports of the API accept when every other listener does, although they are bound first"""
        many = [listener(f"t{n}", "TCP", 15000 + n) for n in range(300)]
        for port, admin in ((1234, {}), (1235, {"server": {"port": 1235}})):
            p = l7test.Proxy(config(*many, **admin), "-l", "warn", wait=False)
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 30).close()
                    break
                except ConnectionRefusedError:
                    self.assertIsNone(p.process.poll(), p.stderr())
            for n in (299, 150, 0):
                socket.create_connection(("127.0.0.1", 15000 + n), 30).close()
            p.stop()

    @staticmethod
    def catches(pid, sig):
        with open(f"/proc/{pid}/status") as f:
            mask = next(int(row.split()[1], 16) for row in f if row.startswith("SigCgt:"))
        return bool(mask >> (sig - 1) & 1)

    def test_fresh_starts(self):
        """a signal during the start is answered; a fresh proxy answers its first request"""
        for i in range(200 if l7test.FULL else 25):
            p = l7test.Proxy(l7test.ROOT / "config/l7mp-minimal.yaml", "-l", "warn", wait=i % 2)
            if i % 2:
                self.assertEqual(l7test.Api(1234, "localhost" if i % 4 == 1 else "127.0.0.1").get("/config", timeout=60)[0], 200)
            else:
                # not before main() has begun, which nobody can answer for
                l7test.wait_for(lambda: self.catches(p.pid, signal.SIGTERM))  # noqa: B023
                time.sleep(i * 0.002)
            p.stop()

    def test_notify(self):
        """READY, RELOADING and STOPPING are told to the supervisor; a reload names its moment"""
        p = l7test.Proxy(config(), "-l", "warn", wait=False)
        self.assertEqual(p.notified().get("READY"), "1")
        p.hup()
        told = p.notified()
        self.assertEqual(told.get("RELOADING"), "1")
        self.assertGreater(int(told["MONOTONIC_USEC"]), 0)
        self.assertEqual(p.notified().get("READY"), "1")
        p.process.send_signal(signal.SIGTERM)
        self.assertEqual(p.notified().get("STOPPING"), "1")
        p.process.wait(60)
        p.stop()


class Reload(unittest.TestCase):
    def setUp(self):
        self.base = config(listener("stays", "TCP", 15000), listener("goes", "TCP", 15001))
        self.p = l7test.Proxy(self.base, "-l", "notice")

    def tearDown(self):
        self.p.stop()

    def reload(self, text):
        with open(self.p.path, "w") as f:
            f.write(text if isinstance(text, str) else json.dumps(text))
        self.p.hup()
        self.assertEqual(self.p.notified().get("RELOADING"), "1")
        self.assertEqual(self.p.notified().get("READY"), "1")

    def connect(self, port):
        s = socket.create_connection(("127.0.0.1", port), 30)
        s.settimeout(30)
        self.addCleanup(s.close)
        s.sendall(b"a")
        self.assertEqual(s.recv(10), b"a")
        return s

    def test_difference(self):
        """SIGHUP applies the difference: unchanged sessions stay, vanished objects are logged"""
        stays, goes = self.connect(15000), self.connect(15001)
        self.reload(config(listener("stays", "TCP", 15000), listener("new", "TCP", 15002)))
        stays.sendall(b"b")
        self.assertEqual(stays.recv(10), b"b")
        self.assertEqual(goes.recv(10), b"")
        self.connect(15002)
        self.assertRegex(self.p.stderr(), "removes listener 'goes'")
        self.assertNotIn("'stays'", self.p.stderr())

    def test_refused(self):
        """a reload that is refused changes nothing and says why, with file and line"""
        stays, goes = self.connect(15000), self.connect(15001)
        before = self.p.api.get("/config")[1]["listeners"]
        bad = config(listener("stays", "TCP", 15000))
        bad["listeners"][1]["spec"]["port"] = -1
        with socket.create_server(("127.0.0.1", 15009)):
            for text, words in (("{ broken", r"config\.json:1"), (bad, r"listeners\[1\]\.spec\.port"),
                                (config(listener("busy", "TCP", 15009)), r"15009.*in use")):
                self.reload(text)
                self.assertRegex(self.p.stderr(), words)
        self.assertIn("nothing was changed", self.p.stderr())
        self.assertNotIn("removes", self.p.stderr(), "a refused reload removes nothing, and must not say so")
        self.assertEqual(self.p.api.get("/config")[1]["listeners"], before)
        for s in (stays, goes):
            s.sendall(b"c")
            self.assertEqual(s.recv(10), b"c")

    def test_lost(self):
        """a reload of a file that lost its lists (emptied, null, misspelt) changes nothing"""
        self.reload({**self.base, "clusters": [{"name": "c", "spec": {"protocol": "Echo"}}]})
        stays = self.connect(15000)
        before = self.p.api.get("/config")[1]
        for text in ("", "null", "{}", "[]", {"listeners": None}, {**self.base, "clusters": None}, {"Listeners": self.base["listeners"]},
                     {**self.base, "cluster": [{"name": "c", "spec": {"protocol": "Echo"}}]}):
            with self.subTest(text=text):
                self.reload(text)
                after = self.p.api.get("/config")[1]
                self.assertEqual({k: v for k, v in after.items() if k != "sessions"}, {k: v for k, v in before.items() if k != "sessions"})
        self.assertNotIn("removes", self.p.stderr())
        stays.sendall(b"c")
        self.assertEqual(stays.recv(10), b"c")

    def test_deaf_supervisor(self):
        """a supervisor that does not read what it is told holds up nothing, and is told the end when it reads again"""
        stays = self.connect(15000)
        for i in range(20):  # its socket holds about ten
            name = f"l{i}"
            with open(self.p.path, "w") as f:
                json.dump(config(listener("stays", "TCP", 15000), listener(name, "TCP", 15001)), f)
            self.p.hup()
            self.assertTrue(l7test.wait_for(lambda name=name: self.p.api.get("/listeners/" + name)[0] == 200))
            stays.sendall(b"c")
            self.assertEqual(stays.recv(10), b"c")
        told = []
        while len(told) < 2 or (told[-2:] != ["RELOADING", "READY"]) or len(told) < 20:
            message = self.p.notified(60)
            self.assertTrue(message, told)
            told.append(next(iter(message)))
        for a, b in zip(told[-10:], told[-9:]):
            self.assertNotEqual(a, b, "the order is kept")

    def test_unreadable(self):
        """a reload without the file changes nothing"""
        stays = self.connect(15000)
        os.rename(self.p.path, self.p.path + ".away")
        self.p.hup()
        self.assertTrue(l7test.wait_for(lambda: "nothing was changed" in self.p.stderr()))
        stays.sendall(b"d")
        self.assertEqual(stays.recv(10), b"d")
        os.rename(self.p.path + ".away", self.p.path)

    def test_many(self):
        """many reloads leave nothing behind"""
        # what a protocol opens once, at its first use
        self.reload(config(listener("stays", "TCP", 15000), listener("x", "WebSocket", 15003)))
        self.reload(self.base)
        time.sleep(0.2)
        fds = self.p.fds()
        for i in range(20):
            self.reload(config(listener("stays", "TCP", 15000), *([listener("x", "WebSocket", 15003)] if i % 2 else [])))
        self.reload(self.base)
        left = l7test.wait_for(lambda: self.p.fds() <= fds + 1, 30)
        if not left:
            self.fail((fds, os.popen(f"ls -l /proc/{self.p.pid}/fd").read()))


class Logs(unittest.TestCase):
    def test_access_log(self):
        """one JSON line per ended session, with what passed each way"""
        with tempfile.TemporaryDirectory(prefix="l7mp-test-") as tmp:
            path = os.path.join(tmp, "access.log")
            p = l7test.Proxy(config(listener("tcp", "TCP", 15000), access_log_path=path), "-l", "warn")
            s = socket.create_connection(("127.0.0.1", 15000), 30)
            s.sendall(b"x" * 1234)
            got = b""
            while len(got) < 1234:
                got += s.recv(4096)
            me = f"127.0.0.1:{s.getsockname()[1]}"
            s.close()

            def records():
                with open(path) as f:
                    return [json.loads(line) for line in f]
            tcp = l7test.wait_for(lambda: [r for r in records() if r["name"].startswith("TCP:")])
            self.assertEqual(len(tcp), 1)
            text = json.dumps(tcp[0])
            self.assertIn(me, text)
            self.assertIn("1234", text)
            for key in ("name", "source", "destination", "start", "duration"):
                self.assertIn(key, tcp[0])
            self.assertEqual(os.stat(path).st_mode & 0o777, 0o640)
            os.rename(path, path + ".1")  # as logrotate does
            p.hup()
            self.assertTrue(l7test.wait_for(lambda: os.path.exists(path)))
            p.api.get("/clusters")
            self.assertTrue(l7test.wait_for(lambda: [r for r in records() if r["name"].startswith("HTTP:")]))
            p.stop()

    def test_formats_and_levels(self):
        """text and JSON records; levels filter; log_level changes at run time; log_file takes them"""
        p = l7test.Proxy(config(log_level="verbose"))
        p.api.get("/clusters")
        lines = p.stderr().splitlines()
        for line in lines:
            self.assertRegex(line, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (silly|verbose|info|notice|warn|error) [a-z-]+ .+$")
        self.assertTrue(any(" verbose " in x for x in lines))
        self.assertEqual(p.api.post("/admin", {"admin": {"log_level": "error"}})[0], 200)
        n = len(p.stderr())
        p.api.get("/clusters")
        self.assertLessEqual(len(p.stderr()) - n, 200)
        n = len(p.stderr())
        p.api.get("/clusters")
        self.assertEqual(len(p.stderr()), n)
        p.stop()
        p = l7test.Proxy(config(log_level="verbose", log_format="json"))
        p.api.get("/clusters/%0a%22%5c%e2%80%ae")
        for line in p.stderr().splitlines():
            self.assertTrue({"time", "level", "module"} <= set(json.loads(line)), line)
        p.stop()
        p = l7test.Proxy(config(log_level="silent"))
        p.stop()
        with tempfile.TemporaryDirectory(prefix="l7mp-test-") as tmp:
            path = os.path.join(tmp, "log")
            p = l7test.Proxy(config(log_level="notice", log_file=path))
            self.assertEqual(p.stderr(), "")
            p.stop()
            with open(path) as f:
                self.assertIn("ready", f.read())

    def test_forged_lines(self):
        """what a client sends can't forge a log line"""
        p = l7test.Proxy(config(log_level="silly"))
        p.api.post("/clusters", {"cluster": {"name": "c", "spec": {"protocol": "Echo"}, "x\n2026-01-01T00:00:00.000Z error fake forged": 1}})
        p.api.get("/clusters/%0a2026-01-01T00:00:00.000Z%20error%20fake%20forged")
        for line in p.stderr().splitlines():
            self.assertFalse(line.startswith("2026-01-01T00:00:00.000Z"), line)
            self.assertRegex(line, r"^\d{4}-")
        p.stop()


class StartUp(unittest.TestCase):
    def test_time(self):
        """start-up time, printed; each start becomes ready"""
        times = []
        for _ in range(7):
            t = time.monotonic()
            p = l7test.Proxy(l7test.ROOT / "config/l7mp-minimal.yaml", "-l", "warn")
            times.append((time.monotonic() - t) * 1000)
            p.stop()
        print(f"# start-up: median {statistics.median(times):.1f} ms, worst {max(times):.1f} ms ({os.path.basename(l7test.program('.'))})")


if __name__ == "__main__":
    l7test.main()
