"""Any CSV or JSON lines of one request a row: which column is what is a mapping, vidur and splitwise have theirs.

The columns: time, input, output (needed), session, class, model (if there). A column of numbers is a time in s unless
`unit` says otherwise; anything else must be a date and time like 2024-05-12 00:00:00.25+00:00.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

import numpy as np

from llmgen.decoding import closest
from llmgen.errors import ConfigError
from llmgen.workload.traces.fields import Fields, split
from llmgen.workload.traces.jsonlines import decoded, times_ns
from llmgen.workload.traces.lines import open_text, whole_lines
from llmgen.workload.traces.options import Options
from llmgen.workload.traces.rows import MAX_TIME_NS, MAX_TOKENS, NS, Ints, Labeller, Place, TraceBlock

NEEDED: Final = ("time", "input", "output")
COLUMNS: Final = (*NEEDED, "session", "class", "model")
# Columns as the simulators write them: microsoft/vidur (MLSys'24), Mutinifni/splitwise-sim (ISCA'24).
VIDUR: Final = {"time": "arrived_at", "input": "num_prefill_tokens", "output": "num_decode_tokens"}
SPLITWISE: Final = {"time": "arrival_timestamp", "input": "prompt_size", "output": "token_size"}
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Values = list[Any] | Fields  # of one column of a block
Table = dict[str, Values]  # our names → columns


def reader(defaults: Mapping[str, str]) -> Callable[[Path, Options], Iterator[TraceBlock]]:
    """A reader of files with these columns."""

    def read(path: Path, options: Options) -> Iterator[TraceBlock]:
        columns = {**defaults, **options.columns}
        for name in columns:
            if name not in COLUMNS:
                raise ConfigError(f"load.trace.columns: {name!r} is none of ours; {closest(name, COLUMNS)}")
        missing = [name for name in NEEDED if name not in columns]
        if missing:
            raise ConfigError(
                f"load.trace.columns: does not say which column holds {', '.join(missing)}; write "
                "columns: {time: …, input: …, output: …}"
            )
        return _blocks(path, options, columns)

    return read


def _blocks(path: Path, options: Options, columns: Mapping[str, str]) -> Iterator[TraceBlock]:
    place = Place(path, ", ".join(f"{theirs} ({ours})" for ours, theirs in columns.items()))
    labellers = {name: Labeller() for name in ("session", "class", "model") if name in columns}
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    tables = _json_tables if suffix in (".jsonl", ".json", ".ndjson") else _csv_tables
    for table, lines in tables(path, place, columns):
        t_ns = times(table["time"], options.unit_ns, lines, place)
        labels = {name: maker.labels(_texts(table[name])) for name, maker in labellers.items()}
        inputs, outputs = (_lengths(table[name], columns[name], lines, place) for name in ("input", "output"))
        yield TraceBlock(
            place.relative(t_ns, lines, sorted_later=options.sorts),
            inputs,
            outputs,
            klass=labels.get("class"),
            model=labels.get("model"),
            session=labels["session"].codes if "session" in labels else None,
        )
    if place.rows == 0:
        raise ConfigError(f"{path}: no rows; expected {place.expected}")


def _csv_tables(path: Path, place: Place, columns: Mapping[str, str]) -> Iterator[tuple[Table, list[bytes]]]:
    with open_text(path) as file:
        blocks = whole_lines(place, file)
        first = next(blocks, None)
        if first is None:
            return
        header = [name.strip() for name in first[0].removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").split(",")]
        header = [name.strip('"') for name in header]
        where = {}
        for ours, theirs in columns.items():
            if theirs not in header:
                raise ConfigError(f"{path}: no column {theirs!r} ({ours}) in its header; {closest(theirs, header)}")
            where[ours] = header.index(theirs)
        place.header_lines = 1
        del first[0]
        if first:
            yield _cut(first, len(header), where, place), first
        for lines in blocks:
            yield _cut(lines, len(header), where, place), lines


def _cut(lines: list[bytes], width: int, where: Mapping[str, int], place: Place) -> Table:
    """The named columns of a block of CSV rows; each line is a row of its own."""
    plain = split(lines, width)
    if plain is not None:
        return {ours: plain[at] for ours, at in where.items()}
    try:
        rows = list(csv.reader(b"\n".join(lines).decode("utf-8", "replace").split("\n"), strict=True))
    except csv.Error:
        rows = []
    if len(rows) != len(lines) or set(map(len, rows)) != {width}:
        for number, line in enumerate(lines, place.rows + 1):
            try:
                found = list(csv.reader([line.decode("utf-8", "replace")], strict=True))
            except csv.Error as error:
                place.refuse(number, line, f"no CSV: {error}")
            if not found or not line.strip():
                place.refuse(number, line, "blank")
            if len(found[0]) != width:
                place.refuse(number, line, f"{len(found[0])} columns instead of the header's {width}")
        place.refuse(place.rows + 1, lines[0], "no CSV of one row a line")
    columns = list(zip(*rows, strict=True))
    return {ours: list(columns[at]) for ours, at in where.items()}


def _json_tables(path: Path, place: Place, columns: Mapping[str, str]) -> Iterator[tuple[Table, list[bytes]]]:
    for rows, lines in decoded(path, dict[str, Any], place):
        for ours, theirs in columns.items():
            if ours in NEEDED and not all(theirs in row for row in rows):
                first = next(number for number, row in enumerate(rows) if theirs not in row)
                place.refuse(place.rows + first + 1, lines[first], f"has no {theirs!r}")
        yield {ours: [row.get(theirs) for row in rows] for ours, theirs in columns.items()}, lines


def _texts(values: Values) -> Iterable[str | None]:
    if isinstance(values, Fields):
        return values.texts()
    return (None if value in (None, "") else str(value) for value in values)


def _lengths(values: Values, name: str, lines: list[bytes], place: Place) -> Ints:
    """Whole numbers of tokens; 12.0 is one, too (columns that were written as floats)."""
    if isinstance(values, Fields):
        plain = values.tokens()
        if plain is not None:
            return plain
        values = values.texts()
    try:
        found = np.array([int(value) for value in values], np.int64)
        exact = {int, str}.issuperset(map(type, values))  # a float would have lost its fraction, true be 1
        if exact and found.min() >= 0 and found.max() <= MAX_TOKENS:
            return found
    except (ValueError, TypeError, OverflowError):
        pass
    lengths = []
    for row, value in enumerate(values):
        number = _number(value)
        if number is None or number != int(number) or not 0 <= number <= MAX_TOKENS:
            why = f"{name} {str(value)[:40]!r} is no whole number of tokens from 0 to {MAX_TOKENS}"
            place.refuse(place.rows + row + 1, lines[row], why)
        lengths.append(int(number))
    return np.array(lengths, np.int64)


def _number(value: Any) -> Decimal | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = Decimal(value.strip() if isinstance(value, str) else str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() and abs(number) < MAX_TIME_NS else None


def times(values: Values, unit_ns: int | None, lines: list[bytes], place: Place) -> Ints:
    """Times in ns, from numbers or from dates and times."""
    if isinstance(values, Fields):
        plain = values.times_ns(unit_ns or NS)
        if plain is not None:
            return plain
        values = values.texts()
    if set(map(type, values)) <= {int, float}:
        try:
            return times_ns(values, unit_ns or NS, lines, place)
        except OverflowError:
            pass  # the row is named below
    times = []
    for row, value in enumerate(values):
        number = _number(value)
        if number is not None and abs(number * (unit_ns or NS)) < MAX_TIME_NS:
            times.append(int((number * (unit_ns or NS)).to_integral_value()))
            continue
        moment = _moment(value) if isinstance(value, str) and number is None else None
        if moment is None:
            place.refuse(place.rows + row + 1, lines[row], _why_no_time(value))
        times.append(moment)
    return np.array(times, np.int64)


def _why_no_time(value: Any) -> str:
    try:
        float(str(value))
    except ValueError:
        return f"time {str(value)[:40]!r} is no number and no date with a time"
    return "no time that ns in 64 bits can hold"


def _moment(text: str) -> int | None:
    """ns after 1970 of an ISO 8601 date and time; without a zone it is UTC."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - EPOCH
    found = (since.days * 86_400 + since.seconds) * NS + since.microseconds * 1000
    return found if abs(found) < MAX_TIME_NS else None
