"""A selfbench in the terminal."""

from __future__ import annotations

from rich.text import Text

from llmgen.report.canvas import canvas, columns, heading, item, line
from llmgen.report.escaping import plain
from llmgen.selfbench.figures import SelfBench
from llmgen.selfbench.tables import limit_notes, tables, timer_text, where


def render(found: SelfBench, *, width: int = 80, color: bool = False) -> str:
    console, finished = canvas(width, color)
    if found.state != "complete":
        console.print(Text(f"partial: {', '.join(found.reasons)}; what was measured until then", "bold yellow"))
    console.print(Text(plain(found.sentence), "bold"))
    console.print()
    line(console, "placement", where(found))
    line(console, "C timer loop", timer_text(found))
    line(console, "took", f"{found.took_s:.0f} s" + (", quick" if found.quick else ""))
    for note in found.notes:
        item(console, "!", plain(note), "yellow")
    for table in tables(found):
        heading(console, table.title, table.note)
        shown = columns(*table.head)
        for row in table.rows:
            shown.add_row(*(Text(plain(cell)) for cell in row))
        console.print(shown)
        if table.title == "LIMITS":
            if any(ramp.limit.reserved and ramp.limit.per_s is not None for ramp in found.ramps):
                item(console, "*", "the verdict was suspect at every load", "yellow")
            for note in limit_notes(found):
                item(console, "·", plain(note), "dim")
    return finished()
