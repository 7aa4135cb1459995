# SPDX-License-Identifier: MIT
"""Peers in network namespaces of their own, around the namespace of the test.

The test's own namespace (l7test.isolate) is the gateway that runs the proxy; each
Peer is a named namespace behind a veth leg of it. Names are made from the process
id, everything goes away with close() or at exit.
"""
import atexit
import contextlib
import ctypes
import json
import os
import pathlib
import socket
import subprocess
import unittest

import l7test

LIBC = ctypes.CDLL(None, use_errno=True)
WAIT = 60  # seconds for an event that has to come; nothing is said about how soon, since the machine may be busy
CLONE_NEWNET = 0x40000000
PINS = pathlib.Path("/sys/fs/bpf/l7mp")


def sh(*cmd, check=True, **kw):
    """Runs a command; its stdout as text."""
    r = subprocess.run(cmd, capture_output=True, text=True, check=False, **kw)
    if check and r.returncode:
        raise AssertionError(f"{' '.join(cmd)}: {r.stderr.strip() or r.returncode}")
    return r.stdout


def ip(text, check=True):
    return sh("ip", *text.split(), check=check)


def ip_error(text):
    """What ip says on stderr; "" when it worked."""
    return subprocess.run(["ip", *text.split()], capture_output=True, text=True, check=False).stderr


def need_bpffs(test):
    """The pins' file system: mounted when this machine has none (a minimal one hasn't), as the proxy itself does it."""
    if os.path.ismount("/sys/fs/bpf"):
        return
    r = subprocess.run(["mount", "-t", "bpf", "-o", "mode=0755", "bpf", "/sys/fs/bpf"], capture_output=True, text=True,
                       check=False)
    if not os.path.ismount("/sys/fs/bpf"):
        test.skipTest(f"there is no bpffs at /sys/fs/bpf and none can be mounted: {r.stderr.strip()}")


def setns(path):
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if LIBC.setns(fd, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {path}")
    finally:
        os.close(fd)


class Peer:
    """A namespace with one leg (device eth0) to the gateway (device `leg`)."""

    count = 0

    def __init__(self, leg, gateway4=None, own4=None, gateway6=None, own6=None, mtu=1500):
        Peer.count += 1
        self.name = f"l7t{os.getpid()}-{Peer.count}"
        self.path = f"/run/netns/{self.name}"
        self.leg, self.own4, self.own6, self.gateway4, self.gateway6 = leg, own4, own6, gateway4, gateway6
        ip(f"netns add {self.name}")
        atexit.register(self.close)
        ip(f"link add {leg} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {self.name}")
        ip(f"link set {leg} up")
        self.run("ip link set lo up")
        self.run("ip link set eth0 up")
        if own4:
            ip(f"addr add {gateway4}/24 dev {leg}")
            self.run(f"ip addr add {own4}/24 dev eth0")
            self.run(f"ip route add default via {gateway4}")
        if own6:
            ip(f"-6 addr add {gateway6}/64 dev {leg} nodad")
            self.run(f"ip -6 addr add {own6}/64 dev eth0 nodad")
            self.run(f"ip -6 route add default via {gateway6}")

    def run(self, text, check=True):
        return sh("nsenter", f"--net={self.path}", *text.split(), check=check)

    def popen(self, *cmd, **kw):
        return subprocess.Popen(["nsenter", f"--net={self.path}", *cmd], **kw)

    @contextlib.contextmanager
    def inside(self):
        """This thread is in the peer's namespace for a while: for sockets made there."""
        home = f"/proc/self/task/{LIBC.gettid()}/ns/net"
        fd = os.open(home, os.O_RDONLY | os.O_CLOEXEC)
        setns(self.path)
        try:
            yield
        finally:
            if LIBC.setns(fd, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "can't return to the test's namespace")
            os.close(fd)

    def udp(self, port=0, host=None, timeout=WAIT, rcvbuf=8 << 20):
        with self.inside():
            host = host or self.own4 or self.own6
            s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, 33, rcvbuf)  # SO_RCVBUFFORCE
        s.settimeout(timeout * (6 if os.environ.get("L7MP_VM") else 1))
        s.bind((host, port))
        return s

    def raw(self):
        with self.inside():
            return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)

    def mac(self):
        return json.loads(self.run("ip -j link show dev eth0"))[0]["address"]

    def close(self):
        if self.name:
            ip(f"link del {self.leg}", check=False)
            ip(f"netns del {self.name}", check=False)
        self.name = None


def one_cpu(test):
    """
    This thread's packets take one queue from now on, as a flow's do that come from the wire. A sender that wanders between
    processors leaves packets in the queues of several, and the kernel delivers those in any order.
    """
    all_of_them = os.sched_getaffinity(0)
    test.addCleanup(os.sched_setaffinity, 0, all_of_them)
    os.sched_setaffinity(0, {min(all_of_them)})


def softnet_drops():
    """What the kernel's queues between devices (net.core.netdev_max_backlog) had no room for, on all processors."""
    with open("/proc/net/softnet_stat") as f:
        return sum(int(line.split()[1], 16) for line in f)


def filters(dev, direction="ingress"):
    """The tc filters of a device, as tc(8) prints them."""
    out = sh("tc", "-j", "filter", "show", "dev", dev, direction, check=False)
    return [f for f in json.loads(out or "[]") if "options" in f]


def qdiscs(dev):
    return [q["kind"] for q in json.loads(sh("tc", "-j", "qdisc", "show", "dev", dev) or "[]")]


def xdp(dev):
    """The XDP program of a device, or None."""
    return json.loads(ip(f"-j link show dev {dev}"))[0].get("xdp")


class Capture:
    """What tcpdump sees on the device eth0 of a peer, in the file `path`. Stopped at the test's end."""

    def __init__(self, test, peer, path, *args):
        self.path = path
        self.process = peer.popen("tcpdump", "-i", "eth0", "--immediate-mode", "-U", "-B", "8192", "-w", path, *args,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        test.addCleanup(self.stop)
        self.process.stderr.readline()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait()
        self.process.stderr.close()


class Gateway(unittest.TestCase):
    """A gateway with two legs, each with a peer behind it, and an instance of the fast path of its own for each test."""

    count = 0

    def setUp(self):
        if not l7test.ISOLATED:
            self.skipTest("needs root")
        need_bpffs(self)
        Gateway.count += 1
        self.instance = f"t{os.getpid()}-{Gateway.count}"
        self.pins = PINS / self.instance
        self.a = Peer("legA", "10.9.1.1", "10.9.1.2", "fd09:1::1", "fd09:1::2")
        self.b = Peer("legB", "10.9.2.1", "10.9.2.2", "fd09:2::1", "fd09:2::2")
        self.addCleanup(self.a.close)
        self.addCleanup(self.b.close)

    def ping(self, client, server, to=("10.9.1.1", 9000), payload=b"ping"):
        """There and back once over UDP; what the server saw as its peer."""
        client.sendto(payload, to)
        data, peer = server.recvfrom(65536)
        self.assertEqual(data, payload)
        server.sendto(payload[::-1], peer)
        self.assertEqual(client.recv(65536), payload[::-1])
        return peer
