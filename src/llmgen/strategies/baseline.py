"""What does the server do when it is not loaded? Every class alone, then all together.

\b
Schedule
  each class alone, then the mix together, at a share of the expected rate
  (--rate), until each has had a number of requests. One class: one run.
Stops
  when more than half of the requests of a run fail: what follows would, too.
Verdict
  passed if the goal is kept in every run. A server that misses it without load
  will not keep it with load.

The runs are the reference of later ones: llmgen compare BASELINE RUN.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from llmgen.config import RunConfig
from llmgen.decoding import Seconds, wrong
from llmgen.metrics.conclusion import Answer, Conclusion, Step
from llmgen.metrics.slo import parse
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

HOPELESS: Final = 0.5  # error rate
TOGETHER: Final = "together"
ALONE: Final = "alone"


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    share: float = 0.1
    each: int = 30
    most: Annotated[float, Seconds] = 120.0
    target: float | None = None


HELP: Final = {
    "share": "Share of the expected rate that is offered.",
    "each": "Requests of a run.",
    "most": "Length of a run at most, if that many requests take longer.",
    "target": TARGET_HELP,
}


def check(config: RunConfig, parameters: Parameters) -> float:
    """The rate that is offered. ConfigError."""
    if not 0 < parameters.share <= 1:
        raise wrong("--share", parameters.share, "is a share of the expected rate: above 0, at most 1")
    if parameters.each < 1:
        raise wrong("--each", parameters.each, "must be at least 1")
    return expected_rate(config) * parameters.share


def run(config: RunConfig, series: Series, parameters: Parameters) -> Conclusion:
    rate = check(config, parameters)
    # the settling part of a step is not counted
    seconds = min(parameters.most, parameters.each / rate / 0.75)
    test = Test("baseline", "what does the server do when it is not loaded?", config, series, parameters.target)
    classes = list(config.workload.mix)
    turns = [*(classes if len(classes) > 1 else []), TOGETHER if classes else ALONE]

    def summing() -> Conclusion:
        failures = []
        for taken, step in zip(test.runs, test.steps, strict=True):
            failures += missed(test.goal, step, step.label) + objectives_missed(taken, step.label)
        answers = answered(test.steps) if len(test.steps) > 1 else []
        last = test.runs[-1].directory if test.runs else series.directory
        advice = f"hold later runs against it: llmgen compare {last} RUN"
        return test.concluded(failures, answers, figures_of(test.steps), advice=advice)

    test.summing = summing
    for turn, label in enumerate(turns):
        one = alone(config, label) if label in classes else config
        step = test.step(label, at_rate(one, rate, seconds, turn), rate)
        if step.error_rate is not None and step.error_rate > HOPELESS:
            test.notes.append(f"stopped after {told(rate)} of {label}: {100 * step.error_rate:.3g} % failed")
            break
    return test.finish(summing())


def alone(config: RunConfig, name: str) -> RunConfig:
    """The configuration with one class of its mix, and the objectives that concern it."""
    workload = msgspec.structs.replace(config.workload, mix={name: config.workload.mix[name]})
    slo = tuple(text for text in config.slo if parse(text).klass in (None, name))
    return msgspec.structs.replace(config, workload=workload, slo=slo)


def answered(steps: list[Step]) -> list[Answer]:
    """What being together costs each figure of the median over the classes alone."""
    singles, both = steps[:-1], steps[-1]
    told_of = [
        f"{one.label}: TTFT p50 {ms(one.ttft_p50_ms)}, TPOT p50 {ms(one.tpot_p50_ms)}, E2E p50 {ms(one.e2e_p50_ms)}"
        for one in singles
    ]
    return [
        Answer(question="alone", text="; ".join(told_of)),
        Answer(
            question="together",
            text=f"TTFT p50 {ms(both.ttft_p50_ms)}, TPOT p50 {ms(both.tpot_p50_ms)}, E2E p50 {ms(both.e2e_p50_ms)}",
        ),
    ]


def figures_of(steps: list[Step]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for one in steps:
        for name in ("ttft_p50_ms", "tpot_p50_ms", "e2e_p50_ms"):
            found[f"{one.label}.{name}"] = getattr(one, name)
    return found
