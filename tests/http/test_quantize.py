"""`sirocco quantize`: files, refusals, a full disk, an interrupt; and --help of every subcommand."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time

import pytest

from conftest import BINARY, ROOT, SLOWER, serving

DEMO = str(ROOT / "config/demo")


def command(*arguments: str, **how) -> subprocess.CompletedProcess:
    return subprocess.run([BINARY, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=120 * SLOWER, check=False, **how)


def test_every_subcommand_has_help():
    listed = [line.split()[0] for line in command("help").stdout.splitlines() if line.startswith("  ")]
    assert {"serve", "bench", "quantize", "inspect", "render", "tokenize", "version"} <= set(listed)
    for name in listed:
        for flag in ("--help", "-h"):
            answer = command(name, flag)
            assert answer.returncode == 0 and answer.stderr == "", (name, answer)
            assert answer.stdout.lower().startswith("usage: sirocco"), (name, answer.stdout[:80])
            assert "inspect" not in name or "--memory" in answer.stdout


def bits(path) -> float:
    return 8 * os.path.getsize(path) / 6_819_072


def test_a_quantized_model_serves_chats(tmp_path):
    path = str(tmp_path / "demo.gguf")
    answer = command("quantize", DEMO, path, "--type=q6_k")
    assert answer.returncode == 0 and answer.stderr == "", answer
    assert answer.stdout.startswith(f"{path}: 57 tensors, 6.8 million parameters")
    assert os.listdir(tmp_path) == ["demo.gguf"] and 6.5 < bits(path) < 7.5
    with serving("--model", path) as server:
        quantized = server.chat(max_tokens=12, temperature=0)
    with serving() as server:
        plain = server.chat(max_tokens=12, temperature=0)
    assert quantized["usage"] == plain["usage"]
    assert quantized["choices"][0]["message"] == plain["choices"][0]["message"]


@pytest.mark.parametrize("kind, low, high", [("f32", 31.9, 32.5), ("bf16", 16, 16.5), ("q8_0", 8.5, 8.8),
                                             ("q4_k", 4.5, 5.1), ("Q2_K", 2.6, 3.4)])
def test_sizes(tmp_path, kind, low, high):
    path = str(tmp_path / "demo.gguf")
    assert command("quantize", DEMO, path, "--type", kind).returncode == 0
    assert low < bits(path) < high, bits(path)


def test_quantizing_while_loading():
    with serving("--quant", "q8_0") as server:
        quantized = server.chat(max_tokens=12, temperature=0)
    with serving() as server:
        plain = server.chat(max_tokens=12, temperature=0)
    assert quantized["choices"][0]["message"] == plain["choices"][0]["message"]
    answer = command("bench", "--quant", "q4_k", "-n", "4", "-r", "1", "--json")
    assert answer.returncode == 0, answer
    shown = json.loads(answer.stdout)
    assert shown["quant"] == "Q4_K" and 3.4e6 < shown["weight_bytes"] < 4.3e6
    for name in ("f64", "iq1_s", "f32"):
        answer = command("serve", "--quant", name, "--port", "0")
        assert answer.returncode == 2 and f"quant {name}" in answer.stderr, answer


def test_what_was_lost_is_told(tmp_path):
    first, second = str(tmp_path / "a.gguf"), str(tmp_path / "b.gguf")
    assert command("quantize", DEMO, first, "--type", "q4_0").returncode == 0
    answer = command("quantize", first, second, "--type", "q8_0")
    assert answer.returncode == 0 and "44 matrices were quantized before" in answer.stderr
    answer = command("quantize", first, second, "--type", "q4_0")  # copies
    assert answer.returncode == 0 and answer.stderr == ""
    shown = json.loads(command("inspect", second, "--json").stdout)
    assert shown["parameters"] > 6e6


def test_wrong_options(tmp_path):
    path = str(tmp_path / "a.gguf")
    for arguments, text in [
            ((), "SRC, DST and --type are needed"), ((DEMO,), "SRC, DST and --type are needed"),
            ((DEMO, path), "SRC, DST and --type are needed"),
            ((DEMO, path, "--type", "q9"), "--type 'q9' is none that is known"),
            ((DEMO, path, "--type", "iq2_xs"), "--type 'iq2_xs' is none that is known"),
            ((DEMO, path, "x", "--type", "f16"), "unknown option 'x'"),
            ((DEMO, path, "--type", "f16", "--threads", "-1"), "--threads needs a number"),
            ((DEMO, path, "--type"), "--type needs a value")]:
        answer = command("quantize", *arguments)
        assert answer.returncode == 2 and text in answer.stderr, answer
    for arguments, text in [
            (("/nonexistent", path, "--type", "f16"), "/nonexistent"),
            ((DEMO, path, "--type", "f16", "--imatrix", "/nonexistent"), "/nonexistent"),
            ((DEMO, str(tmp_path), "--type", "f16"), "Is a directory"),
            ((DEMO, "/nonexistent/a.gguf", "--type", "f16"), "/nonexistent/a.gguf")]:
        answer = command("quantize", *arguments)
        assert answer.returncode == 1 and text in answer.stderr, answer
        assert len(answer.stderr.splitlines()) == 1
    assert not os.listdir(tmp_path)


def test_a_full_disk_leaves_nothing(tmp_path):
    """The limit on the size of files, as a disk without room."""
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    (tmp_path / "a.gguf").write_bytes(b"old")
    answer = command("quantize", DEMO, str(tmp_path / "a.gguf"), "--type", "f16", preexec_fn=limit,
                     restore_signals=False)
    assert answer.returncode == 1 and "File too large" in answer.stderr, answer
    assert os.listdir(tmp_path) == ["a.gguf"] and (tmp_path / "a.gguf").read_bytes() == b"old"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing(tmp_path, number):
    path = str(tmp_path / "a.gguf")
    process = subprocess.Popen([BINARY, "quantize", DEMO, path, "--type", "q2_k", "--threads", "1"],
                               stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    end = time.monotonic() + 20 * SLOWER
    while not os.listdir(tmp_path):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.001)
    process.send_signal(number)
    out, error = process.communicate(timeout=30 * SLOWER)
    assert process.returncode == 1 and error == "sirocco: stopped\n" and out == "", (out, error)
    assert not os.listdir(tmp_path)
