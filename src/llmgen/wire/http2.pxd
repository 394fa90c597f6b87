# HTTP/2 (RFC 9113) without a socket: one Http2 a connection, client or server, plain memory, no Python.
#
#   client   http2_init(&h, &sink, HTTP2_CLIENT, NULL); http2_open(&h)
#            http2_submit(&h, user, block, size, spans, count, body_bytes, 0)      once http2_capacity(&h) > 0
#   server   http2_init(&h, &sink, HTTP2_SERVER, &options); http2_open(&h)
#            http2_send_headers / http2_send_data from or after on_headers, on_data, on_end
#   both     h.now_ns = stamp; http2_read(&h, data, size)          calls the sink
#            n = http2_pending(&h, iov, most); w = writev(fd, iov, n); h.now_ns = now; http2_sent(&h, w)
#
# The sink may call every function of this file but http2_init, http2_read, http2_eof, http2_sent and http2_free.
#
# Calls of the sink, client: those of sink.pxd for each submitted stream. `headers` begin with :status; `status` is its
# value; 1xx answers are consumed here. on_sent comes at most once and never after on_end.
# Calls of the sink, server: `user` is the stream's id until http2_set_user. on_headers has status 0 and the request's
# pseudo-headers in front; on_end(END_OK) says that the request is complete. If the stream dies before its answer has
# been queued to the end, on_end is called (once more) with what happened. on_sent: the answer's END_STREAM was written.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from posix.uio cimport iovec

from llmgen.wire.hpack cimport HpackDecoder, HpackEncoder
from llmgen.wire.http2_output cimport Http2Output
from llmgen.wire.http2_streams cimport Http2Stream, Http2Streams
from llmgen.wire.sink cimport Sink


cdef enum:
    HTTP2_CLIENT = 0
    HTTP2_SERVER = 1


cdef enum:
    HTTP2_OK = 0
    HTTP2_ERROR = -1             # the connection is lost: h.error is our code, http2_reason(&h) names the broken rule;
                                 # the GOAWAY that tells the peer is pending
    HTTP2_FULL = -2              # submit: as many streams are open as the peer (or max_streams) permits
    HTTP2_CLOSING = -3           # submit: GOAWAY was sent or received, or the connection is lost
    HTTP2_EXHAUSTED = -4         # submit: no stream ids are left
    HTTP2_NO_MEMORY = -5
    HTTP2_NO_STREAM = -6         # no such stream, or our side of it has ended
    HTTP2_BLOCKED = -7           # send_headers behind data that waits for window


cdef enum:                       # flags of http2_submit
    HTTP2_HEAD = 1               # the method is HEAD: the answer has no content


cdef enum:                       # flags of Http2Options
    HTTP2_NO_TOP_UP = 1          # windows are returned by http2_window_update only (faults of the simulator)


cdef struct Http2Options:        # what we announce; http2_options fills in the defaults of a role
    uint32_t initial_window      # of each stream; client 2**31 - 1: we never throttle a server that we measure
    uint32_t connection_window   # at least 65535
    uint32_t max_frame_size      # 16384 .. 2**24 - 1
    uint32_t max_header_list_size
    uint32_t header_table_size
    uint32_t max_streams         # server: MAX_CONCURRENT_STREAMS; client: most streams that we open ourselves
    uint32_t flags


cdef struct Http2Settings:       # of one side, as in force
    uint32_t header_table_size
    uint32_t max_streams
    uint32_t initial_window
    uint32_t max_frame_size
    uint32_t max_header_list_size


# Frames of the connection itself, for whoever wants to see them; every member may be NULL.
cdef struct Http2Watch:
    void* ctx
    void (*on_settings)(void* ctx, const uint8_t* payload, size_t size) noexcept nogil   # entries of 6 bytes, applied
    void (*on_goaway)(void* ctx, uint32_t last_stream, uint32_t code) noexcept nogil     # before its streams' on_end
    void (*on_ping)(void* ctx, const uint8_t* payload) noexcept nogil                    # 8 bytes, answered


cdef struct Http2:
    # set by the caller
    int64_t now_ns               # before http2_read: the read's stamp; before http2_sent: now. 0 always: no clock
    const Sink* sink
    const Http2Watch* watch      # or NULL

    # read by the caller
    int64_t blocked_ns           # time that a window we had announced was used up; 0 in a valid run
    uint32_t error               # Http2Code of the connection error, if http2_read said HTTP2_ERROR
    uint32_t goaway_code         # of the peer's last GOAWAY
    uint32_t goaway_last         # its last stream id; 2**31 - 1 without a GOAWAY
    bint ready                   # the peer's SETTINGS were received
    bint goaway_received
    bint goaway_sent
    bint failed                  # lost: error and reason say why
    int role

    # settings and windows
    Http2Options options
    Http2Settings peer           # as the peer announced
    Http2Settings ours           # as the peer knows them: the widest until all are acknowledged
    Http2Settings newest         # as last announced
    uint32_t unacknowledged      # SETTINGS frames of ours without ACK
    int64_t send_window          # of the connection, the peer's
    int64_t receive_limit        # of the connection, ours: bytes that may be outstanding
    int64_t received             # of them, not yet returned
    int64_t stalled_since        # now_ns when a window of ours was used up, -1
    uint64_t stall_mark          # position in the output that ends the stall

    # streams
    Http2Streams streams
    uint32_t next_id             # of ours; above 2**31 - 1: exhausted
    uint64_t next_order
    Http2Output output
    HpackDecoder decoder
    HpackEncoder encoder

    # the frame that is being read
    int stage                    # what the next byte is
    uint32_t frame_left          # bytes of the payload to come (streamed DATA)
    uint32_t pad_left            # of them padding
    uint32_t frame_stream
    uint32_t frame_flags
    uint8_t* carry               # an unfinished frame
    uint32_t carry_size
    uint32_t carry_capacity

    # the header block that is being read
    uint8_t* block               # fragments joined, when there is CONTINUATION
    uint32_t block_size
    uint32_t block_capacity
    uint32_t block_frames        # CONTINUATION frames so far
    uint32_t block_stream        # 0: none is open
    uint32_t block_flags         # END_STREAM of its HEADERS, and BLOCK_ bits

    # floods: each useless frame takes one, progress and time give back
    int64_t patience
    int64_t patience_ns          # when time last gave

    char reason_text[160]


