# How much of the prompts a cache would find again that never forgets: blocks of words, kept from a prompt's arrival on.

from libc.stdint cimport uint32_t, uint64_t

from llmgen.simulator.kvcache cimport NO_BLOCK, KvCache, kv_find, kv_name, kv_new
from llmgen.simulator.prefix cimport Prefix


cdef struct Reuse:
    KvCache seen                 # without a limit
    uint32_t block_words         # 0: nothing is counted
    uint64_t blocks              # of all prompts; the last one of a prompt may be shorter
    uint64_t block_hits
    uint64_t words
    uint64_t word_hits


cdef inline bint reuse_block(Reuse* reuse, uint64_t hash) noexcept nogil:
    """Whether a block with all before it was there already; it is from now on."""
    cdef uint32_t block
    reuse.blocks += 1
    if kv_find(&reuse.seen, hash) != NO_BLOCK:
        reuse.block_hits += 1
        return True
    block = kv_new(&reuse.seen)
    if block != NO_BLOCK:
        kv_name(&reuse.seen, block, hash)
    return False


cdef inline uint32_t reuse_prompt(Reuse* reuse, const Prefix* prefix) noexcept nogil:
    """Words at the prompt's beginning that were there already."""
    cdef uint32_t i, known = 0
    for i in range(prefix.count):
        if reuse_block(reuse, prefix.hashes[i]):
            known += reuse.block_words
    if prefix.words % reuse.block_words != 0 and reuse_block(reuse, prefix.fold):
        known += prefix.words % reuse.block_words
    reuse.words += prefix.words
    reuse.word_hits += known
    return known
