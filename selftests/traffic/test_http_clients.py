#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=240
"""HTTP listeners and the clients that people use: curl, Node's agent, wrk, h2load; here for correctness, no figure
counts. The last three belong to the full set of scripts/setup.sh."""
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

import l7test
from certs import Certs
from httpraw import Client, Upstream
from traffic import Case, TcpServer, inline, listener, recv_all

URL = "http://127.0.0.1:9000"
AGENT = """
const http = require('http');
const [count, sockets] = process.argv.slice(1).map(Number);
const agent = new http.Agent({ keepAlive: true, maxSockets: sockets });
const local = new Set();
let begun = 0, done = 0, wrong = [];
function next() {
  if (begun >= count) return;
  const n = begun++, body = Buffer.alloc((n * 7919) % 5000, String(n));
  const chunked = n % 2, headers = { 'X-N': n };
  if (!chunked) headers['Content-Length'] = body.length;
  const req = http.request({ port: 9000, host: '127.0.0.1', agent, method: 'POST', path: '/' + n, headers }, (res) => {
    const parts = [];
    res.on('data', (d) => parts.push(d));
    res.on('end', () => {
      if (res.statusCode !== 200 || !Buffer.concat(parts).equals(body)) wrong.push([n, res.statusCode, parts.length]);
      done++;
      next();
      if (done === count) { console.log(JSON.stringify({ done, wrong, connections: local.size })); agent.destroy(); }
    });
  });
  req.on('socket', (s) => s.localPort ? local.add(s.localPort) : s.once('connect', () => local.add(s.localPort)));
  req.on('error', (e) => { wrong.push([n, String(e)]); done++; next(); });
  req.write(body.subarray(0, 100));
  req.end(body.subarray(100));
}
for (let i = 0; i < sockets; i++) next();
"""


def need(program):
    if not shutil.which(program):
        raise unittest.SkipTest(f"{program} is not installed")


