#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=180
"""JSONEncap, JSONDecap, JSONSocket, Sync, Metric and Prometheus with independent peers."""
import asyncio
import base64
import contextlib
import http.client
import json
import os
import select
import socket
import struct
import time
import unittest

import l7test
import promtext
import traffic
import websockets
from traffic import cluster, inline, listener

PAD = " " * 200


def udp(port):
    s = l7test.udp_socket()
    s.connect(("127.0.0.1", port))
    traffic.PEERS.append(s)
    return s


def tcp(port):
    s = socket.create_connection(("127.0.0.1", port), 30)
    s.settimeout(30)
    traffic.PEERS.append(s)
    return s


def read_lines(s, n):
    data = b""
    while data.count(b"\n") < n:
        piece = s.recv(65536)
        if not piece:
            break
        data += piece
    return data


def read_exactly(s, n):
    data = b""
    while len(data) < n:
        piece = s.recv(n - len(data))
        if not piece:
            break
        data += piece
    return data


def silent(s, seconds=0.2):
    return not select.select([s], [], [], seconds)[0]


def head(version=1, **fields):
    return json.dumps(dict({"JSONSocketVersion": version}, **fields))


class Json(traffic.Case):
    def test_encap_udp(self):
        """UDP -> JSONEncap -> Echo: an object a datagram, metadata of the session"""
        self.start(listener("l", "UDP", 15000, inline("Echo"), ingress=[inline("INLINE/JSONEncap")],
                            rewrite=[{"path": "/who", "value": ["é", {"a": None}]}]))
        s = udp(15000)
        for payload in (b"", b"\0", os.urandom(1200), bytes(range(256)) * 150):
            s.send(payload)
            text = s.recv(65536)
            o = json.loads(text)
            self.assertEqual(base64.b64decode(o["payload"], validate=True), payload)
            self.assertEqual(o["metadata"]["UDP"], {"src_port": s.getsockname()[1], "dst_port": 15000})
            self.assertEqual(o["metadata"]["who"], ["é", {"a": None}])
            self.assertEqual(set(o), {"metadata", "payload"})
            self.assertFalse(text.endswith(b"\n"))
        s.send(b"x" * 60000)  # 80 KB of JSON is no datagram
        self.later(lambda: self.drops("too-large") == 1)

    def test_encap_to_stream(self):
        """UDP -> JSONEncap -> TCP: objects end with a newline"""
        got = []
        server = socket.create_server(("127.0.0.1", 16000))
        traffic.PEERS.append(server)
        self.start(listener("l", "UDP", 15000, cluster("TCP", 16000), ingress=[inline("JSONEncap")]))
        s = udp(15000)
        for i in range(50):
            s.send(b"message %d" % i)
        conn, _ = server.accept()
        conn.settimeout(30)
        got = [json.loads(row) for row in read_lines(conn, 50).splitlines()]
        self.assertEqual([base64.b64decode(o["payload"]) for o in got], [b"message %d" % i for i in range(50)])
        conn.close()

    def test_decap_stream(self):
        """TCP -> JSONDecap -> UDP: objects in odd pieces become datagrams; garbage costs one line"""
        echo = traffic.UdpEcho(16000)
        traffic.PEERS.append(echo)
        with contextlib.suppress(PermissionError):  # what it has not read yet must not overflow
            echo.sock.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)  # SO_RCVBUFFORCE
        self.start(listener("l", "TCP", 15000, cluster("UDP", 16000), ingress=[inline("JSONDecap")]))
        s = tcp(15000)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sent, text = [], b""
        for i in range(200):
            payload = os.urandom(i * 7)
            o = json.dumps({"payload": base64.b64encode(payload).decode(), "metadata": {"n": i}},
                           indent=2 if i % 3 == 0 else None)
            text += o.encode() + (b"\n", b"", b" \r\n\t")[i % 3]
            if payload:
                sent.append(payload)
        text += b'\n}}garbage {"payload":"bG9zdA=="}\n{"payload":"ZW5k"}{"payload":"bad!"}{"x":1}{"payload":"ZW5k"}'
        sent += [b"end", b"end"]
        for i in range(0, len(text), 977):
            s.sendall(text[i:i + 977])
        self.later(lambda: len(echo.seen) >= len(sent))
        time.sleep(0.1)
        self.assertEqual([d for _, d in echo.seen], sent)
        self.assertEqual(read_exactly(s, sum(map(len, sent))), b"".join(sent))
        self.assertEqual(self.drops("malformed"), 3)
        self.assertEqual(self.session("TCP")["stats"]["drops"], 3)

    def test_decap_udp(self):
        """UDP -> JSONDecap: what is not valid is dropped, counted and logged, not often"""
        proxy = self.start(listener("l", "UDP", 15000, inline("Echo"), ingress=[inline("INLINE/JSONDecap")]))
        s = udp(15000)
        bad = [b"", b"{", b"[]", b'{"payload":"Zg="}', b'{"payload":"Z g="}', b"\xff" * 100, b'{"payload":7}'] * 20
        for b in bad:
            s.send(b)
        s.send(b'{"payload":"b2s=","metadata":{"IP":{"src_addr":"6.6.6.6"}}}')
        self.assertEqual(s.recv(100), b"ok")
        self.assertEqual(self.drops("malformed"), len(bad))
        self.assertEqual(self.session("UDP")["metadata"]["IP"]["src_addr"], "127.0.0.1")
        self.assertTrue(1 <= proxy.stderr().count("jsondecap") <= 10, proxy.stderr())

    def chain(self, protocol, name):
        hop = [inline("JSONEncap"), inline("Logger", log_file=os.path.join(self.log, name)), inline("JSONDecap")]
        return listener(name, protocol, {"UDP": 15000, "TCP": 15001, "WebSocket": 15002}[protocol],
                        cluster(protocol, {"UDP": 16000, "TCP": 16001, "WebSocket": 16002}[protocol]),
                        ingress=hop, egress=hop)

    def test_chain(self):
        """JSONEncap -> Logger -> JSONDecap both ways: UDP, TCP and WebSocket keep bytes and boundaries"""
        import tempfile
        with tempfile.TemporaryDirectory() as self.log:
            for e in (traffic.UdpEcho(16000), l7test.TcpEcho(16001)):
                traffic.PEERS.append(e)
            traffic.WsServer(16002, max_size=1 << 25)
            self.start(*[self.chain(p, "chain-" + p) for p in ("UDP", "TCP", "WebSocket")])
            s = udp(15000)
            for n in (0, 1, 100, 1200, 65507):
                data = os.urandom(n)
                s.send(data)
                self.assertEqual(s.recv(70000), data)
            t = tcp(15001)
            data = os.urandom(3 << 20)
            import threading
            sender = threading.Thread(target=lambda: (t.sendall(data), t.shutdown(socket.SHUT_WR)))
            sender.start()
            self.assertEqual(read_exactly(t, len(data) + 1), data)
            sender.join()

            async def ws():
                async with websockets.connect("ws://127.0.0.1:15002/", max_size=1 << 25) as w:
                    for n in (0, 1, 1200, 100000, 4 << 20):
                        data = os.urandom(n)
                        await w.send(data)
                        self.assertEqual(await asyncio.wait_for(w.recv(), 10), data)
            asyncio.run(ws())
            self.assertEqual(self.drops("malformed"), 0)
            logged = open(os.path.join(self.log, "chain-UDP"), "rb").read()
            self.assertEqual(len(logged.splitlines()), 10)
            self.assertIn(b'"metadata":{', logged)

    def test_encap_websocket_text(self):
        """UDP -> JSONEncap -> WebSocket: text messages, as a browser wants them"""
        server = traffic.WsServer(16002)
        self.start(listener("l", "UDP", 15000, cluster("WebSocket", 16002), ingress=[inline("JSONEncap")],
                            egress=[inline("JSONDecap")]))
        s = udp(15000)
        s.send(b"\0binary")
        self.assertEqual(s.recv(100), b"\0binary")
        self.assertIsInstance(server.received[0], str)


