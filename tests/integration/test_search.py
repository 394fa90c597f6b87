"""llmgen search as a command: what it finds, what it says, and going on after it was killed or interrupted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from running import PATIENCE_S, llmgen_command, run_command

# Other work on the machine makes us late; what is tested here is the search, not the verdict on ourselves.
PATIENT = [f"--verdict={name}" for name in ("invalid_lag_ms=60000", "invalid_delivered=0")]


@pytest.fixture
def flags(serve: Callable[..., Any], tmp_path: Path) -> Callable[..., list[object]]:
    """Of a search against an engine with 16 sequences and a short queue, which refuses what it cannot take."""
    url = serve(engine="tiny,max_waiting=16").url

    def of(*more: object) -> list[object]:
        return [
            *("search", "--url", url, "--out", tmp_path, "--name", "it", "--input-tokens", 16, "--output-tokens", 16),
            *(
                "--rate-min",
                20,
                "--duration",
                "1.2s",
                "--target",
                0.9,
                "--workers",
                1,
                "--drain",
                "5s",
                *PATIENT,
                *more,
            ),
        ]

    return of


def conclusion(folder: Path) -> tuple[Path, dict[str, Any]]:
    (directory,) = [path for path in folder.iterdir() if not path.is_symlink()]
    return directory, json.loads((directory / "suite.json").read_text())


def test_finds_where_the_engine_refuses(flags: Callable[..., list[object]], tmp_path: Path) -> None:
    found = run_command(*flags("--slo", "ttft<10s", "--rate-max", 1280, "--tolerance", 1, "--runs", 4))
    assert found.returncode == 0, found.stdout + found.stderr
    directory, suite = conclusion(tmp_path)
    told = suite["conclusion"]
    assert (told["outcome"], told["limit"], suite["state"]) == ("found", "server", "complete")
    assert 20 <= told["capacity"] < told["upper"] <= 1280
    assert suite["outcome"] == f"{told['capacity']:g} req/s"
    assert "CAPACITY" in found.stdout
    assert [one["rate"] for one in suite["runs"]] == [point["rate"] for point in told["points"]]
    seeds = [json.loads((directory / one["directory"] / "run.json").read_text())["seed"] for one in suite["runs"]]
    assert len(set(seeds)) == len(seeds), "prompts that came before are cached"
    again = run_command("report", directory)
    assert again.stdout == found.stdout
    assert json.loads(run_command("report", directory, "--format", "json").stdout)["conclusion"] == told
    page = directory / "report.html"
    page.unlink()
    assert run_command("report", directory, "--format", "html").stdout.strip() == str(page)
    assert "CAPACITY" in page.read_text()


def test_no_rate_and_every_rate(flags: Callable[..., list[object]]) -> None:
    none = run_command(*flags("--slo", "ttft<1us"))
    assert none.returncode == 3, none.stderr
    assert "NO RATE MEETS THE OBJECTIVES" in none.stdout
    every = run_command(*flags("--slo", "ttft<10s", "--rate-max", 20, "--json"))
    assert every.returncode == 0, every.stderr
    told = json.loads(every.stdout)["conclusion"]
    assert (told["outcome"], told["limit"], told["capacity"]) == ("at-least", "rate-max", 20)


def test_a_server_that_answers_nothing(flags: Callable[..., list[object]], serve: Any, tmp_path: Path) -> None:
    broken = flags("--slo", "ttft<10s")
    broken[2] = serve(fault=("500:1",)).url
    for _ in range(2):  # started again it looks again
        found = run_command(*broken)
        assert found.returncode == 5, found.stderr
        assert "no request succeeded at 20 req/s: llmgen report" in found.stderr
    assert conclusion(tmp_path)[1]["runs"][0]["tries"] == 2


def test_objectives_are_asked_for(flags: Callable[..., list[object]]) -> None:
    found = run_command(*flags())
    assert found.returncode == 2
    assert "--slo" in found.stderr


def until_run(process: subprocess.Popen[str], folder: Path, number: int) -> None:
    """Waits until this process has a run of the search under way."""
    began, deadline = time.time(), time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        for path in folder.glob("*/suite.json"):
            runs = json.loads(path.read_text())["runs"]
            if len(runs) >= number and runs[-1]["state"] == "running" and path.stat().st_mtime > began:
                return
        time.sleep(0.02)
    pytest.fail(f"run {number} did not begin")


def test_goes_on_where_it_was_killed_or_interrupted(flags: Callable[..., list[object]], tmp_path: Path) -> None:
    arguments = flags("--slo", "ttft<10s", "--rate-max", 50, "--runs", 3)
    killed = llmgen_command(*arguments)
    until_run(killed, tmp_path, 2)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=PATIENCE_S)
    interrupted = llmgen_command(*arguments)
    until_run(interrupted, tmp_path, 2)
    time.sleep(1.0)  # its run has begun to send
    interrupted.send_signal(signal.SIGINT)
    out, err = interrupted.communicate(timeout=PATIENCE_S)
    assert interrupted.returncode == 130, err
    assert "resumed: 1 runs are there" in err
    assert re.search("unfinished: .* so far", out)
    assert "20.0 req/s" in out
    finished = run_command(*arguments)
    assert finished.returncode == 0, finished.stderr
    _, suite = conclusion(tmp_path)
    assert [(one["rate"], one["state"]) for one in suite["runs"]] == [(20, "complete"), (50, "complete")]
    assert suite["runs"][0]["tries"] == 1 < suite["runs"][1]["tries"]
    assert suite["conclusion"]["capacity"] == 50
