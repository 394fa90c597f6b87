"""Durations as people write them, ``250ms 60s 5m 1h``, and as the program holds them: seconds."""

from __future__ import annotations

import math
import re
from typing import Final

_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
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
    # fsum: 1h0.1s is the nearest double to 3600.1, whatever the order of the parts.
    return math.fsum(float(number) * _UNITS[unit] for number, unit in parts)


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
