"""A run, or a span of one, as a step of a test; and a run over time."""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from llmgen.columns import Status
from llmgen.metrics import series
from llmgen.metrics.conclusion import Course, Mark, Outage, Step
from llmgen.metrics.definitions import failed
from llmgen.metrics.diagnosis import Thirds, saturation
from llmgen.metrics.figures import Finding
from llmgen.metrics.goal import Goal
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.recovery import growth, outages, unending
from llmgen.metrics.series import Bins

IN_FLIGHT_BINS: Final = 40  # of a step: its slope needs no more
MOST_BINS: Final = 400
HIGHER: Final = 1.05  # offered rates that differ by this are two; whether one is far above, the rule itself asks


def step_of(
    m: Measurements,
    goal: Goal,
    label: str,
    run: int,
    *,
    span_s: tuple[float, float] | None = None,
    verdict: str | None = None,
    stopped: str | None = None,
) -> Step:
    """Latencies and attainment by due time in the span, throughput by what happened in it; None: the run's window.

    A request that a stop rule kept from being sent says nothing about the server and is left out.
    """
    start, end = m.span if span_s is None else (m.start_ns + round(edge * 1e9) for edge in span_s)
    r = m.requests
    taken = r["status"] != Status.never_sent
    if stopped is not None:
        end = max(m.start_ns + 1, min(end, int(r["due"][taken].max(initial=m.start_ns)) + 1))
        start = min(start, m.start_ns + (end - m.start_ns) // 4)  # stopped before its window: what settled in is cut
    mask = (r["due"] >= start) & (r["due"] < end) & taken
    seconds, count = (end - start) / 1e9, int(np.count_nonzero(mask))
    flying, width = _in_flight(m, start, end)
    offered = count / seconds
    bad = failed(r) & mask
    names, counts = np.unique(r["status"][bad], return_counts=True)
    return Step(
        label=label,
        run=run,
        seconds=seconds,
        offered_per_s=offered,
        succeeded_per_s=float(np.count_nonzero(m.ok & (r["end"] >= start) & (r["end"] < end)) / seconds),
        tokens_per_s=float(series.tokens_over_time(m, Bins(start, seconds, 1))[0]),
        ttft_p50_ms=_quantile(m, "ttft_from_due", mask, 0.5),
        ttft_p95_ms=_quantile(m, "ttft_from_due", mask, 0.95),
        tpot_p50_ms=_quantile(m, "tpot", mask, 0.5),
        tpot_p95_ms=_quantile(m, "tpot", mask, 0.95),
        e2e_p50_ms=_quantile(m, "e2e_from_due", mask, 0.5),
        attainment=float(np.count_nonzero(goal.good(m) & mask) / count) if count else None,
        error_rate=float(np.count_nonzero(bad) / count) if count else None,
        in_flight=float(flying.mean()),
        growth_per_s=growth(flying, width),
        unsettled=unending(flying, width, offered),
        errors={Status(int(name)).name: int(n) for name, n in zip(names, counts, strict=True)},
        verdict=verdict,
        stopped=stopped,
    )


def _in_flight(m: Measurements, start: int, end: int) -> tuple[np.ndarray, float]:
    """In flight in IN_FLIGHT_BINS bins, and their width in s."""
    width = (end - start) / 1e9 / IN_FLIGHT_BINS
    return series.in_flight(m, Bins(start, width, IN_FLIGHT_BINS)).astype(np.float64), width


def _quantile(m: Measurements, metric: str, mask: np.ndarray, share: float) -> float | None:
    values = m.value(metric)[mask]
    values = values[~np.isnan(values)]
    return float(np.quantile(values, share)) / 1e6 if len(values) else None


def outages_of(m: Measurements, run: int) -> list[Outage]:
    r = m.requests
    return outages(r["status"], np.where(r["end"] >= 0, (r["end"] - m.start_ns) / 1e9, -1.0), run)


def course_of(m: Measurements, goal: Goal, run: int, seconds: float, marks: list[Mark]) -> Course:
    """The run over time, `seconds` of it, in round bins."""
    width = next((w for w in series.WIDTHS_S if w >= 0.25 and seconds / w <= MOST_BINS), series.WIDTHS_S[-1])
    bins = Bins(m.start_ns, width, max(1, int(np.ceil(seconds / width))))
    good = bins.rate(m.requests["due"][goal.good(m)])
    due = bins.rate(m.requests["due"])
    with np.errstate(invalid="ignore", divide="ignore"):
        attainment = good / due
    errors = series.errors_over_time(m, bins)
    return Course(
        run=run,
        width_s=width,
        offered_per_s=_listed(due),
        in_flight=_listed(series.in_flight(m, bins).astype(np.float64)),
        tokens_per_s=_listed(series.tokens_over_time(m, bins)),
        errors_per_s=_listed(sum(errors.values(), np.zeros(bins.count))),
        attainment=_listed(attainment),
        ttft_p50_ms=_listed(series.percentiles_over_time(m, bins, "ttft_from_due")[0]),
        marks=marks,
    )


def _listed(values: np.ndarray) -> list[float | None]:
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values.tolist()]


def saturated(steps: list[Step]) -> Finding | None:
    """Saturation by its rule in diagnosis.py, between steps: the first pair where more load brought only waiting."""
    usable = [one for one in steps if one.ttft_p50_ms is not None and one.in_flight is not None]
    usable.sort(key=lambda one: one.offered_per_s)
    for number, low in enumerate(usable):
        for high in usable[number + 1 :]:
            if high.offered_per_s <= HIGHER * low.offered_per_s:
                continue
            found = saturation(
                Thirds(
                    by="step",
                    offered=(low.offered_per_s, high.offered_per_s),
                    in_flight=(low.in_flight or 0.0, high.in_flight or 0.0),
                    tokens=(low.tokens_per_s, high.tokens_per_s),
                    ttft=(low.ttft_p50_ms or 0.0, high.ttft_p50_ms or 0.0),
                    itl=(low.tpot_p50_ms or float("nan"), high.tpot_p50_ms or float("nan")),
                )
            )
            if found is not None:
                compared = (
                    f"{low.label} against {high.label}: offered {low.offered_per_s:.4g} → {high.offered_per_s:.4g}"
                )
                return msgspec.structs.replace(found, evidence=(f"{compared} requests/s", *found.evidence[1:]))
    return None
