"""Answers validate against the schemas of the official OpenAPI description."""

from __future__ import annotations

import copy
import json

import jsonschema
import pytest

from conftest import data_path, sse

MESSAGES = [{"role": "user", "content": "Tell me a story about a cat."}]


@pytest.fixture(scope="module")
def schemas():
    with open(data_path("openai/openapi.json"), encoding="utf-8") as f:
        return json.load(f)["components"]["schemas"]


def nullable(schema: dict, *path: str) -> None:
    """Let the property at path be null too, where the description forgets it."""
    for step in path[:-1]:
        schema = schema[step]
    schema[path[-1]] = {"anyOf": [schema[path[-1]], {"type": "null"}]}


def check(schemas: dict, name: str, value, changes=()) -> None:
    schemas = copy.deepcopy(schemas)
    for path in changes:
        nullable(schemas[name], *path)
    jsonschema.Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}}).validate(value)


@pytest.mark.parametrize("fields", [
    {}, {"n": 3}, {"logprobs": True, "top_logprobs": 4}, {"stop": "a"}, {"max_tokens": 1},
    {"temperature": 0, "seed": 3}, {"return_token_ids": True}])
def test_chat_completion(server, schemas, fields):
    answer = server.chat(messages=MESSAGES, **{"max_tokens": 20, **fields})
    check(schemas, "CreateChatCompletionResponse", answer)
    for choice in answer["choices"]:
        assert {"index", "message", "logprobs", "finish_reason"} <= choice.keys()
        assert {"role", "content", "refusal"} <= choice["message"].keys()


@pytest.mark.parametrize("fields", [
    {}, {"n": 2}, {"logprobs": True, "top_logprobs": 2}, {"stream_options": {"include_usage": True}}])
def test_chat_chunks(server, schemas, fields):
    status, headers, body = server.post("/v1/chat/completions", {
        "messages": MESSAGES, "max_tokens": 20, "stream": True, **fields})
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    events = sse(body)
    assert events[-1] == "[DONE]"
    item = ("properties", "choices", "items", "properties")
    for event in events[:-1]:
        check(schemas, "CreateChatCompletionStreamResponse", event, [
            (*item, "finish_reason"), (*item, "logprobs"), ("properties", "usage")])
    assert len({(e["id"], e["created"], e["model"]) for e in events[:-1]}) == 1
    first = events[0]["choices"][0]
    assert first["delta"] == {"role": "assistant", "content": ""} and first["finish_reason"] is None
    if "stream_options" in fields:
        assert all("usage" in e for e in events[:-1])
        assert events[-2]["choices"] == [] and events[-2]["usage"]["completion_tokens"] > 0
        assert all(e["usage"] is None for e in events[:-2])


@pytest.mark.parametrize("fields", [{}, {"n": 2, "logprobs": 3}, {"echo": True, "logprobs": 1}])
def test_completion(server, schemas, fields):
    status, _, body = server.post("/v1/completions", {
        "model": "sirocco-demo", "prompt": "Once upon a time", "max_tokens": 8, **fields})
    assert status == 200, body
    answer = json.loads(body)
    # the description forgets that the first prompt token has no logprob
    logprobs = ("properties", "choices", "items", "properties", "logprobs")
    changes = []
    if "echo" in fields:
        shape = schemas["CreateCompletionResponse"]
        for step in logprobs:
            shape = shape[step]
        inner = shape if "properties" in shape else shape["anyOf"][0]
        base = logprobs if inner is shape else (*logprobs, "anyOf", 0)
        changes = [(*base, "properties", "token_logprobs", "items"),
                   (*base, "properties", "top_logprobs", "items")]
    check(schemas, "CreateCompletionResponse", answer, changes)


def test_models(server, schemas):
    status, _, body = server.get("/v1/models")
    models = json.loads(body)
    assert status == 200
    check(schemas, "ListModelsResponse", models)
    assert models["data"][0]["max_model_len"] == 4096
    check(schemas, "Model", json.loads(server.get("/v1/models/sirocco-demo")[2]))


@pytest.mark.parametrize("path,body,status", [
    ("/v1/chat/completions", b"{", 400), ("/v1/chat/completions", b"{}", 400),
    ("/v1/chat/completions", b'{"model":"x","messages":[{"role":"user","content":"a"}]}', 404),
    ("/v1/nothing", b"{}", 404), ("/v1/models", b"{}", 405)])
def test_errors(server, schemas, path, body, status):
    got, headers, answer = server.post(path, body)
    assert got == status and headers["content-type"].startswith("application/json")
    value = json.loads(answer)
    check(schemas, "ErrorResponse", value)
    assert set(value["error"]) == {"message", "type", "param", "code"}
    assert headers["x-request-id"]
