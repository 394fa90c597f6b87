# The grammar of HTTP/1.1 responses: pure functions of bytes, for http1.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from llmgen.wire.sink cimport Header


cdef enum:
    HTTP1_MAX_HEADERS = 256      # field lines of one section; ten times what servers send, and they fit a stack
    HTTP1_MAX_CHUNK_LINE = 4096  # a chunk's size with its extensions, line end included (the bound of Go's net/http)


# One head or trailer section, on the reader's stack. Header spans point into the bytes it was read from.
cdef struct Http1Head:
    Header headers[HTTP1_MAX_HEADERS]
    size_t count

    int status                   # 0: a trailer section, whose framing fields count for nothing (6.5.1)
    int minor                    # version

    uint64_t length              # of Content-Length
    bint has_length
    bint has_coding              # a Transfer-Encoding field is there
    bint chunked                 # the last transfer coding is chunked
    bint chunked_once            # one of them is
    bint other_coding            # one of them is not
    bint close                   # Connection options
    bint keep_alive


# Where the end of a section is looked for, from part to part of it.
cdef enum Http1Tail:
    TAIL_LINE_START              # the state before the first byte
    TAIL_LINE_START_CR
    TAIL_IN_LINE


# Places in chunk-size [chunk-ext] CRLF (7.1.1).
cdef enum Http1Place:
    PLACE_FIRST                  # the state before the first byte
    PLACE_SIZE
    PLACE_SIZE_END               # blanks behind the size or behind an extension
    PLACE_NAME_FIRST             # behind ";"
    PLACE_NAME
    PLACE_NAME_END               # blanks behind a name
    PLACE_VALUE_FIRST            # behind "="
    PLACE_VALUE
    PLACE_QUOTED
    PLACE_QUOTED_PAIR            # behind a backslash
    PLACE_LF                     # behind CR
    PLACE_DONE


cdef struct Http1ChunkLine:
    uint64_t size                # of the chunk, when the place is PLACE_DONE
    uint16_t bytes               # of the line so far
    uint8_t place


# The place behind the first empty line of `data`, 0 if it is still to come. `tail` is kept between the parts.
cdef size_t http1_section_end(uint8_t* tail, const uint8_t* data, size_t size) noexcept nogil

# Whether a line begins with a blank. Such a section is unfolded, in place, before it is read; the new size.
cdef bint http1_folded(const uint8_t* text, size_t size) noexcept nogil
cdef size_t http1_unfold(uint8_t* text, size_t size, bint trailers) noexcept nogil

# Reads a complete section, its empty line included. NULL, or the rule that was broken (static text).
cdef const char* http1_section(Http1Head* head, const uint8_t* text, size_t size, bint trailers) noexcept nogil

# Reads on in a chunk-size line and says how many bytes were used. NULL, or the rule that was broken (static text).
cdef const char* http1_chunk_line(Http1ChunkLine* line, const uint8_t* data, size_t size, size_t* used) noexcept nogil
