#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: long timeout=600 parts=2
"""An upgrade: another process takes the sockets and the sessions over, and nobody notices; or it does not, and nobody notices."""
import hashlib
import json
import os
import queue
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402
import traffic  # noqa: E402
import upgrade  # noqa: E402
import wsraw  # noqa: E402
from traffic import cluster, inline, listener  # noqa: E402

UDP, TCP, WS, HTTP, ECHO, SPEAK, JSON = 15000, 15001, 15002, 15003, 15004, 15005, 15006
UDP_UP, TCP_UP, WS_UP, CALLEE = 16000, 16001, 16002, 16010
ADMIN = 1235
FAULTS = os.environ.get("L7MP_BUILD", "build/asan") != "build"

def config(**admin):
    return {
        "admin": dict({"offload": "disable", "log_level": "verbose",
                       "server": {"enabled": True, "address": "127.0.0.1", "port": ADMIN, "threads": 16}}, **admin),
        "listeners": [
            listener("udp", "UDP", UDP, cluster("UDP", UDP_UP, name="udp-up"), address="127.0.0.1"),
            listener("tcp", "TCP", TCP, cluster("TCP", TCP_UP, name="tcp-up")),
            listener("ws", "WebSocket", WS, cluster("UDP", UDP_UP, name="ws-up")),
            listener("http", "HTTP", HTTP, inline("Echo")),
            listener("echo", "UDP", ECHO, inline("Echo"), ingress=[inline("Metric")], address="127.0.0.1"),
            listener("speak", "UDP", SPEAK, cluster("WebSocket", WS_UP, name="speak-up"), address="127.0.0.1"),
        ],
    }


def children(pid):
    """The processes that a process has started."""
    found = set()
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as f:
            found.update(map(int, f.read().split()))
    return found


def roomy(sock):
    """What the peers of a test lose does not tell anything."""
    sock.setsockopt(socket.SOL_SOCKET, 33 if os.geteuid() == 0 else socket.SO_RCVBUF, 8 << 20)  # SO_RCVBUFFORCE


class UdpLoad(threading.Thread):
    """A client that sends numbered datagrams, and what an echo server returns of them."""

    def __init__(self, n, port=UDP, pause=0.05):
        super().__init__(daemon=True)
        self.socks = [l7test.udp_socket() for _ in range(n)]
        for s in self.socks:
            s.connect(("127.0.0.1", port))
            roomy(s)
        self.sent, self.got, self.wrong, self.pause = [0] * n, [0] * n, 0, pause
        self.ending = self.sent_all = False
        self.reader = threading.Thread(target=self.read, daemon=True)

    def run(self):
        while not self.ending:
            for i, s in enumerate(self.socks):
                s.send(b"%d" % self.sent[i])
                self.sent[i] += 1
                time.sleep(self.pause / len(self.socks))

    def read(self):
        import select
        poll = select.poll()
        by_fd = {s.fileno(): i for i, s in enumerate(self.socks)}
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        while not self.sent_all or any(self.sent[i] != self.got[i] for i in range(len(self.socks))):
            events = poll.poll(2000)
            if not events and self.sent_all:
                return
            for fd, _ in events:
                i = by_fd[fd]
                if self.socks[i].recv(100) != b"%d" % self.got[i]:
                    self.wrong += 1
                self.got[i] += 1

    def begin(self):
        self.reader.start()
        self.start()
        return self

    def end(self):
        """(sent, received, out of order)"""
        self.ending = True
        self.join()
        self.sent_all = True
        self.reader.join()
        for s in self.socks:
            s.close()
        return sum(self.sent), sum(self.got), self.wrong


