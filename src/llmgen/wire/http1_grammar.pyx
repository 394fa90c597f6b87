"""The grammar of HTTP/1.1 responses: field lines, heads and trailer sections, chunk-size lines (RFC 9112).

Pure functions of bytes. What a choice of the RFC was read as stands in http1.pyx.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memmove

from llmgen.wire.sink cimport Header


cdef enum:
    TCHAR = 1                    # RFC 9110, 5.6.2: the letters of a token
    HEX = 2
    QUOTABLE = 4                 # may stand in a quoted string, backslash and quote apart

# Sizes above cannot be meant (8 EiB), and the sum with a buffer's size cannot overflow.
cdef uint64_t MAX_SIZE = 0x7fffffffffffffff

cdef uint8_t CLASS[256]
cdef uint8_t DIGIT[256]          # the value of a hexadecimal digit


cdef void _fill_tables():
    cdef int c
    for c in range(256):
        CLASS[c] = QUOTABLE if c == 9 or (c >= 32 and c != 127) else 0
        DIGIT[c] = 0
    for c in b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ":
        CLASS[c] |= TCHAR
    for c in b"0123456789abcdefABCDEF":
        CLASS[c] |= HEX
        DIGIT[c] = <uint8_t>int(chr(c), 16)


_fill_tables()


cdef inline bint _is(const uint8_t* text, size_t size, const char* lower, size_t lower_size) noexcept nogil:
    """Whether `text` is `lower` (letters and hyphens in lower case), compared without case."""
    cdef size_t i
    if size != lower_size:
        return False
    for i in range(size):
        # Letters differ in 0x20 only, and a hyphen has that bit: 0x0d is the one other byte, no token has it.
        if (text[i] | 0x20) != <uint8_t>lower[i]:
            return False
    return True


cdef inline bint _blank(uint8_t c) noexcept nogil:
    return c == 32 or c == 9


cdef const char* _content_length(Http1Head* head, const uint8_t* text, size_t size) noexcept nogil:
    """Reads a Content-Length; NULL, or what is wrong. A list of equal numbers is what merging made of repeated lines."""
    cdef size_t i = 0
    cdef uint64_t value
    cdef uint8_t digit
    while True:
        while i < size and _blank(text[i]):
            i += 1
        if i == size or not 48 <= text[i] <= 57:
            return b"Content-Length is not a number (RFC 9110, 8.6)"
        value = 0
        while i < size and 48 <= text[i] <= 57:
            digit = text[i] - 48
            if value > (MAX_SIZE - digit) // 10:
                return b"Content-Length is too large"
            value = value * 10 + digit
            i += 1
        while i < size and _blank(text[i]):
            i += 1
        if head.has_length and head.length != value:
            return b"Content-Length differs from another one (RFC 9112, 6.3)"
        head.has_length = True
        head.length = value
        if i == size:
            return NULL
        if text[i] != 44:        # ,
            return b"Content-Length is not a number (RFC 9110, 8.6)"
        i += 1


cdef size_t _skip_parameters(const uint8_t* text, size_t at, size_t size) noexcept nogil:
    """The place of the comma that ends a list element's parameters, or `size`; over it when a quote is not closed."""
    cdef bint quoted = False
    while at < size and (quoted or text[at] != 44):
        if text[at] == 34:       # "
            quoted = not quoted
        elif quoted and text[at] == 92:      # a backslash hides the next byte
            at += 1
        at += 1
    return size + 1 if quoted else at


cdef const char* _transfer_codings(Http1Head* head, const uint8_t* text, size_t size) noexcept nogil:
    """Reads one line of Transfer-Encoding; NULL, or what is wrong. Lines continue each other's list."""
    cdef size_t i = 0, start
    cdef bint chunked, parameters
    head.has_coding = True
    while True:
        while i < size and (_blank(text[i]) or text[i] == 44):
            i += 1
        if i >= size:
            return NULL
        start = i
        while i < size and CLASS[text[i]] & TCHAR:
            i += 1
        chunked = _is(text + start, i - start, b"chunked", 7)
        if i == start:
            return b"Transfer-Encoding is not a list of codings (RFC 9112, 6.1)"
        while i < size and _blank(text[i]):
            i += 1
        parameters = i < size and text[i] == 59      # ;
        if parameters:
            i = _skip_parameters(text, i, size)
        if i > size or (i < size and text[i] != 44):
            return b"Transfer-Encoding is not a list of codings (RFC 9112, 6.1)"
        if chunked and parameters:
            return b"chunked with parameters (RFC 9112, 7.1)"
        if chunked and head.chunked_once:
            return b"chunked is applied twice (RFC 9112, 6.1)"
        head.chunked = chunked
        head.chunked_once = head.chunked_once or chunked
        head.other_coding = head.other_coding or not chunked


