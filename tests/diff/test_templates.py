"""Our Jinja against Python's, set up as transformers sets it up for chat templates: every template
of SIROCCO_TEST_DATA with every conversation of a matrix, texts equal byte for byte.

The matrix: no, a plain and a two-part system message; with and without tools; users and assistants
with plain, padded, Unicode, empty and multi-part content; tool calls with arguments as an object and
as text, one and two at a time, with results; reasoning as a field and in the text, switched on, off
and neither; the generation prompt asked for or not; the final message continued. Where the template refuses a conversation we
must too, with the same words if they are its own (raise_exception).
"""

from __future__ import annotations

import copy
import datetime
import itertools
import json
import os
import subprocess
from pathlib import Path

import pytest

jinja2 = pytest.importorskip("jinja2")
import jinja2.ext  # noqa: E402
import jinja2.sandbox  # noqa: E402

ROOT = Path(os.environ.get("SIROCCO_ROOT", Path(__file__).resolve().parents[2]))
BINARY = os.environ.get("SIROCCO_BINARY", str(ROOT / "build/sirocco"))
DATA = Path(os.environ.get("SIROCCO_TEST_DATA") or "/nonexistent")
NOW = datetime.datetime(2025, 7, 10, 12, 0, 0)


class Generation(jinja2.ext.Extension):
    """{% generation %}: the body as it stands."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                          sort_keys=sort_keys)

    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = NOW.strftime
    return made


def templates() -> dict[str, str]:
    """Every distinct template below chat-templates."""
    found: dict[str, str] = {}

    def add(name, value):
        if isinstance(value, list):
            for item in value:
                add(f"{name}[{item['name']}]", item["template"])
        elif isinstance(value, str) and value not in found.values():
            found[name] = value

    folder = DATA / "chat-templates"
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix in (".jinja", ".jinja2"):
            add(name, path.read_text(encoding="utf-8"))
        elif path.name == "templates.jsonl":
            for line in path.read_text(encoding="utf-8").splitlines():
                for key, value in json.loads(line).items():
                    add(f"{name}#{key}", value)
        elif path.name == "e2e.json":
            for item in json.loads(path.read_text(encoding="utf-8")):
                add(f"{name}#{item['name']}", item["template"])
        elif path.suffix == ".json":
            whole = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(whole, dict):
                add(name, whole.get("chat_template"))
    return found


CALL = {"id": "abcdef123", "type": "function",
        "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2, "é": [1.5, None, True]}}}
OTHER = {"id": "ghijkl456", "type": "function",
         "function": {"name": "get_time", "arguments": {"zone": "Europe/Paris <b>&'\""}}}
TEXT_CALL = {"id": "abcdef123", "type": "function",
             "function": {"name": "get_weather", "arguments": '{"city": "Paris", "days": 1}'}}
TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "The weather of a city, \"soon\" & <later>.",
        "parameters": {"type": "object", "properties": {
            "city": {"type": "string", "description": "Where"},
            "days": {"type": "integer", "minimum": 0, "default": 1},
            "unit": {"type": "string", "enum": ["C", "F"]},
            "list": {"type": "array", "items": {"type": "number"}}}, "required": ["city"]}}},
    {"type": "function", "function": {
        "name": "get_time", "description": "", "parameters": {"type": "object", "properties": {}}}},
]


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def result(call, content):
    return {"role": "tool", "tool_call_id": call["id"], "name": call["function"]["name"], "content": content}


def parts(*texts):
    return [{"type": "text", "text": t} for t in texts]


TURNS = {
    "single": [user("Hello, who are you?")],
    "multi": [user("Hello"), assistant("Hi!"), user("A joke, please.")],
    "ends_open": [user("Hello"), assistant("Once upon a time")],
    "padded": [user("  a \n"), assistant("\n b\t "), user("\u00a0c\u2028 Привет 🙂 {{ 7*7 }} {% raw %} <s>[INST]")],
    "parts": [user(parts("Part one.", " Part two.")), assistant(parts("Right", "!")), user(parts("Go on."))],
    "call": [user("Weather?"), assistant("", tool_calls=[CALL]), result(CALL, '{"t": 21.5}')],
    "call_null": [user("Weather?"), assistant(None, tool_calls=[CALL]), result(CALL, "21"), assistant("Mild."), user("Thanks")],
    "call_text": [user("Weather?"), assistant("I look.", tool_calls=[TEXT_CALL]), result(TEXT_CALL, "21")],
    "calls": [user("Both?"), assistant("", tool_calls=[CALL, OTHER]), result(CALL, "21"), result(OTHER, "noon"),
              assistant("21 at noon."), user("Again?"), assistant("", tool_calls=[OTHER]), result(OTHER, parts("one", "two"))],
    "reasoning": [user("2+2?"), assistant("4", reasoning_content="Two and two."), user("Sure?")],
    "thinking": [user("2+2?"), assistant("4", thinking="Two and two."), user("Sure?"), assistant("Yes", reasoning="Quite.")],
    "tags": [user("2+2?"), assistant("<think>\nTwo and two.\n</think>\n\n4"), user("Sure?")],
    "chunks": [user("2+2?"), assistant([{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "4"}]), user("Sure?")],
    "two_users": [user("a"), user("b")],
    "assistant_first": [assistant("I start."), user("Why?")],
    "call_thought": [user("Weather?"), assistant("", reasoning_content="Ask first.", tool_calls=[CALL]), result(CALL, "21"),
                     assistant("Mild.", reasoning_content="Told."), user("And the time?"),
                     assistant("<think>\nhm\n</think>\n\nI look.", tool_calls=[OTHER]), result(OTHER, "")],
    "developer": [{"role": "developer", "content": "Speak French."}, user("Hello"), assistant("Bonjour"), user("Oui")],
    "result_last_open": [user("Weather?"), assistant("", tool_calls=[CALL]), result(CALL, "21"), assistant(parts("It", " is "))],
    "empty": [user(""), assistant(""), user(" ")],
    "long": [message for i in range(12) for message in (user(f"Question {i}?\n"), assistant(f"\nAnswer {i}."))] + [user("End")],
}
# What chat_template_kwargs may add: the switches of reasoning models, and what a few templates need.
KWARGS = {
    "-": {},
    "thinks": {"enable_thinking": True, "thinking": True, "reasoning_effort": "high", "date_string": "26 Jul 2024",
               "functions": json.dumps(TOOLS), "datetime": "2025-07-10", "unk_token": "<unk>", "pad_token": "<pad>",
               "tools_in_user_message": True, "preserve_thinking": True},
    "hurries": {"enable_thinking": False, "thinking": False, "reasoning_effort": "none", "builtin_tools": ["code_interpreter", "x"],
                "documents": [{"title": "T", "text": "D\n", "doc_id": 1}], "functions": "", "custom_instructions": "Be.",
                "tools_in_user_message": False, "clear_thinking": False},
}
SYSTEMS = {"none": None, "plain": "You are a pirate.", "parts": parts("Be brief.", "Be kind.")}


def conversations():
    """(name, context, continue_final_message)"""
    for (system, content), (turn, messages), tools, prompt, (more, kwargs) in itertools.product(
            SYSTEMS.items(), TURNS.items(), (None, TOOLS), (True, False), KWARGS.items()):
        whole = ([{"role": "system", "content": content}] if content else []) + messages
        context = {"messages": whole, "tools": tools, "documents": None, "add_generation_prompt": prompt,
                   "bos_token": "<s>", "eos_token": "</s>", **kwargs}
        name = f"{system}/{turn}/{'tools' if tools else '-'}/{'prompt' if prompt else '-'}/{more}"
        yield name, context, False
        if not prompt and messages[-1]["role"] == "assistant":
            yield f"{name}/continued", context, True


OPEN_END = "CONTINUE_FINAL_MESSAGE_TAG "


def marked(context):
    """The context with transformers' mark behind the final message's text, and that text."""
    context = copy.deepcopy(context)
    message = context["messages"][-1]
    if isinstance(message["content"], str):
        text = message["content"]
        message["content"] += OPEN_END
        return context, text
    part = [p for p in message["content"] if "text" in p][-1]
    text = part["text"]
    part["text"] += OPEN_END
    return context, text


def cut(rendered: str, text: str) -> str:
    """What stands before the mark, as transformers cuts it."""
    if text.strip() not in rendered or OPEN_END.strip() not in rendered:
        raise ValueError("the template changed the final message")
    at = rendered.rindex(OPEN_END.strip())
    return rendered[:at] if rendered[at:at + len(OPEN_END)] == OPEN_END else rendered[:at].rstrip()


def reference(template, context, continued):
    try:
        if continued:
            context, text = marked(context)
            return {"text": cut(template.render(**context), text)}
        return {"text": template.render(**context)}
    except jinja2.exceptions.TemplateError as error:
        own = type(error) is jinja2.exceptions.TemplateError
        return {"error": str(error) if own else None}
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        return {"error": None, "was": str(error)}


def ours(source: str, cases, folder: Path):
    path = folder / "template.jinja"
    path.write_bytes(source.encode())
    lines = "".join(json.dumps({"context": c, "continue_final_message": open_}) + "\n" for _, c, open_ in cases)
    run = subprocess.run([BINARY, "render", "--template", str(path), "--now", NOW.isoformat(), "--jsonl"],
                         input=lines, capture_output=True, text=True, timeout=120,
                         env={**os.environ, "TZ": "UTC"})
    assert run.returncode == 0, run.stderr
    answers = [json.loads(line) for line in run.stdout.split("\n") if line]
    assert len(answers) == len(cases)
    return answers


def differs(want, got) -> bool:
    if "text" in want:
        return want["text"] != got.get("text")
    return "error" not in got or (want["error"] is not None and want["error"] != got["message"])


@pytest.mark.timeout(600)
def test_templates_render_as_in_jinja2(tmp_path):
    if not (DATA / "chat-templates").is_dir():
        pytest.skip("chat-templates: SIROCCO_TEST_DATA is not set or lacks it")
    cases = list(conversations())
    found, env, wrong, refused = templates(), environment(), [], 0
    for name, source in found.items():
        template = env.from_string(source)
        for (case, context, continued), got in zip(cases, ours(source, cases, tmp_path), strict=True):
            want = reference(template, context, continued)
            refused += "error" in want
            if differs(want, got):
                wrong.append(f"{name} with {case}:\n  want {json.dumps(want)[-400:]}\n  got  {json.dumps(got)[-400:]}")
    print(f"{len(found)} templates, {len(cases)} conversations, {len(found) * len(cases)} renders "
          f"({refused} refused by both), {len(wrong)} differences")
    assert len(found) >= 120
    assert not wrong, f"{len(wrong)} differences, the first:\n" + "\n".join(wrong[:20])
