"""What a factor of a matrix changes: differences between cells that differ in nothing else, with their intervals.

Model. A pair is two runs of the same repeat, and thus of the same seed, arrivals and bodies, that differ in one factor
only. The effect of a level is the mean of all pairs' differences from the factor's first level, over all levels of the
other factors. Its interval is Student's for that mean, with the variance of pairs of the same cells, pooled: what the
other factors change is no noise. One repeat tells no noise, so there is no interval. `smallest` and `largest` are the
means of single combinations of the other factors: far apart, the factors work together and the mean hides it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from llmgen.columns import Status
from llmgen.metrics.figures import Summary
from llmgen.metrics.statistics import Dist, order_interval

CONFIDENCE: Final = 0.95
MS: Final = 1e-6
STREAM: Final = "workload.stream"

Figure = Callable[[Summary], float | None]


def _at(pick: Callable[[Summary], Dist | None], name: str) -> Figure:
    def read(summary: Summary) -> float | None:
        dist = pick(summary)
        return None if dist is None else float(getattr(dist, name))

    return read


def _output_per_request(summary: Summary) -> float | None:
    known = summary.window.requests.succeeded
    return None if summary.tokens.output is None or not known else summary.tokens.output / known


def _error_rate(summary: Summary) -> float | None:
    counts = summary.window.requests
    return counts.failures / counts.scheduled if counts.scheduled else None


def _in_flight(summary: Summary) -> float | None:
    """Mean number in flight by Little's law, from the rate of what was sent: what the server can batch."""
    e2e, rate = summary.latency.e2e_ms, summary.load.achieved_rate
    return None if e2e is None or rate is None else rate * e2e.mean / 1000


def _cost_per_thousand(summary: Summary) -> float | None:
    cost = summary.cost
    if cost is None:
        return None
    return cost.per_thousand_requests if cost.per_thousand_requests is not None else cost.tokens_per_thousand_requests


# name: (unit, where it stands in a summary). Names and definitions are those of summary.json, but for the last six.
FIGURES: Final[Mapping[str, tuple[str, Figure]]] = {
    "ttft_p50": ("ms", _at(lambda s: s.latency.ttft_ms, "p50")),
    "ttft_p95": ("ms", _at(lambda s: s.latency.ttft_ms, "p95")),
    "tpot_p50": ("ms", _at(lambda s: s.latency.tpot_ms, "p50")),
    "itl_p99": ("ms", _at(lambda s: s.latency.itl_ms, "p99")),
    "e2e_p50": ("ms", _at(lambda s: s.latency.e2e_ms, "p50")),
    "e2e_p95": ("ms", _at(lambda s: s.latency.e2e_ms, "p95")),
    "requests_per_s": ("/s", lambda s: s.throughput.requests_per_s),
    "output_tokens_per_s": ("/s", lambda s: s.throughput.output_tokens_per_s),
    "goodput": ("", lambda s: s.throughput.goodput),
    "error_rate": ("", _error_rate),
    "output_tokens_per_request": ("", _output_per_request),
    "tokens_per_event": ("", _at(lambda s: s.tokens.tokens_per_event, "mean")),
    "in_flight": ("", _in_flight),
    "cost_per_thousand_requests": ("", _cost_per_thousand),
    "cost_per_million_output_tokens": ("", lambda s: s.cost.per_million_output_tokens if s.cost else None),
}


class CellRun(msgspec.Struct, frozen=True, kw_only=True):
    """A finished run of a suite: which cell, which repeat, and its figures."""

    cell: int
    repeat: int
    levels: dict[str, str]
    figures: dict[str, float | None]


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """What `level` of `factor` changes against `base`. ci95: of the difference; None with one repeat.

    clear: the interval leaves 0 out. base_mean: of the runs at the base that have a partner.
    """

    factor: str
    base: str
    level: str
    figure: str
    unit: str
    pairs: int
    base_mean: float
    difference: float
    ci95: tuple[float, float] | None
    clear: bool | None
    smallest: float
    largest: float


def figures(summary: Summary) -> dict[str, float | None]:
    """All FIGURES of a run; None where there is no such number."""
    return {name: read(summary) for name, (_, read) in FIGURES.items()}


def effects(runs: Sequence[CellRun], factors: Mapping[str, Sequence[str]]) -> list[Effect]:
    """Of every level but the first of every factor, on every figure that some pair has. `factors`: labels by key."""
    found = []
    for factor, (base, *levels) in factors.items():
        for level in levels:
            for figure in FIGURES:
                effect = _effect(runs, factor, base, level, figure)
                if effect is not None:
                    found.append(effect)
    return found


