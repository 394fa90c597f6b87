# The events and documents of every API that is served: those of chat and completions are in answer.pyx, the others' are
# here. The put_ conventions and room are those of answer.pxd.

from libc.stdint cimport uint8_t, uint32_t

from llmgen.simulator.server cimport Stream


cdef uint8_t* put_opening_events(uint8_t* to, const Stream* s) noexcept nogil      # before the first token; maybe none
cdef uint32_t opening_events(const Stream* s) noexcept nogil                       # how many those are
cdef uint8_t* put_tokens(uint8_t* to, const Stream* s, uint32_t tokens, bint broken) noexcept nogil
cdef uint8_t* put_nothing(uint8_t* to, const Stream* s) noexcept nogil             # in the place of the first token's event
cdef uint8_t* put_tail(uint8_t* to, const Stream* s, int* events) noexcept nogil   # behind the last token, with the marker
cdef uint8_t* put_failure(uint8_t* to, const Stream* s) noexcept nogil             # the error event, and what follows it
cdef uint8_t* put_answer(uint8_t* to, const Stream* s) noexcept nogil              # a whole answer, unframed; in answer_room
cdef uint8_t* put_refusal(uint8_t* to, uint32_t api, int status, const char* message) noexcept nogil
cdef const char* stream_type(const Stream* s) noexcept nogil                       # media type of a stream
