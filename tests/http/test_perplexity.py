"""`sirocco perplexity` and `sirocco imatrix`: what they measure, and what quantizing makes of it."""

from __future__ import annotations

import json
import math
import struct

import pytest

from conftest import ROOT
from test_quantize import DEMO, command

# of what the demo model was made for
TEXT = "".join(f"What is {n} in German?\n{n.capitalize()} in German is {g}.\n" for n, g in [
    ("green", "grün"), ("red", "rot"), ("water", "Wasser"), ("bread", "Brot"), ("dog", "Hund"),
    ("house", "Haus"), ("tree", "Baum"), ("blue", "blau"), ("cat", "Katze"), ("milk", "Milch")]) * 12


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


def measured(*arguments: str) -> dict:
    answer = command("perplexity", *arguments, "--json")
    assert answer.returncode == 0 and answer.stderr == "", answer
    return json.loads(answer.stdout)


def test_a_model_is_itself(text):
    found = measured(DEMO, text, "--kl", DEMO, "--context", "128")
    assert found["context"] == 128 and found["tokens"] == 64 * found["chunks"] > 500
    assert found["kl"]["mean"] == found["kl"]["max"] == 0 and found["same_top"] == 1
    assert found["perplexity"] == found["reference_perplexity"]
    assert 1 < found["perplexity"] < 400 and 0 < found["perplexity_error"] < found["perplexity"] / 5


def test_finer_types_diverge_less(text):
    found = {t: measured(DEMO, text, "--kl", DEMO, "--quant", t, "--chunks", "4")
             for t in ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_0")}
    means = [f["kl"]["mean"] for f in found.values()]
    assert means == sorted(means, reverse=True) and means[-1] < 0.002 < 0.1 < means[0], means
    for f in found.values():
        kl = f["kl"]
        values = [kl[k] for k in ("min", "p5", "median", "p90", "p95", "p99", "p99.9", "max")]
        assert values == sorted(values) and values[0] >= 0 and kl["median"] < kl["mean"] < kl["max"]
    assert found["q8_0"]["same_top"] > 0.97


def test_quantizing_while_loading_is_quantize(text, tmp_path):
    path = str(tmp_path / "a.gguf")
    assert command("quantize", DEMO, path, "--type", "q5_0").returncode == 0
    file, loaded = (measured(model, text, *rest) for model, rest in [(path, ()), (DEMO, ("--quant", "q5_0"))])
    # q and k lie in another order in the file: sums round differently
    assert math.isclose(file["perplexity"], loaded["perplexity"], rel_tol=2e-3), (file, loaded)
    assert file["tokens"] == loaded["tokens"]


def entries(path: str) -> dict:
    """The F32 tensors of a GGUF file without other types (a reader of this test's own)."""
    data = open(path, "rb").read()
    at = 0

    def take(form):
        nonlocal at
        values = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return values[0]

    def string():
        nonlocal at
        n = take("Q")
        at += n
        return data[at - n:at].decode()

    def value(kind):
        if kind == 8:
            return string()
        if kind == 9:
            inner, n = take("I"), take("Q")
            return [value(inner) for _ in range(n)]
        return take({4: "I", 5: "i", 6: "f", 7: "?"}[kind])

    assert data[:4] == b"GGUF"
    at = 4
    assert take("I") == 3
    n_tensors, n_pairs = take("Q"), take("Q")
    pairs = {string(): value(take("I")) for _ in range(n_pairs)}
    assert pairs["general.type"] == "imatrix" and pairs["imatrix.datasets"] == ["text.txt"]
    infos = {}
    for _ in range(n_tensors):
        name, n = string(), take("I")
        dims = [take("Q") for _ in range(n)]
        assert take("I") == 0
        infos[name] = (math.prod(dims), take("Q"))
    start = (at + 31) // 32 * 32
    return {k: struct.unpack_from(f"<{n}f", data, start + offset) for k, (n, offset) in infos.items()}


def test_imatrix(text, tmp_path):
    path, plain, weighed = (str(tmp_path / f"{n}.gguf") for n in ("imatrix", "plain", "weighed"))
    answer = command("imatrix", DEMO, text, path, "--context", "256")
    assert answer.returncode == 0 and answer.stderr == "", answer
    found = entries(path)
    assert len(found) == 2 * 42  # six layers of seven matrices
    assert len(found["blk.0.ffn_down.weight.in_sum2"]) == 768
    assert found["blk.5.attn_q.weight.in_sum2"] == found["blk.5.attn_v.weight.in_sum2"]
    assert found["blk.5.attn_q.weight.in_sum2"] != found["blk.5.attn_output.weight.in_sum2"]
    assert all(v >= 0 for values in found.values() for v in values)
    assert {v for k, values in found.items() if k.endswith(".counts") for v in values} == {
        found["blk.0.attn_q.weight.counts"][0]}
    for out, more in ((plain, ()), (weighed, ("--imatrix", path))):
        answer = command("quantize", DEMO, out, "--type", "q3_k", *more)
        assert answer.returncode == 0 and answer.stderr == "", answer
    with_it, without = (measured(out, text, "--kl", DEMO)["kl"]["mean"] for out in (weighed, plain))
    assert with_it != without and 0.5 < with_it / without < 1.5  # ten phrases say no more than that


def test_refusals(text, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("Hi.")
    other = str(ROOT / "tests/golden/models/llama-tied")
    out = str(tmp_path / "out.gguf")
    for arguments, code, said in [
            (("perplexity", DEMO), 2, "MODEL and TEXT are needed"),
            (("perplexity", DEMO, text, "--context", "4"), 2, "--context needs a number"),
            (("perplexity", DEMO, text, "--context", "8192"), 2, "the model was made for 4096"),
            (("perplexity", DEMO, text, "--quant", "f64"), 2, "quant f64"),
            (("perplexity", DEMO, str(short)), 1, "are too few"),
            (("perplexity", DEMO, "/nonexistent"), 1, "/nonexistent"),
            (("perplexity", DEMO, text, "--kl", "/nonexistent"), 1, "/nonexistent"),
            (("perplexity", DEMO, text, "--kl", other), 1, "tokenizer"),
            (("imatrix", DEMO, text), 2, "MODEL, TEXT and FILE are needed"),
            (("imatrix", DEMO, text, "/nonexistent/a"), 1, "/nonexistent/a"),
            (("quantize", DEMO, out, "--type", "q4_0", "--imatrix", DEMO), 1, "importance matrix")]:
        answer = command(*arguments)
        assert answer.returncode == code and said in answer.stderr, (arguments, answer)
        assert len(answer.stderr.splitlines()) == 1 and answer.stdout == ""
    assert command("quantize", DEMO, out, "--type", "f16").returncode == 0
    answer = command("quantize", DEMO, out, "--type", "q4_0", "--imatrix", out)
    assert answer.returncode == 1 and "no importance matrix" in answer.stderr
