"""The sending half of an HTTP/2 connection: all that is queued, and how bodies share the peer's windows."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from posix.uio cimport iovec

from llmgen.wire.hpack cimport HPACK_DEFAULT_TABLE_SIZE, hpack_decoder_set_max_table_size, hpack_put_table_update
from llmgen.wire.http2_connection cimport (
    HTTP2_BLOCKED, HTTP2_CLIENT, HTTP2_CLOSING, HTTP2_ERROR, HTTP2_EXHAUSTED, HTTP2_FULL, HTTP2_HEAD, HTTP2_NO_MEMORY,
    HTTP2_NO_STREAM, HTTP2_OK, HTTP2_SERVER, UNLIMITED, Http2Options, connection_earn, connection_end_streams,
    connection_fail, connection_put)
from llmgen.wire.http2_frames cimport (
    FLAG_END_HEADERS, FLAG_END_STREAM, FRAME_CONTINUATION, FRAME_DATA, FRAME_GOAWAY, FRAME_HEADER_SIZE, FRAME_HEADERS,
    FRAME_PING, FRAME_RST_STREAM, FRAME_SETTINGS, FRAME_SIZE_MIN, FRAME_WINDOW_UPDATE, H2_INTERNAL_ERROR, PREFACE_SIZE,
    SETTING_ENABLE_PUSH, SETTING_HEADER_TABLE_SIZE, SETTING_INITIAL_WINDOW_SIZE, SETTING_MAX_CONCURRENT_STREAMS,
    SETTING_MAX_FRAME_SIZE, SETTING_MAX_HEADER_LIST_SIZE, STREAM_ID_MAX, WINDOW_DEFAULT, WINDOW_MAX, write_frame_header, write_u16,
    write_u32)
from llmgen.wire.http2_output cimport (
    OUTPUT_COPY_BELOW, Http2Mark, output_commit, output_gather, output_lend, output_mark, output_passed, output_reserve,
    output_sent)
from llmgen.wire.http2_streams cimport (
    GONE_ENDED, GONE_RESET_BY_US, STREAM_HEAD, STREAM_LOCAL_END, STREAM_REMOTE_END, Http2Body, body_append, body_free,
    body_new, heap_push, heap_remove, streams_at, streams_close, streams_find, streams_open)


cdef enum:
    FRAMED_AHEAD = 262144        # bytes framed before the first of them is written: enough for one writev, and what
                                 # is framed cannot be taken back when its stream is cancelled
    DATA_FRAME_MOST = 65536      # of a peer that takes more: other streams wait behind a frame
    TABLE_UPDATE_MOST = 12       # hpack_put_table_update
    EARNED_BY_HEADERS = 6        # WINDOW_UPDATE, RST_STREAM, PING that a well-behaved peer may send for a request
    EARNED_BY_DATA = 3           # and for a DATA frame of ours,
    EARNED_BY_DATA_SHIFT = 10    # with one more for each KiB in it: some return window in small pieces
    SETTINGS_MOST = 32           # pairs in one frame of ours


cdef int http2_open(Http2* h) noexcept nogil:
    cdef uint32_t pairs[12]
    cdef int n = 0
    cdef const Http2Options* o = &h.options
    cdef uint8_t* p
    if h.opened:
        return HTTP2_OK
    h.opened = True
    if h.role == HTTP2_CLIENT:
        p = output_reserve(&h.output, PREFACE_SIZE)
        if p == NULL:
            return connection_fail(h, H2_INTERNAL_ERROR, b"out of memory")
        memcpy(p, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", PREFACE_SIZE)
        output_commit(&h.output, PREFACE_SIZE)
        n = add_setting(pairs, n, SETTING_ENABLE_PUSH, 0, UNLIMITED)
    else:
        n = add_setting(pairs, n, SETTING_MAX_CONCURRENT_STREAMS, o.max_streams, UNLIMITED)
    n = add_setting(pairs, n, SETTING_HEADER_TABLE_SIZE, o.header_table_size, HPACK_DEFAULT_TABLE_SIZE)
    n = add_setting(pairs, n, SETTING_INITIAL_WINDOW_SIZE, o.initial_window, WINDOW_DEFAULT)
    n = add_setting(pairs, n, SETTING_MAX_FRAME_SIZE, o.max_frame_size, FRAME_SIZE_MIN)
    n = add_setting(pairs, n, SETTING_MAX_HEADER_LIST_SIZE, o.max_header_list_size, UNLIMITED)
    if http2_settings(h, pairs, n) != HTTP2_OK:
        return HTTP2_ERROR
    if o.connection_window > WINDOW_DEFAULT:
        return http2_window_update(h, 0, o.connection_window - WINDOW_DEFAULT)
    return HTTP2_OK


cdef int add_setting(uint32_t* pairs, int n, uint32_t id, uint32_t value, uint32_t default) noexcept nogil:
    if value == default:
        return n
    pairs[2 * n] = id
    pairs[2 * n + 1] = value
    return n + 1


cdef int out_of_memory(Http2* h) noexcept nogil:
    return connection_fail(h, H2_INTERNAL_ERROR, b"out of memory")


cdef int put_headers(Http2* h, uint32_t stream, const uint8_t* block, size_t size, bint end) noexcept nogil:
    """HEADERS and as many CONTINUATION as the peer's frame size asks for."""
    cdef uint32_t most = h.peer.max_frame_size
    cdef size_t frames = (size + TABLE_UPDATE_MOST) // most + 1
    cdef uint8_t* p = output_reserve(&h.output, size + TABLE_UPDATE_MOST + frames * FRAME_HEADER_SIZE)
    cdef uint8_t* header = p
    cdef size_t updates, part
    cdef int type = FRAME_HEADERS
    cdef int flags = FLAG_END_STREAM if end else 0
    if p == NULL:
        return out_of_memory(h)
    p += FRAME_HEADER_SIZE
    updates = hpack_put_table_update(&h.encoder, p, TABLE_UPDATE_MOST)
    p += updates
    while True:
        part = size if size <= most - updates else most - updates
        if part:
            memcpy(p, block, part)
        write_frame_header(header, <uint32_t>(updates + part), type,
                           flags | (FLAG_END_HEADERS if part == size else 0), stream)
        output_commit(&h.output, FRAME_HEADER_SIZE + updates + part)
        size -= part
        if size == 0:
            return HTTP2_OK
        block += part
        header = p + part
        p = header + FRAME_HEADER_SIZE
        updates = 0
        type = FRAME_CONTINUATION
        flags = 0


