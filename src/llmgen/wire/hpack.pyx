"""HPACK (RFC 7541), native.

A header block is a list of references and literals. Both ends keep the same table of recent fields, fed by the literals
of one connection in order, so a block must be decoded even if nobody wants it any more: what is beyond the limit of the
list size is still read, only not kept.

Field strings are handed out as spans: static entries lie in constant memory, all others are copied into the decoder's
scratch memory, because a later field of the same block may evict the entry that they come from. The scratch memory
always has room for whatever literals the rest of the block can hold (1.6 times its bytes, by Huffman's shortest code),
so that only references to the dynamic table need to look.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset, strlen

from llmgen.wire.huffman cimport huffman_decode, huffman_encode, huffman_size
from llmgen.wire.hpack_table cimport (
    HPACK_ENTRY_OVERHEAD,
    HPACK_STATIC,
    STATIC_TABLE,
    HpackEntry,
    hash_name,
    static_find,
    table_add,
    table_entry,
    table_fields,
    table_find,
    table_free,
    table_set_max_size,
)
from llmgen.wire.sink cimport Header


cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char*, const char*, size_t)


cdef enum:
    INTEGER_MAX = 0x7FFFFFFF     # more than any size or index that can be meant
    KEEP_SCRATCH = 16384         # an unusually large block does not keep its memory for the life of the connection
    KEEP_HEADERS = 256
    UPDATE_BOUND = 12            # two size updates of at most 6 bytes


# Decoding.

cdef int hpack_decoder_init(HpackDecoder* d, uint32_t max_table_size, uint32_t max_list_size) noexcept nogil:
    memset(d, 0, sizeof(HpackDecoder))
    d.max_list_size = max_list_size
    d.table_limit = min(max_table_size, <uint32_t>INTEGER_MAX)
    d.table.max_size = d.table_limit
    return HPACK_OK


cdef void hpack_decoder_free(HpackDecoder* d) noexcept nogil:
    free(d.headers)
    free(d.scratch)
    table_free(&d.table)
    memset(d, 0, sizeof(HpackDecoder))


cdef void hpack_decoder_set_max_table_size(HpackDecoder* d, uint32_t size) noexcept nogil:
    size = min(size, <uint32_t>INTEGER_MAX)
    d.table_limit = size
    if size < d.table.max_size:
        d.owed_limit = min(size, d.owed_limit) if d.update_owed else size
        d.update_owed = True


cdef int64_t read_integer(const uint8_t** at, const uint8_t* end, uint32_t mask) noexcept nogil:
    """RFC 7541 5.1: at[0] < end, the prefix is the bits of `mask`. The value, or a negative result."""
    cdef const uint8_t* p = at[0]
    cdef int64_t value = p[0] & mask
    cdef uint32_t octet
    cdef int shift
    p += 1
    if value == mask:
        for shift in range(0, 35, 7):
            if p == end:
                return HPACK_TRUNCATED
            octet = p[0]
            p += 1
            value += <int64_t>(octet & 0x7F) << shift
            if octet < 0x80:
                break
        else:
            return HPACK_INTEGER
        if value > INTEGER_MAX:
            return HPACK_INTEGER
    at[0] = p
    return value


cdef int64_t read_string(HpackDecoder* d, const uint8_t** at, const uint8_t* end) noexcept nogil:
    """RFC 7541 5.2: appends a string to the scratch memory, which has the room. Its size, or a negative result."""
    if at[0] == end:
        return HPACK_TRUNCATED
    cdef bint coded = at[0][0] & 0x80
    cdef int64_t size = read_integer(at, end, 0x7F)
    cdef const uint8_t* text = at[0]
    if size < 0:
        return size
    if size > end - text:
        return HPACK_TRUNCATED
    at[0] = text + size
    if coded:
        size = huffman_decode(text, size, d.scratch + d.scratch_size)
        if size < 0:
            return HPACK_HUFFMAN
    else:
        memcpy(d.scratch + d.scratch_size, text, size)
    d.scratch_size += size
    return size


cdef bint reserve_scratch(HpackDecoder* d, size_t size, size_t rest) noexcept nogil:
    """Room for `size` bytes and all literals of the block's `rest`; False without memory."""
    cdef size_t need = d.scratch_size + size + rest + rest // 5 * 3 + 4
    cdef size_t i
    cdef uint8_t* scratch
    if need <= d.scratch_capacity:
        return True
    need = need * 2 if d.scratch_size else need + 128        # a block seldom needs more than it asks for first
    scratch = <uint8_t*>malloc(need)
    if scratch == NULL:
        return False
    if d.scratch_size:
        memcpy(scratch, d.scratch, d.scratch_size)
    for i in range(d.count):
        d.headers[i].name = moved(d.headers[i].name, d, scratch)
        d.headers[i].value = moved(d.headers[i].value, d, scratch)
    free(d.scratch)
    d.scratch, d.scratch_capacity = scratch, need
    return True