cdef void _connection_options(Http1Head* head, const uint8_t* text, size_t size) noexcept nogil:
    cdef size_t i = 0, start, end
    while i < size:
        start = i
        while i < size and text[i] != 44:
            i += 1
        end = i
        i += 1
        while start < end and _blank(text[start]):
            start += 1
        while start < end and _blank(text[end - 1]):
            end -= 1
        if _is(text + start, end - start, b"close", 5):
            head.close = True
        elif _is(text + start, end - start, b"keep-alive", 10):
            head.keep_alive = True


cdef const char* _status_line(Http1Head* head, const uint8_t* line, size_t size) noexcept nogil:
    """Reads HTTP/1.x SP 3DIGIT [SP reason]; NULL, or what is wrong."""
    if size < 12 or memcmp(line, b"HTTP/1.", 7) != 0 or not 48 <= line[7] <= 57 or line[8] != 32:
        return b"not an HTTP/1.x status line (RFC 9112, 4)"
    if not (49 <= line[9] <= 57 and 48 <= line[10] <= 57 and 48 <= line[11] <= 57) or (size > 12 and line[12] != 32):
        return b"the status is not a number from 100 to 999 (RFC 9110, 15)"
    head.minor = line[7] - 48
    head.status = (line[9] - 48) * 100 + (line[10] - 48) * 10 + (line[11] - 48)
    return NULL


cdef const char* _field(Http1Head* head, const uint8_t* line, size_t size) noexcept nogil:
    """Reads one field line into the next header; NULL, or what is wrong."""
    cdef size_t colon = 0, start
    cdef Header* header
    while colon < size and CLASS[line[colon]] & TCHAR:
        colon += 1
    if colon == size or colon == 0 or line[colon] != 58:
        if colon and colon < size and _blank(line[colon]):
            return b"whitespace between a field's name and the colon (RFC 9112, 5.1)"
        return b"a field line is not a name, a colon and a value (RFC 9112, 5)"
    if head.count == HTTP1_MAX_HEADERS:
        return b"too many fields"
    start = colon + 1
    while start < size and _blank(line[start]):
        start += 1
    while size > start and _blank(line[size - 1]):
        size -= 1
    header = &head.headers[head.count]
    header.name = line
    header.name_size = <uint32_t>colon
    header.value = line + start
    header.value_size = <uint32_t>(size - start)
    head.count += 1
    if head.status == 0:         # framing fields in trailers count for nothing (6.5.1)
        return NULL
    if _is(line, colon, b"content-length", 14):
        return _content_length(head, header.value, header.value_size)
    if _is(line, colon, b"transfer-encoding", 17):
        return _transfer_codings(head, header.value, header.value_size)
    if _is(line, colon, b"connection", 10):
        _connection_options(head, header.value, header.value_size)
    return NULL


cdef size_t http1_unfold(uint8_t* text, size_t size, bint trailers) noexcept nogil:
    """Joins folded lines in place, each fold and the blanks around it becoming one space; the new size.

    A line that begins with a blank and has no field before it is left, so that it is found to be no field.
    """
    cdef int first = 1 if trailers else 2        # the first line that can continue a field
    cdef size_t read = 0, write = 0, end
    cdef int lines = 0
    cdef uint8_t* lf
    while read < size:
        lf = <uint8_t*>memchr(text + read, 10, size - read)
        end = (lf - text) + 1 if lf != NULL else size
        if lines >= first and _blank(text[read]):
            write -= 2 if write > 1 and text[write - 2] == 13 else 1
            while write and _blank(text[write - 1]):
                write -= 1
            while _blank(text[read]):
                read += 1
            text[write] = 32
            write += 1
        memmove(text + write, text + read, end - read)
        write += end - read
        read = end
        lines += 1
    return write


cdef bint http1_folded(const uint8_t* text, size_t size) noexcept nogil:
    cdef const uint8_t* end = text + size
    cdef const uint8_t* lf = <const uint8_t*>memchr(text, 10, size)
    while lf != NULL and lf + 1 < end:
        if _blank(lf[1]):
            return True
        lf = <const uint8_t*>memchr(lf + 1, 10, end - lf - 1)
    return False


