# SPDX-License-Identifier: MIT
"""The operator as a child process, beside a fake API server and real proxies."""
import http.client
import os
import re
import signal
import subprocess
import tempfile

import kube_api
import l7test

PORT = 1235


class Operator:
    """l7mp-operator. `address`, `listen`: where /metrics is; else as for the program."""

    def __init__(self, *args, kubeconfig=None, server="http://127.0.0.1:6443", address="127.0.0.1", listen=9090, lease=False, env=None, level="info"):
        self.dir = tempfile.TemporaryDirectory(prefix="l7mp-operator-")
        self.address, self.port, self.stopped = address, listen, False
        self.err_path = os.path.join(self.dir.name, "stderr")
        if kubeconfig is None:
            kubeconfig = kube_api.kubeconfig(os.path.join(self.dir.name, "kubeconfig"), server)
        where = ["--kubeconfig", kubeconfig] if kubeconfig else []
        with open(self.err_path, "wb") as err:
            self.process = subprocess.Popen(
                [l7test.program("l7mp-operator"), *where, "--listen", f"{address}:{listen}", "-l", level,
                 *([] if lease else ["--no-lease"]), *args],
                stdin=subprocess.DEVNULL, stdout=err, stderr=err, env=dict(os.environ, **(env or {})))
        l7test.Proxy.running.add(self.process)

    def stderr(self):
        with open(self.err_path, errors="replace") as f:
            return f.read()

    def page(self, path):
        conn = http.client.HTTPConnection(self.address, self.port, timeout=60)
        try:
            conn.request("GET", path)
            r = conn.getresponse()
            return r.status, r.read().decode()
        finally:
            conn.close()

    def metric(self, name, **labels):
        """The value of a sample; None when there is none."""
        want = "{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}" if labels else ""
        for line in self.page("/metrics")[1].splitlines():
            if line.startswith(f"l7mp_operator_{name}{want} "):
                return float(line.rpartition(" ")[2])
        return None

    def is_ready(self):
        try:
            return self.page("/readyz")[0] == 200
        except OSError:
            return False

    def ready(self):
        if not l7test.wait_for(lambda: self.is_ready() or self.process.poll() is not None) or self.process.poll() is not None:
            raise AssertionError(f"the operator is not ready: {self.stderr()[-4000:]}")
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        """SIGTERM; exit status 0 and nothing from a sanitizer, or an AssertionError. Once."""
        if self.stopped:
            return
        self.stopped = True
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(60 * l7test.SLOW)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait()
            raise AssertionError(f"the operator did not stop: {self.stderr()[-3000:]}") from None
        err = self.stderr()
        self.dir.cleanup()
        assert not l7test.SANITIZER.search(err), f"sanitizer: {err[-6000:]}"
        assert "left a handle open" not in err, err[-2000:]
        assert status in (0, -signal.SIGKILL), f"exit status {status}: {err[-3000:]}"


class MeshProxy(l7test.Proxy):
    """A proxy whose admin server is at an address of its own, as in a pod. `admin`: more of its config."""

    def __init__(self, address, config=None, **admin):
        self.address, self.stopped = address, False
        config = dict(config or {})
        config.setdefault("admin", {}).update({"server": {"address": address, "port": PORT}, **admin})
        config.setdefault("listeners", [])
        super().__init__(config)
        self.api = l7test.Api(PORT, address)

    def stop(self, *args, **kw):
        """Once."""
        if not self.stopped:
            self.stopped = True
            super().stop(*args, **kw)

    def names(self, plural="clusters", owner="l7mp-operator"):
        return sorted(o["name"].rpartition("/")[2] for o in self.api.get(f"/config?owner={owner}")[1][plural])

    def status(self):
        return self.api.get("/status")[1]


def same(text):
    """A text without what differs from run to run."""
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)
