#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: long timeout=900
"""systemctl restart with the fast path: sessions of UDP and TCP leave the kernel, their sockets wait with the service manager, and
the next process has the sessions in the kernel again."""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import l7net  # noqa: E402
import l7test  # noqa: E402
import systemd  # noqa: E402
import tcpflow  # noqa: E402
import test_offload_adopt as adopt  # noqa: E402
import test_tcp_adopt as tcp  # noqa: E402

UDP_SESSIONS = 500 if l7test.FULL else 30
TCP_SESSIONS = 50 if l7test.FULL else 6
RESTARTS = 10 if l7test.FULL else 2
ADMIN = 1235


class Restart(tcp.Streams):
    test_go_on = None

    def back(self, p, n):
        """All are in the kernel again, but for those whose new socket has measured another round trip (BBR compares both: tcp-rtt)."""
        def there():
            s = self.tcp_sessions(p)
            states = [x["offload"]["state"] for x in s.values()]
            may = [x["offload"]["state"] == "fast" or x["offload"]["directions"][0]["reason"] == "tcp-rtt" for x in s.values()]
            return len(s) == n and all(may) and states.count("fast") > n // 2 and s
        got = l7test.wait_for(there, l7net.WAIT)
        self.assertTrue(got, [s["offload"] for s in self.tcp_sessions(p).values() if s["offload"]["state"] != "fast"])
        return got

    @staticmethod
    def late(p):
        """How many datagrams may have been overtaken when their flows moved into the kernel on a busy machine: docs/fastpath.md, the hand-over."""
        flows = p.api.get("/offload")[1]["flows"]
        return flows["handover_late"] + flows["handover_forced"]

    def test_again_and_again(self):
        """under traffic both ways: each datagram and each byte arrives once, no reset, names and counters continue; nothing is left"""
        cfg = self.config()
        cfg["admin"]["server"] = {"enabled": True, "address": "127.0.0.1", "port": ADMIN}
        resets = [tcp.Resets(self.a), tcp.Resets(self.b)]
        udp = adopt.Traffic(self.a, self.b, UDP_SESSIONS, 500)
        self.addCleanup(udp.close)
        service = systemd.Service(cfg, ADMIN)
        self.addCleanup(service.kill)
        udp.begin()
        self.wait_fast(service.proxy, UDP_SESSIONS)
        conns = [self.connect(v6=i % 4 == 3) for i in range(TCP_SESSIONS)]
        ends = [(tcpflow.Both(c, 2 * i, 2 * i + 1, rate=tcp.RATE), tcpflow.Both(s, 2 * i + 1, 2 * i, rate=tcp.RATE))
                for i, (c, s) in enumerate(conns)]
        self.all_fast(service.proxy, TCP_SESSIONS)
        udp.run()
        was = {**self.sessions(service.proxy), **self.tcp_sessions(service.proxy)}
        late = 0
        for _ in range(RESTARTS):
            late += self.late(service.proxy)
            service.restart()
            self.assertIn(f"the service manager keeps {UDP_SESSIONS + TCP_SESSIONS} sessions; 0 others end", service.log)
            now = {**self.wait_fast(service.proxy, UDP_SESSIONS), **self.back(service.proxy, TCP_SESSIONS)}
            self.assertEqual(now.keys(), was.keys())
            for name, s in now.items():
                self.assertEqual(s["metadata"], was[name]["metadata"])
                for way in ("ingress", "egress"):
                    for what in ("packets", "bytes"):
                        self.assertGreaterEqual(s["stats"][way][what], was[name]["stats"][way][what], name)
            was = now
        self.assertEqual((udp.pause(), udp.moved, udp.again), ((0, 0), 0, 0), service.proxy.stderr())
        self.assertLessEqual(udp.overtaken, late + self.late(service.proxy))
        for way, index in (("ingress", 0), ("egress", 1)):
            counted = sum(s["stats"][way]["packets"] for s in self.sessions(service.proxy).values())
            self.assertEqual(counted, sum(udp.sent[index]), way)
        self.finish(ends)
        self.assertTrue(l7test.wait_for(lambda: not self.tcp_sessions(service.proxy), l7net.WAIT), json.dumps(service.messages))
        self.assertEqual([r.close() for r in resets], [[], []])
        service.stop()
        self.nothing_left()


if __name__ == "__main__":
    l7test.main()
