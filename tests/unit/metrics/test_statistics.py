"""Percentiles, intervals and distances against numpy and scipy."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import scipy.stats

from llmgen.columns import HISTOGRAM_BUCKETS, bucket_bounds_ns
from llmgen.metrics import statistics as s

SHARES = tuple(s.QUANTILES.values())


def lognormal(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(18, 1, n).astype(np.int64)


def test_distribution_is_numpys() -> None:
    values = lognormal(7000)
    dist = s.distribution(values, excluded=3)
    assert dist is not None
    assert (dist.n, dist.excluded) == (7000, 3)
    told = np.array([dist.p50, dist.p90, dist.p95, dist.p99, dist.p999])
    assert told == pytest.approx(np.quantile(values, SHARES) / 1e6, abs=1e-6)
    assert (dist.min, dist.max) == (round(values.min() / 1e6, 6), round(values.max() / 1e6, 6))
    assert dist.mean == pytest.approx(values.mean() / 1e6)
    assert dist.too_few == ()
    assert s.distribution(values[:0]) is None


def test_too_few_values_are_named() -> None:
    assert (s.needed(0.99), s.needed(0.999)) == (662, 6636)
    assert s.needed(0.5) == s.needed(1 - 0.5) == 11
    # at least two of n above the percentile with 99 %: the binomial says the same
    for p in (0.9, 0.95, 0.99):
        n = s.needed(p)
        assert scipy.stats.binom.sf(1, n, 1 - p) >= 0.99 > scipy.stats.binom.sf(1, n - 1, 1 - p)
    dist = s.distribution(lognormal(300))
    assert dist is not None
    assert dist.too_few == ("p99", "p999")


@pytest.mark.parametrize(("p", "n"), [(0.5, 11), (0.9, 64), (0.95, 130), (0.99, 662), (0.999, 6636)])
def test_certified_percentiles_are_mlperfs(p: float, n: int) -> None:
    assert s.certified_rank(n, p) == 1
    assert s.certified_rank(n - 1, p) is None
    for size in (n + 37, 10 * n, 150 * n + 1):
        t = s.certified_rank(size, p)
        assert t is not None
        assert scipy.stats.binom.cdf(t, size, 1 - p) <= 0.01 < scipy.stats.binom.cdf(t + 1, size, 1 - p)


def test_certified_percentiles_are_values_from_above() -> None:
    values = lognormal(10_000)
    dist = s.distribution(values)
    assert dist is not None
    assert dist.certified is not None
    t = s.certified_rank(10_000, 0.99)
    assert t == 77
    assert dist.certified["p99"] == round(np.sort(values)[-77] / 1e6, 6)
    assert dist.certified["p99"] > dist.p99
    few = s.distribution(lognormal(100))
    assert few is not None
    assert set(few.certified or {}) == {"p50", "p90"}


def test_many_tokens_a_value_take_the_other_way_to_the_same_numbers() -> None:
    values, weights = lognormal(500), np.random.default_rng(2).integers(1, 60, 500)
    a, b = s.distribution(values, weights=weights), s.distribution(np.repeat(values, weights))
    assert b is not None
    assert a == msgspec.structs.replace(b, certified=None)


def test_weighted_distribution() -> None:
    values, weights = lognormal(500), np.random.default_rng(2).integers(1, 6, 500)
    a = s.distribution(values, weights=weights)
    b = s.distribution(np.repeat(values, weights))
    assert b is not None
    assert a == msgspec.structs.replace(b, certified=None)  # repeated values are not independent


def test_histogram_percentiles_are_within_one_percent() -> None:
    values = lognormal(100_000)
    bounds = bucket_bounds_ns()
    bucket = np.searchsorted(bounds, values, side="right") - 1
    found = s.histogram_distribution(np.bincount(bucket, minlength=HISTOGRAM_BUCKETS))
    exact = s.distribution(values)
    assert found is not None
    assert exact is not None
    for name in ("p50", "p90", "p95", "p99", "p999", "mean", "min", "max"):
        assert getattr(found, name) == pytest.approx(getattr(exact, name), rel=0.01), name
    assert found.n == 100_000
    assert s.histogram_distribution(np.zeros(HISTOGRAM_BUCKETS, np.int64)) is None


@pytest.mark.parametrize("n", [20, 99, 500, 1999, 5000])
@pytest.mark.parametrize("p", [0.5, 0.95, 0.99])
def test_order_statistics_cover(n: int, p: float) -> None:
    low, high = s.order_ranks(n, p)
    # P(x[low] <= percentile <= x[high]) = P(low < number of values below <= high)
    covered = scipy.stats.binom.cdf(high, n, p) - scipy.stats.binom.cdf(low, n, p)
    if high < n - 1:
        assert covered >= 0.95 - (0.002 if n >= 2000 else 1e-9)
        narrower = scipy.stats.binom.cdf(high - 1, n, p) - scipy.stats.binom.cdf(low + 1, n, p)
        assert narrower < (0.955 if n >= 2000 else 0.95)  # the approximation is a rank wider at most
    ordered = np.arange(n)
    assert s.order_interval(ordered, p) == (low, high)


def coverage(correlation: float, method: str) -> float:
    """How often the 95 % interval of the median holds the true one, for an AR(1) series."""
    rng = np.random.default_rng(7)
    hits, runs, n = 0, 120, 2000
    for _ in range(runs):
        noise = rng.standard_normal(n)
        series = np.empty(n)
        series[0] = noise[0]
        for i in range(1, n):
            series[i] = correlation * series[i - 1] + np.sqrt(1 - correlation**2) * noise[i]
        if method == "order":
            low, high = s.order_interval(np.sort(series), 0.5)
        else:
            blocks = s.Blocks.of(n, 50)
            assert blocks is not None
            low, high = s.block_intervals(series, np.arange(n), blocks, ("p50",))["p50"]
        hits += low <= 0 <= high
    return hits / runs


def test_order_statistics_are_for_independent_values() -> None:
    assert coverage(0.0, "order") > 0.9
    assert coverage(0.9, "order") < 0.7


def test_blocks_keep_their_promise_for_dependent_values() -> None:
    assert coverage(0.9, "blocks") > 0.85
    assert coverage(0.0, "blocks") > 0.88


def test_block_intervals_do_not_depend_on_the_call() -> None:
    values, rows = lognormal(3000), np.arange(3000)
    blocks = s.Blocks.of(3000, 30)
    assert blocks is not None
    first = s.block_intervals(values, rows, blocks)
    assert first == s.block_intervals(values, rows, blocks)
    for name, (low, high) in first.items():
        assert low <= np.quantile(values, s.QUANTILES[name]) <= high
    weighted = s.block_intervals(values, rows, blocks, weights=np.full(3000, 2))
    assert all(weighted[name] == pytest.approx(first[name]) for name in first)


def test_block_intervals_agree_with_resampling_the_raw_values() -> None:
    values, n = lognormal(4000), 4000
    blocks = s.Blocks(n, 400)
    found = s.block_intervals(values, np.arange(n), blocks, ("p50", "p95"))
    rng = np.random.default_rng(11)
    size = n // 100
    for name, p in (("p50", 0.5), ("p95", 0.95)):
        draws = []
        for _ in range(800):
            starts = rng.integers(0, 400, 100) * (n // 400)
            index = (starts[:, None] + np.arange(size)) % n
            draws.append(np.quantile(values[index.ravel()], p))
        low, high = np.quantile(draws, [0.025, 0.975])
        assert found[name][0] == pytest.approx(low, rel=0.02)
        assert found[name][1] == pytest.approx(high, rel=0.02)


def test_too_short_a_run_has_no_block_interval() -> None:
    assert s.Blocks.of(100, 25) is None
    assert s.Blocks.of(100, 20) == s.Blocks(100, 20)
    dist = s.distribution(lognormal(100), sampling=None, rows=np.arange(100))
    assert dist is not None
    assert dist.ci95 is None


def test_a_large_pool_is_sampled() -> None:
    values = np.random.default_rng(1).exponential(1e6, 400_000)
    blocks = s.Blocks.of(1000, 10)
    assert blocks is not None
    low, high = s.block_intervals(values, np.repeat(np.arange(1000), 400), blocks, ("p99",))["p99"]
    assert low < np.quantile(values, 0.99) < high
    assert (high - low) / low < 0.05


def test_ks_distance_is_scipys() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.exponential(1, 500), rng.gamma(2, 0.5, 700)
    assert s.ks_distance(a, b) == pytest.approx(scipy.stats.ks_2samp(a, b).statistic)
    assert s.ks_distance(a, a) == 0
    assert s.ks_distance(a, b[:0]) is None
    ties = np.repeat([1.0, 2.0, 3.0], 10)
    assert s.ks_distance(ties, ties[:15]) == pytest.approx(scipy.stats.ks_2samp(ties, ties[:15]).statistic)


def test_a_tolerance_forgives_jitter_of_constant_gaps() -> None:
    rng = np.random.default_rng(1)
    planned = np.full(1000, 100.0)
    sent = planned + rng.normal(0, 1, 1000)
    assert s.ks_distance(sent, planned) == pytest.approx(0.5, abs=0.05)
    assert s.ks_distance(sent, planned, tolerance=10) == 0
    bursts = np.where(rng.random(1000) < 0.3, 0.0, 100.0)
    assert s.ks_distance(bursts, planned, tolerance=10) == pytest.approx(0.3, abs=0.05)


def test_arrival_shapes() -> None:
    rng = np.random.default_rng(1)
    gaps = rng.exponential(1e7, 50_000)
    assert s.coefficient_of_variation(gaps) == pytest.approx(1, abs=0.02)
    assert s.coefficient_of_variation(np.full(10, 5)) == 0
    assert s.coefficient_of_variation(gaps[:1]) is None
    times = np.cumsum(gaps).astype(np.int64)
    assert s.dispersion_index(times, 10**9) == pytest.approx(1, abs=0.2)
    constant = (np.arange(50_000) * 10**7).astype(np.int64)
    assert s.dispersion_index(constant, 10**9) == pytest.approx(0, abs=1e-9)
    assert s.dispersion_index(times[:50], 10**9) is None


def test_wilson_interval_is_scipys() -> None:
    for good, n in ((0, 10), (7, 10), (990, 1000), (1000, 1000)):
        expected = scipy.stats.binomtest(good, n).proportion_ci(method="wilson")
        assert s.wilson_interval(good, n) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert s.wilson_interval(0, 0) is None


# -- shifts --------------------------------------------------------------------------------------------------------


def test_a_shift_is_hodges_and_lehmanns() -> None:
    found = s.shift(np.array([11.0, 12.0, 30.0]), np.array([1.0, 2.0]))
    assert found.estimate == 10.5  # of 9, 10, 10, 11, 28, 29
    paired = s.paired_shift(np.array([1.0, 2.0, 6.0]))
    assert paired.estimate == 2.75  # of 1, 1.5, 2, 3.5, 4, 6
    assert (paired.low, paired.high) == (1.0, 6.0)  # three values allow no less


def test_intervals_of_shifts_cover_the_truth() -> None:
    rng = np.random.default_rng(1)
    independent = paired = 0
    for _ in range(400):
        a, b = rng.lognormal(0, 1, 5) + 3, rng.lognormal(0, 1, 40)
        independent += s.shift(a, b).low <= 3 <= s.shift(a, b).high
        found = s.paired_shift(rng.normal(2, 1, 20))
        paired += found.low <= 2 <= found.high
    assert 0.92 * 400 <= independent <= 0.98 * 400
    assert 0.92 * 400 <= paired <= 0.98 * 400
