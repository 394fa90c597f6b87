"""The bytes of OpenAI's responses and embeddings, Anthropic's messages and Ollama's chat, after their API references.

A stream of responses or messages is typed events; Ollama's is lines. Texts that a real server repeats at the end
(`response.output_text.done`, the output of `response.completed`) are left out: the answer would be kept for them.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from llmgen.simulator.answer cimport (
    frame_close,
    frame_open,
    put,
    put_document,
    put_done,
    put_empty_finish,
    put_error,
    put_error_event,
    put_event,
    put_event_end,
    put_number,
    put_role,
    put_text,
    put_usage_event,
    put_words,
)
from llmgen.simulator.seeded cimport draw
from llmgen.simulator.server cimport (
    API_CHAT,
    API_EMBEDDINGS,
    API_MESSAGES,
    API_OLLAMA,
    API_RESPONSES,
    DRAW_WORDS,
    FAULT_CONTENT_TYPE,
    FAULT_EMPTY,
    FAULT_NO_USAGE,
    Stream,
)


cdef const char* stream_type(const Stream* s) noexcept nogil:
    if s.fault == FAULT_CONTENT_TYPE:
        return b"application/octet-stream"
    return b"application/x-ndjson" if s.api == API_OLLAMA else b"text/event-stream; charset=utf-8"


cdef uint32_t opening_events(const Stream* s) noexcept nogil:
    if s.api == API_CHAT:
        return 1
    if s.api == API_RESPONSES:
        return 3
    return 2 if s.api == API_MESSAGES else 0


cdef uint8_t* put_opening_events(uint8_t* to, const Stream* s) noexcept nogil:
    if s.api == API_CHAT:
        return put_role(to, s)
    if s.api == API_RESPONSES:
        return open_response(to, s)
    return open_message(to, s) if s.api == API_MESSAGES else to


cdef uint8_t* put_tokens(uint8_t* to, const Stream* s, uint32_t tokens, bint broken) noexcept nogil:
    """The next `tokens` words as an event, framed; `broken`: its JSON is cut off."""
    cdef uint8_t* start = to
    if s.api <= API_CHAT:
        return put_event(to, s, tokens, broken)
    to = frame_open(to, s)
    if s.api == API_RESPONSES:
        to = put_type(to, b"response.output_text.delta")
        to = put_text(to, b",\"sequence_number\":")
        to = put_number(to, <uint32_t>3 + s.sent)
        to = put_place(to, s)
        to = put_text(to, b",\"delta\":\"")
    elif s.api == API_MESSAGES:
        to = put_type(to, b"content_block_delta")
        to = put_text(to, b",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"")
    else:
        to = put_line(to, s)
        to = put_text(to, b"\"message\":{\"role\":\"assistant\",\"content\":\"")
    to = put_words(to, s, s.sent, tokens)
    if not broken and s.api == API_RESPONSES:
        to = put(to, b"\"}", 2)
    elif not broken and s.api == API_MESSAGES:
        to = put(to, b"\"}}", 3)
    elif not broken:
        to = put(to, b"\"},\"done\":false}", 16)
    return frame_close(start, put_end(to, s), s)


cdef uint8_t* put_nothing(uint8_t* to, const Stream* s) noexcept nogil:
    """An answer without a token: chat's finish, or an event that means nothing."""
    cdef uint8_t* start = to
    if s.api <= API_CHAT:
        return put_empty_finish(to, s)
    to = frame_open(to, s)
    if s.api == API_RESPONSES:
        to = put_type(to, b"response.in_progress")
        to = put_response(to, s, b"in_progress")
        to = put(to, b"}}", 2)
    elif s.api == API_MESSAGES:
        to = put_type(to, b"ping")
        to = put(to, b"}", 1)
    else:
        to = put_line(to, s)
        to = put_text(to, b"\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":false}")
    return frame_close(start, put_end(to, s), s)


