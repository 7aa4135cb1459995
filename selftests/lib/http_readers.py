# SPDX-License-Identifier: MIT
"""Generated HTTP requests, and what readers that are not ours make of them: Node's llhttp (http_reader.js) and
Python's h11."""
import collections
import os
import re
import shutil
import struct
import subprocess

import l7test
from httpraw import read_table

try:
    import h11
except ImportError:
    h11 = None

NODE = shutil.which("node") or shutil.which("nodejs")
NODE_READER = str(l7test.ROOT / "selftests/lib/http_reader.js")

Reading = collections.namedtuple("Reading", "method target version body complete fields")

METHODS = [b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"DELETE", b"get", b"PATCH", b"TRACE", b"CONNECT", b"PRI", b"M-SEARCH", b"X"]
TARGETS = [b"/", b"/a", b"/a/b?c=d", b"*", b"http://a/b", b"http://a:80", b"a:80", b"/%41%", b"//a", b"/a#b", b"/\\", b"http://u@a/",
           b"/a;b=c,d", b"https://a/", b"/?", b"?", b"/'\"<>", b"/{}|^`", b"http://[::1]/", b"/~!$&()+", b"/\xc3\xa4"]
VERSIONS = [b"HTTP/1.1"] * 40 + [b"HTTP/1.0"] * 3 + [b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b"HTTP/1.01", b"HTTP/1", b""]
HOSTS = [b"a"] * 8 + [b"a:80", b"[::1]", b"", b"a b", b"a,b", b"a/b", b"u@a", b"a:", b"a:x", b"\xe4", b"[::1", b"A.B-c_d~", b"a%41"]
NAMES = [b"X-A", b"Accept", b"Connection", b"Cookie", b"Upgrade", b"TE", b"Trailer", b"Expect", b"x_y", b"Host", b"!#$%&'*+-.^_`|~",
         b"Content-Length", b"Transfer-Encoding", b"Content_Length", b"Content-Lengths", b"Keep-Alive", b"Proxy-Connection"]
VALUES = [b"b", b"", b"close", b"keep-alive", b"b:c", b"a, b", b"\"q\"", b"\xe4\xff", b"h2c", b"100-continue", b"trailers", b"upgrade", b"a\tb", b";"]
LENGTHS = [b"3", b"0", b"5", b"15", b"16", b"50", b"100", b"03", b"+3", b"-3", b"3,3", b"3, 3", b"0x3", b"3 3", b"", b"3.0", b"3;", b"3a",
           b"9223372036854775807", b"9223372036854775808", b"18446744073709551616", b"18446744073709551619", b"\xd9\xa3", b"1_0", b"00000000000000000000003"]
CODINGS = [b"chunked"] * 6 + [b"Chunked", b"identity", b"gzip", b"gzip, chunked", b"chunked, gzip", b"chunked, chunked", b"chunked,",
                              b",chunked", b"xchunked", b"chunked;a", b"\"chunked\"", b"", b"chunke", b"chunkedx", b"\x0bchunked", b"chunked\x0b", b"chunked x"]
SPACES = [b" "] * 16 + [b"", b"\t", b"  ", b" \t ", b"\x0b", b"\xa0"]
ENDS = [b"\r\n"] * 250 + [b"\n", b"\r", b"\r\r\n", b"\n\r", b" \r\n", b"\t\r\n", b"\r\n ", b"\r\n\t", b""]
BYTES = [b"\0", b"\t", b"\n", b"\r", b" ", b":", b",", b";", b"\x0b", b"\x0c", b"\x7f", b"\x80", b"\xff", b"\"", b"/", b"0", b"1", b"\r\n", b"\x01", b"\x1b",
         b"(", b"@", b"\xc2\xa0", b"\\", b"_", b"-", b"+", b".", b"[", b"=", b"\x85"]


def field(rng, name=None, value=None):
    name = name or rng.choice(NAMES)
    low = name.lower()
    if value is None:
        value = rng.choice(LENGTHS if low == b"content-length" else CODINGS if low == b"transfer-encoding" else
                           HOSTS if low == b"host" else VALUES)
    return name + b":" + rng.choice(SPACES) + value + rng.choice(ENDS)


