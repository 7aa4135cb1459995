#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A daemon whose fast path is off takes away what a killed one of its instance has left in the kernel: the sessions go on in user
space, and programs, qdiscs and pins go. It doesn't touch what a running daemon owns, nor does -t."""
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7net  # noqa: E402
import l7test  # noqa: E402
import test_tcp_adopt as tcp  # noqa: E402

OFF = ({"offload_ifs": []}, {"offload": "disable"}, {"offload": "disable", "offload_ifs": []})
SAYS = r"removed what an earlier process left in the kernel, \d\d pins in .*; {} sessions go on in user space, {} flows are removed"


class Left(tcp.Base):
    def both(self):
        """A UDP and a TCP session in the kernel, whose daemon was killed."""
        p = self.start()
        udp = self.a.udp(5000), self.b.udp(9001)
        for s in udp:
            self.addCleanup(s.close)
        peer = self.ping(*udp)
        conn = self.connect()
        self.wait_fast(p, 1)
        self.all_fast(p, 1, lambda: self.echo(*conn))
        names = {*self.sessions(p), *self.tcp_sessions(p)}
        self.kill(p)
        self.assertEqual(len(l7net.filters("legA")), 1)
        self.assertTrue(self.pins.exists())
        return udp, peer, conn, names

    def test_goes_and_sessions_go_on(self):
        """no interfaces, and disable: sessions go on in user space on the same sockets, without a reset"""
        for admin in OFF:
            with self.subTest(**admin):
                resets = [tcp.Resets(self.a), tcp.Resets(self.b)]
                udp, peer, conn, names = self.both()
                with self.start(admin=admin) as q:
                    self.nothing_left()
                    self.assertEqual(q.api.get("/offload")[1]["state"], "disabled")
                    self.assertRegex(q.stderr(), SAYS.format(2, 0))
                    self.assertEqual({*self.sessions(q), *self.tcp_sessions(q)}, names)
                    self.assertEqual(self.ping(*udp), peer)
                    self.echo(*conn)
                    for s in (*self.sessions(q).values(), *self.tcp_sessions(q).values()):
                        self.assertEqual(s["offload"]["state"], "slow", s)
                    # The fast path can be switched on again.
                    self.assertEqual(q.api.post("/admin", {"admin": {"offload": "init", "offload_ifs": "legA,legB"}})[0], 200)
                    self.assertEqual(self.ping(*udp), peer)
                    self.wait_fast(q, 1)
                    self.all_fast(q, 1, lambda: self.echo(*conn))
                    self.assertEqual([r.close() for r in resets], [[], []])
                for s in (*udp, *conn):
                    s.close()
                self.nothing_left()

    def test_what_is_not_allowed_any_more(self):
        """without the listener: the flows are removed"""
        self.both()
        with l7test.Proxy({"admin": {"offload": "disable", "instance": self.instance, "log_level": "info"},
                           "listeners": [l7test.controller()]}) as q:
            self.nothing_left()
            self.assertRegex(q.stderr(), SAYS.format(0, 2))

    def test_of_a_running_daemon(self):
        """it holds the lock: its flows stay"""
        with self.start() as p:
            client, server = self.a.udp(5000), self.b.udp(9001)
            self.addCleanup(client.close)
            self.addCleanup(server.close)
            self.ping(client, server)
            self.wait_fast(p, 1)
            with l7test.Proxy({"admin": {"offload": "disable", "instance": self.instance},
                               "listeners": [l7test.controller(1235)]}, port=1235) as q:
                self.assertEqual(q.api.get("/offload")[1]["state"], "disabled")
                self.assertEqual(len(l7net.filters("legA")), 1)
                self.assertEqual(len(p.api.get("/offload/flows")[1]), 2)
            self.ping(client, server)
            self.wait_fast(p, 1)
        self.nothing_left()

    def test_check(self):
        """-t removes nothing"""
        self.both()
        with tempfile.TemporaryDirectory() as d:
            path = pathlib.Path(d) / "c.yaml"
            path.write_text(f"{{admin: {{offload: disable, instance: {self.instance}}}, listeners: []}}\n")
            subprocess.run([l7test.program("l7mp-proxy"), "-t", "-c", str(path)], check=True, capture_output=True)
        self.assertEqual(len(l7net.filters("legA")), 1)
        self.assertTrue(self.pins.exists())
        with self.start(admin=OFF[1]):
            self.nothing_left()

    @unittest.skipUnless(shutil.which("setpriv"), "needs setpriv")
    def test_without_permission(self):
        """one warning, which names the directory; nothing is removed by halves"""
        self.both()
        with l7test.Proxy(self.config(admin=OFF[1]), wrapper=("setpriv", "--bounding-set", "-net_admin")) as q:
            self.assertRegex(q.stderr(), f"stays, with its pins in {self.pins}: removing it needs CAP_BPF and CAP_NET_ADMIN")
            self.assertEqual(len(l7net.filters("legA")), 1)
            self.assertTrue((self.pins / "abi").exists())
        with self.start(admin=OFF[1]):
            self.nothing_left()


if __name__ == "__main__":
    l7test.main()
