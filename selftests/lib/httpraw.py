# SPDX-License-Identifier: MIT
"""HTTP/1.1 by hand (RFC 9112): a client that sends any bytes and reads answers strictly, and the upstream of the
HTTP suites, which tells for each request that the proxy passed on its method, target and body."""
import collections
import json
import re
import socket
import threading
import time

import l7test
from traffic import PEERS

Answer = collections.namedtuple("Answer", "status reason version fields body")
Seen = collections.namedtuple("Seen", "method target body complete x_a")

STATUS_LINE = re.compile(rb"HTTP/(1\.[01]) ([1-5][0-9][0-9]) ([\t -~\x80-\xff]*)\Z")
FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*((?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)[ \t]*\Z")
CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t -~\x80-\xff]*)?\Z")


class Malformed(Exception):
    """The server sent something that is not HTTP."""


class Client:
    """One connection. Answers are read one after the other, however the bytes arrive."""

    def __init__(self, address, timeout=30.0):
        if isinstance(address, int):
            address = ("127.0.0.1", address)
        family = socket.AF_UNIX if isinstance(address, (str, bytes)) else \
            socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(timeout * l7test.SLOW)
        self.sock.connect(address)
        if family != socket.AF_UNIX:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data, self.ended = b"", False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, data, pieces=None):
        """pieces: lengths of the writes, the last one repeated. A server that has answered and closed meanwhile is
        no fault of the one who writes."""
        try:
            if not pieces:
                self.sock.sendall(data)
                return
            pieces = list(pieces)
            while data:
                n = pieces.pop(0) if len(pieces) > 1 else pieces[0]
                self.sock.sendall(data[:n])
                data = data[n:]
        except (BrokenPipeError, ConnectionResetError):
            pass

    def finish(self):
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def fill(self):
        """More bytes, or False at the end (a reset is an end: what was read before it counts)."""
        if self.ended:
            return False
        try:
            more = self.sock.recv(65536)
        except ConnectionResetError:
            more = b""
        self.ended = not more
        self.data += more
        return bool(more)

    def line(self):
        while b"\r\n" not in self.data:
            if not self.fill():
                raise Malformed(f"ended within a line: {self.data[:200]!r}")
        text, self.data = self.data.split(b"\r\n", 1)
        return text

    def exactly(self, n):
        while len(self.data) < n:
            if not self.fill():
                raise Malformed(f"ended {n - len(self.data)} bytes early")
        body, self.data = self.data[:n], self.data[n:]
        return body

    def head(self):
        """None when the connection ended in place of an answer."""
        while not self.data:
            if not self.fill():
                return None
        first = self.line()
        m = STATUS_LINE.match(first)
        if not m:
            raise Malformed(f"no status line: {first[:200]!r}")
        fields = {}
        while text := self.line():
            f = FIELD.match(text)
            if not f:
                raise Malformed(f"no field: {text[:200]!r}")
            name = f[1].decode().lower()
            if name in fields and name in ("content-length", "transfer-encoding", "connection", "content-type", "date"):
                raise Malformed(f"{name} twice")
            fields[name] = f[2].decode("latin-1")
        return int(m[2]), m[3].decode("latin-1"), m[1].decode(), fields

    def answer(self, method="GET"):
        """The next final or interim answer, None at the end of the connection; Malformed when it is broken off."""
        found = self.head()
        if not found:
            return None
        status, reason, version, fields = found
        coding, length = fields.get("transfer-encoding"), fields.get("content-length")
        if coding and length is not None:
            raise Malformed("both Transfer-Encoding and Content-Length")
        if status < 200 or status == 204:
            if coding or length is not None:
                raise Malformed(f"a body's framing in {status}")
            body = b""
        elif method == "HEAD" or status == 304:
            body = b""
        elif coding:
            if coding != "chunked":
                raise Malformed(f"Transfer-Encoding: {coding}")
            body = self.chunks()
        elif length is not None:
            if not re.fullmatch("[0-9]{1,15}", length):
                raise Malformed(f"Content-Length: {length}")
            body = self.exactly(int(length))
        else:  # up to the end of the connection
            if "close" not in fields.get("connection", "").lower() and version != "1.0":
                raise Malformed(f"{status} without framing, and the connection goes on")
            while self.fill():
                pass
            body, self.data = self.data, b""
        return Answer(status, reason, version, fields, body)

    def chunks(self):
        parts = []
        while True:
            text = self.line()
            m = CHUNK.match(text)
            if not m:
                raise Malformed(f"no chunk: {text[:100]!r}")
            n = int(m[1], 16)
            if not n:
                break
            parts.append(self.exactly(n))
            if self.exactly(2) != b"\r\n":
                raise Malformed("no CRLF behind a chunk")
        while self.line():  # trailers
            pass
        return b"".join(parts)

    def at_end(self):
        """True when nothing but the end of the connection comes."""
        while self.fill():
            pass
        return not self.data


