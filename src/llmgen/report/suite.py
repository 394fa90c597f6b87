"""A suite in the terminal: its cells, what each factor changes, and the same bodies streamed and not."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmgen.metrics.factors import FIGURES, CellRun, Effect, Streamed
from llmgen.report.escaping import plain

COLUMNS: Final = ("ttft_p50", "ttft_p95", "tpot_p50", "e2e_p50", "output_tokens_per_s", "in_flight", "error_rate")


def render_suite(
    title: str,
    cells: Sequence[Mapping[str, str]],
    runs: Sequence[CellRun],
    effects: Sequence[Effect],
    streamed: Sequence[Streamed],
    label: Callable[[Mapping[str, str]], str],
    *,
    width: int = 100,
    color: bool = False,
) -> str:
    """`cells`: their levels, by number; `label` names a combination of levels in one line."""
    out = io.StringIO()
    console = Console(file=out, width=max(60, width), force_terminal=color, no_color=not color, highlight=False)
    console.print(Text(plain(title), style="bold"))
    console.print()
    console.print(_cells(cells, runs, label))
    for factor in dict.fromkeys(one.factor for one in effects):
        console.print()
        console.print(_factor(factor, [one for one in effects if one.factor == factor]))
    if effects:
        console.print(
            Text(
                "change: mean over pairs of runs that differ in this factor only, with its 95 % interval; "
                "* the interval leaves 0 out",
                style="dim",
            )
        )
    if streamed:
        console.print()
        console.print(_streamed(streamed, label))
        console.print(Text("ms; difference: median of whole minus streamed E2E, pair by pair", style="dim"))
    return out.getvalue()


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")


def _cells(
    cells: Sequence[Mapping[str, str]], runs: Sequence[CellRun], label: Callable[[Mapping[str, str]], str]
) -> Table:
    """Means over the repeats."""
    table = _table("cells, means over repeats")
    table.add_column("cell", overflow="fold")
    table.add_column("runs", justify="right")
    shown = [name for name in COLUMNS if any(one.figures.get(name) is not None for one in runs)]
    for name in shown:
        table.add_column(_heading(name), justify="right", overflow="fold")
    for number, levels in enumerate(cells):
        own = [one for one in runs if one.cell == number]
        values = [[v for one in own if (v := one.figures.get(name)) is not None] for name in shown]
        table.add_row(
            Text(plain(label(levels))),
            str(len(own)),
            *(_number(float(np.mean(column))) if column else "-" for column in values),
        )
    return table


def _factor(factor: str, effects: Sequence[Effect]) -> Table:
    base = effects[0].base
    table = _table(plain(f"{factor}: against {base}"))
    for name in ("level", "figure", f"at {base}", "change", "95 %", "", "by cell"):
        table.add_column(plain(name), justify="left" if name in ("level", "figure", "") else "right", overflow="fold")
    for one in effects:
        percent = f" ({100 * one.difference / one.base_mean:+.1f} %)" if one.base_mean else ""
        interval = "-" if one.ci95 is None else f"{_number(one.ci95[0])} … {_number(one.ci95[1])}"
        spread = "" if one.smallest == one.largest else f"{_number(one.smallest)} … {_number(one.largest)}"
        table.add_row(
            Text(plain(one.level)),
            _heading(one.figure),
            _number(one.base_mean),
            f"{_number(one.difference, sign=True)}{percent}",
            interval,
            "*" if one.clear else "",
            spread,
        )
    return table


def _streamed(streamed: Sequence[Streamed], label: Callable[[Mapping[str, str]], str]) -> Table:
    table = _table("the same bodies streamed and not")
    table.add_column("cell", overflow="fold")
    for name in ("pairs", "TTFT p50", "E2E p50 streamed", "whole", "difference", "95 %", "same output"):
        table.add_column(name, justify="right", overflow="fold")
    for one in streamed:
        table.add_row(
            Text(plain(label(one.levels))),
            str(one.pairs),
            _number(one.ttft_p50_ms),
            _number(one.streamed_e2e_p50_ms),
            _number(one.whole_e2e_p50_ms),
            _number(one.difference_p50_ms, sign=True),
            f"{_number(one.ci95[0])} … {_number(one.ci95[1])}",
            "-" if one.same_output is None else f"{100 * one.same_output:.0f} %",
        )
    return table


def _heading(name: str) -> str:
    unit = FIGURES[name][0]
    return name.replace("_", " ") + (f" {unit}" if unit == "ms" else "")


def _number(value: float | None, *, sign: bool = False) -> str:
    if value is None:
        return "-"
    size = abs(value)
    if size < 0.00005:  # would be 0.0000, and -0.0000
        return "0"
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 else 4
    return f"{value:{'+' if sign else ''},.{digits}f}"
