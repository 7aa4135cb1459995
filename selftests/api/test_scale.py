#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=240 timeout_full=900
"""Thousands of objects over REST and back: memory, time. Parallel clients get correct answers."""
import http.client
import json
import os
import resource
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402

PLAIN = os.environ.get("L7MP_PLAIN", "build")  # figures are of the build that users run, not the sanitised one
COUNT = 10000 if l7test.FULL else 1000
CLIENTS = 200


class Client:
    """One connection that is kept."""

    def __init__(self):
        self.conn = http.client.HTTPConnection("127.0.0.1", 1234, timeout=60)
        self.used = time.monotonic()

    def call(self, method, path, body=None):
        if time.monotonic() - self.used > 0.2:  # the server closes connections that are idle
            self.conn.close()
        data = json.dumps(body) if body is not None else None
        self.conn.request(method, "/api/v1" + path, data, {"Content-Type": "application/json"})
        r = self.conn.getresponse()
        text = r.read()
        self.used = time.monotonic()
        return r.status, json.loads(text)


class Scale(unittest.TestCase):
    def setUp(self):
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)

    def settled(self, proxy, limit):
        """RSS once it is at or below limit, or after a minute."""
        l7test.wait_for(lambda: proxy.rss_kb() <= limit, 60, 0.2)
        return proxy.rss_kb()

    def round(self, api, proxy, count, tcp=None):
        """Adds and deletes count of each, of TCP listeners at most `tcp`; the proxy's processor time for each tenth."""
        tcp = self.tcp if tcp is None else tcp
        tenths = []
        for i in range(count):
            if i % (count // 10) == 0:
                tenths.append(proxy.cpu_seconds())
            route = {"destination": f"c{i}"}
            for path, body in (("/clusters", {"cluster": {"name": f"c{i}", "spec": {"protocol": "TCP", "port": 1},
                                                          "endpoints": [{"spec": {"address": "127.0.0.1"}}]}}),
                               ("/listeners", {"listener": {"name": f"u{i}", "spec": {"protocol": "UDP", "address": "127.0.0.1", "port": 0},
                                                            "rules": [{"action": {"route": route}}]}})):
                status, answer = api.call("POST", path, body)
                self.assertEqual(status, 200, (i, answer))
            if i < tcp:
                status, answer = api.call("POST", "/listeners", {"listener": {
                    "name": f"t{i}", "spec": {"protocol": "TCP", "address": "127.0.0.1", "port": 0}, "rules": [{"action": {"route": route}}]}})
                self.assertEqual(status, 200, (i, answer))
        tenths.append(proxy.cpu_seconds())
        if count == COUNT:
            status, config = api.call("GET", "/config")
            self.assertEqual(len(config["clusters"]), count + 1)
            self.assertEqual(len(config["listeners"]), count + min(tcp, count) + 1)
            ports = {x["spec"]["port"] for x in api.call("GET", "/listeners")[1] if x["name"][0] == "u"}
            self.assertEqual(len(ports), count)
        down = [proxy.cpu_seconds()]
        for i in range(count):
            for kind, name in (("listeners", f"u{i}"), ("listeners", f"t{i}"), ("clusters", f"c{i}")):
                if name[0] != "t" or i < tcp:
                    status, answer = api.call("DELETE", f"/{kind}/{name}?recursive=true")
                    self.assertEqual(status, 200, (name, answer))
            if (i + 1) % (count // 10) == 0:
                down.append(proxy.cpu_seconds())
        return [b - a for a, b in zip(tenths, tenths[1:])], [b - a for a, b in zip(down, down[1:])]

    @unittest.skipUnless(os.path.exists(l7test.ROOT / PLAIN / "l7mp-proxy"), f"{PLAIN}/l7mp-proxy is not built")
    def test_trimmed_at_the_peak(self):
        """memory comes back after a large config is deleted, though it was trimmed while that config was there"""
        def trims():
            return p.stderr().count("memory given back")
        with l7test.Proxy(None, "-l", "verbose", build=PLAIN) as p:
            api = Client()
            self.round(api, p, 10, tcp=0)
            before = p.rss_kb()
            for n in range(100):
                rules = [{"match": {"op": "test", "path": "/IP/src_addr", "value": f"10.0.{n}.{i}"},
                          "action": {"route": {"destination": {"spec": {"protocol": "TCP", "port": 1},
                                                               "endpoints": [{"spec": {"address": "127.0.0.1"}}]}}}} for i in range(100)]
                status, answer = api.call("POST", "/listeners", {"listener": {
                    "name": f"n{n}", "spec": {"protocol": "UDP", "address": "127.0.0.1", "port": 0}, "rules": rules}})
                self.assertEqual(status, 200, answer)
            l7test.wait_for(trims, 3)  # if there is something to return
            peak = p.rss_kb()
            self.assertGreater(peak - before, 10 * 1024)
            for n in range(100):  # none of these makes resident memory grow
                self.assertEqual(api.call("DELETE", f"/listeners/n{n}?recursive=true")[0], 200)
            after = self.settled(p, before + (peak - before) // 2)
            print(f"# RSS {before} -> {peak} -> {after} kB, {trims()} trims")
            self.assertLessEqual(after, before + (peak - before) // 2)

    @unittest.skipUnless(os.path.exists(l7test.ROOT / PLAIN / "l7mp-proxy"), f"{PLAIN}/l7mp-proxy is not built")
    def test_objects(self):
        """clusters, UDP and TCP listeners with port 0: memory comes back, processor time is linear"""
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        self.tcp = max(0, min(COUNT, hard - COUNT - 500))  # a listener is a descriptor
        with l7test.Proxy(None, "-l", "warn", build=PLAIN) as p:
            api = Client()
            self.round(api, p, 100)  # what is allocated once
            time.sleep(0.5)
            fds, before = p.fds(), p.rss_kb()
            up, down = self.round(api, p, COUNT)
            peak = p.rss_kb()
            after = self.settled(p, before + 2000)
            print(f"# {COUNT} clusters and UDP listeners, {self.tcp} TCP listeners: up {sum(up):.1f} s of CPU, down {sum(down):.1f} s, "
                  f"RSS {before} -> {peak} -> {after} kB")
            print(f"# tenths up {[round(x, 2) for x in up]} down {[round(x, 2) for x in down]}")
            self.assertLess(after - before, 5 * 1024)
            self.assertLessEqual(p.fds(), fds + 2)
            for what in (up[:-1] if self.tcp < COUNT else up, down):
                first, last = sorted(what[:3])[1], sorted(what[-3:])[1]
                self.assertLess(last, 3 * first + 0.3, what)
                self.assertLess(first, 3 * last + 0.3 + (10 if what is down else 0), what)
            self.assertEqual(len(api.call("GET", "/config")[1]["clusters"]), 1)

    @unittest.skipUnless(os.path.exists(l7test.ROOT / PLAIN / "l7mp-proxy"), f"{PLAIN}/l7mp-proxy is not built")
    def test_config_at_once(self):
        """the same as one POST /config, and an empty one"""
        with l7test.Proxy(None, "-l", "warn", build=PLAIN) as p:
            api = Client()
            small = {"listeners": [l7test.controller()]}
            big = {"listeners": [l7test.controller()] + [
                {"name": f"u{i}", "spec": {"protocol": "UDP", "address": "127.0.0.1", "port": 0},
                 "rules": [{"action": {"route": {"destination": {"spec": {"protocol": "Echo"}}}}}]} for i in range(COUNT)]}
            self.assertEqual(api.call("POST", "/config", big)[0], 200)
            self.assertEqual(api.call("POST", "/config", small)[0], 200)
            time.sleep(2)
            before = p.rss_kb()
            t = p.cpu_seconds()
            self.assertEqual(api.call("POST", "/config", big)[0], 200)
            middle = p.cpu_seconds()
            self.assertEqual(api.call("POST", "/config", small)[0], 200)
            end = p.cpu_seconds()
            after = self.settled(p, before + 2000)
            print(f"# {COUNT} listeners in one POST /config: {middle - t:.2f} s of CPU, away: {end - middle:.2f} s, RSS {before} -> {after} kB")
            self.assertLess(after - before, 5 * 1024)
            self.assertLess(middle - t, 10)  # quadratic growth took minutes

    def test_parallel(self):
        """200 parallel clients, kept connections and new ones: each gets its own answers"""
        with l7test.Proxy(None, "-l", "warn") as p:
            wrong = []

            def run(i, keep):
                try:
                    client = Client()
                    for k in range(10 if l7test.FULL else 4):
                        name = f"p{i}-{k}"
                        steps = (("POST", "/clusters", {"cluster": {"name": name, "spec": {"protocol": "UDP", "port": 1 + i}}}, None),
                                 ("GET", f"/clusters/{name}", None, {"protocol": "UDP", "port": 1 + i}),
                                 ("DELETE", f"/clusters/{name}", None, None))
                        for method, path, body, spec in steps:
                            if not keep:
                                client.conn.close()
                            status, answer = client.call(method, path, body)
                            if status != 200 or (spec and (answer["name"], answer["spec"]) != (name, spec)):
                                wrong.append((i, keep, method, status, answer))
                    client.conn.close()
                except Exception as e:  # noqa: B902: whatever it is, it is wrong
                    wrong.append((i, keep, repr(e)))
            for keep in (False, True):
                t = time.monotonic()
                threads = [threading.Thread(target=run, args=(i, keep), daemon=True) for i in range(CLIENTS)]
                for th in threads:
                    th.start()
                for th in threads:
                    th.join(100)
                print(f"# {CLIENTS} parallel clients, {'kept' if keep else 'new'} connections: {time.monotonic() - t:.1f} s, {len(wrong)} wrong")
                self.assertEqual(wrong[:3], [])
            self.assertEqual(len(p.api.get("/clusters")[1]), 1)


if __name__ == "__main__":
    l7test.main()
