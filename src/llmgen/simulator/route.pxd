# What a request gets: the route, the answer's length, its faults.

from libc.stdint cimport uint8_t

from llmgen.simulator.request cimport RequestHead
from llmgen.simulator.server cimport Conn, Server


cdef bint route(Server* v, Conn* conn, RequestHead* head, const uint8_t* body, size_t size) noexcept nogil
cdef void refuse(Server* v, Conn* conn, const RequestHead* head, int status, const char* message) noexcept nogil
