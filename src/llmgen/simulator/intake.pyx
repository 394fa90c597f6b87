"""What comes in on a connection: reads with the kernel's stamp, TLS, which protocol it is, requests.

Arrival is the kernel's stamp of the read that completed a request, and answers are timed from it.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memmove, memset
from posix.time cimport timespec
from posix.uio cimport iovec

from llmgen.clock cimport clock_offset, monotonic_ns
from llmgen.simulator.http2 cimport http2_announce, http2_begin, http2_flush, http2_take
from llmgen.simulator.request cimport MAX_HEAD_BYTES, Chunks, RequestHead, chunks_read, head_read, head_size
from llmgen.simulator.route cimport refuse, route
from llmgen.simulator.server cimport (
    BACKLOG_BYTES,
    FAULT_CANCELLED,
    FAULT_NONE,
    LIST_IDLE,
    PLAIN_BYTES,
    PROTOCOL_HTTP1,
    PROTOCOL_HTTP2,
    PROTOCOL_UNKNOWN,
    READ_BYTES,
    Conn,
    Server,
    Stream,
    conn_close,
    conn_flush,
    conn_keep,
    conn_reset,
    conn_send,
    conn_watch,
    heap_push,
    list_push,
    list_remove,
    stream_end,
    stream_new,
    streams_unpark,
    tls_drain,
)
from llmgen.simulator.tls cimport (
    SECURED_FAILED,
    SECURED_HTTP1,
    SECURED_HTTP2,
    SECURED_NOT_YET,
    Secured,
    session_give,
    session_read,
)

cdef extern from "sys/socket.h" nogil:
    enum:
        SOL_SOCKET
        SCM_TIMESTAMPNS
        MSG_DONTWAIT
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
    struct cmsghdr:
        int cmsg_level
        int cmsg_type
    cmsghdr* CMSG_FIRSTHDR(msghdr* message)
    unsigned char* CMSG_DATA(cmsghdr* control)
    ssize_t recvmsg(int fd, msghdr* message, int flags)

cdef enum:
    OFFSET_NS = 1000000          # age at which the offset of the kernel's clock is renewed
    PIPELINED_BYTES = 65536      # kept of further requests while an answer runs; then the connection is not read from


cdef ssize_t receive(Server* v, int fd, void* buffer, size_t size, int64_t* stamp) noexcept nogil:
    """One recvmsg; `stamp` gets the kernel's stamp as monotonic ns, or the present time if there is none."""
    cdef msghdr message
    cdef iovec piece
    cdef uint8_t control[64]
    cdef cmsghdr* header
    cdef timespec* t
    cdef ssize_t got
    cdef int64_t now, stamped
    piece.iov_base = buffer
    piece.iov_len = size
    memset(&message, 0, sizeof(message))
    message.msg_iov = &piece
    message.msg_iovlen = 1
    message.msg_control = control
    message.msg_controllen = sizeof(control)
    got = recvmsg(fd, &message, MSG_DONTWAIT)
    if got <= 0:
        return got
    now = monotonic_ns()
    stamp[0] = now
    header = CMSG_FIRSTHDR(&message)
    if header != NULL and header.cmsg_level == SOL_SOCKET and header.cmsg_type == SCM_TIMESTAMPNS:
        if now - v.offset_at > OFFSET_NS:
            clock_offset(&v.offset)
            v.offset_at = now
        t = <timespec*>CMSG_DATA(header)
        stamped = <int64_t>t.tv_sec * 1000000000 + t.tv_nsec + v.offset.ns
        if stamped < now:
            stamp[0] = stamped
    return got


