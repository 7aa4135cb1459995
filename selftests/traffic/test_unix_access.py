#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Who may use a UNIX socket: `mode`, `owner`, `group` of its file."""
import json
import os
import pathlib
import socket
import stat
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import l7test  # noqa: E402

PROTOCOLS = ("UNIX/stream", "UNIX/seqpacket", "UNIX/dgram", "HTTP")


def listener(protocol, path, **keys):
    return {"name": protocol.replace("/", "-"), "spec": {"protocol": protocol, "filename": path, **keys},
            "rules": [{"action": {"route": {"destination": {"spec": {"protocol": "Echo"}}}}}]}


class Access(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        os.chmod(folder.name, 0o755)
        self.folder = folder.name

    def path(self, name):
        return os.path.join(self.folder, name)

    def mode(self, name):
        return stat.S_IMODE(os.stat(self.path(name)).st_mode)

    def test_modes(self):
        """the file of each kind of socket has the mode that is asked for, whatever the umask is; PUT changes it"""
        for umask in (0o077, 0):
            before = os.umask(umask)
            try:
                proxy = l7test.Proxy({"listeners": [l7test.controller(), *(listener(p, self.path(str(n)), mode=m) for n, (p, m) in enumerate(
                    zip(PROTOCOLS, ("0660", 600, "666", 0))))]})
            finally:
                os.umask(before)
            try:
                self.assertEqual([self.mode(str(n)) for n in range(4)], [0o660, 0o600, 0o666, 0])
                for n in (0, 1, 3):
                    new = listener(PROTOCOLS[n], self.path(str(n)), mode="0640")
                    self.assertEqual(proxy.api.call("PUT", f"/listeners/{new['name']}", {"listener": new})[0], 200)
                    self.assertTrue(l7test.wait_for(lambda n=n: self.mode(str(n)) == 0o640), n)
                self.assertEqual(proxy.api.get("/listeners/UNIX-stream")[1]["spec"]["mode"], "0640")
            finally:
                proxy.stop()

    @unittest.skipUnless(os.geteuid() == 0, "needs root to give files away")
    def test_owner(self):
        """owner and group by name and number; who is neither is kept out by the kernel"""
        proxy = l7test.Proxy({"listeners": [l7test.controller(), listener("UNIX/stream", self.path("s"), mode="0660", owner="daemon", group=12345),
                                            listener("UNIX/dgram", self.path("d"), mode="0600", group="daemon")]})
        self.addCleanup(proxy.stop)
        st = os.stat(self.path("s"))
        self.assertEqual((st.st_uid, st.st_gid), (1, 12345))
        self.assertEqual(os.stat(self.path("d")).st_gid, 1)
        code = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({self.path('s')!r}); s.sendall(b'x'); print(s.recv(1))"
        for uid, gid, expected in ((1, 1, True), (65534, 12345, True), (65534, 65534, False)):
            r = subprocess.run(["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "/usr/bin/python3", "-c", code], capture_output=True, text=True,
                               timeout=60, check=False)
            self.assertEqual(r.returncode == 0, expected, (uid, gid, r.stderr))

    def test_refused(self):
        """what is no mode, no user, or has no file"""
        for keys, text in (({"mode": "0999"}, "listeners[0].spec.mode"), ({"mode": "1777"}, "mode"), ({"mode": "rw"}, "mode"), ({"mode": 888}, "mode"),
                           ({"owner": "no-such-user-l7mp"}, "no-such-user-l7mp"), ({"group": "no-such-group-l7mp"}, "no-such-group-l7mp")):
            for protocol in PROTOCOLS:
                status, _, err = self.run_with(listener(protocol, self.path("x"), **keys))
                self.assertEqual(status, 1, (protocol, keys))
                self.assertIn(text, err)
                self.assertFalse(os.path.exists(self.path("x")))
        self.assertIn("only with a filename", self.run_with(listener("UNIX/stream", "@l7mp-test-access", mode="0600"))[2])
        self.assertIn("only with a filename", self.run_with({"name": "h", "spec": {"protocol": "HTTP", "port": 0, "mode": "0600"}, "rules": []})[2])

    def run_with(self, one):
        config = self.path("config.json")
        pathlib.Path(config).write_text(json.dumps({"listeners": [one]}))
        return l7test.run_proxy("-c", config)

    @unittest.skipUnless(os.geteuid() == 0, "needs root to be two users")
    def test_datagram_users(self):
        """UNIX/dgram: a rule on the sender's user holds for each datagram, with and without a name, also of a name that changes hands"""
        root, others = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for s in (root, others):
            self.addCleanup(s.close)
            s.bind(("127.0.0.1", 0))
            s.settimeout(30)

        def to(s):
            return {"route": {"destination": {"spec": {"protocol": "UDP", "port": s.getsockname()[1]}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}}}
        path = self.path("users")
        proxy = l7test.Proxy({"listeners": [l7test.controller(), {"name": "users", "spec": {"protocol": "UNIX/dgram", "filename": path, "mode": "0666"}, "rules": [
            {"match": {"op": "test", "path": "/UNIX/uid", "value": 0}, "action": to(root)}, {"action": to(others)}]}]})
        self.addCleanup(proxy.stop)
        # In a child, which does not become root again.
        send = ("import os, socket, sys; uid, name, path, text = int(sys.argv[1]), *sys.argv[2:]; os.setgid(uid); os.setuid(uid); "
                "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); name and s.bind('\\0' + name); s.sendto(text.encode(), path)")
        names = ("", f"l7mp-test-users-{os.getpid()}", "12345678", "1" * 100)
        expected = {root: [], others: []}
        for name in names:
            for uid, reader in ((0, root), (12345, others), (12345, others), (0, root)):
                text = f"{uid} {len(name)} {len(expected[reader])}"
                subprocess.run([sys.executable, "-c", send, str(uid), name, path, text], check=True, timeout=30)
                expected[reader].append(text)
                self.assertEqual(reader.recv(100).decode(), text)
        # Without a name both users have a session; a name is one's at a time.
        _, sessions = proxy.api.get("/sessions")
        uids = [x["metadata"]["UNIX"]["uid"] for x in sessions if x["name"].startswith("UNIXD:")]
        self.assertEqual(sorted(uids), [0] * len(names) + [12345])

    def test_oneliner(self):
        """as socat's options: UNIX-LISTEN:path,mode=,user=,group="""
        path = self.path("o")
        with subprocess.Popen([l7test.program("l7mp-proxy"), f"UNIX-LISTEN:{path},mode=0640,group={os.getgid()},user={os.getuid()}", "ECHO"]) as proxy:
            try:
                self.assertTrue(l7test.wait_for(lambda: os.path.exists(path) and self.mode("o") == 0o640))
                with socket.socket(socket.AF_UNIX) as s:
                    s.settimeout(30)
                    s.connect(path)
                    s.sendall(b"hello")
                    self.assertEqual(s.recv(5), b"hello")
            finally:
                proxy.terminate()


if __name__ == "__main__":
    l7test.main()
