"""Synthetic prompts: exactly N words, with a beginning that no other request of the run has.

The first word is made from seed and index, so that a server's prefix cache finds nothing to reuse; the rest is a piece
of one pool of common English words, which lies once in static.bin and is sent from there. Words are separated by one
space and hold lower-case letters only: nothing needs escaping in JSON. A common short word with the space before it is
one token in the vocabularies of most models, so N words are about N tokens (the first, artificial word is about six);
`llmgen serve` counts words, exactly. The same seed gives the same prompts again, also in another run: a server that was
not restarted may know them, take another seed then.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from llmgen.draws import generator, uniforms
from llmgen.plan import SOURCE_STATIC, SPAN_DTYPE, Spans, StaticBytes
from llmgen.workload.words import COMMON_WORDS

# A prompt starts at any of POOL_WORDS places and may run over as many words without a seam; the pool is stored twice in
# a row for that, 330 KB in all, which stays in the second-level cache of the core that sends it.
POOL_WORDS: Final = 1 << 15

# 64 syllables of consonant and vowel; two of them, 12 bits, are 4 bytes: one 32-bit store.
_SYLLABLES: Final = [c + v for c in "bdfghklmnprstvwz" for v in "aeio"]
_PAIRS: Final = np.frombuffer("".join(a + b for a in _SYLLABLES for b in _SYLLABLES).encode(), "<u4")
UNIQUE_BYTES: Final = 16  # 48 bits
_BITS: Final = 48
_MASK: Final = np.uint64((1 << _BITS) - 1)
# Odd, so that multiplying is a bijection of 48-bit numbers; digits of the golden ratio and of the square root of 3.
_ODD: Final = (np.uint64(0x9E3779B97F4B), np.uint64(0xBB67AE8584CB))


def unique_words(seed: int, index: NDArray[np.int64]) -> NDArray[np.uint8]:
    """One word for each index, uint8 (count, UNIQUE_BYTES); no two indices below 2**48 share one.

    Every step (adding, multiplying by an odd number, folding the upper half onto the lower) is a bijection of 48-bit
    numbers, so no word comes twice; the keys make the words of two seeds unrelated.
    """
    keys = generator(seed, "unique word", 0).integers(0, 1 << _BITS, size=3, dtype=np.uint64)
    x = (index.astype(np.uint64) + keys[0]) & _MASK
    for odd, key in zip(_ODD, keys[1:], strict=True):
        x = (x * odd) & _MASK
        x ^= x >> np.uint64(_BITS // 2)
        x ^= key
    x = (x * _ODD[0]) & _MASK
    x ^= x >> np.uint64(_BITS // 2)
    columns = [_PAIRS[(x >> np.uint64(shift)) & np.uint64(0xFFF)] for shift in (0, 12, 24, 36)]
    return np.stack(columns, axis=1).view(np.uint8)


class SyntheticPrompts:
    """The pool of a seed, in static.bin, and the spans of any prompt's text in it."""

    def __init__(self, seed: int, static: StaticBytes) -> None:
        self._seed = seed
        chosen = generator(seed, "text pool", 0).integers(0, len(COMMON_WORDS), POOL_WORDS)
        text = "".join(" " + COMMON_WORDS[i] for i in chosen).encode()
        sizes = np.array([1 + len(COMMON_WORDS[i]) for i in chosen], dtype=np.int64)
        self._base = static.add(text * 2)
        self._offsets = np.concatenate([[0], np.cumsum(np.concatenate([sizes, sizes]))])
        self._pool_bytes = len(text)

    def beginnings(self, first: int, count: int) -> NDArray[np.uint8]:
        """The first words of requests first .. first + count - 1, uint8 (count, UNIQUE_BYTES)."""
        return unique_words(self._seed, np.arange(first, first + count))

    def text(self, first: int, words: NDArray[np.int64]) -> tuple[Spans, NDArray[np.int64]]:
        """Spans that hold `words` further words (0 or more) of requests first, first + 1 …; number of spans of each.

        A piece of more than POOL_WORDS words goes over the pool again.
        """
        start = (uniforms(self._seed, "text", first, len(words)) * POOL_WORDS).astype(np.int64)
        if int(words.min()) > 0 and int(words.max()) <= POOL_WORDS:  # nearly always: one span each
            spans = np.empty(len(words), SPAN_DTYPE)
            begin = self._offsets[start]
            spans["offset"] = begin + self._base
            spans["size"] = self._offsets[start + words] - begin
            spans["source"] = SOURCE_STATIC
            return spans, np.ones(len(words), np.int64)
        counts = -(-words // POOL_WORDS)
        spans = np.empty(int(counts.sum()), SPAN_DTYPE)
        spans["source"] = SOURCE_STATIC
        last = np.cumsum(counts) - 1
        some = counts > 0
        if len(spans) != int(some.sum()):  # someone needs several: whole rounds first
            spans["offset"] = np.repeat(self._offsets[start] + self._base, counts)
            spans["size"] = self._pool_bytes
        rest = words[some] - (counts[some] - 1) * POOL_WORDS
        begin = self._offsets[start[some]]
        spans["offset"][last[some]] = begin + self._base
        spans["size"][last[some]] = self._offsets[start[some] + rest] - begin
        return spans, counts