class JsonSocket(traffic.Case):
    """JSONSocket listeners and clusters."""

    def begin(self, transport, port, destination, **kw):
        keys = {} if transport.startswith("UNIX") else {"address": "127.0.0.1", "port": port}
        if transport.startswith("UNIX"):
            keys["filename"] = port
        return listener("js", "JSONSocket", None, destination, transport=dict(protocol=transport, **keys), **kw)

    def test_udp(self):
        """over UDP: handshake, metadata, repeated headers, payload"""
        self.start(self.begin("UDP", 15000, inline("Echo"), match={"op": "test", "path": "/JSONSocket/room",
                                                                    "value": "é"}))
        s = udp(15000)
        header = head(room="é", deep={"er": [1, 2]}).encode()
        for _ in range(3):
            s.send(header)
            answer = json.loads(s.recv(1000))
            self.assertEqual(answer, {"JSONSocketVersion": 1, "JSONSocketStatus": 200, "JSONSocketMessage": "OK"})
        found = self.session("JSONSocket:js-")
        self.assertEqual(found["metadata"]["JSONSocket"], json.loads(header))
        self.assertEqual(found["metadata"]["UDP"]["dst_port"], 15000)
        self.assertEqual(found["stats"]["ingress"]["packets"], 0)
        for payload in (b"one", header, b"", os.urandom(1200)):
            s.send(payload)
            self.assertEqual(s.recv(2000), payload)
        self.assertTrue(silent(s))
        self.assertEqual(self.api.delete("/sessions/" + found["name"])[0], 200)

    def test_udp_begins_anew(self):
        """over UDP: a client that starts again on the same port gets a session of its own, at the limit too"""
        self.start(self.begin("UDP", 15000, inline("Echo")), admin={"limits": {"max_sessions": 20}})
        port = None
        for n in range(30):
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            s.settimeout(30)
            s.bind(("127.0.0.1", port or 0))
            port = s.getsockname()[1]
            s.connect(("127.0.0.1", 15000))
            s.send(head(start=n).encode())
            self.assertEqual(json.loads(s.recv(1000))["JSONSocketStatus"], 200)
            s.send(b"media %d" % n)
            self.assertEqual(s.recv(1000), b"media %d" % n)
            self.assertEqual(self.session("JSONSocket:js-")["metadata"]["JSONSocket"]["start"], n)
            s.close()

    def test_udp_errors(self):
        """over UDP: 400, 505, 404, 502; nothing longer than what was sent"""
        self.start(self.begin("UDP", 15000, "missing", match={"op": "defined", "path": "/JSONSocket/go"}))
        for text, status in (("nonsense", 400), ("{}", 400), ('{"JSONSocketVersion":"1"}', 400),
                             (head(2), 505), (head(1), 404), (head(1, go=1), 502)):
            s = udp(15000)
            s.send((text + PAD).encode())
            answer = s.recv(1000)
            self.assertEqual(json.loads(answer)["JSONSocketStatus"], status, text)
            self.assertLessEqual(len(answer), len(text + PAD))
            for n in range(1, 100, 7):
                s = udp(15000)
                s.send(text.encode()[:n])
                if not silent(s, 0.01):
                    self.assertLessEqual(len(s.recv(1000)), n)
        self.assertEqual(self.sessions(), [])

    def test_tcp(self):
        """over TCP: header in pieces, payload behind it, half-close"""
        self.start(self.begin("TCP", 15000, inline("Echo")))
        for end in ("\n", ""):
            s = tcp(15000)
            for c in head(a=1) + end:
                s.sendall(c.encode())
                time.sleep(0.001)
            self.assertEqual(json.loads(read_lines(s, 1))["JSONSocketStatus"], 200)
            data = b"payload\n" + os.urandom(500000)
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            self.assertEqual(read_exactly(s, len(data) + 1), data)
        s = tcp(15000)
        s.sendall(head().encode() + b"\nearly")
        answer, payload = read_exactly(s, 72 + 5).split(b"\n")
        self.assertEqual((json.loads(answer)["JSONSocketStatus"], payload), (200, b"early"))

    def test_tcp_errors(self):
        """over TCP: errors are answered, then the connection ends; silence is 408"""
        self.start(self.begin("TCP", 15000, "missing", match={"op": "defined", "path": "/JSONSocket/go"}))
        quiet = tcp(15000)
        quiet.settimeout(15)
        begin = time.monotonic()
        for text, status in (("GET / HTTP/1.1\r\n\r\n", 400), ("[]\n", 400), ("{}\n", 400), (head(7) + "\n", 505),
                             (head() + "\n", 404), (head(go=1) + "\n", 502), ("{" + " " * 70000, 400)):
            s = tcp(15000)
            s.sendall(text.encode())
            rows = read_exactly(s, 10000).splitlines()
            self.assertEqual(len(rows), 1, rows)
            self.assertEqual(json.loads(rows[0])["JSONSocketStatus"], status, text)
        self.assertEqual(json.loads(read_exactly(quiet, 10000))["JSONSocketStatus"], 408)
        self.assertTrue(9 < time.monotonic() - begin < 12)

    def test_websocket(self):
        """over WebSocket: text answer; messages keep type and boundaries"""
        self.start(self.begin("WebSocket", 15000, inline("Echo")))

        async def run():
            async with websockets.connect("ws://127.0.0.1:15000/chat") as w:
                await w.send(head(token="t"))
                answer = await asyncio.wait_for(w.recv(), 5)
                self.assertIsInstance(answer, str)
                self.assertEqual(json.loads(answer)["JSONSocketStatus"], 200)
                for m in ("text", b"binary", head(token="t"), b""):
                    await w.send(m)
                    self.assertEqual(await asyncio.wait_for(w.recv(), 5), m)
                found = self.session("JSONSocket:js-")
                self.assertEqual(found["metadata"]["HTTP"]["url"]["path"], "/chat")
            async with websockets.connect("ws://127.0.0.1:15000/") as w:
                await w.send("nonsense")
                self.assertEqual(json.loads(await asyncio.wait_for(w.recv(), 5))["JSONSocketStatus"], 400)
                with self.assertRaises(websockets.ConnectionClosed):
                    await asyncio.wait_for(w.recv(), 5)
        asyncio.run(run())

    def test_unix(self):
        """over UNIX sockets: stream, seqpacket, dgram"""
        for transport, kind in (("UNIX/stream", socket.SOCK_STREAM), ("UNIX/seqpacket", socket.SOCK_SEQPACKET),
                                ("UNIX/dgram", socket.SOCK_DGRAM)):
            self.start(self.begin(transport, "@l7mp-js", inline("Echo")))
            s = socket.socket(socket.AF_UNIX, kind)
            s.settimeout(30)
            if kind == socket.SOCK_DGRAM:
                s.bind("\0l7mp-js-client")
            s.connect("\0l7mp-js")
            s.send(head(a=transport).encode() + (b"\n" if kind == socket.SOCK_STREAM else b""))
            self.assertEqual(json.loads(s.recv(1000))["JSONSocketStatus"], 200)
            s.send(b"ping")
            self.assertEqual(s.recv(100), b"ping")
            self.assertEqual(self.session("JSONSocket")["metadata"]["JSONSocket"]["a"], transport)
            s.close()
            self.stop()

    def test_cluster_header(self):
        """a cluster's header, and the server's refusal in the session's events"""
        server = l7test.udp_socket(16000)
        traffic.PEERS.append(server)
        spec = {"protocol": "JSONSocket", "transport": {"protocol": "UDP", "port": 16000},
                "header": [{"path": "/UDP"}, {"path": {"from": "/IP/src_addr", "to": "/from/ip"}},
                           {"set": {"key": "name", "value": "x"}}]}
        self.start(listener("l", "UDP", 15000, {"spec": spec, "endpoints": [{"spec": {"address": "127.0.0.1"}}]},
                            options={"track": 30}))
        s = udp(15000)
        s.send(b"hello")
        first, peer = server.recvfrom(2000)
        self.assertEqual(json.loads(first), {"JSONSocketVersion": 1, "src_port": s.getsockname()[1],
                                             "dst_port": 15000, "from": {"ip": "127.0.0.1"}, "name": "x"})
        again, peer = server.recvfrom(2000)  # not answered yet
        self.assertEqual(again, first)
        server.sendto(b'{"JSONSocketVersion":1,"JSONSocketStatus":200,"JSONSocketMessage":""}', peer)
        self.assertEqual(server.recvfrom(2000)[0], b"hello")
        server.sendto(b"world", peer)
        self.assertEqual(s.recv(100), b"world")
        s = udp(15000)
        s.send(b"hello")
        _, peer = server.recvfrom(2000)
        server.sendto(b'{"JSONSocketVersion":1,"JSONSocketStatus":403,"JSONSocketMessage":"go away"}', peer)
        self.later(lambda: [e for x in self.sessions("UDP") for e in self.texts(x, "ERROR")
                            if "the server answered 403: go away" in e])
        self.assertTrue(silent(s))

    def test_both_ends_datagrams(self):
        """UDP through a JSONSocket cluster and listener, on every datagram transport"""
        for transport in ("UDP", "WebSocket", "UNIX/seqpacket", "UNIX/dgram"):
            unix = transport.startswith("UNIX")
            inner = {"protocol": transport} if unix else {"protocol": transport, "port": 15100}
            self.start(self.begin(transport, "@l7mp-js" if unix else 15100, inline("Echo")),
                       listener("outer", "UDP", 15101, {
                           "spec": {"protocol": "JSONSocket", "transport": inner, "header": [{"path": "/UDP"}]},
                           "endpoints": [{"spec": {"address": "@l7mp-js" if unix else "127.0.0.1"}}]}))
            s = udp(15101)
            for n in (1, 100, 1200, 60000):
                data = os.urandom(n)
                s.send(data)
                self.assertEqual(s.recv(65536), data, transport)
            self.assertEqual(self.session("JSONSocket")["metadata"]["JSONSocket"]["src_port"], s.getsockname()[1])
            self.stop()

    def test_both_ends(self):
        """2 MB through a JSONSocket cluster and listener over TCP, with its end"""
        echo = l7test.TcpEcho(16100)
        traffic.PEERS.append(echo)
        self.start(self.begin("TCP", 15100, cluster("TCP", 16100)),
                   listener("outer", "TCP", 15101, {"spec": {
                       "protocol": "JSONSocket", "transport": {"protocol": "TCP", "port": 15100},
                       "header": [{"path": "/TCP"}]}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}))
        s = tcp(15101)
        data = os.urandom(2 << 20)
        import threading
        threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR)), daemon=True).start()
        self.assertEqual(read_exactly(s, len(data) + 1), data)

    def test_bad_config(self):
        """a transport that it can't use, a header item that is neither"""
        self.start()
        for spec, path in (
                ({"protocol": "JSONSocket", "transport": {"protocol": "HTTP", "port": 1}}, "transport.protocol"),
                ({"protocol": "JSONSocket", "transport": {"protocol": "UDP", "port": 99999}}, "transport.port"),
                ({"protocol": "JSONSocket"}, "transport")):
            status, answer = self.api.post("/listeners", {"listener": {"name": "x", "spec": spec, "rules": []}})
            self.assertEqual(status, 422, answer)
            self.assertTrue(any(c["path"].endswith(path) for c in answer["content"]), answer)
        status, answer = self.api.post("/clusters", {"cluster": {"name": "x", "spec": {
            "protocol": "JSONSocket", "transport": {"protocol": "UDP", "port": 9}, "header": [{}]}}})
        self.assertEqual(status, 422, answer)


