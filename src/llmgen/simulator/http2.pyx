"""The endpoint's side of an HTTP/2 connection, over the codec of wire/http2.

Whatever is queued for a connection in one turn of the loop (heads, the events of all its due streams, replies to
control frames) goes out in one write at the turn's end. The truth log's rows of that write get the stamp that is taken
just before it.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memset, strlen
from posix.uio cimport iovec

from llmgen.clock cimport monotonic_ns
from llmgen.simulator.request cimport (
    MAX_BODY_BYTES,
    METHOD_GET,
    METHOD_HEAD,
    METHOD_OTHER,
    METHOD_POST,
    RequestHead,
)
from llmgen.simulator.server cimport (
    BACKLOG_BYTES,
    FAULT_CANCELLED,
    FAULT_NONE,
    PROTOCOL_HTTP2,
    Conn,
    Incoming,
    Multiplex,
    Server,
    Stream,
    conn_close,
    conn_end,
    conn_reset,
    conn_watch,
    stream_end,
    stream_new,
    streams_unpark,
    tls_write,
)
from llmgen.simulator.truthlog cimport TRUTH_VOID, TRUTH_WRITE, TruthRow
from llmgen.wire.hpack cimport HPACK_INDEX_AUTO, hpack_put
from llmgen.wire.http2 cimport (
    HTTP2_OK,
    HTTP2_SERVER,
    Http2,
    Http2Options,
    http2_cancel,
    http2_goaway,
    http2_init,
    http2_open,
    http2_options,
    http2_pending,
    http2_read,
    http2_send_data,
    http2_send_headers,
    http2_sent,
    http2_set_user,
    http2_unsent,
    http2_wants_write,
)
from llmgen.wire.http2_frames cimport H2_ENHANCE_YOUR_CALM, H2_NO_ERROR
from llmgen.wire.sink cimport END_OK, Header
from llmgen.wire.span cimport span

cdef extern from "sys/socket.h" nogil:
    enum:
        MSG_NOSIGNAL
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    ssize_t sendmsg(int fd, const msghdr* message, int flags)

cdef enum:
    WRITE_PIECES = 16            # the codec copies small bodies into one run; more pieces are rare
    BLOCK_BYTES = 1024           # of a header block of ours


# --- the connection ------------------------------------------------------------------------------------------------

cdef bint http2_begin(Server* v, Conn* conn) noexcept nogil:
    """Makes the connection an HTTP/2 one; nothing is queued yet. False without memory."""
    cdef Http2Options options
    cdef Multiplex* m = <Multiplex*>calloc(1, sizeof(Multiplex))
    if m == NULL:
        return False
    http2_options(&options, HTTP2_SERVER)
    options.max_streams = v.stream_limit
    options.initial_window = v.window
    m.server = v
    m.conn = conn
    m.sink.ctx = m
    m.sink.on_headers = on_headers
    m.sink.on_data = on_data
    m.sink.on_end = on_end
    if http2_init(&m.http2, &m.sink, HTTP2_SERVER, &options) != HTTP2_OK:
        free(m)
        return False
    conn.multiplex = m
    conn.protocol = PROTOCOL_HTTP2
    return True


cdef void http2_announce(Server* v, Conn* conn) noexcept nogil:
    """Queues our SETTINGS."""
    http2_open(&conn.multiplex.http2)
    http2_touch(v, conn)


cdef void http2_take(Server* v, Conn* conn, const uint8_t* data, size_t size) noexcept nogil:
    """Plain bytes of one read; requests that they complete are taken up at once."""
    cdef Http2* h = &conn.multiplex.http2
    h.now_ns = conn.stamp
    if http2_read(h, data, size) != HTTP2_OK and not conn.dead:
        http2_flush(v, conn)                 # GOAWAY tells the peer what it did wrong
        if not conn.dead:
            while conn.streams != NULL:
                stream_end(v, conn.streams, FAULT_CANCELLED)
            conn_end(v, conn)
        return
    if conn.dead or conn.ending:
        return
    if conn.parked:
        streams_unpark(v, conn)
    if http2_wants_write(h):
        http2_touch(v, conn)


cdef void http2_end(Server* v, Conn* conn) noexcept nogil:
    """Says GOAWAY, and closes when the streams that run are done."""
    cdef Multiplex* m = conn.multiplex
    if not m.goaway:
        m.goaway = True
        http2_goaway(&m.http2, m.http2.streams.highest, H2_NO_ERROR)
        http2_touch(v, conn)
    if conn.streams == NULL:
        http2_flush(v, conn)
        conn_end(v, conn)


# --- requests ------------------------------------------------------------------------------------------------------

cdef inline bint named(const Header* header, const char* name, size_t size) noexcept nogil:
    return header.name_size == size and memcmp(header.name, name, size) == 0


cdef void on_headers(void* ctx, uint64_t user, int status, const Header* headers, size_t count) noexcept nogil:
    """A request begins: `user` is its stream's id."""
    cdef Multiplex* m = <Multiplex*>ctx
    cdef Stream* s
    cdef Incoming* incoming
    cdef const Header* header
    cdef const uint8_t* value
    cdef uint32_t size, i
    if m.conn.dead or m.conn.ending:
        return
    s = stream_new(m.server, m.conn)
    incoming = <Incoming*>calloc(1, sizeof(Incoming))
    if s == NULL or incoming == NULL:
        free(incoming)
        http2_cancel(&m.http2, <int>user, H2_ENHANCE_YOUR_CALM)
        if s != NULL:
            stream_end(m.server, s, FAULT_CANCELLED)
        return
    s.number = <uint32_t>user
    s.incoming = incoming
    for i in range(count):
        header = &headers[i]
        value = header.value
        size = header.value_size
        if named(header, b":method", 7):
            if size == 4 and memcmp(value, b"POST", 4) == 0:
                incoming.method = METHOD_POST
            elif size == 3 and memcmp(value, b"GET", 3) == 0:
                incoming.method = METHOD_GET
            elif size == 4 and memcmp(value, b"HEAD", 4) == 0:
                incoming.method = METHOD_HEAD
            else:
                incoming.method = METHOD_OTHER
        elif named(header, b":path", 5) and size <= sizeof(incoming.path):
            incoming.path_size = 0
            while incoming.path_size < size and value[incoming.path_size] != c'?':
                incoming.path[incoming.path_size] = value[incoming.path_size]
                incoming.path_size += 1
        elif named(header, b"x-request-id", 12) and size <= sizeof(incoming.request_id):
            memcpy(incoming.request_id, value, size)
            incoming.id_size = size
    http2_set_user(&m.http2, <int>user, <uint64_t>s)


