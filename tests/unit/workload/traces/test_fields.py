"""Columns of plain CSV decoded at once agree with Python, field by field; anything else is left to the caller."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgen.workload.traces.fields import Fields, split
from llmgen.workload.traces.rows import MAX_TOKENS

UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
plain_text = st.text(st.characters(codec="ascii", exclude_characters='",\r\n'), max_size=6)
numbers = st.integers(0, MAX_TOKENS).map(str)
decimals = st.builds(
    lambda whole, part: f"{whole}.{part}" if part is not None else str(whole),
    st.integers(0, 10**9),
    st.none() | st.from_regex(r"[0-9]{0,9}", fullmatch=True),
)


def columns(rows: list[list[str]]) -> list[Fields]:
    found = split([",".join(row).encode() for row in rows], len(rows[0]))
    assert found is not None
    return found


@given(st.lists(st.lists(plain_text, min_size=3, max_size=3), min_size=1, max_size=8))
def test_texts_are_those_between_the_commas(rows: list[list[str]]) -> None:
    assert [list(row) for row in zip(*[each.texts() for each in columns(rows)], strict=True)] == rows


@given(st.lists(numbers, min_size=1, max_size=8))
def test_tokens(values: list[str]) -> None:
    found = columns([["x", value] for value in values])[1].tokens()
    assert found is not None
    assert found.tolist() == [int(value) for value in values]


@given(st.lists(decimals, min_size=1, max_size=8), st.sampled_from(sorted(UNITS)))
def test_times_are_exact_or_left_to_the_caller(values: list[str], unit: str) -> None:
    exact = [Decimal(value) * UNITS[unit] for value in values]
    found = columns([[value, "x"] for value in values])[0].times_ns(UNITS[unit])
    if all(value == int(value) and value < 1 << 62 for value in exact):
        assert found is not None
        assert found.tolist() == exact
    else:
        assert found is None


@pytest.mark.parametrize("value", ["", "-1", "+1", "1.0", "1e3", "1_0", " 1", "12345678", "0x1", "/", ":"])
def test_what_is_no_plain_number_is_left_to_the_caller(value: str) -> None:
    assert columns([["7"], [value]])[0].tokens() is None


@pytest.mark.parametrize("value", ["", "-1", "1.2.3", ".5", "1e3", "nan", "1.0000000000", "2024-05-12", "9" * 18])
def test_what_is_no_plain_time_is_left_to_the_caller(value: str) -> None:
    assert columns([["7"], [value]])[0].times_ns(UNITS["s"]) is None


@pytest.mark.parametrize(
    "lines", [[b'1,"2"'], [b"1,2,3", b"1"], [b"1"], [b"1,2", b"1\n,2"], [b"1,\xe9"], [b"1,2\r3"], [b"", b"1,2"]]
)
def test_rows_of_another_kind_are_not_split(lines: list[bytes]) -> None:
    assert split(lines, 2) is None
