"""Vocabularies restated for the Hugging Face `tokenizers` package, as its own converters do it: a
GGUF's gpt2 vocabulary, a sentencepiece model's BPE or Unigram pieces."""

from __future__ import annotations

import struct
from pathlib import Path

import tokenizers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

SPACE = "\u2581"


def gguf_values(path: Path) -> dict:
    """The metadata of a GGUF file (version 3, little-endian)."""
    raw, at = path.read_bytes(), 0
    numbers = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q",
               11: "<q", 12: "<d"}

    def number(form):
        nonlocal at
        (value,) = struct.unpack_from(form, raw, at)
        at += struct.calcsize(form)
        return value

    def value(kind):
        nonlocal at
        if kind == 8:
            size = number("<Q")
            at += size
            return raw[at - size:at].decode()
        if kind == 9:
            inner, n = number("<I"), number("<Q")
            return [value(inner) for _ in range(n)]
        return number(numbers[kind])

    _, _, _, n_values = (number(form) for form in ("<4s", "<I", "<Q", "<Q"))
    return {value(8): value(number("<I")) for _ in range(n_values)}


def byte_level(regex: bool = True):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)


def from_gguf(path: Path) -> Tokenizer:
    """With the pre-tokenizer that the models' own tokenizer.json has."""
    values = gguf_values(path)
    tokens = values["tokenizer.ggml.tokens"]
    merges = [tuple(m.split(" ")) for m in values["tokenizer.ggml.merges"]]
    t = Tokenizer(models.BPE({text: i for i, text in enumerate(tokens)}, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    deepseek = [pre_tokenizers.Split(Regex(p), "isolated") for p in
                (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+")]
    t.pre_tokenizer = {
        "gpt-2": byte_level(),
        "refact": pre_tokenizers.Sequence([digits, byte_level()]),
        "starcoder": pre_tokenizers.Sequence([digits, byte_level()]),
        "deepseek-coder": pre_tokenizers.Sequence([*deepseek, digits, byte_level(regex=False)]),
    }[values["tokenizer.ggml.pre"]]
    t.add_tokens([tokenizers.AddedToken(text, normalized=False) for text, kind in
                  zip(tokens, values["tokenizer.ggml.token_type"]) if kind == 4])
    return t


def bpe_from_model(model) -> Tokenizer:
    """Of a sentencepiece BPE model: every pair of pieces that joins to a piece may merge, in the
    order of the joined piece's score. (User-defined pieces are pieces like others here.)"""
    n = model.vocab_size()
    vocab = {model.id_to_piece(i): i for i in range(n)}
    merged = [i for i in range(n) if not (model.is_control(i) or model.is_unknown(i) or model.is_byte(i))]
    known = {model.id_to_piece(i) for i in merged}
    merges = []
    for i in sorted(merged, key=lambda i: -model.get_score(i)):
        piece = model.id_to_piece(i)
        pairs = [(piece[:k], piece[k:]) for k in range(1, len(piece))]
        pairs = [p for p in pairs if p[0] in known and p[1] in known]
        merges += sorted(pairs, key=lambda p: (vocab[p[0]], vocab[p[1]]))
    t = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    t.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(),
                                   decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return t


def unigram_from_model(model) -> Tokenizer:
    """Of a sentencepiece Unigram model, without its map of characters."""
    pieces = [(model.id_to_piece(i), model.get_score(i)) for i in range(model.vocab_size())]
    t = Tokenizer(models.Unigram(pieces, unk_id=model.unk_id()))
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    return t
