# One request and its answer: what the protocol reports becomes stamps in a row, events, gaps and a status.
# No socket and no clock here; the connection sets `Read` before it feeds the protocol, and everything that the read
# brings carries its stamp.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from llmgen.recorder cimport EventRow, Records, RequestRow
from llmgen.wire.ndjson cimport NdjsonParser
from llmgen.wire.scanner cimport ScanMemory, ScanRules
from llmgen.wire.sink cimport Sink
from llmgen.wire.sse cimport SseParser


cdef enum:                       # = columns.Status
    STATUS_OK = 0
    STATUS_EMPTY = 1
    STATUS_RATE_LIMITED = 2
    STATUS_HTTP_4XX = 3
    STATUS_HTTP_5XX = 4
    STATUS_HTTP_OTHER = 5
    STATUS_SERVER_TIMEOUT = 6
    STATUS_DNS_ERROR = 7
    STATUS_CONNECT_REFUSED = 8
    STATUS_CONNECT_TIMEOUT = 9
    STATUS_CONNECT_ERROR = 10
    STATUS_TLS_ERROR = 11
    STATUS_RESET = 12
    STATUS_EOF = 13
    STATUS_FIRST_TOKEN_TIMEOUT = 14
    STATUS_IDLE_TIMEOUT = 15
    STATUS_TOTAL_TIMEOUT = 16
    STATUS_PROTOCOL_ERROR = 17
    STATUS_MALFORMED_STREAM = 18
    STATUS_STREAM_ERROR = 19
    STATUS_STREAM_CUT = 20
    STATUS_UNPROCESSED = 21
    STATUS_CLIENT_LIMIT = 22
    STATUS_ABANDONED = 23
    STATUS_CANCELLED = 24
    STATUS_NEVER_SENT = 25
    STATUS_LOST = 26
    STATUS_COUNT = 32
    STATUS_IN_FLIGHT = 255


cdef enum:                       # = columns.Flag
    FLAG_STALE_RESEND = 1
    FLAG_USER_STAMPED = 2
    FLAG_COALESCED_FIRST = 4
    FLAG_TOKENS_ASSUMED = 8
    FLAG_ODD_CONTENT_TYPE = 16
    FLAG_REUSED = 32
    FLAG_WHOLE_ANSWER = 64
    FLAG_RESENT = 128
    FLAG_DONE_SEEN = 256
    FLAG_TRUNCATED_EVENT = 512
    FLAG_HELD_BACK = 1024


cdef enum:                       # = columns.EventFlag
    EVENT_COALESCED = 1
    EVENT_USER_STAMPED = 2
    EVENT_TOKENS_ASSUMED = 4


cdef enum:                       # = columns.OutputSource
    SOURCE_NONE = 0
    SOURCE_USAGE = 1
    SOURCE_IDS = 2
    SOURCE_EVENTS = 3


cdef enum Mode:                  # how the body of the answer is read
    MODE_UNKNOWN = 0             # no headers yet
    MODE_SSE = 1
    MODE_WHOLE = 2               # one JSON document
    MODE_ERROR = 3               # not a 2xx: the first bytes are kept for errors.jsonl
    MODE_ODD = 4                 # a 2xx that cannot be an answer (HTML, an encoding we did not ask for)
    MODE_LINES = 5               # one JSON document a line


# One read of a socket. `t` is the best stamp: the kernel's if there is one.
cdef struct Read:
    int64_t t
    int64_t t_user
    int64_t before               # t of the connection's read before; -1: none
    uint64_t number              # counts all reads of this worker
    bint user_stamped
    bint filled                  # the read filled its buffer: not even its last event has an exact time


cdef enum:                       # = dialects.End
    SIGN_DONE = 1                # the marker [DONE], or an event that says itself that the answer is over
    SIGN_FINISH = 2              # a finish reason


