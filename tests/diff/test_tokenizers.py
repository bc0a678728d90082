"""Our tokenizers against the packages that define them: Hugging Face `tokenizers`, sentencepiece and
tiktoken (with tekken.json's pattern and ranks, as mistral-common uses it), text by text.

The vocabularies are the demo model's and those of SIROCCO_TEST_DATA; the texts are whole corpora cut
in pieces, a list of naughty strings, and random Unicode made from a fixed seed. For a longer look,
SIROCCO_DIFF_TEXTS says how many random texts, SIROCCO_DIFF_SEED which.

What is left out, and why: characters that are not in every package's version of Unicode (where a
file has a normalizer, of its older tables); and, for tokenizer.json files that restate a sentencepiece
model with Metaspace, texts that begin with a space, where that package drops the space that
sentencepiece (and we) keep.
"""

from __future__ import annotations

import base64
import functools
import gzip
import json
import os
import random
import subprocess
import unicodedata
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("SIROCCO_ROOT", Path(__file__).resolve().parents[2]))
BINARY = os.environ.get("SIROCCO_BINARY", str(ROOT / "build/sirocco"))
TOKENIZE = Path(BINARY).parent / "tests/bench/tokenize"
DATA = Path(os.environ.get("SIROCCO_TEST_DATA") or "/nonexistent")
N_RANDOM = int(os.environ.get("SIROCCO_DIFF_TEXTS", "4000"))
SEED = int(os.environ.get("SIROCCO_DIFF_SEED", "20250710"))

CORPORA = ["text/tinyshakespeare.txt", "text/promessi_sposi-it.txt.gz",
           "text/wagahaiwa_nekodearu-ja.txt", "text/wikitext-2-test.txt", "text/udhr/udhr.jsonl",
           "text/unicode/emoji-test.txt"]


def data(relative: str) -> Path:
    path = DATA / relative
    if not path.exists():
        pytest.skip(f"{relative}: SIROCCO_TEST_DATA is not set or lacks it")
    return path


def unpacked(relative: str, folder: Path, name: str) -> Path:
    """The file itself, or what gzip packed, under the name that says its kind."""
    path = data(relative)
    if path.suffix != ".gz":
        return path
    target = folder / name
    target.write_bytes(gzip.decompress(path.read_bytes()))
    return target


def ours(tokenizer: Path, texts: list[str], trusted: bool) -> list[dict]:
    if not TOKENIZE.exists():
        pytest.skip(f"{TOKENIZE} is not built (make test-binaries)")
    lines = "".join(json.dumps({"text": t, "trusted": trusted}) + "\n" for t in texts)
    run = subprocess.run([str(TOKENIZE), str(tokenizer)], input=lines, capture_output=True, text=True,
                         timeout=300)
    assert run.returncode == 0, run.stderr
    answers = [json.loads(line) for line in run.stdout.split("\n") if line]
    assert len(answers) == len(texts)
    return answers


def assigned() -> list[str]:
    """Characters of this Python's version of Unicode, which is older than the packages'."""
    return [chr(c) for c in range(0x110000)
            if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]


@functools.cache
def newer_characters() -> frozenset[str]:
    """Those on which the `tokenizers` package's tables of Unicode's forms, marks and punctuation, older
    than Python's, differ from it."""
    tokenizers = pytest.importorskip("tokenizers")
    strip = tokenizers.normalizers.StripAccents()
    forms = [(name, getattr(tokenizers.normalizers, name)()) for name in ("NFD", "NFKD")]
    punctuation = tokenizers.pre_tokenizers.Punctuation()

    def differs(c: str) -> bool:
        kind = unicodedata.category(c)[0]
        return (any(form.normalize_str(c) != unicodedata.normalize(name, c) for name, form in forms)
                or (kind == "M") != (strip.normalize_str(c) != c)
                or (kind == "P") != (len(punctuation.pre_tokenize_str(f"a{c}a")) > 1))

    return frozenset(c for c in assigned() if ord(c) > 127 and differs(c))


