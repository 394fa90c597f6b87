"""Conversations of a trace: any graph of parents, in any blocks, gives trees; the plan holds them as they are."""

import json
import tempfile
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgen import planning
from llmgen.config import Load, RunConfig, Target, Trace
from llmgen.errors import ConfigError
from llmgen.plan import ROOT, PlanReader
from llmgen.planning import PlanBuilder
from llmgen.workload.traces import TraceBlock
from llmgen.workload.traces.conversations import Conversations

few = st.integers(-1, 6)  # few ids: forks, cycles, ids that come again, parents that come later or never
graphs = st.lists(st.tuples(few, few, few), max_size=60)  # (session, chat, parent)


def block(rows: list[tuple[int, int, int]]) -> TraceBlock:
    session, chat, parent = (np.array([row[i] for row in rows], np.int64) for i in range(3))
    once = np.ones(len(rows), np.int64)
    return TraceBlock(np.arange(len(rows)), once, once, session=session, chat=chat, parent=parent)


def followed(rows: list[tuple[int, int, int]]) -> list[int | None]:
    """The row that each follows, looked for by the rule's own words; itself: it begins; None: no turn."""
    found: list[int | None] = []
    for number, (session, chat, parent) in enumerate(rows):
        if chat < 0 and parent < 0 and session < 0:
            found.append(None)
            continue
        earlier = range(number - 1, -1, -1)
        if chat >= 0 or parent >= 0:
            same = (row for row in earlier if parent >= 0 and rows[row][1] == parent)
        else:
            same = (row for row in earlier if rows[row] == (session, -1, -1))
        found.append(next(same, number))
    return found


@given(graphs, st.lists(st.integers(0, 60), max_size=4))
def test_any_graph_gives_trees(rows: list[tuple[int, int, int]], cuts: list[int]) -> None:
    conversations = Conversations()
    edges = sorted({0, len(rows), *(min(cut, len(rows)) for cut in cuts)})
    parts = [conversations.link(block(rows[a:b])) for a, b in pairwise(edges)]
    session, turn, back = (
        [value for part in parts if part is not None for value in getattr(part, name).tolist()]
        for name in ("session", "turn", "back")
    )
    begun = 0
    for row, before in enumerate(followed(rows)):
        if before is None:
            assert (session[row], turn[row], back[row]) == (-1, 0, 0)
        elif before == row:
            assert (session[row], turn[row], back[row]) == (begun, 0, 0)
            begun += 1
        else:
            assert (session[row], turn[row], back[row]) == (session[before], turn[before] + 1, row - before)
    assert conversations.count == begun


@given(graphs.filter(bool), st.integers(1, 9), st.integers(1, 4), st.sampled_from(["after", "timed"]))
@settings(max_examples=60, deadline=None)
def test_the_plan_holds_the_links(rows: list[tuple[int, int, int]], segment: int, workers: int, turns: str) -> None:
    itself = next((row for row, (_, chat, parent) in enumerate(rows) if chat == parent >= 0), None)
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(planning, "FIRST_SEGMENT_ROWS", segment),
        mock.patch.object(planning, "SEGMENT_ROWS", segment),
    ):
        file = Path(folder) / "trace.jsonl"
        names = ("session", "chat", "parent")
        file.write_text(
            "".join(
                json.dumps({"t_ns": 10 * t, "in": 3, "out": 1, **dict(zip(names, row, strict=True))}) + "\n"
                for t, row in enumerate(rows)
            )
        )
        load = Load(trace=Trace(file=str(file), format="llmgen", scale=2.0, turns=turns))
        builder = PlanBuilder(RunConfig(target=Target(urls=("http://h",)), load=load), Path(folder) / "plan", workers)
        if itself is not None:
            with pytest.raises(ConfigError, match=rf"row {itself + 1} \(line {itself + 1}\) is"):
                builder.write_all()
            return
        builder.write_all()
        planned = PlanReader(Path(folder) / "plan").all_rows()
    linked = Conversations().link(block(rows))
    assert linked is not None
    np.testing.assert_array_equal(planned["due"], np.arange(len(rows)) * 5)
    np.testing.assert_array_equal(planned["session"], linked.session)
    np.testing.assert_array_equal(planned["turn"], linked.turn)
    of = linked.session >= 0
    np.testing.assert_array_equal(planned["worker"], np.where(of, linked.session, planned["index"]) % workers)
    waits = turns == "after"
    np.testing.assert_array_equal(planned["after"], np.where(of & waits, linked.back + ROOT, 0))
    assert builder.turns_follow == (waits and bool(of.any()))
