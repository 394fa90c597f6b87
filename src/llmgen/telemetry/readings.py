"""What telemetry says over time: gauges and counters of all sources together, histograms' differences, restarts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np

from llmgen.telemetry.families import EXPORTERS, SERIES, Over
from llmgen.telemetry.store import Source

STALE: Final = 4  # intervals without a reading after which a gauge's last value says nothing any more
SAME_START_S: Final = 1.0  # process_start_time_seconds of one process may jitter with its clock; a restart takes longer
# Counters that only a new process sets back, where no start time tells of it.
TELLTALES: Final = ("output_tokens", "prompt_tokens", "finished", "iterations", "preemptions", "cpu_time")


class Track(NamedTuple):
    """A series over time: t (n,) int64 ns of the run's clock, v (n,) float64, NaN: unknown then."""

    t: np.ndarray
    v: np.ndarray


class Mark(NamedTuple):
    """Something that happened. kind: restart | exporter_restart | unreachable | xid; until_ns: of what lasts."""

    kind: str
    t_ns: int
    source: int
    what: str
    until_ns: int | None = None


@dataclass(frozen=True)
class Readings:
    """All sources of a run."""

    sources: Sequence[Source]

    def __bool__(self) -> bool:
        return any(len(source.t) for source in self.sources)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """All keys, in the order of their first source."""
        return tuple(dict.fromkeys(key for source in self.sources for key in source.keys))

    def has(self, series: str) -> bool:
        return any(base(key) == series for key in self.keys)

    @cached_property
    def gpus(self) -> tuple[tuple[int, str], ...]:
        """(source, GPU) of every GPU that is told apart."""
        found = [
            (number, key.partition("[")[2].rstrip("]"))
            for number, source in enumerate(self.sources)
            for key in source.keys
            if "[" in key
        ]
        return tuple(dict.fromkeys(found))

    def gauge(self, series: str, gpu: tuple[int, str] | None = None) -> Track | None:
        """A gauge, of all sources and GPUs as the series says (sum, max, mean), or of one GPU. None: nobody has it."""
        tracks = []
        for number, source in enumerate(self.sources):
            if gpu is not None and gpu[0] != number:
                continue
            wanted = [key for key in source.keys if base(key) == series and _is_of(key, gpu)]
            if wanted and len(source.t):
                columns = np.stack([source.values[:, source.keys.index(key)] for key in wanted])
                tracks.append((Track(source.t, combine(columns, SERIES[series].over)), source.every_s))
        if not tracks:
            return None
        if len(tracks) == 1:
            return tracks[0][0]
        t = np.unique(np.concatenate([track.t for track, _ in tracks]))
        held = np.stack([_held(track, t, round(STALE * every_s * 1e9)) for track, every_s in tracks])
        return Track(t, combine(held, SERIES[series].over))

    def counter(self, key: str) -> Track | None:
        """A counter, or a part of a histogram, of all sources without resets: what came since the first reading."""
        tracks = []
        for number, source in enumerate(self.sources):
            for own in source.keys:
                if own.partition("[")[0] == key:
                    column = source.column(own)
                    assert column is not None
                    tracks.append(unwrapped(source.t, column, self.restarts[number]))
        tracks = [track for track in tracks if len(track.t)]
        if not tracks:
            return None
        if len(tracks) == 1:
            return tracks[0]
        t = np.unique(np.concatenate([track.t for track in tracks]))
        total = np.sum([np.interp(t, track.t, track.v) for track in tracks], axis=0)
        return Track(t, total)

    def increase(self, key: str, start_ns: int, end_ns: int) -> float | None:
        """What a counter rose by between two times: exact at readings, in between as if it rose evenly."""
        track = self.counter(key)
        if track is None or len(track.t) < 2:
            return None
        low, high = np.interp([start_ns, end_ns], track.t, track.v)
        return float(high - low)

    def mean(self, histogram: str, start_ns: int, end_ns: int) -> tuple[float, float] | None:
        """(n, mean) of what a histogram took up between two times, by its sum and count. None if n is 0 or unknown."""
        total = self.increase(f"{histogram}.sum", start_ns, end_ns)
        count = self.increase(f"{histogram}.count", start_ns, end_ns)
        if total is None or not count or count < 0.5:
            return None
        return count, total / count

    def buckets(self, histogram: str, start: str, end: str) -> tuple[np.ndarray, np.ndarray] | None:
        """(upper bounds, counts in each) between two edges, all sources together; None if one of them has no such edge.

        After a restart in between only what the new process counted is there. Sources with other bounds are left out.
        """
        total: tuple[np.ndarray, np.ndarray] | None = None
        for source in self.sources:
            told = source.buckets.get(end, {}).get(histogram)
            if told is None:
                continue
            bounds, counts = told
            before = source.buckets.get(start, {}).get(histogram)
            if before is None:
                return None
            if np.array_equal(before[0], bounds) and (counts >= before[1]).all():
                counts = counts - before[1]
            each = np.diff(counts, prepend=0.0)
            if total is None:
                total = bounds, each
            elif np.array_equal(total[0], bounds):
                total = bounds, total[1] + each
        return total

    # -- events -------------------------------------------------------------------------------------------------------

    @cached_property
    def restarts(self) -> tuple[np.ndarray, ...]:
        """Of each source: numbers of the readings that are the first of a new process."""
        return tuple(restarts(source) for source in self.sources)

    @cached_property
    def marks(self) -> tuple[Mark, ...]:
        """Restarts, times without an answer, and XIDs, by time."""
        found: list[Mark] = []
        for number, source in enumerate(self.sources):
            for at in self.restarts[number].tolist():
                kind = "exporter_restart" if source.family in EXPORTERS else "restart"
                found.append(Mark(kind, int(source.t[at]), number, f"{source.family or source.url} restarted"))
            found += _unreachable(number, source)
            for key in source.keys:
                if base(key) == "gpu_xid":
                    found += _xids(number, source, key)
        return tuple(sorted(found, key=lambda mark: mark.t_ns))


