# What one sending thread of the simulator knows: settings, connections, streams, the heap of due times, output.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from posix.uio cimport iovec

from llmgen.clock cimport ClockOffset
from llmgen.simulator.engine cimport Engine, Seq
from llmgen.simulator.reuse cimport Reuse
from llmgen.simulator.request cimport Chunks, Method, RequestHead
from llmgen.simulator.truthlog cimport TruthLog
from llmgen.wire.http2 cimport Http2
from llmgen.wire.sink cimport Sink


cdef enum:
    READ_BYTES = 262144          # one buffer a thread; larger ones gained nothing
    SCRATCH_BYTES = 65536        # holds an answer's head, its role event and an event of MAX_TOKENS_PER_EVENT
    MAX_TOKENS_PER_EVENT = 1024  # so that an event fits into the smallest HTTP/2 frame limit (16,384 bytes)
    PLAIN_BYTES = 65536          # TLS: of the records of one read
    BACKLOG_BYTES = 262144       # a connection with more unsent bytes pauses its streams until the client has read
    MAX_MODELS = 64              # distinct model names echoed; each has a template
    MAX_MODEL_BYTES = 256
    MAX_OUTLETS = 15             # sending threads but the first
    MAX_RULES = 64               # --fault given more often is a mistake
    LINGER_NS = 1000000000       # how long a connection that we ended may take to close its side


# Purposes of a request's random numbers: keyed by (seed, purpose, index), so that order does not matter.
cdef enum:
    DRAW_TTFT = 1
    DRAW_ITL = 2
    DRAW_OUTPUT = 3
    DRAW_PER_EVENT = 4
    DRAW_FAULT = 5
    DRAW_WORDS = 6
    DRAW_REFUSE = 7
    DRAW_MUTE = 8


cdef struct Samples:             # a distribution as a power of two of values drawn beforehand
    int64_t* values
    uint64_t mask


# Faults of a request; faults.py has the names.
cdef enum Fault:
    FAULT_NONE = 0
    FAULT_STATUS = 1             # parameter: the status code
    FAULT_REFUSE = 2
    FAULT_DROP = 3
    FAULT_HANG = 4
    FAULT_GARBAGE = 5
    FAULT_HTML = 6
    FAULT_RESET = 7
    FAULT_STALL = 8
    FAULT_SLOW = 9
    FAULT_CUT = 10
    FAULT_EOF = 11
    FAULT_MALFORMED = 12
    FAULT_ERROR_EVENT = 13
    FAULT_CRLF = 14
    FAULT_SPLIT = 15
    FAULT_NO_USAGE = 16
    FAULT_CONTENT_TYPE = 17
    FAULT_UNFRAMED = 18
    FAULT_CLOSE = 19
    FAULT_EMPTY = 20
    FAULT_GOAWAY = 21
    FAULT_REFUSED_STREAM = 22
    FAULT_RST_STREAM = 23
    FAULT_MUTE = 24
    FAULT_ENGINE = 253           # detail of an end row only: the engine did not admit it
    FAULT_CANCELLED = 254        # detail of an end row only: the client went away
    FAULT_STOPPED = 255          # detail of an end row only: the endpoint was stopped


cdef struct FaultRule:
    uint64_t below               # strikes if the draw is below this (cumulative over the rules)
    uint32_t fault
    uint32_t parameter


cdef struct Model:               # the bytes from `,"model":` to the opening quote of the text
    uint8_t* name
    uint8_t* chat
    uint8_t* text
    uint32_t name_size
    uint32_t chat_size
    uint32_t text_size


cdef enum Framing:
    FRAMED_CHUNKS = 0
    FRAMED_BY_EOF = 1            # and by DATA frames, which the codec puts around


cdef enum Protocol:
    PROTOCOL_UNKNOWN = 0         # until the first bytes (or ALPN) tell
    PROTOCOL_HTTP1 = 1
    PROTOCOL_HTTP2 = 2


cdef struct Conn
cdef struct Server


cdef enum Api:
    API_COMPLETIONS = 0
    API_CHAT = 1
    API_RESPONSES = 2
    API_MESSAGES = 3
    API_OLLAMA = 4
    API_EMBEDDINGS = 5
    API_NONE = 6


cdef struct Incoming:            # an HTTP/2 request that is not complete yet
    uint8_t* body
    size_t size
    size_t capacity
    Method method
    uint32_t path_size
    uint32_t id_size
    uint8_t path[128]
    uint8_t request_id[128]


