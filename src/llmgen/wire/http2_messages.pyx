"""Header blocks of an HTTP/2 connection and the messages that they begin and end (RFC 9113 4.3, 8.1)."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from llmgen.wire.hpack cimport HPACK_NO_MEMORY, HPACK_OVER_LIMIT, hpack_decode, hpack_reason
from llmgen.wire.http2_connection cimport (
    HTTP2_CLIENT, HTTP2_ERROR, HTTP2_OK, Http2Stream, connection_earn, connection_fail, connection_reset,
    connection_spend, stream_fail)
from llmgen.wire.http2_fields cimport Http2Message, fields_request, fields_response, fields_trailers
from llmgen.wire.http2_frames cimport (
    FLAG_END_HEADERS, FLAG_END_STREAM, FLAG_PADDED, FLAG_PRIORITY, H2_CANCEL, H2_COMPRESSION_ERROR,
    H2_ENHANCE_YOUR_CALM, H2_FRAME_SIZE_ERROR, H2_INTERNAL_ERROR, H2_NO_ERROR, H2_PROTOCOL_ERROR, H2_REFUSED_STREAM,
    H2_STREAM_CLOSED, read_u31)
from llmgen.wire.http2_send cimport http2_cancel
from llmgen.wire.http2_streams cimport (
    GONE_ENDED, GONE_NEVER, GONE_RESET_BY_PEER, GONE_RESET_BY_US, STREAM_HEAD, STREAM_HEADERS, STREAM_LOCAL_END,
    STREAM_NO_CONTENT, STREAM_REMOTE_END, streams_close, streams_find, streams_gone, streams_open)
from llmgen.wire.sink cimport END_OK


cdef enum:
    INTERIM_MOST = 100           # 1xx answers of a stream: a keep-alive every second for the longest first token
    EARNED_BY_ANSWER = 4         # PING, RST_STREAM(NO_ERROR) and the like that may go with an answer
    CONTINUATIONS_MOST = 512     # frames a header block: one of 272 KiB in the smallest sensible pieces
    BLOCK_SLACK = 16384          # a block may be this much larger than four times the list that it is decoded to:
                                 # Huffman can expand a byte to 30 bits


cdef int read_headers(Http2* h, int flags, uint32_t stream, const uint8_t* p, uint32_t size) noexcept nogil:
    cdef uint32_t pad = 0
    cdef uint32_t at = 0
    if stream == 0:
        return connection_fail(h, H2_PROTOCOL_ERROR, b"HEADERS on stream 0")
    if not stream & 1:
        return connection_fail(h, H2_PROTOCOL_ERROR, b"HEADERS on an even stream: push is disabled")
    if h.role == HTTP2_CLIENT and stream > h.streams.highest:
        return connection_fail(h, H2_PROTOCOL_ERROR, b"HEADERS on an idle stream")
    at = (1 if flags & FLAG_PADDED else 0) + (5 if flags & FLAG_PRIORITY else 0)
    if size < at:
        return connection_fail(h, H2_FRAME_SIZE_ERROR, b"HEADERS too short for its flags")
    if flags & FLAG_PADDED:
        pad = p[0]
        if pad > size - at:
            return connection_fail(h, H2_PROTOCOL_ERROR, b"padding longer than its HEADERS frame")
    h.block_ends = flags & FLAG_END_STREAM
    h.block_depends_on_itself = flags & FLAG_PRIORITY and read_u31(p + at - 5) == stream
    if flags & FLAG_END_HEADERS:
        return take_block(h, stream, p + at, size - at - pad)
    h.block_stream = stream
    h.block_frames = 0
    h.block_size = 0
    return add_to_block(h, p + at, size - at - pad)


cdef int add_to_block(Http2* h, const uint8_t* p, uint32_t size) noexcept nogil:
    cdef uint64_t most = <uint64_t>h.decoder.max_list_size * 4 + BLOCK_SLACK
    cdef uint32_t capacity
    cdef uint8_t* grown
    if h.block_size + <uint64_t>size > most:
        return connection_fail(h, H2_ENHANCE_YOUR_CALM, b"a header block without end")
    if h.block_size + size > h.block_capacity:
        capacity = (h.block_size + size) * 2
        grown = <uint8_t*>realloc(h.block, capacity)
        if grown == NULL:
            return connection_fail(h, H2_INTERNAL_ERROR, b"out of memory")
        h.block = grown
        h.block_capacity = capacity
    if size:
        memcpy(h.block + h.block_size, p, size)
    h.block_size += size
    return HTTP2_OK


cdef int read_continuation(Http2* h, int flags, uint32_t stream, const uint8_t* p, uint32_t size) noexcept nogil:
    cdef int result
    if h.block_stream == 0:
        return connection_fail(h, H2_PROTOCOL_ERROR, b"CONTINUATION without HEADERS before it")
    h.block_frames += 1
    if h.block_frames > CONTINUATIONS_MOST:
        return connection_fail(h, H2_ENHANCE_YOUR_CALM, b"a header block of too many CONTINUATION frames")
    if add_to_block(h, p, size) != HTTP2_OK:
        return HTTP2_ERROR
    if not flags & FLAG_END_HEADERS:
        return HTTP2_OK
    h.block_stream = 0
    result = take_block(h, stream, h.block, h.block_size)
    free(h.block)                            # rare, and it may have been large
    h.block = NULL
    h.block_size = h.block_capacity = 0
    return result


cdef int take_block(Http2* h, uint32_t stream, const uint8_t* block, uint32_t size) noexcept nogil:
    """A complete header block. It is decoded whatever becomes of its stream: the dynamic table is the connection's."""
    cdef Http2Stream* s = streams_find(&h.streams, stream)
    cdef int gone = GONE_NEVER
    cdef int result
    if s == NULL and stream <= h.streams.highest:
        gone = streams_gone(&h.streams, stream)
        if gone == GONE_ENDED:
            return connection_fail(h, H2_STREAM_CLOSED, b"HEADERS behind END_STREAM")
        if gone == GONE_NEVER:
            return connection_fail(h, H2_PROTOCOL_ERROR, b"HEADERS on a stream below one that is open")
    result = hpack_decode(&h.decoder, block, size)
    if result < 0:
        return connection_fail(h, H2_INTERNAL_ERROR if result == HPACK_NO_MEMORY else H2_COMPRESSION_ERROR,
                               hpack_reason(result))
    if s != NULL:
        return take_section(h, s, result)
    if gone == GONE_NEVER:
        return take_request(h, stream, result)
    if connection_spend(h) != HTTP2_OK:
        return HTTP2_ERROR
    return connection_reset(h, stream, H2_STREAM_CLOSED) if gone == GONE_RESET_BY_PEER else HTTP2_OK


