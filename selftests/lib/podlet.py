# SPDX-License-Identifier: MIT
"""Plays scheduler and kubelet for the mesh tests.

Each pod is a network namespace on the bridge of the cluster (kube_cluster.py), or the bridge's own
with hostNetwork; each container a process in it, with an overlay of this machine's files as its
root, so that volumes can be laid at any path. What it starts is decided by the image's name.
"""
import base64
import http.client
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.request

import l7test
from kube_cluster import HOST, PORT, ApiError

# $1: the host's name, $2: an empty folder, $3: number of binds, then pairs SOURCE TARGET, then the program.
ENTER = """
hostname "$1"
root=$2/root n=$3; shift 3
mount --make-rprivate / && mount -t tmpfs tmpfs "${root%/root}" && mkdir "$root" "${root%/root}/u" "${root%/root}/w" || exit 125
mount -t overlay overlay -o "lowerdir=/,upperdir=${root%/root}/u,workdir=${root%/root}/w" "$root" || exit 125
for d in proc sys dev tmp; do mount --rbind /$d "$root/$d" || exit 125; done
while [ "$n" -gt 0 ]; do
  at=$root$(chroot "$root" realpath -m "$2") # /var/run leads to /run, of this root
  if [ -d "$1" ]; then mkdir -p "$at"; else mkdir -p "$(dirname "$at")"; [ -e "$at" ] || : >"$at"; fi
  mount --bind "$1" "$at" || exit 125
  shift 2; n=$((n - 1))
done
exec chroot "$root" "$@"
"""


