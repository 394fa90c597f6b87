# Random numbers without state: a key says which, so that the order of requests does not matter.

from libc.stdint cimport uint64_t


cdef inline uint64_t mixed(uint64_t x) noexcept nogil:
    """splitmix64's finaliser (Steele, Lea, Flood 2014): every output bit depends on every input bit."""
    x += <uint64_t>0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * <uint64_t>0x94D049BB133111EB
    return x ^ (x >> 31)


cdef inline uint64_t draw(uint64_t key, uint64_t purpose) noexcept nogil:
    return mixed(key ^ (purpose << 56))
