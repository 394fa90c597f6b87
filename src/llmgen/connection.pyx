"""One descriptor and the protocol on it.

Time is taken here and nowhere later: `recvmsg` brings the kernel's stamp (SO_TIMESTAMPNS, the time of the last byte that
the read returns), and one monotonic read follows it. Level-triggered, one read a readiness, never until EAGAIN: what is left
in the socket comes with the next batch, after the other connections had their turn and after what is due was sent.
"""

from libc.errno cimport (
    EADDRINUSE, EADDRNOTAVAIL, EAGAIN, ECONNREFUSED, ECONNRESET, EINPROGRESS, EINTR, EMFILE, ENFILE, ENOBUFS,
    ENOENT, ENOMEM, ETIMEDOUT, errno)
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from posix.time cimport timespec
from posix.uio cimport iovec

from llmgen.address cimport setsockopt, sockaddr, socklen_t, sources_bind
from llmgen.channel cimport (
    channel_agreed,
    channel_ended_well,
    channel_free,
    channel_give,
    channel_handshake,
    channel_open,
    channel_pending,
    channel_read,
    channel_reason,
    channel_resumed,
    channel_sent,
    channel_write,
)
from llmgen.clock cimport clock_offset, monotonic_ns
from llmgen.exchange cimport (
    EXCHANGE_ANSWERING,
    EXCHANGE_SENDING,
    FLAG_REUSED,
    STATUS_CLIENT_LIMIT,
    STATUS_CONNECT_ERROR,
    STATUS_CONNECT_REFUSED,
    STATUS_CONNECT_TIMEOUT,
    STATUS_EOF,
    STATUS_PROTOCOL_ERROR,
    STATUS_RESET,
    STATUS_TLS_ERROR,
    Answers,
    Exchange,
)
from llmgen.recorder cimport HIST_DRAIN_LAG, RequestRow, records_observe
from llmgen.tls cimport TLS_CLOSED, TLS_DONE, TLS_ERROR
from llmgen.twin cimport (
    twin_cancel,
    twin_capacity,
    twin_eof,
    twin_feed,
    twin_free,
    twin_leaving,
    twin_new,
    twin_pending,
    twin_ready,
    twin_reason,
    twin_sent,
    twin_submit,
)
from llmgen.wire.http1 cimport HTTP1_OK, http1_begin, http1_eof, http1_feed, http1_free, http1_init, http1_reason
from llmgen.wire.http2 cimport (
    HTTP2_CLIENT,
    HTTP2_OK,
    Http2,
    http2_cancel,
    http2_capacity,
    http2_eof,
    http2_free,
    http2_init,
    http2_open,
    http2_pending,
    http2_read,
    http2_reason,
    http2_sent,
    http2_submit,
)
from llmgen.wire.sink cimport END_EOF, END_RESET


cdef extern from "<sys/socket.h>" nogil:
    cdef struct msghdr:
        void* msg_name
        socklen_t msg_namelen
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags
    cdef struct cmsghdr:
        int cmsg_level
        int cmsg_type
    enum: SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC, SOL_SOCKET, SO_ERROR, SO_TIMESTAMPNS, SCM_TIMESTAMPNS, MSG_NOSIGNAL, AF_UNIX
    int socket(int, int, int)
    int connect(int, const sockaddr*, socklen_t)
    int getsockopt(int, int, int, void*, socklen_t*)
    ssize_t recvmsg(int, msghdr*, int)
    ssize_t sendmsg(int, const msghdr*, int)
    cmsghdr* CMSG_FIRSTHDR(msghdr*)
    unsigned char* CMSG_DATA(cmsghdr*)

cdef extern from "<netinet/in.h>" nogil:
    enum: IPPROTO_TCP

cdef extern from "<netinet/tcp.h>" nogil:
    enum: TCP_NODELAY, TCP_INFO
    cdef struct tcp_info:
        uint32_t tcpi_total_retrans

cdef extern from "<sys/epoll.h>" nogil:
    enum: EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLL_CTL_ADD, EPOLL_CTL_MOD
    ctypedef union epoll_data_t:
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_ctl(int, int, int, epoll_event*)

cdef extern from "<unistd.h>" nogil:
    int close(int)


