#!/usr/bin/env python3
"""Tokenizer speed beside the packages that define the kinds: Hugging Face `tokenizers` for every
kind, and the package whose files are read where there is one (sentencepiece, tiktoken). Megabytes
per second of one thread's CPU time, the best of three runs over English, code and mixed Unicode.

    make test-binaries && SIROCCO_TEST_DATA=... tests/bench/tokenizer_speed.py [KIND...] [--json]

`tokens`: whether the reference makes as many tokens of the whole text as we do. The packages encode
each text in the way that suits them best: whole, or line by line. A last row per kind is one letter, a
megabyte of it, with how much longer that takes us than an eighth of it does: 8 is linear.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import sentencepiece  # noqa: E402
import tiktoken  # noqa: E402
import tokenizers  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/diff"))
import restate  # noqa: E402

TOKENIZE = ROOT / "build/tests/bench/tokenize"
DATA = Path(os.environ.get("SIROCCO_TEST_DATA") or "/nonexistent")
RUNS = 3
TEXT_BYTES = 600_000
SPECIAL = ("<s>", "</s>", "<|", "[INST]", "<unk>", "<tool_call>")  # the packages would parse them
ONE_LETTER = "1 MB of a"

# kind: our file; what the `tokenizers` package reads: the same, or another file of the same
# vocabulary, or one restated for it; the package of our file's own format
NEMO = "tokenizers/hf-derived/mistral-nemo/tokenizer.json.gz"
LLAMA2 = "tokenizers/llama-2-spm/tokenizer.model"
MISTRAL3 = "tokenizers/mistral-spm/mistral_instruct_tokenizer_240323.model.v3"
UNIGRAM = "tokenizers/sentencepiece-unigram/test_model.model"
GPT2_GGUF = "tokenizers/gguf-vocab/ggml-vocab-gpt-2.gguf"
KINDS = {
    "tekken": ("tokenizers/tekken/tekken_v3.json.gz", NEMO, "tiktoken"),
    "nemo-json": (NEMO, NEMO, None),
    "llama3-json": ("tokenizers/hf-derived/llama-3/tokenizer.json.gz",) * 2 + (None,),
    "qwen2.5-json": ("tokenizers/hf-derived/qwen2.5/tokenizer.json.gz",) * 2 + (None,),
    "gpt2-json": ("tokenizers/hf/phi-2-gpt2-bpe/tokenizer.json",) * 2 + (None,),
    "gpt2-gguf": (GPT2_GGUF, ("from_gguf", GPT2_GGUF), None),
    "llama2-json": (("bpe_from_model", LLAMA2),) * 2 + (None,),
    "llama2-spm": (LLAMA2, ("bpe_from_model", LLAMA2), "sentencepiece"),
    "llama2-gguf": ("tokenizers/gguf-vocab/ggml-vocab-llama-spm.gguf", ("bpe_from_model", LLAMA2),
                    None),
    "mistral-v3-spm": (MISTRAL3, ("bpe_from_model", MISTRAL3), "sentencepiece"),
    "unigram-json": (("unigram_from_model", UNIGRAM),) * 2 + (None,),
    "unigram-spm": (UNIGRAM, ("unigram_from_model", UNIGRAM), "sentencepiece"),
}


def file_of(source, folder: Path) -> Path:
    """A file of the test data, unpacked; or (function of restate.py, file): what it makes."""
    relative = source if isinstance(source, str) else source[1]
    path = DATA / relative
    target = folder / relative.replace("/", "-").removesuffix(".gz")
    if isinstance(source, str) and path.suffix != ".gz":
        return path
    if isinstance(source, str):
        target.write_bytes(gzip.decompress(path.read_bytes()))
        return target
    model = path if source[0] == "from_gguf" else sentencepiece.SentencePieceProcessor(
        model_file=str(path))
    target = target.with_suffix(".json")
    getattr(restate, source[0])(model).save(str(target))
    return target


def text_files(folder: Path) -> dict[str, Path]:
    def read(relative: str) -> str:
        return (DATA / "text" / relative).read_text(encoding="utf-8")

    sources = sorted(p for top in ("kernels", "engine/base", "engine/grammar", "engine/template")
                     for p in (ROOT / top).rglob("*") if p.suffix in (".c", ".h", ".cu"))
    languages = [json.loads(line)["text"] for line in read("udhr/udhr.jsonl").splitlines()]
    texts = {
        "English": read("tinyshakespeare.txt"),
        "code": "".join(t for t in (p.read_text(encoding="utf-8") for p in sources)
                        if not any(mark in t for mark in SPECIAL)),
        "mixed": "\n".join(t[:3000] for t in languages) + read("wagahaiwa_nekodearu-ja.txt")[:60_000]
                 + read("unicode/emoji-test.txt")[:60_000],
        ONE_LETTER: "a" * 1_000_000,
    }
    files = {}
    for name, text in texts.items():
        raw = text.encode() if name == ONE_LETTER else text.encode()[:TEXT_BYTES]
        files[name] = folder / f"{name}.txt"
        files[name].write_text(raw.decode(errors="ignore"), encoding="utf-8")
    (folder / "eighth.txt").write_text("a" * 125_000, encoding="utf-8")
    return files


def ours(path: Path, text: Path) -> tuple[float, int]:
    run = subprocess.run([TOKENIZE, path, "--bench", text], check=True, capture_output=True, text=True)
    speed, n = run.stdout.split()[:2]
    return float(speed), int(n)


def measured(text: str, encode, encode_lines) -> tuple[float, int]:
    """MB/s and tokens: encode(text) gives ids, encode_lines takes the text's lines."""
    best, n = 1e9, 0
    lines = text.split("\n")
    for _ in range(RUNS):
        for call, argument in ((encode, text), (encode_lines, lines)):
            start = time.process_time()
            result = call(argument)
            best = min(best, time.process_time() - start)
            n = len(result) if call is encode else n
    return len(text.encode()) / best / 1e6, n


