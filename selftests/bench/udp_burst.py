#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Processor time of a UDP relay for bursts that wait in its socket.

The relay is stopped (SIGSTOP), datagrams of 1,000 sessions are put into its socket, and it is
continued: so every relay has the same work in the same batches, whatever else the machine does. The
figure is the processor time of the relay (/proc/PID/schedstat) by the number of datagrams. All
relays run during the whole suite and take turns, so that a round's ratios are taken close together.

Over lo, in a network namespace of its own. BENCH_BASE=PROGRAM: also an older l7mp-proxy.
"""
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

FLOWS, SIZE = 1000, 200
SO_RCVBUFFORCE = 33


class Relay:
    """A relay with its clients and its sink."""

    def __init__(self, name, program, number, folder):
        self.name, self.port, sink = name, 15000 + number, 16000 + number
        self.sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sink.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        self.sink.bind(("127.0.0.1", sink))
        self.sink.settimeout(30)
        if name == "bare":
            command = [program, f"127.0.0.1:{self.port}", f"127.0.0.1:{sink}"]
        else:
            cluster = {"name": "sink", "spec": {"protocol": "UDP", "port": sink}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}
            listener = {"name": "bench", "spec": {"protocol": "UDP", "address": "127.0.0.1", "port": self.port},
                        "rules": [{"action": {"route": {"destination": cluster}}}]}
            config = pathlib.Path(folder, f"{number}.json")
            config.write_text(json.dumps({"admin": {"log_level": "warn", "offload": "disable"}, "listeners": [listener]}))
            command = [program, "-c", str(config)]
        self.process = subprocess.Popen(command)
        self.clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(FLOWS)]

    def start(self):
        """All sessions exist when it returns."""
        first = self.clients[0]
        first.connect(("127.0.0.1", self.port))
        self.sink.settimeout(0.1)
        for _ in range(300):  # until it listens; a refused send says that it does not yet
            try:
                first.send(b"x")
                self.sink.recv(SIZE)
                break
            except OSError:
                time.sleep(0.1)
        self.sink.settimeout(30)
        for client in self.clients[1:]:
            client.connect(("127.0.0.1", self.port))
            client.send(b"x")
            self.sink.recv(SIZE)

    def cpu_ns(self):
        return int(pathlib.Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[0])

    def burst(self, each):
        """ns a datagram; `each` of them from a client at a time."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED)
        for client in self.clients:
            for _ in range(each):
                client.send(b"x" * SIZE)
        start = self.cpu_ns()
        self.process.send_signal(signal.SIGCONT)
        for _ in range(FLOWS * each):
            self.sink.recv(SIZE)
        end = -1
        while end != self.cpu_ns():  # until it sleeps
            end = self.cpu_ns()
            time.sleep(0.02)
        return (end - start) / (FLOWS * each)

    def stop(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait()


def child(rounds, programs):
    """Prints {each: {name: [ns a round]}}."""
    out = {1: {}, 4: {}}
    with tempfile.TemporaryDirectory(prefix="l7mp-bench-") as folder:
        relays = []
        try:
            for number, (name, program) in enumerate(programs.items()):
                relays.append(Relay(name, program, number, folder))
                relays[-1].start()
            for i in range(rounds + 1):  # the first one only warms up
                for relay in relays if i % 2 else relays[::-1]:
                    for each, rows in out.items():
                        ns = relay.burst(each)
                        if i:
                            rows.setdefault(relay.name, []).append(ns)
        finally:
            for relay in relays:
                relay.stop()
    print(json.dumps(out))


def run_suite(a):
    import run as bench  # pylint: disable=import-outside-toplevel

    programs = {"bare": str(bench.TOOLS / "udp_relay"), "l7mp": str(bench.BUILD / "l7mp-proxy")}
    if os.environ.get("BENCH_BASE"):
        programs["l7mp, older"] = os.path.abspath(os.environ["BENCH_BASE"])
    r = subprocess.run(["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", sys.executable, __file__,
                        str(4 * a.rounds), json.dumps(programs)], capture_output=True, text=True, timeout=60 * a.rounds)
    if r.returncode:
        raise RuntimeError(f"udp_burst: {r.stderr.strip()[-500:]}")
    results = json.loads(r.stdout)
    for each, rows in results.items():
        bench.show(f"UDP relay, processor time of a 200-byte packet, 1,000 flows, {each} of each at a time", "ns", rows, "bare", "less")
    print("\nAims")
    for each, rows in results.items():
        bench.aim(f"the bare relay's time to ours, {each} of each", rows["bare"], rows["l7mp"], ">=", 0.9)
    return results


if __name__ == "__main__":
    child(int(sys.argv[1]), json.loads(sys.argv[2]))
