# The truth log on the hot path: fixed rows into one buffer, written out when the loop is idle or the buffer is full.
# truth.py has the same layout as numpy dtypes, and the reader; a test compares the two.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from posix.unistd cimport write


cdef enum:
    TRUTH_BUFFER_ROWS = 16384    # 640 KiB: a third of a second at 50,000 events/s
    TRUTH_IDLE_ROWS = 1024       # so many are worth a write while nothing is due

cdef enum TruthKind:
    TRUTH_REQUEST = 0            # t: kernel stamp of the read that completed the request
    TRUTH_WRITE = 1              # t: just before the syscall
    TRUTH_END = 2                # the answer is over, `detail` tells how
    TRUTH_VOID = 3               # a write that did not come about
    TRUTH_MARK = 4               # t: by the engine's clock; `detail` is its Mark, `connection` the replica


cdef struct TruthRow:
    int64_t t                    # monotonic ns
    int64_t index                # of x-request-id, -1: none
    uint32_t serial              # number of the request at this endpoint
    uint32_t connection
    uint32_t stream              # HTTP/2 stream id, 0 on HTTP/1.1
    uint32_t tokens              # request: planned; write: in this write; end: sent
    uint32_t input_tokens        # request: words of the prompt
    uint16_t events              # write: SSE events of this stream, [DONE] excepted
    uint8_t kind
    uint8_t detail               # request and end: fault; write: 1 if not all was handed to the kernel at once


cdef struct TruthLog:
    int fd                       # -1: no log
    TruthRow* rows
    size_t count
    int64_t flushed_ns
    int error                    # errno of the write that failed; the log stops there


cdef inline bint truth_open(TruthLog* log, int fd) noexcept nogil:
    log.fd = fd
    log.count = 0
    log.error = 0
    log.flushed_ns = 0
    log.rows = NULL
    if fd >= 0:
        log.rows = <TruthRow*>calloc(TRUTH_BUFFER_ROWS, sizeof(TruthRow))
        return log.rows != NULL
    return True


cdef inline void truth_flush(TruthLog* log, int64_t now) noexcept nogil:
    cdef const uint8_t* at = <const uint8_t*>log.rows
    cdef size_t left = log.count * sizeof(TruthRow)
    cdef ssize_t done
    while left > 0 and log.error == 0:
        done = write(log.fd, at, left)
        if done < 0:
            if errno != EINTR:
                log.error = errno
        else:
            at += done
            left -= done
    log.count = 0
    log.flushed_ns = now


cdef inline TruthRow* truth_row(TruthLog* log, int64_t now) noexcept nogil:
    """The next row to fill. Only when log.fd >= 0."""
    if log.count == TRUTH_BUFFER_ROWS:
        truth_flush(log, now)
    log.count += 1
    return &log.rows[log.count - 1]


cdef inline int truth_close(TruthLog* log) noexcept nogil:
    """Writes out what is left; 0, or the errno with which the log broke off."""
    if log.rows != NULL:
        truth_flush(log, 0)
        free(log.rows)
        log.rows = NULL
    log.fd = -1
    return log.error


cdef extern from "errno.h" nogil:
    int errno
    int EINTR
