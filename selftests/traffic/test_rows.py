#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""UNIX datagrams, seqpacket, PIPE, AF_PACKET and STDIO-fork with real peers: socat, a shell, and raw
frames by Python's AF_PACKET from another network namespace.

l7mp-test: timeout=240
"""
import contextlib
import faulthandler
import os
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import unittest

import l7test
from l7test import controller, wait_for

TYPE = 0x88B5  # local experimental


def to(spec, address=None, retry=None, ingress=()):
    """A rule list that leads to one inline cluster."""
    c = {"spec": spec}
    if address:
        c["endpoints"] = [{"spec": {"address": address}}]
    route = {"destination": c, "ingress": list(ingress)}
    if retry:
        route["retry"] = retry
    return [{"action": {"route": route}}]


def children(pid):
    out = subprocess.run(["ps", "-o", "pid=,stat=,args=", "--ppid", str(pid)], capture_output=True, text=True)
    return out.stdout.splitlines()


class Rows(unittest.TestCase):
    def setUp(self):
        faulthandler.dump_traceback_later(60, exit=True)
        self.addCleanup(faulthandler.cancel_dump_traceback_later)
        self.tmp = tempfile.TemporaryDirectory(prefix="l7mp-rows-")
        self.proxy = None
        self.started = []

    def tearDown(self):
        for p in self.started:
            if p.poll() is None:
                p.terminate()
            p.wait(60)
            for f in (p.stdin, p.stdout):
                if f:
                    f.close()
        try:
            if self.proxy:
                self.proxy.stop()
                # No socket and no FIFO of ours is left.
                self.assertEqual([f for f in os.listdir(self.tmp.name) if not f.startswith("mine")], [])
        finally:
            if self.proxy and self.proxy.alive():
                self.proxy.process.kill()
            self.tmp.cleanup()

    def path(self, name):
        return os.path.join(self.tmp.name, name)

    def start(self, *listeners, **options):
        config = {"admin": {"log_level": "notice", "offload": "disable"}, "listeners": [controller()]}
        for i, (spec, rules) in enumerate(listeners):
            config["listeners"].append({"name": f"l{i}", "spec": spec, "rules": rules,
                                        "options": {"track": 60, **options}})
        self.proxy = l7test.Proxy(config)
        self.idle_fds = self.proxy.fds()
        return self.proxy

    def run_peer(self, *args, **kw):
        p = subprocess.Popen(list(args), stdin=subprocess.PIPE, stdout=subprocess.PIPE, **kw)
        self.started.append(p)
        return p

    def sessions(self, prefix):
        status, found = self.proxy.api.get("/sessions")
        self.assertEqual(status, 200)
        return [s for s in found if s["name"].startswith(prefix)]

    def session(self, prefix, status=None):
        def one():
            found = self.sessions(prefix)
            return found[0] if found and (not status or found[0]["status"] == status) else None
        found = wait_for(one, 10)
        self.assertTrue(found, f"no session {prefix} {status}: {self.sessions('')}")
        return found

    def events(self, session):
        return [(e["event"], e.get("message", "")) for e in session["events"]]

    # ---- UNIX/dgram ----

    def test_unix_dgram_socat(self):
        """unix/dgram: socat UNIX-SENDTO is answered through a UDP echo server, message by message"""
        echo = l7test.UdpEcho(9001)
        self.addCleanup(echo.close)
        self.start(({"protocol": "UNIX/dgram", "filename": self.path("sock")},
                    to({"protocol": "UDP", "port": 9001}, "127.0.0.1")))
        p = self.run_peer("socat", "-t5", "-", f"unix-sendto:{self.path('sock')},bind={self.path('mine')}")
        for word in (b"one\n", b"two\0\n"):
            p.stdin.write(word)
            p.stdin.flush()
            self.assertEqual(p.stdout.readline(), word)
        self.assertEqual([d for _, d in echo.seen], [b"one\n", b"two\0\n"])
        s = self.session("UNIXD:l0-")
        self.assertEqual(s["metadata"]["UNIX"]["peer"], self.path("mine"))
        self.assertEqual(s["metadata"]["UNIX"]["pid"], p.pid)

    def test_unix_dgram_unnamed(self):
        """unix/dgram: a sender without a name gets through, answers to it are dropped and counted"""
        echo = l7test.UdpEcho(9001)
        self.addCleanup(echo.close)
        self.start(({"protocol": "UnixDatagram", "filename": "@l7mp-rows"},
                    to({"protocol": "UDP", "port": 9001}, "127.0.0.1")))
        for n in range(2):
            subprocess.run(["socat", "-u", "-", "abstract-sendto:l7mp-rows"], input=b"%d" % n, timeout=60, check=True)
        self.assertTrue(wait_for(lambda: len(echo.seen) == 2))
        self.assertTrue(wait_for(lambda: self.session("UNIXD:")["stats"]["drops"] == 2))
        self.assertEqual(len(self.sessions("UNIXD:")), 1)

    def test_unix_dgram_cluster(self):
        """unix/dgram: a cluster reaches socat UNIX-RECV, loses it and finds it again by the retry policy"""
        path = self.path("mine-server")
        self.start(({"protocol": "UDP", "port": 9000},
                    to({"protocol": "UNIX/dgram"}, path,
                       {"retry_on": "always", "num_retries": 500, "timeout": 100})))
        s = l7test.udp_socket()
        s.sendto(b"before\n", ("127.0.0.1", 9000))  # there is nobody yet: it waits
        time.sleep(0.3)
        for n in range(2):
            p = self.run_peer("socat", "-u", f"unix-recv:{path},unlink-early", "-")
            if n:
                self.assertTrue(wait_for(lambda: self.session("UDP:")["status"] == "CONNECTED"))
                s.sendto(b"again\n", ("127.0.0.1", 9000))
                self.assertEqual(p.stdout.readline(), b"again\n")
            else:
                self.assertEqual(p.stdout.readline(), b"before\n")
            p.terminate()
            p.wait(60)
            s.sendto(b"lost\n", ("127.0.0.1", 9000))  # finds out that there is nobody any more
            self.assertTrue(wait_for(lambda: self.session("UDP:")["status"] == "DISCONNECTED"))

    def test_unix_dgram_two_proxied_sockets(self):
        """unix/dgram: largest messages and 200 small ones each way between Python sockets, in order"""
        a, b = self.path("mine-a"), self.path("mine-b")
        self.start(({"protocol": "UNIX/dgram", "filename": self.path("sock")}, to({"protocol": "UNIX/dgram"}, b)))
        client, server = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
        for s, name in ((client, a), (server, b)):
            s.bind(name)
            s.settimeout(30)
        for size in (0, 1, 1200, 65536, 200000):
            message = os.urandom(size)
            client.sendto(message, self.path("sock"))
            got, peer = server.recvfrom(1 << 20)
            self.assertEqual(got, message)
            server.sendto(message[::-1], peer)
            self.assertEqual(client.recv(1 << 20), message[::-1])
        want = [b"%d" % n for n in range(200)]
        threading.Thread(target=lambda: [client.sendto(m, self.path("sock")) for m in want], daemon=True).start()
        for m in want:
            got, peer = server.recvfrom(1 << 20)
            self.assertEqual(got, m)
        threading.Thread(target=lambda: [server.sendto(m, peer) for m in want], daemon=True).start()
        self.assertEqual([client.recv(1 << 20) for _ in want], want)
        client.close()
        server.close()

    # ---- UNIX/seqpacket ----

    def test_seqpacket(self):
        """unix/seqpacket: socat keeps boundaries through listener and cluster; both ends see the end"""
        server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        server.bind(self.path("mine"))
        server.listen(5)
        server.settimeout(30)
        self.start(({"protocol": "UNIX/seqpacket", "filename": self.path("sock")},
                    to({"protocol": "UNIX/seqpacket"}, self.path("mine"))))
        p = self.run_peer("socat", "-t5", "-", f"unix-connect:{self.path('sock')},type=5")
        conn, _ = server.accept()
        conn.settimeout(30)
        for word in (b"one\n", b"two\n"):
            p.stdin.write(word)
            p.stdin.flush()
            self.assertEqual(conn.recv(1000), word)
            conn.send(word.upper())
            self.assertEqual(p.stdout.readline(), word.upper())
        p.stdin.close()
        self.assertEqual(conn.recv(1000), b"")
        conn.send(b"last\n")
        conn.close()
        self.assertEqual(p.stdout.read(), b"last\n")
        self.session("UNIXS:", "DESTROYED")
        server.close()

    def test_seqpacket_stream_backpressure(self):
        """unix/seqpacket: 8 MB of TCP into a slow reader: nothing is lost, memory stays"""
        server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        server.bind(self.path("mine"))
        server.listen(5)
        self.start(({"protocol": "TCP", "port": 9000}, to({"protocol": "UNIX/seqpacket"}, self.path("mine"))))
        data = os.urandom(1 << 20) * 8
        c = socket.create_connection(("127.0.0.1", 9000), 30)
        threading.Thread(target=lambda: (c.sendall(data), c.shutdown(socket.SHUT_WR)), daemon=True).start()
        conn, _ = server.accept()
        conn.settimeout(30)
        got, n = [], 0
        while part := conn.recv(1 << 20):
            got.append(part)
            n += 1
            if n % 50 == 0:
                time.sleep(0.05)
        self.assertEqual(b"".join(got), data)
        conn.close()
        c.close()
        server.close()

    # ---- PIPE ----

    def test_pipe_shell(self):
        """pipe: the shell's own reading and writing; each writer is a session, the FIFOs are ours and go"""
        tcp = l7test.TcpEcho(9001)
        self.addCleanup(tcp.close)
        self.start(({"protocol": "PIPE", "filename": self.path("in"), "output": self.path("out")},
                    to({"protocol": "TCP", "port": 9001}, "127.0.0.1")))
        for n in range(3):
            out = subprocess.run(["bash", "-c", f"cat {self.path('out')} & echo hello {n} > {self.path('in')}; wait"],
                                 capture_output=True, timeout=60)
            self.assertEqual(out.stdout, b"hello %d\n" % n)
        self.assertTrue(wait_for(lambda: len([s for s in self.sessions("PIPE:") if s["status"] == "DESTROYED"]) == 3))

    def test_pipe_retry(self):
        """pipe: with retry, one session and one connection for writer after writer"""
        tcp = l7test.TcpEcho(9001)
        self.addCleanup(tcp.close)
        self.start(({"protocol": "PIPE", "filename": self.path("in"), "output": self.path("out")},
                    to({"protocol": "TCP", "port": 9001}, "127.0.0.1",
                       {"retry_on": "disconnect", "num_retries": 3, "timeout": 200})))
        reader = self.run_peer("cat", self.path("out"))
        for n in range(4):
            subprocess.run(["bash", "-c", f"echo {n} > {self.path('in')}"], timeout=60, check=True)
            self.assertEqual(reader.stdout.readline(), b"%d\n" % n)
        self.assertEqual(len(self.sessions("PIPE:")), 1)
        self.assertEqual(len(tcp.connections), 1)
        s = self.session("PIPE:")
        self.assertGreaterEqual(sum(e == "RETRY" for e, _ in self.events(s)), 3)
        self.proxy.api.delete("/sessions/" + s["name"])
        self.session("PIPE:", "DESTROYED")

    def test_pipe_cluster_without_reader(self):
        """pipe: a cluster's FIFO without a reader is a failed connect that retries; then nothing was lost"""
        self.start(({"protocol": "TCP", "port": 9000},
                    to({"protocol": "PIPE", "input": self.path("back")}, self.path("there"),
                       {"retry_on": "connect-failure", "num_retries": 100, "timeout": 100})),
                   ({"protocol": "TCP", "port": 9002}, to({"protocol": "PIPE"}, self.path("there"))))
        # The reset may come before connect(2) is looked at.
        with contextlib.suppress(ConnectionResetError), socket.create_connection(("127.0.0.1", 9002), 30) as refused:
            refused.settimeout(30)
            self.assertEqual(refused.recv(10), b"")
        s = wait_for(lambda: [x for x in self.sessions("TCP:") if x["status"] == "DESTROYED"])[0]
        self.assertIn("it has no reader", str(self.events(s)))
        c = socket.create_connection(("127.0.0.1", 9000), 30)
        c.settimeout(30)
        c.sendall(b"early\n")
        self.assertTrue(wait_for(lambda: os.path.exists(self.path("back"))))
        reader = self.run_peer("cat", self.path("there"))
        self.assertEqual(reader.stdout.readline(), b"early\n")
        subprocess.run(["bash", "-c", f"echo answer > {self.path('back')}"], timeout=60, check=True)
        self.assertEqual(c.recv(100), b"answer\n")
        c.close()
        self.assertEqual(reader.stdout.read(), b"")

    def test_pipe_socat(self):
        """pipe: socat's PIPE at the other end carries 1 MB intact"""
        self.start(({"protocol": "PIPE", "filename": self.path("in"), "output": self.path("out")},
                    to({"protocol": "Echo"})))
        data = os.urandom(1 << 20)
        r = self.run_peer("socat", "-u", f"gopen:{self.path('out')}", "-")
        w = self.run_peer("socat", "-u", "-", f"gopen:{self.path('in')}")
        threading.Thread(target=lambda: (w.stdin.write(data), w.stdin.close()), daemon=True).start()
        self.assertEqual(r.stdout.read(len(data)), data)

    # ---- STDIO-fork ----

    def test_fork(self):
        """stdio-fork: a process per session, its exit in the events, none left, stderr in the log"""
        self.start(({"protocol": "TCP", "port": 9000},
                    to({"protocol": "STDIO-fork", "stderr": "log", "env": {"GREETING": "hi there"},
                        "command": ["sh", "-c", "echo $GREETING; echo complaint >&2; cat; exit 7"]})))
        conns = [socket.create_connection(("127.0.0.1", 9000), 30) for _ in range(3)]
        for i, c in enumerate(conns):
            c.settimeout(30)
            c.sendall(b"%d" % i)
        self.assertTrue(wait_for(lambda: len(children(self.proxy.pid)) == 3))
        for i, c in enumerate(conns):
            c.shutdown(socket.SHUT_WR)
            got = b""
            while part := c.recv(1000):
                got += part
            self.assertEqual(got, b"hi there\n%d" % i)
            c.close()
        s = self.session("TCP:", "DESTROYED")
        self.assertIn(("process-exit", "sh exited with status 7"), self.events(s))
        self.assertEqual(children(self.proxy.pid), [])
        self.assertEqual(self.proxy.stderr().count("complaint"), 3)
        self.assertTrue(wait_for(lambda: self.proxy.fds() <= self.idle_fds), (self.proxy.fds(), self.idle_fds))

    def test_fork_crash_hang_delete(self):
        """stdio-fork: a crash is named, one that hangs is ended with its session"""
        self.start(({"protocol": "TCP", "port": 9000},
                    to({"protocol": "STDIO-fork", "command": ["sh", "-c", "read x; kill -ABRT $$"]})),
                   ({"protocol": "TCP", "port": 9001},
                    to({"protocol": "Exec", "command": ["sh", "-c", "trap : TERM; while :; do sleep 1; done"]})),
                   ({"protocol": "TCP", "port": 9002}, to({"protocol": "Fork", "command": "/no/such/program"})))
        with socket.create_connection(("127.0.0.1", 9000), 30) as c:
            c.settimeout(30)
            c.sendall(b"\n")
            self.assertEqual(c.recv(10), b"")
            s = self.session("TCP:", "DESTROYED")
            self.assertIn("killed by signal 6 (SIGABRT)", str(self.events(s)))
        with socket.create_connection(("127.0.0.1", 9002), 30) as c:
            s = wait_for(lambda: [x for x in self.sessions("TCP:") if ":9002" in x["name"] and
                                  x["status"] == "DESTROYED"])[0]
            self.assertIn("can't run /no/such/program: no such name or file", str(self.events(s)))
        with socket.create_connection(("127.0.0.1", 9001), 30) as c:
            s = wait_for(lambda: [x for x in self.sessions("TCP:") if ":9001" in x["name"] and
                                  x["status"] == "CONNECTED"])[0]
            self.assertEqual(len(children(self.proxy.pid)), 1)
            self.assertEqual(self.proxy.api.delete("/sessions/" + s["name"])[0], 200)
            self.assertTrue(wait_for(lambda: not children(self.proxy.pid), 8))

    def test_fork_shutdown(self):
        """stdio-fork: the proxy's own end leaves no process"""
        self.start(({"protocol": "TCP", "port": 9000},
                    to({"protocol": "STDIO-fork", "command": ["sleep", "1000"]})))
        c = socket.create_connection(("127.0.0.1", 9000), 30)
        pids = wait_for(lambda: children(self.proxy.pid))
        self.proxy.stop()
        self.proxy = None
        self.assertFalse(os.path.exists("/proc/" + pids[0].split()[0]))
        c.close()

    def test_fork_stderr_flood(self):
        """stdio-fork: a flood on stderr is limited in the log and does not hold others up"""
        echo = l7test.TcpEcho(9003)
        self.addCleanup(echo.close)
        self.start(({"protocol": "TCP", "port": 9000},
                    to({"protocol": "STDIO-fork", "command": ["sh", "-c", "yes flooding >&2 & cat"]})),
                   ({"protocol": "TCP", "port": 9001}, to({"protocol": "TCP", "port": 9003}, "127.0.0.1")))
        c = socket.create_connection(("127.0.0.1", 9000), 30)
        c.settimeout(30)
        c.sendall(b"x")
        self.assertEqual(c.recv(1), b"x")
        d = socket.create_connection(("127.0.0.1", 9001), 30)
        d.settimeout(30)
        end = time.monotonic() + 2
        while time.monotonic() < end:
            d.sendall(b"y" * 100)
            self.assertEqual(len(d.recv(100, socket.MSG_WAITALL)), 100)
        self.assertLess(self.proxy.stderr().count("flooding"), 200)
        self.assertGreater(self.proxy.stderr().count("flooding"), 10)
        self.assertLess(self.proxy.rss_kb(), 400000)
        c.close()
        d.close()
        self.assertTrue(wait_for(lambda: not children(self.proxy.pid), 8))


