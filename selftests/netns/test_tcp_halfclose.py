#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=900
"""TCP sessions in the kernel of which one direction ends first."""
import pathlib
import socket
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7test  # noqa: E402
import tcpflow  # noqa: E402
from tcpsplice import Base  # noqa: E402


class HalfClose(Base):
    def goes_on(self, c, s, more, rate=None):
        """The client has finished; the server sends on, then finishes."""
        self.assertEqual(s.recv(1), b"")
        return tcpflow.Sender(s, 5, more, rate=rate), tcpflow.Receiver(c, 5)

    def all_there(self, sender, receiver, more):
        """`more`: bytes; or the sender, which was stopped somewhere."""
        self.join(sender, receiver)
        self.assertIsNone(sender.error)
        self.assertEqual(receiver.received, sender.sent if more is sender else more)
        self.assertIsNone(receiver.wrong)
        receiver.sock.close()
        sender.sock.close()

    def half_closed(self, c, s, more):
        self.all_there(*self.goes_on(c, s, more), more)

    def test_half_close_before(self):
        """either end finishes before the session is spliced: the other direction moves into the kernel, back, and in again"""
        with self.proxy() as p:
            for first in (0, 1):
                p.api.post("/admin", {"admin": {"offload_tcp": {"enabled": False}}})
                pair = self.connect()
                self.ping(*pair)
                pair[first].shutdown(socket.SHUT_WR)
                sender, receiver = self.goes_on(pair[first], pair[1 - first], None)
                self.wait(lambda: self.reason(p) == "disabled", p)
                for _ in range(3):
                    p.api.post("/admin", {"admin": {"offload_tcp": {"enabled": True, "after_bytes": 0}}})
                    self.carries(p, receiver, first)
                    self.leave(p)
                    at = receiver.received
                    self.wait(lambda receiver=receiver, at=at: receiver.received > at + (4 << 20), p)
                p.api.post("/admin", {"admin": {"offload_tcp": {"enabled": True}}})
                self.carries(p, receiver, first)
                sender.stop()
                self.all_there(sender, receiver, sender)
                line = self.logged(p)
                for way in ("ingress", "egress"):
                    self.assertEqual(line[way]["slow"]["bytes"] + line[way]["fast"]["bytes"], line[way]["bytes"])
                self.assertEqual(line["ingress" if first else "egress"]["bytes"], sender.sent + 4000)
                self.assertEqual(line["egress" if first else "ingress"]["bytes"], 4000)
            self.nothing_left(p)

    def carries(self, p, receiver, first):
        """The session is in the kernel: its flow counts what arrives, and user space nothing."""
        way = "ingress" if first else "egress"
        self.wait_fast(p)
        before, at = self.session(p)["stats"][way], receiver.received
        self.wait(lambda: receiver.received > at + (4 << 20), p)
        now = self.session(p)["stats"][way]
        self.assertGreater(now["fast"]["bytes"], before["fast"]["bytes"])
        self.assertEqual(now["slow"]["bytes"], before["slow"]["bytes"])

    def test_half_close_during(self):
        """the client finishes at any moment of the switch: none of them is given up, and what follows takes the kernel"""
        with self.proxy(tcp={"after_bytes": 0, "after_ms": 0}) as p:
            going = []
            for i in range(60 if l7test.FULL else 25):
                c, s = self.connect()
                self.ping(c, s)
                time.sleep(i * 0.001)
                c.shutdown(socket.SHUT_WR)
                going.append(self.goes_on(c, s, None, rate=1 << 20))

            def states():
                return {x["offload"]["state"] for x in p.api.get("/sessions")[1] if x["name"].startswith("TCP:")}
            self.wait(lambda: states() == {"fast"}, p)
            for sender, _ in going:
                sender.stop()
            for pair in going:
                self.all_there(*pair, pair[0])
            self.nothing_left(p)

    def test_half_close_after(self):
        """the client finishes in the kernel, either end may continue"""
        with self.proxy() as p:
            c, s = self.fast_pair(p)
            c.shutdown(socket.SHUT_WR)
            self.half_closed(c, s, 8 << 20)
            self.assertGreater(self.logged(p)["egress"]["fast"]["bytes"], 8 << 20)
            c, s = self.fast_pair(p)
            s.shutdown(socket.SHUT_WR)
            self.half_closed(s, c, 8 << 20)
            self.nothing_left(p)

    def test_half_closed_and_back(self):
        """half closed in the kernel, then it comes back and continues in user space"""
        with self.proxy() as p:
            c, s = self.fast_pair(p)
            c.shutdown(socket.SHUT_WR)
            self.assertEqual(s.recv(1), b"")
            sender, receiver = tcpflow.Sender(s, 5), tcpflow.Receiver(c, 5)
            self.wait(lambda: receiver.received > 4 << 20, p)
            self.leave(p)
            at = receiver.received
            self.wait(lambda: receiver.received > at + (4 << 20), p)
            sender.stop()
            self.join(sender, receiver)
            self.assertIsNone(receiver.wrong)
            self.assertEqual(sender.sent, receiver.received)
            c.close()
            s.close()
            line = self.logged(p)
            self.assertEqual(line["egress"]["slow"]["bytes"] + line["egress"]["fast"]["bytes"],
                             line["egress"]["bytes"])
            self.nothing_left(p)

if __name__ == "__main__":
    l7test.main()
