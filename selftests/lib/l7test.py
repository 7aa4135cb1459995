# SPDX-License-Identifier: MIT
"""What the Python tests share: an own network namespace, the proxy as a child
process, a REST client, small peers, and unittest results as TAP.

A test file is executable and ends in `l7test.main()`. Importing this module moves
the process into a network namespace of its own (root only), so that tests use fixed ports
side by side and nothing they send can leave.
"""
import ctypes
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
FULL = os.environ.get("L7MP_TEST_MODE") == "full"
# What waiting is multiplied with: scripts/vmtest.sh emulates processors.
SLOW = 6 if os.environ.get("L7MP_VM") else 1
CLONE_NEWNET = 0x40000000
SANITIZER = re.compile(r"(AddressSanitizer|LeakSanitizer|ThreadSanitizer|runtime error:|Assertion .* failed)")


def program(name):
    """A built program: the sanitised build unless L7MP_BUILD names another folder."""
    return str(ROOT / os.environ.get("L7MP_BUILD", "build/asan") / name)


def isolate():
    if os.geteuid() != 0 or os.environ.get("L7MP_TEST_SHARED_NET"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        return False
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    return True


ISOLATED = isolate()


def websockets_of_old():
    """The tests are written for the interface of python3-websockets that Debian 12 has (10.4). Debian 13's
    (15.0) still has it, as `legacy`, but no longer by its old names."""
    try:
        import warnings
        import websockets
        warnings.simplefilter("ignore", DeprecationWarning)
        import websockets.legacy.client
        import websockets.legacy.exceptions
        import websockets.legacy.server
    except ImportError:
        return
    websockets.connect = websockets.legacy.client.connect
    websockets.serve = websockets.legacy.server.serve
    websockets.InvalidStatusCode = websockets.legacy.exceptions.InvalidStatusCode


websockets_of_old()


def wait_for(what, seconds=60.0, step=0.01):
    """Calls `what` until it returns something true; returns that, or the last value.

    The limit is for what never comes, not for how long it may take: a busy machine
    delays anything, so it is never less than a minute. What takes longer is looked at less often.
    """
    begin = time.monotonic()
    end = begin + max(seconds, 60.0) * SLOW
    while True:
        try:
            value = what()
        except OSError:
            value = None
        if value or time.monotonic() > end:
            return value
        time.sleep(max(step, min(0.1, (time.monotonic() - begin) * 0.03)))


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def without_health(doc):
    """A document of the API without what sessions change in clusters and endpoints."""
    if isinstance(doc, list):
        return [without_health(x) for x in doc]
    if isinstance(doc, dict):
        return {k: without_health(v) for k, v in doc.items() if k != "health"}
    return doc


class Api:
    """The REST API. Each call: (status, decoded body or text)."""

    def __init__(self, port=1234, host="127.0.0.1", headers=None):
        self.host, self.port, self.headers = host, port, dict(headers or {})
        self.source = None  # the address that requests come from

    def call(self, method, path, body=None, content_type=None, headers=None, timeout=60):
        h = dict(self.headers)
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
            content_type = content_type or "application/json"
        if isinstance(body, str):
            body = body.encode()
        if content_type:
            h["Content-Type"] = content_type
        h.update(headers or {})
        if not path.startswith("/api"):
            path = "/api/v1" + path
        conn = http.client.HTTPConnection(self.host, self.port, timeout=timeout * SLOW,
                                          source_address=(self.source, 0) if self.source else None)
        try:
            conn.request(method, path, body, h)
            r = conn.getresponse()
            text = r.read()
            self.last_headers = {k.lower(): v for k, v in r.getheaders()}
        finally:
            conn.close()
        try:
            return r.status, json.loads(text)
        except ValueError:
            return r.status, text.decode("utf-8", "replace")

    def get(self, path, **kw):
        return self.call("GET", path, **kw)

    def post(self, path, body, content_type=None, **kw):
        return self.call("POST", path, body, content_type, **kw)

    def yaml(self, path, text, method="POST"):
        return self.call(method, path, text, "text/x-yaml")

    def put(self, path, body, content_type=None, **kw):
        return self.call("PUT", path, body, content_type, **kw)

    def delete(self, path, **kw):
        return self.call("DELETE", path, **kw)


def controller(port=1234, address="127.0.0.1"):
    """The objects that serve the REST API, for a config."""
    return {
        "name": "controller-listener",
        "spec": {"protocol": "HTTP", "address": address, "port": port},
        "rules": [{"action": {"route": {"destination": {
            "name": "l7mp-controller", "spec": {"protocol": "L7mpController"}}}}}],
    }


class Proxy:
    """The daemon as a child. `config` is a dict, a path, or YAML text."""

    running = set()

    def __init__(self, config=None, *args, port=1234, wait=True, env=None, build=None, wrapper=(), close_fds=True):
        self.dir = tempfile.TemporaryDirectory(prefix="l7mp-test-")
        if config is None:
            config = {"listeners": [controller(port)]}
        if isinstance(config, dict):
            config = dict(config)
            self.path = os.path.join(self.dir.name, "config.json")
            with open(self.path, "w") as f:
                json.dump(config, f)
        elif isinstance(config, str) and "\n" in config:
            self.path = os.path.join(self.dir.name, "config.yaml")
            with open(self.path, "w") as f:
                f.write(config)
        else:
            self.path = str(config)
        self.out_path = os.path.join(self.dir.name, "stdout")
        self.err_path = os.path.join(self.dir.name, "stderr")
        exe = str(ROOT / build / "l7mp-proxy") if build else program("l7mp-proxy")
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(os.path.join(self.dir.name, "notify"))
        env = dict(os.environ, NOTIFY_SOCKET=self.notify.getsockname(), **(env or {}))
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            self.process = subprocess.Popen([*wrapper, exe, "-c", self.path, *args], stdout=out, stderr=err,
                                            stdin=subprocess.DEVNULL, env=env, close_fds=close_fds)
        self.pid = self.process.pid
        Proxy.running.add(self.process)
        self.api = Api(port)
        if wait:
            self.wait_ready()

    @classmethod
    def kill_left(cls, before=frozenset()):
        """What a test that failed has left running, so that the next one finds its ports free."""
        for process in cls.running - before:
            if process.poll() is None:
                process.kill()
                process.wait()
        cls.running &= before

    def notified(self, seconds=60):
        """The daemon's next notification to its supervisor, as a dict; {} if there was none in time."""
        end = time.monotonic() + seconds * SLOW
        while time.monotonic() < end:
            self.notify.settimeout(0.05)
            try:
                return dict(line.split("=", 1) for line in self.notify.recv(4096).decode().splitlines())
            except TimeoutError:
                if self.process.poll() is not None:
                    break
        return {}

    def wait_ready(self, seconds=60):
        """Until all listeners are up (a port that accepts is not enough)."""
        while message := self.notified(seconds):
            if message.get("READY") == "1":
                return
        if self.process.poll() is not None:
            raise AssertionError(f"the proxy ended at start: {self.stderr()}")
        raise AssertionError(f"the proxy did not become ready: {self.stderr()}")

    def stdout(self):
        return pathlib.Path(self.out_path).read_text(errors="replace")

    def stderr(self):
        return pathlib.Path(self.err_path).read_text(errors="replace")

    def cpu_seconds(self):
        """Processor time used so far, which does not depend on what else runs on the machine."""
        with open(f"/proc/{self.process.pid}/stat") as f:
            fields = f.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_kb(self):
        with open(f"/proc/{self.pid}/status") as f:
            return int(re.search(r"VmRSS:\s*(\d+)", f.read()).group(1))

    def fds(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def hup(self):
        os.kill(self.pid, signal.SIGHUP)

    def alive(self):
        return self.process.poll() is None

    def stop(self, seconds=60, check=True):
        """SIGTERM; exit status 0 and nothing from a sanitizer, or an AssertionError."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(seconds * SLOW)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait()
            raise AssertionError(f"the proxy did not stop: {self.stderr()[-3000:]}") from None
        err = self.stderr()
        self.notify.close()
        self.dir.cleanup()
        if check:
            assert not SANITIZER.search(err), f"sanitizer: {err[-6000:]}"
            assert "left a handle open" not in err, err[-2000:]
            assert status == 0, f"exit status {status}: {err[-3000:]}"
        return status

    def stop_twice(self):
        """SIGTERM, and again while it ends its sessions; the exit status, which is the second signal's."""
        self.process.send_signal(signal.SIGTERM)
        while "SIGTERM: stopping" not in self.stderr() and self.alive():
            time.sleep(0.005)
        while self.alive():
            self.process.send_signal(signal.SIGTERM)
            time.sleep(0.005)
        return self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is None:
            self.stop()
        else:
            if self.process.poll() is None:
                self.process.terminate()
                try:
                    self.process.wait(60)
                except subprocess.TimeoutExpired:
                    self.process.kill()
                    self.process.wait()
            sys.stderr.write(f"# proxy's stderr:\n{self.stderr()[-4000:]}\n")
            self.dir.cleanup()


def run_proxy(*args, build=None, timeout=60):
    """Runs the daemon to its end: (status, stdout, stderr)."""
    exe = str(ROOT / build / "l7mp-proxy") if build else program("l7mp-proxy")
    r = subprocess.run([exe, *args], capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout * SLOW)
    return r.returncode, r.stdout.decode(errors="replace"), r.stderr.decode(errors="replace")


def udp_socket(port=0, host="127.0.0.1", timeout=60):
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(timeout)
    s.bind((host, port))
    return s


class TcpEcho(threading.Thread):
    """An echo server that keeps half-closes: it sends back all, then closes."""

    def __init__(self, port, host="127.0.0.1"):
        super().__init__(daemon=True)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.server = socket.create_server((host, port), family=family, backlog=512)
        self.connections = []
        self.start()

    def run(self):
        while True:
            try:
                conn, _ = self.server.accept()
            except OSError:
                return
            self.connections.append(conn)
            threading.Thread(target=self.serve, args=(conn,), daemon=True).start()

    @staticmethod
    def serve(conn):
        try:
            while data := conn.recv(65536):
                conn.sendall(data)
            conn.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self):
        try:
            self.server.shutdown(socket.SHUT_RDWR)  # wakes the thread, which would keep the port
        except OSError:
            pass
        self.join(2)
        self.server.close()
        for c in self.connections:
            c.close()


class UdpEcho(threading.Thread):
    def __init__(self, port, host="127.0.0.1"):
        super().__init__(daemon=True)
        self.sock = udp_socket(port, host, None)
        self.seen = []
        self.start()

    def run(self):
        while True:
            try:
                data, peer = self.sock.recvfrom(65536)
                if peer is None:  # shut down
                    return
                self.seen.append((peer, data))
                self.sock.sendto(data, peer)
            except OSError:
                return

    def close(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)  # wakes the thread, which would keep the port
        except OSError:
            pass
        self.join(2)
        self.sock.close()


class TapResult(unittest.TestResult):
    def __init__(self):
        super().__init__()
        self.count = 0

    def startTest(self, test):
        super().startTest(test)
        self.before, self.failed = set(Proxy.running), False

    def stopTest(self, test):
        super().stopTest(test)
        if self.failed:
            Proxy.kill_left(self.before)

    def line(self, ok, test, tail=""):
        self.count += 1
        name = test.shortDescription() or test.id().replace("__main__.", "")
        print(f"{'ok' if ok else 'not ok'} {self.count} - {name}{tail}", flush=True)

    def addSuccess(self, test):
        self.line(True, test)

    def addSkip(self, test, reason):
        self.line(True, test, f" # SKIP {reason}")

    def problem(self, test, err):
        self.failed = True
        self.line(False, test)
        for row in self._exc_info_to_string(err, test).splitlines():
            print(f"# {row}", flush=True)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.problem(test, err)

    def addError(self, test, err):
        super().addError(test, err)
        self.problem(test, err)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err:
            self.problem(subtest, err)


def flatten(suite):
    for t in suite:
        if isinstance(t, unittest.TestSuite):
            yield from flatten(t)
        else:
            yield t


def main():
    """
    Runs the tests of __main__ as TAP: those whose id contains argv[1], when given; with L7MP_TEST_PART=I/N each Nth of
    them, beginning with I (run.py's parts=N).
    """
    suite = unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"])
    first, parts = (int(x) for x in os.environ.get("L7MP_TEST_PART", "0/1").split("/"))
    suite = unittest.TestSuite([t for t in flatten(suite) if len(sys.argv) < 2 or sys.argv[1] in t.id()][first::parts])
    result = TapResult()
    suite.run(result)
    print(f"1..{result.count}")
    sys.stdout.flush()
    Proxy.kill_left()
    os._exit(0 if result.wasSuccessful() and result.count else 1)  # daemon threads may still block
