"""tokenizer.json files of every kind that is read, trained here by the Hugging Face `tokenizers`
package on the repository's own texts, and held to that package on random Unicode: what families
without a published file in the test data are made of (SmolLM, GPT-2 with a leading space, Gemma, ...).
"""

from __future__ import annotations

import json

import pytest

from test_tokenizers import (N_RANDOM, ROOT, assigned, compare, corpus_texts, newer_characters, ours,
                             random_texts)

tokenizers = pytest.importorskip("tokenizers")
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers,  # noqa: E402
                        pre_tokenizers, processors, trainers)

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def sources() -> list[str]:
    files = [ROOT / "README.md", *sorted((ROOT / "engine/tokenizer").glob("*.c")),
             *sorted((ROOT / "tests/golden/demo").glob("*.json"))]
    return [f.read_text(encoding="utf-8") for f in files]


def train_bytes(pre, normalizer=None, size=1500, **model):
    """Byte-level BPE."""
    t = Tokenizer(models.BPE(**model))
    t.normalizer = normalizer
    t.pre_tokenizer = pre
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(sources(), trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return t


def byte_level(prefix=False, regex=True):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)


def sequence(*parts):
    return pre_tokenizers.Sequence(list(parts))


def train_characters(normalizer, pre, size=1500):
    """BPE over characters with byte fallback, spaces as U+2581 (Llama 2, Gemma)."""
    t = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    t.normalizer = normalizer
    t.pre_tokenizer = pre
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(),
                                   decoders.Fuse()])
    t.train_from_iterator(sources(), trainers.BpeTrainer(
        vocab_size=size, show_progress=False, limit_alphabet=120,
        special_tokens=["<unk>", "<s>", *(f"<0x{i:02X}>" for i in range(256))]))
    return unspecial_bytes(t)


