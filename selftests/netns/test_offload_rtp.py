#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=200
"""Statistics of RTP in the kernel: loss and jitter as others calculate them from a capture, one stream in both paths."""
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7net  # noqa: E402
import l7test  # noqa: E402
import upgrade  # noqa: E402

SSRC = 0x12345678
RATE = 8000


def rtp(seq, timestamp, ssrc=SSRC, payload_type=0, payload=b"x" * 160):
    return struct.pack("!BBHII", 0x80, payload_type, seq & 0xffff, timestamp & 0xffffffff, ssrc) + payload


class Capture(l7net.Capture):
    """What a peer sends (XDP takes a packet before a capture on the gateway would see it); tshark reads it as RTP."""

    def __init__(self, test, peer, port):
        self.port = port
        self.dir = tempfile.TemporaryDirectory(prefix="l7mp-rtp-")
        super().__init__(test, peer, os.path.join(self.dir.name, "pcap"), "-Q", "out", "udp", "dst", "port", str(port))

    def tshark(self, *args):
        return subprocess.run(["tshark", "-n", "-r", self.path, "-d", f"udp.port=={self.port},rtp", *args], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True, check=True).stdout

    def lost(self):
        """Expected packets less those that came, as tshark counts: by stream, the first number of the column "Lost"."""
        lines = [line for line in self.tshark("-q", "-z", "rtp,streams").splitlines() if "0x" in line]
        fields = lines[0].split("0x")[1].split()
        # SSRC, payload (perhaps of several words), packets, lost, (percent)
        at = next(i for i, f in enumerate(fields) if f.startswith("("))
        return int(fields[at - 1]), int(fields[at - 2])

    def packets(self):
        rows = self.tshark("-T", "fields", "-e", "frame.time_epoch", "-e", "rtp.seq", "-e", "rtp.timestamp").split("\n")
        return [(float(t), int(s), int(ts)) for t, s, ts in (r.split("\t") for r in rows if r)]

    def jitter_ms(self):
        """RFC 3550, 6.4.1, from the capture's times."""
        jitter = last = 0.0
        for i, (t, _, timestamp) in enumerate(self.packets()):
            transit = t - timestamp / RATE
            if i:
                jitter += (abs(transit - last) - jitter) / 16
            last = transit
        return jitter * 1000


class Base(l7net.Gateway):
    mode = "auto"

    def setUp(self):
        super().setUp()
        self.client, self.server = self.a.udp(5000), self.b.udp(9001)
        self.begin()

    def config(self, offload="init", **options):
        return {
            "admin": {"offload": offload, "offload_ifs": "legA,legB", "offload_mode": self.mode, "instance": self.instance},
            "listeners": [l7test.controller(), {
                "name": "media", "spec": {"protocol": "UDP", "address": "10.9.1.1", "port": 9000,
                                          "options": {"rtp": True, "latch": True, **options}},
                "rules": [{"action": {"route": {"destination": {"spec": {"protocol": "UDP", "port": 9001},
                                                                "endpoints": [{"spec": {"address": "10.9.2.2"}}]}}}}]},
                {"name": "metrics", "spec": {"protocol": "HTTP", "address": "127.0.0.1", "port": 9100},
                 "rules": [{"action": {"route": {"destination": {"spec": {"protocol": "Prometheus"}}}}}]}]}

    def begin(self, **kw):
        self.proxy = l7test.Proxy(self.config(**kw))
        self.api = self.proxy.api
        if not kw:
            l7test.wait_for(lambda: self.api.get("/offload")[1]["state"] == "active", l7net.WAIT)

    def tearDown(self):
        if hasattr(self, "proxy"):
            self.proxy.stop()

    def session(self):
        return next((s for s in self.api.get("/sessions")[1] if "UDP" in s["metadata"]), None)

    def stats(self):
        return self.session()["stats"]["rtp"]

    def send(self, data):
        self.client.sendto(data, ("10.9.1.1", 9000))

    def fast(self, seq=0):
        """Sends until the kernel has the flow; returns the next sequence number."""
        def try_it():
            nonlocal seq
            self.send(rtp(seq, seq * 160))
            self.server.recv(2000)
            seq += 1
            time.sleep(0.01)
            s = self.session()
            return s and s["offload"]["state"] == "fast"
        self.assertTrue(l7test.wait_for(try_it, l7net.WAIT), json.dumps(self.session()))
        return seq

    def settled(self, direction, packets):
        """Until the proxy has seen so many; its statistics."""
        self.assertTrue(l7test.wait_for(lambda: self.stats()[direction]["packets"] == packets), (packets, self.stats()))
        return self.stats()[direction]