def generate(rng, seeds):
    """A head: from a grammar that is now and then wrong, or from the table; then changed in a few places."""
    if rng.random() < 0.25:
        data = rng.choice(seeds)
    else:
        rows = [field(rng) for _ in range(rng.choice((0, 0, 1, 1, 2, 3, 5)))]
        if rng.random() < 0.9:
            rows.append(b"Host: " + rng.choice(HOSTS) + b"\r\n")
        if rng.random() < 0.4:
            rows.append(field(rng, b"Content-Length"))
        if rng.random() < 0.4:
            rows.append(field(rng, b"Transfer-Encoding"))
        if rng.random() < 0.02:
            rows += [b"F: f\r\n"] * rng.randrange(40, 300)
        rng.shuffle(rows)
        blank = b" " if rng.random() < 0.96 else rng.choice(BYTES + [b"  "])
        data = rng.choice(METHODS) + blank + rng.choice(TARGETS) + b" " + rng.choice(VERSIONS) + rng.choice(ENDS) + b"".join(rows) + \
            rng.choice(ENDS)
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 3))):
        data = mutate(rng, data)
    return data


def mutate(rng, data):
    at, what = rng.randrange(len(data) + 1), rng.randrange(8)
    if what == 0:
        return data[:at] + rng.choice(BYTES) + data[at:]
    if what == 1:
        return data[:at] + rng.choice(BYTES) + data[at + 1:]
    if what == 2:
        return data[:at] + data[at + 1:]
    if what == 3:
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1:]
    rows = data.split(b"\r\n")
    i, j = rng.randrange(len(rows)), rng.randrange(len(rows))
    if what == 4:
        rows[i], rows[j] = rows[j], rows[i]
    elif what == 5:
        rows.insert(j, rows[i])
    elif what == 6:
        rows.insert(max(1, i), field(rng).removesuffix(b"\r\n"))
    else:
        rows[i] = rows[i].swapcase() if rng.random() < 0.5 else rng.choice((b" ", b"\t", b"")) + rows[i]
    return b"\r\n".join(rows)


def seeds():
    """The requests of the table."""
    return [c.request for c in read_table(l7test.ROOT / "selftests/traffic/http_table.txt") if len(c.request) < 3000]


