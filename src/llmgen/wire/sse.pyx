"""Server-sent events, the parser of WHATWG HTML 9.2.6 ("Interpreting an event stream").

Theory. A stream is lines; a line ends with CR, LF or CRLF; a blank line ends a block. Bytes arrive cut anywhere, yet
the events must not depend on the cuts, and the time must be linear even if every read brings one byte. Two paths:

- *View.* Nothing is carried over, so a block begins at the first given byte. Its lines are walked where they lie; if
  the block ends inside the given bytes with one data line, the event is a view into them. This is what nearly every
  event of an LLM's answer takes: one search for a line end, one comparison with "data:", no copy.
- *Carry.* Otherwise the block's lines are copied, once, behind each other into `carry`: fields that matter end with LF
  there, all else is dropped at its line's end, comments are never stored. `line` is where the unfinished line begins;
  what lies before it is not looked at again until the blank line, when the data lines are joined in place. So a byte
  is copied once, searched once for a line end and touched once more at the end of its block.

A CR ends its line at once (a stream that ends lines with CR must not wait for a byte that never comes); an LF right
after it is swallowed, also when a read ends between the two. The size that is bounded is what must be kept: the fields
of the unfinished event and its unfinished line. Comments are free, so that keep-alives never add up.

Text stays bytes: splitting at ASCII line ends commutes with "UTF-8 decode", so only the Python face decodes.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcmp, memcpy, memmove

from typing import NamedTuple

from llmgen.wire.span cimport Span, span


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #if defined(__SSE2__)
    #include <emmintrin.h>

    static inline unsigned llmgen_line_ends(__m128i x) {
        const __m128i cr = _mm_set1_epi8('\\r'), lf = _mm_set1_epi8('\\n');
        return (unsigned)_mm_movemask_epi8(_mm_or_si128(_mm_cmpeq_epi8(x, cr), _mm_cmpeq_epi8(x, lf)));
    }
    #endif

    /* Offset of the first CR or LF in n bytes, n if there is none. Two memchr calls cost twice the time here, because
       almost every line is short. A line has next to no byte below 14, so 64 bytes are passed by one comparison of their
       least one with CR. */
    static inline size_t llmgen_line_end(const uint8_t *d, size_t n) {
    #if defined(__SSE2__)
        size_t i = 0;
        if (n && d[0] == '\\n') return 0;  /* every other line is blank */
        for (; i + 64 <= n; i += 64) {
            const __m128i *at = (const __m128i *)(d + i);
            __m128i a = _mm_loadu_si128(at), b = _mm_loadu_si128(at + 1);
            __m128i c = _mm_loadu_si128(at + 2), e = _mm_loadu_si128(at + 3);
            __m128i least = _mm_min_epu8(_mm_min_epu8(a, b), _mm_min_epu8(c, e));
            if (_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_min_epu8(least, _mm_set1_epi8('\\r')), least))) {
                uint64_t hits = llmgen_line_ends(a) | (uint64_t)llmgen_line_ends(b) << 16
                    | (uint64_t)llmgen_line_ends(c) << 32 | (uint64_t)llmgen_line_ends(e) << 48;
                if (hits) return i + (size_t)__builtin_ctzll(hits);
            }
        }
        for (; i + 16 <= n; i += 16) {
            unsigned hits = llmgen_line_ends(_mm_loadu_si128((const __m128i *)(d + i)));
            if (hits) return i + (size_t)__builtin_ctz(hits);
        }
        while (i < n && d[i] != '\\n' && d[i] != '\\r') i++;
        return i;
    #else
        const uint8_t *lf = memchr(d, '\\n', n);
        const uint8_t *cr = memchr(d, '\\r', lf ? (size_t)(lf - d) : n);
        return cr ? (size_t)(cr - d) : lf ? (size_t)(lf - d) : n;
    #endif
    }
    """
    size_t line_end "llmgen_line_end"(const uint8_t* d, size_t n) noexcept nogil