class Sync(traffic.Case):
    ROOM = {"name": "room", "spec": {"protocol": "Sync", "query": "/room"}}

    def by_port(self, protocol, port, value):
        return listener(f"l{port}", protocol, port, "room", address="127.0.0.1",
                        rewrite=[{"path": "/room", "value": value}] if value is not None else None)

    def test_groups(self):
        """UDP, TCP and WebSocket members of two groups; who has no value is refused"""
        self.start(self.by_port("UDP", 15000, "a"), self.by_port("TCP", 15001, "a"),
                   self.by_port("WebSocket", 15002, "a"), self.by_port("UDP", 15003, {"not": "a"}),
                   self.by_port("TCP", 15004, None), clusters=[self.ROOM])
        a, b, other, t = udp(15000), udp(15000), udp(15003), tcp(15001)

        async def run():
            async with websockets.connect("ws://127.0.0.1:15002/") as w:
                await w.send("text")
                for s in (a, b, other):
                    s.send(b"I am here")
                self.later(lambda: len(self.sessions()) == 5)
                await asyncio.sleep(0.2)
                for s in (a, b, t):
                    s.setblocking(False)
                    try:
                        while s.recv(1000):
                            pass
                    except BlockingIOError:
                        pass
                    s.settimeout(30)
                a.send(b"hello all")
                self.assertEqual(b.recv(100), b"hello all")
                self.assertEqual(t.recv(100), b"hello all")
                seen = None
                while seen != b"hello all":
                    seen = await asyncio.wait_for(w.recv(), 5)
                self.assertTrue(silent(a) and silent(other))
                await w.send("from ws")
                for s in (a, b, t):
                    self.assertEqual(s.recv(100), b"from ws")
                t.sendall(b"from tcp")
                self.assertEqual(await asyncio.wait_for(w.recv(), 5), b"from tcp")
        asyncio.run(run())
        try:
            self.assertEqual(tcp(15004).recv(100), b"")
        except ConnectionResetError:
            pass
        self.assertIn("Sync: the session's metadata has no value at /room", self.proxy.stderr())

    def test_a_thousand_with_one_slow(self):
        """1,000 members, one does not read: it alone loses datagrams, counted"""
        with open("/proc/sys/net/ipv4/tcp_wmem", "w") as f:  # of this test's own namespace
            f.write("4096 8192 8192")
        self.start(self.by_port("UDP", 15000, 1), self.by_port("TCP", 15001, 1), clusters=[self.ROOM],
                   admin={"limits": {"max_queue": 65536}})
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", 15001))
        traffic.PEERS.append(slow)
        self.later(lambda: len(self.sessions("TCP")) == 1)
        members = [udp(15000) for _ in range(999)]
        for s in members:
            s.send(b"")
        self.later(lambda: len(self.sessions("UDP")) == 999, 30)
        for s in members:
            s.setblocking(False)
        time.sleep(0.3)
        for s in members:  # each heard those who came after it
            try:
                while True:
                    s.recv(100)
            except BlockingIOError:
                s.settimeout(30)
        payload = os.urandom(8000)
        for i in range(100):
            m = struct.pack("!I", i) + payload
            members[i].send(m)
            for k, s in enumerate(members):
                if k != i:
                    self.assertEqual(s.recv(9000), m)
        lost = self.session("TCP")["stats"]["drops"]
        self.assertGreater(lost, 20)
        self.assertEqual(self.drops("queue"), lost)
        # Who came first spoke when nobody was there; nobody else lost anything.
        self.assertEqual(sum(s["stats"]["drops"] for s in self.sessions("UDP")), self.drops("no-receiver"))
        # What waited comes, whole and in order.
        slow.settimeout(1)
        data = b""
        try:
            while True:
                piece = slow.recv(1 << 20)
                if not piece:
                    break
                data += piece
        except TimeoutError:
            pass
        self.assertEqual(len(data), (100 - lost) * 8004)
        self.assertEqual([struct.unpack("!I", data[o:o + 4])[0] for o in range(0, len(data), 8004)][:3], [0, 1, 2])


