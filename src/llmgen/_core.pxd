# The hot loop of a worker and its Python face.

from libc.stdint cimport int64_t

from llmgen.core cimport Core
from llmgen.pacer cimport Control
from llmgen.recorder cimport Recorder


cdef class Engine:
    cdef:
        Core c
        readonly Recorder recorder
        list rules               # keeps the compiled rules alive
        object control           # the mapped control file
        size_t counters_offset   # of this worker's counters in it
        readonly list samples    # (status, http_status, index, target, bytes) of failed requests, for errors.jsonl
        readonly list bodies     # (index, http_status, bytes) of answers, with keep_bodies
        list endpoints           # tls.Endpoint or None of each target
        bint closed

    cdef Control* control_block(self) except NULL
    cdef int map_control(self, object setup) except -1
    cdef int take_options(self, object setup) except -1
    cdef int take_heads(self, object setup) except -1
    cdef int take_targets(self, object setup) except -1
    cdef int open_network(self, object setup) except -1
    cdef int take_sources(self, object setup) except -1
    cdef int take_endpoints(self, object setup) except -1
