#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""`make soak SECONDS=600 [SEED=N]`: sessions of all kinds, all bytes of which are checked, while things happen to them.

Two daemons run in the gateway between two namespaces, that of the clients and that of the servers:

    fast     UDP and TCP into the kernel; WebSocket and UNIX beside. It is killed (SIGKILL) and started again, or
             stopped and started; its links go down and up
    steady   the same without offload. It is never stopped: its memory and descriptors must not grow

For both, endpoints stop serving and begin again, and the REST API adds, changes and deletes objects.

What happens is an event with a time and the kinds of traffic that it may disturb. A session that meets none must
carry each byte; in any session a byte that is wrong, doubled or in the wrong place is corruption. The report, with
what must be zero and is not, goes to build/soak/report.txt and report.json; the exit status is 0 when all is.

Root only. It needs the programs in build/ (or where L7MP_BUILD says).
"""
import argparse
import collections
import hashlib
import json
import os
import pathlib
import random
import signal
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
os.environ.setdefault("L7MP_BUILD", "build")
import l7net  # noqa: E402
import l7test  # noqa: E402
import wsraw  # noqa: E402

OUT = l7test.ROOT / "build/soak"
REPLY_S = 30        # seconds without an answer after which a message counts as lost: far beyond any delay
GRACE_S = 3         # an event disturbs so long after its end
IDLE_S = 8          # idle_timeout of datagram sessions
SAMPLE_S = 2
TCP, UDP, WS, UNIX, UNIX_DGRAM = "tcp", "udp", "ws", "unix", "unix-dgram"
KINDS = (UDP, TCP, WS, UNIX, UNIX_DGRAM)
DAEMONS = ("fast", "steady")


def now():
    return time.monotonic()


class Events:
    """What was done to whom, and when."""

    def __init__(self):
        self.lock = threading.Lock()
        self.all = []  # [begin, end or None, what, {(daemon, kind)}]
        self.counts = collections.Counter()

    def begin(self, what, targets):
        e = [now(), None, what, frozenset(targets)]
        with self.lock:
            self.all.append(e)
            self.counts[what] += 1
        return e

    @staticmethod
    def end(e):
        e[1] = now()

    def disturbed(self, daemon, kind, since):
        """The events since then that may have disturbed this kind."""
        with self.lock:
            return sorted({e[2] for e in self.all
                           if (daemon, kind) in e[3] and (e[1] is None or e[1] + GRACE_S >= since)})


def payload(rng, n, tag):
    """n bytes that say whose they are, and are no others'."""
    body = rng.randbytes(max(0, n - 40))
    return tag + hashlib.sha256(tag + body).digest()[:24] + body


class Corrupt(Exception):
    pass


class Lost(Exception):
    """No answer in time, or the end."""


# ---- one client session: send, receive; each raises OSError or Lost ----

class Datagrams:
    def __init__(self, sock):
        self.s = sock
        self.s.settimeout(REPLY_S)

    def exchange(self, message):
        self.s.send(message)
        try:
            got = self.s.recv(1 << 17)
        except TimeoutError:
            raise Lost(f"no answer within {REPLY_S} s") from None
        return got

    def close(self):
        self.s.close()


class Stream(Datagrams):
    def exchange(self, message):
        # Sent beside: an echo of more than the buffers hold must be read meanwhile.
        sender = threading.Thread(target=self.send_all, args=(message,), daemon=True)
        sender.start()
        parts, have = [], 0
        while have < len(message):
            try:
                part = self.s.recv(len(message) - have)
            except TimeoutError:
                raise Lost(f"{have} of {len(message)} bytes came back, then nothing for {REPLY_S} s") from None
            if not part:
                raise Lost(f"ended after {have} of {len(message)} bytes")
            parts.append(part)
            have += len(part)
        sender.join()
        return b"".join(parts)

    def send_all(self, message):
        try:
            self.s.sendall(message)
        except OSError:
            pass  # the receiver says it

    def finish(self):
        """A byte stream ends when both sides have said so: nothing may come behind what was sent."""
        self.s.shutdown(socket.SHUT_WR)
        if self.s.recv(1):
            raise Corrupt("bytes behind the end")


