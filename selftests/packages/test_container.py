#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: full alone host-network timeout_full=3600
"""The container image: built with podman from the Dockerfile on a Debian 12 that debootstrap made, run as its user with the
documented capabilities only; healthy, a session in the kernel, another run without any capability, stopped in order."""
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import test_deb as deb  # noqa: E402
from test_deb import result, skip, wait_for  # noqa: E402

# As docs/install.md says.
CAPS = ["BPF", "NET_ADMIN", "NET_RAW", "PERFMON", "NET_BIND_SERVICE"]
# What the runtime would set by itself may be more than this machine allows.
ULIMITS = [f"--ulimit={name}={{0}}:{{0}}".format(min(16384, resource.getrlimit(number)[1]))
           for name, number in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC))]
MAX_MB = 60  # above the base image
CONFIG = deb.CONFIG.replace("/etc/l7mp/token", "/run/l7mp/token").replace("  log_file: /var/log/l7mp/l7mp.log\n", "")
# The mounts of containers are in a namespace of the test. A host with hybrid cgroups (v1, and v2 at `unified`) confuses the runtime.
ENTER = """
mount --make-rprivate /
umount /sys/fs/cgroup/unified 2>/dev/null || true
echo ready
exec cat
"""
PROFILE = "/usr/share/containers/seccomp.json"


