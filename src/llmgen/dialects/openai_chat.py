"""OpenAI chat completions: https://platform.openai.com/docs/api-reference/chat."""

from __future__ import annotations

from typing import Any, Final

from llmgen.dialects.frame import Ask, Frame, Slot, build
from llmgen.dialects.stream import End


class Chat:
    """One user message. A stream ends with ``data: [DONE]``; a choice ends with a finish_reason."""

    name: Final = "chat"
    path: Final = "/v1/chat/completions"
    scanner: Final = "chat"
    end: Final = End.done | End.finish
    # Every server takes it (vLLM, SGLang, llama.cpp, TGI, TensorRT-LLM); OpenAI's newer models want
    # max_completion_tokens: --max-tokens-field.
    max_tokens_field: Final = "max_tokens"
    prompt_field: Final = "messages"

    def frame(self, ask: Ask) -> Frame:
        """The body of one class and model. ConfigError for an override that cannot be."""
        return build(openai_members(ask, self.max_tokens_field), self.prompt_field, AROUND_MESSAGE, ask)


AROUND_MESSAGE: Final = (b'[{"role":"user","content":"', b'"}]')


def openai_members(ask: Ask, max_tokens_field: str) -> dict[str, Any]:
    """What both OpenAI text APIs share, in the order it is sent."""
    members: dict[str, Any] = {}
    if ask.model is not None:
        members["model"] = ask.model
    members["stream"] = ask.stream
    if ask.stream:
        members["stream_options"] = {"include_usage": True}
    if ask.exact_output:  # vLLM and SGLang take both; min_tokens also keeps stop tokens away
        members["ignore_eos"] = True
        members["min_tokens"] = Slot.output
    members[ask.max_tokens_field or max_tokens_field] = Slot.output
    return members
