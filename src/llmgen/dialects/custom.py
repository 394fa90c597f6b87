"""An API of one's own: a body as a template, and the places in its answers that mean something (docs/dialects.md)."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Final

from llmgen.config import CustomApi
from llmgen.dialects.dialect import Dialect
from llmgen.dialects.frame import Ask, Frame, Prompt, Slot, assemble, check_stream, encode
from llmgen.dialects.stream import End
from llmgen.errors import ConfigError
from llmgen.wire.rules import compile_rules

DONE_MARKER: Final = "[DONE]"
KEY: Final = "target.custom"
HOLES: Final = "{prompt}, {output}, {model} or {stream}"

# Places of CustomApi that are roles of the scanner by the same name, and those of its usage.
_ROLES: Final = ("text", "reasoning", "tool", "finish", "token_ids", "error", "done")
_COUNTS: Final = ("input", "output", "reasoning", "cached")


class Custom(Dialect):
    """What `target.custom` describes. ConfigError for a template or a place that cannot be."""

    name = "custom"
    scanner = "custom"
    max_tokens_field = ""
    prompt_field = ""
    knows: ClassVar = frozenset()

    def __init__(self, api: CustomApi) -> None:
        self.path = api.path if api.path.startswith("/") else "/" + api.path
        self.framing = "ndjson" if api.framing == "ndjson" else "sse"
        self.end = End.done | End.finish if api.done or api.finish else End.none
        self.rules = _rules(api)
        self.body = api.body
        if api.framing not in ("sse", "ndjson"):
            raise ConfigError(f"{KEY}.framing={api.framing!r}: write sse or ndjson")
        if not (api.text or api.reasoning or api.tool):
            raise ConfigError(f"{KEY}: names no text, reasoning or tool: without any, no token can be seen")

    def frame(self, ask: Ask) -> Frame:
        self.check(ask)
        check_stream(ask)
        members = {name: _filled(value, ask, f"{KEY}.body.{name}") for name, value in self.body.items()}
        return assemble({name: value for name, value in members.items() if value is not _ABSENT}, ask)


def _rules(api: CustomApi) -> list[tuple[str, str]]:
    """(path, role) for the scanner."""
    rules = []
    for role in _ROLES:
        for place in getattr(api, role):
            if role == "done" and place == DONE_MARKER:
                continue  # the scanner knows it; naming it promises it
            rules.append((_path(place, f"{KEY}.{role}"), role))
    for count in _COUNTS:
        rules += [(_path(p, f"{KEY}.usage.{count}"), f"{count}_tokens") for p in getattr(api.usage, count)]
    try:
        compile_rules(rules)
    except ValueError as error:
        raise ConfigError(f"{KEY}: {error}") from None
    return rules


def _path(place: str, key: str) -> str:
    """`place` as the scanner writes it: `$.a[*].b` and `a.*.b` are the same."""
    path = place.removeprefix("$").replace("[*]", ".*").lstrip(".")
    if not path or "" in path.split(".") or "[" in path or "]" in path:
        raise ConfigError(f"{key}={place!r}: no place; write keys with dots, * for every element: choices.*.text")
    return path


_ABSENT: Final = object()


def _filled(value: Any, ask: Ask, key: str) -> Any:
    """The template with its holes filled or made slots; _ABSENT where there is no model to name."""
    if isinstance(value, dict):
        members = {name: _filled(inner, ask, f"{key}.{name}") for name, inner in value.items()}
        return {name: inner for name, inner in members.items() if inner is not _ABSENT}
    if isinstance(value, (list, tuple)):
        return [item for item in (_filled(inner, ask, f"{key}[]") for inner in value) if item is not _ABSENT]
    if not isinstance(value, str):
        return value
    if value == "{output}":
        return Slot.output
    if value == "{stream}":
        return ask.stream
    if value == "{model}":
        return _ABSENT if ask.model is None else ask.model
    if "{prompt}" in value:
        if ask.whole_prompt and value == "{prompt}":
            return Prompt(b"", b"")
        if ask.whole_prompt:
            raise ConfigError(f"{key}={value!r}: own data fills a whole value; write just {{prompt}}")
        before, _, after = value.partition("{prompt}")
        return Prompt(encode(before, key)[:-1], encode(after, key)[1:])
    hole = re.fullmatch(r"\{\w+\}", value)
    if hole:
        raise ConfigError(f"{key}={value!r}: nothing of that name can be filled in; use {HOLES}")
    return value
