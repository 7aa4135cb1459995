#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: full timeout=600 timeout_full=1200
"""TCP sessions in the kernel at the edges: idle ones and dead peers, windows that are closed for long, segments that are
late or forged, connection tracking and NAT around."""
import pathlib
import re
import socket
import sys
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7net  # noqa: E402
import l7test  # noqa: E402
import tcpflow  # noqa: E402
from tcpproof import WAYS, Proof  # noqa: E402

MB = 1 << 20


class Edges(Proof):
    @staticmethod
    def counter(peer, name):
        return int(re.search(rf"{name}\s+(\d+)", peer.run(f"nstat -asz {name}")).group(1))

    @staticmethod
    def verdict(p, name):
        return p.api.get("/offload")[1]["verdicts"][name]

    def nft(self, peer, *commands):
        """nftables of a peer, or (None) of the gateway; skips where there are none."""
        inside = ("nsenter", f"--net={peer.path}") if peer else ()
        try:
            l7net.sh(*inside, "nft", "add table ip p; add chain ip p c { type nat hook prerouting priority -100; }; "
                     "add rule ip p c ct state invalid counter masquerade; delete table ip p")
        except (AssertionError, FileNotFoundError) as e:
            if not isinstance(e, AssertionError) or "Operation not supported" in str(e) or "No such file" in str(e):
                self.skipTest(f"no nftables with NAT here: {e}")
        for c in commands:
            l7net.sh(*inside, "nft", c)
        if not peer:
            self.addCleanup(l7net.sh, "nft", "flush ruleset", check=False)


