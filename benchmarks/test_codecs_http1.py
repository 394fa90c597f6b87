"""HTTP/1.1 reading: CPU per chunk and per head. ``python -m pytest benchmarks/test_codecs_http1.py``.

The loop is native (codec_loop_http1.pyx, compiled here against the installed modules), because a Python call a read
would cost more than what is measured; httptools (llhttp) stands beside it with the Python face. Every figure of a
stream is for 1,000 chunks of about 200 bytes, of a head for 1,000 whole answers; divide by 1,000.
"""

from __future__ import annotations

from types import ModuleType

import httptools
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from llmgen.wire import http1

LOOP = "codec_loop_http1"
CHUNKS = 1000
READ_BYTES = 64 << 10  # the core's read buffer

FIELDS = (
    b"date: Mon, 21 Oct 2013 20:13:22 GMT\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\nx-request-id: 7d6f9a52-1a3e-4f0c-9f0a-0d7c0a4f9b11\r\nconnection: keep-alive\r\n"
)
EVENT = b"data: " + b"x" * 192 + b"\n\n"
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
STREAM = b"HTTP/1.1 200 OK\r\n" + FIELDS + b"transfer-encoding: chunked\r\n\r\n" + CHUNK * CHUNKS + b"0\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\n" + FIELDS + b"content-length: 200\r\n\r\n" + EVENT


@pytest.mark.parametrize(
    "read_bytes", [len(CHUNK), READ_BYTES, 100], ids=["a chunk a read", "64 KiB a read", "100 bytes a read"]
)
def test_stream(benchmark: BenchmarkFixture, loop: ModuleType, read_bytes: int) -> None:
    heads, _, pieces, data_bytes, ends = benchmark(loop.run, STREAM, read_bytes, 1)
    assert (heads, data_bytes, ends) == (1, len(EVENT) * CHUNKS, 1)
    assert pieces >= CHUNKS


@pytest.mark.parametrize("read_bytes", [READ_BYTES, 150], ids=["whole", "150 bytes a read"])
def test_answers(benchmark: BenchmarkFixture, loop: ModuleType, read_bytes: int) -> None:
    heads, fields, _, data_bytes, ends = benchmark(loop.run, ANSWER, read_bytes, 1000)
    assert (heads, fields, data_bytes, ends) == (1000, 7000, 200_000, 1000)


def test_memory_of_an_idle_connection(loop: ModuleType) -> None:
    assert loop.parser_bytes() <= 96


class Count:
    def __init__(self) -> None:
        self.pieces = 0

    def on_body(self, body: bytes) -> None:
        self.pieces += 1


@pytest.mark.parametrize("reader", ["http1", "httptools"])
def test_stream_through_python(benchmark: BenchmarkFixture, reader: str) -> None:
    reads = [STREAM[at : at + READ_BYTES] for at in range(0, len(STREAM), READ_BYTES)]

    def ours() -> int:
        parser = http1.Parser(method=b"POST")
        return sum(event[0] == "data" for read in reads for event in parser.feed(read))

    def theirs() -> int:
        count = Count()
        parser = httptools.HttpResponseParser(count)
        for read in reads:
            parser.feed_data(read)
        return count.pieces

    assert benchmark(ours if reader == "http1" else theirs) >= CHUNKS
