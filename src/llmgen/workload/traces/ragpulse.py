"""RAGPulse trace (arXiv 2511.12979): JSON lines, times in s as text, prompts made of components that come again.

    {"timestamp": "27", "input_length": 3861, "output_length": 127, "hash_ids": {"sys_prompt": [8325, 8326],
     "passages_ids": [6123], "history": [15215], "web_search": [], "user_input": [23648]}, "session_id": "1758-x"}

How long a component is stands in files beside the trace, {"…_id": 8325, "token_length": 9} a line (1_sys_prompt.jsonl
to 5_web_search.jsonl); without them, or for a component they do not know, the prompt's tokens are shared out evenly.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from llmgen.workload.traces.jsonlines import Id, Number, Tokens, decoded, times_ns
from llmgen.workload.traces.neutral import cut_to
from llmgen.workload.traces.options import Options
from llmgen.workload.traces.rows import NS, Labeller, Pieces, Place, TraceBlock

EXPECTED: Final = (
    '{"timestamp": "s", "input_length": n, "output_length": n, "hash_ids": {"sys_prompt": [id], "passages_ids": [id], '
    '"history": [id], "web_search": [id], "user_input": [id]}, "session_id": "…"}'
)
COMPONENT_FILES: Final = "[1-5]_*.jsonl"


class Components(msgspec.Struct):
    """In the order in which a prompt is put together."""

    sys_prompt: list[Id] = []
    passages_ids: list[Id] = []
    history: list[Id] = []
    web_search: list[Id] = []
    user_input: list[Id] = []

    def ids(self) -> list[int]:
        return self.sys_prompt + self.passages_ids + self.history + self.web_search + self.user_input


class Row(msgspec.Struct):
    timestamp: str | Number
    input_length: Tokens
    output_length: Tokens
    hash_ids: Components
    session_id: str | None = None


def read(path: Path, options: Options) -> Iterator[TraceBlock]:
    """Blocks of the trace. ConfigError naming the first row that is broken or out of order."""
    place = Place(path, EXPECTED)
    lengths, sessions = component_lengths(path.parent), Labeller()
    for rows, lines in decoded(path, Row, place):
        times = [_seconds(row.timestamp, number, line, place) for number, (row, line) in _numbered(rows, lines, place)]
        ids = [row.hash_ids.ids() for row in rows]
        sizes = [_sizes(one, row.input_length, lengths) for one, row in zip(ids, rows, strict=True)]
        t_ns = times_ns(times, options.unit_ns or NS, lines, place)
        yield TraceBlock(
            place.relative(t_ns, lines, sorted_later=options.sorts),
            np.array([row.input_length for row in rows], np.int64),
            np.array([row.output_length for row in rows], np.int64),
            pieces=Pieces(
                np.array([i for one, size in zip(ids, sizes, strict=True) for i in one[: len(size)]], np.int64),
                np.array([n for size in sizes for n in size], np.int64),
                np.array([len(size) for size in sizes], np.int64),
            ),
            session=sessions.codes(row.session_id for row in rows),
        )


def _numbered(rows: list[Row], lines: list[bytes], place: Place) -> Iterator[tuple[int, tuple[Row, bytes]]]:
    return enumerate(zip(rows, lines, strict=True), place.rows + 1)


def _seconds(value: str | int | float, number: int, line: bytes, place: Place) -> int | float:
    if not isinstance(value, str):
        return value
    try:
        return int(value) if value.isascii() and value.isdigit() else float(value)
    except ValueError:
        place.refuse(number, line, f"timestamp {value[:40]!r} is no number of seconds")


def component_lengths(folder: Path) -> dict[int, int]:
    """Tokens of every component that the files beside the trace tell; lines they do not understand are passed over."""
    found: dict[int, int] = {}
    for path in sorted(folder.glob(COMPONENT_FILES)):
        try:
            for line in path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                if not isinstance(row, dict):
                    continue
                length = row.pop("token_length", None)
                for name, value in row.items():
                    if name.endswith("id") and isinstance(value, int) and isinstance(length, int) and length > 0:
                        found[value] = length
        except (OSError, ValueError, RecursionError):
            continue
    return found


def _sizes(ids: list[int], total: int, lengths: dict[int, int]) -> list[int]:
    """Tokens of each component, within the prompt. Those that no file tells share what the others leave."""
    known = [lengths.get(i, 0) for i in ids]
    unknown = known.count(0)
    if unknown:
        share = max(1, (total - sum(known)) // unknown)
        known = [length or share for length in known]
    return cut_to(known, total)