class StreamLoad(threading.Thread):
    """Bytes both ways over one connection, compared by hash at their end."""

    def __init__(self, seed, sock):
        super().__init__(daemon=True)
        self.rand, self.ending, self.total, self.error = random.Random(seed), False, 0, None
        self.sock = sock

    def run(self):
        try:
            self.talk()
        except Exception as e:
            self.error = e

    def talk(self):
        sent, got = hashlib.sha256(), hashlib.sha256()
        reader = threading.Thread(target=self.read, args=(got,), daemon=True)
        reader.start()
        piece = self.rand.randbytes(65536)
        while not self.ending:
            part = piece[:self.rand.choice((1, 100, 5000, 65536))]
            self.sock.sendall(part)
            sent.update(part)
            self.total += len(part)
        self.sock.shutdown(socket.SHUT_WR)
        reader.join()
        assert sent.digest() == got.digest(), "the bytes differ"

    def read(self, got):
        try:
            while data := self.sock.recv(65536):
                got.update(data)
        except OSError as e:
            self.error = e

    def end(self):
        self.ending = True
        self.join()
        self.sock.close()
        if self.error:
            raise self.error
        return self.total


def tcp_load(seed):
    return StreamLoad(seed, traffic.connect(TCP, timeout=120))


class UnixEcho(traffic.TcpServer):
    def __init__(self, path):
        self.path = path
        super().__init__(0, traffic.echo)

    def listen(self, *_):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.bind(self.path)
        self.sock.listen(256)


def unix_connect(path):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.settimeout(120)
    s.connect(path)
    return s


class NewConnections(threading.Thread):
    """Connects, talks a word, closes; again and again."""

    def __init__(self):
        super().__init__(daemon=True)
        self.ending, self.n, self.errors = False, 0, []

    def run(self):
        while not self.ending:
            try:
                with traffic.connect(TCP, timeout=120) as s:
                    s.sendall(b"word")
                    if traffic.recv_exact(s, 4) != b"word":
                        self.errors.append("wrong answer")
                self.n += 1
            except OSError as e:
                self.errors.append(repr(e))

    def end(self):
        self.ending = True
        self.join()
        return self.n, self.errors


class Base(traffic.Case):
    chain = None

    def begin(self, cfg=None, env=None, keep=None):
        self.clear(keep)
        self.udp_up, self.tcp_up = traffic.UdpEcho(UDP_UP), traffic.TcpServer(TCP_UP, traffic.echo)
        roomy(self.udp_up.sock)
        self.chain = upgrade.Chain(cfg or config(), ADMIN, env)
        self.addCleanup(self.chain.kill)
        self.api = self.chain.api
        return self.chain

    def clear(self, keep=None):
        """What a part of this test that has failed has left would be in the way of the next one."""
        if self.chain:
            self.chain.kill()
        for peer in [p for p in traffic.PEERS if p is not keep]:
            traffic.PEERS.remove(peer)
            peer.close()

    def sessions(self):
        return {s["name"]: s for s in self.api.get("/sessions")[1]}

    def udp_client(self, port=UDP):
        s = l7test.udp_socket()
        self.addCleanup(s.close)
        s.connect(("127.0.0.1", port))
        return s

    def ping(self, s, data=b"ping"):
        s.send(data)
        self.assertEqual(s.recv(65536), data)


