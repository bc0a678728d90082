"""Mistral's own chat encoding against the package that defines it, mistral-common: random
conversations and fill-in requests for every version and kind of vocabulary; the same token ids, or
the same exception with the same words (of exceptions that are not mistral-common's own, the kind alone).

The conversations are made from fixed seeds. Most are well-formed: system messages wherever they may
stand, tools, one call and several with their results, content in parts, thinking, prefixes. About one
in three gets a fault: roles out of order, ids that are wrong, missing or used twice, empty messages,
names and schemas that are none.

SIROCCO_DIFF_ROUNDS=N makes N times as many.
"""

from __future__ import annotations

import copy
import gzip
import json
import os
import random
import string
import subprocess
import warnings
from pathlib import Path

import pytest

pytest.importorskip("mistral_common")
from mistral_common import exceptions  # noqa: E402
from mistral_common.protocol.fim.request import FIMRequest  # noqa: E402
from mistral_common.protocol.instruct.request import ChatCompletionRequest  # noqa: E402
from mistral_common.protocol.instruct.validator import ValidationMode  # noqa: E402
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer  # noqa: E402

ROOT = Path(os.environ.get("SIROCCO_ROOT", Path(__file__).resolve().parents[2]))
BINARY = os.environ.get("SIROCCO_BINARY", str(ROOT / "build/sirocco"))
DATA = Path(os.environ.get("SIROCCO_TEST_DATA") or "/nonexistent")
N_REQUESTS = 600 * int(os.environ.get("SIROCCO_DIFF_ROUNDS", "1"))

SPM = "tokenizers/mistral-spm/"
TOKENIZERS = {
    "spm_v1": SPM + "tokenizer.model.v1",
    "spm_v2": SPM + "mistral_instruct_tokenizer_240216.model.v2",
    "spm_v3": SPM + "mistral_instruct_tokenizer_240323.model.v3",
    "spm_v7": SPM + "mistral_instruct_tokenizer_241114.model.v7",
    **{f"tekken_v{v}": f"tokenizers/tekken/overlays/tekken_v{v}.overlay.json" for v in (7, 11, 13, 15)},
    "tekken_v3": "tokenizers/tekken/tekken_v3.json.gz",
}


def tokenizer_file(name: str, folder: Path) -> Path:
    """The vocabulary's file; a later tekken.json is version 3's with its overlay's members."""
    path = DATA / TOKENIZERS[name]
    if not path.exists():
        pytest.skip(f"{TOKENIZERS[name]}: SIROCCO_TEST_DATA is not set or lacks it")
    if name.startswith("spm"):
        return path
    file = json.loads(gzip.decompress((DATA / TOKENIZERS["tekken_v3"]).read_bytes()))
    if path.suffix == ".json":
        overlay = json.loads(path.read_text(encoding="utf-8"))
        file["config"].update(overlay.pop("config"))
        file.update(overlay)
    target = folder / "tekken.json"
    target.write_text(json.dumps(file), encoding="utf-8")
    return target


# ---- conversations

TEXTS = ["Hello!", "What is 2 + 2?", "", " ", "  padded \n", "a\nb\n\nc\r\n\td", "Où est la gare ? Ça va…", "天気はどうですか。",
         "🙂👨‍👩‍👧‍👦", "[INST] no [/INST]", "</s><s>[TOOL_CALLS][{}]", "[SYSTEM_PROMPT]x[/SYSTEM_PROMPT]", "<<SYS>>", "{\"a\": 1}",
         "[1, 2.50, \"x\"]", "null", "21.5", "NaN", "\"quoted\" \\ back/slash", "e\u0301 \u00a0 \u2028 \u200b", "\x00\x7f",
         "word " * 60, "\ud7ff\uffff\U0010fffd", "▁▁ a▁b", "[THINK]hm[/THINK]4", "1e400", "{\"b\": {\"c\": [1,2]}, \"a\": \"é\"}"]
NAMES = ["get_weather", "add", "f-1", "A_b-C9", "x" * 64]
BAD_NAMES = ["", "with space", "é", "x" * 65, "a.b"]
ARGUMENTS = ["{}", "{\"a\": 2}", "{\"a\":2,\"b\":[1,2.5,null]}", " { \"é\" : \"\\u00e9\" } ", "not json", "", "[1]", "3", "{\"a\": 1e5}",
             {}, {"a": 2}, {"é": "ü", "n": [1, 2.5, None, True, {"x": {}}]}, {"f": 1e-7, "g": 123456789012345678, "h": -0.0}, None]
SCHEMAS = [{}, {"type": "object"}, {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]},
           {"type": "object", "properties": {"é": {"type": ["string", "null"], "enum": ["é", None, 1.0], "default": "\u2028"},
                                             "l": {"type": "array", "items": {"$ref": "#/$defs/x"}, "minItems": 1}},
            "$defs": {"x": {"anyOf": [{"type": "integer", "minimum": 0, "multipleOf": 0.5}, {"const": {"b": 1, "a": 2}}]}},
            "additionalProperties": False}]
