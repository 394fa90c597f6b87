# TLS between a connection's reads and its protocol: Python's ssl on memory BIOs. Every call needs the GIL.
#
#   s = Session(endpoint)
#   s.handshake()                            TLS_MORE; until TLS_DONE: send what pending_out has, give what was read
#   s.give(cipher, size)                     bytes of one read of the socket; copied
#   while (n = s.read_into(plain, cap)) > 0  plain bytes of at most one record a call
#   s.write(parts, count)                    plain bytes to be sent
#   while s.pending_out(&out): send; s.sent(n)
#
# Look at pending_out after every handshake, read_into, write and close, also after a TLS_ERROR: OpenSSL answers key
# updates by itself and tells the peer by an alert what was wrong. A result below zero is final, and `error` says why.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from posix.uio cimport iovec


cdef enum:
    TLS_MORE = 0                 # bytes of the peer are needed
    TLS_DONE = 1
    TLS_CLOSED = -1              # the peer sent close_notify: what came before is complete
    TLS_ERROR = -2


# One end of TLS connections: whom to talk to, with what; for a client also the ticket that shortens the next handshake.
cdef class Endpoint:
    cdef readonly object context             # ssl.SSLContext
    cdef readonly object host                # name or address that the certificate must be valid for, also sent as SNI
    cdef readonly bint server
    cdef readonly object ticket              # ssl.SSLSession | None: the newest that can be resumed
    cdef readonly uint64_t handshakes        # completed
    cdef readonly uint64_t resumed           # of them, by a ticket


cdef class Session:
    # What the record and the report tell, known when `established`.
    cdef readonly str error
    cdef readonly str alpn                   # None: not negotiated
    cdef readonly str version
    cdef readonly str cipher
    cdef readonly bint established
    cdef readonly bint reused
    # OpenSSL's object, its two queues of encrypted bytes, and their bound methods.
    cdef Endpoint endpoint
    cdef object tls, incoming, outgoing
    cdef object tls_read, tls_write, put, take_out
    # Encrypted bytes taken from `outgoing` and not sent yet.
    cdef bytes out
    cdef size_t out_at
    # Where in the peer's records the given bytes end: a read is tried only when it can give something, because OpenSSL
    # says "not yet" by an exception. `partial`: bytes of the record that is not whole yet; 0 at a boundary.
    cdef uint8_t head[5]
    cdef uint32_t head_size
    cdef uint32_t body_left
    cdef size_t partial
    cdef bint foreign                        # these are no TLS records; OpenSSL shall say so
    cdef bint leftover                       # the last read filled its buffer: OpenSSL may hold more of the record
    cdef bint started
    cdef bint ticket_asked
    cdef bint ticket_kept
    cdef int final                           # TLS_CLOSED or TLS_ERROR once reached

    # Encrypted bytes from the socket, copied.
    cdef int give(self, const uint8_t* cipher, size_t size) except -3

    # TLS_MORE, TLS_DONE or TLS_ERROR. The first call of a client makes its first message.
    cdef int handshake(self) except -3

    # Plain bytes written to `plain` (of at most one record), TLS_MORE, TLS_CLOSED or TLS_ERROR.
    cdef Py_ssize_t read_into(self, uint8_t* plain, size_t cap) except -3

    # Encrypts the parts into as few records as they fit in: TLS_DONE or TLS_ERROR. Only when established.
    cdef int write(self, const iovec* parts, int count) except -3

    # Encrypted bytes to be sent: 1, and `out` set, valid until the next call of pending_out; or 0.
    cdef int pending_out(self, iovec* out) except -3

    # The first `size` bytes of what pending_out described were sent.
    cdef void sent(self, size_t size) noexcept

    # The socket ended, and all that it gave was read: TLS_CLOSED after close_notify, else TLS_ERROR (cut off).
    cdef int eof(self) except -3

    # Says goodbye: pending_out has the close_notify. Nothing can be written any more.
    cdef int close(self) except -3

    cdef int write_plain(self, const uint8_t* plain, size_t size) except -3
    cdef int fail(self, error) except -3
    cdef int keep_ticket(self) except -3
    cdef bint readable(self) except -1
    cdef int follow_records(self, const uint8_t* p, size_t size) noexcept
