"""HTTP/2 (RFC 9113) without a socket, for tests and the curious; a run uses the same code without Python objects.

Events of :meth:`Client.feed` and :meth:`Server.feed`, in the order of the wire::

    ("settings", {id: value})           the peer's SETTINGS, by number (RFC 9113 6.5.2); acknowledged
    ("headers", sid, fields, end)       the answer's head (1xx ones are skipped), or a request; fields are (name, value)
                                        pairs of bytes, pseudo-headers first
    ("data", sid, bytes, end)           content without padding; adjacent pieces of one stream are one event
    ("trailers", sid, fields)           they end the message
    ("reset", sid, code)                the stream is dead: RST_STREAM by the peer, or by us because it broke the rules,
                                        or (code 7, REFUSED_STREAM) above the last stream of a GOAWAY
    ("goaway", last_sid, code)          ("ping",)  answered already
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from posix.uio cimport iovec

from llmgen.wire.hpack cimport HPACK_INDEX_AUTO, hpack_bound, hpack_put
from llmgen.wire.http2_connection cimport *
from llmgen.wire.http2_frames cimport FRAME_DATA, read_u16, read_u32
from llmgen.wire.http2_receive cimport http2_eof, http2_read
from llmgen.wire.http2_send cimport *
from llmgen.wire.sink cimport END_EOF, END_OK, END_PROTOCOL, Header, Sink


cdef enum:
    GATHER = 64                  # iovecs taken at once


class Error(Exception):
    """The connection is lost. `code`: the error code of our GOAWAY, or what else was asked; `events`: what came before."""

    def __init__(self, code, reason, events=()):
        super().__init__(reason)
        self.code = code
        self.events = list(events)


cdef bytes as_bytes(object text):
    return text.encode() if isinstance(text, str) else bytes(text)


cdef list fields_of(const Header* headers, size_t count):
    cdef list fields = []
    cdef size_t i
    for i in range(count):
        fields.append((PyBytes_FromStringAndSize(<const char*>headers[i].name, headers[i].name_size),
                       PyBytes_FromStringAndSize(<const char*>headers[i].value, headers[i].value_size)))
    return fields


def header_block(headers) -> bytes:
    """An HPACK block that needs no dynamic table: right on every connection, as often as wanted (RFC 7541 6.2)."""
    cdef bytes name, value, room
    cdef size_t n
    parts = []
    for pair in headers:
        name, value = as_bytes(pair[0]), as_bytes(pair[1])
        room = bytes(hpack_bound(len(name), len(value)))
        n = hpack_put(<uint8_t*>PyBytes_AS_STRING(room), len(room), <const uint8_t*>PyBytes_AS_STRING(name), len(name),
                      <const uint8_t*>PyBytes_AS_STRING(value), len(value), HPACK_INDEX_AUTO)
        parts.append(room[:n])
    return b"".join(parts)


cdef object fill_options(Http2Options* o, initial_window_size, connection_window_size, max_frame_size,
                       max_header_list_size, header_table_size, max_streams, top_up):
    if initial_window_size is not None:
        o.initial_window = initial_window_size
    if connection_window_size is not None:
        o.connection_window = connection_window_size
    if max_frame_size is not None:
        o.max_frame_size = max_frame_size
    if max_header_list_size is not None:
        o.max_header_list_size = max_header_list_size
    if header_table_size is not None:
        o.header_table_size = header_table_size
    if max_streams is not None:
        o.max_streams = max_streams
    if not top_up:
        o.flags |= HTTP2_NO_TOP_UP


cdef class Connection:
    """What :class:`Client` and :class:`Server` have in common."""

    cdef Http2 h
    cdef Sink sink
    cdef Http2Watch watch
    cdef list events
    cdef bytearray run           # content of the data event that is being put together
    cdef object run_sid
    cdef dict bodies             # lent to the codec, by stream
    cdef list spent_bodies       # of streams that ended before their bodies had left
    cdef object raised           # by a callback

    def __cinit__(self):
        self.events = []
        self.run = bytearray()
        self.run_sid = None
        self.bodies = {}
        self.spent_bodies = []

    def __dealloc__(self):
        http2_free(&self.h)

    cdef int begin(self, int role, const Http2Options* o) except -1:
        self.sink.ctx = self.watch.ctx = <void*>self
        self.sink.on_headers = on_headers
        self.sink.on_data = on_data
        self.sink.on_trailers = on_trailers
        self.sink.on_end = on_end
        self.sink.on_sent = on_sent
        self.watch.on_settings = on_settings
        self.watch.on_goaway = on_goaway
        self.watch.on_ping = on_ping
        if http2_init(&self.h, &self.sink, role, o) != HTTP2_OK:
            raise MemoryError
        self.h.watch = &self.watch
        return 0

    def open(self) -> bytes:
        """The first bytes to send: the client's preface, SETTINGS, and the WINDOW_UPDATE of the connection."""
        http2_open(&self.h)
        return self.take()

    def take(self, most: int = -1) -> bytes:
        """All bytes that are to be sent now, or the first `most` of them; they count as written."""
        cdef iovec out[GATHER]
        cdef int n, i
        cdef size_t size
        cdef list parts = []
        cdef object left = most
        while left != 0:
            n = http2_pending(&self.h, out, GATHER)
            if n == 0:
                break
            size = 0
            for i in range(n):
                parts.append(PyBytes_FromStringAndSize(<const char*>out[i].iov_base, out[i].iov_len))
                size += out[i].iov_len
            if left > 0:
                if size > <size_t>left:
                    whole = b"".join(parts)
                    parts = [whole[:len(whole) - (size - left)]]
                    size = left
                left -= size
            http2_sent(&self.h, size)
        if not http2_wants_write(&self.h):
            self.spent_bodies.clear()
        return b"".join(parts)

    def feed(self, data, t_ns: int = 0) -> list:
        """Takes received bytes, cut in any way; returns their events. `t_ns`: when, for `blocked_ns`. Raises Error."""
        cdef bytes held = bytes(data)
        cdef const uint8_t* p = <const uint8_t*>PyBytes_AS_STRING(held)
        cdef size_t size = len(held)
        cdef int result
        self.h.now_ns = t_ns
        with nogil:
            result = http2_read(&self.h, p, size)
        return self.gathered(result)

    def eof(self) -> list:
        """The peer closed: [("eof", sid)] for what was open. Raises Error if the connection had never become ready."""
        return self.gathered(http2_eof(&self.h))

    cdef list gathered(self, int result):
        self.flush(False)
        events = self.events
        self.events = []
        if self.raised is not None:
            raised, self.raised = self.raised, None
            raise raised
        if result != HTTP2_OK:
            raise Error(self.h.error, http2_reason(&self.h).decode(), events)
        return events

    cdef int flush(self, bint end) except -1:
        if self.run_sid is not None:
            self.events.append(("data", self.run_sid, bytes(self.run), bool(end)))
            self.run_sid = None
            self.run = bytearray()
        return 0

    cdef int ended(self, uint64_t sid, int end, uint32_t code) except -1:
        body = self.bodies.pop(sid, None)
        if body is not None:
            self.spent_bodies.append(body)
        if end == END_OK and self.h.frame_type == FRAME_DATA:
            if self.run_sid == sid:
                return self.flush(True)
            self.flush(False)
            self.events.append(("data", sid, b"", True))
            return 0
        self.flush(False)
        if end == END_OK:
            last = self.events.pop()
            self.events.append((*last[:3], True) if last[0] == "headers" else last)
        elif end == END_EOF:
            self.events.append(("eof", sid))
        elif end != END_PROTOCOL:            # that one is the Error's
            self.events.append(("reset", sid, code))
        return 0

    cdef int32_t checked(self, int32_t result) except -1:
        if result == HTTP2_FULL:
            raise Error(7, "no more streams are permitted now")
        if result == HTTP2_CLOSING:
            raise Error(self.h.error, self.reason or "the connection is going away")
        if result == HTTP2_EXHAUSTED:
            raise Error(0, "no stream ids are left")
        if result == HTTP2_NO_STREAM:
            raise Error(5, "the stream is closed")
        if result == HTTP2_BLOCKED:
            raise Error(3, "data of this stream is waiting for window")
        if result < 0:
            raise MemoryError
        return result

    def reset(self, sid: int, code: int = 8) -> None:
        """RST_STREAM; 8 is CANCEL. No more events of this stream."""
        body = self.bodies.pop(sid, None)
        if body is not None:
            self.spent_bodies.append(body)
        self.checked(http2_cancel(&self.h, sid, code))

    def settings(self, values) -> None:
        """Sends SETTINGS {id: value}; ours change when they are acknowledged."""
        cdef uint32_t pairs[64]
        cdef int n = 0
        if len(values) > 32:
            raise ValueError("more than 32 settings")
        for key, value in values.items():
            pairs[2 * n] = key
            pairs[2 * n + 1] = value
            n += 1
        http2_settings(&self.h, pairs, n)

    def window_update(self, sid: int, increment: int) -> None:
        """WINDOW_UPDATE; stream 0 is the connection."""
        self.checked(http2_window_update(&self.h, sid, increment))

    def ping(self, payload: bytes = b"\0" * 8) -> None:
        """PING with 8 bytes."""
        if len(payload) != 8:
            raise ValueError("a PING has 8 bytes")
        http2_ping(&self.h, <const uint8_t*>PyBytes_AS_STRING(payload))

    def goaway(self, last_sid: int, code: int = 0) -> None:
        """GOAWAY."""
        http2_goaway(&self.h, last_sid, code)

    def raw(self, data: bytes) -> None:
        """Sends bytes as they are."""
        http2_raw(&self.h, <const uint8_t*>PyBytes_AS_STRING(data), len(data))

    def unsent(self, sid: int) -> int:
        """Bytes of the stream's content that wait for the peer's windows."""
        return http2_unsent(&self.h, sid)

    @property
    def reason(self) -> str:
        """Why the connection is lost, or ""."""
        return http2_reason(&self.h).decode()

    @property
    def stream_reason(self) -> str:
        """Why the last stream that we reset broke the rules, or ""."""
        return self.h.stream_reason.decode() if self.h.stream_reason != NULL else ""

    @property
    def ready(self) -> bool:
        """The peer's SETTINGS were received."""
        return self.h.ready

    @property
    def open_streams(self) -> int:
        return self.h.streams.count

    @property
    def blocked_ns(self) -> int:
        """Time that a window of ours was used up, by the `t_ns` of feed."""
        return self.h.blocked_ns


