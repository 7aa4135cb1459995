# SPDX-License-Identifier: MIT
"""TCP connections whose every byte is checked: both ends know a pattern, so a byte that is lost, doubled, changed or
out of place is found where it happens; SHA-256 over all of it says it once more."""
import hashlib
import random
import socket
import struct
import threading

BLOCK = 1 << 20
PIECE = 1 << 16
_pattern = random.Random(7).randbytes(BLOCK - 17) * 3  # a period that is no power of two
PERIOD = BLOCK - 17


def expected(seed, at, n):
    """n (at most PERIOD) bytes of the stream `seed` from offset `at`."""
    start = (at + seed * 4099) % PERIOD
    return memoryview(_pattern)[start:start + n]


class Sender(threading.Thread):
    """Writes `total` bytes of a stream, or until stop(); then ends its direction, unless `keep`."""

    def __init__(self, sock, seed, total=None, keep=False, rate=None):
        super().__init__(daemon=True)
        self.sock, self.seed, self.total, self.keep, self.rate = sock, seed, total, keep, rate
        self.sent, self.error, self.stopped = 0, None, threading.Event()
        self.hash = hashlib.sha256()
        self.start()

    def run(self):
        try:
            while not self.stopped.is_set() and (self.total is None or self.sent < self.total):
                n = PIECE if self.total is None else min(PIECE, self.total - self.sent)
                n = self.sock.send(expected(self.seed, self.sent, n))
                self.hash.update(expected(self.seed, self.sent, n))
                self.sent += n
                if self.rate:
                    self.stopped.wait(n / self.rate)
            if not self.keep:
                self.sock.shutdown(socket.SHUT_WR)
        except OSError as e:
            self.error = e

    def stop(self):
        self.stopped.set()


class Receiver(threading.Thread):
    """Reads until the end of the stream and compares; only while `go` is set."""

    def __init__(self, sock, seed, read=True):
        super().__init__(daemon=True)
        self.sock, self.seed = sock, seed
        self.received, self.error, self.wrong = 0, None, None
        self.hash = hashlib.sha256()
        self.go = threading.Event()
        if read:
            self.go.set()
        self.start()

    def run(self):
        buf = memoryview(bytearray(PIECE * 4))
        try:
            while True:
                self.go.wait()
                n = self.sock.recv_into(buf)
                if not n:
                    return
                if self.wrong is None and buf[:n] != expected(self.seed, self.received, n):
                    want = expected(self.seed, self.received, n)
                    self.wrong = self.received + next(i for i in range(n) if buf[i] != want[i])
                self.hash.update(buf[:n])
                self.received += n
        except OSError as e:
            self.error = e


class Both:
    """One end of a connection: it sends stream `out` and receives stream `into`."""

    def __init__(self, sock, out, into, total=None, read=True, **kw):
        self.sock = sock
        self.receiver = Receiver(sock, into, read)
        self.sender = Sender(sock, out, total, **kw)

    def close(self):
        self.sock.close()


def listener(peer, port, host=None, mss=None, rcvbuf=None):
    """A listening socket in the namespace of a peer (l7net.Peer)."""
    with peer.inside():
        host = host or peer.own4
        s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if mss:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, mss)
    if rcvbuf:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    s.bind((host, port))
    s.listen(1024)
    s.settimeout(120)
    return s


def connect(peer, to, bind=0, mss=None, timeout=120):
    with peer.inside():
        s = socket.socket(socket.AF_INET6 if ":" in to[0] else socket.AF_INET)
    s.settimeout(timeout)
    if bind:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((peer.own6 if ":" in to[0] else peer.own4, bind))
    if mss:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, mss)
    s.connect(to)
    return s


def accept(server, timeout=120):
    server.settimeout(timeout)
    s, _ = server.accept()
    s.settimeout(timeout)
    return s


def exactly(sock, n):
    """Reads n bytes, fewer at the end of the stream."""
    data = b""
    while len(data) < n:
        more = sock.recv(n - len(data))
        if not more:
            break
        data += more
    return data


def reset(sock):
    """Closes with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def vanish(sock):
    """Closes silently, as a host that crashes."""
    sock.setsockopt(socket.IPPROTO_TCP, 19, 1)  # TCP_REPAIR
    sock.close()


def forge(peer, sock, flags, ahead, options=b""):
    """Sends a segment as if the socket's owner had sent it, `ahead` of the next number: from who can see the addresses only."""
    sock.setsockopt(socket.IPPROTO_TCP, 19, 1)  # TCP_REPAIR
    sock.setsockopt(socket.IPPROTO_TCP, 20, 2)  # TCP_REPAIR_QUEUE: TCP_SEND_QUEUE
    seq = struct.unpack("I", sock.getsockopt(socket.IPPROTO_TCP, 21, 4))[0]  # TCP_QUEUE_SEQ
    sock.setsockopt(socket.IPPROTO_TCP, 19, -1)
    (own, sport), (to, dport) = sock.getsockname(), sock.getpeername()
    head = struct.pack("!HHIIBBHHH", sport, dport, (seq + ahead) & 0xffffffff, 0, (20 + len(options)) << 2, flags, 0, 0, 0)
    head += options
    pseudo = socket.inet_aton(own) + socket.inet_aton(to) + struct.pack("!HH", socket.IPPROTO_TCP, len(head))
    n = sum(struct.unpack(f"!{len(pseudo + head) // 2}H", pseudo + head))
    while n >> 16:
        n = (n & 0xffff) + (n >> 16)
    with peer.inside():
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    raw.sendto(head[:16] + struct.pack("!H", ~n & 0xffff) + head[18:], (to, 0))
    raw.close()


def forge_reset(peer, sock, ahead):
    forge(peer, sock, 0x04, ahead)


def forge_syn(peer, sock, ahead):
    forge(peer, sock, 0x02, ahead, b"\2\4\5\264")  # MSS 1460
