"""SSE and scanner together: CPU per event. ``python -m pytest benchmarks/test_codecs_sse_scanner.py``.

The loop is native (codec_loop_sse_scanner.pyx, compiled here against the installed modules), because a Python call an
event would cost more than what is measured. Every figure is for 1,000 events of about 200 bytes; divide by 1,000.
"""

from __future__ import annotations

import json
from types import ModuleType

import pytest

from llmgen.wire import scanner

LOOP = "codec_loop_sse_scanner"
EVENTS = 1000
READ_BYTES = 64 << 10  # the core's read buffer


def body(spaced: bool, growing_usage: bool = False) -> bytes:
    """1,000 chat events, as vLLM (compact) or llama.cpp (spaced) writes them."""
    separators = (", ", ": ") if spaced else (",", ":")
    events = []
    for i in range(EVENTS):
        event: dict[str, object] = {
            "id": "chatcmpl-0123456789abcdef0123456789abcdef",
            "object": "chat.completion.chunk",
            "created": 1700000000,
            "model": "some-model",
            "choices": [{"index": 0, "delta": {"content": f" w{i % 97}"}, "logprobs": None, "finish_reason": None}],
        }
        if growing_usage:
            event["usage"] = {"prompt_tokens": 20, "total_tokens": 20 + i, "completion_tokens": i}
        events.append(b"data: " + json.dumps(event, separators=separators).encode() + b"\n\n")
    return b"".join(events)


CASES = {
    "compact": (body(False), READ_BYTES),
    "spaced": (body(True), READ_BYTES),
    "continuous-usage": (body(False, growing_usage=True), READ_BYTES),
    "cut-into-100-byte-reads": (body(False), 100),
}


@pytest.mark.parametrize("way", ["sse", "plain", "remember"])
@pytest.mark.parametrize("case", CASES)
def test_events(benchmark: object, loop: ModuleType, case: str, way: str) -> None:
    data, read_bytes = CASES[case]
    rules = None if way == "sse" else scanner.Rules("chat")
    result = benchmark(loop.run, data, read_bytes, 1, rules, way == "remember")  # type: ignore[operator]
    assert result[0] == EVENTS
    assert way == "sse" or result[1] == EVENTS
