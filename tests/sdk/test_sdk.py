"""The official openai package, sync and async, against a real server."""

from __future__ import annotations

import asyncio
import time

import openai
import pytest

from conftest import serving

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture()
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as made:
        yield made


def collect(stream):
    """Per choice: text and finish reason; and the usage of a chat stream."""
    texts, finishes, usage, roles = {}, {}, None, {}
    for chunk in stream:
        if chunk.usage:
            assert chunk.choices == []
            usage = chunk.usage
        for choice in chunk.choices:
            texts.setdefault(choice.index, "")
            texts[choice.index] += choice.delta.content or ""
            if choice.delta.role:
                roles[choice.index] = choice.delta.role
            if choice.finish_reason:
                assert choice.index not in finishes
                finishes[choice.index] = choice.finish_reason
    return texts, finishes, usage, roles


def test_models(client):
    models = client.models.list().data
    assert [m.id for m in models] == ["sirocco-demo"]
    assert client.models.retrieve("sirocco-demo").id == "sirocco-demo"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nothing")
    assert caught.value.code == "model_not_found"


def test_chat(client):
    answer = client.chat.completions.create(model="sirocco-demo", messages=QUESTION, temperature=0)
    choice = answer.choices[0]
    assert choice.message.content == "The capital of France is Paris."
    assert choice.message.role == "assistant" and choice.finish_reason == "stop"
    assert answer.usage.prompt_tokens == 11 and answer.usage.completion_tokens == 9
    assert answer.usage.total_tokens == 20
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    assert abs(answer.created - time.time()) < 100


def test_chat_stream_with_usage(client):
    whole = client.chat.completions.create(model="default", messages=QUESTION, temperature=0)
    stream = client.chat.completions.create(model="sirocco-demo", messages=QUESTION, temperature=0,
                                            stream=True, stream_options={"include_usage": True})
    texts, finishes, usage, roles = collect(stream)
    assert texts == {0: whole.choices[0].message.content}
    assert finishes == {0: "stop"} and roles == {0: "assistant"}
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens >= 0


def test_three_choices(client):
    story = [{"role": "user", "content": "Tell me a story about a fox."}]
    how = {"model": "sirocco-demo", "messages": story, "n": 3, "temperature": 1.0, "seed": 5,
           "max_tokens": 40}
    answer = client.chat.completions.create(**how)
    assert [c.index for c in answer.choices] == [0, 1, 2]
    assert len({c.message.content for c in answer.choices}) > 1
    texts, finishes, _, _ = collect(client.chat.completions.create(**how, stream=True))
    assert texts == {c.index: c.message.content for c in answer.choices}
    assert set(finishes) == {0, 1, 2}
    assert answer.usage.completion_tokens <= 120


def test_seed_twice_equal(client):
    how = {"model": "sirocco-demo", "temperature": 1.2, "max_tokens": 60,
           "messages": [{"role": "user", "content": "Tell me a story."}]}
    texts = [client.chat.completions.create(**how, seed=seed).choices[0].message.content
             for seed in (7, 7, 8, 9, 10)]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 2


def test_logprobs(client):
    answer = client.chat.completions.create(model="sirocco-demo", messages=QUESTION, temperature=0,
                                            logprobs=True, top_logprobs=5)
    entries = answer.choices[0].logprobs.content
    text = b"".join(bytes(e.bytes or []) for e in entries).decode()
    assert text.strip() == answer.choices[0].message.content
    for entry in entries:
        assert len(entry.top_logprobs) == 5
        assert entry.top_logprobs[0].logprob == pytest.approx(entry.logprob, abs=1e-6)
        assert all(a.logprob >= b.logprob for a, b in zip(entry.top_logprobs, entry.top_logprobs[1:]))
        assert -30 < entry.logprob <= 0


def test_stop(client):
    full = client.chat.completions.create(model="sirocco-demo", messages=QUESTION, temperature=0)
    text = full.choices[0].message.content
    for stop in (" of", "France", "e is P", [" Par", "zzz"], "The"):
        first = min((text.find(s) for s in ([stop] if isinstance(stop, str) else stop) if s in text))
        answer = client.chat.completions.create(model="sirocco-demo", messages=QUESTION, temperature=0,
                                                stop=stop)
        assert answer.choices[0].message.content == text[:first]
        assert answer.choices[0].finish_reason == "stop"
        texts, _, _, _ = collect(client.chat.completions.create(
            model="sirocco-demo", messages=QUESTION, temperature=0, stop=stop, stream=True))
        assert texts[0] == text[:first]


def test_completions(client):
    answer = client.completions.create(model="sirocco-demo", prompt="Once upon a time", max_tokens=12,
                                       temperature=0)
    assert answer.object == "text_completion" and answer.choices[0].finish_reason in ("length", "stop")
    assert 1 <= answer.usage.completion_tokens <= 12
    streamed = "".join(c.choices[0].text for c in client.completions.create(
        model="sirocco-demo", prompt="Once upon a time", max_tokens=12, temperature=0, stream=True)
        if c.choices)
    assert streamed == answer.choices[0].text