cdef uint8_t* put_tail(uint8_t* to, const Stream* s, int* events) noexcept nogil:
    """`events`: how many that are, the marker left out."""
    cdef uint8_t* start = to
    if s.api <= API_CHAT:
        to = put_usage_event(to, s)
        events[0] = to != start
        return put_done(to, s)
    if s.api == API_MESSAGES:
        events[0] = 3
        return close_message(to, s)
    events[0] = 1
    to = frame_open(to, s)
    if s.api == API_RESPONSES:
        to = put_type(to, b"response.completed" if s.stopped else b"response.incomplete")
        to = put_text(to, b",\"sequence_number\":")
        to = put_number(to, <uint32_t>3 + s.tokens)
        to = put_response(to, s, b"completed" if s.stopped else b"incomplete")
        to = put_text(to, b",\"output\":[]")
        to = put_usage_of_response(to, s, s.sent)
        to = put(to, b"}}", 2)
    else:
        to = put_line(to, s)
        to = put_text(to, b"\"message\":{\"role\":\"assistant\",\"content\":\"\"}")
        to = put_line_end(to, s, s.sent)
    return frame_close(start, put_end(to, s), s)


cdef uint8_t* put_failure(uint8_t* to, const Stream* s) noexcept nogil:
    """vLLM's is followed by the marker; the others end there."""
    cdef uint8_t* start = to
    if s.api <= API_CHAT:
        return put_done(put_error_event(to, s), s)
    to = frame_open(to, s)
    if s.api == API_RESPONSES:
        to = put_type(to, b"error")
        to = put_text(to, b",\"code\":\"server_error\",\"message\":\"simulated engine failure\",\"param\":null}")
    elif s.api == API_MESSAGES:
        to = put_type(to, b"error")
        to = put_text(to, b",\"error\":{\"type\":\"api_error\",\"message\":\"simulated engine failure\"}}")
    else:
        to = put_text(to, b"{\"error\":\"simulated engine failure\"}")
    return frame_close(start, put_end(to, s), s)


cdef uint8_t* put_answer(uint8_t* to, const Stream* s) noexcept nogil:
    """A whole answer's JSON, unframed; needs answer_room."""
    if s.api <= API_CHAT:
        return put_document(to, s)
    if s.api == API_EMBEDDINGS:
        return put_embeddings(to, s)
    if s.api == API_RESPONSES:
        to = put(to, b"{", 1)
        to = put_response_members(to, s, b"completed" if s.stopped else b"incomplete")
        to = put_text(to, b",\"output\":[{\"id\":\"msg_")
        to = put(to, s.id, 16)
        to = put_text(to, b"\",\"type\":\"message\",\"status\":\"completed\",\"role\":\"assistant\",\"content\":["
                          b"{\"type\":\"output_text\",\"annotations\":[],\"text\":\"")
        to = put_words(to, s, 0, s.tokens)
        to = put_text(to, b"\"}]}]")
        to = put_usage_of_response(to, s, s.tokens)
    elif s.api == API_MESSAGES:
        to = put(to, b"{", 1)
        to = put_message_members(to, s)
        to = put_text(to, b",\"content\":[{\"type\":\"text\",\"text\":\"")
        to = put_words(to, s, 0, s.tokens)
        to = put_text(to, b"\"}]")
        to = put_stop_reason(put(to, b",", 1), s)
        to = put_usage_of_message(to, s, s.tokens)
    else:
        to = put_line(to, s)
        to = put_text(to, b"\"message\":{\"role\":\"assistant\",\"content\":\"")
        to = put_words(to, s, 0, s.tokens)
        to = put(to, b"\"}", 2)
        to = put_line_end(to, s, s.tokens)
        return put(to, b"\n", 1)
    return put(to, b"}\n", 2)


cdef uint8_t* put_refusal(uint8_t* to, uint32_t api, int status, const char* message) noexcept nogil:
    """An error document in the API's form."""
    if api == API_MESSAGES:
        to = put_text(to, b"{\"type\":\"error\",\"error\":{\"type\":\"")
        to = put_text(to, b"api_error" if status >= 500 else b"invalid_request_error")
        to = put_text(to, b"\",\"message\":\"")
        to = put_text(to, message)
        return put(to, b"\"}}\n", 4)
    if api == API_OLLAMA:
        to = put_text(to, b"{\"error\":\"")
        to = put_text(to, message)
        return put(to, b"\"}\n", 3)
    return put_error(to, status, message)


# --- what they are made of -------------------------------------------------------------------------------------------

cdef inline uint8_t* put_type(uint8_t* to, const char* kind) noexcept nogil:
    """The type in both places: of the event, and as the first member of its data."""
    to = put(to, b"event: ", 7)
    to = put_text(to, kind)
    to = put(to, b"\ndata: {\"type\":\"", 16)
    to = put_text(to, kind)
    return put(to, b"\"", 1)


