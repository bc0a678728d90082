"""Probes, metrics, models, names."""

from __future__ import annotations

import json
import re
import time

from conftest import SLOWER, serving


def test_probes(server):
    for path in ("/health", "/ready"):
        status, headers, _ = server.get(path)
        assert status == 200
    status, _, raw = server.get("/version")
    assert status == 200 and re.fullmatch(r"\d+\.\d+\.\d+", json.loads(raw)["version"])


def test_served_model_names():
    with serving("--served-model-name", "one", "--served-model-name", "two") as server:
        assert [m["id"] for m in json.loads(server.get("/v1/models")[2])["data"]] == ["one", "two"]
        for name in ("one", "two", "default"):
            assert server.chat(model=name, max_tokens=1)["model"] in ("one", "two")
        assert server.post("/v1/chat/completions", {"model": "sirocco-demo", "messages": [
            {"role": "user", "content": "a"}]})[0] == 404


def exposition(text: str) -> dict:
    """Parse Prometheus text strictly: HELP and TYPE once per family, before its samples."""
    types, samples = {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in types and kind in ("counter", "gauge", "histogram"), line
            types[name] = kind
        elif line.startswith("#"):
            assert line.startswith("# HELP "), line
        else:
            match = re.fullmatch(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[^}]*\})? (\S+)", line)
            assert match, line
            name, labels, value = match.groups()
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            assert name in types or types.get(base) == "histogram", line
            assert (name, labels) not in samples, line
            samples[name, labels] = float(value)
    for name, kind in types.items():
        if kind == "counter":
            assert name.endswith("_total"), name
    return samples


def test_metrics_add_up():
    with serving("--metrics-compat", "vllm") as server:
        for i in range(5):
            server.chat(max_tokens=3 + i, ignore_eos=True)
        server.post("/v1/chat/completions", b"{")
        samples = exposition(server.get("/metrics")[2].decode())
        def total(name):
            return sum(v for (n, _), v in samples.items() if n == name)
        assert total("sirocco_generation_tokens_total") == sum(3 + i for i in range(5))
        assert total("sirocco_time_to_first_token_seconds_count") == 5
        assert total("sirocco_request_success_total") == 5
        assert total("sirocco_inter_token_latency_seconds_count") == sum(2 + i for i in range(5))
        assert total("sirocco_requests_running") == 0 and total("sirocco_kv_blocks_used") == 0
        assert total("sirocco_kv_blocks_total") > 0
        for name in ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
                     "vllm:gpu_cache_usage_perc", "vllm:generation_tokens_total",
                     "vllm:time_to_first_token_seconds_count", "vllm:request_success_total"):
            found = [labels for (n, labels) in samples if n == name]
            assert found and all('model_name="sirocco-demo"' in labels and 'engine="0"' in labels
                                 for labels in found), name
        for (name, labels), value in samples.items():  # buckets rise to the count
            if name.endswith("_bucket") and 'le="+Inf"' in labels:
                rest = re.sub(r',?le="\+Inf"', "", labels)
                rest = None if rest == "{}" else rest
                assert value == samples[name[:-7] + "_count", rest], name


def test_metrics_of_the_parts_of_a_request():
    """Queue, prefill and decode make up a sequence's time; the longest of a request's sequences counts."""
    with serving("--metrics-compat", "vllm") as server:
        prompt = [5 + i % 50 for i in range(600)]
        for stop in ([], [3]):
            status, _, _ = server.post("/v1/completions", {
                "prompt": prompt, "n": 3, "max_tokens": 40, "ignore_eos": not stop, "stop_token_ids": stop,
                "min_tokens": 5, "temperature": 1, "seed": 3})
            assert status == 200
        server.post("/v1/completions", {"prompt": "a", "max_tokens": 99999, "temperature": 9})
        samples = exposition(server.get("/metrics")[2].decode())

        def value(name: str) -> float:
            ours = samples["sirocco_" + name, None]
            theirs = [v for (n, labels), v in samples.items() if n == "vllm:" + name]
            assert theirs == [ours], name
            return ours

        seconds = {part: value(f"request_{part}_time_seconds_sum")
                   for part in ("queue", "prefill", "decode", "inference")}
        assert all(v > 0 for v in seconds.values()), seconds
        total = value("e2e_request_latency_seconds_sum")
        assert abs(seconds["prefill"] + seconds["decode"] - seconds["inference"]) < 1e-6
        assert abs(seconds["queue"] + seconds["inference"] - total) < 1e-6
        for part in seconds:
            assert value(f"request_{part}_time_seconds_count") == 6
        assert value("request_params_max_tokens_sum") == 6 * 40
        assert value("request_max_num_generation_tokens_count") == 2
        assert 40 + 5 <= value("request_max_num_generation_tokens_sum") <= 80
        hits, queries = value("prefix_cache_hits_total"), value("prefix_cache_queries_total")
        ratio = samples["sirocco_prefix_cache_hit_ratio", None]
        assert hits > 0 and abs(ratio - hits / queries) < 1e-9
        assert ratio == next(v for (n, _), v in samples.items() if n == "vllm:gpu_prefix_cache_hit_rate")


def test_labels_are_bounded(server):
    for i in range(50):
        server.get(f"/v1/unknown/{i}")
        server.get(f"/v1/models/m{i}")
    text = server.get("/metrics")[2].decode()
    assert "unknown/1" not in text and '"m1"' not in text


def test_health_while_a_long_prompt_runs():
    with serving("--max-batch-tokens", "64") as server:
        import threading
        body = {"prompt": [[5 + i % 50] * 4000 for i in range(6)], "max_tokens": 1}
        busy = threading.Thread(target=server.post, args=("/v1/completions", body))
        busy.start()
        worst = 0.0
        while busy.is_alive():
            start = time.monotonic()
            assert server.get("/health")[0] == 200
            worst = max(worst, time.monotonic() - start)
        assert worst < 0.5 * SLOWER, worst


def test_ping_comments_during_a_silent_wait():
    """A stream that waits in the queue gets its headers at once and comments meanwhile."""
    with serving("--max-seqs", "1", "--sse-ping-interval-ms", "100") as server:
        long = json.dumps({"messages": [{"role": "user", "content": "A story."}], "stream": True,
                           "max_tokens": 3000, "ignore_eos": True}).encode()
        request = (b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                   b"Content-Length: %d\r\n\r\n" % len(long) + long)
        with server.connect() as first, server.connect() as second:
            first.sendall(request)
            assert b"200" in first.recv(4096)
            second.sendall(request)
            answer, end = b"", time.monotonic() + 5 * SLOWER
            while b": " not in answer.split(b"\r\n\r\n", 1)[-1][:200] or b"\n: " not in b"\n" + answer:
                assert time.monotonic() < end, answer
                answer += second.recv(4096)
            assert b"200 OK" in answer