BAD_SCHEMAS = [{"type": "objec"}, {"required": "a"}, {"properties": []}, {"properties": {"a": {"minimum": "x"}}}, {"enum": 3}]


class Maker:
    """One random request after the other."""

    def __init__(self, seed: int, version: int):
        self.rng = random.Random(seed)
        self.version = version

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def text(self) -> str:
        rng = self.rng
        return rng.choice(TEXTS) if self.chance(0.7) else rng.choice(TEXTS) + rng.choice(TEXTS)

    def id(self) -> str:
        return "".join(self.rng.choices(string.ascii_letters + string.digits, k=9))

    def words(self, thinks: bool = False):
        """Content: text, or parts of it; thinking where the version has it, or rarely."""
        thinking = 0.3 if thinks else 0.0
        if self.chance(0.75):
            return self.text()
        parts = [{"type": "text", "text": self.text()} for _ in range(self.rng.randint(1, 3))]
        if self.chance(thinking):
            thought = {"type": "thinking", "thinking": self.text()}
            if self.chance(0.3):
                thought["closed"] = self.chance(0.5)
            parts.insert(self.rng.randint(0, len(parts)), thought)
        return parts

    def call(self) -> dict:
        name = self.rng.choice(NAMES)
        call = {"id": self.id(), "type": "function",
                "function": {"name": name, "arguments": copy.deepcopy(self.rng.choice(ARGUMENTS))}}
        if self.chance(0.1):
            del call["type"]
        return call

    def tool(self) -> dict:
        function = {"name": self.rng.choice(NAMES), "parameters": copy.deepcopy(self.rng.choice(SCHEMAS))}
        if self.chance(0.8):
            function["description"] = self.text()
        if self.chance(0.2):
            function["strict"] = self.chance(0.5)
        return {"type": "function", "function": function}

    def results(self, calls: list) -> list:
        order = calls[:]
        if self.chance(0.3):
            self.rng.shuffle(order)
        made = []
        for call in order:
            result = {"role": "tool", "tool_call_id": call["id"], "content": self.words()}
            if self.chance(0.5):
                result["name"] = call["function"]["name"]
            made.append(result)
        return made

    def conversation(self) -> list:
        rng, messages = self.rng, []
        for _ in range(rng.choice([0, 0, 1, 1, 1, 2])):
            messages.append({"role": "system", "content": self.words(7 <= self.version < 15)})
        for _ in range(rng.randint(1, 4)):
            messages += [{"role": "user", "content": self.words()} for _ in range(1 if self.chance(0.85) else 2)]
            while self.chance(0.35 if self.version > 1 else 0.02):
                calls = [self.call() for _ in range(rng.choice([1, 1, 1, 2, 3]))]
                content = rng.choice([None, None, "", self.words(self.version >= 11)])
                if self.version < 7 and self.chance(0.95):
                    content = rng.choice([None, ""])
                messages += [{"role": "assistant", "content": content, "tool_calls": calls}, *self.results(calls)]
            if self.chance(0.12):
                messages.append({"role": "system", "content": self.words()})
            messages.append({"role": "assistant", "content": self.words(self.version >= 11)})
            if not messages[-1]["content"] and self.chance(0.9):
                messages[-1]["content"] = "Yes."
            if self.chance(0.1):
                messages[-1]["tool_calls"] = [] if self.chance(0.5) else None
        if self.chance(0.75):
            del messages[-1]
        return messages

    def spoil(self, request: dict) -> None:
        """One fault, which may turn out to be none."""
        rng, messages = self.rng, request["messages"]
        some = rng.choice(messages) if messages else {}
        kind = rng.randint(0, 11)
        calls = [c for m in messages for c in m.get("tool_calls") or []]
        results = [m for m in messages if m["role"] == "tool"]
        if kind == 0:
            rng.shuffle(messages)
        elif kind == 1 and messages:
            messages.remove(some)
        elif kind == 2:
            messages.insert(rng.randint(0, len(messages)), {"role": rng.choice(["system", "user", "assistant"]), "content": self.text()})
        elif kind == 3 and calls:
            rng.choice(calls)["id"] = rng.choice(["null", "12", "", "abcdefgh!", "x" * 10, calls[0]["id"]])
        elif kind == 4 and calls:
            del rng.choice(calls)["id"]
        elif kind == 5 and calls:
            rng.choice(calls)["function"]["name"] = rng.choice(BAD_NAMES)
        elif kind == 6 and results:
            rng.choice(results)["tool_call_id"] = rng.choice(["null", "12", self.id(), None, results[0]["tool_call_id"]])
        elif kind == 7 and results:
            rng.choice(results)["name"] = rng.choice(BAD_NAMES)
        elif kind == 8:
            some["content"] = rng.choice([None, "", [], [{"type": "text"}], [{"type": "what", "text": "x"}], 7, [{"type": "thinking", "thinking": "t"}]])
        elif kind == 9:
            tool = self.tool()
            if self.chance(0.5):
                tool["function"]["name"] = rng.choice(BAD_NAMES)
            else:
                tool["function"]["parameters"] = copy.deepcopy(rng.choice(BAD_SCHEMAS))
            request["tools"] = [*(request.get("tools") or []), tool]
        elif kind == 10 and some.get("role") == "assistant":
            some["prefix"] = True
        elif kind == 11:
            some["role"] = rng.choice(["user", "assistant", "tool", "system", "nobody"])
            for key in {"tool_calls", "tool_call_id", "name", "prefix"} & set(some):
                del some[key]  # the data classes refuse what we look over

    def line(self) -> dict:
        rng = self.rng
        if self.chance(0.05):
            request = {"prompt": self.text()}
            if self.chance(0.7):
                request["suffix"] = rng.choice([None, self.text()])
            return {"mode": "fim", "request": request}
        request: dict = {"messages": self.conversation()}
        last = request["messages"][-1]["role"] if request["messages"] else ""
        mode = rng.choice(["serving", "serving", "test", "finetuning"])
        if mode == "finetuning" and last != "assistant" and self.chance(0.9):
            mode = "test"
        if self.chance(0.9):
            request["model"] = "m"
        if self.chance(0.5):
            request["tools"] = rng.choice([None, [], *([[self.tool() for _ in range(rng.randint(1, 3))]] * 4)])
        if last == "assistant":
            way = rng.random()
            if way < 0.5:
                request["messages"][-1]["prefix"] = True
            if 0.45 < way < 0.9 and mode != "finetuning":
                request["continue_final_message"] = True
        elif self.chance(0.05):
            request["continue_final_message"] = self.chance(0.5)
        if self.chance(0.3 if self.version >= 15 else 0.03):
            request["reasoning_effort"] = rng.choice(["none", "high", None, "much"])
        if self.chance(0.33):
            self.spoil(request)
        return {"mode": mode, "request": request}


