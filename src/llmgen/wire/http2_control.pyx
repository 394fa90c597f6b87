"""The frames that steer an HTTP/2 connection and its streams (RFC 9113 6.3 to 6.9)."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from llmgen.wire.hpack cimport hpack_decoder_set_max_table_size, hpack_encoder_set_peer_table_size
from llmgen.wire.http2_connection cimport (
    HTTP2_CLIENT, HTTP2_ERROR, HTTP2_OK, Http2Stream, connection_end_streams, connection_fail, connection_reply,
    connection_spend, stream_fail)
from llmgen.wire.http2_frames cimport (
    FLAG_ACK, FRAME_PING, FRAME_SETTINGS, FRAME_SIZE_MAX, FRAME_SIZE_MIN, H2_FLOW_CONTROL_ERROR, H2_FRAME_SIZE_ERROR,
    H2_PROTOCOL_ERROR, H2_REFUSED_STREAM, SETTING_ENABLE_PUSH, SETTING_HEADER_TABLE_SIZE, SETTING_INITIAL_WINDOW_SIZE,
    SETTING_MAX_CONCURRENT_STREAMS, SETTING_MAX_FRAME_SIZE, SETTING_MAX_HEADER_LIST_SIZE, WINDOW_MAX, read_u16,
    read_u31, read_u32)
from llmgen.wire.http2_send cimport http2_open, send_window_opened
from llmgen.wire.http2_streams cimport (
    GONE_NEVER, GONE_RESET_BY_PEER, heap_remove, streams_at, streams_close, streams_find, streams_gone)
from llmgen.wire.sink cimport END_RESET, END_UNPROCESSED


cdef int read_settings(Http2* h, int flags, uint32_t stream, const uint8_t* p, uint32_t size) noexcept nogil:
    cdef uint32_t at
    if stream != 0:
        return connection_fail(h, H2_PROTOCOL_ERROR, b"SETTINGS on a stream")
    if flags & FLAG_ACK:
        if size:
            return connection_fail(h, H2_FRAME_SIZE_ERROR, b"an acknowledgement of SETTINGS with a payload")
        return settings_acknowledged(h)
    if size % 6:
        return connection_fail(h, H2_FRAME_SIZE_ERROR, b"SETTINGS of a size that is no multiple of 6")
    if h.ready and connection_spend(h) != HTTP2_OK:
        return HTTP2_ERROR
    for at in range(0, size, 6):
        if apply_setting(h, read_u16(p + at), read_u32(p + at + 2)) != HTTP2_OK:
            return HTTP2_ERROR
    h.ready = True
    if http2_open(h) != HTTP2_OK:            # a server that had not spoken yet: its SETTINGS come before its ACK
        return HTTP2_ERROR
    if connection_reply(h, FRAME_SETTINGS, FLAG_ACK, 0, NULL, 0) != HTTP2_OK:
        return HTTP2_ERROR
    if h.watch != NULL and h.watch.on_settings != NULL:
        h.watch.on_settings(h.watch.ctx, p, size)
    return HTTP2_OK


cdef int settings_acknowledged(Http2* h) noexcept nogil:
    if h.unacknowledged == 0:
        return connection_spend(h)
    h.unacknowledged -= 1
    if h.unacknowledged == 0:
        h.ours = h.newest
        hpack_decoder_set_max_table_size(&h.decoder, h.ours.header_table_size)
    return HTTP2_OK


cdef int apply_setting(Http2* h, uint32_t id, uint32_t value) noexcept nogil:
    cdef uint32_t before
    if id == SETTING_HEADER_TABLE_SIZE:
        h.peer.header_table_size = value
        hpack_encoder_set_peer_table_size(&h.encoder, value)
    elif id == SETTING_ENABLE_PUSH:
        if value > 1 or (value == 1 and h.role == HTTP2_CLIENT):
            return connection_fail(h, H2_PROTOCOL_ERROR, b"SETTINGS_ENABLE_PUSH that is not permitted")
    elif id == SETTING_MAX_CONCURRENT_STREAMS:
        h.peer.max_streams = value
    elif id == SETTING_INITIAL_WINDOW_SIZE:
        if value > WINDOW_MAX:
            return connection_fail(h, H2_FLOW_CONTROL_ERROR, b"SETTINGS_INITIAL_WINDOW_SIZE above 2**31 - 1")
        before = h.peer.initial_window
        h.peer.initial_window = value
        return shift_windows(h, <int64_t>value - before)
    elif id == SETTING_MAX_FRAME_SIZE:
        if value < FRAME_SIZE_MIN or value > FRAME_SIZE_MAX:
            return connection_fail(h, H2_PROTOCOL_ERROR, b"SETTINGS_MAX_FRAME_SIZE outside of 2**14 .. 2**24 - 1")
        h.peer.max_frame_size = value
    elif id == SETTING_MAX_HEADER_LIST_SIZE:
        h.peer.max_header_list_size = value
    return HTTP2_OK


cdef int shift_windows(Http2* h, int64_t by) noexcept nogil:
    """A changed initial window moves those of all open streams, below zero if need be (RFC 9113 6.9.2)."""
    cdef uint32_t slot
    cdef Http2Stream* s
    if by == 0:
        return HTTP2_OK
    for slot in range(h.streams.chunk_count * 64):
        s = streams_at(&h.streams, slot)
        if s.id == 0:
            continue
        if s.send_window + by > WINDOW_MAX:
            return connection_fail(h, H2_FLOW_CONTROL_ERROR, b"SETTINGS_INITIAL_WINDOW_SIZE lifts a window over 2**31 - 1")
        s.send_window = <int32_t>(s.send_window + by)
        if s.send_window <= 0:
            if s.body != NULL and s.body.heap_index:
                heap_remove(&h.streams, s.body)
        elif send_window_opened(h, s) != HTTP2_OK:
            return HTTP2_ERROR
    return HTTP2_OK


cdef bint is_idle(Http2* h, uint32_t stream) noexcept nogil:
    """Of a stream that is not open: nobody has used it yet."""
    return not stream & 1 or stream > h.streams.highest or streams_gone(&h.streams, stream) == GONE_NEVER


cdef int read_window_update(Http2* h, uint32_t stream, const uint8_t* p, uint32_t size) noexcept nogil:
    cdef uint32_t increment
    cdef Http2Stream* s
    if size != 4:
        return connection_fail(h, H2_FRAME_SIZE_ERROR, b"WINDOW_UPDATE of a size other than 4")
    if connection_spend(h) != HTTP2_OK:
        return HTTP2_ERROR
    increment = read_u31(p)
    if stream == 0:
        if increment == 0:
            return connection_fail(h, H2_PROTOCOL_ERROR, b"WINDOW_UPDATE by 0")
        h.send_window += increment
        if h.send_window > WINDOW_MAX:
            return connection_fail(h, H2_FLOW_CONTROL_ERROR, b"WINDOW_UPDATE lifts the connection over 2**31 - 1")
        return HTTP2_OK
    s = streams_find(&h.streams, stream)
    if s == NULL:
        if is_idle(h, stream):
            return connection_fail(h, H2_PROTOCOL_ERROR, b"WINDOW_UPDATE on an idle stream")
        return HTTP2_OK
    if increment == 0:
        return stream_fail(h, s, H2_PROTOCOL_ERROR, b"WINDOW_UPDATE by 0")
    if s.send_window + <int64_t>increment > WINDOW_MAX:
        return stream_fail(h, s, H2_FLOW_CONTROL_ERROR, b"WINDOW_UPDATE lifts the stream over 2**31 - 1")
    s.send_window = <int32_t>(s.send_window + <int64_t>increment)
    return send_window_opened(h, s)


cdef int read_rst_stream(Http2* h, uint32_t stream, const uint8_t* p, uint32_t size) noexcept nogil:
    cdef uint32_t code
    cdef uint64_t user
    cdef Http2Stream* s
    if size != 4:
        return connection_fail(h, H2_FRAME_SIZE_ERROR, b"RST_STREAM of a size other than 4")
    if stream == 0:
        return connection_fail(h, H2_PROTOCOL_ERROR, b"RST_STREAM on stream 0")
    s = streams_find(&h.streams, stream)
    if s == NULL:
        if is_idle(h, stream):
            return connection_fail(h, H2_PROTOCOL_ERROR, b"RST_STREAM on an idle stream")
        return connection_spend(h)
    code = read_u32(p)
    user = s.user
    streams_close(&h.streams, s, GONE_RESET_BY_PEER)
    h.sink.on_end(h.sink.ctx, user, END_UNPROCESSED if code == H2_REFUSED_STREAM else END_RESET, code)
    return HTTP2_OK


cdef int read_ping(Http2* h, int flags, uint32_t stream, const uint8_t* p, uint32_t size) noexcept nogil:
    if stream != 0:
        return connection_fail(h, H2_PROTOCOL_ERROR, b"PING on a stream")
    if size != 8:
        return connection_fail(h, H2_FRAME_SIZE_ERROR, b"PING of a size other than 8")
    if connection_spend(h) != HTTP2_OK:
        return HTTP2_ERROR
    if flags & FLAG_ACK:
        return HTTP2_OK
    if connection_reply(h, FRAME_PING, FLAG_ACK, 0, p, 8) != HTTP2_OK:
        return HTTP2_ERROR
    if h.watch != NULL and h.watch.on_ping != NULL:
        h.watch.on_ping(h.watch.ctx, p)
    return HTTP2_OK


cdef int read_goaway(Http2* h, uint32_t stream, const uint8_t* p, uint32_t size) noexcept nogil:
    cdef uint32_t last
    if stream != 0:
        return connection_fail(h, H2_PROTOCOL_ERROR, b"GOAWAY on a stream")
    if size < 8:
        return connection_fail(h, H2_FRAME_SIZE_ERROR, b"GOAWAY shorter than 8")
    last = read_u31(p)
    if h.goaway_received:
        if last > h.goaway_last:
            return connection_fail(h, H2_PROTOCOL_ERROR, b"GOAWAY with a higher last stream than before")
        if connection_spend(h) != HTTP2_OK:
            return HTTP2_ERROR
    h.goaway_received = True
    h.goaway_last = last
    h.goaway_code = read_u32(p + 4)
    if h.watch != NULL and h.watch.on_goaway != NULL:
        h.watch.on_goaway(h.watch.ctx, last, h.goaway_code)
    if h.role == HTTP2_CLIENT:
        connection_end_streams(h, END_UNPROCESSED, H2_REFUSED_STREAM, last)
    return HTTP2_OK


cdef int read_priority(Http2* h, uint32_t stream, const uint8_t* p, uint32_t size) noexcept nogil:
    cdef Http2Stream* s
    if stream == 0:
        return connection_fail(h, H2_PROTOCOL_ERROR, b"PRIORITY on stream 0")
    if connection_spend(h) != HTTP2_OK:
        return HTTP2_ERROR
    s = streams_find(&h.streams, stream)
    if size != 5:                            # a stream error, where there is a stream that can have one
        if s == NULL:
            return connection_fail(h, H2_FRAME_SIZE_ERROR, b"PRIORITY of a size other than 5")
        return stream_fail(h, s, H2_FRAME_SIZE_ERROR, b"PRIORITY of a size other than 5")
    if read_u31(p) != stream:
        return HTTP2_OK
    if s == NULL:
        return connection_fail(h, H2_PROTOCOL_ERROR, b"a stream that depends on itself")
    return stream_fail(h, s, H2_PROTOCOL_ERROR, b"a stream that depends on itself")
