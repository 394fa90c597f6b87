"""From a run's records to summary.json."""

from __future__ import annotations

import datetime
import math
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from llmgen.columns import NOT_FAILED, Finish, Flag, Histogram, OutputSource, Status
from llmgen.errors import RecordError
from llmgen.metrics import definitions
from llmgen.metrics.figures import (
    SUMMARY_SCHEMA,
    SUMMARY_VERSION,
    Arrivals,
    Client,
    Counts,
    Group,
    Latency,
    Load,
    Requests,
    SloResult,
    Summary,
    Throughput,
    Tokens,
    Verdict,
    Window,
)
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.slo import PHASES, RATES, Slo, aggregate, meets
from llmgen.metrics.statistics import (
    Dist,
    coefficient_of_variation,
    dispersion_index,
    distribution,
    histogram_distribution,
    ks_distance,
    wilson_interval,
)
from llmgen.metrics.verdict import Thresholds, judge
from llmgen.records import Run, check_schema

MICRO, MILLI = 1e-3, 1e-6  # ns to the unit

# Planned gaps of which one value (to 1 us) has more than this share are steps, not a continuous distribution.
STEP_SHARE = 0.05
# A quarter of a step: what jitter of 5 % of a Poisson process's mean gap does to its KS distance.
STEP_TOLERANCE = 0.25


def summarise(run: Run, thresholds: Thresholds | None = None) -> Summary:
    """Everything that summary.json says about a run."""
    m = Measurements(run)
    everyone = np.ones(m.count, bool)
    requests, latency, throughput = (
        _requests(m, everyone, run_wide=True),
        _latency(m, everyone),
        _throughput(m, everyone),
    )
    groups = _classes(m, Group(requests=requests, latency=latency, throughput=throughput))
    start, end = ((edge - m.start_ns) / 1e9 for edge in m.span)
    info = run.info
    summary = Summary(
        run_id=info.get("run_id"),
        name=info.get("name"),
        tags=info.get("tags") or {},
        started=_iso(info.get("start_realtime_ns")),
        record="events" if run.events is not None else "requests",
        verdict=Verdict(status="valid"),
        requests=requests,
        window=Window(start_s=start, end_s=end, duration_s=m.duration_s, requests=_counts(m, m.inside)),
        load=_load(m, requests),
        latency=latency,
        throughput=throughput,
        tokens=_tokens(m),
        client=_client(m),
        slo=tuple(_evaluate(m, slo, throughput, groups) for slo in m.run_slos),
        classes=groups,
        targets=_targets(m, Group(requests=requests, latency=latency, throughput=throughput)),
        turns=_turns(m),
    )
    verdict = judge(summary, info, thresholds)
    notes = (*verdict.notes, *run.notes)
    return msgspec.structs.replace(summary, verdict=msgspec.structs.replace(verdict, notes=notes))


def encode(summary: Summary) -> bytes:
    """summary.json, indented; what is not finite becomes null."""
    return msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"


def write_summary(run_dir: Path, summary: Summary) -> None:
    """Writes summary.json, atomically."""
    path = run_dir / "summary.json"
    temporary = run_dir / ".summary.json.tmp"
    with temporary.open("wb") as file:
        file.write(encode(summary))
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def read_summary(path: Path) -> Summary:
    """A summary.json, or that of a run directory. Raises RecordError."""
    if path.is_dir():
        path = path / "summary.json"
    try:
        data = path.read_bytes()
        document = msgspec.json.decode(data)
        check_schema(
            path, document.get("schema") if isinstance(document, dict) else None, SUMMARY_SCHEMA, SUMMARY_VERSION
        )
        return msgspec.json.decode(data, type=Summary)
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: damaged ({error})") from error


# -- requests -----------------------------------------------------------------------------------------------------


def _named(values: np.ndarray, names: Any) -> dict[str, int]:
    """Counts by the enum's name; a number it does not know by itself."""
    found, counts = np.unique(values, return_counts=True)
    known = {int(member): member.name for member in names}
    return {known.get(int(v), str(v)): int(c) for v, c in zip(found, counts, strict=True)}


def _counts(m: Measurements, mask: np.ndarray, missing: int = 0) -> Counts:
    """missing: planned requests without a row, of a run whose controller died; they were never sent."""
    by_status = _named(m.requests["status"][mask], Status)
    kept = {status.name for status in NOT_FAILED}
    return Counts(
        scheduled=int(np.count_nonzero(mask)) + missing,
        sent=int(np.count_nonzero(m.requests["send"][mask] >= 0)),
        succeeded=by_status.get("ok", 0),
        failed={name: count for name, count in by_status.items() if name not in kept},
        cancelled=by_status.get("cancelled", 0),
        never_sent=by_status.get("never_sent", 0) + missing,
        lost=by_status.get("lost", 0),
    )


