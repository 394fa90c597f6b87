# The state of a worker's hot loop: plain memory, reached by every native module above the connection.
#
#   flight.pyx   requests: from due to done, with their timeouts
#   pool.pyx     connections: which one carries a request, and what happens when it opens, frees or dies
#   _core.pyx    the loop that drives both, and its Python face Engine

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from posix.uio cimport iovec

from llmgen.address cimport Address
from llmgen.connection cimport Connection, Network
from llmgen.exchange cimport STATUS_COUNT, Answers, Exchange, Expect
from llmgen.pacer cimport Due, Pacer
from llmgen.recorder cimport Records
from llmgen.session cimport SessionTable


cdef struct HeadBytes:           # the constant part of a request's head for one (head, target)
    uint8_t* http1               # up to where request ids begin to differ
    uint32_t http1_size
    uint8_t* http2               # HPACK block of the constant headers
    uint32_t http2_size


cdef struct Target:
    Address* addresses
    uint16_t address_count
    uint16_t next_address
    uint8_t protocol             # 1 | 2
    bint secure
    uint32_t weight              # its share of the requests, among the weights of all
    int64_t credit               # round-robin: what its turns are behind its share
    HeadBytes* heads
    # connections
    uint32_t connections         # open or opening
    uint32_t opening
    Connection* idle             # http1: last in, first out
    Connection* open             # http2: ring of those that take requests; `open` is the one to try first
    # exchanges without a connection, first in, first out
    Exchange* waiting
    Exchange* waiting_last
    uint32_t waiting_count
    uint32_t in_flight
    # after a connection that carried nothing was lost, the next one is not tried before
    int64_t backoff_until
    int64_t backoff


cdef struct Counters:            # = columns.COUNTERS_DTYPE
    int64_t heartbeat
    uint32_t state, pid
    uint64_t due, dispatched, sent, ended, first_tokens, tokens, events, reads, bytes_in, in_flight, waiting, connections
    int64_t cpu_ns, lag_max_ns
    uint64_t events_dropped, stale_resends, clock_steps
    uint64_t by_status[STATUS_COUNT]
    int64_t finished_at
    uint64_t denied
    uint64_t passed_segments
    uint8_t spare[80]


cdef struct Options:
    int64_t timeout_connect, timeout_first_token, timeout_idle, timeout_total
    int64_t drain, spin
    int64_t patience             # from due, for the first token of a stream; 0: without end
    int64_t offer_until          # absolute; NEVER: as long as the plan says
    uint32_t connections         # most per target; 0: as needed
    uint32_t streams_per_connection
    uint32_t closed_slots        # closed loop; 0: open loop
    uint8_t retries              # further attempts after a connection error, 429 or 503
    uint8_t balance              # Balance
    bint sticky                  # turns of a session go to the target of the first
    bint resend_unprocessed
    bint traceparent


cdef enum Balance:
    BALANCE_ROUND_ROBIN = 0
    BALANCE_RANDOM = 1
    BALANCE_LEAST_IN_FLIGHT = 2


cdef enum:
    WHEEL_SLOTS = 1024
    WHEEL_SHIFT = 24             # 16.8 ms a slot, 17 s around
    SCRATCH_BYTES = 65536        # a request's head; the constant part is checked against it at the start
    REQUEST_HEAD_BYTES = 512     # most that a single request adds to the constant part


cdef struct Core:
    int epoll
    int timer
    Network network
    Answers answers
    Pacer pacer
    Options options
    Records* records
    Counters* counters
    void* engine                 # the Python face, for samples of errors (rare)
    # the plan's heads
    Expect* heads
    uint32_t head_count
    char id_head[64]             # of every request's x-request-id
    uint32_t id_head_size
    uint64_t trace_prefix
    # targets
    Target* targets
    uint32_t target_count
    uint32_t weights             # of all targets together
    uint64_t random
    # tables
    Connection** connection_chunks
    uint32_t connection_count    # slots ever made
    Connection* free_connections
    Connection* closing          # to be closed at the end of the batch
    Connection* dirty            # http2: to be flushed at the end of the batch
    Connection* opening          # connecting or securing, for their timeout
    int32_t connection_number
    void** exchange_chunks
    uint32_t exchange_chunk_count
    Exchange* free_exchanges
    # timeouts
    Exchange* wheel[WHEEL_SLOTS]
    int64_t wheel_tick
    # pacing
    int64_t next_due             # NEVER: nothing known
    int64_t armed                # what the timer is set to
    bint offering                # False: nothing more is taken from the plan
    bint stopped                 # nothing at all is sent any more, neither retries nor turns
    uint64_t open_turns          # requests in flight whose session has a further turn; turns that wait for one before
    int64_t drain_until          # NEVER while offering
    int64_t lag_max              # of this second
    # counts
    uint64_t dispatched, sent, in_flight, waiting, stale_resends
    uint32_t sample_counts[STATUS_COUNT]
    SessionTable sessions
    uint64_t body_bytes          # of the request that is being sent
    const char* reason           # why the next request to be finished failed, for its sample; NULL: see its kept bytes
    iovec* parts                 # of the request that is being sent
    uint32_t parts_capacity
    # the second that is being counted
    int64_t second
    uint64_t second_dispatched, second_sent, second_first_tokens, second_tokens, second_events, second_ended, second_errors
    uint64_t bytes_in, second_bytes
    uint32_t minute
    uint8_t scratch[SCRATCH_BYTES]    # the head of the request that is being sent
