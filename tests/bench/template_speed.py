#!/usr/bin/env python3
"""Chat templates, ours beside Python's Jinja2 and transformers' renderer: renders per second of CPU on
one thread, the best of three rounds, with the texts compared.

    make test-binaries && tests/bench/template_speed.py TEMPLATE...

TEMPLATE is a .jinja file. Jinja2: the compiled template's render(**context), set up as transformers
does. transformers: render_jinja_template, which is apply_chat_template without the tokenizer. Ours
starts from the request's JSON values. All three have parsed the template before the clock starts.
Conversations: a greeting; 24 turns; tools with two calls and their results. A dash: the template
refuses the conversation. Needs jinja2; the last column needs transformers.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/diff"))
from test_templates import TURNS, TOOLS, environment, user  # noqa: E402

try:
    from transformers.utils.chat_template_utils import render_jinja_template
except ImportError:
    render_jinja_template = None

RENDER = ROOT / "build/tests/bench/render"
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
CONVERSATIONS = {
    "greeting": ([SYSTEM, user("Hello, who are you?")], None),
    "24 turns": ([SYSTEM, *TURNS["long"]], None),
    "tools": ([SYSTEM, user("Weather and time?"), *TURNS["calls"][1:4]], TOOLS),
}


def per_second(call, rounds: int = 3, seconds: float = 0.1) -> float:
    best = 0.0
    for _ in range(rounds):
        start, n, spent = time.process_time(), 0, 0.0
        while spent < seconds:
            for _ in range(4):
                call()
            n += 4
            spent = time.process_time() - start
        best = max(best, n / spent)
    return best


def context_of(messages, tools) -> dict:
    return {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": True,
            "bos_token": "<s>", "eos_token": "</s>"}


def ours(path: str, contexts: list) -> list:
    lines = "".join(json.dumps(context) + "\n" for context in contexts)
    run = subprocess.run([RENDER, path], input=lines, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in run.stdout.split("\n") if line]


def theirs(template, source: str, context: dict):
    """(text, Jinja2's renders per second, transformers'); text None: refused."""
    try:
        text = template.render(**context)
    except Exception:  # noqa: BLE001: refused, whatever it raises
        return None, 0.0, 0.0
    whole = 0.0
    if render_jinja_template:
        rest = {k: v for k, v in context.items() if k not in ("messages", "tools")}
        whole = per_second(lambda: render_jinja_template(
            conversations=[context["messages"]], tools=context["tools"], chat_template=source, **rest))
    return text, per_second(lambda: template.render(**context)), whole


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    contexts = [context_of(*of) for of in CONVERSATIONS.values()]
    print(f"{'template':44} {'conversation':12} {'bytes':>6} {'ours/s':>8} {'Jinja2/s':>9} {'ratio':>6} "
          f"{'transformers/s':>14} {'ratio':>6} same")
    ratios, others = [], []
    for path in sys.argv[1:]:
        source = Path(path).read_text(encoding="utf-8")
        template = environment().from_string(source)
        for name, context, got in zip(CONVERSATIONS, contexts, ours(path, contexts), strict=True):
            text, jinja, whole = theirs(template, source, context)
            if text is None or "text" not in got:
                print(f"{Path(path).stem[:44]:44} {name:12} {'-':>6} {'':48} {(text is None) == ('error' in got)}")
                continue
            ratios.append(got["per_s"] / jinja)
            if whole:
                others.append(got["per_s"] / whole)
            print(f"{Path(path).stem[:44]:44} {name:12} {len(text.encode()):6} {got['per_s']:8.0f} {jinja:9.0f} "
                  f"{ratios[-1]:6.1f} {whole:14.0f} {others[-1] if whole else 0:6.1f} {text == got['text']}")
    for who, of in (("Jinja2", ratios), ("transformers", others)):
        if of:
            mean = math.exp(sum(map(math.log, of)) / len(of))
            print(f"{len(of)} rows against {who}: {min(of):.1f} to {max(of):.1f} times as fast, geometric mean {mean:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
