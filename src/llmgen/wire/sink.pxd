# The seam between a protocol (http1, http2) and whoever listens: the core's connection in a run, a list in the tests.
#
# `ctx` is the sink's own; `user` is what the caller gave to submit (or begin) for this exchange. Header spans and data
# are valid only during the call. Order for one exchange: on_headers, on_data*, (on_trailers), on_end exactly once.
# A sink must not free the protocol's state inside of a call; it may mark and let the end of the batch do it.

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef struct Header:
    const uint8_t* name          # lower case for http2, as received for http1 (compare without case)
    const uint8_t* value
    uint32_t name_size
    uint32_t value_size


cdef enum End:
    END_OK = 0                   # the answer is complete; the connection can be used again
    END_CLOSE = 1                # complete, but the connection must not be used again
    END_EOF = 2                  # the peer closed in the middle of the answer (or before it)
    END_RESET = 3                # http2: RST_STREAM by the peer, `code` is its error code
    END_UNPROCESSED = 4          # http2: above GOAWAY's last stream id, or REFUSED_STREAM
    END_MALFORMED = 5            # this exchange broke the protocol; the connection may live on (http2)
    END_PROTOCOL = 6             # the connection broke the protocol and is lost


cdef struct Sink:
    void* ctx
    void (*on_headers)(void* ctx, uint64_t user, int status, const Header* headers, size_t count) noexcept nogil
    void (*on_data)(void* ctx, uint64_t user, const uint8_t* data, size_t size) noexcept nogil
    void (*on_trailers)(void* ctx, uint64_t user, const Header* headers, size_t count) noexcept nogil   # may be NULL
    void (*on_end)(void* ctx, uint64_t user, int end, uint32_t code) noexcept nogil
    void (*on_sent)(void* ctx, uint64_t user) noexcept nogil          # http2: last body byte left; may be NULL
