"""OpenAI chat completions: https://platform.openai.com/docs/api-reference/chat."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from llmgen.dialects.dialect import Dialect
from llmgen.dialects.frame import Ask, Frame, Slot, build

AROUND_MESSAGE: Final = (b'[{"role":"user","content":"', b'"}]')


class Chat(Dialect):
    """One user message. A stream ends with ``data: [DONE]``; a choice ends with a finish_reason."""

    name = "chat"
    path = "/v1/chat/completions"
    scanner = "chat"
    # Every server takes it (vLLM, SGLang, llama.cpp, TGI, TensorRT-LLM); OpenAI's newer models want
    # max_completion_tokens: --max-tokens-field.
    max_tokens_field = "max_tokens"
    prompt_field = "messages"
    knows: ClassVar = frozenset({"exact_output", "continuous_usage", "max_tokens_field"})

    def frame(self, ask: Ask) -> Frame:
        return build(openai_members(ask, self.max_tokens_field), self.prompt_field, AROUND_MESSAGE, ask)


def openai_members(ask: Ask, max_tokens_field: str) -> dict[str, Any]:
    """What both OpenAI text APIs share, in the order it is sent."""
    members = model_and_stream(ask)
    if ask.stream:
        members["stream_options"] = {"include_usage": True}
        if ask.continuous_usage:  # vLLM and SGLang: the tokens so far in every event
            members["stream_options"]["continuous_usage_stats"] = True
    if ask.exact_output:  # vLLM and SGLang take both; min_tokens also keeps stop tokens away
        members["ignore_eos"] = True
        members["min_tokens"] = Slot.output
    members[ask.max_tokens_field or max_tokens_field] = Slot.output
    return members


def model_and_stream(ask: Ask) -> dict[str, Any]:
    """With what the bodies of nearly all APIs begin."""
    members: dict[str, Any] = {} if ask.model is None else {"model": ask.model}
    members["stream"] = ask.stream
    return members
