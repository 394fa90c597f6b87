"""Random numbers keyed by (seed, purpose, index).

The number that belongs to request i is the same whoever asks for it, in whatever pieces, on however many workers: the
indices are cut into fixed blocks of DRAW_BLOCK, and each block has a counter-based generator of its own (Philox 4x64,
Salmon et al., SC'11), whose key is a hash of seed and purpose and whose highest counter word is the block's number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Large enough that making a generator (about 20 us) is lost in the drawing, small enough that the first block of a
# plan is quick.
DRAW_BLOCK: Final = 1 << 14

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


def key(seed: int, purpose: str) -> int:
    """128 bits that no other pair of seed and purpose has (up to a hash collision)."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest(), "little")


def generator(seed: int, purpose: str, block: int) -> np.random.Generator:
    """The generator of one block of indices."""
    return np.random.Generator(np.random.Philox(key=key(seed, purpose), counter=[0, 0, 0, block]))


def draw(seed: int, purpose: str, first: int, count: int, sample: Draw) -> NDArray[np.float64]:
    """The values of the indices first .. first + count - 1, float64 (count,).

    `sample(generator, n)` draws n values one after the other; a sampler may use as many raw numbers a value as it
    likes, since every block starts anew.
    """
    pieces = []
    end = first + count
    while first < end:
        block, skip = divmod(first, DRAW_BLOCK)
        size = min(DRAW_BLOCK - skip, end - first)
        pieces.append(sample(generator(seed, purpose, block), skip + size)[skip:])
        first += size
    if not pieces:
        return np.empty(0)
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def uniforms(seed: int, purpose: str, first: int, count: int) -> NDArray[np.float64]:
    """Uniform in [0, 1)."""
    return draw(seed, purpose, first, count, lambda g, n: g.random(n))


def normals(seed: int, purpose: str, first: int, count: int) -> NDArray[np.float64]:
    """Standard normal."""
    return draw(seed, purpose, first, count, lambda g, n: g.standard_normal(n))
