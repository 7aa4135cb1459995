# SPDX-License-Identifier: MIT
"""A fake API server of Kubernetes, for the operator's tests: objects, LIST in pages, WATCH with
bookmarks, merge patches, tokens and TLS; and faults, as a script.

It keeps objects as they are given, without validation, defaults or controllers. What the real server
does is tested elsewhere; here it is made to misbehave.
"""
import base64
import copy
import http.client
import http.server
import json
import os
import re
import select
import socket
import ssl
import threading
import time
import urllib.parse
import uuid

GATEWAY = "gateway.networking.k8s.io"
# kind: (group, version, plural, namespaced)
KINDS = {
    "Namespace": ("", "v1", "namespaces", False),
    "Pod": ("", "v1", "pods", True),
    "Service": ("", "v1", "services", True),
    "Secret": ("", "v1", "secrets", True),
    "Event": ("events.k8s.io", "v1", "events", True),
    "EndpointSlice": ("discovery.k8s.io", "v1", "endpointslices", True),
    "Lease": ("coordination.k8s.io", "v1", "leases", True),
    "VirtualService": ("l7mp.io", "v1", "virtualservices", True),
    "Target": ("l7mp.io", "v1", "targets", True),
    "Rule": ("l7mp.io", "v1", "rules", True),
    "Route": ("l7mp.io", "v1", "routes", True),
    "GatewayClass": (GATEWAY, "v1", "gatewayclasses", False),
    "Gateway": (GATEWAY, "v1", "gateways", True),
    "ListenerSet": (GATEWAY, "v1", "listenersets", True),
    "UDPRoute": (GATEWAY, "v1", "udproutes", True),
    "TCPRoute": (GATEWAY, "v1", "tcproutes", True),
    "ReferenceGrant": (GATEWAY, "v1", "referencegrants", True),
}
PATH = re.compile(r"^/(?:api|apis/([^/]+))/([^/]+)(?:/namespaces/([^/]+))?/([^/]+)(?:/([^/]+))?(?:/(status))?$")


def merge(target, patch):
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    target = dict(target) if isinstance(target, dict) else {}
    for k, v in patch.items():
        if v is None:
            target.pop(k, None)
        else:
            target[k] = merge(target.get(k), v)
    return target


class Fault:
    """What happens to requests that match: `what` is searched in "METHOD PATH?QUERY"."""

    def __init__(self, what, times=1, status=None, headers=None, message="scripted", slow=0, cut=None, wait=None, late=False):
        self.what, self.left, self.status, self.headers = re.compile(what), times, status, headers or {}
        self.message, self.slow, self.cut, self.wait = message, slow, cut, wait  # wait: a threading.Event
        self.late = late  # waits with the answer, after it was done
        self.hits = 0


