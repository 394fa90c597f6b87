"""llmgen's own form: JSON lines with whatever of the neutral record there is; `llmgen trace convert` writes it.

    {"t_ns": 1500000000, "in": 900, "out": 40, "class": "chat", "model": "m", "session": 3, "chat": 7, "parent": 5,
     "turn": 2, "block_size": 512, "prefix_ids": [12, 13]}

`prefix_sizes` stands in the place of `block_size` where the pieces of a prompt differ in length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from llmgen.workload.traces.jsonlines import Id, Tokens, decoded
from llmgen.workload.traces.options import Options
from llmgen.workload.traces.rows import MAX_TOKENS, NONE, Ints, Labeller, Pieces, Place, TraceBlock

EXPECTED: Final = (
    '{"t_ns": ns, "in": n, "out": n} and, if known, "class", "model", "session", "chat", "parent", "turn", '
    '"prefix_ids" with "block_size" or "prefix_sizes"'
)


class Row(msgspec.Struct, omit_defaults=True):
    t_ns: Id
    input: Tokens = msgspec.field(name="in")
    output: Tokens = msgspec.field(name="out")
    klass: str | None = msgspec.field(name="class", default=None)
    model: str | None = None
    session: Id = NONE
    chat: Id = NONE
    parent: Id = NONE
    turn: Id = 0
    block_size: Tokens = 0
    prefix_ids: list[Id] = []
    prefix_sizes: list[Tokens] = []


def read(path: Path, options: Options) -> Iterator[TraceBlock]:
    """Blocks of the trace in order. ConfigError naming the first row that is broken or out of order."""
    place = Place(path, EXPECTED)
    classes, models = Labeller(), Labeller()
    for rows, lines in decoded(path, Row, place):
        sizes = []
        for number, (row, line) in enumerate(zip(rows, lines, strict=True), place.rows + 1):
            sizes.append(_sizes(row, number, line, place))
        t_ns = np.array([row.t_ns for row in rows], np.int64)
        chat, parent = _ints(rows, "chat"), _ints(rows, "parent")
        place.check_parents(chat, parent, lines)
        yield TraceBlock(
            place.relative(t_ns, lines, sorted_later=options.sorts),
            _ints(rows, "input"),
            _ints(rows, "output"),
            klass=classes.labels(row.klass for row in rows),
            model=models.labels(row.model for row in rows),
            pieces=Pieces(
                np.array([i for row, n in zip(rows, sizes, strict=True) for i in row.prefix_ids[: len(n)]], np.int64),
                np.array([size for row in sizes for size in row], np.int64),
                np.array([len(row) for row in sizes], np.int64),
            ),
            session=_ints(rows, "session"),
            chat=chat,
            parent=parent,
            turn=_ints(rows, "turn"),
        )


def _ints(rows: list[Row], name: str) -> Ints:
    return np.array([getattr(row, name) for row in rows], np.int64)


def _sizes(row: Row, number: int, line: bytes, place: Place) -> list[int]:
    """Tokens of each piece that lies in the prompt."""
    ids, size = len(row.prefix_ids), row.block_size
    if row.prefix_sizes:
        if len(row.prefix_sizes) != ids or min(row.prefix_sizes) < 1:
            place.refuse(number, line, "prefix_sizes must be one whole number above 0 for each of prefix_ids")
        sizes = row.prefix_sizes
    elif ids and size < 1:
        place.refuse(number, line, "prefix_ids need a block_size above 0, or prefix_sizes")
    else:
        sizes = [size] * min(ids, -(-row.input // size) if size else 0)
    return cut_to(sizes, row.input)


def cut_to(sizes: Iterable[int], length: int) -> list[int]:
    """The sizes as far as a prompt of that length goes, the last one shortened."""
    cut: list[int] = []
    for size in sizes:
        if length <= 0:
            break
        cut.append(min(size, length))
        length -= size
    return cut


def lines_of(block: TraceBlock) -> Iterator[bytes]:
    """A block as lines of this form."""
    encoder = msgspec.json.Encoder()
    ends = None if block.pieces is None else np.cumsum(block.pieces.counts)
    for row in range(len(block)):
        fields: dict[str, Any] = {}
        for name in ("session", "chat", "parent", "turn"):
            column = getattr(block, name)
            if column is not None:
                fields[name] = int(column[row])
        for name in ("klass", "model"):
            labels = getattr(block, name)
            if labels is not None and labels.codes[row] != NONE:
                fields[name] = labels.names[int(labels.codes[row])]
        if block.pieces is not None and ends is not None and block.pieces.counts[row]:
            start, end = int(ends[row] - block.pieces.counts[row]), int(ends[row])
            fields["prefix_ids"] = block.pieces.ids[start:end].tolist()
            fields.update(_block_size(block.pieces.words[start:end], int(block.input[row])))
        values = (int(block.t_ns[row]), int(block.input[row]), int(block.output[row]))
        yield encoder.encode(Row(*values, **fields)) + b"\n"


def _block_size(words: Ints, length: int) -> dict[str, Any]:
    """block_size if all pieces but the last have one size and the last is what the prompt leaves of it."""
    size = int(words[0])
    rest = length - size * (len(words) - 1)
    if np.all(words[:-1] == size) and 0 < size <= MAX_TOKENS and int(words[-1]) == min(size, rest):
        return {"block_size": size}
    return {"prefix_sizes": words.tolist()}
