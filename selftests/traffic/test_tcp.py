#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""TCP listeners and clusters, and conversions between datagrams and byte streams."""
import hashlib
import os
import random
import socket
import tempfile
import threading
import time
import unittest

import l7test
from l7test import udp_socket
from traffic import (Case, Peak, TcpServer, UdpEcho, cluster, connect, echo, flood, inline, listener, recv_all, recv_exact,
                     refused, reset, retry, silent)

MB = 1 << 20


# Runs the proxy with another resolv.conf: of a mount namespace.
OWN_RESOLVER = ("unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"')


@unittest.skipUnless(l7test.ISOLATED, "needs root for namespaces")
class Names(Case):
    def test_dead_server(self):
        """tcp: names whose server never answers don't hold up a name that is known"""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as dead, tempfile.NamedTemporaryFile("w") as conf:
            dead.bind(("127.0.0.1", 53))
            conf.write("nameserver 127.0.0.1\noptions timeout:5 attempts:2\n")
            conf.flush()
            TcpServer(9001, echo)
            self.start(*(listener(f"d{n}", "TCP", 9100 + n, cluster("TCP", 9001, f"name{n}.example")) for n in range(12)),
                       listener("l", "TCP", 9000, cluster("TCP", 9001, "localhost")), wrapper=(*OWN_RESOLVER, conf.name))
            waiting = [connect(9100 + n) for n in range(12)]
            dead.settimeout(60)
            dead.recv(1000)  # the look-ups have begun
            with connect(9000) as s:
                s.sendall(b"known")
                s.shutdown(socket.SHUT_WR)
                self.assertEqual(recv_all(s), b"known")
            for s in waiting:
                s.close()


class Tcp(Case):
    def test_request_and_half_close(self):
        """tcp: client finishes first; the whole answer still comes, then the end"""
        got = []

        def serve(conn, _):
            got.append(recv_all(conn))
            time.sleep(0.3)
            conn.sendall(b"answer to " + got[0])
            conn.close()
        TcpServer(9001, serve)
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001), options={"track": 30}))
        with connect(9000) as s:
            s.sendall(b"question")
            s.shutdown(socket.SHUT_WR)
            self.assertEqual(recv_all(s), b"answer to question")
        ended = self.ended("TCP:")
        self.assertEqual(ended["stats"]["ingress"]["bytes"], 8)
        self.assertEqual(ended["stats"]["egress"]["bytes"], 18)

    def test_server_finishes_first(self):
        """tcp: server finishes first; what the client sends after still arrives"""
        got = []

        def serve(conn, _):
            conn.sendall(b"welcome")
            conn.shutdown(socket.SHUT_WR)
            got.append(recv_all(conn))
        TcpServer(9001, serve)
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001)))
        with connect(9000) as s:
            self.assertEqual(recv_all(s), b"welcome")
            time.sleep(0.2)
            s.sendall(b"late")
            time.sleep(0.2)
            s.sendall(b" words")
            s.shutdown(socket.SHUT_WR)
        self.later(lambda: got)
        self.assertEqual(got, [b"late words"])

    def test_bulk_slow_reader(self):
        """tcp: 64 MB (8 in fast mode) to a slow reader arrive whole, memory stays bounded"""
        size = (64 if l7test.FULL else 8) * MB
        result = []

        def serve(conn, _):
            digest, n = hashlib.sha256(), 0
            while data := conn.recv(65536):
                digest.update(data)
                n += len(data)
                time.sleep(len(data) / (8 * MB))
            result.append((n, digest.hexdigest()))
            conn.close()
        TcpServer(9001, serve, rcvbuf=65536)
        proxy = self.start(listener("l", "TCP", 9000, cluster("TCP", 9001)), measured=True)
        data = os.urandom(size)
        peak = Peak(proxy)
        with connect(9000, timeout=60) as s:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            self.assertEqual(recv_all(s), b"")
        self.assertEqual(result, [(size, hashlib.sha256(data).hexdigest())])
        self.assertLess(peak.grown(), 20 * 1024)  # ASan's quarantine included

    def test_bulk_both_ways(self):
        """tcp: both directions at once, byte by byte equal, many connections"""
        TcpServer(9001, echo)
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001)))
        bad = []

        def one(i):
            data = random.Random(i).randbytes(MB + i)
            with connect(9000, timeout=30) as s:
                def send():
                    s.sendall(data)
                    s.shutdown(socket.SHUT_WR)
                t = threading.Thread(target=send)
                t.start()
                if recv_all(s) != data:
                    bad.append(i)
                t.join()
        threads = [threading.Thread(target=one, args=(i,)) for i in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(bad, [])
        self.later(lambda: not self.sessions())

    def test_urgent(self):
        """tcp: urgent data is a part of the stream, both ways, alone and in the midst of bulk"""
        TcpServer(9001, echo)
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001)))
        with connect(9000, timeout=60) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            for before in (b"", b"a", os.urandom(MB), b"b"):
                sender = threading.Thread(target=lambda before=before: (s.sendall(before), s.send(b"!", socket.MSG_OOB), s.sendall(b"c")))
                sender.start()
                self.assertEqual(recv_exact(s, len(before) + 2), before + b"!c")
                sender.join()

    def test_reset_of_client(self):
        """tcp: a client's RST resets the upstream"""
        errors = []

        def serve(conn, _):
            try:
                recv_all(conn)
                errors.append(None)
            except ConnectionResetError as e:
                errors.append(e)
        TcpServer(9001, serve)
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001), options={"track": 30}))
        s = connect(9000)
        s.sendall(b"x")
        self.later(lambda: self.session("TCP:")["stats"]["ingress"]["bytes"] == 1)
        reset(s)
        self.later(lambda: errors)
        self.assertIsInstance(errors[0], ConnectionResetError)
        self.assertIn("reset", " ".join(self.texts(self.ended("TCP:"), "ERROR")))

    def test_reset_of_upstream(self):
        """tcp: an upstream's RST resets the client and is named in the session"""
        TcpServer(9001, lambda conn, _: (conn.recv(1), reset(conn)))
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001), options={"track": 30}))
        with connect(9000) as s:
            s.sendall(b"x")
            with self.assertRaises(ConnectionResetError):
                s.recv(10)
        text = " ".join(self.texts(self.ended("TCP:"), "ERROR"))
        self.assertIn("destination", text)
        self.assertIn("127.0.0.1", text)

    def test_reset_while_upstream_stalls(self):
        """tcp: a client that is reset while the upstream reads nothing: the session ends"""
        TcpServer(9001, lambda conn, _: time.sleep(60), rcvbuf=4096)
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001)))
        s = connect(9000)
        s.setblocking(False)
        for _ in range(200):
            try:
                s.send(bytes(65536))
            except BlockingIOError:
                time.sleep(0.01)
        self.assertEqual(len(self.sessions("TCP:")), 1)
        reset(s)
        self.later(lambda: not self.sessions("TCP:"), 8, "the session of a reset client stays")

    def test_refused_upstream(self):
        """tcp: a refused connect closes the client; the error names stage, address and why"""
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001, name="nobody"), options={"track": 30}))
        self.assertTrue(refused(9000))
        text = " ".join(self.texts(self.ended("TCP:"), "ERROR"))
        for word in ("destination", "'nobody'", "127.0.0.1", "refused"):
            self.assertIn(word, text)

    def test_families_and_names(self):
        """tcp: IPv6, dual-stack, localhost as endpoint, bind address"""
        TcpServer(9001, echo, "::1")
        four = TcpServer(9002, echo)
        self.start(listener("dual", "TCP", 9000, cluster("TCP", 9001, "::1")),
                   listener("name", "TCP", 9003, cluster("TCP", 9002, "localhost"), address="::1"),
                   listener("bound", "TCP", 9004, cluster("TCP", 9002, bind={"address": "127.0.0.9"})))
        for host, port in (("127.0.0.1", 9000), ("::1", 9000), ("127.0.0.3", 9000), ("::1", 9003),
                           ("127.0.0.1", 9004)):
            with connect(port, host) as s:
                s.sendall(b"abc")
                self.assertEqual(recv_exact(s, 3), b"abc")
        self.assertEqual(four.peers[-1][0], "127.0.0.9")
        with connect(9000, "127.0.0.3") as s:
            s.sendall(b"x")
            s.recv(1)
            one = self.later(lambda: [x for x in self.sessions("TCP:127") if "127.0.0.3" in x["name"]
                                      and x["status"] == "CONNECTED"])[0]
            port = s.getsockname()[1]
            self.assertEqual(one["name"], f"TCP:127.0.0.1:{port}-127.0.0.3:9000")
            self.assertEqual(one["metadata"]["IP"]["dst_addr"], "127.0.0.3")
            self.assertEqual(one["metadata"]["TCP"], {"src_port": port, "dst_port": 9000})

    def test_early_data(self):
        """tcp: what comes before the upstream is up is delivered; also from a client that left already"""
        got = []
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001), retry=retry("always", 20, 200)))
        with connect(9000) as s:
            s.sendall(b"early ")
            time.sleep(0.1)
            s.sendall(b"words")
        TcpServer(9001, lambda conn, _: got.append(recv_all(conn)))
        self.later(lambda: got)
        self.assertEqual(got, [b"early words"])

    def test_streams_through_logger(self):
        """tcp: TCP to Logger to TCP stays a stream, without a warning"""
        TcpServer(9001, echo)
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001), options={"track": 30},
                            ingress=[inline("Logger", log_file="/dev/null")],
                            egress=[inline("Logger", log_file="/dev/null")]))
        data = os.urandom(2 * MB)
        with connect(9000) as s:
            t = threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR)))
            t.start()
            self.assertEqual(recv_all(s), data)
            t.join()
        self.assertEqual(self.texts(self.ended("TCP:"), "WARNING"), [])

    def test_echo_half_close(self):
        """tcp: Echo as destination gives everything back, also after a half-close"""
        self.start(listener("l", "TCP", 9000, inline("Echo")))
        data = os.urandom(3 * MB)
        with connect(9000) as s:
            t = threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR)))
            t.start()
            self.assertEqual(recv_all(s), data)
            t.join()

    def test_echo_of_who_never_reads(self):
        """tcp: a client of Echo that sends and never reads is stopped; memory stays bounded"""
        proxy = self.start(listener("l", "TCP", 9000, inline("Echo")), measured=True)
        peak = Peak(proxy)
        with connect(9000) as s:
            self.assertLess(flood(s, 64 * MB), 32 * MB)
        self.assertLess(peak.grown(), 20 * 1024)

    def test_noise(self):
        """tcp: connections that come and go at once, noise, half-open ones"""
        TcpServer(9001, echo)
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001)))
        rng = random.Random(5)
        for i in range(60):
            s = connect(9000)
            if i % 3:
                s.sendall(rng.randbytes(rng.randrange(1, 5000)))
            if i % 4 == 0:
                reset(s)
            elif i % 4 == 1:
                s.shutdown(socket.SHUT_WR)
                s.close()
            else:
                s.close()
        self.later(lambda: not self.sessions())
        with connect(9000) as s:
            s.sendall(b"fine")
            self.assertEqual(recv_exact(s, 4), b"fine")


