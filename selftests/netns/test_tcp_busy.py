#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=900
"""TCP sessions whose peers answer each other without a pause, so that at any moment some message is unacknowledged: they move into
the kernel at the first try, every byte arrives once and in order, and the peers see nothing on the wire that sockets would not send."""
import hashlib
import pathlib
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7test  # noqa: E402
import tcpflow  # noqa: E402
import tcpwire  # noqa: E402

SIZES = (100, 1, 32, 700)
ROUNDS = 30 if l7test.FULL else 8


class Talk:
    """Requests and answers: `depth` requests are in flight, and the server answers each after `pause` seconds."""

    def __init__(self, c, s, pause, depth=1, sizes=SIZES):
        self.pause, self.depth, self.sizes = pause, depth, sizes
        self.ends = c, s
        self.asked = self.answered = 0
        self.sent = [hashlib.sha256(), hashlib.sha256()]
        self.received = [hashlib.sha256(), hashlib.sha256()]
        self.at = [[0, 0], [0, 0]]  # bytes of each stream that were sent, received
        self.longest = 0  # from a request to its answer, in seconds
        self.error, self.stopped = None, threading.Event()
        self.threads = [threading.Thread(target=self.safely, args=(f,), daemon=True) for f in (self.client, self.server)]
        for t in self.threads:
            t.start()

    def safely(self, what):
        try:
            what()
        except (OSError, AssertionError) as e:
            self.error = e

    def send(self, way, i):
        n = self.sizes[i % len(self.sizes)]
        data = tcpflow.expected(way, self.at[way][0], n)
        self.ends[way].sendall(data)
        self.sent[way].update(data)
        self.at[way][0] += n

    def receive(self, way, i):
        """False: the end of the stream."""
        n = self.sizes[i % len(self.sizes)]
        data = tcpflow.exactly(self.ends[not way], n)
        if not data:
            return False
        if data != tcpflow.expected(way, self.at[way][1], n):
            raise AssertionError(f"stream {way} is wrong in the message at {self.at[way][1]}")
        self.received[way].update(data)
        self.at[way][1] += n
        return True

    def client(self):
        times = []
        while not self.stopped.is_set() or self.answered < self.asked:
            while self.asked - self.answered < self.depth and not self.stopped.is_set():
                times.append(time.monotonic())
                self.send(0, self.asked)
                self.asked += 1
            if self.answered == self.asked:
                break
            if not self.receive(1, self.answered):
                raise AssertionError("the stream ended early")
            self.longest = max(self.longest, time.monotonic() - times.pop(0))
            self.answered += 1
        self.ends[0].shutdown(1)

    def server(self):
        i = 0
        while self.receive(0, i):
            if self.pause:
                time.sleep(self.pause)
            self.send(1, i)
            i += 1
        self.ends[1].shutdown(1)


class Busy(tcpwire.Base):
    def setUp(self):
        super().setUp()
        # With BBR round-trip times that differ, as they do with a far client or on a busy machine, are a reason to refuse.
        pathlib.Path("/proc/sys/net/ipv4/tcp_congestion_control").write_text("reno")

    def talk(self, *args, v6=False, **kw):
        return Talk(*self.connect(v6), *args, **kw)

    def finish_talk(self, t):
        t.stopped.set()
        self.join(*t.threads)
        self.assertIsNone(t.error)
        for way in range(2):
            self.assertEqual(t.at[way][0], t.at[way][1])
            self.assertEqual(t.sent[way].digest(), t.received[way].digest())
        self.assertEqual(tcpflow.exactly(t.ends[0], 1), b"")
        for s in t.ends:
            s.close()

    def stays(self, p, t, n=50):
        """The messages pass in the kernel."""
        before, at = self.wait_fast(p), t.answered
        self.wait(lambda: t.answered > at + n or t.error, p)
        now = self.session(p)
        for way in ("ingress", "egress"):
            self.assertEqual(now["stats"][way]["slow"], before["stats"][way]["slow"])

    def again(self, p, t):
        """Out of the kernel and in again, while they continue talking."""
        for i in range(ROUNDS):
            before, at = p.api.get("/offload")[1]["flows"]["withdrawn"], t.answered
            self.toggle(i)
            self.wait(lambda before=before: p.api.get("/offload")[1]["flows"]["withdrawn"] > before, p)
            self.never_busy(p)
            self.wait(lambda at=at: t.answered > at + 2 or t.error, p)
        if ROUNDS % 2:
            self.toggle(1)

    def check(self, *args, v6=False, capture=True, **kw):
        before = self.bad_checksums()
        captures = [self.capture(self.a), self.capture(self.b)] if capture else []
        with self.proxy(v6=v6, tcp={"after_bytes": 0}) as p:
            t = self.talk(*args, v6=v6, **kw)
            self.never_busy(p)
            self.stays(p, t)
            self.again(p, t)
            self.stays(p, t)
            self.finish_talk(t)
            line = self.logged(p)
            self.assertEqual(line["ingress"]["bytes"], t.at[0][0])
            self.assertEqual(line["egress"]["bytes"], t.at[1][0])
            self.nothing_left(p)
        for c in captures:
            self.checked(c, least=100)
        self.assertEqual(self.bad_checksums(), before)

    def test_at_once(self):
        """answers at once, one message in flight"""
        self.check(0)

    def test_tenth(self):
        """answers after 0.1 ms"""
        self.check(0.0001)

    def test_ms(self):
        """answers after 1 ms, over IPv6"""
        self.check(0.001, v6=True)

    def test_20_ms(self):
        """answers after 20 ms"""
        self.check(0.02)

    def test_many_in_flight(self):
        """sixteen requests in flight, answered at once"""
        self.check(0, depth=16)

    def test_many_in_flight_slowly(self):
        """sixteen requests in flight, answered one after the other after 1 ms each"""
        self.check(0.001, depth=16)

    def test_far_client(self):
        """a client with a round-trip time of 60 ms: its acknowledgements are never there between two messages"""
        self.bad_link(delay=0.03)
        self.check(0.001, depth=4)

    def test_loss(self):
        """0.8 % loss, 2 % out of order, 0.5 % doubled"""
        self.bad_link(loss=0.008, reorder=0.02, duplicate=0.005)
        self.check(0, depth=4, capture=False)


if __name__ == "__main__":
    l7test.main()
