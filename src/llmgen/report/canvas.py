"""What the reports in the terminal are made of: headings, lines, tables, and numbers written short."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmgen.metrics.statistics import Dist

LABEL_WIDTH: Final = 14


def canvas(width: int, color: bool) -> tuple[Console, Callable[[], str]]:
    """A console of `width` columns, and what was printed to it, without blanks at the ends of lines."""
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    return console, lambda: "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def heading(console: Console, title: str, note: str = "") -> None:
    console.print()
    console.print(Text.assemble((title, "bold cyan"), (f"  {note}" if note else "", "dim")))


def line(console: Console, label: str, text: str) -> None:
    if not text:
        return
    grid = Table.grid()
    grid.add_column(width=LABEL_WIDTH)
    grid.add_column(ratio=1)
    grid.add_row(Text(f" {label}", "dim"), Text(text))
    console.print(grid)


def item(console: Console, mark: str, text: str, style: str) -> None:
    grid = Table.grid()
    grid.add_column(width=3)
    grid.add_column(ratio=1)
    grid.add_row(Text(f" {mark}", style), Text(text, "dim" if style == "dim" else ""))
    console.print(grid)


def columns(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 0, 0, 1), header_style="dim")
    table.add_column("", min_width=LABEL_WIDTH, no_wrap=True, overflow="ellipsis")
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True, min_width=7)
    return table


def percentile(dist: Dist, field: str) -> Text:
    few = field in dist.too_few
    return Text(f"{number(getattr(dist, field))}{'*' if few else ''}", "dim" if few else "")


def share(value: float) -> str:
    """A share of 1 as percent, three digits; 100 % and 0 % only if it is."""
    text = f"{100 * value:.3g}"
    if (text == "100" and value != 1) or (text == "0" and value):
        text = f"{100 * value:.6g}"
    return f"{text} %"


def percent(part: int, whole: int) -> str:
    return share(part / whole) if whole else "–"


def number(value: float) -> str:
    """Three significant digits, all digits before the point, at most three after it."""
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size >= 1:
        return f"{value:.2f}"
    if 0 < size < 0.0005:
        return "<0.001"
    return f"{value:.3f}".rstrip("0").rstrip(".")