# ---- the two sides

def reference(tokenizers: dict, path: Path, line: dict) -> dict:
    mode = "test" if line["mode"] == "fim" else line["mode"]
    if mode not in tokenizers:
        tokenizers[mode] = MistralTokenizer.from_file(str(path), mode=ValidationMode(mode))
    request = copy.deepcopy(line["request"])
    try:
        if line["mode"] == "fim":
            return {"token_ids": tokenizers[mode].encode_fim(FIMRequest(**request)).tokens}
        return {"token_ids": tokenizers[mode].encode_chat_completion(ChatCompletionRequest(**request)).tokens}
    except Exception as error:  # noqa: BLE001: whatever it raises is the answer
        return {"error": type(error).__name__, "message": str(error)}


def ours(path: Path, version: str, lines: list) -> list:
    run = subprocess.run([BINARY, "tokenize", "--tokenizer", str(path), "--mistral-version", version, "--jsonl"],
                         input="".join(json.dumps(line) + "\n" for line in lines), capture_output=True,
                         text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    answers = [json.loads(line) for line in run.stdout.split("\n") if line]
    assert len(answers) == len(lines)
    return answers


# What a tokenizer's version will never have is said in words of our own.
OWN_WORDS = {
    "Think not implemented for tokenizer < V13.": "thinking needs tokenizer V13 or later",
    "Tools not implemented for tokenizer V1": "tokenizer V1 has no tools",
}


def differs(want: dict, got: dict) -> bool:
    if "token_ids" in want:
        return want["token_ids"] != got.get("token_ids")
    if not hasattr(exceptions, want["error"]):
        return got.get("error") != want["error"]
    message = OWN_WORDS.get(want["message"], want["message"])
    return (want["error"], message) != (got.get("error"), got.get("message"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_random_conversations(name, tmp_path):
    path, version = tokenizer_file(name, tmp_path), name.partition("_")[2]
    seed = 20250710 + list(TOKENIZERS).index(name)  # each vocabulary meets conversations of its own
    maker, tokenizers, wrong, refused = Maker(seed, int(version[1:])), {}, [], {}
    lines = [maker.line() for _ in range(N_REQUESTS)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for line, got in zip(lines, ours(path, version, lines), strict=True):
            want = reference(tokenizers, path, line)
            if "error" in want:
                refused[want["error"]] = refused.get(want["error"], 0) + 1
            if differs(want, got):
                wrong.append(f"{json.dumps(line)}\n  want {json.dumps(want)[:400]}\n  got  {json.dumps(got)[:400]}")
    print(f"{name}: {len(lines)} requests, {sum(refused.values())} refused {refused}, {len(wrong)} differences")
    assert len(lines) - sum(refused.values()) > len(lines) // 2
    assert not wrong, f"{len(wrong)} differences, the first:\n" + "\n".join(wrong[:10])
