# SPDX-License-Identifier: MIT
"""Independent peers for the matrix: clients that speak to a listener, servers that a cluster
connects to. All have the same face:

    datagram   message boundaries are kept at this end
    largest    the largest message that this end carries
    send(b)    sends one message (datagram) or these bytes (stream)
    recv(n)    the next message, or exactly n bytes of a stream; None at the end
    finish()   says that no more will be sent, where the protocol can; else does nothing
    close()

None of this is the proxy's own code: sockets of the standard library, Python's websockets.
"""
import asyncio
import json
import os
import queue
import select
import socket
import struct
import threading
import time

import websockets

TIMEOUT = 60.0
ETHERTYPE = 0x88B5  # local experimental, IEEE 802


class Loop(threading.Thread):
    """One asyncio loop for all WebSocket peers."""

    def __init__(self):
        super().__init__(daemon=True)
        self.loop = asyncio.new_event_loop()
        self.start()

    def run(self):
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def call(self, coroutine, timeout=TIMEOUT):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)


_loop = None
_lock = threading.Lock()


def loop():
    global _loop
    with _lock:  # cells run side by side
        if _loop is None:
            _loop = Loop()
        return _loop


class Socket:
    """Messages or bytes over a connected socket."""

    def __init__(self, sock, datagram, largest):
        self.sock, self.datagram, self.largest = sock, datagram, largest
        sock.settimeout(TIMEOUT)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)

    def send(self, data):
        if self.datagram:
            self.sock.send(data)
        else:
            self.sock.sendall(data)

    def recv(self, n):
        if self.datagram:
            data = self.sock.recv(1 << 17)
            return data or None
        parts, have = [], 0
        while have < n:
            part = self.sock.recv(n - have)
            if not part:
                return None
            parts.append(part)
            have += len(part)
        return b"".join(parts)

    def ended(self):
        """True when the other side's end is seen in time."""
        try:
            while True:
                if not self.sock.recv(1 << 17):
                    return True
        except ConnectionError:
            return True
        except OSError:
            return False

    def finish(self):
        if not self.datagram:
            self.sock.shutdown(socket.SHUT_WR)

    def close(self):
        self.sock.close()


def udp_client(port, host="127.0.0.1"):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect((host, port))
    return Socket(s, True, 65507)


def tcp_client(port, host="127.0.0.1"):
    s = socket.create_connection((host, port), TIMEOUT)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Socket(s, False, 1 << 20)


def unix_client(path, kind=socket.SOCK_STREAM):
    s = socket.socket(socket.AF_UNIX, kind)
    s.connect("\0" + path[1:] if path.startswith("@") else path)
    return Socket(s, kind != socket.SOCK_STREAM, 65507 if kind != socket.SOCK_STREAM else 1 << 20)


def unix_dgram_client(path, own):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.bind(own)
    s.connect(path)
    peer = Socket(s, True, 65507)
    plain = peer.close

    def close():
        plain()
        os.unlink(own)
    peer.close = close
    return peer


class PacketPeer:
    """Whole Ethernet frames on an interface."""
    datagram, largest = True, 1514

    def __init__(self, interface, ethertype=ETHERTYPE):
        # Protocol 0: until it is bound it takes nothing in, from no interface.
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.sock.bind((interface, ethertype))
        self.sock.settimeout(TIMEOUT)

    def send(self, data):
        self.sock.send(data)

    def recv(self, _n):
        while True:
            data, where = self.sock.recvfrom(1 << 16)
            if where[2] != socket.PACKET_OUTGOING:
                return data

    def ended(self):
        return True

    def finish(self):
        pass

    def close(self):
        self.sock.close()


def frame(payload_size, fill):
    """A whole frame of payload_size bytes (14 at least)."""
    head = bytes.fromhex("020000000001020000000002") + struct.pack("!H", ETHERTYPE)
    return head + fill[: max(0, payload_size - 14)]


class PipePeer:
    """Two FIFOs: `write` is what the other side reads."""
    datagram, largest = False, 1 << 20

    def __init__(self, read, write):
        self.rfd = os.open(read, os.O_RDONLY | os.O_NONBLOCK)
        self.wfd = None
        end = time.monotonic() + TIMEOUT
        while self.wfd is None:
            try:
                self.wfd = os.open(write, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)
        os.set_blocking(self.wfd, True)

    def send(self, data):
        view = memoryview(data)
        while view:
            view = view[os.write(self.wfd, view):]

    def recv(self, n):
        parts, have, end = [], 0, time.monotonic() + TIMEOUT
        while have < n:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            select.select([self.rfd], [], [], left)
            try:
                part = os.read(self.rfd, n - have)
            except BlockingIOError:
                continue
            if not part:  # no writer (yet, or any more)
                if have == 0 and getattr(self, "seen", False):
                    return None
                time.sleep(0.005)
                continue
            self.seen = True
            parts.append(part)
            have += len(part)
        return b"".join(parts)

    def ended(self):
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            try:
                if os.read(self.rfd, 65536) == b"":
                    return True
            except BlockingIOError:
                time.sleep(0.01)
        return False

    def finish(self):
        if self.wfd is not None:
            os.close(self.wfd)
            self.wfd = None

    def close(self):
        self.finish()
        if self.rfd is not None:
            os.close(self.rfd)
            self.rfd = None


