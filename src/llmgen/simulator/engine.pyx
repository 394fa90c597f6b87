"""The model of a continuous-batching engine: what a step takes, what it gives, and what happens around it.

A step takes `step + prefill · prompt tokens + decode · decoding sequences + context · their context tokens` (and `draft`
for each speculated position), longer while the replica is cold or too hot. All its tokens come at its end, where the
next step begins. An idle replica begins a step when a request arrives; requests of the same instant share it.

Everything happens at absolute times: `engine_next` is when, `engine_advance` does it. Whoever drives the model calls
engine_arrive in order of time; events that lie before an arrival happen first, those of the same instant after it. A
request that is told of too late (after events that its time lies before) is queued right after the last of them.
"""

from libc.math cimport exp
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from llmgen.simulator.kvcache cimport kv_close, kv_lose, kv_open
from llmgen.simulator.scheduler cimport batch_step, queue_push, seq_release, seq_unlink
from llmgen.simulator.seeded cimport draw, mixed

cdef enum:
    DRAW_ACCEPT = 1
    DRAW_NOISE = 2

cdef double UTILISATION_NS = 1e9           # dcgm's utilisation is that of about the last second
cdef double COOL_BY_C = 5.0                # a throttled GPU speeds up again so far below the limit (invented)
cdef double THROTTLED_LOAD = 0.6           # share of the heat and power above idle while throttled (invented)

# Bucket bounds of vLLM v1 (vllm/v1/metrics/loggers.py).
cdef double[22] FIRST_TOKEN_BOUNDS = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0,
                                      7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0]
cdef double[19] GAP_BOUNDS = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
                              20.0, 40.0, 80.0]
cdef double[21] REQUEST_BOUNDS = [0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0,
                                  120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0]
cdef double[13] ITERATION_BOUNDS = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384]
cdef double[16] SIZE_BOUNDS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000]


cdef void observe(Histogram* h, double value) noexcept nogil:
    cdef uint32_t i = 0
    while i < h.size and value > h.bounds[i]:
        i += 1
    h.counts[i] += 1
    h.sum += value
    h.count += 1


cdef void histogram_open(Histogram* h, const double* bounds, uint32_t size) noexcept nogil:
    h.bounds = bounds
    h.size = size


# --- making and ending ---------------------------------------------------------------------------------------------

cdef Engine* engine_new(const Settings* settings) noexcept nogil:
    """An engine that has not started; NULL without memory."""
    cdef Engine* e = <Engine*>calloc(1, sizeof(Engine))
    cdef Replica* r
    cdef uint32_t i
    if e == NULL:
        return NULL
    e.set = settings[0]
    e.spare_since = -1
    e.accept_below[0] = 1.0
    for i in range(MAX_DRAFTS):
        e.accept_below[i + 1] = e.accept_below[i] * settings.acceptance
    for i in range(MAX_REPLICAS):
        r = &e.replicas[i]
        r.next = -1
        r.temperature = settings.ambient_c
        histogram_open(&r.iteration_tokens, ITERATION_BOUNDS, 13)
        histogram_open(&r.queue_time, REQUEST_BOUNDS, 21)
        histogram_open(&r.first_token_time, FIRST_TOKEN_BOUNDS, 22)
        histogram_open(&r.token_gap, GAP_BOUNDS, 19)
        histogram_open(&r.request_time, REQUEST_BOUNDS, 21)
        histogram_open(&r.prefill_time, REQUEST_BOUNDS, 21)
        histogram_open(&r.decode_time, REQUEST_BOUNDS, 21)
        histogram_open(&r.prompt_size, SIZE_BOUNDS, 16)
        histogram_open(&r.answer_size, SIZE_BOUNDS, 16)
    return e


cdef void engine_start(Engine* e, int64_t start) noexcept nogil:
    """The first replicas begin to load; once, before anything else happens."""
    cdef uint32_t i
    e.now = start
    e.last_event = start - 1
    e.tick = start + e.set.scale_period_ns if e.set.max_replicas > e.set.replicas else -1
    for i in range(MAX_REPLICAS):
        e.replicas[i].settled = start
    for i in range(e.set.replicas):
        replica_order(e, i, start, start + e.set.load_ns)
    if e.set.load_ns == 0:
        for i in range(e.set.replicas):
            replica_ready(e, i)


