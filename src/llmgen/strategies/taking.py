"""What the strategies share: the rate they are about, steps taken as runs of a series, a conclusion kept up to date.

A conclusion is written after every step, so that a test that is interrupted is reported as far as it came. A step
during which the target went away is taken once more: a restart says nothing about the load. If it goes away again, the
load may have done it, and the step counts. One that our own client made invalid is taken once more, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from llmgen.config import RunConfig, Stage, merge
from llmgen.decoding import wrong
from llmgen.errors import ConfigError, LlmgenError
from llmgen.metrics.conclusion import EXIT_CODES, Answer, Conclusion, Course, Outage, Step
from llmgen.metrics.figures import Finding
from llmgen.metrics.goal import Goal, goal_of
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.slo import parse_all
from llmgen.metrics.steps import outages_of, step_of
from llmgen.series import MOST_TRIES, Interrupted, Series, Taken

TARGET_HELP: Final = "Share of the requests that must be good.  [default: what the objectives say, else 0.95]"
SETTLING: Final = 0.25  # of a step is cut from its window: the server fills up
NOTHING_SUCCEEDED: Final = 5  # contract.md's exit code


def expected_rate(config: RunConfig) -> float:
    """The rate that the configuration is about: load.rate, or the highest of its stages. ConfigError."""
    load = config.load
    if load.trace is not None or load.concurrency is not None or load.arrival == "closed":
        raise ConfigError("load: a test steps through rates: give the expected one (--rate), no trace or closed loop")
    told = [rate for stage in load.stages for rate in (stage.rate, stage.to) if rate is not None]
    rate = max([*told, load.rate or 0.0, load.rate_to or 0.0]) or 1.0
    if not 0 < rate < math.inf:
        raise wrong("load.rate", rate, "a test steps through rates: give the one that you expect")
    return rate


def at_rate(config: RunConfig, rate: float, seconds: float, turn: int, **more: Any) -> RunConfig:
    """The run of a step. Its seed is its own: prompts that came before would be found in the server's prefix cache."""
    flags: dict[str, Any] = {
        "load.rate": rate,
        "load.duration": seconds,
        "load.requests": None,
        "load.warmup": SETTLING * seconds,
        "load.cooldown": 0.0,
        "seed": config.seed + turn,
        "matrix": {},
        "repeat": None,
    }
    return merge(config, {**flags, **more})


def in_stages(config: RunConfig, stages: Sequence[tuple[float, float]], turn: int) -> RunConfig:
    """One continuous run of (rate, seconds) after each other, all of it in the window."""
    once = at_rate(config, stages[0][0], 1.0, turn, **{"load.warmup": 0.0})
    made = tuple(Stage(rate=rate, duration=seconds) for rate, seconds in stages)
    load = msgspec.structs.replace(once.load, rate=None, rate_to=None, stages=made, duration=None)
    return msgspec.structs.replace(once, load=load)


def told(rate: float) -> str:
    return f"{rate:.3g} req/s"


def ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g} ms"


