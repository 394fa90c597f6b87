"""A run directory, read and made: raw records of the workers -> requests.npy, events.npy, timeline.npy, histograms.npy.

`merge` is what the controller calls at the end of a run; `open_run` is what every reader calls. A run whose controller
died before merging is merged into unnamed temporary files and read from there; nothing in its directory is changed.
Layouts: columns.py. Memory is bounded: requests and events pass through in blocks, only an order of 8 bytes and a
number of 4 bytes for each request row are held.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import numpy as np

from llmgen.columns import (
    EVENT_DTYPE,
    HISTOGRAM_BUCKETS,
    HISTOGRAM_DTYPE,
    RECORD_VERSION,
    REQUEST_DTYPE,
    SEGMENT_HEADER_BYTES,
    SEGMENT_HEADER_DTYPE,
    SEGMENT_MAGIC,
    TIMELINE_DTYPE,
    Histogram,
    Status,
)
from llmgen.description import sound
from llmgen.errors import RecordError

RUN_SCHEMA: Final = "llmgen.run"
RUN_VERSION: Final = 1

BLOCK_ROWS: Final = 1 << 14  # request rows gathered at once: 4 MiB, the size of a segment
NEVER_SENT: Final = "never_sent.npy"  # rows of planned requests that no worker took up; there if merging failed
NO_ROW: Final = 0xFFFFFFFF  # of an event whose request is not in requests.npy; also the limit of EVENT_DTYPE's uint32


# -- reading a run ------------------------------------------------------------------------------------------------


class Run:
    """A run read from disk. Arrays are mapped read-only and only when asked for.

    `info` is run.json; `state` its state, `incomplete` for a run that was never finished. `notes` says in plain words
    what could not be read.
    """

    def __init__(self, path: Path, info: dict[str, Any], columns: Path | None = None) -> None:
        self.path = path
        self.info = info
        self.notes: list[str] = []
        self._columns = path if columns is None else columns

    @property
    def state(self) -> str:
        state = str(self.info.get("state", "incomplete"))
        return "incomplete" if state == "running" else state

    @property
    def crashed(self) -> bool:
        """True: the controller did not live to the end of the run, so requests it never sent have no row."""
        return self.info.get("state") == "running"

    @cached_property
    def requests(self) -> np.ndarray:
        """REQUEST_DTYPE, one row a scheduled request, sorted by index."""
        return self._read("requests.npy", REQUEST_DTYPE)

    @cached_property
    def events(self) -> np.ndarray | None:
        """EVENT_DTYPE, one row an SSE data event, in its worker's order; None at level `requests`."""
        if not (self._columns / "events.npy").exists():
            return None
        return self._read("events.npy", EVENT_DTYPE)

    @cached_property
    def timeline(self) -> np.ndarray:
        """TIMELINE_DTYPE, one row a second since the start."""
        return self._read("timeline.npy", TIMELINE_DTYPE, optional=True)

    @cached_property
    def histograms(self) -> np.ndarray:
        """HISTOGRAM_DTYPE, counts to be added up over equal keys."""
        return self._read("histograms.npy", HISTOGRAM_DTYPE, optional=True)

    def _read(self, name: str, dtype: np.dtype[Any], *, optional: bool = False) -> np.ndarray:
        path = self._columns / name
        if optional and not path.exists():
            return np.empty(0, dtype)
        rows, missing = map_npy(path, dtype)
        if missing:
            self.notes.append(f"{name} is cut short: {len(rows)} of {len(rows) + missing} rows are there")
        return rows

    def map_all(self) -> None:
        """Maps every array now, so that the files may be unlinked."""
        _ = self.requests, self.events, self.timeline, self.histograms


