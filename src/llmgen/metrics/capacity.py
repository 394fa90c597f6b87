"""Capacity: the largest offered rate that meets the objectives, found in few noisy runs.

A rate *meets* the objectives if the lower end of every share's interval reaches its target, at least 99 % of the
offered requests completed and in flight does not grow; it *misses* them if an upper end stays below its target or the
rest fails; in between it is *unsure*. Attainment falls with the rate, so runs at higher rates speak for lower ones, and
runs at lower rates against higher ones: a rate's interval is the best of those of its runs pooled with neighbours.

`search` ramps up in coarse steps until a rate seems to fail, then divides the gap, and repeats a run instead where a
repeat would decide. Runs that the client could not deliver are no evidence about the server; a rate at which that
happens again and again bounds the search, and the conclusion says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

import msgspec
import numpy as np

from llmgen.metrics.statistics import wilson_interval

COMPLETED: Final = 0.99  # of the offered requests, by the definition of capacity
FAR, NEAR = 4.0, 2.0  # steps of the ramp: while the median latency stays where it was, and once it has moved
MOVED: Final = 1.3  # times the first run's: queueing or larger batches begin to show
CLOSE: Final = 1.5  # to a rate near the edge: a second run there tells more than dividing the gap again
NARROW: Final = 3.0  # times the bad requests that the target allows
MOST_RUNS: Final = 3  # at one rate: more would not move an interval by much
INVALID: Final = ("invalid", "incomplete")

Verdict = Literal["meets", "misses", "unsure", "unmeasured"]
Outcome = Literal["found", "at-least", "client", "none", "undecided"]
Limit = Literal["server", "client", "rate-max", "runs"]


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """An objective as a share of requests: `good` of `n` kept it. effective: n, less what their correlation costs."""

    name: str
    target: float
    good: int
    n: int
    effective: float


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """What one run at a rate showed.

    unmet: objectives without a share (a mean, a maximum) that it missed, or why it was ended early. growth_per_s: slope
    of in flight; growing: it is one. client: the run's verdict, with its reasons; workers: how many would have been
    enough. Latencies in ms, from due where there is a choice.
    """

    run: int = 0
    rate: float
    shares: tuple[Share, ...]
    unmet: tuple[str, ...] = ()
    completed: float = 1.0
    growth_per_s: float | None = None
    growing: bool = False
    client: str = "valid"
    reasons: tuple[str, ...] = ()
    workers: int | None = None
    requests_per_s: float = 0.0  # that succeeded in the window
    output_tokens_per_s: float | None = None
    ttft_p50_ms: float | None = None
    ttft_p99_ms: float | None = None
    tpot_p50_ms: float | None = None
    e2e_p50_ms: float | None = None
    e2e_p99_ms: float | None = None

    @property
    def measured(self) -> bool:
        return self.client not in INVALID or bool(self.unmet)

    @property
    def fails(self) -> bool:
        """Whatever the shares say."""
        return bool(self.unmet) or self.completed < COMPLETED or self.growing


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a search may do. confidence: one-sided, of each end of an interval; tolerance: a ratio of rates less 1."""

    rate_min: float = 1.0
    rate_max: float = math.inf
    confidence: float = 0.95
    tolerance: float = 0.05
    runs: int = 12


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """All runs at one rate. attainment: of the objective that is closest to its target, with its interval."""

    rate: float
    runs: int  # those that measured
    verdict: Verdict
    likely: bool  # its own runs alone, without an interval, seem to meet the objectives
    objective: str | None
    attainment: float | None
    low: float | None
    high: float | None


class Conclusion(msgspec.Struct, frozen=True, kw_only=True):
    """What a search found.

    capacity: the largest rate that meets the objectives; upper: the smallest one that misses them (None: none did);
    estimate: where a monotone fit crosses the target. limit: what kept the search from going higher. knee: the rate at
    which throughput / latency is largest (Kleinrock 1979). suspect: the failing runs were suspect themselves.
    """

    outcome: Outcome
    capacity: float | None
    upper: float | None
    estimate: float | None
    limit: Limit
    knee: float | None
    suspect: bool
    workers: int | None
    reasons: tuple[str, ...]
    confidence: float
    tolerance: float
    runs: int
    requests_needed: int  # in a run, for its interval to reach the highest target even if all are good
    levels: tuple[Level, ...]
    points: tuple[Point, ...]


