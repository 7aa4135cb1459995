#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=600
"""Long requests: lists that are read slowly, changes that come together, and the data beside them.

That requests are interleaved is shown by the order of events, never by
a time: an answer that has begun and that its client does not read can't end, whatever else is done meanwhile.
"""
import http.client
import json
import os
import re
import socket
import sys
import threading
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402

PLAIN = os.environ.get("L7MP_PLAIN", "build")  # memory is of the build that users run, not the sanitised one
MANY = 20000
WAIT = 60  # for what has to come: a limit for a broken build, no bound that a busy machine breaks


def udp(name, port, cluster):
    return {"name": name, "spec": {"protocol": "UDP", "address": "127.0.0.1", "port": port}, "options": {"idle_timeout": 0},
            "rules": [{"action": {"route": {"destination": {"name": cluster, "spec": {"protocol": cluster}}}}}]}


METRICS = {"name": "metrics", "spec": {"protocol": "HTTP", "address": "127.0.0.1", "port": 9100},
           "rules": [{"action": {"route": {"destination": {"name": "prometheus", "spec": {"protocol": "Prometheus"}}}}}]}
CONFIG = {"admin": {"log_level": "error"}, "listeners": [l7test.controller(), METRICS, udp("echo", 15000, "Echo"), udp("sink", 15001, "Discard")]}


