#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Load for the WebSocket bench: frames that were made before, as many as the kernel takes.

  ws_load.py sink ADDRESS PORT                          a WebSocket server: /take throws away, /give/SIZE floods
  ws_load.py tcp-send|tcp-take|ws-send|ws-take ADDRESS PORT SIZE SECONDS      prints bytes of payload a second
"""
import os
import pathlib
import re
import socket
import sys
import threading
import time

os.environ["L7MP_TEST_SHARED_NET"] = "1"
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import wsraw  # noqa: E402  # pylint: disable=wrong-import-position


def block(size, mask):
    """About 256 KiB of whole frames."""
    frame = wsraw.encode(wsraw.BINARY, os.urandom(size), mask=mask)
    return memoryview(frame * max(1, (1 << 18) // len(frame))), size / len(frame)


def flood(sock, data, until):
    """Sends whole blocks; how many bytes."""
    sent = 0
    while time.monotonic() < until:
        try:
            sock.sendall(data)
        except OSError:
            break
        sent += len(data)
    return sent


def take(sock, until):
    room, got = bytearray(1 << 20), 0
    while time.monotonic() < until:
        n = sock.recv_into(room)
        if not n:
            break
        got += n
    return got


def serve(conn):
    head, _ = wsraw.read_head(conn)
    conn.sendall(wsraw.Server.agree(head))
    give = re.match(rb"GET /give/(\d+) ", head)
    if give:
        flood(conn, block(int(give[1]), None)[0], float("inf"))
    else:
        take(conn, float("inf"))
    conn.close()


def sink(address, port):
    listening = socket.create_server((address, port), backlog=64)
    print("ready", flush=True)
    while True:
        conn, _ = listening.accept()
        threading.Thread(target=serve, args=(conn,), daemon=True).start()


def load(kind, address, port, size, seconds):
    proto, way = kind.split("-")
    if proto == "ws":
        sock = wsraw.connect(port, address, path="/take" if way == "send" else f"/give/{size}").sock
        data, share = block(size, b"\1\2\3\4" if way == "send" else None)
    else:
        sock = socket.create_connection((address, port), 10)
        data, share = memoryview(os.urandom(1 << 18)), 1.0
    sock.settimeout(30)
    run = flood if way == "send" else take
    args = (sock, data) if way == "send" else (sock,)
    run(*args, time.monotonic() + 0.3)  # buffers fill, windows open
    begin = time.monotonic()
    n = run(*args, begin + seconds)
    print(n * share / (time.monotonic() - begin))


if __name__ == "__main__":
    if sys.argv[1] == "sink":
        sink(sys.argv[2], int(sys.argv[3]))
    else:
        load(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
