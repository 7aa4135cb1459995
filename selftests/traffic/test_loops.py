#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Datagrams that would go round for ever end: between two listeners of ours, and between two hosts' listeners."""
import os
import signal
import socket
import time

import l7test
from l7test import udp_socket
from traffic import Case, UdpEcho, cluster, forge, inline, listener, silent


class Loops(Case):
    def second(self, *listeners):
        """Another daemon, as another host would have it: its listeners are not ours."""
        proxy = l7test.Proxy({"admin": {"offload": "disable"}, "listeners": [l7test.controller(1235), *listeners]}, port=1235)
        self.addCleanup(lambda: proxy.process.poll() is None and proxy.stop())
        return proxy

    def test_own_listeners(self):
        """loops: forged datagrams from one listener to another are dropped and counted, whatever address is listened on"""
        echo = inline("Echo")
        self.start(listener("one", "UDP", 9000, echo), listener("two", "UDP", 9001, echo, address="127.0.0.1"),
                   listener("three", "UDP", 9002, echo, address="127.0.0.3"))
        forge(9000, (("127.0.0.1", 9001) for _ in range(10)))
        forge(9001, (("127.0.0.7", 9000) for _ in range(10)))  # a wildcard listener's: any local address
        forge(9000, (("127.0.0.3", 9002) for _ in range(10)))
        forge(9000, (("127.0.0.1", 9000) for _ in range(10)))  # its own
        self.later(lambda: self.drops("loop") == 40)
        self.assertEqual(self.sessions("UDP:"), [])
        self.assertIn("from one of our own listeners are dropped", self.proxy.stderr())
        # The port alone says nothing: another address, or another port of the same address, is served.
        for host, port in (("127.0.0.2", 9002), ("127.0.0.3", 9003)):
            with udp_socket(port, host) as s:
                s.sendto(b"x", ("127.0.0.1", 9000))
                self.assertEqual(s.recv(10), b"x")

    def test_latch(self):
        """loops: within the window of options.latch, too, none of our own listeners becomes the peer"""
        one = listener("one", "UDP", 9000, cluster("UDP", 9003), address="127.0.0.1")
        one["spec"]["options"] = {"latch": {"window": 3600}}
        self.start(one, listener("two", "UDP", 9001, inline("Discard"), address="127.0.0.1"))
        with udp_socket() as first, udp_socket() as second, udp_socket(9003) as server:
            for client in (first, second):  # the window is open
                client.sendto(b"x", ("127.0.0.1", 9000))
                _, upstream = server.recvfrom(10)
                server.sendto(b"y", upstream)
                self.assertEqual(client.recv(10), b"y")
            forge(9000, (("127.0.0.1", 9001) for _ in range(10)))
            self.later(lambda: self.drops("loop") == 10)
            server.sendto(b"z", upstream)
            self.assertEqual(second.recv(10), b"z")
            self.assertTrue(silent(server))

    def test_chains(self):
        """loops: listeners that are chained on purpose work: by a cluster, and by a singleton's own socket"""
        UdpEcho(9003)
        self.start(listener("a", "UDP", 9000, cluster("UDP", 9001)), listener("b", "UDP", 9001, cluster("UDP", 9002)),
                   listener("c", "UDP", 9002, inline("Echo")),
                   listener("single", "UDP", 9005, cluster("UDP", 9006), address="127.0.0.1", connect={"address": "127.0.0.1", "port": 9007}),
                   listener("server", "UDP", 9007, cluster("UDP", 9003), address="127.0.0.1"))
        with udp_socket() as s:
            s.sendto(b"chain", ("127.0.0.1", 9000))
            self.assertEqual(s.recv(10), b"chain")
        upstream = self.later(lambda: self.sessions("UDP:127.0.0.1:9007-"))[0]
        self.assertEqual(upstream["status"], "CONNECTED")
        self.assertEqual(self.drops("loop"), 0)

    def ping_pong(self, host, spec):
        """Ten datagrams between Echo listeners of two daemons: (packets, drops) of both, at rest."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        one = self.start(listener("one", "UDP", 9000, inline("Echo"), **spec))
        self.metric("")
        os.kill(one.pid, signal.SIGSTOP)
        with socket.socket(family, socket.SOCK_DGRAM) as s:  # what the other one is going to be
            s.bind((host, 9001))
            for n in range(10):
                s.sendto(b"%d" % n, (host, 9000))
        two = self.second(listener("two", "UDP", 9001, inline("Echo"), **spec))
        os.kill(one.pid, signal.SIGCONT)

        def packets(api):
            return sum(s["stats"][d]["packets"] for s in api.get("/sessions")[1] if s["name"].startswith("UDP:")
                       for d in ("ingress", "egress"))
        self.later(lambda: packets(self.api) > 0)
        before = -1
        while before != (before := packets(self.api) + packets(two.api)):
            time.sleep(0.5)
            self.assertLess(before, 10000)
        drops = self.drops("ttl") + sum(s["stats"]["drops"] for s in two.api.get("/sessions")[1])
        two.stop()
        return before, drops

    def test_two_hosts_ipv4(self):
        """loops: ten datagrams between Echo listeners of two daemons end after 64 hops each"""
        packets, drops = self.ping_pong("127.0.0.1", {"address": "127.0.0.1"})
        # Each is received with TTL 64, 63, ... 1: 63 are sent on, which counts twice in a session, and the last is dropped.
        self.assertEqual((packets, drops), (10 * 63 * 2, 10))

    def test_two_hosts_dual(self):
        """loops: the same with IPv4 on listeners for both families, and with IPv6"""
        self.assertEqual(self.ping_pong("127.0.0.1", {}), (10 * 63 * 2, 10))
        self.stop()
        self.metrics_up = None
        self.assertEqual(self.ping_pong("::1", {}), (10 * 63 * 2, 10))

    def test_ttl_of_an_answer(self):
        """loops: an Echo answers with what is left of the TTL; TTL 1 is spent; a relay's answers have the socket's"""
        UdpEcho(9003)
        self.start(listener("echo", "UDP", 9000, inline("Echo")), listener("relay", "UDP", 9002, cluster("UDP", 9003)))
        with udp_socket() as s:
            s.setsockopt(socket.IPPROTO_IP, 12, 1)  # IP_RECVTTL

            def ask(port, ttl):
                s.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
                s.sendto(b"x", ("127.0.0.1", port))
                _, control, _, _ = s.recvmsg(10, 100)
                return [int.from_bytes(data[:4], "little") for level, kind, data in control if kind == socket.IP_TTL]
            self.assertEqual(ask(9000, 33), [32])
            self.assertEqual(ask(9000, 2), [1])
            self.assertEqual(ask(9002, 33), [64])
            self.assertEqual(ask(9002, 1), [64])
            s.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
            s.sendto(b"x", ("127.0.0.1", 9000))
            self.assertTrue(silent(s, 0.5))
        self.assertEqual(self.drops("ttl"), 1)


if __name__ == "__main__":
    l7test.main()
