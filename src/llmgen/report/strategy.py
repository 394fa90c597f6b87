"""What a test strategy concluded, in the terminal: verdict, answers, steps, what happened, what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.text import Text

from llmgen.errors import RecordError
from llmgen.metrics.conclusion import Conclusion, Outage, Step
from llmgen.report.canvas import canvas, columns, heading, item, line, number, share
from llmgen.report.escaping import plain
from llmgen.report.series import notes_of

STYLES: Final = {"passed": "bold green", "failed": "bold red", "invalid": "bold red", "incomplete": "bold yellow"}
MARKS: Final = {"passed": ("✓", "green"), "failed": ("✗", "bold red")}
TITLES: Final = ("ok/s", "tok/s", "TTFT50", "p95", "TPOT95", "good", "errors")


def read_conclusion(told: Mapping[str, Any]) -> Conclusion:
    """`conclusion` of suite.json. RecordError if it is not one that this version reads."""
    try:
        return msgspec.convert(told, Conclusion)
    except msgspec.ValidationError as error:
        raise RecordError(f"suite.json: its conclusion cannot be read: {error}") from None


def render(
    name: str, conclusion: Conclusion, runs: Sequence[Mapping[str, Any]], *, width: int = 80, color: bool = False
) -> str:
    """`runs`: those of suite.json as plain values."""
    console, finished = canvas(width, color)
    title = f"{conclusion.strategy.upper()} {plain(name)}  "
    console.print(Text.assemble((title, "bold cyan"), (conclusion.verdict.upper(), STYLES[conclusion.verdict])))
    console.print(Text(plain(conclusion.asks), "dim"))
    line(console, "goal", plain(conclusion.goal))
    mark, style = MARKS.get(conclusion.verdict, ("!", "bold yellow"))
    for reason in conclusion.reasons:
        item(console, mark, plain(reason), style)
    if conclusion.phases:
        heading(console, "BEFORE THE LOAD", "what the target answered, s since the start")
        for phase in conclusion.phases:
            line(console, f"{phase.from_s:.1f}", plain(f"{phase.state} {phase.said}".strip()))
    if conclusion.answers:
        heading(console, "ANSWERS")
        for one in conclusion.answers:
            line(console, plain(one.question), plain(one.text))
    if conclusion.steps:
        heading(console, "STEPS", "ms by due time; good: share that kept the goal")
        _steps(console, conclusion.steps)
    happened = [
        *(outage_told(one) for one in conclusion.outages),
        *conclusion.notes,
        *(f"run {run.get('number')}: {note}" for run in runs for note in notes_of(run) if "awaited" not in note),
    ]
    if happened:
        heading(console, "WHAT HAPPENED")
        for text in happened:
            item(console, "•", plain(text), "yellow")
    if conclusion.findings:
        heading(console, "DIAGNOSIS", "suspicions, each with its evidence")
        for finding in conclusion.findings:
            item(console, "•", plain(finding.suspicion), "yellow")
            for text in (*finding.evidence, f"try: {finding.advice}"):
                item(console, "", plain(text), "dim")
    if conclusion.advice:
        heading(console, "NEXT")
        item(console, "→", plain(conclusion.advice), "cyan")
    return finished()


def _steps(console: Console, steps: Sequence[Step]) -> None:
    table = columns(*TITLES)
    for one in steps:
        table.add_row(plain(f"{one.run} {one.label}", 24), *cells(one))
    console.print(table)


def cells(step: Step) -> list[str]:
    """A step's figures under TITLES."""
    return [
        number(step.succeeded_per_s),
        number(step.tokens_per_s),
        _number(step.ttft_p50_ms),
        _number(step.ttft_p95_ms),
        _number(step.tpot_p95_ms),
        _share(step.attainment),
        _share(step.error_rate),
    ]


def outage_told(outage: Outage) -> str:
    until = "and did not come back" if outage.until_s is None else f"until {outage.until_s:.1f} s"
    failures = ", ".join(f"{count} {name}" for name, count in outage.failures.items())
    return f"run {outage.run}: the target was away from {outage.from_s:.1f} s {until} ({failures})"


def _number(value: float | None) -> str:
    return "–" if value is None else number(value)


def _share(value: float | None) -> str:
    return "–" if value is None else share(value)
