"""What every API has: the questions that planning, set-up and the worker ask of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Literal

from llmgen.credentials import BEARER, Key
from llmgen.dialects.frame import Ask, Frame
from llmgen.dialects.stream import End
from llmgen.errors import ConfigError

Framing = Literal["sse", "ndjson"]
ACCEPTS: Final[Mapping[Framing, str]] = {"sse": "text/event-stream", "ndjson": "application/x-ndjson"}


class Dialect:
    """What `--api NAME` chooses. The defaults are those of OpenAI's APIs."""

    name: str
    # Of the endpoint on a server that serves it at its root, with the version: /v1/…
    path: str
    # Name of the rules in wire/scanner, for events and whole answers alike.
    scanner: str
    # The rules themselves, where no name knows them.
    rules: Sequence[Any] | None = None
    # Any one of these signs makes a stream complete; none: a closed stream is complete.
    end: End = End.done | End.finish
    framing: Framing = "sse"
    streams: bool = True  # False: there are whole answers only
    tokens: bool = True  # False: answers bear no tokens
    # The member of the body that bounds the answer's length, and the one that holds the prompt.
    max_tokens_field: str
    prompt_field: str
    headers: ClassVar[Mapping[str, str]] = {}  # which every request must have; the user's win
    key: Key = BEARER
    # What of Ask this API has words for, of: exact_output, continuous_usage, max_tokens_field
    knows: ClassVar[frozenset[str]] = frozenset({"max_tokens_field"})

    @property
    def accept(self) -> str:
        """The media type of a stream."""
        return ACCEPTS[self.framing]

    def frame(self, ask: Ask) -> Frame:
        """The body of one class and model. ConfigError for an override that cannot be."""
        raise NotImplementedError

    def check(self, ask: Ask) -> None:
        """ConfigError for a wish that this API has no words for."""
        for wish, cure in WISHES.items():
            if getattr(ask, wish) and wish not in self.knows:
                raise ConfigError(f"workload.{wish}: target.api={self.name!r} has no field for it; {cure}")


WISHES: Final[Mapping[str, str]] = {
    "exact_output": "leave it out, or add what your server takes with --body (target.custom.body for a custom API)",
    "continuous_usage": "leave it out: it is for chat and completions on vLLM and SGLang",
    "max_tokens_field": "leave it out (a custom API names its own in target.custom.body)",
}
