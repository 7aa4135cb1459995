#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: long timeout=240 timeout_full=1500
"""The matrix: every listener protocol against every cluster protocol.

Each cell relays payloads of 1, 100, 1,200 bytes and the largest size (whole frames where an end is
AF_PACKET), binary with NULs, in both directions and compares order and bytes, and boundaries where
both ends have them; it sees one warning where not, and each end's closing at the other. Cells
that do not relay (Discard, Sync, L7mpController, Prometheus ...) test what they are for.

Three variants: plain; a chain of one transformer in each direction; a chain of three (JSONEncap ->
Logger -> JSONDecap). The fast cut runs every cell plain, and one chain per row and column, with 20
messages; the full run all with 200. `--table FILE` writes the results as Markdown.
"""
import base64
import concurrent.futures
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

import l7test
import peers

FULL = l7test.FULL
MESSAGES = 200 if FULL else 20
SEQPACKET = socket.SOCK_SEQPACKET
VARIANTS = {
    "plain": ([], []),
    "one": (["logger"], ["metric"]),
    "three": (["jsonencap", "logger", "jsondecap"], ["jsonencap", "logger", "jsondecap"]),
}
TRANSFORMERS = {
    "logger": {"protocol": "Logger", "log_file": "/dev/null"},
    "metric": {"protocol": "Metric"},
    "jsonencap": {"protocol": "JSONEncap"},
    "jsondecap": {"protocol": "JSONDecap"},
}
# The closed list of reasons for a cell that is not run (docs/protocols.md).
SKIP = {
    "single": "a listener with a single session has no second member",
    "request": "a request's answer ends with the request: it can't wait for others",
}


class Row:
    """A listener protocol: its spec and its client, per cell."""

    def __init__(self, name, spec, client, datagram, ends, single=False):
        self.name, self.spec, self.client = name, spec, client
        self.datagram, self.ends, self.single = datagram, ends, single


class Column:
    """A cluster protocol. kind: relay (with a server), echo, or the name of a special test."""

    def __init__(self, name, kind, spec, address=None, server=None, datagram=None, ends=False):
        self.name, self.kind, self.spec, self.address, self.server = name, kind, spec, address, server
        self.datagram, self.ends = datagram, ends


class Cell:
    def __init__(self, row, column, variant, number, folder):
        self.row, self.column, self.variant, self.n = row, column, variant, number
        self.lport, self.sport = 10000 + number, 30000 + number
        self.folder = folder
        self.id = f"c{number}"

    def path(self, name):
        return f"{self.folder}/{self.id}{name}"

    def veth(self, side):
        """A veth pair for an AF_PACKET end: the proxy's side; the peer's is <name>p."""
        return f"v{side}{self.n}"

    def title(self):
        return f"{self.row.name} -> {self.column.name}, {self.variant}"


def pipe_client(c):
    return peers.PipePeer(c.path("lout"), c.path("lin"))


def rows():
    return [
        Row("UDP", lambda c: {"protocol": "UDP", "port": c.lport}, lambda c: peers.udp_client(c.lport), True, False),
        Row("TCP", lambda c: {"protocol": "TCP", "port": c.lport}, lambda c: peers.tcp_client(c.lport), False, True),
        Row("HTTP", lambda c: {"protocol": "HTTP", "port": c.lport, "options": {"threads": 2}},
            lambda c: peers.HttpPeer(c.lport), False, True),
        Row("WebSocket", lambda c: {"protocol": "WebSocket", "port": c.lport}, lambda c: peers.ws_client(c.lport), True,
            True),
        Row("UNIX/stream", lambda c: {"protocol": "UnixDomainSocket", "filename": c.path("l")},
            lambda c: peers.unix_client(c.path("l")), False, True),
        Row("UNIX/seqpacket", lambda c: {"protocol": "UNIX/seqpacket", "filename": c.path("l")},
            lambda c: peers.unix_client(c.path("l"), SEQPACKET), True, True),
        Row("UNIX/dgram", lambda c: {"protocol": "UNIX/dgram", "filename": c.path("l")},
            lambda c: peers.unix_dgram_client(c.path("l"), c.path(f"o{time.monotonic_ns()}")), True, False),
        Row("PIPE", lambda c: {"protocol": "PIPE", "filename": c.path("lin"), "output": c.path("lout")}, pipe_client,
            False, True, single=True),
        Row("AF_PACKET", lambda c: {"protocol": "AF_PACKET", "interface": c.veth("l")},
            lambda c: peers.PacketPeer(c.veth("l") + "p"), True, False, single=True),
        Row("JSONSocket/UDP", lambda c: {"protocol": "JSONSocket", "transport": {"protocol": "UDP", "port": c.lport}},
            lambda c: peers.JsonSocketClient(peers.udp_client(c.lport)), True, False),
        Row("JSONSocket/TCP", lambda c: {"protocol": "JSONSocket", "transport": {"protocol": "TCP", "port": c.lport}},
            lambda c: peers.JsonSocketClient(peers.tcp_client(c.lport)), False, True),
    ]


