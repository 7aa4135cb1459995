#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: full alone host-network timeout_full=3600
"""The Debian package on Debian 12 and 13: built, checked by lintian, and its life in a minimal system: installed, run as its
unit runs it (user, capabilities, the kernel fast path), logs rotated, upgraded, removed, purged.

The package for 12 is built here, that for 13 in the chroot of scripts/debian13.sh. The minimal system lies in a cache and
is the lower layer of an overlay, so that each run begins with nothing."""
import base64
import glob
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "scripts/debian13.sh")
# As scripts/l7mp-proxy.service has them.
UNIT = (ROOT / "scripts/l7mp-proxy.service").read_text()
CAPS = [c.removeprefix("CAP_").lower() for c in re.search(r"^AmbientCapabilities=(.*)", UNIT, re.M)[1].split()]
count = failures = 0


def result(ok, what, note=""):
    global count, failures
    count += 1
    failures += not ok
    print(f"{'ok' if ok else 'not ok'} {count} - {what}", flush=True)
    for line in (note if not ok else "").splitlines()[-60:]:
        print(f"# {line}", flush=True)
    return ok


def skip(what, why):
    global count
    count += 1
    print(f"ok {count} - {what} # SKIP {why}", flush=True)


def call(*command, **kw):
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", check=False, **kw)


def wait_for(what, seconds=60):
    end = time.monotonic() + seconds
    while not (value := what()) and time.monotonic() < end:
        time.sleep(0.1)
    return value


# ---- building ----

def build_bookworm(out):
    release = pathlib.Path("/etc/os-release").read_text()
    if "VERSION_CODENAME=bookworm" not in release or not shutil.which("dh"):
        return None, "this is not Debian 12 with debhelper"
    return call("make", "-C", str(ROOT), "deb", f"DEB_ARGS=-j{os.cpu_count()}"), ROOT / "build/deb"


def build_trixie(out):
    p = call(SCRIPT, "prepare")
    if p.returncode == 77:
        return None, p.stdout.strip().splitlines()[-1]
    p = call(SCRIPT, "run", "sh", "-c", "dpkg -s debhelper build-essential >/dev/null 2>&1 || apt-get -q install -y --no-install-recommends debhelper build-essential; "
             "make deb DEB_ARGS=-j$(nproc)")
    return p, pathlib.Path(call(SCRIPT, "path").stdout.strip()) / "src/l7mp/build/deb"


def build(suite, out):
    """The package in `out`, its path; None: it can't be had."""
    p, found = (build_bookworm if suite == "bookworm" else build_trixie)(out)
    if p is None:
        skip(f"{suite}: the package is built", found)
        return None
    debs = [d for d in glob.glob(f"{found}/l7mp_*.deb")]
    if not result(p.returncode == 0 and len(debs) == 1, f"{suite}: the package is built", p.stdout):
        return None
    warnings = [line for line in p.stdout.splitlines() if "warning:" in line]
    result(not warnings, f"{suite}: without warnings", "\n".join(warnings))
    if suite == "bookworm" and shutil.which("lintian"):
        p = call("lintian", "--allow-root", "--fail-on", "error,warning", glob.glob(f"{found}/*.changes")[0])
        result(p.returncode == 0 and not re.search("^[EW]:", p.stdout, re.M), f"{suite}: lintian has nothing to say", p.stdout)
    return shutil.copy(debs[0], out)


def next_version(deb, out):
    """The same package with a higher version, and another default configuration."""
    tree = f"{out}/next"
    subprocess.run(["dpkg-deb", "-R", deb, tree], check=True)
    control = pathlib.Path(tree, "DEBIAN/control")
    control.write_text(re.sub(r"(?m)^Version: (.*)", r"Version: \1+next1", control.read_text()))
    config = pathlib.Path(tree, "etc/l7mp/l7mp.yaml")
    config.write_text(config.read_text() + "# the next version's\n")
    sums = call("md5sum", "etc/l7mp/l7mp.yaml", cwd=tree).stdout
    table = pathlib.Path(tree, "DEBIAN/md5sums")
    table.write_text("".join(line for line in table.read_text().splitlines(True) if "l7mp.yaml" not in line) + sums)
    path = f"{out}/l7mp_next.deb"
    subprocess.run(["dpkg-deb", "-b", "--root-owner-group", tree, path], check=True, stdout=subprocess.DEVNULL)
    return path


# ---- the minimal system ----