def hugging_face(path: Path):
    t = tokenizers.Tokenizer.from_file(str(path))
    return (lambda text: t.encode(text, add_special_tokens=False).ids,
            lambda lines: t.encode_batch(lines, add_special_tokens=False))


def own_package(name: str, path: Path):
    if name == "sentencepiece":
        model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        return model.encode, lambda lines: [model.encode(line) for line in lines]
    file = json.loads(path.read_text(encoding="utf-8"))
    n = file["config"]["default_vocab_size"] - file["config"]["default_num_special_tokens"]
    ranks = {base64.b64decode(v["token_bytes"]): v["rank"] for v in file["vocab"][:n]}
    model = tiktoken.Encoding("tekken", pat_str=file["config"]["pattern"], mergeable_ranks=ranks,
                              special_tokens={})
    return model.encode_ordinary, lambda lines: [model.encode_ordinary(line) for line in lines]


def rows_of(kind: str, folder: Path, texts: dict[str, Path]):
    mine, theirs_from, package = KINDS[kind]
    path = file_of(mine, folder)
    references = []
    if theirs_from:
        references.append(("tokenizers", hugging_face(file_of(theirs_from, folder))))
    if package:
        references.append((package, own_package(package, path)))
    for name, file in texts.items():
        speed, n = ours(path, file)
        if name == ONE_LETTER:
            eighth = ours(path, folder / "eighth.txt")[0]
            yield {"kind": kind, "text": name, "ours": speed, "reference": "an eighth of it",
                   "theirs": eighth, "ratio": 8 * eighth / speed, "tokens": True}
            continue
        for reference, calls in references:
            theirs, m = measured(file.read_text(encoding="utf-8"), *calls)
            yield {"kind": kind, "text": name, "ours": speed, "reference": reference, "theirs": theirs,
                   "ratio": speed / theirs, "tokens": n == m}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--json", action="store_true", help="one JSON object per row")
    args = parser.parse_args()
    unknown = [k for k in args.kinds if k not in KINDS]
    if unknown or not DATA.exists() or not TOKENIZE.exists():
        parser.error(f"unknown kinds: {unknown}" if unknown else
                     f"SIROCCO_TEST_DATA ({DATA}) and {TOKENIZE} (make test-binaries) are needed")
    if not args.json:
        print(f"{'kind':15} {'text':10} {'ours MB/s':>9}  {'reference':16} {'MB/s':>7} {'ratio':>6} tokens")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = text_files(folder)
        for kind in args.kinds or KINDS:
            for row in rows_of(kind, folder, texts):
                if args.json:
                    print(json.dumps(row), flush=True)
                    continue
                print(f"{row['kind']:15} {row['text']:10} {row['ours']:9.1f}  {row['reference']:16} "
                      f"{row['theirs']:7.2f} {row['ratio']:6.1f} {row['tokens']}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
