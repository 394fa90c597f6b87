"""OpenAI completions (legacy): https://platform.openai.com/docs/api-reference/completions."""

from __future__ import annotations

from typing import ClassVar

from llmgen.dialects.dialect import Dialect
from llmgen.dialects.frame import Ask, Frame, build
from llmgen.dialects.openai_chat import openai_members


class Completions(Dialect):
    """A plain prompt without a chat template. Its stream ends as that of chat does."""

    name = "completions"
    path = "/v1/completions"
    scanner = "completions"
    max_tokens_field = "max_tokens"
    prompt_field = "prompt"
    knows: ClassVar = frozenset({"exact_output", "continuous_usage", "max_tokens_field"})

    def frame(self, ask: Ask) -> Frame:
        return build(openai_members(ask, self.max_tokens_field), self.prompt_field, (b'"', b'"'), ask)