def unspecial_bytes(t):
    """The trainer adds the byte tokens as special ones; published files have them in the vocabulary
    alone."""
    root = json.loads(t.to_str())
    root["added_tokens"] = [a for a in root["added_tokens"] if not a["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(root))


def gpt2_prefix():
    return train_bytes(byte_level(prefix=True))


def smollm():
    return train_bytes(sequence(pre_tokenizers.Digits(individual_digits=True), byte_level()))


def digits_together():
    return train_bytes(sequence(pre_tokenizers.Digits(individual_digits=False), byte_level()))


def prefix_on_every_word():
    return train_bytes(sequence(pre_tokenizers.WhitespaceSplit(), byte_level(prefix=True, regex=False)))


def llama3():
    split = pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated", invert=False)
    t = train_bytes(sequence(split, byte_level(regex=False)), ignore_merges=True)
    t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return t


def split_removed():
    return train_bytes(sequence(pre_tokenizers.Split(Regex(r"\s+"), "removed"), byte_level()))


def split_removed_inverted():
    return train_bytes(sequence(pre_tokenizers.Split(Regex(r"\w+|[^\w\s]+"), "removed", invert=True),
                                byte_level()))


def split_with_previous():
    return train_bytes(sequence(pre_tokenizers.Split("e", "merged_with_previous"), byte_level()))


def split_with_next():
    return train_bytes(sequence(pre_tokenizers.Split(Regex("[aeiou ]"), "merged_with_next"),
                                byte_level()))


def split_contiguous():
    return train_bytes(sequence(pre_tokenizers.Split(Regex(r"\p{L}"), "contiguous"), byte_level()))


def punctuation():
    return train_bytes(sequence(pre_tokenizers.Punctuation(), byte_level()))


def punctuation_contiguous():
    return train_bytes(sequence(pre_tokenizers.Punctuation("contiguous"), byte_level()))


def whitespace():
    return train_bytes(sequence(pre_tokenizers.Whitespace(), byte_level()))


def delimiter():
    return train_bytes(sequence(pre_tokenizers.CharDelimiterSplit("-"), byte_level()))


def deepseek():
    parts = [pre_tokenizers.Split(Regex(p), "isolated") for p in
             (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\s+$")]
    return train_bytes(sequence(*parts, pre_tokenizers.Digits(individual_digits=True), byte_level(regex=False)))


def nfc():
    return train_bytes(byte_level(), normalizers.NFC())


def nfd():
    return train_bytes(byte_level(), normalizers.NFD())


def nfkc():
    return train_bytes(byte_level(), normalizers.NFKC())


def nfkd_stripped():
    return train_bytes(byte_level(), normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents()]))


def strip_and_replace():
    return train_bytes(byte_level(), normalizers.Sequence([
        normalizers.Strip(left=True, right=True), normalizers.Replace(Regex(r"\s{2,}"), " "),
        normalizers.Replace("the", "THE"), normalizers.Prepend("x")]))


def gemma():
    return train_characters(normalizers.Replace(" ", "\u2581"),
                            pre_tokenizers.Split(" ", "merged_with_previous"))


def llama2():
    return train_characters(normalizers.Sequence([normalizers.Prepend("\u2581"),
                                                  normalizers.Replace(" ", "\u2581")]), None)


def metaspace_never():
    return train_characters(None, pre_tokenizers.Metaspace(prepend_scheme="never", split=True))


def train_unigram(pre, normalizer=None, byte_fallback=False):
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizer
    t.pre_tokenizer = pre
    t.decoder = decoders.Metaspace()
    specials = ["<unk>", "<s>"] + ([f"<0x{i:02X}>" for i in range(256)] if byte_fallback else [])
    t.train_from_iterator(sources(), trainers.UnigramTrainer(
        vocab_size=1200, show_progress=False, special_tokens=specials, unk_token="<unk>"))
    t = unspecial_bytes(t)
    root = json.loads(t.to_str())
    root["model"]["byte_fallback"] = byte_fallback
    return Tokenizer.from_str(json.dumps(root))


def unigram():
    return train_unigram(pre_tokenizers.Metaspace(prepend_scheme="never"))


def unigram_unsplit():
    return train_unigram(pre_tokenizers.Metaspace(prepend_scheme="never", split=False), normalizers.NFKC())


def unigram_bytes():
    return train_unigram(pre_tokenizers.Metaspace(prepend_scheme="never"), byte_fallback=True)


def unigram_words():
    return train_unigram(sequence(pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()))


def added_tokens():
    t = train_bytes(byte_level())
    t.add_tokens([AddedToken("<L>", lstrip=True, normalized=False),
                  AddedToken("<R>", rstrip=True, normalized=False),
                  AddedToken("<B>", lstrip=True, rstrip=True, normalized=False),
                  AddedToken("the", single_word=True, normalized=False),
                  AddedToken("<L><R>", normalized=False)])
    return t


def white_space_tokens():
    t = train_bytes(byte_level())
    t.add_tokens([AddedToken(" " * n, normalized=False) for n in (2, 3, 5)])
    return t


KINDS = [gpt2_prefix, smollm, digits_together, prefix_on_every_word, llama3, split_removed,
         split_removed_inverted, split_with_previous, split_with_next, split_contiguous, punctuation,
         punctuation_contiguous, whitespace, delimiter, deepseek, nfc, nfd, nfkc, nfkd_stripped,
         strip_and_replace, gemma, llama2, metaspace_never, added_tokens,
         white_space_tokens, unigram, unigram_unsplit, unigram_bytes, unigram_words]


@pytest.mark.parametrize("kind", KINDS, ids=[k.__name__ for k in KINDS])
def test_kind(kind, tmp_path):
    t = kind()
    path = tmp_path / "tokenizer.json"
    t.save(str(path))
    reference = Tokenizer.from_file(str(path))
    specials = ["<s>", "<L>", " <R> ", "  <B>\n", "the", "them", "<L><R>", "    "]
    texts = corpus_texts()[::20] + random_texts(specials)
    texts = [text for text in texts if not newer_characters().intersection(text)]
    compare(path, texts, True, lambda text: reference.encode(text, add_special_tokens=False).ids)


def without(pattern):
    """What the pattern matches is left out, so that the ids tell what it matches."""
    return train_bytes(sequence(pre_tokenizers.Split(Regex(pattern), "removed"), byte_level(regex=False)))


def first_a_removed(pre):
    """Words lose an "a" that they begin with, so that the ids tell where words begin."""
    return train_bytes(sequence(pre, pre_tokenizers.Split(Regex("^a"), "removed"), byte_level(regex=False)))


def whole_word():
    t = train_bytes(byte_level())
    t.add_tokens([AddedToken("the", single_word=True, normalized=False)])
    return t


BY_CHARACTER = {
    **{p: (lambda p=p: without(p)) for p in (
        r"\w", r"\W", r"\s", r"\S", r"\d", r"\D", r"\p{L}", r"\p{N}", r"\p{P}", r"\p{S}", r"\p{M}",
        r"\p{Lu}", r"\p{Ll}", r"\p{Lt}", r"\p{Lm}", r"\p{Lo}", "(?i:[ks])", r"[^\w\s]", ".", "^a|a$")},
    "Whitespace": lambda: first_a_removed(pre_tokenizers.Whitespace()),
    "WhitespaceSplit": lambda: first_a_removed(pre_tokenizers.WhitespaceSplit()),
    "Digits": lambda: first_a_removed(pre_tokenizers.Digits(individual_digits=True)),
    "Punctuation": lambda: first_a_removed(pre_tokenizers.Punctuation()),
    "ByteLevel": lambda: train_bytes(sequence(
        pre_tokenizers.Split(Regex(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|"
                                   r"\s+(?!\S)|\s+"), "isolated"),
        pre_tokenizers.Split(Regex("^a"), "removed"), byte_level(regex=False))),
    "single_word": whole_word,
    "Strip": lambda: train_bytes(byte_level(), normalizers.Strip(left=True, right=True)),
    "Lowercase": lambda: train_bytes(byte_level(), normalizers.Lowercase()),
    "StripAccents": lambda: train_bytes(byte_level(), normalizers.StripAccents()),
    "NFKC": lambda: train_bytes(byte_level(), normalizers.NFKC()),
}


@pytest.mark.parametrize("name", BY_CHARACTER)
def test_every_character(name, tmp_path):
    """All of Unicode that all know, one character in a text; a part of it unless asked for more."""
    t = BY_CHARACTER[name]()
    path = tmp_path / "tokenizer.json"
    t.save(str(path))
    reference = Tokenizer.from_file(str(path))
    characters = [c for c in assigned() if c not in newer_characters()]
    dense = [c for c in characters if ord(c) < 0x3000]
    characters = dense + characters[len(dense)::max(1, 100_000 // N_RANDOM)]
    texts = [f"{c}the{c}a" for c in characters]
    want = [e.ids for e in reference.encode_batch(texts, add_special_tokens=False)]
    wrong = [f"U+{ord(c):04X}" for c, got, ids in zip(characters, ours(path, texts, True), want,
                                                      strict=True) if got["ids"] != ids]
    assert not wrong, f"{len(wrong)} of {len(texts)} differ: {wrong[:20]}"
    print(f"{name}: {len(texts)} characters")
