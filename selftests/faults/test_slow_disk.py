#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A disk that is frozen under the log, the access log and Loggers' files: traffic and the API continue.

slow_disk.c is preloaded: it makes write(2) to the test's folder wait."""
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402

ECHO = {"spec": {"protocol": "Echo"}}


class SlowDisk(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(os.path.realpath(folder.name))
        (self.folder / "disk").mkdir()
        self.shim = self.folder / "slow_disk.so"
        subprocess.run([os.environ.get("CC", "gcc"), "-shared", "-fPIC", "-o", self.shim,
                        os.path.join(os.path.dirname(os.path.abspath(__file__)), "slow_disk.c")], check=True)

    def path(self, name):
        return self.folder / "disk" / name

    def freeze(self):
        self.path("frozen").touch()

    def thaw(self):
        self.path("frozen").unlink()

    def start(self):
        def via(listener):
            return {"name": listener["protocol"], "spec": {"address": "127.0.0.1", "port": 2001, **listener}, "rules": [{"action": {"route": {
                "destination": ECHO, "ingress": [{"spec": {"protocol": "Logger", "log_file": str(self.path("logger"))}}]}}}]}
        self.proxy = l7test.Proxy(
            {"admin": {"log_file": str(self.path("log")), "access_log_path": str(self.path("access")), "log_level": "verbose"},
             "listeners": [l7test.controller(), {"name": "metrics", "spec": {"protocol": "HTTP", "address": "127.0.0.1", "port": 9099}, "rules": [
                 {"action": {"route": {"destination": {"spec": {"protocol": "Prometheus"}}}}}]}, via({"protocol": "TCP"}), via({"protocol": "UDP"})]},
            env={"LD_PRELOAD": str(self.shim), "SLOW_DISK": str(self.folder / "disk"),
                 "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"})

        def end():
            # After a failure: the loop may wait for the disk.
            self.path("frozen").unlink(missing_ok=True)
            if self.proxy.alive():
                self.proxy.stop()
        self.addCleanup(end)

    def client(self):
        s = socket.create_connection(("127.0.0.1", 2001), timeout=60)
        self.addCleanup(s.close)
        return s

    @staticmethod
    def say(s, line):
        s.sendall(line)
        got = b""
        while len(got) < len(line):
            got += s.recv(65536)
        assert got == line

    def lost(self, file):
        text = l7test.Api(9099).call("GET", "/api/metrics")[1]
        return int(re.search(rf'l7mp_log_records_lost_total{{file="{file}"}} (\d+)', text)[1])

    def one_session(self, line):
        with self.client() as s:
            self.say(s, line)

    def test_frozen(self):
        """records wait for the disk in order, over a rotation, and nothing else does; what waits at the end is written"""
        self.start()
        self.one_session(b"before")
        self.assertTrue(l7test.wait_for(lambda: self.path("access").read_text().count("\n") == 1))
        self.freeze()
        size = {n: self.path(n).stat().st_size for n in ("log", "access", "logger")}
        one, two = self.client(), self.client()
        for i in range(100):
            self.say(one, b"one %d\n" % i)
            self.say(two, b"two %d\n" % i)
        for i in range(50):
            self.one_session(b"short")
        self.assertEqual(self.proxy.api.get("/listeners")[0], 200)
        self.assertEqual({n: self.path(n).stat().st_size for n in size}, size, "the disk was not frozen")
        for n in size:
            self.path(n).rename(self.path(n + ".1"))
        os.kill(self.proxy.pid, signal.SIGUSR1)
        self.thaw()
        self.assertTrue(l7test.wait_for(lambda: all(self.path(n).exists() for n in size)))
        self.freeze()
        for i in range(100, 200):
            self.say(one, b"one %d\n" % i)
            self.say(two, b"two %d\n" % i)
        self.one_session(b"after")
        self.assertEqual(self.proxy.api.get("/sessions")[0], 200)
        self.assertEqual([self.lost(n) for n in ("log", "access_log", "logger")], [0, 0, 0])
        self.proxy.process.send_signal(signal.SIGTERM)
        self.assertTrue(l7test.wait_for(self.refused))
        self.thaw()
        self.assertEqual(self.proxy.process.wait(60 * l7test.SLOW), 0, self.proxy.stderr())
        old, new = (self.path(n).read_text().splitlines() for n in ("logger.1", "logger"))
        for name in ("one", "two"):
            self.assertEqual([row for row in old if row.startswith(name)], [f"{name} {i}" for i in range(100)])
            self.assertEqual([row for row in new if row.startswith(name)], [f"{name} {i}" for i in range(100, 200)])
        self.assertEqual((old.count("short"), new.count("after")), (50, 1))
        records = [json.loads(row) for n in ("access.1", "access") for row in self.path(n).read_text().splitlines()]
        self.assertEqual(len([r for r in records if r["source"]["listener"] == "TCP" and r["ingress"]["packets"]]), 1 + 50 + 1 + 2)
        text = self.path("log.1").read_text() + self.path("log").read_text()
        self.assertNotIn("lost", text)
        self.assertIn("stopping", text)

    def refused(self):
        try:
            socket.create_connection(("127.0.0.1", 2001), timeout=5).close()
        except ConnectionRefusedError:
            return True
        return False

    def test_bound(self):
        """what exceeds the queue is dropped, counted and told"""
        self.start()
        self.freeze()
        n = 400
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.settimeout(60)
            s.connect(("127.0.0.1", 2001))
            for i in range(n):
                s.send(b"%05d" % i + b"x" * 60000)
                self.assertEqual(int(s.recv(65536)[:5]), i)
        lost = self.lost("logger")
        self.assertGreater(lost, 0)
        # 16 MiB are kept.
        self.assertLessEqual(lost, n - (15 << 20) // 60000)
        self.thaw()
        self.assertTrue(l7test.wait_for(lambda: "records lost: its disk is too slow" in self.path("log").read_text()))
        self.assertIn(f"{lost} records lost", self.path("log").read_text())
        self.assertTrue(l7test.wait_for(lambda: self.path("logger").read_text().count("\n") == n - lost))
        # The oldest were kept, and new ones are taken.
        self.assertEqual([int(row[:5]) for row in self.path("logger").read_text().splitlines()], list(range(n - lost)))
        self.one_session(b"again")
        self.assertTrue(l7test.wait_for(lambda: self.path("logger").read_text().endswith("\nagain\n")))

    def test_frozen_for_ever(self):
        """SIGTERM ends the proxy although the disk takes nothing any more"""
        self.start()
        self.freeze()
        self.one_session(b"lost")
        self.assertEqual(self.proxy.stop(), 0)

    def test_crash(self):
        """a record that was written before a crash is in the file"""
        self.start()
        self.path("slow").touch()
        self.assertEqual(self.proxy.api.post("/admin", {"admin": {"log_level": "silly"}})[0], 200)
        clients = [self.client() for _ in range(5)]
        for s in clients:
            self.say(s, b"x")
        os.kill(self.proxy.pid, signal.SIGABRT)
        self.assertEqual(self.proxy.process.wait(60), -signal.SIGABRT)
        self.assertGreaterEqual(self.path("log").read_text().count(" begins"), 5)


if __name__ == "__main__":
    l7test.main()
