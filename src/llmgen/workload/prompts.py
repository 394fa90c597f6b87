"""Synthetic prompts: exactly N words, with a beginning that no other request of the run has.

The beginning is made from seed and index, so that a server's prefix cache finds nothing to reuse; the rest is a piece
of one pool of common English words, which lies once in static.bin and is sent from there. Words are separated by one
space and hold lower-case letters only: nothing needs escaping in JSON. A common short word with the space before it is
one token in the vocabularies of most models, so N words are about N tokens (the first, artificial word is about six);
with a tokenizer (`vocabulary.exact`) they are N tokens exactly. `llmgen serve` counts words. The same seed gives the
same prompts again, also in another run: a server that was not restarted may know them, take another seed then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llmgen.draws import generator, uniforms
from llmgen.plan import SOURCE_SEGMENT, SOURCE_STATIC, SPAN_DTYPE, Spans, StaticBytes
from llmgen.workload.vocabulary import UNIQUE_BYTES, Vocabulary, unique_words

__all__ = ["POOL_WORDS", "UNIQUE_BYTES", "Parts", "SyntheticPrompts", "unique_words"]

# A prompt starts at any of POOL_WORDS places and may run over as many words without a seam; the pool is stored twice in
# a row for that, 330 KB in all, which stays in the second-level cache of the core that sends it.
POOL_WORDS: Final = 1 << 15

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Parts:
    """The prompts of some rows as spans; those of SOURCE_SEGMENT count in `own`."""

    spans: Spans
    counts: Ints  # spans of each row
    own: NDArray[np.uint8]


class SyntheticPrompts:
    """The pool of a seed, in static.bin, and the spans of any prompt's text in it."""

    def __init__(self, seed: int, static: StaticBytes, vocabulary: Vocabulary | None = None) -> None:
        self.vocabulary = vocabulary or Vocabulary()
        self.seed = seed
        spaced = [" " + word for word in self.vocabulary.words]
        chosen = generator(seed, "text pool", 0).integers(0, len(spaced), POOL_WORDS)
        text = "".join([spaced[i] for i in chosen.tolist()]).encode()
        sizes = np.array([len(word) for word in spaced], np.int64)[chosen]
        self.pool = np.frombuffer(text * 2, np.uint8)
        self._base = static.add(text * 2)
        self.offsets = np.concatenate([[0], np.cumsum(np.concatenate([sizes, sizes]))])
        self._pool_bytes = len(text)

    def beginnings(self, first: int, count: int) -> NDArray[np.uint8]:
        """The beginnings of requests first .. first + count - 1, uint8 (count, head_bytes)."""
        return self.vocabulary.beginnings(self.seed, np.arange(first, first + count))[:, 1:]

    def starts(self, first: int, count: int) -> Ints:
        """Words of the pool at which the texts of these requests start."""
        return (uniforms(self.seed, "text", first, count) * POOL_WORDS).astype(np.int64)

    def text(self, first: int, words: Ints) -> tuple[Spans, Ints]:
        """Spans that hold `words` further words (0 or more) of requests first, first + 1 …; number of spans of each."""
        return self.text_from(self.starts(first, len(words)), words)

    def text_from(self, start: Ints, words: Ints) -> tuple[Spans, Ints]:
        """Spans of `words` words (0 or more) from word `start` of the pool on; number of spans of each.

        A piece of more than POOL_WORDS words goes over the pool again.
        """
        some = words > 0
        if not some.all():
            start, words = start[some], words[some]
        rounds = (words - 1) // POOL_WORDS  # over the whole pool, before the last span; nearly always none
        counts = some.astype(np.int64)
        rest = words - rounds * POOL_WORDS
        begin = self.offsets[start]
        spans = np.empty(len(words), SPAN_DTYPE)
        spans["offset"] = begin + self._base
        spans["size"] = self.offsets[start + rest] - begin
        spans["source"] = SOURCE_STATIC
        if rounds.any():
            counts[some] += rounds
            spans = np.repeat(spans, rounds + 1)
            last = np.zeros(len(spans), bool)
            last[np.cumsum(rounds + 1) - 1] = True
            spans["size"][~last] = self._pool_bytes
        return spans, counts

    def opened(self, index: Ints, start: Ints, words: Ints, *, spaced: bool) -> Parts:
        """Prompts (or the rest of one, `spaced` from what stands before) of `words` words, 0 or more, with a beginning.

        The beginnings are those of the requests `index`; a prompt shorter than one has as much of it as goes in.
        """
        vocabulary = self.vocabulary
        opening = np.minimum(words, vocabulary.head_words)
        some = opening > 0
        own = vocabulary.beginnings(self.seed, index[some])
        heads = np.zeros(int(some.sum()), SPAN_DTYPE)
        heads["offset"] = np.arange(len(own)) * own.shape[1] + (not spaced)
        heads["size"] = opening[some] * vocabulary.step - (not spaced)
        heads["source"] = SOURCE_SEGMENT
        text, text_counts = self.text_from(start, words - opening)
        return Parts(*interleaved([(heads, some.astype(np.int64)), (text, text_counts)]), own.ravel())


def interleaved(parts: list[tuple[Spans, Ints]]) -> tuple[Spans, Ints]:
    """The spans of each row, part after part, in one array; number of spans of each row."""
    total = np.sum([counts for _, counts in parts], axis=0).astype(np.int64)
    parts = [(piece, counts) for piece, counts in parts if len(piece)]
    if len(parts) == 1:
        return parts[0][0], total
    spans = np.empty(int(total.sum()), SPAN_DTYPE)
    start = np.cumsum(total) - total
    for piece, counts in parts:
        at_most_one = int(counts.max()) == 1
        spans[start[counts == 1] if at_most_one else places(start, counts)] = piece
        start = start + counts
    return spans, total


def places(starts: Ints, counts: Ints) -> Ints:
    """start, start + 1 … start + count - 1 of every row, one after the other."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.asarray(np.arange(total) + np.repeat(starts - (ends - counts), counts))