class Upstream(threading.Thread):
    """What stands behind the HTTP listener: a JSONSocket server over TCP. Each request is a connection, its header says
    method and target, its payload is the body, up to a half-close. Answers `reply` when the body is complete."""

    def __init__(self, port=9001, reply=b"seen"):
        super().__init__(daemon=True)
        self.server = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.port, self.reply = port, reply
        self.seen, self.lock, self.busy = [], threading.Lock(), 0
        PEERS.append(self)
        self.start()

    def cluster(self):
        """The cluster that leads here."""
        return {"spec": {"protocol": "JSONSocket", "transport": {"protocol": "TCP", "port": self.port}, "header": [
            {"path": {"from": "/HTTP/method", "to": "/method"}}, {"path": {"from": "/HTTP/url/url", "to": "/target"}},
            {"path": {"from": "/HTTP/headers/x-a", "to": "/x-a"}}]},
            "endpoints": [{"spec": {"address": "127.0.0.1"}}]}

    def run(self):
        while True:
            try:
                conn, _ = self.server.accept()
            except OSError:
                return
            with self.lock:
                self.busy += 1
            threading.Thread(target=self.one, args=(conn,), daemon=True).start()

    def one(self, conn):
        data, head, complete = b"", None, False
        index = None
        try:
            with conn:
                while b"\n" not in data:
                    more = conn.recv(65536)
                    if not more:
                        return
                    data += more
                line, data = data.split(b"\n", 1)
                head = json.loads(line)
                with self.lock:  # in the order of the headers
                    index = len(self.seen)
                    self.seen.append(None)
                conn.sendall(b'{"JSONSocketVersion":1,"JSONSocketStatus":200,"JSONSocketMessage":"OK"}\n')
                while more := conn.recv(1 << 20):
                    data += more
                complete = True
                self.note(index, head, data, complete)
                conn.sendall(self.reply)
        except OSError:
            pass
        finally:
            if head and not complete:
                self.note(index, head, data, complete)
            with self.lock:
                self.busy -= 1

    def note(self, index, head, data, complete):
        with self.lock:
            self.seen[index] = Seen(head.get("method"), head.get("target"), data, complete, head.get("x-a"))

    def take(self, seconds=20):
        """What has been seen since the last call, once no request is in progress."""
        l7test.wait_for(lambda: not self.busy, seconds, 0.001)
        with self.lock:
            seen, self.seen = [s for s in self.seen if s], []
        return seen

    def close(self):
        try:
            self.server.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.join(2)
        self.server.close()


# ---- the table ----

class Case:
    """One request, or several, of the table."""

    def __init__(self, name, what):
        self.name, self.what = name, what
        self.request, self.outcomes, self.fin, self.large = b"", [], False, False

    def __repr__(self):
        return self.name


class Outcome:
    """One way in which a case may end: statuses, then open or close, and what the upstream saw."""

    def __init__(self, statuses, end):
        self.statuses, self.end, self.seen = statuses, end, []

    def __repr__(self):
        return f"{' '.join('|'.join(map(str, s)) for s in self.statuses) or 'none'} {self.end} {self.seen}"


def unescape(text):
    """\\r \\n \\t \\0 \\\\ \\xHH, and \\{N*TEXT} for N times TEXT."""
    def repeat(m):
        return m[2] * int(m[1])
    text = re.sub(r"\\\{(\d+)\*((?:[^}\\]|\\.)*)\}", repeat, text)
    table = {"r": b"\r", "n": b"\n", "t": b"\t", "0": b"\0", "\\": b"\\"}
    out, i = bytearray(), 0
    while i < len(text):
        if text[i] != "\\":
            out += text[i].encode("latin-1")
            i += 1
        elif text[i + 1] == "x":
            out.append(int(text[i + 2:i + 4], 16))
            i += 4
        else:
            out += table[text[i + 1]]
            i += 2
    return bytes(out)


def read_seen(text, where):
    m = re.fullmatch(r'-> (?:(\d+)x )?(\S+) (\S+)(?: "((?:[^"\\]|\\.)*)"| (~))(?: x-a="([^"]*)")?', text)
    if not m:
        raise ValueError(f"{where}: {text!r}")
    body = None if m[5] else unescape(m[4])
    return [(m[2], unescape(m[3]).decode("latin-1"), body, m[6])] * int(m[1] or 1)


def read_outcome(text, case, where):
    statuses, end = [], None
    for word in text.split()[1:]:
        if word in ("open", "close"):
            end = word
        elif word == "fin":
            case.fin = True
        elif m := re.fullmatch(r"(\d+)x([\d|]+)", word):
            statuses += [[int(s) for s in m[2].split("|")]] * int(m[1])
        elif word != "none":
            statuses.append([int(s) for s in word.split("|")])
    if not end:
        raise ValueError(f"{where}: open or close?")
    return Outcome(statuses, end)


