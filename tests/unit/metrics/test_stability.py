"""Trends against scipy, hand computation, and series whose drift is known."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import scipy.stats

from llmgen.metrics import stability
from llmgen.metrics.figures import Windows


def test_slope_is_scipys() -> None:
    rng = np.random.default_rng(1)
    x, y = np.arange(30.0), rng.normal(0, 1, 30).cumsum()
    assert stability.theil_sen(x, y) == pytest.approx(scipy.stats.theilslopes(y, x).slope)


def test_tau_is_scipys() -> None:
    rng = np.random.default_rng(1)
    for values in (rng.normal(0, 1, 40), rng.integers(0, 5, 40).astype(float)):
        tau, _ = stability.mann_kendall(values)
        # scipy's tau-a is not offered; tau-c with no ties and sums of signs agree
        signs = sum(np.sign(values[j] - values[i]) for i in range(40) for j in range(i + 1, 40))
        assert tau == pytest.approx(signs / (40 * 39 / 2))
    distinct = rng.normal(0, 1, 40)
    assert stability.mann_kendall(distinct)[0] == pytest.approx(scipy.stats.kendalltau(np.arange(40), distinct)[0])


def test_p_value_is_that_of_the_normal_approximation_without_autocorrelation() -> None:
    # alternating and rising: no positive autocorrelation of the detrended ranks
    values = np.arange(20.0) + np.where(np.arange(20) % 2, 5, -5)
    s = sum(np.sign(values[j] - values[i]) for i in range(20) for j in range(i + 1, 20))
    z = (s - 1) / np.sqrt(20 * 19 * 45 / 18)
    assert stability.mann_kendall(values)[1] == pytest.approx(2 * scipy.stats.norm.sf(z))


def test_no_trend_is_found_where_there_is_none() -> None:
    rng = np.random.default_rng(3)
    assert stability.mann_kendall(np.full(20, 3.0)) == (0.0, 1.0)
    false = sum(stability.mann_kendall(rng.normal(0, 1, 30))[1] < 0.05 for _ in range(200))
    assert false < 200 * 0.1


def test_autocorrelation_is_no_trend() -> None:
    rng = np.random.default_rng(5)
    corrected = plain = 0
    for _ in range(200):
        noise = rng.normal(0, 1, 60)
        series = np.empty(60)
        series[0] = noise[0]
        for i in range(1, 60):
            series[i] = 0.7 * series[i - 1] + noise[i]
        corrected += stability.mann_kendall(series)[1] < 0.05
        plain += scipy.stats.kendalltau(np.arange(60), series).pvalue < 0.05
    assert plain > 0.2 * 200  # the uncorrected test cries wolf
    assert corrected < 0.6 * plain


def windows(**changes: tuple[float, ...]) -> Windows:
    n = 20
    level = {name: (100.0,) * n for name in Windows.__struct_fields__ if name.endswith("_ms")}
    counts = {"scheduled": (100,) * n, "succeeded": (100,) * n, "failed": (0,) * n, "in_flight": (5,) * n}
    base = Windows(width_s=60.0, measured=(True,) * n, output_tokens_per_s=(1000.0,) * n, **counts, **level)
    return msgspec.structs.replace(base, **changes)


def test_a_leak_is_found_and_noise_is_not() -> None:
    noise = np.random.default_rng(1).normal(0, 1, 20)
    flat = stability.trends_of(windows(ttft_from_due_p50_ms=tuple(100 + noise)))
    assert not [trend.metric for trend in flat if trend.drifting]
    leak = stability.trends_of(windows(ttft_from_due_p50_ms=tuple(100 + noise + 3 * np.arange(20))))
    (found,) = [trend for trend in leak if trend.drifting]
    assert found.metric == "ttft_from_due_p50_ms"
    assert found.slope_per_hour == pytest.approx(3 * 60, rel=0.1)
    assert found.change == pytest.approx(3 * 19 / 128.5, rel=0.1)


def test_a_small_drift_is_no_finding_however_sure() -> None:
    slight = stability.trends_of(windows(itl_p50_ms=tuple(100 + 0.2 * np.arange(20))))
    (trend,) = [trend for trend in slight if trend.metric == "itl_p50_ms"]
    assert trend.p_value < 0.001
    assert not trend.drifting


def test_growing_errors_are_absolute() -> None:
    failed = tuple(range(20))
    found = stability.trends_of(windows(failed=failed, succeeded=tuple(100 - f for f in failed)))
    assert {trend.metric for trend in found if trend.drifting} == {"error_rate", "requests_succeeded_share"}


def test_too_few_windows_say_nothing() -> None:
    assert stability.trends_of(None) == ()
    short = windows(measured=(True,) * 9 + (False,) * 11)
    assert stability.trends_of(short) == ()
