#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: long timeout=600 timeout_full=900
"""The console in headless Chromium: a click path through each view with many sessions, forms and what the server finds wrong
in them, hostile names, the token, the keyboard alone. Screenshots are kept in build/console."""
import http.client
import json
import os
import pathlib
import re
import socket
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import browser  # noqa: E402
import l7test  # noqa: E402

PORT, UDP, QUIET, TCP, HTTP, UP = 1235, 15000, 15001, 15002, 15003, 15009
URL = f"http://127.0.0.1:{PORT}/console/"
SESSIONS = 10000 if l7test.FULL else 500
SHOTS = l7test.ROOT / "build/console"
TOKEN = "s3cret-of-this-test"
VIEWS = ("Overview", "Listeners", "Clusters", "Sessions", "Kernel", "Settings")
SANITIZED = "asan" in l7test.program("")
HOSTILE = '<img/src=x/onerror="hacked=1">\'"><script>hacked=2</script>&lt;b&gt;${hacked=3}\u202e'


def listeners():
    return [
        {"name": "media", "spec": {"protocol": "UDP", "port": UDP, "address": "127.0.0.1"}, "rules": [
            {"match": {"op": "starts", "path": "/IP/src_addr", "value": "127."}, "action": {"route": {
                "destination": {"name": "relays", "spec": {"protocol": "UDP", "port": UP}, "endpoints": [
                    {"name": "relay-a", "spec": {"address": "127.0.0.1"}}, {"name": "relay-b", "spec": {"address": "127.0.0.2"}, "weight": 3}],
                    "loadbalancer": {"policy": "ConsistentHash", "key": "/UDP/src_port"}},
                "ingress": [{"name": "meter", "spec": {"protocol": "Metric"}}]}}}]},
        {"name": "quiet", "spec": {"protocol": "UDP", "port": QUIET, "address": "127.0.0.1"}, "rules": [
            {"action": {"route": {"destination": {"name": "sink", "spec": {"protocol": "Discard"}}}}}]},
        {"name": "echo", "spec": {"protocol": "TCP", "port": TCP, "address": "127.0.0.1"}, "options": {"track": 600}, "rules": [
            {"action": {"route": {"destination": {"name": "echoes", "spec": {"protocol": "Echo"}}}}}]},
    ]


