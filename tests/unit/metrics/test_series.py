"""Series over time against the same figures taken bin by bin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fabricate import MS, START, event_rows, request_rows, run_info, write_run
from llmgen.metrics import series
from llmgen.metrics.measurements import Measurements
from llmgen.records import open_run


def measured(path: Path, rows: np.ndarray, every_ms: float) -> Measurements:
    return Measurements(
        open_run(write_run(path / "run", rows, event_rows(rows), run_info(len(rows), every_ms=every_ms)))
    )


@pytest.fixture
def run(tmp_path: Path) -> Measurements:
    rows = request_rows(2000, every_ms=20)
    wait = (np.random.default_rng(1).exponential(30, 2000) * MS).astype(np.int64)
    for name in ("first_token", "last_token", "end"):
        rows[name] += wait
    return measured(tmp_path, rows, 20)


def test_bins_cover_the_run_in_round_steps(run: Measurements, tmp_path: Path) -> None:
    bins = series.bins_of(run)
    assert bins.width_s in series.WIDTHS_S
    assert bins.count <= series.MAX_BINS + 1
    assert bins.ends_ns[-1] > run.requests["end"].max()
    assert bins.of(np.array([-1, START - 1, START, int(bins.ends_ns[-1]) + 1])).tolist() == [-1, -1, 0, -1]
    short = series.bins_of(measured(tmp_path / "short", request_rows(1), 100))
    assert (short.width_s, short.count) == (0.1, 1)


def test_percentiles_of_bins(run: Measurements) -> None:
    bins = series.bins_of(run)
    found = series.percentiles_over_time(run, bins, "ttft")
    ttft = (run.requests["first_token"] - run.requests["send"]) / MS
    for number in (0, 7, bins.count - 3):
        inside = ttft[bins.of(run.requests["due"]) == number]
        if len(inside) < series.MIN_BIN_VALUES:
            assert np.isnan(found[:, number]).all()
        else:
            assert found[:, number] == pytest.approx(np.quantile(inside, series.SHARES))


def test_in_flight_is_counted_at_the_ends_of_bins(run: Measurements) -> None:
    bins = series.bins_of(run)
    found = series.in_flight(run, bins)
    for number in (0, 10, 100):
        t = bins.ends_ns[number]
        assert found[number] == np.count_nonzero((run.requests["send"] <= t) & (run.requests["end"] > t))
    assert found[-1] == 0


def test_rates_add_up(run: Measurements) -> None:
    bins = series.bins_of(run)
    offered, sent = series.offered_and_sent(run, bins)
    for rate, total in ((offered, 2000), (sent, 2000), (series.tokens_over_time(run, bins), 10_000)):
        assert rate.sum() * bins.width_s == pytest.approx(total)
    assert series.errors_over_time(run, bins) == {}


def test_binned_quantiles_leave_out_what_has_no_bin() -> None:
    at = np.array([0] * 5 + [-1] * 5 + [2] * 4)
    found = series.binned_quantiles(at, np.arange(14.0), 3)
    assert found[0].tolist()[0] == 2
    assert np.isnan(found[0, 1:]).all()  # no values, and four: too few


def test_cdf_is_monotonous_and_complete() -> None:
    values = np.random.default_rng(1).exponential(1e6, 5000)
    x, share = series.cdf(values)
    assert (np.diff(x) >= 0).all()
    assert (x[0], x[-1]) == (values.min() / 1e6, values.max() / 1e6)
    assert np.interp(0.99, share, x) == pytest.approx(np.quantile(values, 0.99) / 1e6)
    weighted, _ = series.cdf(values, np.full(5000, 2))
    assert weighted == pytest.approx(series.cdf(np.repeat(values, 2))[0])
