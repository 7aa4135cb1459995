#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=900
"""TCP sessions in the kernel end: FIN, RST, idle time-out, DELETE, the end of the proxy."""
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7net  # noqa: E402
import l7test  # noqa: E402
import tcpflow  # noqa: E402
from tcpsplice import Base  # noqa: E402



class Ends(Base):
    def test_reset(self):
        """a reset by either end reaches the other, and the session ends"""
        with self.proxy() as p:
            for i in range(2):
                c, s = self.fast_pair(p)
                tcpflow.reset((c, s)[i])
                with self.assertRaises(ConnectionResetError):
                    if (s, c)[i].recv(1) == b"":
                        self.fail("an orderly end instead of a reset")
                (s, c)[i].close()
                self.wait(lambda: self.session(p) is None, p)
            self.nothing_left(p)

    def test_blind_reset(self):
        """a forged reset, in the window or not, ends nothing"""
        with self.proxy() as p:
            c, s = self.fast_pair(p)
            for ahead in (100, 1 << 27):
                tcpflow.forge_reset(self.a, c, ahead)
                time.sleep(2.5)  # a reset that nothing follows is believed
                self.ping(c, s)
            self.assertEqual(self.session(p)["offload"]["state"], "fast")
            c.close()
            s.close()
            self.nothing_left(p)

    def test_idle(self):
        """the idle time-out ends a session in the kernel, in an orderly way; traffic there keeps it alive"""
        with self.proxy(options={"idle_timeout": 2}) as p:
            c, s = self.fast_pair(p)
            for _ in range(4):
                time.sleep(1)
                self.ping(c, s)
            self.assertIsNotNone(self.session(p))
            self.assertEqual(c.recv(1), b"")
            self.assertEqual(s.recv(1), b"")
            c.close()
            s.close()
            self.assertIn("idle", self.logged(p)["reason"])
            self.nothing_left(p)

    def test_killed(self):
        """after SIGKILL the connections live on in the kernel; a start for which they are not there any more takes them away"""
        p = self.proxy()
        c, s = self.fast_pair(p)
        p.process.kill()
        p.process.wait()
        for _ in range(3):
            self.ping(c, s)
        p.dir.cleanup()
        # Without its listener, and (as without CAP_NET_RAW nobody else tells the peers) with their next segment.
        config = self.config()
        config["listeners"] = config["listeners"][1:]
        with l7test.Proxy(config, wrapper=("setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw")) as p:
            self.assertEqual(p.api.get("/offload")[1]["adopted"]["removed"], 1)
            for end in (c, s):
                end.send(b"x")
                with self.assertRaises(ConnectionResetError):
                    self.exactly(end, 1)
                end.close()

    def test_without_net_raw(self):
        """without CAP_NET_RAW the kernel's own window probes take the place of hand-made segments"""
        with self.proxy(wrapper=("setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw")) as p:
            c, s = self.connect()
            end = tcpflow.Both(c, 1, 2), tcpflow.Both(s, 2, 1)
            for _ in range(2):
                self.wait_fast(p)
                at = [e.receiver.received for e in end]
                self.wait(lambda at=at: all(e.receiver.received > a + (4 << 20) for e, a in zip(end, at)), p)
                self.leave(p)
                p.api.post("/admin", {"admin": {"offload_tcp": {"enabled": True}}})
            for e in end:
                e.sender.stop()
            self.finish([end])
            self.nothing_left(p)

    def test_delete(self):
        """DELETE ends the session in an orderly way: both ends see the end of the stream"""
        with self.proxy() as p:
            c, s = self.fast_pair(p)
            self.assertEqual(p.api.delete("/sessions/" + self.session(p)["name"])[0], 200)
            self.assertEqual(c.recv(1), b"")
            self.assertEqual(s.recv(1), b"")
            c.close()
            s.close()
            self.nothing_left(p)

    def test_delete_under_load(self):
        """DELETE while both ends send: what was acknowledged has arrived"""
        with self.proxy() as p:
            c, s = self.connect()
            end = tcpflow.Both(c, 1, 2), tcpflow.Both(s, 2, 1)
            self.wait_fast(p)
            p.api.delete("/sessions/" + self.session(p)["name"])
            for e in end:
                self.join(e.sender, e.receiver)
                self.assertIsNone(e.receiver.wrong)
                e.close()
            self.nothing_left(p)

    def test_sigterm(self):
        """the daemon's end: both ends see the end of the stream, and nothing is left in the kernel"""
        p = self.proxy()
        c, s = self.fast_pair(p)
        p.stop()
        self.assertEqual(c.recv(1), b"")
        self.assertEqual(s.recv(1), b"")
        c.close()
        s.close()
        self.assertFalse(self.pins.exists())
        self.assertEqual(l7net.filters("legA"), [])

if __name__ == "__main__":
    l7test.main()
