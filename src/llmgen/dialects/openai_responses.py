"""OpenAI responses: https://platform.openai.com/docs/api-reference/responses and its streaming events."""

from __future__ import annotations

from llmgen.dialects.dialect import Dialect
from llmgen.dialects.frame import Ask, Frame, Slot, build
from llmgen.dialects.openai_chat import model_and_stream
from llmgen.dialects.stream import End


class Responses(Dialect):
    """One input text. A stream ends with ``response.completed``, ``.incomplete`` or ``.failed``."""

    name = "responses"
    path = "/v1/responses"
    scanner = "responses"
    end = End.done
    max_tokens_field = "max_output_tokens"
    prompt_field = "input"

    def frame(self, ask: Ask) -> Frame:
        self.check(ask)
        members = model_and_stream(ask)
        members["store"] = False  # by default the answers would be kept for later turns, which never come
        members[ask.max_tokens_field or self.max_tokens_field] = Slot.output
        return build(members, self.prompt_field, (b'"', b'"'), ask)
