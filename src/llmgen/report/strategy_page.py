"""What a test strategy concluded, as one page: latency and throughput against load, its continuous run over time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from llmgen.metrics.conclusion import Conclusion, Course, Step
from llmgen.metrics.figures import Finding
from llmgen.report import page
from llmgen.report.palette import PALETTE
from llmgen.report.plots import Figure, Panel, label, stacked
from llmgen.report.series import notes_of
from llmgen.report.strategy import TITLES, cells, outage_told

FEWEST: Final = 2  # steps that make a curve
# the verdict's colours are those of a run's
LOOKS: Final = {"passed": "valid", "failed": "invalid", "invalid": "invalid", "incomplete": "incomplete"}


def render_page(name: str, conclusion: Conclusion, runs: Sequence[Mapping[str, Any]]) -> str:
    """`runs`: those of suite.json as plain values."""
    figures = figures_of(conclusion)
    happened = [
        *(outage_told(one) for one in conclusion.outages),
        *conclusion.notes,
        *(f"run {run.get('number')}: {note}" for run in runs for note in notes_of(run)),
    ]
    before = [f"{phase.from_s:.1f} s: {phase.state} {phase.said}".strip() for phase in conclusion.phases]
    answers = [f"{one.question}: {one.text}" for one in conclusion.answers]
    parts = [
        _header(name, conclusion),
        page.section("Before the load", page.listed(before)),
        page.section("Answers", page.listed(answers)),
        *(page.picture(place) for place in figures),
        page.section("Steps", _steps(conclusion.steps)),
        page.section("What happened", page.listed(happened)),
        page.section("Diagnosis", "".join(_finding(one) for one in conclusion.findings)),
        page.section("Next", f"<p>{page.text(conclusion.advice)}</p>" if conclusion.advice else ""),
        page.section("Runs", _runs(runs)),
    ]
    return page.document(f"{conclusion.strategy} · {name} · llmgen", "\n".join(parts), figures)


def _header(name: str, conclusion: Conclusion) -> str:
    look, title = LOOKS[conclusion.verdict], page.text(f"{conclusion.strategy}: {name}")
    return (
        f'<header><h1>{title}</h1><p class="what">{page.text(conclusion.asks)} Goal: {page.text(conclusion.goal)}</p>'
        f'<p class="verdict {look}"><strong>{page.text(conclusion.verdict)}</strong></p>'
        f"{page.listed(conclusion.reasons)}</header>"
    )


def _steps(steps: Sequence[Step]) -> str:
    rows = [(f"{one.run} {one.label}", f"{one.offered_per_s:.3g}", *cells(one), one.verdict or "–") for one in steps]
    return page.table(("step", "offered/s", *TITLES, "run"), rows)


def _finding(one: Finding) -> str:
    return (
        f'<div class="finding"><h3>{page.text(one.suspicion)}</h3>{page.listed(one.evidence)}'
        f"<p>{page.text(one.advice)}</p></div>"
    )


def _runs(runs: Sequence[Mapping[str, Any]]) -> str:
    """A link to the report of each run, beside this page."""
    lines = []
    for run in runs:
        told = page.text(f"{run.get('number')} {run.get('label')}: {run.get('verdict') or run.get('state')}")
        place = str(run.get("directory"))
        # a name of a series' own, no address that somebody wrote into the file
        linked = re.fullmatch(r"\d{4,}(-\d+)?", place) is not None
        lines.append(f'<li><a href="{place}/report.html">{told}</a></li>' if linked else f"<li>{told}</li>")
    return f"<ul>{''.join(lines)}</ul>" if lines else ""


# -- pictures ----------------------------------------------------------------------------------------------------------


def figures_of(conclusion: Conclusion) -> dict[str, Figure]:
    """Pictures by their place; those without data are left out."""
    found = {}
    rates = [one for one in conclusion.steps if conclusion.course is None or one.run != conclusion.course.run]
    if len({one.offered_per_s for one in rates}) >= FEWEST:
        found["against-load"] = against_load(rates)
    if conclusion.course is not None:
        found["course"] = over_time(conclusion.course)
    return found


def against_load(steps: Sequence[Step]) -> Figure:
    """Latency, throughput and attainment by offered rate."""
    ordered = sorted(steps, key=lambda one: one.offered_per_s)
    x = [_short(one.offered_per_s) for one in ordered]
    panels: list[Panel] = []
    for title, wanted in (
        ("TTFT from due, ms: p50, p95", (("ttft_p50_ms", "p50", 2), ("ttft_p95_ms", "p95", 1))),
        ("TPOT, ms: p50, p95", (("tpot_p50_ms", "p50", 2), ("tpot_p95_ms", "p95", 1))),
        ("output tokens/s", (("tokens_per_s", "output tokens/s", 0),)),
        ("good and failed requests, share", (("attainment", "good", 2), ("error_rate", "failed", 5))),
    ):
        curves = [_curve(x, [_short(getattr(one, key)) for one in ordered], name, color) for key, name, color in wanted]
        curves = [one | {"mode": "lines+markers", "text": [label(step.label) for step in ordered]} for one in curves]
        if any(value is not None for one in curves for value in one["y"]):
            panels.append((title, curves, False))
    return stacked(panels, "offered requests/s", [])


def over_time(course: Course) -> Figure:
    """The continuous run: load, in flight, throughput in its stairs, attainment, TTFT, failures; marks across all."""
    x = [_short((number + 0.5) * course.width_s) for number in range(len(course.in_flight))]
    panels: list[Panel] = []
    for title, values, color in (
        ("offered requests/s", course.offered_per_s, 7),
        ("in flight", course.in_flight, 2),
        ("output tokens/s", course.tokens_per_s, 0),
        ("good requests by due time, share", course.attainment, 2),
        ("TTFT from due p50, ms", course.ttft_p50_ms, 1),
        ("failed requests/s", course.errors_per_s, 5),
    ):
        if any(values):
            panels.append((title, [_curve(x, list(values), title, color)], False))
    line = {"color": PALETTE[3], "width": 1.2, "dash": "dot"}
    shapes = [
        {
            "type": "line",
            "x0": mark.t_s,
            "x1": mark.t_s,
            "y0": 0,
            "y1": 1,
            "xref": "x",
            "yref": "paper",
            "line": line,
            "label": {"text": label(mark.text), "textangle": -90, "textposition": "start", "font": {"size": 10}},
        }
        for mark in course.marks
    ]
    return stacked(panels, f"seconds since the start of run {course.run}", shapes)


def _curve(x: list[float | None], y: list[float | None], name: str, color: int) -> dict[str, Any]:
    line = {"color": PALETTE[color % len(PALETTE)], "width": 1.6}
    return {"type": "scatter", "mode": "lines", "name": name, "x": x, "y": y, "connectgaps": True, "line": line}


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
