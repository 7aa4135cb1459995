#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: full alone timeout=1200
"""The demos of the original with their objects (cases/), on a real API server, deploy/ as it is, and pods that answer.

Beside the objects the demos only need what a cluster has: pods, and a name server that the pods' resolv.conf names.
"""
import copy
import json
import os
import pathlib
import socket
import struct
import sys
import textwrap
import threading
import time
import unittest

import yaml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
os.environ.setdefault("L7MP_BUILD", "build")
import l7test  # noqa: E402
import test_cluster as mesh  # noqa: E402
from kube_cluster import HOST, start_cluster, wait_until  # noqa: E402
from podlet import Podlet  # noqa: E402

CASES = l7test.ROOT / "selftests/mesh/cases"
# Says its name, and what it was sent.
UDP_ECHO = [sys.executable, "-c", textwrap.dedent("""
    import os, socket
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind((os.environ.get("ADDRESS", "0.0.0.0"), int(os.environ["PORT"])))
    while True:
        data, peer = u.recvfrom(65536)
        u.sendto(os.environ["HOSTNAME"].encode() + b" " + data, peer)
""")]
UNIX_ECHO = [sys.executable, "-c", textwrap.dedent("""
    import os, socket, threading
    s = socket.socket(socket.AF_UNIX); s.bind(os.environ["FILE"]); os.chmod(os.environ["FILE"], 0o777); s.listen(100)
    def serve(c):
        while data := c.recv(65536):
            c.sendall(b"[" + data + b"]")
    while True:
        threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
""")]
# Answers each question with the address in $ANSWER.
DNS = [sys.executable, "-c", textwrap.dedent("""
    import os, socket
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind((os.environ.get("ADDRESS", "0.0.0.0"), int(os.environ.get("PORT", "53"))))
    while True:
        q, peer = u.recvfrom(4096)
        i = 12
        while q[i]:
            i += q[i] + 1
        if q[i + 1:i + 3] != bytes([0, 1]): # no AAAA
            u.sendto(q[:2] + bytes.fromhex("84000001000000000000") + q[12:i + 5], peer)
        else:
            u.sendto(q[:2] + bytes.fromhex("84000001000100000000") + q[12:i + 5] + bytes.fromhex("c00c000100010000003c0004") +
                     socket.inet_aton(os.environ["ANSWER"]), peer)
""")]


def question(name, number):
    return struct.pack(">6H", number, 0x0100, 1, 0, 0, 0) + b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\0\0\1\0\1"


def objects(case):
    """The objects of a demo, without the pods that stand for those of a cluster when it is rendered."""
    return [d for d in yaml.safe_load_all((CASES / f"{case}.yaml").read_text()) if d["kind"] != "Pod"]


class Machine(Podlet):
    """Pods whose name server is at HOST."""

    def files(self, spec):
        return [*super().files(spec), (str(self.resolv), "/etc/resolv.conf")]