def base(key: str) -> str:
    """``gpu_util[0]`` → gpu_util, ``ttft.sum`` → ttft."""
    return key.partition("[")[0].partition(".")[0]


def _is_of(key: str, gpu: tuple[int, str] | None) -> bool:
    return gpu is None or key.endswith(f"[{gpu[1]}]")


def combine(columns: np.ndarray, over: Over) -> np.ndarray:
    """(k, n) → (n,), leaving out NaN; NaN where all are."""
    there = ~np.isnan(columns)
    count = there.sum(axis=0)
    if over in ("sum", "mean"):
        total = np.where(there, columns, 0.0).sum(axis=0)
        value = total / np.maximum(count, 1) if over == "mean" else total
    elif over == "max":
        value = np.where(there, columns, -np.inf).max(axis=0)
    else:
        value = np.where(there, columns, np.inf).min(axis=0)
    found: np.ndarray = np.where(count > 0, value, np.nan)
    return found


def _held(track: Track, t: np.ndarray, stale_ns: int) -> np.ndarray:
    """The last value at each time; NaN before the first and when it is too old."""
    at = np.searchsorted(track.t, t, side="right") - 1
    value = track.v[np.maximum(at, 0)]
    old = (at < 0) | (t - track.t[np.maximum(at, 0)] > stale_ns)
    return np.where(old, np.nan, value)


def unwrapped(t: np.ndarray, v: np.ndarray, restarted: np.ndarray) -> Track:
    """A counter without resets, from 0: where it falls, or its process is new, its value is what was added since.

    Absent is not 0: readings before a counter was first there are unknown, and so is what it counted until then. One
    that appears later in a running process begins at 0: libraries make a labelled counter when they first add to it.
    """
    there = np.flatnonzero(~np.isnan(v))
    if not len(there):
        return Track(t[:0], v[:0])
    values = v[there]
    first = int(there[0])
    new = np.zeros(len(there), bool)
    for at in restarted.tolist():
        after = int(np.searchsorted(there, at))
        if 0 < after < len(there):
            new[after] = True
    steps = np.diff(values)
    steps = np.where((steps < 0) | new[1:], values[1:], steps)
    total = np.concatenate([[0.0], np.cumsum(steps)])
    times = t[there]
    if first > 0:
        return Track(np.concatenate([t[first - 1 : first], times]), np.concatenate([[0.0], total + values[0]]))
    return Track(times, total)


def restarts(source: Source) -> np.ndarray:
    """Numbers of the readings that are the first of a new process: by its start time, else by counters that fell."""
    started = source.column("start_time")
    if started is not None and not np.isnan(started).all():
        there = np.flatnonzero(~np.isnan(started))
        found: np.ndarray = there[1:][np.diff(started[there]) > SAME_START_S]
        return found
    fell = np.zeros(len(source.t), bool)
    for key in source.keys:
        if base(key) not in TELLTALES and not key.endswith(".count"):
            continue
        column = source.column(key)
        assert column is not None
        there = np.flatnonzero(~np.isnan(column))
        fell[there[1:][np.diff(column[there]) < 0]] = True
    return np.flatnonzero(fell)


def _unreachable(number: int, source: Source) -> list[Mark]:
    """Failed scrapes in a row are one time; the last may have no end."""
    found: list[Mark] = []
    for t, why in source.failed:
        after = int(np.searchsorted(source.t, t))
        until = int(source.t[after]) if after < len(source.t) else None
        if found and found[-1].until_ns == until:
            continue
        found.append(Mark("unreachable", int(t), number, f"{source.url}: {why}", until))
    return found


def _xids(number: int, source: Source, key: str) -> list[Mark]:
    """An XID's gauge holds the last one: what it held at the start is older than the run, a change is a new one."""
    column = source.column(key)
    assert column is not None
    there = np.flatnonzero(~np.isnan(column))
    values = column[there]
    gpu = key.partition("[")[2].rstrip("]")
    changed = np.flatnonzero(np.diff(values) != 0) + 1
    # NVML tells an XID only once it has come: absent before is none
    if len(there) and there[0] > 0 and values[0]:
        changed = np.concatenate([[0], changed])
    return [
        Mark("xid", int(source.t[there[at]]), number, f"XID {values[at]:.0f} on GPU {gpu or '?'}")
        for at in changed.tolist()
        if values[at]
    ]
