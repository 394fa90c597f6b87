"""What llmgen reported against what the server logged of the same requests (simulator/truth.py)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmgen.columns import TOKEN_KINDS, Status
from llmgen.selfbench.figures import Error
from llmgen.simulator.truth import Truth


@dataclass(frozen=True)
class Reported:
    """Of a run's measured, successful requests: their indices, TTFT and gaps between distinct token times, in ns."""

    start_ns: int
    end_ns: int
    index: NDArray[np.int64]
    ttft: NDArray[np.int64]
    gaps: NDArray[np.int64]


def reported(
    requests: NDArray[np.void], events: NDArray[np.void] | None, window: tuple[int, int], span: tuple[int, int]
) -> Reported:
    """requests, events: a run's records. window: the measured part, span: the whole run; ns on the run's clock."""
    low, high = window
    wanted = (requests["due"] >= low) & (requests["due"] < high)
    wanted &= (requests["status"] == Status.ok) & (requests["first_token"] >= 0)
    rows = requests[wanted]
    gaps = np.empty(0, np.int64)
    if events is not None:
        tokens = events[(events["kind"] & int(TOKEN_KINDS)) != 0]
        tokens = tokens[wanted[tokens["request"]]]
        gaps = steps(tokens["request"], tokens["t"])
    return Reported(*span, rows["index"].copy(), rows["first_token"] - rows["send"], gaps)


def steps(group: NDArray[np.uint32], t: NDArray[np.int64]) -> NDArray[np.int64]:
    """Gaps between the distinct times of each group."""
    order = np.lexsort((t, group))
    group, t = group[order], t[order]
    step = np.diff(t)
    found: NDArray[np.int64] = step[(np.diff(group) == 0) & (step > 0)]
    return found


def against(truth: Truth, run: Reported) -> tuple[Error | None, Error | None]:
    """(TTFT, gaps) of the requests that both know; None where there are none.

    A log may hold several runs: a request belongs to that during which it arrived.
    """
    asked = truth.requests
    asked = asked[(asked["t"] >= run.start_ns) & (asked["t"] <= run.end_ns) & np.isin(asked["index"], run.index)]
    asked = asked[np.argsort(asked["serial"], kind="stable")]
    writes = truth.writes[truth.writes["tokens"] > 0]
    writes = writes[np.isin(writes["serial"], asked["serial"])]
    writes = writes[np.lexsort((writes["t"], writes["serial"]))]
    serial, first = np.unique(writes["serial"], return_index=True)
    arrival = asked["t"][np.searchsorted(asked["serial"], serial)]
    return error(run.ttft, writes["t"][first] - arrival), error(run.gaps, steps(writes["serial"], writes["t"]))


def error(ours: NDArray[np.int64], true: NDArray[np.int64]) -> Error | None:
    if not len(ours) or not len(true):
        return None
    told, logged = (np.percentile(values, (50, 99)) / 1e6 for values in (ours, true))
    off = told - logged
    return Error(
        n=len(ours),
        p50_ms=float(told[0]),
        p99_ms=float(told[1]),
        p50_error_ms=float(off[0]),
        p99_error_ms=float(off[1]),
    )