def _requests(m: Measurements, mask: np.ndarray, *, run_wide: bool = False) -> Requests:
    planned = (m.run.info.get("schedule") or {}).get("scheduled") if run_wide else None
    missing = max(0, int(planned) - m.count) if planned is not None and m.run.crashed else 0
    counts = _counts(m, mask, missing)
    http = m.requests["http_status"][mask]
    codes, times = np.unique(http[http > 0], return_counts=True)
    finish = _named(m.requests["finish_reason"][mask], Finish)
    finish.pop("none", None)
    return Requests(
        **{
            **msgspec.structs.asdict(counts),
            # what was planned, so that the identity is a check and not a tautology
            "scheduled": counts.scheduled if planned is None else int(planned),
        },
        http_status={str(code): int(n) for code, n in zip(codes, times, strict=True)},
        finish=finish,
        stale_resends=int(np.count_nonzero(m.requests["flags"][mask] & Flag.stale_resend)),
    )


# -- latency and throughput ---------------------------------------------------------------------------------------


def _latency(m: Measurements, group: np.ndarray, klass: int | None = None) -> Latency:
    mask = m.inside & group
    found: dict[str, Dist | None] = {}
    for metric in definitions.REQUEST_METRICS:
        found[f"{metric}_ms"] = _request_distribution(m, m.value(metric), mask, _may_have(m, metric))
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


def _may_have(m: Measurements, metric: str) -> np.ndarray | None:
    """Requests that a missing value would exclude; None: all of the window."""
    if metric == "connect":
        return m.requests["connect_start"] >= 0
    if metric == "tls":
        return m.requests["secured"] > m.requests["connected"]
    return None


def _request_distribution(
    m: Measurements, values: np.ndarray, mask: np.ndarray, may_have: np.ndarray | None = None, scale: float = MILLI
) -> Dist | None:
    there = mask & ~np.isnan(values)
    missing = mask & ~there if may_have is None else mask & ~there & may_have
    rows = np.flatnonzero(there)
    return distribution(
        values if len(rows) == len(values) else values[rows],
        excluded=int(np.count_nonzero(missing)),
        scale=scale,
        rows=rows,
        rank=m.rank,
        sampling=m.sampling,
    )