def open_run(path: str | os.PathLike[str]) -> Run:
    """The run in `path`, merged or raw.

    Raises RecordError when the directory is missing, is not a run's, is of a newer schema, or is damaged beyond use.
    """
    run_dir = Path(path)
    info, odd = _described(run_dir)
    if (run_dir / "requests.npy").exists():
        run = Run(run_dir, info)
        run.notes += odd
        return run
    if not _worker_dirs(run_dir):
        raise RecordError(f"{run_dir}: no records (neither requests.npy nor worker-*/); the run ended before its start")
    with contextlib.ExitStack() as stack:
        try:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llmgen-")))
            unsent = map_npy(run_dir / NEVER_SENT, REQUEST_DTYPE)[0] if (run_dir / NEVER_SENT).exists() else None
            merged = _merge_into(run_dir, scratch, info, unsent)
            for name in merged.files:
                (scratch / f".{name}.tmp").rename(scratch / name)
        except OSError as error:
            raise RecordError(f"{run_dir}: raw records cannot be merged for reading: {error}") from error
        run = Run(run_dir, info, scratch)
        run.notes += [*odd, *merged.text]
        run.map_all()
    return run


def read_info(run_dir: Path) -> dict[str, Any]:
    """run.json, checked for its schema; what is not of its kind in it is left out."""
    return _described(run_dir)[0]


def _described(run_dir: Path) -> tuple[dict[str, Any], list[str]]:
    """(run.json, what had to be left out of it)."""
    if not run_dir.is_dir():
        raise RecordError(f"{run_dir}: no such run directory")
    path = run_dir / "run.json"
    try:
        info = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        raise RecordError(f"{run_dir}: not a run directory (no run.json)") from None
    except (msgspec.DecodeError, UnicodeDecodeError, OSError) as error:
        raise RecordError(f"{path}: unreadable ({error})") from error
    if not isinstance(info, dict):
        raise RecordError(f"{path}: not a run description")
    check_schema(path, info.get("schema"), RUN_SCHEMA, RUN_VERSION)
    return sound(info)


def read_errors(run_dir: Path) -> list[dict[str, Any]]:
    """Lines of errors.jsonl ({status, http_status, index, target, text}); what is not a JSON object is left out."""
    found: list[dict[str, Any]] = []
    with contextlib.suppress(OSError):
        for line in (run_dir / "errors.jsonl").read_bytes().splitlines():
            with contextlib.suppress(msgspec.DecodeError):
                entry = msgspec.json.decode(line.decode(errors="replace"))
                if isinstance(entry, dict):
                    found.append(entry)
    return found


def check_schema(path: Path, schema: object, name: str, version: int) -> None:
    """Raises RecordError unless `schema` is ``name/N`` with N at most `version`."""
    match = re.fullmatch(re.escape(name) + r"/(\d+)", schema) if isinstance(schema, str) else None
    if match is None:
        raise RecordError(f"{path}: schema is {schema!r}, expected {name}/{version}")
    if int(match[1]) > version:
        raise RecordError(f"{path}: schema {schema} is of a newer llmgen; this one reads up to {name}/{version}")


def map_npy(path: Path, dtype: np.dtype[Any]) -> tuple[np.ndarray, int]:
    """Rows of a .npy file, mapped read-only, and how many of those its header tells are missing at its end."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, found = reader(file)
            offset = file.tell()
            there = (os.fstat(file.fileno()).st_size - offset) // dtype.itemsize
    except FileNotFoundError:
        raise RecordError(f"{path}: missing") from None
    except (ValueError, OSError, EOFError) as error:
        raise RecordError(f"{path}: damaged ({error})") from error
    if found != dtype or len(shape) != 1 or fortran:
        raise RecordError(f"{path}: rows are not those of this version of llmgen ({found.itemsize} bytes each)")
    count = min(shape[0], there)
    if count == 0:
        return np.empty(0, dtype), shape[0]
    return np.memmap(path, dtype, "r", offset, (count,)), shape[0] - count


# -- merging ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Segment:
    """One raw file: `count` committed rows, the first of which is number `first_row` of its worker's stream."""

    path: Path
    worker: int
    first_row: int
    count: int

    def rows(self, dtype: np.dtype[Any]) -> np.ndarray:
        """A copy of the rows."""
        return np.fromfile(self.path, dtype, self.count, offset=SEGMENT_HEADER_BYTES)


