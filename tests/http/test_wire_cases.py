"""The request cases of two other parsers, on our wire: what they refuse is never served.

Each raw request is aimed at a route of ours (and given a Host where it has none), so that its head
and body are what decides. A refused one gets one 4xx or 5xx and the end of the connection, and
nothing behind it is taken for a second request. What libmicrohttpd's parser takes or answers by
itself is pinned by name, with the reason: a new entry, or one that went away, fails.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket

import pytest

from conftest import SLOWER, data_path, serving

# served, although the other parser refuses it
TAKEN = {
    "invalid/010": "its own limit of 10 bytes for a header",
    "invalid/017": "its own limit of a header's size",
    "invalid/limit_header_default_01": "its own limit of a header's size",
    "invalid/041": "Content-Type twice, on a request without a body",
    "invalid/obs_fold_01": "libmicrohttpd joins a folded line to the name; the header is unknown",
    "invalid/rfc9112_target_authority_non_connect_01": "the target was replaced",
    "invalid/rfc9112_target_relative_01": "the target was replaced",
}
# libmicrohttpd answers a malformed Content-Length by itself, its status line twice
DOUBLED = {"invalid/014", "invalid/024", "invalid/prefix_03"}


@pytest.fixture(scope="module")
def server():
    """The cases name hosts of their own."""
    with serving("--allowed-host", "*") as running:
        yield running


def aimed(raw: bytes) -> bytes:
    raw = re.sub(rb"^(GET|HEAD) [^\r\n]*? HTTP/1\.([01])\r\n", rb"\1 /v1/models HTTP/1.\2\r\n", raw)
    raw = re.sub(rb"^(POST|PUT) [^\r\n]*? HTTP/1\.([01])\r\n",
                 rb"POST /v1/chat/completions HTTP/1.\2\r\n", raw)
    if not re.search(rb"(?i)\nhost\s*:", raw):
        raw = raw.replace(b"\r\n", b"\r\nHost: localhost\r\n", 1)
    return raw


def exchange(port: int, raw: bytes) -> bytes:
    """What the server sends until it closes, or is silent: a request that waits for more bytes."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port)) as s, contextlib.suppress(OSError):
        s.settimeout(0.3 * SLOWER)
        s.sendall(raw)
        while piece := s.recv(65536):
            answer += piece
    return answer


def cases() -> list:
    lines = data_path("http/gunicorn_requests.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def statuses(answer: bytes) -> list[int]:
    return [int(s) for s in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]


@pytest.mark.timeout(300)
def test_refused_cases_are_never_served(server):
    taken, doubled, wrong = set(), set(), []
    for case in cases():
        if case["verdict"] == "valid":
            continue
        got = statuses(exchange(server.port, aimed(base64.b64decode(case["raw_base64"]))))
        if any(status < 400 for status in got):
            taken.add(case["name"])
        elif len(got) > 1 and len(set(got)) == 1:
            doubled.add(case["name"])
        elif len(got) > 1:
            wrong.append((case["name"], got))
    assert not wrong
    assert taken == set(TAKEN)
    assert doubled == DOUBLED


@pytest.mark.timeout(300)
def test_accepted_cases_break_nothing(server):
    """Valid or not for us (methods, transfer codings, targets), the answer is a clean one."""
    for case in cases():
        if case["verdict"] == "valid":
            got = statuses(exchange(server.port, aimed(base64.b64decode(case["raw_base64"]))))
            assert all(status < 500 or status == 505 for status in got), (case["name"], got)
