#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Load balancing over endpoints that come and go over REST."""
import collections
import socket
import time

import l7test
from l7test import udp_socket
from traffic import Case, TcpServer, UdpEcho, cluster, connect, listener, recv_exact, retry


def hello(conn, _):
    conn.sendall(b"%15s" % conn.getsockname()[0].encode())
    conn.recv(10)


class Balance(Case):
    def setUp(self):
        self.servers = TcpServer(9001, hello, "0.0.0.0")

    def add(self, n, weight=1):
        status, body = self.api.post("/clusters/c/endpoints", {"endpoint": {
            "name": f"e{n}", "spec": {"address": f"127.0.1.{n}"}, "weight": weight}})
        self.assertEqual(status, 200, body)

    def where(self, source=None):
        s = socket.create_connection(("127.0.0.1", 9000), 5, (source, 0) if source else None)
        s.settimeout(30)
        try:
            return recv_exact(s, 15).strip().decode()
        finally:
            s.close()

    def begin(self, policy, key=None):
        lb = {"policy": policy}
        if key:
            lb["key"] = key
        self.start(listener("l", "TCP", 9000, "c", retry=retry("connect-failure", 3, 500)),
                   clusters=[{"name": "c", "spec": {"protocol": "TCP", "port": 9001}, "loadbalancer": lb}])

    def test_round_robin(self):
        """balance: RoundRobin by weight over endpoints added by REST; a removed one gets no more"""
        self.begin("RoundRobin")
        for n, weight in ((1, 1), (2, 2), (3, 3)):
            self.add(n, weight)
        got = collections.Counter(self.where() for _ in range(60))
        self.assertEqual(got, {"127.0.1.1": 10, "127.0.1.2": 20, "127.0.1.3": 30})
        self.assertEqual(self.api.delete("/endpoints/e2")[0], 200)
        got = collections.Counter(self.where() for _ in range(40))
        self.assertEqual(got, {"127.0.1.1": 10, "127.0.1.3": 30})

    def test_trivial(self):
        """balance: Trivial takes the first"""
        self.begin("Trivial")
        for n in (3, 1, 2):
            self.add(n)
        self.assertEqual({self.where() for _ in range(10)}, {"127.0.1.3"})

    def test_random(self):
        """balance: Random by weight"""
        self.begin("Random")
        self.add(1, 1)
        self.add(2, 4)
        got = collections.Counter(self.where() for _ in range(200))
        self.assertTrue(120 < got["127.0.1.2"] < 190, got)

    def test_consistent_hash(self):
        """balance: ConsistentHash is stable; adding one of N endpoints moves about 1/N of the keys, to the new one"""
        self.begin("ConsistentHash", "/IP/src_addr")
        for n in range(1, 10):
            self.add(n)
        keys = [f"127.1.{i // 200}.{1 + i % 200}" for i in range(300)]
        first = {k: self.where(k) for k in keys}
        self.assertEqual({k: self.where(k) for k in keys[:50]}, {k: first[k] for k in keys[:50]})
        self.assertEqual(len(set(first.values())), 9)
        self.add(10)
        second = {k: self.where(k) for k in keys}
        moved = [k for k in keys if first[k] != second[k]]
        self.assertTrue(all(second[k] == "127.0.1.10" for k in moved))
        self.assertTrue(10 <= len(moved) <= 60, len(moved))  # 30 expected
        self.assertEqual(self.api.delete("/endpoints/e10")[0], 200)
        self.assertEqual({k: self.where(k) for k in moved}, {k: first[k] for k in moved})

    def test_hash_without_value(self):
        """balance: a key that the session lacks is a warning in its events, and any endpoint"""
        self.begin("HashRing", "/HTTP/headers/none")
        self.add(1)
        self.add(2)
        with connect(9000) as s:
            recv_exact(s, 15)
            self.assertTrue(self.texts(self.session("TCP:"), "WARNING"))

    def drain(self, policy, key=None):
        """Weight 0: the session that is there stays, new ones go elsewhere; when all drain, none is connected."""
        self.begin(policy, key)
        for n in (1, 2, 3):
            self.add(n)
        held = socket.create_connection(("127.0.0.1", 9000), 5)
        self.addCleanup(held.close)
        held.settimeout(30)
        first = recv_exact(held, 15).strip().decode()
        last = first[-1]
        endpoint = {"name": f"e{last}", "spec": {"address": first}, "weight": 0}
        self.assertEqual(self.api.call("PUT", f"/endpoints/e{last}", {"endpoint": endpoint})[0], 200)
        self.assertEqual(self.api.get(f"/endpoints/e{last}")[1]["weight"], 0)
        self.assertNotIn(first, {self.where() for _ in range(30)}, policy)
        name = "TCP:%s:%d-127.0.0.1:9000" % held.getsockname()
        status, session = self.api.get(f"/sessions/{name}")
        self.assertEqual((status, session["status"], session["destination"]["endpoint"]["name"]), (200, "CONNECTED", f"e{last}"))
        for n in (1, 2, 3):
            self.api.call("PUT", f"/endpoints/e{n}", {"endpoint": {"name": f"e{n}", "spec": {"address": f"127.0.1.{n}"}, "weight": 0}})
        try:
            self.assertEqual(self.where(), "")
        except ConnectionError:
            pass
        held.close()

    def test_drain_trivial(self):
        """balance: weight 0 drains: Trivial"""
        self.drain("Trivial", None)

    def test_drain_round_robin(self):
        """balance: weight 0 drains: RoundRobin"""
        self.drain("RoundRobin", None)

    def test_drain_random(self):
        """balance: weight 0 drains: Random"""
        self.drain("Random", None)

    def test_drain_hash(self):
        """balance: weight 0 drains: HashRing"""
        self.drain("HashRing", "/IP/src_addr")

    def test_drop(self):
        """balance: drop: the endpoint's share is refused"""
        self.begin("RoundRobin")
        self.add(1)
        status, body = self.api.post("/clusters/c/endpoints", {"endpoint": {"name": "e2", "spec": {"address": "127.0.1.2"}, "drop": True}})
        self.assertEqual(status, 200, body)
        self.assertTrue(self.api.get("/endpoints/e2")[1]["drop"])
        self.api.call("PUT", "/routes/r", {"route": {"name": "r", "destination": "c"}})
        self.assertEqual(self.api.post("/listeners", {"listener": {"name": "once", "spec": {"protocol": "TCP", "port": 9010}, "rules": [{"action": {"route": "r"}}]}})[0], 200)
        got = collections.Counter()
        for _ in range(20):
            try:
                with socket.create_connection(("127.0.0.1", 9010), 5) as s:
                    s.settimeout(30)
                    got[recv_exact(s, 15).strip().decode() or "refused"] += 1
            except ConnectionError:
                got["refused"] += 1
        self.assertEqual(got, {"127.0.1.1": 10, "refused": 10})
        # The policy of retries does not matter: a share that is refused goes to nobody else.
        self.assertEqual(self.api.call("PUT", "/routes/r", {"route": {
            "name": "r", "destination": "c", "retry": {"retry_on": "always", "num_retries": 5, "timeout": 100}}})[0], 200)
        refusals = self.metric("l7mp_refusals_total", 'limit="drop"')
        self.assertEqual(refusals, 10)
        again = collections.Counter()
        for _ in range(20):
            try:
                with socket.create_connection(("127.0.0.1", 9010), 5) as s:
                    s.settimeout(60)
                    again[recv_exact(s, 15).strip().decode() or "refused"] += 1
            except ConnectionError:
                again["refused"] += 1
        self.assertEqual(again, {"127.0.1.1": 10, "refused": 10})
        self.assertEqual(self.metric("l7mp_refusals_total", 'limit="drop"'), 20)
        self.assertEqual(self.metric("l7mp_retries_total"), 0)

    def test_own_port(self):
        """balance: an endpoint's own port goes before the cluster's: TCP, UDP"""
        TcpServer(9002, hello, "0.0.0.0")
        self.begin("RoundRobin")
        self.add(1)
        self.assertEqual(self.api.post("/clusters/c/endpoints", {"endpoint": {"name": "e2", "spec": {"address": "127.0.1.2", "port": 9002}}})[0], 200)
        self.assertEqual({self.where() for _ in range(4)}, {"127.0.1.1", "127.0.1.2"})
        upstream = udp_socket(9003)
        upstream.settimeout(30)
        self.assertEqual(self.api.post("/listeners", {"listener": listener("u", "UDP", 9004, cluster("UDP", 9001) | {
            "endpoints": [{"spec": {"address": "127.0.0.1", "port": 9003}}]})})[0], 200)
        client = udp_socket()
        client.sendto(b"hello", ("127.0.0.1", 9004))
        self.assertEqual(upstream.recv(100), b"hello")
        client.close()
        upstream.close()

    def test_no_endpoint(self):
        """balance: a cluster without endpoints is a failed attempt; one added meanwhile is reached"""
        self.begin("RoundRobin")
        s = connect(9000)
        time.sleep(0.3)
        self.add(1)
        self.assertEqual(recv_exact(s, 15).strip(), b"127.0.1.1")
        s.close()

    def test_udp(self):
        """balance: UDP sessions over RoundRobin endpoints; a session stays where it is"""
        for n in (1, 2, 3):
            UdpEcho(9002, f"127.0.1.{n}")
        target = cluster("UDP", 9002, [f"127.0.1.{n}" for n in (1, 2, 3)])
        target["loadbalancer"] = {"policy": "RoundRobin"}
        self.start(listener("u", "UDP", 9003, target))
        socks = [udp_socket() for _ in range(9)]
        for _ in range(2):
            for s in socks:
                s.sendto(b"x", ("127.0.0.1", 9003))
                self.assertEqual(s.recv(10), b"x")
        got = collections.Counter(s["destination"]["endpoint"]["spec"]["address"] for s in self.sessions("UDP:"))
        self.assertEqual(set(got.values()), {3})


if __name__ == "__main__":
    l7test.main()
