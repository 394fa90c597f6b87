"""Rows into mapped segments, histograms into a mapped file.

A row becomes visible when the segment header's `committed` count passes it; the count is stored after the row (x86 keeps
the order of stores, and a compiler barrier keeps the compiler from changing it). A request's row is committed at dispatch
with status `in_flight` and completed in place, so its segment stays mapped until its last open row is closed.

The helper thread is plain C under a mutex: it makes the next segment of each stream (zeros written, mmap, one store a
page) and gives old ones back. If it has not finished when the hot loop needs the segment, the hot loop waits for it (at most
DISK_WAIT_S, then the disk counts as failed) and counts that in `late_segments`.
"""

from libc.errno cimport EINTR, ENOMEM, ENOSPC, ETIMEDOUT, errno
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

import os

from llmgen.columns import (
    EVENT_DTYPE,
    HISTOGRAM_BUCKETS,
    HISTOGRAM_DTYPE,
    RECORD_VERSION,
    REQUEST_DTYPE,
    SEGMENT_BYTES,
    SEGMENT_HEADER_BYTES,
    SEGMENT_MAGIC,
    TIMELINE_DTYPE,
)


cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_t:
        pass
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    int pthread_create(pthread_t*, void*, void* (*)(void*) noexcept nogil, void*)
    int pthread_join(pthread_t, void**)
    int pthread_mutex_init(pthread_mutex_t*, void*)
    int pthread_mutex_lock(pthread_mutex_t*)
    int pthread_mutex_unlock(pthread_mutex_t*)
    int pthread_mutex_destroy(pthread_mutex_t*)
    int pthread_cond_init(pthread_cond_t*, void*)
    int pthread_cond_wait(pthread_cond_t*, pthread_mutex_t*)
    int pthread_cond_timedwait(pthread_cond_t*, pthread_mutex_t*, const timespec*)
    int pthread_cond_signal(pthread_cond_t*)
    int pthread_cond_destroy(pthread_cond_t*)

cdef extern from "<sys/mman.h>" nogil:
    enum: PROT_READ, PROT_WRITE, MAP_SHARED
    void* MAP_FAILED
    void* mmap(void*, size_t, int, int, int, long)
    int munmap(void*, size_t)

cdef extern from "<fcntl.h>" nogil:
    enum: O_RDWR, O_CREAT, O_TRUNC, O_CLOEXEC
    int open(const char*, int, ...)

cdef extern from "<unistd.h>" nogil:
    int close(int)
    int ftruncate(int, long)
    ssize_t pwrite(int, const void*, size_t, long)
    int unlink(const char*)

assert sizeof(RequestRow) == REQUEST_DTYPE.itemsize
assert sizeof(EventRow) == EVENT_DTYPE.itemsize
assert sizeof(TimelineRow) == TIMELINE_DTYPE.itemsize
assert sizeof(HistogramRow) == HISTOGRAM_DTYPE.itemsize
assert HIST_BUCKETS == HISTOGRAM_BUCKETS
# make_segment writes these three as C constants
assert SEGMENT_MAGIC == b"LLMGREC1" and RECORD_VERSION == 1 and SEGMENT_HEADER_BYTES == 4096

cdef enum:
    PAGE = 4096
    HEADER_BYTES = 4096
    SMALL_SEGMENT_BYTES = 256 << 10   # timeline and histograms: a few rows a second
    DISK_WAIT_S = 5                   # a disk that makes no 4 MiB in this time cannot carry a run
    DISCARDS = 64


cdef struct SegmentHeader:       # = columns.SEGMENT_HEADER_DTYPE
    char magic[8]
    uint32_t version, row_bytes, worker, sequence
    uint64_t first_row, committed


cdef struct Helper:
    pthread_t thread
    pthread_mutex_t mutex
    pthread_cond_t wake          # for the helper: something to do
    pthread_cond_t made          # for the hot loop: a segment is there, or cannot be
    bint stop, runs
    Records* records
    uint8_t* discard[DISCARDS]         # mappings to give back
    size_t discard_bytes[DISCARDS]
    int discards