def _throughput(m: Measurements, group: np.ndarray, klass: str | None = None) -> Throughput:
    r, seconds = m.requests, m.duration_s
    start, end = m.span
    ended = m.ok & group & (r["end"] >= start) & (r["end"] < end)
    failed = ~np.isin(r["status"], [int(status) for status in NOT_FAILED])
    tokens = m.tokens_inside
    told = group & (r["input_tokens"] >= 0) & (r["first_token"] >= start) & (r["first_token"] < end)
    good = _good(m)
    scheduled = int(np.count_nonzero(m.inside & group))
    n_good = 0 if good is None else int(np.count_nonzero(good & m.inside & group))
    events: float | None = None
    if group.all():
        events = _events_inside(m) / seconds
    return Throughput(
        requests_per_s=int(np.count_nonzero(ended)) / seconds,
        output_tokens_per_s=float(tokens[group & ~failed].sum()) / seconds,
        failed_output_tokens_per_s=float(tokens[group & failed].sum()) / seconds,
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


def _good(m: Measurements) -> np.ndarray | None:
    """Requests that succeeded and kept every limit of the run and of their class; None without any limit."""
    limits = [slo for slo in m.slos if slo.per_request]
    if not limits:
        return None
    good = meets((slo for slo in limits if slo.klass is None), m.value, m.ok)
    for slo in limits:
        if slo.klass is not None:
            good &= ~m.of_class(slo.klass) | meets([slo], m.value, m.ok)
    return good


def _tokens(m: Measurements) -> Tokens:
    r, mask = m.requests, m.inside & m.ok

    def known_sum(name: str) -> int | None:
        values = r[name][mask]
        values = values[values >= 0]
        return int(values.sum(dtype=np.int64)) if len(values) else None

    both = mask & (r["planned_output"] > 0) & (r["output_tokens"] >= 0)
    asked, got = (int(r[name][both].sum(dtype=np.int64)) for name in ("planned_output", "output_tokens"))
    counted = mask & (r["token_events"] > 0) & (r["output_tokens"] >= 0)
    sources = _named(r["output_source"][mask], OutputSource)
    sources.pop("none", None)
    return Tokens(
        input=known_sum("input_tokens"),
        output=known_sum("output_tokens"),
        reasoning=known_sum("reasoning_tokens"),
        cached=known_sum("cached_tokens"),
        output_source=sources,
        planned_input=known_sum("planned_input"),
        planned_output=known_sum("planned_output"),
        output_ratio=got / asked if asked else None,
        tokens_per_event=distribution(r["output_tokens"][counted] / r["token_events"][counted], scale=1.0),
    )


# -- our own part -------------------------------------------------------------------------------------------------


def _load(m: Measurements, requests: Requests) -> Load:
    r = m.requests
    schedule = m.run.info.get("schedule") or {}
    span = schedule.get("span_ns")
    span_s = span / 1e9 if span else None
    lag = definitions.schedule_lag(r)
    own = lag + definitions.hand_over_lag(r)
    arrival = schedule.get("arrival")
    return Load(
        arrival=arrival,
        offered_rate=requests.scheduled / span_s if span_s else None,
        achieved_rate=requests.sent / span_s if span_s else None,
        duration_s=m.duration_s,
        schedule_lag_ms=_request_distribution(m, lag, m.inside),
        own_lag_ms=_request_distribution(m, own, m.inside),
        send_lag_ms=_request_distribution(m, definitions.send_lag(r), m.inside),
        peak_in_flight=m.peak_in_flight,
        arrivals=None if arrival == "closed" else _arrivals(m),
    )


def _arrivals(m: Measurements) -> Arrivals | None:
    first = m.inside & (m.requests["attempt"] == 0)  # a further attempt is no arrival of the plan's
    send = np.sort(m.requests["send"][first & (m.requests["send"] >= 0)])
    due = np.sort(m.requests["due"][first])
    if len(send) < 2 or len(due) < 2:
        return None
    sent, planned = np.diff(send), np.diff(due)
    if not planned.any():
        return None  # all due at once: any gap is ours, and schedule lag tells it
    _, ties = np.unique(planned // 1000, return_counts=True)
    stepped = ties.max() > max(1, STEP_SHARE * len(planned))
    tolerance = STEP_TOLERANCE * float(planned.mean()) if stepped else 0.0
    return Arrivals(
        ks_distance=ks_distance(sent, planned, tolerance),
        cv=coefficient_of_variation(sent),
        dispersion_1s=dispersion_index(send, 10**9),
        dispersion_10s=dispersion_index(send, 10**10),
        planned_cv=coefficient_of_variation(planned),
        tolerance_ms=round(tolerance * MILLI, 6),
    )


def _client(m: Measurements) -> Client:
    r, info = m.requests, m.run.info
    workers = info.get("workers_detail") or []
    cpu = [float(worker["cpu_s"]) for worker in workers if worker.get("cpu_s") is not None]
    memory = [float(worker["peak_rss_mb"]) for worker in workers if worker.get("peak_rss_mb") is not None]
    events = int(r["events"].sum(dtype=np.int64))
    lasted = (info.get("end_ns") or 0) - m.start_ns
    clock = info.get("clock") or {}
    read = r["reads"] > 0
    user = (r["flags"][read] & Flag.user_stamped) != 0
    return Client(
        workers=info.get("workers"),
        cpu_s=sum(cpu) if cpu else None,
        cpu_us_per_event=sum(cpu) * 1e6 / events if cpu and events else None,
        cpu_share_max=max(cpu) * 1e9 / lasted if cpu and lasted > 0 else None,
        drain_lag_us=histogram_distribution(m.histogram(Histogram.drain_lag, window=False), scale=MICRO),
        stamp_uncertainty_us=histogram_distribution(m.histogram(Histogram.uncertainty, window=False), scale=MICRO),
        ttft_user_ms=histogram_distribution(m.histogram(Histogram.ttft_user)),
        chunk_gap_user_ms=histogram_distribution(m.histogram(Histogram.gap_user)),
        coalesced_share=int(r["coalesced_events"].sum(dtype=np.int64)) / events if events else None,
        peak_rss_mb=max(memory) if memory else None,
        stamps=None if not len(user) else "user" if user.all() else "mixed" if user.any() else "kernel",
        steal_pct=clock.get("steal_pct"),
        clock_steps=clock.get("steps"),
    )


# -- groups and objectives ----------------------------------------------------------------------------------------


def _classes(m: Measurements, whole: Group) -> dict[str, Group]:
    groups: dict[str, Group] = {}
    for number, name in enumerate(m.class_names):
        mask = m.of_class(name)
        group = whole
        if not mask.all():
            group = Group(
                requests=_requests(m, mask), latency=_latency(m, mask, number), throughput=_throughput(m, mask)
            )
        groups[name] = group
    for name, group in groups.items():
        results = tuple(_evaluate(m, slo, group.throughput, groups) for slo in m.class_slos if slo.klass == name)
        groups[name] = msgspec.structs.replace(group, slo=results)
    return groups


def _targets(m: Measurements, whole: Group) -> dict[str, Group]:
    groups: dict[str, Group] = {}
    for number, target in enumerate(m.run.info.get("targets") or ()):
        mask = m.requests["target"] == number
        groups[str(target["url"])] = whole if mask.all() else _group(m, mask)
    return groups


def _turns(m: Measurements) -> dict[str, Group]:
    """By turn of a session; empty without sessions."""
    of_session = m.requests["session"] >= 0
    turns = np.unique(m.requests["turn"][of_session])
    return {str(turn): _group(m, of_session & (m.requests["turn"] == turn)) for turn in turns}


def _group(m: Measurements, mask: np.ndarray) -> Group:
    return Group(requests=_requests(m, mask), latency=_latency(m, mask), throughput=_throughput(m, mask))


def _evaluate(m: Measurements, slo: Slo, throughput: Throughput, groups: dict[str, Group]) -> SloResult:
    if slo.klass is not None and slo.klass in groups:
        throughput = groups[slo.klass].throughput
    mask = m.inside & m.of_class(slo.klass)
    scheduled = int(np.count_nonzero(mask))
    measured: float | None
    missing, unit = 0, "share"
    met: bool | None
    if slo.per_request:
        kept = int(np.count_nonzero(meets([slo], m.value, m.ok) & mask))
        measured = kept / scheduled if scheduled else None
        judged = any(other.metric == "goodput" and other.klass in (None, slo.klass) for other in m.slos)
        met = None if judged or not scheduled else kept == scheduled
        return _result(slo, measured, unit, met)
    if slo.metric == "error_rate":
        measured = _counts(m, mask).failures / scheduled if scheduled else None
    elif slo.metric == "goodput":
        measured = throughput.goodput
    elif slo.metric in RATES:
        measured, unit = getattr(throughput, slo.metric), "per_s"
    else:
        measured, missing = _aggregate(m, slo, mask)
        met = measured is not None and slo.holds(measured)
        return _result(slo, None if measured is None else measured * MILLI, "ms", met, missing)
    return _result(slo, measured, unit, measured is not None and slo.holds(measured))


def _result(slo: Slo, measured: float | None, unit: str, met: bool | None, missing: int = 0) -> SloResult:
    finite = measured if measured is not None and math.isfinite(measured) else None
    return SloResult(expression=slo.expression, klass=slo.klass, measured=finite, unit=unit, met=met, missing=missing)


def _aggregate(m: Measurements, slo: Slo, mask: np.ndarray) -> tuple[float | None, int]:
    """(ns or inf or None, how many values were +inf)."""
    assert slo.statistic is not None
    ended = m.ok & mask
    if slo.metric in definitions.TOKEN_METRICS:
        klass = None if slo.klass is None else m.class_names.index(slo.klass)
        pool = m.pool(slo.metric, m.of_class(slo.klass), klass)
        # every token that was asked for and is not of a good answer never came in time
        missing = int(np.maximum(m.requests["planned_output"][mask & ~m.ok], 1).sum(dtype=np.int64))
        if pool is None:
            return aggregate(slo.statistic, np.empty(0), None, missing), missing
        values, weights = pool.values, pool.weights
        if pool.rows is not None and not m.ok.all():
            of_ok = m.ok[pool.rows]
            values, weights = values[of_ok], None if weights is None else weights[of_ok]
        return aggregate(slo.statistic, values, weights, missing), missing
    values = m.value(slo.metric)
    there = ~np.isnan(values)
    if slo.metric in PHASES:
        attempted = _may_have(m, slo.metric)
        lost = mask & ~m.ok & ~there & (True if attempted is None else attempted)
        return aggregate(slo.statistic, values[mask & there], None, int(np.count_nonzero(lost))), int(lost.sum())
    missing = int(np.count_nonzero(mask & ~m.ok))
    return aggregate(slo.statistic, values[ended & there], None, missing), missing


def _iso(realtime_ns: int | None) -> str | None:
    if not realtime_ns:
        return None
    return datetime.datetime.fromtimestamp(realtime_ns / 1e9, datetime.UTC).isoformat(timespec="milliseconds")
