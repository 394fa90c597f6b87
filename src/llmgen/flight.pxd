# Requests in flight: made when they are due, finished exactly once, timed out by a coarse wheel.

from libc.stdint cimport int64_t, uint16_t, uint64_t

from llmgen.core cimport Core
from llmgen.exchange cimport Exchange
from llmgen.pacer cimport Due


cdef Exchange* flight_begin(Core* k, const Due* due, int64_t now) noexcept nogil
cdef void flight_finish(Core* k, Exchange* x, int status, int64_t end) noexcept nogil
cdef void flight_deadline(Core* k, Exchange* x, int64_t now) noexcept nogil
cdef Exchange* flight_expired(Core* k, int64_t now, int* status) noexcept nogil
cdef Exchange* flight_any(Core* k) noexcept nogil
cdef void flight_free(Core* k) noexcept nogil
cdef bint flight_waits(Core* k, const Due* due) noexcept nogil
cdef uint16_t flight_session_target(Core* k, Exchange* x, uint16_t planned) noexcept nogil
