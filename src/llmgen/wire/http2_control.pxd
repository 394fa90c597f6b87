# Frames that steer the connection and its streams: SETTINGS, WINDOW_UPDATE, RST_STREAM, PING, GOAWAY, PRIORITY.
# Each reader takes a complete payload and returns HTTP2_OK, or HTTP2_ERROR when the connection is lost by it.

from libc.stdint cimport uint8_t, uint32_t

from llmgen.wire.http2_connection cimport Http2


cdef int read_settings(Http2* h, int flags, uint32_t stream, const uint8_t* p, uint32_t size) noexcept nogil
cdef int read_window_update(Http2* h, uint32_t stream, const uint8_t* p, uint32_t size) noexcept nogil
cdef int read_rst_stream(Http2* h, uint32_t stream, const uint8_t* p, uint32_t size) noexcept nogil
cdef int read_ping(Http2* h, int flags, uint32_t stream, const uint8_t* p, uint32_t size) noexcept nogil
cdef int read_goaway(Http2* h, uint32_t stream, const uint8_t* p, uint32_t size) noexcept nogil
cdef int read_priority(Http2* h, uint32_t stream, const uint8_t* p, uint32_t size) noexcept nogil
