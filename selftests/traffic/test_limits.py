#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Limits: each refuses, counts, and lets the rest continue."""
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import unittest

import l7test
from l7test import udp_socket
from traffic import Case, Peak, TcpServer, UdpEcho, cluster, connect, echo, forge, inline, listener, recv_exact, silent, unused_sources


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
        answered = []
        for s in one:
            s.sendto(b"x", ("127.0.0.1", 9000))
            if not silent(s, 0.3):
                s.sendto(b"again", ("127.0.0.1", 9000))  # who comes back after the answer is no forged address
                self.assertEqual(s.recv(10), b"again")
                answered.append(s)
        self.assertEqual(len(answered), 3)
        self.assertEqual(len(self.sessions("UDP:127.0.0.5")), 3)
        with udp_socket(host="127.0.0.6") as s:
            s.sendto(b"y", ("127.0.0.1", 9000))
            self.assertEqual(s.recv(1), b"y")
        self.assertEqual(self.metric("l7mp_refusals_total", 'limit="max_sessions_per_source"'), 2)
        self.assertEqual(self.drops("limit"), 2)

    def attacked(self, attack, upstream, host="127.0.0.9"):
        """While `attack` runs and after it: API, metrics, a TCP and a UDP listener serve a new client on `host`, and
        a session that was there before continues."""
        self.metric("")  # makes the listener
        with udp_socket(host=host) as old:
            for n in range(2):
                old.sendto(b"old%d" % n, ("127.0.0.1", 9002))
                self.assertEqual(old.recv(10), b"old%d" % n)
            thread = threading.Thread(target=attack)
            thread.start()
            rounds = 0
            while thread.is_alive() or not rounds:
                rounds += 1
                self.assertEqual(self.api.get("/admin")[0], 200)
                self.assertGreater(self.metric("l7mp_sessions_started_total"), 0)
                with socket.create_connection(("127.0.0.1", 9001), 10, source_address=(host, 0)) as s:
                    s.sendall(b"tcp")
                    self.assertEqual(recv_exact(s, 3), b"tcp")
                with udp_socket(host=host, timeout=1) as s:
                    self.later(lambda: s.sendto(b"udp", ("127.0.0.1", 9002)) and not silent(s, 0.5))
            thread.join()
            old.sendto(b"still", ("127.0.0.1", 9002))
            self.assertEqual(old.recv(10), b"still")
            names = [s["name"] for s in self.sessions(f"UDP:{host}:{old.getsockname()[1]}-")]
            self.assertEqual(len(names), 1)

    def flooded(self, destination, limits, attack, **keys):
        self.start(listener("forged", "UDP", 9000, destination), listener("t", "TCP", 9001, inline("Echo")),
                   listener("u", "UDP", 9002, inline("Echo")), admin={"limits": limits})
        self.attacked(attack, destination, **keys)

    def test_forged_sources(self):
        """limits: forged datagrams from 3,000 addresses don't block other clients: unanswered sessions are evicted first"""
        self.flooded(inline("Discard"), {"max_sessions": 60}, lambda: forge(9000, unused_sources(3000), rate=1500))
        self.assertGreater(self.metric("l7mp_evictions_total", 'limit="max_sessions"'), 500)

    def test_forged_sources_answered(self):
        """limits: the same where each forged datagram is answered, as by Echo: who never comes again goes"""
        self.flooded(inline("Echo"), {"max_sessions": 60}, lambda: forge(9000, unused_sources(3000), rate=1500))
        self.assertGreater(self.metric("l7mp_evictions_total", 'limit="max_sessions"'), 500)

    def test_forged_jsonsocket(self):
        """limits: the same with forged JSONSocket headers over UDP, whose sessions were told 200"""
        header = b'{"JSONSocketVersion": 1, "pad": "%s"}' % (b"x" * 100)
        self.start({"name": "forged", "spec": {"protocol": "JSONSocket", "transport": {"protocol": "UDP", "port": 9000}},
                    "rules": [{"action": {"route": {"destination": inline("Discard")}}}]},
                   listener("t", "TCP", 9001, inline("Echo")), listener("u", "UDP", 9002, inline("Echo")),
                   admin={"limits": {"max_sessions": 60}})
        self.attacked(lambda: forge(9000, unused_sources(2000), header, rate=1000), None)
        self.assertGreater(self.metric("l7mp_evictions_total", 'limit="max_sessions"'), 300)

    def test_forged_victim(self):
        """limits: datagrams forged with one host's address don't shut that host out, by TCP nor by UDP"""
        victim = (("127.0.0.9", 1024 + i) for i in range(3000))
        self.flooded(inline("Discard"), {"max_sessions_per_source": 20}, lambda: forge(9000, victim, rate=1500))
        self.assertGreater(self.metric("l7mp_evictions_total", 'limit="max_sessions_per_source"'), 500)

    def test_forged_descriptors(self):
        """limits: forged datagrams whose sessions take all descriptors: the rest continues"""
        UdpEcho(9003)
        self.start(listener("forged", "UDP", 9000, cluster("UDP", 9003)), listener("t", "TCP", 9001, inline("Echo")),
                   listener("u", "UDP", 9002, inline("Echo")), wrapper=("prlimit", "--nofile=2000:2000"))
        self.attacked(lambda: forge(9000, unused_sources(7000), rate=2500), None)
        self.assertGreater(self.metric("l7mp_evictions_total", 'limit="descriptors"'), 300)

    @unittest.skipUnless(l7test.FULL, "make test-full: 300,000 forged sources, default limits")
    def test_forged_defaults(self):
        """limits: 300,000 forged sources as fast as they come, default limits"""
        def attack():
            for _ in range(10):  # a busy machine drops most of them before they reach the proxy
                forge(9000, unused_sources(300000), rate=30000)
                if self.metric("l7mp_evictions_total") > 10000:
                    break
        self.flooded(inline("Discard"), {}, attack)
        self.assertGreater(self.metric("l7mp_evictions_total"), 10000)

    def test_listener(self):
        """limits: options.max_sessions of a listener holds for that listener alone"""
        self.start(listener("t", "TCP", 9001, inline("Echo"), options={"max_sessions": 3}),
                   listener("u", "UDP", 9002, inline("Echo")))
        socks = [connect(9001) for _ in range(3)]
        for s in socks:
            s.sendall(b"x")
            self.assertEqual(s.recv(1), b"x")
        with connect(9001) as s:
            self.assertTrue(self.closed(s))
        with udp_socket() as s:
            s.sendto(b"x", ("127.0.0.1", 9002))
            self.assertEqual(s.recv(10), b"x")
        self.assertEqual(self.metric("l7mp_refusals_total", 'limit="options.max_sessions"'), 1)
        for s in socks:
            s.close()

    def test_listener_of_datagrams(self):
        """limits: options.max_sessions holds for UNIX/dgram servers and for AF_PACKET servers, too"""
        folder = tempfile.mkdtemp(prefix="l7mp-limits-")
        self.addCleanup(shutil.rmtree, folder)
        subprocess.run("ip link add lim0 type veth peer name lim1 && ip link set lim0 up && ip link set lim1 up", shell=True, check=True)
        self.addCleanup(subprocess.run, ["ip", "link", "del", "lim0"])
        frames = listener("p", "AF_PACKET", None, inline("Discard"), options={"max_sessions": 2}, interface="lim0", ethertype=0x88B5)
        frames["spec"]["options"] = {"mode": "server"}
        self.start(listener("d", "UNIX/dgram", None, inline("Discard"), options={"max_sessions": 3}, filename=f"{folder}/l"), frames)
        for i in range(5):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
                s.bind(f"{folder}/c{i}")
                s.sendto(b"x", f"{folder}/l")
        # A source that was never answered to may be forged: the oldest goes, and the limit holds.
        self.later(lambda: self.metric("l7mp_evictions_total", 'limit="options.max_sessions"')
                   + self.metric("l7mp_refusals_total", 'limit="options.max_sessions"') == 2)
        self.later(lambda: len(self.sessions("UNIXD:")) == 3)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as s:
            s.bind(("lim1", 0))
            for i in range(6):
                s.send(bytes([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1, i, 0x88, 0xB5]) + bytes(46))
        self.later(lambda: self.metric("l7mp_evictions_total", 'limit="options.max_sessions"')
                   + self.metric("l7mp_refusals_total", 'limit="options.max_sessions"') == 6)
        self.later(lambda: len(self.sessions("PACKET:")) == 2)

    def test_operator(self):
        """limits: connections use up max_sessions but for a tenth, which the API and the metrics keep"""
        self.start(listener("t", "TCP", 9001, inline("Echo")), listener("h", "HTTP", 9002, inline("Echo")),
                   admin={"limits": {"max_sessions": 50}})
        self.metric("")
        socks = [connect(9001) for _ in range(60)]
        self.later(lambda: len(self.sessions("TCP:")) == 45)
        for _ in range(10):
            self.assertEqual(self.api.get("/admin")[0], 200)
        self.assertEqual(l7test.Api(9002).call("GET", "/")[0], 503)  # HTTP, but not the operator's
        self.assertGreaterEqual(self.metric("l7mp_refusals_total", 'limit="max_sessions"'), 16)
        for s in socks:
            s.close()

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
        """limits: descriptors run out: the listener backs off, counts, and continues when there are some again"""
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

    def crowd(self, port):
        """Connections without a session: nothing is sent on them."""
        for _ in range(100):
            s = socket.socket()
            self.addCleanup(s.close)
            s.settimeout(5)
            s.connect(("127.0.0.1", port))

    def operator_served(self, proxy):
        """A descriptor is left for the operator, on the data plane's loop and on the admin server."""
        for port in (1234, 1235):
            for _ in range(3):
                self.assertEqual(l7test.Api(port).call("GET", "/admin", timeout=30)[0], 200)
        self.assertLess(proxy.fds(), 120)
        self.assertGreater(self.metric("l7mp_refusals_total", 'limit="descriptors"'), 0)

    def server(self, *listeners):
        """A proxy with 120 descriptors, the REST API, and the admin server."""
        admin = {"offload": "disable", "server": {"enabled": True, "address": "127.0.0.1", "port": 1235, "threads": 2}}
        self.proxy = l7test.Proxy({"admin": admin, "listeners": [l7test.controller(), *listeners]},
                                  wrapper=("prlimit", "--nofile=120:120"))
        self.api = self.proxy.api
        return self.proxy

    def test_descriptors_without_sessions(self):
        """limits: connections without a request or a handshake leave descriptors for the operator"""
        proxy = self.server(listener("h", "HTTP", 9001, inline("Echo")), listener("w", "WebSocket", 9002, inline("Echo")),
                            listener("j", "JSONSocket", None, inline("Echo"), transport={"protocol": "TCP", "port": 9003}))
        for port in (9001, 9002, 9003):
            self.crowd(port)
            self.operator_served(proxy)

    @staticmethod
    def cpu(proxy):
        with open(f"/proc/{proxy.pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / 100


if __name__ == "__main__":
    l7test.main()
