"""A series of runs in the terminal: what it concludes, and its runs in a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.text import Text

from llmgen.report.canvas import canvas, columns, heading, item, number, share
from llmgen.report.escaping import plain

# heading → (figure of metrics/factors.py, whether it is a share)
SHOWN: Final[Mapping[str, tuple[str, bool]]] = {
    "TTFT p50": ("ttft_p50", False),
    "p95 ms": ("ttft_p95", False),
    "TPOT p50": ("tpot_p50", False),
    "tokens/s": ("output_tokens_per_s", False),
    "errors": ("error_rate", True),
}


def render_runs(title: str, runs: Sequence[Mapping[str, Any]], *, width: int = 80, color: bool = False) -> str:
    """`runs`: those of suite.json as plain values."""
    console, finished = canvas(width, color)
    console.print(Text(plain(title), style="bold"))
    heading(console, "RUNS")
    rates = any(run.get("rate") is not None for run in runs)
    table = columns("run", *(["req/s"] if rates else []), *SHOWN, "verdict")
    for run in runs:
        figures = run.get("figures") or {}
        table.add_row(
            plain(str(run.get("number"))) + " " + plain(str(run.get("label")), 28),
            *([_cell(run.get("rate"), False)] if rates else []),
            *(_cell(figures.get(name), is_share) for name, is_share in SHOWN.values()),
            Text(_state(run)),
        )
    console.print(table)
    for run in runs:
        for note in notes_of(run):
            item(console, "·", plain(f"run {run.get('number')}: {note}"), "dim")
    return finished()


def notes_of(run: Mapping[str, Any]) -> list[str]:
    """What else happened around a run."""
    found = []
    if run.get("stopped"):
        found.append(f"ended by its stop rule: {run['stopped']}")
    if run.get("waited_s"):
        found.append(f"the target was away before it; it was awaited for {run['waited_s']:.0f} s")
    if (run.get("tries") or 0) > 1:
        found.append(f"{run['tries']} tries")
    return found


def _state(run: Mapping[str, Any]) -> str:
    if run.get("stopped"):
        return "stopped"
    return str(run.get("verdict") or run.get("state"))


def _cell(value: float | None, is_share: bool) -> str:
    if value is None:
        return "–"
    return share(value) if is_share else number(value)
