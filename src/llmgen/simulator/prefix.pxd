# Hashes of a prompt's blocks, as the prefix cache knows them: a block's hash is the fold over all words up to its end.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport realloc

from llmgen.simulator.seeded cimport mixed


cdef struct Prefix:
    uint64_t fold                # of the words so far
    uint64_t* hashes             # of the full blocks; grows
    size_t capacity
    uint32_t count
    uint32_t words
    uint32_t block_words


cdef inline uint64_t word_hash(const uint8_t* data, size_t size) noexcept nogil:
    """FNV-1a."""
    cdef uint64_t hash = <uint64_t>14695981039346656037
    cdef size_t i
    for i in range(size):
        hash = (hash ^ data[i]) * <uint64_t>1099511628211
    return hash


cdef inline void prefix_word(Prefix* prefix, uint64_t hash) noexcept nogil:
    """One more word. Without memory for its block's hash, that block and those behind it are never found again."""
    cdef size_t capacity
    cdef uint64_t* grown
    prefix.fold = mixed(prefix.fold ^ hash)
    prefix.words += 1
    if prefix.words % prefix.block_words != 0:
        return
    if prefix.words // prefix.block_words != prefix.count + 1:
        return
    if prefix.count == prefix.capacity:
        capacity = 2 * prefix.capacity + 64
        grown = <uint64_t*>realloc(prefix.hashes, capacity * sizeof(uint64_t))
        if grown == NULL:
            return
        prefix.hashes = grown
        prefix.capacity = capacity
    prefix.hashes[prefix.count] = prefix.fold
    prefix.count += 1
