"""Streams as real servers send them: recorded from llama.cpp, and written after the official documentation's examples.

tests/fixtures/*.sse: llamacpp_* are the bytes of llama-cpp-python's server (tests/integration/test_llamacpp.py renews
them); vllm_*, openai_* and tgi_* follow the examples of vLLM's, OpenAI's and TGI's API references.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from llmgen.wire import scanner, sse
from llmgen.wire.scanner import Found, Kind

FIXTURES = Path(__file__).parents[2] / "fixtures"
TOKENS = Kind.text | Kind.reasoning | Kind.tool


class Stream(NamedTuple):
    """What a fixture holds, by hand."""

    dialect: str
    tokens: int  # events with generated content
    others: list[Kind]  # kinds of the rest, in order; the last token event may bear the finish reason
    finish: str
    usage: dict[str, int] | None
    text: str  # of all token events


STREAMS: dict[str, Stream] = {
    "vllm_chat": Stream(
        "chat",
        5,
        [Kind.role, Kind.finish, Kind.usage],
        "stop",
        {"input_tokens": 14, "output_tokens": 6, "cached_tokens": 8},
        'The sky is "blue".\n',
    ),
    "vllm_reasoning_chat": Stream(
        "chat",
        5,
        [Kind.role, Kind.finish, Kind.usage],
        "stop",
        {"input_tokens": 9, "output_tokens": 6, "reasoning_tokens": 3},
        'Okay, {"content": "x"}\n\n\n42',
    ),
    "openai_chat": Stream(
        "chat",
        4,
        [Kind.role, Kind.finish, Kind.usage],
        "stop",
        {"input_tokens": 19, "output_tokens": 5, "reasoning_tokens": 0, "cached_tokens": 0},
        "Hello! Grüße 👋",
    ),
    "openai_tool_calls": Stream(
        "chat",
        8,
        [Kind.finish, Kind.usage],
        "tool_calls",
        {"input_tokens": 19, "output_tokens": 17, "reasoning_tokens": 0, "cached_tokens": 0},
        'get_weather{"location":"Paris"}get_time{}',
    ),
    "openai_completions": Stream(
        "completions",
        4,
        [Kind.finish, Kind.usage],
        "length",
        {"input_tokens": 5, "output_tokens": 5},
        "This is only a test",
    ),
    "llamacpp_chat": Stream(
        "chat",
        11,
        [Kind.role, Kind(0), Kind.finish],  # without text: half a character
        "length",
        None,
        "'.'ptderError describedItemsPartra cert\x15'.",
    ),
    "llamacpp_completions": Stream(
        "completions",
        10,
        [Kind(0), Kind(0), Kind.finish],
        "length",
        None,
        "Raise modsb downffeITH manage algorithcaseizing",
    ),
    "tgi_chat": Stream(
        "chat",
        5,
        [Kind.usage],
        "length",
        {"input_tokens": 32, "output_tokens": 5},
        "Deep learning is a subset",
    ),
}


def read(name: str) -> bytes:
    return (FIXTURES / f"{name}.sse").read_bytes()


def scan(data: bytes, dialect: str, piece: int) -> tuple[list[Found], bool]:
    """Every event of the stream, fed in pieces; and whether an unfinished one was left. One scanner, as in a run."""
    parser, found = sse.Parser(), scanner.Scanner(dialect, remember=True)
    events = [
        found.scan(event.data) for at in range(0, len(data), piece) for event in parser.feed(data[at : at + piece])
    ]
    return events, parser.close()


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream(name: str, piece: int) -> None:
    wanted = STREAMS[name]
    *events, last = scan(read(name), wanted.dialect, piece)[0]
    assert last.done, "[DONE]"
    assert last.kind == 0
    tokens = [event for event in events if event.kind & TOKENS]
    assert len(tokens) == wanted.tokens
    assert [event.kind for event in events if not event.kind & TOKENS] == wanted.others
    assert "".join(event.text or "" for event in tokens) == wanted.text
    assert [event.finish for event in events if event.finish] == [wanted.finish]
    assert [event.usage for event in events if event.usage] == ([wanted.usage] if wanted.usage else [])
    assert not any(event.kind & Kind.error for event in events)


@pytest.mark.parametrize("name", STREAMS)
def test_no_event_is_left_over(name: str) -> None:
    assert scan(read(name), STREAMS[name].dialect, 1 << 20)[1] is False


@pytest.mark.parametrize("name", STREAMS)
def test_text_as_a_json_decoder_sees_it(name: str) -> None:
    """Independent of our parsers: split by blank lines, decode, look where the API says."""
    wanted = STREAMS[name]
    pieces = read(name).replace(b"\r\n", b"\n").decode().split("\n\n")
    data = [piece.removeprefix("data:").strip() for piece in pieces if piece.startswith("data:")]
    assert data.pop() == "[DONE]"
    assert "".join(text_of(json.loads(event)) for event in data) == wanted.text


def text_of(event: dict[str, Any]) -> str:
    text = ""
    for choice in event["choices"]:
        delta = choice.get("delta", choice)
        text += delta.get("reasoning_content") or delta.get("content") or delta.get("text") or ""
        for call in delta.get("tool_calls") or ():
            text += call["function"].get("name", "") + call["function"]["arguments"]
    return text
