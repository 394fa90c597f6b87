# A run of bytes that somebody else owns, and the only readers with which protocol code looks into it.
# Every reader checks its bounds; the caller sees -1 instead of a byte that is not there.

from libc.stdint cimport uint8_t, uint32_t


cdef struct Span:
    const uint8_t* data
    size_t size


cdef inline Span span(const uint8_t* data, size_t size) noexcept nogil:
    cdef Span s
    s.data = data
    s.size = size
    return s


cdef inline int span_u8(const Span* s, size_t at) noexcept nogil:
    """The byte at `at`, or -1 outside of the span."""
    return s.data[at] if at < s.size else -1


cdef inline long span_u16(const Span* s, size_t at) noexcept nogil:
    """Big-endian 16 bits at `at`, or -1."""
    if at + 2 > s.size or at + 2 < at:
        return -1
    return (<long>s.data[at] << 8) | s.data[at + 1]


cdef inline long span_u24(const Span* s, size_t at) noexcept nogil:
    """Big-endian 24 bits at `at`, or -1."""
    if at + 3 > s.size or at + 3 < at:
        return -1
    return (<long>s.data[at] << 16) | (<long>s.data[at + 1] << 8) | s.data[at + 2]


cdef inline long span_u32(const Span* s, size_t at) noexcept nogil:
    """Big-endian 32 bits at `at`, or -1."""
    if at + 4 > s.size or at + 4 < at:
        return -1
    return (<long>s.data[at] << 24) | (<long>s.data[at + 1] << 16) | (<long>s.data[at + 2] << 8) | s.data[at + 3]


cdef inline Span span_cut(const Span* s, size_t start, size_t stop) noexcept nogil:
    """The part [start, stop), clipped to the span."""
    if stop > s.size:
        stop = s.size
    if start > stop:
        start = stop
    return span(s.data + start, stop - start)
