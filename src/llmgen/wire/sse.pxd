# Server-sent events (WHATWG HTML, 9.2) as a pull parser: give it bytes, take events until it has no more.
#
#   sse_give(&p, data, size)                 the bytes stay the caller's until sse_next says SSE_MORE
#   while sse_next(&p, &event) == SSE_EVENT: ...
#
# An event that lies whole in the given bytes with one data line is a view into them; nothing is copied. Only an
# unfinished event is carried over (malloc'ed, given back as soon as it is taken): a parser between two events owns
# no heap memory, unless an `id:` waits for the next event.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from llmgen.wire.span cimport Span


cdef enum:
    SSE_MORE = 0                 # all given bytes are used up
    SSE_EVENT = 1
    SSE_TOO_LARGE = -1           # an event grew over max_event_bytes; the stream cannot be followed further
    SSE_NO_MEMORY = -2           # both errors stay until sse_close or sse_init


cdef struct SseEvent:            # every span is valid until the next call with this parser
    Span data                    # raw bytes as sent (UTF-8 not checked), lines joined by LF
    Span type                    # empty: "message"
    Span id                      # data == NULL: no `id` field since the last event; else the new last event ID
    int64_t retry                # last `retry` in ms since the last event, -1: none


# SseParser's fields are the codec's own business; the struct is plain memory, zeroed is not initialised: sse_init.
cdef struct SseParser:
    const uint8_t* given         # what is left of the caller's bytes
    size_t given_size

    uint8_t* carry               # whole lines of the unfinished event, each ended by LF, then its unfinished line
    uint32_t carry_size
    uint32_t carry_capacity
    uint32_t line                # where the unfinished line begins; line <= carry_size

    uint32_t max_event_bytes
    uint32_t flags               # see sse.pyx
    uint32_t spare
    int64_t retry                # seen since the last event, -1: none


cdef void sse_init(SseParser* p, uint32_t max_event_bytes) noexcept nogil
cdef void sse_free(SseParser* p) noexcept nogil              # gives the carry back; reusable after sse_init
cdef void sse_give(SseParser* p, const uint8_t* data, size_t size) noexcept nogil    # only after SSE_MORE
cdef int sse_next(SseParser* p, SseEvent* event) noexcept nogil
cdef bint sse_close(SseParser* p) noexcept nogil             # True: an unfinished event was dropped; then as after init
