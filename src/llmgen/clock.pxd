# The run's clock: CLOCK_MONOTONIC in ns, int64. Kernel stamps are CLOCK_REALTIME and are converted with an offset
# that is bracketed by two monotonic reads; a bracket over 2 us means that we were interrupted in between: keep the last.

from libc.stdint cimport int64_t
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec


cdef enum:
    BRACKET_NS = 2000


cdef struct ClockOffset:
    int64_t ns                   # monotonic = realtime + ns
    int64_t uncertainty          # half of the bracket that gave it


cdef inline int64_t monotonic_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * 1000000000 + t.tv_nsec


cdef inline int64_t realtime_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_REALTIME, &t)
    return <int64_t>t.tv_sec * 1000000000 + t.tv_nsec


cdef inline bint clock_offset(ClockOffset* offset) noexcept nogil:
    """Renews the offset; False, and the old one kept, if the bracket was too wide."""
    cdef int64_t before = monotonic_ns()
    cdef int64_t real = realtime_ns()
    cdef int64_t after = monotonic_ns()
    if after - before > BRACKET_NS and offset.ns != 0:
        return False
    offset.ns = before + (after - before) // 2 - real
    offset.uncertainty = (after - before) // 2 + 1
    return True