class Reader:
    """GET over a connection with a small receive buffer, read only when asked to."""

    def __init__(self, path, rcvbuf=8192):
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.settimeout(WAIT)
        self.sock.connect(("127.0.0.1", 1234))
        self.sock.sendall(f"GET /api/v1{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())

    def begin(self):
        self.response = http.client.HTTPResponse(self.sock)
        self.response.begin()
        return self.response.status

    def rest(self):
        return self.response.read()

    def close(self):
        self.sock.close()


class Control(unittest.TestCase):
    def start(self, build=None):
        self.proxy = l7test.Proxy(CONFIG, "-o", "disable", build=build)
        self.addCleanup(lambda: self.proxy.alive() and self.proxy.stop())
        self.api = self.proxy.api
        self.probe = l7test.udp_socket(timeout=WAIT)
        self.addCleanup(self.probe.close)

    def echo(self, text=b"x"):
        """A datagram goes through the relay and back."""
        self.probe.sendto(text, ("127.0.0.1", 15000))
        self.assertEqual(self.probe.recv(100), text)

    def sinks(self, first, n):
        """UDP sessions from sources of their own, until all are there."""
        for i in range(first, first + n):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.bind((f"127.1.{i // 10000}.1", 20000 + i % 10000))
                s.sendto(b"x", ("127.0.0.1", 15001))
            if i % 100 == 99:
                self.echo()  # the relay has kept up
        self.assertTrue(l7test.wait_for(lambda: self.last(f"127.1.{(first + n - 1) // 10000}.1:{20000 + (first + n - 1) % 10000}-"), WAIT))

    def last(self, part):
        return any(part in s["name"] for s in self.api.get("/sessions", timeout=WAIT)[1])

    def slices(self):
        """How many loop iterations have worked on requests or changes."""
        text = l7test.Api(9100).call("GET", "/api/metrics", timeout=WAIT)[1]
        return int(re.search(r"^l7mp_control_slice_seconds_count (\d+)", text, re.M).group(1))

    def names(self, body):
        return [s["name"] for s in json.loads(body)]

    @unittest.skipUnless(os.path.exists(l7test.ROOT / PLAIN / "l7mp-proxy"), f"{PLAIN}/l7mp-proxy is not built")
    def test_slow_reader(self):
        """20,000 sessions to clients that do not read: a list costs a piece of memory, and delays no other request"""
        self.start(build=PLAIN)
        self.sinks(0, MANY)
        before = self.proxy.rss_kb()
        readers = [Reader("/sessions") for _ in range(10)]
        for r in readers:
            self.assertEqual(r.begin(), 200)
        for _ in range(200):
            self.echo()
        self.assertEqual(self.api.get("/admin")[0], 200)
        self.assertEqual(len(self.api.get("/listeners")[1]), 4)
        grown = self.proxy.rss_kb() - before
        before_slices = self.slices()
        body = readers[0].rest()
        slices = self.slices() - before_slices
        self.assertGreater(slices, len(body) // (1 << 20), "a list of megabytes is made in many turns, between which datagrams pass")
        names = self.names(body)
        print(f"# {len(body) // 1024} KiB of {len(names)} sessions; ten lists that are not read cost {grown} KiB")
        self.assertEqual(len(set(names)), len(names))
        self.assertGreaterEqual(len(names), MANY)
        self.assertLess(grown, len(body) // 1024, "less than one of the ten lists")
        for r in readers[1:]:
            r.close()
        self.echo()
        self.assertTrue(l7test.wait_for(lambda: len(self.api.get("/sessions?limit=1")[1]) == 1, WAIT))

    def test_churn(self):
        """sessions that begin and end while they are listed: none twice, none left out that was there all the time"""
        self.start()
        self.sinks(0, 1500)
        r = Reader("/sessions")
        self.assertEqual(r.begin(), 200)
        first = self.names(json.dumps(self.api.get("/sessions?limit=300")[1]))
        gone = [n for n in first if n.startswith("UDP:127.1.")][::3]
        for name in gone:
            self.assertEqual(self.api.delete(f"/sessions/{name}")[0], 200)
        self.sinks(1500, 200)
        names = self.names(r.rest())
        r.close()
        self.assertEqual(len(set(names)), len(names))
        stayed = {n for n in self.names(json.dumps(self.api.get("/sessions")[1])) if ":15001-" in n}
        listed = set(names)
        early = {n for n in stayed if int(n.split(":")[2].split("-")[0]) < 21500}
        self.assertEqual(early - listed, set(), "was there from the beginning to the end")
        self.assertEqual({n for n in listed if n in stayed} - early, set(), "began after the list")

    def test_pages(self):
        """pages by limit, after and Link show each session once, also when some end between two pages"""
        self.start()
        self.sinks(0, 500)
        path, seen, pages = "/sessions?limit=64", [], 0
        while path:
            status, body = self.api.get(path)
            self.assertEqual(status, 200, body)
            self.assertLessEqual(len(body), 64)
            names = [s["name"] for s in body]
            seen += names
            pages += 1
            link = self.api.last_headers.get("link", "")
            if pages == 2:
                self.assertEqual(self.api.delete(f"/sessions/{names[-1]}")[0], 200)
            self.assertTrue(not link or link.endswith('>; rel="next"'), link)
            path = link[1:link.index(">")][len("/api/v1"):] if link else None
        self.assertEqual(pages, 8)
        self.assertEqual(len(set(seen)), len(seen))
        self.assertEqual(len([n for n in seen if ":15001-" in n]), 500)

    def test_clients_that_go(self):
        """clients that go in the middle of an answer, or before it, leave nothing behind"""
        self.start()
        self.sinks(0, 1000)
        fds = self.proxy.fds()
        for i in range(60):
            r = Reader(("/sessions", "/config", "/config?recursive=true", "/openapi.json")[i % 4])
            if i % 3:
                self.assertEqual(r.begin(), 200)
            r.close()
        self.echo()
        self.assertTrue(l7test.wait_for(lambda: not any(
            n.startswith("HTTP") for n in [s["name"] for s in self.api.get("/sessions")[1]][:-1]), WAIT))
        self.assertTrue(l7test.wait_for(lambda: self.proxy.fds() <= fds + 2, WAIT))

    def test_changes_together(self):
        """changes that come together are made one after the other, each whole; GET shows none half made"""
        self.start()
        answers, torn = [], []

        def change(n):
            api = l7test.Api()
            for i in range(10):
                answers.append(api.post("/routes", {"route": {"name": f"r{n}-{i}", "destination": f"c{n}-{i}"}}, timeout=WAIT)[0])

        def replace(n):
            api = l7test.Api()
            for i in range(5):
                answers.append(api.post("/clusters", {"cluster": {
                    "name": f"pair{n}", "spec": {"protocol": "UDP", "port": 1}, "endpoints": [
                        {"name": f"pair{n}-a", "spec": {"address": "1.1.1.1"}}, {"name": f"pair{n}-b", "spec": {"address": "1.1.1.1"}}]}},
                    timeout=WAIT)[0])
                config = api.get("/config", timeout=WAIT)[1]
                clusters = {c["name"]: c for c in config["clusters"]}
                names = {e["name"] for e in config["endpoints"]}
                torn.extend(c for c in clusters.values() for e in c["endpoints"] if e["name"] not in names)
                answers.append(api.delete(f"/clusters/pair{n}?recursive=true", timeout=WAIT)[0])
        threads = [threading.Thread(target=f, args=(n,)) for n in range(8) for f in (change, replace)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(set(answers), {200})
        self.assertEqual(torn, [])
        routes = {r["name"] for r in self.api.get("/routes")[1]}
        self.assertLessEqual({f"r{n}-{i}" for n in range(8) for i in range(10)}, routes)
        self.assertEqual([c for c in self.api.get("/clusters")[1] if c["name"].startswith("pair")], [])
        self.echo()

    def test_if_match(self):
        """of clients that read, alter and write back together, with If-Match none loses what another wrote"""
        self.start()
        self.assertEqual(self.api.put("/routes/counter", {"route": {"destination": "c", "retry": {"num_retries": 0}}})[0], 200)

        def count():
            api = l7test.Api()
            for _ in range(5):
                status = 412
                while status == 412:
                    route = api.get("/routes/counter", timeout=WAIT)[1]
                    route["retry"]["num_retries"] += 1
                    status = api.put("/routes/counter", route, headers={"If-Match": api.last_headers["etag"]}, timeout=WAIT)[0]
                self.assertEqual(status, 200)
        threads = [threading.Thread(target=count) for _ in range(6)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(self.api.get("/routes/counter")[1]["retry"]["num_retries"], 30)

    def test_reload_beside_changes(self):
        """SIGHUP and changes over REST wait for each other; the last one wins as a whole"""
        self.start()
        for i in range(5):
            threads = [threading.Thread(target=self.api_post_route, args=(i, n)) for n in range(4)]
            for t in threads:
                t.start()
            self.proxy.hup()
            for t in threads:
                t.join()
            self.proxy.wait_ready()  # also takes what the proxy tells its supervisor: its socket holds ten
        self.proxy.hup()
        self.proxy.wait_ready()
        self.assertTrue(l7test.wait_for(lambda: self.api.get("/config")[0] == 200 and not [
            r for r in self.api.get("/routes")[1] if r["name"].startswith("extra")], WAIT))
        self.echo()

    def api_post_route(self, i, n):
        self.assertEqual(l7test.Api().post("/routes", {"route": {"name": f"extra{i}-{n}", "destination": "c"}}, timeout=WAIT)[0], 200)

    def test_delete_with_sessions(self):
        """a listener with 3,000 sessions is deleted: when the answer comes they all end, others continue"""
        self.start()
        self.sinks(0, 3000)
        self.assertEqual(self.api.delete("/listeners/sink?recursive=true", timeout=WAIT)[0], 200)
        left = [s for s in self.api.get("/sessions", timeout=WAIT)[1]
                if s["source"]["listener"] == "sink" and s["status"] not in ("FINALIZING", "DESTROYED")]
        self.assertEqual(left, [])
        self.echo()
        self.assertTrue(l7test.wait_for(lambda: not self.last(":15001-"), WAIT))

    def test_post_beside_delete(self):
        """changes that come while a listener's sessions are ended wait for it, or are refused: the state is that of some order"""
        self.start()
        self.echo()
        for i in range(4):
            self.sinks(2000 * i, 2000)
            answers = {}

            def call(key, method, path, body=None):
                answers[key] = l7test.Api().call(method, path, body, timeout=WAIT)[0]  # noqa: B023
            threads = [threading.Thread(target=call, args=a) for a in (
                ("delete", "DELETE", "/listeners/sink?recursive=true"), ("post", "POST", "/listeners", {"listener": udp("sink", 15001, "Discard")}),
                ("again", "DELETE", "/listeners/sink?recursive=true"), ("route", "PUT", f"/routes/r{i}", {"destination": "c"}))]
            for t in threads:
                t.start()
                self.echo()
                if i % 2:
                    self.assertEqual(self.api.get("/config", timeout=WAIT)[0], 200)
            for t in threads:
                t.join()
            self.assertIn(answers["post"], (200, 409))
            self.assertEqual(answers["route"], 200)
            deleted = sorted((answers["delete"], answers["again"]))
            there = self.api.get("/listeners/sink")[0]
            # Of two deletions and one addition: 409 and 404 say who came too early.
            self.assertIn((*deleted, answers["post"], there), {
                (200, 200, 200, 404), (200, 404, 200, 200), (200, 404, 409, 404)})
            self.assertTrue(l7test.wait_for(lambda: not self.last("-127.0.0.1:15001"), WAIT))
            if there == 404:
                self.assertEqual(self.api.post("/listeners", {"listener": udp("sink", 15001, "Discard")})[0], 200)
            self.echo()

    def test_big_config(self):
        """a config of 3 MiB as YAML is taken whole while datagrams pass; one bad object in it, and nothing is"""
        self.start()
        lines = ["config:\n", "  listeners:\n"]
        lines += [f"    - {json.dumps(x)}\n" for x in CONFIG["listeners"]]
        lines += ["  clusters:\n"]
        n = 25000
        lines += [f"    - {{name: c{i}, spec: {{protocol: UDP, port: 2000}}, endpoints: [{{name: e{i}, spec: {{address: 10.1.2.3}}}}]}}\n"
                  for i in range(n)]
        text = "".join(lines)
        status = []
        for body, expected in ((text + "    - {name: 5}\n", 422), (text, 200)):
            t = threading.Thread(target=lambda b=body: status.append(l7test.Api().call(
                "POST", "/config", b.encode(), "text/yaml", timeout=10 * WAIT)[0]))
            t.start()
            while t.is_alive():
                self.echo()
            t.join()
            self.assertEqual(status.pop(), expected)
            self.assertEqual(len(self.api.get("/endpoints/e7")) and self.api.get("/endpoints/e7")[0], 404 if expected == 422 else 200)
        reader = Reader("/clusters")
        self.assertEqual(reader.begin(), 200)
        t = threading.Thread(target=lambda: status.append(l7test.Api().post("/config", CONFIG, timeout=10 * WAIT)[0]))
        t.start()
        t.join()
        self.assertEqual(status.pop(), 200)
        self.assertGreaterEqual(len(json.loads(reader.rest())), n, "what was there when it was asked for")
        reader.close()
        self.assertEqual(self.api.get("/endpoints/e7")[0], 404)
        self.echo()


if __name__ == "__main__":
    l7test.main()