def search(offer: Callable[[float], Point], plan: Plan) -> Conclusion:
    """Offers one rate after the other until the capacity is known to the tolerance or the runs are used up."""
    points: list[Point] = []
    while len(points) < plan.runs and (rate := next_rate(points, plan)) is not None:
        points.append(offer(rate))
    return conclude(points, plan)


# -- what the runs say about each rate ---------------------------------------------------------------------------------


def levels_of(points: Sequence[Point], plan: Plan) -> list[Level]:
    """One a rate, in ascending order."""
    rates = sorted({point.rate for point in points})
    at = [[point for point in points if point.rate == rate and point.measured] for rate in rates]
    low, high = _intervals(at, plan.confidence)
    found = []
    for number, (rate, runs) in enumerate(zip(rates, at, strict=True)):
        name = _closest(low[number], runs) if runs else None
        own = _pooled([runs]).get(name) if name is not None else None
        found.append(
            Level(
                rate=rate,
                runs=len(runs),
                verdict=_verdict(runs, low[number], high[number]),
                likely=bool(runs) and _likely(runs, plan.confidence),
                objective=name,
                attainment=None if own is None else own[0] / own[1],
                low=low[number].get(name) if name is not None else None,
                high=high[number].get(name) if name is not None else None,
            )
        )
    return _without_contradictions(found)


Pool = dict[str, tuple[float, float]]  # of each share its good and all requests, effective ones


def _pooled(at: Iterable[Sequence[Point]]) -> Pool:
    total: Pool = {}
    for point in (point for runs in at for point in runs):
        for share in point.shares:
            if share.n:
                good, n = total.get(share.name, (0.0, 0.0))
                total[share.name] = good + share.good / share.n * share.effective, n + share.effective
    return total


