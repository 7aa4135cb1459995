# SPDX-License-Identifier: MIT
"""Tests on a real API server whose pods are objects only: proxies are processes at the addresses of such pods."""
import base64
import concurrent.futures
import http.client
import json
import socket
import subprocess
import threading
import time
import unittest

import l7test
from kube_cluster import PORT as API_PORT
from kube_cluster import start_cluster, wait_until
from mesh import MeshProxy, Operator

L7MP = "/apis/l7mp.io/v1/namespaces/default"
PODS = "/api/v1/namespaces/default/pods"
NET = "10.250"
SYSTEM = "l7mp-system"
THREADS = 8


def say(text):
    print(f"# {text}", flush=True)


def pod(name, address, labels, proxy=True):
    """(object, its status): a pod that runs, with or without a proxy."""
    container = "l7mp" if proxy else "app"
    return ({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
             "spec": {"nodeName": "node-a", "terminationGracePeriodSeconds": 0, "containers": [{"name": container, "image": container}]}},
            {"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
                        "conditions": [{"type": "Ready", "status": "True"}],
                        "containerStatuses": [{"name": container, "ready": True, "image": container, "imageID": container, "restartCount": 0,
                                               "containerID": "test://1", "state": {"running": {}}}]}})


def service(name, port, labels, destination=None):
    """Answers on `port`: by itself, or by a destination."""
    return {"apiVersion": "l7mp.io/v1", "kind": "VirtualService", "metadata": {"name": name, "namespace": "default"},
            "spec": {"selector": {"matchLabels": labels}, "listener": {"spec": {"UDP": {"port": port}}, "rules": [
                {"action": {"route": {"destination": destination or {"spec": {"Echo": {}}}}}}]}}}


def target(name, labels, address, port=7):
    return {"apiVersion": "l7mp.io/v1", "kind": "Target", "metadata": {"name": name, "namespace": "default"},
            "spec": {"selector": {"matchLabels": labels}, "cluster": {"spec": {"UDP": {"port": port}}, "endpoints": [{"spec": {"address": address}}]}}}


class Session:
    """Requests on one connection that is kept."""

    def __init__(self, api):
        self.api, self.c = api, None

    def call(self, method, path, body=None, kind="application/json", ok=()):
        text = None if body is None else json.dumps(body)
        for again in (True, False):
            if not self.c:
                self.c = http.client.HTTPSConnection("127.0.0.1", API_PORT, context=self.api.context, timeout=120)
            try:
                self.c.request(method, path, text, {"Content-Type": kind})
                r = self.c.getresponse()
                answer = r.read()
                break
            except (OSError, http.client.HTTPException):
                self.c.close()
                self.c = None
                if not again:
                    raise
        if r.status // 100 != 2 and r.status not in ok:
            raise AssertionError(f"{method} {path}: {r.status} {answer[:500]}")
        return json.loads(answer)

    def create(self, o):
        return self.call("POST", f"{L7MP}/{o['kind'].lower()}s", o, ok=(409,))

    def delete(self, kind, name):
        return self.call("DELETE", f"{L7MP}/{kind.lower()}s/{name}", ok=(404,))


class OnServer(unittest.TestCase):
    """An API server with the CRDs and the shipped roles, and no podlet: pods are objects; a pod's proxy is a process at its address."""

    @classmethod
    def setUpClass(cls):
        start_cluster(cls)
        subprocess.run(["ip", "route", "add", "local", f"{NET}.0.0/16", "dev", "lo"], check=True)
        cls.api = cls.cluster.api
        cls.local = threading.local()
        root = l7test.ROOT
        cls.cluster.kubectl("apply", "-f", str(root / "deploy/namespace.yaml"))
        cls.cluster.crds(root / "deploy/crds")
        cls.cluster.crds(cls.cluster.bin.parent / "crds")
        cls.cluster.kubectl("apply", "-f", str(root / "deploy/rbac.yaml"), "-f", str(root / "deploy/gatewayclass.yaml"))
        cls.session().call("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}})
        cls.api.merge("/api/v1/nodes/node-a", {"spec": {"taints": None}})
        cls.pool = concurrent.futures.ThreadPoolExecutor(THREADS)
        cls.addClassCleanup(cls.pool.shutdown)
        cls.token = cls.cluster.dir / "proxies-token"
        cls.token.write_text("of-the-proxies\n")
        cls.token.chmod(0o600)
        cls.kubeconfig = cls.cluster.dir / "operator.conf"
        cls.role_kubeconfig(cls.kubeconfig)

    @classmethod
    def role_kubeconfig(cls, path):
        """That of the service account l7mp-operator: exactly what deploy/rbac.yaml gives it."""
        token = cls.api.call("POST", f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/l7mp-operator/token",
                             {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200, "audiences": []}})["status"]["token"]
        ca = base64.b64encode((cls.cluster.dir / "ca.crt").read_bytes()).decode()
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [{"name": "a", "user": {"token": token}}],
            "clusters": [{"name": "c", "cluster": {"server": f"https://127.0.0.1:{API_PORT}", "certificate-authority-data": ca}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "a", "namespace": SYSTEM}}]}))

    @classmethod
    def session(cls):
        if not hasattr(cls.local, "session"):
            cls.local.session = Session(cls.api)
        return cls.local.session

    def each(self, function, items):
        """Calls it for all, in a few threads; the errors are the test's."""
        return list(self.pool.map(function, items))

    def add_pod(self, o, status):
        name = o["metadata"]["name"]
        self.session().call("POST", PODS, o)
        self.session().call("PATCH", f"{PODS}/{name}/status", status, "application/merge-patch+json")

    def tearDown(self):
        def delete(path, **kw):
            self.api.delete(path, **kw)
            return True
        for kind in ("virtualservices", "targets", "rules", "routes"):
            # Of thousands the API server deletes as many as it can within a minute, and answers 504.
            wait_until(lambda kind=kind: delete(f"{L7MP}/{kind}"), 600)
        wait_until(lambda: delete(PODS, grace=0), 600)
        wait_until(lambda: not self.api.get(PODS + "?limit=1")["items"], 240)

    def proxy(self, address, **admin):
        """`admin`: more of its config."""
        p = MeshProxy(address, log_level="warn", api_token_file=str(self.token), **admin)
        p.api.headers["Authorization"] = f"Bearer {self.token.read_text().strip()}"
        self.addCleanup(p.stop)
        return p

    def operator(self, *args, lease=True, token=None, **kw):
        o = Operator(*args, "--proxy-token", str(token or self.token), kubeconfig=str(self.kubeconfig), lease=lease, **kw)
        self.addCleanup(o.stop)
        return o

    def answer(self, port, host, seconds=120):
        """Sends until an answer comes."""
        end = time.monotonic() + seconds
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.connect((host, port))
            s.settimeout(0.002)
            while time.monotonic() < end:
                try:
                    s.send(b"x")
                    return s.recv(100)
                except (TimeoutError, ConnectionRefusedError, BlockingIOError):
                    continue
        raise AssertionError(f"no answer at {host}:{port}")
