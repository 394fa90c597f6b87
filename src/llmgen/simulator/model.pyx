"""The Python face of an engine: its settings, what it counts, and runs without a network."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from llmgen.simulator.engine cimport (
    MARK_STEP,
    MAX_REPLICAS,
    REPLICA_ABSENT,
    REPLICA_DRAINING,
    REPLICA_LOADING,
    REPLICA_READY,
    Engine,
    Histogram,
    Mark,
    Replica,
    Seq,
    Settings,
    engine_advance,
    engine_arrive,
    engine_free,
    engine_new,
    engine_next,
    engine_settle,
    engine_start,
)
from llmgen.simulator.seeded cimport mixed


cdef int settings_fill(Settings* set, values) except -1:
    """Takes over every setting; KeyError for one that is missing."""
    memset(set, 0, sizeof(Settings))
    set.step_ns, set.prefill_ns, set.decode_ns = values["step_ns"], values["prefill_ns"], values["decode_ns"]
    set.context_ns, set.draft_ns = values["context_ns"], values["draft_ns"]
    set.max_seqs, set.max_batched_tokens = values["max_seqs"], values["max_batched_tokens"]
    set.chunk_tokens, set.chunked = values["chunk_tokens"], values["chunked"]
    set.context_tokens, set.block_tokens = values["context_tokens"], values["block_tokens"]
    set.kv_blocks, set.prefix_cache = values["kv_blocks"], values["prefix_cache"]
    set.max_waiting, set.drafts, set.acceptance = values["max_waiting"], values["drafts"], values["acceptance"]
    set.load_ns = values["load_ns"]
    set.warmup_steps, set.warmup_factor = values["warmup_steps"], values["warmup_factor"]
    set.replicas, set.max_replicas = values["replicas"], values["max_replicas"]
    set.scale_waiting, set.scale_period_ns = values["scale_waiting"], values["scale_period_ns"]
    set.scale_delay_ns, set.scale_down_ns = values["scale_delay_ns"], values["scale_down_ns"]
    set.leak_blocks = values["leak_blocks"]
    set.ambient_c, set.heat_c, set.heat_ns = values["ambient_c"], values["heat_c"], values["heat_ns"]
    set.throttle_c, set.throttle_factor = values["throttle_c"], values["throttle_factor"]
    set.idle_w, set.busy_w, set.seed = values["idle_w"], values["busy_w"], values["seed"]
    return 0


# --- rows of a run without a network -------------------------------------------------------------------------------

cdef void* rows_add(Rows* rows, size_t size) noexcept nogil:
    """The next row, NULL without memory."""
    cdef size_t capacity
    cdef uint8_t* grown
    if rows.size + size > rows.capacity:
        capacity = 2 * rows.capacity + 4096
        grown = <uint8_t*>realloc(rows.data, capacity)
        if grown == NULL:
            rows.failed = True
            return NULL
        rows.data = grown
        rows.capacity = capacity
    rows.size += size
    return rows.data + rows.size - size


cdef struct Run:
    Engine* engine
    const int64_t* arrivals
    const int64_t* inputs
    const int64_t* outputs
    const uint64_t* hashes
    const int64_t* offsets       # of each request's hashes; one more than there are requests
    int64_t* scheduled
    int64_t* first_token
    int64_t* last_token
    uint8_t* admission
    uint32_t* replica
    uint32_t* cached
    uint32_t* preemptions
    Rows tokens
    Rows steps
    Rows marks
    Rows own                     # hashes of the request that arrives, if prompts have no names and no two are alike
    bint want_tokens
    bint alike                   # prompts may share blocks: `hashes` has their names


cdef void take_tokens(void* ctx, Seq* s, uint32_t tokens, bint finished, int64_t t) noexcept nogil:
    cdef Run* run = <Run*>ctx
    cdef size_t i = <size_t><uintptr_t>s.user - 1
    cdef TokenRow* row
    if run.want_tokens:
        row = <TokenRow*>rows_add(&run.tokens, sizeof(TokenRow))
        if row != NULL:
            row.t = t
            row.request = <uint32_t>i
            row.tokens = tokens
    if finished:
        run.scheduled[i] = s.scheduled
        run.first_token[i] = s.first_token
        run.last_token[i] = s.last_token
        run.replica[i] = s.replica
        run.cached[i] = s.cached
        run.preemptions[i] = s.preemptions


cdef void take_mark(void* ctx, Mark mark, int64_t t, uint32_t replica, const Seq* s) noexcept nogil:
    cdef Run* run = <Run*>ctx
    cdef Replica* r = &run.engine.replicas[replica]
    cdef StepRow* step
    cdef MarkRow* row
    if mark == MARK_STEP:
        step = <StepRow*>rows_add(&run.steps, sizeof(StepRow))
        if step != NULL:
            step.start, step.end, step.replica = r.last.start, r.last.end, replica
            step.prefill_tokens, step.decodes = r.last.prefill_tokens, r.last.decodes
            step.running, step.waiting = r.last.running, r.last.waiting
            step.tokens, step.kv_used, step.spare = r.last.tokens, r.last.kv_used, 0
    elif s == NULL:
        row = <MarkRow*>rows_add(&run.marks, sizeof(MarkRow))
        if row != NULL:
            row.t, row.mark, row.replica = t, mark, replica


cdef uint64_t any_token(void* user, uint32_t token) noexcept nogil:
    """Answers without a content: what differs is the prompt that the fold comes from."""
    return token


cdef const uint64_t* own_hashes(Run* run, uint64_t key, uint32_t count) noexcept nogil:
    """Hashes of `count` blocks that no other request has, NULL without memory (or for none)."""
    cdef uint64_t* hashes
    cdef uint32_t i
    run.own.size = 0
    if count == 0:
        return NULL
    hashes = <uint64_t*>rows_add(&run.own, count * sizeof(uint64_t))
    if hashes != NULL:
        for i in range(count):
            hashes[i] = mixed(key + i)
    return hashes


cdef bint run_all(Run* run, size_t count, uint64_t seed) noexcept nogil:
    """Everything until the last request has its answer; False without memory."""
    cdef Engine* e = run.engine
    cdef Seq* s
    cdef size_t i
    cdef uint32_t hash_count
    cdef const uint64_t* hashes
    cdef uint64_t key
    # Distinct prompts matter only if a sequence may be computed again: it then finds what is left of its own blocks.
    cdef bint own = not run.alike and e.set.prefix_cache and e.set.kv_blocks > 0
    if own:
        e.token_hash = any_token
    for i in range(count):
        key = mixed(seed ^ mixed(i))
        if own:
            hash_count = <uint32_t>(run.inputs[i] // e.set.block_tokens)
            hashes = own_hashes(run, key, hash_count)
        else:
            hash_count = <uint32_t>(run.offsets[i + 1] - run.offsets[i])
            hashes = run.hashes + run.offsets[i] if hash_count > 0 else NULL
        if e.failed or run.own.failed or run.tokens.failed or run.steps.failed or run.marks.failed:
            return False
        run.admission[i] = engine_arrive(
            e, run.arrivals[i], <void*><uintptr_t>(i + 1), key, <uint32_t>run.inputs[i], <uint32_t>run.outputs[i],
            hashes, hash_count, mixed(key), &s
        )
    while e.outstanding > 0 and not e.failed and engine_next(e) >= 0:
        engine_advance(e)
    return e.outstanding == 0 and not (e.failed or run.tokens.failed or run.steps.failed or run.marks.failed)


cdef bytes rows_take(Rows* rows):
    """The rows as bytes; their memory is given back."""
    cdef bytes data = rows.data[:rows.size] if rows.size > 0 else b""
    free(rows.data)
    rows.data = NULL
    rows.size = rows.capacity = 0
    return data


# --- what it counts ------------------------------------------------------------------------------------------------

cdef dict histogram(const Histogram* h):
    cdef uint32_t i
    return {
        "bounds": [h.bounds[i] for i in range(h.size)],
        "counts": [h.counts[i] for i in range(h.size + 1)],
        "sum": h.sum,
        "count": h.count,
    }


cdef dict replica(const Replica* r, uint32_t kv_blocks):
    cdef uint32_t used = r.kv.in_use + r.kv.lost
    states = {REPLICA_ABSENT: "absent", REPLICA_LOADING: "loading", REPLICA_READY: "ready",
              REPLICA_DRAINING: "draining"}
    return {
        "state": states[<int>r.state], "since": r.since, "running": r.running, "waiting": r.waiting,
        "kv_used": used, "kv_usage": <double>used / kv_blocks if kv_blocks else 0.0, "kv_lost": r.kv.lost,
        "kv_named": r.kv.named, "kv_evictions": r.kv.evictions, "steps": r.steps, "busy": bool(r.busy),
        "throttled": bool(r.throttled), "temperature": r.temperature, "utilisation": r.utilisation, "load": r.load,
        "energy_j": r.energy_j, "preemptions": r.preemptions, "prefix_queries": r.prefix_queries,
        "prefix_hits": r.prefix_hits, "block_queries": r.block_queries, "block_hits": r.block_hits,
        "prompt_tokens": r.prompt_tokens, "generation_tokens": r.generation_tokens, "drafts": r.drafts,
        "drafted_tokens": r.drafted_tokens, "accepted_tokens": r.accepted_tokens, "stopped": r.stopped,
        "at_length": r.at_length, "aborted": r.aborted,
        "iteration_tokens": histogram(&r.iteration_tokens), "queue_time": histogram(&r.queue_time),
        "first_token_time": histogram(&r.first_token_time), "token_gap": histogram(&r.token_gap),
        "request_time": histogram(&r.request_time), "prefill_time": histogram(&r.prefill_time),
        "decode_time": histogram(&r.decode_time), "prompt_size": histogram(&r.prompt_size),
        "answer_size": histogram(&r.answer_size),
    }


cdef class Model:
    """An engine; `settings` as parameters.Parameters.settings() gives them, `noise` factors of the steps' times (a
    power of two of them, or none)."""

    def __cinit__(self, settings, const double[::1] noise):
        cdef Settings set
        cdef size_t count = noise.shape[0]
        settings_fill(&set, settings)
        if count & (count - 1):
            raise ValueError("noise comes in powers of two")
        self.engine = engine_new(&set)
        if self.engine == NULL:
            raise MemoryError
        if count > 0:
            self.engine.noise = <double*>malloc(count * sizeof(double))
            if self.engine.noise == NULL:
                raise MemoryError
            memcpy(self.engine.noise, &noise[0], count * sizeof(double))
            self.engine.noise_mask = count - 1

    def __dealloc__(self):
        engine_free(self.engine)

    def snapshot(self, int64_t now):
        """All counters and gauges as of `now`; only on the thread that drives the engine."""
        cdef Engine* e = self.engine
        cdef uint32_t i
        engine_settle(e, now if now > e.now else e.now)
        return {
            "refused_loading": e.refused_loading,
            "refused_full": e.refused_full,
            "refused_length": e.refused_length,
            "outstanding": e.outstanding,
            "replicas": [
                replica(&e.replicas[i], e.set.kv_blocks)
                for i in range(MAX_REPLICAS) if i < e.set.replicas or e.replicas[i].since != 0     # ever ordered
            ],
        }

    def run(self, const int64_t[::1] arrivals, const int64_t[::1] inputs, const int64_t[::1] outputs,
            const uint64_t[::1] hashes, const int64_t[::1] offsets, int64_t start, int64_t[::1] scheduled,
            int64_t[::1] first_token, int64_t[::1] last_token, uint8_t[::1] admission, uint32_t[::1] replica,
            uint32_t[::1] cached, uint32_t[::1] preemptions, bint want_tokens, bint alike):
        """Runs the whole load from `start`, filling the arrays; (tokens, steps, marks) as bytes of rows. Once.

        `alike`: `hashes` names the prompts' blocks, `offsets` says where each request's begin; else all prompts differ.
        """
        cdef Run run
        cdef size_t count = arrivals.shape[0]
        cdef bint done = True
        cdef uint64_t seed = self.engine.set.seed
        memset(&run, 0, sizeof(Run))
        run.engine = self.engine
        run.want_tokens = want_tokens
        run.alike = alike
        self.engine.ctx = &run
        self.engine.on_tokens = take_tokens
        self.engine.on_mark = take_mark
        with nogil:
            engine_start(self.engine, start)
        if count > 0:
            run.arrivals, run.inputs, run.outputs = &arrivals[0], &inputs[0], &outputs[0]
            run.hashes = &hashes[0] if hashes.shape[0] > 0 else NULL
            run.offsets = &offsets[0]
            run.scheduled, run.first_token, run.last_token = &scheduled[0], &first_token[0], &last_token[0]
            run.admission, run.replica = &admission[0], &replica[0]
            run.cached, run.preemptions = &cached[0], &preemptions[0]
            with nogil:
                done = run_all(&run, count, seed)
        self.engine.on_mark = NULL
        free(run.own.data)
        rows = rows_take(&run.tokens), rows_take(&run.steps), rows_take(&run.marks)
        if not done:
            raise MemoryError
        return rows
