"""Prompts put together from pieces that other prompts have, too: what a trace's hashes say, as text.

A piece is a beginning that belongs to its id, and as many words of the pool from a place that its id decides: equal ids
are equal text, different ids differ from their first word on. Nothing of it needs to be remembered from one block of
rows to the next; in a segment each piece's own bytes are stored once, whatever the number of prompts that have it, and
the pool's words lie in static.bin anyway. So a server's prefix cache finds as much again as the trace's did, in prompts
of the trace's lengths.

Small blocks (16 tokens in the qwen-bailian traces) are stored whole, side by side in the order of their first use, so
that a run of new blocks is one span instead of two a block.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from llmgen.plan import SOURCE_SEGMENT, SPAN_DTYPE
from llmgen.workload.prompts import POOL_WORDS, Parts, SyntheticPrompts, interleaved, places
from llmgen.workload.traces.rows import Pieces

Ints = NDArray[np.int64]

PURPOSE: Final = "piece"
WHOLE_WORDS: Final = 64  # blocks up to this are stored whole: 330 bytes, against two spans of 16 bytes and two iovecs
# So many at a time: what is made on the way stays in the cache, and in memory that is there already.
CHUNK_PIECES: Final = 1 << 14
# Ids that lie as close as this are numbered by a table, which is ten times as fast as a sort and of bounded size.
TABLE_SHARE: Final = 8
# A piece of more words than the pool has is cut: its parts have ids of their own, far above those of a trace's copies.
PART_IDS: Final = 0x5DEECE66D


class PiecePrompts:
    """Builds prompts of pieces from the pool of `prompts`."""

    def __init__(self, prompts: SyntheticPrompts) -> None:
        self._prompts = prompts
        self._seed = prompts.seed
        self._vocabulary = prompts.vocabulary

    def build(self, first: int, pieces: Pieces, lengths: Ints) -> Parts:
        """The prompts of requests first, first + 1 …: their pieces, then what the length leaves, of their own."""
        pieces = _cut(pieces)
        size = _block_size(pieces)
        made = self._whole(pieces, size) if 1 < size <= WHOLE_WORDS else self._pooled(pieces)
        upto = np.concatenate([[0], np.cumsum(pieces.words)])
        ends = np.cumsum(pieces.counts)
        rest = lengths - (upto[ends] - upto[ends - pieces.counts])
        rows = np.arange(first, first + len(lengths))
        starts = self._prompts.starts(first, len(lengths))
        bare = pieces.counts == 0
        parts = [(made.spans, made.counts)]
        own = [made.own]
        for chosen in (~bare, bare):  # behind pieces a space comes first, at a prompt's beginning none
            if chosen.any():
                tail = self._prompts.opened(rows, starts, np.where(chosen, rest, 0), spaced=chosen is not bare)
                tail.spans["offset"][tail.spans["source"] == SOURCE_SEGMENT] += sum(map(len, own))
                parts.append((tail.spans, tail.counts))
                own.append(tail.own)
        spans, counts = interleaved(parts)
        return Parts(spans, counts, np.concatenate(own))

    def _starts(self, ids: Ints) -> Ints:
        """Where in the pool the text of these ids begins."""
        mixed = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return np.asarray((mixed >> np.uint64(49)).astype(np.int64) % POOL_WORDS)

    def _pooled(self, pieces: Pieces) -> Parts:
        """Each piece a span of its own beginning and a span of the pool."""
        vocabulary = self._vocabulary
        ids, number = _distinct(pieces.ids)
        own = vocabulary.beginnings(self._seed, ids, PURPOSE)
        initial = _initial(pieces)
        spans = np.empty((len(pieces.ids), 2), SPAN_DTYPE)
        kept = np.ones(spans.shape, bool)
        for first in range(0, len(spans), CHUNK_PIECES):
            part = slice(first, first + CHUNK_PIECES)
            words = pieces.words[part]
            opening = np.minimum(words, vocabulary.head_words)
            text, text_counts = self._prompts.text_from(self._starts(pieces.ids[part]), words - opening)
            heads = spans[part, 0]
            heads["offset"] = number[part] * own.shape[1] + initial[part]
            heads["size"] = opening * vocabulary.step - initial[part]
            heads["source"] = SOURCE_SEGMENT
            kept[part, 1] = text_counts > 0
            spans[part, 1][kept[part, 1]] = text
        whole = spans.ravel() if kept.all() else spans[kept]
        return Parts(whole, _summed(kept.sum(axis=1), pieces.counts), own.ravel())

    def _whole(self, pieces: Pieces, size: int) -> Parts:
        """Blocks of `size` words stored whole; neighbours in the store that are neighbours in a prompt are one span."""
        vocabulary, offsets = self._vocabulary, self._prompts.offsets
        head_words = min(vocabulary.head_words, size)
        text_words = size - head_words
        # Records are of one width if their texts are: only places of the pool with the commonest one are used.
        widths = offsets[text_words : POOL_WORDS + text_words] - offsets[:POOL_WORDS]
        width = int(np.bincount(widths).argmax())
        choices = np.flatnonzero(widths == width)
        ids, first_use, number = np.unique(pieces.ids, return_index=True, return_inverse=True)
        order = np.argsort(first_use)
        record = np.empty(len(ids), np.int64)
        record[order] = np.arange(len(ids))
        ids = ids[order]
        start = choices[self._starts(ids) % len(choices)]
        head_bytes = head_words * vocabulary.step
        own = np.empty((len(ids), head_bytes + width), np.uint8)
        own[:, :head_bytes] = vocabulary.beginnings(self._seed, ids, PURPOSE)[:, :head_bytes]
        own[:, head_bytes:] = self._prompts.pool[offsets[start][:, None] + np.arange(width)]
        at = record[number]
        opening = np.minimum(pieces.words, head_words)
        begin = start[at]
        bytes_each = opening * vocabulary.step + offsets[begin + pieces.words - opening] - offsets[begin]
        return _merged(at, bytes_each, pieces, own)


def _distinct(ids: Ints) -> tuple[Ints, Ints]:
    """The ids there are, ascending, and the place among them of each."""
    low, high = (int(ids.min()), int(ids.max())) if len(ids) else (0, 0)
    if high - low > TABLE_SHARE * len(ids):
        return np.unique(ids, return_inverse=True)
    there = np.zeros(high - low + 1, bool)
    there[ids - low] = True
    place = np.cumsum(there) - 1
    return np.flatnonzero(there) + low if len(ids) else ids, place[ids - low]


def _merged(at: Ints, bytes_each: Ints, pieces: Pieces, own: NDArray[np.uint8]) -> Parts:
    initial = _initial(pieces)
    offset = at * own.shape[1]
    joins = np.zeros(len(at), bool)  # to the piece before, in the same prompt and just behind it in the store
    joins[1:] = offset[1:] == offset[:-1] + bytes_each[:-1]
    joins &= ~initial
    starts = np.flatnonzero(~joins)
    spans = np.empty(len(starts), SPAN_DTYPE)
    spans["offset"] = offset[starts] + initial[starts]
    sizes = np.add.reduceat(bytes_each, starts) if len(starts) else np.empty(0, np.int64)
    spans["size"] = sizes - initial[starts]
    spans["source"] = SOURCE_SEGMENT
    return Parts(spans, _summed((~joins).astype(np.int64), pieces.counts), own.ravel())


def _initial(pieces: Pieces) -> NDArray[np.bool_]:
    """Which pieces are the first of their prompts: these have no space before them."""
    found = np.zeros(len(pieces.ids), bool)
    found[(np.cumsum(pieces.counts) - pieces.counts)[pieces.counts > 0]] = True
    return found


def _summed(values: Ints, counts: Ints) -> Ints:
    """Sums of `values` over rows of `counts` pieces."""
    upto = np.concatenate([[0], np.cumsum(values)])
    ends = np.cumsum(counts)
    return np.asarray(upto[ends] - upto[ends - counts])


def _block_size(pieces: Pieces) -> int:
    """The size that all pieces have but the last of each prompt, which may be shorter; 0 if there is none."""
    if not len(pieces.words):
        return 0
    last = np.zeros(len(pieces.words), bool)
    last[(np.cumsum(pieces.counts) - 1)[pieces.counts > 0]] = True
    size = int(pieces.words.max())
    return size if np.all(pieces.words[~last] == size) else 0


def _cut(pieces: Pieces) -> Pieces:
    """Pieces of at most as many words as the pool has."""
    if not len(pieces.words) or int(pieces.words.max()) <= POOL_WORDS:
        return pieces
    parts = -(-pieces.words // POOL_WORDS)
    part = places(np.zeros(len(parts), np.int64), parts)
    words = np.minimum(POOL_WORDS, np.repeat(pieces.words, parts) - part * POOL_WORDS)
    return Pieces(np.repeat(pieces.ids, parts) + part * PART_IDS, words, _summed(parts, pieces.counts))


def clipped(pieces: Pieces, lengths: Ints) -> Pieces:
    """The pieces as far as prompts of these lengths go; the last of each is shortened."""
    ends = np.cumsum(pieces.words)
    row_ends = np.cumsum(pieces.counts)
    before = np.concatenate([[0], ends])[row_ends - pieces.counts]  # words of all rows before this one
    inside = ends - pieces.words - np.repeat(before, pieces.counts)
    words = np.clip(np.repeat(lengths, pieces.counts) - inside, 0, pieces.words)
    kept = words > 0
    return Pieces(pieces.ids[kept], words[kept], _summed(kept.astype(np.int64), pieces.counts))