class Stop(Exception):
    """The connection ends here, without another word."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 600

    def log_message(self, *args):
        pass

    @property
    def api(self):
        return self.server.api

    def setup(self):
        if self.api.tls:
            self.request.settimeout(60)
            try:
                self.request.do_handshake()
            except OSError as e:
                self.api.handshake_errors.append(str(e))
                raise
        super().setup()

    late = None

    def answer(self, status, body, headers=None, cut=None):
        data = json.dumps(body).encode()
        if self.late:
            self.late.wait.wait(300)
            self.late = None
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for k, v in (headers or {}).items():
            self.send_header(k, v)
        self.end_headers()
        if cut is not None:
            self.wfile.write(data[:cut])
            self.wfile.flush()
            raise Stop
        self.wfile.write(data)

    def status(self, code, reason, message, headers=None):
        self.answer(code, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
                           "reason": reason, "message": message}, headers)

    def serve(self):
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        url = urllib.parse.urlsplit(self.path)
        line = f"{self.command} {self.path}"
        with self.api.lock:
            self.api.requests.append(line)
        try:
            fault = self.api.fault_of(line)
            cut = None
            if fault:
                time.sleep(fault.slow)
                self.late = fault if fault.late else None
                if fault.wait and not fault.late:
                    fault.wait.wait(300)
                cut = fault.cut
                if fault.status:
                    self.status(fault.status, "Scripted", fault.message, fault.headers)
                    return
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if self.api.tokens is not None and token not in self.api.tokens:
                self.status(401, "Unauthorized", "Unauthorized")
                return
            self.route(url.path, dict(urllib.parse.parse_qsl(url.query)), json.loads(raw) if raw else None, cut)
        except Stop:
            self.hang_up()
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = serve

    def hang_up(self):
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def proxy(self, ns, name, path):
        """A page of a pod, by its first port."""
        with self.api.lock:
            pod = copy.deepcopy(self.api.objects[("", "pods")].get((ns, name)))
        if not pod:
            self.status(404, "NotFound", f"pods \"{name}\" not found")
            return
        conn = http.client.HTTPConnection(pod["status"]["podIP"], pod["spec"]["containers"][0]["ports"][0]["containerPort"], timeout=60)
        try:
            conn.request("GET", path)
            r = conn.getresponse()
            self.answer(r.status, json.loads(r.read()))
        finally:
            conn.close()

    def route(self, path, query, body, cut):
        of_pod = re.match(r"/api/v1/namespaces/([^/]+)/pods/([^/]+)/proxy(/.*)$", path)
        if of_pod:
            self.proxy(*of_pod.groups())
            return
        m = PATH.match(path)
        # "namespaces/NAME" is no collection inside of a namespace.
        if path == "/api/v1/namespaces":
            group, version, ns, plural, name, sub = "", "v1", None, "namespaces", None, None
        elif m:
            group, version, ns, plural, name, sub = m[1] or "", m[2], m[3], m[4], m[5], m[6]
        else:
            self.status(404, "NotFound", f"no such path: {path}")
            return
        if (group, plural) not in self.api.served:
            self.status(404, "NotFound", "the server could not find the requested resource")
            return
        if (group, plural) in self.api.forbidden:
            self.status(403, "Forbidden", f"{plural} is forbidden")
            return
        res = (group, plural)
        if self.command == "GET" and not name:
            if query.get("watch") in ("true", "1"):
                self.watch(res, ns, query)
            else:
                self.list(res, ns, query, cut)
            return
        handler = {"GET": self.get, "POST": self.create, "PUT": self.update, "PATCH": self.patch, "DELETE": self.delete}
        handler[self.command](res, ns or "", name, sub, body)

    def metadata_only(self):
        return "as=PartialObjectMetadata" in self.headers.get("Accept", "")

    def shown(self, obj):
        if self.metadata_only():
            return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}
        return obj

    # ---- collections ----

    def list(self, res, ns, query, cut):
        api = self.api
        with api.lock:
            if "continue" in query:
                snapshot = api.snapshots.pop(query["continue"], None)
                if snapshot is None:
                    self.status(410, "Expired", "The provided continue parameter is too old")
                    return
                version, items = snapshot
            else:
                version = api.version
                items = [o for (n, _), o in sorted(api.objects[res].items()) if ns is None or n == ns]
            limit = int(query.get("limit") or 0) or len(items) or 1
            rest, token = items[limit:], ""
            if rest:
                token = uuid.uuid4().hex
                api.snapshots[token] = (version, rest)
            meta = {"resourceVersion": str(version)}
            if token:
                meta["continue"] = token
            page = [copy.deepcopy(self.shown(o)) for o in items[:limit]]
        for o in page:
            if not self.metadata_only():
                o.pop("kind", None)
                o.pop("apiVersion", None)
        # Custom resources have the metadata behind the items.
        body = {"apiVersion": "v1", "items": page, "kind": "List", "metadata": meta} if "." in res[0] else \
               {"kind": "List", "apiVersion": "v1", "metadata": meta, "items": page}
        self.answer(200, body, cut=cut)

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def watch(self, res, ns, query):
        api = self.api
        after = int(query.get("resourceVersion") or 0)
        until = time.monotonic() + min(int(query.get("timeoutSeconds") or 300), api.watch_seconds)
        with api.lock:
            if after < api.compacted:
                self.status(410, "Expired", f"too old resource version: {after} ({api.compacted})")
                return
            script = []
            api.watchers.append((res, script))
        try:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.flush()
            self.follow(res, ns, after, until, script)
            self.chunk(b"")
        finally:
            with api.lock:
                api.watchers = [w for w in api.watchers if w[1] is not script]

    def gone(self):
        """The client has closed its connection: it sends nothing on a watch's otherwise."""
        return bool(select.select([self.connection], [], [], 0)[0])

    def follow(self, res, ns, after, until, script):
        api = self.api
        bookmark = time.monotonic() + api.bookmark_seconds
        while time.monotonic() < until and not api.stopping and not self.gone():
            with api.lock:
                if not script and not api.newer(res, after):
                    api.changed.wait(0.05)
                events = [e for e in api.history[res] if e[0] > after]
                now, steps_left = api.version, list(script)
                script.clear()
            out = b""
            for version, kind, obj in events:
                after = version
                if ns is None or obj["metadata"].get("namespace", "") == ns:
                    out += json.dumps({"type": kind, "object": self.shown(obj)}).encode() + b"\n"
            if out and api.dribble:
                for i in range(0, len(out), 7):
                    self.chunk(out[i:i + 7])
            elif out:
                self.chunk(out)
            if time.monotonic() > bookmark:
                after = max(after, now)
                self.chunk(json.dumps({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(after)}}}).encode() + b"\n")
                bookmark = time.monotonic() + api.bookmark_seconds
            for what, value in steps_left:
                if what == "raw":
                    self.chunk(value)
                elif what == "cut":
                    raise Stop

    # ---- objects ----

    def get(self, res, ns, name, _sub, _body):
        with self.api.lock:
            obj = copy.deepcopy(self.api.objects[res].get((ns, name)))
        if obj:
            self.answer(200, obj)
        else:
            self.status(404, "NotFound", f"{res[1]} \"{name}\" not found")

    def create(self, res, ns, _name, _sub, body):
        with self.api.lock:
            name = body["metadata"]["name"]
            if (ns, name) in self.api.objects[res]:
                obj = None
            else:
                body["metadata"]["namespace"] = ns
                obj = self.api.store(res, body)
        if obj:
            self.answer(201, obj)
        else:
            self.status(409, "AlreadyExists", f"{name} already exists")

    def change(self, res, ns, name, body, make):
        """`make` makes the new object of the present one; a resourceVersion that differs is a conflict."""
        with self.api.lock:
            was = self.api.objects[res].get((ns, name))
            version = (body.get("metadata") or {}).get("resourceVersion")
            late = was and version and version != was["metadata"]["resourceVersion"]
            obj = None
            if was and not late:
                obj = make(copy.deepcopy(was))
                obj["metadata"] = dict(was["metadata"])
                obj = self.api.store(res, obj)
        if obj:
            self.answer(200, obj)
        elif late:
            self.status(409, "Conflict", "the object has been modified")
        else:
            self.status(404, "NotFound", f"{res[1]} \"{name}\" not found")

    def update(self, res, ns, name, _sub, body):
        self.change(res, ns, name, body, lambda was: body)

    def patch(self, res, ns, name, sub, body):
        if self.headers.get("Content-Type") != "application/merge-patch+json":
            self.status(415, "UnsupportedMediaType", "expected a merge patch")
            return
        if sub == "status":
            self.change(res, ns, name, body, lambda was: dict(was, status=merge(was.get("status"), body.get("status"))))
        else:
            self.change(res, ns, name, body, lambda was: merge(was, body))

    def delete(self, res, ns, name, _sub, _body):
        if self.api.remove(res, ns, name):
            self.status(200, "", "deleted")
        else:
            self.status(404, "NotFound", "not found")


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def get_request(self):
        conn, peer = super().get_request()
        if self.api.tls:
            conn = self.api.tls.wrap_socket(conn, server_side=True, do_handshake_on_connect=False)
        with self.api.lock:
            self.api.connections.append(conn)
        return conn, peer

    def handle_error(self, request, client_address):
        pass  # peers that hang up are what this is for


