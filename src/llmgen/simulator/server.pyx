"""Connections, streams and due times of one sending thread of the simulator: plain memory, no Python object.

Nothing is freed while it may still be named: a closed connection lies in `graves` until the batch of epoll events that
may name it is over, and a stream whose connection is gone stays in the heap (or the queue) until its turn comes.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memmove, memset
from posix.uio cimport iovec
from posix.unistd cimport close

from llmgen.clock cimport monotonic_ns, realtime_ns
from llmgen.simulator.engine cimport engine_cancel
from llmgen.simulator.kvcache cimport kv_close
from llmgen.simulator.seeded cimport draw, mixed
from llmgen.simulator.tls cimport session_free, session_goodbye, session_pending, session_sent, session_write
from llmgen.simulator.truthlog cimport TRUTH_END, TruthRow, truth_close, truth_row
from llmgen.wire.http2 cimport http2_free, http2_set_user

cdef extern from "sys/socket.h" nogil:
    enum:
        MSG_NOSIGNAL
        SOL_SOCKET
        SO_LINGER
        SHUT_WR
    struct linger:
        int l_onoff
        int l_linger
    ssize_t send(int fd, const void* data, size_t size, int flags)
    int shutdown(int fd, int how)
    int setsockopt(int fd, int level, int name, const void* value, unsigned int size)

cdef extern from "sys/epoll.h" nogil:
    enum:
        EPOLLIN
        EPOLLOUT
        EPOLLRDHUP
        EPOLL_CTL_MOD
    union epoll_data:
        void* ptr
    struct epoll_event:
        uint32_t events
        epoll_data data
    int epoll_ctl(int epoll, int operation, int fd, epoll_event* event)

cdef enum:
    KEEP_BUFFER_BYTES = 65536    # an idle connection's larger buffers are given back


cdef Server* server_new(int listener, int epoll, int timer, int wake) noexcept nogil:
    cdef Server* v = <Server*>calloc(1, sizeof(Server))
    if v == NULL:
        return NULL
    v.listener = listener
    v.epoll = epoll
    v.timer = timer
    v.wake = wake
    v.truth.fd = -1
    v.read_buffer = <uint8_t*>malloc(READ_BYTES)
    v.plain = <uint8_t*>malloc(PLAIN_BYTES)
    v.scratch = <uint8_t*>malloc(SCRATCH_BYTES)
    v.heap_capacity = 1024
    v.heap = <HeapEntry*>malloc(v.heap_capacity * sizeof(HeapEntry))
    if v.read_buffer == NULL or v.plain == NULL or v.scratch == NULL or v.heap == NULL:
        server_free(v)
        return NULL
    return v


cdef int server_free(Server* v) noexcept nogil:
    """Closes all connections, completes the truth log and gives all memory back; 0, or the truth log's errno."""
    cdef Stream* s
    cdef uint32_t i
    cdef int error
    while v.queue_first != NULL:
        s = v.queue_first
        v.queue_first = s.link
        s.queued = False
        if s.conn == NULL:
            free(s)
    v.queue_last = NULL
    v.slots = 0
    while v.connections_first != NULL:
        conn_close(v, v.connections_first, FAULT_STOPPED)
    while v.dirty != NULL:
        v.dirty.dirty = False
        v.dirty = v.dirty.next_dirty
    graves_clear(v)
    while next_due(v) >= 0:
        free(heap_take(v))
    while v.free_streams != NULL:
        s = v.free_streams
        v.free_streams = s.link
        free(s)
    error = truth_close(&v.truth)
    for i in range(v.model_count):
        free(v.models[i].name)
        free(v.models[i].chat)
        free(v.models[i].text)
    free(v.ttft.values)
    free(v.itl.values)
    free(v.output.values)
    free(v.per_event.values)
    free(v.read_buffer)
    free(v.plain)
    free(v.unstamped)
    free(v.scratch)
    free(v.heap)
    free(v.hashes)
    kv_close(&v.reuse.seen)
    free(v)
    return error


