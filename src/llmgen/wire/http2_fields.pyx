"""The rules by which an HTTP/2 header section is well-formed (RFC 9113 8.2, 8.3); broken, it is a stream error."""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcmp


cdef enum:
    NAME_BAD = 1                 # 0x00-0x20, upper case, 0x7f-0xff, colon (RFC 9113 8.2.1)
    VALUE_BAD = 2                # NUL, LF, CR
    LENGTH_DIGITS = 18           # of content-length: more would not fit into 63 bits

cdef enum:                       # pseudo-headers that were seen
    SEEN_METHOD = 1
    SEEN_SCHEME = 2
    SEEN_PATH = 4
    SEEN_AUTHORITY = 8

cdef uint8_t BYTES[256]          # NAME_BAD and VALUE_BAD of each byte


cdef void fill_bytes() noexcept nogil:
    cdef int c
    for c in range(256):
        BYTES[c] = NAME_BAD if c <= 0x20 or 0x41 <= c <= 0x5A or c >= 0x7F or c == 0x3A else 0
    BYTES[0] |= VALUE_BAD
    BYTES[10] |= VALUE_BAD
    BYTES[13] |= VALUE_BAD

fill_bytes()


cdef inline bint named(const Header* h, const char* name, uint32_t size) noexcept nogil:
    return h.name_size == size and memcmp(h.name, name, size) == 0


cdef inline bint valued(const Header* h, const char* value, uint32_t size) noexcept nogil:
    return h.value_size == size and memcmp(h.value, value, size) == 0


cdef const char* check_value(const Header* h) noexcept nogil:
    cdef uint32_t i
    cdef int bad = 0
    cdef uint8_t first, last
    if h.value_size == 0:
        return NULL
    for i in range(h.value_size):
        bad |= BYTES[h.value[i]]
    if bad & VALUE_BAD:
        return "a field value with NUL, CR or LF"
    first = h.value[0]
    last = h.value[h.value_size - 1]
    if first == 0x20 or first == 0x09 or last == 0x20 or last == 0x09:
        return "a field value that begins or ends with white space"
    return NULL


cdef int64_t read_length(const Header* h) noexcept nogil:
    """The number in a content-length, -1 if it is none."""
    cdef int64_t n = 0
    cdef uint32_t i
    if h.value_size == 0 or h.value_size > LENGTH_DIGITS:
        return -1
    for i in range(h.value_size):
        if h.value[i] < 0x30 or h.value[i] > 0x39:
            return -1
        n = n * 10 + (h.value[i] - 0x30)
    return n


cdef const char* check_regular(const Header* h, Http2Message* message) noexcept nogil:
    cdef uint32_t i
    cdef int bad = 0
    cdef int64_t length
    if h.name_size == 0:
        return "an empty field name"
    for i in range(h.name_size):
        bad |= BYTES[h.name[i]]
    if bad & NAME_BAD:
        return "a field name with upper case or forbidden characters"
    if (named(h, "connection", 10) or named(h, "keep-alive", 10) or named(h, "upgrade", 7)
            or named(h, "proxy-connection", 16) or named(h, "transfer-encoding", 17)):
        return "a connection-specific field"
    if named(h, "te", 2) and not valued(h, "trailers", 8):
        return "te other than trailers"
    if message != NULL and named(h, "content-length", 14):
        length = read_length(h)
        if length < 0:
            return "a content-length that is no number"
        if message.content_length >= 0 and message.content_length != length:
            return "two different content-lengths"
        message.content_length = length
    return check_value(h)


cdef const char* read_status(const Header* h, Http2Message* message) noexcept nogil:
    if message.status:
        return "two :status"
    if (h.value_size != 3 or h.value[0] < 0x31 or h.value[0] > 0x39 or h.value[1] < 0x30 or h.value[1] > 0x39
            or h.value[2] < 0x30 or h.value[2] > 0x39):
        return ":status is no three-digit number"
    message.status = (h.value[0] - 0x30) * 100 + (h.value[1] - 0x30) * 10 + (h.value[2] - 0x30)
    if message.status == 101:
        return ":status 101, which HTTP/2 does not have"
    return NULL


cdef const char* fields_response(const Header* headers, size_t count, Http2Message* message) noexcept nogil:
    cdef size_t i
    cdef bint regular = False
    cdef const char* wrong = NULL
    message.status = 0
    message.content_length = -1
    for i in range(count):
        if headers[i].name_size and headers[i].name[0] == 0x3A:
            if regular:
                return "a pseudo-header after a regular field"
            if not named(&headers[i], ":status", 7):
                return "a pseudo-header that is not :status in a response"
            wrong = read_status(&headers[i], message)
        else:
            regular = True
            wrong = check_regular(&headers[i], message)
        if wrong != NULL:
            return wrong
    if message.status == 0:
        return "no :status"
    return NULL


cdef int which_pseudo(const Header* h) noexcept nogil:
    if named(h, ":method", 7):
        return SEEN_METHOD
    if named(h, ":scheme", 7):
        return SEEN_SCHEME
    if named(h, ":path", 5):
        return SEEN_PATH
    if named(h, ":authority", 10):
        return SEEN_AUTHORITY
    return 0


cdef const char* fields_request(const Header* headers, size_t count, Http2Message* message) noexcept nogil:
    cdef size_t i
    cdef int seen = 0
    cdef int which
    cdef bint regular = False
    cdef bint connect = False
    cdef const char* wrong = NULL
    message.status = 0
    message.content_length = -1
    for i in range(count):
        if headers[i].name_size and headers[i].name[0] == 0x3A:
            which = which_pseudo(&headers[i])
            if regular:
                return "a pseudo-header after a regular field"
            if which == 0:
                return "an unknown pseudo-header in a request"
            if seen & which:
                return "a pseudo-header twice"
            if headers[i].value_size == 0 and which != SEEN_AUTHORITY:
                return "an empty pseudo-header"
            seen |= which
            if which == SEEN_METHOD:
                connect = valued(&headers[i], "CONNECT", 7)
            wrong = check_value(&headers[i])
        else:
            regular = True
            wrong = check_regular(&headers[i], message)
        if wrong != NULL:
            return wrong
    if connect:
        if seen != (SEEN_METHOD | SEEN_AUTHORITY):
            return "CONNECT takes :method and :authority only"
    elif (seen & (SEEN_METHOD | SEEN_SCHEME | SEEN_PATH)) != (SEEN_METHOD | SEEN_SCHEME | SEEN_PATH):
        return ":method, :scheme or :path is missing"
    return NULL


cdef const char* fields_trailers(const Header* headers, size_t count) noexcept nogil:
    cdef size_t i
    cdef const char* wrong
    for i in range(count):
        if headers[i].name_size and headers[i].name[0] == 0x3A:
            return "a pseudo-header in trailers"
        wrong = check_regular(&headers[i], NULL)
        if wrong != NULL:
            return wrong
    return NULL
