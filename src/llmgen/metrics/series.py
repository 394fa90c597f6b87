"""How a run went over time and how its values are spread: the arrays behind every picture of a report.

Requests are put into bins by their due time, so that one that waited shows where it should have been served; tokens,
errors and requests in flight by when they happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from llmgen.columns import NOT_FAILED, Histogram, Status
from llmgen.metrics import definitions
from llmgen.metrics.measurements import Measurements, Pool
from llmgen.metrics.statistics import (
    MIN_BIN_VALUES,
    binned_quantiles,
    bucket_middles_ns,
    quantiles,
    weighted_quantiles,
)

MAX_BINS: Final = 300  # more points than a screen has pixels to tell apart in seven panels
WIDTHS_S: Final = (0.1, 0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
SHARES: Final = (0.5, 0.95, 0.99)
MIN_BINS: Final = 20  # fewer show no course of events
BIN_REQUESTS: Final = 10  # on average, so that a median is more than one request

CDF_POINTS: Final = 400


@dataclass(frozen=True, slots=True)
class Bins:
    """Equal bins of `width_s` from the start of the run; `middle_s` (n,) seconds since the start."""

    start_ns: int
    width_s: float
    count: int

    @property
    def middle_s(self) -> np.ndarray:
        middle: np.ndarray = (np.arange(self.count) + 0.5) * self.width_s
        return middle

    @property
    def ends_ns(self) -> np.ndarray:
        ends: np.ndarray = self.start_ns + ((np.arange(self.count) + 1) * self.width_s * 1e9).astype(np.int64)
        return ends

    def of(self, t: np.ndarray) -> np.ndarray:
        """Bin of each time; -1: before the start or after the last bin."""
        at = self._cell(t)
        at[at == self.count] = -1
        return at

    def _cell(self, t: np.ndarray) -> np.ndarray:
        """-1 before the start, `count` after the last bin."""
        at: np.ndarray = t - self.start_ns
        at //= round(self.width_s * 1e9)
        return np.clip(at, -1, self.count, out=at)

    def rate(self, t: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """Per second: how many of the times lie in each bin."""
        # what lies before or after counts into a bin of its own
        at = self._cell(t)
        at += 1
        counts = np.bincount(at, weights, self.count + 2)
        per_s: np.ndarray = counts[1:-1] / self.width_s
        return per_s


def bins_of(m: Measurements, most: int = MAX_BINS) -> Bins:
    """Bins of a round width that cover the run: at most `most`, with BIN_REQUESTS each if that leaves MIN_BINS."""
    last = max(int(m.requests[name].max(initial=m.start_ns)) for name in ("due", "send", "last_token", "end"))
    lasted = max(last - m.start_ns, 0) / 1e9
    fine = [w for w in WIDTHS_S if lasted / w <= most] or [lasted / most]
    wide = [w for w in fine if m.count * w >= BIN_REQUESTS * lasted or lasted / w < 2 * MIN_BINS]
    width = (wide or fine[-1:])[0]
    return Bins(m.start_ns, width, int(lasted // width) + 1)


def offered_and_sent(m: Measurements, bins: Bins) -> tuple[np.ndarray, np.ndarray]:
    """Requests/s due and sent."""
    return bins.rate(m.requests["due"]), bins.rate(m.requests["send"])


def in_flight(m: Measurements, bins: Bins) -> np.ndarray:
    """Requests sent and not ended at the end of each bin."""
    sent = definitions.in_order(m.requests["send"][m.requests["send"] >= 0])
    ended = np.sort(m.requests["end"][(m.requests["send"] >= 0) & (m.requests["end"] >= 0)])
    return np.searchsorted(sent, bins.ends_ns, side="right") - np.searchsorted(ended, bins.ends_ns, side="right")


def percentiles_over_time(m: Measurements, bins: Bins, metric: str) -> np.ndarray:
    """SHARES of a metric in ms by due time, (len(SHARES), bins.count); NaN where there are too few values."""
    if metric in definitions.TOKEN_METRICS:
        pool = m.pool(metric, np.ones(m.count, bool))
        if pool is None:
            return np.full((len(SHARES), bins.count), np.nan)
        if pool.rows is None:
            return _by_minute(m, bins, Histogram.itl if metric == "itl" else Histogram.gap)
        return _gaps_by_due(m, bins, pool) / 1e6
    if metric == "drain_lag":
        return _by_minute(m, bins, Histogram.drain_lag)
    if metric == "own_lag":
        values = definitions.schedule_lag(m.requests) + definitions.hand_over_lag(m.requests)
    else:
        values = m.value(metric)
    there = ~np.isnan(values)
    return binned_quantiles(bins.of(m.requests["due"])[there], values[there], bins.count) / 1e6


def _gaps_by_due(m: Measurements, bins: Bins, pool: Pool) -> np.ndarray:
    """SHARES of token metrics in each bin. Gaps lie in order of their requests, so that those of a bin lie together."""
    assert pool.rows is not None
    at = bins.of(m.requests["due"])
    there = m.inside & (at >= 0)
    ordered = at[there]
    if len(ordered) > 1 and (np.diff(ordered) < 0).any():
        values = pool.values if pool.weights is None else np.repeat(pool.values, pool.weights)
        rows = pool.rows if pool.weights is None else np.repeat(pool.rows, pool.weights)
        return binned_quantiles(at[rows], values, bins.count)
    out = np.full((len(SHARES), bins.count), np.nan)
    each = np.bincount(pool.rows, minlength=m.count)
    ends = np.concatenate([[0], np.cumsum(each)])
    first_row = np.searchsorted(ordered, np.arange(bins.count + 1))
    rows = np.append(np.flatnonzero(there), m.count)
    edges = ends[rows[first_row]]
    for number in np.flatnonzero(np.diff(edges) >= MIN_BIN_VALUES):
        part = slice(int(edges[number]), int(edges[number + 1]))
        values = pool.values[part]
        if pool.weights is not None:
            values = np.repeat(values, pool.weights[part])
        out[:, number] = quantiles(np.sort(values), SHARES)
    return out


def _by_minute(m: Measurements, bins: Bins, metric: Histogram) -> np.ndarray:
    """Level `requests` knows gaps by minute: each bin shows its minute's percentiles."""
    rows = m.run.histograms
    rows = rows[rows["metric"] == metric]
    out = np.full((len(SHARES), bins.count), np.nan)
    minute_of = (bins.middle_s // 60).astype(np.int64)
    for minute in np.unique(rows["minute"]):
        here = rows[rows["minute"] == minute]
        counts = np.bincount(here["bucket"], here["count"], len(bucket_middles_ns())).astype(np.int64)
        used = np.flatnonzero(counts)
        found = weighted_quantiles(bucket_middles_ns()[used], counts[used], SHARES)
        out[:, minute_of == minute] = found[:, None] / 1e6
    return out


def tokens_over_time(m: Measurements, bins: Bins) -> np.ndarray:
    """Output tokens/s as they arrived, an event's weight scaled to its request's usage; else from the timeline."""
    r = m.requests
    events = m.run.events
    if events is None:
        token_events = int(r["token_events"].sum(dtype=np.int64))
        scale = int(np.maximum(r["output_tokens"], 0).sum(dtype=np.int64)) / token_events if token_events else 0.0
        t = m.start_ns + m.run.timeline["second"] * 10**9 + 5 * 10**8
        return bins.rate(t, m.run.timeline["tokens"].astype(np.float64)) * scale
    assert m.events is not None
    total = m.events.arrived[0]
    told = (total > 0) & (r["output_tokens"] >= 0)
    t, tokens, request = events["t"], events["tokens"], events["request"]
    if not m.events.all_tokens:
        token = definitions.is_token_event(np.ascontiguousarray(events["kind"])) & (request < m.count)
        t, tokens, request = t[token], tokens[token], request[token]
    weights = None
    if (r["output_tokens"][told] != total[told]).any():
        scale_of = np.ones(m.count)
        np.divide(r["output_tokens"], total, out=scale_of, where=told)
        weights = tokens * scale_of[request]
    elif not (tokens == 1).all():
        weights = tokens.astype(np.float64)
    streamed = bins.rate(t, weights)
    whole = (total == 0) & (r["output_tokens"] > 0)
    streamed += bins.rate(r["end"][whole], r["output_tokens"][whole].astype(np.float64))
    return streamed


def errors_over_time(m: Measurements, bins: Bins) -> dict[str, np.ndarray]:
    """Failed requests/s by status, and by class where there are several: ``status · class``; at the time of their end.

    One that has no end counts at its due time.
    """
    r = m.requests
    when = np.where(r["end"] >= 0, r["end"], r["due"])
    kept = {int(status) for status in NOT_FAILED}
    names = {int(status): status.name for status in Status}
    found = [int(status) for status in np.unique(r["status"]) if int(status) not in kept]
    classes: list[tuple[str, np.ndarray | None]] = [("", None)]
    if len(m.class_names) > 1:
        classes = [(f" · {name}", m.of_class(name)) for name in m.class_names]
    rates: dict[str, np.ndarray] = {}
    for status in found:
        for suffix, mask in classes:
            here = r["status"] == status if mask is None else (r["status"] == status) & mask
            if here.any():
                rates[f"{names.get(status, str(status))}{suffix}"] = bins.rate(when[here])
    return rates


def cdf(values_ns: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(ms, share) of at most CDF_POINTS + 101 points, dense in the upper tail."""
    share = np.unique(np.concatenate([np.linspace(0, 1, CDF_POINTS), np.linspace(0.99, 1, 101)]))
    if weights is None:
        return quantiles(np.sort(values_ns), share.tolist()) / 1e6, share
    order = np.argsort(values_ns)
    return weighted_quantiles(values_ns[order], weights[order], share.tolist()) / 1e6, share


def density(values_ns: np.ndarray, edges_ms: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Share of the values in each bin between edges, (len(edges) - 1,)."""
    counts, _ = np.histogram(values_ns / 1e6, edges_ms, weights=weights)
    share: np.ndarray = counts / max(counts.sum(), 1)
    return share