cdef enum:                       # SseParser.flags
    STARTED = 1                  # past the byte order mark that may open a stream
    LAST_CR = 2                  # the last line ended with CR: swallow an LF
    IN_COMMENT = 4               # inside of a comment line whose beginning is gone
    TAKEN = 8                    # the carry holds the event that was taken last
    TOO_LARGE = 16
    NO_MEMORY = 32
    FAILED = TOO_LARGE | NO_MEMORY
    BOM_SHIFT = 8                # two bits: how many bytes of the mark were seen


cdef enum:                       # further results of the two paths
    USE_CARRY = 2                # the block cannot be told as a view
    USE_VIEW = 3                 # nothing is carried any more


cdef enum Field:
    FIELD_IGNORED
    FIELD_DATA
    FIELD_EVENT
    FIELD_ID
    FIELD_RETRY


cdef enum:
    CARRY_FIRST = 256            # first allocation: most chat events fit, so that a cut one is allocated once
    MAX_EVENT_BYTES = 1 << 30    # so that sizes and doubled capacities stay in uint32_t


cdef const uint8_t* BOM = b"\xef\xbb\xbf"
cdef const uint8_t* NOTHING = b""


cdef void sse_init(SseParser* p, uint32_t max_event_bytes) noexcept nogil:
    p.given = NULL
    p.given_size = 0
    p.carry = NULL
    p.carry_size = p.carry_capacity = p.line = 0
    p.max_event_bytes = min(max_event_bytes, <uint32_t>MAX_EVENT_BYTES)
    p.flags = p.spare = 0
    p.retry = -1


cdef void sse_free(SseParser* p) noexcept nogil:
    release(p)
    p.given = NULL
    p.given_size = 0


cdef void sse_give(SseParser* p, const uint8_t* data, size_t size) noexcept nogil:
    p.given = data
    p.given_size = size


cdef int sse_next(SseParser* p, SseEvent* event) noexcept nogil:
    cdef int result = USE_VIEW
    if p.flags & TAKEN:
        release(p)
    if p.flags & FAILED:
        return SSE_TOO_LARGE if p.flags & TOO_LARGE else SSE_NO_MEMORY
    if not p.flags & STARTED and not pass_bom(p):
        return SSE_NO_MEMORY if p.flags & NO_MEMORY else SSE_MORE
    while result >= USE_CARRY:
        if result == USE_VIEW and p.carry_size == 0 and not p.flags & IN_COMMENT:
            result = next_in_view(p, event)
        else:
            result = next_in_carry(p, event)
    return result


cdef bint sse_close(SseParser* p) noexcept nogil:
    """Dropped is whatever could have become an event: a data or event field, an unfinished line, a failed event."""
    cdef bint dropped = p.flags & FAILED or (p.flags >> BOM_SHIFT) & 3
    cdef size_t at = 0, value, size
    if not p.flags & TAKEN:
        dropped = dropped or p.carry_size > p.line
        while at < p.line and not dropped:
            size = line_end(p.carry + at, p.line - at)
            dropped = classify(p.carry + at, size, &value) != FIELD_ID
            at += size + 1
    release(p)
    sse_init(p, p.max_event_bytes)
    return dropped


cdef bint pass_bom(SseParser* p) noexcept nogil:
    """Skip one byte order mark at the very beginning, cut or not. False: more bytes are needed (or no memory)."""
    cdef uint32_t seen = (p.flags >> BOM_SHIFT) & 3
    while seen < 3 and p.given_size and p.given[0] == BOM[seen]:
        seen += 1
        advance(p, 1)
    p.flags &= ~<uint32_t>(3 << BOM_SHIFT)
    if seen < 3 and not p.given_size:
        p.flags |= seen << BOM_SHIFT
        return False
    p.flags |= STARTED
    # not a mark after all: these bytes begin the first line
    return seen == 3 or seen == 0 or append(p, BOM, seen)