cdef const char* http1_section(Http1Head* head, const uint8_t* text, size_t size, bint trailers) noexcept nogil:
    """Reads a head or a trailer section, the empty line at its end included; NULL, or what is wrong."""
    cdef const uint8_t* end = text + size
    cdef const uint8_t* lf
    cdef size_t line_size
    cdef const char* wrong
    cdef bint first = not trailers
    head.count = 0
    head.status = head.minor = 0
    head.length = 0
    head.has_length = head.has_coding = head.chunked = head.chunked_once = head.other_coding = False
    head.close = head.keep_alive = False
    if memchr(text, 0, size) != NULL:
        return b"NUL in a field or status line (RFC 9110, 5.5)"
    while text < end:
        lf = <const uint8_t*>memchr(text, 10, end - text)
        if lf == NULL:
            return b"a line has no end"
        line_size = lf - text
        if line_size and text[line_size - 1] == 13:
            line_size -= 1
        if memchr(text, 13, line_size) != NULL:
            return b"CR without LF (RFC 9112, 2.2)"
        if first:
            wrong = _status_line(head, text, line_size)
            first = False
        elif line_size == 0:
            break
        else:
            wrong = _field(head, text, line_size)
        if wrong != NULL:
            return wrong
        text = lf + 1
    if head.has_coding and not (head.chunked or head.other_coding):
        return b"Transfer-Encoding without a coding (RFC 9112, 6.1)"
    if head.has_coding and head.has_length and not head.chunked:
        return b"Content-Length beside a transfer coding that does not end by itself (RFC 9112, 6.3)"
    return NULL


cdef size_t http1_section_end(uint8_t* tail, const uint8_t* data, size_t size) noexcept nogil:
    # A jump from LF to LF: only what follows one can be the end.
    cdef size_t i = 0
    cdef const uint8_t* lf
    while i < size:
        if tail[0] != TAIL_IN_LINE:
            if data[i] == 10:
                return i + 1
            if data[i] == 13 and tail[0] == TAIL_LINE_START:
                tail[0] = TAIL_LINE_START_CR
                i += 1
                continue
            tail[0] = TAIL_IN_LINE
        lf = <const uint8_t*>memchr(data + i, 10, size - i)
        if lf == NULL:
            return 0
        i = (lf - data) + 1
        tail[0] = TAIL_LINE_START
    return 0


cdef const char* http1_chunk_line(Http1ChunkLine* line, const uint8_t* data, size_t size, size_t* used) noexcept nogil:
    cdef size_t i = 0
    cdef uint8_t c, kind
    cdef uint8_t at = line.place
    while i < size:
        c = data[i]
        kind = CLASS[c]
        i += 1
        line.bytes += 1
        if line.bytes > HTTP1_MAX_CHUNK_LINE:
            return b"chunk size line too long"
        if at <= PLACE_SIZE and kind & HEX:
            if at == PLACE_FIRST:
                line.size = 0
            if line.size > MAX_SIZE >> 4:
                return b"chunk size too large"
            line.size = (line.size << 4) | DIGIT[c]
            at = PLACE_SIZE
        elif at == PLACE_LF:
            if c != 10:
                break
            line.place = PLACE_DONE
            used[0] = i
            return NULL
        elif at == PLACE_QUOTED or at == PLACE_QUOTED_PAIR:
            if not kind & QUOTABLE:
                break
            if at == PLACE_QUOTED_PAIR:
                at = PLACE_QUOTED
            elif c == 34:                # "
                at = PLACE_SIZE_END
            elif c == 92:                # backslash
                at = PLACE_QUOTED_PAIR
        elif kind & TCHAR:
            if at == PLACE_NAME_FIRST or at == PLACE_NAME:
                at = PLACE_NAME
            elif at == PLACE_VALUE_FIRST or at == PLACE_VALUE:
                at = PLACE_VALUE
            else:
                break
        elif at == PLACE_FIRST:
            break
        elif at == PLACE_NAME_FIRST or at == PLACE_VALUE_FIRST:
            if c == 34 and at == PLACE_VALUE_FIRST:
                at = PLACE_QUOTED
            elif not _blank(c):
                break
        elif c == 13:
            at = PLACE_LF
        elif c == 59:                    # ;
            at = PLACE_NAME_FIRST
        elif c == 61 and (at == PLACE_NAME or at == PLACE_NAME_END):     # =
            at = PLACE_VALUE_FIRST
        elif _blank(c):
            at = PLACE_NAME_END if at == PLACE_NAME or at == PLACE_NAME_END else PLACE_SIZE_END
        else:
            break
    else:
        line.place = at
        used[0] = size
        return NULL
    return b"chunk size line is not a size and extensions (RFC 9112, 7.1)"