cdef void on_data(void* ctx, uint64_t user, const uint8_t* data, size_t size) noexcept nogil:
    cdef Multiplex* m = <Multiplex*>ctx
    cdef Stream* s = <Stream*>user
    cdef Incoming* incoming
    cdef uint8_t* grown
    cdef size_t capacity
    if m.conn.dead or m.conn.ending or s == NULL or s.incoming == NULL:
        return
    incoming = s.incoming
    if incoming.size + size > incoming.capacity:
        capacity = (incoming.size + size) * 2
        grown = <uint8_t*>realloc(incoming.body, capacity) if incoming.size + size <= MAX_BODY_BYTES else NULL
        if grown == NULL:
            http2_cancel(&m.http2, s.number, H2_ENHANCE_YOUR_CALM)
            stream_end(m.server, s, FAULT_CANCELLED)
            return
        incoming.body = grown
        incoming.capacity = capacity
    memcpy(incoming.body + incoming.size, data, size)
    incoming.size += size


cdef void on_end(void* ctx, uint64_t user, int end, uint32_t code) noexcept nogil:
    """The request is complete, or its stream has died."""
    cdef Multiplex* m = <Multiplex*>ctx
    cdef Server* v = m.server
    cdef Stream* s = <Stream*>user
    cdef Incoming* incoming
    cdef RequestHead head
    if m.conn.dead or m.conn.ending or s == NULL:
        return
    if end != END_OK:
        stream_end(v, s, FAULT_CANCELLED)
        return
    incoming = s.incoming
    s.incoming = NULL
    memset(&head, 0, sizeof(head))
    head.method = incoming.method
    head.path = span(incoming.path, incoming.path_size)
    head.request_id = span(incoming.request_id, incoming.id_size)
    head.keep_alive = True
    head.stream = s
    head.number = s.number
    m.conn.requests += 1
    v.on_request(v, m.conn, &head, incoming.body, incoming.size)
    if head.stream != NULL and not m.conn.dead:
        stream_end(v, s, FAULT_NONE)
    free(incoming.body)
    free(incoming)


# --- answers -------------------------------------------------------------------------------------------------------

cdef inline size_t put_field(uint8_t* to, size_t at, const char* name, const char* value) noexcept nogil:
    return at + hpack_put(to + at, BLOCK_BYTES - at, <const uint8_t*>name, strlen(name), <const uint8_t*>value,
                          strlen(value), HPACK_INDEX_AUTO)


cdef void decimal(char* to, int64_t value) noexcept nogil:
    cdef char reversed_digits[20]
    cdef int size = 0
    while True:
        reversed_digits[size] = <char>(48 + value % 10)
        size += 1
        value //= 10
        if value == 0:
            break
    while size > 0:
        size -= 1
        to[0] = reversed_digits[size]
        to += 1
    to[0] = 0


