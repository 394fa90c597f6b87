# What a worker counts: a row of the timeline every second, and its block of the control file.

from libc.stdint cimport int64_t

from llmgen.core cimport Core


cdef void counting_second(Core* k, int64_t now) noexcept nogil
cdef void counting_publish(Core* k, int64_t now) noexcept nogil
