"""A log of production requests: JSON lines of when, what and where; the bodies are sent again as they are.

    {"timestamp": 1715472000.25, "path": "/v1/chat/completions", "body": {"model": "m", "messages": […]}}

`timestamp` is a number (s, or `unit`) or a date and time; `body` an object, or text that holds one; `path` may be left
out. Lengths are not logged: the input is told as words, the output as the limit that the body asks for, if it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from llmgen.workload.traces.columns import times as times_of
from llmgen.workload.traces.jsonlines import Number, decoded
from llmgen.workload.traces.options import Options
from llmgen.workload.traces.rows import Labeller, Place, TraceBlock

EXPECTED: Final = '{"timestamp": s or date and time, "path": "/v1/…", "body": {…}}'
LIMITS: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens", "n_predict")


class Row(msgspec.Struct):
    timestamp: str | Number
    body: dict[str, Any] | str
    path: str | None = None


def read(path: Path, options: Options) -> Iterator[TraceBlock]:
    """Blocks of the log in order; the class of a row is its path. ConfigError naming the first broken row."""
    place = Place(path, EXPECTED)
    paths, models = Labeller(), Labeller()
    for rows, lines in decoded(path, Row, place):
        bodies = []
        for number, (row, line) in enumerate(zip(rows, lines, strict=True), place.rows + 1):
            bodies.append(_body(row, number, line, place))
        t_ns = times_of([row.timestamp for row in rows], options.unit_ns, lines, place)
        yield TraceBlock(
            place.relative(t_ns, lines, sorted_later=options.sorts),
            np.array([words_of(body) for body in bodies], np.int64),
            np.array([limit_of(body) for body in bodies], np.int64),
            klass=paths.labels(row.path for row in rows),
            model=models.labels(_model(body) for body in bodies),
            bodies=tuple(msgspec.json.encode(body) for body in bodies),
        )


def _body(row: Row, number: int, line: bytes, place: Place) -> dict[str, Any]:
    if isinstance(row.body, dict):
        return row.body
    try:
        found = msgspec.json.decode(row.body)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        place.refuse(number, line, f"its body is no JSON: {error}")
    if not isinstance(found, dict):
        place.refuse(number, line, "its body is no JSON object")
    return found


def words_of(value: Any) -> int:
    """Words of all text in the prompt of a body, whatever API it is for; at least 1."""
    found = value
    if isinstance(value, dict):
        found = [
            value[name] for name in ("messages", "prompt", "input", "inputs", "system", "instructions") if name in value
        ]
    return max(1, _words(found))


def _words(value: Any) -> int:
    if isinstance(value, str):
        return len(value.split())
    if isinstance(value, list):
        return sum(_words(item) for item in value)
    if isinstance(value, dict):
        return sum(_words(item) for name, item in value.items() if name in ("content", "text", "input"))
    return 0


def limit_of(body: dict[str, Any]) -> int:
    """The answer length that a body asks for; 0 if it does not."""
    for name in LIMITS:
        value = body.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 24:
            return value
    return 0


def _model(body: dict[str, Any]) -> str | None:
    model = body.get("model")
    return model if isinstance(model, str) else None