@dataclass(slots=True)
class Merged:
    """What a merge wrote (as .NAME.tmp), and what it has to say."""

    files: list[str]
    text: list[str]


def merge(run_dir: Path, run: dict[str, Any], unsent: np.ndarray | None = None) -> list[str]:
    """Makes the four .npy files of a run from its workers' raw records, which are removed once the files are safe.

    run: run.json; its record level decides whether an events.npy is made even if no event came.
    unsent: REQUEST_DTYPE rows (status never_sent) of planned requests; one that a worker has a row for is dropped.
    Rows still in flight become `lost`. Earlier attempts of a request go to attempts.npy, and their events are dropped.
    Returns what could not be read, in plain words.
    Raises OSError (disk full) with the raw records untouched, RecordError for records of a newer version.
    """
    notes: list[str] = []
    if not (run_dir / "requests.npy").exists():
        try:
            merged = _merge_into(run_dir, run_dir, run, unsent)
        except BaseException:
            for path in run_dir.glob(".*.npy.tmp"):
                path.unlink(missing_ok=True)
            raise
        # requests.npy comes last: readers take its presence for the sign that the set is whole
        for name in sorted(merged.files, key=lambda name: name == "requests.npy"):
            (run_dir / f".{name}.tmp").rename(run_dir / name)
        _sync(run_dir)
        notes = merged.text
    for directory in _worker_dirs(run_dir):
        shutil.rmtree(directory)
    return notes


def taken_up(run_dir: Path, count: int) -> np.ndarray:
    """Which of `count` requests, by index, a worker has a row for, bool (at least 1,)."""
    taken = np.zeros(max(count, 1), bool)
    for segment in _segments(run_dir, "requests", REQUEST_DTYPE, []):
        index = segment.rows(REQUEST_DTYPE)["index"]
        taken[index[(index >= 0) & (index < count)]] = True
    return taken


def _merge_into(run_dir: Path, target: Path, run: dict[str, Any], unsent: np.ndarray | None) -> Merged:
    """Writes target/.NAME.tmp of every file, synced."""
    merged = Merged([], [])
    requests = _segments(run_dir, "requests", REQUEST_DTYPE, merged.text)
    row_of = _merge_requests(target, requests, np.empty(0, REQUEST_DTYPE) if unsent is None else unsent, merged)
    events = _segments(run_dir, "events", EVENT_DTYPE, merged.text)
    if events or (run.get("config") or {}).get("record", "events") == "events":
        _merge_events(target, events, row_of, merged)
    timelines = [s.rows(TIMELINE_DTYPE) for s in _segments(run_dir, "timeline", TIMELINE_DTYPE, merged.text)]
    _write(target, "timeline.npy", TIMELINE_DTYPE, [merge_timelines(timelines)], merged)
    histograms = [s.rows(HISTOGRAM_DTYPE) for s in _segments(run_dir, "histograms", HISTOGRAM_DTYPE, merged.text)]
    for directory in _worker_dirs(run_dir):
        histograms.append(_unflushed(directory))
    _write(target, "histograms.npy", HISTOGRAM_DTYPE, histograms, merged)
    return merged