class WebSocket:
    def __init__(self, peer):
        self.peer = peer
        peer.sock.settimeout(REPLY_S)

    def exchange(self, message):
        self.peer.send(wsraw.BINARY, message)
        try:
            got = self.peer.message()
        except TimeoutError:
            raise Lost(f"no answer within {REPLY_S} s") from None
        if got is None:
            raise Lost("closed")
        return got[1]

    def finish(self):
        self.peer.send_close(1000)
        if self.peer.closed() != 1000:
            raise Lost("no Close frame came back")

    def close(self):
        self.peer.close()


# ---- servers ----

class Servers:
    """Echo servers in the namespace of the servers. A flapping one stops serving now and then."""

    def __init__(self, peer):
        self.peer = peer
        self.over = False
        self.tcp = {}
        for port in (9001, 9002):
            threading.Thread(target=self.udp_echo, args=(peer.udp(port, timeout=0.5),), daemon=True).start()
        for port in (9101, 9102):
            self.open_tcp(port)

    def udp_echo(self, s):
        while not self.over:
            try:
                data, who = s.recvfrom(65536)
                s.sendto(data, who)
            except OSError:
                continue

    def open_tcp(self, port):
        with self.peer.inside():
            s = socket.create_server((self.peer.own4, port), backlog=256)
        entry = self.tcp[port] = {"listening": s, "conns": set()}
        threading.Thread(target=self.tcp_accept, args=(entry,), daemon=True).start()

    def close_tcp(self, port):
        entry = self.tcp.pop(port)
        entry["listening"].shutdown(socket.SHUT_RDWR)
        entry["listening"].close()
        for c in list(entry["conns"]):
            try:
                c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                c.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def tcp_accept(self, entry):
        while True:
            try:
                c, _ = entry["listening"].accept()
            except OSError:
                return
            entry["conns"].add(c)
            threading.Thread(target=self.tcp_echo, args=(entry, c), daemon=True).start()

    @staticmethod
    def tcp_echo(entry, c):
        try:
            c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := c.recv(65536):
                c.sendall(data)
            c.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        entry["conns"].discard(c)
        c.close()


# ---- the daemons ----

