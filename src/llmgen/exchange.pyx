"""One request and its answer.

The protocol (http1, http2) calls the sink's four functions; they walk the body through sse and scanner into the request's
row and, at level `events`, one row an event. Gaps follow docs/metrics.md: the token events of a stream that one read
brought are a *group* with one time; a gap lies between two groups and carries the tokens of the later one. It is counted
when the later group is complete, that is at the first token event of another read or at the end.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from llmgen.recorder cimport (
    HIST_GAP,
    HIST_GAP_USER,
    HIST_ITL,
    HIST_TTFT,
    HIST_TTFT_USER,
    HIST_UNCERTAINTY,
    STREAM_EVENTS,
    EventRow,
    RequestRow,
    records_commit,
    records_new_event,
    records_observe,
)
from llmgen.wire.ndjson cimport (
    NDJSON_LINE,
    NDJSON_MORE,
    ndjson_free,
    ndjson_give,
    ndjson_init,
    ndjson_last,
    ndjson_next,
)
from llmgen.wire.scanner cimport (
    KIND_ERROR,
    KIND_FINISH,
    KIND_ROLE,
    KIND_TEXT,
    KIND_TOKENS,
    KIND_USAGE,
    SCAN_DONE,
    SCAN_MALFORMED,
    ScanFound,
    scan_event,
    scan_event_after,
)
from llmgen.wire.sink cimport END_CLOSE, END_EOF, END_MALFORMED, END_OK, END_PROTOCOL, END_RESET, END_UNPROCESSED, Header, Sink
from llmgen.wire.span cimport Span
from llmgen.wire.sse cimport SSE_EVENT, SSE_MORE, SseEvent, sse_close, sse_free, sse_give, sse_init, sse_next


cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char*, const char*, size_t)

cdef enum:
    KEPT_ERROR_BYTES = 2048      # of an error's body or event; errors.jsonl shows no more
    NO_TIME = -1


cdef bint header_is(const Header* h, const char* name, size_t size) noexcept nogil:
    return h.name_size == size and strncasecmp(<const char*>h.name, name, size) == 0


cdef bint value_starts(const Header* h, const char* text, size_t size) noexcept nogil:
    return h.value_size >= size and strncasecmp(<const char*>h.value, text, size) == 0


cdef bint append(uint8_t** buffer, uint32_t* used, uint32_t* capacity, const uint8_t* data, size_t size, size_t limit) noexcept nogil:
    """Appends up to `limit` bytes in all; False if not all fitted."""
    cdef size_t room = limit - used[0] if limit > used[0] else 0
    cdef bint fits = size <= room
    cdef size_t wanted
    cdef uint8_t* grown
    if size > room:
        size = room
    wanted = used[0] + size
    if wanted > capacity[0]:
        wanted = wanted * 2 if wanted * 2 < limit else limit
        grown = <uint8_t*>realloc(buffer[0], wanted)
        if grown == NULL:
            return False
        buffer[0] = grown
        capacity[0] = <uint32_t>wanted
    if size:
        memcpy(buffer[0] + used[0], data, size)
        used[0] += <uint32_t>size
    return fits


cdef bint keep(Exchange* x, const uint8_t* data, size_t size, size_t limit) noexcept nogil:
    """Whole answers, and the first bytes of errors."""
    return append(&x.kept, &x.kept_size, &x.kept_capacity, data, size, limit)


# -- what the protocol reports ------------------------------------------------------------------------------------------

cdef void on_headers(void* ctx, uint64_t user, int status, const Header* headers, size_t count) noexcept nogil:
    cdef Answers* a = <Answers*>ctx
    cdef Exchange* x = <Exchange*>user
    cdef const Header* h
    cdef size_t i
    cdef bint event_stream = False, lines = False, json = False, html = False, typed = False, encoded = False
    x.row.headers = a.read.t
    x.row.http_status = <uint16_t>status
    x.active = a.read.t_user
    x.state = EXCHANGE_ANSWERING
    if status < 200 or status > 299:
        x.mode = MODE_ERROR
        x.retry_after_s = retry_after(headers, count)
        return
    for i in range(count):
        h = headers + i
        if header_is(h, "content-type", 12):
            typed = True
            event_stream = value_starts(h, "text/event-stream", 17)
            json = value_starts(h, "application/json", 16)
            html = value_starts(h, "text/html", 9)
            lines = is_lines(h)
        elif header_is(h, "content-encoding", 16):
            encoded = h.value_size > 0 and not value_starts(h, "identity", 8)
    if html or encoded:
        x.mode = MODE_ODD
    elif event_stream:
        x.mode = MODE_SSE
    elif lines:
        x.mode = MODE_LINES
    elif json or not x.expect.stream:
        x.mode = MODE_WHOLE
        x.row.flags |= FLAG_WHOLE_ANSWER
    else:
        x.mode = MODE_LINES if x.expect.lines else MODE_SSE
        x.row.flags |= FLAG_ODD_CONTENT_TYPE


cdef uint32_t retry_after(const Header* headers, size_t count) noexcept nogil:
    """Retry-After in seconds (RFC 9110, 10.2.3), 0 without one; a date counts as none."""
    cdef size_t i, j
    cdef uint32_t seconds = 0
    for i in range(count):
        if not header_is(headers + i, "retry-after", 11):
            continue
        for j in range(headers[i].value_size):
            if not 48 <= headers[i].value[j] <= 57 or seconds > 100000:
                return 0
            seconds = seconds * 10 + headers[i].value[j] - 48
    return seconds


cdef bint is_lines(const Header* h) noexcept nogil:
    """The content types under which newline-delimited JSON goes."""
    return (
        value_starts(h, "application/x-ndjson", 20)
        or value_starts(h, "application/ndjson", 18)
        or value_starts(h, "application/jsonl", 17)
    )


cdef void on_data(void* ctx, uint64_t user, const uint8_t* data, size_t size) noexcept nogil:
    cdef Answers* a = <Answers*>ctx
    cdef Exchange* x = <Exchange*>user
    cdef SseEvent event
    cdef Span line
    cdef int result
    if size == 0:
        return
    x.active = a.read.t_user
    if x.row.first_byte == NO_TIME:
        x.row.first_byte = a.read.t
    x.row.bytes_in += size
    if a.keep_bodies:
        append(&x.body, &x.body_size, &x.body_capacity, data, size, a.max_answer_bytes)
    if x.mode == MODE_SSE:
        sse_give(&x.sse, data, size)
        while True:
            result = sse_next(&x.sse, &event)
            if result != SSE_EVENT:
                break
            on_event(a, x, &event.data)
        if result != SSE_MORE:
            x.trouble = STATUS_MALFORMED_STREAM
            x.mode = MODE_ODD
    elif x.mode == MODE_LINES:
        ndjson_give(&x.lines, data, size)
        while True:
            result = ndjson_next(&x.lines, &line)
            if result != NDJSON_LINE:
                break
            on_event(a, x, &line)
        if result != NDJSON_MORE:
            x.trouble = STATUS_MALFORMED_STREAM
            x.mode = MODE_ODD
    elif x.mode == MODE_WHOLE:
        if not keep(x, data, size, a.max_answer_bytes):
            x.trouble = STATUS_MALFORMED_STREAM
    else:
        keep(x, data, size, KEPT_ERROR_BYTES)


cdef void on_end(void* ctx, uint64_t user, int end, uint32_t code) noexcept nogil:
    cdef Answers* a = <Answers*>ctx
    cdef Exchange* x = <Exchange*>user
    cdef Span line
    if x.has_ended:
        return                   # a write that failed on a dying connection has read its end already
    x.end = <uint8_t>end
    x.has_ended = True
    if x.mode == MODE_LINES and (end == END_OK or end == END_CLOSE) and ndjson_last(&x.lines, &line):
        on_event(a, x, &line)    # only the end shows that the last line is whole: its time is the end's
    x.next = a.ended
    a.ended = x


cdef void on_sent(void* ctx, uint64_t user) noexcept nogil:
    cdef Answers* a = <Answers*>ctx
    cdef Exchange* x = <Exchange*>user
    if x.state == EXCHANGE_SENDING:
        x.state = EXCHANGE_ANSWERING
    x.row.sent = a.written


cdef void answers_sink(Answers* a, Sink* sink) noexcept nogil:
    """Fills in the sink whose `user` values are Exchange pointers."""
    sink.ctx = a
    sink.on_headers = on_headers
    sink.on_data = on_data
    sink.on_trailers = NULL
    sink.on_end = on_end
    sink.on_sent = on_sent


# -- one event ------------------------------------------------------------------------------------------------------------

cdef void on_event(Answers* a, Exchange* x, const Span* event) noexcept nogil:
    """`event`: the data of a server-sent event, or a line."""
    cdef ScanFound found
    cdef RequestRow* row = x.row
    cdef int result = scan_event_after(x.expect.rules, &x.memory, event.data, event.size, &found)
    cdef int32_t tokens = 0
    cdef uint8_t flags = 0
    if result == SCAN_DONE:
        row.flags |= FLAG_DONE_SEEN
        return
    if result == SCAN_MALFORMED:
        found.kind = found.done = 0
        if x.trouble == 0:
            x.trouble = STATUS_MALFORMED_STREAM
            keep(x, event.data, event.size, KEPT_ERROR_BYTES)
    elif found.kind & (KIND_ERROR | KIND_FINISH | KIND_USAGE):
        note_rare(x, &found, event)
    if found.done:
        row.flags |= FLAG_DONE_SEEN
    if found.kind & KIND_TOKENS:
        tokens = count_tokens(x, &found, &flags)
    row.events += 1
    if row.first_event == NO_TIME:
        row.first_event = a.read.t
    if a.read.user_stamped:
        row.flags |= FLAG_USER_STAMPED
        flags |= EVENT_USER_STAMPED
    if a.read.filled:
        flags |= EVENT_COALESCED
    record_event(a, x, found.kind, tokens, flags)
    if found.kind & KIND_TOKENS:
        on_tokens(a, x, found.kind, tokens)
        if x.capture and found.kind & KIND_TEXT:
            append(&x.text, &x.text_size, &x.text_capacity, found.text.data, found.text.size, a.max_answer_bytes)
    a.totals.events += 1


cdef void note_rare(Exchange* x, const ScanFound* found, const Span* event) noexcept nogil:
    cdef RequestRow* row = x.row
    if found.kind & KIND_FINISH:
        row.finish_reason = <uint8_t>found.finish
    if found.kind & KIND_USAGE:
        if found.input_tokens >= 0:
            row.input_tokens = found.input_tokens
        if found.reasoning_tokens >= 0:
            row.reasoning_tokens = found.reasoning_tokens
        if found.cached_tokens >= 0:
            row.cached_tokens = found.cached_tokens
        if found.output_tokens >= 0:
            row.output_tokens = found.output_tokens
            row.output_source = SOURCE_USAGE
    if found.kind & KIND_ERROR and x.trouble == 0:
        x.trouble = STATUS_SERVER_TIMEOUT if tells_timeout(found.error) else STATUS_STREAM_ERROR
        keep(x, event.data, event.size, KEPT_ERROR_BYTES)


cdef bint tells_timeout(Span error) noexcept nogil:
    """An error event that speaks of a time-out: the server's own limit, not ours."""
    cdef size_t i
    if error.size < 7:
        return False
    for i in range(error.size - 6):
        if (error.data[i] | 32) == c't' and (
            strncasecmp(<const char*>error.data + i, "timeout", 7) == 0
            or (i + 9 <= error.size and strncasecmp(<const char*>error.data + i, "timed out", 9) == 0)
        ):
            return True
    return False