class Conversion(Case):
    def test_udp_to_tcp(self):
        """udp to tcp: payloads one after the other, one warning in log and events"""
        got = []

        def serve(conn, _):
            while data := conn.recv(100):
                got.append(data)
                conn.sendall(data.upper())
        TcpServer(9001, serve)
        proxy = self.start(listener("l", "UDP", 9000, cluster("TCP", 9001), options={"track": 30}))
        with udp_socket() as s:
            for n in range(20):
                s.sendto(b"message-%d." % n, ("127.0.0.1", 9000))
            want = b"".join(b"message-%d." % n for n in range(20))
            self.later(lambda: b"".join(got) == want)
            back = b""
            while len(back) < len(want):
                back += s.recv(70000)
            self.assertEqual(back, want.upper())
            one = self.session("UDP:")
            self.assertEqual(len(self.texts(one, "WARNING")), 1)
            self.assertEqual(one["stats"]["ingress"], {**one["stats"]["ingress"], "packets": 20, "bytes": len(want)})
        self.assertEqual(proxy.stderr().count("message boundaries are lost"), 1)

    def test_tcp_to_udp(self):
        """tcp to udp: each read is a datagram, long ones are split, nothing is lost or changed"""
        up = UdpEcho(9001)
        self.start(listener("l", "TCP", 9000, cluster("UDP", 9001)))
        data = os.urandom(100_000)
        with connect(9000) as s:
            for i in range(0, len(data), 10_000):
                s.sendall(data[i:i + 10_000])
                time.sleep(0.01)
            self.assertEqual(recv_exact(s, len(data)), data)
            one = self.session("TCP:")
            self.assertEqual(self.texts(one, "WARNING"), [] if not self.texts(one, "WARNING")
                             else self.texts(one, "WARNING")[:1])
        self.assertTrue(all(len(d) <= 65507 for _, d in up.seen))

    def test_tcp_end_to_udp(self):
        """tcp to udp: a client that finishes still gets late answers, then the session ends"""
        with udp_socket(9001) as up:
            self.start(listener("l", "TCP", 9000, cluster("UDP", 9001)))
            with connect(9000, timeout=60) as s:
                s.sendall(b"question")
                s.shutdown(socket.SHUT_WR)
                data, peer = up.recvfrom(100)
                time.sleep(0.5)
                up.sendto(b"late answer to " + data, peer)
                self.assertEqual(recv_exact(s, 23), b"late answer to question")
                self.assertEqual(recv_all(s), b"")

    def test_upstream_end_closes_udp_session(self):
        """udp to tcp: an upstream that hangs up ends the session; the next datagram makes a new one"""
        server = TcpServer(9001, lambda conn, _: (conn.recv(10), conn.close()))
        self.start(listener("l", "UDP", 9000, cluster("TCP", 9001)))
        with udp_socket() as s:
            s.sendto(b"one", ("127.0.0.1", 9000))
            self.later(lambda: server.count == 1 and not self.sessions("UDP:"))
            s.sendto(b"two", ("127.0.0.1", 9000))
            self.later(lambda: server.count == 2)

    def test_slow_tcp_behind_udp(self):
        """udp to tcp: a receiver that reads nothing: bounded queue, the rest is dropped and counted"""
        TcpServer(9001, lambda conn, _: time.sleep(30), rcvbuf=4096)
        proxy = self.start(listener("l", "UDP", 9000, cluster("TCP", 9001)), admin={"limits": {"max_queue": 65536}}, measured=True)
        peak = Peak(proxy)
        sent = 12_000
        with udp_socket() as s:
            for n in range(sent):
                s.sendto(bytes(1000), ("127.0.0.1", 9000))
                if n % 50 == 0:
                    time.sleep(0.002)
            self.assertTrue(silent(s, 0.2))
            one = self.session("UDP:")
        self.assertGreater(one["stats"]["drops"], 1000)
        self.assertGreater(self.drops("queue"), 1000)
        self.assertLess(peak.grown(), 20 * 1024)
        waiting = sent - one["stats"]["ingress"]["packets"] - one["stats"]["drops"] - self.kernel_drops(9000)
        self.assertTrue(0 <= waiting <= 65, waiting)  # every datagram is taken, waiting or counted

    @staticmethod
    def kernel_drops(port):
        """What a full receive buffer cost."""
        total = 0
        for table in ("/proc/self/net/udp", "/proc/self/net/udp6"):
            with open(table) as f:
                for row in f.readlines()[1:]:
                    words = row.split()
                    if words[1].endswith(f":{port:04X}"):
                        total += int(words[-1])
        return total


if __name__ == "__main__":
    l7test.main()
