"""scripts/make_random_model: every preset and storage format loads and computes finite numbers."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import subprocess
import sys

import pytest

from conftest import BINARY, ROOT

SCRIPT = ROOT / "scripts/make_random_model"
TINY = ["--dim", "256", "--layers", "2", "--heads", "4", "--kv-heads", "2", "--head-dim", "64", "--ffn", "512",
        "--vocab", "4096", "--context", "256"]


def module():
    loader = importlib.machinery.SourceFileLoader("make_random_model", str(SCRIPT))
    made = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(made)
    return made


MAKER = module()


def make(path, *options):
    subprocess.run([sys.executable, "-B", SCRIPT, *TINY, *options, path], check=True, capture_output=True)
    return path


def bench(path):
    """The bench fails when a logit is not finite."""
    run = subprocess.run([BINARY, "bench", "--model", path, "-p", "16", "-n", "4", "-r", "1", "--json"],
                         capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "not finite" not in run.stderr
    found = json.loads(run.stdout)
    assert found["limits"]["read_gb_per_s"] > 0 and found["limits"]["gflop_per_s"] > 0
    assert all(r["limit_share"] > 0 for r in found["results"])
    return found


@pytest.mark.parametrize("kind", sorted(MAKER.TYPES))
def test_every_format(tmp_path, kind):
    found = bench(make(tmp_path / "m.gguf", "--preset", "mistral-7b", "--type", kind))
    assert found["quant"].lower() == kind
    head, matrices = 64, 4096 * 256 * 2
    matrices += 2 * (256 * (4 + 2 + 2 + 4) * head + 3 * 256 * 512)
    assert found["parameters"] == matrices + 5 * 256


@pytest.mark.parametrize("preset", sorted(MAKER.PRESETS))
def test_every_preset(tmp_path, preset):
    arch = MAKER.PRESETS[preset]["arch"]
    assert bench(make(tmp_path / "m", "--preset", preset, "--split", "2"))["arch"] == arch
    if MAKER.ARCHS[arch][2]:
        make(tmp_path / "m.gguf", "--preset", preset, "--type", "q4_k", "--split", "3")
        bench(tmp_path / "m-00002-of-00003.gguf")


def test_seed(tmp_path):
    one, same, other = (make(tmp_path / name, "--type", "q6_k", "--seed", seed).read_bytes()
                        for name, seed in (("a.gguf", "7"), ("b.gguf", "7"), ("c.gguf", "8")))
    # the name is in the metadata
    assert one.replace(b"general.name\x08\0\0\0\x01\0\0\0\0\0\0\0a", b"") == \
        same.replace(b"general.name\x08\0\0\0\x01\0\0\0\0\0\0\0b", b"")
    assert len(one) == len(other) and one[-100000:] != other[-100000:]


def test_deviation(tmp_path):
    """What the blocks decode to has the deviation that the float formats have."""
    for kind in ("q4_0", "q8_0"):
        pool = MAKER.block_pool(kind, MAKER.random.Random(1))[:34 * 18 * 400]
        size = MAKER.TYPES[kind][2]
        values = []
        for at in range(0, len(pool), size):
            d = MAKER.struct.unpack_from("<e", pool, at)[0]
            for byte in pool[at + 2:at + size]:
                values += [d * ((byte ^ 128) - 128)] if kind == "q8_0" else [d * ((byte & 15) - 8), d * ((byte >> 4) - 8)]
        mean_square = sum(v * v for v in values) / len(values)
        assert 0.8 < mean_square ** 0.5 / MAKER.SIGMA < 1.2


def test_refused(tmp_path):
    for options, words in ((["--preset", "gemma2-2b", "m.gguf"], "no GGUF form"),
                           (["--type", "q4_k", "folder"], "name OUT.gguf"),
                           (["--vocab", "100", "m.gguf"], "the tokenizer has 4096 tokens"),
                           (["--layers", "0", "m.gguf"], "positive")):
        run = subprocess.run([sys.executable, "-B", SCRIPT, *options], capture_output=True, text=True, cwd=tmp_path)
        assert run.returncode != 0 and words in run.stderr


@pytest.mark.parametrize("kind", sorted(MAKER.QUANTIZED))
def test_every_published_layout(tmp_path, kind):
    """They are repacked at load: nothing is left of the layout but its name in the inspection."""
    found = bench(make(tmp_path / "m", "--preset", "mistral-7b", "--type", kind))
    assert found["quant"] == {"fp8": "F8_128", "fp8_tensor": "F8_128", "w4a16": "G4_128", "w8a8": "G8_128", "gptq": "Q4_0", "awq": "G4_128"}[kind]
    run = subprocess.run([BINARY, "inspect", tmp_path / "m", "--json"], capture_output=True, text=True, check=True)
    told = json.loads(run.stdout)
    assert "repacked" in " ".join(told["features"]) and MAKER.QUANTIZED[kind][1]["quant_method"] in " ".join(told["features"])
    assert told["parameters"] == found["parameters"]


def test_a_published_layout_becomes_another(tmp_path):
    """Quantized again while it loads, and as a GGUF file."""
    folder = make(tmp_path / "m", "--preset", "mistral-7b", "--type", "fp8")
    run = subprocess.run([BINARY, "quantize", folder, tmp_path / "m.gguf", "--type", "q4_k"], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert bench(tmp_path / "m.gguf")["quant"] == "Q4_K"
    assert divergence(tmp_path / "m.gguf", folder) < 5e-3  # 0.0015 when this was written
    assert divergence(folder, folder, "--quant", "q8_0") < 1e-4


def divergence(path, reference, *options):
    """Mean KL divergence over a few words."""
    text = path.parent / "text"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 8)
    run = subprocess.run([BINARY, "perplexity", path, text, "--kl", reference, "--context", "64", "--json", *options],
                         capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["same_top"] > 0.8
    return found["kl"]["mean"]
