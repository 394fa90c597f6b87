"""The planned requests that no worker took up: scheduled, but never sent."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from llmgen.columns import REQUEST_DTYPE, Status
from llmgen.plan import PLAN_DTYPE, PlanReader

SAME: Final = ("index", "klass", "target", "worker", "session", "turn", "planned_input", "planned_output", "body_bytes")


def unsent(
    plan_dir: Path, taken: np.ndarray, start_ns: int, *, balanced: bool, closed: str | None, claimed: int
) -> tuple[np.ndarray, int]:
    """(REQUEST_DTYPE rows, status never_sent, of the planned requests that are not `taken`; how many were scheduled).

    taken: bool by index. balanced: the worker would have chosen the target. closed: in a closed loop, what is claimed
    ("index" or "session"): only what is below `claimed` was scheduled. Segment by segment: a long run's plan need not
    be held.
    """
    plan, scheduled, left = PlanReader(plan_dir), 0, [np.empty(0, PLAN_DTYPE)]
    for segment in range(plan.segments):
        rows = plan.rows(segment)
        if closed is not None:
            rows = rows[rows[closed] < claimed]
        scheduled += len(rows)
        left.append(rows[~taken[rows["index"]]])
    rows = np.concatenate(left)
    blank = np.zeros(len(rows), REQUEST_DTYPE)
    for name in REQUEST_DTYPE.names or ():
        if blank.dtype[name].kind == "i":
            blank[name] = -1
    for name in SAME:
        blank[name] = rows[name]
    if balanced:
        blank["target"] = 0
    blank["due"] = np.where(rows["due"] < 0, -1, rows["due"] + start_ns)
    blank["status"] = Status.never_sent
    return blank, scheduled
