"""Trends against scipy, hand computation, and series whose drift is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import scipy.stats

from fabricate import request_rows, run_info, write_run
from fabricate_telemetry import Values, write_telemetry
from llmgen.columns import HISTOGRAM_DTYPE, Histogram
from llmgen.metrics import breakdown, stability
from llmgen.metrics.figures import Trend, Windows
from llmgen.metrics.measurements import Measurements
from llmgen.records import open_run


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


def trends(of: Windows) -> tuple[Trend, ...]:
    return stability.drifts(of, stability.curves_of(of))


def test_a_leak_is_found_and_noise_is_not() -> None:
    noise = np.random.default_rng(1).normal(0, 1, 20)
    flat = trends(windows(ttft_from_due_p50_ms=tuple(100 + noise)))
    assert not [trend.metric for trend in flat if trend.drifting]
    leak = trends(windows(ttft_from_due_p50_ms=tuple(100 + noise + 3 * np.arange(20))))
    (found,) = [trend for trend in leak if trend.drifting]
    assert found.metric == "ttft_from_due_p50_ms"
    assert found.slope_per_hour == pytest.approx(3 * 60, rel=0.1)
    assert found.change == pytest.approx(3 * 19 / 128.5, rel=0.1)


def test_a_small_drift_is_no_finding_however_sure() -> None:
    slight = trends(windows(itl_p50_ms=tuple(100 + 0.2 * np.arange(20))))
    (trend,) = [trend for trend in slight if trend.metric == "itl_p50_ms"]
    assert trend.p_value < 0.001
    assert not trend.drifting


def test_growing_errors_are_absolute() -> None:
    failed = tuple(range(20))
    found = trends(windows(failed=failed, succeeded=tuple(100 - f for f in failed)))
    assert {trend.metric for trend in found if trend.drifting} == {"error_rate", "requests_succeeded_share"}


def test_too_few_windows_say_nothing() -> None:
    short = windows(measured=(True,) * 9 + (False,) * 11)
    assert trends(short) == ()


# -- from a run ----------------------------------------------------------------------------------------------------

MINUTES = 15


def soak(path: Path, values: Values, rows: np.ndarray | None = None, **info: Any) -> dict[str, Trend]:
    """Trends of a steady run of MINUTES at 2/s, beside telemetry every 5 s."""
    rows = request_rows(MINUTES * 120, every_ms=500) if rows is None else rows
    info = run_info(len(rows), every_ms=500, config={"record": "requests", "slo": []}, **info)
    minute = np.repeat(np.arange(MINUTES, dtype=np.uint32), 20)
    histograms = np.zeros(len(minute), HISTOGRAM_DTYPE)
    histograms["minute"], histograms["metric"], histograms["count"] = minute, Histogram.itl, 10
    histograms["bucket"] = 300 + 4 * minute  # 1/16 of an octave a minute
    write_run(path, rows, None, info, histograms)
    if values:
        write_telemetry(path, values, seconds=MINUTES * 60, every_s=5.0).close()
    m = Measurements(open_run(path))
    return {trend.metric: trend for trend in stability.trends_of(m, breakdown.windows_of(m))}


def test_gaps_of_level_requests_are_judged_by_minute(tmp_path: Path) -> None:
    found = soak(tmp_path, {})
    assert found["itl_p50_ms"].width_s == 60.0
    assert found["itl_p50_ms"].windows == MINUTES
    assert found["itl_p50_ms"].worse
    assert not found["ttft_from_due_p50_ms"].drifting
    assert "server_rss_bytes" not in found


def test_gaps_of_level_requests_are_not_judged_by_less_than_a_minute(tmp_path: Path) -> None:
    found = soak(tmp_path, {}, request_rows(5 * 120, every_ms=500))
    assert found["ttft_from_due_p50_ms"].windows >= 10
    assert "itl_p50_ms" not in found


def test_the_servers_memory_caches_and_preemptions_drift(tmp_path: Path) -> None:
    found = soak(
        tmp_path,
        {
            "rss": lambda t: 1e9 * (1 + t / 60 * 0.01),
            "gpu_memory_used": lambda t: 8e10,
            "kv_usage": lambda t: 0.3 + t / 9000,
            "prompt_tokens": lambda t: 100 * t,
            "cached_tokens": lambda t: 60 * t - t * t / 60,  # from 60 % of the prompts to 30 %
            "evicted_tokens": lambda t: t * t / 60,
            "preemptions": lambda t: t * t / 9000,  # none at first, every tenth request at the end
        },
    )
    worse = {name for name, trend in found.items() if trend.worse}
    assert worse >= {"server_rss_bytes", "kv_usage_share", "prefix_hit_rate", "evicted_share", "preemption_rate"}
    assert found["server_rss_bytes"].change == pytest.approx(0.14 / 1.07, rel=0.05)
    assert found["prefix_hit_rate"].change == pytest.approx(-0.28, rel=0.05)
    assert not found["gpu_memory_bytes"].drifting


def test_what_falls_of_itself_is_a_drift_but_no_harm(tmp_path: Path) -> None:
    found = soak(tmp_path, {"rss": lambda t: 1e9 * (1 - t / 60 * 0.01)})
    assert found["server_rss_bytes"].drifting
    assert not found["server_rss_bytes"].worse


def test_memory_is_judged_within_one_life_of_the_process(tmp_path: Path) -> None:
    """A restart gives memory back: neither a drift down, nor one that hides what grew before."""
    values: Values = {
        "rss": lambda t: 1e9 * (1 + (t if t < 720 else t - 720) / 60 * 0.02),
        "start_time": lambda t: 1000.0 if t < 720 else 1720.0,
    }
    found = soak(tmp_path, values)
    assert found["server_rss_bytes"].windows == 12
    assert found["server_rss_bytes"].worse


def test_a_ramp_is_no_drift(tmp_path: Path) -> None:
    rows = request_rows(MINUTES * 120, every_ms=500)
    rows = rows[np.random.default_rng(1).random(len(rows)) < np.linspace(0.2, 1.0, len(rows))]
    assert soak(tmp_path, {"rss": lambda t: 1e9 * (1 + t)}, rows) == {}
