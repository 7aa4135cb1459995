# SPDX-License-Identifier: MIT
"""HAProxy and nginx as a test's own instances in front of an HTTP listener. Both log each request that they pass on."""
import collections
import json
import os
import pathlib
import re
import select
import shutil
import socket
import subprocess
import tempfile
import unittest

import l7test
from traffic import PEERS

FRONT, LOG = 9100, 9101
Sent = collections.namedtuple("Sent", "method target status body")

HAPROXY = """
global
  log 127.0.0.1:@LOG@ len 65535 format raw local0
  maxconn 500
  nbthread 1
  tune.bufsize 262144
  tune.http.maxhdr 1000
  tune.http.logurilen 8000
  @GLOBAL@
defaults
  mode http
  log global
  timeout connect 5s
  timeout server 30s
  timeout client 500ms
  timeout http-request 500ms
  timeout http-keep-alive 500ms
  retries 0
  http-reuse always
  option http-buffer-request
  @DEFAULTS@
frontend front
  bind 127.0.0.1:@FRONT@
  http-request set-var(txn.url) url
  http-request set-var(txn.body) req.body
  log-format "%s|%ST|%[var(txn.url),hex]|%[var(txn.body),hex]|%HM"
  default_backend back
backend back
  server l7mp 127.0.0.1:@PORT@
"""

NGINX = """
daemon off; master_process off; pid @DIR@/pid; error_log @DIR@/error warn;
worker_rlimit_nofile 2000; events { worker_connections 500; }
http {
  log_format seen escape=json '{"m":"$request_method","u":"$request_uri","s":"$upstream_status","b":"$request_body"}';
  access_log syslog:server=127.0.0.1:@LOG@,nohostname seen;
  client_body_temp_path @DIR@/body; proxy_temp_path @DIR@/proxy; fastcgi_temp_path @DIR@/f; uwsgi_temp_path @DIR@/u;
  scgi_temp_path @DIR@/s;
  client_header_timeout 500ms; client_body_timeout 500ms; keepalive_timeout 2s;
  large_client_header_buffers 8 256k; client_body_buffer_size 256k;
  upstream l7mp { server 127.0.0.1:@PORT@; keepalive 4; }
  server {
    listen 127.0.0.1:@FRONT@;
    @SERVER@
    location / {
      proxy_pass http://l7mp; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_next_upstream off;
      proxy_ignore_client_abort on;
    }
  }
}
"""


class Front:
    """A proxy in front, with a log that is read here."""

    def __init__(self, program, port, **fill):
        """fill: more lines for the config: GLOBAL and DEFAULTS of HAProxy, SERVER of nginx."""
        if not shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin"):
            raise unittest.SkipTest(f"{program} is not installed")
        self.program = program
        text = NGINX if program == "nginx" else HAPROXY
        self.dir = tempfile.TemporaryDirectory(prefix="l7mp-front-")
        os.chmod(self.dir.name, 0o755)
        fill = dict({"GLOBAL": "", "DEFAULTS": "", "SERVER": ""}, DIR=self.dir.name, PORT=str(port), FRONT=str(FRONT), LOG=str(LOG), **fill)
        for key, value in fill.items():
            text = text.replace(f"@{key}@", value)
        path = pathlib.Path(self.dir.name, "config")
        path.write_text(text)
        self.log = l7test.udp_socket(LOG, timeout=60 * l7test.SLOW)
        self.log.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        command = ["nginx", "-c", str(path), "-p", self.dir.name] if program == "nginx" else ["haproxy", "-db", "-f", str(path)]
        self.errors = open(os.path.join(self.dir.name, "stderr"), "w+b")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.errors, stderr=self.errors)
        PEERS.append(self)
        assert self.ready(), f"{program} does not come up"

    def ready(self):
        def up():
            assert self.process.poll() is None, pathlib.Path(self.dir.name, "stderr").read_text()
            with socket.create_connection(("127.0.0.1", FRONT), 1):
                return True
        return l7test.wait_for(up, 30)

    def entry(self):
        """The next line of the log; None if the request was not forwarded."""
        text = self.log.recv(1 << 20).decode("latin-1")
        if self.program == "nginx":
            d = json.loads(text.split("nginx: ", 1)[1])
            return Sent(d["m"], d["u"], d["s"], d["b"].encode("latin-1")) if d["s"] else None
        server, status, *rest = text.strip().split("|")
        if server == "<NOSRV>" or len(rest) < 3:
            return None
        url, body = (bytes.fromhex(x) if x != "-" else b"" for x in rest[:2])
        method = re.sub("#([0-9A-F]{2})", lambda m: chr(int(m[1], 16)), "|".join(rest[2:]))  # how its logs are escaped
        return Sent(method, url.decode("latin-1"), status, body)

    def forwarded(self):
        """What was forwarded since the last call and is in the log by now."""
        found = []
        while select.select([self.log], [], [], 0)[0]:
            e = self.entry()
            if e:
                found.append(e)
        return found

    def until(self, target):
        """What was forwarded since the last call, up to the marker."""
        found = []
        while True:
            e = self.entry()
            if e and e.target == target:
                return found
            if e:
                found.append(e)

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        self.errors.close()
        self.dir.cleanup()
