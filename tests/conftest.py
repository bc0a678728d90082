"""Fixtures shared by the end-to-end tests: a running server, its metrics, raw sockets."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("SIROCCO_ROOT", Path(__file__).resolve().parent.parent))
BINARY = os.environ.get("SIROCCO_BINARY", str(ROOT / "build/sirocco"))
DATA = os.environ.get("SIROCCO_TEST_DATA", "")
SANITIZED = "/san-" in BINARY
SLOWER = 8 if SANITIZED else 1  # how much longer a sanitizer build may take


def data_path(relative: str) -> Path:
    """A third-party test file, or the test is skipped by name."""
    path = Path(DATA or "/nonexistent") / relative
    if not DATA or not path.exists():
        pytest.skip(f"{relative}: SIROCCO_TEST_DATA is not set or lacks it")
    return path


class Server:
    """One server process on a free port of the loopback interface."""

    def __init__(self, *options: str, environment: dict | None = None, wait: bool = True):
        env = {k: v for k, v in os.environ.items() if not k.startswith("SIROCCO_")}
        env.update(environment or {})
        self.log: list[str] = []
        self.process = subprocess.Popen(
            [BINARY, "serve", "--port", "0", "--quiet", *options], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd="/")
        threading.Thread(target=self._drain, daemon=True).start()
        self.url = self.host = ""
        self.port = 0
        if wait:
            self.wait_listening()

    def _drain(self) -> None:
        for line in self.process.stderr:
            self.log.append(line.rstrip("\n"))

    def wait_listening(self) -> None:
        line = self.process.stdout.readline()
        match = re.fullmatch(r"listening on (http://(.*):(\d+))\n", line)
        if not match:
            self.process.kill()
            self.process.wait()
            raise RuntimeError(f"no listening line, but {line!r}; log: {self.log[-20:]}")
        self.url, self.host, self.port = match.group(1), match.group(2), int(match.group(3))

    def get(self, path: str, headers: dict | None = None, timeout: float = 30.0):
        """(status, headers, body) of a GET, errors included."""
        return self.request("GET", path, headers=headers, timeout=timeout)

    def post(self, path: str, body, headers: dict | None = None, timeout: float = 120.0):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", path, data, {"Content-Type": "application/json", **(headers or {})},
                            timeout)

    def request(self, method, path, data=None, headers=None, timeout=120.0):
        request = urllib.request.Request(self.url + path, data=data, headers=headers or {}, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=timeout) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def chat(self, **fields):
        """The parsed answer of a chat completion that must succeed."""
        fields.setdefault("messages", [{"role": "user", "content": "Hello!"}])
        status, _, body = self.post("/v1/chat/completions", fields)
        assert status == 200, body
        return json.loads(body)

    def metrics(self) -> dict[str, float]:
        status, _, body = self.get("/metrics")
        assert status == 200
        values = {}
        for line in body.decode().splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                values[name] = float(value)
        return values

    def metric(self, name: str) -> float:
        """The sum over all label sets of one metric."""
        found = [v for k, v in self.metrics().items() if k == name or k.startswith(name + "{")]
        assert found, f"no metric {name}"
        return sum(found)

    def wait_idle(self, seconds: float = 5.0) -> None:
        """Until no request runs or waits and no KV block is in use."""
        names = ("sirocco_requests_running", "sirocco_requests_waiting", "sirocco_kv_blocks_used")
        end = time.monotonic() + seconds * SLOWER
        while any(self.metric(name) for name in names):
            assert time.monotonic() < end, {name: self.metric(name) for name in names}
            time.sleep(0.01)

    def rss(self) -> int:
        """Resident bytes."""
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float:
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def fds(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def connect(self, timeout: float = 30.0) -> socket.socket:
        return socket.create_connection((self.host.strip("[]"), self.port), timeout=timeout)

    def raw(self, data: bytes, timeout: float = 10.0, half_close: bool = False) -> bytes:
        """Send bytes, and return everything until the server closes or the timeout."""
        with self.connect(timeout) as sock:
            with contextlib.suppress(OSError):  # the server may have closed already
                sock.sendall(data)
                if half_close:
                    sock.shutdown(socket.SHUT_WR)
            answer = b""
            with contextlib.suppress(TimeoutError, ConnectionResetError):
                while part := sock.recv(65536):
                    answer += part
            return answer

    def stop(self, seconds: float = 20.0) -> int:
        """SIGTERM, then the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds * SLOWER)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def close(self) -> None:
        """Stop, and hold the server to a clean end without a sanitizer's report."""
        code = self.stop()
        assert code == 0, (code, self.log[-30:])
        assert not any("Sanitizer" in line for line in self.log), self.log


@contextlib.contextmanager
def serving(*options: str, **how):
    server = Server(*options, **how)
    try:
        yield server
        server.close()
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope="session")
def server():
    """The server that most tests share; at its end it must be idle and stop cleanly."""
    with serving() as running:
        yield running
        running.wait_idle()


@pytest.fixture(autouse=True)
def leaves_nothing(request):
    """After each test that used the shared server: it lives and holds no block."""
    yield
    if "server" in request.fixturenames:
        shared = request.getfixturevalue("server")
        assert shared.process.poll() is None, shared.log[-30:]
        shared.wait_idle()


def sse(body: bytes) -> list:
    """The data of each event of a stream: parsed JSON, or the string [DONE]."""
    events = []
    for frame in body.decode().split("\n\n"):
        for line in frame.split("\n"):
            assert not line.startswith("id:"), line
            if line.startswith("data: "):
                data = line[len("data: "):]
                events.append(data if data == "[DONE]" else json.loads(data))
    return events
