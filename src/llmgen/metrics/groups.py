"""Counts, latency and throughput of a group of requests: the whole run, a class, a target, a turn."""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec
import numpy as np

from llmgen.columns import NOT_FAILED, Finish, Flag, Histogram, Status
from llmgen.metrics import definitions
from llmgen.metrics.figures import Counts, Group, Latency, Requests, Throughput
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.statistics import Dist, distribution, histogram_distribution, wilson_interval

MILLI: Final = 1e-6  # ns to ms

# Metrics that get an interval: those that runs are compared by. Each costs about as much as its percentiles.
WITH_INTERVALS: Final = frozenset({"ttft", "ttft_from_due", "tpot", "itl", "chunk_gap", "e2e", "e2e_from_due"})


def group_of(m: Measurements, mask: np.ndarray, klass: int | None = None) -> Group:
    """Figures of the requests in `mask`; klass: the class that it is, which histograms know at level `requests`."""
    return Group(requests=requests_of(m, mask), latency=latency_of(m, mask, klass), throughput=throughput_of(m, mask))


# -- counts -------------------------------------------------------------------------------------------------------


def named(values: np.ndarray, names: Any) -> dict[str, int]:
    """Counts by the enum's name; a number it does not know by itself. values: uint8."""
    counts = np.bincount(values)
    known = {int(member): member.name for member in names}
    return {known.get(int(v), str(v)): int(counts[v]) for v in np.flatnonzero(counts)}


def counts_of(m: Measurements, mask: np.ndarray, missing: int = 0) -> Counts:
    """missing: planned requests without a row, of a run whose controller died; they were never sent."""
    whole = mask is m.everyone
    by_status = named(m.requests["status"] if whole else m.requests["status"][mask], Status)
    kept = {status.name for status in NOT_FAILED}
    return Counts(
        scheduled=int(np.count_nonzero(mask)) + missing,
        sent=int(np.count_nonzero((m.requests["send"] >= 0) & mask)),
        succeeded=by_status.get("ok", 0),
        failed={name: count for name, count in by_status.items() if name not in kept},
        cancelled=by_status.get("cancelled", 0),
        never_sent=by_status.get("never_sent", 0) + missing,
        lost=by_status.get("lost", 0),
    )


def requests_of(m: Measurements, mask: np.ndarray, *, run_wide: bool = False) -> Requests:
    planned = (m.run.info.get("schedule") or {}).get("scheduled") if run_wide else None
    missing = max(0, int(planned) - m.count) if planned is not None and m.run.crashed else 0
    counts = counts_of(m, mask, missing)
    whole = mask is m.everyone
    http, reasons = m.requests["http_status"], m.requests["finish_reason"]
    times = np.bincount(http if whole else http[mask])
    finish = named(reasons if whole else reasons[mask], Finish)
    finish.pop("none", None)
    return Requests(
        **{
            **msgspec.structs.asdict(counts),
            # what was planned, so that the identity is a check and not a tautology
            "scheduled": counts.scheduled if planned is None else int(planned),
        },
        http_status={str(code): int(times[code]) for code in np.flatnonzero(times) if code},
        finish=finish,
        stale_resends=int(np.count_nonzero(((m.requests["flags"] & Flag.stale_resend) != 0) & mask)),
    )


# -- latency and throughput -------------------------------------------------------------------------------------------


