"""The record schema: what one row of every file in a run directory means, for writers and readers alike.

The native structs in ``record.pxd`` have the same layout; ``tests/unit/test_columns.py`` compares the two.
Times are int64 ns on the run's monotonic clock; -1 means "did not happen". Counts that a server did not tell are -1.
"""

from __future__ import annotations

import enum
from typing import Final

import numpy as np

RECORD_VERSION: Final = 1


class Status(enum.IntEnum):
    """How a scheduled request ended; exactly one each (docs/contract.md, "Status names")."""

    ok = 0
    empty = 1
    rate_limited = 2
    http_4xx = 3
    http_5xx = 4
    http_other = 5
    server_timeout = 6
    dns_error = 7
    connect_refused = 8
    connect_timeout = 9
    connect_error = 10
    tls_error = 11
    reset = 12
    eof = 13
    first_token_timeout = 14
    idle_timeout = 15
    total_timeout = 16
    protocol_error = 17
    malformed_stream = 18
    stream_error = 19
    stream_cut = 20
    unprocessed = 21
    client_limit = 22
    abandoned = 23
    cancelled = 24
    never_sent = 25
    lost = 26
    in_flight = 255  # only in raw records; becomes `lost` when they are read after a crash


NOT_FAILED: Final = frozenset({Status.ok, Status.cancelled, Status.never_sent, Status.lost})


class Finish(enum.IntEnum):
    """finish_reason of the answer."""

    none = 0
    stop = 1
    length = 2
    tool_calls = 3
    content_filter = 4
    other = 5


class OutputSource(enum.IntEnum):
    """Where output_tokens comes from."""

    none = 0
    usage = 1
    ids = 2
    events = 3


class Flag(enum.IntFlag):
    """Bits of REQUEST_DTYPE's `flags`."""

    stale_resend = 1  # a reused connection died before any answer byte; sent once more on a fresh one
    user_stamped = 2  # at least one read had no kernel stamp
    coalesced_first = 4  # the first token's read brought further events of this stream
    tokens_assumed = 8  # output_tokens counts token events
    odd_content_type = 16  # streaming answer without a known content type, parsed as SSE
    reused = 32  # went out on a connection that had carried a request before
    whole_answer = 64  # the answer was one JSON document, not a stream
    resent = 128  # sent again after `unprocessed` or a retry
    done_seen = 256  # the end that the API promises ([DONE]) was seen
    truncated_event = 512  # an unfinished last event was dropped
    held_back = 1024  # a turn of a trace whose time came before the end of the answer it follows: due at that end


_TIMES = (
    "due", "dispatch", "acquired", "connect_start", "connected", "secured", "send", "sent",
    "headers", "first_byte", "first_event", "first_token", "first_visible", "last_token", "end", "max_gap",
)  # fmt: skip

REQUEST_DTYPE: Final = np.dtype(
    [
        *((name, "<i8") for name in _TIMES),
        ("index", "<i8"),
        ("klass", "<u2"),
        ("target", "<u2"),
        ("worker", "<u2"),
        ("turn", "<u2"),
        ("session", "<i4"),  # -1: none
        ("attempt", "u1"),
        ("status", "u1"),
        ("finish_reason", "u1"),
        ("output_source", "u1"),
        ("connection", "<i4"),  # -1: never had one
        ("stream", "<i4"),  # http2 stream id; 0 on http1
        ("planned_input", "<i4"),
        ("planned_output", "<i4"),
        ("input_tokens", "<i4"),
        ("output_tokens", "<i4"),
        ("reasoning_tokens", "<i4"),
        ("cached_tokens", "<i4"),
        ("first_event_tokens", "<i4"),
        ("events", "<u4"),
        ("bytes_in", "<u8"),
        ("flags", "<u4"),
        ("http_status", "<u2"),
        ("retransmits", "u1"),  # TCP_INFO at connect
        ("spare_byte", "u1"),
        ("token_events", "<u4"),
        ("reads", "<u4"),  # reads that brought at least one event
        ("first_token_user", "<i8"),  # user-space stamp of the read of first_token
        ("last_token_user", "<i8"),
        ("coalesced_events", "<u4"),  # events with a later event of this stream in the same read
        ("body_bytes", "<u4"),
        ("spare", "V16"),
    ]
)
assert REQUEST_DTYPE.itemsize == 256


class Kind(enum.IntFlag):
    """Bits of EVENT_DTYPE's `kind`: what an SSE event carries."""

    text = 1
    reasoning = 2
    tool = 4
    role = 8
    finish = 16
    usage = 32
    error = 64


TOKEN_KINDS: Final = Kind.text | Kind.reasoning | Kind.tool


class EventFlag(enum.IntFlag):
    """Bits of EVENT_DTYPE's `flags`."""

    coalesced = 1
    user_stamped = 2
    tokens_assumed = 4


