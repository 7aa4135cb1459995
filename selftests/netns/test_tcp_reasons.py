#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: long timeout=600 parts=2
"""Why a TCP session is not in the kernel: each reason by a condition that brings it about, and the session continues in
user space."""
import ctypes
import os
import pathlib
import re
import socket
import struct
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7net  # noqa: E402
import l7test  # noqa: E402
import tcpflow  # noqa: E402
from certs import Certs  # noqa: E402
from tcpproof import RATE, TCP_MD5SIG, Proof  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
IPPROTO_MPTCP = 262
LATER = {"after_bytes": 1 << 30, "after_ms": 3600000}
NOW = {"after_bytes": 0, "after_ms": 0}
# Those that no condition of a TCP session brings about.
ELSEWHERE = {
    "": "it is in the kernel",
    "pending": "a state on the way",
    "not-established": "a socket that fails in the moment of the request",
    "send-filtered": "EPERM: datagrams",
    "bypassed": "datagrams; TCP: not-seen",
    "mixed-paths": "datagrams; TCP: tcp-options",
    "conflict": "two connections with the same addresses and ports",
    "kernel": "a system call that fails",
    "link-down": "AF_PACKET",
    "tcp-closing": "both peers finish at the moment of the switch: unit/test_offload_tcp_pairs",
}
shown = set()


def shows(*reasons):
    """Marks a test by the reasons that it brings about."""
    shown.update(reasons)
    return lambda test: test


def md5_key(sock, peer):
    """Segments to and from this address are signed from now on (RFC 2385)."""
    family, packed = (socket.AF_INET6, socket.inet_pton(socket.AF_INET6, peer)) if ":" in peer else \
                     (socket.AF_INET, socket.inet_aton(peer))
    address = struct.pack("=HH", family, 0) + (b"\0\0\0\0" if family == socket.AF_INET6 else b"") + packed
    sock.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, struct.pack("=128sBBHi80s", address, 0, 0, 6, 0, b"secret"))


def descriptor_of(pid, fd):
    """A copy of another process' descriptor (pidfd_getfd)."""
    pidfd = os.pidfd_open(pid)
    try:
        copy = ctypes.CDLL(None, use_errno=True).syscall(438, pidfd, fd, 0)
        if copy < 0:
            raise OSError(ctypes.get_errno(), "pidfd_getfd")
        return copy
    finally:
        os.close(pidfd)


