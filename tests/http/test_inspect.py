"""`sirocco inspect` of a 7B model whose weights are a hole in the file: nothing of them is read."""

from __future__ import annotations

import json
import os
import subprocess
import time

from conftest import BINARY, SANITIZED, SLOWER
from test_random_model import MAKER


class Holes:
    """In place of random values: as many bytes that take no place on the disk."""

    @staticmethod
    def write(out, tensor):
        if tensor.fill is not None:
            out.write(b"\0\0\x80\x3f" * (tensor.bytes // 4))
        else:
            out.seek(tensor.bytes - 1, os.SEEK_CUR)
            out.write(b"\0")


def test_output_that_is_lost_is_an_error():
    """A result cut off by a full disk does not end with status 0."""
    for words in (["inspect", "--json"], ["bench", "-p", "16", "-n", "1", "-r", "1"]):
        with open("/dev/full", "w", encoding="ascii") as full:
            done = subprocess.run([BINARY, *words], stdout=full, stderr=subprocess.PIPE, text=True,
                                  timeout=60 * SLOWER, check=False)
        assert done.returncode == 1, words
        assert "cannot write" in done.stderr.splitlines()[-1]


def test_instant_on_seven_billion(tmp_path):
    class Options:
        type, head_type, split = "q4_k", None, 1

    path = tmp_path / "seven.gguf"
    MAKER.write_gguf(str(path), MAKER.PRESETS["mistral-7b"], Options, Holes)
    start = time.monotonic()
    child = subprocess.Popen([BINARY, "inspect", path, "--json", "--memory", "24g"], stdout=subprocess.PIPE)
    text = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = status
    child.stdout.close()
    assert status == 0
    assert time.monotonic() - start < 1 * SLOWER
    if not SANITIZED:
        assert usage.ru_maxrss < 150 * 1024  # KiB; the file says 3.9 GiB
    found = json.loads(text)
    assert found["parameters"] == 7_248_023_552
    assert found["memory"]["kv_bytes_per_token"] == 2 * 32 * 8 * 128 * 2
    assert found["memory"]["sequences"] == (
        (24 << 30) - found["weight_bytes"] - found["memory"]["workspace_bytes"]) // (131072 * 32768)
    assert found["shapes"]["layers"] == found["pass"]["layers"][0]["last"] + 1 == 32
