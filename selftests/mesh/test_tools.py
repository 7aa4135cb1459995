#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""scripts/mesh-tools.sh --check: why the tests on a real API server are skipped. Where nothing can be built that is not "not built"."""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7test  # noqa: E402

SCRIPT = l7test.ROOT / "scripts/mesh-tools.sh"
HIDDEN = "/usr/local/go"  # where the script looks besides PATH
USED = ("bash", "cat", "cut", "dirname", "flock", "grep", "mkdir", "rm", "sed", "sha256sum", "tee")


class Reason(unittest.TestCase):
    def setUp(self):
        d = tempfile.TemporaryDirectory()
        self.addCleanup(d.cleanup)
        self.bin, self.cache = pathlib.Path(d.name, "bin"), pathlib.Path(d.name, "cache")
        self.bin.mkdir()
        for name in USED:
            (self.bin / name).symlink_to(shutil.which(name))

    def go(self, text):
        (self.bin / "go").write_text(f"#!/bin/sh\n{text}\n")
        (self.bin / "go").chmod(0o755)

    def script(self, *args, hide=False):
        """(status, what it says last), with an empty cache."""
        command = [str(SCRIPT), *args]
        if hide:
            command = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && PATH=$1 && shift && exec "$@"', HIDDEN, str(self.bin), *command]
        r = subprocess.run(command, env={"PATH": os.environ["PATH"] if hide else str(self.bin), "L7MP_MESH_TOOLS": str(self.cache)}, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, text=True, timeout=60)
        return r.returncode, (r.stdout.splitlines() or [r.stderr])[-1]

    def test_missing(self):
        """without Go"""
        hide = os.path.exists(HIDDEN)
        if hide and not l7test.ISOLATED:
            self.skipTest("needs root")
        for args in ((), ("--check",)):
            self.assertEqual(self.script(*args, hide=hide), (77, "go is missing: the mesh tools need Go 1.26"))

    def test_old(self):
        """with an older one"""
        self.go("echo go1.19.8")
        for args in ((), ("--check",)):
            self.assertEqual(self.script(*args), (77, "the mesh tools need Go 1.26, there is go1.19.8"))

    def test_not_built(self):
        """where they can be built, and are not"""
        self.go("echo go1.26.1")
        self.assertEqual(self.script("--check"), (77, "the mesh tools are not built: make mesh-tools"))

    def test_no_modules(self):
        """when the modules cannot be fetched: known from the attempt"""
        self.go('[ "$1" = env ] && echo go1.26.1')
        for args in ((), ("--check",)):
            self.assertEqual(self.script(*args), (77, "the modules of the mesh tools can't be fetched"))


if __name__ == "__main__":
    l7test.main()