def _merge_requests(target: Path, segments: list[Segment], unsent: np.ndarray, merged: Merged) -> dict[int, np.ndarray]:
    """Writes requests.npy (and attempts.npy); returns for each worker the row in requests.npy of its n-th row."""
    index = np.empty(sum(s.count for s in segments) + len(unsent), np.int64)
    attempt = np.zeros(len(index), np.int16)
    starts = np.cumsum([0, *(s.count for s in segments)])
    for segment, start in zip(segments, starts[:-1], strict=True):
        rows = segment.rows(REQUEST_DTYPE)
        index[start : start + len(rows)] = rows["index"]
        attempt[start : start + len(rows)] = rows["attempt"]
    index[starts[-1] :] = unsent["index"]
    attempt[starts[-1] :] = -1  # a recorded row wins over one that only says it was never sent
    order = np.lexsort((attempt, index))
    last = np.append(np.diff(index[order]) != 0, True)[: len(order)]
    kept, earlier = order[last], order[~last]
    if len(kept) >= NO_ROW:
        raise RecordError(f"{len(kept)} requests in one run: more than an event's request number can tell")
    _write(target, "requests.npy", REQUEST_DTYPE, _gather(segments, starts, unsent, kept), merged)
    earlier = earlier[earlier < starts[-1]]
    if len(earlier):
        _write(target, "attempts.npy", REQUEST_DTYPE, _gather(segments, starts, unsent, earlier), merged)

    row = np.full(len(index), NO_ROW, np.uint32)
    row[kept] = np.arange(len(kept), dtype=np.uint32)
    row_of: dict[int, np.ndarray] = {}
    for worker in {s.worker for s in segments}:
        mine = [(s, start) for s, start in zip(segments, starts[:-1], strict=True) if s.worker == worker]
        row_of[worker] = np.full(max(s.first_row + s.count for s, _ in mine), NO_ROW, np.uint32)
        for segment, start in mine:
            row_of[worker][segment.first_row :][: segment.count] = row[start : start + segment.count]
    return row_of


def _gather(segments: list[Segment], starts: np.ndarray, unsent: np.ndarray, order: np.ndarray) -> Iterator[np.ndarray]:
    """Blocks of request rows in `order`, numbers that count through all segments and then `unsent`."""
    for at in range(0, len(order), BLOCK_ROWS):
        wanted = order[at : at + BLOCK_ROWS]
        block = np.empty(len(wanted), REQUEST_DTYPE)
        source = np.searchsorted(starts, wanted, side="right") - 1
        for number in np.unique(source):
            here = source == number
            if number == len(segments):
                block[here] = unsent[wanted[here] - starts[-1]]
                continue
            # mapped, not read: with many workers a block takes a few rows each from many segments
            segment = segments[number]
            rows = np.memmap(segment.path, REQUEST_DTYPE, "r", SEGMENT_HEADER_BYTES, (segment.count,))
            block[here] = rows[wanted[here] - starts[number]]
        block["status"][block["status"] == Status.in_flight] = Status.lost
        yield block


def _merge_events(target: Path, segments: list[Segment], row_of: dict[int, np.ndarray], merged: Merged) -> None:
    """Writes events.npy; events of rows that are not in requests.npy are left out."""

    def blocks() -> Iterator[np.ndarray]:
        for segment in segments:
            rows = segment.rows(EVENT_DTYPE)
            numbers = row_of.get(segment.worker, np.empty(0, np.uint32))
            known = rows["request"] < len(numbers)
            if not known.all():  # a hole in the worker's request rows, or a damaged file
                lost = np.count_nonzero(~known)
                merged.text.append(f"{segment.path.name} of worker {segment.worker}: {lost} events without a request")
                rows = rows[known]
            rows["request"] = numbers[rows["request"]]
            yield rows[rows["request"] != NO_ROW]

    _write(target, "events.npy", EVENT_DTYPE, blocks(), merged)


def merge_timelines(timelines: Iterable[np.ndarray]) -> np.ndarray:
    """One TIMELINE_DTYPE row a second, sorted; counts of the workers added, lag_max_ns their largest."""
    rows = np.concatenate([np.empty(0, TIMELINE_DTYPE), *timelines])
    seconds, at = np.unique(rows["second"], return_inverse=True)
    out = np.zeros(len(seconds), TIMELINE_DTYPE)
    out["second"] = seconds
    for name in ("offered", "sent", "in_flight", "first_tokens", "tokens", "events", "ended", "errors", "bytes_in"):
        np.add.at(out[name], at, rows[name])
    np.maximum.at(out["lag_max_ns"], at, rows["lag_max_ns"])
    return out