class Reasons(Proof):
    def config(self, *args, destination=None, listener=None, route=None, limits=None, **kw):
        """`destination` replaces the cluster, `listener` and `route` add keys."""
        config = super().config(*args, **kw)
        config["listeners"][0].update(listener or {})
        made = config["listeners"][0]["rules"][0]["action"]["route"]
        made.update(route or {})
        if destination:
            made["destination"] = destination
        if limits:
            config["admin"]["limits"] = limits
        return config

    def test_complete(self):
        """each reason of the product is brought about by a test of this file, and those of TCP are documented"""
        root = l7test.ROOT
        text = (root / "include/l7mp/flow.h").read_text()
        reasons = set(re.findall(r'\bX\([A-Z0-9_]+,\s*"([^"]*)"', text))
        self.assertGreater(len(reasons), 20)
        self.assertEqual(reasons - set(ELSEWHERE), shown)
        self.assertLessEqual(set(ELSEWHERE), reasons)
        documented = (root / "docs/fastpath.md").read_text()
        self.assertEqual([r for r in shown if r.startswith("tcp-") and f"`{r}`" not in documented], [])

    # ---- settings ----

    @shows("disabled")
    def test_disabled(self):
        """disabled: by offload_tcp.enabled, by the listener, by the route"""
        for how in ({"tcp": {"enabled": False}}, {"options": {"offload": "never"}}, {"route": {"offload": "never"}}):
            with self.subTest(how=how), self.proxy(**how) as p:
                self.refused(p, "disabled")

    @shows("tcp-young")
    def test_young(self):
        """tcp-young: neither old nor large enough; it goes in when the setting says so"""
        with self.proxy(tcp=LATER) as p:
            end = self.bulk()
            self.wait_reason(p, "tcp-young")
            self.stays_slow(p)
            p.api.post("/admin", {"admin": {"offload_tcp": NOW}})
            self.stays_fast(p)
            self.over(end)

    @shows("interface-not-enabled")
    def test_interface(self):
        """interface-not-enabled: one leg is not served; it goes in when it is"""
        with self.proxy(offload_ifs="legA") as p:
            end = self.bulk()
            self.wait_reason(p, "interface-not-enabled")
            self.stays_slow(p)
            p.api.post("/admin", {"admin": {"offload_ifs": "legA,legB"}})
            self.stays_fast(p)
            self.over(end)

    @shows("table-full")
    def test_table_full(self):
        """table-full: limits.max_flows; it goes in when the other session has ended"""
        with self.proxy(limits={"max_flows": 2}, tcp=NOW) as p:
            first = self.bulk()
            name = self.wait_fast(p)["name"]
            second = self.bulk()

            def other():
                return [s for s in p.api.get("/sessions")[1] if s["name"].startswith("TCP:") and s["name"] != name]
            self.wait(lambda: [s for s in other() if s["offload"]["directions"][0]["reason"] == "table-full"], p)
            self.over(first)
            self.wait(lambda: self.session(p)["name"] != name, p)
            self.stays_fast(p)
            self.over(second)

    # ---- what the session is ----

    @shows("protocol")
    def test_protocol(self):
        """protocol: TCP to a UNIX socket"""
        with tempfile.TemporaryDirectory(prefix="l7mp-") as folder, \
                socket.socket(socket.AF_UNIX) as server:
            server.bind(folder + "/up")
            server.listen()
            server.settimeout(120)
            up = {"name": "up", "spec": {"protocol": "UnixDomainSocket"},
                  "endpoints": [{"spec": {"address": folder + "/up"}}]}
            with self.proxy(destination=up) as p:
                c = tcpflow.connect(self.a, (self.a.gateway4, 9000))
                end = self.ends(c, tcpflow.accept(server))
                self.wait_reason(p, "protocol")
                self.stays_slow(p)
                self.over(end)

    @shows("transformer-in-path")
    def test_transformer(self):
        """transformer-in-path: user space has to see the bytes, also those of Echo"""
        with self.proxy(ingress=["log"]) as p:
            self.refused(p, "transformer-in-path")
        with self.proxy(destination={"name": "up", "spec": {"protocol": "Echo"}}) as p:
            c = tcpflow.connect(self.a, (self.a.gateway4, 9000))
            end = tcpflow.Both(c, 1, 1, rate=RATE)
            self.wait_reason(p, "transformer-in-path")
            self.stays_slow(p)
            end.sender.stop()
            self.finish([(end, end)])

    @shows("address-family")
    def test_family(self):
        """address-family: IPv4 to IPv6"""
        up = {"name": "up", "spec": {"protocol": "TCP", "port": 9001}, "endpoints": [{"spec": {"address": "fd09:2::2"}}]}
        server = tcpflow.listener(self.b, 9001, self.b.own6)
        with server, self.proxy(destination=up) as p:
            c = tcpflow.connect(self.a, (self.a.gateway4, 9000))
            end = self.ends(c, tcpflow.accept(server))
            self.wait_reason(p, "address-family")
            self.stays_slow(p)
            self.over(end)

    @shows("address-scope")
    def test_scope(self):
        """address-scope: the client has a link-local address"""
        local = re.search(r"fe80::[0-9a-f:]+", l7net.ip("-6 addr show dev legA scope link"))[0]
        with self.proxy(v6=True, listener={"spec": {"protocol": "TCP", "address": "::", "port": 9000}}) as p:
            with self.a.inside():
                index = socket.if_nametoindex("eth0")
            self.wait(lambda: "tentative" not in l7net.ip("-6 addr show dev legA") + self.a.run("ip -6 addr show dev eth0"))
            c = tcpflow.connect(self.a, (local, 9000, 0, index))
            end = self.ends(c, tcpflow.accept(self.servers[True]))
            self.wait_reason(p, "address-scope")
            self.stays_slow(p)
            self.over(end)

    @shows("tls")
    def test_tls(self):
        """tls: of the listener, of the cluster"""
        with tempfile.TemporaryDirectory(prefix="l7mp-") as folder:
            certs = Certs(folder)
            good = certs.cert("good", "IP:10.9.2.2,IP:10.9.1.1")
            data = os.urandom(300000)
            with self.proxy(listener={"spec": {"protocol": "TCP", "address": "10.9.1.1", "port": 9000, "tls": good}}) as p:
                c = self.a.popen("openssl", "s_client", "-quiet", "-connect", "10.9.1.1:9000", "-CAfile", certs.path("ca.pem"),
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                self.addCleanup(c.wait)
                self.addCleanup(c.kill)
                c.stdin.write(data)
                c.stdin.flush()
                s = tcpflow.accept(self.servers[False])
                self.assertEqual(self.exactly(s, len(data)), data)
                self.wait_reason(p, "tls")
                s.sendall(data)
                self.assertEqual(c.stdout.read(len(data)), data)
                s.close()
                c.stdin.close()
                c.stdout.close()
            up = {"name": "up", "spec": {"protocol": "TCP", "port": 9002, "tls": {"ca": certs.path("ca.pem")}},
                  "endpoints": [{"spec": {"address": "10.9.2.2"}}]}
            s = self.b.popen("openssl", "s_server", "-quiet", "-accept", "9002", "-cert", good["cert"], "-key", good["key"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            self.addCleanup(s.wait)
            self.addCleanup(s.kill)
            self.wait(lambda: self.b.run("ss -Htln sport = 9002"))
            with self.proxy(destination=up) as p:
                c = tcpflow.connect(self.a, (self.a.gateway4, 9000))
                c.sendall(data)
                self.assertEqual(s.stdout.read(len(data)), data)
                self.wait_reason(p, "tls")
                c.close()
                s.stdin.close()
                s.stdout.close()

    # ---- routes, neighbours, hooks ----

    @shows("no-route")
    def test_no_route(self):
        """no-route: it is lost under the session, which continues when there is one again"""
        with self.proxy(tcp=LATER) as p:
            end = self.bulk()
            self.wait_reason(p, "tcp-young")
            l7net.ip("route add unreachable 10.9.2.2")
            # What comes from the client still triggers the request.
            p.api.post("/admin", {"admin": {"offload_tcp": NOW}})
            self.wait_reason(p, "no-route")
            l7net.ip("route del unreachable 10.9.2.2")
            self.stays_fast(p)
            self.over(end)

    @unittest.skipUnless(l7test.FULL, "make test-full: where it takes long, the connection fails before its server is found again")
    @shows("no-neighbour")
    def test_no_neighbour(self):
        """no-neighbour: the server's link address can't be found out, and then can"""
        with self.proxy(tcp=LATER) as p:
            end = self.bulk()
            self.wait_reason(p, "tcp-young")
            self.b.run("ip link set eth0 arp off")
            l7net.ip("neigh flush dev legB")
            p.api.post("/admin", {"admin": {"offload_tcp": NOW}})
            self.wait_reason(p, "no-neighbour")
            self.b.run("ip link set eth0 arp on")
            self.stays_fast(p)
            self.over(end)

    @shows("hook-lost")
    def test_hook_lost(self):
        """hook-lost: our filter is deleted under the session"""
        with self.proxy() as p:
            end = self.bulk()
            self.stays_fast(p)
            l7net.sh("tc", "filter", "del", "dev", "legB", "ingress")
            self.wait_reason(p, "hook-lost")
            self.stays_slow(p)
            self.over(end)

    # ---- the two connections ----

    @shows("tcp-timestamps")
    def test_timestamps(self):
        """tcp-timestamps: only the client's connection has them, only the server's; neither: in the kernel"""
        with self.proxy() as p:
            for peers in ((self.a,), (self.b,)):
                for peer in peers:
                    peer.run("sysctl -qw net.ipv4.tcp_timestamps=0")
                self.refused(p, "tcp-timestamps")
                for peer in peers:
                    peer.run("sysctl -qw net.ipv4.tcp_timestamps=1")
            for peer in (self.a, self.b):
                peer.run("sysctl -qw net.ipv4.tcp_timestamps=0")
            end = self.bulk()
            self.stays_fast(p)
            self.over(end)

    @shows("tcp-ecn")
    def test_ecn(self):
        """tcp-ecn: only the client's connection has it, only the server's; both: in the kernel"""
        with self.proxy() as p:
            self.a.run("sysctl -qw net.ipv4.tcp_ecn=1")
            self.refused(p, "tcp-ecn")
            self.sysctl("net.ipv4.tcp_ecn", 1)
            end = self.bulk()
            self.stays_fast(p)
            self.over(end)
            self.a.run("sysctl -qw net.ipv4.tcp_ecn=0")
            self.refused(p, "tcp-ecn")

    @shows("tcp-mss")
    def test_mss(self):
        """tcp-mss: the MTU of one leg is larger, either of them"""
        with self.proxy() as p:
            for peer, leg in ((self.a, "legA"), (self.b, "legB")):
                peer.run("ip link set eth0 mtu 9000")
                l7net.ip(f"link set {leg} mtu 9000")
                self.refused(p, "tcp-mss")
                peer.run("ip link set eth0 mtu 1500")
                l7net.ip(f"link set {leg} mtu 1500")

    @shows("tcp-mptcp")
    def test_mptcp(self):
        """tcp-mptcp: the proxy's sockets were made Multipath TCP's from outside; a client that only offers it is served fast"""
        try:
            socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP).close()
        except OSError as e:
            self.skipTest(f"this kernel has no MPTCP: {e}")

        def multipath():
            with self.a.inside():
                c = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
            c.settimeout(120)
            c.connect((self.a.gateway4, 9000))
            return self.ends(c, tcpflow.accept(self.servers[False]))
        with self.proxy() as p:
            end = multipath()
            self.stays_fast(p)
            self.over(end)
        with tempfile.TemporaryDirectory(prefix="l7mp-") as folder:
            shim = folder + "/mptcp.so"
            subprocess.run([os.environ.get("CC", "gcc"), "-shared", "-fPIC", "-o", shim, str(HERE / "mptcp_socket.c"), "-ldl"],
                           check=True)
            wrapper = ("env", f"LD_PRELOAD={shim}",
                       f"ASAN_OPTIONS={os.environ.get('ASAN_OPTIONS', '')}:verify_asan_link_order=0")
            with self.proxy(wrapper=wrapper) as p:
                end = multipath()
                self.wait_reason(p, "tcp-mptcp")
                self.assertIn("tcp-ulp-mptcp", l7net.sh("ss", "-Htni", "sport = 9000 and dst 10.9.1.2"))
                self.stays_slow(p)
                self.over(end)

    @shows("tcp-md5")
    def test_md5(self):
        """tcp-md5: the client's segments are signed"""
        with self.proxy() as p:
            signed = None
            for fd in os.listdir(f"/proc/{p.pid}/fd"):
                try:
                    if not os.readlink(f"/proc/{p.pid}/fd/{fd}").startswith("socket:"):
                        continue
                    s = socket.socket(fileno=descriptor_of(p.pid, int(fd)))
                except OSError:
                    continue  # closed meanwhile
                if s.family == socket.AF_INET and s.getsockname() == ("10.9.1.1", 9000):
                    signed = s
                else:
                    s.close()
            self.assertIsNotNone(signed)
            with signed:
                try:
                    md5_key(signed, "10.9.1.2")
                except OSError as e:
                    self.skipTest(f"this kernel has no TCP-MD5: {e}")
            # The signature takes the place of the time stamps, and room in the segments.
            self.b.run("sysctl -qw net.ipv4.tcp_timestamps=0")
            l7net.ip("route replace 10.9.2.0/24 dev legB src 10.9.2.1 advmss 1400")
            with self.a.inside():
                c = socket.socket()
            c.settimeout(120)
            md5_key(c, "10.9.1.1")
            c.connect(("10.9.1.1", 9000))
            end = self.ends(c, tcpflow.accept(self.servers[False]))
            self.wait_reason(p, "tcp-md5")
            self.stays_slow(p)
            self.over(end)

    @shows("tcp-rtt")
    def test_rtt(self):
        """tcp-rtt: BBR, and the client is far away; with another algorithm it goes in"""
        available = pathlib.Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
        if "bbr" not in available:
            self.skipTest(f"this kernel has no BBR but {available}")
        self.bad_link(delay=0.01)
        self.sysctl("net.ipv4.tcp_congestion_control", "bbr")
        with self.proxy() as p:
            self.refused(p, "tcp-rtt")
        self.sysctl("net.ipv4.tcp_congestion_control", "reno")
        for peer in (self.a, self.b):
            peer.run("sysctl -qw net.ipv4.tcp_congestion_control=reno")
        with self.proxy() as p:
            end = self.bulk()
            self.stays_fast(p)
            self.over(end)

    # ---- what the segments are ----

    @shows("tcp-options")
    def test_options(self):
        """tcp-options: urgent data, IP options, in the kernel; the session comes back, all bytes arrive"""
        def urgent(c):
            c.send(b"!", socket.MSG_OOB)

        def route_record(c):
            c.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x07\x07\x04\0\0\0\0\0")
            c.send(b"!")
        for what in (urgent, route_record):
            with self.subTest(what=what.__name__), self.proxy() as p:
                c, s = self.fast_pair(p)
                s.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
                what(c)
                self.assertEqual(self.exactly(s, 1), b"!")
                self.wait_reason(p, "tcp-options")
                what(c)  # and once more, by the sockets that were made again
                self.assertEqual(self.exactly(s, 1), b"!")
                slow = self.bytes_of(self.session(p), "ingress", "slow")
                self.ping(c, s)
                self.assertGreaterEqual(self.bytes_of(self.session(p), "ingress", "slow"), slow + 4000)
                c.close()
                s.close()

    @shows("not-seen")
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

    # ---- the moment ----

    @shows("tcp-busy")
    def test_busy(self):
        """tcp-busy: the server does not read, so the connections don't come to rest; all arrives when it does"""
        with self.proxy(tcp=LATER) as p:
            c, s = self.connect()
            end = tcpflow.Both(c, 1, 2, 64 << 20), tcpflow.Both(s, 2, 1, rate=1 << 16, read=False)

            def stuck():
                return "0" not in l7net.sh("ss", "-Htn", "dport = 9001").split()[2:3] and \
                    end[0].sender.sent == sent[0] or sent.insert(0, end[0].sender.sent)
            sent = [-1]
            self.wait(stuck, p)
            p.api.post("/admin", {"admin": {"offload_tcp": NOW}})
            self.wait_reason(p, "tcp-busy")
            end[1].receiver.go.set()
            self.join(end[0].sender, end[1].receiver)
            self.over(end)


if __name__ == "__main__":
    l7test.main()
