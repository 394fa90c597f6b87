"""What a stream sends when it is due, on HTTP/1.1.

The order of an answer: the head at once (together with the first token if that is due within a millisecond); at the
first token's time one write with the role-only event and the first token's event, as two chunks; then one event a
write, each at its absolute due time, however late the one before it was; behind the last token's write a second one
with the usage event, [DONE] and the end of the body. The stamp in the truth log is taken just before each syscall.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memmove

from llmgen.clock cimport monotonic_ns
from llmgen.simulator.answer cimport (
    EVENT_BYTES,
    HEAD_BYTES,
    WORD_BYTES,
    put_document,
    put_done,
    put_empty_finish,
    put_error,
    put_error_event,
    put_event,
    put_head,
    put_last_chunk,
    put_role,
    put_stream_head,
    put_usage_event,
)
from llmgen.simulator.server cimport (
    BACKLOG_BYTES,
    DRAW_ITL,
    DRAW_PER_EVENT,
    FAULT_CUT,
    FAULT_EOF,
    FAULT_ERROR_EVENT,
    FAULT_MALFORMED,
    FAULT_RESET,
    FAULT_SLOW,
    FAULT_SPLIT,
    FAULT_STALL,
    Conn,
    Server,
    Stream,
    conn_end,
    conn_flush,
    conn_queue,
    conn_reset,
    conn_send,
    draw,
    sampled,
    stream_end,
)
from llmgen.simulator.truthlog cimport TRUTH_REQUEST, TRUTH_WRITE, TruthRow, truth_row


cdef void log_request(Server* v, const Stream* s) noexcept nogil:
    cdef TruthRow* row
    if v.truth.fd < 0:
        return
    row = truth_row(&v.truth, s.arrival)
    row.t = s.arrival
    row.index = s.index
    row.serial = s.serial
    row.connection = s.conn.number
    row.stream = s.number
    row.tokens = s.tokens
    row.input_tokens = s.input_tokens
    row.events = 0
    row.kind = TRUTH_REQUEST
    row.detail = s.fault


cdef void log_write(Server* v, const Stream* s, int64_t t, uint32_t tokens, int events, bint queued) noexcept nogil:
    cdef TruthRow* row
    if v.truth.fd < 0:
        return
    row = truth_row(&v.truth, t)
    row.t = t
    row.index = s.index
    row.serial = s.serial
    row.connection = s.conn.number
    row.stream = s.number
    row.tokens = tokens
    row.input_tokens = 0
    row.events = events
    row.kind = TRUTH_WRITE
    row.detail = queued


cdef uint32_t event_tokens(const Server* v, const Stream* s) noexcept nogil:
    """Tokens of the next event: as drawn, no more than are left."""
    cdef int64_t drawn = sampled(&v.per_event, draw(s.key, DRAW_PER_EVENT) + s.sent)
    return <uint32_t>drawn if drawn < s.tokens - s.sent else s.tokens - s.sent


cdef int64_t due_after(const Server* v, const Stream* s) noexcept nogil:
    """Due time of the event after the one that is due now: absolute, so that lateness does not add up."""
    if v.step_ns > 0:
        return s.due + v.step_ns
    return s.due + sampled(&v.itl, draw(s.key, DRAW_ITL) + s.sent)


cdef int send_logged(Server* v, Stream* s, uint8_t* end, uint32_t tokens, int events) noexcept nogil:
    """Sends what lies in the scratch buffer up to `end`: conn_send's result."""
    cdef int64_t t = monotonic_ns()
    cdef TruthRow* row
    cdef int result
    log_write(v, s, t, tokens, events, False)
    row = &v.truth.rows[v.truth.count - 1] if v.truth.fd >= 0 else NULL
    result = conn_send(v, s.conn, v.scratch, end - v.scratch)
    if result == 1 and row != NULL:
        row.detail = 1
    return result


cdef bint emit_head(Server* v, Stream* s) noexcept nogil:
    """Sends the head alone; False: the connection is gone."""
    s.head_sent = True
    return send_logged(v, s, put_stream_head(v.scratch, s), 0, 0) >= 0


cdef Emitted emit_tail(Server* v, Stream* s) noexcept nogil:
    cdef uint8_t* to = put_usage_event(v.scratch, s)
    cdef int events = to != v.scratch
    to = put_done(to, s)
    to = put_last_chunk(to, s)
    return EMIT_GONE if send_logged(v, s, to, 0, events) < 0 else EMIT_OVER


