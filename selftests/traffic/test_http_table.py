#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=240 timeout_full=600
"""The table of requests (http_table.txt): status, what becomes of the connection, and what the upstream saw; in one
write, byte by byte, and cut at random."""
import os
import pathlib
import random

import l7test
from httpraw import Malformed, Upstream, judge, play, read_table
from traffic import Case, listener

TABLE = read_table(pathlib.Path(__file__).with_name("http_table.txt"))
ONLY = os.environ.get("HTTP_CASE")  # a case's name, to look at it alone


class Table(Case):
    def run_table(self, pieces, limit):
        """Cases of at most `limit` bytes, in writes as pieces(case) says."""
        upstream = Upstream()
        self.start(listener("http", "HTTP", 9000, upstream.cluster(), address="127.0.0.1"))
        wrong, count = [], 0
        for case in TABLE:
            if len(case.request) > limit or (ONLY and case.name != ONLY):
                continue
            count += 1
            try:
                fault = judge(case, *play(case, 9000, upstream, pieces(case)))
            except (Malformed, OSError) as e:
                fault = f"[{case.name}] {e!r}, expected {case.outcomes}"
            if fault:
                wrong.append(fault)
        print(f"# {count} cases", flush=True)
        self.assertEqual(wrong, [], "\n" + "\n".join(wrong))

    def test_whole(self):
        """http table: each request in one write"""
        self.run_table(lambda case: None, 1 << 20)

    def test_bytes(self):
        """http table: each request in writes of one byte"""
        self.run_table(lambda case: [1], 1000)

    def test_splits(self):
        """http table: each request cut at random"""
        rng = random.Random(7)
        for _ in range(8 if l7test.FULL else 1):
            self.run_table(lambda case: [rng.choice([1, 2, 3, 7, 20, 100]) for _ in range(40)] + [4000], 1 << 20)
            self.tearDown()

    def test_size(self):
        """http table: it has at least 180 requests"""
        self.assertGreaterEqual(len(TABLE), 180)


if __name__ == "__main__":
    l7test.main()