class Daemon:
    def __init__(self, name, port, offset, offload, run_dir):
        self.name, self.port, self.offset, self.offload = name, port, offset, offload
        self.unix, self.unix_dgram = f"{run_dir}/{name}.stream", f"{run_dir}/{name}.dgram"
        self.instance = f"soak{os.getpid()}-{name}"
        self.p = None
        self.lives, self.series = [], []
        self.lock = threading.RLock()
        self.max_flows = 0

    def config(self):
        o, gate = self.offset, "10.9.1.1"
        admin = {"instance": self.instance, "log_level": "warn"}
        if self.offload:
            admin.update(offload="init", offload_ifs="legA,legB")

        def listener(name, spec, cluster, retry=None):
            route = {"destination": cluster}
            if retry:
                route["retry"] = retry
            return {"name": name, "spec": spec, "rules": [{"action": {"route": route}}]}

        again = {"retry_on": "connect-failure", "num_retries": 5, "timeout": 20000}
        return {
            "admin": admin,
            "clusters": [
                {"name": "udp-up", "spec": {"protocol": "UDP", "port": 9001},
                 "endpoints": [{"name": "udp-1", "spec": {"address": "10.9.2.2"}},
                               {"name": "udp-2", "spec": {"address": "10.9.2.2", "port": 9002}}],
                 "loadbalancer": {"policy": "RoundRobin"}},
                {"name": "tcp-up", "spec": {"protocol": "TCP", "port": 9101},
                 "endpoints": [{"name": "tcp-1", "spec": {"address": "10.9.2.2"}},
                               {"name": "tcp-2", "spec": {"address": "10.9.2.2", "port": 9102}}],
                 "loadbalancer": {"policy": "RoundRobin"}},
                {"name": "echo", "spec": {"protocol": "Echo"}},
                {"name": "ws-up", "spec": {"protocol": "WebSocket", "port": 9300 + o},
                 "endpoints": [{"name": "ws-1", "spec": {"address": "127.0.0.1"}}]},
            ],
            "listeners": [
                listener("udp", {"protocol": "UDP", "address": gate, "port": 9000 + o}, "udp-up"),
                listener("tcp", {"protocol": "TCP", "address": gate, "port": 9100 + o}, "tcp-up", again),
                listener("ws", {"protocol": "WebSocket", "address": gate, "port": 9200 + o}, "ws-up", again),
                listener("ws-inner", {"protocol": "WebSocket", "address": "127.0.0.1", "port": 9300 + o}, "echo"),
                listener("unix", {"protocol": "UnixDomainSocket", "filename": self.unix}, "tcp-up", again),
                listener("unix-dgram", {"protocol": "UNIX/dgram", "filename": self.unix_dgram}, "echo"),
                l7test.controller(self.port),
            ],
        }

    def start(self):
        config = self.config()
        for li in config["listeners"]:
            if li["name"] in ("udp", "unix-dgram"):
                li.setdefault("options", {})["idle_timeout"] = IDLE_S
        with self.lock:
            self.p = l7test.Proxy(config, port=self.port)
            self.lives.append({"began": now(), "pid": self.p.pid})

    def end_life(self, how):
        self.sample()
        self.lives[-1].update(ended=now(), how=how)

    def kill(self):
        with self.lock:
            self.end_life("SIGKILL")
            self.p.process.kill()
            self.p.process.wait()
            self.p.notify.close()
            self.p.dir.cleanup()

    def stop(self):
        with self.lock:
            self.end_life("SIGTERM")
            self.p.stop()

    def sessions(self):
        """All but those of the REST API: the one that asks is among them."""
        status, sessions = self.p.api.get("/sessions")
        return [x for x in sessions if not x["name"].startswith("HTTP:")] if status == 200 else []

    def sample(self):
        if not self.lock.acquire(timeout=0.1):
            return None
        try:
            if not self.p or not self.p.alive():
                return None
            s = {"t": round(now(), 2), "pid": self.p.pid, "rss_kb": self.p.rss_kb(), "fds": self.p.fds()}
            # Several daemons, a busy machine, a lock held: what is asked takes what it takes.
            s["sessions"] = len(self.sessions())
            if self.offload:
                status, offload = self.p.api.get("/offload")
                if status == 200:
                    s["flows"] = offload["flows"]["now"]
                    self.lives[-1]["offload"] = offload
                    self.max_flows = max(self.max_flows, s["flows"])
            self.series.append(s)
            return s
        except OSError:
            return None
        finally:
            self.lock.release()


# ---- clients ----

class Client(threading.Thread):
    def __init__(self, soak, daemon, kind, seed):
        super().__init__(daemon=True)
        self.soak, self.d, self.kind = soak, daemon, kind
        self.rng = random.Random(seed)
        self.n = 0
        self.mine = f"{daemon.name}/{kind}/{seed}"

    def open(self):
        o, gate = self.d.offset, "10.9.1.1"
        if self.kind == UNIX:
            s = socket.socket(socket.AF_UNIX)
            s.settimeout(REPLY_S)
            s.connect(self.d.unix)
            return Stream(s)
        if self.kind == UNIX_DGRAM:
            s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            path = f"{self.soak.run_dir}/c{self.d.name}{id(self):x}-{self.n}"
            s.bind(path)
            s.connect(self.d.unix_dgram)
            d = Datagrams(s)
            d.path = path
            return d
        with self.soak.a.inside():
            if self.kind == UDP:
                s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                s.connect((gate, 9000 + o))
                return Datagrams(s)
            if self.kind == WS:
                return WebSocket(wsraw.connect(9200 + o, gate))
            s = socket.create_connection((gate, 9100 + o), REPLY_S)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Stream(s)

    def session(self):
        rng, c = self.rng, None
        top = {UDP: 1400, UNIX_DGRAM: 30000}.get(self.kind, 60000)
        count = rng.choice((1, 5, 30, 150))
        try:
            c = self.open()
            self.soak.count(self.d.name, self.kind, "sessions")
            for i in range(count):
                tag = struct.pack("!QII", id(self) & (1 << 60) - 1, self.n, i)
                message = payload(rng, rng.choice((40, 200, 1200, top)), tag)
                got = c.exchange(message)
                if got != message:
                    raise Corrupt(f"message {i} of {len(message)} bytes: {len(got)} others came back")
                self.soak.count(self.d.name, self.kind, "messages")
                self.soak.count(self.d.name, self.kind, "bytes", 2 * len(message))
                if self.soak.over.wait(rng.choice((0, 0.005, 0.02, 0.1))):
                    break
            if hasattr(c, "finish"):
                c.finish()
            self.soak.count(self.d.name, self.kind, "whole")
        finally:
            if c:
                c.close()
                if hasattr(c, "path"):
                    os.unlink(c.path)

    def run(self):
        while not self.soak.over.is_set():
            since = now()
            self.n += 1
            try:
                self.session()
            except Corrupt as e:
                self.soak.fault("corrupt", self, since, e)
            except (OSError, Lost, AssertionError, EOFError, struct.error) as e:
                self.soak.broken(self, since, e)
                self.soak.over.wait(0.2)


