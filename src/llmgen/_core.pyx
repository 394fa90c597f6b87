"""The hot loop of a worker.

uvloop watches one descriptor, the epoll set of the core; everything that happens on sockets and the pacer's timer happens in
`Engine.on_ready`, a batch of BATCH_NS in which the core waits by itself. The order of work in a batch:

    epoll_wait → for each ready connection: one read, its events, what it ended; then whatever is due by that read's stamp
               → what is due now → waiting requests, HTTP/2 flushes, deferred closes → the timer is set to the next due time

`Engine.tick`, called some fifty times a second by the worker, does what needs no precision: timeouts, the drain, counters,
the timeline and the histograms' minutes.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, itimerspec

import mmap
import os
import resource
import socket

from llmgen.address cimport Address, Sources
from llmgen.clock cimport monotonic_ns
from llmgen.columns import COUNTERS_DTYPE, WorkerState
from llmgen.tls import Endpoint, make_context
from llmgen.connection cimport (
    Connection,
    connection_event,
    connection_fetch,
    connection_fetch_exchange,
    network_clock,
)
from llmgen.control import CONTROL_BYTES
from llmgen.balance cimport ANY_TARGET, choose_target
from llmgen.core cimport (
    BALANCE_LEAST_IN_FLIGHT,
    BALANCE_RANDOM,
    BALANCE_ROUND_ROBIN,
    REQUEST_HEAD_BYTES,
    SCRATCH_BYTES,
    WHEEL_SHIFT,
    Core,
    Counters,
    HeadBytes,
    Target,
)
from llmgen.exchange cimport STATUS_CANCELLED, Exchange, Expect, answers_sink
from llmgen.counting cimport counting_publish, counting_second
from llmgen.flight cimport flight_any, flight_begin, flight_expired, flight_free, flight_session_target, flight_waits
from llmgen.pacer cimport (
    NEVER,
    PACER_DUE,
    PACER_NOTHING,
    Control,
    Due,
    Slot,
    pacer_exhausted,
    pacer_free,
    pacer_next,
    pacer_open,
    pacer_push,
    pacer_take,
)
from llmgen.pool cimport pool_acquire, pool_end_batch, pool_expire, pool_free, pool_outcome, pool_preconnect, pool_slot, pool_tick
from llmgen.recorder cimport Recorder, records_flush_histograms
from llmgen.session cimport sessions_free
from llmgen.wire.http2 cimport HTTP2_CLIENT, http2_options
from llmgen.wire.scanner cimport Rules


cdef extern from "<sys/epoll.h>" nogil:
    enum: EPOLLIN, EPOLL_CTL_ADD, EPOLL_CLOEXEC
    ctypedef union epoll_data_t:
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int)
    int epoll_ctl(int, int, int, epoll_event*)
    int epoll_wait(int, epoll_event*, int, int)

cdef extern from "<sys/timerfd.h>" nogil:
    enum: TFD_NONBLOCK, TFD_CLOEXEC, TFD_TIMER_ABSTIME
    int timerfd_create(int, int)
    int timerfd_settime(int, int, const itimerspec*, itimerspec*)

cdef extern from "<sys/socket.h>" nogil:
    enum: AF_INET, AF_INET6, AF_UNIX

cdef extern from "<netinet/in.h>" nogil:
    cdef struct in_addr:
        uint32_t s_addr
    cdef struct sockaddr_in:
        unsigned short sin_family
        uint16_t sin_port
        in_addr sin_addr
    cdef struct in6_addr:
        uint8_t s6_addr[16]
    cdef struct sockaddr_in6:
        unsigned short sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    uint16_t htons(uint16_t)

cdef extern from "<sys/un.h>" nogil:
    cdef struct sockaddr_un:
        unsigned short sun_family
        char sun_path[108]

cdef extern from "<unistd.h>" nogil:
    int close(int)


cdef enum:
    BATCH_NS = 5000000           # back to uvloop, which has the control pipe and the ticks, after 5 ms
    BATCH_EVENTS = 256
    DISPATCH_BURST = 64          # requests taken up in a row before the sockets get their turn
    SECOND_NS = 1000000000
    MOST_DESCRIPTORS = 1 << 30
    KEPT_DESCRIPTORS = 16        # a segment of the plan is three files, one of each record stream is made ahead

assert sizeof(Counters) == COUNTERS_DTYPE.itemsize

cdef uint64_t TIMER = 0xFFFFFFFFFFFFFFFF   # epoll entry of the pacer's timer


# -- pacing -------------------------------------------------------------------------------------------------------------

cdef void dispatch(Core* k, int64_t now) noexcept nogil:
    """Takes up what is due by `now`, at most a burst; next_due is fresh afterwards."""
    cdef Due due
    cdef Exchange* x
    cdef int burst = 0, result
    if k.stopped:
        k.next_due = NEVER
        return
    while burst < DISPATCH_BURST:
        if pacer_next(&k.pacer, &k.next_due) != PACER_DUE or k.next_due > now:
            return
        if k.records.disk_error or (k.offering and k.next_due >= k.options.offer_until):
            stop_offering(k)
            k.stopped = k.stopped or k.records.disk_error != 0
            return
        result = pacer_take(&k.pacer, now, &due)
        if result == PACER_NOTHING:
            continue             # a slot of the closed loop retired
        if result != PACER_DUE:
            k.next_due = NEVER   # its row is not planned yet: the next tick looks again
            return
        burst += 1
        if flight_waits(k, &due):
            continue
        k.network.now = now = monotonic_ns()
        x = flight_begin(k, &due, now)
        if x == NULL:
            stop_all(k)
            return
        x.row.target = flight_session_target(k, x, due.row.target)
        k.targets[x.row.target].in_flight += 1
        pool_acquire(k, x)


cdef void stop_offering(Core* k) noexcept nogil:
    """The plan is over: the drain begins. Retries and turns of sessions that are due within it still go out."""
    k.offering = False
    k.pacer.heap_only = True
    k.next_due = NEVER
    if k.drain_until == NEVER:
        k.drain_until = monotonic_ns() + k.options.drain


cdef void stop_all(Core* k) noexcept nogil:
    """Nothing more is sent."""
    stop_offering(k)
    k.stopped = True


cdef void arm(Core* k, int64_t latest) noexcept nogil:
    """Sets the timer to the next due time, less the spin, or to `latest`; a time that has passed fires at once."""
    cdef itimerspec t
    cdef int64_t when = k.next_due
    if when != NEVER:
        when -= k.options.spin
        if when < 1:
            when = 1
    if when > latest:
        when = latest
    if when == k.armed:
        return
    memset(&t, 0, sizeof(t))
    if when != NEVER:
        t.it_value.tv_sec = when // SECOND_NS
        t.it_value.tv_nsec = when % SECOND_NS
    timerfd_settime(k.timer, TFD_TIMER_ABSTIME, &t, NULL)
    k.armed = when


# -- the loop -----------------------------------------------------------------------------------------------------------

cdef void batch(Core* k) noexcept nogil:
    cdef epoll_event events[BATCH_EVENTS]
    cdef int64_t started = monotonic_ns()
    cdef int count, i, wait_ms = 0
    cdef Connection* c
    cdef uint64_t entry
    k.network.now = started
    network_clock(&k.network)
    while True:
        count = epoll_wait(k.epoll, events, BATCH_EVENTS, wait_ms)
        for i in range(count):
            if events[i].data.u64 != TIMER:
                connection_fetch(pool_slot(k, <uint32_t>events[i].data.u64))
        for i in range(count):
            if events[i].data.u64 != TIMER:
                connection_fetch_exchange(pool_slot(k, <uint32_t>events[i].data.u64))
        for i in range(count):
            entry = events[i].data.u64
            if entry == TIMER:
                k.armed = 0          # fired: must be set again even for the same time
                continue
            c = pool_slot(k, <uint32_t>entry)
            if c.generation != <uint32_t>(entry >> 32) or c.fd < 0:
                continue             # closed earlier in this batch
            pool_outcome(k, c, connection_event(&k.network, c, events[i].events))
            if k.next_due <= k.network.now:
                dispatch(k, k.network.now)
        k.network.now = monotonic_ns()
        dispatch(k, k.network.now)
        pool_end_batch(k)
        if k.network.now - started > BATCH_NS:
            break
        if k.next_due != NEVER and k.next_due - k.network.now <= k.options.spin:
            wait_ms = 0              # spinning for the next due time
            continue
        # wait here for the rest of the batch's time, which spares uvloop's own epoll_wait and a call of Python a wake; the
        # timer ends it, for a timeout of epoll_wait is set and cleared by the kernel at every wait
        arm(k, started + BATCH_NS)
        wait_ms = -1
    arm(k, NEVER)


# -- now and then -------------------------------------------------------------------------------------------------------

cdef void expire(Core* k, int64_t now) noexcept nogil:
    cdef Exchange* x
    cdef int status
    while True:
        x = flight_expired(k, now, &status)
        if x == NULL:
            return
        pool_expire(k, x, status)


cdef void cancel_all(Core* k, int status) noexcept nogil:
    cdef Exchange* x = flight_any(k)
    k.network.now = monotonic_ns()
    while x != NULL:
        pool_expire(k, x, status)
        x = flight_any(k)
    pool_end_batch(k)


# -- the Python face ----------------------------------------------------------------------------------------------------

cdef int put_address(Address* out, tuple address) except -1:
    """('inet', host, port), ('inet6', host, port, scope) or ('unix', path) with a numeric host."""
    cdef sockaddr_in* v4 = <sockaddr_in*>&out.storage
    cdef sockaddr_in6* v6 = <sockaddr_in6*>&out.storage
    cdef sockaddr_un* un = <sockaddr_un*>&out.storage
    cdef bytes packed
    memset(out, 0, sizeof(Address))
    if address[0] == "inet":
        packed = socket.inet_pton(socket.AF_INET, address[1])
        v4.sin_family = AF_INET
        v4.sin_port = htons(<uint16_t>address[2])
        memcpy(&v4.sin_addr, <const char*>packed, 4)
        out.size = sizeof(sockaddr_in)
    elif address[0] == "inet6":
        packed = socket.inet_pton(socket.AF_INET6, address[1])
        v6.sin6_family = AF_INET6
        v6.sin6_port = htons(<uint16_t>address[2])
        memcpy(&v6.sin6_addr, <const char*>packed, 16)
        v6.sin6_scope_id = <uint32_t>(address[3] if len(address) > 3 else 0)
        out.size = sizeof(sockaddr_in6)
    else:
        packed = os.fsencode(address[1])
        if len(packed) >= 108:
            raise ValueError("path of the unix socket is longer than 107 bytes")
        un.sun_family = AF_UNIX
        memcpy(un.sun_path, <const char*>packed, len(packed) + 1)
        out.size = sizeof(sockaddr_un)
    return 0


cdef uint8_t* copy_bytes(bytes data) except NULL:
    cdef uint8_t* out = <uint8_t*>malloc(len(data) + 1)
    if out == NULL:
        raise MemoryError
    memcpy(out, <const char*>data, len(data) + 1)
    return out


cdef class Engine:
    """Drives the load of one worker.

    setup: what worker.Setup describes (run directory, plan, targets with their heads, options; times in ns).
    rules: one compiled scanner.Rules a head of the plan.
    Raises OSError when the run directory cannot be written or the plan cannot be read.
    """

    def __cinit__(self, object setup, list rules):
        cdef Core* k = &self.c
        self.samples = []
        self.bodies = []
        self.rules = rules
        k.epoll = k.timer = -1
        k.engine = <void*>self
        k.next_due = k.armed = k.drain_until = NEVER
        k.stopped = True             # until the start
        self.recorder = Recorder(setup.directory, setup.worker, setup.classes, setup.record_events)
        k.records = &self.recorder.c
        self.map_control(setup)
        self.take_options(setup)
        self.take_heads(setup)
        self.take_targets(setup)
        self.open_network(setup)
        failed = pacer_open(&k.pacer, os.fsencode(setup.plan), setup.worker, setup.closed_slots > 0, self.control_block())
        if failed:
            raise OSError(failed, os.strerror(failed), setup.plan)
        k.random = <uint64_t>(setup.seed * 2654435761 + setup.worker + 1) | 1
        k.counters.pid = os.getpid()
        self.state(WorkerState.starting)

    cdef Control* control_block(self) except NULL:
        return <Control*>(<char*>self.c.counters - self.counters_offset)

    cdef int map_control(self, object setup) except -1:
        cdef Py_buffer view
        with open(setup.control, "r+b") as file:
            self.control = mmap.mmap(file.fileno(), 0)
        PyObject_GetBuffer(self.control, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        self.counters_offset = CONTROL_BYTES + setup.worker * sizeof(Counters)
        self.c.counters = <Counters*>(<char*>view.buf + self.counters_offset)
        PyBuffer_Release(&view)      # the mapping lives as long as self.control
        return 0

    cdef int take_options(self, object setup) except -1:
        cdef Core* k = &self.c
        k.options.timeout_connect = setup.timeout_connect
        k.options.timeout_first_token = setup.timeout_first_token
        k.options.timeout_idle = setup.timeout_idle
        k.options.patience = setup.patience
        k.options.timeout_total = setup.timeout_total
        k.options.drain = setup.drain
        k.options.spin = setup.spin
        k.options.offer_until = NEVER
        k.options.connections = setup.connections
        k.options.streams_per_connection = setup.streams_per_connection
        k.options.closed_slots = setup.closed_slots
        k.options.retries = setup.retries
        k.options.sticky = setup.sticky
        k.options.resend_unprocessed = setup.resend_unprocessed
        k.options.traceparent = setup.traceparent
        k.options.balance = {
            "round-robin": BALANCE_ROUND_ROBIN,
            "random": BALANCE_RANDOM,
            "least-in-flight": BALANCE_LEAST_IN_FLIGHT,
        }[setup.balance]
        id_head = setup.id_head.encode()
        if len(id_head) > sizeof(k.id_head):
            raise ValueError("the head of the requests' ids is too long")
        memcpy(k.id_head, <const char*>id_head, len(id_head))
        k.id_head_size = len(id_head)
        k.trace_prefix = setup.trace_prefix
        return 0

    cdef int take_heads(self, object setup) except -1:
        cdef Core* k = &self.c
        cdef uint32_t i
        k.head_count = len(setup.heads)
        k.heads = <Expect*>calloc(k.head_count, sizeof(Expect))
        if k.heads == NULL:
            raise MemoryError
        for i in range(k.head_count):
            k.heads[i].rules = (<Rules?>self.rules[i]).c
            k.heads[i].stream = setup.heads[i].stream
            k.heads[i].needs_end = setup.heads[i].needs_end
            k.heads[i].lines = setup.heads[i].framing == "ndjson"
            k.heads[i].tokenless = not setup.heads[i].tokens
        return 0

    cdef int take_targets(self, object setup) except -1:
        cdef Core* k = &self.c
        cdef Target* t
        cdef uint32_t i, j
        k.targets = <Target*>calloc(len(setup.targets), sizeof(Target))
        if k.targets == NULL:
            raise MemoryError
        k.target_count = len(setup.targets)
        for i in range(k.target_count):
            t = &k.targets[i]
            given = setup.targets[i]
            t.protocol = given.protocol
            t.secure = given.secure
            t.weight = given.weight
            k.weights += t.weight
            t.address_count = len(given.addresses)
            # workers begin with different addresses of a name
            t.next_address = setup.worker % t.address_count
            t.addresses = <Address*>calloc(t.address_count, sizeof(Address))
            t.heads = <HeadBytes*>calloc(k.head_count, sizeof(HeadBytes))
            if t.addresses == NULL or t.heads == NULL:
                raise MemoryError
            for j in range(t.address_count):
                put_address(&t.addresses[j], given.addresses[j])
            for j in range(k.head_count):
                head = given.heads[j]
                if len(head) > SCRATCH_BYTES - REQUEST_HEAD_BYTES:
                    raise ValueError(f"the headers of a request are larger than {SCRATCH_BYTES - REQUEST_HEAD_BYTES} bytes")
                if t.protocol == 1:
                    t.heads[j].http1 = copy_bytes(head)
                    t.heads[j].http1_size = len(head)
                else:
                    t.heads[j].http2 = copy_bytes(head)
                    t.heads[j].http2_size = len(head)
        if k.options.balance != BALANCE_RANDOM:
            for i in range(setup.worker % k.weights):
                choose_target(k, ANY_TARGET)     # workers begin at different places of the round
        return 0

    cdef int open_network(self, object setup) except -1:
        cdef Core* k = &self.c
        cdef epoll_event e
        k.answers.records = k.records
        k.answers.keep_bodies = setup.keep_bodies
        k.answers.max_event_bytes = setup.max_event_bytes
        k.answers.max_answer_bytes = setup.max_answer_bytes
        k.answers.window_start = setup.window_start
        k.answers.window_end = setup.window_end
        k.network.answers = &k.answers
        answers_sink(&k.answers, &k.network.sink)
        k.network.kernel_stamps = setup.kernel_stamps
        k.network.buffer_bytes = setup.read_bytes
        k.network.buffer = <uint8_t*>malloc(setup.read_bytes)
        if k.network.buffer == NULL:
            raise MemoryError
        k.network.plain = <uint8_t*>malloc(16384)            # one TLS record
        k.network.endpoints = <void**>calloc(k.target_count, sizeof(void*))
        if k.network.plain == NULL or k.network.endpoints == NULL:
            raise MemoryError
        self.take_endpoints(setup)
        self.take_sources(setup)
        k.network.max_head_bytes = setup.max_head_bytes
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if limit == resource.RLIM_INFINITY or limit > MOST_DESCRIPTORS:
            limit = MOST_DESCRIPTORS
        k.network.most_descriptors = limit - KEPT_DESCRIPTORS
        http2_options(&k.network.http2_options, HTTP2_CLIENT)
        k.network.twin = setup.http2_engine == "h2"
        k.epoll = epoll_create1(EPOLL_CLOEXEC)
        k.timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
        if k.epoll < 0 or k.timer < 0:
            raise OSError(errno, os.strerror(errno))
        k.network.epoll = k.epoll
        e.events = EPOLLIN
        e.data.u64 = TIMER
        if epoll_ctl(k.epoll, EPOLL_CTL_ADD, k.timer, &e) != 0:
            raise OSError(errno, os.strerror(errno))
        k.network.now = monotonic_ns()
        network_clock(&k.network)
        k.wheel_tick = k.network.now >> WHEEL_SHIFT
        return 0

    cdef int take_sources(self, object setup) except -1:
        """Local addresses to connect from; workers begin with different ones."""
        cdef Sources* sources = &self.c.network.sources
        cdef uint32_t i
        cdef uint32_t count = len(setup.source_addresses)
        if count == 0:
            return 0
        sources.addresses = <Address*>calloc(count, sizeof(Address))
        if sources.addresses == NULL:
            raise MemoryError
        sources.count = count
        sources.next = setup.worker % count
        for i in range(count):
            put_address(&sources.addresses[i], setup.source_addresses[i])
        return 0

    cdef int take_endpoints(self, object setup) except -1:
        """TLS: one endpoint a target; it keeps the ticket that shortens the next handshake."""
        cdef uint32_t i
        self.endpoints = []
        for i in range(self.c.target_count):
            given = setup.targets[i]
            endpoint = None
            if given.secure:
                context = make_context(
                    insecure=setup.tls.insecure,
                    ca=setup.tls.ca,
                    cert=setup.tls.cert,
                    key=setup.tls.key,
                    alpn=["h2"] if given.protocol == 2 else ["http/1.1"],
                )
                endpoint = Endpoint(context, given.host)
                self.c.network.endpoints[i] = <void*>endpoint
            self.endpoints.append(endpoint)
        return 0

    @property
    def tls_handshakes(self):
        """(completed, resumed by a ticket)."""
        return self.c.network.tls_handshakes, self.c.network.tls_resumed

    @property
    def clock_steps(self):
        """Times that CLOCK_REALTIME was seen to jump."""
        return self.c.network.clock_steps

    @property
    def flow_blocked_ns(self):
        """HTTP/2: time that a window of ours kept the server from sending; 0 in a valid run."""
        return self.c.network.flow_blocked_ns

    def state(self, int value):
        """Publishes a columns.WorkerState."""
        self.c.counters.state = <uint32_t>value
        self.c.counters.heartbeat = monotonic_ns()

    def fileno(self):
        """The epoll set: readable when on_ready has something to do."""
        return self.c.epoll

    def preconnect(self, int count):
        """Opens `count` connections to every target."""
        pool_preconnect(&self.c, <uint32_t>count)

    def connecting(self):
        """Connections that are being opened."""
        cdef uint32_t i
        opening = 0
        for i in range(self.c.target_count):
            opening += self.c.targets[i].opening
        return opening

    def start(self, int64_t start_ns, int64_t offer_for_ns, int64_t window_start_ns, int64_t window_end_ns):
        """The common start, monotonic ns; the others count from it (offer_for_ns 0: as long as the plan says)."""
        cdef Core* k = &self.c
        cdef uint32_t i
        cdef Slot slot
        k.pacer.start = start_ns
        k.answers.window_start = start_ns + window_start_ns
        k.answers.window_end = start_ns + window_end_ns
        if offer_for_ns:
            k.options.offer_until = start_ns + offer_for_ns
        k.offering = True
        k.stopped = False
        memset(&slot, 0, sizeof(slot))
        slot.due = slot.promised = start_ns
        for i in range(k.options.closed_slots):
            if not pacer_push(&k.pacer, &slot):
                raise MemoryError
        pacer_next(&k.pacer, &k.next_due)
        arm(k, NEVER)
        self.state(WorkerState.running)

    def on_ready(self):
        """One batch: reads, sends, what is due."""
        batch(&self.c)

    def tick(self):
        """Timeouts, drain, counters. True as long as the run goes on."""
        cdef Core* k = &self.c
        cdef int64_t now = monotonic_ns()
        cdef bint over
        k.network.now = now
        pool_tick(k, now)
        expire(k, now)
        if k.offering:
            if self.control_block().stop:
                stop_all(k)
            else:
                dispatch(k, now)     # a plan that was late, slots that became free
                # sessions under way will make further requests due; retries fall into the drain
                over = pacer_exhausted(&k.pacer) and k.open_turns == 0
                if k.offering and (over or now >= k.options.offer_until):
                    stop_offering(k)
            if k.pacer.error:
                raise OSError(k.pacer.error, os.strerror(k.pacer.error), "the plan")
            if k.drain_until != NEVER:
                self.state(WorkerState.disk_full if k.records.disk_error else WorkerState.draining)
        elif now >= k.drain_until:
            k.stopped = True
            cancel_all(k, STATUS_CANCELLED)
        elif not k.stopped:
            dispatch(k, now)         # retries, turns of sessions
        pool_end_batch(k)
        arm(k, NEVER)
        counting_second(k, now)
        counting_publish(k, now)
        return k.offering or k.in_flight > 0 or (not k.stopped and k.pacer.heap_size > 0)

    def drain(self, int64_t until_ns):
        """Offers nothing more; what is in flight at `until_ns` (monotonic) is cancelled by the next tick."""
        stop_all(&self.c)
        if until_ns < self.c.drain_until:
            self.c.drain_until = until_ns

    def cancel(self):
        """Offers nothing more and cancels what is in flight."""
        stop_all(&self.c)
        cancel_all(&self.c, STATUS_CANCELLED)

    def finish(self):
        """Completes and closes the records. The engine cannot be used afterwards."""
        cdef Core* k = &self.c
        cdef int64_t now = monotonic_ns()
        if self.closed:
            return
        cancel_all(k, STATUS_CANCELLED)
        counting_second(k, now + SECOND_NS)
        records_flush_histograms(k.records, k.minute)
        counting_publish(k, now)
        k.counters.finished_at = now
        self.state(WorkerState.disk_full if k.records.disk_error else WorkerState.finished)
        self.release()

    def release(self):
        """Closes every descriptor and the record files."""
        if self.closed:
            return
        self.closed = True
        pool_free(&self.c)
        flight_free(&self.c)
        self.recorder.close()
        pacer_free(&self.c.pacer)
        sessions_free(&self.c.sessions)

    def __dealloc__(self):
        cdef Core* k = &self.c
        cdef uint32_t i, j
        if k.epoll >= 0:
            close(k.epoll)
        if k.timer >= 0:
            close(k.timer)
        for i in range(k.target_count):
            for j in range(k.head_count):
                if k.targets[i].heads != NULL:
                    free(k.targets[i].heads[j].http1)
                    free(k.targets[i].heads[j].http2)
            free(k.targets[i].heads)
            free(k.targets[i].addresses)
        free(k.targets)
        free(k.heads)
        free(k.network.buffer)
        free(k.network.plain)
        free(k.network.endpoints)
        free(k.network.sources.addresses)
