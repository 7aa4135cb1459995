#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=600 timeout_full=1800
"""TCP sessions in the kernel with all that two connections may have agreed on: window scales 0 to 14 and none, SACK, time
stamps, ECN, segment sizes from 536 to 8,960. Bulk both ways is compared byte by byte, in the kernel, out of it and in again."""
import itertools
import pathlib
import random
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7net  # noqa: E402
import l7test  # noqa: E402
import tcpflow  # noqa: E402
from tcpproof import ECN, SACK, SCALING, TIMESTAMPS, Info, Proof  # noqa: E402

MTU = 9020  # for 8,960 bytes of payload in IPv6
MSS = (536, 1220, 1460, 4000, 8960)
# Of the client's connection and of the server's. A scale is that of what its owner receives; None: no scaling.
FACTORS = {
    "v6": (False, True),
    "client_scale": (*range(15), None), "near_scale": tuple(range(15)),
    "far_scale": tuple(range(15)), "server_scale": (*range(15), None),
    "client_sack": (True, False), "server_sack": (True, False),
    "client_ts": (True, False), "server_ts": (True, False),
    "client_ecn": (True, False), "server_ecn": (True, False),
    "client_mss": MSS, "server_mss": MSS,
}
# Those whose difference is a reason to stay in user space are mostly alike, so that most rows go in.
ALIKE = (("client_ts", "server_ts", "tcp-timestamps"), ("client_ecn", "server_ecn", "tcp-ecn"), ("client_mss", "server_mss", "tcp-mss"))


def pairwise(factors, rng, tries=40):
    """
    Rows (dicts) in which any two values of any two factors come together, but for those that ALIKE keeps apart:
    they come together once each. Greedy: each row is the best of some random ones.
    """
    names = list(factors)
    apart = {frozenset(x[:2]) for x in ALIKE}
    wanted = {(a, x, b, y) for a, b in itertools.combinations(names, 2) if frozenset((a, b)) not in apart
              for x in factors[a] for y in factors[b]}
    rows = []

    def covered(row):
        return {(a, row[a], b, row[b]) for a, b in itertools.combinations(names, 2)} & wanted
    while wanted:
        seed = dict(itertools.islice(zip(*[iter(rng.choice(sorted(wanted, key=str)))] * 2), 2))
        made = []
        for _ in range(tries):
            row = {n: seed.get(n, rng.choice(factors[n])) for n in names}
            for a, b, _ in ALIKE:
                keep, change = (a, b) if a in seed else (b, a)
                row[change] = row[keep]
            made.append((len(covered(row)), len(made), row))
        best = max(made)[2]
        wanted -= covered(best)
        rows.append(best)
    for a, b, _ in ALIKE:  # one difference at a time
        for x, y in itertools.permutations(factors[a], 2):
            row = {n: rng.choice(factors[n]) for n in names}
            for c, d, _ in ALIKE:
                row[d] = row[c]
            row[a], row[b] = x, y
            rows.append(row)
    return rows


def fast_rows(rng):
    """Each scale in each of the four places, the other factors pairwise."""
    few = pairwise({n: (v if len(v) <= 5 else (v[0],)) for n, v in FACTORS.items()}, rng)
    same = [r for r in few if all(r[a] == r[b] for a, b, _ in ALIKE)]
    other = [r for r in few if r not in same]
    rows = []
    for _ in range(2):
        scales = {n: rng.sample(v, len(v)) for n, v in FACTORS.items() if len(v) > 5}
        rows += [dict(same[i % len(same)], **{n: v[i % len(v)] for n, v in scales.items()}) for i in range(max(16, len(same)))]
    return rows + [r for reason in ALIKE for r in rng.sample([r for r in other if expected(r) == reason[2]], 2)]


def expected(row):
    """
    Why the session stays in user space; "": it does not. What a peer may send has to fit into the other connection,
    and both have been told the same size here.
    """
    for a, b, reason in ALIKE:
        if row[a] != row[b]:
            return reason
    return ""


