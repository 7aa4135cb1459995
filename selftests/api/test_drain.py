#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=300
"""Draining: who is refused and who continues, its deadline, its end, SIGTERM with drain_timeout, and taking it back."""
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402
import traffic  # noqa: E402
import wsraw  # noqa: E402
from traffic import inline, listener  # noqa: E402

UDP, TCP, HTTP, WS = 15000, 15001, 15002, 15003


def all_listeners():
    return [listener("udp", "UDP", UDP, inline("Echo"), options={"track": 60}), listener("tcp", "TCP", TCP, inline("Echo"), options={"track": 60}),
            listener("http", "HTTP", HTTP, inline("Echo")), listener("ws", "WebSocket", WS, inline("Echo"))]


def closed(port, host="127.0.0.1"):
    """Nobody listens there."""
    try:
        socket.create_connection((host, port), 60).close()
    except ConnectionRefusedError:
        return True
    return False


def talk(sock, text=b"hello"):
    sock.sendall(text)
    return traffic.recv_exact(sock, len(text)) == text


class Base(traffic.Case):
    def begin(self, *listeners, **admin):
        self.start(*(listeners or all_listeners()), admin=dict({"server": {"port": 1235}}, **admin))

    def probe(self, name):
        conn = http.client.HTTPConnection("127.0.0.1", 1235, timeout=60)
        conn.request("GET", name)
        status = conn.getresponse().status
        conn.close()
        return status

    def state(self):
        status, answer = self.api.get("/drain")
        self.assertEqual(status, 200, answer)
        return answer

    def drain(self, **body):
        status, answer = self.api.post("/drain", body)
        self.assertEqual(status, 200, answer)
        return answer

    def gauge(self):
        """l7mp_draining, as the admin server has it."""
        conn = http.client.HTTPConnection("127.0.0.1", 1235, timeout=60)
        conn.request("GET", "/metrics")
        text = conn.getresponse().read().decode()
        conn.close()
        return int(re.search(r"^l7mp_draining (\d+)", text, re.M)[1])

    def udp(self):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.settimeout(60)
        s.connect(("127.0.0.1", UDP))
        self.addCleanup(s.close)
        return s

    def tcp(self, port=TCP):
        s = traffic.connect(port)
        self.addCleanup(s.close)
        return s