class Statistics(Base):
    def test_against_tshark(self):
        """loss, reordering and jitter of a bad stream, in the kernel: loss exactly as tshark's, jitter within 1 %"""
        if not shutil.which("tshark"):
            self.skipTest("tshark is missing")
        capture = Capture(self, self.a, 9000)
        random.seed(7)
        first = self.fast(300)  # tshark does not count right when packets are late around the wrap
        before = self.session()["stats"]["ingress"]["slow"]["packets"]
        order = [i for i in range(first, first + 1500) if random.random() > 0.03]
        for i in range(0, len(order) - 3, 40):
            order[i], order[i + 2] = order[i + 2], order[i]
        sent = 0
        start = time.monotonic()
        for n, i in enumerate(order):
            while time.monotonic() < start + n * 0.002:
                time.sleep(0.0002)
            if random.random() < 0.2:
                time.sleep(random.random() * 0.008)
            self.send(rtp(i, i * 16))
            sent += 1
        got = self.settled("ingress", first - 300 + sent)
        self.assertEqual(self.session()["stats"]["ingress"]["slow"]["packets"], before)
        l7test.wait_for(lambda: len(capture.packets()) == got["packets"])
        capture.stop()
        lost, packets = capture.lost()
        self.assertEqual((got["packets"], got["lost"]), (packets, lost))
        self.assertGreater(lost, 10)
        self.assertGreater(got["reordered"], 10)
        self.assertEqual((got["ssrc"], got["payload_type"], got["clock_rate"], got["sources"]), (SSRC, 0, RATE, 1))
        # The session began with time stamps of another step, in the slow path: they are in both calculations.
        self.assertAlmostEqual(got["jitter_ms"] / capture.jitter_ms(), 1, delta=0.01)

    def test_one_stream(self):
        """a stream that goes into the kernel, out of it and in again is one stream: nothing counts as lost"""
        seq = self.fast()
        for enabled in ("disable", "init", "disable", "init"):
            status, answer = self.api.post("/admin", {"admin": {"offload": enabled}})
            self.assertEqual(status, 200, answer)
            want = "fast" if enabled == "init" else "slow"

            def there():
                nonlocal seq
                self.send(rtp(seq, seq * 160))
                self.server.recv(2000)
                seq += 1
                time.sleep(0.005)
                return self.session()["offload"]["state"] == want
            self.assertTrue(l7test.wait_for(there, l7net.WAIT), (enabled, json.dumps(self.session())))
        got = self.settled("ingress", seq)
        self.assertEqual((got["lost"], got["reordered"], got["sources"]), (0, 0, 1), got)

    def test_both_directions_and_others(self):
        """each direction has its own; STUN, DTLS and RTCP on the same port pass and are no RTP; another SSRC is another source"""
        seq = self.fast()
        self.send(rtp(seq, seq * 160))
        _, peer = self.server.recvfrom(2000)
        for i in range(50):
            self.server.sendto(rtp(i * 2, i * 320, 7, 8), peer)
            self.assertEqual(self.client.recv(2000)[:2], b"\x80\x08")
        # STUN (0..3), ZRTP (16..19), DTLS (20..63), TURN channels (64..79), RTCP (128..191, types 192..223: RFC 5761), the gaps, QUIC.
        others = [bytes([first]) + b"\x01\x00\x00" + b"s" * 28 for first in (0, 3, 4, 16, 19, 20, 22, 63, 64, 79, 80, 127, 192, 255)]
        others += [b"\x80" + bytes([kind]) + b"\x00\x06" + b"r" * 24 for kind in (192, 200, 201, 205, 207, 223)] + [b"", b"short", b"\x80" * 11]
        for data in others:
            for there, here in ((self.send, self.server), (lambda d: self.server.sendto(d, peer), self.client)):
                there(data)
                self.assertEqual(here.recv(2000), data)
        for i in range(5):
            self.send(rtp(1000 + i, i, 99, 96))
            self.server.recv(2000)
        self.settled("ingress", seq + 1 + 5)
        got = self.stats()
        self.assertEqual((got["egress"]["packets"], got["egress"]["lost"], got["egress"]["ssrc"], got["egress"]["payload_type"]), (50, 49, 7, 8))
        self.assertEqual((got["ingress"]["others"], got["ingress"]["lost"], got["ingress"]["sources"]), (len(others), 0, 2))
        self.assertEqual(got["egress"]["others"], len(others))
        self.assertEqual((got["ingress"]["ssrc"], got["ingress"]["payload_type"], got["ingress"]["clock_rate"]), (99, 96, 8000))
        self.assertEqual(self.api.delete("/sessions/" + self.session()["name"])[0], 200)
        l7test.wait_for(lambda: self.session() is None)
        self.assertIn('l7mp_rtp_lost_packets_total{direction="egress"} 49', self.metrics())
        self.assertIn('l7mp_rtp_streams_total{direction="ingress"} 1', self.metrics())

    def metrics(self):
        with urllib.request.urlopen("http://127.0.0.1:9100/metrics") as r:
            return r.read().decode()

    def test_segments(self):
        """a batch of datagrams in one GSO packet counts as the datagrams that it is"""
        seq = self.fast()
        self.client.setsockopt(socket.IPPROTO_UDP, 103, 172)  # UDP_SEGMENT
        try:
            for _ in range(10):
                self.send(b"".join(rtp(seq + i, (seq + i) * 160) for i in range(20)))
                seq += 20
        except OSError as e:
            self.skipTest(f"the kernel has no UDP_SEGMENT: {e}")
        got = self.settled("ingress", seq)
        self.assertEqual((got["lost"], got["reordered"]), (0, 0), got)