def columns():
    local = lambda c: "127.0.0.1"  # noqa: E731
    relay = [
        Column("UDP", "relay", lambda c: {"protocol": "UDP", "port": c.sport}, local,
               lambda c: peers.udp_server(c.sport), True),
        Column("TCP", "relay", lambda c: {"protocol": "TCP", "port": c.sport}, local,
               lambda c: peers.tcp_server(c.sport), False, True),
        Column("WebSocket", "relay", lambda c: {"protocol": "WebSocket", "port": c.sport}, local,
               lambda c: peers.WsServer(c.sport), True, True),
        Column("UNIX/stream", "relay", lambda c: {"protocol": "UnixDomainSocket"}, lambda c: c.path("s"),
               lambda c: peers.unix_server(c.path("s")), False, True),
        Column("UNIX/seqpacket", "relay", lambda c: {"protocol": "UNIX/seqpacket"}, lambda c: c.path("s"),
               lambda c: peers.unix_server(c.path("s"), SEQPACKET), True, True),
        Column("UNIX/dgram", "relay", lambda c: {"protocol": "UNIX/dgram"}, lambda c: c.path("s"),
               lambda c: peers.unix_dgram_server(c.path("s")), True),
        Column("PIPE", "relay", lambda c: {"protocol": "PIPE", "input": c.path("sin")}, lambda c: c.path("sout"),
               lambda c: peers.PipeServer(c.path("sout"), c.path("sin")), False, True),
        Column("AF_PACKET", "relay", lambda c: {"protocol": "AF_PACKET"}, lambda c: c.veth("s"),
               lambda c: peers.PacketServer(c.veth("s") + "p"), True),
        Column("JSONSocket/UDP", "relay",
               lambda c: {"protocol": "JSONSocket", "transport": {"protocol": "UDP", "port": c.sport}}, local,
               lambda c: peers.JsonSocketServer(peers.udp_server(c.sport)), True),
        Column("JSONSocket/TCP", "relay",
               lambda c: {"protocol": "JSONSocket", "transport": {"protocol": "TCP", "port": c.sport}}, local,
               lambda c: peers.JsonSocketServer(peers.tcp_server(c.sport)), False, True),
        Column("STDIO-fork", "echo", lambda c: {"protocol": "STDIO-fork", "command": ["cat"]}, datagram=False),
    ]
    inline = [Column(n, k, lambda c, n=n, x=x: {"protocol": n, **x}) for n, k, x in (
        ("Echo", "echo", {}), ("Logger", "echo", {"log_file": "/dev/null"}), ("Metric", "echo", {}),
        ("JSONEncap", "jsonencap", {}), ("JSONDecap", "jsondecap", {}), ("Discard", "discard", {}),
        ("Sync", "sync", {"query": "/group"}), ("L7mpController", "http", {}), ("Prometheus", "http", {}))]
    return relay + inline + [Column("Stdio", "stdio", lambda c: {"protocol": "Stdio"})]


def document(cells, port):
    """The configuration of a daemon that has all these cells."""
    listeners = [l7test.controller(port)]
    used = {name for c in cells for chain in VARIANTS[c.variant] for name in chain}
    clusters = [{"name": name, "spec": spec} for name, spec in TRANSFORMERS.items() if name in used]
    for c in cells:
        ingress, egress = VARIANTS[c.variant]
        listeners.append({"name": c.id, "spec": c.row.spec(c), "rules": [{"action": {
            "rewrite": [{"path": "/group", "value": c.id}],
            "route": {"destination": f"d{c.id}", "ingress": ingress, "egress": egress}}}]})
        cluster = {"name": f"d{c.id}", "spec": c.column.spec(c)}
        if c.column.address:
            cluster["endpoints"] = [{"spec": {"address": c.column.address(c)}}]
        clusters.append(cluster)
    return {"admin": {"log_level": "warn"}, "listeners": listeners, "clusters": clusters}