class Drain(Base):
    def test_protocols(self):
        """UDP, TCP, HTTP and WebSocket: sessions continue, new ones are refused, HTTP connections end; DELETE undoes it"""
        self.begin()
        udp, tcp, ws = self.udp(), self.tcp(), wsraw.connect(WS)
        self.addCleanup(ws.close)
        web = http.client.HTTPConnection("127.0.0.1", HTTP, timeout=60)
        self.addCleanup(web.close)

        def everybody():
            udp.send(b"ping")
            self.assertEqual(udp.recv(100), b"ping")
            self.assertTrue(talk(tcp))
            ws.send(1, b"text")
            self.assertEqual(ws.message()[1], b"text")

        def request():
            web.request("POST", "/", b"body")
            answer = web.getresponse()
            self.assertEqual((answer.status, answer.read()), (200, b"body"))
            return answer.getheader("Connection")

        everybody()
        self.assertIsNone(request())
        self.later(lambda: len(self.sessions()) == 3)
        self.assertEqual((self.state()["state"], self.probe("/readyz")), ("serving", 200))

        answer = self.drain()
        self.assertEqual((answer["state"], answer["sessions"], answer["by"], answer["timeout"]), ("draining", 3, "api", 0))
        self.assertEqual(answer["listeners"], {"closed": 3, "open": 2})
        self.assertEqual((self.probe("/readyz"), self.probe("/healthz")), (503, 200))
        for port in (TCP, HTTP, WS):
            self.assertTrue(closed(port), port)
        for _ in range(3):
            everybody()
        late = self.udp()
        late.send(b"new")
        self.later(lambda: self.state()["refused"] == 1)
        self.assertTrue(traffic.silent(late))
        self.assertEqual((self.state()["sessions"], self.gauge()), (3, 1))
        # The connection is there: it is served once more.
        self.assertEqual(request(), "close")
        self.assertTrue(closed(HTTP))

        tcp.close()
        ws.close()
        self.later(lambda: self.state()["sessions"] == 1)
        self.assertEqual(self.state()["state"], "draining")
        for s in self.sessions("UDP"):
            self.api.delete(f"/sessions/{s['name']}")
        self.later(lambda: self.state()["state"] == "drained")
        self.later(lambda: "drained after" in self.proxy.stderr())
        elapsed = self.state()["elapsed"]
        time.sleep(0.2)
        self.assertEqual(self.state()["elapsed"], elapsed)

        self.assertEqual(self.api.delete("/drain")[0], 200)
        self.assertEqual((self.state()["state"], self.probe("/readyz")), ("serving", 200))
        self.assertTrue(talk(self.tcp()))
        late.send(b"again")
        self.assertEqual(late.recv(100), b"again")
        self.assertIsNone(request())
        self.assertEqual((self.drops("limit"), self.gauge()), (1, 0))
        self.assertEqual(self.metric("l7mp_refusals_total", 'limit="draining"'), 1)

    def test_deadline(self):
        """after the time what is left is ended, the reason is told, and the proxy continues"""
        self.begin()
        tcp = self.tcp()
        self.assertTrue(talk(tcp))
        began = time.monotonic()
        answer = self.drain(timeout=0.5)
        self.assertLessEqual(answer["remaining"], 0.5)
        self.assertEqual(tcp.recv(10), b"")
        self.assertGreaterEqual(time.monotonic() - began, 0.45)
        self.later(lambda: self.state()["state"] == "drained")
        self.assertEqual(self.state()["sessions_ended_at_deadline"], 1)
        self.assertIn("time for draining is over", str(self.ended("TCP")["events"]))

    def test_thousand(self):
        """1,000 sessions: all continue until the deadline, and the log has the events in their order"""
        self.begin()
        peers = [self.udp() for _ in range(1000)]

        def everybody(text):
            for s in peers:
                s.send(text)
            return all(s.recv(100) == text for s in peers)

        self.assertTrue(everybody(b"before"))
        self.assertEqual(self.state()["sessions"], 1000)
        self.drain(timeout=0)
        self.assertTrue(everybody(b"during"))
        self.assertEqual((self.state()["sessions"], self.state()["refused"], self.probe("/readyz")), (1000, 0, 503))
        self.drain(timeout=0.2)
        self.later(lambda: self.state()["state"] == "drained")
        end = self.state()
        self.assertEqual((end["sessions_at_start"], end["sessions_ended_at_deadline"], end["sessions"]), (1000, 1000, 0))
        peers[0].send(b"after")
        self.later(lambda: self.state()["refused"] == 1)
        self.later(lambda: "drained after" in self.proxy.stderr())
        text = self.proxy.stderr()
        order = [text.find(words) for words in ("new sessions are refused, 3 of 5", "1000 of 1000 sessions are left, no deadline", "at most 0.2 s more",
                                                "time of 0.2 s is over: 1000 sessions", "drained after")]
        self.assertTrue(-1 not in order and order == sorted(order), text)

    def test_set_anew(self):
        """another POST sets the time; bad bodies are refused and change nothing"""
        self.begin(drain_timeout=1000)
        tcp = self.tcp()
        self.assertTrue(talk(tcp))
        for body, status in (({"timeout": -1}, 422), ({"timeout": "x"}, 422), ({"timeout": 86401}, 422), ({"time": 1}, 422), ([], 422)):
            self.assertEqual(self.api.post("/drain", body)[0], status, body)
        self.assertEqual(self.state()["state"], "serving")
        self.assertEqual(self.api.call("POST", "/drain")[1]["timeout"], 1000)
        self.assertEqual(self.drain(timeout=0)["timeout"], 0)
        self.assertNotIn("remaining", self.state())
        self.assertTrue(talk(tcp))
        self.drain(timeout=0.1)
        self.assertEqual(tcp.recv(10), b"")

    def test_changes(self):
        """listeners that a change brings while it drains are opened with the others"""
        tmp = tempfile.TemporaryDirectory(prefix="l7mp-test-")
        self.addCleanup(tmp.cleanup)
        path = os.path.join(tmp.name, "sock")
        self.begin(listener("tcp", "TCP", TCP, inline("Echo")), listener("unix", "UnixDomainSocket", None, inline("Echo"), filename=path),
                   listener("free", "TCP", 0, inline("Echo"), address="127.0.0.1"),
                   listener("json", "JSONSocket", None, inline("Echo"), transport={"protocol": "TCP", "port": TCP + 20}))
        free = self.api.get("/listeners/free")[1]["spec"]["port"]
        self.drain()
        self.assertEqual(self.api.post("/listeners", {"listener": listener("late", "TCP", TCP + 10, inline("Echo"))})[0], 200)
        self.assertEqual(self.api.put("/listeners/tcp", {"listener": listener("tcp", "TCP", TCP, inline("Discard"))})[0], 200)
        with socket.socket(socket.AF_UNIX) as s:
            self.assertRaises(ConnectionRefusedError, s.connect, path)
        for port in (TCP, TCP + 10, TCP + 20, free):
            self.assertTrue(closed(port), port)
        self.assertEqual(self.api.delete("/drain")[0], 200)
        self.tcp(TCP + 20)
        for port in (TCP + 10, free):
            self.assertTrue(talk(self.tcp(port)), port)
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(60)
            s.connect(path)
            self.assertTrue(talk(s))
        self.tcp().sendall(b"discarded")
        self.assertEqual(self.api.delete("/listeners/late")[0], 200)
        self.assertTrue(closed(TCP + 10))

    def test_port_taken(self):
        """a port that another process took meanwhile: nothing is opened, and it says which"""
        self.begin(listener("a", "TCP", TCP, inline("Echo")), listener("b", "TCP", TCP + 1, inline("Echo")))
        self.drain()
        with socket.create_server(("127.0.0.1", TCP + 1)):
            status, answer = self.api.delete("/drain")
            self.assertGreaterEqual(status, 400)
            self.assertIn("in use", str(answer))
            self.assertIn("'b'", str(answer))
            self.assertTrue(closed(TCP))
            self.assertEqual((self.state()["state"], self.probe("/readyz")), ("drained", 503))
        self.assertEqual(self.api.delete("/drain")[0], 200)
        self.assertTrue(talk(self.tcp()) and talk(self.tcp(TCP + 1)))

    def test_operator(self):
        """an HTTP listener that leads to the API, if only by another rule list, stays open and refuses the rest"""
        mixed = listener("mixed", "HTTP", HTTP, inline("L7mpController"), match={"op": "starts", "path": "/HTTP/url/path", "value": "/api/"})
        mixed["rules"] = [{"action": {"apply": "inner"}}, {"action": {"route": {"destination": inline("Echo")}}}]
        self.begin(listener("tcp", "TCP", TCP, inline("Echo")))
        rule = {"match": {"op": "starts", "path": "/HTTP/url/path", "value": "/api/"}, "action": {"route": {"destination": "l7mp-controller"}}}
        self.assertEqual(self.api.post("/rulelists", {"rulelist": {"name": "inner", "rules": [rule]}})[0], 200)
        self.assertEqual(self.api.post("/listeners", {"listener": mixed})[0], 200)
        web = l7test.Api(HTTP)
        self.assertEqual(web.call("GET", "/api/v1/drain")[0], 200)
        conn = http.client.HTTPConnection("127.0.0.1", HTTP, timeout=60)
        self.addCleanup(conn.close)

        def echo():
            conn.request("POST", "/other", b"x")
            answer = conn.getresponse()
            answer.read()
            return answer.status
        self.assertEqual(echo(), 200)
        self.drain()
        self.assertTrue(closed(TCP))
        self.assertEqual(web.get("/drain")[1]["listeners"], {"closed": 1, "open": 2})
        self.assertEqual(echo(), 503)
        self.assertEqual(web.delete("/drain")[0], 200)
        self.assertEqual(echo(), 200)


