"""Azure LLM inference traces of 2023 (Splitwise, ISCA'24) and 2024 (DynamoLLM, HPCA'25): CSV, one request a row.

    TIMESTAMP,ContextTokens,GeneratedTokens
    2023-11-16 18:15:46.6805900,374,44               2023: CRLF, ticks of 100 ns, no newline at the end
    2024-05-12 00:00:00.001163+00:00,1024,120        2024: microseconds and a zone; the fraction is absent when it is 0

The file is read in blocks. A block whose stamps of one length look alike is decoded by columns (nearly all are); any
other row by row with the pattern below, which is also the one place that says what is wrong with a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from llmgen.errors import ConfigError
from llmgen.workload.traces.fields import digits
from llmgen.workload.traces.options import Options
from llmgen.workload.traces.rows import TraceBlock

HEADER: Final = b"TIMESTAMP,ContextTokens,GeneratedTokens"
READ_BYTES: Final = 1 << 20  # some 25,000 rows: enough to vectorise, a few MB of arrays
MAX_ROW_BYTES: Final = 4096  # a row is under 60 bytes; a longer one is no CSV of this kind
EXPECTED: Final = "YYYY-MM-DD HH:MM:SS[.fraction][zone],ContextTokens,GeneratedTokens with whole numbers of tokens"
MAX_TOKEN_DIGITS: Final = 7  # longer than any context there is; a body of ten million words is 55 MB
NS: Final = 1_000_000_000
DAY_NS: Final = 86_400 * NS
FIRST_YEAR: Final = 1970
LAST_YEAR: Final = 2199  # ns after 1970 fit into 64 bits
EPOCH: Final = date(1970, 1, 1).toordinal()

# Groups 1 to 8: year, month, day, hour, minute, second, fraction, zone; 9 and 10: input and output tokens.
_STAMP: Final = re.compile(rb"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?")
_ROW: Final = re.compile(_STAMP.pattern + rb",(\d{1,%d}),(\d{1,%d})" % (MAX_TOKEN_DIGITS, MAX_TOKEN_DIGITS))
MAX_STAMP_BYTES: Final = 35  # with nine digits of fraction and a zone

Ints = NDArray[np.int64]
Columns = tuple[Ints, Ints, Ints]  # time (ns after the epoch), input, output


class _Unlike(Exception):
    """A block that must be decoded row by row."""


@dataclass
class _Place:
    """How far the file is read, for the numbers in errors and for times after the first row."""

    path: Path
    rows: int = 0
    first_ns: int | None = None
    last_ns: int = field(default=-(1 << 62))

    def refuse(self, row: int, line: bytes, why: str) -> NoReturn:
        shown = line[:80].decode("ascii", "backslashreplace")
        raise ConfigError(f"{self.path}: row {row} (line {row + 1}) is {shown!r}: {why}; expected {EXPECTED}")


def read(path: Path, options: Options) -> Iterator[TraceBlock]:
    """Blocks of the trace in order. ConfigError naming the first row that is broken or out of order."""
    place = _Place(path)
    for text in _whole_lines(place):
        try:
            columns = _by_columns(text)
        except _Unlike:
            columns = _by_rows(text, place)
        yield _in_order(columns, text, place, options.sorts)
    if place.rows == 0:
        raise ConfigError(f"{path}: no rows behind the header; expected {EXPECTED}")


def _whole_lines(place: _Place) -> Iterator[bytes]:
    """The file behind its header in pieces that end with a newline; blank lines at the end are left out."""
    with place.path.open("rb") as file:
        header = file.readline(MAX_ROW_BYTES).removeprefix(b"\xef\xbb\xbf").strip()
        if header != HEADER:
            shown = header[:80].decode("ascii", "backslashreplace")
            raise ConfigError(f"{place.path}: the header is {shown!r}; an azure trace begins with {HEADER.decode()}")
        held = b""
        while data := file.read(READ_BYTES):
            held += data
            cut = held.rfind(b"\n") + 1
            if len(held) - cut > MAX_ROW_BYTES:
                row = place.rows + held.count(b"\n", 0, cut) + 1
                place.refuse(row, held[cut:], f"longer than {MAX_ROW_BYTES} bytes")
            # Newlines at the end are held back: only a row behind them tells whether they are blank lines amid rows.
            cut = len(held[:cut].rstrip(b"\r\n"))
            cut = held.find(b"\n", cut) + 1 if cut else 0
            if cut:
                yield held[:cut]
                held = held[cut:]
        held = held.rstrip(b"\r\n \t")
        if held:
            yield held + b"\n"


def _by_columns(text: bytes) -> Columns:
    """All rows at once, if all stamps of one length have one shape; _Unlike otherwise, also for anything broken."""
    data = np.frombuffer(text, np.uint8)
    end = np.flatnonzero(data == ord("\n"))
    start = np.concatenate([[0], end[:-1] + 1])
    comma = np.flatnonzero(data == ord(","))
    if len(comma) != 2 * len(end):
        raise _Unlike
    stop = end - (data[end - 1] == ord("\r"))
    first, second = comma[::2], comma[1::2]
    # With two commas to a line on the whole, these put two into every line.
    if np.any(first <= start) or np.any(second <= first) or np.any(stop <= second):
        raise _Unlike
    t_ns = np.empty(len(start), np.int64)
    sizes = first - start
    if int(sizes.max()) > MAX_STAMP_BYTES:
        raise _Unlike
    for size in np.flatnonzero(np.bincount(sizes)):
        rows = np.flatnonzero(sizes == size)
        begin = start[rows]
        t_ns[rows] = _stamps(data, begin, text[begin[0] : begin[0] + size])
    return t_ns, _whole(data, first + 1, second), _whole(data, second + 1, stop)


def _stamps(data: NDArray[np.uint8], start: Ints, sample: bytes) -> Ints:
    """Times of the stamps at `start`, which must differ from `sample`, the first, in digits only."""
    shape = _STAMP.fullmatch(sample)
    if shape is None:
        raise _Unlike
    zone_at = shape.start(8) if shape[8] else len(sample)
    columns = {}
    for at, byte in enumerate(sample):
        column = data[start + at]
        if at < zone_at and 48 <= byte <= 57:
            digit = column - np.uint8(48)  # wraps below "0", so that one comparison finds all that is no digit
            if np.any(digit > 9):
                raise _Unlike
            columns[at] = digit
        elif np.any(column != byte):
            raise _Unlike

    def number(group: int) -> Ints:
        value = np.zeros(len(start), np.int64)
        for at in range(*shape.span(group)):
            value = value * 10 + columns[at]
        return value

    hour, minute, second = number(4), number(5), number(6)
    if np.any(hour > 23) or np.any(minute > 59) or np.any(second > 59):
        raise _Unlike
    fraction = number(7) * 10 ** (9 - len(shape[7])) if shape[7] else 0
    days, which = np.unique(number(1) * 10000 + number(2) * 100 + number(3), return_inverse=True)
    day_ns = np.array([_day_ns(int(day)) for day in days], np.int64)[which]
    return day_ns + ((hour * 60 + minute) * 60 + second) * NS + fraction - _zone_ns(shape[8])


def _day_ns(yyyymmdd: int) -> int:
    if not FIRST_YEAR <= yyyymmdd // 10000 <= LAST_YEAR:
        raise _Unlike
    try:
        day = date(yyyymmdd // 10000, yyyymmdd // 100 % 100, yyyymmdd % 100)
    except ValueError:
        raise _Unlike from None
    return (day.toordinal() - EPOCH) * DAY_NS


def _zone_ns(zone: bytes | None) -> int:
    if not zone or zone == b"Z":
        return 0
    minutes = int(zone[1:3]) * 60 + int(zone[4:6])
    return (-minutes if zone[:1] == b"-" else minutes) * 60 * NS


def _whole(data: NDArray[np.uint8], start: Ints, stop: Ints) -> Ints:
    """The decimal numbers that lie in data[start:stop], 1 to MAX_TOKEN_DIGITS digits."""
    found = digits(data, start, stop, MAX_TOKEN_DIGITS)
    if found is None:
        raise _Unlike
    return found


def _by_rows(text: bytes, place: _Place) -> Columns:
    """Row by row, any mixture of shapes; names the first broken row."""
    times, inputs, outputs = [], [], []
    for row, whole_line in enumerate(text.split(b"\n")[:-1], place.rows + 1):
        line = whole_line.removesuffix(b"\r")
        match = _ROW.fullmatch(line)
        if match is None:
            place.refuse(row, line, "blank" if not line.strip() else "not of the form of a row")
        hour, minute, second = int(match[4]), int(match[5]), int(match[6])
        try:
            day_ns = _day_ns(int(match[1] + match[2] + match[3]))
        except _Unlike:
            place.refuse(row, line, f"no such day from {FIRST_YEAR} to {LAST_YEAR}")
        if hour > 23 or minute > 59 or second > 59:
            place.refuse(row, line, "no such time of day")
        fraction = int((match[7] or b"").ljust(9, b"0"))
        times.append(day_ns + ((hour * 60 + minute) * 60 + second) * NS + fraction - _zone_ns(match[8]))
        inputs.append(int(match[9]))
        outputs.append(int(match[10]))
    return np.array(times, np.int64), np.array(inputs, np.int64), np.array(outputs, np.int64)


def _in_order(columns: Columns, text: bytes, place: _Place, sorts: bool) -> TraceBlock:
    t_ns, inputs, outputs = columns
    if place.first_ns is None:
        place.first_ns = int(t_ns[0])
    back = np.flatnonzero(np.diff(t_ns, prepend=place.last_ns) < 0)
    if len(back) and not sorts:
        row = int(back[0])
        line = text.split(b"\n")[row].rstrip(b"\r")
        place.refuse(
            place.rows + row + 1, line, "earlier than the row before it; sort the file by TIMESTAMP, or use order: sort"
        )
    place.rows += len(t_ns)
    place.last_ns = int(t_ns[-1])
    return TraceBlock(t_ns - place.first_ns, inputs, outputs)
