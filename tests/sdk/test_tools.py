"""Tool calls with the official openai package: the whole loop against the demo model, which was
trained for it, streamed and not, sync and async."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest

from conftest import sse
from test_openapi import check, schemas  # noqa: F401 (a fixture)

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Get the current weather in a given location",
    "parameters": {"type": "object", "properties": {
        "location": {"type": "string", "description": "The city"}}, "required": ["location"]}}}
TIMER = {"type": "function", "function": {
    "name": "set_timer", "description": "Set a timer", "parameters": {
        "type": "object", "properties": {"minutes": {"type": "integer"}}, "required": ["minutes"]}}}
PARIS = [{"role": "user", "content": "What is the weather in Paris?"}]
BOTH = [{"role": "user", "content": "What is the weather in Rome and Oslo?"}]
RESULT = '{"temperature": 21, "condition": "sunny"}'
ANSWER = "It is 21 degrees and sunny in Paris."
HOW = {"model": "sirocco-demo", "temperature": 0}


@pytest.fixture()
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as made:
        yield made


def called(message) -> list[tuple[str, dict]]:
    return [(c.function.name, json.loads(c.function.arguments)) for c in message.tool_calls or []]


def accumulate(chunks):
    """Content, calls by index and finish reason of a stream, joined as the SDK joins deltas."""
    content, calls, finish = "", {}, None
    for chunk in chunks:
        for choice in chunk.choices:
            content += choice.delta.content or ""
            finish = choice.finish_reason or finish
            for delta in choice.delta.tool_calls or []:
                if delta.index not in calls:
                    assert delta.id and delta.type == "function" and delta.function.name
                    calls[delta.index] = {"id": delta.id, "name": delta.function.name, "parts": []}
                else:
                    assert delta.id is None and delta.function.name is None and delta.type is None
                calls[delta.index]["parts"].append(delta.function.arguments)
    return content, calls, finish


def test_tool_loop(client):
    first = client.chat.completions.create(**HOW, messages=PARIS, tools=[WEATHER])
    choice = first.choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    assert called(choice.message) == [("get_weather", {"location": "Paris"})]
    call = choice.message.tool_calls[0]
    assert len(call.id) == 9 and call.id.isdigit() and call.type == "function"
    second = client.chat.completions.create(**HOW, tools=[WEATHER], messages=[
        *PARIS, choice.message, {"role": "tool", "tool_call_id": call.id, "content": RESULT}])
    assert second.choices[0].message.content == ANSWER
    assert second.choices[0].finish_reason == "stop" and not second.choices[0].message.tool_calls


def test_tool_loop_streamed(client):
    """The same with the SDK's own accumulator: equal to the whole answers."""
    with client.chat.completions.stream(**HOW, messages=PARIS, tools=[WEATHER]) as stream:
        done = [e for e in stream if e.type == "tool_calls.function.arguments.done"]
        final = stream.get_final_completion()
    assert [(e.name, json.loads(e.arguments)) for e in done] == [("get_weather", {"location": "Paris"})]
    whole = client.chat.completions.create(**HOW, messages=PARIS, tools=[WEATHER]).choices[0]
    message = final.choices[0].message
    assert message.content is None and whole.message.content is None
    assert final.choices[0].finish_reason == whole.finish_reason == "tool_calls"
    assert [(c.function.name, c.function.arguments) for c in message.tool_calls] == \
        [(c.function.name, c.function.arguments) for c in whole.message.tool_calls]
    call = message.tool_calls[0]
    history = [*PARIS, {"role": "assistant", "tool_calls": [
        {"id": call.id, "type": "function", "function": {
            "name": call.function.name, "arguments": call.function.arguments}}]},
        {"role": "tool", "tool_call_id": call.id, "content": RESULT}]
    with client.chat.completions.stream(**HOW, messages=history, tools=[WEATHER]) as stream:
        stream.until_done()
        assert stream.get_final_completion().choices[0].message.content == ANSWER


