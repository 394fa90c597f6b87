"""The report as a table for a terminal."""

from __future__ import annotations

from typing import Final

from rich.table import Table
from rich.text import Text

from llmgen.checks.findings import Check, Level, Report
from llmgen.report.canvas import canvas

MARKS: Final = {Level.ok: ("✓", "green"), Level.warn: ("!", "yellow"), Level.fail: ("✗", "bold red")}
NAME_WIDTH: Final = 12  # "warm request"


def render(report: Report, *, width: int, color: bool) -> str:
    """Checks by group, each with its mark, what was found and, where something is to be done, the cure below it."""
    console, finished = canvas(width, color)
    for group in dict.fromkeys(check.group for check in report.checks):
        console.print(Text(group, "bold"))
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
        table.add_column(width=1)
        table.add_column(width=NAME_WIDTH)
        table.add_column(ratio=1, overflow="fold")
        for check in report.checks:
            if check.group == group:
                _add(table, check)
        console.print(table)
        console.print()
    console.print(_conclusion(report))
    return finished()


def _add(table: Table, check: Check) -> None:
    mark, style = MARKS[check.level]
    table.add_row(Text(mark, style), check.name, Text(check.found))
    if check.cure is not None:
        table.add_row("", "", Text(f"→ {check.cure}", "dim" if check.level is Level.ok else style))


def _conclusion(report: Report) -> Text:
    fails = sum(check.level is Level.fail for check in report.checks)
    warnings = sum(check.level is Level.warn for check in report.checks)
    if fails:
        return Text(f"{fails} of {len(report.checks)} checks failed: a run would not work like this", "bold red")
    if warnings:
        return Text(f"no check failed, {warnings} of {len(report.checks)} may cost a run its credit", "yellow")
    return Text(f"all {len(report.checks)} checks are fine", "green")
