"""What a request gets: the route, how long its answer is, which fault strikes it."""

import sys

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memmove, memset

from llmgen.clock cimport monotonic_ns
from llmgen.simulator.answer cimport (
    EVENT_BYTES,
    HEAD_BYTES,
    model_named,
    put,
    put_bytes,
    put_head,
    put_models,
    put_number,
    put_text,
    put_typed_error,
)
from llmgen.simulator.apis cimport put_refusal
from llmgen.simulator.body cimport (
    ASK_BAD_NUMBER,
    ASK_NO_PROMPT,
    ASK_NOT_OBJECT,
    ASK_OK,
    ASK_TOO_MANY,
    Asked,
    ask_read,
)
from llmgen.simulator.emit cimport HEAD_AHEAD_NS, emit_head, log_request
from llmgen.simulator.engine cimport (
    ADMITTED,
    REFUSED_FULL,
    REFUSED_LENGTH,
    REFUSED_LOADING,
    Admission,
    engine_arrive,
    engine_ready,
)
from llmgen.simulator.http2 cimport http2_data, http2_head, http2_touch
from llmgen.simulator.prefix cimport Prefix
from llmgen.simulator.request cimport METHOD_GET, METHOD_HEAD, METHOD_POST, RequestHead, request_index
from llmgen.simulator.reuse cimport reuse_prompt
from llmgen.simulator.seeded cimport draw, mixed
from llmgen.simulator.server cimport (
    API_CHAT,
    API_COMPLETIONS,
    API_EMBEDDINGS,
    API_MESSAGES,
    API_NONE,
    API_OLLAMA,
    API_RESPONSES,
    DRAW_FAULT,
    DRAW_OUTPUT,
    FAULT_CLOSE,
    FAULT_CRLF,
    FAULT_DROP,
    FAULT_EMPTY,
    FAULT_ENGINE,
    FAULT_GARBAGE,
    FAULT_HANG,
    FAULT_HTML,
    FAULT_NONE,
    FAULT_REFUSED_STREAM,
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
    sampled,
    stream_end,
    stream_new,
    stream_start,
)
from llmgen.wire.http2 cimport http2_cancel, http2_raw
from llmgen.wire.http2_frames cimport H2_REFUSED_STREAM

cdef enum:
    DEFAULT_TOKENS = 128         # of an answer whose length nobody told
    DEFAULT_DIMENSIONS = 64      # of a vector; real ones have 1,000 and more, which only costs
    PAGE_ENGINE = 0              # pages.py
    PAGE_GPU = 1
    MAX_TOKENS = 1000000         # of one answer; bounds the memory of whole answers at 16 MB


cdef const char* PAGE_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


cdef inline bint is_path(const RequestHead* head, const char* path, size_t size) noexcept nogil:
    return head.path.size == size and memcmp(head.path.data, path, size) == 0


cdef uint32_t api_of(const RequestHead* head) noexcept nogil:
    """The API of the path, API_NONE for others."""
    if is_path(head, b"/v1/chat/completions", 20):
        return API_CHAT
    if is_path(head, b"/v1/completions", 15):
        return API_COMPLETIONS
    if is_path(head, b"/v1/responses", 13):
        return API_RESPONSES
    if is_path(head, b"/v1/messages", 12):
        return API_MESSAGES
    if is_path(head, b"/v1/embeddings", 14):
        return API_EMBEDDINGS
    return API_OLLAMA if is_path(head, b"/api/chat", 9) else API_NONE


cdef void send_document(Server* v, Conn* conn, const RequestHead* head, int status, const char* content_type,
                        uint8_t* buffer, uint8_t* end) noexcept nogil:
    """Answers with the body that lies HEAD_BYTES into `buffer`."""
    cdef uint8_t* body = buffer + HEAD_BYTES
    cdef size_t size = end - body
    cdef uint8_t* to
    if head.number > 0:
        http2_head(v, conn, head.number, status, content_type, size, head.method == METHOD_HEAD or size == 0)
        if head.method != METHOD_HEAD and size > 0:
            http2_data(v, conn, head.number, body, size, True)
        return
    to = put_head(buffer, status, content_type, size, head.keep_alive, False)
    if head.method != METHOD_HEAD:
        memmove(to, body, size)
        to += size
    if conn_send(v, conn, buffer, to - buffer) >= 0 and not head.keep_alive:
        conn_end(v, conn)


