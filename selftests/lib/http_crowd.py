#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Thousands of HTTP clients that are slow or silent, in a process of their own (the tests' and the proxy's descriptors
stay theirs), and the upstream that some of them need.

http_crowd.py clients ADDRESS:PORT INTERVAL [again] KIND=COUNT ...   with `again`, who was cut comes back
http_crowd.py sink ADDRESS:PORT                                      an upstream that sends for as long as it is read

Kinds: `idle` makes one request and stays; `head` sends a byte of a head every INTERVAL seconds; `half` sends half a head
and no more; `body` sends its head, then a byte of a body every INTERVAL seconds, `api` the same to the REST API; `reader` makes a request and does not
read the answer. Prints "ready" when all are connected and have begun; then answers each line of stdin with one line of
JSON: for each kind {open, closed, first, last, statuses, failed}: first and last are the ages in seconds at which the
server ended connections.
"""
import collections
import json
import os
import select
import socket
import subprocess
import sys
import time

HEADS = {
    "idle": b"GET /idle HTTP/1.1\r\nHost: a\r\n\r\n",
    "head": b"GET /head HTTP/1.1\r\nHost: a\r\nX-Slow: ",
    "half": b"GET /half HTTP/1.1\r\nHost:",
    "api": b"POST /api/v1/config HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n",
    "body": b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n",
    "reader": b"GET /reader HTTP/1.1\r\nHost: a\r\n\r\n",
}


class One:
    __slots__ = ("sock", "kind", "born", "status", "due")

    def __init__(self, kind):
        self.kind, self.status, self.due, self.born = kind, None, None, None
        self.sock = socket.socket()
        self.sock.setblocking(False)
        if kind == "reader":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)


class Crowd:
    def __init__(self, address, interval, kinds, again=False):
        self.address, self.interval, self.again = address, interval, again
        self.poll = select.epoll()
        self.ones, self.drip = {}, collections.deque()
        self.kinds = {k: dict(open=0, closed=0, failed=0, first=None, last=None, statuses={}) for k in kinds}
        to_begin = [k for k, n in kinds.items() for _ in range(n)]
        self.connecting = 0
        self.waiting = kinds.get("idle", 0)
        while to_begin or self.connecting or self.waiting:
            while to_begin and self.connecting < 200:
                self.begin(to_begin.pop())
            self.turn(1.0)
        print("ready", flush=True)
        self.poll.register(0, select.EPOLLIN)

    def begin(self, kind):
        one = One(kind)
        one.sock.connect_ex(self.address)
        self.ones[one.sock.fileno()] = one
        self.poll.register(one.sock.fileno(), select.EPOLLOUT)
        self.connecting += 1

    def connected(self, one):
        self.connecting -= 1
        failed = one.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        row = self.kinds[one.kind]
        if failed:
            row["failed"] += 1
            self.forget(one)
            return
        row["open"] += 1
        one.born = time.monotonic()
        one.sock.send(HEADS[one.kind])
        # A reader's end shows as an error or hang-up without reading: EPOLLERR and EPOLLHUP are always told.
        self.poll.modify(one.sock.fileno(), 0 if one.kind == "reader" else select.EPOLLIN)
        if one.kind in ("head", "body", "api"):
            one.due = one.born + self.interval
            self.drip.append(one)

    def forget(self, one):
        if one.kind == "idle" and one.status is None:
            self.waiting -= 1
        self.poll.unregister(one.sock.fileno())
        del self.ones[one.sock.fileno()]
        one.sock.close()
        one.due = None

    def ended(self, one):
        row, age = self.kinds[one.kind], time.monotonic() - one.born
        row["open"] -= 1
        row["closed"] += 1
        row["first"] = age if row["first"] is None else min(age, row["first"])
        row["last"] = age if row["last"] is None else max(age, row["last"])
        status = str(one.status)
        row["statuses"][status] = row["statuses"].get(status, 0) + 1
        self.forget(one)
        if self.again:
            self.waiting += one.kind == "idle"
            self.begin(one.kind)

    def readable(self, one):
        try:
            data = one.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.ended(one)
            return
        if one.status is None and data.startswith(b"HTTP/1."):
            one.status = data[9:12].decode("latin-1")
            if one.kind == "idle":
                self.waiting -= 1

    def turn(self, timeout):
        for fd, events in self.poll.poll(timeout, 1000):
            if fd == 0:
                if not sys.stdin.readline():
                    os._exit(0)
                print(json.dumps(self.kinds), flush=True)
                continue
            one = self.ones.get(fd)
            if not one:
                continue
            if one.born is None:
                self.connected(one)
            elif one.kind == "reader" and events & (select.EPOLLERR | select.EPOLLHUP):
                self.ended(one)
            elif events & (select.EPOLLIN | select.EPOLLERR | select.EPOLLHUP):
                self.readable(one)
        now = time.monotonic()
        while self.drip and (self.drip[0].due is None or self.drip[0].due <= now):
            one = self.drip.popleft()
            if one.due is None:
                continue
            try:
                one.sock.send(b"x")
            except OSError:
                pass  # its end is seen by reading
            one.due += self.interval
            self.drip.append(one)

    def run(self):
        while True:
            self.turn(min(0.2, self.interval))


def sink(address):
    """Sends zeros to each client for as long as they are taken, and reads nothing."""
    server = socket.create_server(address, backlog=4096)
    server.setblocking(False)
    poll, socks, block = select.epoll(), {}, bytes(65536)
    poll.register(server.fileno(), select.EPOLLIN)
    print("ready", flush=True)
    while True:
        for fd, events in poll.poll():
            if fd == server.fileno():
                try:
                    conn, _ = server.accept()
                except OSError:
                    continue
                conn.setblocking(False)
                socks[conn.fileno()] = conn
                poll.register(conn.fileno(), select.EPOLLOUT)
                continue
            try:
                if events & (select.EPOLLERR | select.EPOLLHUP):
                    raise ConnectionResetError
                socks[fd].send(block)
            except BlockingIOError:
                pass
            except OSError:
                poll.unregister(fd)
                socks.pop(fd).close()


class Process:
    """What tests use: one of the above as a child."""

    def __init__(self, *args, enter=()):
        self.child = subprocess.Popen([*enter, sys.executable, __file__, *map(str, args)], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, text=True)
        ready = select.select([self.child.stdout], [], [], 120)[0] and self.child.stdout.readline() == "ready\n"
        if not ready:
            self.close()
            raise AssertionError(f"{args}: not ready")

    def look(self):
        self.child.stdin.write("\n")
        self.child.stdin.flush()
        return json.loads(self.child.stdout.readline())

    def close(self):
        self.child.kill()
        self.child.wait()
        self.child.stdin.close()
        self.child.stdout.close()


def main(role, where, *rest):
    host, _, port = where.rpartition(":")
    address = (host, int(port))
    if role == "sink":
        sink(address)
        return
    kinds = {k: int(n) for k, n in (a.split("=") for a in rest[1:] if a != "again")}
    Crowd(address, float(rest[0]), kinds, "again" in rest).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
