#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: long timeout=300
"""AF_PACKET in the kernel: sessions between two interfaces become flows, each frame takes one way, once."""
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import l7net  # noqa: E402
import l7test  # noqa: E402
from test_offload_basic import Base  # noqa: E402

HOST_A, HOST_B = "10.9.9.1", "10.9.9.2"
TYPE = 0x88b5
PROMETHEUS = {"name": "metrics", "spec": {"protocol": "HTTP", "address": "127.0.0.1", "port": 1235},
              "rules": [{"action": {"route": {"destination": {"name": "prometheus", "spec": {"protocol": "Prometheus"}}}}}]}
PEER_A, PEER_B = bytes.fromhex("02000000aa01"), bytes.fromhex("02000000bb01")
BPFTOOL = shutil.which("bpftool") or shutil.which("bpftool", path="/usr/sbin:/sbin")


def packet_cluster(interface, name="far", ethertype=None, rewrite=None, endpoint=None):
    spec = {"protocol": "AF_PACKET"}
    if ethertype:
        spec["ethertype"] = ethertype
    if rewrite:
        spec["rewrite"] = rewrite
    return {"name": name, "spec": spec, "endpoints": [{"spec": {"address": interface}, **(endpoint or {})}]}


def listener(interface, destination, mode="server", name="frames", ethertype=None, route=None, **options):
    spec = {"protocol": "AF_PACKET", "interface": interface, "options": {"mode": mode}}
    if ethertype:
        spec["ethertype"] = ethertype
    return {"name": name, "spec": spec, "options": options,
            "rules": [{"action": {"route": {"destination": destination, **(route or {})}}}]}


def frame(src, dst, payload=b"", ethertype=TYPE, tags=()):
    out = dst + src
    for proto, tci in tags:
        out += struct.pack("!HH", proto, tci)
    return out + struct.pack("!H", ethertype) + payload


def overflowed():
    """Frames that the kernel dropped because a socket of the proxy, which has PROMETHEUS, had no room for them."""
    text = l7test.Api(1235).call("GET", "/api/metrics")[1]
    return int(re.search(r'l7mp_drops_total\{reason="receive-buffer"\} (\d+)', text).group(1))


def mac_bytes(text):
    return bytes.fromhex(text.replace(":", ""))


def ping(peer, own, to, n, size=56):
    """n echo requests, each answered."""
    with peer.inside():
        s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with s:
        s.bind((own, 0))
        s.settimeout(l7net.WAIT)
        for i in range(n):
            data = struct.pack("!BBHHH", 8, 0, 0, 77, i) + bytes(size)
            total = sum(struct.unpack(f"!{len(data) // 2}H", data))
            total = (total & 0xffff) + (total >> 16)
            s.sendto(data[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xffff) + data[4:], (to, 0))
            while s.recv(2000)[20:28:7] != b"\0" + data[7:8]:
                pass


