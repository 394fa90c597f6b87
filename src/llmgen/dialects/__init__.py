"""One file an API: how a body is built, where it is sent, what its events mean to the scanner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llmgen.dialects.anthropic_messages import Messages
from llmgen.dialects.custom import Custom
from llmgen.dialects.dialect import Dialect
from llmgen.dialects.endpoint import endpoint_path
from llmgen.dialects.frame import Ask, Frame, Slot
from llmgen.dialects.ollama import Ollama
from llmgen.dialects.openai_chat import Chat
from llmgen.dialects.openai_completions import Completions
from llmgen.dialects.openai_embeddings import Embeddings
from llmgen.dialects.openai_responses import Responses
from llmgen.dialects.stream import End
from llmgen.errors import ConfigError

if TYPE_CHECKING:
    from llmgen.config import Target

__all__ = ["DIALECTS", "Ask", "Dialect", "End", "Frame", "Slot", "endpoint_path", "get", "of"]

DIALECTS: Final[dict[str, Dialect]] = {
    dialect.name: dialect for dialect in (Chat(), Completions(), Responses(), Messages(), Ollama(), Embeddings())
}


def of(target: Target) -> Dialect:
    """The dialect of a target: `target.api`, or what `target.custom` describes. ConfigError."""
    if target.custom is not None:
        if target.api not in (Custom.name, "chat"):  # chat: the default
            raise ConfigError(f"target.api={target.api!r}: contradicts target.custom; write custom, or leave one out")
        return Custom(target.custom)
    return get(target.api)


def get(name: str) -> Dialect:
    """The dialect of that name. ConfigError listing the known ones."""
    if name == Custom.name:
        raise ConfigError("target.api='custom': needs target.custom, which describes the API (docs/dialects.md)")
    try:
        return DIALECTS[name]
    except KeyError:
        known = ", ".join((*DIALECTS, Custom.name))
        raise ConfigError(f"target.api={name!r}: unknown API; use one of {known}") from None
