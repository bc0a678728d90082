"""What the HTTP layer takes and refuses: raw bytes on a socket."""

from __future__ import annotations

import json
import re
import socket
import time

import pytest

from conftest import SLOWER, serving

BODY = json.dumps({"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 4}).encode()
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"


def sized(body: bytes, more: bytes = b"") -> bytes:
    return HEAD + more + b"Content-Length: %d\r\n\r\n" % len(body) + body


def get(path: bytes, more: bytes = b"Connection: close\r\n", version: bytes = b"HTTP/1.1") -> bytes:
    return b"GET " + path + b" " + version + b"\r\nHost: localhost\r\n" + more + b"\r\n"


def statuses(answer: bytes) -> list[int]:
    return [int(s) for s in re.findall(rb"HTTP/1\.[01] (\d{3})", answer)]


def error_of(answer: bytes) -> dict:
    """The error object of a lone answer that closes its connection."""
    head, body = answer.split(b"\r\n\r\n", 1)
    assert b"application/json" in head.lower(), head
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


REFUSED = {
    "CL and TE": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "TE and CL": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two CL": HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}" + SMUGGLED,
    "two different CL": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}" + SMUGGLED,
    "CL list": HEAD + b"Content-Length: 2, 2\r\n\r\n{}" + SMUGGLED,
    "CL plus": HEAD + b"Content-Length: +2\r\n\r\n{}",
    "CL hex": HEAD + b"Content-Length: 0x2\r\n\r\n{}",
    "CL fraction": HEAD + b"Content-Length: 2.0\r\n\r\n{}",
    "CL empty": HEAD + b"Content-Length:\r\n\r\n",
    "space before colon": HEAD + b"Content-Length : 3\r\n\r\n{} " + SMUGGLED,
    "name with space": HEAD + b"A B: v\r\n\r\n",
    "TE identity": HEAD + b"Transfer-Encoding: identity\r\n\r\n" + SMUGGLED,
    "TE list": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "TE twice": HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "TE odd": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "no Host": b"GET /health HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "Host with a path": b"GET /health HTTP/1.1\r\nHost: a/../?#\r\n\r\n",
    "control in a value": b"GET /health HTTP/1.1\r\nHost: a\r\nX: a\x01b\r\n\r\n",
    "control in the method": b"F\x01O /health HTTP/1.1\r\nHost: a\r\n\r\n",
    "lower case method": b"get /health HTTP/1.1\r\nHost: a\r\n\r\n",
    "TRACE": b"TRACE /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Secret: canary\r\n\r\n",
    "CONNECT": b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "long method": b"A" * 5000 + b" /health HTTP/1.1\r\nHost: a\r\n\r\n",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_and_closed(server, name):
    """One 4xx or 5xx, the connection closed, and what follows is never a request."""
    start = time.monotonic()
    answer = server.raw(REFUSED[name])
    assert time.monotonic() - start < 5 * SLOWER
    found = statuses(answer)
    assert found and all(400 <= s <= 505 for s in found), answer[:300]
    assert b"smuggled" not in answer and b"canary" not in answer
    if name not in ("CL plus", "CL hex", "CL fraction", "CL empty", "long method", "CL list"):
        # libmicrohttpd answers a malformed Content-Length itself, before the server is called
        assert len(found) == 1, answer
    assert server.get("/health")[0] == 200


@pytest.mark.parametrize("path,status,code", [
    (b"/v1/nothing", 404, "unknown_url"), (b"/V1/models", 404, "unknown_url"),
    (b"//v1/models", 404, "unknown_url"), (b"/v1//models", 404, "unknown_url"),
    (b"/v1/models%00x", 404, "unknown_url"), (b"/%2e%2e/v1/models", 404, "unknown_url"),
    (b"/v1/%6dodels", 404, "unknown_url"), (b"/v1/models;x=1", 404, "unknown_url"),
    (b"/v1/models/no", 404, "model_not_found"), (b"/v1/models/..%2f..", 404, "model_not_found"),
    (b"/v1/chat/completions", 405, "method_not_allowed")])
def test_unknown(server, path, status, code):
    answer = server.raw(get(path))
    assert statuses(answer) == [status]
    assert error_of(answer)["code"] == code
    if status == 405:
        assert re.search(rb"\r\nAllow: [^\r]*POST", answer, re.I)


@pytest.mark.parametrize("path,meant", [
    ("/chat/completions", "/v1/chat/completions"), ("/v1/v1/chat/completions", "/v1/chat/completions"),
    ("/v1//chat/completions", "/v1/chat/completions"), ("/v1/models/", "/v1/models"), ("/v1/nothing", None)])
def test_nearly_right_urls_get_a_hint(server, path, meant):
    """A base URL without /v1, with it twice or with one slash too many is what clients get wrong."""
    status, _, body = server.get(path)
    message = json.loads(body)["error"]["message"]
    assert status == 404 and message.startswith(f"Unknown request URL: GET {path}.")
    assert message.endswith(f" Did you mean {meant}?" if meant else f"GET {path}.")


def test_query_is_not_part_of_the_path(server):
    assert server.get("/v1/models?a=b%20c")[0] == 200
    assert server.get("/health?")[0] == 200


@pytest.mark.parametrize("request_bytes,allowed", [
    (get(b"/" + b"a" * 3000), (414, 400)),
    (get(b"/health", b"X: " + b"a" * 20000 + b"\r\n"), (431, 400, 413)),
    (get(b"/health", b"".join(b"X-%d: v\r\n" % i for i in range(200))), (431, 400)),
])
def test_header_limits(server, request_bytes, allowed):
    found = statuses(server.raw(request_bytes))
    assert found and found[0] in allowed


def test_keep_alive_and_pipelining(server):
    many = get(b"/v1/models", b"") * 49 + get(b"/v1/models")
    assert statuses(server.raw(many)) == [200] * 50


def test_stream_then_pipelined_get(server):
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "stream": True,
                       "max_tokens": 5}).encode()
    answer = server.raw(sized(body) + get(b"/v1/models"))
    assert statuses(answer) == [200, 200]
    assert answer.index(b"[DONE]") < answer.rindex(b"sirocco-demo")


