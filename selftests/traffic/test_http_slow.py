#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: long timeout=240 timeout_full=900
"""Slow and silent HTTP clients: 5,000 and 10,000 in the full mode, a few hundred in the fast one. Others are served,
memory is bounded, and each slow one is cut when its time is over. (How long others wait is a figure of the bench.)"""
import os
import select
import socket

import l7test
from http_crowd import Process
from httpraw import Client, Upstream
from traffic import PEERS, Case, Peak, cluster, inline, listener

SLOW, IDLE = (5_000, 10_000) if l7test.FULL else (240, 400)
LIMIT = 120  # seconds to wait for what has to happen: a busy machine is slow, too


def path(text):
    return {"op": "test", "path": "/HTTP/url/path", "value": text}


class Slow(Case):
    def begin(self, **kw):
        """A proxy and what stands behind it. The full sizes are for the build as shipped: AddressSanitizer's memory says
        nothing."""
        sink = Process("sink", "127.0.0.1:9001")
        PEERS.append(sink)
        self.upstream = Upstream(9002)
        first = listener("crowd", "HTTP", 9000, cluster("TCP", 9001), address="127.0.0.1", match=path("/reader"))
        # The crowd's other requests: bodies are discarded, the idle ones' first requests answered.
        for name, where in (("/body", "Discard"), ("/idle", "Echo")):
            first["rules"].append({"match": path(name), "action": {"route": {"destination": inline(where)}}})
        self.start(first, listener("other", "HTTP", 9003, self.upstream.cluster(), address="127.0.0.1"),
                   build=os.environ.get("L7MP_BUILD") or ("build" if l7test.FULL else None), **kw)
        self.later(lambda: not self.sessions())

    def crowd(self, port, interval, **kinds):
        p = Process("clients", f"127.0.0.1:{port}", interval, *(f"{k}={n}" for k, n in kinds.items()))
        PEERS.append(p)
        return p

    def others(self, count=50):
        """A client of the same listener, one of another, the API: all are served."""
        with Client(9000) as same, Client(9003) as other:
            for i in range(count):
                same.send(b"POST /idle HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
                self.assertEqual(same.answer()[::4], (200, b"hello"), i)
                other.send(b"POST /o HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
                self.assertEqual(other.answer()[::4], (200, b"seen"), i)
        for _ in range(count):
            with Client(9000) as c:
                c.send(b"GET /idle HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                self.assertEqual(c.answer().status, 200)
        self.assertEqual(self.api.get("/admin")[0], 200)

    def closed(self, crowd, kind, count):
        """All of a kind are cut."""
        self.assertTrue(l7test.wait_for(lambda: crowd.look()[kind]["closed"] == count, LIMIT, 0.2), f"{kind}: {crowd.look()[kind]}")
        row = crowd.look()[kind]
        print(f"# {kind}: {count} cut at an age of {row['first']:.1f} to {row['last']:.1f} s, answered {row['statuses']}", flush=True)
        return row

    def test_deadlines(self):
        """http slow: header_timeout, body_timeout and keepalive_timeout of a listener; another one keeps the defaults"""
        times = {"header_timeout": 0.3, "body_timeout": 0.3, "keepalive_timeout": 0.3}
        short, changed = (listener(name, "HTTP", port, inline("Discard"), address="127.0.0.1") for name, port in (("short", 9000), ("usual", 9003)))
        short["spec"]["options"] = changed["spec"]["options"] = times
        self.start(short, listener("usual", "HTTP", 9003, inline("Discard"), address="127.0.0.1"))
        kinds = {"head": b"GET / HT", "body": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx", "idle": b""}
        peers = {}
        for port in (9000, 9003):
            for kind, data in kinds.items():
                peers[port, kind] = s = socket.create_connection(("127.0.0.1", port), timeout=60 * l7test.SLOW)
                self.addCleanup(s.close)
                s.sendall(data)
        got = {kind: peers[9000, kind].recv(4096) for kind in kinds}
        self.assertIn(b" 408 ", got["head"].splitlines()[0])
        self.assertIn(b" 408 ", got["body"].splitlines()[0])
        self.assertEqual(got["idle"], b"")
        # At the same time nothing has come from the other one: its deadlines are 5, 10 and 60 s.
        self.assertEqual(select.select([peers[9003, kind] for kind in kinds], [], [], 0)[0], [])
        # A change is for connections that are there, too.
        status, answer = self.api.put("/listeners/usual", {"listener": changed})
        self.assertEqual(status, 200, answer)
        peers[9003, "idle"].sendall(b"GET / HT")
        self.assertIn(b" 408 ", peers[9003, "idle"].recv(4096).splitlines()[0])

    def test_slow(self):
        """http slow: slow heads, slow bodies and unread answers beside idle connections; others are served"""
        self.begin()
        third = SLOW // 3
        base = self.proxy.rss_kb()
        crowd = self.crowd(9000, 1.0, idle=IDLE, head=third, body=third, reader=third)
        first = crowd.look()
        for _ in range(3):
            self.others()
        full = self.proxy.rss_kb()
        row = self.closed(crowd, "head", third)
        self.assertGreater(row["first"], 8)
        self.assertEqual(set(row["statuses"]) - {"408", "None"}, set())
        self.others()
        row = self.closed(crowd, "body", third)
        self.assertGreater(row["first"], 4)
        self.assertEqual(set(row["statuses"]) - {"408", "None"}, set())
        self.others()
        look = crowd.look()
        print(f"# RSS {base // 1024} MB, with {IDLE + 3 * third} clients {full // 1024} MB, with what is left "
              f"{self.proxy.rss_kb() // 1024} MB; left: {look['idle']['open']} idle, {look['reader']['open']} readers", flush=True)
        self.assertEqual(sum(first[k]["failed"] for k in first), 0, first)
        # 64 KiB for each idle one and 512 KiB for each reader would be more than enough.
        self.assertLess(full - base, (64 << 10) + 64 * IDLE + 512 * third)
        if l7test.FULL:  # that takes a minute
            row = self.closed(crowd, "idle", IDLE)
            self.assertGreater(row["first"], 50)
        crowd.close()
        PEERS.remove(crowd)
        self.assertTrue(l7test.wait_for(lambda: not self.sessions(), LIMIT, 0.2))

    def test_half(self):
        """http slow: 2,000 half-sent requests; the API and other listeners answer; all are cut"""
        count = 2_000 if l7test.FULL else 500
        self.begin()
        crowds = [self.crowd(port, 1.0, half=count // 2) for port in (9000, 1234)]
        self.others(200)
        self.assertEqual(self.api.get("/listeners")[0], 200)
        for crowd in crowds:
            row = self.closed(crowd, "half", count // 2)
            self.assertGreater(row["first"], 8)

    def test_bodies(self):
        """http slow: 33 bodies of one byte per 2.5 s on the API's listener and on another; both answer others"""
        self.begin()
        crowds = {"body": self.crowd(9000, 2.5, body=33), "api": self.crowd(1234, 2.5, api=33)}
        self.others(200)
        self.assertEqual(self.api.get("/listeners")[0], 200)
        for kind, crowd in crowds.items():
            row = self.closed(crowd, kind, 33)
            self.assertEqual(set(row["statuses"]) - {"408", "None"}, set())
            self.assertGreater(row["first"], 4)

    def test_pipeline(self):
        """http slow: a client that sends requests for as long as they are taken and reads nothing; then it reads all"""
        # More requests than 20,000 in a second would be refused otherwise.
        self.begin(measured=True, admin={"limits": {"new_sessions_per_second": 10000000}})
        peak = Peak(self.proxy)
        request = b"POST /idle HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789"
        with Client(9000) as c:
            c.sock.settimeout(3)  # an unread answer may be cut after some seconds: this ends before
            sent = 0
            try:
                while sent < (64 << 20):
                    sent += c.sock.send(request * 100)
            except TimeoutError:
                pass
            self.others()
            self.assertLess(sent, 48 << 20, "requests are taken without bound")
            self.assertLess(peak.grown(), 32 << 10)
            c.sock.settimeout(60)
            for _ in range(sent // len(request)):
                self.assertEqual(c.answer()[::4], (200, b"0123456789"))


if __name__ == "__main__":
    l7test.main()
