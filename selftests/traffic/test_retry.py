#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Retries: late upstreams, dropped upstreams, exhausted retries, deleted endpoints, missing clusters."""
import asyncio
import socket
import time

import l7test
import websockets
from l7test import udp_socket
from traffic import (Case, TcpServer, WsServer, cluster, connect, echo, inline, listener, recv_all, recv_exact,
                     refused, reset, retry)


class Retry(Case):
    def test_late_tcp(self):
        """retry: a TCP upstream that comes up after the session began is reached; early data arrives"""
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001), retry=retry("connect-failure", 20, 200)))
        with connect(9000) as s:
            s.sendall(b"early")
            time.sleep(0.7)
            one = self.session("TCP:")
            self.assertEqual(one["status"], "INIT")
            self.assertIn(one["destination"]["status"], ("DISCONNECTED", "RETRYING"))
            TcpServer(9001, echo)
            self.assertEqual(recv_exact(s, 5), b"early")
            one = self.session("TCP:")
            self.assertEqual(one["status"], "CONNECTED")
            self.assertGreaterEqual(len([e for e in one["events"] if e["event"] == "RETRY"]), 2)

    def test_late_ws(self):
        """retry: a WebSocket upstream that comes later gets all early datagrams, in order, once"""
        self.start(listener("l", "UDP", 9000, cluster("WebSocket", 9001), retry=retry("always", 20, 200)))
        with udp_socket() as s:
            for n in range(10):
                s.sendto(b"%d" % n, ("127.0.0.1", 9000))
            time.sleep(0.5)
            server = WsServer(9001)
            self.assertEqual([s.recv(10) for _ in range(10)], [b"%d" % n for n in range(10)])
            self.assertEqual(server.received, [b"%d" % n for n in range(10)])


    def test_tcp_upstream_drops(self):
        """retry: a TCP upstream that hangs up, or is reset, is connected again while the client stays"""
        for on in ("disconnect", "always"):
            with self.subTest(retry_on=on):
                def serve(conn, index):
                    conn.sendall(b"hello %d;" % index)
                    if index == 0:
                        conn.recv(100)
                        conn.close()
                    elif index == 1:
                        conn.recv(100)
                        reset(conn)
                    else:
                        echo(conn)
                server = TcpServer(9001, serve)
                self.start(listener("l", "TCP", 9000, cluster("TCP", 9001), retry=retry(on, 5, 100)))
                with connect(9000) as s:
                    self.assertEqual(recv_exact(s, 8), b"hello 0;")
                    s.sendall(b"a")
                    self.assertEqual(recv_exact(s, 8), b"hello 1;")
                    s.sendall(b"b")
                    self.assertEqual(recv_exact(s, 8), b"hello 2;")
                    s.sendall(b"c")
                    self.assertEqual(recv_exact(s, 1), b"c")
                    one = self.session("TCP:")
                    events = [e["event"] for e in one["events"]]
                    self.assertEqual(events.count("DISCONNECT"), 2)
                    s.shutdown(socket.SHUT_WR)
                    self.assertEqual(recv_all(s), b"")
                self.stop()
                server.close()

    def test_ws_upstream_drops(self):
        """retry: a WebSocket upstream that drops, or closes, is connected again; the UDP client stays"""
        server = WsServer(9001)
        # The time-out is that of an attempt to connect, too, which would not be tried again.
        self.start(listener("l", "UDP", 9000, cluster("WebSocket", 9001), retry=retry("disconnect", 10, 1000)))
        with udp_socket() as s:
            for n, end in enumerate(("abort", "close", None)):
                s.sendto(b"%d" % n, ("127.0.0.1", 9000))
                self.assertEqual(s.recv(10), b"%d" % n)
                if end == "abort":
                    server.abort()
                elif end == "close":
                    server.call(server.peers[-1].close(1001, "restart"))
                if end:
                    self.later(lambda n=n: len(server.peers) == n + 2 and self.session("UDP:")["status"] == "CONNECTED")
            self.assertEqual(len(self.sessions("UDP:")), 1)

    def test_waiting_while_away(self):
        """retry: UDP datagrams sent while a TCP upstream is away arrive when it is back"""
        got = []

        def serve(conn, _):
            while data := conn.recv(1000):
                got.append(data)
        first = TcpServer(9001, serve)
        self.start(listener("l", "UDP", 9000, cluster("TCP", 9001), retry=retry("always", 50, 100)))
        with udp_socket() as s:
            s.sendto(b"one.", ("127.0.0.1", 9000))
            self.later(lambda: got)
            first.close()
            self.later(lambda: self.session("UDP:")["status"] == "DISCONNECTED")
            for n in range(5):
                s.sendto(b"%d." % n, ("127.0.0.1", 9000))
            time.sleep(0.3)
            TcpServer(9001, serve)
            self.later(lambda: b"".join(got) == b"one.0.1.2.3.4.")
            self.assertEqual(self.session("UDP:")["stats"]["drops"], 0)

    def test_never(self):
        """retry: never: a lost upstream ends the session and closes the client (TCP, WebSocket)"""
        conns = []
        TcpServer(9001, lambda conn, _: conns.append(conn))
        ws = WsServer(9003)
        self.start(listener("t", "TCP", 9000, cluster("TCP", 9001), options={"track": 30}),
                   listener("w", "WebSocket", 9002, cluster("WebSocket", 9003), options={"track": 30},
                            retry=retry("never")))
        with connect(9000) as s:
            # A reset before the proxy has seen the connection would be a failed connect, which is retried.
            self.later(lambda: conns and [x["status"] for x in self.sessions()] == ["CONNECTED"])
            reset(conns[0])
            with self.assertRaises(ConnectionResetError):
                s.recv(10)

        async def go():
            async with websockets.connect("ws://127.0.0.1:9002/") as c:
                await c.send("x")
                await c.recv()
                ws.abort()
                try:
                    await asyncio.wait_for(c.recv(), 5)
                except websockets.ConnectionClosed:
                    return True
        self.assertTrue(asyncio.run(go()))
        self.later(lambda: [s["status"] for s in self.sessions()] == ["DESTROYED"] * 2)
        for one in self.sessions():
            self.assertIn("destination", " ".join(self.texts(one, "ERROR")))
            self.assertNotIn("RETRY", [e["event"] for e in one["events"]])

    def test_connect_failure_only(self):
        """retry: connect-failure alone does not reconnect a lost upstream; disconnect alone does not retry a connect"""
        conns = []
        TcpServer(9001, lambda conn, _: conns.append(conn))
        self.start(listener("a", "TCP", 9000, cluster("TCP", 9001), options={"track": 30},
                            retry=retry("connect-failure", 5, 100)),
                   listener("b", "TCP", 9002, cluster("TCP", 9003), options={"track": 30},
                            retry=retry("disconnect", 5, 100)))
        with connect(9000) as s:
            self.later(lambda: conns)
            reset(conns[0])
            with self.assertRaises(ConnectionResetError):
                s.recv(10)
        self.assertTrue(refused(9002))
        self.later(lambda: [s["status"] for s in self.sessions()] == ["DESTROYED"] * 2)
        for one in self.sessions():
            self.assertNotIn("RETRY", [e["event"] for e in one["events"]])

    def test_exhausted(self):
        """retry: exhausted retries end the session; the error names stage, cluster, address, why and how often"""
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001, name="gone"), options={"track": 30},
                            retry=retry("always", 2, 300)))
        begin = time.monotonic()
        self.assertTrue(refused(9000))
        took = time.monotonic() - begin
        self.assertGreater(took, 0.5)  # two retries, 300 ms apart
        one = self.ended("TCP:")
        text = " ".join(self.texts(one, "ERROR"))
        for word in ("destination", "'gone'", "127.0.0.1", "refused", "after 2 retries"):
            self.assertIn(word, text)
        self.assertEqual(len([e for e in one["events"] if e["event"] == "RETRY"]), 2)

    def test_count_starts_anew(self):
        """retry: after a success the count starts again: more drops than num_retries"""
        server = TcpServer(9001, lambda conn, index: (conn.sendall(b"x"), time.sleep(0.15),
                                                      conn.close() if index < 6 else time.sleep(10)))
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001), retry=retry("always", 1, 100)))
        with connect(9000) as s:
            self.assertEqual(recv_exact(s, 7), b"x" * 7)
        self.assertGreaterEqual(server.count, 7)

    def test_another_endpoint(self):
        """retry: a retry prefers an endpoint other than the one that failed"""
        TcpServer(9001, echo, "127.0.0.2")
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001, ["127.0.0.3", "127.0.0.2"]),
                            retry=retry("always", 1, 300)))
        with connect(9000) as s:
            s.sendall(b"abc")
            self.assertEqual(recv_exact(s, 3), b"abc")
            self.assertEqual(self.session("TCP:")["destination"]["endpoint"]["spec"]["address"], "127.0.0.2")

    def test_deleted_endpoint(self):
        """retry: a recursively deleted endpoint moves its session, the client stays; without recursive it continues"""
        for address in ("127.0.0.2", "127.0.0.3"):
            TcpServer(9001, lambda conn, _, a=address: (conn.sendall(a.encode()), echo(conn)), address)
        target = cluster("TCP", 9001, name="two")
        target["endpoints"] = [{"name": "first", "spec": {"address": "127.0.0.2"}},
                               {"name": "second", "spec": {"address": "127.0.0.3"}}]
        self.start(listener("l", "TCP", 9000, "two", retry=retry("always", 5, 200)), clusters=[target])
        with connect(9000) as s:
            self.assertEqual(recv_exact(s, 9), b"127.0.0.2")
            self.assertEqual(self.api.delete("/endpoints/first?recursive=true")[0], 200)
            self.assertEqual(recv_exact(s, 9), b"127.0.0.3")
            s.sendall(b"x")
            self.assertEqual(recv_exact(s, 1), b"x")
            self.assertEqual(self.session("TCP:")["destination"]["endpoint"]["name"], "second")
            self.assertEqual(self.api.delete("/endpoints/second")[0], 200)
            s.sendall(b"y")
            self.assertEqual(recv_exact(s, 1), b"y")

    def test_missing_cluster(self):
        """retry: a missing cluster is a connect failure; added meanwhile, it is reached"""
        TcpServer(9001, echo)
        self.start(listener("l", "TCP", 9000, "later", retry=retry("connect-failure", 20, 200)),
                   listener("m", "TCP", 9002, "never-there", options={"track": 30}))
        with connect(9000) as s:
            s.sendall(b"abc")
            time.sleep(0.5)
            self.assertEqual(self.api.post("/clusters", {"cluster": cluster("TCP", 9001, name="later")})[0], 200)
            self.assertEqual(recv_exact(s, 3), b"abc")
        self.assertTrue(refused(9002))
        self.assertIn("'never-there'", " ".join(self.texts(self.ended("TCP:"), "ERROR")))

    def test_transformer_fails(self):
        """retry: a stage of the chain that can't be connected is named in the error"""
        TcpServer(9001, echo)
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001), options={"track": 30},
                            ingress=[inline("Echo"), inline("Logger", log_file="/no/such/dir/file")]))
        self.assertTrue(refused(9000))
        text = " ".join(self.texts(self.ended("TCP:"), "ERROR"))
        self.assertIn("ingress[1]", text)
        self.assertIn("/no/such/dir/file", text)

    def test_recursive_delete_ends(self):
        """retry: recursive deletes of cluster, route, rule, rule list, listener end their sessions; plain ones don't"""
        TcpServer(9001, echo)
        for kind in ("clusters", "routes", "rules", "rulelists", "listeners"):
            with self.subTest(kind=kind):
                self.start(clusters=[cluster("TCP", 9001, name="c")])
                for path, body in (("/routes", {"route": {"name": "r", "destination": "c"}}),
                                   ("/rules", {"rule": {"name": "u", "action": {"route": "r"}}}),
                                   ("/rulelists", {"rulelist": {"name": "rl", "rules": ["u"]}}),
                                   ("/listeners", {"listener": {"name": "l", "rules": "rl",
                                                                "spec": {"protocol": "TCP", "port": 9000}}})):
                    self.assertEqual(self.api.post(path, body)[0], 200)
                name = {"clusters": "c", "routes": "r", "rules": "u", "rulelists": "rl", "listeners": "l"}[kind]
                with connect(9000) as s:
                    s.sendall(b"x")
                    self.assertEqual(s.recv(1), b"x")
                    self.assertEqual(self.api.delete(f"/{kind}/{name}?recursive=true")[0], 200)
                    self.later(lambda: not self.sessions("TCP:"))
                    try:
                        self.assertEqual(s.recv(1), b"")
                    except ConnectionResetError:
                        pass
                self.stop()
        self.start(listener("l", "TCP", 9000, "c"), clusters=[cluster("TCP", 9001, name="c")])
        with connect(9000) as s:
            s.sendall(b"x")
            self.assertEqual(s.recv(1), b"x")
            self.assertEqual(self.api.delete("/clusters/c")[0], 200)
            self.assertEqual(self.api.delete("/listeners/l")[0], 200)
            s.sendall(b"y")
            self.assertEqual(s.recv(1), b"y")

    def test_accepts_and_drops(self):
        """retry: an upstream that accepts and drops in a circle costs one connection per timeout"""
        server = TcpServer(9001, lambda conn, _: conn.close())
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001), retry=retry("always", 100, 300)))
        with connect(9000):
            time.sleep(1.5)
            self.assertLessEqual(server.count, 7)
            self.assertGreaterEqual(server.count, 3)


if __name__ == "__main__":
    l7test.main()
