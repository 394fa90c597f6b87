# The reference twin on a connection: wire/reference.py (h2) behind the calls that connection.pyx makes of wire/http2.
# Python throughout, and slow: it is there to be compared with. Each function takes the GIL.

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from posix.uio cimport iovec

from llmgen.wire.sink cimport Sink


cdef void* twin_new() noexcept nogil                                    # NULL: no memory
cdef int twin_feed(void* twin, const Sink* sink, const uint8_t* data, size_t size) noexcept nogil    # -1: lost
cdef void twin_eof(void* twin, const Sink* sink) noexcept nogil
cdef int32_t twin_submit(
    void* twin, uint64_t user, const uint8_t* block, size_t size, const iovec* body, int count) noexcept nogil
cdef bint twin_pending(void* twin, iovec* out) noexcept nogil
cdef void twin_sent(void* twin, const Sink* sink, size_t size) noexcept nogil
cdef uint32_t twin_capacity(void* twin) noexcept nogil
cdef void twin_cancel(void* twin, int32_t stream) noexcept nogil
cdef bint twin_ready(void* twin) noexcept nogil
cdef bint twin_leaving(void* twin) noexcept nogil                       # GOAWAY was received
cdef void twin_reason(void* twin, char* out, size_t size) noexcept nogil
cdef void twin_free(void* twin) noexcept nogil


cdef class Twin:
    cdef object connection       # reference.H2Connection
    cdef dict users              # stream -> what submit was given
    cdef bytes out               # taken, not sent yet
    cdef size_t out_at
    cdef object decoder          # of our own header blocks
    cdef bint ready
    cdef bint leaving
    cdef str reason

    cdef int32_t submit(self, uint64_t user, const uint8_t* block, size_t size, const iovec* body, int count) except? -3
    cdef int feed(self, const Sink* sink, const uint8_t* data, size_t size) except -3
    cdef int eof(self, const Sink* sink) except -3
    cdef bint pending(self, iovec* out) except? -3
    cdef int sent(self, const Sink* sink, size_t size) except -1
    cdef int end(self, const Sink* sink, object stream, int how, uint32_t code) except -1
    cdef int tell(self, const Sink* sink, tuple event) except -1
