"""The deployment files name options that there are, and their times fit together."""

from __future__ import annotations

import re

from conftest import ROOT, serving

POD = (ROOT / "config/kubernetes/sirocco.yaml").read_text(encoding="utf-8")
UNIT = (ROOT / "config/systemd/sirocco.service").read_text(encoding="utf-8")
DEFAULTS = dict(re.findall(r"^#([a-z][a-z0-9_]*) =(.*)$",
                           (ROOT / "config/default.conf").read_text(encoding="utf-8"), re.M))


def number(pattern: str, text: str) -> float:
    found = re.findall(pattern, text, re.M)
    assert len(found) == 1, (pattern, found)
    return float(found[0])


def test_every_variable_is_an_option():
    for text in (POD, UNIT):
        names = set(re.findall(r"\bSIROCCO_([A-Z_]+)", text))
        assert names and {name.lower() for name in names} <= {*DEFAULTS, "config_file"}


def test_drain_fits_into_the_grace_period():
    """What is killed before its drain ends drops streams."""
    timeout = number(r'name: SIROCCO_SHUTDOWN_TIMEOUT\s+value: "(\d+)"', POD)
    sleep = number(r'command: \["sleep", "(\d+)"\]', POD)
    assert number(r"^\s+terminationGracePeriodSeconds: (\d+)$", POD) >= sleep + timeout + 5
    assert number(r"^TimeoutStopSec=(\d+)$", UNIT) >= float(DEFAULTS["shutdown_timeout"]) + 5


def test_memory_is_requested_in_full():
    """A pod that may use more than it requested takes its node down with it."""
    memory = re.findall(r"^ +memory: (\S+)$", POD, re.M)
    assert len(memory) == 2 and memory[0] == memory[1]


def test_pod_starts():
    values = dict(re.findall(r'name: (SIROCCO_[A-Z_]+)\s+value: "?([^"\n]+)"?\n', POD))
    assert "SIROCCO_KV_CACHE_BYTES" in values
    values["SIROCCO_HOST"] = "127.0.0.1"
    assert "resource: requests.cpu" in POD
    values["SIROCCO_THREADS"] = str(int(number(r'^ +cpu: "(\d+)"$', POD)))
    with serving(environment=values) as server:
        assert server.get("/ready")[0] == 200 and server.chat(max_tokens=1)["choices"]
        assert not any("ignored" in line for line in server.log)
