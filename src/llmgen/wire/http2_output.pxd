# What waits to be written: one run of our own bytes (control frames, HEADERS, DATA headers, small bodies), with the
# caller's bytes (large bodies) lent into it at fixed positions. Positions count all bytes since the connection began.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from posix.uio cimport iovec


cdef enum:
    OUTPUT_COPY_BELOW = 2048     # a body piece below this is copied: cheaper than an iovec of its own
    OUTPUT_KEEP = 65536          # capacity kept when all is written; a burst's memory is given back


cdef struct Http2Lent:
    uint64_t at                  # position of its first byte
    const uint8_t* data          # the caller's, valid until written
    size_t size


cdef struct Http2Mark:
    uint64_t at                  # position behind the last byte of ...
    uint64_t user                # ... what this exchange sends
    uint32_t stream


cdef struct Http2Output:
    uint8_t* bytes               # ours: bytes[head .. tail)
    size_t head
    size_t tail
    size_t capacity
    uint64_t put                 # position of the end: all bytes ever queued, lent ones too
    uint64_t sent                # position of the first byte not yet written

    Http2Lent* lent              # ring of lent_slots (a power of two), oldest at lent_first
    uint32_t lent_first
    uint32_t lent_count
    uint32_t lent_slots

    Http2Mark* marks             # ring, as above
    uint32_t marks_first
    uint32_t marks_count
    uint32_t marks_slots

    uint32_t replies_old         # frames that the peer made us queue and that are not yet written: at most
    uint32_t replies_new         # old + new; counted in two halves so that no list of them is needed
    uint64_t replies_at          # when this position is written, the old half is


cdef void output_init(Http2Output* o) noexcept nogil
cdef void output_free(Http2Output* o) noexcept nogil

cdef uint8_t* output_reserve(Http2Output* o, size_t size) noexcept nogil
# Room for `size` more bytes at the end; NULL without memory. Nothing is queued until output_commit(o, size).

cdef inline void output_commit(Http2Output* o, size_t size) noexcept nogil:
    o.tail += size
    o.put += size

cdef int output_lend(Http2Output* o, const uint8_t* data, size_t size) noexcept nogil
# Queues bytes that stay the caller's. 0, or -1 without memory.

cdef int output_mark(Http2Output* o, uint32_t stream, uint64_t user) noexcept nogil
# Notes that the stream's last byte is what was queued last. 0, or -1 without memory.

cdef bint output_passed(Http2Output* o, Http2Mark* mark) noexcept nogil
# Takes the next mark that has been written; False when there is none. Call until then after output_sent.

cdef int output_gather(Http2Output* o, iovec* out, int most) noexcept nogil
# Describes the oldest queued bytes by at most `most` entries; returns how many. Valid until anything is queued.

cdef void output_sent(Http2Output* o, size_t size) noexcept nogil
# The first `size` bytes have been written.

cdef inline uint32_t output_reply(Http2Output* o) noexcept nogil:
    """Counts one queued reply; returns an upper bound of those not yet written."""
    o.replies_new += 1
    return o.replies_old + o.replies_new
