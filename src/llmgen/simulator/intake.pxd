# What comes in on a connection, in either protocol.

from llmgen.simulator.server cimport Conn, Server, Stream


cdef void read_ready(Server* v, Conn* conn) noexcept nogil
cdef void write_ready(Server* v, Conn* conn) noexcept nogil
cdef void kept_read(Server* v, Conn* conn) noexcept nogil
cdef void settle(Server* v, Conn* conn) noexcept nogil
cdef void settings_due(Server* v, Stream* errand) noexcept nogil
