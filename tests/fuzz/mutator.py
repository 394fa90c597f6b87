"""Changes bytes the way a fuzzer does, and cuts them into reads. Everything comes from the generator that is given."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

LONGEST = 4096  # bytes of an input: long enough for every small limit, short enough for thousands of runs a second
EDGES = (0, 1, 9, 10, 13, 32, 34, 92, 127, 128, 255)  # bytes where a reader decides something


def mutate(rng: Random, data: bytes, tokens: Sequence[bytes], corpus: Sequence[bytes]) -> bytes:
    """`data` after one to eight changes. `tokens` have a meaning in the format; `corpus` is there to splice with."""
    changed = bytearray(data)
    for _ in range(1 << rng.randrange(4)):
        _change(rng, changed, tokens, corpus)
    return bytes(changed[:LONGEST])


def _change(rng: Random, data: bytearray, tokens: Sequence[bytes], corpus: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + (rng.randrange(1, 9) if rng.random() < 0.7 else rng.randrange(1, 257)))
    kind = rng.randrange(12)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1 and at < len(data):
        data[at] = rng.choice(EDGES) if rng.random() < 0.5 else rng.randrange(256)
    elif kind == 2:
        del data[at:end]
    elif kind == 3:
        data[at:at] = data[at:end] * rng.choice((1, 1, 1, 2, 40))
    elif kind == 4:
        data[at:at] = rng.choice(tokens)
    elif kind == 5:
        token = rng.choice(tokens)
        data[at : at + len(token)] = token
    elif kind == 6:
        data[at:at] = rng.randbytes(rng.randrange(1, 9))
    elif kind == 7:
        other = rng.choice(corpus)
        start = rng.randrange(len(other) + 1)
        data[at:] = other[start:]
    elif kind == 8 and at < len(data):
        data[at] = (data[at] + rng.choice((-1, 1))) % 256
    elif kind == 9:
        del data[at:]
    elif kind >= 10:
        _change_lines(rng, data)


def _change_lines(rng: Random, data: bytearray) -> None:
    """For formats of lines: repeats, moves, drops or indents some."""
    lines = bytes(data).split(b"\n")
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(4)
    if kind == 0:
        lines.insert(at, lines[other])
    elif kind == 1:
        lines.insert(at, lines.pop(other))
    elif kind == 2:
        del lines[at]
    else:
        for n in range(at, min(len(lines), at + rng.randrange(1, 4))):
            lines[n] = (
                rng.choice((b" ", b"\t")) + lines[n].lstrip()[: rng.choice((0, 0, 99))] + b"\r" * rng.randrange(2)
            )
    data[:] = b"\n".join(lines)


def cut(rng: Random, data: bytes) -> list[bytes]:
    """The bytes as reads bring them: one by one, in a few pieces, or in pieces of one size."""
    way = rng.randrange(4)
    if way == 0 and len(data) < 400:
        edges = list(range(len(data) + 1))
    elif way == 1:
        size = rng.randrange(1, 64)
        edges = [*range(0, len(data), size), len(data)]
    else:
        edges = sorted({0, len(data), *(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 9)))})
    return [data[a:b] for a, b in zip(edges, edges[1:], strict=False) if a < b]  # noqa: RUF007 (no import a call)
