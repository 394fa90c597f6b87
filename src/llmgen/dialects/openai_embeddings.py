"""OpenAI embeddings: https://platform.openai.com/docs/api-reference/embeddings."""

from __future__ import annotations

from typing import Any, ClassVar

from llmgen.dialects.dialect import Dialect
from llmgen.dialects.frame import Ask, Frame, build


class Embeddings(Dialect):
    """One text a request, one vector back: whole answers, input tokens only."""

    name = "embeddings"
    path = "/v1/embeddings"
    scanner = "embeddings"
    streams = False
    tokens = False
    max_tokens_field = ""
    prompt_field = "input"
    knows: ClassVar = frozenset()

    def frame(self, ask: Ask) -> Frame:
        self.check(ask)
        members: dict[str, Any] = {} if ask.model is None else {"model": ask.model}
        return build(members, self.prompt_field, (b'"', b'"'), ask)
