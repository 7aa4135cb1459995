#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=600
"""TCP sessions in the kernel as their peers see them on the wire: windows, time stamps, acknowledgements, resets."""
import copy
import pathlib
import socket
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7test  # noqa: E402
import tcpcheck  # noqa: E402
import tcpflow  # noqa: E402
import tcpwire  # noqa: E402

RATE = 8 << 20  # bytes per second and sender, so that the capture keeps up


class Wire(tcpwire.Base):
    def check(self, v6):
        before = self.bad_checksums()
        captures = [self.capture(self.a), self.capture(self.b)]
        with self.proxy(v6=v6, tcp={"after_bytes": 0}) as p:
            ends = []
            for i in range(2):
                c, s = self.connect(v6)
                ends.append((tcpflow.Both(c, 2 * i, 2 * i + 1, rate=RATE), tcpflow.Both(s, 2 * i + 1, 2 * i, rate=RATE)))
            self.wait_fast(p)
            for i in range(100 if l7test.FULL else 20):
                self.toggle(i)
                time.sleep(0.07)
            # Both are back in the kernel, also the one that took longer to leave it.
            self.wait(lambda: {s["offload"]["state"] for s in p.api.get("/sessions")[1] if s["name"].startswith("TCP:")} == {"fast"}, p)
            self.assertGreater(p.api.get("/offload")[1]["flows"]["withdrawn"], 5)
            for pair in ends:
                for e in pair:
                    e.sender.stop()
            self.finish(ends)
            self.nothing_left(p)
        segments = [self.checked(c) for c in captures]
        self.assertEqual(self.bad_checksums(), before)
        return segments[0]

    def test_wire(self):
        """in and out of the kernel every 70 ms under bulk both ways; the checker sees faults that are put in"""
        good = self.check(False)
        data, edge = [], {}  # of new data: what is sent again may have any time stamp since
        for i, s in enumerate(good):
            if s.out or not s.length:
                continue
            if s.ends not in edge or tcpcheck.after(s.seq, edge[s.ends]) >= 0:
                data.append(i)
                edge[s.ends] = (s.seq + s.length) % (1 << 32)
        for what, change in (("outside the window", lambda s: setattr(s, "seq", (s.seq + (1 << 30)) % (1 << 32))),
                             ("acknowledges what was not sent", lambda s: setattr(s, "ack", (s.ack + (1 << 30)) % (1 << 32))),
                             ("time stamp goes back", lambda s: setattr(s, "tsval", (s.tsval - 100000) % (1 << 32))),
                             ("reset", lambda s: setattr(s, "flags", s.flags | tcpcheck.RST))):
            at = data[len(data) // 2]
            wrong = list(good)
            wrong[at] = copy.copy(good[at])
            change(wrong[at])
            self.assertTrue(any(f.startswith(what) for f in tcpcheck.check(wrong)), what)
        # An acknowledgement by the proxy's own clock, 1 ms older than what it sent before.
        at = [i for i, s in enumerate(good) if not s.out and not s.length and s.flags == tcpcheck.ACK]
        wrong = list(good)
        at = at[len(at) // 2]
        before = max(s.tsval for s in good[:at] if not s.out and s.ends == good[at].ends)
        wrong[at] = copy.copy(good[at])
        wrong[at].tsval = before - 1
        self.assertTrue(any(f.startswith("time stamp goes back") for f in tcpcheck.check(wrong)))

    def test_closed_at_once(self):
        """connections that end as soon as they are in the kernel: no reset answers a late acknowledgement of the proxy's sockets"""
        captures = [self.capture(self.a), self.capture(self.b)]
        with self.proxy(tcp={"after_bytes": 0}) as p:
            for _ in range(40):
                c, s = self.connect()
                ends = tcpflow.Both(c, 0, 1, rate=RATE), tcpflow.Both(s, 1, 0, rate=RATE)
                self.wait_fast(p)
                for e in ends:
                    e.sender.stop()
                self.finish([ends])
                self.wait(lambda: self.session(p) is None, p)
            self.nothing_left(p)
        for c in captures:
            segments, lost = c.stop()
            self.assertEqual(lost, 0, "the capture is not whole")
            resets = [f for f in tcpcheck.check(segments) if f.startswith("reset")]
            self.assertEqual(len(resets), 0, resets and tcpcheck.around(segments, resets))

    def test_half_closed(self):
        """half closed before the switch, and at any moment of it: nothing is lost, or sent again, or stands still"""
        self.one_processor()
        self.patient(self.a)
        self.patient(self.b)
        captures = [self.capture(self.a), self.capture(self.b)]
        with self.proxy(tcp={"after_bytes": 0, "after_ms": 0}) as p:
            for i in range(60 if l7test.FULL else 24):
                pair = self.connect()
                self.ping(*pair)
                time.sleep(i // 2 * 0.0005)
                first, other = pair[::-1] if i % 2 else pair
                first.shutdown(socket.SHUT_WR)
                sender, receiver = tcpflow.Sender(other, i, rate=RATE), tcpflow.Receiver(first, i)
                self.never_busy(p)
                self.wait(lambda receiver=receiver, at=receiver.received: receiver.received > at + (256 << 10), p)
                sender.stop()
                self.join(sender, receiver)
                self.assertIsNone(receiver.wrong)
                self.assertEqual(sender.sent, receiver.received)
                for end in pair:
                    end.close()
                self.wait(lambda: self.session(p) is None, p)
            self.nothing_left(p)
        for c in captures:
            segments = self.checked(c, least=200)
            again = tcpcheck.retransmitted(segments)
            self.assertEqual(len(again), 0, again and tcpcheck.around(segments, [f"frame {s.number} is sent again" for s in again]))

    def test_wire_ipv6(self):
        """the same over IPv6"""
        self.check(True)


if __name__ == "__main__":
    l7test.main()
