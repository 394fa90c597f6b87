"""What is due next.

The plan's segments are sorted by due time over all of them; each worker reads all rows and takes its own. Due times that
come up during the run (free slots of a closed loop, session turns, retries) lie in a binary heap; the earlier of the two
sources is next. Rows keep their planned time however late they are taken: the lateness is recorded, never forgiven.

A segment is mapped when the cursor reaches it and unmapped when the cursor has left it and no exchange needs its bytes.
"""

from libc.errno cimport EINVAL, ENAMETOOLONG, ENOMEM, errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, realloc
from libc.string cimport memset, strlen, strcpy

from llmgen.plan import PLAN_DTYPE, SOURCE_STATIC, SPAN_DTYPE


cdef extern from "<sys/mman.h>" nogil:
    enum: PROT_READ, MAP_PRIVATE, MAP_POPULATE
    void* MAP_FAILED
    void* mmap(void*, size_t, int, int, int, long)
    int munmap(void*, size_t)

cdef extern from "<fcntl.h>" nogil:
    enum: O_RDONLY, O_CLOEXEC
    int open(const char*, int, ...)

cdef extern from "<unistd.h>" nogil:
    int close(int)
    long lseek(int, long, int)

cdef extern from "<stdio.h>" nogil:
    enum: SEEK_END

cdef extern from * nogil:
    """
    #define llmgen_load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    """
    int64_t atomic_add "__sync_fetch_and_add"(int64_t*, int64_t)
    int64_t load "llmgen_load"(int64_t*)


assert sizeof(PlanRow) == PLAN_DTYPE.itemsize
assert sizeof(PlanSpan) == SPAN_DTYPE.itemsize
assert SOURCE_STATIC == 0

cdef char EMPTY = 0


# -- mapping ------------------------------------------------------------------------------------------------------------

cdef const void* map_file(const char* path, size_t* size, int* error) noexcept nogil:
    """The whole file, read only; an empty file gives a pointer that must not be followed."""
    cdef int fd = open(path, O_RDONLY | O_CLOEXEC)
    cdef long end
    cdef void* base
    if fd < 0:
        error[0] = errno
        return NULL
    end = lseek(fd, 0, SEEK_END)
    size[0] = <size_t>end if end > 0 else 0
    if size[0] == 0:
        close(fd)
        return &EMPTY
    base = mmap(NULL, size[0], PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0)
    if base == MAP_FAILED:
        error[0] = errno
        base = NULL
    close(fd)
    return base


cdef void unmap(const void* base, size_t size) noexcept nogil:
    if base != NULL and size:
        munmap(<void*>base, size)


