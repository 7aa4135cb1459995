#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Limits: each refuses, counts, and lets the rest go on."""
import time

import l7test
from l7test import udp_socket
from traffic import Case, Peak, TcpServer, UdpEcho, cluster, connect, echo, inline, listener, recv_exact, silent


class Limits(Case):
    def closed(self, s):
        try:
            return s.recv(1) == b""
        except ConnectionResetError:
            return True

    def test_max_sessions(self):
        """limits: max_sessions refuses, counts, and takes new ones when others have gone; changeable at run time"""
        self.start(listener("t", "TCP", 9000, inline("Echo")), listener("u", "UDP", 9001, inline("Echo")),
                   admin={"limits": {"max_sessions": 5}})
        time.sleep(0.1)
        socks = [connect(9000) for _ in range(4)]
        for s in socks:
            s.sendall(b"x")
            self.assertEqual(s.recv(1), b"x")
        more = [connect(9000) for _ in range(3)]  # one more may fit
        for s in more[1:]:
            self.assertTrue(self.closed(s))
        for s in socks + more:
            s.close()
        def fine():
            with connect(9000) as s:
                s.sendall(b"y")
                return s.recv(1) == b"y"
        self.later(fine)
        self.later(lambda: not self.sessions())
        self.assertEqual(self.api.post("/admin", {"admin": {"limits": {"max_sessions": 1000}}})[0], 200)
        self.assertGreaterEqual(self.metric("l7mp_refusals_total", 'limit="max_sessions"'), 2)
        socks = [connect(9000) for _ in range(20)]
        for s in socks:
            s.sendall(b"x")
            self.assertEqual(s.recv(1), b"x")
            s.close()

    def test_per_source(self):
        """limits: max_sessions_per_source counts a source address, of IPv6 the /64"""
        self.start(listener("u", "UDP", 9000, inline("Echo")), admin={"limits": {"max_sessions_per_source": 3}})
        one = [udp_socket(host="127.0.0.5") for _ in range(5)]
        for s in one:
            s.sendto(b"x", ("127.0.0.1", 9000))
        answered = [s for s in one if not silent(s, 0.2)]
        self.assertEqual(len(answered), 3)
        self.assertEqual(len(self.sessions("UDP:127.0.0.5")), 3)
        with udp_socket(host="127.0.0.6") as s:
            s.sendto(b"y", ("127.0.0.1", 9000))
            self.assertEqual(s.recv(1), b"y")
        self.assertEqual(self.metric("l7mp_refusals_total", 'limit="max_sessions_per_source"'), 2)
        self.assertEqual(self.drops("limit"), 2)

    def test_rate(self):
        """limits: new_sessions_per_second refuses beyond a second's worth and refills"""
        self.start(listener("u", "UDP", 9000, inline("Echo")), admin={"limits": {"new_sessions_per_second": 10}})
        socks = [udp_socket() for _ in range(30)]
        for s in socks:
            s.sendto(b"x", ("127.0.0.1", 9000))
        time.sleep(0.3)
        now = len(self.sessions("UDP:"))
        self.assertTrue(10 <= now <= 13, now)
        time.sleep(0.6)
        for s in socks:
            s.sendto(b"x", ("127.0.0.1", 9000))
        time.sleep(0.2)
        self.assertTrue(15 <= len(self.sessions("UDP:")) <= 25)

    def test_queue(self):
        """limits: max_queue bounds what waits for an upstream that is not there; the rest is dropped and counted"""
        proxy = self.start(listener("u", "UDP", 9000, cluster("TCP", 9001),
                                    retry={"retry_on": "always", "num_retries": 100, "timeout": 200}),
                           admin={"limits": {"max_queue": 8192}}, measured=True)
        peak = Peak(proxy)
        with udp_socket() as s:
            for n in range(500):
                s.sendto(b"%04d" % n + bytes(996), ("127.0.0.1", 9000))
            self.later(lambda: self.session("UDP:")["stats"]["drops"] == 492)
            got = []
            TcpServer(9001, lambda conn, _: got.append(recv_exact(conn, 8000)))
            self.later(lambda: got)
            self.assertEqual([got[0][i:i + 4] for i in range(0, 8000, 1000)], [b"%04d" % n for n in range(8)])
        self.assertEqual(self.drops("queue"), 492)
        self.assertEqual(self.metric("l7mp_refusals_total", 'limit="max_queue"'), 492)
        self.assertLess(peak.grown(), 10 * 1024)

    def test_descriptors(self):
        """limits: descriptors run out: the listener backs off, counts, and goes on when there are some again"""
        TcpServer(9001, echo)
        UdpEcho(9002)
        proxy = self.start(listener("t", "TCP", 9000, cluster("TCP", 9001)),
                           listener("u", "UDP", 9003, cluster("UDP", 9002)),
                           wrapper=("prlimit", "--nofile=100:100"))
        socks = [connect(9000) for _ in range(80)]
        served = 0
        for s in socks:
            s.settimeout(0.1)
            try:
                s.sendall(b"x")
                served += s.recv(1) == b"x"
            except OSError:
                pass
        self.assertTrue(10 < served < 80, served)
        used = self.cpu(proxy)
        time.sleep(0.5)
        self.assertLess(self.cpu(proxy) - used, 0.25)  # no busy loop
        for s in socks:
            s.close()

        def fine():
            with connect(9000, timeout=2) as s:
                s.sendall(b"again")
                return recv_exact(s, 5) == b"again"
        self.later(fine)
        with udp_socket() as s:
            s.sendto(b"udp", ("127.0.0.1", 9003))
            self.assertEqual(s.recv(10), b"udp")
        self.later(lambda: not self.sessions("TCP:"))
        self.assertGreater(self.metric("l7mp_refusals_total", 'limit="descriptors"'), 0)

    @staticmethod
    def cpu(proxy):
        with open(f"/proc/{proxy.pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / 100


if __name__ == "__main__":
    l7test.main()