cdef enum:
    STEP_NS = 5000000            # CLOCK_REALTIME moving 5 ms between two batches is a step, not slewing (at most 500 ppm)
    MOST_PARTS = 64              # iovecs a sendmsg
    CONTROL_BYTES = 64           # one SCM_TIMESTAMPNS message
    RECORD_BYTES = 16384         # plain bytes of a TLS record at most (RFC 8446, 5.1)


cdef void network_clock(Network* n) noexcept nogil:
    """Renews the kernel clock's offset, once a batch."""
    cdef int64_t before = n.offset.ns
    if clock_offset(&n.offset) and before != 0 and not -STEP_NS < n.offset.ns - before < STEP_NS:
        n.clock_steps += 1


# -- opening ------------------------------------------------------------------------------------------------------------

cdef int lost(Connection* c, int status, const char* reason) noexcept nogil:
    c.status = <uint8_t>status
    c.reason = reason
    return CONN_LOST


cdef int lost_connecting(Connection* c, int error) noexcept nogil:
    if error == ECONNREFUSED or error == ENOENT:
        return lost(c, STATUS_CONNECT_REFUSED, "connection refused")
    if error == ETIMEDOUT:
        return lost(c, STATUS_CONNECT_TIMEOUT, "connect timed out")
    if error == EMFILE or error == ENFILE:
        return lost(c, STATUS_CLIENT_LIMIT, "no file descriptors are left (ulimit -n)")
    if error == EADDRNOTAVAIL or error == EADDRINUSE:
        return lost(c, STATUS_CLIENT_LIMIT, "no local ports are left")
    if error == ENOBUFS or error == ENOMEM:
        return lost(c, STATUS_CLIENT_LIMIT, "no memory for sockets")
    return lost(c, STATUS_CONNECT_ERROR, "connect failed")


cdef bint watch(Network* n, Connection* c, int operation, uint32_t events) noexcept nogil:
    cdef epoll_event e
    e.events = events
    e.data.u64 = (<uint64_t>c.generation << 32) | c.slot
    c.wants_write = (events & EPOLLOUT) != 0
    return epoll_ctl(n.epoll, operation, c.fd, &e) == 0


cdef int connection_open(Network* n, Connection* c, const Address* address) noexcept nogil:
    """Starts to connect. The caller has set slot, generation, target, protocol, secure and number."""
    cdef int on = 1
    cdef int family = address.storage.ss_family
    c.fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    c.connect_start = monotonic_ns()
    c.connected = c.secured = c.last_read = c.last_stamp = -1
    c.fresh = True
    if c.fd < 0:
        return lost_connecting(c, errno)
    if c.fd >= n.most_descriptors:
        return lost_connecting(c, EMFILE)
    if family != AF_UNIX:
        setsockopt(c.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on))
    setsockopt(c.fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof(on))
    c.state = CONN_CONNECTING
    if n.sources.count and not sources_bind(&n.sources, c.fd, family):
        return lost_connecting(c, errno)
    if connect(c.fd, <const sockaddr*>&address.storage, address.size) != 0 and errno != EINPROGRESS:
        # a unix socket whose backlog is full says EAGAIN
        return lost_connecting(c, errno)
    if not watch(n, c, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT):
        return lost(c, STATUS_CLIENT_LIMIT, "epoll takes no more descriptors")
    return CONN_NOTHING


