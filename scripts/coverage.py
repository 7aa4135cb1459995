#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""`make coverage [SUITES="unit api"]`: which lines and functions of userspace/ the fast mode of the tests executes.

The programs are built by clang with counters (build/cov), the suites run on them, and llvm-cov adds up the counters
of all processes, including those that were killed. A table of the folders and a list of the files and functions
that are never executed go to build/cov/report.txt; the table is printed, too. The BPF programs are not included: they
run in the kernel (selftests/bpf executes each of their lines by table-driven cases).
"""
import collections
import json
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = "build/cov"
COV = ROOT / BUILD
SUITES = ["unit", "api", "traffic", "examples", "netns", "matrix", "faults", "mesh"]
PROGRAMS = ["l7mp-proxy", "l7mpctl", "l7mp-operator", "l7mp-docgen"]


def build():
    make = ["make", "-s", f"-j{os.cpu_count()}", f"BUILD={BUILD}", "CC=clang", "SAN=cov", "OPT=-O1", "all", "unit-bins",
            f"{BUILD}/l7mp-docgen"]
    subprocess.run(make, cwd=ROOT, check=True)


def measure(suites):
    """Runs the suites; True when all have passed. What they reached counts in any case."""
    shutil.rmtree(COV / "counters", ignore_errors=True)
    (COV / "counters").mkdir(parents=True)
    os.chmod(COV / "counters", 0o1777)  # daemons that have dropped their user count, too
    env = dict(os.environ, L7MP_BUILD=BUILD, LLVM_PROFILE_FILE=str(COV / "counters/%m%c.profraw"))
    subprocess.run([COV / "l7mp-docgen", COV / "configuration.md", COV / "api.md"], cwd=ROOT, env=env, check=False,
                   capture_output=True)
    return subprocess.run([sys.executable, "selftests/run.py", "--mode", "fast", *suites], cwd=ROOT, env=env,
                          check=False).returncode == 0


def export():
    """llvm-cov's summary of each file, and the functions that were never entered: {file: (lines, functions, {names})}."""
    raw = sorted((COV / "counters").glob("*.profraw"))
    if not raw:
        sys.exit("coverage: nothing was counted")
    data = COV / "counters.profdata"
    subprocess.run(["llvm-profdata", "merge", "-sparse", "-failure-mode=all", "-o", data, *raw], check=True)
    objects = [COV / p for p in PROGRAMS]
    command = ["llvm-cov", "export", "-instr-profile", data, objects[0]] + [x for o in objects[1:] for x in ("-object", o)]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["data"][0]
    files = {}
    for f in answer["files"]:
        name = within(f["filename"])
        if name:
            s = f["summary"]
            files[name] = [(s["lines"]["covered"], s["lines"]["count"]), (s["functions"]["covered"], s["functions"]["count"]),
                           set()]
    entered = collections.Counter()
    for f in answer["functions"]:
        name = within(f["filenames"][0])
        if name in files:
            entered[name, f["name"].rpartition(":")[2], f["regions"][0][0]] += f["count"]
    for (name, function, line), n in entered.items():
        if not n:
            files[name][2].add((line, function))
    return files


def within(path):
    """The path below userspace/, whatever the tree's path was when ccache compiled it; None: not ours."""
    _, found, rest = path.rpartition("/userspace/")
    return f"userspace/{rest}" if found else path if path.startswith("userspace/") else None


def share(part):
    return 100 * part[0] / part[1] if part[1] else 100.0


def add(parts):
    parts = list(parts)
    return sum(p[0] for p in parts), sum(p[1] for p in parts)


def report(files):
    folders = collections.defaultdict(list)
    for name in files:
        folders[str(pathlib.PurePath(name).parent)].append(name)
    table = [f"{'folder':36}{'files':>6}{'lines':>8}{'reached':>9}{'functions':>11}{'reached':>9}"]
    for folder, names in sorted(folders.items()) + [("all", list(files))]:
        lines, functions = add(files[n][0] for n in names), add(files[n][1] for n in names)
        table.append(f"{folder:36}{len(names):>6}{lines[1]:>8}{share(lines):>8.1f}%{functions[1]:>11}{share(functions):>8.1f}%")
    rest = ["", "files, the least reached first (lines):"]
    for name in sorted(files, key=lambda n: share(files[n][0])):
        rest.append(f"  {share(files[name][0]):5.1f}%  {files[name][0][1] - files[name][0][0]:5} not reached  {name}")
    rest += ["", "functions that nothing enters:"]
    for name in sorted(files):
        rest += [f"  {name}:{line}: {function}" for line, function in sorted(files[name][2])]
    return table, rest


def main():
    suites = sys.argv[1:] or SUITES
    build()
    passed = measure(suites)
    table, rest = report(export())
    (COV / "report.txt").write_text("\n".join(table + rest) + "\n")
    print("\n".join(["", *table, *rest[1:14], f"the whole list: {BUILD}/report.txt"]))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
