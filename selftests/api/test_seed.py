#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The user's own usage example (README of the original), word for word.

Its curl calls and socat command run as printed; the receiver is Python's independent
WebSocket server. `user-1-2-l` and `user-1-2-c` in its clean-up are read as `udp-listener`
and `ws-cluster`.
"""
import asyncio
import json
import socket
import subprocess
import threading
import time
import unittest

import l7test
import websockets

CLUSTER = r"""
curl -iX POST --header 'Content-Type:text/x-yaml' --data-binary @- <<EOF  http://localhost:1234/api/v1/clusters
cluster:
  name: ws-cluster
  spec: { protocol: "WebSocket", port: 16000 }
  endpoints:
    - spec: { address:  "127.0.0.1" }
EOF
"""
LISTENER = r"""
curl -iX POST --header 'Content-Type:text/x-yaml' --data-binary @- <<EOF  http://localhost:1234/api/v1/listeners
listener:
  name: udp-listener
  spec: { protocol: UDP, port: 15000, connect: {port: 15001} }
  rules:
    - action:
        route:
          destination: ws-cluster
          ingress:
            - spec: { protocol: Logger }
          retry: {retry_on: always, num_retries: 3, timeout: 2000}
EOF
"""
LOGGER = r"""
curl -iX POST --header 'Content-Type:text/x-yaml' --data-binary @- <<EOF  http://localhost:1234/api/v1/clusters
cluster:
  name: logger-cluster
  spec: { protocol: "Logger" }
EOF
"""
LISTENER_BY_NAME = LISTENER.replace("- spec: { protocol: Logger }", "- logger-cluster")


def shell(text, **kw):
    return subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=30, **kw)


class WebSocketReceiver(threading.Thread):
    """An independent WebSocket server that keeps what it receives and can answer."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.received, self.peers = port, [], []
        self.loop = asyncio.new_event_loop()
        self.up = threading.Event()
        self.done = asyncio.Event()
        self.start()
        self.up.wait(60)

    def run(self):
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self.serve())

    async def serve(self):
        async def handler(ws, *_):
            self.peers.append(ws)
            try:
                async for message in ws:
                    self.received.append(message)
            except websockets.ConnectionClosed:
                pass
        async with websockets.serve(handler, "127.0.0.1", self.port):
            self.up.set()
            await self.done.wait()

    def send(self, message):
        asyncio.run_coroutine_threadsafe(self.peers[-1].send(message), self.loop).result(5)

    def stop(self):
        self.loop.call_soon_threadsafe(self.done.set)
        self.join(5)

    def text(self):
        return b"".join(m if isinstance(m, bytes) else m.encode() for m in self.received).decode()


class Seed(unittest.TestCase):
    def setUp(self):
        self.proxy = l7test.Proxy(l7test.ROOT / "config/l7mp-minimal.yaml", "-l", "warn", "-s")

    def tearDown(self):
        self.proxy.stop()

    def ok(self, text):
        r = shell(text)
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertIn("200", r.stdout.splitlines()[0], r.stdout)
        return r.stdout

    def socat(self):
        return subprocess.Popen(["socat", "-", "udp:localhost:15000,sourceport=15001"],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def end(self, p):
        p.stdin.close()
        p.terminate()
        p.wait(60)
        p.stdout.close()

    def example(self, listener_calls):
        self.ok(CLUSTER)
        for call in listener_calls:
            self.ok(call)
        sender = self.socat()
        sender.stdin.write(b"typed before the receiver\n")
        sender.stdin.flush()
        time.sleep(1.5)  # within the retry window of 3 x 2000 ms
        receiver = WebSocketReceiver(16000)
        self.assertTrue(l7test.wait_for(lambda: "typed before the receiver\n" in receiver.text(), 8))
        sender.stdin.write(b"what is typed arrives\n")
        sender.stdin.flush()
        self.assertTrue(l7test.wait_for(lambda: "what is typed arrives\n" in receiver.text(), 5))
        receiver.send("an answer that is not logged\n")
        self.assertEqual(sender.stdout.readline(), b"an answer that is not logged\n")
        self.assertTrue(l7test.wait_for(lambda: "what is typed arrives" in self.proxy.stdout(), 5))
        self.assertNotIn("an answer that is not logged", self.proxy.stdout())

        other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        other.bind(("127.0.0.1", 15002))
        other.settimeout(0.3)
        other.sendto(b"from another source port", ("127.0.0.1", 15000))
        with self.assertRaises(TimeoutError):
            other.recv(100)
        other.close()
        self.assertNotIn("from another source port", receiver.text())

        _, sessions = self.proxy.api.get("/sessions")
        mine = [s for s in sessions if s["name"].startswith("UDP:127.0.0.1:15001-")]
        self.assertEqual(len(mine), 1, sessions)
        self.assertEqual(mine[0]["status"], "CONNECTED")
        self.assertNotIn("HTTP", mine[0]["metadata"])
        name = mine[0]["name"]
        self.ok(f"curl -iX DELETE http://localhost:1234/api/v1/sessions/{name}")
        self.ok("curl -iX DELETE http://localhost:1234/api/v1/listeners/udp-listener")
        self.ok("curl -iX DELETE http://localhost:1234/api/v1/clusters/ws-cluster")
        self.assertEqual(self.proxy.api.get("/listeners/udp-listener")[0], 404)
        self.assertEqual(self.proxy.api.get("/clusters/ws-cluster")[0], 404)
        self.end(sender)
        receiver.stop()

    def test_embedded_logger(self):
        """seed: UDP to WebSocket with an embedded Logger, late receiver, clean-up"""
        self.example([LISTENER])

    def test_named_logger(self):
        """seed: the same with the Logger as a cluster of its own"""
        self.example([LOGGER, LISTENER_BY_NAME])

    def test_queries(self):
        """seed: config and sessions of a fresh proxy: exactly the controller's own session"""
        r = shell("curl -s http://localhost:1234/api/v1/sessions")
        sessions = json.loads(r.stdout)
        self.assertEqual(len(sessions), 1, r.stdout)
        self.assertTrue(sessions[0]["name"].startswith("HTTP:"), r.stdout)
        self.assertIn("controller-listener", json.dumps(sessions[0]["source"]))
        config = json.loads(shell("curl -s http://localhost:1234/api/v1/config").stdout)
        for key in ("admin", "listeners", "clusters", "rulelists", "rules", "routes", "sessions", "endpoints"):
            self.assertIn(key, config)


if __name__ == "__main__":
    l7test.main()
