"""How a chat becomes tokens: Mistral's own encoding by option, templates by file, by name and none."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest
from conftest import BINARY, ROOT, data_path, serving

HELLO = [{"role": "user", "content": "Hello!"}]

TOOL = {"type": "function", "function": {
    "name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {"a": {"type": "number"}}}}}
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}


def prompt_ids(server, **fields):
    fields = {"messages": HELLO, "max_tokens": 1, "return_token_ids": True, **fields}
    return server.chat(**fields)["prompt_token_ids"]


def native_ids(tokenizer, request, version):
    line = json.dumps({"request": {"model": "m", **request}, "mode": "serving"})
    run = subprocess.run([BINARY, "tokenize", "--tokenizer", str(tokenizer), "--mistral-version", version,
                          "--jsonl"], input=line, capture_output=True, text=True, check=True)
    return json.loads(run.stdout)["token_ids"]


def test_mistrals_own_encoding_by_option():
    demo = ROOT / "config/demo"
    chats = [
        {"messages": [{"role": "system", "content": "Be brief."}, *HELLO]},
        {"messages": [*HELLO, {"role": "assistant", "content": "Hi, I", "prefix": True}]},
        {"messages": [*HELLO, {"role": "assistant", "content": "Hi, I"}], "continue_final_message": True},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
        {"messages": [*HELLO, {"role": "assistant", "tool_calls": [CALL]},
                      {"role": "tool", "tool_call_id": "abcdefghi", "content": "4"}], "tools": [TOOL]},
    ]
    with serving("--mistral-native") as server:
        for chat in chats:
            assert prompt_ids(server, **chat) == native_ids(demo, chat, "v3")
        status, _, body = server.post("/v1/chat/completions", {"messages": [
            *HELLO, {"role": "assistant", "content": "Hi."}]})
        error = json.loads(body)["error"]
        assert status == 400 and error["param"] == "messages", body
        assert error["message"].startswith("Expected last role User or Tool")
        status, _, body = server.post("/v1/chat/completions", {"messages": [
            *HELLO, {"role": "assistant", "tool_calls": [CALL]}, *HELLO], "tools": [TOOL]})
        error = json.loads(body)["error"]
        assert status == 400 and error["param"] == "messages", body
        status, _, body = server.post("/apply-template", {"messages": HELLO})
        assert status == 200 and json.loads(body)["prompt"] == "<s>[INST] Hello![/INST]", body
        tokens = json.loads(server.post("/tokenize", {"messages": HELLO})[2])["tokens"]
        assert tokens == prompt_ids(server)


def test_ids_of_calls_from_elsewhere(tmp_path):
    """Conversations begun with another server have its ids: where Mistral's nine characters are
    insisted on, they become such, the same for the same; a fitting id stays."""
    strict = tmp_path / "strict.jinja"
    strict.write_text(
        "{{ bos_token }}{% for m in messages %}[INST]{{ m.content }}[/INST]{% for c in m.tool_calls or [] %}"
        "{% if c.id|length != 9 %}{{ raise_exception('nine') }}{% endif %}<{{ c.id }}>{% endfor %}"
        "{% if m.tool_call_id is defined %}({{ m.tool_call_id }}){% endif %}{% endfor %}{{ tools }}")
    ids = ("call_0123456789abcdefghijklmn", "abcdefghi", "a-b-c-d-e", "toolu_01", "abcdefghj\0i")
    chat = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [{**CALL, "id": i} for i in ids]},
            *({"role": "tool", "tool_call_id": i, "content": "4"} for i in ids)]
    for options in (["--mistral-native"], ["--chat-template", str(strict), "--tool-call-parser", "mistral"]):
        with serving(*options) as server:
            prompt = json.loads(server.post("/apply-template", {"messages": chat})[2])["prompt"]
            assert server.chat(messages=chat, max_tokens=1)
            short = [prompt.count(i) for i in ids]
            assert short == [0, 2, 0, 0, 0], prompt
            if options[0] == "--chat-template":
                calls, results = re.findall(r"<(\w{9})>", prompt), re.findall(r"\((\w{9})\)", prompt)
                assert calls == results and len(set(calls)) == 5


def test_a_final_message_goes_on(server):
    """Mistral's prefix and vLLM's continue_final_message are one thing to a template."""
    def rendered(content, mark, **fields):
        status, _, body = server.post("/apply-template", {"messages": [
            *HELLO, {"role": "assistant", "content": content, **mark}], **fields})
        assert status == 200, body
        return json.loads(body)["prompt"]

    begun = rendered("Hi, I am", {"prefix": True})
    assert begun.endswith("[/INST] Hi, I am") or begun.endswith("[/INST]Hi, I am")
    assert rendered("Hi, I am", {}, continue_final_message=True, add_generation_prompt=False) == begun
    assert rendered("Hi, I am", {"prefix": False}) != begun
    parts = [{"type": "text", "text": "Hi, I am"}]
    assert rendered(parts, {"prefix": True}) == begun


def test_a_checkpoint_as_mistral_ships_it(tmp_path):
    shipped = data_path("weights/stories260K/mistral-native-bf16")
    with serving("--mistral-native", str(shipped)) as server:
        assert prompt_ids(server) == native_ids(shipped, {"messages": HELLO}, "v1")


def test_no_template_is_a_clear_400():
    shipped = data_path("weights/stories260K/mistral-native-bf16")
    with serving(str(shipped)) as server:
        status, _, body = server.post("/v1/chat/completions", {"messages": HELLO})
        error = json.loads(body)["error"]
        assert status == 400 and "no chat template" in error["message"], body
        assert server.post("/v1/completions", {"prompt": "Once", "max_tokens": 2})[0] == 200


def test_templates_by_file_name_and_list(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(data_path("weights/stories260K/hf-f32"), model)
    model.chmod(0o755)
    config_file = model / "tokenizer_config.json"
    config_file.chmod(0o644)
    config = json.loads(config_file.read_text())
    config["chat_template"] = [{"name": "default", "template": "one {{ word }}"},
                               {"name": "long", "template": "one one one {{ word }}"}]
    config_file.write_text(json.dumps(config))
    given = tmp_path / "given.jinja"
    given.write_text("one one {{ messages[0].content }}")
    kwargs = {"chat_template_kwargs": {"word": "two"}}
    with serving(str(model)) as server:
        assert len(prompt_ids(server, **kwargs)) + 2 <= len(
            prompt_ids(server, chat_template_kwargs={"word": "two two two"}))
        plain = prompt_ids(server, **kwargs)
    with serving(str(model), "--chat-template", "long") as server:
        assert len(prompt_ids(server, **kwargs)) > len(plain)
    with serving(str(model), "--chat-template", str(given)) as server:
        assert prompt_ids(server) != plain
    run = subprocess.run([BINARY, "serve", "--quiet", "--port", "0", str(model), "--chat-template", "short"],
                         capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 2 and "no chat template named 'short'" in run.stderr


@pytest.mark.parametrize("broken", ["{% if %}", "{{ 'x' "])
def test_a_broken_template_stops_the_start(tmp_path, broken):
    path = tmp_path / "broken.jinja"
    path.write_text(broken)
    run = subprocess.run([BINARY, "serve", "--quiet", "--port", "0", "--chat-template", str(path)],
                         capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 2 and "line 1, column" in run.stderr
