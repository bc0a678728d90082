"""Malformed model files, a row for each way to be malformed: the process must end with code 2 and
one line that names the file and what is wrong with it, soon, and without taking memory for sizes
that a file merely states. The unit tests of the readers try more of them, to the byte."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import subprocess
import time

import pytest

from conftest import BINARY, ROOT, SANITIZED, SLOWER, Server
from test_random_model import MAKER

U8, U32, I32, F32, BOOL, STRING, ARRAY, U64 = 0, 4, 5, 6, 7, 8, 9, 10
FLOAT, Q8_0, Q4_0 = 0, 8, 2
RSS_MAX = 96 << 20  # of a process that serves nothing yet: libraries, and what is here read

# ---- GGUF, as data


def text(value):
    value = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(value)) + value


def value_of(kind, value):
    if kind == STRING:
        return text(value)
    return struct.pack({U8: "<B", U32: "<I", I32: "<i", F32: "<f", BOOL: "<B", U64: "<Q"}[kind], value)


def array_of(kind, values):
    return struct.pack("<IQ", kind, len(values)) + b"".join(value_of(kind, v) for v in values)


class Gguf:
    """A valid model of one layer; a row changes it before it is written."""

    def __init__(self):
        self.magic, self.version, self.n_tensors, self.n_pairs = b"GGUF", 3, None, None
        self.tokens = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % i for i in range(256)] + ["\u2581", "a", "b", "ab", "\u2581a"]
        n = len(self.tokens)
        self.scores = [0.0] * 259 + [-1.0, -2.0, -3.0, -4.0, -5.0]
        self.types = [2, 3, 3] + [6] * 256 + [1] * 5
        self.pairs = {"general.architecture": (STRING, "llama")}
        for key, value in (("context_length", 128), ("embedding_length", 64), ("block_count", 1), ("feed_forward_length", 96), ("attention.head_count", 2),
                           ("attention.head_count_kv", 1), ("rope.dimension_count", 32), ("vocab_size", n)):
            self.pairs["llama." + key] = (U32, value)
        self.pairs["llama.attention.layer_norm_rms_epsilon"] = (F32, 1e-5)
        self.pairs["llama.rope.freq_base"] = (F32, 1e4)
        self.pairs["tokenizer.ggml.model"] = (STRING, "llama")
        for key, value in (("bos_token_id", 1), ("eos_token_id", 2), ("unknown_token_id", 0)):
            self.pairs["tokenizer.ggml." + key] = (U32, value)
        self.raw = []  # whole pairs as bytes, behind the others
        self.fill = 1.0  # of vectors
        self.tensors = []
        for name, rows, cols in (("token_embd", n, 64), ("output", n, 64), ("blk.0.attn_q", 64, 64), ("blk.0.attn_k", 32, 64), ("blk.0.attn_v", 32, 64),
                                 ("blk.0.attn_output", 64, 64), ("blk.0.ffn_gate", 96, 64), ("blk.0.ffn_up", 96, 64), ("blk.0.ffn_down", 64, 96)):
            self.tensors.append([name + ".weight", [cols, rows], Q8_0, None])
        for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
            self.tensors.append([name + ".weight", [64], FLOAT, None])

    def tensor(self, name):
        return next(t for t in self.tensors if t[0].startswith(name))

    def bytes(self):
        """The file, and where its parts begin."""
        pairs = dict(self.pairs)
        out = b"".join(text(k) + struct.pack("<I", t) + (v if isinstance(v, bytes) and t == ARRAY else value_of(t, v)) for k, (t, v) in pairs.items())
        arrays = [("tokens", STRING, self.tokens), ("scores", F32, self.scores), ("token_type", I32, self.types)]
        out += b"".join(text("tokenizer.ggml." + k) + struct.pack("<I", ARRAY) + array_of(t, v) for k, t, v in arrays)
        out += b"".join(self.raw)
        n_pairs = len(pairs) + len(arrays) + len(self.raw)
        head = self.magic + struct.pack("<I", self.version) + struct.pack(
            "<QQ", len(self.tensors) if self.n_tensors is None else self.n_tensors, n_pairs if self.n_pairs is None else self.n_pairs)
        infos, data, at = b"", b"", 0
        for name, dims, kind, offset in self.tensors:
            values = 1
            for d in dims:
                values *= d
            size = min(values, 1 << 20) * {FLOAT: 32, Q8_0: 34, Q4_0: 18}.get(kind, 32 * 4) // 32
            size -= size % 2
            infos += text(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d & (1 << 64) - 1) for d in dims)
            infos += struct.pack("<IQ", kind, at if offset is None else offset)
            size = size * (4 if kind == FLOAT else 1)
            data += (struct.pack("<f", self.fill) * (size // 4) if kind == FLOAT else b"\x01\x10" * (size // 2)).ljust(-(-size // 32) * 32, b"\0")
            at += -(-size // 32) * 32
        head += out
        self.edges = [0, 4, 8, 16, 24, len(head), len(head) + len(infos)]
        head += infos
        head += b"\0" * (-len(head) % 32)
        self.edges.append(len(head))
        return head + data


def key(name, kind, value):
    return lambda g: g.pairs.__setitem__(name if "." in name and not name.startswith(("attention", "rope")) else "llama." + name, (kind, value))


def without(name):
    return lambda g: g.pairs.pop(name)


def raw(data):
    return lambda g: g.raw.append(data)


def put(**fields):
    return lambda g: g.__dict__.update(fields)


def tensor(which, **fields):
    def change(g):
        t = g.tensor(which)
        for i, field in enumerate(("name", "dims", "kind", "offset")):
            t[i] = fields.get(field, t[i])
    return change


def token(i, value):
    return lambda g: g.tokens.__setitem__(i, value)


def big_endian(g):
    g.version = 0x03000000


HUGE = 1 << 60
GGUF_ROWS = {
    # G2, G3: the header
    "magic": (put(magic=b"GGML"), "byte 0"), "big-endian": (big_endian, "endian"), "version 0": (put(version=0), "version"),
    "version 1": (put(version=1), "version"), "version 4": (put(version=4), "version"), "version -1": (put(version=0xffffffff), "version"),
    "tensors 0": (put(n_tensors=0), "token_embd"), "pairs 0": (put(n_pairs=0), ""),
    **{f"tensors {n}": (put(n_tensors=n), "tensor") for n in (1 << 31, HUGE, 1 << 63, (1 << 64) - 1)},
    **{f"pairs {n}": (put(n_pairs=n), "") for n in (1 << 31, HUGE, 1 << 63, (1 << 64) - 1)},
    # G4: keys
    "key of nothing": (raw(text("") + struct.pack("<IB", U8, 1)), "key"), "key of 65536": (raw(text("k" * 65536) + struct.pack("<IB", U8, 1)), "key"),
    "key of 2^60": (raw(struct.pack("<Q", HUGE) + b"abc"), "byte"), "key with NUL": (raw(text("a\0b") + struct.pack("<IB", U8, 1)), "key"),
    "key not UTF-8": (raw(text(b"a\xff") + struct.pack("<IB", U8, 1)), "UTF-8"), "key twice": (raw(text("general.architecture") + struct.pack("<I", STRING) + text("llama")), "general.architecture"),
    # G5: values
    **{f"value type {n}": (raw(text("k") + struct.pack("<IQ", n, 1)), "'k'") for n in (13, 255, 1 << 31)},
    "array of arrays": (raw(text("k") + struct.pack("<IIQ", ARRAY, ARRAY, 1)), "'k'"), "array of unknown": (raw(text("k") + struct.pack("<IIQ", ARRAY, 77, HUGE)), "'k'"),
    "array of 2^61 + 1": (raw(text("k") + struct.pack("<IIQ", ARRAY, U64, (1 << 61) + 1)), "'k'"),
    "string past the end": (raw(text("k") + struct.pack("<IQ", STRING, 1 << 40)), "'k'"), "bool 2": (raw(text("k") + struct.pack("<IB", BOOL, 2)), "'k'"),
    # G6: hyperparameters
    **{"without " + k: (without("llama." + k), k) for k in ("block_count", "embedding_length", "feed_forward_length", "attention.head_count", "context_length",
                                                         "attention.layer_norm_rms_epsilon")},
    "without an architecture": (without("general.architecture"), "general.architecture"), "an architecture": (key("general.architecture", STRING, "mamba"), "'mamba'"),
    "architecture 7": (key("general.architecture", U32, 7), "general.architecture"),
    **{f"{k} {v}": (key(k, U32, v), k) for k, v in (("block_count", 0), ("block_count", 10**6), ("attention.head_count", 0), ("attention.head_count_kv", 0),
                                                    ("embedding_length", 0), ("feed_forward_length", 0), ("rope.dimension_count", 0), ("context_length", 0), ("vocab_size", 0))},
    **{f"rotary dimensions {v}": (key("rope.dimension_count", U32, v), f"{v} rotary dimensions") for v in (31, 66)},
    "heads that do not divide": (key("attention.head_count_kv", U32, 3), "head"), "width that heads do not divide": (key("embedding_length", U32, 63), ""),
    "context 2^40": (key("context_length", U64, 1 << 40), "context_length"), "vocabulary of 9": (key("vocab_size", U32, 9), ""),
    "block_count -1": (key("block_count", I32, -1), "block_count"), "block_count as text": (key("block_count", STRING, "1"), "block_count"),
    **{f"epsilon {v}": (key("attention.layer_norm_rms_epsilon", F32, v), "epsilon") for v in (-1.0, float("nan"), float("inf"))},
    **{f"rope base {v}": (key("rope.freq_base", F32, v), "freq_base") for v in (0.0, -1.0, float("nan"), float("inf"))},
    # G7: alignment
    **{f"alignment {v}": (key("general.alignment", U32, v), "general.alignment") for v in (0, 3, 1 << 31, (1 << 20) + 1)},
    "alignment as text": (key("general.alignment", STRING, "32"), "general.alignment"),
    # G8: shapes and types
    "5 dimensions": (tensor("output.", dims=[64, 1, 1, 1, 261]), "output.weight"), "dimension 0": (tensor("output.", dims=[64, 0]), "output.weight"),
    "dimension -1": (tensor("output.", dims=[64, -1]), "output.weight"), "dimension 2^42 + 1": (tensor("output.", dims=[64, (1 << 42) + 1]), "output.weight"),
    "a product that wraps": (tensor("output.", dims=[1 << 32, 1 << 32]), "output.weight"), "a row that is no block": (tensor("output.", dims=[63, 264]), "output.weight"),
    **{f"tensor type {n}": (tensor("output.", kind=n), "output.weight") for n in (4, 5, 31, 99, 1 << 31)},
    "tensor type IQ2_XXS": (tensor("output.", kind=16, dims=[256, 66]), "IQ2_XXS"),
    # G9: places
    "offset 2^63": (tensor("output.", offset=1 << 63), "output.weight"), "offset past the end": (tensor("output.", offset=1 << 30), "output.weight"),
    "offset not aligned": (tensor("output.", offset=33), "output.weight"), "overlap": (tensor("output.", offset=0), "overlap"),
    # G10: which tensors there are
    "a name twice": (tensor("output.", name="token_embd.weight"), "token_embd.weight"), "a name of 65536": (tensor("output.", name="n" * 65536), ""),
    "a missing tensor": (lambda g: g.tensors.remove(g.tensor("blk.0.attn_q")), "blk.0.attn_q.weight"),
    "an extra tensor": (lambda g: g.tensors.append(["blk.0.extra.weight", [64], FLOAT, None]), "blk.0.extra.weight"),
    "a bias": (lambda g: g.tensors.append(["blk.0.attn_q.bias", [64], FLOAT, None]), "blk.0.attn_q.bias"),
    "another shape": (tensor("blk.0.ffn_up", dims=[64, 64]), "blk.0.ffn_up.weight"), "a vector as a matrix": (tensor("output_norm", dims=[64, 1]), "output_norm.weight"),
    # G11: the vocabulary
    "fewer scores": (lambda g: g.scores.pop(), "scores"), "fewer types": (lambda g: g.types.pop(), "type"), "fewer tokens": (lambda g: g.tokens.pop(), ""),
    **{f"a byte {t}": (token(10, t), "") for t in ("<0x-1>", "<0xZZ>", "<0x1>", "<0x123>")},
    **{f"{k} {v}": (key(f"tokenizer.ggml.{k}", U32, v), k) for k in ("bos_token_id", "eos_token_id") for v in (264, 0xffffffff)},
    "a tokenizer": (key("tokenizer.ggml.model", STRING, "rwkv"), "rwkv"), "without a tokenizer": (without("tokenizer.ggml.model"), "tokenizer"),
    "token type 77": (lambda g: g.types.__setitem__(262, 77), "type"), "score NaN": (lambda g: g.scores.__setitem__(262, float("nan")), ""),
}


# ---- running it


def start(path, *options):
    """(code, stderr, seconds, peak of resident bytes) of serving a path."""
    begun = time.monotonic()
    child = subprocess.Popen([BINARY, "serve", "--port", "0", "--quiet", "--device", "cpu", "--model", path, *options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, cwd="/")
    try:
        error = child.stderr.read()
    finally:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        child.stderr.close()
    return child.returncode, error.decode("utf-8"), time.monotonic() - begun, usage.ru_maxrss * 1024


def refused(path, words, name=None):
    code, error, seconds, rss = start(path)
    assert code == 2, (code, error)
    assert error.startswith("sirocco: ") and error.count("\n") == 1 and error.endswith("\n"), error
    assert (os.path.basename(path) if name is None else name)[:200] in error and words in error, error
    assert len(error) < 700 and "\x1b" not in error
    assert seconds < 2 * SLOWER * 5  # of two seconds on a machine that does nothing else
    if not SANITIZED:
        assert rss < RSS_MAX, rss


@pytest.mark.parametrize("row", sorted(GGUF_ROWS))
def test_gguf(tmp_path, row):
    change, words = GGUF_ROWS[row]
    g = Gguf()
    change(g)
    path = tmp_path / "m.gguf"
    path.write_bytes(g.bytes())
    refused(str(path), words)


def test_gguf_as_it_should_be(tmp_path):
    """What the rows change is a model, also as version 2 and with a NaN among its weights."""
    for version in (2, 3):
        g = Gguf()
        g.version = version
        (tmp_path / "m.gguf").write_bytes(g.bytes())
        run = subprocess.run([BINARY, "bench", "--model", tmp_path / "m.gguf", "-p", "8", "-n", "2", "-r", "1", "--json"], capture_output=True, text=True, timeout=60)
        assert run.returncode == 0, run.stderr


def test_gguf_cut(tmp_path):
    """At every edge and at places drawn by lot; never to be read to the end."""
    g = Gguf()
    whole = g.bytes()
    rng = random.Random(1)
    places = sorted(set(g.edges) | {e + d for e in g.edges for d in (-1, 1) if 0 < e + d} | {rng.randrange(len(whole) - 32) for _ in range(60)})
    path = tmp_path / "m.gguf"
    for place in places:
        path.write_bytes(whole[:place])
        refused(str(path), "")


# ---- G1: what is no file


def test_no_model_file(tmp_path):
    (tmp_path / "empty.gguf").write_bytes(b"")
    (tmp_path / "short.gguf").write_bytes(b"GGU")
    (tmp_path / "text.bin").write_bytes(b"hello")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.gguf")
    os.symlink("loop.gguf", tmp_path / "loop.gguf")
    os.symlink("gone.gguf", tmp_path / "dangling.gguf")
    for name in ("empty.gguf", "short.gguf", "text.bin", "folder", "pipe.gguf", "loop.gguf", "dangling.gguf", "nowhere", "x" * 300):
        refused(str(tmp_path / name), "", name="")
    refused("/dev/zero", "neither a folder nor a regular file")
    refused("/" + "x" * 4000, "", name="")


# ---- G13: parts


def test_split_parts(tmp_path):
    class Options:
        type, head_type, split = "q4_0", None, 3

    shape = dict(MAKER.PRESETS["llama-1.1b"], dim=64, layers=2, heads=2, kv_heads=1, ffn=64, vocab=4096)
    MAKER.write_gguf(str(tmp_path / "m.gguf"), shape, Options, MAKER.Values(1))
    names = ["m-%05d-of-00003.gguf" % i for i in (1, 2, 3)]
    whole = {n: (tmp_path / n).read_bytes() for n in names}
    first = str(tmp_path / names[0])

    def again():
        for n, data in whole.items():
            (tmp_path / n).write_bytes(data)

    os.remove(tmp_path / names[1])
    refused(first, "00002-of-00003")
    again()
    (tmp_path / names[1]).write_bytes(whole[names[2]])
    refused(first, names[1])
    again()
    (tmp_path / names[1]).write_bytes(whole[names[1]].replace(b"split.count\x02\0\0\0\x03", b"split.count\x02\0\0\0\x04"))
    refused(first, names[1])
    again()
    Options.split = 4  # a part of another model
    shape["ffn"] = 128
    MAKER.write_gguf(str(tmp_path / "n.gguf"), shape, Options, MAKER.Values(2))
    shutil.copy(tmp_path / "n-00002-of-00004.gguf", tmp_path / names[1])
    refused(first, names[1])


# ---- safetensors: G14, G15, G16

FOLDER = ROOT / "tests/golden/models"


def header_of(path):
    data = path.read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + n]), data[8 + n:]


def file_of(header, data, size=None):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if size is None else size) + encoded + data


def entry(change):
    """Change the header's entry of one tensor."""
    def apply(header, data):
        change(header["model.norm.weight"])
        return file_of(header, data)
    return apply


