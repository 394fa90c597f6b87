"""The words that prompts are made of, and how many tokens they are.

By default a word is taken for a token, which it is about; with a tokenizer, here or behind the server's /tokenize, only
words are used that are exactly one token each, wherever they stand, so that N words are N tokens. Which ones those are
is found by counting whole batches of words and halving those that do not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llmgen.draws import generator
from llmgen.errors import ConfigError
from llmgen.workload.words import COMMON_WORDS

Count = Callable[[str], int]

# 64 syllables of consonant and vowel; two of them, 12 bits, are 4 bytes: one 32-bit store.
_SYLLABLES: Final = [c + v for c in "bdfghklmnprstvwz" for v in "aeio"]
_PAIRS: Final = np.frombuffer("".join(a + b for a in _SYLLABLES for b in _SYLLABLES).encode(), "<u4")
UNIQUE_BYTES: Final = 16  # 48 bits
BITS: Final = 48
CHUNK_WORDS: Final = 1 << 14  # made at a time: what is made on the way stays in the cache
_MASK: Final = np.uint64((1 << BITS) - 1)
# Odd, so that multiplying is a bijection of 48-bit numbers; digits of the golden ratio and of the square root of 3.
_ODD: Final = (np.uint64(0x9E3779B97F4B), np.uint64(0xBB67AE8584CB))

HEAD_LETTERS: Final = 4  # of the words of an exact beginning: one length, so that all beginnings are of one size
FEWEST_WORDS: Final = 32  # of each kind; fewer single tokens make no text
BATCH_WORDS: Final = 32
CHECKS: Final = ((16, 200), (2, 5_000))  # texts of so many words, counted in the end: a short and a long kind


def scrambled(seed: int, index: NDArray[np.int64], purpose: str = "unique word") -> NDArray[np.uint64]:
    """A 48-bit number for each index; no two indices below 2**48 share one.

    Every step (adding, multiplying by an odd number, folding the upper half onto the lower) is a bijection of 48-bit
    numbers, so none comes twice; the keys make the numbers of two seeds or purposes unrelated.
    """
    keys = generator(seed, purpose, 0).integers(0, 1 << BITS, size=3, dtype=np.uint64)
    x = (index.astype(np.uint64) + keys[0]) & _MASK
    for odd, key in zip(_ODD, keys[1:], strict=True):
        x = (x * odd) & _MASK
        x ^= x >> np.uint64(BITS // 2)
        x ^= key
    x = (x * _ODD[0]) & _MASK
    return np.asarray(x ^ (x >> np.uint64(BITS // 2)))


def unique_words(seed: int, index: NDArray[np.int64], purpose: str = "unique word") -> NDArray[np.uint8]:
    """One artificial word for each index, uint8 (count, UNIQUE_BYTES); no two indices below 2**48 share one."""
    found = np.empty((len(index), UNIQUE_BYTES // 4), "<u4")
    for first in range(0, len(index), CHUNK_WORDS):
        part = slice(first, first + CHUNK_WORDS)
        x = scrambled(seed, index[part], purpose)
        for column, shift in enumerate((0, 12, 24, 36)):
            found[part, column] = _PAIRS[(x >> np.uint64(shift)) & np.uint64(0xFFF)]
    return found.view(np.uint8)


@dataclass(frozen=True)
class Vocabulary:
    """Words of text, and beginnings that no two requests share.

    A beginning is `head_words` words of one size, `step` bytes each with the space before it.
    """

    words: tuple[str, ...] = COMMON_WORDS
    heads: tuple[str, ...] = ()  # none: one artificial word a beginning
    template_tokens: int = 0  # what the server adds to a prompt of one message
    exact: bool = False  # counted in tokens, not in words

    @property
    def head_bits(self) -> int:
        return max(1, len(self.heads).bit_length() - 1)

    @property
    def head_words(self) -> int:
        return -(-BITS // self.head_bits) if self.heads else 1

    @property
    def step(self) -> int:
        return len(self.heads[0]) + 1 if self.heads else UNIQUE_BYTES + 1

    @property
    def head_bytes(self) -> int:
        """Of a whole beginning, without a space before it."""
        return self.head_words * self.step - 1

    def beginnings(self, seed: int, index: NDArray[np.int64], purpose: str = "unique word") -> NDArray[np.uint8]:
        """Beginnings with a space before them, uint8 (count, 1 + head_bytes)."""
        found = np.full((len(index), self.head_words * self.step), ord(" "), np.uint8)
        if not self.heads:
            found[:, 1:] = unique_words(seed, index, purpose)
            return found
        x = scrambled(seed, index, purpose)
        letters = np.frombuffer("".join(self.heads).encode(), np.uint8).reshape(len(self.heads), -1)
        mask = np.uint64((1 << self.head_bits) - 1)
        for number in range(self.head_words):
            digit = (x >> np.uint64(number * self.head_bits)) & mask
            start = number * self.step + 1
            found[:, start : start + self.step - 1] = letters[digit]
        return found


def exact(count: Count, template_tokens: int) -> Vocabulary:
    """The words that are one token each by `count`, which may add a constant. ConfigError if they are too few, or if
    whole texts of them do not come out."""
    tried = ((word, count(f"{word} {word}")) for word in COMMON_WORDS[:BATCH_WORDS])
    known, twice = next(((word, two) for word, two in tried if count(f"{word} {word} {word}") == two + 1), ("", 0))
    if not known:
        raise ConfigError("workload.tokenizer: counts no word as one token; lengths can only be approximate with it")
    words = _single(count, twice - 2, COMMON_WORDS, known)
    # A beginning's first word has no space before it, which may be another token, or two.
    alone = {word: count(word) for word in words if len(word) == HEAD_LETTERS}
    constant = min(alone.values(), default=1) - 1
    heads = [word for word, tokens in alone.items() if tokens == 1 + constant]
    if min(len(words), len(heads)) < FEWEST_WORDS:
        raise ConfigError(
            f"workload.tokenizer: only {len(words)} of our {len(COMMON_WORDS)} words are single tokens in it, "
            f"{len(heads)} at a text's beginning; lengths can only be approximate with it"
        )
    size = 1 << (len(heads).bit_length() - 1)
    found = Vocabulary(tuple(words), tuple(heads[:size]), template_tokens, exact=True)
    random = generator(1, "vocabulary check", 0)
    for texts, length in CHECKS:
        for _ in range(texts):
            chosen = [found.heads[i] for i in random.integers(0, size, found.head_words)]
            chosen += [words[i] for i in random.integers(0, len(words), length)]
            got = count(" ".join(chosen)) - constant
            if got != len(chosen):
                raise ConfigError(
                    f"workload.tokenizer: {len(chosen)} words that are one token each are {got} together; lengths can "
                    "only be approximate with it"
                )
    return found


def _single(count: Count, constant: int, words: Sequence[str], known: str) -> list[str]:
    """Those of `words` that are one token each behind `known`, which counts as one and the constant."""
    found: list[str] = []
    waiting = [list(words[i : i + BATCH_WORDS]) for i in range(0, len(words), BATCH_WORDS)]
    while waiting:
        batch = waiting.pop(0)
        if count(" ".join([known, *batch])) - constant == 1 + len(batch):
            found += batch
        elif len(batch) > 1:
            half = len(batch) // 2
            waiting += [batch[:half], batch[half:]]
    return sorted(found, key=list(words).index)
