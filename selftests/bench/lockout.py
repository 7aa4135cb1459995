# SPDX-License-Identifier: MIT
"""Whether an attack locks out: the operator, the sessions that run, new clients.

Under each attack `l7mpctl sessions` asks the admin server again and again, a probe sends a datagram to an Echo every 0.2 ms,
and a client on an address of its own begins TCP and UDP sessions on listeners that are not attacked. Aimed at: the operator's
p99 at most 100 ms, the probe's p99 at most twice the idle one, resident memory within limits.max_memory, and no new
client refused. The daemon and l7mpctl run at nice -10, the probe with real-time priority, what attacks at nice 10.
"""
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "selftests/lib"))
import l7test  # noqa: E402
from certs import Certs  # noqa: E402

MAX_MEMORY = 256 << 20
ME = str(pathlib.Path(__file__).resolve())
CTL = ["nice", "-n", "-10", str(ROOT / "build/l7mpctl"), "--api", "http://127.0.0.1:1235", "sessions", "list"]
AIM_MS, AIM_FACTOR, NEWCOMERS = 100.0, 2.0, "127.0.0.77"


def listener(name, protocol, port, destination, options=None, **spec):
    return {"name": name, "spec": {"protocol": protocol, "address": "127.0.0.1", "port": port, **spec},
            "options": options or {}, "rules": [{"action": {"route": {"destination": {"spec": {"protocol": destination}}}}}]}


def config(pair):
    return {"admin": {"log_level": "error", "server": {"address": "127.0.0.1", "port": 1235}, "limits": {"max_memory": MAX_MEMORY}},
            "listeners": [l7test.controller(), listener("probed", "UDP", 15000, "Echo"),
                          listener("http", "HTTP", 15001, "Discard"),
                          # A listener that is open to others has a limit of its own, as docs/operations.md says.
                          listener("forged", "UDP", 15002, "Discard", {"max_sessions": 5000}),
                          listener("websocket", "WebSocket", 15003, "Discard"), listener("tls", "TCP", 15004, "Echo", tls=pair),
                          listener("tcp", "TCP", 15005, "Echo"), listener("udp", "UDP", 15006, "Echo")]}


# ---- attacks: each in a process of its own, `lockout.py NAME`, until it is ended ----

def hold(conns):
    while conns:
        time.sleep(60)


def slow_bodies():
    head = b"POST /api/v1/config HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    conns = [socket.create_connection(("127.0.0.1", port)) for port in (1234, 15001) for _ in range(33)]
    for s in conns:
        s.sendall(head)
    while True:
        for s in conns:
            try:
                s.sendall(b" " * 300)
            except OSError:
                pass
        time.sleep(1)


def idle_connections():
    hold([socket.create_connection(("127.0.0.1", port)) for _ in range(2500) for port in (15001, 15005)])


def forged_sources():
    import traffic
    while True:
        traffic.forge(15002, traffic.unused_sources(300000), rate=30000)


def forged_victim():
    import traffic
    while True:
        traffic.forge(15002, ((NEWCOMERS, 1024 + i % 60000) for i in range(20100)), rate=30000)


def unfinished_messages():
    import wsraw
    conns = []
    while True:
        for _ in range(200 - len(conns)):
            try:
                peer = wsraw.connect(15003)
                peer.send(wsraw.BINARY, b"x", fin=False)
                for _ in range(31):
                    peer.send(wsraw.CONT, bytes(65536), fin=False)
                conns.append(peer)
            except OSError:
                pass
        time.sleep(0.1)


def tls_handshakes():
    os.execvp("openssl", ["openssl", "s_time", "-connect", "127.0.0.1:15004", "-new", "-time", "3600"])


def udp_flood():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect(("127.0.0.1", 15002))
    data = bytes(1000)
    while True:
        for _ in range(1000):
            try:
                s.send(data)
            except OSError:
                pass


ATTACKS = {"33 slow bodies each for the API and a listener": slow_bodies, "5,000 idle connections": idle_connections,
           "30,000 forged UDP/s": forged_sources, "forged with a client's address": forged_victim,
           "unfinished WebSocket messages": unfinished_messages, "TLS handshakes at full speed": tls_handshakes,
           "UDP flood of one port": udp_flood}


