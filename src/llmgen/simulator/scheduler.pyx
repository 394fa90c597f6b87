"""Which sequences a step computes: the scheduler of vLLM v1, first come, first served.

Every step has a budget of tokens. Sequences that run already come first, in order of arrival: a decode takes one token
(and the drafted ones), a prompt as many as are left of it and of the budget. If the KV cache has no block for one, the
youngest sequence of the batch loses all of its blocks and goes back to the head of the queue (preemption; it will be
computed anew). Then, if nobody was preempted, waiting sequences join as long as there are seats, budget and blocks;
what the prefix cache has of their prompts is not computed, but for the last token.

Full blocks enter the prefix cache when the step that computes them is put together, so that a sequence may use what
another one computes in the same step.
"""

from libc.stdint cimport uint32_t, uint64_t

from llmgen.simulator.engine cimport MARK_PREEMPTED, MARK_SCHEDULED, Engine, Replica, Seq, Settings, Step
from llmgen.simulator.kvcache cimport NO_BLOCK, kv_drop, kv_find, kv_has_room, kv_name, kv_new, kv_take


# --- the queue and the batch ---------------------------------------------------------------------------------------

cdef void queue_push(Replica* r, Seq* s) noexcept nogil:
    """To the end of the queue."""
    s.running = False
    s.after = NULL
    s.before = r.waiting_last
    if r.waiting_last != NULL:
        r.waiting_last.after = s
    else:
        r.waiting_first = s
    r.waiting_last = s
    r.waiting += 1


cdef void queue_push_front(Replica* r, Seq* s) noexcept nogil:
    s.running = False
    s.before = NULL
    s.after = r.waiting_first
    if r.waiting_first != NULL:
        r.waiting_first.before = s
    else:
        r.waiting_last = s
    r.waiting_first = s
    r.waiting += 1


cdef void batch_push(Replica* r, Seq* s) noexcept nogil:
    s.running = True
    s.after = NULL
    s.before = r.running_last
    if r.running_last != NULL:
        r.running_last.after = s
    else:
        r.running_first = s
    r.running_last = s
    r.running += 1


cdef void seq_unlink(Replica* r, Seq* s) noexcept nogil:
    """Takes the sequence out of the queue or the batch."""
    if s.before != NULL:
        s.before.after = s.after
    elif s.running:
        r.running_first = s.after
    else:
        r.waiting_first = s.after
    if s.after != NULL:
        s.after.before = s.before
    elif s.running:
        r.running_last = s.before
    else:
        r.waiting_last = s.before
    if s.running:
        r.running -= 1
    else:
        r.waiting -= 1


# --- blocks of a sequence ------------------------------------------------------------------------------------------

cdef void seq_release(Replica* r, Seq* s) noexcept nogil:
    """Gives all blocks back, the last one first."""
    while s.block_count > 0:
        s.block_count -= 1
        kv_drop(&r.kv, s.blocks[s.block_count])
    s.computed = s.named = s.chunk = 0


cdef bint seq_reserve(Engine* e, Replica* r, Seq* s, uint32_t tokens) noexcept nogil:
    """Blocks for the first `tokens` tokens, and those of them that will be full into the prefix cache; False if the
    cache is full."""
    cdef uint32_t block_tokens = e.set.block_tokens
    cdef uint32_t need = (tokens + block_tokens - 1) // block_tokens
    cdef uint32_t known = s.input + s.generated
    cdef uint32_t full, block
    if need > s.block_count:
        if not kv_has_room(&r.kv, need - s.block_count):
            return False
        while s.block_count < need:
            block = kv_new(&r.kv)
            if block == NO_BLOCK:
                e.failed = True
                return False
            s.blocks[s.block_count] = block
            s.block_count += 1
    if e.set.prefix_cache:
        if known > tokens:
            known = tokens
        full = known // block_tokens
        if full * block_tokens < known and known == s.input and s.hash_count > full:
            full += 1            # ids of a trace name the last block of a prompt even if it is not full
        if full > s.hash_count:
            full = s.hash_count
        while s.named < full:
            kv_name(&r.kv, s.blocks[s.named], s.hashes[s.named])
            s.named += 1
    return True


