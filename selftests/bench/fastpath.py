# SPDX-License-Identifier: MIT
"""The fast path from socket to socket, over veth, against the kernel's own ways.

Local senders (the case that is worst for XDP and best for user space): a packet's whole way through a
gateway namespace. Rows: a bare tc redirect that looks nothing up, our tc fast path, the
kernel's forwarding with nftables DNAT and masquerading, our slow path.
"""
import json
import os

import run as bench

# Sender, relay and receiver take turns on one core, so that the figure is the sum of what they cost; on
# more the sockets' own cores are what limits. With real-time priority, and the same for all three,
# other work on the machine is not measured, and what waits is relayed in batches.
CORES, FIRST = str(max(os.sched_getaffinity(0))), ("chrt", "-f", "1")


def gw(command, check=True):
    return bench.sh(f"ip netns exec {bench.NS['gw']} {command}", check)


class Kernel:
    """Something in the gateway that is no process: a context manager with the face of a Relay."""

    def __init__(self, name, up, down, target=None):
        self.name, self.up, self.down, self.target = name, up, down, target

    def __enter__(self):
        for c in self.up:
            gw(c)
        return self

    def __exit__(self, *_):
        for c in self.down:
            gw(c, check=False)


def bare():
    # Unchanged packets reach the sink because it has the link address that they are sent to, and
    # they are sent to the sink's own address.
    return Kernel("bare tc", ["tc qdisc add dev vin clsact",
                              f"tc filter add dev vin ingress bpf da obj {bench.TOOLS}/bare_redirect.bpf.o sec tc"],
                  ["tc qdisc del dev vin clsact"], target=f"{bench.DST}:{bench.SINK_PORT}")


def nat():
    rules = ("table ip b { chain pre { type nat hook prerouting priority -100; "
             f"ip daddr {bench.GW_IN} udp dport {bench.RELAY_PORT} dnat to {bench.DST}:{bench.SINK_PORT}; }}; "
             "chain post { type nat hook postrouting priority 100; oifname \"vout\" masquerade; }; }")
    return Kernel("kernel NAT", ["sysctl -qw net.ipv4.ip_forward=1", f"nft '{rules}'"],
                  ["nft delete table ip b", "sysctl -qw net.ipv4.ip_forward=0"])


def ours(name, offload):
    listener = {"name": "bench", "spec": {"protocol": "UDP", "address": bench.GW_IN, "port": bench.RELAY_PORT},
                "rules": [{"action": {"route": {"destination": {
                    "name": "sink", "spec": {"protocol": "UDP", "port": bench.SINK_PORT},
                    "endpoints": [{"spec": {"address": bench.DST}}]}}}}]}
    admin = {"log_level": "warn", "instance": f"bench{offload}", "limits": {"new_sessions_per_second": 1000000}}
    admin.update({"offload_ifs": ["vin", "vout"], "offload_mode": offload} if offload else {"offload": "disable"})
    relay = bench.Relay(name, [*FIRST, str(bench.BUILD / "l7mp-proxy"), "-c", "@DIR@/c.json"],
                        {"c.json": json.dumps({"admin": admin, "listeners": [listener]})}, settle=1.0)
    # `ip netns exec` mounts a /sys of its own and hides bpffs.
    relay.cores = CORES
    relay.enter = ["nsenter", f"--net=/run/netns/{bench.NS['gw']}"]
    return relay


def prepare():
    bench.make_bpf()
    mac = gw("cat /sys/class/net/vin/address").stdout.strip()
    bench.sh(f"ip -n {bench.NS['dst']} link set vdst address {mac}")
    # Neighbours are known before a measurement, as they are on a machine that runs; the bare program lets no ARP pass.
    for near, dev, address, far, peer in (("src", "vsrc", bench.GW_IN, "gw", "vin"), ("dst", "vdst", bench.GW_OUT, "gw", "vout"),
                                          ("gw", "vin", bench.SRC, "src", "vsrc"), ("gw", "vout", bench.DST, "dst", "vdst")):
        mac = bench.sh(f"ip netns exec {bench.NS[far]} cat /sys/class/net/{peer}/address").stdout.strip()
        bench.sh(f"ip -n {bench.NS[near]} neigh replace {address} lladdr {mac} dev {dev} nud permanent")


def run_suite(a):
    prepare()

    def work(flows, size):
        def run(relay):
            target = getattr(relay, "target", None) or f"{bench.GW_IN}:{bench.RELAY_PORT}"
            args = (bench.NS["src"], bench.NS["dst"], target, f"{bench.DST}:{bench.SINK_PORT}", flows, size)
            bench.load("udp_load", *args, 0.3, 256, cores=CORES, first=FIRST)
            return bench.load("udp_load", *args, a.seconds, 256, cores=CORES, first=FIRST)["pps"] / 1000
        return run

    def latency(which):
        def run(relay):
            target = getattr(relay, "target", None) or f"{bench.GW_IN}:{bench.RELAY_PORT}"
            return bench.load("udp_load", bench.NS["src"], bench.NS["dst"], target, f"{bench.DST}:{bench.SINK_PORT}",
                              1, 200, a.seconds, 1, cores=CORES, first=FIRST)[which] / 1000
        return run
    relays = [bare, lambda: ours("l7mp fast (tc)", "tc"), nat, lambda: ours("l7mp slow", "")]
    works = {"1 flow, 200 B": work(1, 200), "1,000 flows, 200 B": work(1000, 200), "1 flow, 64 B": work(1, 64),
             "1 flow, 1,400 B": work(1, 1400), "p50": latency("p50_ns"), "p99": latency("p99_ns")}
    results = bench.measure(relays, works, a.rounds)
    for w in works:
        if w in ("p50", "p99"):
            bench.show(f"Fast path over veth, one-way latency {w}", "µs", results[w], "kernel NAT", "less")
        else:
            bench.show(f"Fast path over veth from local senders: {w}", "kpps", results[w], "bare tc")
    fast, slow, kernel = "l7mp fast (tc)", "l7mp slow", "kernel NAT"
    print("\nAims (local senders over veth)")
    for w in (w for w in works if w not in ("p50", "p99")):
        bench.aim(f"tc to our slow path, kpps: {w}", results[w][fast], results[w][slow], ">=", 2.5)
    for w in ("p50", "p99"):
        bench.aim(f"latency {w}, tc to kernel NAT", results[w][fast], results[w][kernel], "<=", 1)
    return results