class Demos(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        start_cluster(cls)
        cls.podlet = Machine(cls.cluster, {"l7mp": ["/usr/lib/l7mp/start"], "udp-echo": UDP_ECHO, "unix-echo": UNIX_ECHO, "dns": DNS})
        cls.podlet.resolv = cls.cluster.dir / "resolv.conf"
        cls.podlet.resolv.write_text(f"nameserver {HOST}\n")
        cls.podlet.__enter__()
        cls.addClassCleanup(cls.podlet.__exit__, None, None, None)
        cls.api = cls.cluster.api
        mesh.Mesh.cluster, mesh.Mesh.podlet = cls.cluster, cls.podlet
        mesh.Mesh.deploy.__func__(mesh.Mesh, cls.cluster.bin)

    def why(self):
        return mesh.Mesh.why.__func__(mesh.Mesh)

    def apply(self, case):
        self.cluster.apply(objects(case))
        for o in objects(case):
            self.addCleanup(self.cluster.kubectl, "delete", "--ignore-not-found", "--wait=false", o["kind"], o["metadata"]["name"])

    def pods(self, name, containers, labels=None, replicas=1, proxy=False, config="l7mp-proxy"):
        """A Deployment; with `proxy` its pods have the container of deploy/gateway/daemonset.yaml, too."""
        labels = labels or {"app": name}
        template = yaml.safe_load((l7test.ROOT / "deploy/gateway/daemonset.yaml").read_text())["spec"]["template"]
        spec = copy.deepcopy(template["spec"])
        del spec["hostNetwork"], spec["dnsPolicy"]
        spec["terminationGracePeriodSeconds"] = 2
        spec["volumes"][0]["configMap"]["name"] = config
        spec["containers"] = (spec["containers"] if proxy else []) + containers
        self.cluster.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "default"}, "spec": {
            "replicas": replicas, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}}})
        self.addCleanup(self.cluster.kubectl, "delete", "deployment", name, "--wait=false")
        self.cluster.kubectl("rollout", "status", f"deploy/{name}", "--timeout=120s")
        return [p for p in self.podlet.pods.values() if p.name.startswith(name + "-")]

    @staticmethod
    def container(image, **env):
        return {"name": image, "image": image, "env": [{"name": k, "value": v} for k, v in env.items()]}

    def ask(self, s, text, to, seconds=60):
        """The answer to a datagram, which is sent until one comes."""
        s.settimeout(0.3)
        end = time.monotonic() + seconds * l7test.SLOW
        while time.monotonic() < end:
            s.sendto(text, to)
            try:
                return s.recv(65536)
            except (TimeoutError, ConnectionRefusedError):
                continue
        self.fail(f"no answer from {to}\n{self.why()}")

    def test_kube_dns(self):
        """the gateway of the cluster's DNS: UDP 5053 to the name server whose name is in the VirtualService"""
        backend = self.pods("dns-server", [self.container("dns", ANSWER="10.11.12.13")])[0]
        # The cluster's own DNS says where that name is.
        own = mesh.subprocess.Popen(DNS, env={**os.environ, "ADDRESS": HOST, "ANSWER": backend.ip})
        self.addCleanup(lambda: (own.kill(), own.wait()))
        self.apply("dns-gateway")
        with l7test.udp_socket(0, "0.0.0.0") as s:
            answer = self.ask(s, question("kubernetes.default.svc.cluster.local", 77), (HOST, 5053))
            self.assertEqual((answer[:2], answer[-4:]), (b"\0M", socket.inet_aton("10.11.12.13")))

    def test_transcoder(self):
        """UDP 9001 -> WebSocket 8888 of the transcoder's sidecar -> its UNIX socket, and back through it to a UDP worker at 9999"""
        workers = self.pods("worker", [self.container("udp-echo", PORT="9999")], replicas=2)
        file = "/tmp/uds-echo.sock"
        self.addCleanup(pathlib.Path(file).unlink, missing_ok=True)
        self.pods("transcoder", [self.container("unix-echo", FILE=file)], proxy=True)
        self.apply("transcoder")
        seen = set()
        for i in range(8):
            with l7test.udp_socket(0, "0.0.0.0") as s:
                text = f"frame {i}".encode()
                answer = self.ask(s, text, (HOST, 9001))
                # The worker gets what the transcoder made of it.
                name, _, rest = answer.partition(b" ")
                self.assertEqual(rest, b"[" + text + b"]")
                seen.add(name.decode())
        self.assertLessEqual(seen, {p.name for p in workers})

    def test_dns_sidecars(self):
        """DNS servers with sidecars (5000 -> 100): each question is answered while a pod is deleted and another takes its place"""
        pods = self.pods("dns", [self.container("dns", ADDRESS="127.0.0.1", PORT="100", ANSWER="10.20.30.40")], replicas=3, proxy=True)
        self.apply("dns-sidecars")
        with l7test.udp_socket(0, "0.0.0.0") as s:
            self.ask(s, question("first.example", 1), (HOST, 5000))
        stop, asked, again, lost = threading.Event(), [0], [0], []

        def dig():  # as dig does: up to three times, 5 s each, from a port of its own
            while not stop.is_set():
                asked[0] += 1
                with l7test.udp_socket(0, "0.0.0.0", 5) as s:
                    for attempt in range(3):
                        s.sendto(question("www.example", asked[0] % 65536), (HOST, 5000))
                        try:
                            if s.recv(4096)[-4:] == socket.inet_aton("10.20.30.40"):
                                again[0] += attempt > 0
                                break
                        except TimeoutError:
                            continue
                    else:
                        lost.append(asked[0])
                time.sleep(0.01)
        threads = [threading.Thread(target=dig) for _ in range(2)]
        for t in threads:
            t.start()
        try:
            for p in pods[:2]:
                before = asked[0]
                self.cluster.kubectl("delete", "pod", p.name, "--wait=false")
                wait_until(lambda p=p: p.uid not in self.podlet.pods, 120)
                self.cluster.kubectl("rollout", "status", "deploy/dns", "--timeout=120s")
                wait_until(lambda before=before: asked[0] > before + 50, 120)
        finally:
            stop.set()
            for t in threads:
                t.join()
        print(f"# {asked[0]} questions while two of three pods were deleted one after the other: {again[0]} asked again, {len(lost)} lost", flush=True)
        self.assertEqual(lost, [])

    def test_rtpengine(self):
        """a call: a leg of the ingress by the address of its client, JSONSocket 19000 to the worker of its call id, the Rules at the front of
        the worker's own rule list; by tag to its own media port"""
        config = yaml.safe_load((l7test.ROOT / "deploy/gateway/proxy.yaml").read_text())
        doc = yaml.safe_load(config["data"]["l7mp.yaml"])
        doc["listeners"].append({"name": "worker-rtp", "spec": {"protocol": "JSONSocket", "transport": {"protocol": "UDP", "port": 19000}},
                                 "rules": "worker-rtp-rulelist"})
        doc["rulelists"] = [{"name": "worker-rtp-rulelist", "rules": []}]
        config["metadata"]["name"] = "l7mp-worker"
        config["data"]["l7mp.yaml"] = json.dumps(doc)
        self.cluster.apply(config)
        workers = self.pods("l7mp-worker", [self.container("udp-echo", ADDRESS="127.0.0.1", PORT="20002")], replicas=2, proxy=True, config="l7mp-worker")
        mesh.subprocess.run(["ip", "addr", "add", "192.168.0.7/32", "dev", "kube0"], check=True)
        # The owner of the call's objects, without which the API server would delete them.
        self.cluster.apply({"apiVersion": "l7mp.io/v1", "kind": "VirtualService", "metadata": {"name": "control", "namespace": "default"}, "spec": {
            "selector": {"matchLabels": {"app": "nobody"}}, "listener": {"spec": {"UDP": {"port": 1}}, "rules": []}}})
        self.addCleanup(self.cluster.kubectl, "delete", "vsvc", "control", "--wait=false")
        control = self.api.get("/apis/l7mp.io/v1/namespaces/default/virtualservices/control")
        for o in objects("media"):
            for owner in o["metadata"].get("ownerReferences", []):
                owner["uid"] = control["metadata"]["uid"]
            self.cluster.apply(o)
            self.addCleanup(self.cluster.kubectl, "delete", "--ignore-not-found", "--wait=false", o["kind"], o["metadata"]["name"])
            time.sleep(1.1)  # Rules for one position are in the order of their age, in seconds
        # The other leg of the call, whose datagrams go to the media server's port.
        other = json.loads(json.dumps(next(o for o in objects("media") if o["metadata"]["name"] == "ingress-rtp-1-a")).replace("-1-a", "-1-b"))
        del other["metadata"]["ownerReferences"], other["spec"]["updateOwners"]
        other["spec"]["listener"]["spec"]["UDP"].update(port=20002, connect={"address": "192.168.0.7", "port": 10002})
        other["spec"]["listener"]["rules"][0]["action"]["rewrite"][1]["valueStr"] = "b"
        self.cluster.apply(other)
        self.addCleanup(self.cluster.kubectl, "delete", "vsvc", other["metadata"]["name"], "--wait=false")
        answers = {}
        for port, to in ((10000, 20000), (10002, 20002)):
            with l7test.udp_socket(port, "192.168.0.7") as s:
                answers[to] = self.ask(s, b"media", (HOST, to))
                for i in range(20):
                    s.sendto(b"%d" % i, (HOST, to))
                    self.assertTrue(s.recv(2000).endswith(b"%d" % i))
        leg = "/apis/l7mp.io/v1/namespaces/default/virtualservices/ingress-rtp-1-a"
        wait_until(lambda: self.api.get("/apis/l7mp.io/v1/namespaces/default/virtualservices/control")["status"]["children"]["applied"][leg])
        self.assertEqual(answers[20000], b"media")  # leg a: by the second Rule, which takes what is left
        name, _, rest = answers[20002].partition(b" ")
        self.assertEqual(rest, b"media")
        self.assertIn(name.decode(), {p.name for p in workers})
        with l7test.udp_socket(0, "192.168.0.7", 0.5) as s:  # another client is not let in
            s.sendto(b"media", (HOST, 20000))
            with self.assertRaises((TimeoutError, ConnectionRefusedError)):
                s.recv(2000)


if __name__ == "__main__":
    l7test.main()
