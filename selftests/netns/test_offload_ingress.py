#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=180
"""The kernel fast path takes packets only where they belong, and what leaves has the same header fields as from user
space: the slow path is the reference."""
import json
import os
import pathlib
import socket
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7net  # noqa: E402
import l7test  # noqa: E402


def mac_of(dev):
    return json.loads(l7net.ip(f"-j link show dev {dev}"))[0]["address"]


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def frame(to_mac, source, destination, payload, tag=None):
    """An Ethernet frame with a UDP datagram over IPv4; tag: a VLAN id."""
    (saddr, sport), (daddr, dport) = source, destination
    addresses = socket.inet_aton(saddr) + socket.inet_aton(daddr)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(payload), 1, 0x4000, 64, 17, 0) + addresses
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    udp = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0)
    total = checksum(addresses + struct.pack("!HH", 17, 8 + len(payload)) + udp + payload) or 0xffff
    vlan = b"" if tag is None else struct.pack("!HH", 0x8100, tag)
    return (bytes.fromhex(to_mac.replace(":", "")) + b"\x02\0\0\0\0\x99" + vlan + b"\x08\0" + head + udp[:6] +
            struct.pack("!H", total) + payload)


class Ingress(l7net.Gateway):
    def proxy(self, address, destination, options=None, up_options=None, ifs="legA,legB"):
        up = {"spec": {"protocol": "UDP", "port": 9001, "options": up_options or {}},
              "endpoints": [{"spec": {"address": destination}}]}
        return l7test.Proxy({
            "admin": {"offload": "init", "offload_ifs": ifs, "instance": self.instance, "log_level": "info"},
            "listeners": [
                {"name": "udp", "spec": address if isinstance(address, dict) else
                 {"protocol": "UDP", "address": address, "port": 9000, "options": options or {}},
                 "rules": [{"action": {"route": {"destination": up}}}]},
                l7test.controller()]})

    def wait_fast(self, p, name="UDP:"):
        def fast():
            for n in p.api.get("/sessions")[1]:
                n = n if isinstance(n, str) else n["name"]
                if n.startswith(name) and p.api.get("/sessions/" + n)[1]["offload"]["state"] == "fast":
                    return True
            return None
        self.assertIsNotNone(l7test.wait_for(fast, l7net.WAIT), p.stderr())

    def seen(self, p, verdict):
        return p.api.get("/offload")[1]["verdicts"][verdict]

    def on_the_wire(self, peer):
        with peer.inside():
            s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            s.bind(("eth0", 0))
        self.addCleanup(s.close)
        return s

    def goes_up(self, p, wire, verdict, data):
        """The frame is seen by the program, which passes it up for this reason."""
        before = self.seen(p, verdict)
        wire.send(data)
        self.assertIsNotNone(l7test.wait_for(lambda: self.seen(p, verdict) > before or None, l7net.WAIT), verdict)

    def nothing_came(self, sock, mark):
        """What this socket gets next is `mark`, which was sent after all else."""
        self.assertEqual(sock.recv(65536), mark)

    def test_other_leg_and_tags(self):
        """a peer's addresses on the wrong leg, or with a tag, go up, where the stack drops them; the flow continues"""
        for name in ("all", "legA", "legB"):
            pathlib.Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("1")
        client, server = self.a.udp(5000), self.b.udp(9001)
        with self.proxy("10.9.1.1", "10.9.2.2") as p:
            self.ping(client, server, ("10.9.1.1", 9000))
            self.wait_fast(p)
            self.ping(client, server, ("10.9.1.1", 9000), b"fast")
            ends = ("10.9.1.2", 5000), ("10.9.1.1", 9000)
            self.goes_up(p, self.on_the_wire(self.b), "ingress", frame(mac_of("legB"), *ends, b"wrong leg"))
            self.goes_up(p, self.on_the_wire(self.a), "tags", frame(mac_of("legA"), *ends, b"tag", tag=7))
            before = self.seen(p, "forwarded")
            client.sendto(b"end", ("10.9.1.1", 9000))
            self.nothing_came(server, b"end")
            self.assertGreater(self.seen(p, "forwarded"), before)

    def test_wire_from_localhost(self):
        """with lo served, a frame on the wire from 127.0.0.1 is not the application's answer, nor reaches its listener"""
        client = self.a.udp(5000)
        app = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        app.bind(("127.0.0.1", 9001))
        app.settimeout(l7net.WAIT)
        self.addCleanup(app.close)
        with self.proxy("10.9.1.1", "127.0.0.1", ifs="legA,lo") as p:
            upstream = self.ping(client, app, ("10.9.1.1", 9000))
            self.wait_fast(p)
            self.ping(client, app, ("10.9.1.1", 9000), b"fast")
            wire = self.on_the_wire(self.a)
            self.goes_up(p, wire, "ingress", frame(mac_of("legA"), ("127.0.0.1", 9001), upstream, b"forged"))
            before = self.seen(p, "forwarded")
            app.sendto(b"answer", upstream)
            self.nothing_came(client, b"answer")
            self.assertGreater(self.seen(p, "forwarded"), before)

    def test_jsonsocket_header_goes_up(self):
        """a JSONSocket session in the kernel: what begins with { goes through user space, all else does not"""
        client, server = self.a.udp(5000), self.b.udp(9001)
        header = b'{"JSONSocketVersion": 1}' + b" " * 100
        with self.proxy({"protocol": "JSONSocket", "transport": {"protocol": "UDP", "address": "10.9.1.1", "port": 9000}},
                        "10.9.2.2") as p:
            client.sendto(header, ("10.9.1.1", 9000))
            self.assertIn(b'"JSONSocketStatus"', client.recv(65536))
            self.ping(client, server, ("10.9.1.1", 9000))
            self.wait_fast(p, "JSONSocket:")
            before = self.seen(p, "forwarded"), self.seen(p, "json")
            self.ping(client, server, ("10.9.1.1", 9000), b"payload")
            self.assertEqual((self.seen(p, "forwarded"), self.seen(p, "json")), (before[0] + 2, before[1]))
            client.sendto(b'{"no": "header"}', ("10.9.1.1", 9000))
            self.assertEqual(server.recv(65536), b'{"no": "header"}')
            self.assertEqual((self.seen(p, "forwarded"), self.seen(p, "json")), (before[0] + 2, before[1] + 1))

    def fields(self, wire, payload):
        """TOS, DF and flow label of the datagram with this payload: what can change at the hand-over."""
        while True:
            data = wire.recv(65536)
            if not data.endswith(payload):
                continue
            if data[12:14] == b"\x08\0":
                return {"tos": data[15], "fragment": data[20:22].hex()}
            word = struct.unpack("!I", data[14:18])[0]
            return {"tos": word >> 20 & 0xff, "label": word & 0xfffff}

    def compare_fields(self, v6, options, up_options, tos_up, tos_down):
        mine, theirs = ("fd09:1::1", "fd09:2::2") if v6 else ("10.9.1.1", "10.9.2.2")
        client = self.a.udp(5000, self.a.own6 if v6 else self.a.own4)
        server = self.b.udp(9001, theirs)
        for s in (client, server):
            if v6:
                s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0x49)
            else:
                s.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x49)
                s.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER: no DF
        up, down = self.on_the_wire(self.b), self.on_the_wire(self.a)
        with self.proxy(mine, theirs, options, up_options) as p, client, server:
            self.ping(client, server, (mine, 9000), b"slow\x01")
            slow = self.fields(up, b"slow\x01"), self.fields(down, b"\x01wols")
            self.wait_fast(p)
            before = self.seen(p, "forwarded")
            self.ping(client, server, (mine, 9000), b"fast\x01")
            self.assertEqual(self.seen(p, "forwarded"), before + 2)
            self.assertEqual((self.fields(up, b"fast\x01"), self.fields(down, b"\x01tsaf")), slow)
            self.assertEqual([f["tos"] for f in slow], [tos_up, tos_down])

    def test_header_fields(self):
        """TOS, DF and flow label are the same before and after the hand-over, whatever options.dscp is"""
        for v6 in (False, True):
            self.compare_fields(v6, {}, {}, 0, 0)
            self.compare_fields(v6, {"dscp": 46}, {"dscp": 10}, 10 << 2, 46 << 2)
            self.compare_fields(v6, {"dscp": "pass"}, {"dscp": "pass"}, 0x49, 0x49)
            self.compare_fields(v6, {}, {"dscp": "pass"}, 0x49, 0)
            self.compare_fields(v6, {"dscp": "pass"}, {}, 0, 0x49)


if __name__ == "__main__":
    l7test.main()
