#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""l7mp-operator --render: the proxies' documents and statuses that objects in files make.

cases/NAME.yaml is read, cases/NAME.golden is what has to come out; with L7MP_GOLDEN=write the
goldens are written. Each document is also posted to a proxy.
"""
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402
import yaml  # noqa: E402

CASES = pathlib.Path(__file__).resolve().parent / "cases"
OPERATOR = l7test.program("l7mp-operator")
RELEASE = str(l7test.ROOT / "build" / "l7mp-operator")  # for what is measured
# The config that the documents are put beside: a worker's of the media case.
STATIC = {
    "listeners": [l7test.controller()],
    "clusters": [{"name": n, "spec": {"protocol": "Metric"}} for n in ("ingress-metric-counter", "egress-metric-counter")],
    "rulelists": [{"name": "worker-rtp-rulelist", "rules": [{"name": "own", "action": {"route": {"destination": "x"}}}]},
                  {"name": "static-rules", "rules": []}],
}


def render(*args, text=None, status=0):
    run = subprocess.run([OPERATOR, "--render", *map(str, args)], input=text, capture_output=True, text=True, timeout=300)
    if status is not None and run.returncode != status:
        raise AssertionError(f"status {run.returncode}: {run.stderr}")
    return run


def documents(text):
    docs = list(yaml.safe_load_all(text))
    return [d for d in docs if "proxy" in d], next(d["statuses"] for d in docs if "statuses" in d)


def pod(name, label, ip, ns="default", **meta):
    return {"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": ns, "uid": "uid-" + name, "labels": {"app": label}, **meta},
            "status": {"podIP": ip, "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
                       "containerStatuses": [{"name": "l7mp", "ready": True, "containerID": "test://1"}]}}


def vsvc(name, port, selector, **spec):
    return {"apiVersion": "l7mp.io/v1", "kind": "VirtualService", "metadata": {"name": name, "namespace": "default"},
            "spec": {"selector": selector,
                     "listener": {"spec": {"UDP": {"port": port}},
                                  "rules": [{"action": {"route": {"destination": {"spec": {"Echo": {}}}}}}]}, **spec}}


def objects(*items):
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def condition(statuses, name, kind="Accepted"):
    status = next(s for s in statuses if s["name"] == name)["status"]
    return next(c for c in status["conditions"] if c["type"] == kind)


class Goldens(unittest.TestCase):
    def test_goldens(self):
        for case in sorted(CASES.glob("*.yaml")):
            with self.subTest(case.name):
                golden = case.with_suffix(".golden")
                run = render(case, status=None)
                self.assertIn(run.returncode, (0, 1), run.stderr)
                if os.environ.get("L7MP_GOLDEN") == "write":
                    golden.write_text(run.stdout)
                self.assertEqual(run.stdout, golden.read_text())

    def test_order_of_objects(self):
        """The same objects in another order make the same output, hashes included."""
        rng = random.Random(7)
        for case in sorted(CASES.glob("*.yaml")):
            with self.subTest(case.name):
                # Aliases go to an anchor in their own document: each is a file of its own.
                parts = case.read_text().split("\n---\n")
                want = render(case, status=None).stdout
                for _ in range(3):
                    rng.shuffle(parts)
                    self.assertEqual(render("-", text="\n---\n".join(parts), status=None).stdout, want)

    def test_proxies_take_them(self):
        with l7test.Proxy(STATIC) as proxy:
            for case in sorted(CASES.glob("*.yaml")):
                for doc in documents(render(case, status=None).stdout)[0]:
                    with self.subTest(case.name, proxy=doc["proxy"]["name"]):
                        status, answer = proxy.api.post("/config?owner=mesh", {"config": doc["config"]})
                        self.assertEqual(status, 200, answer)
                        # Inline objects have names beside those of the document.
                        got = {k: {o["name"] for o in v} for k, v in proxy.api.get("/config?owner=mesh")[1].items()
                               if k in ("listeners", "clusters", "rules", "routes")}
                        self.assertEqual(got["listeners"], {o["name"] for o in doc["config"]["listeners"]})
                        for key, names in got.items():
                            self.assertLessEqual({o["name"] for o in doc["config"][key]}, names)
            # Rules are around the list's own, by position and age.
            doc = next(d for d in documents(render(CASES / "media.yaml").stdout)[0] if d["proxy"]["name"] == "worker-1")
            self.assertEqual(proxy.api.post("/config?owner=mesh", {"config": doc["config"]})[0], 200)
            names = [n.rsplit("/", 1)[-1] for n in proxy.api.get("/rulelists/worker-rtp-rulelist")[1]["rules"]]
            self.assertEqual(names, ["worker-rtp-1-b", "worker-rtp-1-a", "own", "last"])
            empty = {"listeners": [], "clusters": [], "rules": [], "routes": [], "rule_inserts": []}
            self.assertEqual(proxy.api.post("/config?owner=mesh", {"config": empty})[0], 200)
            self.assertEqual([o["name"] for o in proxy.api.get("/listeners")[1]], ["controller-listener"])


class Documents(unittest.TestCase):
    def test_examples(self):
        """The objects in docs/mesh.md are accepted, on pods that they select."""
        text = (l7test.ROOT / "docs/mesh.md").read_text()
        blocks = re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S)
        self.assertGreaterEqual(len(blocks), 3)
        gateway = pod("edge-1", "edge", "10.0.0.3")
        gateway["metadata"]["labels"]["gateway.networking.k8s.io/gateway-name"] = "edge"
        pods = [pod("ingress-1", "l7mp-ingress", "10.0.0.1"), pod("game-1", "game", "10.0.0.2"), gateway]
        services = [{"apiVersion": "v1", "kind": "Service", "metadata": {"name": n},
                     "spec": {"ports": [{"port": 53, "protocol": "UDP"}]}} for n in ("dns-stable", "dns-new")]
        text = "---\n".join(blocks + [(l7test.ROOT / "deploy/gatewayclass.yaml").read_text(), yaml.safe_dump_all(pods + services)])
        proxies, statuses = documents(render("-", text=text).stdout)
        self.assertEqual([len(p["config"]["listeners"]) for p in proxies], [1, 1, 1])
        for s in statuses:
            for c in s["status"].get("conditions", []) + [c for p in s["status"].get("parents", []) for c in p["conditions"]]:
                if c["type"] in ("Accepted", "ResolvedRefs"):
                    self.assertEqual((c["status"], c["reason"]), ("True", c["reason"]), s)


class Files(unittest.TestCase):
    def test_directory(self):
        with tempfile.TemporaryDirectory() as d:
            base = pathlib.Path(d)
            (base / "a.yaml").write_text(objects(vsvc("v", 1000, {})))
            (base / "b.json").write_text(json.dumps(pod("p", "x", "10.0.0.1")))
            (base / "c.txt").write_text("not read")
            proxies, statuses = documents(render(base).stdout)
            self.assertEqual([len(p["config"]["listeners"]) for p in proxies], [1])
            self.assertEqual(condition(statuses, "v", "Programmed")["message"], "0/1 proxies")

    def test_bad_files(self):
        for text, want in (("a: [", "stdin:2: while parsing"), ("- 1", "expected an object with apiVersion and kind"), ("kind: Pod", "apiVersion"),
                           ("---\na: b\n---\n\n- [", "stdin:6: while parsing"),
                           ("apiVersion: v1\nkind: Pod\nmetadata: { name: 'a b' }", "metadata.name: expected a name"),
                           ("apiVersion: v1\nkind: Pod\nmetadata: { name: a, namespace: 'b/c' }", "metadata.namespace"),
                           ("apiVersion: v1\nkind: Pod", "metadata.name")):
            with self.subTest(text):
                run = render("-", text=text, status=1)
                self.assertIn(want, run.stderr)
        self.assertIn("/nowhere: no such", render("/nowhere", status=1).stderr)
        self.assertEqual(subprocess.run([OPERATOR, "--render"], capture_output=True, timeout=60).returncode, 2)

    def test_other_kinds_are_skipped(self):
        text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: { name: d }\n---\n# nothing\n---\n"
        self.assertEqual(render("-", text=text).stderr, "")

    def test_secrets_stay_secret(self):
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "default"},
                  "data": {"token": "c2VjcmV0LXZhbHVl"}, "stringData": {"token": "secret-value"}}
        broken = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: { token: 'secret-value'"
        for run in (render("-", text=objects(secret, pod("p", "x", "10.0.0.1"))), render("-", text=broken, status=1),
                    render("-", text=json.dumps(dict(secret, metadata={})), status=1)):
            self.assertNotIn("secret-value", run.stdout + run.stderr)
            self.assertNotIn("c2VjcmV0", run.stdout + run.stderr)


class Objects(unittest.TestCase):
    def test_long_names(self):
        """Names longer than the proxy takes are cut and get a hash: different ones stay different."""
        names = ["n" * 252 + c for c in "ab"]
        items = [pod("p", "x", "10.0.0.1", ns="d" * 63)]
        for port, name in enumerate(names, 1000):
            v = vsvc(name, port, {})
            v["metadata"]["namespace"] = "d" * 63
            items.append(v)
        proxies, _ = documents(render("-", text=objects(*items)).stdout)
        got = [o["name"] for o in proxies[0]["config"]["listeners"]]
        self.assertEqual([len(n) for n in got], [255, 255])
        self.assertEqual(len(set(got)), 2)
        with l7test.Proxy(STATIC) as proxy:
            self.assertEqual(proxy.api.post("/config?owner=mesh", {"config": proxies[0]["config"]})[0], 200)

    def test_namespaces(self):
        """Another namespace's pods only when named, and with its ReferenceGrant; as in the original with an option."""
        grant = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "ReferenceGrant", "metadata": {"name": "g", "namespace": "other"},
                 "spec": {"from": [{"group": "l7mp.io", "kind": "VirtualService", "namespace": "default"}],
                          "to": [{"group": "", "kind": "Pod"}]}}
        there = pod("p", "x", "10.0.0.1", ns="other")

        def listeners(selector, *more, args=()):
            proxies, _ = documents(render("-", *args, text=objects(there, vsvc("v", 1000, selector), *more)).stdout)
            return len(proxies[0]["config"]["listeners"])
        by_field = {"matchFields": [{"key": "metadata.namespace", "operator": "In", "values": ["other"]}]}
        self.assertEqual(listeners({"matchLabels": {"app": "x"}}, grant), 0)
        self.assertEqual(listeners({"matchNamespace": "other"}), 0)
        self.assertEqual(listeners({"matchNamespace": "other"}, grant), 1)
        self.assertEqual(listeners(by_field), 0)
        self.assertEqual(listeners(by_field, grant), 1)
        self.assertEqual(listeners({"matchNamespace": "third"}, grant), 0)
        self.assertEqual(listeners({"matchLabels": {"app": "x"}}, args=["--any-namespace"]), 1)
        self.assertEqual(listeners({"matchNamespace": "default"}, args=["--any-namespace"]), 0)

    def test_full_document(self):
        """What is beyond a proxy's bound is left out, the youngest first, and told."""
        big = [dict(vsvc(f"v{i:03}", 1000 + i, {})) for i in range(40)]
        for i, v in enumerate(big):
            v["metadata"]["creationTimestamp"] = f"2026-01-01T00:00:{i:02}Z"
            v["spec"]["listener"]["rules"] = [{"match": {"op": "test", "path": "/a", "value": "x" * 200000},
                                               "action": {"route": "r"}}]
        proxies, statuses = documents(render("-", text=objects(pod("p", "x", "10.0.0.1"), *big), status=1).stdout)
        config = json.dumps(proxies[0]["config"], separators=(",", ":"))
        self.assertLess(len(config), 4 * 1024 * 1024)
        self.assertGreater(len(config), 3.5 * 1024 * 1024)
        self.assertEqual(condition(statuses, "v000")["status"], "True")
        self.assertIn("full", condition(statuses, "v039")["message"])

    def test_large_cluster(self):
        """10,000 pods, 50 of them proxies, and 1,000 objects: bounded memory and time."""
        items = [pod(f"p{i}", f"app{i % 1000}", f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}") for i in range(9950)]
        items += [pod(f"g{i}", "gateway", f"10.9.0.{i}") for i in range(50)]
        for p in items[:9950]:
            p["status"]["containerStatuses"] = [{"name": "app", "ready": True}]
        for i in range(500):
            items.append(vsvc(f"v{i}", 1000 + i, {"matchLabels": {"app": "gateway"}}))
            items.append({"apiVersion": "l7mp.io/v1", "kind": "Target", "metadata": {"name": f"t{i}"},
                          "spec": {"selector": {"matchLabels": {"app": "gateway"}},
                                   "cluster": {"spec": {"UDP": {"port": 7}},
                                               "endpoints": [{"selector": {"matchLabels": {"app": f"app{i}"}}}]}}})
        with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
            f.write(objects(*items))
            f.flush()
            run = subprocess.Popen([RELEASE, "--render", "--statuses", f.name], stdout=subprocess.PIPE, text=True)
            out = run.stdout.read()
            _, code, usage = os.wait4(run.pid, 0)
            run.stdout.close()
            run.returncode = os.waitstatus_to_exitcode(code)
        statuses = documents(out)[1]
        self.assertEqual(condition(statuses, "v7", "Programmed")["message"], "0/50 proxies")
        print(f"# {usage.ru_utime + usage.ru_stime:.2f} s of processor, {usage.ru_maxrss // 1024} MB, the file's tree included",
              flush=True)
        self.assertLess(usage.ru_utime + usage.ru_stime, 30)
        self.assertLess(usage.ru_maxrss, 400 * 1024)

    def test_hostile_objects(self):
        """Random values in all places: never a crash, always a status."""
        rng = random.Random(11)
        names = sorted({k for c in CASES.glob("*.yaml") for d in yaml.safe_load_all(c.read_text()) for k in keys(d)})
        seeds = [d for c in sorted(CASES.glob("*.yaml")) for d in yaml.safe_load_all(c.read_text()) if d]
        # The start of a program under ASan takes longer than its objects: in full mode there are more of them, too.
        count, n = (300, 20) if os.environ.get("L7MP_TEST_MODE") != "full" else (600, 100)
        for _ in range(count):
            items = [mutate(rng, json.loads(json.dumps(rng.choice(seeds))), names) for _ in range(n)]
            run = render("-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}), status=None)
            self.assertIn(run.returncode, (0, 1), run.stderr)
            self.assertNotIn("Sanitizer", run.stderr)
            documents(run.stdout)


def keys(node):
    if isinstance(node, dict):
        for k, v in node.items():
            yield k
            yield from keys(v)
    elif isinstance(node, list):
        for v in node:
            yield from keys(v)


def mutate(rng, node, names, depth=0):
    def value():
        return rng.choice([None, True, -1, 0, 1e300, 65536, "", "/", "a/b", "x" * 300, "/apis/l7mp.io/v1/namespaces//targets/", [], {},
                           [[]], [None], {"protocol": "UDP"}, {"UDP": None}, {"selector": {}}, "\u202e%s%n", "default/uds",
                           {"JSONSocket": {"transport": {"JSONSocket": {"transport": {"UDP": {"port": 1}}}}}}])
    if rng.random() < 0.04:
        return value()
    if isinstance(node, dict):
        out = {}
        for k, v in node.items():
            keep = depth == 0 and k in ("apiVersion", "kind", "metadata") or k in ("name", "namespace") and rng.random() < 0.9
            if not keep and rng.random() < 0.03:
                k = rng.choice(names)
            out[k] = v if keep and not isinstance(v, dict) else mutate(rng, v, names, depth + 1)
        return out
    if isinstance(node, list):
        out = [mutate(rng, v, names, depth + 1) for v in node]
        return out * rng.choice([1, 1, 1, 1, 2, 20])
    return node


if __name__ == "__main__":
    l7test.main()
