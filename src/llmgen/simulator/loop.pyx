"""One sending thread of the simulator: an epoll set and an absolute timerfd of its own, no Python object an event.

A turn of the loop sends what is due (at most EMIT_BATCH), then looks at the sockets (at most READ_BATCH) without
waiting if more is due; so neither sending nor reading can hold up the other. Arrival is the kernel's stamp of the read
that completed a request, and answers are timed from it.
"""

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EAGAIN, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memmove, memset
from posix.time cimport CLOCK_MONOTONIC, itimerspec, timespec
from posix.unistd cimport close, read, write

from llmgen.clock cimport clock_offset, monotonic_ns
from llmgen.simulator.answer cimport model_named
from llmgen.simulator.emit cimport EMIT_AGAIN, EMIT_ERRAND, EMIT_OVER, Emitted, emit
from llmgen.simulator.http2 cimport http2_announce, http2_begin, http2_end, http2_flush, http2_flush_all, http2_take
from llmgen.simulator.request cimport MAX_HEAD_BYTES, Chunks, RequestHead, chunks_read, head_read, head_size
from llmgen.simulator.route cimport refuse, route
from llmgen.simulator.server cimport (
    BACKLOG_BYTES,
    DRAW_MUTE,
    DRAW_REFUSE,
    FAULT_CANCELLED,
    FAULT_NONE,
    FAULT_REFUSE,
    LINGER_NS,
    LIST_IDLE,
    LIST_LINGER,
    MAX_RULES,
    PLAIN_BYTES,
    PROTOCOL_HTTP1,
    PROTOCOL_HTTP2,
    PROTOCOL_UNKNOWN,
    READ_BYTES,
    Conn,
    Samples,
    Server,
    Stream,
    conn_close,
    conn_end,
    conn_flush,
    conn_keep,
    conn_new,
    conn_reset,
    conn_send,
    conn_watch,
    draw,
    graves_clear,
    heap_push,
    heap_take,
    list_push,
    list_remove,
    mixed,
    next_due,
    server_free,
    server_new,
    stream_end,
    stream_free,
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
    session_new,
    session_read,
)
from llmgen.simulator.truthlog cimport TRUTH_BUFFER_ROWS, TRUTH_IDLE_ROWS, truth_flush, truth_open
from llmgen.tls cimport Endpoint

cdef extern from "sys/socket.h" nogil:
    enum:
        SOL_SOCKET
        SO_TIMESTAMPNS
        SCM_TIMESTAMPNS
        SOCK_NONBLOCK
        SOCK_CLOEXEC
        MSG_DONTWAIT
    struct iovec:
        void* iov_base
        size_t iov_len
    struct msghdr:
        void* msg_name
        unsigned int msg_namelen
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cmsghdr* CMSG_FIRSTHDR(msghdr* message)
    unsigned char* CMSG_DATA(cmsghdr* control)
    ssize_t recvmsg(int fd, msghdr* message, int flags)
    int accept4(int fd, void* address, void* size, int flags)

cdef extern from "sys/epoll.h" nogil:
    enum:
        EPOLLIN
        EPOLLOUT
        EPOLLRDHUP
        EPOLLERR
        EPOLLHUP
        EPOLLET
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
    union epoll_data:
        void* ptr
    struct epoll_event:
        uint32_t events
        epoll_data data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event* event)
    int epoll_wait(int epoll, epoll_event* events, int size, int timeout_ms)

cdef extern from "sys/timerfd.h" nogil:
    enum:
        TFD_NONBLOCK
        TFD_CLOEXEC
        TFD_TIMER_ABSTIME
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec* new, itimerspec* old)

cdef extern from "sys/eventfd.h" nogil:
    enum:
        EFD_NONBLOCK
        EFD_CLOEXEC
    int eventfd(unsigned int value, int flags)

cdef enum:
    EMIT_BATCH = 64              # writes between two looks at the sockets: under a millisecond
    SHARED_BATCH = 2048          # streams whose events share a connection's write, which costs far less each
    BATCH_ROWS = 10240           # of the truth log that a batch writes at most: event, role, tail and end of each
    READ_BATCH = 64
    ACCEPT_BATCH = 64
    OFFSET_NS = 1000000          # age at which the offset of the kernel's clock is renewed
    PIPELINED_BYTES = 65536      # kept of further requests while an answer runs; then the connection is not read from
    RETRY_ACCEPT_NS = 50000000   # without free descriptors
    FLUSH_IDLE_NS = 2000000      # the truth log is written out only if nothing is due for so long
    FLUSH_AGE_NS = 1000000000    # or when it has not been for a second: its readers may be waiting


