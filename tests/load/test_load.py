"""Many clients at once: every stream that survives is complete and equal to its solo run, and
nothing is left behind. 64 clients x 20 requests, random lengths, random disconnects."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import BINARY, ROOT, SANITIZED, SLOWER, serving

CLIENTS, REQUESTS = 64, 20
SUBJECTS = ["a fox", "the sea", "a red boat", "an old king", "two cats", "a lost key", "the moon",
            "a small robot", "rain", "a brave mouse", "the forest", "a baker"]


def prompts() -> list[dict]:
    made = []
    for i, subject in enumerate(SUBJECTS):
        for length in (1, 7, 40, 150):
            made.append({"messages": [{"role": "user", "content": "Tell me a story about " + subject + ". "
                                       + "It may be long. " * (i % 5) * 4}],
                         "temperature": 0, "max_tokens": length, "ignore_eos": length > 40})
    return made


def stream(server, body: dict, leave_after: int | None) -> str | None:
    """The text of a streamed answer; None when the client left on purpose."""
    data = json.dumps({**body, "stream": True}).encode()
    with server.connect(timeout=120 * SLOWER) as sock:
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                     b"Content-Type: application/json\r\nConnection: close\r\n"
                     + f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
        if leave_after == 0:
            return None
        text, done, frames, finish, pending = "", False, 0, None, b""
        file = sock.makefile("rb")
        status = file.readline()
        assert status.startswith(b"HTTP/1.1 200"), status
        while file.readline() not in (b"\r\n", b""):
            pass
        while True:  # chunked transfer coding
            size = int(file.readline().split(b";")[0], 16)
            chunk = file.read(size)
            file.read(2)
            if not size:
                break
            pending += chunk
            while b"\n\n" in pending:
                frame, pending = pending.split(b"\n\n", 1)
                if not frame.startswith(b"data: "):
                    continue
                if frame == b"data: [DONE]":
                    done = True
                    continue
                event = json.loads(frame[6:])
                assert "error" not in event, event
                frames += 1
                for choice in event["choices"]:
                    text += choice["delta"].get("content") or ""
                    finish = choice["finish_reason"] or finish
                if leave_after is not None and frames >= leave_after:
                    if frames % 2:  # a reset in place of a close
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    return None
        assert done and finish in ("stop", "length"), (done, finish)
        return text


def wave(server, bodies, solo, seed: int, clients: int, requests: int, exact: bool) -> list[str]:
    failures: list[str] = []

    def client(number: int) -> None:
        rng = random.Random(seed * 1000 + number)
        for _ in range(requests):
            which = rng.randrange(len(bodies))
            leave = rng.randrange(0, 30) if rng.random() < 0.3 else None
            try:
                text = stream(server, bodies[which], leave)
                if exact and text is not None and text != solo[which]:
                    failures.append(f"prompt {which}: {text!r} is not {solo[which]!r}")
            except (AssertionError, OSError, ValueError) as error:
                failures.append(f"prompt {which}: {error!r}")

    threads = [threading.Thread(target=client, args=(i,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def options_of(device: str) -> tuple[list[str], bool]:
    """Options for a device, and whether an answer may not depend on who else is served. Skips by
    name where the device is missing."""
    if device == "cpu":
        return ["--device", "cpu"], True
    if not (Path(BINARY).parent / "sirocco-cuda.so").exists():
        pytest.skip("the load test on cuda: sirocco-cuda.so is not built beside the program")
    if not Path("/dev/nvidiactl").exists():
        pytest.skip("the load test on cuda: this machine has no GPU")
    help_text = subprocess.run([BINARY, "serve", "--help"], capture_output=True, text=True).stdout
    exact = "--deterministic" in help_text
    return ["--device", "cuda"] + (["--deterministic"] if exact else []), exact


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_concurrent_streams_are_exact_and_leave_nothing(device):
    clients, requests = (16, 6) if SANITIZED else (CLIENTS, REQUESTS)
    options, exact = options_of(device)
    with serving("--max-seqs", "32", "--kv-cache-bytes", "12m", "--log-level", "warn", *options) as server:
        bodies = prompts()
        solo = [stream(server, body, None) for body in bodies]
        assert len({s for s in solo}) > len(SUBJECTS)
        failures = wave(server, bodies, solo, 1, clients, requests // 2, exact)
        assert not failures, failures[:5]
        server.wait_idle()
        before, fds = server.rss(), server.fds()
        failures = wave(server, bodies, solo, 2, clients, requests - requests // 2, exact)
        assert not failures, failures[:5]
        server.wait_idle()
        if not SANITIZED:
            grown = server.rss() - before
            assert grown < 5 << 20, f"grew by {grown} bytes in the second half"
        end = time.monotonic() + 5 * SLOWER
        while server.fds() > fds and time.monotonic() < end:  # closed by us, not yet seen there
            time.sleep(0.01)
        assert server.fds() <= fds
        assert server.metric("sirocco_kv_blocks_used") == 0


def emulated(tmp_path):
    """The plugin of tests/cuda_emu, and a tiny random model in tmp_path."""
    plugin = os.environ.get("SIROCCO_TEST_PLUGIN", "")
    if SANITIZED or not Path(plugin).is_file():
        pytest.skip("the emulated CUDA plugin is not built")
    sizes = "--dim 128 --heads 4 --kv-heads 2 --head-dim 32 --ffn 256 --layers 2 --vocab 4096 --context 1024"
    subprocess.run([sys.executable, "scripts/make_random_model", "--preset", "mistral-7b", "--type", "bf16",
                    *sizes.split(), tmp_path / "model"],
                   cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return plugin


def test_wrong_wgmma_is_found_at_start(tmp_path):
    """Emulated GPU 3 has wgmma that adds wrongly: one line in the log, and prompts are served without."""
    plugin = emulated(tmp_path)
    for gpu, warnings in ((1, 0), (3, 1)):
        with serving("--model", str(tmp_path / "model"), "--device", f"cuda:{gpu}", "--cuda-plugin", plugin,
                     "--max-seqs", "2", "--kv-cache-bytes", "2m", "--max-model-len", "512",
                     "--log-level", "warn") as server:
            words = [{"role": "user", "content": "one two three " * 20}]
            answer = server.chat(messages=words, max_tokens=2, ignore_eos=True)
            assert answer["usage"]["completion_tokens"] == 2
            assert sum("wgmma" in line for line in server.log) == warnings, server.log


def test_streams_over_an_emulated_gpu(tmp_path):
    """The same with the CUDA backend's kernels on the host (tests/cuda_emu) and a tiny random model:
    steps run ahead, decodes are captured, and who comes and goes changes nobody's text."""
    plugin = emulated(tmp_path)
    bodies = [{"messages": [{"role": "user", "content": f"Tell me about {subject}" + " ." * i * 5}],
               "temperature": 0 if length < 17 else 0.8, "seed": i, "max_tokens": length, "ignore_eos": True}
              for i, subject in enumerate(SUBJECTS[:5]) for length in (1, 6, 17)]
    with serving("--model", str(tmp_path / "model"), "--device", "cuda", "--cuda-plugin", plugin,
                 "--max-seqs", "24", "--kv-cache-bytes", "2m", "--max-model-len", "512",
                 "--log-level", "warn", "--deterministic") as server:
        solo = [stream(server, body, None) for body in bodies]
        failures = wave(server, bodies, solo, 3, 24, 2, True)
        assert not failures, failures[:5]
        server.wait_idle()
        assert server.metric("sirocco_kv_blocks_used") == 0


def test_idle_costs_nothing():
    with serving() as server:
        server.chat()
        before = server.cpu_seconds()
        threading.Event().wait(2.0)
        assert server.cpu_seconds() - before <= 0.05 * SLOWER