def test_two_calls_in_order(client):
    whole = client.chat.completions.create(**HOW, messages=BOTH, tools=[WEATHER, TIMER])
    wanted = [("get_weather", {"location": "Rome"}), ("get_weather", {"location": "Oslo"})]
    assert called(whole.choices[0].message) == wanted
    assert len({c.id for c in whole.choices[0].message.tool_calls}) == 2
    content, calls, finish = accumulate(client.chat.completions.create(
        **HOW, messages=BOTH, tools=[WEATHER, TIMER], stream=True))
    assert content == "" and finish == "tool_calls" and list(calls) == [0, 1]
    assert [(c["name"], json.loads("".join(c["parts"]))) for c in calls.values()] == wanted
    assert all(c["parts"][0] == "" and len(c["parts"]) > 3 for c in calls.values())  # not buffered
    one = client.chat.completions.create(**HOW, messages=BOTH, tools=[WEATHER, TIMER],
                                         parallel_tool_calls=False)
    assert called(one.choices[0].message) == wanted[:1]


def test_async(server):
    async def ask():
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none") as client:
            whole = await client.chat.completions.create(**HOW, messages=PARIS, tools=[WEATHER])
            async with client.chat.completions.stream(**HOW, messages=PARIS, tools=[WEATHER]) as stream:
                return whole.choices[0].message, (await stream.get_final_completion()).choices[0].message

    whole, streamed = asyncio.run(ask())
    assert called(whole) == called(streamed) == [("get_weather", {"location": "Paris"})]


def test_no_call_where_none_is_needed(client):
    question = [{"role": "user", "content": "What is the capital of Spain?"}]
    for choice in ("auto", "none", {"type": "allowed_tools", "allowed_tools": {
            "mode": "auto", "tools": [{"type": "function", "function": {"name": "set_timer"}}]}}):
        answer = client.chat.completions.create(**HOW, messages=question, tools=[WEATHER, TIMER],
                                                tool_choice=choice)
        assert answer.choices[0].message.content == "The capital of Spain is Madrid."
        assert answer.choices[0].message.tool_calls is None


def test_none_hides_the_tools(client):
    def tokens(**more):
        return client.chat.completions.create(**HOW, messages=PARIS, max_tokens=1, **more).usage.prompt_tokens

    assert tokens(tools=[WEATHER], tool_choice="none") == tokens() < tokens(tools=[WEATHER])


def test_functions(client):
    how = {**HOW, "messages": PARIS, "functions": [WEATHER["function"]]}
    choice = client.chat.completions.create(**how).choices[0]
    assert choice.finish_reason == "function_call" and choice.message.tool_calls is None
    assert choice.message.function_call.name == "get_weather"
    assert json.loads(choice.message.function_call.arguments) == {"location": "Paris"}
    name = arguments = ""
    for chunk in client.chat.completions.create(**how, stream=True):
        call = chunk.choices[0].delta.function_call
        name += (call and call.name) or ""
        arguments += (call and call.arguments) or ""
    assert (name, arguments) == ("get_weather", choice.message.function_call.arguments)
    answer = client.chat.completions.create(**{**how, "messages": [
        *PARIS, {"role": "assistant", "content": None, "function_call": {
            "name": name, "arguments": arguments}},
        {"role": "function", "name": name, "content": RESULT}]})
    assert answer.choices[0].message.content == ANSWER


def test_cut_off_call(client):
    cut = client.chat.completions.create(**HOW, messages=PARIS, tools=[WEATHER], max_tokens=18).choices[0]
    whole = client.chat.completions.create(**HOW, messages=PARIS, tools=[WEATHER]).choices[0]
    assert cut.finish_reason == "length"
    begun = cut.message.tool_calls[0].function.arguments
    assert begun and whole.message.tool_calls[0].function.arguments.startswith(begun)


def test_stop_string_ends_a_call(client):
    answer = client.chat.completions.create(**HOW, messages=PARIS, tools=[WEATHER], stop="Par")
    call = answer.choices[0].message.tool_calls[0].function
    assert answer.choices[0].finish_reason == "stop" and call.arguments.endswith('"')
    assert "Par" not in call.arguments


