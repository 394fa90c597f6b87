# The Python face of an engine.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from llmgen.simulator.engine cimport Engine


cdef struct TokenRow:            # tokens that a request got at the end of a step
    int64_t t
    uint32_t request
    uint32_t tokens


cdef struct StepRow:
    int64_t start
    int64_t end
    uint32_t replica
    uint32_t prefill_tokens
    uint32_t decodes
    uint32_t running
    uint32_t waiting
    uint32_t tokens
    uint32_t kv_used
    uint32_t spare


cdef struct MarkRow:
    int64_t t
    uint32_t mark
    uint32_t replica


cdef struct Rows:                # a vector of rows of one size
    uint8_t* data
    size_t size                  # bytes
    size_t capacity
    bint failed


cdef class Model:
    cdef Engine* engine
