"""One sending thread of the simulator: an epoll set and an absolute timerfd of its own, no Python object an event.

A turn of the loop sends what is due (at most EMIT_BATCH), then looks at the sockets (at most READ_BATCH) without
waiting if more is due; so neither sending nor reading can hold up the other.
"""

import os

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EMFILE, ENFILE, ENOBUFS, ENOMEM, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, malloc
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, itimerspec
from posix.unistd cimport close, read, write

from llmgen.clock cimport clock_offset, monotonic_ns
from llmgen.simulator.answer cimport answer_word_hash, model_named
from llmgen.simulator.emit cimport EMIT_AGAIN, EMIT_ERRAND, EMIT_OVER, Emitted, emit, log_mark
from llmgen.simulator.engine cimport Mark, Seq, engine_advance, engine_next, engine_start
from llmgen.simulator.http2 cimport http2_end, http2_flush_all
from llmgen.simulator.intake cimport kept_read, read_ready, settings_due, settle, write_ready
from llmgen.simulator.kvcache cimport kv_open
from llmgen.simulator.model cimport Model
from llmgen.simulator.route cimport route
from llmgen.simulator.seeded cimport draw, mixed
from llmgen.simulator.server cimport (
    DRAW_MUTE,
    DRAW_REFUSE,
    FAULT_CANCELLED,
    FAULT_NONE,
    FAULT_REFUSE,
    LINGER_NS,
    LIST_IDLE,
    LIST_LINGER,
    MAX_OUTLETS,
    MAX_RULES,
    Conn,
    Samples,
    Server,
    Stream,
    conn_close,
    conn_end,
    conn_new,
    conn_reset,
    graves_clear,
    heap_push,
    heap_room,
    heap_take,
    list_push,
    list_remove,
    next_due,
    server_free,
    server_new,
    stream_end,
    stream_free,
)
from llmgen.simulator.tls cimport session_new
from llmgen.simulator.truthlog cimport TRUTH_BUFFER_ROWS, TRUTH_IDLE_ROWS, truth_flush, truth_open
from llmgen.tls cimport Endpoint

cdef extern from "sys/socket.h" nogil:
    enum:
        SOCK_NONBLOCK
        SOCK_CLOEXEC
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
    MARK_ROWS = 4096             # and the marks of the engine's steps that requests read in the batch set off
    READ_BATCH = 64
    ACCEPT_BATCH = 64
    RETRY_ACCEPT_NS = 50000000   # without free descriptors
    FLUSH_IDLE_NS = 2000000      # the truth log is written out only if nothing is due for so long
    FLUSH_AGE_NS = 1000000000    # or when it has not been for a second: its readers may be waiting


# --- accepting -----------------------------------------------------------------------------------------------------

cdef void watch_listener(Server* v, bint on) noexcept nogil:
    cdef epoll_event event
    event.events = EPOLLIN
    event.data.ptr = &v.listener
    epoll_ctl(v.epoll, EPOLL_CTL_ADD if on else EPOLL_CTL_DEL, v.listener, &event)


cdef void adopt(Server* v, int fd) noexcept nogil:
    """Takes an accepted socket, which has TCP_NODELAY and SO_TIMESTAMPNS from the listener."""
    cdef epoll_event event
    cdef Conn* conn = conn_new(v, fd)
    if conn == NULL:
        close(fd)
        return
    if draw(mixed(v.seed ^ conn.number), DRAW_REFUSE) < v.refuse_below:
        conn_reset(v, conn, FAULT_REFUSE)
        return
    conn.muted = draw(mixed(v.seed ^ conn.number), DRAW_MUTE) < v.mute_below
    if v.tls != NULL:
        conn.tls = session_new(v.tls)
        if conn.tls == NULL:
            conn_reset(v, conn, FAULT_CANCELLED)
            return
    conn.watched = EPOLLIN | EPOLLRDHUP
    event.events = conn.watched
    event.data.ptr = conn
    if epoll_ctl(v.epoll, EPOLL_CTL_ADD, fd, &event) < 0:
        conn_close(v, conn, FAULT_CANCELLED)
        return
    list_push(v, conn, LIST_IDLE, monotonic_ns())