class Handed(Base):
    """The statistics go from one process to the next."""

    def begin(self, **kw):
        self.chain = upgrade.Chain(self.config(**kw), 1234)
        self.addCleanup(self.chain.kill)
        self.proxy, self.api = self.chain.proxy, self.chain.api

    def tearDown(self):
        self.chain.stop()

    def again(self, **kw):
        """The next start or upgrade has another configuration."""
        pathlib.Path(self.proxy.path).write_text(json.dumps(self.config(**kw)))

    def restart(self, **kw):
        """kill -9; packets while there is no daemon; a new one."""
        os.kill(self.chain.pid, signal.SIGKILL)
        self.chain.ended(self.chain.pid)
        self.stream(20)
        self.begin(**kw)

    def stream(self, n, to=None):
        """So many numbers from self.seq on, of which every tenth is not sent."""
        for _ in range(n):
            if self.seq % 10:
                self.send(rtp(self.seq, self.seq * 160))
                self.sent += 1
                self.assertEqual(len(self.server.recv(2000)), 172)
            self.seq += 1

    def expect(self, state="fast", slow=None):
        """All that was sent is counted, each tenth is lost; the kernel has carried it."""
        got = self.settled("ingress", self.first + self.sent)
        last = (self.seq - 1) // 10 * 10 - (self.seq % 10 == 1) * 10
        lost = len([i for i in range(self.first, last + 1) if i % 10 == 0])
        self.assertEqual((got["lost"], got["reordered"], got["sources"], got["ssrc"]), (lost, 0, 1, SSRC), got)
        s = self.session()
        self.assertEqual(s["offload"]["state"], state)
        if slow:
            self.assertEqual(s["stats"]["ingress"]["slow"]["packets"], slow)

    def in_kernel(self):
        self.first = self.seq = self.fast()
        self.sent = 0
        self.stream(50)
        self.slow = self.session()["stats"]["ingress"]["slow"]["packets"]
        self.expect()

    def test_upgrade(self):
        """the flow stays in the kernel with its statistics, upgrade after upgrade, while packets come"""
        self.in_kernel()
        for _ in range(3):
            going = threading.Event()
            sender = threading.Thread(target=lambda going=going: [self.stream(10) for _ in iter(lambda: not going.is_set(), False)])
            sender.start()
            result = self.chain.upgrade()
            going.set()
            sender.join()
            self.assertNotIn("failed", result)
            self.assertEqual((result["sessions_taken"], self.api.get("/offload")[1]["adopted"]["sessions"]), (1, 1))
            self.stream(15)
            self.expect(slow=self.slow)
        self.assertEqual(self.stats()["egress"]["packets"], 0)

    def test_killed(self):
        """kill -9: what passes while there is no daemon is counted, and the next one continues with it"""
        self.in_kernel()
        for _ in range(2):
            self.restart()
            self.expect(slow=self.slow)
            self.stream(15)
            self.expect(slow=self.slow)
        status, answer = self.api.post("/admin", {"admin": {"offload": "disable"}})
        self.assertEqual(status, 200, answer)
        self.assertTrue(l7test.wait_for(lambda: self.session()["offload"]["state"] == "slow", l7net.WAIT))
        self.stream(15)
        self.expect("slow")

    def test_switched(self):
        """an upgrade without options.rtp leaves the flow without statistics; with it they restart"""
        self.in_kernel()
        self.again(rtp=False)
        self.assertNotIn("failed", self.chain.upgrade())
        self.stream(15)
        s = self.session()
        self.assertNotIn("rtp", s["stats"])
        self.assertEqual((s["offload"]["state"], s["stats"]["ingress"]["slow"]["packets"]), ("fast", self.slow))
        self.again()
        self.assertNotIn("failed", self.chain.upgrade())
        self.first, self.sent = 0, 0
        self.stream(9 - self.seq % 10)
        self.assertEqual(self.settled("ingress", self.sent)["lost"], 0)
        s = self.session()
        self.assertEqual((s["offload"]["state"], s["stats"]["ingress"]["slow"]["packets"]), ("fast", self.slow))

    def test_user_space(self):
        """a session that is not in the kernel takes its statistics along, too"""
        self.chain.stop()
        self.begin(offload="disable")
        self.first, self.seq, self.sent = 1, 1, 0
        self.send(rtp(0, 0))
        self.server.recv(2000)
        for _ in range(2):
            self.stream(35)
            self.assertNotIn("failed", self.chain.upgrade())
            self.stream(14)
            self.expect("slow")


@unittest.skipUnless(l7test.FULL, "make test-full: the same with XDP")
class HandedXdp(Handed):
    mode = "generic"


class Xdp(Statistics):
    mode = "generic"


if __name__ == "__main__":
    l7test.main()
