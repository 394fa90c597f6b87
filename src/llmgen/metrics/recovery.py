"""How a server takes a load that changes: when it has recovered, whether its queue only grows, its capacity in stairs,
and when it was away. Pure functions of times (seconds since the start of the run) and of what happened then.
"""

from __future__ import annotations

import itertools
from typing import Final, NamedTuple

import numpy as np

from llmgen.columns import Status
from llmgen.metrics.conclusion import Outage

ATTAINED_OVER_S: Final = 5.0  # metrics.md, Recovery
HELD_S: Final = 10.0
GRID_S: Final = 0.1

GROWING: Final = 0.05  # of the offered rate: what stays behind each second is more than chance brings
STAIR_GAIN: Final = 0.15  # levels that differ by less are one stair
SHORTEST_STAIR_S: Final = 1.5
ONSET_SPREADS: Final = 4.0  # robust standard deviations above a stair: the next one has begun

CUT: Final = frozenset(
    {Status.connect_refused, Status.connect_timeout, Status.connect_error, Status.reset, Status.eof, Status.stream_cut}
)
REFUSED: Final = frozenset({Status.connect_refused, Status.connect_timeout, Status.connect_error})
AWAY: Final = CUT | {Status.http_5xx}  # a server that loads its model answers 503
SHORTEST_OUTAGE_S: Final = 0.3
FEWEST_FAILURES: Final = 3


def recovered_at(
    due_s: np.ndarray,
    good: np.ndarray,
    target: float,
    after_s: float,
    until_s: float,
    *,
    window_s: float = ATTAINED_OVER_S,
    held_s: float = HELD_S,
) -> float | None:
    """Recovery: the first moment from `after_s` on from which attainment over 5 s stays at the target for 10 s.

    Attainment at t is the share of good ones among the requests due in t … t + 5 s. It is looked at every 0.1 s; a
    window without a request shows nothing. None: not before `until_s`, the end of the offered load.
    """
    order = np.argsort(due_s, kind="stable")
    due, kept = due_s[order], np.concatenate([[0], np.cumsum(good[order])])
    count = int(np.floor((until_s - window_s - after_s) / GRID_S + 1e-9)) + 1
    needed = round((held_s - window_s) / GRID_S) + 1
    if count < needed:
        return None
    at = after_s + np.arange(count) * GRID_S
    first, last = np.searchsorted(due, at), np.searchsorted(due, at + window_s)
    total = last - first
    met = (total > 0) & (kept[last] - kept[first] >= target * total - 1e-9)
    held = np.convolve(met, np.ones(needed, np.int64), "valid") == needed
    return float(at[np.argmax(held)]) if held.any() else None