# ---- measuring ----

def newcomer():
    """A client whose first attempts fail is locked out; a datagram may be lost, so it has three."""
    try:
        with socket.create_connection(("127.0.0.1", 15005), 2, source_address=(NEWCOMERS, 0)) as s:
            s.sendall(b"x")
            if s.recv(1) != b"x":
                return False
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.bind((NEWCOMERS, 0))
            s.settimeout(0.5)
            for _ in range(3):
                s.sendto(b"x", ("127.0.0.1", 15006))
                try:
                    return s.recv(1) == b"x"
                except TimeoutError:
                    pass
    except OSError:
        pass
    return False


def measure(proxy, seconds):
    from control import Probe, rss  # pylint: disable=import-outside-toplevel  # an attack's process has no `run`
    times, failed, refused, peak = [], 0, 0, rss(proxy.pid)
    with Probe() as probe:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            begin = time.monotonic()
            failed += subprocess.run(CTL, capture_output=True, check=False).returncode != 0
            times.append(1000 * (time.monotonic() - begin))
            refused += not newcomer()
            peak = max(peak, rss(proxy.pid))
            time.sleep(0.01)
        row = probe.result()
    times.sort()
    row.update(asked=len(times), failed=failed, refused=refused, ctl_p50=times[len(times) // 2],
               ctl_p99=times[min(len(times) - 1, len(times) * 99 // 100)], rss_kb=peak)
    return row


def attacked(proxy, name, seconds):
    attack = subprocess.Popen(["nice", "-n", "10", sys.executable, ME, ATTACKS[name].__name__], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, start_new_session=True, env=dict(os.environ, L7MP_TEST_SHARED_NET="1"))
    try:
        time.sleep(2.0)
        return measure(proxy, seconds)
    finally:
        os.killpg(attack.pid, signal.SIGKILL)  # its own session, which it alone is in
        attack.wait()


def run_suite(a):
    rows, seconds = {}, max(a.seconds, 5.0)
    with tempfile.TemporaryDirectory(prefix="l7mp-bench-") as folder:
        pair = Certs(folder).cert("server")
        for name in ("idle", *ATTACKS):
            with l7test.Proxy(config(pair), "-o", "disable", wrapper=["nice", "-n", "-10"], build="build") as proxy:
                rows[name] = measure(proxy, seconds) if name == "idle" else attacked(proxy, name, seconds)
            print(f"  {name}: {rows[name]}", file=sys.stderr, flush=True)
    show(rows)
    return rows


def show(rows):
    idle = rows["idle"]["p99"]
    print("\nLock-out: an operator, a running session and new clients under attack")
    print(f"  {'':48}{'l7mpctl p50':>12}{'p99 ms':>8}{'failed':>8}{'UDP p50':>9}{'p99 µs':>8}{'lost':>6}{'refused':>9}{'RSS MiB':>9}")
    for name, r in rows.items():
        aims = {"operator": r["ctl_p99"] <= AIM_MS and not r["failed"], "round trip": r["p99"] <= AIM_FACTOR * idle,
                "memory": r["rss_kb"] << 10 <= MAX_MEMORY, "newcomers": not r["refused"]}
        missed = [aim for aim, met in aims.items() if not met]
        met = "" if name == "idle" else f"MISSED: {', '.join(missed)}" if missed else "met"
        print(f"  {name:48}{r['ctl_p50']:12.1f}{r['ctl_p99']:8.1f}{r['failed']:5}/{r['asked']:<3}{r['p50']:8}{r['p99']:8}{r['lost']:6}"
              f"{r['refused']:9}{r['rss_kb'] / 1024:9.1f}  {met}")
    print(f"  aimed at: l7mpctl p99 {AIM_MS:.0f} ms, UDP p99 {AIM_FACTOR:.0f} times the idle one's, RSS {MAX_MEMORY >> 20} MiB, nobody refused")


if __name__ == "__main__":
    {f.__name__: f for f in ATTACKS.values()}[sys.argv[1]]()
