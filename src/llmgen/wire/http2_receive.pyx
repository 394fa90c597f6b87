"""The receiving half of an HTTP/2 connection (RFC 9113).

A read is taken frame by frame. DATA is never gathered: its content goes to the sink as it comes, so that a token is not
held back by the rest of its frame; what the frame says as a whole (windows, lengths, END_STREAM) is judged at its header
or at its end, so that the way in which the bytes were cut cannot be seen in the events. Other frames are small and are
completed in `carry` when a read ends inside of one.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy

from llmgen.wire.http2_connection cimport (
    HTTP2_ERROR, HTTP2_NO_TOP_UP, HTTP2_OK, HTTP2_SERVER, Http2Stream, connection_earn, connection_end_streams,
    connection_fail, connection_reset, connection_spend, stream_fail)
from llmgen.wire.http2_control cimport (
    read_goaway, read_ping, read_priority, read_rst_stream, read_settings, read_window_update)
from llmgen.wire.http2_frames cimport (
    FLAG_ACK, FLAG_END_STREAM, FLAG_PADDED, FRAME_CONTINUATION, FRAME_DATA, FRAME_GOAWAY, FRAME_HEADER_SIZE,
    FRAME_HEADERS, FRAME_PING, FRAME_PRIORITY, FRAME_RST_STREAM, FRAME_SETTINGS, FRAME_WINDOW_UPDATE,
    H2_FLOW_CONTROL_ERROR, H2_FRAME_SIZE_ERROR, H2_INTERNAL_ERROR, H2_NO_ERROR, H2_PROTOCOL_ERROR, H2_STREAM_CLOSED,
    PREFACE_SIZE, read_u24, read_u31)
from llmgen.wire.http2_messages cimport read_continuation, read_headers, remote_ended
from llmgen.wire.http2_send cimport http2_window_update
from llmgen.wire.http2_streams cimport (
    GONE_ENDED, GONE_NEVER, GONE_RESET_BY_PEER, STREAM_HEADERS, STREAM_NO_CONTENT, STREAM_REMOTE_END, streams_find,
    streams_gone)
from llmgen.wire.sink cimport END_EOF


cdef enum:                       # Http2.stage
    AT_PREFACE = 0               # server only
    AT_FRAME = 1
    IN_PAYLOAD = 2               # of DATA, or of a frame that is dropped

cdef enum:
    CARRY_KEEP = 4096            # capacity kept for the next unfinished frame
    MORE = 0                     # read_frame: not enough bytes yet


cdef int http2_read(Http2* h, const uint8_t* data, size_t size) noexcept nogil:
    cdef const uint8_t* p = data
    cdef const uint8_t* end = data + size
    cdef Py_ssize_t used
    if h.failed:
        return HTTP2_ERROR
    while p < end:
        if h.stage == IN_PAYLOAD:
            p += read_payload(h, p, end - p)
        elif h.carry_size:
            used = read_carried(h, p, end - p)
            p += used
        else:
            used = read_frame(h, p, end - p)
            if used == MORE and not h.failed:
                return carry(h, p, end - p)
            p += used
        if h.failed:
            return HTTP2_ERROR
    return HTTP2_OK


cdef int http2_eof(Http2* h) noexcept nogil:
    if h.failed:
        return HTTP2_ERROR
    h.failed = True
    h.error = H2_NO_ERROR
    h.reason = b"the peer closed the connection"
    if not h.ready:
        h.reason = b"the peer closed the connection before its SETTINGS"
    connection_end_streams(h, END_EOF, 0, 0)
    return HTTP2_OK if h.ready else HTTP2_ERROR


# ------------------------------------------------------------------------------------------------ unfinished frames

cdef int carry(Http2* h, const uint8_t* p, size_t size) noexcept nogil:
    cdef uint8_t* grown
    if h.carry_size + size > h.carry_capacity:
        grown = <uint8_t*>realloc(h.carry, h.carry_size + size)
        if grown == NULL:
            return connection_fail(h, H2_INTERNAL_ERROR, b"out of memory")
        h.carry = grown
        h.carry_capacity = <uint32_t>(h.carry_size + size)
    memcpy(h.carry + h.carry_size, p, size)
    h.carry_size += <uint32_t>size
    return HTTP2_OK


cdef size_t wanted(Http2* h) noexcept nogil:
    """Bytes of the carried frame with which the next step can be made."""
    cdef uint32_t length
    if h.stage == AT_PREFACE:
        return PREFACE_SIZE
    if h.carry_size < FRAME_HEADER_SIZE:
        return FRAME_HEADER_SIZE
    length = read_u24(h.carry)
    if h.carry[3] == FRAME_DATA:
        return FRAME_HEADER_SIZE + 1         # the length of the padding; without, the header sufficed
    return FRAME_HEADER_SIZE + length


cdef Py_ssize_t read_carried(Http2* h, const uint8_t* p, size_t size) noexcept nogil:
    """Completes the carried frame from the given bytes; returns how many of them it took."""
    cdef size_t n = wanted(h) - h.carry_size
    cdef Py_ssize_t used
    if n > size:
        n = size
    if carry(h, p, n) != HTTP2_OK:
        return 0
    used = read_frame(h, h.carry, h.carry_size)
    if used != MORE:
        h.carry_size = 0
        if h.carry_capacity > CARRY_KEEP:
            free(h.carry)
            h.carry = NULL
            h.carry_capacity = 0
    return <Py_ssize_t>n


# ------------------------------------------------------------------------------------------------ one frame

cdef Py_ssize_t read_preface(Http2* h, const uint8_t* p, size_t size) noexcept nogil:
    cdef size_t n = size if size < PREFACE_SIZE else PREFACE_SIZE
    if memcmp(p, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", n) != 0:
        connection_fail(h, H2_PROTOCOL_ERROR, b"the client did not begin with the HTTP/2 preface")
        return MORE
    if n < PREFACE_SIZE:
        return MORE
    h.stage = AT_FRAME
    return PREFACE_SIZE


cdef int check_first(Http2* h, const uint8_t* p, size_t size) noexcept nogil:
    """What comes first must be SETTINGS; a server of another protocol is told from its first bytes."""
    if size >= 5 and memcmp(p, b"HTTP/", 5) == 0:
        return connection_fail(h, H2_PROTOCOL_ERROR, b"the peer answered HTTP/1.1")
    if size >= FRAME_HEADER_SIZE and (p[3] != FRAME_SETTINGS or p[4] & FLAG_ACK):
        return connection_fail(h, H2_PROTOCOL_ERROR, b"the first frame is not SETTINGS: the peer may not speak HTTP/2")
    return HTTP2_OK


cdef Py_ssize_t read_frame(Http2* h, const uint8_t* p, size_t size) noexcept nogil:
    """Takes one frame, or the header of one whose payload is streamed. Bytes taken, or MORE (also on an error)."""
    cdef uint32_t length, stream
    cdef int type
    if h.stage == AT_PREFACE:
        if h.role == HTTP2_SERVER:
            return read_preface(h, p, size)
        h.stage = AT_FRAME
    if not h.ready and check_first(h, p, size) != HTTP2_OK:
        return MORE
    if size < FRAME_HEADER_SIZE:
        return MORE
    length = read_u24(p)
    type = p[3]
    stream = read_u31(p + 5)
    if length > h.ours.max_frame_size:
        connection_fail(h, H2_FRAME_SIZE_ERROR, b"a frame larger than our SETTINGS_MAX_FRAME_SIZE")
        return MORE
    if h.block_stream and (type != FRAME_CONTINUATION or stream != h.block_stream):
        connection_fail(h, H2_PROTOCOL_ERROR, b"a header block was interrupted by another frame")
        return MORE
    h.frame_type = type
    if type == FRAME_DATA:
        return begin_data(h, p, size, length, stream)
    if type > FRAME_CONTINUATION:
        h.stage = IN_PAYLOAD
        h.frame_left = h.pad_left = length
        h.frame_stream = 0
        h.frame_ends = False
        connection_spend(h)
        if length == 0:
            h.stage = AT_FRAME
        return FRAME_HEADER_SIZE
    if size < FRAME_HEADER_SIZE + length:
        return MORE
    take_frame(h, type, p[4], stream, p + FRAME_HEADER_SIZE, length)
    return FRAME_HEADER_SIZE + length


cdef int take_frame(Http2* h, int type, int flags, uint32_t stream, const uint8_t* payload, uint32_t size) noexcept nogil:
    if type == FRAME_HEADERS:
        return read_headers(h, flags, stream, payload, size)
    if type == FRAME_CONTINUATION:
        return read_continuation(h, flags, stream, payload, size)
    if type == FRAME_SETTINGS:
        return read_settings(h, flags, stream, payload, size)
    if type == FRAME_WINDOW_UPDATE:
        return read_window_update(h, stream, payload, size)
    if type == FRAME_RST_STREAM:
        return read_rst_stream(h, stream, payload, size)
    if type == FRAME_PING:
        return read_ping(h, flags, stream, payload, size)
    if type == FRAME_GOAWAY:
        return read_goaway(h, stream, payload, size)
    if type == FRAME_PRIORITY:
        return read_priority(h, stream, payload, size)
    return connection_fail(h, H2_PROTOCOL_ERROR, b"PUSH_PROMISE, and push is disabled")


# ------------------------------------------------------------------------------------------------ DATA

cdef Py_ssize_t begin_data(Http2* h, const uint8_t* p, size_t size, uint32_t length, uint32_t stream) noexcept nogil:
    """Judges a DATA frame by its header; its payload is then streamed."""
    cdef uint32_t pad = 0
    cdef Py_ssize_t used = FRAME_HEADER_SIZE
    cdef Http2Stream* s
    if stream == 0:
        connection_fail(h, H2_PROTOCOL_ERROR, b"DATA on stream 0")
        return MORE
    h.frame_left = length
    if p[4] & FLAG_PADDED:
        if length == 0:
            connection_fail(h, H2_FRAME_SIZE_ERROR, b"padded DATA without room for the length of its padding")
            return MORE
        if size == FRAME_HEADER_SIZE:
            return MORE
        pad = p[FRAME_HEADER_SIZE]
        if pad >= length:
            connection_fail(h, H2_PROTOCOL_ERROR, b"padding as long as its DATA frame")
            return MORE
        h.frame_left -= 1
        used += 1
    h.pad_left = pad
    h.frame_ends = p[4] & FLAG_END_STREAM
    h.frame_stream = 0
    h.stage = IN_PAYLOAD
    s = streams_find(&h.streams, stream)
    if take_window(h, length) != HTTP2_OK:
        return MORE
    if s == NULL:
        if data_on_no_stream(h, stream, h.frame_left - pad) != HTTP2_OK:
            return MORE
    elif check_data(h, s, length, h.frame_left - pad) != HTTP2_OK:
        return MORE
    if h.frame_left == 0:
        end_data(h)
    return used


cdef inline void stall(Http2* h) noexcept nogil:
    """The peer has used up a window; it waits until the WINDOW_UPDATE that is queued is written."""
    if h.stalled_since < 0:
        h.stalled_since = h.now_ns


cdef inline int take_window(Http2* h, uint32_t length) noexcept nogil:
    """The connection's window: taken, and given back when half of it is used. Dropped frames count, too."""
    cdef int64_t taken
    h.received += length
    taken = h.received
    if h.received > h.receive_limit:
        return connection_fail(h, H2_FLOW_CONTROL_ERROR, b"DATA beyond the connection's window")
    if h.update_mark and taken + h.returning >= h.receive_limit:
        stall(h)
    if taken * 2 < h.receive_limit or taken == 0 or h.options.flags & HTTP2_NO_TOP_UP:
        return HTTP2_OK
    if http2_window_update(h, 0, <uint32_t>taken) != HTTP2_OK:
        return HTTP2_ERROR
    if taken + h.returning >= h.receive_limit - taken:
        stall(h)
    h.receive_limit -= taken                 # what was returned counts no longer, on both sides
    h.received = 0
    h.returning += taken
    return HTTP2_OK


