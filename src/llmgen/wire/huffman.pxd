# The Huffman code of HPACK (RFC 7541 5.2 and appendix B): strings of header fields, most of them ASCII.

from libc.stdint cimport uint8_t


# Bytes that the text takes when coded.
cdef size_t huffman_size(const uint8_t* text, size_t size) noexcept nogil

# Writes huffman_size() bytes, padded with the most significant bits of EOS, and returns their number.
cdef size_t huffman_encode(const uint8_t* text, size_t size, uint8_t* out) noexcept nogil

# Bytes written, at most size * 8 / 5 (no code is shorter than 5 bits; `out` must have that room). -1: EOS in the
# string, padding of more than 7 bits, or padding that is not all ones.
cdef Py_ssize_t huffman_decode(const uint8_t* code, size_t size, uint8_t* out) noexcept nogil