cdef int32_t count_tokens(Exchange* x, const ScanFound* found, uint8_t* flags) noexcept nogil:
    """Tokens of this event: from cumulative usage, else token ids, else one and flagged."""
    cdef int32_t tokens
    if found.kind & KIND_USAGE and found.output_tokens >= 0:
        tokens = found.output_tokens - (x.usage_output if x.usage_output > 0 else 0)
        x.usage_output = found.output_tokens
        if tokens > 0:
            return tokens if tokens < 65535 else 65535
    if found.token_ids >= 0:
        x.ids_output = found.token_ids + (x.ids_output if x.ids_output > 0 else 0)
        return found.token_ids if found.token_ids < 65535 else 65535
    flags[0] |= EVENT_TOKENS_ASSUMED
    return 1


cdef void record_event(Answers* a, Exchange* x, uint32_t kind, int32_t tokens, uint8_t flags) noexcept nogil:
    cdef EventRow* e
    if x.last_read == a.read.number:
        # not the first of this read: the one before it has no exact time of its own
        x.row.coalesced_events += 1
        if x.last_event != NULL:
            x.last_event.flags |= EVENT_COALESCED
        if a.read.before >= 0:
            records_observe(a.records, x.group, HIST_UNCERTAINTY, a.read.t - a.read.before, 1)
    else:
        x.row.reads += 1
        x.last_read = a.read.number
    e = records_new_event(a.records)
    x.last_event = e
    if e == NULL:
        return
    e.t = a.read.t
    e.request = x.number
    e.tokens = <uint16_t>tokens
    e.kind = <uint8_t>kind
    e.flags = flags
    records_commit(a.records, STREAM_EVENTS)