cdef inline const uint8_t* moved(const uint8_t* p, HpackDecoder* d, uint8_t* scratch) noexcept nogil:
    """Where a string is after the scratch memory became `scratch`; static strings stay."""
    cdef uintptr_t offset = <uintptr_t>p - <uintptr_t>d.scratch
    if offset < d.scratch_capacity:
        return scratch + offset
    return p


cdef bint start_block(HpackDecoder* d, size_t size) noexcept nogil:
    d.count = d.scratch_size = 0
    d.list_size = 0
    if d.scratch_capacity > KEEP_SCRATCH and size < KEEP_SCRATCH // 2:
        free(d.scratch)
        d.scratch, d.scratch_capacity = NULL, 0
    if d.headers_capacity > KEEP_HEADERS:
        free(d.headers)
        d.headers, d.headers_capacity = NULL, 0
    return reserve_scratch(d, 0, size)


cdef int keep_header(HpackDecoder* d, const Header* h) noexcept nogil:
    """Counts a field and appends it, unless the list is, or becomes, larger than allowed."""
    cdef uint64_t size = <uint64_t>h.name_size + h.value_size + HPACK_ENTRY_OVERHEAD + d.list_size
    cdef Header* headers
    cdef size_t capacity
    d.list_size = <uint32_t>min(size, <uint64_t>0xFFFFFFFF)
    if size > d.max_list_size:
        return HPACK_OVER_LIMIT
    if d.count == d.headers_capacity:
        capacity = d.headers_capacity * 2 if d.headers_capacity else 16
        headers = <Header*>malloc(capacity * sizeof(Header))
        if headers == NULL:
            return HPACK_NO_MEMORY
        if d.count:
            memcpy(headers, d.headers, d.count * sizeof(Header))
        free(d.headers)
        d.headers, d.headers_capacity = headers, capacity
    d.headers[d.count] = h[0]
    d.count += 1
    return HPACK_OK


cdef int read_size_updates(HpackDecoder* d, const uint8_t** at, const uint8_t* end) noexcept nogil:
    """RFC 7541 4.2 and 6.3: at the start of a block only. (More than the two that an encoder needs do no harm.)"""
    cdef int64_t size
    while at[0] < end and at[0][0] & 0xE0 == 0x20:
        size = read_integer(at, end, 0x1F)
        if size < 0:
            return <int>size
        if size > d.table_limit or (d.update_owed and size > d.owed_limit):
            return HPACK_TABLE_SIZE
        d.update_owed = False
        table_set_max_size(&d.table, <uint32_t>size)
    return HPACK_TABLE_SIZE if d.update_owed else HPACK_OK