class Clients(Case):
    def curl(self, *args, data=None):
        r = subprocess.run(["curl", "-sS", "-m", "60", *args], input=data, capture_output=True, timeout=90)
        self.assertEqual(r.returncode, 0, (args, r.stderr))
        return r.stdout

    def echo(self, **spec):
        spec.setdefault("address", "127.0.0.1")
        return self.start(listener("http", "HTTP", 9000, inline("Echo"), **spec))

    def big(self, size):
        """A file of random bytes, and its digest."""
        data = os.urandom(size)
        path = os.path.join(self.proxy.dir.name, "big")
        pathlib.Path(path).write_bytes(data)
        return path, hashlib.sha256(data).digest()

    def test_curl_keep_alive(self):
        """http clients: curl sends 20 requests on one connection"""
        self.echo()
        args = []
        for i in range(20):
            args += ["--next"] * (i > 0) + ["-sS", "-w", "|%{http_code} %{num_connects}\n", "-d", f"body {i}", f"{URL}/{i}"]
        rows = self.curl(*args).decode().splitlines()
        self.assertEqual(rows, [f"body {i}|200 {int(i == 0)}" for i in range(20)])

    def test_curl_post(self):
        """http clients: curl POSTs 8 MB with a length (it expects 100-continue), and chunked"""
        self.echo()
        path, digest = self.big(8 << 20)
        head = os.path.join(self.proxy.dir.name, "head")
        for args in (["--data-binary", "@" + path], ["-H", "Expect: 100-continue", "-X", "POST", "-T", path],
                     ["-H", "Transfer-Encoding: chunked", "-H", "Expect: 100-continue", "--data-binary", "@" + path],
                     ["-H", "Transfer-Encoding: chunked", "-H", "Expect:", "-T", path],
                     ["-H", "Expect:", "--data-binary", "@" + path]):
            out = self.curl(*args, "-D", head, URL + "/big")
            self.assertEqual(hashlib.sha256(out).digest(), digest, args)
            text = pathlib.Path(head).read_text()
            statuses = re.findall(r"^HTTP/1.1 (\d+)", text, re.M)
            self.assertEqual(statuses[-1], "200", text)
            if "Expect: 100-continue" in args:
                self.assertEqual(statuses, ["100", "200"], text)

    def test_curl_stdin(self):
        """http clients: curl uploads what it reads from a pipe"""
        self.echo()
        data = os.urandom(300_000)
        self.assertEqual(self.curl("-T", "-", URL + "/", data=data), data)

    def test_curl_head(self):
        """http clients: curl -I, and GET on the same connection"""
        self.echo()
        out = self.curl("-sS", "-I", "-w", "|%{num_connects}", URL, "--next", "-sS", "-d", "abc", "-w", "|%{num_connects}", URL).decode()
        self.assertRegex(out, r"(?s)\AHTTP/1.1 200 OK\r\n.*\r\n\r\n\|1abc\|0\Z")

    def test_curl_http_1_0(self):
        """http clients: curl -0, with and without a body"""
        self.echo()
        self.assertEqual(self.curl("-0", URL), b"")
        self.assertEqual(self.curl("-0", "-d", "abc", URL), b"abc")
        out = self.curl("-0", "-i", "-d", "abc", URL)
        self.assertNotIn(b"chunked", out)
        self.assertTrue(out.endswith(b"\r\n\r\nabc"), out)

    def test_curl_unix(self):
        """http clients: curl through a UNIX socket; no file is left"""
        with tempfile.TemporaryDirectory(prefix="l7mp-http-") as folder:
            path = os.path.join(folder, "http.sock")
            self.start(listener("http", "HTTP", None, inline("Echo"), filename=path))
            self.assertEqual(self.curl("--unix-socket", path, "-d", "abc", "http://any.host/p"), b"abc")
            out = self.curl("--unix-socket", path, "-d", "1", "-w", "%{num_connects}", "http://h/p",
                            "--next", "-sS", "--unix-socket", path, "-d", "2", "-w", "%{num_connects}", "http://h/p")
            self.assertEqual(out, b"1120")
            self.stop()
            self.assertFalse(os.path.exists(path))

    def test_curl_unix_abstract(self):
        """http clients: curl through an abstract UNIX socket"""
        self.start(listener("http", "HTTP", None, inline("Echo"), filename="@l7mp-http"))
        self.assertEqual(self.curl("--abstract-unix-socket", "l7mp-http", "-d", "abc", "http://h/"), b"abc")

    def test_curl_ipv6(self):
        """http clients: curl over IPv6"""
        self.start(listener("http", "HTTP", 9000, inline("Echo"), address="::1", options={"track": 30}))
        self.assertEqual(self.curl("-d", "abc", "http://[::1]:9000/v6"), b"abc")
        url = self.ended("HTTP:[::1]:")["metadata"]["HTTP"]["url"]
        self.assertEqual((url["host"], url["port"], url["path"]), ("::1", 9000, "/v6"))

    def test_curl_tls(self):
        """http clients: curl over TLS, the certificate checked, 8 MB and keep-alive; https in the metadata"""
        with tempfile.TemporaryDirectory(prefix="l7mp-http-") as folder:
            certs = Certs(folder)
            self.echo(tls=certs.cert("server"), options={"track": 30})
            first = ["--cacert", certs.path("ca.pem")]
            url = "https://localhost:9000"
            self.assertEqual(self.curl(*first, "-d", "abc", url + "/tls"), b"abc")
            http = self.ended("HTTP:127.0.0.1:")["metadata"]["HTTP"]
            self.assertEqual((http["url"]["protocol"], http["url"]["host"]), ("https", "localhost"))
            path, digest = self.big(8 << 20)
            for more in ([], ["-H", "Transfer-Encoding: chunked"]):
                out = self.curl(*first, *more, "--data-binary", "@" + path, url)
                self.assertEqual(hashlib.sha256(out).digest(), digest)
            out = self.curl(*first, "-d", "1", "-w", "%{num_connects}", url, "--next", "-sS", *first, "-d", "2", "-w",
                            "%{num_connects}", url)
            self.assertEqual(out, b"1120")

    def test_waits_for_100(self):
        """http clients: one that waits for 100 Continue gets it before it sends the body, and not when it is refused"""
        upstream = Upstream()
        self.start(listener("http", "HTTP", 9000, upstream.cluster(), address="127.0.0.1"),
                   listener("none", "HTTP", 9002, inline("Echo"), address="127.0.0.1",
                            match={"op": "starts", "path": "/HTTP/url/path", "value": "/never"}))
        for framing, body in ((b"Content-Length: 3", b"abc"), (b"Transfer-Encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n")):
            with Client(9000) as c:
                for _ in range(2):
                    c.send(b"POST /e HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n" + framing + b"\r\n\r\n")
                    self.assertEqual(c.answer().status, 100)
                    c.send(body)
                    self.assertEqual(c.answer()[::4], (200, b"seen"))
                    self.assertEqual([(s.body, s.complete) for s in upstream.take()], [(b"abc", True)])
        with Client(9002) as c:
            c.send(b"POST /e HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
            self.assertEqual(c.answer().status, 404)

    def test_early_answer(self):
        """http clients: an upstream that answers before the body is there; the connection is not used again"""
        def serve(conn, _):
            conn.sendall(b"no need to go on")
            conn.shutdown(1)
            recv_all(conn)
            conn.close()
        TcpServer(9001, serve)
        self.start(listener("http", "HTTP", 9000, {"spec": {"protocol": "TCP", "port": 9001},
                                                   "endpoints": [{"spec": {"address": "127.0.0.1"}}]}, address="127.0.0.1"))
        with Client(9000) as c:
            c.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nabc")
            self.assertEqual(c.answer().body, b"no need to go on")

    def test_node(self):
        """http clients: Node's agent with keep-alive, lengths and chunks, no error, few connections"""
        need("node")
        self.echo()
        count, sockets = (20_000, 50) if l7test.FULL else (2_000, 20)
        r = subprocess.run(["node", "-e", AGENT, str(count), str(sockets)], capture_output=True, timeout=200, text=True)
        self.assertEqual(r.returncode, 0, r.stderr)
        result = json.loads(r.stdout)
        self.assertEqual((result["done"], result["wrong"]), (count, []))
        self.assertLessEqual(result["connections"], sockets)

    def test_wrk(self):
        """http clients: wrk, plain and pipelining, no error"""
        need("wrk")
        self.echo()
        script = os.path.join(self.proxy.dir.name, "pipeline.lua")
        pathlib.Path(script).write_text("""
init = function(args)
  local r = {}
  for i = 1, 16 do r[i] = wrk.format("POST", "/" .. i, nil, "body") end
  all = table.concat(r)
end
request = function() return all end
""")
        seconds = 5 if l7test.FULL else 1
        for more in ([], ["-s", script]):
            r = subprocess.run(["wrk", "-t", "1", "-c", "40", "-d", f"{seconds}s", "--timeout", "30s", *more, URL], capture_output=True, text=True,
                               timeout=120)
            self.assertEqual(r.returncode, 0, r.stderr)
            self.assertNotIn("Socket errors", r.stdout)
            self.assertNotIn("Non-2xx", r.stdout)
            self.assertGreater(int(re.search(r"(\d+) requests in", r.stdout)[1]), 0, r.stdout)

    def test_h2load(self):
        """http clients: h2load --h1, all succeed"""
        need("h2load")
        self.echo()
        body = os.path.join(self.proxy.dir.name, "body")
        pathlib.Path(body).write_bytes(b"x" * 1000)
        count = 50_000 if l7test.FULL else 5_000
        for more in ([], ["-d", body], ["-m", "10"]):
            r = subprocess.run(["h2load", "--h1", "-n", str(count), "-c", "50", *more, URL], capture_output=True, text=True, timeout=120)
            self.assertEqual(r.returncode, 0, r.stderr)
            self.assertIn(f"{count} total, {count} started, {count} done, {count} succeeded, 0 failed, 0 errored, 0 timeout", r.stdout)
            self.assertIn(f"status codes: {count} 2xx, 0 3xx, 0 4xx, 0 5xx", r.stdout)


if __name__ == "__main__":
    l7test.main()
