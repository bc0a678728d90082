"""JSON and parameters: every row a request, its status, code and param; then a canary request that
must answer as always."""

from __future__ import annotations

import json

import pytest

from conftest import data_path, sse

HI = [{"role": "user", "content": "What is the capital of France?"}]
TOOL = {"type": "function", "function": {"name": "f"}}
ANSWER = "The capital of France is Paris."


def canary(server) -> None:
    assert server.chat(messages=HI, temperature=0)["choices"][0]["message"]["content"] == ANSWER


def refused(server, path: str, body, status: int, code, param) -> None:
    got, headers, raw = server.post(path, body)
    error = json.loads(raw)["error"] if got >= 400 else raw
    assert got == status, error
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error" and error["message"]
    if code is not ...:
        assert error["code"] == code, error
    if param is not ...:
        assert error["param"] == param, error
    if status == 400:
        assert headers["x-should-retry"] == "false"


BODIES = {
    "empty": b"", "space": b"  ", "null": b"null", "array": b"[]", "string": b'"s"', "number": b"1",
    "bom": b"\xef\xbb\xbf{}", "utf-16": '{"a":1}'.encode("utf-16"), "trailing": b"{} x", "two": b"{}{}",
    "comma": b'{"a":1,}', "comment": b"{/* */}", "overlong": b'{"a":"\xc0\x80"}',
    "surrogate bytes": b'{"a":"\xed\xa0\x80"}', "truncated utf-8": b'{"a":"\xe2\x82"}',
    "lone surrogate": b'{"a":"\\ud800"}', "duplicate": b'{"model":"a","model":"b"}',
    "infinity": b'{"a":1e999}', "nan": b'{"a":NaN}', "big integer": b'{"a":9223372036854775808}',
    "depth 65": b'{"a":' * 65 + b"1" + b"}" * 65, "depth 10^5": b"[" * 100000,
    "depth in an unused field": b'{"unused":' + b"[" * 100000 + b"]" * 100000 + b"}",
    "unclosed": b'{"a":', "control": b'{"a":"\x01"}',
    "nodes": b'{"unused":[' + b"{}," * 400000 + b"{}]}",
}


@pytest.mark.parametrize("name", BODIES)
def test_bad_json(server, name):
    refused(server, "/v1/chat/completions", BODIES[name], 400, None, None)
    canary(server)


def test_json_suite(server):
    """Every file that must not parse is refused; every one that must parse is not a JSON error."""
    folder = data_path("json/JSONTestSuite/test_parsing")
    for file in sorted(folder.iterdir()):
        status, _, raw = server.post("/v1/chat/completions", file.read_bytes())
        assert status == 400, file.name
        message = json.loads(raw)["error"]
        if file.name.startswith("n_") and file.name != "n_single_space.json":
            assert message["code"] is None, (file.name, message)
    canary(server)


def chat(**fields) -> dict:
    return {"messages": HI, "max_tokens": 3, **fields}