class Packet(Base):
    """Two hosts on one network, whose only link is the proxy; the gateway has no address on its legs."""

    def setUp(self):
        if os.environ.get("L7MP_VM"):
            self.skipTest("too much for an emulated processor; bpf/test_frames runs there")
        super().setUp()
        for peer, own, other in ((self.a, HOST_A, HOST_B), (self.b, HOST_B, HOST_A)):
            l7net.ip(f"addr flush dev {peer.leg}")
            peer.run("ip addr flush dev eth0")
            for path, run in (((peer.leg, l7net.ip), ("eth0", peer.run))):
                self.no_ipv6(path, run)
            peer.run(f"ip addr add {own}/24 dev eth0")
        self.mac_a, self.mac_b = self.a.mac(), self.b.mac()
        self.a.run(f"ip neigh replace {HOST_B} lladdr {self.mac_b} dev eth0")
        self.b.run(f"ip neigh replace {HOST_A} lladdr {self.mac_a} dev eth0")

    def no_ipv6(self, dev, run):
        """Else its neighbour discovery makes sessions of its own."""
        path = f"/proc/sys/net/ipv6/conf/{dev}/disable_ipv6"
        if run == l7net.ip:
            pathlib.Path(path).write_text("1")
        else:
            run.__self__.run(f"sysctl -qw net.ipv6.conf.{dev}.disable_ipv6=1")

    def start(self, *listeners, admin=None, ifs="legA,legB", build=None):
        conf = {"admin": {"offload": "init", "offload_ifs": ifs, "instance": self.instance, "log_level": "info",
                          **(admin or {})},
                "listeners": [*listeners, l7test.controller()]}
        p = l7test.Proxy(conf, build=build)
        self.assertEqual(p.api.get("/offload")[0], 200)
        return p

    def raw(self, peer, promiscuous=True):
        with peer.inside():
            s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            s.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)
            s.setsockopt(263, 23, 1)  # PACKET_IGNORE_OUTGOING
            s.setsockopt(263, 8, 1)   # PACKET_AUXDATA
            s.bind(("eth0", 3))
            if promiscuous:
                index = socket.if_nametoindex("eth0")
                s.setsockopt(263, 1, struct.pack("iHH8s", index, 1, 0, b""))
        s.settimeout(l7net.WAIT)
        self.addCleanup(s.close)
        return s

    @staticmethod
    def receive(s):
        """A frame with its tag where it was on the wire."""
        data, anc, _, _ = s.recvmsg(65536, 256)
        for level, kind, what in anc:
            if (level, kind) == (263, 8):
                status, _, _, _, _, tci, tpid = struct.unpack("IIIHHHH", what[:20])
                if status & (1 << 4):  # TP_STATUS_VLAN_VALID
                    data = data[:12] + struct.pack("!HH", tpid if status & (1 << 6) else 0x8100, tci) + data[12:]
        return data

    def expect(self, s, want, silent=False):
        """`want` and nothing else of its kind comes; other frames (of the hosts) are passed over."""
        end = time.monotonic() + (0.3 if silent else l7net.WAIT)
        while time.monotonic() < end:
            s.settimeout(max(0.01, end - time.monotonic()))
            try:
                got = self.receive(s)
            except TimeoutError:
                break
            if got == want:
                if silent:
                    self.fail(f"came again: {got.hex()}")
                return
        if not silent:
            self.fail(f"did not come: {want.hex()}")

    def once(self, s, want):
        self.expect(s, want)
        self.expect(s, want, silent=True)

    def fast(self, p, name="PACKET:"):
        return self.wait_fast(p, name)

    def reason(self, p, want, name="PACKET:"):
        def look():
            s = self.session(p, name)
            return s and s["offload"]["directions"][0]["reason"] == want
        self.assertTrue(l7test.wait_for(look, l7net.WAIT), (want, self.session(p, name), p.stderr()))
        docs = p.api.get("/offload")[1]["reasons"]
        self.assertIn(want, docs if isinstance(docs, dict) else [d["reason"] for d in docs])

    def deltas(self, p, name, work):
        """What the counters of a session rose by while `work` was done: slow and fast, packets and bytes by direction."""
        def look():
            s = self.session(p, name)["stats"]
            return {(d, k): (s[d][k]["packets"], s[d][k]["bytes"]) for d in ("ingress", "egress") for k in ("slow", "fast")}
        before = look()
        work()
        after = look()
        return {k: tuple(b - a for a, b in zip(before[k], after[k])) for k in after}


