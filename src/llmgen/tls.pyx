"""TLS of a connection, by Python's ssl module on memory BIOs; and the SSLContext that a configuration asks for.

Verification, hostname checks and TLS 1.2 as the least are on; only `insecure` turns the first two off. Renegotiation is
refused. An end of the socket without close_notify is an error, not an end: OpenSSL is told not to ignore it.
"""

cimport cython
from cpython.buffer cimport PyBUF_READ, PyBUF_WRITE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy
from posix.uio cimport iovec

import ssl

from llmgen.errors import ConfigError


cdef enum:
    RECORD_HEAD = 5              # RFC 8446 5.1: type, version, length
    RECORD_MOST = 16384 + 2048   # TLSCiphertext.length of TLS 1.2 (RFC 5246 6.2.3); 1.3 has less
    TYPE_LEAST = 20              # change_cipher_spec ...
    TYPE_MOST = 24               # ... to heartbeat: the first byte of every record
    PLAIN_MOST = 16384           # of one record (RFC 8446 5.1)


# Parts of a write on their way into one record, or what `read` hands out; used within one call, under the GIL.
cdef uint8_t GATHERED[PLAIN_MOST]

cdef object WANTS_READ = ssl.SSLWantReadError
cdef object SSL_ERROR = ssl.SSLError
cdef object MEMORY_BIO = ssl.MemoryBIO

# What OpenSSL's commonest reasons mean to the person who reads the report.
cdef dict MEANINGS = {
    "WRONG_VERSION_NUMBER": "the peer does not speak TLS on this port",
    "HTTP_REQUEST": "the peer does not speak TLS on this port",
    "UNSUPPORTED_PROTOCOL": "no TLS version in common; at least 1.2 is needed",
    "TLSV1_ALERT_PROTOCOL_VERSION": "no TLS version in common; at least 1.2 is needed",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the peer requires a client certificate (--cert, --key)",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the peer refused the handshake; it may require a client certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "the peer does not trust our client certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the peer does not accept our client certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "our client certificate has expired",
    "TLSV1_ALERT_NO_APPLICATION_PROTOCOL": "the peer speaks none of the protocols offered by ALPN",
    "TLSV1_UNRECOGNIZED_NAME": "the peer has no certificate for this name",
}


def make_context(*, insecure, ca, cert, key, alpn):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca is None:
        context.load_default_certs()
    else:
        load_authorities(context, ca)
    if cert is not None:
        load_identity(context, cert, key)
    elif key is not None:
        raise ConfigError(f"target.key={key!r}: a key needs its certificate (--cert FILE)")
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


cdef int load_authorities(context, ca) except -1:
    try:
        context.load_verify_locations(cafile=ca)
    except ssl.SSLError:
        raise ConfigError(f"target.ca={ca!r}: holds no certificate in PEM form that can be read") from None
    except OSError as error:
        raise ConfigError(f"target.ca={ca!r}: cannot be read: {error.strerror}") from None
    return 0


cdef int load_identity(context, cert, key) except -1:
    def no_password():
        # Without it OpenSSL would ask on the terminal.
        raise ConfigError(f"target.key={key or cert!r}: is protected by a password; give a key without one")

    for name, path in (("cert", cert), ("key", key)):
        if path is not None:
            try:
                with open(path, "rb"):
                    pass
            except OSError as error:
                raise ConfigError(f"target.{name}={path!r}: cannot be read: {error.strerror}") from None
    try:
        context.load_cert_chain(cert, key, no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"target.key={key or cert!r}: is not the key of the certificate {cert!r}") from None
        if key is None:
            raise ConfigError(f"target.cert={cert!r}: holds no certificate with its key in PEM form; give --key FILE "
                              "if the key is in another file") from None
        raise ConfigError(f"target.cert={cert!r}: it and target.key={key!r} must hold a certificate and its key in "
                          f"PEM form ({error.reason or 'unreadable'})") from None
    return 0


@cython.final
cdef class Endpoint:
    """Whom to talk TLS with; see the stub for the interface."""

    def __cinit__(self, context, host, *, bint server=False):
        if not server and not host and context.check_hostname:
            raise ValueError("a client needs the host's name unless it is told not to check it")
        self.context = context
        self.host = host
        self.server = server


