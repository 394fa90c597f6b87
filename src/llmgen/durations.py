"""Durations as people write them, ``250ms 60s 5m 1h``, and as the program holds them: seconds."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Final

_MICROSECONDS: Final = {"us": 1, "ms": 1000, "s": 10**6, "m": 60 * 10**6, "h": 3600 * 10**6, "d": 86400 * 10**6}
_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(us|ms|s|m|h|d)")

HINT: Final = "write a duration like 250ms, 60s, 5m, 1h or 1h30m"


def parse_duration(text: str | float) -> float:
    """Seconds of `text`; a bare number is seconds already.

    Raises ValueError, whose text says what would be right, for anything else, negative and infinite values included.
    """
    if isinstance(text, bool):
        raise ValueError(HINT)
    if isinstance(text, str):
        seconds = _parse(text.strip().lower().replace("µs", "us"))
    else:
        seconds = float(text)
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError("a duration is finite and not negative")
    return seconds


def _parse(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        pass
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(HINT)
    # Decimal: 50us is the double nearest to 0.00005, as if it had been written so.
    return float(sum(Decimal(number) * _MICROSECONDS[unit] for number, unit in parts) / Decimal(10**6))


def format_duration(seconds: float) -> str:
    """The shortest usual way to write `seconds`: ``250ms``, ``1.5s``, ``5m``, ``1h30m``; parse_duration reads it back.

    Exact to a microsecond below a minute and to a millisecond from there on.
    """
    if seconds < 0 or not math.isfinite(seconds):
        raise ValueError("a duration is finite and not negative")
    if seconds == 0:
        return "0s"
    if seconds < 0.001:
        return f"{_short(seconds * 1e6, 3)}us"
    if seconds < 1:
        return f"{_short(seconds * 1e3, 3)}ms"
    if seconds < 60:
        return f"{_short(seconds, 6)}s"
    whole_minutes, rest = divmod(round(seconds, 3), 60)
    hours, minutes = divmod(int(whole_minutes), 60)
    days, hours = divmod(hours, 24)
    words = [f"{count}{unit}" for count, unit in ((days, "d"), (hours, "h"), (minutes, "m")) if count]
    if rest >= 0.0005:
        words.append(f"{_short(rest, 3)}s")
    return "".join(words)


def _short(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".")
