"""Measure a real server with the demo model, and print a table.

requests/s, tokens/s, time to first token and inter-token latency at 1, 8 and 32 clients; time from
start to ready; CPU time of the loop thread (HTTP, mailbox, SSE) per streamed token. The load
generator runs on the same machine: on few cores it takes its share.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from conftest import ROOT, serving  # noqa: E402

LOAD = ROOT / "build/tests/bench/load"


def bodies(path: Path) -> None:
    """Mixed requests: short questions and stories, 10 to 200 tokens out."""
    rng = random.Random(1)
    with open(path, "w", encoding="utf-8") as f:
        for i in range(512):
            subject = rng.choice(["a fox", "the sea", "an old king", "two cats", "a robot", "rain"])
            text = f"Tell me a story about {subject} and {i}. " + "Take your time. " * rng.randrange(12)
            f.write(json.dumps({
                "messages": [{"role": "user", "content": text}], "stream": True, "ignore_eos": True,
                "max_tokens": rng.randrange(10, 200), "seed": i,
                "stream_options": {"include_usage": True}}) + "\n")


def thread_ns(pid: int, tid: int) -> int:
    with open(f"/proc/{pid}/task/{tid}/schedstat", encoding="ascii") as f:
        return int(f.read().split()[0])


def start_to_ready(tries: int = 7) -> list[float]:
    times = []
    for _ in range(tries):
        start = time.monotonic()
        with serving() as server:
            while server.get("/ready")[0] != 200:
                time.sleep(0.001)
            times.append(time.monotonic() - start)
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--clients", default="1,8,32")
    parser.add_argument("--json", action="store_true")
    args, _ = parser.parse_known_args()
    body = ROOT / "build/tests/bench/bodies.jsonl"
    body.parent.mkdir(parents=True, exist_ok=True)
    bodies(body)
    ready = start_to_ready()
    rows = []
    for clients in map(int, args.clients.split(",")):
        with serving("--log-level", "warn") as server:
            pid = server.process.pid
            server.chat()
            before, cpu = thread_ns(pid, pid), server.cpu_seconds()
            out = subprocess.run([LOAD, "--port", str(server.port), "--clients", str(clients), "--seconds",
                                  str(args.seconds), "--body", body], capture_output=True, text=True, check=True)
            row = json.loads(out.stdout)
            time.sleep(0.2)
            generated = server.metric("sirocco_generation_tokens_total")
            row["loop_us_per_token"] = (thread_ns(pid, pid) - before) / 1e3 / max(generated, 1)
            row["cpu_us_per_token"] = (server.cpu_seconds() - cpu) * 1e6 / max(generated, 1)
            row["rss_mb"] = server.rss() / 1e6
            rows.append(row)
    if args.json:
        print(json.dumps({"ready_s": ready, "results": rows}, indent=1))
        return 0
    print(f"cores: {os.cpu_count()}   start to ready: {statistics.median(ready) * 1e3:.0f} ms "
          f"(of {len(ready)}: {min(ready) * 1e3:.0f} to {max(ready) * 1e3:.0f})")
    print("clients  requests/s  tokens/s  TTFT p50/p99 ms  inter-token p50/p99 ms  loop us/token  errors  RSS MB")
    for r in rows:
        print(f"{r['clients']:7d}  {r['requests_per_s']:10.1f}  {r['tokens_per_s']:8.0f}  "
              f"{r['ttft_ms_p50']:7.2f} /{r['ttft_ms_p99']:7.2f}  {r['itl_ms_p50']:10.3f} /{r['itl_ms_p99']:9.3f}  "
              f"{r['loop_us_per_token']:13.2f}  {r['errors']:6d}  {r['rss_mb']:6.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
