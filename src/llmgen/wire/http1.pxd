# HTTP/1.1 responses (RFC 9112): one Http1Parser a connection, plain memory, driven by whole reads.
#
#   http1_init(&p, &sink, max_head_bytes)    once a connection; the sink must outlive the parser
#   http1_begin(&p, user, head_method)       a request was submitted: exactly one answer is awaited from here on
#   http1_feed(&p, data, size)               the bytes of one read; the sink is called from inside of it
#   http1_eof(&p)                            the peer closed; finishes an answer that ends with the connection
#   http1_free(&p)
#
# There is no pipelining: http1_begin may be called when http1_reusable says so, also from inside of on_end (on_end is
# the last thing that feed does). A part of a head that ends with the read is the only thing carried over (malloc'ed,
# given back when the head is complete); body bytes are never copied.
#
# Ends: END_OK | END_CLOSE by http1_feed, END_CLOSE (a body that ends with the connection) | END_EOF by http1_eof,
# END_PROTOCOL when http1_feed returns HTTP1_ERROR in an exchange. Bytes that come while no answer is awaited are
# HTTP1_ERROR without on_end; bytes behind an answer in the same read make its end END_CLOSE.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from llmgen.wire.http1_grammar cimport Http1ChunkLine
from llmgen.wire.sink cimport Sink


cdef enum:
    HTTP1_OK = 0
    HTTP1_ERROR = -1             # the connection is lost; http1_reason(p) names the rule that was broken


cdef enum:
    HTTP1_HEAD_BYTES = 65536     # a usual max_head_bytes: what browsers and http.client bear is of this size
    HTTP1_MAX_INTERIM = 32       # 1xx answers before the final one: a 102 every 20 s over a total timeout of 10 min


# The fields are the codec's own business. Zeroed is not initialised: http1_init.
cdef struct Http1Parser:
    const Sink* sink
    uint64_t user                # of the exchange
    uint64_t remaining           # body bytes to come: of the whole (Content-Length) or of the chunk
    const char* reason           # static text; NULL as long as nothing is wrong

    uint8_t* carry               # the first bytes of a head or trailer section that is not complete, else NULL
    uint32_t carry_size
    uint32_t carry_capacity
    uint32_t max_head_bytes      # of a head, and of a trailer section

    Http1ChunkLine line          # the chunk-size line that is being read
    uint8_t state
    uint8_t tail                 # Http1Tail: how the carried bytes end
    uint8_t interim              # 1xx heads of this exchange so far
    uint8_t head_method          # the request was HEAD: no body whatever the head says
    uint8_t keep                 # the head allows reuse


cdef void http1_init(Http1Parser* p, const Sink* sink, uint32_t max_head_bytes) noexcept nogil
cdef void http1_free(Http1Parser* p) noexcept nogil
cdef void http1_begin(Http1Parser* p, uint64_t user, bint head_method) noexcept nogil
cdef int http1_feed(Http1Parser* p, const uint8_t* data, size_t size) noexcept nogil

# HTTP1_OK: no answer was awaited, or it is complete. HTTP1_ERROR: it was cut, on_end said END_EOF.
cdef int http1_eof(Http1Parser* p) noexcept nogil

# Another request may be submitted.
cdef bint http1_reusable(const Http1Parser* p) noexcept nogil

# No answer is awaited: reusable, or closed, or failed.
cdef bint http1_idle(const Http1Parser* p) noexcept nogil

# Names the rule that was broken, or why the connection cannot be reused; empty if neither. Static text.
cdef const char* http1_reason(const Http1Parser* p) noexcept nogil


cdef class Parser:
    cdef Http1Parser parser
    cdef Sink sink
    cdef bint head_method
    cdef list events
    cdef object failure

    cdef list _result(self, int code)
