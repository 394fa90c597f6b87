"""Connections of the targets.

http1: idle connections are used last in, first out; when none is idle a new one is opened for the request, bound to it.
http2: open connections form a ring; a request goes to the first with room. Without a limit the ring is filled one after the
other and a new connection is opened when all are full; with `--connections N` it is spread over N.
A request that no connection may carry yet waits, first in, first out; `acquired` is stamped when its wait is over.

Nothing here recurses: a lost connection only marks; waiting requests are served and descriptors closed at the end of the batch.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset
from posix.uio cimport iovec

from llmgen.clock cimport monotonic_ns
from llmgen.connection cimport (
    CONN_CLOSING,
    CONN_CONNECTING,
    CONN_FREE,
    CONN_LOST,
    CONN_OPEN,
    CONN_OPENED,
    Connection,
    connection_cancel,
    connection_capacity,
    connection_close,
    connection_flush,
    connection_leaving,
    connection_open,
    connection_send,
    connection_submit,
)
from llmgen.core cimport SCRATCH_BYTES, Core, HeadBytes, Target
from llmgen.exchange cimport (
    EXCHANGE_OPENING,
    EXCHANGE_WAITING,
    FLAG_RESENT,
    FLAG_REUSED,
    FLAG_STALE_RESEND,
    STATUS_CLIENT_LIMIT,
    STATUS_CONNECT_TIMEOUT,
    STATUS_EOF,
    STATUS_PROTOCOL_ERROR,
    STATUS_RESET,
    STATUS_TLS_ERROR,
    STATUS_UNPROCESSED,
    Exchange,
    exchange_again,
    exchange_status,
)
from llmgen.flight cimport flight_finish
from llmgen.pacer cimport SPAN_ANSWER, PlanRow, PlanSpan, pacer_span, pacer_spans
from llmgen.session cimport Session, session_find
from llmgen.wire.hpack cimport hpack_put_literal
from llmgen.wire.http2 cimport HTTP2_CLOSING, HTTP2_EXHAUSTED, HTTP2_FULL
from llmgen.wire.sink cimport END_OK, END_UNPROCESSED


cdef enum:
    CHUNK = 64                   # connections allocated at a time
    MOST_OPENING = 256           # connects under way per target and worker: below the usual accept backlogs (511, 2048, 4096)
    EXPECTED_STREAMS = 64        # http2: room expected of a connection that is still being opened
    BACKOFF_FIRST = 10000000     # 10 ms, doubled up to
    BACKOFF_MOST = 1000000000    # 1 s, after connections that were lost before they carried an answer


# -- memory -------------------------------------------------------------------------------------------------------------

cdef Connection* pool_slot(Core* k, uint32_t slot) noexcept nogil:
    return &k.connection_chunks[slot // CHUNK][slot % CHUNK]


cdef Connection* take_connection(Core* k) noexcept nogil:
    cdef Connection** grown
    cdef Connection* chunk
    cdef Connection* c
    cdef uint32_t i
    cdef uint32_t generation
    if k.free_connections == NULL:
        grown = <Connection**>realloc(k.connection_chunks, (k.connection_count // CHUNK + 1) * sizeof(Connection*))
        if grown == NULL:
            return NULL
        k.connection_chunks = grown
        chunk = <Connection*>calloc(CHUNK, sizeof(Connection))
        if chunk == NULL:
            return NULL
        k.connection_chunks[k.connection_count // CHUNK] = chunk
        for i in range(CHUNK):
            chunk[i].slot = k.connection_count + i
            chunk[i].fd = -1
            chunk[i].next = k.free_connections
            k.free_connections = &chunk[i]
        k.connection_count += CHUNK
    c = k.free_connections
    k.free_connections = c.next
    i = c.slot
    generation = c.generation + 1
    memset(c, 0, sizeof(Connection))
    c.fd = -1
    c.slot = i
    c.generation = generation
    return c


cdef void pool_free(Core* k) noexcept nogil:
    """Closes all connections and gives everything back; no exchange may be in flight."""
    cdef uint32_t i
    cdef Connection* c
    for i in range(k.connection_count):
        c = pool_slot(k, i)
        if c.state != CONN_FREE:
            connection_close(&k.network, c)
    for i in range(k.connection_count // CHUNK):
        free(k.connection_chunks[i])
    free(k.connection_chunks)
    k.connection_chunks = NULL
    k.connection_count = 0
    free(k.parts)
    k.parts = NULL


# -- lists --------------------------------------------------------------------------------------------------------------

cdef void push_front(Connection** head, Connection* c) noexcept nogil:
    c.before = NULL
    c.next = head[0]
    if head[0] != NULL:
        head[0].before = c
    head[0] = c
    c.listed = True


cdef void unlink(Connection** head, Connection* c) noexcept nogil:
    if not c.listed:
        return
    if c.before != NULL:
        c.before.next = c.next
    else:
        head[0] = c.next
    if c.next != NULL:
        c.next.before = c.before
    c.next = c.before = NULL
    c.listed = False


cdef Connection** list_of(Core* k, Connection* c) noexcept nogil:
    cdef Target* t = &k.targets[c.target]
    if c.state != CONN_OPEN:
        return &k.opening
    return &t.idle if c.protocol == 1 else &t.open


cdef void wait(Core* k, Exchange* x) noexcept nogil:
    cdef Target* t = &k.targets[x.row.target]
    x.state = EXCHANGE_WAITING
    x.next = NULL
    x.before = t.waiting_last
    if t.waiting_last != NULL:
        t.waiting_last.next = x
    else:
        t.waiting = x
    t.waiting_last = x
    t.waiting_count += 1
    k.waiting += 1


cdef void stop_waiting(Core* k, Exchange* x) noexcept nogil:
    cdef Target* t = &k.targets[x.row.target]
    if x.before != NULL:
        x.before.next = x.next
    else:
        t.waiting = x.next
    if x.next != NULL:
        x.next.before = x.before
    else:
        t.waiting_last = x.before
    x.next = x.before = NULL
    t.waiting_count -= 1
    k.waiting -= 1


# -- opening and closing ------------------------------------------------------------------------------------------------

cdef bint may_open(Core* k, Target* t) noexcept nogil:
    if t.opening >= MOST_OPENING or (k.options.connections and t.connections >= k.options.connections):
        return False
    if t.protocol == 1:
        return True
    if k.network.now < t.backoff_until:
        return False
    return k.options.connections != 0 or t.opening * EXPECTED_STREAMS <= t.waiting_count


cdef void open_connection(Core* k, Target* t, Exchange* x) noexcept nogil:
    """A new connection, for `x` if that is not NULL."""
    cdef Connection* c = take_connection(k)
    cdef int outcome
    if c == NULL:
        if x != NULL:
            k.reason = "out of memory for connections"
            flight_finish(k, x, STATUS_CLIENT_LIMIT, monotonic_ns())
            k.reason = NULL
        return
    c.target = <uint16_t>(t - k.targets)
    c.protocol = t.protocol
    c.secure = t.secure
    c.number = k.connection_number
    k.connection_number += 1
    c.address = t.next_address
    t.next_address = <uint16_t>((t.next_address + 1) % t.address_count)
    t.connections += 1
    t.opening += 1
    c.exchange = x
    c.state = CONN_CONNECTING
    push_front(&k.opening, c)
    if x != NULL:
        x.connection = c
        x.state = EXCHANGE_OPENING
        x.row.acquired = k.network.now
    outcome = connection_open(&k.network, c, &t.addresses[c.address])
    if x != NULL:
        x.row.connect_start = c.connect_start
    if outcome & CONN_LOST:
        lost(k, c)


cdef void close_later(Core* k, Connection* c) noexcept nogil:
    """Out of every list now; descriptor and memory go at the end of the batch, when no event of it can be left."""
    cdef Target* t = &k.targets[c.target]
    if c.state == CONN_CLOSING:
        return
    unlink(list_of(k, c), c)
    if c.state != CONN_OPEN:
        t.opening -= 1
    t.connections -= 1
    c.state = CONN_CLOSING
    c.next = k.closing
    k.closing = c


cdef bint try_next_address(Core* k, Connection* c) noexcept nogil:
    """A target with several addresses: the next one, within the same connect timeout."""
    cdef Target* t = &k.targets[c.target]
    cdef int64_t started = c.connect_start
    if c.tries + 1 >= t.address_count or c.connected >= 0:
        return False
    if k.network.now - started > k.options.timeout_connect:
        return False
    connection_close(&k.network, c)
    c.tries += 1
    c.generation += 1
    c.address = <uint16_t>((c.address + 1) % t.address_count)
    if connection_open(&k.network, c, &t.addresses[c.address]) & CONN_LOST:
        c.connect_start = started
        return try_next_address(k, c)
    c.connect_start = started
    return True


cdef void lost(Core* k, Connection* c) noexcept nogil:
    """The connection is unusable. Exchanges that ended with it have been collected."""
    cdef Target* t = &k.targets[c.target]
    cdef Exchange* x = c.exchange
    cdef bint opening = c.state != CONN_OPEN
    cdef int status = c.status
    if c.state == CONN_CLOSING or (opening and try_next_address(k, c)):
        return
    status = c.status
    if c.protocol == 2 and c.fresh:
        t.backoff = BACKOFF_FIRST if t.backoff == 0 else t.backoff * 2
        if t.backoff > BACKOFF_MOST:
            t.backoff = BACKOFF_MOST
        t.backoff_until = k.network.now + t.backoff
    c.exchange = NULL
    close_later(k, c)
    k.reason = c.reason
    if x != NULL:
        x.row.connection = c.number
        x.row.retransmits = c.retransmits
        x.row.connected = c.connected
        flight_finish(k, x, status, k.network.now)
    if (opening or c.requests == 0) and c.protocol == 2 and t.connections == 0:
        # nobody is left who could carry them (GOAWAY may be the first that a server says), and each must end
        while t.waiting != NULL:
            x = t.waiting
            stop_waiting(k, x)
            flight_finish(k, x, status, k.network.now)
    k.reason = NULL


cdef void opened(Core* k, Connection* c) noexcept nogil:
    cdef Target* t = &k.targets[c.target]
    cdef Exchange* x = c.exchange
    # still listed among the opening ones although its state has moved on
    unlink(&k.opening, c)
    t.opening -= 1
    c.exchange = NULL
    if c.protocol == 2:
        push_front(&t.open, c)
    if x != NULL:
        x.row.connected = c.connected
        x.row.secured = c.secured
        x.row.retransmits = c.retransmits
        send(k, c, x)
    elif c.protocol == 1:
        freed(k, c)


cdef void freed(Core* k, Connection* c) noexcept nogil:
    """http1: the connection can carry the next request."""
    cdef Target* t = &k.targets[c.target]
    cdef Exchange* x = t.waiting
    if x == NULL:
        push_front(&t.idle, c)
        return
    stop_waiting(k, x)
    x.row.acquired = k.network.now
    send(k, c, x)


# -- sending ------------------------------------------------------------------------------------------------------------

cdef uint32_t put_decimal(uint8_t* out, uint64_t value) noexcept nogil:
    cdef uint8_t digits[20]
    cdef uint32_t size = 0, i
    while True:
        digits[size] = <uint8_t>(48 + value % 10)
        size += 1
        value //= 10
        if value == 0:
            break
    for i in range(size):
        out[i] = digits[size - 1 - i]
    return size


cdef void put_hex(uint8_t* out, uint64_t value) noexcept nogil:
    cdef int i
    for i in range(16):
        out[i] = <uint8_t>(b"0123456789abcdef"[(value >> (60 - 4 * i)) & 15])


cdef uint32_t put_text(uint8_t* out, const char* text, uint32_t size) noexcept nogil:
    memcpy(out, text, size)
    return size


cdef uint32_t put_traceparent(Core* k, uint8_t* out, uint64_t index) noexcept nogil:
    """W3C trace context: 00-<trace id: run, index>-<span id: index + 1, never zero>-01."""
    memcpy(out, "00-", 3)
    put_hex(out + 3, k.trace_prefix)
    put_hex(out + 19, index)
    out[35] = 45
    put_hex(out + 36, index + 1)
    memcpy(out + 52, "-01", 3)
    return 55


cdef void put_padded(uint8_t* out, uint64_t value, int digits) noexcept nogil:
    cdef int i
    for i in range(digits - 1, -1, -1):
        out[i] = <uint8_t>(48 + value % 10)
        value //= 10


cdef uint32_t put_number(uint8_t* out, const PlanRow* plan, uint8_t attempt) noexcept nogil:
    """The end of x-request-id, which target.request_id began: <attempt>-8000-<index>, in decimal."""
    put_padded(out, attempt, 3)
    memcpy(out + 3, "-8000-", 6)
    put_padded(out + 9, <uint64_t>plan.index, 12)
    return 21


cdef uint32_t put_head_http1(Core* k, const HeadBytes* head, const PlanRow* plan, uint8_t attempt) noexcept nogil:
    """The head into k.scratch; its size."""
    cdef uint8_t* out = k.scratch
    cdef uint32_t size = head.http1_size
    memcpy(out, head.http1, size)
    size += put_number(out + size, plan, attempt)
    if k.options.traceparent:
        size += put_text(out + size, "\r\ntraceparent: ", 15)
        size += put_traceparent(k, out + size, <uint64_t>plan.index)
    size += put_text(out + size, "\r\ncontent-length: ", 18)
    size += put_decimal(out + size, k.body_bytes)
    size += put_text(out + size, "\r\n\r\n", 4)
    return size


cdef uint32_t put_head_http2(Core* k, const HeadBytes* head, const PlanRow* plan, uint8_t attempt) noexcept nogil:
    """The HPACK block into k.scratch; its size."""
    cdef uint8_t* out = k.scratch
    cdef uint32_t size = head.http2_size, length
    cdef uint8_t value[128]
    memcpy(out, head.http2, size)
    memcpy(value, k.id_head, k.id_head_size)
    length = k.id_head_size + put_number(value + k.id_head_size, plan, attempt)
    size += <uint32_t>hpack_put_literal(out + size, SCRATCH_BYTES - size, <const uint8_t*>"x-request-id", 12, value, length, False)
    if k.options.traceparent:
        length = put_traceparent(k, value, <uint64_t>plan.index)
        size += <uint32_t>hpack_put_literal(out + size, SCRATCH_BYTES - size, <const uint8_t*>"traceparent", 11, value, length, False)
    length = put_decimal(value, k.body_bytes)
    size += <uint32_t>hpack_put_literal(out + size, SCRATCH_BYTES - size, <const uint8_t*>"content-length", 14, value, length, False)
    return size


cdef int gather(Core* k, Exchange* x) noexcept nogil:
    """k.parts[0] is left for the head, the body's spans follow; their number with the head, 0: the plan is damaged."""
    cdef const PlanRow* plan = <const PlanRow*>x.plan
    cdef const PlanSpan* spans = pacer_spans(&k.pacer, x.plan_segment, plan)
    cdef uint32_t i, wanted = <uint32_t>plan.span_count + 1
    cdef iovec* grown
    if wanted > k.parts_capacity:
        grown = <iovec*>realloc(k.parts, wanted * 2 * sizeof(iovec))
        if grown == NULL:
            return 0
        k.parts = grown
        k.parts_capacity = wanted * 2
    k.body_bytes = 0
    for i in range(plan.span_count):
        if spans[i].source == SPAN_ANSWER:
            if not quote(k, x, spans + i, &k.parts[i + 1]):
                return 0
        else:
            k.parts[i + 1].iov_base = <void*>pacer_span(&k.pacer, x.plan_segment, spans + i)
            k.parts[i + 1].iov_len = spans[i].size
            if k.parts[i + 1].iov_base == NULL:
                return 0
        k.body_bytes += k.parts[i + 1].iov_len
    x.row.body_bytes = <uint32_t>k.body_bytes
    return <int>wanted