class Metrics(traffic.Case):
    def scrape(self):
        c = http.client.HTTPConnection("127.0.0.1", 9099, timeout=60)
        c.request("GET", "/metrics")
        r = c.getresponse()
        data = r.read()
        c.close()
        self.assertEqual(r.status, 200)
        self.assertEqual(r.getheader("Content-Type"), "text/plain; version=0.0.4; charset=utf-8")
        return promtext.parse(data)

    def test_metrics(self):
        """the whole list of the contract, in the exact format, with true figures"""
        odd = 'na"me\\é'
        self.start(
            listener("prom", "HTTP", 9099, inline("Prometheus"), address="127.0.0.1"),
            listener(odd, "UDP", 15000, inline("Echo"), ingress=[dict(inline("Metric"), name="in")],
                     egress=[dict(inline("INLINE/Metric"), name="out")]),
            listener("lost", "UDP", 15001, cluster("TCP", 1), retry=traffic.retry("always", 2, 50)),
            admin={"metrics": {"sessions": True}})
        s = udp(15000)
        for n in (1, 10, 100):
            s.send(b"x" * n)
            self.assertEqual(len(s.recv(1000)), n)
        x = udp(15001)
        x.send(b"nobody hears")
        self.later(lambda: not self.sessions(f"UDP:127.0.0.1:{x.getsockname()[1]}-"))
        self.assertEqual(self.api.get("/listeners/nothing")[0], 404)
        name = self.session("UDP")["name"]
        m = self.scrape()
        v = lambda *a, **kw: promtext.value(m, *a, **kw)
        self.assertEqual(v("listener_requests_total", listenerName=odd, protocol="UDP"), 1)
        self.assertEqual(v("cluster_requests_total", clusterName="in", protocol="Metric"), 1)
        for c in ("in", "out"):
            self.assertEqual(v("session_packet_counter_total", sessionName=name, clusterName=c), 3)
            self.assertEqual(v("session_byte_counter_total", sessionName=name, clusterName=c), 111)
        self.assertEqual(v("l7mp_build_info"), 1)
        self.assertGreaterEqual(v("l7mp_sessions", state="CONNECTED"), 1)
        self.assertEqual(v("l7mp_retries_total"), 2)
        self.assertGreaterEqual(v("l7mp_drops_total", reason="closed"), 1)
        self.assertEqual(v("l7mp_refusals_total", limit="max_sessions"), 0)
        self.assertEqual(v("l7mp_rest_requests_total", path="/listeners/{name}", code="404"), 1)
        self.assertGreater(v("l7mp_loop_latency_seconds"), 0)
        self.assertGreaterEqual(v("l7mp_slow_path_packets_total", direction="egress"), 3)
        self.assertGreaterEqual(v("l7mp_slow_path_bytes_total", direction="ingress"), 111)
        for family in ("l7mp_drop_bytes_total", "l7mp_slow_path_bytes_total", "l7mp_sessions_started_total",
                       "l7mp_sessions_ended_total", "l7mp_objects"):
            self.assertIn(family, m)
        fast = [f for f in m if f.startswith(("l7mp_flow", "l7mp_fast", "l7mp_verdict", "l7mp_offload"))]
        self.assertTrue(fast, sorted(m))
        # A session's last figures stay for a while, and never fall.
        self.api.delete("/sessions/" + name)
        self.later(lambda: not self.sessions(name))
        m = self.scrape()
        self.assertEqual(v("session_byte_counter_total", sessionName=name, clusterName="in"), 111)
        # Without the setting there is no series for a session.
        self.assertEqual(self.api.post("/admin", {"admin": {"metrics": {"sessions": False}}})[0], 200)
        self.assertNotIn("session_byte_counter_total", self.scrape())

    def test_refuses(self):
        """Prometheus refuses sessions without HTTP metadata, and other methods"""
        self.start(listener("prom", "HTTP", 9099, inline("Prometheus"), address="127.0.0.1"),
                   listener("raw", "TCP", 15000, inline("Prometheus")))
        c = http.client.HTTPConnection("127.0.0.1", 9099, timeout=60)
        c.request("POST", "/metrics", "x")
        self.assertEqual(c.getresponse().status, 405)
        c.close()
        try:
            self.assertEqual(tcp(15000).recv(100), b"")
        except ConnectionResetError:
            pass  # perhaps before connect(2) has returned


if __name__ == "__main__":
    l7test.main()
