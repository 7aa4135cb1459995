#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=300
"""rtnetlink loses messages when a reader is too slow (ENOBUFS): an interface whose deletion was among them is not shown
or used any more, and one that took its place is served."""
import pathlib
import signal
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import l7net  # noqa: E402
import l7test  # noqa: E402
from test_offload_basic import Base  # noqa: E402

CHANGES = 30_000  # of some 2 KiB each in the socket's buffer, which is 16 MiB


class LostEvents(Base):
    def test_deleted_link(self):
        """a link is deleted while its events are lost"""
        client, server = self.a.udp(5000), self.b.udp(9001)
        l7net.ip("link add gone0 type veth peer name gone1")
        with self.proxy(ifs="legA,legB,gone0") as p:
            def names():
                return sorted(i["name"] for i in p.api.get("/offload")[1]["interfaces"])
            self.ping(client, server)
            self.wait_fast(p)
            self.assertEqual(names(), ["gone0", "legA", "legB"])
            p.process.send_signal(signal.SIGSTOP)
            try:
                # What is full already takes no more: the deletion is lost.
                batch = "".join(f"link set legA alias x{i}\n" for i in range(CHANGES))
                subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True)
                l7net.ip("link del gone0")
            finally:
                p.process.send_signal(signal.SIGCONT)
            self.assertTrue(l7test.wait_for(lambda: "events were lost" in p.stderr(), l7net.WAIT), p.stderr()[-2000:])
            self.assertTrue(l7test.wait_for(lambda: names() == ["legA", "legB"], l7net.WAIT), names())
            self.ping(client, server)


if __name__ == "__main__":
    l7test.main()
