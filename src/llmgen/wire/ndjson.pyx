"""Newline-delimited JSON: lines, cut anywhere, told once each.

A line ends with LF; a CR before it and blanks around it belong to no line, and a blank line is none (JSON's own
whitespace, RFC 8259 2). LF cannot stand inside of a JSON document that is one line, since strings escape it. Bytes are
searched once and copied at most once: what is carried over is not looked at again. The last line of a stream may lack
its LF (jsonlines.org asks for none there); `ndjson_last` gives it.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcpy

from llmgen.wire.span cimport Span, span


cdef enum:                       # NdjsonParser.state
    FOLLOWING = 0
    TAKEN = 1                    # the carry holds the line that was taken last
    TOO_LARGE = 2
    NO_MEMORY = 3


cdef enum:
    CARRY_FIRST = 256            # first allocation: most lines fit, so that a cut one is allocated once
    MAX_LINE_BYTES = 1 << 30     # so that sizes and doubled capacities stay in uint32_t


cdef void ndjson_init(NdjsonParser* p, uint32_t max_line_bytes) noexcept nogil:
    p.given = NULL
    p.given_size = 0
    p.carry = NULL
    p.carry_size = p.carry_capacity = 0
    p.max_line_bytes = min(max_line_bytes, <uint32_t>MAX_LINE_BYTES)
    p.state = FOLLOWING


cdef void ndjson_free(NdjsonParser* p) noexcept nogil:
    release(p)
    p.given = NULL
    p.given_size = 0


cdef void ndjson_give(NdjsonParser* p, const uint8_t* data, size_t size) noexcept nogil:
    p.given = data
    p.given_size = size


cdef int ndjson_next(NdjsonParser* p, Span* line) noexcept nogil:
    cdef const uint8_t* end
    cdef size_t size
    if p.state == TAKEN:
        release(p)
        p.state = FOLLOWING
    while p.given_size and p.state == FOLLOWING:
        end = <const uint8_t*>memchr(p.given, c"\n", p.given_size)
        size = end - p.given if end != NULL else p.given_size
        if p.carry_size + size > p.max_line_bytes:
            return fail(p, TOO_LARGE)
        if end == NULL or p.carry_size:
            if not keep(p, size):
                return fail(p, NO_MEMORY)
            if end == NULL:
                p.given_size = 0
                return NDJSON_MORE
            line[0] = trimmed(p.carry, p.carry_size)
            p.state = TAKEN
        else:
            line[0] = trimmed(p.given, size)
        p.given += size + 1
        p.given_size -= size + 1
        if line.size:
            return NDJSON_LINE
        release(p)
        p.state = FOLLOWING
    if p.state == FOLLOWING:
        return NDJSON_MORE
    return NDJSON_TOO_LARGE if p.state == TOO_LARGE else NDJSON_NO_MEMORY


cdef bint ndjson_last(NdjsonParser* p, Span* line) noexcept nogil:
    """What stands behind the last LF, if it is not blank. Told once."""
    if p.state != FOLLOWING or p.carry_size == 0:
        return False
    line[0] = trimmed(p.carry, p.carry_size)
    p.state = TAKEN
    return line.size > 0


cdef Span trimmed(const uint8_t* data, size_t size) noexcept nogil:
    while size and is_blank(data[size - 1]):
        size -= 1
    while size and is_blank(data[0]):
        data += 1
        size -= 1
    return span(data, size)


cdef inline bint is_blank(uint8_t byte) noexcept nogil:
    return byte == c" " or byte == c"\r" or byte == c"\t"


cdef bint keep(NdjsonParser* p, size_t size) noexcept nogil:
    """Appends the given bytes up to `size`."""
    cdef size_t need = p.carry_size + size
    cdef size_t capacity = p.carry_capacity or CARRY_FIRST
    cdef uint8_t* grown
    if need > p.carry_capacity:
        while capacity < need:
            capacity *= 2
        grown = <uint8_t*>realloc(p.carry, capacity)
        if grown == NULL:
            return False
        p.carry = grown
        p.carry_capacity = <uint32_t>capacity
    if size:
        memcpy(p.carry + p.carry_size, p.given, size)
    p.carry_size += <uint32_t>size
    return True


cdef void release(NdjsonParser* p) noexcept nogil:
    free(p.carry)
    p.carry = NULL
    p.carry_size = p.carry_capacity = 0


cdef int fail(NdjsonParser* p, uint32_t state) noexcept nogil:
    release(p)
    p.state = state
    return NDJSON_TOO_LARGE if state == TOO_LARGE else NDJSON_NO_MEMORY


# --- the Python face -------------------------------------------------------------------------------------------------


class Error(ValueError):
    """The stream cannot be followed further: a line is larger than `max_line_bytes`.

    `lines`: those that the same feed() had completed before.
    """

    def __init__(self, message, lines=()):
        super().__init__(message)
        self.lines = list(lines)


cdef bytes bytes_of(Span s):
    return PyBytes_FromStringAndSize(<const char*>s.data, s.size)


cdef class Parser:
    """Lines of one stream. `max_line_bytes`: what one line may have, blanks included."""

    cdef NdjsonParser c

    def __cinit__(self, max_line_bytes=1 << 20):
        if not 1 <= max_line_bytes <= MAX_LINE_BYTES:
            raise ValueError(f"max_line_bytes={max_line_bytes}: must be between 1 and {MAX_LINE_BYTES}")
        ndjson_init(&self.c, max_line_bytes)

    def __dealloc__(self):
        ndjson_free(&self.c)

    def feed(self, data):
        """All lines that `data` completes, in order, trimmed. Error when a line is too large, then and ever after."""
        cdef Py_buffer view
        cdef Span line
        cdef list lines = []
        cdef int result
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            ndjson_give(&self.c, <const uint8_t*>view.buf, view.len)
            result = ndjson_next(&self.c, &line)
            while result == NDJSON_LINE:
                lines.append(bytes_of(line))
                result = ndjson_next(&self.c, &line)
        finally:
            ndjson_give(&self.c, NULL, 0)
            PyBuffer_Release(&view)
        if result == NDJSON_NO_MEMORY:
            raise MemoryError
        if result == NDJSON_TOO_LARGE:
            raise Error(f"line larger than {self.c.max_line_bytes} bytes", lines)
        return lines

    def close(self):
        """The stream is over: its last line if that had no end, else None. The parser is then as new."""
        cdef Span line
        cdef object last = bytes_of(line) if ndjson_last(&self.c, &line) else None
        cdef uint32_t most = self.c.max_line_bytes
        ndjson_free(&self.c)
        ndjson_init(&self.c, most)
        return last
