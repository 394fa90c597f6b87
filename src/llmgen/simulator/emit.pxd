# What a stream sends when it is due, faults included.

from libc.stdint cimport int64_t, uint32_t

from llmgen.simulator.server cimport Server, Stream


cdef enum Emitted:
    EMIT_AGAIN = 0               # push it with its new due time
    EMIT_OVER = 1                # the answer is complete; s.fault tells how
    EMIT_WAIT = 2                # alive, but not due: stalled, or waiting for the client to read
    EMIT_GONE = 3                # the stream is freed
    EMIT_ERRAND = 4              # no answer: the connection's SETTINGS are due
    EMIT_ON = 5                  # internal: the fault does not stop this event


cdef enum:
    HEAD_AHEAD_NS = 1000000      # the head goes out at once if the first token is further away than this
    SLOW_NS = 1000000000         # slow: a byte a second
    SPLIT_NS = 2000000           # split: the second half of a write; long enough that the halves are read apart


cdef void log_request(Server* v, Stream* s) noexcept nogil
cdef void log_mark(Server* v, int mark, int64_t t, uint32_t replica, const Stream* s) noexcept nogil
cdef Emitted emit(Server* v, Stream* s) noexcept nogil
cdef bint emit_head(Server* v, Stream* s) noexcept nogil
