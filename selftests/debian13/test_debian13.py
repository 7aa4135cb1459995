#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: full alone host-network timeout_full=2400
"""The tree on Debian 13: it builds without warnings, and the unit, api and traffic suites pass there, with
libwebsockets 4.3, OpenSSL 3.5, gcc 14 and clang 19. Each file of these suites is one test here."""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "scripts/debian13.sh")
FILE = re.compile(r"^(ok|FAIL|skip)\s+(\S+): (\d+) passed, (\d+) failed, (\d+) skipped")
BUILD = ("make -s -j$(nproc) all bpf && make -s -j$(nproc) BUILD=build/asan SAN=asan OPT=-O1 all unit-bins")
SUITES = "unit", "api", "traffic"
count = 0


def result(ok, what, note=""):
    global count
    count += 1
    print(f"{'ok' if ok else 'not ok'} {count} - {what}", flush=True)
    for line in note.splitlines():
        print(f"# {line}", flush=True)
    return ok


def inside(*command):
    return subprocess.run([SCRIPT, "run", *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", check=False)


def main():
    p = subprocess.run([SCRIPT, "prepare"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       text=True, check=False)
    if p.returncode == 77:
        print(f"ok 1 - debian13: the suites # SKIP {p.stdout.strip().splitlines()[-1]}\n1..1")
        return 0
    if not result(p.returncode == 0, "debian13: a chroot is made", p.stdout):
        return 1
    p = inside("sh", "-c", BUILD)
    lines = [line for line in p.stdout.splitlines() if not re.match(r"  [A-Z]+ +\S+$", line)]
    if not result(p.returncode == 0, "debian13: the tree builds without warnings", "\n".join(lines[-60:])):
        return 1
    p = inside("/usr/bin/python3", "selftests/run.py", *SUITES)
    # The last row of a file counts: what fails beside others is run once more, alone.
    files, notes, name = {}, {}, None
    for line in p.stdout.splitlines():
        m = FILE.match(line)
        if m:
            name = m[2]
            files[name], notes[name] = tuple(map(int, m.groups()[2:])), []
        elif name and line.startswith("     "):
            notes[name].append(line)
    for name, (passed, failed, skipped) in sorted(files.items()):
        result(not failed, f"debian13: {name}: {passed} passed, {failed} failed, {skipped} skipped", "\n".join(notes[name]))
    result(p.returncode == 0 and len(files) > 50, "debian13: all files of the suites ran", "\n".join(p.stdout.splitlines()[-20:]))
    print(f"1..{count}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
