"""Percentiles, their intervals and distances between distributions; pure functions of numpy arrays.

Percentiles are of pooled raw values with linear interpolation (numpy's default, Hyndman & Fan type 7). Intervals are at
95 %: order statistics where the values are independent, a circular block bootstrap where they are not (Politis & Romano
1992): latencies under load share queues, so whole blocks of consecutive requests are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from statistics import NormalDist
from typing import Final, Literal, NamedTuple

import msgspec
import numpy as np

from llmgen.columns import HISTOGRAM_BUCKETS, bucket_bounds_ns

QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}
INTERVALS: Final = ("p50", "p90", "p95", "p99")  # of contract.md's ci95, and p90, which runs are compared by
CONFIDENCE: Final = 0.95

REPLICATES: Final = 400  # of the bootstrap: the 2.5 % points of its percentiles move by about 0.1 of their own width
BOOTSTRAP_VALUES: Final = 1 << 16  # drawn at most: their own noise at p99 is 0.04 of a percentage point
KS_VALUES: Final = 100_000  # of each sample: distances to 1e-5
REPEAT_LIMIT: Final = 4  # weights up to this on average are written out before sorting
CELLS_PER_BLOCK: Final = 4  # blocks start at any quarter of a block: nearly the overlapping-block bootstrap
MIN_BLOCKS: Final = 5  # with fewer the interval would be far too narrow (true coverage below 85 %), so none is given
MIN_BIN_VALUES: Final = 5  # fewer values in a bin have no percentile worth a point
MAX_CELLS: Final = 256  # longer blocks than needed do no harm, more cells only cost time


class Dist(msgspec.Struct, frozen=True, kw_only=True):
    """DIST of contract.md: n values in the unit of its name; `excluded` requests of the window have no such value.

    too_few: the percentiles that n is too small for (`needed`).
    certified: upper limits of the percentiles at 99 % confidence, as MLPerf's early stopping gives them, of independent
    values (`certified`); a percentile that n is too small for has none.
    """

    n: int
    excluded: int
    mean: float
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    p999: float
    max: float
    ci95: dict[str, tuple[float, float]] | None = None
    too_few: tuple[str, ...] = ()
    certified: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Blocks:
    """Consecutive requests in `cells` pieces, CELLS_PER_BLOCK of which are a block that covers the p99 of E2E."""

    rows: int
    cells: int

    @classmethod
    def of(cls, rows: int, block_rows: float) -> Blocks | None:
        """None: fewer than MIN_BLOCKS blocks of `block_rows` requests."""
        blocks = int(rows // max(block_rows, 1.0))
        return cls(rows, min(blocks * CELLS_PER_BLOCK, MAX_CELLS)) if blocks >= MIN_BLOCKS else None


Sampling = Blocks | Literal["independent"] | None


def quantiles(ordered: np.ndarray, probabilities: Sequence[float]) -> np.ndarray:
    """np.quantile of values that are sorted already, float64."""
    position = np.asarray(probabilities) * (len(ordered) - 1)
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, len(ordered) - 1)
    return _between(ordered[low].astype(np.float64), ordered[high].astype(np.float64), position - low)


def weighted_quantiles(ordered: np.ndarray, weights: np.ndarray, probabilities: Sequence[float]) -> np.ndarray:
    """np.quantile of np.repeat(ordered, weights), integer weights, without repeating."""
    ends = np.cumsum(weights)
    position = np.asarray(probabilities) * (ends[-1] - 1)
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, ends[-1] - 1)
    a, b = (ordered[np.searchsorted(ends, rank, side="right")].astype(np.float64) for rank in (low, high))
    return _between(a, b, position - low)


def _between(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    # numpy's own formula (from the nearer end), so that results are equal to the last bit; inf - inf is not a number
    with np.errstate(invalid="ignore"):
        step = np.where(a == b, 0.0, b - a)
        inner: np.ndarray = np.where(t >= 0.5, b - step * (1 - t), a + step * t)
    inner = np.where(np.isinf(b) & (t > 0), b, inner)
    return np.where(t == 0, a, inner)


def binned_quantiles(
    at: np.ndarray, values: np.ndarray, count: int, shares: Sequence[float] = (0.5, 0.95, 0.99)
) -> np.ndarray:
    """Quantiles of the values (ns) in each of `count` bins, (len(shares), count), NaN where there are too few.

    at: the bin of each value; -1 is left out.
    """
    out = np.full((len(shares), count), np.nan)
    if not (at >= 0).all():
        at, values = at[at >= 0], values[at >= 0]
    # one sort of (bin, value) keys; 2^50 ns are 13 days
    key = np.clip(values, 0, 2**50 - 1).astype(np.int64) | (at.astype(np.int64) << 50)
    key.sort()
    edges = np.searchsorted(key, np.arange(count + 1, dtype=np.int64) << 50)
    key &= 2**50 - 1
    for number in np.flatnonzero(np.diff(edges) >= MIN_BIN_VALUES):
        out[:, number] = quantiles(key[edges[number] : edges[number + 1]], shares)
    return out


@cache
def needed(probability: float, confidence: float = 0.99) -> int:
    """Smallest n for which at least two of n values lie above the percentile with `confidence`: p99 662, p99.9 6,636.

    The median is as far from the lower end, so the same holds for both.
    """
    n = 2
    tail = 1 - max(probability, 1 - probability)
    stay = 1 - tail
    while stay**n + n * tail * stay ** (n - 1) > 1 - confidence:
        n += 1
    return n


@lru_cache(maxsize=256)
def certified_rank(n: int, probability: float, confidence: float = 0.99) -> int | None:
    """t: the t-th largest of n independent values is above the percentile with `confidence`; None: n is too small.

    MLPerf's early stopping: the largest t >= 1 with P(Binomial(n, 1 - probability) <= t) <= 1 - confidence. One value
    more than the estimate needs is given away, as there: p99 needs 662 values, not 459.
    """
    mean = n * (1 - probability)
    # ten standard deviations below the mean the tail is less than 1e-20
    low = max(0, math.floor(mean - 10 * math.sqrt(mean * probability)))
    count = np.arange(low, math.ceil(mean) + 1)
    tail = 1 - probability
    first = (
        math.lgamma(n + 1)
        - math.lgamma(low + 1)
        - math.lgamma(n - low + 1)
        + low * math.log(tail)
        + (n - low) * math.log(probability)
    )
    steps = np.log((n - count[:-1]) / (count[:-1] + 1.0) * (tail / probability))
    below = np.cumsum(np.exp(first + np.concatenate([[0.0], np.cumsum(steps)])))
    t = low + int(np.searchsorted(below, 1 - confidence, side="right")) - 1
    return t if t >= 1 else None


def distribution(
    values: np.ndarray,
    *,
    excluded: int = 0,
    scale: float = 1e-6,
    weights: np.ndarray | None = None,
    rows: np.ndarray | None = None,
    rank: np.ndarray | None = None,
    sampling: Sampling = None,
) -> Dist | None:
    """DIST of values (ns) times `scale`; None if there are none.

    weights: counts of each value. rows: the request of each value, needed for block intervals; rank: the number of each
    request among those that the blocks divide (None: `rows` are those numbers).
    """
    if not len(values):
        return None
    points: np.ndarray
    limits: dict[str, float] | None = None
    if weights is None or (n := int(weights.sum())) <= REPEAT_LIMIT * len(values):
        # repeating and sorting takes less time than an order and two gathers
        ordered = np.sort(values if weights is None else np.repeat(values, weights))
        n, mean = len(ordered), float(ordered.mean())
        points = quantiles(ordered, tuple(QUANTILES.values()))
        if weights is None:
            ranks = {name: certified_rank(n, p) for name, p in QUANTILES.items()}
            limits = {name: _rounded(ordered[n - t], scale) for name, t in ranks.items() if t is not None}
    else:
        order = np.argsort(values)
        ordered = values[order]
        mean = float(np.average(values, weights=weights))
        points = weighted_quantiles(ordered, weights[order], tuple(QUANTILES.values()))
    ci95 = None
    if sampling == "independent" and weights is None:
        ci95 = {name: order_interval(ordered, QUANTILES[name]) for name in INTERVALS}
    elif isinstance(sampling, Blocks) and rows is not None:
        ci95 = block_intervals(values, rows, sampling, INTERVALS, weights, ordered, rank)
    p50, p90, p95, p99, p999 = (_rounded(point, scale) for point in points)
    return Dist(
        n=n,
        excluded=excluded,
        mean=_rounded(mean, scale),
        min=_rounded(ordered[0], scale),
        max=_rounded(ordered[-1], scale),
        ci95=ci95 and {name: (_rounded(lo, scale), _rounded(hi, scale)) for name, (lo, hi) in ci95.items()},
        too_few=tuple(name for name, p in QUANTILES.items() if n < needed(p)),
        certified=limits or None,
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        p999=p999,
    )


def _rounded(value: float, scale: float) -> float:
    return round(float(value) * scale, 6)  # of a millisecond: 1 ns, the resolution of the records


# -- intervals ----------------------------------------------------------------------------------------------------


def order_interval(ordered: np.ndarray, probability: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Distribution-free interval of a percentile of independent values: two of them (David & Nagaraja 7.1).

    The ends are the extremes where n is too small for the confidence.
    """
    low, high = order_ranks(len(ordered), probability, confidence)
    return float(ordered[low]), float(ordered[high])


