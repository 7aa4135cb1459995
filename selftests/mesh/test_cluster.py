#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: cluster alone timeout=900
"""The mesh on a real API server: deploy/ as it is, gateways, the Gateway API, the end of the operator, of the API server, of pods."""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7test  # noqa: E402
from kube_cluster import HOST, start_cluster, wait_until  # noqa: E402
from podlet import Podlet  # noqa: E402

ECHO = [sys.executable, "-c", textwrap.dedent("""
    import os, socket, threading
    name = os.environ["HOSTNAME"].encode()
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("0.0.0.0", int(os.environ.get("PORT", "7000"))))
    while True:
        data, peer = u.recvfrom(65536)
        u.sendto(name + b" " + data, peer)
""")]


def echo(name, replicas=1):
    labels = {"app": name}
    return [{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "default"},
             "spec": {"replicas": replicas, "selector": {"matchLabels": labels},
                      "template": {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 5, "containers": [
                          {"name": "echo", "image": "echo", "ports": [{"containerPort": 7000, "protocol": "UDP"}]}]}}}},
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
             "spec": {"selector": labels, "ports": [{"name": "udp", "protocol": "UDP", "port": 70, "targetPort": 7000}]}}]


def service(name, port, destination):
    return {"apiVersion": "l7mp.io/v1", "kind": "VirtualService", "metadata": {"name": name, "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "l7mp-ingress"}},
                     "listener": {"spec": {"UDP": {"port": port}}, "rules": [{"action": {"route": {"destination": destination}}}]}}}


