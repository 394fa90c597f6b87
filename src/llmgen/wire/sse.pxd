# Server-sent events (WHATWG HTML, 9.2) as a pull parser: give it bytes, take events until it has no more.
#
#   sse_give(&p, data, size)                 the bytes stay the caller's until sse_next says SSE_MORE
#   while sse_next(&p, &event) == SSE_EVENT: ...
#
# An event that lies whole in the given bytes with one data line is a view into them; nothing is copied. Only an
# unfinished event is carried over (malloc'ed, given back when it is finished and large).

from libc.stdint cimport int64_t, uint8_t, uint32_t

from llmgen.wire.span cimport Span


cdef enum:
    SSE_MORE = 0                 # all given bytes are used up
    SSE_EVENT = 1
    SSE_TOO_LARGE = -1           # an event grew over max_event_bytes; the stream cannot be followed further
    SSE_NO_MEMORY = -2


cdef struct SseEvent:
    Span data                    # raw bytes as sent (UTF-8 not checked), lines joined by LF; valid until the next call
    Span type                    # empty: "message"


# SseParser's fields are the codec's own business; the struct is plain memory, zeroed is not initialised: sse_init.
cdef struct SseParser:
    const uint8_t* given         # what is left of the caller's bytes
    size_t given_size
    uint8_t* carry               # bytes of the unfinished event
    uint32_t carry_size
    uint32_t carry_capacity
    uint32_t scanned             # bytes of carry that are known to hold no end of event
    uint32_t max_event_bytes
    uint32_t flags               # BOM seen, last byte was CR, ...
    uint32_t spare