# ---- what happens ----

def one_of(soak, daemons, kinds):
    return [(d, k) for d in daemons for k in kinds]


class Disturber(threading.Thread):
    """One thing after the other, at random; what it changes is as before when it ends."""

    def __init__(self, soak, seed, actions, gap):
        super().__init__(daemon=True)
        self.soak, self.rng, self.actions, self.gap = soak, random.Random(seed), actions, gap

    def run(self):
        while not self.soak.over.wait(self.rng.uniform(*self.gap)):
            action = self.rng.choice(self.actions)
            try:
                action(self.rng)
            except Exception as e:  # noqa: BLE001 a fault of the run, shown in the report
                self.soak.faults["action"].append(f"{action.__name__}: {type(e).__name__}: {e}")


class Soak:
    def __init__(self, seconds, seed, run_dir):
        self.seconds, self.seed, self.run_dir = seconds, seed, run_dir
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.counts = collections.defaultdict(collections.Counter)
        self.faults = collections.defaultdict(list)
        self.kinds_of_break = collections.Counter()
        self.events = Events()
        self.a = l7net.Peer("legA", "10.9.1.1", "10.9.1.2")
        self.b = l7net.Peer("legB", "10.9.2.1", "10.9.2.2")
        self.servers = Servers(self.b)
        self.fast = Daemon("fast", 1234, 0, True, run_dir)
        self.steady = Daemon("steady", 1235, 1000, False, run_dir)
        self.daemons = {"fast": self.fast, "steady": self.steady}
        self.adoptions = []

    def count(self, daemon, kind, what, n=1):
        with self.lock:
            self.counts[f"{daemon} {kind}"][what] += n

    def fault(self, what, client, since, error):
        with self.lock:
            self.faults[what].append(f"{client.mine}: session {client.n}, {since - self.t0:.1f} s to "
                                     f"{now() - self.t0:.1f} s: {type(error).__name__}: {error}")

    def broken(self, client, since, error):
        """A session that did not come to its end: of an event, or else it is a fault."""
        why = self.events.disturbed(client.d.name, client.kind, since)
        self.count(client.d.name, client.kind, "disturbed" if why else "broken")
        with self.lock:
            self.kinds_of_break[f"{client.d.name} {client.kind}: {type(error).__name__} ({', '.join(why) or 'no event'})"] += 1
        if not why:
            self.fault("broken", client, since, error)

    # ---- actions ----

    def kill_fast(self, rng):
        with self.fast.lock:
            e = self.events.begin("kill", one_of(self, ["fast"], KINDS))
            self.fast.kill()
            time.sleep(rng.uniform(0, 1.5))
            self.fast.start()
            self.events.end(e)
            adopted = self.fast.p.api.get("/offload")[1].get("adopted")
        with self.lock:
            self.adoptions.append(adopted)

    def restart_fast(self, rng):
        with self.fast.lock:
            e = self.events.begin("restart", one_of(self, ["fast"], KINDS))
            self.fast.stop()
            time.sleep(rng.uniform(0, 0.5))
            self.fast.start()
            self.events.end(e)

    def link_down(self, rng):
        leg = rng.choice(("legA", "legB"))
        e = self.events.begin("link", one_of(self, DAEMONS, (UDP, TCP, WS, UNIX)))
        l7net.ip(f"link set {leg} down")
        time.sleep(rng.uniform(0.1, 2))
        l7net.ip(f"link set {leg} up")
        # Retransmissions back off while it is down.
        time.sleep(4)
        self.events.end(e)

    def flap(self, rng):
        e = self.events.begin("endpoint", one_of(self, DAEMONS, (TCP, UNIX)))
        self.servers.close_tcp(9102)
        time.sleep(rng.uniform(0.2, 4))
        self.servers.open_tcp(9102)
        self.events.end(e)

    def ask(self, daemon, method, path, body=None):
        """While the daemon is down nobody answers: that is the other action's affair."""
        d = self.daemons[daemon]
        with d.lock:
            if not d.p.alive():
                return None
            status, answer = d.p.api.call(method, path, body)
        self.count(daemon, "rest", "requests")
        if status >= 400:
            with self.lock:
                self.faults["rest"].append(f"{daemon}: {method} {path}: {status} {str(answer)[:200]}")
        return answer

    def rest_objects(self, rng):
        """A listener with all that belongs to it comes and goes; nobody else may notice."""
        d = rng.choice(DAEMONS)
        o = self.daemons[d].offset
        name = f"extra-{rng.randrange(1 << 30):x}"
        with self.daemons[d].lock:
            self.ask(d, "POST", "/clusters", {"cluster": {"name": f"c-{name}", "spec": {"protocol": "Echo"}}})
            self.ask(d, "POST", "/listeners", {"listener": {
                "name": name, "spec": {"protocol": "UDP", "address": "127.0.0.1", "port": 9900 + o},
                "rules": [{"name": f"r-{name}", "action": {"route": {"destination": f"c-{name}"}}}]}})
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.settimeout(REPLY_S)
                s.connect(("127.0.0.1", 9900 + o))
                s.send(name.encode())
                if s.recv(100) != name.encode():
                    raise Corrupt("of a listener that was added")
            self.ask(d, "DELETE", f"/listeners/{name}?recursive=true")
            self.ask(d, "DELETE", f"/clusters/c-{name}")

    def rest_endpoint(self, rng):
        """An endpoint more, drained, and away: sessions on the others must not notice."""
        d = rng.choice(DAEMONS)
        name = f"more-{rng.randrange(1 << 30):x}"
        with self.daemons[d].lock:
            self.ask(d, "POST", "/clusters/udp-up/endpoints",
                     {"endpoint": {"name": name, "spec": {"address": "10.9.2.2", "port": 9002}, "weight": 0}})
            self.ask(d, "DELETE", f"/endpoints/{name}")

    def rest_same(self, rng):
        """The config that is there, sent back: nothing changes."""
        d = rng.choice(DAEMONS)
        with self.daemons[d].lock:
            config = self.ask(d, "GET", "/config")
            if config:
                self.ask(d, "POST", "/config", {"config": config.get("config", config)})
        self.daemons[d].sample()

    def hup(self, rng):
        d = self.daemons[rng.choice(DAEMONS)]
        with d.lock:
            if d.p.alive():
                d.p.hup()

    # ---- the run ----

    def run(self, clients):
        self.t0 = now()
        for d in self.daemons.values():
            d.start()
        self.idle = {n: d.sample() for n, d in self.daemons.items()}
        threads, seed = [], self.seed * 1000
        for d in self.daemons.values():
            for kind in KINDS:
                for _ in range(clients):
                    seed += 1
                    threads.append(Client(self, d, kind, seed))
        disturbers = [
            Disturber(self, seed + 1, [self.kill_fast, self.kill_fast, self.kill_fast, self.restart_fast], (12, 30)),
            Disturber(self, seed + 2, [self.flap], (10, 25)),
            Disturber(self, seed + 3, [self.link_down], (30, 60)),
            Disturber(self, seed + 4, [self.rest_objects, self.rest_endpoint, self.rest_same, self.hup], (0.5, 3)),
        ]
        for t in threads + disturbers:
            t.start()
        end = self.t0 + self.seconds
        while now() < end and not self.over.wait(SAMPLE_S):
            for n, d in self.daemons.items():
                d.sample()
                if d.lock.acquire(blocking=False):
                    if not d.p.alive():
                        self.faults["crash"].append(f"{n}: ended by itself, status {d.p.process.returncode}: "
                                                    f"{d.p.stderr()[-2000:]}")
                        self.over.set()
                    d.lock.release()
        self.over.set()
        for t in disturbers + threads:
            t.join(3 * REPLY_S)
            if t.is_alive():
                self.faults["stuck"].append(getattr(t, "mine", "a disturber"))
        self.finish()

    def finish(self):
        """Without traffic all sessions end; then the daemons stop, and nothing is left of them."""
        self.left = {}
        for n, d in self.daemons.items():
            if not d.p.alive():
                continue

            def quiet(d=d):
                sessions = d.sessions()
                flows = d.p.api.get("/offload")[1]["flows"]["now"] if d.offload else 0
                return not sessions and not flows

            if not l7test.wait_for(quiet, 4 * IDLE_S):
                sessions = d.sessions()
                self.faults["left"].append(f"{n}: {len(sessions)} sessions, such as {json.dumps(sessions)[:1500]}")
            # The connection of the last request may still be closing.
            l7test.wait_for(lambda d=d, n=n: not self.idle[n] or d.p.fds() <= self.idle[n]["fds"], IDLE_S)
            self.left[n] = d.sample()
            try:
                d.stop()
            except AssertionError as e:
                self.faults["stop"].append(f"{n}: {e}")
        for leg in ("legA", "legB"):
            if l7net.filters(leg):
                self.faults["left"].append(f"tc filters at {leg}")
        pins = l7net.PINS / self.fast.instance
        if pins.exists():
            self.faults["left"].append(f"{pins}")

    # ---- the report ----

    def growth(self):
        """The steady one: median memory of the second and of the last quarter, KiB, and descriptors when idle."""
        rss = [s["rss_kb"] for s in self.steady.series]
        q = len(rss) // 4
        middle = lambda v: sorted(v)[len(v) // 2] if v else 0  # noqa: E731
        return middle(rss[q:2 * q]), middle(rss[3 * q:])

    def report(self):
        early, late = self.growth()
        zero = {
            "corrupt messages": len(self.faults["corrupt"]),
            "sessions broken without an event": len(self.faults["broken"]),
            "daemons that ended by themselves": len(self.faults["crash"]),
            "REST requests refused": len(self.faults["rest"]),
            "actions that failed": len(self.faults["action"]),
            "clients stuck": len(self.faults["stuck"]),
            "left behind (sessions, flows, filters, pins)": len(self.faults["left"]),
            "failed stops": len(self.faults["stop"]),
            "flows that contradicted each other at an adoption": sum(
                "used twice" in x["reason"] or "contradict" in x["reason"] or "directions" in x["reason"]
                for a in self.adoptions if isinstance(a, dict) for x in a["removals"]),
            "descriptors more than at start, both idle": sum(
                max(0, self.left[n]["fds"] - self.idle[n]["fds"]) for n in self.left if self.left[n] and self.idle[n]
                and (n == "steady" or len(self.fast.lives) == 1)),
            "steady: memory grew by more than a tenth and 4 MiB": int(late - early > max(early // 10, 4096)),
        }
        must_not = {"sessions that carried something, of each kind": all(
            self.counts[f"{d} {k}"]["whole"] for d in DAEMONS for k in KINDS),
            "flows in the kernel": self.fast.max_flows > 0}
        return {
            "seconds": round(now() - self.t0), "seed": self.seed,
            "events": dict(self.events.counts), "traffic": {k: dict(v) for k, v in sorted(self.counts.items())},
            "ends_by_events": dict(self.kinds_of_break.most_common()),
            "adoptions": self.adoptions,
            "most_flows": self.fast.max_flows,
            "lives": {n: [{k: v for k, v in life.items() if k != "offload"} for life in d.lives] for n, d in self.daemons.items()},
            "last_offload": next((li["offload"] for li in reversed(self.fast.lives) if "offload" in li), None),
            "steady_rss_kb": {"second quarter": early, "last quarter": late},
            "idle": {"begin": self.idle, "end": self.left},
            "must_be_zero": zero, "must_be_true": must_not,
            "faults": {k: v[:50] for k, v in self.faults.items() if v},
            "series": {n: d.series for n, d in self.daemons.items()},
        }


def text_of(r):
    lines = [f"soak of {r['seconds']} s, seed {r['seed']}", "", "events: " + ", ".join(
        f"{n} {what}" for what, n in sorted(r["events"].items())), "",
        f"{'traffic':18}{'sessions':>10}{'whole':>10}{'disturbed':>10}{'broken':>8}{'messages':>10}{'MB':>9}"]
    for kind, c in r["traffic"].items():
        if kind.endswith("rest"):
            lines.append(f"{kind:18}{c['requests']:>10} requests")
        else:
            lines.append(f"{kind:18}{c.get('sessions', 0):>10}{c.get('whole', 0):>10}{c.get('disturbed', 0):>10}"
                         f"{c.get('broken', 0):>8}{c.get('messages', 0):>10}{c.get('bytes', 0) / 1e6:>9.1f}")
    lines += ["", "how sessions ended early:"] + [f"  {n:6} {what}" for what, n in r["ends_by_events"].items()]
    adopted = [a for a in r["adoptions"] if isinstance(a, dict)]
    total = collections.Counter()
    for a in adopted:
        total.update({k: v for k, v in a.items() if isinstance(v, (int, float)) and not isinstance(v, bool)})
    lines += ["", f"flows in the kernel at most: {r['most_flows']}; adopted at {len(adopted)} starts: "
              + ", ".join(f"{k} {v:g}" for k, v in total.items())]
    rss = r["steady_rss_kb"]
    lines += [f"steady: memory {rss['second quarter']} KiB in the second quarter, {rss['last quarter']} KiB in the last"]
    for n in DAEMONS:
        b, e = r["idle"]["begin"].get(n), r["idle"]["end"].get(n)
        if b and e:
            lines.append(f"{n}: idle at start {b['rss_kb']} KiB, {b['fds']} descriptors; at the end {e['rss_kb']} KiB, {e['fds']}")
    lines += ["", "must be zero:"] + [f"  {n:6} {what}" for what, n in r["must_be_zero"].items()]
    lines += ["must be:"] + [f"  {'yes' if n else 'NO':6} {what}" for what, n in r["must_be_true"].items()]
    for what, faults in r["faults"].items():
        lines += ["", f"{what}:"] + [f"  {f}" for f in faults[:20]]
    ok = not any(r["must_be_zero"].values()) and all(r["must_be_true"].values())
    return "\n".join(lines + ["", "passed" if ok else "FAILED"]) + "\n", ok


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--seconds", type=int, default=600)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--clients", type=int, default=2, help="of each kind, for each daemon")
    args = ap.parse_args()
    if not l7test.ISOLATED:
        sys.exit("soak: needs root, for network namespaces")
    if not os.path.ismount("/sys/fs/bpf"):
        l7net.sh("mount", "-t", "bpf", "-o", "mode=0755", "bpf", "/sys/fs/bpf")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    import tempfile
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="l7mp-soak-") as run_dir:
        soak = Soak(args.seconds, args.seed, run_dir)
        try:
            soak.run(args.clients)
            report = soak.report()
        finally:
            soak.over.set()
            l7test.Proxy.kill_left()
            soak.a.close()
            soak.b.close()
    (OUT / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    text, ok = text_of(report)
    (OUT / "report.txt").write_text(text)
    print(text, end="", flush=True)
    os._exit(0 if ok else 1)  # threads may still block


if __name__ == "__main__":
    main()