class WsPeer:
    """A WebSocket connection of either side."""
    datagram, largest = True, 1 << 20

    def __init__(self, ws, incoming=None):
        self.ws, self.incoming = ws, incoming

    def send(self, data):
        loop().call(self.ws.send(data))

    def recv(self, _n):
        try:
            if self.incoming is not None:
                m = self.incoming.get(timeout=TIMEOUT)
            else:
                m = loop().call(asyncio.wait_for(self.ws.recv(), TIMEOUT))
        except websockets.ConnectionClosed:
            return None
        except (queue.Empty, asyncio.TimeoutError):
            raise TimeoutError from None
        return m.encode() if isinstance(m, str) else m

    def ended(self):
        try:
            loop().call(asyncio.wait_for(self.ws.wait_closed(), TIMEOUT))
            return True
        except (asyncio.TimeoutError, TimeoutError):
            return False

    def finish(self):
        pass

    def close(self):
        try:
            loop().call(self.ws.close())
        except Exception:  # already gone
            pass


def ws_client(port, path="/", **kw):
    async def connect():
        return await websockets.connect(f"ws://127.0.0.1:{port}{path}", max_size=None, compression=None,
                                        ping_interval=None, **kw)
    return WsPeer(loop().call(connect()))


class HttpPeer:
    """One request: the body is what we send, the answer's body what we receive."""
    datagram, largest = False, 1 << 20

    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self.sock.sendall(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/octet-stream\r\n"
                          b"Transfer-Encoding: chunked\r\n\r\n")
        self.raw, self.body, self.head, self.done = b"", b"", None, False

    def send(self, data):
        self.sock.sendall(b"%x\r\n" % len(data) + data + b"\r\n")

    def finish(self):
        self.sock.sendall(b"0\r\n\r\n")

    def _more(self):
        part = self.sock.recv(1 << 17)
        self.raw += part
        return part

    def _read_head(self):
        while b"\r\n\r\n" not in self.raw:
            if not self._more():
                raise ConnectionError(f"no head of an answer: {self.raw!r}")
        head, self.raw = self.raw.split(b"\r\n\r\n", 1)
        lines = head.decode().split("\r\n")
        self.status = int(lines[0].split()[1])
        self.head = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines[1:])}
        self.left = int(self.head["content-length"]) if "content-length" in self.head else None

    def _decode(self):
        """Moves what is complete of the body from raw to body. True when something happened."""
        if self.done:
            return False
        if self.left is not None:
            take = self.raw[: self.left]
            self.raw, self.left, self.body = self.raw[len(take):], self.left - len(take), self.body + take
            self.done = self.left == 0
            return bool(take) or self.done
        if self.head.get("transfer-encoding") == "chunked":
            if b"\r\n" not in self.raw:
                return False
            size, rest = self.raw.split(b"\r\n", 1)
            n = int(size.split(b";")[0], 16)
            if len(rest) < n + 2:
                return False
            self.body, self.raw, self.done = self.body + rest[:n], rest[n + 2:], n == 0
            return True
        take, self.raw, self.body = self.raw, b"", self.body + self.raw
        return bool(take)

    def recv(self, n):
        if self.head is None:
            self._read_head()
        while len(self.body) < n:
            if self._decode():
                continue
            if self.done or not self._more():
                return None
        out, self.body = self.body[:n], self.body[n:]
        return out

    def ended(self):
        if self.head is None:
            self._read_head()
        while not self.done:
            if not self._decode() and not self._more():
                return True
        return True

    def close(self):
        self.sock.close()


