# SPDX-License-Identifier: MIT
"""The fast path's whole way with live frames: as a NIC would hand them over.

Frames are made by BPF_PROG_TEST_RUN (live_gen.c) and redirected into a veth; they come out at the
gateway's interface, at its native XDP hook or as skbs for tc and the stack, leave by another
veth and are counted and dropped at its far end. Generator, relay and sink are on one core; a figure
is the wall time from the first frame made to the last one counted, by the number of frames.

Every way has a gateway of its own ("lane") that stands during the whole suite, so that a round,
one run of every row, is short and its ratios are taken close together. A row that did
not take the path it claims (counters) or has lost packets is no result.
"""
import json
import os
import pathlib
import subprocess
import sys
import time

import run as bench

# What is on the way at most, and the batch: a veth's queue takes 256.
WINDOW, BATCH = 192, 64
BARE_PORT, SINK_PORT, FLOWS = 9000, 16000, 1000
CPUS = sorted(os.sched_getaffinity(0))
CORE, OTHERS = str(CPUS[-1]), ",".join(map(str, CPUS[:-1] or CPUS))
# Real-time, so that other work on the machine is not measured with them.
FIRST, BEFORE = ("chrt", "-f", "1"), ("chrt", "-f", "2")
BPFFS = pathlib.Path("/sys/fs/bpf/l7mp")

REFERENCES = {"drop": None, "bare XDP": "xdp_redirect", "XDP rewrite": "xdp_rewrite", "XDP rewrite + FIB": "xdp_rewrite_fib",
              "bare tc": "tc_redirect", "tc rewrite": "tc_rewrite", "bare tc, local": "tc_redirect", "bare tc, other": "tc_redirect"}
PACKET = ("l7mp packet XDP", "l7mp packet tc", "l7mp packet tc, all frames", "l7mp packet slow")
# The sink sees the packets as they were made.
UNCHANGED = ("drop", "bare XDP", "bare tc", "bare tc, GRO", "bare tc, local", "bare tc, other", "bare tc, packet socket", *PACKET)


def unpin(instance):
    """What a process of ours that was killed has left."""
    for pin in (BPFFS / instance).glob("*"):
        pin.unlink()
    if (BPFFS / instance).is_dir():
        (BPFFS / instance).rmdir()


class Lane:
    """A gateway namespace between the two shared ends."""

    def __init__(self, net, number, name):
        self.name, self.number = name, number
        self.ns, self.s, self.d = f"{net.prefix}g{number}", f"s{number}", f"d{number}"
        self.relay, self.pins, self.instance = None, False, None
        self.make(net)

    def enter(self):
        return ["nsenter", f"--net=/run/netns/{self.ns}"]  # `ip netns exec` would hide bpffs

    def sh(self, command):
        return bench.sh(" ".join(self.enter()) + " " + command)

    def make(self, net):
        net.add_ns(self.ns)
        for dev, far, ns in (("in0", self.s, net.src), ("out0", self.d, net.dst)):
            bench.sh(f"ip -n {self.ns} link add {dev} type veth peer name {far} netns {ns}")
            # The source's end has no program: without GRO nothing could be sent into it by XDP.
            bench.sh(f"nsenter --net=/run/netns/{ns} ethtool -K {far} gro on")
            self.sh(f"ethtool -K {dev} gro on")
            bench.sh(f"ip -n {ns} link set {far} up")
        for dev, addr, addr6 in (("in0", "10.0.0.1/8", "fd00:10::1/64"), ("out0", "172.16.0.1/24", "fd00:16::1/64")):
            bench.sh(f"ip -n {self.ns} addr add {addr} dev {dev}")
            bench.sh(f"ip -n {self.ns} addr add {addr6} dev {dev} nodad")
            bench.sh(f"ip -n {self.ns} link set {dev} up")
        for dev, addr, mac in (("out0", "172.16.0.2", 2), ("out0", "fd00:16::2", 2),
                               ("in0", "10.255.255.254", 3), ("in0", "fd00:10::ffff", 3)):
            bench.sh(f"ip -n {self.ns} neigh add {addr} lladdr 02:00:00:00:00:0{mac} dev {dev} nud permanent")
        bench.sh(f"ip -n {self.ns} route add 11.0.0.0/8 via 10.255.255.254")
        bench.sh(f"ip -n {self.ns} -6 route add fd00:11::/64 via fd00:10::ffff")

    def let_in_sockets(self, net):
        """For local senders: an address for them, and veth as it is when nobody has changed it."""
        mac = json.loads(bench.sh(f"ip -j -n {self.ns} link show in0").stdout)[0]["address"]
        bench.sh(f"ip -n {net.src} addr add 10.255.255.254/8 dev {self.s}")
        bench.sh(f"ip -n {net.src} neigh add 10.0.0.1 lladdr {mac} dev {self.s} nud permanent")
        self.sh("ethtool -K in0 gro off")

    def other_station(self):
        """Frames that are made for in0 are no longer for this host."""
        self.sh("ip link set in0 address 02:00:00:00:00:77")

    def snmp(self):
        """What user space got and the stack forwarded, IPv4 and IPv6."""
        udp = forwarded = 0
        names = {}
        for line in self.sh("cat /proc/net/snmp /proc/net/snmp6").stdout.splitlines():
            key, *rest = line.split()
            if key in ("Udp6InDatagrams", "Ip6OutForwDatagrams"):
                udp += int(rest[0]) * (key[0] == "U")
                forwarded += int(rest[0]) * (key[0] == "I")
            elif key in ("Udp:", "Ip:"):
                if key not in names:
                    names[key] = rest
                    continue
                values = dict(zip(names[key], map(int, rest)))
                udp += values.get("InDatagrams", 0)
                forwarded += values.get("ForwDatagrams", 0)
        return udp, forwarded

    def xdp(self):
        """How in0 runs a program, as the kernel says: None, or iproute2's mode (1 native, 2 generic)."""
        return json.loads(bench.sh(f"ip -j -n {self.ns} link show in0").stdout)[0].get("xdp", {}).get("mode")


