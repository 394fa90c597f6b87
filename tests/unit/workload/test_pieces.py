"""Prompts of pieces: equal ids are equal text, lengths are exact, and each piece is stored once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmgen.config import Load, Prefix, RunConfig, Target, Trace, Workload
from llmgen.plan import SOURCE_STATIC, PlanReader, StaticBytes
from llmgen.planning import PlanBuilder
from llmgen.workload.pieces import PiecePrompts, clipped
from llmgen.workload.prefixes import SharedPrefixes
from llmgen.workload.prompts import POOL_WORDS, Parts, SyntheticPrompts
from llmgen.workload.traces.rows import Pieces
from llmgen.workload.vocabulary import Vocabulary

DATA = Path(__file__).parents[4] / "shared" / "data"
SHORT = ("over", "time", "hand", "word", "tree", "moon", "boat", "fire") * 8  # any four letters do for a beginning


class Built:
    """A pool and what its spans point into."""

    def __init__(self, tmp_path: Path, vocabulary: Vocabulary | None = None) -> None:
        self.static = StaticBytes()
        self.prompts = SyntheticPrompts(1, self.static, vocabulary)
        self.path = tmp_path / "static.bin"

    def texts(self, parts: Parts) -> list[str]:
        self.static.write(self.path)
        static = self.path.read_bytes()
        own, found, start = parts.own.tobytes(), [], 0
        for count in parts.counts.tolist():
            pieces = []
            for span in parts.spans[start : start + count]:
                assert span["size"] > 0
                source = static if span["source"] == SOURCE_STATIC else own
                end = int(span["offset"] + span["size"])
                assert end <= len(source)
                pieces.append(source[int(span["offset"]) : end])
            found.append(b"".join(pieces).decode())
            start += count
        assert start == len(parts.spans)
        return found


def pieces(rows: list[list[tuple[int, int]]]) -> Pieces:
    flat = [piece for row in rows for piece in row]
    return Pieces(
        np.array([i for i, _ in flat], np.int64),
        np.array([n for _, n in flat], np.int64),
        np.array([len(row) for row in rows], np.int64),
    )


@pytest.fixture(params=["words", "tokens"])
def built(request: pytest.FixtureRequest, tmp_path: Path) -> Built:
    return Built(tmp_path, None if request.param == "words" else Vocabulary(heads=SHORT[:8], exact=True))


def test_blocks_that_come_again_are_the_same_words(built: Built) -> None:
    rows = [[(1, 512), (2, 512), (3, 10)], [(1, 512), (2, 512), (4, 512)], [(1, 512), (5, 3)], []]
    lengths = np.array([1034, 1536, 515, 4])
    texts = [text.split() for text in built.texts(PiecePrompts(built.prompts).build(0, pieces(rows), lengths))]
    assert [len(text) for text in texts] == lengths.tolist()
    assert texts[0][:1024] == texts[1][:1024]
    assert texts[0][:512] == texts[2][:512]
    assert texts[0][1024:] != texts[1][1024:1034]
    assert texts[0][512:515] != texts[2][512:]


@pytest.mark.parametrize("size", [2, 16, 64, 65, 512])
def test_any_block_size_gives_the_lengths_and_the_sharing(built: Built, size: int) -> None:
    random = np.random.default_rng(size)
    rows, lengths = [], []
    for _ in range(60):
        count = int(random.integers(1, 6))
        last = int(random.integers(1, size + 1))
        ids = np.cumsum(random.integers(1, 3, count)) + 1000 * size
        rows.append([(int(i), size) for i in ids[:-1]] + [(int(ids[-1]), last)])
        lengths.append((count - 1) * size + last + int(random.integers(0, 2)) * 7)
    parts = PiecePrompts(built.prompts).build(5, pieces(rows), np.array(lengths))
    known: dict[int, list[str]] = {}
    for row, length, text in zip(rows, lengths, built.texts(parts), strict=True):
        assert text == " ".join(text.split())
        words = text.split()
        assert len(words) == length
        at = 0
        for number, count in row:
            found, before = words[at : at + count], known.get(number, [])
            shared = min(len(found), len(before))
            assert found[:shared] == before[:shared]
            known[number] = max(found, before, key=len)
            at += count
    heads = [" ".join(words[:6]) for words in known.values() if len(words) >= 6]
    assert len(set(heads)) == len(heads)


def test_small_blocks_are_stored_once_and_lie_together(tmp_path: Path) -> None:
    built = Built(tmp_path)
    rows = [[(i, 16) for i in range(100)], [(i, 16) for i in range(100)], [(i, 16) for i in range(50)] + [(500, 16)]]
    parts = PiecePrompts(built.prompts).build(0, pieces(rows), np.array([1600, 1600, 816]))
    assert parts.counts.tolist() == [1, 1, 2]  # whole runs are one span
    assert len(parts.own) < 101 * 120


def test_large_blocks_cost_their_beginnings_only(tmp_path: Path) -> None:
    built = Built(tmp_path)
    parts = PiecePrompts(built.prompts).build(0, pieces([[(1, 512), (2, 512)]] * 1000), np.full(1000, 1024))
    assert len(parts.own) == 2 * 17
    assert len(parts.spans) == 4000


def test_a_piece_of_more_words_than_the_pool_has(tmp_path: Path) -> None:
    built = Built(tmp_path)
    words = 2 * POOL_WORDS + 5
    texts = built.texts(PiecePrompts(built.prompts).build(0, pieces([[(1, words)], [(1, words)]]), np.full(2, words)))
    assert texts[0] == texts[1]
    assert len(texts[0].split()) == words


def test_segments_agree_on_what_an_id_is(tmp_path: Path) -> None:
    """Nothing is remembered between blocks of rows; an id is its text wherever it comes."""
    built = Built(tmp_path)
    maker = PiecePrompts(built.prompts)
    one = built.texts(maker.build(0, pieces([[(1, 16), (2, 16)], [(3, 16)]]), np.array([32, 16])))
    other = built.texts(maker.build(9, pieces([[(3, 16)], [(1, 16), (2, 9)]]), np.array([16, 25])))
    assert other == [one[1], " ".join(one[0].split()[:25])]


def test_clipping() -> None:
    found = clipped(pieces([[(1, 5), (2, 5)], [(3, 4)], [], [(4, 9), (5, 9), (6, 9)]]), np.array([7, 9, 3, 9]))
    assert found.words.tolist() == [5, 2, 4, 9]
    assert found.ids.tolist() == [1, 2, 3, 4]
    assert found.counts.tolist() == [2, 1, 0, 1]


# -- shared beginnings -------------------------------------------------------------------------------------------------


def test_prompts_share_their_beginnings_and_nothing_else(built: Built) -> None:
    shared = SharedPrefixes(Prefix(tokens=50, pool=3), "a", built.prompts, built.static)
    lengths = np.tile([200, 51, 20, 1, 2, 3], 50)
    texts = [text.split() for text in built.texts(shared.build(7, np.arange(300), lengths))]
    assert [len(text) for text in texts] == lengths.tolist()
    long = [text for text in texts if len(text) == 200]
    beginnings = {tuple(text[:50]) for text in long}
    assert len(beginnings) == 3
    assert {tuple(text[:19]) for text in texts if len(text) == 20} <= {each[:19] for each in beginnings}
    assert len({tuple(text[50:56]) for text in long}) == len(long)
    counts = [sum(tuple(text[:50]) == each for text in long) for each in beginnings]
    assert min(counts) > 5


def test_requests_keep_their_prompts_whatever_block_they_are_in(built: Built) -> None:
    shared = SharedPrefixes(Prefix(tokens=5, pool=4), "a", built.prompts, built.static)
    lengths = np.arange(10, 30)
    whole = built.texts(shared.build(0, np.arange(20), lengths))
    part = built.texts(shared.build(10, np.arange(0, 10, 3), lengths[10::3]))
    assert part == whole[10::3]


# -- whole plans -------------------------------------------------------------------------------------------------------


def reuse_at_a_server(reader: PlanReader, size: int) -> float:
    """Share of the blocks of `size` words that a cache which never forgets has seen, by their whole beginning."""
    import hashlib
    import json

    seen: set[bytes] = set()
    hits = total = 0
    for row, body in reader.bodies():
        words = json.loads(body)["messages"][0]["content"].split()
        assert len(words) == row["planned_input"]
        chain, blocks = hashlib.blake2b(digest_size=16), []
        for start in range(0, len(words), size):
            chain.update(" ".join(words[start : start + size]).encode() + b"\n")
            blocks.append(chain.digest())
        hits += sum(block in seen for block in blocks)
        total += len(blocks)
        seen.update(blocks)
    return hits / total


@pytest.mark.parametrize(("name", "expected"), [("conversation", 0.289), ("synthetic", 0.328)])
def test_the_bodies_of_a_mooncake_trace_have_its_reuse(tmp_path: Path, name: str, expected: float) -> None:
    """The first 2,000 rows of each file, in the order of the trace, as the words that a server would get."""
    path = DATA / f"mooncake_{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"{path.name} is not here")
    load = Load(trace=Trace(file=str(path), jitter="uniform:quantum"), requests=2000)
    builder = PlanBuilder(RunConfig(target=Target(urls=("http://h",), model="m"), load=load), tmp_path / "plan", 1)
    builder.write_all()
    assert builder.rows_written == 2000
    assert builder.bytes_written < 10 << 20  # for 27 million tokens
    assert reuse_at_a_server(PlanReader(tmp_path / "plan"), 512) == pytest.approx(expected, abs=0.0005)


def test_a_template_is_part_of_the_length(tmp_path: Path) -> None:
    workload = Workload(input=40, template_tokens=12, prefix=Prefix(tokens=10))
    config = RunConfig(target=Target(model="m"), load=Load(requests=20), workload=workload)
    PlanBuilder(config, tmp_path / "plan", 1).write_all()
    import json

    for row, body in PlanReader(tmp_path / "plan").bodies():
        assert row["planned_input"] == 40
        assert len(json.loads(body)["messages"][0]["content"].split()) == 28
