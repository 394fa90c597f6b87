# Newline-delimited JSON as a pull parser: give it bytes, take lines until it has no more. The face of sse.pxd, for APIs
# that stream one JSON document a line (Ollama).
#
#   ndjson_give(&p, data, size)                 the bytes stay the caller's until ndjson_next says NDJSON_MORE
#   while ndjson_next(&p, &line) == NDJSON_LINE: ...
#
# A line that lies whole in the given bytes is a view into them. Only an unfinished line is carried over (malloc'ed,
# given back as soon as it is taken).

from libc.stdint cimport uint8_t, uint32_t

from llmgen.wire.span cimport Span


cdef enum:
    NDJSON_MORE = 0              # all given bytes are used up
    NDJSON_LINE = 1
    NDJSON_TOO_LARGE = -1        # a line grew over max_line_bytes; the stream cannot be followed further
    NDJSON_NO_MEMORY = -2        # both errors stay until ndjson_free and ndjson_init


# Plain memory; zeroed is not initialised: ndjson_init.
cdef struct NdjsonParser:
    const uint8_t* given         # what is left of the caller's bytes
    size_t given_size

    uint8_t* carry               # the unfinished line
    uint32_t carry_size
    uint32_t carry_capacity

    uint32_t max_line_bytes
    uint32_t state               # see ndjson.pyx


cdef void ndjson_init(NdjsonParser* p, uint32_t max_line_bytes) noexcept nogil
cdef void ndjson_free(NdjsonParser* p) noexcept nogil        # gives the carry back; reusable after ndjson_init
cdef void ndjson_give(NdjsonParser* p, const uint8_t* data, size_t size) noexcept nogil    # only after NDJSON_MORE
cdef int ndjson_next(NdjsonParser* p, Span* line) noexcept nogil     # never blank; valid until the next call
cdef bint ndjson_last(NdjsonParser* p, Span* line) noexcept nogil    # the stream is over: True: a line without its end