cdef const char* stream_name(int stream) noexcept nogil:
    if stream == STREAM_REQUESTS:
        return "requests"
    if stream == STREAM_EVENTS:
        return "events"
    if stream == STREAM_TIMELINE:
        return "timeline"
    return "histograms"


cdef uint8_t ZEROS[64 << 10]


cdef int fill(int fd, size_t size) noexcept nogil:
    """Allocates a file by writing zeros; an errno, 0 when done. Costs a third of posix_fallocate, after which every page
    that is touched has to be read as zeros, given its buffers and marked on its own."""
    cdef size_t at = 0
    cdef ssize_t wrote
    while at < size:
        wrote = pwrite(fd, ZEROS, min(size - at, sizeof(ZEROS)), <long>at)
        if wrote > 0:
            at += <size_t>wrote
        elif wrote == 0:
            return ENOSPC
        elif errno != EINTR:
            return errno
    return 0


cdef uint8_t* make_segment(Records* r, int stream, uint32_t sequence, int* error) noexcept nogil:
    """Creates, allocates, maps and touches a segment's file; NULL with errno in `error`."""
    cdef char path[4096]
    cdef Stream* s = &r.streams[stream]
    snprintf(path, sizeof(path), "%s/%s-%06u.seg", r.directory, stream_name(stream), sequence)
    cdef int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
    if fd < 0:
        error[0] = errno
        return NULL
    cdef int failed = fill(fd, s.bytes)
    if failed:
        error[0] = failed
        close(fd)
        unlink(path)
        return NULL
    cdef uint8_t* base = <uint8_t*>mmap(NULL, s.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    if base == <uint8_t*>MAP_FAILED:
        error[0] = errno
        close(fd)
        return NULL
    close(fd)
    cdef size_t at = 0
    cdef SegmentHeader* header = <SegmentHeader*>base
    memcpy(header.magic, b"LLMGREC1", 8)
    header.version = 1
    header.row_bytes = s.row_bytes
    header.worker = <uint32_t>r.worker
    header.sequence = sequence
    header.first_row = <uint64_t>sequence * s.capacity
    header.committed = 0
    at = PAGE
    while at < s.bytes:
        base[at] = 0
        at += PAGE
    error[0] = 0
    return base


cdef void* helper_main(void* argument) noexcept nogil:
    cdef Helper* h = <Helper*>argument
    cdef int i, error
    cdef Stream* s
    cdef uint8_t* base
    cdef uint8_t* old
    cdef size_t old_bytes
    cdef uint32_t sequence
    pthread_mutex_lock(&h.mutex)
    while True:
        if h.discards:
            h.discards -= 1
            old = h.discard[h.discards]
            old_bytes = h.discard_bytes[h.discards]
            pthread_mutex_unlock(&h.mutex)
            munmap(old, old_bytes)
            pthread_mutex_lock(&h.mutex)
            continue
        if h.stop:
            break
        for i in range(STREAMS):
            s = &h.records.streams[i]
            if s.bytes and s.next_base == NULL and s.next_error == 0:
                break
        else:
            pthread_cond_wait(&h.wake, &h.mutex)
            continue
        sequence = s.next_sequence
        pthread_mutex_unlock(&h.mutex)
        base = make_segment(h.records, i, sequence, &error)
        pthread_mutex_lock(&h.mutex)
        s.next_base = base
        s.next_error = error
        pthread_cond_signal(&h.made)
    pthread_mutex_unlock(&h.mutex)
    return NULL


cdef void use_segment(Records* r, int stream, uint8_t* base) noexcept nogil:
    cdef Stream* s = &r.streams[stream]
    cdef uint32_t i
    cdef Segment* grown
    s.rows = base + HEADER_BYTES
    s.committed = &(<SegmentHeader*>base).committed
    s.used = 0
    if stream != STREAM_REQUESTS:
        return
    for i in range(r.segments_capacity):
        if r.segments[i].base == NULL:
            break
    else:
        i = r.segments_capacity
        grown = <Segment*>realloc(r.segments, 2 * i * sizeof(Segment))
        if grown == NULL:
            r.disk_error = ENOMEM
            return
        memset(grown + i, 0, i * sizeof(Segment))
        r.segments = grown
        r.segments_capacity = 2 * i
    r.segments[i].base = base
    r.segments[i].open_rows = 0
    r.segments[i].full = False
    s.segment = <int32_t>i


cdef bint records_rotate(Records* r, int stream) noexcept nogil:
    """Puts the next segment into use; False when the disk is full."""
    cdef Helper* h = <Helper*>r.helper
    cdef Stream* s = &r.streams[stream]
    cdef uint8_t* base
    cdef uint8_t* old = s.previous_base
    cdef int error
    cdef timespec until
    if r.disk_error or s.bytes == 0:
        return False
    pthread_mutex_lock(&h.mutex)
    if s.next_base == NULL and s.next_error == 0:
        r.late_segments += 1
        clock_gettime(CLOCK_REALTIME, &until)
        until.tv_sec += DISK_WAIT_S
        while s.next_base == NULL and s.next_error == 0:
            if pthread_cond_timedwait(&h.made, &h.mutex, &until) == ETIMEDOUT:
                s.next_error = ETIMEDOUT
    base = s.next_base
    error = s.next_error
    s.next_base = NULL
    if base == NULL:
        r.disk_error = error if error > 0 else ENOMEM
        pthread_mutex_unlock(&h.mutex)
        return False
    s.first_row += s.used
    s.next_sequence += 1
    if stream != STREAM_REQUESTS:
        s.previous_base = s.rows - HEADER_BYTES
    else:
        r.segments[s.segment].full = True
        if r.segments[s.segment].open_rows == 0:
            old = r.segments[s.segment].base
            r.segments[s.segment].base = NULL
    if old != NULL and h.discards < DISCARDS:
        h.discard[h.discards] = old
        h.discard_bytes[h.discards] = s.bytes
        h.discards += 1
    elif old != NULL:
        munmap(old, s.bytes)
    pthread_cond_signal(&h.wake)
    pthread_mutex_unlock(&h.mutex)
    use_segment(r, stream, base)
    return r.disk_error == 0


cdef void* records_append(Records* r, int stream) noexcept nogil:
    """Room for one more row, not committed yet; NULL when the disk is full."""
    cdef Stream* s = &r.streams[stream]
    if s.used == s.capacity and not records_rotate(r, stream):
        return NULL
    return s.rows + <size_t>s.used * s.row_bytes


cdef RequestRow* records_new_request(Records* r, uint32_t* number, int32_t* segment) noexcept nogil:
    """A fresh row of a request, to be filled and committed by the caller; NULL when the disk is full."""
    cdef Stream* s = &r.streams[STREAM_REQUESTS]
    cdef RequestRow* row = <RequestRow*>records_append(r, STREAM_REQUESTS)
    if row == NULL:
        return NULL
    number[0] = <uint32_t>(s.first_row + s.used)
    segment[0] = s.segment
    r.segments[s.segment].open_rows += 1
    return row


cdef void records_close_request(Records* r, int32_t segment) noexcept nogil:
    """The row is complete; its segment may go when all of its rows are."""
    cdef Helper* h = <Helper*>r.helper
    cdef Segment* g = &r.segments[segment]
    g.open_rows -= 1
    if g.open_rows == 0 and g.full:
        pthread_mutex_lock(&h.mutex)
        if h.discards < DISCARDS:
            h.discard[h.discards] = g.base
            h.discard_bytes[h.discards] = r.streams[STREAM_REQUESTS].bytes
            h.discards += 1
            pthread_cond_signal(&h.wake)
        else:
            munmap(g.base, r.streams[STREAM_REQUESTS].bytes)
        g.base = NULL
        pthread_mutex_unlock(&h.mutex)


cdef void records_flush_histograms(Records* r, uint32_t minute) noexcept nogil:
    """Appends what the histograms gained since the last call as the counts of `minute`."""
    cdef size_t i, count = r.histograms_bytes // sizeof(uint32_t)
    cdef uint32_t gained
    cdef HistogramRow* row
    cdef size_t group
    for i in range(count):
        gained = r.histograms[i] - r.histograms_before[i]
        if gained == 0:
            continue
        row = <HistogramRow*>records_append(r, STREAM_HISTOGRAMS)
        if row == NULL:
            return
        group = i // (HIST_METRICS * HIST_BUCKETS)
        row.minute = minute
        row.klass = <uint16_t>(group // 2)
        row.outside = <uint8_t>(group % 2)
        row.metric = <uint8_t>(i // HIST_BUCKETS % HIST_METRICS)
        row.bucket = <uint32_t>(i % HIST_BUCKETS)
        row.count = gained
        r.histograms_before[i] = r.histograms[i]
        records_commit(r, STREAM_HISTOGRAMS)


cdef class Recorder:
    """Writes the raw records of one worker below `directory` (created if absent).

    groups: number of histogram groups, two (inside, outside of the window) a class.
    Raises OSError if the first segments cannot be made (a disk that is full already).
    """

    @property
    def disk_error(self):
        return self.c.disk_error

    @property
    def events_dropped(self):
        return self.c.events_dropped

    @property
    def late_segments(self):
        return self.c.late_segments

    def __cinit__(self, str directory, int worker, int classes, bint record_events=True):
        cdef bytes path = os.fsencode(directory)
        if <size_t>len(path) >= sizeof(self.c.directory) - 1:
            raise OSError("path of the run directory is too long")
        os.makedirs(directory, exist_ok=True)
        memcpy(self.c.directory, <const char*>path, len(path) + 1)
        self.c.worker = worker
        self.c.segments_capacity = 16
        self.c.segments = <Segment*>calloc(self.c.segments_capacity, sizeof(Segment))
        if self.c.segments == NULL:
            raise MemoryError
        self.init_stream(STREAM_REQUESTS, sizeof(RequestRow), SEGMENT_BYTES)
        self.init_stream(STREAM_EVENTS, sizeof(EventRow), SEGMENT_BYTES if record_events else 0)
        self.init_stream(STREAM_TIMELINE, sizeof(TimelineRow), SMALL_SEGMENT_BYTES)
        self.init_stream(STREAM_HISTOGRAMS, sizeof(HistogramRow), SMALL_SEGMENT_BYTES)
        self.map_histograms(classes)
        self.start_helper()

    cdef int init_stream(self, int stream, size_t row_bytes, size_t segment_bytes) except -1:
        cdef Stream* s = &self.c.streams[stream]
        cdef int error = 0
        memset(s, 0, sizeof(Stream))
        s.row_bytes = <uint32_t>row_bytes
        s.segment = -1
        if segment_bytes == 0:
            return 0
        s.bytes = segment_bytes
        s.capacity = <uint32_t>((segment_bytes - HEADER_BYTES) // row_bytes)
        cdef uint8_t* base = make_segment(&self.c, stream, 0, &error)
        if base == NULL:
            raise OSError(error, os.strerror(error), os.fsdecode(<bytes>self.c.directory))
        s.next_sequence = 1
        use_segment(&self.c, stream, base)
        return 0

    cdef int map_histograms(self, int classes) except -1:
        self.c.groups = 2 * classes
        self.c.histograms_bytes = <size_t>self.c.groups * HIST_METRICS * HIST_BUCKETS * sizeof(uint32_t)
        cdef bytes path = os.path.join(<bytes>self.c.directory, b"histograms.live")
        cdef int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        if fd < 0:
            raise OSError(errno, os.strerror(errno), os.fsdecode(path))
        cdef int failed = fill(fd, self.c.histograms_bytes)
        if failed:
            close(fd)
            raise OSError(failed, os.strerror(failed), os.fsdecode(path))
        self.c.histograms = <uint32_t*>mmap(NULL, self.c.histograms_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        close(fd)
        if self.c.histograms == <uint32_t*>MAP_FAILED:
            self.c.histograms = NULL
            raise OSError(errno, os.strerror(errno), os.fsdecode(path))
        self.c.histograms_before = <uint32_t*>calloc(1, self.c.histograms_bytes)
        if self.c.histograms_before == NULL:
            raise MemoryError
        return 0

    cdef int start_helper(self) except -1:
        cdef Helper* h = <Helper*>calloc(1, sizeof(Helper))
        if h == NULL:
            raise MemoryError
        self.c.helper = h
        h.records = &self.c
        pthread_mutex_init(&h.mutex, NULL)
        pthread_cond_init(&h.wake, NULL)
        pthread_cond_init(&h.made, NULL)
        cdef int failed = pthread_create(&h.thread, NULL, helper_main, h)
        if failed:
            raise OSError(failed, os.strerror(failed))
        h.runs = True
        return 0

    # -- the end --------------------------------------------------------------------------------------------------

    def close(self):
        """Stops the helper, gives the mappings back and cuts the unused tails of the files. Safe to call twice."""
        cdef Helper* h = <Helper*>self.c.helper
        cdef Stream* s
        cdef int i
        cdef uint32_t j
        if h == NULL:
            return
        if h.runs:
            pthread_mutex_lock(&h.mutex)
            h.stop = True
            pthread_cond_signal(&h.wake)
            pthread_mutex_unlock(&h.mutex)
            with nogil:
                pthread_join(h.thread, NULL)
            h.runs = False
        for i in range(STREAMS):
            s = &self.c.streams[i]
            if s.bytes == 0:
                continue
            name = (<bytes>stream_name(i)).decode()
            if s.next_base != NULL:
                munmap(s.next_base, s.bytes)
                s.next_base = NULL
                self.drop_file(f"{name}-{s.next_sequence:06d}.seg")
            if s.rows != NULL:
                size = HEADER_BYTES + s.used * s.row_bytes
                if i != STREAM_REQUESTS:
                    munmap(s.rows - HEADER_BYTES, s.bytes)
                if s.previous_base != NULL:
                    munmap(s.previous_base, s.bytes)
                    s.previous_base = NULL
                s.rows = NULL
                self.cut_file(f"{name}-{s.next_sequence - 1:06d}.seg", size)
            s.capacity = s.used = 0
        for j in range(self.c.segments_capacity):
            if self.c.segments[j].base != NULL:
                munmap(self.c.segments[j].base, self.c.streams[STREAM_REQUESTS].bytes)
                self.c.segments[j].base = NULL
        for i in range(STREAMS):
            self.c.streams[i].bytes = 0
        if self.c.histograms != NULL:
            munmap(self.c.histograms, self.c.histograms_bytes)
            self.c.histograms = NULL
        pthread_mutex_destroy(&h.mutex)
        pthread_cond_destroy(&h.wake)
        pthread_cond_destroy(&h.made)
        free(h)
        self.c.helper = NULL

    def drop_file(self, str name):
        os.unlink(os.path.join(os.fsdecode(<bytes>self.c.directory), name))

    def cut_file(self, str name, size_t size):
        os.truncate(os.path.join(os.fsdecode(<bytes>self.c.directory), name), size)

    def __dealloc__(self):
        if self.c.helper != NULL:
            self.close()
        free(self.c.segments)
        free(self.c.histograms_before)