class JsonSocketClient:
    """JSONSocket over a peer: the handshake, then payload."""

    def __init__(self, inner, header=None):
        self.inner = inner
        self.datagram, self.largest = inner.datagram, inner.largest
        # Padded: before the route has answered, a server sends no more than it received.
        head = dict(header or {}, JSONSocketVersion=1, pad="." * 200)
        line = json.dumps(head).encode()
        inner.send(line if inner.datagram else line + b"\n")
        if inner.datagram:
            answer = inner.recv(0)
        else:
            answer = b""
            while not answer.endswith(b"\n"):
                byte = inner.recv(1)
                if byte is None:
                    break
                answer += byte
        self.answer = json.loads(answer)
        if self.answer["JSONSocketStatus"] != 200:
            raise ConnectionError(str(self.answer))

    def send(self, data):
        self.inner.send(data)

    def recv(self, n):
        return self.inner.recv(n)

    def ended(self):
        return self.inner.ended()

    def finish(self):
        self.inner.finish()

    def close(self):
        self.inner.close()


# ---- servers: accept() gives the peer that the cluster's stage connected ----


class StreamServer:
    def __init__(self, sock, datagram=False, largest=1 << 20, unlink=None):
        self.sock, self.datagram, self.largest, self.unlink = sock, datagram, largest, unlink
        sock.settimeout(TIMEOUT)

    def accept(self):
        conn, _ = self.sock.accept()
        return Socket(conn, self.datagram, self.largest)

    def close(self):
        self.sock.close()
        if self.unlink:
            os.unlink(self.unlink)


def tcp_server(port):
    return StreamServer(socket.create_server(("127.0.0.1", port), backlog=256))


def unix_server(path, kind=socket.SOCK_STREAM):
    s = socket.socket(socket.AF_UNIX, kind)
    s.bind(path)
    s.listen(128)
    return StreamServer(s, kind != socket.SOCK_STREAM, 65507 if kind != socket.SOCK_STREAM else 1 << 20, path)


class DatagramServer:
    """One socket; accept() waits for the first datagram and then speaks with its sender only."""

    def __init__(self, sock, unlink=None):
        self.sock, self.unlink = sock, unlink
        sock.settimeout(TIMEOUT)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)

    def accept(self):
        return DatagramServed(self)

    def close(self):
        self.sock.close()
        if self.unlink:
            os.unlink(self.unlink)


class DatagramServed:
    datagram, largest = True, 65507

    def __init__(self, server):
        self.server, self.peer = server, None

    def recv(self, _n):
        data, self.peer = self.server.sock.recvfrom(1 << 17)
        return data

    def send(self, data):
        self.server.sock.sendto(data, self.peer)

    def ended(self):
        return True  # datagrams have no end

    def finish(self):
        pass

    def close(self):
        pass


def udp_server(port):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("127.0.0.1", port))
    return DatagramServer(s)


def unix_dgram_server(path):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.bind(path)
    return DatagramServer(s, path)


class WsServer:
    datagram, largest = True, 1 << 20

    def __init__(self, port):
        self.accepted = queue.Queue()
        self.server = loop().call(self._serve(port))

    async def _serve(self, port):
        async def handler(ws, *_):
            messages = queue.Queue()
            self.accepted.put(WsPeer(ws, messages))
            try:
                async for m in ws:
                    messages.put(m)
            except websockets.ConnectionClosed:
                pass
        return await websockets.serve(handler, "127.0.0.1", port, max_size=None, compression=None, ping_interval=None)

    def accept(self):
        return self.accepted.get(timeout=TIMEOUT)

    def close(self):
        async def stop():
            self.server.close()
            await self.server.wait_closed()
        loop().call(stop())


class PipeServer:
    """FIFOs that exist before the cluster connects."""

    def __init__(self, to_us, from_us):
        self.paths = (to_us, from_us)
        for p in self.paths:
            if not os.path.exists(p):
                os.mkfifo(p)
        # A reader must be there before the cluster's writer can open.
        self.rfd = os.open(to_us, os.O_RDONLY | os.O_NONBLOCK)

    def accept(self):
        peer = PipePeer(*self.paths)
        return peer

    def close(self):
        os.close(self.rfd)
        for p in self.paths:
            if os.path.exists(p):
                os.unlink(p)


class PacketServer:
    def __init__(self, interface):
        self.peer = PacketPeer(interface)

    def accept(self):
        return self.peer

    def close(self):
        self.peer.close()


class JsonSocketServer:
    """The server side of JSONSocket over another server."""

    def __init__(self, inner):
        self.inner = inner

    def accept(self):
        peer = self.inner.accept()
        if peer.datagram:
            header = json.loads(peer.recv(0))
        else:
            line = b""
            while not line.endswith(b"\n"):
                line += peer.recv(1)
            header = json.loads(line)
        assert header["JSONSocketVersion"] == 1, header
        answer = json.dumps({"JSONSocketVersion": 1, "JSONSocketStatus": 200, "JSONSocketMessage": "OK"}).encode()
        peer.send(answer if peer.datagram else answer + b"\n")
        return peer

    def close(self):
        self.inner.close()