class Upgrade(Base):
    def test_traffic(self):
        """under traffic, again and again: no datagram is lost, no byte of a stream, no connection refused"""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        log = os.path.join(folder.name, "access.log")
        server = UnixEcho(os.path.join(folder.name, "up"))
        cfg = config(access_log_path=log)
        path = os.path.join(folder.name, "in")
        up = {"spec": {"protocol": "UnixDomainSocket"}, "endpoints": [{"spec": {"address": server.path}}]}
        cfg["listeners"].append({"name": "unix", "spec": {"protocol": "UnixDomainSocket", "filename": path},
                                 "rules": [{"action": {"route": {"destination": up}}}]})
        chain = self.begin(cfg, keep=server)
        n = 1000 if l7test.FULL else 50
        udp, echo = UdpLoad(n, pause=n / 1000).begin(), UdpLoad(5, ECHO).begin()
        tcp = [*[tcp_load(i) for i in range(4)], StreamLoad(4, unix_connect(path)), StreamLoad(5, unix_connect(path))]
        for t in tcp:
            t.start()
        n += 5 + len(tcp)
        self.later(lambda: len(self.sessions()) >= n)
        names, fresh = set(self.sessions()), NewConnections()
        before = self.sessions()
        fresh.start()
        for i in range(20 if l7test.FULL else 3):
            result = chain.upgrade()
            self.assertEqual(result.get("failed"), None)
            self.assertGreaterEqual(result["sessions_taken"], n)
            self.assertEqual(result["sessions_refused"], 0)
            after = self.sessions()
            self.assertLessEqual(names, set(after), f"upgrade {i}")
            for name in names:
                self.assertEqual(after[name]["metadata"], before[name]["metadata"])
                self.assertEqual(after[name]["events"][:2], before[name]["events"][:2])
                for way in ("ingress", "egress"):
                    for what in ("packets", "bytes"):
                        self.assertGreaterEqual(after[name]["stats"][way][what], before[name]["stats"][way][what], name)
            before = after
        connections, errors = fresh.end()
        self.assertEqual(errors, [])
        self.assertGreater(connections, 0)
        for load in (udp, echo):
            sent, got, wrong = load.end()
            self.assertEqual((sent - got, wrong), (0, 0), f"of {sent} datagrams")
        for t in tcp:
            self.assertGreater(t.end(), 100000)
        self.assertRegex(chain.proxy.stderr(), r"upgrade: this process takes no new sessions, as the new process \(pid \d+\) does")
        self.assertNotIn("new sessions are refused", chain.proxy.stderr())
        stood = re.findall(r"(\d+) sessions went to it in (\d+) ms", chain.proxy.stderr())
        print("# sessions, ms that they stood still:", *[f"{a}: {b}" for a, b in stood])
        # Each session ends once in the log, wherever it ended.
        chain.stop()
        with open(log) as f:
            ended = [json.loads(line)["name"] for line in f]
        for name in names:
            self.assertEqual(ended.count(name), 1, name)

    def test_no_growth(self):
        """the process has after some upgrades the descriptors that it had after the first one"""
        chain = self.begin()
        clients = [self.udp_client() for _ in range(5)]
        tcp = [traffic.connect(TCP) for _ in range(3)]
        for s in clients:
            self.ping(s)
        for s in tcp:
            self.addCleanup(s.close)
            s.sendall(b"x")
            self.assertEqual(s.recv(1), b"x")
        chain.upgrade()
        chain.ended(chain.old.pop())
        first = chain.fds()
        for _ in range(3):
            chain.upgrade()
            chain.ended(chain.old.pop())
        self.assertTrue(self.later(lambda: chain.fds() == first), f"{first}\n{chain.fds()}")
        chain.stop()

    def test_unix(self):
        """connections of UNIX stream sockets, by path and by abstract name: half closed, with new ones beside that have other names"""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        server = traffic.TcpServer(TCP_UP + 10, traffic.echo)
        for path in (os.path.join(folder.name, "in"), "@l7mp-test-upgrade")[:2 if l7test.FULL else 1]:
            with self.subTest(path=path):
                cfg = config()
                cfg["listeners"].append({"name": "unix", "spec": {"protocol": "UnixDomainSocket", "filename": path},
                                         "rules": [{"action": {"route": {"destination": {
                                             "spec": {"protocol": "TCP", "port": server.sock.getsockname()[1]},
                                             "endpoints": [{"spec": {"address": "127.0.0.1"}}]}}}}]})
                chain = self.begin(cfg, keep=server)
                address = path.replace("@", "\0")
                a, b = unix_connect(address), unix_connect(address)
                for s in (a, b):
                    self.addCleanup(s.close)
                    s.sendall(b"word")
                    self.assertEqual(traffic.recv_exact(s, 4), b"word")
                was = self.sessions()
                for _ in range(2):
                    result = chain.upgrade()
                    self.assertEqual((result.get("failed"), result["sessions_taken"], result["sessions_refused"]), (None, 2, 0))
                    self.assertEqual(chain.ended(chain.old.pop()), 0)
                    now = self.sessions()
                    self.assertEqual({k: v["metadata"] for k, v in now.items()}, {k: v["metadata"] for k, v in was.items()})
                    for s in (a, b):
                        s.sendall(b"more")
                        self.assertEqual(traffic.recv_exact(s, 4), b"more")
                with unix_connect(address) as c:
                    c.sendall(b"new")
                    self.assertEqual(traffic.recv_exact(c, 3), b"new")
                    self.assertEqual(len(self.sessions()), 3)
                a.shutdown(socket.SHUT_WR)
                self.assertEqual(a.recv(1), b"")
                self.later(lambda: len(self.sessions()) == 1)
                chain.stop()

    def test_half_closed(self):
        """a stream that has ended one way goes on the other way, and ends then"""
        chain = self.begin()
        self.tcp_up.close()
        with socket.create_server(("127.0.0.1", TCP_UP)) as server:
            a = traffic.connect(TCP)
            b, _ = server.accept()
            c = traffic.connect(TCP)
            d, _ = server.accept()
            a.sendall(b"all")
            a.shutdown(socket.SHUT_WR)
            self.assertEqual(traffic.recv_all(b), b"all")
            d.sendall(b"all")
            d.shutdown(socket.SHUT_WR)
            self.assertEqual(traffic.recv_all(c), b"all")
            chain.upgrade()
            for sender, receiver in ((b, a), (c, d)):
                sender.sendall(b"answer")
                self.assertEqual(receiver.recv(100), b"answer")
                sender.close()
                self.assertEqual(receiver.recv(100), b"")
                receiver.close()
            self.later(lambda: not self.sessions())
        chain.stop()

    def test_buffered(self):
        """what waits for a slow reader in the proxy goes with the session"""
        chain = self.begin()
        self.tcp_up.close()
        data = random.Random(1).randbytes(32 << 20)
        with traffic.narrow_server(TCP_UP) as server:
            a = traffic.connect(TCP)
            a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            b, _ = server.accept()
            a.setblocking(False)
            sent, still = 0, 0
            # Until nobody takes more: the socket buffers and the proxy's queue are full.
            while still < 20 and sent < len(data):
                try:
                    sent += a.send(data[sent:])
                    still = 0
                except BlockingIOError:
                    still += 1
                    time.sleep(0.02)
            self.assertLess(sent, len(data))
            a.setblocking(True)
            chain.upgrade()
            rest = threading.Thread(target=lambda: (a.sendall(data[sent:]), a.shutdown(socket.SHUT_WR)), daemon=True)
            rest.start()
            self.assertEqual(hashlib.sha256(traffic.recv_all(b)).digest(), hashlib.sha256(data).digest())
            rest.join()
            b.close()
            a.close()
        chain.stop()

    def test_bad_config(self):
        """a file that is wrong by now: one clear message, and the old process continues"""
        chain = self.begin()
        s = self.udp_client()
        self.ping(s)
        with open(chain.proxy.path) as f:
            good = f.read()
        with open(chain.proxy.path, "w") as f:
            f.write(good.replace('"port": 15001', '"port": 99999'))
        result = chain.upgrade()
        self.assertEqual((result["pid"], result["state"]), (chain.pid, "serving"))
        self.assertIn("the new process has ended with status 1 (step: starting)", result["failed"])
        self.assertIn("listeners[1].spec.port: expected", chain.proxy.stderr())
        self.assertIn("the upgrade has failed, this process goes on", chain.proxy.stderr())
        self.ping(s)
        # An address that another process has: known only when the new process binds.
        with socket.create_server(("127.0.0.1", 17000)):
            changed = json.loads(good)
            changed["listeners"].append(listener("more", "TCP", 17000, inline("Echo"), address="127.0.0.1"))
            with open(chain.proxy.path, "w") as f:
                json.dump(changed, f)
            self.assertIn("(step: binding)", chain.upgrade()["failed"])
        self.ping(s)
        # Now it is free: the new process has it beside the old ones.
        self.assertNotIn("failed", chain.upgrade())
        self.ping(s)
        with traffic.connect(17000) as t:
            t.sendall(b"x")
            self.assertEqual(t.recv(1), b"x")
        chain.stop()

    def test_signals_at_start(self):
        """SIGHUP, SIGUSR1 and SIGUSR2 that reach the new process before its main function do not end it"""
        chain = self.begin()
        s = self.udp_client()
        self.ping(s)
        for _ in range(3):
            old = chain.pid
            known = children(old)
            os.kill(old, signal.SIGUSR2)
            new = None
            end = time.monotonic() + 60
            while not new and time.monotonic() < end:
                new = next(iter(children(old) - known), None)
            self.assertTrue(new, "no new process")
            # Stopped where it is, most likely in the dynamic loader.
            for number in (signal.SIGSTOP, signal.SIGUSR1, signal.SIGHUP, signal.SIGUSR2, signal.SIGCONT):
                os.kill(new, number)
            result = self.later(lambda: (lambda now: now if now["pid"] != old or now.get("failed") else None)(chain.state()), 60)
            self.assertNotIn("failed", result)
            chain.old.append(old)
            chain.pid = result["pid"]
            self.ping(s)
        chain.stop()

    def test_changed_config(self):
        """what the new configuration does not have ends, with the reason; the rest continues"""
        chain = self.begin()
        s, t = self.udp_client(), traffic.connect(TCP)
        self.addCleanup(t.close)
        self.ping(s)
        t.sendall(b"x")
        self.assertEqual(t.recv(1), b"x")
        changed = config()
        del changed["listeners"][1]
        with open(chain.proxy.path, "w") as f:
            json.dump(changed, f)
        result = chain.upgrade()
        self.assertEqual((result["sessions_taken"], result["sessions_refused"]), (1, 1))
        self.ping(s)
        self.assertEqual(t.recv(1), b"")
        self.assertIn("there is no listener 'tcp'", chain.proxy.stderr())
        self.assertRaises(ConnectionRefusedError, traffic.connect, TCP)
        chain.stop()

    def test_learnt_peers(self):
        """a session keeps the peers that it has learnt on both sides, and takes no other; one that has learnt none still does"""
        cfg = config()
        cfg["listeners"] = [listener(f"call-{n}", "UDP", port, cluster("UDP", CALLEE + n, name=f"callee-{n}",
                                                                       options={"latch": {"window": 3600}}),
                                     address="127.0.0.1") for n, port in enumerate((UDP, SPEAK))]
        for x in cfg["listeners"]:
            x["spec"]["options"] = {"latch": {"window": 3600}}
        chain = self.begin(cfg)
        caller, callee, other, signalled = (l7test.udp_socket(n) for n in (0, 0, 0, CALLEE))
        late, late_caller, late_signalled = l7test.udp_socket(), l7test.udp_socket(), l7test.udp_socket(CALLEE + 1)
        for s in (caller, callee, other, signalled, late, late_caller, late_signalled):
            self.addCleanup(s.close)

        def both_ways(caller, port, callee, upstream):
            callee.sendto(b"from", upstream)
            self.assertEqual(caller.recv(100), b"from")
            caller.sendto(b"to", ("127.0.0.1", port))
            self.assertEqual(callee.recv(100), b"to")

        caller.sendto(b"first", ("127.0.0.1", UDP))
        upstream = signalled.recvfrom(100)[1]
        both_ways(caller, UDP, callee, upstream)
        late_caller.sendto(b"first", ("127.0.0.1", SPEAK))
        late_upstream = late_signalled.recvfrom(100)[1]
        for _ in range(2):
            self.assertEqual(chain.upgrade()["sessions_taken"], 2)
            other.sendto(b"evil", upstream)
            other.sendto(b"evil", ("127.0.0.1", UDP))
            both_ways(caller, UDP, callee, upstream)
        both_ways(late_caller, SPEAK, late, late_upstream)
        self.assertEqual(len(self.sessions()), 2)
        chain.stop()

    def test_drains(self):
        """WebSocket sessions stay in the old process until they end, or the time is over"""
        chain = self.begin(config(drain_timeout=2))
        ends, stays = wsraw.connect(WS), wsraw.connect(WS)
        for ws in (ends, stays):
            self.addCleanup(ws.close)
            ws.send(1, b"text")
            self.assertEqual(ws.message()[1], b"text")
        began = time.monotonic()
        first = chain.pid
        chain.upgrade()
        for ws in (ends, stays):
            ws.send(1, b"more")
            self.assertEqual(ws.message()[1], b"more")
        new = wsraw.connect(WS)
        self.addCleanup(new.close)
        new.send(1, b"new")
        self.assertEqual(new.message()[1], b"new")
        self.assertEqual(len(self.sessions()), 1)
        ends.close()
        self.assertEqual(chain.ended(first), 0)
        self.assertGreaterEqual(time.monotonic() - began, 2)
        self.assertRaises((OSError, EOFError, AssertionError), lambda: (stays.send(1, b"late"), stays.message(), stays.message()))
        new.send(1, b"new")
        self.assertEqual(new.message()[1], b"new")
        chain.stop()

    def test_stays_alone(self):
        """datagrams of a session that stays (UDP into WebSocket) go on to it, not to another one in the new process; others do"""
        server = wsraw.Server(WS_UP)
        self.addCleanup(server.close)
        peers = []

        def echo(peer):
            try:
                while message := peer.message():
                    peer.send(2, message[1])
            except OSError:
                pass  # it has been shut down
            peer.sock.close()

        def accept():
            try:
                while True:
                    peers.append(server.accept())
                    threading.Thread(target=echo, args=(peers[-1],), daemon=True).start()
            except queue.Empty:
                pass
        threading.Thread(target=accept, daemon=True).start()
        for address in ({"address": "127.0.0.1"}, {}, {"address": "0.0.0.0"})[:3 if l7test.FULL else 2]:
            with self.subTest(**address):
                cfg = config(drain_timeout=300)
                del cfg["listeners"][5]["spec"]["address"]
                cfg["listeners"][5]["spec"].update(address)
                chain = self.begin(cfg, keep=server)
                peers.clear()
                load, moving = UdpLoad(10, SPEAK).begin(), UdpLoad(10, ECHO).begin()
                self.later(lambda: len(self.sessions()) == 20 and len(peers) == 10 and all(load.got))
                result = chain.upgrade()
                self.assertEqual((result["sessions_taken"], result["sessions_refused"]), (10, 0))
                before = sum(load.got)
                self.later(lambda: sum(load.got) > before + 100)
                self.assertEqual((len(peers), len(self.sessions())), (10, 10))
                # The next upgrade does not concern them: they are in the first process. The last one ends without draining.
                del cfg["admin"]["drain_timeout"]
                with open(chain.proxy.path, "w") as f:
                    json.dump(cfg, f)
                chain.upgrade()
                before = sum(load.got)
                self.later(lambda: sum(load.got) > before + 100)
                for loads in (load, moving):
                    sent, got, wrong = loads.end()
                    self.assertEqual((sent - got, wrong), (0, 0), f"of {sent} datagrams")
                self.assertEqual((len(peers), len(self.sessions())), (10, 10))
                # When such a session has ended, its client is one of the new process.
                with l7test.udp_socket() as s:
                    s.connect(("127.0.0.1", SPEAK))
                    self.ping(s)
                self.assertEqual(len(peers), 11)
                for peer in peers:
                    peer.sock.shutdown(socket.SHUT_RDWR)
                chain.stop()

    def test_jsonsocket_stays(self):
        """a JSONSocket session over UDP stays: its client's datagrams go on to it; new clients are the new process's"""
        cfg = config(drain_timeout=300)
        cfg["listeners"].append(listener("js", "JSONSocket", None, inline("Echo"),
                                         transport={"protocol": "UDP", "address": "127.0.0.1", "port": JSON}))
        chain = self.begin(cfg)
        header = b'{"JSONSocketVersion":1,"room":"x"}'
        old, new = self.udp_client(JSON), self.udp_client(JSON)
        old.send(header)
        self.assertEqual(json.loads(old.recv(1000))["JSONSocketStatus"], 200)
        self.ping(old, b"before")
        del cfg["admin"]["drain_timeout"]
        with open(chain.proxy.path, "w") as f:
            json.dump(cfg, f)
        result = chain.upgrade()
        self.assertEqual((result["sessions_taken"], result["sessions_refused"]), (0, 0))
        for data in (b"after", header, b"again"):
            self.ping(old, data)
        self.assertEqual(self.sessions(), {})
        new.send(header)
        self.assertEqual(json.loads(new.recv(1000))["JSONSocketStatus"], 200)
        self.ping(new, b"new")
        self.ping(old, b"still")
        self.assertEqual(len(self.sessions()), 1)
        os.kill(chain.old[0], signal.SIGTERM)
        chain.stop()

    def test_service_manager(self):
        """it is told who the main process is, before that one says that it is ready; l7mpctl waits for the end"""
        chain = self.begin()
        r = subprocess.run([l7test.program("l7mpctl"), "--api", f"http://127.0.0.1:{ADMIN}", "-o", "json", "upgrade"],
                           capture_output=True, text=True, timeout=120 * l7test.SLOW)
        self.assertEqual(r.returncode, 0, r.stderr)
        pid = json.loads(r.stdout)["pid"]
        self.assertNotEqual(pid, chain.pid)
        self.assertEqual(chain.proxy.notified(), {"STATUS": "Upgrading"})
        self.assertEqual(chain.proxy.notified(), {"MAINPID": str(pid)})
        while (message := chain.proxy.notified()) and message.get("READY") != "1":
            self.assertNotIn("STOPPING", message)
        self.assertEqual(message, {"READY": "1", "STATUS": ""})
        chain.old.append(chain.pid)
        chain.pid = pid
        chain.stop()

    def manager(self, chain):
        """Plays systemd for scripts/upgrade-service.sh: the folder with a `systemctl` that knows what was notified."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        state = {"MainPID": str(chain.pid), "StatusText": ""}

        def write():
            for key, value in state.items():
                with open(os.path.join(folder.name, key + ".new"), "w") as f:
                    f.write(value + "\n")
                os.rename(f.name, os.path.join(folder.name, key))

        def listen():
            while True:
                try:
                    message = dict(line.split("=", 1) for line in chain.proxy.notify.recv(4096).decode().splitlines())
                except OSError:
                    return
                state["MainPID"] = message.get("MAINPID", state["MainPID"])
                state["StatusText"] = message.get("STATUS", state["StatusText"])
                write()
        write()
        chain.proxy.notify.settimeout(None)
        threading.Thread(target=listen, daemon=True).start()
        path = os.path.join(folder.name, "systemctl")
        with open(path, "w") as f:
            f.write(f"""#!/bin/sh