# What all heads (class x path x streaming) of the plan look like to the answer.
cdef struct Expect:
    const ScanRules* rules
    bint stream
    uint32_t needs_end           # SIGN_ bits that the API promises; without any of them the stream was cut. 0: none
    bint lines                   # a stream of unknown content type is one of lines, not of server-sent events
    bint tokenless               # an answer that bears no tokens (embeddings) is not empty if it tells an item


cdef struct Totals:              # counted where it happens, copied to the worker's counters by the core
    uint64_t first_tokens, tokens, events, ended, errors
    uint64_t denied              # answers 401, 403 or 404
    uint64_t by_status[STATUS_COUNT]


# Shared by all exchanges of a worker; `ctx` of every Sink.
cdef struct Answers:
    Records* records
    Read read
    Totals totals
    int64_t window_start, window_end
    uint32_t max_event_bytes
    uint32_t max_answer_bytes    # of a whole answer, of kept bodies, of a captured text
    bint keep_bodies             # the raw body of every answer is kept until the core takes it
    Exchange* ended              # exchanges whose on_end came, for the core to collect after the read
    int64_t written              # time after the latest write, for on_sent


cdef struct Exchange:
    RequestRow* row              # in the mapped segment; the truth about this request
    const Expect* expect
    uint32_t number              # of the row in this worker's stream of request rows
    int32_t segment              # the recorder's, closed with the row
    # the plan's side
    const void* plan             # PlanRow
    int32_t plan_segment
    uint32_t head
    # the connection's side
    void* connection             # NULL: waits for one
    uint32_t stream              # protocol's number
    uint32_t state               # ExchangeState
    Exchange* next               # in the core's lists: free, waiting, ended
    Exchange* before             # in the waiting list
    Exchange* send_next          # http2: submitted to the same connection, not written yet
    Exchange* wheel_next         # in the timeout wheel
    Exchange* wheel_before
    uint32_t wheel_slot
    int64_t active               # time of the last sign of life, for the idle timeout
    # reading the answer
    SseParser sse
    NdjsonParser lines
    ScanMemory memory
    uint8_t* kept                # whole answer, or the first bytes of an error
    uint32_t kept_size
    uint32_t kept_capacity
    uint8_t* body                # with keep_bodies: the raw answer
    uint32_t body_size
    uint32_t body_capacity
    uint8_t* text                # with `capture`: the visible text, as it stood in the JSON strings
    uint32_t text_size
    uint32_t text_capacity
    EventRow* last_event         # of this read only
    uint64_t last_read           # number of the read that brought last_event
    int64_t group_t, group_t_user     # the current group of token events (one read); -1: none
    int64_t before_t, before_t_user   # the group before
    uint32_t group_tokens
    int32_t usage_output         # cumulative usage seen so far; -1
    int32_t ids_output           # token ids counted; -1
    uint16_t group               # histogram group
    uint8_t mode
    uint8_t end                  # sink.End, valid once `has_ended`
    uint8_t has_ended
    uint8_t trouble              # status that the content decided (malformed_stream, stream_error ...); 0: none
    uint8_t resends
    bint capture                 # a later turn of the session quotes this answer
    uint32_t retry_after_s       # what the server asked for with 429 or 503


cdef enum ExchangeState:
    EXCHANGE_FREE = 0
    EXCHANGE_WAITING = 1         # no connection or stream yet
    EXCHANGE_OPENING = 2         # its connection is being opened
    EXCHANGE_SENDING = 3
    EXCHANGE_ANSWERING = 4


cdef void answers_sink(Answers* a, Sink* sink) noexcept nogil
cdef void exchange_begin(Answers* a, Exchange* x) noexcept nogil
cdef void exchange_again(Exchange* x) noexcept nogil
cdef int exchange_status(Answers* a, Exchange* x) noexcept nogil
cdef void exchange_finish(Answers* a, Exchange* x, int status, int64_t end) noexcept nogil
cdef void exchange_free(Exchange* x) noexcept nogil