def size(n):
    return lambda header, data: file_of(header, data, n)


def header(value):
    return lambda _, data: file_of(value, data)


def dims(*shape):
    return entry(lambda e: e.update(shape=list(shape)))


def offsets(*at):
    return entry(lambda e: e.update(data_offsets=list(at)))


def dtype(name):
    return entry(lambda e: e.update(dtype=name))


def metadata(value):
    return lambda h, data: file_of({**h, "__metadata__": value}, data)


def shifted(by):
    def apply(h, data):
        for e in h.values():
            if "data_offsets" in e:
                e["data_offsets"] = [x + by for x in e["data_offsets"]]
        return file_of(h, b"\0" * by + data)
    return apply


def renamed(old, new):
    return lambda h, data: file_of({(new if k == old else k): v for k, v in h.items()}, data)


def twice(h, data):
    encoded = json.dumps(h)
    one = json.dumps({"model.norm.weight": h["model.norm.weight"]})
    return file_of((encoded[:-1] + "," + one[1:]).encode(), data)


SAFETENSORS_ROWS = {
    "nothing": (lambda h, d: b"", "header"), "7 bytes": (lambda h, d: b"\0" * 7, "header"), "header of 0": (size(0), "header"), "header of 2^63": (size(1 << 63), "header"),
    "header of 101 MB": (size(101 * 10**6), "header"), "header past the end": (size(10**7), "header"), "header not UTF-8": (header(b'{"a\xff": 1}'), "header"),
    "header no JSON": (header(b"{nonsense"), "header"), "header a list": (header(b"[1]"), "header"), "header behind a space": (header(b" {}"), "header"),
    "a name twice": (twice, "model.norm.weight"), "metadata a list": (metadata([1]), "__metadata__"), "metadata of numbers": (metadata({"a": 1}), "__metadata__"),
    "an entry of text": (lambda h, d: file_of({**h, "model.norm.weight": "x"}, d), "model.norm.weight"),
    "offsets backwards": (offsets(9, 3), "model.norm.weight"), "offsets negative": (offsets(-2, 3), "model.norm.weight"), "offsets past the end": (offsets(0, 1 << 60), "model.norm.weight"),
    "offsets of three": (offsets(0, 1, 2), "model.norm.weight"), "offsets of text": (offsets("0", "1"), "model.norm.weight"), "a hole": (shifted(8), "hole"),
    "bytes behind the last": (lambda h, d: file_of(h, d + b"12345678"), "end"), "cut": (lambda h, d: file_of(h, d[:-1]), ""),
    "dimension -1": (dims(-1), "model.norm.weight"), "dimension 1.5": (dims(64.5), "model.norm.weight"), "dimension text": (dims("64"), "model.norm.weight"),
    "9 dimensions": (dims(*[1] * 8, 64), "model.norm.weight"), "a product that wraps": (dims(1 << 62, 1 << 62), "model.norm.weight"), "another shape": (dims(32, 2), "model.norm.weight"),
    "type unknown": (dtype("F7"), "'F7'"), "type of another size": (dtype("F32"), "model.norm.weight"), "type not supported": (dtype("I16"), "I16"), "type 7": (dtype(7), "dtype"),
    "a tensor missing": (renamed("model.norm.weight", "model.norms.weight"), "norm"),
}


