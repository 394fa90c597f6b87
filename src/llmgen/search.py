"""`llmgen search`: the largest offered rate that meets the objectives, as a series of runs.

metrics/capacity.py decides where to go next and what the runs show; here a rate becomes a run. Every run has a seed of
its own: prompts that came before would be found in the server's prefix cache, and a repeat with the same arrivals would
repeat their luck. Rates are exact (load.normalize), so that luck with the number of arrivals is no part of the noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from llmgen.config import RunConfig, merge
from llmgen.decoding import wrong
from llmgen.errors import ConfigError, TargetError
from llmgen.metrics.capacity import Conclusion, Plan, Point, conclude, search
from llmgen.metrics.operating_point import GOODPUT, point_of, share_target, usable
from llmgen.metrics.slo import Slo, parse_all
from llmgen.schedule import parse_arrival
from llmgen.series import Interrupted, Series, Taken
from llmgen.validation import complete

DURATION_S: Final = 30.0
WARMUP: Final = "20%"  # the server fills up: its batch, then its queue
NOTHING_SUCCEEDED: Final = 5
EXIT_CODES: Final = {"found": 0, "at-least": 0, "none": 3, "client": 4, "undecided": 4}


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """What a search is asked for, beside a configuration. None: rate_min load.rate, else 1; target: the objectives'."""

    rate_min: float | None = None
    rate_max: float | None = None
    target: float | None = None
    confidence: float = 0.95
    tolerance: float = 0.05
    runs: int = 12


def prepare(config: RunConfig, parameters: Parameters) -> tuple[RunConfig, Plan, float]:
    """(configuration of the runs but for rate and seed, plan, target). ConfigError for what cannot be searched."""
    load = config.load
    if load.trace is not None or load.concurrency is not None or load.arrival == "closed":
        raise ConfigError("search: sets the rate itself; leave out the trace or the closed loop (--concurrency)")
    if load.stages or load.rate_to is not None:
        raise ConfigError("search: offers one constant rate a run; leave out load.stages, and ramps like A..B")
    if load.requests is not None:
        raise ConfigError("load.requests: runs of a search last as long at every rate; use --duration")
    config = complete(config)[0]
    slos = parse_all(config.slo, _class_slos(config))
    usable(slos)
    lowest = parameters.rate_min if parameters.rate_min is not None else load.rate or 1.0
    highest = math.inf if parameters.rate_max is None else parameters.rate_max
    _check(parameters, lowest, highest)
    target = share_target(slos) if parameters.target is None else parameters.target
    plan = Plan(
        rate_min=lowest,
        rate_max=highest,
        confidence=parameters.confidence,
        tolerance=parameters.tolerance,
        runs=parameters.runs,
    )
    flags: dict[str, Any] = {
        "load.rate": lowest,
        "load.duration": load.duration or DURATION_S,
        "load.warmup": load.warmup or WARMUP,
        "load.normalize": parse_arrival(load.arrival).bursts is None,
        "slo": _with_target(config.slo, slos, target),
    }
    return merge(config, flags), plan, target


def _class_slos(config: RunConfig) -> dict[str, Iterable[str]]:
    return {name: klass.slo for name, klass in config.workload.mix.items()}


def _with_target(texts: tuple[str, ...], slos: list[Slo], target: float) -> tuple[str, ...]:
    """The objectives with the target as a goodput one, so that the reports of the runs say whether it was met."""
    if not any(slo.per_request for slo in slos):
        return texts
    others = [text for text, slo in zip(texts, slos, strict=False) if slo.metric != GOODPUT or slo.klass is not None]
    return (*others, f"goodput>={target:g}")


def _check(parameters: Parameters, lowest: float, highest: float) -> None:
    if not 0 < lowest < math.inf:
        raise wrong("--rate-min", lowest, "must be above 0 and finite")
    if not lowest <= highest:
        raise wrong("--rate-max", highest, f"must not be below the lowest rate, {lowest:g}")
    if parameters.target is not None and not 0 < parameters.target < 1:
        raise wrong("--target", parameters.target, "is a share of the requests, above 0 and below 1, like 0.99")
    if not 0.5 < parameters.confidence < 1:
        raise wrong("--confidence", parameters.confidence, "must be above 0.5 and below 1, like 0.95")
    if not 0.001 <= parameters.tolerance <= 1:
        raise wrong("--tolerance", parameters.tolerance, "is a ratio of rates, from 0.001 to 1, like 0.05")
    if parameters.runs < 2:
        raise wrong("--runs", parameters.runs, "must be at least 2")


def run_search(config: RunConfig, plan: Plan, target: float, series: Series) -> Conclusion:
    """`config`, `plan`, `target`: those of `prepare`. What is known is in suite.json after every run."""
    points: list[Point] = []
    taken: list[Taken] = []

    def offer(rate: float) -> Point:
        label = f"{rate:g} req/s" + (", again" if any(point.rate == rate for point in points) else "")
        one = series.run(label, _at(config, rate, len(points)), rate=rate)
        if one.exit_code == NOTHING_SUCCEEDED and not points:
            one.step.state = "incomplete"  # started again it is made again
            raise TargetError(f"no request succeeded at {rate:g} req/s: llmgen report {one.directory} says why")
        taken.append(one)
        points.append(point_of(one.open(), one.summary, rate, target, number=one.step.number, stopped=one.step.stopped))
        series.conclude(conclude(points, plan), "unfinished")
        return points[-1]

    try:
        found = search(offer, plan)
    except Interrupted:
        if points:
            series.conclude(conclude(points, plan), "unfinished")
        raise
    series.conclude(found, outcome_told(found))
    return found


def _at(config: RunConfig, rate: float, turn: int) -> RunConfig:
    return merge(config, {"load.rate": rate, "seed": config.seed + turn})


def outcome_told(found: Conclusion) -> str:
    """In a few words, for `llmgen list`."""
    if found.capacity is None:
        return {"none": "no rate meets the objectives", "client": "the client is the limit"}.get(
            found.outcome, "undecided"
        )
    return f"{'at least ' if found.outcome != 'found' else ''}{found.capacity:g} req/s"


def exit_code(found: Conclusion) -> int:
    return EXIT_CODES[found.outcome]
