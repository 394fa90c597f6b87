"""The HTTP/1.1 request parser of the simulator (RFC 9112), strict and bounded.

A head is looked at when it is whole (`head_size` remembers how far it has searched, so that a head that comes byte by
byte costs linear time). What is not a plain request is answered with the status that `head_read` returns, and the
connection is closed: there is no resynchronising after a broken head.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memmove, memset

from llmgen.wire.span cimport Span, span

cdef extern from "string.h" nogil:
    void* memmem(const void* haystack, size_t haystack_size, const void* needle, size_t needle_size)

cdef extern from "strings.h" nogil:
    int strncasecmp(const char* a, const char* b, size_t size)


cdef enum:
    BAD_REQUEST = 400
    TOO_LARGE = 413
    EXPECTATION_FAILED = 417
    NOT_IMPLEMENTED = 501
    VERSION_NOT_SUPPORTED = 505
    UUID_SIZE = 36               # 8-4-4-4-12 (RFC 9562 4)

# States of Chunks.
cdef enum:
    CHUNK_SIZE = 0
    CHUNK_EXTENSION = 1
    CHUNK_SIZE_LF = 2
    CHUNK_DATA = 3
    CHUNK_DATA_CR = 4
    CHUNK_DATA_LF = 5
    TRAILER_START = 6
    TRAILER = 7
    TRAILER_LF = 8
    LAST_LF = 9

cdef enum:
    MAX_CHUNK_LINE = 4096        # of extensions or trailers: more is an attack or a mistake

# Bytes of a token (RFC 9110, 5.6.2): header names and methods.
cdef uint8_t TOKEN[256]
memset(TOKEN, 0, 256)
for _byte in bytearray(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"):
    TOKEN[_byte] = 1


cdef ssize_t head_size(const uint8_t* data, size_t size, size_t scanned) noexcept nogil:
    """Bytes of the head with its empty line, -1 if it is not whole; the first `scanned` bytes held no end before."""
    cdef size_t start = scanned - 3 if scanned > 3 else 0
    cdef const uint8_t* found
    if size < start + 4:
        return -1
    found = <const uint8_t*>memmem(data + start, size - start, <const char*>b"\r\n\r\n", 4)
    return -1 if found == NULL else found + 4 - data


cdef inline bint same(const Span* text, const char* name, size_t size) noexcept nogil:
    return text.size == size and strncasecmp(<const char*>text.data, name, size) == 0


cdef inline bint holds(const Span* text, const char* word, size_t size) noexcept nogil:
    """Whether a comma-separated list holds the word, without regard to case."""
    cdef size_t start = 0, stop, end
    while start < text.size:
        stop = start
        while stop < text.size and text.data[stop] != c',':
            stop += 1
        end = stop
        while start < end and (text.data[start] == 32 or text.data[start] == 9):
            start += 1
        while end > start and (text.data[end - 1] == 32 or text.data[end - 1] == 9):
            end -= 1
        if end - start == size and strncasecmp(<const char*>text.data + start, word, size) == 0:
            return True
        start = stop + 1
    return False


cdef int request_line(const uint8_t* line, size_t size, RequestHead* head) noexcept nogil:
    cdef const uint8_t* end = line + size
    cdef const uint8_t* target
    cdef const uint8_t* version
    cdef const uint8_t* query
    cdef const uint8_t* at = line
    while at < end and TOKEN[at[0]]:
        at += 1
    if at == line or at == end or at[0] != 32:
        return BAD_REQUEST
    if at - line == 4 and line[0] == c'P' and line[1] == c'O' and line[2] == c'S' and line[3] == c'T':
        head.method = METHOD_POST
    elif at - line == 3 and line[0] == c'G' and line[1] == c'E' and line[2] == c'T':
        head.method = METHOD_GET
    elif at - line == 4 and line[0] == c'H' and line[1] == c'E' and line[2] == c'A' and line[3] == c'D':
        head.method = METHOD_HEAD
    else:
        head.method = METHOD_OTHER
    target = at + 1
    at = target
    while at < end and 32 < at[0] < 127:
        at += 1
    if at == target or at == end or at[0] != 32:
        return BAD_REQUEST
    version = at + 1
    if end - version != 8 or memcmp(version, b"HTTP/", 5) != 0 or version[6] != c'.':
        return BAD_REQUEST
    if not (48 <= version[5] <= 57 and 48 <= version[7] <= 57):
        return BAD_REQUEST
    if version[5] != c'1':
        return VERSION_NOT_SUPPORTED
    head.http10 = version[7] == c'0'
    query = <const uint8_t*>memchr(target, c'?', at - target)
    head.path = span(target, (query if query != NULL else at) - target)
    return 0


cdef int content_length(const Span* text, int64_t* length) noexcept nogil:
    cdef int64_t total = 0
    cdef size_t i
    if text.size == 0 or text.size > 18:
        return BAD_REQUEST
    for i in range(text.size):
        if not 48 <= text.data[i] <= 57:
            return BAD_REQUEST
        total = total * 10 + text.data[i] - 48
    if length[0] >= 0 and length[0] != total:
        return BAD_REQUEST
    length[0] = total
    return 0


cdef int field(const Span* name, const Span* text, RequestHead* head, int* hosts) noexcept nogil:
    """Takes up the fields that matter here; 0 or the status of the refusal."""
    if same(name, b"content-length", 14):
        return content_length(text, &head.content_length)
    if same(name, b"transfer-encoding", 17):
        if not same(text, b"chunked", 7) or head.chunked:
            return NOT_IMPLEMENTED
        head.chunked = True
    elif same(name, b"host", 4):
        hosts[0] += 1
    elif same(name, b"connection", 10):
        if holds(text, b"close", 5):
            head.keep_alive = False
        elif head.http10 and holds(text, b"keep-alive", 10):
            head.keep_alive = True
    elif same(name, b"expect", 6):
        if not same(text, b"100-continue", 12):
            return EXPECTATION_FAILED
        head.expect = True
    elif same(name, b"x-request-id", 12):
        head.request_id = text[0]
    return 0


cdef int head_read(const uint8_t* data, size_t size, RequestHead* head) noexcept nogil:
    """Reads a whole head (`size` from head_size): 0, or the status with which the request is to be refused."""
    cdef const uint8_t* at = data
    cdef const uint8_t* end = data + size - 2       # of the last field's CRLF
    cdef const uint8_t* line_end
    cdef const uint8_t* colon
    cdef const uint8_t* byte
    cdef Span name, text
    cdef int result, hosts = 0
    memset(head, 0, sizeof(RequestHead))
    head.content_length = -1
    while at + 2 <= end and at[0] == 13 and at[1] == 10:       # RFC 9112, 2.2: empty lines before the request line
        at += 2
    if at >= end:
        return BAD_REQUEST
    line_end = <const uint8_t*>memchr(at, 10, end - at)
    if line_end == NULL or line_end == at or (line_end - 1)[0] != 13:
        return BAD_REQUEST
    result = request_line(at, line_end - 1 - at, head)
    if result != 0:
        return result
    head.keep_alive = not head.http10
    at = line_end + 1
    while at < end:
        line_end = <const uint8_t*>memchr(at, 10, end - at)
        if line_end == NULL or line_end == at or (line_end - 1)[0] != 13:
            return BAD_REQUEST
        line_end -= 1
        colon = at
        while colon < line_end and TOKEN[colon[0]]:
            colon += 1
        if colon == at or colon == line_end or colon[0] != c':':
            return BAD_REQUEST
        name = span(at, colon - at)
        colon += 1
        byte = line_end
        while colon < byte and (colon[0] == 32 or colon[0] == 9):
            colon += 1
        while byte > colon and ((byte - 1)[0] == 32 or (byte - 1)[0] == 9):
            byte -= 1
        text = span(colon, byte - colon)
        while colon < byte:
            if (colon[0] < 32 and colon[0] != 9) or colon[0] == 127:
                return BAD_REQUEST
            colon += 1
        result = field(&name, &text, head, &hosts)
        if result != 0:
            return result
        at = line_end + 2
    if hosts > 1 or (hosts == 0 and not head.http10) or (head.chunked and head.content_length >= 0):
        return BAD_REQUEST
    return TOO_LARGE if head.content_length > MAX_BODY_BYTES else 0


cdef int chunks_read(uint8_t* data, size_t size, Chunks* c) noexcept nogil:
    """Decodes in place what has come so far: 1 body whole, 0 more needed, negative: the status of the refusal.

    `data` must hold the same bytes as before (from the body's start) with new ones behind them.
    """
    cdef uint8_t byte
    cdef size_t take
    cdef int digit
    while c.at < size:
        if c.state == CHUNK_DATA:
            take = size - c.at
            if take > c.left:
                take = <size_t>c.left
            if c.size + take > MAX_BODY_BYTES:
                return -TOO_LARGE
            memmove(data + c.size, data + c.at, take)
            c.size += take
            c.at += take
            c.left -= take
            if c.left == 0:
                c.state = CHUNK_DATA_CR
            continue
        byte = data[c.at]
        c.at += 1
        if c.state == CHUNK_SIZE:
            c.line += 1
            digit = byte - 48 if 48 <= byte <= 57 else (byte | 32) - 87 if 97 <= (byte | 32) <= 102 else -1
            if digit >= 0:
                c.left = c.left * 16 + digit
                if c.left > MAX_BODY_BYTES or c.line > 16:
                    return -TOO_LARGE
            elif c.line == 1:
                return -BAD_REQUEST
            elif byte == 13:
                c.state = CHUNK_SIZE_LF
            elif byte == c';' or byte == 32 or byte == 9:
                c.state = CHUNK_EXTENSION
            else:
                return -BAD_REQUEST
        elif c.state == CHUNK_EXTENSION or c.state == TRAILER:
            c.line += 1
            if c.line > MAX_CHUNK_LINE or (byte < 32 and byte != 9 and byte != 13):
                return -BAD_REQUEST
            if byte == 13:
                c.state = CHUNK_SIZE_LF if c.state == CHUNK_EXTENSION else TRAILER_LF
        elif c.state == TRAILER_START:
            c.state = LAST_LF if byte == 13 else TRAILER
            if byte == 10:
                return -BAD_REQUEST
        elif c.state == CHUNK_DATA_CR:
            if byte != 13:
                return -BAD_REQUEST
            c.state = CHUNK_DATA_LF
        else:                    # all that is left waits for LF
            if byte != 10:
                return -BAD_REQUEST
            if c.state == LAST_LF:
                return 1
            if c.state == CHUNK_SIZE_LF and c.left > 0:
                c.state = CHUNK_DATA
            elif c.state == CHUNK_DATA_LF:
                c.state = CHUNK_SIZE
                c.line = 0
            else:
                c.state = TRAILER_START
    return 0


cdef int64_t request_index(const Span* request_id, uint64_t* salt) noexcept nogil:
    """The index of a request id `<run id>-<index>`, or -1; `salt` tells attempts at one request apart, 0: the first.

    llmgen's ids are UUIDs that end in `4<attempt>-8000-<index>`; others may write `<run id>-<index>.<attempt>`.
    """
    cdef size_t at = request_id.size, start
    cdef int64_t index = 0
    salt[0] = 0
    while at > 0 and request_id.data[at - 1] != c'-':
        at -= 1
    if at == 0:
        return -1
    start = at
    while at < request_id.size and 48 <= request_id.data[at] <= 57:
        if at - start >= 18:
            return -1
        index = index * 10 + request_id.data[at] - 48
        at += 1
    if at == start:
        return -1
    if request_id.size == UUID_SIZE and start == UUID_SIZE - 12 and request_id.data[14] == c'4':
        for start in range(15, 18):
            salt[0] = salt[0] * 16 + (request_id.data[start] & 15)
    while at < request_id.size:
        salt[0] = (salt[0] ^ request_id.data[at]) * <uint64_t>1099511628211        # FNV-1a
        at += 1
    return index


def parse_head(bytes data):
    """For tests: (method, path, content_length, chunked, keep_alive, request_id), a status, or None if not whole."""
    cdef RequestHead head
    cdef ssize_t size = head_size(data, len(data), 0)
    cdef int result
    if size < 0:
        return None
    result = head_read(data, size, &head)
    if result != 0:
        return result
    return (
        ["other", "GET", "POST", "HEAD"][<int>head.method],
        head.path.data[:head.path.size],
        head.content_length,
        bool(head.chunked),
        bool(head.keep_alive),
        head.request_id.data[:head.request_id.size] if head.request_id.size else b"",
    )


def decode_chunks(list pieces):
    """For tests: the body of a chunked message that comes in pieces and the bytes behind it; a status; None if cut."""
    cdef Chunks chunks
    cdef bytearray data = bytearray()
    cdef int result = 0
    memset(&chunks, 0, sizeof(Chunks))
    for piece in pieces:
        data += piece
        if result == 0:
            result = chunks_read(data, len(data), &chunks)
        if result < 0:
            return -result
    if result == 0:
        return None
    return bytes(data[:chunks.size]), bytes(data[chunks.at:])


def index_of(bytes request_id):
    """For tests: (index, salt) of a request id."""
    cdef Span text = span(request_id, len(request_id))
    cdef uint64_t salt
    cdef int64_t index = request_index(&text, &salt)
    return index, salt
