# SPDX-License-Identifier: MIT
"""What a test asks the kernel itself, past the proxy and without starting programs: rtnetlink's messages as they
come, and a pinned BPF hash map."""
import contextlib
import ctypes
import os
import select
import socket
import struct
import time

RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR = 16, 17, 20, 21
RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWNEIGH, RTM_DELNEIGH, RTM_NEWRULE, RTM_DELRULE = 24, 25, 28, 29, 32, 33
RTM_NEWNEXTHOP, RTM_DELNEXTHOP = 104, 105
IFF_UP, IFF_LOWER_UP = 1, 1 << 16
GROUPS = (1, 3, 5, 7, 8, 9, 11, 19, 32)  # link, neighbour, IPv4 address, route, rule; IPv6 ones; nexthop
LIBC = ctypes.CDLL(None, use_errno=True)
SYS_BPF = {"x86_64": 321, "aarch64": 280}[os.uname().machine]


class Rtnetlink:
    """Subscribes at once; for the network namespace of this thread."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        self.socket.bind((0, 0))
        for g in GROUPS:
            self.socket.setsockopt(270, 1, g)  # SOL_NETLINK, NETLINK_ADD_MEMBERSHIP

    def wait(self, kind, match=lambda payload: True, seconds=60):
        """The monotonic time when a message of this kind came; payload: what follows struct nlmsghdr."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([self.socket], [], [], left)[0]:
                break
            data, at = self.socket.recv(65536), time.monotonic()
            while len(data) >= 16:
                length, what = struct.unpack("=IH", data[:6])
                if what == kind and match(data[16:length]):
                    return at
                data = data[(length + 3) & ~3:]
        raise AssertionError(f"the kernel sent no message {kind}")

    def drain(self):
        """What came before does not count."""
        while select.select([self.socket], [], [], 0)[0]:
            with contextlib.suppress(OSError):  # ENOBUFS: some were lost
                self.socket.recv(65536)

    def close(self):
        self.socket.close()


def link_is(name, up=None, carrier=None):
    """For wait(RTM_NEWLINK): struct ifinfomsg."""
    index = socket.if_nametoindex(name)

    def match(payload):
        _, _, i, flags = struct.unpack("=BxHiI", payload[:12])
        return (i == index and (up is None or bool(flags & IFF_UP) == up) and
                (carrier is None or bool(flags & IFF_LOWER_UP) == carrier))
    return match


class HashMap:
    """A pinned hash map. Keys and values are bytes."""

    def __init__(self, path, key_size, value_size):
        self.key, self.next = ctypes.create_string_buffer(key_size), ctypes.create_string_buffer(key_size)
        self.value = ctypes.create_string_buffer(value_size)
        name = ctypes.create_string_buffer(os.fsencode(path))
        self.fd = self.bpf(7, struct.pack("=QII", ctypes.addressof(name), 0, 0))  # BPF_OBJ_GET
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), str(path))

    @staticmethod
    def bpf(command, attr):
        buf = ctypes.create_string_buffer(attr.ljust(128, b"\0"), 128)
        return LIBC.syscall(SYS_BPF, command, buf, 128)

    def keys(self):
        found, at = [], 0
        while not self.bpf(4, struct.pack("=IxxxxQQ", self.fd, at, ctypes.addressof(self.next))):
            found.append(self.next.raw)
            self.key.raw, at = self.next.raw, ctypes.addressof(self.key)
        return found

    def empty(self):
        return bool(self.bpf(4, struct.pack("=IxxxxQQ", self.fd, 0, ctypes.addressof(self.next))))

    def get(self, key):
        """None: not there."""
        self.key.raw = key
        rc = self.bpf(1, struct.pack("=IxxxxQQQ", self.fd, ctypes.addressof(self.key), ctypes.addressof(self.value), 0))
        return None if rc else self.value.raw

    def values(self):
        return [v for v in map(self.get, self.keys()) if v is not None]

    def close(self):
        os.close(self.fd)