cdef void on_tokens(Answers* a, Exchange* x, uint32_t kind, int32_t tokens) noexcept nogil:
    cdef RequestRow* row = x.row
    row.token_events += 1
    a.totals.tokens += 1
    row.last_token = a.read.t
    row.last_token_user = a.read.t_user
    if kind & KIND_TEXT and row.first_visible == NO_TIME:
        row.first_visible = a.read.t
    if row.first_token == NO_TIME:
        row.first_token = a.read.t
        row.first_token_user = a.read.t_user
        row.first_event_tokens = tokens
        a.totals.first_tokens += 1
        records_observe(a.records, x.group, HIST_TTFT, a.read.t - row.send, 1)
        records_observe(a.records, x.group, HIST_TTFT_USER, a.read.t_user - row.send, 1)
        x.group_t = a.read.t
        x.group_t_user = a.read.t_user
        x.group_tokens = <uint32_t>tokens
        return
    if x.group_t == a.read.t:    # one read, or reads with equal stamps
        if x.before_t == NO_TIME:
            row.flags |= FLAG_COALESCED_FIRST
        x.group_tokens += <uint32_t>tokens
        return
    close_group(a, x)
    x.before_t = x.group_t
    x.before_t_user = x.group_t_user
    x.group_t = a.read.t
    x.group_t_user = a.read.t_user
    x.group_tokens = <uint32_t>tokens