cdef void engine_free(Engine* e) noexcept nogil:
    """Gives all memory back; whoever has a Seq of it must not use it any more."""
    cdef uint32_t i
    cdef Seq* s
    cdef Seq* after
    cdef Seq* firsts[2]
    if e == NULL:
        return
    for i in range(MAX_REPLICAS):
        firsts[0] = e.replicas[i].waiting_first
        firsts[1] = e.replicas[i].running_first
        for s in firsts[:2]:
            while s != NULL:
                after = s.after
                seq_free(s)
                s = after
        kv_close(&e.replicas[i].kv)
    free(e.noise)
    free(e)


cdef void seq_free(Seq* s) noexcept nogil:
    free(s.hashes)
    free(s.blocks)
    free(s)


cdef void mark(Engine* e, Mark what, int64_t t, uint32_t replica, const Seq* s) noexcept nogil:
    if e.on_mark != NULL:
        e.on_mark(e.ctx, what, t, replica, s)


# --- replicas ------------------------------------------------------------------------------------------------------

cdef void replica_order(Engine* e, uint32_t at, int64_t t, int64_t ready) noexcept nogil:
    cdef Replica* r = &e.replicas[at]
    r.state = REPLICA_LOADING
    r.since = t
    r.next = ready
    r.busy = False
    mark(e, MARK_ORDERED, t, at, NULL)


cdef void replica_ready(Engine* e, uint32_t at) noexcept nogil:
    cdef Replica* r = &e.replicas[at]
    if not kv_open(&r.kv, e.set.kv_blocks):
        e.failed = True
        return
    r.state = REPLICA_READY
    r.since = e.now
    r.next = -1
    r.warm = 0
    r.leaked = 0.0
    r.temperature = e.set.ambient_c
    r.throttled = False
    r.settled = e.now
    mark(e, MARK_READY, e.now, at, NULL)


cdef void replica_remove(Engine* e, uint32_t at) noexcept nogil:
    """An empty draining replica goes; its counters stay."""
    cdef Replica* r = &e.replicas[at]
    if r.state == REPLICA_DRAINING and r.waiting + r.running == 0 and not r.busy:
        replica_settle(e, r, e.now)
        kv_close(&r.kv)
        r.state = REPLICA_ABSENT
        r.since = e.now
        r.next = -1
        mark(e, MARK_REMOVED, e.now, at, NULL)


cdef void scale_up(Engine* e, int ready, int loading, uint32_t waiting) noexcept nogil:
    cdef uint32_t i
    if loading > 0 or ready == 0 or waiting < e.set.scale_waiting * ready:
        return
    for i in range(e.set.max_replicas):
        if e.replicas[i].state == REPLICA_ABSENT:
            replica_order(e, i, e.now, e.now + e.set.scale_delay_ns)
            return


cdef void scale_down(Engine* e, int ready, int loading, uint32_t waiting, uint32_t running) noexcept nogil:
    """Removes the last replica when the others could have run everything for long enough."""
    cdef int i
    cdef bint spare = (
        e.set.scale_down_ns > 0 and ready > <int>e.set.replicas and loading == 0 and waiting == 0
        and running <= (<uint32_t>ready - 1) * e.set.max_seqs // 2
    )
    if not spare:
        e.spare_since = -1
        return
    if e.spare_since < 0:
        e.spare_since = e.now
    if e.now - e.spare_since < e.set.scale_down_ns:
        return
    e.spare_since = -1
    for i in range(MAX_REPLICAS - 1, -1, -1):
        if e.replicas[i].state == REPLICA_READY:
            e.replicas[i].state = REPLICA_DRAINING
            e.replicas[i].since = e.now
            mark(e, MARK_DRAINING, e.now, i, NULL)
            replica_remove(e, i)
            return


cdef void autoscale(Engine* e) noexcept nogil:
    """One look of the autoscaler: one replica at a time, and no other order while one is being loaded."""
    cdef uint32_t i, waiting = 0, running = 0
    cdef int ready = 0, loading = 0
    for i in range(MAX_REPLICAS):
        if e.replicas[i].state == REPLICA_READY:
            ready += 1
        elif e.replicas[i].state == REPLICA_LOADING:
            loading += 1
        waiting += e.replicas[i].waiting
        running += e.replicas[i].running
    scale_up(e, ready, loading, waiting)
    scale_down(e, ready, loading, waiting, running)


