#!/usr/bin/env python3
"""Check the style of the house. Runs as a test; prints `N passed, N failed, N skipped` last.

Checks: file and function lengths (with a ratchet), include directions, banned calls, where atomics
and allocation may stand, opening comments, prefixes of exported names, that each kernel op has its
files and tests, and that default.conf and the README agree with the tables in the code.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES, FUNCTION_LINES, COLUMNS = 700, 70, 100

# The ratchet: what is longer today, with its length; it may shrink, never grow.
LONG_FUNCTIONS: dict[str, int] = {}

# folder -> first words of quoted includes that it may use
MAY_INCLUDE = {
    "server": ("server/", "engine/", "config/"),
    "engine": ("engine/", "kernels/kernels.h", "kernels/quant.h",
               "kernels/quantize.h", "kernels/kv_cache.h"),
    "kernels": ("kernels/",),
    "config": ("config/",),
}
# header of a library -> files that may include it
LIBRARY_HEADERS = {
    "microhttpd.h": ("server/http",),
    "uv.h": ("server/main.c", "server/serve.c", "server/http", "server/prep.c", "server/serve"),
    "jansson.h": ("server/", "engine/"),
    "sentencepiece_processor.h": ("engine/tokenizer/spm.cc",),
    "cblas.h": ("kernels/cpu/",),
}
BANNED = {
    "strcpy": "memcpy or snprintf", "strcat": "snprintf or buf.h", "sprintf": "snprintf",
    "vsprintf": "vsnprintf", "atoi": "strtol with checks", "atol": "strtol", "atof": "strtod",
    "strtok": "strcspn", "gets": "fgets", "alloca": "a fixed array", "rand": "sample.c's Philox",
    "system": "nothing", "popen": "nothing",
}
# call -> files that may use it
ONLY_IN = {
    r"getenv|secure_getenv": ("config/",),
    r"printf|puts|putchar": ("server/main", "server/serve", "config/config"),
    r"exit|_exit|abort|_Exit|quick_exit": ("server/main.c", "server/serve", "engine/base/err.c"),
}
ATOMICS = ("engine/mailbox.c", "kernels/cpu/pool.c", "engine/base/log.c")
# Exported names that may differ from their file's prefix: folder or file -> prefixes
PREFIXES = {
    "engine/tokenizer/": ("tokenizer_", "token_list_", "spm_", "bpe_", "pieces_"),
    "engine/template/": ("template_", "chat_", "value_", "jinja_"),
    "kernels/cpu/": ("cpu_", "pool_", "kernels_cpu"),
    "kernels/plugin": ("kernels_plugin",),
    "engine/weights": ("weights_",),
}

problems: list[str] = []
checks = 0


def report(path: Path | str, line: int, text: str) -> None:
    where = path.relative_to(ROOT) if isinstance(path, Path) else path
    problems.append(f"{where}:{line}: {text}")


def strip(text: str) -> str:
    """C source without comments, strings and character constants (lines are kept)."""
    def blank(match: re.Match) -> str:
        return re.sub(r"[^\n]", " ", match.group(0))
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', blank, text,
                  flags=re.S)


def functions(code: str):
    """(name, first line, last line, is static) of each function definition in stripped code."""
    lines = code.split("\n")
    for match in re.finditer(r"^\{\s*$", code, flags=re.M):
        start = code.count("\n", 0, match.start())
        head, first = [], start - 1
        while first >= 0 and lines[first].strip() and not lines[first].rstrip().endswith((";", "}")) \
                and not lines[first].startswith("#"):
            head.insert(0, lines[first])
            first -= 1
        text = " ".join(head)
        name = re.search(r"(\w+)\s*\(", text)
        if not name or re.match(r"\s*(struct|enum|union|typedef)\s+\w*\s*$", text) or "=" in text.split("(")[0]:
            continue
        end = start
        while end < len(lines) and not lines[end].startswith("}"):
            end += 1
        yield name.group(1), first + 2, end + 1, bool(re.search(r"\bstatic\b|\b[A-Z]+_INLINE\b|\bINLINE\b", text))


def product_files() -> list[Path]:
    return sorted(p for folder in MAY_INCLUDE for p in (ROOT / folder).rglob("*")
                  if p.suffix in (".c", ".h", ".cc", ".cu", ".cuh"))


def check_lines(path: Path, text: str, code: str) -> None:
    name = str(path.relative_to(ROOT))
    lines = text.split("\n")
    if len(lines) - 1 > FILE_LINES:
        report(path, len(lines), f"{len(lines) - 1} lines; split before {FILE_LINES}")
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMNS:
            report(path, number, f"{len(line)} columns; {COLUMNS} at most")
        if "\t" in line:
            report(path, number, "a tab")
        if line != line.rstrip():
            report(path, number, "space at the end of the line")
    if not text.lstrip().startswith("/*"):
        report(path, 1, "the file does not open with its comment")
    if name.startswith("kernels/c") or name == "engine/forward.c":
        return
    for function, first, last, _ in functions(code):
        length = last - first + 1
        if length > max(FUNCTION_LINES, LONG_FUNCTIONS.get(f"{name}:{function}", 0)):
            report(path, first, f"{function} has {length} lines; {FUNCTION_LINES} at most")


def check_includes(path: Path, text: str) -> None:
    name = str(path.relative_to(ROOT))
    folder = name.split("/")[0]
    for number, line in enumerate(text.split("\n"), 1):
        quoted = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
        if quoted and not quoted.group(1).startswith(MAY_INCLUDE[folder]):
            report(path, number, f"{folder}/ may not include {quoted.group(1)}")
        library = re.match(r"\s*#\s*include\s+<([^>]+)>", line)
        if not library:
            continue
        header = library.group(1)
        if header in LIBRARY_HEADERS and not name.startswith(LIBRARY_HEADERS[header]):
            report(path, number, f"{header} may be included by {', '.join(LIBRARY_HEADERS[header])} alone")
        if header.startswith(("cuda", "cublas", "nccl")) and not name.startswith("kernels/cuda/"):
            report(path, number, f"{header} outside kernels/cuda")
        if header in ("stdatomic.h", "atomic") and name not in ATOMICS:
            report(path, number, f"atomics belong to {', '.join(ATOMICS)}")


def check_calls(path: Path, code: str) -> None:
    name = str(path.relative_to(ROOT))
    for number, line in enumerate(code.split("\n"), 1):
        for call, instead in BANNED.items():
            if re.search(rf"(?<![\w.>]){call}\s*\(", line):
                report(path, number, f"{call} is banned: {instead}")
        for calls, where in ONLY_IN.items():
            found = re.search(rf"(?<![\w.>])({calls})\s*\(", line)
            if found and not name.startswith(where):
                report(path, number, f"{found.group(1)} belongs to {', '.join(where)}")
        if re.search(r"\bpthread_mutex_lock\b|\b__atomic_|\b__sync_", line) and name not in ATOMICS:
            report(path, number, f"locks and atomics belong to {', '.join(ATOMICS)}")


def check_names(path: Path, code: str) -> None:
    if path.suffix != ".c":
        return
    name = str(path.relative_to(ROOT))
    prefixes = [path.stem.split("_")[0] + "_", path.stem + "_"]
    for start, more in PREFIXES.items():
        if name.startswith(start):
            prefixes += more
    for function, first, _, is_static in functions(code):
        if is_static or function == "main" or function in (p.rstrip("_") for p in prefixes):
            continue
        if not function.startswith(tuple(prefixes)):
            report(path, first, f"exported {function} does not start with {prefixes[0]}")


def check_kernels() -> None:
    header = (ROOT / "kernels/kernels.h").read_text()
    table = header[header.index("struct kernels {"):]
    ops = re.findall(r"int \(\*(\w+)\)\(struct device \*device, const struct \w+_args \*args\)", table)
    files = {"act_mul": "act", "rope_table": "rope", "rope_store": "rope"}
    checks_text = "\n".join(p.read_text() for p in (ROOT / "tests/kernels").glob("*.c"))
    for op in ops:
        if op == "step_begin":  # brackets ops, is none
            continue
        stem = files.get(op, op)
        # the plain version of draw is the host's sampler
        plain = "engine/sampler.c" if op == "draw" else f"kernels/cpu/{stem}.c"
        if not (ROOT / plain).exists():
            report("kernels/kernels.h", 1, f"op {op} has no {plain}")
        if list((ROOT / "kernels/cuda").glob("*.cu")) and not (ROOT / f"kernels/cuda/{stem}.cu").exists():
            report("kernels/kernels.h", 1, f"op {op} has no kernels/cuda/{stem}.cu")
        if not re.search(rf"\b{op}\b", checks_text):
            report("kernels/kernels.h", 1, f"op {op} has no check in tests/kernels")


def check_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    default = (ROOT / "config/default.conf").read_text()
    table = (ROOT / "config/config.c").read_text() + "".join(
        p.read_text() for p in (ROOT / "config").glob("config_*.c"))
    options = re.findall(r"^#?\s*([a-z][a-z0-9_]*) =", default, flags=re.M)
    for option in sorted(set(options)):
        if f'"{option}"' not in table:
            report("config/default.conf", 1, f"{option} is not in the table of config.c")
        if f"`--{option.replace('_', '-')}`" not in readme:
            report("README.md", 1, f"the option table lacks --{option.replace('_', '-')}")
    for option in re.findall(r"`--([a-z][a-z0-9-]*)`", readme):
        if option.replace("-", "_") not in table and option not in ("help", "version"):
            report("README.md", 1, f"--{option} is not an option")
    routes = re.findall(r'\{"(GET|POST)",\s*"([^"]+)"', (ROOT / "server/route.c").read_text())
    if not routes:
        report("server/route.c", 1, "no rows found")
    for method, path in routes:
        path = path.replace("*", "{id}")
        if not re.search(rf"{method} `?{re.escape(path)}", readme):
            report("README.md", 1, f"the API table lacks {method} {path}")


def check_tracked() -> None:
    """No file of the repository may be large by accident. A copy without git has nothing to ask."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        return
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    for name in listed.stdout.split("\n"):
        path = ROOT / name
        if not name or not path.is_file():
            continue
        if path.stat().st_size > (1 << 20) and not name.startswith("config/demo/"):
            report(name, 1, f"{path.stat().st_size} bytes")


def main() -> int:
    global checks
    for path in product_files():
        text = path.read_text()
        code = strip(text)
        for check in (lambda: check_lines(path, text, code), lambda: check_includes(path, text),
                      lambda: check_calls(path, code), lambda: check_names(path, code)):
            checks += 1
            check()
    for check in (check_kernels, check_readme, check_tracked):
        checks += 1
        check()
    for problem in problems:
        print(problem)
    print(f"{max(checks - len(problems), 0)} passed, {len(problems)} failed, 0 skipped")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
