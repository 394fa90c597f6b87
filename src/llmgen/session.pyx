"""Conversations under way, by id: a small hash table of plain memory.

An answer's text is kept exactly as it stood inside of the event's JSON string, so that a later turn's body can quote it
between two of its own spans without decoding or encoding anything.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memset


cdef enum:
    FIRST_CAPACITY = 64
    GONE = -2                    # a slot whose session is over: searches go on past it


cdef uint32_t place(int32_t id, uint32_t capacity) noexcept nogil:
    return (<uint32_t>id * <uint32_t>2654435761) & (capacity - 1)


cdef Session* session_find(SessionTable* t, int32_t id) noexcept nogil:
    cdef uint32_t at, tried
    if t.capacity == 0:
        return NULL
    at = place(id, t.capacity)
    for tried in range(t.capacity):
        if t.slots[at].id == id:
            return &t.slots[at]
        if t.slots[at].id == -1:
            return NULL
        at = (at + 1) & (t.capacity - 1)
    return NULL


cdef bint grow(SessionTable* t) noexcept nogil:
    """Room for four times as many as are under way; clears out what is gone."""
    cdef uint32_t i, at, live = 0, capacity = FIRST_CAPACITY
    cdef Session* slots
    for i in range(t.capacity):
        live += t.slots[i].id >= 0
    while capacity < 4 * (live + 1):
        capacity *= 2
    slots = <Session*>calloc(capacity, sizeof(Session))
    if slots == NULL:
        return False
    for i in range(capacity):
        slots[i].id = -1
    t.used = 0
    for i in range(t.capacity):
        if t.slots[i].id < 0:
            continue
        at = place(t.slots[i].id, capacity)
        while slots[at].id != -1:
            at = (at + 1) & (capacity - 1)
        slots[at] = t.slots[i]
        t.used += 1
    free(t.slots)
    t.slots = slots
    t.capacity = capacity
    return True


cdef Session* session_open(SessionTable* t, int32_t id) noexcept nogil:
    cdef Session* s = session_find(t, id)
    cdef uint32_t at
    if s != NULL:
        return s
    if t.used * 2 >= t.capacity and not grow(t):
        return NULL
    at = place(id, t.capacity)
    while t.slots[at].id != -1:
        at = (at + 1) & (t.capacity - 1)
    s = &t.slots[at]
    memset(s, 0, sizeof(Session))
    s.id = id
    t.used += 1
    return s


cdef bint session_keep(Session* s, uint16_t turn, uint8_t* data, uint32_t size) noexcept nogil:
    cdef Answer* grown
    if turn >= s.count:
        grown = <Answer*>realloc(s.answers, <size_t>(turn + 1) * sizeof(Answer))
        if grown == NULL:
            free(data)
            return False
        memset(grown + s.count, 0, <size_t>(turn + 1 - s.count) * sizeof(Answer))
        s.answers = grown
        s.count = turn + 1
    free(s.answers[turn].data)
    s.answers[turn].data = data
    s.answers[turn].size = size
    return True


cdef Turn* session_turn(Session* s, int64_t index) noexcept nogil:
    cdef Turn* turn = s.turns
    while turn != NULL and turn.index != index:
        turn = turn.next
    return turn


cdef Turn* session_begin(Session* s, int64_t index) noexcept nogil:
    cdef Turn* turn = <Turn*>malloc(sizeof(Turn))
    if turn == NULL:
        return NULL
    memset(turn, 0, sizeof(Turn))
    turn.index = index
    turn.parent = -1
    turn.next = s.turns
    s.turns = turn
    return turn


cdef void session_end(Session* s, int64_t index) noexcept nogil:
    cdef Turn** at = &s.turns
    cdef Turn* turn
    while at[0] != NULL:
        turn = at[0]
        if turn.index == index:
            at[0] = turn.next
            free(turn)
            return
        at = &turn.next


cdef void release(Session* s) noexcept nogil:
    cdef uint16_t i
    while s.turns != NULL:
        session_end(s, s.turns.index)
    for i in range(s.count):
        free(s.answers[i].data)
    free(s.answers)
    s.answers = NULL
    s.count = 0


cdef void session_close(SessionTable* t, int32_t id) noexcept nogil:
    cdef Session* s = session_find(t, id)
    if s != NULL:
        release(s)
        s.id = GONE


cdef void sessions_free(SessionTable* t) noexcept nogil:
    cdef uint32_t i
    for i in range(t.capacity):
        if t.slots[i].id >= 0:
            release(&t.slots[i])
    free(t.slots)
    t.slots = NULL
    t.capacity = t.used = 0
