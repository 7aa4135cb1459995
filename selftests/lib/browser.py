# SPDX-License-Identifier: MIT
"""Chromium without a window, driven by the DevTools protocol over a pair of pipes: no driver, no port.

Commands go to the browser as JSON with a NUL behind each; so do its answers and events come.
"""
import base64
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import tempfile
import time

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--disable-extensions", "--hide-scrollbars",
         "--remote-debugging-pipe"]
LIMIT = 120  # seconds: for what never comes, not for how long it may take


def chromium():
    return shutil.which("chromium")


class Browser:
    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="l7mp-chromium-")
        to_browser, self.write_fd = os.pipe()
        self.read_fd, from_browser = os.pipe()
        self.log = open(os.path.join(self.folder, "log"), "wb")
        # The browser has its ends as descriptors 3 and 4; so has what runs it, in a shell that moves them there.
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "bash", chromium(), *FLAGS, f"--user-data-dir={self.folder}/profile", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, pass_fds=(to_browser, from_browser), start_new_session=True)
        os.close(to_browser)
        os.close(from_browser)
        self.buffer = b""
        self.number = 0
        self.session = None
        self.events = []
        target = next(t for t in self.wait(lambda: self.call("Target.getTargets")["targetInfos"], "a page of the browser") if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(domain + ".enable")

    # ---- the protocol ----

    def receive(self, seconds):
        """The next message; None when there is none in time."""
        end = time.monotonic() + seconds
        while b"\0" not in self.buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.read_fd], [], [], left)[0]:
                return None
            data = os.read(self.read_fd, 1 << 20)
            if not data:
                raise AssertionError("the browser has ended: " + self.log_text())
            self.buffer += data
        text, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(text)

    def call(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write_fd, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            answer = self.receive(end - time.monotonic())
            if answer is None:
                break
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return answer["result"]
            if "method" in answer:
                self.events.append(answer)
        raise AssertionError(f"{method}: no answer: {self.log_text()}")

    def log_text(self):
        return pathlib.Path(self.folder, "log").read_text(errors="replace")[-2000:]

    def close(self):
        for fd in (self.write_fd, self.read_fd):
            os.close(fd)
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, sign)
            except ProcessLookupError:
                break
            try:
                self.process.wait(30)
                break
            except subprocess.TimeoutExpired:
                continue
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- a page ----

    @staticmethod
    def wait(what, why):
        end = time.monotonic() + LIMIT
        while True:
            value = what()
            if value:
                return value
            if time.monotonic() > end:
                raise AssertionError(f"never: {why() if callable(why) else why}")
            time.sleep(0.05)

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def js(self, expression):
        """The value of an expression, also of a promise, in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails'].get('exception', {}).get('description', answer['exceptionDetails'])}")
        return answer["result"].get("value")

    def until(self, expression):
        return self.wait(lambda: self.js(expression), lambda: expression + " in: " + self.text("body")[:1500])

    def text(self, selector="main"):
        return self.js(f"(document.querySelector({json.dumps(selector)}) || {{}}).innerText || ''")

    def until_text(self, text, selector="main"):
        self.wait(lambda: text in self.text(selector), lambda: f"{text!r} in: {self.text(selector)[:1500]!r}")

    def click(self, selector, text=None):
        """Clicks with the mouse on the middle of the element whose text is `text`."""
        find = (f"[...document.querySelectorAll({json.dumps(selector)})].find(e => e.getClientRects().length" +
                (f" && e.textContent.trim() === {json.dumps(text)})" if text else ")"))
        self.until(f"!!{find}")
        x, y = self.js(f"(() => {{ const e = {find}; e.scrollIntoView({{block: 'center'}}); const r = e.getClientRects()[0]; "
                       "return [r.x + r.width / 2, r.y + r.height / 2]; })()")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def key(self, key, shift=False):
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}
        event = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": codes[key], "modifiers": 8 if shift else 0}
        if key in ("Enter", " "):
            event["text"] = "\r" if key == "Enter" else " "
        self.call("Input.dispatchKeyEvent", type="keyDown", **event)
        event.pop("text", None)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def size(self, width, height=1000):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def media(self, **features):
        self.call("Emulation.setEmulatedMedia", features=[{"name": n.replace("_", "-"), "value": v} for n, v in features.items()])

    def screenshot(self, path, full=True):
        if full:
            height = self.js("document.documentElement.scrollHeight")
            width = self.js("innerWidth")
            self.size(width, min(max(height, 600), 4000))
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(path).write_bytes(data)

    def troubles(self):
        """What scripts threw and the console got: errors, refused by the policy; since the last time."""
        self.js("0")
        events, self.events = self.events, []
        found = []
        for e in events:
            p = e.get("params", {})
            if e["method"] == "Runtime.exceptionThrown":
                found.append(p["exceptionDetails"].get("exception", {}).get("description") or str(p["exceptionDetails"]))
            elif e["method"] == "Log.entryAdded" and p["entry"]["level"] == "error":
                found.append(p["entry"]["text"] + " " + p["entry"].get("url", ""))
            elif e["method"] == "Runtime.consoleAPICalled" and p["type"] in ("error", "assert"):
                found.append(str(p["args"]))
        return found