cdef int next_in_view(SseParser* p, SseEvent* event) noexcept nogil:
    """Walk blocks where they lie. What is left when this returns USE_CARRY is walked again by the carry path."""
    cdef const uint8_t* d
    cdef size_t n, at = 0, size, value, kept = 0
    cdef int64_t retry
    cdef Field field
    swallow_lf(p)
    d, n, retry = p.given, p.given_size, p.retry
    clear(event)
    while at < n:
        size = line_end(d + at, n - at)
        if at + size == n:
            return USE_CARRY             # an unfinished line
        if size == 0 and event.data.data != NULL:
            end_given_line(p, at)
            event.retry = retry
            p.retry = -1
            return SSE_EVENT
        if size == 0 and event.id.data != NULL:
            return USE_CARRY             # no event, but its id waits for the next one
        field = FIELD_IGNORED
        if size == 0:
            clear(event)
            kept = 0
        elif d[at] != c":":
            if kept + size > p.max_event_bytes:
                return fail(p, TOO_LARGE)
            field = classify(d + at, size, &value)
        if field == FIELD_DATA:
            if event.data.data != NULL:
                return USE_CARRY         # lines to be joined
            event.data = span(d + at + value, size - value)
        elif field == FIELD_EVENT:
            event.type = span(d + at + value, size - value)
        elif field == FIELD_ID:
            event.id = span(d + at + value, size - value)
        elif field == FIELD_RETRY:
            retry = milliseconds(d + at + value, size - value, retry)
        if field != FIELD_IGNORED and field != FIELD_RETRY:
            kept += size + 1
        if kept:
            at += size + 1
            if d[at - 1] == c"\r" and at < n and d[at] == c"\n":
                at += 1
        else:                            # consumed for good, so that no line is walked more than twice
            end_given_line(p, at + size)
            d, n, at = p.given, p.given_size, 0
            p.retry = retry
    return USE_CARRY if n else SSE_MORE


cdef int next_in_carry(SseParser* p, SseEvent* event) noexcept nogil:
    cdef const uint8_t* d
    cdef size_t n, size
    swallow_lf(p)
    d, n = p.given, p.given_size
    if n == 0:
        return SSE_MORE
    size = line_end(d, n)
    if p.flags & IN_COMMENT or (p.carry_size == p.line and d[0] == c":"):
        p.flags |= IN_COMMENT
        if size == n:
            advance(p, n)
            return SSE_MORE
        p.flags &= ~<uint32_t>IN_COMMENT
        end_given_line(p, size)
        return USE_VIEW
    if size and p.carry_size + size > p.max_event_bytes:
        return fail(p, TOO_LARGE)
    if not append(p, d, size):
        return fail(p, NO_MEMORY)
    if size == n:
        advance(p, n)
        return SSE_MORE
    end_given_line(p, size)
    if p.carry_size == p.line:
        return end_block(p, event)
    return end_line(p)


cdef int end_line(SseParser* p) noexcept nogil:
    """The carry's last line is complete: keep it, ended by LF, if the end of the block will need it."""
    cdef size_t value
    cdef const uint8_t* line = p.carry + p.line
    cdef size_t size = p.carry_size - p.line
    cdef Field field = classify(line, size, &value)
    if field == FIELD_RETRY:
        p.retry = milliseconds(line + value, size - value, p.retry)
    if field == FIELD_RETRY or field == FIELD_IGNORED:
        p.carry_size = p.line
        if p.carry_size == 0:
            release(p)
        return USE_VIEW
    if not append(p, <const uint8_t*>b"\n", 1):
        return fail(p, NO_MEMORY)
    p.line = p.carry_size
    return USE_CARRY


cdef int end_block(SseParser* p, SseEvent* event) noexcept nogil:
    """A blank line. The carry holds whole data, event and id lines only."""
    cdef size_t at = 0, size, value, lines = 0, id_at = 0, id_size = 0
    cdef Field field
    cdef Span whole
    clear(event)
    while at < p.line:
        size = line_end(p.carry + at, p.line - at)
        field = classify(p.carry + at, size, &value)
        whole = span(p.carry + at + value, size - value)
        if field == FIELD_DATA:
            lines += 1
            event.data = whole
        elif field == FIELD_EVENT:
            event.type = whole
        else:
            event.id = whole
            id_at, id_size = at, size
        at += size + 1
    if lines == 0:                       # no event, but the last id, if any, becomes the next event's
        if id_size == 0:
            release(p)
            return USE_VIEW
        memmove(p.carry, p.carry + id_at, id_size + 1)
        p.carry_size = p.line = <uint32_t>id_size + 1
        return USE_CARRY
    if lines > 1 and not join_data(p, event):
        return fail(p, NO_MEMORY)
    p.flags |= TAKEN
    event.retry = p.retry
    p.retry = -1
    return SSE_EVENT


