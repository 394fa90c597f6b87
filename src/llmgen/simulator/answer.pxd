# The bytes of answers. Every put_ function appends at `to` and returns the place behind; nothing is allocated except
# by model_named. The caller gives room: an event of k tokens needs at most EVENT_BYTES + k * WORD_BYTES.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, strlen

from llmgen.simulator.server cimport API_EMBEDDINGS, FRAMED_CHUNKS, Model, Server, Stream


cdef enum:
    EVENT_BYTES = 1024           # of an event besides its words: id, model (256 bytes), usage, framing
    WORD_BYTES = 16              # of one token with its blank
    HEAD_BYTES = 1024            # of an answer's head
    NUMBER_BYTES = 8             # of a number of a vector with its comma
    VECTOR_BYTES = 64            # of a vector besides its numbers
    CHUNK_ROOM = 6               # "0123" CRLF


cdef inline uint8_t* put(uint8_t* to, const void* data, size_t size) noexcept nogil:
    memcpy(to, data, size)
    return to + size


cdef inline uint8_t* put_text(uint8_t* to, const char* text) noexcept nogil:
    return put(to, text, strlen(text))


cdef inline size_t answer_room(const Stream* s) noexcept nogil:
    """What a whole answer takes at most."""
    if s.api == API_EMBEDDINGS:
        return EVENT_BYTES + <size_t>s.items * (VECTOR_BYTES + <size_t>s.dimensions * NUMBER_BYTES)
    return EVENT_BYTES + <size_t>s.tokens * WORD_BYTES


# Chunks: room is left in front of the payload and filled when its size is known.

cdef inline uint8_t* frame_open(uint8_t* to, const Stream* s) noexcept nogil:
    return to + CHUNK_ROOM if s.framing == FRAMED_CHUNKS else to


cdef inline uint8_t* frame_close(uint8_t* start, uint8_t* to, const Stream* s) noexcept nogil:
    cdef const uint8_t* hexes = <const uint8_t*>b"0123456789abcdef"
    cdef uint32_t size
    if s.framing != FRAMED_CHUNKS:
        return to
    size = <uint32_t>(to - start - CHUNK_ROOM)
    start[0] = hexes[(size >> 12) & 15]
    start[1] = hexes[(size >> 8) & 15]
    start[2] = hexes[(size >> 4) & 15]
    start[3] = hexes[size & 15]
    start[4] = to[0] = 13
    start[5] = to[1] = 10
    return to + 2


cdef inline uint8_t* put_event_end(uint8_t* to, const Stream* s) noexcept nogil:
    return put(to, b"\r\n\r\n", 4) if s.crlf else put(to, b"\n\n", 2)


cdef uint8_t* put_bytes(uint8_t* to, const char* text, size_t size) noexcept nogil
cdef uint8_t* put_number(uint8_t* to, int64_t value) noexcept nogil
cdef uint8_t* put_stream_head(uint8_t* to, const Stream* s, const char* content_type) noexcept nogil
cdef uint8_t* put_head(uint8_t* to, int status, const char* content_type, int64_t length, bint keep_alive, bint http10) noexcept nogil
cdef uint8_t* put_words(uint8_t* to, const Stream* s, uint32_t first, uint32_t count) noexcept nogil
cdef uint8_t* put_role(uint8_t* to, const Stream* s) noexcept nogil
cdef uint8_t* put_event(uint8_t* to, const Stream* s, uint32_t tokens, bint broken) noexcept nogil
cdef uint8_t* put_error_event(uint8_t* to, const Stream* s) noexcept nogil
cdef uint8_t* put_usage_event(uint8_t* to, const Stream* s) noexcept nogil
cdef uint8_t* put_empty_finish(uint8_t* to, const Stream* s) noexcept nogil
cdef uint8_t* put_done(uint8_t* to, const Stream* s) noexcept nogil
cdef uint8_t* put_last_chunk(uint8_t* to, const Stream* s) noexcept nogil
cdef uint8_t* put_document(uint8_t* to, const Stream* s) noexcept nogil
cdef uint8_t* put_error(uint8_t* to, int status, const char* message) noexcept nogil
cdef uint8_t* put_models(uint8_t* to, const Server* v, bint tags) noexcept nogil
cdef uint8_t* put_typed_error(uint8_t* to, int status, const char* message, const char* kind) noexcept nogil
cdef uint64_t answer_word_hash(const Stream* s, uint32_t token) noexcept nogil
cdef const char* status_reason(int status) noexcept nogil
cdef Model* model_named(Server* v, const uint8_t* name, size_t size) noexcept nogil
