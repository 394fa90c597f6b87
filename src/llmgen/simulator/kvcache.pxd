# The paged KV cache of one replica: blocks with reference counts, a prefix cache by hash, eviction in LRU order.

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef enum:
    NO_BLOCK = 0xFFFFFFFF


cdef struct Block:
    uint64_t hash                # of the prefix that ends with it; valid if `named`
    uint32_t refs                # sequences that use it
    uint32_t chained             # the next block of the same hash bucket
    uint32_t before              # in the list of free blocks
    uint32_t after
    uint8_t named                # is in the prefix cache
    uint8_t free                 # is in the list of free blocks


cdef struct KvCache:
    Block* blocks
    uint32_t count               # blocks that exist
    uint32_t capacity
    uint32_t limit               # 0: as many as are wanted
    uint32_t lost                # leaked: used by nobody, never free again
    uint32_t free_first          # longest free
    uint32_t free_last
    uint32_t free_count
    uint32_t* heads              # of the hash buckets
    uint32_t mask
    uint32_t named               # blocks in the prefix cache
    uint32_t in_use              # blocks with a reference
    uint64_t evictions           # prefixes that were forgotten for new blocks


cdef bint kv_open(KvCache* kv, uint32_t limit) noexcept nogil
cdef void kv_close(KvCache* kv) noexcept nogil
cdef bint kv_has_room(const KvCache* kv, uint32_t blocks) noexcept nogil
cdef uint32_t kv_find(const KvCache* kv, uint64_t hash) noexcept nogil
cdef uint32_t kv_new(KvCache* kv) noexcept nogil
cdef void kv_take(KvCache* kv, uint32_t block) noexcept nogil
cdef void kv_drop(KvCache* kv, uint32_t block) noexcept nogil
cdef void kv_name(KvCache* kv, uint32_t block, uint64_t hash) noexcept nogil
cdef void kv_lose(KvCache* kv) noexcept nogil


cdef class Cache:
    cdef KvCache kv
