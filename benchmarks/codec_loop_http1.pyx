"""The loop a connection runs over its reads: http1_feed. Built by test_codecs_http1.py."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from llmgen.wire.http1 cimport HTTP1_HEAD_BYTES, HTTP1_OK, Http1Parser, http1_begin, http1_feed, http1_free, http1_init
from llmgen.wire.sink cimport END_OK, Header, Sink


cdef struct Counts:
    uint64_t heads
    uint64_t fields
    uint64_t pieces
    uint64_t data_bytes
    uint64_t ends                # reusable ones


cdef void on_headers(void* ctx, uint64_t user, int status, const Header* headers, size_t count) noexcept nogil:
    (<Counts*>ctx).heads += 1
    (<Counts*>ctx).fields += count


cdef void on_data(void* ctx, uint64_t user, const uint8_t* data, size_t size) noexcept nogil:
    (<Counts*>ctx).pieces += 1
    (<Counts*>ctx).data_bytes += size


cdef void on_end(void* ctx, uint64_t user, int end, uint32_t code) noexcept nogil:
    (<Counts*>ctx).ends += end == END_OK


def run(bytes answer, size_t read_bytes, int rounds):
    """Read `answer` `rounds` times in reads of `read_bytes`. Returns (heads, fields, pieces, data bytes, reusable ends)."""
    cdef Http1Parser p
    cdef Counts counts
    cdef Sink sink
    cdef size_t at, step, size = len(answer)
    cdef const uint8_t* data = answer
    counts.heads = counts.fields = counts.pieces = counts.data_bytes = counts.ends = 0
    sink.ctx = &counts
    sink.on_headers = on_headers
    sink.on_data = on_data
    sink.on_trailers = NULL
    sink.on_end = on_end
    sink.on_sent = NULL
    http1_init(&p, &sink, HTTP1_HEAD_BYTES)
    for _ in range(rounds):
        http1_begin(&p, 0, False)
        at = 0
        while at < size:
            step = min(read_bytes, size - at)
            if http1_feed(&p, data + at, step) != HTTP1_OK:
                raise ValueError("the answer breaks a rule")
            at += step
    http1_free(&p)
    return counts.heads, counts.fields, counts.pieces, counts.data_bytes, counts.ends


def parser_bytes():
    """Memory of an idle connection's parser."""
    return sizeof(Http1Parser)
