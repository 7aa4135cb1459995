# SPDX-License-Identifier: MIT
"""TCP sessions in the kernel as their peers see them on the wire: captures of both peers, checked by tcpcheck."""
import os
import shutil
import socket

import tcpcheck
import tcpsplice


class Base(tcpsplice.Base):
    def setUp(self):
        super().setUp()
        if not shutil.which("tcpdump"):
            self.skipTest("no tcpdump")

    def capture(self, peer):
        own = {socket.inet_pton(socket.AF_INET, peer.own4), socket.inet_pton(socket.AF_INET6, peer.own6)}
        c = tcpcheck.Capture(peer, own)
        self.addCleanup(c.close)
        return c

    def checked(self, capture, least=1000):
        segments, lost = capture.stop()
        self.assertEqual(lost, 0, "the capture is not whole")
        self.assertGreater(len(segments), least)
        faults = tcpcheck.check(segments)
        self.assertEqual(len(faults), 0, faults and tcpcheck.around(segments, faults))
        return segments

    def patient(self, peer):
        """The peer's TCP sends nothing again because an answer is late, which it may be on a busy machine."""
        peer.run("sysctl -qw net.ipv4.tcp_early_retrans=0")  # no tail loss probes
        peer.run(f"ip route change {peer.gateway4.rsplit('.', 1)[0]}.0/24 dev eth0 src {peer.own4} rto_min 60s")

    def one_processor(self):
        """
        For this test and what it starts from now on. Two segments change places at a veth when one is sent by the process and the
        next one by an acknowledgement on another processor; then the peer sends the first one again.
        """
        all_of_them = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(all_of_them)})
        self.addCleanup(os.sched_setaffinity, 0, all_of_them)

    def never_busy(self, p):
        """The session moves into the kernel. A switch that is given up shows as tcp-busy, for 10 s; no reader is slow here."""
        reasons = set()

        def fast():
            s = self.session(p)
            reasons.update(d["reason"] for d in s["offload"]["directions"])
            return "tcp-busy" in reasons or s["offload"]["state"] == "fast"
        self.wait(fast, p)
        self.assertNotIn("tcp-busy", reasons)