cdef bint join_data(SseParser* p, SseEvent* event) noexcept nogil:
    """Join the data lines at the carry's start; type and id are copied out of their way, behind all lines."""
    cdef size_t at = 0, end = 0, size, value
    cdef size_t lines = p.line
    cdef size_t type_at = event.type.data - p.carry if event.type.size else 0
    cdef size_t id_at = event.id.data - p.carry if event.id.size else 0
    if not reserve(p, event.type.size + event.id.size):
        return False
    memcpy(p.carry + lines, p.carry + type_at, event.type.size)
    memcpy(p.carry + lines + event.type.size, p.carry + id_at, event.id.size)
    event.type.data = p.carry + lines
    if event.id.data != NULL:
        event.id.data = p.carry + lines + event.type.size
    while at < lines:
        size = line_end(p.carry + at, lines - at)
        if classify(p.carry + at, size, &value) == FIELD_DATA:
            memmove(p.carry + end, p.carry + at + value, size - value)
            end += size - value
            p.carry[end] = c"\n"         # the line's own LF or a byte before it: never ahead of `at`
            end += 1
        at += size + 1
    event.data = span(p.carry, end - 1)
    return True


cdef inline Field classify(const uint8_t* line, size_t size, size_t* value) noexcept nogil:
    """The field of a line that is neither blank nor a comment; its value begins at `value`."""
    cdef const uint8_t* colon
    cdef size_t name
    if size > 5 and memcmp(line, b"data:", 5) == 0:
        value[0] = 6 if line[5] == c" " else 5
        return FIELD_DATA
    colon = <const uint8_t*>memchr(line, c":", size)
    name = colon - line if colon != NULL else size
    value[0] = min(name + 1, size)
    if value[0] < size and line[value[0]] == c" ":
        value[0] += 1
    if name == 4 and memcmp(line, b"data", 4) == 0:
        return FIELD_DATA
    if name == 5 and memcmp(line, b"event", 5) == 0:
        return FIELD_EVENT
    if name == 2 and memcmp(line, b"id", 2) == 0 and memchr(line + value[0], 0, size - value[0]) == NULL:
        return FIELD_ID
    if name == 5 and memcmp(line, b"retry", 5) == 0:
        return FIELD_RETRY
    return FIELD_IGNORED


cdef int64_t milliseconds(const uint8_t* value, size_t size, int64_t before) noexcept nogil:
    """A retry field's value, which counts only if it is all digits; saturates. Otherwise what was known before."""
    cdef int64_t number = 0
    cdef size_t i
    for i in range(size):
        if not c"0" <= value[i] <= c"9":
            return before
        if number > (INT64_MAX - 9) // 10:
            number = INT64_MAX // 10 - 1     # stays at its largest, but every byte must still be a digit
        number = number * 10 + (value[i] - c"0")
    return number if size else before


cdef inline void clear(SseEvent* event) noexcept nogil:
    event.data = event.id = span(NULL, 0)
    event.type = span(NOTHING, 0)


cdef inline void advance(SseParser* p, size_t size) noexcept nogil:
    p.given += size
    p.given_size -= size


cdef inline void end_given_line(SseParser* p, size_t size) noexcept nogil:
    """Consume `size` bytes and the line end behind them, of which a CRLF's second half may not have come yet."""
    cdef uint8_t end = p.given[size]
    advance(p, size + 1)
    if end == c"\r":
        p.flags |= LAST_CR
        swallow_lf(p)


