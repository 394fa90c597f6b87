"""HTTP/1.1 responses as a client reads them (RFC 9112, RFC 9110), sans-IO.

Theory
------
A connection carries one answer at a time::

    IDLE -- begin --> HEAD -- 1xx --> HEAD
                       |-- no body ----------------------------> end
                       |-- Content-Length --> LENGTH ----------> end
                       |-- chunked --> CHUNK_LINE -> CHUNK_DATA -> CHUNK_END -> ... -> TRAILERS --> end
                       '-- neither --> UNTIL_CLOSE -- eof -----> end
    end: IDLE if the connection can be used again, else CLOSED.   Any broken rule: FAILED, for good.

What goes wrong with HTTP/1.1 is almost always that two readers disagree about where an answer ends. So wherever the
RFC leaves a choice, framing is read strictly and text leniently:

- refused: whitespace before a colon, NUL or bare CR in a head, a Content-Length that is not digits or differs from
  another, chunked applied twice or with parameters, anything but CRLF around chunks, a version that is not 1.x, a
  status below 100, 101 (nobody asked for an upgrade), blank lines before the status line;
- read, but the connection is not used again: Transfer-Encoding beside Content-Length (chunked counts, 6.3), in HTTP/1.0
  (6.1) or other than plain chunked, a 204 that announces a body, bytes behind the end of the answer;
- read: bare LF as the end of a line in heads and trailers (2.2), a missing reason phrase with or without its space,
  obsolete line folding (5.2; becomes one space), repeated equal Content-Length, whitespace after a chunk's size,
  control characters other than NUL and CR in values (RFC 9110, 5.5: real cookies have them), statuses up to 999.

Transfer codings other than chunked are framed as the RFC says and handed on undecoded; nobody asked for them.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer

from llmgen.wire.http1_grammar cimport (
    PLACE_DONE,
    PLACE_FIRST,
    TAIL_LINE_START,
    Http1Head,
    http1_chunk_line,
    http1_folded,
    http1_section,
    http1_section_end,
    http1_unfold,
)
from llmgen.wire.sink cimport END_CLOSE, END_EOF, END_OK, END_PROTOCOL, Header, Sink


cdef enum State:
    IDLE
    CLOSED                       # the last answer is complete, the connection must not be used again
    FAILED
    HEAD                         # from here on an answer is awaited
    LENGTH
    UNTIL_CLOSE
    CHUNK_LINE
    CHUNK_DATA
    CHUNK_END                    # the CR behind a chunk's data
    CHUNK_END_LF
    TRAILERS


cdef const char* VERSION = b"HTTP/1."


# ---- the machine

cdef void _drop_carry(Http1Parser* p) noexcept nogil:
    free(p.carry)
    p.carry = NULL
    p.carry_size = p.carry_capacity = 0


cdef int _carry(Http1Parser* p, const uint8_t* data, size_t size) noexcept nogil:
    """Appends to the carried bytes; -1 without memory. The callers hold the size below max_head_bytes."""
    cdef size_t need = <size_t>p.carry_size + size
    cdef size_t capacity = p.carry_capacity
    cdef void* grown
    if need > capacity:
        # A usual head fits the first size; doubling keeps a byte-by-byte head linear.
        capacity = max(<size_t>512, capacity * 2, need)
        grown = realloc(p.carry, capacity)
        if grown == NULL:
            return -1
        p.carry = <uint8_t*>grown
        p.carry_capacity = <uint32_t>capacity
    memcpy(p.carry + p.carry_size, data, size)
    p.carry_size = <uint32_t>need
    return 0


cdef int _fail(Http1Parser* p, const char* reason) noexcept nogil:
    cdef bint awaited = p.state >= HEAD
    p.state = FAILED
    p.reason = reason
    _drop_carry(p)
    if awaited:
        p.sink.on_end(p.sink.ctx, p.user, END_PROTOCOL, 0)
    return HTTP1_ERROR


cdef void _finish(Http1Parser* p, size_t surplus) noexcept nogil:
    """The answer is complete. The sink may begin the next exchange in on_end: nothing is touched after it."""
    if surplus:
        p.keep = False
        p.reason = b"bytes behind the end of the answer"
    p.state = IDLE if p.keep else CLOSED
    p.sink.on_end(p.sink.ctx, p.user, END_OK if p.keep else END_CLOSE, 0)


cdef void _await_section(Http1Parser* p, uint8_t state) noexcept nogil:
    p.state = state
    # A trailer section may be empty; a head may not, and an empty line at its start is then no status line.
    p.tail = TAIL_LINE_START
    p.carry_size = 0


cdef void _judge_head(Http1Parser* p, const Http1Head* head) noexcept nogil:
    """From a final head to the state of its body (RFC 9112, 6.3), and whether the connection survives (9.3)."""
    cdef bint empty = p.head_method or head.status == 204 or head.status == 304
    p.keep = not head.close and (head.minor >= 1 or head.keep_alive)
    if head.has_coding and (head.has_length or head.minor == 0 or head.other_coding):
        p.keep = False
        p.reason = b"faulty transfer coding (RFC 9112, 6.1)"
    if head.status == 204 and (head.has_coding or head.length):
        p.keep = False
        p.reason = b"204 with a body announced (RFC 9110, 15.3.5)"
    if empty:
        p.remaining = 0
        p.state = LENGTH
    elif head.has_coding:
        if head.chunked:
            p.state = CHUNK_LINE
            p.line.place = PLACE_FIRST
            p.line.bytes = 0
        else:
            p.state = UNTIL_CLOSE
    elif head.has_length:
        p.remaining = head.length
        p.state = LENGTH
    else:
        p.state = UNTIL_CLOSE
    if p.state == UNTIL_CLOSE:
        p.keep = False


cdef const char* _take_section(Http1Parser* p, const uint8_t* text, size_t size) noexcept nogil:
    """Reads a complete head or trailer section and tells the sink; NULL, or what is wrong."""
    cdef Http1Head head
    cdef const char* wrong
    if http1_folded(text, size):
        if text != p.carry:
            if _carry(p, text, size) < 0:
                return b"out of memory"
            text = p.carry
        size = http1_unfold(p.carry, size, p.state == TRAILERS)
    wrong = http1_section(&head, text, size, p.state == TRAILERS)
    if wrong != NULL:
        return wrong
    if p.state == TRAILERS:
        if head.count and p.sink.on_trailers != NULL:
            p.sink.on_trailers(p.sink.ctx, p.user, head.headers, head.count)
        p.state = LENGTH         # with nothing remaining: complete
        p.remaining = 0
    elif head.status == 101:
        return b"101: an upgrade that nobody asked for (RFC 9110, 15.2.2)"
    elif head.status < 200:
        if p.interim == HTTP1_MAX_INTERIM:
            return b"too many 1xx answers"
        p.interim += 1
        _await_section(p, HEAD)
    else:
        _judge_head(p, &head)
        p.sink.on_headers(p.sink.ctx, p.user, head.status, head.headers, head.count)
    return NULL


cdef Py_ssize_t _feed_section(Http1Parser* p, const uint8_t* data, size_t size) noexcept nogil:
    """Head or trailers: the number of bytes used up, or -1 after p.reason is set."""
    cdef size_t end, i
    cdef bint trailers = p.state == TRAILERS
    cdef const uint8_t* text = data
    cdef size_t text_size
    cdef const char* wrong
    if not trailers and p.carry_size < 7:
        # Something that does not speak HTTP/1 at all is told at once: its empty line may never come.
        for i in range(min(size, <size_t>7 - p.carry_size)):
            if data[i] != <uint8_t>VERSION[p.carry_size + i]:
                p.reason = b"not an HTTP/1.x answer (RFC 9112, 2.3)"
                return -1
    end = http1_section_end(&p.tail, data, size)
    if p.carry_size + (end if end else size) > p.max_head_bytes:
        p.reason = b"head too large"
        if trailers:
            p.reason = b"trailer section too large"
        return -1
    if end == 0 or p.carry_size:
        if _carry(p, data, end if end else size) < 0:
            p.reason = b"out of memory"
            return -1
        if end == 0:
            return size
        text = p.carry
    text_size = p.carry_size if text != data else end
    wrong = _take_section(p, text, text_size)
    if wrong != NULL:
        p.reason = wrong
        return -1
    _drop_carry(p)
    return end


cdef inline void _begin_chunk(Http1Parser* p) noexcept nogil:
    """The chunk-size line is complete."""
    p.line.place = PLACE_FIRST
    p.line.bytes = 0
    p.remaining = p.line.size
    p.state = CHUNK_DATA
    if p.remaining == 0:
        _await_section(p, TRAILERS)


cdef inline size_t _feed_body(Http1Parser* p, const uint8_t* data, size_t size) noexcept nogil:
    """Hands on up to `remaining` bytes; the number of bytes used up."""
    if size > p.remaining:
        size = <size_t>p.remaining
    p.remaining -= size
    if size:
        p.sink.on_data(p.sink.ctx, p.user, data, size)
    return size


cdef int http1_feed(Http1Parser* p, const uint8_t* data, size_t size) noexcept nogil:
    cdef size_t at = 0
    cdef size_t line_used
    cdef Py_ssize_t used
    cdef const char* wrong
    if size == 0:
        return HTTP1_ERROR if p.state == FAILED else HTTP1_OK
    if p.state < HEAD:
        if p.state != FAILED:
            p.reason = b"bytes that belong to no request"
        return _fail(p, p.reason)
    while at < size:
        if p.state == CHUNK_DATA:
            at += _feed_body(p, data + at, size - at)
            if p.remaining == 0:
                p.state = CHUNK_END
        elif p.state == CHUNK_LINE:
            wrong = http1_chunk_line(&p.line, data + at, size - at, &line_used)
            if wrong != NULL:
                return _fail(p, wrong)
            at += line_used
            if p.line.place == PLACE_DONE:
                _begin_chunk(p)
        elif p.state == CHUNK_END:
            if data[at] != 13:
                return _fail(p, b"no CRLF behind a chunk (RFC 9112, 7.1)")
            at += 1
            p.state = CHUNK_END_LF
        elif p.state == CHUNK_END_LF:
            if data[at] != 10:
                return _fail(p, b"no CRLF behind a chunk (RFC 9112, 7.1)")
            at += 1
            p.state = CHUNK_LINE
        elif p.state == LENGTH:
            at += _feed_body(p, data + at, size - at)
            if p.remaining == 0:
                _finish(p, size - at)
                return HTTP1_OK
        elif p.state == UNTIL_CLOSE:
            p.sink.on_data(p.sink.ctx, p.user, data + at, size - at)
            return HTTP1_OK
        else:                    # HEAD or TRAILERS
            used = _feed_section(p, data + at, size - at)
            if used < 0:
                return _fail(p, p.reason)
            at += used
            # An empty body and the end of the trailers are complete without another byte.
            if p.state == LENGTH and p.remaining == 0:
                _finish(p, size - at)
                return HTTP1_OK
    return HTTP1_OK


cdef int http1_eof(Http1Parser* p) noexcept nogil:
    cdef uint8_t state = p.state
    if state == FAILED:
        return HTTP1_ERROR
    p.state = CLOSED
    p.keep = False
    _drop_carry(p)
    if state < HEAD:
        return HTTP1_OK
    if state == UNTIL_CLOSE:
        p.sink.on_end(p.sink.ctx, p.user, END_CLOSE, 0)
        return HTTP1_OK
    p.reason = b"the peer closed in the middle of the answer"
    if state == HEAD:
        p.reason = b"the peer closed before the head of the answer was complete"
    p.sink.on_end(p.sink.ctx, p.user, END_EOF, 0)
    return HTTP1_ERROR


cdef void http1_init(Http1Parser* p, const Sink* sink, uint32_t max_head_bytes) noexcept nogil:
    p.sink = sink
    p.user = 0
    p.remaining = 0
    p.reason = NULL
    p.carry = NULL
    p.carry_size = p.carry_capacity = 0
    p.max_head_bytes = max_head_bytes
    p.line.size = p.line.bytes = p.line.place = 0
    p.state = IDLE
    p.tail = TAIL_LINE_START
    p.interim = 0
    p.head_method = p.keep = False


cdef void http1_free(Http1Parser* p) noexcept nogil:
    _drop_carry(p)
    p.state = CLOSED


cdef void http1_begin(Http1Parser* p, uint64_t user, bint head_method) noexcept nogil:
    p.user = user
    p.head_method = head_method
    p.interim = 0
    p.reason = NULL
    _await_section(p, HEAD)


cdef bint http1_reusable(const Http1Parser* p) noexcept nogil:
    return p.state == IDLE


cdef bint http1_idle(const Http1Parser* p) noexcept nogil:
    return p.state < HEAD


cdef const char* http1_reason(const Http1Parser* p) noexcept nogil:
    if p.reason == NULL:
        return b""
    return p.reason


# ---- the Python face

class Error(Exception):
    """The answer breaks HTTP/1.1, or was cut by the end of the connection; the text names the rule.

    Attributes:
        events: what was complete before, as `Parser.feed` would have returned it.
    """

    def __init__(self, reason, events):
        super().__init__(reason)
        self.events = events


cdef list _fields(const Header* headers, size_t count):
    cdef size_t i
    cdef list fields = []
    for i in range(count):
        fields.append((
            (<const char*>headers[i].name)[:headers[i].name_size].lower(),
            (<const char*>headers[i].value)[:headers[i].value_size],
        ))
    return fields


# A sink cannot raise; what goes wrong in it (no memory) is kept and raised by feed.

cdef void _on_headers(void* ctx, uint64_t user, int status, const Header* headers, size_t count) noexcept with gil:
    cdef Parser parser = <Parser>ctx
    try:
        parser.events.append(("head", status, _fields(headers, count)))
    except BaseException as failure:
        parser.failure = failure


cdef void _on_data(void* ctx, uint64_t user, const uint8_t* data, size_t size) noexcept with gil:
    cdef Parser parser = <Parser>ctx
    try:
        parser.events.append(("data", (<const char*>data)[:size]))
    except BaseException as failure:
        parser.failure = failure


cdef void _on_trailers(void* ctx, uint64_t user, const Header* headers, size_t count) noexcept with gil:
    cdef Parser parser = <Parser>ctx
    try:
        parser.events.append(("trailers", _fields(headers, count)))
    except BaseException as failure:
        parser.failure = failure


cdef void _on_end(void* ctx, uint64_t user, int end, uint32_t code) noexcept with gil:
    cdef Parser parser = <Parser>ctx
    try:
        if end == END_OK or end == END_CLOSE:        # the others are an Error
            parser.events.append(("end", end == END_OK))
    except BaseException as failure:
        parser.failure = failure


@cython.final
cdef class Parser:
    """Reads the answers to requests of one method on one connection, the core's own parser behind it.

    A new Parser awaits an answer. After ("end", True) the next one is awaited from the first byte of the next `feed`.

    Args:
        method: of the request; after b"HEAD" an answer has no body. b"CONNECT" is not supported.
        max_head_bytes: limit of a head, and of a trailer section.
    """

    def __cinit__(self, *, bytes method=b"GET", uint32_t max_head_bytes=HTTP1_HEAD_BYTES):
        if method == b"CONNECT":
            raise ValueError("method=b'CONNECT': a tunnel is not an answer that can be read")
        self.events = []
        self.head_method = method == b"HEAD"
        self.sink.ctx = <void*>self
        self.sink.on_headers = _on_headers
        self.sink.on_data = _on_data
        self.sink.on_trailers = _on_trailers
        self.sink.on_end = _on_end
        self.sink.on_sent = NULL
        http1_init(&self.parser, &self.sink, max_head_bytes)
        http1_begin(&self.parser, 0, self.head_method)

    def __dealloc__(self):
        http1_free(&self.parser)

    cdef list _result(self, int code):
        cdef list events = self.events
        self.events = []
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        if code == HTTP1_ERROR:
            raise Error(http1_reason(&self.parser).decode("ascii"), events)
        return events

    def feed(self, data):
        """Reads the bytes of one read.

        Returns:
            Events in order: ("head", status, [(name, value)]) with names in lower case, 1xx answers left out;
            ("data", bytes), as the pieces came; ("trailers", [(name, value)]) if there are any; ("end", reusable).
        Raises:
            Error: a rule is broken, or nothing is awaited any more; it has the events that came before.
        """
        cdef Py_buffer view
        cdef int code
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if view.len and http1_reusable(&self.parser):
                http1_begin(&self.parser, 0, self.head_method)
            code = http1_feed(&self.parser, <const uint8_t*>view.buf, <size_t>view.len)
        finally:
            PyBuffer_Release(&view)
        return self._result(code)

    def eof(self):
        """The peer has closed. Returns what that completes: [("end", False)] or nothing.

        Raises:
            Error: an answer was awaited and is not complete.
        """
        return self._result(http1_eof(&self.parser))
