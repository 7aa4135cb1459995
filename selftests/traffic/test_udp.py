#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""UDP listeners and clusters on real sockets."""
import os
import random
import socket
import subprocess
import threading
import time

import l7test
from l7test import udp_socket
from traffic import Case, UdpEcho, cluster, inline, listener, retry, silent

ADDRESS4, ADDRESS6 = "192.0.2.7", "2001:db8::7"


class Server(Case):
    def test_40_clients(self):
        """udp: 40 clients at once, 3 messages each: own answers, in order, once, the first included"""
        echo = UdpEcho(9001)
        self.start(listener("l", "UDP", 9000, cluster("UDP", 9001)))
        socks = [udp_socket() for _ in range(40)]
        for n in range(3):  # three messages each without waiting: the first ones come while sessions are set up
            for i, s in enumerate(socks):
                s.sendto(b"client %d message %d" % (i, n), ("127.0.0.1", 9000))
        for i, s in enumerate(socks):
            got = [s.recv(100) for _ in range(3)]
            self.assertEqual(got, [b"client %d message %d" % (i, n) for n in range(3)])
        for s in socks:
            self.assertTrue(silent(s, 0.01))
            s.close()
        self.assertEqual(len({peer for peer, _ in echo.seen}), 40)
        self.assertEqual(len(echo.seen), 120)
        found = self.sessions("UDP:")
        self.assertEqual(len(found), 40)
        for s in found:
            self.assertEqual((s["stats"]["ingress"]["packets"], s["stats"]["egress"]["packets"]), (3, 3))

    def test_many_clients(self):
        """udp: hundreds of clients (1,000 in full) in threads, each with its own answers in order"""
        UdpEcho(9001)
        count = 1000 if l7test.FULL else 300
        self.start(listener("l", "UDP", 9000, cluster("UDP", 9001)))
        wrong, lock = [], threading.Lock()

        def clients(ids):
            for i in ids:
                with udp_socket() as s:
                    want = [b"%d/%d" % (i, n) for n in range(3)]
                    for m in want:
                        s.sendto(m, ("127.0.0.1", 9000))
                    try:
                        got = [s.recv(100) for _ in want]
                    except TimeoutError:
                        got = None
                    if got != want:
                        with lock:
                            wrong.append((i, got))
        threads = [threading.Thread(target=clients, args=(range(k, count, 20),)) for k in range(20)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(wrong, [])

    def test_echo_burst_in_order(self):
        """udp: a burst of datagrams of mixed sizes comes back in order, each as it was"""
        self.start(listener("l", "UDP", 9000, inline("Echo")))
        rng = random.Random(7)
        with udp_socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            want = [rng.randbytes(rng.choice((0, 1, 2, 100, 100, 100, 1400, 9000))) for _ in range(100)]
            for m in want:
                s.sendto(m, ("127.0.0.1", 9000))
            self.assertEqual([s.recv(65536) for _ in want], want)
            name = self.session("UDP:")
        self.assertEqual(name["stats"]["ingress"]["bytes"], sum(map(len, want)))
        self.assertEqual(name["stats"]["egress"]["packets"], 100)

    def test_sizes(self):
        """udp: empty and largest datagrams, IPv4 and IPv6"""
        UdpEcho(9001)
        UdpEcho(9001, "::1")
        self.start(listener("four", "UDP", 9000, cluster("UDP", 9001)),
                   listener("six", "UDP", 9002, cluster("UDP", 9001, "::1")))
        for host, port, largest in (("127.0.0.1", 9000, 65507), ("::1", 9002, 65487)):
            with udp_socket(host=host) as s:
                for size in (0, 1, 1472, 1473, largest, 0):
                    data = os.urandom(size)
                    s.sendto(data, (host, port))
                    self.assertEqual(s.recv(70000), data, (host, size))

    def test_too_large_for_next_hop(self):
        """udp: what is too large for the next stage is dropped and counted, never cut"""
        echo = UdpEcho(9001, "::1")
        self.start(listener("l", "UDP", 9000, cluster("UDP", 9001, "::1"), address="127.0.0.1"))
        with udp_socket() as s:
            s.sendto(b"a", ("127.0.0.1", 9000))
            self.assertEqual(s.recv(100), b"a")
            s.sendto(bytes(65507), ("127.0.0.1", 9000))  # UDP over ::1 carries that too, up to 65,527
            self.assertEqual(len(s.recv(70000)), 65507)
        before = self.drops("too-large")
        with udp_socket(host="::1") as s:
            s.sendto(b"b", ("::1", 9001))
            self.assertEqual(s.recv(10), b"b")
        self.assertEqual(self.api.post("/listeners", {"listener": listener(
            "up", "UDP", 9003, cluster("UDP", 9004), address="::1")})[0], 200)
        four = UdpEcho(9004)
        with udp_socket(host="::1") as s:
            s.sendto(b"c", ("::1", 9003))
            self.assertEqual(s.recv(10), b"c")
            s.sendto(bytes(65520), ("::1", 9003))  # more than UDP over IPv4 can carry
            s.sendto(b"d", ("::1", 9003))
            self.assertEqual(s.recv(70000), b"d")
        self.assertEqual([len(d) for _, d in four.seen], [1, 1])
        self.assertEqual(self.drops("too-large"), before + 1)
        self.assertEqual(self.session("UDP:[::1]")["stats"]["drops"], 1)
        self.assertTrue(echo.seen)

    def test_idle_timeout(self):
        """udp: an idle session ends, the next datagram makes a new one; traffic keeps it"""
        self.start(listener("l", "UDP", 9000, inline("Echo"), options={"idle_timeout": 0.6, "track": 30}))
        with udp_socket() as s:
            for n in range(6):
                s.sendto(b"%d" % n, ("127.0.0.1", 9000))
                self.assertEqual(s.recv(100), b"%d" % n)
                time.sleep(0.2)
            self.assertEqual(len(self.sessions()), 1)
            ended = self.ended("UDP:", 5)
            self.assertIn("idle", " ".join(self.texts(ended, "END")))
            s.sendto(b"again", ("127.0.0.1", 9000))
            self.assertEqual(s.recv(100), b"again")

    def test_default_idle_is_60(self):
        """udp: options of a listener show; without idle_timeout a session stays"""
        self.start(listener("l", "UDP", 9000, inline("Echo")))
        with udp_socket() as s:
            s.sendto(b"x", ("127.0.0.1", 9000))
            s.recv(10)
            time.sleep(1.2)
            self.assertEqual(self.session("UDP:")["status"], "CONNECTED")

    def test_delete_session(self):
        """udp: DELETE of a session; the peer's next datagram starts another one; a deleted listener does not answer"""
        self.start(listener("l", "UDP", 9000, inline("Echo")))
        with udp_socket() as s:
            s.sendto(b"x", ("127.0.0.1", 9000))
            s.recv(10)
            name = self.session("UDP:")["name"]
            self.assertEqual(self.api.delete(f"/sessions/{name}")[0], 200)
            s.sendto(b"y", ("127.0.0.1", 9000))
            self.assertEqual(s.recv(10), b"y")
            self.assertEqual(self.api.delete("/listeners/l")[0], 200)
            s.sendto(b"z", ("127.0.0.1", 9000))  # the session continues
            self.assertEqual(s.recv(10), b"z")
            with udp_socket() as t:
                t.sendto(b"new", ("127.0.0.1", 9000))
                self.assertTrue(silent(t))
            self.assertEqual(self.api.post("/listeners", {"listener": listener(
                "again", "UDP", 9000, inline("Discard"))})[0], 200)
            s.sendto(b"old session", ("127.0.0.1", 9000))
            self.assertEqual(s.recv(100), b"old session")

    def test_noise(self):
        """udp: binary noise from many ports"""
        self.start(listener("l", "UDP", 9000, inline("Echo")), listener("h", "UDP", 9001, inline("Echo"),
                                                                         connect={"port": 7}))
        rng = random.Random(3)
        for _ in range(100):
            with udp_socket() as s:
                data = rng.randbytes(rng.randrange(1500))
                s.sendto(data, ("127.0.0.1", 9001))
                s.sendto(data, ("127.0.0.1", 9000))
                self.assertEqual(s.recv(2000), data)
        self.assertEqual(self.drops("peer"), 100)


class Peers(Case):
    def test_half_connected(self):
        """udp: half-connected listeners take one port, or one address; others are dropped and counted"""
        self.start(listener("port", "UDP", 9000, inline("Echo"), connect={"port": 9999}),
                   listener("addr", "UDP", 9001, inline("Echo"), connect={"address": "127.0.0.5"}))
        good, bad = udp_socket(9999), udp_socket(9998)
        good.sendto(b"a", ("127.0.0.1", 9000))
        bad.sendto(b"b", ("127.0.0.1", 9000))
        self.assertEqual(good.recv(10), b"a")
        self.assertTrue(silent(bad))
        with udp_socket(9999, "127.0.0.9") as other:  # another address with the same port is its own session
            other.sendto(b"o", ("127.0.0.1", 9000))
            self.assertEqual(other.recv(10), b"o")
        first, second, no = udp_socket(host="127.0.0.5"), udp_socket(host="127.0.0.5"), udp_socket(host="127.0.0.6")
        for s in (first, second, no):
            s.sendto(b"c", ("127.0.0.1", 9001))
        self.assertEqual((first.recv(10), second.recv(10)), (b"c", b"c"))
        self.assertTrue(silent(no))
        self.assertEqual(len(self.sessions("UDP:")), 4)
        self.assertEqual(self.drops("peer"), 2)

    def test_singleton(self):
        """udp: a singleton emits one session at start, hears its peer only, survives the peer's absence"""
        upstream = UdpEcho(9001)
        self.start(listener("l", "UDP", 9000, cluster("UDP", 9001), retry=retry(), address="127.0.0.1",
                            connect={"address": "127.0.0.1", "port": 9999}))
        s = self.session("UDP:127.0.0.1:9999-127.0.0.1:9000-")
        self.assertEqual(s["status"], "CONNECTED")
        self.assertEqual(s["metadata"]["UDP"], {"src_port": 9999, "dst_port": 9000})
        with udp_socket(9998) as bad:
            bad.sendto(b"no", ("127.0.0.1", 9000))
            self.assertTrue(silent(bad, 0.2))
        for _ in range(2):  # the peer goes and comes
            with udp_socket(9999) as good:
                good.sendto(b"yes", ("127.0.0.1", 9000))
                self.assertEqual(good.recv(10), b"yes")
        self.assertEqual([d for _, d in upstream.seen], [b"yes", b"yes"])
        self.assertEqual(self.session("UDP:")["name"], s["name"])
        self.assertEqual(self.drops("peer"), 1)

    def test_singleton_sends_first(self):
        """udp: what an upstream sends to a singleton reaches the peer that has sent nothing"""
        peer = udp_socket(9999)
        up = udp_socket(9001)
        self.start(listener("l", "UDP", 9000, cluster("UDP", 9001, bind={"port": 9002}), address="127.0.0.1",
                            connect={"address": "127.0.0.1", "port": 9999}))
        up.sendto(b"hello", ("127.0.0.1", 9002))
        data, source = peer.recvfrom(100)
        self.assertEqual((data, source), (b"hello", ("127.0.0.1", 9000)))

    def test_latching(self):
        """udp: a singleton without a port latches the first peer's; later peers are dropped and counted"""
        item = listener("l", "UDP", 9000, inline("Echo"), connect={"address": "127.0.0.5"})
        item["spec"]["options"] = {"mode": "singleton"}
        self.start(item)
        self.assertEqual(self.sessions(), [])
        other, first, later = udp_socket(host="127.0.0.6"), udp_socket(host="127.0.0.5"), udp_socket(host="127.0.0.5")
        other.sendto(b"s", ("127.0.0.1", 9000))
        self.assertTrue(silent(other, 0.2))
        first.sendto(b"f", ("127.0.0.1", 9000))
        self.assertEqual(first.recv(10), b"f")
        later.sendto(b"l", ("127.0.0.1", 9000))
        self.assertTrue(silent(later, 0.2))
        first.sendto(b"g", ("127.0.0.1", 9000))
        self.assertEqual(first.recv(10), b"g")
        self.assertEqual(self.drops("peer"), 2)
        # When the session ends, the next peer may latch.
        self.api.delete("/sessions/" + self.session("UDP:")["name"])
        later.sendto(b"m", ("127.0.0.1", 9000))
        self.assertEqual(later.recv(10), b"m")

    def test_replies_come_from_the_address_written_to(self):
        """udp: one dual-stack listener answers from each of the host's addresses, IPv4 and IPv6"""
        if not l7test.ISOLATED:
            self.skipTest("needs an own network namespace")
        subprocess.run(["ip", "addr", "add", ADDRESS4 + "/32", "dev", "lo"], check=True)
        subprocess.run(["ip", "addr", "add", ADDRESS6 + "/128", "dev", "lo", "nodad"], check=True)
        UdpEcho(9001)
        self.start(listener("l", "UDP", 9000, cluster("UDP", 9001)))
        for host in ("127.0.0.1", "127.0.0.2", "127.9.8.7", ADDRESS4, "::1", ADDRESS6):
            mine = "::1" if ":" in host else "127.0.0.1"
            with udp_socket(host=mine) as s:
                for n in range(2):
                    s.sendto(b"%d" % n, (host, 9000))
                    data, source = s.recvfrom(100)
                    self.assertEqual((data, source[:2]), (b"%d" % n, (host, 9000)))
        with udp_socket() as s:  # one client socket, several of our addresses
            for host in ("127.0.0.3", "127.0.0.4", ADDRESS4, "127.0.0.3"):
                s.sendto(host.encode(), (host, 9000))
                self.assertEqual(s.recvfrom(100), (host.encode(), (host, 9000)))
        names = [s["name"] for s in self.sessions("UDP:")]
        self.assertTrue(any(n.startswith("UDP:[::1]:") and f"-[{ADDRESS6}]:9000-" in n for n in names), names)
        meta = [s["metadata"] for s in self.sessions("UDP:") if ADDRESS4 in s["name"]][0]
        self.assertEqual(meta["IP"]["dst_addr"], ADDRESS4)

    def test_families(self):
        """udp: IPv4 to IPv6 and back"""
        UdpEcho(9001, "::1")
        UdpEcho(9002)
        self.start(listener("a", "UDP", 9000, cluster("UDP", 9001, "::1"), address="127.0.0.1"),
                   listener("b", "UDP", 9003, cluster("UDP", 9002), address="::1"))
        for host, port in (("127.0.0.1", 9000), ("::1", 9003)):
            with udp_socket(host=host) as s:
                s.sendto(b"x", (host, port))
                self.assertEqual(s.recvfrom(10)[0], b"x")

    def test_host_names(self):
        """udp: host names in endpoints; one that does not exist ends the session with its name in the error"""
        UdpEcho(9001)
        self.start(listener("l", "UDP", 9000, cluster("UDP", 9001, "localhost")),
                   listener("m", "UDP", 9002, cluster("UDP", 9001, "no-such-host.invalid"), options={"track": 30},
                            retry=retry("never", timeout=5000)))
        with udp_socket() as s:
            for n in range(3):
                s.sendto(b"%d" % n, ("127.0.0.1", 9000))
            self.assertEqual([s.recv(10) for _ in range(3)], [b"0", b"1", b"2"])
            s.sendto(b"x", ("127.0.0.1", 9002))
        ended = self.ended("UDP:", 15)
        self.assertIn("no-such-host.invalid", " ".join(self.texts(ended, "ERROR") + self.texts(ended, "END")))

    def test_bind(self):
        """udp: a cluster's bind address and port are what the upstream sees"""
        echo = UdpEcho(9001)
        self.start(listener("l", "UDP", 9000, cluster("UDP", 9001, bind={"address": "127.0.0.77", "port": 9555})))
        with udp_socket() as s:
            s.sendto(b"x", ("127.0.0.1", 9000))
            self.assertEqual(s.recv(10), b"x")
        self.assertEqual(echo.seen[0][0], ("127.0.0.77", 9555))

    def test_bind_port_moves(self):
        """udp: a client that changes its port keeps its cluster's bind.port"""
        echo = UdpEcho(9001)
        self.start(listener("l", "UDP", 9000, cluster("UDP", 9001, bind={"port": 9555})))
        for n in range(3):
            with udp_socket() as s:
                s.settimeout(1)
                for _ in range(60):  # the port changes hands once a second
                    s.sendto(b"%d" % n, ("127.0.0.1", 9000))
                    try:
                        self.assertEqual(s.recv(10), b"%d" % n)
                        break
                    except TimeoutError:
                        pass
                else:
                    self.fail("not answered on port %d" % s.getsockname()[1])
        self.assertEqual({peer for peer, _ in echo.seen}, {("127.0.0.1", 9555)})
        self.assertEqual(len(self.sessions("UDP:")), 1)

    def test_upstream_comes_later(self):
        """udp: an unreachable upstream port doesn't end the session; it is heard once it is there"""
        self.start(listener("l", "UDP", 9000, cluster("UDP", 9001)))
        with udp_socket() as s:
            for _ in range(5):
                s.sendto(b"lost", ("127.0.0.1", 9000))
                time.sleep(0.05)
            UdpEcho(9001)
            s.sendto(b"found", ("127.0.0.1", 9000))
            self.assertEqual(s.recv(10), b"found")
        self.assertEqual(len(self.sessions("UDP:")), 1)
        self.assertGreater(self.drops("refused"), 0)

    def test_chains(self):
        """udp: ingress and egress transformers keep datagrams"""
        UdpEcho(9001)
        self.start(listener("l", "UDP", 9000, cluster("UDP", 9001), ingress=[inline("Logger", log_prefix="in "),
                                                                             inline("Echo")],
                            egress=[inline("Echo"), inline("Logger", log_prefix="out ")]))
        with udp_socket() as s:
            s.sendto(b"one\n", ("127.0.0.1", 9000))
            s.sendto(b"two\n", ("127.0.0.1", 9000))
            self.assertEqual([s.recv(10), s.recv(10)], [b"one\n", b"two\n"])
        self.later(lambda: "out two" in self.proxy.stdout())
        self.assertIn("in one", self.proxy.stdout())
        s = self.session("UDP:")
        self.assertEqual([len(s["ingress"]), len(s["egress"])], [2, 2])
        self.assertEqual(self.texts(s, "WARNING"), [])


if __name__ == "__main__":
    l7test.main()
