#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: full alone host-network timeout_full=1500
"""What `make vmtest` does, and that it can fail: the suites pass on Debian's 6.1 and 6.12, and do not
with programs that were broken on purpose."""
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILE = re.compile(r"^(ok|FAIL|skip)\s+(\S+): (\d+) passed, (\d+) failed, (\d+) skipped")
COUNT = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", re.M)
# Which break, on which kernel, who must notice it. The bpf suite sees each byte; in the netns suite
# it is real sockets that get nothing.
BREAKS = (
    ("ttl", "6.12", {"VM_SUITES": "bpf"}, ("bpf/test_cases", "bpf/test_differential", "bpf/test_devices")),
    ("checksum", "6.1", {"VM_SUITES": "bpf"}, ("bpf/test_cases", "bpf/test_differential")),
    ("source", "6.12", {"VM_SUITES": "netns", "VM_ONLY": "handshake"}, ("netns/test_offload_handshake.py",)),
)
count = 0


def result(ok, what, note=""):
    global count
    count += 1
    print(f"{'ok' if ok else 'not ok'} {count} - {what}", flush=True)
    for line in note.splitlines():
        print(f"# {line}", flush=True)
    return ok


def vmtest(kernels, **env):
    """scripts/vmtest.sh: (status, {file: (passed, failed, skipped)} a kernel, its output)."""
    for name in list(os.environ):
        if name.startswith("VM_") and name != "VM_ACCEL":
            del os.environ[name]
    r = subprocess.run([str(ROOT / "scripts/vmtest.sh"), *kernels], env=dict(os.environ, **env),
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    found = {}
    for kernel in kernels:
        path = ROOT / "build/vm" / (kernel + (f"-{env['VM_BREAK']}" if "VM_BREAK" in env else "")) / "results"
        text = path.read_text(errors="replace") if path.exists() else ""
        files = {m[2]: tuple(map(int, m.groups()[2:])) for m in map(FILE.match, text.splitlines()) if m}
        found[kernel] = files if COUNT.search(text) else {}
    return r.returncode, found, r.stdout


def passes():
    """Each file of each kernel is a test."""
    kernels = ["6.1", "6.12"]
    status, found, text = vmtest(kernels)
    want = {f"bpf/{p.stem}" for p in (ROOT / "selftests/bpf").glob("test_*.c")}
    want |= {f"netns/{p.name}" for p in (ROOT / "selftests/netns").glob("test_*.py")
             if "l7mp-test: full" not in p.read_text()[:1000]}
    for kernel in kernels:
        for name in sorted(want | set(found[kernel])):
            passed, failed, skipped = found[kernel].get(name, (0, 1, 0))
            result(not failed and passed, f"{kernel}: {name}: {passed} passed, {failed} failed, {skipped} skipped")
    result(status == 0, "make vmtest passes", "" if status == 0 else text[-8000:])


def fails():
    for how, kernel, env, noticed in BREAKS:
        status, found, text = vmtest([kernel], VM_BREAK=how, **env)
        got = {name: files[1] for name, files in found[kernel].items()}
        # It must be the tests that fail, not the guest or the build.
        ok = status == 1 and all(got.get(name) for name in noticed)
        result(ok, f"{kernel}: with '{how}' broken {', '.join(noticed)} fail, and so does make vmtest",
               f"status {status}, failed: {got}" if ok else text[-8000:])


if __name__ == "__main__":
    if "broken" not in sys.argv[1:]:
        passes()
    fails()
    print(f"1..{count}")
