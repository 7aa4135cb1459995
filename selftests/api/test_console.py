#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=300
"""The console's files as the admin server sends them: headers, who gets them, methods, versions; and what was added to the
API for it: the search in sessions, reading without the token."""
import http.client
import os
import pathlib
import re
import sys
import threading
import unittest
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402

PORT, UDP = 1235, 15000
SOURCES = l7test.ROOT / "userspace/api/console"
TYPES = {"": "text/html; charset=utf-8", "index.html": "text/html; charset=utf-8", "style.css": "text/css; charset=utf-8",
         "console.js": "text/javascript; charset=utf-8", "icon.svg": "image/svg+xml"}
TOKEN = "s3cret-of-this-test"


def ask(path, method="GET", headers=None, body=None, source="127.0.0.1"):
    conn = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60, source_address=(source, 0))
    try:
        conn.request(method, path, body, headers=headers or {})
        r = conn.getresponse()
        return r.status, r.read(), {k.lower(): v for k, v in r.getheaders()}
    finally:
        conn.close()


def policy(headers):
    return {d.split()[0]: d.split()[1:] for d in headers["content-security-policy"].split(";")}


class Base(unittest.TestCase):
    def start(self, *listeners, token=False, **admin):
        admin.setdefault("server", {"port": PORT})
        if token:
            self.token = pathlib.Path(f"/tmp/l7mp-test-console-token-{os.getpid()}")
            self.token.touch(0o600)
            self.token.write_text(TOKEN + "\n")
            self.addCleanup(self.token.unlink)
            admin["api_token_file"] = str(self.token)
        self.proxy = l7test.Proxy({"admin": admin, "listeners": list(listeners)}, "-o", "disable")
        self.addCleanup(lambda: self.proxy.alive() and self.proxy.stop())
        self.api = l7test.Api(PORT, headers={"Authorization": f"Bearer {TOKEN}"} if token else None)


class Files(Base):
    def test_types_and_contents(self):
        """each file has its type, and is what the tree has"""
        self.start()
        for name, kind in TYPES.items():
            status, body, headers = ask("/console/" + name)
            self.assertEqual((status, headers["content-type"], headers["x-content-type-options"]), (200, kind, "nosniff"), name)
            self.assertEqual(len(body), int(headers["content-length"]))
            if (SOURCES / name).is_file():
                self.assertEqual(body, (SOURCES / name).read_bytes(), name)
        script = ask("/console/console.js")[1]
        for path in SOURCES.glob("*.js"):  # each is in it, and all of them are all
            self.assertIn(path.read_bytes(), script, path.name)
        self.assertEqual(len(script), sum(p.stat().st_size for p in SOURCES.glob("*.js")))

    def test_policy(self):
        """the policy allows nothing from elsewhere and no code inside of a page, for each file"""
        self.start()
        for name in TYPES:
            headers = ask("/console/" + name)[2]
            p = policy(headers)
            self.assertEqual(p["default-src"], ["'none'"])
            for what in ("script-src", "style-src", "connect-src"):
                self.assertEqual(p[what], ["'self'"], what)
            for what in ("frame-ancestors", "base-uri", "form-action"):
                self.assertEqual(p[what], ["'none'"], what)
            self.assertNotIn("unsafe", headers["content-security-policy"])
            self.assertEqual(p["require-trusted-types-for"], ["'script'"])
            self.assertEqual((headers["referrer-policy"], headers["x-frame-options"]), ("no-referrer", "DENY"))

    def test_nothing_inline(self):
        """the page has no code, no style and no address of another server in it; the script makes no markup of text"""
        page = (SOURCES / "index.html").read_text()
        self.assertFalse(re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=|javascript:", page, re.I))
        for path in SOURCES.iterdir():
            text = path.read_text()
            elsewhere = [u for u in re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text) if u != "http://www.w3.org"]
            self.assertEqual(elsewhere, [], path.name)
            if path.suffix == ".js":
                for bad in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "DOMParser", "localStorage", "document.cookie"):
                    self.assertNotIn(bad, text, path.name)

    def test_etag(self):
        """a version that is known is not sent again; another one is; the answer to that has no body"""
        self.start()
        for name in TYPES:
            headers = ask("/console/" + name)[2]
            tag = headers["etag"]
            self.assertEqual(headers["cache-control"], "no-cache")
            for known, expected in ((tag, 304), ("W/" + tag, 304), (f'"other", {tag}', 304), ("*", 304), ('"other"', 200), (tag[:-2] + '"', 200)):
                status, body, again = ask("/console/" + name, headers={"If-None-Match": known})
                self.assertEqual((status, again["etag"], len(body) > 0), (expected, tag, expected == 200), (name, known))
                self.assertIn("content-security-policy", again)
        tags = [ask("/console/" + n)[2]["etag"] for n in ("index.html", "style.css", "console.js", "icon.svg")]
        self.assertEqual(len(set(tags)), 4)

    def test_methods(self):
        """HEAD is GET without the body; everything else is refused"""
        self.start()
        for name in TYPES:
            status, body, headers = ask("/console/" + name, "HEAD")
            self.assertEqual((status, body, headers["content-type"]), (200, b"", TYPES[name]))
            self.assertEqual(int(headers["content-length"]), len(ask("/console/" + name)[1]))
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            status, _, headers = ask("/console/", method, body=b"x" if method == "POST" else None)
            self.assertEqual((status, headers["allow"]), (405, "GET, HEAD"), method)

    def test_paths(self):
        """what is no file of the console is not found, however it is written"""
        self.start()
        for path in ("/console/x", "/console//", "/console/../api/v1/admin", "/console/..%2f..%2fetc/passwd", "/console/%2e%2e/%2e%2e/etc/passwd",
                     "/console/index.html/", "/console/./index.html", "/console/index.html%00", "/console/base.js", "/console/INDEX.HTML", "/consolex",
                     "/console/style.css%20", "/console/\\..\\index.html", "/console/;index.html"):
            status, body, headers = ask(path)
            self.assertEqual((status, headers["content-type"]), (404, "application/json"), path)
            self.assertNotIn(b"<html", body)
        self.assertEqual(ask("/console/?query=1")[0], 200)

    def test_redirect(self):
        """a browser at / is led to the console; for others / is what it was, and so it is for changes"""
        self.start()
        html = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
        for path in ("/", "/console"):
            status, body, headers = ask(path, headers=html)
            self.assertEqual((status, headers.get("location"), body), (302, "/console/", b""), path)
        self.assertEqual(ask("/")[0], 404)
        self.assertEqual(ask("/", headers={"Accept": "*/*"})[0], 404)
        self.assertEqual(ask("/", "POST", html)[0], 405)
        self.assertEqual(ask("/api/v1/admin", headers=html)[2]["content-type"], "application/json")

    def test_off(self):
        """admin.console: false switches it off, also while the proxy runs"""
        self.start()
        self.assertIs(self.api.get("/admin")[1]["console"], True)
        self.assertEqual(self.api.post("/admin", {"admin": {"console": False}})[0], 200)
        for path in ("/console/", "/console/console.js", "/console"):
            status, body, _ = ask(path)
            self.assertEqual(status, 404, path)
            self.assertIn(b"admin.console", body)
        self.assertEqual(ask("/", headers={"Accept": "text/html"})[0], 404)
        self.assertEqual(ask("/metrics")[0], 200)
        self.assertEqual(self.api.post("/admin", {"admin": {"console": True}})[0], 200)
        self.assertEqual(ask("/console/")[0], 200)

    def test_one_thread(self):
        """a server with one thread sends all files of the page at once"""
        self.start(server={"port": PORT, "threads": 1})
        for _ in range(20):
            answers = []
            threads = [threading.Thread(target=lambda n=n: answers.append(ask("/console/" + n)[0])) for n in ("style.css", "console.js", "icon.svg")]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            self.assertEqual(answers, [200] * 3)