class Podman:
    def __init__(self, out):
        self.out = out
        self.options = ["podman", "--root", f"{out}/root", "--runroot", f"{out}/run", "--storage-driver", "overlay", "--cgroup-manager", "cgroupfs",
                        "--events-backend", "file", "--tmpdir", f"{out}/tmp", "--runtime", "crun"]

        self.holder = subprocess.Popen(["unshare", "--mount", "sh", "-ec", ENTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.holder.stdout.readline()

    def command(self, *args, netns=None):
        return ["nsenter", "--mount", f"--target={self.holder.pid}", *((f"--net=/run/netns/{netns}",) if netns else ()), *self.options, *args]

    def close(self):
        self("rmi", "--all", "--force")
        self.holder.communicate("")

    def profile(self):
        """As docs/install.md says: the runtime's own, but with bpf(2)."""
        with open(PROFILE) as f:
            profile = json.load(f)
        for rule in profile["syscalls"]:
            rule["names"] = [name for name in rule["names"] if name != "bpf"]
        profile["syscalls"].append({"names": ["bpf"], "action": "SCMP_ACT_ALLOW"})
        with open(f"{self.out}/seccomp.json", "w") as f:
            json.dump(profile, f)
        return f"{self.out}/seccomp.json"

    def __call__(self, *args, netns=None):
        return deb.call(*self.command(*args, netns=netns))

    @contextlib.contextmanager
    def container(self, name, netns, *args):
        p = self("run", "--detach", "--name", name, "--cgroups=disabled", "--network=host", *ULIMITS,
                 "--cap-drop=ALL", "--log-driver=k8s-file", *args, netns=netns)
        try:
            yield p
        finally:
            self("rm", "--force", "--time", "1", name)


def build(podman):
    p = deb.call(deb.SCRIPT, "base", "bookworm")
    if p.returncode == 77:
        skip("the image is built", p.stdout.strip().splitlines()[-1])
        return False
    base = p.stdout.strip().splitlines()[-1]
    tar = subprocess.Popen(["tar", "-C", base, "--exclude=./var/cache/apt/archives/*", "--exclude=./var/lib/apt/lists/*", "-cf", "-", "."],
                           stdout=subprocess.PIPE)
    p = subprocess.run(podman.command("import", "--change", "CMD=/bin/bash", "-", "debian:12-slim"), stdin=tar.stdout, text=True,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    tar.wait()
    if p.returncode:
        skip("the image is built", f"podman import does not work here: {p.stdout.strip().splitlines()[-1:]}")
        return False
    p = podman("build", "--pull=never", "--isolation=chroot", "--network=host", "--format=docker", "-t", "l7mp", str(deb.ROOT))
    if not result(p.returncode == 0, "the image is built", p.stdout):
        return False
    size = {n: int(podman("image", "inspect", "--format", "{{.Size}}", n).stdout) for n in ("l7mp", "debian:12-slim")}
    grown = (size["l7mp"] - size["debian:12-slim"]) / 1e6
    print(f"# {grown:.0f} MB above the base image")
    return result(grown <= MAX_MB, f"it adds at most {MAX_MB} MB to its base", str(size))


def run(podman, net):
    def inside(*command, name="l7mp-test"):
        return podman("exec", name, *command, netns=net.names["proxy"])

    def logs():
        return podman("logs", "l7mp-test").stdout

    pins = f"{podman.out}/bpf"
    os.mkdir(pins)
    # In the test's namespace, and as docs/install.md says.
    subprocess.run(["nsenter", "--mount", f"--target={podman.holder.pid}", "sh", "-ec",
                    'mount -t bpf bpf "$1"; mkdir "$1/l7mp"; chown 900:900 "$1/l7mp"; chmod o+x "$1"', "sh", pins], check=True)
    config = f"{podman.out}/l7mp.yaml"
    with open(config, "w") as f:
        f.write(CONFIG)
    with podman.container("l7mp-test", net.names["proxy"], *(f"--cap-add={c}" for c in CAPS), "-v", f"{pins}:/sys/fs/bpf",
                          "--security-opt", f"seccomp={podman.profile()}",
                          "-v", f"{config}:/etc/l7mp/l7mp.yaml:ro", "l7mp") as p:
        if not result(p.returncode == 0 and bool(wait_for(lambda: inside("l7mpctl", "version").returncode == 0)),
                      "it runs, and l7mpctl in it reaches the API with its token", p.stdout + logs()):
            return
        p = inside("sh", "-c", "id -u; cat /proc/1/status")
        mask = "%016x" % sum(1 << n for n in (10, 12, 13, 38, 39))
        result(p.stdout.startswith("900\n") and "Uid:\t900" in p.stdout and f"CapEff:\t{mask}" in p.stdout and f"CapBnd:\t{mask}" in p.stdout,
               "it has the documented capabilities only, and is not root", p.stdout)
        p = podman("healthcheck", "run", "l7mp-test", netns=net.names["proxy"])
        result(p.returncode == 0, "its health check says that it is well", p.stdout)
        p = inside("env", "L7MP_HEALTH=127.0.0.1/9", "/usr/lib/l7mp/healthy")
        result(p.returncode != 0, "and that it is not, where nobody answers", p.stdout)
        server, client = net.python("server", deb.ECHO), net.python("client", deb.CLIENT)
        got = client.communicate(timeout=120)[0].strip()
        result(got == "200", "a UDP session carries data", got + logs())
        fast = wait_for(lambda: json.loads(inside("l7mpctl", "-o", "json", "sessions", "list").stdout)[0]["offload"]["state"] == "fast", 30)
        result(bool(fast), "the session is in the kernel", inside("l7mpctl", "offload").stdout + logs())
        server.kill()
        server.wait()
        p = podman("stop", "--time", "30", "l7mp-test")
        status = podman("inspect", "--format", "{{.State.ExitCode}}", "l7mp-test").stdout.strip()
        result(p.returncode == 0 and status == "0", "it stops in order", p.stdout + status + logs())
    with podman.container("l7mp-bare", net.names["proxy"], "l7mp"):
        up = wait_for(lambda: inside("l7mpctl", "version", name="l7mp-bare").returncode == 0)
        result(bool(up), "it runs without any capability", podman("logs", "l7mp-bare").stdout)


def main():
    if os.geteuid() != 0:
        skip("the image", "needs root")
    elif not shutil.which("podman") or not shutil.which("crun"):
        skip("the image", "podman and crun are not installed")
    else:
        with tempfile.TemporaryDirectory(prefix="l7mp-container-") as out:
            podman = Podman(out)
            try:
                if build(podman):
                    with deb.Net() as net:
                        run(podman, net)
            finally:
                podman.close()
    print(f"1..{deb.count}")
    return deb.failures > 0


if __name__ == "__main__":
    sys.exit(main())