cdef bint quote(Core* k, Exchange* x, const PlanSpan* span, iovec* part) noexcept nogil:
    """A span that stands for the answer of an earlier turn; its bytes live until the session ends."""
    cdef Session* session = session_find(&k.sessions, x.row.session)
    if session == NULL or span.offset >= session.count:
        return False
    # an answer without text is quoted as nothing
    part.iov_base = session.answers[span.offset].data
    part.iov_len = session.answers[span.offset].size
    if part.iov_base == NULL:
        part.iov_base = k.scratch
    return True


cdef void send(Core* k, Connection* c, Exchange* x) noexcept nogil:
    """The request goes out on this connection, which has room for it."""
    cdef const PlanRow* plan = <const PlanRow*>x.plan
    cdef const HeadBytes* head = &k.targets[c.target].heads[x.head]
    cdef int count = gather(k, x)
    cdef int result
    x.row.connection = c.number
    if count == 0:
        k.reason = "the plan's file is damaged or memory is full"
        flight_finish(k, x, STATUS_CLIENT_LIMIT, k.network.now)
        k.reason = NULL
        if c.protocol == 1:
            freed_or_closed(k, c, True)
        return
    k.sent += 1
    if c.protocol == 1:
        k.parts[0].iov_base = k.scratch
        k.parts[0].iov_len = put_head_http1(k, head, plan, x.row.attempt)
        result = connection_send(&k.network, c, x, k.parts, count)
        if result != 0:
            pool_outcome(k, c, result)
        return
    result = connection_submit(
        &k.network, c, x, k.scratch, put_head_http2(k, head, plan, x.row.attempt), k.parts + 1, count - 1, k.body_bytes)
    x.row.stream = <int32_t>x.stream
    if result == 0:
        mark_dirty(k, c)
        return
    k.sent -= 1
    if result == HTTP2_FULL or result == HTTP2_CLOSING or result == HTTP2_EXHAUSTED:
        # its room went between the look and the submit: back to the queue, keeping its place in time is not worth a search
        x.row.acquired = x.row.connect_start = x.row.connected = x.row.secured = -1
        wait(k, x)
        return
    flight_finish(k, x, STATUS_CLIENT_LIMIT, k.network.now)


