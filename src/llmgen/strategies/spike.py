"""How does the server take sudden load, and does it grow with it?

\b
Schedule
  one continuous run: the expected rate (--rate), then spikes of --factor times
  that for --spike, each followed by the expected rate for --watch.
Stops
  its length; client.abort_on (--abort-on) as in any run.
Answers
  of each spike: when it was taken in (the first moment from which attainment over
  5 s stays at the target for 10 s, from the step up), or when it was got over
  (the same from the step down); whether failures are only in spikes; the stairs
  of capacity: rises of tokens/s while requests pile up, as replicas that were
  started make them. The first one, from the step up, is the autoscaling delay as
  it is seen from outside.
Verdict
  passed if the goal was kept before the first spike, and the server recovered
  after each one while it was watched.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
import numpy as np

from llmgen.config import RunConfig
from llmgen.decoding import Seconds, wrong
from llmgen.metrics import series as over_time
from llmgen.metrics.conclusion import Answer, Conclusion, Course, Mark, Step
from llmgen.metrics.definitions import failed
from llmgen.metrics.goal import Goal
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.recovery import recovered_at, rises
from llmgen.metrics.series import Bins
from llmgen.metrics.steps import course_of
from llmgen.series import Series, Taken
from llmgen.strategies.errors import FirstError, first_errors, told_of
from llmgen.strategies.taking import TARGET_HELP, Test, expected_rate, in_stages, missed, told

STAIR_BIN_S: Final = 0.25
TAKEN_IN_AT_ONCE_S: Final = 0.5  # attainment never left the target


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    factor: float = 3.0
    spikes: int = 2
    before: Annotated[float, Seconds] = 20.0
    spike: Annotated[float, Seconds] = 30.0
    watch: Annotated[float, Seconds] = 40.0
    target: float | None = None


HELP: Final = {
    "factor": "A spike is so many times the expected rate.",
    "spikes": "How many.",
    "before": "How long the expected rate is offered before the first one.",
    "spike": "Length of a spike.",
    "watch": "How long the server is watched after each.",
    "target": TARGET_HELP,
}


class Rise(msgspec.Struct, frozen=True, kw_only=True):
    """Capacity grew: seconds since the step up, and the tokens/s that it reached."""

    after_s: float
    tokens_per_s: float


class Spike(msgspec.Struct, frozen=True, kw_only=True):
    """One spike: its edges, and what was seen. taken_in_s: since up_s; recovered_s: since down_s; None: not so."""

    up_s: float
    down_s: float
    until_s: float
    taken_in_s: float | None
    recovered_s: float | None
    failures: int
    rises: list[Rise]


def check(config: RunConfig, parameters: Parameters) -> float:
    """The expected rate. ConfigError."""
    if not parameters.factor > 1:
        raise wrong("--factor", parameters.factor, "must be above 1")
    if parameters.spikes < 1:
        raise wrong("--spikes", parameters.spikes, "must be at least 1")
    return expected_rate(config)


def run(config: RunConfig, series: Series, parameters: Parameters) -> Conclusion:
    rate = check(config, parameters)
    test = Test("spike", "how does the server take sudden load?", config, series, parameters.target)
    stages, edges = schedule(rate, parameters)
    label = f"{told(rate)} with spikes of {told(parameters.factor * rate)}"
    taken, m = test.run(label, in_stages(config, stages, 0), parameters.factor * rate)
    spikes = [spike_of(m, test.goal, *edge) for edge in edges]
    before = test.measured(m, f"before {told(rate)}", taken, (0.0, parameters.before))
    test.steps = [before]
    for number, one in enumerate(spikes, 1):
        test.steps += [
            test.measured(m, f"spike {number}", taken, (one.up_s, one.down_s)),
            test.measured(m, f"after {number}", taken, (one.down_s, one.until_s)),
        ]
    answers, figures = answered(spikes, outside(m, spikes), first_errors(test.runs))
    return test.finish(
        test.concluded(
            verdict_of(test.goal, before, spikes),
            answers,
            figures,
            findings=test.findings_of(taken),
            course=_course(m, test.goal, taken, spikes),
            advice="hours at the expected rate: llmgen test soak",
        )
    )


def schedule(rate: float, parameters: Parameters) -> tuple[list[tuple[float, float]], list[tuple[float, float, float]]]:
    """(stages, edges (up, down, until) of each spike in seconds)."""
    stages, edges, at = [(rate, parameters.before)], [], parameters.before
    for _ in range(parameters.spikes):
        stages += [(parameters.factor * rate, parameters.spike), (rate, parameters.watch)]
        edges.append((at, at + parameters.spike, at + parameters.spike + parameters.watch))
        at = edges[-1][2]
    return stages, edges


def spike_of(m: Measurements, goal: Goal, up_s: float, down_s: float, until_s: float) -> Spike:
    due = (m.requests["due"] - m.start_ns) / 1e9
    good = goal.good(m)
    taken_in = recovered_at(due, good, goal.target, up_s, down_s)
    recovered = recovered_at(due, good, goal.target, down_s, until_s)
    bad = failed(m.requests) & (due >= up_s) & (due < until_s)
    return Spike(
        up_s=up_s,
        down_s=down_s,
        until_s=until_s,
        taken_in_s=None if taken_in is None else taken_in - up_s,
        recovered_s=None if recovered is None else recovered - down_s,
        failures=int(np.count_nonzero(bad)),
        rises=capacity_of(m, up_s, down_s),
    )


def capacity_of(m: Measurements, up_s: float, down_s: float) -> list[Rise]:
    """Rises of capacity in a spike."""
    bins = Bins(m.start_ns + round(up_s * 1e9), STAIR_BIN_S, max(1, int((down_s - up_s) / STAIR_BIN_S)))
    tokens = over_time.tokens_over_time(m, bins)
    waiting = over_time.in_flight(m, bins).astype(np.float64)
    found = rises(tokens, waiting, STAIR_BIN_S)
    return [Rise(after_s=at, tokens_per_s=stair.level) for at, stair in found]


def outside(m: Measurements, spikes: list[Spike]) -> int:
    """Failed requests that were due neither in a spike nor before it was got over."""
    due = (m.requests["due"] - m.start_ns) / 1e9
    bad = failed(m.requests)
    for one in spikes:
        over = one.until_s if one.recovered_s is None else one.down_s + one.recovered_s
        bad &= ~((due >= one.up_s) & (due < over))
    return int(np.count_nonzero(bad))


def _course(m: Measurements, goal: Goal, taken: Taken, spikes: list[Spike]) -> Course:
    marks = []
    for number, one in enumerate(spikes, 1):
        marks += [Mark(t_s=one.up_s, text=f"spike {number}"), Mark(t_s=one.down_s, text="down")]
        if one.recovered_s is not None:
            marks.append(Mark(t_s=one.down_s + one.recovered_s, text="recovered"))
        marks += [Mark(t_s=one.up_s + rise.after_s, text="capacity") for rise in one.rises]
    return course_of(m, goal, taken.step.number, spikes[-1].until_s, marks)


# -- what it shows -----------------------------------------------------------------------------------------------------


def answered(
    spikes: list[Spike], outside: int, errors: list[FirstError]
) -> tuple[list[Answer], dict[str, float | None]]:
    answers, figures = [], {}
    for number, one in enumerate(spikes, 1):
        answers.append(Answer(question=f"spike {number}", text=spike_told(one)))
        figures[f"spike_{number}.taken_in_s"] = one.taken_in_s
        figures[f"spike_{number}.recovered_s"] = one.recovered_s
        figures[f"spike_{number}.scaling_delay_s"] = one.rises[0].after_s if one.rises else None
        figures[f"spike_{number}.failures"] = float(one.failures)
    total = sum(one.failures for one in spikes)
    if total or outside:
        where = "only in spikes" if not outside else f"{outside} outside of spikes"
        answers.append(Answer(question="failures", text=f"{where}; first {told_of(errors)}"))
    else:
        answers.append(Answer(question="failures", text="none"))
    answers.append(Answer(question="capacity", text=_stairs(spikes)))
    figures["failures_outside"] = float(outside)
    return answers, figures


def spike_told(one: Spike) -> str:
    if one.taken_in_s is not None and one.taken_in_s < TAKEN_IN_AT_ONCE_S:
        return "taken in at once"
    inside = f"taken in {one.taken_in_s:.1f} s after it began" if one.taken_in_s is not None else "never taken in"
    if one.recovered_s is None:
        return f"{inside}; not got over within the {one.until_s - one.down_s:.3g} s that were watched (--watch)"
    return f"{inside}; got over {one.recovered_s:.1f} s after its end"


def _stairs(spikes: list[Spike]) -> str:
    told_of_each = []
    for number, one in enumerate(spikes, 1):
        if one.rises:
            steps = ", ".join(f"{rise.tokens_per_s:,.0f} tokens/s after {rise.after_s:.1f} s" for rise in one.rises)
            told_of_each.append(f"spike {number}: {steps}")
    if not told_of_each:
        return "no rise while requests piled up: nothing was scaled, or nothing had to be"
    return "; ".join(told_of_each)


def verdict_of(goal: Goal, before: Step, spikes: list[Spike]) -> list[str]:
    """Why the test fails."""
    failures = missed(goal, before, "before the first spike")
    for number, one in enumerate(spikes, 1):
        if one.recovered_s is None:
            failures.append(f"spike {number}: {spike_told(one)}")
    return failures
