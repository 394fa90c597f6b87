"""The native loops that test_codecs_http2.py measures: a sink that only counts."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from posix.uio cimport iovec

from llmgen.wire.http2 cimport *
from llmgen.wire.sink cimport Header, Sink


cdef struct Counts:
    uint64_t heads
    uint64_t pieces
    uint64_t bytes
    uint64_t ends


cdef void on_headers(void* ctx, uint64_t user, int status, const Header* headers, size_t count) noexcept nogil:
    (<Counts*>ctx).heads += 1


cdef void on_data(void* ctx, uint64_t user, const uint8_t* data, size_t size) noexcept nogil:
    (<Counts*>ctx).pieces += 1
    (<Counts*>ctx).bytes += size


cdef void on_end(void* ctx, uint64_t user, int end, uint32_t code) noexcept nogil:
    (<Counts*>ctx).ends += 1


cdef class Loop:
    cdef Http2 client
    cdef Sink sink
    cdef Counts counts

    def __cinit__(self):
        self.sink.ctx = &self.counts
        self.sink.on_headers = on_headers
        self.sink.on_data = on_data
        self.sink.on_end = on_end
        http2_init(&self.client, &self.sink, HTTP2_CLIENT, NULL)
        http2_open(&self.client)

    def __dealloc__(self):
        http2_free(&self.client)

    cdef size_t drain(self) noexcept nogil:
        cdef iovec out[16]
        cdef int n, i
        cdef size_t size
        cdef size_t whole = 0
        while True:
            n = http2_pending(&self.client, out, 16)
            if n == 0:
                return whole
            size = 0
            for i in range(n):
                size += out[i].iov_len
            http2_sent(&self.client, size)
            whole += size

    def read(self, bytes content, size_t piece):
        """Feeds the data in reads of `piece` bytes; (heads, pieces of content, bytes, ends) so far."""
        cdef size_t at = 0
        cdef size_t size
        cdef size_t whole = len(content)
        cdef const uint8_t* data = content
        with nogil:
            while at < whole:
                size = whole - at if whole - at < piece else piece
                if http2_read(&self.client, data + at, size) != HTTP2_OK:
                    break
                at += size
            self.drain()
        return self.counts.heads, self.counts.pieces, self.counts.bytes, self.counts.ends

    def submit(self, bytes head, bytes body, int count):
        """Submits requests; bytes that they took on the wire."""
        cdef iovec span
        cdef int i
        cdef const uint8_t* block = head
        cdef size_t block_size = len(head)
        span.iov_base = <void*><const char*>body
        span.iov_len = len(body)
        with nogil:
            for i in range(count):
                http2_submit(&self.client, i, block, block_size, &span, 1, span.iov_len, 0)
        return self.drain()

    def next_id(self):
        return self.client.next_id

    def open_streams(self):
        return self.client.streams.count