cdef int32_t http2_submit(Http2* h, uint64_t user, const uint8_t* block, size_t block_size, const iovec* body,
                          int body_count, uint64_t body_bytes, int flags) noexcept nogil:
    cdef Http2Stream* s
    cdef Http2Body* b = NULL
    if h.failed or h.goaway_received or h.goaway_sent or http2_open(h) != HTTP2_OK:
        return HTTP2_CLOSING
    if h.next_id > STREAM_ID_MAX:
        return HTTP2_EXHAUSTED
    if h.streams.count >= h.peer.max_streams or h.streams.count >= h.options.max_streams:
        return HTTP2_FULL
    if body_bytes:
        b = body_new(body, body_count, h.next_order)
        if b == NULL:
            return HTTP2_NO_MEMORY
    s = streams_open(&h.streams, h.next_id)
    if s == NULL:
        if b != NULL:
            body_free(b)
        return HTTP2_NO_MEMORY
    h.next_id += 2
    h.next_order += 1
    s.user = user
    s.send_window = <int32_t>h.peer.initial_window
    if flags & HTTP2_HEAD:
        s.flags |= STREAM_HEAD
    if b != NULL:
        s.body = b
        b.stream = s
        b.end = True
    if put_headers(h, s.id, block, block_size, b == NULL) != HTTP2_OK:
        return HTTP2_NO_MEMORY
    connection_earn(h, EARNED_BY_HEADERS)
    if b == NULL:
        s.flags |= STREAM_LOCAL_END
        if output_mark(&h.output, s.id, user) < 0:
            out_of_memory(h)
            return HTTP2_NO_MEMORY
    elif send_window_opened(h, s) != HTTP2_OK:
        return HTTP2_NO_MEMORY
    return <int32_t>(h.next_id - 2)


