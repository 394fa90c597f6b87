"""Drift over a run: Theil-Sen slopes and Mann-Kendall tests of what each time window showed.

A soak is stable when its medians, tails, throughput and errors go nowhere, and neither do its server's memory, caches
and preemptions. The test alone finds any drift if the run is only long enough, so a trend must also be large. Windows
are minutes, shorter ones in a run that has too few.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from llmgen.metrics import breakdown
from llmgen.metrics.figures import Trend, Windows
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.series import Bins
from llmgen.metrics.server import binned, readings_of
from llmgen.telemetry.readings import Readings

MIN_WINDOWS: Final = 10  # Mann-Kendall's normal approximation is for ten and more (Gilbert 1987)
MINUTE_S: Final = 60.0  # also the histograms' grain at level `requests`
MOST_WINDOWS: Final = 1440  # a day of minutes: what is computed of all pairs of windows grows with their square
SIGNIFICANT: Final = 0.05  # that any of a steady run's figures seems to drift, before EFFECT (Bonferroni)
EFFECT: Final = 0.10  # of the median over the run: less is within what repeated runs differ by
ERROR_EFFECT: Final = 0.01  # of all requests
MEMORY_EFFECT: Final = 0.05  # what a process holds is steadier than what it does
CACHE_EFFECT: Final = 0.05  # of 1: of the cache's hits, of the KV cache in use


@dataclass(frozen=True, slots=True)
class Judged:
    """How large a trend of a figure must be: `share`: absolute, of 1; else relative to the median.

    worse: the direction that is (+1: up, -1: down, 0: neither).
    """

    effect: float = EFFECT
    share: bool = False
    worse: int = 1


LATENCIES: Final = tuple(f"{metric}_{p}_ms" for metric in ("ttft_from_due", "itl", "e2e") for p in ("p50", "p99"))
JUDGED: Final[Mapping[str, Judged]] = {
    **{name: Judged() for name in LATENCIES},
    "output_tokens_per_s": Judged(worse=-1),
    "error_rate": Judged(ERROR_EFFECT, share=True),
    "requests_succeeded_share": Judged(ERROR_EFFECT, share=True, worse=-1),
    "server_rss_bytes": Judged(MEMORY_EFFECT),
    "gpu_memory_bytes": Judged(MEMORY_EFFECT),
    "kv_usage_share": Judged(CACHE_EFFECT, share=True),
    "prefix_hit_rate": Judged(CACHE_EFFECT, share=True, worse=-1),
    "evicted_share": Judged(CACHE_EFFECT, share=True),  # evicted tokens for a prompt token
    "preemption_rate": Judged(ERROR_EFFECT, share=True),  # preemptions for a request
}
SERVER_NAMES: Final = {
    "server_rss_bytes": "the server's memory",
    "gpu_memory_bytes": "GPU memory in use",
    "kv_usage_share": "KV cache in use",
    "prefix_hit_rate": "prefix cache hit rate",
    "evicted_share": "evicted tokens for each prompt token",
    "preemption_rate": "preemptions for each request",
}
NAMES: Final = {
    "ttft_from_due_p50_ms": "median TTFT from due",
    "ttft_from_due_p99_ms": "p99 of TTFT from due",
    "itl_p50_ms": "median ITL",
    "itl_p99_ms": "p99 of ITL",
    "e2e_p50_ms": "median E2E",
    "e2e_p99_ms": "p99 of E2E",
    "output_tokens_per_s": "output tokens/s",
    "error_rate": "error rate",
    "requests_succeeded_share": "share of requests that succeed",
    **SERVER_NAMES,
}
# Gauges that tell of one process's life: a restart sets them back.
HELD: Final = {"server_rss_bytes": "rss", "gpu_memory_bytes": "gpu_memory_used", "kv_usage_share": "kv_usage"}


def trends_of(m: Measurements, windows: Windows | None) -> tuple[Trend, ...]:
    """Stability: drift of TTFT from due, ITL and E2E, of tokens/s and errors, and of what the server tells of itself.

    By minute where ten of them lie in the measured part, else over `windows`. Empty with fewer than ten of those, and
    where the offered load itself has a trend: what follows the load is no drift.
    """
    if windows is None:
        return ()
    windows = _by_minute(m) or windows
    ends = m.start_ns + (np.arange(len(windows.measured)) + 1) * windows.width_s * 1e9
    # what a run that was broken off did not come to is no part of a trend
    windows = msgspec.structs.replace(
        windows, measured=tuple(np.logical_and(windows.measured, ends <= m.span[1]).tolist())
    )
    curves = curves_of(windows)
    if m.run.events is None and windows.width_s < MINUTE_S:
        curves = {name: values for name, values in curves.items() if not name.startswith("itl")}
    readings = readings_of(m)
    if readings:
        edges = m.start_ns + np.round(np.arange(len(windows.measured) + 1) * windows.width_s * 1e9).astype(np.int64)
        curves |= server_curves(readings, edges, np.array(windows.scheduled, np.float64))
    return drifts(windows, curves)


def _by_minute(m: Measurements) -> Windows | None:
    """Windows of a minute, of several in a run of more than a day; None where too few lie in the measured part."""
    start, end = (m.window[0] - m.start_ns) / 1e9, (m.span[1] - m.start_ns) / 1e9
    if end // MINUTE_S - math.ceil(start / MINUTE_S) < MIN_WINDOWS:
        return None
    width_s = MINUTE_S * max(1, math.ceil(end / MINUTE_S / MOST_WINDOWS))
    return breakdown.windows_of(m, Bins(m.start_ns, width_s, math.ceil(end / width_s)))


def curves_of(windows: Windows) -> dict[str, np.ndarray]:
    """The client's figures in each window; NaN where there is none."""
    scheduled = np.array(windows.scheduled, np.float64)
    curves = {name: np.array(getattr(windows, name), np.float64) for name in LATENCIES}
    with np.errstate(divide="ignore", invalid="ignore"):
        curves["error_rate"] = np.where(scheduled > 0, np.array(windows.failed) / scheduled, np.nan)
        curves["requests_succeeded_share"] = np.where(scheduled > 0, np.array(windows.succeeded) / scheduled, np.nan)
    curves["output_tokens_per_s"] = np.array(windows.output_tokens_per_s, np.float64)
    return curves


