"""The runs of a folder, newest first: one line each from run.json and summary.json."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmgen.errors import RecordError
from llmgen.metrics.summary import read_summary
from llmgen.records import read_info
from llmgen.report.escaping import plain

STYLES: Final = {"valid": "green", "suspect": "yellow", "invalid": "red", "incomplete": "red"}


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What the list shows of a run. Rates are requests/s, latencies ms; None where there is no such number."""

    directory: str
    started: str | None  # UTC, to the second
    name: str | None
    state: str  # the verdict; `unfinished` for a run without a summary
    requests: int | None = None
    succeeded: int | None = None
    offered_rate: float | None = None
    ttft_p50_ms: float | None = None
    ttft_p99_ms: float | None = None


def find_runs(folder: Path) -> list[Entry]:
    """Entries of all run directories in `folder`, newest first. Raises RecordError if the folder cannot be read."""
    try:
        candidates = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    except OSError as error:
        raise RecordError(f"{folder}: {error.strerror}; it should be a folder of runs (--out of llmgen run)") from None
    found = []
    for path in candidates:
        if (path / "run.json").exists():
            found.append(_entry(path))
        elif (path / "suite.json").exists():
            found.append(_suite(path))
    # By start; the directory's name, which begins with the time, decides between equals and for damaged ones.
    return sorted(found, key=lambda entry: (entry.started or "", entry.directory), reverse=True)


def _entry(path: Path) -> Entry:
    try:
        info = read_info(path)
    except RecordError:
        return Entry(directory=str(path), started=None, name=None, state="damaged")
    start = info.get("start_realtime_ns")
    started = datetime.fromtimestamp(start / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S") if start else None
    name = info.get("name")
    try:
        summary = read_summary(path)
    except RecordError:
        return Entry(directory=str(path), started=started, name=name, state="unfinished")
    ttft = summary.latency.ttft_from_due_ms
    return Entry(
        directory=str(path),
        started=started,
        name=name,
        state=summary.verdict.status,
        requests=summary.requests.scheduled,
        succeeded=summary.requests.succeeded,
        offered_rate=summary.load.offered_rate,
        ttft_p50_ms=None if ttft is None else ttft.p50,
        ttft_p99_ms=None if ttft is None else ttft.p99,
    )


def _suite(path: Path) -> Entry:
    """A suite: how many of its runs are there, as its state."""
    try:
        suite = msgspec.json.decode((path / "suite.json").read_bytes())
        done = sum(run["state"] == "complete" for run in suite["runs"])
        kind = suite.get("kind", "matrix")
        # how many runs a series will have is not known before its end
        state = f"suite {done}/{len(suite['runs'])}" if kind == "matrix" else _series(suite, kind, done)
        stamp = datetime.strptime(path.name.partition("-")[0], "%Y%m%dT%H%M%SZ")
    except (OSError, msgspec.MsgspecError, KeyError, TypeError, ValueError):
        return Entry(directory=str(path), started=None, name=None, state="damaged")
    return Entry(directory=str(path), started=f"{stamp:%Y-%m-%d %H:%M:%S}", name=suite.get("name"), state=state)


def _series(suite: dict[str, Any], kind: str, done: int) -> str:
    if suite.get("state") != "complete":
        return plain(f"{kind} unfinished, {done} run" + "s" * (done != 1), 40)
    return plain(f"{kind} {suite.get('outcome') or 'done'}", 40)


def render(entries: Iterable[Entry], console: Console) -> None:
    """Prints the list as a table; TTFT is from due."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("started (UTC)", "verdict", "requests", "ok", "req/s", "TTFT p50", "p99 ms"):
        table.add_column(title, justify="left" if title in ("started (UTC)", "verdict") else "right", no_wrap=True)
    table.add_column("run", overflow="fold")
    for entry in entries:
        table.add_row(
            Text(entry.started or "-"),
            Text(entry.state, style=STYLES.get(entry.state, "")),
            *(_number(value) for value in (entry.requests, entry.succeeded)),
            *(_number(value) for value in (entry.offered_rate, entry.ttft_p50_ms, entry.ttft_p99_ms)),
            Text(plain(entry.directory)),
        )
    console.print(table)


def _number(value: float | None) -> Text:
    if value is None:
        return Text("-")
    return Text(f"{value:,}" if isinstance(value, int) else f"{value:,.1f}")
