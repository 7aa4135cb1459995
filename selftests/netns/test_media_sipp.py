#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=300
"""A call between two SIPp user agents that are both behind NAT, its media through config/media-relay.yaml in the kernel: both sides
are learnt, and the relay's statistics of RTP are what SIPp and tshark count."""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

import yaml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7net  # noqa: E402
import l7test  # noqa: E402

CONFIG = pathlib.Path(__file__).resolve().parent.parent.parent / "config" / "media-relay.yaml"
AUDIO = "/usr/share/sip-tester/g711a.pcap"
LAN, PHONE = "192.168.1.1", "192.168.1.10"  # of both sides: each NAT has such a network behind it
MEDIA = 6000  # of both phones, as their SDP would say
CALLEE_SIDE = 40000  # bind.port of the config's cluster

HEADERS = """Via: SIP/2.0/UDP [local_ip]:[local_port];branch=[branch]
      From: caller <sip:caller@example.com>;tag=[pid]c[call_number]
      To: callee <sip:callee@example.com>[peer_tag_param]
      Call-ID: [call_id]
      CSeq: {seq} {method}
      Contact: sip:caller@[local_ip]:[local_port]
      Max-Forwards: 70"""

# As who controls the call has rewritten it: the relay's address. SIPp reads its own media port off a line with "audio".
SDP = """v=0
      o=- 1 1 IN IP4 {address}
      s=-
      c=IN IP4 {address}
      t=0 0
      m=audio {port} RTP/AVP 8
      a=rtpmap:8 PCMA/8000
      a=x-audio:[media_port]
"""


def request(method, seq, body=""):
    kind = "\n      Content-Type: application/sdp" if body else ""
    retrans = "" if method == "ACK" else ' retrans="500"'
    return f"""<send{retrans}><![CDATA[

      {method} sip:callee@[remote_ip]:[remote_port] SIP/2.0
      {HEADERS.format(seq=seq, method=method)}{kind}
      Content-Length: [len]

      {body}
    ]]></send>"""


def answer(body=""):
    kind = "\n      Content-Type: application/sdp" if body else ""
    return f"""<send><![CDATA[

      SIP/2.0 200 OK
      [last_Via:]
      [last_From:]
      [last_To:];tag=[pid]s[call_number]
      [last_Call-ID:]
      [last_CSeq:]
      Contact: <sip:[local_ip]:[local_port]>{kind}
      Content-Length: [len]

      {body}
    ]]></send>"""


PLAY = f'<nop><action><exec play_pcap_audio="{AUDIO}"/></action></nop>'
SCENARIO = '<?xml version="1.0" encoding="ISO-8859-1" ?>\n<scenario name="media">\n%s\n</scenario>\n'


def caller(port):
    """The callee gets the relay's address on its side. It speaks after two seconds, when the relay knows the call by what we sent."""
    return SCENARIO % "\n".join([
        request("INVITE", 1, SDP.format(address="10.9.2.1", port=port)), '<recv response="200"/>', request("ACK", 1), PLAY,
        '<pause milliseconds="2000"/>', request("INFO", 2), '<recv response="200"/>', '<pause milliseconds="8000"/>',
        request("BYE", 3), '<recv response="200"/>'])


def callee(port):
    return SCENARIO % "\n".join([
        '<recv request="INVITE"/>', answer(SDP.format(address="10.9.1.1", port=port)), '<recv request="ACK"/>',
        '<recv request="INFO"/>', answer(), PLAY, '<recv request="BYE"/>', answer()])


def tshark(path, port, *args):
    return subprocess.run(["tshark", "-n", "-r", path, "-d", f"udp.port=={port},rtp", *args], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True, check=True).stdout


def rtp(path, port, which):
    """(sequence number, SSRC, payload type, payload) of each packet."""
    rows = tshark(path, port, "-Y", f"rtp && {which}", "-T", "fields", "-e", "rtp.seq", "-e", "rtp.ssrc", "-e", "rtp.p_type",
                  "-e", "rtp.payload").split("\n")
    return [(int(s), int(ssrc, 16), int(t), data) for s, ssrc, t, data in (r.split("\t") for r in rows if r)]


def played():
    """What SIPp plays: the packets in its file."""
    port = tshark(AUDIO, 1, "-c", "1", "-T", "fields", "-e", "udp.dstport").strip()
    return rtp(AUDIO, port, f"udp.dstport=={port}")


