#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=240 timeout_full=900
"""Generated connections (heads, bodies, chunks, trailers, pipelining, each now and then wrong) against a running listener:
what the upstream sees as complete must be what Node's llhttp or h11, both strict, read in the same bytes."""
import os
import queue
import random
import re
import threading
import unittest

import l7test
from http_readers import NODE, Message, lawful, generate_stream, h11, h11_stream, node_streams, seeds
from httpraw import Client, Malformed, Upstream
from traffic import Case, listener

COUNT = int(os.environ.get("L7MP_HTTP_CASES", 40_000 if l7test.FULL else 2_000))
SEED = int(os.environ.get("L7MP_HTTP_SEED", 1))
LANES = 4  # listeners with an upstream each, so that what is seen belongs to one connection


def origin(method, target):
    """A target as the upstream is told it: path and query."""
    if target.lower().startswith((b"http://", b"https://")):
        rest = target.split(b"//", 1)[1]
        cut = min((i for i in (rest.find(b"/"), rest.find(b"?")) if i >= 0), default=len(rest))
        target = rest[cut:]
        if not target.startswith(b"/"):
            target = b"/" + target
    return method, target


def agrees(seen, messages):
    """What was seen is the beginning of what another reader has read."""
    return len(seen) <= len(messages) and all(
        origin(s.method, s.target) == origin(m.method, m.target) and (s.body, True) == (m.body, m.complete)
        for s, m in zip(seen, messages))


@unittest.skipUnless(h11, "python3-h11 is not installed")
class Live(Case):
    def test_live(self):
        """http fuzz: the upstream sees only what llhttp or h11 read in the same bytes"""
        upstreams = [Upstream(9100 + i) for i in range(LANES)]
        self.start(*(listener(f"http{i}", "HTTP", 9000 + i, upstreams[i].cluster(), address="127.0.0.1") for i in range(LANES)))
        rng, table = random.Random(SEED), seeds()
        cases = [generate_stream(rng, table) for _ in range(COUNT)]
        node = node_streams(cases) if NODE else [[] for _ in cases]
        self.faults, self.counts, self.todo = [], {"seen": 0, "refused": 0, "both": 0}, queue.SimpleQueue()
        for item in enumerate(cases):
            self.todo.put(item)
        lanes = [threading.Thread(target=self.lane, args=(9000 + i, upstreams[i], node), daemon=True) for i in range(LANES)]
        for t in lanes:
            t.start()
        for t in lanes:
            t.join()
        print(f"# {COUNT:,} connections: {self.counts['seen']:,} requests seen, {self.counts['refused']:,} refused, "
              f"{self.counts['both']:,} connections read the same by all" + ("" if NODE else "; without Node"), flush=True)
        self.assertEqual(self.faults[:10], [], "\n" + "\n".join(self.faults[:10]))
        self.assertGreater(self.counts["seen"], COUNT // 10)

    def lane(self, port, upstream, node):
        while True:
            try:
                number, data = self.todo.get(block=False)
            except queue.Empty:
                return
            try:
                statuses = self.play(port, data)
                with Client(port) as c:  # what was connected before has been accepted before this one
                    c.send(b"GET /after HTTP/1.1\r\nHost: after\r\nConnection: close\r\n\r\n")
                    c.answer()
                seen = [Message(s.method.encode("latin-1"), s.target.encode("latin-1"), s.body, True)
                        for s in upstream.take() if s.complete and s.target != "/after"]
            except (Malformed, OSError) as e:
                self.faults.append(f"{e!r}: {data!r}")
                continue
            other = h11_stream(data)
            self.counts["seen"] += len(seen)
            self.counts["refused"] += any(s >= 400 for s in statuses)
            self.counts["both"] += agrees(seen, node[number]) and agrees(seen, other)
            if not agrees(seen, node[number]) and not agrees(seen, other) and not lawful(data):
                self.faults.append(f"{data!r}\n  upstream {seen}\n  answers  {statuses}\n  node     {node[number]}\n  h11      {other}")

    @staticmethod
    def play(port, data):
        """The statuses of the answers."""
        with Client(port) as c:
            c.send(data)
            c.finish()
            while c.fill():
                pass
            text = c.data
        return [int(s) for s in re.findall(rb"(?:\A|\n|seen|})HTTP/1\.1 (\d\d\d) ", text)]


if __name__ == "__main__":
    l7test.main()
