"""HTTP/2: CPU per DATA frame and per request. ``python -m pytest benchmarks/test_codecs_http2.py``.

The loops are native (codec_loop_http2.pyx, compiled here against the installed modules). Figures are for 10,000 DATA
frames, or 1,000 requests.
"""

from __future__ import annotations

from types import ModuleType

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from llmgen.wire import http2, reference

LOOP = "codec_loop_http2"
FRAMES = 10_000
REQUESTS = 1_000
STREAMS = 100
EVENT = b'data: {"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"m",'
EVENT += b'"choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}]}\n\n'
READ_BYTES = 64 << 10  # the core's read buffer
HEAD = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":authority", b"127.0.0.1:8000"),
    (b":path", b"/v1/chat/completions"),
    (b"authorization", b"Bearer sk-0123456789abcdef0123456789abcdef"),
    (b"content-type", b"application/json"),
    (b"accept", b"text/event-stream"),
    (b"content-length", b"1000"),
]
SETTINGS = bytes([0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 15, 66, 64])  # MAX_CONCURRENT_STREAMS 1,000,000


def frame(type: int, flags: int, sid: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([type, flags]) + sid.to_bytes(4, "big") + payload


def heads(first: int, count: int) -> bytes:
    block = http2.header_block([(b":status", b"200"), (b"content-type", b"text/event-stream")])
    return b"".join(frame(1, 4, first + 2 * n, block) for n in range(count))


@pytest.mark.parametrize("streams", [1, STREAMS, 2000])
@pytest.mark.parametrize("payload", [EVENT, EVENT * 80], ids=["event-a-frame", "80-events-a-frame"])
def test_data_frames(benchmark: BenchmarkFixture, loop: ModuleType, streams: int, payload: bytes) -> None:
    connection = loop.Loop()
    block = http2.header_block(HEAD)
    connection.read(SETTINGS, READ_BYTES)
    connection.submit(block, bytes(1000), streams)
    connection.read(heads(1, streams), READ_BYTES)
    data = b"".join(frame(0, 0, 1 + 2 * (n % streams), payload) for n in range(FRAMES))
    counts = benchmark(connection.read, data, READ_BYTES)
    assert counts[0] == streams
    assert counts[2] % (FRAMES * len(payload)) == 0
    assert counts[3] == 0


def test_data_frames_through_h2(benchmark: BenchmarkFixture) -> None:
    twin = reference.H2Connection()
    twin.open()
    twin.feed(SETTINGS)
    sid = twin.submit(None, HEAD, bytes(1000))
    twin.feed(heads(sid, 1))
    data = b"".join(frame(0, 0, sid, EVENT) for _ in range(FRAMES // 100))
    assert benchmark(twin.feed, data)


@pytest.mark.parametrize("body", [1000, 20000])
def test_short_answers(benchmark: BenchmarkFixture, loop: ModuleType, body: int) -> None:
    """1,000 requests submitted, sent, and answered by a head and one event each."""
    connection = loop.Loop()
    connection.read(SETTINGS + frame(8, 0, 0, (2**31 - 65536).to_bytes(4, "big")), READ_BYTES)
    block = http2.header_block(HEAD)
    answer_head = http2.header_block([(b":status", b"200"), (b"content-type", b"text/event-stream")])
    content = bytes(body)

    def prepare() -> tuple[tuple[bytes], dict[str, object]]:
        first = connection.next_id()
        answers = [frame(8, 0, 0, (REQUESTS * body).to_bytes(4, "big"))]
        for sid in range(first, first + 2 * REQUESTS, 2):
            answers.append(frame(1, 4, sid, answer_head) + frame(0, 1, sid, EVENT))
        return (b"".join(answers),), {}

    def exchange(answers: bytes) -> None:
        connection.submit(block, content, REQUESTS)
        connection.read(answers, READ_BYTES)

    benchmark.pedantic(exchange, setup=prepare, rounds=40)
    assert connection.open_streams() == 0
    assert connection.read(b"", READ_BYTES)[3] % REQUESTS == 0
