"""The checklist is filled in from what runs did, over all of them together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fabricate import event_rows, request_rows, run_info, write_run
from llmgen.metrics.checklist import Check, checklist_of
from llmgen.metrics.figures import Summary
from llmgen.metrics.summary import summarise
from llmgen.records import open_run
from llmgen.report.checklist import render


def one(path: Path, *, inputs: tuple[int, ...] = (7,), **changes: Any) -> tuple[Summary, dict[str, Any]]:
    rows = request_rows(60)
    rows["input_tokens"] = np.resize(inputs, 60)
    told = run_info(60, **{key: value for key, value in changes.items() if key != "config"})
    told["config"] |= changes.get("config", {})
    run = open_run(write_run(path, rows, event_rows(rows), told))
    return summarise(run), run.info


def states(checks: tuple[Check, ...]) -> dict[str, str]:
    return {check.item.split()[0]: check.state for check in checks}


def test_a_plain_run(tmp_path: Path) -> None:
    found = states(checklist_of([one(tmp_path / "a")]))
    assert found == {
        "prompt": "partly",
        "TTFT,": "done",
        "short,": "partly",
        "streaming": "partly",
        "load,": "partly",
        "server": "open",
        "autoscaling": "open",
        "targets": "open",
    }


def test_runs_of_a_suite_answer_together(tmp_path: Path) -> None:
    whole = [{"name": "default", "slo": [], "stream": False}]
    runs = [
        one(tmp_path / "a", inputs=(50, 1000, 9000), config={"slo": ["ttft<1s"]}),
        one(tmp_path / "b", classes=whole, config={"regression": ["ttft_p95:5%"], "telemetry": [{"url": "http://n"}]}),
    ]
    checks = checklist_of(runs)
    found = states(checks)
    assert (found["short,"], found["streaming"], found["server"], found["targets"]) == ("done",) * 4
    assert any("short 80" in check.note or "short" in check.note for check in checks)


def test_no_run_at_all() -> None:
    assert set(states(checklist_of([])).values()) == {"open"}


def test_the_list_fits_the_terminal(tmp_path: Path) -> None:
    text = render(checklist_of([one(tmp_path / "a")]))
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("✗") == 3
    assert "\x1b[" in render(checklist_of([]), color=True)
