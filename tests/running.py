"""Runs of llmgen for tests, in this process and as a command, and what must hold of every run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmgen.columns import REQUEST_DTYPE, Status
from llmgen.config import Client, Load, RunConfig, Target, Timeouts, Workload, merge
from llmgen.run import Result

PATIENCE_S = 60.0  # no run of these tests may take longer; they take a second or two

ORDER = ("due", "dispatch", "acquired", "connect_start", "connected", "secured", "send", "sent")
ANSWER = ("send", "headers", "first_byte", "first_event", "first_token", "last_token", "end")


def check_rows(rows: np.ndarray) -> None:
    """What holds of every request row, however its request ended."""
    assert len(np.unique(rows["index"])) == len(rows)
    assert not np.isin(rows["status"], [Status.in_flight]).any()
    for names in (ORDER, ANSWER):
        latest = np.full(len(rows), -1, np.int64)
        for name in names:
            there = rows[name] >= 0
            assert (rows[name][there] >= latest[there]).all(), name
            latest = np.maximum(latest, rows[name])
    sent = rows["status"] != Status.never_sent
    assert (rows["dispatch"][sent] >= rows["due"][sent]).all()
    finished = sent & (rows["status"] != Status.lost)
    assert (rows["end"][finished] >= rows["dispatch"][finished]).all()
    ok = rows[rows["status"] == Status.ok]
    assert (ok["http_status"] == 200).all()
    assert (ok["output_tokens"] > 0).all()


def check_run(directory: Path) -> dict[str, Any]:
    """The run's books balance, in summary.json and in requests.npy; the summary."""
    summary = json.loads((directory / "summary.json").read_text())
    rows = np.load(directory / "requests.npy")
    assert rows.dtype == REQUEST_DTYPE
    check_rows(rows)
    counts = summary["requests"]
    failed = sum(counts["failed"].values())
    parts = counts["succeeded"] + failed + counts["cancelled"] + counts["never_sent"] + counts["lost"]
    assert counts["scheduled"] == parts == len(rows), counts
    assert counts["succeeded"] == np.count_nonzero(rows["status"] == Status.ok)
    for name, number in counts["failed"].items():
        assert number == np.count_nonzero(rows["status"] == Status[name]), name
    info = json.loads((directory / "run.json").read_text())
    assert info["state"] in ("complete", "incomplete")
    assert not list(directory.glob("worker-*/")), "raw records stay behind a merge"
    assert (directory / "report.html").stat().st_size > 1000
    return summary


def statuses(rows: np.ndarray) -> dict[str, int]:
    return {Status(int(s)).name: int(n) for s, n in zip(*np.unique(rows["status"], return_counts=True), strict=True)}


def configuration(url: str | list[str], out: Path, **flags: Any) -> RunConfig:
    """A short run: 20 requests at 200/s of 8 words each way; flags are dotted keys as config.merge takes them."""
    urls = (url,) if isinstance(url, str) else tuple(url)
    base = RunConfig(
        out=str(out),
        target=Target(urls=urls),
        load=Load(arrival="constant", rate=200.0, requests=20, drain=10.0),
        workload=Workload(input=8, output=8),
        client=Client(workers=1, timeouts=Timeouts(connect=5.0, first_token=5.0, idle=5.0, total=20.0)),
    )
    return merge(base, flags) if flags else base


Offer = Callable[..., Result]  # the fixture `offer`


def environment(**more: str) -> dict[str, str]:
    env = {
        name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY" and "proxy" not in name.lower()
    }
    return {**env, "COLUMNS": "100", **more}


def llmgen_command(*arguments: object, env: dict[str, str] | None = None, **settings: Any) -> subprocess.Popen[str]:
    """The command as a child in a session of its own, its output in pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "llmgen", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env or environment(),
        start_new_session=True,
        **settings,
    )


def run_command(*arguments: object, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end, PATIENCE_S at most."""
    process = llmgen_command(*arguments, **settings)
    try:
        out, err = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"llmgen {' '.join(map(str, arguments))} hangs\n{out}\n{err}")
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def flags_of_short_run(url: str, out: Path) -> list[object]:
    return [
        *("run", "--url", url, "--out", out, "--arrival", "constant", "--rate", 200, "--requests", 20),
        *("--input-tokens", 8, "--output-tokens", 8, "--workers", 1, "--drain", "10s"),
    ]