cdef int look_up(HpackDecoder* d, int64_t index, bint with_value, size_t rest, Header* h) noexcept nogil:
    """The field of a table index; strings of the dynamic table are copied, the value only if asked for."""
    cdef HpackEntry* entry
    cdef size_t length
    if index <= HPACK_STATIC:
        if index == 0:
            return HPACK_INDEX
        h[0] = STATIC_TABLE[index]
        return HPACK_OK
    index -= HPACK_STATIC + 1
    if index >= d.table.count:
        return HPACK_INDEX
    entry = table_entry(&d.table, <uint32_t>index)
    length = entry.name_size + (entry.value_size if with_value else 0)
    h.name_size, h.value_size = entry.name_size, entry.value_size
    if not reserve_scratch(d, length, rest):
        return HPACK_NO_MEMORY
    memcpy(d.scratch + d.scratch_size, d.table.bytes + entry.start, length)
    h.name = d.scratch + d.scratch_size
    h.value = h.name + entry.name_size
    d.scratch_size += length
    return HPACK_OK


cdef int read_literal(HpackDecoder* d, const uint8_t** at, const uint8_t* end, Header* h) noexcept nogil:
    """RFC 7541 6.2: a literal field of whichever kind; only one with incremental indexing enters the table."""
    cdef bint add = at[0][0] & 0x40
    cdef int64_t size = read_integer(at, end, 0x3F if add else 0x0F)
    cdef int result
    if size < 0:
        return <int>size
    if size:
        result = look_up(d, size, False, end - at[0], h)
        if result < 0:
            return result
    else:
        h.name = d.scratch + d.scratch_size
        size = read_string(d, at, end)
        if size < 0:
            return <int>size
        h.name_size = <uint32_t>size
    h.value = d.scratch + d.scratch_size
    size = read_string(d, at, end)
    if size < 0:
        return <int>size
    h.value_size = <uint32_t>size
    if add and not table_add(&d.table, h.name, h.name_size, h.value, h.value_size, 0):
        return HPACK_NO_MEMORY
    return HPACK_OK


cdef int hpack_decode(HpackDecoder* d, const uint8_t* block, size_t size) noexcept nogil:
    cdef const uint8_t* at = block
    cdef const uint8_t* end = block + size
    cdef size_t used
    cdef int64_t index
    cdef int result, kept
    cdef bint over = False
    cdef Header h
    if not start_block(d, size):
        return HPACK_NO_MEMORY
    result = read_size_updates(d, &at, end)
    while result == HPACK_OK and at < end:
        used = d.scratch_size
        if at[0] & 0x80:
            index = read_integer(&at, end, 0x7F)
            if index < 0:
                return <int>index
            if over:             # one byte must not cost a copy of a table's worth of strings for nothing
                result = HPACK_OK if 0 < index <= HPACK_STATIC + d.table.count else HPACK_INDEX
                continue
            result = look_up(d, index, True, end - at, &h)
        elif at[0] & 0xE0 == 0x20:
            return HPACK_TABLE_SIZE
        else:
            result = read_literal(d, &at, end, &h)
        if result < 0:
            return result
        # The size only grows: once over, nothing is kept any more, even if it would have fitted on its own.
        kept = keep_header(d, &h)
        if kept < 0:
            return kept
        if kept == HPACK_OVER_LIMIT:
            over = True
            d.scratch_size = used
    return HPACK_OVER_LIMIT if over and result == HPACK_OK else result


cdef const char* hpack_reason(int result) noexcept nogil:
    if result == HPACK_OK:
        return "no error"
    if result == HPACK_OVER_LIMIT:
        return "the header list is larger than the limit"
    if result == HPACK_TRUNCATED:
        return "the header block ends in the middle of a field"
    if result == HPACK_INTEGER:
        return "an integer is above 2**31 - 1 or longer than 6 octets"
    if result == HPACK_HUFFMAN:
        return "EOS in a Huffman coded string, or wrong padding at its end"
    if result == HPACK_INDEX:
        return "a table index is 0 or beyond the tables"
    if result == HPACK_TABLE_SIZE:
        return "a table size update is above the limit, out of place or missing"
    return "out of memory"


# Encoding.

# Names whose values must not be guessable through a proxy's table (RFC 7541 7.1.3); RFC 6265's and those of LLM APIs.
cdef const char* SECRETS[10]
SECRETS[:] = [
    "authorization", "proxy-authorization", "cookie", "set-cookie", "api-key", "x-api-key", "x-goog-api-key",
    "x-auth-token", "x-amz-security-token", "ocp-apim-subscription-key",
]
# Names whose values seldom come twice: to index them would only evict what is worth keeping.
cdef const char* CHANGING[8]
CHANGING[:] = [
    "content-length", "x-request-id", "request-id", "traceparent", "tracestate", "idempotency-key", "etag", "age",
]


