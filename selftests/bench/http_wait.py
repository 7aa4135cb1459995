#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""http_wait.py ADDRESS PORT SECONDS: one request after the other, half of them on a kept connection, the others each on
a new one; prints how long they took in ms. A request that fails is no result. See http_listener.py."""
import json
import socket
import sys
import time

REQUEST = b"POST /wait HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"


def ask(sock):
    sock.sendall(REQUEST)
    data = b""
    while not data.endswith((b"hello", b"0\r\n\r\n")):
        more = sock.recv(65536)
        if not more:
            raise RuntimeError(f"the connection ended: {data!r}")
        data += more
    if not data.startswith(b"HTTP/1.1 200") or b"hello" not in data:
        raise RuntimeError(f"answered {data!r}")
    if not data.endswith(b"hello"):
        return
    if b"chunked" in data:  # the last chunk is still to come
        while not data.endswith(b"0\r\n\r\n"):
            data += sock.recv(65536)


def connect(address):
    sock = socket.create_connection(address, 60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def figures(values, prefix=""):
    values = sorted(v * 1000 for v in values)
    return {prefix + "p50": values[len(values) // 2], prefix + "p99": values[len(values) * 99 // 100], prefix + "max": values[-1]}


def main(host, port, seconds):
    address, kept, new = (host, int(port)), [], []
    end = time.monotonic() + float(seconds)
    with connect(address) as sock:
        while time.monotonic() < end:
            begin = time.monotonic()
            ask(sock)
            kept.append(time.monotonic() - begin)
            begin = time.monotonic()
            with connect(address) as other:
                ask(other)
            new.append(time.monotonic() - begin)
            time.sleep(0.002)
    print(json.dumps({**figures(kept), **figures(new, "new_"), "count": len(kept) + len(new)}))


main(*sys.argv[1:])
