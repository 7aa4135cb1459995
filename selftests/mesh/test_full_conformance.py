#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: full alone timeout=1200
"""The Gateway API's own conformance tests of UDPRoute (9), TCPRoute (8) and Gateway, on a real API server; the report: build/mesh/conformance.yaml."""
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import time
import unittest

import yaml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7test  # noqa: E402
import test_cluster as mesh  # noqa: E402
from kube_cluster import start_cluster  # noqa: E402

DNS = [sys.executable, "-c", """
import socket
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.bind(("0.0.0.0", 53))
while True:
    q, peer = u.recvfrom(4096)
    i = 12
    while q[i]:
        i += q[i] + 1
    u.sendto(q[:2] + bytes.fromhex("84000001000100000000") + q[12:i + 5] + bytes.fromhex("c00c000100010000003c00040a000001"), peer)
"""]
TESTS = [*(f"TCPRoute{n}" for n in ("InvalidBackendRefNonexistent", "InvalidCrossNamespaceBackendRef", "InvalidNonTCPListener",
                                    "MultipleRoutesAttachment", "ParentRefAttachAll", "ParentRefPortAndSectionName", "ReferenceGrant",
                                    "WeightedRouting")),
         *(f"UDPRoute{n}" for n in ("", "InvalidBackendRefNonexistent", "InvalidCrossNamespaceBackendRef", "MultipleRoutesAttachment",
                                    "NotAllowedByListeners", "ParentRefAttachAllListeners", "ParentRefPortAndSectionName", "ReferenceGrant",
                                    "WeightedRouting")),
         "GatewayClassObservedGenerationBump", "GatewayObservedGenerationBump"]
# Why these are left out: docs/mesh.md, Conformance.
LEFT_OUT = ["GatewayModifyListeners", "GatewayInvalidRouteKind", "GatewayListenerUnsupportedProtocol", "GatewayInvalidTLSConfiguration",
            "GatewaySecretInvalidReferenceGrant", "GatewaySecretMissingReferenceGrant", "GatewaySecretReferenceGrantAllInNamespace",
            "GatewaySecretReferenceGrantSpecific"]
# Their subtests that no HTTPRoute is needed for.
PARTS = {"GatewayInvalidRouteKind": "Gateway_listener_should_have_a_false_ResolvedRefs_condition_with_reason_InvalidRouteKinds_and_no_supportedKinds",
         "GatewayListenerUnsupportedProtocol": "Gateway_with_no_accepted_listeners_should_not_be_accepted_and_the_listener_should_have_the_"
                                               "Accepted_condition_set_to_False_with_reason_UnsupportedProtocol"}


class Provisioner(threading.Thread):
    """A Deployment of a proxy for each Gateway, as an administrator makes one from deploy/gateway/deployment.yaml."""

    def __init__(self, cluster):
        super().__init__(daemon=True)
        self.cluster, self.stopping, self.done, self.trouble = cluster, False, set(), []
        gateway = l7test.ROOT / "deploy/gateway"
        self.deployment = next(iter(yaml.safe_load_all((gateway / "deployment.yaml").read_text())))
        self.config = yaml.safe_load((gateway / "proxy.yaml").read_text())
        self.secret = cluster.api.get("/api/v1/namespaces/default/secrets/l7mp-proxy")["data"]

    def make(self, namespace, name):
        deployment = json.loads(json.dumps(self.deployment).replace('"edge"', json.dumps(name)))
        deployment["metadata"]["namespace"] = namespace
        deployment["spec"]["replicas"] = 1
        config = {**self.config, "metadata": {**self.config["metadata"], "namespace": namespace}}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "l7mp-proxy", "namespace": namespace}, "data": self.secret}
        self.cluster.apply([secret, config, deployment])

    def run(self):
        while not self.stopping:
            try:
                for g in self.cluster.api.get("/apis/gateway.networking.k8s.io/v1/gateways")["items"]:
                    key = g["metadata"]["namespace"], g["metadata"]["name"]
                    if g["spec"]["gatewayClassName"] == "l7mp" and key not in self.done:
                        self.done.add(key)
                        self.make(*key)
            except Exception as e:  # the test that lacks its proxy fails, and shows this
                self.trouble.append(repr(e)[:500])
            time.sleep(0.3)