cdef uint32_t http2_capacity(Http2* h) noexcept nogil:
    cdef uint32_t limit = h.peer.max_streams
    cdef uint32_t ids
    if not h.ready or h.failed or h.goaway_received or h.goaway_sent or h.next_id > STREAM_ID_MAX:
        return 0
    if limit > h.options.max_streams:
        limit = h.options.max_streams
    if h.streams.count >= limit:
        return 0
    limit -= h.streams.count
    ids = ((<uint32_t>STREAM_ID_MAX - h.next_id) >> 1) + 1
    return limit if limit < ids else ids


cdef int send_window_opened(Http2* h, Http2Stream* s) noexcept nogil:
    if s.body == NULL or s.body.heap_index or s.send_window <= 0:
        return HTTP2_OK
    if heap_push(&h.streams, s.body) < 0:
        return out_of_memory(h)
    return HTTP2_OK


cdef int put_body_bytes(Http2* h, Http2Body* b, size_t size) noexcept nogil:
    """Queues the next `size` bytes of the body: small pieces copied, large ones lent."""
    cdef size_t part
    cdef const uint8_t* data
    cdef uint8_t* p
    while size:
        part = b.spans[b.index].iov_len - b.offset
        if part > size:
            part = size
        data = <const uint8_t*>b.spans[b.index].iov_base + b.offset
        if part < OUTPUT_COPY_BELOW or b.owned != NULL:
            p = output_reserve(&h.output, part)
            if p == NULL:
                return -1
            memcpy(p, data, part)
            output_commit(&h.output, part)
        elif output_lend(&h.output, data, part) < 0:
            return -1
        size -= part
        b.left -= part
        b.offset += part
        if b.offset == b.spans[b.index].iov_len and b.left:
            b.index += 1
            b.offset = 0
    return 0


cdef int put_data_header(Http2* h, uint32_t stream, uint32_t size, bint end) noexcept nogil:
    cdef uint8_t* p = output_reserve(&h.output, FRAME_HEADER_SIZE)
    if p == NULL:
        return out_of_memory(h)
    write_frame_header(p, size, FRAME_DATA, FLAG_END_STREAM if end else 0, stream)
    output_commit(&h.output, FRAME_HEADER_SIZE)
    return HTTP2_OK


cdef int local_ended(Http2* h, Http2Stream* s) noexcept nogil:
    """END_STREAM was queued: the stream is half-closed (local), or closed."""
    s.flags |= STREAM_LOCAL_END
    if output_mark(&h.output, s.id, s.user) < 0:
        return out_of_memory(h)
    if s.flags & STREAM_REMOTE_END:
        streams_close(&h.streams, s, GONE_ENDED)
    return HTTP2_OK


cdef int send_frame_of(Http2* h, Http2Body* b) noexcept nogil:
    """One DATA frame of the body that is first in the heap."""
    cdef Http2Stream* s = b.stream
    cdef int64_t n = s.send_window
    cdef bint last
    if n > h.send_window:
        n = h.send_window
    if n > h.peer.max_frame_size:
        n = h.peer.max_frame_size
    if n > DATA_FRAME_MOST:
        n = DATA_FRAME_MOST
    if <uint64_t>n > b.left:
        n = <int64_t>b.left
    last = <uint64_t>n == b.left
    if put_data_header(h, s.id, <uint32_t>n, last and b.end) != HTTP2_OK:
        return HTTP2_ERROR
    if put_body_bytes(h, b, <size_t>n) < 0:
        return out_of_memory(h)
    s.send_window -= <int32_t>n
    h.send_window -= n
    connection_earn(h, EARNED_BY_DATA + (<int>n >> EARNED_BY_DATA_SHIFT))
    if last:
        last = b.end
        heap_remove(&h.streams, b)
        body_free(b)
        s.body = NULL
        return local_ended(h, s) if last else HTTP2_OK
    if s.send_window <= 0:
        heap_remove(&h.streams, b)
    elif h.role == HTTP2_SERVER:             # answers take turns; requests go in due order
        heap_remove(&h.streams, b)
        b.order = h.next_order
        h.next_order += 1
        return send_window_opened(h, s)
    return HTTP2_OK


cdef int http2_pending(Http2* h, iovec* out, int most) noexcept nogil:
    while h.streams.heap_count and h.send_window > 0 and h.output.put - h.output.sent < FRAMED_AHEAD:
        if send_frame_of(h, h.streams.heap[0]) != HTTP2_OK:
            break
    return output_gather(&h.output, out, most)