# --- connections ---------------------------------------------------------------------------------------------------

cdef Conn* conn_new(Server* v, int fd) noexcept nogil:
    cdef Conn* conn = <Conn*>calloc(1, sizeof(Conn))
    if conn == NULL:
        return NULL
    conn.fd = fd
    conn.number = v.number_base + v.next_connection
    v.next_connection += 1
    conn.later = v.connections_first
    if conn.later != NULL:
        conn.later.earlier = conn
    v.connections_first = conn
    v.open += 1
    return conn


cdef void conn_close(Server* v, Conn* conn, int how) noexcept nogil:
    """Closes now; streams still running end with `how` in the truth log. The memory lives until graves_clear."""
    if conn.dead:
        return
    conn.dead = True
    while conn.streams != NULL:
        stream_end(v, conn.streams, how)
    list_remove(v, conn)
    if conn.earlier != NULL:
        conn.earlier.later = conn.later
    else:
        v.connections_first = conn.later
    if conn.later != NULL:
        conn.later.earlier = conn.earlier
    close(conn.fd)
    v.open -= 1
    conn.grave = v.graves
    v.graves = conn


cdef void conn_reset(Server* v, Conn* conn, int how) noexcept nogil:
    """Closes with RST: what the kernel still holds of the answer is thrown away."""
    cdef linger at_once
    at_once.l_onoff = 1
    at_once.l_linger = 0
    if not conn.dead:
        setsockopt(conn.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once))
        conn_close(v, conn, how)


cdef void conn_end(Server* v, Conn* conn) noexcept nogil:
    """Our side is done: FIN behind what is unsent, then wait (bounded) for the peer's; closing earlier could reset."""
    if conn.dead or conn.ending:
        return
    if conn.tls != NULL:
        session_goodbye(conn.tls)
        if tls_drain(v, conn) < 0:
            return
    conn.ending = True
    conn.paused = conn.blocked = False
    if conn.out_at == conn.out_size:
        conn.lingering = True
        shutdown(conn.fd, SHUT_WR)
    list_push(v, conn, LIST_LINGER, monotonic_ns())
    conn_watch(v, conn)


cdef void graves_clear(Server* v) noexcept nogil:
    """Gives closed connections' memory back, but for those that still stand in the list of the next flush."""
    cdef Conn* conn
    cdef Conn* kept = NULL
    while v.graves != NULL:
        conn = v.graves
        v.graves = conn.grave
        if conn.dirty:
            conn.grave = kept
            kept = conn
            continue
        if conn.multiplex != NULL:
            http2_free(&conn.multiplex.http2)
            free(conn.multiplex)
        if conn.tls != NULL:
            session_free(conn.tls)
        free(conn.carry)
        free(conn.out)
        free(conn)
    v.graves = kept


cdef bint conn_keep(Conn* conn, const uint8_t* data, size_t size, size_t room) noexcept nogil:
    """Appends to the connection's unfinished input, with room for at least `room` bytes in all."""
    cdef size_t capacity = conn.carry_size + size
    cdef uint8_t* grown
    if capacity < room:
        capacity = room
    if capacity > conn.carry_capacity:
        if room <= conn.carry_size + size:
            capacity += capacity // 2        # not told how much will come: grow geometrically
        grown = <uint8_t*>realloc(conn.carry, capacity)
        if grown == NULL:
            return False
        conn.carry = grown
        conn.carry_capacity = capacity
    memcpy(conn.carry + conn.carry_size, data, size)
    conn.carry_size += size
    return True


cdef void conn_watch(Server* v, Conn* conn) noexcept nogil:
    """Brings epoll's mask up to date."""
    cdef epoll_event event
    cdef uint32_t mask = EPOLLRDHUP
    if conn.dead:
        return
    if not conn.paused:
        mask |= EPOLLIN
    if conn.out_at < conn.out_size or conn.blocked:
        mask |= EPOLLOUT
    if mask != conn.watched:
        event.events = mask
        event.data.ptr = conn
        epoll_ctl(v.epoll, EPOLL_CTL_MOD, conn.fd, &event)
        conn.watched = mask