cdef inline void swallow_lf(SseParser* p) noexcept nogil:
    if p.flags & LAST_CR and p.given_size:
        p.flags &= ~<uint32_t>LAST_CR
        if p.given[0] == c"\n":
            advance(p, 1)


cdef int fail(SseParser* p, uint32_t flag) noexcept nogil:
    release(p)
    p.flags |= flag
    return SSE_TOO_LARGE if flag == TOO_LARGE else SSE_NO_MEMORY


cdef void release(SseParser* p) noexcept nogil:
    free(p.carry)
    p.carry = NULL
    p.carry_size = p.carry_capacity = p.line = 0
    p.flags &= ~<uint32_t>TAKEN


cdef bint reserve(SseParser* p, size_t size) noexcept nogil:
    cdef size_t need = p.carry_size + size
    cdef size_t capacity = p.carry_capacity or CARRY_FIRST
    cdef uint8_t* grown
    if need <= p.carry_capacity:
        return True
    while capacity < need:
        capacity *= 2
    grown = <uint8_t*>realloc(p.carry, capacity)
    if grown == NULL:
        return False
    p.carry = grown
    p.carry_capacity = <uint32_t>capacity
    return True


cdef bint append(SseParser* p, const uint8_t* data, size_t size) noexcept nogil:
    if not reserve(p, size):
        return False
    memcpy(p.carry + p.carry_size, data, size)
    p.carry_size += <uint32_t>size
    return True


# --- the Python face -------------------------------------------------------------------------------------------------


class Error(ValueError):
    """The stream cannot be followed further: an event is larger than `max_event_bytes`.

    `events`: list of Event, those that the same feed() had completed before.
    """

    def __init__(self, message, events=()):
        super().__init__(message)
        self.events = list(events)


Event = NamedTuple("Event", [("type", str), ("data", str), ("id", str), ("retry", "int | None"), ("t_ns", int)])
Event.__module__ = __name__
Event.__new__.__defaults__ = ("", None, 0)
Event.__doc__ = """One dispatched event.

`type` is "message" unless the stream named it; `id` is the last event ID at dispatch; `retry` in ms was seen since the
event before, None if not; `t_ns` is what feed() was given with the bytes that completed the event. Invalid
UTF-8 is U+FFFD.
"""


cdef str text_of(Span s):
    return PyBytes_FromStringAndSize(<const char*>s.data, s.size).decode("utf-8", "replace")


cdef class Parser:
    """Events of one stream. `max_event_bytes`: bytes of fields and unfinished line that one event may have."""

    cdef SseParser c
    cdef str last_id

    def __cinit__(self, max_event_bytes=1 << 20):
        if not 1 <= max_event_bytes <= MAX_EVENT_BYTES:
            raise ValueError(f"max_event_bytes={max_event_bytes}: must be between 1 and {MAX_EVENT_BYTES}")
        sse_init(&self.c, max_event_bytes)
        self.last_id = ""

    def __dealloc__(self):
        sse_free(&self.c)

    def feed(self, data, t_ns=0):
        """All events that `data` completes, in order. Error when an event is too large, then and ever after."""
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            sse_give(&self.c, <const uint8_t*>view.buf, view.len)
            return self.take(t_ns)
        finally:
            sse_give(&self.c, NULL, 0)
            PyBuffer_Release(&view)

    def close(self):
        """The stream is over. True: an unfinished event was dropped. The parser is then as new but for the last ID."""
        return bool(sse_close(&self.c))

    cdef list take(self, object t_ns):
        cdef SseEvent event
        cdef list events = []
        cdef int result = sse_next(&self.c, &event)
        while result == SSE_EVENT:
            if event.id.data != NULL:
                self.last_id = text_of(event.id)
            events.append(Event(
                text_of(event.type) if event.type.size else "message",
                text_of(event.data),
                self.last_id,
                event.retry if event.retry >= 0 else None,
                t_ns,
            ))
            result = sse_next(&self.c, &event)
        if result == SSE_NO_MEMORY:
            raise MemoryError
        if result == SSE_TOO_LARGE:
            raise Error(f"event larger than {self.c.max_event_bytes} bytes", events)
        return events