cdef struct Stream:
    Conn* conn                   # NULL: the connection is gone; freed when it leaves the heap
    Stream* prev                 # the connection's streams
    Stream* next
    Stream* link                 # the list of free streams, or the queue for a slot
    Incoming* incoming           # HTTP/2: until the request is complete
    uint8_t* held                # bytes that are held back (slow and split writes)
    Model* model
    Seq* seq                     # in the engine's queue or batch
    int64_t due                  # of the next event
    int64_t after                # of the event after the bytes that are held back
    int64_t arrival
    int64_t index                # of x-request-id; -1
    uint64_t key                 # what random numbers are keyed by
    uint32_t serial
    uint32_t number              # HTTP/2 stream id
    uint32_t tokens              # of the whole answer
    uint32_t sent
    uint32_t ready               # tokens that the engine has given and that are not sent yet
    uint32_t input_tokens
    uint32_t cached              # of them, those that the engine's prefix cache had, or one that never forgets
    uint32_t items               # texts to embed, as many vectors of `dimensions` numbers
    uint32_t dimensions
    uint32_t strike_at           # tokens after which the fault strikes
    uint32_t parameter
    uint32_t held_at
    uint32_t held_size
    uint32_t held_tokens         # tokens of the event whose bytes are held back
    uint8_t fault
    uint8_t framing
    uint8_t armed                # the fault has not struck yet
    uint8_t api                  # Api
    uint8_t streaming
    uint8_t include_usage
    uint8_t continuous_usage
    uint8_t stopped              # finish_reason stop, else length
    uint8_t crlf
    uint8_t head_sent
    uint8_t in_heap
    uint8_t queued               # waits for a slot
    uint8_t running              # holds a slot
    uint8_t parked               # waits until the client has read more
    uint8_t logged               # has a request row in the truth log
    uint8_t errand               # no answer: the connection's SETTINGS are to be sent
    uint8_t keep_alive
    char id[16]
    char created[10]


cdef struct Multiplex:           # HTTP/2 on a connection
    Http2 http2
    Sink sink
    Server* server
    Conn* conn
    bint goaway                  # ends with its last stream
    bint lowered                 # the lowered stream limit was announced


cdef struct Conn:
    int fd
    uint32_t number
    # input
    uint8_t* carry               # bytes of an unfinished request, or of the next one while an answer runs
    size_t carry_size
    size_t carry_capacity
    size_t scanned               # of carry, without an end of the head
    size_t head                  # bytes of the head, 0 while it is not whole
    size_t need                  # bytes of head and body, once the head is whole
    Chunks chunks
    int64_t stamp                # kernel stamp of the last read, monotonic
    # output
    uint8_t* out
    size_t out_at
    size_t out_size
    size_t out_capacity
    # answers
    Stream* streams              # on HTTP/1.1 at most one
    uint32_t stream_count
    uint32_t requests
    # lists, see list_push
    Conn* before
    Conn* after
    int64_t since
    Conn* grave
    Conn* next_dirty
    Multiplex* multiplex         # HTTP/2
    void* tls                    # llmgen.tls.Session, a reference of ours; NULL: cleartext
    int64_t flushed              # stamp of the last HTTP/2 write
    Conn* earlier                # all connections, for the end
    Conn* later
    uint32_t watched             # epoll's mask
    uint8_t list                 # LIST_NONE, LIST_IDLE, LIST_LINGER
    uint8_t dead                 # closed; freed at the end of the batch
    uint8_t ending               # close as soon as `out` is empty
    uint8_t lingering            # our side is shut down
    uint8_t protocol
    uint8_t dirty                # in the list of connections to flush
    uint8_t blocked              # HTTP/2: the socket took less than was to be written
    uint8_t parked               # some streams are
    uint8_t muted                # never answered a byte
    uint8_t chunked              # the body that comes in
    uint8_t paused               # not read from: enough pipelined bytes are kept


cdef enum:
    LIST_NONE = 0
    LIST_IDLE = 1
    LIST_LINGER = 2


cdef struct List:
    Conn* first                  # longest in the list
    Conn* last


cdef struct HeapEntry:
    int64_t due
    Stream* stream


