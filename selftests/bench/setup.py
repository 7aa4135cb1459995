# SPDX-License-Identifier: MIT
"""How fast sessions get into the kernel: the offload engine alone, and whole sessions through the daemon.

The engine is driven by offload_flows.c, without sockets: set-ups and removals per second, what a counter poll
over the table costs the loop. Whole sessions are made by first datagrams from outside
(setup_load.c), which then looks for each flow in the pinned table: with one session in progress at a
time for the time that a session needs, with many for the rate. The daemon has one core, the
load the other, both with real-time priority: what else the machine does is not measured.
"""
import json
import subprocess

import fastpath_live as live
import run as bench

# Each has a descriptor of its own in the daemon: 20,000 are the limit of the machines that this is made for.
SESSIONS, ALONE, WINDOW = 10000, 1000, 32


def engine():
    p = subprocess.Popen([*live.FIRST, "taskset", "-c", live.CORE, str(bench.TOOLS / "offload_flows"), "50000"],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, err = p.communicate(timeout=60)
    finally:
        p.kill()
        p.wait()
        live.unpin(f"bench{p.pid}")  # the instance's name; both commands before it become it
    if p.returncode:
        raise RuntimeError(f"offload_flows: {err.strip()}")
    return json.loads(out)


def load(net, lane, mac, sessions, window, base):
    r = subprocess.run(["nsenter", f"--net=/run/netns/{net.src}", *live.FIRST, "taskset", "-c", live.OTHERS, str(bench.TOOLS / "setup_load"),
                        lane.s, mac, str(live.BPFFS / lane.instance), *map(str, (sessions, window, base))],
                       capture_output=True, text=True, timeout=120)
    if r.returncode:
        raise RuntimeError(f"setup_load: {r.stderr.strip()}")
    return json.loads(r.stdout)


def sessions(mode):
    """A daemon for each round: (alone, all at once)."""
    with live.LiveNet() as net:
        lane = net.lane("sessions")
        mac = json.loads(bench.sh(f"ip -j -n {lane.ns} link show in0").stdout)[0]["address"]
        net.start(lane, mode, live.CORE, live.FIRST)
        one = load(net, lane, mac, ALONE, 1, 0)
        return one, load(net, lane, mac, SESSIONS - ALONE, WINDOW, ALONE)


def guarded(what, *args):
    try:
        return what(*args)
    except (RuntimeError, subprocess.SubprocessError) as e:
        bench.problem(f"setup: {e}")
        return None


def run_suite(a):
    bench.make_bpf()
    engines = [guarded(engine) for _ in range(a.rounds)]
    made = [guarded(sessions, "tc") for _ in range(a.rounds)]

    def column(rows, key, scale=1.0):
        return [r[key] * scale if r else None for r in rows]
    alone, many = ([m[i] if m else None for m in made] for i in (0, 1))
    rates = {"engine set-ups": column(engines, "setups_per_s", 1e-3), "engine removals": column(engines, "removals_per_s", 1e-3),
             "sessions": column(many, "sessions_per_s", 1e-3)}
    bench.show(f"Set-ups: the engine alone (50,000 sessions); whole sessions until all of {SESSIONS:,} are fast", "1,000/s", rates, None)
    poll = {"poll, 100,000": column(engines, "poll_ms_per_100k"), "longest turn": column(engines, "longest_turn_ms")}
    bench.show("The loop's time for a counter poll of the table, and its longest turn then", "ms", poll, None, "less")
    times = {f"{name}, {key}": column(rows, f"{key}_us") for name, rows in (("alone", alone), (f"{WINDOW} at once", many))
             for key in ("p50", "p99", "max")}
    bench.show("From a session's first datagram until its flow in the table carries packets", "µs", times, None, "less")
    resent = [r["resent"] for r in alone + many if r]
    looks = [r["look_ns"] for r in alone + many if r]
    print(f"  by looking from outside, which takes {max(looks, default=0) / 1000:.1f} µs a look at most; "
          f"first datagrams sent again: {sum(resent)}")
    print("\nAims (set-ups)")
    ones = [1] * a.rounds
    bench.aim("engine set-ups, 1,000/s", rates["engine set-ups"], ones, ">=", 50)
    bench.aim("poll of 100,000 entries, ms", poll["poll, 100,000"], ones, "<=", 50)
    for key in times:
        bench.aim(f"first datagram to flow, {key}, ms", [v and v / 1000 for v in times[key]], ones, "<=", 5)
    return {"engine": engines, "alone": alone, "many": many}