cdef inline uint8_t* put_end(uint8_t* to, const Stream* s) noexcept nogil:
    """Of an event, or of a line."""
    if s.api != API_OLLAMA:
        return put_event_end(to, s)
    return put(to, b"\r\n", 2) if s.crlf else put(to, b"\n", 1)


cdef inline uint8_t* put_place(uint8_t* to, const Stream* s) noexcept nogil:
    to = put_text(to, b",\"item_id\":\"msg_")
    to = put(to, s.id, 16)
    return put_text(to, b"\",\"output_index\":0,\"content_index\":0")


cdef uint8_t* put_response_members(uint8_t* to, const Stream* s, const char* status) noexcept nogil:
    to = put_text(to, b"\"id\":\"resp_")
    to = put(to, s.id, 16)
    to = put_text(to, b"\",\"object\":\"response\",\"created_at\":")
    to = put(to, s.created, 10)
    to = put_text(to, b",\"status\":\"")
    to = put_text(to, status)
    to = put_text(to, b"\",\"error\":null,\"incomplete_details\":")
    to = put_text(to, b"{\"reason\":\"max_output_tokens\"}" if status[0] == c'i' and status[2] == c'c' else b"null")
    to = put_text(to, b",\"model\":\"")
    to = put(to, s.model.name, s.model.name_size)
    return put(to, b"\"", 1)


cdef uint8_t* put_response(uint8_t* to, const Stream* s, const char* status) noexcept nogil:
    """The response so far, without its end: `}}` closes it and the event."""
    to = put_text(to, b",\"response\":{")
    return put_response_members(to, s, status)


cdef uint8_t* put_usage_of_response(uint8_t* to, const Stream* s, uint32_t sent) noexcept nogil:
    if s.fault == FAULT_NO_USAGE:
        return put_text(to, b",\"usage\":null")
    to = put_text(to, b",\"usage\":{\"input_tokens\":")
    to = put_number(to, s.input_tokens)
    to = put_text(to, b",\"input_tokens_details\":{\"cached_tokens\":")
    to = put_number(to, s.cached)
    to = put_text(to, b"},\"output_tokens\":")
    to = put_number(to, sent)
    return put_text(to, b",\"output_tokens_details\":{\"reasoning_tokens\":0}}")


cdef uint8_t* open_response(uint8_t* to, const Stream* s) noexcept nogil:
    cdef uint8_t* start = to
    to = frame_open(to, s)
    to = put_type(to, b"response.created")
    to = put_text(to, b",\"sequence_number\":0")
    to = put_response(to, s, b"in_progress")
    to = put_text(to, b",\"output\":[],\"usage\":null}}")
    to = frame_close(start, put_end(to, s), s)
    start = to
    to = frame_open(to, s)
    to = put_type(to, b"response.output_item.added")
    to = put_text(to, b",\"sequence_number\":1,\"output_index\":0,\"item\":{\"id\":\"msg_")
    to = put(to, s.id, 16)
    to = put_text(to, b"\",\"type\":\"message\",\"status\":\"in_progress\",\"role\":\"assistant\",\"content\":[]}}")
    to = frame_close(start, put_end(to, s), s)
    start = to
    to = frame_open(to, s)
    to = put_type(to, b"response.content_part.added")
    to = put_text(to, b",\"sequence_number\":2")
    to = put_place(to, s)
    to = put_text(to, b",\"part\":{\"type\":\"output_text\",\"text\":\"\",\"annotations\":[]}}")
    return frame_close(start, put_end(to, s), s)