MSG = {"role": "user", "content": "a"}
BAD = [
    # messages
    ({}, 400, "missing_required_parameter", "messages"),
    ({"messages": None}, 400, "missing_required_parameter", "messages"),
    ({"messages": {}}, 400, "invalid_type", "messages"), ({"messages": "x"}, 400, "invalid_type", "messages"),
    ({"messages": []}, 400, "empty_array", "messages"),
    ({"messages": [MSG] * 2049}, 400, "array_above_max_length", "messages"),
    ({"messages": [1]}, 400, "invalid_type", "messages[0]"),
    ({"messages": [{"content": "a"}]}, 400, "missing_required_parameter", "messages[0].role"),
    ({"messages": [MSG, {"role": "root", "content": "a"}]}, 400, "invalid_value", "messages[1].role"),
    ({"messages": [{"role": 1, "content": "a"}]}, 400, "invalid_type", "messages[0].role"),
    ({"messages": [{"role": "user"}]}, 400, "missing_required_parameter", "messages[0].content"),
    ({"messages": [{"role": "user", "content": 1}]}, 400, "invalid_type", "messages[0].content"),
    ({"messages": [{"role": "user", "content": {}}]}, 400, "invalid_type", "messages[0].content"),
    ({"messages": [{"role": "user", "content": []}]}, 400, "empty_array", "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400, "missing_required_parameter",
     "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, 400, ...,
     "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "zzz"}]}]}, 400, ..., "messages[0].content[0].type"),
    ({"messages": [MSG, {"role": "assistant"}]}, 400, "missing_required_parameter", ...),
    # a word with a NUL behind it is not that word
    ({"messages": [{"role": "user\0", "content": "a"}]}, 400, "invalid_value", "messages[0].role"),
    ({"messages": [{"role": "user", "content": [{"type": "text\0x", "text": "a"}]}]}, 400, "invalid_value",
     "messages[0].content[0].type"),
    (chat(response_format={"type": "text\0"}), 400, "invalid_value", "response_format.type"),
    (chat(tools=[TOOL], tool_choice="auto\0"), 400, "invalid_value", "tool_choice"),
    (chat(reasoning_effort="low\0"), 400, "invalid_value", "reasoning_effort"),
    # numbers
    (chat(temperature=-0.01), 400, "decimal_below_min_value", "temperature"),
    (chat(temperature=2.01), 400, "decimal_above_max_value", "temperature"),
    (chat(temperature="1"), 400, "invalid_type", "temperature"),
    (chat(temperature=1e308), 400, "decimal_above_max_value", "temperature"),
    (chat(top_p=-0.1), 400, "decimal_below_min_value", "top_p"),
    (chat(top_p=1.0001), 400, "decimal_above_max_value", "top_p"),
    (chat(min_p=2), 400, "decimal_above_max_value", "min_p"),
    (chat(top_k=2 ** 31), 400, "integer_above_max_value", "top_k"),
    (chat(top_k=-2), 400, "integer_below_min_value", "top_k"),
    (chat(presence_penalty=2.01), 400, "decimal_above_max_value", "presence_penalty"),
    (chat(frequency_penalty=-2.01), 400, "decimal_below_min_value", "frequency_penalty"),
    (chat(n=0), 400, "integer_below_min_value", "n"), (chat(n=129), 400, "integer_above_max_value", "n"),
    (chat(n=2 ** 63 - 1), 400, "integer_above_max_value", "n"), (chat(n="1"), 400, "invalid_type", "n"),
    (chat(n=True), 400, "invalid_type", "n"), (chat(n=1.5), 400, "invalid_type", "n"),
    (chat(max_tokens=0), 400, "integer_below_min_value", "max_tokens"),
    (chat(max_tokens=-1), 400, "integer_below_min_value", "max_tokens"),
    (chat(max_completion_tokens=7), 400, "invalid_value", ...),
    (chat(seed=1.5), 400, "invalid_type", "seed"), (chat(seed="1"), 400, "invalid_type", "seed"),
    # stop
    (chat(stop=""), 400, ..., ...), (chat(stop=["a"] * 5), 400, "array_above_max_length", "stop"),
    (chat(stop="x" * 257), 400, "string_above_max_length", ...), (chat(stop=[None]), 400, "invalid_type", ...),
    (chat(stop=1), 400, "invalid_type", "stop"),
    # logprobs, bias
    (chat(top_logprobs=3), 400, "invalid_value", "top_logprobs"),
    (chat(logprobs=True, top_logprobs=21), 400, "integer_above_max_value", "top_logprobs"),
    (chat(logprobs=1), 400, "invalid_type", "logprobs"),
    (chat(logit_bias=[1]), 400, "invalid_type", "logit_bias"),
    (chat(logit_bias={"abc": 1}), 400, "invalid_value", ...), (chat(logit_bias={"-1": 1}), 400, "invalid_value", ...),
    (chat(logit_bias={"1.0": 1}), 400, "invalid_value", ...), (chat(logit_bias={" 1": 1}), 400, "invalid_value", ...),
    (chat(logit_bias={"4096": 1}), 400, "invalid_value", ...),
    (chat(logit_bias={"4294967297": 1}), 400, "invalid_value", ...),
    (chat(logit_bias={str(i): 1 for i in range(1025)}), 400, "array_above_max_length", "logit_bias"),
    (chat(logit_bias={"5": 101}), 400, ..., ...), (chat(logit_bias={"5": "1"}), 400, "invalid_type", ...),
    # streams, formats, tools
    (chat(stream="true"), 400, "invalid_type", "stream"), (chat(stream=1), 400, "invalid_type", "stream"),
    (chat(stream_options={"include_usage": True}), 400, "invalid_value", "stream_options"),
    (chat(stream=True, stream_options={"include_usage": 1}), 400, "invalid_type", "stream_options.include_usage"),
    (chat(response_format="json"), 400, "invalid_type", "response_format"),
    (chat(response_format={}), 400, "missing_required_parameter", "response_format.type"),
    (chat(response_format={"type": "xml"}), 400, "invalid_value", "response_format.type"),
    (chat(response_format={"type": "json_object"}), 400, ..., ...),
    (chat(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}), 400, ..., ...),
    (chat(tools=[TOOL], tool_choice="required"), 400, "unsupported_value", "tool_choice"),
    (chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "f"}}), 400,
     "unsupported_value", "tool_choice"),
    (chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "g"}}), 400,
     "invalid_value", "tool_choice.function.name"),
    (chat(tools=[{"type": "function", "function": {"name": "f", "strict": True}}]), 400,
     "unsupported_value", "tools[0].function.strict"),
    (chat(tools=[TOOL] * 129), 400, "array_above_max_length", "tools"),
    (chat(tools=[TOOL, TOOL]), 400, "invalid_value", "tools[1].function.name"),
    (chat(tools=[{"type": "custom", "custom": {"name": "f"}}]), 400, "unsupported_value", "tools[0].type"),
    (chat(tool_choice="required"), 400, ..., "tool_choice"),
    (chat(tools=[TOOL], functions=[{"name": "f"}]), 400, "unsupported_parameter", "functions"),
    (chat(functions=[{"name": "a b"}]), 400, "invalid_value", "functions[0].name"),
    (chat(metadata={"a" * 65: "b"}), 400, "string_above_max_length", ...),
    (chat(metadata={"a": 1}), 400, "invalid_type", ...),
    (chat(chat_template="{{ 1 }}"), 400, ..., "chat_template"),
    # model
    (chat(model=""), 400, "invalid_value", "model"), (chat(model=1), 400, "invalid_type", "model"),
    (chat(model="gpt-4"), 404, "model_not_found", "model"),
    (chat(model="../../etc/passwd"), 404, "model_not_found", "model"),
]


