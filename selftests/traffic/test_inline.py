#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""UNIX sockets, Stdio, Discard, Logger."""
import os
import socket
import stat
import subprocess
import tempfile
import threading
import time

import l7test
from l7test import udp_socket
from traffic import PEERS, Case, TcpServer, cluster, connect, echo, inline, listener, recv_all, recv_exact, refused, silent

MB = 1 << 20


class UnixServer(TcpServer):
    def __init__(self, path, serve):
        threading.Thread.__init__(self, daemon=True)
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind("\0" + path[1:] if path[0] == "@" else path)
        self.sock.listen(64)
        self.serve, self.conns, self.peers, self.count = serve, [], [], 0
        PEERS.append(self)
        self.start()


def unix(path, timeout=60):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(timeout)
    s.connect("\0" + path[1:] if path[0] == "@" else path)
    return s


class Unix(Case):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory(prefix="l7mp-unix-")
        self.addCleanup(self.dir.cleanup)

    def path(self, name):
        return os.path.join(self.dir.name, name)

    def test_unix_to_tcp(self):
        """unix: listener to TCP: half-close, data both ways, credentials in the metadata, path removed at the end"""
        TcpServer(9001, echo)
        path = self.path("in.sock")
        self.start(listener("u", "UnixDomainSocket", None, cluster("TCP", 9001), filename=path))
        data = os.urandom(2 * MB)
        with unix(path) as s:
            t = threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR)))
            t.start()
            self.assertEqual(recv_all(s), data)
            t.join()
        with unix(path) as s:
            s.sendall(b"x")
            s.recv(1)
            one = self.session("UNIX:u-")
            self.assertEqual(one["metadata"]["UNIX"]["filename"], path)
            creds = str(one["metadata"]["UNIX"])
            self.assertIn(str(os.getpid()), creds)
            self.assertIn("'uid': 0" if os.getuid() == 0 else str(os.getuid()), creds)
        self.stop()
        self.assertFalse(os.path.exists(path))

    def test_tcp_to_unix(self):
        """unix: cluster by path and abstract; a path that is not there is an error that names it"""
        path = self.path("up.sock")
        UnixServer(path, echo)
        UnixServer("@l7mp-abstract-up", echo)
        self.start(listener("a", "TCP", 9000, cluster("UnixDomainSocket", address=path)),
                   listener("b", "TCP", 9001, cluster("UNIX/stream", address="@l7mp-abstract-up")),
                   listener("c", "TCP", 9002, cluster("UnixDomainSocket", address=self.path("none")),
                            options={"track": 30}))
        for port in (9000, 9001):
            with connect(port) as s:
                s.sendall(b"hello")
                s.shutdown(socket.SHUT_WR)
                self.assertEqual(recv_all(s), b"hello")
        self.assertTrue(refused(9002))
        self.later(lambda: any(self.path("none") in " ".join(self.texts(x, "ERROR")) for x in self.sessions()))

    def test_abstract_listener(self):
        """unix: abstract listener"""
        self.start(listener("u", "UnixDomainSocket", None, inline("Echo"), filename="@l7mp-abstract-in"))
        with unix("@l7mp-abstract-in") as s:
            s.sendall(b"hello")
            s.shutdown(socket.SHUT_WR)
            self.assertEqual(recv_all(s), b"hello")

    def test_stale_path(self):
        """unix: a stale socket is replaced, one in use and a plain file are not"""
        stale, used, plain = self.path("stale"), self.path("used"), self.path("plain")
        s = socket.socket(socket.AF_UNIX)
        s.bind(stale)
        s.close()
        UnixServer(used, echo)
        with open(plain, "w") as f:
            f.write("precious")
        self.start(listener("s", "UnixDomainSocket", None, inline("Echo"), filename=stale))
        with unix(stale) as s:
            s.sendall(b"x")
            self.assertEqual(s.recv(1), b"x")
        for path in (used, plain):
            status, body = self.api.post("/listeners", {"listener": listener(
                "n", "UnixDomainSocket", None, inline("Echo"), filename=path)})
            self.assertEqual(status, 400, body)
            self.assertIn(path, str(body))
        with open(plain) as f:
            self.assertEqual(f.read(), "precious")
        self.assertTrue(stat.S_ISSOCK(os.stat(used).st_mode))


