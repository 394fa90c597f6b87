"""Does the server keep its objectives at the expected load, and where does it begin to bend?

\b
Schedule
  a ramp to the expected rate (--rate) in equal steps. A step is a run: its first
  quarter is cut off, and where the requests in flight still grow at its end it
  is run again, held twice as long.
Stops
  when in flight grows even then, or too many requests fail: a higher rate would
  only add to the queue.
Answers
  where latency starts to climb, whether throughput reaches a plateau, and at
  which rate a token takes longer than its objective (tpot, itl).
Verdict
  passed if the expected rate was reached and the goal kept there.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Final

import msgspec

from llmgen.config import RunConfig
from llmgen.decoding import Seconds, wrong
from llmgen.durations import format_duration
from llmgen.metrics.conclusion import Answer, Conclusion, Step
from llmgen.metrics.goal import Goal
from llmgen.metrics.steps import saturated
from llmgen.series import Series
from llmgen.strategies.taking import (
    TARGET_HELP,
    Test,
    at_rate,
    expected_rate,
    missed,
    ms,
    objectives_missed,
    told,
)

CLIMBING: Final = 1.5  # times the median of the lowest step: beyond what steps differ by
PLATEAU: Final = 0.5  # so much of the growth in load must come out as throughput


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    steps: int = 5
    hold: Annotated[float, Seconds] = 20.0
    stop_errors: float = 0.2
    target: float | None = None


HELP: Final = {
    "steps": "Steps of the ramp.",
    "hold": "Length of a step.",
    "stop_errors": "Stop when this share of a step's requests fails.",
    "target": TARGET_HELP,
}


def check(config: RunConfig, parameters: Parameters) -> float:
    """The expected rate. ConfigError."""
    if parameters.steps < 1:
        raise wrong("--steps", parameters.steps, "must be at least 1")
    return expected_rate(config)


def run(config: RunConfig, series: Series, parameters: Parameters) -> Conclusion:
    expected = check(config, parameters)
    test = Test("load", "does the server keep its objectives at the expected load?", config, series, parameters.target)
    stopped: str | None = None

    def summing() -> Conclusion:
        answers, figures = answered(test.steps, test.goal)
        failures, findings = [], []
        if stopped is not None:
            failures.append(f"the ramp stopped below {told(expected)}, or at it: {stopped}")
        if test.runs:
            last = test.steps[-1]
            failures += missed(test.goal, last, last.label) + objectives_missed(test.runs[-1], last.label)
            findings = test.findings_of(test.runs[-1], but=[saturated(kept(test.steps))])
        return test.concluded(failures, answers, figures, findings=findings, advice=_advice(figures, bool(failures)))

    test.summing = summing
    turn = 0
    for number in range(1, parameters.steps + 1):
        rate = expected * number / parameters.steps
        step = test.step(told(rate), at_rate(config, rate, parameters.hold, turn), rate)
        if step.unsettled:
            turn += 1
            longer = at_rate(config, rate, 2 * parameters.hold, turn)
            step = test.step(f"{told(rate)}, held {format_duration(2 * parameters.hold)}", longer, rate)
        turn += 1
        stopped = stop(step, parameters.stop_errors)
        if stopped is not None:
            break
    return test.finish(summing())


def stop(step: Step, stop_errors: float) -> str | None:
    """Why the ramp goes no further."""
    if step.stopped is not None:
        return f"{step.label}: {step.stopped}"
    if step.error_rate is not None and step.error_rate > stop_errors:
        return f"{step.label}: {100 * step.error_rate:.3g} % of the requests failed (limit {100 * stop_errors:g} %)"
    if step.unsettled:
        return f"{step.label}: in flight grew by {step.growth_per_s:.2g} a second to the end"
    return None


def kept(steps: list[Step]) -> list[Step]:
    """The last step of each rate, by rate: one that was taken again replaces the one before."""
    by_rate: dict[str, Step] = {}
    for one in steps:
        by_rate[one.label.partition(",")[0]] = one
    return list(by_rate.values())


def answered(steps: list[Step], goal: Goal) -> tuple[list[Answer], dict[str, float | None]]:
    """Where the server bends, from its steps in order of rate."""
    steps = kept(steps)
    if not steps:
        return [], {}
    good = [one for one in steps if one.attainment is not None and one.attainment >= goal.target]
    best = max(steps, key=lambda one: one.tokens_per_s or one.succeeded_per_s)
    climb, flat = climbing(steps), plateau(steps)
    slow = slow_tokens(steps, goal)
    figures = {
        "highest_good_rate": good[-1].offered_per_s if good else None,
        "latency_climbs_at_rate": climb.offered_per_s if climb else None,
        "plateau_after_rate": flat.offered_per_s if flat else None,
        "tpot_passes_at_rate": slow.offered_per_s if slow else None,
        "peak_tokens_per_s": best.tokens_per_s,
        "peak_requests_per_s": best.succeeded_per_s,
    }
    return [
        Answer(question="goal kept", text=f"up to {told(good[-1].offered_per_s)}" if good else "at no step"),
        Answer(question="latency", text=_latency(steps, climb)),
        Answer(question="throughput", text=_throughput(steps, flat, best)),
        Answer(question="token rate", text=_tokens(steps, goal, slow)),
    ], figures


def climbing(steps: list[Step]) -> Step | None:
    """The step from which on the median TTFT from due or E2E is CLIMBING times that of the lowest step, or more."""
    found = None
    for one in reversed(steps[1:]):
        pairs = [(getattr(steps[0], name), getattr(one, name)) for name in ("ttft_p50_ms", "e2e_p50_ms")]
        if not any(before and now and now > CLIMBING * before for before, now in pairs):
            break
        found = one
    return found


def plateau(steps: list[Step]) -> Step | None:
    """The step after which more load brings less than PLATEAU of itself as throughput."""
    for low, high in itertools.pairwise(steps):
        before, now = ((one.tokens_per_s or one.succeeded_per_s) for one in (low, high))
        if low.offered_per_s <= 0 or before <= 0 or high.offered_per_s <= low.offered_per_s:
            continue
        if now / before - 1 < PLATEAU * (high.offered_per_s / low.offered_per_s - 1):
            return low
    return None


def slow_tokens(steps: list[Step], goal: Goal) -> Step | None:
    """The first step whose p95 of TPOT passes the limit."""
    limit = goal.tpot_limit_ms()
    if limit is None:
        return None
    return next((one for one in steps if one.tpot_p95_ms is not None and one.tpot_p95_ms >= limit), None)


def _latency(steps: list[Step], climb: Step | None) -> str:
    low, high = steps[0], steps[-1]
    if climb is None:
        return f"does not climb: TTFT p50 {ms(low.ttft_p50_ms)} → {ms(high.ttft_p50_ms)}"
    return (
        f"starts to climb at {told(climb.offered_per_s)}: TTFT p50 {ms(low.ttft_p50_ms)} → {ms(climb.ttft_p50_ms)}, "
        f"E2E p50 {ms(low.e2e_p50_ms)} → {ms(climb.e2e_p50_ms)}"
    )


def _throughput(steps: list[Step], flat: Step | None, best: Step) -> str:
    if flat is None:
        return f"follows the load up to {told(steps[-1].offered_per_s)} ({best.tokens_per_s:,.0f} tokens/s)"
    return f"plateau beyond {told(flat.offered_per_s)}, at {best.tokens_per_s:,.0f} tokens/s"


def _tokens(steps: list[Step], goal: Goal, slow: Step | None) -> str:
    limit, high = goal.tpot_limit_ms(), steps[-1]
    if limit is None:
        return f"no objective on it (--slo 'tpot_p95<50ms'); TPOT p95 is {ms(high.tpot_p95_ms)} at the highest step"
    if slow is None:
        return f"TPOT p95 stays below {limit:g} ms ({ms(high.tpot_p95_ms)} at the highest step)"
    return f"TPOT p95 passes {limit:g} ms at {told(slow.offered_per_s)} ({ms(slow.tpot_p95_ms)})"


def _advice(figures: dict[str, float | None], failing: bool) -> str:
    if failing:
        return "the largest rate that keeps the objectives: llmgen search"
    return "what lies beyond: llmgen test stress"