cdef size_t SECRET_SIZES[10]
cdef size_t CHANGING_SIZES[8]
cdef int _i
for _i in range(10):
    SECRET_SIZES[_i] = strlen(SECRETS[_i])
for _i in range(8):
    CHANGING_SIZES[_i] = strlen(CHANGING[_i])


cdef inline bint named(const char** names, const size_t* sizes, int count, const uint8_t* name,
                       size_t size) noexcept nogil:
    cdef int i
    for i in range(count):
        if sizes[i] == size and strncasecmp(names[i], <const char*>name, size) == 0:
            return True
    return False


cdef bint hpack_is_secret(const uint8_t* name, size_t name_size) noexcept nogil:
    return named(SECRETS, SECRET_SIZES, 10, name, name_size)


cdef int hpack_encoder_init(HpackEncoder* e, uint32_t table_cap) noexcept nogil:
    memset(e, 0, sizeof(HpackEncoder))
    e.table_cap = min(table_cap, <uint32_t>INTEGER_MAX)
    e.table.max_size = HPACK_DEFAULT_TABLE_SIZE
    return hpack_encoder_set_peer_table_size(e, HPACK_DEFAULT_TABLE_SIZE)


cdef void hpack_encoder_free(HpackEncoder* e) noexcept nogil:
    table_free(&e.table)
    memset(e, 0, sizeof(HpackEncoder))


cdef int hpack_encoder_set_peer_table_size(HpackEncoder* e, uint32_t size) noexcept nogil:
    size = min(size, e.table_cap)
    if size == e.table.max_size and not e.update_pending:
        return HPACK_OK
    e.smallest = min(size, e.smallest) if e.update_pending else size
    e.update_pending = True
    table_set_max_size(&e.table, size)
    return HPACK_OK


cdef inline uint8_t* put_integer(uint8_t* at, uint32_t flags, uint32_t mask, uint64_t value) noexcept nogil:
    """RFC 7541 5.1; `flags` are the bits above the prefix."""
    if value < mask:
        at[0] = <uint8_t>(flags | value)
        return at + 1
    at[0] = <uint8_t>(flags | mask)
    at += 1
    value -= mask
    while value > 0x7F:
        at[0] = <uint8_t>(value | 0x80)
        at += 1
        value >>= 7
    at[0] = <uint8_t>value
    return at + 1


cdef uint8_t* put_string(uint8_t* at, const uint8_t* text, size_t size) noexcept nogil:
    cdef size_t coded = huffman_size(text, size)
    if coded < size:
        at = put_integer(at, 0x80, 0x7F, coded)
        return at + huffman_encode(text, size, at)
    at = put_integer(at, 0, 0x7F, size)
    if size:
        memcpy(at, text, size)
    return at + size


cdef inline uint8_t* put_field(uint8_t* at, uint32_t flags, uint32_t mask, uint32_t name_index, const uint8_t* name,
                               size_t name_size, const uint8_t* value, size_t value_size) noexcept nogil:
    """A literal; the name as an index if it has one."""
    at = put_integer(at, flags, mask, name_index)
    if not name_index:
        at = put_string(at, name, name_size)
    return put_string(at, value, value_size)


cdef size_t hpack_put_table_update(HpackEncoder* e, uint8_t* out, size_t cap) noexcept nogil:
    cdef uint8_t* at = out
    if not e.update_pending or cap < UPDATE_BOUND:
        return 0
    if e.smallest < e.table.max_size:
        at = put_integer(at, 0x20, 0x1F, e.smallest)
    at = put_integer(at, 0x20, 0x1F, e.table.max_size)
    e.update_pending = False
    return at - out


