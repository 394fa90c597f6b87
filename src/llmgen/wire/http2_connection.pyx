"""One HTTP/2 connection as a whole: its beginning, its limits, its end."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from llmgen.wire.hpack cimport (HPACK_DEFAULT_TABLE_SIZE, HPACK_OK, hpack_decoder_free, hpack_decoder_init,
                                hpack_encoder_free, hpack_encoder_init)
from llmgen.wire.http2_frames cimport (
    FRAME_GOAWAY, FRAME_HEADER_SIZE, FRAME_RST_STREAM, FRAME_SIZE_MIN, H2_ENHANCE_YOUR_CALM, H2_INTERNAL_ERROR,
    STREAM_ID_MAX, WINDOW_DEFAULT, WINDOW_MAX, write_frame_header, write_u32)
from llmgen.wire.http2_output cimport output_commit, output_free, output_init, output_reply, output_reserve
from llmgen.wire.http2_streams cimport GONE_RESET_BY_US, streams_at, streams_close, streams_free, streams_init
from llmgen.wire.sink cimport END_MALFORMED, END_PROTOCOL


cdef enum:
    HEADER_LIST_DEFAULT = 65536  # far above what servers send, far below what hurts
    SERVER_WINDOW = 1048576      # a prompt comes in without waiting
    SERVER_STREAMS = 1000


cdef void http2_options(Http2Options* options, int role) noexcept nogil:
    options.initial_window = WINDOW_MAX if role == HTTP2_CLIENT else SERVER_WINDOW
    options.connection_window = WINDOW_MAX
    options.max_frame_size = FRAME_SIZE_MIN
    options.max_header_list_size = HEADER_LIST_DEFAULT
    options.header_table_size = HPACK_DEFAULT_TABLE_SIZE
    options.max_streams = UNLIMITED if role == HTTP2_CLIENT else SERVER_STREAMS
    options.flags = 0


cdef void default_settings(Http2Settings* s) noexcept nogil:
    # RFC 9113 6.5.2
    s.header_table_size = HPACK_DEFAULT_TABLE_SIZE
    s.max_streams = UNLIMITED
    s.initial_window = WINDOW_DEFAULT
    s.max_frame_size = FRAME_SIZE_MIN
    s.max_header_list_size = UNLIMITED


cdef int http2_init(Http2* h, const Sink* sink, int role, const Http2Options* options) noexcept nogil:
    memset(h, 0, sizeof(Http2))
    if options != NULL:
        h.options = options[0]
    else:
        http2_options(&h.options, role)
    h.sink = sink
    h.role = role
    h.goaway_last = h.goaway_promised = STREAM_ID_MAX
    default_settings(&h.peer)
    default_settings(&h.ours)
    default_settings(&h.newest)
    h.send_window = WINDOW_DEFAULT
    h.receive_limit = WINDOW_DEFAULT
    h.stalled_since = -1
    h.next_id = 1 if role == HTTP2_CLIENT else 2
    h.patience = PATIENCE_FIRST
    streams_init(&h.streams)
    output_init(&h.output)
    if hpack_decoder_init(&h.decoder, HPACK_DEFAULT_TABLE_SIZE, h.options.max_header_list_size) != HPACK_OK:
        return HTTP2_NO_MEMORY
    # The table itself stays empty (submitted blocks are stateless); its size is kept so that changes are signalled.
    if hpack_encoder_init(&h.encoder, HPACK_DEFAULT_TABLE_SIZE) != HPACK_OK:
        return HTTP2_NO_MEMORY
    return HTTP2_OK


cdef void http2_free(Http2* h) noexcept nogil:
    streams_free(&h.streams)
    output_free(&h.output)
    hpack_decoder_free(&h.decoder)
    hpack_encoder_free(&h.encoder)
    free(h.carry)
    free(h.block)
    h.carry = h.block = NULL
    h.carry_size = h.carry_capacity = h.block_size = h.block_capacity = 0
    h.failed = True


cdef const char* http2_reason(Http2* h) noexcept nogil:
    if h.reason == NULL:
        return b""
    return h.reason


cdef int connection_fail(Http2* h, uint32_t code, const char* reason) noexcept nogil:
    cdef uint8_t payload[8]
    if h.failed:
        return HTTP2_ERROR
    h.failed = True
    h.error = code
    h.reason = reason
    h.goaway_sent = True
    write_u32(payload, h.streams.highest if h.role == HTTP2_SERVER else 0)
    write_u32(payload + 4, code)
    put_frame(h, FRAME_GOAWAY, 0, 0, payload, 8)
    h.carry_size = h.block_size = 0
    connection_end_streams(h, END_PROTOCOL, code, 0)
    return HTTP2_ERROR


cdef void connection_end_streams(Http2* h, int end, uint32_t code, uint32_t above) noexcept nogil:
    cdef uint32_t slot
    cdef Http2Stream* s
    cdef uint64_t user
    for slot in range(h.streams.chunk_count * 64):
        s = streams_at(&h.streams, slot)
        if s.id == 0 or s.id <= above:
            continue
        user = s.user
        streams_close(&h.streams, s, GONE_RESET_BY_US)
        h.sink.on_end(h.sink.ctx, user, end, code)


cdef int put_frame(Http2* h, int type, int flags, uint32_t stream, const uint8_t* payload, uint32_t size) noexcept nogil:
    cdef uint8_t* p = output_reserve(&h.output, FRAME_HEADER_SIZE + size)
    if p == NULL:
        return -1
    write_frame_header(p, size, type, flags, stream)
    if size:
        memcpy(p + FRAME_HEADER_SIZE, payload, size)
    output_commit(&h.output, FRAME_HEADER_SIZE + size)
    return 0


cdef int connection_put(Http2* h, int type, int flags, uint32_t stream, const uint8_t* payload, uint32_t size) noexcept nogil:
    if put_frame(h, type, flags, stream, payload, size) < 0:
        return connection_fail(h, H2_INTERNAL_ERROR, b"out of memory")
    return HTTP2_OK


cdef int connection_reply(Http2* h, int type, int flags, uint32_t stream, const uint8_t* payload, uint32_t size) noexcept nogil:
    if output_reply(&h.output) > REPLIES_MAX:
        return connection_fail(h, H2_ENHANCE_YOUR_CALM, b"the peer makes us answer and does not read the answers")
    return connection_put(h, type, flags, stream, payload, size)


cdef int connection_reset(Http2* h, uint32_t stream, uint32_t code) noexcept nogil:
    cdef uint8_t payload[4]
    write_u32(payload, code)
    return connection_reply(h, FRAME_RST_STREAM, 0, stream, payload, 4)


cdef int stream_fail(Http2* h, Http2Stream* s, uint32_t code, const char* reason) noexcept nogil:
    cdef uint64_t user = s.user
    cdef uint32_t id = s.id
    h.stream_reason = reason
    streams_close(&h.streams, s, GONE_RESET_BY_US)
    h.sink.on_end(h.sink.ctx, user, END_MALFORMED, code)
    return connection_reset(h, id, code) if not h.failed else HTTP2_ERROR


cdef int connection_impatient(Http2* h) noexcept nogil:
    cdef int64_t given = (h.now_ns - h.patience_ns) // 1000000 * PATIENCE_PER_MS
    if given > 0:
        h.patience = given if given < PATIENCE_FIRST else PATIENCE_FIRST
        h.patience_ns = h.now_ns
        return HTTP2_OK
    return connection_fail(h, H2_ENHANCE_YOUR_CALM, b"a flood of frames that achieve nothing")