@cython.final
cdef class Client(Connection):
    """The client's side: what a run uses."""

    def __cinit__(self, *, initial_window_size=None, connection_window_size=None, max_frame_size=None,
                  max_header_list_size=None, header_table_size=None, max_streams=None, top_up=True):
        cdef Http2Options o
        http2_options(&o, HTTP2_CLIENT)
        fill_options(&o, initial_window_size, connection_window_size, max_frame_size, max_header_list_size,
                     header_table_size, max_streams, top_up)
        self.begin(HTTP2_CLIENT, &o)

    def request(self, headers, body=None) -> int:
        """Queues a request, pseudo-headers first in `headers`; the stream's id. Raises Error if none can be opened."""
        cdef bytes block = header_block(headers)
        cdef bytes held = bytes(body) if body else b""
        cdef iovec span
        cdef bint head = False
        cdef int32_t sid
        for name, value in headers:
            if as_bytes(name) == b":method":
                head = as_bytes(value) == b"HEAD"
        span.iov_base = PyBytes_AS_STRING(held)
        span.iov_len = len(held)
        sid = self.checked(http2_submit(&self.h, self.h.next_id, <const uint8_t*>PyBytes_AS_STRING(block), len(block),
                                        &span, 1, len(held), HTTP2_HEAD if head else 0))
        if held:
            self.bodies[sid] = held
        return sid

    @property
    def capacity(self) -> int:
        """Streams that may be opened now: 0 before the peer's SETTINGS, after GOAWAY, and when lost."""
        return http2_capacity(&self.h)

    @property
    def next_sid(self) -> int:
        """The id of the next request; may be set to a higher odd number."""
        return self.h.next_id

    @next_sid.setter
    def next_sid(self, sid: int) -> None:
        if sid < self.h.next_id or not sid & 1 or sid > 2**31 + 1:
            raise ValueError("not a later odd stream id")
        self.h.next_id = sid


