"""The report of a test strategy: text at 80 columns, and the page; what a server said is hostile."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llmgen.errors import RecordError
from llmgen.metrics.conclusion import Answer, Conclusion, Course, Mark, Outage, Phase, Step
from llmgen.metrics.figures import Finding
from llmgen.report.strategy import read_conclusion, render
from llmgen.report.strategy_page import figures_of, render_page

HOSTILE = "\x1b[31m</script><b onclick=x>\u202e"


def step(number: int, rate: float) -> Step:
    return Step(
        label=f"{rate:g} req/s",
        run=number,
        seconds=15,
        offered_per_s=rate,
        succeeded_per_s=rate,
        tokens_per_s=100 * rate,
        ttft_p50_ms=50,
        ttft_p95_ms=90,
        tpot_p50_ms=10,
        tpot_p95_ms=None,
        e2e_p50_ms=900,
        attainment=0.9991,
        error_rate=0.0,
        in_flight=4,
        growth_per_s=0,
        verdict="valid",
    )


def conclusion(**changes: Any) -> Conclusion:
    course = Course(
        run=3,
        width_s=0.5,
        offered_per_s=[10.0, 20.0, None],
        in_flight=[1.0, 2.0, 3.0],
        tokens_per_s=[100.0, 200.0, 200.0],
        errors_per_s=[0.0, 0.0, 0.0],
        attainment=[1.0, None, 0.5],
        ttft_p50_ms=[50.0, 60.0, 70.0],
        marks=[Mark(t_s=0.5, text=f"overload {HOSTILE}")],
    )
    plain: dict[str, Any] = {
        "strategy": "stress",
        "asks": "what happens beyond the peak?",
        "goal": "95 % of the requests succeed",
        "verdict": "failed",
        "reasons": [f"recovery: {HOSTILE}"],
        "phases": [Phase(state="loading", said=f"503 {HOSTILE}", from_s=0.0, until_s=2.5, looks=11)],
        "answers": [Answer(question="first errors", text=f"“{HOSTILE}”")],
        "figures": {"recovery_s": None},
        "steps": [step(1, 10), step(2, 1234.5), step(3, 20)],
        "course": course,
        "outages": [Outage(run=2, from_s=1.25, until_s=None, failures={"connect_refused": 7})],
        "findings": [Finding(rule="saturation", suspicion="saturated", evidence=(HOSTILE,), advice="fewer")],
        "notes": [HOSTILE],
        "advice": "llmgen test spike",
    }
    return Conclusion(**(plain | changes))


RUNS = [
    {"number": 1, "label": HOSTILE, "directory": "0001", "verdict": "valid", "stopped": "error_rate>10% for 5s"},
    {"number": 2, "label": "x", "directory": "javascript:alert(1)//", "state": "incomplete", "tries": 3},
]


def test_text_says_it_within_80_columns() -> None:
    text = render("nightly", conclusion(), RUNS, width=80)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert text.startswith("STRESS nightly  FAILED\nwhat happens beyond the peak?\n goal         95 % of")
    for part in (
        "run 2: the target was away from 1.2 s and did not come back (7 connect_refused)",
        "run 1: ended by its stop rule: error_rate>10% for 5s",
        "run 2: 3 tries",
        "2 1234.5 req/s",
        "99.9 %",
        "try: fewer",
        "→ llmgen test spike",
    ):
        assert part in " ".join(text.split()), "lines are folded"
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_the_page_is_harmless_and_has_its_pictures() -> None:
    page = render_page("nightly", conclusion(), RUNS)
    outside_of_scripts = page.replace("<script", "\0<script").split("\0")[0]
    assert "<b onclick" not in outside_of_scripts
    assert page.count("</script><b") == 0
    assert 'href="0001/report.html"' in page
    assert 'href="javascript' not in page
    figures = figures_of(conclusion())
    assert list(figures) == ["against-load", "course"]
    # run 3 is the continuous one: its phases are no points of the curve
    assert figures["against-load"]["data"][0]["x"] == [10, 1234.5]
    panels = [one["text"] for one in figures["course"]["layout"]["annotations"]]
    assert "failed requests/s" not in panels, "nothing failed"
    assert "in flight" in panels
    assert list(figures_of(conclusion(course=None, steps=[step(1, 5)]))) == []


def test_a_conclusion_survives_the_file_and_another_is_refused() -> None:
    told = msgspec.to_builtins(conclusion())
    assert read_conclusion(told) == conclusion()
    with pytest.raises(RecordError, match="its conclusion cannot be read"):
        read_conclusion(told | {"verdict": "splendid"})
