"""The server's side of a run: its own metrics over the window, and against what the client saw."""

from __future__ import annotations

from typing import Final

import numpy as np

from llmgen.errors import RecordError
from llmgen.metrics.figures import Throughput
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.server_figures import (
    Against,
    Correlation,
    Counter,
    Gauge,
    Server,
    ServerHistogram,
    ServerMark,
    ServerSource,
)
from llmgen.telemetry import store
from llmgen.telemetry.families import SERIES
from llmgen.telemetry.readings import Readings, Track

# Series that can lead or follow the first token's time.
CORRELATED: Final = ("waiting", "running", "kv_usage", "preemptions", "gpu_util", "batch_size")
MOST_BINS: Final = 200
MOST_LAG_BINS: Final = 10
MIN_BINS: Final = 15  # fewer make a large correlation out of chance
MIN_RHO: Final = 0.5
BETTER: Final = 0.25  # of what a shorter lag leaves to 1
RESIDENT: Final = ("load_time", "start_time")  # not of the window


def readings_of(m: Measurements) -> Readings:
    """Telemetry of a run; empty without any. What is damaged is a note of the run."""
    try:
        return Readings(store.read(m.run.path))
    except RecordError as error:
        note = f"telemetry cannot be read: {error}"
        if note not in m.run.notes:
            m.run.notes.append(note)
        return Readings([])


def server_of(m: Measurements, throughput: Throughput) -> Server | None:
    """None without telemetry. A source that never answered is there, with what it failed."""
    readings = readings_of(m)
    if not readings.sources:
        return None
    start, end = m.span
    gauges = {name: g for name in _of_kind(readings, "gauge") if (g := gauge_in(readings, name, start, end))}
    counters = {name: c for name in _of_kind(readings, "counter") if (c := counter_in(readings, name, start, end))}
    histograms = {
        name: h for name in _of_kind(readings, "histogram") if (h := histogram_in(readings, name, start, end))
    }
    load = readings.gauge("load_time")
    return Server(
        sources=tuple(_source(readings, number) for number in range(len(readings.sources))),
        gauges={name: gauge for name, gauge in gauges.items() if name not in RESIDENT},
        counters=counters,
        histograms=histograms,
        gpus=_gpus(readings, start, end),
        prefix_hit_rate=_prefix_hit_rate(counters, gauges),
        spec_acceptance=_quotient(counters, "spec_accepted", "spec_drafted"),
        process_cpus=counters["cpu_time"].per_s if "cpu_time" in counters else None,
        node_cpu_share=_node_cpu(counters),
        joules_per_output_token=_joules(counters, throughput),
        load_time_s=None if load is None or np.isnan(load.v).all() else float(np.nanmax(load.v)),
        against=_against(m, histograms),
        correlation=correlations(m, readings),
        marks=_marks(m, readings),
    )


def _of_kind(readings: Readings, kind: str) -> list[str]:
    return [name for name, series in SERIES.items() if series.kind == kind and readings.has(name)]


def _source(readings: Readings, number: int) -> ServerSource:
    source = readings.sources[number]
    return ServerSource(
        url=source.url,
        family=source.family,
        every_s=source.every_s,
        scrapes=len(source.t),
        failed=len(source.failed),
        scrape_ms=float(np.median(source.took)) / 1e6 if len(source.took) else None,
    )


def _marks(m: Measurements, readings: Readings) -> tuple[ServerMark, ...]:
    return tuple(
        ServerMark(
            kind=mark.kind,
            t_s=(mark.t_ns - m.start_ns) / 1e9,
            until_s=None if mark.until_ns is None else (mark.until_ns - m.start_ns) / 1e9,
            source=readings.sources[mark.source].url,
            what=mark.what,
        )
        for mark in readings.marks
    )


# -- over the window ----------------------------------------------------------------------------------------------


def gauge_in(
    readings: Readings, series: str, start_ns: int, end_ns: int, gpu: tuple[int, str] | None = None
) -> Gauge | None:
    """A gauge over [start, end], each value holding until the next; None if it was not there in that time."""
    track = readings.gauge(series, gpu)
    if track is None:
        return None
    found = cut(track, start_ns, end_ns)
    there = ~np.isnan(found.v)
    if not there.any():
        return None
    lasted = np.diff(found.t, append=end_ns).astype(np.float64)[there]
    values = found.v[there]
    mean = float(np.average(values, weights=lasted)) if lasted.sum() > 0 else float(values.mean())
    return Gauge(
        unit=SERIES[series].unit,
        mean=mean,
        min=float(values.min()),
        max=float(values.max()),
        last=float(values[-1]),
    )


