#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=300
"""TCP sessions that come back from the kernel although the far end lacks something of what passed: segments that were lost
on the way to it, or that reached the proxy's socket instead."""
import json
import pathlib
import socket
import struct
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7net  # noqa: E402
import l7test  # noqa: E402
import tcpflow  # noqa: E402
from tcpproof import WAYS, Proof  # noqa: E402

SIZE = 60000
WARM = 1 << 19
LONG = 64 << 20


def rcv_nxt(sock):
    """The number of the byte that this socket expects next."""
    sock.setsockopt(socket.IPPROTO_TCP, 19, 1)  # TCP_REPAIR
    sock.setsockopt(socket.IPPROTO_TCP, 20, 1)  # TCP_REPAIR_QUEUE: TCP_RECV_QUEUE
    seq = struct.unpack("I", sock.getsockopt(socket.IPPROTO_TCP, 21, 4))[0]  # TCP_QUEUE_SEQ
    sock.setsockopt(socket.IPPROTO_TCP, 19, -1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return seq


class Holes(Proof):
    def setUp(self):
        super().setUp()
        self.sent = [0, 0]  # bytes of the client, of the server
        for peer in (self.a, self.b):
            peer.run("sysctl -qw net.ipv4.tcp_slow_start_after_idle=0")

    def ping(self, c, s, data=b"x" * 4000):
        self.sent = [n + len(data) for n in self.sent]
        super().ping(c, s, data)

    def nft(self, peer, *commands):
        for c in commands:
            l7net.sh("nsenter", f"--net={peer.path}", "nft", c)

    def lose(self, peer, sock):
        """Segments to this socket that begin with the byte that it expects are lost, until found()."""
        self.nft(peer, "add table ip h", "add chain ip h c { type filter hook prerouting priority -300; }",
                 f"add rule ip h c tcp dport {sock.getsockname()[1]} tcp sequence {rcv_nxt(sock)} counter drop")

    def found(self, peer):
        rules = peer.run("nft list table ip h")
        self.nft(peer, "delete table ip h")
        self.assertNotIn("packets 0 ", rules)

    @staticmethod
    def bulk_at_once(sock, end):
        """Some 40 segments."""
        data = tcpflow.expected(5, 0, SIZE)
        sock.sendall(data)
        if end:
            sock.shutdown(socket.SHUT_WR)
        return data

    @staticmethod
    def sacked(sock):
        """Segments that the other end has, behind a hole (tcpi_sacked)."""
        return struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128), 28)[0]

    def warm(self, p, both):
        """In the kernel, with congestion windows that take all segments at once."""
        for i, one in enumerate(both):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")  # sends on when the first one is lost
            sender = tcpflow.Sender(one, 6, WARM, keep=True)
            got = self.exactly(both[1 - i], WARM)
            self.join(sender)
            self.assertEqual(got, tcpflow.expected(6, 0, WARM))
            self.sent[i] += WARM
        self.wait_fast(p)
        for peer in (self.a, self.b):
            peer.run("ethtool -K eth0 tso off gso off gro off")  # segments stay what they are

    def back_with_hole(self, p, ways, end=False):
        """Segments each of these ways, the first of which is lost until the session has long left the kernel."""
        both = self.fast_pair(p)
        self.warm(p, both)
        # Which end's segments are lost on the way to which peer.
        losing = [(both[i], both[1 - i], (self.b, self.a)[i]) for i in ways]
        for _, to, peer in losing:
            self.lose(peer, to)
        for i in ways:
            self.sent[i] += SIZE
        sent = [self.bulk_at_once(one, end) for one, _, _ in losing]
        for one, _, _ in losing:
            self.wait(lambda one=one: self.sacked(one) >= 30, p)
        p.api.post("/admin", {"admin": {"offload_tcp": {"enabled": False}}})
        # With both FINs it is over as soon as all has been sent again.
        self.wait(lambda: self.session(p) is None or self.reason(p) == "disabled", p)
        time.sleep(0.5)
        for _, _, peer in losing:
            self.found(peer)
        for (one, to, _), data in zip(losing, sent):
            self.assertEqual(self.exactly(to, len(data)), data)
            if end:
                self.assertEqual(to.recv(1), b"")
        if not end:
            self.ping(*both)
            self.again(p)
        return both

    def lost_on_the_way(self, ways, end=False):
        with self.proxy(tcp={"after_bytes": 0, "after_ms": 0}) as p:
            c, s = self.back_with_hole(p, ways, end)
            if end and len(ways) == 1:
                one, other = (s, c)[ways[0]], (c, s)[ways[0]]
                one.sendall(b"an answer")
                self.sent[1 - ways[0]] += 9
                self.assertEqual(self.exactly(other, 9), b"an answer")
            c.close()
            s.close()
            line = self.logged(p)
            self.assertEqual([line[w]["bytes"] for w in WAYS], self.sent)
            self.nothing_left(p)

    def test_lost(self):
        """the first of 40 segments to the server is lost for seconds while the session comes back"""
        self.lost_on_the_way((0,))

    @unittest.skipUnless(l7test.FULL, "make test-full: takes half a minute")
    def test_lost_ways(self):
        """the same to the client, both ways, and with FINs behind"""
        for ways, end in (((1,), False), ((0, 1), False), ((0,), True), ((1,), True), ((0, 1), True)):
            with self.subTest(ways=ways, end=end):
                self.sent = [0, 0]
                self.lost_on_the_way(ways, end)

    def detour(self):
        """
        Segments of the client of one length come in by an interface that is not served, and so to the socket. Their
        payload's length, and a packet socket that sees them leave.
        """
        a = self.a
        l7net.ip(f"link add legC type veth peer name eth1 netns {a.name}")
        self.addCleanup(l7net.ip, "link del legC", check=False)
        l7net.ip("link set legC up")
        for text in ("ip link set eth1 up", "ip rule add fwmark 1 lookup 100", f"ip route add {a.gateway4} dev eth1 table 100"):
            a.run(text)
        for name in ("all", "legC"):
            self.sysctl(f"net.ipv4.conf.{name}.rp_filter", 0)
        self.nft(a, "add table ip d", "add chain ip d c { type route hook output priority 0; }",
                 "add rule ip d c tcp dport 9000 meta length 777 meta mark set 1")
        with a.inside():
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        wire.bind(("eth1", 0))
        wire.settimeout(l7net.WAIT)
        self.addCleanup(wire.close)
        return 777 - 20 - 20 - 12, wire

    def pair(self):
        """The only one in the map."""
        dump = json.loads(l7net.sh("bpftool", "-j", "map", "dump", "pinned", str(self.pins / "tcp_pairs")))
        pairs = [e.get("formatted", e)["value"] for e in dump]
        one, = (v for v in pairs if v["phase"])
        return one

    def goes_in(self, p, c, s):
        """Into the kernel by pings of which none passes there. The pair."""
        for _ in range(100):
            self.ping(c, s)
            phase = ""
            for _ in range(100):
                time.sleep(0.01)
                phase = self.session(p)["offload"]["directions"][0]["phase"]
                if phase in ("", "watch", "fast"):
                    break
            if phase != "fast":
                continue
            pair = self.pair()
            if all(d["seq_max"] == d["own_seq"] for d in pair["dir"]):
                return pair
            self.leave(p)
            self.again(p)
        self.fail("each time a ping passes in the kernel")

    @staticmethod
    def with_ack(frame, ack):
        """The same IPv4 frame with another acknowledgement."""
        ip, tcp = frame[14:34], bytearray(frame[34:])
        struct.pack_into("!I", tcp, 8, ack)
        struct.pack_into("!H", tcp, 16, 0)
        text = ip[12:20] + struct.pack("!HH", socket.IPPROTO_TCP, len(tcp)) + tcp
        n = sum(struct.unpack(f"!{(len(text) + 1) // 2}H", bytes(text) + bytes(len(text) % 2)))
        while n >> 16:
            n = (n & 0xffff) + (n >> 16)
        struct.pack_into("!H", tcp, 16, ~n & 0xffff)
        return frame[:34] + bytes(tcp)

    def test_late(self):
        """a segment from before the kernel reaches the socket when the server has sent much more than a window since"""
        length, wire = self.detour()
        with self.proxy(tcp={"after_bytes": 0, "after_ms": 0}) as p:
            c, s = self.connect()
            for i in range(3 if l7test.FULL else 1):
                # No more than the socket has sent, as a segment from before acknowledged.
                ack = self.goes_in(p, c, s)["dir"][0]["own_ack"]
                sender = tcpflow.Sender(s, 6, LONG, keep=True)
                self.assertEqual(self.received(c, LONG), LONG)
                self.join(sender)
                self.sent[1] += LONG
                data = bytes([i]) * length
                c.sendall(data)  # does not arrive: the socket has not sent what this acknowledges
                self.sent[0] += length
                frame = b""
                while frame[54 + 12:] != data:
                    frame = wire.recv(2000)
                wire.send(self.with_ack(frame, ack))
                self.assertEqual(self.exactly(s, length), data)
            self.stays_fast(p, 1, move=lambda: self.ping(c, s))
            c.close()
            s.close()
            line = self.logged(p)
            self.assertEqual([line[w]["bytes"] for w in WAYS], self.sent)
            self.nothing_left(p)

    @staticmethod
    def received(sock, n):
        buf, got = bytearray(1 << 18), 0
        while got < n:
            more = sock.recv_into(buf, min(len(buf), n - got))
            if not more:
                break
            got += more
        return got


if __name__ == "__main__":
    l7test.main()