class Conversations(Packet):
    def udp_pair(self):
        return self.a.udp(5000, HOST_A), self.b.udp(9001, HOST_B)

    def test_udp_sessions(self):
        """server: each 5-tuple is a pair of flows; user space gets nothing more, nobody a frame twice; answers find their session"""
        n = 200
        server = self.b.udp(9001, HOST_B)
        clients = [self.a.udp(5000 + i, HOST_A) for i in range(4)]
        with self.start(listener("legA", packet_cluster("legB"))) as p:
            def echo(c, payload):
                c.sendto(payload, (HOST_B, 9001))
                data, peer = server.recvfrom(2000)
                self.assertEqual((data, peer), (payload, c.getsockname()))
                server.sendto(payload * 2, peer)
                self.assertEqual(c.recv(4000), payload * 2)
            for c in clients:
                echo(c, b"first")
            names = [f"PACKET:legA-UDP:{HOST_A}:{5000 + i}-{HOST_B}:9001-" for i in range(4)]
            for name in names:
                self.fast(p, name)
            flows = p.api.get("/offload/flows")[1]
            self.assertEqual(len(flows), 8)
            self.assertEqual({(f["protocol"], f["action"], f["hook"]) for f in flows}, {("AF_PACKET", "frame", "tc")})
            self.assertIn(f"UDP {HOST_A}:5000 -> {HOST_B}:9001", [f["match"] for f in flows if f["in"] == "legA"])
            self.assertIn(f"UDP {HOST_B}:9001 -> {HOST_A}:5000", [f["match"] for f in flows if f["in"] == "legB"])

            def work():
                for i in range(n):
                    for c in clients:
                        echo(c, b"%04d" % i)
            got = self.deltas(p, names[0], work)
            self.assertEqual(got, {("ingress", "slow"): (0, 0), ("egress", "slow"): (0, 0),
                                   ("ingress", "fast"): (n, n * (42 + 4)), ("egress", "fast"): (n, n * (42 + 8))})
            for s in (server, *clients):
                s.settimeout(0.2)
                self.assertRaises(TimeoutError, s.recv, 100)
            text = l7net.sh(l7test.program("l7mpctl"), "explain", self.session(p, names[0])["name"])
            self.assertIn("fast", text)
            self.assertIn("AF_PACKET", l7net.sh(l7test.program("l7mpctl"), "flows"))
            for s in (server, *clients):
                s.close()
        self.nothing_left()

    def test_kernel_drops(self):
        """frames that the kernel drops for want of room in the socket are counted as receive-buffer"""
        n = 20000
        client, server = self.a.udp(5000, HOST_A), self.b.udp(9001, HOST_B, rcvbuf=64 << 20)
        far = packet_cluster("legB")
        with self.start(listener("legA", far), PROMETHEUS, admin={"offload": "disable"}) as p:
            client.sendto(b"first", (HOST_B, 9001))
            self.assertEqual(server.recv(10), b"first")
            drops = l7net.softnet_drops()
            p.process.send_signal(signal.SIGSTOP)
            for _ in range(n):
                client.sendto(bytes(1000), (HOST_B, 9001))
            p.process.send_signal(signal.SIGCONT)
            got, data = 0, b""
            client.sendto(b"last", (HOST_B, 9001))  # dropped, too, if the proxy has not read yet
            sent = n + 1
            while data != b"last":
                server.settimeout(0.2)
                try:
                    data = server.recv(2000)
                    got += 1
                except TimeoutError:
                    client.sendto(b"last", (HOST_B, 9001))
                    sent += 1
            self.assertTrue(l7test.wait_for(overflowed, l7net.WAIT))
            self.assertGreater(overflowed(), 0)
            self.assertEqual(overflowed(), sent - got - (l7net.softnet_drops() - drops))
        for s in (client, server):
            s.close()

    def test_other_conversations(self):
        """server: TCP, ICMP, fragments and frames without IP are conversations, too"""
        with self.start(listener("legA", packet_cluster("legB"))) as p:
            ping(self.a, HOST_A, HOST_B, 3)
            name = f"PACKET:legA-IP1:{HOST_A}-{HOST_B}"
            self.fast(p, name)
            got = self.deltas(p, name, lambda: ping(self.a, HOST_A, HOST_B, 5))
            self.assertEqual([got[k][0] for k in (("ingress", "fast"), ("egress", "fast"), ("ingress", "slow"))], [5, 5, 0])
            a, b = self.raw(self.a), self.raw(self.b)
            there, back = frame(PEER_A, PEER_B, b"there"), frame(PEER_B, PEER_A, b"and back")
            a.send(there)
            self.once(b, there)
            b.send(back)
            self.once(a, back)
            self.fast(p, "PACKET:legA-02:00:00:00:aa:01-")
            for f, src, dst in ((there, a, b), (back, b, a)):
                src.send(f)
                self.once(dst, f)
            match = [f["match"] for f in p.api.get("/offload/flows")[1]]
            self.assertIn("02:00:00:00:bb:01 -> 02:00:00:00:aa:01 0x88b5", match)

    def test_tcp_in_segments(self):
        """server: a TCP connection through the flow, many segments at a time, bytes as on the wire"""
        size = 200 << 20 if l7test.FULL else 20 << 20
        with self.b.inside():
            server = socket.create_server((HOST_B, 9001))
        got = []

        def serve():
            conn, _ = server.accept()
            with conn:
                while data := conn.recv(1 << 20):
                    got.append(len(data))
        thread = threading.Thread(target=serve)
        thread.start()
        with self.start(listener("legA", packet_cluster("legB"))) as p:
            with self.a.inside():
                c = socket.create_connection((HOST_B, 9001), timeout=l7net.WAIT)
            c.sendall(b"x" * 1000)
            name = f"PACKET:legA-TCP:{HOST_A}:{c.getsockname()[1]}-"
            self.fast(p, name)

            def send():
                block = b"y" * (1 << 20)
                for _ in range(size >> 20):
                    c.sendall(block)
                self.assertTrue(l7test.wait_for(lambda: sum(got) == size + 1000, l7net.WAIT), sum(got))
            d = self.deltas(p, name, send)
            self.assertEqual(d["ingress", "slow"], (0, 0))
            # 1,448 bytes a segment, and 66 of headers: counted as they are on a wire.
            packets, count = d["ingress", "fast"]
            again = struct.unpack_from("I", c.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 100)[0]  # retransmitted
            self.assertGreaterEqual(count - 66 * packets, size)
            self.assertLessEqual(count - 66 * packets, size + 1448 * again)
            self.assertGreaterEqual(packets, size // 1448)
            c.close()
            thread.join()
            server.close()

    def test_vlans(self):
        """tags are part of the conversation and pass: none, one, two; the same addresses in two VLANs are two sessions"""
        tagged = {(): None, ((0x8100, 0x2064),): "100", ((0x8100, 101),): "101", ((0x88a8, 100), (0x8100, 7)): "100.7"}
        a, b = self.raw(self.a), self.raw(self.b)
        with self.start(listener("legA", packet_cluster("legB"))) as p:
            for tags in tagged:
                f = frame(PEER_A, PEER_B, b"tagged %d" % len(tags), tags=tags)
                a.send(f)
                self.once(b, f)
            self.assertTrue(l7test.wait_for(lambda: len(p.api.get("/offload/flows")[1]) == 8, l7net.WAIT),
                            p.api.get("/offload/flows")[1])
            self.assertTrue(l7test.wait_for(lambda: p.api.get("/offload")[1]["flows"]["beginning"] == 0, l7net.WAIT))
            for tags, name in tagged.items():
                there = frame(PEER_A, PEER_B, b"there %d" % len(tags), tags=tags)
                back = frame(PEER_B, PEER_A, b"back", tags=tags)
                before = {f["match"]: f["packets"] for f in p.api.get("/offload/flows")[1]}
                for f, src, dst in ((there, a, b), (back, b, a)):
                    src.send(f)
                    self.once(dst, f)
                rose = {f["match"] for f in p.api.get("/offload/flows")[1] if f["packets"] > before[f["match"]]}
                tail = f" 0x88b5 VLAN {name}" if name else " 0x88b5"
                self.assertEqual(rose, {f"02:00:00:00:aa:01 -> 02:00:00:00:bb:01{tail}",
                                        f"02:00:00:00:bb:01 -> 02:00:00:00:aa:01{tail}"})

    def test_rewrite(self):
        """link addresses of the cluster are written by the program; frames to the proxy's own address reach the host, too"""
        gateway = json.loads(l7net.ip("-j link show dev legA"))[0]["address"]
        rewrite = {"src_mac": "02:00:00:00:00:99", "dst_mac": self.mac_b}
        a, b = self.raw(self.a), self.raw(self.b)
        own = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(TYPE))  # behind tc: what the stack gets
        own.bind(("legA", TYPE))
        with own, self.start(listener("legA", packet_cluster("legB", rewrite=rewrite))) as p:
            def there(text):
                own.settimeout(l7net.WAIT)
                a.send(frame(PEER_A, mac_bytes(gateway), text))
                self.once(b, frame(mac_bytes(rewrite["src_mac"]), mac_bytes(self.mac_b), text))
                self.assertEqual(own.recv(100), text)
                own.settimeout(0.2)
                self.assertRaises(TimeoutError, own.recv, 100)
            there(b"slow")
            self.fast(p)
            there(b"copied")
            back = frame(mac_bytes(self.mac_b), mac_bytes(rewrite["src_mac"]), b"back")
            b.send(back)
            self.once(a, back)
            s = self.session(p, "PACKET:")
            self.assertEqual([s["stats"][d]["fast"]["packets"] for d in ("ingress", "egress")], [1, 1])
            self.assertEqual(self.verdicts(p)["frame-copied"], 1)
            flow = p.api.get("/offload/flows")[1][0]
            self.assertEqual(flow["rewrite"], f"from 02:00:00:00:00:99 to {self.mac_b}")

    def test_mtu(self):
        """what is larger than the egress takes goes up, where it is dropped and counted; a changed MTU is followed"""
        l7net.ip("link set legB mtu 1200")
        self.b.run("ip link set eth0 mtu 1200")
        a, b = self.raw(self.a), self.raw(self.b)
        with self.start(listener("legA", packet_cluster("legB"))) as p:
            small, large = frame(PEER_A, PEER_B, b"s" * 1200), frame(PEER_A, PEER_B, b"l" * 1201)
            a.send(small)
            self.once(b, small)
            self.fast(p)
            a.send(small)
            self.once(b, small)
            a.send(large)
            self.expect(b, large, silent=True)
            self.assertEqual(self.verdicts(p)["mtu"], 1)
            stats = self.session(p, "PACKET:")["stats"]
            self.assertEqual(stats["drops"], 1)
            self.assertEqual(stats["ingress"]["fast"]["packets"], 1)
            # The egress takes more from now on: the flow follows.
            l7net.ip("link set legB mtu 1500")
            self.b.run("ip link set eth0 mtu 1500")
            self.assertTrue(l7test.wait_for(
                lambda: [f["egress"]["mtu"] for f in p.api.get("/offload/flows")[1]] == [1500, 1500], l7net.WAIT))
            a.send(large)
            self.once(b, large)
            self.assertEqual(self.verdicts(p)["mtu"], 1)

    def test_idle_time_out(self):
        """frames in the kernel keep a session alive; without any it ends by its idle time-out, counted once in the access log"""
        log = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "access.log"
        a, b = self.raw(self.a), self.raw(self.b)
        with self.start(listener("legA", packet_cluster("legB"), idle_timeout=3), admin={"access_log_path": str(log)}) as p:
            f = frame(PEER_A, PEER_B, b"x" * 50)
            a.send(f)
            self.once(b, f)
            name = self.fast(p)["name"]
            for _ in range(14):
                a.send(f)
                self.expect(b, f)
                time.sleep(0.5)
            self.assertEqual(self.session(p, "PACKET:")["name"], name)
            self.assertTrue(l7test.wait_for(lambda: not self.session(p, "PACKET:"), l7net.WAIT))
            self.assertEqual(p.api.get("/offload/flows")[1], [])
            self.assertTrue(l7test.wait_for(lambda: log.exists() and name in log.read_text(), l7net.WAIT))
            entry = [json.loads(line) for line in log.read_text().splitlines() if name in line][0]
            flat = json.dumps(entry)
            self.assertIn("idle", flat)
            up = entry.get("ingress") or entry["stats"]["ingress"]
            self.assertEqual((up["slow"]["packets"], up["fast"]["packets"]), (1, 14))
            self.assertEqual(up["slow"]["bytes"] + up["fast"]["bytes"], 15 * len(f))