class Options(Proof):
    def config(self, *args, **kw):
        config = super().config(*args, **kw)
        v4 = config["listeners"][0]
        route = {"destination": {"name": "up6", "spec": {"protocol": "TCP", "port": 9001}, "endpoints": [{"spec": {"address": "fd09:2::2"}}]}}
        config["listeners"].append({"name": "tcp6", "spec": dict(v4["spec"], address="fd09:1::1"), "rules": [{"action": {"route": route}}]})
        return config

    def setUp(self):
        super().setUp()
        for peer in (self.a, self.b):
            peer.run(f"ip link set eth0 mtu {MTU}")
            peer.run("sysctl -qw net.ipv4.tcp_ecn_fallback=0")
            l7net.ip(f"link set {peer.leg} mtu {MTU}")
        self.sysctl("net.ipv4.tcp_rmem", "4096 131072 1073741824")
        self.sysctl("net.ipv4.tcp_ecn", 1)  # asked for upstream, given to clients

    def agree(self, row):
        """Settings of the three hosts with which the connections agree on what the row says."""
        def metrics(mss, scale):
            # The window's limit decides on the scale: the highest that needs no other.
            return f"advmss {mss} window {(65536 << (scale or 0)) - 1 if scale != 14 else 1 << 30}"

        def peer_settings(peer, name, to4, to6):
            scale, mss = row[f"{name}_scale"], row[f"{name}_mss"]
            values = {"tcp_window_scaling": int(scale is not None), "tcp_sack": int(row[f"{name}_sack"]),
                      "tcp_timestamps": int(row[f"{name}_ts"]), "tcp_ecn": (1 if name == "client" else 2) if row[f"{name}_ecn"] else 0}
            script = ["echo '4096 131072 1073741824' >/proc/sys/net/ipv4/tcp_rmem"]
            script += [f"echo {v} >/proc/sys/net/ipv4/{k}" for k, v in values.items()]
            script += [f"ip {f} route replace {to} dev eth0 {metrics(mss, scale)}" for f, to in (("-4", to4), ("-6", to6))]
            l7net.sh("nsenter", f"--net={peer.path}", "sh", "-ec", "\n".join(script))
        peer_settings(self.a, "client", self.a.gateway4, self.a.gateway6)
        peer_settings(self.b, "server", self.b.gateway4, self.b.gateway6)
        for leg, n, name, scale in (("legA", 1, "client", "near_scale"), ("legB", 2, "server", "far_scale")):
            how = metrics(row[f"{name}_mss"], row[scale])
            l7net.ip(f"route replace 10.9.{n}.0/24 dev {leg} src 10.9.{n}.1 {how}")
            l7net.ip(f"-6 route replace fd09:{n}::2/128 dev {leg} {how}")

    def agreed(self, sock, name, own, other, row):
        """The connection of a peer is what the row asks for."""
        info = Info(sock)
        scaling = row[f"{name}_scale"] is not None
        want = (TIMESTAMPS * row[f"{name}_ts"] | SACK * row[f"{name}_sack"] | SCALING * scaling | ECN * row[f"{name}_ecn"])
        self.assertEqual(info.options & (TIMESTAMPS | SACK | SCALING | ECN), want, (name, row))
        if scaling:
            self.assertEqual((info.rcv_wscale, info.snd_wscale), (row[own], row[other]), (name, row))
        self.assertEqual(info.snd_mss, row[f"{name}_mss"] - (12 if row[f"{name}_ts"] else 0), (name, row))

    def one(self, p, row, server):
        self.agree(row)
        c = tcpflow.connect(self.a, (self.a.gateway6 if row["v6"] else self.a.gateway4, 9000))
        s = tcpflow.accept(server[row["v6"]])
        self.agreed(c, "client", "client_scale", "near_scale", row)
        self.agreed(s, "server", "server_scale", "far_scale", row)
        end = self.ends(c, s, rate=8 << 20)
        reason = expected(row)
        if reason:
            self.wait_reason(p, reason)
            self.stays_slow(p, 1 << 18)
        else:
            self.stays_fast(p, 1 << 18)
            self.leave(p)  # by sockets that are made again with all this
            self.stays_slow(p, 1 << 18)
            p.api.post("/admin", {"admin": {"offload_tcp": {"enabled": True}}})
            self.stays_fast(p, 1 << 18)
        self.over(end)
        self.wait(lambda: self.session(p) is None, p)
        return reason

    def check(self, rows):
        before, seen = self.bad_checksums(), []
        with self.proxy(tcp={"after_bytes": 0, "after_ms": 0}) as p:
            server = {False: self.servers[False], True: tcpflow.listener(self.b, 9001, self.b.own6)}
            self.addCleanup(server[True].close)
            for row in rows:
                with self.subTest(**row):
                    seen.append(self.one(p, row, server))
            self.nothing_left(p)
        self.assertEqual(self.bad_checksums(), before)
        self.assertEqual(set(seen), {"", *(r for _, _, r in ALIKE)})
        self.assertGreater(seen.count(""), len(rows) // 2)
        print(f"# {len(rows)} rows, {seen.count('')} in the kernel", flush=True)

    def test_matrix(self):
        """options of both connections in combinations: in the kernel, or refused with the reason, and every byte arrives"""
        rng = random.Random(5)
        rows = pairwise(FACTORS, rng) if l7test.FULL else fast_rows(rng)
        for name in ("client_scale", "near_scale", "far_scale", "server_scale"):
            self.assertEqual({r[name] for r in rows if not expected(r)}, set(FACTORS[name]), name)
        self.check(rows)

    def test_tables(self):
        """pairwise: any two values come together"""
        rows = pairwise({n: v for n, v in FACTORS.items() if len(v) <= 5}, random.Random(1))
        for a, b in itertools.combinations([n for n, v in FACTORS.items() if len(v) <= 5], 2):
            self.assertEqual({(r[a], r[b]) for r in rows}, set(itertools.product(FACTORS[a], FACTORS[b])), (a, b))


if __name__ == "__main__":
    l7test.main()