def answers_of(command, cases):
    """What a program answers to each case, both with their lengths in front."""
    blob = b"".join(struct.pack("<I", len(c)) + c for c in cases)
    out = subprocess.run(command, input=blob, stdout=subprocess.PIPE, check=True, timeout=600,
                         env=dict(os.environ, NODE_NO_WARNINGS="1", UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1")).stdout
    found, at = [], 0
    while at < len(out):
        n, = struct.unpack_from("<I", out, at)
        found.append(out[at + 4:at + 4 + n])
        at += 4 + n
    if len(found) != len(cases):
        raise RuntimeError(f"{command}: {len(found)} readings of {len(cases)}")
    return found


def heads_of(command, cases):
    """A program's results: one for each case, None if it rejects the case."""
    return [reading(text) for text in answers_of(command, cases)]


def reading(text):
    if not text.startswith(b"A"):
        return None
    method, target, version, body, complete, *rest = text[1:].split(b"\0")
    return Reading(method, target, version, bytes.fromhex(body.decode()), complete == b"1", fields_of(zip(rest[::2], rest[1::2])))


def fields_of(pairs):
    """Names in lower case, values without blanks around them; h11 writes codings in lower case."""
    out = []
    for name, value in pairs:
        name, value = bytes(name).lower(), bytes(value).strip(b" \t")
        out.append((name, value.lower() if name == b"transfer-encoding" else value))
    return out


def h11_head(data):
    """The first request of a case, as h11 reads it."""
    conn = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    try:
        conn.receive_data(data)
        request = conn.next_event()
        if type(request) is not h11.Request:
            return None
        body = b""
        while True:
            e = conn.next_event()
            if type(e) is not h11.Data:
                break
            body += bytes(e.data)
        return Reading(request.method, request.target, request.http_version, body, type(e) is h11.EndOfMessage,
                       fields_of(request.headers))
    except h11.ProtocolError:
        return None


# White space before the semicolon of a chunk's extension, which RFC 9112, 7.1.1 wants to be taken.
BAD_SPACE = re.compile(rb"\n[0-9A-Fa-f]+[^\r\n]*[ \t][ \t;=]")
# Fields of framing among trailers, which ours drops unread: the others look whether they make sense.
FRAMING_TRAILER = re.compile(rb"\n0+(;[^\r\n]*)?\r\n([^\r\n]+\r\n)*?(content-length|transfer-encoding|host):", re.I)


def lawful(data):
    """It has what both others refuse and RFC 9112 lets us take."""
    return bool(BAD_SPACE.search(data) or FRAMING_TRAILER.search(data))


Message = collections.namedtuple("Message", "method target body complete")


def h11_stream(data):
    """All requests that h11 reads in a connection's bytes, up to the first that it refuses or that is the last.

    h11 refuses empty lines in front of a request, which a server should ignore (RFC 9112, 2.2): they are taken away.
    """
    found = []
    try:
        while True:
            while data.startswith(b"\r\n"):
                data = data[2:]
            conn = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
            conn.receive_data(data)
            conn.receive_data(b"")
            request = conn.next_event()
            if type(request) is not h11.Request:
                return found
            found.append(Message(request.method, request.target, b"", False))
            body = b""
            while type(e := conn.next_event()) is h11.Data:
                body += bytes(e.data)
            if type(e) is not h11.EndOfMessage:
                return found
            found[-1] = Message(request.method, request.target, body, True)
            conn.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            conn.send(h11.EndOfMessage())
            if conn.our_state is not h11.DONE:
                return found
            data = conn.trailing_data[0]
    except h11.ProtocolError:
        return found


def node_streams(cases):
    """The same of each case, as llhttp reads it."""
    found = []
    for text in answers_of([NODE, NODE_READER, "stream"], cases):
        parts = text.split(b"\0")
        found.append([Message(*parts[i:i + 2], bytes.fromhex(parts[i + 2].decode()), parts[i + 3] == b"1")
                      for i in range(0, len(parts) - 3, 4)])
    return found


SIZES = [b"3", b"03", b"a", b"A", b"0x3", b"+3", b" 3", b"3 ", b"3\t", b"", b"g", b"ffffffffffffffff", b"10000000000000003", b"3;", b"3;a", b"3;a=b",
         b"3; a=\"b\"", b"3 ;a", b"3;a\nb", b"3;\x01", b"0", b"00", b"3,3"]


def chunked_body(rng):
    """Chunks, now and then wrong."""
    out = []
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        if rng.random() < 0.8:
            data = rng.choice((b"abc", b"x" * 17, b"0\r\n\r\n", b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"))
            out += [b"%x" % len(data), rng.choice((b"", b"", b"", b";a=b", b";a", b';a="b"')), rng.choice(ENDS), data, rng.choice(ENDS)]
        else:
            out += [rng.choice(SIZES), rng.choice(ENDS), b"abc", rng.choice(ENDS)]
    out += [b"0", rng.choice(ENDS)]
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        out.append(field(rng))
    out.append(rng.choice(ENDS))
    return b"".join(out)


def generate_stream(rng, table):
    """The bytes of a connection: one request or several, bodies with them, changed in a few places."""
    if rng.random() < 0.3:
        data = generate(rng, table)
    else:
        out = []
        for _ in range(rng.choice((1, 1, 2))):
            kind = rng.randrange(3)
            line = rng.choice((b"POST /%d HTTP/1.1\r\n", b"GET /%d HTTP/1.1\r\n", b"PUT /%d HTTP/1.1\r\n")) % rng.randrange(9)
            more = field(rng) if rng.random() < 0.3 else b""
            if kind == 0:
                out.append(line + b"Host: a\r\n" + more + b"Transfer-Encoding: chunked\r\n\r\n" + chunked_body(rng))
            elif kind == 1:
                body = rng.choice((b"", b"abc", b"0\r\n\r\n", b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"))
                out.append(line + b"Host: a\r\n" + more + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            else:
                out.append(line + b"Host: a\r\n" + more + b"\r\n")
        data = b"".join(out)
        for _ in range(rng.choice((0, 0, 1, 1, 2))):
            data = mutate(rng, data)
    return data + b"GET /last HTTP/1.1\r\nHost: a\r\n\r\n"
