# HTTP/1.1 responses (RFC 9112): one Http1Parser a connection, plain memory, driven by whole reads.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from llmgen.wire.sink cimport Header, Sink


cdef enum:
    HTTP1_OK = 0
    HTTP1_ERROR = -1             # the connection is lost; http1_reason(p) names the rule that was broken


cdef struct Http1Parser