def test_logprobs_and_ids_cover_every_token(server):
    fields = {"messages": PARIS, "tools": [WEATHER], "temperature": 0, "logprobs": True,
              "return_token_ids": True}
    whole = server.chat(**fields)
    status, _, body = server.post("/v1/chat/completions", {**fields, "stream": True})
    chunks = [e["choices"][0] for e in sse(body)[:-1]]
    logprobs = [entry for c in chunks if c["logprobs"] for entry in c["logprobs"]["content"]]
    ids = [i for c in chunks for i in c.get("token_ids", [])]
    assert status == 200 and len(ids) == whole["usage"]["completion_tokens"]
    assert ids == whole["choices"][0]["token_ids"]
    assert logprobs == whole["choices"][0]["logprobs"]["content"]


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"n": 2, "temperature": 0.7, "seed": 7}])
@pytest.mark.parametrize("messages", [PARIS, BOTH])
def test_schemas(server, schemas, messages, fields):  # noqa: F811
    request = {"messages": messages, "tools": [WEATHER, TIMER], "temperature": 0, **fields}
    status, _, body = server.post("/v1/chat/completions", request)
    assert status == 200, body
    if "stream" not in fields:
        answer = json.loads(body)
        assert any(c["message"].get("tool_calls") for c in answer["choices"])
        check(schemas, "CreateChatCompletionResponse", answer)
        return
    item = ("properties", "choices", "items", "properties")
    for event in sse(body)[:-1]:
        check(schemas, "CreateChatCompletionStreamResponse", event, [
            (*item, "finish_reason"), (*item, "logprobs"), ("properties", "usage")])


def test_whole_calls_in_streams():
    """--tool-call-stream whole: what Mistral's clients need of each delta (a call with its name and
    all arguments), and what OpenAI's client reads as well."""
    from conftest import serving
    with serving("--tool-call-stream", "whole") as server:
        body = {"messages": BOTH, "tools": [WEATHER, TIMER], "temperature": 0}
        whole = server.chat(**body)["choices"][0]
        events = sse(server.post("/v1/chat/completions", {**body, "stream": True})[2])
        deltas = [e["choices"][0]["delta"].get("tool_calls") for e in events[:-1]]
        (calls,) = [d for d in deltas if d]
        assert [c["index"] for c in calls] == [0, 1] and all(c["id"] for c in calls)
        assert [c["function"] for c in calls] == [c["function"] for c in whole["message"]["tool_calls"]]
        assert events[-2]["choices"][0]["finish_reason"] == "tool_calls"
        with openai.OpenAI(base_url=server.url + "/v1", api_key="none") as client:
            with client.chat.completions.stream(**HOW, messages=BOTH, tools=[WEATHER, TIMER]) as stream:
                final = stream.get_final_completion()
        assert called(final.choices[0].message) == [
            ("get_weather", {"location": "Rome"}), ("get_weather", {"location": "Oslo"})]


def test_template_without_tools(tmp_path):
    from conftest import Server
    template = tmp_path / "plain.jinja"
    template.write_text("{{ bos_token }}{% for m in messages %}[INST] {{ m.content }}[/INST]{% endfor %}")
    server = Server("--chat-template", str(template))
    try:
        status, _, body = server.post("/v1/chat/completions", {"messages": PARIS, "tools": [WEATHER]})
        error = json.loads(body)["error"]
        assert status == 400 and error["param"] == "tools" and error["code"] == "unsupported_parameter"
    finally:
        server.close()


def test_reasoning_opened_by_the_template(tmp_path):
    """The prompt ends with <think>: all of the answer is reasoning until the model closes it."""
    from conftest import Server
    template = tmp_path / "think.jinja"
    template.write_text("{{ bos_token }}{% for m in messages %}[INST] {{ m.content }}[/INST]{% endfor %}"
                        "{% if add_generation_prompt %}<think>\n{% endif %}")
    server = Server("--chat-template", str(template))
    try:
        whole = server.chat(messages=PARIS, temperature=0, max_tokens=12)
        message = whole["choices"][0]["message"]
        assert message["reasoning_content"] and message["content"] is None
        assert whole["usage"]["completion_tokens_details"]["reasoning_tokens"] == \
            whole["usage"]["completion_tokens"]
        _, _, body = server.post("/v1/chat/completions", {
            "messages": PARIS, "temperature": 0, "max_tokens": 12, "stream": True})
        deltas = [e["choices"][0]["delta"] for e in sse(body)[:-1]]
        assert "".join(d.get("reasoning_content", "") for d in deltas) == message["reasoning_content"]
        assert not any(d.get("content") for d in deltas)
        # and the message goes back as it came: nothing said, null as content
        server.chat(messages=[*PARIS, message, {"role": "user", "content": "Go on"}], max_tokens=1)
    finally:
        server.close()
