"""Disconnects, slow readers, draining, signals, and what the process says when it starts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.request

import pytest

from conftest import BINARY, SLOWER, serving

LONG = {"messages": [{"role": "user", "content": "Tell me a long story about the sea."}],
        "max_tokens": 3500, "ignore_eos": True}
SHORT = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}


def post(body: dict, close: bool = True) -> bytes:
    data = json.dumps(body).encode()
    return (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            + (b"Connection: close\r\n" if close else b"")
            + b"Content-Length: %d\r\n\r\n" % len(data) + data)


def read_all(sock: socket.socket, timeout: float = 60.0) -> bytes:
    sock.settimeout(timeout)
    answer = b""
    try:
        while part := sock.recv(65536):
            answer += part
    except ConnectionResetError:
        pass
    return answer


def wait_running(server, n: float = 1) -> None:
    end = time.monotonic() + 5 * SLOWER
    while server.metric("sirocco_requests_running") < n:
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
def test_client_gone_frees_blocks(server, stream, how):
    sock = server.connect()
    sock.sendall(post({**LONG, "stream": stream}))
    wait_running(server)
    if how == "half-close":
        sock.shutdown(socket.SHUT_WR)
    else:
        if how == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
    start = time.monotonic()
    while server.metric("sirocco_kv_blocks_used"):
        assert time.monotonic() - start < 0.5 * SLOWER
    sock.close()


def test_queued_client_gone():
    """Those who left while queued never run, and the one that runs is undisturbed."""
    with serving("--max-seqs", "1") as server:
        alone = server.chat(**{**SHORT, "max_tokens": 400, "ignore_eos": True})
        running = server.connect()
        running.sendall(post({**SHORT, "max_tokens": 400, "ignore_eos": True}))
        wait_running(server)
        queued = [server.connect() for _ in range(20)]
        for i, sock in enumerate(queued):
            sock.sendall(post({**LONG, "stream": bool(i % 2)}))
        end = time.monotonic() + 5 * SLOWER
        while server.metric("sirocco_requests_waiting") < 20 and time.monotonic() < end:
            time.sleep(0.01)
        for sock in queued:
            sock.close()
        answer = json.loads(read_all(running).split(b"\r\n\r\n", 1)[1])
        assert answer["choices"] == alone["choices"]
        server.wait_idle()


def test_slow_reader_pauses_alone():
    """A client that reads nothing holds its own sequence alone, with bounded memory."""
    with serving("--write-timeout-ms", "4000") as server:
        server.chat(**SHORT)
        before = server.rss()
        slow = []
        for _ in range(8):
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            sock.connect(("127.0.0.1", server.port))
            sock.sendall(post({**LONG, "stream": True, "logprobs": True, "top_logprobs": 20}))
            slow.append(sock)
        wait_running(server, 1)
        for _ in range(10):
            start = time.monotonic()
            assert server.chat(**SHORT)["choices"][0]["message"]["content"] == "The capital of France is Paris."
            assert time.monotonic() - start < 2 * SLOWER
        assert server.rss() - before < 48 << 20
        server.wait_idle(20)  # they are cut at last
        for sock in slow:
            sock.close()


def test_drain_finishes_streams():
    with serving() as server:
        sock = server.connect()
        sock.sendall(post({**LONG, "stream": True, "max_tokens": 600}))
        first = sock.recv(4096)
        idle = server.connect()
        server.process.send_signal(signal.SIGTERM)
        answer = first + read_all(sock)
        assert answer.rstrip(b"\r\n0").endswith(b"data: [DONE]") or b"data: [DONE]" in answer[-60:]
        assert b'"finish_reason":"length"' in answer
        assert server.process.wait(10 * SLOWER) == 0
        idle.close()


def test_drain_deadline_ends_streams_with_an_error():
    with serving("--shutdown-timeout", "0.5") as server:
        streamed, whole, half = server.connect(), server.connect(), server.connect()
        streamed.sendall(post({**LONG, "stream": True}))
        whole.sendall(post(LONG))
        half.sendall(post(LONG)[:-10])
        streamed.recv(4096)
        wait_running(server, 2)
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        answer = read_all(streamed)
        assert b'data: {"error":' in answer and b"shutting_down" in answer
        assert b"[DONE]" not in answer
        assert b" 503 " in read_all(whole).split(b"\r\n")[0]
        assert server.process.wait(10 * SLOWER) == 0
        assert time.monotonic() - start < 3 * SLOWER
        half.close()


def test_ready_and_new_work_while_draining():
    with serving("--shutdown-timeout", "5") as server:
        keep = server.connect()  # a connection made before the drain
        keep.sendall(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b" 200 " in keep.recv(4096)
        busy = server.connect()
        busy.sendall(post({**LONG, "stream": True}))
        busy.recv(4096)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        keep.sendall(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b" 503 " in keep.recv(4096)
        with pytest.raises(OSError):
            server.connect(2).recv(1)
            raise ConnectionRefusedError
        server.process.send_signal(signal.SIGTERM)  # the second one ends at once
        start = time.monotonic()
        server.process.wait(5 * SLOWER)
        assert time.monotonic() - start < 1.5 * SLOWER
        server.process.returncode = 0  # a forced end: not the clean exit that the fixture wants


def test_sigint_when_idle():
    with serving() as server:
        server.chat(**SHORT)
        start = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(5 * SLOWER) == 0
        assert time.monotonic() - start < 1 * SLOWER


def test_other_signals_are_harmless(server):
    for number in (signal.SIGPIPE, signal.SIGHUP, signal.SIGWINCH, signal.SIGCHLD, signal.SIGCONT):
        server.process.send_signal(number)
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(0.3)
    server.process.send_signal(signal.SIGCONT)
    assert server.chat(**SHORT)["choices"]


@pytest.mark.parametrize("options,code,words", [
    (["--port", "65536"], 2, "port"), (["--port", "abc"], 2, "port"), (["--nonsense"], 2, "nonsense"),
    (["--max-seqs", "-1"], 2, "max"), (["--block-size", "17"], 2, "block"), (["--threads", "513"], 2, "512"),
    (["--model", "/nonexistent/model"], 2, "/nonexistent/model"),
    (["--host", "no.such.host.invalid"], 2, "host"), (["--host", "192.0.2.1"], 1, "192.0.2.1"),
    (["--api-key-file", "/nonexistent"], 2, "key"), (["--config-file", "/nonexistent"], 2, "config")])
def test_bad_options_end_with_one_line(options, code, words):
    """2: what stays wrong when a supervisor tries again; 1: what may pass."""
    done = subprocess.run([BINARY, "serve", "--port", "0", "--quiet", *options], capture_output=True,
                          text=True, timeout=20 * SLOWER, check=False)
    assert done.returncode == code, (done.returncode, done.stderr)
    assert done.stdout == "" and words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_port_in_use(server):
    done = subprocess.run([BINARY, "serve", "--port", str(server.port)], capture_output=True, text=True,
                          timeout=20 * SLOWER, check=False)
    assert done.returncode == 1 and str(server.port) in done.stderr


def test_most_threads_of_the_table():
    """The backend takes what the table of options allows."""
    with serving("--threads", "512") as server:
        assert server.get("/ready")[0] == 200


@pytest.mark.parametrize("closed", [(0,), (2,), (0, 2), (0, 1, 2)])
def test_closed_standard_descriptors(closed):
    """Started without them: no socket becomes one of them, gets the log's lines or fails at the end."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [BINARY, "serve", "--port", str(port), "--quiet", "--log-level", "debug"],
        preexec_fn=lambda: [os.close(fd) for fd in closed])
    try:
        answers = b""
        end = time.monotonic() + 20 * SLOWER
        while b"The capital" not in answers:
            assert time.monotonic() < end and process.poll() is None, answers
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as sock:
                sock.sendall(post(SHORT))
                answers = read_all(sock)
        assert answers.startswith(b"HTTP/1.1 200") and answers.count(b"HTTP/1.1") == 1
        files = {fd: os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in closed}
        assert set(files.values()) == {"/dev/null"}, files
        process.send_signal(signal.SIGTERM)
        assert process.wait(20 * SLOWER) == 0
    finally:
        process.kill()
        process.wait()