cdef Emitted emit_event(Server* v, Stream* s, bint broken) noexcept nogil:
    """The next event in one write; behind the last one the tail."""
    cdef uint32_t tokens = event_tokens(v, s)
    cdef int events = 1
    cdef int64_t after = due_after(v, s)
    cdef uint8_t* to = v.scratch
    if not s.head_sent:
        s.head_sent = True
        to = put_stream_head(to, s)
    if s.sent == 0 and s.chat:
        to = put_role(to, s)
        events = 2
    to = put_empty_finish(to, s) if s.tokens == 0 else put_event(to, s, tokens, broken)
    s.sent += tokens
    if send_logged(v, s, to, tokens, events) < 0:
        return EMIT_GONE
    v.events += 1
    if s.sent == s.tokens:
        return emit_tail(v, s)
    s.due = after
    return EMIT_AGAIN


cdef uint8_t* document(Server* v, Stream* s, size_t* size) noexcept nogil:
    """Head and whole answer in fresh memory, NULL without memory. Cut answers end in the middle of their body."""
    cdef uint8_t* buffer = <uint8_t*>malloc(HEAD_BYTES + EVENT_BYTES + <size_t>s.tokens * WORD_BYTES)
    cdef uint8_t* body
    cdef uint8_t* to
    cdef size_t length
    if buffer == NULL:
        return NULL
    body = buffer + HEAD_BYTES
    if s.fault == FAULT_ERROR_EVENT:
        length = put_error(body, 500, b"simulated engine failure") - body
        to = put_head(buffer, 500, b"application/json", length, s.keep_alive, False)
    else:
        length = put_document(body, s) - body
        if s.fault == FAULT_MALFORMED:
            length -= 3          # without its closing braces
        to = put_head(buffer, 200, b"application/json", length, s.keep_alive, False)
    if s.fault == FAULT_CUT or s.fault == FAULT_EOF:
        length = length // 2
        s.keep_alive = False
    memmove(to, body, length)
    size[0] = to + length - buffer
    return buffer


cdef Emitted emit_document(Server* v, Stream* s) noexcept nogil:
    cdef size_t size
    cdef int result
    cdef uint8_t* buffer = document(v, s, &size)
    if buffer == NULL:
        conn_reset(v, s.conn, FAULT_RESET)
        return EMIT_GONE
    s.sent = s.tokens
    log_write(v, s, monotonic_ns(), s.tokens, 0, False)
    result = conn_send(v, s.conn, buffer, size)
    free(buffer)
    return EMIT_GONE if result < 0 else EMIT_OVER


# --- faults that strike in the middle of an answer -----------------------------------------------------------------

cdef Emitted emit_half_chunk(Server* v, Stream* s) noexcept nogil:
    """The connection is closed in the middle of an event's chunk."""
    cdef Conn* conn = s.conn
    cdef uint8_t* to = v.scratch
    if not s.head_sent:
        to = put_stream_head(to, s)
    to += (put_event(to, s, event_tokens(v, s), False) - to) // 2
    if send_logged(v, s, to, 0, 0) >= 0:
        stream_end(v, s, FAULT_EOF)
        conn_end(v, conn)
    return EMIT_GONE


cdef Emitted emit_broken_off(Server* v, Stream* s) noexcept nogil:
    """The body ends cleanly, without finish and [DONE]; an error event is followed by [DONE], as vLLM does."""
    cdef uint8_t* to = v.scratch
    cdef int events = 0
    if not s.head_sent:
        to = put_stream_head(to, s)
    if s.fault == FAULT_ERROR_EVENT:
        to = put_error_event(to, s)
        to = put_done(to, s)
        events = 1
    to = put_last_chunk(to, s)
    return EMIT_GONE if send_logged(v, s, to, 0, events) < 0 else EMIT_OVER


cdef bint hold_next(Server* v, Stream* s) noexcept nogil:
    """Holds back the next event (the whole answer if it is not streamed); behind the last one the tail."""
    cdef uint8_t* to = v.scratch
    cdef uint8_t* buffer
    cdef size_t size
    cdef bint queued
    if not s.streaming:
        buffer = document(v, s, &size)
        queued = buffer != NULL and conn_queue(s.conn, buffer, size)
        free(buffer)
        s.held_tokens = s.tokens
        s.sent = s.tokens
        s.head_sent = True
        return queued
    if not s.head_sent:
        s.head_sent = True
        to = put_stream_head(to, s)
    if s.sent == 0 and s.chat:
        to = put_role(to, s)
    s.held_tokens = event_tokens(v, s)
    to = put_event(to, s, s.held_tokens, False) if s.tokens > 0 else put_empty_finish(to, s)
    s.sent += s.held_tokens
    if s.sent == s.tokens:
        to = put_last_chunk(put_done(put_usage_event(to, s), s), s)
    return conn_queue(s.conn, v.scratch, to - v.scratch)


