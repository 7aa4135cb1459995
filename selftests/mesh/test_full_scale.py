#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: full alone timeout=1800
"""The operator on a real API server, with its shipped roles and nothing more, at sizes: changes, ends, 10,000 pods.

Pods are objects only; the proxies of those that have one are processes at their addresses. The figures are printed
("# ..."), and asserted only where a busy machine does not change them.
"""
import base64
import concurrent.futures
import http.client
import json
import math
import os
import pathlib
import random
import re
import resource
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time

import yaml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
os.environ.setdefault("L7MP_BUILD", "build")  # figures are those of the programs as shipped
import l7test  # noqa: E402
from kube_cluster import wait_until  # noqa: E402
from mesh_server import L7MP, NET, PODS, SYSTEM, OnServer, Session, pod, say, service, target  # noqa: E402

# Asks a port each few milliseconds until it is told to stop, and prints the round trips in microseconds.
PROBE = [sys.executable, "-c", textwrap.dedent("""
    import socket, sys, time
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1); s.connect((sys.argv[1], int(sys.argv[2])))
    end, n, lost = time.monotonic() + float(sys.argv[3]), 0, 0
    while time.monotonic() < end:
        n += 1; text = b"%d" % n; began = time.monotonic(); s.send(text)
        try:
            while s.recv(100) != text: pass
            print(int((time.monotonic() - began) * 1e6))
        except (TimeoutError, ConnectionRefusedError): lost += 1
        time.sleep(0.002)
    print("lost", lost)
""")]
ECHO = [sys.executable, "-c", textwrap.dedent("""
    import socket, sys
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((sys.argv[1], int(sys.argv[2])))
    before = "".join(sys.argv[3:]).encode()
    while True:
        data, peer = s.recvfrom(65536); s.sendto(before + data, peer)
""")]


def quantile(values, q):
    values = sorted(values)
    return values[max(0, math.ceil(q * len(values)) - 1)]


