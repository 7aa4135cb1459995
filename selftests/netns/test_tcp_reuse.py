#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=900
"""TCP sessions in the kernel whose ports are used again: a new connection begins at once, whatever became of the old one."""
import pathlib
import socket
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7test  # noqa: E402
import tcpflow  # noqa: E402
from tcpsplice import Base  # noqa: E402

PORT = 7000
SOON = {"after_bytes": 0, "after_ms": 0}


class Reuse(Base):
    def undisturbed(self, p):
        """No segment took a session out of the kernel."""
        self.assertEqual(p.api.get("/offload")[1]["verdicts"]["tcp-doubt"], 0)

    def test_port_again(self):
        """one client port again and again, also while the last connection still lingers"""
        with self.proxy(tcp=SOON) as p:
            for i in range(200 if l7test.FULL else 40):
                c, s = self.connect(bind=PORT)
                self.ping(c, s)
                if i % 3:
                    time.sleep(0.02)
                self.ping(c, s)
                (c, s)[1].shutdown(socket.SHUT_WR)  # the server first, so that it has TIME_WAIT
                self.assertEqual(c.recv(1), b"")
                c.shutdown(socket.SHUT_WR)
                self.assertEqual(s.recv(1), b"")
                c.close()
                s.close()
                self.wait(lambda: self.session(p) is None, p)
            self.nothing_left(p)

    def test_after_reset(self):
        """one client port again and again, each connection ended by a reset, while the server sends or not"""
        with self.proxy() as p:
            for i in range(200 if l7test.FULL else 30):
                c, s = self.fast_pair(p, bind=PORT)
                sender = None
                if i % 2:
                    sender = tcpflow.Sender(s, 1)
                    self.assertGreater(len(c.recv(1 << 20)), 0)
                tcpflow.reset(c)
                c, s2 = self.connect(bind=PORT)
                self.ping(c, s2)
                if sender:
                    self.join(sender)
                    self.assertIsInstance(sender.error, ConnectionError)
                s.close()
                tcpflow.reset(c)
                s2.close()
                self.wait(lambda: self.session(p) is None, p)
            self.undisturbed(p)
            self.assertGreater(p.api.get("/offload")[1]["verdicts"]["tcp-over"], 0)
            self.nothing_left(p)

    def test_client_crashed(self):
        """the client loses its connection state and connects again from the same port: the old connection ends at both ends"""
        with self.proxy() as p:
            for i in range(30 if l7test.FULL else 5):
                c, s = self.fast_pair(p, bind=PORT)
                old = self.session(p)["name"]
                tcpflow.vanish(c)
                c, s2 = self.connect(bind=PORT)
                self.ping(c, s2)
                with self.assertRaises(ConnectionResetError):
                    s.recv(1)
                self.wait(lambda n=i, old=old: [x["reason"] for x in self.access() if x["name"] == old].count("connection reset") > n, p)
                for end in (s, c, s2):
                    end.close()
                self.wait(lambda: self.session(p) is None, p)
            self.undisturbed(p)
            self.nothing_left(p)

    def test_forged_syn(self):
        """a forged SYN ends nothing and takes nothing out of the kernel"""
        with self.proxy() as p:
            c, s = self.fast_pair(p)
            for ahead in (0, 100, 1 << 30):
                tcpflow.forge_syn(self.a, c, ahead)
                self.ping(c, s)
                time.sleep(1.2)
                self.ping(c, s)
            self.assertEqual(self.session(p)["offload"]["state"], "fast")
            self.assertEqual(p.api.get("/offload")[1]["flows"]["withdrawn"], 0)
            self.undisturbed(p)
            self.assertGreaterEqual(p.api.get("/offload")[1]["verdicts"]["tcp-window"], 3)
            c.close()
            s.close()
            self.nothing_left(p)


class Many(Base):
    def test_many_connections(self):
        """many connections that begin and end in all ways at once: nothing is left"""
        total, threads = (10000, 16) if l7test.FULL else (480, 8)
        errors, lock = [], threading.Lock()

        def one(i):
            with lock:  # the server's socket has to be that of this client
                c, s = self.connect()
            self.ping(c, s)
            time.sleep(i % 7 * 0.01)
            first, last = (c, s)[::1 if i % 2 else -1]
            try:
                self.ping(c, s)
                if i % 5 == 0:
                    tcpflow.reset(first)
                else:
                    first.shutdown(socket.SHUT_WR)
                    if i % 5 != 1:
                        last.recv(1)
                last.close()
                first.close()
            except OSError as e:
                if i % 5 > 1:
                    errors.append(e)

        def run(k):
            for i in range(k, total, threads):
                one(i)
        with self.proxy(tcp=SOON) as p:
            workers = [threading.Thread(target=run, args=(k,), daemon=True) for k in range(threads)]
            for w in workers:
                w.start()
            self.join(*workers)
            self.assertEqual(errors, [])
            self.nothing_left(p)
            self.assertGreater(p.api.get("/offload")[1]["flows"]["added"], total // 4)


if __name__ == "__main__":
    l7test.main()