def random_texts(specials: list[str]) -> list[str]:
    rng = random.Random(SEED)
    everything = assigned()
    blocks = [(0x20, 0x7e), (0xa0, 0x24f), (0x300, 0x36f), (0x370, 0x5ff), (0x600, 0x6ff),
              (0x900, 0x97f), (0xe00, 0xe7f), (0x1100, 0x11ff), (0x2000, 0x206f), (0x3040, 0x30ff),
              (0x4e00, 0x4fff), (0xac00, 0xacff), (0x1f300, 0x1f64f)]
    known = set(everything)
    pieces = [" ", "  ", "\n", "\r\n", "\t", "\n\n", "'s", "'LL", "'Re", "don't", "\u017f", "'\u017f",
              "1", "12", "1234", "\u0663", "\u00bd", "\u2163", "the ", " and", "Hello", "WORLD", "e\u0301",
              "\u2581", "\u00a0", "\u3000", "\u0085", "\u2028", "\u180e", "\u200b", "\ufeff", "$$", "...",
              "/", "//", "\u1e9b\u0323", "\ufb01", "\uac00", "\u1100\u1161\u11a8", "\x00", "\x7f",
              "\U0001f468\u200d\U0001f469", "\U0001f1eb\U0001f1f7"] + specials
    texts = []
    for _ in range(N_RANDOM):
        text = ""
        for _ in range(rng.randint(1, 14)):
            kind = rng.random()
            if kind < 0.45:
                text += rng.choice(pieces)
            elif kind < 0.85:
                low, high = rng.choice(blocks)
                text += "".join(c for c in (chr(rng.randint(low, high)) for _ in range(rng.randint(1, 6)))
                                if c in known)
            else:
                text += "".join(rng.choice(everything) for _ in range(rng.randint(1, 4)))
        texts.append(text)
    return texts


def corpus_texts() -> list[str]:
    """Corpora in pieces of a few lines, and the naughty strings; empty without the data."""
    texts = []
    for relative in CORPORA:
        path = DATA / relative
        if not path.exists():
            continue
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        whole = raw[:400_000].decode("utf-8", errors="ignore")
        texts += [whole[i:i + 4000] for i in range(0, len(whole), 4000)]
    naughty = DATA / "text/blns/blns.json"
    if naughty.exists():
        texts += json.loads(naughty.read_text(encoding="utf-8"))
    known = set(assigned())
    return [t for t in texts if all(c in known for c in t)]


def compare(tokenizer: Path, texts: list[str], trusted: bool, reference) -> None:
    wrong = []
    for text, got in zip(texts, ours(tokenizer, texts, trusted), strict=True):
        want = reference(text)
        if got["ids"] != want:
            wrong.append((text[:200], got["ids"][:40], want[:40]))
    assert not wrong, f"{len(wrong)} of {len(texts)} differ: {wrong[:3]}"
    assert len(texts) >= N_RANDOM // 2
    print(f"{tokenizer.name}: {len(texts)} texts")


HUGGING_FACE = [
    ("config/demo/tokenizer.json", True, ["[INST]", "</s>"]),
    ("weights/stories260K/hf-f32/tokenizer.json", True, []),
    ("tokenizers/hf/phi-2-gpt2-bpe/tokenizer.json", False, ["<|endoftext|>", "   ", "\t\t\t"]),
    ("tokenizers/hf-derived/mistral-nemo/tokenizer.json.gz", False, ["[INST]", "<s>"]),
    ("tokenizers/hf-derived/llama-3/tokenizer.json.gz", False, ["<|eot_id|>", "<|begin_of_text|>"]),
    ("tokenizers/hf-derived/qwen2.5/tokenizer.json.gz", False, ["<|im_start|>", "<tool_call>"]),
]