class Scale(OnServer):
    def proxies(self, n):
        """n pods with a proxy each: {"slot": "0"}, ... Returns the proxies."""
        out = [self.proxy(f"{NET}.1.{i + 1}") for i in range(n)]
        self.each(lambda i: self.add_pod(*pod(f"gw{i}", f"{NET}.1.{i + 1}", {"app": "gw", "slot": str(i)})), range(n))
        return out

    def histogram(self, o, name):
        """{upper bound in s: count}, of a histogram of the operator."""
        return {float(le) if le != "+Inf" else math.inf: int(n) for le, n in
                re.findall(rf'^l7mp_operator_{name}_bucket{{le="([^"]+)"}} (\d+)$', o.page("/metrics")[1], re.M)}

    def first_answers(self, o, n, proxies, what):
        """Creates n objects, one at a time, at one proxy after the other; prints how long each took to its first answer."""
        before, times = self.histogram(o, "apply_seconds"), []
        for i in range(n):
            began = time.monotonic()
            self.session().create(service(f"new{i}", 30000 + i, {"slot": str(i % proxies)}))
            self.answer(30000 + i, f"{NET}.1.{i % proxies + 1}")
            times.append((time.monotonic() - began) * 1000)
            time.sleep(0.05)
        after = self.histogram(o, "apply_seconds")
        say(f"object created -> first answer, {what}, {n} times: median {quantile(times, .5):.0f} ms, p99 {quantile(times, .99):.0f} ms, "
            f"at most {max(times):.0f} ms; apply latency (cumulative): " + ", ".join(f"<={k} s: {after[k] - before[k]}" for k in after))

    # ---- the same final state ----

    def wanted(self):
        """{pod: the document that its proxy is to have}, of the objects in the API server, rendered without a cluster."""
        with tempfile.TemporaryDirectory() as d:
            for i, path in enumerate((PODS, *(f"{L7MP}/{k}" for k in ("virtualservices", "targets", "rules", "routes")))):
                objects = self.api.get(path)
                kind = objects["kind"].removesuffix("List")
                items = [{**o, "apiVersion": objects["apiVersion"], "kind": kind} for o in objects["items"]]
                pathlib.Path(d, f"{i}.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
            r = subprocess.run([l7test.program("l7mp-operator"), "--render", d], stdout=subprocess.PIPE, text=True)
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return {d["proxy"]["name"]: d["config"] for d in yaml.load_all(r.stdout, loader) if "proxy" in d}

    def settled(self, proxies, seconds=120):
        """Waits until the proxies have what the objects make, by name and port; returns wanted()."""
        wanted = self.wanted()

        def has(p, doc):
            found = p.api.get("/config?owner=l7mp-operator")[1]
            return ({e["name"]: e["spec"]["port"] for e in found["listeners"]} == {e["name"]: e["spec"]["port"] for e in doc["listeners"]} and
                    {c["name"] for c in found["clusters"]} >= {c["name"] for c in doc["clusters"]})
        for i, p in enumerate(proxies):
            wait_until(lambda p=p, i=i: has(p, wanted[f"gw{i}"]), seconds)
        return wanted

    def same_as_rendered(self, o, proxies):
        """The proxies end with what the objects make: as new ones that get it in one piece, but for names that a proxy makes itself."""
        wanted = self.settled(proxies)

        def own(p):
            found = p.api.get("/config?owner=l7mp-operator")[1]
            return {k: {re.sub(r"-(RuleList|Rule|Route|Cluster|EndPoint)-\d+", r"-\1", json.dumps(e, sort_keys=True)) for e in v} for k, v in found.items() if isinstance(v, list)}
        wait_until(lambda: o.metric("proxies", state="programmed") >= len(proxies), 120)
        references = []
        for i, p in enumerate(proxies):
            # A listener's port is free only when the proxy has ended.
            last = []
            wait_until(lambda p=p, i=i, last=last: (last.clear(), last.append(own(p)), self.like(wanted[f"gw{i}"], last[0]))[2], 120)
            references.append(last[0])
        o.stop()
        for i, p in enumerate(proxies):
            p.stop()
            reference = self.proxy(p.address)
            code, answer = reference.api.post("/config?owner=l7mp-operator", {"config": wanted[f"gw{i}"]})
            self.assertEqual(code, 200, answer)
            for kind, e in own(reference).items():
                self.assertEqual(e, references[i][kind])
            reference.stop()

    @staticmethod
    def like(doc, found):
        """Whether a proxy has the document's addresses by now, too."""
        text = " ".join(found["clusters"])
        return all(f'"address": "{e["spec"]["address"]}"' in text for c in doc["clusters"] for e in c.get("endpoints", []) if "address" in e["spec"])

    def changes(self, proxies, seconds, rate, meanwhile=lambda: None, seed=14):
        """Random changes at a rate, in the background of `meanwhile`; returns how many there were."""
        stop, count, failed = threading.Event(), [0], []

        def run():
            rng, names, s = random.Random(seed), {}, Session(self.api)
            began = time.monotonic()
            try:
                while not stop.is_set() and time.monotonic() < began + seconds:
                    i = rng.randrange(100)
                    kind, labels = ("Target", "VirtualService")[i % 2], {"slot": str(i % len(proxies))}
                    name = f"o{i}"
                    if name in names and rng.random() < 0.4:
                        s.delete(kind, name)
                        del names[name]
                    else:
                        n = rng.randrange(50)
                        o = target(name, labels, f"{NET}.8.{n + 1}") if kind == "Target" else service(name, 20000 + 50 * i + n, labels)
                        if name in names:
                            s.call("PATCH", f"{L7MP}/{kind.lower()}s/{name}", {"spec": o["spec"]}, "application/merge-patch+json", ok=(404,))
                        else:
                            s.create(o)
                        names[name] = n
                    count[0] += 1
                    time.sleep(max(0, began + count[0] / rate - time.monotonic()))
            except Exception as e:  # shown by the test
                failed.append(e)

        t = threading.Thread(target=run)
        t.start()
        try:
            meanwhile()
        finally:
            if threading.current_thread() is threading.main_thread():
                stop.set()
            t.join()
        self.assertEqual(failed, [])
        return count[0]

    # ---- the table ----

    def test_killed(self):
        """kill -9 of the operator at 20 random moments under 20 changes/s: the same final state as without"""
        proxies = self.proxies(4)
        rng, o = random.Random(20), self.operator(lease=False).ready()

        def kill():
            nonlocal o
            for _ in range(20):
                time.sleep(rng.uniform(0.2, 2))
                o.kill()
                o = self.operator(lease=False)
        n = self.changes(proxies, 120, 20, kill)
        o.ready()
        self.same_as_rendered(o, proxies)
        say(f"20 kills within {n} changes, 20/s: as rendered")

    def test_two(self):
        """two operators: one leads; it is killed under changes, the other continues; one state, one writer at a time"""
        proxies = self.proxies(4)
        pair = [self.operator(listen=9090), self.operator(listen=9091)]
        for o in pair:
            o.ready()
        wait_until(lambda: sum(o.metric("leads") for o in pair) == 1)
        first = next(o for o in pair if o.metric("leads"))
        second = next(o for o in pair if o is not first)
        took = []

        def kill():
            time.sleep(3)
            first.kill()
            began = time.monotonic()
            wait_until(lambda: second.metric("leads") == 1, 120)
            took.append(time.monotonic() - began)
            time.sleep(3)
        n = self.changes(proxies, 120, 20, kill)
        self.same_as_rendered(second, proxies)
        say(f"two operators: the other leads {took[0]:.1f} s after kill -9 of the first; {n} changes meanwhile, as rendered")

    def test_api_server_stopped(self):
        """the API server is gone for 60 s: traffic is untouched; afterwards what was changed is there"""
        proxies = self.proxies(2)
        o = self.operator().ready()
        self.session().create(service("stays", 15000, {"slot": "0"}))
        self.answer(15000, f"{NET}.1.1")
        probe = subprocess.Popen([*PROBE, f"{NET}.1.1", "15000", "75"], stdout=subprocess.PIPE, text=True)
        self.cluster.stop("kube-apiserver", kill=True)
        time.sleep(60)
        self.cluster.start_apiserver()
        self.cluster.wait_apiserver()
        began = time.monotonic()
        wait_until(lambda: self.session().create(service("after", 15001, {"slot": "1"})))
        self.answer(15001, f"{NET}.1.2")
        took = time.monotonic() - began
        lines = probe.communicate()[0].split()
        self.assertEqual(lines[-2:], ["lost", "0"])
        say(f"API server gone for 60 s: {len(lines) - 2} datagrams, 0 lost; a new object answers {took:.1f} s after it is back "
            f"({int(o.metric('relists_total', kind='VirtualService'))} relists)")
        self.same_as_rendered(o, proxies)

    def test_compaction(self):
        """etcd is compacted while the operator is away from its watches (410): the same final state"""
        proxies = self.proxies(2)
        o = self.operator(lease=False).ready()
        for i in range(20):
            self.session().create(target(f"t{i}", {"slot": str(i % 2)}, f"{NET}.8.1"))
        self.settled(proxies)
        before = o.metric("relists_total", kind="Target")
        os.kill(o.process.pid, 19)  # SIGSTOP: it does not read its watches
        try:
            for i in range(10):
                self.session().delete("Target", f"t{i}")
                self.session().create(target(f"new{i}", {"slot": str(i % 2)}, f"{NET}.8.2"))
            self.cluster.stop("kube-apiserver", kill=True)  # with its cache of what watches may continue from
            self.compact()
            self.cluster.start_apiserver()
            self.cluster.wait_apiserver()
            self.compact()
        finally:
            os.kill(o.process.pid, 18)  # SIGCONT
        wait_until(lambda: o.metric("relists_total", kind="Target") > before, 240)
        self.same_as_rendered(o, proxies)
        say("etcd compacted (410 Gone): listed again, as rendered")

    def compact(self):
        """By etcd's gRPC gateway: up to its present revision."""
        def post(path, body):
            c = http.client.HTTPConnection("127.0.0.1", 2379, timeout=60)
            c.request("POST", path, json.dumps(body))
            r = json.loads(c.getresponse().read())
            c.close()
            return r
        revision = post("/v3/kv/range", {"key": base64.b64encode(b"x").decode()})["header"]["revision"]
        answer = post("/v3/kv/compaction", {"revision": revision, "physical": True})
        self.assertIn("header", answer, answer)

    def test_proxy_restarted(self):
        """a proxy that is killed and starts again has its objects soon, although nobody says so"""
        proxies = self.proxies(2)
        o = self.operator(lease=False).ready()
        for i in range(20):
            self.session().create(service(f"s{i}", 16000 + i, {"slot": "0"}))
        self.settled(proxies)
        took = []
        for version in range(2, 12):
            proxies[0].process.kill()
            proxies[0].process.wait()
            proxies[0].stopped = True
            proxies[0] = self.proxy(f"{NET}.1.1")
            began = time.monotonic()
            status = pod("gw0", f"{NET}.1.1", {})[1]
            status["status"]["containerStatuses"][0].update(containerID=f"test://{version}", restartCount=version)
            self.session().call("PATCH", f"{PODS}/gw0/status", status, "application/merge-patch+json")
            self.answer(16019, f"{NET}.1.1")
            took.append(time.monotonic() - began)
        self.settled(proxies)
        self.assertEqual(o.metric("proxies", state="programmed"), 2)
        say(f"proxy restarted 10 times: 20 listeners again after {quantile(took, 0.5) * 1000:.0f} ms, at most {max(took) * 1000:.0f} ms")

    def test_address_of_another(self):
        """a pod's address is given to another pod's proxy, under changes: nobody gets what is the other's"""
        first = self.proxies(2)
        o = self.operator(lease=False).ready()
        self.session().create(target("of-first", {"slot": "0"}, f"{NET}.8.1"))
        self.session().create(target("of-second", {"app": "second"}, f"{NET}.8.2"))
        self.settled(first)
        seen, stop = set(), threading.Event()
        p = first[0]

        def watch():
            while not stop.is_set():
                try:
                    seen.update(second.names())
                except (OSError, NameError, http.client.HTTPException, TypeError, KeyError):
                    pass
                time.sleep(0.002)
        for round_ in range(10):
            p.stop()
            second = self.proxy(f"{NET}.1.1")
            t = threading.Thread(target=watch)
            t.start()
            # Its pod comes before the one that had the address is gone, and what that was to have changes.
            self.add_pod(*pod(f"second{round_}", f"{NET}.1.1", {"app": "second"}))
            self.session().call("PATCH", f"{L7MP}/targets/of-first", {"spec": target("", {"slot": "0"}, f"{NET}.8.{round_ + 3}")["spec"]},
                                "application/merge-patch+json")
            time.sleep(0.3)
            self.session().call("DELETE", f"{PODS}/{'gw0' if not round_ else f'second{round_ - 1}'}?gracePeriodSeconds=0", ok=(404,))
            wait_until(lambda: second.names() == ["of-second"], 120)
            stop.set()
            t.join()
            stop.clear()
            p = second
        self.assertEqual(seen, {"of-second"})
        say(f"an address given to another pod 10 times: only its own objects, {int(o.metric('proxy_posts_total'))} documents sent")

    def test_latency(self):
        """1,000 objects, 50 proxies: from the creation of an object to the first datagram that is answered; calls of four objects"""
        proxies = self.proxies(50)
        o = self.operator(lease=False).ready()
        self.each(lambda i: self.session().create(target(f"t{i}", {"slot": str(i % 50)}, f"{NET}.8.1")), range(500))
        self.each(lambda i: self.session().create(service(f"s{i}", 20000 + i, {"slot": str(i % 50)})), range(500))
        wait_until(lambda: o.metric("proxies", state="programmed") == 50, 240)
        self.answer(20499, f"{NET}.1.50")
        self.first_answers(o, 200, 50, "1,000 objects, 50 proxies")
        lost, took = self.calls(200, 20)
        self.assertEqual(lost, 0)
        say(f"200 calls at 20/s, 4 objects each: 0 lost, median {quantile(took, .5):.0f} ms, p99 {quantile(took, .99):.0f} ms, at most {max(took):.0f} ms")
        say(f"the longest iteration of the operator's loop: {o.metric('loop_stall_max_microseconds') / 1000:.1f} ms; "
            f"making the documents: {o.metric('render_seconds_sum') / o.metric('renders_total') * 1000:.1f} ms on average")
        self.same_as_rendered(o, proxies[:3])

    def calls(self, n, rate):
        """Calls as rtpengine's demo makes them: two legs of a VirtualService and a Target each. (lost, milliseconds of each)"""
        echo = subprocess.Popen([*ECHO, f"{NET}.7.1", "7"])
        self.addCleanup(lambda: (echo.kill(), echo.wait()))
        lost, took = [], []

        def call(i):
            s, began, labels = self.session(), time.monotonic(), {"slot": str(i % 50)}
            for leg in (0, 1):
                s.create(target(f"call{i}-{leg}", labels, f"{NET}.7.1"))
                s.create(service(f"call{i}-{leg}", 25000 + 2 * i + leg, labels, f"call{i}-{leg}"))
            try:
                for leg in (0, 1):
                    self.answer(25000 + 2 * i + leg, f"{NET}.1.{i % 50 + 1}")
                took.append((time.monotonic() - began) * 1000)
            except AssertionError:
                lost.append(i)
            for leg in (0, 1):
                s.delete("VirtualService", f"call{i}-{leg}")
                s.delete("Target", f"call{i}-{leg}")
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            began, todo = time.monotonic(), []
            for i in range(n):
                time.sleep(max(0, began + i / rate - time.monotonic()))
                todo.append(pool.submit(call, i))
            for t in todo:
                t.result()
        return len(lost), took

    def test_rolled(self):
        """the backends are replaced under 1,000 UDP sessions: those stay where they are, without loss, and new ones go to the new backends"""
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, max(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
        proxies = self.proxies(1)
        o = self.operator(lease=False).ready()
        for i in range(1, 5):
            echo = subprocess.Popen([*ECHO, f"{NET}.7.{i}", "7", f"{i} "])
            self.addCleanup(lambda echo=echo: (echo.kill(), echo.wait()))

        def backend(i):
            obj, status = pod(f"backend{i}", f"{NET}.7.{i}", {"app": "backend"}, False)
            obj["spec"]["terminationGracePeriodSeconds"] = 600  # it ends when we say so
            self.add_pod(obj, status)
        backend(1)
        backend(2)
        self.session().create(service("rolled", 15000, {"slot": "0"}, {"spec": {"UDP": {"port": 7}}, "endpoints": [
            {"selector": {"matchLabels": {"app": "backend"}}}], "loadbalancer": {"policy": "RoundRobin"}}))
        self.answer(15000, f"{NET}.1.1")

        def session():
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.addCleanup(s.close)
            s.connect((f"{NET}.1.1", 15000))
            s.settimeout(10)
            return s

        def ask(s):
            s.send(b"x")
            return s.recv(100)[:1]
        sessions = [session() for _ in range(1000)]
        homes = [ask(s) for s in sessions]
        self.assertEqual(set(homes), {b"1", b"2"})
        stop, sent, lost = threading.Event(), [0], []

        def talk():
            while not stop.is_set():
                for s, home in zip(sessions, homes):
                    sent[0] += 1
                    try:
                        answer = ask(s)
                    except OSError as e:
                        answer = repr(e)
                    if answer != home:
                        lost.append((home, answer))
        t = threading.Thread(target=talk)
        t.start()
        try:
            backend(3)
            backend(4)
            for i in (1, 2):
                self.session().call("DELETE", f"{PODS}/backend{i}")
            # Until they get no new sessions.
            wait_until(lambda: {ask(session()) for _ in range(6)} <= {b"3", b"4"}, 60, 0.5)
            before = sent[0]
            new = {ask(session()) for _ in range(50)}
            wait_until(lambda: sent[0] > before + 5000)
        finally:
            stop.set()
            t.join()
        self.assertEqual(lost[:5], [])
        self.assertEqual(new, {b"3", b"4"})
        say(f"backends replaced under 1,000 UDP sessions: {sent[0]} datagrams, 0 lost, all sessions stay; 50 new ones at the new backends")
        # When the pods are gone their sessions end.
        before = len(proxies[0].api.get("/sessions")[1])
        for i in (1, 2):
            self.session().call("DELETE", f"{PODS}/backend{i}?gracePeriodSeconds=0")
        wait_until(lambda: len(proxies[0].api.get("/sessions")[1]) <= before - 1000)
        self.assertIn(ask(session()), (b"3", b"4"))

    def test_traffic(self):
        """round trips through a proxy: idle, while another proxy gets 100 changes/s, while it gets them itself"""
        proxies = self.proxies(2)
        o = self.operator(lease=False).ready()
        echo = subprocess.Popen([*ECHO, f"{NET}.7.1", "7"])
        self.addCleanup(lambda: (echo.kill(), echo.wait()))
        self.session().create(service("data", 15000, {"slot": "0"}, {"spec": {"UDP": {"port": 7}}, "endpoints": [{"spec": {"address": f"{NET}.7.1"}}]}))
        self.answer(15000, f"{NET}.1.1")

        def probe(slot):
            """(microseconds of each round trip, changes made meanwhile)"""
            p = subprocess.Popen([*PROBE, f"{NET}.1.1", "15000", "30"], stdout=subprocess.PIPE, text=True)
            stop, n = threading.Event(), [0]

            def change():
                s, began = Session(self.api), time.monotonic()
                while not stop.is_set():
                    s.call("PATCH", f"{L7MP}/targets/changing", {"spec": target("", {"slot": slot}, f"{NET}.8.{n[0] % 200 + 1}")["spec"]},
                           "application/merge-patch+json")
                    n[0] += 1
                    time.sleep(max(0, began + n[0] / 100 - time.monotonic()))
            t = threading.Thread(target=change)
            if slot:
                s = self.session()
                s.delete("Target", "changing")
                s.create(target("changing", {"slot": slot}, f"{NET}.8.1"))
                t.start()
            out = p.communicate()[0].split()
            stop.set()
            if slot:
                t.join()
            self.assertEqual(out[-2:], ["lost", "0"])
            return [int(v) for v in out[:-2]], n[0]
        for what, slot in (("idle", None), ("100 changes/s at another proxy", "1"), ("100 changes/s at this proxy", "0")):
            posts = o.metric("proxy_posts_total")
            times, n = probe(slot)
            say(f"round trip, {what}: {len(times)} datagrams, 0 lost, median {quantile(times, .5) / 1000:.2f} ms, p99 {quantile(times, .99) / 1000:.2f} ms, "
                f"p99.9 {quantile(times, .999) / 1000:.2f} ms; {n / 30:.0f} changes/s, {(o.metric('proxy_posts_total') - posts) / 30:.0f} documents/s")
        self.same_as_rendered(o, proxies)

    def test_objects(self):
        """10,000 objects: memory, what they cost when nothing changes, the latency of one more; one that is too large has its condition"""
        proxies = self.proxies(10)
        self.each(lambda i: self.session().create(target(f"t{i}", {"slot": str(i % 10)}, f"{NET}.8.{i % 200 + 1}")), range(5000))
        self.each(lambda i: self.session().create(service(f"s{i}", 20000 + i, {"slot": str(i % 10)}, f"t{i}")), range(5000))
        began = time.monotonic()
        o = self.operator(lease=False).ready()
        wait_until(lambda: o.metric("proxies", state="programmed") == 10, 300)
        first = time.monotonic() - began
        for p in proxies:
            found = p.api.get("/config?owner=l7mp-operator")[1]
            self.assertEqual((len(found["listeners"]), len(found["clusters"])), (500, 500))
        wait_until(lambda: o.metric("status_writes_total") >= 10000 and not o.metric("status_queue"), 600)
        statuses, stable = time.monotonic() - began, []
        wait_until(lambda: (stable.append(o.metric("renders_total")), stable[-1] in stable[-20:-1])[1])  # its own statuses have come back
        renders, writes, used = o.metric("renders_total"), o.metric("status_writes_total"), self.cpu(o.process.pid)
        time.sleep(20)
        idle = (self.cpu(o.process.pid) - used) / 20
        self.assertEqual((o.metric("renders_total"), o.metric("status_writes_total")), (renders, writes))
        self.first_answers(o, 100, 10, "10,000 objects")
        rss = self.memory(o)
        self.assertLess(rss, 300)
        say(f"10,000 objects at 10 proxies: all applied {first:.1f} s after the start, all statuses after {statuses:.0f} s; {rss:.0f} MB at most, "
            f"{idle * 100:.1f} % of a processor idle")
        say(f"making the documents {o.metric('render_seconds_sum') / o.metric('renders_total') * 1000:.0f} ms on average, "
            f"the longest loop iteration {o.metric('loop_stall_max_microseconds') / 1000:.0f} ms")
        # What is too large for the operator is left out, and the others do not notice.
        huge = target("huge", {"slot": "0"}, "")
        huge["spec"]["cluster"]["endpoints"] = [{"spec": {"address": f"{NET}.8.1"}}] * 32000
        self.session().create(huge)

        def condition():
            found = self.api.get(f"{L7MP}/targets/huge").get("status", {}).get("conditions", [])
            return next((c for c in found if c["type"] == "Accepted"), {})
        wait_until(lambda: condition().get("status") == "False", 120)
        self.assertIn("at most 1048576 bytes", condition()["message"])
        self.session().create(service("behind", 31000, {"slot": "0"}))
        self.answer(31000, f"{NET}.1.1")
        self.assertLess(self.memory(o), 300)

    @staticmethod
    def cpu(pid):
        """Seconds of a processor that a process has used."""
        text = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(text[11]) + int(text[12])) / os.sysconf("SC_CLK_TCK")

    @staticmethod
    def memory(o):
        """The most that the operator has had, in MB."""
        return int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path(f"/proc/{o.process.pid}/status").read_text())[1]) / 1024

    def irrelevant(self, o, seconds, wait=lambda n: None):
        """Changes of pods that no document depends on, as fast as this machine's API server takes them, then wait(how many).
        Returns (how many, seconds, {process: seconds of a processor})."""
        pids = {"API server": self.cluster.children["kube-apiserver"].pid, "etcd": self.cluster.children["etcd"].pid, "operator": o.process.pid,
                "this test": os.getpid()}
        used, began, n = {k: self.cpu(pid) for k, pid in pids.items()}, time.monotonic(), 0
        while time.monotonic() < began + seconds:
            self.each(lambda i: self.session().call("PATCH", f"{PODS}/p{i % 10000}", {"metadata": {"annotations": {"seen": str(time.monotonic_ns())}}},
                                                    "application/merge-patch+json"), range(n, n + 500))
            n += 500
        took = time.monotonic() - began
        wait(n)
        return n, took, {k: self.cpu(pid) - used[k] for k, pid in pids.items()}

    def test_secrets(self):
        """tokens and keys are in no log, event, status, metric, page or rendered document"""
        with tempfile.TemporaryDirectory() as d:
            token = self.token.read_text().strip()
            path = pathlib.Path(d, "token")
            path.write_text("wrong-token-77aa\n")
            self.proxies(1)
            self.session().call("POST", "/api/v1/namespaces/default/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "other"},
                                                                             "stringData": {"password": "hidden-9c3d"}}, ok=(409,))
            o = self.operator(token=path, level="silly").ready()
            self.session().create(service("s", 15000, {"slot": "0"}))

            def condition():
                conditions = self.api.get(f"{L7MP}/virtualservices/s").get("status", {}).get("conditions", [])
                return next((c for c in conditions if c["type"] == "Programmed"), {})
            wait_until(lambda: "401" in condition().get("message", ""))
            self.assertEqual(condition()["status"], "False")
            say(f"an operator with the wrong token: {condition()['message']}")
            path.write_text(token + "\n")
            wait_until(lambda: condition().get("status") == "True", 180)
            said = "".join([o.stderr(), *(o.page(x)[1] for x in ("/metrics", "/readyz", "/proxies")), json.dumps(self.api.get("/apis/events.k8s.io/v1/events")),
                            json.dumps(self.api.get(f"{L7MP}/virtualservices")), json.dumps(self.wanted())])
            bearer = json.loads(self.kubeconfig.read_text())["users"][0]["user"]["token"]
            for secret in (token, "wrong-token-77aa", "hidden-9c3d", bearer, bearer.rpartition(".")[2]):
                self.assertNotIn(secret, said)
            # And it could not read one if it wanted to.
            r = self.cluster.kubectl("auth", "can-i", "--list", "--as", f"system:serviceaccount:{SYSTEM}:l7mp-operator")
            self.assertNotIn("secrets", r)

    def test_pods(self):
        """10,000 pods: memory, and what changes that do not matter cost"""
        proxies = self.proxies(2)
        self.each(lambda i: self.add_pod(*pod(f"p{i}", f"{NET}.{100 + i // 250}.{i % 250 + 1}", {"app": f"app{i % 1000}"}, False)), range(10000))
        for i in range(20):
            self.session().create({**target(f"t{i}", {"slot": str(i % 2)}, ""), "spec": {
                "selector": {"matchLabels": {"slot": str(i % 2)}},
                "cluster": {"spec": {"UDP": {"port": 7}}, "endpoints": [{"selector": {"matchLabels": {"app": f"app{i}"}}}]}}})
        o = self.operator(lease=False).ready()
        for i, p in enumerate(proxies):
            wait_until(lambda i=i, p=p: p.names() == sorted(f"t{n}" for n in range(i, 20, 2)), 240)
            endpoints = [e["spec"]["address"] for c in p.api.get("/config?owner=l7mp-operator")[1]["clusters"] for e in c["endpoints"]]
            self.assertEqual(len(set(endpoints)), 100)
        wait_until(lambda: o.metric("proxies", state="programmed") == 2)

        idle, began = self.cpu(o.process.pid), time.monotonic()
        time.sleep(20)
        idle = (self.cpu(o.process.pid) - idle) / (time.monotonic() - began)

        def told():
            return o.metric("watch_events_total", kind="Pod")
        posts, renders, checks, before = o.metric("proxy_posts_total"), o.metric("renders_total"), o.metric("proxy_checks_total"), told()
        n, took, spent = self.irrelevant(o, 30, lambda n: wait_until(lambda: told() >= before + n))
        say(f"10,002 pods: {self.memory(o):.0f} MB at most, {idle * 100:.1f} % of a processor idle; {n / took:.0f} irrelevant changes/s: "
            f"{spent['operator'] / took * 100:.0f} %; milliseconds of a processor for each: " + ", ".join(f"{k} {v / n * 1000:.2f}" for k, v in spent.items()))
        # What the API server has saved up for a watch it tells as fast as it is read.
        before, lists, stall = told(), o.metric("relists_total", kind="Pod"), o.metric("loop_stall_max_microseconds")
        os.kill(o.process.pid, 19)  # SIGSTOP
        try:
            n, _, spent = self.irrelevant(o, 15)
        finally:
            began, used = time.monotonic(), self.cpu(o.process.pid)
            os.kill(o.process.pid, 18)  # SIGCONT
        wait_until(lambda: told() >= before + n or o.metric("relists_total", kind="Pod") > lists, 240, 0.01)
        took = time.monotonic() - began
        say(f"{n} irrelevant changes saved up for a watch: read in {took:.2f} s, {n / took:.0f}/s, {(self.cpu(o.process.pid) - used) / n * 1000:.2f} ms of a "
            f"processor each, {o.metric('relists_total', kind='Pod') - lists:.0f} lists made again")
        self.assertEqual((o.metric("proxy_posts_total"), o.metric("renders_total")), (posts, renders))
        self.assertLess(self.memory(o), 100)
        say(f"0 documents made or sent, {o.metric('proxy_checks_total') - checks:.0f} of the proxies' regular checks")
        # Now what matters: one object at a time.
        self.first_answers(o, 100, 1, "10,002 pods")
        say(f"the longest iteration of the operator's loop: {stall / 1000:.1f} ms (the first lists included)")


if __name__ == "__main__":
    l7test.main()