class Access(Base):
    def test_without_token(self):
        """without a token the page is for clients on this host that name this host"""
        self.start()
        for host, origin, expected in (("localhost", None, 200), ("127.0.0.1:1235", "http://localhost:1235", 200), ("example.org", None, 403),
                                       ("localhost", "http://example.org", 403), ("localhost", "null", 403)):
            headers = {"Host": host, **({"Origin": origin} if origin else {})}
            for path in ("/console/", "/console/console.js", "/console"):
                self.assertEqual(ask(path, headers=headers)[0], 302 if expected == 200 and path == "/console" else expected, (headers, path))

    def test_with_token(self):
        """with a token the files need none, as they say nothing of this proxy; all that they ask for does"""
        self.start(token=True)
        for path in ("/console/", "/console/console.js"):
            self.assertEqual(ask(path)[0], 200)
            self.assertEqual(ask(path, headers={"Host": "proxy.example.org"})[0], 200)
            self.assertEqual(ask(path, headers={"Authorization": "Bearer wrong"})[0], 200)
        for path in ("/api/v1/admin", "/metrics", "/api/v1/sessions"):
            self.assertEqual(ask(path)[0], 401)
        self.assertNotIn(TOKEN.encode(), ask("/console/")[1])

    def test_reading_without_token(self):
        """read_without_token: clients on this host read without it, and change nothing; a wrong token is still wrong"""
        self.start(token=True, read_without_token=True)
        good = {"Authorization": f"Bearer {TOKEN}"}
        cluster = b'{"cluster": {"name": "c", "spec": {"protocol": "Echo"}}}'
        json = {"Content-Type": "application/json"}
        for path in ("/api/v1/admin", "/metrics", "/api/v1/sessions", "/api/v1/config", "/openapi.json"):
            self.assertEqual(ask(path)[0], 200, path)
            self.assertEqual(ask(path, "HEAD")[0], 200, path)
            self.assertEqual(ask(path, headers={"Host": "example.org"})[0], 401, path)
            self.assertEqual(ask(path, headers={"Origin": "http://example.org"})[0], 401, path)
            self.assertEqual(ask(path, headers={"Authorization": "Bearer wrong", "Host": "localhost"})[0], 401, path)
            self.assertEqual(ask(path, headers={**good, "Host": "example.org"})[0], 200, path)
        # Each from an address of its own: ten without the token, and an address has to wait.
        for i, (method, path) in enumerate((("POST", "/api/v1/clusters"), ("PUT", "/api/v1/clusters/c"), ("POST", "/api/v1/config"), ("POST", "/api/v1/admin"),
                             ("POST", "/api/v1/drain"), ("DELETE", "/api/v1/drain"), ("DELETE", "/api/v1/sessions/x"), ("PATCH", "/api/v1/admin"),
                             ("OPTIONS", "/api/v1/admin"))):
            status, _, headers = ask(path, method, json, cluster if method in ("POST", "PUT") else None, source=f"127.0.0.{i + 2}")
            self.assertEqual((status, "Bearer" in headers.get("www-authenticate", "")), (401, True), (method, path))
        self.assertEqual(ask("/api/v1/clusters", "POST", {**json, **good}, cluster)[0], 200)
        self.assertEqual(self.api.post("/admin", {"admin": {"read_without_token": False}})[0], 200)
        self.assertEqual(ask("/api/v1/admin")[0], 401)