cdef struct Server:
    # settings
    Samples ttft
    Samples itl
    Samples output
    Samples per_event
    bint output_given
    int64_t step_ns              # 0: every event on its own time
    int64_t step_start
    uint64_t seed
    uint64_t refuse_below
    uint64_t mute_below
    int64_t close_idle_ns        # 0: never
    int64_t slow_settings_ns     # HTTP/2: SETTINGS come so long after the connection
    uint32_t stream_limit        # HTTP/2: MAX_CONCURRENT_STREAMS
    uint32_t lowered_limit       # announced with a connection's first token; 0: it stays
    uint32_t window              # HTTP/2: INITIAL_WINDOW_SIZE
    bint http1
    bint http2
    void* tls                    # llmgen.tls.Endpoint or NULL
    bint (*on_request)(Server* v, Conn* conn, RequestHead* head, const uint8_t* body, size_t size) noexcept nogil
    uint32_t slots               # 0: no limit
    Engine* engine               # has the times of all answers; NULL: the distributions above have
    uint64_t* hashes             # room for those of a prompt's blocks
    size_t hash_capacity
    void* pages                  # a Python function: what a path of the engine's pages shows; NULL without engine
    Reuse reuse                  # what prompts have in common with earlier ones; counted if it is asked for
    int refusal                  # status of what the engine's queue does not take
    FaultRule rules[MAX_RULES]
    uint32_t rule_count
    Model models[MAX_MODELS]
    uint32_t model_count
    uint32_t model_fixed         # only the first so many are served; 0: any
    # descriptors
    int epoll
    int listener                 # -1: this thread gets its connections through `inlet`
    int inlet                    # pipe of descriptors that another thread has accepted; -1
    int outlets[MAX_OUTLETS]              # to the other threads, which get every connection but the first of each round
    uint32_t outlet_count
    uint32_t accepted
    int timer
    int wake
    int64_t armed_ns
    int64_t accept_again         # no descriptors left: when to try again; 0: accepting
    # what runs
    HeapEntry* heap
    size_t heap_size
    size_t heap_capacity
    bint heap_hole               # the root was taken and not replaced yet
    Stream* free_streams
    Stream* queue_first          # wait for a slot
    Stream* queue_last
    uint32_t running
    Conn* graves
    Conn* dirty                  # HTTP/2 connections with something to write
    List lists[3]
    Conn* connections_first      # all of them, for the end
    uint32_t open
    uint32_t next_connection
    uint32_t next_serial
    uint32_t number_base         # of this thread's connections and serials
    # buffers
    uint8_t* read_buffer
    uint8_t* plain               # of TLS
    uint8_t* scratch
    TruthLog truth
    Conn** unstamped             # by row of the truth log: connections whose write is still to come
    size_t first_unstamped       # rows before it have their stamps
    ClockOffset offset
    int64_t offset_at
    # counters
    uint64_t events
    uint64_t writes
    uint64_t requests
    bint stop


cdef inline int64_t sampled(const Samples* samples, uint64_t at) noexcept nogil:
    return samples.values[at & samples.mask]


cdef void heap_fill(Server* v) noexcept nogil


cdef inline int64_t next_due(Server* v) noexcept nogil:
    """The earliest due time, or -1 if nothing is due ever."""
    if v.heap_hole:
        heap_fill(v)
    return v.heap[0].due if v.heap_size > 0 else -1


cdef Server* server_new(int listener, int epoll, int timer, int wake) noexcept nogil
cdef int server_free(Server* v) noexcept nogil

cdef Conn* conn_new(Server* v, int fd) noexcept nogil
cdef void conn_close(Server* v, Conn* conn, int how) noexcept nogil
cdef void conn_reset(Server* v, Conn* conn, int how) noexcept nogil
cdef void conn_end(Server* v, Conn* conn) noexcept nogil
cdef void graves_clear(Server* v) noexcept nogil
cdef bint conn_keep(Conn* conn, const uint8_t* data, size_t size, size_t room) noexcept nogil
cdef int conn_send(Server* v, Conn* conn, const uint8_t* data, size_t size) noexcept nogil
cdef int tls_drain(Server* v, Conn* conn) noexcept nogil
cdef int tls_write(Server* v, Conn* conn, const iovec* parts, int count) noexcept nogil
cdef bint conn_queue(Conn* conn, const uint8_t* data, size_t size) noexcept nogil
cdef int conn_flush(Server* v, Conn* conn) noexcept nogil
cdef void conn_watch(Server* v, Conn* conn) noexcept nogil
cdef void list_push(Server* v, Conn* conn, int which, int64_t now) noexcept nogil
cdef void list_remove(Server* v, Conn* conn) noexcept nogil

cdef Stream* stream_new(Server* v, Conn* conn) noexcept nogil
cdef void stream_start(Server* v, Stream* s) noexcept nogil
cdef void stream_end(Server* v, Stream* s, int how) noexcept nogil
cdef void stream_free(Server* v, Stream* s) noexcept nogil
cdef void streams_unpark(Server* v, Conn* conn) noexcept nogil

cdef Stream* heap_take(Server* v) noexcept nogil
cdef void heap_push(Server* v, Stream* s) noexcept nogil
cdef bint heap_room(Server* v) noexcept nogil
