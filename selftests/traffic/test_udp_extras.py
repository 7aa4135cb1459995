#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""UDP extras on the wire: DSCP in both families, buffer sizes, SO_REUSEPORT, the address that answers leave
from, dual-stack listeners, and what the kernel drops."""
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import l7net  # noqa: E402
import l7test  # noqa: E402
from l7test import Proxy, controller, udp_socket, wait_for  # noqa: E402

ECHO = [{"action": {"route": {"destination": {"spec": {"protocol": "Echo"}}}}}]
PROMETHEUS = {"name": "metrics", "spec": {"protocol": "HTTP", "address": "127.0.0.1", "port": 1235},
              "rules": [{"action": {"route": {"destination": {"spec": {"protocol": "Prometheus"}}}}}]}


def listener(**spec):
    options = spec.pop("options", {})
    return {"name": "udp", "spec": {"protocol": "UDP", "port": 5000, "options": options, **spec}, "rules": ECHO}


def tos_of(sock, level):
    _, control, _, peer = sock.recvmsg(2048, 256)
    values = [c[2][0] for c in control if c[0] == level]
    return values[0] if values else None, peer[0]


class Groups(unittest.TestCase):
    """Broadcast and multicast, between this namespace and a peer's."""

    def setUp(self):
        self.peer = l7net.Peer("l7leg0", "10.77.0.1", "10.77.0.2", "fd77::1", "fd77::2")
        self.addCleanup(self.peer.close)

    def asks(self, host, port=5000, tries=300):
        """What comes back, and from where, for a datagram to `host`; repeated, because addresses and groups take time."""
        v6 = ":" in host
        with self.peer.inside():
            s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
            index = socket.if_nametoindex("eth0")
        with s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            # Multicasts leave with a TTL of 1, which an Echo lowers and then has nothing left of.
            s.setsockopt(socket.IPPROTO_IPV6 if v6 else socket.IPPROTO_IP,
                         socket.IPV6_MULTICAST_HOPS if v6 else socket.IP_MULTICAST_TTL, 8)
            if v6:
                s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            else:
                s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.77.0.2"))
            s.bind(("fd77::2" if v6 else "10.77.0.2", 0))
            s.settimeout(0.1)
            for _ in range(tries):
                s.sendto(b"who", (host, port))
                try:
                    data, peer = s.recvfrom(100)
                except TimeoutError:
                    continue
                self.assertEqual(data, b"who")
                return peer[0]
        return None

    def test_broadcast(self):
        """udp: who writes to the subnet's broadcast address is answered from the interface's"""
        for keys in ({}, {"address": "0.0.0.0"}, {"address": "10.77.0.255"}):
            with Proxy({"listeners": [controller(), listener(**keys)]}) as p:
                self.assertEqual(self.asks("10.77.0.255"), "10.77.0.1", keys)
                self.assertEqual(len([s for s in p.api.get("/sessions")[1] if s["name"].startswith("UDP:")]), 1)
                if keys.get("address") != "10.77.0.255":
                    self.assertEqual(self.asks("255.255.255.255"), "10.77.0.1", keys)
                    self.assertEqual(self.asks("10.77.0.1"), "10.77.0.1", keys)

    def test_multicast(self):
        """udp: a listener with a multicast address joins its group, in both families, and answers from its own address"""
        for address in ("239.7.7.7", "ff12::7777"):
            with Proxy({"listeners": [controller(), listener(address=address,
                                                             options={"multicast_interface": "l7leg0"})]}) as p:
                self.assertIn(self.asks(address), ("10.77.0.1", "fd77::1"))
                self.assertEqual(len([s for s in p.api.get("/sessions")[1] if s["name"].startswith("UDP:")]), 1)
        with Proxy({"listeners": [controller(), listener(address="ff12::7777%l7leg0")]}):
            self.assertEqual(self.asks("ff12::7777"), "fd77::1")
        subprocess.run("ip route add 239.0.0.0/8 dev l7leg0".split(), check=True)
        with Proxy({"listeners": [controller(), listener(address="239.7.7.7")]}) as p:
            self.assertEqual(self.asks("239.7.7.7"), "10.77.0.1")
            # Replaced: the socket stays, the group is joined elsewhere.
            there = listener(address="239.7.7.7", options={"multicast_interface": "lo"})
            self.assertEqual(p.api.put("/listeners/udp", {"listener": there})[0], 200)
            self.assertIsNone(self.asks("239.7.7.7", tries=10))
            there["spec"]["options"]["multicast_interface"] = "none0"
            status, answer = p.api.put("/listeners/udp", {"listener": there})
            self.assertEqual(status, 400, answer)
            self.assertIn('there is no interface "none0"', str(answer))
            there["spec"]["options"]["multicast_interface"] = "l7leg0"
            self.assertEqual(p.api.put("/listeners/udp", {"listener": there})[0], 200)
            self.assertEqual(self.asks("239.7.7.7"), "10.77.0.1")

    def test_multicast_refused(self):
        """udp: a group that can't be joined, and an interface without a group, are refused, and the message says what to do"""
        subprocess.run("ip route del 224.0.0.0/4".split(), check=False, stderr=subprocess.DEVNULL)
        for keys, text in (({"address": "239.7.7.7"}, "name one in options.multicast_interface"),
                           ({"address": "ff12::1"}, "a link-local group needs"),
                           ({"address": "239.7.7.7", "options": {"multicast_interface": "none0"}}, "there is no interface"),
                           ({"address": "10.77.0.1", "options": {"multicast_interface": "lo"}}, "not a multicast address")):
            with Proxy({"listeners": [controller()]}) as p:
                status, answer = p.api.post("/listeners", {"listener": listener(**keys)})
                self.assertEqual(status, 400, answer)
                self.assertIn(text, str(answer))