cdef void refuse(Server* v, Conn* conn, const RequestHead* head, int status, const char* message) noexcept nogil:
    """Answers with an error document."""
    cdef uint8_t* end = put_refusal(v.scratch + HEAD_BYTES, api_of(head), status, message)
    send_document(v, conn, head, status, b"application/json", v.scratch, end)


cdef void refuse_loading(Server* v, Conn* conn, const RequestHead* head) noexcept nogil:
    """As llama.cpp answers while it loads the model."""
    cdef uint8_t* end = put_typed_error(v.scratch + HEAD_BYTES, 503, b"Loading model", b"unavailable_error")
    send_document(v, conn, head, 503, b"application/json", v.scratch, end)


cdef const char* ask_message(int result) noexcept nogil:
    if result == ASK_NOT_OBJECT:
        return b"the body is not a JSON object"
    if result == ASK_BAD_NUMBER:
        return b"max_tokens, max_completion_tokens, max_output_tokens, num_predict: integers of at least 1; min_tokens: 0"
    if result == ASK_NO_PROMPT:
        return b"messages is a list of objects, prompt and input a string or a list; this API's one is missing"
    if result == ASK_TOO_MANY:
        return b"input is at most 2048 texts, dimensions at most 4096"
    return b"the body is not JSON"


cdef void choose_length(Server* v, Stream* s, const Asked* asked) noexcept nogil:
    """max_tokens, or what --output-tokens draws if that is less; ignore_eos and min_tokens as vLLM has them."""
    cdef int64_t most = asked.max_tokens, tokens
    if s.api == API_EMBEDDINGS:
        s.tokens = 0
        s.items = asked.items
        s.dimensions = <uint32_t>asked.dimensions if asked.dimensions > 0 else DEFAULT_DIMENSIONS
        return
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
    elif s.fault == FAULT_UNFRAMED and s.streaming and s.number == 0:
        s.framing = FRAMED_BY_EOF
        s.keep_alive = False


cdef void send_garbage(Server* v, Conn* conn) noexcept nogil:
    """Bytes that are no HTTP, then the end. On HTTP/2 the turn's flush sends and closes."""
    cdef const uint8_t* text = <const uint8_t*>b"\x16\x03\x00this is no HTTP\r\n\r\n"
    if conn.multiplex == NULL:
        if conn_send(v, conn, text, 22) >= 0:
            conn_end(v, conn)
        return
    http2_raw(&conn.multiplex.http2, text, 22)
    conn.multiplex.goaway = True
    while conn.streams != NULL:
        stream_end(v, conn.streams, FAULT_GARBAGE)
    http2_touch(v, conn)


cdef bint fault_at_once(Server* v, Conn* conn, RequestHead* head, Stream* s) noexcept nogil:
    """Deals with faults that strike before any token; False if the answer is to run."""
    cdef uint8_t* end
    cdef uint32_t fault = s.fault, status = s.parameter
    head.keep_alive = s.keep_alive
    if fault == FAULT_HANG:
        return True
    if fault == FAULT_DROP:
        stream_end(v, s, fault)
        conn_close(v, conn, fault)
    elif fault == FAULT_STATUS:
        stream_end(v, s, fault)
        refuse(v, conn, head, status, b"simulated fault")
    elif fault == FAULT_HTML:
        stream_end(v, s, fault)
        end = put_bytes(v.scratch + HEAD_BYTES, b"<!DOCTYPE html><title>Welcome</title><p>It works!\n", 50)
        send_document(v, conn, head, 200, b"text/html", v.scratch, end)
    elif fault == FAULT_GARBAGE:
        stream_end(v, s, fault)
        send_garbage(v, conn)
    elif fault == FAULT_REFUSED_STREAM and head.number > 0:
        stream_end(v, s, fault)
        http2_cancel(&conn.multiplex.http2, head.number, H2_REFUSED_STREAM)
    else:
        return False
    return True


