"""What one run of a search showed at its rate: shares of requests that kept the objectives, growth, latencies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from llmgen.errors import ConfigError
from llmgen.metrics.capacity import Point, Share
from llmgen.metrics.definitions import REQUEST_METRICS, failed
from llmgen.metrics.figures import SloResult, Summary
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.slo import PHASES, RATES, SHARES, Slo, meets
from llmgen.metrics.stability import mann_kendall, theil_sen
from llmgen.metrics.statistics import QUANTILES, Dist
from llmgen.metrics.verdict import workers_enough
from llmgen.records import Run

GOODPUT: Final = "goodput"
FEWEST_BATCHES, MOST_BATCHES = 8, 30  # below, their variance says nothing; above, batches are shorter than queues live
SAMPLES: Final = 30  # of in flight over the window
GROWTH: Final = 0.01  # of the offered rate: what does not complete piles up, and 99 % should
SIGNIFICANT: Final = 0.05  # of Mann-Kendall, two-sided: half of it on growth


def usable(slos: Sequence[Slo]) -> None:
    """ConfigError for objectives that a search cannot use: none, and those that low rates miss."""
    if not slos:
        raise ConfigError(
            "search: no objectives to meet; add --slo, like --slo 'ttft<500ms' --slo 'tpot<50ms', or slo: in the file"
        )
    for slo in slos:
        falls = slo.operator in (">", ">=")
        if slo.metric in RATES or falls != (slo.metric == GOODPUT):
            raise ConfigError(
                f"slo {slo.expression!r}: a search raises the rate until an objective is missed, and low rates miss "
                "this one; leave it out, and use limits like 'ttft<500ms'"
            )
        if slo.metric in SHARES and not 0 < _target(slo) < 1:
            raise ConfigError(
                f"slo {slo.expression!r}: no number of requests shows that none ever fails; write a share below 1, "
                "like goodput>=0.99 or error_rate<=1%"
            )
    if any(slo.metric == GOODPUT for slo in slos) and not any(slo.per_request for slo in slos):
        raise ConfigError("slo goodput: needs limits on each request, like --slo 'ttft<500ms'")


def point_of(
    run: Run, summary: Summary, rate: float, target: float, *, number: int = 0, stopped: str | None = None
) -> Point:
    """target: of the requests that keep every limit on each request. stopped: the rule that ended the run early."""
    m = Measurements(run)
    window = summary.window.requests
    growth, growing = growth_of(m, rate)
    results = [*summary.slo, *(result for group in summary.classes.values() for result in group.slo)]
    latency = summary.latency
    e2e, ttft = latency.e2e_from_due_ms, latency.ttft_from_due_ms
    return Point(
        run=number,
        rate=rate,
        shares=tuple(_shares(m, target)),
        unmet=(*((f"ended early: {stopped}",) if stopped else ()), *_unmet(m.slos, results)),
        completed=window.succeeded / window.scheduled if window.scheduled else 0.0,
        growth_per_s=growth,
        growing=growing,
        client=summary.verdict.status,
        reasons=summary.verdict.reasons,
        workers=workers_enough(summary),
        requests_per_s=summary.throughput.requests_per_s or 0.0,
        output_tokens_per_s=summary.throughput.output_tokens_per_s,
        ttft_p50_ms=_at(ttft, "p50"),
        ttft_p99_ms=_at(ttft, "p99"),
        tpot_p50_ms=_at(latency.tpot_ms, "p50"),
        e2e_p50_ms=_at(e2e, "p50"),
        e2e_p99_ms=_at(e2e, "p99"),
    )


def _at(dist: Dist | None, name: str) -> float | None:
    return None if dist is None else float(getattr(dist, name))


# -- shares ------------------------------------------------------------------------------------------------------------


def share_target(slos: Sequence[Slo]) -> float:
    """Of the requests that keep every limit on each request: what a run-wide goodput objective asks for, else 99 %."""
    return max((slo.limit for slo in slos if slo.metric == GOODPUT and slo.klass is None), default=0.99)


def _target(slo: Slo) -> float:
    """The share of requests that an objective asks for."""
    if slo.metric == "error_rate":
        return 1 - slo.limit
    return slo.limit if slo.metric == GOODPUT else QUANTILES[slo.statistic or ""]


def _is_share(slo: Slo) -> bool:
    """Whether it is one: a percentile of what every successful request has is, too."""
    return slo.metric in SHARES or (
        slo.metric in REQUEST_METRICS and slo.metric not in PHASES and slo.statistic in QUANTILES
    )


def _shares(m: Measurements, target: float) -> list[Share]:
    """Failed requests are misses of all."""
    found = []
    if m.good is not None:
        limits = ", ".join(_named(slo) for slo in m.slos if slo.per_request)
        found.append(_share(m, limits, target, m.good, None))
    for slo in m.slos:
        if not _is_share(slo) or (slo.metric == GOODPUT and slo.klass is None):
            continue
        if slo.metric == GOODPUT:
            assert m.good is not None
            kept = m.good
        else:
            kept = ~failed(m.requests) if slo.metric == "error_rate" else meets([slo], m.value, m.ok)
        found.append(_share(m, _named(slo), _target(slo), kept, slo.klass))
    return found


def _named(slo: Slo) -> str:
    named = slo.klass is None or slo.expression.startswith("class:")
    return slo.expression if named else f"class:{slo.klass} {slo.expression}"


def _share(m: Measurements, name: str, target: float, kept: np.ndarray, klass: str | None) -> Share:
    rows = np.flatnonzero(m.inside & m.of_class(klass))
    rows = rows[np.argsort(m.requests["due"][rows], kind="stable")]
    e2e = m.value("e2e_from_due")[rows]
    e2e = e2e[~np.isnan(e2e)]
    longest_s = float(np.quantile(e2e, 0.99)) / 1e9 if len(e2e) else m.duration_s
    return share_of(name, target, kept[rows], m.duration_s / max(longest_s, 1e-9))


def share_of(name: str, target: float, kept: np.ndarray, lives: float) -> Share:
    """kept: bool of each request, in order of due times; lives: the window over the p99 of E2E."""
    batches = int(min(max(lives, FEWEST_BATCHES), MOST_BATCHES))
    return Share(name=name, target=target, good=int(kept.sum()), n=len(kept), effective=effective(kept, batches))


def effective(kept: np.ndarray, batches: int) -> float:
    """How many independent requests would tell as much: requests that share a queue fail together.

    n / max(1, b * variance of the means of batches of b requests in a row / p (1 - p)): the method of batch means.
    """
    n = len(kept)
    size = n // batches
    share = float(kept.mean()) if n else 0.0
    if size < 2 or share in (0.0, 1.0):
        return float(n)
    means = kept[: size * batches].reshape(batches, size).mean(axis=1)
    return n / max(1.0, size * float(means.var(ddof=1)) / (share * (1 - share)))


def _unmet(slos: Sequence[Slo], results: Sequence[SloResult]) -> list[str]:
    """Missed objectives that are no share of requests: means, extremes, percentiles of gaps or of phases."""
    judged = {(slo.expression, slo.klass) for slo in slos if not slo.per_request and not _is_share(slo)}
    return [one.expression for one in results if one.met is False and (one.expression, one.klass) in judged]


# -- in flight ---------------------------------------------------------------------------------------------------------


def growth_of(m: Measurements, rate: float) -> tuple[float | None, bool]:
    """(slope of in flight over the window in 1/s, whether it grows); the slope is None without a window."""
    start, end = m.span
    if end - start < SAMPLES:
        return None, False
    at = np.linspace(start, end, SAMPLES)
    sent = m.requests["send"]
    ended = m.requests["end"][sent >= 0]
    began = np.searchsorted(np.sort(sent[sent >= 0]), at, side="right")
    # one without an end was in flight until the last stamp of all
    gone = np.searchsorted(np.sort(ended[ended >= 0]), at, side="right")
    return growth(at / 1e9, (began - gone).astype(np.float64), rate)


def growth(seconds: np.ndarray, in_flight: np.ndarray, rate: float) -> tuple[float, bool]:
    """(slope, whether it is growth): a trend, and more than GROWTH of what is offered piles up."""
    slope = theil_sen(seconds, in_flight)
    tau, p_value = mann_kendall(in_flight)
    return slope, bool(tau > 0 and p_value < SIGNIFICANT and slope > GROWTH * rate)
