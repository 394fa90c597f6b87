"""The figures of a preview; `llmgen plan --json` prints them."""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

PREVIEW_SCHEMA: Final = "llmgen.preview/1"


class Lengths(msgspec.Struct):
    """Tokens a request: mean, percentiles, extremes, sum."""

    mean: float
    min: int
    p50: int
    p90: int
    p99: int
    max: int
    total: int


class ClassFigures(msgspec.Struct):
    """One class of the mix."""

    name: str
    requests: int
    stream: bool
    models: list[str]
    input: Lengths | None  # None: no request of this class
    output: Lengths | None  # of the limits asked for; 0 where a body asks for none


class SessionFigures(msgspec.Struct):
    """Conversations, and how many turns they have."""

    sessions: int
    turns: Lengths


class Arrivals(msgspec.Struct):
    """When requests are due. `dispersion_1s`: variance of the counts of whole seconds over their mean (1: Poisson)."""

    rate_per_s: float | None
    peak_1s: int
    cv: float | None
    dispersion_1s: float | None
    per_second: list[int]


class Service(msgspec.Struct):
    """Requests in flight if each took ttft_s and itl_s for every further token."""

    ttft_s: float
    itl_s: float
    peak_in_flight: int
    mean_in_flight: float | None


class Needs(msgspec.Struct):
    """What this machine must have: HTTP/1.1 connections, each with a port, and workers, each on a core."""

    connections: int
    ports_per_address: int
    workers: int
    workers_wanted: int
    cores: int


class Cost(msgspec.Struct):
    """In the currency of the prices."""

    tokens: float | None
    gpus: float | None
    total: float


class Preview(msgspec.Struct):
    """What a run would send."""

    name: str | None
    load: str
    requests: int
    endless: bool
    span_s: float | None
    input_tokens: int
    output_tokens: int
    arrivals: Arrivals | None  # None in a closed loop: answers decide
    classes: list[ClassFigures]
    sessions: SessionFigures | None  # None without conversations
    service: Service
    needs: Needs
    cost: Cost | None
    notes: list[str]
    schema: str = PREVIEW_SCHEMA


class Counts:
    """How often each length came."""

    def __init__(self) -> None:
        self._counts = np.zeros(1, np.int64)
        self.rows = self.total = 0

    def add(self, lengths: NDArray[np.int64]) -> None:
        if not len(lengths):
            return
        more = np.bincount(lengths, minlength=len(self._counts))
        more[: len(self._counts)] += self._counts
        self._counts = more
        self.rows += len(lengths)
        self.total += int(lengths.sum())

    def figures(self) -> Lengths | None:
        if not self.rows:
            return None
        upto = np.cumsum(self._counts)
        values = np.flatnonzero(self._counts)
        p50, p90, p99 = (int(np.searchsorted(upto, max(1, -(-self.rows * p // 100)))) for p in (50, 90, 99))
        return Lengths(self.total / self.rows, int(values[0]), p50, p90, p99, int(values[-1]), self.total)
