"""JSON lines, decoded a block at a time; the first broken row is named."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np

from llmgen.errors import ConfigError
from llmgen.workload.traces.lines import open_text, whole_lines
from llmgen.workload.traces.rows import MAX_TIME_NS, MAX_TOKENS, Ints, Pieces, Place, ragged

Tokens = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]
# Of ns or coarser: 292 years of ns fit into 64 bits.
Number = Annotated[int, msgspec.Meta(ge=-(1 << 62), le=1 << 62)] | float
Id = Annotated[int, msgspec.Meta(ge=-(1 << 62), le=1 << 62)]

T = TypeVar("T")


def decoded(path: Path, kind: type[T], place: Place) -> Iterator[tuple[list[T], list[bytes]]]:
    """Blocks of rows and their lines. ConfigError naming the first row that is not of this kind, or an empty file."""
    decoder = msgspec.json.Decoder(kind)
    with open_text(path) as file:
        for lines in whole_lines(place, file):
            rows: list[T] = []
            with contextlib.suppress(msgspec.DecodeError, RecursionError, ValueError):
                rows = decoder.decode_lines(b"\n".join(lines))
            if len(rows) != len(lines):  # broken, or blank lines amid rows
                _refuse_first(decoder, lines, place)
            yield rows, lines
    if place.rows == 0:
        raise ConfigError(f"{path}: no rows; expected {place.expected}")


def _refuse_first(decoder: msgspec.json.Decoder[Any], lines: list[bytes], place: Place) -> None:
    for row, line in enumerate(lines, place.rows + 1):
        if not line.strip():
            place.refuse(row, line, "blank")
        try:
            decoder.decode(line)
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            place.refuse(row, line, str(error))
    raise AssertionError("a block is broken, but none of its rows")


def times_ns(values: list[Any], unit_ns: int, lines: list[bytes], place: Place) -> Ints:
    """Times in whole ns; integers exactly, others to the precision of a double. Refuses what 64 bits cannot hold."""
    rough = np.array(values, np.float64) * unit_ns
    far = np.flatnonzero(~(np.abs(rough) < MAX_TIME_NS))
    if len(far):
        place.refuse(place.rows + int(far[0]) + 1, lines[int(far[0])], "no time that ns in 64 bits can hold")
    if set(map(type, values)) == {int}:
        return np.array(values, np.int64) * unit_ns
    exact = np.array(values, np.float64)
    whole = np.floor(exact)
    return whole.astype(np.int64) * unit_ns + np.rint((exact - whole) * unit_ns).astype(np.int64)


def pieces_of_blocks(ids: list[list[int]], lengths: Ints, block_size: int) -> Pieces:
    """Blocks of `block_size` tokens, the last of a row as long as its prompt goes on; ids beyond the prompt are cut."""
    there = np.fromiter(map(len, ids), np.int64, len(ids))
    flat = np.fromiter(chain.from_iterable(ids), np.int64, int(there.sum()))
    counts = np.minimum(there, -(-lengths // block_size))
    if np.any(counts < there):
        flat = flat[ragged(np.cumsum(there) - there, counts)]
    words = np.full(len(flat), block_size, np.int64)
    ends = np.cumsum(counts)
    some = counts > 0
    words[ends[some] - 1] = np.minimum(block_size, lengths[some] - (counts[some] - 1) * block_size)
    return Pieces(flat, words, counts)
