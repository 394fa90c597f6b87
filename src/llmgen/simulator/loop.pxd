# One sending thread of the simulator: accepts, reads requests, sends what is due.

from llmgen.simulator.server cimport Server


cdef class Loop:
    cdef Server* v
    cdef void* model             # references of ours: the garbage collector must not part them from `v`
    cdef void* pages
