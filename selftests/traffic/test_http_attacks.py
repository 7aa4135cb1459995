#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A request whose body looks like the deletion of a cluster, under a head that readers of HTTP have stumbled over: many
fields, folded ones, nameless ones. Sent to the REST API's own listener, directly and from behind HAProxy. Whatever is
answered, the body is never taken as a request."""
import l7test
from http_front import FRONT, Front
from httpraw import Client, Malformed
from traffic import Case, inline, listener

HOST = "Host: 127.0.0.1:1234\r\n"
DELETE = f"DELETE /api/v1/clusters/victim?recursive=true HTTP/1.1\r\n{HOST}\r\n"
VICTIM = {"name": "victim", "spec": {"protocol": "Echo"}}


def attacks():
    """(name, request) of each."""
    length = f"Content-Length: {len(DELETE)}\r\n"
    tricks = {"folded": "X-A: b\r\n c\r\n", "folded-tab": "X-A: b\r\n\tc\r\n", "folded-empty": "X-A: b\r\n \r\n", "nameless": ": b\r\n",
              "nameless-space": " : b\r\n", "no-colon": "X-A\r\n", "space-colon": "X-A : b\r\n", "bare-cr": "X-A: b\rc\r\n",
              "bare-lf": "X-A: b\nX-B: c\r\n", "nul": "X-A: b\0c\r\n", "empty": "X-A:\r\n"}
    for method in ("GET", "POST", "HEAD", "OPTIONS"):
        line = f"{method} /api/v1/admin HTTP/1.1\r\n{HOST}"
        for name, trick in tricks.items():
            yield f"{method} {name} before the length", line + trick + length + "\r\n" + DELETE
            yield f"{method} {name} behind the length", line + length + trick + "\r\n" + DELETE
            yield f"{method} {name} as the first field", f"{method} /api/v1/admin HTTP/1.1\r\n" + trick + HOST + length + "\r\n" + DELETE
        for n in (60, 61, 62, 63, 64, 65, 99, 100, 127, 128, 200, 254, 255, 256, 300):
            yield f"{method} {n} fields before the length", line + "X-F: f\r\n" * n + length + "\r\n" + DELETE
        for framing in ("Transfer-Encoding : chunked\r\n", "Transfer-Encoding: chunked, identity\r\n", "Transfer-Encoding: xchunked\r\n",
                        "Transfer-Encoding:\x0bchunked\r\n", "Transfer-Encoding:\r\n chunked\r\n", length + length, "Content-Length: 0\r\n" + length,
                        length + "Content-Length: 0\r\n", length + "Transfer-Encoding: chunked\r\n", length.replace(": ", " : "),
                        length.replace(": ", ": +"), length.replace("\r\n", ", 0\r\n"), "X: y\n" + length, "X: y\r" + length):
            yield f"{method} {framing!r}", line + framing + "\r\n" + DELETE
        for chunk in ("{:x}\n{}\r\n0\r\n\r\n", "{:x};a\n{}\r\n0\r\n\r\n", "{:x}\r\n{}0\r\n\r\n", "1{:016x}\r\n{}\r\n0\r\n\r\n", "0x{:x}\r\n{}\r\n0\r\n\r\n"):
            yield f"{method} {chunk!r}", line + "Transfer-Encoding: chunked\r\n\r\n" + chunk.format(len(DELETE), DELETE)


class Attacks(Case):
    def survives(self, port, name, request):
        with Client(port) as c:
            c.send(request.encode("latin-1"))
            c.finish()
            try:
                while c.answer(request.split(" ", 1)[0]):
                    pass
            except Malformed:  # a front may break off
                pass
        status, answer = self.api.get("/clusters/victim")
        self.assertEqual(status, 200, f"{name}: {answer}")

    def test_direct(self):
        """http attacks: many, folded and nameless fields on the API's listener: the body is never executed"""
        self.start(listener("http", "HTTP", 9000, inline("Echo")), clusters=[VICTIM])
        for name, request in attacks():
            self.survives(1234, name, request)

    def behind(self, lenient, **fill):
        """lenient: HAProxy may itself take the body for a request, which its log tells; that is not smuggled past it."""
        self.start(listener("http", "HTTP", 9000, inline("Echo")), clusters=[VICTIM])
        front = Front("haproxy", 1234, **fill)
        own = 0
        for name, request in attacks():
            try:
                self.survives(FRONT, name, request)
            except AssertionError:
                if not lenient or not any(s.method == "DELETE" for s in front.forwarded()):
                    raise
                own += 1
                self.assertEqual(self.api.post("/clusters", {"cluster": VICTIM})[0], 200)
            front.forwarded()
        print(f"# HAProxy itself read {own} bodies as requests", flush=True)

    def test_haproxy(self):
        """http attacks: the same from behind HAProxy"""
        self.behind(False)

    def test_haproxy_lenient(self):
        """http attacks: the same from behind HAProxy that takes invalid requests"""
        self.behind(True, DEFAULTS="option accept-invalid-http-request", GLOBAL="h1-accept-payload-with-any-method")

    def test_the_test(self):
        """http attacks: the deletion works when it is asked for"""
        self.start(clusters=[VICTIM])
        with Client(1234) as c:
            c.send(DELETE.encode())
            self.assertEqual(c.answer().status, 200)
        self.assertEqual(self.api.get("/clusters/victim")[0], 404)


if __name__ == "__main__":
    l7test.main()
