"""The checklist in the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from llmgen.metrics.checklist import Check
from llmgen.report.canvas import canvas, heading, item
from llmgen.report.escaping import plain

MARKS = {"done": ("✓", "green"), "partly": ("~", "yellow"), "open": ("✗", "red")}


def render(checks: Iterable[Check], *, width: int = 80, color: bool = False) -> str:
    """The list as text that ends in a newline."""
    console, finished = canvas(width, color)
    heading(console, "CHECKLIST", "what this did of a thorough test")
    for check in checks:
        mark, style = MARKS[check.state]
        item(console, mark, check.item, style)
        item(console, "", plain(check.note), "dim")
    return finished()