cdef void mark_dirty(Core* k, Connection* c) noexcept nogil:
    if not c.dirty:
        c.dirty = True
        c.dirty_next = k.dirty
        k.dirty = c


cdef Connection* find(Core* k, Target* t) noexcept nogil:
    """An open connection with room; NULL if there is none."""
    cdef Connection* c
    if t.protocol == 1:
        c = t.idle
        if c != NULL:
            unlink(&t.idle, c)
        return c
    c = t.open
    while c != NULL:
        if has_room(k, c):
            break
        c = c.next
    if c == NULL or k.options.connections == 0:
        return c
    # a limit means: spread. A new connection before a second stream, then in turn
    if c.streams and t.connections < k.options.connections and may_open(k, t):
        return NULL
    if c.next != NULL or c.before != NULL:
        rotate(t, c)
    return c


cdef void rotate(Target* t, Connection* c) noexcept nogil:
    """Moves it to the back of the ring."""
    cdef Connection* last = c
    if c.next == NULL:
        return
    unlink(&t.open, c)
    last = t.open
    while last.next != NULL:
        last = last.next
    last.next = c
    c.before = last
    c.next = NULL
    c.listed = True


cdef bint has_room(Core* k, Connection* c) noexcept nogil:
    if k.options.streams_per_connection and c.streams >= k.options.streams_per_connection:
        return False
    return connection_capacity(c) > 0


