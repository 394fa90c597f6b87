"""Which planned requests were never sent, and how many were scheduled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fabricate import request_rows, write_segments
from llmgen.columns import Status
from llmgen.plan import PLAN_DTYPE, SPAN_DTYPE, PlanWriter, StaticBytes
from llmgen.records import taken_up
from llmgen.unsent import unsent


@pytest.fixture
def plan_dir(tmp_path: Path) -> Path:
    """Ten requests in two segments, 1 µs apart, two a session."""
    writer = PlanWriter(tmp_path / "plan", StaticBytes(), [])
    for first, count in ((0, 6), (6, 4)):
        rows = np.zeros(count, PLAN_DTYPE)
        rows["index"] = np.arange(first, first + count)
        rows["due"], rows["session"], rows["planned_input"] = 1000 * rows["index"], rows["index"] // 2, 7
        rows["target"] = 0xFFFF
        writer.write(rows, np.zeros(0, SPAN_DTYPE), np.zeros(0, np.uint8))
    return tmp_path / "plan"


def test_what_a_worker_has_a_row_for_is_left_out(tmp_path: Path, plan_dir: Path) -> None:
    for worker in (0, 1):
        write_segments(
            tmp_path / f"worker-{worker}", "requests", request_rows(8)[worker::2], worker=worker, per_segment=3
        )
    taken = taken_up(tmp_path, 10)
    assert np.flatnonzero(taken).tolist() == list(range(8))
    rows, scheduled = unsent(plan_dir, taken, 5000, balanced=True, closed=None, claimed=0)
    assert scheduled == 10
    assert rows["index"].tolist() == [8, 9]
    assert rows["due"].tolist() == [13_000, 14_000]
    assert (rows["status"] == Status.never_sent).all()
    assert (rows["send"] == -1).all()
    assert (rows["target"] == 0).all()
    assert (rows["planned_input"] == 7).all()


@pytest.mark.parametrize(("closed", "claimed", "scheduled"), [("index", 7, 7), ("session", 4, 8)])
def test_a_closed_loop_scheduled_what_its_slots_claimed(
    plan_dir: Path, closed: str, claimed: int, scheduled: int
) -> None:
    rows, count = unsent(plan_dir, np.zeros(10, bool), 0, balanced=False, closed=closed, claimed=claimed)
    assert count == scheduled == len(rows)


def test_nothing_was_planned(tmp_path: Path) -> None:
    PlanWriter(tmp_path / "plan", StaticBytes(), [])
    rows, count = unsent(tmp_path / "plan", taken_up(tmp_path, 0), 0, balanced=False, closed=None, claimed=0)
    assert (len(rows), count) == (0, 0)
