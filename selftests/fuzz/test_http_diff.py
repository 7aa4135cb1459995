#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=240 timeout_full=1200
"""The reader of HTTP heads against two strict readers that are not ours: Node's (llhttp) and Python's h11. Generated
heads, 20,000 in the fast mode and a million in the full one (L7MP_HTTP_CASES says otherwise), are given to all
three, followed by bytes that show how each frames the body. Where ours accepts, method, target, version, fields and
framing must be what the others read, if they accept."""
import collections
import multiprocessing
import os
import random
import re
import unittest

import l7test
from http_readers import NODE, NODE_READER, generate, h11, h11_head, heads_of, lawful, seeds

READER = os.environ.get("L7MP_HTTP_READER") or l7test.program("bin/http_reader")
COUNT = int(os.environ.get("L7MP_HTTP_CASES", 1_000_000 if l7test.FULL else 20_000))
SEED = int(os.environ.get("L7MP_HTTP_SEED", 1))
BATCH = 10_000
# What follows each head: a chunk, the last chunk, more. How much of it is body says what the framing is.
TAIL = b"5\r\nHELLO\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
# Empty lines before a request, which h11 does not skip (RFC 9112, 2.2).
BLANKS = re.compile(rb"\A(\r\n)+")


def normal(r):
    """A reading as it can be compared: what RFC 9112 lets readers do differently is taken out."""
    if r and r.method == b"CONNECT":  # its body has no meaning, its target replaces Host
        r = r._replace(body=b"", complete=True, fields=[f for f in r.fields if f[0] != b"host"])
    if r and r.target.lower().startswith((b"http://", b"https://")):  # replaces Host (3.2.2), which the others leave to callers
        r = r._replace(fields=[f for f in r.fields if f[0] != b"host"])
    if r and re.fullmatch(rb"1\.[2-9]", r.version):  # is processed as 1.1 (RFC 9110, 2.5)
        r = r._replace(version=b"1.1")
    return r


def judge(data, ours, node, other):
    """None, or what is wrong: a result that another parser contradicts, or that no other has."""
    if ours is None:
        return None
    wrong = [name for name, r in (("node", node), ("h11", other)) if r is not None and r != ours]
    if wrong:
        return f"{' and '.join(wrong)} read otherwise"
    if node is None and other is None and not lawful(data):
        return "nobody else accepts it"
    return None


def batch(job):
    """One batch of cases: counts, and the first faults."""
    number, count = job
    rng = random.Random(SEED * 1_000_003 + number)
    table = seeds()
    cases = [generate(rng, table) + TAIL for _ in range(count)]
    ours = heads_of([READER], cases)
    node = heads_of([NODE, NODE_READER], cases) if NODE else [None] * count
    counts, faults = collections.Counter(), []
    for data, a, b in zip(cases, ours, node):
        a, b, c = normal(a), normal(b), normal(h11_head(BLANKS.sub(b"", data)))
        counts["cases"] += 1
        counts["ours"] += a is not None
        counts["node"] += b is not None
        counts["h11"] += c is not None
        counts["only we refuse"] += a is None and b is not None and b == c
        counts["all three"] += a is not None and b is not None and c is not None
        fault = judge(data, a, b, c)
        if fault:
            counts["wrong"] += 1
            if len(faults) < 10:
                faults.append(f"{fault}: {data.removesuffix(TAIL)!r}\n  ours {a}\n  node {b}\n  h11  {c}")
    return counts, faults


@unittest.skipUnless(h11, "python3-h11 is not installed")
@unittest.skipUnless(os.path.exists(READER), f"{READER} is not built")
class Differential(unittest.TestCase):
    def test_heads(self):
        """http heads: what we accept is read the same by llhttp and h11"""
        jobs = [(i, min(BATCH, COUNT - i * BATCH)) for i in range((COUNT + BATCH - 1) // BATCH)]
        counts, faults = collections.Counter(), []
        with multiprocessing.Pool(min(2, os.cpu_count() or 1)) as pool:
            for c, f in pool.imap_unordered(batch, jobs):
                counts += c
                faults += f
        print("# " + ", ".join(f"{k} {v:,}" for k, v in counts.items()) + ("" if NODE else "; without Node"), flush=True)
        self.assertEqual(counts["wrong"], 0, "\n" + "\n".join(faults[:20]))
        self.assertGreater(counts["ours"], counts["cases"] // 50)


if __name__ == "__main__":
    l7test.main()