def cut(track: Track, start_ns: int, end_ns: int) -> Track:
    """The part of a gauge in [start, end]; the last value before it stands at its start."""
    inside = (track.t >= start_ns) & (track.t <= end_ns)
    t, v = track.t[inside], track.v[inside]
    before = int(np.searchsorted(track.t, start_ns)) - 1
    if before >= 0 and (not len(t) or t[0] > start_ns):
        t, v = np.concatenate([[start_ns], t]), np.concatenate([track.v[before : before + 1], v])
    return Track(t, v)


def counter_in(readings: Readings, series: str, start_ns: int, end_ns: int) -> Counter | None:
    """None where fewer than two readings tell of it."""
    increase = readings.increase(series, start_ns, end_ns)
    if increase is None or end_ns <= start_ns:
        return None
    return Counter(unit=SERIES[series].unit, increase=increase, per_s=increase / (end_ns - start_ns) * 1e9)


def histogram_in(readings: Readings, series: str, start_ns: int, end_ns: int) -> ServerHistogram | None:
    """By sum and count, which are exact; percentiles only as the bucket they lie in. Times in ms."""
    found = readings.mean(series, start_ns, end_ns)
    if found is None:
        return None
    n, mean = found
    scale = 1000.0 if SERIES[series].unit == "s" else 1.0
    between = readings.buckets(series, "window_start", "window_end") or readings.buckets(series, "window_start", "end")
    return ServerHistogram(
        unit="ms" if scale == 1000.0 else SERIES[series].unit,
        n=n,
        mean=mean * scale,
        p50=_bucket_of(between, 0.5, scale),
        p95=_bucket_of(between, 0.95, scale),
    )


def _bucket_of(
    buckets: tuple[np.ndarray, np.ndarray] | None, p: float, scale: float
) -> tuple[float, float | None] | None:
    if buckets is None or buckets[1].sum() <= 0:
        return None
    bounds, counts = buckets
    at = int(np.searchsorted(np.cumsum(counts), p * counts.sum()))
    low = float(bounds[at - 1]) * scale if at else 0.0
    high = float(bounds[at])
    return low, high * scale if np.isfinite(high) else None


def _gpus(readings: Readings, start_ns: int, end_ns: int) -> dict[str, dict[str, Gauge]]:
    names = [name for name in _of_kind(readings, "gauge") if name.startswith("gpu_")]
    found = {}
    for gpu in readings.gpus:
        each = {name: told for name in names if (told := gauge_in(readings, name, start_ns, end_ns, gpu))}
        if each:
            found[f"{gpu[0]}:{gpu[1]}"] = each
    return found


# -- what follows -------------------------------------------------------------------------------------------------


def _quotient(counters: dict[str, Counter], part: str, whole: str) -> float | None:
    if part not in counters or whole not in counters or counters[whole].increase <= 0:
        return None
    return counters[part].increase / counters[whole].increase


def _prefix_hit_rate(counters: dict[str, Counter], gauges: dict[str, Gauge]) -> float | None:
    """Cached / all prompt tokens where counted so: queries may count a waiting request again at each step. Else hits /
    queries, else what the server calls its hit rate."""
    for part, whole in (("cached_tokens", "prompt_tokens"), ("prefix_hits", "prefix_queries")):
        share = _quotient(counters, part, whole)
        if share is not None:
            return share
    return gauges["prefix_hit_rate"].mean if "prefix_hit_rate" in gauges else None


def _node_cpu(counters: dict[str, Counter]) -> float | None:
    idle = _quotient(counters, "node_cpu_idle", "node_cpu")
    return None if idle is None else min(1.0, max(0.0, 1 - idle))


def _joules(counters: dict[str, Counter], throughput: Throughput) -> float | None:
    if "gpu_energy" not in counters or not throughput.output_tokens_per_s:
        return None
    return counters["gpu_energy"].per_s / throughput.output_tokens_per_s


def _against(m: Measurements, histograms: dict[str, ServerHistogram]) -> dict[str, Against]:
    """TTFT of first tokens, E2E of ends that lie in the window, as the server counts them."""
    r, (start, end) = m.requests, m.span
    found = {}
    for name, stamp in (("ttft", "first_token"), ("e2e", "end")):
        values = m.value(name)[(r[stamp] >= start) & (r[stamp] < end)]
        values = values[~np.isnan(values)]
        if name in histograms and len(values):
            found[name] = _compared(len(values), float(values.mean()) / 1e6, histograms[name])
    return found