class Sigterm(Base):
    def draining(self):
        self.proxy.process.send_signal(signal.SIGTERM)
        self.later(lambda: "SIGTERM: new sessions are refused" in self.proxy.stderr())

    def ends(self):
        """The proxy ends by itself, in order."""
        self.assertEqual(self.proxy.process.wait(60 * l7test.SLOW), 0, self.proxy.stderr())

    def test_protocols(self):
        """SIGTERM with drain_timeout: the process ends with its last session, and tells its supervisor"""
        self.begin(drain_timeout=3600)
        udp, tcp = self.udp(), self.tcp()
        udp.send(b"ping")
        self.assertEqual((udp.recv(100), talk(tcp)), (b"ping", True))
        self.draining()
        told = self.proxy.notified()
        self.assertEqual(told.get("STOPPING"), "1", told)
        self.assertGreater(int(told["EXTEND_TIMEOUT_USEC"]), 3600 * 1000000)
        self.assertEqual((self.probe("/readyz"), self.state()["by"]), (503, "SIGTERM"))
        self.assertTrue(closed(TCP))
        self.assertEqual(self.api.delete("/drain")[0], 503)
        tcp.close()
        self.later(lambda: self.state()["sessions"] == 1)
        udp.send(b"pong")
        self.assertEqual((udp.recv(100), self.proxy.alive()), (b"pong", True))
        self.assertEqual(self.api.delete(f"/sessions/{self.session('UDP')['name']}")[0], 200)
        self.ends()
        self.assertRegex(self.proxy.stderr(), r"drained after .*: no session is left")

    def test_deadline(self):
        """the time is over: what is left is ended, and the process"""
        self.begin(drain_timeout=1)
        tcp = self.tcp()
        self.assertTrue(talk(tcp))
        began = time.monotonic()
        self.draining()
        self.ends()
        self.assertGreaterEqual(time.monotonic() - began, 0.9)
        self.assertIn("the time of 1 s is over: 1 sessions are ended", self.proxy.stderr())
        self.assertEqual(tcp.recv(10), b"")

    def test_second_signal(self):
        """a second SIGTERM, or SIGINT, ends the sessions at once, in order"""
        for number in (signal.SIGTERM, signal.SIGINT):
            self.begin(drain_timeout=3600)
            tcp = self.tcp()
            self.assertTrue(talk(tcp))
            self.draining()
            self.proxy.process.send_signal(number)
            self.ends()
            self.assertIn(f"{number.name}: stopping", self.proxy.stderr())
            tcp.close()
            self.stop()

    def test_after_post(self):
        """SIGTERM while it drains already: from then on it ends when it has"""
        self.begin(drain_timeout=3600)
        tcp = self.tcp()
        self.assertTrue(talk(tcp))
        self.drain(timeout=0)
        self.draining()
        self.assertTrue(talk(tcp))
        tcp.close()
        self.ends()