# --- heat ----------------------------------------------------------------------------------------------------------

cdef void replica_settle(Engine* e, Replica* r, int64_t t) noexcept nogil:
    """Brings temperature, utilisation and energy up to `t`; what the replica does has not changed since the last time."""
    cdef double past = t - r.settled
    cdef double load = 0.0, target
    if past <= 0:
        return
    r.settled = t
    if r.busy:
        load = THROTTLED_LOAD if r.throttled else 1.0
    target = 1.0 if r.busy else 0.0
    r.utilisation = target + (r.utilisation - target) * exp(-past / UTILISATION_NS)
    r.load = load + (r.load - load) * exp(-past / UTILISATION_NS)
    r.energy_j += (e.set.idle_w + (e.set.busy_w - e.set.idle_w) * load) * past * 1e-9
    target = e.set.ambient_c + e.set.heat_c * load
    r.temperature = target + (r.temperature - target) * exp(-past / e.set.heat_ns)


cdef void throttle(Engine* e, uint32_t at) noexcept nogil:
    cdef Replica* r = &e.replicas[at]
    if e.set.throttle_c <= 0:
        return
    if not r.throttled and r.temperature >= e.set.throttle_c:
        r.throttled = True
        mark(e, MARK_THROTTLED, e.now, at, NULL)
    elif r.throttled and r.temperature <= e.set.throttle_c - COOL_BY_C:
        r.throttled = False
        mark(e, MARK_COOL, e.now, at, NULL)


cdef void engine_settle(Engine* e, int64_t now) noexcept nogil:
    """Brings the gauges up to `now`, which is not before the last event and not after the next."""
    cdef uint32_t i
    for i in range(MAX_REPLICAS):
        if e.replicas[i].state == REPLICA_READY or e.replicas[i].state == REPLICA_DRAINING:
            replica_settle(e, &e.replicas[i], now)


# --- steps ---------------------------------------------------------------------------------------------------------

cdef int64_t step_time(Engine* e, uint32_t at, Replica* r, uint64_t context) noexcept nogil:
    cdef const Settings* set = &e.set
    cdef const Step* step = &r.last
    cdef double ns = (
        set.step_ns + set.prefill_ns * step.prefill_tokens + set.decode_ns * step.decodes
        + set.context_ns * <double>context
    )
    if step.decodes > 0:
        ns += set.draft_ns * set.drafts
    if r.warm < set.warmup_steps:
        ns *= 1.0 + (set.warmup_factor - 1.0) * (set.warmup_steps - r.warm) / set.warmup_steps
        r.warm += 1
    if r.throttled:
        ns *= set.throttle_factor
    if e.noise != NULL:
        ns *= e.noise[draw(mixed(set.seed ^ (<uint64_t>at << 56) ^ r.steps), DRAW_NOISE) & e.noise_mask]
    return <int64_t>ns if ns > 1.0 else 1


cdef void step_begin(Engine* e, uint32_t at) noexcept nogil:
    """Starts the next step now, or leaves the replica idle."""
    cdef Replica* r = &e.replicas[at]
    cdef uint64_t context
    cdef bint any_work
    r.next = -1
    if r.running + r.waiting > 0:
        throttle(e, at)
        any_work = batch_step(e, r, &r.last, &context)
        if not any_work and r.running == 0:
            any_work = batch_step(e, r, &r.last, &context)     # the only one that ran had to leave: it begins anew
        if any_work:
            r.busy = True
            r.last.start = e.now
            r.next = r.last.end = e.now + step_time(e, at, r, context)
            r.steps += 1
            return
        e.failed = True          # a request that no cache holds: engine_arrive lets none in
        return
    replica_remove(e, at)


cdef uint32_t accepted(const Engine* e, const Seq* s) noexcept nogil:
    """Drafted tokens of the step that are right: those before the first wrong one."""
    cdef double u = (draw(mixed(s.key ^ s.generated), DRAW_ACCEPT) >> 11) * (1.0 / 9007199254740992.0)
    cdef uint32_t n = 0
    while n + 1 < s.chunk and u < e.accept_below[n + 1]:
        n += 1
    return n


cdef void take_hashes(Engine* e, Seq* s, uint32_t tokens) noexcept nogil:
    """Carries the fold of the sequence on over the next tokens of its answer."""
    cdef uint32_t i
    cdef uint32_t block_tokens = e.set.block_tokens
    if e.token_hash == NULL or s.user == NULL or not e.set.prefix_cache:
        return
    if s.hash_count < (s.input + s.generated) // block_tokens:
        return                   # the prompt came without hashes
    for i in range(s.generated, s.generated + tokens):
        s.fold = mixed(s.fold ^ e.token_hash(s.user, i))
        if (s.input + i + 1) % block_tokens == 0:
            s.hashes[s.hash_count] = s.fold
            s.hash_count += 1


cdef uint32_t step_tokens(Engine* e, Replica* r, Seq* s) noexcept nogil:
    """Books a sequence's part of the step that has ended: the tokens that it got."""
    cdef uint32_t tokens = 1
    if s.computed + s.chunk < s.input + s.generated:
        s.computed += s.chunk
        s.chunk = 0
        return 0
    if s.decoding:
        tokens += accepted(e, s)
        if e.set.drafts > 0:
            r.drafts += 1
            r.drafted_tokens += s.chunk - 1
            r.accepted_tokens += tokens - 1
    s.chunk = 0
    take_hashes(e, s, tokens)
    if s.generated == 0:
        s.first_token = e.now
        observe(&r.first_token_time, (e.now - s.arrival) * 1e-9)
        r.prompt_tokens += s.input
    else:
        observe(&r.token_gap, (e.now - s.last_token) * 1e-9)
    s.last_token = e.now
    s.generated += tokens
    s.computed = s.input + s.generated - 1
    r.generation_tokens += tokens
    return tokens


cdef void seq_finish(Engine* e, Replica* r, Seq* s) noexcept nogil:
    """Books of an answer that is complete; it leaves the replica."""
    observe(&r.queue_time, (s.scheduled - s.arrival) * 1e-9)
    observe(&r.request_time, (e.now - s.arrival) * 1e-9)
    observe(&r.prefill_time, (s.first_token - s.scheduled) * 1e-9)
    observe(&r.decode_time, (e.now - s.first_token) * 1e-9)
    observe(&r.prompt_size, s.input)
    observe(&r.answer_size, s.generated)
    if s.stops:
        r.stopped += 1
    else:
        r.at_length += 1
    seq_release(r, s)
    seq_unlink(r, s)
    e.outstanding -= 1
    r.leaked += e.set.leak_blocks
    while r.leaked >= 1.0:
        r.leaked -= 1.0
        kv_lose(&r.kv)


cdef void step_end(Engine* e, uint32_t at) noexcept nogil:
    """The step is over: its tokens go out, in the order of the batch, and the next one begins."""
    cdef Replica* r = &e.replicas[at]
    cdef Seq* s = r.running_first
    cdef Seq* after
    cdef uint32_t tokens
    cdef uint64_t computed = 0
    replica_settle(e, r, e.now)
    r.busy = False
    while s != NULL:
        after = s.after
        if s.chunk > 0:
            computed += s.chunk
            tokens = step_tokens(e, r, s)
            if tokens > 0:
                r.last.tokens += tokens
                if s.generated >= s.output:
                    seq_finish(e, r, s)
                    e.on_tokens(e.ctx, s, tokens, True, e.now)
                    seq_free(s)
                else:
                    e.on_tokens(e.ctx, s, tokens, False, e.now)
        s = after
    observe(&r.iteration_tokens, <double>computed)
    mark(e, MARK_STEP, e.now, at, NULL)
    step_begin(e, at)


# --- what whoever drives it calls ----------------------------------------------------------------------------------

cdef int64_t engine_next(const Engine* e) noexcept nogil:
    """When the next thing happens, -1: nothing will unless a request arrives."""
    cdef int64_t first = e.tick
    cdef uint32_t i
    for i in range(MAX_REPLICAS):
        if e.replicas[i].next >= 0 and (first < 0 or e.replicas[i].next < first):
            first = e.replicas[i].next
    return first


cdef void engine_advance(Engine* e) noexcept nogil:
    """Does what happens at engine_next: one event."""
    cdef int64_t t = engine_next(e)
    cdef uint32_t i
    cdef Replica* r
    if t < 0:
        return
    e.now = e.last_event = t
    if e.tick == t:
        e.tick += e.set.scale_period_ns
        autoscale(e)
        return
    for i in range(MAX_REPLICAS):
        r = &e.replicas[i]
        if r.next == t:
            if r.state == REPLICA_LOADING:
                replica_ready(e, i)
            elif r.busy:
                step_end(e, i)
            else:
                replica_settle(e, r, t)
                step_begin(e, i)
            return


cdef int choose_replica(const Engine* e) noexcept nogil:
    """The ready replica with the fewest requests, -1: none is ready."""
    cdef int i, best = -1
    for i in range(MAX_REPLICAS):
        if e.replicas[i].state == REPLICA_READY and (
            best < 0 or e.replicas[i].waiting + e.replicas[i].running
            < e.replicas[best].waiting + e.replicas[best].running
        ):
            best = i
    return best


cdef bint engine_ready(const Engine* e) noexcept nogil:
    return choose_replica(e) >= 0


cdef bint too_long(const Engine* e, uint64_t tokens) noexcept nogil:
    cdef uint64_t blocks = e.set.kv_blocks if e.set.leak_blocks <= 0 else e.set.kv_blocks // 2
    if e.set.context_tokens > 0 and tokens > e.set.context_tokens:
        return True
    return e.set.kv_blocks > 0 and (tokens + e.set.block_tokens - 1) // e.set.block_tokens > blocks


cdef Seq* seq_new(const Engine* e, uint32_t input, uint32_t output, const uint64_t* hashes,
                  uint32_t hash_count) noexcept nogil:
    cdef size_t blocks = (<size_t>input + output) // e.set.block_tokens + 1
    cdef Seq* s = <Seq*>calloc(1, sizeof(Seq))
    if s == NULL:
        return NULL
    if hash_count > blocks:
        hash_count = <uint32_t>blocks
    s.blocks = <uint32_t*>malloc(blocks * sizeof(uint32_t))
    if e.set.prefix_cache:
        s.hashes = <uint64_t*>malloc(blocks * sizeof(uint64_t))
        s.hash_count = hash_count
    if s.blocks == NULL or (e.set.prefix_cache and s.hashes == NULL):
        seq_free(s)
        return NULL
    if s.hash_count > 0:
        memcpy(s.hashes, hashes, hash_count * sizeof(uint64_t))
    return s


cdef Admission engine_arrive(Engine* e, int64_t t, void* user, uint64_t key, uint32_t input, uint32_t output,
                             const uint64_t* hashes, uint32_t hash_count, uint64_t fold, Seq** seq) noexcept nogil:
    """A request for `output` tokens (at least 1) arrives at `t`; `seq` is set if it is admitted.

    `hashes` are those of its prompt's blocks, `fold` the state behind the prompt's last token.
    """
    cdef Seq* s
    cdef int at
    while 0 <= engine_next(e) < t:
        engine_advance(e)
    if t > e.now:
        e.now = t
    if e.now == e.last_event:
        e.now += 1
    seq[0] = NULL
    if too_long(e, <uint64_t>input + output):
        e.refused_length += 1
        return REFUSED_LENGTH
    at = choose_replica(e)
    if at < 0:
        e.refused_loading += 1
        return REFUSED_LOADING
    if e.set.max_waiting > 0 and e.replicas[at].waiting >= e.set.max_waiting:
        e.refused_full += 1
        return REFUSED_FULL
    s = seq_new(e, input if input > 0 else 1, output, hashes, hash_count)
    if s == NULL:
        return REFUSED_MEMORY
    s.input = input if input > 0 else 1      # every model has a token that begins the text
    s.output = output
    s.user = user
    s.key = key
    s.fold = fold
    s.arrival = t
    s.scheduled = s.first_token = s.last_token = -1
    s.replica = at
    queue_push(&e.replicas[at], s)
    e.outstanding += 1
    if e.replicas[at].next < 0:
        e.replicas[at].next = e.now
    mark(e, MARK_QUEUED, e.now, at, s)
    seq[0] = s
    return ADMITTED


cdef void engine_cancel(Engine* e, Seq* s) noexcept nogil:
    """The client has gone: the sequence leaves at once, a step that computes it takes as long as planned."""
    cdef Replica* r = &e.replicas[s.replica]
    cdef uint32_t at = s.replica
    seq_release(r, s)
    seq_unlink(r, s)
    seq_free(s)
    r.aborted += 1
    e.outstanding -= 1
    if not r.busy and r.running + r.waiting == 0 and r.state != REPLICA_LOADING:
        r.next = -1
        replica_remove(e, at)