cdef uint32_t seq_match(Engine* e, Replica* r, Seq* s) noexcept nogil:
    """Takes the blocks of the longest known prefix, but leaves at least one token to compute; the number of blocks that
    the cache knows, even if they are not all taken."""
    cdef uint32_t most = (s.input + s.generated - 1) // e.set.block_tokens
    cdef uint32_t found = 0, block
    if not e.set.prefix_cache:
        return 0
    while found < s.hash_count:
        block = kv_find(&r.kv, s.hashes[found])
        if block == NO_BLOCK:
            break
        if found < most:
            kv_take(&r.kv, block)
            s.blocks[s.block_count] = block
            s.block_count += 1
        found += 1
    s.named = s.block_count
    s.computed = s.block_count * e.set.block_tokens
    return found


cdef void preempt(Engine* e, Replica* r, Seq* s) noexcept nogil:
    seq_release(r, s)
    seq_unlink(r, s)
    queue_push_front(r, s)
    s.preemptions += 1
    r.preemptions += 1
    if e.on_mark != NULL:
        e.on_mark(e.ctx, MARK_PREEMPTED, e.now, s.replica, s)


# --- a step --------------------------------------------------------------------------------------------------------

cdef uint32_t wanted(const Settings* set, Seq* s, uint32_t budget, bint alone) noexcept nogil:
    """Tokens of the sequence in this step; 0: it has to wait. `alone`: nothing else is in the step yet."""
    cdef uint32_t left = s.input + s.generated - s.computed
    s.decoding = s.generated > 0 and left == 1
    if s.decoding:
        left += set.drafts
        if s.output - s.generated < left:
            left = s.output - s.generated
    elif not set.chunked:
        return left if left <= budget or alone else 0
    elif set.chunk_tokens > 0 and left > set.chunk_tokens:
        left = set.chunk_tokens
    return left if left < budget else budget


cdef bint batch_running(Engine* e, Replica* r, uint32_t* budget) noexcept nogil:
    """Gives the sequences of the batch their tokens; True if one had to leave."""
    cdef Seq* s = r.running_first
    cdef Seq* victim
    cdef uint32_t want
    cdef bint preempted = False, alone = True
    while s != NULL:
        s.chunk = 0
        want = wanted(&e.set, s, budget[0], alone) if budget[0] > 0 else 0
        if want > 0:
            while not seq_reserve(e, r, s, s.computed + want):
                victim = r.running_last
                preempt(e, r, victim)
                preempted = True
                if victim == s:
                    return True
            s.chunk = want
            budget[0] -= want if want < budget[0] else budget[0]
            alone = False
        s = s.after
    return preempted


cdef void first_run(Engine* e, Replica* r, Seq* s, uint32_t found) noexcept nogil:
    """Books of a sequence that joins the batch."""
    r.prefix_queries += s.input + s.generated
    r.prefix_hits += s.computed
    if s.scheduled < 0:
        s.scheduled = e.now
        s.cached = s.computed
        r.block_queries += s.hash_count
        r.block_hits += found
    if e.on_mark != NULL:
        e.on_mark(e.ctx, MARK_SCHEDULED, e.now, s.replica, s)


cdef void batch_waiting(Engine* e, Replica* r, uint32_t budget, bint alone) noexcept nogil:
    """Lets waiting sequences join."""
    cdef Seq* s
    cdef uint32_t want, found
    while r.waiting_first != NULL and r.running < e.set.max_seqs and budget > 0:
        if r.kv.limit > 0 and r.kv.free_count == 0:
            return
        s = r.waiting_first
        found = seq_match(e, r, s)
        want = wanted(&e.set, s, budget, alone)
        if want == 0 or not seq_reserve(e, r, s, s.computed + want):
            seq_release(r, s)
            return
        seq_unlink(r, s)
        batch_push(r, s)
        first_run(e, r, s, found)
        s.chunk = want
        budget -= want if want < budget else budget
        alone = False


cdef bint batch_step(Engine* e, Replica* r, Step* step, uint64_t* context) noexcept nogil:
    """Puts the next step together: its figures, and the context tokens of those that decode; False: nothing to do."""
    cdef uint32_t budget = e.set.max_batched_tokens
    cdef Seq* s
    cdef bint any_chunk = False
    if not batch_running(e, r, &budget):
        batch_waiting(e, r, budget, budget == e.set.max_batched_tokens)
    step.prefill_tokens = step.decodes = step.tokens = 0
    context[0] = 0
    s = r.running_first
    while s != NULL:
        if s.chunk > 0:
            any_chunk = True
            if s.decoding:
                step.decodes += 1
                context[0] += s.computed
            else:
                step.prefill_tokens += s.chunk
        s = s.after
    step.running = r.running
    step.waiting = r.waiting
    step.kv_used = r.kv.in_use + r.kv.lost
    return any_chunk