class Container:
    def __init__(self, pod, spec, sidecar=False):
        self.pod, self.spec, self.sidecar = pod, spec, sidecar
        self.name = spec["name"]
        self.process = None
        self.env = []
        self.restarts = 0
        self.ready = False
        self.failed = ""
        self.log = pod.dir / f"{self.name}.log"

    def start(self):
        argv = self.pod.podlet.command(self.spec)
        binds = [x for pair in self.pod.podlet.files(self.spec) for x in pair]
        for m in self.spec.get("volumeMounts", []):
            source = self.pod.volumes.get(m["name"])
            if source:
                binds += [str(source / m["subPath"]) if m.get("subPath") else str(source), m["mountPath"]]
        scratch = self.pod.dir / f"root-{self.name}"
        scratch.mkdir(exist_ok=True)
        env = ["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
               f"KUBERNETES_SERVICE_HOST={HOST}", f"KUBERNETES_SERVICE_PORT={PORT}", f"HOSTNAME={self.pod.name}",
               *(f"{k}={v}" for k, v in self.pod.environment(self.spec))]
        self.env = env
        args = [*self.pod.enter, "unshare", "--mount", "--uts", "sh", "-c", ENTER, "sh", self.pod.name, str(scratch), str(len(binds) // 2), *binds, *env, *argv]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(args, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)

    def running(self):
        return self.process is not None and self.process.poll() is None

    def probe(self):
        """Whether its readiness probe, or else its startup probe, passes."""
        spec = self.spec.get("readinessProbe") or self.spec.get("startupProbe") or {}
        ports = {p.get("name"): p["containerPort"] for p in self.spec.get("ports", [])}
        if "exec" in spec:
            pid = self.process.pid
            r = subprocess.run(["nsenter", "-t", str(pid), "-n", "-m", "-r", *self.env, *spec["exec"]["command"]], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, timeout=20)
            return r.returncode == 0
        test = spec.get("httpGet") or spec.get("tcpSocket")
        if not test:
            return True
        port = ports.get(test["port"], test["port"])
        host = test.get("host") or self.pod.ip
        if "httpGet" in spec:
            return answers(self.pod.enter, f"http://{host}:{port}{test.get('path', '/')}")
        r = subprocess.run([*self.pod.enter, "bash", "-c", f"exec 3<>/dev/tcp/{host}/{port}"], stderr=subprocess.DEVNULL)
        return r.returncode == 0

    def check(self):
        """Restarts it when it has ended, and looks whether it is ready."""
        if not self.running():
            self.ready = False
            self.restarts += 1
            self.failed = self.log.read_text(errors="replace")[-500:]
            time.sleep(0.2)
            self.start()
            return
        try:
            self.ready = self.probe()
        except (OSError, subprocess.SubprocessError):
            self.ready = False

    def stop(self, grace):
        if not self.running():
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(grace)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def status(self):
        state = {"running": {"startedAt": now()}} if self.running() else {"waiting": {"reason": "CrashLoopBackOff"}}
        return {"name": self.name, "ready": self.ready, "started": self.running(), "restartCount": self.restarts,
                "image": self.spec["image"], "imageID": self.spec["image"], "state": state}


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def answers(enter, url):
    """Whether a GET in a network namespace is answered 2xx."""
    if not enter:
        try:
            return urllib.request.urlopen(url, timeout=5).status // 100 == 2
        except OSError:
            return False
    r = subprocess.run([*enter, "curl", "-s", "-o", "/dev/null", "-m", "5", "-w", "%{http_code}", url], stdout=subprocess.PIPE, text=True)
    return r.stdout.startswith("2")


class Pod(threading.Thread):
    def __init__(self, podlet, obj):
        super().__init__(daemon=True)
        meta = obj["metadata"]
        self.podlet, self.obj = podlet, obj
        self.name, self.namespace, self.uid = meta["name"], meta["namespace"], meta["uid"]
        self.path = f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="pod-", dir=podlet.dir))
        self.volumes = {}
        self.containers, self.inits = [], []
        self.ip, self.netns, self.enter = "", None, []
        self.deleting = threading.Event()
        self.grace = 0.0
        self.shown = None
        self.problem = ""

    # ---- what it consists of ----

    def network(self):
        if self.obj["spec"].get("hostNetwork"):
            self.ip = HOST
            return
        self.ip = self.podlet.address(self.obj)
        self.netns = f"l7mp-pod-{os.getpid()}-{self.ip.replace('.', '-')}-{self.uid[:8]}"
        self.enter = ["ip", "netns", "exec", self.netns]
        veth = "p" + self.uid.replace("-", "")[:12]
        for args in (("netns", "add", self.netns), ("link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", self.netns),
                     ("link", "set", veth, "master", "kube0", "up"), ("-n", self.netns, "addr", "add", f"{self.ip}/16", "dev", "eth0"),
                     ("-n", self.netns, "link", "set", "lo", "up"), ("-n", self.netns, "link", "set", "eth0", "up"),
                     ("-n", self.netns, "route", "add", "default", "via", HOST)):
            subprocess.run(["ip", *args], check=True)

    def field(self, path):
        meta, spec = self.obj["metadata"], self.obj["spec"]
        fixed = {"status.podIP": self.ip, "status.hostIP": HOST, "spec.nodeName": spec.get("nodeName", self.podlet.nodes[0]),
                 "spec.serviceAccountName": spec.get("serviceAccountName", "default")}
        if path in fixed:
            return fixed[path]
        key = path.removeprefix("metadata.")
        if "['" in key:
            table, _, name = key.partition("['")
            return meta.get(table, {}).get(name.rstrip("']"), "")
        value = meta.get(key, "")
        return "\n".join(f'{k}="{v}"' for k, v in sorted(value.items())) if isinstance(value, dict) else value

    def environment(self, container):
        out = []
        for e in container.get("env", []):
            source = e.get("valueFrom", {})
            if "fieldRef" in source:
                out.append((e["name"], self.field(source["fieldRef"]["fieldPath"])))
            elif "secretKeyRef" in source:
                ref = source["secretKeyRef"]
                out.append((e["name"], self.data("secrets", ref["name"]).get(ref["key"], b"").decode()))
            elif "configMapKeyRef" in source:
                ref = source["configMapKeyRef"]
                out.append((e["name"], self.data("configmaps", ref["name"]).get(ref["key"], b"").decode()))
            elif not source:
                value = e.get("value", "")
                for k, v in out:
                    value = value.replace(f"$({k})", v)
                out.append((e["name"], value))
        return out

    def data(self, kind, name, optional=False):
        try:
            obj = self.podlet.api.get(f"/api/v1/namespaces/{self.namespace}/{kind}/{name}")
        except ApiError as e:
            if e.status == 404 and optional:
                return {}
            raise
        if kind == "secrets":
            return {k: base64.b64decode(v) for k, v in obj.get("data", {}).items()}
        return {k: v.encode() for k, v in obj.get("data", {}).items()}

    def token(self, seconds, audience):
        account = self.obj["spec"].get("serviceAccountName", "default")
        spec = {"expirationSeconds": max(seconds, 600), "audiences": [audience] if audience else [],
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": self.name, "uid": self.uid}}
        answer = self.podlet.api.call("POST", f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{account}/token",
                                      {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec})
        return answer["status"]["token"].encode()

    def files(self, volume):
        """{path: bytes} of a volume; None: it is a folder of its own."""
        if "secret" in volume:
            v = volume["secret"]
            return pick(self.data("secrets", v["secretName"], v.get("optional", False)), v.get("items"))
        if "configMap" in volume:
            v = volume["configMap"]
            return pick(self.data("configmaps", v["name"], v.get("optional", False)), v.get("items"))
        if "downwardAPI" in volume:
            return {i["path"]: self.field(i["fieldRef"]["fieldPath"]).encode() for i in volume["downwardAPI"]["items"]}
        if "projected" not in volume:
            return None
        out = {}
        for source in volume["projected"]["sources"]:
            if "serviceAccountToken" in source:
                t = source["serviceAccountToken"]
                out[t["path"]] = self.token(t.get("expirationSeconds", 3600), t.get("audience", ""))
            elif "configMap" in source or "secret" in source:
                kind = "configmaps" if "configMap" in source else "secrets"
                v = source.get("configMap") or source["secret"]
                out.update(pick(self.data(kind, v["name"], v.get("optional", False)), v.get("items")))
            elif "downwardAPI" in source:
                out.update(self.files(source))
        return out

    def lay_volumes(self, again=False):
        for v in self.obj["spec"].get("volumes", []):
            if again and "secret" not in v and "configMap" not in v:
                continue
            path = self.dir / "volumes" / v["name"]
            path.mkdir(parents=True, exist_ok=True)
            self.volumes[v["name"]] = path
            if "hostPath" in v:
                self.volumes[v["name"]] = pathlib.Path(v["hostPath"]["path"])
            for name, text in (self.files(v) or {}).items():
                file = path / name
                if file.exists() and file.read_bytes() == text:
                    continue
                file.parent.mkdir(parents=True, exist_ok=True)
                new = file.with_name(file.name + ".new")
                new.write_bytes(text)
                new.chmod(0o600)
                new.rename(file)

    # ---- its life ----

    def run(self):
        try:
            self.live()
        except Exception as e:  # a pod's trouble is the test's to see, in its status
            self.problem = repr(e)
            self.podlet.problems.append(f"{self.namespace}/{self.name}: {e!r}")
            while not self.deleting.wait(0.2):
                pass
        self.finish()

    def live(self):
        if not self.obj["spec"].get("nodeName"):
            self.podlet.api.call("POST", f"{self.path}/binding", {
                "apiVersion": "v1", "kind": "Binding", "metadata": {"name": self.name},
                "target": {"apiVersion": "v1", "kind": "Node", "name": self.podlet.node_of(self.obj)}}, ok=(409,))
        self.network()
        while not self.deleting.is_set():
            try:
                self.lay_volumes()
                break
            except ApiError as e:
                if e.status != 404:
                    raise
                self.deleting.wait(0.2)  # a Secret or ConfigMap that is not there yet
        for spec in self.obj["spec"].get("initContainers", []):
            c = Container(self, spec, spec.get("restartPolicy") == "Always")
            self.inits.append(c)
            c.start()
            while not self.deleting.is_set() and not (c.ready if c.sidecar else not c.running()):
                if c.sidecar:
                    c.check()
                time.sleep(0.05)
        for spec in self.obj["spec"]["containers"]:
            c = Container(self, spec)
            self.containers.append(c)
            c.start()
        laid = time.monotonic()
        while not self.deleting.is_set():
            for c in self.inits + self.containers:
                if c.sidecar or c in self.containers:
                    c.check()
            try:
                self.show()
                if time.monotonic() - laid > 2:
                    self.lay_volumes(again=True)
                    laid = time.monotonic()
            except (ApiError, OSError, http.client.HTTPException):
                self.shown = None  # the API server is away, or the pod has just gone: once more
            self.deleting.wait(0.1)

    def show(self, phase="Running"):
        ready = all(c.ready for c in self.containers + [i for i in self.inits if i.sidecar])
        state = (ready, [(c.name, c.ready, c.restarts) for c in self.inits + self.containers])
        if state == self.shown:
            return
        self.shown = state
        conditions = [{"type": t, "status": "True" if ready or t in ("PodScheduled", "Initialized") else "False",
                       "lastTransitionTime": now()} for t in ("PodScheduled", "Initialized", "ContainersReady", "Ready")]
        try:
            self.podlet.api.merge(f"{self.path}/status", {"status": {
                "phase": phase, "podIP": self.ip, "podIPs": [{"ip": self.ip}], "hostIP": HOST, "hostIPs": [{"ip": HOST}],
                "startTime": now(), "conditions": conditions, "containerStatuses": [c.status() for c in self.containers],
                "initContainerStatuses": [c.status() for c in self.inits]}})
        except ApiError as e:
            if e.status != 404:
                raise

    def finish(self):
        end = time.monotonic() + self.grace
        for c in self.containers + list(reversed(self.inits)):
            if c.running() and c in self.containers:
                c.process.send_signal(signal.SIGTERM)
        for c in self.containers + list(reversed(self.inits)):
            c.stop(max(0.0, end - time.monotonic()))
        if self.netns:
            subprocess.run(["ip", "netns", "del", self.netns], stderr=subprocess.DEVNULL)
        self.podlet.release(self)
        while not self.podlet.stopping:
            try:
                self.podlet.api.call("DELETE", self.path, {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
                                                           "preconditions": {"uid": self.uid}}, ok=(404, 409))
                break
            except (ApiError, OSError, http.client.HTTPException):
                time.sleep(0.2)
        shutil.rmtree(self.dir, ignore_errors=True)


def image_name(spec):
    return spec["image"].rpartition("/")[2].partition(":")[0].partition("@")[0]


def pick(data, items):
    return data if not items else {i["path"]: data[i["key"]] for i in items if i["key"] in data}


class Podlet(threading.Thread):
    """`images`: {name without registry and tag: argv, or a function of the container's spec}."""

    def __init__(self, cluster, images, nodes=("node-a",)):
        super().__init__(daemon=True)
        self.api, self.images, self.nodes = cluster.api, images, list(nodes)
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="l7mp-podlet-"))
        self.lock = threading.Lock()
        self.pods, self.taken, self.problems, self.gone = {}, set(), [], set()
        self.next = 0
        self.stopping = False
        self.reuse = {}

    def command(self, spec):
        known = self.images.get(image_name(spec))
        if known is None:
            raise ValueError(f"no program for image {spec['image']}")
        if callable(known):
            return known(spec)
        return [*(spec.get("command") or known), *spec.get("args", [])]

    def files(self, spec):
        """What the image has beside this machine's files: pairs of a path here and one in the container."""
        if image_name(spec) != "l7mp":
            return []
        build = l7test.ROOT / os.environ.get("L7MP_BUILD", "build")
        names = ("l7mp-operator", "l7mpctl")
        return ([(str(build / "l7mp-proxy"), "/usr/sbin/l7mp-proxy")] + [(str(build / n), f"/usr/bin/{n}") for n in names] +
                [(str(l7test.ROOT / "scripts/container" / n), f"/usr/lib/l7mp/{n}") for n in ("start", "healthy")])

    def address(self, obj):
        """A free address; an annotation of the test may ask for one."""
        wanted = obj["metadata"].get("annotations", {}).get("test.l7mp.io/ip")
        with self.lock:
            if wanted:
                self.taken.add(wanted)
                return wanted
            while True:
                self.next = self.next % 60000 + 1
                ip = f"10.244.{self.next // 250 + 1}.{self.next % 250 + 2}"
                if ip not in self.taken:
                    self.taken.add(ip)
                    return ip

    def release(self, pod):
        with self.lock:
            self.taken.discard(pod.ip)
            self.pods.pop(pod.uid, None)
            self.gone.add(pod.uid)

    def node_of(self, obj):
        affinity = obj["spec"].get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", {})
        for term in affinity.get("nodeSelectorTerms", []):
            for f in term.get("matchFields", []):
                if f["key"] == "metadata.name":
                    return f["values"][0]
        return self.nodes[0]

    def make_nodes(self):
        for name in self.nodes:
            self.api.call("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {
                "name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}}}, ok=(409,))
            # The API server's admission gives each new node a taint, which the controllers that are not run would take away.
            self.api.merge(f"/api/v1/nodes/{name}", {"spec": {"taints": None}})
            self.api.merge(f"/api/v1/nodes/{name}/status", {"status": {
                "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": now(), "lastTransitionTime": now(), "reason": "podlet"}],
                "addresses": [{"type": "InternalIP", "address": HOST}], "capacity": {"cpu": "64", "memory": "64Gi", "pods": "10000"},
                "allocatable": {"cpu": "64", "memory": "64Gi", "pods": "10000"}}})

    def see(self, kind, obj):
        meta = obj["metadata"]
        with self.lock:
            pod = self.pods.get(meta["uid"])
        if kind == "DELETED":
            if pod:
                pod.deleting.set()
            return
        if meta["uid"] in self.gone:
            return
        if not pod and obj.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
            pod = Pod(self, obj)
            with self.lock:
                self.pods[pod.uid] = pod
            if meta.get("deletionTimestamp"):
                pod.deleting.set()
            pod.start()
        if pod and meta.get("deletionTimestamp") and not pod.deleting.is_set():
            pod.grace = float(meta.get("deletionGracePeriodSeconds") or 0)
            pod.deleting.set()

    def run(self):
        version = None
        while not self.stopping:
            try:
                if version is None:
                    page = self.api.get("/api/v1/pods")
                    version = page["metadata"]["resourceVersion"]
                    for obj in page["items"]:
                        self.see("ADDED", obj)
                for kind, obj in self.api.watch("/api/v1/pods", version, lambda: self.stopping):
                    if kind == "ERROR":
                        version = None
                        break
                    version = obj["metadata"]["resourceVersion"]
                    if kind != "BOOKMARK":
                        self.see(kind, obj)
            except ApiError:
                version = None
                time.sleep(0.2)
            except (OSError, http.client.HTTPException):
                time.sleep(0.2)

    def __enter__(self):
        self.make_nodes()
        self.start()
        return self

    def __exit__(self, kind, value, trace):
        self.stopping = True
        self.join(30)
        with self.lock:
            pods = list(self.pods.values())
        for p in pods:
            p.deleting.set()
        for p in pods:
            p.join(60)
        shutil.rmtree(self.dir, ignore_errors=True)

    # ---- for tests ----

    def pod(self, namespace, name):
        with self.lock:
            return next((p for p in self.pods.values() if (p.namespace, p.name) == (namespace, name)), None)

    def log(self, namespace, name, container):
        return (self.pod(namespace, name).dir / f"{container}.log").read_text(errors="replace")

    def exec(self, namespace, name, *argv, **kw):
        """Runs a program in the pod's network namespace."""
        return subprocess.run([*self.pod(namespace, name).enter, *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=120 * l7test.SLOW, **kw)
