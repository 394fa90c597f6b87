# One descriptor and the protocol on it: opening (TCP or unix, then TLS, then HTTP/2's SETTINGS), reads with their stamps,
# writes that may be partial. What a call brought is its result, a set of Outcome bits, and the exchanges that ended lie in
# `answers.ended`; the core decides what happens next. A connection never calls the core.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from posix.uio cimport iovec

from llmgen.address cimport Address, Sources, sockaddr, socklen_t
from llmgen.clock cimport ClockOffset
from llmgen.exchange cimport Answers, Exchange
from llmgen.wire.http1 cimport Http1Parser
from llmgen.wire.http2 cimport Http2, Http2Options
from llmgen.wire.sink cimport Sink


cdef enum Outcome:
    CONN_NOTHING = 0
    CONN_OPENED = 1              # requests can go out now
    CONN_LOST = 2                # unusable; `status` and `reason` say why. The core closes it


cdef enum ConnectionState:
    CONN_FREE = 0
    CONN_CONNECTING = 1
    CONN_SECURING = 2            # TLS handshake
    CONN_SETTLING = 3            # http2: waiting for the peer's SETTINGS
    CONN_OPEN = 4
    CONN_CLOSING = 5             # descriptor and memory go at the end of the batch


# What all connections of a worker share.
cdef struct Network:
    int epoll
    Answers* answers
    Sink sink                    # -> answers
    ClockOffset offset
    bint kernel_stamps           # times are the kernel's where it gives them; False: it only tells how late we read
    Sources sources              # local addresses that connections are spread over
    uint64_t clock_steps         # CLOCK_REALTIME moved against the run's clock by more than STEP_NS
    uint8_t* buffer              # one read
    size_t buffer_bytes
    uint8_t* plain               # TLS: the decrypted bytes of a record
    void** endpoints             # tls.Endpoint of each target, or NULL; borrowed from the engine
    uint64_t tls_handshakes, tls_resumed
    uint32_t max_head_bytes
    int most_descriptors         # a connection's is below it: the plan's and the records' next files need some, too
    Http2Options http2_options
    bint twin                    # http2 by the reference twin
    uint64_t reads
    int64_t flow_blocked_ns      # http2, of connections that are closed
    int64_t now                  # t_user of the latest read or write: the core compares the next due time with it


cdef struct Connection:
    int fd
    uint32_t slot                # place in the core's table
    uint32_t generation          # of the slot; an epoll entry of another generation is stale
    uint8_t state
    uint8_t protocol             # 1 | 2
    uint8_t status               # once lost: what exchanges that depend on it become
    bint secure                  # TLS
    bint wants_write             # EPOLLOUT is in the interest set
    bint fresh                   # has brought no answer since it was opened
    uint16_t target
    uint16_t address             # of the target's addresses
    uint16_t tries               # addresses tried so far
    uint8_t retransmits          # of the TCP handshake
    int32_t number               # for the record
    uint32_t requests            # carried so far
    const char* reason           # static text, or the protocol's
    # stamps
    int64_t connect_start, connected, secured
    int64_t last_read
    int64_t last_stamp           # the same as CLOCK_REALTIME told it
    # http1
    Http1Parser http1
    Exchange* exchange           # the one in progress, or the one that waits for this connection to open
    iovec* out                   # what is left of a partial send
    uint8_t* out_head            # copy of the head that `out` points into
    uint32_t out_count, out_at
    # http2
    Http2* http2
    void* twin                   # instead of http2: twin.Twin, a reference of ours
    Exchange* unsent             # submitted, not written yet; linked by send_next
    uint32_t streams             # exchanges on it
    bint dirty                   # in the core's list of connections to flush
    Connection* dirty_next
    # TLS
    void* tls                    # tls.Session, a reference of ours
    char reason_text[120]        # of OpenSSL
    # lists of the core: idle (last in, first out), opening
    Connection* next
    Connection* before
    bint listed


cdef int connection_open(Network* n, Connection* c, const Address* address) noexcept nogil
cdef int connection_event(Network* n, Connection* c, uint32_t events) noexcept nogil
cdef int connection_send(Network* n, Connection* c, Exchange* x, iovec* parts, int count) noexcept nogil
cdef int connection_submit(
    Network* n, Connection* c, Exchange* x, const uint8_t* block, size_t block_size,
    const iovec* body, int count, uint64_t body_bytes) noexcept nogil
cdef int connection_flush(Network* n, Connection* c) noexcept nogil
cdef void connection_cancel(Connection* c, Exchange* x) noexcept nogil
cdef uint32_t connection_capacity(Connection* c) noexcept nogil
cdef bint connection_leaving(Connection* c) noexcept nogil
cdef void connection_close(Network* n, Connection* c) noexcept nogil
cdef void network_clock(Network* n) noexcept nogil


# Asks for the memory of a connection that is ready, then of its exchange, so that it is there when its read comes: with
# thousands of streams none of it is in a near cache.

cdef extern from *:
    """
    static inline void llmgen_prefetch(const void *at, size_t size) {
        for (size_t i = 0; i < size; i += 64) __builtin_prefetch((const char *)at + i);
    }
    """
    void prefetch "llmgen_prefetch"(const void* at, size_t size) noexcept nogil


cdef inline void connection_fetch(const Connection* c) noexcept nogil:
    prefetch(c, <size_t>(<const uint8_t*>&c.out - <const uint8_t*>c))


cdef inline void connection_fetch_exchange(const Connection* c) noexcept nogil:
    if c.exchange != NULL:
        prefetch(c.exchange, sizeof(Exchange))
