#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: full timeout=600
"""Clients and servers that others have written, over TCP sessions in the kernel: iperf3, curl and nginx, HAProxy, OpenSSH,
PostgreSQL, WebSocket. Each test sees that the bytes pass in the kernel and that user space's stand still."""
import asyncio
import hashlib
import json
import os
import pathlib
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import l7test  # noqa: E402
import tcpflow  # noqa: E402
import websockets  # noqa: E402
from tcpproof import WAYS, Proof  # noqa: E402

MB = 1 << 20
SIZE = (1024 if l7test.FULL else 24) * MB


def need(*programs):
    """Skips a test unless these are installed."""
    missing = [p for p in programs if not shutil.which(p)]
    return unittest.skipIf(missing, f"not installed: {', '.join(missing)}")


def postgres_bin():
    """Debian's folder of the newest server."""
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[-3]))
    return found[-1].parent if found else None


def digest(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


class Peers(Proof):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory(prefix="l7mp-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.folder.chmod(0o755)

    # ---- programs in the peers' namespaces ----

    def start(self, peer, *cmd, **kw):
        """Runs until the test ends; its output is in the file `out`."""
        with open(self.folder / "out", "ab") as out:
            p = peer.popen(*map(str, cmd), stdin=subprocess.DEVNULL, stdout=out, stderr=out, **kw)

        def end():
            if p.poll() is None:
                p.terminate()
            try:
                p.wait(60)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
        self.addCleanup(end)
        return p

    def serve(self, peer, port, *cmd, **kw):
        """Starts a server and waits until it listens."""
        p = self.start(peer, *cmd, **kw)
        self.wait(lambda: p.poll() is not None or peer.run(f"ss -Htln sport = {port}"))
        self.assertIsNone(p.poll(), f"{cmd[0]}: {(self.folder / 'out').read_text()}")
        return p

    def client(self, *cmd, peer=None, timeout=200, **kw):
        """A thread that runs a client to its end. Its `result` is there after join()."""
        thread = threading.Thread(target=lambda: setattr(thread, "result", subprocess.run(
            ["nsenter", f"--net={(peer or self.a).path}", *map(str, cmd)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=timeout * l7test.SLOW, check=False, **kw)), daemon=True)
        thread.result = None
        thread.start()
        return thread

    def ended(self, thread):
        """The client's output."""
        self.join(thread)
        self.assertIsNotNone(thread.result, "timed out")
        self.assertEqual(thread.result.returncode, 0, thread.result.stderr + thread.result.stdout)
        return thread.result.stdout

    # ---- where the bytes pass ----

    @staticmethod
    def session(p):
        """The one with the most bytes."""
        found = [s for s in p.api.get("/sessions")[1] if s["name"].startswith("TCP:")]
        return max(found, key=lambda s: sum(s["stats"][w]["bytes"] for w in WAYS), default=None)

    def fast_share(self, n=1):
        """Of the bytes of all sessions that have ended, how many passed in the kernel; there are `n` at least."""
        self.wait(lambda: len(self.access()) >= n)
        ends = [line[w] for line in self.access() for w in WAYS]
        return sum(e["fast"]["bytes"] for e in ends) / sum(e["bytes"] for e in ends)

    def new_file(self, name="data", size=SIZE):
        path = self.folder / name
        block = os.urandom(MB)
        with open(path, "wb") as f:
            for i in range(size // MB):
                f.write(block[i % 251:] + block[:i % 251])
        return path

    def nginx(self):
        """nginx on the server's side, with the folder's files."""
        (self.folder / "nginx.conf").write_text(f"""
daemon off; master_process off; user root; pid {self.folder}/nginx.pid; error_log {self.folder}/error.log;
events {{ worker_connections 100; }}
http {{ access_log off; sendfile on; server {{ listen 10.9.2.2:9001; root {self.folder}; }} }}
""")
        self.serve(self.b, 9001, "nginx", "-p", self.folder, "-e", self.folder / "error.log", "-c", self.folder / "nginx.conf")

    def proxy(self, **kw):
        p = super().proxy(**kw)
        self.servers[False].close()  # the port is another server's
        return p

    # ---- tests ----

    @need("iperf3")
    def test_iperf3(self):
        """iperf3: up, down, both ways, eight at once"""
        with self.proxy() as p:
            self.serve(self.b, 9001, "iperf3", "-s", "-p", 9001)
            for how, ways in (((), ("ingress",)), (("-R",), ("egress",)), (("--bidir",), ())):
                c = self.client("iperf3", "-c", "10.9.1.1", "-p", 9000, "-n", "320M", "-J", *how)
                if ways:
                    self.stays_fast(p, 4 * MB, ways)
                out = json.loads(self.ended(c))
                self.assertNotIn("error", out)
                self.assertGreater(out["end"]["sum_received"]["bytes"], 120 * MB)
                self.wait(lambda: self.session(p) is None, p)
            out = json.loads(self.ended(self.client("iperf3", "-c", "10.9.1.1", "-p", 9000, "-n", "160M", "-P", 8, "-J")))
            self.assertEqual(len(out["end"]["streams"]), 8)
            self.assertTrue(all(s["receiver"]["bytes"] for s in out["end"]["streams"]))
            self.assertGreater(self.fast_share(2 + 2 + 3 + 9), 0.5)
            self.nothing_left(p)

    @need("curl", "nginx")
    def test_curl(self):
        """curl and nginx: a large file whole, in parts, and many on one connection"""
        data = self.new_file()
        small = [self.new_file(f"small{i}", MB) for i in range(20)]
        with self.proxy() as p:
            self.nginx()
            c = self.client("curl", "-fsS", "--limit-rate", f"{SIZE // 2}", "-o", self.folder / "got", "http://10.9.1.1:9000/data")
            self.stays_fast(p, SIZE // 16, ("egress",))
            self.ended(c)
            self.assertEqual(digest(self.folder / "got"), digest(data))
            self.ended(self.client("curl", "-fsS", "-r", f"{SIZE // 2}-", "-o", self.folder / "part", "http://10.9.1.1:9000/data"))
            self.assertEqual((self.folder / "part").read_bytes(), data.read_bytes()[SIZE // 2:])
            many = [x for i in range(len(small)) for x in ("-o", self.folder / f"got{i}", f"http://10.9.1.1:9000/small{i}")]
            self.assertEqual(self.ended(self.client("curl", "-fsS", "-w", "%{num_connects}", *many)), "1" + "0" * (len(small) - 1))
            for i, path in enumerate(small):
                self.assertEqual(digest(self.folder / f"got{i}"), digest(path))
            self.assertGreater(self.fast_share(3), 0.5)
            self.nothing_left(p)

    @need("curl", "nginx", "haproxy")
    def test_haproxy(self):
        """HAProxy in front, by TCP with splicing and by HTTP with connections that are used again"""
        data = self.new_file()
        (self.folder / "haproxy.cfg").write_text("""
defaults
  timeout connect 60s
  timeout client 300s
  timeout server 300s
listen tcp
  mode tcp
  option splice-auto
  bind 127.0.0.1:8000
  server s 10.9.1.1:9000
listen http
  mode http
  http-reuse always
  bind 127.0.0.1:8001
  server s 10.9.1.1:9000
""")
        with self.proxy() as p:
            self.nginx()
            self.serve(self.a, 8000, "haproxy", "-db", "-f", self.folder / "haproxy.cfg")
            for port in (8000, 8001):
                c = self.client("curl", "-fsS", "--limit-rate", f"{SIZE // 2}", "-o", self.folder / "got", f"http://127.0.0.1:{port}/data")
                self.stays_fast(p, SIZE // 16, ("egress",))
                self.ended(c)
                self.assertEqual(digest(self.folder / "got"), digest(data))
            for _ in range(5):  # by the connection that is there, which is in the kernel
                self.ended(self.client("curl", "-fsS", "-o", self.folder / "got", "http://127.0.0.1:8001/data"))
                self.assertEqual(digest(self.folder / "got"), digest(data))

    @need("ssh", "sshd", "scp", "ssh-keygen")
    def test_ssh(self):
        """OpenSSH: scp of a large file there and back, a command with much output, with a key re-exchange meanwhile"""
        data = self.new_file()
        for key in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / key)], check=True)
        (self.folder / "sshd.conf").write_text(f"""
Port 9001
HostKey {self.folder}/host
PidFile none
AuthorizedKeysFile {self.folder}/user.pub
StrictModes no
UsePAM no
PermitRootLogin yes
Subsystem sftp internal-sftp
""")
        os.makedirs("/run/sshd", exist_ok=True)
        common = ("-F", "none", "-i", self.folder / "user", "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes",
                  "-o", f"UserKnownHostsFile={self.folder}/known", "-o", "RekeyLimit=16M")
        with self.proxy() as p:
            self.serve(self.b, 9001, shutil.which("sshd"), "-D", "-e", "-f", self.folder / "sshd.conf")
            c = self.client("scp", *common, "-P", 9000, "-l", SIZE * 8 // 1000 // 2, data, f"root@10.9.1.1:{self.folder}/there")
            self.stays_fast(p, SIZE // 16, ("ingress",))
            self.ended(c)
            self.assertEqual(digest(self.folder / "there"), digest(data))
            self.ended(self.client("scp", *common, "-P", 9000, f"root@10.9.1.1:{self.folder}/there", self.folder / "back"))
            self.assertEqual(digest(self.folder / "back"), digest(data))
            out = self.ended(self.client("ssh", *common, "-p", 9000, "root@10.9.1.1", "seq 1000000"))
            self.assertEqual(out, "".join(f"{i}\n" for i in range(1, 1000001)))
            self.assertGreater(self.fast_share(3), 0.9)
            self.nothing_left(p)

    @unittest.skipUnless(postgres_bin() and shutil.which("pgbench") and shutil.which("psql"), "not installed: postgresql")
    def test_pgbench(self):
        """PostgreSQL: pgbench with eight clients moves into the kernel at the first try, though no client pauses; the accounts balance afterwards"""
        where, owner = postgres_bin(), pwd.getpwnam("postgres")
        base = self.folder / "pg"
        base.mkdir()
        os.chown(base, owner.pw_uid, owner.pw_gid)
        user = ("setpriv", "--reuid", owner.pw_uid, "--regid", owner.pw_gid, "--clear-groups")
        self.ended(self.client(*user, where / "initdb", "-D", base / "db", "-A", "trust", "-U", "bench", "--no-sync", peer=self.b, cwd=base))
        with open(base / "db/pg_hba.conf", "a") as f:
            f.write("host all all 10.9.0.0/16 trust\n")
        with self.proxy() as p:
            self.serve(self.b, 9001, *user, where / "postgres", "-D", base / "db", "-p", 9001, "-h", "10.9.2.2", "-k", base, "-F", cwd=base)
            at = ("-h", "10.9.1.1", "-p", 9000, "-U", "bench")
            self.ended(self.client("pgbench", *at, "-i", "-q", "-s", 1, "postgres"))
            c = self.client("pgbench", *at, "-n", "-c", 8, "-j", 2, "-T", 4, "-P", 1, "-b", "select-only@50", "-b", "tpcb-like", "postgres")

            reasons = set()

            def sessions():
                """Those in the kernel, by name."""
                found = [s for s in p.api.get("/sessions")[1] if s["name"].startswith("TCP:")]
                reasons.update(d["reason"] for s in found for d in s["offload"]["directions"])
                return {s["name"]: s["stats"] for s in found if s["offload"]["state"] == "fast"}
            first = self.wait(lambda: len(sessions()) == 8 and sessions(), p)
            time.sleep(1.5)
            now = sessions()
            self.assertNotIn("tcp-busy", reasons)
            self.assertEqual(set(now), set(first))
            for name, stats in now.items():
                for way in WAYS:
                    self.assertEqual(stats[way]["slow"], first[name][way]["slow"])
                    self.assertGreater(stats[way]["fast"]["bytes"], first[name][way]["fast"]["bytes"])
            out = self.ended(c)
            self.assertEqual(re.search(r"number of failed transactions: (\d+)", out).group(1), "0")
            done = int(re.search(r"transactions actually processed: (\d+)", out).group(1))
            sums = self.ended(self.client("psql", *at, "-Atc", "select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) "
                                          "from pgbench_tellers), (select sum(bbalance) from pgbench_branches), (select sum(delta) from "
                                          "pgbench_history), (select count(*) from pgbench_history)", "postgres")).strip().split("|")
            self.assertEqual(len(set(sums[:4])), 1, sums)
            self.assertTrue(0 < int(sums[4]) < done)
            self.assertGreater(done, 20)

    def test_websocket(self):
        """WebSocket over a plain TCP session: large and small messages both ways at once, pings, the closing handshake"""
        sent = [os.urandom((1 << i) + i) for i in range(21)] + ["ö" * 30000]

        async def echo(ws, *_):
            async for message in ws:
                await ws.send(message)

        async def talk(p):
            async with websockets.serve(echo, sock=server, max_size=None, ping_interval=0.2, ping_timeout=None, compression=None):
                c = await asyncio.to_thread(tcpflow.connect, self.a, (self.a.gateway4, 9000))
                c.setblocking(False)
                async with websockets.connect("ws://10.9.1.1:9000/", sock=c, max_size=None, ping_interval=0.2, ping_timeout=None, compression=None) as ws:
                    stop, room = asyncio.Event(), asyncio.Semaphore(3)  # not echoed yet

                    async def send():
                        n = 0
                        while not stop.is_set():
                            await room.acquire()
                            await ws.send(sent[n % len(sent)])
                            n += 1
                        await ws.send("end")
                        return n

                    async def receive():
                        n = 0
                        while (message := await ws.recv()) != "end":
                            self.assertEqual(message, sent[n % len(sent)])
                            n += 1
                            room.release()
                        return n
                    both = asyncio.gather(send(), receive())
                    await asyncio.to_thread(self.stays_fast, p, 16 * MB)
                    stop.set()
                    self.assertEqual(*await both)
                    await asyncio.wait_for(await ws.ping(), 60 * l7test.SLOW)
                self.assertEqual(ws.close_code, 1000)
        with self.proxy() as p:
            server = tcpflow.listener(self.b, 9001)
            self.addCleanup(server.close)
            server.setblocking(False)
            asyncio.run(talk(p))
            self.nothing_left(p)


if __name__ == "__main__":
    l7test.main()
