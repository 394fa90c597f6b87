"""The tables of HPACK, native: the static one with a hash of its names, and the dynamic one.

Entries of the dynamic table are a ring. Their strings lie in order in one run of bytes: new ones are appended, old ones
fall off at the start, and when the memory's end is reached, the run is moved to the front, at most once for as many
bytes as it holds. So the strings of an entry are always in one piece.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove, memset

from llmgen.wire.sink cimport Header

from llmgen.wire import hpack_constants


cdef enum:
    NAME_SLOTS = 256             # hash table of the 52 static names, sparse enough for one probe in most cases


cdef uint8_t STATIC_NAMES[NAME_SLOTS]    # index of the first entry of a name, by hash; 0: free
_STRINGS = hpack_constants.STATIC_TABLE     # keeps the bytes alive that STATIC_TABLE points to


cdef int fill_static_table() except -1:
    cdef bytes name, value
    cdef uint32_t slot
    cdef int index = 0
    if len(_STRINGS) != HPACK_STATIC:
        raise RuntimeError(f"the static table has {len(_STRINGS)} entries instead of {HPACK_STATIC}")
    for name, value in _STRINGS:
        index += 1
        STATIC_TABLE[index].name = name
        STATIC_TABLE[index].name_size = <uint32_t>len(name)
        STATIC_TABLE[index].value = value
        STATIC_TABLE[index].value_size = <uint32_t>len(value)
        slot = hash_name(name, len(name)) & (NAME_SLOTS - 1)
        while STATIC_NAMES[slot] and _STRINGS[STATIC_NAMES[slot] - 1][0] != name:
            slot = (slot + 1) & (NAME_SLOTS - 1)
        if not STATIC_NAMES[slot]:
            STATIC_NAMES[slot] = <uint8_t>index
    return 0


fill_static_table()


cdef uint32_t static_find(const uint8_t* name, size_t name_size, const uint8_t* value, size_t value_size,
                          uint32_t hash, uint32_t* name_index) noexcept nogil:
    cdef uint32_t slot = hash & (NAME_SLOTS - 1), index
    cdef const Header* entry
    name_index[0] = 0
    while STATIC_NAMES[slot]:
        entry = &STATIC_TABLE[STATIC_NAMES[slot]]
        if same(entry.name, entry.name_size, name, name_size):
            name_index[0] = STATIC_NAMES[slot]
            for index in range(name_index[0], HPACK_STATIC + 1):
                entry = &STATIC_TABLE[index]
                if not same(entry.name, entry.name_size, name, name_size):
                    break
                if same(entry.value, entry.value_size, value, value_size):
                    return index
            return 0
        slot = (slot + 1) & (NAME_SLOTS - 1)
    return 0


cdef void table_shrink(HpackTable* t, uint64_t size) noexcept nogil:
    """Evicts the oldest entries until the table's size is at most `size`."""
    cdef HpackEntry* entry
    cdef uint32_t length
    while t.size > size:
        entry = &t.entries[t.oldest]
        length = entry.name_size + entry.value_size
        t.start += length
        t.size -= length + HPACK_ENTRY_OVERHEAD
        t.oldest = (t.oldest + 1) & (t.slots - 1)
        t.count -= 1
    if t.count == 0:
        t.start = t.end = 0


cdef void table_set_max_size(HpackTable* t, uint32_t size) noexcept nogil:
    t.max_size = size
    table_shrink(t, size)


cdef void table_move(HpackTable* t, uint8_t* to) noexcept nogil:
    """Moves the live strings to `to`, which may be the front of their own memory."""
    cdef uint32_t i
    memmove(to, t.bytes + t.start, t.end - t.start)
    for i in range(t.count):
        table_entry(t, i).start -= t.start
    t.end -= t.start
    t.start = 0


cdef bint table_reserve(HpackTable* t, uint32_t length) noexcept nogil:
    """Room for one more entry with strings of `length` bytes; False without memory, the table is then unchanged."""
    cdef uint64_t live = t.end - t.start, capacity
    cdef uint32_t i, slots
    cdef uint8_t* bytes_
    cdef HpackEntry* entries
    if t.count == t.slots:
        slots = t.slots * 2 if t.slots else 8
        entries = <HpackEntry*>malloc(slots * sizeof(HpackEntry))
        if entries == NULL:
            return False
        for i in range(t.count):
            entries[i] = t.entries[(t.oldest + i) & (t.slots - 1)]
        free(t.entries)
        t.entries, t.slots, t.oldest = entries, slots, 0
    if t.bytes != NULL:
        if <uint64_t>t.end + length <= t.bytes_capacity:
            return True
        if (live + length) * 2 <= t.bytes_capacity:  # a move pays for itself: as much was appended since the last one
            table_move(t, t.bytes)
            return True
    capacity = (live + length) * 2 if live + length > 128 else 256
    bytes_ = <uint8_t*>malloc(capacity)
    if bytes_ == NULL:
        return False
    if t.bytes != NULL:
        table_move(t, bytes_)
    free(t.bytes)
    t.bytes, t.bytes_capacity = bytes_, <uint32_t>capacity
    return True


cdef bint table_add(HpackTable* t, const uint8_t* name, uint32_t name_size, const uint8_t* value, uint32_t value_size,
                    uint32_t hash) noexcept nogil:
    cdef uint64_t need = <uint64_t>name_size + value_size + HPACK_ENTRY_OVERHEAD
    cdef HpackEntry* entry
    if need > t.max_size:
        table_shrink(t, 0)
        return True
    table_shrink(t, t.max_size - need)
    if not table_reserve(t, name_size + value_size):
        return False
    t.count += 1
    entry = table_entry(t, 0)
    entry.start, entry.name_size, entry.value_size, entry.hash = t.end, name_size, value_size, hash
    memcpy(t.bytes + t.end, name, name_size)
    memcpy(t.bytes + t.end + name_size, value, value_size)
    t.end += name_size + value_size
    t.size += <uint32_t>need
    return True


cdef uint32_t table_find(HpackTable* t, const uint8_t* name, size_t name_size, const uint8_t* value, size_t value_size,
                         uint32_t hash, uint32_t* name_index) noexcept nogil:
    cdef HpackEntry* entry
    cdef const uint8_t* text
    cdef uint32_t age
    for age in range(t.count):
        entry = table_entry(t, age)
        if entry.hash != hash:
            continue
        text = t.bytes + entry.start
        if not same(text, entry.name_size, name, name_size):
            continue
        if same(text + entry.name_size, entry.value_size, value, value_size):
            return HPACK_STATIC + 1 + age
        if not name_index[0]:
            name_index[0] = HPACK_STATIC + 1 + age
    return 0


cdef void table_free(HpackTable* t) noexcept nogil:
    free(t.bytes)
    free(t.entries)
    memset(t, 0, sizeof(HpackTable))


cdef list table_fields(HpackTable* t):
    cdef HpackEntry* entry
    cdef const uint8_t* text
    cdef uint32_t age
    fields = []
    for age in range(t.count):
        entry = table_entry(t, age)
        text = t.bytes + entry.start
        fields.append((text[:entry.name_size], text[entry.name_size:entry.name_size + entry.value_size]))
    return fields
