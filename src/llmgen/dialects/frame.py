"""The bytes around a prompt: one JSON body as fixed pieces with slots for what differs from request to request."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from typing import Any

from llmgen.errors import ConfigError


class Slot(enum.Enum):
    """What is filled in a request at a time."""

    prompt = "prompt"  # text, already escaped for a JSON string
    output = "output"  # planned_output, a decimal number


Piece = bytes | Slot


@dataclass(frozen=True)
class Frame:
    """A body: pieces in order, exactly one of them the prompt.

    `output` is what the body asks for when no slot does: a number that an override fixed, or -1 (no limit asked).
    """

    pieces: tuple[Piece, ...]
    output: int = -1

    def __post_init__(self) -> None:
        if self.pieces.count(Slot.prompt) != 1:
            raise ValueError("a frame has exactly one prompt")

    @property
    def asks_output(self) -> bool:
        return Slot.output in self.pieces

    def fill(self, prompt: bytes, planned_output: int) -> bytes:
        """The whole body of one request; the plan's writer does the same for many at once."""
        values = {Slot.prompt: prompt, Slot.output: b"%d" % planned_output}
        return b"".join(piece if isinstance(piece, bytes) else values[piece] for piece in self.pieces)


@dataclass(frozen=True)
class Ask:
    """What the configuration wants of every body of one class and model."""

    model: str | None = None  # None: the body names no model
    stream: bool = True
    exact_output: bool = False
    max_tokens_field: str | None = None  # None: the dialect's
    overrides: dict[str, Any] = field(default_factory=dict)  # `body:`, merged last
    key: str = "workload.body"  # where the overrides stand, for errors
    whole_prompt: bool = False  # the slot takes the prompt field's whole JSON value, not a text inside it


def merge(base: Any, patch: Any) -> Any:
    """`patch` over `base` as in RFC 7396 (JSON Merge Patch): objects merge, null removes, anything else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(base) if isinstance(base, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), value)
    return merged


def compose(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """One patch that does what `first` and then `second` would do; a null stays, it is to remove from the body."""
    composed = dict(first)
    for name, value in second.items():
        before = composed.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            composed[name] = compose(before, value)
        else:
            composed[name] = value
    return composed


def encode(value: Any, key: str) -> bytes:
    """Compact JSON. ConfigError naming `key` for what JSON cannot hold."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:  # UnicodeEncodeError (lone surrogates) is a ValueError
        raise ConfigError(f"{key}: cannot be written as JSON: {error}") from None


def check_overrides(ask: Ask, prompt_field: str) -> None:
    """ConfigError if an override would take away what the run stands on."""
    if prompt_field in ask.overrides:
        raise ConfigError(
            f"{ask.key}.{prompt_field}: would replace the prompt that llmgen builds; leave it out and set "
            "workload.input (--input-tokens)"
        )
    if "stream" in ask.overrides and ask.overrides["stream"] is not ask.stream:
        raise ConfigError(
            f"{ask.key}.stream={ask.overrides['stream']!r}: use workload.stream or --no-stream, so that the answer "
            "is read as what it is"
        )


def build(members: dict[str, Any], prompt_field: str, around: tuple[bytes, bytes], ask: Ask) -> Frame:
    """The frame of a body object: `members` in order, overrides merged, then `prompt_field` with `around` the prompt.

    A member whose value is Slot.output is filled in a request at a time. The prompt comes last but for members that
    only the overrides bring, so that what differs lies together.
    """
    check_overrides(ask, prompt_field)
    merged = merge({**members, prompt_field: Slot.prompt}, ask.overrides)
    output = _fixed_output(members, merged, ask)
    if output > 0:
        merged = {name: output if value is Slot.output else value for name, value in merged.items()}
    pieces: list[Piece] = [b"{"]
    for number, (name, value) in enumerate(merged.items()):
        pieces.append((b"," if number else b"") + encode(name, ask.key) + b":")
        if value is Slot.prompt:
            pieces += [Slot.prompt] if ask.whole_prompt else [around[0], Slot.prompt, around[1]]
        else:
            pieces.append(value if isinstance(value, Slot) else encode(value, f"{ask.key}.{name}"))
    pieces.append(b"}")
    return Frame(_joined(pieces), output)


def _fixed_output(members: dict[str, Any], merged: dict[str, Any], ask: Ask) -> int:
    """The output limit that an override put in the place of the planned one; -1: none did."""
    limits = [name for name, value in members.items() if value is Slot.output and name != "min_tokens"]
    for name in limits:
        value = merged.get(name)
        if value is None or isinstance(value, Slot):
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{ask.key}.{name}={value!r}: must be a whole number, 1 or above (or null: no limit)")
        return value
    return -1


def _joined(pieces: list[Piece]) -> tuple[Piece, ...]:
    joined: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, bytes) and joined and isinstance(joined[-1], bytes):
            joined[-1] += piece
        else:
            joined.append(piece)
    return tuple(joined)