cdef inline int take_stream_window(Http2* h, Http2Stream* s, uint32_t length) noexcept nogil:
    cdef int64_t window = h.ours.initial_window
    cdef int32_t taken
    if s.received + <int64_t>length > window:
        return stream_fail(h, s, H2_FLOW_CONTROL_ERROR, b"DATA beyond the stream's window")
    s.received += <int32_t>length
    taken = s.received
    if h.frame_ends:
        return HTTP2_OK
    if s.returning_epoch != h.update_epoch:
        s.returning_epoch = h.update_epoch
        s.returning = 0
    if h.update_mark and s.returning and taken + <int64_t>s.returning >= window:
        stall(h)
    if taken * <int64_t>2 < h.newest.initial_window or taken <= 0 or h.options.flags & HTTP2_NO_TOP_UP:
        return HTTP2_OK
    if http2_window_update(h, <int32_t>s.id, <uint32_t>taken) != HTTP2_OK:
        return HTTP2_ERROR
    if taken + <int64_t>s.returning >= window:
        stall(h)
    s.returning += taken
    return HTTP2_OK


cdef int data_on_no_stream(Http2* h, uint32_t stream, uint32_t content) noexcept nogil:
    cdef int gone
    if not stream & 1 or stream > h.streams.highest:
        return connection_fail(h, H2_PROTOCOL_ERROR, b"DATA on an idle stream")
    gone = streams_gone(&h.streams, stream)
    if gone == GONE_NEVER:
        return connection_fail(h, H2_PROTOCOL_ERROR, b"DATA on a stream that was never opened")
    if gone == GONE_ENDED:
        return connection_fail(h, H2_STREAM_CLOSED, b"DATA behind END_STREAM")
    if content == 0 and connection_spend(h) != HTTP2_OK:
        return HTTP2_ERROR
    return connection_reset(h, stream, H2_STREAM_CLOSED) if gone == GONE_RESET_BY_PEER else HTTP2_OK