@cython.final
cdef class Server(Connection):
    """The other side, for tests. Options as of Client; `max_streams` is announced."""

    def __cinit__(self, *, initial_window_size=None, connection_window_size=None, max_frame_size=None,
                  max_header_list_size=None, header_table_size=None, max_streams=None, top_up=True):
        cdef Http2Options o
        http2_options(&o, HTTP2_SERVER)
        fill_options(&o, initial_window_size, connection_window_size, max_frame_size, max_header_list_size,
                     header_table_size, max_streams, top_up)
        self.begin(HTTP2_SERVER, &o)

    def respond(self, sid: int, headers, body=None, end: bool = True) -> None:
        """A header section (also an interim one), and content if there is any."""
        cdef bytes block = header_block(headers)
        self.checked(http2_send_headers(&self.h, sid, <const uint8_t*>PyBytes_AS_STRING(block), len(block),
                                        end and not body))
        if body:
            self.send(sid, body, end)

    def send(self, sid: int, data, end: bool = False) -> None:
        """Content: at once as far as the peer's windows permit, the rest when they open."""
        cdef bytes held = bytes(data)
        self.checked(http2_send_data(&self.h, sid, <const uint8_t*>PyBytes_AS_STRING(held), len(held), end))

    def trailers(self, sid: int, headers) -> None:
        """Fields behind the content; they end the answer."""
        cdef bytes block = header_block(headers)
        self.checked(http2_send_headers(&self.h, sid, <const uint8_t*>PyBytes_AS_STRING(block), len(block), True))


