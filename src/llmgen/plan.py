"""The plan on disk: what the controller writes and every worker maps.

A plan directory holds ``static.bin`` (bytes that many bodies share: prompt text, body frames) and numbered segments:
``NNNNNN.rows`` (PLAN_DTYPE), ``NNNNNN.spans`` (SPAN_DTYPE) and ``NNNNNN.bytes`` (bytes of single bodies). A body is a
list of spans; rows are sorted by due time over all segments. A segment is complete when its ``.rows`` file exists
(written last, renamed into place); ``plan.json`` is written after the last one and names their number.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from llmgen.errors import RecordError

PLAN_SCHEMA: Final = "llmgen.plan/1"

ANY_TARGET: Final = 0xFFFF  # the worker balances
DYNAMIC: Final = -1  # due time is decided during the run (closed loop, session turns)
ROOT: Final = 1  # `after` of a turn that waits for no other
NO_SESSION: Final = -1

PLAN_DTYPE: Final = np.dtype(
    [
        ("due", "<i8"),  # ns after the common start; DYNAMIC
        ("index", "<i8"),  # number of the request in the run
        ("first_span", "<u8"),  # into this segment's spans
        ("span_count", "<u2"),
        ("klass", "<u2"),
        ("target", "<u2"),
        ("worker", "<u2"),
        ("session", "<i4"),  # -1: none
        ("turn", "<u2"),
        ("head", "<u2"),  # number of the head template (path, model header, streaming)
        ("planned_input", "<i4"),
        ("planned_output", "<i4"),
        ("body_bytes", "<u4"),
        ("after", "<u4"),  # of a trace's turn: ROOT + so many rows back is the one whose end it waits for; 0: no turn
        ("think", "<i8"),  # dynamic rows of a session: ns between the end of the turn before and this one's due
    ]
)
assert PLAN_DTYPE.itemsize == 64

SPAN_DTYPE: Final = np.dtype([("offset", "<u8"), ("size", "<u4"), ("source", "<u4")])
SOURCE_STATIC: Final = 0
SOURCE_SEGMENT: Final = 1
SOURCE_ANSWER: Final = 2  # the real answer of an earlier turn of the session: `offset` is the turn, `size` is not used


Rows = NDArray[np.void]  # of PLAN_DTYPE
Spans = NDArray[np.void]  # of SPAN_DTYPE


@dataclass(frozen=True)
class Head:
    """What the worker builds an HTTP request head from; a row's `head` is its number."""

    klass: int
    stream: bool
    paths: tuple[str, ...]  # request target (path and query), one a target


SPOOL_BYTES: Final = 32 << 20  # of static bytes kept in memory; more (own data) waits in a file
DEDUPLICATED_BYTES: Final = 1 << 16  # larger pieces are not looked for among the former ones
DIGEST_BYTES: Final = 32


