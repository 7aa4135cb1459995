# SPDX-License-Identifier: MIT
"""WebSocket: bulk and small messages through a relay in both roles, against an older l7mp-proxy (BENCH_BASE) in the
same rounds: the last one that had frames of its own, before libwebsockets, is what the aims are about."""
import json
import os
import pathlib
import subprocess
import sys

import run as bench

BASE = os.environ.get("BENCH_BASE")
LOAD = str(pathlib.Path(__file__).with_name("ws_load.py"))
BULK, SMALL = 65536, 200
# What is measured: kind of load, offset of the port, size of messages, what it shows.
WORKS = {
    "TCP to WS, bulk": ("tcp-send", 0, BULK),
    "WS to TCP, bulk, the client's role receives": ("tcp-take", 1, BULK),
    "200-byte messages forward": ("ws-send", 2, SMALL),
    "200-byte messages back": ("ws-take", 2, SMALL),
    "64 KiB messages forward": ("ws-send", 2, BULK),
}
AIMS = {"TCP to WS, bulk": 0.7, "200-byte messages forward": 1.5, "200-byte messages back": 1.0}


def config():
    def listener(name, protocol, offset, path):
        up = {"spec": {"protocol": "WebSocket", "port": bench.SINK_PORT, "path": path},
              "endpoints": [{"spec": {"address": bench.DST}}]}
        return {"name": name, "spec": {"protocol": protocol, "address": bench.GW_IN, "port": bench.RELAY_PORT + offset},
                "rules": [{"action": {"route": {"destination": up}}}]}
    return {"admin": {"log_level": "error", "offload": "disable"},
            "listeners": [listener("send", "TCP", 0, "/take"), listener("take", "TCP", 1, f"/give/{BULK}"),
                          listener("ws", "WebSocket", 2, "/")]}


def relay(name, program):
    return bench.Relay(name, [str(program), "-c", "@DIR@/c.json"], {"c.json": json.dumps(config())})


def work(kind, offset, size, seconds):
    def go(_):
        out = subprocess.run(["ip", "netns", "exec", bench.NS["src"], "taskset", "-c", "1", sys.executable, LOAD, kind, bench.GW_IN,
                              str(bench.RELAY_PORT + offset), str(size), str(seconds)],
                             capture_output=True, text=True, timeout=60 + seconds)
        if out.returncode:
            raise RuntimeError(out.stderr.strip()[-500:])
        rate = float(out.stdout)
        return rate / 1e6 if size == BULK else rate / size / 1000
    return go


def run_suite(a):
    if BASE and not os.access(BASE, os.X_OK):
        raise RuntimeError(f"BENCH_BASE={BASE}: no program")
    sink = subprocess.Popen(["ip", "netns", "exec", bench.NS["dst"], "taskset", "-c", "1", sys.executable, LOAD, "sink", bench.DST,
                             str(bench.SINK_PORT)], stdout=subprocess.PIPE, text=True)
    try:
        sink.stdout.readline()
        relays = [lambda: relay("l7mp", bench.BUILD / "l7mp-proxy")]
        if BASE:
            relays.append(lambda: relay("older", BASE))
        results = bench.measure(relays, {name: work(*w, a.seconds) for name, w in WORKS.items()}, a.rounds)
    finally:
        sink.terminate()
        sink.wait()
    for name, (_, _, size) in WORKS.items():
        bench.show(f"WebSocket: {name}", "MB/s" if size == BULK else "1,000 messages/s", results[name], "older" if BASE else None)
    print("\nAims (WebSocket)")
    if not BASE:
        print("  BENCH_BASE was not given: nothing to compare with")
    else:
        for name, least in AIMS.items():
            bench.aim(f"{name}, l7mp to older", results[name]["l7mp"], results[name]["older"], ">=", least)
    return results
