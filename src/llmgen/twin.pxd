# The reference twin on a connection: wire/reference.py (h2) behind the calls that connection.pyx makes of wire/http2.
# Python throughout, and slow: it is there to be compared with. Every call needs the GIL.

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from posix.uio cimport iovec

from llmgen.wire.sink cimport Sink


cdef class Twin:
    cdef object connection       # reference.H2Connection
    cdef dict users              # stream -> what submit was given
    cdef bytes out               # taken, not sent yet
    cdef size_t out_at
    cdef object decoder          # of our own header blocks
    cdef readonly bint ready
    cdef readonly bint leaving   # GOAWAY was received
    cdef readonly str reason

    cdef int32_t submit(self, uint64_t user, const uint8_t* block, size_t size, const iovec* body, int count) except? -3
    cdef int feed(self, const Sink* sink, const uint8_t* data, size_t size) except -3
    cdef int eof(self, const Sink* sink) except -3
    cdef bint pending(self, iovec* out) except -1
    cdef int sent(self, const Sink* sink, size_t size) except -1
    cdef int end(self, const Sink* sink, object stream, int how, uint32_t code) except -1
    cdef int tell(self, const Sink* sink, tuple event) except -1
