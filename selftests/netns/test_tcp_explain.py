#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=300
"""What the API and `l7mpctl explain` tell of the translation of a TCP session in the kernel."""
import json
import pathlib
import socket
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7net  # noqa: E402
import l7test  # noqa: E402
from tcpproof import Info, Proof  # noqa: E402


def numbers(sock):
    """(next number to send, next number to receive) of an idle connection."""
    sock.setsockopt(socket.IPPROTO_TCP, 19, 1)  # TCP_REPAIR
    found = []
    for queue in (2, 1):  # TCP_SEND_QUEUE, TCP_RECV_QUEUE
        sock.setsockopt(socket.IPPROTO_TCP, 20, queue)  # TCP_REPAIR_QUEUE
        found.append(struct.unpack("I", sock.getsockopt(socket.IPPROTO_TCP, 21, 4))[0])  # TCP_QUEUE_SEQ
    sock.setsockopt(socket.IPPROTO_TCP, 19, -1)
    return tuple(found)


class Explain(Proof):
    def explain(self, p):
        return l7net.sh(l7test.program("l7mpctl"), "explain", self.session(p)["name"])

    def pair(self):
        """The only pair in the kernel, as bpftool reads it."""
        dump = json.loads(l7net.sh("bpftool", "-j", "map", "dump", "pinned", str(self.pins / "tcp_pairs")))
        pairs = [e["formatted"]["value"] for e in dump if e["formatted"]["value"]["phase"]]
        self.assertEqual(len(pairs), 1)
        return pairs[0]

    def check(self, p, c, s):
        self.ping(c, s)
        shown = [d["tcp"] for d in self.session(p)["offload"]["directions"]]
        (c_out, c_in), (s_out, s_in) = numbers(c), numbers(s)
        # What one peer sends next is what the other one expects next, and the same of acknowledgements.
        for d, here, there in ((shown[0], (c_out, c_in), (s_in, s_out)), (shown[1], (s_out, s_in), (c_in, c_out))):
            self.assertEqual((here[0] + d["sequence_delta"]) % (1 << 32), there[0])
            self.assertEqual((here[1] + d["acknowledgement_delta"]) % (1 << 32), there[1])
        for d, near, far in ((shown[0], Info(c), Info(s)), (shown[1], Info(s), Info(c))):
            self.assertEqual((d["window_scale_in"], d["window_scale_out"]), (near.rcv_wscale, far.snd_wscale))
            self.assertTrue(d["timestamps"] and d["sack"])
        text = self.explain(p)
        for d, kernel in zip(shown, self.pair()["dir"]):
            self.assertEqual(d["timestamp_delta"], kernel["ts"] & 0xffffffff)
            self.assertTrue(kernel["ts"] >> 32)
            self.assertIn(f"adds, modulo 2^32: {d['sequence_delta']} to sequence numbers, {d['acknowledgement_delta']} to "
                          f"acknowledgements, {d['timestamp_delta']} to time stamps\n", text)
            self.assertIn(f"window scale {d['window_scale_in']} is received, {d['window_scale_out']} is sent; SACK blocks are "
                          "translated", text)

    def test_fast(self):
        """the deltas are those between the peers' own numbers, also of a half-closed session; none are shown in user space"""
        with self.proxy() as p:
            c, s = self.fast_pair(p)
            self.check(p, c, s)
            c.shutdown(socket.SHUT_WR)
            self.assertEqual(s.recv(1), b"")
            s.sendall(b"y" * 1000)
            self.assertEqual(len(self.exactly(c, 1000)), 1000)
            (c_out, _), (_, s_in) = numbers(c), numbers(s)
            d = self.session(p)["offload"]["directions"][0]["tcp"]
            self.assertEqual((c_out + d["sequence_delta"]) % (1 << 32), s_in)
            self.leave(p)
            self.assertNotIn("tcp", self.session(p)["offload"]["directions"][0])
            self.assertNotIn("modulo", self.explain(p))
            c.close()
            s.close()

    def test_without_time_stamps(self):
        """a session whose connections have neither time stamps nor SACK: said in words"""
        for peer in (self.a, self.b):
            peer.run("sysctl -qw net.ipv4.tcp_timestamps=0 net.ipv4.tcp_sack=0")
        with self.proxy() as p:
            ends = self.fast_pair(p)
            for d in self.session(p)["offload"]["directions"]:
                self.assertFalse(d["tcp"]["timestamps"] or d["tcp"]["sack"])
                self.assertNotIn("timestamp_delta", d["tcp"])
            text = self.explain(p)
            self.assertEqual(text.count(" to acknowledgements, no time stamps\n"), 2)
            self.assertEqual(text.count("SACK blocks are blanked"), 2)
            for end in ends:
                end.close()


if __name__ == "__main__":
    l7test.main()
