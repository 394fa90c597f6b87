# Connections of the targets: which one carries a request, and what happens when one opens, frees or dies.

from libc.stdint cimport int64_t, uint32_t

from llmgen.connection cimport Connection
from llmgen.core cimport Core
from llmgen.exchange cimport Exchange


cdef void pool_acquire(Core* k, Exchange* x) noexcept nogil
cdef void pool_outcome(Core* k, Connection* c, int outcome) noexcept nogil
cdef void pool_expire(Core* k, Exchange* x, int status) noexcept nogil
cdef void pool_end_batch(Core* k) noexcept nogil
cdef void pool_tick(Core* k, int64_t now) noexcept nogil
cdef void pool_preconnect(Core* k, uint32_t count) noexcept nogil
cdef Connection* pool_slot(Core* k, uint32_t slot) noexcept nogil
cdef void pool_free(Core* k) noexcept nogil
