"""The runs in a folder, newest first: what `llmgen list` shows."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from llmgen.errors import RecordError
from llmgen.metrics.figures import Summary
from llmgen.metrics.summary import read_summary
from llmgen.records import read_info
from llmgen.report.escaping import plain
from llmgen.report.text import STYLES, canvas, number


@dataclass(frozen=True, slots=True)
class Entry:
    """A run directory; `summary` is None for a run that is running, crashed or unreadable, and `state` says which."""

    path: Path
    started_ns: int
    name: str
    state: str
    summary: Summary | None


def list_runs(folder: Path) -> list[Entry]:
    """Runs directly below `folder`, newest first. Raises RecordError if there is no such folder."""
    if not folder.is_dir():
        raise RecordError(f"{folder}: no such folder of runs")
    found = [_entry(path) for path in folder.iterdir() if (path / "run.json").exists() and not path.is_symlink()]
    return sorted(found, key=lambda entry: (entry.started_ns, entry.path.name), reverse=True)


def _entry(path: Path) -> Entry:
    try:
        info: dict[str, Any] = read_info(path)
    except RecordError:
        return Entry(path, int((path / "run.json").stat().st_mtime_ns), path.name, "unreadable", None)
    started = int(info.get("start_realtime_ns") or (path / "run.json").stat().st_mtime_ns)
    name = str(info.get("name") or path.name)
    try:
        summary = read_summary(path)
    except RecordError:
        state = str(info.get("state", "incomplete"))
        return Entry(path, started, name, "no summary" if state == "complete" else state, None)
    return Entry(path, started, name, summary.verdict.status, summary)


def render(entries: Sequence[Entry], *, width: int = 80, color: bool = False) -> str:
    """A table that fits `width` columns, one line a run."""
    if not entries:
        return "no runs\n"
    console, out = canvas(width, color)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("run", ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("started (UTC)", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for title in ("rate/s", "TTFT p50", "p95"):
        table.add_column(title, justify="right", no_wrap=True)
    for entry in entries:
        when = datetime.datetime.fromtimestamp(entry.started_ns / 1e9, datetime.UTC).strftime("%Y-%m-%d %H:%M")
        table.add_row(
            Text(plain(entry.path.name)),
            Text(when, "dim"),
            Text(plain(entry.state), STYLES.get(entry.state, "dim")),
            *_figures(entry.summary),
        )
    console.print(table)
    return out()


def _figures(summary: Summary | None) -> tuple[str, str, str]:
    """Offered rate and TTFT from due p50 and p95 in ms (E2E where nothing streamed is not the same: left empty)."""
    if summary is None:
        return "", "", ""
    rate = "" if summary.load.offered_rate is None else number(summary.load.offered_rate)
    ttft = summary.latency.ttft_from_due_ms
    return (rate, "", "") if ttft is None else (rate, number(ttft.p50), number(ttft.p95))
