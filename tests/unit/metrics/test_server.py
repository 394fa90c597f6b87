"""The server's side in summary.json: its metrics over the window, against the client's, what moved with TTFT."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fabricate import MS, START, event_rows, request_rows, run_info, write_run
from fabricate_telemetry import write_telemetry
from llmgen.metrics.server import spearman
from llmgen.metrics.server_figures import Server
from llmgen.metrics.summary import read_summary, summarise, write_summary
from llmgen.records import open_run


def summary_of(directory: Path, rows: np.ndarray, **info: Any) -> Any:
    write_run(directory, rows, event_rows(rows), run_info(len(rows), **info))
    return summarise(open_run(directory))


def server_of(directory: Path, rows: np.ndarray | None = None, **info: Any) -> Server:
    found = summary_of(directory, request_rows(100) if rows is None else rows, **info).server
    assert isinstance(found, Server)
    return found


def test_without_telemetry_there_is_none(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, request_rows(20))
    assert summary.server is None
    write_summary(tmp_path, summary)
    assert json.loads((tmp_path / "summary.json").read_text())["server"] is None


def test_gauges_are_means_over_time_of_the_window(tmp_path: Path) -> None:
    # 10 s of window; the step is at 8 s, and readings before and after the window do not count
    write_telemetry(tmp_path, {"running": lambda t: 100.0 if t > 10 else 2.0 if t < 8 else 12.0}, seconds=12).close()
    gauge = server_of(tmp_path).gauges["running"]
    assert gauge.mean == pytest.approx(0.8 * 2 + 0.2 * 12)
    assert (gauge.min, gauge.max, gauge.last, gauge.unit) == (2, 12, 12, "requests")


def test_counters_are_differences_over_the_window_only(tmp_path: Path) -> None:
    write_telemetry(
        tmp_path, {"output_tokens": lambda t: 1e6 + 50 * t, "preemptions": lambda t: 3.0}, seconds=12, every_s=0.7
    ).close()
    rows = request_rows(100)
    window = {"start_ns": START + 2000 * MS, "end_ns": START + 8000 * MS}
    counters = server_of(tmp_path, rows, window=window).counters
    assert counters["output_tokens"].increase == pytest.approx(300)
    assert counters["output_tokens"].per_s == pytest.approx(50)
    assert counters["preemptions"].increase == 0  # said to be none; what is not said is not there
    assert "finished" not in counters


def test_histograms_have_exact_means_and_buckets_for_percentiles(tmp_path: Path) -> None:
    write_telemetry(
        tmp_path,
        {"ttft.sum": lambda t: 9 + 0.4 * t, "ttft.count": lambda t: 90 + 10 * t,
         "batch_tokens.sum": lambda t: 500 * t, "batch_tokens.count": lambda t: 10 * t},
        seconds=10,
        buckets={"ttft": lambda t: {0.01: 5, 0.05: 5 + 8 * t, math.inf: 90 + 10 * t}},
    ).close()  # fmt: skip
    histograms = server_of(tmp_path).histograms
    ttft = histograms["ttft"]
    assert (ttft.n, ttft.mean, ttft.unit) == (pytest.approx(100), pytest.approx(40), "ms")
    assert ttft.p50 == pytest.approx((10, 50))
    assert ttft.p95 == (50, None)
    assert (histograms["batch_tokens"].mean, histograms["batch_tokens"].unit) == (pytest.approx(50), "tokens")
    assert histograms["batch_tokens"].p50 is None


def test_what_lies_between_the_server_s_ttft_and_ours(tmp_path: Path) -> None:
    write_telemetry(
        tmp_path, {"ttft.sum": lambda t: 0.035 * 10 * t, "ttft.count": lambda t: 10 * t,
                   "e2e.sum": lambda t: 0.08 * 10 * t, "e2e.count": lambda t: 10 * t}, seconds=10
    ).close()  # fmt: skip
    against = server_of(tmp_path).against
    assert against["ttft"].client_mean_ms == pytest.approx(50)
    assert against["ttft"].server_mean_ms == pytest.approx(35)
    assert against["ttft"].added_ms == pytest.approx(15)
    assert against["ttft"].server_n == pytest.approx(100)
    assert against["e2e"].client_mean_ms == pytest.approx(91)


def test_a_restart_takes_nothing_from_a_counter_and_is_marked(tmp_path: Path) -> None:
    write_telemetry(
        tmp_path,
        {"start_time": lambda t: 100.0 if t < 5 else 2000.0,
         "output_tokens": lambda t: 70 + 10 * t if t < 5 else 10 * (t - 5)},
        seconds=10, gap=(4.0, 6.0),
    ).close()  # fmt: skip
    server = server_of(tmp_path)
    # seen: up to 3.5 s, and from 6 s what the new process had counted since 5 s
    assert server.counters["output_tokens"].increase == pytest.approx(35 + 50)
    restart = [mark for mark in server.marks if mark.kind == "restart"]
    assert [mark.t_s for mark in restart] == [6.0]
    [gone] = [mark for mark in server.marks if mark.kind == "unreachable"]
    assert (gone.t_s, gone.until_s) == (4.0, 6.0)
    assert server.sources[0].failed == 4


@pytest.mark.parametrize(
    ("values", "rate"),
    [
        ({"prefix_hits": 0.4, "prefix_queries": 1.0}, 0.4),
        # a waiting request may be asked for at every step: cached prompt tokens are the better measure
        ({"prefix_hits": 9.0, "prefix_queries": 10.0, "cached_tokens": 0.25, "prompt_tokens": 1.0}, 0.25),
        ({"prompt_tokens": 1.0}, None),
    ],
)
def test_the_prefix_hit_rate(tmp_path: Path, values: dict[str, float], rate: float | None) -> None:
    write_telemetry(tmp_path, {key: lambda t, v=v: v * t for key, v in values.items()}, seconds=10).close()
    assert server_of(tmp_path).prefix_hit_rate == (None if rate is None else pytest.approx(rate))


def test_a_hit_rate_told_as_a_gauge_is_the_last_resort(tmp_path: Path) -> None:
    write_telemetry(tmp_path, {"prefix_hit_rate": lambda t: 0.7}, seconds=10).close()
    assert server_of(tmp_path).prefix_hit_rate == pytest.approx(0.7)


def test_machines_and_gpus(tmp_path: Path) -> None:
    writer = write_telemetry(tmp_path, {"cpu_time": lambda t: 5 + 1.5 * t, "load_time": lambda t: 31.0}, seconds=10)
    write_telemetry(
        tmp_path, {"node_cpu_idle": lambda t: 9 + 0.5 * t, "node_cpu": lambda t: 80 + 2 * t},
        seconds=10, family="node", number=1, writer=writer,
    )  # fmt: skip
    write_telemetry(
        tmp_path, {"gpu_util[0]": lambda t: 0.9, "gpu_util[1]": lambda t: 0.5, "gpu_power[0]": lambda t: 300.0,
                   "gpu_power[1]": lambda t: 200.0, "gpu_energy[0]": lambda t: 300 * t,
                   "gpu_energy[1]": lambda t: 200 * t},
        seconds=10, family="dcgm", number=2, writer=writer,
    ).close()  # fmt: skip
    server = server_of(tmp_path)
    assert server.process_cpus == pytest.approx(1.5)
    assert server.node_cpu_share == pytest.approx(0.75)
    assert server.load_time_s == 31
    assert server.gauges["gpu_util"].mean == pytest.approx(0.7)
    assert server.gauges["gpu_power"].mean == pytest.approx(500)
    assert {name: gauges["gpu_util"].mean for name, gauges in server.gpus.items()} == pytest.approx(
        {"2:0": 0.9, "2:1": 0.5}
    )
    # 100 requests of 5 tokens in 10 s
    assert server.joules_per_output_token == pytest.approx(500 / 50, rel=0.02)
    assert [source.family for source in server.sources] == ["vllm", "node", "dcgm"]


def test_damaged_telemetry_is_a_note_and_no_end(tmp_path: Path) -> None:
    tmp_path.joinpath("telemetry.npz").write_bytes(b"PK nothing")
    summary = summary_of(tmp_path, request_rows(20))
    assert summary.server is None
    assert [note for note in summary.verdict.notes if "telemetry" in note]


def test_a_summary_with_a_server_reads_back(tmp_path: Path) -> None:
    write_telemetry(tmp_path, {"running": lambda t: 1.0}, seconds=10).close()
    summary = summary_of(tmp_path, request_rows(100))
    write_summary(tmp_path, summary)
    assert read_summary(tmp_path).server == summary.server


# -- correlation --------------------------------------------------------------------------------------------------


PERIOD_S = 47  # no lag of ten bins is half of it


def waves(count: int, lag_s: float) -> np.ndarray:
    """Requests ten a second whose TTFT swings, `lag_s` after the sine of the time."""
    rows = request_rows(count)
    t = (rows["due"] - START) / 1e9
    ttft_ms = 50 + 40 * np.sin(2 * np.pi * (t - lag_s) / PERIOD_S)
    shift = (ttft_ms * MS).astype(np.int64) - (rows["first_token"] - rows["send"])
    for name in ("headers", "first_byte", "first_event", "first_token", "first_visible", "last_token", "end"):
        rows[name] += shift
    return rows


@pytest.mark.parametrize("lag_s", [0, 3])
def test_a_series_that_leads_is_found_with_its_lead(tmp_path: Path, lag_s: int) -> None:
    waiting = {"waiting": lambda t: 5 + 4 * math.sin(2 * math.pi * t / PERIOD_S), "running": lambda t: 8.0}
    write_telemetry(tmp_path, waiting, seconds=120).close()
    [found] = server_of(tmp_path, waves(1200, lag_s)).correlation
    assert found.series == "waiting"
    assert found.lag_s == lag_s
    assert found.rho > 0.95
    assert found.at_once == pytest.approx(math.cos(2 * math.pi * lag_s / PERIOD_S), abs=0.2)


def test_a_trend_that_both_have_has_no_lag(tmp_path: Path) -> None:
    rows = request_rows(600)
    for name in ("headers", "first_byte", "first_event", "first_token", "first_visible", "last_token", "end"):
        rows[name] += (rows["index"] * 0.1 * MS).astype(np.int64)
    # it follows TTFT, much later
    write_telemetry(tmp_path, {"waiting": lambda t: max(0.0, t - 25)}, seconds=60).close()
    [found] = server_of(tmp_path, rows).correlation
    assert found.lag_s == 0
    assert found.rho == found.at_once


def test_noise_is_no_correlation(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    write_telemetry(tmp_path, {"waiting": lambda t: float(rng.integers(0, 9))}, seconds=60).close()
    assert server_of(tmp_path, waves(600, 0)).correlation == ()


def test_a_short_run_claims_none(tmp_path: Path) -> None:
    write_telemetry(tmp_path, {"waiting": lambda t: t}, seconds=10).close()
    assert server_of(tmp_path).correlation == ()


def test_spearman_is_scipy_s() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    for _ in range(20):
        a, b = rng.integers(0, 6, 30).astype(float), rng.normal(size=30)
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert spearman(np.ones(5), np.arange(5.0)) == 0