cdef bint conn_queue(Conn* conn, const uint8_t* data, size_t size) noexcept nogil:
    """Appends to the unsent output without sending."""
    cdef size_t capacity
    cdef uint8_t* grown
    if conn.out_at > 0:
        memmove(conn.out, conn.out + conn.out_at, conn.out_size - conn.out_at)
        conn.out_size -= conn.out_at
        conn.out_at = 0
    capacity = conn.out_size + size
    if capacity > conn.out_capacity:
        capacity += capacity // 2
        grown = <uint8_t*>realloc(conn.out, capacity)
        if grown == NULL:
            return False
        conn.out = grown
        conn.out_capacity = capacity
    memcpy(conn.out + conn.out_size, data, size)
    conn.out_size += size
    return True


cdef int raw_send(Server* v, Conn* conn, const uint8_t* data, size_t size) noexcept nogil:
    cdef ssize_t done = 0
    v.writes += 1
    if conn.out_at == conn.out_size:
        done = send(conn.fd, data, size, MSG_NOSIGNAL)
        if done == <ssize_t>size:
            return 0
        if done < 0:
            if errno != EAGAIN and errno != EINTR:
                conn_close(v, conn, FAULT_CANCELLED)
                return -1
            done = 0
    if not conn_queue(conn, data + done, size - done):
        conn_reset(v, conn, FAULT_CANCELLED)
        return -1
    conn_watch(v, conn)
    return 1


cdef int tls_drain(Server* v, Conn* conn) noexcept nogil:
    """Sends what the TLS session has for the peer: as conn_send."""
    cdef iovec piece
    cdef int result = 0
    while session_pending(conn.tls, &piece):
        result = raw_send(v, conn, <const uint8_t*>piece.iov_base, piece.iov_len)
        if result < 0:
            return -1
        session_sent(conn.tls, piece.iov_len)
    return result


cdef int tls_write(Server* v, Conn* conn, const iovec* parts, int count) noexcept nogil:
    """Encrypts and sends: as conn_send."""
    if session_write(conn.tls, parts, count):
        return tls_drain(v, conn)
    conn_close(v, conn, FAULT_CANCELLED)
    return -1


cdef int conn_send(Server* v, Conn* conn, const uint8_t* data, size_t size) noexcept nogil:
    """0: all handed to the kernel, 1: (partly) queued, -1: the connection was lost and is closed."""
    cdef iovec piece
    if conn.tls == NULL:
        return raw_send(v, conn, data, size)
    piece.iov_base = <void*>data
    piece.iov_len = size
    return tls_write(v, conn, &piece, 1)


cdef int conn_flush(Server* v, Conn* conn) noexcept nogil:
    """Sends what is queued: 0 nothing is left, 1 something is, -1 the connection was lost and is closed."""
    cdef ssize_t done
    if conn.out_at < conn.out_size:
        v.writes += 1
        done = send(conn.fd, conn.out + conn.out_at, conn.out_size - conn.out_at, MSG_NOSIGNAL)
        if done < 0:
            if errno != EAGAIN and errno != EINTR:
                conn_close(v, conn, FAULT_CANCELLED)
                return -1
            done = 0
        conn.out_at += done
    if conn.out_at < conn.out_size:
        conn_watch(v, conn)
        return 1
    conn.out_at = conn.out_size = 0
    if conn.out_capacity > KEEP_BUFFER_BYTES:
        free(conn.out)
        conn.out = NULL
        conn.out_capacity = 0
    if conn.ending and not conn.lingering:
        conn.lingering = True
        shutdown(conn.fd, SHUT_WR)
    conn_watch(v, conn)
    return 0


cdef void list_push(Server* v, Conn* conn, int which, int64_t now) noexcept nogil:
    """Puts the connection at the end of a list that is sorted by `since`."""
    cdef List* target = &v.lists[which]
    list_remove(v, conn)
    conn.list = which
    conn.since = now
    conn.before = target.last
    conn.after = NULL
    if target.last != NULL:
        target.last.after = conn
    else:
        target.first = conn
    target.last = conn