ENTER = r"""
root=$1 base=$2 layers=$3; shift 3
mount --make-rprivate / && mount -t overlay overlay -o "lowerdir=$base,upperdir=$layers/upper,workdir=$layers/work" "$root" &&
mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" && mount -t tmpfs tmpfs "$root/run" &&
{ mount -t sysfs sysfs "$root/sys" 2>/dev/null || mount --rbind /sys "$root/sys"; } && mount -t bpf bpf "$root/sys/fs/bpf" &&
exec chroot "$root" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
    DEBIAN_FRONTEND=noninteractive "$@"
"""


class System:
    def __init__(self, suite, base, out):
        self.suite, self.base, self.layers, self.root = suite, base, f"{out}/layers", f"{out}/root"
        for path in (f"{self.layers}/upper", f"{self.layers}/work", self.root):
            os.makedirs(path)

    def command(self, *command, netns=None):
        return [*(("ip", "netns", "exec", netns) if netns else ()), "unshare", "--mount", "--pid", "--fork", "--kill-child",
                "sh", "-c", ENTER, "sh", self.root, self.base, self.layers, *command]

    def sh(self, script, netns=None):
        return call(*self.command("sh", "-ec", script, netns=netns))

    def put(self, path, text=None, source=None, mode=0o644):
        to = pathlib.Path(self.layers, "upper", path.lstrip("/"))
        to.parent.mkdir(parents=True, exist_ok=True)
        if source:
            shutil.copy(source, to)
        else:
            to.write_text(text)
        to.chmod(mode)

    def step(self, what, script, expected=None):
        p = self.sh(script)
        ok = p.returncode == 0 and (expected is None or p.stdout.strip().splitlines()[-len(expected):] == expected)
        return result(ok, f"{self.suite}: {what}", f"{p.stdout}\nstatus {p.returncode}; expected {expected}")


# ---- the service, as its unit runs it ----

CONFIG = """\
admin:
  log_level: info
  log_file: /var/log/l7mp/l7mp.log
  api_token_file: /etc/l7mp/token
  server: { address: 127.0.0.1, port: 1235 }
  offload_ifs: [c0, s0]
listeners:
  - name: media
    spec: { protocol: UDP, address: 10.77.1.1, port: 5000 }
    rules: [{ action: { route: { destination: { name: server, spec: { protocol: UDP, port: 6000 }, endpoints: [{ spec: { address: 10.77.2.2 } }] } } } }]
"""
ECHO = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("10.77.2.2", 6000))
while True:
    data, peer = s.recvfrom(2048); s.sendto(data, peer)
"""
CLIENT = """
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1); s.bind(("10.77.1.2", 7000))
got = 0
end = time.monotonic() + 60
while got < 200 and time.monotonic() < end:
    s.sendto(b"media", ("10.77.1.1", 5000))
    try:
        got += s.recv(100) == b"media"
    except TimeoutError:
        pass
    time.sleep(0.01)
print(got)
"""

class Net:
    """Namespaces: client c1 - c0 proxy s0 - s1 server."""

    def __init__(self):
        self.names = {n: f"l7mp-deb-{os.getpid()}-{n}" for n in ("client", "proxy", "server")}

    def __enter__(self):
        for name in self.names.values():
            subprocess.run(["ip", "netns", "add", name], check=True)
            subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        for a, b, side, n in (("c0", "c1", "client", 1), ("s0", "s1", "server", 2)):
            subprocess.run(["ip", "-n", self.names["proxy"], "link", "add", a, "type", "veth", "peer", b, "netns", self.names[side]], check=True)
            for where, dev, address in (("proxy", a, f"10.77.{n}.1/24"), (side, b, f"10.77.{n}.2/24")):
                subprocess.run(["ip", "-n", self.names[where], "addr", "add", address, "dev", dev], check=True)
                subprocess.run(["ip", "-n", self.names[where], "link", "set", dev, "up"], check=True)
        return self

    def __exit__(self, *_):
        for name in self.names.values():
            subprocess.run(["ip", "netns", "del", name], check=False)

    def python(self, where, program):
        return subprocess.Popen(["ip", "netns", "exec", self.names[where], sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


# Runs in the system: starts the service, and then does one order a line of stdin, each answered by a line.
DRIVER = r"""
set -e
mkdir -p /run/l7mp /var/log/l7mp /sys/fs/bpf/l7mp
chown l7mp:l7mp /run/l7mp /var/log/l7mp /sys/fs/bpf/l7mp
chmod o+x /sys/fs/bpf
setpriv --reuid l7mp --regid l7mp --init-groups --no-new-privs --inh-caps=-all,@CAPS@ --ambient-caps=-all,@CAPS@ \
    --bounding-set=-all,@CAPS@ /usr/sbin/l7mp-proxy -c /etc/l7mp/l7mp.yaml >/run/output 2>&1 &
