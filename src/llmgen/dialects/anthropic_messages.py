"""Anthropic messages: https://docs.anthropic.com/en/api/messages and …/en/api/messages-streaming."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from llmgen.credentials import Key
from llmgen.dialects.dialect import Dialect
from llmgen.dialects.frame import Ask, Frame, Slot, build
from llmgen.dialects.openai_chat import AROUND_MESSAGE, model_and_stream
from llmgen.dialects.stream import End


class Messages(Dialect):
    """One user message. A stream ends with ``message_stop``; the key goes in ``x-api-key``."""

    name = "messages"
    path = "/v1/messages"
    scanner = "messages"
    end = End.done
    max_tokens_field = "max_tokens"
    prompt_field = "messages"
    # The API refuses requests without a version; this one has been the only one since June 2023.
    headers: ClassVar[Mapping[str, str]] = {"anthropic-version": "2023-06-01"}
    key = Key("x-api-key", "", "ANTHROPIC_API_KEY")

    def frame(self, ask: Ask) -> Frame:
        self.check(ask)
        members = model_and_stream(ask)
        members[ask.max_tokens_field or self.max_tokens_field] = Slot.output
        return build(members, self.prompt_field, AROUND_MESSAGE, ask)
