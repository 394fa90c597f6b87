"""Run directories made by hand: request rows with round times, events, raw segments as the recorder lays them out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from llmgen.columns import (
    EVENT_DTYPE,
    HISTOGRAM_DTYPE,
    RECORD_VERSION,
    REQUEST_DTYPE,
    SEGMENT_HEADER_BYTES,
    SEGMENT_HEADER_DTYPE,
    SEGMENT_MAGIC,
    TIMELINE_DTYPE,
    Finish,
    Kind,
    OutputSource,
    Status,
)

MS = 1_000_000
START = 5_000_000 * MS  # the common start: not 0, so that absolute and relative times cannot be mixed up unseen
DTYPES = {"requests": REQUEST_DTYPE, "events": EVENT_DTYPE, "timeline": TIMELINE_DTYPE, "histograms": HISTOGRAM_DTYPE}
STAMPS = REQUEST_DTYPE.names[:16]


def request_rows(
    count: int, *, every_ms: float = 100, ttft_ms: float = 50, gap_ms: float = 10, tokens: int = 5
) -> np.ndarray:
    """Successful requests, sent 1 ms after due on a fresh connection, `tokens` events `gap_ms` apart."""
    rows = np.zeros(count, REQUEST_DTYPE)
    for name in (*STAMPS, "first_token_user", "last_token_user"):
        rows[name] = -1
    rows["index"] = np.arange(count)
    rows["due"] = START + (rows["index"] * every_ms * MS).astype(np.int64)
    rows["dispatch"] = rows["due"] + 200_000
    rows["acquired"] = rows["connect_start"] = rows["dispatch"]
    rows["connected"] = rows["dispatch"] + 700_000
    rows["send"] = rows["due"] + MS
    rows["sent"] = rows["send"] + 10_000
    rows["first_token"] = rows["first_visible"] = rows["first_event"] = rows["send"] + int(ttft_ms * MS)
    rows["headers"] = rows["first_byte"] = rows["first_event"]
    rows["last_token"] = rows["first_token"] + int((tokens - 1) * gap_ms * MS)
    rows["end"] = rows["last_token"] + MS
    rows["max_gap"] = int(gap_ms * MS) if tokens > 1 else -1
    rows["session"] = -1
    rows["status"] = Status.ok
    rows["http_status"] = 200
    rows["finish_reason"] = Finish.stop
    rows["output_source"] = OutputSource.usage
    rows["planned_input"] = rows["input_tokens"] = 7
    rows["planned_output"] = rows["output_tokens"] = tokens
    rows["reasoning_tokens"] = rows["cached_tokens"] = -1
    rows["first_event_tokens"] = 1
    rows["events"] = rows["token_events"] = rows["reads"] = tokens
    return rows


def event_rows(rows: np.ndarray, *, gap_ms: float = 10) -> np.ndarray:
    """The token events of request_rows, in order of time; `request` counts the given rows."""
    counts = rows["token_events"].astype(np.int64)
    events = np.zeros(counts.sum(), EVENT_DTYPE)
    number = np.repeat(np.arange(len(rows)), counts)
    place = np.arange(len(events)) - np.repeat(np.cumsum(counts) - counts, counts)
    events["request"] = number
    events["t"] = rows["first_token"][number] + (place * gap_ms * MS).astype(np.int64)
    events["tokens"] = 1
    events["kind"] = Kind.text
    return events[np.argsort(events["t"], kind="stable")]


def never_sent(rows: np.ndarray) -> np.ndarray:
    """The same requests as if nobody had taken them up."""
    out = rows.copy()
    for name in (*STAMPS[1:], "first_token_user", "last_token_user"):
        out[name] = -1
    for name in ("input_tokens", "output_tokens", "first_event_tokens"):
        out[name] = -1
    for name in ("http_status", "finish_reason", "output_source", "events", "token_events", "reads"):
        out[name] = 0
    out["status"] = Status.never_sent
    return out


def write_segments(
    worker_dir: Path,
    stream: str,
    rows: np.ndarray,
    *,
    per_segment: int = 1000,
    committed: int | None = None,
    worker: int = 0,
) -> None:
    """Raw files of one stream; the last one may have only `committed` rows. A spare one follows, as in a crash."""
    worker_dir.mkdir(parents=True, exist_ok=True)
    pieces = [rows[at : at + per_segment] for at in range(0, len(rows), per_segment)] or [rows]
    for sequence, piece in enumerate([*pieces, rows[:0]]):
        header = np.zeros(1, SEGMENT_HEADER_DTYPE)
        header["magic"], header["version"], header["row_bytes"] = SEGMENT_MAGIC, RECORD_VERSION, rows.dtype.itemsize
        header["worker"], header["sequence"], header["first_row"] = worker, sequence, sequence * per_segment
        header["committed"] = committed if committed is not None and sequence == len(pieces) - 1 else len(piece)
        body = piece.tobytes() + bytes((per_segment - len(piece)) * rows.dtype.itemsize)
        head = header.tobytes()
        path = worker_dir / f"{stream}-{sequence:06d}.seg"
        path.write_bytes(head + bytes(SEGMENT_HEADER_BYTES - len(head)) + body)


def run_info(rows: int, *, every_ms: float = 100, **changes: Any) -> dict[str, Any]:
    """run.json of a complete run of `rows` requests, all of them in the window."""
    span = int(rows * every_ms * MS)
    info: dict[str, Any] = {
        "schema": "llmgen.run/1",
        "run_id": "r1",
        "name": "fabricated",
        "tags": {},
        "note": None,
        "state": "complete",
        "reasons": [],
        "config": {"record": "events", "slo": []},
        "classes": [{"name": "default", "slo": [], "stream": True}],
        "targets": [{"url": "http://127.0.0.1:1/v1/chat/completions"}],
        "workers": 1,
        "seed": 1,
        "start_ns": START,
        "end_ns": START + span + 1000 * MS,
        "start_realtime_ns": 1_790_000_000_000_000_000,
        "window": {"start_ns": START, "end_ns": START + span},
        "schedule": {"scheduled": rows, "span_ns": span, "arrival": "constant", "offered_rate": 1e3 / every_ms},
        "environment": {},
        "versions": {},
        "server": {},
        "clock": {"steps": 0, "steal_pct": 0.0},
        "workers_detail": [
            {
                "worker": 0,
                "cpu": 1,
                "cpu_s": 0.1,
                "peak_rss_mb": 50.0,
                "user_rss_mb": 5.0,
                "state": "finished",
                "exit": 0,
            }
        ],
    }
    return info | changes


def write_run(
    path: Path, rows: np.ndarray, events: np.ndarray | None, info: dict[str, Any], histograms: np.ndarray | None = None
) -> Path:
    """A merged run directory."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "run.json").write_text(json.dumps(info))
    np.save(path / "requests.npy", rows)
    if events is not None:
        np.save(path / "events.npy", events)
    np.save(path / "timeline.npy", np.zeros(0, TIMELINE_DTYPE))
    np.save(path / "histograms.npy", np.zeros(0, HISTOGRAM_DTYPE) if histograms is None else histograms)
    return path
