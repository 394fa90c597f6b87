# The receiving half of an HTTP/2 connection: frames, header blocks, their rules. Callers cimport from http2.pxd.

from libc.stdint cimport uint8_t

from llmgen.wire.http2_connection cimport Http2


cdef int http2_read(Http2* h, const uint8_t* data, size_t size) noexcept nogil
# All bytes of one read. HTTP2_OK, or HTTP2_ERROR: then every open stream has had its on_end(END_PROTOCOL).

cdef int http2_eof(Http2* h) noexcept nogil
# The peer closed: on_end(END_EOF) for every open stream. HTTP2_ERROR if the connection was lost or never became ready.