@lru_cache(maxsize=256)
def order_ranks(n: int, probability: float, confidence: float = CONFIDENCE) -> tuple[int, int]:
    """0-based ranks with P(x[low] <= percentile <= x[high]) >= confidence; exact binomial below n = 2,000."""
    half = (1 - confidence) / 2
    if n < 2000:
        k = np.arange(n + 1)
        log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
        log_choose = log_factorial[n] - log_factorial - log_factorial[::-1]
        below = np.cumsum(np.exp(log_choose + k * math.log(probability) + (n - k) * math.log1p(-probability)))
        low = int(np.searchsorted(below, half, side="right")) - 1
        high = int(np.searchsorted(below, 1 - half, side="left"))
    else:
        spread = 1.959964 * math.sqrt(n * probability * (1 - probability))  # normal quantile of 97.5 %
        if confidence != CONFIDENCE:
            raise ValueError("the normal approximation is for 95 %")
        low, high = math.floor(n * probability - spread) - 1, math.ceil(n * probability + spread)
    return max(low, 0), min(high, n - 1)


def block_intervals(
    values: np.ndarray,
    rows: np.ndarray,
    blocks: Blocks,
    names: Sequence[str] = INTERVALS,
    weights: np.ndarray | None = None,
    ordered: np.ndarray | None = None,
    rank: np.ndarray | None = None,
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of the circular block bootstrap, by name; seeded, so that a run has one answer.

    Arguments as of `replicate_quantiles`.
    """
    found = replicate_quantiles(values, rows, blocks, [QUANTILES[name] for name in names], weights, ordered, rank)
    edges = np.quantile(found, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=1)
    return {name: (float(low), float(high)) for name, low, high in zip(names, *edges, strict=True)}


def replicate_quantiles(
    values: np.ndarray,
    rows: np.ndarray,
    blocks: Blocks,
    probabilities: Sequence[float],
    weights: np.ndarray | None = None,
    ordered: np.ndarray | None = None,
    rank: np.ndarray | None = None,
    seed: int = 1,
) -> np.ndarray:
    """Quantiles of REPLICATES bootstrap replicates of whole blocks of requests, (len(probabilities), REPLICATES).

    values: (n,), rows: (n,) request rows, weights: counts (n,), ordered: the values sorted, if somebody has done it;
    rank: number of each request among 0 .. blocks.rows - 1, None: rows are that. Each cell's distribution is kept at
    about 300 of the pool's own percentiles, dense in the tail; a replicate is a weighted sum of cells, so the work does
    not grow with n beyond BOOTSTRAP_VALUES.
    """
    if len(values) > BOOTSTRAP_VALUES:
        # one of each of equal pieces: near each other in memory, and no period of the load can hide in it
        chance = np.random.default_rng(seed).random(BOOTSTRAP_VALUES)
        drawn = ((np.arange(BOOTSTRAP_VALUES) + chance) * (len(values) / BOOTSTRAP_VALUES)).astype(np.int64)
        values, rows = values[drawn], rows[drawn]
        weights = None if weights is None else weights[drawn]
    if ordered is None:
        ordered = np.sort(values)
    number = (rows if rank is None else rank[rows]).astype(np.int64)
    edges = np.unique(ordered[_grid(len(ordered))])
    place = np.minimum(np.searchsorted(edges, values), len(edges) - 1)
    cell = number * blocks.cells // blocks.rows
    counts = np.bincount(cell * len(edges) + place, weights, blocks.cells * len(edges))
    # single precision: counts stay below 2^24 or are weighted, and a share is needed to 1e-4
    share = _replicates(blocks.cells, seed) @ counts.reshape(blocks.cells, len(edges)).astype(np.float32)
    share = np.cumsum(share, axis=1, dtype=np.float64)
    share /= np.maximum(share[:, -1:], 1e-300)
    return np.stack([_crossing(edges, share, probability) for probability in probabilities])


def _grid(n: int) -> np.ndarray:
    """Ranks among n sorted values at which distributions are compared, both extremes among them."""
    pieces = [np.linspace(0, 0.9, 91), np.linspace(0.9, 0.99, 91), np.linspace(0.99, 0.999, 91)]
    share = np.concatenate([*pieces, np.linspace(0.999, 1, 46)])
    return np.unique(np.ceil(share * (n - 1)).astype(np.int64))


@lru_cache(maxsize=64)
def _replicates(cells: int, seed: int = 1) -> np.ndarray:
    """How often each cell is in each replicate, float32 (REPLICATES, cells): blocks at random starts, to cover all."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, cells, (REPLICATES, max(1, cells // CELLS_PER_BLOCK)))
    members = (starts[:, :, None] + np.arange(CELLS_PER_BLOCK)) % cells
    flat = members.reshape(REPLICATES, -1) + cells * np.arange(REPLICATES)[:, None]
    return np.bincount(flat.ravel(), minlength=REPLICATES * cells).reshape(REPLICATES, cells).astype(np.float32)


def _crossing(edges: np.ndarray, share: np.ndarray, probability: float) -> np.ndarray:
    """Where each row of cumulative shares (replicates, edges) reaches the probability, linear between edges."""
    at = np.argmax(share >= min(probability, 1 - 1e-12), axis=1)
    before = np.maximum(at - 1, 0)
    row = np.arange(len(share))
    rise = share[row, at] - share[row, before]
    part = np.divide(probability - share[row, before], rise, out=np.ones(len(share)), where=rise > 0)
    low, high = edges[before].astype(np.float64), edges[at].astype(np.float64)
    found: np.ndarray = low + (high - low) * np.clip(part, 0, 1)
    return found


def wilson_interval(good: float, n: float, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Interval of a share (Wilson 1927), by default at 95 %; None for n = 0. Effective numbers need not be whole."""
    if n == 0:
        return None
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (good + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(good * max(n - good, 0.0) / n + z * z / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


# -- arrivals -----------------------------------------------------------------------------------------------------


def ks_distance(a: np.ndarray, b: np.ndarray, tolerance: float = 0.0) -> float | None:
    """Two-sample Kolmogorov-Smirnov distance sup |F_a - F_b|; None for an empty sample.

    tolerance: shifts of a value up to this much do not count (a Lévy distance with a fixed horizontal part); needed
    where one sample has steps, like the gaps of constant arrivals.
    """
    if not len(a) or not len(b):
        return None
    # every k-th of the sorted values moves the distance by less than k / n
    a, b = (np.sort(x)[:: max(1, len(x) // KS_VALUES)] for x in (a, b))

    def above(x: np.ndarray, y: np.ndarray) -> float:
        """sup over t of F_x(t - tolerance) - F_y(t), taken at the steps of F_x."""
        mine = np.searchsorted(x, x, side="right") / len(x)
        return float(np.max(mine - np.searchsorted(y, x + tolerance, side="right") / len(y), initial=0.0))

    return max(above(a, b), above(b, a))


def coefficient_of_variation(gaps: np.ndarray) -> float | None:
    """Standard deviation / mean: 1 for Poisson arrivals, 0 for constant; None below two gaps or for mean 0."""
    if len(gaps) < 2 or not (mean := float(gaps.mean())):
        return None
    return float(gaps.std()) / mean


def dispersion_index(times_ns: np.ndarray, width_ns: int) -> float | None:
    """Variance / mean of the counts in whole windows of `width_ns`: 1 for Poisson at a constant rate; None below 10."""
    if len(times_ns) < 2:
        return None
    first = int(times_ns.min())
    whole = (int(times_ns.max()) - first) // width_ns
    if not 10 <= whole <= 10_000_000:
        return None
    at = (times_ns - first) // width_ns
    counts = np.bincount(at[at < whole], minlength=whole)
    return float(counts.var() / counts.mean())


# -- histograms ---------------------------------------------------------------------------------------------------


def histogram_distribution(counts: np.ndarray, *, excluded: int = 0, scale: float = 1e-6) -> Dist | None:
    """DIST of a histogram, counts (HISTOGRAM_BUCKETS,): each value is taken as its bucket's middle (< 1 % off)."""
    total = int(counts.sum())
    if not total:
        return None
    used = np.flatnonzero(counts)
    middle, weight = bucket_middles_ns()[used], counts[used].astype(np.int64)
    points = weighted_quantiles(middle, weight, tuple(QUANTILES.values()))
    p50, p90, p95, p99, p999 = (_rounded(point, scale) for point in points)
    return Dist(
        n=total,
        excluded=excluded,
        mean=_rounded(np.average(middle, weights=weight), scale),
        min=_rounded(middle[0], scale),
        max=_rounded(middle[-1], scale),
        too_few=tuple(name for name, p in QUANTILES.items() if total < needed(p)),
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        p999=p999,
    )


@cache
def bucket_middles_ns() -> np.ndarray:
    """Middles of the histogram's buckets in ns, (HISTOGRAM_BUCKETS,); of the open last one its lower bound."""
    bounds = bucket_bounds_ns()
    middles = np.append((bounds[:-1] + bounds[1:]) / 2, bounds[-1])
    assert len(middles) == HISTOGRAM_BUCKETS
    return middles


# -- shifts ----------------------------------------------------------------------------------------------------------


class Shift(NamedTuple):
    """How far values lie above others: Hodges-Lehmann's estimate, and its distribution-free 95 % interval."""

    estimate: float
    low: float
    high: float


def shift(values: np.ndarray, base: np.ndarray) -> Shift:
    """Median of all differences between two independent samples; the interval inverts Mann-Whitney's test."""
    differences = np.sort((values[:, None] - base[None, :]).ravel())
    n = len(differences)
    return _shift(differences, n / 2, math.sqrt(n * (len(values) + len(base) + 1) / 12))


def paired_shift(differences: np.ndarray) -> Shift:
    """Median of the means of all pairs of differences; the interval inverts the signed-rank test."""
    rows, columns = np.triu_indices(len(differences))
    n = len(differences)
    averages = np.sort((differences[rows] + differences[columns]) / 2)
    return _shift(averages, len(averages) / 2, math.sqrt(n * (n + 1) * (2 * n + 1) / 24))


def _shift(ordered: np.ndarray, middle: float, deviation: float) -> Shift:
    """By the normal approximation (Hollander & Wolfe 1999, 3.3 and 4.3); the whole range where values are too few."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    at = max(0, math.floor(middle - z * deviation))
    return Shift(float(np.median(ordered)), float(ordered[at]), float(ordered[len(ordered) - 1 - at]))
