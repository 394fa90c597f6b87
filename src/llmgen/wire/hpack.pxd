# HPACK (RFC 7541): header blocks of HTTP/2. One HpackDecoder and one HpackEncoder a connection; plain memory.
#
#   decoding    result = hpack_decode(&d, block, size)       a whole header block, HEADERS and CONTINUATION joined
#               d.headers[0 .. d.count)                      valid until the next hpack_decode or hpack_decoder_free
#   encoding    n = hpack_put_table_update(&e, out, cap)     first in a block; 0 bytes as long as nothing is pending
#               n += hpack_put(out + n, cap - n, ...)        fields that need no dynamic table: the same bytes are right
#                                                            on every connection, so a run computes them once
#   or          n = hpack_encode(&e, headers, count, ...)    a whole block, with the dynamic table
#
# Every function that writes says 0 (hpack_encode: -1) when `cap` is too small, and then nothing of the state changed.
# The structs are initialised by their _init only; their fields are the codec's, except where a comment says read.

from libc.stdint cimport uint8_t, uint32_t

from llmgen.wire.hpack_table cimport HpackTable
from llmgen.wire.sink cimport Header


cdef enum:
    HPACK_DEFAULT_TABLE_SIZE = 4096      # RFC 9113 6.5.2: SETTINGS_HEADER_TABLE_SIZE until told otherwise


cdef enum:
    HPACK_OK = 0
    HPACK_OVER_LIMIT = 1         # the list is larger than max_header_list_size; well-formed, the table is up to date:
                                 # only this stream is lost. headers[] holds the fields before the one that overflowed
    HPACK_TRUNCATED = -1         # the negative ones are COMPRESSION_ERROR: the connection is lost
    HPACK_INTEGER = -2           # more than 5 continuation octets, or above 2**31 - 1
    HPACK_HUFFMAN = -3           # EOS, padding of more than 7 bits, or padding that is not all ones
    HPACK_INDEX = -4             # 0, or beyond both tables
    HPACK_TABLE_SIZE = -5        # an update above our limit, not at the start of the block, or owed and missing
    HPACK_NO_MEMORY = -6


cdef enum HpackIndexing:
    HPACK_INDEX_AUTO = 0         # by name: secrets as below, values that change each time without indexing
    HPACK_INDEX_NEVER = 1        # in no dynamic table, and no proxy may index it either (RFC 7541 6.2.3, 7.1.3)


cdef struct HpackDecoder:
    Header* headers              # read: the last block's fields, in order; names and values are spans of decoder memory
    size_t count                 # read
    uint32_t list_size           # read: of the last block, RFC 9113 6.5.2; a lower bound when it is above the limit
    uint32_t max_list_size       # may be written between blocks
    size_t headers_capacity
    uint8_t* scratch             # strings of the last block
    size_t scratch_size
    size_t scratch_capacity
    uint32_t table_limit         # our SETTINGS_HEADER_TABLE_SIZE as acknowledged by the peer
    uint32_t owed_limit          # smallest limit since the last block ...
    bint update_owed             # ... which the next block must begin by honouring
    HpackTable table


cdef struct HpackEncoder:
    HpackTable table
    uint32_t table_cap           # what we are willing to use of what the peer allows
    uint32_t smallest            # of the sizes since the last block
    bint update_pending


# HPACK_OK: memory is taken when a block needs it.
cdef int hpack_decoder_init(HpackDecoder* d, uint32_t max_table_size, uint32_t max_list_size) noexcept nogil

# Gives back all memory; harmless on a zeroed struct and when repeated.
cdef void hpack_decoder_free(HpackDecoder* d) noexcept nogil

# Our SETTINGS_HEADER_TABLE_SIZE, to be told when the peer acknowledged it. When it is below the size in use, the next
# block must begin with a size update that honours it (RFC 9113 4.3.1).
cdef void hpack_decoder_set_max_table_size(HpackDecoder* d, uint32_t size) noexcept nogil

# HPACK_OK, HPACK_OVER_LIMIT or an error. Linear in `size` plus what the limits allow; memory is bounded by the list
# limit, the table limit and 1.6 * size. Names are not checked for HTTP's rules: that is http2's work.
cdef int hpack_decode(HpackDecoder* d, const uint8_t* block, size_t size) noexcept nogil

# One line of English for a result.
cdef const char* hpack_reason(int result) noexcept nogil


# `table_cap`: bytes of dynamic table that we use at most, 0 for none. The peer's limit starts at 4096.
cdef int hpack_encoder_init(HpackEncoder* e, uint32_t table_cap) noexcept nogil

cdef void hpack_encoder_free(HpackEncoder* e) noexcept nogil

# The peer's SETTINGS_HEADER_TABLE_SIZE. A change is signalled at the start of the next block: the smallest size since
# the last block, then the final one (RFC 7541 4.2).
cdef int hpack_encoder_set_peer_table_size(HpackEncoder* e, uint32_t size) noexcept nogil

# Pending size updates, at most 12 bytes; must stand first in a block that is not built by hpack_encode.
# 0: none is pending, or cap < 12.
cdef size_t hpack_put_table_update(HpackEncoder* e, uint8_t* out, size_t cap) noexcept nogil

# Bytes that a field takes at most, however it is encoded.
cdef size_t hpack_bound(size_t name_size, size_t value_size) noexcept nogil

# One field without any dynamic table: an index when the static table has name and value (and `indexing` is AUTO and the
# name no secret), else a literal with a static name index where there is one. Strings are Huffman coded when shorter.
cdef size_t hpack_put(uint8_t* out, size_t cap, const uint8_t* name, size_t name_size, const uint8_t* value,
                      size_t value_size, int indexing) noexcept nogil

# As hpack_put, but always a literal, never indexed or not as told: names are not looked at.
cdef size_t hpack_put_literal(uint8_t* out, size_t cap, const uint8_t* name, size_t name_size, const uint8_t* value,
                              size_t value_size, bint never_indexed) noexcept nogil

# A whole block: pending updates, then the fields. `indexing`: one HPACK_INDEX_ value a field, NULL: AUTO for all.
# Bytes written; -1: cap is below the sum of hpack_bound() + 12; HPACK_NO_MEMORY.
cdef Py_ssize_t hpack_encode(HpackEncoder* e, const Header* headers, size_t count, const uint8_t* indexing,
                             uint8_t* out, size_t cap) noexcept nogil

# Names whose values are never indexed whatever the caller says: authorization, api-key, cookie and their kind.
cdef bint hpack_is_secret(const uint8_t* name, size_t name_size) noexcept nogil