cdef int take_section(Http2* h, Http2Stream* s, int result) noexcept nogil:
    """A header section of an open stream: an answer's head, an interim one, or trailers."""
    if h.block_depends_on_itself:
        return stream_fail(h, s, H2_PROTOCOL_ERROR, b"a stream that depends on itself")
    if s.flags & STREAM_REMOTE_END:
        return stream_fail(h, s, H2_STREAM_CLOSED, b"HEADERS behind END_STREAM")
    if result == HPACK_OVER_LIMIT:
        return stream_fail(h, s, H2_PROTOCOL_ERROR, b"a header list larger than our SETTINGS_MAX_HEADER_LIST_SIZE")
    if s.flags & STREAM_HEADERS:
        return take_trailers(h, s)
    return take_response(h, s)


cdef int take_response(Http2* h, Http2Stream* s) noexcept nogil:
    cdef Http2Message m
    cdef uint32_t id = s.id
    cdef const char* wrong = fields_response(h.decoder.headers, h.decoder.count, &m)
    if wrong != NULL:
        return stream_fail(h, s, H2_PROTOCOL_ERROR, wrong)
    if m.status < 200:
        if h.block_ends:
            return stream_fail(h, s, H2_PROTOCOL_ERROR, b"a 1xx answer with END_STREAM")
        s.interim += 1
        if s.interim > INTERIM_MOST:
            return stream_fail(h, s, H2_ENHANCE_YOUR_CALM, b"a flood of 1xx answers")
        return HTTP2_OK
    s.flags |= STREAM_HEADERS
    s.content_left = m.content_length
    if s.flags & STREAM_HEAD or m.status == 204 or m.status == 304:
        s.flags |= STREAM_NO_CONTENT
    if h.block_ends and s.content_left > 0 and not s.flags & STREAM_NO_CONTENT:
        return stream_fail(h, s, H2_PROTOCOL_ERROR, b"less DATA than content-length")
    connection_earn(h, EARNED_BY_ANSWER)
    h.sink.on_headers(h.sink.ctx, s.user, m.status, h.decoder.headers, h.decoder.count)
    return remote_ended(h, id) if h.block_ends else HTTP2_OK


