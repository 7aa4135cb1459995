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
    def goes_on(self, c, s, more):
        """The client has finished; the server sends on, then finishes."""
        self.assertEqual(s.recv(1), b"")
        return tcpflow.Sender(s, 5, more), tcpflow.Receiver(c, 5)

    def all_there(self, sender, receiver, more):
        self.join(sender, receiver)
        self.assertEqual(receiver.received, more)
        self.assertIsNone(receiver.wrong)
        receiver.sock.close()
        sender.sock.close()

    def half_closed(self, c, s, more):
        self.all_there(*self.goes_on(c, s, more), more)

    def test_half_close_before(self):
        """the client finishes before the session would be spliced: it stays in user space"""
        with self.proxy(tcp={"after_bytes": 1 << 20, "after_ms": 3600000}) as p:
            c, s = self.connect()
            self.ping(c, s)
            c.shutdown(socket.SHUT_WR)
            self.half_closed(c, s, 8 << 20)
            self.assertEqual(self.logged(p)["egress"]["fast"]["bytes"], 0)
            self.nothing_left(p)

    def test_half_close_during(self):
        """the client finishes at any moment of the switch"""
        with self.proxy(tcp={"after_bytes": 0, "after_ms": 0}) as p:
            going = []
            for i in range(60 if l7test.FULL else 25):
                c, s = self.connect()
                self.ping(c, s)
                time.sleep(i * 0.001)
                c.shutdown(socket.SHUT_WR)
                going.append(self.goes_on(c, s, 1 << 20))
            for pair in going:
                self.all_there(*pair, 1 << 20)
            self.nothing_left(p)

    def test_half_close_after(self):
        """the client finishes in the kernel, either end may go on"""
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
        """half closed in the kernel, then it comes back and goes on in user space"""
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
