"""Header blocks without a Python object in between: hpack_decode, hpack_encode. Built by instructions.py."""

from libc.stdint cimport uint8_t, uint64_t

from llmgen.wire.hpack cimport (
    HPACK_OK,
    HpackDecoder,
    HpackEncoder,
    hpack_decode,
    hpack_decoder_free,
    hpack_decoder_init,
    hpack_encode,
    hpack_encoder_free,
    hpack_encoder_init,
)
from llmgen.wire.sink cimport Header


def decode(bytes first, bytes block, int rounds):
    """`first` once, to fill the table, then `block` `rounds` times. Returns the fields of the latter."""
    cdef HpackDecoder d
    cdef uint64_t fields = 0
    cdef const uint8_t* data = block
    cdef size_t size = len(block)
    cdef int result = hpack_decoder_init(&d, 4096, 65536)
    if result == HPACK_OK:
        result = hpack_decode(&d, first, len(first))
    for _ in range(rounds):
        if result != HPACK_OK:
            break
        result = hpack_decode(&d, data, size)
        fields += d.count
    hpack_decoder_free(&d)
    if result != HPACK_OK:
        raise ValueError("the block breaks a rule")
    return fields


def encode(list fields, int rounds):
    """A whole block of `fields` (pairs of bytes) `rounds` times with one table. Returns the bytes written."""
    cdef HpackEncoder e
    cdef Header headers[32]
    cdef uint8_t out[4096]
    cdef uint64_t written = 0
    cdef Py_ssize_t size = 0
    cdef size_t count = len(fields)
    assert count <= 32
    for i, (name, value) in enumerate(fields):
        headers[i].name = <const uint8_t*><const char*>name
        headers[i].name_size = len(name)
        headers[i].value = <const uint8_t*><const char*>value
        headers[i].value_size = len(value)
    hpack_encoder_init(&e, 4096)
    for _ in range(rounds):
        size = hpack_encode(&e, headers, count, NULL, out, sizeof(out))
        if size < 0:
            break
        written += size
    hpack_encoder_free(&e)
    if size < 0:
        raise ValueError("the block does not fit")
    return written