class KubeApi:
    """The server, on 127.0.0.1. `tls`: (certificate, key) files, `client_ca`: a file."""

    def __init__(self, port=6443, tls=None, client_ca=None, tokens=None, without=()):
        self.port, self.tls = port, None
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.version, self.compacted = 100, 0
        self.served = {(g, p) for k, (g, _, p, _) in KINDS.items() if k not in without}
        self.forbidden = set()
        self.objects = {(g, p): {} for g, _, p, _ in KINDS.values()}
        self.history = {(g, p): [] for g, _, p, _ in KINDS.values()}
        self.snapshots, self.watchers, self.requests, self.connections = {}, [], [], []
        self.tokens = tokens
        self.faults = []
        self.handshake_errors = []
        self.dribble, self.stopping = False, False
        self.watch_seconds, self.bookmark_seconds = 600, 60
        if tls:
            self.use_tls(*tls, client_ca=client_ca)
        self.server = None
        self.start()

    def use_tls(self, cert, key, client_ca=None):
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(cert, key)
        if client_ca:
            self.tls.load_verify_locations(client_ca)
            self.tls.verify_mode = ssl.CERT_REQUIRED

    def start(self):
        self.stopping = False
        self.server = Server(("127.0.0.1", self.port), Handler, bind_and_activate=True)
        self.server.api = self
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self):
        """Simulates the end of the process: connections are closed, objects stay in etcd."""
        if self.stopping:
            return
        self.stopping = True
        self.server.shutdown()
        self.server.server_close()
        with self.lock:
            for c in self.connections:
                try:
                    c.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            self.connections = []

    # ---- objects ----

    def newer(self, res, after):
        h = self.history[res]
        return h and h[-1][0] > after

    def store(self, res, obj, kind=None):
        """Puts an object, with the lock held. Returns a copy of it as it is now."""
        meta = obj.setdefault("metadata", {})
        key = (meta.get("namespace") or "", meta["name"])
        was = self.objects[res].get(key)
        self.version += 1
        meta["resourceVersion"] = str(self.version)
        meta.setdefault("uid", was["metadata"]["uid"] if was else str(uuid.uuid4()))
        meta.setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        generation = was["metadata"].get("generation", 1) if was else 1
        meta["generation"] = generation + (1 if was and was.get("spec") != obj.get("spec") else 0)
        self.objects[res][key] = obj
        self.history[res].append((self.version, kind or ("MODIFIED" if was else "ADDED"), copy.deepcopy(obj)))
        self.changed.notify_all()
        return copy.deepcopy(obj)

    def remove(self, res, ns, name):
        with self.lock:
            obj = self.objects[res].pop((ns, name), None)
            if not obj:
                return False
            self.version += 1
            obj = copy.deepcopy(obj)
            obj["metadata"]["resourceVersion"] = str(self.version)
            self.history[res].append((self.version, "DELETED", obj))
            self.changed.notify_all()
            return True

    @staticmethod
    def resource(kind):
        group, _, plural, _ = KINDS[kind]
        return group, plural

    def apply(self, obj, keep_status=True):
        """As kubectl: the status stays, unless the object brings one."""
        obj = copy.deepcopy(obj)
        res = self.resource(obj["kind"])
        group, version, _, namespaced = KINDS[obj["kind"]]
        obj.setdefault("apiVersion", f"{group}/{version}" if group else version)
        if namespaced:
            obj["metadata"].setdefault("namespace", "default")
        key = (obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        with self.lock:
            was = self.objects[res].get(key)
            if was and keep_status and "status" in was and "status" not in obj:
                obj["status"] = copy.deepcopy(was["status"])
            if was:
                obj["metadata"].setdefault("uid", was["metadata"]["uid"])
            return self.store(res, obj)

    def get(self, kind, name, ns="default"):
        with self.lock:
            return copy.deepcopy(self.objects[self.resource(kind)].get((ns, name)))

    def all(self, kind):
        with self.lock:
            return copy.deepcopy(list(self.objects[self.resource(kind)].values()))

    def delete(self, kind, name, ns="default"):
        return self.remove(self.resource(kind), ns, name)

    def silently(self, kind, name, ns="default"):
        """Deletes without an event, as if it was compacted away before a watch saw it."""
        with self.lock:
            self.objects[self.resource(kind)].pop((ns, name), None)
            self.version += 1

    def condition(self, kind, name, which, ns="default"):
        obj = self.get(kind, name, ns) or {}
        for c in (obj.get("status") or {}).get("conditions", []):
            if c["type"] == which:
                return c
        return {}

    # ---- faults ----

    def fault(self, *args, **kw):
        f = Fault(*args, **kw)
        with self.lock:
            self.faults.append(f)
        return f

    def fault_of(self, line):
        with self.lock:
            for f in self.faults:
                if f.left and f.what.search(line):
                    f.left -= 1
                    f.hits += 1
                    return f
        return None

    def compact(self):
        """Watches from before are answered by 410 from now on."""
        with self.lock:
            self.version += 1
            self.compacted = self.version
            for h in self.history.values():
                h.clear()

    def script(self, kind, *steps):
        """What the watches of a kind do next: ("raw", bytes), ("cut", None). Waits until there is one."""
        res = self.resource(kind)
        end = time.monotonic() + 120
        while not self.watching(kind):
            if time.monotonic() > end:
                raise AssertionError(f"nobody watches {kind}")
            time.sleep(0.01)
        with self.lock:
            for r, steps_left in self.watchers:
                if r == res:
                    steps_left.extend(steps)
            self.changed.notify_all()

    def watching(self, kind):
        res = self.resource(kind)
        with self.lock:
            return sum(r == res for r, _ in self.watchers)

    def count(self, what):
        expr = re.compile(what)
        with self.lock:
            return sum(bool(expr.search(r)) for r in self.requests)


# ---- what tests put into it ----

def pod(name, address, labels=None, uid=None, container="c1", ready=True, **meta):
    return {"kind": "Pod", "metadata": {"name": name, "labels": labels or {}, **({"uid": uid} if uid else {}), **meta},
            "spec": {"nodeName": "node", "containers": [{"name": "l7mp"}]},
            "status": {"phase": "Running", "podIP": address, "conditions": [{"type": "Ready", "status": "True"}],
                       "containerStatuses": [{"name": "l7mp", "ready": ready, "containerID": f"containerd://{container}"}]}}


def target(name, labels, port=16000, address="127.0.0.1", **spec):
    return {"kind": "Target", "metadata": {"name": name}, "spec": {
        "selector": {"matchLabels": labels}, "cluster": {"spec": {"UDP": {"port": port}}, "endpoints": [{"spec": {"address": address}}]}, **spec}}


def vsvc(name, labels, port, destination, **options):
    return {"kind": "VirtualService", "metadata": {"name": name}, "spec": {
        "selector": {"matchLabels": labels}, "listener": {"spec": {"UDP": {"port": port}},
                                                          "rules": [{"action": {"route": {"destination": destination}}}], **options}}}


def kubeconfig(path, server, ca=None, **user):
    """Writes a kubeconfig; `ca` is a file, `user` its user's members."""
    cluster = {"server": server}
    if ca:
        with open(ca, "rb") as f:
            cluster["certificate-authority-data"] = base64.b64encode(f.read()).decode()
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "test",
              "clusters": [{"name": "c", "cluster": cluster}], "users": [{"name": "u", "user": user}],
              "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u", "namespace": "mesh"}}]}
    with open(path, "w") as f:
        json.dump(config, f)
    os.chmod(path, 0o600)
    return path