def test_expect_continue(server):
    with server.connect() as sock:
        sock.sendall(HEAD + b"Expect: 100-continue\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY))
        assert sock.recv(1000).startswith(b"HTTP/1.1 100")
        sock.sendall(BODY)
        answer = b""
        while part := sock.recv(65536):
            answer += part
    assert statuses(answer) == [200]
    answer = server.raw(HEAD + b"Expect: 100-continue\r\nContent-Length: 900000000\r\n\r\n")
    assert statuses(answer) == [413]
    assert error_of(answer)["code"] == "request_too_large"


@pytest.mark.parametrize("length", ["2147483648", "9223372036854775807"])
def test_too_large_at_once(server, length):
    answer = server.raw(HEAD + f"Content-Length: {length}\r\n\r\n".encode())
    assert statuses(answer) == [413]


def test_chunked_bodies(server):
    pieces = b"".join(b"1\r\n%c\r\n" % c for c in BODY)
    assert statuses(server.raw(HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
                               + pieces + b"0\r\n\r\n")) == [200]
    big = b"%x\r\n" % (9 << 20) + b" " * (9 << 20) + b"\r\n0\r\n\r\n"
    found = statuses(server.raw(CHUNKED + big))
    assert found in ([413], []), found  # the answer may be lost to the reset of unread bytes


def test_body_one_byte_a_packet(server):
    with server.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in sized(BODY, b"Connection: close\r\n"):
            sock.sendall(bytes([byte]))
        answer = b""
        while part := sock.recv(65536):
            answer += part
    assert statuses(answer) == [200]


@pytest.mark.parametrize("header,status", [
    (b"Content-Type: text/plain", 415), (b"Content-Type: application/json; charset=utf-8", 200),
    (b"Content-Type: application/json;charset=utf-16", 415), (b"Content-Type: multipart/form-data", 415),
    (b"X-None: 1", 200), (b"Content-Encoding: gzip", 415), (b"Content-Encoding: identity", 200),
    (b"Accept: text/html", 200), (b"Upgrade: websocket\r\nConnection: close, upgrade", 200),
    (b"Expect: 200-ok", 417)])
def test_media_types(server, header, status):
    request = (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n" + header
               + b"\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
    answer = server.raw(request)
    assert statuses(answer)[-1] == status
    if status == 415:  # what a plain `curl -d` has to be told
        assert "'Content-Type: application/json'" in error_of(answer)["message"]


@pytest.mark.parametrize("given,kept", [
    ("abc-123_X.y", True), ("a" * 64, True), ("a" * 65, False), ("a b", False), ("\xe9", False)])
def test_request_id(server, given, kept):
    head = server.raw(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\nx-request-id: "
                      + given.encode("latin-1") + b"\r\n\r\n").split(b"\r\n\r\n")[0].decode()
    echoed = re.search(r"x-request-id: (\S+)", head, re.I).group(1)
    assert (echoed == given) == kept
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", echoed)


def test_head(server):
    for path in ("/health", "/v1/models", "/metrics"):
        status, headers, body = server.request("HEAD", path)
        assert status == 200 and body == b"" and int(headers["content-length"]) > 0


def test_http_1_0(server):
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "stream": True,
                       "max_tokens": 5}).encode()
    answer = server.raw(sized(body).replace(b"HTTP/1.1", b"HTTP/1.0"))
    head, rest = answer.split(b"\r\n\r\n", 1)
    assert b" 200 " in head and b"chunked" not in head.lower()
    assert rest.startswith(b"data: ") and rest.endswith(b"data: [DONE]\n\n")


