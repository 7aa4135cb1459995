# SPDX-License-Identifier: MIT
"""Plays systemd for one service: what it keeps in its file descriptor store (FDSTORE), and passes to the next process."""
import os
import random
import signal
import socket
import subprocess
import sys
import threading

import l7test

# Starts a program as systemd does, with the descriptors from 3 on. Arguments: their numbers, the program, its arguments.
START = """
import fcntl, os, resource, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
numbers = [int(n) for n in sys.argv[1].split(',') if n]
above = [fcntl.fcntl(n, fcntl.F_DUPFD, max(numbers, default=0) + len(numbers) + 10) for n in numbers]
for i, fd in enumerate(above): os.dup2(fd, 3 + i, inheritable=True)
os.closerange(3 + len(numbers), max(above, default=3) + 1)
if numbers:
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(numbers)), LISTEN_FDNAMES=':'.join(['l7mp'] * len(numbers)))
os.execv(sys.argv[2], sys.argv[2:])
"""


class Service:
    """`proxy` is the process that serves now; `most` is FileDescriptorStoreMax."""

    def __init__(self, config, port, most=4096, env=None):
        self.config, self.port, self.most, self.env = config, port, most, env or {}
        self.kept, self.proxy, self.log, self.messages = [], None, "", []
        self.ready, self.lock = threading.Event(), threading.Lock()
        self.api = l7test.Api(port)
        self.start()

    def start(self):
        with self.lock:
            random.shuffle(self.kept)  # systemd does not promise an order
            for fd in self.kept:
                os.set_inheritable(fd, True)
            self.ready.clear()
            self.proxy = l7test.Proxy(self.config, port=self.port, wait=False, close_fds=False,
                                      env={"FDSTORE": str(self.most), **self.env},
                                      wrapper=(sys.executable, "-c", START, ",".join(map(str, self.kept))))
            for fd in self.kept:
                os.set_inheritable(fd, False)
        self.reader = threading.Thread(target=self.listen, args=(self.proxy,), daemon=True)
        self.reader.start()
        while not self.ready.wait(0.1):
            assert self.proxy.alive(), f"the proxy ended at start: {self.proxy.stderr()}"

    def listen(self, proxy):
        proxy.notify.settimeout(0.05)
        while True:
            alive = proxy.alive()
            try:
                data, fds, flags, _ = socket.recv_fds(proxy.notify, 4096, 253)
            except TimeoutError:
                if not alive:
                    return
                continue
            assert not flags & socket.MSG_CTRUNC
            self.on_message(dict(line.split("=", 1) for line in data.decode().splitlines()), fds)

    def on_message(self, message, fds):
        self.messages.append(message)
        with self.lock:
            if "FDSTORE" in message:
                assert message == {"FDSTORE": "1", "FDPOLL": "0", "FDNAME": "l7mp"}, message
                self.kept += fds
                for fd in self.kept[self.most:]:
                    os.close(fd)
                del self.kept[self.most:]
            elif "FDSTOREREMOVE" in message:
                self.drop()
        if message.get("READY") == "1":
            self.ready.set()

    def drop(self):
        while self.kept:
            os.close(self.kept.pop())

    def terminate(self):
        """The process ends with exit status 0; the descriptors that it has stored are kept."""
        self.proxy.process.send_signal(signal.SIGTERM)
        try:
            status = self.proxy.process.wait(60 * l7test.SLOW)
        except subprocess.TimeoutExpired:
            self.proxy.process.send_signal(signal.SIGABRT)
            raise AssertionError(f"the proxy did not stop: {self.proxy.stderr()[-3000:]}") from None
        self.reader.join()
        err = self.proxy.stderr()
        assert not l7test.SANITIZER.search(err), err[-6000:]
        assert status == 0 and "left a handle open" not in err, (status, err[-3000:])
        self.log += err
        self.proxy.notify.close()
        self.proxy.dir.cleanup()

    def restart(self, config=None):
        self.config = config or self.config
        self.terminate()
        self.start()

    def stop(self):
        """As `systemctl stop`: nothing is kept after it."""
        self.terminate()
        self.drop()

    def kill(self):
        """For a test that has failed."""
        self.proxy.process.kill()
        self.proxy.process.wait()
        self.drop()
