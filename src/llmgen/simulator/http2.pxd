# The endpoint's side of an HTTP/2 connection: opening it, requests that come in, writes that share one call.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from llmgen.simulator.server cimport Conn, Server, Stream


cdef enum:
    OUTPUT_MOST = 4194304        # queued on a connection whose client does not read; then its streams wait


cdef bint http2_begin(Server* v, Conn* conn) noexcept nogil
cdef void http2_announce(Server* v, Conn* conn) noexcept nogil
cdef void http2_take(Server* v, Conn* conn, const uint8_t* data, size_t size) noexcept nogil
cdef void http2_touch(Server* v, Conn* conn) noexcept nogil
cdef void http2_flush(Server* v, Conn* conn) noexcept nogil
cdef void http2_flush_all(Server* v) noexcept nogil
cdef bint http2_backlogged(Stream* s) noexcept nogil
cdef int http2_head(Server* v, Conn* conn, uint32_t number, int status, const char* content_type,
                    int64_t length, bint end) noexcept nogil
cdef int http2_data(Server* v, Conn* conn, uint32_t number, const uint8_t* data, size_t size, bint end) noexcept nogil
cdef void http2_end(Server* v, Conn* conn) noexcept nogil
