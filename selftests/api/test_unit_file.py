#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The systemd unit as `make install` writes it: valid, and with little that an intruder could use."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import yaml

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
MAX_EXPOSURE = 3.0  # of systemd-analyze security: 0 is best, 10 worst


@unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is not installed")
class UnitFile(unittest.TestCase):
    def setUp(self):
        tmp = tempfile.TemporaryDirectory(prefix="l7mp-test-")
        self.addCleanup(tmp.cleanup)
        self.path = os.path.join(tmp.name, "l7mp-proxy.service")
        with open(os.path.join(ROOT, "scripts/l7mp-proxy.service")) as f:
            text = f.read()
        # `verify` wants the program to be there.
        program = os.path.join(tmp.name, "sbin/l7mp-proxy")
        os.mkdir(os.path.dirname(program))
        shutil.copy("/bin/true", program)
        with open(self.path, "w") as f:
            f.write(text.replace("@PREFIX@", tmp.name))

    def analyze(self, *args):
        env = dict(os.environ, LC_ALL="C", SYSTEMD_COLORS="0", SYSTEMD_PAGER="cat")
        return subprocess.run(["systemd-analyze", *args, self.path], capture_output=True, text=True, env=env,
                              timeout=120, stdin=subprocess.DEVNULL)

    def test_every_directive_is_known(self):
        r = self.analyze("verify", "--man=no")
        bad = [line for line in r.stderr.splitlines() if "l7mp-proxy.service" in line]
        self.assertEqual(bad, [])

    def test_exposure(self):
        r = self.analyze("security", "--offline=yes", "--no-pager")
        if "offline" in r.stderr:
            self.skipTest("systemd-analyze has no --offline")
        found = re.search(r"Overall exposure level[^:]*: ([0-9.]+)", r.stdout)
        self.assertIsNotNone(found, r.stdout + r.stderr)
        self.assertLessEqual(float(found.group(1)), MAX_EXPOSURE, r.stdout)


class Shipped(unittest.TestCase):
    """What is installed beside the programs lets in nobody from another host."""

    def configs(self):
        for path in sorted(pathlib.Path(ROOT, "config").iterdir()):
            with self.subTest(path.name):
                yield path, yaml.safe_load(path.read_text())

    def test_loopback(self):
        seen = 0
        for path, config in self.configs():
            for listener in config.get("listeners") or []:
                spec = listener["spec"].get("transport", listener["spec"])
                if "port" in spec:
                    seen += 1
                    self.assertIn(spec.get("address"), ("127.0.0.1", "::1"), path)
            server = (config.get("admin") or {}).get("server")
            if server is not None:
                self.assertEqual(server.get("address", "127.0.0.1"), "127.0.0.1", path)
        self.assertGreater(seen, 15)

    def test_packaged(self):
        """the packaged config asks for a token, and has no API in the data plane"""
        config = yaml.safe_load(pathlib.Path(ROOT, "config/l7mp-packaged.yaml").read_text())
        self.assertEqual(config["admin"]["api_token_file"], "/etc/l7mp/token")
        self.assertEqual(config["listeners"], [])
        unit = pathlib.Path(ROOT, "scripts/l7mp-proxy.service").read_text()
        self.assertIn("-c /etc/l7mp/l7mp.yaml", unit)


class Package(unittest.TestCase):
    """debian/ says what the rest of the tree says; packages/test_deb.py builds and installs it."""

    def read(self, path):
        return pathlib.Path(ROOT, path).read_text()

    def test_version(self):
        """the package's version is the program's"""
        self.assertEqual(re.match(r"l7mp \((.*?)\)", self.read("debian/changelog"))[1], self.read("VERSION").strip())

    def test_build_depends(self):
        """it is built with what scripts/setup.sh installs for building"""
        listed = subprocess.run([os.path.join(ROOT, "scripts/setup.sh"), "list", "build"], capture_output=True, text=True).stdout.split()
        wanted = set(listed) - {"gcc", "make", "libc6-dev"}  # build-essential
        field = re.search(r"^Build-Depends:(.*?)^[A-Z]", self.read("debian/control"), re.M | re.S)[1]
        found = {alternative.split()[0] for one in field.split(",") for alternative in one.split("|")}
        self.assertEqual(found - {"debhelper-compat", "pkgconf"}, wanted)

    def test_user(self):
        """package and `make install` make the same user"""
        self.assertIn(f"echo '{self.read('debian/l7mp.sysusers').strip()}'", self.read("Makefile"))

    def test_completion(self):
        """both shells complete each command and each option of l7mpctl"""
        told = subprocess.run([l7test.program("l7mpctl"), "--help"], capture_output=True, text=True).stdout
        commands = set()
        for row in told.split("Commands:")[1].split("Options:")[0].splitlines():
            m = re.match(r"  ([a-z|-]+( \| [a-z]+)*)", row)
            if m:
                commands |= set(re.split(r"[ |]+", m[1]))
        self.assertGreaterEqual(commands, {"listeners", "explain", "flows", "drain", "version"})
        options = set(re.findall(r"(?<!\w)--?[a-zA-Z]+", told.split("Options:")[1]))
        bash, zsh = self.read("scripts/completion/l7mpctl.bash"), self.read("scripts/completion/_l7mpctl")
        kinds = re.search(r'kinds="(.*?)"', bash)[1]
        self.assertEqual(set(re.search(r'"0 "\) want="(.*?)"', bash)[1].replace("$kinds", kinds).split()), commands)
        self.assertEqual(set(re.search(r"1:command:\((.*?)\)", zsh)[1].split()), commands)
        self.assertEqual(set(re.findall(r"--?[a-zA-Z]+", re.search(r'compgen -W "(--api.*?)"', bash, re.S)[1])), options)
        self.assertLessEqual(options, set(re.findall(r"(?<!\w)--?[a-zA-Z]+", zsh)))


if __name__ == "__main__":
    l7test.main()
