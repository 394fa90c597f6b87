"""`llmgen test coldstart`: started before the server, with one that dies in its middle, with none."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

from llmgen.simulator import Endpoint, Options
from running import llmgen_command, run_command

CALM = ("--verdict", "suspect_lag_ms=1000", "--verdict", "invalid_lag_ms=10000", "--verdict", "suspect_ks=1")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def flags(port: int, out: Path, *more: object) -> tuple[object, ...]:
    lengths = ("--input-tokens", 128, "--output-tokens", 4, "--workers", 1)
    return ("test", "coldstart", "--url", f"http://127.0.0.1:{port}", "--out", out, *lengths, *CALM, *more)


def suite_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "latest" / "suite.json").read_text())
    return found


def test_a_server_that_is_started_after_the_test(tmp_path: Path) -> None:
    port = free_port()
    metrics = ("--telemetry", f"http://127.0.0.1:{port}/metrics")
    process = llmgen_command(*flags(port, tmp_path, "--first", 8, "--warm", 12, "--wait", "40s", *metrics))
    try:
        until = time.monotonic() + 30
        while not (tmp_path / "latest").exists() and time.monotonic() < until:
            time.sleep(0.05)
        threading.Event().wait(0.8)  # it meets nobody for a while
        with Endpoint(Options(engine="cold,load=1500ms", port=port)):
            out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, out + err
    suite = suite_of(tmp_path)
    told = suite["conclusion"]
    assert [one["label"] for one in suite["runs"]] == ["first", "warm", "again"]
    assert [phase["state"] for phase in told["phases"]] == ["refused", "loading", "ready"]
    assert told["phases"][1]["said"] == "503 Loading model"
    figures = told["figures"]
    assert 0.8 < figures["ready_s"] < 40
    assert 1.2 < figures["process_to_ready_s"] < figures["ready_s"] + 2
    # its first steps are up to 20 times as slow; it knows the prompts the second time
    assert figures["first.ttft_ms"] > 3 * figures["warm.ttft_p50_ms"]
    assert figures["cold_effect.low_ms"] > 0
    assert figures["cached_share.again"] > 0.8 > 0.1 > (figures["cached_share.warm"] or 0.0)
    assert figures["cached_effect.ms"] < 0
    for text in ("loading 503 Loading model", "request 1", "prefix cache", "PASSED"):
        assert text in out


def test_a_server_that_dies_in_the_middle_is_measured_anew(tmp_path: Path) -> None:
    options = Options(engine="tiny,load=500ms,step=30ms", port=free_port())
    endpoint = Endpoint(options)
    try:
        process = llmgen_command(*flags(options.port, tmp_path, "--first", 8, "--warm", 40, "--wait", "30s"))
        until = time.monotonic() + 60
        while time.monotonic() < until and not (
            (tmp_path / "latest" / "suite.json").exists()
            and len(suite_of(tmp_path)["runs"]) == 2
            and (path := tmp_path / "latest" / "0002" / "run.json").exists()
            and 0 < json.loads(path.read_text())["start_ns"] < time.monotonic_ns() - 1e9
        ):
            assert process.poll() is None
            time.sleep(0.05)
        os.kill(endpoint.pid, signal.SIGKILL)
        endpoint.stop()
        threading.Event().wait(1.0)
        endpoint = Endpoint(options)
        out, err = process.communicate(timeout=60)
    finally:
        endpoint.stop()
        process.kill()
    assert process.returncode == 0, out + err
    suite = suite_of(tmp_path)
    assert [one["label"] for one in suite["runs"]] == [
        *("first", "warm", "first, round 2", "warm, round 2", "again, round 2")
    ]
    told = suite["conclusion"]
    assert any("went away in run 2 (warm)" in note for note in told["notes"])
    assert told["phases"][-1]["state"] == "ready"
    assert len(told["phases"]) > 1
    assert [step["run"] for step in told["steps"]] == [3, 4, 5]


def test_a_server_that_never_comes(tmp_path: Path) -> None:
    done = run_command(*flags(free_port(), tmp_path, "--wait", "1s"))
    assert done.returncode == 5
    assert "not ready within 1s; last it was refused" in done.stderr
    assert "not within 1" in done.stdout
    assert suite_of(tmp_path)["state"] == "incomplete"