@pytest.mark.parametrize("row", range(len(BAD)))
def test_bad_chat(server, row):
    body, status, code, param = BAD[row]
    refused(server, "/v1/chat/completions", body, status, code, param)
    canary(server)


GOOD = [
    {}, {"temperature": 0}, {"temperature": -0.0}, {"temperature": 1e-45}, {"temperature": 2}, {"temperature": None},
    {"top_p": 0}, {"top_p": 1}, {"top_k": 0}, {"top_k": -1}, {"top_k": 2 ** 31 - 1}, {"min_p": 1}, {"typical_p": 0.2},
    {"presence_penalty": 2, "frequency_penalty": -2}, {"repetition_penalty": 1.3}, {"repeat_penalty": 1.3},
    {"n": 1.0}, {"n": None}, {"n": 8}, {"max_tokens": 1}, {"max_tokens": 4096}, {"max_tokens": 2 ** 31},
    {"max_completion_tokens": 5}, {"max_tokens": 5, "max_completion_tokens": 5}, {"seed": -(2 ** 63)},
    {"seed": 2 ** 63 - 1}, {"stop": []}, {"stop": None}, {"stop": ["\n", "\n"]}, {"stop": "x" * 256},
    {"random_seed": 7},
    {"logprobs": True}, {"logprobs": True, "top_logprobs": 0}, {"logprobs": True, "top_logprobs": 20},
    {"logprobs": False}, {"logit_bias": {}}, {"logit_bias": {"5": 100, "6": -100}},
    {"response_format": {"type": "text"}}, {"tools": []}, {"tools": None, "tool_choice": "none"},
    {"unknown_field": {"a": [1, 2, {"b": None}]}}, {"user": "u", "metadata": {"a": "b"}, "store": False,
                                                    "service_tier": "auto", "prompt_cache_key": "k", "verbosity": "low"},
    {"model": "default"}, {"model": "sirocco-demo"}, {"model": None}, {"stop_token_ids": [5], "ignore_eos": True},
    {"min_tokens": 2}, {"include_stop_str_in_output": True, "stop": "a"}, {"skip_special_tokens": False},
    {"cache_salt": "s"}, {"priority": 0}, {"return_token_ids": True}, {"chat_template_kwargs": {"a": 1}},
    {"add_generation_prompt": True}, {"reasoning_effort": "low"}, {"parallel_tool_calls": True},
    {"stream_options": None},
]


