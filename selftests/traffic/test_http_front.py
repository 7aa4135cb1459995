#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=240 timeout_full=600
"""The table of requests (http_table.txt) through HAProxy and nginx in front of an HTTP listener. Both write down what
they believe to have sent: method and body of each request that the proxy answered. The upstream behind the
proxy must have seen exactly these, or a request was smuggled."""
import os
import pathlib

import l7test
from http_front import FRONT, Front
from httpraw import Client, Malformed, Upstream, read_table
from traffic import Case, listener

TABLE = read_table(pathlib.Path(__file__).with_name("http_table.txt"))
ONLY = os.environ.get("HTTP_CASE")  # a case's name, to look at it alone
PORT = 9000


class Fronts(Case):
    def through(self, program, at_least, **fill):
        upstream = Upstream()
        self.start(listener("http", "HTTP", PORT, upstream.cluster(), address="127.0.0.1"))
        front = Front(program, PORT, **fill)
        wrong, forwarded = [], 0
        for number, case in enumerate(TABLE):
            if ONLY and case.name != ONLY:
                continue
            if program == "nginx" and case.name == "chunk-extension-long":
                continue  # without buffering, nginx's log may lack the body that it has passed on
            try:
                sent, seen = self.one(front, upstream, case, f"/marker-{number}")
            except (Malformed, OSError) as e:
                wrong.append(f"[{case.name}] {e!r}")
                continue
            forwarded += len(sent) > 0
            fault = self.compare(sent, seen)
            if fault:
                wrong.append(f"[{case.name}] {fault}: {program} sent {sent}, the upstream saw {seen}")
        print(f"# {forwarded} of {len(TABLE)} cases were forwarded", flush=True)
        self.assertEqual(wrong, [], "\n" + "\n".join(wrong))
        if not ONLY:
            self.assertGreaterEqual(forwarded, at_least)

    def one(self, front, upstream, case, marker):
        upstream.take()
        with Client(FRONT) as c:
            c.send(case.request + b"GET /behind HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            while c.fill():  # a front gives up by itself what is not whole
                pass
        with Client(FRONT) as c:
            c.send(f"GET {marker} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            answer = c.answer()
            if not answer or answer.status != 200:
                raise Malformed(f"the next client is answered {answer}")
        sent = front.until(marker)
        seen = upstream.take()
        if not seen or seen[-1].target != marker:
            raise Malformed(f"the marker was not the last that was seen: {seen}")
        return sent, seen[:-1]

    @staticmethod
    def compare(sent, seen):
        """Each answered 200 by the upstream was seen whole and as sent; nothing else was seen whole."""
        good = [(e.method, e.body) for e in sent if e.status == "200"]
        whole = [(s.method, s.body) for s in seen if s.complete]
        if good != whole:
            return "not the same requests"
        if len(seen) > len(sent):
            return "more requests than sent"
        return None

    def test_haproxy(self):
        """http behind HAProxy: the upstream sees what HAProxy sent, no more"""
        self.through("haproxy", 60)

    def test_haproxy_lenient(self):
        """http behind HAProxy that takes invalid requests: the upstream sees what HAProxy sent, no more"""
        self.through("haproxy", 60, GLOBAL="h1-accept-payload-with-any-method",
                     DEFAULTS="option accept-invalid-http-request")

    def test_nginx(self):
        """http behind nginx: the upstream sees what nginx sent, no more"""
        self.through("nginx", 60)

    def test_nginx_lenient(self):
        """http behind nginx that passes invalid fields and bodies on at once: the upstream sees what it sent, no more"""
        self.through("nginx", 60, SERVER="ignore_invalid_headers off; underscores_in_headers on; merge_slashes off;"
                     " proxy_request_buffering off;")


if __name__ == "__main__":
    l7test.main()