cdef ssize_t request_read(Server* v, Conn* conn, uint8_t* data, size_t size, bint kept) noexcept nogil:
    """Takes up one request from `data`: its bytes, 0 if it is not whole, -1 if the connection takes no more.

    A chunked body is decoded in place, which only works in the connection's own buffer (`kept`).
    """
    cdef RequestHead head        # what a refusal looks at, while there is no better one
    cdef ssize_t found
    cdef size_t used, body_size
    cdef int status
    memset(&head, 0, sizeof(head))
    if conn.head == 0:
        found = head_size(data, size, conn.scanned)
        conn.scanned = size
        if found > MAX_HEAD_BYTES or (found < 0 and size > MAX_HEAD_BYTES):
            refuse(v, conn, &head, 431, b"the head is too large")
            return -1
        if found < 0:
            return 0
        status = head_read(data, found, &head)
        if status != 0:
            head.keep_alive = False
            refuse(v, conn, &head, status, b"malformed request")
            return -1
        conn.head = found
        conn.chunked = head.chunked
        conn.need = found + (head.content_length if head.content_length > 0 else 0)
        if head.expect and not head.http10 and size == conn.head:
            if conn_send(v, conn, <const uint8_t*>b"HTTP/1.1 100 Continue\r\n\r\n", 25) < 0:
                return -1
    elif not conn.chunked and size < conn.need:
        return 0
    else:
        head_read(data, conn.head, &head)
    if conn.chunked:
        if not kept:
            return 0
        status = chunks_read(data + conn.head, size - conn.head, &conn.chunks)
        if status < 0:
            head.keep_alive = False
            refuse(v, conn, &head, -status, b"malformed chunked body")
            return -1
        if status == 0:
            return 0
        used = conn.head + conn.chunks.at
        body_size = conn.chunks.size
    else:
        if size < conn.need:
            return 0
        used = conn.need
        body_size = conn.need - conn.head
    data += conn.head
    conn.requests += 1
    conn.head = conn.need = conn.scanned = 0
    conn.chunked = False
    memset(&conn.chunks, 0, sizeof(Chunks))
    return used if route(v, conn, &head, data, body_size) else -1


cdef ssize_t requests_read(Server* v, Conn* conn, uint8_t* data, size_t size, bint kept) noexcept nogil:
    """Takes up requests until one is being answered: bytes used, -1 if the connection takes no more."""
    cdef size_t at = 0
    cdef ssize_t used
    while at < size and conn.streams == NULL:
        used = request_read(v, conn, data + at, size - at, kept)
        if used < 0:
            return -1
        if used == 0:
            break
        at += used
    return at


cdef void kept_read(Server* v, Conn* conn) noexcept nogil:
    """Goes on with the bytes that the connection has kept."""
    cdef ssize_t used = requests_read(v, conn, conn.carry, conn.carry_size, True)
    if used < 0:
        conn.carry_size = 0
    elif used > 0:
        memmove(conn.carry, conn.carry + used, conn.carry_size - used)
        conn.carry_size -= used
    if conn.carry_size == 0 and conn.carry_capacity > PIPELINED_BYTES:
        free(conn.carry)
        conn.carry = NULL
        conn.carry_capacity = 0


cdef void settle(Server* v, Conn* conn) noexcept nogil:
    """After input or an answer: idle list, reading paused or not."""
    cdef bint paused
    if conn.dead or conn.ending:
        return
    if conn.streams == NULL and conn.carry_size == 0:
        list_push(v, conn, LIST_IDLE, monotonic_ns())
    else:
        list_remove(v, conn)
    paused = conn.streams != NULL and conn.carry_size > PIPELINED_BYTES
    if paused != conn.paused and conn.multiplex == NULL:
        conn.paused = paused
        conn_watch(v, conn)


cdef void http2_start(Server* v, Conn* conn) noexcept nogil:
    """Begins HTTP/2; with slow settings nothing is read or said before they are due."""
    cdef Stream* errand
    if not http2_begin(v, conn):
        conn_reset(v, conn, FAULT_CANCELLED)
        return
    if v.slow_settings_ns == 0:
        http2_announce(v, conn)
        return
    errand = stream_new(v, conn)
    if errand == NULL:
        conn_reset(v, conn, FAULT_CANCELLED)
        return
    errand.errand = True
    errand.due = monotonic_ns() + v.slow_settings_ns
    conn.paused = True
    heap_push(v, errand)
    conn_watch(v, conn)


cdef void settings_due(Server* v, Stream* errand) noexcept nogil:
    """The slow settings' time: they are sent, and what the client has said meanwhile is taken up."""
    cdef Conn* conn = errand.conn
    stream_end(v, errand, FAULT_NONE)
    http2_announce(v, conn)
    conn.paused = False
    conn_watch(v, conn)
    if conn.carry_size > 0:
        http2_take(v, conn, conn.carry, conn.carry_size)
        conn.carry_size = 0


cdef bint identify(Server* v, Conn* conn, const uint8_t* data, size_t size) noexcept nogil:
    """Which protocol the first bytes are of; False: too few to tell. ALPN has told already on TLS."""
    cdef size_t n = size if size < 4 else 4
    if v.http1 and (not v.http2 or memcmp(data, b"PRI ", n) != 0):
        conn.protocol = PROTOCOL_HTTP1
    elif v.http1 and n < 4:
        return False
    else:
        http2_start(v, conn)
    return True


