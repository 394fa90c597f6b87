# Header blocks and what they mean to their streams: requests, answers, interim answers, trailers, the end of a message.

from libc.stdint cimport uint8_t, uint32_t

from llmgen.wire.http2_connection cimport Http2


# HTTP2_OK, or HTTP2_ERROR when the connection is lost.
cdef int read_headers(Http2* h, int flags, uint32_t stream, const uint8_t* p, uint32_t size) noexcept nogil
cdef int read_continuation(Http2* h, int flags, uint32_t stream, const uint8_t* p, uint32_t size) noexcept nogil

cdef int remote_ended(Http2* h, uint32_t stream) noexcept nogil
# The peer's END_STREAM on an open stream: the message is complete, or malformed because its content is not.
