#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: cluster alone timeout=900
"""A route is edited on a real API server while its UDP sessions are forwarded in the kernel."""
import os
import pathlib
import random
import select
import struct
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7net  # noqa: E402
import l7test  # noqa: E402
from kube_cluster import wait_until  # noqa: E402
from mesh_server import OnServer, pod, say  # noqa: E402

SESSIONS = 300 if l7test.FULL else 60
EDITS = 600 if l7test.FULL else 60
RATE = 10  # edits per second
GATE = ("10.9.1.1", 9000)
BACKENDS = "abcd"  # Services, each with one endpoint: 10.9.2.2, port 9001 and up
ROUTE = "/apis/gateway.networking.k8s.io/v1/namespaces/default/udproutes/edited"


class Traffic:
    """Numbered datagrams of many clients to the servers and back, both ways all the time."""

    def __init__(self, a, b, n):
        self.n = n
        self.clients = [a.udp(rcvbuf=1 << 20) for _ in range(n)]
        self.servers = [b.udp(9001 + i, rcvbuf=32 << 20) for i in range(len(BACKENDS))]
        self.sent, self.got = [[0] * n, [0] * n], [[0] * n, [0] * n]
        self.home, self.peer = [None] * n, [None] * n  # the server that a client's datagrams arrive at, and from which address
        self.moved, self.twice = [], 0
        self.arrived = [0] * len(self.servers)
        self.over = threading.Event()
        self.poll = select.epoll()
        self.sockets = {s.fileno(): s for s in [*self.clients, *self.servers]}
        for fd, s in self.sockets.items():
            s.setblocking(False)
            self.poll.register(fd, select.EPOLLIN)
        self.threads = [threading.Thread(target=self.receive)]
        self.threads[0].start()

    def receive(self):
        seen = [[-1] * self.n, [-1] * self.n]
        while not self.over.is_set():
            for fd, _ in self.poll.poll(0.1):
                for _ in range(64):
                    try:
                        data, peer = self.sockets[fd].recvfrom(64)
                    except BlockingIOError:
                        break
                    except ConnectionRefusedError:
                        continue
                    way, i, number = struct.unpack("!III", data)
                    if way == 2:  # a visitor's: answered with the number of the server
                        server = self.servers.index(self.sockets[fd])
                        self.sockets[fd].sendto(struct.pack("!III", 3, i, server), peer)
                        continue
                    if way == 0:
                        self.arrive(i, self.servers.index(self.sockets[fd]), peer)
                    self.twice += number <= seen[way][i]
                    seen[way][i] = number
                    self.got[way][i] += 1

    def arrive(self, i, server, peer):
        self.arrived[server] += 1
        if self.home[i] not in (None, server):
            self.moved.append((i, self.home[i], server))
        self.home[i], self.peer[i] = server, peer

    def send(self, i, both=True):
        self.clients[i].sendto(struct.pack("!III", 0, i, self.sent[0][i]), GATE)
        self.sent[0][i] += 1
        if both:
            self.servers[self.home[i]].sendto(struct.pack("!III", 1, i, self.sent[1][i]), self.peer[i])
            self.sent[1][i] += 1

    def open(self):
        """The first datagram of each, until it has arrived."""
        for i in range(self.n):
            self.send(i, both=False)
        assert l7test.wait_for(lambda: None not in self.home), "the first datagrams did not arrive"

    def run(self):
        self.quiet = threading.Event()

        def go():
            while not self.quiet.is_set():
                for i in range(self.n):
                    self.send(i)
                    time.sleep(1 / 1500)
        self.sender = threading.Thread(target=go)
        self.sender.start()

    def pause(self, sessions):
        """Stops sending. Returns when all of these sessions' datagrams have arrived, or a minute later."""
        self.quiet.set()
        self.sender.join()
        l7test.wait_for(lambda: not self.lost(sessions))

    def lost(self, sessions):
        return {i: (self.sent[0][i] - self.got[0][i], self.sent[1][i] - self.got[1][i]) for i in sessions
                if (self.sent[0][i], self.sent[1][i]) != (self.got[0][i], self.got[1][i])}

    def close(self):
        if hasattr(self, "quiet"):
            self.quiet.set()
            self.sender.join()
        self.over.set()
        self.threads[0].join()
        for s in self.sockets.values():
            s.close()


