# SPDX-License-Identifier: MIT
"""Configs and peers of the traffic suites."""
import asyncio
import json
import os
import re
import socket
import struct
import sys
import threading
import time
import unittest

import l7test


PEERS = []  # of the running test; closed when it ends


def inline(protocol, **keys):
    """A virtual cluster: inline("Echo")."""
    return {"spec": dict(protocol=protocol, **keys)}


def cluster(protocol, port=None, address="127.0.0.1", name=None, **keys):
    """A cluster with one endpoint (or one for each of a list of addresses)."""
    spec = dict(protocol=protocol, **keys)
    if port is not None:
        spec["port"] = port
    addresses = [address] if isinstance(address, str) else address
    c = {"spec": spec, "endpoints": [{"spec": {"address": a}} for a in addresses]}
    if name:
        c["name"] = name
    return c


def listener(name, protocol, port, destination, options=None, retry=None, ingress=None, egress=None, match=None,
             rewrite=None, **keys):
    spec = dict(protocol=protocol, **keys)
    if port is not None:
        spec["port"] = port
    route = {"destination": destination}
    if retry:
        route["retry"] = retry
    if ingress:
        route["ingress"] = ingress
    if egress:
        route["egress"] = egress
    action = {"route": route}
    if rewrite:
        action["rewrite"] = rewrite
    rule = {"action": action}
    if match:
        rule["match"] = match
    item = {"name": name, "spec": spec, "rules": [rule]}
    if options:
        item["options"] = options
    return item


def retry(on="always", n=3, timeout=500):
    return {"retry_on": on, "num_retries": n, "timeout": timeout}


class Case(unittest.TestCase):
    """start() runs a proxy; the test ends with its clean stop."""
    proxy = None

    def start(self, *listeners, clusters=(), admin=None, build=None, wrapper=(), port=1234, measured=False):
        """measured: what freed memory AddressSanitizer keeps is bounded, so that the resident size tells something."""
        env = {"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=4:thread_local_quarantine_size_kb=64"}
        config = {"admin": dict({"offload": "disable"}, **(admin or {})),
                  "clusters": list(clusters), "listeners": [l7test.controller(port), *listeners]}
        self.proxy = l7test.Proxy(config, "-l", "info", "-s", build=build, wrapper=wrapper, port=port,
                                  env=env if measured else None)
        self.api = self.proxy.api
        # Listeners bind one after the other: an answer means that all of them have.
        self.later(lambda: self.api.get("/admin")[0] == 200)
        return self.proxy

    def tearDown(self):
        try:
            self.stop()
        finally:
            while PEERS:
                PEERS.pop().close()

    def stop(self):
        if self.proxy:
            proxy, self.proxy = self.proxy, None
            text = proxy.stderr()
            try:
                proxy.stop()
            except AssertionError:
                sys.stdout.write("".join(f"# {row}\n" for row in text.splitlines()[-40:]))
                raise

    def later(self, what, seconds=10.0, message=None):
        """Waits until `what` returns something true, and returns it."""
        def now():
            try:
                return what()
            except AssertionError:  # a session that is not there yet
                return None
        value = l7test.wait_for(now, seconds)
        self.assertTrue(value, message or "it did not happen in time")
        return value

    def sessions(self, prefix=""):
        """The sessions whose name begins so, less the controller's."""
        status, found = self.api.get("/sessions")
        self.assertEqual(status, 200, found)
        return [s for s in found if s["name"].startswith(prefix)
                and s["source"]["listener"] != "controller-listener"]

    def session(self, prefix=""):
        found = self.sessions(prefix)
        self.assertEqual(len(found), 1, json.dumps(found)[:3000])
        return found[0]

    def ended(self, prefix="", seconds=10):
        """The one tracked session, once it has ended."""
        def look():
            return [s for s in self.sessions(prefix) if s["status"] == "DESTROYED"]
        return self.later(look, seconds, f"no session ended: {self.sessions(prefix)}")[0]

    def texts(self, session, event):
        return [e.get("message") or "" for e in session["events"] if e["event"] == event]

    def drops(self, reason):
        """The metric l7mp_drops_total{reason}."""
        return self.metric("l7mp_drops_total", f'reason="{reason}"')

    def metric(self, name, *labels):
        if not getattr(self, "metrics_up", None):
            status, answer = self.api.post("/listeners", {"listener": listener(
                "metrics", "HTTP", 9099, inline("Prometheus"), address="127.0.0.1")})
            assert status == 200, answer
            self.metrics_up = self.proxy
        _, text = l7test.Api(9099).call("GET", "/api/metrics")
        total = 0.0
        for row in text.splitlines():
            m = re.match(r"([a-zA-Z_0-9]+)(\{[^}]*\})? (\S+)", row)
            if m and m.group(1) == name and all(label in (m.group(2) or "") for label in labels):
                total += float(m.group(3))
        return total

    def metrics_text(self):
        self.metric("")
        return l7test.Api(9099).call("GET", "/api/metrics")[1]


class UdpEcho(l7test.UdpEcho):
    def __init__(self, port, host="127.0.0.1"):
        super().__init__(port, host)
        PEERS.append(self)

    def run(self):
        try:
            super().run()
        except TypeError:  # no sender: closed
            pass

    def close(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)  # wakes recvfrom, which keeps the port otherwise
        except OSError:
            pass
        self.join(2)
        self.sock.close()