def _effect(runs: Sequence[CellRun], factor: str, base: str, level: str, figure: str) -> Effect | None:
    values = {(_others(run, factor), run.repeat, run.levels[factor]): run.figures.get(figure) for run in runs}
    differences: dict[tuple[str, ...], list[float]] = {}
    bases = []
    for (others, repeat, label), value in values.items():
        before = values.get((others, repeat, base))
        if label != level or value is None or before is None:
            continue
        differences.setdefault(others, []).append(value - before)
        bases.append(before)
    if not bases:
        return None
    groups = [np.array(group) for group in differences.values()]
    mean, interval = mean_interval(groups)
    means = [float(group.mean()) for group in groups]
    return Effect(
        factor=factor,
        base=base,
        level=level,
        figure=figure,
        unit=FIGURES[figure][0],
        pairs=len(bases),
        base_mean=float(np.mean(bases)),
        difference=mean,
        ci95=interval,
        clear=None if interval is None else not interval[0] <= 0 <= interval[1],
        smallest=min(means),
        largest=max(means),
    )


def _others(run: CellRun, factor: str) -> tuple[str, ...]:
    return tuple(label for key, label in run.levels.items() if key != factor)


def mean_interval(groups: Sequence[np.ndarray]) -> tuple[float, tuple[float, float] | None]:
    """Mean of the groups' means and its 95 % interval, the groups' own variance pooled; None without repeats."""
    mean = float(np.mean([group.mean() for group in groups]))
    freedom = sum(len(group) - 1 for group in groups)
    if freedom < 1:
        return mean, None
    variance = sum(float(((group - group.mean()) ** 2).sum()) for group in groups) / freedom
    error = math.sqrt(variance * sum(1 / len(group) for group in groups)) / len(groups)
    half = student_quantile(0.5 + CONFIDENCE / 2, freedom) * error
    return mean, (mean - half, mean + half)


def student_quantile(probability: float, freedom: int) -> float:
    """Of Student's t, for a probability from 0.5 to below 1: bisection of the exact distribution function."""
    low, high = 0.0, 1.0
    while student_inside(high, freedom) < 2 * probability - 1:
        low, high = high, high * 2
    for _ in range(80):
        middle = (low + high) / 2
        if student_inside(middle, freedom) < 2 * probability - 1:
            low = middle
        else:
            high = middle
    return high


def student_inside(t: float, freedom: int) -> float:
    """P(-t < T < t) of Student's t with a whole number of degrees of freedom (Abramowitz & Stegun 26.7.3 and .4)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    term = math.cos(angle) if freedom % 2 else 1.0
    total = term if freedom > 1 or freedom % 2 == 0 else 0.0
    first = 3 if freedom % 2 else 2
    for k in range(first, freedom - 1, 2):
        term *= square * (k - 1) / k
        total += term
    if freedom % 2 == 0:
        return sine * total
    return 2 / math.pi * (angle + (sine * total if freedom > 1 else 0.0))


class Streamed(msgspec.Struct, frozen=True, kw_only=True):
    """The same bodies streamed and not, request by request; ms. difference: whole minus streamed E2E, its median.

    pairs: requests that succeeded both ways. ci95: of the median, pairs taken as independent. same_output: share of
    pairs with equally many output tokens, None where nobody told them. The wait for the first word is ttft where it is
    streamed, and all of E2E where it is not.
    """

    levels: dict[str, str]  # of the other factors
    pairs: int
    ttft_p50_ms: float | None
    streamed_e2e_p50_ms: float
    whole_e2e_p50_ms: float
    difference_p50_ms: float
    ci95: tuple[float, float]
    same_output: float | None


def compare_streamed(pairs: Sequence[tuple[np.ndarray, np.ndarray]], levels: dict[str, str]) -> Streamed | None:
    """`pairs`: REQUEST_DTYPE rows (streamed, whole) of runs of the same seed. None if no request succeeded twice."""
    rows = [_matched(streamed, whole) for streamed, whole in pairs]
    streamed, whole = (np.concatenate([pair[side] for pair in rows]) for side in (0, 1))
    if not len(streamed):
        return None
    e2e = [(one["end"] - one["send"]) * MS for one in (streamed, whole)]
    difference = np.sort(e2e[1] - e2e[0])
    started = streamed["first_token"] >= 0
    ttft = ((streamed["first_token"] - streamed["send"]) * MS)[started]
    told = (streamed["output_tokens"] >= 0) & (whole["output_tokens"] >= 0)
    same = (streamed["output_tokens"] == whole["output_tokens"])[told]
    return Streamed(
        levels=levels,
        pairs=len(streamed),
        ttft_p50_ms=float(np.median(ttft)) if len(ttft) else None,
        streamed_e2e_p50_ms=float(np.median(e2e[0])),
        whole_e2e_p50_ms=float(np.median(e2e[1])),
        difference_p50_ms=float(np.median(difference)),
        ci95=order_interval(difference, 0.5),
        same_output=float(same.mean()) if len(same) else None,
    )


def _matched(streamed: np.ndarray, whole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of both runs with the same index that ended well both times and were planned alike."""
    one, other = (rows[rows["status"] == Status.ok] for rows in (streamed, whole))
    _, left, right = np.intersect1d(one["index"], other["index"], return_indices=True)
    one, other = one[left], other[right]
    alike = np.ones(len(one), bool)
    for name in ("klass", "planned_input", "planned_output"):
        alike &= one[name] == other[name]
    return one[alike], other[alike]