cdef Stream* new_stream(Server* v, Conn* conn, RequestHead* head, const Asked* asked, uint32_t api) noexcept nogil:
    """The stream of a request, not started; NULL without memory. On HTTP/2 it exists already."""
    cdef Stream* s
    cdef uint64_t salt
    if head.stream != NULL:
        s = <Stream*>head.stream
        head.stream = NULL
    else:
        s = stream_new(v, conn)
        if s == NULL:
            return NULL
    s.index = request_index(&head.request_id, &salt)
    s.key = mixed(v.seed ^ mixed((<uint64_t>s.index ^ salt) if s.index >= 0 else ~<uint64_t>s.serial))
    s.arrival = conn.stamp
    s.input_tokens = asked.input_tokens
    s.api = <uint8_t>api
    s.streaming = asked.stream
    s.include_usage = asked.include_usage
    s.continuous_usage = asked.continuous_usage
    s.keep_alive = head.keep_alive
    s.framing = FRAMED_CHUNKS if head.number == 0 else FRAMED_BY_EOF
    if head.http10 and asked.stream:
        s.framing = FRAMED_BY_EOF
        s.keep_alive = False
    return s


cdef bint give_to_engine(Server* v, Conn* conn, RequestHead* head, Stream* s, const Prefix* prefix) noexcept nogil:
    """Puts the stream into the engine's queue; False: it is refused and answered."""
    cdef uint32_t tokens = s.tokens if s.tokens > 0 else 1
    cdef Admission admission = engine_arrive(
        v.engine, s.arrival, s, s.key, s.input_tokens, tokens, prefix.hashes, prefix.count, prefix.fold, &s.seq
    )
    if admission == ADMITTED:
        s.seq.stops = s.stopped
        return True
    stream_end(v, s, FAULT_ENGINE)
    if admission == REFUSED_LOADING:
        refuse_loading(v, conn, head)
    elif admission == REFUSED_FULL:
        refuse(v, conn, head, v.refusal, b"the engine's queue is full")
    elif admission == REFUSED_LENGTH:
        refuse(v, conn, head, 400, b"prompt and answer together are longer than the context")
    else:
        refuse(v, conn, head, 503, b"out of memory")
    return False


cdef int ask(Server* v, uint32_t api, const uint8_t* body, size_t size, Asked* asked, Prefix* prefix) noexcept nogil:
    """Reads the body; where prefixes matter also the hashes of the prompt's blocks, into memory that the server keeps."""
    cdef int result
    prefix.block_words = v.reuse.block_words
    if v.engine != NULL and v.engine.set.prefix_cache:
        prefix.block_words = v.engine.set.block_tokens
    if prefix.block_words == 0:
        return ask_read(body, size, api, asked, NULL)
    prefix.hashes = v.hashes
    prefix.capacity = v.hash_capacity
    result = ask_read(body, size, api, asked, prefix)
    v.hashes = prefix.hashes
    v.hash_capacity = prefix.capacity
    return result


cdef void generate(Server* v, Conn* conn, RequestHead* head, uint32_t api, const uint8_t* body,
                   size_t size) noexcept nogil:
    """A request for an answer: refused, or a stream that is started."""
    cdef Asked asked
    cdef Stream* s
    cdef Model* model = &v.models[0]
    cdef Prefix prefix
    cdef int result
    memset(&prefix, 0, sizeof(Prefix))
    result = ask(v, api, body, size, &asked, &prefix)
    if result != ASK_OK:
        refuse(v, conn, head, 400, ask_message(result))
        return
    if asked.model.size > 0:
        model = model_named(v, asked.model.data, asked.model.size) if asked.model.size <= MAX_MODEL_BYTES else NULL
        if model == NULL:
            refuse(v, conn, head, 404, b"this model does not exist here")
            return
    s = new_stream(v, conn, head, &asked, api)
    if s == NULL:
        refuse(v, conn, head, 503, b"out of memory")
        return
    s.model = model
    if v.reuse.block_words > 0:
        s.cached = reuse_prompt(&v.reuse, &prefix)
    choose_length(v, s, &asked)
    choose_fault(v, s)
    log_request(v, s)
    if fault_at_once(v, conn, head, s):
        return
    if v.engine != NULL:
        if give_to_engine(v, conn, head, s, &prefix) and s.streaming and s.fault != FAULT_SLOW:
            emit_head(v, s)
        return
    stream_start(v, s)
    if s.streaming and s.fault != FAULT_SLOW and (s.queued or s.due - monotonic_ns() > HEAD_AHEAD_NS):
        emit_head(v, s)