class LiveNet:
    """The two shared namespaces, the lanes and the generator."""

    def __init__(self):
        self.prefix = f"l7l{os.getpid()}"
        self.src, self.dst = f"{self.prefix}s", f"{self.prefix}d"
        self.namespaces, self.lanes, self.holders, self.tool = [], {}, [], None

    def add_ns(self, name):
        bench.sh(f"ip netns add {name}")
        self.namespaces.append(name)
        bench.sh(f"ip -n {name} link set lo up")

    def __enter__(self):
        try:
            for n in (self.src, self.dst):
                self.add_ns(n)
                # Nobody speaks there but the generator.
                bench.sh(f"ip netns exec {n} sysctl -qw net.ipv6.conf.default.disable_ipv6=1")
            self.tool = subprocess.Popen(
                [*FIRST, "taskset", "-c", CORE, str(bench.TOOLS / "live_gen"), self.src, self.dst, str(bench.TOOLS / "live.bpf.o")],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for lane in self.lanes.values():
            if lane.relay:
                lane.relay.__exit__(None, None, None)
        helpers = [*self.holders, *([self.tool] if self.tool else [])]
        for h in helpers:  # they end with their input
            try:
                h.stdin.close()
            except BrokenPipeError:
                pass
        for h in helpers:
            try:
                h.wait(20)
            except subprocess.TimeoutExpired:
                h.kill()
                h.wait()
        for n in self.namespaces:
            bench.sh(f"ip netns del {n}", check=False)
        for lane in self.lanes.values():
            if lane.instance:
                unpin(lane.instance)

    def ask(self, command):
        try:
            self.tool.stdin.write(command + "\n")
            self.tool.stdin.flush()
        except BrokenPipeError:
            pass
        line = self.tool.stdout.readline()
        if not line:
            raise RuntimeError(f"live_gen: {command}: {self.tool.stderr.read().strip()}")
        return json.loads(line)

    def lane(self, name, sink="xdp", program=None):
        number = len(self.lanes)
        lane = self.lanes[name] = Lane(self, number, name)
        if "local" in name:
            lane.let_in_sockets(self)
            sink = "tc"  # a local sender's packets would have to be copied for XDP
        extra = f" {bench.TOOLS / 'reference.bpf.o'} {program}" if program else ""
        self.ask(f"lane {lane.ns} {lane.s} {lane.d} {sink}{extra}")
        return lane

    def run(self, lane, family, flows, size, packets, port, window=WINDOW, batch=BATCH):
        return self.ask(f"run {lane.number} {family} {flows} {size} {window} {batch} {packets} {port}")

    def local(self, lane, flows, size, packets, port, window=WINDOW):
        return self.ask(f"local {lane.number} {flows} {size} {window} {packets} {port}")

    # ---- relays ----

    def start(self, lane, mode, core, command=(), listeners=None):
        """A daemon in a lane. mode "" is the slow path."""
        lane.instance = lane.ns
        listeners = listeners or [{"name": f"v{f}", "spec": {"protocol": "UDP", "address": gw, "port": BARE_PORT},
                      "options": {"idle_timeout": 0},
                      "rules": [{"action": {"route": {"destination": {
                          "name": f"sink{f}", "spec": {"protocol": "UDP", "port": SINK_PORT},
                          "endpoints": [{"spec": {"address": sink_addr}}]}}}}]}
                     for f, gw, sink_addr in ((4, "10.0.0.1", "172.16.0.2"), (6, "fd00:10::1", "fd00:16::2"))]
        admin = {"log_level": "warn", "instance": lane.instance,
                 "limits": {"new_sessions_per_second": 1000000, "max_sessions_per_source": 100000}}
        admin.update({"offload_ifs": ["in0", "out0"], "offload_mode": mode} if mode else {"offload": "disable"})
        relay = bench.Relay(lane.name, [*command, str(bench.BUILD / "l7mp-proxy"), "-c", "@DIR@/c.json"],
                            {"c.json": json.dumps({"admin": admin, "listeners": listeners})}, settle=1.0)
        relay.enter, relay.cores = lane.enter(), core
        lane.relay = relay.__enter__()
        for _ in range(300):  # what comes before the programs are there is not theirs; on a busy machine that takes a while
            if not mode or (BPFFS / lane.instance / "abi").exists():
                break
            time.sleep(0.1)

    def proxy(self, name, mode, sink="xdp", program=None):
        """A lane with a daemon and FLOWS sessions of each family. The slow path is on the generator's core."""
        lane = self.lane(name, sink, program)
        # A waiting relay must come before the generator, or packets wait while more are made.
        self.start(lane, mode, OTHERS if mode else CORE, () if mode else BEFORE)
        for f in (4, 6):
            self.run(lane, f, FLOWS, 200, FLOWS, SINK_PORT, 16, 16)
        if mode:
            self.wait_fast(lane, mode, 4 * FLOWS)

    def packet_proxy(self, name, mode, packet_mode="server"):
        """A lane with an AF_PACKET session for the one flow: frames to another station, as in0 gets another address."""
        lane = self.lane(name)
        lane.other_station()
        listeners = [{"name": "frames", "spec": {"protocol": "AF_PACKET", "interface": "in0", "options": {"mode": packet_mode}},
                      "options": {"idle_timeout": 0},
                      "rules": [{"action": {"route": {"destination": {
                          "name": "far", "spec": {"protocol": "AF_PACKET"}, "endpoints": [{"spec": {"address": "out0"}}]}}}}]}]
        if mode == "native":
            lane.sh("ethtool -K in0 rxvlan off")
        self.start(lane, mode, OTHERS if mode else CORE, () if mode else BEFORE, listeners)
        time.sleep(0.5)
        self.run(lane, 4, 1, 200, 4, BARE_PORT, 1, 1)
        if mode:
            self.wait_fast(lane, mode, 2)

    def local_proxy(self, name, mode):
        """The same for local senders, IPv4. A relay that came first would have to take their packets one by one."""
        lane = self.lane(name)
        self.start(lane, mode, OTHERS if mode else CORE, () if mode else FIRST)
        self.local(lane, FLOWS, 200, FLOWS, SINK_PORT, 16)
        if mode:
            self.wait_fast(lane, mode, 2 * FLOWS)

    def wait_fast(self, lane, mode, entries):
        if lane.xdp() != (1 if mode == "native" else None):
            raise RuntimeError(f"{lane.name}: in0's XDP mode is {lane.xdp()}")
        self.ask(f"pins {lane.number} {BPFFS / lane.instance}")
        lane.pins = True
        for _ in range(100):
            have = self.ask(f"entries {lane.number}")["entries"]
            if have == entries:
                return
            time.sleep(0.1)
        raise RuntimeError(f"{lane.name}: {have} entries in the table instead of {entries}")

    def hold(self, name, mode, family, sessions):
        """Flows set up through the engine alone: as many sessions would need more descriptors than there are."""
        lane = self.lane(name)
        lane.instance = f"{lane.ns}"
        h = subprocess.Popen([*lane.enter(), "taskset", "-c", OTHERS, str(bench.TOOLS / "live_flows"), str(sessions),
                              lane.instance, mode, str(family)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.holders.append(h)
        if not h.stdout.readline():
            raise RuntimeError(f"{name}: live_flows ended")
        self.wait_fast(lane, mode, 2 * sessions)
        return lane

    def references(self):
        for name, program in REFERENCES.items():
            self.lane(name, "xdp" if program else "drop", program)
        self.lanes["XDP rewrite + FIB"].sh("sysctl -qw net.ipv4.ip_forward=1")  # the look-up asks for it

        # A relay's socket asks for GRO, which then gathers packets before tc sees them: the same for the bare one.
        self.lanes["bare tc, other"].other_station()
        self.with_packet_socket("bare tc, packet socket")
        lane = self.lane("bare tc, GRO", "xdp", "tc_redirect")
        code = (f"import socket, signal; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
                f"s.setsockopt(17, 104, 1); s.bind(('10.0.0.1', {BARE_PORT})); signal.pause()")
        relay = bench.Relay(lane.name, [sys.executable, "-S", "-c", code])
        relay.enter, relay.cores = lane.enter(), OTHERS
        lane.relay = relay.__enter__()

    def with_packet_socket(self, name):
        """A packet socket, which gets each frame before tc does, with the shortest filter: it takes none."""
        lane = self.lane(name, "xdp", "tc_redirect")
        lane.other_station()
        code = ("import ctypes, signal, socket, struct; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0); "
                "f = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0)); "
                "s.setsockopt(1, 26, struct.pack('HL', 1, ctypes.addressof(f))); s.bind(('in0', 3)); signal.pause()")
        relay = bench.Relay(lane.name, [sys.executable, "-S", "-c", code])
        relay.enter, relay.cores = lane.enter(), OTHERS
        lane.relay = relay.__enter__()

    def nat(self, name):
        lane = self.lane(name)
        for knob in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            lane.sh(f"sysctl -qw {knob}=1")
        for ip, gw, sink, source in (("ip", "10.0.0.1", f"172.16.0.2:{SINK_PORT}", "172.16.0.1"),
                                     ("ip6", "fd00:10::1", f"[fd00:16::2]:{SINK_PORT}", "fd00:16::1")):
            lane.sh(f"nft 'table {ip} b {{ chain pre {{ type nat hook prerouting priority -100; "
                    f"{ip} daddr {gw} udp dport {BARE_PORT} dnat to {sink}; }}; "
                    f"chain post {{ type nat hook postrouting priority 100; oifname \"out0\" snat to {source}; }}; }}'")
        return lane


# ---- rows ----

def row(lane, flows=1, size=200, family=4):
    return lane, flows, size, family


def label(r):
    lane, flows, size, family = r
    return f"{lane}|{flows}|{size}|v{family}"


HELD_BIG = 100000
LIMITS = ["drop", "bare XDP", "XDP rewrite", "XDP rewrite + FIB", "l7mp XDP", "bare tc", "tc rewrite", "l7mp tc",
          "bare tc, GRO", "l7mp tc, GRO", "kernel NAT", "l7mp slow, GRO", "l7mp slow"]
WAYS = ["bare XDP", "l7mp XDP", "bare tc", "l7mp tc", "kernel NAT", "l7mp slow, GRO", "l7mp slow"]
LOCAL = ["bare tc, local", "l7mp tc, local", "kernel NAT, local", "l7mp slow, local"]

# (title, the row that ratios are taken to, {name: row})
TABLES = [
    ("1 flow, 200 B, IPv4", "bare XDP", {n: row(n) for n in LIMITS}),
    ("XDP by flows", "1 flow", {"1 flow": row("l7mp XDP"), "1,000 flows": row("l7mp XDP", FLOWS),
                                "100,000 flows": row("l7mp XDP 100k", HELD_BIG),
                                "10,000 of these": row("l7mp XDP 100k", 10000)}),
    ("XDP by flows, IPv6", "1 flow", {"1 flow": row("l7mp XDP", family=6), "1,000 flows": row("l7mp XDP", FLOWS, family=6),
                                      "100,000 flows": row("l7mp XDP 100k v6", HELD_BIG, family=6)}),
    ("tc by flows", "1 flow", {"1 flow": row("l7mp tc"), "1,000 flows": row("l7mp tc", FLOWS),
                               "100,000 flows": row("l7mp tc 100k", HELD_BIG),
                               "10,000 of these": row("l7mp tc 100k", 10000)}),
    ("1,000 flows, 200 B, IPv4", "l7mp XDP", {n: row(n, FLOWS) for n in ("l7mp XDP", "l7mp tc", "l7mp tc, GRO", "kernel NAT",
                                                                         "l7mp slow, GRO", "l7mp slow")}),
    ("1 flow, 64 B, IPv4", "bare XDP", {n: row(n, size=64) for n in WAYS}),
    ("1 flow, 1,400 B, IPv4", "bare XDP", {n: row(n, size=1400) for n in WAYS}),
    ("AF_PACKET, 1 flow, 200 B", "bare tc, other",
     {n: row(n) for n in ("bare XDP", "l7mp packet XDP", "bare tc, other", "bare tc, packet socket", "l7mp packet tc", "l7mp packet tc, all frames",
                          "l7mp packet slow")}),
    ("from local sockets, 1 flow, 200 B", "bare tc, local", {n: row(n) for n in LOCAL}),
    ("from local sockets, 1,000 flows, 200 B", "bare tc, local", {n: row(n, FLOWS) for n in LOCAL}),
    ("1 flow, 200 B, IPv6", "bare XDP", {n: row({"l7mp tc": "l7mp tc v6"}.get(n, n), family=6) for n in WAYS}),
]

# (what, row above, row below, "<=" or ">=", the aim)
AIMS = [
    ("XDP to a bare XDP redirect", row("l7mp XDP"), row("bare XDP"), "<=", 1.25),
    ("kernel NAT to XDP", row("kernel NAT"), row("l7mp XDP"), ">=", 5),
    ("XDP to a rewrite with FIB look-up", row("l7mp XDP"), row("XDP rewrite + FIB"), "<=", 1),
    ("tc to a bare tc redirect", row("l7mp tc"), row("bare tc"), "<=", 1.1),
    ("tc to a bare tc redirect, GRO on both", row("l7mp tc, GRO"), row("bare tc, GRO"), "<=", 1.1),
    # 1,150 to 854 was the original's; 1.25 times faster is 0.8 of that.
    ("tc, 1.25 times the original's", row("l7mp tc"), row("bare tc"), "<=", 1.077),
    ("our slow path, 1,000 flows, to XDP", row("l7mp slow", FLOWS), row("l7mp XDP", FLOWS), ">=", 10),
    ("our slow path, 1,000 flows, GRO, to XDP", row("l7mp slow, GRO", FLOWS), row("l7mp XDP", FLOWS), ">=", 10),
    ("our slow path, 1 flow, to XDP", row("l7mp slow"), row("l7mp XDP"), ">=", 10),
    ("our slow path, 1 flow, GRO, to XDP", row("l7mp slow, GRO"), row("l7mp XDP"), ">=", 10),
    ("our slow path, local, 1 flow, to tc", row("l7mp slow, local"), row("l7mp tc, local"), ">=", 2.5),
    ("our slow path, local, 1,000 flows, to tc", row("l7mp slow, local", FLOWS), row("l7mp tc, local", FLOWS), ">=", 2.5),
    ("XDP, 1,000 flows to one", row("l7mp XDP", FLOWS), row("l7mp XDP"), "<=", 1.3),
    ("tc, 1,000 flows to one", row("l7mp tc", FLOWS), row("l7mp tc"), "<=", 1.3),
    ("XDP, 100,000 flows to one", row("l7mp XDP 100k", HELD_BIG), row("l7mp XDP"), "<=", 1.5),
    ("tc, 100,000 flows to one", row("l7mp tc 100k", HELD_BIG), row("l7mp tc"), "<=", 1.5),
    ("XDP, IPv6 to IPv4", row("l7mp XDP", family=6), row("l7mp XDP"), "<=", 1.25),
    ("XDP, IPv6 to IPv4, 1,000 flows", row("l7mp XDP", FLOWS, family=6), row("l7mp XDP", FLOWS), "<=", 1.25),
    ("AF_PACKET by XDP to a bare XDP redirect", row("l7mp packet XDP"), row("bare XDP"), "<=", 1.25),
    ("AF_PACKET by tc to a bare tc redirect", row("l7mp packet tc"), row("bare tc, other"), "<=", 1.25),
    ("AF_PACKET by tc, all frames, to a bare tc redirect", row("l7mp packet tc, all frames"), row("bare tc, other"), "<=", 1.25),
    ("tc, IPv6 to IPv4", row("l7mp tc v6", family=6), row("l7mp tc"), "<=", 1.25),
]


def check(r, got, n, udp_in, forwarded):
    """Did the packets take the way that the row claims? Raises."""
    lane, flows, size, _ = r
    problems = []
    if "slow" in lane:
        if not udp_in and "packet" not in lane:
            problems.append("user space got nothing")
    else:
        if got["sunk"] != n or got["lost"]:
            problems.append("lost packets")
        if udp_in:
            problems.append("user space got packets")
    if lane.startswith("l7mp") and "slow" not in lane:
        # Gathered packets are one verdict; the flow's counter has every packet.
        # A frame's bytes are all of it: Ethernet, IPv4 and UDP headers, too.
        if got["flow_packets"] != n or got["flow_bytes"] != n * (size + 42 * ("packet" in lane)) or not got["forwarded"] or got["passed"]:
            problems.append("the flows' counters don't fit")
        if "GRO" not in lane and got["forwarded"] != n:
            problems.append("verdicts don't fit")
        if "GRO" in lane and flows == 1 and got["forwarded"] >= n:
            problems.append("nothing was gathered")
    if "NAT" in lane and forwarded != n:
        problems.append("the stack did not forward them all")
    if got["checksum"] == "wrong":
        problems.append("a wrong checksum")
    if problems:
        raise RuntimeError(f"{'; '.join(problems)}: {got}, {udp_in} to user space, {forwarded} forwarded")


def measure_row(net, r, seconds):
    lane, flows, size, family = net.lanes[r[0]], *r[1:]
    port = BARE_PORT if r[0] in UNCHANGED else SINK_PORT

    def run(packets):
        if "local" in lane.name:
            return net.local(lane, flows, size, packets, port)
        return net.run(lane, family, flows, size, packets, port)
    warm = run(max(2 * flows, 5000))
    n = min(1000000, max(3 * flows, 20000, int(seconds * 1e9 / max(20, warm["ns"]))))
    udp, forwarded = lane.snmp()
    got = run(n)
    udp_after, forwarded_after = lane.snmp()
    check(r, got, n, udp_after - udp, forwarded_after - forwarded)
    return got


def set_up(net):
    net.references()
    net.nat("kernel NAT")
    net.nat("kernel NAT, local")
    net.local_proxy("l7mp tc, local", "tc")
    net.local_proxy("l7mp slow, local", "")
    net.packet_proxy("l7mp packet XDP", "native")
    net.packet_proxy("l7mp packet tc", "tc")
    net.packet_proxy("l7mp packet tc, all frames", "tc", "singleton")
    net.packet_proxy("l7mp packet slow", "")
    net.proxy("l7mp XDP", "native")
    net.proxy("l7mp tc, GRO", "tc")
    net.hold("l7mp tc", "tc", 4, FLOWS)
    net.hold("l7mp tc v6", "tc", 6, FLOWS)
    net.hold("l7mp XDP 100k", "native", 4, HELD_BIG)
    net.hold("l7mp XDP 100k v6", "native", 6, HELD_BIG)
    net.hold("l7mp tc 100k", "tc", 4, HELD_BIG)
    # At its best: what it sends is counted at tc, without the copy that XDP needs for a local sender's packets.
    net.proxy("l7mp slow, GRO", "", "tc")
    # Without GRO: frames come in because of an XDP program that passes them on.
    net.proxy("l7mp slow", "", "tc", "xdp_floor")
    net.lanes["l7mp slow"].sh("ethtool -K in0 gro off")


def rounds(net, a):
    rows = {label(r): r for _, _, t in TABLES for r in t.values()}
    rows.update({label(r): r for aim in AIMS for r in aim[1:3]})
    ns, lost = {k: [] for k in rows}, {}
    for i in range(a.rounds):
        for key, r in rows.items():
            try:
                got = measure_row(net, r, a.seconds / 10)
                ns[key].append(got["ns"])
                if got["lost"]:
                    lost.setdefault(key, []).append(f"{got['lost']} of {got['sent']}")
            except RuntimeError as e:
                bench.problem(f"round {i + 1}: {key}: {e}")
                ns[key].append(None)
        print(f"  round {i + 1} of {a.rounds} done", file=sys.stderr, flush=True)
    return ns, lost


def run_suite(a):
    bench.make_bpf()
    with LiveNet() as net:
        set_up(net)
        ns, lost = rounds(net, a)
    for title, base, table in TABLES:
        bench.show(f"Whole path, live frames, one core: {title}", "ns per packet", {n: ns[label(r)] for n, r in table.items()},
                   base, "less")
    for key, what in lost.items():
        print(f"  lost on the way ({key}): {', '.join(what)}")
    print("\nAims (live frames)")
    for what, over, under, op, aim in AIMS:
        bench.aim(what, ns[label(over)], ns[label(under)], op, aim)
    return ns
