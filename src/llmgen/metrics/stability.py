"""Drift over a run: Theil-Sen slopes and Mann-Kendall tests of what each time window showed.

A soak is stable when its medians, tails, throughput and errors go nowhere. The test alone finds any drift if the run is
only long enough, so a trend must also be large. Windows are minutes in a soak of an hour, shorter in shorter runs.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from llmgen.metrics.figures import Trend, Windows

MIN_WINDOWS: Final = 10  # Mann-Kendall's normal approximation is for ten and more (Gilbert 1987)
SIGNIFICANT: Final = 0.01  # seven figures are tested at once: about one false alarm in fifteen runs, before EFFECT
EFFECT: Final = 0.10  # of the median over the run: less is within what repeated runs differ by
ERROR_EFFECT: Final = 0.01  # of all requests

FIGURES: Final = ("ttft_from_due_p50_ms", "ttft_from_due_p99_ms", "itl_p50_ms", "itl_p99_ms", "e2e_p50_ms")


def trends_of(windows: Windows | None) -> tuple[Trend, ...]:
    """Stability: drift of TTFT from due, ITL and E2E, of the tokens/s per request offered, and of the error rate.

    Of the windows that lie wholly in the measured part; empty with fewer than ten of them, and where the offered load
    itself has a trend.
    """
    if windows is None:
        return ()
    inside = np.array(windows.measured, bool)
    hours = (np.arange(len(inside)) + 0.5) * windows.width_s / 3600
    scheduled = np.array(windows.scheduled, np.float64)
    if np.count_nonzero(inside) < MIN_WINDOWS or _trend("offered", hours[inside], scheduled[inside], 1.0).drifting:
        return ()  # a ramp: what follows the load is no drift
    curves = {name: np.array(getattr(windows, name), np.float64) for name in FIGURES}
    with np.errstate(divide="ignore", invalid="ignore"):
        curves["error_rate"] = np.where(scheduled > 0, np.array(windows.failed) / scheduled, np.nan)
        curves["requests_succeeded_share"] = np.where(scheduled > 0, np.array(windows.succeeded) / scheduled, np.nan)
    curves["output_tokens_per_s"] = np.array(windows.output_tokens_per_s, np.float64)
    found = []
    for name, values in curves.items():
        there = inside & ~np.isnan(values)
        if np.count_nonzero(there) >= MIN_WINDOWS:
            found.append(_trend(name, hours[there], values[there], windows.width_s))
    return tuple(found)


def _trend(name: str, hours: np.ndarray, values: np.ndarray, width_s: float) -> Trend:
    slope = theil_sen(hours, values)
    tau, p_value = mann_kendall(values)
    change = slope * float(hours[-1] - hours[0])
    share = name in ("error_rate", "requests_succeeded_share")
    if not share:
        median = float(np.median(values))
        change = change / median if median else 0.0
    drifting = p_value < SIGNIFICANT and abs(change) > (ERROR_EFFECT if share else EFFECT)
    return Trend(
        metric=name,
        windows=len(values),
        width_s=width_s,
        slope_per_hour=slope,
        change=change,
        tau=tau,
        p_value=p_value,
        drifting=drifting,
    )


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
