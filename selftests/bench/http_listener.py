# SPDX-License-Identifier: MIT
"""HTTP listeners: requests per second, and how long one client waits beside thousands of slow and silent ones.

Requests per second are wrk's, on connections that are kept: POST with 64 bytes that come back (ours: an Echo
cluster, each request a session; nginx: a fixed body), and GET without a body. BENCH_BASE names an older l7mp-proxy
to compare with. The waiting client (http_wait.py) has 5,000 slow clients (heads, bodies, unread answers) and 10,000
idle ones beside it; who is cut meanwhile comes back.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys

import run as bench

sys.path.insert(0, str(bench.ROOT / "selftests/lib"))
from http_crowd import Process  # noqa: E402  # pylint: disable=wrong-import-position

BASE = os.environ.get("BENCH_BASE")
BODY = "x" * 64
CONNECTIONS = 64
SLOW, IDLE = 5_000, 10_000
SINK = 16001


def config():
    def rule(path, destination):
        return {"match": {"op": "test", "path": "/HTTP/url/path", "value": path}, "action": {"route": {"destination": destination}}}
    sink = {"spec": {"protocol": "TCP", "port": SINK}, "endpoints": [{"spec": {"address": bench.GW_IN}}]}
    rules = [rule("/reader", sink), rule("/body", {"spec": {"protocol": "Discard"}}),
             {"action": {"route": {"destination": {"spec": {"protocol": "Echo"}}}}}]
    one = [{"action": {"route": {"destination": {"spec": {"protocol": "Echo"}}}}}]
    spec = {"protocol": "HTTP", "address": bench.GW_IN}
    return {"admin": {"log_level": "error", "offload": "disable", "limits": {"new_sessions_per_second": 1_000_000}},
            "listeners": [{"name": "bench", "spec": dict(spec, port=bench.RELAY_PORT), "rules": one},
                          {"name": "crowd", "spec": dict(spec, port=bench.RELAY_PORT + 1), "rules": rules}]}


def ours(name, program):
    return bench.Relay(name, [str(program), "-c", "@DIR@/c.json"], {"c.json": json.dumps(config())})


def nginx():
    conf = f"""daemon off; master_process off; pid @DIR@/pid; error_log stderr error;
worker_rlimit_nofile 20000; events {{ worker_connections 18000; }}
http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path @DIR@/b; proxy_temp_path @DIR@/p; fastcgi_temp_path @DIR@/f;
 uwsgi_temp_path @DIR@/u; scgi_temp_path @DIR@/s;
 server {{ listen {bench.GW_IN}:{bench.RELAY_PORT};
  location / {{ default_type application/octet-stream; if ($request_method = POST) {{ return 200 "{BODY}"; }} return 200 ""; }} }} }}
"""
    return bench.Relay("nginx", ["nginx", "-c", "@DIR@/n.conf", "-p", "@DIR@"], {"n.conf": conf})


def wrk(method, seconds):
    """Requests per second; an error of any kind is no result."""
    script = bench.TOOLS / f"wrk-{method}.lua"
    script.write_text(f'wrk.method = "{method}"\n' + (f'wrk.body = "{BODY}"\n' if method == "POST" else "") + """
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('{"rps": %f, "errors": %d}\\n', summary.requests * 1e6 / summary.duration,
           e.connect + e.read + e.write + e.status + e.timeout))