@cython.final
cdef class Session:
    """One TLS connection; see the stub for the interface."""

    def __cinit__(self, Endpoint endpoint not None):
        self.endpoint = endpoint
        self.incoming = MEMORY_BIO()
        self.outgoing = MEMORY_BIO()
        self.tls = endpoint.context.wrap_bio(
            self.incoming, self.outgoing, server_side=endpoint.server,
            server_hostname=None if endpoint.server else endpoint.host, session=endpoint.ticket,
        )
        self.tls_read = self.tls.read
        self.tls_write = self.tls.write
        self.put = self.incoming.write
        self.take_out = self.outgoing.read
        self.ticket_asked = self.ticket_kept = endpoint.server

    cdef int give(self, const uint8_t* cipher, size_t size) except -3:
        if size == 0 or self.final == TLS_ERROR:
            return TLS_MORE
        self.put(PyMemoryView_FromMemory(<char*>cipher, size, PyBUF_READ))
        self.follow_records(cipher, size)
        return TLS_MORE

    cdef int follow_records(self, const uint8_t* p, size_t size) noexcept:
        """Moves on in the peer's records, whose heads are never encrypted."""
        cdef size_t n
        while size and not self.foreign:
            if self.head_size < RECORD_HEAD:
                n = min(size, <size_t>(RECORD_HEAD - self.head_size))
                memcpy(self.head + self.head_size, p, n)
                self.head_size += <uint32_t>n
                if self.head_size == RECORD_HEAD:
                    self.body_left = <uint32_t>self.head[3] << 8 | self.head[4]
                    self.foreign = not TYPE_LEAST <= self.head[0] <= TYPE_MOST or self.body_left > RECORD_MOST
            else:
                n = min(size, <size_t>self.body_left)
                self.body_left -= <uint32_t>n
            self.partial += n
            p += n
            size -= n
            if self.head_size == RECORD_HEAD and self.body_left == 0:
                self.head_size = 0
                self.partial = 0
        return 0

    cdef bint readable(self) except -1:
        """Whether OpenSSL has a whole record before it, or must be heard about what is none."""
        cdef size_t pending
        if self.leftover or self.foreign:
            return True
        pending = self.incoming.pending
        return pending > self.partial

    cdef int handshake(self) except -3:
        if self.established:
            return TLS_DONE
        if self.final:
            return self.final
        if self.started and not self.readable():
            return TLS_MORE
        self.started = True
        try:
            self.tls.do_handshake()
        except WANTS_READ:
            return TLS_MORE
        except SSL_ERROR as error:
            return self.fail(error)
        self.alpn = self.tls.selected_alpn_protocol()
        self.version = self.tls.version()
        self.cipher = self.tls.cipher()[0]
        self.reused = self.tls.session_reused
        self.established = True
        self.endpoint.handshakes += 1
        self.endpoint.resumed += self.reused
        return TLS_DONE

    cdef Py_ssize_t read_into(self, uint8_t* plain, size_t cap) except -3:
        cdef Py_ssize_t size
        if self.final:
            return self.final
        if not self.readable():
            return TLS_MORE
        try:
            size = self.tls_read(cap, PyMemoryView_FromMemory(<char*>plain, cap, PyBUF_WRITE))
        except WANTS_READ:
            self.leftover = False
            return TLS_MORE
        except SSL_ERROR as error:
            return self.fail(error)
        if size == 0:
            self.final = TLS_CLOSED
            return TLS_CLOSED
        self.leftover = <size_t>size == cap
        if not self.ticket_asked:
            self.keep_ticket()
        return size

    cdef int keep_ticket(self) except -3:
        """Keeps what the next connection can resume. Tickets of TLS 1.3 come after the handshake, as a rule before any
        data. To ask costs a copy of the session, so it is done with the first data and at the end, and only if the
        last ticket did not serve this time."""
        self.ticket_asked = True
        if self.reused or self.ticket_kept:
            return 0
        ticket = self.tls.session
        if ticket is not None and (ticket.has_ticket or (self.version != "TLSv1.3" and ticket.id)):
            self.endpoint.ticket = ticket
            self.ticket_kept = True
        return 0

    cdef int write(self, const iovec* parts, int count) except -3:
        cdef size_t used = 0, at, n
        cdef const uint8_t* part
        cdef int i
        if not self.established:
            raise RuntimeError("plain bytes were written before the handshake was done")
        if self.final == TLS_ERROR:
            return TLS_ERROR
        for i in range(count):
            part, at = <const uint8_t*>parts[i].iov_base, 0
            while at < parts[i].iov_len:
                if used == 0 and parts[i].iov_len - at >= PLAIN_MOST:
                    n = parts[i].iov_len - at       # whole records: no need to gather; the rest is gathered
                    n -= n % PLAIN_MOST
                    if self.write_plain(part + at, n) != TLS_DONE:
                        return TLS_ERROR
                else:
                    n = min(parts[i].iov_len - at, PLAIN_MOST - used)
                    memcpy(GATHERED + used, part + at, n)
                    used += n
                    if used == PLAIN_MOST:
                        if self.write_plain(GATHERED, used) != TLS_DONE:
                            return TLS_ERROR
                        used = 0
                at += n
        if used and self.write_plain(GATHERED, used) != TLS_DONE:
            return TLS_ERROR
        return TLS_DONE

    cdef int write_plain(self, const uint8_t* plain, size_t size) except -3:
        cdef size_t done = 0, n
        while done < size:
            try:
                n = self.tls_write(PyMemoryView_FromMemory(<char*>plain + done, size - done, PyBUF_READ))
            except SSL_ERROR as error:
                return self.fail(error)
            done += n
        return TLS_DONE

    cdef int pending_out(self, iovec* out) except -3:
        if self.out is None:
            if not self.outgoing.pending:
                return 0
            self.out = self.take_out()
            self.out_at = 0
        out.iov_base = <char*>self.out + self.out_at
        out.iov_len = len(self.out) - self.out_at
        return 1

    cdef void sent(self, size_t size) noexcept:
        self.out_at += size
        if self.out is not None and self.out_at >= <size_t>len(self.out):
            self.out = None

    cdef int eof(self) except -3:
        if self.final:
            return self.final
        self.error = ("the connection ended without TLS's close_notify" if self.established
                      else "the connection ended during the TLS handshake")
        self.final = TLS_ERROR
        return TLS_ERROR

    cdef int close(self) except -3:
        if not self.established or self.final == TLS_ERROR:
            return TLS_ERROR
        self.keep_ticket()
        try:
            self.tls.unwrap()
        except SSL_ERROR:
            pass                 # the peer's close_notify is not waited for; ours is written
        self.final = TLS_CLOSED
        return TLS_CLOSED

    cdef int fail(self, error) except -3:
        # Python knows no name of some reasons, only OpenSSL's text: "[SSL] tlsv1 alert ... (_ssl.c:1006)".
        reason = error.reason or str(error).rpartition(" (")[0].rpartition("] ")[2].upper().replace(" ", "_")
        if isinstance(error, ssl.SSLCertVerificationError):
            self.error = f"the certificate of {self.endpoint.host} is not accepted: {error.verify_message}"
        elif reason in MEANINGS:
            self.error = f"{MEANINGS[reason]} ({reason})"
        else:
            self.error = reason or str(error)
        self.final = TLS_ERROR
        return TLS_ERROR

    # The Python face.

    def do_handshake(self):
        return self.handshake() == TLS_DONE

    def feed(self, const uint8_t[::1] data):
        if data.shape[0]:
            self.give(&data[0], data.shape[0])

    def read(self, size_t cap=PLAIN_MOST):
        cdef Py_ssize_t size = self.read_into(GATHERED, max(<size_t>1, min(cap, <size_t>PLAIN_MOST)))
        if size > 0:
            return <bytes>GATHERED[:size]
        return None if size == TLS_MORE else b""

    def send(self, *parts):
        cdef iovec pieces[16]
        cdef bytes part
        cdef int count = 0
        if len(parts) > 16:
            raise ValueError("at most 16 parts")
        for part in parts:
            pieces[count].iov_base = <char*>part
            pieces[count].iov_len = len(part)
            count += 1
        return self.write(pieces, count) == TLS_DONE

    def take(self, size_t most=1 << 30):
        cdef iovec out
        if not self.pending_out(&out):
            return b""
        data = (<char*>out.iov_base)[:min(out.iov_len, most)]
        self.sent(len(data))
        return data

    def end(self):
        return self.eof() == TLS_CLOSED

    def goodbye(self):
        self.close()

    @property
    def closed(self):
        return self.final == TLS_CLOSED