class Search(Base):
    """/sessions?filter="""
    N = 150

    def begin(self):
        echo = {"action": {"route": {"destination": {"name": "Blue-Cluster", "spec": {"protocol": "Echo"}}, "ingress": [{"name": "meter", "spec": {"protocol": "Metric"}}]}}}
        other = {"action": {"route": {"destination": "Blue-Cluster"}}}
        self.start({"name": "one", "spec": {"protocol": "UDP", "port": UDP, "address": "127.0.0.1"}, "rules": [echo]},
                   {"name": "two", "spec": {"protocol": "UDP", "port": UDP + 1, "address": "127.0.0.1"}, "rules": [other]})
        self.ports = []
        for i in range(self.N):
            s = l7test.udp_socket()
            self.addCleanup(s.close)
            s.connect(("127.0.0.1", UDP + i % 3 // 2))  # each third at the second one
            s.send(b"x")
            self.assertEqual(s.recv(10), b"x")
            self.ports.append(s.getsockname()[1])

    def pages(self, text, limit):
        """The names on the pages of a search, page by page."""
        out, path = [], f"/sessions?limit={limit}&filter={urllib.parse.quote(text)}"
        while path:
            status, answer = self.api.get(path)
            self.assertEqual(status, 200, answer)
            out.append([s["name"] for s in answer])
            link = self.api.last_headers.get("link")
            path = re.fullmatch(r'<(.*)>; rel="next"', link)[1] if link else None
        return out

    def names(self, text):
        status, answer = self.api.get("/sessions?filter=" + urllib.parse.quote(text))
        self.assertEqual(status, 200, answer)
        return [s["name"] for s in answer]

    def test_words(self):
        """words of names, addresses, stages, states and reasons, in any case; all of them; each on the pages once, no page is empty"""
        self.begin()
        everything = [s["name"] for s in self.api.get("/sessions")[1]]
        two = [n for n in everything if f":{UDP + 1}-" in n]
        self.assertEqual((len(everything), len(two)), (self.N, self.N // 3))
        for text, expected in (("", everything), ("  ", everything), ("blue-cluster", everything), ("CONNECTED", everything), ("disabled", everything),
                               ("two", two), ("meter", [n for n in everything if n not in two]), ("two blue", two), ("two meter", []), ("nothing", []),
                               (f"127.0.0.1:{self.ports[4]}", [n for n in everything if f":{self.ports[4]}-" in n])):
            self.assertEqual(self.names(text), expected, text)
            for limit in (1, 7, 50, 1000):
                pages = self.pages(text, limit)
                self.assertEqual(sum(pages, []), expected, (text, limit))
                self.assertTrue(all(len(p) == limit for p in pages[:-1]) and (pages[-1] or not expected), (text, limit))
        self.assertEqual(self.api.get("/sessions?limit=0&filter=two")[1], [])

    def test_bad(self):
        """more than 8 words, a bad escape; on a list that has no search it is ignored, as any unknown parameter"""
        self.begin()
        self.assertEqual(self.api.get("/sessions?filter=" + "+".join("abcdefgh"))[0], 200)
        status, answer = self.api.get("/sessions?filter=" + "+".join("abcdefghi"))
        self.assertEqual((status, "at most 8" in answer["message"]), (400, True))
        self.assertEqual(self.api.get("/sessions?filter=%zz")[0], 400)
        self.assertEqual(self.api.get("/offload/flows?filter=two")[1], [])
        self.assertEqual(len(self.api.get("/clusters?filter=nothing")[1]), 2)

    def test_hostile(self):
        """long words and strange ones find nothing and cost nothing"""
        self.begin()
        for text in ("x" * 8000, "%", "\\", "'\"<script>", "é" * 100, "\x01"):
            self.assertEqual(self.names(text), [], text[:20])


if __name__ == "__main__":
    unittest.TestCase.maxDiff = None
    l7test.main()
