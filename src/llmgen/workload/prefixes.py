"""Beginnings that prompts share: system prompts, tool descriptions, documents; `prefix: {tokens, pool}`.

Each of a class's `pool` beginnings lies once in static.bin; a prompt has one of them, all alike in chance, then its own
unique beginning and the rest. The prompt's length includes it; a prompt that would be shorter has as much of it as
leaves one word of its own.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from llmgen.config import Prefix
from llmgen.draws import generator, uniforms
from llmgen.errors import ConfigError
from llmgen.plan import SOURCE_SEGMENT, SOURCE_STATIC, SPAN_DTYPE, StaticBytes
from llmgen.workload.prompts import Parts, SyntheticPrompts, interleaved

Ints = NDArray[np.int64]

MAX_BYTES: Final = 256 << 20  # of all beginnings of a class: 50 million words


def check_prefix(prefix: Prefix, key: str) -> None:
    """ConfigError for what cannot be."""
    if prefix.tokens < 1 or prefix.pool < 1:
        raise ConfigError(f"{key}: tokens={prefix.tokens} and pool={prefix.pool} must be at least 1")
    if prefix.tokens * prefix.pool * 6 > MAX_BYTES:
        raise ConfigError(
            f"{key}: {prefix.pool} beginnings of {prefix.tokens} tokens are more than {MAX_BYTES >> 20} MB"
        )


class SharedPrefixes:
    """The beginnings of one class."""

    def __init__(self, prefix: Prefix, klass: str, prompts: SyntheticPrompts, static: StaticBytes) -> None:
        self._prompts = prompts
        self._purpose = f"prefix {klass}"
        vocabulary = prompts.vocabulary
        heads = vocabulary.beginnings(prompts.seed, np.arange(prefix.pool), self._purpose)[:, 1:]
        random = generator(prompts.seed, self._purpose, 0)
        opening = min(prefix.tokens, vocabulary.head_words)
        self._bases = np.empty(prefix.pool, np.int64)
        self._ends = np.empty((prefix.pool, prefix.tokens + 1), np.int64)  # bytes of the first n words, 0 for none
        for number in range(prefix.pool):
            words = [vocabulary.words[i] for i in random.integers(0, len(vocabulary.words), prefix.tokens - opening)]
            head = heads[number].tobytes().decode().split(" ")[:opening]
            sizes = np.array([len(word) + 1 for word in head + words])
            self._ends[number] = np.concatenate([[0], np.cumsum(sizes) - 1])
            self._bases[number] = static.add(" ".join(head + words).encode())

    def build(self, first: int, rows: Ints, lengths: Ints) -> Parts:
        """The prompts of requests first + rows."""
        count = int(rows[-1]) + 1 if len(rows) else 0
        chance = uniforms(self._prompts.seed, self._purpose, first, count)[rows]
        number = (chance * len(self._bases)).astype(np.int64)
        words = np.minimum(self._ends.shape[1] - 1, lengths - 1)
        shared = np.zeros(len(rows), SPAN_DTYPE)
        shared["offset"], shared["size"] = self._bases[number], self._ends[number, words]
        shared["source"] = SOURCE_STATIC
        some = words > 0
        starts = self._prompts.starts(first, count)[rows]
        behind = self._prompts.opened(first + rows, starts, lengths - words, spaced=True)
        spans, counts = interleaved([(shared[some], some.astype(np.int64)), (behind.spans, behind.counts)])
        # A prompt of one word has nothing before its beginning, and so no space.
        bare = np.flatnonzero(~some)
        if len(bare):
            at = (np.cumsum(counts) - counts)[bare]
            own = spans["source"][at] == SOURCE_SEGMENT
            spans["offset"][at[own]] += 1
            spans["size"][at[own]] -= 1
        return Parts(spans, counts, behind.own)