class Idle(Edges):
    @staticmethod
    def keepalive(sock):
        for level, name, value in ((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
                                   (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1), (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)):
            sock.setsockopt(level, name, value)

    def test_keepalive(self):
        """keep-alives of both peers pass in the kernel, and are answered: an idle session lives"""
        with self.proxy() as p:
            c, s = self.fast_pair(p)
            self.keepalive(c)
            self.keepalive(s)
            first = self.session(p)
            since = time.monotonic()

            def rose():
                now = self.session(p)
                return all(now["stats"][w]["fast"]["packets"] >= first["stats"][w]["fast"]["packets"] + 8 for w in WAYS)
            self.wait(rose, p)
            time.sleep(max(0, since + 6 - time.monotonic()))  # longer than three of them without an answer
            now = self.session(p)
            self.assertEqual(now["offload"]["state"], "fast")
            for w in WAYS:
                self.assertEqual(now["stats"][w]["bytes"], first["stats"][w]["bytes"])
                self.assertEqual(now["stats"][w]["slow"], first["stats"][w]["slow"])
            self.ping(c, s)
            c.close()
            s.close()
            self.nothing_left(p)

    def test_dead_peer_found_by_the_other(self):
        """the client has vanished: the server's keep-alives find out, and its reset ends the session"""
        with self.proxy() as p:
            c, s = self.fast_pair(p)
            self.keepalive(s)
            self.a.run("ip route add blackhole 10.9.1.1/32")
            with self.assertRaises(TimeoutError) as e:
                s.recv(1)
            self.assertEqual(e.exception.errno, 110)  # ETIMEDOUT; not the socket's own timeout
            self.wait(lambda: self.session(p) is None, p)
            c.close()
            s.close()
            self.nothing_left(p)

    @unittest.skipUnless(l7test.FULL, "make test-full: takes two minutes")
    def test_dead_peer_found_by_probes(self):
        """the client has vanished and nobody has keep-alive: the proxy's probes find out, and reset the server"""
        with self.proxy() as p:
            c, s = self.fast_pair(p)
            s.settimeout(300)
            self.a.run("ip route add blackhole 10.9.1.1/32")
            since = time.monotonic()
            with self.assertRaises(ConnectionResetError):
                s.recv(1)
            self.assertGreater(time.monotonic() - since, 90)
            c.close()
            s.close()
            self.nothing_left(p)


class Windows(Edges):
    def stopped(self, end):
        """Until the sender writes no more: the window is closed."""
        sent = [-1]

        def still():
            now = end.sender.sent
            if sent[0] == now:
                return True
            sent[0] = now
            time.sleep(0.3)
            return False
        self.wait(still)
        return sent[0]

    def test_closed_for_long(self):
        """a receiver that does not read for seconds, either of them: probes pass, nothing is stored here, all continues"""
        for reader in (1, 0):
            with self.subTest(reader=reader), self.proxy() as p:
                end = self.bulk(rate=None)
                first = self.stays_fast(p)
                end[reader].receiver.go.clear()
                at = self.stopped(end[1 - reader])
                rss, way = p.rss_kb(), WAYS[1 - reader]
                packets = self.session(p)["stats"][way]["fast"]["packets"]
                # Of what the sender's window probes are: each is answered.
                self.wait(lambda w=way, n=packets: self.session(p)["stats"][w]["fast"]["packets"] >= n + 3, p)
                self.assertLessEqual(end[1 - reader].sender.sent, at + MB)
                self.assertLess(p.rss_kb(), rss + 4096)
                self.assertEqual(self.session(p)["offload"]["state"], "fast")
                end[reader].receiver.go.set()
                self.stays_fast(p, 4 * MB)
                for w in WAYS:
                    self.assertEqual(self.session(p)["stats"][w]["slow"], first["stats"][w]["slow"])
                self.over(end)
                self.nothing_left(p)

    def test_closed_and_back(self):
        """out of the kernel while the window is closed, which opens in user space; and into the kernel again"""
        with self.proxy() as p:
            end = self.bulk(rate=None)
            self.stays_fast(p)
            end[1].receiver.go.clear()
            self.stopped(end[0])
            self.leave(p)
            end[1].receiver.go.set()
            self.stays_slow(p, 4 * MB)
            self.again(p)
            self.stays_fast(p, 4 * MB)
            self.over(end)
            self.nothing_left(p)


class Late(Edges):
    """Segments that come late, or that another host made up."""

    def frames(self, peer, number, **kw):
        """Data frames that this peer sends over connections to its gateway, as they come."""
        with peer.inside():
            s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        s.bind(("eth0", 0))
        s.settimeout(60)
        self.addCleanup(s.close)
        found = []

        def run():
            while len(found) < number:
                frame, source = s.recvfrom(70000)
                if source[2] == socket.PACKET_OUTGOING and frame[12:14] == b"\x08\x00" and frame[23] == 6 and len(frame) > 600:
                    found.append(frame)
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return s, thread, found

    def test_straggler(self):
        """old segments of both peers that arrive again when the session has long been in the kernel: nothing happens"""
        for peer in (self.a, self.b):
            peer.run("ethtool -K eth0 tx off tso off gso off")  # frames as they are on the wire
        with self.proxy(tcp={"after_bytes": MB, "after_ms": 3600000}) as p:
            taken = [self.frames(peer, 20) for peer in (self.a, self.b)]
            end = self.bulk()
            self.stays_fast(p)
            for _, thread, _ in taken:
                self.join(thread)
            before = self.session(p)
            resets = [self.counter(peer, "TcpOutRsts") for peer in (self.a, self.b)]
            for _ in range(3):
                for s, _, frames in taken:
                    for frame in frames:
                        s.send(frame)
                time.sleep(0.05)
            now = self.stays_fast(p, 4 * MB)
            for w in WAYS:
                self.assertEqual(now["stats"][w]["slow"], before["stats"][w]["slow"])
            self.assertEqual([self.counter(peer, "TcpOutRsts") for peer in (self.a, self.b)], resets)
            self.over(end)
            line = self.logged(p)
            for w, e in zip(WAYS, end):
                self.assertEqual(line[w]["bytes"], e.sender.sent)
            self.nothing_left(p)

    def test_forged_reset(self):
        """forged resets of either peer: out of the window they are dropped; in it the far end asks back (RFC 5961)"""
        with self.proxy() as p:
            c, s = self.fast_pair(p)
            for near, sock, far in ((self.a, c, self.b), (self.b, s, self.a)):
                with self.subTest(near=near.leg):
                    dropped = self.verdict(p, "tcp-window")
                    tcpflow.forge_reset(near, sock, 1 << 28)
                    self.wait(lambda n=dropped: self.verdict(p, "tcp-window") > n, p)
                    self.ping(c, s)
                    asked = self.counter(far, "TcpExtTCPChallengeACK")
                    for ahead in (1, 1000, 20000):
                        tcpflow.forge_reset(near, sock, ahead)
                        time.sleep(0.6)  # challenges are few
                    self.wait(lambda far=far, n=asked: self.counter(far, "TcpExtTCPChallengeACK") > n, p)
                    self.ping(c, s)
            time.sleep(1.5)  # a reset that nothing follows is believed after a second
            self.stays_fast(p, 1, move=lambda: self.ping(c, s))
            tcpflow.forge_reset(self.a, c, 0)  # the right number: as by the peer itself
            with self.assertRaises(ConnectionResetError):
                self.exactly(s, 1)
            tcpflow.reset(c)
            s.close()
            self.wait(lambda: self.session(p) is None, p)
            self.nothing_left(p)


class Around(Edges):
    """Packet filters, connection tracking, NAT."""

    def in_and_out(self, p, end):
        for _ in range(2):
            self.stays_fast(p, MB)
            self.leave(p)
            self.stays_slow(p, MB)
            self.again(p)
        self.stays_fast(p, MB)
        self.over(end)
        self.nothing_left(p)

    def test_masquerade_of_client(self):
        """the client is behind a router that masquerades and drops what its connection tracking calls invalid"""
        inner = f"{self.a.name}i"
        l7net.ip(f"netns add {inner}")
        self.addCleanup(l7net.ip, f"netns del {inner}", check=False)
        self.a.run(f"ip link add in0 type veth peer name eth0 netns {inner}")
        for text in ("ip link set in0 up", "ip addr add 10.9.9.1/24 dev in0", "sysctl -qw net.ipv4.ip_forward=1"):
            self.a.run(text)

        class Inner:
            path, own4 = f"/run/netns/{inner}", "10.9.9.2"
            inside, run = l7net.Peer.inside, l7net.Peer.run
        client = Inner()
        for text in ("ip link set eth0 up", "ip addr add 10.9.9.2/24 dev eth0", "ip route add default via 10.9.9.1"):
            client.run(text)
        self.nft(self.a, "add table ip f",
                 "add chain ip f post { type nat hook postrouting priority 100; }", "add rule ip f post oif eth0 masquerade fully-random",
                 "add chain ip f through { type filter hook forward priority 0; }", "add rule ip f through ct state invalid counter drop",
                 "add rule ip f through counter")
        with self.proxy() as p:
            c = tcpflow.connect(client, ("10.9.1.1", 9000))
            end = self.ends(c, tcpflow.accept(self.servers[False]))
            self.assertNotEqual(self.wait(lambda: self.session(p), p)["metadata"]["TCP"]["src_port"], c.getsockname()[1])
            self.in_and_out(p, end)
        rules = self.a.run("nft list chain ip f through")
        self.assertEqual(re.findall(r"invalid counter packets (\d+)", rules), ["0"], rules)

    def test_conntrack_liberal(self):
        """the gateway drops what its connection tracking calls invalid: with nf_conntrack_tcp_be_liberal all continues"""
        self.conntrack(())
        self.sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", 1)
        with self.proxy() as p:
            self.in_and_out(p, self.bulk())

    def test_notrack(self):
        """the same with connections that are not tracked"""
        self.conntrack(("add chain ip f raw { type filter hook prerouting priority -300; }", "add rule ip f raw tcp dport 9000 notrack",
                        "add rule ip f raw tcp sport 9001 notrack", "add chain ip f rawout { type filter hook output priority -300; }",
                        "add rule ip f rawout tcp sport 9000 notrack", "add rule ip f rawout tcp dport 9001 notrack"))
        with self.proxy() as p:
            self.in_and_out(p, self.bulk())

    def conntrack(self, more):
        self.nft(None, "add table ip f", *more, "add chain ip f in { type filter hook input priority 0; }",
                 "add rule ip f in ct state invalid counter drop")

    def test_masquerade_of_proxy(self):
        """the proxy's own connections are masqueraded to other ports: not-seen, and it works in user space"""
        self.nft(None, "add table ip f", "add chain ip f post { type nat hook postrouting priority 100; }",
                 "add rule ip f post oif legB masquerade fully-random")
        with self.proxy() as p:
            self.refused(p, "not-seen")


if __name__ == "__main__":
    l7test.main()
