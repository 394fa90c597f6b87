"""What is done to a trace before it is replayed, and what it is said to hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmgen.config import Trace
from llmgen.errors import ConfigError
from llmgen.workload import traces
from llmgen.workload.traces import Labels, Pieces, TraceBlock, mapping, shaping
from llmgen.workload.traces.inspection import inspect, lines_of
from llmgen.workload.traces.rows import joined

DATA = Path(__file__).parents[5] / "shared" / "data"
NS = 10**9


def trace(times: list[float], ids: list[list[int]] | None = None) -> TraceBlock:
    rows = len(times)
    pieces = None
    if ids is not None:
        flat = np.array([i for row in ids for i in row], np.int64)
        pieces = Pieces(flat, np.full(len(flat), 8), np.array([len(row) for row in ids]))
    return TraceBlock(
        np.array([round(t * NS) for t in times]), np.arange(rows) + 1, np.arange(rows) % 3, pieces=pieces,
        session=np.arange(rows) // 2,
    )  # fmt: skip


def cut(block: TraceBlock, sizes: list[int]) -> Iterator[TraceBlock]:
    start = 0
    for size in sizes:
        yield block.take(np.arange(start, start + size))
        start += size


# -- jitter ------------------------------------------------------------------------------------------------------------


def quantised(seed: int = 1, ticks: int = 300) -> TraceBlock:
    counts = np.random.default_rng(seed).poisson(10, ticks)
    return trace(np.repeat(np.arange(ticks) * 3.0, counts).tolist())


@pytest.mark.parametrize("sizes", [[3000], [1, 7, 2, 90, 2900], [1] * 40 + [2960]])
def test_jitter_spreads_inside_the_tick_and_keeps_the_order(sizes: list[int]) -> None:
    block = quantised()
    total = len(block)
    sizes = [min(size, total) for size in sizes]
    sizes[-1] = total - sum(sizes[:-1])
    spread = joined(list(shaping.spread(cut(block, sizes), 3 * NS, 5)))
    np.testing.assert_array_equal(spread.input, block.input)
    assert np.all(np.diff(spread.t_ns) >= 0)
    moved = spread.t_ns - block.t_ns
    assert moved.min() >= 0
    assert moved.max() < 3 * NS
    assert np.mean(moved) == pytest.approx(1.5 * NS, rel=0.05)
    whole = joined(list(shaping.spread(iter([block]), 3 * NS, 5)))
    np.testing.assert_array_equal(spread.t_ns, whole.t_ns)  # however the trace is cut
    gaps = np.diff(spread.t_ns)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.1)  # a Poisson trace is one again


def test_the_quantum_is_the_recorders_tick() -> None:
    assert shaping.quantum_ns([quantised()]) == 3 * NS
    assert shaping.quantum_ns([trace([1.0, 1.0])]) == 0
    random = trace(np.cumsum(np.random.default_rng(1).exponential(1, 5000)).tolist())
    assert shaping.quantum_ns([random]) < 0.02 * NS


# -- window, rate, loop ------------------------------------------------------------------------------------------------


def test_a_window_is_cut_from_the_traces_own_time() -> None:
    block = trace([0, 1, 2, 3, 4, 5])
    found = joined(list(shaping.windowed(cut(block, [2, 2, 2]), NS, 4 * NS)))
    assert found.t_ns.tolist() == [0, NS, 2 * NS]
    assert found.input.tolist() == [2, 3, 4]
    assert list(shaping.windowed(cut(block, [2, 2, 2]), 9 * NS, None)) == []
    assert shaping.parse_window("..2.5s") == (0, 2_500_000_000)
    assert shaping.parse_window("1m..") == (60 * NS, None)


@pytest.mark.parametrize("factor", [0.1, 0.7, 1.5, 3.0, 4.25])
@pytest.mark.parametrize("sizes", [[4000], [1, 999, 3000]])
def test_the_rate_is_scaled_and_the_span_is_not(factor: float, sizes: list[int]) -> None:
    block = trace(np.cumsum(np.random.default_rng(2).exponential(1, 4000)).tolist(), [[i, 7] for i in range(4000)])
    block = replace(block, session=None)  # conversations stay or go as a whole, which is no Poisson process
    found = joined(list(shaping.rescaled(cut(block, sizes), factor, 3)))
    assert len(found) == pytest.approx(4000 * factor, rel=0.08)
    assert np.all(np.diff(found.t_ns) >= 0)
    assert found.t_ns[-1] <= block.t_ns[-1]
    gaps = np.diff(found.t_ns)
    assert gaps.std() / gaps.mean() < 1.3  # copies come between rows; on them, three of each would give 2.2
    if factor == 3.0:
        assert np.bincount(found.input)[1:].tolist() == [3] * 4000
        assert found.pieces is not None
        assert len(np.unique(found.pieces.ids)) == 3 * len(np.unique(np.append(np.arange(4000), 7)))
    whole = joined(list(shaping.rescaled(iter([block]), factor, 3)))
    np.testing.assert_array_equal(found.input, whole.input)
    assert np.mean(found.t_ns != whole.t_ns) < 0.001  # rows at the seams know their next row only as the block's


def test_a_loop_goes_on_where_it_ended_with_prompts_of_its_own() -> None:
    block = trace([0, 1, 4], [[1], [1, 2], [3]])
    rounds = shaping.looped(lambda: cut(block, [1, 2]))
    found = joined([next(rounds) for _ in range(6)])
    assert (found.t_ns / NS).tolist() == [0, 1, 4, 6, 7, 10, 12, 13, 16]
    assert found.pieces is not None
    ids = found.pieces.ids.reshape(3, 4)
    assert ids[0].tolist() == [1, 1, 2, 3]
    assert len(np.unique(ids)) == 9
    assert found.session is not None
    assert len(np.unique(found.session)) == 6
    assert list(shaping.looped(lambda: iter([]))) == []


def test_what_failed_is_left_out() -> None:
    assert joined(list(shaping.without_failed(iter([trace([0, 1, 2, 3])])))).input.tolist() == [2, 3]


# -- classes and models ------------------------------------------------------------------------------------------------


def test_classes_by_name_by_mapping_and_dropped() -> None:
    labels = Labels(np.array([0, 1, 2, -1]), ["chat", "API log", "code"])
    by_name = mapping.ClassMap(Trace(file="x"), ["code", "chat"])
    assert by_name.numbers(labels, 4).tolist() == [1, mapping.DRAWN, 0, mapping.DRAWN]
    told = mapping.ClassMap(Trace(file="x", classes={"chat": "code", "API log": None, "*": "chat"}), ["code", "chat"])
    assert told.numbers(labels, 4).tolist() == [0, mapping.DROPPED, 1, 1]
    labels.names.append("late")
    assert told.numbers(Labels(np.array([3]), labels.names), 1).tolist() == [1]
    assert told.numbers(None, 2).tolist() == [1, 1]
    with pytest.raises(ConfigError, match=r"load\.trace\.classes\.a='b': no class of the mix"):
        mapping.check(Trace(file="x", classes={"a": "b"}), ["chat"])


def test_models() -> None:
    labels = Labels(np.array([0, 1, -1]), ["GPT-4", "ChatGPT"])
    found = mapping.ModelMap({"GPT-4": "large", "*": "small"})
    assert found.names == ("large", "small")
    numbers = found.numbers(labels)
    assert numbers is not None
    assert numbers.tolist() == [0, 1, mapping.DRAWN]
    assert mapping.ModelMap({}).numbers(labels) is None


# -- inspection --------------------------------------------------------------------------------------------------------

# Rows, span, CV, inputs (mean p50 p90 p99 max), outputs, reuse: published facts and what was counted independently.
REAL = {
    "azure_llm_2023_code.csv": (
        *(8_819, 3_436, 13.15),
        *((2_048, 1_469, 5_194, 7_436, 7_437), (28, 13, 55, 252, 1_899), None),
    ),
    "azure_llm_2023_conv.csv": (
        *(19_366, 3_502, 1.09),
        *((1_155, 1_020, 2_735, 4_142, 14_050), (211, 129, 424, 601, 1_000), None),
    ),
    "mooncake_conversation.jsonl": (12_031, 3_537, 3.03, (12_035, *3 * [None], 126_195), (343, *4 * [None]), 0.366),
    "mooncake_synthetic.jsonl": (3_993, 1_022, None, (15_325, *3 * [None], 191_378), (149, *4 * [None]), 0.640),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_the_real_traces_are_as_published(name: str) -> None:
    if not (DATA / name).is_file():
        pytest.skip(f"{name} is not here")
    rows, span, cv, inputs, outputs, reuse = REAL[name]
    facts = inspect(traces.read(Trace(file=str(DATA / name))), name)
    assert facts.rows == rows
    assert facts.span_s == pytest.approx(span, abs=0.5)
    if cv is not None:
        assert facts.cv == pytest.approx(cv, abs=0.006)
    for lengths, (mean, *rest) in ((facts.input, inputs), (facts.output, outputs)):
        assert lengths.mean == pytest.approx(mean, abs=0.55)
        for found, expected in zip((lengths.p50, lengths.p90, lengths.p99, lengths.max), rest, strict=True):
            assert expected is None or found == expected
    assert (facts.reuse is None) == (reuse is None)
    if facts.reuse is not None and reuse is not None:
        assert facts.reuse.share == pytest.approx(reuse, abs=0.0005)


def test_the_mooncake_conversation_has_a_clock_of_three_seconds() -> None:
    path = DATA / "mooncake_conversation.jsonl"
    if not path.is_file():
        pytest.skip(f"{path.name} is not here")
    facts = inspect(traces.read(Trace(file=str(path))), "mooncake")
    assert (facts.times, facts.quantum_s, facts.largest_at_once) == (1_180, 2.999, 28)
    assert any("--trace-jitter" in line for line in lines_of(facts))
    spread = inspect(traces.replayed(Trace(file=str(path), jitter="uniform:quantum"), 1), "mooncake")
    assert spread.cv == pytest.approx(1.0, abs=0.05)
    assert spread.reuse == facts.reuse


def test_reuse_counts_beginnings_only() -> None:
    """A component that comes again behind something else is nothing that a prefix cache could use."""
    facts = inspect([trace([0, 1, 2], [[1, 2], [1, 2, 3], [2, 1]])], "x")
    assert facts.reuse is not None
    assert (facts.reuse.pieces, facts.reuse.distinct) == (7, 5)
    other = inspect(cut(trace([0, 1, 2], [[1, 2], [1, 2, 3], [2, 1]]), [1, 2]), "x")
    assert other == facts


def test_inspection_does_not_depend_on_the_blocks() -> None:
    block = quantised()
    one, many = inspect([block], "x"), inspect(cut(block, [1, 2, 500, len(block) - 503]), "x")
    assert many.cv == pytest.approx(one.cv)
    many.cv = one.cv
    assert many == one


# -- conversations -----------------------------------------------------------------------------------------------------


def chats(count: int, turns: int) -> TraceBlock:
    """Chats of so many turns each, their turns side by side in time."""
    rows = np.arange(count * turns)
    parent = np.where(rows < count, -1, rows - count)
    once = np.ones(len(rows), np.int64)
    return TraceBlock(rows * NS, once, once, chat=rows, parent=parent)


@pytest.mark.parametrize("sizes", [[4000], [1, 1999, 2000]])
def test_thinning_takes_whole_conversations(sizes: list[int]) -> None:
    facts = inspect(shaping.rescaled(cut(chats(1000, 4), sizes), 0.5, 3), "x")
    assert facts.sessions is not None
    assert 440 < facts.sessions < 560  # 500 +- 16
    assert facts.rows == 4 * facts.sessions
    assert facts.torn == 0


def test_copies_are_conversations_of_their_own() -> None:
    facts = inspect(shaping.rescaled(cut(chats(400, 3), [1200]), 2.5, 3), "x")
    assert facts.sessions is not None
    assert 950 < facts.sessions < 1050
    assert (facts.turns.min, facts.turns.max, facts.torn) == (3, 3, 0) if facts.turns else False


def test_a_window_begins_amid_conversations() -> None:
    facts = inspect(shaping.windowed(cut(chats(10, 3), [30]), 15 * NS, None), "x")
    assert (facts.sessions, facts.torn) == (10, 10)
    assert any("10 begin amid a conversation" in line for line in lines_of(facts))


def test_each_round_of_a_loop_has_conversations_of_its_own() -> None:
    rounds = shaping.looped(lambda: cut(chats(10, 3), [30]))
    facts = inspect([next(rounds) for _ in range(3)], "x")
    assert facts.sessions == 30
    assert facts.torn == 0