class Ctl(Base):
    def ctl(self, *args, status=0):
        r = subprocess.run([l7test.program("l7mpctl"), *args], capture_output=True, text=True, timeout=120)
        self.assertEqual(r.returncode, status, r)
        return r.stdout + r.stderr

    def test_protocols(self):
        """l7mpctl drain, drain show, drain cancel, and --wait until the last session has ended"""
        self.begin()
        self.assertIn("serving", self.ctl("drain", "show"))
        tcp = self.tcp()
        self.assertTrue(talk(tcp))
        self.assertEqual(self.ctl("drain", "--timeout", "0"), "")
        self.assertIn("draining", self.ctl("drain", "show"))
        waiting = subprocess.Popen([l7test.program("l7mpctl"), "drain", "--wait", "-i", "0.1", "--timeout", "900"],
                                   stdout=subprocess.PIPE, text=True)
        self.assertRegex(waiting.stdout.readline(), "draining: 1 of 1 sessions are left, at most (900|899) s more")
        self.assertTrue(talk(tcp))
        tcp.close()
        self.assertIn("drained: 0 of 1", waiting.communicate(timeout=120)[0])
        self.assertEqual(waiting.returncode, 0)
        self.assertEqual(self.ctl("drain", "cancel"), "")
        self.assertTrue(talk(self.tcp()))
        self.assertIn("expected", self.ctl("drain", "now", status=2))
        self.assertIn("expected", self.ctl("drain", "show", "--wait", status=2))
        self.assertIn("1..86400", self.ctl("--timeout", "0", "version", status=2))



if __name__ == "__main__":
    l7test.main()
