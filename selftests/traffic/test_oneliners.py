#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""One-liners with real peers: every row of the table in docs/oneliners.md, run as it stands there (but
for paths and what a row can't know), and what the command line answers to nonsense."""
import asyncio
import contextlib
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import l7test  # noqa: E402
import websockets  # noqa: E402
from certs import Certs  # noqa: E402
from l7test import wait_for  # noqa: E402

DOC = l7test.ROOT / "docs" / "oneliners.md"
PAYLOAD = bytes(range(256)) * 40


def rows():
    """The commands on the right of the last table."""
    text = DOC.read_text().rpartition("\n## ")[2]
    return [m.group(1) for m in re.finditer(r"\| `(l7mp-proxy [^`]*)` \|$", text, re.M)]


class Proxy:
    def __init__(self, command, folder, stdin=subprocess.DEVNULL):
        text = command.replace("/run/", folder + "/").replace("s.pem", folder + "/s.pem").replace(
            "ca.pem", folder + "/ca.pem")
        args = [a for a in shlex.split(text)[1:]]
        self.log = tempfile.TemporaryFile()
        self.p = subprocess.Popen([l7test.program("l7mp-proxy"), *args], stdin=stdin, stdout=subprocess.PIPE,
                                  stderr=self.log)

    def text(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def __enter__(self):
        if not wait_for(lambda: "is ready" in self.text() or self.p.poll() is not None, 15) or self.p.poll() is not None:
            raise AssertionError(f"did not start: {self.text()}")
        return self

    def __exit__(self, kind, value, trace):
        self.p.send_signal(signal.SIGTERM)
        try:
            status = self.p.wait(60)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.wait()
            status = "hangs"
        text = self.text()
        self.p.stdout.close()
        if kind is None:
            assert status == 0 and not l7test.SANITIZER.search(text), f"{status}: {text[-3000:]}"
        else:
            sys.stderr.write(f"# {text[-3000:]}\n")


def socat(address, data=PAYLOAD, *args):
    r = subprocess.run(["socat", "-t", "5", *args, "-", address], input=data, capture_output=True, timeout=60)
    return r.stdout


class Socat:
    """A socat in the background."""

    def __init__(self, *args, ready):
        self.p = subprocess.Popen(["socat", *args], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  start_new_session=True)
        assert wait_for(ready, 10), args

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.killpg(self.p.pid, signal.SIGTERM)  # with what it forked
        self.p.wait(60)


def listens(port, kind="tcp"):
    def look():
        text = "".join(pathlib.Path(f"/proc/net/{kind}{v}").read_text() for v in ("", "6"))
        return any(line.split()[1].endswith(f":{port:04X}") and (kind == "udp" or line.split()[3] == "0A")
                   for line in text.splitlines()[1:] if ":" in line)
    return look


def tcp_echo():
    return Socat("TCP-LISTEN:6000,fork,reuseaddr", "EXEC:cat", ready=listens(6000))


class WsServer:
    """Python's echo server, that counts paths and messages."""

    def __init__(self):
        self.paths, self.messages = [], []
        self.loop, ready = asyncio.new_event_loop(), threading.Event()

        async def handler(ws, path=None):
            self.paths.append(ws.path)
            async for m in ws:
                self.messages.append(m)
                await ws.send(m)

        async def main():
            self.stop = asyncio.Event()
            async with websockets.serve(handler, "127.0.0.1", 6000):
                ready.set()
                await self.stop.wait()
        self.thread = threading.Thread(target=lambda: self.loop.run_until_complete(main()), daemon=True)
        self.thread.start()
        ready.wait(60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(5)


def ws_echo(data=PAYLOAD):
    async def run():
        async with websockets.connect("ws://127.0.0.1:5000/") as ws:
            await ws.send(data)
            got = b""
            while len(got) < len(data):
                got += await asyncio.wait_for(ws.recv(), 10)
            return got
    return asyncio.run(run())


class Rows(unittest.TestCase):
    """One test for each row, by what its command begins with."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="l7mp-line-")
        self.dir = self.folder.name
        self.addCleanup(self.folder.cleanup)

    def proxy(self, command, **kw):
        self.assertIn(command, rows(), "not in docs/oneliners.md")
        tested.add(command)
        return Proxy(command, self.dir, **kw)

    def path(self, name):
        return os.path.join(self.dir, name)

    def udp_echo(self, port, data=b"a datagram"):
        with l7test.udp_socket() as s:
            s.connect(("127.0.0.1", port))
            s.send(data)
            self.assertEqual(s.recv(65536), data)

    def test_udp(self):
        """UDP to UDP"""
        with Socat("UDP-LISTEN:6000,fork", "EXEC:cat", ready=listens(6000, "udp")), \
                self.proxy("l7mp-proxy UDP-LISTEN:5000 UDP:127.0.0.1:6000"):
            self.udp_echo(5000)

    def test_tcp(self):
        """TCP to TCP"""
        with tcp_echo(), self.proxy("l7mp-proxy TCP-LISTEN:5000 TCP:127.0.0.1:6000"):
            self.assertEqual(socat("TCP:127.0.0.1:5000"), PAYLOAD)

    def test_tcp6(self):
        """TCP over IPv6 only to IPv4 only, by name"""
        with tcp_echo(), self.proxy("l7mp-proxy TCP6-LISTEN:5000 TCP4:localhost:6000"):
            self.assertEqual(socat("TCP6:[::1]:5000"), PAYLOAD)
            with self.assertRaises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", 5000), 2)

    def test_to_unix(self):
        """TCP to a UNIX socket"""
        with Socat(f"UNIX-LISTEN:{self.path('x')},fork", "EXEC:cat", ready=lambda: os.path.exists(self.path("x"))), \
                self.proxy("l7mp-proxy TCP-LISTEN:5000,bind=127.0.0.1 UNIX-CONNECT:/run/x"):
            self.assertEqual(socat("TCP:127.0.0.1:5000"), PAYLOAD)

    def test_from_unix(self):
        """A UNIX socket to TCP"""
        with tcp_echo(), self.proxy("l7mp-proxy UNIX-LISTEN:/run/x TCP:127.0.0.1:6000"):
            self.assertEqual(socat(f"UNIX-CONNECT:{self.path('x')}"), PAYLOAD)
        self.assertFalse(os.path.exists(self.path("x")))

    def test_unix_datagrams(self):
        """UNIX datagrams"""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server, \
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            server.bind(self.path("y"))
            client.bind(self.path("c"))
            server.settimeout(30)
            client.settimeout(30)
            with self.proxy("l7mp-proxy UNIX-RECVFROM:/run/x UNIX-SENDTO:/run/y"):
                client.sendto(b"one", self.path("x"))
                data, peer = server.recvfrom(100)
                self.assertEqual(data, b"one")
                server.sendto(b"two", peer)
                self.assertEqual(client.recv(100), b"two")

    def test_exec(self):
        """TCP to a process"""
        with self.proxy("l7mp-proxy TCP-LISTEN:5000 EXEC:'tr a-z A-Z'"):
            self.assertEqual(socat("TCP:127.0.0.1:5000", b"hello, world"), b"HELLO, WORLD")

    def test_echo(self):
        """TCP to an unnamed pipe, which echoes"""
        with self.proxy("l7mp-proxy TCP-LISTEN:5000 PIPE"):
            self.assertEqual(socat("TCP:127.0.0.1:5000"), PAYLOAD)

    def test_pipe(self):
        """A FIFO to TCP"""
        out = self.path("out")
        with Socat("-u", "TCP-LISTEN:6000,reuseaddr", f"CREATE:{out}", ready=listens(6000)), \
                self.proxy("l7mp-proxy PIPE:/run/fifo TCP:127.0.0.1:6000"):
            with open(self.path("fifo"), "wb") as f:
                f.write(PAYLOAD)
            self.assertTrue(wait_for(lambda: pathlib.Path(out).read_bytes() == PAYLOAD))

    def test_stdio(self):
        """Standard input and output to a TCP listener"""
        with self.proxy("l7mp-proxy - TCP-LISTEN:5000", stdin=subprocess.PIPE) as proxy, \
                socket.create_connection(("127.0.0.1", 5000), 30) as s:
            s.settimeout(30)
            proxy.p.stdin.write(b"typed\n")
            proxy.p.stdin.flush()
            self.assertEqual(s.recv(100), b"typed\n")
            s.sendall(b"answer\n")
            self.assertEqual(proxy.p.stdout.readline(), b"answer\n")
            proxy.p.stdin.close()

    def test_stdio_udp(self):
        """Standard input and output to a UDP peer, from a fixed port"""
        with l7test.udp_socket(6000) as peer:
            with self.proxy("l7mp-proxy UDP:127.0.0.1:6000,sourceport=5000 -", stdin=subprocess.PIPE) as proxy:
                proxy.p.stdin.write(b"typed\n")
                proxy.p.stdin.flush()
                self.assertEqual(peer.recvfrom(100), (b"typed\n", ("127.0.0.1", 5000)))
                peer.sendto(b"answer\n", ("127.0.0.1", 5000))
                self.assertEqual(proxy.p.stdout.readline(), b"answer\n")
                proxy.p.stdin.close()

    def certs(self):
        certs = Certs(self.dir)
        certs.cert("s")
        with open(self.path("s.pem"), "a") as f:  # as socat has it: both in one file
            f.write(pathlib.Path(self.path("s.key")).read_text())
        return certs

    def test_tls_listener(self):
        """TLS to TCP"""
        self.certs()
        with tcp_echo(), self.proxy("l7mp-proxy OPENSSL-LISTEN:5000,cert=s.pem,verify=0 TCP:127.0.0.1:6000"):
            self.assertEqual(socat(f"OPENSSL:localhost:5000,pf=ip4,cafile={self.path('ca.pem')}"), PAYLOAD)

    def test_tls_cluster(self):
        """TCP to TLS"""
        self.certs()
        with Socat(f"OPENSSL-LISTEN:6000,fork,reuseaddr,cert={self.path('s.pem')},verify=0", "EXEC:cat",
                   ready=listens(6000)), \
                self.proxy("l7mp-proxy TCP-LISTEN:5000 OPENSSL:localhost:6000,cafile=ca.pem"):
            self.assertEqual(socat("TCP:127.0.0.1:5000"), PAYLOAD)

    def test_logger(self):
        """What passes is written, in both directions"""
        with tcp_echo(), self.proxy(
                "l7mp-proxy TCP-LISTEN:5000 TCP:127.0.0.1:6000 --via LOGGER --back LOGGER") as proxy:
            self.assertEqual(socat("TCP:127.0.0.1:5000", b"to be seen\n"), b"to be seen\n")
            self.assertIn(b"to be seen", proxy.p.stdout.readline())
            self.assertIn(b"to be seen", proxy.p.stdout.readline())

    def test_retry(self):
        """A server that comes later"""
        with self.proxy("l7mp-proxy TCP-LISTEN:5000 TCP:127.0.0.1:6000,retry=50,interval=0.1"), \
                socket.create_connection(("127.0.0.1", 5000), 30) as s:
            s.settimeout(30)
            s.sendall(b"early")
            with tcp_echo():
                self.assertEqual(s.recv(100), b"early")

    def test_ws_to_tcp(self):
        """WebSocket to TCP"""
        with tcp_echo(), self.proxy("l7mp-proxy ws-l:127.0.0.1:5000 tcp:127.0.0.1:6000"):
            self.assertEqual(ws_echo(), PAYLOAD)

    def test_tcp_to_ws(self):
        """TCP to WebSocket"""
        with WsServer() as server, self.proxy("l7mp-proxy tcp-l:127.0.0.1:5000 ws://127.0.0.1:6000/chat"):
            with socket.create_connection(("127.0.0.1", 5000), 30) as s:
                s.settimeout(30)
                s.sendall(b"hello")
                self.assertEqual(s.recv(100), b"hello")
            self.assertEqual(server.paths, ["/chat"])

    def test_udp_to_ws(self):
        """UDP to WebSocket: a datagram is a message"""
        with WsServer() as server, self.proxy("l7mp-proxy udp-l:127.0.0.1:5000 ws://127.0.0.1:6000/"):
            self.udp_echo(5000, b"one")
            self.assertEqual(server.messages, [b"one"])

    def test_ws_mirror(self):
        """WebSocket to an echo"""
        with self.proxy("l7mp-proxy ws-l:127.0.0.1:5000 mirror:"):
            self.assertEqual(ws_echo(), PAYLOAD)

    def test_ws_exec(self):
        """WebSocket to a process"""
        with self.proxy("l7mp-proxy ws-l:127.0.0.1:5000 exec:cat"):
            self.assertEqual(ws_echo(), PAYLOAD)

    def client(self, command, data, expect, status=0, *args):
        """The standard input as a client: what comes out, and that it ends by itself."""
        self.assertIn(command, rows())
        tested.add(command)
        r = subprocess.run([l7test.program("l7mp-proxy"), "-l", "error", *args, *shlex.split(command)[1:]], input=data,
                           capture_output=True, timeout=120)
        self.assertEqual((r.returncode, r.stdout), (status, expect), r.stderr)

    def test_client(self):
        """the standard input as the first address is a client, which ends with its session"""
        command = "l7mp-proxy - TCP:127.0.0.1:6000"
        self.client(command, b"nobody", b"", 1)
        with tcp_echo():
            self.client(command, PAYLOAD, PAYLOAD)
        with Socat("-u", "EXEC:echo goodbye", "TCP-LISTEN:6000,reuseaddr", ready=listens(6000)):
            # The other end has finished; the input has not.
            with subprocess.Popen([l7test.program("l7mp-proxy"), "-l", "error", "-", "TCP:127.0.0.1:6000"],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE) as p:
                self.assertEqual(p.stdout.read(), b"goodbye\n")
                self.assertEqual(p.wait(60), 0)
        with contextlib.closing(l7test.UdpEcho(6000)):
            r = subprocess.run([l7test.program("l7mp-proxy"), "-l", "error", "-", "UDP:localhost:6000"], input=b"datagram",
                               capture_output=True, timeout=120)
            self.assertEqual((r.returncode, r.stdout), (0, b"datagram"))

    def test_one_way(self):
        """-u: nothing comes back; range and max-children refuse"""
        command = "l7mp-proxy -u TCP-LISTEN:5000 TCP:127.0.0.1:6000"
        with tcp_echo(), self.proxy(command):
            self.assertEqual(socat("TCP:127.0.0.1:5000"), b"")
        for option in ("range=10.0.0.0/8", "range=127.0.0.2"):
            with tcp_echo(), Proxy(f"l7mp-proxy TCP-LISTEN:5000,{option} TCP:127.0.0.1:6000", self.dir):
                self.assertEqual(socat("TCP:127.0.0.1:5000"), b"")
        with tcp_echo(), Proxy("l7mp-proxy TCP-LISTEN:5000,range=127.0.0.0/30,max-children=1 TCP:127.0.0.1:6000", self.dir):
            with socket.create_connection(("127.0.0.1", 5000), 30) as s:
                s.sendall(b"x")
                self.assertEqual(s.recv(1), b"x")
                self.assertEqual(socat("TCP:127.0.0.1:5000"), b"")

    def test_idle(self):
        """-T: a session without traffic ends"""
        with tcp_echo(), Proxy("l7mp-proxy -T 0.5 TCP-LISTEN:5000 TCP:127.0.0.1:6000", self.dir):
            with socket.create_connection(("127.0.0.1", 5000), 60) as s:
                s.sendall(b"x")
                self.assertEqual(s.recv(1), b"x")
                self.assertEqual(s.recv(1), b"")

    def test_zz_all_rows(self):
        """docs/oneliners.md: no row without a test"""
        if len(sys.argv) == 1:
            self.assertEqual(set(rows()), tested)


class CommandLine(unittest.TestCase):
    def fails(self, *args):
        status, out, err = l7test.run_proxy(*args)
        self.assertEqual((status, out), (1, ""), err)
        self.assertEqual(len(err.splitlines()), 1, err)
        return err

    def test_errors(self):
        """what is wrong is told in one line, with the argument and the position"""
        self.assertIn("argument 1 ('TCP-LISTEN:99999'), at 12: expected a port", self.fails("TCP-LISTEN:99999", "-"))
        self.assertIn("argument 2 ('NOPE:1'), at 1: unknown address type", self.fails("TCP-LISTEN:1", "NOPE:1"))
        self.assertIn("--via ('NOPE'), at 1", self.fails("TCP-LISTEN:1", "-", "--via", "NOPE"))
        self.assertIn("--api", self.fails("TCP-LISTEN:1", "-", "--api", "x"))
        self.assertIn("expected two addresses, got 1", self.fails("TCP-LISTEN:1"))
        self.assertIn("the third is 'x'", self.fails("TCP-LISTEN:1", "-", "x"))
        self.assertIn("a file is given with -c", self.fails("-c", "/dev/null", "TCP-LISTEN:1", "-"))
        self.assertIn("a file is given with -c", self.fails("-c", "/dev/null", "--via", "LOGGER"))
        self.assertIn("argument 1 ('TCP-LISTEN:1,address=nowhere'): listeners[0].spec.address",
                      self.fails("TCP-LISTEN:1,address=nowhere", "-"))

    def test_port_taken(self):
        """an address that can't be bound names the argument"""
        with socket.create_server(("127.0.0.1", 5000)):
            err = self.fails("TCP-LISTEN:5000,bind=127.0.0.1", "-")
            self.assertIn("argument 1 ('TCP-LISTEN:5000,bind=127.0.0.1'): listeners[0].spec.port", err)
            self.assertIn("address already in use", err)

    def test_check_only(self):
        """-t checks two addresses too"""
        status, out, _ = l7test.run_proxy("-t", "-s", "TCP-LISTEN:5000", "ECHO")
        self.assertEqual((status, out), (0, "command line: the configuration is valid\n"))

    def test_api(self):
        """--api serves the REST API, with the objects under their names; without it nothing listens"""
        with tempfile.TemporaryDirectory() as d, Proxy("l7mp-proxy UDP-LISTEN:5000 ECHO --via METRIC --api 1234", d):
            status, config = l7test.Api(1234).get("/config")
            self.assertEqual(status, 200)
            self.assertEqual([x["name"] for x in config["listeners"]], ["listener", "controller-listener"])
            self.assertIn("cluster", [x["name"] for x in config["clusters"]])
        with tempfile.TemporaryDirectory() as d, Proxy("l7mp-proxy UDP-LISTEN:5000 ECHO", d):
            text = pathlib.Path("/proc/net/tcp").read_text() + pathlib.Path("/proc/net/tcp6").read_text()
            self.assertNotIn(" 0A ", text)

    def test_reload(self):
        """SIGHUP changes nothing and ends nothing"""
        with tempfile.TemporaryDirectory() as d, Proxy("l7mp-proxy TCP-LISTEN:5000 ECHO -l notice", d) as proxy, \
                socket.create_connection(("127.0.0.1", 5000), 30) as s:
            s.settimeout(30)
            s.sendall(b"a")
            self.assertEqual(s.recv(1), b"a")
            proxy.p.send_signal(signal.SIGHUP)
            self.assertTrue(wait_for(lambda: "reloaded: 0 objects changed" in proxy.text()))
            s.sendall(b"b")
            self.assertEqual(s.recv(1), b"b")


tested = set()

if __name__ == "__main__":
    l7test.main()
