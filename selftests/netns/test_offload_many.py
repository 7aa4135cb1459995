#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: alone timeout=180 timeout_full=600
"""Thousands of flows: the polled counters are exact while flows come and go, and a change of the network is in
all of 10,000 entries in the end (how soon is printed, not judged). By programs that drive offload/ without sockets
(selftests/bench)."""
import json
import pathlib
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7net  # noqa: E402
import l7test  # noqa: E402


class Many(unittest.TestCase):
    def setUp(self):
        if not l7test.ISOLATED:
            self.skipTest("needs root")
        l7net.need_bpffs(self)

    def tool(self, path, *args):
        r = subprocess.run([str(path), *map(str, args)], capture_output=True, text=True, check=False)
        self.assertEqual(r.returncode, 0, r.stderr[-4000:] + r.stdout)
        self.assertEqual(r.stderr, "")
        found = [json.loads(line) for line in r.stdout.splitlines()]
        for f in found:
            print("#", json.dumps(f))
        return found

    def test_counters(self):
        """counters are exact, never too much and never less than before, while flows are added and removed"""
        for sessions in (10000, 300):
            found = self.tool(l7test.program("bench/offload_check"), sessions, 30 if l7test.FULL else 3)[0]
            self.assertEqual(found["wrong"], 0)
            self.assertGreater(min(found["added"], found["removed"], found["packets"]), 1000)

    def test_small_batches(self):
        """the same when the poll takes many slices"""
        self.assertEqual(self.tool(l7test.program("bench/offload_check"), 50, 2, 64)[0]["wrong"], 0)

    def test_changes(self):
        """10,000 entries follow links, carriers, addresses, rules, routes and neighbours"""
        tool = l7test.ROOT / "build/bench/offload_change"
        for clients in (100, 5000):
            found = self.tool(tool, 5000, 5000 // clients)
            # The program fails (tool() looks at its status) when an entry does not follow.
            self.assertEqual(len(found), 7)


if __name__ == "__main__":
    l7test.main()