cdef void pool_acquire(Core* k, Exchange* x) noexcept nogil:
    """Finds, opens or waits for the connection of a request that is due."""
    cdef Target* t = &k.targets[x.row.target]
    cdef Connection* c
    if t.waiting == NULL:
        c = find(k, t)
        if c != NULL:
            x.row.acquired = k.network.now
            send(k, c, x)
            return
        if may_open(k, t):
            open_connection(k, t, x)
            return
    wait(k, x)


cdef void serve_waiting(Core* k, Target* t) noexcept nogil:
    cdef Exchange* x
    cdef Connection* c
    cdef uint32_t most = t.waiting_count
    while t.waiting != NULL and most:
        most -= 1
        x = t.waiting
        c = find(k, t)
        if c != NULL:
            stop_waiting(k, x)
            x.row.acquired = k.network.now
            send(k, c, x)
        elif may_open(k, t):
            stop_waiting(k, x)
            open_connection(k, t, x)
        else:
            return


# -- what a connection's call brought ---------------------------------------------------------------------------------------

cdef void pool_outcome(Core* k, Connection* c, int outcome) noexcept nogil:
    if outcome & CONN_OPENED:
        opened(k, c)
    if k.answers.ended != NULL:
        collect(k, c if outcome & CONN_LOST else NULL)
    if outcome & CONN_LOST:
        lost(k, c)
    elif c.protocol == 2 and c.state == CONN_OPEN and c.streams == 0 and connection_leaving(c):
        # before those who wait are served: a server that greets with GOAWAY must find the backoff, not the next connect
        connection_flush(&k.network, c)
        c.status = STATUS_EOF
        c.reason = "the server said GOAWAY"
        lost(k, c)
    elif c.protocol == 2 and not c.dirty and c.state != CONN_CLOSING:
        # window updates, acknowledgements: together with the batch's requests
        mark_dirty(k, c)