EVENT_DTYPE: Final = np.dtype([("t", "<i8"), ("request", "<u4"), ("tokens", "<u2"), ("kind", "u1"), ("flags", "u1")])
assert EVENT_DTYPE.itemsize == 16

TIMELINE_DTYPE: Final = np.dtype(
    [
        ("second", "<i8"),  # since the common start
        ("offered", "<u4"),
        ("sent", "<u4"),
        ("in_flight", "<u4"),  # at the end of the second
        ("first_tokens", "<u4"),
        ("tokens", "<u4"),  # token events
        ("events", "<u4"),
        ("ended", "<u4"),
        ("errors", "<u4"),
        ("lag_max_ns", "<i8"),
        ("bytes_in", "<u8"),
        ("spare", "<u8"),
    ]
)
assert TIMELINE_DTYPE.itemsize == 64


class Histogram(enum.IntEnum):
    """Metrics of which the core keeps log-linear histograms at every level; values in ns."""

    ttft = 0  # first token - send, best stamp
    ttft_user = 1  # the same by user-space stamps
    gap = 2  # chunk gap
    gap_user = 3
    itl = 4  # token-weighted
    lag = 5  # dispatch - due
    drain_lag = 6  # user - kernel stamp of a read
    uncertainty = 7  # of a coalesced event: time since the previous read of its connection


# Buckets: octave = floor(log2(v / 1 us)), 64 linear steps in each octave: a bucket's middle is at most 1/128 off.
HISTOGRAM_STEPS: Final = 64
HISTOGRAM_OCTAVES: Final = 32
HISTOGRAM_BUCKETS: Final = HISTOGRAM_STEPS * HISTOGRAM_OCTAVES + 2  # first: under 1 us, last: over 2^32 us (71 min)

HISTOGRAM_DTYPE: Final = np.dtype(
    [("minute", "<u4"), ("klass", "<u2"), ("metric", "u1"), ("outside", "u1"), ("bucket", "<u4"), ("count", "<u4")]
)  # `outside`: 1 for requests whose due time lies outside of the measured window
assert HISTOGRAM_DTYPE.itemsize == 16


def bucket_bounds_ns() -> np.ndarray:
    """Lower bounds in ns of all buckets, float64 (HISTOGRAM_BUCKETS,): [0, 1000, ...]."""
    octave, step = np.divmod(np.arange(HISTOGRAM_STEPS * HISTOGRAM_OCTAVES), HISTOGRAM_STEPS)
    inner = 1000.0 * np.exp2(octave) * (1 + step / HISTOGRAM_STEPS)
    return np.concatenate([[0.0], inner, [1000.0 * 2.0**HISTOGRAM_OCTAVES]])


# Raw record files: worker-N/{requests,events,timeline,histograms}-NNNNNN.seg, SEGMENT_BYTES each.
SEGMENT_BYTES: Final = 4 << 20
SEGMENT_HEADER_BYTES: Final = 4096
SEGMENT_MAGIC: Final = b"LLMGREC1"
SEGMENT_HEADER_DTYPE: Final = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("row_bytes", "<u4"),
        ("worker", "<u4"),
        ("sequence", "<u4"),  # number of this segment in its stream
        ("first_row", "<u8"),  # rows before this segment in its stream
        ("committed", "<u8"),  # complete rows in this segment; stored after the row
    ]
)

# One cache-aligned block of counters a worker in the mapped file control.bin; only its worker writes it.
COUNTERS_DTYPE: Final = np.dtype(
    [
        ("heartbeat", "<i8"),  # monotonic ns
        ("state", "<u4"),  # see WorkerState
        ("pid", "<u4"),
        ("due", "<u8"),  # requests whose due time has passed, taken up or not
        ("dispatched", "<u8"),
        ("sent", "<u8"),
        ("ended", "<u8"),
        ("first_tokens", "<u8"),
        ("tokens", "<u8"),
        ("events", "<u8"),
        ("reads", "<u8"),
        ("bytes_in", "<u8"),
        ("in_flight", "<u8"),
        ("waiting", "<u8"),  # dispatched, without a connection or stream yet
        ("connections", "<u8"),
        ("cpu_ns", "<i8"),
        ("lag_max_ns", "<i8"),  # since the controller's last look is not tracked: of the whole run
        ("events_dropped", "<u8"),  # not recorded: disk full
        ("stale_resends", "<u8"),
        ("clock_steps", "<u8"),
        ("by_status", "<u8", (32,)),
        ("finished_at", "<i8"),
        ("denied", "<u8"),  # answers 401, 403 or 404
        ("passed_segments", "<u8"),  # segments of the plan that this worker has mapped and left behind
        ("spare", "V80"),
    ]
)
assert COUNTERS_DTYPE.itemsize == 512


class WorkerState(enum.IntEnum):
    starting = 0
    ready = 1
    running = 2
    draining = 3
    finished = 4
    failed = 5
    disk_full = 6
