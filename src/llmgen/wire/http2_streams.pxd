# The streams of one connection: a slab of small records at fixed addresses, a table that finds them by id, a heap of
# the bodies that may be sent, and what is remembered of the streams that are gone.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from posix.uio cimport iovec


cdef enum:
    BODY_INLINE = 8              # iovecs kept inside of a body; a prompt is a few shared blocks
    STREAMS_REMEMBERED = 16384   # closed streams whose end is known, by id; older ones are treated leniently


cdef enum:                       # Http2Stream.flags
    STREAM_HEADERS = 1           # the final header section was received
    STREAM_REMOTE_END = 2        # the peer has sent END_STREAM
    STREAM_LOCAL_END = 4         # we have queued END_STREAM
    STREAM_NO_CONTENT = 8        # answer to HEAD, 204 or 304: DATA must be empty, content-length is not checked
    STREAM_HEAD = 16             # the request's method is HEAD
    

cdef enum:                       # how a stream ended
    GONE_NEVER = 0               # it was never opened (server: the client skipped the id)
    GONE_ENDED = 1               # END_STREAM both ways
    GONE_RESET_BY_US = 2         # what the peer sent before it knew is dropped
    GONE_RESET_BY_PEER = 3
    GONE_LONG_AGO = 4            # not remembered any more


cdef struct Http2Body            # forward


# 56 bytes, and at most 32 in the table: what a stream costs while its answer comes in.
cdef struct Http2Stream:
    uint64_t user
    int64_t content_left         # bytes of content-length still to come; -1: no length was told
    Http2Body* body              # the part that is not yet framed, or NULL
    uint32_t id                  # 0: this record is free
    int32_t send_window          # may be negative (RFC 9113 6.9.2)
    int32_t received             # flow-controlled bytes that no WINDOW_UPDATE has returned yet
    int32_t returning            # bytes whose WINDOW_UPDATE is queued but not written, if returning_epoch is now's
    uint32_t returning_epoch
    uint32_t slot                # number of the record in the slab
    uint32_t next_free
    uint16_t flags               # STREAM_ bits
    uint8_t interim              # 1xx answers so far
    uint8_t spare


cdef struct Http2Body:
    uint64_t order               # bodies go out by it: submit order
    uint64_t left                # bytes that are not yet framed
    Http2Stream* stream
    uint32_t heap_index          # + 1; 0: not in the heap (the stream's window is used up)
    bint end                     # END_STREAM stands on the last frame
    iovec* spans                 # inline_spans, or malloc'ed when there are more
    uint32_t count
    uint32_t index               # of the span that is being sent
    size_t offset                # into it
    uint8_t* owned               # server: a copy that grows by http2_send_data; then spans[0] describes it
    size_t owned_capacity
    iovec inline_spans[BODY_INLINE]


cdef struct Http2Streams:
    Http2Stream** chunks         # of 64 records each
    uint32_t chunk_count
    uint32_t free                # head of the free list, slot + 1; 0: none
    uint32_t count               # open streams
    Http2Stream** table          # open addressing by id >> 1, linear probing, at most half full
    uint32_t table_slots         # a power of two, or 0
    Http2Stream* last            # found last, or NULL
    Http2Body** heap             # bodies whose stream has window, smallest order first
    uint32_t heap_count
    uint32_t heap_capacity
    uint8_t* gone                # GONE_ of the last ids, by (id >> 1) % STREAMS_REMEMBERED; or NULL
    uint32_t highest             # largest id opened


cdef void streams_init(Http2Streams* t) noexcept nogil
cdef void streams_free(Http2Streams* t) noexcept nogil

cdef Http2Stream* streams_open(Http2Streams* t, uint32_t id) noexcept nogil
# A zeroed record in the table; ids grow. NULL without memory.

cdef Http2Stream* streams_probe(Http2Streams* t, uint32_t id) noexcept nogil

cdef inline Http2Stream* streams_find(Http2Streams* t, uint32_t id) noexcept nogil:
    """The open stream, or NULL."""
    if t.last != NULL and t.last.id == id:
        return t.last
    return streams_probe(t, id)

cdef void streams_close(Http2Streams* t, Http2Stream* s, int gone) noexcept nogil
# Frees the record and its body, and remembers how it ended.

cdef int streams_gone(Http2Streams* t, uint32_t id) noexcept nogil
# GONE_ of an id that is not open and not above `highest`.

cdef inline Http2Stream* streams_at(Http2Streams* t, uint32_t slot) noexcept nogil:
    """The record of a slot below chunk_count * 64; its id is 0 if it is free."""
    return t.chunks[slot >> 6] + (slot & 63)

cdef Http2Body* body_new(const iovec* spans, uint32_t count, uint64_t order) noexcept nogil
# Copies the iovecs, not the bytes. NULL without memory.

cdef int body_append(Http2Body* b, const uint8_t* data, size_t size) noexcept nogil
# Copies the bytes to the end of a body that was made without spans. 0, or -1 without memory.

cdef void body_free(Http2Body* b) noexcept nogil

cdef int heap_push(Http2Streams* t, Http2Body* b) noexcept nogil
cdef void heap_remove(Http2Streams* t, Http2Body* b) noexcept nogil