cdef size_t hpack_bound(size_t name_size, size_t value_size) noexcept nogil:
    return name_size + value_size + 18       # three integers of at most 6 bytes; strings are coded only when shorter


cdef size_t hpack_put(uint8_t* out, size_t cap, const uint8_t* name, size_t name_size, const uint8_t* value,
                      size_t value_size, int indexing) noexcept nogil:
    cdef uint32_t name_index, index
    cdef bint never = indexing == HPACK_INDEX_NEVER or hpack_is_secret(name, name_size)
    if not never:
        index = static_find(name, name_size, value, value_size, hash_name(name, name_size), &name_index)
        if index:
            return put_integer(out, 0x80, 0x7F, index) - out if cap else 0
    return hpack_put_literal(out, cap, name, name_size, value, value_size, never)


cdef size_t hpack_put_literal(uint8_t* out, size_t cap, const uint8_t* name, size_t name_size, const uint8_t* value,
                              size_t value_size, bint never_indexed) noexcept nogil:
    cdef uint32_t name_index
    if cap < hpack_bound(name_size, value_size):
        return 0
    static_find(name, name_size, value, value_size, hash_name(name, name_size), &name_index)
    return put_field(out, 0x10 if never_indexed else 0, 0x0F, name_index, name, name_size, value, value_size) - out


cdef uint8_t* encode_field(HpackEncoder* e, uint8_t* at, const Header* h, int indexing) noexcept nogil:
    """One field in the shortest way that its secrecy allows; NULL without memory."""
    cdef uint32_t name_index, index
    cdef uint32_t hash = hash_name(h.name, h.name_size)
    cdef bint never = indexing == HPACK_INDEX_NEVER or hpack_is_secret(h.name, h.name_size)
    cdef uint64_t size = <uint64_t>h.name_size + h.value_size + HPACK_ENTRY_OVERHEAD
    index = static_find(h.name, h.name_size, h.value, h.value_size, hash, &name_index)
    if not index or never:
        index = table_find(&e.table, h.name, h.name_size, h.value, h.value_size, hash, &name_index)
    if never:
        return put_field(at, 0x10, 0x0F, name_index, h.name, h.name_size, h.value, h.value_size)
    if index:
        return put_integer(at, 0x80, 0x7F, index)
    # An entry of most of the table's size would evict nearly all others (nghttp2 draws the same line).
    if size > <uint64_t>e.table.max_size * 3 // 4 or named(CHANGING, CHANGING_SIZES, 8, h.name, h.name_size):
        return put_field(at, 0, 0x0F, name_index, h.name, h.name_size, h.value, h.value_size)
    at = put_field(at, 0x40, 0x3F, name_index, h.name, h.name_size, h.value, h.value_size)
    if not table_add(&e.table, h.name, h.name_size, h.value, h.value_size, hash):
        return NULL
    return at


cdef Py_ssize_t hpack_encode(HpackEncoder* e, const Header* headers, size_t count, const uint8_t* indexing,
                             uint8_t* out, size_t cap) noexcept nogil:
    cdef size_t bound = UPDATE_BOUND, i
    cdef uint8_t* at
    for i in range(count):
        bound += hpack_bound(headers[i].name_size, headers[i].value_size)
    if cap < bound:
        return -1
    at = out + hpack_put_table_update(e, out, cap)
    for i in range(count):
        at = encode_field(e, at, &headers[i], indexing[i] if indexing != NULL else HPACK_INDEX_AUTO)
        if at == NULL:
            return HPACK_NO_MEMORY
    return at - out


# The Python face.

class Error(Exception):
    """A header block that breaks RFC 7541, or a header list above the limit.

    `over_limit`: the block was well-formed and the decoder can go on; otherwise the connection is lost.
    """

    def __init__(self, message: str, over_limit: bool = False) -> None:
        super().__init__(message)
        self.over_limit = over_limit


