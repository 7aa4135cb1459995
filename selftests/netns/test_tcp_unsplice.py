#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=900
"""TCP sessions come back from the kernel for what changes outside."""
import pathlib
import socket
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7net  # noqa: E402
import l7test  # noqa: E402
import tcpflow  # noqa: E402
from tcpsplice import Base  # noqa: E402



class Back(Base):
    """Out of the kernel, for what changes outside."""

    def running(self, p, v6=False):
        c, s = self.connect(v6)
        end = tcpflow.Both(c, 1, 2), tcpflow.Both(s, 2, 1)
        self.wait_fast(p)
        return end

    def more(self, p, end, n=4 << 20):
        at = [e.receiver.received for e in end]
        self.wait(lambda: all(e.receiver.received > a + n for e, a in zip(end, at)), p)

    def over(self, p, end):
        for e in end:
            e.sender.stop()
        self.finish([end])
        self.nothing_left(p)

    def test_route(self):
        """the route is lost for a while: the session waits, continues, and is spliced again"""
        for v6 in (False, True):
            with self.subTest(v6=v6), self.proxy(v6=v6) as p:
                end = self.running(p, v6)
                to = "fd09:2::2" if v6 else "10.9.2.2"
                l7net.ip(f"{'-6 ' if v6 else ''}route add unreachable {to}")
                time.sleep(0.3)
                l7net.ip(f"{'-6 ' if v6 else ''}route del unreachable {to}")
                self.more(p, end)
                self.wait_fast(p)
                self.more(p, end)
                self.over(p, end)

    def test_other_interface(self):
        """the route points to an interface that is not served: it continues in user space"""
        self.second_leg()
        with self.proxy() as p:
            end = self.running(p)
            l7net.ip("route add 10.9.2.2/32 via 10.9.3.2 src 10.9.2.1")
            self.wait(lambda: self.reason(p) == "interface-not-enabled", p)
            self.more(p, end)
            self.over(p, end)

    def test_mtu(self):
        """the MTU of the egress falls: user space continues with smaller segments"""
        with self.proxy() as p:
            end = self.running(p)
            self.b.run("ip link set eth0 mtu 1300")
            l7net.ip("link set legB mtu 1300")
            self.wait(lambda: self.reason(p) == "tcp-options", p)
            self.more(p, end, 1 << 20)
            self.over(p, end)

    def test_settings(self):
        """offload_ifs and offload_tcp take sessions out at once"""
        for change in ({"offload_ifs": "legA"}, {"offload_tcp": {"enabled": False}}):
            with self.subTest(change=change), self.proxy() as p:
                end = self.running(p)
                self.assertEqual(p.api.post("/admin", {"admin": change})[0], 200)
                self.wait(lambda: self.reason(p) in ("interface-not-enabled", "disabled"), p)
                self.more(p, end)
                self.over(p, end)

    def test_server_does_not_read(self):
        """back-pressure reaches the client through the kernel, and all arrives in the end"""
        with self.proxy() as p:
            c, s = self.connect()
            end = tcpflow.Both(c, 1, 2, 128 << 20), tcpflow.Both(s, 2, 1, 1 << 20, keep=True)
            self.wait_fast(p)
            end[1].receiver.go.clear()
            rss = p.rss_kb()
            last, since = -1, time.monotonic()
            while time.monotonic() - since < 1:
                if end[0].sender.sent != last:
                    last, since = end[0].sender.sent, time.monotonic()
                time.sleep(0.02)
            self.assertLess(last, 128 << 20)
            self.assertLess(p.rss_kb() - rss, 8 << 10)
            end[1].receiver.go.set()
            self.join(end[0].sender, end[1].receiver)
            self.assertEqual(end[1].receiver.received, 128 << 20)
            self.assertIsNone(end[1].receiver.wrong)
            s.shutdown(socket.SHUT_WR)
            self.join(end[0].receiver)
            for e in end:
                e.close()
            self.nothing_left(p)

if __name__ == "__main__":
    l7test.main()