cdef int take_trailers(Http2* h, Http2Stream* s) noexcept nogil:
    cdef uint32_t id = s.id
    cdef const char* wrong
    if not h.block_ends:
        return stream_fail(h, s, H2_PROTOCOL_ERROR, b"trailers without END_STREAM")
    wrong = fields_trailers(h.decoder.headers, h.decoder.count)
    if wrong != NULL:
        return stream_fail(h, s, H2_PROTOCOL_ERROR, wrong)
    if s.content_left > 0 and not s.flags & STREAM_NO_CONTENT:
        return stream_fail(h, s, H2_PROTOCOL_ERROR, b"less DATA than content-length")
    if h.sink.on_trailers != NULL:
        h.sink.on_trailers(h.sink.ctx, s.user, h.decoder.headers, h.decoder.count)
    return remote_ended(h, id)


cdef int refuse_request(Http2* h, uint32_t stream, uint32_t code) noexcept nogil:
    """Opened and closed at once, so that what follows on the stream is known to be dropped."""
    cdef Http2Stream* s = streams_open(&h.streams, stream)
    if s == NULL:
        return connection_fail(h, H2_INTERNAL_ERROR, b"out of memory")
    streams_close(&h.streams, s, GONE_RESET_BY_US)
    return connection_reset(h, stream, code) if code else HTTP2_OK


cdef int take_request(Http2* h, uint32_t stream, int result) noexcept nogil:
    cdef Http2Message m
    cdef Http2Stream* s
    cdef const char* wrong
    if h.goaway_sent and stream > h.goaway_promised:
        return refuse_request(h, stream, 0)
    if h.streams.count >= h.ours.max_streams:
        return refuse_request(h, stream, H2_REFUSED_STREAM)
    wrong = fields_request(h.decoder.headers, h.decoder.count, &m)
    if result == HPACK_OVER_LIMIT:
        wrong = b"a header list larger than our SETTINGS_MAX_HEADER_LIST_SIZE"
    elif h.block_depends_on_itself:
        wrong = b"a stream that depends on itself"
    elif wrong == NULL and h.block_ends and m.content_length > 0:
        wrong = b"less DATA than content-length"
    if wrong != NULL:
        h.stream_reason = wrong
        return refuse_request(h, stream, H2_PROTOCOL_ERROR)
    s = streams_open(&h.streams, stream)
    if s == NULL:
        return connection_fail(h, H2_INTERNAL_ERROR, b"out of memory")
    s.user = stream
    s.send_window = <int32_t>h.peer.initial_window
    s.content_left = m.content_length
    s.flags |= STREAM_HEADERS
    h.sink.on_headers(h.sink.ctx, s.user, 0, h.decoder.headers, h.decoder.count)
    return remote_ended(h, stream) if h.block_ends else HTTP2_OK


cdef int remote_ended(Http2* h, uint32_t stream) noexcept nogil:
    """The peer's END_STREAM: the message is complete, or malformed because its content is not."""
    cdef Http2Stream* s = streams_find(&h.streams, stream)
    cdef uint64_t user
    if s == NULL:
        return HTTP2_OK
    if s.content_left > 0 and not s.flags & STREAM_NO_CONTENT:
        return stream_fail(h, s, H2_PROTOCOL_ERROR, b"less DATA than content-length")
    s.flags |= STREAM_REMOTE_END
    user = s.user
    if h.role == HTTP2_CLIENT:
        if not s.flags & STREAM_LOCAL_END:
            # Answered before it was asked to the end (RFC 9113 8.1): the rest of the body is of no use to anybody.
            http2_cancel(h, <int32_t>stream, H2_CANCEL)
        else:
            streams_close(&h.streams, s, GONE_ENDED)
        h.sink.on_end(h.sink.ctx, user, END_OK, H2_NO_ERROR)
        return HTTP2_OK
    h.sink.on_end(h.sink.ctx, user, END_OK, H2_NO_ERROR)
    s = streams_find(&h.streams, stream)
    if s != NULL and s.flags & STREAM_LOCAL_END:
        streams_close(&h.streams, s, GONE_ENDED)
    return HTTP2_OK
