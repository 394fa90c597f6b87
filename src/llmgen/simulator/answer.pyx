"""The bytes of answers, as vLLM writes them: compact JSON, one word a token, finish_reason in the last token's event.

Each event is put together from constant pieces around what changes (id, creation time, words), about 200 bytes and
seven copies. On HTTP/1.1 every event is a chunk of its own with a size of four hexadecimal digits, so that the framing
is as constant as the rest.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memcmp, memcpy, memmove, memset, strlen

from llmgen.simulator.prefix cimport word_hash
from llmgen.simulator.seeded cimport draw
from llmgen.simulator.server cimport (
    API_CHAT,
    DRAW_WORDS,
    FAULT_NO_USAGE,
    FAULT_SPLIT,
    FRAMED_CHUNKS,
    MAX_MODELS,
    Model,
    Server,
    Stream,
)

cdef enum:
    WORD_COUNT = 64              # a power of two

cdef uint8_t WORDS[64][16]       # with a blank before each
cdef uint32_t WORD_SIZES[64]
cdef uint8_t WIDE_WORDS[64][16]  # each holds a character of two bytes or more
cdef uint32_t WIDE_SIZES[64]
cdef uint64_t HASHES[64]         # of the words without their blanks


cdef int _fill(uint8_t[16]* words, uint32_t* sizes, list texts) except -1:
    cdef int i
    for i in range(WORD_COUNT):
        word = b" " + texts[i % len(texts)].encode()
        if len(word) > 16:
            raise ValueError(word)
        memset(words[i], 0, 16)
        memcpy(words[i], <const char*>word, len(word))
        sizes[i] = len(word)
    return 0


_fill(WORDS, WORD_SIZES, (
    "the of and to in is that it was for on are as with his they at be this from have or by one had not but what all "
    "were when we there can an your which their said if do will each about how up out them then she many some so these "
    "would other into has more her two like him see time"
).split())
_fill(WIDE_WORDS, WIDE_SIZES, ["caf\u00e9", "na\u00efve", "\u6771\u4eac", "\u00fcber", "ni\u00f1o", "\u2603snow", "gar\u00e7on", "\U0001f600"])


cdef int _word
for _word in range(WORD_COUNT):
    HASHES[_word] = word_hash(&WORDS[_word][1], WORD_SIZES[_word] - 1)


cdef uint8_t* put_bytes(uint8_t* to, const char* text, size_t size) noexcept nogil:
    return put(to, text, size)


cdef uint8_t* put_number(uint8_t* to, int64_t value) noexcept nogil:
    cdef uint8_t reversed_digits[20]
    cdef int size = 0
    while True:
        reversed_digits[size] = 48 + value % 10
        size += 1
        value //= 10
        if value == 0:
            break
    while size > 0:
        size -= 1
        to[0] = reversed_digits[size]
        to += 1
    return to


# --- heads ---------------------------------------------------------------------------------------------------------

cdef const char* status_reason(int status) noexcept nogil:
    if status == 200:
        return b"OK"
    if status == 400:
        return b"Bad Request"
    if status == 401:
        return b"Unauthorized"
    if status == 403:
        return b"Forbidden"
    if status == 404:
        return b"Not Found"
    if status == 405:
        return b"Method Not Allowed"
    if status == 413:
        return b"Content Too Large"
    if status == 417:
        return b"Expectation Failed"
    if status == 429:
        return b"Too Many Requests"
    if status == 431:
        return b"Request Header Fields Too Large"
    if status == 500:
        return b"Internal Server Error"
    if status == 501:
        return b"Not Implemented"
    if status == 503:
        return b"Service Unavailable"
    if status == 504:
        return b"Gateway Timeout"
    if status == 505:
        return b"HTTP Version Not Supported"
    return b"Simulated"


cdef uint8_t* put_head(uint8_t* to, int status, const char* content_type, int64_t length, bint keep_alive, bint http10) noexcept nogil:
    """The head of an answer with Content-Length; 429 and 503 say when to come again, redirects where to go."""
    to = put_text(to, b"HTTP/1.1 ")
    to = put_number(to, status)
    to = put(to, b" ", 1)
    to = put_text(to, status_reason(status))
    to = put_text(to, b"\r\nserver: llmgen-serve\r\ncontent-type: ")
    to = put_text(to, content_type)
    to = put_text(to, b"\r\ncontent-length: ")
    to = put_number(to, length)
    to = put(to, b"\r\n", 2)
    if status == 429 or status == 503:
        to = put_text(to, b"retry-after: 1\r\n")
    elif 300 <= status < 400:
        to = put_text(to, b"location: /elsewhere\r\n")
    elif status == 405:
        to = put_text(to, b"allow: GET, POST\r\n")
    if not keep_alive:
        to = put_text(to, b"connection: close\r\n")
    elif http10:
        to = put_text(to, b"connection: keep-alive\r\n")
    return put(to, b"\r\n", 2)


cdef uint8_t* put_stream_head(uint8_t* to, const Stream* s, const char* content_type) noexcept nogil:
    to = put_text(to, b"HTTP/1.1 200 OK\r\nserver: llmgen-serve\r\ncache-control: no-cache\r\ncontent-type: ")
    to = put_text(to, content_type)
    to = put(to, b"\r\n", 2)
    if not s.keep_alive:
        to = put_text(to, b"connection: close\r\n")
    if s.framing == FRAMED_CHUNKS:
        to = put_text(to, b"transfer-encoding: chunked\r\n")
    return put(to, b"\r\n", 2)


cdef uint8_t* put_last_chunk(uint8_t* to, const Stream* s) noexcept nogil:
    return put(to, b"0\r\n\r\n", 5) if s.framing == FRAMED_CHUNKS else to


# --- events --------------------------------------------------------------------------------------------------------

cdef inline uint8_t* put_opening(uint8_t* to, const Stream* s) noexcept nogil:
    """From `data: ` to the creation time, both included."""
    if s.api == API_CHAT:
        to = put(to, b"data: {\"id\":\"chatcmpl-", 22)
        to = put(to, s.id, 16)
        to = put(to, b"\",\"object\":\"chat.completion.chunk\",\"created\":", 45)
    else:
        to = put(to, b"data: {\"id\":\"cmpl-", 18)
        to = put(to, s.id, 16)
        to = put(to, b"\",\"object\":\"text_completion\",\"created\":", 39)
    return put(to, s.created, 10)


cdef uint64_t answer_word_hash(const Stream* s, uint32_t token) noexcept nogil:
    """What the prefix cache knows the token as: the word that put_words writes for it."""
    return HASHES[(draw(s.key, DRAW_WORDS) + token) & (WORD_COUNT - 1)]


cdef uint8_t* put_usage(uint8_t* to, const Stream* s, uint32_t sent) noexcept nogil:
    to = put_text(to, b",\"usage\":{\"prompt_tokens\":")
    to = put_number(to, s.input_tokens)
    to = put_text(to, b",\"total_tokens\":")
    to = put_number(to, <int64_t>s.input_tokens + sent)
    to = put_text(to, b",\"completion_tokens\":")
    to = put_number(to, sent)
    if s.cached > 0:
        to = put_text(to, b",\"prompt_tokens_details\":{\"cached_tokens\":")
        to = put_number(to, s.cached)
        to = put(to, b"}", 1)
    return put(to, b"}", 1)


cdef uint8_t* put_words(uint8_t* to, const Stream* s, uint32_t first, uint32_t count) noexcept nogil:
    cdef uint64_t at = draw(s.key, DRAW_WORDS) + first
    cdef uint32_t i
    cdef uint8_t* start = to
    for i in range(count):
        if s.fault == FAULT_SPLIT:
            memcpy(to, WIDE_WORDS[(at + i) & (WORD_COUNT - 1)], 16)
            to += WIDE_SIZES[(at + i) & (WORD_COUNT - 1)]
        else:
            memcpy(to, WORDS[(at + i) & (WORD_COUNT - 1)], 16)
            to += WORD_SIZES[(at + i) & (WORD_COUNT - 1)]
    if first == 0 and count > 0:         # the answer does not begin with a blank
        to -= 1
        memmove(start, start + 1, to - start)
    return to


cdef uint8_t* put_role(uint8_t* to, const Stream* s) noexcept nogil:
    """The role-only event that opens a chat stream, framed."""
    cdef uint8_t* start = to
    to = frame_open(to, s)
    to = put_opening(to, s)
    to = put(to, s.model.chat, s.model.chat_size - 11)         # without `"content":"`
    to = put_text(to, b"\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}]")
    if s.continuous_usage:
        to = put_usage(to, s, 0)
    to = put(to, b"}", 1)
    to = put_event_end(to, s)
    return frame_close(start, to, s)


cdef inline uint8_t* put_finish(uint8_t* to, const Stream* s) noexcept nogil:
    if s.stopped:
        return put(to, b"\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null}]", 59)
    return put(to, b"\"logprobs\":null,\"finish_reason\":\"length\",\"stop_reason\":null}]", 61)


cdef uint8_t* put_event(uint8_t* to, const Stream* s, uint32_t tokens, bint broken) noexcept nogil:
    """The next `tokens` words as an event, framed; `broken`: its JSON is cut off."""
    cdef uint8_t* start = to
    to = frame_open(to, s)
    to = put_opening(to, s)
    if s.api == API_CHAT:
        to = put(to, s.model.chat, s.model.chat_size)
    else:
        to = put(to, s.model.text, s.model.text_size)
    to = put_words(to, s, s.sent, tokens)
    if broken:
        to = put_event_end(to, s)
        return frame_close(start, to, s)
    if s.api == API_CHAT:
        to = put(to, b"\"},", 3)
    else:
        to = put(to, b"\",", 2)
    if s.sent + tokens == s.tokens:
        to = put_finish(to, s)
    else:
        to = put(to, b"\"logprobs\":null,\"finish_reason\":null}]", 38)
    if s.continuous_usage:
        to = put_usage(to, s, s.sent + tokens)
    to = put(to, b"}", 1)
    to = put_event_end(to, s)
    return frame_close(start, to, s)


cdef uint8_t* put_empty_finish(uint8_t* to, const Stream* s) noexcept nogil:
    """The finish event of an answer without a token, framed."""
    cdef uint8_t* start = to
    to = frame_open(to, s)
    to = put_opening(to, s)
    if s.api == API_CHAT:
        to = put(to, s.model.chat, s.model.chat_size)
        to = put(to, b"\"},", 3)
    else:
        to = put(to, s.model.text, s.model.text_size)
        to = put(to, b"\",", 2)
    to = put_finish(to, s)
    to = put(to, b"}", 1)
    to = put_event_end(to, s)
    return frame_close(start, to, s)


cdef uint8_t* put_usage_event(uint8_t* to, const Stream* s) noexcept nogil:
    """The last event, without choices, framed; nothing if usage was not asked for (or is left out by a fault)."""
    cdef uint8_t* start = to
    if not s.include_usage or s.fault == FAULT_NO_USAGE:
        return to
    to = frame_open(to, s)
    to = put_opening(to, s)
    to = put(to, b",\"model\":\"", 10)
    to = put(to, s.model.name, s.model.name_size)
    to = put(to, b"\",\"choices\":[]", 14)
    to = put_usage(to, s, s.sent)
    to = put(to, b"}", 1)
    to = put_event_end(to, s)
    return frame_close(start, to, s)


cdef uint8_t* put_error_event(uint8_t* to, const Stream* s) noexcept nogil:
    cdef uint8_t* start = to
    to = frame_open(to, s)
    to = put_text(to, b"data: {\"error\":{\"message\":\"simulated engine failure\",\"type\":\"InternalServerError\","
                      b"\"param\":null,\"code\":500}}")
    to = put_event_end(to, s)
    return frame_close(start, to, s)


cdef uint8_t* put_done(uint8_t* to, const Stream* s) noexcept nogil:
    cdef uint8_t* start = to
    to = frame_open(to, s)
    to = put(to, b"data: [DONE]", 12)
    to = put_event_end(to, s)
    return frame_close(start, to, s)


# --- whole answers and documents -----------------------------------------------------------------------------------

cdef uint8_t* put_document(uint8_t* to, const Stream* s) noexcept nogil:
    """A whole answer's JSON, unframed; needs EVENT_BYTES + tokens * WORD_BYTES."""
    if s.api == API_CHAT:
        to = put_text(to, b"{\"id\":\"chatcmpl-")
        to = put(to, s.id, 16)
        to = put_text(to, b"\",\"object\":\"chat.completion\",\"created\":")
    else:
        to = put_text(to, b"{\"id\":\"cmpl-")
        to = put(to, s.id, 16)
        to = put_text(to, b"\",\"object\":\"text_completion\",\"created\":")
    to = put(to, s.created, 10)
    to = put(to, b",\"model\":\"", 10)
    to = put(to, s.model.name, s.model.name_size)
    if s.api == API_CHAT:
        to = put_text(to, b"\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"")
        to = put_words(to, s, 0, s.tokens)
        to = put_text(to, b"\"},")
    else:
        to = put_text(to, b"\",\"choices\":[{\"index\":0,\"text\":\"")
        to = put_words(to, s, 0, s.tokens)
        to = put_text(to, b"\",")
    to = put_finish(to, s)
    if s.fault != FAULT_NO_USAGE:
        to = put_usage(to, s, s.tokens)
    return put(to, b"}\n", 2)


cdef uint8_t* put_error(uint8_t* to, int status, const char* message) noexcept nogil:
    """An error document in OpenAI's form."""
    return put_typed_error(to, status, message, b"server_error" if status >= 500 else b"invalid_request_error")


cdef uint8_t* put_typed_error(uint8_t* to, int status, const char* message, const char* kind) noexcept nogil:
    to = put_text(to, b"{\"error\":{\"message\":\"")
    to = put_text(to, message)
    to = put_text(to, b"\",\"type\":\"")
    to = put_text(to, kind)
    to = put_text(to, b"\",\"param\":null,\"code\":")
    to = put_number(to, status)
    return put(to, b"}}\n", 3)


cdef uint8_t* put_models(uint8_t* to, const Server* v, bint tags) noexcept nogil:
    """The models document, or Ollama's `tags`; needs EVENT_BYTES for each model."""
    cdef uint32_t i, count = v.model_fixed if v.model_fixed > 0 else 1
    to = put_text(to, b"{\"models\":[" if tags else b"{\"object\":\"list\",\"data\":[")
    for i in range(count):
        if i > 0:
            to = put(to, b",", 1)
        to = put_text(to, b"{\"name\":\"" if tags else b"{\"id\":\"")
        to = put(to, v.models[i].name, v.models[i].name_size)
        to = put_text(to, b"\"}" if tags else b"\",\"object\":\"model\",\"created\":0,\"owned_by\":\"llmgen\"}")
    return put(to, b"]}\n", 3)


cdef Model* model_named(Server* v, const uint8_t* name, size_t size) noexcept nogil:
    """The model's templates, made at its first use; NULL: not served here (or MAX_MODELS are known already)."""
    cdef uint32_t i
    cdef Model* m
    cdef uint8_t* to
    for i in range(v.model_count):
        m = &v.models[i]
        if m.name_size == size and memcmp(m.name, name, size) == 0:
            return m
    if v.model_fixed > 0 or v.model_count == MAX_MODELS:
        return NULL
    m = &v.models[v.model_count]
    m.name = <uint8_t*>malloc(size + 1)
    m.chat = <uint8_t*>malloc(size + 128)
    m.text = <uint8_t*>malloc(size + 128)
    if m.name == NULL or m.chat == NULL or m.text == NULL:
        return NULL
    memcpy(m.name, name, size)
    m.name_size = size
    to = put(m.chat, b",\"model\":\"", 10)
    to = put(to, name, size)
    to = put_text(to, b"\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"")
    m.chat_size = to - m.chat
    to = put(m.text, b",\"model\":\"", 10)
    to = put(to, name, size)
    to = put_text(to, b"\",\"choices\":[{\"index\":0,\"text\":\"")
    m.text_size = to - m.text
    v.model_count += 1
    return m