def test_completions_batch_ids_echo_logprobs(client):
    both = client.completions.create(model="sirocco-demo", prompt=["Hello", "Once upon a time"],
                                     max_tokens=5, temperature=0, n=2)
    assert [c.index for c in both.choices] == [0, 1, 2, 3]
    assert both.choices[0].text == both.choices[1].text  # greedy: the n choices are equal
    echo = client.completions.create(model="sirocco-demo", prompt="Once upon a time", max_tokens=0,
                                     echo=True, logprobs=2)
    logprobs = echo.choices[0].logprobs
    assert echo.choices[0].text == "Once upon a time"
    assert logprobs.token_logprobs[0] is None
    assert all(-40 < value <= 0 for value in logprobs.token_logprobs[1:])
    assert len(logprobs.tokens) == len(logprobs.text_offset) == len(logprobs.token_logprobs)
    ids = client.completions.create(model="sirocco-demo", prompt=[1, 3, 402, 304], max_tokens=3,
                                    temperature=0)
    assert ids.usage.prompt_tokens == 4


def test_error_classes(server, client):
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-nothing", messages=QUESTION)
    assert missing.value.code == "model_not_found"
    assert "'gpt-nothing'" in str(missing.value) and "'sirocco-demo'" in str(missing.value)
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model="sirocco-demo",
                                       messages=[{"role": "user", "content": "word " * 9000}])
    assert long.value.code == "context_length_exceeded"
    assert "4096" in str(long.value) and long.value.param == "messages"
    with pytest.raises(openai.BadRequestError) as hot:
        client.chat.completions.create(model="sirocco-demo", messages=QUESTION, temperature=3)
    assert hot.value.param == "temperature"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="sirocco-demo", messages=QUESTION,
                                       response_format={"type": "json_object"})
    with pytest.raises(openai.BadRequestError) as strict:
        client.chat.completions.create(model="sirocco-demo", messages=QUESTION, tools=[
            {"type": "function", "function": {"name": "f", "strict": True, "parameters": {}}}])
    assert strict.value.param == "tools[0].function.strict"
    assert "Leave 'strict' out" in str(strict.value)


def test_authentication():
    with serving("--api-key", "right", "--api-key", "second") as server:
        for key in ("right", "second"):
            with openai.OpenAI(base_url=server.url + "/v1", api_key=key) as client:
                assert client.models.list().data
        for key in ("wrong", "righ", "rightt"):
            with openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0) as client, \
                    pytest.raises(openai.AuthenticationError) as caught:
                client.models.list()
            assert caught.value.code == "invalid_api_key"
        assert server.get("/health")[0] == 200
        assert server.get("/ready")[0] == 200
        for path in ("/v1/models", "/metrics", "/version", "/nothing"):
            assert server.get(path)[0] == 401, path


def test_overload_is_retried():
    """A full queue answers 503 with Retry-After, and the SDK's own retry succeeds."""
    with serving("--max-seqs", "1", "--max-queue", "1") as server:
        with openai.OpenAI(base_url=server.url + "/v1", api_key="k", max_retries=0) as client:
            story = [{"role": "user", "content": "Tell me a long story."}]
            how = {"model": "default", "messages": story, "max_tokens": 2000,
                   "extra_body": {"ignore_eos": True}}
            running = client.chat.completions.create(**how, stream=True)
            next(iter(running))
            waiting = client.chat.completions.create(**how, stream=True)
            with pytest.raises(openai.InternalServerError) as caught:
                while True:  # the first may not have been admitted yet
                    client.chat.completions.create(**how, stream=True)
            assert caught.value.status_code == 503
            assert int(caught.value.response.headers["retry-after"]) >= 1
            running.close()
            waiting.close()
        with openai.OpenAI(base_url=server.url + "/v1", api_key="k", max_retries=5) as client:
            assert client.chat.completions.create(model="default", messages=QUESTION).choices


def test_cancel_frees_blocks(server, client):
    how = {"model": "sirocco-demo", "max_tokens": 3000, "extra_body": {"ignore_eos": True},
           "messages": [{"role": "user", "content": "Tell me a long story about the sea."}]}
    stream = client.chat.completions.create(**how, stream=True)
    for i, _ in enumerate(stream):
        if i == 5:
            break
    assert server.metric("sirocco_kv_blocks_used") > 0
    stream.close()
    start = time.monotonic()
    server.wait_idle()
    assert time.monotonic() - start < 2


async def _many(url):
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="k") as client:
        async def one(i):
            text = ""
            stream = await client.chat.completions.create(
                model="sirocco-demo", temperature=0, stream=True,
                messages=[{"role": "user", "content": f"What is {i} plus {i + 1}?"}])
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
            whole = await client.chat.completions.create(
                model="sirocco-demo", temperature=0,
                messages=[{"role": "user", "content": f"What is {i} plus {i + 1}?"}])
            return text, whole.choices[0].message.content
        return await asyncio.gather(*(one(i) for i in range(24)))


def test_async_streams_equal_whole_answers(server):
    for streamed, whole in asyncio.run(_many(server.url)):
        assert streamed == whole and streamed


async def _cancelled(url):
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="k") as client:
        task = asyncio.create_task(client.chat.completions.create(
            model="sirocco-demo", max_tokens=3500, extra_body={"ignore_eos": True},
            messages=[{"role": "user", "content": "Tell me a story."}]))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_async_cancel_of_an_unstreamed_answer_frees_blocks(server):
    asyncio.run(_cancelled(server.url))
    start = time.monotonic()
    server.wait_idle()
    assert time.monotonic() - start < 2
