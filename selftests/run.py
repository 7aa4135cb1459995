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

Files run beside each other, except those whose first lines say "l7mp-test: alone". Most wait most of
the time, so there are twice as many as cores, and more as long as the cores are idle. What took longest
the last time (build/test-times.json) begins first; without a last time, what says "l7mp-test: long" or "long=SECONDS". With
"l7mp-test: parts=N" a file's tests (unittest) run in N processes, which are files of their own to all of this.
A file's line "l7mp-test: timeout=SECONDS" raises its limit, which is longer where the load is above the number of cores, "l7mp-test: full" keeps it for make test-full,
"l7mp-test: cluster" (it needs an API server of Kubernetes) for make test-full, test-mesh and test-mesh-fast.
"""
import argparse
import collections
import concurrent.futures
import functools
import json
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SUITES = ["unit", "bpf", "api", "traffic", "examples", "netns", "matrix", "faults", "fuzz", "mesh", "packages", "debian13", "vm"]
# Runs its arguments in a network namespace of their own.
ISOLATE = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
TIMES = ROOT / "build/test-times.json"
CORES = max(2, len(os.sched_getaffinity(0)))
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
            parts = int(say.get("parts", 1))
            for i in range(parts if wanted(say, mode, only) else 0):
                yield (suite, script.name + (f"[{i + 1}/{parts}]" if parts > 1 else ""), [str(script)],
                       dict(say, part=f"{i}/{parts}"))


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


def overload():
    """How many tasks want a processor for each that there is, at least 1."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def output_within(process, limit):
    """The output of a process that ends within `limit` seconds, more where the machine is busy with other work; else None."""
    progress = 0.0  # seconds that the process would have had on an idle machine
    while progress < limit:
        begin, share = time.monotonic(), 1 / overload()
        try:
            return process.communicate(timeout=min(10.0, (limit - progress) / share))[0]
        except subprocess.TimeoutExpired:
            progress += (time.monotonic() - begin) * share
    return None


def run_one(suite, name, command, say, mode):
    result = Result(f"{suite}/{name}")
    if "host-network" not in say and can_isolate():
        command = ISOLATE + command
    env = dict(os.environ, CMOCKA_MESSAGE_OUTPUT="TAP", L7MP_TEST_MODE=mode,
               ASAN_OPTIONS="detect_leaks=1:abort_on_error=0:detect_stack_use_after_return=1",
               UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1",
               PYTHONPATH=str(ROOT / "selftests/lib"), PYTHONDONTWRITEBYTECODE="1", LC_ALL="C.UTF-8")
    if "part" in say:
        env["L7MP_TEST_PART"] = say["part"]
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
    out = output_within(p, limit)
    if out is None:
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


def expected(jobs):
    """How long each of them may take, for the order only."""
    try:
        last = json.loads(TIMES.read_text())
    except (OSError, ValueError):
        last = {}
    first = {False: 5, True: 60}  # "long" without a number
    return {f"{j[0]}/{j[1]}": last.get(f"{j[0]}/{j[1]}", float(first.get(j[3].get("long", False), j[3].get("long")))) for j in jobs}


def remember(results):
    """How long they took, for the next run; of others it still holds what was."""
    try:
        last = json.loads(TIMES.read_text())
    except (OSError, ValueError):
        last = {}
    last.update((r.name, round(r.seconds, 1)) for r in results)
    try:
        TIMES.parent.mkdir(exist_ok=True)
        TIMES.write_text(json.dumps(last, indent=0, sort_keys=True) + "\n")
    except OSError as e:
        print(f"run.py: the times are not kept: {e}", file=sys.stderr)


class Width:
    """How many files run at once: `least`, and more as long as the cores are idle and memory is left."""

    ROOM_KB = 1 << 20

    def __init__(self, least, most):
        self.now = self.least = min(least, most)
        self.most = most
        self.at, self.before = time.monotonic(), self.ticks()

    @staticmethod
    def ticks():
        """(idle, all) of the machine's processors so far. What is niced gives way, and counts as idle."""
        with open("/proc/stat") as f:
            n = [int(x) for x in f.readline().split()[1:9]]
        return n[1] + n[3], sum(n)

    @classmethod
    def room(cls):
        with open("/proc/meminfo") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("MemAvailable")) > cls.ROOM_KB

    def adjust(self):
        """One more or less a second, so that the effect of the last one is seen."""
        if time.monotonic() < self.at + 1:
            return
        ticks = self.ticks()
        idle, total = (a - b for a, b in zip(ticks, self.before))
        self.at, self.before = time.monotonic(), ticks
        share = idle / total if total else 0
        if share > 0.2 and self.now < self.most and self.room():
            self.now += 1
        elif share < 0.05 and self.now > self.least:
            self.now -= 1


def run_beside(jobs, mode, most, verbose):
    """Runs them beside each other, those first that take longest; the results, as they come."""
    times = expected(jobs)
    waiting = collections.deque(sorted(jobs, key=lambda j: -times[f"{j[0]}/{j[1]}"]))
    width = Width(2 * CORES, most)
    running, results = set(), []
    with concurrent.futures.ThreadPoolExecutor(most) as pool:
        while waiting or running:
            while waiting and len(running) < width.now:
                running.add(pool.submit(run_one, *waiting.popleft(), mode))
            done, running = concurrent.futures.wait(running, 0.5, concurrent.futures.FIRST_COMPLETED)
            for d in done:
                results.append(d.result())
                report(results[-1], verbose)
            width.adjust()
    return results


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
    ap.add_argument("-j", type=int, default=6 * CORES, metavar="N", help="at most N files at once (default: 6 a core)")
    ap.add_argument("suites", nargs="*", default=[])
    args = ap.parse_args()
    # A shell's background jobs ignore SIGINT, and what they start inherits that: tests send it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    jobs = [j for j in discover(args.mode, args.suites or SUITES, args.only) if any(k in f"{j[0]}/{j[1]}" for k in args.k.split(","))]
    beside = [j for j in jobs if "alone" not in j[3]]
    alone = [j for j in jobs if "alone" in j[3]]
    start = time.monotonic()
    results = run_beside(beside, args.mode, args.j, args.v)
    for j in alone:
        results.append(run_one(*j, args.mode))
        report(results[-1], args.v)
    remember(results)
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
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"\n{len(results)} files: {sum(r.seconds for r in results):.0f} s together, in {time.monotonic() - start:.0f} s; "
          f"{used.ru_utime + used.ru_stime:.0f} s of processor time")
    print(f"{sum(len(r.passed) for r in results)} passed, {len(failed)} failed, {len(skipped)} skipped")
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
