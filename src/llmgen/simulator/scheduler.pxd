# What a replica computes in its next step: which sequences run, with how many tokens, in which KV blocks.

from libc.stdint cimport uint32_t, uint64_t

from llmgen.simulator.engine cimport Engine, Replica, Seq, Step


cdef bint batch_step(Engine* e, Replica* r, Step* step, uint64_t* context) noexcept nogil
cdef void seq_release(Replica* r, Seq* s) noexcept nogil
cdef void queue_push(Replica* r, Seq* s) noexcept nogil
cdef void seq_unlink(Replica* r, Seq* s) noexcept nogil