class StaticBytes:
    """Collects what goes into static.bin: shared bytes, each stored once."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._held = 0  # bytes of the pieces
        self._file: IO[bytes] | None = None  # the pieces before them
        self._known: dict[bytes, int] = {}
        self.size = 0

    def add(self, data: bytes) -> int:
        """Offset of `data` in static.bin."""
        short = len(data) <= DEDUPLICATED_BYTES
        # Digests, so that what is kept for looking up does not grow with the data.
        key = data if len(data) <= DIGEST_BYTES else hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()
        offset = self._known.get(key) if short else None
        if offset is None:
            offset = self.size
            if short:
                self._known[key] = offset
            self._pieces.append(data)
            self._held += len(data)
            self.size += len(data)
            if self._held > SPOOL_BYTES:
                self._spool()
        return offset

    def _spool(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  # closed below
            weakref.finalize(self, self._file.close)
        self._file.writelines(self._pieces)
        self._pieces.clear()
        self._held = 0

    def write(self, path: Path) -> None:
        with path.open("wb") as file:
            if self._file is not None:
                self._file.seek(0)
                shutil.copyfileobj(self._file, file, 1 << 20)
            file.writelines(self._pieces)


class PlanWriter:
    """Writes a plan directory: static bytes at once, then segments, then plan.json."""

    def __init__(self, directory: Path, static: StaticBytes, heads: Sequence[Head]) -> None:
        self.directory = directory
        self.segments = 0
        self.rows = 0
        self.bytes = 0  # of all files
        self._heads = list(heads)
        self._dropped = 0  # segments whose bodies are gone
        directory.mkdir(parents=True, exist_ok=True)
        static.write(directory / "static.bin")
        self.bytes += static.size

    def write(self, rows: Rows, spans: Spans, body_bytes: NDArray[np.uint8]) -> None:
        """One segment; `rows` sorted by due, `first_span` counts in `spans`. Its .rows appears last, complete."""
        stem = self.directory / f"{self.segments:06d}"
        self._put(stem.with_suffix(".bytes"), body_bytes)
        self._put(stem.with_suffix(".spans"), spans)
        self._put(stem.with_suffix(".part"), rows)
        stem.with_suffix(".part").rename(stem.with_suffix(".rows"))
        self.segments += 1
        self.rows += len(rows)

    def drop_bodies(self, passed: int) -> None:
        """Takes the bodies of the first `passed` segments from the disk: every worker has them mapped, or is done."""
        for number in range(self._dropped, passed):
            stem = self.directory / f"{number:06d}"
            for suffix in (".spans", ".bytes"):
                stem.with_suffix(suffix).unlink(missing_ok=True)
        self._dropped = max(self._dropped, passed)

    def finish(self, facts: dict[str, Any] | None = None) -> None:
        """Writes plan.json, which says that no further segment will come."""
        content = {
            "schema": PLAN_SCHEMA,
            "segments": self.segments,
            "rows": self.rows,
            "heads": [asdict(head) for head in self._heads],
            **(facts or {}),
        }
        part = self.directory / "plan.part"
        part.write_text(json.dumps(content, indent=1))
        part.rename(self.directory / "plan.json")

    def _put(self, path: Path, array: NDArray[Any]) -> None:
        with path.open("wb") as file:
            self.bytes += file.write(np.ascontiguousarray(array).data)


class PlanReader:
    """A plan directory as a worker sees it: mapped, any complete segment, before or after plan.json is there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.static = _mapped(directory / "static.bin", np.dtype("u1"))
        self._open: tuple[int, Spans, NDArray[np.void]] | None = None  # the segment read last

    @property
    def segments(self) -> int:
        """Complete segments."""
        number = 0
        while (self.directory / f"{number:06d}.rows").exists():
            number += 1
        return number

    def facts(self) -> dict[str, Any]:
        """plan.json. RecordError while it is not there."""
        try:
            content = json.loads((self.directory / "plan.json").read_bytes())
        except (OSError, ValueError) as error:
            raise RecordError(f"{self.directory}: no finished plan: {error}") from None
        if not isinstance(content, dict) or content.get("schema") != PLAN_SCHEMA:
            raise RecordError(f"{self.directory}/plan.json: not of schema {PLAN_SCHEMA}")
        return content

    def rows(self, segment: int) -> Rows:
        """PLAN_DTYPE (rows of this segment,), mapped."""
        return _mapped(self.directory / f"{segment:06d}.rows", PLAN_DTYPE)

    def all_rows(self) -> Rows:
        """PLAN_DTYPE (rows,) of all complete segments, copied."""
        parts = [self.rows(segment) for segment in range(self.segments)]
        return np.concatenate(parts) if parts else np.empty(0, PLAN_DTYPE)

    def body(self, segment: int, row: np.void) -> bytes:
        """The request body of one row of that segment."""
        if self._open is None or self._open[0] != segment:
            stem = self.directory / f"{segment:06d}"
            spans = _mapped(stem.with_suffix(".spans"), SPAN_DTYPE)
            self._open = (segment, spans, _mapped(stem.with_suffix(".bytes"), np.dtype("u1")))
        _, spans, own = self._open
        first = int(row["first_span"])
        body = b"".join(
            (own if span["source"] == SOURCE_SEGMENT else self.static)[
                int(span["offset"]) : int(span["offset"]) + int(span["size"])
            ].tobytes()
            for span in spans[first : first + int(row["span_count"])]
        )
        if len(body) != int(row["body_bytes"]):
            raise RecordError(f"{self.directory}: body of request {int(row['index'])} is cut short")
        return body

    def bodies(self) -> Iterator[tuple[np.void, bytes]]:
        """(row, body) of every complete segment in order."""
        for segment in range(self.segments):
            for row in self.rows(segment):
                yield row, self.body(segment, row)


def _mapped(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        size = os.path.getsize(path)
        if size % dtype.itemsize:
            raise RecordError(f"{path}: {size} bytes are no multiple of {dtype.itemsize}")
        return np.memmap(path, dtype, "r") if size else np.empty(0, dtype)  # an empty file cannot be mapped
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}") from None
