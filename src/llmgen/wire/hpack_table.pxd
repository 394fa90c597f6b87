# The two tables of HPACK (RFC 7541 2.3): the static one, and the dynamic one of each direction of a connection.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from llmgen.wire.sink cimport Header


cdef enum:
    HPACK_STATIC = 61                    # entries of the static table; dynamic indices follow
    HPACK_ENTRY_OVERHEAD = 32            # RFC 7541 4.1: added to name and value, in tables and in list sizes


# Index 1 stands first; written once at import and constant from then on.
cdef Header STATIC_TABLE[HPACK_STATIC + 1]


cdef struct HpackEntry:
    uint32_t start               # of the name in the table's bytes; the value follows it directly
    uint32_t name_size
    uint32_t value_size
    uint32_t hash                # of the name; used by the encoder only


# Entries are a ring, newest first in RFC terms; their strings lie in order in one run of bytes, moved to the front of
# its memory when its end is reached. Both grow on demand: a connection that indexes nothing costs nothing.
cdef struct HpackTable:
    uint8_t* bytes
    HpackEntry* entries
    uint32_t bytes_capacity
    uint32_t start               # live strings: bytes[start .. end)
    uint32_t end
    uint32_t slots               # of `entries`, a power of two
    uint32_t oldest              # slot of the oldest entry
    uint32_t count
    uint32_t size                # as RFC 7541 4.1 counts
    uint32_t max_size            # as last told by a size update


# The index of name and value, or 0; `name_index`: of the name alone, or 0. `hash` is hash_name's.
cdef uint32_t static_find(const uint8_t* name, size_t name_size, const uint8_t* value, size_t value_size,
                          uint32_t hash, uint32_t* name_index) noexcept nogil

# A size update: evicts what no longer fits.
cdef void table_set_max_size(HpackTable* t, uint32_t size) noexcept nogil

# Adds a field whose strings do not lie in the table itself. One that is too large empties the table (RFC 7541 4.4).
# False without memory.
cdef bint table_add(HpackTable* t, const uint8_t* name, uint32_t name_size, const uint8_t* value, uint32_t value_size,
                    uint32_t hash) noexcept nogil

# As static_find, newest entries first; keeps a `name_index` that is there already. Indices are those of the wire.
cdef uint32_t table_find(HpackTable* t, const uint8_t* name, size_t name_size, const uint8_t* value, size_t value_size,
                         uint32_t hash, uint32_t* name_index) noexcept nogil

cdef void table_free(HpackTable* t) noexcept nogil

# For tests and the curious: [(name, value)], newest first.
cdef list table_fields(HpackTable* t)


cdef inline uint32_t hash_name(const uint8_t* name, size_t size) noexcept nogil:
    """FNV-1a: names are short."""
    cdef uint32_t h = 2166136261
    cdef size_t i
    for i in range(size):
        h = (h ^ name[i]) * 16777619
    return h ^ (h >> 15)


cdef inline bint same(const uint8_t* a, size_t a_size, const uint8_t* b, size_t b_size) noexcept nogil:
    return a_size == b_size and (a_size == 0 or memcmp(a, b, a_size) == 0)


cdef inline HpackEntry* table_entry(HpackTable* t, uint32_t age) noexcept nogil:
    """The entry that `age` newer ones follow; age < count."""
    return &t.entries[(t.oldest + t.count - 1 - age) & (t.slots - 1)]
