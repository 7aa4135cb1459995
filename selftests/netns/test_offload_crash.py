#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: full long timeout=900
"""A crash at any moment of start, of a flow's life, of splicing, of removing programs, of taking over and of the end leaves nothing
stuck at the next start: it comes up, its sessions go into the kernel, and its end takes everything away."""
import pathlib
import signal
import socket
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import l7net  # noqa: E402
import l7test  # noqa: E402
import test_offload_adopt as adopt  # noqa: E402
import test_offload_drain as drain  # noqa: E402

# Names of L7MP_FAULT in the code, with the pass; "tcp" are stages of a pair (off_tcp_stage_name).
FRESH = ["pin:1", "pin:8", "pin:16", "serve", "attached:1", "attached:2", "served:1", "served:2", "recorded", "put:1", "put:2",
         "begin", "begun", "watch", "hold", "relay", "trans", "fast",
         "stop", "fill", "deleted:1", "deleted:2", "uninstalled", "stopping", "detached:1", "detached:2", "unpin:1", "unpin:10"]
ADOPTING = ["pin-new:1", "pin-new:4", "adopt", "adopt-found", "attached:1", "served:2", "adopt-one", "adopt-frames", "adopt-cleared",
            "adopt-renewed", "pin-renamed:1", "pin-renamed:3"]
CLEANING = ["clean", "cleaned", "unpin:3"]
LEAVING = ["leaving", "stop", "fill", "left"]
# At a start that finds flows of another ABI; while they go on; and at their end.
DRAINING = ["drain-dir", "pin-moved:1", "pin-moved:9", "pin-moved:16", "pin-moved:17", "drain-moved", "clean", "pin:8", "attached:2", "drain",
            "drain-end", "drain-detached", "unpin:1", "unpin:16", "unpin:17", "drain-unpinned"]
STEP = 1 if l7test.FULL else 4


def has_faults():
    return b"L7MP_FAULT" in pathlib.Path(l7test.program("l7mp-proxy")).read_bytes()


