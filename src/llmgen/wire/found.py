"""What Scanner.scan returns."""

from __future__ import annotations

import enum
from typing import Any, NamedTuple


class Kind(enum.IntFlag):
    """What an event carries; the same bits as columns.Kind."""

    text = 1
    reasoning = 2
    tool = 4
    role = 8
    finish = 16
    usage = 32
    error = 64


class Found(NamedTuple):
    """What one event carries.

    `text`: the first visible text, else the first reasoning or tool string, escapes resolved. `usage`: those of
    input_tokens, output_tokens, reasoning_tokens and cached_tokens that the event tells. `finish`: the reason as the
    server wrote it. `error`: the error member, decoded. `done`: [DONE], or the event itself ends the answer.
    `token_ids`: how many it holds.
    """

    kind: Kind
    text: str | None
    usage: dict[str, int] | None
    finish: str | None
    error: Any
    done: bool = False
    token_ids: int | None = None