cdef void collect(Core* k, Connection* doomed) noexcept nogil:
    """Takes the exchanges that ended off their connections and finishes them; `doomed` must carry no further one."""
    cdef Exchange* x
    cdef Connection* c
    cdef int status
    cdef bint clean
    while k.answers.ended != NULL:
        x = k.answers.ended
        k.answers.ended = x.next
        x.next = NULL
        c = <Connection*>x.connection
        status = exchange_status(&k.answers, x)
        if status == STATUS_EOF and (c.status == STATUS_RESET or c.status == STATUS_TLS_ERROR):
            status = c.status
        clean = x.end == END_OK and c.out == NULL and c != doomed
        if c.protocol == 1:
            c.exchange = NULL
        c.streams -= 1
        if may_resend(k, c, x, status):
            resend(k, x)
        else:
            if c.protocol == 2 and x.row.headers >= 0:
                c.fresh = False
                k.targets[c.target].backoff = 0
            k.reason = c.reason
            # without an answer the end is when we learnt of it: the kernel may have had the peer's GOAWAY before our send
            flight_finish(k, x, status, k.answers.read.t if x.row.headers >= 0 else k.network.now)
            k.reason = NULL
        if c.protocol == 1:
            freed_or_closed(k, c, clean)


cdef void freed_or_closed(Core* k, Connection* c, bint clean) noexcept nogil:
    if c.state == CONN_CLOSING:
        return
    if clean:
        freed(k, c)
    else:
        close_later(k, c)


