"""The reference twin on a connection (`--http2-engine h2`): events of reference.H2Connection become calls of the sink."""

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from posix.uio cimport iovec

from llmgen.wire.sink cimport END_EOF, END_OK, END_PROTOCOL, END_RESET, END_UNPROCESSED, Header, Sink

from llmgen.wire.hpack import Decoder
from llmgen.wire.http2 import Error
from llmgen.wire.reference import H2Connection

cdef enum:
    MOST_HEADERS = 64            # of an answer that are shown to the sink; it looks for two
    REFUSED_STREAM = 7


cdef class Twin:
    """One HTTP/2 connection on h2."""

    def __cinit__(self):
        self.connection = H2Connection()
        self.users = {}
        self.out = self.connection.open()
        self.decoder = Decoder()
        self.reason = ""

    def cancel(self, stream):
        """RST_STREAM; the sink is not called any more for this stream."""
        if self.users.pop(stream, None) is not None and stream in self.connection.users:
            self.connection.reset(stream)

    cdef int32_t submit(self, uint64_t user, const uint8_t* block, size_t size, const iovec* body, int count) except? -3:
        """The stream's id; -2: no room."""
        cdef int i
        headers = self.decoder.decode(block[:size])
        data = b"".join([(<const uint8_t*>body[i].iov_base)[: body[i].iov_len] for i in range(count)])
        try:
            stream = self.connection.submit(None, headers, data)
        except Error:
            return -2
        self.users[stream] = user
        return stream

    cdef int feed(self, const Sink* sink, const uint8_t* data, size_t size) except -3:
        """0, or -1 when the connection is lost: `reason` says why."""
        try:
            events = self.connection.feed(data[:size])
        except Error as error:
            self.reason = str(error)
            for event in getattr(error, "events", ()):
                self.tell(sink, event)
            for stream in list(self.users):
                self.end(sink, stream, END_PROTOCOL, 0)
            return -1
        self.ready = self.connection.ready
        for event in events:
            self.tell(sink, event)
        return 0

    cdef int eof(self, const Sink* sink) except -3:
        try:
            self.connection.eof()
        except Error as error:
            self.reason = str(error)
        for stream in list(self.users):
            self.end(sink, stream, END_EOF, 0)
        return 0 if self.ready else -1

    cdef int end(self, const Sink* sink, object stream, int how, uint32_t code) except -1:
        user = self.users.pop(stream, None)
        if user is not None:
            sink.on_end(sink.ctx, user, how, code)
        return 0

    cdef int tell(self, const Sink* sink, tuple event) except -1:
        cdef Header headers[MOST_HEADERS]
        cdef size_t count = 0
        cdef bytes name, value, body
        kind = event[0]
        if kind == "goaway":
            self.leaving = True
            return 0
        if kind not in ("headers", "data", "trailers", "reset"):
            return 0
        stream = event[1]
        user = self.users.get(stream)
        if user is None:
            return 0
        if kind == "headers":
            for name, value in event[2][:MOST_HEADERS]:
                headers[count].name, headers[count].name_size = <const uint8_t*><const char*>name, <uint32_t>len(name)
                headers[count].value, headers[count].value_size = <const uint8_t*><const char*>value, <uint32_t>len(value)
                count += 1
            sink.on_headers(sink.ctx, user, int(dict(event[2]).get(b":status", b"0")), headers, count)
            if event[3]:
                self.end(sink, stream, END_OK, 0)
        elif kind == "data":
            body = event[2]
            sink.on_data(sink.ctx, user, <const uint8_t*><const char*>body, len(body))
            if event[3]:
                self.end(sink, stream, END_OK, 0)
        elif kind == "trailers":
            self.end(sink, stream, END_OK, 0)
        else:
            self.end(sink, stream, END_UNPROCESSED if event[2] == REFUSED_STREAM else END_RESET, event[2])
        return 0

    cdef bint pending(self, iovec* out) except? -3:
        """Bytes to be sent: True and `out` set, valid until the next call."""
        if self.out_at == <size_t>len(self.out):
            self.out = self.connection.take()
            self.out_at = 0
        if not self.out:
            return False
        out.iov_base = <void*>(<const char*>self.out + self.out_at)
        out.iov_len = <size_t>len(self.out) - self.out_at
        return True

    cdef int sent(self, const Sink* sink, size_t size) except -1:
        self.out_at += size
        if self.out_at < <size_t>len(self.out):
            return 0
        for stream in self.connection.sent:
            user = self.users.get(stream)
            if user is not None:
                sink.on_sent(sink.ctx, user)
        self.connection.sent.clear()
        return 0


# -- for connection.pyx ---------------------------------------------------------------------------------------------------

cdef void* twin_new() noexcept with gil:
    cdef Twin twin
    try:
        twin = Twin()
    except Exception:
        return NULL
    Py_INCREF(twin)
    return <void*>twin


cdef int twin_feed(void* twin, const Sink* sink, const uint8_t* data, size_t size) noexcept with gil:
    try:
        return (<Twin>twin).feed(sink, data, size)
    except Exception as error:
        (<Twin>twin).reason = f"{type(error).__name__}: {error}"
        return -1


cdef void twin_eof(void* twin, const Sink* sink) noexcept with gil:
    try:
        (<Twin>twin).eof(sink)
    except Exception as error:
        (<Twin>twin).reason = f"{type(error).__name__}: {error}"


cdef int32_t twin_submit(
    void* twin, uint64_t user, const uint8_t* block, size_t size, const iovec* body, int count) noexcept with gil:
    try:
        return (<Twin>twin).submit(user, block, size, body, count)
    except Exception as error:
        (<Twin>twin).reason = f"{type(error).__name__}: {error}"
        return -1


cdef bint twin_pending(void* twin, iovec* out) noexcept with gil:
    try:
        return (<Twin>twin).pending(out)
    except Exception as error:
        (<Twin>twin).reason = f"{type(error).__name__}: {error}"
        return False


cdef void twin_sent(void* twin, const Sink* sink, size_t size) noexcept with gil:
    try:
        (<Twin>twin).sent(sink, size)
    except Exception as error:
        (<Twin>twin).reason = f"{type(error).__name__}: {error}"


cdef uint32_t twin_capacity(void* twin) noexcept with gil:
    try:
        return <uint32_t>(<Twin>twin).connection.capacity()
    except Exception:
        return 0


cdef void twin_cancel(void* twin, int32_t stream) noexcept with gil:
    try:
        (<Twin>twin).cancel(stream)
    except Exception:
        pass                     # h2 knows the stream no more: there is nothing to cancel


cdef bint twin_ready(void* twin) noexcept with gil:
    return (<Twin>twin).ready


cdef bint twin_leaving(void* twin) noexcept with gil:
    return (<Twin>twin).leaving


cdef void twin_reason(void* twin, char* out, size_t size) noexcept with gil:
    cdef bytes text = ((<Twin>twin).reason or "HTTP/2 failed").encode("utf-8", "replace")[: size - 1]
    memcpy(out, <const char*>text, len(text) + 1)


cdef void twin_free(void* twin) noexcept with gil:
    Py_DECREF(<Twin>twin)
