#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: cluster alone timeout=900
"""Operator and proxies that do not trust each other, on a real API server: refused, shown wherever one looks, and no secret in what is said."""
import base64
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import yaml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7test  # noqa: E402
from certs import Certs  # noqa: E402
from kube_cluster import wait_until  # noqa: E402
from mesh_server import L7MP, NET, PODS, SYSTEM, OnServer, pod, say, service  # noqa: E402

OPERATOR = f"{NET}.0.9"
TOKEN, WRONG_TOKEN, PASSWORD = "token-of-the-mesh-51c2", "token-of-another-mesh-7e8f", "password-of-another-3b9d"
# Case: its part of the proxy's configuration that is wrong, and what the condition has to say.
CASES = {
    "good": ({}, None),
    "token": ({"token": WRONG_TOKEN}, r"401"),
    "client-ca": ({"client_ca": "other"}, r"refused our certificate"),
    "server-ca": ({"cert": "of-other"}, r"certificate"),
    "server-name": ({"cert": "named-otherwise"}, r"l7mp-proxy"),
    "expired": ({"cert": "expired"}, r"expired"),
    "plain": ({"plain": True}, r"does not speak TLS"),
}


class Trust(OnServer):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.certs = Certs(cls.cluster.dir / "mesh")
        cls.certs.ca("other")
        for name, kw in {"operator": {}, "proxy": {}, "of-other": {"ca": "other"}, "named-otherwise": {"san": "DNS:elsewhere"}, "expired": {"days": -1},
                         "operator-of-other": {"ca": "other"}}.items():
            cls.certs.cert(name, **{"san": "DNS:l7mp-proxy", **kw})

    def tls_proxy(self, case, address, wrong):
        """As deploy/gateway/proxy.yaml has it, at an address of its own."""
        folder = self.cluster.dir / f"proxy-{case}"
        folder.mkdir(exist_ok=True)
        name = wrong.get("cert", "proxy")
        for file, source in (("tls.crt", f"{name}.pem"), ("tls.key", f"{name}.key"), ("ca.crt", f"{wrong.get('client_ca', 'ca')}.pem")):
            (folder / file).write_text(pathlib.Path(self.certs.path(source)).read_text())
        (folder / "token").write_text(wrong.get("token", TOKEN) + "\n")
        for file in folder.iterdir():
            file.chmod(0o600)
        text = yaml.safe_load((l7test.ROOT / "deploy/gateway/proxy.yaml").read_text())["data"]["l7mp.yaml"]
        tree = yaml.safe_load(text.replace("/etc/l7mp/proxy", str(folder)))
        tree["admin"].update(log_level="silly", server={"address": address, "port": 1234})
        tree["listeners"][0]["spec"]["address"] = address
        if wrong.get("plain"):
            del tree["listeners"][0]["spec"]["tls"]
        p = l7test.Proxy(tree)
        p.api = l7test.Api(1234, address, {"Authorization": f"Bearer {wrong.get('token', TOKEN)}"})
        p.token = folder / "token"
        self.addCleanup(p.stop)
        return p

    def tls_operator(self, cert, *args, **kw):
        folder = self.cluster.dir / "operator"
        folder.mkdir(exist_ok=True)
        self.give(folder, cert)
        (folder / "token").write_text(TOKEN + "\n")
        (folder / "token").chmod(0o600)
        return folder, self.operator("--proxy-ca", self.certs.path("ca.pem"), "--proxy-cert", str(folder / "tls.crt"), "--proxy-key", str(folder / "tls.key"),
                                     "--proxy-name", "l7mp-proxy", *args, token=folder / "token", level="silly", **kw).ready()

    def give(self, folder, cert):
        for file, end in (("tls.crt", "pem"), ("tls.key", "key")):
            (folder / file).write_text(pathlib.Path(self.certs.path(f"{cert}.{end}")).read_text())
            (folder / file).chmod(0o600)

    def programmed(self, name):
        conditions = self.api.get(f"{L7MP}/virtualservices/{name}").get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == "Programmed"), {})

    def refused(self, name, case=None):
        """The condition, when it says what the case has to."""
        try:
            wait_until(lambda: re.search(CASES[case or name][1], self.programmed(name).get("message", "")))
        except AssertionError:
            self.fail(f"{name}: {self.programmed(name)}")
        self.assertEqual(self.programmed(name)["status"], "False")
        return self.programmed(name)

    def events(self, name):
        return [e for e in self.api.get("/apis/events.k8s.io/v1/namespaces/default/events")["items"] if e["regarding"]["name"] == name]

    def kube_status(self, *args):
        """As a user has it: the leader's page, asked for through the API server."""
        return subprocess.run([l7test.program("l7mpctl"), "--kubeconfig", self.cluster.dir / "admin.conf", *args, "kube", "status"],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True, timeout=120).stdout

    def leader_pod(self):
        """The pod that l7mpctl finds by the holder of the lease."""
        o, status = pod("operator", OPERATOR, {}, False)
        o["spec"]["containers"][0]["ports"] = [{"containerPort": 9090}]
        path = f"/api/v1/namespaces/{SYSTEM}/pods"
        o["spec"]["serviceAccountName"] = "l7mp-operator"
        self.session().call("POST", path, o)
        self.addCleanup(self.api.delete, f"{path}/operator", 0)
        self.session().call("PATCH", f"{path}/operator/status", status, "application/merge-patch+json")

    def secret_texts(self):
        """What nobody may say, as it is and as the API server has it."""
        secrets = [TOKEN, WRONG_TOKEN, PASSWORD]
        for file in pathlib.Path(self.certs.folder).glob("*.key"):
            secrets += [line for line in file.read_text().splitlines() if not line.startswith("-")]
        bearer = json.loads(self.kubeconfig.read_text())["users"][0]["user"]["token"]
        return [*secrets, *(base64.b64encode(s.encode()).decode().rstrip("=") for s in secrets), bearer.rpartition(".")[2]]

    def nothing_secret(self, text, *known):
        """`known`: what has to be there, as this was collected."""
        self.assertEqual([k for k in known if k not in text], [])
        self.assertEqual([s for s in self.secret_texts() if s in text], [])

    def rendered(self, folder):
        """What --render says of all objects with the Secrets among them."""
        objects = [self.api.get(path) for path in (PODS, f"{L7MP}/virtualservices", "/api/v1/namespaces/default/secrets")]
        for o, kind in zip(objects, ("Pod", "VirtualService", "Secret")):
            items = [{**i, "apiVersion": o["apiVersion"], "kind": kind} for i in o["items"]]
            (folder / f"{kind}.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
        r = subprocess.run([l7test.program("l7mp-operator"), "--render", folder], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.assertIn("listeners:", r.stdout)
        return r.stdout

    def folder(self):
        d = tempfile.TemporaryDirectory()
        self.addCleanup(d.cleanup)
        return pathlib.Path(d.name)

    def secret(self, name, **data):
        path = "/api/v1/namespaces/default/secrets"
        self.session().call("POST", path, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})
        self.addCleanup(self.api.delete, f"{path}/{name}")

    def test_proxies(self):
        """a proxy with another token, of another CA, under another name, expired or without TLS is refused and shown; the others are not held up"""
        self.leader_pod()
        self.secret("l7mp-proxy", token=TOKEN, **{"tls.key": pathlib.Path(self.certs.path("proxy.key")).read_text()})
        self.secret("other", password=PASSWORD)
        proxies = {}
        for i, (case, (wrong, _)) in enumerate(CASES.items()):
            proxies[case] = self.tls_proxy(case, f"{NET}.1.{i + 1}", wrong)
            self.add_pod(*pod(case, f"{NET}.1.{i + 1}", {"case": case}))
            self.session().create(service(case, 15000 + i, {"case": case}))
        _, o = self.tls_operator("operator", "--identity", "operator_1", address=OPERATOR)
        said, pages = {}, []
        for case, (_, reason) in CASES.items():
            if not reason:
                wait_until(lambda case=case: self.programmed(case).get("status") == "True")
                continue
            said[case] = self.refused(case)
            wait_until(lambda case=case: any(re.search(CASES[case][1], e.get("note", "")) for e in self.events(case)))
            self.assertTrue(all(e["type"] == "Warning" for e in self.events(case)))
        self.answer(15000, f"{NET}.1.1")
        self.assertEqual((o.metric("proxies", state="failed"), o.metric("proxies", state="programmed")), (len(CASES) - 1, 1))
        shown = {p["name"]: p for p in json.loads(self.kube_status("-o", "json"))["proxies"]}
        table = self.kube_status()
        for case, (_, reason) in CASES.items():
            self.assertEqual(shown[case]["state"], "failed" if reason else "programmed")
            self.assertEqual(proxies[case].api.get("/config?owner=l7mp-operator")[1]["listeners"] != [], not reason, case)
            if reason:
                self.assertRegex(shown[case]["error"], reason)
                self.assertRegex(next(line for line in table.splitlines() if f"default/{case} " in line), reason)
                say(f"{case}: {said[case]['message']}")
        pages += [table, json.dumps(shown), o.stderr(), *(o.page(x)[1] for x in ("/metrics", "/readyz", "/proxies"))]
        # One that gets the right token is served at the next attempt.
        proxies["token"].token.write_text(TOKEN + "\n")
        wait_until(lambda: self.programmed("token").get("status") == "True", 120)
        self.answer(15001, f"{NET}.1.2")
        pages += [o.stderr(), o.page("/metrics")[1], json.dumps(self.api.get("/apis/events.k8s.io/v1/events")),
                  json.dumps(self.api.get(f"{L7MP}/virtualservices")), self.rendered(self.folder()),
                  *(p.stdout() + p.stderr() for p in proxies.values())]
        self.nothing_secret("".join(pages), "this instance leads", "begins (listener operator", "l7mp_operator_proxies{", "reason: Accepted")

    def test_operator(self):
        """an operator whose certificate is of another CA is refused and says so; with the right one in the same file it continues"""
        p = self.tls_proxy("good", f"{NET}.1.1", {})
        self.add_pod(*pod("good", f"{NET}.1.1", {"case": "good"}))
        self.session().create(service("good", 15000, {"case": "good"}))
        folder, o = self.tls_operator("operator-of-other", lease=False)
        say(self.refused("good", "client-ca")["message"])
        self.assertEqual(o.metric("proxies", state="failed"), 1)
        self.assertEqual(p.api.get("/config?owner=l7mp-operator")[1]["listeners"], [])
        self.assertEqual(o.metric("proxy_posts_total"), 0)
        said = o.stderr()
        self.give(folder, "operator")
        wait_until(lambda: self.programmed("good").get("status") == "True", 120)
        self.answer(15000, f"{NET}.1.1")
        self.nothing_secret(said + o.stderr() + p.stdout() + p.stderr(), "refused our certificate", "begins (listener operator")


if __name__ == "__main__":
    l7test.main()
