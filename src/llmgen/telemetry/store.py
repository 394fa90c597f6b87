"""Telemetry on disk: telemetry.jsonl while the run lasts, telemetry.npz once it is over (docs/contract.md).

Lines of telemetry.jsonl, each complete in itself or refused when read (the last one of a crashed run):

    {"source": 0, "url": "http://…/metrics", "every_s": 0.5}     first
    {"source": 0, "keys": ["running", "ttft.sum", …], "family": "vllm"}   whenever what a source tells changes
    {"source": 0, "t": 123, "took": 4, "v": [3, 0.12, null, …]}  a scrape: ns of the run's clock, of keys in their order
    {…, "edges": ["window_start"], "buckets": {"ttft": [[0.1, 3], …]}}   at an edge; +Inf is null
    {"source": 0, "t": 123, "took": 4, "error": "no answer in time"}

telemetry.npz holds the same as arrays: `meta` (JSON, uint8), and for source i `si_t`, `si_took` (int64 ns, (scrapes,)),
`si_v` (float64, (scrapes, keys), NaN: absent), `si_failed_t` (int64).
"""

from __future__ import annotations

import os
import threading
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from llmgen.errors import RecordError
from llmgen.telemetry.prometheus import Reading

LIVE: Final = "telemetry.jsonl"
FINAL: Final = "telemetry.npz"
VERSION: Final = 1
DAMAGE: Final = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(slots=True)
class Source:
    """What one source said: t, took (n,) int64 ns; values (n, len(keys)) float64, NaN where it was absent.

    edges: edge → number of its scrape. buckets: edge → histogram → (upper bounds, cumulative counts), the last bound
    inf. failed: (t, why) of scrapes that brought nothing.
    """

    url: str
    every_s: float
    family: str | None = None
    keys: list[str] = field(default_factory=list)
    t: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    took: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    values: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    edges: dict[str, int] = field(default_factory=dict)
    buckets: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict)
    failed: list[tuple[int, str]] = field(default_factory=list)

    def column(self, key: str) -> np.ndarray | None:
        """(n,) float64 of a key, NaN where absent; None if it never was there."""
        if key not in self.keys:
            return None
        column: np.ndarray = self.values[:, self.keys.index(key)]
        return column


