"""What a stream sends when it is due.

The order of an answer: the head at once (together with the first token if that is due within a millisecond); at the
first token's time one write with the role-only event and the first token's event, as two chunks; then one event a
write, each at its absolute due time, however late the one before it was; behind the last token's write a second one
with the usage event, [DONE] and the end of the body. The stamp in the truth log is taken just before each syscall.

On HTTP/2 an event is a DATA frame, and the frames that all streams of a connection emit in the same turn of the loop
share one write; so does the end of an answer with its last token.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from llmgen.clock cimport monotonic_ns
from llmgen.simulator.answer cimport HEAD_BYTES, answer_room, put_head, put_last_chunk, put_stream_head
from llmgen.simulator.apis cimport (
    opening_events,
    put_answer,
    put_failure,
    put_nothing,
    put_opening_events,
    put_refusal,
    put_tail,
    put_tokens,
    stream_type,
)
from llmgen.simulator.engine cimport MARK_STEP, Step
from llmgen.simulator.http2 cimport http2_backlogged, http2_data, http2_head, http2_touch
from llmgen.simulator.seeded cimport draw
from llmgen.simulator.server cimport (
    BACKLOG_BYTES,
    DRAW_ITL,
    DRAW_PER_EVENT,
    FAULT_CUT,
    FAULT_EOF,
    FAULT_ERROR_EVENT,
    FAULT_GOAWAY,
    FAULT_MALFORMED,
    FAULT_RESET,
    FAULT_RST_STREAM,
    FAULT_SLOW,
    FAULT_SPLIT,
    FAULT_STALL,
    MAX_TOKENS_PER_EVENT,
    Conn,
    Server,
    Stream,
    conn_end,
    conn_reset,
    conn_send,
    sampled,
    stream_end,
)
from llmgen.simulator.truthlog cimport TRUTH_MARK, TRUTH_REQUEST, TRUTH_WRITE, TruthRow, truth_row
from llmgen.wire.http2 cimport http2_cancel, http2_goaway, http2_raw, http2_settings
from llmgen.wire.http2_frames cimport (
    FRAME_DATA,
    FRAME_HEADER_SIZE,
    H2_INTERNAL_ERROR,
    H2_NO_ERROR,
    SETTING_MAX_CONCURRENT_STREAMS,
    write_frame_header,
)


cdef void log_request(Server* v, Stream* s) noexcept nogil:
    cdef TruthRow* row
    s.logged = True
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


cdef void log_mark(Server* v, int mark, int64_t t, uint32_t replica, const Stream* s) noexcept nogil:
    """What the engine did: with a request, or (`s` NULL) with a replica or a step."""
    cdef TruthRow* row
    cdef const Step* step = &v.engine.replicas[replica].last
    if v.truth.fd < 0:
        return
    row = truth_row(&v.truth, t)
    row.t = t
    row.index = s.index if s != NULL else -1
    row.serial = s.serial if s != NULL else 0
    row.connection = replica
    row.stream = row.tokens = row.input_tokens = row.events = 0
    row.kind = TRUTH_MARK
    row.detail = mark
    if mark == MARK_STEP:
        row.serial = step.running
        row.stream = step.waiting
        row.tokens = step.tokens
        row.input_tokens = step.prefill_tokens


cdef TruthRow* log_write(Server* v, const Stream* s, int64_t t, uint32_t tokens, int events) noexcept nogil:
    """The new row, NULL without a log. `t` 0: the stamp is put in when the connection is flushed."""
    cdef TruthRow* row
    if v.truth.fd < 0:
        return NULL
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
    row.detail = 0
    if t == 0:
        v.unstamped[v.truth.count - 1] = s.conn
    return row


cdef uint32_t event_tokens(const Server* v, const Stream* s) noexcept nogil:
    """Tokens of the next event: as drawn (or as many as the engine has given), no more than are left."""
    cdef int64_t drawn
    if v.engine != NULL:
        drawn = s.ready if s.ready < MAX_TOKENS_PER_EVENT else MAX_TOKENS_PER_EVENT
    else:
        drawn = sampled(&v.per_event, draw(s.key, DRAW_PER_EVENT) + s.sent)
    return <uint32_t>drawn if drawn < s.tokens - s.sent else s.tokens - s.sent


cdef int64_t due_after(const Server* v, const Stream* s) noexcept nogil:
    """Due time of the event after the one that is due now: absolute, so that lateness does not add up."""
    if v.engine != NULL:
        return s.due             # if tokens are left; else the engine says when
    if v.step_ns > 0:
        return s.due + v.step_ns
    return s.due + sampled(&v.itl, draw(s.key, DRAW_ITL) + s.sent)


cdef inline void taken(Stream* s, uint32_t tokens) noexcept nogil:
    """So many more tokens are sent, or will be by themselves."""
    s.sent += tokens
    s.ready -= tokens if tokens < s.ready else s.ready


cdef int deliver(Server* v, Stream* s, const uint8_t* data, size_t size, bint end, uint32_t tokens,
                 int events) noexcept nogil:
    """Sends (HTTP/2: queues for the turn's write) a piece of the answer; `end` closes an HTTP/2 stream. 0, -1: gone."""
    cdef Conn* conn = s.conn
    cdef TruthRow* row
    cdef int result
    if conn.multiplex != NULL:
        result = http2_data(v, conn, s.number, data, size, end)
        if result < 0:
            conn_reset(v, conn, FAULT_RESET)         # only without memory: the codec knows every stream of ours
            return -1
        row = log_write(v, s, 0, tokens, events)
    else:
        row = log_write(v, s, monotonic_ns(), tokens, events)
        result = conn_send(v, conn, data, size)
    if result == 1 and row != NULL:
        row.detail = 1
    return 0 if result >= 0 else -1


cdef uint8_t* open_answer(Server* v, Stream* s) noexcept nogil:
    """The place behind the head in the scratch buffer, if it has not been sent; on HTTP/2 it is queued by itself."""
    if s.head_sent:
        return v.scratch
    s.head_sent = True
    if s.number == 0:
        return put_stream_head(v.scratch, s, stream_type(s))
    http2_head(v, s.conn, s.number, 200, stream_type(s), -1, False)
    return v.scratch


cdef bint emit_head(Server* v, Stream* s) noexcept nogil:
    """Sends the head alone; False: the connection is gone."""
    cdef uint8_t* to = open_answer(v, s)
    return to == v.scratch or deliver(v, s, v.scratch, to - v.scratch, False, 0, 0) == 0


cdef Emitted emit_tail(Server* v, Stream* s) noexcept nogil:
    cdef int events
    cdef uint8_t* to = put_last_chunk(put_tail(v.scratch, s, &events), s)
    return EMIT_OVER if deliver(v, s, v.scratch, to - v.scratch, True, 0, events) == 0 else EMIT_GONE


cdef void lower_limit(Server* v, Conn* conn) noexcept nogil:
    """Once a connection, in the middle of its first answer: fewer streams than were announced."""
    cdef uint32_t pair[2]
    if not conn.multiplex.lowered:
        conn.multiplex.lowered = True
        pair[0] = SETTING_MAX_CONCURRENT_STREAMS
        pair[1] = v.lowered_limit
        http2_settings(&conn.multiplex.http2, pair, 1)


cdef Emitted emit_event(Server* v, Stream* s, bint broken) noexcept nogil:
    """The next event in one write; behind the last one the tail."""
    cdef uint32_t tokens = event_tokens(v, s)
    cdef int events = 1
    cdef int64_t after = due_after(v, s)
    cdef uint8_t* to = open_answer(v, s)
    cdef uint32_t opening = opening_events(s) if s.sent == 0 else 0
    if opening:
        to = put_opening_events(to, s)
        if s.number == 0:
            events += opening
        elif deliver(v, s, v.scratch, to - v.scratch, False, 0, opening) < 0:
            return EMIT_GONE
        else:
            to = v.scratch
    to = put_nothing(to, s) if s.tokens == 0 else put_tokens(to, s, tokens, broken)
    taken(s, tokens)
    if deliver(v, s, v.scratch, to - v.scratch, False, tokens, events) < 0:
        return EMIT_GONE
    v.events += 1
    if s.number > 0 and v.lowered_limit > 0:
        lower_limit(v, s.conn)
    if s.sent == s.tokens:
        return emit_tail(v, s)
    s.due = after
    return EMIT_WAIT if v.engine != NULL and s.ready == 0 else EMIT_AGAIN


# --- whole answers -------------------------------------------------------------------------------------------------

cdef uint8_t* document(Server* v, Stream* s, uint8_t** buffer, size_t* size) noexcept nogil:
    """A whole answer (HTTP/1.1: with its head) in fresh memory `buffer`, where the result points into; NULL without
    memory. Cut answers end in their middle."""
    cdef uint8_t head[HEAD_BYTES]
    cdef uint8_t* body
    cdef size_t length, ahead
    cdef int status = 500 if s.fault == FAULT_ERROR_EVENT else 200
    buffer[0] = <uint8_t*>malloc(HEAD_BYTES + answer_room(s))
    if buffer[0] == NULL:
        return NULL
    body = buffer[0] + HEAD_BYTES
    if status == 500:
        length = put_refusal(body, s.api, 500, b"simulated engine failure") - body
    else:
        length = put_answer(body, s) - body
    if s.fault == FAULT_MALFORMED:
        length -= 3              # without its closing braces
    if s.number > 0:
        ahead = 0
        http2_head(v, s.conn, s.number, status, b"application/json", length, False)
    else:
        ahead = put_head(head, status, b"application/json", length, s.keep_alive, False) - head
        memcpy(body - ahead, head, ahead)
    if s.fault == FAULT_CUT or s.fault == FAULT_EOF:
        length = length // 2
        s.keep_alive = False
    size[0] = ahead + length
    return body - ahead


cdef Emitted emit_document(Server* v, Stream* s) noexcept nogil:
    cdef uint8_t* buffer
    cdef size_t size
    cdef uint8_t* start = document(v, s, &buffer, &size)
    cdef int result
    if start == NULL:
        conn_reset(v, s.conn, FAULT_RESET)
        return EMIT_GONE
    s.sent = s.tokens
    result = deliver(v, s, start, size, True, s.tokens, 0)
    free(buffer)
    return EMIT_GONE if result < 0 else EMIT_OVER


# --- bytes that are held back: slow and split writes ---------------------------------------------------------------

cdef bint hold(Stream* s, const uint8_t* data, size_t size) noexcept nogil:
    s.held = <uint8_t*>malloc(size)
    if s.held == NULL:
        return False
    memcpy(s.held, data, size)
    s.held_at = 0
    s.held_size = <uint32_t>size
    return True


cdef bint hold_next(Server* v, Stream* s) noexcept nogil:
    """Holds back the next event (the whole answer if it is not streamed); behind the last one the tail."""
    cdef uint8_t* to
    cdef uint8_t* buffer
    cdef size_t size
    cdef bint held
    cdef int events
    if not s.streaming:
        to = document(v, s, &buffer, &size)
        held = to != NULL and hold(s, to, size)
        free(buffer)
        s.held_tokens = s.tokens
        s.sent = s.tokens
        return held
    to = open_answer(v, s)
    if s.sent == 0:
        to = put_opening_events(to, s)
    s.held_tokens = event_tokens(v, s)
    to = put_tokens(to, s, s.held_tokens, False) if s.tokens > 0 else put_nothing(to, s)
    taken(s, s.held_tokens)
    if s.sent == s.tokens:
        to = put_last_chunk(put_tail(to, s, &events), s)
    return hold(s, v.scratch, to - v.scratch)


cdef Emitted emit_slow(Server* v, Stream* s) noexcept nogil:
    """One byte a second of what is held back; when that is all sent, the next event is held back."""
    cdef bint last
    if s.held == NULL and not hold_next(v, s):
        conn_reset(v, s.conn, FAULT_SLOW)
        return EMIT_GONE
    last = s.held_at + 1 == s.held_size
    if deliver(v, s, s.held + s.held_at, 1, last and s.sent == s.tokens, s.held_tokens if last else 0, last) < 0:
        return EMIT_GONE
    s.held_at += 1
    if last:
        free(s.held)
        s.held = NULL
        if s.sent == s.tokens:
            return EMIT_OVER
    s.due = monotonic_ns() + SLOW_NS
    return EMIT_AGAIN


cdef Emitted emit_split(Server* v, Stream* s) noexcept nogil:
    """Sends an event up to the middle of a character of two bytes or more; the rest is held back for SPLIT_NS."""
    cdef uint8_t* to
    cdef uint8_t* cut = v.scratch
    if s.held != NULL:
        if deliver(v, s, s.held, s.held_size, False, s.held_tokens, 1) < 0:
            return EMIT_GONE
        free(s.held)
        s.held = NULL
        v.events += 1
        if s.sent == s.tokens:
            return emit_tail(v, s)
        s.due = s.after
        return EMIT_AGAIN
    s.after = due_after(v, s)
    s.held_tokens = event_tokens(v, s)
    to = open_answer(v, s)
    if s.sent == 0:
        to = put_opening_events(to, s)
    to = put_tokens(to, s, s.held_tokens, False)
    taken(s, s.held_tokens)
    while cut < to and cut[0] < 0xC2:        # first byte of a longer character
        cut += 1
    if not hold(s, cut + 1, to - cut - 1):
        conn_reset(v, s.conn, FAULT_SPLIT)
        return EMIT_GONE
    if deliver(v, s, v.scratch, cut + 1 - v.scratch, False, 0, 0) < 0:
        return EMIT_GONE
    s.due = monotonic_ns() + SPLIT_NS
    return EMIT_AGAIN


# --- faults that strike in the middle of an answer -----------------------------------------------------------------

cdef Emitted emit_half_event(Server* v, Stream* s) noexcept nogil:
    """The connection is closed in the middle of an event's chunk or DATA frame."""
    cdef Conn* conn = s.conn
    cdef uint8_t frame[FRAME_HEADER_SIZE]
    cdef uint8_t* start = open_answer(v, s)
    cdef uint8_t* to = put_tokens(start, s, event_tokens(v, s), False)
    cdef size_t half = (to - start) // 2
    if s.number > 0:
        write_frame_header(frame, <uint32_t>(to - start), FRAME_DATA, 0, s.number)
        http2_raw(&conn.multiplex.http2, frame, FRAME_HEADER_SIZE)
        http2_raw(&conn.multiplex.http2, start, half)
        conn.multiplex.goaway = True         # without saying so: the turn's flush closes the connection
        while conn.streams != NULL:
            stream_end(v, conn.streams, FAULT_EOF)
        http2_touch(v, conn)
        return EMIT_GONE
    if deliver(v, s, v.scratch, start + half - v.scratch, False, 0, 0) == 0:
        stream_end(v, s, FAULT_EOF)
        conn_end(v, conn)
    return EMIT_GONE


cdef Emitted emit_broken_off(Server* v, Stream* s) noexcept nogil:
    """The body ends cleanly, without the end that the API promises, or after an error event."""
    cdef uint8_t* to = open_answer(v, s)
    cdef int events = 0
    if s.fault == FAULT_ERROR_EVENT:
        to = put_failure(to, s)
        events = 1
    to = put_last_chunk(to, s)
    return EMIT_OVER if deliver(v, s, v.scratch, to - v.scratch, True, 0, events) == 0 else EMIT_GONE


cdef Emitted emit_goaway(Server* v, Stream* s) noexcept nogil:
    """GOAWAY with this stream as the last one: those above it were not processed, this one goes on."""
    cdef Conn* conn = s.conn
    cdef Stream* other = conn.streams
    cdef Stream* next
    s.armed = False
    if conn.multiplex == NULL or conn.multiplex.goaway:
        return EMIT_ON
    conn.multiplex.goaway = True
    while other != NULL:
        next = other.next
        if other.number > s.number:
            stream_end(v, other, FAULT_GOAWAY)
        other = next
    http2_goaway(&conn.multiplex.http2, s.number, H2_NO_ERROR)
    return EMIT_ON


cdef Emitted strike(Server* v, Stream* s) noexcept nogil:
    """The fault's turn; EMIT_ON if the event is to be sent as usual."""
    cdef Conn* conn = s.conn
    if s.fault == FAULT_RESET:
        conn_reset(v, conn, FAULT_RESET)
        return EMIT_GONE
    if s.fault == FAULT_STALL:
        return EMIT_WAIT
    if s.fault == FAULT_SLOW:
        return emit_slow(v, s)
    if s.fault == FAULT_GOAWAY:
        return emit_goaway(v, s)
    if s.fault == FAULT_RST_STREAM and s.number > 0:
        http2_cancel(&conn.multiplex.http2, s.number, H2_INTERNAL_ERROR)
        http2_touch(v, conn)
        stream_end(v, s, FAULT_RST_STREAM)
        return EMIT_GONE
    if not s.streaming:
        return EMIT_ON
    if s.fault == FAULT_SPLIT and s.tokens > 0:
        return emit_split(v, s)
    if s.fault == FAULT_MALFORMED and s.tokens > 0:
        s.armed = False
        return emit_event(v, s, True)
    if s.fault == FAULT_EOF:
        return emit_half_event(v, s)
    if s.fault == FAULT_CUT or s.fault == FAULT_ERROR_EVENT:
        return emit_broken_off(v, s)
    return EMIT_ON


cdef Emitted emit(Server* v, Stream* s) noexcept nogil:
    """Sends what is due of a stream that has been taken from the heap."""
    cdef Emitted outcome
    if s.errand:
        return EMIT_ERRAND
    if s.conn.out_size - s.conn.out_at > BACKLOG_BYTES or (s.number > 0 and http2_backlogged(s)):
        s.parked = True
        s.conn.parked = True
        return EMIT_WAIT
    if v.engine != NULL and s.ready == 0 and s.held == NULL:
        return EMIT_WAIT             # until the engine's next token
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
