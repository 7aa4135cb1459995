#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What the API and the access log say of sessions: states, events, exact counters, tracking."""
import asyncio
import json
import os
import random
import socket
import threading
import time

import l7test
import websockets
from l7test import udp_socket
from traffic import (Case, TcpServer, UdpEcho, WsServer, cluster, connect, echo, inline, listener, recv_all, recv_exact,
                     retry)

STATES = {"INIT", "CONNECTED", "DISCONNECTED", "FINALIZING", "DESTROYED"}
STAGES = {"INIT", "CONNECTED", "READY", "DISCONNECTED", "RETRYING", "END"}


class Sessions(Case):
    def counts(self, s, which="stats"):
        c = s[which] if which else s
        return (c["ingress"]["packets"], c["ingress"]["bytes"], c["egress"]["packets"], c["egress"]["bytes"])

    def test_shape(self):
        """sessions: the JSON of a session has every part; GET by name, 404 for an unknown one"""
        TcpServer(9001, echo)
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001, name="up"),
                            ingress=[inline("Logger", log_file="/dev/null")], egress=[inline("Echo")]))
        with connect(9000) as s:
            s.sendall(b"abc")
            self.assertEqual(recv_exact(s, 3), b"abc")
            one = self.session("TCP:")
            status, same = self.api.get("/sessions/" + one["name"])
            self.assertEqual((status, same["name"]), (200, one["name"]))
        for key in ("name", "metadata", "source", "destination", "ingress", "egress", "status", "events", "stats", "offload"):
            self.assertIn(key, one)
        self.assertEqual((one["status"], one["source"]["status"], one["destination"]["status"]),
                         ("CONNECTED", "READY", "READY"))
        self.assertEqual((one["source"]["origin"], one["source"]["listener"]), ("l", "l"))
        self.assertEqual(one["destination"]["origin"], "up")
        self.assertEqual(one["destination"]["endpoint"]["spec"]["address"], "127.0.0.1")
        self.assertEqual([len(one["ingress"]), len(one["egress"])], [1, 1])
        self.assertEqual([e["event"] for e in one["events"]], ["INIT", "CONNECT"])
        for e in one["events"]:
            self.assertRegex(e["timestamp"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        self.assertEqual(one["stats"]["ingress"]["slow"], {"packets": one["stats"]["ingress"]["packets"], "bytes": 3})
        self.assertEqual(one["offload"]["state"], "slow")
        self.assertEqual(self.api.get("/sessions/nobody")[0], 404)
        self.assertEqual(self.api.delete("/sessions/nobody")[0], 404)

    def test_udp_counts(self):
        """sessions: UDP counters equal what the peers sent and received; the access log's record is equal"""
        TcpServer(9001, echo)
        up = UdpEcho(9001)
        log = os.path.join(self.tmp(), "access.log")
        self.start(listener("l", "UDP", 9000, cluster("UDP", 9001), options={"track": 60}),
                   admin={"access_log_path": log})
        rng = random.Random(2)
        sent = [rng.randbytes(rng.randrange(0, 3000)) for _ in range(400)]
        with udp_socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            back = []
            for i in range(0, 400, 20):
                for m in sent[i:i + 20]:
                    s.sendto(m, ("127.0.0.1", 9000))
                back += [s.recv(65536) for _ in range(20)]
            port = s.getsockname()[1]
        self.assertEqual(back, sent)
        self.assertEqual(len(up.seen), 400)
        want = (400, sum(map(len, sent)), 400, sum(map(len, sent)))
        one = self.session("UDP:")
        self.assertEqual(self.counts(one), want)
        self.assertEqual(self.api.delete("/sessions/" + one["name"])[0], 200)
        one = self.ended("UDP:")
        self.assertEqual(self.counts(one), want)
        record = self.records(log, "UDP:")[0]
        self.assertEqual(self.counts(record, None), want)
        self.assertEqual(record["name"], one["name"])
        self.assertEqual(record["source"], {"listener": "l", "address": f"127.0.0.1:{port}"})
        self.assertEqual(record["destination"]["address"], "127.0.0.1:9001")
        self.assertGreater(record["duration"], 0)
        self.assertTrue(record["reason"])
        for direction in ("ingress", "egress"):
            self.assertEqual(record[direction]["fast"], {"packets": 0, "bytes": 0})

    def tmp(self):
        import tempfile
        d = tempfile.TemporaryDirectory(prefix="l7mp-log-")
        self.addCleanup(d.cleanup)
        return d.name

    def records(self, log, prefix, n=1):
        def read():
            with open(log) as f:
                found = [json.loads(row) for row in f]
            found = [r for r in found if r["name"].startswith(prefix)]
            return found if len(found) >= n else None
        return self.later(read)

    def test_stream_counts(self):
        """sessions: TCP byte counters are exact in both directions, also in many parallel sessions and in the log"""
        def serve(conn, _):
            n = len(recv_all(conn))
            conn.sendall(bytes(n // 2))
            conn.close()
        TcpServer(9001, serve)
        log = os.path.join(self.tmp(), "access.log")
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001), options={"track": 60}), admin={"access_log_path": log})
        sizes = {}

        def one(i):
            with connect(9000) as s:
                port = s.getsockname()[1]
                sizes[port] = 1000 * i * i + i
                s.sendall(bytes(sizes[port]))
                s.shutdown(socket.SHUT_WR)
                assert len(recv_all(s)) == sizes[port] // 2
        threads = [threading.Thread(target=one, args=(i,)) for i in range(30)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.later(lambda: len([s for s in self.sessions("TCP:") if s["status"] == "DESTROYED"]) == 30)
        for s in self.sessions("TCP:"):
            size = sizes[s["metadata"]["TCP"]["src_port"]]
            self.assertEqual((s["stats"]["ingress"]["bytes"], s["stats"]["egress"]["bytes"]), (size, size // 2))
        records = self.records(log, "TCP:", 30)
        self.assertEqual(sorted(r["ingress"]["bytes"] for r in records), sorted(sizes.values()))
        self.assertEqual(len(records), 30)

    def test_ws_counts(self):
        """sessions: WebSocket messages are packets, their payload the bytes"""
        WsServer(9001)
        self.start(listener("l", "WebSocket", 9000, cluster("WebSocket", 9001), options={"track": 60}))

        async def go():
            async with websockets.connect("ws://127.0.0.1:9000/") as ws:
                for n in range(25):
                    await ws.send(b"x" * n)
                    await ws.recv()
        asyncio.run(go())
        self.assertEqual(self.counts(self.ended("WS:")), (25, 300, 25, 300))

    def test_chain_counts(self):
        """sessions: chains don't count twice"""
        self.start(listener("l", "UDP", 9000, inline("Echo"),
                            ingress=[inline("Echo"), inline("Logger", log_file="/dev/null")],
                            egress=[inline("Echo"), inline("Echo"), inline("Echo")]))
        with udp_socket() as s:
            for n in range(10):
                s.sendto(b"12345", ("127.0.0.1", 9000))
                s.recv(10)
        self.assertEqual(self.counts(self.session("UDP:")), (10, 50, 10, 50))

    def test_events_bounded(self):
        """sessions: events are bounded, the oldest go first"""
        conns = []
        TcpServer(9001, lambda conn, _: (conns.append(conn), conn.close()))
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001), retry=retry("always", 1000, 10)))
        with connect(9000):
            self.later(lambda: len(conns) > 50, 15)
            events = self.session("TCP:")["events"]
        self.assertLessEqual(len(events), 32)
        self.assertNotIn("INIT", [e["event"] for e in events])
        stamps = [e["timestamp"] for e in events]
        self.assertEqual(stamps, sorted(stamps))

    def test_track(self):
        """sessions: a tracked session is shown for its time and no longer, with its final state and reason"""
        self.start(listener("l", "UDP", 9000, inline("Echo"), options={"track": 1.0, "idle_timeout": 0.3}),
                   listener("n", "UDP", 9001, inline("Echo"), options={"idle_timeout": 0.3}))
        with udp_socket() as s:
            for port in (9000, 9001):
                s.sendto(b"x", ("127.0.0.1", port))
                s.recv(10)
            one = self.ended("UDP:")
            self.assertEqual(one["source"]["listener"], "l")
            self.assertEqual({one["source"]["status"], one["destination"]["status"]}, {"END"})
            self.assertEqual(self.counts(one), (1, 1, 1, 1))
            self.later(lambda: not self.sessions())
            # The same client again, while its old session is shown.
            s.sendto(b"y", ("127.0.0.1", 9000))
            s.recv(10)
            self.ended("UDP:")
            s.sendto(b"z", ("127.0.0.1", 9000))
            self.assertEqual(s.recv(10), b"z")
            self.assertEqual(len([x for x in self.sessions() if x["status"] == "CONNECTED"]), 1)

    def test_states_only_known(self):
        """sessions: whatever happens, states come from the documented lists"""
        TcpServer(9001, lambda conn, i: (conn.recv(10), conn.close()))
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001), options={"track": 5}, retry=retry("always", 3, 50)),
                   listener("m", "TCP", 9002, cluster("TCP", 9003), options={"track": 5}, retry=retry("always", 3, 50)))
        end = time.monotonic() + 1.5
        seen, stages = set(), set()
        socks = []
        while time.monotonic() < end:
            for port in (9000, 9002):
                s = connect(port)
                s.sendall(b"x")
                socks.append(s)
            for s in self.sessions():
                seen.add(s["status"])
                stages |= {s["source"]["status"], s["destination"]["status"]}
            if len(socks) > 10:
                socks.pop(0).close()
            time.sleep(0.02)
        self.assertLessEqual(seen, STATES)
        self.assertLessEqual(stages, STAGES)
        self.assertGreaterEqual(len(seen), 2)
        for s in socks:
            s.close()

    def test_metrics(self):
        """sessions: listener_requests_total, cluster_requests_total and slow-path counters follow the traffic"""
        UdpEcho(9001)
        self.start(listener("mine", "UDP", 9000, cluster("UDP", 9001, name="theirs")))
        before = self.metric("l7mp_slow_path_packets_total")
        for _ in range(4):
            with udp_socket() as s:
                s.sendto(b"x", ("127.0.0.1", 9000))
                s.recv(10)
        self.assertEqual(self.metric("listener_requests_total", 'listenerName="mine"'), 4)
        self.assertEqual(self.metric("cluster_requests_total", 'clusterName="theirs"'), 4)
        self.assertGreaterEqual(self.metric("l7mp_slow_path_packets_total"), before + 8)


if __name__ == "__main__":
    l7test.main()
