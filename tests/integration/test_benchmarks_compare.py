"""benchmarks/compare.py: the true figures of a run, a tool that fails, hangs, or is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.compare import logged
from benchmarks.processes import watched

from llmgen.simulator.truth import END, REQUEST, TRUTH_DTYPE, WRITE, Truth

ROOT = Path(__file__).parents[2]


def test_the_table_tells_figures_failures_and_absence(tmp_path):
    broken = tmp_path / "aiperf"
    broken.write_text("#!/bin/sh\nprintf 'no \\033[31mtokenizer\\n' >&2\nexit 3\n")
    broken.chmod(0o755)
    environment = {**os.environ, "LLMGEN_PEER_AIPERF": str(broken), "LLMGEN_PEER_GUIDELLM": str(tmp_path / "absent")}
    command = [sys.executable, "-m", "benchmarks.compare", "--streams", "4", "--rate", "4", "--seconds", "3", "--json"]
    command += ["--only", "llmgen,aiperf,guidellm"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["not_installed"] == ["GuideLLM"]
    (ours,), (failed,) = told["rounds_of"]["llmgen"], told["rounds_of"]["AIPerf"]
    assert "exit code 3" in failed["error"]
    assert "tokenizer" in failed["error"]
    assert "\x1b" not in failed["error"]
    # how much of the load a busy machine delivers is not this test's matter; that the figures belong together is
    assert ours["begun"] == ours["answered"] > 1
    assert ours["events"] >= 200 * ours["begun"]
    assert 90 < ours["ttft_p50"] - ours["ttft_p50_error"] < 1000
    assert 10 < ours["gap_p50"] - ours["gap_p50_error"] < 100
    assert 0 < ours["cpu_us_load"] <= ours["cpu_us_all"] * 1.2
    assert ours["rate"] > 0
    assert 0 < ours["ks"] < 1
    assert ours["peak_mb"] > 10


def test_an_unknown_tool_is_named():
    command = [sys.executable, "-m", "benchmarks.compare", "--only", "ab"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "no such tool" in done.stderr
    assert "h2load" in done.stderr


def fabricated(arrivals_ns: np.ndarray, ttft_ns: int, gap_ns: int, tokens: int) -> Truth:
    """The log of a server that was never late."""
    rows = np.zeros((len(arrivals_ns), tokens + 2), TRUTH_DTYPE)
    rows["serial"] = np.arange(len(arrivals_ns))[:, None]
    rows["kind"] = [REQUEST, *[WRITE] * tokens, END]
    rows["t"] = arrivals_ns[:, None] + np.array([0, *(ttft_ns + gap_ns * np.arange(tokens)), ttft_ns + gap_ns * tokens])
    rows["tokens"][:, 1:-1] = rows["events"][:, 1:-1] = 1
    flat = rows.reshape(-1)
    return Truth(*(flat[flat["kind"] == kind] for kind in (REQUEST, WRITE, END, -1)))


def test_the_log_tells_the_true_times_without_the_first_look_at_the_server():
    steps = np.random.default_rng(1).exponential(20e6, 2000)  # 50 a second
    arrivals = np.concatenate([[0], 5_000_000_000 + np.cumsum(steps)]).astype(np.int64)
    log = logged(fabricated(arrivals, 100_000_000, 20_000_000, 10), 0)
    assert log.begun == 2000
    assert log.start_ns == arrivals[1]
    assert (log.ttft.p50, log.ttft.p99, log.gap.p50, log.gap.p99) == (100, 100, 20, 20)
    assert log.mean_gap.p99 == 20
    assert log.rate == pytest.approx(50, rel=0.05)
    assert log.ks < 1.36 / 2000**0.5
    even = logged(fabricated(np.arange(2000) * 20_000_000, 100_000_000, 20_000_000, 10), 0)
    assert even.ks == pytest.approx(1 - np.exp(-1), abs=0.01)


def test_a_tool_that_hangs_is_ended_with_all_its_processes(tmp_path):
    command = ["sh", "-c", "sleep 300 & echo $!; wait"]
    cores = sorted(os.sched_getaffinity(0))
    done = watched(command, cores, dict(os.environ), tmp_path, 1.0)
    assert done.code is None
    status = Path(f"/proc/{int(done.output)}/stat")
    assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"
