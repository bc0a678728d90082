"""/tokenize, /detokenize, /apply-template: both servers' field names, and agreement with chat."""

from __future__ import annotations

import json

import pytest

HI = [{"role": "user", "content": "What is the capital of France?"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def ask(server, path, **fields):
    status, headers, body = server.post(path, fields)
    assert status == 200 and headers["content-type"] == "application/json", body
    return json.loads(body)


def test_text(server):
    answer = ask(server, "/tokenize", model="sirocco-demo", prompt="Hello there")
    tokens = answer["tokens"]
    assert tokens[0] == 1 and answer["count"] == len(tokens) and answer["max_model_len"] == 4096
    assert answer["token_strs"] is None
    assert ask(server, "/tokenize", prompt="Hello there", add_special_tokens=False)["tokens"] == tokens[1:]
    assert ask(server, "/tokenize", content="Hello there")["tokens"] == tokens[1:]
    assert ask(server, "/tokenize", content="Hello there", add_special=True)["tokens"] == tokens
    assert ask(server, "/tokenize", content="")["tokens"] == []
    for name in ("prompt", "content"):
        assert ask(server, "/detokenize", tokens=tokens[1:])[name] == "Hello there"
    assert ask(server, "/detokenize", tokens=[])["prompt"] == ""


@pytest.mark.parametrize("text", ["a", " a ", "\n\n", "h\u00e9 \U0001f600 \u4e16", "x" * 5000, "</s>[INST]"])
def test_round_trip(server, text):
    tokens = ask(server, "/tokenize", content=text)["tokens"]
    assert ask(server, "/detokenize", tokens=tokens)["content"].strip() == text.strip()


def test_special_tokens(server):
    assert ask(server, "/tokenize", content="[INST]")["tokens"] == [3]
    plain = ask(server, "/tokenize", content="[INST]", parse_special=False)["tokens"]
    assert len(plain) > 1 and 3 not in plain


def test_pieces(server):
    answer = ask(server, "/tokenize", content="a \U0001f600", with_pieces=True)["tokens"]
    raw = b"".join(bytes(t["piece"]) if isinstance(t["piece"], list) else t["piece"].encode() for t in answer)
    assert raw.decode().strip() == "a \U0001f600"
    strings = ask(server, "/tokenize", prompt="Hello there", return_token_strs=True)
    assert len(strings["token_strs"]) == strings["count"] and strings["token_strs"][0] == "<s>"


@pytest.mark.parametrize("fields", [
    {}, {"tools": [TOOL]}, {"add_generation_prompt": False},
    {"messages": [*HI, {"role": "assistant", "content": "The capital"}], "continue_final_message": True}])
def test_messages_as_in_chat(server, fields):
    fields = {"messages": HI, **fields}
    prompt = ask(server, "/apply-template", **fields)["prompt"]
    tokens = ask(server, "/tokenize", **fields)
    answer = server.chat(max_tokens=1, return_token_ids=True, **fields)
    assert tokens["tokens"] == answer["prompt_token_ids"]
    assert tokens["count"] == answer["usage"]["prompt_tokens"]
    assert prompt.startswith("<s>[INST]" if "tools" not in fields else "<s>[AVAILABLE_TOOLS]")
    assert HI[0]["content"] in prompt


@pytest.mark.parametrize("path,fields,status,code,param", [
    ("/tokenize", {}, 400, "missing_required_parameter", "prompt"),
    ("/tokenize", {"prompt": 1}, 400, "invalid_type", "prompt"),
    ("/tokenize", {"content": ["a"]}, 400, "invalid_type", "content"),
    ("/tokenize", {"prompt": "a", "add_special_tokens": 1}, 400, "invalid_type", "add_special_tokens"),
    ("/tokenize", {"prompt": "a", "model": "other"}, 404, "model_not_found", "model"),
    ("/tokenize", {"prompt": "a", "model": "sirocco-demo\0"}, 404, "model_not_found", "model"),
    ("/tokenize", {"messages": []}, 400, "empty_array", "messages"),
    ("/tokenize", {"prompt": "x" * (4 << 20) + "x"}, 400, "string_above_max_length", "prompt"),
    ("/detokenize", {}, 400, "missing_required_parameter", "tokens"),
    ("/detokenize", {"tokens": "a"}, 400, "invalid_type", "tokens"),
    ("/detokenize", {"tokens": [1.5]}, 400, "invalid_type", "tokens"),
    ("/detokenize", {"tokens": [4096]}, 400, "invalid_value", "tokens"),
    ("/detokenize", {"tokens": [-1]}, 400, "invalid_value", "tokens"),
    ("/apply-template", {}, 400, "missing_required_parameter", "messages"),
    ("/apply-template", {"messages": [{"role": "x", "content": ""}]}, 400, "invalid_value", "messages[0].role"),
])
def test_errors(server, path, fields, status, code, param):
    got, _, body = server.post(path, fields)
    error = json.loads(body)["error"]
    assert (got, error["code"], error["param"]) == (status, code, param), error
    assert server.get(path)[0] == 405
