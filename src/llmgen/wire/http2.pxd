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

from llmgen.wire.http2_connection cimport (
    HTTP2_BLOCKED, HTTP2_CLIENT, HTTP2_CLOSING, HTTP2_ERROR, HTTP2_EXHAUSTED, HTTP2_FULL, HTTP2_HEAD, HTTP2_NO_MEMORY,
    HTTP2_NO_STREAM, HTTP2_NO_TOP_UP, HTTP2_OK, HTTP2_SERVER, Http2, Http2Options, Http2Settings, Http2Watch,
    http2_free, http2_init, http2_options, http2_reason)
from llmgen.wire.http2_frames cimport Http2Code, Http2Setting
from llmgen.wire.http2_receive cimport http2_eof, http2_read
from llmgen.wire.http2_send cimport (
    http2_cancel, http2_capacity, http2_goaway, http2_open, http2_pending, http2_ping, http2_raw,
    http2_send_data, http2_send_headers, http2_sent, http2_set_user, http2_settings, http2_submit, http2_unsent, http2_wants_write,
    http2_window_update)
