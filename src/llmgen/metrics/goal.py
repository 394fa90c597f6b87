"""What a good request is, and which share of them must be good: the scale that every step of a test is held against.

Limits on each request (`ttft<1s`) are taken as they are. An objective on a percentile says the same of a share of the
requests: `ttft_p95<1s` is a first token within 1 s for 95 % of them. Without objectives a good request is one that
succeeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from llmgen.metrics.measurements import Measurements
from llmgen.metrics.slo import LATENCIES, Slo, meets
from llmgen.metrics.statistics import QUANTILES

TARGET: Final = 0.95  # where no objective names a share: one in twenty may miss, as in the usual p95


@dataclass(frozen=True)
class Goal:
    """`limits` that a good request keeps, by class or for all; `target`: the share of good ones that is enough."""

    limits: tuple[Slo, ...]
    target: float

    def good(self, m: Measurements) -> np.ndarray:
        """Requests that succeeded and kept every limit, bool (requests,)."""
        good = meets((slo for slo in self.limits if slo.klass is None), m.value, m.ok)
        for slo in self.limits:
            if slo.klass is not None and slo.klass in m.class_names:
                good &= ~m.of_class(slo.klass) | meets([slo], m.value, m.ok)
        return good

    @property
    def told(self) -> str:
        """In words."""
        limits = ", ".join(
            (f"class {slo.klass}: " if slo.klass else "") + f"{slo.metric} {slo.operator} {_time(slo.limit)}"
            for slo in self.limits
        )
        return f"{100 * self.target:g} % of the requests succeed" + (f" with {limits}" if limits else "")

    def tpot_limit_ms(self) -> float | None:
        """The strictest limit on the time per token, tpot or itl."""
        found = [slo.limit / 1e6 for slo in self.limits if slo.metric in ("tpot", "itl")]
        return min(found, default=None)


def goal_of(slos: Sequence[Slo], target: float | None = None) -> Goal:
    """The goal that objectives amount to; `target` wins over the share that they name."""
    limits, shares = [], []
    for slo in slos:
        if slo.metric == "goodput" and slo.operator in (">", ">="):
            shares.append(slo.limit)
        elif slo.metric == "error_rate" and slo.operator in ("<", "<="):
            shares.append(1 - slo.limit)
        elif slo.metric in LATENCIES and slo.operator in ("<", "<="):
            if slo.statistic in QUANTILES:
                shares.append(QUANTILES[slo.statistic])
            if slo.statistic is None or slo.statistic in QUANTILES:
                limits.append(msgspec.structs.replace(slo, statistic=None))
    return Goal(tuple(limits), target if target is not None else min(max(shares, default=TARGET), 1.0))


def _time(ns: float) -> str:
    return f"{ns / 1e9:g} s" if ns >= 1e9 else f"{ns / 1e6:g} ms"
