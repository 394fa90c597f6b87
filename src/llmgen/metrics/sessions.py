"""Conversations of several turns: how long they took, and how many went well to the end."""

from __future__ import annotations

import numpy as np

from llmgen.columns import Flag
from llmgen.metrics.figures import Sessions
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.statistics import distribution, wilson_interval


def sessions_of(m: Measurements) -> Sessions | None:
    """Session duration: first due to last end of a session whose every turn succeeded.

    Session goodput: sessions of which every turn kept the limits of its class / all sessions whose first turn is due in
    the window; None without a limit. None without sessions.
    """
    r = m.requests
    rows = np.flatnonzero(r["session"] >= 0)
    if not len(rows):
        return None
    _, number, turns = np.unique(r["session"][rows], return_inverse=True, return_counts=True)
    count = len(turns)
    due = np.full(count, np.iinfo(np.int64).max)
    end = np.full(count, -1, np.int64)
    begun = rows[r["due"][rows] >= 0]  # a turn that was never due has no time
    np.minimum.at(due, number[r["due"][rows] >= 0], r["due"][begun])
    np.maximum.at(end, number, r["end"][rows])
    inside = (due >= m.window[0]) & (due < m.window[1])
    succeeded = inside & (np.bincount(number, ~m.ok[rows], count) == 0)
    whole = int(np.count_nonzero(inside))
    later = rows[inside[number] & (r["turn"][rows] > 0)]
    good = None
    if m.good is not None:
        good = int(np.count_nonzero(inside & (np.bincount(number, ~m.good[rows], count) == 0)))
    return Sessions(
        sessions=whole,
        succeeded=int(np.count_nonzero(succeeded)),
        later_turns=len(later),
        held_back=int(np.count_nonzero(r["flags"][later] & Flag.held_back)),
        turns_per_session=distribution(turns[inside].astype(np.float64), scale=1.0),
        duration_ms=distribution(
            (end - due)[succeeded].astype(np.float64), excluded=int(np.count_nonzero(inside & ~succeeded))
        ),
        goodput=None if good is None or not whole else good / whole,
        goodput_ci95=None if good is None else wilson_interval(good, whole),
    )