class Extras(unittest.TestCase):
    def test_dscp(self):
        """udp: options.dscp is in what is sent, over IPv4, IPv6 and IPv4 on a dual-stack socket; both ends"""
        config = {"listeners": [controller(), listener(options={"dscp": 46}), {
            "name": "up", "spec": {"protocol": "UDP", "port": 5001},
            "rules": [{"action": {"route": {"destination": {
                "spec": {"protocol": "UDP", "port": 6000, "options": {"dscp": 34}},
                "endpoints": [{"spec": {"address": "::1"}}]}}}}]}]}
        with Proxy(config) as proxy:
            for host, level, option in (("127.0.0.1", socket.IPPROTO_IP, socket.IP_RECVTOS),
                                        ("::1", socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS)):
                with udp_socket(host=host) as s:
                    s.setsockopt(level, option, 1)
                    s.sendto(b"x", (host, 5000))
                    self.assertEqual(tos_of(s, level)[0], 46 << 2)
            with udp_socket(6000, "::1") as server, udp_socket() as client:
                server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
                client.sendto(b"x", ("127.0.0.1", 5001))
                self.assertEqual(tos_of(server, socket.IPPROTO_IPV6)[0], 34 << 2)
            _, sessions = proxy.api.get("/sessions")
            reasons = {d["reason"] for s in sessions if s["name"].startswith("UDP") for d in s["offload"]["directions"]}
            self.assertTrue(reasons <= {"disabled", "interface-not-enabled", "pending"}, reasons)

    def test_replies_leave_from_the_address_asked(self):
        """udp: a host with many addresses answers from the one that the peer wrote to, also IPv4 on a dual-stack socket"""
        subprocess.run("ip addr add 10.9.9.1/32 dev lo; ip addr add 10.9.9.2/32 dev lo; ip addr add fd09::1/128 dev lo;"
                       "ip addr add fd09::2/128 dev lo", shell=True, check=True)
        with Proxy({"listeners": [controller(), listener()]}):
            for host in ("127.0.0.1", "127.0.0.77", "10.9.9.1", "10.9.9.2"):
                with udp_socket(host="0.0.0.0") as s:
                    s.sendto(b"x", (host, 5000))
                    self.assertEqual(s.recvfrom(10), (b"x", (host, 5000)))
            for host in ("::1", "fd09::1", "fd09::2"):
                with udp_socket(host="::") as s:
                    s.sendto(b"x", (host, 5000))
                    self.assertEqual(s.recvfrom(10)[1][:2], (host, 5000))

    def test_families(self):
        """udp: without an address both families; 0.0.0.0 and :: one each"""
        for address, v4, v6 in ((None, True, True), ("0.0.0.0", True, False), ("::", False, True)):
            with Proxy({"listeners": [controller(), listener(**({"address": address} if address else {}))]}):
                for host, works in (("127.0.0.1", v4), ("::1", v6)):
                    with udp_socket(host=host, timeout=5 if works else 0.3) as s:
                        s.connect((host, 5000))
                        try:
                            s.send(b"x")
                            got = s.recv(10)
                        except OSError:
                            got = None
                        self.assertEqual(got, b"x" if works else None, (address, host))

    def test_buffers(self):
        """udp: rcvbuf and sndbuf are the socket's"""
        with Proxy({"listeners": [controller(), listener(options={"rcvbuf": 300000, "sndbuf": 200000})]}):
            text = subprocess.run(["ss", "-uamn", "sport", "=", ":5000"], capture_output=True, check=True).stdout.decode()
            self.assertIn("rb600000,", text)  # the kernel doubles what is asked for
            self.assertIn("tb400000,", text)

    def test_reuseport(self):
        """udp: two proxies share a port with reuseport, each peer stays with one; without it the second is refused"""
        shared = {"reuseport": True}
        with Proxy({"listeners": [controller(), listener(options=shared)]}) as a, \
                Proxy({"listeners": [controller(1236), listener(options=shared)]}, port=1236) as b:
            for _ in range(40):
                with udp_socket() as s:
                    for _ in range(3):
                        s.sendto(b"x", ("127.0.0.1", 5000))
                        self.assertEqual(s.recv(10), b"x")
            counts = [sum(x["name"].startswith("UDP") for x in p.api.get("/sessions")[1]) for p in (a, b)]
            self.assertEqual(sum(counts), 40)
            self.assertGreater(min(counts), 3)
        with Proxy({"listeners": [controller(), listener()]}):
            with self.assertRaises(AssertionError) as e:
                Proxy({"listeners": [controller(1236), listener()]}, port=1236)
            self.assertIn("address already in use", str(e.exception))

    def test_no_port_left(self):
        """when the host's range of local ports is used up, the sessions beyond say so; each bind.address has a range of its own"""
        if not l7test.ISOLATED:
            self.skipTest("needs root")
        path = "/proc/sys/net/ipv4/ip_local_port_range"
        with open(path) as f:
            before = f.read()

        def restore():
            with open(path, "w") as f:
                f.write(before)
        self.addCleanup(restore)

        def up(name, port, host="127.0.0.1", **spec):
            return {"name": name, "spec": {"protocol": "UDP", "address": "127.0.0.1", "port": port},
                    "rules": [{"action": {"route": {"destination": {"spec": {"protocol": "UDP", "port": 9, **spec},
                                                                    "endpoints": [{"spec": {"address": host}}]}}}}]}
        one, two = ({"bind": {"address": f"127.0.0.{i}"}} for i in (4, 5))
        with Proxy({"listeners": [controller(), up("one", 5000, **one), up("two", 5001, **two), up("learns", 5002, options={"latch": True}),
                                  up("any", 5003), up("name", 5004, "localhost")]}) as p:
            clients = [udp_socket(30000 + i) for i in range(6)]
            for c in clients:
                self.addCleanup(c.close)
            with open(path, "w") as f:
                f.write("20000 20003")

            def fail(n, port, *clients):
                """Sends to the port; by then so many sessions have failed. The API is out of reach: it needs ports, too."""
                for c in clients:
                    c.sendto(b"x", ("127.0.0.1", port))
                self.assertTrue(wait_for(lambda: failures() == n), p.stderr())

            def failures():
                return p.stderr().count("no local port is free (net.ipv4.ip_local_port_range)")
            fail(2, 5000, *clients)
            fail(4, 5001, *clients)
            # Now no port is free on all addresses at once.
            for n, port in enumerate((5002, 5003, 5004)):
                fail(5 + n, port, clients[0])

    def test_kernel_drops(self):
        """udp: what the kernel drops for want of room is counted as receive-buffer, and nothing else is lost"""
        with Proxy({"listeners": [controller(), PROMETHEUS, listener(options={"rcvbuf": 8192})]}) as proxy, \
                udp_socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
            s.sendto(b"first", ("127.0.0.1", 5000))
            self.assertEqual(s.recv(10), b"first")
            proxy.process.send_signal(signal.SIGSTOP)
            for _ in range(500):
                s.sendto(b"x" * 1000, ("127.0.0.1", 5000))
            proxy.process.send_signal(signal.SIGCONT)
            time.sleep(0.3)
            s.sendto(b"last", ("127.0.0.1", 5000))
            got = 0
            while s.recv(2000) != b"last":
                got += 1

            def counted():
                _, text = l7test.Api(1235).call("GET", "/api/metrics")
                m = re.search(r'l7mp_drop\w*\{reason="receive-buffer"\} (\d+)', text)
                return m and int(m.group(1))
            self.assertTrue(wait_for(counted))
            self.assertEqual(counted(), 500 - got)


if __name__ == "__main__":
    l7test.main()