class Base(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if not browser.chromium():
            raise unittest.SkipTest("no chromium")
        cls.browser = browser.Browser()

    @classmethod
    def tearDownClass(cls):
        cls.browser.close()

    def start(self, *more, token=False, offload=False, **admin):
        admin["server"] = {"port": PORT}
        if token:
            path = pathlib.Path(f"/tmp/l7mp-test-browser-token-{os.getpid()}")
            path.touch(0o600)
            path.write_text(TOKEN + "\n")
            self.addCleanup(path.unlink)
            admin["api_token_file"] = str(path)
        config = {"admin": admin, "listeners": [*listeners(), *more]}
        self.proxy = l7test.Proxy(config, *(() if offload else ("-o", "disable")))
        self.addCleanup(lambda: self.proxy.alive() and self.proxy.stop())
        self.api = l7test.Api(PORT, headers={"Authorization": f"Bearer {TOKEN}"} if token else None)
        self.b = self.browser
        self.b.size(1600)
        self.b.media(prefers_color_scheme="light", prefers_reduced_motion="no-preference")
        self.b.open("about:blank")
        self.b.troubles()

    def open(self, path=""):
        self.b.open("about:blank")  # else only what is behind the # changes
        self.b.open(URL + path)

    def view(self, name):
        self.b.click("#tabs a", name)
        self.b.until(f"document.querySelector('#tabs [aria-current]').textContent === {json.dumps(name)} && "
                     "document.getElementById('main').getAttribute('aria-busy') === 'false'")

    def fine(self):
        self.assertEqual(self.b.troubles(), [])

    def dialog(self):
        self.b.until("!!document.querySelector('dialog[open]')")

    def no_dialog(self):
        self.b.until("!document.querySelector('dialog')")

    def metric(self, name):
        conn = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
        conn.request("GET", "/metrics")
        text = conn.getresponse().read().decode()
        conn.close()
        return [float(v) for v in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)", text, re.M)]

    def processor_time(self):
        """Of all threads, in s; exact, other than what /proc/PID/stat counts in ticks."""
        return sum(int((t / "schedstat").read_text().split()[0]) for t in pathlib.Path(f"/proc/{self.proxy.pid}/task").iterdir()) / 1e9

    def crowd(self, n, port=QUIET):
        """So many sessions, each from a port of its own; they stay when their clients are gone."""
        for i in range(n):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.bind(("127.0.0.1", 20000 + i))
                s.sendto(b"x" * 100, ("127.0.0.1", port))
            if i % 50 == 49:  # not faster than the listener's socket can take
                self.assertTrue(l7test.wait_for(lambda want=i + 1: sum(self.metric("l7mp_sessions_started_total")) >= want))

    def shots(self, name):
        """At both widths, light and dark; the page is never wider than the window."""
        for scheme in ("light", "dark"):
            self.b.media(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
            for width in (1600, 400):
                self.b.size(width)
                self.assertLessEqual(self.b.js("document.documentElement.scrollWidth"), width, (name, scheme))
                self.b.screenshot(SHOTS / f"{name}-{width}-{scheme}.png")
        self.b.size(1600)
        self.b.media(prefers_color_scheme="light", prefers_reduced_motion="no-preference")


class Views(Base):
    def test_path(self):
        """console: a click path through all views with many sessions: search, pages, a session; screenshots of each"""
        self.start()
        up = [l7test.udp_socket(UP, a) for a in ("127.0.0.1", "127.0.0.2")]
        clients = [l7test.udp_socket() for _ in range(20)]
        for s in up + clients:
            self.addCleanup(s.close)
        self.crowd(SESSIONS)
        for s in clients:
            s.connect(("127.0.0.1", UDP))
            s.send(b"y" * 200)
        self.assertTrue(l7test.wait_for(lambda: sum(self.metric("l7mp_sessions")) == SESSIONS + 20))
        before = self.processor_time()
        self.open()
        self.b.until_text("Packets per second")
        while self.b.js("(document.querySelector('.chart .line.b').getAttribute('d') || '').split('L').length") < 4:  # so many readings
            for s in clients:
                s.send(b"y" * 200)
            time.sleep(0.05)
        self.b.until_text("serving", ".top")
        self.b.until_text("changes allowed", ".top")
        self.assertIn(f"{SESSIONS + 20:,}", self.b.text(".tiles"))
        for word in ("Verdicts", "Drops", "Memory", "Draining", "Refused by a limit", "forwarded", "no-match"):
            self.assertIn(word, self.b.text())
        self.shots("overview")

        self.view("Listeners")
        for word in ("media", "quiet", "echo", "/IP/src_addr starts 127.", f"127.0.0.1:{UDP}"):
            self.b.until_text(word)
        self.assertIn("→ meter → relays", self.b.text().replace("\n", " "))
        self.shots("listeners")

        self.view("Clusters")
        for word in ("relay-a", "relay-b", f"127.0.0.2:{UP}", "ConsistentHash by /UDP/src_port", "takes sessions"):
            self.b.until_text(word)
        self.assertEqual(self.b.js("[...document.querySelectorAll('.weight input')].map(i => i.value)"), ["1", "3"])
        self.shots("clusters")

        self.view("Sessions")
        self.b.until("document.querySelectorAll('tbody tr').length === 50")
        first = self.b.js("document.querySelector('tbody a').textContent")
        self.b.click("button", "Next page")
        self.b.until(f"document.querySelectorAll('tbody tr').length === 50 && document.querySelector('tbody a').textContent !== {json.dumps(first)}")
        self.b.click("button", "First page")
        self.b.until(f"(document.querySelector('tbody a') || {{}}).textContent === {json.dumps(first)}")
        self.shots("sessions")
        self.b.click("input[type=search]")
        self.b.type("media RELAY-")
        self.b.key("Enter")
        self.b.until("document.querySelectorAll('tbody tr').length === 20")
        self.assertEqual(set(self.b.js("[...document.querySelectorAll('td[data-label=listener]')].map(e => e.textContent)")), {"media"})
        self.assertTrue(self.b.js("[...document.querySelectorAll('.pages button')].every(b => b.disabled)"))

        self.b.click("tbody a")
        for word in ("To the endpoint (ingress)", "To the client (egress)", "meter", "relays", "endpoint relay-", "disabled", "offload is off", "INIT", "src_port"):
            self.b.until_text(word)
        self.shots("session")
        self.b.click("main a", "← Sessions")
        self.b.until("document.querySelectorAll('tbody tr').length === 50")

        self.view("Kernel")
        self.b.until_text("No flow is in the kernel")
        self.b.until_text("disabled")
        self.shots("kernel")

        self.view("Settings")
        for word in ("Log level", "max_sessions", "drain_timeout"):
            self.b.until_text(word)
        self.shots("settings")
        self.fine()
        # Processor time, which other programs do not make longer: of all of the above; and of the longest part of a turn.
        used, turn = self.processor_time() - before, max(self.metric("l7mp_loop_control_cpu_max_seconds"))
        print(f"# {SESSIONS} sessions: {used * 1000:.0f} ms of processor time for the click path; longest part of a loop iteration {turn * 1000:.2f} ms", flush=True)
        self.assertLess(turn, 0.02 if SANITIZED else 0.003)

    def test_load(self):
        """console: opening the list of sessions takes little time of the server, however many there are"""
        self.start()
        self.crowd(SESSIONS)
        self.open()
        self.b.until_text("Packets per second")
        self.b.js("setInterval = () => 0")
        before = self.processor_time()
        began = time.monotonic()
        self.open("#/sessions")
        self.b.until("document.querySelectorAll('tbody tr').length === 50")
        took = time.monotonic() - began
        used = self.processor_time() - before
        sizes = self.b.js("performance.getEntriesByType('resource').map(e => [e.name.replace(location.origin, ''), e.encodedBodySize])")
        print(f"# {SESSIONS} sessions: {used * 1000:.0f} ms of processor time, {took * 1000:.0f} ms until they are shown; {sizes}", flush=True)
        self.assertLess(used, 1.5 if SANITIZED else 0.3)
        self.assertLess(max(s for n, s in sizes if n.startswith("/api")), 200000)  # never all of them
        self.fine()

    def test_kernel(self):
        """console: a session in the kernel: its path says by which program, the flows are listed"""
        self.start(offload=True, offload_ifs=["lo"], offload_mode="tc", instance=f"console-test-{os.getpid()}")
        if self.api.get("/offload")[1]["state"] != "active":
            self.skipTest("the fast path is not active: " + str(self.api.get("/offload")[1].get("reason")))
        echo = l7test.UdpEcho(UP)
        self.addCleanup(echo.close)
        self.assertEqual(self.api.delete("/endpoints/relay-b")[0], 200)
        client = l7test.udp_socket()
        self.addCleanup(client.close)
        client.connect(("127.0.0.1", UDP))

        def fast():
            client.send(b"x")
            client.recv(100)
            return self.api.get("/sessions")[1][0]["offload"]["state"] == "fast"
        if not l7test.wait_for(fast, step=0.1):
            self.fail(json.dumps(self.api.get("/sessions")[1][0]["offload"]))
        self.open("#/sessions")
        self.b.click("tbody a")
        self.b.until_text("in the kernel")
        self.b.until("document.querySelectorAll('.lane.fast').length === 2")
        self.assertRegex(self.b.text(".kernel.in"), r"tc.*lo")
        self.shots("session-kernel")
        self.view("Kernel")
        self.b.until("document.querySelectorAll('table').length >= 3")
        self.assertNotIn("No flow is in the kernel", self.b.text())
        self.shots("kernel-flows")
        self.fine()

    def test_media(self):
        """console: dark is dark, less motion is none"""
        self.start()
        self.open()
        colors = []
        for scheme in ("light", "dark"):
            self.b.media(prefers_color_scheme=scheme)
            colors.append(self.b.js("getComputedStyle(document.body).backgroundColor"))
        self.assertNotEqual(*colors)
        for how, expected in (("no-preference", False), ("reduce", True)):
            self.b.media(prefers_color_scheme="light", prefers_reduced_motion=how)
            self.assertEqual(self.b.js("getComputedStyle(document.querySelector('.tabs a')).transitionDuration") == "0s", expected)


class Forms(Base):
    def fill(self, text):
        self.b.js(f"document.querySelector('dialog textarea').value = {json.dumps(text)}")

    def submit(self):
        self.b.click("dialog button[type=submit]")

    def findings(self):
        return self.b.text("dialog .findings")

    def selected(self):
        return self.b.js("(() => { const t = document.querySelector('dialog textarea'); return t.value.slice(t.selectionStart, t.selectionEnd); })()")

    def test_objects(self):
        """console: objects are added, changed and deleted; what the server finds is shown, and its place in the text selected"""
        self.start()
        self.open("#/clusters")
        self.b.click("button", "Add cluster…")
        self.dialog()
        self.fill('{\n "cluster": {\n  "name": "new",\n  "spec": {"protocol": "UDP",\n   "port": 99999}, "endpoints": [{"spec": {"address": 5}}]}}')
        self.submit()
        self.b.until("document.querySelectorAll('dialog .findings li').length === 2")
        self.assertIn("line 5 cluster.spec.port: expected", self.findings())
        self.assertIn("cluster.endpoints[0].spec.address", self.findings())
        self.assertEqual(self.selected(), '"port": 99999')
        self.b.click("dialog .findings li:nth-child(2) button")
        self.assertEqual(self.selected(), '"address": 5')
        self.assertEqual(self.b.js("document.activeElement.tagName + document.activeElement.getAttribute('aria-invalid')"), "TEXTAREAtrue")
        self.shots("form")
        self.fill('{"cluster": \n{,}}')
        self.submit()
        self.b.until("document.querySelectorAll('dialog .findings li').length === 1")
        self.assertIn("line 2", self.findings())
        self.fill('{"cluster": {"name": "echoes", "spec": {"protocol": "Echo"}}}')
        self.submit()
        self.b.until("document.querySelector('dialog .findings').innerText.includes('echoes')")  # exists
        self.fill('{"cluster": {"name": "new", "spec": {"protocol": "UDP", "port": 9}, "endpoints": [{"name": "n1", "spec": {"address": "127.0.0.1"}}]}}')
        self.submit()
        self.no_dialog()
        self.b.until_text("n1")
        self.assertEqual(self.api.get("/clusters/new")[1]["spec"]["port"], 9)

        self.b.click("button[aria-label='Change cluster new']")
        self.dialog()
        self.assertIn('"name": "new"', self.b.js("document.querySelector('dialog textarea').value"))
        self.b.js("(() => { const t = document.querySelector('dialog textarea'); t.value = t.value.replace('\"port\": 9', '\"port\": 10'); })()")
        self.submit()
        self.no_dialog()
        self.b.until_text("127.0.0.1:10")
        self.assertEqual(self.api.get("/clusters/new")[1]["spec"]["port"], 10)

        self.b.click("button[aria-label='Add an endpoint to new']")
        self.dialog()
        self.submit()
        self.no_dialog()
        self.b.until_text("new-endpoint")
        self.b.click("button[aria-label='Delete endpoint new-endpoint']")
        self.dialog()
        self.assertEqual(self.b.js("document.activeElement.textContent"), "Cancel")
        self.assertEqual(self.api.delete("/endpoints/new-endpoint")[0], 200)  # another client was faster
        self.submit()
        self.b.until("!document.querySelector('dialog [role=alert]').hidden")
        self.assertIn("no endpoint is named 'new-endpoint'", self.b.text("dialog [role=alert]"))
        self.b.key("Escape")
        self.no_dialog()
        self.assertEqual(self.api.get("/clusters/new")[0], 200)
        self.b.click("button[aria-label='Delete cluster new']")
        self.dialog()
        self.b.click("dialog input[type=checkbox]")
        self.submit()
        self.no_dialog()
        self.b.until("!document.querySelector('main').innerText.includes('n1')")
        self.assertEqual(self.api.get("/clusters/new")[0], 404)
        errors = self.b.troubles()  # the browser itself reports each answer of 400 and more
        self.assertTrue(all("the server responded with a status of 4" in e for e in errors), errors)

    def test_health(self):
        """console: what sessions have found out about endpoints; a weight that is being typed stays when it changes"""
        self.start({"name": "failing", "spec": {"protocol": "TCP", "port": 15005, "address": "127.0.0.1"}, "rules": [
            {"action": {"route": {"destination": {"name": "broken", "spec": {"protocol": "TCP", "port": 15006}, "endpoints": [
                {"name": "dead", "spec": {"address": "127.0.0.1"}}, {"name": "spare", "spec": {"address": "127.0.0.2"}, "weight": 0}]}}}}]},
            {"name": "spawns", "spec": {"protocol": "TCP", "port": 15007, "address": "127.0.0.1"}, "rules": [
                {"action": {"route": {"destination": {"name": "program", "spec": {"protocol": "STDIO-fork", "command": ["/no/such"]}}}}}]})
        self.open("#/clusters")
        self.b.until_text("dead")

        def row(name):
            return self.b.js(f"[...document.querySelectorAll('.grid tbody tr')].find(r => r.cells[0].textContent === '{name}').innerText")
        self.assertIn("not used yet", row("dead"))
        self.assertIn("no new sessions", row("spare"))
        self.assertIn("takes sessions", row("relay-b"))
        typed = "[...document.querySelectorAll('.weight input')].find(i => i.ariaLabel === 'Weight of dead')"
        self.b.js(f"{typed}.focus(), {typed}.value = '42'")
        for port in (15005, 15005, 15007):
            with socket.socket() as s:
                s.settimeout(30)
                try:
                    s.connect(("127.0.0.1", port))  # may see the reset at once
                    s.recv(1)
                except ConnectionResetError:
                    pass
        self.assertTrue(l7test.wait_for(lambda: self.api.get("/endpoints/dead")[1]["health"]["failed"] == 2))
        self.b.until_text("refused")
        text = row("dead")
        self.assertIn("fails", text)
        self.assertRegex(text, r"(?s)\b0\s+2\s+2\s+0\s")
        self.assertRegex(text, r"\d\d:\d\d:\d\d\.\d{3} .*refused")
        self.b.until("[...document.querySelectorAll('article')].some(a => a.querySelector('h2').textContent === 'program' && a.querySelector('.fault'))")
        self.assertEqual(self.b.js(f"{typed}.value"), "42")
        self.b.until("document.activeElement.ariaLabel === 'Weight of dead'")
        self.shots("health")
        with socket.create_connection(("127.0.0.1", TCP), 30) as s:
            s.sendall(b"x")
            self.b.until("[...document.querySelectorAll('article')].some(a => a.querySelector('h2').textContent === 'echoes' && a.innerText.includes('1 session now'))")
        self.b.click("button[aria-label='Change endpoint dead']")
        self.dialog()
        self.assertNotIn("health", self.b.js("document.querySelector('dialog textarea').value"))
        self.b.key("Escape")
        self.no_dialog()
        self.fine()

    def test_weight_level_drain(self):
        """console: the weight of an endpoint, the log level, draining and its end; errors stand at the field"""
        self.start()
        self.open("#/clusters")
        for text, error in (("-1", True), ("", True), ("7", False)):
            self.b.until("document.querySelectorAll('.weight input').length === 2")
            self.b.js(f"document.querySelector('.weight input').value = {json.dumps(text)}")
            self.b.click(".weight button")
            if error:
                self.b.until("!document.querySelector('.weight .error').hidden")
                self.assertIn("weight", self.b.text(".weight .error"))
        self.assertTrue(l7test.wait_for(lambda: self.api.get("/endpoints/relay-a")[1]["weight"] == 7))
        self.assertEqual(self.api.get("/endpoints/relay-a")[1]["spec"], {"address": "127.0.0.1"})

        self.view("Settings")
        self.b.until("!!document.querySelector('main select')")
        self.b.js("document.querySelector('main select').value = 'verbose'")
        self.b.click("main form button[type=submit]")
        self.assertTrue(l7test.wait_for(lambda: self.api.get("/admin")[1]["log_level"] == "verbose"))

        self.view("Overview")
        self.b.click("button", "Drain…")
        self.dialog()
        self.b.js("document.querySelector('dialog input').value = '-5'")
        self.submit()
        self.b.until("!document.querySelector('dialog .field .error').hidden")
        self.assertIn("timeout: expected", self.b.text("dialog .field .error"))
        self.b.js("document.querySelector('dialog input').value = '500'")
        self.submit()
        self.no_dialog()
        self.b.until("/drain(ing|ed)/.test(document.querySelector('.facts').innerText)")
        self.assertIn(self.api.get("/drain")[1]["state"], ("draining", "drained"))
        self.b.click("button", "Take sessions again")
        self.dialog()
        self.submit()
        self.no_dialog()
        self.b.until_text("serving", ".facts")
        self.assertEqual(self.api.get("/drain")[1]["state"], "serving")

    def test_end_session(self):
        """console: a session is ended; what has ended and is kept is shown, what is not kept is said to be gone"""
        self.start()
        s = socket.create_connection(("127.0.0.1", TCP), 60)
        self.addCleanup(s.close)
        s.send(b"x")
        s.recv(1)
        self.open("#/sessions")
        self.b.click("tbody a")
        self.b.click("button", "End session…")
        self.dialog()
        self.submit()
        self.no_dialog()
        self.b.until_text("DESTROYED")
        self.assertFalse(self.b.js("[...document.querySelectorAll('button')].some(b => b.textContent === 'End session…')"))
        self.assertEqual(self.api.get("/sessions")[1][0]["status"], "DESTROYED")
        self.open("#/sessions/nobody")
        self.b.until_text("has ended, and is not kept")

    def test_settings(self):
        """console: settings as JSON; one that can't be changed is refused with its reason"""
        self.start()
        self.open("#/settings")
        self.b.click("button", "Change settings…")
        self.dialog()
        self.fill('{"admin": {"instance": "other"}}')
        self.submit()
        self.b.until("document.querySelector('dialog .findings').innerText.includes('instance')")
        self.fill('{"admin": {"limits": {"max_sessions": 4321}}}')
        self.submit()
        self.no_dialog()
        self.b.until_text("4,321")


class Hostile(Base):
    def test_names(self):
        """console: names and metadata that are markup, scripts or formats are shown as they are, in every view and form"""
        echo = {"protocol": "Echo"}
        self.start(
            {"name": HOSTILE, "spec": {"protocol": "HTTP", "port": HTTP, "address": "127.0.0.1"}, "options": {"track": 600}, "rules": [
                {"name": "rule-" + HOSTILE, "match": {"op": "matches", "path": "/HTTP/url/path", "value": "/|" + HOSTILE.replace("$", "").replace("{", "")}, "action": {"route": {
                    "destination": {"name": "cluster-" + HOSTILE, "spec": echo}, "ingress": [{"name": "stage-" + HOSTILE, "spec": {"protocol": "Metric"}}]}}},
                {"action": {"route": {"destination": "cluster-" + HOSTILE}}}]})
        conn = http.client.HTTPConnection("127.0.0.1", HTTP, timeout=60)
        conn.request("GET", "/" + "%3Cscript%3Ehacked=4%3C/script%3E?<img/src=x/onerror=hacked=5>", headers={"X-Hostile": "<img src=x onerror=hacked=6>"})
        conn.getresponse().read()
        conn.close()
        self.open()
        # After each view: as many elements of that kind as the page itself has, and nothing ran.
        clean = "window.hacked === undefined && !document.querySelector('img, iframe, main script, body > script, b[style]')"
        shown = "<img/src=x/onerror="
        for name in VIEWS:
            self.view(name)
            self.b.until("document.querySelector('main').innerText.length > 20")
            if name in ("Listeners", "Clusters", "Sessions"):
                self.b.until_text(shown)
            self.assertTrue(self.b.js(clean), name)
        self.view("Sessions")
        self.b.click("tbody a")
        for text in (shown, "hacked=5", "onerror=hacked=6"):
            self.b.until_text(text)
        self.b.click("details summary")
        self.assertTrue(self.b.js(clean))
        self.view("Listeners")
        self.b.js("[...document.querySelectorAll('button')].filter(b => b.textContent === 'Change…').pop().click()")
        self.dialog()
        self.b.until_text(shown, "dialog h2")
        self.assertTrue(self.b.js(clean))
        self.b.key("Escape")
        self.no_dialog()
        self.open("#/sessions?filter=" + "%3Cimg%20src%3Dx%20onerror%3Dhacked%3D7%3E")
        self.b.until("(document.querySelector('input[type=search]')?.value ?? '').startsWith('<img')")
        self.open("#/sessions/%3Cimg%20src=x%20onerror=hacked=8%3E")
        self.b.until_text("<img src=x onerror=hacked=8>")
        self.assertTrue(self.b.js(clean))
        self.assertEqual([e for e in self.b.troubles() if "status of 404" not in e], [])
        # The policy holds even for a script that is there: markup is refused, code from text is not run.
        self.assertIn("TrustedHTML", self.b.js("(() => { try { document.body.innerHTML = '<b>x</b>'; } catch (e) { return String(e); } })()"))
        self.assertEqual(self.b.js("(() => { const s = document.createElement('script'); try { s.textContent = 'hacked = 9'; document.body.append(s); } catch (e) { } "
                                   "return window.hacked; })()"), None)
        self.assertIn("Failed to fetch", self.b.js("fetch('http://127.0.0.2:9/').catch(e => String(e))"))


class Token(Base):
    def wait_for_login(self):
        self.b.until_text("A token is needed")

    def test_login(self):
        """console: asks for the token, says that one is wrong, keeps the right one in the tab only and sends it in the header only"""
        self.start(token=True)
        self.open()
        self.wait_for_login()
        self.shots("login")
        self.b.click("main button", "Log in")
        self.dialog()
        self.b.type("wrong")
        self.b.key("Enter")
        self.b.until("!document.querySelector('dialog .field .error').hidden")
        self.assertIn("not the token", self.b.text("dialog .field .error"))
        self.assertEqual(self.b.js("document.activeElement.type + document.activeElement.getAttribute('aria-invalid')"), "passwordtrue")
        self.assertIsNone(self.b.js("sessionStorage.getItem('l7mp-token')"))
        self.b.type(TOKEN)
        self.b.events.clear()
        self.b.key("Enter")
        self.no_dialog()
        self.b.until_text("changes allowed", ".facts")
        self.b.until_text("Packets per second")
        self.view("Sessions")
        self.view("Clusters")
        self.b.until_text("Add cluster…")
        sent = [e["params"]["request"] for e in self.b.events if e["method"] == "Network.requestWillBeSent"]
        self.assertGreater(len(sent), 3)
        for r in sent:
            self.assertNotIn(TOKEN, r["url"] + str(r.get("postData")))
            self.assertEqual(r["headers"].get("Authorization"), f"Bearer {TOKEN}", r["url"])
        self.assertNotIn(TOKEN, self.b.js("location.href + document.cookie + JSON.stringify(localStorage) + document.documentElement.outerHTML"))
        self.assertNotIn(TOKEN, self.proxy.stderr())
        self.b.open(URL)  # the tab keeps it
        self.b.until_text("changes allowed", ".facts")
        self.b.click("#tools button", "Log out")
        self.wait_for_login()
        self.assertIsNone(self.b.js("sessionStorage.getItem('l7mp-token')"))

    def test_changed(self):
        """console: when the token is changed in the proxy, the page asks for it again, and does not continue trying"""
        self.start(token=True)
        self.open()
        self.wait_for_login()
        self.b.js(f"sessionStorage.setItem('l7mp-token', {json.dumps(TOKEN)})")
        self.b.js("location.reload()")
        self.b.until_text("Packets per second")
        path = pathlib.Path(self.api.get("/admin")[1]["api_token_file"])
        path.write_text("another\n")
        self.wait_for_login()
        self.b.events.clear()
        time.sleep(7)
        self.b.js("0")
        self.assertEqual([e for e in self.b.events if e["method"] == "Network.requestWillBeSent"], [])

    def test_read_only(self):
        """console: with read_without_token it shows everything and has no form, until a user logs in"""
        self.start(token=True, read_without_token=True)
        with socket.create_connection(("127.0.0.1", TCP), 60) as s:
            s.send(b"x")
            s.recv(1)
        self.open()
        forms = r"[...document.querySelectorAll('main button, main input, main select')].map(e => e.textContent || e.type)"
        self.b.until_text("read-only", ".facts")
        for name, word in zip(VIEWS, ("Packets per second", "media", "relay-a", "echo", "No flow", "max_sessions")):
            self.view(name)
            self.b.until_text(word)
            self.assertLessEqual(set(self.b.js(forms)), {"search", "Search", "First page", "Next page", "Show more"}, name)
        self.view("Sessions")
        self.b.click("tbody a")
        self.b.until_text("To the endpoint")
        self.assertEqual(self.b.js(forms), [])
        self.shots("read-only")
        self.b.click("#tools button", "Log in")
        self.dialog()
        self.b.type(TOKEN)
        self.b.key("Enter")
        self.no_dialog()
        self.b.until_text("changes allowed", ".facts")
        self.view("Clusters")
        self.b.until_text("Add cluster…")
        self.b.js("sessionStorage.clear()")


class Keyboard(Base):
    def focused(self):
        return self.b.js("(e => e.textContent.trim().slice(0, 40) || e.getAttribute('aria-label') || e.type || e.id)(document.activeElement)")

    def tab_to(self, text, limit=60):
        for _ in range(limit):
            self.b.key("Tab")
            self.assertTrue(self.b.js("(e => e === document.body || getComputedStyle(e).outlineStyle !== 'none')(document.activeElement)"), self.focused())
            if self.focused() == text:
                return
        self.fail(f"{text}: not reached by Tab")

    def test_everything(self):
        """console: without a mouse: the skip link, the views, a search, a form and its dialog; the focus is seen, and is never caught"""
        self.start()
        s = socket.create_connection(("127.0.0.1", TCP), 60)
        self.addCleanup(s.close)
        s.send(b"x")
        s.recv(1)
        self.open()
        self.b.until_text("Packets per second")
        self.b.key("Tab")
        self.assertEqual(self.focused(), "Skip to the contents")
        self.b.key("Enter")
        self.b.until("document.activeElement.id === 'main'")
        self.open()
        self.b.until_text("Packets per second")
        self.tab_to("Sessions")
        self.b.key("Enter")
        self.b.until_text("1 shown of 1")
        self.tab_to("search")
        self.b.type("echoes")
        self.b.key("Enter")
        self.b.until("location.hash.includes('filter=echoes') && document.querySelectorAll('tbody tr').length === 1")
        name = self.b.js("document.querySelector('tbody a').textContent")
        self.tab_to(name[:40])
        # What is read again every few seconds does not take the focus away.
        seen = len(self.b.events)
        self.b.wait(lambda: self.b.js("0") is not None and sum("/sessions?" in e.get("params", {}).get("request", {}).get("url", "") for e in self.b.events[seen:]) >= 2, "the list is read again")
        self.assertEqual(self.focused(), name[:40])
        self.b.key("Enter")
        self.b.until_text("To the endpoint")
        self.tab_to("End session…")
        self.b.key("Enter")
        self.dialog()
        self.assertEqual(self.focused(), "Cancel")
        inside = set()
        for _ in range(6):  # a dialog keeps the focus, its own and the browser's parts apart
            self.b.key("Tab")
            inside.add(self.b.js("document.activeElement === document.body || !!document.activeElement.closest('dialog')"))
        self.assertEqual(inside, {True})
        self.b.key("Escape")
        self.no_dialog()
        self.assertEqual(self.focused(), "End session…")
        # Round once: each thing that can have the focus gets it, and after the last one comes the first.
        for view in ("#/overview", "#/clusters", "#/settings"):
            self.open(view)
            self.b.until("document.getElementById('main').getAttribute('aria-busy') === 'false'")
            self.b.click("#tools button", "Pause")
            self.b.until_text("Resume", "#tools")
            want = self.b.js("[...document.querySelectorAll('a[href], button:not(:disabled), input, select, textarea, summary, [tabindex=\"0\"]')]"
                             ".filter(e => e.checkVisibility()).length")
            self.b.js("window.seen = new Set()")
            for _ in range(want + 2):
                self.b.key("Tab")
                self.b.js("seen.add(document.activeElement), 0")
            self.assertGreaterEqual(self.b.js("seen.delete(document.body), seen.size"), want, view)
        self.fine()

    def test_names(self):
        """console: everything that is operated has a name, fields have labels, tables have captions, there is one h1 or a tile"""
        self.start()
        self.open()
        for view in VIEWS:
            self.view(view)
            bad = self.b.js("[...document.querySelectorAll('button, a, input, select, textarea, table, svg[role=img], dialog')].filter(e => "
                            "!(e.textContent.trim() || e.getAttribute('aria-label') || (e.labels && e.labels.length) || e.caption)).map(e => e.outerHTML)")
            self.assertEqual(bad, [], view)
            ids = self.b.js("[...document.querySelectorAll('[id]')].map(e => e.id)")
            self.assertEqual(len(ids), len(set(ids)), view)
            self.assertEqual(self.b.js("[...document.querySelectorAll('[aria-describedby]')].flatMap(e => e.getAttribute('aria-describedby').split(' ')).filter(i => !document.getElementById(i))"), [])
            self.assertLessEqual(self.b.js("document.querySelectorAll('h1').length"), 1)
        self.assertEqual(self.b.js("document.documentElement.lang"), "en")


if __name__ == "__main__":
    unittest.TestCase.maxDiff = None
    l7test.main()
