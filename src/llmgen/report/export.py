"""Requests of runs as CSV or JSON Lines: one record a request, enums by name, times in ms since the start of its run.

What did not happen and what nobody told is empty in CSV and null in JSON. Cells of CSV cannot become formulas, and no
control character of a name or URL reaches the file.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntEnum, IntFlag
from typing import IO, Any, Final

import msgspec
import numpy as np

from llmgen.columns import REQUEST_DTYPE, Finish, Flag, OutputSource, Status
from llmgen.errors import ConfigError
from llmgen.metrics import definitions
from llmgen.plan import ANY_TARGET
from llmgen.records import Run, open_run
from llmgen.report.escaping import plain, spreadsheet
from llmgen.report.members import Member

FORMATS: Final = ("csv", "jsonl")
BLOCK_ROWS: Final = 1 << 14  # 4 MiB of rows at a time: memory does not grow with the run

STAMPS: Final = REQUEST_DTYPE.names[:15] if REQUEST_DTYPE.names else ()  # due .. end
COUNTS: Final = (  # -1: not told
    "planned_input",
    "planned_output",
    "input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cached_tokens",
    "first_event_tokens",
    "events",
    "token_events",
    "reads",
    "coalesced_events",
    "bytes_in",
    "body_bytes",
    "retransmits",
)
METRICS: Final = ("ttft", "ttft_from_due", "ttfo", "tpot", "stall", "e2e", "e2e_from_due", "queue")


Blocks = Iterator[dict[str, list[Any]]]


def export(found: Blocks, format: str, out: IO[str]) -> int:
    """Writes all requests of `blocks` or `suite_blocks` in `format`; returns how many. Open a file for CSV with
    newline=""."""
    writers: dict[str, Callable[[Iterator[dict[str, Any]], IO[str]], int]] = {"csv": _write_csv, "jsonl": _write_jsonl}
    if format not in writers:
        raise ConfigError(f"format {format!r} is unknown; known: {', '.join(FORMATS)}")
    return writers[format](records(found), out)


def records(found: Blocks) -> Iterator[dict[str, Any]]:
    """One dict a request, all with the same keys in the same order."""
    for columns in found:
        names = list(columns)
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(names, values, strict=True))


def suite_blocks(members: Iterable[Member]) -> Blocks:
    """The requests of a suite's runs one after the other, behind columns that tell which run, cell and repeat."""
    for one in members:
        marks = {"run": one.number, "cell": one.cell, "repeat": one.repeat, "label": one.label}
        for columns in blocks(open_run(one.path)):
            count = len(columns["index"])
            yield {**{name: [value] * count for name, value in marks.items()}, **columns}


def blocks(run: Run) -> Blocks:
    """The same as columns of at most BLOCK_ROWS requests; at least one block, so that the names are known."""
    rows = run.requests
    start = int(run.info.get("start_ns") or (rows["due"].min() if len(rows) else 0))
    for at in range(0, max(len(rows), 1), BLOCK_ROWS):
        yield _columns(run, rows[at : at + BLOCK_ROWS], start)


def _columns(run: Run, rows: np.ndarray, start: int) -> dict[str, list[Any]]:
    classes = [str(klass["name"]) for klass in run.info.get("classes") or ()]
    targets = [str(target["url"]) for target in run.info.get("targets") or ()]
    columns: dict[str, list[Any]] = {
        "index": rows["index"].tolist(),
        "class": [_listed(classes, n) for n in rows["klass"].tolist()],
        "target": [None if n == ANY_TARGET else _listed(targets, n) for n in rows["target"].tolist()],
        "worker": rows["worker"].tolist(),
        "session": _told(rows["session"]),
        "turn": rows["turn"].tolist(),
        "attempt": rows["attempt"].tolist(),
        "connection": _told(rows["connection"]),
        "stream": rows["stream"].tolist(),
        "status": _named(rows["status"], Status),
        "http_status": [code or None for code in rows["http_status"].tolist()],
        "finish_reason": _named(rows["finish_reason"], Finish),
    }
    for name in STAMPS:
        columns[f"{name}_ms"] = _milliseconds(np.where(rows[name] >= 0, rows[name] - start, np.nan))
    for metric in METRICS:
        columns[f"{metric}_ms"] = _milliseconds(definitions.REQUEST_METRICS[metric](rows))
    for name in COUNTS:
        columns[name] = _told(rows[name])
    columns["output_source"] = _named(rows["output_source"], OutputSource)
    columns["flags"] = ["|".join(_flag_names(flags)) for flags in rows["flags"].tolist()]
    return columns


def _listed(names: Sequence[str], number: int) -> str:
    return names[number] if number < len(names) else str(number)


def _told(values: np.ndarray) -> list[int | None]:
    return [value if value >= 0 else None for value in values.tolist()]


def _milliseconds(values_ns: np.ndarray) -> list[float | None]:
    return [None if value != value else round(value / 1e6, 6) for value in values_ns.tolist()]


def _named(values: np.ndarray, names: type[IntEnum]) -> list[str | None]:
    known = {int(member): member.name for member in names}
    return [None if (name := known.get(value, str(value))) == "none" else name for value in values.tolist()]


def _flag_names(flags: int) -> list[str]:
    members: type[IntFlag] = Flag
    return [member.name for member in members if flags & member and member.name]


def _write_csv(found: Iterator[dict[str, Any]], out: IO[str]) -> int:
    writer = csv.writer(out, lineterminator="\r\n")  # RFC 4180
    count = 0
    for record in found:
        if count == 0:
            writer.writerow(record)
        writer.writerow([spreadsheet(value) if isinstance(value, str) else value for value in record.values()])
        count += 1
    return count


def _write_jsonl(found: Iterator[dict[str, Any]], out: IO[str]) -> int:
    count = 0
    for record in found:
        harmless = {key: plain(value) if isinstance(value, str) else value for key, value in record.items()}
        out.write(msgspec.json.encode(harmless).decode() + "\n")
        count += 1
    return count