# --- input ---------------------------------------------------------------------------------------------------------

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


# --- accepting -----------------------------------------------------------------------------------------------------

cdef void watch_listener(Server* v, bint on) noexcept nogil:
    cdef epoll_event event
    event.events = EPOLLIN
    event.data.ptr = &v.listener
    epoll_ctl(v.epoll, EPOLL_CTL_ADD if on else EPOLL_CTL_DEL, v.listener, &event)


cdef void accept_ready(Server* v) noexcept nogil:
    """Accepted sockets inherit TCP_NODELAY and SO_TIMESTAMPNS from the listener."""
    cdef epoll_event event
    cdef Conn* conn
    cdef int i, fd
    for i in range(ACCEPT_BATCH):
        fd = accept4(v.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd < 0:
            if errno == EMFILE or errno == ENFILE or errno == ENOBUFS or errno == ENOMEM:
                watch_listener(v, False)
                v.accept_again = monotonic_ns() + RETRY_ACCEPT_NS
            return
        conn = conn_new(v, fd)
        if conn == NULL:
            close(fd)
            return
        if draw(mixed(v.seed ^ conn.number), DRAW_REFUSE) < v.refuse_below:
            conn_reset(v, conn, FAULT_REFUSE)
            continue
        conn.muted = draw(mixed(v.seed ^ conn.number), DRAW_MUTE) < v.mute_below
        if v.tls != NULL:
            conn.tls = session_new(v.tls)
            if conn.tls == NULL:
                conn_reset(v, conn, FAULT_CANCELLED)
                continue
        conn.watched = EPOLLIN | EPOLLRDHUP
        event.events = conn.watched
        event.data.ptr = conn
        if epoll_ctl(v.epoll, EPOLL_CTL_ADD, fd, &event) < 0:
            conn_close(v, conn, FAULT_CANCELLED)
            return
        list_push(v, conn, LIST_IDLE, monotonic_ns())


# --- output and timers ---------------------------------------------------------------------------------------------

cdef void answered(Server* v, Stream* s) noexcept nogil:
    """The answer is complete: the connection goes on with what it has kept, or ends."""
    cdef Conn* conn = s.conn
    cdef bint keep_alive = s.keep_alive
    stream_end(v, s, s.fault)
    if conn.multiplex != NULL:
        if not keep_alive or (conn.multiplex.goaway and conn.streams == NULL):
            http2_end(v, conn)
    elif not keep_alive:
        conn_end(v, conn)
    elif conn.carry_size > 0:
        kept_read(v, conn)
    settle(v, conn)


cdef int emit_due(Server* v, int64_t now) noexcept nogil:
    """Sends what is due until `now`, at most EMIT_BATCH writes or SHARED_BATCH streams; 1: more may be due."""
    cdef Stream* s
    cdef Emitted outcome
    cdef int64_t due
    cdef int writes = 0, shared = 0
    if v.truth.fd >= 0:
        if v.truth.count > TRUTH_BUFFER_ROWS - BATCH_ROWS:
            truth_flush(&v.truth, now)       # not in the middle of a batch: its rows get their stamps at its end
        v.first_unstamped = v.truth.count
    while writes < EMIT_BATCH and shared < SHARED_BATCH:
        due = next_due(v)
        if due < 0 or due > now:
            break
        s = heap_take(v)
        if s.conn == NULL:
            stream_free(v, s)
            continue
        if s.number > 0:
            shared += 1
        else:
            writes += 1
        outcome = emit(v, s)
        if outcome == EMIT_AGAIN:
            heap_push(v, s)
        elif outcome == EMIT_OVER:
            answered(v, s)
        elif outcome == EMIT_ERRAND:
            settings_due(v, s)
    if v.dirty != NULL:
        http2_flush_all(v)
    return writes == EMIT_BATCH or shared == SHARED_BATCH


cdef void idle_end(Server* v, Conn* conn) noexcept nogil:
    list_remove(v, conn)
    if conn.multiplex != NULL:
        http2_end(v, conn)
    else:
        conn_end(v, conn)


cdef int64_t expire(Server* v, int64_t now) noexcept nogil:
    """Closes what has lingered or idled too long; the time of the next such event, or -1."""
    cdef int64_t wake = -1
    while v.lists[LIST_LINGER].first != NULL and v.lists[LIST_LINGER].first.since + LINGER_NS <= now:
        conn_close(v, v.lists[LIST_LINGER].first, FAULT_NONE)
    if v.lists[LIST_LINGER].first != NULL:
        wake = v.lists[LIST_LINGER].first.since + LINGER_NS
    if v.close_idle_ns > 0:
        while v.lists[LIST_IDLE].first != NULL and v.lists[LIST_IDLE].first.since + v.close_idle_ns <= now:
            idle_end(v, v.lists[LIST_IDLE].first)
        if v.lists[LIST_IDLE].first != NULL and (wake < 0 or v.lists[LIST_IDLE].first.since + v.close_idle_ns < wake):
            wake = v.lists[LIST_IDLE].first.since + v.close_idle_ns
    if v.accept_again > 0:
        if v.accept_again <= now:
            v.accept_again = 0
            watch_listener(v, True)
        elif wake < 0 or v.accept_again < wake:
            wake = v.accept_again
    return wake


cdef void arm(Server* v, int64_t at) noexcept nogil:
    """Sets the timer to an absolute time; -1 switches it off."""
    cdef itimerspec when
    if at == v.armed_ns:
        return
    memset(&when, 0, sizeof(when))
    if at >= 0:
        when.it_value.tv_sec = at // 1000000000
        when.it_value.tv_nsec = at % 1000000000
    timerfd_settime(v.timer, TFD_TIMER_ABSTIME, &when, NULL)
    v.armed_ns = at


cdef int sleep_until(Server* v, int64_t now) noexcept nogil:
    """Prepares the wait: epoll's timeout in ms, 0 if more is due already."""
    cdef int64_t wake = expire(v, now)
    cdef int64_t due = next_due(v)
    if due >= 0 and (wake < 0 or due < wake):
        wake = due
    if v.truth.count > 0:
        if (v.truth.count >= TRUTH_IDLE_ROWS or now - v.truth.flushed_ns > FLUSH_AGE_NS) and (
            wake < 0 or wake - now > FLUSH_IDLE_NS
        ):
            truth_flush(&v.truth, now)
        elif wake < 0 or wake - now > FLUSH_AGE_NS:
            wake = now + FLUSH_AGE_NS
    if 0 <= wake <= now:
        return 0
    arm(v, wake)
    return -1


cdef void turn(Server* v) noexcept nogil:
    """One turn of the loop."""
    cdef epoll_event events[READ_BATCH]
    cdef Conn* conn
    cdef void* ptr
    cdef uint32_t what
    cdef uint64_t value
    cdef int i, count
    cdef int timeout = 0
    if not emit_due(v, monotonic_ns()):
        timeout = sleep_until(v, monotonic_ns())
    count = epoll_wait(v.epoll, events, READ_BATCH, timeout)
    for i in range(count):
        ptr = events[i].data.ptr
        what = events[i].events
        if ptr == <void*>&v.timer:
            v.armed_ns = -1
        elif ptr == <void*>&v.listener:
            accept_ready(v)
        elif ptr == <void*>&v.wake:
            read(v.wake, &value, sizeof(value))
            v.stop = True
        else:
            conn = <Conn*>ptr
            if what & EPOLLOUT and not conn.dead:
                write_ready(v, conn)
            if what & EPOLLIN and not conn.dead:
                read_ready(v, conn)
            elif what & (EPOLLERR | EPOLLHUP | EPOLLRDHUP) and not conn.dead:
                conn_close(v, conn, FAULT_CANCELLED)
    graves_clear(v)


# --- the Python face -----------------------------------------------------------------------------------------------

cdef int fill(Samples* samples, const int64_t[::1] values) except -1:
    cdef size_t count = values.shape[0]
    if count == 0 or count & (count - 1):
        raise ValueError("samples come in powers of two")
    samples.values = <int64_t*>malloc(count * sizeof(int64_t))
    if samples.values == NULL:
        raise MemoryError
    memcpy(samples.values, &values[0], count * sizeof(int64_t))
    samples.mask = count - 1
    return 0


cdef class Loop:
    """One sending thread on a listening socket, which stays the caller's. Times are ns; see the stub for the types.

    `rules` are (below, fault, parameter) with cumulative 64-bit thresholds. With `any_model` the names in `models` are
    told by /v1/models, but every name is served.
    """

    def __cinit__(self, int listener, *, ttft, itl, output, per_event, int64_t step_ns, uint64_t seed, list rules,
                  uint64_t refuse_below, uint64_t mute_below, int64_t close_idle_ns, int64_t slow_settings_ns,
                  uint32_t stream_limit, uint32_t lowered_limit, uint32_t window, uint32_t slots, list models,
                  bint any_model, bint http1, bint http2, Endpoint tls, int truth_fd, uint32_t number_base):
        cdef Server* v = server_new(
            listener, epoll_create1(EPOLL_CLOEXEC), timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC),
            eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        )
        cdef epoll_event event
        if v == NULL:
            raise MemoryError
        self.v = v
        if v.epoll < 0 or v.timer < 0 or v.wake < 0:
            raise OSError("no descriptors for the loop's epoll set and timer")
        fill(&v.ttft, ttft)
        fill(&v.itl, itl)
        fill(&v.per_event, per_event)
        if output is not None:
            fill(&v.output, output)
            v.output_given = True
        v.step_ns, v.seed, v.refuse_below, v.close_idle_ns = step_ns, seed, refuse_below, close_idle_ns
        v.slots, v.number_base = slots, number_base
        v.mute_below, v.slow_settings_ns, v.stream_limit = mute_below, slow_settings_ns, stream_limit
        v.lowered_limit, v.window, v.http1, v.http2 = lowered_limit, window, http1, http2
        v.on_request = route
        if tls is not None:
            Py_INCREF(tls)
            v.tls = <void*>tls
        if len(rules) > MAX_RULES:
            raise ValueError("too many fault rules")
        for i, (below, fault, parameter) in enumerate(rules):
            v.rules[i].below, v.rules[i].fault, v.rules[i].parameter = below, fault, parameter
        v.rule_count = len(rules)
        for name in models:
            if model_named(v, <const uint8_t*><const char*>(<bytes>name), len(name)) == NULL:
                raise MemoryError
        v.model_fixed = 0 if any_model else len(models)
        if not truth_open(&v.truth, truth_fd):
            raise MemoryError
        if truth_fd >= 0:
            v.unstamped = <Conn**>calloc(TRUTH_BUFFER_ROWS, sizeof(Conn*))
            if v.unstamped == NULL:
                raise MemoryError
        event.events = EPOLLIN
        event.data.ptr = &v.wake
        epoll_ctl(v.epoll, EPOLL_CTL_ADD, v.wake, &event)
        event.events = EPOLLIN | EPOLLET         # never read: setting the timer anew makes it unreadable
        event.data.ptr = &v.timer
        epoll_ctl(v.epoll, EPOLL_CTL_ADD, v.timer, &event)
        watch_listener(v, True)

    def run(self):
        """Serves until stop() is called; releases the GIL."""
        cdef Server* v = self.v
        clock_offset(&v.offset)
        v.armed_ns = -1
        v.step_start = monotonic_ns()
        with nogil:
            while not v.stop:
                turn(v)
        if v.truth.error:
            raise OSError(v.truth.error, "the truth log cannot be written")

    def stop(self):
        """Ends run() at once; from any thread."""
        cdef uint64_t one = 1
        if self.v != NULL:
            write(self.v.wake, &one, sizeof(one))

    def close(self):
        """Closes all connections and completes the truth log."""
        cdef int epoll, timer, wake
        cdef void* tls
        if self.v != NULL:
            epoll, timer, wake = self.v.epoll, self.v.timer, self.v.wake
            tls = self.v.tls
            server_free(self.v)
            if tls != NULL:
                Py_DECREF(<object>tls)
            self.v = NULL
            close(epoll)
            close(timer)
            close(wake)

    def __dealloc__(self):
        self.close()

    @property
    def counters(self):
        cdef Server* v = self.v
        if v == NULL:
            raise ValueError("closed")
        return {"connections": v.next_connection, "open": v.open, "requests": v.requests, "events": v.events,
                "writes": v.writes}
