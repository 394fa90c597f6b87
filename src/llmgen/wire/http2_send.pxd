# The sending half of an HTTP/2 connection: requests, answers, bodies within the peer's windows, control frames.
# Callers cimport from http2.pxd.

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from posix.uio cimport iovec

from llmgen.wire.http2_connection cimport Http2, Http2Stream


cdef int http2_open(Http2* h) noexcept nogil
# Queues the preface (client), SETTINGS, and the WINDOW_UPDATE of the connection. Once.

cdef int32_t http2_submit(Http2* h, uint64_t user, const uint8_t* block, size_t block_size, const iovec* body,
                          int body_count, uint64_t body_bytes, int flags) noexcept nogil
# Opens a stream and queues its HEADERS; the body follows as the peer's windows permit, bodies in order of submission.
# `block` is an HPACK block that uses no dynamic table (hpack_put). The iovecs are copied; the bytes they describe must
# stay as they are until on_sent, or, if the stream ends before it, until http2_pending says 0 or http2_free.
# The stream's id, or HTTP2_FULL, _CLOSING, _EXHAUSTED, _NO_MEMORY. Permitted before the peer's SETTINGS (RFC 9113 3.4).

cdef uint32_t http2_capacity(Http2* h) noexcept nogil
# Streams that may be opened now: 0 before the peer's SETTINGS, after GOAWAY, and when lost.

cdef int http2_pending(Http2* h, iovec* out, int most) noexcept nogil
# What is to be written, at most `most` (>= 1) entries; returns how many. Valid until the next call of any function.

cdef void http2_sent(Http2* h, size_t size) noexcept nogil
# The first `size` bytes of what http2_pending described were written. Calls on_sent.

cdef bint http2_wants_write(Http2* h) noexcept nogil
# http2_pending would find something.

cdef int http2_cancel(Http2* h, int32_t stream, uint32_t code) noexcept nogil
# RST_STREAM, both roles; the sink is not called any more for this stream. HTTP2_OK or HTTP2_NO_STREAM.


# What a server does besides. All but http2_send_data and http2_send_headers are of use to a client too.

cdef int http2_set_user(Http2* h, int32_t stream, uint64_t user) noexcept nogil

cdef int http2_send_headers(Http2* h, int32_t stream, const uint8_t* block, size_t size, bint end) noexcept nogil
# The answer's header section, an interim one, or trailers (end). `block` as in http2_submit.
# HTTP2_OK, HTTP2_NO_STREAM, HTTP2_BLOCKED (data is waiting for window), HTTP2_NO_MEMORY.

cdef int http2_send_data(Http2* h, int32_t stream, const uint8_t* data, size_t size, bint end) noexcept nogil
# Queues a copy of the data: at once as far as the peer's windows permit, the rest when they open.
# HTTP2_OK, HTTP2_NO_STREAM, HTTP2_NO_MEMORY.

cdef uint64_t http2_unsent(Http2* h, int32_t stream) noexcept nogil
# Bytes of the stream's body that wait for the peer's windows.

cdef int http2_settings(Http2* h, const uint32_t* pairs, int count) noexcept nogil
# SETTINGS with `count` pairs (id, value); ours change when the peer acknowledges. Values are sent as they are.

cdef int http2_window_update(Http2* h, int32_t stream, uint32_t increment) noexcept nogil
# Stream 0: the connection. Adds to what we permit when HTTP2_NO_TOP_UP is set.

cdef int http2_ping(Http2* h, const uint8_t* payload) noexcept nogil
# `payload` is 8 bytes.

cdef int http2_goaway(Http2* h, uint32_t last_stream, uint32_t code) noexcept nogil
# Streams above last_stream that a server has open are dropped without a call of the sink.

cdef int http2_raw(Http2* h, const uint8_t* data, size_t size) noexcept nogil
# Queues bytes as they are, between frames: faults.


# For the receiving half.

cdef int send_window_opened(Http2* h, Http2Stream* s) noexcept nogil
# The stream's window has become positive: its body takes part again. HTTP2_OK or HTTP2_ERROR.
