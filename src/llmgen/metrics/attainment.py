"""Objectives held against a run: what each measured, over all scheduled requests of the window; whether it is met."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from llmgen.metrics import definitions
from llmgen.metrics.figures import Group, SloResult, Throughput
from llmgen.metrics.groups import MILLI, counts_of, may_have
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.slo import LATENCIES, PHASES, Slo, aggregate, meets
from llmgen.metrics.statistics import wilson_interval


def evaluate(m: Measurements, slo: Slo, throughput: Throughput, groups: dict[str, Group]) -> SloResult:
    """SLO attainment: good / all scheduled requests of the window, with a Wilson interval.

    Errors, timeouts, cancelled and abandoned requests are misses; in aggregates they count as +∞.
    """
    if slo.klass is not None and slo.klass in groups:
        throughput = groups[slo.klass].throughput
    mask = m.inside & m.of_class(slo.klass)
    scheduled = int(np.count_nonzero(mask))
    if slo.metric in LATENCIES:
        kept = int(np.count_nonzero(meets([slo], m.value, m.ok) & mask))
        share = kept / scheduled if scheduled else None
        interval = wilson_interval(kept, scheduled)
        if slo.per_request:
            judged = any(other.metric == "goodput" and other.klass in (None, slo.klass) for other in m.slos)
            met = None if judged or not scheduled else kept == scheduled
            return _result(slo, share, "share", met, n=scheduled, attainment=share, ci95=interval)
        ns, missing = _aggregate(m, slo, mask)
        return _result(
            slo,
            None if ns is None else ns * MILLI,
            "ms",
            ns is not None and slo.holds(ns),
            missing=missing,
            n=scheduled,
            attainment=share,
            ci95=interval,
        )
    measured: float | None
    unit, interval = "share", None
    if slo.metric == "error_rate":
        failures = counts_of(m, mask).failures
        measured = failures / scheduled if scheduled else None
        interval = wilson_interval(failures, scheduled)
    elif slo.metric == "goodput":
        measured, interval = throughput.goodput, throughput.goodput_ci95
    else:
        measured, unit = getattr(throughput, slo.metric), "per_s"
    return _result(slo, measured, unit, measured is not None and slo.holds(measured), n=scheduled, ci95=interval)


def _result(slo: Slo, measured: float | None, unit: str, met: bool | None, **told: Any) -> SloResult:
    finite = measured if measured is not None and math.isfinite(measured) else None
    return SloResult(expression=slo.expression, klass=slo.klass, measured=finite, unit=unit, met=met, **told)


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
        attempted = may_have(m, slo.metric)
        lost = mask & ~m.ok & ~there & (True if attempted is None else attempted)
        return aggregate(slo.statistic, values[mask & there], None, int(np.count_nonzero(lost))), int(lost.sum())
    missing = int(np.count_nonzero(mask & ~m.ok))
    return aggregate(slo.statistic, values[ended & there], None, missing), missing