class Test:
    """A strategy under way: its steps, and the conclusion that `summing` makes of them."""

    __test__ = False  # no case of pytest's

    def __init__(self, name: str, asks: str, config: RunConfig, series: Series, target: float | None) -> None:
        self.name, self.asks, self.config, self.series = name, asks, config, series
        classes: dict[str, Iterable[str]] = {name: klass.slo for name, klass in config.workload.mix.items()}
        self.goal: Goal = goal_of(parse_all(config.slo, classes), target)
        self.steps: list[Step] = []
        self.runs: list[Taken] = []
        self.outages: list[Outage] = []
        self.notes: list[str] = []
        self.summing: Callable[[], Conclusion] = self.so_far

    # -- steps --------------------------------------------------------------------------------------------------------

    def step(self, label: str, config: RunConfig, rate: float) -> Step:
        """One run as a step, taken again if the target was away during it, or the client could not do it."""
        taken, m = self.run(label, config, rate)
        away = any(one.run == taken.step.number for one in self.outages)
        if away or taken.step.verdict == "invalid":
            why = "the target was away during it" if away else self._why(taken)
            self.notes.append(f"run {taken.step.number} ({label}) was taken again: {why}")
            self.runs.pop()
            taken, m = self.run(f"{label}, again", config, rate)
        self.steps.append(self.measured(m, label, taken))
        self.broken_off("it did not come to its end: what follows is what ran until then")  # until it is finished
        return self.steps[-1]

    def run(
        self, label: str, config: RunConfig, rate: float | None, tries: int = MOST_TRIES
    ) -> tuple[Taken, Measurements]:
        """One run with what it recorded; its outages are noted. Interrupted: with the conclusion written."""
        try:
            taken = self.series.run(label, config, rate=rate, tries=tries)
        except Interrupted as error:
            m = self.keep(error.taken)
            self.steps.append(self.measured(m, f"{label}, interrupted", error.taken))
            self.broken_off("interrupted: what follows is what ran until then")
            raise
        except LlmgenError as error:
            if self.steps:
                self.broken_off(f"{label}: {error}")
            raise
        return taken, self.keep(taken)

    def broken_off(self, why: str) -> None:
        found = self.summing()
        told = msgspec.structs.replace(found, verdict="incomplete", reasons=[why, *found.reasons])
        self.series.conclude(told, "incomplete")

    def keep(self, taken: Taken) -> Measurements:
        m = Measurements(taken.open())
        self.runs.append(taken)
        self.outages += outages_of(m, taken.step.number)
        if taken.step.waited_s:
            self.notes.append(
                f"the target was away before run {taken.step.number}; it was awaited for {taken.step.waited_s:.0f} s"
            )
        return m

    def measured(self, m: Measurements, label: str, taken: Taken, span_s: tuple[float, float] | None = None) -> Step:
        return step_of(
            m,
            self.goal,
            label,
            taken.step.number,
            span_s=span_s,
            verdict=taken.step.verdict,
            stopped=taken.step.stopped,
        )

    # -- conclusion ---------------------------------------------------------------------------------------------------

    def so_far(self) -> Conclusion:
        return self.concluded([], [], {})

    def concluded(
        self,
        failures: Sequence[str],
        answers: Sequence[Answer],
        figures: dict[str, float | None],
        *,
        findings: Sequence[Finding] = (),
        course: Course | None = None,
        notes: Sequence[str] = (),
        advice: str | None = None,
    ) -> Conclusion:
        """The verdict: incomplete and invalid runs prove nothing, so they come before what was missed."""
        incomplete = [self._told(one) for one in self.runs if one.step.state == "incomplete"]
        invalid = [self._told(one) for one in self.runs if one.step.verdict == "invalid"]
        verdict = "incomplete" if incomplete else "invalid" if invalid else "failed" if failures else "passed"
        return Conclusion(
            strategy=self.name,
            asks=self.asks,
            goal=self.goal.told,
            verdict=verdict,  # type: ignore[arg-type]
            reasons=[*incomplete, *invalid, *failures],
            answers=list(answers),
            figures=figures,
            steps=self.steps,
            course=course,
            outages=self.outages,
            findings=list(findings),
            notes=[*self.notes, *self._suspect(), *notes],
            advice=advice,
        )

    def _told(self, taken: Taken) -> str:
        return f"run {taken.step.number} ({taken.step.label}) is {self._why(taken)}"

    def _why(self, taken: Taken) -> str:
        why = next(iter(taken.summary.verdict.reasons), "no reason is recorded")
        return f"{taken.summary.verdict.status}: {why}"

    def _suspect(self) -> list[str]:
        numbers = [str(one.step.number) for one in self.runs if one.step.verdict == "suspect"]
        return [f"the client may have influenced run {', '.join(numbers)}: see the run's report"] if numbers else []

    def findings_of(self, taken: Taken, *, but: Sequence[Finding | None] = ()) -> list[Finding]:
        """What the diagnosis of a run says, after `but`, whose rules are not told twice."""
        found = [one for one in but if one is not None]
        rules = {one.rule for one in found}
        return found + [one for one in taken.summary.diagnosis if one.rule not in rules]

    def finish(self, conclusion: Conclusion) -> Conclusion:
        self.series.conclude(conclusion, conclusion.verdict)
        return conclusion


def exit_code(conclusion: Conclusion, runs: Sequence[int | None]) -> int:
    """contract.md's exit code of a test; `runs`: those of its runs."""
    if runs and all(code == NOTHING_SUCCEEDED for code in runs):
        return NOTHING_SUCCEEDED
    return EXIT_CODES[conclusion.verdict]


def missed(goal: Goal, step: Step, where: str) -> list[str]:
    """Why the goal is missed at a step, in words; nothing if it is kept."""
    if step.attainment is None:
        return [f"{where}: no request was sent"]
    if step.attainment >= goal.target:
        return []
    return [f"{where}: {100 * step.attainment:.3g} % of the requests were good, {100 * goal.target:g} % are wanted"]


def objectives_missed(taken: Taken, where: str) -> list[str]:
    """The objectives that a run missed by its own summary."""
    groups = [group.slo for group in taken.summary.classes.values()]
    results = [*taken.summary.slo, *(result for group in groups for result in group)]
    return [f"{where}: {one.expression} was missed" for one in results if one.met is False]
