#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: full long timeout=300
"""AF_PACKET in the kernel while things change: flows that come and go under a stream, refusals, links, the end."""
import contextlib
import json
import pathlib
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import l7net  # noqa: E402
import l7test  # noqa: E402
from test_offload_hooks import ALL_OK  # noqa: E402
from test_offload_packet import BPFTOOL, HOST_A, HOST_B, PEER_A, PEER_B, PROMETHEUS, Packet, frame, listener, overflowed, packet_cluster  # noqa: E402

FRAMES = 500_000 if l7test.FULL else 30_000


class Once(Packet):
    """A numbered stream while flows come and go."""

    def count(self, sock, seen, stop):
        sock.settimeout(0.2)
        while not stop.is_set():
            try:
                data = sock.recv(100)
            except TimeoutError:
                continue
            n = struct.unpack("!I", data[:4])[0]
            seen.append(n)

    def stream(self, change, enough=lambda: True, rate=20000, lost=lambda: 0):
        """
        Sends numbered datagrams A to B, at least FRAMES and until it is enough; `change` is called over and over meanwhile.
        `lost`: how many will not come. How many were sent, and what B got, in order.
        """
        client, server = self.a.udp(5000, HOST_A), self.b.udp(9001, HOST_B, rcvbuf=64 << 20)
        seen, stop = [], threading.Event()
        thread = threading.Thread(target=self.count, args=(server, seen, stop))
        thread.start()
        changer_stop, errors = threading.Event(), []

        def changer():
            while not changer_stop.is_set():
                try:
                    change()
                except Exception as e:  # noqa: BLE001: told by the test's thread
                    errors.append(e)
                    return
        t = threading.Thread(target=changer)
        t.start()
        start, sent = time.monotonic(), 0
        while sent < FRAMES or not (enough() or errors or time.monotonic() - start > 3 * l7net.WAIT):
            client.sendto(struct.pack("!I", sent), (HOST_B, 9001))
            sent += 1
            if sent % 100 == 0:
                ahead = sent / rate - (time.monotonic() - start)
                if ahead > 0:
                    time.sleep(ahead)
        changer_stop.set()
        t.join()
        self.assertEqual(errors, [])
        l7test.wait_for(lambda: len(seen) >= sent - lost(), 20)
        stop.set()
        thread.join()
        client.close()
        server.close()
        return sent, seen

    def clsact(self):
        """Beforehand: the kernel stops a device for a moment while it gets one or loses it (docs/fastpath.md)."""
        for dev in ("legA", "legB"):
            l7net.sh("tc", "qdisc", "add", "dev", dev, "clsact")

    def test_in_and_out(self):
        """a stream whose flow is added and removed all the time: each frame arrives, once"""
        self.clsact()
        with self.start(listener("legA", packet_cluster("legB")), PROMETHEUS) as p:
            rounds = []

            def change():
                s = self.session(p, "PACKET:legA-UDP")
                if not s or s["offload"]["state"] != "fast":
                    time.sleep(0.01)
                    return
                for ifs in ("legA", "legA,legB"):
                    self.assertEqual(p.api.post("/admin", {"offload_ifs": ifs})[0], 200)
                    time.sleep(0.05)
                rounds.append(1)
            drops = l7net.softnet_drops()

            def dropped():
                return l7net.softnet_drops() - drops + overflowed()
            sent, seen = self.stream(change, lambda: len(rounds) > 4, lost=dropped)
            lost = sent - len(set(seen))
            stats = self.session(p, "PACKET:legA-UDP")["stats"]["ingress"]
            print(f"# {len(rounds)} times out and in; slow {stats['slow']['packets']}, fast {stats['fast']['packets']}, "
                  f"lost {lost}, twice {len(seen) - len(set(seen))}")
            self.assertGreater(len(rounds), 4)
            self.assertEqual(len(seen), len(set(seen)), "frames came twice")
            self.assertEqual(lost, dropped(), "what a busy machine dropped is counted")
            self.assertGreater(stats["fast"]["packets"], sent // 20)
            self.assertEqual(stats["slow"]["packets"] + stats["fast"]["packets"], len(seen))

    def test_delete(self):
        """DELETE while frames pass: the next frame begins a session, no frame comes twice, every one is counted"""
        with self.start(listener("legA", packet_cluster("legB"))) as p:
            rounds = []

            def change():
                s = self.session(p, "PACKET:legA-UDP")
                if not s or s["offload"]["state"] != "fast":
                    time.sleep(0.005)
                    return
                self.assertIn(p.api.delete("/sessions/" + s["name"])[0], (200, 404))
                rounds.append(1)
                time.sleep(0.05)
            sent, seen = self.stream(change, lambda: len(rounds) > 5)
            print(f"# {len(rounds)} sessions deleted, lost {sent - len(set(seen))}")
            self.assertGreater(len(rounds), 5)
            self.assertEqual(len(seen), len(set(seen)), "frames came twice")
            # A session that ends drops what it has not sent yet; most frames must have come all the same.
            self.assertGreater(len(seen), sent // 2)

    def test_hand_over(self):
        """a stream that moves into the kernel once, attached beforehand: none lost, none twice, all in order"""
        l7net.one_cpu(self)
        self.clsact()
        with self.start(listener("legA", packet_cluster("legB"))) as p:
            drops = l7net.softnet_drops()
            sent, seen = self.stream(lambda: time.sleep(0.05))
            stats = self.session(p, "PACKET:legA-UDP")["stats"]["ingress"]
            print(f"# slow {stats['slow']['packets']}, fast {stats['fast']['packets']}")
            self.assertEqual(l7net.softnet_drops() - drops, 0)
            self.assertEqual(sorted(seen), list(range(sent)))
            late = p.api.get("/offload")[1]["flows"]
            self.assertLessEqual(sum(b < a for a, b in zip(seen, seen[1:])), late["handover_forced"] + late["handover_late"])
            self.assertGreater(stats["fast"]["packets"], sent // 2)
            self.assertEqual(stats["slow"]["packets"] + stats["fast"]["packets"], sent)


class Reasons(Packet):
    def provoke(self, f=None):
        self.raw_a.send(f or frame(PEER_A, PEER_B, b"x" * 30))

    def setUp(self):
        super().setUp()
        self.raw_a, self.raw_b = self.raw(self.a), self.raw(self.b)

    def refused(self, want, *listeners, ifs="legA,legB", admin=None, name="PACKET:"):
        with self.start(*listeners, ifs=ifs, admin=admin) as p:
            self.provoke()
            self.reason(p, want, name)

    def test_refusals(self):
        """each reason that a session of AF_PACKET can have is given"""
        far = packet_cluster("legB")
        self.refused("interface-not-enabled", listener("legA", far), ifs="legA")
        self.refused("interface-not-enabled", listener("legA", far), ifs="")
        self.refused("disabled", listener("legA", far, offload="never"))
        self.refused("protocol", listener("legA", {"name": "udp", "spec": {"protocol": "UDP", "port": 9001},
                                                   "endpoints": [{"spec": {"address": "127.0.0.1"}}]}))
        self.refused("protocol", listener("legA", {"spec": {"protocol": "Echo"}}))
        self.refused("transformer-in-path", listener("legA", far, route={
            "ingress": [{"spec": {"protocol": "Logger", "log_file": "/dev/null"}}]}))

    def test_conflict(self):
        """two sockets of the proxy with the same frames: the first has them in the kernel, the second gets its copies"""
        with self.start(listener("legA", packet_cluster("legB", ethertype="0x88b5"), mode="singleton", name="one",
                                 ethertype="0x88b5")) as p:
            self.provoke()
            first = self.fast(p)["name"]
            self.assertEqual(p.api.post("/listeners", {"listener": listener(
                "legA", packet_cluster("legB", name="far2"), name="two")})[0], 200)
            self.provoke()
            self.reason(p, "conflict", "PACKET:legA-02:00:00:00:aa:01-")
            n = self.session(p, "PACKET:legA-02:00:00:00:aa:01-")["stats"]["ingress"]["slow"]["packets"]
            self.provoke()
            self.assertTrue(l7test.wait_for(lambda: self.session(p, "PACKET:legA-02:00:00:00:aa:01-")["stats"]["ingress"][
                "slow"]["packets"] == n + 1, l7net.WAIT))
            # When the first has gone, the second has its turn.
            self.assertEqual(p.api.delete("/listeners/one?recursive=true")[0], 200)
            p.api.delete("/sessions/" + first)
            self.provoke()
            self.assertTrue(l7test.wait_for(lambda: self.provoke() or self.session(p, "PACKET:legA-02:00:00:00:aa:01-")[
                "offload"]["state"] == "fast", l7net.WAIT, 0.5), self.session(p, "PACKET:legA-02"))

    def test_table_full(self):
        """max_flows bounds frames, too"""
        with self.start(listener("legA", packet_cluster("legB")), admin={"limits": {"max_flows": 4}}) as p:
            for i in range(3):
                self.provoke(frame(bytes.fromhex(f"02000000aa{i:02x}"), PEER_B, b"x"))
            self.assertTrue(l7test.wait_for(lambda: sorted(
                p.api.get("/sessions/" + s["name"])[1]["offload"]["directions"][0]["reason"]
                for s in p.api.get("/sessions")[1] if s["name"].startswith("PACKET")) == ["", "", "table-full"], l7net.WAIT))

    def test_link_down(self):
        """carrier lost, MTU and address changed, an interface deleted: flows follow or leave, and come back"""
        with self.start(listener("legA", packet_cluster("legB"), mode="singleton",
                                 route={"retry": {"retry_on": "always", "num_retries": 1000, "timeout": 200}})) as p:
            f = frame(PEER_A, PEER_B, b"x")
            self.provoke(f)
            self.fast(p)
            self.b.run("ip link set eth0 down")
            self.reason(p, "link-down")
            self.b.run("ip link set eth0 up")
            self.assertTrue(l7test.wait_for(lambda: self.provoke() or self.session(p, "PACKET:")["offload"]["state"] == "fast",
                                            l7net.WAIT, 0.2))
            # The address of the interface decides what the host's stack is to get.
            copied = self.verdicts(p)["frame-copied"]
            l7net.ip("link set legA address 02:00:00:00:bb:01")
            own = frame(PEER_A, PEER_B, b"now it is the host's")
            self.assertTrue(l7test.wait_for(lambda: self.provoke(own) or self.verdicts(p)["frame-copied"] > copied, l7net.WAIT,
                                            0.2))
            l7net.ip("link del legB")
            self.assertTrue(l7test.wait_for(lambda: p.api.get("/offload/flows")[1] == [], l7net.WAIT))
            self.assertTrue(p.alive())
        self.a.close()

    def test_hook_lost(self):
        """our filter is deleted: the sockets get the frames again at once, and the session says why it is slow"""
        with self.start(listener("legA", packet_cluster("legB"))) as p:
            f = frame(PEER_A, PEER_B, b"x")
            self.provoke(f)
            self.once(self.raw_b, f)
            self.fast(p)
            l7net.sh("tc", "qdisc", "del", "dev", "legA", "clsact")
            self.reason(p, "hook-lost")
            g = frame(PEER_A, PEER_B, b"after")
            self.provoke(g)
            self.once(self.raw_b, g)

    def test_filter_in_front(self):
        """a tc filter in front of ours takes the frames: user space relays them, though it cost the first one"""
        with self.start(listener("legA", packet_cluster("legB"))) as p:
            f = frame(PEER_A, PEER_B, b"x")
            self.provoke(f)
            self.once(self.raw_b, f)
            self.fast(p)
            r = subprocess.run(["tc", "filter", "add", "dev", "legA", "ingress", "pref", "1", *ALL_OK], capture_output=True,
                               text=True, check=False)
            self.assertEqual(r.returncode, 0, r.stderr)
            n = 20
            got = []
            for i in range(n):
                self.provoke(frame(PEER_A, PEER_B, b"number %d" % i))
            end = time.monotonic() + 3
            while time.monotonic() < end and len(got) < n:
                self.raw_b.settimeout(0.5)
                with contextlib.suppress(TimeoutError):
                    data = self.receive(self.raw_b)
                    if b"number" in data:
                        got.append(data)
            self.assertEqual(len(got), len(set(got)))
            self.assertGreaterEqual(len(got), n - 2)


class Endings(Packet):
    def test_removal(self):
        """after DELETE of the listener, its sessions and settings, nothing is relayed any more; no flow, no filter is left"""
        a, b = self.raw(self.a), self.raw(self.b)
        f = frame(PEER_A, PEER_B, b"x")
        with self.start(listener("legA", packet_cluster("legB"))) as p:
            a.send(f)
            self.once(b, f)
            self.fast(p)
            a.send(f)
            self.once(b, f)
            self.assertEqual(p.api.delete("/listeners/frames?recursive=true")[0], 200)
            self.assertTrue(l7test.wait_for(lambda: not self.session(p, "PACKET:"), l7net.WAIT))
            self.assertEqual(p.api.get("/offload/flows")[1], [])
            a.send(f)
            self.expect(b, f, silent=True)
            b.send(frame(PEER_B, PEER_A, b"y"))
            self.expect(a, frame(PEER_B, PEER_A, b"y"), silent=True)
            if BPFTOOL:
                for name in ("frames", "frame_ifs"):
                    dump = json.loads(l7net.sh(BPFTOOL, "-j", "map", "dump", "pinned", str(self.pins / name)))
                    self.assertEqual([e for e in dump if name == "frames" or e["formatted"]["value"]], [])
        self.nothing_left()

    def test_settings(self):
        """offload_ifs and offload change at run time: slow without loss, fast again; an EtherType's filter stays in force"""
        a, b = self.raw(self.a), self.raw(self.b)
        with self.start(listener("legA", packet_cluster("legB", ethertype="0x88b5"), ethertype="0x88b5")) as p:
            def pass_through(text):
                f = frame(PEER_A, PEER_B, text)
                a.send(f)
                self.once(b, f)
                a.send(frame(PEER_A, PEER_B, text, ethertype=0x88b6))
            pass_through(b"one")
            self.fast(p)
            for i, (key, off, on, why) in enumerate((("offload_ifs", "legA", "legA,legB", "interface-not-enabled"),
                                                     ("offload", "disable", "init", "disabled"))):
                self.assertEqual(p.api.post("/admin", {key: off})[0], 200)
                self.reason(p, why)
                pass_through(b"slow %d" % i)
                self.assertEqual(p.api.post("/admin", {key: on})[0], 200)
                self.wait_active(p)
                self.assertTrue(l7test.wait_for(lambda: pass_through(b"z") or self.session(p, "PACKET:")["offload"][
                    "state"] == "fast", l7net.WAIT, 0.2), self.session(p, "PACKET:"))
                before = self.session(p, "PACKET:")["stats"]["ingress"]["slow"]["packets"]
                pass_through(b"fast %d" % i)
                self.assertEqual(self.session(p, "PACKET:")["stats"]["ingress"]["slow"]["packets"], before)
            self.assertEqual(len([s for s in p.api.get("/sessions")[1] if s["name"].startswith("PACKET")]), 1)
        self.nothing_left()

    def test_kill(self):
        """after SIGKILL flows forward on; what the next start has no listener for is removed"""
        a, b = self.raw(self.a), self.raw(self.b)
        p = self.start(listener("legA", packet_cluster("legB")))
        first = frame(PEER_A, PEER_B, b"first")
        a.send(first)
        self.once(b, first)
        self.fast(p)
        p.process.kill()
        p.process.wait()
        for i in range(20):
            for f, src, dst in ((frame(PEER_A, PEER_B, b"%d" % i), a, b), (frame(PEER_B, PEER_A, b"%d" % i), b, a)):
                src.send(f)
                self.expect(dst, f)
        p.dir.cleanup()
        with self.start(listener("legA", packet_cluster("legB"), name="other")) as q:
            self.assertEqual(q.api.get("/offload/flows")[1], [])
            a.send(first)
            self.once(b, first)
            self.fast(q)
        self.nothing_left()

    def test_no_init(self):
        """with no_init a second daemon uses the programs that the first one left, the sockets' filter among them"""
        a, b = self.raw(self.a), self.raw(self.b)
        for start in ("init", "no_init"):
            with self.start(listener("legA", packet_cluster("legB")), admin={"offload": start}) as p:
                f = frame(PEER_A, PEER_B, start.encode())
                a.send(f)
                self.once(b, f)
                self.fast(p)
                got = self.deltas(p, "PACKET:", lambda f=f: a.send(f) and self.once(b, f))
                self.assertEqual((got["ingress", "slow"][0], got["ingress", "fast"][0]), (0, 1))
                if start == "init":
                    self.assertEqual(p.api.post("/admin", {"offload": "no_init"})[0], 200)
                    self.assertEqual(self.session(p, "PACKET:")["offload"]["state"], "fast")
            self.assertEqual(len(l7net.filters("legA")), 1)
        with self.start():
            pass
        self.nothing_left()

    def test_bpftool(self):
        """bpftool's dump of `frames` reads like the flow"""
        if not BPFTOOL:
            self.skipTest("needs bpftool")
        client, server = self.a.udp(5000, HOST_A), self.b.udp(9001, HOST_B)
        with self.start(listener("legA", packet_cluster("legB", rewrite={"dst_mac": self.mac_b}))) as p:
            client.sendto(b"x", (HOST_B, 9001))
            server.recv(10)
            self.fast(p)
            dump = [e["formatted"] for e in json.loads(
                l7net.sh(BPFTOOL, "-j", "map", "dump", "pinned", str(self.pins / "frames")))]
            self.assertEqual(len(dump), 2)
            legs = {n: json.loads(l7net.ip(f"-j link show dev {n}"))[0]["ifindex"] for n in ("legA", "legB")}
            entry = [e for e in dump if e["key"]["ifindex"] == legs["legA"]][0]
            key, value = entry["key"], entry["value"]
            self.assertEqual((key["saddr"]["bytes"][:4], key["daddr"]["bytes"][:4]), ([10, 9, 9, 1], [10, 9, 9, 2]))
            self.assertEqual((key["l4"], key["family"], key["type"], key["vlan"]), (17, 4, 0x0800, [0xffff, 0xffff]))
            self.assertEqual((value["match_sport_host"], value["match_dport_host"], value["verb"]), (5000, 9001, 5))
            self.assertEqual((value["in_ifindex"], value["ifindex"], value["mtu"]), (legs["legA"], legs["legB"], 1500))
            self.assertEqual(":".join(f"{n:02x}" for n in value["dmac"]), self.mac_b)
            self.assertEqual(value["version"], value["version_end"])
            flow = [f for f in p.api.get("/offload/flows")[1] if f["in"] == "legA"][0]
            self.assertEqual(flow["key"], {"family": "IPv4", "type": 0x0800, "vlans": [], "saddr": HOST_A, "sport": 5000,
                                           "daddr": HOST_B, "dport": 9001, "protocol": 17})
            self.assertEqual((flow["egress"]["mtu"], flow["egress"]["dmac"], flow["out"]), (1500, self.mac_b, "legB"))
        client.close()
        server.close()


if __name__ == "__main__":
    l7test.main()
