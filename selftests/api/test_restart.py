#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: long timeout=600
"""systemctl restart: the service manager keeps the sockets of listeners and sessions, and the next process continues with them."""
import hashlib
import json
import os
import random
import socket
import sys
import tempfile
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import l7test  # noqa: E402
import systemd  # noqa: E402
import test_upgrade as up  # noqa: E402
import traffic  # noqa: E402
import wsraw  # noqa: E402
from test_upgrade import ADMIN, ECHO, TCP, TCP_UP, UDP, UDP_UP, WS  # noqa: E402


class Restart(traffic.Case):
    service = None

    def begin(self, cfg=None, keep=None, **kw):
        if self.service:
            self.service.kill()
        for peer in [p for p in traffic.PEERS if p is not keep]:
            traffic.PEERS.remove(peer)
            peer.close()
        self.udp_up, self.tcp_up = traffic.UdpEcho(UDP_UP), traffic.TcpServer(TCP_UP, traffic.echo)
        up.roomy(self.udp_up.sock)
        self.service = systemd.Service(cfg or up.config(), ADMIN, **kw)
        self.addCleanup(self.service.kill)
        return self.service

    def sessions(self):
        return {s["name"]: s for s in self.service.api.get("/sessions")[1]}

    def client(self, port=UDP):
        s = l7test.udp_socket()
        self.addCleanup(s.close)
        s.connect(("127.0.0.1", port))
        return s

    def ping(self, s, data=b"ping"):
        s.send(data)
        self.assertEqual(s.recv(65536), data)

    def word(self, s, data=b"word"):
        s.sendall(data)
        self.assertEqual(traffic.recv_exact(s, len(data)), data)

    def connect(self, port=TCP):
        s = traffic.connect(port, timeout=120)
        self.addCleanup(s.close)
        return s

    def test_traffic(self):
        """restarts in a row under traffic: no datagram and no byte is lost, no connection is refused; names and counters continue"""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        server = up.UnixEcho(os.path.join(folder.name, "up"))
        path = os.path.join(folder.name, "in")
        cfg = up.config()
        cfg["listeners"].append({"name": "unix", "spec": {"protocol": "UnixDomainSocket", "filename": path}, "rules": [
            {"action": {"route": {"destination": {"spec": {"protocol": "UnixDomainSocket"},
                                                  "endpoints": [{"spec": {"address": server.path}}]}}}}]})
        service = self.begin(cfg, keep=server)
        n = 1000 if l7test.FULL else 50
        udp, echo = up.UdpLoad(n, pause=n / 1000).begin(), up.UdpLoad(5, ECHO).begin()
        tcp = [*[up.tcp_load(i) for i in range(20 if l7test.FULL else 4)], up.StreamLoad(4, up.unix_connect(path))]
        for t in tcp:
            t.start()
        n += 5 + len(tcp)
        self.later(lambda: len(self.sessions()) >= n)
        before, fresh = self.sessions(), up.NewConnections()
        fresh.start()
        for i in range(20 if l7test.FULL else 3):
            service.restart()
            after = self.sessions()
            self.assertLessEqual(set(before), set(after), f"restart {i}")
            for name, was in before.items():
                self.assertEqual(after[name]["metadata"], was["metadata"])
                self.assertEqual(after[name]["events"][:2], was["events"][:2])
                for way in ("ingress", "egress"):
                    for what in ("packets", "bytes"):
                        self.assertGreaterEqual(after[name]["stats"][way][what], was["stats"][way][what], name)
            self.assertEqual(service.kept, [], "what it has taken is not kept any more")
            before = {name: after[name] for name in before}
        connections, errors = fresh.end()
        self.assertEqual(errors, [])
        self.assertGreater(connections, 0)
        for load in (udp, echo):
            sent, got, wrong = load.end()
            self.assertEqual((sent - got, wrong), (0, 0), f"of {sent} datagrams")
        for t in tcp:
            self.assertGreater(t.end(), 100000)
        service.stop()

    def test_meanwhile(self):
        """what comes while no process is there waits: a connection, its bytes, datagrams; and a request to the admin server"""
        service = self.begin()
        udp, tcp = self.client(), self.connect()
        self.ping(udp)
        self.word(tcp)
        service.terminate()
        self.assertEqual(len(service.kept), 7 + 1 + 1 + 2)  # listeners, the file, one of the UDP session, two of the TCP session
        fresh = self.connect()
        for s in (fresh, tcp):
            s.sendall(b"meanwhile")
        udp.send(b"meanwhile")
        service.start()
        self.assertEqual(service.messages[-2:], [{"FDSTOREREMOVE": "1", "FDNAME": "l7mp"}, {"READY": "1"}])
        for s in (fresh, tcp):
            self.assertEqual(traffic.recv_exact(s, 9), b"meanwhile")
        self.assertEqual(udp.recv(100), b"meanwhile")
        self.assertEqual(service.api.get("/admin")[0], 200)
        service.stop()

    def test_buffered(self):
        """what waits for a slow reader in the proxy is kept with the session"""
        service = self.begin()
        self.tcp_up.close()
        data = random.Random(1).randbytes(32 << 20)
        with traffic.narrow_server(TCP_UP) as server:
            a = self.connect()
            b, _ = server.accept()
            writer = threading.Thread(target=lambda: (a.sendall(data), a.shutdown(socket.SHUT_WR)), daemon=True)
            writer.start()

            def full():
                (s,) = self.sessions().values()
                last, full.last = full.last, s["stats"]["ingress"]["bytes"]
                return last == full.last > 0
            full.last = -1
            self.later(full)
            service.restart()
            self.assertEqual(hashlib.sha256(traffic.recv_all(b)).digest(), hashlib.sha256(data).digest())
            writer.join()
            b.sendall(b"answer")
            b.close()
            self.assertEqual(traffic.recv_all(a), b"answer")
        service.stop()

    def test_what_ends(self):
        """sessions whose state is more than a socket end as at a stop; those that the new configuration does not allow, too"""
        service = self.begin()
        udp, tcp, ws = self.client(), self.connect(), wsraw.connect(WS)
        self.addCleanup(ws.close)
        self.ping(udp)
        self.word(tcp)
        (name,) = (name for name in self.sessions() if name.startswith("UDP"))
        ws.send(1, b"text")
        self.assertEqual(ws.message()[1], b"text")
        changed = up.config()
        del changed["listeners"][1]
        service.restart(changed)
        self.assertEqual(set(self.sessions()), {name})
        self.ping(udp)
        self.assertEqual(tcp.recv(1), b"")
        self.assertIn("ends: there is no listener 'tcp'", service.proxy.stderr())
        self.assertIn("the service manager keeps 2 sessions; 1 others end here", service.log)
        service.stop()

    def test_full(self):
        """what does not fit into the store ends, with a message; the rest continues"""
        service = self.begin(most=12)  # 7 listeners, the file: four more
        clients = [self.client() for _ in range(10)]
        for s in clients:
            self.ping(s)
        names = set(self.sessions())
        service.restart()
        self.assertEqual(len(self.sessions()), 4)
        self.assertLess(set(self.sessions()), names)
        self.assertIn("6 sessions are not kept for want of space", service.log)
        for s in clients:
            self.ping(s)
        service.stop()

    def edited(self, edit):
        """A restart between which the file of sessions was changed: how many continue, and the log."""
        service = self.begin()
        udp, tcp = self.client(), self.connect()
        self.ping(udp)
        self.word(tcp)
        service.terminate()
        (file,) = [fd for fd in service.kept if not l7test.os.readlink(f"/proc/self/fd/{fd}").startswith("socket")]
        data = os.pread(file, 1 << 20, 0)
        edit(service, file, data)
        service.start()
        n = len(self.sessions())
        if n < 2:
            self.assertEqual(tcp.recv(1), b"")
        self.ping(udp)
        log = service.proxy.stderr()
        service.stop()
        return n, log

    def test_file(self):
        """a file of another version, cut, or damaged: the listeners continue, sessions end, and the log says why"""
        def another(_, file, data):
            os.pwrite(file, data.replace(b'"records":1', b'"records":9'), 0)

        def flip(service, file, data):
            os.pwrite(file, bytes(b ^ 0x55 for b in data[200:400]), 200)

        for edit, expected in ((another, "has kept sessions in another form"), (flip, "another version has written them"),
                               (lambda _, file, data: os.ftruncate(file, len(data) - 10), "another version has written them")):
            with self.subTest(expected=expected):
                n, log = self.edited(edit)
                self.assertEqual(n, 0)
                self.assertIn(expected, log)

    def test_lost_socket(self):
        """a socket that the manager has not kept: its session ends, others continue"""
        def lose(service, *_):
            (fd,) = [fd for fd in service.kept if os.readlink(f"/proc/self/fd/{fd}").startswith("socket") and
                     self.is_to(fd, TCP_UP)]
            service.kept.remove(fd)
            os.close(fd)
        n, log = self.edited(lose)
        self.assertEqual(n, 1)
        self.assertIn("has not kept its sockets", log)

    @staticmethod
    def is_to(fd, port):
        with socket.socket(fileno=os.dup(fd)) as s:
            try:
                return s.getpeername()[1] == port
            except (OSError, IndexError, TypeError):
                return False

    def test_once(self):
        """after a crash what was taken before is not taken again, even if the manager still has it"""
        service = self.begin()
        tcp, udp = self.connect(), self.client()
        self.word(tcp)
        self.ping(udp)
        service.terminate()
        copies = [os.dup(fd) for fd in service.kept]
        service.start()
        self.word(tcp)
        service.proxy.process.kill()
        service.proxy.process.wait()
        service.reader.join()
        service.proxy.notify.close()
        service.proxy.dir.cleanup()
        service.kept = copies
        service.start()
        self.assertEqual(self.sessions(), {})
        self.assertEqual(tcp.recv(1), b"")
        self.ping(udp)
        service.stop()

    def test_bad_start(self):
        """a start that fails keeps everything for the next one"""
        service = self.begin()
        tcp, udp = self.connect(), self.client()
        self.word(tcp)
        self.ping(udp)
        names = set(self.sessions())
        with socket.create_server(("127.0.0.1", 17000)):
            bad = up.config()
            bad["listeners"].append(up.listener("more", "TCP", 17000, up.inline("Echo"), address="127.0.0.1"))
            service.terminate()
            service.config = bad
            with self.assertRaisesRegex(AssertionError, "17000"):
                service.start()
            service.reader.join()
            self.assertNotEqual(service.kept, [])
        service.config = up.config()
        service.start()
        self.assertEqual(set(self.sessions()), names)
        self.word(tcp)
        self.ping(udp)
        service.stop()

    def test_port(self):
        """a listener without a port keeps the one that it has got"""
        cfg = up.config()
        cfg["listeners"].append(up.listener("any", "TCP", 0, up.inline("Echo"), address="127.0.0.1"))
        service = self.begin(cfg)

        def port():
            return service.api.get("/listeners/any")[1]["spec"]["port"]
        was = port()
        s = self.connect(was)
        self.word(s)
        service.restart()
        self.assertEqual(port(), was)
        self.word(s)
        service.stop()

    def test_drain(self):
        """with drain_timeout sessions end within it, and nothing of them is kept"""
        cfg = up.config(drain_timeout=1)
        service = self.begin(cfg)
        udp = self.client()
        self.ping(udp)
        service.restart()
        self.assertEqual(self.sessions(), {})
        self.ping(udp)
        service.stop()
        self.assertIn(json.dumps("STOPPING"), json.dumps(service.messages))


if __name__ == "__main__":
    l7test.main()
