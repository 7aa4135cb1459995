# SPDX-License-Identifier: MIT
"""A real Kubernetes control plane on loopback (scripts/mesh-tools.sh), and an API client for tests.

etcd, kube-apiserver and kube-controller-manager are children of the test and run in its network
namespace; podlet.py plays scheduler and kubelet.
"""
import base64
import http.client
import json
import os
import pathlib
import shutil
import ssl
import subprocess
import tempfile
import time
import unittest
import urllib.parse

import l7test

# The bridge's address, that of the only "machine": pods reach the API server there.
HOST = "10.244.0.1"
PORT = 6443
CONTROLLERS = ("garbage-collector-controller,namespace-controller,serviceaccount-controller,"
               "root-ca-certificate-publisher-controller,endpoints-controller,endpointslice-controller,"
               "deployment-controller,replicaset-controller,daemonset-controller,statefulset-controller")


def tools(build=False):
    """(folder of the control plane's programs, None) or (None, why there is none)."""
    r = subprocess.run([l7test.ROOT / "scripts/mesh-tools.sh", *([] if build else ["--check"])], stdout=subprocess.PIPE,
                       stderr=None if build else subprocess.DEVNULL, text=True)
    last = (r.stdout.strip().splitlines() or ["mesh-tools.sh failed"])[-1]
    return (pathlib.Path(last), None) if r.returncode == 0 else (None, last)


class ApiError(Exception):
    def __init__(self, status, body):
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body


