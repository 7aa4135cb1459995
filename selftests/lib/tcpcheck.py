# SPDX-License-Identifier: MIT
"""What one host's TCP connections look like on the wire, and what must never be seen there."""
import os
import select
import signal
import struct
import subprocess
import tempfile

FIN, SYN, RST, ACK = 1, 2, 4, 16


def after(a, b):
    """How far sequence number a is beyond b; negative: before it."""
    return (a - b + (1 << 31)) % (1 << 32) - (1 << 31)


class Segment:
    """One TCP segment; `out`: sent by the host that captures; `time`: seconds."""

    def __init__(self, number, ends, out, seq, ack, flags, win, length, tsval=None, shift=None, sack=()):
        self.number, self.ends, self.out, self.time = number, ends, out, None
        self.seq, self.ack, self.flags, self.win = seq, ack, flags, win
        self.length, self.tsval, self.shift, self.sack = length, tsval, shift, sack

    @property
    def end(self):
        return (self.seq + self.length + bool(self.flags & SYN) + bool(self.flags & FIN)) % (1 << 32)

    def __str__(self):
        return (f"frame {self.number} {self.time or 0:.6f} {'from' if self.out else 'to'} the host: seq {self.seq} length {self.length} "
                f"ack {self.ack} flags {self.flags:#x} window {self.win} tsval {self.tsval}"
                + "".join(f" sack {a}..{b}" for a, b in self.sack))


def options(data):
    """TSval and window shift, each or None; SACK blocks."""
    tsval = shift = None
    sack = []
    i = 0
    while i < len(data) and data[i]:
        if data[i] == 1:
            i += 1
            continue
        if i + 1 >= len(data) or data[i + 1] < 2:
            break
        if data[i] == 8:
            tsval = struct.unpack_from(">I", data, i + 2)[0]
        elif data[i] == 3:
            shift = data[i + 2]
        elif data[i] == 5:
            sack = list(struct.iter_unpack(">II", data[i + 2:i + data[i + 1]]))
        i += data[i + 1]
    return tsval, shift, sack


def parse(number, frame, own):
    """The segment in an Ethernet frame, or None; `own`: the host's addresses, packed."""
    kind, = struct.unpack_from(">H", frame, 12)
    if kind == 0x0800 and frame[23] == 6:
        at = 14 + (frame[14] & 15) * 4
        total = struct.unpack_from(">H", frame, 16)[0] + 14
        source, destination = frame[26:30], frame[30:34]
    elif kind == 0x86dd and frame[20] == 6:
        at = 54
        total = struct.unpack_from(">H", frame, 18)[0] + 54
        source, destination = frame[22:38], frame[38:54]
    else:
        return None
    sport, dport, seq, ack, offset, flags, win = struct.unpack_from(">HHIIBBH", frame, at)
    header = (offset >> 4) * 4
    out = source in own
    ends = (source, sport, destination, dport) if out else (destination, dport, source, sport)
    return Segment(number, ends, out, seq, ack, flags, win, total - at - header,
                   *options(frame[at + 20:at + header]))