class TcpServer(threading.Thread):
    """Calls serve(conn, index) in a thread for each connection."""

    def __init__(self, port, serve, host="127.0.0.1", rcvbuf=None):
        super().__init__(daemon=True)
        self.listen(port, host, rcvbuf)
        self.serve, self.conns, self.peers, self.count = serve, [], [], 0
        PEERS.append(self)
        self.start()

    def listen(self, port, host, rcvbuf):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.bind((host, port))
        self.sock.listen(256)

    def run(self):
        while True:
            try:
                conn, peer = self.sock.accept()
            except OSError:
                return
            self.conns.append(conn)
            self.peers.append(peer)
            self.count += 1
            threading.Thread(target=self.guard, args=(conn, self.count - 1), daemon=True).start()

    def guard(self, conn, index):
        try:
            self.serve(conn, index)
        except OSError:
            pass

    def close(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)  # wakes accept, which keeps the port open otherwise
        except OSError:
            pass
        self.sock.close()
        for c in self.conns:
            try:
                c.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            c.close()


def echo(conn, _index=0):
    while data := conn.recv(65536):
        conn.sendall(data)
    conn.shutdown(socket.SHUT_WR)


def recv_all(sock):
    """All up to the end of the stream."""
    parts = []
    while data := sock.recv(65536):
        parts.append(data)
    return b"".join(parts)


def recv_exact(sock, n):
    parts, have = [], 0
    while have < n:
        data = sock.recv(min(65536, n - have))
        if not data:
            break
        parts.append(data)
        have += len(data)
    return b"".join(parts)


def connect(port, host="127.0.0.1", timeout=60):
    s = socket.create_connection((host, port), timeout)
    s.settimeout(timeout)
    return s


def flood(sock, limit, seconds=2):
    """Sends for this time, or up to the limit, as far as the other side takes it: how many bytes it took."""
    sock.setblocking(False)
    sent, end = 0, time.monotonic() + seconds
    while time.monotonic() < end and sent < limit:
        try:
            sent += sock.send(bytes(65536))
        except BlockingIOError:
            time.sleep(0.01)
    return sent


def narrow_server(port):
    """A listening socket whose connections have a small receive buffer."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    server.bind(("127.0.0.1", port))
    server.listen()
    return server


def refused(port):
    """The proxy takes the connection and closes it at once, in order or by a reset."""
    try:
        with connect(port) as s:
            return s.recv(10) == b""
    except ConnectionResetError:
        return True


def reset(sock):
    """Closes with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    sock.close()


def silent(sock, seconds=0.3):
    """Nothing arrives for so long."""
    sock.settimeout(seconds)
    try:
        return not sock.recv(65536)
    except (TimeoutError, ConnectionRefusedError):
        return True
    finally:
        sock.settimeout(30)


def forge(port, sources, payload=b"forged", rate=10000, host="127.0.0.1"):
    """Sends one datagram from each (address, port) of sources, which need not be ours, so many a second."""
    begin, n = time.monotonic(), 0
    to = socket.inet_aton(host)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as s:
        for address, source in sources:
            udp = struct.pack("!HHHH", source, port, 8 + len(payload), 0) + payload
            head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, socket.inet_aton(address), to)
            s.sendto(head + udp, (host, 0))
            n += 1
            if n % 16 == 0:
                time.sleep(max(0.0, begin + n / rate - time.monotonic()))
    return n


def unused_sources(n, network=127):
    """n source addresses that no client has, in 127.1.0.0/16 and above."""
    return ((f"{network}.{1 + (i >> 16)}.{i >> 8 & 255}.{i & 255}", 1024 + i % 60000) for i in range(n))


class Peak(threading.Thread):
    """Samples the resident memory of a proxy; `grown` is the peak above the start in KiB."""

    def __init__(self, proxy):
        super().__init__(daemon=True)
        self.proxy, self.on = proxy, True
        self.begin = self.top = proxy.rss_kb()
        self.start()

    def run(self):
        while self.on:
            try:
                self.top = max(self.top, self.proxy.rss_kb())
            except (OSError, AttributeError):
                return
            time.sleep(0.02)

    def grown(self):
        self.on = False
        self.join()
        return self.top - self.begin


class WsServer(threading.Thread):
    """Python's independent WebSocket server. handler(ws, server) per connection; default: echo."""

    def __init__(self, port, handler=None, host="127.0.0.1", **options):
        super().__init__(daemon=True)
        self.port, self.host, self.handler, self.options = port, host, handler or self.echo, options
        self.received, self.peers, self.closes = [], [], []
        self.loop = asyncio.new_event_loop()
        self.up = threading.Event()
        self.error = None
        self.start()
        self.up.wait(60)
        if self.error:
            raise self.error
        PEERS.append(self)

    @staticmethod
    async def echo(ws, server):
        async for message in ws:
            server.received.append(message)
            await ws.send(message)

    def run(self):
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self.serve())

    async def serve(self):
        import websockets
        self.done = asyncio.Event()

        async def one(ws, *_):
            self.peers.append(ws)
            try:
                await self.handler(ws, self)
            except websockets.ConnectionClosed:
                pass
            await ws.close()
            self.closes.append((ws.close_code, ws.close_reason))
        try:
            async with websockets.serve(one, self.host, self.port, **self.options):
                self.up.set()
                await self.done.wait()
        except OSError as e:
            self.error = e
            self.up.set()

    def call(self, coroutine, timeout=60):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)

    def abort(self):
        """Drops all connections without a closing handshake."""
        def go():
            for ws in self.peers:
                if ws.transport:
                    ws.transport.abort()
        self.loop.call_soon_threadsafe(go)

    def close(self):
        if self.is_alive():
            self.loop.call_soon_threadsafe(self.done.set)
            self.join(15)
