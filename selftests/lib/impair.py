#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A bad link: forwards frames between two devices of its namespace, and loses, doubles and delays some of them.

    impair.py DEVICE DEVICE LOSS REORDER DUPLICATE SEED [DELAY]     rates from 0 to 1; runs until it is killed

For kernels without netem. Frames that are reordered are overtaken by those behind them. DELAY: seconds, of all frames.
"""
import heapq
import random
import select
import socket
import sys
import time

PACKET_IGNORE_OUTGOING = 23
DELAY = 0.003


def opened(device):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    s.setsockopt(263, PACKET_IGNORE_OUTGOING, 1)  # SOL_PACKET
    s.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
    s.setsockopt(socket.SOL_SOCKET, 32, 16 << 20)  # SO_SNDBUFFORCE
    s.bind((device, 0))
    s.setblocking(False)
    return s


def send(sock, frame):
    try:
        sock.send(frame)
    except OSError:
        pass  # no room, or the device is gone: one more that is lost


def main():
    ends = [opened(d) for d in sys.argv[1:3]]
    loss, reorder, duplicate = (float(x) for x in sys.argv[3:6])
    rng = random.Random(int(sys.argv[6]))
    delay = float(sys.argv[7]) if len(sys.argv) > 7 else 0
    late, n = [], 0
    print("ready", flush=True)
    while True:
        wait = max(0, late[0][0] - time.monotonic()) if late else None
        ready, _, _ = select.select(ends, [], [], wait)
        now = time.monotonic()
        while late and late[0][0] <= now:
            _, _, to, frame = heapq.heappop(late)
            send(to, frame)
        for s in ready:
            to = ends[1 - ends.index(s)]
            for _ in range(64):
                try:
                    frame = s.recv(70000)
                except BlockingIOError:
                    break
                if rng.random() < loss:
                    continue
                extra = DELAY * rng.random() if rng.random() < reorder else 0
                if delay or extra:
                    n += 1
                    heapq.heappush(late, (now + delay + extra, n, to, frame))
                    continue
                send(to, frame)
                if rng.random() < duplicate:
                    send(to, frame)


if __name__ == "__main__":
    main()
