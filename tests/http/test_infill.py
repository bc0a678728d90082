"""Fill-in-the-middle: /v1/completions with `suffix`, Mistral's POST /v1/fim/completions and
llama.cpp's POST /infill, on the golden model whose tokenizer has single bytes and Mistral's control
tokens."""

from __future__ import annotations

import json

import pytest

from conftest import ROOT, Server, sse

BOS, PREFIX, SUFFIX, BYTE = 1, 11, 13, 32


@pytest.fixture(scope="module")
def coder():
    server = Server("--model", str(ROOT / "tests/golden/models/codestral"))
    yield server
    assert server.stop() == 0


def tokens(text: str) -> list[int]:
    return [BYTE + b for b in text.encode()]


def middle_prompt(prefix: str, suffix: str) -> list[int]:
    return [BOS, SUFFIX, *tokens(suffix), PREFIX, *tokens(prefix)]


def complete(server, **fields):
    status, _, body = server.post("/v1/completions", {"temperature": 0, "return_token_ids": True, **fields})
    assert status == 200, body
    return json.loads(body)


def refused(server, path, body, param, text, code="unsupported_parameter"):
    status, _, raw = server.post(path, body)
    error = json.loads(raw)["error"]
    assert status == 400 and error["param"] == param and error["code"] == code, error
    assert text in error["message"]


def test_suffix_comes_first(coder):
    answer = complete(coder, prompt="def f(", suffix="    return a\n", max_tokens=6)
    choice = answer["choices"][0]
    ids = middle_prompt("def f(", "    return a\n")
    assert choice["prompt_token_ids"] == ids and answer["usage"]["prompt_tokens"] == len(ids)
    # the same as the tokens sent as tokens, and unlike the prompt alone
    same = complete(coder, prompt=ids, max_tokens=6)["choices"][0]
    assert choice["token_ids"] == same["token_ids"] and len(choice["token_ids"]) == 6
    alone = complete(coder, prompt="def f(", max_tokens=6)["choices"][0]
    assert alone["prompt_token_ids"] == [BOS, *tokens("def f(")]
    assert alone["token_ids"] != choice["token_ids"]


def test_every_prompt_has_the_suffix(coder):
    answer = complete(coder, prompt=["a", "日本", ""], suffix="z", max_tokens=1)
    assert [c["prompt_token_ids"] for c in answer["choices"]] == [
        middle_prompt(p, "z") for p in ("a", "日本", "")]


def test_an_empty_suffix_asks_for_nothing(coder):
    for suffix in ("", None):
        choice = complete(coder, prompt="a", suffix=suffix, max_tokens=1)["choices"][0]
        assert choice["prompt_token_ids"] == [BOS, *tokens("a")]


def test_control_tokens_in_texts_stay_text(coder):
    choice = complete(coder, prompt="[PREFIX]</s>", suffix="[SUFFIX]<s>", max_tokens=1)["choices"][0]
    assert choice["prompt_token_ids"] == middle_prompt("[PREFIX]</s>", "[SUFFIX]<s>")


def test_what_does_not_go_with_a_suffix(coder):
    refused(coder, "/v1/completions", {"prompt": [1, 2], "suffix": "x"}, "prompt", "not token ids", "invalid_value")
    refused(coder, "/v1/completions", {"prompt": [[1], [2]], "suffix": "x"}, "prompt", "not token ids", "invalid_value")
    refused(coder, "/v1/completions", {"prompt": "a", "suffix": "x", "echo": True}, "suffix", "echo", "invalid_value")
    status, _, raw = coder.post("/v1/completions", {"prompt": "a", "suffix": 5})
    assert status == 400 and json.loads(raw)["error"]["param"] == "suffix"


def test_a_model_without_the_tokens_refuses(server):
    refused(server, "/v1/completions", {"prompt": "a", "suffix": "b"}, "suffix", "fill-in-the-middle")
    refused(server, "/infill", {"input_prefix": "a", "input_suffix": "b"}, "input_suffix", "fill-in-the-middle")
    refused(server, "/v1/fim/completions", {"prompt": "a", "suffix": "b"}, "suffix", "fill-in-the-middle")


def fim(server, **fields):
    status, _, body = server.post("/v1/fim/completions", {"temperature": 0, "return_token_ids": True, **fields})
    assert status == 200, body
    return json.loads(body)