@pytest.mark.parametrize("relative,spm,specials", HUGGING_FACE, ids=[h[0] for h in HUGGING_FACE])
def test_hugging_face(relative, spm, specials, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    path = ROOT / relative
    if not path.exists():
        path = unpacked(relative, tmp_path, "tokenizer.json")
    reference = tokenizers.Tokenizer.from_file(str(path))
    texts = corpus_texts() + random_texts(specials)
    if spm:
        texts = [t for t in texts if not t.startswith((" ", "\u2581"))]
    if reference.normalizer is not None:
        texts = [t for t in texts if not newer_characters().intersection(t)]
    compare(path, texts, True, lambda t: reference.encode(t, add_special_tokens=False).ids)


@pytest.mark.parametrize("relative", ["llama-2-spm/tokenizer.model", "mistral-spm/tokenizer.model.v1",
                                      "mistral-spm/mistral_instruct_tokenizer_240323.model.v3"])
def test_hugging_face_bpe_of_sentencepiece(relative, tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    restate = pytest.importorskip("restate")
    path = tmp_path / "tokenizer.json"
    model = sentencepiece.SentencePieceProcessor(model_file=str(data(f"tokenizers/{relative}")))
    reference = restate.bpe_from_model(model)
    reference.save(str(path))
    compare(path, corpus_texts() + random_texts(["[INST]", "<s>", "[REF]"]), True,
            lambda t: reference.encode(t, add_special_tokens=False).ids)


def test_hugging_face_unigram_of_sentencepiece(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    restate = pytest.importorskip("restate")
    path = tmp_path / "tokenizer.json"
    model = data("tokenizers/sentencepiece-unigram/test_model.model")
    reference = restate.unigram_from_model(sentencepiece.SentencePieceProcessor(model_file=str(model)))
    reference.save(str(path))
    texts = [t for t in corpus_texts() + random_texts(["<s>"]) if not t.startswith((" ", "\u2581"))]
    compare(path, texts, True, lambda t: reference.encode(t, add_special_tokens=False).ids)


SENTENCEPIECE = [
    "config/demo/tokenizer.model",
    "tokenizers/mistral-spm/tokenizer.model.v1",
    "tokenizers/mistral-spm/mistral_instruct_tokenizer_240216.model.v2",
    "tokenizers/mistral-spm/mistral_instruct_tokenizer_240323.model.v3",
    "tokenizers/mistral-spm/mistral_instruct_tokenizer_241114.model.v7",
    "tokenizers/llama-2-spm/tokenizer.model",
]


@pytest.mark.parametrize("relative", SENTENCEPIECE)
def test_sentencepiece(relative):
    sentencepiece = pytest.importorskip("sentencepiece")
    path = ROOT / relative
    if not path.exists():
        path = data(relative)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    compare(path, corpus_texts() + random_texts(["[INST]", "<s>", "<0x0A>"]), False, reference.encode)


def test_unigram():
    """A unigram model has ties: versions of the library differ in which best segmentation they take,
    so ids that differ must have the same score."""
    sentencepiece = pytest.importorskip("sentencepiece")
    path = data("tokenizers/sentencepiece-unigram/test_model.model")
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    texts = corpus_texts() + random_texts(["<s>"])
    n_ties = 0
    for text, got in zip(texts, ours(path, texts, False), strict=True):
        want = reference.encode(text)
        if got["ids"] == want:
            continue
        scores = [sum(map(reference.get_score, ids)) for ids in (got["ids"], want)]
        assert scores[0] == pytest.approx(scores[1], rel=1e-6), text
        assert reference.decode(got["ids"]) == reference.decode(want)
        n_ties += 1
    assert n_ties * 100 < len(texts)
    print(f"{path.name}: {n_ties} ties in {len(texts)} texts")


# The same models in the forms that we merge ourselves, held to the sentencepiece package.
RESTATED = [
    ("config/demo/tokenizer.json", "config/demo/tokenizer.model"),
    ("weights/stories260K/hf-f32/tokenizer.json", "weights/stories260K/hf-f32/tokenizer.model"),
    ("weights/stories260K/gguf/stories260K-q4_0.gguf", "weights/stories260K/hf-f32/tokenizer.model"),
    ("tokenizers/gguf-vocab/ggml-vocab-llama-spm.gguf", "tokenizers/llama-2-spm/tokenizer.model"),
]


@pytest.mark.parametrize("relative,model", RESTATED, ids=[r[0] for r in RESTATED])
def test_restated(relative, model):
    sentencepiece = pytest.importorskip("sentencepiece")
    path, file = ROOT / relative, ROOT / model
    if not path.exists():
        path, file = data(relative), data(model)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(file))
    compare(path, corpus_texts() + random_texts(["[INST]", "<s>"]), False, reference.encode)


@pytest.mark.parametrize("name", ["gpt-2.gguf", "deepseek-coder.gguf", "starcoder.gguf.gz", "refact.gguf.gz"])
def test_gguf_gpt2(name, tmp_path):
    path = unpacked(f"tokenizers/gguf-vocab/ggml-vocab-{name}", tmp_path, "vocab.gguf")
    restate = pytest.importorskip("restate")
    reference = restate.from_gguf(path)
    compare(path, corpus_texts() + random_texts(["<|endoftext|>", "<fim_prefix>", "12345"]), False,
            lambda t: reference.encode(t, add_special_tokens=False).ids)


def test_tekken(tmp_path):
    tiktoken = pytest.importorskip("tiktoken")
    path = unpacked("tokenizers/tekken/tekken_v3.json.gz", tmp_path, "tekken.json")
    file = json.loads(path.read_text(encoding="utf-8"))
    special = file["config"]["default_num_special_tokens"]
    ranks = {base64.b64decode(v["token_bytes"]): v["rank"] for v in file["vocab"]}
    reference = tiktoken.Encoding("tekken", pat_str=file["config"]["pattern"], mergeable_ranks=ranks,
                                  special_tokens={})
    compare(path, corpus_texts() + random_texts(["[INST]", "<s>"]), False,
            lambda t: [i + special for i in reference.encode_ordinary(t)])


@pytest.mark.parametrize("version", [7, 11, 13, 15])
def test_mistral_common_tekken(version, tmp_path):
    """The tokenizer of mistral-common itself: every id's text and kind, and plain encoding."""
    tekken = pytest.importorskip("mistral_common.tokens.tokenizers.tekken")
    file = json.loads(gzip.decompress(data("tokenizers/tekken/tekken_v3.json.gz").read_bytes()))
    overlay = json.loads(
        data(f"tokenizers/tekken/overlays/tekken_v{version}.overlay.json").read_text(encoding="utf-8"))
    file["config"].update(overlay["config"])
    file.update({k: v for k, v in overlay.items() if k != "config"})
    path = tmp_path / "tekken.json"
    path.write_text(json.dumps(file), encoding="utf-8")
    reference = tekken.Tekkenizer.from_file(path)
    texts = corpus_texts()[::10] + random_texts(["[INST]", "<s>"])
    compare(path, texts, False, lambda t: reference.encode(t, bos=False, eos=False))
    controls = [t["token_str"] for t in overlay["special_tokens"]] + ["<SPECIAL_999>"]
    for name, got in zip(controls, ours(path, controls, True), strict=True):
        assert got["ids"] == [reference.get_special_token(name)], name


@pytest.mark.parametrize("relative", [m for m in SENTENCEPIECE if "mistral-spm" in m])
def test_mistral_common_sentencepiece(relative):
    spm = pytest.importorskip("mistral_common.tokens.tokenizers.sentencepiece")
    path = data(relative)
    reference = spm.SentencePieceTokenizer(path)
    compare(path, corpus_texts()[::10] + random_texts(["[INST]", "<s>"]), False,
            lambda t: reference.encode(t, bos=False, eos=False))
    controls = [c for c in ("[INST]", "[/INST]", "[TOOL_CALLS]", "[PREFIX]", "[SYSTEM_PROMPT]")
                if c in reference.vocab()]
    for name, got in zip(controls, ours(path, controls, True), strict=True):
        assert got["ids"] == [reference.get_special_token(name)], name


@pytest.mark.parametrize("relative", [h[0] for h in HUGGING_FACE if not h[1]])
def test_bytes_come_back(relative, tmp_path):
    """Decoding gives the text back, but for what the normalizer changed."""
    path = unpacked(relative, tmp_path, "tokenizer.json")
    texts = random_texts([])
    nfc = json.loads(path.read_text(encoding="utf-8"))["normalizer"] == {"type": "NFC"}
    for text, got in zip(texts, ours(path, texts, False), strict=True):
        assert got["text"] == (unicodedata.normalize("NFC", text) if nfc else text)
    print(f"{path.name}: {len(texts)} texts")
