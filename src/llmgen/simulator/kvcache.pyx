"""The paged KV cache of one replica, as vLLM v1 keeps it.

A block belongs to the sequences that hold a reference. Without one it is free, but keeps its content (and its place in
the prefix cache) until a new block is needed: the longest free one is taken. A sequence gives its last block back
first, so that the ends of prefixes are forgotten before their beginnings.

A cache without a limit never forgets a prefix.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memset

cdef enum:
    FIRST_BLOCKS = 1024          # of a cache without a limit


cdef void chain_all(KvCache* kv) noexcept nogil:
    """Fills the hash buckets anew."""
    cdef uint32_t i, at
    for i in range(kv.mask + 1):
        kv.heads[i] = NO_BLOCK
    for i in range(kv.count):
        if kv.blocks[i].named:
            at = <uint32_t>kv.blocks[i].hash & kv.mask
            kv.blocks[i].chained = kv.heads[at]
            kv.heads[at] = i


cdef bint make_room(KvCache* kv, uint32_t capacity) noexcept nogil:
    """Memory for `capacity` blocks and at least as many hash buckets."""
    cdef uint32_t buckets = 1
    cdef Block* blocks
    cdef uint32_t* heads
    while buckets < capacity:
        buckets *= 2
    blocks = <Block*>realloc(kv.blocks, <size_t>capacity * sizeof(Block))
    if blocks == NULL:
        return False
    kv.blocks = blocks
    heads = <uint32_t*>realloc(kv.heads, <size_t>buckets * sizeof(uint32_t))
    if heads == NULL:
        return False
    kv.heads = heads
    kv.capacity = capacity
    kv.mask = buckets - 1
    chain_all(kv)
    return True


cdef bint kv_open(KvCache* kv, uint32_t limit) noexcept nogil:
    """An empty cache; False without memory."""
    cdef uint32_t i
    memset(kv, 0, sizeof(KvCache))
    kv.limit = limit
    kv.free_first = kv.free_last = NO_BLOCK
    if not make_room(kv, limit if limit > 0 else FIRST_BLOCKS):
        kv_close(kv)
        return False
    for i in range(limit):
        memset(&kv.blocks[i], 0, sizeof(Block))
        kv.count += 1
        free_push(kv, i)
    return True


cdef void kv_close(KvCache* kv) noexcept nogil:
    free(kv.blocks)
    free(kv.heads)
    memset(kv, 0, sizeof(KvCache))


cdef bint kv_has_room(const KvCache* kv, uint32_t blocks) noexcept nogil:
    return kv.limit == 0 or kv.free_count >= blocks


cdef uint32_t kv_find(const KvCache* kv, uint64_t hash) noexcept nogil:
    cdef uint32_t at = kv.heads[<uint32_t>hash & kv.mask]
    while at != NO_BLOCK and kv.blocks[at].hash != hash:
        at = kv.blocks[at].chained
    return at


# --- the list of free blocks ---------------------------------------------------------------------------------------

cdef void free_push(KvCache* kv, uint32_t block) noexcept nogil:
    cdef Block* b = &kv.blocks[block]
    b.free = True
    b.before = kv.free_last
    b.after = NO_BLOCK
    if kv.free_last != NO_BLOCK:
        kv.blocks[kv.free_last].after = block
    else:
        kv.free_first = block
    kv.free_last = block
    kv.free_count += 1


cdef void free_remove(KvCache* kv, uint32_t block) noexcept nogil:
    cdef Block* b = &kv.blocks[block]
    b.free = False
    if b.before != NO_BLOCK:
        kv.blocks[b.before].after = b.after
    else:
        kv.free_first = b.after
    if b.after != NO_BLOCK:
        kv.blocks[b.after].before = b.before
    else:
        kv.free_last = b.before
    kv.free_count -= 1


cdef void forget(KvCache* kv, uint32_t block) noexcept nogil:
    """Takes the block out of the prefix cache."""
    cdef Block* b = &kv.blocks[block]
    cdef uint32_t* link = &kv.heads[<uint32_t>b.hash & kv.mask]
    while link[0] != block:
        link = &kv.blocks[link[0]].chained
    link[0] = b.chained
    b.named = False
    kv.named -= 1
    kv.evictions += 1


# --- blocks --------------------------------------------------------------------------------------------------------

cdef uint32_t kv_new(KvCache* kv) noexcept nogil:
    """A block with one reference and without content; NO_BLOCK if none is free (or without memory)."""
    cdef uint32_t block = kv.free_first
    if block != NO_BLOCK:
        free_remove(kv, block)
        if kv.blocks[block].named:
            forget(kv, block)
    else:
        if kv.limit > 0 or kv.count == NO_BLOCK // 2:
            return NO_BLOCK
        if kv.count == kv.capacity and not make_room(kv, 2 * kv.capacity):
            return NO_BLOCK
        block = kv.count
        kv.count += 1
        memset(&kv.blocks[block], 0, sizeof(Block))
    kv.blocks[block].refs = 1
    kv.in_use += 1
    return block


cdef void kv_take(KvCache* kv, uint32_t block) noexcept nogil:
    """One more sequence uses the block."""
    if kv.blocks[block].refs == 0:
        kv.in_use += 1
        if kv.blocks[block].free:
            free_remove(kv, block)
    kv.blocks[block].refs += 1


cdef void kv_drop(KvCache* kv, uint32_t block) noexcept nogil:
    """One sequence less uses the block."""
    cdef Block* b = &kv.blocks[block]
    b.refs -= 1
    if b.refs == 0:
        kv.in_use -= 1
        if kv.limit > 0 or not b.named:
            free_push(kv, block)


cdef void kv_name(KvCache* kv, uint32_t block, uint64_t hash) noexcept nogil:
    """Puts the block into the prefix cache, unless another one has the same content."""
    cdef Block* b = &kv.blocks[block]
    if b.named or kv_find(kv, hash) != NO_BLOCK:
        return
    b.hash = hash
    b.named = True
    b.chained = kv.heads[<uint32_t>hash & kv.mask]
    kv.heads[<uint32_t>hash & kv.mask] = block
    kv.named += 1


cdef void kv_lose(KvCache* kv) noexcept nogil:
    """Leaks a free block, but never more than half of the cache: what remains must hold any request."""
    if kv.limit > 0 and kv.free_count > 0 and kv.lost < kv.limit // 2:
        kv_new(kv)
        kv.in_use -= 1
        kv.lost += 1


cdef class Cache:
    """For tests: a cache of its own, blocks by their numbers."""

    def __cinit__(self, uint32_t limit):
        if not kv_open(&self.kv, limit):
            raise MemoryError

    def __dealloc__(self):
        kv_close(&self.kv)

    def new(self):
        cdef uint32_t block = kv_new(&self.kv)
        return None if block == NO_BLOCK else block

    def find(self, uint64_t hash):
        cdef uint32_t block = kv_find(&self.kv, hash)
        return None if block == NO_BLOCK else block

    def take(self, uint32_t block):
        kv_take(&self.kv, block)

    def drop(self, uint32_t block):
        if block >= self.kv.count or self.kv.blocks[block].refs == 0:
            raise ValueError(f"block {block} is not in use")
        kv_drop(&self.kv, block)

    def name(self, uint32_t block, uint64_t hash):
        kv_name(&self.kv, block, hash)

    def lose(self):
        kv_lose(&self.kv)

    @property
    def counts(self):
        cdef KvCache* kv = &self.kv
        return {"count": kv.count, "free": kv.free_count, "in_use": kv.in_use, "named": kv.named, "lost": kv.lost,
                "evictions": kv.evictions}
