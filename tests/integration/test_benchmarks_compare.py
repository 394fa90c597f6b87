"""benchmarks/compare.py: the true figures of a run, a tool that fails, a tool that is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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