class Singletons(Packet):
    def test_all_frames(self):
        """singleton: one entry for all frames; ARP, IP and others pass in both directions, once"""
        for peer, other in ((self.a, HOST_B), (self.b, HOST_A)):
            peer.run(f"ip neigh del {other} dev eth0")
        a, b = self.raw(self.a), self.raw(self.b)
        with self.start(listener("legA", packet_cluster("legB"), mode="singleton")) as p:
            ping(self.a, HOST_A, HOST_B, 2)
            s = self.fast(p)
            self.assertTrue(s["name"].startswith("PACKET:legA-"))
            self.assertEqual({f["match"] for f in p.api.get("/offload/flows")[1]}, {"all frames"})
            self.a.run("ip neigh flush dev eth0")
            got = self.deltas(p, "PACKET:", lambda: ping(self.a, HOST_A, HOST_B, 5))
            self.assertEqual((got["ingress", "slow"], got["egress", "slow"]), ((0, 0), (0, 0)))
            self.assertGreaterEqual(min(got["ingress", "fast"][0], got["egress", "fast"][0]), 6)  # ARP among them
            self.assertGreaterEqual(self.verdicts(p)["frame-copied"], 1)  # ... and the request is a broadcast
            for src, dst, f in ((a, b, frame(PEER_A, PEER_B, b"unicast")), (b, a, frame(PEER_B, b"\xff" * 6, b"to all")),
                                (a, b, frame(PEER_A, b"\x01\x00\x5e\0\0\x05", b"to many", tags=((0x8100, 5),)))):
                src.send(f)
                self.once(dst, f)
            with self.b.inside():
                server = subprocess.Popen(["iperf3", "-s", "-1", "-B", HOST_B], stdout=subprocess.DEVNULL)
            self.addCleanup(server.kill)
            l7test.wait_for(lambda: ":5201" in self.b.run("ss -Htln"), l7net.WAIT)
            slow = self.session(p, "PACKET:")["stats"]["ingress"]["slow"]["packets"]
            self.a.run(f"iperf3 -c {HOST_B} -n 30M")
            server.wait()
            after = self.session(p, "PACKET:")["stats"]["ingress"]
            self.assertEqual(after["slow"]["packets"], slow)
            # Not all 30 MiB: at its end iperf3 does not wait for what is still in its socket.
            self.assertGreater(after["fast"]["bytes"], 20 << 20)
        self.nothing_left()

    def test_by_type(self):
        """singletons of two types on one interface: each its own entry; other frames are not taken at all"""
        a, b = self.raw(self.a), self.raw(self.b)
        names = {"arp": 0x0806, "0x88b5": TYPE}
        with self.start(*(listener("legA", packet_cluster("legB", name=f"c{i}", ethertype=t), mode="singleton", name=f"l{i}",
                                   ethertype=t) for i, t in enumerate(names))) as p:
            for t in names.values():
                f = frame(PEER_A, PEER_B, b"first" * 9, ethertype=t)
                a.send(f)
                self.once(b, f)
            self.assertTrue(l7test.wait_for(lambda: len(p.api.get("/offload/flows")[1]) == 4, l7net.WAIT))
            self.assertTrue(l7test.wait_for(lambda: p.api.get("/offload")[1]["flows"]["beginning"] == 0, l7net.WAIT))
            forwarded = self.verdicts(p)["forwarded"]
            for t in names.values():
                for tags in ((), ((0x8100, 5),), ((0x88a8, 5), (0x8100, 6))):
                    there = frame(PEER_A, PEER_B, b"more" * 11, ethertype=t, tags=tags)
                    back = frame(PEER_B, PEER_A, b"back" * 11, ethertype=t, tags=tags)
                    for f, src, dst in ((there, a, b), (back, b, a)):
                        src.send(f)
                        self.once(dst, f)
            self.assertEqual(self.verdicts(p)["forwarded"] - forwarded, 12)
            other = frame(PEER_A, PEER_B, b"nobody's", ethertype=0x88b6)
            a.send(other)
            self.expect(b, other, silent=True)
            self.assertEqual({f["match"] for f in p.api.get("/offload/flows")[1]},
                             {"all frames of 0x0806", "all frames of 0x88b5"})

    def test_the_host_gets_its_frames(self):
        """what the host's own stack gets beside a packet socket, it gets beside a flow: its address, a bridge above"""
        l7net.ip("addr add 10.9.9.77/24 dev legA")
        a, b = self.raw(self.a), self.raw(self.b)
        with self.start(listener("legA", packet_cluster("legB"), mode="singleton")) as p:
            f = frame(PEER_A, PEER_B, b"x")
            a.send(f)
            self.once(b, f)
            self.fast(p)
            ping(self.a, HOST_A, "10.9.9.77", 3)
            self.assertEqual({f["egress"]["copy"] for f in p.api.get("/offload/flows")[1]}, {False})
            l7net.ip("link add l7br type bridge")
            self.addCleanup(l7net.ip, "link del l7br", check=False)
            l7net.ip("link set l7br up")
            l7net.ip("link add l7mv link legA type macvlan mode bridge")
            self.addCleanup(l7net.ip, "link del l7mv", check=False)

            def copies():
                flows = p.api.get("/offload/flows")[1]
                return [f["egress"]["copy"] for f in flows if f["in"] == "legA"] == [True]
            self.assertTrue(l7test.wait_for(copies, l7net.WAIT), p.api.get("/offload/flows")[1])
            l7net.ip("link del l7mv")
            self.assertTrue(l7test.wait_for(lambda: not copies(), l7net.WAIT))
            l7net.ip("link set legA master l7br")
            self.assertTrue(l7test.wait_for(copies, l7net.WAIT), p.api.get("/offload/flows")[1])
            copied = self.verdicts(p)["frame-copied"]
            bridge = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(TYPE))
            bridge.bind(("l7br", TYPE))
            bridge.settimeout(l7net.WAIT)
            with bridge:
                g = frame(PEER_A, b"\xff" * 6, b"for the bridge")
                a.send(g)
                self.once(b, g)
                self.assertEqual(bridge.recv(100), g)
            self.assertGreater(self.verdicts(p)["frame-copied"], copied)