cdef void close_group(Answers* a, Exchange* x) noexcept nogil:
    """The current group is complete: counts the gap that leads to it."""
    cdef int64_t gap
    if x.before_t == NO_TIME:
        return
    gap = x.group_t - x.before_t
    if gap > x.row.max_gap:
        x.row.max_gap = gap
    records_observe(a.records, x.group, HIST_GAP, gap, 1)
    records_observe(a.records, x.group, HIST_GAP_USER, x.group_t_user - x.before_t_user, 1)
    if x.group_tokens:
        records_observe(a.records, x.group, HIST_ITL, gap // x.group_tokens, x.group_tokens)


# -- the life of an exchange ------------------------------------------------------------------------------------------------

cdef void exchange_begin(Answers* a, Exchange* x) noexcept nogil:
    """A new exchange for x.row (already filled by the core); all reading state is fresh."""
    cdef int64_t due = x.row.due
    x.group = <uint16_t>(2 * x.row.klass + (0 if a.window_start <= due < a.window_end else 1))
    x.kept = x.body = x.text = NULL
    x.kept_size = x.kept_capacity = x.body_size = x.body_capacity = x.text_size = x.text_capacity = 0
    x.capture = False
    x.retry_after_s = 0
    x.connection = NULL
    sse_init(&x.sse, a.max_event_bytes)
    ndjson_init(&x.lines, a.max_event_bytes)
    reset_reading(x)
    x.resends = 0


cdef void reset_reading(Exchange* x) noexcept nogil:
    memset(&x.memory, 0, 16)     # `prefix` 0: nothing remembered; the bytes need no clearing
    x.last_event = NULL
    x.last_read = 0
    x.group_t = x.group_t_user = x.before_t = x.before_t_user = NO_TIME
    x.group_tokens = 0
    x.usage_output = x.ids_output = -1
    x.mode = MODE_UNKNOWN
    x.has_ended = False
    x.trouble = 0


cdef void exchange_again(Exchange* x) noexcept nogil:
    """Before a request that got no answer byte is sent once more."""
    cdef uint32_t limit = x.sse.max_event_bytes
    sse_free(&x.sse)
    sse_init(&x.sse, limit)
    ndjson_free(&x.lines)
    ndjson_init(&x.lines, limit)
    x.kept_size = x.body_size = x.text_size = 0
    reset_reading(x)
    x.resends += 1


cdef void read_whole(Answers* a, Exchange* x) noexcept nogil:
    """The JSON document of an answer that was not streamed."""
    cdef ScanFound found
    cdef RequestRow* row = x.row
    if x.trouble:
        return
    if scan_event(x.expect.rules, x.kept, x.kept_size, &found) != 0:
        x.trouble = STATUS_MALFORMED_STREAM
        return
    if found.kind & KIND_FINISH:
        row.finish_reason = <uint8_t>found.finish
    if found.kind & KIND_ERROR:
        x.trouble = STATUS_SERVER_TIMEOUT if tells_timeout(found.error) else STATUS_STREAM_ERROR
        return
    if found.kind & KIND_USAGE:
        row.input_tokens = found.input_tokens
        row.reasoning_tokens = found.reasoning_tokens
        row.cached_tokens = found.cached_tokens
        if found.output_tokens >= 0:
            row.output_tokens = found.output_tokens
            row.output_source = SOURCE_USAGE
    if found.kind & KIND_TOKENS and row.output_source == SOURCE_NONE and found.token_ids >= 0:
        row.output_tokens = found.token_ids
        row.output_source = SOURCE_IDS
    if x.capture and found.kind & KIND_TEXT:     # then found.text is the visible one
        append(&x.text, &x.text_size, &x.text_capacity, found.text.data, found.text.size, a.max_answer_bytes)
    if x.expect.tokenless:
        if not found.kind & KIND_ROLE:
            x.trouble = STATUS_EMPTY
    elif not (found.kind & KIND_TOKENS) and row.output_tokens <= 0:
        x.trouble = STATUS_EMPTY


cdef int http_status(int code) noexcept nogil:
    if code == 429:
        return STATUS_RATE_LIMITED
    if code == 408 or code == 504:
        return STATUS_SERVER_TIMEOUT
    if 400 <= code <= 499:
        return STATUS_HTTP_4XX
    if 500 <= code <= 599:
        return STATUS_HTTP_5XX
    return STATUS_HTTP_OTHER


cdef uint32_t signs_of(const RequestRow* row) noexcept nogil:
    """SIGN_ bits: how the stream said that it is complete."""
    return (SIGN_DONE if row.flags & FLAG_DONE_SEEN else 0) | (SIGN_FINISH if row.finish_reason else 0)


cdef int exchange_status(Answers* a, Exchange* x) noexcept nogil:
    """The status of an exchange whose on_end came, from how it ended and from what it brought."""
    cdef RequestRow* row = x.row
    cdef Span line
    if x.mode == MODE_SSE:
        if sse_close(&x.sse):
            row.flags |= FLAG_TRUNCATED_EVENT
    elif x.mode == MODE_LINES and ndjson_last(&x.lines, &line):
        row.flags |= FLAG_TRUNCATED_EVENT
    if x.end == END_UNPROCESSED:
        return STATUS_UNPROCESSED
    if x.end == END_PROTOCOL or x.end == END_MALFORMED:
        return STATUS_PROTOCOL_ERROR
    if x.mode == MODE_ERROR:
        return http_status(row.http_status)
    if x.trouble and x.trouble != STATUS_EMPTY:
        return x.trouble
    if x.end == END_RESET:
        return STATUS_RESET
    if x.end == END_EOF:
        return STATUS_EOF
    if x.mode == MODE_WHOLE:
        read_whole(a, x)
        return x.trouble
    if x.mode != MODE_SSE and x.mode != MODE_LINES:
        return STATUS_MALFORMED_STREAM
    if x.expect.needs_end and not x.expect.needs_end & signs_of(row):
        return STATUS_STREAM_CUT
    return STATUS_OK if row.token_events else STATUS_EMPTY


cdef void exchange_finish(Answers* a, Exchange* x, int status, int64_t end) noexcept nogil:
    """Completes the row: the last gap, the output tokens' source, the status. The row is the caller's to close."""
    cdef RequestRow* row = x.row
    close_group(a, x)
    if row.output_source == SOURCE_NONE and row.token_events:
        if x.ids_output >= 0:
            row.output_tokens = x.ids_output
            row.output_source = SOURCE_IDS
        else:
            row.output_tokens = <int32_t>row.token_events
            row.output_source = SOURCE_EVENTS
            row.flags |= FLAG_TOKENS_ASSUMED
    row.end = end
    row.status = <uint8_t>status
    a.totals.ended += 1
    a.totals.by_status[status] += 1
    a.totals.denied += row.http_status in (401, 403, 404)
    if status != STATUS_OK and status != STATUS_CANCELLED:
        a.totals.errors += 1


cdef void exchange_free(Exchange* x) noexcept nogil:
    """Gives back what the exchange allocated; the struct itself is the core's."""
    sse_free(&x.sse)
    ndjson_free(&x.lines)
    free(x.kept)
    free(x.body)
    free(x.text)
    x.kept = x.body = x.text = NULL
    x.row = NULL
    x.state = EXCHANGE_FREE