cdef bint may_resend(Core* k, Connection* c, Exchange* x, int status) noexcept nogil:
    """A reused connection that died before any byte of the answer: most likely the server closed it while it was idle."""
    if x.resends:
        return False
    if status == STATUS_UNPROCESSED:
        return k.options.resend_unprocessed
    if status != STATUS_EOF and status != STATUS_RESET:
        return False
    if x.row.headers >= 0 or not x.row.flags & FLAG_REUSED:
        return False
    return c.protocol == 1 or c.streams == 0


cdef void resend(Core* k, Exchange* x) noexcept nogil:
    cdef Target* t = &k.targets[x.row.target]
    cdef bint stale = x.end != END_UNPROCESSED
    exchange_again(x)
    x.row.flags |= FLAG_STALE_RESEND if stale else FLAG_RESENT
    x.row.flags &= ~<uint32_t>FLAG_REUSED
    x.row.acquired = x.row.connect_start = x.row.connected = x.row.secured = x.row.send = x.row.sent = -1
    x.connection = NULL
    k.stale_resends += stale
    if stale and may_open(k, t):
        open_connection(k, t, x)     # a fresh one: the other idle ones are as old
    else:
        wait(k, x)


cdef void pool_expire(Core* k, Exchange* x, int status) noexcept nogil:
    """Ends an exchange from our side: a timeout, a cancellation."""
    cdef Connection* c = <Connection*>x.connection
    if x.state == EXCHANGE_WAITING:
        stop_waiting(k, x)
    elif x.state == EXCHANGE_OPENING:
        c.exchange = NULL            # the connection may still be of use to the next one
    elif c.protocol == 1:
        c.exchange = NULL
        close_later(k, c)
    else:
        connection_cancel(c, x)
        c.streams -= 1
        mark_dirty(k, c)
    flight_finish(k, x, status, k.network.now)


