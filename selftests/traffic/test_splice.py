#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout_full=900
"""Splicing (splice(2) through pipes) between plain TCP and UNIX stream sockets: every byte once, in order, counted; ends and
errors as without it. Each test sees by the metrics that bytes were spliced, or that they were not.
"""
import hashlib
import json
import os
import socket
import tempfile
import threading
import time

import l7test
from certs import Certs
from traffic import PEERS, Case, Peak, TcpServer, cluster, connect, echo, inline, listener, recv_all, recv_exact, reset, retry

MB = 1 << 20
SIZE = (256 if l7test.FULL else 16) * MB
PLAIN = os.environ.get("L7MP_PLAIN_BUILD", "build")
IDLE = 8  # empty pipes that the pool keeps at most


class UnixServer(TcpServer):
    """The same on a UNIX socket."""

    def __init__(self, path, serve):  # pylint: disable=super-init-not-called
        threading.Thread.__init__(self, daemon=True)
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(path)
        self.sock.listen(64)
        self.serve, self.conns, self.peers, self.count = serve, [], [], 0
        PEERS.append(self)
        self.start()


def connect_unix(path):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(60)
    s.connect(path)
    return s


def data_of(size, seed):
    """Bytes that differ at every offset that a lost or doubled piece could shift them by."""
    return b"".join(hashlib.sha256(b"%d %d" % (seed, i)).digest() for i in range(1024)) * (size // 32768)


def send_and_end(sock, data):
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def both_ways(conn, data):
    """Sends data and half-closes, while it receives up to the end. Returns what came."""
    sender = threading.Thread(target=send_and_end, args=(conn, data), daemon=True)
    sender.start()
    got = recv_all(conn)
    sender.join()
    return got


class Splice(Case):
    def spliced(self):
        return self.metric("l7mp_stream_spliced_bytes_total")

    def pipes(self):
        return self.metric("l7mp_stream_pipes")

    def standstill(self):
        """Until nobody gets further (the sockets' buffers grow for a while): the same count twice. Returns it."""
        was = -1
        while was != (was := self.spliced()):
            time.sleep(0.5)
        return was

    def bytes_of(self, session):
        return [session["stats"][d]["bytes"] for d in ("ingress", "egress")]

    # ---- whole ----

    def bulk(self, item, server, client):
        """SIZE both ways at once: equal digests, exact counts, mostly spliced."""
        there, back, got = data_of(SIZE, 1), data_of(SIZE, 2), []

        def serve(conn, _):
            got.append(both_ways(conn, back))
            conn.close()
        server(serve)
        item["options"] = {"track": 60}
        self.start(item)
        with client() as s:
            answer = both_ways(s, there)
        self.assertEqual(hashlib.sha256(answer).digest(), hashlib.sha256(back).digest())
        self.later(lambda: got, 60)
        self.assertEqual(hashlib.sha256(got[0]).digest(), hashlib.sha256(there).digest())
        ended = self.ended(seconds=60)
        self.assertEqual(self.bytes_of(ended), [len(there), len(back)])
        self.assertEqual(ended["stats"]["ingress"]["slow"]["bytes"], len(there))
        self.assertEqual(ended["stats"]["drops"], 0)
        self.assertGreater(self.spliced(), SIZE)
        self.assertLessEqual(self.spliced(), len(there) + len(back) - 2 * 65536)
        self.assertLessEqual(self.pipes(), IDLE)

    def test_tcp_tcp(self):
        """splice: TCP to TCP, bulk both ways at once: SHA-256 equal, counted exactly, the first 64 KiB copied"""
        self.bulk(listener("l", "TCP", 9000, cluster("TCP", 9001)), lambda serve: TcpServer(9001, serve), lambda: connect(9000))

    def test_tcp_unix(self):
        """splice: TCP to UNIX/stream, bulk both ways at once"""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "s")
            self.bulk(listener("l", "TCP", 9000, cluster("UNIX/stream", address=path)),
                      lambda serve: UnixServer(path, serve), lambda: connect(9000))
            self.stop()

    def test_unix_tcp(self):
        """splice: UNIX/stream to TCP, bulk both ways at once"""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "s")
            self.bulk(listener("l", "UNIX/stream", None, cluster("TCP", 9001), filename=path), lambda serve: TcpServer(9001, serve),
                      lambda: connect_unix(path))
            self.stop()

    def test_many(self):
        """splice: 8 connections at once through Metric clusters, each whole; the Metric counts what was spliced"""
        TcpServer(9001, echo)
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001), options={"track": 60}, ingress=[dict(inline("Metric"), name="in")],
                            egress=[dict(inline("Metric"), name="out")]), admin={"metrics": {"sessions": True}})
        results = {}

        def one(i):
            data = data_of(SIZE // 8, i)
            with connect(9000) as s:
                results[i] = both_ways(s, data) == data
        threads = [threading.Thread(target=one, args=(i,), daemon=True) for i in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(120)
        self.assertEqual(results, {i: True for i in range(8)})
        self.assertGreater(self.spliced(), SIZE)
        for name in ("in", "out"):
            self.assertEqual(self.metric("session_byte_counter_total", f'clusterName="{name}"'), SIZE)

    def test_half_close(self):
        """splice: the end comes after what is in the pipe, and the other direction continues, spliced, too"""
        data, got, stop = data_of(SIZE, 3), [], threading.Event()

        def serve(conn, _):
            stop.wait(60)
            got.append(recv_all(conn))
            send_and_end(conn, data)
        TcpServer(9001, serve, rcvbuf=65536)
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001), options={"track": 60}))
        with connect(9000) as s:
            sender = threading.Thread(target=send_and_end, args=(s, data), daemon=True)
            sender.start()
            self.later(lambda: self.pipes() > 0 and self.spliced() > 0, 60)
            stop.set()
            sender.join(60)
            self.later(lambda: got, 60)
            before = self.spliced()
            self.assertEqual(recv_all(s), data)
        self.assertEqual(got[0], data)
        self.assertGreater(self.spliced(), before)
        self.assertEqual(self.bytes_of(self.ended(seconds=60)), [len(data)] * 2)

    # ---- not spliced ----

    def test_small(self):
        """splice: 300 connections of 60,000 bytes, and a long one of small pieces, make no pipe"""
        TcpServer(9001, echo)
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001)))
        data = data_of(65536, 4)[:60000]
        for _ in range(300):
            with connect(9000) as s:
                self.assertEqual(both_ways(s, data), data)
        with connect(9000) as s:
            for i in range(400):
                s.sendall(data[:1000])
                self.assertEqual(recv_exact(s, 1000), data[:1000], i)
        self.assertEqual((self.pipes(), self.spliced()), (0, 0))
        self.assertGreater(self.metric("l7mp_slow_path_bytes_total", 'direction="ingress"'), 300 * 60000)

    def test_not_plain(self):
        """splice: not with TLS on one side, nor through a Logger; all is whole"""
        with tempfile.TemporaryDirectory() as folder:
            certs = Certs(folder)
            certs.ca("ca")
            certs.cert("server")
            TcpServer(9001, echo)
            self.start(listener("a", "TCP", 9000, cluster("TCP", 9002, tls={"ca": certs.path("ca.pem")})),
                       listener("b", "TCP", 9002, cluster("TCP", 9001), tls=certs.pair("server")),
                       listener("c", "TCP", 9003, cluster("TCP", 9001), ingress=[inline("Logger", log_file="/dev/null")],
                                egress=[inline("Logger", log_file="/dev/null")]))
            data = data_of(4 * MB, 5)
            for port in (9000, 9003):
                with connect(port) as s:
                    self.assertEqual(both_ways(s, data), data)
            self.assertEqual((self.pipes(), self.spliced()), (0, 0))
            self.stop()

    def test_off(self):
        """splice: limits.max_pipes 0 copies everything, and can be changed while sessions run"""
        TcpServer(9001, echo)
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001)), admin={"limits": {"max_pipes": 0}})
        data = data_of(4 * MB, 6)
        with connect(9000) as s:
            def pass_on():
                sender = threading.Thread(target=s.sendall, args=(data,), daemon=True)
                sender.start()
                self.assertEqual(recv_exact(s, len(data)), data)
                sender.join()

            pass_on()
            self.assertEqual((self.pipes(), self.spliced()), (0, 0))
            for limit in (4, 0):
                self.assertEqual(self.api.post("/admin", {"admin": {"limits": {"max_pipes": limit}}})[0], 200)
                self.assertEqual(self.api.get("/admin")[1]["limits"]["max_pipes"], limit)
                before = self.spliced()
                pass_on()
                self.assertEqual(self.spliced() > before, limit > 0)
        self.assertEqual(self.api.post("/admin", {"admin": {"limits": {"max_pipes": -1}}})[0], 422)

    def test_budget(self):
        """splice: readers that stopped hold all pipes: others are copied, everybody gets everything"""
        data, stop, got = data_of(SIZE, 7), threading.Event(), []

        def serve(conn, _):
            if recv_exact(conn, 1) == b"s":
                stop.wait(120)
            got.append(recv_all(conn))
            conn.close()
        TcpServer(9001, serve, rcvbuf=65536)
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001)), admin={"limits": {"max_pipes": 2}})
        slow = [connect(9000) for _ in range(3)]
        senders = [threading.Thread(target=send_and_end, args=(s, b"s" + data), daemon=True) for s in slow]
        for t in senders:
            t.start()
        self.later(lambda: self.pipes() == 2 and self.metric("l7mp_stream_pipes_exhausted_total") > 0, 60)
        before = self.standstill()
        with connect(9000) as s:
            send_and_end(s, b"f" + data)
            self.assertEqual(recv_all(s), b"")
        self.assertEqual(self.pipes(), 2)
        self.assertEqual(self.spliced(), before)
        stop.set()
        for t, s in zip(senders, slow):
            t.join(60)
            self.assertEqual(recv_all(s), b"")
            s.close()
        self.later(lambda: len(got) == 4, 60)
        self.assertEqual(got, [data] * 4)
        self.assertGreater(self.spliced(), before)

    # ---- back-pressure ----

    def test_memory(self):
        """splice: a reader that stops holds the sender up: bounded, counted for max_memory, given back"""
        stop, got = threading.Event(), []

        def serve(conn, _):
            stop.wait(120)
            got.append(len(recv_all(conn)))
            conn.close()
        TcpServer(9001, serve, rcvbuf=65536)
        proxy = self.start(listener("l", "TCP", 9000, cluster("TCP", 9001)), build=PLAIN)
        self.metric("")  # the metrics' listener costs memory, too
        memory, peak = self.metric("l7mp_memory_bytes"), Peak(proxy)
        data = data_of(32 * MB, 8)
        socks = [connect(9000) for _ in range(4)]
        senders = [threading.Thread(target=send_and_end, args=(s, data), daemon=True) for s in socks]
        for t in senders:
            t.start()
        self.later(lambda: self.pipes() >= 4, 60)
        was = self.standstill()
        held = self.metric("l7mp_memory_bytes") - memory
        self.assertGreater(held, 4 * 4096)
        self.assertLess(held, 4 * (262144 + 65536))
        self.assertLess(was, 4 * len(data) / 2)
        stop.set()
        for t, s in zip(senders, socks):
            t.join(60)
            self.assertEqual(recv_all(s), b"")
            s.close()
        self.later(lambda: len(got) == 4, 60)
        self.assertEqual(got, [len(data)] * 4)
        self.later(lambda: not self.sessions("TCP:") and self.metric("l7mp_memory_bytes") - memory < 65536, 60)
        self.assertLess(peak.grown(), 10 * 1024)
        self.assertLessEqual(self.pipes(), IDLE)

    def test_idle(self):
        """splice: spliced bytes keep a session from being idle, and it ends when they stop"""
        TcpServer(9001, lambda conn, _: recv_all(conn))
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001), options={"idle_timeout": 2, "track": 60}))
        data = data_of(MB, 9)
        with connect(9000) as s:
            end = time.monotonic() + 5
            while time.monotonic() < end:
                s.sendall(data)
                time.sleep(0.1)
            self.assertGreater(self.spliced(), MB)
            self.assertEqual(self.session("TCP:")["status"], "CONNECTED")
            self.assertEqual(recv_all(s), b"")
        self.assertIn("idle", self.ended("TCP:", 60)["events"][-1]["message"])

    # ---- ends and errors ----

    def stalled(self, count=1, **options):
        """Sessions whose server does not read, with bytes in their pipes. Returns the clients' sockets and the server."""
        server = TcpServer(9001, lambda conn, _: threading.Event().wait(120), rcvbuf=65536)
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001), options=dict({"track": 60}, **options)))
        self.metric("")
        data = data_of(64 * MB, 10)
        socks = [connect(9000) for _ in range(count)]

        def send(s):
            try:
                s.sendall(data)
            except OSError as e:
                self.errors.append(e)
        self.errors = []
        for s in socks:
            threading.Thread(target=send, args=(s,), daemon=True).start()
        self.later(lambda: self.pipes() >= count, 60)
        self.standstill()
        return socks, server

    def nothing_left(self):
        self.later(lambda: self.pipes() <= IDLE, 60)
        self.later(lambda: not [s for s in self.sessions("TCP:") if s["status"] != "DESTROYED"], 60)

    def test_server_resets(self):
        """splice: the server resets with bytes in the pipe: the client is reset, the pipe given up, the reason told"""
        socks, server = self.stalled(4)
        fds = self.proxy.fds()
        for conn in list(server.conns):
            reset(conn)
        for s in socks:
            # The reset is told once, to the thread that asks first.
            try:
                self.assertEqual(recv_all(s), b"")
            except ConnectionResetError as e:
                self.errors.append(e)
        self.later(lambda: len([e for e in self.errors if isinstance(e, ConnectionResetError)]) == 4, 60, str(self.errors))
        for s in socks:
            s.close()
        self.nothing_left()
        for ended in self.sessions("TCP:"):
            self.assertIn("reset", json.dumps(ended["events"][-1]).lower())
        self.later(lambda: self.proxy.fds() <= fds - 4 * 2, 60, f"{fds} {self.proxy.fds()}")

    def test_client_resets(self):
        """splice: the client resets with bytes in the pipe: the server is reset"""
        got = []

        def serve(conn, _):
            go.wait(120)
            try:
                recv_all(conn)
                got.append("end")
            except ConnectionResetError:
                got.append("reset")
        go = threading.Event()
        TcpServer(9001, serve, rcvbuf=65536)
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001)))
        s = connect(9000)
        s.setblocking(False)
        data = data_of(MB, 11)
        self.later(lambda: self.fill(s, data) or self.pipes() > 0, 60)
        reset(s)
        go.set()
        self.later(lambda: got, 60)
        self.assertEqual(got, ["reset"])
        self.nothing_left()

    @staticmethod
    def fill(sock, data):
        try:
            while sock.send(data):
                pass
        except BlockingIOError:
            pass

    def test_deleted(self):
        """splice: DELETE of a session with bytes in the pipe, and of its listener: they end, nothing stays"""
        socks, server = self.stalled(3)
        first = self.sessions("TCP:")[0]["name"]
        self.assertEqual(self.api.delete(f"/sessions/{first}")[0], 200)
        self.assertEqual(self.api.delete("/listeners/l?recursive=true")[0], 200)
        for conn in list(server.conns):
            conn.close()
        for s in socks:
            s.close()
        self.nothing_left()

    def test_stopped(self):
        """splice: SIGTERM with bytes in pipes ends the proxy in order"""
        socks, _ = self.stalled(3)
        self.stop()
        for s in socks:
            s.close()

    def test_retry(self):
        """splice: a server that closes is replaced by retry: the rest goes, in order and spliced, to the next connection"""
        data, got, first = data_of(SIZE, 12), [], 3 * MB

        def serve(conn, index):
            if index == 0:
                recv_exact(conn, first)
                reset(conn)
                return
            got.append(recv_all(conn))
            conn.close()
        TcpServer(9001, serve)
        self.start(listener("l", "TCP", 9000, cluster("TCP", 9001), retry=retry("disconnect", 3, 500)))
        # Numbered blocks, so that what is missing and what came twice can be told.
        data = b"".join(b"%015d\n" % i for i in range(SIZE // 16))
        with connect(9000) as s:
            for off in range(0, len(data), MB):
                s.sendall(data[off:off + MB])
                if off == 4 * MB:
                    self.later(lambda: self.metric("l7mp_retries_total") > 0, 60)
                    before = self.spliced()
            s.shutdown(socket.SHUT_WR)
            self.assertEqual(recv_all(s), b"")
        self.later(lambda: got, 60)
        # Whole from some byte on: what was in the queue of the lost connection is gone, as ever.
        self.assertGreaterEqual(len(got[0]), len(data) - 6 * MB)
        self.assertEqual(got[0], data[len(data) - len(got[0]):])
        self.assertGreater(self.spliced(), before + MB)

    def test_access_log(self):
        """splice: the access log has the bytes that were spliced"""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "access.json")
            TcpServer(9001, echo)
            self.start(listener("l", "TCP", 9000, cluster("TCP", 9001)), admin={"access_log_path": path})
            data = data_of(4 * MB, 13)
            with connect(9000) as s:
                self.assertEqual(both_ways(s, data), data)

            def records():
                with open(path) as f:
                    return [r for r in map(json.loads, f) if r["name"].startswith("TCP:")]
            self.later(records, 60)
            self.assertEqual([records()[0][d]["bytes"] for d in ("ingress", "egress")], [len(data)] * 2)
            self.assertGreater(self.spliced(), len(data))
            self.stop()


if __name__ == "__main__":
    l7test.main()