cdef void tell_models(Server* v, Conn* conn, const RequestHead* head) noexcept nogil:
    cdef uint8_t* buffer = <uint8_t*>malloc(HEAD_BYTES + EVENT_BYTES * (v.model_count + 1))
    if buffer == NULL:
        refuse(v, conn, head, 503, b"out of memory")
        return
    send_document(v, conn, head, 200, b"application/json", buffer, put_models(buffer + HEAD_BYTES, v, is_path(head, b"/api/tags", 9)))
    free(buffer)


cdef void tell_page(Server* v, Conn* conn, const RequestHead* head, int which) noexcept nogil:
    """A page of metrics. Python writes it: a few times a second at most, and the only thing here that waits for it."""
    cdef uint8_t* buffer = NULL
    cdef size_t size = 0
    with gil:
        try:
            page = (<object>v.pages)(which)
            size = len(page)
            buffer = <uint8_t*>malloc(HEAD_BYTES + size)
            if buffer != NULL:
                memcpy(buffer + HEAD_BYTES, <const char*>(<bytes>page), size)
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
    if buffer == NULL:
        refuse(v, conn, head, 500, b"no page")
        return
    send_document(v, conn, head, 200, PAGE_TYPE, buffer, buffer + HEAD_BYTES + size)
    free(buffer)


cdef void tell_reuse(Server* v, Conn* conn, const RequestHead* head) noexcept nogil:
    """The counts of --prefix-blocks; those of words under vLLM's names."""
    cdef const char* names[4]
    cdef uint64_t values[4]
    cdef uint8_t* to = v.scratch + HEAD_BYTES
    cdef int i
    names[0], values[0] = b"vllm:prefix_cache_queries_total", v.reuse.words
    names[1], values[1] = b"vllm:prefix_cache_hits_total", v.reuse.word_hits
    names[2], values[2] = b"llmgen:prefix_blocks_total", v.reuse.blocks
    names[3], values[3] = b"llmgen:prefix_block_hits_total", v.reuse.block_hits
    for i in range(4):
        to = put_text(put_text(to, b"# TYPE "), names[i])
        to = put_text(put_text(to, b" counter\n"), names[i])
        to = put(put_number(put(to, b" ", 1), values[i]), b"\n", 1)
    send_document(v, conn, head, 200, PAGE_TYPE, v.scratch, to)


cdef bint engine_page(Server* v, Conn* conn, const RequestHead* head) noexcept nogil:
    """Answers what only an engine has an answer for; False: the path is none of these."""
    cdef int which
    if is_path(head, b"/metrics", 8):
        which = PAGE_ENGINE
    elif is_path(head, b"/dcgm/metrics", 13):
        which = PAGE_GPU
    elif is_path(head, b"/health", 7) and not engine_ready(v.engine):
        refuse_loading(v, conn, head)
        return True
    else:
        return False
    if head.method == METHOD_GET or head.method == METHOD_HEAD:
        tell_page(v, conn, head, which)
    else:
        refuse(v, conn, head, 405, b"this path wants GET")
    return True


cdef bint route(Server* v, Conn* conn, RequestHead* head, const uint8_t* body, size_t size) noexcept nogil:
    """Answers a whole request, or starts the stream that will; False: the connection takes no further request."""
    cdef uint32_t api = api_of(head)
    v.requests += 1
    if api != API_NONE:
        if head.method == METHOD_POST:
            generate(v, conn, head, api, body, size)
        else:
            refuse(v, conn, head, 405, b"this path wants POST")
    elif v.engine != NULL and engine_page(v, conn, head):
        pass
    elif v.reuse.block_words > 0 and is_path(head, b"/metrics", 8):
        tell_reuse(v, conn, head)
    elif is_path(head, b"/v1/models", 10) or is_path(head, b"/api/tags", 9):
        if head.method == METHOD_GET or head.method == METHOD_HEAD:
            tell_models(v, conn, head)
        else:
            refuse(v, conn, head, 405, b"this path wants GET")
    elif is_path(head, b"/health", 7):
        send_document(v, conn, head, 200, b"text/plain", v.scratch, v.scratch + HEAD_BYTES)
    else:
        refuse(v, conn, head, 404, b"no such path")
    return not conn.dead and not conn.ending
