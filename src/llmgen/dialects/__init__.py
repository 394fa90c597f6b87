"""One file an API: how a body is built, where it is sent, what its events mean to the scanner."""

from __future__ import annotations

from typing import Final, Protocol

from llmgen.dialects.endpoint import endpoint_path
from llmgen.dialects.frame import Ask, Frame, Slot
from llmgen.dialects.openai_chat import Chat
from llmgen.dialects.openai_completions import Completions
from llmgen.dialects.stream import End
from llmgen.errors import ConfigError

__all__ = ["DIALECTS", "Ask", "Dialect", "End", "Frame", "Slot", "endpoint_path", "get"]


class Dialect(Protocol):
    """What `--api NAME` chooses."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str:
        """Of the endpoint on a server that serves it at its root, with the version: /v1/…"""

    @property
    def scanner(self) -> str:
        """Name of the rules in wire/scanner, for events and whole answers alike."""

    @property
    def end(self) -> End: ...

    @property
    def max_tokens_field(self) -> str: ...

    @property
    def prompt_field(self) -> str:
        """The member of the body that holds the prompt; overrides must not touch it."""

    def frame(self, ask: Ask) -> Frame: ...


DIALECTS: Final[dict[str, Dialect]] = {dialect.name: dialect for dialect in (Chat(), Completions())}


def get(name: str) -> Dialect:
    """The dialect of that name. ConfigError listing the known ones."""
    try:
        return DIALECTS[name]
    except KeyError:
        raise ConfigError(f"target.api={name!r}: unknown API; use one of {', '.join(DIALECTS)}") from None