cdef void accept_ready(Server* v) noexcept nogil:
    """Accepts, and deals the connections out to all sending threads in turn."""
    cdef int i, fd
    cdef uint32_t turn
    for i in range(ACCEPT_BATCH):
        fd = accept4(v.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd < 0:
            if errno == EMFILE or errno == ENFILE or errno == ENOBUFS or errno == ENOMEM:
                watch_listener(v, False)
                v.accept_again = monotonic_ns() + RETRY_ACCEPT_NS
            return
        turn = v.accepted % (v.outlet_count + 1)
        v.accepted += 1
        if turn == 0:
            adopt(v, fd)
        elif write(v.outlets[turn - 1], &fd, sizeof(fd)) != sizeof(fd):
            close(fd)            # that thread is hopelessly behind: its pipe holds 16,384 connections


cdef void inlet_ready(Server* v) noexcept nogil:
    cdef int fds[ACCEPT_BATCH]
    cdef ssize_t got = read(v.inlet, fds, sizeof(fds))
    cdef size_t i
    if got > 0:
        for i in range(<size_t>got // sizeof(int)):
            adopt(v, fds[i])


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


# --- the engine ----------------------------------------------------------------------------------------------------

cdef void engine_tokens(void* ctx, Seq* seq, uint32_t tokens, bint finished, int64_t t) noexcept nogil:
    """A step has given a stream tokens: they are due at its end. Without memory they stay with the stream."""
    cdef Server* v = <Server*>ctx
    cdef Stream* s = <Stream*>seq.user
    s.ready += tokens
    s.cached = seq.cached
    if finished:
        s.seq = NULL
    elif not s.streaming:
        return
    if not s.in_heap and not s.parked and heap_room(v):
        s.due = t
        heap_push(v, s)


cdef void engine_mark(void* ctx, Mark mark, int64_t t, uint32_t replica, const Seq* seq) noexcept nogil:
    log_mark(<Server*>ctx, mark, t, replica, <const Stream*>seq.user if seq != NULL else NULL)


cdef uint64_t engine_token_hash(void* user, uint32_t token) noexcept nogil:
    return answer_word_hash(<const Stream*>user, token)


cdef bint engine_due(Server* v, int64_t now) noexcept nogil:
    """Does what the engine has to do until `now`, but lets the tokens of one step go out before the next one ends;
    True: there is more."""
    cdef int64_t at = engine_next(v.engine)
    cdef int64_t due
    while 0 <= at <= now:
        due = next_due(v)
        if 0 <= due <= at:
            return True
        engine_advance(v.engine)
        at = engine_next(v.engine)
    return False


cdef int emit_due(Server* v, int64_t now) noexcept nogil:
    """Sends what is due until `now`, at most EMIT_BATCH writes or SHARED_BATCH streams; 1: more may be due."""
    cdef Stream* s
    cdef Emitted outcome
    cdef int64_t due
    cdef int writes = 0, shared = 0
    cdef bint more = v.engine != NULL and engine_due(v, now)
    if v.truth.fd >= 0:
        if v.truth.count > TRUTH_BUFFER_ROWS - BATCH_ROWS - (MARK_ROWS if v.engine != NULL else 0):
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
    return more or writes == EMIT_BATCH or shared == SHARED_BATCH


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
    if v.engine != NULL:
        due = engine_next(v.engine)
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
        elif ptr == <void*>&v.inlet:
            inlet_ready(v)
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
    """One sending thread; see the stub for the types. The descriptors that it is given stay the caller's.

    `listener` is -1 for a thread that gets its connections through the pipe `inlet`; the thread that accepts has the
    writing ends of the others' pipes as `outlets`. `rules` are (below, fault, parameter) with cumulative 64-bit
    thresholds. With `any_model` the names in `models` are told by /v1/models, but every name is served.
    """

    def __cinit__(self, *, int listener, int inlet, list outlets, int64_t step_start_ns, ttft, itl, output, per_event, int64_t step_ns, uint64_t seed, list rules,
                  uint64_t refuse_below, uint64_t mute_below, int64_t close_idle_ns, int64_t slow_settings_ns,
                  uint32_t stream_limit, uint32_t lowered_limit, uint32_t window, uint32_t slots, uint32_t prefix_blocks,
                  list models, bint any_model, bint http1, bint http2, Endpoint tls, Model engine, pages, int refusal, int truth_fd, uint32_t number_base):
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
        v.step_start = step_start_ns
        v.step_ns, v.seed, v.refuse_below, v.close_idle_ns = step_ns, seed, refuse_below, close_idle_ns
        v.slots, v.number_base = slots, number_base
        if prefix_blocks > 0 and not kv_open(&v.reuse.seen, 0):
            raise MemoryError
        v.reuse.block_words = prefix_blocks
        v.mute_below, v.slow_settings_ns, v.stream_limit = mute_below, slow_settings_ns, stream_limit
        v.lowered_limit, v.window, v.http1, v.http2 = lowered_limit, window, http1, http2
        v.on_request = route
        if engine is not None:
            Py_INCREF(engine)
            Py_INCREF(pages)
            self.model, self.pages = <void*>engine, <void*>pages
            v.engine = engine.engine
            v.pages = <void*>pages
            v.refusal = refusal
            v.engine.ctx = v
            v.engine.on_tokens = engine_tokens
            v.engine.token_hash = engine_token_hash
            if truth_fd >= 0:
                v.engine.on_mark = engine_mark
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
        if listener >= 0:
            watch_listener(v, True)
        v.inlet = inlet
        if inlet >= 0:
            event.events = EPOLLIN
            event.data.ptr = &v.inlet
            epoll_ctl(v.epoll, EPOLL_CTL_ADD, inlet, &event)
        if len(outlets) > MAX_OUTLETS:
            raise ValueError("too many sending threads")
        for i, outlet in enumerate(outlets):
            v.outlets[i] = outlet
        v.outlet_count = len(outlets)

    def run(self):
        """Serves until stop() is called; releases the GIL. MemoryError if the engine had none left."""
        cdef Server* v = self.v
        clock_offset(&v.offset)
        v.armed_ns = -1
        with nogil:
            if v.engine != NULL:
                engine_start(v.engine, monotonic_ns())
            while not v.stop and v.truth.error == 0 and (v.engine == NULL or not v.engine.failed):
                turn(v)
        if v.engine != NULL and v.engine.failed:
            raise MemoryError("the engine's model has no memory for its KV cache")

    def stop(self):
        """Ends run() at once; from any thread."""
        cdef uint64_t one = 1
        if self.v != NULL:
            write(self.v.wake, &one, sizeof(one))

    def close(self):
        """Closes all connections and completes the truth log; OSError if that could not be written."""
        cdef int epoll, timer, wake, error
        cdef void* tls
        if self.v != NULL:
            epoll, timer, wake = self.v.epoll, self.v.timer, self.v.wake
            tls = self.v.tls
            error = server_free(self.v)
            if tls != NULL:
                Py_DECREF(<object>tls)
            if self.model != NULL:
                Py_DECREF(<object>self.model)
                Py_DECREF(<object>self.pages)
            self.v = NULL
            close(epoll)
            close(timer)
            close(wake)
            if error:
                raise OSError(error, f"the truth log broke off: {os.strerror(error)}")

    def __dealloc__(self):
        try:
            self.close()
        except OSError:
            pass                 # whoever wants to know calls close()

    @property
    def counters(self):
        cdef Server* v = self.v
        if v == NULL:
            raise ValueError("closed")
        return {"connections": v.next_connection, "open": v.open, "requests": v.requests, "events": v.events,
                "writes": v.writes}
