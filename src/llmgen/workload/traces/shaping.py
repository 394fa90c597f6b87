"""What is done to a trace between its file and the plan: left out, cut, spread, thinned or repeated, looped.

Times stay those of the trace here (ns after its first row, or after the window's start); dividing them by
`load.trace.scale` is the schedule's part.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llmgen.draws import draw, uniforms
from llmgen.durations import parse_duration
from llmgen.errors import ConfigError
from llmgen.workload.traces.conversations import Conversations
from llmgen.workload.traces.rows import NS, Ints, TraceBlock, joined

Blocks = Iterator[TraceBlock]

JITTER_HINT: Final = "write uniform:quantum, uniform:3s (a duration), or none"
WINDOW_HINT: Final = "write A..B in time after the trace's first row, like 10m..20m, or 10m.. to its end"
# Ids of one copy or round of a trace are kept apart from those of the next by this; traces number theirs from 0.
COPY_IDS: Final = 1 << 32
COPIES: Final = 1 << 16  # so many fit below 2**48, where texts begin to come again
# Of the distances between different times the smallest but 1 %: the recorder's tick, if it had a coarse one.
TICK_QUANTILE: Final = 0.01
_WINDOW: Final = re.compile(r"([^.]*(?:\.\d+)?[^.]*)\.\.(.*)")


def parse_window(text: str | None) -> tuple[int, int | None]:
    """(from, until) in ns; until is None for the trace's end. ConfigError."""
    if text is None:
        return 0, None
    match = _WINDOW.fullmatch(text.strip())
    try:
        if match is None:
            raise ValueError(WINDOW_HINT)
        start = parse_duration(match[1]) if match[1].strip() else 0.0
        end = parse_duration(match[2]) if match[2].strip() else None
    except ValueError as error:
        raise ConfigError(f"load.trace.window={text!r}: {error}; {WINDOW_HINT}") from None
    if end is not None and end <= start:
        raise ConfigError(f"load.trace.window={text!r}: ends before it starts; {WINDOW_HINT}")
    return round(start * NS), None if end is None else round(end * NS)


def parse_jitter(text: str | None) -> int | str | None:
    """None: none; "quantum": as wide as the trace's own tick; else ns. ConfigError."""
    if text is None or text == "none":
        return None
    kind, _, width = text.partition(":")
    if kind != "uniform" or not width:
        raise ConfigError(f"load.trace.jitter={text!r}: unknown; {JITTER_HINT}")
    if width == "quantum":
        return width
    try:
        seconds = parse_duration(width)
    except ValueError as error:
        raise ConfigError(f"load.trace.jitter={text!r}: {error}; {JITTER_HINT}") from None
    return round(seconds * NS) or None


def quantum_ns(blocks: Iterable[TraceBlock]) -> int:
    """The tick of the recorder: what 99 % of the distances between different times are at least; 0 without two."""
    gaps: list[Ints] = []
    last: int | None = None
    for block in blocks:
        if not len(block):
            continue
        steps = np.diff(block.t_ns) if last is None else np.diff(block.t_ns, prepend=last)
        last = int(block.t_ns[-1])
        gaps.append(steps[steps > 0])
    found = np.concatenate(gaps) if gaps else np.empty(0, np.int64)
    return int(np.quantile(found, TICK_QUANTILE, method="lower")) if len(found) else 0


def without_failed(blocks: Blocks) -> Blocks:
    """Rows with an answer of no token left out: they failed when they were recorded."""
    for block in blocks:
        kept = np.flatnonzero(block.output > 0)
        yield block if len(kept) == len(block) else block.take(kept)


def windowed(blocks: Blocks, from_ns: int, until_ns: int | None) -> Blocks:
    """Rows in [from, until), their times counted from `from`."""
    for block in blocks:
        start = int(np.searchsorted(block.t_ns, from_ns, side="left"))
        end = len(block) if until_ns is None else int(np.searchsorted(block.t_ns, until_ns, side="left"))
        if end > start:
            rows = np.arange(start, end)
            yield block.take(rows, block.t_ns[rows] - from_ns)
        if end < len(block):
            return


def spread(blocks: Blocks, width_ns: int, seed: int) -> Blocks:
    """Rows of one time spread evenly at random over `width_ns` after it, in their order; none passes the next time."""
    held: list[TraceBlock] = []
    index = 0
    for block in blocks:
        if not len(block):
            continue
        held.append(block)
        if block.t_ns[0] == block.t_ns[-1] and held[0].t_ns[0] == block.t_ns[0]:
            continue  # one tick so far: its rows are spread together
        whole = joined(held)
        done = int(np.searchsorted(whole.t_ns, whole.t_ns[-1], side="left"))
        rest = whole.take(np.arange(done, len(whole)))
        if done:
            ready = whole.take(np.arange(done))
            yield replace(ready, t_ns=_spread(ready.t_ns, int(rest.t_ns[0]), width_ns, seed, index))
            index += done
        held = [rest]
    if held:
        whole = joined(held)
        yield replace(whole, t_ns=_spread(whole.t_ns, int(whole.t_ns[-1]) + width_ns, width_ns, seed, index))


