#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=120
"""The kernel fast path without root: with three capabilities it works, without them the proxy
says why and relays in user space."""
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import l7net  # noqa: E402
import l7test  # noqa: E402
import test_offload_basic as basic  # noqa: E402
from test_offload_packet import listener, packet_cluster  # noqa: E402

NOBODY = 65534
NEEDED = ("bpf", "net_admin")


class Privileges(basic.Base):
    def setUp(self):
        super().setUp()
        self.dir = tempfile.mkdtemp(prefix="l7mp-priv-")
        self.addCleanup(shutil.rmtree, self.dir)
        os.chmod(self.dir, 0o755)

    def start(self, caps, ifs="legA,legB", own=True, mode="auto", listeners=None):
        """The daemon as nobody, with these capabilities only."""
        if own:
            self.pins.mkdir(parents=True, exist_ok=True)
            os.chmod(l7net.PINS, 0o755)
            os.chown(self.pins, NOBODY, NOBODY)
            self.addCleanup(self.remove_pins)
        exe, conf = f"{self.dir}/l7mp-proxy", f"{self.dir}/config.json"
        shutil.copy(l7test.program("l7mp-proxy"), exe)
        with open(conf, "w") as f:
            config = basic.config(self.instance, ifs, basic.cluster("10.9.2.2"), admin={"offload_mode": mode})
            if listeners:
                config["listeners"][:1] = listeners
            json.dump(config, f)
        some = "".join(f",+{c}" for c in caps)
        wrapper = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
                   f"--inh-caps=-all{some}", f"--bounding-set=-all{some}"]
        if some:
            wrapper.append(f"--ambient-caps={some[1:]}")
        p = subprocess.Popen([*wrapper, exe, "-c", conf], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(self.end, p)
        p.api = l7test.Api(1234)
        self.assertTrue(l7test.wait_for(lambda: p.api.get("/offload")[0] == 200, l7net.WAIT))
        return p

    def remove_pins(self):
        for path in (self.pins, l7net.PINS):
            try:
                path.rmdir()
            except OSError:
                pass

    @staticmethod
    def end(p):
        if p.poll() is None:
            p.kill()
        p.communicate()

    def stop(self, p):
        p.terminate()
        out, err = p.communicate(timeout=15)
        self.assertEqual(p.returncode, 0, err)
        self.assertNotRegex(err, l7test.SANITIZER)
        return out + err

    def use(self, p, fast):
        client, server = self.a.udp(5000), self.b.udp(9001)
        self.ping(client, server)
        if fast:
            s = l7test.wait_for(lambda: (lambda s: s if s and s["offload"]["state"] == "fast" else None)(
                self.session(p)), 5)
            self.assertIsNotNone(s, self.session(p))
        for _ in range(20):
            self.ping(client, server)
        s = self.session(p)
        client.close()
        server.close()
        return s

    def test_capabilities_are_enough(self):
        """CAP_BPF and CAP_NET_ADMIN: attached, used, taken away; also after SIGKILL"""
        for mode in ("auto", "native"):
            with self.subTest(mode=mode):
                for peer in (self.a, self.b):
                    peer.run("ethtool -K eth0 tx off")
                p = self.start(NEEDED, "legA,legB,lo", mode=mode)
                self.assertEqual(p.api.get("/offload")[1]["state"], "active", p.api.get("/offload"))
                self.use(p, True)
                p.kill()
                p.communicate()
                self.assertTrue(l7net.filters("legA"))
                p = self.start(NEEDED, "legA,legB,lo", mode=mode)
                self.use(p, True)
                self.stop(p)
                self.assertEqual(list(self.pins.iterdir()), [])
                self.remove_pins()
                self.nothing_left(["legA", "legB", "lo"])

    def test_frames(self):
        """AF_PACKET: CAP_NET_RAW beside them; its sockets get their filter, and user space no frame of the flow"""
        frame = bytes.fromhex("02000000bb0102000000aa0188b5") + b"frame"
        p = self.start((*NEEDED, "net_raw"), listeners=[listener("legA", packet_cluster("legB", ethertype="0x88b5"),
                                                                 ethertype="0x88b5")])
        with self.a.inside():
            a = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            a.bind(("eth0", 0))
        with self.b.inside():
            b = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            b.settimeout(l7net.WAIT)
            b.bind(("eth0", 0x88b5))
        with a, b:
            a.send(frame)
            self.assertEqual(b.recv(100), frame)
            name = "PACKET:legA-02:00:00:00:aa:01"
            self.assertTrue(l7test.wait_for(lambda: self.session(p, name)["offload"]["state"] == "fast", 10),
                            self.session(p, name)["offload"])
            for _ in range(20):
                a.send(frame)
                self.assertEqual(b.recv(100), frame)
            stats = self.session(p, name)["stats"]["ingress"]
            self.assertEqual((stats["slow"]["packets"], stats["fast"]["packets"]), (1, 20))
        self.stop(p)
        self.assertEqual(list(self.pins.iterdir()), [])
        self.remove_pins()
        self.nothing_left()

    def test_without(self):
        """no capability, or no directory to pin in: the slow path, and one line that says why"""
        for caps, own, word in ((), True, "CAP_BPF"), (NEEDED, False, str(self.pins)):
            with self.subTest(caps=caps):
                if not own:
                    l7net.PINS.mkdir(exist_ok=True)
                    os.chmod(l7net.PINS, 0o755)
                p = self.start(caps, own=own)
                o = p.api.get("/offload")[1]
                self.assertEqual((o["state"], o["interfaces"][0]["hook"] if o["interfaces"] else "none"),
                                 ("unavailable", "none"))
                self.assertIn(word, o["reason"])
                s = self.use(p, False)
                self.assertEqual(s["offload"]["directions"][0]["reason"], "kernel")
                said = self.stop(p)
                self.assertEqual(said.count("fast path is not available"), 1, said)
                self.remove_pins()


if __name__ == "__main__":
    l7test.main()