cdef void http2_options(Http2Options* options, int role) noexcept nogil
# Defaults. Client: windows of 2**31 - 1, 16 KiB frames, 64 KiB header lists, no limit of its own on streams.

cdef int http2_init(Http2* h, const Sink* sink, int role, const Http2Options* options) noexcept nogil
# `sink` must live as long as h; options NULL: the defaults. HTTP2_OK or HTTP2_NO_MEMORY.

cdef void http2_free(Http2* h) noexcept nogil
# Gives back all memory; no sink is called. Harmless on a zeroed struct and when repeated.

cdef int http2_open(Http2* h) noexcept nogil
# Queues the preface (client), SETTINGS, and the WINDOW_UPDATE of the connection. Once.

cdef int http2_read(Http2* h, const uint8_t* data, size_t size) noexcept nogil
# All bytes of one read. HTTP2_OK, or HTTP2_ERROR: then every open stream has had its on_end(END_PROTOCOL).

cdef int http2_eof(Http2* h) noexcept nogil
# The peer closed: on_end(END_EOF) for every open stream. HTTP2_ERROR if the connection never became ready.

cdef int32_t http2_submit(Http2* h, uint64_t user, const uint8_t* block, size_t block_size, const iovec* body,
                          int body_count, uint64_t body_bytes, int flags) noexcept nogil
# Opens a stream and queues its HEADERS; the body follows as the peer's windows permit, bodies in order of submission.
# `block` is an HPACK block that uses no dynamic table (hpack_put). The iovecs are copied; the bytes they describe must
# stay as they are until on_sent, or, if the stream ends before it, until http2_pending says 0 or http2_free.
# The stream's id, or HTTP2_FULL, _CLOSING, _EXHAUSTED, _NO_MEMORY. Permitted before the peer's SETTINGS (RFC 9113 3.4).

cdef uint32_t http2_capacity(Http2* h) noexcept nogil
# Streams that may be opened now: 0 before the peer's SETTINGS, after GOAWAY, and when lost.

cdef int http2_pending(Http2* h, iovec* out, int most) noexcept nogil
# What is to be written, at most `most` (>= 1) entries; returns how many. Valid until the next call of any function.

cdef void http2_sent(Http2* h, size_t size) noexcept nogil
# The first `size` bytes of what http2_pending described were written. Calls on_sent.

cdef bint http2_wants_write(Http2* h) noexcept nogil
# http2_pending would find something.

cdef int http2_cancel(Http2* h, int32_t stream, uint32_t code) noexcept nogil
# RST_STREAM, both roles; the sink is not called any more for this stream. HTTP2_OK or HTTP2_NO_STREAM.

cdef const char* http2_reason(Http2* h) noexcept nogil
# One line of English: why the connection is lost, or "".


# What a server does besides. All but http2_send_data and http2_send_headers are of use to a client too.

cdef int http2_set_user(Http2* h, int32_t stream, uint64_t user) noexcept nogil

cdef int http2_send_headers(Http2* h, int32_t stream, const uint8_t* block, size_t size, bint end) noexcept nogil
# The answer's header section, an interim one, or trailers (end). `block` as in http2_submit.
# HTTP2_OK, HTTP2_NO_STREAM, HTTP2_BLOCKED (data is waiting for window), HTTP2_NO_MEMORY.

cdef int http2_send_data(Http2* h, int32_t stream, const uint8_t* data, size_t size, bint end) noexcept nogil
# Queues a copy of the data: at once as far as the peer's windows permit, the rest when they open.
# HTTP2_OK, HTTP2_NO_STREAM, HTTP2_NO_MEMORY.

cdef uint64_t http2_unsent(Http2* h, int32_t stream) noexcept nogil
# Bytes of the stream's body that wait for the peer's windows.

cdef int http2_settings(Http2* h, const uint32_t* pairs, int count) noexcept nogil
# SETTINGS with `count` pairs (id, value); ours change when the peer acknowledges. Values are sent as they are.

cdef int http2_window_update(Http2* h, int32_t stream, uint32_t increment) noexcept nogil
# Stream 0: the connection. Adds to what we permit when HTTP2_NO_TOP_UP is set.

cdef int http2_ping(Http2* h, const uint8_t* payload) noexcept nogil
# `payload` is 8 bytes.

cdef int http2_goaway(Http2* h, uint32_t last_stream, uint32_t code) noexcept nogil
# Streams above last_stream that a server has open are dropped without a call of the sink.

cdef int http2_raw(Http2* h, const uint8_t* data, size_t size) noexcept nogil
# Queues bytes as they are, between frames: faults.
