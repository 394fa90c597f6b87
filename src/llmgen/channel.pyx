"""A TLS session as plain C functions for the connection (see channel.pxd)."""

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t
from libc.string cimport memcpy
from posix.uio cimport iovec

from llmgen.tls cimport TLS_CLOSED, TLS_ERROR, Endpoint, Session


cdef void* channel_open(void* endpoint) noexcept with gil:
    cdef Session session
    try:
        session = Session(<Endpoint>endpoint)
    except Exception:
        return NULL
    Py_INCREF(session)
    return <void*>session


cdef int channel_handshake(void* session) noexcept with gil:
    try:
        return (<Session>session).handshake()
    except Exception:
        return TLS_ERROR


cdef bint channel_agreed(void* session, int protocol) noexcept with gil:
    return ((<Session>session).alpn == "h2") == (protocol == 2)


cdef bint channel_resumed(void* session) noexcept with gil:
    return (<Session>session).reused


cdef int channel_give(void* session, const uint8_t* cipher, size_t size) noexcept with gil:
    try:
        (<Session>session).give(cipher, size)
    except Exception:
        return TLS_ERROR
    return 0


cdef ssize_t channel_read(void* session, uint8_t* plain, size_t cap) noexcept with gil:
    try:
        return (<Session>session).read_into(plain, cap)
    except Exception:
        return TLS_ERROR


cdef int channel_write(void* session, const iovec* parts, int count) noexcept with gil:
    try:
        return (<Session>session).write(parts, count)
    except Exception:
        return TLS_ERROR


cdef bint channel_pending(void* session, iovec* out) noexcept with gil:
    try:
        return (<Session>session).pending_out(out) != 0
    except Exception:
        return False


cdef void channel_sent(void* session, size_t size) noexcept with gil:
    (<Session>session).sent(size)


cdef bint channel_ended_well(void* session) noexcept with gil:
    try:
        return (<Session>session).eof() == TLS_CLOSED
    except Exception:
        return False


cdef void channel_reason(void* session, char* out, size_t size) noexcept with gil:
    cdef bytes text = ((<Session>session).error or "TLS failed").encode("utf-8", "replace")[: size - 1]
    memcpy(out, <const char*>text, len(text) + 1)


cdef void channel_free(void* session) noexcept with gil:
    Py_DECREF(<Session>session)
