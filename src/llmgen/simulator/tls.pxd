# TLS sessions for a loop that holds no GIL: llmgen.tls behind a pointer. Every function takes the GIL for itself.

from libc.stdint cimport uint8_t
from posix.uio cimport iovec


cdef enum Secured:
    SECURED_NOT_YET = 0
    SECURED = 1                  # the first bytes tell the protocol
    SECURED_HTTP1 = 2            # ALPN told it
    SECURED_HTTP2 = 3
    SECURED_FAILED = -1


cdef void* session_new(void* endpoint) noexcept with gil                           # NULL: failed
cdef void session_free(void* session) noexcept with gil
cdef Secured session_give(void* session, const uint8_t* data, size_t size) noexcept with gil
cdef Py_ssize_t session_read(void* session, uint8_t* plain, size_t size) noexcept with gil    # 0: no more, -1: over
cdef bint session_write(void* session, const iovec* parts, int count) noexcept with gil
cdef bint session_pending(void* session, iovec* piece) noexcept with gil           # until sent, always the same piece
cdef void session_sent(void* session, size_t size) noexcept with gil
cdef void session_goodbye(void* session) noexcept with gil
