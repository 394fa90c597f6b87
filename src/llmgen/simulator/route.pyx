"""What a request gets: the route, how long its answer is, which fault strikes it."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memmove

from llmgen.clock cimport monotonic_ns
from llmgen.simulator.answer cimport EVENT_BYTES, HEAD_BYTES, model_named, put_bytes, put_error, put_head, put_models
from llmgen.simulator.body cimport (
    ASK_BAD_NUMBER,
    ASK_NO_PROMPT,
    ASK_NOT_OBJECT,
    ASK_OK,
    Asked,
    ask_read,
)
from llmgen.simulator.emit cimport HEAD_AHEAD_NS, emit_head, log_request
from llmgen.simulator.request cimport METHOD_GET, METHOD_HEAD, METHOD_POST, RequestHead, request_index
from llmgen.simulator.server cimport (
    DRAW_FAULT,
    DRAW_OUTPUT,
    FAULT_CLOSE,
    FAULT_CRLF,
    FAULT_DROP,
    FAULT_EMPTY,
    FAULT_GARBAGE,
    FAULT_HANG,
    FAULT_HTML,
    FAULT_NONE,
    FAULT_SLOW,
    FAULT_SPLIT,
    FAULT_STATUS,
    FAULT_UNFRAMED,
    FRAMED_BY_EOF,
    FRAMED_CHUNKS,
    MAX_MODEL_BYTES,
    Conn,
    Model,
    Server,
    Stream,
    conn_close,
    conn_end,
    conn_send,
    draw,
    mixed,
    sampled,
    stream_end,
    stream_new,
    stream_start,
)

cdef enum:
    DEFAULT_TOKENS = 128         # of an answer whose length nobody told
    MAX_TOKENS = 1000000         # of one answer; bounds the memory of whole answers at 16 MB


cdef inline bint is_path(const RequestHead* head, const char* path, size_t size) noexcept nogil:
    return head.path.size == size and memcmp(head.path.data, path, size) == 0


cdef void send_document(Server* v, Conn* conn, int status, const char* content_type, uint8_t* buffer, uint8_t* end,
                        bint keep_alive, bint bodyless) noexcept nogil:
    """Sends the body that lies HEAD_BYTES into `buffer` with its head; closes afterwards unless `keep_alive`."""
    cdef uint8_t* body = buffer + HEAD_BYTES
    cdef size_t size = end - body
    cdef uint8_t* to = put_head(buffer, status, content_type, size, keep_alive, False)
    if not bodyless:
        memmove(to, body, size)
        to += size
    if conn_send(v, conn, buffer, to - buffer) >= 0 and not keep_alive:
        conn_end(v, conn)


cdef void refuse(Server* v, Conn* conn, int status, const char* message, bint keep_alive, bint bodyless) noexcept nogil:
    cdef uint8_t* end = put_error(v.scratch + HEAD_BYTES, status, message)
    send_document(v, conn, status, b"application/json", v.scratch, end, keep_alive, bodyless)


cdef const char* ask_message(int result) noexcept nogil:
    if result == ASK_NOT_OBJECT:
        return b"the body is not a JSON object"
    if result == ASK_BAD_NUMBER:
        return b"max_tokens, max_completion_tokens and min_tokens are integers of at least 1 (min_tokens 0)"
    if result == ASK_NO_PROMPT:
        return b"messages (chat) is a list of objects, prompt (completions) a string or a list; one of them is missing"
    return b"the body is not JSON"


cdef void choose_length(Server* v, Stream* s, const Asked* asked) noexcept nogil:
    """max_tokens, or what --output-tokens draws if that is less; ignore_eos and min_tokens as vLLM has them."""
    cdef int64_t most = asked.max_tokens, tokens
    if v.output_given:
        tokens = sampled(&v.output, draw(s.key, DRAW_OUTPUT))
        if most < 0:
            most = MAX_TOKENS
    else:
        tokens = DEFAULT_TOKENS if most < 0 else most
        if most < 0:
            most = tokens + 1    # it stops by itself
    if asked.ignore_eos and asked.max_tokens > 0:
        tokens = most
    if tokens < asked.min_tokens:
        tokens = asked.min_tokens
    s.stopped = tokens < most
    if tokens > most:
        tokens = most
    s.tokens = <uint32_t>(tokens if tokens < MAX_TOKENS else MAX_TOKENS)


cdef void choose_fault(Server* v, Stream* s) noexcept nogil:
    """At most one fault a request, the same one for the same seed and request id."""
    cdef uint64_t drawn = draw(s.key, DRAW_FAULT)
    cdef uint32_t i
    for i in range(v.rule_count):
        if drawn < v.rules[i].below:
            s.fault = v.rules[i].fault
            s.parameter = v.rules[i].parameter
            break
    if s.fault == FAULT_NONE:
        return
    s.armed = True
    s.strike_at = 0 if s.fault == FAULT_SLOW or s.fault == FAULT_SPLIT else s.tokens // 2
    if s.fault == FAULT_CRLF:
        s.crlf = True
    elif s.fault == FAULT_CLOSE:
        s.keep_alive = False
    elif s.fault == FAULT_EMPTY:
        s.tokens = 0
        s.stopped = True
    elif s.fault == FAULT_UNFRAMED and s.streaming:
        s.framing = FRAMED_BY_EOF
        s.keep_alive = False


cdef bint fault_at_once(Server* v, Conn* conn, Stream* s) noexcept nogil:
    """Deals with faults that strike before any token; False if the answer is to run."""
    cdef bint keep_alive = s.keep_alive
    cdef uint8_t* end
    cdef uint32_t fault = s.fault, status = s.parameter
    if fault == FAULT_HANG:
        return True
    if fault == FAULT_DROP:
        stream_end(v, s, fault)
        conn_close(v, conn, fault)
    elif fault == FAULT_STATUS:
        stream_end(v, s, fault)
        refuse(v, conn, status, b"simulated fault", keep_alive, False)
    elif fault == FAULT_HTML:
        stream_end(v, s, fault)
        end = put_bytes(v.scratch + HEAD_BYTES, b"<!DOCTYPE html><title>Welcome</title><p>It works!\n", 50)
        send_document(v, conn, 200, b"text/html", v.scratch, end, keep_alive, False)
    elif fault == FAULT_GARBAGE:
        stream_end(v, s, fault)
        if conn_send(v, conn, <const uint8_t*>b"\x16\x03\x00this is no HTTP\r\n\r\n", 22) >= 0:
            conn_end(v, conn)
    else:
        return False
    return True


cdef void generate(Server* v, Conn* conn, const RequestHead* head, bint chat, const uint8_t* body,
                   size_t size) noexcept nogil:
    """A chat or completions request: refused, or a stream that is started."""
    cdef Asked asked
    cdef Stream* s
    cdef Model* model = &v.models[0]
    cdef uint64_t salt
    cdef int64_t index
    cdef int result = ask_read(body, size, chat, &asked)
    if result != ASK_OK:
        refuse(v, conn, 400, ask_message(result), head.keep_alive, False)
        return
    if asked.model.size > 0:
        model = model_named(v, asked.model.data, asked.model.size) if asked.model.size <= MAX_MODEL_BYTES else NULL
        if model == NULL:
            refuse(v, conn, 404, b"this model does not exist here", head.keep_alive, False)
            return
    s = stream_new(v, conn)
    if s == NULL:
        refuse(v, conn, 503, b"out of memory", False, False)
        return
    index = request_index(&head.request_id, &salt)
    s.index = index
    s.key = mixed(v.seed ^ mixed((<uint64_t>index ^ salt) if index >= 0 else ~<uint64_t>s.serial))
    s.model = model
    s.arrival = conn.stamp
    s.input_tokens = asked.input_tokens
    s.chat = chat
    s.streaming = asked.stream
    s.include_usage = asked.include_usage
    s.continuous_usage = asked.continuous_usage
    s.keep_alive = head.keep_alive
    s.framing = FRAMED_CHUNKS
    if head.http10 and asked.stream:
        s.framing = FRAMED_BY_EOF
        s.keep_alive = False
    choose_length(v, s, &asked)
    choose_fault(v, s)
    log_request(v, s)
    if fault_at_once(v, conn, s):
        return
    stream_start(v, s)
    if s.streaming and s.fault != FAULT_SLOW and (s.queued or s.due - monotonic_ns() > HEAD_AHEAD_NS):
        emit_head(v, s)


cdef bint route(Server* v, Conn* conn, const RequestHead* head, const uint8_t* body, size_t size) noexcept nogil:
    """Answers a whole request, or starts the stream that will; False: the connection takes no further request."""
    cdef bint chat = is_path(head, b"/v1/chat/completions", 20)
    cdef bint keep_alive = head.keep_alive, bodyless = head.method == METHOD_HEAD
    cdef uint8_t* buffer
    v.requests += 1
    if chat or is_path(head, b"/v1/completions", 15):
        if head.method == METHOD_POST:
            generate(v, conn, head, chat, body, size)
        else:
            refuse(v, conn, 405, b"this path wants POST", keep_alive, bodyless)
    elif is_path(head, b"/v1/models", 10):
        if head.method == METHOD_GET or bodyless:
            buffer = <uint8_t*>malloc(HEAD_BYTES + EVENT_BYTES * (v.model_count + 1))
            if buffer == NULL:
                return False
            send_document(v, conn, 200, b"application/json", buffer, put_models(buffer + HEAD_BYTES, v), keep_alive,
                          bodyless)
            free(buffer)
        else:
            refuse(v, conn, 405, b"this path wants GET", keep_alive, bodyless)
    elif is_path(head, b"/health", 7):
        send_document(v, conn, 200, b"text/plain", v.scratch, v.scratch + HEAD_BYTES, keep_alive, bodyless)
    else:
        refuse(v, conn, 404, b"no such path", keep_alive, bodyless)
    return not conn.dead and not conn.ending
