"""The neutral record that every trace reader yields, in blocks of columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from llmgen.errors import ConfigError

Ints = NDArray[np.int64]

NS: Final = 1_000_000_000
MAX_TOKENS: Final = 9_999_999  # longer than any context there is; a body of ten million words is 55 MB
MAX_TIME_NS: Final = 1 << 62
NONE: Final = -1  # no session, no parent, no label


@dataclass(frozen=True)
class Labels:
    """A text column: codes into names."""

    codes: Ints  # (rows,); NONE where a row has none
    names: list[str]  # shared by all blocks of a trace; grows while it is read


@dataclass(frozen=True)
class Pieces:
    """What the prompts are made of, from their beginnings: pieces with equal ids are equal text.

    Where a trace tells hashes of prefixes (Mooncake, qwen-bailian) an id stands for its block and all before it.
    """

    ids: Ints  # (pieces of all rows,)
    words: Ints  # (pieces of all rows,), tokens of each, >= 1
    counts: Ints  # (rows,)

    def take(self, rows: Ints) -> Pieces:
        where = ragged(np.cumsum(self.counts)[rows] - self.counts[rows], self.counts[rows])
        return Pieces(self.ids[where], self.words[where], self.counts[rows])


def ragged(starts: Ints, counts: Ints) -> Ints:
    """start, start + 1 … start + count - 1 of every row, one after the other."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.asarray(np.arange(total) + np.repeat(starts - (ends - counts), counts))


@dataclass(frozen=True)
class TraceBlock:
    """Consecutive rows of a trace in order of time; arrays (rows,). A column that a format does not have is None."""

    t_ns: Ints  # after the first row of the trace; never descending, over all blocks
    input: Ints  # tokens, >= 0
    output: Ints
    klass: Labels | None = None
    model: Labels | None = None
    pieces: Pieces | None = None
    session: Ints | None = None
    chat: Ints | None = None  # the row's own id, which `parent` of a later one names
    parent: Ints | None = None
    turn: Ints | None = None
    bodies: tuple[bytes, ...] | None = None  # whole requests as they were logged, JSON objects

    def __len__(self) -> int:
        return len(self.t_ns)

    def take(self, rows: Ints, t_ns: Ints | None = None) -> TraceBlock:
        """The rows at these places, repeated or left out as named there; `t_ns`: their times if these changed."""
        columns: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, np.ndarray):
                value = value[rows]
            elif isinstance(value, Labels):
                value = Labels(value.codes[rows], value.names)
            elif isinstance(value, Pieces):
                value = value.take(rows)
            elif value is not None:
                value = tuple(value[row] for row in rows.tolist())
            columns[each.name] = value
        if t_ns is not None:
            columns["t_ns"] = t_ns
        return TraceBlock(**columns)


def joined(blocks: list[TraceBlock]) -> TraceBlock:
    """Blocks of one trace, at least one, as one."""
    first = blocks[0]
    if len(blocks) == 1:
        return first
    columns: dict[str, Any] = {}
    for each in fields(first):
        values: list[Any] = [getattr(block, each.name) for block in blocks]
        if values[0] is None:
            columns[each.name] = None
        elif isinstance(values[0], np.ndarray):
            columns[each.name] = np.concatenate(values)
        elif isinstance(values[0], Labels):
            columns[each.name] = Labels(np.concatenate([value.codes for value in values]), values[0].names)
        elif isinstance(values[0], Pieces):
            parts = {name: np.concatenate([getattr(v, name) for v in values]) for name in ("ids", "words", "counts")}
            columns[each.name] = Pieces(**parts)
        else:
            columns[each.name] = tuple(body for value in values for body in value)
    return TraceBlock(**columns)


def sort_by_time(blocks: Iterator[TraceBlock], rows: int) -> Iterator[TraceBlock]:
    """All rows, stably by time, in blocks of `rows`. Holds the whole trace: about 40 bytes a row and 16 a piece."""
    held = list(blocks)
    if not held:
        return
    whole = joined(held)
    held.clear()
    order = np.argsort(whole.t_ns, kind="stable")
    first = int(whole.t_ns[order[0]])
    for start in range(0, len(order), rows):
        part = order[start : start + rows]
        yield whole.take(part, whole.t_ns[part] - first)


class Labeller:
    """Codes of one text column, over all blocks of a trace."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._known: dict[str, int] = {}

    def code(self, name: str) -> int:
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = len(self.names)
            self.names.append(name)
        return known

    def codes(self, names: Iterable[str | None]) -> Ints:
        known = self._known
        return np.array([NONE if not n else known[n] if n in known else self.code(n) for n in names], np.int64)

    def labels(self, names: Iterable[str | None]) -> Labels:
        return Labels(self.codes(names), self.names)


@dataclass
class Place:
    """How far a file is read, for the numbers in errors and for times after the first row."""

    path: object
    expected: str
    header_lines: int = 0
    rows: int = 0
    first_ns: int | None = None
    last_ns: int = -(1 << 62)

    def refuse(self, row: int, line: bytes, why: str) -> NoReturn:
        """ConfigError for row `row` (from 1)."""
        shown = line[:80].decode("ascii", "backslashreplace")
        raise ConfigError(
            f"{self.path}: row {row} (line {row + self.header_lines}) is {shown!r}: {why}; expected {self.expected}"
        )

    def check_parents(self, chat: Ints, parent: Ints, lines: list[bytes]) -> None:
        """Refuses a row that would follow itself; to be called before `relative`, which goes on to the next rows."""
        own = np.flatnonzero((chat == parent) & (parent >= 0))
        if len(own):
            row = int(own[0])
            self.refuse(self.rows + row + 1, lines[row], "names itself as its parent")

    def relative(self, t_ns: Ints, lines: list[bytes], *, sorted_later: bool) -> Ints:
        """Times after the trace's first row. Refuses a row that is earlier than the one before it."""
        if self.first_ns is None:
            self.first_ns = int(t_ns[0])
        if not sorted_later:
            back = np.flatnonzero(np.diff(t_ns, prepend=self.last_ns) < 0)
            if len(back):
                row = int(back[0])
                why = "earlier than the row before it; sort the file, or set order: sort (--trace-order sort)"
                self.refuse(self.rows + row + 1, lines[row], why)
        self.last_ns = int(t_ns[-1])
        self.rows += len(t_ns)
        return t_ns - self.first_ns