class Capture(l7net.Capture):
    """All UDP of a phone; read by tshark."""

    def __init__(self, test, phone, path):
        super().__init__(test, phone, path, "udp")

    def rtp(self, sent):
        return rtp(self.path, MEDIA, f"ip.{'src' if sent else 'dst'}=={PHONE}")

    def lost(self):
        """tshark's count for the stream that the phone sends."""
        lines = [line.split() for line in tshark(self.path, MEDIA, "-q", "-z", "rtp,streams").splitlines() if "0x" in line]
        fields = next(f for f in lines if f[2] == PHONE)
        return int(fields[next(i for i, f in enumerate(fields) if f.startswith("(")) - 1])


class Call(l7net.Gateway):
    mode = "auto"

    def setUp(self):
        super().setUp()
        for program in ("sipp", "tshark", "nft", "tcpdump"):
            if not shutil.which(program):
                self.skipTest(f"there is no {program}")
        self.dir = tempfile.TemporaryDirectory(prefix="l7mp-sipp-")
        self.addCleanup(self.dir.cleanup)
        # An address behind the callee's NAT is on the way to nowhere, as in the internet.
        l7net.ip("route add 192.168.0.0/16 via 10.9.2.99")
        self.phones = [self.phone(router) for router in (self.a, self.b)]
        self.nft(self.b, f"""add table ip sip; add chain ip sip pre {{ type nat hook prerouting priority -100; }}
            add rule ip sip pre iifname eth0 udp dport 5060 dnat to {PHONE}""")

    def phone(self, router):
        """Behind a NAT that gives each of its connections another port."""
        with router.inside():
            phone = l7net.Peer("lan", LAN, PHONE)
        self.addCleanup(phone.close)
        router.run("sysctl -qw net.ipv4.ip_forward=1")
        self.nft(router, """add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; }
            add rule ip nat post oifname eth0 masquerade random""")
        return phone

    def nft(self, router, text):
        r = subprocess.run(["nsenter", f"--net={router.path}", "nft", "-f", "-"], input=text, text=True, capture_output=True, check=False)
        if r.returncode and ("Operation not supported" in r.stderr or "No such file" in r.stderr):
            self.skipTest(f"this kernel lacks what nft asks for: {r.stderr.strip().splitlines()[0]}")
        self.assertEqual(r.returncode, 0, r.stderr)

    def config(self):
        """The example with the addresses of this network, and a way for SIP."""
        cfg = yaml.safe_load(CONFIG.read_text())
        cfg["admin"].update(offload_ifs="legA,legB", offload_mode=self.mode, instance=self.instance)
        call = next(x for x in cfg["listeners"] if x["name"] == "call-1")
        call["spec"]["address"] = "10.9.1.1"
        cluster = cfg["clusters"][0]
        cluster["spec"]["bind"]["address"] = "10.9.2.1"
        cluster["spec"]["port"] = MEDIA
        cluster["endpoints"][0]["spec"]["address"] = PHONE
        self.assertEqual(cluster["spec"]["bind"]["port"], CALLEE_SIDE)
        cfg["listeners"].append({
            "name": "sip", "spec": {"protocol": "UDP", "address": "10.9.1.1", "port": 5060},
            "rules": [{"action": {"route": {"destination": {"spec": {"protocol": "UDP", "port": 5060},
                                                            "endpoints": [{"spec": {"address": "10.9.2.2"}}]}}}}]})
        return cfg

    def sipp(self, phone, name, scenario, *args):
        path = os.path.join(self.dir.name, name)
        pathlib.Path(path + ".xml").write_text(scenario, encoding="ascii")
        p = phone.popen("sipp", *args, "-sf", path + ".xml", "-i", PHONE, "-p", "5060", "-mi", PHONE, "-mp", str(MEDIA), "-m", "1",
                        "-nostdin", "-timeout", "120s", "-timeout_error", "-trace_screen", "-screen_file", path + ".screen", "-trace_err",
                        "-error_file", path + ".errors", cwd=self.dir.name, stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL, env=dict(os.environ, TERM="dumb"))

        def end():
            if p.poll() is None:
                p.kill()
            p.wait()
        self.addCleanup(end)
        return p

    def said(self, name):
        """What SIPp wrote about the call."""
        return "".join(p.read_text(errors="replace") for p in sorted(pathlib.Path(self.dir.name).glob(name + ".*")) if p.suffix != ".xml")

    def session(self):
        return next((s for s in self.api.get("/sessions")[1] if s["source"]["listener"] == "call-1"), None)

    def in_kernel(self):
        """The flows carry both directions while user space stands still."""
        def fast():
            s = self.session()
            return s if s and s["offload"]["state"] == "fast" else None
        s = l7test.wait_for(fast, l7net.WAIT)
        self.assertTrue(s, json.dumps(self.session()) + self.said("caller") + self.said("callee"))

        def carried():
            now = self.session()
            return now if all(now["stats"][w]["fast"]["packets"] >= s["stats"][w]["fast"]["packets"] + 50
                              for w in ("ingress", "egress")) else None
        now = l7test.wait_for(carried, l7net.WAIT)
        self.assertTrue(now, json.dumps(self.session()))
        for way in ("ingress", "egress"):
            self.assertEqual(now["stats"][way]["slow"], s["stats"][way]["slow"], way)
        self.assertEqual(now["offload"]["state"], "fast")
        return now

    def learnt(self, s):
        """Both peers are the NATs' outer addresses, with ports that no SDP has."""
        for end, nat in (("source", "10.9.1.2"), ("destination", "10.9.2.2")):
            address, port = s[end]["peer"].rsplit(":", 1)
            self.assertEqual(address, nat, s[end])
            self.assertNotEqual(int(port), MEDIA, s[end])
        self.assertEqual(s["destination"]["local"], f"10.9.2.1:{CALLEE_SIDE}")
        self.assertEqual(s["destination"]["endpoint"]["spec"]["address"], PHONE)
        self.assertEqual([e["message"] for e in s["events"] if e["event"] == "LATCHED"], [s["destination"]["peer"]])

    def test_call(self):
        """a call of two phones behind NAT: media both ways in the kernel, and counted as SIPp and tshark count it"""
        self.proxy = l7test.Proxy(self.config())
        self.addCleanup(self.proxy.stop)
        self.api = self.proxy.api
        self.assertTrue(l7test.wait_for(lambda: self.api.get("/offload")[1]["state"] == "active", l7net.WAIT))
        port = self.api.get("/listeners/call-1")[1]["spec"]["port"]
        captures = [Capture(self, phone, os.path.join(self.dir.name, f"{i}.pcap")) for i, phone in enumerate(self.phones)]
        uas = self.sipp(self.phones[1], "callee", callee(port))
        self.assertTrue(l7test.wait_for(lambda: ":5060" in self.phones[1].run("ss -Hlun"), l7net.WAIT))
        uac = self.sipp(self.phones[0], "caller", caller(CALLEE_SIDE), "10.9.1.1:5060")
        self.learnt(self.in_kernel())
        for p in (uac, uas):
            self.assertEqual(p.wait(180), 0, self.said("caller") + self.said("callee"))
        file = played()
        for way, i in (("ingress", 0), ("egress", 1)):
            sent = self.settled(way, captures[i])
            # SIPp plays its file, the first to hang up may end it.
            self.assertGreater(len(sent), 100)
            self.assertEqual(sent, file[:len(sent)])
            stats = self.session()["stats"]["rtp"][way]
            self.assertEqual((stats["packets"], stats["lost"], stats["others"], stats["sources"]),
                             (len(sent), captures[i].lost(), 0, 1), way)
            self.assertEqual((stats["ssrc"], stats["payload_type"]), sent[-1][1:3], way)
            # The other phone gets all of it, unchanged and in order: the callee from when it was known, the caller from the first packet.
            got = l7test.wait_for(lambda: (rows := captures[1 - i].rtp(False)) and rows[-1] == sent[-1] and rows, l7net.WAIT, step=0.5)
            self.assertTrue(got, way)
            self.assertEqual(got, sent[-len(got):], way)
        self.assertEqual(len(got), len(sent))

    def settled(self, way, capture):
        """What a phone has sent, once the relay has counted as much."""
        rows = []

        def same():
            rows[:] = capture.rtp(True)
            return len(rows) == self.session()["stats"]["rtp"][way]["packets"]
        self.assertTrue(l7test.wait_for(same, l7net.WAIT, step=0.5), (len(rows), self.session()["stats"]))
        return rows


@unittest.skipUnless(l7test.FULL, "the same with XDP: make test-full")
class Xdp(Call):
    mode = "generic"


if __name__ == "__main__":
    l7test.main()
