"""What the core makes the recorder do for an event and for a request. Built by test_recorder.py and instructions.py."""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from llmgen.recorder cimport (
    HIST_GAP,
    HIST_GAP_USER,
    HIST_ITL,
    STREAM_EVENTS,
    STREAM_REQUESTS,
    EventRow,
    Recorder,
    RequestRow,
    records_close_request,
    records_commit,
    records_new_event,
    records_new_request,
    records_observe,
)


def ready(Recorder recorder):
    """Whether the helper thread has made the next segments and has nothing to do."""
    cdef bint events = recorder.c.streams[STREAM_EVENTS].next_base != NULL
    return events and recorder.c.streams[STREAM_REQUESTS].next_base != NULL


def events(Recorder recorder, uint64_t count):
    """`count` rows of events, as many as there was room for."""
    cdef EventRow* e
    cdef uint64_t i, written = 0
    cdef int64_t t = 0
    with nogil:
        for i in range(count):
            t += 20_000_000
            e = records_new_event(&recorder.c)
            if e == NULL:
                continue
            e.t = t
            e.request = <uint32_t>(i & 1023)
            e.tokens = 1
            e.kind = 1
            e.flags = 0
            records_commit(&recorder.c, STREAM_EVENTS)
            written += 1
    return written


def gaps(Recorder recorder, uint64_t count, int64_t shortest_ns=20_000_000):
    """What a token's gap adds to the three histograms, `count` times."""
    cdef uint64_t i
    cdef int64_t gap
    with nogil:
        for i in range(count):
            gap = shortest_ns + <int64_t>(i & 0xFFFF) * 64
            records_observe(&recorder.c, 0, HIST_GAP, gap, 1)
            records_observe(&recorder.c, 0, HIST_GAP_USER, gap + 30_000, 1)
            records_observe(&recorder.c, 0, HIST_ITL, gap, 1)


def requests(Recorder recorder, uint64_t count):
    """`count` rows of requests, opened, committed and closed; as many as there was room for."""
    cdef RequestRow* row
    cdef uint64_t i, written = 0
    cdef uint32_t number
    cdef int32_t segment
    with nogil:
        for i in range(count):
            row = records_new_request(&recorder.c, &number, &segment)
            if row == NULL:
                continue
            row.due = row.send = <int64_t>i
            row.index = number
            records_commit(&recorder.c, STREAM_REQUESTS)
            records_close_request(&recorder.c, segment)
            written += 1
    return written