class Xdp(Packet):
    def run_mode(self, mode):
        for peer in (self.a, self.b):
            l7net.sh("ethtool", "-K", peer.leg, "rxvlan", "off")
            peer.run("ethtool -K eth0 tx off txvlan off gro on")
        a, b = self.raw(self.a), self.raw(self.b)
        with self.start(listener("legA", packet_cluster("legB", rewrite={"src_mac": "02:00:00:00:00:99"})),
                        admin={"offload_mode": mode}) as p:
            def there(text, tags=()):
                a.send(frame(PEER_A, PEER_B, text, tags=tags))
                self.once(b, frame(bytes.fromhex("020000000099"), PEER_B, text, tags=tags))
            there(b"first")
            s = self.fast(p)
            self.assertEqual([d["hook"] for d in s["offload"]["directions"]], [mode, mode])
            tc_only = {f["egress"]["tc_only"] for f in p.api.get("/offload/flows")[1]}
            got = self.deltas(p, "PACKET:", lambda: [there(b"%d" % i) for i in range(20)])
            self.assertEqual((got["ingress", "fast"][0], got["ingress", "slow"][0]), (20, 0))
            back = frame(PEER_B, bytes.fromhex("020000000099"), b"back")
            b.send(back)
            self.once(a, back)
            # For the host, too: left to tc, which sends a copy.
            gateway = mac_bytes(json.loads(l7net.ip("-j link show dev legA"))[0]["address"])
            a.send(frame(PEER_A, gateway, b"host"))
            self.once(b, frame(bytes.fromhex("020000000099"), gateway, b"host"))
            self.assertTrue(l7test.wait_for(lambda: len(p.api.get("/offload/flows")[1]) == 4, l7net.WAIT))
            self.assertTrue(l7test.wait_for(lambda: p.api.get("/offload")[1]["flows"]["beginning"] == 0, l7net.WAIT))
            copied = self.verdicts(p)["frame-copied"]
            a.send(frame(PEER_A, gateway, b"host again"))
            self.once(b, frame(bytes.fromhex("020000000099"), gateway, b"host again"))
            self.assertEqual(self.verdicts(p)["frame-copied"], copied + 1)
        self.nothing_left()
        return tc_only

    def test_native(self):
        """native XDP takes the frames before any socket sees them"""
        self.assertEqual(self.run_mode("native"), {False})

    def test_generic(self):
        """generic XDP, too"""
        self.assertEqual(self.run_mode("generic"), {False})

    def test_tags_taken_off(self):
        """where the device takes tags off, XDP leaves frames to tc, and no tag is lost"""
        a, b = self.raw(self.a), self.raw(self.b)
        with self.start(listener("legA", packet_cluster("legB")), admin={"offload_mode": "native"}) as p:
            f = frame(PEER_A, PEER_B, b"first", tags=((0x8100, 9),))
            a.send(f)
            self.once(b, f)
            self.fast(p)
            self.assertEqual({f["egress"]["tc_only"] for f in p.api.get("/offload/flows")[1]}, {True})
            got = self.deltas(p, "PACKET:", lambda: a.send(f) and self.once(b, f))
            self.assertEqual((got["ingress", "fast"], got["ingress", "slow"]), ((1, len(f)), (0, 0)))


if __name__ == "__main__":
    l7test.main()