cdef bint map_segment(Pacer* p) noexcept nogil:
    """Maps the next segment as number `segment_count`."""
    cdef char path[4096]
    cdef PlanSegment* s
    cdef PlanSegment* grown
    cdef int32_t number = p.segment_count
    if number == p.segment_capacity:
        grown = <PlanSegment*>realloc(p.segments, <size_t>(number * 2 + 16) * sizeof(PlanSegment))
        if grown == NULL:
            p.error = ENOMEM
            return False
        p.segments = grown
        p.segment_capacity = number * 2 + 16
    s = &p.segments[number]
    memset(s, 0, sizeof(PlanSegment))
    snprintf(path, sizeof(path), "%s/%06d.rows", p.directory, number)
    s.rows = <const PlanRow*>map_file(path, &s.rows_bytes, &p.error)
    snprintf(path, sizeof(path), "%s/%06d.spans", p.directory, number)
    s.spans = <const PlanSpan*>map_file(path, &s.spans_bytes, &p.error)
    snprintf(path, sizeof(path), "%s/%06d.bytes", p.directory, number)
    s.bytes = <const uint8_t*>map_file(path, &s.bytes_bytes, &p.error)
    if s.rows == NULL or s.spans == NULL or s.bytes == NULL:
        if p.error == 0:
            p.error = EINVAL
        return False
    s.row_count = <int64_t>(s.rows_bytes // sizeof(PlanRow))
    s.first_row = 0 if number == 0 else p.segments[number - 1].first_row + p.segments[number - 1].row_count
    p.segment_count += 1
    return True


cdef void drop_segment(Pacer* p, int32_t number) noexcept nogil:
    cdef PlanSegment* s = &p.segments[number]
    unmap(s.rows, s.rows_bytes)
    unmap(s.spans, s.spans_bytes)
    unmap(s.bytes, s.bytes_bytes)
    s.rows = NULL
    s.spans = NULL
    s.bytes = NULL


cdef void pacer_release(Pacer* p, int32_t segment) noexcept nogil:
    """An exchange has no more need of its body's bytes."""
    cdef PlanSegment* s = &p.segments[segment]
    s.users -= 1
    if s.users == 0 and segment < p.current and s.rows != NULL:
        drop_segment(p, segment)


# -- the sorted part ----------------------------------------------------------------------------------------------------

cdef int next_segment(Pacer* p) noexcept nogil:
    """Moves the cursor to the start of the next segment."""
    cdef int32_t left = p.current
    if p.current + 1 >= p.segment_count:
        if load(&p.control.plan_segments) <= p.segment_count:
            # the order matters: what is final was written before it was called so
            if load(&p.control.plan_final) and load(&p.control.plan_segments) <= p.segment_count:
                return PACER_NOTHING
            return PACER_LATE_PLAN
        if not map_segment(p):
            return PACER_ERROR
    p.current += 1
    p.next_row = 0
    if left >= 0 and p.segments[left].users == 0 and p.segments[left].rows != NULL:
        drop_segment(p, left)
    return PACER_DUE


cdef int find_own(Pacer* p) noexcept nogil:
    """Puts the cursor on this worker's next planned row."""
    cdef PlanSegment* s
    cdef int result
    while True:
        if p.current >= 0:
            s = &p.segments[p.current]
            while p.next_row < s.row_count:
                if s.rows[p.next_row].worker == p.worker and s.rows[p.next_row].due >= 0:
                    return PACER_DUE
                p.next_row += 1
        result = next_segment(p)
        if result != PACER_DUE:
            return result


cdef bint find_claimed(Pacer* p) noexcept nogil:
    """Puts the cursor on the row of the number that is held. False: it is in a later segment."""
    cdef PlanSegment* s = &p.segments[p.current]
    if s.row_count and s.rows[0].session < 0:
        p.next_row = p.held - s.first_row
    else:
        # turns of a session lie side by side, sessions in their order: what a worker claims lies ever further on
        while p.next_row < s.row_count and s.rows[p.next_row].session != p.held:
            p.next_row += 1
    return p.next_row < s.row_count


cdef int claim(Pacer* p, Due* out) noexcept nogil:
    """Closed loop: the next unclaimed row of the whole plan, of sessions the first one of the next unclaimed session.

    A number that has been claimed is held until its row is there.
    """
    cdef int result
    cdef PlanSegment* s
    if p.held < 0:
        p.held = atomic_add(&p.control.claimed, 1)
    while p.current < 0 or not find_claimed(p):
        result = next_segment(p)
        if result != PACER_DUE:
            p.used_up = result == PACER_NOTHING
            return result
    s = &p.segments[p.current]
    out.row = s.rows + p.next_row
    out.segment = p.current
    s.users += 1
    p.held = -1
    return PACER_DUE


# -- the heap -----------------------------------------------------------------------------------------------------------

cdef bint pacer_push(Pacer* p, const Slot* slot) noexcept nogil:
    """A due time made during the run. False: out of memory."""
    cdef Slot* grown
    cdef uint32_t at, parent
    if p.heap_size == p.heap_capacity:
        grown = <Slot*>realloc(p.heap, <size_t>(p.heap_capacity * 2 + 64) * sizeof(Slot))
        if grown == NULL:
            p.error = ENOMEM
            return False
        p.heap = grown
        p.heap_capacity = p.heap_capacity * 2 + 64
    at = p.heap_size
    p.heap_size += 1
    while at:
        parent = (at - 1) // 2
        if p.heap[parent].due <= slot.due:
            break
        p.heap[at] = p.heap[parent]
        at = parent
    p.heap[at] = slot[0]
    if slot.row != NULL:
        p.segments[slot.segment].users += 1
    return True


cdef const PlanRow* pacer_next_turn(const Pacer* p, const PlanRow* row, int32_t segment) noexcept nogil:
    """The turn of the same session that follows `row`; NULL: it was the last. Turns lie side by side in a segment."""
    cdef const PlanSegment* s = &p.segments[segment]
    cdef const PlanRow* next = row + 1
    if row.session < 0 or next >= s.rows + s.row_count:
        return NULL
    if next.session != row.session or next.turn != row.turn + 1 or next.due >= 0:
        return NULL              # a turn with a time of its own (a trace's) is taken up by the cursor
    return next


cdef Slot heap_pop(Pacer* p) noexcept nogil:
    cdef Slot top = p.heap[0]
    cdef Slot last
    cdef uint32_t at = 0, child
    p.heap_size -= 1
    if p.heap_size == 0:
        return top
    last = p.heap[p.heap_size]
    while True:
        child = 2 * at + 1
        if child >= p.heap_size:
            break
        if child + 1 < p.heap_size and p.heap[child + 1].due < p.heap[child].due:
            child += 1
        if last.due <= p.heap[child].due:
            break
        p.heap[at] = p.heap[child]
        at = child
    p.heap[at] = last
    return top


# -- what the core asks -------------------------------------------------------------------------------------------------

cdef int pacer_next(Pacer* p, int64_t* due) noexcept nogil:
    """The earliest due time, absolute (NEVER if there is none at the moment)."""
    cdef int result = PACER_NOTHING
    due[0] = NEVER
    if not p.closed_loop and not p.heap_only:
        result = find_own(p)
        if result == PACER_DUE:
            due[0] = p.start + p.segments[p.current].rows[p.next_row].due
    if p.heap_size and p.heap[0].due < due[0]:
        due[0] = p.heap[0].due
        result = PACER_DUE
    return result


cdef int pacer_take(Pacer* p, int64_t now, Due* out) noexcept nogil:
    """Takes the earliest row that is due at `now` into `out`."""
    cdef int64_t due
    cdef int result = pacer_next(p, &due)
    cdef Slot slot
    if result != PACER_DUE or due > now:
        return result if result != PACER_DUE else PACER_NOTHING
    out.due = out.promised = due
    out.attempt = 0
    if p.heap_size and p.heap[0].due == due:
        slot = p.heap[0]
        if slot.row == NULL:
            if p.heap_only:      # nothing new is begun any more: the slot retires
                heap_pop(p)
                return PACER_NOTHING
            result = claim(p, out)
            if result == PACER_LATE_PLAN or result == PACER_ERROR:
                return result
            heap_pop(p)
            return result        # PACER_NOTHING: the plan is used up, the slot retires
        heap_pop(p)
        out.row = slot.row
        out.segment = slot.segment
        out.promised = slot.promised
        out.attempt = slot.attempt
        return PACER_DUE
    out.row = &p.segments[p.current].rows[p.next_row]
    out.segment = p.current
    p.segments[p.current].users += 1
    p.next_row += 1
    return PACER_DUE


cdef bint pacer_exhausted(Pacer* p) noexcept nogil:
    """Nothing will ever become due any more: the plan is used up, and nothing is left in the heap."""
    cdef int64_t due
    if p.closed_loop:
        return p.used_up and p.heap_size == 0
    return pacer_next(p, &due) == PACER_NOTHING and p.heap_size == 0


cdef const uint8_t* pacer_span(const Pacer* p, int32_t segment, const PlanSpan* span) noexcept nogil:
    """The bytes of a span; NULL if it does not lie in the plan (a damaged file)."""
    cdef size_t size = p.static_size if span.source == 0 else p.segments[segment].bytes_bytes
    if span.offset + span.size > size or span.offset + span.size < span.offset:
        return NULL
    return (p.static_bytes if span.source == 0 else p.segments[segment].bytes) + span.offset


cdef int pacer_open(Pacer* p, const char* directory, int worker, bint closed_loop, Control* control) noexcept nogil:
    """Maps the plan's shared bytes and its first segment. 0, or an errno."""
    cdef char path[4096]
    memset(p, 0, sizeof(Pacer))
    if strlen(directory) >= sizeof(p.directory):
        return ENAMETOOLONG
    strcpy(p.directory, directory)
    p.control = control
    p.worker = worker
    p.closed_loop = closed_loop
    p.current = p.held = -1
    snprintf(path, sizeof(path), "%s/static.bin", directory)
    p.static_bytes = <const uint8_t*>map_file(path, &p.static_size, &p.error)
    if p.static_bytes == NULL:
        return p.error
    if load(&control.plan_segments) > 0 and not map_segment(p):
        return p.error
    return 0


cdef void pacer_free(Pacer* p) noexcept nogil:
    cdef int32_t i
    for i in range(p.segment_count):
        if p.segments[i].rows != NULL:
            drop_segment(p, i)
    unmap(p.static_bytes, p.static_size)
    free(p.segments)
    free(p.heap)
    memset(p, 0, sizeof(Pacer))
