# Socket addresses of both ends: where a connection goes, and the local addresses that connections are spread over.

from libc.stdint cimport uint32_t


cdef extern from "<sys/socket.h>" nogil:
    cdef struct sockaddr:
        unsigned short sa_family
    cdef struct sockaddr_storage:
        unsigned short ss_family
    ctypedef uint32_t socklen_t
    int bind(int, const sockaddr*, socklen_t)
    int setsockopt(int, int, int, const void*, socklen_t)

cdef extern from "<netinet/in.h>" nogil:
    enum: IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT


cdef struct Address:
    sockaddr_storage storage
    socklen_t size


# One source address has an ephemeral port range of its own per destination; so several of them carry more connections.
cdef struct Sources:
    Address* addresses           # NULL: the kernel chooses
    uint32_t count
    uint32_t next


cdef inline bint sources_bind(Sources* s, int fd, int family) noexcept nogil:
    """Binds to the next local address of this family, if there is one; False: errno says why it could not be."""
    cdef int on = 1
    cdef uint32_t i
    cdef const Address* source
    for i in range(s.count):
        source = &s.addresses[s.next]
        s.next = (s.next + 1) % s.count
        if source.storage.ss_family == family:
            # The port is left to connect, which may give one to several connections that differ in their destination
            # (ip(7), since Linux 4.2; the option of this level serves IPv6, too).
            setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on))
            return bind(fd, <const sockaddr*>&source.storage, source.size) == 0
    return True
