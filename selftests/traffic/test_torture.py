#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=120
"""Everything at once: clients and upstreams that vanish in every way while the configuration changes under them.

Afterwards there is no session, no descriptor and no sanitizer's finding left.
"""
import asyncio
import http.client
import os
import random
import socket
import threading
import time

import l7test
import websockets
from l7test import udp_socket
from traffic import Case, TcpServer, UdpEcho, WsServer, cluster, connect, inline, listener, recv_exact, reset, retry

SECONDS = 60 if l7test.FULL else 12


class Torture(Case):
    def moody(self, seed):
        def serve(conn, index):
            rng = random.Random(seed * 100_000 + index)
            conn.settimeout(30)
            mood = rng.randrange(7)
            for _ in range(rng.randrange(1, 30)):
                data = conn.recv(rng.choice((1, 100, 65536)))
                if not data:
                    break
                conn.sendall(data)
                if mood == 1:
                    time.sleep(0.01)
            if mood == 2:
                reset(conn)
            elif mood == 3:
                conn.shutdown(socket.SHUT_WR)
                time.sleep(0.1)
            elif mood == 4:
                time.sleep(0.5)
            elif mood == 5:
                conn.sendall(os.urandom(300_000))
            conn.close()
        return serve

    def tcp_client(self, rng, port):
        s = connect(port, timeout=2)
        for _ in range(rng.randrange(6)):
            s.sendall(rng.randbytes(rng.choice((1, 1000, 100_000))))
            if rng.random() < 0.5:
                s.recv(rng.choice((1, 65536)))
        how = rng.randrange(4)
        if how == 0:
            reset(s)
        elif how == 1:
            s.shutdown(socket.SHUT_WR)
            while s.recv(65536):
                pass
        s.close()

    def udp_client(self, rng, port):
        with udp_socket(timeout=0.2) as s:
            for _ in range(rng.randrange(1, 30)):
                s.sendto(rng.randbytes(rng.choice((0, 1, 500, 9000))), ("127.0.0.1", port))
            for _ in range(rng.randrange(5)):
                s.recv(65536)

    def http_client(self, rng, port):
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        for _ in range(rng.randrange(1, 4)):
            c.request(rng.choice(("GET", "POST", "PUT")), "/x", rng.randbytes(rng.choice((0, 10, 200_000))))
            r = c.getresponse()
            if rng.random() < 0.7:
                r.read()
            else:
                break
        c.close()

    def ws_client(self, rng, port):
        async def go():
            ws = await websockets.connect(f"ws://127.0.0.1:{port}/", max_size=None)
            for _ in range(rng.randrange(10)):
                await ws.send(rng.choice(("text", b"bin", rng.randbytes(rng.choice((1, 100_000))))))
            if rng.random() < 0.5:
                await asyncio.wait_for(ws.recv(), 1)
            if rng.random() < 0.4:
                ws.transport.abort()
            else:
                await ws.close(rng.choice((1000, 3000, 4000)))
        asyncio.run(asyncio.wait_for(go(), 4))

    def operator(self, rng):
        api = l7test.Api()
        what = rng.randrange(7)
        if what == 0:
            _, found = api.get("/sessions")
            for s in rng.sample(found, min(3, len(found))):
                if s["source"]["listener"] != "controller-listener":
                    api.delete("/sessions/" + s["name"].replace("/", "%2F"))
        elif what == 1:
            api.delete(f"/endpoints/e{rng.randrange(3)}?recursive=true")
        elif what == 2:
            for n in range(3):
                api.post("/clusters/pool/endpoints", {"endpoint": {"name": f"e{n}", "spec": {"address": f"127.0.0.{n + 1}"}}})
        elif what == 3:
            name = rng.choice(list(self.items))
            api.put(f"/listeners/{name}", {"listener": self.items[name]})
        elif what == 4:
            _, config = api.get("/config")
            self.assertEqual(api.post("/config", config)[0], 200)
        elif what == 5:
            name = rng.choice(list(self.items))
            api.delete(f"/listeners/{name}?recursive=true")
            api.post("/listeners", {"listener": self.items[name]})
        else:
            api.get("/listeners?recursive=true")

    def test_torture(self):
        """torture: all protocols, bad peers and a busy operator at once; nothing is left behind"""
        for n in (1, 2):
            TcpServer(9101, self.moody(n), f"127.0.0.{n}")
        UdpEcho(9102)

        async def fickle(ws, server):
            rng = random.Random(len(server.peers))
            async for message in ws:
                await ws.send(message)
                if rng.random() < 0.1:
                    if rng.random() < 0.5:
                        ws.transport.abort()
                    return
        WsServer(9103, fickle, max_size=None)
        pool = {"name": "pool", "spec": {"protocol": "TCP", "port": 9101}, "loadbalancer": {"policy": "RoundRobin"},
                "endpoints": [{"name": f"e{n}", "spec": {"address": f"127.0.0.{n + 1}"}} for n in range(3)]}
        again = retry("always", 2, 100)
        log = inline("Logger", log_file="/dev/null")
        udp, ws = cluster("UDP", 9102), cluster("WebSocket", 9103)
        items = [listener("tt", "TCP", 9001, "pool", retry=again, options={"track": 1}), listener("tw", "TCP", 9002, ws, retry=again),
                 listener("tu", "TCP", 9003, udp, ingress=[log]), listener("te", "TCP", 9004, inline("Echo"), egress=[log]),
                 listener("ut", "UDP", 9001, "pool", retry=again, options={"idle_timeout": 1}),
                 listener("uw", "UDP", 9002, ws, retry=again, options={"idle_timeout": 0.5}),
                 listener("uu", "UDP", 9003, udp, ingress=[log], egress=[inline("Echo")], options={"idle_timeout": 0.5}),
                 listener("ht", "HTTP", 9005, "pool", retry=again), listener("he", "HTTP", 9006, inline("Echo")),
                 listener("hw", "HTTP", 9010, ws, options={"idle_timeout": 1}),
                 listener("wt", "WebSocket", 9007, "pool", retry=again), listener("ww", "WebSocket", 9008, ws, retry=again),
                 listener("wu", "WebSocket", 9009, udp, ingress=[log])]
        self.items = {item["name"]: item for item in items}
        proxy = self.start(*items, clusters=[pool])
        base = proxy.fds()
        end = time.monotonic() + SECONDS
        broken, done = [], {}

        def loop(kind, act, ports, seed):
            rng = random.Random(seed)
            while time.monotonic() < end:
                try:
                    act(rng, rng.choice(ports)) if ports else act(rng)
                    done[kind] = done.get(kind, 0) + 1
                except (OSError, http.client.HTTPException, websockets.WebSocketException, asyncio.TimeoutError):
                    if not proxy.alive():
                        return
                    time.sleep(0.01)
                except Exception as e:  # of the test itself
                    broken.append(e)
                    raise
        threads = [threading.Thread(target=loop, args=a) for a in
                   [("tcp", self.tcp_client, (9001, 9002, 9003, 9004), i) for i in range(4)] +
                   [("udp", self.udp_client, (9001, 9002, 9003), i) for i in range(3)] +
                   [("http", self.http_client, (9005, 9006, 9010), i) for i in range(2)] +
                   [("ws", self.ws_client, (9007, 9008, 9009), i) for i in range(2)] +
                   [("operator", self.operator, None, i) for i in range(1)]]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertTrue(proxy.alive(), proxy.stderr()[-5000:])
        self.assertEqual(broken, [])
        print("# done:", done, flush=True)
        self.assertEqual(set(done), {"tcp", "udp", "http", "ws", "operator"}, done)
        self.later(lambda: not self.sessions(), 40, f"sessions are left: {[(s['name'], s['events'][-3:]) for s in self.sessions()][:3]}")
        self.later(lambda: proxy.fds() <= base + 2, 10, f"descriptors are left: {base}, {proxy.fds()}")
        for name, item in self.items.items():
            if self.api.get(f"/listeners/{name}")[0] == 404:
                self.assertEqual(self.api.post("/listeners", {"listener": item})[0], 200)
        with connect(9004) as s:
            s.sendall(b"still fine")
            self.assertEqual(recv_exact(s, 10), b"still fine")


if __name__ == "__main__":
    l7test.main()
