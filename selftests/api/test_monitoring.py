#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=300
"""The Grafana dashboard and the alert rules in deploy/: they name only metrics and labels that /metrics has; Prometheus loads the
rules, and answers each query of the dashboard from a proxy that it scrapes."""
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import unittest
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import kube_api  # noqa: E402
import l7test  # noqa: E402
import mesh  # noqa: E402
import yaml  # noqa: E402

PORT, PROMETHEUS, OPERATOR = 1235, 9090, 9091
DEPLOY = l7test.ROOT / "deploy"
RULES = DEPLOY / "prometheus/l7mp.rules.yaml"
TARGET_LABELS = {"job", "instance", "le"}  # of Prometheus, of histograms
SELECTOR = re.compile(r"\b((?:l7mp|listener|cluster|session)_\w+|up)\s*(?:\{([^}]*)\})?")
BY = re.compile(r"\bby \(([^)]*)\)")
ECHO = {"name": "echo", "spec": {"protocol": "TCP", "port": 15000, "address": "127.0.0.1"}, "rules": [
    {"action": {"route": {"destination": {"name": "echoes", "spec": {"protocol": "Echo"}}}}}]}


def dashboard():
    return json.loads((DEPLOY / "grafana/l7mp.json").read_text())


def queries():
    """(where, expression) of all panels and alerts."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield "dashboard: " + panel["title"], target["expr"]
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            yield "alert: " + rule["alert"], rule["expr"]


def variables(expression):
    return expression.replace("$__rate_interval", "5s").replace("$job", ".*").replace("$instance", ".*")


class Monitoring(unittest.TestCase):
    def start(self):
        self.proxy = l7test.Proxy({"admin": {"server": {"port": PORT}}, "listeners": [ECHO]}, "-o", "disable")
        self.addCleanup(lambda: self.proxy.alive() and self.proxy.stop())
        l7test.Api(PORT).get("/sessions")
        # Listeners and clusters are counted from their first session.
        with socket.create_connection(("127.0.0.1", 15000), 60) as s:
            s.send(b"x")
            s.recv(1)

    def operator(self):
        """An operator that knows one pod."""
        api = kube_api.KubeApi()
        self.addCleanup(api.stop)
        api.apply(kube_api.pod("p", "127.0.1.1"))
        operator = mesh.Operator(listen=OPERATOR).ready()
        self.addCleanup(operator.stop)
        return operator

    def text(self):
        """/metrics of the proxy, and of an operator."""
        conn = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
        conn.request("GET", "/metrics")
        text = conn.getresponse().read().decode()
        conn.close()
        return text + self.operator().page("/metrics")[1]

    def metrics(self):
        """{name: labels} of /metrics, histograms by their parts, too."""
        text = self.text()
        found = {"up": set()}
        for name, labels in re.findall(r"^([a-z]\w*)(?:\{(.*)\})? \S+$", text, re.M):
            found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
        return found

    def test_names(self):
        """each metric and each label of the dashboard and the alerts is one that the proxy or the operator has"""
        self.start()
        known = self.metrics()
        self.assertIn("le", known["l7mp_control_slice_seconds_bucket"])
        n = 0
        for where, expr in queries():
            used = SELECTOR.findall(expr)
            self.assertTrue(used, where)
            labels = set(TARGET_LABELS)
            for name, matchers in used:
                self.assertIn(name, known, where)
                labels |= known[name]
                for label in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', matchers):
                    self.assertIn(label, known[name] | TARGET_LABELS, (where, name))
                n += 1
            for by in BY.findall(expr):
                self.assertLessEqual({b.strip() for b in by.split(",")}, labels, where)
        self.assertGreater(n, 50)

    def test_values(self):
        """the values of labels that are written out exist: limits, reasons, states"""
        self.start()
        text = self.text()
        for where, expr in queries():
            for name, matchers in SELECTOR.findall(expr):
                for label, values in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"$]*)"', matchers):
                    if label not in ("job", "code"):
                        for value in values.split("|"):
                            self.assertRegex(text, rf'(?m)^{name}\{{.*{label}="{value}"', where)

    def test_dashboard(self):
        """panels do not overlap, have numbers of their own, the data source of the variable, and legends of labels that are there"""
        d = dashboard()
        self.assertEqual({v["name"] for v in d["templating"]["list"]}, {"datasource", "job", "instance"})
        ids = [p["id"] for p in d["panels"]]
        self.assertEqual(len(ids), len(set(ids)))
        taken = set()
        for p in d["panels"]:
            g = p["gridPos"]
            cells = {(x, y) for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])}
            self.assertFalse(cells & taken, p["title"])
            self.assertLessEqual(g["x"] + g["w"], 24)
            taken |= cells
            refs = [t["refId"] for t in p.get("targets", [])]
            self.assertEqual(len(refs), len(set(refs)))
            for t in p.get("targets", []):
                self.assertEqual(t["datasource"]["uid"], "${datasource}")
                for label in re.findall(r"\{\{(\w+)\}\}", t["legendFormat"]):
                    self.assertIn(label, " ".join(BY.findall(t["expr"])), p["title"])

    def test_promtool(self):
        """promtool accepts the rules, and each alert that has a case fires where it is to, and not beside it"""
        promtool = shutil.which("promtool")
        if not promtool:
            self.skipTest("no promtool (package prometheus)")
        for args in (["check", "rules", RULES], ["test", "rules", DEPLOY / "prometheus/l7mp.rules.test.yaml"]):
            r = subprocess.run([promtool, *args], capture_output=True, text=True, timeout=120, check=False)
            self.assertEqual(r.returncode, 0, r.stdout + r.stderr)

    def ask(self, path):
        conn = http.client.HTTPConnection("127.0.0.1", PROMETHEUS, timeout=60)
        conn.request("GET", "/api/v1/" + path)
        text = conn.getresponse().read()
        conn.close()
        return json.loads(text) if text.startswith(b"{") else {}  # while it starts

    def query(self, expr):
        return self.ask("query?query=" + urllib.parse.quote(expr))

    def test_prometheus(self):
        """Prometheus scrapes the proxy and the operator, loads the rules, and has an answer for each query of the dashboard"""
        prometheus = shutil.which("prometheus")
        if not prometheus:
            self.skipTest("no prometheus")
        self.start()
        self.operator()
        folder = tempfile.TemporaryDirectory(prefix="l7mp-prometheus-")
        self.addCleanup(folder.cleanup)
        config = yaml.safe_load((DEPLOY / "prometheus/scrape.yaml").read_text())
        config["scrape_configs"].append({"job_name": "l7mp-operator", "static_configs": [{"targets": [f"127.0.0.1:{OPERATOR}"]}]})
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        shutil.copy(RULES, folder.name)
        path = os.path.join(folder.name, "prometheus.yml")
        with open(path, "w") as f:
            json.dump(config, f)
        with open(os.path.join(folder.name, "log"), "w") as log:
            p = subprocess.Popen([prometheus, f"--config.file={path}", f"--storage.tsdb.path={folder.name}/data", f"--web.listen-address=127.0.0.1:{PROMETHEUS}"],
                                 stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.assertTrue(l7test.wait_for(lambda: self.query('min(count_over_time(up[1m])) > 4').get("data", {}).get("result"), 120, step=0.2))
            for where, expr in queries():
                answer = self.query(variables(expr))
                self.assertEqual(answer["status"], "success", (where, answer))
                if where.startswith("dashboard"):
                    self.assertTrue(l7test.wait_for(lambda e=expr: self.query(variables(e))["data"]["result"], step=0.2), where)
            groups = self.ask("rules")["data"]["groups"]
            rules = [r for g in groups for r in g["rules"]]
            self.assertEqual(len(rules), len(yaml.safe_load(RULES.read_text())["groups"][0]["rules"]))
            self.assertTrue(l7test.wait_for(lambda: all(r["health"] == "ok" for g in self.ask("rules")["data"]["groups"] for r in g["rules"])))
            self.assertEqual([a["labels"]["alertname"] for a in self.ask("alerts")["data"]["alerts"] if a["state"] == "firing"], [])
        finally:
            p.terminate()
            p.wait()


if __name__ == "__main__":
    unittest.TestCase.maxDiff = None
    l7test.main()