def server_curves(readings: Readings, edges_ns: np.ndarray, scheduled: np.ndarray) -> dict[str, np.ndarray]:
    """The server's figures in each window; what a process holds only over its longest life without a restart."""
    curves: dict[str, np.ndarray] = {}
    alive = _longest_life(readings, edges_ns)
    for name, series in HELD.items():
        values = binned(readings, series, edges_ns)
        if values is not None:
            curves[name] = np.where(alive, values, np.nan)
    widths_s = np.diff(edges_ns) / 1e9
    rates = {
        series: values * widths_s
        for series in (
            "preemptions",
            "evicted_tokens",
            "prompt_tokens",
            "cached_tokens",
            "prefix_hits",
            "prefix_queries",
        )
        if (values := binned(readings, series, edges_ns)) is not None
    }
    with np.errstate(divide="ignore", invalid="ignore"):
        if "preemptions" in rates:
            curves["preemption_rate"] = np.where(scheduled > 0, rates["preemptions"] / scheduled, np.nan)
        if "evicted_tokens" in rates and "prompt_tokens" in rates:
            curves["evicted_share"] = _quotient(rates["evicted_tokens"], rates["prompt_tokens"])
        for part, whole in (("cached_tokens", "prompt_tokens"), ("prefix_hits", "prefix_queries")):
            if part in rates and whole in rates:
                curves["prefix_hit_rate"] = np.where(alive, _quotient(rates[part], rates[whole]), np.nan)
                break
        else:
            told = binned(readings, "prefix_hit_rate", edges_ns)
            if told is not None:
                curves["prefix_hit_rate"] = np.where(alive, told, np.nan)
    return curves


def _quotient(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / whole, np.nan)


def _longest_life(readings: Readings, edges_ns: np.ndarray) -> np.ndarray:
    """Windows that lie wholly in the longest time without a restart, bool."""
    when = [mark.t_ns for mark in readings.marks if mark.kind == "restart"]
    lives = np.unique(np.clip([edges_ns[0], *when, edges_ns[-1]], edges_ns[0], edges_ns[-1]))
    at = int(np.argmax(np.diff(lives)))
    alive: np.ndarray = (edges_ns[:-1] >= lives[at]) & (edges_ns[1:] <= lives[at + 1])
    return alive


