"""How late a plain C timer loop is on this machine, at several rates: what the pacer cannot be better than."""

from __future__ import annotations

import os
from typing import Final

import numpy as np

from llmgen.metrics.statistics import ks_distance
from llmgen.selfbench.figures import Loop, TimerLoop
from llmgen.selfbench.timerloop import lags

USUAL_RATE: Final = 1000.0  # whose figures the verdict of later runs names


def plain_loop(rate: float, seconds: float, core: int, seed: int) -> Loop:
    """Poisson due times at `rate` for about so long, on `core`."""
    due = np.cumsum(np.random.default_rng(seed).exponential(1e9 / rate, max(2, round(rate * seconds)))).astype(np.int64)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        late = lags(due)
    finally:
        os.sched_setaffinity(0, before)
    if not len(late):  # a signal came before the first
        raise KeyboardInterrupt
    p50, p99 = np.percentile(late, (50, 99)) / 1000
    woken = due[: len(late)] + late
    return Loop(
        rate=rate,
        n=len(late),
        p50_us=round(float(p50), 1),
        p99_us=round(float(p99), 1),
        ks_distance=ks_distance(np.diff(woken), np.diff(due[: len(late)])),
    )


def timer_loop(loops: tuple[Loop, ...]) -> TimerLoop | None:
    """None before any loop ran. The one nearest to USUAL_RATE is named."""
    if not loops:
        return None
    usual = nearest(loops, USUAL_RATE)
    return TimerLoop(rate=usual.rate, p50_us=usual.p50_us, p99_us=usual.p99_us, by_rate=loops)


def nearest(loops: tuple[Loop, ...], rate: float) -> Loop:
    return min(loops, key=lambda one: abs(np.log(one.rate / rate)))
