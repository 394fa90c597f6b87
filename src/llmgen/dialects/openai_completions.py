"""OpenAI completions (legacy): https://platform.openai.com/docs/api-reference/completions."""

from __future__ import annotations

from typing import Final

from llmgen.dialects.frame import Ask, Frame, build
from llmgen.dialects.openai_chat import openai_members
from llmgen.dialects.stream import End


class Completions:
    """A plain prompt without a chat template. Its stream ends as that of chat does."""

    name: Final = "completions"
    path: Final = "/v1/completions"
    scanner: Final = "completions"
    end: Final = End.done | End.finish
    max_tokens_field: Final = "max_tokens"
    prompt_field: Final = "prompt"

    def frame(self, ask: Ask) -> Frame:
        """The body of one class and model. ConfigError for an override that cannot be."""
        return build(openai_members(ask, self.max_tokens_field), self.prompt_field, (b'"', b'"'), ask)
