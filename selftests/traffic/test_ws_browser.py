#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: full timeout_full=240
"""WebSocket clients that people use: a page in headless Chromium, and Node's own client.

The page comes from a server of the test; its script talks to a listener of ours that leads to Echo and to
Python's server, and posts what it saw back to the test.
"""
import http.server
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest

import l7test
from traffic import Case, WsServer, cluster, inline, listener

SCRIPT = """
const say = x => { seen.push(x); };
const seen = [];
const sizes = [0, 1, 125, 126, 65535, 65536, 1048576];
const bytes = n => { const b = new Uint8Array(n); for (let i = 0; i < n; i++) b[i] = (i * 7 + n) & 255; return b; };
const same = (a, b) => a.length === b.length && a.every((x, i) => x === b[i]);
function run(url, code) {
  return new Promise((done, fail) => {
    const ws = new WebSocket(url, ["chat", "other"]);
    const want = [];
    ws.binaryType = "arraybuffer";
    ws.onerror = () => say("error");
    ws.onopen = () => {
      say("open " + ws.protocol);
      for (const n of sizes) {
        want.push("gr\\u00fc\\u00dfe \\ud83c\\udca1 ".repeat(n / 16 + 1).slice(0, 8));
        ws.send(want[want.length - 1]);
        want.push(bytes(n));
        ws.send(bytes(n));
      }
    };
    ws.onmessage = e => {
      const w = want.shift();
      const fine = typeof w === "string" ? e.data === w : same(new Uint8Array(e.data), w);
      if (!fine) say("differs " + (w.length));
      if (!want.length) { say("all"); ws.close(code, "done"); }
    };
    ws.onclose = e => { say("closed " + e.code + " " + e.wasClean); done(); };
  });
}
async function all() {
  await run(ECHO, 3001);
  await run(RELAY, 4321);
  return seen;
}
"""


def script(report):
    return SCRIPT.replace("ECHO", '"ws://127.0.0.1:9000/page?x=1"').replace("RELAY", '"ws://127.0.0.1:9001/"') + report


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        text = ("<!doctype html><meta charset=utf-8><title>l7mp</title><script>" + script(
            'all().then(s => fetch("/seen", {method: "POST", body: JSON.stringify(s)}));') + "</script>").encode()
        self.send_response(200 if self.path == "/" else 404)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
        self.server.seen.put(json.loads(body))

    def log_message(self, *_):
        pass


class Clients(Case):
    def listeners(self):
        self.server = WsServer(9002, max_size=None, compression=None, subprotocols=["chat"])
        self.start(listener("echo", "WebSocket", 9000, inline("Echo"), options={"track": 60}, subprotocol=["chat"]),
                   listener("relay", "WebSocket", 9001, cluster("WebSocket", 9002, subprotocol="chat"),
                            options={"track": 60}))

    def check(self, seen):
        self.assertEqual(seen, ["open chat", "all", "closed 3001 true", "open chat", "all", "closed 4321 true"])
        self.later(lambda: self.server.closes)
        self.assertEqual(self.server.closes[0][0], 4321)
        found = self.sessions("WS:")
        self.assertEqual([s["status"] for s in found], ["DESTROYED"] * 2)
        self.assertEqual(found[0]["metadata"]["HTTP"]["url"]["query"], "x=1")
        for s in found:
            self.assertEqual(self.texts(s, "ERROR"), [])

    def test_chromium(self):
        """browser: a page in headless Chromium: text and binary of 0 bytes to 1 MiB, subprotocol, close codes"""
        chromium = shutil.which("chromium")
        if not chromium:
            self.skipTest("no chromium")
        self.listeners()
        web = http.server.ThreadingHTTPServer(("127.0.0.1", 9080), Page)
        web.seen = queue.Queue()
        threading.Thread(target=web.serve_forever, daemon=True).start()
        folder = tempfile.mkdtemp(prefix="l7mp-chromium-")
        log = open(os.path.join(folder, "log"), "wb")
        browser = subprocess.Popen(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--disable-dev-shm-usage", f"--user-data-dir={folder}", "http://127.0.0.1:9080/"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            self.check(web.seen.get(timeout=90))
        except queue.Empty:
            with open(os.path.join(folder, "log"), errors="replace") as f:
                sys.stdout.write("".join(f"# {row}\n" for row in f.read().splitlines()[-20:]))
            self.fail("the page did not report")
        finally:
            os.killpg(browser.pid, 15)
            try:
                browser.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(browser.pid, 9)
                browser.wait()
            log.close()
            web.shutdown()
            web.server_close()
            shutil.rmtree(folder, ignore_errors=True)

    def test_node(self):
        """browser: Node's own WebSocket client"""
        node = shutil.which("node") or shutil.which("nodejs")
        flags = next((f for f in ([], ["--experimental-websocket"]) if node and subprocess.run(
            [node, *f, "-e", "process.exit(typeof WebSocket === 'function' ? 0 : 1)"], capture_output=True,
            check=False).returncode == 0), None)
        if flags is None:
            self.skipTest("this Node has no WebSocket client")
        self.listeners()
        r = subprocess.run([node, *flags, "-e", script("all().then(s => console.log(JSON.stringify(s)));")],
                           capture_output=True, timeout=60, check=False)
        self.assertEqual(r.returncode, 0, r.stderr.decode()[-2000:])
        self.check(json.loads(r.stdout))


if __name__ == "__main__":
    unittest.TestCase.maxDiff = None
    l7test.main()