class Writer:
    """Appends to telemetry.jsonl, a whole line a write; threads may share one. A full disk ends it without a word."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / LIVE
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._lock = threading.Lock()
        self._keys: dict[int, tuple[str, ...]] = {}
        self.full: OSError | None = None

    def source(self, number: int, url: str, every_s: float) -> None:
        self._line({"source": number, "url": url, "every_s": every_s})

    def reading(self, number: int, t_ns: int, took_ns: int, reading: Reading, edges: Sequence[str] = ()) -> None:
        keys = tuple(reading.values)
        if self._keys.get(number) != keys:
            self._keys[number] = keys
            self._line({"source": number, "keys": list(keys), "family": reading.family})
        line: dict[str, Any] = {"source": number, "t": t_ns, "took": took_ns}
        line["v"] = [_short(value) for value in reading.values.values()]
        if edges:
            line["edges"] = edges
            line["buckets"] = {
                name: [[None if np.isinf(bound) else bound, _short(count)] for bound, count in steps.items()]
                for name, steps in reading.buckets.items()
            }
        self._line(line)

    def failure(self, number: int, t_ns: int, took_ns: int, why: str) -> None:
        self._line({"source": number, "t": t_ns, "took": took_ns, "error": why})

    def _line(self, line: dict[str, Any]) -> None:
        data = msgspec.json.encode(line) + b"\n"
        with self._lock:
            if self.full is not None or self._descriptor < 0:
                return
            try:
                if os.write(self._descriptor, data) != len(data):
                    os.write(self._descriptor, b"\n")  # what is cut is a line that no reader takes
            except OSError as error:
                self.full = error

    def close(self) -> None:
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1


def _short(value: float) -> float | int:
    """A whole number without its ".0": half of all values are."""
    return int(value) if value == int(value) and abs(value) < 1 << 53 else value


# -- reading ------------------------------------------------------------------------------------------------------


def read(directory: Path) -> list[Source]:
    """What a run directory has of telemetry: empty without any. RecordError if it is damaged or of a newer llmgen."""
    if (directory / FINAL).exists():
        return _read_final(directory / FINAL)
    if (directory / LIVE).exists():
        return _read_live(directory / LIVE)
    return []


class _Rows:
    def __init__(self) -> None:
        self.keys: dict[str, int] = {}
        self.order: list[int] = []
        self.t: list[int] = []
        self.took: list[int] = []
        self.rows: list[tuple[list[int], np.ndarray]] = []


def _read_live(path: Path) -> list[Source]:
    sources: dict[int, Source] = {}
    rows: dict[int, _Rows] = {}
    try:
        with path.open("rb") as file:
            for raw in file:
                try:
                    line = msgspec.json.decode(raw)
                    _take(line, sources, rows)
                except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError):
                    continue  # the last line of a crashed run, or one that a full disk cut
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}") from error
    for number, source in sources.items():
        own = rows[number]
        source.keys = list(own.keys)
        source.t, source.took = np.array(own.t, np.int64), np.array(own.took, np.int64)
        source.values = np.full((len(own.rows), len(own.keys)), np.nan)
        for at, (order, values) in enumerate(own.rows):
            source.values[at, order] = values
    return [sources[number] for number in sorted(sources)]


def _take(line: dict[str, Any], sources: dict[int, Source], rows: dict[int, _Rows]) -> None:
    number = line["source"]
    if "url" in line:
        sources[number] = Source(line["url"], line["every_s"])
        rows[number] = _Rows()
        return
    source, own = sources[number], rows[number]
    if "keys" in line:
        source.family = source.family or line["family"]
        own.order = [own.keys.setdefault(key, len(own.keys)) for key in line["keys"]]
    elif "error" in line:
        source.failed.append((line["t"], line["error"]))
    else:
        if len(line["v"]) != len(own.order):
            raise ValueError("values of other keys")
        values = np.array([np.nan if value is None else value for value in line["v"]], np.float64)
        if len(values) != len(own.order):
            raise ValueError("a value is missing")
        for edge in line.get("edges", ()):
            source.edges[edge] = len(own.rows)
            source.buckets[edge] = {name: _steps(steps) for name, steps in line["buckets"].items()}
        own.t.append(line["t"])
        own.took.append(line["took"])
        own.rows.append((own.order, values))


def _steps(steps: list[list[float | None]]) -> tuple[np.ndarray, np.ndarray]:
    bounds = np.array([np.inf if bound is None else bound for bound, _ in steps], np.float64)
    return bounds, np.array([count for _, count in steps], np.float64)


def _read_final(path: Path) -> list[Source]:
    try:
        with path.open("rb") as opened, zipfile.ZipFile(opened):
            pass  # numpy leaves a file open that is no archive
        with np.load(path, allow_pickle=False) as file:
            meta = msgspec.json.decode(file["meta"].tobytes())
            if meta["version"] > VERSION:
                raise RecordError(f"{path}: version {meta['version']} was written by a newer llmgen")
            found = []
            for number, one in enumerate(meta["sources"]):
                source = Source(one["url"], one["every_s"], one["family"], one["keys"])
                source.t, source.took = file[f"s{number}_t"], file[f"s{number}_took"]
                source.values = file[f"s{number}_v"]
                source.edges = one["edges"]
                source.buckets = {
                    edge: {name: _steps(steps) for name, steps in told.items()} for edge, told in one["buckets"].items()
                }
                source.failed = list(zip(file[f"s{number}_failed_t"].tolist(), one["failed"], strict=True))
                found.append(source)
            return found
    except DAMAGE as error:
        raise RecordError(f"{path}: damaged ({error})") from error


def finish(directory: Path) -> None:
    """telemetry.jsonl → telemetry.npz, atomically; the lines go once the file is safe. OSError on a full disk."""
    live = directory / LIVE
    if not live.exists():
        return
    sources = _read_live(live)
    meta: dict[str, Any] = {"version": VERSION, "sources": []}
    arrays: dict[str, np.ndarray] = {}
    for number, source in enumerate(sources):
        meta["sources"].append(
            {
                "url": source.url,
                "every_s": source.every_s,
                "family": source.family,
                "keys": source.keys,
                "edges": source.edges,
                "buckets": {
                    edge: {name: _told(steps) for name, steps in told.items()} for edge, told in source.buckets.items()
                },
                "failed": [why for _, why in source.failed],
            }
        )
        arrays[f"s{number}_t"], arrays[f"s{number}_took"] = source.t, source.took
        arrays[f"s{number}_v"] = source.values
        arrays[f"s{number}_failed_t"] = np.array([t for t, _ in source.failed], np.int64)
    arrays["meta"] = np.frombuffer(msgspec.json.encode(meta), np.uint8)
    part = directory / f".{FINAL}.tmp"
    try:
        with part.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        part.replace(directory / FINAL)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    live.unlink()


def _told(steps: tuple[np.ndarray, np.ndarray]) -> list[list[float | None]]:
    bounds, counts = steps
    return [
        [None if np.isinf(bound) else bound, count]
        for bound, count in zip(bounds.tolist(), counts.tolist(), strict=True)
    ]