end
""")

    def go(_):
        r = subprocess.run(["ip", "netns", "exec", bench.NS["src"], "taskset", "-c", "1", "wrk", "-t", "1", "-c", str(CONNECTIONS), "-d",
                            f"{max(1, round(seconds))}s", "-s", str(script), f"http://{bench.GW_IN}:{bench.RELAY_PORT}/"],
                           capture_output=True, text=True, timeout=60 + seconds)
        if r.returncode:
            raise RuntimeError(f"wrk: {r.stderr.strip() or r.stdout.strip()}")
        result = json.loads(r.stdout.strip().splitlines()[-1])
        if result["errors"]:
            raise RuntimeError(f"wrk: {result['errors']} errors")
        return result["rps"] / 1000
    return go


def wait_beside(crowd):
    """The waits of one client in ms {p50, p99, max, new_p50, new_p99}, and the memory, with or without a crowd."""
    enter = ["ip", "netns", "exec", bench.NS["src"], "taskset", "-c", "1"]
    sink = Process("sink", f"{bench.GW_IN}:{SINK}", enter=["ip", "netns", "exec", bench.NS["gw"], "taskset", "-c", "1"])
    many = None
    try:
        with ours("l7mp", bench.BUILD / "l7mp-proxy") as relay:
            idle = relay.rss_kb()
            if crowd:
                third = SLOW // 3
                many = Process("clients", f"{bench.GW_IN}:{bench.RELAY_PORT + 1}", 1.0, "again", f"idle={IDLE}", f"head={third}",
                               f"body={third}", f"reader={SLOW - 2 * third}", enter=enter)
            r = subprocess.run([*enter, sys.executable, str(pathlib.Path(__file__).with_name("http_wait.py")), bench.GW_IN,
                                str(bench.RELAY_PORT + 1), "10"], capture_output=True, text=True, timeout=120)
            if r.returncode:
                raise RuntimeError(f"http_wait.py: {r.stderr.strip()[-500:]}")
            result = json.loads(r.stdout)
            result["rss_mb"], result["idle_mb"] = relay.rss_kb() / 1024, idle / 1024
            if many:
                result["open"] = {k: v["open"] for k, v in many.look().items()}
            return result
    finally:
        sink.close()
        if many:
            many.close()


def run_suite(a):
    for program in ("wrk", "nginx"):
        if not shutil.which(program):
            raise RuntimeError(f"{program} is not installed")
    if BASE and not os.access(BASE, os.X_OK):
        raise RuntimeError(f"BENCH_BASE={BASE}: no program")
    relays = [lambda: ours("l7mp", bench.BUILD / "l7mp-proxy"), nginx]
    if BASE:
        relays.append(lambda: ours("older", BASE))
    works = {m: wrk(m, a.seconds) for m in ("POST", "GET")}
    results = bench.measure(relays, works, a.rounds)
    for m, what in (("POST", "64 bytes there and back"), ("GET", "no body")):
        bench.show(f"HTTP requests, {CONNECTIONS} connections that are kept, {what}", "1,000/s", results[m], "nginx")
    rounds = min(3, a.rounds)
    waits = {"alone": [], "beside": []}
    for _ in range(rounds):
        for name in waits:
            try:
                waits[name].append(wait_beside(name == "beside"))
            except (RuntimeError, OSError, AssertionError, subprocess.SubprocessError) as e:
                bench.problem(f"http: {name}: {e}")
                waits[name].append(None)

    def column(name, key):
        return [w and w[key] for w in waits[name]]
    rows = {f"{name}, {key}": column(name, key) for name in waits for key in ("p50", "p99", "max", "new_p50", "new_p99")}
    bench.show(f"One client's request, alone and beside {SLOW:,} slow and {IDLE:,} idle ones (new: with its connection)", "ms", rows, None,
               "less")
    bench.show("RSS", "MB", {"at start": column("beside", "idle_mb"), "with all clients": column("beside", "rss_mb")}, None, "less")
    for w in filter(None, waits["beside"]):
        print(f"  connected at the end of the round: {', '.join(f'{n:,} {k}' for k, n in w['open'].items())}")
    print("\nAims (HTTP)")
    if BASE:
        for m in works:
            bench.aim(f"{m}: requests/s to the older build's", results[m].get("l7mp", []), results[m].get("older", []), ">=", 3)
    else:
        print("  requests/s to an older build's: not measured, BENCH_BASE is not set")
    bench.aim("beside slow and idle clients, p50, ms", column("beside", "p50"), [1] * rounds, "<=", 10)
    return {"requests": results, "waits": waits}
