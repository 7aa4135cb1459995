#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""l7mpctl doctor and l7mp-proxy --doctor: what they say is so, and they change nothing."""
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7net  # noqa: E402
import l7test  # noqa: E402
import yaml  # noqa: E402


def run(*args, status=0, wrapper=(), env=None):
    r = subprocess.run([*wrapper, l7test.program("l7mpctl"), "doctor", *args], capture_output=True, text=True,
                       stdin=subprocess.DEVNULL, timeout=60 * l7test.SLOW, env=env)
    assert r.returncode == status, (args, r.returncode, r.stdout, r.stderr)
    assert not l7test.SANITIZER.search(r.stderr), r.stderr
    return r.stdout if status != 2 else r.stderr


class Doctor(unittest.TestCase):
    def setUp(self):
        if not l7test.ISOLATED:
            self.skipTest("needs root")

    @staticmethod
    def rows(report, what, key):
        return {r[key]: r for r in report[what]}

    def usable(self):
        """Whether this machine can do it at all: the tests of its answers don't depend on it."""
        return 0 if json.loads(l7test.run_proxy("--doctor")[1])["ok"] else 1

    def test_report(self):
        """checks and interfaces: what is found is what is there"""
        l7net.ip("link add dr0 type veth peer name dr1")
        self.addCleanup(l7net.ip, "link del dr0", False)
        l7net.ip("link set dr0 up")
        good = self.usable()
        report = json.loads(run("dr0,dr1,missing", "-o", "json", status=good))
        checks = self.rows(report, "checks", "check")
        self.assertEqual(checks["kernel"]["found"], platform.release())
        self.assertEqual(checks["bpffs"]["ok"], os.path.ismount("/sys/fs/bpf"))
        self.assertEqual(checks["btf"]["ok"], os.path.exists("/sys/kernel/btf/vmlinux"))
        with open("/proc/self/status") as f:
            mine = int(next(line for line in f if line.startswith("CapEff:")).split()[1], 16)
        for name, bit in (("CAP_NET_ADMIN", 12), ("CAP_SYS_ADMIN", 21), ("CAP_PERFMON", 38), ("CAP_BPF", 39)):
            self.assertEqual(checks[name]["ok"], bool(mine >> bit & 1), name)
        self.assertEqual(report["ok"], all(c["ok"] or not c["needed"] for c in report["checks"]))
        for c in report["checks"]:
            self.assertEqual(bool(c["advice"]), not c["ok"], c)
        links = self.rows(report, "interfaces", "name")
        there = {i["ifname"] for i in json.loads(l7net.ip("-j link"))}
        self.assertEqual(set(links), there | {"missing"})
        self.assertEqual([links[n]["enabled"] for n in ("lo", "dr0", "dr1", "missing")], [False, True, True, True])
        self.assertEqual([links[n]["hook"] for n in ("lo", "dr0", "missing")], ["tc", "tc", "none"])
        self.assertEqual((links["dr0"]["driver"], links["dr0"]["up"], links["dr1"]["up"]), ("veth", True, False))
        self.assertIn("veth", links["dr0"]["reason"])
        self.assertIn("ip link set", links["dr1"]["advice"])
        self.assertIn("offload_ifs", links["lo"]["advice"])
        self.assertIn("no interface has this name", links["missing"]["reason"])
        for dev in ("dr0", "dr1", "lo"):
            self.assertEqual((l7net.filters(dev), l7net.xdp(dev)), ([], None))
            self.assertNotIn("clsact", l7net.qdiscs(dev))

    def test_what_it_says_is_what_is_done(self):
        """the proxy takes the hooks that the doctor named, for the reasons that it gave"""
        l7net.need_bpffs(self)
        if self.usable():
            self.skipTest("the kernel fast path can't be used here")
        l7net.ip("link add dr0 type veth peer name dr1")
        self.addCleanup(l7net.ip, "link del dr0", False)
        for dev in ("dr0", "dr1"):
            l7net.ip(f"link set {dev} up")
        said = self.rows(json.loads(run("dr0,lo", "-o", "json")), "interfaces", "name")
        with l7test.Proxy({"admin": {"offload": "init", "offload_ifs": "dr0,lo", "instance": f"dr{os.getpid()}"},
                           "listeners": [l7test.controller()]}) as p:
            done = self.rows(p.api.get("/offload")[1], "interfaces", "name")
            self.assertEqual(set(done), {"dr0", "lo"})
            for name, link in done.items():
                for key in ("hook", "reason", "kind", "driver"):
                    self.assertEqual(link[key], said[name][key])
            # While one runs: a look disturbs nothing.
            run("dr0,lo")
            self.assertEqual(len(l7net.filters("dr0")), 1)

    def test_formats(self):
        """table, JSON and YAML say the same; without the proxy it needs no API"""
        good = self.usable()
        tree = json.loads(run("all", "-o", "json", status=good))
        self.assertEqual(yaml.safe_load(run("all", "-o", "yaml", status=good)), tree)
        table = run("all", status=good)
        for c in tree["checks"]:
            self.assertRegex(table, rf"(?m)^{c['check']} +({'yes' if c['ok'] else 'NO|.no.'}) ")
        for i in tree["interfaces"]:
            self.assertRegex(table, rf"(?m)^{i['name']} ")
        self.assertIn("can be used" if not good else "can't be used", table)

    def test_without_privileges(self):
        """as nobody: exit status 1, and what is missing"""
        with tempfile.TemporaryDirectory(prefix="l7mp-test-") as d:
            os.chmod(d, 0o755)
            for name in ("l7mpctl", "l7mp-proxy"):
                shutil.copy(l7test.program(name), d)
            r = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all",
                                "--bounding-set=-all", f"{d}/l7mpctl", "doctor", "-o", "json"],
                               capture_output=True, text=True, timeout=60 * l7test.SLOW)
        self.assertEqual(r.returncode, 1, r.stderr)
        self.assertFalse(l7test.SANITIZER.search(r.stderr), r.stderr)
        report = json.loads(r.stdout)
        checks = self.rows(report, "checks", "check")
        self.assertFalse(report["ok"])
        for name in ("CAP_BPF", "CAP_NET_ADMIN", "programs"):
            self.assertEqual((checks[name]["ok"], checks[name]["needed"]), (False, True), name)
            self.assertTrue(checks[name]["advice"])
        for name in ("CAP_SYS_ADMIN", "CAP_PERFMON"):
            self.assertFalse(checks[name]["needed"])

    def test_wrong_use(self):
        """arguments that make no sense; no l7mp-proxy to ask"""
        self.assertIn("doctor: expected", run("eth0", "eth1", status=2))
        status, out, err = l7test.run_proxy("--doctor", "-c", "x.yaml")
        self.assertEqual((status, out), (1, ""))
        self.assertIn("--doctor takes no configuration", err)
        with tempfile.TemporaryDirectory(prefix="l7mp-test-") as d:
            shutil.copy(l7test.program("l7mpctl"), d)
            r = subprocess.run([f"{d}/l7mpctl", "doctor"], capture_output=True, text=True, timeout=30, env={"PATH": d})
            self.assertEqual((r.returncode, r.stdout), (1, ""))
            self.assertIn("can't run l7mp-proxy", r.stderr)
            self.assertEqual(len(r.stderr.splitlines()), 1, r.stderr)
            with open(f"{d}/l7mp-proxy", "w") as f:
                f.write("#!/bin/sh\necho '{\"ok\": tru'\n")
            os.chmod(f"{d}/l7mp-proxy", 0o755)
            r = subprocess.run([f"{d}/l7mpctl", "doctor"], capture_output=True, text=True, timeout=30)
            self.assertEqual((r.returncode, r.stdout), (1, ""))
            self.assertIn("gave no answer", r.stderr)


if __name__ == "__main__":
    l7test.main()
