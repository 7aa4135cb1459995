#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=900
"""Each reason for which a TCP session stays in user space, and it goes on there."""
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7net  # noqa: E402
import l7test  # noqa: E402
import tcpflow  # noqa: E402
from tcpsplice import Base  # noqa: E402



class Refusals(Base):
    """Each reason for which a session stays in user space, and it goes on there."""

    def refused(self, p, reason, **kw):
        c, s = self.connect(**kw)
        end = tcpflow.Both(c, 1, 2), tcpflow.Both(s, 2, 1)
        self.wait(lambda: self.reason(p) == reason, p)
        at = end[1].receiver.received
        self.wait(lambda: end[1].receiver.received > at + (1 << 20), p)
        for e in end:
            e.sender.stop()
        self.finish([end])

    def test_timestamps(self):
        """tcp-timestamps: only one end has them"""
        self.a.run("sysctl -qw net.ipv4.tcp_timestamps=0")
        with self.proxy() as p:
            self.refused(p, "tcp-timestamps")

    def test_ecn(self):
        """tcp-ecn: only one end has it"""
        self.a.run("sysctl -qw net.ipv4.tcp_ecn=1")
        with self.proxy() as p:
            self.refused(p, "tcp-ecn")

    def test_mss(self):
        """tcp-mss: one end may send larger segments than the other takes"""
        with self.proxy(mss=700) as p:
            self.refused(p, "tcp-mss")

    def test_transformer(self):
        """transformer-in-path: user space has to see the bytes"""
        with self.proxy(ingress=["log"]) as p:
            self.refused(p, "transformer-in-path")

    def test_metric(self):
        """a Metric counts what passed in the kernel"""
        with self.proxy(ingress=["count"], tcp={"after_bytes": 0}) as p:
            c, s = self.connect()
            end = tcpflow.Both(c, 1, 2, 32 << 20), tcpflow.Both(s, 2, 1, 32 << 20)
            self.finish([end])
            line = self.logged(p)
            self.assertGreater(line["ingress"]["fast"]["bytes"], 0)
            self.assertEqual(line["ingress"]["bytes"], 32 << 20)

    def test_disabled(self):
        """disabled: by offload_tcp.enabled"""
        with self.proxy(tcp={"enabled": False}) as p:
            self.refused(p, "disabled")

    def test_young(self):
        """tcp-young: neither old nor large enough"""
        with self.proxy(tcp={"after_bytes": 1 << 30, "after_ms": 3600000}) as p:
            self.refused(p, "tcp-young")

    def test_not_seen(self):
        """not-seen: NAT in front of the listener"""
        try:
            l7net.sh("nft", "add table ip n; add chain ip n c { type nat hook prerouting priority -100; }; "
                     "add rule ip n c tcp dport 9100 redirect to :9000")
        except (AssertionError, FileNotFoundError) as e:
            self.skipTest(f"no nft with NAT: {e}")
        self.addCleanup(l7net.sh, "nft", "delete table ip n", check=False)
        with self.proxy() as p:
            self.refused(p, "not-seen", port=9100)

    @unittest.skipUnless(l7test.FULL, "make test-full: whether the session goes in before the buffers are full depends on the machine's speed")
    def test_busy(self):
        """tcp-busy: the server does not read, so the connections don't come to rest"""
        with self.proxy() as p:
            c, s = self.connect()
            end = tcpflow.Both(c, 1, 2, 64 << 20), tcpflow.Both(s, 2, 1, 1 << 16, read=False)
            self.wait(lambda: self.reason(p) == "tcp-busy", p)
            end[1].receiver.go.set()
            self.finish([end])

if __name__ == "__main__":
    l7test.main()