cdef int on_connected(Network* n, Connection* c) noexcept nogil:
    cdef int error = 0
    cdef socklen_t size = sizeof(error)
    cdef tcp_info info
    if getsockopt(c.fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0:
        error = errno
    if error:
        return lost_connecting(c, error)
    c.connected = monotonic_ns()
    size = sizeof(info)
    memset(&info, 0, sizeof(info))
    if getsockopt(c.fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0:
        c.retransmits = <uint8_t>(info.tcpi_total_retrans if info.tcpi_total_retrans < 255 else 255)
    watch(n, c, EPOLL_CTL_MOD, EPOLLIN)
    return tls_start(n, c) if c.secure else start_protocol(n, c)


cdef int start_protocol(Network* n, Connection* c) noexcept nogil:
    """The byte stream is there (connected, or secured): http1 is open, http2 says hello."""
    if c.protocol == 1:
        http1_init(&c.http1, &n.sink, n.max_head_bytes)
        c.state = CONN_OPEN
        return CONN_OPENED
    c.state = CONN_SETTLING
    if n.twin:
        c.twin = twin_new()
        return connection_flush(n, c) if c.twin != NULL else lost(c, STATUS_CLIENT_LIMIT, "out of memory")
    c.http2 = <Http2*>calloc(1, sizeof(Http2))
    if c.http2 == NULL or http2_init(c.http2, &n.sink, HTTP2_CLIENT, &n.http2_options) != HTTP2_OK:
        return lost(c, STATUS_CLIENT_LIMIT, "out of memory")
    http2_open(c.http2)
    return connection_flush(n, c)


# -- reading ------------------------------------------------------------------------------------------------------------

cdef ssize_t receive(Network* n, Connection* c) noexcept nogil:
    """One recvmsg into n.buffer; sets answers.read. Bytes, 0 at the end, -errno."""
    cdef msghdr message
    cdef iovec part
    cdef uint8_t control[CONTROL_BYTES]
    cdef cmsghdr* head
    cdef timespec* stamp
    cdef int64_t told
    cdef ssize_t size
    cdef Answers* a = n.answers
    part.iov_base = n.buffer
    part.iov_len = n.buffer_bytes
    message.msg_name = NULL
    message.msg_namelen = 0
    message.msg_iov = &part
    message.msg_iovlen = 1
    message.msg_control = control
    message.msg_controllen = CONTROL_BYTES
    message.msg_flags = 0
    if c.exchange != NULL:
        prefetch(c.exchange.row, sizeof(RequestRow))
    size = recvmsg(c.fd, &message, 0)
    if size < 0:
        return -errno
    n.now = a.read.t_user = monotonic_ns()
    a.read.user_stamped = True
    if message.msg_controllen >= sizeof(cmsghdr):
        head = CMSG_FIRSTHDR(&message)
        if head != NULL and head.cmsg_level == SOL_SOCKET and head.cmsg_type == SCM_TIMESTAMPNS:
            stamp = <timespec*>CMSG_DATA(head)
            told = <int64_t>stamp.tv_sec * 1000000000 + stamp.tv_nsec
            a.read.t = told + n.offset.ns
            if n.kernel_stamps:
                a.read.user_stamped = False
                if told == c.last_stamp or a.read.t < c.last_read:
                    # one coalesced segment read in parts has one stamp, which the offset of another batch must not move
                    a.read.t = c.last_read
                c.last_stamp = told
            if a.read.t > a.read.t_user:
                a.read.t = a.read.t_user    # the offset's own uncertainty
            # with --stamps user too: then it is in every token's time. Handshakes and the tickets after them are no tokens
            if c.state == CONN_OPEN and (c.protocol != 1 or c.exchange != NULL):
                records_observe(a.records, 0, HIST_DRAIN_LAG, a.read.t_user - a.read.t, 1)
    if a.read.user_stamped:
        a.read.t = a.read.t_user
    n.reads += 1
    a.read.number = n.reads
    a.read.before = c.last_read
    a.read.filled = <size_t>size == n.buffer_bytes
    c.last_read = a.read.t
    return size


cdef int on_readable(Network* n, Connection* c) noexcept nogil:
    cdef ssize_t size = receive(n, c)
    if size > 0:
        return tls_feed(n, c, <size_t>size) if c.secure else feed(n, c, n.buffer, <size_t>size)
    if size == 0:
        return on_eof(n, c)
    if size == -EAGAIN or size == -EINTR:
        return CONN_NOTHING
    return on_reset(n, c)


cdef int feed(Network* n, Connection* c, const uint8_t* data, size_t size) noexcept nogil:
    """Plain bytes of one read to the protocol."""
    cdef int outcome = CONN_NOTHING
    if c.protocol == 1:
        c.fresh = False
        if http1_feed(&c.http1, data, size) != HTTP1_OK:
            return lost(c, STATUS_PROTOCOL_ERROR, http1_reason(&c.http1))
        return CONN_NOTHING
    if c.twin != NULL:
        if twin_feed(c.twin, &n.sink, data, size) != 0:
            connection_flush(n, c)
            twin_reason(c.twin, c.reason_text, sizeof(c.reason_text))
            return lost(c, STATUS_PROTOCOL_ERROR, c.reason_text)
        return settled(n, c, twin_ready(c.twin))
    c.http2.now_ns = n.answers.read.t
    if http2_read(c.http2, data, size) != HTTP2_OK:
        connection_flush(n, c)               # the GOAWAY that tells the peer what it did
        return lost(c, STATUS_PROTOCOL_ERROR, http2_reason(c.http2))
    return outcome | settled(n, c, c.http2.ready)


cdef int64_t after_connect(Network* n, Connection* c) noexcept nogil:
    """The read's stamp; a peer that speaks first may be in the kernel before we see that we are connected."""
    return n.answers.read.t if n.answers.read.t > c.connected else c.connected


cdef int settled(Network* n, Connection* c, bint ready) noexcept nogil:
    """http2, after a read: the connection is open once the peer's SETTINGS are there."""
    cdef int outcome = CONN_NOTHING
    if c.state == CONN_SETTLING and ready:
        c.state = CONN_OPEN
        c.secured = after_connect(n, c)
        outcome |= CONN_OPENED
    return outcome


cdef void end_exchanges(Network* n, Connection* c, int how) noexcept nogil:
    """The byte stream is over in the middle: whatever was under way has ended like this (http2: with the end)."""
    if c.protocol == 1:
        if c.exchange != NULL and c.state == CONN_OPEN:
            n.sink.on_end(n.sink.ctx, <uint64_t>c.exchange, how, 0)
    elif c.twin != NULL:
        twin_eof(c.twin, &n.sink)
    elif c.http2 != NULL:
        http2_eof(c.http2)


cdef int on_eof(Network* n, Connection* c) noexcept nogil:
    if c.secure and not channel_ended_well(c.tls):
        if c.state == CONN_SECURING:
            return lost(c, STATUS_TLS_ERROR, "the server closed the connection during the TLS handshake")
        # without close_notify an answer that the end delimits may have been cut by anybody
        end_exchanges(n, c, END_EOF)
        return lost(c, STATUS_EOF, "the connection ended without TLS close_notify")
    if c.protocol == 1:
        if c.state == CONN_OPEN:
            http1_eof(&c.http1)
    elif c.http2 != NULL:
        if http2_eof(c.http2) != HTTP2_OK:
            return lost(c, STATUS_PROTOCOL_ERROR, http2_reason(c.http2))
    else:
        end_exchanges(n, c, END_EOF)
    return lost(c, STATUS_EOF, "the server closed the connection")


cdef int on_reset(Network* n, Connection* c) noexcept nogil:
    """ECONNRESET and its like: an answer that is delimited by the end of the connection is not complete either."""
    n.now = n.answers.read.t_user = n.answers.read.t = monotonic_ns()
    end_exchanges(n, c, END_RESET)
    return lost(c, STATUS_RESET, "the connection was reset")


cdef int connection_event(Network* n, Connection* c, uint32_t events) noexcept nogil:
    """What epoll reported for the connection. Outcome bits."""
    cdef int outcome = CONN_NOTHING
    if c.state == CONN_CONNECTING:
        if not events & (EPOLLOUT | EPOLLERR | EPOLLHUP):
            return CONN_NOTHING
        return on_connected(n, c)
    if events & (EPOLLIN | EPOLLERR | EPOLLHUP):
        outcome = on_readable(n, c)
    if events & EPOLLOUT and not outcome & CONN_LOST:
        outcome |= connection_flush(n, c)
    return outcome


# -- writing ------------------------------------------------------------------------------------------------------------

cdef ssize_t transmit(Network* n, Connection* c, iovec* parts, int count) noexcept nogil:
    """One sendmsg; bytes taken, 0 if the socket is full, -errno."""
    cdef msghdr message
    cdef ssize_t size
    memset(&message, 0, sizeof(message))
    message.msg_iov = parts
    message.msg_iovlen = <size_t>(count if count < MOST_PARTS else MOST_PARTS)
    while True:
        size = sendmsg(c.fd, &message, MSG_NOSIGNAL)
        if size >= 0:
            return size
        if errno != EINTR:
            return 0 if errno == EAGAIN else -errno


cdef int failed_write(Network* n, Connection* c, ssize_t error) noexcept nogil:
    """The peer is gone. What it sent before (an early answer, say 413) may still lie in the socket: read it first."""
    cdef int outcome = CONN_NOTHING
    cdef int i
    for i in range(64):
        outcome = on_readable(n, c)
        if outcome & CONN_LOST:
            return outcome
    return on_reset(n, c)


cdef void take_up(Network* n, Connection* c, Exchange* x) noexcept nogil:
    """The exchange is this connection's now."""
    x.connection = c
    x.state = EXCHANGE_SENDING
    x.active = n.now
    if c.requests:
        x.row.flags |= FLAG_REUSED
    c.requests += 1
    c.streams += 1


cdef int connection_send(Network* n, Connection* c, Exchange* x, iovec* parts, int count) noexcept nogil:
    """http1: the head and the body of a request. `parts` is used up; the body's bytes must stay until row.sent."""
    cdef ssize_t size
    cdef int at = 0
    c.exchange = x
    take_up(n, c, x)
    http1_begin(&c.http1, <uint64_t>x, False)
    x.row.send = monotonic_ns()
    if c.secure:
        return connection_flush(n, c) if channel_write(c.tls, parts, count) == TLS_DONE else tls_lost(c)
    while at < count:
        size = transmit(n, c, parts + at, count - at)
        if size < 0:
            return failed_write(n, c, size)
        if size == 0:
            return keep_rest(n, c, parts + at, count - at, at == 0)
        at = advance(parts, at, count, <size_t>size)
    n.now = x.row.sent = monotonic_ns()
    x.state = EXCHANGE_ANSWERING
    return CONN_NOTHING


cdef int advance(iovec* parts, int at, int count, size_t size) noexcept nogil:
    """Skips `size` bytes of the parts; the new first part."""
    while at < count and size >= parts[at].iov_len:
        size -= parts[at].iov_len
        at += 1
    if at < count and size:
        parts[at].iov_base = <uint8_t*>parts[at].iov_base + size
        parts[at].iov_len -= size
    return at


cdef int keep_rest(Network* n, Connection* c, iovec* parts, int count, bint with_head) noexcept nogil:
    """The socket is full: the rest waits for EPOLLOUT. The head lies in the core's scratch and is copied."""
    c.out = <iovec*>malloc(<size_t>count * sizeof(iovec))
    if c.out == NULL:
        return lost(c, STATUS_CLIENT_LIMIT, "out of memory")
    memcpy(c.out, parts, <size_t>count * sizeof(iovec))
    if with_head:
        c.out_head = <uint8_t*>malloc(parts[0].iov_len)
        if c.out_head == NULL:
            return lost(c, STATUS_CLIENT_LIMIT, "out of memory")
        memcpy(c.out_head, parts[0].iov_base, parts[0].iov_len)
        c.out[0].iov_base = c.out_head
    c.out_count = <uint32_t>count
    c.out_at = 0
    if not c.wants_write:
        watch(n, c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT)
    return CONN_NOTHING


cdef void drop_rest(Connection* c) noexcept nogil:
    free(c.out)
    free(c.out_head)
    c.out = NULL
    c.out_head = NULL
    c.out_count = c.out_at = 0


cdef int connection_submit(
    Network* n, Connection* c, Exchange* x, const uint8_t* block, size_t block_size,
    const iovec* body, int count, uint64_t body_bytes) noexcept nogil:
    """http2: queues a request; connection_flush writes it. 0, or a negative code of http2_submit."""
    cdef int32_t stream
    if c.twin != NULL:
        stream = twin_submit(c.twin, <uint64_t>x, block, block_size, body, count)
    else:
        stream = http2_submit(c.http2, <uint64_t>x, block, block_size, body, count, body_bytes, 0)
    if stream < 0:
        return stream
    x.stream = <uint32_t>stream
    take_up(n, c, x)
    x.send_next = c.unsent
    c.unsent = x
    return 0


cdef int connection_flush(Network* n, Connection* c) noexcept nogil:
    """Writes what is pending as far as the socket takes it; asks for EPOLLOUT if something is left."""
    cdef int outcome = CONN_NOTHING
    cdef bint left
    cdef iovec part
    if c.secure:
        outcome = flush_tls(n, c)
        left = outcome == CONN_NOTHING and (channel_pending(c.tls, &part) or pending_http2(c, &part, 1) > 0)
    elif c.protocol == 2:
        outcome = flush_http2(n, c)
        left = outcome == CONN_NOTHING and pending_http2(c, &part, 1) > 0
    else:
        outcome = flush_http1(n, c)
        left = c.out != NULL
    if outcome == CONN_NOTHING and left != c.wants_write:
        watch(n, c, EPOLL_CTL_MOD, (EPOLLIN | EPOLLOUT) if left else EPOLLIN)
    return outcome


cdef int flush_http1(Network* n, Connection* c) noexcept nogil:
    cdef ssize_t size
    cdef int at = <int>c.out_at
    if c.out == NULL:
        return CONN_NOTHING
    while at < <int>c.out_count:
        size = transmit(n, c, c.out + at, <int>c.out_count - at)
        if size < 0:
            return failed_write(n, c, size)
        if size == 0:
            return CONN_NOTHING
        at = advance(c.out, at, <int>c.out_count, <size_t>size)
        c.out_at = <uint32_t>at
    drop_rest(c)
    if c.exchange != NULL and c.exchange.state == EXCHANGE_SENDING:
        n.now = c.exchange.row.sent = monotonic_ns()
        c.exchange.state = EXCHANGE_ANSWERING
    return CONN_NOTHING


cdef void stamp_sends(Connection* c) noexcept nogil:
    """http2: the requests that the next write carries."""
    cdef int64_t now
    cdef Exchange* x = c.unsent
    if x == NULL:
        return
    now = monotonic_ns()
    while x != NULL:
        x.row.send = now
        x = x.send_next
    c.unsent = NULL


cdef int pending_http2(Connection* c, iovec* parts, int most) noexcept nogil:
    """What http2 wants written: at most `most` entries in `parts`; 0 on http1."""
    if c.twin != NULL:
        return 1 if twin_pending(c.twin, parts) else 0
    return http2_pending(c.http2, parts, most) if c.http2 != NULL else 0


cdef void sent_http2(Network* n, Connection* c, size_t size) noexcept nogil:
    if c.twin != NULL:
        twin_sent(c.twin, &n.sink, size)
        return
    c.http2.now_ns = n.now
    http2_sent(c.http2, size)


cdef int flush_http2(Network* n, Connection* c) noexcept nogil:
    cdef iovec parts[MOST_PARTS]
    cdef int count
    cdef ssize_t size
    stamp_sends(c)
    while True:
        count = pending_http2(c, parts, MOST_PARTS)
        if count == 0:
            return CONN_NOTHING
        size = transmit(n, c, parts, count)
        if size < 0:
            return failed_write(n, c, size)
        if size == 0:
            return CONN_NOTHING
        n.now = n.answers.written = monotonic_ns()
        sent_http2(n, c, <size_t>size)


# -- TLS ----------------------------------------------------------------------------------------------------------------

cdef int tls_lost(Connection* c) noexcept nogil:
    channel_reason(c.tls, c.reason_text, sizeof(c.reason_text))
    return lost(c, STATUS_TLS_ERROR, c.reason_text)


cdef int tls_start(Network* n, Connection* c) noexcept nogil:
    c.tls = channel_open(n.endpoints[c.target])
    if c.tls == NULL:
        return lost(c, STATUS_TLS_ERROR, "TLS could not be set up")
    c.state = CONN_SECURING
    if channel_handshake(c.tls) == TLS_ERROR:
        return tls_lost(c)
    return connection_flush(n, c)


cdef int tls_shake(Network* n, Connection* c) noexcept nogil:
    """Goes on with the handshake; the protocol starts when it is done."""
    cdef int result = channel_handshake(c.tls)
    if result == TLS_ERROR:
        connection_flush(n, c)               # the alert that tells the peer
        return tls_lost(c)
    if result != TLS_DONE:
        return connection_flush(n, c)
    c.secured = after_connect(n, c)
    n.tls_handshakes += 1
    n.tls_resumed += channel_resumed(c.tls)
    if not channel_agreed(c.tls, c.protocol):
        return lost(c, STATUS_TLS_ERROR, "the server did not agree on the protocol (ALPN)")
    return start_protocol(n, c) | connection_flush(n, c)


cdef int tls_feed(Network* n, Connection* c, size_t size) noexcept nogil:
    """n.buffer holds encrypted bytes of one read: every record in it carries this read's stamp."""
    cdef int outcome = CONN_NOTHING
    cdef ssize_t plain
    if channel_give(c.tls, n.buffer, size) != 0:
        return lost(c, STATUS_CLIENT_LIMIT, "out of memory")
    if c.state == CONN_SECURING:
        outcome = tls_shake(n, c)
        if outcome & CONN_LOST or c.state == CONN_SECURING:
            return outcome
    while True:
        plain = channel_read(c.tls, n.plain, RECORD_BYTES)
        if plain <= 0:
            break
        outcome |= feed(n, c, n.plain, <size_t>plain)
        if outcome & CONN_LOST:
            return outcome
    if plain == TLS_ERROR:
        connection_flush(n, c)
        end_exchanges(n, c, END_EOF)
        return outcome | tls_lost(c)
    if plain == TLS_CLOSED:
        return outcome | on_eof(n, c)
    return outcome | connection_flush(n, c)


cdef int flush_tls(Network* n, Connection* c) noexcept nogil:
    """Encrypts what http2 has pending and sends; stops when the socket is full, so that nothing piles up encrypted."""
    cdef iovec parts[MOST_PARTS]
    cdef iovec left
    cdef int count
    cdef int outcome
    while True:
        outcome = flush_records(n, c)
        if outcome != CONN_NOTHING or channel_pending(c.tls, &left):
            return outcome
        if c.http2 == NULL and c.twin == NULL:
            break
        stamp_sends(c)
        count = pending_http2(c, parts, MOST_PARTS)
        if count == 0:
            break
        if channel_write(c.tls, parts, count) != TLS_DONE:
            return tls_lost(c)
        outcome = flush_records(n, c)
        if outcome != CONN_NOTHING:
            return outcome
        # after the write: on_sent stamps with its time. What a full socket has left counts as sent, it is encrypted
        sent_http2(n, c, bytes_of(parts, count))
    if c.protocol == 1 and c.exchange != NULL and c.exchange.state == EXCHANGE_SENDING:
        c.exchange.row.sent = n.now
        c.exchange.state = EXCHANGE_ANSWERING
    return CONN_NOTHING


cdef int flush_records(Network* n, Connection* c) noexcept nogil:
    """Sends what is encrypted, as far as the socket takes it."""
    cdef iovec part
    cdef ssize_t size
    while channel_pending(c.tls, &part):
        size = transmit(n, c, &part, 1)
        if size < 0:
            return failed_write(n, c, size)
        if size == 0:
            break
        channel_sent(c.tls, <size_t>size)
    n.now = n.answers.written = monotonic_ns()
    return CONN_NOTHING


cdef size_t bytes_of(const iovec* parts, int count) noexcept nogil:
    cdef size_t total = 0
    cdef int i
    for i in range(count):
        total += parts[i].iov_len
    return total


# -- the end ------------------------------------------------------------------------------------------------------------

cdef void connection_cancel(Connection* c, Exchange* x) noexcept nogil:
    """http2: gives the stream up; its on_end will not come any more."""
    cdef Exchange* u = c.unsent
    if c.twin != NULL:
        twin_cancel(c.twin, <int32_t>x.stream)
    elif c.http2 != NULL:
        http2_cancel(c.http2, <int32_t>x.stream, 8)      # CANCEL
    if u == x:
        c.unsent = x.send_next
        return
    while u != NULL:
        if u.send_next == x:
            u.send_next = x.send_next
            return
        u = u.send_next


cdef uint32_t connection_capacity(Connection* c) noexcept nogil:
    """Requests that may be started on it now."""
    if c.state != CONN_OPEN:
        return 0
    if c.protocol == 1:
        return 1 if c.exchange == NULL else 0
    return twin_capacity(c.twin) if c.twin != NULL else http2_capacity(c.http2)


cdef bint connection_leaving(Connection* c) noexcept nogil:
    """http2: the peer said GOAWAY; what is under way may finish."""
    if c.twin != NULL:
        return twin_leaving(c.twin)
    return c.http2 != NULL and c.http2.goaway_received


cdef void connection_close(Network* n, Connection* c) noexcept nogil:
    """Closes the descriptor and gives all memory back; the struct is the core's."""
    if c.fd >= 0:
        close(c.fd)
        c.fd = -1
    drop_rest(c)
    if c.protocol == 1:
        http1_free(&c.http1)
    if c.http2 != NULL:
        n.flow_blocked_ns += c.http2.blocked_ns
        http2_free(c.http2)
        free(c.http2)
        c.http2 = NULL
    if c.twin != NULL:
        twin_free(c.twin)
        c.twin = NULL
    if c.tls != NULL:
        channel_free(c.tls)
        c.tls = NULL
