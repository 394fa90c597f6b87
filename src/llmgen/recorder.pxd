# The recorder: rows into mapped segments that survive the process, histograms into a mapped file that the live view reads.
#
# A segment is written with zeros, mapped and touched page by page by a helper thread, one ahead of the one in use, so
# that the hot loop never waits for the disk and a full disk shows as ENOSPC there and not as SIGBUS here.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef struct RequestRow:          # = columns.REQUEST_DTYPE
    int64_t due, dispatch, acquired, connect_start, connected, secured, send, sent
    int64_t headers, first_byte, first_event, first_token, first_visible, last_token, end, max_gap
    int64_t index
    uint16_t klass, target, worker, turn
    int32_t session
    uint8_t attempt, status, finish_reason, output_source
    int32_t connection, stream
    int32_t planned_input, planned_output, input_tokens, output_tokens, reasoning_tokens, cached_tokens
    int32_t first_event_tokens
    uint32_t events
    uint64_t bytes_in
    uint32_t flags
    uint16_t http_status
    uint8_t retransmits, spare_byte
    uint32_t token_events, reads
    int64_t first_token_user, last_token_user
    uint32_t coalesced_events, body_bytes
    uint8_t spare[16]


cdef struct EventRow:            # = columns.EVENT_DTYPE
    int64_t t
    uint32_t request
    uint16_t tokens
    uint8_t kind
    uint8_t flags


cdef struct TimelineRow:         # = columns.TIMELINE_DTYPE
    int64_t second
    uint32_t offered, sent, in_flight, first_tokens, tokens, events, ended, errors
    int64_t lag_max_ns
    uint64_t bytes_in
    uint64_t spare


cdef struct HistogramRow:        # = columns.HISTOGRAM_DTYPE
    uint32_t minute
    uint16_t klass
    uint8_t metric
    uint8_t outside
    uint32_t bucket
    uint32_t count


cdef enum:                       # = columns.Histogram
    HIST_TTFT = 0
    HIST_TTFT_USER = 1
    HIST_GAP = 2
    HIST_GAP_USER = 3
    HIST_ITL = 4
    HIST_LAG = 5
    HIST_DRAIN_LAG = 6
    HIST_UNCERTAINTY = 7
    HIST_METRICS = 8
    HIST_STEPS = 64
    HIST_OCTAVES = 32
    HIST_BUCKETS = 2050


cdef extern from *:
    """
    static inline unsigned llmgen_bucket(long long ns) {
        /* 1/64 us units: the octave is the position of the leading bit, the step the six bits after it */
        if (ns < 1000) return 0;
        unsigned long long x = (unsigned long long)ns * 8 / 125;
        if (x < 64) return 0;
        unsigned octave = 63u - (unsigned)__builtin_clzll(x) - 6u;
        if (octave >= 32) return 2049;
        return 1u + octave * 64u + (unsigned)((x >> octave) & 63u);
    }
    """
    uint32_t hist_bucket "llmgen_bucket"(int64_t ns) noexcept nogil


cdef struct Segment:
    uint8_t* base                # NULL: free entry
    uint32_t open_rows           # request rows that are not complete yet; keeps the mapping
    bint full


cdef enum:
    STREAM_REQUESTS = 0
    STREAM_EVENTS = 1
    STREAM_TIMELINE = 2
    STREAM_HISTOGRAMS = 3
    STREAMS = 4


cdef struct Stream:
    # the segment in use
    uint8_t* rows                # first row
    uint64_t* committed          # in the segment's header
    uint32_t used
    uint32_t capacity            # rows a segment
    uint32_t row_bytes
    uint64_t first_row           # rows in the segments before
    int32_t segment              # entry in `segments` (requests only)
    uint8_t* previous_base       # kept one rotation longer: the last row of a read may still get a flag
    # the next one, made by the helper thread
    uint8_t* next_base
    int next_error               # errno of making it; 0
    uint32_t next_sequence
    size_t bytes                 # of a segment's file


# What the hot loop writes into; plain memory, so that C callbacks reach it through a pointer.
cdef struct Records:
    Stream streams[STREAMS]
    Segment* segments            # of request segments that are still mapped
    uint32_t segments_capacity
    int disk_error               # errno: nothing more can be recorded
    uint64_t events_dropped
    uint64_t late_segments       # the hot loop had to wait for the helper thread
    int worker
    char directory[3072]
    # histograms: [group][metric][bucket], group = klass * 2 + outside
    uint32_t* histograms
    uint32_t* histograms_before
    size_t histograms_bytes
    int groups
    void* helper                 # the thread and its lock; NULL: not running


cdef RequestRow* records_new_request(Records* r, uint32_t* number, int32_t* segment) noexcept nogil
cdef void records_close_request(Records* r, int32_t segment) noexcept nogil
cdef void* records_append(Records* r, int stream) noexcept nogil
cdef void records_flush_histograms(Records* r, uint32_t minute) noexcept nogil
cdef bint records_rotate(Records* r, int stream) noexcept nogil


cdef extern from *:
    """
    #define llmgen_barrier() __asm__ __volatile__("" ::: "memory")
    """
    void llmgen_barrier() noexcept nogil


cdef inline void records_commit(Records* r, int stream) noexcept nogil:
    """Makes the appended row visible: the count is stored after the row."""
    cdef Stream* s = &r.streams[stream]
    s.used += 1
    llmgen_barrier()
    s.committed[0] = s.used


cdef inline EventRow* records_new_event(Records* r) noexcept nogil:
    """An event's row, to be filled and committed; NULL: level `requests`, or the disk is full."""
    cdef Stream* s = &r.streams[STREAM_EVENTS]
    if s.used == s.capacity and not records_rotate(r, STREAM_EVENTS):
        r.events_dropped += s.bytes != 0
        return NULL
    return <EventRow*>(s.rows + <size_t>s.used * sizeof(EventRow))


cdef inline void records_observe(Records* r, int group, int metric, int64_t ns, uint32_t count) noexcept nogil:
    r.histograms[(group * HIST_METRICS + metric) * HIST_BUCKETS + hist_bucket(ns)] += count


cdef class Recorder:
    cdef Records c

    cdef int init_stream(self, int stream, size_t row_bytes, size_t segment_bytes) except -1
    cdef int map_histograms(self, int classes) except -1
    cdef int start_helper(self) except -1
