"""The loop a connection runs over its reads of Ollama's lines: ndjson_give, ndjson_next. Built by instructions.py."""

from libc.stdint cimport uint8_t, uint64_t

from llmgen.wire.ndjson cimport NDJSON_LINE, NdjsonParser, ndjson_free, ndjson_give, ndjson_init, ndjson_next
from llmgen.wire.span cimport Span


def run(bytes body, size_t read_bytes, int rounds):
    """Walk `body` `rounds` times in reads of `read_bytes`. Returns (lines, their bytes)."""
    cdef NdjsonParser p
    cdef Span line
    cdef uint64_t lines = 0, content = 0
    cdef size_t at, step, size = len(body)
    cdef const uint8_t* data = body
    ndjson_init(&p, 1 << 20)
    for _ in range(rounds):
        at = 0
        while at < size:
            step = min(read_bytes, size - at)
            ndjson_give(&p, data + at, step)
            while ndjson_next(&p, &line) == NDJSON_LINE:
                lines += 1
                content += line.size
            at += step
    ndjson_free(&p)
    return lines, content
