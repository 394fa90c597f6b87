# HTTP/1.1 requests (RFC 9112) for the simulator: the head, and bodies with Content-Length or chunked.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from llmgen.wire.span cimport Span


cdef enum:
    MAX_HEAD_BYTES = 65536       # longer heads are answered with 431
    MAX_BODY_BYTES = 67108864    # longer bodies are answered with 413; 128 Ki tokens are about 1 MB

cdef enum Method:
    METHOD_OTHER = 0
    METHOD_GET = 1
    METHOD_POST = 2
    METHOD_HEAD = 3


cdef struct RequestHead:
    Method method
    Span path                    # without the query
    Span request_id              # x-request-id; empty: none
    int64_t content_length       # -1: none
    bint chunked
    bint http10
    bint keep_alive
    bint expect                  # 100-continue
    void* stream                 # HTTP/2: the server's Stream; NULL once somebody has taken it over
    uint32_t number              # HTTP/2: its id


cdef struct Chunks:              # decodes a chunked body in place; zeroed is the start
    size_t at                    # bytes of the source that are dealt with
    size_t size                  # bytes of the body, moved to the front
    uint64_t left                # of the chunk that runs
    uint32_t state
    uint32_t line                # bytes of the size line or trailers so far


cdef ssize_t head_size(const uint8_t* data, size_t size, size_t scanned) noexcept nogil
cdef int head_read(const uint8_t* data, size_t size, RequestHead* head) noexcept nogil
cdef int chunks_read(uint8_t* data, size_t size, Chunks* chunks) noexcept nogil
cdef int64_t request_index(const Span* request_id, uint64_t* salt) noexcept nogil
