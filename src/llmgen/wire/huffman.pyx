"""The Huffman code of HPACK (RFC 7541 5.2), native.

Decoding keeps up to 64 bits left-aligned in a register. The next 10 bits are looked up in a table of 2 KiB, which knows
all codes of up to 10 bits: digits, letters and what else occurs in headers. Longer codes are found by their length: as
the code is canonical, those of one length are one range of numbers, above all shorter ones.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from llmgen.wire import hpack_constants


cdef extern from "<endian.h>" nogil:
    uint64_t be64toh(uint64_t)
    uint32_t htobe32(uint32_t)


cdef enum:
    EOS = 256
    FAST_BITS = 10               # no code is 9 bits long and few are 11: more bits only cost cache
    LONGEST = 30

# All written once by derive_code() and constant from then on.
cdef uint8_t LENGTH[257]
cdef uint32_t CODE[257]
cdef uint16_t FAST[1 << FAST_BITS]   # symbol << 4 | length; 0: the code is longer
cdef uint16_t ORDER[257]             # symbols by code
cdef uint32_t FIRST_CODE[LONGEST + 1]
cdef uint32_t FIRST_RANK[LONGEST + 1]
cdef uint64_t ABOVE[LONGEST + 1]     # left-aligned in 32 bits: codes of this length are below it


cdef int derive_code() except -1:
    """Fills the tables above from the lengths of the canonical code."""
    lengths = hpack_constants.HUFFMAN_CODE_LENGTHS
    cdef uint32_t code = 0, index, shift
    cdef int length, previous = 0, rank = 0, symbol
    for symbol in range(257):
        LENGTH[symbol] = lengths[symbol]
    for length in range(1, LONGEST + 1):
        code <<= 1
        FIRST_CODE[length] = code
        FIRST_RANK[length] = rank
        for symbol in range(257):
            if LENGTH[symbol] != length:
                continue
            CODE[symbol] = code
            ORDER[rank] = symbol
            if length <= FAST_BITS:
                shift = FAST_BITS - length
                for index in range(code << shift, (code + 1) << shift):
                    FAST[index] = symbol << 4 | length
            code += 1
            rank += 1
        ABOVE[length] = <uint64_t>code << (32 - length)
    if code != 1 << LONGEST or rank != 257:
        raise RuntimeError("the Huffman code lengths of hpack_constants are not those of a complete code")
    return 0


derive_code()


cdef size_t huffman_size(const uint8_t* text, size_t size) noexcept nogil:
    cdef size_t bits = 0, i
    for i in range(size):
        bits += LENGTH[text[i]]
    return (bits + 7) >> 3


cdef size_t huffman_encode(const uint8_t* text, size_t size, uint8_t* out) noexcept nogil:
    cdef uint64_t bits = 0       # the lowest `have` bits are not written yet: at most 31 + 30
    cdef uint32_t have = 0, word
    cdef uint8_t* at = out
    cdef size_t i
    for i in range(size):
        bits = bits << LENGTH[text[i]] | CODE[text[i]]
        have += LENGTH[text[i]]
        if have >= 32:
            have -= 32
            word = htobe32(<uint32_t>(bits >> have))
            memcpy(at, &word, 4)
            at += 4
    while have >= 8:
        have -= 8
        at[0] = <uint8_t>(bits >> have)
        at += 1
    if have:
        at[0] = <uint8_t>(bits << (8 - have) | (0xFF >> have))
        at += 1
    return at - out


cdef inline uint32_t symbol_at(uint64_t bits, uint32_t* length) noexcept nogil:
    """The symbol whose code the left-aligned bits begin with, and the length of that code."""
    cdef uint32_t entry = FAST[bits >> (64 - FAST_BITS)]
    if entry:
        length[0] = entry & 15
        return entry >> 4
    cdef uint32_t top = <uint32_t>(bits >> 32), n = FAST_BITS + 1
    while top >= ABOVE[n]:       # ends: the code is complete, ABOVE[LONGEST] is 1 << 32
        n += 1
    length[0] = n
    return ORDER[FIRST_RANK[n] + (top >> (32 - n)) - FIRST_CODE[n]]


cdef Py_ssize_t huffman_decode(const uint8_t* code, size_t size, uint8_t* out) noexcept nogil:
    cdef const uint8_t* end = code + size
    cdef uint8_t* at = out
    cdef uint64_t bits = 0, word
    cdef uint32_t have = 0, length = 0, symbol, taken
    while True:
        # Bits beyond `have` may be there already; they are those of the following bytes, so that OR changes nothing.
        if end - code >= 8:
            memcpy(&word, code, 8)
            bits |= be64toh(word) >> have
            taken = (63 - have) >> 3
            code += taken
            have += taken * 8
        else:
            while have <= 56 and code < end:
                bits |= <uint64_t>code[0] << (56 - have)
                have += 8
                code += 1
        if have < LONGEST:
            break
        while have >= LONGEST:
            symbol = symbol_at(bits, &length)
            if symbol == EOS:
                return -1
            at[0] = <uint8_t>symbol
            at += 1
            bits <<= length
            have -= length
    # The last bits, followed by ones: what is left at the end must then look like the beginning of EOS.
    bits |= <uint64_t>0xFFFFFFFFFFFFFFFF >> have
    while True:
        symbol = symbol_at(bits, &length)
        if length > have:
            break
        at[0] = <uint8_t>symbol      # EOS is longer than `have` here
        at += 1
        bits = bits << length | ((<uint64_t>1 << length) - 1)
        have -= length
    if have > 7 or symbol != EOS:
        return -1
    return at - out


def encode(bytes text):
    """The text in the Huffman code of RFC 7541 appendix B, padded with ones to whole bytes."""
    cdef size_t size = huffman_size(text, len(text))
    cdef bytearray out = bytearray(size)
    huffman_encode(text, len(text), out)
    return bytes(out)


def decode(bytes code):
    """The text of a Huffman coded string. ValueError: EOS in it, or padding that is not at most 7 bits of ones."""
    cdef bytearray out = bytearray(len(code) * 8 // 5 + 1)
    cdef Py_ssize_t size = huffman_decode(code, len(code), out)
    if size < 0:
        raise ValueError("EOS in a Huffman coded string, or wrong padding at its end")
    return bytes(out[:size])