def _spread(t_ns: Ints, next_ns: int, width_ns: int, seed: int, index: int) -> Ints:
    chance = uniforms(seed, "trace jitter", index, len(t_ns))
    order = np.lexsort((chance, t_ns))
    changes = np.flatnonzero(np.diff(t_ns)) + 1
    starts = np.concatenate([[0], changes])
    counts = np.diff(np.concatenate([starts, [len(t_ns)]]))
    following = np.concatenate([t_ns[changes], [next_ns]])
    room = np.minimum(width_ns, following - t_ns[starts])
    return np.asarray(t_ns + (chance[order] * np.repeat(room, counts)).astype(np.int64))


def rescaled(blocks: Blocks, factor: float, seed: int) -> Blocks:
    """`factor` times as many requests: a row stays with its chance, or comes several times; conversations as a whole.

    Copies are requests of their own: they are due at random between their row and the next, and the pieces of their
    prompts are those of another trace that looks the same, so that copying adds no reuse between copies.
    """
    whole = math.floor(factor)
    chances = _Chances(seed)
    index, held = 0, None
    for block in blocks:
        if not len(block):
            continue
        if held is not None:
            counts = whole + (chances.of(held, index) < factor - whole)
            yield _copied(held, int(block.t_ns[0]), index, counts, seed)
            index += len(held)
        held = block
    if held is not None:
        counts = whole + (chances.of(held, index) < factor - whole)
        yield _copied(held, int(held.t_ns[-1]), index, counts, seed)


class _Chances:
    """A number in [0, 1) of each row, one for all turns of a conversation: half of its turns would not be one."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._conversations = Conversations()
        self._of_session = np.empty(0)

    def of(self, block: TraceBlock, index: int) -> NDArray[np.float64]:
        own = uniforms(self._seed, "trace rate", index, len(block))
        turns = self._conversations.link(block)
        if turns is None:
            return own
        known = len(self._of_session)
        more = uniforms(self._seed, "trace rate of sessions", known, self._conversations.count - known)
        self._of_session = np.concatenate([self._of_session, more])
        if not len(self._of_session):
            return own
        return np.where(turns.session >= 0, self._of_session[turns.session], own)


def _copied(block: TraceBlock, next_ns: int, index: int, counts: Ints, seed: int) -> TraceBlock:
    """Each row so many times."""
    rows = np.repeat(np.arange(len(block)), counts)
    number = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    gap = np.diff(block.t_ns, append=max(next_ns, int(block.t_ns[-1])))
    copy = number > 0
    t_ns = block.t_ns[rows].copy()
    if copy.any():
        places = draw(seed, "trace copies", index, len(block), lambda g, n: g.random(n))
        # The golden ratio spreads the copies of one row evenly, whatever the first one's place is.
        share = (places[rows] + number * 0.6180339887498949) % 1.0
        t_ns[copy] += (share[copy] * gap[rows][copy]).astype(np.int64)
    taken = apart(block.take(rows, t_ns), number)
    return taken.take(np.argsort(t_ns, kind="stable")) if copy.any() else taken


def apart(block: TraceBlock, copy: Ints) -> TraceBlock:
    """The rows with pieces, sessions and chats of copy number `copy` (rows,): none is shared with another copy."""
    columns = {}
    shift = (copy % COPIES) * COPY_IDS
    for name in ("session", "chat", "parent"):
        column = getattr(block, name)
        if column is not None:
            columns[name] = np.where(column >= 0, column + shift, column)
    pieces = block.pieces
    if pieces is not None:
        columns["pieces"] = replace(pieces, ids=pieces.ids + np.repeat(shift, pieces.counts))
    return replace(block, **columns) if columns else block


def looped(once: Callable[[], Blocks]) -> Blocks:
    """The trace again and again, without end; a round starts one mean gap after the last row of the round before.

    Each round's pieces are new: without that the second would be answered from the server's cache.
    """
    offset, number = 0, 0
    while True:
        rows, last = 0, 0
        for block in once():
            if len(block):
                rows += len(block)
                last = int(block.t_ns[-1])
                moved = replace(block, t_ns=block.t_ns + offset)
                yield apart(moved, np.full(len(block), number)) if number else moved
        if not rows:
            return
        offset += last + max(1, last // max(1, rows - 1))
        number += 1
