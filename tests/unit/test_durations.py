"""Durations: what people write, what is refused, and that printing and reading agree."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgen.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25), ("60s", 60.0), ("5m", 300.0), ("1h", 3600.0), ("50us", 5e-5), ("50µs", 5e-5), ("1d", 86400.0),
        ("1h30m", 5400.0), ("1.5s", 1.5), (".5s", 0.5), ("2", 2.0), (3, 3.0), (0.25, 0.25), (" 10s ", 10.0),
        ("1H", 3600.0), ("0", 0.0), ("1e-3", 0.001),
    ],
)  # fmt: skip
def test_parse(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "5x", "5 m", "-1s", "-1", "1m-5s", "inf", "nan", "1,5s", "5ms3", True, math.inf]
)
def test_refused(text: str | float) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "250ms"), (60.0, "1m"), (90.0, "1m30s"), (5400.0, "1h30m"), (5e-5, "50us"), (0.0, "0s"), (1.5, "1.5s"),
        (86400.0, "1d"), (3600.5, "1h0.5s"), (59.9999999, "60s"), (3599.9999, "1h"),
    ],
)  # fmt: skip
def test_format(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize("seconds", [-1.0, math.inf, math.nan])
def test_format_refuses_what_is_no_duration(seconds: float) -> None:
    with pytest.raises(ValueError, match="duration"):
        format_duration(seconds)


@given(st.floats(min_value=0, max_value=1e7))
def test_what_is_printed_is_read_back(seconds: float) -> None:
    step = 1e-9 if seconds < 1e-3 else 1e-6 if seconds < 60 else 1e-3
    assert abs(parse_duration(format_duration(seconds)) - seconds) <= step / 2 * (1 + 1e-6) + 1e-12
