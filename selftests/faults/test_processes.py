#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""STDIO-fork when the process does not behave (docs/protocols.md): whatever it does, it is gone with its session."""
import json
import os
import signal
import socket
import time

import l7test
from faults import Faults
from traffic import Peak, connect, listener, recv_all, recv_exact, retry

PYTHON = "/usr/bin/python3"


def fork(*command, **keys):
    return {"spec": dict(protocol="STDIO-fork", command=list(command), **keys)}


def python(code, **keys):
    return fork(PYTHON, "-c", code, **keys)


class Processes(Faults):
    def run_with(self, cluster, **kw):
        return self.start(listener("l", "TCP", 9000, cluster, options={"track": 60}, **kw), lean=True)

    def child(self):
        return self.later(self.children, 10, "no process")[0]

    def test_crash(self):
        """process: one that crashes in the midst of a transfer: what it said arrives, then a named error"""
        self.run_with(python("import os,sys;d=sys.stdin.buffer.read(5);sys.stdout.buffer.write(d*2);"
                             "sys.stdout.flush();os.kill(os.getpid(),11)"))
        with connect(9000) as s:
            s.sendall(b"12345")
            self.assertEqual(recv_exact(s, 10), b"1234512345")
            try:
                self.assertEqual(recv_all(s), b"")
            except ConnectionResetError:
                pass
        self.assertIn("SIGSEGV", self.failure("TCP:"))

    def test_killed(self):
        """process: one that is killed: the session ends and names the signal"""
        self.run_with(fork("cat"))
        with connect(9000) as s:
            s.sendall(b"x")
            self.assertEqual(s.recv(1), b"x")
            os.kill(self.child(), signal.SIGKILL)
            try:
                self.assertEqual(recv_all(s), b"")
            except ConnectionResetError:
                pass
        self.assertIn("SIGKILL", self.failure("TCP:"))

    def test_restart(self):
        """process: one that dies is started again by the retry policy, while its client stays"""
        self.run_with(python("import sys\nfor l in sys.stdin.buffer:\n sys.stdout.buffer.write(l);sys.stdout.flush()\n"
                             " if l==b'die\\n': sys.exit(3)"), retry=retry("disconnect", 5, 200))
        with connect(9000) as s:
            first = None
            for n in range(3):
                s.sendall(b"hello\n")
                self.assertEqual(recv_exact(s, 6), b"hello\n")
                self.assertNotEqual(self.child(), first)
                first = self.child()
                s.sendall(b"die\n")
                self.assertEqual(recv_exact(s, 4), b"die\n")
                self.later(lambda: self.children() != [first])

    def test_status(self):
        """process: one that fails at once, or does not exist, or may not be run: what the session says"""
        for command, words in ((("false",), ("false", "status 1")), (("/no/such/program",), ("/no/such/program", "no such")),
                               (("/etc/passwd",), ("/etc/passwd", "denied"))):
            with self.subTest(command):
                self.run_with(fork(*command))
                with connect(9000) as s:
                    try:
                        self.assertEqual(recv_all(s), b"")
                    except ConnectionResetError:
                        pass
                text = self.failure("TCP:").lower()
                for word in words:
                    self.assertIn(word, text)
                self.stop()

    def test_deaf(self):
        """process: one that closes its input and keeps running: what is sent is dropped, its output still comes"""
        self.run_with(python("import os,sys,time;os.close(0);time.sleep(0.5);print('bye',flush=True)"))
        with connect(9000) as s:
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                s.sendall(b"x" * 1000)
                time.sleep(0.01)
            s.shutdown(socket.SHUT_WR)
            self.assertEqual(recv_all(s), b"bye\n")

    def test_stubborn(self):
        """process: one that hangs and ignores SIGTERM is killed a moment after its client has left"""
        self.run_with(python("import signal,time;signal.signal(15,signal.SIG_IGN);print('up',flush=True)\n"
                             "while True: time.sleep(1)"))
        with connect(9000) as s:
            self.assertEqual(recv_exact(s, 3), b"up\n")
            pid = self.child()
        # The client's end is the end of its input, which it ignores: only the session's end ends it.
        name = self.session("TCP:")["name"]
        begin = time.monotonic()
        self.assertEqual(self.api.delete(f"/sessions/{name}")[0], 200)
        self.later(lambda: not os.path.exists(f"/proc/{pid}"), 8, "it still runs")
        self.assertGreater(time.monotonic() - begin, 1.5)

    def test_heirs(self):
        """process: one whose own children hold its output: the session ends a second after it"""
        self.run_with(fork("sh", "-c", "sleep 3600 & echo $!"))
        with connect(9000) as s:
            s.shutdown(socket.SHUT_WR)
            text = recv_all(s)
        # Whose end was the session's: not that of the child's child, which lives for an hour.
        os.kill(int(text), signal.SIGKILL)

    def test_stderr_flood(self):
        """process: a flood on stderr: 20 lines a second in the log, data flows, others are served"""
        proxy = self.run_with(python("import sys,threading,time\n"
                                     "def f():\n while True: sys.stderr.write('flood '*200+'\\n')\n"
                                     "threading.Thread(target=f,daemon=True).start()\n"
                                     "for l in sys.stdin.buffer:\n sys.stdout.buffer.write(l);sys.stdout.flush()"))
        peak = Peak(proxy)
        with connect(9000) as s:
            begin, lines = time.monotonic(), 0
            while time.monotonic() - begin < 2:
                s.sendall(b"line\n")
                self.assertEqual(recv_exact(s, 5), b"line\n")
                lines += 1
                self.serves()
        self.assertGreater(lines, 20)
        self.gone()
        rows = [r for r in proxy.stderr().splitlines() if " process " in r]
        self.assertTrue(20 <= len(rows) < 20 * 8, len(rows))
        self.assertLess(peak.grown(), 20 * 1024)

    def test_stdout_flood(self):
        """process: more output than the client reads: it is stopped, memory stays, the client may leave"""
        proxy = self.run_with(fork("yes"))
        with connect(9000) as s:
            s.recv(10)
            peak = Peak(proxy)
            time.sleep(1)
            self.serves()
            self.assertLess(peak.grown(), 20 * 1024)

    def test_many(self):
        """process: 40 at once, half of them killed, half ended by their clients: none is left"""
        self.run_with(fork("cat"))
        socks = [connect(9000) for _ in range(40)]
        for n, s in enumerate(socks):
            s.sendall(b"%04d" % n)
        for n, s in enumerate(socks):
            self.assertEqual(recv_exact(s, 4), b"%04d" % n)
        pids = self.children()
        self.assertEqual(len(pids), 40)
        for pid in pids[::2]:
            os.kill(pid, signal.SIGKILL)
        for s in socks:
            s.close()

    def test_limit(self):
        """process: no more than limits.max_processes at once; the next one is let in when one has ended"""
        proxy = l7test.Proxy({"admin": {"limits": {"max_processes": 2}}, "listeners": [l7test.controller(), listener("l", "TCP", 9000, fork("cat"), options={"track": 60})]})
        self.addCleanup(proxy.stop)

        def answered():
            try:
                s = connect(9000)
                self.addCleanup(s.close)
                s.sendall(b"x")
                return s if s.recv(1) == b"x" else None
            except ConnectionError:
                return None
        first, second = answered(), answered()
        self.assertTrue(first and second)
        self.assertIsNone(answered())
        self.assertTrue(l7test.wait_for(lambda: "limits.max_processes" in json.dumps(proxy.api.get("/sessions")[1])))
        self.assertEqual(proxy.api.get("/admin")[1]["limits"]["max_processes"], 2)
        first.close()
        self.assertTrue(l7test.wait_for(answered))

    def test_killed_daemon(self):
        """process: one that ignores the end of its input does not outlive a daemon that was killed"""
        proxy = l7test.Proxy({"listeners": [l7test.controller(), listener("l", "TCP", 9000, python(
            "import os,signal,time\nsignal.signal(15,signal.SIG_IGN)\nprint(os.getpid(),flush=True)\nwhile True: time.sleep(1)"))]})
        self.addCleanup(proxy.dir.cleanup)
        self.addCleanup(proxy.process.kill)
        with connect(9000) as s:
            pid = int(s.recv(20))
            os.kill(proxy.pid, signal.SIGKILL)
            proxy.process.wait()
            self.assertTrue(l7test.wait_for(lambda: not os.path.exists(f"/proc/{pid}")))

    def test_capabilities(self):
        """process: it has no capability, not even root's, and no descriptor but 0 to 2"""
        self.run_with(fork("/bin/sh", "-c", "grep Cap /proc/self/status; ls /proc/self/fd | tr '\\n' ' '"))
        with connect(9000) as s:
            s.shutdown(socket.SHUT_WR)
            text = recv_all(s).decode().split()
        sets = dict(zip(text[0:10:2], text[1:10:2]))
        for name in ("CapInh:", "CapPrm:", "CapEff:", "CapAmb:", *(["CapBnd:"] if os.geteuid() == 0 else [])):
            self.assertEqual(int(sets[name], 16), 0, name)
        self.assertEqual(text[10:13], ["0", "1", "2"])
        self.assertLessEqual(len(text), 14)  # ls opens the folder itself


if __name__ == "__main__":
    l7test.main()