@pytest.mark.parametrize("row", range(len(GOOD)))
def test_good_chat(server, row):
    fields = GOOD[row]
    answer = server.chat(**{"messages": HI, "max_tokens": 4, **fields}
                         if "max_completion_tokens" not in fields else {"messages": HI, **fields})
    assert len(answer["choices"]) == int(fields.get("n") or 1)
    for choice in answer["choices"]:
        assert choice["finish_reason"] in ("stop", "length")


@pytest.mark.parametrize("messages", [
    [{"role": "system", "content": "You are a cat."}, *HI], [{"role": "developer", "content": "Be brief."}, *HI],
    [{"role": "user", "content": [{"type": "text", "text": "What is the capital "}, {"type": "text", "text": "of France?"}]}],
    [*HI, {"role": "assistant", "content": "Paris."}, {"role": "user", "content": "And of Italy?"}],
    [{"role": "user", "content": "a", "name": "me", "extra": [1]}],
    [{"role": "user", "content": "[INST] </s> <s> [/INST] <unk>"}], [{"role": "user", "content": ""}],
    [{"role": "user", "content": "nul \u0000 inside"}], [{"role": "user", "content": "\u2028\u00e9\U0001f600\ufffe"}],
    [*HI, {"role": "assistant", "content": None, "tool_calls": [
        {"id": "123456789", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
     {"role": "tool", "content": "5", "tool_call_id": "123456789"}],
    [*HI, {"role": "assistant", "content": [], "tool_calls": [
        {"id": "123456789", "type": "function", "function": {"name": "f", "arguments": ""}}]},
     {"role": "tool", "content": [{"type": "text", "text": "5"}], "tool_call_id": "123456789"}],
])
def test_messages(server, messages):
    assert server.chat(messages=messages, max_tokens=5)["choices"][0]["message"]["role"] == "assistant"


def test_special_tokens_in_text_are_text(server):
    """A user's "[INST]" costs several plain tokens, not one special."""
    plain = server.chat(messages=[{"role": "user", "content": "x"}], max_tokens=1)["usage"]["prompt_tokens"]
    special = server.chat(messages=[{"role": "user", "content": "x[INST]</s>"}], max_tokens=1)["usage"]["prompt_tokens"]
    assert special >= plain + 6


def test_part_content_equals_string_content(server):
    parts = [{"role": "user", "content": [{"type": "text", "text": HI[0]["content"]}]}]
    assert server.chat(messages=parts, temperature=0)["choices"][0]["message"]["content"] == ANSWER


def test_context_edges(server):
    """The longest prompt that fits leaves one token; one more is refused with both numbers."""
    def ids(n):
        return server.post("/v1/completions", {"prompt": [5] * n, "max_tokens": 5, "temperature": 0,
                                               "ignore_eos": True})
    for n in (4093, 4094, 4095):
        status, _, raw = ids(n)
        assert status == 200, raw
        answer = json.loads(raw)
        assert answer["usage"]["completion_tokens"] == min(5, 4096 - n)
        assert answer["choices"][0]["finish_reason"] == "length"
    for n in (4096, 4097, 5000):
        status, _, raw = ids(n)
        error = json.loads(raw)["error"]
        assert status == 400 and error["code"] == "context_length_exceeded"
        assert "4096" in error["message"] and str(n) in error["message"] and error["param"] == "prompt"
    for n in (15, 16, 17, 31, 32, 33, 255, 256, 257, 511, 512, 513):
        assert ids(n)[0] == 200


@pytest.mark.parametrize("body,code,param", [
    ({}, "missing_required_parameter", "prompt"), ({"prompt": []}, "empty_array", "prompt"),
    ({"prompt": 5}, "invalid_type", "prompt"), ({"prompt": [[]]}, ..., ...),
    ({"prompt": [1, -1]}, "invalid_value", ...), ({"prompt": [1, 4096]}, "invalid_value", ...),
    ({"prompt": [[1], ["a"]]}, ..., ...), ({"prompt": [1, "a"]}, ..., ...),
    ({"prompt": ["a"] * 2049}, "array_above_max_length", "prompt"),
    ({"prompt": "a", "logprobs": 6}, "integer_above_max_value", "logprobs"),
    ({"prompt": "a", "suffix": "b"}, "unsupported_parameter", "suffix"),
    ({"prompt": "a", "best_of": 21}, "integer_above_max_value", "best_of"),
    ({"prompt": "a", "best_of": 1, "n": 2}, "invalid_value", "best_of"),
    ({"prompt": "a", "echo": "yes"}, "invalid_type", "echo"),
    ({"prompt": "a", "max_tokens": -1}, "integer_below_min_value", "max_tokens"),
])
def test_bad_completions(server, body, code, param):
    refused(server, "/v1/completions", body, 400, code, param)
    canary(server)


def test_completion_prompts(server):
    for prompt, n in (("Hello", 1), (["Hello", "Once"], 2), ([1, 5, 6], 1), ([[1, 5], [6]], 2)):
        status, _, raw = server.post("/v1/completions", {"prompt": prompt, "max_tokens": 3})
        assert status == 200, raw
        assert [c["index"] for c in json.loads(raw)["choices"]] == list(range(n))


def test_stop_never_leaks(server):
    """For every stop string cut out of the answer: text ends before it, streamed or not."""
    full = server.chat(messages=HI, temperature=0)["choices"][0]["message"]["content"]
    for start in range(0, len(full) - 1, 2):
        for size in (1, 3, 7):
            stop = full[start:start + size]
            want = full.split(stop)[0]
            body = {"messages": HI, "temperature": 0, "stop": [stop, "\u00e9zz"]}
            answer = server.chat(**body)
            choice = answer["choices"][0]
            assert choice["message"]["content"] == want and choice["finish_reason"] == "stop"
            assert choice["stop_reason"] == stop
            events = sse(server.post("/v1/chat/completions", {**body, "stream": True})[2])
            text = "".join(c["delta"].get("content") or "" for e in events[:-1] for c in e["choices"])
            assert text == want


def test_logit_bias_bans_and_forces(server):
    first = server.chat(messages=HI, temperature=0, max_tokens=1, return_token_ids=True)
    token = first["choices"][0]["token_ids"][0]
    banned = server.chat(messages=HI, temperature=0, max_tokens=1, return_token_ids=True,
                         logit_bias={str(token): -100})
    assert banned["choices"][0]["token_ids"][0] != token
    forced = server.chat(messages=HI, temperature=0, max_tokens=4, return_token_ids=True, logit_bias={"500": 100})
    assert forced["choices"][0]["token_ids"] == [500] * 4


def test_cached_tokens_are_told(server):
    long = [{"role": "user", "content": "Remember this: " + "the red boat is on the sea. " * 30}]
    first = server.chat(messages=long, max_tokens=2, temperature=0, cache_salt="fresh-1")
    again = server.chat(messages=long, max_tokens=2, temperature=0, cache_salt="fresh-1")
    other = server.chat(messages=long, max_tokens=2, temperature=0, cache_salt="fresh-2")
    cached = [a["usage"]["prompt_tokens_details"]["cached_tokens"] for a in (first, again, other)]
    assert cached[0] == 0 and cached[1] > 100 and cached[2] == 0
    assert first["choices"] == again["choices"]


def test_n_choices_share_the_prompt(server):
    long = [{"role": "user", "content": "Remember: " + "two cats sat on the mat. " * 30}]
    answer = server.chat(messages=long, n=4, max_tokens=3, cache_salt="n-choices", seed=3, temperature=1)
    assert len(answer["choices"]) == 4
    prompt = answer["usage"]["prompt_tokens"]
    alone = server.chat(messages=long, max_tokens=1)["usage"]["prompt_tokens"]
    assert prompt == alone


def test_every_pair_of_edge_values(server):
    """All pairs of parameters at their edges: never a 5xx, always an answer or a clear error."""
    edges = {
        "temperature": [0, 2], "top_p": [0, 0.001], "top_k": [1, 5000], "min_p": [0, 1], "typical_p": [0.01, 1],
        "repetition_penalty": [0.01, 2], "presence_penalty": [-2, 2], "frequency_penalty": [-2, 2],
        "logprobs": [True], "n": [1, 3], "max_tokens": [1, 3], "seed": [0, -1], "stop": ["e", ["a", "b"]],
        "min_tokens": [0, 3], "ignore_eos": [True], "stream": [True, False], "logit_bias": [{"5": -100}, {"6": 100}],
        "stop_token_ids": [[5, 6, 7]], "skip_special_tokens": [False], "return_token_ids": [True],
    }
    names = list(edges)
    for i, a in enumerate(names):
        for j, b in enumerate(names[i + 1:]):
            body = {"messages": HI, "max_tokens": 3, a: edges[a][j % len(edges[a])], b: edges[b][i % len(edges[b])]}
            status, _, raw = server.post("/v1/chat/completions", body)
            assert status == 200, (body, raw)
    canary(server)