# -- now and then ---------------------------------------------------------------------------------------------------------

cdef void pool_end_batch(Core* k) noexcept nogil:
    """Serves who waits, writes what http2 has pending, closes what was lost."""
    cdef Connection* c
    cdef uint32_t i
    cdef int outcome
    for i in range(k.target_count):
        if k.targets[i].waiting != NULL:
            serve_waiting(k, &k.targets[i])
    while k.dirty != NULL:
        c = k.dirty
        k.dirty = c.dirty_next
        c.dirty = False
        if c.state == CONN_CLOSING:
            continue
        outcome = connection_flush(&k.network, c)
        if outcome != 0:
            pool_outcome(k, c, outcome)
        elif c.streams == 0 and connection_leaving(c):
            close_later(k, c)
    while k.closing != NULL:
        c = k.closing
        k.closing = c.next
        connection_close(&k.network, c)
        c.state = CONN_FREE
        c.next = k.free_connections
        k.free_connections = c


cdef void pool_tick(Core* k, int64_t now) noexcept nogil:
    """Connects that take too long."""
    cdef Connection* c = k.opening
    cdef Connection* next
    while c != NULL:
        next = c.next
        if now - c.connect_start > k.options.timeout_connect:
            if c.connected < 0:
                c.status = STATUS_CONNECT_TIMEOUT
                c.reason = "connect timed out"
            elif c.secure and c.secured < 0:
                c.status = STATUS_TLS_ERROR
                c.reason = "the TLS handshake timed out"
            else:
                c.status = STATUS_PROTOCOL_ERROR
                c.reason = "the server sent no HTTP/2 SETTINGS within the connect timeout"
            c.tries = 65534          # no further address: the time is over
            lost(k, c)
            next = k.opening         # the list may have changed
            if next == c:
                return
        c = next


cdef void pool_preconnect(Core* k, uint32_t count) noexcept nogil:
    """Opens `count` connections to every target ahead of the start."""
    cdef uint32_t i, j
    for i in range(k.target_count):
        for j in range(count):
            if k.options.connections == 0 or k.targets[i].connections < k.options.connections:
                open_connection(k, &k.targets[i], NULL)
