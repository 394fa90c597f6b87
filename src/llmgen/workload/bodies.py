"""From frames and prompts to a segment's spans and bytes, for many requests at once.

A body is: the frame's bytes up to its first slot (static), the bytes from there to the end of the prompt's first word
(the segment's own: limits and the unique beginning differ from request to request), the prompt's text (static), and the
frame's end (static, or the segment's own if the frame has a slot behind the prompt).

Requests with the same frame and the same number of digits in planned_output have bytes of one width: each such group is
one two-dimensional array whose constant columns are filled at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmgen.dialects import Frame, Slot
from llmgen.plan import SOURCE_SEGMENT, SPAN_DTYPE, Spans, StaticBytes
from llmgen.workload.mix import Draws
from llmgen.workload.prompts import UNIQUE_BYTES, SyntheticPrompts

_DIGITS = 10 ** np.arange(1, 10)  # planned_output of k digits is below _DIGITS[k - 1]


@dataclass(frozen=True)
class Bodies:
    """The bodies of a block of requests, in order; arrays (count,)."""

    spans: Spans
    first_span: NDArray[np.int64]
    span_count: NDArray[np.int64]
    size: NDArray[np.int64]  # bytes
    own_bytes: list[NDArray[np.uint8]]  # in the order that the spans of SOURCE_SEGMENT count


@dataclass(frozen=True)
class _Layout:
    """A frame cut for the plan: static (offset, size) before and after, and what lies between."""

    head: tuple[int, int]
    tail: tuple[int, int]  # size 0: the tail has a slot, and is the segment's own
    before: tuple[bytes | Slot, ...]  # from the first slot to the prompt's beginning
    after: tuple[bytes | Slot, ...]  # of a tail with a slot


class BodyBuilder:
    """Puts frames and pool into the static bytes once; then builds bodies block by block."""

    def __init__(self, frames: list[Frame], prompts: SyntheticPrompts, static: StaticBytes) -> None:
        self._prompts = prompts
        self._layouts = [_lay_out(frame, static) for frame in frames]

    def build(self, first: int, draws: Draws) -> Bodies:
        """The bodies of requests first, first + 1 … as drawn."""
        count = len(draws.frame)
        text_spans, text_counts = self._prompts.text(first, draws.planned_input - 1)
        head, tail, own, own_tail = (np.zeros(count, SPAN_DTYPE) for _ in range(4))
        pieces: list[NDArray[np.uint8]] = []
        beginnings = self._prompts.beginnings(first, count)
        offset = 0
        digits = np.searchsorted(_DIGITS, draws.planned_output, side="right") + 1
        group = draws.frame * 16 + digits
        for number in np.unique(group):
            members = np.flatnonzero(group == number)
            rows = members if len(members) < count else slice(None)  # a slice picks without copying
            layout = self._layouts[int(number) >> 4]
            before = _filled(layout.before, draws.planned_output[rows], int(number) & 15, beginnings[rows])
            after = _filled(layout.after, draws.planned_output[rows], int(number) & 15, None)
            for spans, (at, size) in ((head, layout.head), (tail, layout.tail)):
                spans["offset"][rows], spans["size"][rows] = at, size
            for spans, block in ((own, before), (own_tail, after)):
                spans["offset"][rows] = offset + np.arange(len(block)) * block.shape[1]
                spans["size"][rows] = block.shape[1]
                offset += block.size
                pieces.append(block)
        own["source"] = own_tail["source"] = SOURCE_SEGMENT
        tail = np.where(tail["size"] > 0, tail, own_tail)
        return _joined(head, own, (text_spans, text_counts), tail, pieces)


def _lay_out(frame: Frame, static: StaticBytes) -> _Layout:
    prompt = frame.pieces.index(Slot.prompt)
    before, after = frame.pieces[:prompt], frame.pieces[prompt + 1 :]
    first = before[0] if before and isinstance(before[0], bytes) else b""
    head = (static.add(first), len(first))
    before = before[1:] if first else before
    if Slot.output in after:
        return _Layout(head, (0, 0), before, after)
    tail = b"".join(piece for piece in after if isinstance(piece, bytes))
    return _Layout(head, (static.add(tail), len(tail)), before, ())


def _filled(
    pieces: tuple[bytes | Slot, ...],
    planned_output: NDArray[np.int64],
    digits: int,
    beginnings: NDArray[np.uint8] | None,
) -> NDArray[np.uint8]:
    """The pieces of all rows of a group, with the beginning of the prompt at the end; uint8 (rows, width)."""
    template = b"".join(piece if isinstance(piece, bytes) else b"0" * digits for piece in pieces)
    width = len(template) + (UNIQUE_BYTES if beginnings is not None else 0)
    block = np.empty((len(planned_output), width), np.uint8)
    block[:, : len(template)] = np.frombuffer(template, np.uint8)
    column = 0
    for piece in pieces:
        if isinstance(piece, bytes):
            column += len(piece)
            continue
        rest = planned_output
        for place in range(column + digits - 1, column - 1, -1):
            rest, digit = np.divmod(rest, 10)
            block[:, place] = digit + ord("0")
        column += digits
    if beginnings is not None:
        block[:, len(template) :] = beginnings
    return block


def _joined(
    head: Spans, own: Spans, text: tuple[Spans, NDArray[np.int64]], tail: Spans, pieces: list[NDArray[np.uint8]]
) -> Bodies:
    text_spans, text_counts = text
    span_count = text_counts + 3
    end = np.cumsum(span_count)
    first_span = end - span_count
    spans = np.empty(int(end[-1]) if len(end) else 0, SPAN_DTYPE)
    spans[first_span], spans[first_span + 1], spans[end - 1] = head, own, tail
    text_end = np.cumsum(text_counts)
    where = np.arange(len(text_spans)) + np.repeat(first_span + 2 - (text_end - text_counts), text_counts)
    spans[where] = text_spans
    text_upto = np.concatenate([[0], np.cumsum(text_spans["size"], dtype=np.int64)])
    text_size = text_upto[text_end] - text_upto[text_end - text_counts]
    size = head["size"].astype(np.int64) + own["size"] + tail["size"] + text_size
    return Bodies(spans, first_span, span_count, size, pieces)
