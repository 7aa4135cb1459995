# SPDX-License-Identifier: MIT
"""What the tests of TCP in the kernel share: a gateway with two legs, the proxy on it, peers that compare every byte."""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import l7net
import l7test
import tcpflow


class Base(l7net.Gateway):
    def setUp(self):
        super().setUp()
        # nothing_left() waits for sockets in FIN-WAIT-2 that belong to no process any more: else a minute.
        pathlib.Path("/proc/sys/net/ipv4/tcp_fin_timeout").write_text("2")
        self.addCleanup(l7net.ip, "rule del pref 50", check=False)
        self.servers = {}
        self.log = None

    def config(self, v6=False, tcp=None, ingress=(), options=None, **admin):
        address, up = ("fd09:1::1", "fd09:2::2") if v6 else ("10.9.1.1", "10.9.2.2")
        return {
            "admin": {"offload": "init", "offload_ifs": "legA,legB", "instance": self.instance, "log_level": "verbose",
                      "access_log_path": self.log, **({"offload_tcp": tcp} if tcp else {}), **admin},
            "clusters": [{"name": "log", "spec": {"protocol": "Logger", "log_file": "/dev/null"}},
                         {"name": "count", "spec": {"protocol": "Metric"}}],
            "listeners": [
                {"name": "tcp", "spec": {"protocol": "TCP", "address": address, "port": 9000},
                 **({"options": options} if options else {}),
                 "rules": [{"action": {"route": {"ingress": list(ingress), "destination": {
                     "name": "up", "spec": {"protocol": "TCP", "port": 9001},
                     "endpoints": [{"spec": {"address": up}}]}}}}]},
                l7test.controller(),
            ],
        }

    def proxy(self, v6=False, tcp=None, mss=None, wrapper=(), **more):
        directory = tempfile.mkdtemp(prefix="l7mp-")
        self.addCleanup(lambda: [f.unlink() for f in pathlib.Path(directory).iterdir()] and None or
                        pathlib.Path(directory).rmdir())
        self.log = directory + "/access.log"
        for s in self.servers.values():
            s.close()
        self.servers = {v6: tcpflow.listener(self.b, 9001, self.b.own6 if v6 else self.b.own4, mss=mss)}
        self.addCleanup(self.servers[v6].close)
        return l7test.Proxy(self.config(v6, tcp, **more), wrapper=wrapper)

    def connect(self, v6=False, bind=0, port=9000):
        """A connection through the proxy: the client's socket and the server's."""
        c = tcpflow.connect(self.a, (self.a.gateway6 if v6 else self.a.gateway4, port), bind)
        return c, tcpflow.accept(self.servers[v6])

    exactly = staticmethod(tcpflow.exactly)

    def ping(self, c, s, data=b"x" * 4000):
        """Both ways, and back."""
        c.sendall(data)
        self.assertEqual(self.exactly(s, len(data)), data)
        s.sendall(data[::-1])
        self.assertEqual(self.exactly(c, len(data)), data[::-1])

    def fast_pair(self, p, **kw):
        """A connection in the kernel: the client's socket and the server's."""
        c, s = self.connect(**kw)

        def fast():
            self.ping(c, s)
            x = self.session(p)
            return x if x and x["offload"]["state"] == "fast" else None
        self.wait(fast, p)
        return c, s

    # ---- what the proxy says ----

    @staticmethod
    def session(p):
        for s in p.api.get("/sessions")[1]:
            if s["name"].startswith("TCP:"):
                return s
        return None

    def reason(self, p):
        s = self.session(p)
        return s and s["offload"]["directions"][0]["reason"]

    def picture(self):
        """For a failed test: the pairs in the kernel, the sockets of all three namespaces."""
        dump = l7net.sh("bpftool", "-j", "map", "dump", "pinned", str(self.pins / "tcp_pairs"), check=False)
        pairs = [e for e in json.loads(dump or "[]") if e.get("formatted", e)["value"]["phase"]]
        text = "\n".join(json.dumps(e.get("formatted", e)) for e in pairs[:4])
        for name, run in (("gateway", lambda t: l7net.sh(*t.split())), ("client", self.a.run), ("server", self.b.run)):
            text += f"\n{name}:\n" + "\n".join(x for x in run("ss -tnaeiOH").splitlines() if ":1234 " not in x)[:6000]
        return text

    def wait(self, what, p=None):
        got = l7test.wait_for(lambda: what() or None, 2 * l7net.WAIT)
        if got is None:
            self.fail(f"in vain: {p and json.dumps(self.session(p))} {p and json.dumps(p.api.get('/offload')[1])} "
                      f"{self.picture()} {p and self.log_of(p)}")
        return got

    @staticmethod
    def log_of(p):
        """The end of the proxy's log, without the test's own requests."""
        return "\n".join([line for line in p.stderr().splitlines() if " session HTTP:" not in line][-40:])

    def wait_fast(self, p):
        def fast():
            s = self.session(p)
            return s if s and s["offload"]["state"] == "fast" else None
        return self.wait(fast, p)

    def leave(self, p):
        """Takes the session out of the kernel."""
        p.api.post("/admin", {"admin": {"offload_tcp": {"enabled": False}}})
        self.wait(lambda: self.reason(p) == "disabled", p)

    def access(self):
        try:
            return [json.loads(line) for line in pathlib.Path(self.log).read_text().splitlines()
                    if json.loads(line)["source"]["listener"] == "tcp"]
        except FileNotFoundError:
            return []

    def logged(self, p):
        """The last line of the access log, when there is one for each session that has begun."""
        def whole():
            lines = self.access()
            return lines if lines and len(lines) >= p.stderr().count(": begins (listener tcp,") else None
        self.wait(lambda: self.session(p) is None, p)
        return self.wait(whole, p)[-1]

    # ---- checks ----

    def join(self, *threads):
        for t in threads:
            t.join(4 * l7net.WAIT)
            self.assertFalse(t.is_alive(), "hangs")

    def finish(self, ends, total=None):
        """All that was sent has arrived, and was right."""
        for pair in ends:
            for one, other in (pair, pair[::-1]):
                self.join(one.sender, other.receiver)
                self.assertIsNone(one.sender.error)
                self.assertIsNone(other.receiver.error)
                self.assertIsNone(other.receiver.wrong)
                self.assertEqual(one.sender.sent, other.receiver.received)
                self.assertEqual(one.sender.hash.digest(), other.receiver.hash.digest())
                if total:
                    self.assertEqual(one.sender.sent, total)
            for e in pair:
                e.close()

    def nothing_left(self, p):
        """No session, flow, pair or socket, some seconds after the end."""
        self.wait(lambda: self.session(p) is None, p)
        self.wait(lambda: p.api.get("/offload")[1]["flows"]["now"] == 0, p)
        used = {m["name"]: m["entries"] for m in p.api.get("/offload")[1]["maps"]}
        self.assertEqual(used.get("tcp_pairs", 0), 0)
        self.assertEqual(used["flows4"] + used["flows6"], 0)

        def sockets():
            lines = l7net.sh("ss", "-Htan", "( sport = 9000 or dport = 9001 )").splitlines()
            return [x for x in lines if not re.match(r"LISTEN|TIME-WAIT", x)]
        self.wait(lambda: not sockets(), p)

    def bad_checksums(self):
        """TcpInCsumErrors of all three namespaces."""
        n = 0
        for text in (l7net.sh("nstat", "-asz", "TcpInCsumErrors"), self.a.run("nstat -asz TcpInCsumErrors"),
                     self.b.run("nstat -asz TcpInCsumErrors")):
            n += int(re.search(r"TcpInCsumErrors\s+(\d+)", text).group(1))
        return n

    def second_leg(self):
        """Another way to the server, by an interface that is not served."""
        l7net.ip(f"link add legC type veth peer name eth1 netns {self.b.name}")
        self.addCleanup(l7net.ip, "link del legC", check=False)
        l7net.ip("link set legC up")
        l7net.ip("addr add 10.9.3.1/24 dev legC")
        self.b.run("ip link set eth1 up")
        self.b.run("ip addr add 10.9.3.2/24 dev eth1")

    @staticmethod
    def toggle(n):
        """Routes depend on ports, or (n odd) not any more: all flows are added again."""
        l7net.ip(f"rule {'del' if n % 2 else 'add'} pref 50 ipproto tcp dport 7 lookup main")

    def bad_link(self, loss=0, reorder=0, duplicate=0, delay=0, seed=1):
        """Puts a namespace between the client and the gateway that treats frames badly; `delay`: seconds, each way."""
        a = self.a
        name = f"{a.name}w"
        l7net.ip(f"netns add {name}")
        self.addCleanup(l7net.ip, f"netns del {name}", check=False)

        def inside(text):
            l7net.sh("nsenter", f"--net=/run/netns/{name}", *text.split())
        l7net.ip(f"link del {a.leg}")
        l7net.ip(f"link add {a.leg} type veth peer name out netns {name}")
        l7net.ip(f"link set {a.leg} up")
        l7net.ip(f"addr add {a.gateway4}/24 dev {a.leg}")
        l7net.ip(f"-6 addr add {a.gateway6}/64 dev {a.leg} nodad")
        l7net.sh("nsenter", f"--net={a.path}", "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "in", "netns",
                 name)
        a.run("ip link set eth0 up")
        a.run(f"ip addr add {a.own4}/24 dev eth0")
        a.run(f"ip -6 addr add {a.own6}/64 dev eth0 nodad")
        a.run(f"ip route add default via {a.gateway4}")
        a.run(f"ip -6 route add default via {a.gateway6}")
        for device in ("in", "out"):
            inside(f"ip link set {device} up")
            inside(f"ethtool -K {device} gro off")
        # Frames of their own size, with checksums that are complete.
        a.run("ethtool -K eth0 tx off tso off gso off gro off")
        l7net.sh("ethtool", "-K", a.leg, "tx", "off", "tso", "off", "gso", "off", "gro", "off")
        p = subprocess.Popen(["nsenter", f"--net=/run/netns/{name}", sys.executable,
                              str(pathlib.Path(__file__).with_name("impair.py")), "in", "out", str(loss), str(reorder),
                              str(duplicate), str(seed), str(delay)], stdout=subprocess.PIPE, text=True)
        self.addCleanup(p.wait)
        self.addCleanup(p.kill)
        self.assertEqual(p.stdout.readline().strip(), "ready")
        self.addCleanup(p.stdout.close)