class KubeApi:
    """Requests to the API server, one connection each (watches last long)."""

    def __init__(self, ca, cert=None, key=None, token=None, host="127.0.0.1", port=PORT):
        self.host, self.port, self.token = host, port, token
        self.context = ssl.create_default_context(cafile=ca)
        if cert:
            self.context.load_cert_chain(cert, key)

    def open(self, method, path, body=None, kind="application/json", timeout=120):
        c = http.client.HTTPSConnection(self.host, self.port, context=self.context, timeout=timeout)
        headers = {"Accept": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if body is not None:
            headers["Content-Type"] = kind
            body = json.dumps(body)
        c.request(method, path, body, headers)
        return c, c.getresponse()

    def call(self, method, path, body=None, kind="application/json", ok=()):
        """The answer as a dict; ApiError unless it is 2xx or in `ok`."""
        c, r = self.open(method, path, body, kind)
        try:
            text = r.read().decode()
        finally:
            c.close()
        if r.status // 100 != 2 and r.status not in ok:
            raise ApiError(r.status, text[:1000])
        return json.loads(text) if text[:1] in "{[" else text

    def get(self, path, **kw):
        return self.call("GET", path, **kw)

    def find(self, path):
        """The object, or None."""
        try:
            return self.get(path)
        except ApiError as e:
            if e.status == 404:
                return None
            raise

    def merge(self, path, patch):
        return self.call("PATCH", path, patch, "application/merge-patch+json")

    def delete(self, path, grace=None):
        query = "" if grace is None else f"?gracePeriodSeconds={grace}"
        return self.call("DELETE", path + query, ok=(404,))

    def watch(self, path, version, stop):
        """Yields (type, object) until stop() or the server ends the watch."""
        query = urllib.parse.urlencode({"watch": 1, "resourceVersion": version, "allowWatchBookmarks": "true", "timeoutSeconds": 300})
        c, r = self.open("GET", f"{path}?{query}", timeout=1)
        try:
            if r.status != 200:
                raise ApiError(r.status, r.read().decode()[:500])
            line = b""
            while not stop():
                try:
                    chunk = r.fp.readline() if not r.chunked else r.readline()
                except TimeoutError:
                    # http.client can't read on after a time-out in the middle of a chunk's head.
                    return
                if not chunk:
                    return
                line += chunk
                if line.endswith(b"\n"):
                    event = json.loads(line)
                    line = b""
                    yield event["type"], event["object"]
        finally:
            c.close()


class Cluster:
    """The control plane; `with Cluster() as c:` has it ready, c.api is its administrator."""

    def __init__(self, bin_dir):
        self.bin = pathlib.Path(bin_dir)
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="l7mp-cluster-"))
        self.children = {}
        self.api = None

    # ---- certificates ----

    def openssl(self, *args):
        subprocess.run(["openssl", *args], cwd=self.dir, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def certificate(self, name, subject, san):
        (self.dir / "ext").write_text(f"subjectAltName={san}\nextendedKeyUsage=serverAuth,clientAuth\n")
        self.openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key")
        self.openssl("req", "-new", "-key", f"{name}.key", "-subj", subject, "-out", f"{name}.csr")
        self.openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30",
                     "-out", f"{name}.crt", "-extfile", "ext")

    def certificates(self):
        self.openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "ca.key")
        self.openssl("req", "-x509", "-new", "-key", "ca.key", "-subj", "/CN=l7mp-test-ca", "-days", "30", "-out", "ca.crt")
        self.certificate("api", "/CN=kube-apiserver",
                         f"IP:127.0.0.1,IP:{HOST},IP:10.96.0.1,DNS:localhost,DNS:kubernetes.default.svc")
        self.certificate("admin", "/O=system:masters/CN=admin", "DNS:admin")
        self.openssl("genrsa", "-out", "sa.key", "2048")
        self.openssl("rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub")

    def kubeconfig(self, path, server=f"https://127.0.0.1:{PORT}"):
        def b64(name):
            return base64.b64encode((self.dir / name).read_bytes()).decode()
        doc = {"apiVersion": "v1", "kind": "Config", "current-context": "c",
               "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority-data": b64("ca.crt")}}],
               "users": [{"name": "a", "user": {"client-certificate-data": b64("admin.crt"), "client-key-data": b64("admin.key")}}],
               "contexts": [{"name": "c", "context": {"cluster": "c", "user": "a"}}]}
        pathlib.Path(path).write_text(json.dumps(doc))
        return path

    # ---- processes ----

    def start(self, name, *args):
        log = open(self.dir / f"{name}.log", "ab")
        self.children[name] = subprocess.Popen([self.bin / name, *args], cwd=self.dir, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        log.close()

    def stop(self, name, kill=False):
        child = self.children.pop(name, None)
        if not child:
            return
        (child.kill if kill else child.terminate)()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def start_etcd(self):
        a = "127.0.0.1"
        self.start("etcd", "--data-dir=etcd", "--unsafe-no-fsync", f"--listen-client-urls=http://{a}:2379",
                   f"--advertise-client-urls=http://{a}:2379", f"--listen-peer-urls=http://{a}:2380",
                   f"--initial-advertise-peer-urls=http://{a}:2380", f"--initial-cluster=default=http://{a}:2380")

    def start_apiserver(self):
        self.start("kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--bind-address=0.0.0.0", f"--advertise-address={HOST}",
                   f"--secure-port={PORT}", "--tls-cert-file=api.crt", "--tls-private-key-file=api.key", "--client-ca-file=ca.crt",
                   "--authorization-mode=RBAC", "--service-account-issuer=https://kubernetes.default.svc",
                   "--service-account-key-file=sa.pub", "--service-account-signing-key-file=sa.key",
                   "--service-cluster-ip-range=10.96.0.0/16", "--allow-privileged", "--endpoint-reconciler-type=none",
                   "--enable-priority-and-fairness=false")

    def wait_apiserver(self):
        def ready():
            assert self.children["kube-apiserver"].poll() is None, self.log("kube-apiserver")
            try:
                return "ok" in str(self.api.get("/readyz"))
            except (OSError, ApiError, http.client.HTTPException):
                return False
        l7test.wait_for(ready, 240, 0.1)

    def log(self, name, size=3000):
        return (self.dir / f"{name}.log").read_text(errors="replace")[-size:]

    def __enter__(self):
        try:
            self.begin()
        except BaseException:
            self.close()
            raise
        return self

    def begin(self):
        subprocess.run(["ip", "link", "add", "kube0", "type", "bridge"], check=True)
        subprocess.run(["ip", "addr", "add", f"{HOST}/16", "dev", "kube0"], check=True)
        subprocess.run(["ip", "link", "set", "kube0", "up"], check=True)
        self.certificates()
        self.api = KubeApi(self.dir / "ca.crt", self.dir / "admin.crt", self.dir / "admin.key")
        self.start_etcd()
        self.start_apiserver()
        self.wait_apiserver()
        self.kubeconfig(self.dir / "admin.conf")
        self.start("kube-controller-manager", "--kubeconfig=admin.conf", "--leader-elect=false",
                   "--service-account-private-key-file=sa.key", "--root-ca-file=ca.crt", f"--controllers={CONTROLLERS}")
        l7test.wait_for(lambda: self.api.find("/api/v1/namespaces/default/serviceaccounts/default"), 240, 0.1)

    def close(self):
        for name in ("kube-controller-manager", "kube-apiserver", "etcd"):
            self.stop(name, kill=True)
        subprocess.run(["ip", "link", "del", "kube0"], stderr=subprocess.DEVNULL)
        shutil.rmtree(self.dir, ignore_errors=True)

    def __exit__(self, kind, value, trace):
        self.close()

    # ---- for tests ----

    def kubectl(self, *args, text=None, check=True):
        r = subprocess.run([self.bin / "kubectl", f"--kubeconfig={self.dir}/admin.conf", *args], input=text, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "HOME": str(self.dir)})
        if check and r.returncode:
            raise AssertionError(f"kubectl {' '.join(args)}: {r.stdout[-3000:]}")
        return r.stdout

    def apply(self, objects):
        """One object, a list of them, or YAML text."""
        if not isinstance(objects, str):
            items = objects if isinstance(objects, list) else [objects]
            objects = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        return self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", text=objects)

    def crds(self, folder):
        """Installs all CRDs of a folder, and waits until the API server serves them."""
        names = []
        for path in sorted(pathlib.Path(folder).glob("*.yaml")):
            if "kind: CustomResourceDefinition" in path.read_text():
                self.kubectl("apply", "--server-side", "-f", str(path))
                names.append(path)

        def established(crd):
            return any(c["type"] == "Established" and c["status"] == "True" for c in crd.get("status", {}).get("conditions") or [])
        # kubectl wait fails when a new one has no conditions yet.
        wait_until(lambda: all(established(c) for c in self.api.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")["items"]), 120)
        return names

    def namespace(self, name, labels=None):
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}}})
        l7test.wait_for(lambda: self.api.find(f"/api/v1/namespaces/{name}/serviceaccounts/default"), 120, 0.05)


def wait_until(what, seconds=60, step=0.05):
    """Like l7test.wait_for, for conditions that also fail by an error of the API."""
    end = time.monotonic() + seconds * l7test.SLOW
    while True:
        try:
            result = what()
            if result:
                return result
        except (ApiError, OSError, http.client.HTTPException, KeyError, IndexError):
            result = None
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s")
        time.sleep(step)


def start_cluster(case):
    """Starts a control plane as `case.cluster` for a test class, and stops it after the class; skips the class without its programs or root."""
    bin_dir, why = tools()
    if why or not l7test.ISOLATED:
        raise unittest.SkipTest(why or "needs root")
    case.cluster = Cluster(bin_dir)
    case.addClassCleanup(case.cluster.close)
    case.cluster.begin()
