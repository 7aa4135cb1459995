#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: long timeout=900
"""TCP sessions in the kernel: every byte arrives once, in order, whenever the session goes in and comes back."""
import os
import pathlib
import socket
import sys
import threading
import time
import unittest

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


class Ends(Base):
    """Half-close, FIN and RST."""

    def half_closed(self, p, c, s, more):
        """The client has finished; the server sends on, then finishes."""
        self.assertEqual(s.recv(1), b"")
        sender, receiver = tcpflow.Sender(s, 5, more), tcpflow.Receiver(c, 5)
        self.join(sender, receiver)
        self.assertEqual(receiver.received, more)
        self.assertIsNone(receiver.wrong)
        c.close()
        s.close()

    def ping(self, c, s, data=b"x" * 4000):
        c.sendall(data)
        self.assertEqual(self.exactly(s, len(data)), data)
        s.sendall(data[::-1])
        self.assertEqual(self.exactly(c, len(data)), data[::-1])

    def fast_pair(self, p, **kw):
        c, s = self.connect(**kw)

        def fast():
            self.ping(c, s)
            x = self.session(p)
            return x if x and x["offload"]["state"] == "fast" else None
        self.wait(fast, p)
        return c, s

    def test_half_close_before(self):
        """the client finishes before the session would be spliced: it stays in user space"""
        with self.proxy(tcp={"after_bytes": 1 << 20, "after_ms": 3600000}) as p:
            c, s = self.connect()
            self.ping(c, s)
            c.shutdown(socket.SHUT_WR)
            self.half_closed(p, c, s, 8 << 20)
            self.assertEqual(self.logged(p)["egress"]["fast"]["bytes"], 0)
            self.nothing_left(p)

    def test_half_close_during(self):
        """the client finishes at any moment of the switch"""
        with self.proxy(tcp={"after_bytes": 0, "after_ms": 0}) as p:
            for i in range(60 if l7test.FULL else 25):
                c, s = self.connect()
                self.ping(c, s)
                time.sleep(i * 0.001)
                c.shutdown(socket.SHUT_WR)
                self.half_closed(p, c, s, 1 << 20)
            self.nothing_left(p)

    def test_half_close_after(self):
        """the client finishes in the kernel, either end may go on"""
        with self.proxy() as p:
            c, s = self.fast_pair(p)
            c.shutdown(socket.SHUT_WR)
            self.half_closed(p, c, s, 8 << 20)
            self.assertGreater(self.logged(p)["egress"]["fast"]["bytes"], 8 << 20)
            c, s = self.fast_pair(p)
            s.shutdown(socket.SHUT_WR)
            self.half_closed(p, s, c, 8 << 20)
            self.nothing_left(p)

    def test_half_closed_and_back(self):
        """half closed in the kernel, then it comes back and goes on in user space"""
        with self.proxy() as p:
            c, s = self.fast_pair(p)
            c.shutdown(socket.SHUT_WR)
            self.assertEqual(s.recv(1), b"")
            sender, receiver = tcpflow.Sender(s, 5), tcpflow.Receiver(c, 5)
            self.wait(lambda: receiver.received > 4 << 20, p)
            self.leave(p)
            at = receiver.received
            self.wait(lambda: receiver.received > at + (4 << 20), p)
            sender.stop()
            self.join(sender, receiver)
            self.assertIsNone(receiver.wrong)
            self.assertEqual(sender.sent, receiver.received)
            c.close()
            s.close()
            line = self.logged(p)
            self.assertEqual(line["egress"]["slow"]["bytes"] + line["egress"]["fast"]["bytes"],
                             line["egress"]["bytes"])
            self.nothing_left(p)

    def test_reset(self):
        """a reset by either end reaches the other, and the session ends"""
        with self.proxy() as p:
            for i in range(2):
                c, s = self.fast_pair(p)
                tcpflow.reset((c, s)[i])
                with self.assertRaises(ConnectionResetError):
                    if (s, c)[i].recv(1) == b"":
                        self.fail("an orderly end instead of a reset")
                (s, c)[i].close()
                self.wait(lambda: self.session(p) is None, p)
            self.nothing_left(p)

    def test_blind_reset(self):
        """a forged reset, in the window or not, ends nothing"""
        with self.proxy() as p:
            c, s = self.fast_pair(p)
            for ahead in (100, 1 << 27):
                tcpflow.forge_reset(self.a, c, ahead)
                time.sleep(2.5)  # a reset that nothing follows is believed
                self.ping(c, s)
            self.assertEqual(self.session(p)["offload"]["state"], "fast")
            c.close()
            s.close()
            self.nothing_left(p)

    def test_idle(self):
        """the idle time-out ends a session in the kernel, in an orderly way; traffic there keeps it alive"""
        with self.proxy(options={"idle_timeout": 2}) as p:
            c, s = self.fast_pair(p)
            for _ in range(4):
                time.sleep(1)
                self.ping(c, s)
            self.assertIsNotNone(self.session(p))
            self.assertEqual(c.recv(1), b"")
            self.assertEqual(s.recv(1), b"")
            c.close()
            s.close()
            self.assertIn("idle", self.logged(p)["reason"])
            self.nothing_left(p)

    def test_killed(self):
        """after SIGKILL the connections live on in the kernel; the next start takes them away"""
        p = self.proxy()
        c, s = self.fast_pair(p)
        p.process.kill()
        p.process.wait()
        for _ in range(3):
            self.ping(c, s)
        p.dir.cleanup()
        with l7test.Proxy(self.config()):
            for end in (c, s):
                end.send(b"x")
                with self.assertRaises(ConnectionResetError):
                    self.exactly(end, 1)
                end.close()

    @unittest.skipUnless(l7test.FULL, "make test-full; known fault: a connection begun on the port of one that was reset may wait for minutes")
    def test_many_connections(self):
        """many connections that begin and end in all ways at once: nothing is left"""
        total, threads = (10000, 16) if l7test.FULL else (480, 8)
        errors, lock = [], threading.Lock()

        def one(i):
            with lock:  # the server's socket has to be that of this client
                c, s = self.connect()
            self.ping(c, s)
            time.sleep(i % 7 * 0.01)
            first, last = (c, s)[::1 if i % 2 else -1]
            try:
                self.ping(c, s)
                if i % 5 == 0:
                    tcpflow.reset(first)
                else:
                    first.shutdown(socket.SHUT_WR)
                    if i % 5 != 1:
                        last.recv(1)
                last.close()
                first.close()
            except OSError as e:
                if i % 5 > 1:
                    errors.append(e)

        def run(k):
            for i in range(k, total, threads):
                one(i)
        with self.proxy(tcp={"after_bytes": 0, "after_ms": 0}) as p:
            workers = [threading.Thread(target=run, args=(k,), daemon=True) for k in range(threads)]
            for w in workers:
                w.start()
            self.join(*workers)
            self.assertEqual(errors, [])
            self.nothing_left(p)
            self.assertGreater(p.api.get("/offload")[1]["flows"]["added"], total // 4)

    def test_without_net_raw(self):
        """without CAP_NET_RAW the kernel's own window probes take the place of hand-made segments"""
        with self.proxy(wrapper=("setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw")) as p:
            c, s = self.connect()
            end = tcpflow.Both(c, 1, 2), tcpflow.Both(s, 2, 1)
            for _ in range(2):
                self.wait_fast(p)
                at = [e.receiver.received for e in end]
                self.wait(lambda at=at: all(e.receiver.received > a + (4 << 20) for e, a in zip(end, at)), p)
                self.leave(p)
                p.api.post("/admin", {"admin": {"offload_tcp": {"enabled": True}}})
            for e in end:
                e.sender.stop()
            self.finish([end])
            self.nothing_left(p)

    def test_port_again(self):
        """one client port again and again, also while the last connection still lingers"""
        with self.proxy(tcp={"after_bytes": 0, "after_ms": 0}) as p:
            for i in range(200 if l7test.FULL else 40):
                c, s = self.connect(bind=7000)
                self.ping(c, s)
                if i % 3:
                    time.sleep(0.02)
                self.ping(c, s)
                (c, s)[1].shutdown(socket.SHUT_WR)  # the server first, so that it has TIME_WAIT
                self.assertEqual(c.recv(1), b"")
                c.shutdown(socket.SHUT_WR)
                self.assertEqual(s.recv(1), b"")
                c.close()
                s.close()
                self.wait(lambda: self.session(p) is None, p)
            self.nothing_left(p)

    def test_delete(self):
        """DELETE ends the session in an orderly way: both ends see the end of the stream"""
        with self.proxy() as p:
            c, s = self.fast_pair(p)
            self.assertEqual(p.api.delete("/sessions/" + self.session(p)["name"])[0], 200)
            self.assertEqual(c.recv(1), b"")
            self.assertEqual(s.recv(1), b"")
            c.close()
            s.close()
            self.nothing_left(p)

    def test_delete_under_load(self):
        """DELETE while both ends send: what was acknowledged has arrived"""
        with self.proxy() as p:
            c, s = self.connect()
            end = tcpflow.Both(c, 1, 2), tcpflow.Both(s, 2, 1)
            self.wait_fast(p)
            p.api.delete("/sessions/" + self.session(p)["name"])
            for e in end:
                self.join(e.sender, e.receiver)
                self.assertIsNone(e.receiver.wrong)
                e.close()
            self.nothing_left(p)

    def test_sigterm(self):
        """the daemon's end: both ends see the end of the stream, and nothing is left in the kernel"""
        p = self.proxy()
        c, s = self.fast_pair(p)
        p.stop()
        self.assertEqual(c.recv(1), b"")
        self.assertEqual(s.recv(1), b"")
        c.close()
        s.close()
        self.assertFalse(self.pins.exists())
        self.assertEqual(l7net.filters("legA"), [])


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
        """the route is lost for a while: the session waits, goes on, and is spliced again"""
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
        """the route points to an interface that is not served: it goes on in user space"""
        self.second_leg()
        with self.proxy() as p:
            end = self.running(p)
            l7net.ip("route add 10.9.2.2/32 via 10.9.3.2 src 10.9.2.1")
            self.wait(lambda: self.reason(p) == "interface-not-enabled", p)
            self.more(p, end)
            self.over(p, end)

    def test_mtu(self):
        """the MTU of the egress falls: user space goes on with smaller segments"""
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
