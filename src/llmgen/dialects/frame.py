"""The bytes around a prompt: one JSON body as fixed pieces with slots for what differs from request to request."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from llmgen.errors import ConfigError


class Slot(enum.Enum):
    """What is filled in a request at a time."""

    prompt = "prompt"  # text, already escaped for a JSON string
    output = "output"  # planned_output, a decimal number


@dataclass(frozen=True)
class Prompt:
    """Where the prompt goes in a body's members: raw JSON before and after it, quotes included."""

    before: bytes
    after: bytes


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
    continuous_usage: bool = False
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
    check_stream(ask)


def check_stream(ask: Ask) -> None:
    if "stream" in ask.overrides and ask.overrides["stream"] is not ask.stream:
        raise ConfigError(
            f"{ask.key}.stream={ask.overrides['stream']!r}: use workload.stream or --no-stream, so that the answer "
            "is read as what it is"
        )


def build(members: dict[str, Any], prompt_field: str, around: tuple[bytes, bytes], ask: Ask) -> Frame:
    """The frame of a body object: `members` in order, overrides merged, then `prompt_field` with `around` the prompt.

    The prompt comes last but for members that only the overrides bring, so that what differs lies together.
    """
    check_overrides(ask, prompt_field)
    prompt = Prompt(b"", b"") if ask.whole_prompt else Prompt(*around)
    return assemble({**members, prompt_field: prompt}, ask)


def assemble(members: dict[str, Any], ask: Ask) -> Frame:
    """The frame of `members` with the overrides merged in. Wherever a Slot.output stands, it is filled in a request at
    a time; a Prompt stands exactly once. ConfigError if an override took that away.
    """
    merged = merge(members, ask.overrides)
    output = _fixed_output(members, merged, ask)
    pieces: list[Piece] = _pieces(merged, ask.key, output)
    times = pieces.count(Slot.prompt)
    if times != 1:
        raise ConfigError(f"{ask.key}: the body holds the prompt {times} times; it must stand there exactly once")
    return Frame(_joined(pieces), output)


def _pieces(value: Any, key: str, output: int) -> list[Piece]:
    """JSON of a value that may hold slots, as pieces; slots for the output are `output` if that is fixed."""
    if isinstance(value, Prompt):
        return [value.before, Slot.prompt, value.after]
    if isinstance(value, Slot):
        return [value if output < 0 else b"%d" % output]
    if not _holds_slot(value):
        return [encode(value, key)]
    pieces: list[Piece] = []
    if isinstance(value, dict):
        for number, (name, inner) in enumerate(value.items()):
            pieces.append((b"," if number else b"{") + encode(name, key) + b":")
            pieces += _pieces(inner, f"{key}.{name}", output)
        return [*pieces, b"}"]
    for number, inner in enumerate(value):
        pieces.append(b"," if number else b"[")
        pieces += _pieces(inner, f"{key}[{number}]", output)
    return [*pieces, b"]"]


def _holds_slot(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_slot, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_holds_slot, value))
    return isinstance(value, (Slot, Prompt))


def _fixed_output(members: dict[str, Any], merged: Any, ask: Ask) -> int:
    """The output limit that an override put in the place of the planned one; -1: none did."""
    for path in _limits(members):
        value = merged
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if value is None or isinstance(value, Slot):
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(
                f"{ask.key}.{'.'.join(path)}={value!r}: must be a whole number, 1 or above (or null: no limit)"
            )
        return value
    return -1


def _limits(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where the planned output stands as a limit."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name != "min_tokens":
                yield from _limits(inner, (*path, name))
    elif value is Slot.output:
        yield path


def _joined(pieces: list[Piece]) -> tuple[Piece, ...]:
    joined: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, bytes) and joined and isinstance(joined[-1], bytes):
            joined[-1] += piece
        else:
            joined.append(piece)
    return tuple(joined)