def payloads(cell, largest):
    """(size, bytes) of each message: binary with NULs, each different."""
    packet = "AF_PACKET" in (cell.row.name, cell.column.name)
    sizes = (14, 100, 1200, min(largest, 1514)) if packet else (1, 100, 1200, largest)
    for i in range(MESSAGES):
        size = sizes[i * len(sizes) // MESSAGES]
        fill = bytes((i + k * 7) & 0xFF for k in range(min(size, 509)))
        fill = (fill * (size // max(1, len(fill)) + 1))[:size]
        yield peers.frame(size, fill) if packet else fill


def collect(peer, data, exact):
    """Receives what was sent; boundaries must fit when `exact`."""
    if not peer.datagram or exact:
        got = peer.recv(len(data))
    else:
        got = b""
        while got is not None and len(got) < len(data):
            part = peer.recv(0)
            got = None if part is None else got + part
    if got != data:
        raise AssertionError(f"sent {len(data)} bytes, got {None if got is None else len(got)}"
                             f"{'' if got is None or len(got) != len(data) else ', other bytes'}")


def session_of(api, cell):
    _, sessions = api.get("/sessions")
    return [s for s in sessions if s["source"]["listener"] == cell.id]


def check_warning(api, cell, lossy):
    found = session_of(api, cell)
    assert len(found) == 1, f"{len(found)} sessions"
    warnings = [e for e in found[0]["events"] if e["event"] == "WARNING"]
    assert len(warnings) == (1 if lossy else 0), f"warnings: {warnings}"


def wait_gone(api, cell, force):
    if force:
        for s in session_of(api, cell):
            api.delete(f"/sessions/{s['name'].replace('/', '%2F').replace('[', '%5B').replace(']', '%5D')}")
    assert l7test.wait_for(lambda: not session_of(api, cell), 15, 0.05), f"a session is left: {session_of(api, cell)}"


def lossy(cell):
    """Datagrams go into a byte stream somewhere: in one of the directions, or in both."""
    return cell.column.datagram is not None and cell.row.datagram != cell.column.datagram


def relay(cell, api):
    server = cell.column.server(cell)
    try:
        http = cell.row.name == "HTTP"
        box = []
        # Before the client: a JSONSocket client is up only when the route is.
        acceptor = threading.Thread(target=lambda: box.append(server.accept()), daemon=True)
        acceptor.start()
        client = cell.row.client(cell)
        largest = min(client.largest, {True: 65507, False: 1 << 17}[bool(cell.column.datagram)])
        if cell.variant == "three":
            largest = min(largest, 65507)
        messages = list(payloads(cell, largest))
        both = cell.row.datagram and cell.column.datagram
        if http and cell.column.name == "AF_PACKET":
            messages = messages[-1:]  # a body is one stream: only one whole frame can be told from the next
        elif http and cell.column.name.endswith("UDP"):
            messages = messages[: MESSAGES * 3 // 4]  # sent at once, without flow control: what a socket's buffer holds
        if http:
            upstream = request(cell, client, messages, acceptor, box)
        else:
            # A single session begins before its upstream is there: it is connected by now, or
            # what is sent belongs to the next one.
            l7test.wait_for(lambda: all(s["status"] == "CONNECTED" for s in session_of(api, cell)))
            client.send(messages[0])
            acceptor.join(peers.TIMEOUT)
            assert box, "the cluster did not connect"
            upstream = box[0]
            collect(upstream, messages[0], both)
            for m in messages[1:]:
                client.send(m)
                collect(upstream, m, both)
            for m in messages:
                upstream.send(m)
                collect(client, m, both)
            if cell.row.name != "HTTP" and cell.variant == "plain":
                check_warning(api, cell, lossy(cell))
        if cell.row.ends:
            client.close()
            if cell.column.ends and not http:
                assert upstream.ended(), "the client's close did not reach the server"
            if not http:
                upstream.close()
        wait_gone(api, cell, not cell.row.ends or http or not cell.column.ends)
        if not cell.row.ends:
            if cell.column.ends:
                assert upstream.ended(), "the session's end did not reach the server"
            upstream.close()
            client.close()
        if cell.variant == "plain" and cell.row.ends and cell.column.ends and not http and not cell.row.single:
            server_closes(cell, server)
            wait_gone(api, cell, False)
    finally:
        server.close()


def request(cell, client, messages, acceptor, box):
    """HTTP: the body is all that is sent, the answer all that comes back."""
    whole = b"".join(messages)
    answered = threading.Event()
    # WebSocket has no half-close: the body's end becomes a Close frame, which a server answers with its own. So there
    # the answer is given while the body is still coming.
    early = cell.column.name == "WebSocket"

    def send():
        client.send(whole)
        if early:
            answered.wait(peers.TIMEOUT)
        client.finish()

    def answer(upstream):
        for m in messages:
            upstream.send(m)
            if upstream.datagram:
                time.sleep(0.0005)
        answered.set()
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    acceptor.join(peers.TIMEOUT)
    assert box, "the cluster did not connect"
    upstream = box[0]
    if early:
        first = upstream.recv(0)
        answer(upstream)
        assert whole.startswith(first)
        collect(upstream, whole[len(first):], False)
    else:
        collect(upstream, whole, len(messages) == 1)
        sender.join(peers.TIMEOUT)
        # Beside the reader: an answer that nobody reads is cut after 5 s.
        answerer = threading.Thread(target=lambda: (answer(upstream), upstream.finish()), daemon=True)
        answerer.start()
    collect(client, whole, False)
    sender.join(peers.TIMEOUT)
    upstream.close()
    return upstream


def server_closes(cell, server):
    box = []
    acceptor = threading.Thread(target=lambda: box.append(server.accept()), daemon=True)
    acceptor.start()
    client = cell.row.client(cell)
    client.send(b"again")
    acceptor.join(peers.TIMEOUT)
    collect(box[0], b"again", False)
    box[0].close()
    assert client.ended(), "the server's close did not reach the client"
    client.close()


def exchange(cell, api, out, back):
    """The destination answers by itself: `out` makes what is sent of a message, `back` what must come."""
    client = cell.row.client(cell)
    largest = min(client.largest, 40000)
    messages = list(payloads(cell, largest))
    if cell.row.name == "AF_PACKET" and cell.column.kind in ("jsonencap", "jsondecap"):
        return special_packet(cell, api, client)
    exact = cell.row.datagram and cell.column.name != "STDIO-fork"
    if cell.row.name == "HTTP":
        whole = b"".join(out(m) for m in messages)
        sender = threading.Thread(target=lambda: (client.send(whole), client.finish()), daemon=True)
        sender.start()
        back(client, messages)
        sender.join(peers.TIMEOUT)
    else:
        for m in messages:
            client.send(out(m))
            if back is echo_back:
                collect(client, m, exact)
            else:
                back(client, [m])
    client.close()
    wait_gone(api, cell, not cell.row.ends or cell.row.name == "HTTP")
    return None


def echo_back(client, messages):
    collect(client, b"".join(messages), False)


def read_object(client):
    if client.datagram:
        return json.loads(client.recv(0))
    line = b""
    while not line.endswith(b"\n"):
        byte = client.recv(1)
        assert byte is not None, f"ended after {line[:80]!r}"
        line += byte
    return json.loads(line)


def encap_back(client, messages):
    got = b""
    want = b"".join(messages)
    while len(got) < len(want):
        o = read_object(client)
        assert "metadata" in o, o
        got += base64.b64decode(o["payload"], validate=True)
    assert got == want, f"{len(got)} bytes, wanted {len(want)}"


def wrap(row):
    def out(m):
        text = json.dumps({"metadata": {}, "payload": base64.b64encode(m).decode()}).encode()
        return text if row.datagram else text + b"\n"
    return out


def special_packet(cell, api, client):
    """What these transformers make of a frame is no frame: dropped and counted, the proxy continues."""
    client.send(peers.frame(100, bytes(100)))
    assert l7test.wait_for(lambda: session_of(api, cell), 5)
    client.close()
    wait_gone(api, cell, True)


def discard(cell, api):
    client = cell.row.client(cell)
    if cell.row.name == "HTTP":
        client.send(b"x" * 1000)
        client.finish()
        client.close()
        wait_gone(api, cell, True)
        return
    for m in list(payloads(cell, 1200))[:5]:
        client.send(m)
    assert l7test.wait_for(lambda: sum(s["stats"]["ingress"]["bytes"] for s in session_of(api, cell)), 5)
    client.close()
    wait_gone(api, cell, not cell.row.ends)


def sync(cell, api):
    if cell.row.single:
        return SKIP["single"]
    if cell.row.name == "HTTP":
        return SKIP["request"]
    members = [cell.row.client(cell) for _ in range(3)]
    for m in members:  # a UDP member is one when it has spoken
        m.send(b"hello")
    assert l7test.wait_for(lambda: len(session_of(api, cell)) == 3, 10)
    time.sleep(0.2)
    members[0].send(b"to the others!")
    for m in members[1:]:
        got = b""
        while not got.endswith(b"to the others!"):
            part = m.recv(1)
            assert part is not None, f"ended after {got!r}"
            got += part
    for m in members:
        m.close()
    wait_gone(api, cell, not cell.row.ends)
    return None


def http_only(cell, api):
    if cell.row.name == "HTTP":
        path = "/api/v1/config" if cell.column.name == "L7mpController" else "/metrics"
        r = subprocess.run(["curl", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}",
                            f"http://127.0.0.1:{cell.lport}{path}"], capture_output=True, text=True, check=True)
        assert r.stdout == "200", r.stdout
        return
    try:
        client = cell.row.client(cell)
        client.send(peers.frame(100, bytes(100)) if cell.row.name == "AF_PACKET" else b"not HTTP")
        time.sleep(0.2)
        client.close()
    except (ConnectionError, OSError, ValueError, KeyError):
        pass  # refused: what it should be
    except peers.websockets.WebSocketException:
        pass
    wait_gone(api, cell, False)


def stdio(cell, _api):
    """A daemon of its own: its standard input and output are the stream."""
    folder = tempfile.mkdtemp(dir=cell.folder)
    config = document([cell], 1235)
    path = os.path.join(folder, "c.json")
    with open(path, "w") as f:
        json.dump(config, f)
    err = open(os.path.join(folder, "err"), "wb")
    p = subprocess.Popen([l7test.program("l7mp-proxy"), "-c", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=err)
    try:
        def up():
            with socket.create_connection(("127.0.0.1", 1235), 1):
                return True
        assert l7test.wait_for(up, 15)
        time.sleep(0.2)  # the other listener of this start
        client = cell.row.client(cell)
        if cell.row.name == "AF_PACKET":
            data = peers.frame(100, bytes(range(86)))
        else:
            data = b"typed \x00 bytes"
        client.send(data)
        if cell.row.name == "HTTP":
            client.finish()
        got = os.read(p.stdout.fileno(), 4096)
        assert got == data, got
        p.stdin.write(data)
        p.stdin.flush()
        if cell.row.name == "HTTP":
            p.stdin.close()
        collect(client, data, False)
        client.close()
    finally:
        p.send_signal(signal.SIGTERM)
        try:
            p.wait(60)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()
        p.stdout.close()
    assert p.returncode == 0, open(os.path.join(folder, "err")).read()[-2000:]


TESTS = {
    "relay": relay,
    "echo": lambda c, a: exchange(c, a, lambda m: m, echo_back),
    "jsonencap": lambda c, a: exchange(c, a, lambda m: m, encap_back),
    "jsondecap": lambda c, a: exchange(c, a, wrap(c.row), echo_back),
    "discard": discard, "sync": sync, "http": http_only, "stdio": stdio,
}


def make_veth(cells):
    for sysctl in ("all", "default"):
        with open(f"/proc/sys/net/ipv6/conf/{sysctl}/disable_ipv6", "w") as f:
            f.write("1")
    batch = []
    for c in cells:
        for side, name in (("l", c.row.name), ("s", c.column.name)):
            if name == "AF_PACKET":
                v = c.veth(side)
                batch += [f"link add {v} type veth peer name {v}p", f"link set {v} up", f"link set {v}p up"]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(batch), text=True, check=True)


def drop_veth(cells):
    batch = [f"link del {c.veth(side)}" for c in cells
             for side, name in (("l", c.row.name), ("s", c.column.name)) if name == "AF_PACKET"]
    subprocess.run(["ip", "-force", "-batch", "-"], input="\n".join(batch), text=True, capture_output=True, check=False)


def chosen(r, c, variant):
    """The fast cut: every cell plain, one chain per row and column (a diagonal)."""
    if variant == "plain" or FULL:
        return True
    return (r + c) % 11 == (0 if variant == "one" else 5)


def run_cell(cell, api):
    try:
        return TESTS[cell.column.kind](cell, api) or "ok"
    except Exception:  # whatever a peer raised: it is this cell's failure
        return "FAILED\n" + traceback.format_exc(limit=4)


def run_row(row_number, row, cols, folder, only):
    number = row_number * 100
    cells = []
    for i, column in enumerate(cols):
        for variant in VARIANTS:
            number += 1
            if column.kind in ("http", "stdio") and variant != "plain":
                continue
            if chosen(row_number, i, variant) and (not only or only in f"{row.name} -> {column.name}, {variant}"):
                cells.append(Cell(row, column, variant, number, folder))
    if not cells:
        return {}
    own = [c for c in cells if c.column.kind == "stdio"]
    shared = [c for c in cells if c.column.kind != "stdio"]
    make_veth(cells)
    outcome = {}
    try:
        with l7test.Proxy(document(shared, 1234)) as proxy:
            time.sleep(0.3)  # what listeners open after their start
            before = proxy.fds()
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                for cell, result in zip(shared, pool.map(lambda c: run_cell(c, proxy.api), shared)):
                    outcome[cell] = result
            left = l7test.wait_for(lambda: proxy.fds() <= before + 2, 8, 0.1)
            outcome["descriptors"] = "ok" if left else f"FAILED\n{proxy.fds()} descriptors, {before} before"
        for cell in own:
            outcome[cell] = run_cell(cell, None)
        leftover = [n for n in os.listdir(folder) if os.path.exists(f"{folder}/{n}") and not os.path.isdir(f"{folder}/{n}")]
        outcome["files"] = "ok" if not leftover else f"FAILED\nleft behind: {leftover}"
    finally:
        drop_veth(cells)
    return outcome


def table(results, rs, cs):
    lines = ["| listener \\ cluster | " + " | ".join(c.name for c in cs) + " |", "|---" * (len(cs) + 1) + "|"]
    for r in rs:
        marks = []
        for c in cs:
            got = [v for k, v in results.items() if isinstance(k, Cell) and k.row is r and k.column is c]
            marks.append("-" if not got else "FAILED" if any(v.startswith("FAILED") for v in got)
                         else "ok" if "ok" in got else f"({next(k for k, v in SKIP.items() if v == got[0])})")
        lines.append(f"| {r.name} | " + " | ".join(marks) + " |")
    return "\n".join(lines)


def main():
    only = sys.argv[1] if len(sys.argv) > 1 and not sys.argv[1].startswith("--") else ""
    rs, cs = rows(), columns()
    results, count, failed = {}, 0, 0
    for i, row in enumerate(rs):
        with tempfile.TemporaryDirectory(prefix="l7mx-") as folder:
            try:
                outcome = run_row(i, row, cs, folder, only)
            except Exception:
                outcome = {"row": "FAILED\n" + traceback.format_exc()}
        for cell, result in outcome.items():
            count += 1
            title = cell.title() if isinstance(cell, Cell) else f"{row.name}: {cell} at the end of the row"
            if result.startswith("FAILED"):
                failed += 1
                print(f"not ok {count} - {title}")
                for line in result.splitlines()[1:]:
                    print(f"# {line}")
            else:
                print(f"ok {count} - {title}" + ("" if result == "ok" else f" # SKIP {result}"), flush=True)
        results.update(outcome)
    print(f"1..{count}")
    text = table(results, rs, cs)
    for line in text.splitlines():
        print(f"# {line}")
    if "--table" in sys.argv:
        with open(sys.argv[sys.argv.index("--table") + 1], "w") as f:
            f.write(text + "\n")
    sys.stdout.flush()
    os._exit(1 if failed or not count else 0)


if __name__ == "__main__":
    main()