def test_stream_headers(server):
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "stream": True,
                       "max_tokens": 2}).encode()
    head = server.raw(sized(body, b"Connection: close\r\n")).split(b"\r\n\r\n")[0].lower()
    for wanted in (b"content-type: text/event-stream", b"cache-control: no-cache",
                   b"x-accel-buffering: no", b"x-request-id: "):
        assert wanted in head


def test_noise(server):
    for noise in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), b"SSH-2.0-OpenSSH\r\n",
                  b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes(range(256)) * 400, b"GET /\r\n", b"\r\n" * 50):
        answer = server.raw(noise, timeout=3, half_close=True)
        assert not answer or all(s >= 400 for s in statuses(answer))
        assert server.get("/health")[0] == 200


def test_cors():
    origin = {"Origin": "https://app.example"}
    with serving() as server:
        status, headers, _ = server.request("GET", "/v1/models", headers=origin)
        assert status == 200 and headers["access-control-allow-origin"] is None
        assert server.request("OPTIONS", "/v1/models", headers=origin)[0] == 405
        status, _, body = server.request("OPTIONS", "/v1/models", headers={
            **origin, "Access-Control-Request-Method": "GET"})
        assert status == 405 and "--cors-origin" in json.loads(body)["error"]["message"]
    with serving("--cors-origin", "https://app.example") as server:
        assert server.get("/v1/models", origin)[1]["access-control-allow-origin"] == "https://app.example"
        assert server.get("/v1/models", {"Origin": "https://evil.example"})[1][
            "access-control-allow-origin"] is None
        status, headers, _ = server.request("OPTIONS", "/v1/chat/completions", headers={
            **origin, "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type"})
        assert status == 204 and "POST" in headers["access-control-allow-methods"]
        assert "authorization" in headers["access-control-allow-headers"].lower()


def test_hosts_of_a_loopback_server_without_keys():
    """A page whose name was made to point here (DNS rebinding) gets nothing, whatever it asks."""
    def ask(server, host: bytes, path: bytes = b"/v1/models", more: bytes = b"") -> bytes:
        return server.raw(b"GET " + path + b" HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n"
                          + more + b"\r\n")

    with serving("--allowed-host", "api.zz") as server:
        for host in (b"127.0.0.1", b"localhost:1", b"my-machine", b"[::1]:80", b"a.local", b"api.zz:443"):
            assert statuses(ask(server, host)) == [200], host
        for path in (b"/v1/models", b"/health", b"/metrics", b"/nothing"):
            answer = ask(server, b"evil.zz:8000", path)
            assert statuses(answer) == [403] and error_of(answer)["code"] == "host_not_allowed"
        evil = sized(BODY, b"Connection: close\r\n").replace(b"Host: localhost", b"Host: evil.zz")
        assert statuses(server.raw(evil)) == [403]
        assert server.metric("sirocco_prompt_tokens_total") == 0
    with serving(environment={"SIROCCO_API_KEY": "secret"}) as server:
        assert statuses(ask(server, b"evil.zz", more=b"Authorization: Bearer secret\r\n")) == [200]
    with serving("--host", "::ffff:127.0.0.1") as server:  # loopback, written another way
        server.host = "127.0.0.1"
        assert statuses(ask(server, b"evil.zz")) == [403]
        server.url = f"http://127.0.0.1:{server.port}"
    with serving("--allowed-host", "*") as server:
        assert statuses(ask(server, b"any.zz")) == [200]
    with serving("--host", "0.0.0.0") as server:
        server.host = "127.0.0.1"
        assert statuses(ask(server, b"any.zz")) == [200]
        server.url = f"http://127.0.0.1:{server.port}"


def test_slow_headers_and_bodies_are_cut():
    with serving("--header-timeout-ms", "700", "--body-timeout-ms", "700") as server:
        for start, more in ((b"GET /health HTTP/1.1\r\nHo", b"s"), (HEAD + b"Content-Length: 100\r\n\r\n{", b" ")):
            with server.connect() as sock:
                sock.sendall(start)
                begin = time.monotonic()
                gone = False
                while time.monotonic() - begin < 6 * SLOWER:
                    try:
                        sock.sendall(more)
                        sock.settimeout(0.1)
                        data = sock.recv(4096)
                        if not data:
                            gone = True
                            break
                        assert b" 408 " in data
                    except TimeoutError:
                        continue
                    except OSError:
                        gone = True
                        break
                assert gone and time.monotonic() - begin > 0.4


def test_short_body_then_half_close(server):
    before = server.fds()
    server.raw(HEAD + b"Content-Length: 100\r\n\r\n0123456789", timeout=5, half_close=True)
    end = time.monotonic() + 5
    while server.fds() > before + 1 and time.monotonic() < end:
        time.sleep(0.05)
    assert server.fds() <= before + 1


def test_many_idle_connections():
    with serving("--max-connections", "600") as server:
        idle = [server.connect() for _ in range(500)]
        start = time.monotonic()
        assert server.get("/health")[0] == 200
        assert time.monotonic() - start < 1 * SLOWER
        for sock in idle:
            sock.close()