class Flows(OnServer):
    def setUp(self):
        l7net.need_bpffs(self)
        self.a = l7net.Peer("legA", "10.9.1.1", "10.9.1.2")
        self.b = l7net.Peer("legB", "10.9.2.1", "10.9.2.2")
        self.addCleanup(self.a.close)
        self.addCleanup(self.b.close)
        self.visits = 0

    def backend(self, name, port):
        """A Service with one endpoint, which is no pod."""
        self.session().call("POST", "/api/v1/namespaces/default/services", {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"protocol": "UDP", "port": 70}]}})
        self.addCleanup(self.api.delete, f"/api/v1/namespaces/default/services/{name}")
        self.session().call("POST", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.9.2.2"], "conditions": {"ready": True}}],
            "ports": [{"name": "", "protocol": "UDP", "port": port}]})

    @staticmethod
    def rules(weights):
        return [{"name": "all", "backendRefs": [{"name": n, "port": 70, "weight": w} for n, w in weights.items()]}]

    def edit(self, **weights):
        self.session().call("PATCH", ROUTE, {"spec": {"rules": self.rules(weights)}}, "application/merge-patch+json")

    def weights(self, p):
        """{backend: weight} of the document that the proxy has."""
        clusters = p.api.get("/config?owner=l7mp-operator")[1]["clusters"]
        return {BACKENDS[e["spec"]["port"] - 9001]: e.get("weight", 1) for c in clusters for e in c["endpoints"] if e["spec"].get("port", 0) > 9000}

    def visit(self):
        """A new session, of a port that had none: the number of its server. What it asks is asked again until it is answered."""
        self.visits += 1
        with self.a.udp(10000 + self.visits, timeout=0.5) as s:
            for _ in range(240):
                s.sendto(struct.pack("!III", 2, self.visits, 0), GATE)
                try:
                    return struct.unpack("!III", s.recv(64))[2]
                except (TimeoutError, ConnectionRefusedError):
                    continue
        self.fail("a new session got no answer")

    @staticmethod
    def flows(p):
        """{client's port: session} of the route's listener."""
        return {s["metadata"]["UDP"]["src_port"]: s for s in p.api.get("/sessions")[1] if s["name"].startswith("UDP:")}

    def of_clients(self, p, traffic):
        flows = self.flows(p)
        return [flows.get(c.getsockname()[1]) for c in traffic.clients]

    def test_edited(self):
        """a UDPRoute edited under load: its flows stay in the kernel without loss, a drained backend gets no new session, a removed one has none"""
        p = self.proxy("10.9.1.1", offload="init", offload_ifs="legA,legB", instance=f"flows{os.getpid()}")
        for i, name in enumerate(BACKENDS):
            self.backend(name, 9001 + i)
        gateway = pod("edge-0", "10.9.1.1", {"gateway.networking.k8s.io/gateway-name": "edge"})
        self.add_pod(*gateway)
        self.gateway_api({"kind": "Gateway", "metadata": {"name": "edge"}, "spec": {
            "gatewayClassName": "l7mp", "listeners": [{"name": "game", "protocol": "UDP", "port": GATE[1]}]}})
        self.gateway_api({"kind": "UDPRoute", "metadata": {"name": "edited"}, "spec": {
            "parentRefs": [{"name": "edge"}], "rules": self.rules({"a": 1, "b": 1, "c": 1})}})
        o = self.operator(lease=False).ready()
        wait_until(lambda: self.weights(p) == {"a": 1, "b": 1, "c": 1})

        traffic = Traffic(self.a, self.b, SESSIONS)
        self.addCleanup(traffic.close)
        traffic.open()
        traffic.run()
        self.assertEqual(set(traffic.home), {0, 1, 2})
        homes = list(traffic.home)
        try:
            wait_until(lambda: all(s and s["offload"]["state"] == "fast" for s in self.of_clients(p, traffic)))
        except AssertionError:
            self.fail(f"not in the kernel: {p.api.get('/sessions')[1][:3]} {p.api.get('/offload')[1]} {p.stderr()[-2000:]}")

        before, posts = self.of_clients(p, traffic), o.metric("proxy_posts_total")
        visited = self.edit_at_a_rate(o)
        after = self.of_clients(p, traffic)
        self.stayed_in_kernel(before, after)
        documents = o.metric("proxy_posts_total") - posts
        self.assertGreater(documents, EDITS / 10)
        self.assertEqual(traffic.moved, [])

        # Drained: what is there stays, what is new goes elsewhere.
        self.edit(a=1, b=1, c=0)
        wait_until(lambda: self.weights(p) == {"a": 1, "b": 1, "c": 0})
        self.assertLessEqual({self.visit() for _ in range(30)}, {0, 1})
        self.stayed_in_kernel(after, self.of_clients(p, traffic))
        self.assertEqual(traffic.moved, [])
        # Removed: its sessions end, and those of the others do not notice.
        self.edit(a=1, b=1)
        mine = [i for i, h in enumerate(homes) if h == 2]
        wait_until(lambda: not {traffic.home[i] for i in mine} & {2})
        arrived = traffic.arrived[2]
        self.assertLessEqual({self.visit() for _ in range(30)}, {0, 1})
        rest = [i for i in range(SESSIONS) if homes[i] != 2]
        traffic.pause(rest)
        self.assertEqual(traffic.arrived[2], arrived)
        self.assertEqual({i for i, _, _ in traffic.moved}, set(mine))
        self.assertEqual({(was, now) for _, was, now in traffic.moved} - {(2, 0), (2, 1)}, set())
        self.assertEqual(traffic.lost(rest), {}, p.stderr()[-2000:])
        self.assertEqual(traffic.twice, 0)
        last = self.of_clients(p, traffic)
        self.stayed_in_kernel([before[i] for i in rest], [last[i] for i in rest])
        say(f"a UDPRoute edited {EDITS} times at {RATE}/s ({documents:.0f} documents): {len(rest)} sessions in the kernel, "
            f"{sum(traffic.sent[w][i] for w in (0, 1) for i in rest)} datagrams, 0 lost, 0 by user space after the first; {visited} new sessions meanwhile, "
            f"{len(mine)} sessions ended with their backend")

    def gateway_api(self, o):
        plural = o["kind"].lower() + "s"
        path = f"/apis/gateway.networking.k8s.io/v1/namespaces/default/{plural}"
        self.session().call("POST", path, {"apiVersion": "gateway.networking.k8s.io/v1", **o})
        self.addCleanup(self.api.delete, f"{path}/{o['metadata']['name']}")

    def edit_at_a_rate(self, o):
        """Random weights, c drained and back, d there and not there, with new sessions meanwhile. Returns how many of those there were."""
        rng, began, stop, visited, failed = random.Random(14), time.monotonic(), threading.Event(), [0], []

        def visit():
            try:
                while not stop.wait(0.01):  # each has a port of its own, below those that the kernel chooses
                    self.visit()
                    visited[0] += 1
            except Exception as e:  # shown by the test
                failed.append(e)
        t = threading.Thread(target=visit)
        t.start()
        try:
            for n in range(EDITS):
                more = {"d": rng.randint(0, 3)} if rng.random() < 0.5 else {}
                self.edit(a=rng.randint(1, 9), b=rng.randint(1, 9), c=rng.randint(0, 3), **more)
                time.sleep(max(0, began + n / RATE - time.monotonic()))
        finally:
            stop.set()
            t.join()
        self.assertEqual(failed, [])
        self.assertEqual(o.metric("proxy_posts_failed_total"), 0)
        return visited[0]

    def stayed_in_kernel(self, before, after):
        """The sessions are the same, and the kernel alone has forwarded what came meanwhile."""
        for was, now in zip(before, after):
            self.assertEqual((now["name"], now["metadata"], now["offload"]["state"]), (was["name"], was["metadata"], "fast"))
            for way in ("ingress", "egress"):
                self.assertEqual(now["stats"][way]["slow"], was["stats"][way]["slow"], now["name"])
                self.assertGreater(now["stats"][way]["fast"]["packets"], was["stats"][way]["fast"]["packets"], now["name"])


if __name__ == "__main__":
    l7test.main()
