# The pacer: what is due next, from the sorted plan on disk and a heap of due times made during the run.
# No clock and no timer here; the core asks with the time it has.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef struct PlanRow:             # = plan.PLAN_DTYPE
    int64_t due
    int64_t index
    uint64_t first_span
    uint16_t span_count, klass, target, worker
    int32_t session
    uint16_t turn, head
    int32_t planned_input, planned_output
    uint32_t body_bytes
    uint32_t after
    int64_t think


cdef struct PlanSpan:            # = plan.SPAN_DTYPE
    uint64_t offset
    uint32_t size, source


# The controller's half of the shared control block (control.py); read here, but for `claimed`.
cdef struct Control:
    int64_t start                # common start, monotonic ns; 0: not yet
    int64_t plan_segments        # segments that are complete on disk
    int64_t plan_final           # 1: no further segment will come
    int64_t claimed              # closed loop: next row, or session, to be claimed, atomic, by all workers
    int64_t stop                 # 1: offer nothing more


cdef struct PlanSegment:
    const PlanRow* rows          # NULL: not mapped
    const PlanSpan* spans
    const uint8_t* bytes
    size_t rows_bytes, spans_bytes, bytes_bytes
    int64_t first_row            # rows in the segments before
    int64_t row_count
    uint32_t users               # exchanges that may still need its bytes


cdef struct Slot:                # an entry of the heap
    int64_t due
    const PlanRow* row           # NULL: a free slot of the closed loop, the row is claimed when it is taken
    int64_t promised             # the due time that the record tells: a retry keeps that of the first attempt
    int32_t segment
    uint8_t attempt


cdef struct Due:                 # what is to be sent now
    int64_t due                  # absolute
    int64_t promised
    const PlanRow* row
    int32_t segment
    uint8_t attempt


cdef enum:                       # = plan.ROOT
    ROOT = 1


cdef enum:                       # = plan.SOURCE_
    SPAN_STATIC = 0
    SPAN_SEGMENT = 1
    SPAN_ANSWER = 2


cdef enum:
    NEVER = 0x7FFFFFFFFFFFFFFF
    PACER_NOTHING = 0            # nothing is due
    PACER_DUE = 1
    PACER_LATE_PLAN = 2          # the plan's next segment is not there yet
    PACER_ERROR = -1             # the plan cannot be read; `error` says why


cdef struct Pacer:
    Control* control
    char directory[3072]
    int worker
    int64_t start                # due times of the plan are relative to it
    const uint8_t* static_bytes
    size_t static_size
    # the sorted part
    PlanSegment* segments
    int32_t segment_count        # mapped so far
    int32_t segment_capacity
    int32_t current              # segment of the cursor; -1: none yet
    int64_t next_row             # in the current segment
    bint closed_loop
    int64_t held                 # closed loop: a claimed number whose row was not there yet; -1
    bint heap_only               # the plan is over: only what the heap holds is still taken
    bint used_up                 # closed loop: a slot found no row any more
    # the heap
    Slot* heap
    uint32_t heap_size, heap_capacity
    int error                    # errno


cdef int pacer_next(Pacer* p, int64_t* due) noexcept nogil
cdef int pacer_take(Pacer* p, int64_t now, Due* out) noexcept nogil
cdef bint pacer_push(Pacer* p, const Slot* slot) noexcept nogil
cdef const PlanRow* pacer_next_turn(const Pacer* p, const PlanRow* row, int32_t segment) noexcept nogil
cdef bint pacer_exhausted(Pacer* p) noexcept nogil
cdef void pacer_release(Pacer* p, int32_t segment) noexcept nogil
cdef int pacer_open(Pacer* p, const char* directory, int worker, bint closed_loop, Control* control) noexcept nogil
cdef void pacer_free(Pacer* p) noexcept nogil
cdef const uint8_t* pacer_span(const Pacer* p, int32_t segment, const PlanSpan* span) noexcept nogil


cdef inline const PlanSpan* pacer_spans(const Pacer* p, int32_t segment, const PlanRow* row) noexcept nogil:
    return p.segments[segment].spans + row.first_span