cdef int http2_head(Server* v, Conn* conn, uint32_t number, int status, const char* content_type,
                    int64_t length, bint end) noexcept nogil:
    """Queues an answer's head; `length` -1: not told. 0, or -1: the stream takes none."""
    cdef uint8_t block[BLOCK_BYTES]
    cdef char digits[24]
    cdef size_t size
    decimal(digits, status)
    size = put_field(block, 0, b":status", digits)
    size = put_field(block, size, b"server", b"llmgen-serve")
    size = put_field(block, size, b"content-type", content_type)
    if length >= 0:
        decimal(digits, length)
        size = put_field(block, size, b"content-length", digits)
    else:
        size = put_field(block, size, b"cache-control", b"no-cache")
    if status == 429 or status == 503:
        size = put_field(block, size, b"retry-after", b"1")
    elif 300 <= status < 400:
        size = put_field(block, size, b"location", b"/elsewhere")
    elif status == 405:
        size = put_field(block, size, b"allow", b"GET, POST")
    http2_touch(v, conn)
    return 0 if http2_send_headers(&conn.multiplex.http2, number, block, size, end) == HTTP2_OK else -1


cdef int http2_data(Server* v, Conn* conn, uint32_t number, const uint8_t* data, size_t size, bint end) noexcept nogil:
    """Queues a piece of an answer's body: 0 it will be in the next write, 1 the peer's window holds it up, -1 refused."""
    cdef Http2* h = &conn.multiplex.http2
    if http2_send_data(h, number, data, size, end) != HTTP2_OK:
        return -1
    http2_touch(v, conn)
    return http2_unsent(h, number) > 0


cdef bint http2_backlogged(Stream* s) noexcept nogil:
    """Whether the stream had better wait until the client has read more."""
    cdef Http2* h = &s.conn.multiplex.http2
    return h.output.put - h.output.sent > OUTPUT_MOST or http2_unsent(h, s.number) > BACKLOG_BYTES


# --- writing -------------------------------------------------------------------------------------------------------

cdef void http2_touch(Server* v, Conn* conn) noexcept nogil:
    """Has the connection flushed at the end of the turn."""
    if not conn.dirty and not conn.dead:
        conn.dirty = True
        conn.next_dirty = v.dirty
        v.dirty = conn


cdef ssize_t write_pieces(Server* v, Conn* conn, iovec* pieces, int count, size_t total) noexcept nogil:
    """Bytes that the socket took, or that were encrypted on their way to it; -1: the connection is closed."""
    cdef msghdr message
    cdef ssize_t done
    if conn.tls != NULL:
        return -1 if tls_write(v, conn, pieces, count) < 0 else <ssize_t>total
    memset(&message, 0, sizeof(message))
    message.msg_iov = pieces
    message.msg_iovlen = count
    v.writes += 1
    done = sendmsg(conn.fd, &message, MSG_NOSIGNAL)
    if done < 0:
        if errno == EAGAIN or errno == EINTR:
            return 0
        conn_close(v, conn, FAULT_CANCELLED)
    return done


cdef void http2_flush(Server* v, Conn* conn) noexcept nogil:
    """Writes what is queued, as far as the socket takes it."""
    cdef Http2* h = &conn.multiplex.http2
    cdef iovec pieces[WRITE_PIECES]
    cdef size_t total
    cdef ssize_t done
    cdef int count, i
    if conn.dead:
        return
    conn.blocked = False
    conn.flushed = h.now_ns = monotonic_ns()
    while conn.out_size - conn.out_at <= BACKLOG_BYTES:
        count = http2_pending(h, pieces, WRITE_PIECES)
        if count == 0:
            break
        total = 0
        for i in range(count):
            total += pieces[i].iov_len
        done = write_pieces(v, conn, pieces, count, total)
        if done < 0:
            return
        http2_sent(h, done)
        if <size_t>done < total:
            conn.blocked = True
            break
    if conn.out_at < conn.out_size and http2_wants_write(h):
        conn.blocked = True
    conn_watch(v, conn)
    if conn.parked and not conn.blocked:
        streams_unpark(v, conn)


cdef void http2_flush_all(Server* v) noexcept nogil:
    """Flushes every connection that was touched, and stamps the truth log's rows of those writes."""
    cdef Conn* conn
    cdef TruthRow* row
    cdef size_t i
    while v.dirty != NULL:
        conn = v.dirty
        v.dirty = conn.next_dirty
        conn.dirty = False
        if conn.dead:
            conn.flushed = 0
            continue
        if not conn.blocked:
            http2_flush(v, conn)
        else:
            conn.flushed = monotonic_ns()
        if not conn.dead and not conn.ending and conn.multiplex.goaway and conn.streams == NULL:
            http2_end(v, conn)
    if v.truth.fd < 0:
        return
    for i in range(v.first_unstamped, v.truth.count):
        row = &v.truth.rows[i]
        if row.kind == TRUTH_WRITE and row.t == 0:
            conn = v.unstamped[i]
            row.t = conn.flushed
            if conn.flushed == 0:
                row.kind = TRUTH_VOID        # the connection was lost before its turn
            elif conn.blocked:
                row.detail = 1
    v.first_unstamped = v.truth.count
