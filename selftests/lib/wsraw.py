# SPDX-License-Identifier: MIT
"""WebSocket (RFC 6455) by hand: both roles over a plain socket, every bit of a frame under the
test's control, so that peers can be exactly as wrong as a test wants them to be."""
import base64
import collections
import hashlib
import os
import queue
import random
import socket
import struct
import threading

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
Frame = collections.namedtuple("Frame", "fin rsv opcode masked data")


def apply_mask(key, data):
    if not data:
        return data
    n = len(data)
    pad = (key * (n // 4 + 1))[:n]
    return (int.from_bytes(data, "big") ^ int.from_bytes(pad, "big")).to_bytes(n, "big")


def encode(opcode, data=b"", fin=True, rsv=0, mask=None, length=None, width=None):
    """One frame. mask: 4 bytes, or None for an unmasked one. length: what the head announces, if not the
    truth. width: 7, 16 or 64 bits of length, if not the shortest."""
    n = len(data) if length is None else length
    width = width or (7 if n < 126 else 16 if n < 65536 else 64)
    bit = 0x80 if mask is not None else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if width == 7:
        head += bytes([bit | n])
    else:
        head += bytes([bit | (126 if width == 16 else 127)]) + struct.pack("!H" if width == 16 else "!Q", n)
    return head + (mask + apply_mask(mask, data) if mask is not None else data)


def close_payload(code, reason=b""):
    return struct.pack("!H", code) + reason


class Peer:
    """One end of a connection whose handshake is done. Clients mask, servers don't."""

    def __init__(self, sock, client, early=b"", head=b""):
        self.sock, self.client, self.raw, self.head = sock, client, early, head
        self.random = random.Random(1)
        sock.settimeout(30)

    def frame(self, opcode, data=b"", **kw):
        if "mask" not in kw:
            kw["mask"] = self.random.randbytes(4) if self.client else None
        return encode(opcode, data, **kw)

    def send(self, opcode, data=b"", **kw):
        self.sock.sendall(self.frame(opcode, data, **kw))

    def send_close(self, code=None, reason=b""):
        self.send(CLOSE, b"" if code is None else close_payload(code, reason))

    def _need(self, n):
        while len(self.raw) < n:
            part = self.sock.recv(max(65536, min(n - len(self.raw), 1 << 20)))
            if not part:
                return False
            self.raw += part
        return True

    def recv(self):
        """The next frame; None when the connection has ended."""
        try:
            if not self._need(2):
                return None
            n, at = self.raw[1] & 0x7F, 2
            if n >= 126:
                size = 2 if n == 126 else 8
                if not self._need(2 + size):
                    return None
                n, at = int.from_bytes(self.raw[2:2 + size], "big"), 2 + size
            masked = bool(self.raw[1] & 0x80)
            at += 4 if masked else 0
            if not self._need(at + n):
                return None
        except ConnectionError:
            return None
        first, data = self.raw[0], self.raw[at:at + n]
        if masked:
            data = apply_mask(self.raw[at - 4:at], data)
        self.raw = self.raw[at + n:]
        return Frame(bool(first & 0x80), first >> 4 & 7, first & 15, masked, data)

    def message(self):
        """The next data message as (opcode, bytes), fragments put together, control frames left out; None
        at a Close frame or the end."""
        opcode, parts = None, []
        while (f := self.recv()) is not None:
            if f.opcode == CLOSE:
                return None
            if f.opcode & 8:
                continue
            opcode = f.opcode if opcode is None else opcode
            parts.append(f.data)
            if f.fin:
                return opcode, b"".join(parts)
        return None

    def closed(self):
        """Reads on: the code of the Close frame that comes (0: without a code), None when the connection
        ends without one."""
        while (f := self.recv()) is not None:
            if f.opcode == CLOSE:
                self.reason = f.data[2:]
                return int.from_bytes(f.data[:2], "big") if f.data else 0
        return None

    def gone(self):
        """Reads to the end of the connection: how many frames still came."""
        n = 0
        while self.recv() is not None:
            n += 1
        return n

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self):
        self.sock.close()


def read_head(sock):
    """An HTTP head and what came behind it."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = sock.recv(65536)
        if not part:
            break
        data += part
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def accept_key(key):
    return base64.b64encode(hashlib.sha1(key + MAGIC).digest())


def request(path="/", host="127.0.0.1", key=None, version="13", method="GET", http="HTTP/1.1", **headers):
    """A handshake; a header that is None is left out."""
    key = base64.b64encode(os.urandom(16)).decode() if key is None else key
    h = {"Host": host, "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": key,
         "Sec-WebSocket-Version": version}
    h.update({k.replace("_", "-"): v for k, v in headers.items()})
    lines = [f"{method} {path} {http}"] + [f"{k}: {v}" for k, v in h.items() if v is not None]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def answer_header(head, name):
    for line in head.split(b"\r\n")[1:]:
        k, _, v = line.partition(b":")
        if k.strip().lower() == name.lower().encode():
            return v.strip()
    return None


def connect(port, host="127.0.0.1", path="/", bytewise=False, behind=b"", **headers):
    """A client. behind: bytes sent in the same write as the handshake."""
    sock = socket.create_connection((host, port), 30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    key = base64.b64encode(os.urandom(16)).decode()
    data = request(path, key=key, **headers) + behind
    for part in ([data[i:i + 1] for i in range(len(data))] if bytewise else [data]):
        sock.sendall(part)
    head, rest = read_head(sock)
    if not head.startswith(b"HTTP/1.1 101 "):
        sock.close()
        raise ConnectionError(head.decode("latin-1"))
    assert answer_header(head, "Sec-WebSocket-Accept") == accept_key(key.encode()), head
    assert answer_header(head, "Upgrade").lower() == b"websocket", head
    return Peer(sock, True, rest, head)


class Server(threading.Thread):
    """Takes connections; accept() gives the next one, its handshake answered (or not: `answer` may be a
    function of the request's head that returns the bytes to send instead)."""

    def __init__(self, port, host="127.0.0.1", answer=None):
        super().__init__(daemon=True)
        self.listening = socket.create_server((host, port), backlog=128)
        self.answer, self.peers = answer, queue.Queue()
        self.start()

    def run(self):
        while True:
            try:
                conn, _ = self.listening.accept()
            except OSError:
                return
            try:
                self.serve(conn)
            except OSError:
                conn.close()

    def serve(self, conn):
        conn.settimeout(30)
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head, rest = read_head(conn)
        if self.answer:
            conn.sendall(self.answer(head))
        else:
            conn.sendall(self.agree(head))
        self.peers.put(Peer(conn, False, rest, head))

    @staticmethod
    def agree(head):
        accept = accept_key(answer_header(head, "Sec-WebSocket-Key") or b"")
        return (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")

    def accept(self, timeout=60):
        return self.peers.get(timeout=timeout)

    def close(self):
        try:
            self.listening.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listening.close()
