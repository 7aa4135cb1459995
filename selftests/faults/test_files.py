#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Files that the proxy writes to: FIFOs that nobody reads, rotation, and what a peer can make of a line."""
import json
import os
import pathlib
import signal
import socket
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402


def listener(name, port, *clusters):
    *ingress, destination = clusters
    return {"name": name, "spec": {"protocol": "TCP", "address": "127.0.0.1", "port": port},
            "rules": [{"action": {"route": {"destination": destination, "ingress": ingress}}}]}


ECHO = {"spec": {"protocol": "Echo"}}


def logger(path, **keys):
    return {"spec": {"protocol": "Logger", "log_file": path, **keys}}


class Files(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, name):
        return os.path.join(self.folder, name)

    def start(self, *listeners, **admin):
        self.proxy = l7test.Proxy({"admin": admin, "listeners": [l7test.controller(), *listeners]})
        self.addCleanup(self.proxy.stop)

    def echo(self, port, data):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as s:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            got = b""
            while piece := s.recv(65536):
                got += piece
        self.assertEqual(got, data)

    def until(self, path, text):
        self.assertTrue(l7test.wait_for(lambda: os.path.exists(path) and text in pathlib.Path(path).read_text()), path)

    def test_fifo_without_reader(self):
        """a log that is a FIFO without a reader is refused at once, and the message says so"""
        path = self.path("fifo")
        os.mkfifo(path)
        for key in ("access_log_path", "log_file"):
            config = self.path("config.json")
            pathlib.Path(config).write_text(json.dumps({"admin": {key: path}, "listeners": []}))
            status, _, err = l7test.run_proxy("-c", config)
            self.assertEqual(status, 1, err)
            self.assertIn(path, err)

    def test_no_file(self):
        """what is neither a file nor a FIFO nor a terminal is refused"""
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).bind(self.path("socket"))
        for key in ("access_log_path", "log_file"):
            for path in (self.folder, self.path("socket")):
                config = self.path("config.json")
                pathlib.Path(config).write_text(json.dumps({"admin": {key: path}, "listeners": []}))
                self.assertEqual(l7test.run_proxy("-c", config)[0], 1, (key, path))

    def test_full_fifo(self):
        """FIFOs whose readers read nothing, as access log, log and Logger: sessions continue, what is lost is told"""
        fifos = {}
        for name in ("access", "log", "logger"):
            os.mkfifo(self.path(name))
            fifos[name] = os.open(self.path(name), os.O_RDONLY | os.O_NONBLOCK)
            self.addCleanup(os.close, fifos[name])
        self.start(listener("l", 2001, logger(self.path("logger")), ECHO), access_log_path=self.path("access"), log_file=self.path("log"), log_level="verbose")
        for _ in range(400):
            self.echo(2001, b"x" * 1000)
        self.assertEqual(self.proxy.api.get("/listeners")[0], 200)
        # Nothing more than a pipe holds was taken.
        for name in ("access", "log"):
            text = b""
            try:
                while piece := os.read(fifos[name], 65536):
                    text += piece
            except BlockingIOError:
                pass
            self.assertLessEqual(len(text), 65536 + 4096, name)
            self.assertGreater(len(text), 30000, name)
        self.echo(2001, b"again")
        self.assertTrue(l7test.wait_for(lambda: b'"listener":"l"' in os.read(fifos["access"], 65536)))

    def test_reader_that_stops(self):
        """a Logger's FIFO with a reader that stops: ending its last session does not wait for it"""
        os.mkfifo(self.path("fifo"))
        fd = os.open(self.path("fifo"), os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, fd)
        self.start(listener("l", 2001, logger(self.path("fifo")), ECHO))
        self.echo(2001, b"y" * 300000)
        l7test.wait_for(lambda: not [s for s in self.proxy.api.get("/sessions")[1] if s["name"].startswith("TCP")])
        got = 0

        def read():
            nonlocal got
            try:
                got += len(os.read(fd, 65536))
            except BlockingIOError:
                pass
            return got >= 300000
        # What it had gathered still comes when the reader continues.
        self.assertTrue(l7test.wait_for(read))

    def test_rotation(self):
        """SIGHUP and SIGUSR1 open the log, the access log and Loggers' files again; SIGUSR1 reloads nothing"""
        paths = [self.path(n) for n in ("access", "log", "logger")]
        self.start(listener("l", 2001, logger(paths[2], log_prefix="> "), ECHO), access_log_path=paths[0], log_file=paths[1], log_level="verbose")
        hold = socket.create_connection(("127.0.0.1", 2001), timeout=30)
        self.addCleanup(hold.close)
        hold.sendall(b"first\n")
        self.until(paths[2], "> first\n")
        status, _ = self.proxy.api.post("/clusters", {"cluster": {"name": "added", "spec": {"protocol": "Echo"}}})
        self.assertEqual(status, 200)
        for n, sig in enumerate((signal.SIGUSR1, signal.SIGHUP)):
            for path in paths:
                os.rename(path, f"{path}.{n}")
            os.kill(self.proxy.pid, sig)
            self.assertTrue(l7test.wait_for(lambda: all(os.path.exists(p) for p in paths)), sig)
            hold.sendall(f"line {n}\n".encode())
            self.until(paths[2], f"> line {n}\n")
            self.echo(2001, b"z")
            self.until(paths[0], '"listener":"l"')
            self.until(paths[1], "begins")
            self.assertEqual(self.proxy.api.get("/clusters/added")[0], 200 if sig == signal.SIGUSR1 else 404, sig)
            self.assertNotIn(f"line {n}", pathlib.Path(f"{paths[2]}.{n}").read_text())

    def test_forged_line(self):
        """a payload can't make two lines of one, nor another prefix; control characters are shown"""
        path = self.path("log")
        self.start(listener("l", 2001, logger(path, log_prefix="[a] "), ECHO))
        for data in (b"one\n[b] forged\r\n", "two\x1b[31m\u2028[c]\x85\n".encode(), b"\n", b"tab\there \xff\\n"):
            self.echo(2001, data)
        self.until(path, "here")
        text = pathlib.Path(path).read_bytes()
        self.assertEqual(text.decode().split("\n"), ["[a] one\\n[b] forged\\x0d", "[a] two\\x1b[31m\\xe2\\x80\\xa8[c]\\xc2\\x85", "[a] ", "[a] tab\there \\xff\\n", ""])

    def test_fifo_of_killed_proxy(self):
        """FIFOs and sockets of a proxy that was killed are removed by the next one; the user's own are not"""
        made, own, sock = self.path("made"), self.path("own"), self.path("sock")
        os.mkfifo(own)
        listeners = [l7test.controller(), *({"name": os.path.basename(p), "spec": {"protocol": "PIPE", "filename": p}, "rules": [
            {"action": {"route": {"destination": ECHO}}}]} for p in (made, own)), {"name": "sock", "spec": {"protocol": "UNIX/stream", "filename": sock}, "rules": [
                {"action": {"route": {"destination": ECHO}}}]}]
        proxy = l7test.Proxy({"listeners": listeners})
        os.kill(proxy.pid, signal.SIGKILL)
        proxy.process.wait()
        proxy.dir.cleanup()
        self.assertTrue(os.path.exists(made))
        l7test.Proxy({"listeners": listeners}).stop()
        self.assertEqual([os.path.exists(p) for p in (made, own, sock)], [False, True, False])


if __name__ == "__main__":
    l7test.main()
