"""Two runs held against each other: per metric the difference, the ratio, their interval, and what may be said.

Effect sizes, not p-values: at 100,000 requests every difference is significant. A change is *worse* or *better* if it
is beyond the margin and its 95 % interval excludes no change; else there is no evidence. Intervals come from a block
bootstrap of both runs' raw values; where one of them is only a summary.json, from the two intervals in the summaries.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import msgspec
import numpy as np

from llmgen.errors import ConfigError
from llmgen.metrics.figures import Group, Summary
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.slo import LATENCIES, RATES, SHARES, parse
from llmgen.metrics.statistics import MAX_CELLS, QUANTILES, Blocks, Dist, replicate_quantiles, wilson_interval

MARGIN: Final = 0.05  # runs of the same thing on a quiet machine differ by about 2 to 3 %
SHARE_MARGIN: Final = 0.01  # of error rate and goodput, absolute
COMPARED: Final = ("ttft_from_due", "ttft", "tpot", "itl", "e2e_from_due", "e2e")
COMPARED_POINTS: Final = ("p50", "p90", "p99")
COMPARED_RATES: Final = ("requests_per_s", "output_tokens_per_s", "goodput", "error_rate")
HIGHER_IS_BETTER: Final = frozenset({*RATES, "goodput"})
SECTIONS: Final = ("load", "workload")  # of the configuration: what a fingerprint tells
TARGET_KEYS: Final = ("api", "model", "http", "path")
WINDOWS: Final = 10  # fewer time windows give no interval of a rate


@dataclass(frozen=True, slots=True)
class Side:
    """A run as it is compared: its summary, and its raw values where its directory is there."""

    label: str
    summary: Summary
    m: Measurements | None = None


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A regression threshold like ``ttft_p95:5%``: margin is a share of the base, or absolute in ms or points."""

    expression: str
    metric: str
    statistic: str | None
    klass: str | None
    margin: float
    absolute: bool


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A metric in both runs. Latencies in ms; ci95: of the difference; relative: run / base − 1, with its interval.

    rule: the threshold that asks for this line; regressed: whether it is crossed.
    """

    metric: str
    klass: str | None = msgspec.field(name="class", default=None)
    unit: str
    base: float | None
    run: float | None
    difference: float | None = None
    ci95: tuple[float, float] | None = None
    relative: float | None = None
    relative_ci95: tuple[float, float] | None = None
    rule: str | None = None
    verdict: Literal["worse", "better", "no evidence"] = "no evidence"
    within_margin: bool = False
    regressed: bool | None = None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """BASE and one RUN. different: fingerprint keys with both values. slo: objectives whose outcome changed."""

    base: str
    run: str
    different: dict[str, tuple[str, str]]
    changes: tuple[Change, ...]
    rules: tuple[Change, ...]
    slo: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def regressed(self) -> bool:
        return any(change.regressed for change in self.rules) or any(" met → missed" in line for line in self.slo)


def compare(
    base: Side, run: Side, rules: Sequence[Rule] = (), margin: float = MARGIN, *, resampled: bool = True
) -> Comparison:
    """Everything that may be said about RUN against BASE; not `resampled`: without the bootstrap of raw values."""
    notes = list(side_notes(base, run))
    if not resampled:
        base, run = replace(base, m=None), replace(run, m=None)
    changes = [
        _latency(base, run, metric, point, None, margin, absolute=False)
        for metric in COMPARED
        for point in COMPARED_POINTS
    ]
    changes += [_rate(base, run, metric, None, default_margin(metric, margin)) for metric in COMPARED_RATES]
    found_rules = []
    for rule in rules:
        if rule.metric in LATENCIES:
            assert rule.statistic is not None
            found = _latency(base, run, rule.metric, rule.statistic, rule.klass, rule.margin, absolute=rule.absolute)
        else:
            found = _rate(base, run, rule.metric, rule.klass, rule.margin)
        found_rules.append(msgspec.structs.replace(found, regressed=found.verdict == "worse", rule=rule.expression))
    return Comparison(
        base=base.label,
        run=run.label,
        different=different(base.summary, run.summary),
        changes=tuple(change for change in changes if change.base is not None or change.run is not None),
        rules=tuple(found_rules),
        slo=tuple(_slo_changes(base.summary, run.summary)),
        notes=(*notes, *rule_notes(found_rules)),
    )


# -- fingerprints -----------------------------------------------------------------------------------------------------


def fingerprint(info: Mapping[str, Any]) -> dict[str, str]:
    """What a run offered, from run.json: load, workload, and the API it was sent to; flat, dotted keys."""
    config = info.get("config") or {}
    found: dict[str, str] = {}
    for section in SECTIONS:
        _flatten(config.get(section), section, found)
    for key in TARGET_KEYS:
        _flatten((config.get("target") or {}).get(key), f"target.{key}", found)
    _flatten(info.get("model"), "model", found)
    _flatten(config.get("seed", info.get("seed")), "seed", found)
    return found


def _flatten(value: Any, key: str, found: dict[str, str]) -> None:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _flatten(inner, f"{key}.{name}", found)
    elif value is not None and value not in ([], ()):
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        found[key] = text[:200]


def different(base: Summary, run: Summary) -> dict[str, tuple[str, str]]:
    """Fingerprint keys whose values differ; `–` for a key that one of them has not."""
    a, b = base.fingerprint, run.fingerprint
    if not a or not b:  # summaries written by hand or by an older llmgen
        a = {"load.arrival": str(base.load.arrival), "load.offered_rate": _rough(base.load.offered_rate)}
        b = {"load.arrival": str(run.load.arrival), "load.offered_rate": _rough(run.load.offered_rate)}
    keys = [*a, *(key for key in b if key not in a)]
    return {key: (a.get(key, "–"), b.get(key, "–")) for key in keys if a.get(key) != b.get(key)}


def _rough(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:.2g}"


# -- latencies --------------------------------------------------------------------------------------------------------


def _group(side: Side, klass: str | None) -> Summary | Group | None:
    return side.summary if klass is None else side.summary.classes.get(klass)


def _dist(side: Side, metric: str, klass: str | None) -> Dist | None:
    group = _group(side, klass)
    return None if group is None else getattr(group.latency, f"{metric}_ms", None)


def _latency(
    base: Side, run: Side, metric: str, point: str, klass: str | None, margin: float, *, absolute: bool
) -> Change:
    name = f"{metric}_{point}"
    dists = [_dist(side, metric, klass) for side in (base, run)]
    if dists[0] is None or dists[1] is None:
        told = [None if dist is None else getattr(dist, point) for dist in dists]
        return Change(metric=name, klass=klass, unit="ms", base=told[0], run=told[1])
    a, b = (getattr(dist, point) for dist in dists)
    interval, relative = None, None
    if point in QUANTILES:
        draws = [_draws(side, metric, QUANTILES[point], klass, seed) for seed, side in ((1, base), (2, run))]
        if draws[0] is not None and draws[1] is not None:
            interval = _edges(draws[1] - draws[0])
            relative = _edges(draws[1] / draws[0] - 1) if (draws[0] > 0).all() else None
        else:
            interval = _from_intervals(dists[0], dists[1], point)
    if relative is None and interval is not None and a > 0:
        relative = (interval[0] / a, interval[1] / a)
    return judged(name, klass, "ms", a, b, interval, relative, margin, absolute=absolute)


def _draws(side: Side, metric: str, probability: float, klass: str | None, seed: int) -> np.ndarray | None:
    """Bootstrap replicates of a percentile in ms; None without raw values, or for a run that is too short."""
    m = side.m
    if m is None:
        return None
    sampling = m.sampling
    if sampling == "independent":
        members = int(np.count_nonzero(m.inside))
        sampling = Blocks(members, min(members, MAX_CELLS)) if members >= MAX_CELLS else None
    if sampling is None:
        return None
    mask = m.of_class(klass) if klass is None or klass in m.class_names else None
    if mask is None:
        return None
    weights = None
    if metric in ("itl", "chunk_gap"):
        pool = m.pool(metric, mask, None if klass is None else m.class_names.index(klass))
        if pool is None or pool.rows is None:
            return None
        values, rows, weights = pool.values, pool.rows, pool.weights
    else:
        rows = np.flatnonzero(m.inside & mask & ~np.isnan(m.value(metric)))
        values = m.value(metric)[rows]
    if not len(values):
        return None
    found: np.ndarray = replicate_quantiles(values, rows, sampling, [probability], weights, None, m.rank, seed)[0]
    return found / 1e6


def _edges(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _from_intervals(a: Dist, b: Dist, point: str) -> tuple[float, float] | None:
    """Interval of b − a from their own (Newcombe's square-and-add); None where one has none."""
    if not a.ci95 or not b.ci95 or point not in a.ci95 or point not in b.ci95:
        return None
    (a_low, a_high), (b_low, b_high) = a.ci95[point], b.ci95[point]
    at, bt = getattr(a, point), getattr(b, point)
    difference = bt - at
    low = difference - math.hypot(bt - b_low, a_high - at)
    return low, difference + math.hypot(b_high - bt, at - a_low)


# -- rates and shares -------------------------------------------------------------------------------------------------


def default_margin(metric: str, margin: float) -> float:
    return SHARE_MARGIN if metric in SHARES else margin


def _rate(base: Side, run: Side, metric: str, klass: str | None, margin: float) -> Change:
    """A rate per second (margin: a share), or error_rate or goodput (margin: absolute)."""
    a, b = (_told(side, metric, klass) for side in (base, run))
    share = metric in SHARES
    unit = "share" if share else "per_s"
    if a is None or b is None:
        return Change(metric=metric, klass=klass, unit=unit, base=a and a[0], run=b and b[0])
    interval = None
    if a[1] is not None and b[1] is not None:
        difference = b[0] - a[0]
        low = difference - math.hypot(b[0] - b[1][0], a[1][1] - a[0])
        interval = (low, difference + math.hypot(b[1][1] - b[0], a[0] - a[1][0]))
    relative = (interval[0] / a[0], interval[1] / a[0]) if interval is not None and a[0] > 0 else None
    return judged(metric, klass, unit, a[0], b[0], interval, relative, margin, absolute=share)


def _told(side: Side, metric: str, klass: str | None) -> tuple[float, tuple[float, float] | None] | None:
    """(value, its interval) of a rate or share; None where it does not exist."""
    group = _group(side, klass)
    if group is None:
        return None
    if metric == "error_rate":
        return _errors(group)
    value = getattr(group.throughput, metric)
    if value is None:
        return None
    if metric == "goodput":
        return value, group.throughput.goodput_ci95
    return value, _window_interval(side.summary, metric, value) if klass is None else None


def _errors(group: Summary | Group) -> tuple[float, tuple[float, float] | None] | None:
    counts = group.window.requests if isinstance(group, Summary) else group.requests
    if not counts.scheduled:
        return None
    return counts.failures / counts.scheduled, wilson_interval(counts.failures, counts.scheduled)


def _window_interval(summary: Summary, metric: str, value: float) -> tuple[float, float] | None:
    """95 % interval of a rate by how the time windows differ; None with too few, or where they are not kept."""
    windows = summary.windows
    if windows is None:
        return None
    inside = np.array(windows.measured, bool)
    if metric == "requests_per_s":
        values = np.array(windows.succeeded, np.float64) / windows.width_s
    elif metric == "output_tokens_per_s":
        values = np.array(windows.output_tokens_per_s, np.float64)
    else:
        return None
    values = values[inside]
    if len(values) < WINDOWS:
        return None
    half = 2.0 * float(values.std(ddof=1)) / math.sqrt(len(values))  # t of 10 to 60 windows is 2.0 to 2.3
    return value - half, value + half


# -- judgement --------------------------------------------------------------------------------------------------------


def judged(
    name: str,
    klass: str | None,
    unit: str,
    a: float,
    b: float,
    interval: tuple[float, float] | None,
    relative: tuple[float, float] | None,
    margin: float,
    *,
    absolute: bool,
) -> Change:
    """A change from a to b with its verdict; margin: a share of a, or absolute."""
    metric = name if name in (*RATES, *SHARES) else name.rpartition("_")[0]
    sign = -1 if metric in HIGHER_IS_BETTER else 1
    difference = b - a
    limit = margin if absolute else margin * abs(a)
    verdict: Literal["worse", "better", "no evidence"] = "no evidence"
    if interval is not None and abs(difference) > limit and (interval[0] > 0 or interval[1] < 0):
        verdict = "worse" if sign * difference > 0 else "better"
    within = interval is not None and max(abs(edge) for edge in interval) <= limit
    return Change(
        metric=name,
        klass=klass,
        unit=unit,
        base=a,
        run=b,
        difference=difference,
        ci95=interval,
        relative=difference / a if a else None,
        relative_ci95=relative,
        verdict=verdict,
        within_margin=within,
    )


def _slo_changes(base: Summary, run: Summary) -> Iterable[str]:
    words = {True: "met", False: "missed", None: "not judged"}

    def outcomes(summary: Summary) -> dict[str, str]:
        found = {result.expression: words[result.met] for result in summary.slo}
        for name, group in summary.classes.items():
            found |= {f"class:{name} {result.expression}": words[result.met] for result in group.slo}
        return found

    before, after = outcomes(base), outcomes(run)
    for expression in [*before, *(key for key in after if key not in before)]:
        old, new = before.get(expression, "not asked"), after.get(expression, "not asked")
        if old != new:
            yield f"{expression}: {old} → {new}"


def side_notes(base: Side, run: Side) -> Iterable[str]:
    for name, side in (("base", base), ("run", run)):
        status = side.summary.verdict.status
        if status != "valid":
            reason = side.summary.verdict.reasons[:1]
            yield f"the {name} is {status}{': ' + reason[0] if reason else ''}"
    if base.m is None or run.m is None:
        yield "one side has no records: intervals are those of the summaries"


def rule_notes(rules: Sequence[Change]) -> Iterable[str]:
    for change in rules:
        if change.base is None or change.run is None:
            yield f"{change.rule}: cannot be judged, a side has no such value"
        elif change.ci95 is None:
            yield f"{change.rule}: cannot be judged, too few values for an interval; run longer"


# -- rules ------------------------------------------------------------------------------------------------------------


def parse_rule(expression: str) -> Rule:
    """A rule ``[class:NAME ]METRIC[_STAT]:MARGIN``; MARGIN is ``5%``, or ``20ms`` of a latency.

    Of error_rate and goodput the percentage is absolute. Raises ConfigError that says what would be right.
    """
    match = re.fullmatch(r"(?P<name>(?:class:\S+ )?\w+) ?: ?(?P<margin>[\d.]+(?:%|us|ms|s))", expression.strip())
    if match is None:
        raise ConfigError(
            f"regression {expression!r}: write METRIC:MARGIN, like ttft_p95:5%, e2e_p99:200ms, error_rate:1%"
        )
    margin = match["margin"]
    short = match["name"].split()[-1]
    value = "1ms" if short.rpartition("_")[0] in LATENCIES or short in LATENCIES else "1"
    try:
        slo = parse(f"{match['name']}<{value}")
        limit = parse(f"e2e<{margin}").limit / 1e6 if not margin.endswith("%") else float(margin[:-1]) / 100
    except (ConfigError, ValueError) as error:
        raise ConfigError(f"regression {expression!r}: {error}") from None
    if slo.metric in LATENCIES and slo.statistic is None:
        raise ConfigError(f"regression {expression!r}: name a statistic, like {slo.metric}_p95")
    if slo.metric not in LATENCIES and not margin.endswith("%"):
        raise ConfigError(f"regression {expression!r}: the margin of {slo.metric} is a percentage, like 5%")
    return Rule(
        expression=expression.strip(),
        metric=slo.metric,
        statistic=slo.statistic,
        klass=slo.klass,
        margin=limit,
        absolute=not margin.endswith("%") or slo.metric in SHARES,
    )
