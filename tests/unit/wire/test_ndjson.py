"""Lines of newline-delimited JSON: ends, blanks, cuts, bounds."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgen.wire import ndjson

STREAM = b'{"a":1}\n\n {"b":"x\\n"} \r\n\t\r\n{"c":[]}\n'
LINES = [b'{"a":1}', b'{"b":"x\\n"}', b'{"c":[]}']


def test_lines_are_trimmed_and_blank_ones_are_none() -> None:
    assert ndjson.Parser().feed(STREAM) == LINES


def test_any_cutting_gives_the_same_lines() -> None:
    for one, two in itertools.combinations(range(len(STREAM) + 1), 2):
        parser = ndjson.Parser()
        found = parser.feed(STREAM[:one]) + parser.feed(STREAM[one:two]) + parser.feed(STREAM[two:])
        assert found == LINES
        assert parser.close() is None


def test_byte_by_byte() -> None:
    parser = ndjson.Parser()
    assert [line for at in range(len(STREAM)) for line in parser.feed(STREAM[at : at + 1])] == LINES


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(0, 400), max_size=6))
def test_agrees_with_split(pieces: list[bytes], cuts: list[int]) -> None:
    data = b"\n".join(pieces)
    *whole, last = (line.strip(b" \r\t") for line in data.split(b"\n"))
    parser = ndjson.Parser()
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    found = [line for a, b in itertools.pairwise(bounds) for line in parser.feed(data[a:b])]
    assert found == [line for line in whole if line]
    assert parser.close() == (last or None)


def test_the_last_line_may_lack_its_end_and_is_told_once() -> None:
    parser = ndjson.Parser()
    assert parser.feed(b'{"a":1}\n{"b"') == [b'{"a":1}']
    assert parser.feed(b":2} ") == []
    assert parser.close() == b'{"b":2}'
    assert parser.close() is None
    assert parser.feed(b"[]\n") == [b"[]"]  # as new
    parser.feed(b"  ")
    assert parser.close() is None


@pytest.mark.parametrize("cut", range(12))
def test_a_line_over_the_limit_ends_the_stream_wherever_it_is_cut(cut: int) -> None:
    parser = ndjson.Parser(max_line_bytes=8)
    data = b"12345678\n123456789\n1\n"
    before = parser.feed(data[:cut])
    with pytest.raises(ndjson.Error, match="larger than 8 bytes") as caught:
        parser.feed(data[cut:])
    assert before + caught.value.lines == [b"12345678"]
    with pytest.raises(ndjson.Error):
        parser.feed(b"1\n")
    assert parser.close() is None
    assert parser.feed(b"1\n") == [b"1"]


def test_what_is_carried_is_bounded_too() -> None:
    parser = ndjson.Parser(max_line_bytes=1000)
    assert parser.feed(b"x" * 999) == []
    assert parser.feed(b"x") == []
    with pytest.raises(ndjson.Error):
        parser.feed(b"x")


@pytest.mark.parametrize("size", [0, -1, (1 << 30) + 1])
def test_limits_out_of_range(size: int) -> None:
    with pytest.raises((ValueError, OverflowError)):
        ndjson.Parser(max_line_bytes=size)
