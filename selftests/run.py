#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Runs the suites and closes with "N passed, N failed, N skipped".

A test file is a program that prints TAP (https://testanything.org): one line
"ok N - what" or "not ok N - what" a test, "ok N - what # SKIP reason" for one
that could not run. Unit tests are cmocka binaries, BPF tests C programs (both built from
test_*.c), all others are executable scripts. A file that ends with another status than 0 without a "not ok", prints
no test at all or takes too long counts as one failure.

Each file runs in a network namespace of its own, in which only lo is up, so that no port of the host
or of another file is in its way; without the right to make one it runs in the host's. A file whose
first lines say "l7mp-test: host-network" needs that one (it installs packages).

Suites run beside each other on the machine's cores, except files whose first lines
say "l7mp-test: alone"; those that say "l7mp-test: long" begin first. A file's line "l7mp-test: timeout=SECONDS" raises its
limit, "l7mp-test: full" keeps it for make test-full, "l7mp-test: cluster" (it needs an API server of Kubernetes) for
make test-full, test-mesh and test-mesh-fast.
"""
import argparse
import concurrent.futures
import functools
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SUITES = ["unit", "bpf", "api", "traffic", "examples", "netns", "matrix", "faults", "fuzz", "mesh", "packages", "debian13", "vm"]
# Runs its arguments in a network namespace of their own.
ISOLATE = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
LINE = re.compile(r"^(not )?ok\b\s*(\d+)?\s*-?\s*(.*?)(?:\s*#\s*(SKIP|TODO)\b\s*(.*))?$", re.I)


class Result:
    def __init__(self, name):
        self.name = name
        self.passed, self.failed, self.skipped = [], [], []
        self.output = ""
        self.seconds = 0.0


def directives(path):
    """What a test file says of itself in its first 20 lines."""
    found = {}
    try:
        with open(path, "r", errors="replace") as f:
            for _, line in zip(range(20), f):
                m = re.search(r"l7mp-test:\s*(.*)", line)
                if m:
                    for word in m.group(1).replace("*/", "").split():
                        key, _, value = word.partition("=")
                        found[key] = value or True
    except OSError:
        pass
    return found


def wanted(say, mode, only):
    """Is a file that says this of itself to run? `only`: a directive that it must have, or None."""
    if only:
        return only in say
    return mode == "full" or not {"full", "cluster"} & set(say)


def discover(mode, suites, only):
    for suite in suites:
        folder = ROOT / "selftests" / suite
        if suite == "unit":
            for src in sorted(folder.glob("test_*.c")):
                if wanted(directives(src), mode, only):
                    yield suite, src.stem, [str(ROOT / os.environ.get("L7MP_BUILD", "build/asan") / "unit" / src.stem)], directives(src)
            continue
        for src in sorted(folder.glob("test_*.c")) if suite == "bpf" else ():
            say = directives(src)
            if wanted(say, mode, only):
                yield suite, src.stem, [str(ROOT / "build/bpf-tests" / src.stem)], say
        for script in sorted(p for p in folder.glob("test_*") if p.suffix in ("", ".py") and p.is_file()):
            say = directives(script)
            if wanted(say, mode, only):
                yield suite, script.name, [str(script)], say


def parse(result, text, status, timed_out):
    for line in text.splitlines():
        m = LINE.match(line)
        if not m:
            continue
        bad, _, what, directive, reason = m.groups()
        if directive and directive.upper() == "SKIP":
            result.skipped.append(f"{what or result.name}: {reason or 'no reason given'}")
        elif bad:
            result.failed.append(what)
        else:
            result.passed.append(what)
    if timed_out:
        result.failed.append("(took too long and was ended)")
    elif status != 0 and not result.failed:
        result.failed.append(f"(ended with status {status})")
    elif not (result.passed or result.failed or result.skipped):
        result.failed.append("(printed no test)")


@functools.cache
def can_isolate():
    return subprocess.run(ISOLATE + ["true"], capture_output=True).returncode == 0


def run_one(suite, name, command, say, mode):
    result = Result(f"{suite}/{name}")
    if "host-network" not in say and can_isolate():
        command = ISOLATE + command
    env = dict(os.environ, CMOCKA_MESSAGE_OUTPUT="TAP", L7MP_TEST_MODE=mode,
               ASAN_OPTIONS="detect_leaks=1:abort_on_error=0:detect_stack_use_after_return=1",
               UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1",
               PYTHONPATH=str(ROOT / "selftests/lib"), PYTHONDONTWRITEBYTECODE="1", LC_ALL="C.UTF-8")
    limit = float(say.get("timeout", 300 if mode == "fast" else 600))
    if mode == "full" and "timeout_full" in say:
        limit = float(say["timeout_full"])
    if os.environ.get("L7MP_VM"):  # scripts/vmtest.sh: emulated processors
        limit *= 4
    start = time.monotonic()
    timed_out = False
    try:
        p = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env,
                             stdin=subprocess.DEVNULL, cwd=ROOT, start_new_session=True)
    except OSError as e:
        result.failed.append(f"(can't be started: {e})")
        return result
    try:
        out, _ = p.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        timed_out = True
        os.killpg(p.pid, signal.SIGTERM)  # our own process group only
        try:
            out, _ = p.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(p.pid, signal.SIGKILL)
            out, _ = p.communicate()
    result.seconds = time.monotonic() - start
    result.output = out.decode("utf-8", "replace")
    parse(result, result.output, p.returncode, timed_out)
    return result


def report(result, verbose):
    state = "FAIL" if result.failed else ("skip" if not result.passed and result.skipped else "ok")
    print(f"{state:4} {result.name}: {len(result.passed)} passed, {len(result.failed)} failed, "
          f"{len(result.skipped)} skipped ({result.seconds:.1f} s)", flush=True)
    if result.failed or verbose:
        lines = result.output.splitlines()
        for line in lines[-80:]:
            print(f"     | {line}")
        for what in result.failed:
            print(f"     FAILED {what}", flush=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--mode", choices=["fast", "full"], default="fast")
    ap.add_argument("-k", default="", help="only files whose suite/name contains this, or one of TEXT,TEXT...")
    ap.add_argument("--only", metavar="DIRECTIVE", help="only files that say this of themselves: cluster, full, ...")
    ap.add_argument("-v", action="store_true", help="show the output of passing files too")
    # Most files wait most of the time, for time-outs above all.
    ap.add_argument("-j", type=int, default=2 * max(2, os.cpu_count() or 2))
    ap.add_argument("suites", nargs="*", default=[])
    args = ap.parse_args()
    # A shell's background jobs ignore SIGINT, and what they start inherits that: tests send it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    jobs = [j for j in discover(args.mode, args.suites or SUITES, args.only) if any(k in f"{j[0]}/{j[1]}" for k in args.k.split(","))]
    beside = sorted((j for j in jobs if "alone" not in j[3]), key=lambda j: "long" not in j[3])
    alone = [j for j in jobs if "alone" in j[3]]
    results = []
    with concurrent.futures.ThreadPoolExecutor(args.j) as pool:
        todo = [pool.submit(run_one, *j, args.mode) for j in beside]
        for done in concurrent.futures.as_completed(todo):
            results.append(done.result())
            report(results[-1], args.v)
    for j in alone:
        results.append(run_one(*j, args.mode))
        report(results[-1], args.v)
    # What failed beside others on a busy machine is run once more by itself, and said so: a file
    # that passes only then depends on time, and must be corrected.
    again = []
    by_name = {f"{j[0]}/{j[1]}": j for j in beside} if args.j > 1 else {}
    for i, r in enumerate(results):
        if r.failed and r.name in by_name:
            second = run_one(*by_name[r.name], args.mode)
            report(second, args.v)
            if not second.failed:
                again.append(f"{r.name}: {'; '.join(r.failed)}")
            results[i] = second
    if again:
        print("\npassed only when run again, alone:")
        for what in again:
            print(f"  {what}")
    skipped = [s for r in results for s in r.skipped]
    if skipped:
        print("\nskipped:")
        for reason in skipped:
            print(f"  {reason}")
    failed = [f"{r.name}: {f}" for r in results for f in r.failed]
    if failed:
        print("\nfailed:")
        for f in failed:
            print(f"  {f}")
    print()
    print(f"{sum(len(r.passed) for r in results)} passed, {len(failed)} failed, {len(skipped)} skipped")
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
