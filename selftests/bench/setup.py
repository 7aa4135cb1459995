# SPDX-License-Identifier: MIT
"""How fast sessions get into the kernel: the offload engine alone, and whole sessions through the daemon.

The engine is driven by offload_flows.c, without sockets: set-ups and removals per second, what a sweep
over the table costs the loop. Whole sessions are made by first datagrams from outside
(setup_load.c), which then looks for each flow in the pinned table: with one session under way at a
time for the time that a session needs, with many for the rate. The daemon has one core, the
load the other.
"""
import json
import subprocess

import fastpath_live as live
import run as bench

# Each has a descriptor of its own in the daemon: 20,000 are the limit of the machines that this is made for.
SESSIONS, ALONE, WINDOW = 10000, 500, 256


def engine():
    r = subprocess.run(["taskset", "-c", live.CORE, str(bench.TOOLS / "offload_flows"), "50000"], capture_output=True,
                       text=True, timeout=60)
    if r.returncode:
        raise RuntimeError(f"offload_flows: {r.stderr.strip()}")
    return json.loads(r.stdout)


def load(net, lane, mac, sessions, window, base):
    r = subprocess.run(["nsenter", f"--net=/run/netns/{net.src}", "taskset", "-c", live.OTHERS, str(bench.TOOLS / "setup_load"),
                        lane.s, mac, str(live.BPFFS / lane.instance / "flows"), *map(str, (sessions, window, base))],
                       capture_output=True, text=True, timeout=120)
    if r.returncode:
        raise RuntimeError(f"setup_load: {r.stderr.strip()}")
    return json.loads(r.stdout)


def sessions(a, mode):
    """A daemon for each round: (alone, all at once)."""
    with live.LiveNet() as net:
        lane = net.lane("sessions")
        mac = json.loads(bench.sh(f"ip -j -n {lane.ns} link show in0").stdout)[0]["address"]
        net.start(lane, mode, core=live.CORE)
        one = load(net, lane, mac, ALONE, 1, 0)
        return one, load(net, lane, mac, SESSIONS - ALONE, WINDOW, ALONE)


def guarded(what, *args):
    try:
        return what(*args)
    except (RuntimeError, subprocess.SubprocessError) as e:
        print(f"  {e}")
        return None


def run_suite(a):
    bench.make_bpf()
    engines = [guarded(engine) for _ in range(a.rounds)]
    made = [guarded(sessions, a, "tc") for _ in range(a.rounds)]

    def column(rows, key, scale=1.0):
        return [r[key] * scale if r else None for r in rows]
    alone, many = ([m[i] if m else None for m in made] for i in (0, 1))
    rates = {"engine set-ups": column(engines, "setups_per_s", 1e-3), "engine removals": column(engines, "removals_per_s", 1e-3),
             "sessions": column(many, "sessions_per_s", 1e-3)}
    bench.show(f"Set-ups: the engine alone (50,000 sessions), whole sessions until all of {SESSIONS:,} are fast", "1,000/s",
               rates, "engine set-ups")
    times = {"sweep, 100,000": column(engines, "sweep_ms_per_100k"), "longest turn": column(engines, "longest_turn_ms"),
             "alone, p50": column(alone, "p50_us", 1e-3), "alone, p99": column(alone, "p99_us", 1e-3),
             "alone, max": column(alone, "max_us", 1e-3), f"{WINDOW} at once, p50": column(many, "p50_us", 1e-3),
             f"{WINDOW} at once, p99": column(many, "p99_us", 1e-3), f"{WINDOW} at once, max": column(many, "max_us", 1e-3)}
    bench.show("Sweep over the table; a session's first datagram to its flow in the table", "ms", times, "sweep, 100,000", "less")
    resent = [r["resent"] for r in alone + many if r]
    print(f"  first datagrams sent again: {sum(resent)}")
    print("\nAims (set-ups)")
    ones = [1] * a.rounds
    bench.aim("engine set-ups, 1,000/s", rates["engine set-ups"], ones, ">=", 50)
    bench.aim("sweep of 100,000 entries, ms", times["sweep, 100,000"], ones, "<=", 50)
    bench.aim("first datagram to flow, alone, p99, ms", times["alone, p99"], ones, "<=", 5)
    bench.aim("first datagram to flow, alone, max, ms", times["alone, max"], ones, "<=", 5)
    bench.aim(f"first datagram to flow, {WINDOW} at once, p99, ms", times[f"{WINDOW} at once, p99"], ones, "<=", 5)
    return {"engine": engines, "alone": alone, "many": many}