@pytest.mark.parametrize("row", sorted(SAFETENSORS_ROWS))
def test_safetensors(tmp_path, row):
    change, words = SAFETENSORS_ROWS[row]
    shutil.copy(FOLDER / "mistral/config.json", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(change(*header_of(FOLDER / "mistral/model.safetensors")))
    refused(str(tmp_path), words)


def index_of(change):
    def apply(folder):
        path = folder / "model.safetensors.index.json"
        value = json.loads(path.read_text())
        change(value["weight_map"])
        path.write_text(json.dumps(value))
    return apply


def every(value):
    return lambda weight_map: weight_map.update({k: value for k in weight_map})


def overwrite(name, data):
    return lambda folder: (folder / name).write_bytes(data)


INDEX_ROWS = {
    "a shard that is missing": (lambda f: os.remove(f / "model-00002-of-00002.safetensors"), "model-00002-of-00002.safetensors"),
    "a shard above": (index_of(every("../model.safetensors")), "'../model.safetensors'"), "a shard by its path": (index_of(every("/etc/passwd")), "'/etc/passwd'"),
    "a shard that is no text": (index_of(every(7)), "weight_map"), "a shard of no name": (index_of(every("")), "weight_map"),
    "a shard that is none": (index_of(every("config.json")), "config.json"),
    "a tensor in another shard": (index_of(lambda m: m.update({"model.norm.weight": "model-00001-of-00002.safetensors"})), "model.norm.weight"),
    "a tensor that is nowhere": (index_of(lambda m: m.update(extra="model-00001-of-00002.safetensors")), "'extra'"),
    "a tensor that is not in it": (index_of(lambda m: m.pop("model.norm.weight")), "model.norm.weight"),
    "no JSON": (overwrite("model.safetensors.index.json", b"{"), "line 1"), "a list": (overwrite("model.safetensors.index.json", b"[]"), "weight_map"),
    "nothing": (overwrite("model.safetensors.index.json", b""), "line 1"), "a map of a list": (overwrite("model.safetensors.index.json", b'{"weight_map": []}'), "weight_map"),
    "deep": (overwrite("model.safetensors.index.json", b"[" * 100000), "line 1"),
}


@pytest.mark.parametrize("row", sorted(INDEX_ROWS))
def test_index(tmp_path, row):
    change, words = INDEX_ROWS[row]
    shutil.copytree(FOLDER / "mistral-sharded", tmp_path / "m")
    change(tmp_path / "m")
    refused(str(tmp_path / "m"), words)


# ---- G17: config.json; and how weights are said to be quantized


def config(**fields):
    def apply(folder):
        value = json.loads((folder / "config.json").read_text())
        value.update(fields)
        (folder / "config.json").write_text(json.dumps({k: v for k, v in value.items() if v is not ...}))
    return apply


CONFIG_ROWS = {
    "missing": (lambda f: os.remove(f / "config.json"), "config.json"), "empty": (overwrite("config.json", b""), "config.json"), "no JSON": (overwrite("config.json", b"{'a': 1}"), "config.json"),
    "a list": (overwrite("config.json", b"[1]"), "config.json"), "deep": (overwrite("config.json", b'{"a":' * 5000), "config.json"),
    "twice": (overwrite("config.json", b'{"vocab_size": 1, "vocab_size": 2}'), "vocab_size"), "not UTF-8": (overwrite("config.json", b'{"a": "\xff"}'), "config.json"),
    "17 MiB": (overwrite("config.json", b" " * (17 << 20)), "config.json"), "an architecture": (config(architectures=["MambaForCausalLM"]), "MambaForCausalLM"),
    "no architecture": (config(architectures=..., model_type=...), "architectures"),
    **{f"{k} {v}": (config(**{k: v}), k) for k, v in (("hidden_size", 0), ("hidden_size", -1), ("hidden_size", 64.5), ("hidden_size", "64"), ("hidden_size", 1 << 40),
                                                       ("num_hidden_layers", 0), ("num_hidden_layers", 10**9), ("num_attention_heads", 0),
                                                       ("vocab_size", 0), ("rms_norm_eps", -1), ("rms_norm_eps", "x"), ("rope_theta", 0), ("max_position_embeddings", 0),
                                                       ("sliding_window", -1), ("hidden_act", "relu"), ("tie_word_embeddings", 3), ("eos_token_id", 10**6), ("bos_token_id", -7))},
    "heads that do not divide": (config(num_key_value_heads=3), "4 attention heads do not divide among 3 KV heads"), "a vocabulary that is not the tensors'": (config(vocab_size=300), "embed_tokens"), "a width that is not the tensors'": (config(hidden_size=128), "shape"),
    "layers that are not the tensors'": (config(num_hidden_layers=2), "layers.2"), "rope scaling": (config(rope_scaling={"rope_type": "magic", "factor": 2}), "'magic'"),
    "rope scaling of nothing": (config(rope_scaling={"rope_type": "yarn"}), "rope"), "rope scaling of text": (config(rope_scaling="yarn"), "rope"),
    "quantized by nothing": (config(quantization_config={}), "''"), "quantized by bitsandbytes": (config(quantization_config={"quant_method": "bitsandbytes"}), "'bitsandbytes'"),
    "quantized by text": (config(quantization_config="awq"), "quantization_config"),
    "quantized by exl2": (config(quantization_config={"quant_method": "exl2"}), "'exl2' is not supported (known: fp8"),
}


@pytest.mark.parametrize("row", sorted(CONFIG_ROWS))
def test_config(tmp_path, row):
    change, words = CONFIG_ROWS[row]
    shutil.copytree(FOLDER / "mistral", tmp_path / "m")
    change(tmp_path / "m")
    refused(str(tmp_path / "m"), words)


def method(**fields):
    def apply(folder):
        value = json.loads((folder / "config.json").read_text())["quantization_config"]
        value.update(fields)
        config(quantization_config={k: v for k, v in value.items() if v is not ...})(folder)
    return apply


def values(name, at, new):
    """Other bytes at a place of a tensor of layer 0."""
    def apply(folder):
        h, data = header_of(folder / "model.safetensors")
        begin = h["model.layers.0." + name]["data_offsets"][0] + at
        (folder / "model.safetensors").write_bytes(file_of(h, data[:begin] + new + data[begin + len(new):]))
    return apply


def gone(name):
    """A tensor of layer 0 under another name."""
    def apply(folder):
        h, data = header_of(folder / "model.safetensors")
        (folder / "model.safetensors").write_bytes(file_of({k.replace(name, name + "_"): v for k, v in h.items()}, data))
    return apply


def reshaped(name, *shape, dtype=None):
    def apply(folder):
        h, data = header_of(folder / "model.safetensors")
        e = h["model.layers.0." + name]
        e["shape"] = list(shape)
        e["dtype"] = dtype or e["dtype"]
        (folder / "model.safetensors").write_bytes(file_of(h, data))
    return apply


NAN16, INF32 = b"\xff\x7f", struct.pack("<f", float("inf"))
Q, DOWN = "self_attn.q_proj.", "mlp.down_proj."
QUANTIZED_ROWS = {
    "gptq of 3 bits": ("gptq", method(bits=3), "gptq with 3 bits"), "gptq of marlin": ("gptq", method(checkpoint_format="marlin"), "'marlin'"),
    "gptq without a group": ("gptq", method(group_size=...), "group_size"), "gptq of groups of 0": ("gptq", method(group_size=0), "group_size"),
    "gptq of other groups": ("gptq", method(group_size=64), ".scales"), "gptq without scales": ("gptq", gone("scales"), "scales"),
    "gptq without zeros": ("gptq", gone("qzeros"), "qzeros"), "gptq that is not symmetric": ("gptq", values(Q + "qzeros", 0, b"\x11"), "symmetric"),
    "gptq of a group 4 of 4": ("gptq", values(Q + "g_idx", 0, b"\x04"), "group 4 of 4"), "gptq of a group below 0": ("gptq", values(Q + "g_idx", 4, b"\xff" * 4), "group -1 of 4"), "gptq, scale NaN": ("gptq", values(Q + "scales", 4, NAN16), "scales"),
    "gptq as F32": ("gptq", reshaped(Q + "qweight", 16, 64, dtype="F32"), "qweight"), "gptq, qweight turned": ("gptq", reshaped(Q + "qweight", 64, 16), ""),
    "gptq, g_idx short": ("gptq", reshaped(Q + "g_idx", 64, dtype="I64"), "g_idx"), "gptq, zeros turned": ("gptq", reshaped(Q + "qzeros", 8, 4), "qzeros"),
    "awq of 8 bits": ("awq", method(bits=8), "awq with 8 bits"), "awq of gemv": ("awq", method(version="gemv"), "'gemv'"), "awq, scale inf": ("awq", values(Q + "scales", 4, b"\0\x7c"), "scales"),
    "fp8 e5m2": ("fp8-block", method(fmt="e5m2"), "'e5m2'"), "fp8 in blocks of text": ("fp8-block", method(weight_block_size="128"), "weight_block_size"),
    "fp8 in blocks of 0": ("fp8-block", method(weight_block_size=[0, 128]), "weight_block_size"), "fp8 in other blocks": ("fp8-block-32", method(weight_block_size=[64, 64]), "weight_scale_inv"),
    "fp8 in blocks of 2^62": ("fp8-block", method(weight_block_size=[1 << 62, 1]), "weight_block_size"), "fp8 NaN": ("fp8-block", values(DOWN + "weight", 77, b"\x7f"), "down_proj.weight' holds a NaN"),
    "fp8, scale inf": ("fp8-block", values(DOWN + "weight_scale_inv", 0, INF32), "down_proj.weight_scale_inv"), "fp8 without scales": ("fp8-block", gone("weight_scale_inv"), "weight_scale"),
    "compressed 2:4": ("w4a16", method(format="marlin-24"), "'marlin-24'"), "compressed nvfp4": ("w4a16", method(format="nvfp4-pack-quantized"), "'nvfp4-pack-quantized'"),
    "compressed sparse": ("w8a8", method(sparsity_config={"format": "sparse-bitmask"}), "'sparse-bitmask'"),
    "compressed, a group in another format": ("w4a16", method(config_groups={"g": {"format": "mxfp4-pack-quantized"}}), "'mxfp4-pack-quantized'"),
    "packed without a shape": ("w4a16", gone("weight_shape"), "weight_shape"), "packed without scales": ("w4a16", gone("weight_scale"), "weight_scale"),
    "packed of other shapes": ("w4a16", values(Q + "weight_shape", 0, b"\x41"), "weight_shape"), "packed of shape -1": ("w4a16", values(Q + "weight_shape", 8, b"\xff" * 8), "weight_shape"),
    "int8 without scales": ("w8a8", gone("weight_scale"), "weight_scale"), "int8, zero points of floats": ("w8a8-asymmetric", reshaped(Q + "weight_zero_point", 64, 1, dtype="F8_E4M3"), "zero_point"),
    "Mistral's FP8": ("fp8-tensor-native", lambda f: overwrite("params.json", (f / "params.json").read_bytes().replace(b"fp8_e4m3", b"fp4_e2m1"))(f), "'fp4_e2m1'"),
}


@pytest.mark.parametrize("row", sorted(QUANTIZED_ROWS))
def test_quantized(tmp_path, row):
    model, change, words = QUANTIZED_ROWS[row]
    shutil.copytree(FOLDER / model, tmp_path / "m", ignore=shutil.ignore_patterns("expected.json"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ROOT / "config/demo" / name, tmp_path / "m")
    cut_tokenizer(tmp_path / "m", 64)
    change(tmp_path / "m")
    refused(str(tmp_path / "m"), words)


def cut_tokenizer(folder, n):
    """The demo model's tokenizer with n tokens."""
    value = json.loads((folder / "tokenizer.json").read_text())
    vocab = {k: v for k, v in value["model"]["vocab"].items() if v < n}
    value["model"].update(vocab=vocab, merges=[])
    (folder / "tokenizer.json").write_text(json.dumps(value))


# ---- tokenizers: G18, G19


def tokenizer(change):
    def apply(folder):
        value = json.loads((folder / "tokenizer.json").read_text())
        value = change(value) or value
        (folder / "tokenizer.json").write_text(json.dumps(value))
    return apply


def part(name, value):
    return tokenizer(lambda t: t.update({name: value}))


def model_part(**fields):
    return tokenizer(lambda t: t["model"].update(fields))


def spm(data):
    """tokenizer.model alone, of these bytes."""
    def apply(folder):
        os.remove(folder / "tokenizer.json")
        (folder / "tokenizer.model").write_bytes(data(folder) if callable(data) else data)
    return apply


def piece(*fields):
    body = b"".join(fields)
    return b"\x0a" + bytes([len(body)]) + body


TOKENIZER_ROWS = {
    "json: missing": (lambda f: [os.remove(f / n) for n in os.listdir(f) if n.startswith("tokenizer.")], "tokenizer"),
    "json: nothing": (overwrite("tokenizer.json", b""), "tokenizer.json"), "json: no JSON": (overwrite("tokenizer.json", b"{]"), "tokenizer.json"),
    "json: deep": (overwrite("tokenizer.json", b'{"a":' * 5000), "tokenizer.json"), "json: a list": (overwrite("tokenizer.json", b"[]"), "tokenizer.json"),
    "json: model": (model_part(type="WordLevel"), "WordLevel"), "json: no model": (part("model", None), "model"), "json: merges": (model_part(merges=["a"]), "merge"),
    "json: merges of the unknown": (model_part(merges=["\u1234 \u1235"]), "merge"), "json: merges of numbers": (model_part(merges=[1]), "merge"),
    "json: ids": (model_part(vocab={"a": 0, "b": 0}, merges=[]), "tokenizer.json"), "json: ids negative": (model_part(vocab={"a": -1}, merges=[]), "tokenizer.json"),
    "json: ids huge": (model_part(vocab={"a": 1 << 40}, merges=[]), "tokenizer.json"), "json: pre-tokenizer": (part("pre_tokenizer", {"type": "Magic"}), "Magic"),
    "json: normalizer": (part("normalizer", {"type": "Magic"}), "Magic"), "json: decoder": (part("decoder", {"type": "Magic"}), "Magic"),
    "json: regex": (part("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(["}, "behavior": "Isolated", "invert": False}), "tokenizer.json"),
    "json: added token": (part("added_tokens", [{"id": -1, "content": "<x>", "special": True}]), "tokenizer.json"),
    "model: nothing": (spm(b""), "tokenizer.model"), "model: cut": (spm(lambda f: (f / "tokenizer.model").read_bytes()[:5000]), "tokenizer.model"),
    "model: a length of 2^60": (spm(b"\x0a" + b"\xff" * 8 + b"\x0f" + b"abc"), "tokenizer.model"), "model: a length without end": (spm(b"\x0a" + b"\xff" * 20), "tokenizer.model"),
    "model: a score NaN": (spm(piece(b"\x0a\x01a", b"\x15" + struct.pack("<f", float("nan")))), "tokenizer.model"),
    "model: noise": (spm(bytes(random.Random(2).randrange(256) for _ in range(4000))), "tokenizer.model"),
    "model: a group": (spm(b"\x0b" * 4000), "tokenizer.model"),
}


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory):
    class Options:
        type, head_type, split = "bf16", None, 1

    shape = dict(MAKER.PRESETS["mistral-7b"], dim=64, layers=1, heads=2, kv_heads=1, head_dim=32, ffn=64, vocab=4096, context=64)
    path = tmp_path_factory.mktemp("small") / "m"
    MAKER.write_folder(str(path), shape, Options, MAKER.Values(1))
    return path


