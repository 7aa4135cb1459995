#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# l7mp-test: timeout=180
"""A thousand wss connections through a reload of the certificate, in both roles."""
import asyncio
import ssl
import tempfile

import l7test
import websockets
from certs import Certs
from traffic import Case, WsServer, cluster, listener

N = 1000


class Reload(Case):
    def test_thousand(self):
        """wss: SIGHUP reads a new certificate for new connections, while 1,000 that are there continue"""
        folder = tempfile.TemporaryDirectory(prefix="l7mp-test-")
        self.addCleanup(folder.cleanup)
        certs = Certs(folder.name)
        for name in ("old", "new", "up"):
            certs.cert(name)
        certs.copy("old", "front")
        WsServer(9001, compression=None, backlog=1024,
                 ssl=self.context(ssl.PROTOCOL_TLS_SERVER, certs.pair("up")))
        proxy = self.start(listener("l", "WebSocket", 9000,
                                    cluster("WebSocket", 9001, tls={"ca": certs.path("ca.pem"), "sni": "localhost"}),
                                    retry={"retry_on": "never", "num_retries": 0, "timeout": 60000},
                                    tls=certs.pair("front")))
        trust = ssl.create_default_context(cafile=certs.path("ca.pem"))

        async def connect(limit):
            async with limit:
                return await websockets.connect("wss://localhost:9000/", ssl=trust, compression=None, ping_interval=None,
                                                open_timeout=60)

        async def echo(ws, text):
            await ws.send(text)
            self.assertEqual(await ws.recv(), text)

        def subject(ws):
            return ws.transport.get_extra_info("peercert")["subject"][0][0][1]

        async def go():
            limit = asyncio.Semaphore(50)
            old = await asyncio.gather(*(connect(limit) for _ in range(N)))
            self.assertEqual({subject(ws) for ws in old}, {"old"})
            await asyncio.gather(*(echo(ws, f"before {i}") for i, ws in enumerate(old)))
            certs.copy("new", "front")
            proxy.hup()
            for _ in range(300):
                ws = await connect(limit)
                name = subject(ws)
                await echo(ws, "hello")
                await ws.close()
                if name == "new":
                    break
                await asyncio.sleep(0.1)
            self.assertEqual(name, "new")
            await asyncio.gather(*(echo(ws, f"after {i}") for i, ws in enumerate(old)))
            await asyncio.gather(*(ws.close() for ws in old))
        asyncio.run(asyncio.wait_for(go(), 150))
        self.later(lambda: not self.sessions(), 30)

    @staticmethod
    def context(protocol, pair):
        c = ssl.SSLContext(protocol)
        c.load_cert_chain(pair["cert"], pair["key"])
        return c


if __name__ == "__main__":
    l7test.main()