def test_help_and_version():
    for words in (["--help"], ["serve", "--help"]):
        done = subprocess.run([BINARY, *words], capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0 and "--max-seqs" in done.stdout + done.stderr
    done = subprocess.run([BINARY, "version"], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0 and done.stdout.startswith("sirocco ")
    assert subprocess.run([BINARY, "nonsense"], capture_output=True, timeout=20, check=False).returncode == 2


def logging_to_a_pipe() -> tuple[subprocess.Popen, int]:
    """A server, and the end of the pipe at which its log can be read."""
    read_end, write_end = os.pipe()
    process = subprocess.Popen([BINARY, "serve", "--port", "0"], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=write_end, text=True)
    os.close(write_end)
    return process, read_end


def test_log_reader_gone():
    """Logging to a pipe that nobody reads any more stops nothing."""
    process, read_end = logging_to_a_pipe()
    try:
        url = process.stdout.readline().split()[-1]
        os.close(read_end)
        for _ in range(20):
            with urllib.request.urlopen(url + "/v1/models", timeout=20) as answer:
                assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20 * SLOWER) == 0
    finally:
        process.kill()
        process.wait()


def test_log_reader_asleep():
    """A pipe that is full and still open (a stopped terminal, a stuck collector) stops nothing either:
    lines are lost and counted, and told when they go through again."""
    process, read_end = logging_to_a_pipe()
    try:
        url = process.stdout.readline().split()[-1]

        def get(path: str) -> str:
            with urllib.request.urlopen(url + path, timeout=10 * SLOWER) as answer:
                return answer.read().decode()

        def lost() -> int:
            return int(re.search(r"^sirocco_log_lines_lost_total (\d+)$", get("/metrics"), re.M).group(1))

        for _ in range(1500):  # a line of a hundred bytes each: the pipe takes 64 KiB
            get("/v1/models")
        untold = lost()
        assert untold > 100
        os.set_blocking(read_end, False)
        lines = b""
        with contextlib.suppress(BlockingIOError):
            while part := os.read(read_end, 65536):
                lines += part
        assert lines.endswith(b"\n") and b"log_lines_lost" not in lines
        get("/v1/models")
        assert lost() == untold
        assert f"WARN log_lines_lost lines={untold}\n" in os.read(read_end, 65536).decode()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20 * SLOWER) == 0
    finally:
        process.kill()
        process.wait()
        os.close(read_end)


def test_log_line_per_request():
    with serving("--log-format", "json") as server:
        server.request("POST", "/v1/chat/completions", json.dumps(SHORT).encode(),
                       {"Content-Type": "application/json", "x-request-id": "my-id-7"})
        server.post("/v1/chat/completions", b"{")
        time.sleep(0.2)
        lines = [json.loads(line) for line in server.log if line.startswith("{")]
        mine = [line for line in lines if line.get("id") == "my-id-7"]
        assert len(mine) == 1, server.log
        assert mine[0]["status"] == 200 and mine[0]["output_tokens"] == 9 and mine[0]["prompt_tokens"] == 11
        assert mine[0]["ttft_ms"] > 0
        assert any(line.get("status") == 400 for line in lines)