@pytest.mark.parametrize("row", sorted(TOKENIZER_ROWS))
def test_tokenizer(tmp_path, small_folder, row):
    change, words = TOKENIZER_ROWS[row]
    shutil.copytree(small_folder, tmp_path / "m")
    change(tmp_path / "m")
    refused(str(tmp_path / "m"), words)


# ---- G22: memory


def test_more_than_there_is(tmp_path):
    """A cache that does not fit is refused by both sizes."""
    path = tmp_path / "m.gguf"
    path.write_bytes(Gguf().bytes())
    code, error, _, _ = start(str(path), "--kv-cache-bytes", str(1 << 45))
    assert code != 0 and error.count("\n") == 1, error
    assert str(1 << 45) in error and "memory" in error


# ---- G12, G20: what shows only when it is used


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(tmp_path, bad):
    """The request fails, the server does not."""
    g = Gguf()
    g.fill = bad
    path = tmp_path / "m.gguf"
    path.write_bytes(g.bytes())
    server = Server("--model", str(path))
    try:
        for _ in range(2):
            status, _, body = server.post("/v1/completions", {"prompt": "ab", "max_tokens": 4})
            assert status == 500, body
            assert json.loads(body)["error"]["type"] == "server_error", body
        assert server.get("/health")[0] == 200
        server.wait_idle()
    finally:
        server.stop()


def test_a_file_cut_while_it_is_served(tmp_path):
    """Its pages are gone: one line names the file, and the process ends. Another file put in its
    place by renaming changes nothing."""
    path = tmp_path / "m.gguf"
    path.write_bytes(Gguf().bytes())
    server = Server("--model", str(path))
    try:
        other = tmp_path / "other"
        other.write_bytes(b"another file")
        shutil.copy(path, tmp_path / "kept")
        os.replace(other, path)
        assert server.post("/v1/completions", {"prompt": "ab", "max_tokens": 4})[0] == 200
    finally:
        server.stop()
    os.replace(tmp_path / "kept", path)
    server = Server("--model", str(path))
    try:
        os.truncate(path, 0)
        try:
            server.post("/v1/completions", {"prompt": "ab", "max_tokens": 4}, timeout=20)
        except OSError:
            pass
        assert server.process.wait(20 * SLOWER) == 1
        end = time.monotonic() + 5 * SLOWER  # its last line is read by another thread
        while not any("m.gguf" in line for line in server.log):
            assert time.monotonic() < end, server.log
            time.sleep(0.01)
    finally:
        server.stop()
