"""What a worker counts: a row of the timeline every second, the histograms' minutes, its block of the control file.

The hot loop only adds to totals; the differences are made here, from `Engine.tick`.
"""

from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset
from posix.time cimport CLOCK_PROCESS_CPUTIME_ID, clock_gettime, timespec

from llmgen.core cimport Core, Counters
from llmgen.exchange cimport STATUS_COUNT
from llmgen.recorder cimport STREAM_TIMELINE, TimelineRow, records_append, records_commit, records_flush_histograms


cdef enum:
    SECOND_NS = 1000000000
    MINUTE_NS = 60000000000


cdef void counting_second(Core* k, int64_t now) noexcept nogil:
    """Writes the timeline's row of each second that is over; seconds in which nothing looked count into the last."""
    cdef TimelineRow* row
    cdef int64_t second = (now - k.pacer.start) // SECOND_NS
    if k.pacer.start == 0 or now < k.pacer.start or second <= k.second:
        return
    row = <TimelineRow*>records_append(k.records, STREAM_TIMELINE)
    if row != NULL:
        memset(row, 0, sizeof(TimelineRow))
        row.second = k.second
        row.offered = <uint32_t>(k.dispatched - k.second_dispatched)
        row.sent = <uint32_t>(k.sent - k.second_sent)
        row.in_flight = <uint32_t>k.in_flight
        row.first_tokens = <uint32_t>(k.answers.totals.first_tokens - k.second_first_tokens)
        row.tokens = <uint32_t>(k.answers.totals.tokens - k.second_tokens)
        row.events = <uint32_t>(k.answers.totals.events - k.second_events)
        row.ended = <uint32_t>(k.answers.totals.ended - k.second_ended)
        row.errors = <uint32_t>(k.answers.totals.errors - k.second_errors)
        row.lag_max_ns = k.lag_max
        row.bytes_in = k.bytes_in - k.second_bytes
        records_commit(k.records, STREAM_TIMELINE)
    k.second = second
    k.second_dispatched = k.dispatched
    k.second_sent = k.sent
    k.second_first_tokens = k.answers.totals.first_tokens
    k.second_tokens = k.answers.totals.tokens
    k.second_events = k.answers.totals.events
    k.second_ended = k.answers.totals.ended
    k.second_errors = k.answers.totals.errors
    k.second_bytes = k.bytes_in
    if k.lag_max > k.counters.lag_max_ns:
        k.counters.lag_max_ns = k.lag_max
    k.lag_max = 0
    if <uint32_t>((now - k.pacer.start) // MINUTE_NS) != k.minute:
        records_flush_histograms(k.records, k.minute)
        k.minute = <uint32_t>((now - k.pacer.start) // MINUTE_NS)


cdef void counting_publish(Core* k, int64_t now) noexcept nogil:
    """Copies what is counted into the worker's block of the control file."""
    cdef Counters* n = k.counters
    cdef timespec cpu
    cdef uint32_t i
    n.heartbeat = now
    n.due = n.dispatched = k.dispatched
    n.sent = k.sent
    n.ended = k.answers.totals.ended
    n.first_tokens = k.answers.totals.first_tokens
    n.tokens = k.answers.totals.tokens
    n.events = k.answers.totals.events
    n.reads = k.network.reads
    n.bytes_in = k.bytes_in
    n.in_flight = k.in_flight
    n.waiting = k.waiting
    n.connections = 0
    for i in range(k.target_count):
        n.connections += k.targets[i].connections
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu)
    n.cpu_ns = <int64_t>cpu.tv_sec * SECOND_NS + cpu.tv_nsec
    n.events_dropped = k.records.events_dropped
    n.stale_resends = k.stale_resends
    n.clock_steps = k.network.clock_steps
    n.denied = k.answers.totals.denied
    if k.pacer.current > 0:
        n.passed_segments = k.pacer.current
    for i in range(STATUS_COUNT):
        n.by_status[i] = k.answers.totals.by_status[i]
