"""One definition for each metric, computed from the recorded stamps: one pure, vectorised function a metric.

Stamps of a request, in order: `due` plan · `dispatch` the pacer took it up · `acquired` a permitted connection or
stream was granted · `connect_start, connected, secured` TCP and TLS, if it had to connect · `send` just before the
first byte's syscall · `sent` last body byte handed to the kernel · `headers` · `first_byte` of the body ·
`first_event` · `first_token` · `first_visible` · `last_token` · `end` last byte of the answer.

A *token event* is an event (of a stream; a line of NDJSON) that carries generated content: visible text, reasoning text
or a tool-call delta. Role-only, empty, usage-only, finish-only and comment events and `[DONE]` are not.

*Coalescing.* Events that one read brought have one time; only the last of them is exact. The uncertainty of the others
is the time since the connection's read before, and its distribution is told. Coalescing at low drain lag is the
server's or a proxy's batching, and never a reason against the run.

Functions of requests take `Requests` (or any mapping from column name to array of n rows) and return float64 ns of n
rows, NaN where the request has no such value. Stamps that did not happen are -1 (columns.py). Functions of events take
all events of a run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from llmgen.columns import NOT_FAILED, TOKEN_KINDS, Flag, OutputSource, Status


class Columns(Protocol):
    def __getitem__(self, name: str, /) -> np.ndarray: ...


# Columns that every summary reads, and how many rows are taken apart at a time: 1 MiB, which a core's cache holds.
_COMMON: Final = (
    "due", "dispatch", "acquired", "connect_start", "connected", "secured", "send", "first_token", "first_visible",
    "last_token", "end", "max_gap", "klass", "target", "session", "status", "http_status", "finish_reason",
    "output_source", "planned_input", "planned_output", "input_tokens", "output_tokens", "reasoning_tokens",
    "cached_tokens", "first_event_tokens", "token_events", "events", "reads", "coalesced_events", "flags",
)  # fmt: skip
_BLOCK_ROWS: Final = 4096


class Requests:
    """REQUEST_DTYPE rows as contiguous columns: a row of 256 bytes is four cache lines, so they are read only once."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows
        names = [name for name in _COMMON if name in (rows.dtype.names or ())]
        self._columns: dict[str, np.ndarray] = {name: np.empty(len(rows), rows.dtype[name]) for name in names}
        for at in range(0, len(rows), _BLOCK_ROWS):
            block = np.ascontiguousarray(rows[at : at + _BLOCK_ROWS])
            for name, column in self._columns.items():
                column[at : at + _BLOCK_ROWS] = block[name]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, name: str, /) -> np.ndarray:
        if name not in self._columns:
            self._columns[name] = np.ascontiguousarray(self._rows[name])
        return self._columns[name]


def _from_to(r: Columns, earlier: str, later: str) -> np.ndarray:
    a, b = r[earlier], r[later]
    return np.where((a >= 0) & (b >= 0), (b - a).astype(np.float64), np.nan)