def growth(in_flight: np.ndarray, width_s: float) -> float | None:
    """Slope of in flight per second over the last three quarters (the first fills the server); None with few bins."""
    part = in_flight[len(in_flight) // 4 :].astype(np.float64)
    if len(part) < 6:
        return None
    t = (np.arange(len(part)) - (len(part) - 1) / 2) * width_s
    return float((t * part).sum() / (t * t).sum())


def unending(in_flight: np.ndarray, width_s: float, offered_per_s: float) -> bool:
    """Growth of in flight that does not end.

    Its slope is more than a twentieth of the offered rate, and its last quarter is above the one before by more than
    chance: of Poisson arrivals a quarter's count differs by the root of its size.
    """
    slope = growth(in_flight, width_s)
    if slope is None or slope <= GROWING * offered_per_s:
        return False
    quarter = len(in_flight) // 4
    late, before = (float(part.mean()) for part in (in_flight[-quarter:], in_flight[-2 * quarter : -quarter]))
    return bool(late - before > 2 * np.sqrt(max(before, 1.0)))


class Stair(NamedTuple):
    """A level that held: seconds, and events per second."""

    from_s: float
    until_s: float
    level: float


def stairs(rate: np.ndarray, width_s: float, from_s: float = 0.0) -> list[Stair]:
    """The levels of a rate in bins of `width_s`: least squares with a penalty for every level, small ones joined."""
    edges = _partition(rate)
    while len(edges) > 2:
        levels = [float(rate[a:b].mean()) for a, b in itertools.pairwise(edges)]
        short = [k for k in range(len(levels)) if (edges[k + 1] - edges[k]) * width_s < SHORTEST_STAIR_S - 1e-9]
        gaps = [abs(b - a) / max(a, b, 1e-9) for a, b in itertools.pairwise(levels)]
        if short:
            k = min(short, key=lambda k: edges[k + 1] - edges[k])
            sides = [j for j in (k - 1, k) if 0 <= j < len(gaps)]
            del edges[min(sides, key=lambda j: gaps[j]) + 1]
        elif min(gaps) < STAIR_GAIN:
            del edges[int(np.argmin(gaps)) + 1]
        else:
            break
    return [
        Stair(from_s + a * width_s, from_s + b * width_s, float(rate[a:b].mean())) for a, b in itertools.pairwise(edges)
    ]


def _partition(rate: np.ndarray) -> list[int]:
    """Edges of the segments of a piecewise constant fit (optimal partitioning, Jackson et al. 2005)."""
    n = len(rate)
    if n < 2:
        return [0, n]
    spread = float(np.median(np.abs(np.diff(rate)))) / (0.6745 * np.sqrt(2))
    penalty = 3 * np.log(n) * max(spread, 1e-3 * float(np.abs(rate).mean()), 1e-9) ** 2
    total, squares = (np.concatenate([[0.0], np.cumsum(part)]) for part in (rate, rate * rate))
    best, before = np.zeros(n + 1), np.zeros(n + 1, np.int64)
    for end in range(1, n + 1):
        starts = np.arange(end)
        cost = squares[end] - squares[starts] - (total[end] - total[starts]) ** 2 / (end - starts)
        whole = best[starts] + cost + penalty
        before[end] = int(np.argmin(whole))
        best[end] = whole[before[end]]
    edges = [n]
    while edges[-1] > 0:
        edges.append(int(before[edges[-1]]))
    return edges[::-1]


def rises(rate: np.ndarray, waiting: np.ndarray, width_s: float, from_s: float = 0.0) -> list[tuple[float, Stair]]:
    """Moments when capacity grew, with the stair that began: a rise from a level at which requests piled up.

    `waiting`: requests in flight, by the same bins. The moment is the onset: from the change back to the first bin that
    stands out of the level before. One that only makes up for a dip is none.
    """
    found, highest = [], 0.0
    steps = stairs(rate, width_s, from_s)
    for low, high in itertools.pairwise(steps):
        highest = max(highest, low.level)
        a, b = (round((edge - from_s) / width_s) for edge in (low.from_s, low.until_s))
        if high.level <= (1 + STAIR_GAIN) * highest or waiting[b - 1] <= waiting[a]:
            continue
        middle = float(np.median(rate[a:b]))
        spread = float(np.median(np.abs(rate[a:b] - middle))) / 0.6745
        limit = middle + max(ONSET_SPREADS * spread, 0.05 * middle)
        while b > a + 1 and rate[b - 1] > limit:
            b -= 1
        found.append((from_s + b * width_s, high))
    return found


def outages(status: np.ndarray, end_s: np.ndarray, run: int) -> list[Outage]:
    """Spans in which every request that ended was cut off or refused, at least one of them its connection.

    In the order of their ends; shorter than 0.3 s, or fewer than three requests, is no outage but a hiccup.
    """
    there = end_s >= 0
    order = np.argsort(end_s[there], kind="stable")
    status, end = status[there][order], end_s[there][order]
    away = np.isin(status, [int(one) for one in AWAY])
    found = []
    edges = np.flatnonzero(np.diff(np.concatenate([[False], away, [False]]).astype(np.int8)))
    for a, b in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        after = np.flatnonzero(status[b:] == Status.ok)
        until = float(end[b + after[0]]) if len(after) else None
        refused = np.isin(status[a:b], [int(one) for one in REFUSED]).any()
        lasted = (until if until is not None else float(end[b - 1])) - float(end[a])
        if not refused or b - a < FEWEST_FAILURES or lasted < SHORTEST_OUTAGE_S:
            continue
        names, counts = np.unique(status[a:b], return_counts=True)
        failures = {Status(int(name)).name: int(n) for name, n in zip(names, counts, strict=True)}
        found.append(Outage(run=run, from_s=float(end[a]), until_s=until, failures=failures))
    return found
