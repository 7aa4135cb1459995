#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: long timeout=300
"""A nexthop's link address is announced wrongly, more than once within a second: a flow gets over it as the slow path
does, by the kernel's own probes of a stale entry."""
import ipaddress
import pathlib
import socket
import struct
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import l7net  # noqa: E402
import l7test  # noqa: E402
from test_offload_basic import Base, cluster  # noqa: E402

WRONG = ("02:00:00:00:66:01", "02:00:00:00:66:02")


def raw(mac):
    return bytes.fromhex(mac.replace(":", ""))


def gratuitous_arp(address, mac):
    """RFC 826, RFC 5227: a request of an address for itself."""
    ip = socket.inet_aton(address)
    return (b"\xff" * 6 + raw(mac) + b"\x08\x06" + struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) +
            raw(mac) + ip + bytes(6) + ip)


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def unsolicited_advertisement(address, mac):
    """RFC 4861 section 7.2.6: to all nodes, with the override flag."""
    source, everybody = ipaddress.ip_address(address).packed, ipaddress.ip_address("ff02::1").packed
    body = struct.pack("!BBHI", 136, 0, 0, 0x20000000) + source + b"\x02\x01" + raw(mac)
    pseudo = source + everybody + struct.pack("!II", len(body), 58)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    return (b"\x33\x33\x00\x00\x00\x01" + raw(mac) + b"\x86\xdd" +
            struct.pack("!IHBB", 0x60000000, len(body), 58, 255) + source + everybody + body)


class Neighbours(Base):
    def announce(self, wire, frame, family):
        for i, mac in enumerate(WRONG):
            if i:
                time.sleep(0.3)
            wire.send(frame(self.b.own4 if family == 4 else self.b.own6, mac))

    def heals(self, family, frame, offload):
        """Packets arrive, then no more (the wrong address is in use), then again by themselves."""
        client = self.a.udp(5000, None if family == 4 else "fd09:1::2")
        server = self.b.udp(9001, None if family == 4 else "fd09:2::2")
        to = ("10.9.1.1" if family == 4 else "fd09:1::1", 9000)
        with self.b.inside():
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        wire.bind(("eth0", 0))
        far = "10.9.2.2" if family == 4 else "fd09:2::2"

        def known():
            return l7net.ip(f"neigh show {far} dev legB")
        with self.proxy(address=to[0], destination=cluster(far), admin={"offload": offload}) as p:
            self.ping(client, server, to)
            if offload == "init":
                self.wait_fast(p)
            self.announce(wire, frame, family)
            self.assertTrue(l7test.wait_for(lambda: WRONG[1] in known(), l7net.WAIT), known())
            server.settimeout(0.2)
            start, n = time.monotonic(), 0

            def arrives():
                nonlocal n
                n += 1
                client.sendto(b"%d" % n, to)
                return server.recv(100) == b"%d" % n
            self.assertTrue(l7test.wait_for(arrives, l7net.WAIT), f"{known()} {p.api.get('/offload/flows')}")
            print(f"# IPv{family}, offload {offload}: arrives again after {time.monotonic() - start:.1f} s")
            self.assertIn(self.b.mac(), known())
        for s in (client, server, wire):
            s.close()

    def test_arp(self):
        """two gratuitous ARPs with wrong addresses 0.3 s apart: the flow heals as the slow path does"""
        for offload in ("disable", "init"):
            self.heals(4, gratuitous_arp, offload)

    def test_neighbour_discovery(self):
        """the same with unsolicited neighbour advertisements"""
        for offload in ("disable", "init"):
            self.heals(6, unsolicited_advertisement, offload)


if __name__ == "__main__":
    l7test.main()