@cython.final
cdef class Decoder:
    """The receiving end of one connection's header blocks; see the stub for the interface."""

    cdef HpackDecoder d

    def __cinit__(self, uint32_t max_table_size=HPACK_DEFAULT_TABLE_SIZE, uint32_t max_header_list_size=65536):
        hpack_decoder_init(&self.d, max_table_size, max_header_list_size)

    def __dealloc__(self):
        hpack_decoder_free(&self.d)

    def decode(self, block):
        cdef Py_buffer view
        cdef int result
        cdef size_t i
        cdef Header* h
        PyObject_GetBuffer(block, &view, PyBUF_SIMPLE)
        try:
            result = hpack_decode(&self.d, <const uint8_t*>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)
        if result == HPACK_NO_MEMORY:
            raise MemoryError
        if result != HPACK_OK:
            raise Error(hpack_reason(result).decode(), result == HPACK_OVER_LIMIT)
        fields = []
        for i in range(self.d.count):
            h = &self.d.headers[i]
            fields.append((h.name[:h.name_size], h.value[:h.value_size]))
        return fields

    @property
    def max_table_size(self):
        return self.d.table_limit

    @max_table_size.setter
    def max_table_size(self, uint32_t size):
        hpack_decoder_set_max_table_size(&self.d, size)

    @property
    def max_header_list_size(self):
        return self.d.max_list_size

    @max_header_list_size.setter
    def max_header_list_size(self, uint32_t size):
        self.d.max_list_size = size

    @property
    def table_size(self):
        return self.d.table.size

    @property
    def table(self):
        return table_fields(&self.d.table)


@cython.final
cdef class Encoder:
    """The sending end of one connection's header blocks; see the stub for the interface."""

    cdef HpackEncoder e

    def __cinit__(self, uint32_t table_cap=65536):
        hpack_encoder_init(&self.e, table_cap)

    def __dealloc__(self):
        hpack_encoder_free(&self.e)

    def encode(self, headers, never_indexed=frozenset()):
        cdef list fields = [(bytes(name), bytes(value)) for name, value in headers]
        cdef bytearray indexing = bytearray(len(fields))
        cdef bytearray spans = bytearray(len(fields) * sizeof(Header))
        cdef Header* h = <Header*><char*>spans
        cdef uint8_t* how = <uint8_t*><char*>indexing
        cdef bytes name, value
        cdef size_t bound = UPDATE_BOUND, i = 0
        never = {bytes(name).lower() for name in never_indexed}
        for name, value in fields:
            if len(name) > INTEGER_MAX or len(value) > INTEGER_MAX:
                raise ValueError(f"header {name[:32]!r}: longer than 2**31 - 1 bytes")
            h[i].name, h[i].name_size = name, <uint32_t>len(name)
            h[i].value, h[i].value_size = value, <uint32_t>len(value)
            how[i] = HPACK_INDEX_NEVER if never and name.lower() in never else HPACK_INDEX_AUTO
            bound += hpack_bound(len(name), len(value))
            i += 1
        cdef bytearray out = bytearray(bound)
        cdef Py_ssize_t size = hpack_encode(&self.e, h, i, how, <uint8_t*><char*>out, bound)
        if size < 0:
            raise MemoryError
        return bytes(out[:size])

    def table_update(self):
        cdef uint8_t out[UPDATE_BOUND]
        cdef size_t size = hpack_put_table_update(&self.e, out, UPDATE_BOUND)
        return out[:size]

    @property
    def max_table_size(self):
        return self.e.table.max_size

    @max_table_size.setter
    def max_table_size(self, uint32_t size):
        hpack_encoder_set_peer_table_size(&self.e, size)

    @property
    def table_size(self):
        return self.e.table.size

    @property
    def table(self):
        return table_fields(&self.e.table)


def field(bytes name not None, bytes value not None, bint never_indexed=False):
    """One field that needs no dynamic table: the same bytes are right in any block of any connection."""
    cdef size_t bound = hpack_bound(len(name), len(value))
    cdef bytearray out = bytearray(bound)
    cdef size_t size = hpack_put(<uint8_t*><char*>out, bound, name, len(name), value, len(value),
                                 HPACK_INDEX_NEVER if never_indexed else HPACK_INDEX_AUTO)
    return bytes(out[:size])