# Callbacks of the codec. An exception (memory, in practice) is kept and raised by feed.

cdef void on_headers(void* ctx, uint64_t user, int status, const Header* headers, size_t count) noexcept with gil:
    cdef Connection c = <Connection>ctx
    try:
        c.flush(False)
        c.events.append(("headers", user, fields_of(headers, count), False))
    except BaseException as error:
        c.raised = error


cdef void on_data(void* ctx, uint64_t user, const uint8_t* data, size_t size) noexcept with gil:
    cdef Connection c = <Connection>ctx
    try:
        if c.run_sid != user:
            c.flush(False)
            c.run_sid = user
        c.run += data[:size]
    except BaseException as error:
        c.raised = error


cdef void on_trailers(void* ctx, uint64_t user, const Header* headers, size_t count) noexcept with gil:
    cdef Connection c = <Connection>ctx
    try:
        c.flush(False)
        c.events.append(("trailers", user, fields_of(headers, count)))
    except BaseException as error:
        c.raised = error


cdef void on_end(void* ctx, uint64_t user, int end, uint32_t code) noexcept with gil:
    cdef Connection c = <Connection>ctx
    try:
        c.ended(user, end, code)
    except BaseException as error:
        c.raised = error


cdef void on_sent(void* ctx, uint64_t user) noexcept with gil:
    (<Connection>ctx).bodies.pop(user, None)


cdef void on_settings(void* ctx, const uint8_t* payload, size_t size) noexcept with gil:
    cdef Connection c = <Connection>ctx
    cdef size_t at
    try:
        c.flush(False)
        c.events.append(("settings", {read_u16(payload + at): read_u32(payload + at + 2) for at in range(0, size, 6)}))
    except BaseException as error:
        c.raised = error


cdef void on_goaway(void* ctx, uint32_t last_stream, uint32_t code) noexcept with gil:
    cdef Connection c = <Connection>ctx
    try:
        c.flush(False)
        c.events.append(("goaway", last_stream, code))
    except BaseException as error:
        c.raised = error


cdef void on_ping(void* ctx, const uint8_t* payload) noexcept with gil:
    cdef Connection c = <Connection>ctx
    try:
        c.flush(False)
        c.events.append(("ping",))
    except BaseException as error:
        c.raised = error
