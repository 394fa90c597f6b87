"""What waits to be written on an HTTP/2 connection: own bytes with the caller's lent in between."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove, memset


cdef enum:
    FIRST_CAPACITY = 4096        # preface, SETTINGS and a few requests
    FIRST_SLOTS = 16


cdef void output_init(Http2Output* o) noexcept nogil:
    memset(o, 0, sizeof(Http2Output))


cdef void output_free(Http2Output* o) noexcept nogil:
    free(o.bytes)
    free(o.lent)
    free(o.marks)
    memset(o, 0, sizeof(Http2Output))


cdef uint8_t* output_reserve(Http2Output* o, size_t size) noexcept nogil:
    cdef size_t used = o.tail - o.head
    cdef size_t capacity = o.capacity
    cdef uint8_t* grown
    if size <= capacity - o.tail:
        return o.bytes + o.tail
    # Moving costs less than it seems: at least half of the memory is free afterwards, or it doubles.
    if o.head and used + size <= capacity // 2:
        memmove(o.bytes, o.bytes + o.head, used)
    else:
        if capacity == 0:
            capacity = FIRST_CAPACITY
        while capacity - used < size:
            if capacity > (<size_t>1 << 62):
                return NULL
            capacity *= 2
        grown = <uint8_t*>malloc(capacity)
        if grown == NULL:
            return NULL
        if used:
            memcpy(grown, o.bytes + o.head, used)
        free(o.bytes)
        o.bytes = grown
        o.capacity = capacity
    o.head = 0
    o.tail = used
    return o.bytes + used


cdef int output_lend(Http2Output* o, const uint8_t* data, size_t size) noexcept nogil:
    cdef uint32_t i, slots
    cdef Http2Lent* grown
    if o.lent_count == o.lent_slots:
        slots = o.lent_slots * 2 if o.lent_slots else FIRST_SLOTS
        grown = <Http2Lent*>malloc(slots * sizeof(Http2Lent))
        if grown == NULL:
            return -1
        for i in range(o.lent_count):
            grown[i] = o.lent[(o.lent_first + i) & (o.lent_slots - 1)]
        free(o.lent)
        o.lent = grown
        o.lent_first = 0
        o.lent_slots = slots
    i = (o.lent_first + o.lent_count) & (o.lent_slots - 1)
    o.lent[i].at = o.put
    o.lent[i].data = data
    o.lent[i].size = size
    o.lent_count += 1
    o.put += size
    return 0


cdef int output_mark(Http2Output* o, uint32_t stream, uint64_t user) noexcept nogil:
    cdef uint32_t i, slots
    cdef Http2Mark* grown
    if o.marks_count == o.marks_slots:
        slots = o.marks_slots * 2 if o.marks_slots else FIRST_SLOTS
        grown = <Http2Mark*>malloc(slots * sizeof(Http2Mark))
        if grown == NULL:
            return -1
        for i in range(o.marks_count):
            grown[i] = o.marks[(o.marks_first + i) & (o.marks_slots - 1)]
        free(o.marks)
        o.marks = grown
        o.marks_first = 0
        o.marks_slots = slots
    i = (o.marks_first + o.marks_count) & (o.marks_slots - 1)
    o.marks[i].at = o.put
    o.marks[i].stream = stream
    o.marks[i].user = user
    o.marks_count += 1
    return 0


cdef bint output_passed(Http2Output* o, Http2Mark* mark) noexcept nogil:
    if o.marks_count == 0 or o.marks[o.marks_first].at > o.sent:
        return False
    mark[0] = o.marks[o.marks_first]
    o.marks_first = (o.marks_first + 1) & (o.marks_slots - 1)
    o.marks_count -= 1
    return True


cdef int output_gather(Http2Output* o, iovec* out, int most) noexcept nogil:
    cdef int n = 0
    cdef uint32_t i = 0
    cdef uint64_t at = o.sent
    cdef size_t head = o.head
    cdef size_t run
    cdef Http2Lent* lent
    while n < most and at < o.put:
        lent = &o.lent[(o.lent_first + i) & (o.lent_slots - 1)] if i < o.lent_count else NULL
        if lent != NULL and lent.at == at:
            out[n].iov_base = <void*>lent.data
            run = lent.size
            i += 1
        else:
            out[n].iov_base = o.bytes + head
            run = <size_t>(lent.at - at) if lent != NULL else o.tail - head
            head += run
        out[n].iov_len = run
        at += run
        n += 1
    return n


cdef void output_sent(Http2Output* o, size_t size) noexcept nogil:
    cdef size_t run
    cdef Http2Lent* lent
    while size:
        lent = &o.lent[o.lent_first] if o.lent_count else NULL
        if lent != NULL and lent.at == o.sent:
            run = lent.size if lent.size < size else size
            lent.data += run
            lent.size -= run
            lent.at += run
            if lent.size == 0:
                o.lent_first = (o.lent_first + 1) & (o.lent_slots - 1)
                o.lent_count -= 1
        else:
            run = <size_t>(lent.at - o.sent) if lent != NULL else o.tail - o.head
            if run == 0:         # more than was pending: the caller's mistake, not to be followed out of the buffer
                break
            if run > size:
                run = size
            o.head += run
        o.sent += run
        size -= run
    if o.head == o.tail:
        o.head = o.tail = 0
        if o.capacity > OUTPUT_KEEP:
            free(o.bytes)
            o.bytes = NULL
            o.capacity = 0
    if o.sent == o.put:
        o.replies_old = o.replies_new = 0
        o.replies_at = o.put
    elif o.sent >= o.replies_at:
        o.replies_old = o.replies_new
        o.replies_new = 0
        o.replies_at = o.put
