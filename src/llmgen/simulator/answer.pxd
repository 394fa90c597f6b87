# The bytes of answers. Every put_ function appends at `to` and returns the place behind; nothing is allocated except
# by model_named. The caller gives room: an event of k tokens needs at most EVENT_BYTES + k * WORD_BYTES.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from llmgen.simulator.server cimport Model, Server, Stream


cdef enum:
    EVENT_BYTES = 1024           # of an event besides its words: id, model (256 bytes), usage, framing
    WORD_BYTES = 16              # of one token with its blank
    HEAD_BYTES = 1024            # of an answer's head


cdef uint8_t* put_bytes(uint8_t* to, const char* text, size_t size) noexcept nogil
cdef uint8_t* put_number(uint8_t* to, int64_t value) noexcept nogil
cdef uint8_t* put_stream_head(uint8_t* to, const Stream* s) noexcept nogil
cdef uint8_t* put_head(uint8_t* to, int status, const char* content_type, int64_t length, bint keep_alive, bint http10) noexcept nogil
cdef uint8_t* put_role(uint8_t* to, const Stream* s) noexcept nogil
cdef uint8_t* put_event(uint8_t* to, const Stream* s, uint32_t tokens, bint broken) noexcept nogil
cdef uint8_t* put_error_event(uint8_t* to, const Stream* s) noexcept nogil
cdef uint8_t* put_usage_event(uint8_t* to, const Stream* s) noexcept nogil
cdef uint8_t* put_empty_finish(uint8_t* to, const Stream* s) noexcept nogil
cdef uint8_t* put_done(uint8_t* to, const Stream* s) noexcept nogil
cdef uint8_t* put_last_chunk(uint8_t* to, const Stream* s) noexcept nogil
cdef uint8_t* put_document(uint8_t* to, const Stream* s) noexcept nogil
cdef uint8_t* put_error(uint8_t* to, int status, const char* message) noexcept nogil
cdef uint8_t* put_models(uint8_t* to, const Server* v) noexcept nogil
cdef uint8_t* put_typed_error(uint8_t* to, int status, const char* message, const char* kind) noexcept nogil
cdef uint64_t answer_word_hash(const Stream* s, uint32_t token) noexcept nogil
cdef const char* status_reason(int status) noexcept nogil
cdef Model* model_named(Server* v, const uint8_t* name, size_t size) noexcept nogil
