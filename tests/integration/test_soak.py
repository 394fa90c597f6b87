"""`llmgen test soak`: the server goes and comes back, the controller is killed, the user ends it."""

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


def flags(url: str, out: Path, *more: object) -> tuple[object, ...]:
    load = ("--rate", 20, "--arrival", "constant", "--input-tokens", 8, "--output-tokens", 8, "--workers", 1)
    return ("test", "soak", "--url", url, "--out", out, *load, *CALM, *more)


def reported(out: Path) -> dict[str, Any]:
    done = run_command("report", out / "latest", "--format", "json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def wait_for_rows(out: Path, seconds: float, process: Any) -> None:
    """Until so much of the load has been offered."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        for path in out.glob("*/0001/run.json"):
            start = json.loads(path.read_text())["start_ns"]
            if 0 < start < time.monotonic_ns() - seconds * 1e9:
                return
        time.sleep(0.1)
    raise AssertionError("the load did not begin")


def test_a_restart_is_survived_and_told(tmp_path: Path) -> None:
    options = Options(engine="tiny", port=free_port())
    endpoint = Endpoint(options)
    metrics = f"{endpoint.url.removesuffix('/v1')}/metrics"
    try:
        process = llmgen_command(
            *flags(endpoint.url, tmp_path, "--length", "7s", "--settle", "1s", "--target", 0.1, "--telemetry", metrics)
        )
        wait_for_rows(tmp_path, 3.0, process)
        os.kill(endpoint.pid, signal.SIGKILL)
        endpoint.stop()
        threading.Event().wait(0.7)  # requests meet nobody meanwhile
        endpoint = Endpoint(options)
        out, err = process.communicate(timeout=60)
    finally:
        endpoint.stop()
    assert process.returncode == 3, out + err
    told = reported(tmp_path)["conclusion"]
    assert (told["verdict"], told["figures"]["restarts"]) == ("failed", 1)
    assert "the server restarted once; 0 allowed (--restarts)" in told["reasons"]
    assert 0.5 < told["figures"]["away_s"] < 6
    assert told["outages"][0]["from_s"] > 2.5
    restarts = next(one["text"] for one in told["answers"] if one["question"] == "restarts")
    assert "back after" in restarts
    assert "a new process" in restarts
    assert [mark["text"] for mark in told["course"]["marks"]] == ["away"]


def test_a_killed_soak_is_reported_up_to_its_end(tmp_path: Path) -> None:
    with Endpoint(Options(engine="tiny")) as endpoint:
        process = llmgen_command(*flags(endpoint.url, tmp_path, "--length", "1h", "--settle", "1s"))
        wait_for_rows(tmp_path, 3.0, process)
        running = reported(tmp_path)["conclusion"]
        process.kill()
        process.communicate(timeout=20)
        killed_s = (
            time.monotonic_ns() - json.loads(next(tmp_path.glob("*/0001/run.json")).read_text())["start_ns"]
        ) / 1e9
        before = sorted(path.name for path in (tmp_path / "latest" / "0001").iterdir())
        told = reported(tmp_path)["conclusion"]
        assert sorted(path.name for path in (tmp_path / "latest" / "0001").iterdir()) == before
        assert "still runs" in running["reasons"][0]
        assert told["verdict"] == "incomplete"
        assert "killed" in told["reasons"][0]
        assert 2.5 < told["figures"]["lasted_s"] <= killed_s + 2  # a worker lives on for up to a second
        assert told["figures"]["attainment"] > 0.9
        length = next(one["text"] for one in told["answers"] if one["question"] == "length")
        assert "known up to" in length
        assert "of 1:00:00, at 2" in length
        # started again it begins anew, beside what there is; the user ends that one
        process = llmgen_command(*flags(endpoint.url, tmp_path, "--length", "1h", "--settle", "1s"))
        until = time.monotonic() + 30
        while not (tmp_path / "latest" / "0001-2" / "run.json").exists() and time.monotonic() < until:
            time.sleep(0.1)
        threading.Event().wait(3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, out + err
    assert "interrupted" in out
    assert "known up to" in out
    assert (tmp_path / "latest" / "0001" / "run.json").exists()