cdef bint http2_wants_write(Http2* h) noexcept nogil:
    return h.output.put != h.output.sent or (h.streams.heap_count != 0 and h.send_window > 0)


cdef void windows_written(Http2* h) noexcept nogil:
    """The peer has been told of all the window that it has."""
    h.update_mark = 0
    h.update_epoch += 1
    h.returning = 0
    if h.stalled_since >= 0:
        if h.now_ns > h.stalled_since:
            h.blocked_ns += h.now_ns - h.stalled_since
        h.stalled_since = -1


cdef void http2_sent(Http2* h, size_t size) noexcept nogil:
    cdef Http2Mark mark
    output_sent(&h.output, size)
    if h.update_mark and h.output.sent >= h.update_mark:
        windows_written(h)
    while output_passed(&h.output, &mark):
        if h.sink.on_sent == NULL or h.failed:
            continue
        if h.role == HTTP2_SERVER or streams_find(&h.streams, mark.stream) != NULL:
            h.sink.on_sent(h.sink.ctx, mark.user)


cdef int http2_cancel(Http2* h, int32_t stream, uint32_t code) noexcept nogil:
    cdef Http2Stream* s = streams_find(&h.streams, <uint32_t>stream)
    cdef uint8_t payload[4]
    if s == NULL:
        return HTTP2_NO_STREAM
    streams_close(&h.streams, s, GONE_RESET_BY_US)
    connection_earn(h, EARNED_BY_HEADERS)    # frames that are under way to it look useless when they come
    write_u32(payload, code)
    return connection_put(h, FRAME_RST_STREAM, 0, <uint32_t>stream, payload, 4)


cdef int http2_set_user(Http2* h, int32_t stream, uint64_t user) noexcept nogil:
    cdef Http2Stream* s = streams_find(&h.streams, <uint32_t>stream)
    if s == NULL:
        return HTTP2_NO_STREAM
    s.user = user
    return HTTP2_OK


cdef int http2_send_headers(Http2* h, int32_t stream, const uint8_t* block, size_t size, bint end) noexcept nogil:
    cdef Http2Stream* s = streams_find(&h.streams, <uint32_t>stream)
    if s == NULL or s.flags & STREAM_LOCAL_END:
        return HTTP2_NO_STREAM
    if s.body != NULL:
        return HTTP2_BLOCKED
    if put_headers(h, s.id, block, size, end) != HTTP2_OK:
        return HTTP2_NO_MEMORY
    return local_ended(h, s) if end else HTTP2_OK


cdef int http2_send_data(Http2* h, int32_t stream, const uint8_t* data, size_t size, bint end) noexcept nogil:
    cdef Http2Stream* s = streams_find(&h.streams, <uint32_t>stream)
    cdef uint8_t* p
    if s == NULL or s.flags & STREAM_LOCAL_END or (s.body != NULL and s.body.end):
        return HTTP2_NO_STREAM
    if (s.body == NULL and <int64_t>size <= s.send_window and <int64_t>size <= h.send_window
            and size <= h.peer.max_frame_size):
        p = output_reserve(&h.output, FRAME_HEADER_SIZE + size)
        if p == NULL:
            return HTTP2_NO_MEMORY
        write_frame_header(p, <uint32_t>size, FRAME_DATA, FLAG_END_STREAM if end else 0, s.id)
        if size:
            memcpy(p + FRAME_HEADER_SIZE, data, size)
        output_commit(&h.output, FRAME_HEADER_SIZE + size)
        s.send_window -= <int32_t>size
        h.send_window -= <int64_t>size
        connection_earn(h, EARNED_BY_DATA)
        return local_ended(h, s) if end else HTTP2_OK
    return send_later(h, s, data, size, end)


cdef int send_later(Http2* h, Http2Stream* s, const uint8_t* data, size_t size, bint end) noexcept nogil:
    """Keeps a copy of what does not fit into the windows or one frame."""
    if s.body == NULL:
        if size == 0:            # only END_STREAM, with a negative window: it takes none
            if put_data_header(h, s.id, 0, end) != HTTP2_OK:
                return HTTP2_NO_MEMORY
            return local_ended(h, s) if end else HTTP2_OK
        s.body = body_new(NULL, 0, h.next_order)
        if s.body == NULL:
            return HTTP2_NO_MEMORY
        h.next_order += 1
        s.body.stream = s
    if size and body_append(s.body, data, size) < 0:
        return HTTP2_NO_MEMORY
    s.body.end = end
    return HTTP2_OK if send_window_opened(h, s) == HTTP2_OK else HTTP2_NO_MEMORY