def read(path, own):
    """The segments of a capture file in tcpdump's format."""
    with open(path, "rb") as f:
        data = f.read()
    order = "<" if data[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
    segments, at, number = [], 24, 0
    while at + 16 <= len(data):
        n = struct.unpack_from(order + "I", data, at + 8)[0]
        number += 1
        s = parse(number, data[at + 16:at + 16 + n], own)
        if s:
            seconds, fraction = struct.unpack_from(order + "II", data, at)
            s.time = seconds + fraction / 1e6
            segments.append(s)
        at += 16 + n
    return segments


class Way:
    """What was seen of one direction of a connection."""

    def __init__(self):
        self.sent = self.edge = self.acked = self.tsval = self.recent = self.shift = None


def check(segments):
    """
    Faults in words. Connections whose handshake is not in the capture are faults, too.

    Time stamps of new data and of acknowledgements without data never go back. Data that was seen before, or fills a hole that packets left which overtook it,
    may be older, but not than what the receiver compares with (RFC 7323, 5.3: TS.Recent), if it has anything new for it.
    """
    faults, conns = [], {}

    def bad(what, s):
        faults.append(f"{what}: {s}")
    for s in segments:
        ways = conns.setdefault(s.ends, {True: Way(), False: Way()})
        mine, other = ways[s.out], ways[not s.out]
        if s.flags & SYN and not s.flags & ACK:
            ways[True], ways[False] = Way(), Way()
            mine, other = ways[s.out], ways[not s.out]
        if s.flags & SYN:
            mine.shift = s.shift
        if s.flags & RST:
            bad("reset", s)
            continue
        if s.flags & ACK:
            if other.sent is None:
                bad("no handshake", s)
                continue
            if after(s.ack, other.sent) > 0:
                bad(f"acknowledges what was not sent (end {other.sent})", s)
            scale = 0 if s.flags & SYN or None in (mine.shift, other.shift) else mine.shift
            edge = (s.ack + (s.win << scale)) % (1 << 32)
            if mine.edge is None or after(edge, mine.edge) > 0:
                mine.edge = edge
            if mine.acked is None or after(s.ack, mine.acked) > 0:
                mine.acked = s.ack
        if other.edge is not None and after(s.end, other.edge) > bool(s.flags & FIN):
            bad(f"outside the window (edge {other.edge})", s)
        new = mine.sent is None or after(s.end, mine.sent) > 0
        if new:
            mine.sent = s.end
        if s.tsval is not None:
            # Nothing to compare with yet, when it is None.
            against = mine.tsval if new or not s.length else mine.recent
            back = 0 if against is None else -after(s.tsval, against)
            useful = not s.length or other.acked is None or after(s.end, other.acked) > 0
            if back > 0 and useful:
                bad(f"time stamp goes back (from {against})", s)
            elif mine.tsval is None or after(s.tsval, mine.tsval) > 0:
                mine.tsval = s.tsval
            if other.acked is not None and after(s.seq, other.acked) <= 0 and (mine.recent is None or after(s.tsval, mine.recent) > 0):
                mine.recent = s.tsval
        elif mine.tsval is not None:
            bad("no time stamp", s)
    return faults


def retransmitted(segments):
    """Segments that the capturing host has sent with data that it had sent before."""
    sent, again = {}, []
    for s in segments:
        if not s.out or not s.length:
            continue
        if s.ends in sent and after(sent[s.ends], s.seq) > 0:
            again.append(s)
        if s.ends not in sent or after(s.end, sent[s.ends]) > 0:
            sent[s.ends] = s.end
    return again


def around(segments, faults, n=12):
    """The first faults (of check), and the segments of the first one's connection before and after it, for people."""
    number = int(faults[0].split("frame ")[1].split()[0])
    at = next(s for s in segments if s.number == number)
    same = [s for s in segments if s.ends == at.ends]
    i = same.index(at)
    return "\n".join(faults[:20] + ["around the first:"] + [str(s) for s in same[max(0, i - n):i + n]])


class Capture:
    """tcpdump on the device eth0 of a peer (l7net.Peer)."""

    def __init__(self, peer, own):
        self.own = own
        fd, self.path = tempfile.mkstemp(prefix="l7mp-", suffix=".pcap")
        os.close(fd)
        self.process = peer.popen("tcpdump", "-i", "eth0", "-n", "-s", "128", "-B", "131072", "-U", "-Z", "root", "-w",
                                  self.path, "tcp or (ip6 proto 6)", stderr=subprocess.PIPE, text=True)
        line = ""
        while "listening on" not in line:
            ready, _, _ = select.select([self.process.stderr], [], [], 60)
            line = self.process.stderr.readline() if ready else ""
            if not line:
                raise AssertionError("tcpdump does not start")

    def stop(self):
        """The segments, and the number of frames that the capture lost."""
        self.process.send_signal(signal.SIGINT)
        text = self.process.communicate(timeout=60)[1]
        lost = [int(line.split()[0]) for line in text.splitlines() if "dropped by kernel" in line]
        return read(self.path, self.own), lost[0]

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        os.unlink(self.path)
