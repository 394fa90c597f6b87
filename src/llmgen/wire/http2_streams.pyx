"""The streams of one HTTP/2 connection: slab, table by id, heap of sendable bodies, memory of the ended ones."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memmove, memset


cdef enum:
    CHUNK = 64                   # records a chunk: 3.5 KiB
    FIRST_SLOTS = 16


cdef void streams_init(Http2Streams* t) noexcept nogil:
    memset(t, 0, sizeof(Http2Streams))


cdef void streams_free(Http2Streams* t) noexcept nogil:
    cdef uint32_t i
    cdef Http2Stream* s
    for i in range(t.chunk_count * CHUNK):
        s = streams_at(t, i)
        if s.id and s.body != NULL:
            body_free(s.body)
    for i in range(t.chunk_count):
        free(t.chunks[i])
    free(t.chunks)
    free(t.table)
    free(t.heap)
    free(t.gone)
    memset(t, 0, sizeof(Http2Streams))


cdef int grow_slab(Http2Streams* t) noexcept nogil:
    cdef Http2Stream** chunks = <Http2Stream**>realloc(t.chunks, (t.chunk_count + 1) * sizeof(Http2Stream*))
    cdef Http2Stream* chunk
    cdef uint32_t i, slot
    if chunks == NULL:
        return -1
    t.chunks = chunks
    chunk = <Http2Stream*>calloc(CHUNK, sizeof(Http2Stream))
    if chunk == NULL:
        return -1
    t.chunks[t.chunk_count] = chunk
    for i in range(<uint32_t>CHUNK):         # the lowest slot comes first out of the list
        slot = t.chunk_count * CHUNK + CHUNK - 1 - i
        chunk[slot & (CHUNK - 1)].slot = slot
        chunk[slot & (CHUNK - 1)].next_free = t.free
        t.free = slot + 1
    t.chunk_count += 1
    return 0


cdef void table_put(Http2Stream** table, uint32_t mask, Http2Stream* s) noexcept nogil:
    cdef uint32_t i = (s.id >> 1) & mask
    while table[i] != NULL:
        i = (i + 1) & mask
    table[i] = s


cdef int grow_table(Http2Streams* t) noexcept nogil:
    cdef uint32_t i
    cdef uint32_t slots = t.table_slots * 2 if t.table_slots else FIRST_SLOTS
    cdef Http2Stream** table = <Http2Stream**>calloc(slots, sizeof(Http2Stream*))
    if table == NULL:
        return -1
    for i in range(t.table_slots):
        if t.table[i] != NULL:
            table_put(table, slots - 1, t.table[i])
    free(t.table)
    t.table = table
    t.table_slots = slots
    return 0


cdef void table_remove(Http2Streams* t, Http2Stream* s) noexcept nogil:
    # Linear probing without tombstones: whatever would be cut off from its home moves into the hole.
    cdef uint32_t mask = t.table_slots - 1
    cdef uint32_t hole = (s.id >> 1) & mask
    cdef uint32_t i, home
    while t.table[hole] != s:
        hole = (hole + 1) & mask
    i = hole
    while True:
        i = (i + 1) & mask
        if t.table[i] == NULL:
            break
        home = (t.table[i].id >> 1) & mask
        if ((i - home) & mask) >= ((i - hole) & mask):
            t.table[hole] = t.table[i]
            hole = i
    t.table[hole] = NULL


cdef Http2Stream* streams_probe(Http2Streams* t, uint32_t id) noexcept nogil:
    cdef uint32_t mask, i
    cdef Http2Stream* s
    if t.count == 0 or id == 0:
        return NULL
    mask = t.table_slots - 1
    i = (id >> 1) & mask
    while True:
        s = t.table[i]
        if s == NULL:
            return NULL
        if s.id == id:
            t.last = s
            return s
        i = (i + 1) & mask


cdef Http2Stream* streams_open(Http2Streams* t, uint32_t id) noexcept nogil:
    cdef Http2Stream* s
    cdef uint32_t slot, skipped
    if t.free == 0 and grow_slab(t) < 0:
        return NULL
    if (t.count + 1) * 2 > t.table_slots and grow_table(t) < 0:
        return NULL
    slot = t.free - 1
    s = streams_at(t, slot)
    t.free = s.next_free
    memset(s, 0, sizeof(Http2Stream))
    s.slot = slot
    s.id = id
    s.content_left = -1
    table_put(t.table, t.table_slots - 1, s)
    t.count += 1
    t.last = s
    if t.gone != NULL:           # ids that were skipped must not look like those that had their place before
        skipped = (id - t.highest) >> 1
        if skipped > STREAMS_REMEMBERED:
            skipped = STREAMS_REMEMBERED
        while skipped:
            t.gone[((id >> 1) - skipped + 1) % STREAMS_REMEMBERED] = GONE_NEVER
            skipped -= 1
        t.gone[(id >> 1) % STREAMS_REMEMBERED] = GONE_NEVER
    t.highest = id
    return s


cdef void streams_close(Http2Streams* t, Http2Stream* s, int gone) noexcept nogil:
    if s.body != NULL:
        if s.body.heap_index:
            heap_remove(t, s.body)
        body_free(s.body)
        s.body = NULL
    if t.gone == NULL:           # without memory for it the stream counts as ended long ago
        t.gone = <uint8_t*>calloc(STREAMS_REMEMBERED, 1)
    if t.gone != NULL:
        t.gone[(s.id >> 1) % STREAMS_REMEMBERED] = <uint8_t>gone
    table_remove(t, s)
    if t.last == s:
        t.last = NULL
    s.id = 0
    s.next_free = t.free
    t.free = s.slot + 1
    t.count -= 1


cdef int streams_gone(Http2Streams* t, uint32_t id) noexcept nogil:
    if t.highest >= id and (t.highest - id) >> 1 >= STREAMS_REMEMBERED:
        return GONE_LONG_AGO
    if t.gone == NULL:
        return GONE_NEVER
    return t.gone[(id >> 1) % STREAMS_REMEMBERED]


cdef Http2Body* body_new(const iovec* spans, uint32_t count, uint64_t order) noexcept nogil:
    cdef Http2Body* b = <Http2Body*>calloc(1, sizeof(Http2Body))
    cdef uint32_t i
    if b == NULL:
        return NULL
    b.spans = b.inline_spans
    if count > BODY_INLINE:
        b.spans = <iovec*>malloc(count * sizeof(iovec))
        if b.spans == NULL:
            free(b)
            return NULL
    for i in range(count):
        if spans[i].iov_len:
            b.spans[b.count] = spans[i]
            b.count += 1
            b.left += spans[i].iov_len
    b.order = order
    return b


cdef int body_append(Http2Body* b, const uint8_t* data, size_t size) noexcept nogil:
    cdef size_t capacity
    cdef uint8_t* grown
    if b.offset + b.left + size > b.owned_capacity:
        if b.offset:
            memmove(b.owned, b.owned + b.offset, <size_t>b.left)
            b.offset = 0
        capacity = b.owned_capacity if b.owned_capacity else 1024
        while b.left + size > capacity:
            capacity *= 2
        if capacity != b.owned_capacity:
            grown = <uint8_t*>realloc(b.owned, capacity)
            if grown == NULL:
                return -1
            b.owned = grown
            b.owned_capacity = capacity
    memcpy(b.owned + b.offset + b.left, data, size)
    b.left += size
    b.spans[0].iov_base = b.owned
    b.spans[0].iov_len = b.offset + <size_t>b.left
    b.count = 1
    return 0


cdef void body_free(Http2Body* b) noexcept nogil:
    if b.spans != b.inline_spans:
        free(b.spans)
    free(b.owned)
    free(b)


cdef inline void heap_set(Http2Streams* t, uint32_t i, Http2Body* b) noexcept nogil:
    t.heap[i] = b
    b.heap_index = i + 1


cdef void heap_up(Http2Streams* t, uint32_t i) noexcept nogil:
    cdef Http2Body* b = t.heap[i]
    cdef uint32_t parent
    while i:
        parent = (i - 1) >> 1
        if t.heap[parent].order <= b.order:
            break
        heap_set(t, i, t.heap[parent])
        i = parent
    heap_set(t, i, b)


cdef void heap_down(Http2Streams* t, uint32_t i) noexcept nogil:
    cdef Http2Body* b = t.heap[i]
    cdef uint32_t child
    while True:
        child = 2 * i + 1
        if child >= t.heap_count:
            break
        if child + 1 < t.heap_count and t.heap[child + 1].order < t.heap[child].order:
            child += 1
        if b.order <= t.heap[child].order:
            break
        heap_set(t, i, t.heap[child])
        i = child
    heap_set(t, i, b)


cdef int heap_push(Http2Streams* t, Http2Body* b) noexcept nogil:
    cdef uint32_t capacity
    cdef Http2Body** heap
    if t.heap_count == t.heap_capacity:
        capacity = t.heap_capacity * 2 if t.heap_capacity else FIRST_SLOTS
        heap = <Http2Body**>realloc(t.heap, capacity * sizeof(Http2Body*))
        if heap == NULL:
            return -1
        t.heap = heap
        t.heap_capacity = capacity
    t.heap[t.heap_count] = b
    t.heap_count += 1
    heap_up(t, t.heap_count - 1)
    return 0


cdef void heap_remove(Http2Streams* t, Http2Body* b) noexcept nogil:
    cdef uint32_t i = b.heap_index - 1
    cdef Http2Body* moved
    t.heap_count -= 1
    b.heap_index = 0
    if i == t.heap_count:
        return
    moved = t.heap[t.heap_count]
    heap_set(t, i, moved)
    heap_up(t, i)
    heap_down(t, moved.heap_index - 1)
