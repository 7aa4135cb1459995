#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: long parts=3
"""Who is who: leaders and their successors, processes that answer at an address, credentials of both sides."""
import json
import os
import pathlib
import random
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import certs  # noqa: E402
import kube_api  # noqa: E402
import l7test  # noqa: E402
from kube_api import pod, target  # noqa: E402
from l7test import wait_for  # noqa: E402
from mesh import PORT, MeshProxy, Operator  # noqa: E402

ADDRESS = "127.0.1.1"
GW = {"app": "gw"}


class Base(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory(prefix="l7mp-mesh-")
        self.addCleanup(self.dir.cleanup)
        self.api, self.operators = None, []

    def start_api(self, **kw):
        self.api = kube_api.KubeApi(**kw)
        self.addCleanup(self.api.stop)
        return self.api

    def proxy(self, *args, **kw):
        p = MeshProxy(*args, **kw)
        self.addCleanup(p.stop)
        return p

    def operator(self, *args, **kw):
        o = Operator(*args, **kw)
        self.operators.append(o)
        self.addCleanup(o.stop)
        return o

    def path(self, name):
        return os.path.join(self.dir.name, name)

    def write(self, name, text, mode=0o600):
        with open(self.path(name) + ".new", "w") as f:
            f.write(text)
        os.chmod(self.path(name) + ".new", mode)
        os.rename(self.path(name) + ".new", self.path(name))
        return self.path(name)

    def has(self, proxy, *names):
        want = sorted(names)
        self.assertTrue(wait_for(lambda: proxy.names() == want),
                        f"expected {want}, got {proxy.names()}\n{self.operators[-1].stderr()[-3000:]}")


class Leaders(Base):
    def setUp(self):
        super().setUp()
        self.start_api()
        self.p = self.proxy(ADDRESS)
        self.api.apply(pod("p1", ADDRESS, GW))
        self.api.apply(target("a", GW))

    def pair(self):
        a = self.operator(lease=True, listen=9091).ready()
        self.assertTrue(wait_for(lambda: a.metric("leads") == 1))
        b = self.operator(lease=True, listen=9092).ready()
        self.has(self.p, "a")
        self.assertEqual(b.page("/readyz"), (200, "ready: stands by\n"))
        return a, b

    def test_killed(self):
        """the leader is killed: the standby takes over when its lease has ended, and knows all already"""
        a, b = self.pair()
        lists = b.metric("lists_total", kind="Target")
        self.assertEqual(b.metric("proxy_posts_total"), 0)
        a.kill()
        self.api.apply(target("b", GW))
        self.has(self.p, "a", "b")
        self.assertEqual(b.metric("lists_total", kind="Target"), lists)
        lease = self.api.get("Lease", "l7mp-operator", "mesh")["spec"]
        self.assertEqual(lease["leaseTransitions"], 1)
        self.assertEqual(lease["leaseDurationSeconds"], 15)

    def test_stopped(self):
        """a leader that ends gives its lease back"""
        a, b = self.pair()
        # A renewal that is in progress: what gives the lease back must come behind it.
        go = threading.Event()
        renewal = self.api.fault(r"PUT .*/leases/", wait=go, late=True)
        self.assertTrue(wait_for(lambda: renewal.hits == 1))
        threading.Timer(0.05, go.set).start()
        a.process.send_signal(signal.SIGTERM)
        a.process.wait(60)
        with self.api.lock:
            holders = [o["spec"]["holderIdentity"] for _, _, o in self.api.history[self.api.resource("Lease")]]
        self.assertIn("", holders, a.stderr())
        self.assertTrue(wait_for(lambda: b.metric("leads") == 1))
        self.api.apply(target("b", GW))
        self.has(self.p, "a", "b")

    def test_cut_off(self):
        """a leader that can't renew steps down before another may lead, and writes nothing then"""
        a, b = self.pair()
        # Only a's requests for the lease fail: they are those that a holder makes.
        holder = self.api.get("Lease", "l7mp-operator", "mesh")["spec"]["holderIdentity"]
        seen = []
        change = kube_api.Handler.change

        def refuse(handler, res, ns, name, body, make):
            if res[1] == "leases" and body["spec"]["holderIdentity"] == holder:
                seen.append(1)
                handler.status(500, "Scripted", "no")
                return
            change(handler, res, ns, name, body, make)
        kube_api.Handler.change = refuse
        try:
            self.assertTrue(wait_for(lambda: a.metric("leads") == 0))
            self.assertEqual(b.metric("leads"), 0)  # its time comes 5 s later
            self.assertTrue(wait_for(lambda: b.metric("leads") == 1))
        finally:
            kube_api.Handler.change = change
        posts = a.metric("proxy_posts_total")
        self.api.apply(target("b", GW))
        self.has(self.p, "a", "b")
        self.assertEqual(a.metric("proxy_posts_total"), posts)
        self.assertEqual(a.metric("leads"), 0)


class Restarts(Base):
    def test_killed_at_random(self):
        """kill -9 at random moments under changes: the same final state as without"""
        self.start_api()
        p = self.proxy(ADDRESS)
        self.api.apply(pod("p1", ADDRESS, GW))
        names, rng = set(), random.Random(14)
        o = self.operator().ready()
        for round_ in range(5 if not l7test.FULL else 20):
            for i in range(20):
                name = f"t{rng.randrange(30)}"
                if name in names and rng.random() < 0.4:
                    self.api.delete("Target", name)
                    names.discard(name)
                else:
                    self.api.apply(target(name, GW, port=16000 + rng.randrange(100)))
                    names.add(name)
                if i == round_ % 20:
                    o.kill()
                    o = self.operator().ready()
        self.has(p, *names)
        want = {n: self.api.get("Target", n)["spec"]["cluster"]["spec"]["UDP"]["port"] for n in names}
        self.assertTrue(wait_for(lambda: {c["name"].rpartition("/")[2]: c["spec"]["port"] for c in
                                          p.api.get("/config?owner=l7mp-operator")[1]["clusters"]} == want))

    def test_proxy_restarted(self):
        """a proxy that was restarted gets its document again; one that says so by its pod, and one that does not"""
        self.start_api()
        p = self.proxy(ADDRESS)
        self.api.apply(pod("p1", ADDRESS, GW))
        self.api.apply(target("a", GW))
        self.operator().ready()
        self.has(p, "a")
        p.stop()
        p = self.proxy(ADDRESS)
        self.api.apply(pod("p1", ADDRESS, GW, container="c2"))
        self.has(p, "a")
        p.stop()
        p = self.proxy(ADDRESS)
        self.api.apply(target("b", GW))
        self.has(p, "a", "b")

    def pod_of_two(self):
        """A pod with a proxy, its Target, and one for the pod that is to get its address: (the proxy, the operator)."""
        self.start_api()
        first = self.proxy(ADDRESS)
        self.api.apply(pod("p1", ADDRESS, {"app": "one"}))
        self.api.apply(target("of-one", {"app": "one"}))
        self.api.apply(target("of-two", {"app": "two"}))
        o = self.operator().ready()
        self.has(first, "of-one")
        return first, o

    def give_address(self, first, delete=False):
        """Stops its proxy, and gives the address to another pod, whose proxy is returned; the first pod may stay."""
        first.stop()
        second = self.proxy(ADDRESS)
        if delete:
            self.api.delete("Pod", "p1")
        self.api.apply(pod("p2", ADDRESS, {"app": "two"}))
        self.api.apply(target("of-one", {"app": "one"}, port=16001))  # makes it write
        return second

    def test_address_of_another(self):
        """an address that another pod has by now: nothing is written there until the API server says whose it is"""
        first, o = self.pod_of_two()
        # The pod is gone and its address another's; the operator's watch has not said so yet.
        hidden = self.api.fault(r"GET /api/v1/pods\?", times=-1, status=500)
        self.api.script("Pod", ("cut", None))
        self.assertTrue(wait_for(lambda: hidden.hits >= 1))
        second = self.give_address(first, delete=True)
        self.assertTrue(wait_for(lambda: o.metric("proxies", state="foreign") == 1), o.stderr()[-2000:])
        self.assertEqual(second.names(), [])
        self.assertNotIn("l7mp-operator", [o["name"] for o in second.status()["owners"]])
        hidden.left = 0
        self.has(second, "of-two")
        self.assertEqual(o.metric("proxies", state="programmed"), 1)

    def test_address_of_two(self):
        """an address that two pods have, as the first has not gone from the API server: its document is not written to the other's proxy"""
        first, o = self.pod_of_two()
        second = self.give_address(first)
        self.assertTrue(wait_for(lambda: o.metric("proxies", state="foreign") >= 1), o.stderr()[-2000:])
        self.assertTrue(wait_for(lambda: "default/p1 at 127.0.1.1: the address belongs to another pod" in o.stderr()), o.stderr()[-2000:])
        self.assertIn(second.names(), ([], ["of-two"]))
        self.api.delete("Pod", "p1")
        self.has(second, "of-two")
        self.assertTrue(wait_for(lambda: o.metric("proxies", state="programmed") == 1))

    def test_taken_over_meanwhile(self):
        """another process takes the address over between the confirmation and the document: it refuses that"""
        self.start_api()
        first = self.proxy(ADDRESS)
        self.api.apply(pod("p1", ADDRESS, GW))
        self.api.apply(target("a", GW))
        go = threading.Event()
        confirmed = self.api.fault(r"GET /api/v1/namespaces/default/pods/p1", wait=go)
        self.api.fault(r"GET /api/v1/namespaces/default/pods/p1", times=-1, status=404)
        o = self.operator().ready()
        self.assertTrue(wait_for(lambda: confirmed.hits == 1))
        first.stop()
        second = self.proxy(ADDRESS)
        before = second.status()
        go.set()
        self.assertTrue(wait_for(lambda: o.metric("proxies", state="foreign") == 1), o.stderr()[-2000:])
        self.assertEqual(o.metric("proxy_posts_total"), 1)
        self.assertEqual(second.status(), before)
        self.assertEqual(second.names(), [])

    def test_asked_once(self):
        """a proxy is asked who it is before its first document, not before the next ones, unless others change its configuration"""
        self.start_api()
        p = self.proxy(ADDRESS)
        self.api.apply(pod("p1", ADDRESS, GW))
        self.api.apply(target("a", GW))
        o = self.operator().ready()
        self.has(p, "a")

        def requests():
            return o.metric("proxy_checks_total"), o.metric("proxy_posts_total")
        self.assertTrue(wait_for(lambda: requests() == (1, 1)), requests())
        self.api.apply(target("b", GW))
        self.has(p, "a", "b")
        self.assertTrue(wait_for(lambda: requests() == (1, 2)), requests())
        self.assertEqual(p.api.post("/config?owner=another", {"config": {"listeners": [], "clusters": [
            {"name": "other", "spec": {"protocol": "UDP", "port": 7}, "endpoints": []}], "rules": [], "routes": []}})[0], 200)
        self.api.apply(target("c", GW))
        self.has(p, "a", "b", "c")
        self.assertTrue(wait_for(lambda: requests() == (2, 4)), requests())

    def test_nothing_before_all_lists(self):
        """an operator that was restarted does not treat objects as deleted before it has listed them"""
        self.start_api()
        p = self.proxy(ADDRESS)
        self.api.apply(pod("p1", ADDRESS, GW))
        self.api.apply(target("a", GW))
        o = self.operator().ready()
        self.has(p, "a")
        o.kill()
        generation, go = p.status()["generation"], threading.Event()
        held = self.api.fault(r"GET /apis/l7mp.io/v1/targets\?", wait=go)
        o = self.operator()
        self.assertTrue(wait_for(lambda: held.hits == 1 and o.metric("watches_total", kind="Pod")))
        self.api.apply(pod("p2", "127.0.1.2", GW))
        self.assertTrue(wait_for(lambda: o.metric("watch_events_total", kind="Pod") == 1))
        time.sleep(1)  # more than it takes to render
        status, text = o.page("/readyz")
        self.assertEqual(status, 503)
        self.assertIn("Target", text)
        self.assertEqual(p.status()["generation"], generation)
        go.set()
        o.ready()
        self.assertTrue(wait_for(lambda: o.metric("proxies", state="programmed") == 1))
        self.has(p, "a")

    def test_not_a_proxy(self):
        """what answers at the address is no proxy, or nothing does: the status says so"""
        self.start_api()
        self.api.apply(pod("p1", ADDRESS, GW))
        self.api.apply(target("a", GW))
        self.operator().ready()

        def message():
            c = self.api.condition("Target", "a", "Programmed")
            return c.get("message", "") if c.get("status") == "False" else ""
        self.assertTrue(wait_for(lambda: "0/1 proxies; default/p1: " in message() and "onnect" in message()), message())
        other = kube_api.KubeApi(port=16443)
        try:
            self.api.apply(pod("p1", "127.0.0.1", GW, annotations={"l7mp.io/admin-port": "16443"}))
            self.assertTrue(wait_for(lambda: "404" in message()), message())
        finally:
            other.stop()
        p = self.proxy(ADDRESS)
        self.api.apply(pod("p1", ADDRESS, GW))
        self.has(p, "a")
        self.assertTrue(wait_for(lambda: self.api.condition("Target", "a", "Programmed").get("message") == "1/1 proxies"))


class Refusals(Base):
    def test_address_in_use(self):
        """one object that a proxy refuses does not keep the others away; the status has the proxy's words"""
        self.start_api()
        static = {"listeners": [{"name": "static", "spec": {"protocol": "UDP", "port": 15000},
                                 "rules": [{"action": {"route": {"destination": {"spec": {"protocol": "Echo"}}}}}]}]}
        p = self.proxy(ADDRESS, static)
        self.api.apply(pod("p1", ADDRESS, GW))
        self.api.apply(target("a", GW))
        self.api.apply(kube_api.vsvc("taken", GW, 15000, "a"))
        self.api.apply(kube_api.vsvc("free", GW, 15001, "a"))
        self.operator().ready()
        self.has(p, "a")
        self.assertTrue(wait_for(lambda: p.names("listeners") == ["free"]))
        self.assertTrue(wait_for(lambda: "in use" in self.api.condition("VirtualService", "taken", "Programmed").get("message", "")))
        self.assertTrue(wait_for(lambda: self.api.condition("VirtualService", "free", "Programmed").get("status") == "True"))


class Status(Base):
    def ctl(self, *args):
        return subprocess.run([l7test.program("l7mpctl"), "--kubeconfig", kube_api.kubeconfig(self.path("kc"), "http://127.0.0.1:6443"),
                               "--namespace", "mesh", *args], capture_output=True, text=True, timeout=120, check=False)

    def test_kube_status(self):
        """l7mpctl kube status: the leader's proxies, what they have and why not; clear errors without a leader or its pod"""
        self.start_api()
        r = self.ctl("kube", "status")
        self.assertEqual((r.returncode, r.stdout), (1, ""))
        self.assertIn("the operator's lease: 404", r.stderr)
        self.proxy(ADDRESS)
        self.api.apply(pod("p1", ADDRESS, GW))
        self.api.apply(pod("gone", "127.0.1.9", GW))
        self.api.apply(target("a", GW))
        self.api.apply(target("b", GW))
        o = self.operator("--identity", "op-1_abc", lease=True, listen=9091).ready()
        self.assertTrue(wait_for(lambda: o.metric("leads") == 1))
        r = self.ctl("kube", "status")
        self.assertIn('pods "op-1" not found', r.stderr)
        leader = json.loads(json.dumps(pod("op-1", "127.0.0.1")).replace('"l7mp"', '"operator"'))
        leader["metadata"]["namespace"] = "mesh"
        leader["spec"]["containers"][0]["ports"] = [{"containerPort": 9091}]
        self.api.apply(leader)
        self.assertTrue(wait_for(lambda: o.metric("proxies", state="failed") == 1 and o.metric("proxies", state="programmed") == 1))
        r = self.ctl("kube", "status")
        self.assertEqual((r.returncode, r.stderr), (0, ""))
        self.assertEqual(len(r.stdout.splitlines()), 3, r.stdout)
        head, gone, p1 = r.stdout.splitlines()
        self.assertEqual(head.split(), ["PROXY", "ADDRESS", "STATE", "HASH", "OBJECTS", "ERROR"])
        self.assertRegex(gone, r"^default/gone +127\.0\.1\.9 +failed +- +2 +\S.*127\.0\.1\.9")
        self.assertRegex(p1, r"^default/p1 +127\.0\.1\.1 +programmed +[0-9a-f]{16} +2 +-$")
        r = self.ctl("-o", "json", "kube", "status")
        status = json.loads(r.stdout)
        self.assertEqual((status["leads"], status["identity"], status["proxy_count"]), (True, "op-1_abc", 2))
        p1 = next(p for p in status["proxies"] if p["name"] == "p1")
        self.assertEqual(p1["objects"], ["Target/default/a", "Target/default/b"])
        self.assertEqual(p1["hash"], next(x["hash"] for x in self.p_status()["owners"] if x["name"] == "l7mp-operator"))
        self.assertEqual(self.ctl("kube").returncode, 2)

    @staticmethod
    def p_status():
        return l7test.Api(PORT, ADDRESS).get("/status")[1]


class Credentials(Base):
    def setUp(self):
        super().setUp()
        self.certs = certs.Certs(self.path("certs"))
        self.certs.cert("server")
        self.certs.cert("client", cn="admin")
        self.certs.ca("other")
        self.certs.cert("wrong", ca="other")
        self.certs.cert("named", san="DNS:kube.test")
        self.ca = self.certs.path("ca.pem")
        self.p = self.proxy(ADDRESS)

    def serve(self, name="server", **kw):
        pair = self.certs.pair(name)
        self.start_api(tls=(pair["cert"], pair["key"]), **kw)
        self.api.apply(pod("p1", ADDRESS, GW))
        self.api.apply(target("a", GW))

    def watched(self):
        """Waits for a watch, which can't begin any more when its token is not taken."""
        self.assertTrue(wait_for(lambda: self.api.watching("Target")))

    def config(self, ca=None, name="kubeconfig", **user):
        return kube_api.kubeconfig(self.path(name), "https://127.0.0.1:6443", ca or self.ca, **user)

    def test_client_certificate(self):
        """a client certificate, by file"""
        self.serve(client_ca=self.ca)
        pair = self.certs.pair("client")
        self.operator(kubeconfig=self.config(**{"client-certificate": pair["cert"], "client-key": pair["key"]})).ready()
        self.has(self.p, "a")

    def test_wrong_certificate(self):
        """an API server with the certificate of another CA, or for another name, gets no request"""
        for name in ("wrong", "named"):
            self.serve(name, tokens={"secret"})
            o = self.operator(kubeconfig=self.config(token="secret"))
            self.assertTrue(wait_for(lambda o=o: "certificate" in o.stderr()))
            self.assertFalse(o.is_ready())
            self.assertEqual(self.api.requests, [])
            self.assertNotIn("secret", o.stderr())
            o.stop()
            self.api.stop()
        self.serve("named", tokens={"secret"})
        with open(self.config(token="secret")) as f:
            config = json.load(f)
        config["clusters"][0]["cluster"]["tls-server-name"] = "kube.test"
        self.operator(kubeconfig=self.write("kubeconfig", json.dumps(config))).ready()
        self.has(self.p, "a")

    def test_token_file(self):
        """a token that is replaced: read again on a 401"""
        self.serve(tokens={"one"})
        token = self.write("token", "one\n")
        o = self.operator(kubeconfig=self.config(tokenFile=token)).ready()
        self.has(self.p, "a")
        self.watched()
        self.api.tokens = {"two"}
        self.write("token", "two\n")
        self.api.script("Target", ("cut", None))
        self.api.apply(target("b", GW))
        self.has(self.p, "a", "b")
        # The change may still have come by the watch that was cut then.
        self.assertTrue(wait_for(lambda: o.metric("api_reauthentications_total")))
        self.watched()
        self.api.tokens = {"three"}
        self.api.script("Target", ("cut", None))
        self.assertTrue(wait_for(lambda: "401" in o.stderr()))
        self.write("token", "three\n")
        self.api.apply(target("c", GW))
        self.has(self.p, "a", "b", "c")

    def test_in_cluster(self):
        """the files of a pod's service account"""
        self.serve(tokens={"sa"})
        folder = self.path("sa")
        os.mkdir(folder)
        for name, text in (("token", "sa"), ("namespace", "mesh"), ("ca.crt", open(self.ca).read())):
            self.write(f"sa/{name}", text)
        self.operator("--service-account", folder, kubeconfig="", lease=True,
                      env={"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "6443", "KUBECONFIG": ""}).ready()
        self.has(self.p, "a")
        self.assertTrue(self.api.get("Lease", "l7mp-operator", "mesh"))

    def exec_user(self, script):
        self.write("login", "#!/bin/sh\n" + script, 0o700)
        os.chmod(self.path("login"), stat.S_IRWXU)
        return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "./login", "args": ["x"],
                         "env": [{"name": "Y", "value": "z"}], "provideClusterInfo": True}}

    def test_exec(self):
        """an exec plugin: asked once, and again when its token is refused"""
        self.serve(tokens={"t1"})
        user = self.exec_user(f"""
n=$(cat {self.path('count')} 2>/dev/null || echo 0); n=$((n + 1)); echo $n > {self.path('count')}
echo "$1 $Y $KUBERNETES_EXEC_INFO" > {self.path('seen')}
echo '{{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","status":{{"token":"t'$n'"}}}}'
""")
        self.operator(kubeconfig=self.config(**user)).ready()
        self.has(self.p, "a")
        with open(self.path("seen")) as f:
            arg, env, info = f.read().split(" ", 2)
        self.assertEqual((arg, env), ("x", "z"))
        self.assertEqual(json.loads(info)["spec"]["cluster"]["server"], "https://127.0.0.1:6443")
        with open(self.path("count")) as f:
            self.assertEqual(f.read().strip(), "1")
        self.watched()
        self.api.tokens = {"t2"}
        self.api.script("Target", ("cut", None))
        self.api.apply(target("b", GW))
        self.has(self.p, "a", "b")

    def test_exec_faults(self):
        """exec plugins that fail, print nonsense or too much: said, not obeyed, and tried again"""
        self.serve(tokens={"t"})
        for script, text in (("echo oops >&2; exit 3", "status 3: oops"), ("echo nonsense", "no JSON"),
                             ("yes | head -c 1000000", "more than 262144 bytes"), ("kill -9 $$", "signal 9"),
                             ('echo \'{"kind":"ExecCredential"}\'', "apiVersion")):
            o = self.operator(kubeconfig=self.config(**self.exec_user(script + "\n")))
            self.assertTrue(wait_for(lambda o=o, text=text: text in o.stderr()), f"{text}: {o.stderr()}")
            self.assertFalse(o.is_ready())
            o.stop()
        o = self.operator(kubeconfig=self.config(**self.exec_user("exit 1\n")))
        self.assertTrue(wait_for(lambda: "status 1" in o.stderr()))
        self.exec_user('echo \'{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","status":{"token":"t"}}\'\n')
        o.ready()
        self.has(self.p, "a")

    def test_start_errors(self):
        """what is wrong with the command line or a file is said in one line"""
        def run(*args, **env):
            r = subprocess.run([l7test.program("l7mp-operator"), *args], capture_output=True, text=True, timeout=120,
                               env=dict(os.environ, HOME=self.dir.name, KUBECONFIG="", **env), check=False)
            return r.returncode, r.stderr
        self.assertEqual(run()[0], 1)
        self.assertIn("where is the cluster", run()[1])
        self.assertIn("/nonexistent: no such", run("--kubeconfig", "/nonexistent")[1])
        self.assertIn("token", run("--service-account", "/nonexistent", KUBERNETES_SERVICE_HOST="h", KUBERNETES_SERVICE_PORT="1")[1])
        config = kube_api.kubeconfig(self.path("k"), "https://127.0.0.1:1")
        self.assertIn("'none'", run("--kubeconfig", config, "--context", "none")[1])
        self.assertIn("--listen", run("--kubeconfig", config, "--no-lease", "--listen", "127.0.0.1:99999")[1])
        for args in (["--proxy-cert", "x"], ["--proxy-name", "x"], ["--admin-port", "0"], ["-l", "loud"], ["file"], ["--statuses"],
                     ["--nonsense"], ["-n", ",".join(map(str, range(65)))], ["--owner", ""]):
            status, text = run(*args)
            self.assertEqual(status, 2, args)
            self.assertIn("l7mp-operator", text)


class Resets(Base):
    def test_answer_before(self):
        """an answer whose connection is reset behind it is read, although both are there at once"""
        self.start_api()
        server = socket.create_server((ADDRESS, PORT))
        self.addCleanup(server.close)
        self.api.apply(pod("p1", ADDRESS, GW))
        self.api.apply(target("a", GW))
        o = self.operator().ready()
        connection, _ = server.accept()
        self.assertIn(b"/api/v1/status", connection.recv(65536))
        os.kill(o.process.pid, signal.SIGSTOP)
        try:
            self.assertTrue(wait_for(lambda: pathlib.Path(f"/proc/{o.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"))
            text = b'{"message": "not today"}'
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        finally:
            os.kill(o.process.pid, signal.SIGCONT)
        self.assertTrue(wait_for(lambda: "p1 at" in o.stderr()))
        self.assertIn("not today", o.stderr())


class Proxies(Base):
    """TLS and a token between the operator and the proxies."""

    def setUp(self):
        super().setUp()
        self.certs = certs.Certs(self.path("certs"))
        self.certs.cert("proxy", san="DNS:l7mp-proxy")
        self.certs.cert("operator")
        self.certs.ca("other")
        self.certs.cert("foreign", ca="other")
        self.token = self.write("proxy-token", "let-me-in\n")
        self.start_api()
        front = l7test.controller(PORT + 1, ADDRESS)
        front["spec"]["tls"] = {**self.certs.pair("proxy"), "client_ca": self.certs.path("ca.pem")}
        self.p = self.proxy(ADDRESS, {"listeners": [front]}, api_token_file=self.token)
        self.p.api.headers["Authorization"] = "Bearer let-me-in"
        self.api.apply(pod("p1", ADDRESS, GW, annotations={"l7mp.io/admin-port": str(PORT + 1)}))
        self.api.apply(target("a", GW))

    def connect(self, ca="ca.pem", cert="operator", name="l7mp-proxy", token=None):
        pair = self.certs.pair(cert)
        args = ["--proxy-ca", self.certs.path(ca), "--proxy-cert", pair["cert"], "--proxy-key", pair["key"],
                "--proxy-token", token or self.token]
        return self.operator(*args, *(["--proxy-name", name] if name else [])).ready()

    def test_right(self):
        """with the right certificate and token; the token is replaced on both sides"""
        o = self.connect()
        self.has(self.p, "a")
        self.write("proxy-token", "another\n")
        self.p.api.headers["Authorization"] = "Bearer another"
        self.api.apply(target("b", GW))
        self.has(self.p, "a", "b")
        self.assertNotIn("another", o.stderr() + o.page("/metrics")[1])

    def refused(self, o, text):
        def message():
            return self.api.condition("Target", "a", "Programmed").get("message", "")
        self.assertTrue(wait_for(lambda: text in message()), f"{message()}\n{o.stderr()}")
        self.assertEqual(o.metric("proxies", state="failed"), 1)
        self.assertEqual(self.p.names(), [])
        self.assertNotIn("let-me-in", json.dumps(self.api.get("Target", "a")) + o.stderr())

    def test_wrong_ca(self):
        """a proxy whose certificate is another CA's is not spoken to"""
        self.refused(self.connect(ca="other.pem"), "certificate")

    def test_wrong_name(self):
        """a proxy whose certificate is for another name is not spoken to"""
        self.refused(self.connect(name="someone-else"), "someone-else")

    def test_wrong_client(self):
        """an operator without the right certificate is refused, and shown"""
        self.refused(self.connect(cert="foreign"), "refused our certificate (TLS alert: unknown ca)")

    def test_wrong_token(self):
        """an operator without the right token is refused, and shown; the right one is read when it comes"""
        token = self.write("wrong-token", "wrong\n")
        o = self.connect(token=token)
        self.refused(o, "401")
        self.write("wrong-token", "let-me-in\n")
        self.has(self.p, "a")


if __name__ == "__main__":
    l7test.main()
