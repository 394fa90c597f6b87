"""Which places in an API's JSON mean what to the scanner, and their compilation into a trie.

A rule is ``(path, role)`` or ``(path, role, guard)``. A path is a string with dots, or a tuple of keys if a key has a
dot; ``*`` stands for every element of an array. A guard ``(path, value, ...)`` makes the rule hold only in events where
the string at that path (without ``*``) is one of the values, wherever in the event it stands.

Roles: ``text`` (visible), ``reasoning`` and ``tool`` are generated strings; ``role`` the role; ``finish`` the finish
reason; ``input_tokens``, ``output_tokens``, ``reasoning_tokens`` and ``cached_tokens`` whole numbers;
``input_tokens_beside`` and ``cached_tokens_beside`` parts of the prompt that the event's input_tokens leave out (they
are added; the latter are cached tokens, too); ``token_ids`` an array of numbers, which are counted; ``error`` any value
but null, false and ""; ``done`` true or any string: the answer is over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, TypeAlias

Path: TypeAlias = str | tuple[str, ...]
Guard: TypeAlias = tuple[Path, *tuple[str, ...]]
Rule: TypeAlias = tuple[Path, str] | tuple[Path, str, Guard]

TEXT_ROLES: Final = frozenset({"text", "reasoning", "tool"})
TOKEN_ROLES: Final = frozenset(
    {
        "input_tokens",
        "output_tokens",
        "reasoning_tokens",
        "cached_tokens",
        "input_tokens_beside",
        "cached_tokens_beside",
    }
)
ROLES: Final = TEXT_ROLES | TOKEN_ROLES | {"role", "finish", "token_ids", "error", "done"}

LONGEST: Final = 128  # bytes of a key or guard value; the scanner's buffer for escaped ones is sized by it
MAX_GUARDS: Final = 32  # bits of a uint32

# OpenAI's usage object, as vLLM, SGLang, llama.cpp and gateways send it too.
_OPENAI_USAGE: Final[tuple[Rule, ...]] = (
    ("usage.prompt_tokens", "input_tokens"),
    ("usage.completion_tokens", "output_tokens"),
    ("usage.completion_tokens_details.reasoning_tokens", "reasoning_tokens"),
    ("usage.prompt_tokens_details.cached_tokens", "cached_tokens"),
    ("usage.reasoning_tokens", "reasoning_tokens"),  # SGLang
)

# {"error": {...}}; {"object": "error", "message": ...} is vLLM's older form.
_OPENAI_ERROR: Final[tuple[Rule, ...]] = (("error", "error"), ("message", "error", ("object", "error")))


def _chat_message(at: str) -> tuple[Rule, ...]:
    """What stands in `delta` of a chunk and in `message` of a whole answer."""
    return (
        (f"{at}.role", "role"),
        (f"{at}.content", "text"),
        (f"{at}.refusal", "text"),
        (f"{at}.content.*.text", "text"),  # content in parts
        (f"{at}.content.*.thinking.*.text", "reasoning"),  # Mistral's reasoning models
        (f"{at}.reasoning_content", "reasoning"),  # DeepSeek, vLLM, SGLang, llama.cpp
        (f"{at}.reasoning", "reasoning"),  # OpenRouter, newer vLLM
        (f"{at}.tool_calls.*.function.name", "tool"),
        (f"{at}.tool_calls.*.function.arguments", "tool"),
        (f"{at}.tool_calls.*.custom.name", "tool"),
        (f"{at}.tool_calls.*.custom.input", "tool"),
        (f"{at}.function_call.name", "tool"),
        (f"{at}.function_call.arguments", "tool"),
    )


_CHAT: Final[tuple[Rule, ...]] = (
    *_chat_message("choices.*.delta"),
    *_chat_message("choices.*.message"),
    ("choices.*.finish_reason", "finish"),
    ("choices.*.token_ids", "token_ids"),  # vLLM's return_token_ids
    *_OPENAI_USAGE,
    *_OPENAI_ERROR,
)

_COMPLETIONS: Final[tuple[Rule, ...]] = (
    ("choices.*.text", "text"),
    ("choices.*.finish_reason", "finish"),
    ("choices.*.token_ids", "token_ids"),
    *_OPENAI_USAGE,
    *_OPENAI_ERROR,
)


def _responses_usage(at: str) -> tuple[Rule, ...]:
    return (
        (f"{at}.input_tokens", "input_tokens"),
        (f"{at}.output_tokens", "output_tokens"),
        (f"{at}.output_tokens_details.reasoning_tokens", "reasoning_tokens"),
        (f"{at}.input_tokens_details.cached_tokens", "cached_tokens"),
    )


# OpenAI's Responses API. Events name themselves in `type`; a whole answer is the response object. The text that
# `response.*.done` and `response.completed` repeat is no new token and has no rule.
_RESPONSE_ENDS: Final = ("response.completed", "response.incomplete", "response.failed")
_RESPONSES: Final[tuple[Rule, ...]] = (
    ("delta", "text", ("type", "response.output_text.delta", "response.refusal.delta")),
    ("delta", "reasoning", ("type", "response.reasoning_text.delta", "response.reasoning_summary_text.delta")),
    (
        "delta",
        "tool",
        (
            "type",
            "response.function_call_arguments.delta",
            "response.custom_tool_call_input.delta",
            "response.mcp_call_arguments.delta",
            "response.code_interpreter_call_code.delta",
        ),
    ),
    ("item.name", "tool", ("type", "response.output_item.added")),
    ("item.role", "role", ("type", "response.output_item.added")),
    ("response.status", "finish", ("type", "response.completed")),
    ("response.incomplete_details.reason", "finish"),
    ("type", "done", ("type", *_RESPONSE_ENDS)),
    *_responses_usage("response.usage"),
    ("response.error", "error"),
    ("message", "error", ("type", "error")),
    # a whole answer
    ("output.*.content.*.text", "text"),
    ("output.*.content.*.refusal", "text"),
    ("output.*.summary.*.text", "reasoning"),
    ("output.*.name", "tool"),
    ("output.*.arguments", "tool"),
    ("output.*.role", "role"),
    ("status", "finish", ("status", "completed")),  # incomplete says why elsewhere
    ("incomplete_details.reason", "finish"),
    *_responses_usage("usage"),
    ("error", "error"),
)

# Anthropic's Messages API: members are told apart by their keys; `type` matters for the end and for errors only. Its
# input_tokens are those that were neither read from its cache nor written to it.
_MESSAGES: Final[tuple[Rule, ...]] = (
    ("delta.text", "text"),
    ("delta.thinking", "reasoning"),
    ("delta.partial_json", "tool"),
    ("delta.stop_reason", "finish"),
    ("content_block.text", "text"),
    ("content_block.thinking", "reasoning"),
    ("content_block.name", "tool"),
    ("message.role", "role"),
    ("message.usage.input_tokens", "input_tokens"),
    ("message.usage.output_tokens", "output_tokens"),
    ("message.usage.cache_read_input_tokens", "cached_tokens_beside"),
    ("message.usage.cache_creation_input_tokens", "input_tokens_beside"),
    ("usage.input_tokens", "input_tokens"),
    ("usage.output_tokens", "output_tokens"),
    ("usage.cache_read_input_tokens", "cached_tokens_beside"),
    ("usage.cache_creation_input_tokens", "input_tokens_beside"),
    ("type", "done", ("type", "message_stop")),
    ("error", "error"),
    # a whole answer
    ("content.*.text", "text"),
    ("content.*.thinking", "reasoning"),
    ("content.*.name", "tool"),
    ("role", "role"),
    ("stop_reason", "finish"),
)

# Ollama's /api/chat and /api/generate, one JSON document a line.
_OLLAMA: Final[tuple[Rule, ...]] = (
    ("message.content", "text"),
    ("message.thinking", "reasoning"),
    ("message.tool_calls.*.function.name", "tool"),
    ("message.role", "role"),
    ("response", "text"),
    ("thinking", "reasoning"),
    ("done", "done"),
    ("done_reason", "finish"),
    ("prompt_eval_count", "input_tokens"),
    ("eval_count", "output_tokens"),
    ("error", "error"),
)

# OpenAI's embeddings: no tokens come back; `role` stands for an item that is there ("object": "embedding").
_EMBEDDINGS: Final[tuple[Rule, ...]] = (
    ("data.*.object", "role"),
    ("usage.prompt_tokens", "input_tokens"),
    *_OPENAI_ERROR,
)

# Text Generation Inference's own API; `generated_text` repeats a stream's text in its last event, and is a whole
# answer's only text.
_TGI: Final[tuple[Rule, ...]] = (
    ("token.text", "text"),
    ("generated_text", "text"),
    ("*.generated_text", "text"),
    ("details.finish_reason", "finish"),
    ("details.generated_tokens", "output_tokens"),
    ("details.input_length", "input_tokens"),
    ("error", "error"),
)

DIALECTS: Final[Mapping[str, tuple[Rule, ...]]] = MappingProxyType(
    {
        "chat": _CHAT,
        "completions": _COMPLETIONS,
        "responses": _RESPONSES,
        "messages": _MESSAGES,
        "ollama": _OLLAMA,
        "embeddings": _EMBEDDINGS,
        "tgi": _TGI,
    }
)


@dataclass
class Node:
    """A place in the document."""

    children: dict[bytes, int] = field(default_factory=dict)
    element: int = 0  # node of an array's elements; 0: no rules there
    role: str | None = None
    cases: list[tuple[int, str]] = field(default_factory=list)  # (guard bits, role)
    guards: dict[bytes, int] = field(default_factory=dict)  # value: guard bits it sets


@dataclass
class Trie:
    """`nodes[0]` is a place without rules, `nodes[1]` the document."""

    nodes: list[Node] = field(default_factory=lambda: [Node(), Node()])
    guard_bits: dict[tuple[int, bytes], int] = field(default_factory=dict)  # (node, value): bit

    def place(self, path: Path) -> int:
        """The node of a path, made if it is new."""
        at = 1
        for key in path.split(".") if isinstance(path, str) else path:
            node = self.nodes[at]
            known = node.element if key == "*" else node.children.get(_encoded(key, path), 0)
            if not known:
                known = len(self.nodes)
                self.nodes.append(Node())
                if key == "*":
                    node.element = known
                else:
                    node.children[_encoded(key, path)] = known
            at = known
        return at

    def guard(self, guard: Guard) -> int:
        """Bits of which one is set when the guard holds."""
        path, *values = guard
        keys = path.split(".") if isinstance(path, str) else path
        if not values or "*" in keys:
            raise ValueError(f"guard {guard!r}: needs a path without * and at least one value")
        at, bits = self.place(path), 0
        for value in values:
            key = (at, _encoded(value, path))
            bit = self.guard_bits.setdefault(key, 1 << len(self.guard_bits))
            self.nodes[at].guards[key[1]] = bit
            bits |= bit
        if len(self.guard_bits) > MAX_GUARDS:
            raise ValueError(f"guard {guard!r}: more than {MAX_GUARDS} guard values in one dialect")
        return bits

    def add(self, at: int, role: str, bits: int, path: Path) -> None:
        node = self.nodes[at]
        if bits:
            node.cases.append((bits, role))
        elif node.role not in (None, role):
            raise ValueError(f"rule {path!r}: has the roles {node.role} and {role}, and only one can always hold")
        else:
            node.role = role

    def memorable(self) -> bool:
        """Whether a text's bytes decide nothing but the text itself (see scanner.pyx, "Memory")."""
        for node in self.nodes:
            roles = {role for _, role in node.cases} | ({node.role} if node.role else set())
            if roles & TEXT_ROLES and (node.guards or roles - TEXT_ROLES):
                return False
        return True


def _encoded(text: str, path: Path) -> bytes:
    data = text.encode()
    if not 0 < len(data) <= LONGEST:
        raise ValueError(f"path {path!r}: {text!r} must have 1 to {LONGEST} bytes")
    return data


def compile_rules(rules: Sequence[Rule]) -> Trie:
    """ValueError names the rule that cannot be compiled."""
    trie = Trie()
    for rule in rules:
        if len(rule) not in (2, 3):
            raise ValueError(f"rule {rule!r}: must be (path, role) or (path, role, guard)")
        path, role = rule[0], rule[1]
        if role not in ROLES:
            raise ValueError(f"rule {rule!r}: unknown role {role!r}; known are {', '.join(sorted(ROLES))}")
        bits = trie.guard(rule[2]) if len(rule) == 3 else 0
        at = trie.place(path)
        trie.add(at, role, bits, path)
        if role == "token_ids":
            element = (*path.split("."), "*") if isinstance(path, str) else (*path, "*")
            trie.add(trie.place(element), "token_id", bits, path)
    if len(trie.nodes) > 0xFFFF:
        raise ValueError(f"{len(rules)} rules: more than 65,535 places")
    return trie
