# Frames on the wire (RFC 9113 4.1, 6): numbers of types, flags, settings and errors; readers and writers of fixed parts.

from libc.stdint cimport uint8_t, uint32_t


cdef enum:
    FRAME_HEADER_SIZE = 9
    FRAME_SIZE_MIN = 16384           # RFC 9113 4.2: what everybody must accept
    FRAME_SIZE_MAX = 16777215        # 2**24 - 1
    WINDOW_MAX = 2147483647          # 2**31 - 1
    WINDOW_DEFAULT = 65535
    STREAM_ID_MAX = 2147483647
    PREFACE_SIZE = 24


cdef enum Http2Frame:
    FRAME_DATA = 0
    FRAME_HEADERS = 1
    FRAME_PRIORITY = 2
    FRAME_RST_STREAM = 3
    FRAME_SETTINGS = 4
    FRAME_PUSH_PROMISE = 5
    FRAME_PING = 6
    FRAME_GOAWAY = 7
    FRAME_WINDOW_UPDATE = 8
    FRAME_CONTINUATION = 9


cdef enum:
    FLAG_END_STREAM = 1              # DATA, HEADERS
    FLAG_ACK = 1                     # SETTINGS, PING
    FLAG_END_HEADERS = 4             # HEADERS, CONTINUATION
    FLAG_PADDED = 8                  # DATA, HEADERS
    FLAG_PRIORITY = 32               # HEADERS


cdef enum Http2Setting:
    SETTING_HEADER_TABLE_SIZE = 1
    SETTING_ENABLE_PUSH = 2
    SETTING_MAX_CONCURRENT_STREAMS = 3
    SETTING_INITIAL_WINDOW_SIZE = 4
    SETTING_MAX_FRAME_SIZE = 5
    SETTING_MAX_HEADER_LIST_SIZE = 6


cdef enum Http2Code:                 # RFC 9113 7
    H2_NO_ERROR = 0
    H2_PROTOCOL_ERROR = 1
    H2_INTERNAL_ERROR = 2
    H2_FLOW_CONTROL_ERROR = 3
    H2_SETTINGS_TIMEOUT = 4
    H2_STREAM_CLOSED = 5
    H2_FRAME_SIZE_ERROR = 6
    H2_REFUSED_STREAM = 7
    H2_CANCEL = 8
    H2_COMPRESSION_ERROR = 9
    H2_CONNECT_ERROR = 10
    H2_ENHANCE_YOUR_CALM = 11
    H2_INADEQUATE_SECURITY = 12
    H2_HTTP_1_1_REQUIRED = 13


cdef inline uint32_t read_u16(const uint8_t* p) noexcept nogil:
    return (<uint32_t>p[0] << 8) | p[1]


cdef inline uint32_t read_u24(const uint8_t* p) noexcept nogil:
    return (<uint32_t>p[0] << 16) | (<uint32_t>p[1] << 8) | p[2]


cdef inline uint32_t read_u32(const uint8_t* p) noexcept nogil:
    return (<uint32_t>p[0] << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | p[3]


cdef inline uint32_t read_u31(const uint8_t* p) noexcept nogil:
    """31 bits; the reserved highest one is ignored (RFC 9113 4.1)."""
    return read_u32(p) & 0x7FFFFFFF


cdef inline void write_u16(uint8_t* p, uint32_t v) noexcept nogil:
    p[0] = <uint8_t>(v >> 8)
    p[1] = <uint8_t>v


cdef inline void write_u32(uint8_t* p, uint32_t v) noexcept nogil:
    p[0] = <uint8_t>(v >> 24)
    p[1] = <uint8_t>(v >> 16)
    p[2] = <uint8_t>(v >> 8)
    p[3] = <uint8_t>v


cdef inline void write_frame_header(uint8_t* p, uint32_t size, int type, int flags, uint32_t stream) noexcept nogil:
    """The 9 bytes before a payload of `size` bytes."""
    p[0] = <uint8_t>(size >> 16)
    p[1] = <uint8_t>(size >> 8)
    p[2] = <uint8_t>size
    p[3] = <uint8_t>type
    p[4] = <uint8_t>flags
    write_u32(p + 5, stream)
