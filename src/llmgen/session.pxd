# Conversations under way: the answers that later turns quote, and the target that a session stays with.

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t


cdef struct Answer:              # text of one turn's answer, as it stood in the JSON string: escapes unresolved
    uint8_t* data
    uint32_t size


cdef struct Session:
    int32_t id                   # -1: free
    uint16_t target
    uint16_t count               # answers kept: turns 0 .. count - 1
    Answer* answers


cdef struct SessionTable:        # open addressing; capacity is a power of two, 0 before the first session
    Session* slots
    uint32_t capacity
    uint32_t used


cdef Session* session_find(SessionTable* t, int32_t id) noexcept nogil          # NULL: not under way
cdef Session* session_open(SessionTable* t, int32_t id) noexcept nogil          # found or new; NULL: out of memory
cdef bint session_keep(Session* s, uint16_t turn, uint8_t* data, uint32_t size) noexcept nogil   # takes `data` over
cdef void session_close(SessionTable* t, int32_t id) noexcept nogil
cdef void sessions_free(SessionTable* t) noexcept nogil
