"""The plan directory: written in segments, read as it was written, refused when it is damaged."""

import numpy as np
import pytest

from llmgen.errors import RecordError
from llmgen.plan import (
    PLAN_DTYPE,
    PLAN_SCHEMA,
    SOURCE_SEGMENT,
    SOURCE_STATIC,
    SPAN_DTYPE,
    Head,
    PlanReader,
    PlanWriter,
    StaticBytes,
)


def spans(*found):
    return np.array(list(found), SPAN_DTYPE)


def rows(*found):
    table = np.zeros(len(found), PLAN_DTYPE)
    for number, values in enumerate(found):
        for name, value in zip(("due", "index", "first_span", "span_count", "body_bytes"), values, strict=True):
            table[name][number] = value
    return table


def own(data):
    return np.frombuffer(data, np.uint8)


@pytest.fixture
def writer(tmp_path):
    static = StaticBytes()
    assert static.add(b"hello ") == 0
    assert static.add(b"!") == 6
    assert static.add(b"hello ") == 0  # known already
    return PlanWriter(tmp_path / "a" / "plan", static, [Head(0, True, ("/v1/chat/completions",))])


def test_what_is_written_is_read(writer):
    reader = PlanReader(writer.directory)
    assert reader.segments == 0
    assert len(reader.all_rows()) == 0
    first = rows((5, 0, 0, 3, 12), (9, 1, 3, 1, 1))
    writer.write(
        first,
        spans((0, 6, SOURCE_STATIC), (2, 5, SOURCE_SEGMENT), (6, 1, SOURCE_STATIC), (6, 1, SOURCE_STATIC)),
        own(b"..world"),
    )
    assert reader.segments == 1
    writer.write(rows((11, 2, 0, 2, 3)), spans((0, 2, SOURCE_SEGMENT), (6, 1, SOURCE_STATIC)), own(b"ok"))
    assert reader.segments == 2
    assert [body for _, body in reader.bodies()] == [b"hello world!", b"!", b"ok!"]
    assert reader.body(0, reader.rows(0)[1]) == b"!"
    assert reader.all_rows()["index"].tolist() == [0, 1, 2]
    with pytest.raises(RecordError, match="no finished plan"):
        reader.facts()
    writer.finish({"last_due_ns": 11})
    assert reader.facts() == {
        "schema": PLAN_SCHEMA,
        "segments": 2,
        "rows": 3,
        "heads": [{"klass": 0, "stream": True, "paths": ["/v1/chat/completions"]}],
        "last_due_ns": 11,
    }
    files = [path for path in writer.directory.iterdir() if path.suffix != ".json"]
    assert writer.bytes == sum(path.stat().st_size for path in files)
    assert not [path for path in files if path.suffix == ".part"]


def test_a_segment_without_own_bytes(writer):
    writer.write(rows((0, 0, 0, 1, 6)), spans((0, 6, SOURCE_STATIC)), own(b""))
    assert [body for _, body in PlanReader(writer.directory).bodies()] == [b"hello "]


def test_a_segment_appears_only_when_it_is_whole(writer, monkeypatch):
    """Nothing is named .rows before spans and bytes are there: a worker that looks all the time must never see less."""
    seen = []
    real = PlanWriter._put

    def put(self, path, array):
        seen.append((path.suffix, PlanReader(self.directory).segments))
        real(self, path, array)

    monkeypatch.setattr(PlanWriter, "_put", put)
    writer.write(rows((0, 0, 0, 1, 6)), spans((0, 6, SOURCE_STATIC)), own(b""))
    assert sorted(suffix for suffix, _ in seen) == [".bytes", ".part", ".spans"]
    assert seen[-1][0] == ".part"
    assert all(number == 0 for _, number in seen)


def test_a_damaged_plan_is_refused(writer):
    writer.write(rows((0, 0, 0, 1, 5)), spans((0, 5, SOURCE_SEGMENT)), own(b"hello"))
    reader = PlanReader(writer.directory)
    (writer.directory / "000000.bytes").write_bytes(b"hell")
    with pytest.raises(RecordError, match="request 0 is cut short"):
        list(reader.bodies())
    (writer.directory / "000000.rows").write_bytes(b"x" * 65)
    with pytest.raises(RecordError, match="65 bytes are no multiple of 64"):
        reader.rows(0)
    (writer.directory / "plan.json").write_text('{"schema": "llmgen.plan/9"}')
    with pytest.raises(RecordError, match="schema"):
        reader.facts()
    with pytest.raises(RecordError, match="cannot be read"):
        PlanReader(writer.directory / "nowhere")


def test_bodies_that_every_worker_has_left_behind_go(writer):
    for number in range(3):
        writer.write(rows((number, number, 0, 1, 1)), spans((6, 1, SOURCE_STATIC)), own(b"x"))
    writer.drop_bodies(2)
    writer.drop_bodies(1)  # a worker that began later is behind
    left = sorted(path.name for path in writer.directory.glob("0*"))
    assert left == ["000000.rows", "000001.rows", "000002.bytes", "000002.rows", "000002.spans"]
    reader = PlanReader(writer.directory)
    assert reader.all_rows()["index"].tolist() == [0, 1, 2]
    assert reader.body(2, reader.rows(2)[0]) == b"!"