def read_table(path):
    """The cases of the table; its syntax is described at its top."""
    cases, case, in_request = [], None, False
    with open(path, encoding="latin-1") as f:
        for number, row in enumerate(f, 1):
            row, where = row.rstrip("\n"), f"{path}:{number}"
            if not in_request and (m := re.fullmatch(r"\[([a-z0-9-]+)\] (.+)", row)):
                case, in_request = Case(m[1], m[2]), True
                cases.append(case)
            elif row.startswith(("=> ", "or ")):
                case.outcomes.append(read_outcome(row, case, where))
                in_request = False
            elif row.startswith("-> "):
                case.outcomes[-1].seen += read_seen(row, where)
            elif in_request:
                cut = re.search(r"(?<!\\)(?:\\\\)*\\$", row)
                case.request += unescape(row[:-1] if cut else row) + (b"" if cut else b"\r\n")
            elif row and not row.startswith("#"):
                raise ValueError(f"{where}: {row!r}")
    names = [c.name for c in cases]
    twice = {n for n in names if names.count(n) > 1}
    if twice:
        raise ValueError(f"{path}: twice: {twice}")
    return cases


def methods(case):
    """The methods of a case's requests, as far as its answers need them: HEAD has no body."""
    return re.findall(rb"(?:\A|\n)(HEAD|[!-~]+) [!-~]+ HTTP/1\.[01]\r\n", case.request)


def same_seen(want, got):
    """Compares what was seen with what was expected; requests marked `~` may be there, but never complete."""
    got = list(got)
    for method, target, body, x_a in want:
        g = got[0] if got else None
        fits = g and (g.method, g.target) == (method, target)
        if body is None:
            if fits and not g.complete:
                got.pop(0)
            continue
        if not fits or not g.complete or g.body != body or (x_a is not None and g.x_a != x_a):
            return False
        got.pop(0)
    return not got


DATE = re.compile(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), [0-3]\d (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) \d{4} "
                  r"[0-2]\d:[0-5]\d:[0-6]\d GMT")


def check_fields(answer, case):
    """What every final answer has (RFC 9110, 6.6.1, 15.5.6 and 15.5.22; RFC 9112, 6.1)."""
    if not DATE.fullmatch(answer.fields.get("date", "")):
        raise Malformed(f"{answer.status} with the Date {answer.fields.get('date')!r}")
    for status, name in ((405, "allow"), (426, "upgrade")):
        if answer.status == status and name not in answer.fields:
            raise Malformed(f"{status} without {name}")
    if "transfer-encoding" in answer.fields and b" HTTP/1.0\r\n" in case.request:
        raise Malformed("a chunked answer to HTTP/1.0")
    if answer.status >= 400 and answer.body and not answer.fields.get("content-type", "").startswith("application/json"):
        raise Malformed(f"{answer.status} with a body of type {answer.fields.get('content-type')}")


def play(case, address, upstream, pieces=None):
    """Sends a case, reads all answers: (statuses, open or close, what the upstream saw). Interim answers are not among
    the statuses."""
    upstream.take()  # of a case that went wrong
    wanted = max((len(o.statuses) for o in case.outcomes), default=1)
    names = [m.decode() for m in methods(case)] + ["GET"] * wanted
    statuses, end = [], None
    with Client(address) as c:
        sender = threading.Thread(target=c.send, args=(case.request, pieces), daemon=True)
        sender.start()
        if case.fin:
            sender.join()
            c.finish()
        while True:
            a = c.answer(names[len(statuses)] if len(statuses) < len(names) else "GET")
            if a and a.status < 200:
                if a.status != 100:
                    raise Malformed(f"interim {a.status}")
                continue
            if not a:
                end = "close"
                break
            if end == "probed":
                if a.status != 200 or a.body != upstream.reply:
                    raise Malformed(f"the connection went on, but the next request was answered {a.status}")
                end = "open"
                break
            check_fields(a, case)
            statuses.append(a.status)
            if "close" in a.fields.get("connection", "").lower() or a.version == "1.0":
                end = "close"
                if not c.at_end():
                    raise Malformed(f"more bytes behind the last answer: {c.data[:200]!r}")
                break
            if len(statuses) >= wanted:
                end = "probed"
                sender.join()
                c.send(b"GET /after HTTP/1.1\r\nHost: after\r\n\r\n")
        sender.join()
    if end != "open":  # what the proxy connected before this request has been accepted before it
        with Client(address) as c:
            c.send(b"GET /after HTTP/1.1\r\nHost: after\r\nConnection: close\r\n\r\n")
            last = c.answer()
        if not last or last.status != 200:
            raise Malformed(f"another connection is answered {last}")
    seen = upstream.take()
    if end == "open" or seen and seen[-1].target == "/after":
        if not seen or seen[-1][:4] != ("GET", "/after", b"", True):
            raise Malformed(f"the next request was not the last that was seen: {seen}")
        seen.pop()
    return statuses, "close" if end == "probed" else end, seen


def judge(case, statuses, end, seen):
    """None, or a description of the error."""
    for o in case.outcomes:
        if len(o.statuses) == len(statuses) and all(s in want for s, want in zip(statuses, o.statuses)) \
                and o.end == end and same_seen(o.seen, seen):
            return None
    short = [s._replace(body=s.body[:80]) for s in seen]
    return f"[{case.name}] {statuses} {end} {short}, expected {case.outcomes}"