cd {folder.name}
case "$*" in
"--quiet is-active l7mp-proxy.service") ;;
"show --property=MainPID --value l7mp-proxy.service") cat MainPID ;;
"show --property=StatusText --value l7mp-proxy.service") cat StatusText ;;
"kill --kill-who=main --signal=USR2 l7mp-proxy.service") kill -USR2 "$(cat MainPID)" ;;
"restart l7mp-proxy.service") echo restarted ;;
*) echo "unexpected: $*" >&2; exit 1 ;;
esac
""")
        os.chmod(path, 0o755)
        shutil.copy(path, os.path.join(folder.name, "deb-systemd-invoke"))
        return folder.name

    def test_package(self):
        """what the package's postinst does: the new process takes over; when it can't, the service is restarted"""
        script = str(l7test.ROOT / "scripts/upgrade-service.sh")
        chain = self.begin()
        client = self.udp_client()
        self.ping(client)
        env = dict(os.environ, PATH=f"{self.manager(chain)}:{os.environ['PATH']}")
        r = subprocess.run([script], env=env, capture_output=True, text=True, timeout=120 * l7test.SLOW)
        self.assertEqual((r.returncode, r.stderr), (0, ""))
        chain.old.append(chain.pid)
        chain.pid = chain.state()["pid"]
        self.assertRegex(r.stdout, f"process {chain.pid} has taken over from {chain.old[0]}")
        self.ping(client)
        with open(chain.proxy.path, "a") as f:
            f.write("no JSON")
        r = subprocess.run([script], env=env, capture_output=True, text=True, timeout=120 * l7test.SLOW)
        self.assertEqual((r.returncode, r.stdout), (0, "restarted\n"), r.stderr)
        self.assertRegex(r.stderr, "The upgrade has failed: the new process has ended with status 1")
        self.ping(client)
        chain.stop()

    def test_requests(self):
        """the admin server's port moves: a request that is being served is finished, new ones are never refused"""
        chain = self.begin()
        slow = socket.create_connection(("127.0.0.1", ADMIN), 60)
        self.addCleanup(slow.close)
        body = b'{"timeout":0}'
        slow.sendall(b"POST /api/v1/lookup HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body))
        errors, ending = [], threading.Event()

        def ask():
            while not ending.is_set():
                try:
                    status, _ = self.api.get("/admin")
                    if status != 200:
                        errors.append(status)
                except OSError as e:
                    errors.append(repr(e))
        threads = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
        for t in threads:
            t.start()
        time.sleep(0.2)
        chain.upgrade()
        slow.sendall(body)
        self.assertIn(b"HTTP/1.1 ", slow.recv(100))
        ending.set()
        for t in threads:
            t.join()
        self.assertEqual(errors, [])
        chain.stop()


class Faults(Base):
    def fault(self, step, how, limit="3000"):
        chain = self.begin(env={"L7MP_FAULT": f"upgrade-{step}:{how}", "L7MP_UPGRADE_LIMIT": limit})
        load, tcp = UdpLoad(10, pause=0.02).begin(), tcp_load(1)
        tcp.start()
        self.later(lambda: len(self.sessions()) == 11)
        return chain, load, tcp

    def finish(self, chain, load, tcp):
        sent, got, wrong = load.end()
        self.assertEqual((sent - got, wrong), (0, 0), f"of {sent} datagrams")
        self.assertGreater(tcp.end(), 0)
        chain.stop()
        self.udp_up.close()
        self.tcp_up.close()

    def goes_on(self, step, how, limit="3000"):
        with self.subTest(step=step, how=how):
            chain, load, tcp = self.fault(step, how, limit)
            names = set(self.sessions())
            fds = chain.fds()
            result = chain.upgrade()
            self.assertEqual(result["pid"], chain.pid)
            self.assertIn("signal 9" if how == "kill" else "takes too long", result["failed"])
            self.assertEqual(set(self.sessions()), names)
            with traffic.connect(TCP) as s:
                s.sendall(b"new")
                self.assertEqual(traffic.recv_exact(s, 3), b"new")
            self.later(lambda: len(chain.fds()) <= len(fds), message=f"{fds} {chain.fds()}")
            self.finish(chain, load, tcp)

    def test_killed(self):
        """the new process is killed at each step before it runs: the old one continues, as if nothing had been"""
        for step in ("start", "hello", "listeners", "bound", "session", "commit"):
            self.goes_on(step, "kill")

    def test_hangs(self):
        """it stands still at each of them: after a time the old one continues"""
        for step in ("start", "hello", "listeners", "bound", "session", "commit"):
            if l7test.FULL or step in ("bound", "commit"):
                self.goes_on(step, "hang", "1500")

    def test_orphan(self):
        """the old process dies at a step: the new one continues with the listeners, and with the sessions that it has"""
        for step, sessions in (("hello", 0), ("listeners", 0), ("bound", 0), ("commit", 2)):
            with self.subTest(step=step):
                chain = self.begin(env={"L7MP_FAULT": f"upgrade-{step}:orphan"})
                udp, tcp = self.udp_client(), traffic.connect(TCP)
                self.ping(udp)
                tcp.sendall(b"x")
                self.assertEqual(tcp.recv(1), b"x")
                result = chain.upgrade()
                self.assertNotEqual(result["pid"], chain.old[0])
                self.assertGreaterEqual(result["sessions_taken"], sessions)
                if sessions:
                    tcp.sendall(b"y")
                    self.assertEqual(tcp.recv(1), b"y")
                self.ping(udp, b"again")
                with traffic.connect(TCP) as s:
                    s.sendall(b"new")
                    self.assertEqual(traffic.recv_exact(s, 3), b"new")
                tcp.close()
                # The next one has a parent that is not to be killed.
                os.kill(chain.pid, signal.SIGTERM)
                chain.ended(chain.pid)
                chain.proxy.process.wait()
                self.udp_up.close()
                self.tcp_up.close()


if not FAULTS:
    del Faults

if __name__ == "__main__":
    l7test.main()
