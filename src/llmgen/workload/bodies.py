"""From frames and prompts to a segment's spans and bytes, for many requests at once.

A body is: the frame's bytes up to its first slot (static), the bytes from there to the end of the prompt's first word
(the segment's own: limits and the unique beginning differ from request to request), the prompt's text (static), and the
frame's end (static, or the segment's own if the frame has a slot behind the prompt).

Requests with the same frame and the same number of digits in planned_output have bytes of one width: each such group is
one two-dimensional array whose constant columns are filled at once.

Prompts that are not plain (shared beginnings, a trace's pieces, own data) come as spans of their own, between the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from llmgen.dialects import Frame, Slot
from llmgen.plan import SOURCE_SEGMENT, SOURCE_STATIC, SPAN_DTYPE, Spans, StaticBytes
from llmgen.workload.mix import Draws
from llmgen.workload.pieces import PiecePrompts
from llmgen.workload.prompts import Ints, Parts, SyntheticPrompts, interleaved, places
from llmgen.workload.traces.rows import Pieces

_DIGIT_BITS: Final = 4
# 1 has one digit, 10 two, …; -1 (no limit asked) has none.
_POWERS: Final = 10 ** np.arange(0, 10)


@dataclass(frozen=True)
class Bodies:
    """The bodies of a block of requests, in order; arrays (count,)."""

    spans: Spans
    first_span: NDArray[np.int64]
    span_count: NDArray[np.int64]
    size: NDArray[np.int64]  # bytes
    own_bytes: NDArray[np.uint8]  # what spans of SOURCE_SEGMENT count in


@dataclass(frozen=True)
class _Layout:
    """A frame cut for the plan: static spans before and after, and what lies between."""

    head: tuple[int, int, int]  # as SPAN_DTYPE
    tail: tuple[int, int, int]  # of size 0 if the tail has a slot and is the segment's own
    before: tuple[bytes | Slot, ...]  # from the first slot to the prompt's beginning
    after: tuple[bytes | Slot, ...]  # of a tail with a slot


class Source(Protocol):
    """Makes the prompts of some classes; the rows are places among the requests first, first + 1 …"""

    def build(self, first: int, rows: Ints, lengths: Ints) -> Parts: ...


class BodyBuilder:
    """Puts frames and pool into the static bytes once; then builds bodies block by block.

    `sources` are those of the classes whose prompts are not plain synthetic ones, by the class's number.
    """

    def __init__(
        self,
        frames: list[Frame],
        prompts: SyntheticPrompts,
        static: StaticBytes,
        sources: Mapping[int, Source] | None = None,
    ) -> None:
        self._prompts = prompts
        self._pieces = PiecePrompts(prompts)
        self._sources = dict(sources or {})
        self._head_bytes = prompts.vocabulary.head_bytes
        self._template_tokens = prompts.vocabulary.template_tokens  # of the planned input, not of the prompt's own
        self._layouts = [_lay_out(frame, static) for frame in frames]
        self._heads = np.array([layout.head for layout in self._layouts], SPAN_DTYPE)
        self._tails = np.array([layout.tail for layout in self._layouts], SPAN_DTYPE)
        self._own_bytes, self._spans = _Scratch(np.uint8), _Scratch(SPAN_DTYPE)
        # Rows are grouped by frame and digits; 16 bits sort by radix.
        self._group_type = np.uint16 if len(frames) << _DIGIT_BITS < 1 << 16 else np.int64

    def build(self, first: int, draws: Draws, pieces: Pieces | None = None, prompts: Parts | None = None) -> Bodies:
        """The bodies of requests first, first + 1 … as drawn, their prompts made of the trace's `pieces` if there are,
        or made already (`prompts`).

        Valid until the next call, which reuses the memory.
        """
        if self._template_tokens:
            draws = replace(draws, planned_input=np.maximum(draws.planned_input - self._template_tokens, 1))
        if prompts is not None:
            parts = prompts
        elif pieces is not None:
            parts = self._pieces.build(first, pieces, draws.planned_input)
        elif self._sources:
            parts = self._sourced(first, draws)
        else:
            return self._synthetic(first, draws)
        head, own, tail, own_bytes = self._around(draws, None)
        own["offset"] += len(parts.own)
        tail["offset"][tail["source"] == SOURCE_SEGMENT] += len(parts.own)
        # A frame that has no slot before its prompt has no bytes of its own there.
        counts = (own["size"] > 0).astype(np.int64)
        ones = np.ones(len(head), np.int64)
        whole, span_count = interleaved(
            [(head, ones), (own[counts > 0], counts), (parts.spans, parts.counts), (tail, ones)]
        )
        ends = np.cumsum(span_count)
        upto = np.concatenate([[0], np.cumsum(whole["size"], dtype=np.int64)])
        size = upto[ends] - upto[ends - span_count]
        return Bodies(whole, ends - span_count, span_count, size, np.concatenate([parts.own, own_bytes]))

    def _synthetic(self, first: int, draws: Draws) -> Bodies:
        """Plain prompts: the beginning lies in the same bytes as the limits before it."""
        vocabulary = self._prompts.vocabulary
        head, own, tail, own_bytes = self._around(draws, self._prompts.beginnings(first, len(draws.frame)))
        if vocabulary.head_words > 1:
            own["size"] -= (np.maximum(vocabulary.head_words - draws.planned_input, 0) * vocabulary.step).astype(
                np.uint32
            )
        text = self._prompts.text(first, np.maximum(draws.planned_input - vocabulary.head_words, 0))
        return _joined(head, own, text, tail, own_bytes, self._spans)

    def _sourced(self, first: int, draws: Draws) -> Parts:
        """The prompts of a block whose classes make theirs in different ways."""
        count = len(draws.klass)
        counts, found, own = np.zeros(count, np.int64), [], []
        offset = 0
        kinds = [(self._sources.get(k), np.flatnonzero(draws.klass == k)) for k in np.unique(draws.klass).tolist()]
        for source, rows in kinds:
            lengths = draws.planned_input[rows]
            if source is not None:
                parts = source.build(first, rows, lengths)
            else:
                starts = self._prompts.starts(first, count)[rows]
                parts = self._prompts.opened(first + rows, starts, lengths, spaced=False)
            parts.spans["offset"][parts.spans["source"] == SOURCE_SEGMENT] += offset
            offset += len(parts.own)
            counts[rows] = parts.counts
            found.append((rows, parts))
            own.append(parts.own)
        start = np.cumsum(counts) - counts
        spans = np.empty(int(counts.sum()), SPAN_DTYPE)
        for rows, parts in found:
            spans[places(start[rows], parts.counts)] = parts.spans
        return Parts(spans, counts, np.concatenate(own))

    def _around(
        self, draws: Draws, beginnings: NDArray[np.uint8] | None
    ) -> tuple[Spans, Spans, Spans, NDArray[np.uint8]]:
        """Spans of each body before its prompt, of its own bytes there (with the beginning, if one is given) and
        behind its prompt; and the own bytes."""
        digits = np.searchsorted(_POWERS, draws.planned_output, side="right")
        group = ((draws.frame << _DIGIT_BITS) + digits).astype(self._group_type)
        order = np.argsort(group, kind="stable")
        sorted_group = group[order]
        changes = np.flatnonzero(sorted_group[1:] != sorted_group[:-1]) + 1
        groups = [
            (order[start:stop], *divmod(int(sorted_group[start]), 1 << _DIGIT_BITS))
            for start, stop in pairwise([0, *changes.tolist(), len(order)])
        ]
        opening = 0 if beginnings is None else self._head_bytes
        own = np.empty(len(order), SPAN_DTYPE)
        own["source"] = SOURCE_SEGMENT
        tail = self._tails[draws.frame]
        own_bytes = self._own_bytes.take(
            sum(len(rows) * (sum(self._widths(*kind)) + opening) for rows, *kind in groups)
        )
        offset = 0
        for rows, frame, size in groups:
            layout, (width, tail_width) = self._layouts[frame], self._widths(frame, size)
            end = offset + len(rows) * (width + opening + tail_width)
            block = own_bytes[offset:end].reshape(len(rows), width + opening + tail_width)
            output = draws.planned_output[rows]
            _fill(block[:, :width], layout.before, output, size)
            if beginnings is not None:
                block[:, width : width + opening] = beginnings[rows]
            _fill(block[:, width + opening :], layout.after, output, size)
            place = offset + np.arange(len(rows)) * block.shape[1]
            own["offset"][rows], own["size"][rows] = place, width + opening
            if tail_width:
                tail["offset"][rows], tail["size"][rows] = place + width + opening, tail_width
            offset = end
        return self._heads[draws.frame], own, tail, own_bytes

    def _widths(self, frame: int, digits: int) -> tuple[int, int]:
        """Own bytes of a row before its prompt and behind it, if planned_output has that many digits."""
        layout = self._layouts[frame]
        before, after = (sum(_width(piece, digits) for piece in pieces) for pieces in (layout.before, layout.after))
        return before, after


class _Scratch:
    """Memory of one array that is made anew for every block: fresh pages cost more than all that is written to them."""

    def __init__(self, dtype: DTypeLike) -> None:
        self._array = np.empty(0, dtype)

    def take(self, size: int) -> NDArray[Any]:
        if len(self._array) < size:
            self._array = np.empty(size, self._array.dtype)
        return self._array[:size]


def _width(piece: bytes | Slot, digits: int) -> int:
    return len(piece) if isinstance(piece, bytes) else digits


def _lay_out(frame: Frame, static: StaticBytes) -> _Layout:
    prompt = frame.pieces.index(Slot.prompt)
    before, after = frame.pieces[:prompt], frame.pieces[prompt + 1 :]
    first = before[0] if before and isinstance(before[0], bytes) else b""
    head = (static.add(first), len(first), SOURCE_STATIC)
    before = before[1:] if first else before
    if Slot.output in after:
        return _Layout(head, (0, 0, SOURCE_SEGMENT), before, after)
    tail = b"".join(piece for piece in after if isinstance(piece, bytes))
    return _Layout(head, (static.add(tail), len(tail), SOURCE_STATIC), before, ())


def _fill(block: NDArray[np.uint8], pieces: tuple[bytes | Slot, ...], output: NDArray[np.int64], digits: int) -> None:
    """Writes the pieces of all rows of a group, uint8 (rows, width); `output` has `digits` digits in each."""
    column = 0
    for piece in pieces:
        width = _width(piece, digits)
        if isinstance(piece, bytes):
            block[:, column : column + width] = np.frombuffer(piece, np.uint8)
        else:
            rest = output
            for place in range(column + digits - 1, column - 1, -1):
                tenth = rest // 10
                block[:, place] = rest - tenth * 10 + ord("0")
                rest = tenth
        column += width


def _joined(
    head: Spans,
    own: Spans,
    text: tuple[Spans, NDArray[np.int64]],
    tail: Spans,
    own_bytes: NDArray[np.uint8],
    scratch: _Scratch,
) -> Bodies:
    """Spans of each body in a row: head, own bytes, text (any number), tail."""
    text_spans, text_counts = text
    size = head["size"].astype(np.int64) + own["size"] + tail["size"]
    if len(text_spans) == len(head) and np.all(text_counts == 1):
        spans = scratch.take(4 * len(head)).reshape(len(head), 4)
        for column, part in enumerate((head, own, text_spans, tail)):
            spans[:, column] = part
        span_count = np.full(len(head), 4)
        return Bodies(spans.ravel(), np.arange(len(head)) * 4, span_count, size + text_spans["size"], own_bytes)
    span_count = text_counts + 3
    end = np.cumsum(span_count)
    first_span = end - span_count
    spans = scratch.take(int(end[-1]))
    spans[first_span], spans[first_span + 1], spans[end - 1] = head, own, tail
    text_end = np.cumsum(text_counts)
    where = np.arange(len(text_spans)) + np.repeat(first_span + 2 - (text_end - text_counts), text_counts)
    spans[where] = text_spans
    text_upto = np.concatenate([[0], np.cumsum(text_spans["size"], dtype=np.int64)])
    size += text_upto[text_end] - text_upto[text_end - text_counts]
    return Bodies(spans, first_span, span_count, size, own_bytes)
