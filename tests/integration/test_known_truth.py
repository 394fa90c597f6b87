"""Runs whose answers are known beforehand: fixed times, and a queue whose waits follow from its load (D/D/1).

A busy machine can only make answers later, so the truth is a lower bound of every request, and close to the middle.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from llmgen.simulator import Endpoint
from running import Offer, statuses

MS = 1_000_000
LATE_MS = 25.0  # how much later than the truth the median may be on a machine that does other things


def test_fixed_times(offer: Offer, serve: Callable[..., Endpoint]) -> None:
    result = offer(serve(ttft="60ms", itl="15ms").url, **{"workload.output": 6, "load.requests": 40})
    assert statuses(result.requests) == {"ok": 40}
    latency = result.summary.latency
    for dist, truth in ((latency.ttft_ms, 60.0), (latency.chunk_gap_ms, 15.0), (latency.tpot_ms, 15.0)):
        assert dist is not None
        assert abs(dist.p50 - truth) < LATE_MS
    assert latency.e2e_ms is not None
    assert latency.e2e_ms.min >= 60 + 5 * 15 - 1
    ttft_ns = result.requests["first_token"] - result.requests["send"]
    assert (ttft_ns >= 59 * MS).all()  # nothing comes before its time
    assert latency.ttft_ms is not None
    # numpy's percentile of the raw values; scaled last, for half a nanosecond in the middle may round either way
    assert latency.ttft_ms.p50 == round(float(np.percentile(ttft_ns, 50)) * 1e-6, 6)


def test_a_queue_with_known_waits(offer: Offer, serve: Callable[..., Endpoint]) -> None:
    """One slot, a request every 50 ms, 60 ms of service each: request i waits i times 10 ms for the slot."""
    endpoint = serve(slots=1, ttft="40ms", itl="10ms")
    load = {"load.rate": 20.0, "load.requests": 30, "workload.output": 3}
    result = offer(endpoint.url, **load)
    rows = np.sort(result.requests, order="index")
    assert statuses(rows) == {"ok": 30}
    told = (rows["first_token"] - rows["due"]) / MS
    known = 40.0 + 10.0 * np.arange(30)
    assert (told >= known - 2).all()
    assert np.median(told - known) < LATE_MS
    dist = result.summary.latency.ttft_from_due_ms
    assert dist is not None
    assert abs(dist.p50 - np.percentile(known, 50)) < LATE_MS
    # and the report names what such a run shows: waiting grows, decoding does not
    assert np.polyfit(rows["index"], told, 1)[0] > 5