def _compared(n: int, mean_ms: float, told: ServerHistogram) -> Against:
    return Against(
        client_n=n, server_n=told.n, client_mean_ms=mean_ms, server_mean_ms=told.mean, added_ms=mean_ms - told.mean
    )


# -- correlation --------------------------------------------------------------------------------------------------


def correlations(m: Measurements, readings: Readings) -> tuple[Correlation, ...]:
    """Of each series that moved with TTFT, before it or after it; those below MIN_RHO are left out."""
    start, end = m.span
    slowest = max((source.every_s for source in readings.sources), default=0.5)
    width_ns = int(max(1e9, 2e9 * slowest, (end - start) / MOST_BINS))
    count = int((end - start) // width_ns)
    ttft, sent = m.value("ttft"), m.requests["send"]
    there = ~np.isnan(ttft) & (sent >= start) & (sent < start + count * width_ns)
    if count < MIN_BINS or not there.any():
        return ()
    at = (sent[there] - start) // width_ns
    each = np.bincount(at, minlength=count)
    with np.errstate(invalid="ignore"):
        client = np.bincount(at, ttft[there], count) / np.where(each > 0, each, np.nan)
    edges = start + np.arange(count + 1) * width_ns
    found = []
    for series in CORRELATED:
        values = binned(readings, series, edges)
        told = None if values is None else _best_lag(client, values, width_ns / 1e9)
        if told is not None:
            rho, lag, at_once, bins = told
            found.append(
                Correlation(series=series, rho=rho, lag_s=lag, at_once=at_once, bins=bins, width_s=width_ns / 1e9)
            )
    return tuple(sorted(found, key=lambda one: -abs(one.rho)))


def binned(readings: Readings, series: str, edges_ns: np.ndarray) -> np.ndarray | None:
    """Mean of a gauge, or increase a second of a counter, in each bin; NaN without a reading. None: nobody has it."""
    if SERIES[series].kind == "counter":
        track = readings.counter(series)
        if track is None or len(track.t) < 2:
            return None
        known = (edges_ns >= track.t[0]) & (edges_ns <= track.t[-1])
        at_edges = np.where(known, np.interp(edges_ns, track.t, track.v), np.nan)
        rates: np.ndarray = np.diff(at_edges) / np.diff(edges_ns) * 1e9
        return rates
    track = readings.gauge(series)
    if track is None:
        return None
    there = ~np.isnan(track.v)
    at = np.searchsorted(edges_ns, track.t[there], side="right") - 1
    inside = (at >= 0) & (at < len(edges_ns) - 1)
    counts = np.bincount(at[inside], minlength=len(edges_ns) - 1)
    sums = np.bincount(at[inside], track.v[there][inside], len(edges_ns) - 1)
    means: np.ndarray = sums / np.where(counts > 0, counts, np.nan)
    return means


def _best_lag(client: np.ndarray, server: np.ndarray, width_s: float) -> tuple[float, float, float, int] | None:
    """(rho, lag in s, rho without lag, bins) at the lag of the largest |rho|; None if it is small or nothing moves.

    At the last lag that can be looked at it is a trend that both have, or lies further off: then without lag.
    """
    found: dict[int, tuple[float, int]] = {}
    for lag in range(-MOST_LAG_BINS, MOST_LAG_BINS + 1):
        # lag > 0: the server's value of then, the client's of later
        a, b = (server[: len(server) - lag], client[lag:]) if lag >= 0 else (server[-lag:], client[:lag])
        both = ~np.isnan(a) & ~np.isnan(b)
        n = int(np.count_nonzero(both))
        if n >= MIN_BINS:
            found[lag] = spearman(a[both], b[both]), n
    if 0 not in found:
        return None
    best = 0
    for lag in sorted(found, key=abs):
        # a lag must earn its place: autocorrelated series are nearly as good at many
        size = abs(found[best][0])
        if abs(found[lag][0]) > size + BETTER * (1 - size):
            best = lag
    if best in (min(found), max(found)):
        best = 0
    rho, n = found[best]
    return None if abs(rho) < MIN_RHO else (rho, best * width_s, found[0][0], n)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation, ties by their mean rank; 0 where one of them does not move."""
    x, y = _ranks(a), _ranks(b)
    if x.std() == 0 or y.std() == 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, at, counts = np.unique(values, return_inverse=True, return_counts=True)
    upper = np.cumsum(counts)
    ranks: np.ndarray = ((upper - counts) + (upper - 1))[at] / 2
    return ranks
