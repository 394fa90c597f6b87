"""TLS sessions for a loop that holds no GIL."""

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t
from posix.uio cimport iovec

from llmgen.tls cimport TLS_DONE, TLS_ERROR, TLS_MORE, Endpoint, Session


cdef void* session_new(void* endpoint) noexcept with gil:
    """A session of a server's Endpoint, a reference of the caller's."""
    try:
        session = Session(<Endpoint>endpoint)
    except Exception:
        return NULL
    Py_INCREF(session)
    return <void*>session


cdef void session_free(void* session) noexcept with gil:
    Py_DECREF(<object>session)


cdef Secured session_give(void* pointer, const uint8_t* data, size_t size) noexcept with gil:
    """Takes bytes of the socket and goes on with the handshake, if it is not done. Look at session_pending after it."""
    cdef Session session = <Session>pointer
    cdef int result
    try:
        session.give(data, size)
        result = session.handshake()
    except Exception:
        return SECURED_FAILED
    if result == TLS_MORE:
        return SECURED_NOT_YET
    if result != TLS_DONE:
        return SECURED_FAILED
    if session.alpn is None:
        return SECURED
    return SECURED_HTTP2 if session.alpn == "h2" else SECURED_HTTP1


cdef Py_ssize_t session_read(void* session, uint8_t* plain, size_t size) noexcept with gil:
    cdef Py_ssize_t got
    try:
        got = (<Session>session).read_into(plain, size)
    except Exception:
        return -1
    return got if got >= 0 else -1


cdef bint session_write(void* session, const iovec* parts, int count) noexcept with gil:
    try:
        return (<Session>session).write(parts, count) == TLS_DONE
    except Exception:
        return False


cdef bint session_pending(void* session, iovec* piece) noexcept with gil:
    try:
        return (<Session>session).pending_out(piece) == 1
    except Exception:
        return False


cdef void session_sent(void* session, size_t size) noexcept with gil:
    (<Session>session).sent(size)


cdef void session_goodbye(void* session) noexcept with gil:
    """Queues close_notify; a peer that broke TLS gets none."""
    try:
        if (<Session>session).established:
            (<Session>session).close()
    except Exception:
        return