class Netns:
    """Another network namespace, for as long as a sleeping process lives; joined by a veth pair."""

    def __init__(self, here, there):
        self.here = here
        self.holder = subprocess.Popen(["unshare", "--net", "sleep", "300"])
        me = os.readlink("/proc/self/ns/net")
        wait_for(lambda: os.readlink(f"/proc/{self.holder.pid}/ns/net") != me)
        for cmd in (f"ip link add {here} type veth peer name {there}",
                    f"ip link set {there} netns {self.holder.pid}",
                    f"ip link set {here} up"):
            subprocess.run(cmd.split(), check=True)
        self.run("ip", "link", "set", there, "up")
        with open(f"/proc/sys/net/ipv6/conf/{here}/disable_ipv6", "w") as f:
            f.write("1")

    def command(self, *args):
        return ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", *args]

    def run(self, *args):
        subprocess.run(self.command(*args), check=True, timeout=60)

    def close(self):
        subprocess.run(["ip", "link", "del", self.here], check=False, capture_output=True)
        self.holder.kill()
        self.holder.wait()


# An independent raw peer: sends the frames of its argument's list (hex), prints what comes in (hex).
RAW = textwrap.dedent("""
    import socket, sys
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    s.bind((sys.argv[1], 0))
    print("ready", flush=True)
    import threading
    def receive():
        while True:
            data, where = s.recvfrom(70000)
            if where[2] != socket.PACKET_OUTGOING and data[12:14] in (b"\\x88\\xb5", b"\\x08\\x00"):
                print(data.hex(), flush=True)
    threading.Thread(target=receive, daemon=True).start()
    for line in sys.stdin:
        s.send(bytes.fromhex(line))
""")


