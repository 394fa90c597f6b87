"""Ollama chat: https://github.com/ollama/ollama/blob/main/docs/api.md."""

from __future__ import annotations

from llmgen.dialects.dialect import Dialect
from llmgen.dialects.frame import Ask, Frame, Slot, build
from llmgen.dialects.openai_chat import AROUND_MESSAGE, model_and_stream
from llmgen.dialects.stream import End


class Ollama(Dialect):
    """One user message. A stream is one JSON document a line; the last one says ``"done": true``."""

    name = "ollama"
    path = "/api/chat"
    scanner = "ollama"
    end = End.done
    framing = "ndjson"
    max_tokens_field = "num_predict"  # in `options`
    prompt_field = "messages"

    def frame(self, ask: Ask) -> Frame:
        self.check(ask)
        members = model_and_stream(ask)
        members["options"] = {ask.max_tokens_field or self.max_tokens_field: Slot.output}
        return build(members, self.prompt_field, AROUND_MESSAGE, ask)