def _only(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.where(where, values, np.nan)


def _quotient(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> np.ndarray:
    out = np.full(len(a), np.nan)
    np.divide(a, b, out=out, where=where)
    return out


def succeeded(r: Columns) -> np.ndarray:
    """Requests that ended as their API promises: status ok, bool."""
    ok: np.ndarray = r["status"] == Status.ok
    return ok


def failed(r: Columns) -> np.ndarray:
    """Requests that failed: every status but ok, cancelled, never_sent and lost; bool."""
    table = np.ones(256, bool)
    table[[int(status) for status in NOT_FAILED]] = False
    found: np.ndarray = table[r["status"]]
    return found


def _streamed(r: Columns) -> np.ndarray:
    streamed: np.ndarray = (r["flags"] & Flag.whole_answer) == 0
    return streamed


# -- our own part -------------------------------------------------------------------------------------------------


def schedule_lag(r: Columns) -> np.ndarray:
    """dispatch − due: how late the pacer took the request up. Ours alone; the verdict uses it.

    None for a further attempt: its row keeps the due time of the first, and the wait between them was asked for.
    """
    return np.where(r["attempt"] == 0, _from_to(r, "due", "dispatch"), np.nan)


def hand_over_lag(r: Columns) -> np.ndarray:
    """send − max(acquired, connected, secured): from a usable connection to the first byte's syscall. Ours alone."""
    ready = np.maximum(np.maximum(r["acquired"], r["connected"]), r["secured"])
    return np.where((ready >= 0) & (r["send"] >= 0), (r["send"] - ready).astype(np.float64), np.nan)


def queue(r: Columns) -> np.ndarray:
    """acquired − dispatch: waiting for a permitted connection or stream."""
    return _from_to(r, "dispatch", "acquired")


def connect(r: Columns) -> np.ndarray:
    """connected − connect_start: TCP, of the requests that had to connect; names are resolved before the start."""
    return _from_to(r, "connect_start", "connected")


def tls(r: Columns) -> np.ndarray:
    """secured − connected: TLS and, on HTTP/2, the peer's SETTINGS, of the requests that had to connect."""
    return _only(_from_to(r, "connected", "secured"), r["secured"] > r["connected"])


def send_lag(r: Columns) -> np.ndarray:
    """send − due: schedule lag, queue, connect and TLS together."""
    return _from_to(r, "due", "send")


# -- the server's part --------------------------------------------------------------------------------------------


def ttft(r: Columns) -> np.ndarray:
    """TTFT: first_token − send, first token event of any kind. None for whole answers."""
    return _only(_from_to(r, "send", "first_token"), _streamed(r))


def ttft_from_due(r: Columns) -> np.ndarray:
    """TTFT from due: first_token − due. Free of coordinated omission; the headline in open loop."""
    return _only(_from_to(r, "due", "first_token"), _streamed(r))


def ttfo(r: Columns) -> np.ndarray:
    """TTFO: first_visible − send, first visible text, after reasoning. None for whole answers."""
    return _only(_from_to(r, "send", "first_visible"), _streamed(r))


def tpot(r: Columns) -> np.ndarray:
    """TPOT: (last_token − first_token) / (n_out − n_first) of a successful request.

    n_first: tokens of the first token event, 1 if unknown. None if the divisor is not positive. Reasoning that is
    billed but not streamed (the first token was visible text, yet usage counts reasoning) is left out of n_out.
    """
    n_out = r["output_tokens"].astype(np.int64)
    reasoning = r["reasoning_tokens"].astype(np.int64)
    hidden = (r["output_source"] == OutputSource.usage) & (reasoning > 0) & (r["first_token"] == r["first_visible"])
    n_out = np.where(hidden, n_out - reasoning, n_out)
    divisor = n_out - np.maximum(r["first_event_tokens"], 1)
    span = _from_to(r, "first_token", "last_token")
    return _quotient(span, divisor, (divisor > 0) & succeeded(r) & _streamed(r))


def e2e(r: Columns) -> np.ndarray:
    """E2E: end − send, last byte of the answer, of a successful request."""
    return _only(_from_to(r, "send", "end"), succeeded(r))


def e2e_from_due(r: Columns) -> np.ndarray:
    """E2E from due: end − due, of a successful request."""
    return _only(_from_to(r, "due", "end"), succeeded(r))


def normalised(r: Columns) -> np.ndarray:
    """Normalised latency: E2E / n_out, of a successful request with tokens."""
    span = e2e(r)
    n_out = r["output_tokens"]
    return _quotient(span, n_out, n_out > 0)


def stall(r: Columns) -> np.ndarray:
    """Stall: largest chunk gap of a request; none with fewer than two reads of tokens."""
    return np.where(r["max_gap"] >= 0, r["max_gap"].astype(np.float64), np.nan)


# Names as in summary.json (there with `_ms`) and in SLOs.
REQUEST_METRICS: Final[dict[str, Callable[[Columns], np.ndarray]]] = {
    "ttft": ttft,
    "ttft_from_due": ttft_from_due,
    "ttfo": ttfo,
    "tpot": tpot,
    "stall": stall,
    "e2e": e2e,
    "e2e_from_due": e2e_from_due,
    "normalised": normalised,
    "queue": queue,
    "connect": connect,
    "tls": tls,
}
TOKEN_METRICS: Final = ("itl", "chunk_gap")  # pooled over tokens and gaps, not one a request
STREAM_METRICS: Final = frozenset({"ttft", "ttft_from_due", "ttfo", "tpot", "stall", *TOKEN_METRICS})


# -- gaps between tokens ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gaps:
    """Chunk gaps of a run, by request and time; all (m,).

    ns: uint32, or int64 if one is longer than 4 s; tokens: int64, k, at least 0; request: uint32.
    one_token_each: every gap carries exactly one token, so that its ITL are the gaps themselves.
    """

    ns: np.ndarray
    tokens: np.ndarray
    request: np.ndarray
    one_token_each: bool
    each: np.ndarray  # (requests,) int64: gaps of each request


def chunk_gaps(t: np.ndarray, request: np.ndarray, tokens: np.ndarray, start: np.ndarray) -> Gaps:
    """Chunk gap: last token event of the stream in one read → last token event of the stream in its next read.

    A gap carries the tokens of all events after the first of the two, which are those of the later read; events that
    came in one read get no invented spacing; reads of a request with equal stamps are one.

    t: ns int64, request: row uint32, tokens: uint16 of every token event, in any order; start: (requests,) int64, a
    stamp of each request that is no later than its events (only for speed).
    """
    t, request, k = by_request_and_time(t, request, tokens, start)
    if not len(t):
        return Gaps(t, t, request, False, np.zeros(len(start), np.int64))
    same_request = request[1:] == request[:-1]
    same_read = same_request & (t[1:] == t[:-1])
    if same_read.any():
        last = np.append(~same_read, True)
        carried = np.diff(np.cumsum(k if k is not None else np.ones(len(t), np.int64))[last], prepend=0)
        t, request = t[last], request[last]
        same_request = request[1:] == request[:-1]
    else:
        carried = k
    ns = np.diff(t)[same_request]
    if len(ns) and ns.max() < 1 << 32:
        ns = ns.astype(np.uint32)  # half the memory, twice the speed of a sort
    of = request[1:][same_request]
    reads = np.bincount(request, minlength=len(start))
    each = reads - (reads > 0)
    if carried is None:
        return Gaps(ns, np.broadcast_to(np.int64(1), len(ns)), of, True, each)
    return Gaps(ns, carried[1:][same_request], of, False, each)


def by_request_and_time(
    t: np.ndarray, request: np.ndarray, tokens: np.ndarray, start: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Events sorted by (request, t); tokens are None if every event carries one.

    One sort of 64-bit keys (request, time since the request's start, tokens) is about five times as fast as a stable
    argsort and three gathers; where the bits do not suffice, it is a lexsort.
    """
    if not len(t):
        return t, request, None
    single = bool((tokens == 1).all())
    since = t - start[request]
    token_bits = 0 if single else int(tokens.max()).bit_length()
    time_bits = int(since.max()).bit_length()
    request_bits = max(1, (len(start) - 1).bit_length())
    if since.min() < 0 or request_bits + time_bits + token_bits > 64:
        order = np.lexsort((t, request))
        return t[order], request[order], None if single else tokens[order].astype(np.int64)
    key = request.astype(np.uint64)
    key <<= np.uint64(time_bits)
    key |= since.view(np.uint64)
    del since
    if token_bits:
        key <<= np.uint64(token_bits)
        key |= tokens.astype(np.uint64)
    key.sort()
    carried = None if single else (key & np.uint64((1 << token_bits) - 1)).astype(np.int64)
    key >>= np.uint64(token_bits)
    row = (key >> np.uint64(time_bits)).astype(np.uint32)
    key &= np.uint64((1 << time_bits) - 1)
    stamps = key.view(np.int64)
    stamps += start[row]
    return stamps, row, carried


def itl(gaps: Gaps) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """ITL: gap / k, counted k times, where the gap carried k tokens; gaps that carried none have no ITL.

    Returns values (ns), weights (None: all 1), request rows.
    """
    if gaps.one_token_each:
        return gaps.ns, None, gaps.request
    carried = gaps.tokens > 0
    k = gaps.tokens[carried]
    return gaps.ns[carried] / k, k, gaps.request[carried]


def mean_itl(gaps: Gaps, requests: int) -> np.ndarray:
    """Mean ITL of each request, float64 (requests,): its gaps / their tokens; what a limit on `itl` holds against."""
    total = np.bincount(gaps.request, gaps.ns, requests)
    tokens = gaps.each if gaps.one_token_each else np.bincount(gaps.request, gaps.tokens, requests)
    return _quotient(total, tokens, tokens > 0)


def is_token_event(kind: np.ndarray) -> np.ndarray:
    """Events with generated content; role-only, empty, usage-only and finish-only events are not. Bool."""
    token: np.ndarray = (kind & np.uint8(TOKEN_KINDS)) != 0
    return token


# -- throughput ---------------------------------------------------------------------------------------------------


def tokens_by_request(request: np.ndarray, tokens: np.ndarray, requests: int) -> np.ndarray:
    """Tokens that token events brought, float64 (requests,)."""
    if (tokens == 1).all():  # counting is three times as fast as adding weights
        return np.bincount(request, minlength=requests).astype(np.float64)
    return np.bincount(request, tokens, requests)


def tokens_inside(r: Columns, window: tuple[int, int], arrived: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
    """Output tokens of each request that arrived inside the window [start, end), float64 (n,).

    An event's weight is scaled so that a request's events sum to its output tokens; tokens that were not streamed
    count at `end`.
    arrived: tokens of each request's events, of all and of those inside the window; None (level `requests`): a
    request's tokens are taken to come evenly from first_token to last_token.
    """
    start, end = window
    told = np.maximum(r["output_tokens"], 0).astype(np.float64)
    at_end = (r["end"] >= start) & (r["end"] < end)
    if arrived is None:
        first, last = r["first_token"].astype(np.float64), r["last_token"].astype(np.float64)
        streamed = (first >= 0) & (last > first) & _streamed(r)
        overlap = np.clip(np.minimum(last, end) - np.maximum(first, start), 0, None)
        share = np.zeros(len(told))
        np.divide(overlap, last - first, out=share, where=streamed)
        single = (first >= 0) & ~streamed & _streamed(r)
        share = np.where(single, (first >= start) & (first < end), share)
        spread: np.ndarray = told * np.where(streamed | single, share, at_end)
        return spread
    total, inside = arrived
    counted = np.where(r["output_tokens"] >= 0, told, total)  # nobody told: the events themselves
    share = at_end.astype(np.float64)
    np.divide(inside, total, out=share, where=total > 0)
    scaled: np.ndarray = counted * share
    return scaled


def in_order(times: np.ndarray) -> np.ndarray:
    """Sorted; most are already, which is quicker to see than to make."""
    return times if (times[1:] >= times[:-1]).all() else np.sort(times)


def peak_in_flight(r: Columns) -> int:
    """Most requests that were sent and not ended at once. One that was lost counts to the end of the run."""
    sent = in_order(r["send"][r["send"] >= 0])
    ended = in_order(r["end"][(r["send"] >= 0) & (r["end"] >= 0)])
    if not len(sent):
        return 0
    return int(np.max(np.arange(1, len(sent) + 1) - np.searchsorted(ended, sent, side="right")))
