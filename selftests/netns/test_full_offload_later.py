#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: full timeout_full=300
"""A session that was refused long ago is asked again when its packets find a way."""
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import l7net  # noqa: E402
import l7test  # noqa: E402
from test_offload_basic import Base, cluster  # noqa: E402

LONG = 75  # the engine drops a nexthop that failed after 60 s


class Later(Base):
    def lost(self, p, client, reason):
        def withdrawn():
            return self.session(p)["offload"]["directions"][0]["reason"] == reason
        self.assertTrue(l7test.wait_for(withdrawn, l7net.WAIT), self.session(p)["offload"])
        for _ in range(LONG):  # an idle session would end
            client.sendto(b"lost", ("10.9.1.1", 9000))
            time.sleep(1)
        self.assertTrue(withdrawn())

    def again(self, p, client, server):
        def sent():
            client.sendto(b"again", ("10.9.1.1", 9000))
            return server.recv(100)
        server.settimeout(0.3)
        self.assertTrue(l7test.wait_for(sent, l7net.WAIT))
        end = time.monotonic() + l7net.WAIT
        while time.monotonic() < end and self.session(p)["offload"]["state"] != "fast":
            sent()
            time.sleep(0.1)
        self.wait_fast(p)

    def test_neighbour(self):
        """a neighbour that answers again after more than a minute"""
        client, server = self.a.udp(5000), self.b.udp(9001)
        with self.proxy() as p:
            self.ping(client, server)
            self.wait_fast(p)
            self.b.run("ip link set eth0 arp off")
            l7net.ip("neigh del 10.9.2.2 dev legB")
            self.lost(p, client, "no-neighbour")
            self.b.run("ip link set eth0 arp on")
            self.again(p, client, server)

    def test_route(self):
        """a route that is there again after more than a minute"""
        self.b.run("ip addr add 10.77.0.1/32 dev lo")
        l7net.ip("route add 10.77.0.0/24 via 10.9.2.2 src 10.9.2.1")
        client, server = self.a.udp(5000), self.b.udp(9001, "10.77.0.1")
        with self.proxy(destination=cluster("10.77.0.1")) as p:
            self.ping(client, server)
            self.wait_fast(p)
            l7net.ip("route del 10.77.0.0/24")
            self.lost(p, client, "no-route")
            l7net.ip("route add 10.77.0.0/24 via 10.9.2.2 src 10.9.2.1")
            self.again(p, client, server)


if __name__ == "__main__":
    l7test.main()
