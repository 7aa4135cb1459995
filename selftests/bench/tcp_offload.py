# SPDX-License-Identifier: MIT
"""TCP sessions in the kernel, against routing with nft DNAT (the limit), HAProxy with splicing, nginx, and our relay in
user space with and without splice(2). All over veth, in one run; the relays have one core, the kernel both."""
import json
import os
import sys

bench = sys.modules["__main__"]
TARGET = f"{bench.GW_IN}:{bench.RELAY_PORT}"
SINK = f"{bench.DST}:{bench.SINK_PORT}"
CORES = "0,1"


def ours():
    listener = {"name": "bench", "spec": {"protocol": "TCP", "address": bench.GW_IN, "port": bench.RELAY_PORT},
                "rules": [{"action": {"route": {"destination": {
                    "name": "sink", "spec": {"protocol": "TCP", "port": bench.SINK_PORT},
                    "endpoints": [{"spec": {"address": bench.DST}}]}}}}]}
    admin = {"log_level": "warn", "instance": "benchtcp", "offload_ifs": ["vin", "vout"], "offload_mode": "tc",
             "limits": {"new_sessions_per_second": 1000000}}
    relay = bench.Relay("l7mp in kernel", [str(bench.BUILD / "l7mp-proxy"), "-c", "@DIR@/c.json"],
                        {"c.json": json.dumps({"admin": admin, "listeners": [listener]})}, settle=1.0)
    # `ip netns exec` mounts a /sys of its own and hides bpffs.
    relay.enter = ["nsenter", f"--net=/run/netns/{bench.NS['gw']}"]
    return relay


class Routing:
    """The kernel alone: nft DNAT."""
    name = "nft DNAT"

    def __enter__(self):
        gw = f"ip netns exec {bench.NS['gw']}"
        rule = (f"table ip b {{ chain pre {{ type nat hook prerouting priority -100; ip daddr {bench.GW_IN} "
                f"tcp dport {bench.RELAY_PORT} dnat to {SINK}; }}; }}")
        bench.sh(f"{gw} sysctl -qw net.ipv4.ip_forward=1 && {gw} nft '{rule}'")
        return self

    def __exit__(self, *_):
        gw = f"ip netns exec {bench.NS['gw']}"
        bench.sh(f"{gw} nft delete table ip b; {gw} sysctl -qw net.ipv4.ip_forward=0", check=False)


def busy_seconds():
    """Of all processors: what happens in interrupts belongs to no process."""
    with open("/proc/stat") as f:
        user, nice, system, _, _, irq, softirq = map(int, f.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def run_suite(a):
    def load(mode, n):
        return bench.load("tcp_load", bench.NS["src"], bench.NS["dst"], TARGET, SINK, mode, n, a.seconds, cores=CORES)

    cpu = {}

    def bulk(n):
        def run(relay):
            before = busy_seconds()
            gbps = load("bulk", n)["gbps"]
            used = busy_seconds() - before
            cpu.setdefault(n, {}).setdefault(relay.name, []).append(used / (gbps * a.seconds / 8))
            return gbps
        return run

    def ping(which):
        return lambda _: load("ping", 1)[which] / 1000
    relays = [Routing, ours, lambda: bench.ours("TCP", "l7mp splice(2)"), lambda: bench.ours("TCP", "l7mp copying", max_pipes=0),
              bench.haproxy, lambda: bench.nginx(False)]
    works = {"bulk 1": bulk(1), "bulk 8": bulk(8), "bulk 64": bulk(64), "p50": ping("rtt_p50_ns"), "p99": ping("rtt_p99_ns"),
             "setup": lambda _: load("setup", 1)["sessions_per_s"]}
    results = bench.measure(relays, works, a.rounds)
    for n in (1, 8, 64):
        bench.show(f"TCP, {n} connections", "Gb/s", results[f"bulk {n}"], "nft DNAT")
        bench.show(f"Processor time, {n} connections, all that ran (ends included)", "s/GB", cpu[n], "nft DNAT", "less")
    bench.show("TCP 1-byte round trip p50", "µs", results["p50"], "nft DNAT", "less")
    bench.show("TCP 1-byte round trip p99", "µs", results["p99"], "nft DNAT", "less")
    bench.show("TCP connect, a byte there and back, close, one after the other", "1/s", results["setup"], "nft DNAT")
    kernel, limit = "l7mp in kernel", "nft DNAT"
    print("\nAims (local ends over veth)")
    for n in (1, 8):
        bench.aim(f"bulk to nft DNAT, {n}", results[f"bulk {n}"][kernel], results[f"bulk {n}"][limit], ">=", 0.9)
        bench.aim(f"processor time to nft DNAT's, {n}", cpu[n][kernel], cpu[n][limit], "<=", 1.1)
        bench.aim(f"processor time to HAProxy's, {n}", cpu[n][kernel], cpu[n]["haproxy"], "<=", 0.34)
        bench.aim(f"splice(2) to copying, {n}", results[f"bulk {n}"]["l7mp splice(2)"], results[f"bulk {n}"]["l7mp copying"], ">=", 1.5)
    bench.aim("round trip p50 to nft DNAT's", results["p50"][kernel], results["p50"][limit], "<=", 1.1)
    bench.aim("set-ups to user space's", results["setup"][kernel], results["setup"]["l7mp splice(2)"], ">=", 0.95)
    return results