cdef uint64_t http2_unsent(Http2* h, int32_t stream) noexcept nogil:
    cdef Http2Stream* s = streams_find(&h.streams, <uint32_t>stream)
    return s.body.left if s != NULL and s.body != NULL else 0


cdef void announce(Http2* h, uint32_t id, uint32_t value) noexcept nogil:
    """Until the peer acknowledges, the wider of old and new is what it may use."""
    if id == SETTING_HEADER_TABLE_SIZE:
        h.newest.header_table_size = value
        if value > h.ours.header_table_size:
            h.ours.header_table_size = value
            hpack_decoder_set_max_table_size(&h.decoder, value)
    elif id == SETTING_MAX_CONCURRENT_STREAMS:
        h.newest.max_streams = value
        if value > h.ours.max_streams:
            h.ours.max_streams = value
    elif id == SETTING_INITIAL_WINDOW_SIZE:
        h.newest.initial_window = value
        if value > h.ours.initial_window:
            h.ours.initial_window = value
    elif id == SETTING_MAX_FRAME_SIZE:
        h.newest.max_frame_size = value
        if value > h.ours.max_frame_size:
            h.ours.max_frame_size = value
    elif id == SETTING_MAX_HEADER_LIST_SIZE:
        h.newest.max_header_list_size = value
        h.decoder.max_list_size = value


cdef int http2_settings(Http2* h, const uint32_t* pairs, int count) noexcept nogil:
    cdef uint8_t payload[6 * SETTINGS_MOST]
    cdef int i
    if count > SETTINGS_MOST:
        return HTTP2_NO_MEMORY
    for i in range(count):
        write_u16(payload + 6 * i, pairs[2 * i])
        write_u32(payload + 6 * i + 2, pairs[2 * i + 1])
        announce(h, pairs[2 * i], pairs[2 * i + 1])
    h.unacknowledged += 1
    return connection_put(h, FRAME_SETTINGS, 0, 0, payload, 6 * count)


cdef int http2_window_update(Http2* h, int32_t stream, uint32_t increment) noexcept nogil:
    cdef uint8_t payload[4]
    cdef int64_t received
    cdef Http2Stream* s
    if stream == 0:
        h.receive_limit += increment
    else:
        s = streams_find(&h.streams, <uint32_t>stream)
        if s == NULL:
            return HTTP2_NO_STREAM
        received = s.received - <int64_t>increment
        s.received = <int32_t>(received if received > -WINDOW_MAX else -WINDOW_MAX)
    write_u32(payload, increment)
    if connection_put(h, FRAME_WINDOW_UPDATE, 0, <uint32_t>stream, payload, 4) != HTTP2_OK:
        return HTTP2_ERROR
    h.update_mark = h.output.put
    return HTTP2_OK


cdef int http2_ping(Http2* h, const uint8_t* payload) noexcept nogil:
    return connection_put(h, FRAME_PING, 0, 0, payload, 8)


cdef int http2_goaway(Http2* h, uint32_t last_stream, uint32_t code) noexcept nogil:
    cdef uint8_t payload[8]
    cdef uint32_t slot
    cdef Http2Stream* s
    h.goaway_sent = True
    h.goaway_promised = last_stream
    write_u32(payload, last_stream)
    write_u32(payload + 4, code)
    if h.role == HTTP2_SERVER:
        for slot in range(h.streams.chunk_count * 64):
            s = streams_at(&h.streams, slot)
            if s.id > last_stream:
                streams_close(&h.streams, s, GONE_RESET_BY_US)
    return connection_put(h, FRAME_GOAWAY, 0, 0, payload, 8)


cdef int http2_raw(Http2* h, const uint8_t* data, size_t size) noexcept nogil:
    cdef uint8_t* p = output_reserve(&h.output, size)
    if p == NULL:
        return HTTP2_NO_MEMORY
    memcpy(p, data, size)
    output_commit(&h.output, size)
    return HTTP2_OK