class Crash(adopt.Base):
    def setUp(self):
        if not has_faults():
            self.skipTest("a build without fault points (they come with SAN=asan)")
        super().setUp()

    def config(self, admin=None, **kw):
        tcp = {"name": "tcp", "spec": {"protocol": "TCP", "address": "10.9.1.1", "port": 9100},
               "rules": [{"action": {"route": {"destination": {
                   "name": "tcp-upstream", "spec": {"protocol": "TCP", "port": 9101}, "endpoints": [{"spec": {"address": "10.9.2.2"}}]}}}}]}
        return super().config(listeners=(tcp,), admin={"offload_tcp": {"after_ms": 0}, **(admin or {})}, **kw)

    def tcp(self, p):
        """A TCP session, as far as it comes."""
        with self.a.inside():
            c = socket.socket()
        c.settimeout(5)
        s = None
        try:
            c.connect(("10.9.1.1", 9100))
            s, _ = self.listening.accept()
            s.settimeout(5)

            def fast():
                c.sendall(b"there")
                s.recv(100)
                s.sendall(b"back")
                c.recv(100)
                return any(x["offload"]["state"] == "fast" for x in p.api.get("/sessions")[1] if x["name"].startswith("TCP:"))
            while p.alive() and not fast():
                pass
        except OSError:
            pass  # the crash
        return [x for x in (c, s) if x]

    def udp(self, p):
        try:
            while p.alive():
                self.client.sendto(b"ping", adopt.GATE)
                try:
                    data, peer = self.server.recvfrom(100)
                    self.server.sendto(data, peer)
                    self.client.recv(100)
                except TimeoutError:
                    continue
                if any(x["offload"]["state"] == "fast" for x in self.sessions(p).values()):
                    return
        except OSError:
            pass

    def live(self, point, change=None, waits=False, **kw):
        """A daemon's life until it crashes there, with a change of its settings at the end. waits: it does so by itself."""
        p = l7test.Proxy(self.config(**kw), wait=False, env={"L7MP_FAULT": point})
        ends = []
        try:
            p.wait_ready()
            if waits:
                l7test.wait_for(lambda: not p.alive())
            else:
                self.udp(p)
                ends = self.tcp(p)
            if change:
                p.api.post("/admin", {"admin": change})
                l7test.wait_for(lambda: not p.alive() or p.api.get("/offload")[1]["state"] != "active" or
                                all(i["name"] != "legB" for i in p.api.get("/offload")[1]["interfaces"]))
        except (AssertionError, OSError):
            pass  # it crashed at its start, or by the change
        if p.alive():
            p.process.send_signal(signal.SIGTERM)
        status = p.process.wait(60 * l7test.SLOW)
        said = p.stderr()
        p.notify.close()
        p.dir.cleanup()
        for x in ends:
            x.close()
        self.assertEqual(status, -signal.SIGKILL, f"{point} was not passed: {said[-2000:]}")

    def begin(self):
        self.client, self.server = self.a.udp(5000, timeout=1), self.b.udp(9001, timeout=1)
        with self.b.inside():
            self.listening = socket.create_server(("10.9.2.2", 9101))
        self.listening.settimeout(5)

    def check_next(self):
        with self.start() as q:
            self.assertEqual(q.api.get("/offload")[1]["state"], "active")
            self.udp(q)
            self.assertTrue(any(x["offload"]["state"] == "fast" for x in self.sessions(q).values()), q.stderr())
            self.assertEqual(len([x for x in self.sessions(q).values() if x["status"] == "CONNECTED"]), 1)
            for x in self.tcp(q):
                x.close()
        self.nothing_left()

    def each(self, points, before=lambda: None, change=None):
        for point in points[::STEP]:
            with self.subTest(point=point, change=change):
                self.begin()
                try:
                    before()
                    self.live(point, change)
                    self.check_next()
                finally:
                    for x in (self.client, self.server, self.listening):
                        x.close()

    def test_from_start_to_end(self):
        """at the first start, while flows come and go, and at the end"""
        self.each(FRESH)

    def test_while_taking_over(self):
        """at a start that takes sessions over"""
        def before():
            p = self.start()
            self.udp(p)
            self.kill(p)
        self.each(ADOPTING, before)

    def test_while_leaving(self):
        """while an interface leaves, or all do"""
        self.each(LEAVING, change={"offload_ifs": "legA"})
        self.each(["stop", "stopping", "detached:2"], change={"offload": "disable"})
    def test_while_draining(self):
        """at a start that finds flows of another ABI, and until these are removed: they are forwarded until then"""
        def before():
            p = self.start()
            self.udp(p)
            self.kill(p)
            drain.set_abi(self.pins, 1001)
        for point in DRAINING[::STEP]:
            with self.subTest(point=point):
                self.begin()
                try:
                    before()
                    self.live(point, waits=True, admin={"offload_drain": {"idle": 1}})
                    self.check_drained(DRAINING.index(point) < DRAINING.index("drain-detached"))
                finally:
                    for x in (self.client, self.server, self.listening):
                        x.close()

    def check_drained(self, going):
        """Whatever was done of it: the old flow goes on until its end, others begin, and nothing is left."""
        def ping():
            self.client.sendto(b"ping", adopt.GATE)
            try:
                data, peer = self.server.recvfrom(100)
                self.server.sendto(data, peer)
                return self.client.recv(100)
            except TimeoutError:
                return None
        if going:
            self.assertEqual(ping(), b"ping")
        with self.start(admin={"offload_drain": {"idle": 1}}) as q:
            for _ in range(3 if going else 0):
                self.assertEqual(ping(), b"ping")
            if going:
                self.assertEqual(self.sessions(q), {})

            def over():
                return not q.api.get("/offload")[1]["draining"] and not list(self.pins.glob("draining*"))
            self.assertTrue(l7test.wait_for(over), q.stderr())
            self.udp(q)
            self.assertTrue(any(x["offload"]["state"] == "fast" for x in self.sessions(q).values()), q.stderr())
            for dev in ("legA", "legB"):
                self.assertEqual(len(l7net.filters(dev)), 1)
        self.nothing_left()

    def test_while_cleaning(self):
        """at a start that finds programs, but no flows"""
        self.each(CLEANING, lambda: self.kill(self.start()))


if __name__ == "__main__":
    l7test.main()
