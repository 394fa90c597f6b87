"""Our own part of a run: what was offered and how exactly, and how well the client itself did."""

from __future__ import annotations

from typing import Final

import numpy as np

from llmgen.columns import Flag, Histogram
from llmgen.metrics import definitions
from llmgen.metrics.figures import Arrivals, Client, Load, Requests
from llmgen.metrics.groups import MILLI, request_distribution
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.statistics import (
    coefficient_of_variation,
    dispersion_index,
    histogram_distribution,
    ks_distance,
)

MICRO: Final = 1e-3  # ns to us

# Planned gaps of which one value (to 1 us) has more than this share are steps, not a continuous distribution.
STEP_SHARE: Final = 0.05
# A quarter of a step: what jitter of 5 % of a Poisson process's mean gap does to its KS distance.
STEP_TOLERANCE: Final = 0.25


def load_of(m: Measurements, requests: Requests) -> Load:
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
        achieved_rate=_achieved_rate(m, requests, span_s),
        duration_s=m.duration_s,
        schedule_lag_ms=request_distribution(m, lag, m.inside, interval=False),
        own_lag_ms=request_distribution(m, own, m.inside, interval=False),
        send_lag_ms=request_distribution(m, definitions.send_lag(r), m.inside, interval=False),
        peak_in_flight=m.peak_in_flight,
        arrivals=None if arrival == "closed" else _arrivals(m),
    )


def _achieved_rate(m: Measurements, requests: Requests, span_s: float | None) -> float | None:
    """Over the schedule; where turns follow answers, over all the time that they needed."""
    if not span_s:
        return None
    turns = m.requests["send"][(m.requests["session"] >= 0) & (m.requests["send"] >= 0)]
    start_ns = m.run.info.get("start_ns")
    if len(turns) and start_ns:
        span_s = max(span_s, (int(turns.max()) - start_ns) / 1e9)
    return requests.sent / span_s


def _arrivals(m: Measurements) -> Arrivals | None:
    first = m.inside & (m.requests["attempt"] == 0)  # a further attempt is no arrival of the plan's
    send = definitions.in_order(m.requests["send"][first & (m.requests["send"] >= 0)])
    due = definitions.in_order(m.requests["due"][first])
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
        planned_dispersion_1s=dispersion_index(due, 10**9),
        planned_dispersion_10s=dispersion_index(due, 10**10),
        tolerance_ms=round(tolerance * MILLI, 6),
    )


def client_of(m: Measurements) -> Client:
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
