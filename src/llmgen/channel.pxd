# A TLS session as plain C functions for the connection: `noexcept`, the session behind a pointer. OpenSSL sits behind
# Python's ssl, so each takes the GIL, which a worker's one thread has anyway.

from libc.stdint cimport uint8_t
from posix.uio cimport iovec


cdef void* channel_open(void* endpoint) noexcept nogil                  # a tls.Endpoint; NULL: no memory
cdef int channel_handshake(void* session) noexcept nogil                # tls.TLS_MORE, TLS_DONE, TLS_ERROR
cdef bint channel_agreed(void* session, int protocol) noexcept nogil    # ALPN fits HTTP/1.1 (1) or HTTP/2 (2)
cdef bint channel_resumed(void* session) noexcept nogil
cdef int channel_give(void* session, const uint8_t* cipher, size_t size) noexcept nogil      # 0 or TLS_ERROR
cdef ssize_t channel_read(void* session, uint8_t* plain, size_t cap) noexcept nogil          # as Session.read_into
cdef int channel_write(void* session, const iovec* parts, int count) noexcept nogil          # TLS_DONE or TLS_ERROR
cdef bint channel_pending(void* session, iovec* out) noexcept nogil
cdef void channel_sent(void* session, size_t size) noexcept nogil
cdef bint channel_ended_well(void* session) noexcept nogil              # the end of the socket came after close_notify
cdef void channel_reason(void* session, char* out, size_t size) noexcept nogil
cdef void channel_free(void* session) noexcept nogil