def _intervals(
    at: Sequence[Sequence[Point]], confidence: float
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """(lower, upper) ends by share, one entry a rate: the best of all pools that begin, or end, at the rate."""
    lower: list[dict[str, float]] = [{} for _ in at]
    upper: list[dict[str, float]] = [{} for _ in at]
    for first in range(len(at)):
        for last in range(first, len(at)):
            for name, (good, n) in _pooled(at[first : last + 1]).items():
                ends = wilson_interval(good, n, 2 * confidence - 1)
                assert ends is not None
                for number in range(first + 1):  # and what holds at a rate holds at those below
                    lower[number][name] = max(lower[number].get(name, 0.0), ends[0])
                for number in range(last, len(at)):
                    upper[number][name] = min(upper[number].get(name, 1.0), ends[1])
    return lower, upper


def _targets(runs: Iterable[Point]) -> dict[str, float]:
    return {share.name: share.target for point in runs for share in point.shares}


def _closest(low: dict[str, float], runs: Sequence[Point]) -> str | None:
    targets = _targets(runs)
    names = [name for name in low if name in targets]
    return min(names, key=lambda name: low[name] - targets[name], default=None)


def _verdict(runs: Sequence[Point], low: dict[str, float], high: dict[str, float]) -> Verdict:
    if not runs:
        return "unmeasured"
    targets = _targets(runs)
    missed = [name for name, target in targets.items() if high.get(name, 1.0) < target]
    if missed:
        # runs at other rates may say the opposite: then something else changed in between
        return "unsure" if any(low[name] >= targets[name] for name in missed) else "misses"
    reached = all(low.get(name, 0.0) >= target for name, target in targets.items())
    failed = sum(point.fails for point in runs)
    if 2 * failed > len(runs):
        # in flight wanders: one run in which it grew while the requests were good is no proof
        alone = len(runs) == 1 and reached and not runs[0].unmet and runs[0].completed >= COMPLETED
        return "unsure" if alone else "misses"
    return "meets" if reached and 2 * failed < len(runs) else "unsure"


def _likely(runs: Sequence[Point], confidence: float) -> bool:
    if 2 * sum(point.fails for point in runs) > len(runs):
        return False
    targets, pool = _targets(runs), _pooled([runs])
    for name, target in targets.items():
        if name not in pool:
            return False
        good, n = pool[name]
        counted = sum(share.n for point in runs for share in point.shares if share.name == name)
        # where even perfect runs would be too few, a bad request or two are no reason to turn back
        spared = 2 if counted < requests_needed(target, confidence) else 0
        if good + spared < target * n:
            return False
    return True


def _without_contradictions(levels: list[Level]) -> list[Level]:
    """A rate that misses below one that meets: something else changed between the runs, and both are unsure."""
    highest = max((level.rate for level in levels if level.verdict == "meets"), default=-math.inf)
    lowest = min((level.rate for level in levels if level.verdict == "misses"), default=math.inf)
    return [
        msgspec.structs.replace(level, verdict="unsure")
        if level.verdict in ("meets", "misses") and lowest <= level.rate <= highest
        else level
        for level in levels
    ]


# -- where to go next --------------------------------------------------------------------------------------------------


def next_rate(points: Sequence[Point], plan: Plan) -> float | None:
    """The rate of the next run; None: the capacity is known as well as it was asked for, or cannot be."""
    if not points:
        return plan.rate_min
    levels = levels_of(points, plan)
    for level in levels:
        if level.verdict == "unmeasured" and _may_yet_measure(level.rate, points):
            return level.rate
    levels = _without_disturbed(levels)
    fails = [level for level in levels if level.verdict in ("misses", "unmeasured") or not level.likely]
    if not fails:
        return _higher(points, levels, plan)
    return _between(points, levels, plan)


def _may_yet_measure(rate: float, points: Sequence[Point]) -> bool:
    """Whether runs that the client spoilt are worth another: something else may have disturbed this machine.

    Where the client's own processor was the limit it will be so again, and where a higher rate was measured the next
    rate does as well: one repeat is enough.
    """
    runs = [point for point in points if point.rate == rate]
    once = any(point.workers for point in runs) or any(point.measured and point.rate > rate for point in points)
    return len(runs) < (2 if once else MOST_RUNS)


def _without_disturbed(levels: list[Level]) -> list[Level]:
    """A client that measured a higher rate was disturbed at those that it could not measure, and is not the limit."""
    highest = max((level.rate for level in levels if level.runs), default=-math.inf)
    return [level for level in levels if level.runs or level.rate > highest]


def _higher(points: Sequence[Point], levels: Sequence[Level], plan: Plan) -> float | None:
    """The ramp: nothing has failed yet."""
    top = levels[-1]
    if top.rate < plan.rate_max:
        first, last = points[0].e2e_p50_ms, points[-1].e2e_p50_ms
        moved = first is not None and last is not None and last > MOVED * first
        return min(plan.rate_max, round_rate(top.rate * (NEAR if moved else FAR)))
    if top.verdict == "unsure" and top.runs < MOST_RUNS:
        return top.rate
    return None


def _between(points: Sequence[Point], levels: Sequence[Level], plan: Plan) -> float | None:
    """The gap between the largest rate that meets the objectives and the smallest one that does not."""
    good = [level for level in levels if level.verdict == "meets"]
    low = good[-1] if good else None
    above = [level for level in levels if low is None or level.rate > low.rate]
    bad = next((level for level in above if level.verdict in ("misses", "unmeasured")), None)
    unsure = next((level for level in above if level.verdict == "unsure"), None)
    if unsure is None or (bad is not None and bad.rate < unsure.rate):
        return _divided(points, low, bad, plan) if bad is not None else None
    if low is not None and bad is None and len(points) == plan.runs - 1 and above[-1].rate < plan.rate_max:
        return min(plan.rate_max, round_rate(above[-1].rate * CLOSE))  # the last run: there is no bound from above yet
    following = next((level for level in above if level.rate > unsure.rate), None)
    below = _middle(points, low.rate, unsure.rate, plan) if low is not None else None
    close = low is not None and unsure.rate <= CLOSE * low.rate
    decides = unsure.runs < (2 if below else MOST_RUNS) and _repeat_decides(points, unsure.rate, plan)
    steps = [
        below,
        unsure.rate if decides or (close and unsure.runs < 2) else None,
        _middle(points, unsure.rate, following.rate, plan) if following is not None else None,
    ]
    # what is good above a rate speaks for it, too: where it seems to be good, look there first
    order = (2, 1, 0) if unsure.likely else (1, 0)
    rate = next((steps[step] for step in order if steps[step] is not None), None)
    return rate if rate is not None else _repeated([(low, 2), (unsure, MOST_RUNS), (bad, 2)])


def _divided(points: Sequence[Point], low: Level | None, bad: Level, plan: Plan) -> float | None:
    if low is None:  # the lowest rate fails; once may be bad luck
        return _repeated([(bad, 2)])
    if bad.rate <= CLOSE * low.rate and _narrow(points, bad) and (rate := _repeated([(bad, 2)])) is not None:
        return rate
    rate = _middle(points, low.rate, bad.rate, plan)
    return rate if rate is not None else _repeated([(low, 2), (bad, 2)])


def _narrow(points: Sequence[Point], level: Level) -> bool:
    """Missed by so little that something else may have done it."""
    target = _targets(points).get(level.objective or "")
    return target is not None and level.attainment is not None and 1 - level.attainment <= NARROW * (1 - target)


def _repeated(wanted: Iterable[tuple[Level | None, int]]) -> float | None:
    """The first rate that has fewer runs than it should; a rate that the client cannot deliver is not tried again."""
    for level, runs in wanted:
        if level is not None and level.runs < runs and level.verdict != "unmeasured":
            return level.rate
    return None


def _middle(points: Sequence[Point], low: float, high: float, plan: Plan) -> float | None:
    """The geometric middle, or beside it where that could not be measured; None if the gap is within the tolerance.

    What an overloaded server still completes is its throughput, which the capacity cannot exceed: it stands in for a
    far higher rate. That is a hint where to look only, no bound.
    """
    if high <= low * (1 + plan.tolerance):
        return None
    plateau = max((p.requests_per_s for p in points if p.measured and p.fails and p.rate >= high), default=high)
    if low * (1 + plan.tolerance) < plateau < high:
        high = plateau
    tried = {point.rate for point in points}
    parts = (round_rate(low * (high / low) ** part) for part in (0.5, 0.6, 0.4, 0.7, 0.3))
    return next((rate for rate in parts if low < rate < high and rate not in tried), None)


def _repeat_decides(points: Sequence[Point], rate: float, plan: Plan) -> bool:
    """Whether another run at this rate like those before would make it meet or miss the objectives."""
    runs = [point for point in points if point.rate == rate and point.measured]
    failed = sum(point.fails for point in runs)
    reached = True
    for name, (good, n) in _pooled([runs]).items():
        more = (len(runs) + 1) / len(runs)
        ends = wilson_interval(good * more, n * more, 2 * plan.confidence - 1)
        assert ends is not None
        target = _targets(runs)[name]
        if ends[1] < target:
            return True
        reached = reached and ends[0] >= target
    return reached or (failed > 0 and 2 * failed <= len(runs))


def round_rate(rate: float) -> float:
    """Three digits: readable, and finer than any tolerance that so few runs could keep."""
    return float(f"{rate:.3g}")


# -- what they show together -------------------------------------------------------------------------------------------


def conclude(points: Sequence[Point], plan: Plan) -> Conclusion:
    levels = levels_of(points, plan)
    good = [level for level in levels if level.verdict == "meets"]
    capacity = good[-1].rate if good else None
    above = [level for level in _without_disturbed(levels) if capacity is None or level.rate > capacity]
    bad = next((level for level in above if level.verdict in ("misses", "unmeasured")), None)
    outcome, limit = _outcome(levels, capacity, bad, plan)
    culprits = [] if bad is None else [point for point in points if point.rate == bad.rate]
    doubtful = [point for point in culprits if point.client != "valid"]
    suspect = bool(culprits) and len(doubtful) == len(culprits)
    reasons = doubtful[-1].reasons if suspect else ()
    targets = _targets(points).values()
    return Conclusion(
        outcome=outcome,
        capacity=capacity,
        upper=None if bad is None or bad.verdict != "misses" else bad.rate,
        estimate=_crossing([level for level in levels if level.runs], points),
        limit=limit,
        knee=knee(points),
        suspect=suspect,
        workers=max((point.workers for point in culprits if point.workers), default=None) if suspect else None,
        reasons=reasons,
        confidence=plan.confidence,
        tolerance=plan.tolerance,
        runs=plan.runs,
        requests_needed=max((requests_needed(target, plan.confidence) for target in targets), default=0),
        levels=tuple(levels),
        points=tuple(points),
    )


def _outcome(levels: Sequence[Level], capacity: float | None, bad: Level | None, plan: Plan) -> tuple[Outcome, Limit]:
    if bad is not None and bad.verdict == "unmeasured":
        return "client", "client"
    if capacity is not None:
        if bad is not None:
            return "found", "server"
        return "at-least", "rate-max" if levels[-1].rate >= plan.rate_max else "runs"
    if levels and levels[0].verdict == "misses":
        return "none", "server"
    return "undecided", "runs" if bad is None else "server"


@lru_cache(maxsize=64)
def requests_needed(target: float, confidence: float) -> int:
    """So many requests, all of them good, bring the lower end of their interval to the target."""
    if target >= 1:
        return 0  # none would
    low, high = 1, 1
    while not _reaches(high, target, confidence):
        high *= 2
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _reaches(middle, target, confidence) else (middle + 1, high)
    return low


def _reaches(n: int, target: float, confidence: float) -> bool:
    ends = wilson_interval(n, n, 2 * confidence - 1)
    return ends is not None and ends[0] >= target


def monotone(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The falling sequence nearest to the values (least squares): pool adjacent violators (Ayer et al. 1955)."""
    blocks: list[tuple[float, float, int]] = []  # mean, weight, how many
    for value, weight in zip(values, weights, strict=True):
        mean, total, count = value, weight, 1
        while blocks and blocks[-1][0] < mean:
            other, more, members = blocks.pop()
            mean = (mean * total + other * more) / (total + more)
            total, count = total + more, count + members
        blocks.append((mean, total, count))
    return [mean for mean, _, count in blocks for _ in range(count)]


def _crossing(levels: Sequence[Level], points: Sequence[Point]) -> float | None:
    """The lowest rate at which a share's monotone fit falls through its target; None if none does."""
    found = []
    for name, target in _targets(points).items():
        rates, values, weights = [], [], []
        for level in levels:
            pool = _pooled([[p for p in points if p.rate == level.rate and p.measured]])
            if name in pool:
                good, n = pool[name]
                rates.append(level.rate)
                values.append(good / n)
                weights.append(n)
        fit = monotone(values, weights)
        below = next((i for i, value in enumerate(fit) if value < target), None)
        if below:
            part = (fit[below - 1] - target) / (fit[below - 1] - fit[below])
            found.append(rates[below - 1] * (rates[below] / rates[below - 1]) ** part)
    return min(found, default=None)


def knee(points: Sequence[Point]) -> float | None:
    """The rate with the largest power, throughput / latency (Kleinrock 1979); None without two rates that measured."""
    power: dict[float, list[float]] = {}
    for point in points:
        if point.measured and point.e2e_p50_ms:
            power.setdefault(point.rate, []).append(point.requests_per_s / point.e2e_p50_ms)
    if len(power) < 2:
        return None
    return max(power, key=lambda rate: float(np.mean(power[rate])))