class Mesh(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        start_cluster(cls)
        cls.podlet = Podlet(cls.cluster, {"l7mp": ["/usr/lib/l7mp/start"], "echo": ECHO})
        cls.podlet.__enter__()
        cls.addClassCleanup(cls.podlet.__exit__, None, None, None)
        cls.api = cls.cluster.api
        try:
            cls.deploy(cls.cluster.bin)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{cls.why()}") from None

    @classmethod
    def deploy(cls, bin_dir):
        """As docs/mesh.md says."""
        root = l7test.ROOT
        cls.cluster.crds(bin_dir.parent / "crds")
        cls.cluster.kubectl("apply", "--server-side", "-k", str(root / "deploy"))
        secrets = subprocess.run([root / "deploy/secrets.sh", "default"], stdout=subprocess.PIPE, text=True, check=True).stdout
        cls.cluster.kubectl("apply", "-f", "-", text=secrets)
        cls.cluster.kubectl("apply", "-f", str(root / "deploy/gateway/proxy.yaml"), "-f", str(root / "deploy/gateway/daemonset.yaml"),
                            "-f", str(root / "deploy/gatewayclass.yaml"))
        cls.cluster.kubectl("-n", "l7mp-system", "rollout", "status", "deploy/l7mp-operator", "--timeout=90s")
        cls.cluster.kubectl("rollout", "status", "daemonset/l7mp-ingress", "--timeout=90s")

    @classmethod
    def why(cls):
        """What the operator and the proxies have said, for a failed test."""
        out = [str(cls.podlet.problems)]
        for pod in list(cls.podlet.pods.values()):
            for c in pod.containers:
                if c.log.exists():
                    out.append(f"--- {pod.namespace}/{pod.name}: {c.log.read_text(errors='replace')[-1500:]}")
            if pod.name.startswith("l7mp-ingress-") and "credentials" in pod.volumes:
                token = (pod.volumes["credentials"] / "token").read_text().strip()
                proxy = l7test.Api(1234, headers={"Authorization": f"Bearer {token}"})
                try:
                    out.append(json.dumps(proxy.get("/config?owner=l7mp-operator")[1]))
                except OSError as e:
                    out.append(f"no answer from it: {e}")
        return "\n".join(out)

    def condition(self, kind, name, wanted, namespace="default"):
        group = "gateway.networking.k8s.io" if kind in ("gateways", "udproutes", "tcproutes") else "l7mp.io"
        obj = self.api.get(f"/apis/{group}/v1/namespaces/{namespace}/{kind}/{name}")
        found = obj.get("status", {}).get("conditions", [])
        return next((c for c in found if c["type"] == wanted), None)

    def programmed(self, kind, name):
        try:
            return wait_until(lambda: (self.condition(kind, name, "Programmed") or {}).get("status") == "True")
        except AssertionError:
            self.fail(f"{kind}/{name}: {self.api.find(f'/apis/l7mp.io/v1/namespaces/default/{kind}/{name}')} {self.why()}")

    @staticmethod
    def ask(port, text=b"hello", host=HOST, seconds=120):
        """The answer to a datagram, which is sent until one comes."""
        end = time.monotonic() + seconds
        with l7test.udp_socket(0, "0.0.0.0", 0.3) as s:
            while time.monotonic() < end:
                s.sendto(text, (host, port))
                try:
                    return s.recv(65536)
                except (TimeoutError, ConnectionRefusedError):
                    continue
        return None

    def apply(self, *objects):
        self.cluster.apply(list(objects))
        for o in objects:
            self.addCleanup(self.cluster.kubectl, "delete", "--ignore-not-found", "--wait=false", o["kind"], o["metadata"]["name"],
                            "-n", o["metadata"].get("namespace", "default"))

    def leader(self):
        holder = self.api.get("/apis/coordination.k8s.io/v1/namespaces/l7mp-system/leases/l7mp-operator")["spec"]["holderIdentity"]
        return next((p for p in self.podlet.pods.values() if p.namespace == "l7mp-system" and holder.startswith(p.name)), None)

    # ---- what users do ----

    def test_virtual_service(self):
        """a VirtualService in front of a Service answers, follows its pods, says so in its status, and goes"""
        self.apply(*echo("dns", 2), service("dns-gateway", 5053, {"spec": {"UDP": {"port": 7000}}, "endpoints": [{"selector": {"matchLabels": {"app": "dns"}}}]}))
        self.cluster.kubectl("rollout", "status", "deploy/dns", "--timeout=120s")
        self.programmed("virtualservices", "dns-gateway")
        answer = self.ask(5053)
        self.assertIsNotNone(answer, self.why())
        self.assertTrue(answer.startswith(b"dns-") and answer.endswith(b" hello"), answer)
        self.assertIn("dns-gateway", self.cluster.kubectl("get", "vsvc"))
        status = json.loads(subprocess.run([l7test.program("l7mpctl"), "--kubeconfig", self.cluster.dir / "admin.conf", "-o", "json", "kube", "status"],
                                           stdout=subprocess.PIPE, check=True, timeout=60).stdout)
        self.assertEqual([p["state"] for p in status["proxies"]], ["programmed"])
        self.assertIn("VirtualService/default/dns-gateway", status["proxies"][0]["objects"])
        self.cluster.kubectl("scale", "deploy/dns", "--replicas=1")
        wait_until(lambda: len([p for p in self.podlet.pods.values() if p.name.startswith("dns-")]) == 1)
        for _ in range(5):
            self.assertIsNotNone(self.ask(5053), self.why())
        self.cluster.kubectl("delete", "vsvc", "dns-gateway")
        wait_until(lambda: self.ask(5053, seconds=0.5) is None)

    def test_bad_object(self):
        """an object that no proxy can take says why, and does not hold up others"""
        bad = service("bad", 99999, {"spec": {"UDP": {"port": 1}}})
        try:
            self.apply(bad)
        except AssertionError as e:
            self.assertIn("99999", str(e))  # refused by the CRD's schema
        else:
            wait_until(lambda: (self.condition("virtualservices", "bad", "Accepted") or {}).get("status") == "False")
        self.apply(*echo("good"), service("good-gateway", 5060, "good"))
        self.programmed("virtualservices", "good-gateway")
        self.assertIsNotNone(self.ask(5060), self.why())

    def test_gateway_api(self):
        """Gateway and UDPRoute to a Service: addresses, conditions, answers"""
        self.apply(*echo("game"), {
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "edge", "namespace": "default"},
            "spec": {"gatewayClassName": "l7mp", "listeners": [{"name": "game", "protocol": "UDP", "port": 5070}]}}, {
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "UDPRoute", "metadata": {"name": "game", "namespace": "default"},
            "spec": {"parentRefs": [{"name": "edge", "sectionName": "game"}],
                     "rules": [{"name": "all", "backendRefs": [{"name": "game", "port": 70}]}]}})
        try:
            wait_until(lambda: (self.condition("gateways", "edge", "Programmed") or {}).get("status") == "True")
        except AssertionError:
            self.fail(json.dumps(self.api.get("/apis/gateway.networking.k8s.io/v1/namespaces/default/gateways/edge")) + self.why())
        answer = self.ask(5070)
        self.assertIsNotNone(answer, self.why())
        route = self.api.get("/apis/gateway.networking.k8s.io/v1/namespaces/default/udproutes/game")
        parents = route["status"]["parents"]
        self.assertEqual({c["type"]: c["status"] for c in parents[0]["conditions"]}, {"Accepted": "True", "ResolvedRefs": "True"})

    def test_operator_killed(self):
        """the leader is killed: sessions continue, the other one takes over and does what was asked for meanwhile"""
        self.apply(*echo("stay"), service("stay-gateway", 5080, "stay"))
        self.programmed("virtualservices", "stay-gateway")
        self.assertIsNotNone(self.ask(5080), self.why())
        leader = wait_until(self.leader)
        for c in leader.containers:
            c.process.kill()
        self.assertIsNotNone(self.ask(5080))
        self.apply(service("later", 5081, "stay"))
        self.programmed("virtualservices", "later")
        self.assertIsNotNone(self.ask(5081), self.why())

    def test_api_server_gone(self):
        """the API server is away for a while: traffic continues; afterwards what was changed is done"""
        self.apply(*echo("away"), service("away-gateway", 5090, "away"))
        self.programmed("virtualservices", "away-gateway")
        self.assertIsNotNone(self.ask(5090), self.why())
        self.cluster.stop("kube-apiserver", kill=True)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            self.assertIsNotNone(self.ask(5090))
            time.sleep(0.5)
        self.cluster.start_apiserver()
        self.cluster.wait_apiserver()
        self.apply(service("back", 5091, "away"))
        self.programmed("virtualservices", "back")
        self.assertIsNotNone(self.ask(5091), self.why())

    def test_proxy_restarted(self):
        """a proxy that is killed gets its configuration again"""
        self.apply(*echo("again"), service("again-gateway", 5100, "again"))
        self.programmed("virtualservices", "again-gateway")
        self.assertIsNotNone(self.ask(5100), self.why())
        pod = next(p for p in self.podlet.pods.values() if p.name.startswith("l7mp-ingress-"))
        pod.containers[0].process.kill()
        wait_until(lambda: pod.containers[0].restarts)
        self.assertIsNotNone(self.ask(5100, seconds=90), self.why())


if __name__ == "__main__":
    l7test.main()
