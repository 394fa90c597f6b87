# What makes a list of decoded fields an HTTP message (RFC 9113 8.1 to 8.3): pseudo-headers, names, values, lengths.

from libc.stdint cimport int64_t

from llmgen.wire.sink cimport Header


cdef struct Http2Message:
    int status                   # of a response: 100 .. 999
    int64_t content_length       # -1: none


# Each returns NULL for a well-formed section and fills `message`, or says in one line of English what is wrong with it.
cdef const char* fields_response(const Header* headers, size_t count, Http2Message* message) noexcept nogil
cdef const char* fields_request(const Header* headers, size_t count, Http2Message* message) noexcept nogil
cdef const char* fields_trailers(const Header* headers, size_t count) noexcept nogil