def latency_of(m: Measurements, group: np.ndarray, klass: int | None = None) -> Latency:
    mask = m.inside & group
    found: dict[str, Dist | None] = {}
    visible_first = bool((m.requests["first_visible"] == m.requests["first_token"]).all())
    for metric in definitions.REQUEST_METRICS:
        if metric == "ttfo" and visible_first:
            found["ttfo_ms"] = found["ttft_ms"]  # the same values: nobody reasoned first
            continue
        found[f"{metric}_ms"] = request_distribution(
            m, m.value(metric), mask, may_have(m, metric), interval=metric in WITH_INTERVALS
        )
    for metric in ("chunk_gap", "itl"):
        if metric == "itl" and m.events is not None and m.events.gaps.one_token_each:
            found["itl_ms"] = found.get("chunk_gap_ms")  # the same values
            continue
        pool = m.pool(metric, group, klass)
        if pool is None:
            continue
        if pool.rows is None:
            counts = m.histogram(Histogram.itl if metric == "itl" else Histogram.gap, klass)
            found[f"{metric}_ms"] = histogram_distribution(counts)
            continue
        with_gaps = m.with_gaps
        found[f"{metric}_ms"] = distribution(
            pool.values,
            excluded=int(np.count_nonzero(mask & ~with_gaps)),
            weights=pool.weights,
            rows=pool.rows,
            rank=m.rank,
            sampling=m.sampling,
        )
    return Latency(**found)


def may_have(m: Measurements, metric: str) -> np.ndarray | None:
    """Requests that a missing value would exclude; None: all of the window."""
    if metric == "connect":
        return m.requests["connect_start"] >= 0
    if metric == "tls":
        return m.requests["secured"] > m.requests["connected"]
    return None


def request_distribution(
    m: Measurements, values: np.ndarray, mask: np.ndarray, attempted: np.ndarray | None = None, *, interval: bool = True
) -> Dist | None:
    """DIST in ms of the requests in `mask`; attempted: those that a missing value excludes, None: all."""
    there = mask & ~np.isnan(values)
    missing = mask & ~there if attempted is None else mask & ~there & attempted
    rows = np.flatnonzero(there)
    return distribution(
        _compact(values if len(rows) == len(values) else values[rows]),
        excluded=int(np.count_nonzero(missing)),
        rows=rows,
        rank=m.rank,
        sampling=m.sampling if interval else None,
    )


def _compact(values: np.ndarray) -> np.ndarray:
    """The same values as uint32 where that is exact: differences of stamps are whole ns, and sort twice as fast."""
    if not len(values) or values.max() >= 1 << 32 or values.min() < 0:
        return values
    small = values.astype(np.uint32)
    return small if (small == values).all() else values


def throughput_of(m: Measurements, group: np.ndarray) -> Throughput:
    r, seconds = m.requests, m.duration_s
    start, end = m.span
    ended = m.ok & group & (r["end"] >= start) & (r["end"] < end)
    failed = definitions.failed(r)
    tokens = m.tokens_inside
    read = np.where(r["first_token"] >= 0, r["first_token"], np.where(m.ok, r["end"], -1))
    told = group & (r["input_tokens"] >= 0) & (read >= start) & (read < end)
    good = m.good
    scheduled = int(np.count_nonzero(m.inside & group))
    n_good = 0 if good is None else int(np.count_nonzero(good & m.inside & group))
    events: float | None = None
    if group.all():
        events = _events_inside(m) / seconds
    return Throughput(
        requests_per_s=int(np.count_nonzero(ended)) / seconds,
        output_tokens_per_s=float(np.dot(tokens, group & ~failed)) / seconds,
        failed_output_tokens_per_s=float(np.dot(tokens, group & failed)) / seconds,
        input_tokens_per_s=int(r["input_tokens"][told].sum()) / seconds if told.any() else None,
        events_per_s=events,
        goodput_requests_per_s=None if good is None else n_good / seconds,
        goodput=None if good is None or not scheduled else n_good / scheduled,
        goodput_ci95=None if good is None else wilson_interval(n_good, scheduled),
    )


def _events_inside(m: Measurements) -> int:
    """Events in the window; at level `requests` to the second, from the timeline."""
    if m.events is not None:
        return m.events.events_inside
    start, end = ((edge - m.start_ns) / 1e9 for edge in m.span)
    second = m.run.timeline["second"]
    return int(m.run.timeline["events"][(second >= math.floor(start)) & (second < math.ceil(end))].sum())