def _unflushed(worker_dir: Path) -> np.ndarray:
    """What a killed worker's histograms.live holds beyond its flushed rows, as rows of the minute it died in."""
    try:
        total = np.fromfile(worker_dir / "histograms.live", "<u4")
    except FileNotFoundError:
        return np.empty(0, HISTOGRAM_DTYPE)
    shape = (-1, 2, len(Histogram), HISTOGRAM_BUCKETS)  # class, outside, metric, bucket
    cells = 2 * len(Histogram) * HISTOGRAM_BUCKETS
    total = total[: len(total) // cells * cells].astype(np.int64).reshape(shape)
    minute = 0
    for segment in _segments(worker_dir.parent, "histograms", HISTOGRAM_DTYPE, [], worker_dir):
        rows = segment.rows(HISTOGRAM_DTYPE)
        rows = rows[rows["klass"] < len(total)]
        np.subtract.at(total, (rows["klass"], rows["outside"], rows["metric"], rows["bucket"]), rows["count"])
        minute = max(minute, int(rows["minute"].max(initial=0)) + 1)
    where = np.nonzero(total > 0)
    out = np.zeros(len(where[0]), HISTOGRAM_DTYPE)
    out["minute"] = minute
    out["klass"], out["outside"], out["metric"], out["bucket"] = where
    out["count"] = total[where]
    return out


def _worker_dirs(run_dir: Path) -> list[Path]:
    """The raw directories that are there, by worker number."""
    found = [(int(m[1]), p) for p in run_dir.iterdir() if (m := re.fullmatch(r"worker-(\d+)", p.name)) and p.is_dir()]
    return [path for _, path in sorted(found)]


def _segments(
    run_dir: Path, stream: str, dtype: np.dtype[Any], notes: list[str], only: Path | None = None
) -> list[Segment]:
    """Segments of `stream` with a committed row, by worker and number; what is damaged is left out and noted."""
    found: list[Segment] = []
    for directory in _worker_dirs(run_dir) if only is None else [only]:
        for path in sorted(directory.glob(f"{stream}-*.seg")):
            segment = _read_header(path, int(directory.name.removeprefix("worker-")), dtype, notes)
            if segment is not None:
                found.append(segment)
    return found


def _read_header(path: Path, worker: int, dtype: np.dtype[Any], notes: list[str]) -> Segment | None:
    header = np.fromfile(path, SEGMENT_HEADER_DTYPE, 1)
    if not len(header) or not header[0]["magic"]:
        return None  # its worker died while making it: no row was ever in it
    head = header[0]
    if head["magic"] == SEGMENT_MAGIC and head["version"] > RECORD_VERSION:
        raise RecordError(f"{path}: records of version {head['version']} were written by a newer llmgen")
    if head["magic"] != SEGMENT_MAGIC or head["row_bytes"] != dtype.itemsize:
        notes.append(f"{path.name} of worker {worker} is damaged; left out")
        return None
    there = (path.stat().st_size - SEGMENT_HEADER_BYTES) // dtype.itemsize
    if head["committed"] > there:
        notes.append(f"{path.name} of worker {worker} is cut short: {there} of {head['committed']} rows are there")
    count = min(int(head["committed"]), there)
    return Segment(path, worker, int(head["first_row"]), count) if count > 0 else None


def _write(target: Path, name: str, dtype: np.dtype[Any], blocks: Iterable[np.ndarray], merged: Merged) -> None:
    """Writes blocks of rows as target/.NAME.tmp, a .npy file whose count is put into its header at the end."""
    count = 0
    with (target / f".{name}.tmp").open("wb") as file:
        size = _write_header(file, dtype, 0)
        for block in blocks:
            file.write(np.ascontiguousarray(block).data)
            count += len(block)
        file.seek(0)
        if _write_header(file, dtype, count) != size:  # numpy leaves room for the digits of the count
            raise RecordError(f"{name}: numpy {np.__version__} does not pad its header")
        file.flush()
        os.fsync(file.fileno())
    merged.files.append(name)


def _write_header(file: IO[bytes], dtype: np.dtype[Any], count: int) -> int:
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_2_0(file, {"descr": descr, "fortran_order": False, "shape": (count,)})
    return file.tell()


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
