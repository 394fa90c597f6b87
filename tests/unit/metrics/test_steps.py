"""Goals, steps and courses of fabricated runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fabricate import event_rows, never_sent, request_rows, run_info, write_run
from llmgen.columns import Status
from llmgen.metrics.conclusion import Mark, Step
from llmgen.metrics.goal import TARGET, goal_of
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.slo import parse_all
from llmgen.metrics.steps import course_of, saturated, step_of
from llmgen.records import open_run


def measured(path: Path, rows: np.ndarray) -> Measurements:
    events = event_rows(rows[rows["first_token"] >= 0])
    return Measurements(open_run(write_run(path, rows, events, run_info(len(rows)))))


def step(label: str, offered: float, tokens: float, ttft: float, in_flight: float) -> Step:
    return Step(
        label=label,
        run=1,
        seconds=10,
        offered_per_s=offered,
        succeeded_per_s=offered,
        tokens_per_s=tokens,
        ttft_p50_ms=ttft,
        ttft_p95_ms=2 * ttft,
        tpot_p50_ms=10,
        tpot_p95_ms=12,
        e2e_p50_ms=500,
        attainment=1.0,
        error_rate=0.0,
        in_flight=in_flight,
        growth_per_s=0.0,
    )


@pytest.mark.parametrize(
    ("slos", "given", "limits", "target"),
    [
        ([], None, [], TARGET),
        (["ttft<1s", "tpot<50ms"], None, ["ttft", "tpot"], TARGET),
        (["ttft<1s", "goodput>=0.99"], None, ["ttft"], 0.99),
        (["ttft_p99<1s", "e2e_p50<5s"], None, ["ttft", "e2e"], 0.99),
        (["error_rate<=1%", "ttft_mean<1s", "requests_per_s>5"], None, [], 0.99),
        (["ttft_p99<1s"], 0.8, ["ttft"], 0.8),
    ],
)
def test_what_objectives_amount_to(slos: list[str], given: float | None, limits: list[str], target: float) -> None:
    goal = goal_of(parse_all(slos, {}), given)
    assert [one.metric for one in goal.limits] == limits
    assert goal.target == target


def test_a_goal_by_class_in_words() -> None:
    goal = goal_of(parse_all(["ttft_p95<1s"], {"chat": ["itl<30ms"]}))
    assert goal.told == "95 % of the requests succeed with ttft < 1 s, class chat: itl < 30 ms"
    assert goal.tpot_limit_ms() == 30


def test_a_step_of_known_requests(tmp_path: Path) -> None:
    rows = request_rows(100, every_ms=100, ttft_ms=50, tokens=5)
    slow = request_rows(100, every_ms=100, ttft_ms=500, tokens=5)
    rows[50:75] = slow[50:75]
    rows["status"][75:85] = Status.rate_limited
    goal = goal_of(parse_all(["ttft<200ms"], {}))
    m = measured(tmp_path / "run", rows)
    whole = step_of(m, goal, "all", 4)
    assert (whole.run, whole.offered_per_s, whole.error_rate, whole.attainment) == (4, 10, 0.1, 0.65)
    assert whole.errors == {"rate_limited": 10}
    assert whole.ttft_p50_ms == pytest.approx(51)  # from due: sent a millisecond later
    later = step_of(m, goal, "later", 4, span_s=(5.0, 7.5))
    assert (later.offered_per_s, later.attainment, later.error_rate) == (10, 0.0, 0.0)
    assert later.ttft_p50_ms == pytest.approx(501)


def test_what_a_stop_rule_kept_from_being_sent_is_no_miss(tmp_path: Path) -> None:
    rows = request_rows(100)
    rows[40:] = never_sent(rows[40:])
    found = step_of(measured(tmp_path / "run", rows), goal_of([]), "stopped", 1, stopped="error_rate>50%")
    assert found.attainment == 1.0
    assert found.offered_per_s == pytest.approx(10, rel=0.03)
    assert found.seconds == pytest.approx(3.9, abs=0.01)


def test_a_course_has_what_the_run_had(tmp_path: Path) -> None:
    rows = request_rows(100)
    rows["status"][50:60] = Status.http_5xx
    course = course_of(measured(tmp_path / "run", rows), goal_of([]), 2, 10.0, [Mark(t_s=5, text="spike")])
    assert (course.run, course.width_s, len(course.attainment)) == (2, 0.25, 40)
    assert np.mean([one for one in course.attainment if one is not None]) == pytest.approx(0.9, abs=0.01)
    assert sum(one * 0.25 for one in course.errors_per_s if one) == pytest.approx(10)
    assert sum(one * 0.25 for one in course.offered_per_s if one) == pytest.approx(100)


def test_saturation_between_steps() -> None:
    steps = [step("10 req/s", 10, 1000, 50, 5), step("20 req/s", 20, 2000, 55, 10), step("30 req/s", 30, 2050, 400, 60)]
    found = saturated(steps)
    assert found is not None
    assert found.rule == "saturation"
    assert found.evidence[0] == "20 req/s against 30 req/s: offered 20 → 30 requests/s"
    assert saturated(steps[:2]) is None
    assert saturated([]) is None
