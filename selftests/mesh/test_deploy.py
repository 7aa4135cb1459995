#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""deploy/: the CRDs are what the program prints, the roles are as small as they can be, the Secrets and the proxies' config
work together; l7mpctl kube-inject adds the sidecar that they are for."""
import base64
import json
import os
import pathlib
import shlex
import socket
import ssl
import subprocess
import sys
import tempfile
import unittest
import urllib.error
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402
import yaml  # noqa: E402

DEPLOY = l7test.ROOT / "deploy"
OPERATOR = l7test.program("l7mp-operator")
CTL = l7test.program("l7mpctl")


def load(name):
    return [d for d in yaml.safe_load_all((DEPLOY / name).read_text()) if d]


def inject(text, *args, status=0):
    run = subprocess.run([CTL, "kube-inject", *args], input=text, capture_output=True, text=True, timeout=60)
    if run.returncode != status:
        raise AssertionError(f"status {run.returncode}: {run.stderr}")
    return run


class Crds(unittest.TestCase):
    def test_committed(self):
        """deploy/crds/l7mp.io.yaml is what l7mp-operator --crds prints."""
        out = subprocess.run([OPERATOR, "--crds"], capture_output=True, text=True, timeout=60)
        self.assertEqual(out.returncode, 0, out.stderr)
        self.assertEqual(out.stdout, (DEPLOY / "crds/l7mp.io.yaml").read_text())

    def test_structural(self):
        for crd in load("crds/l7mp.io.yaml"):
            name = crd["metadata"]["name"]
            with self.subTest(name):
                self.assertEqual(name, crd["spec"]["names"]["plural"] + ".l7mp.io")
                # kubectl apply keeps the whole object in an annotation.
                self.assertLess(len(json.dumps(crd)), 256 * 1024)
                version = crd["spec"]["versions"][0]
                self.assertEqual(version["subresources"], {"status": {}})
                self.structural(version["schema"]["openAPIV3Schema"], name)

    def structural(self, node, path):
        open_ = node.get("x-kubernetes-preserve-unknown-fields")
        self.assertTrue(open_ or node.get("type"), f"{path}: neither a type nor open")
        self.assertFalse(set(node) - {"type", "description", "properties", "items", "additionalProperties", "required", "enum", "pattern",
                                      "minimum", "maximum", "minLength", "maxLength", "format", "nullable",
                                      "x-kubernetes-preserve-unknown-fields", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"}, path)
        self.assertFalse("properties" in node and "additionalProperties" in node, path)
        for key, sub in node.get("properties", {}).items():
            if path.count(".") > 1 or key != "metadata":
                self.structural(sub, f"{path}.{key}")
        for key in ("items", "additionalProperties"):
            if key in node:
                self.structural(node[key], f"{path}[]")
        self.assertLessEqual(set(node.get("required", [])), set(node.get("properties", {})), path)


class Manifests(unittest.TestCase):
    def test_kustomization(self):
        k = load("kustomization.yaml")[0]
        kinds = [(d["kind"], d["metadata"]["name"]) for r in k["resources"] for d in load(r)]
        self.assertEqual(len(kinds), len(set(kinds)))
        self.assertIn(("Deployment", "l7mp-operator"), kinds)
        for name in [*DEPLOY.glob("*.yaml"), *DEPLOY.glob("gateway/*.yaml")]:
            self.assertTrue(all("kind" in d and "apiVersion" in d for d in load(name.relative_to(DEPLOY))), name)

    def test_roles(self):
        """No Secret, no write but statuses, events and the lease."""
        may = set()
        for d in load("rbac.yaml"):
            for rule in d.get("rules", []):
                self.assertNotIn("*", rule["apiGroups"] + rule["resources"] + rule["verbs"])
                may |= {(d["kind"], r, v) for r in rule["resources"] for v in rule["verbs"]}
        writes = {(k, r, v) for k, r, v in may if v not in ("get", "list", "watch")}
        self.assertFalse([r for _, r, _ in may if r == "secrets"])
        self.assertEqual({(k, v) for k, r, v in writes if r.endswith("/status")}, {("ClusterRole", "patch")})
        self.assertEqual({w for w in writes if not w[1].endswith("/status")},
                         {("ClusterRole", "events", "create"), ("Role", "leases", "create"), ("Role", "leases", "update")})


class Credentials(unittest.TestCase):
    def test_operator_and_proxy(self):
        """The Secrets of deploy/secrets.sh with the config of deploy/gateway/proxy.yaml: only the operator gets in."""
        docs = list(yaml.safe_load_all(subprocess.run([DEPLOY / "secrets.sh", "a", "b"], capture_output=True, text=True, check=True,
                                                      timeout=120).stdout))
        secrets = {(d["metadata"]["name"], d["metadata"]["namespace"]): d for d in docs if d}
        self.assertEqual(set(secrets), {("l7mp-operator", "l7mp-system"), ("l7mp-proxy", "a"), ("l7mp-proxy", "b")})
        config = load("gateway/proxy.yaml")[0]["data"]["l7mp.yaml"]
        with tempfile.TemporaryDirectory() as d:
            paths = {}
            for (name, _), secret in secrets.items():
                paths[name] = pathlib.Path(d) / name
                paths[name].mkdir(exist_ok=True)
                for key, value in secret["data"].items():
                    f = paths[name] / key
                    f.write_bytes(base64.b64decode(value))
                    f.chmod(0o440)
            tree = yaml.safe_load(config.replace("/etc/l7mp/proxy", str(paths["l7mp-proxy"])))
            with l7test.Proxy(tree, wait=False):
                l7test.wait_for(lambda: self.get("http://127.0.0.1:1234/readyz") == 200)
                own = paths["l7mp-operator"]
                token = (own / "token").read_text().strip()
                good = ssl.create_default_context(cafile=own / "ca.crt")
                good.load_cert_chain(own / "tls.crt", own / "tls.key")
                self.assertEqual(self.ask(good, token), 200)
                self.assertEqual(self.ask(good, "wrong"), 401)
                without = ssl.create_default_context(cafile=own / "ca.crt")
                with self.assertRaises((ssl.SSLError, ConnectionError, TimeoutError)):
                    self.ask(without, token)

    @staticmethod
    def get(url):
        try:
            with urllib.request.urlopen(url, timeout=10) as r:
                return r.status
        except urllib.error.HTTPError as e:
            return e.code
        except OSError:
            return None

    @staticmethod
    def ask(context, token):
        with socket.create_connection(("127.0.0.1", 1235), timeout=30) as raw, context.wrap_socket(raw, server_hostname="l7mp-proxy") as s:
            s.sendall(f"GET /api/v1/status HTTP/1.1\r\nHost: l7mp-proxy\r\nAuthorization: Bearer {token}\r\n"
                      "Connection: close\r\n\r\n".encode())
            answer = s.recv(64)
            if not answer:
                raise ConnectionError("closed")
            return int(answer.split()[1])


POD = {"containers": [{"name": "app", "image": "app", "ports": [{"containerPort": 5300, "protocol": "UDP"}, {"containerPort": 80},
                                                                {"containerPort": 60000}, {"containerPort": 7, "protocol": "SCTP"}]}]}


def workload(kind, pod=None, name="w"):
    template = {"metadata": {"labels": {"app": "w"}}, "spec": pod or json.loads(json.dumps(POD))}
    spec = {"CronJob": {"jobTemplate": {"spec": {"template": template}}}}.get(kind, {"template": template})
    if kind == "Pod":
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": template["spec"]}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def pod_of(doc):
    spec = doc["spec"]
    return spec if doc["kind"] == "Pod" else (spec["jobTemplate"]["spec"] if doc["kind"] == "CronJob" else spec)["template"]["spec"]


class Inject(unittest.TestCase):
    def test_kinds(self):
        for kind in ("Pod", "Deployment", "DaemonSet", "StatefulSet", "ReplicaSet", "Job", "CronJob"):
            with self.subTest(kind):
                doc = workload(kind)
                spec = pod_of(yaml.safe_load(inject(yaml.safe_dump(doc), "--image", "example.com/l7mp:1").stdout))
                self.assertEqual([c["name"] for c in spec["initContainers"]], ["l7mp"])
                sidecar = spec["initContainers"][0]
                self.assertEqual((sidecar["restartPolicy"], sidecar["image"]), ("Always", "example.com/l7mp:1"))
                self.assertEqual(spec["containers"], pod_of(doc)["containers"])
                self.assertEqual({m["name"] for m in sidecar["volumeMounts"]}, {v["name"] for v in spec["volumes"]})
                self.assertEqual(spec["volumes"][1]["secret"]["defaultMode"], 0o440)

    def test_address(self):
        """explicit: the sidecar listens on the pod's address; redirect: on all, at ports of its own"""
        for mode, found in (("explicit", [{"fieldRef": {"fieldPath": "status.podIP"}}]), ("redirect", [])):
            spec = pod_of(yaml.safe_load(inject(yaml.safe_dump(workload("Pod")), "--mode", mode).stdout))
            sidecar = next(c for c in spec["initContainers"] if c["name"] == "l7mp")
            self.assertEqual([e["valueFrom"] for e in sidecar["env"] if e["name"] == "L7MP_LISTEN_ADDRESS"], found)

    def test_same_ports(self):
        """with L7MP_LISTEN_ADDRESS listeners without an address leave their ports on 127.0.0.1 to an application, those with one keep theirs"""
        def listener(name, spec, port):
            return {"name": name, "spec": {**spec, "port": port}, "rules": [{"action": {"route": {"destination": {
                "spec": {"protocol": spec["protocol"], "port": port}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}}}}]}
        config = {"admin": {"server": {"address": "127.0.0.1", "port": 1234}}, "listeners": [
            listener("udp", {"protocol": "UDP"}, 7000), listener("tcp", {"protocol": "TCP"}, 7001),
            listener("own", {"protocol": "UDP", "address": "127.0.0.3"}, 7002)]}
        with l7test.Proxy(config, env={"L7MP_LISTEN_ADDRESS": "127.0.0.2"}), l7test.udp_socket(7000) as app, l7test.udp_socket(7002) as other, \
                socket.create_server(("127.0.0.1", 7001)) as server, l7test.udp_socket(0) as client:
            for to, s in ((("127.0.0.2", 7000), app), (("127.0.0.3", 7002), other)):
                client.sendto(b"hello", to)
                data, peer = s.recvfrom(100)
                s.sendto(data + b"!", peer)
                self.assertEqual(client.recv(100), b"hello!")
            with socket.create_connection(("127.0.0.2", 7001), timeout=60) as c:
                with server.accept()[0] as s:
                    s.sendall(b"hello")
                    self.assertEqual(c.recv(100), b"hello")
        p = l7test.Proxy(config, env={"L7MP_LISTEN_ADDRESS": "nonsense"}, wait=False)
        self.assertEqual(p.process.wait(60 * l7test.SLOW), 1)
        self.assertIn('L7MP_LISTEN_ADDRESS): expected a numeric IP address, got "nonsense"', p.stderr())
        p.dir.cleanup()

    def test_idempotent(self):
        text = yaml.safe_dump_all([workload("Deployment"), {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}}])
        for mode in ("explicit", "redirect"):
            once = inject(text, "--mode", mode).stdout
            self.assertEqual(inject(once, "--mode", mode).stdout, once)
            self.assertEqual(inject(once).stdout, once)

    def test_the_rest_stays(self):
        """What makes no pods, and what has a proxy, is the same text, comments included."""
        text = ("# A comment.\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}   # spaces\ndata: {x: |\n  a}\n---\n"
                + "kind: Pod\nmetadata: {name: own}\nspec: { containers: [ { name: l7mp } ] }\n")
        text = text.replace("data: {x: |\n  a}\n", "data:\n  x: |\n    a\n")
        self.assertEqual(inject(text).stdout, text)
        both = inject(text + "---\n" + yaml.safe_dump(workload("Pod"))).stdout
        self.assertTrue(both.startswith(text))
        self.assertEqual(len(list(yaml.safe_load_all(both))), 3)

    def test_list_and_json(self):
        doc = {"apiVersion": "v1", "kind": "List", "items": [workload("Pod"), {"kind": "Service"}]}
        out = yaml.safe_load(inject(json.dumps(doc)).stdout)
        self.assertEqual(out["items"][0]["spec"]["initContainers"][0]["name"], "l7mp")
        self.assertEqual(out["items"][1], {"kind": "Service"})

    def test_existing(self):
        pod = dict(POD, initContainers=[{"name": "first"}], volumes=[{"name": "v"}], securityContext={"fsGroup": 7, "runAsNonRoot": True})
        spec = pod_of(yaml.safe_load(inject(yaml.safe_dump(workload("Pod", pod)), "--mode", "redirect").stdout))
        self.assertEqual([c["name"] for c in spec["initContainers"]], ["l7mp-redirect", "l7mp", "first"])
        self.assertEqual(spec["securityContext"], {"fsGroup": 7, "runAsNonRoot": True})
        self.assertFalse(spec["initContainers"][0]["securityContext"]["runAsNonRoot"])
        self.assertEqual([v["name"] for v in spec["volumes"]], ["v", "l7mp-config", "l7mp-credentials"])

    def test_bad_input(self):
        self.assertIn("stdin:4:", inject("a: b\n---\n\n- {\n", status=1).stderr.replace("stdin:5:", "stdin:4:"))
        self.assertIn("--mode: expected", inject("", "--mode", "x", status=2).stderr)
        self.assertIn("no container declares", inject(yaml.safe_dump(workload("Pod", {"containers": [{"name": "a"}]})), "--mode", "redirect",
                                                      status=1).stderr)
        self.assertEqual(subprocess.run([CTL, "kube-inject", "-f", "/nowhere"], capture_output=True, timeout=60).returncode, 1)
        for text in ("", "null\n", "[]\n", "kind: Pod\n", "kind: Pod\nspec: 7\n", "kind: Deployment\nspec: { template: [] }\n"):
            self.assertEqual(inject(text).stdout, text)

    def test_redirect_works(self):
        """The rules of the manifest, in a namespace: what comes from outside reaches the proxy's port, what comes from lo the own."""
        out = inject(yaml.safe_dump(workload("Pod")), "--mode", "redirect")
        self.assertIn("UDP 5300 to 15300, TCP 80 to 10080, TCP 60000 to 50000", out.stderr)
        spec = yaml.safe_load(out.stdout)["spec"]
        self.assertEqual(spec["initContainers"][1]["args"][-2:], ["-o", "disable"])
        command = spec["initContainers"][0]["command"]
        name = f"l7mesh{os.getpid()}"
        script = f"""set -e
            ip link set lo up
            ip addr add 192.0.2.1/24 dev {name}
            ip link set {name} up
            for i in 1 2; do {shlex.join(command)}; done
            nft list table inet l7mp >&2
            exec python3 -c '
import socket
socks = {{}}
for port in (5300, 15300):
    socks[port] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    socks[port].bind(("0.0.0.0", port))
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
own.sendto(b"local", ("127.0.0.1", 5300))
print("got", socks[5300].recv(99).decode(), flush=True)
data, peer = socks[15300].recvfrom(99)
print("got", data.decode(), flush=True)
socks[15300].sendto(b"answer", peer)
input()
'"""
        inside = subprocess.Popen(["unshare", "--net", "sh", "-c", "read x; " + script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True)
        try:
            l7test.wait_for(lambda: os.readlink(f"/proc/{inside.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
            subprocess.run(["ip", "link", "add", name + "p", "type", "veth", "peer", "name", name, "netns", str(inside.pid)], check=True)
            subprocess.run(["ip", "addr", "add", "192.0.2.2/24", "dev", name + "p"], check=True)
            subprocess.run(["ip", "link", "set", name + "p", "up"], check=True)
            inside.stdin.write("\n")
            inside.stdin.flush()
            self.assertEqual(inside.stdout.readline(), "got local\n", inside.stderr.read() if inside.poll() is not None else None)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.connect(("192.0.2.1", 5300))
                s.settimeout(2)

                def answered():
                    s.send(b"outside")
                    try:
                        # From the port that was asked, so the connected socket takes it.
                        return s.recv(99) == b"answer"
                    except OSError:
                        return False
                l7test.wait_for(answered)
        finally:
            inside.stdin.close()
            inside.kill()
            inside.wait()
            inside.stdout.close()
            inside.stderr.close()
            subprocess.run(["ip", "link", "del", name + "p"], capture_output=True)


if __name__ == "__main__":
    l7test.main()
