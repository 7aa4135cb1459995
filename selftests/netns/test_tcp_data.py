#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=1800
"""TCP sessions in the kernel: every byte arrives once, in order, whenever the session goes in and comes back."""
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7net  # noqa: E402
import l7test  # noqa: E402
import tcpflow  # noqa: E402
from tcpsplice import Base  # noqa: E402

BULK = (1 << 30) if l7test.FULL else (48 << 20)


class Bulk(Base):
    def bulk(self, p, v6, n, total):
        """n connections with `total` bytes both ways at once, all of them compared."""
        conns = [self.connect(v6) for _ in range(n)]
        ends = [(tcpflow.Both(c, 2 * i, 2 * i + 1, total), tcpflow.Both(s, 2 * i + 1, 2 * i, total))
                for i, (c, s) in enumerate(conns)]
        self.finish(ends, total)
        return ends

    def totals(self, p, total, n):
        """The access log has each byte once."""
        def logged():
            lines = self.access()
            return lines if len(lines) == n else None
        lines = l7test.wait_for(logged, l7net.WAIT)
        self.assertIsNotNone(lines, self.access())
        for line in lines:
            for way in ("ingress", "egress"):
                self.assertEqual(line[way]["bytes"], total, line)
                self.assertEqual(line[way]["slow"]["bytes"] + line[way]["fast"]["bytes"], total, line)
            self.assertEqual(line["reason"], "end of stream")
        # A session that has little left when its turn comes may end in user space.
        for way in ("ingress", "egress"):
            self.assertGreater(sum(line[way]["fast"]["packets"] for line in lines), 0, lines)

    def check(self, v6, n, total, **tcp):
        with self.proxy(v6=v6, tcp=tcp) as p:
            self.bulk(p, v6, n, total)
            self.totals(p, total, n)
            self.nothing_left(p)
        self.assertEqual(self.bad_checksums(), 0)

    def test_one(self):
        """one connection, spliced at once, both ways at once"""
        self.check(False, 1, BULK, after_bytes=0)

    def test_one_ipv6(self):
        """the same over IPv6"""
        self.check(True, 1, BULK, after_bytes=0)

    def test_many(self):
        """eight connections, spliced after 1 MB"""
        self.check(False, 8, BULK // 2, after_bytes=1 << 20, after_ms=3600000)

    def test_many_ipv6(self):
        """the same over IPv6"""
        self.check(True, 8, BULK // 2, after_bytes=1 << 20, after_ms=3600000)

    def test_counters(self):
        """the flow's counters rise, those of user space stand still"""
        with self.proxy() as p:
            c, s = self.connect()
            end = tcpflow.Both(c, 1, 2), tcpflow.Both(s, 2, 1)
            first = self.wait_fast(p)
            flows = p.api.get("/offload/flows")[1]
            self.assertEqual([f["protocol"] for f in flows], ["TCP", "TCP"])
            self.assertEqual([f["action"] for f in flows], ["splice", "splice"])
            at = [e.receiver.received for e in end]
            self.wait(lambda: all(e.receiver.received > a + (4 << 20) for e, a in zip(end, at)), p)
            now = self.session(p)
            for way in ("ingress", "egress"):
                self.assertEqual(now["stats"][way]["slow"], first["stats"][way]["slow"])
                self.assertGreater(now["stats"][way]["fast"]["bytes"], first["stats"][way]["fast"]["bytes"] + (2 << 20))
            for e in end:
                e.sender.stop()
            self.finish([end])
            self.nothing_left(p)

    def test_again_and_again(self):
        """out of the kernel and in again every 70 ms, by a change of the routing rules"""
        with self.proxy(tcp={"after_bytes": 0}) as p:
            c, s = self.connect()
            end = tcpflow.Both(c, 1, 2), tcpflow.Both(s, 2, 1)
            self.wait_fast(p)
            for i in range(60 if l7test.FULL else 20):
                self.toggle(i)
                time.sleep(0.07)
            self.wait_fast(p)
            self.assertGreater(p.api.get("/offload")[1]["flows"]["withdrawn"], 5)
            for e in end:
                e.sender.stop()
            self.finish([end])
            line = self.logged(p)
            self.assertEqual(line["ingress"]["bytes"], end[0].sender.sent)
            self.assertEqual(line["egress"]["bytes"], end[1].sender.sent)
            self.nothing_left(p)
        self.assertEqual(self.bad_checksums(), 0)


class BadLink(Base):
    def check(self, v6):
        total = (256 << 20) if l7test.FULL else (12 << 20)
        self.bad_link(loss=0.008, reorder=0.02, duplicate=0.005)
        with self.proxy(v6=v6, tcp={"after_bytes": 0}) as p:
            ends = []
            for i in range(4):
                c, s = self.connect(v6)
                ends.append((tcpflow.Both(c, 2 * i, 2 * i + 1, total), tcpflow.Both(s, 2 * i + 1, 2 * i, total)))
            n = 0
            while any(e.receiver.is_alive() for pair in ends for e in pair) and n < 400:
                self.toggle(n)
                n += 1
                time.sleep(0.3)
            self.finish(ends, total)
            for line in self.access():
                self.assertEqual(line["ingress"]["bytes"], total)
                self.assertEqual(line["egress"]["bytes"], total)
            self.assertGreater(sum(line["ingress"]["fast"]["bytes"] for line in self.access()), 0)
            self.nothing_left(p)
        self.assertEqual(self.bad_checksums(), 0)

    def test_loss(self):
        """0.8 % loss, 2 % out of order, 0.5 % doubled; out of the kernel and in again every 0.3 s"""
        self.check(False)

    def test_loss_ipv6(self):
        """the same over IPv6"""
        self.check(True)


class Transformers(Base):
    def test_metric(self):
        """a Metric counts what passed in the kernel"""
        with self.proxy(ingress=["count"], tcp={"after_bytes": 0}) as p:
            c, s = self.connect()
            end = tcpflow.Both(c, 1, 2, 32 << 20), tcpflow.Both(s, 2, 1, 32 << 20)
            self.finish([end])
            line = self.logged(p)
            self.assertGreater(line["ingress"]["fast"]["bytes"], 0)
            self.assertEqual(line["ingress"]["bytes"], 32 << 20)


if __name__ == "__main__":
    l7test.main()