cdef uint8_t* put_message_members(uint8_t* to, const Stream* s) noexcept nogil:
    to = put_text(to, b"\"id\":\"msg_")
    to = put(to, s.id, 16)
    to = put_text(to, b"\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"")
    to = put(to, s.model.name, s.model.name_size)
    return put(to, b"\"", 1)


cdef uint8_t* put_stop_reason(uint8_t* to, const Stream* s) noexcept nogil:
    to = put_text(to, b"\"stop_reason\":\"")
    to = put_text(to, b"end_turn" if s.stopped else b"max_tokens")
    return put_text(to, b"\",\"stop_sequence\":null")


cdef uint8_t* put_usage_of_message(uint8_t* to, const Stream* s, uint32_t sent) noexcept nogil:
    """What came from the cache is no part of input_tokens here."""
    if s.fault == FAULT_NO_USAGE:
        return to
    to = put_text(to, b",\"usage\":{\"input_tokens\":")
    to = put_number(to, s.input_tokens - s.cached)
    to = put_text(to, b",\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":")
    to = put_number(to, s.cached)
    to = put_text(to, b",\"output_tokens\":")
    to = put_number(to, sent)
    return put(to, b"}", 1)


cdef uint8_t* open_message(uint8_t* to, const Stream* s) noexcept nogil:
    cdef uint8_t* start = to
    to = frame_open(to, s)
    to = put_type(to, b"message_start")
    to = put_text(to, b",\"message\":{")
    to = put_message_members(to, s)
    to = put_text(to, b",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null")
    to = put_usage_of_message(to, s, 1)
    to = put(to, b"}}", 2)
    to = frame_close(start, put_end(to, s), s)
    start = to
    to = frame_open(to, s)
    to = put_type(to, b"content_block_start")
    to = put_text(to, b",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}")
    return frame_close(start, put_end(to, s), s)


cdef uint8_t* close_message(uint8_t* to, const Stream* s) noexcept nogil:
    cdef uint8_t* start = to
    to = frame_open(to, s)
    to = put_type(to, b"content_block_stop")
    to = put_text(to, b",\"index\":0}")
    to = frame_close(start, put_end(to, s), s)
    start = to
    to = frame_open(to, s)
    to = put_type(to, b"message_delta")
    to = put_text(to, b",\"delta\":{")
    to = put_stop_reason(to, s)
    to = put(to, b"}", 1)
    if s.fault != FAULT_NO_USAGE:
        to = put_text(to, b",\"usage\":{\"output_tokens\":")
        to = put_number(to, s.sent)
        to = put(to, b"}", 1)
    to = put(to, b"}", 1)
    to = frame_close(start, put_end(to, s), s)
    start = to
    to = frame_open(to, s)
    to = put_type(to, b"message_stop")
    to = put(to, b"}", 1)
    return frame_close(start, put_end(to, s), s)


cdef uint8_t* put_embeddings(uint8_t* to, const Stream* s) noexcept nogil:
    """A vector of numbers below 1 for each text; none if the answer is to be empty."""
    cdef uint32_t item, i, items = 0 if s.fault == FAULT_EMPTY else s.items
    cdef uint64_t drawn
    to = put_text(to, b"{\"object\":\"list\",\"data\":[")
    for item in range(items):
        to = put_text(to, b",{\"object\":\"embedding\",\"index\":" if item else b"{\"object\":\"embedding\",\"index\":")
        to = put_number(to, item)
        to = put_text(to, b",\"embedding\":[")
        for i in range(s.dimensions):
            drawn = draw(s.key, DRAW_WORDS + <uint64_t>item * s.dimensions + i)
            to = put_text(put(to, b",", i > 0), b"-0." if drawn & 1 else b"0.")
            to = put_number(to, 1000 + <int64_t>((drawn >> 1) % 9000))
        to = put(to, b"]}", 2)
    to = put_text(to, b"],\"model\":\"")
    to = put(to, s.model.name, s.model.name_size)
    to = put(to, b"\"", 1)
    if s.fault != FAULT_NO_USAGE:
        to = put_text(to, b",\"usage\":{\"prompt_tokens\":")
        to = put_number(to, s.input_tokens)
        to = put_text(to, b",\"total_tokens\":")
        to = put_number(to, s.input_tokens)
        to = put(to, b"}", 1)
    return put(to, b"}\n", 2)


cdef uint8_t* put_line(uint8_t* to, const Stream* s) noexcept nogil:
    """The beginning of a line, its comma included. The date is the reference's own: nobody here reads it."""
    to = put_text(to, b"{\"model\":\"")
    to = put(to, s.model.name, s.model.name_size)
    return put_text(to, b"\",\"created_at\":\"2023-08-04T08:52:19.385406Z\",")


cdef uint8_t* put_line_end(uint8_t* to, const Stream* s, uint32_t sent) noexcept nogil:
    to = put_text(to, b",\"done_reason\":\"")
    to = put_text(to, b"stop" if s.stopped else b"length")
    to = put_text(to, b"\",\"done\":true")
    if s.fault != FAULT_NO_USAGE:
        to = put_text(to, b",\"prompt_eval_count\":")
        to = put_number(to, s.input_tokens)
        to = put_text(to, b",\"eval_count\":")
        to = put_number(to, sent)
    return put(to, b"}", 1)