cdef inline int check_data(Http2* h, Http2Stream* s, uint32_t length, uint32_t content) noexcept nogil:
    """The rules of DATA on an open stream; a stream that broke one is reset, and the payload then dropped."""
    cdef uint32_t id = s.id
    if s.flags & STREAM_REMOTE_END:
        return stream_fail(h, s, H2_STREAM_CLOSED, b"DATA behind END_STREAM")
    if take_stream_window(h, s, length) != HTTP2_OK:
        return HTTP2_ERROR
    if s.id != id:
        return HTTP2_OK                      # over its window: it has been reset
    if not s.flags & STREAM_HEADERS:
        return stream_fail(h, s, H2_PROTOCOL_ERROR, b"DATA before HEADERS")
    if content:
        if s.flags & STREAM_NO_CONTENT:
            return stream_fail(h, s, H2_PROTOCOL_ERROR, b"DATA in an answer that has no content")
        if s.content_left >= 0:
            if content > s.content_left:
                return stream_fail(h, s, H2_PROTOCOL_ERROR, b"more DATA than content-length")
            s.content_left -= content
        connection_earn(h, 1)
    elif not h.frame_ends and connection_spend(h) != HTTP2_OK:
        return HTTP2_ERROR
    h.frame_stream = id
    return HTTP2_OK


cdef Py_ssize_t read_payload(Http2* h, const uint8_t* p, size_t size) noexcept nogil:
    """What is there of a streamed payload: content to the sink, padding dropped. Bytes taken."""
    cdef size_t content = h.frame_left - h.pad_left
    cdef size_t rest
    cdef Http2Stream* s
    if content > size:
        content = size
    if content and h.frame_stream:
        s = streams_find(&h.streams, h.frame_stream)
        if s != NULL:                        # the sink may have cancelled it in the middle of the frame
            h.sink.on_data(h.sink.ctx, s.user, p, content)
    h.frame_left -= <uint32_t>content
    rest = size - content
    if rest > h.frame_left:
        rest = h.frame_left
    h.frame_left -= <uint32_t>rest
    h.pad_left -= <uint32_t>rest
    if h.frame_left == 0:
        end_data(h)
    return content + rest


cdef inline void end_data(Http2* h) noexcept nogil:
    h.stage = AT_FRAME
    if h.frame_ends and h.frame_stream:
        remote_ended(h, h.frame_stream)
