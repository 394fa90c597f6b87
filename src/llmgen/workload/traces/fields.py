"""One column of a block of CSV text, decoded for all its rows at once.

What is not plain (a sign, an exponent, more digits than are exact) is None: the caller then looks at it row by row,
which also tells what is wrong with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llmgen.workload.traces.rows import MAX_TIME_NS, MAX_TOKENS, NS, Ints

TOKEN_DIGITS: Final = len(str(MAX_TOKENS))
TIME_DIGITS: Final = 18  # before the point; what 64 bits hold for certain
FRACTION_DIGITS: Final = 9


@dataclass(frozen=True)
class Fields:
    """The fields of one column: text[start:stop] of each row; `text` is ASCII."""

    text: str
    data: NDArray[np.uint8]  # the same
    start: Ints
    stop: Ints

    def __len__(self) -> int:
        return len(self.start)

    def texts(self) -> list[str]:
        text = self.text
        return [text[start:stop] for start, stop in zip(self.start.tolist(), self.stop.tolist(), strict=True)]

    def tokens(self) -> Ints | None:
        """Whole numbers from 0 to MAX_TOKENS; None if one is anything else."""
        return digits(self.data, self.start, self.stop, TOKEN_DIGITS)

    def times_ns(self, unit_ns: int) -> Ints | None:
        """Numbers like 12 or 12.5 of this unit, in ns; None if one is anything else, or not whole ns."""
        points = np.append(np.flatnonzero(self.data == ord(".")), len(self.data))
        point = np.minimum(points[np.searchsorted(points, self.start)], self.stop)
        whole = digits(self.data, self.start, point, TIME_DIGITS)
        behind = np.minimum(point + 1, self.stop)
        fraction = digits(self.data, behind, self.stop, FRACTION_DIGITS, least=0)
        if whole is None or fraction is None or np.any(whole >= MAX_TIME_NS // unit_ns):
            return None
        parts = fraction * 10 ** (FRACTION_DIGITS - (self.stop - behind)) * unit_ns
        if np.any(parts % NS):
            return None
        return np.asarray(whole * unit_ns + parts // NS)


def digits(data: NDArray[np.uint8], start: Ints, stop: Ints, most: int, least: int = 1) -> Ints | None:
    """The decimal numbers in data[start:stop], `least` to `most` digits each; None if one is anything else."""
    size = stop - start
    if not len(size):
        return np.empty(0, np.int64)
    longest = int(size.max())
    if longest > most or int(size.min()) < least:
        return None
    value = np.zeros(len(start), np.int64)
    for place in range(longest):
        inside = size > place
        digit = data[np.where(inside, start + place, 0)] - np.uint8(ord("0"))  # below "0" it wraps: above 9
        if np.any(digit[inside] > 9):
            return None
        value = np.where(inside, value * 10 + digit, value)
    return value


def split(lines: list[bytes], width: int) -> list[Fields] | None:
    """The columns of rows of `width` fields without quotes; None for rows that are anything else, or broken."""
    joined = b"\n".join([*lines, b""])
    if b'"' in joined or b"\r" in joined or not joined.isascii():
        return None
    data = np.frombuffer(joined, np.uint8)
    ends = np.flatnonzero((data == ord(",")) | (data == ord("\n")))
    if len(ends) != width * len(lines):
        return None
    stop = ends.reshape(len(lines), width)
    # Each row's newline in its last place: then every row has its commas in between.
    if np.any(data[stop[:, -1]] != ord("\n")) or joined.count(b"\n") != len(lines):
        return None
    start = np.concatenate([[0], ends[:-1] + 1]).reshape(stop.shape)
    text = joined.decode("ascii")
    return [Fields(text, data, start[:, at], stop[:, at]) for at in range(width)]
