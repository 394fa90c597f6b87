# One HTTP/2 connection: its state, its limits, and what both halves (http2_receive, http2_send) do to it as a whole.
# Callers take everything from http2.pxd.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from llmgen.wire.hpack cimport HpackDecoder, HpackEncoder
from llmgen.wire.http2_output cimport Http2Output
from llmgen.wire.http2_streams cimport Http2Stream, Http2Streams
from llmgen.wire.sink cimport End, Sink


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
    bint opened                  # http2_open was called
    int role
    uint32_t goaway_promised     # the last stream id of our GOAWAY; 2**31 - 1 without one

    # settings and windows
    Http2Options options
    Http2Settings peer           # as the peer announced
    Http2Settings ours           # as the peer knows them: the widest until all are acknowledged
    Http2Settings newest         # as last announced
    uint32_t unacknowledged      # SETTINGS frames of ours without ACK
    int64_t send_window          # of the connection, the peer's
    int64_t receive_limit        # of the connection, ours: bytes that may be outstanding
    int64_t received             # of them, not yet returned
    int64_t returning            # bytes of the connection whose WINDOW_UPDATE is queued but not written
    uint64_t update_mark         # position in the output behind the last WINDOW_UPDATE
    uint32_t update_epoch        # grows whenever all WINDOW_UPDATEs have been written
    int64_t stalled_since        # now_ns when a window of ours was used up, as the peer sees it; -1

    # streams
    Http2Streams streams
    uint32_t next_id             # of ours; above 2**31 - 1: exhausted
    uint64_t next_order
    Http2Output output
    HpackDecoder decoder
    HpackEncoder encoder

    # the frame that is being read
    int stage                    # what the next byte is
    int frame_type               # of the frame whose events the sink is getting
    uint32_t frame_left          # bytes of the payload to come, when it is streamed
    uint32_t pad_left            # of them padding
    uint32_t frame_stream        # 0: the payload is dropped
    bint frame_ends              # DATA with END_STREAM
    uint8_t* carry               # an unfinished frame
    uint32_t carry_size
    uint32_t carry_capacity

    # the header block that is being read
    uint8_t* block               # fragments joined, when there is CONTINUATION
    uint32_t block_size
    uint32_t block_capacity
    uint32_t block_frames        # CONTINUATION frames so far
    uint32_t block_stream        # 0: none is open
    bint block_ends              # its HEADERS had END_STREAM
    bint block_depends_on_itself

    # floods: each useless frame takes one, progress and time give back
    int64_t patience
    int64_t patience_ns          # when time last gave

    const char* reason           # why the connection is lost; NULL
    const char* stream_reason    # why the last stream that we reset was malformed; NULL


cdef enum:
    UNLIMITED = 0xFFFFFFFF       # settings that have no limit until one is announced
    REPLIES_MAX = 4096           # of a peer that does not read; above: ENHANCE_YOUR_CALM. One 64 KiB read of PINGs fits
    PATIENCE_FIRST = 1000        # useless frames that a peer has free, and most that time gives back
    PATIENCE_MOST = 131072       # what progress can earn
    PATIENCE_PER_MS = 1


cdef int connection_fail(Http2* h, uint32_t code, const char* reason) noexcept nogil
# Connection error: queues GOAWAY, ends every stream (END_PROTOCOL). Always HTTP2_ERROR.

cdef void connection_end_streams(Http2* h, int end, uint32_t code, uint32_t above) noexcept nogil
# Closes the streams with ids greater than `above` and tells the sink.

cdef int connection_put(Http2* h, int type, int flags, uint32_t stream, const uint8_t* payload, uint32_t size) noexcept nogil
# Queues a frame. HTTP2_OK, or HTTP2_ERROR without memory.

cdef int connection_reply(Http2* h, int type, int flags, uint32_t stream, const uint8_t* payload, uint32_t size) noexcept nogil
# Queues a frame that the peer made us send. HTTP2_OK, or HTTP2_ERROR: it has too many unread ones.

cdef int connection_reset(Http2* h, uint32_t stream, uint32_t code) noexcept nogil
# Queues RST_STREAM as a reply.

cdef int stream_fail(Http2* h, Http2Stream* s, uint32_t code, const char* reason) noexcept nogil
# Stream error: RST_STREAM, on_end(END_MALFORMED, code). HTTP2_OK, or HTTP2_ERROR as above.

cdef int connection_impatient(Http2* h) noexcept nogil
# Out of patience: refills by time or fails.

cdef inline int connection_spend(Http2* h) noexcept nogil:
    """One useless frame. HTTP2_OK, or HTTP2_ERROR: a flood."""
    h.patience -= 1
    return HTTP2_OK if h.patience >= 0 else connection_impatient(h)


cdef inline void connection_earn(Http2* h, int frames) noexcept nogil:
    """Progress: the peer may send that many frames more that look useless (WINDOW_UPDATE, RST_STREAM)."""
    h.patience += frames
    if h.patience > PATIENCE_MOST:
        h.patience = PATIENCE_MOST


cdef void http2_options(Http2Options* options, int role) noexcept nogil
# Defaults. Client: windows of 2**31 - 1, 16 KiB frames, 64 KiB header lists, no limit of its own on streams.

cdef int http2_init(Http2* h, const Sink* sink, int role, const Http2Options* options) noexcept nogil
# `sink` must live as long as h; options NULL: the defaults. HTTP2_OK or HTTP2_NO_MEMORY.

cdef void http2_free(Http2* h) noexcept nogil
# Gives back all memory; no sink is called. Harmless on a zeroed struct and when repeated.

cdef const char* http2_reason(Http2* h) noexcept nogil
# One line of English: why the connection is lost, or "".