def test_mistral_fim_is_a_completion_answered_as_a_chat(coder):
    how = {"model": "codestral", "prompt": "def f(", "suffix": "    return a\n", "max_tokens": 6}
    answer, same = fim(coder, **how), complete(coder, **how)
    choice = answer["choices"][0]
    assert answer["object"] == "chat.completion" and answer["usage"] == same["usage"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == same["choices"][0]["text"]
    assert choice["token_ids"] == same["choices"][0]["token_ids"]
    assert choice["finish_reason"] == same["choices"][0]["finish_reason"]
    for suffix in ("", None):
        assert fim(coder, prompt="a", suffix=suffix, max_tokens=1)["prompt_token_ids"] == [BOS, *tokens("a")]


def test_mistral_fim_streams(coder):
    how = {"prompt": "def f(", "suffix": "\n", "temperature": 0, "max_tokens": 9, "stop": None}
    status, _, raw = coder.post("/v1/fim/completions", {**how, "stream": True})
    events = sse(raw)
    assert status == 200 and events[-1] == "[DONE]"
    assert all(e["object"] == "chat.completion.chunk" for e in events[:-1])
    choices = [e["choices"][0] for e in events[:-1]]
    assert "".join(c["delta"].get("content", "") for c in choices) == fim(coder, **how)["choices"][0][
        "message"]["content"]
    assert [c["finish_reason"] for c in choices] == [None] * (len(choices) - 1) + ["length"]


def test_mistral_fim_has_the_room_there_is(coder):
    """Without max_tokens it goes on until the model ends, or the context does."""
    usage = fim(coder, prompt="def f(", suffix="\n")["usage"]
    limit = json.loads(coder.get("/v1/models")[2])["data"][0]["max_model_len"]
    assert usage["completion_tokens"] > 16 or usage["total_tokens"] == limit, usage
    for body, param in (({}, "prompt"), ({"prompt": ["a"]}, "prompt"), ({"prompt": [1]}, "prompt"),
                        ({"prompt": "a", "suffix": 1}, "suffix"), ({"prompt": "a", "max_tokens": -2}, "max_tokens")):
        status, _, raw = coder.post("/v1/fim/completions", body)
        assert status == 400 and json.loads(raw)["error"]["param"] == param


def test_the_model_list_tells_who_can(coder, server):
    """In the words of Mistral's API, whose clients read no list without them."""
    for who, fills, calls in ((coder, True, None), (server, False, True)):
        model = json.loads(who.get("/v1/models")[2])["data"][0]
        assert model["type"] == "base" and model["max_context_length"] == model["max_model_len"]
        assert model["capabilities"]["completion_fim"] is fills
        assert model["capabilities"]["completion_chat"] is True and model["capabilities"]["vision"] is False
        assert calls is None or model["capabilities"]["function_calling"] is calls


def infill(server, **fields):
    status, headers, body = server.post("/infill", {"temperature": 0, "return_token_ids": True, **fields})
    assert status == 200, body
    assert headers["content-type"] == "application/json"
    return json.loads(body)


def test_infill_whole(coder):
    answer = infill(coder, input_prefix="def f(", input_suffix="\n", prompt="a, ", n_predict=8)
    same = complete(coder, prompt="def f(a, ", suffix="\n", max_tokens=8)
    assert answer["content"] == same["choices"][0]["text"]
    assert answer["tokens"] == same["choices"][0]["token_ids"]
    assert answer["stop"] is True and answer["stop_type"] == "limit" and answer["stopping_word"] == ""
    assert answer["tokens_predicted"] == 8 and answer["model"] == "codestral"
    assert answer["tokens_evaluated"] == len(middle_prompt("def f(a, ", "\n"))


def test_infill_streams_without_an_envelope(coder):
    body = {"input_prefix": "def f(", "input_suffix": "\n", "n_predict": 12, "temperature": 0}
    whole = infill(coder, **body)
    status, headers, raw = coder.post("/infill", {**body, "stream": True})
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    assert b"[DONE]" not in raw
    frames = [json.loads(line[6:]) for line in raw.decode().split("\n") if line.startswith("data: ")]
    assert "".join(f["content"] for f in frames) == whole["content"]
    assert [f["stop"] for f in frames] == [False] * (len(frames) - 1) + [True]
    assert frames[-1]["stop_type"] == "limit" and frames[-1]["tokens_predicted"] == 12
    assert "choices" not in frames[0]


def test_infill_stops_at_a_word(coder):
    text = infill(coder, input_prefix="x", input_suffix="y", n_predict=30)["content"]
    word = next(c for c in text[1:] if c.isascii() and c.isprintable() and c != text[0])
    answer = infill(coder, input_prefix="x", input_suffix="y", n_predict=30, stop=[word])
    assert answer["stop_type"] == "word" and answer["stopping_word"] == word
    assert answer["content"] == text[:text.index(word)]


def test_infill_puts_extra_texts_in_front(coder):
    extra = [{"filename": "a.py", "text": "A = 1"}, {"text": "B = 2"}]
    answer = infill(coder, input_extra=extra, input_prefix="C", input_suffix="z", n_predict=5)
    same = complete(coder, prompt="A = 1\nB = 2\nC", suffix="z", max_tokens=5)
    assert answer["tokens"] == same["choices"][0]["token_ids"]


def test_infill_needs_nothing_and_checks_everything(coder):
    assert infill(coder, n_predict=1)["tokens_evaluated"] == 3  # BOS, [SUFFIX], [PREFIX]
    for body, param in (({"input_prefix": 1}, "input_prefix"), ({"input_suffix": []}, "input_suffix"),
                        ({"prompt": [1]}, "prompt"), ({"n_predict": -2}, "n_predict"), ({"n": 2}, "n"),
                        ({"input_extra": {}}, "input_extra"), ({"input_extra": ["a"]}, "input_extra"),
                        ({"input_extra": [{"text": 5}]}, "input_extra.text"),
                        ({"input_extra": [{}]}, "input_extra.text"), ({"temperature": -1}, "temperature")):
        status, _, raw = coder.post("/infill", body)
        error = json.loads(raw)["error"]
        assert status == 400 and error["param"] == param, (body, error)
    status, headers, _ = coder.get("/infill")
    assert status == 405 and headers["allow"] == "POST"
