# Conversations under way: the answers that later turns quote, and the target that a session stays with.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t


cdef struct Answer:              # text of one turn's answer, as it stood in the JSON string: escapes unresolved
    uint8_t* data
    uint32_t size


cdef struct Turn:                # of a conversation in a trace: under way, or waiting for the end of the one before it
    int64_t index
    int64_t parent               # index of the one it waits for; -1: under way
    int64_t due                  # its own time; only while it waits, as the two below
    const void* row              # PlanRow
    int32_t segment
    Turn* next


cdef struct Session:
    int32_t id                   # -1: free
    uint16_t target
    uint16_t count               # answers kept: turns 0 .. count - 1
    Answer* answers
    Turn* turns                  # those of a trace that are not over
    bint bound                   # `target` is known


cdef struct SessionTable:        # open addressing; capacity is a power of two, 0 before the first session
    Session* slots
    uint32_t capacity
    uint32_t used


cdef Session* session_find(SessionTable* t, int32_t id) noexcept nogil          # NULL: not under way
cdef Session* session_open(SessionTable* t, int32_t id) noexcept nogil          # found or new; NULL: out of memory
cdef bint session_keep(Session* s, uint16_t turn, uint8_t* data, uint32_t size) noexcept nogil   # takes `data` over
cdef Turn* session_turn(Session* s, int64_t index) noexcept nogil               # NULL: over, or not begun
cdef Turn* session_begin(Session* s, int64_t index) noexcept nogil              # under way from now on; NULL: out of memory
cdef void session_end(Session* s, int64_t index) noexcept nogil
cdef void session_close(SessionTable* t, int32_t id) noexcept nogil
cdef void sessions_free(SessionTable* t) noexcept nogil
