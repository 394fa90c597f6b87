"""Speed of HPACK through its Python face; the `hpack` package beside it.

    python -m pytest benchmarks/test_codecs_hpack.py

The face builds a list of pairs of bytes, which costs more than the decoding: the difference between two lists tells
what a field or a byte costs.
"""

from __future__ import annotations

import hpack as oracle
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from llmgen.wire import hpack, huffman

RESPONSE = [
    (b":status", b"200"),
    (b"date", b"Mon, 21 Oct 2013 20:13:22 GMT"),
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"server", b"istio-envoy"),
    (b"x-request-id", b"7d6f9a52-1a3e-4f0c-9f0a-0d7c0a4f9b11"),
    (b"openai-processing-ms", b"153"),
    (b"x-ratelimit-remaining-requests", b"9999"),
]
REQUEST = [
    (b":method", b"POST"),
    (b":scheme", b"https"),
    (b":authority", b"api.example.com"),
    (b":path", b"/v1/chat/completions"),
    (b"authorization", b"Bearer sk-0123456789abcdef0123456789abcdef"),
    (b"content-type", b"application/json"),
    (b"accept", b"text/event-stream"),
    (b"content-length", b"1234"),
]


@pytest.mark.parametrize("codec", [hpack, oracle], ids=["ours", "hpack"])
@pytest.mark.parametrize("first", [True, False], ids=["literals", "indexed"])
def test_decode_response(benchmark: BenchmarkFixture, codec: object, first: bool) -> None:
    e, d = oracle.Encoder(), codec.Decoder()  # type: ignore[attr-defined]
    block = e.encode(RESPONSE)
    if not first:
        d.decode(block)
        block = e.encode(RESPONSE)
        assert len(block) < 40
    assert len(benchmark(d.decode, block)) == len(RESPONSE)


@pytest.mark.parametrize("codec", [hpack, oracle], ids=["ours", "hpack"])
def test_encode_request(benchmark: BenchmarkFixture, codec: object) -> None:
    e = codec.Encoder()  # type: ignore[attr-defined]
    assert benchmark(e.encode, REQUEST)


def test_field_without_a_table(benchmark: BenchmarkFixture) -> None:
    assert benchmark(hpack.field, b"content-length", b"1234")


def test_huffman_decode_kilobyte(benchmark: BenchmarkFixture) -> None:
    text = (b"Bearer 0123456789abcdef-/v1/chat/completions;q=0.8," * 20)[:1000]
    assert benchmark(huffman.decode, huffman.encode(text)) == text


def test_huffman_encode_kilobyte(benchmark: BenchmarkFixture) -> None:
    text = (b"Bearer 0123456789abcdef-/v1/chat/completions;q=0.8," * 20)[:1000]
    assert benchmark(huffman.encode, text)
