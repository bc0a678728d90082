#!/usr/bin/env python3
"""Tokenizer speed, ours beside the Hugging Face `tokenizers` package: megabytes per second on one
thread, the best of five runs over a whole text.

    make test-binaries && tests/bench/tokenizer_speed.py TOKENIZER.json... -- TEXT...

Ours is measured in CPU time of one encode of the text, the package's likewise (encode with one thread
and without special tokens). Needs the `tokenizers` package.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tokenizers  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
TOKENIZE = ROOT / "build/tests/bench/tokenize"
RUNS = 5


def theirs(path: str, text: str) -> tuple[float, int]:
    """MB/s and tokens. Lines are encoded as the package is fastest: one call, many texts."""
    reference = tokenizers.Tokenizer.from_file(path)
    best, n = 1e9, 0
    for _ in range(RUNS):
        start = time.process_time()
        n = len(reference.encode(text, add_special_tokens=False).ids)
        best = min(best, time.process_time() - start)
    lines = text.split("\n")
    for _ in range(RUNS):
        start = time.process_time()
        reference.encode_batch(lines, add_special_tokens=False)
        best = min(best, time.process_time() - start)
    return len(text.encode()) / best / 1e6, n


def main() -> int:
    if "--" not in sys.argv:
        print(__doc__)
        return 2
    cut = sys.argv.index("--")
    print(f"{'tokenizer':32} {'text':28} {'ours MB/s':>10} {'theirs':>8} {'ratio':>6} same length")
    for path in sys.argv[1:cut]:
        for text in sys.argv[cut + 1:]:
            run = subprocess.run([TOKENIZE, path, "--bench", text], check=True, capture_output=True,
                                 text=True)
            speed, n = run.stdout.split()[:2]
            other, m = theirs(path, Path(text).read_bytes().decode())
            name = Path(path).parent.name if Path(path).name == "tokenizer.json" else Path(path).name
            print(f"{name:32} {Path(text).name:28} {float(speed):10.1f} {other:8.1f} "
                  f"{float(speed) / other:6.1f} {int(n) == m}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
