#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: cluster alone timeout=900
"""docs/mesh.md by the word: its commands in their order and its objects as they are, on a real API server."""
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7test  # noqa: E402
import test_cluster as mesh  # noqa: E402
import test_full_demos as demos  # noqa: E402
from kube_cluster import HOST, start_cluster, wait_until  # noqa: E402


class Walk(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        start_cluster(cls)
        cls.bin = cls.cluster.bin
        game = ["env", "ADDRESS=127.0.0.1", "PORT=7000", *demos.UDP_ECHO]
        cls.podlet = demos.Machine(cls.cluster, {"l7mp": ["/usr/lib/l7mp/start"], "dns": demos.DNS, "game": game})
        cls.podlet.resolv = cls.cluster.dir / "resolv.conf"
        cls.podlet.resolv.write_text("")
        cls.podlet.__enter__()
        cls.addClassCleanup(cls.podlet.__exit__, None, None, None)
        mesh.Mesh.cluster, mesh.Mesh.podlet = cls.cluster, cls.podlet
        # A tree as a reader has it: with the programs installed.
        cls.tree = cls.cluster.dir / "tree"
        cls.tree.mkdir()
        shutil.copytree(l7test.ROOT / "deploy", cls.tree / "deploy")
        text = (l7test.ROOT / "docs/mesh.md").read_text()
        cls.blocks = re.findall(r"^```(sh|yaml)\n(.*?)^```$", text, re.M | re.S)

    def why(self):
        return mesh.Mesh.why.__func__(mesh.Mesh)

    def block(self, kind, text):
        """The next block of the page that has this text."""
        while self.blocks:
            found, body = self.blocks.pop(0)
            if found == kind and text in body:
                return body
        return self.fail(f"docs/mesh.md has no {kind} block with {text!r} here")

    def run_block(self, text):
        """As a reader's shell does, in the tree. The one address outside of this machine is that of files that are here, too."""
        text = re.sub(r"https://github.com/kubernetes-sigs/gateway-api/releases/\S+", str(self.bin.parent / "crds"), text)
        programs = l7test.ROOT / os.environ.get("L7MP_BUILD", "build")
        env = {**os.environ, "PATH": f"{self.bin}:{programs}:{os.environ['PATH']}", "KUBECONFIG": str(self.cluster.dir / "admin.conf"),
               "HOME": str(self.cluster.dir)}
        r = subprocess.run(["bash", "-eo", "pipefail", "-c", text], cwd=self.tree, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           timeout=300)
        self.assertEqual(r.returncode, 0, f"{text}\n{r.stdout}\n{self.why()}")
        return r.stdout

    def apply(self, text):
        (self.tree / "objects.yaml").write_text(text)
        return self.run_block("kubectl apply -f objects.yaml")

    def dns(self, name):
        """A Service with a name server behind it that answers all questions with its own address."""
        labels = {"app": name}
        self.cluster.apply([{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "default"}, "spec": {
            "replicas": 1, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {"containers": [
                {"name": "dns", "image": "dns", "env": [{"name": "ANSWER", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}]}}}},
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
             "spec": {"selector": labels, "ports": [{"protocol": "UDP", "port": 53}]}}])
        self.cluster.kubectl("rollout", "status", f"deploy/{name}", "--timeout=120s")
        return next(p.ip for p in self.podlet.pods.values() if p.name.startswith(name + "-"))

    def ask(self, text, to):
        try:
            return wait_until(lambda: self.once(text, to))
        except AssertionError:
            return self.fail(f"no answer from {to}\n{self.why()}")

    @staticmethod
    def once(text, to):
        with l7test.udp_socket(0, "0.0.0.0", 0.3) as s:
            s.sendto(text, to)
            return s.recv(65536)

    def conditions(self, kind, name):
        return {c["type"]: c["status"] for c in json.loads(self.run_block(f"kubectl get {kind} {name} -o json")).get("status", {}).get("conditions", [])}

    def test_page(self):
        """the quick start, the sidecar, --render and the Gateway API of docs/mesh.md work word for word"""
        server = self.dns("kube-dns")
        with open(self.podlet.resolv, "a") as f:
            f.write(f"nameserver {server}\n")
        self.run_block(self.block("sh", "kubectl apply -k deploy"))
        self.apply(self.block("yaml", "name: cluster-dns"))
        question = demos.question("kubernetes.default.svc.cluster.local", 77)
        self.assertEqual(self.ask(question, (HOST, 5053))[-4:], socket.inet_aton(server))
        wait_until(lambda: re.search(r"cluster-dns .*True.*1/1", self.run_block("kubectl get vsvc")))
        self.assertIn("Programmed", self.run_block("kubectl describe vsvc cluster-dns"))

        (self.tree / "game.yaml").write_text(self.block("yaml", "kind: Deployment"))
        self.run_block(self.block("sh", "kube-inject"))
        self.apply(self.block("yaml", "metadata: { name: game }"))
        self.run_block("kubectl rollout status deploy/game --timeout=120s")
        game = next(p for p in self.podlet.pods.values() if p.name.startswith("game-"))
        self.assertTrue(self.ask(b"hello", (game.ip, 7000)).endswith(b" hello"))

        out = self.run_block("kubectl get pods,vsvc -o yaml > all.yaml; l7mp-operator --render all.yaml")
        self.assertEqual(len(re.findall("^proxy:", out, re.M)), 2, out)

        self.run_block(self.block("sh", "gateway-api/releases"))
        names = [self.dns("dns-stable"), self.dns("dns-new")]
        self.apply(self.block("yaml", "kind: UDPRoute"))
        wait_until(lambda: self.conditions("gateway", "edge").get("Programmed") == "True")
        answers = {self.ask(question, (HOST, 53))[-4:] for _ in range(30)}
        self.assertLessEqual(answers, {socket.inet_aton(n) for n in names})
        self.assertIn(socket.inet_aton(names[0]), answers)


if __name__ == "__main__":
    l7test.main()
