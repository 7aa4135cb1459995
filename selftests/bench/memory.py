# SPDX-License-Identifier: MIT
"""What a session costs by protocol: resident memory over N sessions, and what limits.max_memory counts for it.

Each row is a fresh daemon. Its listener is reached from N clients of one process; where the row is about a cluster, another
daemon is the upstream. Aimed at: what is counted is at least 2/3 of what is taken, and at most three times as much.
"""
import base64
import os
import re
import socket
import ssl
import sys
import tempfile
import time

import run as bench

sys.path.insert(0, str(bench.ROOT / "selftests/lib"))
import l7test  # noqa: E402
from certs import Certs  # noqa: E402

N = 2000
LIMITS = {"new_sessions_per_second": 1000000}
METRICS = {"name": "metrics", "spec": {"protocol": "HTTP", "address": "127.0.0.1", "port": 1299},
           "rules": [{"action": {"route": {"destination": {"spec": {"protocol": "Prometheus"}}}}}]}
UPGRADE = (b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
           b"Sec-WebSocket-Key: " + base64.b64encode(b"0123456789abcdef") + b"\r\n\r\n")
HEADER = b'{"JSONSocketVersion": 1, "pad": [%s], "text": "%s"}' % (b",".join([b"0"] * 90), b"x" * 1800)


def listener(name, protocol, destination, **spec):
    return {"name": name, "spec": {"protocol": protocol, **spec}, "options": {"idle_timeout": 0},
            "rules": [{"action": {"route": {"destination": destination}}}]}


def inline(protocol):
    return {"spec": {"protocol": protocol}}


def cluster(protocol, address="127.0.0.1", **spec):
    return {"spec": {"protocol": protocol, **spec}, "endpoints": [{"spec": {"address": address}}]}


def udp(i, data=b"x"):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.sendto(data, ("127.0.0.1", 15000))
    return s


def tcp(i, data=b"x", wait=False):
    s = socket.create_connection(("127.0.0.1", 15000), 10)
    s.sendall(data)
    if wait:
        s.recv(4096)
    return s


def unix(kind):
    def one(path, i):
        s = socket.socket(socket.AF_UNIX, kind)
        if kind == socket.SOCK_DGRAM:
            s.bind(f"{path}.{i}")
        s.connect(path)
        s.send(b"x")
        return s
    return one


def tls(i, data=b"x", wait=False):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    s = context.wrap_socket(socket.create_connection(("127.0.0.1", 15000), 10))
    s.sendall(data)
    if wait:
        s.recv(4096)
    return s


def used(port=1299):
    _, text = l7test.Api(port).call("GET", "/metrics")
    return int(re.search(r"^l7mp_memory_bytes (\d+)", text, re.M).group(1))


def live(proxy):
    _, text = l7test.Api(1299).call("GET", "/metrics")
    return int(re.search(r'^l7mp_sessions{state="CONNECTED"} (\d+)', text, re.M).group(1))


def measure(config, client, n=N):
    """(resident bytes, counted bytes) of one session."""
    with l7test.Proxy({"admin": {"log_level": "error", "limits": LIMITS}, "listeners": [l7test.controller(), METRICS, config]},
                      "-o", "disable", build="build") as proxy:
        first = [client(-1 - i) for i in range(20)]  # what is made once
        time.sleep(0.3)
        counted, resident = used(), proxy.rss_kb() * 1024
        held = []
        for i in range(n):
            held.append(client(i))
            if i % 100 == 99:
                time.sleep(0.01)
        l7test.wait_for(lambda: live(proxy) >= n, 10)
        sessions = live(proxy) - 20
        row = ((proxy.rss_kb() * 1024 - resident) / max(sessions, 1), (used() - counted) / max(sessions, 1), sessions)
        for s in first + held:
            s.close()
        return row


def run_suite(_):
    rows = {}
    with tempfile.TemporaryDirectory(prefix="l7mp-bench-") as folder:
        certs = Certs(os.path.join(folder, "certs"))
        pair, path = certs.cert("server"), os.path.join(folder, "in")
        sink, local = inline("Discard"), {"address": "127.0.0.1", "port": 15000}
        up = [listener("u", "UDP", sink, address="127.0.0.1", port=15010),
              listener("t", "TCP", sink, address="127.0.0.1", port=15010),
              listener("w", "WebSocket", sink, address="127.0.0.1", port=15011),
              listener("ws", "WebSocket", sink, address="127.0.0.1", port=15012, tls=pair),
              listener("x", "UnixDomainSocket", sink, filename=os.path.join(folder, "up"))]

        def row(name, config, client, n=N):
            rows[name] = measure(config, client, n)
            print(f"  {name}: {rows[name]}", file=sys.stderr, flush=True)

        with l7test.Proxy({"admin": {"log_level": "error", "limits": LIMITS}, "listeners": [l7test.controller(1233), *up]},
                          "-o", "disable", build="build", port=1233):
            row("UDP, Discard", listener("l", "UDP", sink, **local), udp)
            row("TCP, Discard", listener("l", "TCP", sink, **local), tcp)
            row("TCP with TLS, Discard", listener("l", "TCP", sink, tls=pair, **local), tls, 500)
            row("HTTP, Discard", listener("l", "HTTP", sink, **local),
                lambda i: tcp(i, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"))
            row("WebSocket, Discard", listener("l", "WebSocket", sink, **local), lambda i: tcp(i, UPGRADE, True))
            row("WebSocket with TLS, Discard", listener("l", "WebSocket", sink, tls=pair, **local), lambda i: tls(i, UPGRADE, True), 500)
            row("UnixDomainSocket, Discard", listener("l", "UnixDomainSocket", sink, filename=path),
                lambda i: unix(socket.SOCK_STREAM)(path, i))
            row("UNIX/seqpacket, Discard", listener("l", "UNIX/seqpacket", sink, filename=path), lambda i: unix(socket.SOCK_SEQPACKET)(path, i))
            row("UNIX/dgram, Discard", listener("l", "UNIX/dgram", sink, filename=path), lambda i: unix(socket.SOCK_DGRAM)(path, i))
            row("JSONSocket over UDP, 2 KB header, Discard", listener("l", "JSONSocket", sink, transport={"protocol": "UDP", **local}),
                lambda i: udp(i, HEADER))
            row("UDP, UDP", listener("l", "UDP", cluster("UDP", port=15010), **local), udp)
            row("UDP, TCP", listener("l", "UDP", cluster("TCP", port=15010), **local), udp)
            row("UDP, WebSocket", listener("l", "UDP", cluster("WebSocket", port=15011), **local), udp, 1000)
            row("UDP, WebSocket with TLS", listener("l", "UDP", cluster("WebSocket", port=15012, tls={"ca": certs.path("ca.pem")}), **local), udp, 100)
            row("UDP, UnixDomainSocket", listener("l", "UDP", cluster("UnixDomainSocket", os.path.join(folder, "up")), **local), udp)
    print("\nMemory of a session, bytes")
    print(f"  {'listener, cluster':46}{'sessions':>9}{'resident':>10}{'counted':>10}")
    for name, (resident, counted, sessions) in rows.items():
        met = "met" if resident * 2 / 3 <= counted <= 3 * resident else "MISSED"
        print(f"  {name:46}{sessions:9}{resident:10.0f}{counted:10.0f}  {met}")
    print("  aimed at: what limits.max_memory counts is 2/3 to 3 times what is taken")
    return {name: list(row) for name, row in rows.items()}