cdef void list_remove(Server* v, Conn* conn) noexcept nogil:
    cdef List* source = &v.lists[conn.list]
    if conn.list == LIST_NONE:
        return
    if conn.before != NULL:
        conn.before.after = conn.after
    else:
        source.first = conn.after
    if conn.after != NULL:
        conn.after.before = conn.before
    else:
        source.last = conn.before
    conn.list = LIST_NONE
    conn.before = conn.after = NULL


# --- streams -------------------------------------------------------------------------------------------------------

cdef inline void digits(char* to, uint64_t value, int base, int size) noexcept nogil:
    cdef int i
    for i in range(size - 1, -1, -1):
        to[i] = (<const char*>b"0123456789abcdef")[value % base]
        value //= base


cdef Stream* stream_new(Server* v, Conn* conn) noexcept nogil:
    """A zeroed stream of the connection with serial, id and creation time; NULL without memory."""
    cdef Stream* s = v.free_streams
    if s != NULL:
        v.free_streams = s.link
        memset(s, 0, sizeof(Stream))
    else:
        s = <Stream*>calloc(1, sizeof(Stream))
        if s == NULL:
            return NULL
    s.conn = conn
    s.serial = v.number_base + v.next_serial
    v.next_serial += 1
    s.next = conn.streams
    if s.next != NULL:
        s.next.prev = s
    conn.streams = s
    conn.stream_count += 1
    digits(s.id, mixed(v.seed ^ (<uint64_t>s.serial << 20)), 16, 16)
    digits(s.created, realtime_ns() // 1000000000, 10, 10)
    return s


cdef void stream_free(Server* v, Stream* s) noexcept nogil:
    s.link = v.free_streams
    v.free_streams = s


cdef void stream_schedule(Server* v, Stream* s, int64_t start) noexcept nogil:
    """First due time after `start`: of the first token, or of the whole answer if it is not streamed."""
    cdef uint64_t at = draw(s.key, DRAW_ITL)
    cdef int64_t due = start + sampled(&v.ttft, draw(s.key, DRAW_TTFT))
    cdef uint32_t i
    if not s.streaming and s.tokens > 1:
        if v.step_ns > 0:
            due += v.step_ns * (s.tokens - 1)
        elif v.itl.mask == 0:
            due += v.itl.values[0] * (s.tokens - 1)
        else:
            for i in range(1, s.tokens):
                due += sampled(&v.itl, at + i)
    if v.step_ns > 0:            # the first step at or after the prefill's end
        due = v.step_start + (due - v.step_start + v.step_ns - 1) // v.step_ns * v.step_ns
    s.due = due
    heap_push(v, s)


cdef void stream_start(Server* v, Stream* s) noexcept nogil:
    """Lets the stream run now, or when a slot becomes free."""
    if v.slots > 0:
        if v.running >= v.slots:
            s.queued = True
            s.link = NULL
            if v.queue_last != NULL:
                v.queue_last.link = s
            else:
                v.queue_first = s
            v.queue_last = s
            return
        s.running = True
        v.running += 1
    stream_schedule(v, s, s.arrival)


cdef void slot_freed(Server* v) noexcept nogil:
    """The longest waiting stream gets the slot; its prefill begins now."""
    cdef Stream* s
    v.running -= 1
    while v.queue_first != NULL and v.running < v.slots:
        s = v.queue_first
        v.queue_first = s.link
        if v.queue_first == NULL:
            v.queue_last = NULL
        s.queued = False
        if s.conn == NULL:
            stream_free(v, s)
            continue
        s.running = True
        v.running += 1
        stream_schedule(v, s, monotonic_ns())


cdef void stream_end(Server* v, Stream* s, int how) noexcept nogil:
    """Logs the end and takes the stream from its connection; it is not to be used any more."""
    cdef TruthRow* row
    cdef Conn* conn = s.conn
    if v.truth.fd >= 0 and s.logged:
        row = truth_row(&v.truth, 0)
        row.t = monotonic_ns()
        row.index = s.index
        row.serial = s.serial
        row.connection = conn.number
        row.stream = s.number
        row.tokens = s.sent
        row.input_tokens = s.input_tokens
        row.events = 0
        row.kind = TRUTH_END
        row.detail = how
    if s.prev != NULL:
        s.prev.next = s.next
    else:
        conn.streams = s.next
    if s.next != NULL:
        s.next.prev = s.prev
    conn.stream_count -= 1
    if s.number > 0 and conn.multiplex != NULL:
        http2_set_user(&conn.multiplex.http2, s.number, 0)     # the codec may know the stream longer than we do
    if s.incoming != NULL:
        free(s.incoming.body)
        free(s.incoming)
        s.incoming = NULL
    free(s.held)
    s.held = NULL
    s.conn = NULL
    if s.running:
        s.running = False
        slot_freed(v)
    if s.seq != NULL:
        engine_cancel(v.engine, s.seq)
        s.seq = NULL
    if not s.in_heap and not s.queued:
        stream_free(v, s)


cdef void streams_unpark(Server* v, Conn* conn) noexcept nogil:
    """The client has read: streams that waited for it go on, late ones at once."""
    cdef Stream* s = conn.streams
    conn.parked = False
    while s != NULL:
        if s.parked:
            s.parked = False
            heap_push(v, s)
        s = s.next


# --- due times: a 4-ary heap, flatter than a binary one and with a node's children in one cache line ---------------

cdef void sift_down(Server* v) noexcept nogil:
    """Moves the root to its place."""
    cdef HeapEntry* heap = v.heap
    cdef HeapEntry entry = heap[0]
    cdef size_t at = 0, child, best, stop
    while True:
        child = at * 4 + 1
        if child >= v.heap_size:
            break
        stop = child + 4
        if stop > v.heap_size:
            stop = v.heap_size
        best = child
        child += 1
        while child < stop:
            if heap[child].due < heap[best].due:
                best = child
            child += 1
        if heap[best].due >= entry.due:
            break
        heap[at] = heap[best]
        at = best
    heap[at] = entry


cdef void heap_fill(Server* v) noexcept nogil:
    """Closes the hole that heap_take left."""
    v.heap_hole = False
    v.heap_size -= 1
    if v.heap_size > 0:
        v.heap[0] = v.heap[v.heap_size]
        sift_down(v)


cdef Stream* heap_take(Server* v) noexcept nogil:
    """Takes the earliest stream out; a push that follows takes its place with half the work."""
    cdef Stream* s
    if v.heap_hole:
        heap_fill(v)
    s = v.heap[0].stream
    s.in_heap = False
    v.heap_hole = True
    return s


cdef bint heap_room(Server* v) noexcept nogil:
    """Whether one more stream can be pushed without closing its connection."""
    cdef HeapEntry* grown
    if v.heap_size < v.heap_capacity:
        return True
    grown = <HeapEntry*>realloc(v.heap, 2 * v.heap_capacity * sizeof(HeapEntry))
    if grown == NULL:
        return False
    v.heap = grown
    v.heap_capacity *= 2
    return True


cdef void heap_push(Server* v, Stream* s) noexcept nogil:
    """Puts the stream in at its due time. Without memory for the heap its connection is closed."""
    cdef HeapEntry entry
    cdef size_t at, parent
    entry.due = s.due
    entry.stream = s
    if v.heap_hole:
        v.heap_hole = False
        v.heap[0] = entry
        s.in_heap = True
        sift_down(v)
        return
    if not heap_room(v):
        conn_reset(v, s.conn, FAULT_STOPPED)
        return
    s.in_heap = True
    at = v.heap_size
    v.heap_size += 1
    while at > 0:
        parent = (at - 1) // 4
        if v.heap[parent].due <= entry.due:
            break
        v.heap[at] = v.heap[parent]
        at = parent
    v.heap[at] = entry