class Conformance(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        start_cluster(cls)
        cls.podlet = mesh.Podlet(cls.cluster, {"l7mp": ["/usr/lib/l7mp/start"], "echo-basic": [str(cls.cluster.bin / "echo-basic")],
                                               "coredns": lambda spec: DNS})
        cls.podlet.__enter__()
        cls.addClassCleanup(cls.podlet.__exit__, None, None, None)
        mesh.Mesh.cluster, mesh.Mesh.podlet = cls.cluster, cls.podlet
        mesh.Mesh.deploy.__func__(mesh.Mesh, cls.cluster.bin)
        # It would have each Gateway's ports on one address, where they clash.
        cls.cluster.kubectl("delete", "daemonset", "l7mp-ingress", "--wait=false")
        cls.provisioner = Provisioner(cls.cluster)
        cls.provisioner.start()
        cls.out = l7test.ROOT / "build/mesh"
        cls.out.mkdir(parents=True, exist_ok=True)

        try:
            cls.text = cls.conformance()
        finally:
            cls.provisioner.stopping = True
            cls.provisioner.join(30)

    @classmethod
    def conformance(cls, name="conformance", *args):
        """Runs the suite once. Returns what it has printed."""
        log = cls.out / f"{name}.log"
        args = args or ("-skip-tests", ",".join(LEFT_OUT))
        with open(log, "w") as f:
            subprocess.run([cls.cluster.bin / "conformance.test", "-test.v", "-test.timeout", "900s", "-gateway-class", "l7mp",
                            "-conformance-profiles", "GATEWAY-UDP,GATEWAY-TCP", "-cleanup-base-resources=false", *args,
                            "-organization", "l7mp", "-project", "l7mp", "-url", "https://l7mp.io", "-contact", "l7mp.io",
                            "-version", (l7test.ROOT / "VERSION").read_text().strip(), "-report-output", cls.out / f"{name}.yaml"],
                           env={**os.environ, "KUBECONFIG": str(cls.cluster.dir / "admin.conf")}, cwd=cls.cluster.dir, stdout=f,
                           stderr=subprocess.STDOUT, timeout=1000)
        return log.read_text(errors="replace")

    def check(self, name):
        # With a wrong name the suite runs nothing, and says PASS.
        if not re.search(rf"--- PASS: TestConformance/{re.escape(name)} ", self.text):
            lines = [line for line in self.text.splitlines() if name in line]
            self.fail("\n".join([*lines[-30:], self.text[-2000:], str(self.provisioner.trouble), str(self.podlet.problems)]))

    def test_report(self):
        """the report counts the 17 route tests and those of Gateways, and no failure"""
        report = yaml.safe_load((self.out / "conformance.yaml").read_text())
        for profile in report["profiles"]:
            self.assertEqual(profile["core"]["statistics"]["Failed"], 0, profile)
        self.assertEqual({p["name"]: p["core"]["statistics"]["Passed"] for p in report["profiles"]}, {"GATEWAY-UDP": 11, "GATEWAY-TCP": 10})

    def test_parts(self):
        """what needs no HTTPRoute in the tests that are left out passes, and docs/mesh.md names them all"""
        for name, part in PARTS.items():
            text = self.conformance(f"conformance-{name}", "-run-test", name)
            self.assertRegex(text, rf"--- PASS: TestConformance/{name}/{part} ", text[-3000:])
            # When the rest passes, too, it is left out no longer.
            self.assertRegex(text, rf"--- FAIL: TestConformance/{name} ")
        page = (l7test.ROOT / "docs/mesh.md").read_text()
        self.assertEqual([n for n in LEFT_OUT if n not in page], [])


def add(name):
    def test(self):
        self.check(name)
    test.__doc__ = f"conformance: {name}"
    setattr(Conformance, f"test_{name}", test)


for test_name in TESTS:
    add(test_name)

if __name__ == "__main__":
    l7test.main()