cdef Emitted emit_slow(Server* v, Stream* s) noexcept nogil:
    """One byte a second of what is held back; when that is all sent, the next event is held back."""
    cdef Conn* conn = s.conn
    cdef int64_t t = monotonic_ns()
    cdef int result
    if conn.out_at == conn.out_size:
        if s.head_sent and s.sent == s.tokens:
            conn.held = False
            return EMIT_OVER
        if not hold_next(v, s):
            conn_reset(v, conn, FAULT_SLOW)
            return EMIT_GONE
        conn.held = True
    result = conn_flush(v, conn, 1)
    if result < 0:
        return EMIT_GONE
    log_write(v, s, t, s.held_tokens if result == 0 else 0, result == 0, False)
    s.due = t + SLOW_NS
    return EMIT_AGAIN


cdef Emitted emit_split(Server* v, Stream* s) noexcept nogil:
    """Sends an event up to the middle of a character of two bytes or more; the rest is held back for SPLIT_NS."""
    cdef Conn* conn = s.conn
    cdef uint8_t* to = v.scratch
    cdef uint8_t* cut = v.scratch
    cdef int result
    if conn.held:                # the rest
        conn.held = False
        log_write(v, s, monotonic_ns(), s.held_tokens, 1, False)
        if conn_flush(v, conn, conn.out_size) < 0:
            return EMIT_GONE
        v.events += 1
        if s.sent == s.tokens:
            return emit_tail(v, s)
        s.due = s.after
        return EMIT_AGAIN
    s.after = due_after(v, s)
    s.held_tokens = event_tokens(v, s)
    if not s.head_sent:
        s.head_sent = True
        to = put_stream_head(to, s)
    if s.sent == 0 and s.chat:
        to = put_role(to, s)
    to = put_event(to, s, s.held_tokens, False)
    s.sent += s.held_tokens
    while cut < to and cut[0] < 0xC2:        # first byte of a longer character
        cut += 1
    result = send_logged(v, s, cut + 1, 0, 0)
    if result < 0:
        return EMIT_GONE
    if not conn_queue(conn, cut + 1, to - cut - 1):
        conn_reset(v, conn, FAULT_SPLIT)
        return EMIT_GONE
    conn.held = True
    s.due = monotonic_ns() + SPLIT_NS
    return EMIT_AGAIN


cdef Emitted strike(Server* v, Stream* s) noexcept nogil:
    """The fault's turn; EMIT_ON if the event is to be sent as usual."""
    if s.fault == FAULT_RESET:
        conn_reset(v, s.conn, FAULT_RESET)
        return EMIT_GONE
    if s.fault == FAULT_STALL:
        return EMIT_WAIT
    if s.fault == FAULT_SLOW:
        return emit_slow(v, s)
    if not s.streaming:
        return EMIT_ON
    if s.fault == FAULT_SPLIT and s.tokens > 0:
        return emit_split(v, s)
    if s.fault == FAULT_MALFORMED and s.tokens > 0:
        s.armed = False
        return emit_event(v, s, True)
    if s.fault == FAULT_EOF:
        return emit_half_chunk(v, s)
    if s.fault == FAULT_CUT or s.fault == FAULT_ERROR_EVENT:
        return emit_broken_off(v, s)
    return EMIT_ON


cdef Emitted emit(Server* v, Stream* s) noexcept nogil:
    """Sends what is due of a stream that has been taken from the heap."""
    cdef Emitted outcome
    if s.conn.out_size - s.conn.out_at > BACKLOG_BYTES:
        s.parked = True
        return EMIT_WAIT
    if s.armed and s.sent >= s.strike_at:
        outcome = strike(v, s)
        if outcome != EMIT_ON:
            return outcome
    if not s.streaming:
        return emit_document(v, s)
    return emit_event(v, s, False)


def truth_layout():
    """For tests: (name, offset) of every field of TruthRow, and its size."""
    cdef TruthRow row
    cdef const uint8_t* start = <const uint8_t*>&row
    fields = [
        ("t", <const uint8_t*>&row.t - start),
        ("index", <const uint8_t*>&row.index - start),
        ("serial", <const uint8_t*>&row.serial - start),
        ("connection", <const uint8_t*>&row.connection - start),
        ("stream", <const uint8_t*>&row.stream - start),
        ("tokens", <const uint8_t*>&row.tokens - start),
        ("input_tokens", <const uint8_t*>&row.input_tokens - start),
        ("events", <const uint8_t*>&row.events - start),
        ("kind", <const uint8_t*>&row.kind - start),
        ("detail", <const uint8_t*>&row.detail - start),
    ]
    return fields, sizeof(TruthRow)
