# SPDX-License-Identifier: MIT
"""What the tests of TCP in the kernel show of a session: that it is there, by counters, or that it is not."""
import pathlib
import socket
import struct

import tcpflow
from tcpsplice import Base

RATE = 16 << 20  # bytes per second of each end
WAYS = ("ingress", "egress")
TCP_MD5SIG = 14
# tcpi_options
TIMESTAMPS, SACK, SCALING, ECN = 1, 2, 4, 8


class Info:
    """The parts of TCP_INFO that tell what two ends have agreed on."""

    def __init__(self, sock):
        data = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
        self.options = data[5]
        self.snd_wscale, self.rcv_wscale = data[6] & 15, data[6] >> 4
        self.snd_mss, = struct.unpack_from("I", data, 16)


class Proof(Base):
    """Bulk both ways whose every byte is compared, and where it passes."""

    def setUp(self):
        super().setUp()
        before = self.bad_checksums()
        # Before the namespaces go.
        self.addCleanup(lambda: self.assertEqual(self.bad_checksums(), before, "TcpInCsumErrors"))

    def bulk(self, total=None, rate=RATE, **kw):
        """A connection on which both ends send: (client's end, server's end)."""
        return self.ends(*self.connect(**kw), total=total, rate=rate)

    @staticmethod
    def ends(c, s, total=None, rate=RATE):
        return tcpflow.Both(c, 1, 2, total, rate=rate), tcpflow.Both(s, 2, 1, total, rate=rate)

    def sysctl(self, name, value):
        """Sets one of the gateway's namespace until the test ends."""
        path = pathlib.Path("/proc/sys", *name.split("."))
        before = path.read_text()
        path.write_text(str(value))
        self.addCleanup(path.write_text, before)

    def over(self, end):
        """Both ends stop; all that they sent has arrived, once and in order."""
        for e in end:
            e.sender.stop()
        self.finish([end])

    def ping(self, c, s, data=b"x" * 4000):
        c.sendall(data)
        self.assertEqual(self.exactly(s, len(data)), data)
        s.sendall(data[::-1])
        self.assertEqual(self.exactly(c, len(data)), data[::-1])

    def fast_pair(self, p, more=1, **kw):
        """A connection that only carries pings, in the kernel: (client's socket, server's socket)."""
        c, s = self.connect(**kw)
        self.stays_fast(p, more, move=lambda: self.ping(c, s))
        return c, s

    @staticmethod
    def bytes_of(session, way, where):
        return session["stats"][way][where]["bytes"]

    def stays_fast(self, p, more=1 << 20, ways=WAYS, move=None):
        """
        The only session is in the kernel: the bytes of its flows rise by `more` each way, those of user space stand
        still. `move` is called again and again, when nothing else makes traffic. Returns the session.
        """
        def fast():
            if move:
                move()
            s = self.session(p)
            return s if s and s["offload"]["state"] == "fast" else None
        first = self.wait(fast, p)
        self.assertEqual({f["action"] for f in p.api.get("/offload/flows")[1]}, {"splice"})

        def moved():
            if move:
                move()
            now = self.session(p)
            return now if now and all(self.bytes_of(now, w, "fast") >= self.bytes_of(first, w, "fast") + more for w in ways) else None
        now = self.wait(moved, p)
        for way in WAYS:
            self.assertEqual(now["stats"][way]["slow"], first["stats"][way]["slow"])
        self.assertEqual(now["offload"]["state"], "fast")
        return now

    def stays_slow(self, p, more=1 << 20):
        """The only session is in user space: its bytes rise there, and no flow has any."""
        first = self.session(p)

        def moved():
            now = self.session(p)
            return now if now and all(self.bytes_of(now, w, "slow") >= self.bytes_of(first, w, "slow") + more for w in WAYS) else None
        now = self.wait(moved, p)
        for way in WAYS:
            self.assertEqual(now["stats"][way]["fast"], first["stats"][way]["fast"])
        return now

    def wait_reason(self, p, *reasons):
        """Until the session is out of the kernel, or was never in, for one of these."""
        def there():
            s = self.session(p)
            return s if s and all(d["reason"] in reasons for d in s["offload"]["directions"]) else None
        return self.wait(there, p)

    def refused(self, p, reason, **kw):
        """A session that begins now stays in user space for this reason, and all its bytes arrive."""
        end = self.bulk(**kw)
        self.wait_reason(p, reason)
        self.stays_slow(p)
        self.over(end)
        self.assertEqual(self.logged(p)["ingress"]["fast"]["bytes"], 0)

    def phase(self, p, *names):
        """Waits until the session is in one of these phases."""
        def there():
            s = self.session(p)
            return s if s and s["offload"]["directions"][0]["phase"] in names else None
        return self.wait(there, p)

    def again(self, p):
        """Into the kernel, after leave()."""
        p.api.post("/admin", {"admin": {"offload_tcp": {"enabled": True}}})
