#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""How HTTP connections end that are idle, answering or waiting when their listener is deleted or replaced, their session
is deleted, or the proxy stops; and how upstreams end answers."""
import socket
import struct
import threading
import time

import l7test
from httpraw import Client, Malformed, Upstream
from traffic import Case, TcpServer, cluster, inline, listener, recv_all, reset

REQUEST = b"POST /r HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"


class Ends(Case):
    def gone(self):
        self.later(lambda: not self.sessions(), 30)

    def idle(self, port, count):
        clients = [Client(port) for _ in range(count)]
        for c in clients:
            c.send(REQUEST)
            self.assertEqual(c.answer().status, 200)
        return clients

    def test_delete_listener_idle(self):
        """http ends: a deleted listener's idle connections are closed"""
        self.start(listener("http", "HTTP", 9000, inline("Echo"), address="127.0.0.1"))
        clients = self.idle(9000, 20)
        before = self.proxy.fds()
        self.assertEqual(self.api.delete("/listeners/http?recursive=true")[0], 200)
        for c in clients:
            self.assertTrue(c.at_end())
        self.later(lambda: self.proxy.fds() <= before - 20, 30)

    def test_delete_listener_running(self):
        """http ends: a request that runs when its listener is deleted is answered, then the connection ends"""
        go = threading.Event()

        def serve(conn, _):
            recv_all(conn)
            go.wait(30)
            conn.sendall(b"late")
            conn.close()
        server = TcpServer(9001, serve)
        self.start(listener("http", "HTTP", 9000, cluster("TCP", 9001), address="127.0.0.1"))
        with Client(9000) as c:
            c.send(REQUEST)
            self.later(lambda: server.count == 1)
            self.assertEqual(self.api.delete("/listeners/http")[0], 200)
            go.set()
            answer = c.answer()
            self.assertEqual(answer[::4], (200, b"late"))
            self.assertTrue(c.at_end())
        self.gone()

    def test_replace_listener(self):
        """http ends: a listener is replaced under 20 idle connections and 200 requests; no request fails"""
        self.start(listener("http", "HTTP", 9000, inline("Echo"), address="127.0.0.1"))
        clients = self.idle(9000, 20)
        wrong, stop = [], threading.Event()

        def ask():
            while not stop.is_set():
                try:
                    with Client(9000) as c:
                        c.send(REQUEST)
                        answer = c.answer()
                        if not answer or answer[::4] != (200, b"body"):
                            wrong.append(answer)
                except (OSError, Malformed) as e:
                    wrong.append(e)
        askers = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
        for t in askers:
            t.start()
        for i in range(10):
            spec = listener("http", "HTTP", 9000, inline("Echo"), address="127.0.0.1", options={"track": i})
            self.assertEqual(self.api.put("/listeners/http", {"listener": spec})[0], 200)
        stop.set()
        for t in askers:
            t.join()
        self.assertEqual(wrong, [])
        for c in clients:
            c.sock.close()
        self.gone()

    def test_delete_session(self):
        """http ends: a deleted session's request is not answered as if it were whole; the upstream sees its end"""
        seen = []

        def serve(conn, _):
            try:
                conn.sendall(b"begin")
                while conn.recv(100):
                    pass
                seen.append("end")
            except ConnectionResetError:
                seen.append("reset")
        TcpServer(9001, serve)
        self.start(listener("http", "HTTP", 9000, cluster("TCP", 9001), address="127.0.0.1"))
        with Client(9000) as c:
            c.send(b"POST /r HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nbody")
            name = self.later(lambda: self.sessions("HTTP:"))[0]["name"]
            status, *_ = c.head()
            self.assertEqual(status, 200)
            self.assertEqual(self.api.delete("/sessions/" + name)[0], 200)
            with self.assertRaises(Malformed):
                c.chunks()
        self.gone()
        self.later(lambda: len(seen) == 1)

    def test_stop(self):
        """http ends: SIGTERM with idle, half-sent, waiting and answering connections; it stops in order"""
        server = TcpServer(9001, lambda conn, _: time.sleep(30))
        self.start(listener("http", "HTTP", 9000, inline("Echo"), address="127.0.0.1"),
                   listener("wait", "HTTP", 9002, cluster("TCP", 9001), address="127.0.0.1"))
        keep = self.idle(9000, 20)
        for _ in range(20):
            half, waiting = Client(9000), Client(9002)
            half.send(b"GET / HTTP/1.1\r\nHos")
            waiting.send(REQUEST)
            keep += [half, waiting]
        self.later(lambda: server.count == 20)
        self.stop()  # asserts exit status 0 and closed handles
        for c in keep:
            self.assertTrue(c.answer() is None or c.at_end())

    def test_answer_ends(self):
        """http ends: answers that end with FIN are whole; with RST after the first byte they are broken off, before it 502"""
        how = []

        def serve(conn, index):
            recv_all(conn)
            first, last = how[index]
            conn.sendall(first)
            if first:
                time.sleep(0.3)
            if last == "reset":
                reset(conn)
            else:
                conn.close()
        TcpServer(9001, serve)
        self.start(listener("http", "HTTP", 9000, cluster("TCP", 9001), address="127.0.0.1"))
        for first, last, want in ((b"", "close", (200, b"")), (b"abc", "close", (200, b"abc")), (b"", "reset", (502, None)),
                                  (b"abc", "reset", None)):
            how.append((first, last))
            with Client(9000) as c:
                c.send(REQUEST)
                if want is None:
                    with self.assertRaises(Malformed):
                        c.answer()
                    continue
                answer = c.answer()
                self.assertEqual(answer.status, want[0], (first, last))
                if want[1] is not None:
                    self.assertEqual(answer.body, want[1])
                if last == "close":
                    how.append((b"again", "close"))
                    c.send(REQUEST)
                    self.assertEqual(c.answer().body, b"again")
        self.gone()

    def test_client_resets(self):
        """http ends: clients that reset at any place leave nothing behind"""
        upstream = Upstream()
        self.start(listener("http", "HTTP", 9000, upstream.cluster(), address="127.0.0.1"))
        before = self.proxy.fds()
        whole = b"POST /r HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x\r\ndefg\r\n0\r\nT: t\r\n\r\n"
        for n in range(1, len(whole), 1 if l7test.FULL else 3):
            c = Client(9000)
            c.send(whole[:n])
            c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            c.sock.close()
        self.gone()
        self.later(lambda: self.proxy.fds() <= before, 30)
        self.assertTrue(all(not s.complete for s in upstream.take()))

    def test_descriptors(self):
        """http ends: 2,000 requests, each on a connection of its own, some ended by us: no descriptor stays"""
        self.start(listener("http", "HTTP", 9000, inline("Echo"), address="127.0.0.1"))
        before = self.proxy.fds()
        for i in range(2000 if l7test.FULL else 400):
            with Client(9000) as c:
                c.send(REQUEST if i % 4 else REQUEST.replace(b"Host", b"Host "))
                self.assertEqual(c.answer().status, 200 if i % 4 else 400)
        self.gone()
        self.later(lambda: self.proxy.fds() <= before, 30)


if __name__ == "__main__":
    l7test.main()