class Inline(Case):
    def test_stdio(self):
        """stdio: a session talks to the proxy's own standard input and output, one at a time"""
        config = {"admin": {"offload": "disable", "log_file": "stderr"},
                  "listeners": [l7test.controller(), listener("t", "TCP", 9000, inline("Stdio"), options={"track": 30})]}
        with tempfile.TemporaryDirectory() as d:
            path = os.path.join(d, "c.json")
            with open(path, "w") as f:
                f.write(l7test.json.dumps(config))
            p = subprocess.Popen([l7test.program("l7mp-proxy"), "-c", path, "-s", "-l", "warn"],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            self.api = l7test.Api()
            try:
                self.later(lambda: self.api.get("/admin")[0] == 200)
                with connect(9000) as s:
                    s.sendall(b"to stdout\n")
                    self.assertEqual(p.stdout.readline(), b"to stdout\n")
                    p.stdin.write(b"from stdin\n")
                    p.stdin.flush()
                    self.assertEqual(recv_exact(s, 11), b"from stdin\n")
                    self.assertTrue(refused(9000))  # another process has it
                self.later(lambda: any(x["status"] == "DESTROYED" for x in self.sessions()))
                for one in self.sessions():  # a client that finished still hears what is typed
                    if one["status"] != "DESTROYED":
                        self.assertEqual(self.api.delete("/sessions/" + one["name"])[0], 200)
                self.later(lambda: all(x["status"] == "DESTROYED" for x in self.sessions()))
                with connect(9000) as s:
                    s.sendall(b"again\n")
                    self.assertEqual(p.stdout.readline(), b"again\n")
            finally:
                p.terminate()
                _, err = p.communicate(timeout=60)
            self.assertEqual(p.returncode, 0, err)
            self.assertFalse(l7test.SANITIZER.search(err.decode()), err)

    def test_discard(self):
        """discard: drops and counts datagrams and streams; a stream's end ends the session"""
        self.start(listener("u", "UDP", 9000, inline("Discard")), listener("t", "TCP", 9001, inline("Discard")))
        with udp_socket() as s:
            for _ in range(5):
                s.sendto(b"12345", ("127.0.0.1", 9000))
            self.assertTrue(silent(s, 0.2))
            stats = self.session("UDP:")["stats"]
            self.assertEqual((stats["ingress"]["packets"], stats["ingress"]["bytes"], stats["egress"]["packets"]),
                             (5, 25, 0))
        self.assertEqual(self.drops("discard"), 5)
        with connect(9001) as s:
            s.sendall(bytes(5 * MB))
            s.shutdown(socket.SHUT_WR)
            self.assertEqual(recv_all(s), b"")
        self.later(lambda: not self.sessions("TCP:"))

    def test_logger(self):
        """logger: file and prefix, ingress only or egress only, control characters as text, reopened nowhere lost"""
        with tempfile.TemporaryDirectory() as d:
            a, b = os.path.join(d, "a.log"), os.path.join(d, "b.log")
            TcpServer(9001, lambda conn, _: (conn.recv(100), conn.sendall(b"answer\n"), conn.recv(1)))
            self.start(listener("t", "TCP", 9000, cluster("TCP", 9001), ingress=[inline("Logger", log_file=a, log_prefix="in: ")],
                                egress=[inline("Logger", log_file=b, log_prefix="out: ")]),
                       listener("u", "UDP", 9002, inline("Echo"), ingress=[inline("Logger", log_file=a, log_prefix="udp ")]))
            with connect(9000) as s:
                s.sendall(b"question\n")
                self.assertEqual(recv_exact(s, 7), b"answer\n")
            with udp_socket() as s:
                for n in range(50):
                    s.sendto(b"datagram %d\x1b[31m" % n, ("127.0.0.1", 9002))
                for n in range(50):
                    s.recv(100)
            self.later(lambda: os.path.exists(a) and open(a).read().count("udp datagram") == 50)
            text = open(a).read()
            self.assertIn("in: question\n", text)
            self.assertNotIn("answer", text)
            self.assertIn("udp datagram 7\\x1b[31m\n", text)
            self.assertEqual(open(b).read(), "out: answer\n")

    def test_logger_as_destination(self):
        """logger: as a destination it writes and gives back"""
        self.start(listener("u", "UDP", 9000, inline("Logger", log_prefix="dest: ")))
        with udp_socket() as s:
            s.sendto(b"x\n", ("127.0.0.1", 9000))
            self.assertEqual(s.recv(10), b"x\n")
        self.later(lambda: "dest: x\n" in self.proxy.stdout())


if __name__ == "__main__":
    l7test.main()