@unittest.skipUnless(l7test.ISOLATED, "needs root")
class Frames(Rows):
    def setUp(self):
        super().setUp()
        self.spaces = []
        for here, there in (("fa0", "fa1"), ("fb0", "fb1")):
            self.spaces.append(Netns(here, there))
            self.addCleanup(self.spaces[-1].close)

    def raw(self, n, interface):
        p = self.run_peer(*self.spaces[n].command("/usr/bin/python3", "-c", RAW, interface))
        self.assertEqual(p.stdout.readline(), b"ready\n")
        return p

    @staticmethod
    def frame(payload, dst=b"\x02\0\0\0\0\x02", src=b"\x02\0\0\0\0\x01", kind=TYPE):
        return dst + src + kind.to_bytes(2, "big") + payload

    def put(self, p, frame):
        p.stdin.write(frame.hex().encode() + b"\n")
        p.stdin.flush()

    def get(self, p):
        return bytes.fromhex(p.stdout.readline().decode())

    def test_cable(self):
        """af_packet: interface to interface, whole frames of all sizes both ways, none of its own"""
        self.start(({"protocol": "AF_PACKET", "interface": "fa0", "ethertype": "0x88b5"},
                    to({"protocol": "AF_PACKET", "ethertype": TYPE}, "fb0")))
        a, b = self.raw(0, "fa1"), self.raw(1, "fb1")
        self.session("PACKET:fa0-", "CONNECTED")
        for size in (46, 100, 1200, 1500):
            f = self.frame(os.urandom(size))
            self.put(a, f)
            self.assertEqual(self.get(b), f)
            self.put(b, self.frame(f[14:][::-1]))
            self.assertEqual(self.get(a), self.frame(f[14:][::-1]))
        frames = [self.frame(b"%d" % n + bytes(50)) for n in range(200)]
        for f in frames:
            self.put(a, f)
        self.assertEqual([self.get(b) for _ in frames], frames)
        # Exactly what was sent: no echo of its own frames.
        s = self.session("PACKET:")
        self.assertEqual((s["stats"]["ingress"]["packets"], s["stats"]["egress"]["packets"]), (204, 4))

    def test_tunnel(self):
        """af_packet: through WebSocket and back to frames, with other MAC addresses; too short is dropped"""
        udp = l7test.udp_socket(9100)
        self.start(({"protocol": "AF_PACKET", "interface": "fa0", "ethertype": TYPE},
                    to({"protocol": "WebSocket", "port": 9001}, "127.0.0.1",
                       {"retry_on": "always", "num_retries": 20, "timeout": 200})),
                   ({"protocol": "WebSocket", "port": 9001},
                    to({"protocol": "AF_PACKET", "ethertype": TYPE,
                        "rewrite": {"dst_mac": "02:00:00:00:00:99"}}, "fb0")),
                   ({"protocol": "UDP", "port": 9002}, to({"protocol": "AF_PACKET", "ethertype": TYPE}, "fb0")))
        a, b = self.raw(0, "fa1"), self.raw(1, "fb1")
        self.session("PACKET:fa0-", "CONNECTED")
        f = self.frame(os.urandom(300))
        self.put(a, f)
        self.assertEqual(self.get(b), bytes.fromhex("020000000099") + f[6:])
        self.put(b, f)
        self.assertEqual(self.get(a), f)
        for message in (b"short", self.frame(bytes(1501)), f):
            udp.sendto(message, ("127.0.0.1", 9002))
        self.assertEqual(self.get(b), f)
        s = self.session("UDP:")
        self.assertEqual((s["stats"]["ingress"]["packets"], s["stats"]["drops"]), (1, 2))
        udp.close()

    def test_server(self):
        """af_packet: server mode, a session per 5-tuple of real UDP traffic; whole frames as UDP payloads"""
        sink = l7test.udp_socket(9100)
        self.start(({"protocol": "AF_PACKET", "interface": "fa0", "ethertype": "ipv4", "options": {"mode": "server"}},
                    to({"protocol": "UDP", "port": 9100}, "127.0.0.1")))
        self.spaces[0].run("ip", "addr", "add", "192.0.2.2/24", "dev", "fa1")
        self.spaces[0].run("ip", "neigh", "add", "192.0.2.1", "lladdr", "02:00:00:00:00:01", "dev", "fa1")
        code = ("import socket\nfor port in (5001, 5002):\n s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
                " s.bind(('192.0.2.2', port))\n for n in range(2): s.sendto(b'x%d' % n, ('192.0.2.1', 53))\n")
        self.spaces[0].run("/usr/bin/python3", "-c", code)
        frames = [sink.recv(70000) for _ in range(4)]
        names = sorted(s["name"].rsplit("-", 1)[0] for s in self.sessions("PACKET:"))
        self.assertEqual(names, [f"PACKET:fa0-UDP:192.0.2.2:{p}-192.0.2.1:53" for p in (5001, 5002)])
        s = self.session("PACKET:")
        self.assertEqual(s["metadata"]["UDP"]["dst_port"], 53)
        self.assertEqual(s["metadata"]["Ethernet"]["dst"], "02:00:00:00:00:01")
        for f in frames:  # a local sender leaves the checksum to the card: here it is complete
            ip = f[14:]
            pseudo = ip[12:20] + b"\0\x11" + ip[24:26] + ip[20:]
            total = sum(int.from_bytes(pseudo[i:i + 2].ljust(2, b"\0"), "big") for i in range(0, len(pseudo), 2))
            while total >> 16:
                total = (total & 0xFFFF) + (total >> 16)
            self.assertEqual(total, 0xFFFF)
        sink.close()

    def test_tcp_through_the_cable(self):
        """af_packet: TCP with segmentation offload between two hosts over the cable: 20 MB intact"""
        self.start(({"protocol": "AF_PACKET", "interface": "fa0", "options": {"promiscuous": True}},
                    to({"protocol": "AF_PACKET", "promiscuous": True}, "fb0")))
        for n, i in enumerate(("fa1", "fb1")):
            self.spaces[n].run("ip", "addr", "add", f"192.0.2.{n + 1}/24", "dev", i)
            self.spaces[n].run("ip", "link", "set", "lo", "up")
        server = textwrap.dedent("""
            import hashlib, socket
            s = socket.create_server(("192.0.2.2", 7000))
            print("ready", flush=True)
            c, _ = s.accept()
            h, n = hashlib.sha256(), 0
            while data := c.recv(1 << 20):
                h.update(data)
                n += len(data)
            c.sendall(b"%d %s" % (n, h.hexdigest().encode()))
            c.close()
        """)
        client = textwrap.dedent("""
            import hashlib, os, socket
            data = os.urandom(1 << 20) * 20
            s = socket.create_connection(("192.0.2.2", 7000), 20)
            s.settimeout(60)
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            got = s.recv(1000)
            assert got == b"%d %s" % (len(data), hashlib.sha256(data).hexdigest().encode()), got
            print("intact", flush=True)
        """)
        p = self.run_peer(*self.spaces[1].command("/usr/bin/python3", "-c", server))
        self.assertEqual(p.stdout.readline(), b"ready\n")
        q = subprocess.run(self.spaces[0].command("/usr/bin/python3", "-c", client), capture_output=True, timeout=100)
        self.assertEqual(q.stdout, b"intact\n", q.stderr)
        s = self.session("PACKET:")
        self.assertEqual(s["stats"]["drops"], 0)

    def test_interface_goes(self):
        """af_packet: the interface goes down and comes back: the session waits for it by the retry policy"""
        self.start(({"protocol": "AF_PACKET", "interface": "fa0", "ethertype": TYPE},
                    to({"protocol": "AF_PACKET", "ethertype": TYPE}, "fb0",
                       {"retry_on": "always", "num_retries": 100, "timeout": 100})))
        a, b = self.raw(0, "fa1"), self.raw(1, "fb1")
        self.session("PACKET:fa0-", "CONNECTED")
        for i in ("fa0", "fb0"):
            subprocess.run(["ip", "link", "set", i, "down"], check=True)
            s = self.session("PACKET:fa0-", "DISCONNECTED")
            self.assertTrue(wait_for(lambda name=i: f"AF_PACKET {name}: the interface is down" in str(
                self.events(self.session("PACKET:fa0-")))), self.events(s))
            subprocess.run(["ip", "link", "set", i, "up"], check=True)
            self.session("PACKET:fa0-", "CONNECTED")
        self.assertEqual(len(self.sessions("PACKET:")), 1)
        f = self.frame(os.urandom(100))
        self.put(a, f)
        self.assertEqual(self.get(b), f)

    def test_unknown_interface(self):
        """af_packet: an interface that is not there is one clear message"""
        self.start()
        status, answer = self.proxy.api.post("/listeners", {"listener": {
            "name": "x", "spec": {"protocol": "AF_PACKET", "interface": "nope0"}, "rules": to({"protocol": "Echo"})}})
        self.assertEqual(status, 400)
        self.assertIn("interface nope0: there is no such interface", str(answer))


# The tests of Rows run once, not again with the namespaces.
for _name in [n for n in dir(Rows) if n.startswith("test_")]:
    setattr(Frames, _name, None)

if __name__ == "__main__":
    sys.setswitchinterval(0.001)
    l7test.main()