def drifts(windows: Windows, curves: Mapping[str, np.ndarray]) -> tuple[Trend, ...]:
    """Trends of curves over the windows that lie wholly in the measured part."""
    inside = np.array(windows.measured, bool)
    hours = (np.arange(len(inside)) + 0.5) * windows.width_s / 3600
    scheduled = np.array(windows.scheduled, np.float64)
    if np.count_nonzero(inside) < MIN_WINDOWS:
        return ()
    offered = _trend("offered", Judged(), hours[inside], scheduled[inside], windows.width_s, SIGNIFICANT)
    if offered.drifting:
        return ()
    told = {name: inside & ~np.isnan(values) for name, values in curves.items()}
    told = {name: there for name, there in told.items() if np.count_nonzero(there) >= MIN_WINDOWS}
    level = SIGNIFICANT / max(1, len(told))
    return tuple(
        _trend(name, JUDGED[name], hours[there], curves[name][there], windows.width_s, level)
        for name, there in told.items()
    )


def _trend(name: str, judged: Judged, hours: np.ndarray, values: np.ndarray, width_s: float, level: float) -> Trend:
    slope = theil_sen(hours, values)
    tau, p_value = mann_kendall(values)
    change = slope * float(hours[-1] - hours[0])
    if not judged.share:
        median = float(np.median(values))
        change = change / median if median else 0.0
    drifting = p_value < level and abs(change) > judged.effect
    return Trend(
        metric=name,
        windows=len(values),
        width_s=width_s,
        slope_per_hour=slope,
        change=change,
        tau=tau,
        p_value=p_value,
        drifting=drifting,
        worse=drifting and change * judged.worse > 0,
    )


def change_told(trend: Trend, *, p: bool = True) -> str:
    """By how much a figure changed, in words."""
    by = f"{trend.change * 100:+.3g} {'points' if trend.metric.endswith(('rate', 'share')) else '%'}"
    return f"{by} over the run (Mann-Kendall p {max(trend.p_value, 1e-4):.1g})" if p else by


def theil_sen(x: np.ndarray, y: np.ndarray) -> float:
    """Median of the slopes between all pairs of points (Sen 1968); x must be strictly increasing."""
    later, earlier = np.triu_indices(len(x), 1)[::-1]
    return float(np.median((y[later] - y[earlier]) / (x[later] - x[earlier])))


def mann_kendall(values: np.ndarray) -> tuple[float, float]:
    """Kendall's tau with time, and the two-sided p-value, its variance corrected for autocorrelation and ties.

    Hamed & Rao (1998): the variance is that of independent values times n / n*, from those autocorrelations of the
    ranks of the detrended series that differ from 0 at 5 %.
    """
    n = len(values)
    later, earlier = np.triu_indices(n, 1)[::-1]
    s = float(np.sign(values[later] - values[earlier]).sum())
    _, ties = np.unique(values, return_counts=True)
    variance = (n * (n - 1) * (2 * n + 5) - float((ties * (ties - 1) * (2 * ties + 5)).sum())) / 18
    if variance <= 0:
        return 0.0, 1.0
    variance *= _correction(values)
    z = (s - math.copysign(1, s)) / math.sqrt(variance) if s else 0.0
    pairs = n * (n - 1) / 2
    return s / pairs, math.erfc(abs(z) / math.sqrt(2))


def _correction(values: np.ndarray) -> float:
    n = len(values)
    x = np.arange(n, dtype=np.float64)
    detrended = values - theil_sen(x, values) * x
    ranks = _ranks(detrended)
    centred = ranks - ranks.mean()
    total = float((centred**2).sum())
    if not total:
        return 1.0
    lags = np.arange(1, n - 2)
    correlation = np.array([float((centred[lag:] * centred[:-lag]).sum()) / total for lag in lags])
    weights = np.where(np.abs(correlation) > 1.96 / math.sqrt(n), correlation, 0.0)
    factor = 1 + 2 / (n * (n - 1) * (n - 2)) * float(((n - lags) * (n - lags - 1) * (n - lags - 2) * weights).sum())
    # negative correlations may not make a test sharper than one of independent values
    return max(factor, 1.0)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties share their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_rank: np.ndarray = last - (counts - 1) / 2
    return mean_rank[inverse]
