# A plain timer loop: what the kernel and the machine alone make of due times.
# How many were waited for, all unless a signal came; or -errno.

from libc.stdint cimport int64_t


cdef Py_ssize_t timer_loop(const int64_t* due, int64_t* lag, Py_ssize_t count) noexcept nogil
