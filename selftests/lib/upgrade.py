# SPDX-License-Identifier: MIT
"""A proxy over its upgrades: each is another process, which the one before has started."""
import ctypes
import os
import signal

import l7test

PR_SET_CHILD_SUBREAPER = 36

# A process that has taken over belongs to us when its parent has ended: it can be waited for.
ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def ours():
    """Processes of the program that are children of this one."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as f:
                parent = int(f.read().rpartition(")")[2].split()[1])
            if parent == os.getpid() and os.path.samefile(f"/proc/{name}/exe", l7test.program("l7mp-proxy")):
                found.append(int(name))
        except (OSError, IndexError):
            pass
    return found


class Chain:
    """The proxy over its upgrades: `pid` is the process that serves now."""

    def __init__(self, cfg, port, env=None):
        self.proxy = l7test.Proxy(cfg, port=port, env=env)
        self.api = l7test.Api(port)
        self.pid = self.proxy.pid
        self.old = []

    def state(self):
        status, answer = self.api.get("/upgrade")
        assert status == 200, answer
        return answer

    def upgrade(self):
        """Starts one, and waits for its end: what the process that serves then says."""
        before = self.state()
        os.kill(self.pid, signal.SIGUSR2)

        def over():
            now = self.state()
            if now["pid"] != self.pid:
                return now
            return now if now["state"] == "serving" and now.get("failed_at") != before.get("failed_at") else None
        result = l7test.wait_for(over)
        assert result, f"the upgrade did not end: {self.state()} {self.proxy.stderr()[-3000:]}"
        if result["pid"] != self.pid:
            self.old.append(self.pid)
            self.pid = result["pid"]
        return result

    def fds(self):
        """Kinds of the descriptors; without the pipes, which are kept for splicing."""
        kinds = []
        for n in os.listdir(f"/proc/{self.pid}/fd"):
            try:
                kinds.append(os.readlink(f"/proc/{self.pid}/fd/{n}").split(":")[0])
            except FileNotFoundError:
                pass
        return sorted(kind for kind in kinds if kind != "pipe")

    def ended(self, pid):
        """The exit status of a process, once it has ended."""
        if pid == self.proxy.pid:
            return self.proxy.process.wait(120 * l7test.SLOW)

        def wait():
            try:
                done, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                return None  # its parent still drains
            return (os.waitstatus_to_exitcode(status),) if done else None
        got = l7test.wait_for(wait, 120)
        assert got, f"process {pid} did not end: {self.proxy.stderr()[-3000:]}"
        return got[0]

    def stop(self):
        for pid in self.old:
            status = self.ended(pid)
            assert status in (0, -signal.SIGKILL), (pid, status, self.proxy.stderr()[-3000:])
        os.kill(self.pid, signal.SIGTERM)
        status = self.ended(self.pid)
        err = self.proxy.stderr()
        assert not l7test.SANITIZER.search(err), err[-6000:]
        assert "left a handle open" not in err, err[-2000:]
        assert status == 0, (status, err[-3000:])
        self.proxy.notify.close()
        self.proxy.dir.cleanup()

    def kill(self):
        """For a test that has failed: ends all of them, however far they are."""
        self.proxy.process.kill()
        self.proxy.process.wait()
        # Also one that has taken over, of which this does not know yet: orphans are our children.
        for pid in ours():
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass
