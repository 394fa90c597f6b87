# The model of a continuous-batching engine: sequences, replicas, and what happens next, in absolute monotonic ns.
# It knows no socket and no clock: `loop.pyx` drives it with the real one, `offline.pyx` with a plan.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from llmgen.simulator.kvcache cimport KvCache


cdef enum:
    MAX_REPLICAS = 16
    MAX_DRAFTS = 16              # tokens that a step may speculate
    HISTOGRAM_BUCKETS = 24


# What becomes of an arrival.
cdef enum Admission:
    ADMITTED = 0
    REFUSED_LOADING = 1          # no replica is ready
    REFUSED_FULL = 2             # the queue is at its limit
    REFUSED_LENGTH = 3           # prompt and answer together are longer than the context (or the KV cache)
    REFUSED_MEMORY = 4


# What the engine tells besides tokens; also in the truth log.
cdef enum Mark:
    MARK_STEP = 1                # a step's end; its figures are in Replica.last
    MARK_QUEUED = 2              # of a request: it is in the queue
    MARK_SCHEDULED = 3           # of a request: it runs (again)
    MARK_PREEMPTED = 4           # of a request: back to the head of the queue, to be computed anew
    MARK_ORDERED = 5             # of a replica: it is being loaded
    MARK_READY = 6
    MARK_DRAINING = 7            # takes no more requests
    MARK_REMOVED = 8
    MARK_THROTTLED = 9           # too hot: slower from now on
    MARK_COOL = 10


cdef struct Settings:
    double step_ns               # of every step
    double prefill_ns            # per prompt token
    double decode_ns             # per sequence that decodes
    double context_ns            # per token of those sequences' context
    double draft_ns              # per drafted position, whatever the number of sequences
    uint32_t max_seqs
    uint32_t max_batched_tokens
    uint32_t chunk_tokens        # of one prompt in a step; 0: as many as fit
    bint chunked                 # a prompt may be spread over steps
    uint32_t context_tokens      # longest prompt and answer together; 0: what the KV cache holds
    uint32_t block_tokens
    uint32_t kv_blocks           # of a replica; 0: as many as are wanted
    bint prefix_cache
    uint32_t max_waiting         # per replica; 0: any number
    uint32_t drafts
    double acceptance            # of a drafted token, if those before it were accepted
    int64_t load_ns              # from the start to the first replica's being ready
    uint32_t warmup_steps        # of each replica
    double warmup_factor         # by which the first of them is slower, less and less until the last
    uint32_t replicas
    uint32_t max_replicas        # above `replicas`: the autoscaler may order more
    double scale_waiting         # waiting requests per ready replica for which it orders one
    int64_t scale_period_ns      # it looks so often
    int64_t scale_delay_ns       # from its order to the replica's being ready
    int64_t scale_down_ns        # a replica too many for so long is removed; 0: never
    double leak_blocks           # KV blocks lost per finished request
    double ambient_c             # temperature without load
    double heat_c                # above it under full load
    double heat_ns               # time constant
    double throttle_c            # 0: never too hot
    double throttle_factor       # a hot replica's steps take so much longer
    double idle_w
    double busy_w
    uint64_t seed


cdef struct Histogram:
    const double* bounds
    uint32_t size                # bounds; one bucket more
    uint64_t counts[HISTOGRAM_BUCKETS]
    double sum
    uint64_t count


cdef struct Seq:
    Seq* before                  # in its replica's queue or batch
    Seq* after
    void* user                   # whose tokens these are
    int64_t arrival
    int64_t scheduled            # first time it ran; -1: not yet
    int64_t first_token
    int64_t last_token
    uint64_t key                 # of its random numbers
    uint64_t fold                # of all tokens so far, as in prefix.pxd
    uint64_t* hashes             # of its blocks, as far as their tokens are known
    uint32_t* blocks
    uint32_t hash_count
    uint32_t block_count
    uint32_t named               # of its blocks, those that were offered to the prefix cache
    uint32_t input
    uint32_t output              # tokens that the answer will have
    uint32_t generated
    uint32_t computed            # tokens whose keys and values are in the cache
    uint32_t chunk               # tokens of the step that runs
    uint32_t cached              # tokens that the prefix cache had when it first ran
    uint32_t preemptions
    uint32_t replica
    uint8_t running              # in the batch; else in the queue
    uint8_t decoding             # this step is a decode one
    uint8_t stops                # ends by itself, not at its limit


cdef enum ReplicaState:
    REPLICA_ABSENT = 0
    REPLICA_LOADING = 1
    REPLICA_READY = 2
    REPLICA_DRAINING = 3


cdef struct Step:                # figures of a step
    int64_t start
    int64_t end
    uint32_t prefill_tokens
    uint32_t decodes             # sequences that decode
    uint32_t running             # sequences in the batch at its start
    uint32_t waiting
    uint32_t tokens              # that it gave
    uint32_t kv_used             # blocks


cdef struct Replica:
    ReplicaState state
    bint busy                    # a step runs until `next`
    bint throttled
    int64_t next                 # the step's end, or its begin if not busy; when it is ready; -1: nothing
    int64_t since                # of its state
    KvCache kv
    Seq* waiting_first
    Seq* waiting_last
    Seq* running_first
    Seq* running_last
    uint32_t waiting
    uint32_t running
    uint32_t warm                # steps since it was loaded, up to warmup_steps
    uint64_t steps
    Step last
    double temperature
    double utilisation           # of the last second, exponentially weighted
    double load                  # share of the power above idle, of the last second like the utilisation
    double energy_j
    int64_t settled              # until when temperature, utilisation and energy are told
    double leaked                # blocks, with fraction
    uint64_t preemptions
    uint64_t prefix_queries      # tokens
    uint64_t prefix_hits
    uint64_t block_queries       # blocks of prompts as they came first, and those that were in the cache
    uint64_t block_hits
    uint64_t prompt_tokens
    uint64_t generation_tokens
    uint64_t drafts
    uint64_t drafted_tokens
    uint64_t accepted_tokens
    uint64_t stopped             # finished requests by reason
    uint64_t at_length
    uint64_t aborted
    Histogram iteration_tokens
    Histogram queue_time
    Histogram first_token_time
    Histogram token_gap
    Histogram request_time
    Histogram prefill_time
    Histogram decode_time
    Histogram prompt_size
    Histogram answer_size


cdef struct Engine


ctypedef void (*TokensTaken)(void* ctx, Seq* seq, uint32_t tokens, bint finished, int64_t t) noexcept nogil
ctypedef void (*MarkTaken)(void* ctx, Mark mark, int64_t t, uint32_t replica, const Seq* seq) noexcept nogil
ctypedef uint64_t (*TokenHash)(void* user, uint32_t token) noexcept nogil


cdef struct Engine:
    Settings set
    Replica replicas[MAX_REPLICAS]
    int64_t now                  # of the last event or arrival
    int64_t last_event
    int64_t tick                 # the autoscaler's next look; -1: none
    int64_t spare_since          # a replica too many; -1: none
    double accept_below[MAX_DRAFTS + 1]       # probability that at least so many drafts are accepted
    double* noise                # factors of the steps' times
    uint64_t noise_mask
    uint32_t outstanding         # sequences in queues and batches
    uint64_t refused_loading
    uint64_t refused_full
    uint64_t refused_length
    bint failed                  # no memory
    # where tokens and marks go
    void* ctx
    TokensTaken on_tokens        # a step's tokens of one sequence; finished: the sequence is freed after the call
    MarkTaken on_mark            # NULL: nobody asks
    TokenHash token_hash         # of an answer's token; NULL: answers are not in the prefix cache


cdef Engine* engine_new(const Settings* settings) noexcept nogil
cdef void engine_free(Engine* e) noexcept nogil
cdef void engine_start(Engine* e, int64_t start) noexcept nogil
cdef int64_t engine_next(const Engine* e) noexcept nogil
cdef void engine_advance(Engine* e) noexcept nogil
cdef Admission engine_arrive(Engine* e, int64_t t, void* user, uint64_t key, uint32_t input, uint32_t output,
                             const uint64_t* hashes, uint32_t hash_count, uint64_t fold, Seq** seq) noexcept nogil
cdef void engine_cancel(Engine* e, Seq* s) noexcept nogil
cdef void engine_settle(Engine* e, int64_t now) noexcept nogil
cdef bint engine_ready(const Engine* e) noexcept nogil
