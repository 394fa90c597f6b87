"""What happens beyond the peak, and how long does it take to get over it?

\b
Schedule
  climb: runs from the expected rate (--rate) up, each --factor times the one
  before, until a stop rule.
  overload and back: one continuous run at a rate that the server keeps up with,
  then at --over times the peak (or the highest rate of the climb, if that is
  more), then back at the first rate.
Stops
  the climb: too many errors (also in the middle of a run; --abort-on takes the
  place of that rule), too few good requests, or in flight that grows without an
  end. The overload: its length.
Answers
  the peak; which errors came first; whether throughput under overload holds
  (graceful) or falls (collapse); recovery: from the end of the overload to the
  first moment from which attainment over 5 s stays at the target for 10 s.
Verdict
  passed if the expected rate kept the goal, throughput held at half of the peak
  at least, and the server recovered while it was watched.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from llmgen.config import RunConfig
from llmgen.decoding import Seconds, wrong
from llmgen.metrics.conclusion import Answer, Conclusion, Course, Mark, Step
from llmgen.metrics.goal import Goal
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.recovery import recovered_at
from llmgen.metrics.steps import course_of, saturated
from llmgen.series import Series
from llmgen.strategies.errors import FirstError, first_errors, told_of
from llmgen.strategies.taking import TARGET_HELP, Test, at_rate, expected_rate, in_stages, missed, told

GRACEFUL: Final = 0.9  # of the peak's throughput under overload
COLLAPSE: Final = 0.5
ROOM: Final = 0.8  # of the peak: the expected rate leaves this much to work off what was left over
BACK_OFF: Final = 0.5  # of the peak: where the expected rate leaves no room


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    factor: float = 1.4
    most: int = 12
    hold: Annotated[float, Seconds] = 15.0
    over: float = 1.5
    before: Annotated[float, Seconds] = 10.0
    watch: Annotated[float, Seconds] = 60.0
    stop_errors: float = 0.1
    stop_attainment: float = 0.5
    target: float | None = None


HELP: Final = {
    "factor": "Each rate of the climb is so many times the one before.",
    "most": "Runs of the climb at most.",
    "hold": "Length of a run of the climb, and of the overload.",
    "over": "The overload is so many times the peak.",
    "before": "How long the first rate is offered before the overload.",
    "watch": "How long the server is watched after the overload.",
    "stop_errors": "The climb stops when this share of requests fails, for 5 s or over a run.",
    "stop_attainment": "The climb stops when fewer requests than this share are good.",
    "target": TARGET_HELP,
}


class Back(msgspec.Struct, frozen=True, kw_only=True):
    """The way back: seconds of its run, and what was seen."""

    base_rate: float
    over_rate: float
    down_s: float
    end_s: float
    overload: Step
    recovered_s: float | None  # since down_s


def check(config: RunConfig, parameters: Parameters) -> float:
    """The expected rate. ConfigError."""
    if not parameters.factor > 1:
        raise wrong("--factor", parameters.factor, "must be above 1: the climb goes up")
    if parameters.most < 1:
        raise wrong("--most", parameters.most, "must be at least 1")
    return expected_rate(config)


def run(config: RunConfig, series: Series, parameters: Parameters) -> Conclusion:
    check(config, parameters)
    test = Test("stress", "what happens beyond the peak?", config, series, parameters.target)
    climb: list[Step] = []
    why: str | None = None
    back: Back | None = None
    course: Course | None = None

    def summing() -> Conclusion:
        steps = climb or test.steps
        errors = first_errors(test.runs)
        answers, figures = answered(steps, why, back, errors)
        failures = failed(test.goal, steps, back)
        between = saturated(steps if back is None else [*steps, back.overload])
        findings = test.findings_of(test.runs[-1], but=[between]) if test.runs else []
        advice = "how it takes sudden load: llmgen test spike"
        return test.concluded(failures, answers, figures, findings=findings, course=course, advice=advice)

    test.summing = summing
    why = _climb(test, config, parameters, climb)
    if not any(one.succeeded_per_s for one in climb):
        return test.finish(summing())  # there is no rate to come back to
    back_rate, over_rate = rates(climb, test.goal, parameters.over)
    before = parameters.before
    down = before + parameters.hold
    end = down + parameters.watch
    stages = [(back_rate, before), (over_rate, parameters.hold), (back_rate, parameters.watch)]
    label = f"{told(over_rate)} and back to {told(back_rate)}"
    whole = in_stages(config, stages, len(climb))
    whole = msgspec.structs.replace(whole, client=msgspec.structs.replace(whole.client, abort_on=None))
    taken, m = test.run(label, whole, over_rate)
    overload = test.measured(m, f"overload {told(over_rate)}", taken, (before, down))
    after = test.measured(m, f"back at {told(back_rate)}", taken, (down, end))
    recovered = recovery_of(m, test.goal, down, end)
    back = Back(
        base_rate=back_rate,
        over_rate=over_rate,
        down_s=down,
        end_s=end,
        overload=overload,
        recovered_s=recovered,
    )
    test.steps += [test.measured(m, f"before {told(back_rate)}", taken, (0.0, before)), overload, after]
    marks = [Mark(t_s=before, text="overload"), Mark(t_s=down, text="back")]
    if recovered is not None:
        marks.append(Mark(t_s=down + recovered, text="recovered"))
    course = course_of(m, test.goal, taken.step.number, end, marks)
    return test.finish(summing())


def _climb(test: Test, config: RunConfig, parameters: Parameters, climb: list[Step]) -> str:
    """Takes the steps up; why they ended."""
    rate = expected_rate(config)
    rule = config.client.abort_on or f"error_rate>{100 * parameters.stop_errors:g}% for 5s"
    for turn in range(parameters.most):
        step = test.step(told(rate), at_rate(config, rate, parameters.hold, turn, **{"client.abort_on": rule}), rate)
        climb.append(step)
        why = stop(step, parameters.stop_errors, parameters.stop_attainment)
        if why is not None:
            return why
        rate *= parameters.factor
    return f"{parameters.most} steps without a stop rule (--most): the peak may lie higher"


def stop(step: Step, stop_errors: float, stop_attainment: float) -> str | None:
    """Which stop rule a step met."""
    if step.stopped is not None:
        return step.stopped
    if step.error_rate is not None and step.error_rate > stop_errors:
        return f"{100 * step.error_rate:.3g} % of the requests failed (limit {100 * stop_errors:g} %)"
    if step.attainment is not None and step.attainment < stop_attainment:
        return f"{100 * step.attainment:.3g} % of the requests were good (limit {100 * stop_attainment:g} %)"
    if step.unsettled:
        return f"in flight grew by {step.growth_per_s:.3g} a second to the end"
    return None


def rates(climb: list[Step], goal: Goal, over: float) -> tuple[float, float]:
    """(the rate to come back to, the overload)."""
    peak = max(one.succeeded_per_s for one in climb)
    first, highest = climb[0].offered_per_s, max(one.offered_per_s for one in climb)
    keeps = first <= ROOM * peak and not missed(goal, climb[0], "")
    base = first if keeps else BACK_OFF * peak or first
    return base, max(highest, over * peak)


def recovery_of(m: Measurements, goal: Goal, down_s: float, end_s: float) -> float | None:
    """Seconds from the end of the overload to recovery; None: not while it was watched."""
    due = (m.requests["due"] - m.start_ns) / 1e9
    there = due < end_s
    found = recovered_at(due[there], goal.good(m)[there], goal.target, down_s, end_s)
    return None if found is None else found - down_s


# -- what it shows -----------------------------------------------------------------------------------------------------


def degradation(climb: list[Step], back: Back) -> tuple[str, float]:
    """How throughput under overload compares with the best of the climb, in a word and as a share."""
    best = max(one.succeeded_per_s for one in climb)
    share = back.overload.succeeded_per_s / best if best else 0.0
    word = "graceful" if share >= GRACEFUL else "collapse" if share < COLLAPSE else "degraded"
    return word, share


def answered(
    climb: list[Step], why: str | None, back: Back | None, errors: list[FirstError]
) -> tuple[list[Answer], dict[str, float | None]]:
    if not climb:
        return [], {}
    best = max(climb, key=lambda one: one.succeeded_per_s)
    peak = f"{best.succeeded_per_s:.3g} answers/s and {best.tokens_per_s:,.0f} tokens/s, of {told(best.offered_per_s)}"
    answers = [Answer(question="peak", text=peak)]
    if why is not None:
        answers.append(Answer(question="climb ended", text=f"at {told(climb[-1].offered_per_s)}: {why}"))
    answers.append(Answer(question="first errors", text=told_of(errors)))
    figures: dict[str, float | None] = {
        "peak_requests_per_s": best.succeeded_per_s,
        "peak_tokens_per_s": best.tokens_per_s,
        "climb_ended_at_rate": climb[-1].offered_per_s,
    }
    if back is None:
        return answers, figures
    word, share = degradation(climb, back)
    good = back.overload.attainment or 0.0
    text = f"{word}: {100 * share:.0f} % of the peak's answers/s came at {told(back.over_rate)}"
    text += f", {100 * (back.overload.error_rate or 0.0):.3g} % failed, {100 * good:.3g} % were good"
    answers.append(Answer(question="overload", text=text))
    answers.append(Answer(question="recovery", text=recovery_told(back)))
    figures |= {
        "overload_rate": back.over_rate,
        "overload_throughput_share": share,
        "recovery_s": back.recovered_s,
    }
    return answers, figures


def recovery_told(back: Back) -> str:
    if back.recovered_s is None:
        watched = back.end_s - back.down_s
        return f"not within the {watched:.3g} s that it was watched at {told(back.base_rate)} (--watch)"
    return f"{back.recovered_s:.1f} s after the overload, at {told(back.base_rate)}"


def failed(goal: Goal, climb: list[Step], back: Back | None) -> list[str]:
    """Why the test fails."""
    if not climb:
        return []
    failures = missed(goal, climb[0], f"the expected rate, {climb[0].label}")
    if back is not None:
        word, share = degradation(climb, back)
        if word == "collapse":
            failures.append(f"throughput collapsed under overload, to {100 * share:.0f} % of the peak")
        if back.recovered_s is None:
            failures.append(f"recovery: {recovery_told(back)}")
    return failures