cdef void take(Server* v, Conn* conn, uint8_t* data, size_t size) noexcept nogil:
    """Plain bytes of a read, which do not lie in the connection's own buffer."""
    cdef ssize_t used
    if conn.protocol == PROTOCOL_UNKNOWN:
        if conn.carry_size == 0 and not identify(v, conn, data, size):
            if not conn_keep(conn, data, size, 0):
                conn_reset(v, conn, FAULT_CANCELLED)
            return
        if conn.carry_size > 0:
            if not conn_keep(conn, data, size, 0):
                conn_reset(v, conn, FAULT_CANCELLED)
                return
            if not identify(v, conn, conn.carry, conn.carry_size):
                return
            if conn.protocol == PROTOCOL_HTTP1:
                kept_read(v, conn)
            elif not conn.dead and not conn.paused:
                http2_take(v, conn, conn.carry, conn.carry_size)
                conn.carry_size = 0
            return
    if conn.dead:
        return
    if conn.protocol == PROTOCOL_HTTP2:
        if conn.paused:
            if not conn_keep(conn, data, size, 0):
                conn_reset(v, conn, FAULT_CANCELLED)
        else:
            http2_take(v, conn, data, size)
    elif conn.carry_size > 0:
        if conn_keep(conn, data, size, conn.need):
            kept_read(v, conn)
        else:
            conn_reset(v, conn, FAULT_CANCELLED)
    else:
        used = requests_read(v, conn, data, size, False)
        if 0 <= used < <ssize_t>size:
            if not conn_keep(conn, data + used, size - used, conn.need):
                conn_reset(v, conn, FAULT_CANCELLED)
            elif conn.chunked:
                kept_read(v, conn)


cdef void take_tls(Server* v, Conn* conn, const uint8_t* data, size_t size) noexcept nogil:
    """Encrypted bytes of a read: the handshake, or records whose plain bytes are taken up one after the other."""
    cdef Secured secured = session_give(conn.tls, data, size)
    cdef ssize_t got
    if tls_drain(v, conn) < 0:               # also when it failed: the alert tells the peer why
        return
    if secured == SECURED_FAILED:
        conn_close(v, conn, FAULT_CANCELLED)
        return
    if secured == SECURED_NOT_YET:
        return
    if conn.protocol == PROTOCOL_UNKNOWN and conn.requests == 0:
        if secured == SECURED_HTTP2:
            http2_start(v, conn)
        elif secured == SECURED_HTTP1:
            conn.protocol = PROTOCOL_HTTP1
    while not conn.dead and not conn.ending:
        got = session_read(conn.tls, v.plain, PLAIN_BYTES)
        if got <= 0:
            if tls_drain(v, conn) >= 0 and got < 0:
                conn_close(v, conn, FAULT_CANCELLED)
            return
        take(v, conn, v.plain, got)


cdef void read_ready(Server* v, Conn* conn) noexcept nogil:
    cdef uint8_t* target = v.read_buffer
    cdef size_t room = READ_BYTES
    cdef ssize_t got
    if conn.tls == NULL and conn.carry_size > 0 and conn.need > conn.carry_size and conn.carry_capacity >= conn.need:
        target = conn.carry + conn.carry_size        # a large body goes straight to its place
        room = conn.carry_capacity - conn.carry_size
    got = receive(v, conn.fd, target, room, &conn.stamp)
    if got < 0 and (errno == EAGAIN or errno == EINTR):
        return
    if got <= 0:
        conn_close(v, conn, FAULT_CANCELLED)
        return
    if conn.ending or conn.muted:
        return                                       # what comes behind our end is of no interest
    if target != v.read_buffer:
        conn.carry_size += got
        kept_read(v, conn)
    elif conn.tls != NULL:
        take_tls(v, conn, target, got)
    else:
        take(v, conn, target, got)
    settle(v, conn)


cdef void write_ready(Server* v, Conn* conn) noexcept nogil:
    if conn_flush(v, conn) < 0:
        return
    if conn.multiplex != NULL and not conn.ending:
        http2_flush(v, conn)
    elif conn.parked and conn.out_size - conn.out_at <= BACKLOG_BYTES:
        streams_unpark(v, conn)