pid=$!
while read -r order; do
	out=$(eval "$order" 2>&1) && rc=0 || rc=$?
	printf '%s %s\n' "$rc" "$(printf '%s' "$out" | base64 -w0)"
done
kill $pid
wait $pid && rc=0 || rc=$?
echo "ended $rc"
"""


class Service:
    def __init__(self, system, netns):
        caps = ",".join("+" + c for c in CAPS)
        self.process = subprocess.Popen(system.command("bash", "-c", DRIVER.replace("@CAPS@", caps), netns=netns), text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def do(self, order):
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        rc, _, text = line.rstrip("\n").partition(" ")
        if not rc.isdigit():
            return 255, line
        return int(rc), base64.b64decode(text).decode("utf-8", "replace")

    def end(self):
        return self.process.communicate(timeout=120)[0]


def run_service(system):
    suite = system.suite
    with Net() as net:
        service = Service(system, net.names["proxy"])
        up = wait_for(lambda: service.do("l7mpctl version")[0] == 0)
        if not result(bool(up), f"{suite}: the service runs as its user with its capabilities, l7mpctl finds API and token",
                      service.do("l7mpctl version; cat /run/output")[1]):
            service.end()
            return
        rc, text = service.do("grep -E '^(Uid|CapEff|CapBnd|NoNewPrivs):' /proc/$pid/status; id -u l7mp")
        uid = text.splitlines()[-1]
        mask = "%016x" % sum(1 << n for n in (10, 12, 13, 38, 39))
        result(re.search(rf"Uid:\s+{uid}\s", text) and text.count(mask) == 2 and "NoNewPrivs:\t1" in text,
               f"{suite}: it has that user and those capabilities only", text)
        rc, text = service.do("echo wrong >/run/wrong; chmod 600 /run/wrong; l7mpctl -t /run/wrong version")
        result(rc == 1 and "token" in text.lower(), f"{suite}: another token is refused", text)
        server, client = net.python("server", ECHO), net.python("client", CLIENT)
        got = client.communicate(timeout=120)[0].strip()
        result(got == "200", f"{suite}: a UDP session carries data", got)
        fast = wait_for(lambda: json.loads(service.do("l7mpctl -o json sessions list")[1])[0]["offload"]["state"] == "fast", 30)
        result(bool(fast), f"{suite}: the session is in the kernel", service.do("l7mpctl -o json sessions list; l7mpctl offload; cat /var/log/l7mp/l7mp.log")[1])
        # Other words of the line are what completion sees.
        rc, text = service.do(". /usr/share/bash-completion/completions/l7mpctl; COMP_WORDS=(l7mpctl clusters get se); COMP_CWORD=3; _l7mpctl; "
                              "echo ${COMPREPLY[*]}; COMP_WORDS=(l7mpctl dr); COMP_CWORD=1; _l7mpctl; echo ${COMPREPLY[*]}")
        result(rc == 0 and text.split() == ["server", "drain"], f"{suite}: bash completes commands and names", text)
        rc, text = service.do("zsh -n /usr/share/zsh/vendor-completions/_l7mpctl && zsh -fc 'autoload -U compinit; compinit -u -d /run/zdump; echo ${_comps[l7mpctl]}'")
        result(rc == 0 and text.strip() == "_l7mpctl", f"{suite}: zsh finds its completion", text)
        # There is no systemd: what is asked of it is done in its place.
        rc, text = service.do("printf '#!/bin/sh\\n[ \"$1\" = kill ] && kill -USR1 '$pid >/usr/local/bin/systemctl; chmod 755 /usr/local/bin/systemctl; "
                              "logrotate -f /etc/logrotate.d/l7mp && ls /var/log/l7mp")
        result(rc == 0 and "l7mp.log.1" in text.split(), f"{suite}: logs are rotated", text)
        service.do("l7mpctl admin set log_level=verbose; l7mpctl drain; l7mpctl drain cancel")
        fresh = wait_for(lambda: "drain" in service.do("cat /var/log/l7mp/l7mp.log")[1])
        result(bool(fresh), f"{suite}: the proxy goes on in the new file", service.do("ls -l /var/log/l7mp; cat /var/log/l7mp/*")[1])
        server.kill()
        server.wait()
        text = service.end()
        result("ended 0" in text, f"{suite}: it stops in order", text)


# ---- the package's life ----

FILES = ("/usr/sbin/l7mp-proxy /usr/bin/l7mpctl /usr/bin/l7mp-operator /usr/share/man/man8/l7mp-proxy.8.gz /usr/share/man/man1/l7mpctl.1.gz /etc/logrotate.d/l7mp "
         "/usr/lib/sysusers.d/l7mp.conf /usr/lib/tmpfiles.d/l7mp.conf /lib/systemd/system/l7mp-proxy.service /usr/share/doc/l7mp/copyright")


def life(suite, deb, out):
    p = call(SCRIPT, "base", suite)
    if p.returncode == 77:
        skip(f"{suite}: the package's life", p.stdout.strip().splitlines()[-1])
        return
    s = System(suite, p.stdout.strip().splitlines()[-1], out)
    s.put("/tmp/l7mp.deb", source=deb)
    s.put("/tmp/next.deb", source=next_version(deb, out))
    s.put("/etc/resolv.conf", source="/etc/resolv.conf")
    s.put("/etc/hosts", source="/etc/hosts")
    # Documentation is as it is on a machine.
    if not s.step("it is installed with what it needs", "apt-get -q update && apt-get -q install -y --no-install-recommends /tmp/l7mp.deb logrotate zsh && "
                  "stat -c '%a %U:%G' /sys/fs/bpf/l7mp /etc/l7mp/token /etc/l7mp/l7mp.yaml", ["755 l7mp:l7mp", "640 root:l7mp", "644 root:root"]):
        return
    s.step("everything is there, and the service is enabled", f"ls {FILES} /etc/systemd/system/multi-user.target.wants/l7mp-proxy.service")
    s.step("the token is random and the configuration valid", "grep -qxE '[0-9a-f]{64}' /etc/l7mp/token && setpriv --reuid l7mp --regid l7mp --clear-groups "
           "l7mp-proxy -t -s -c /etc/l7mp/l7mp.yaml")
    s.put("/etc/l7mp/l7mp.yaml", CONFIG)
    before = s.sh("sha256sum /etc/l7mp/token /etc/l7mp/l7mp.yaml").stdout
    run_service(s)
    s.step("it is upgraded", "apt-get -q install -y -o Dpkg::Options::=--force-confold /tmp/next.deb && dpkg-query -W -f '${Version}\\n' l7mp | grep -x '.*+next1'")
    result(s.sh("sha256sum /etc/l7mp/token /etc/l7mp/l7mp.yaml").stdout == before, f"{suite}: token and configuration are as they were", before)
    s.step("it is removed, the configuration stays", "apt-get -q remove -y l7mp && ! ls /usr/sbin/l7mp-proxy /usr/bin/l7mpctl 2>/dev/null && "
           "ls /etc/l7mp/token /etc/l7mp/l7mp.yaml && apt-get -q install -y -o Dpkg::Options::=--force-confold /tmp/l7mp.deb")
    result(s.sh("sha256sum /etc/l7mp/token /etc/l7mp/l7mp.yaml").stdout == before, f"{suite}: and is used by the next installation", before)
    s.step("purged, nothing is left", "apt-get -q purge -y l7mp && ! ls -d /etc/l7mp /var/log/l7mp /etc/logrotate.d/l7mp /usr/share/doc/l7mp "
           "/etc/systemd/system/multi-user.target.wants/l7mp-proxy.service /sys/fs/bpf/l7mp 2>/dev/null && ! find / -xdev -name '*l7mp*' "
           "! -path '/tmp/*' ! -path '/proc/*' ! -path '/sys/*' ! -path '/var/lib/apt/*' ! -path '/var/cache/*' | grep .")


def main():
    if os.geteuid() != 0:
        skip("the package", "needs root")
    for suite in sys.argv[1:] or ("bookworm", "trixie"):
        if os.geteuid() != 0:
            break
        with tempfile.TemporaryDirectory(prefix="l7mp-deb-") as out:
            deb = build(suite, out)
            if deb:
                life(suite, deb, out)
    print(f"1..{count}")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
