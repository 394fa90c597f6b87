"""What one event of an LLM's answer carries: a structural walk over its JSON that allocates nothing.

Theory. A dialect is a list of rules (path, role): "at choices.*.delta.content lies text". They are compiled once into a
flat trie; a node is a place in the document, its keys lead to members, `element` to the elements of an array. The walk
goes through the bytes once, left to right, with a stack of nodes for the open containers. It reads every byte that
decides structure, so that text that looks like JSON, odd whitespace, any key order and escaped keys
("\\u0063ontent") cannot fool it; a value at a place without rules is only checked. Node 0 is "no rules here", so
uninteresting subtrees run through the same few lines.

Some APIs say what a string is in another member ("type": "response.output_text.delta"), in any key order. Such a rule
carries a guard (path, values...): values met under guarded rules wait until the end of the event, when all guards are
known. Guards are bits, at most 32 a dialect.

What counts: a string counts as text, reasoning, tool call, role or finish reason only if it is not empty; null never
counts. Token counts are whole numbers from 0 to 2^31-1, anything else is "not told". An error is any value but null,
false and "". With duplicate keys every occurrence counts: kinds add up, `text` is the first, numbers, finish and error
are the last.

Valid is what RFC 8259 says, with at most SCAN_DEPTH levels, and with these liberties: bytes over 0x7f in strings need
not be UTF-8, a lone surrogate escape is U+FFFD, numbers may have any size.

Memory. Along a stream, events differ in their text only. `scan_event_after` remembers what came before and behind the
text of the stream's last event; if both are the same again, only the text itself is walked. That is exact, not a guess:
equal bytes before the text bring the walk into the same state, a well-formed string leaves that state as it is, and
equal bytes behind it do the same again. The one thing that depends on the text is whether it is empty, and an empty one
takes the plain path; rules under which more depends on it are not `memorable`.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy

import json

from llmgen.wire.found import Found, Kind

from llmgen.wire.finish cimport FINISH_STOP, finish_code
from llmgen.wire.jsonlex cimport BAD, number_end, same_key, skip_space, string_end, unescape
from llmgen.wire.span cimport Span, span
from llmgen.wire.trie cimport (
    DOCUMENT, NOTHING, ROLE_CACHED_BESIDE, ROLE_CACHED_TOKENS, ROLE_DONE, ROLE_ERROR, ROLE_FINISH, ROLE_INPUT_TOKENS,
    ROLE_OUTPUT_TOKENS, ROLE_REASONING_TOKENS, ROLE_ROLE, ROLE_TEXT, ROLE_TOKEN_ID, ROLE_TOKEN_IDS, ROLE_TOOL, Role,
    Rules, ScanCase, ScanGuard, ScanKey, ScanNode, ScanRules,
)


cdef enum:
    SCAN_DEPTH = 128             # answers nest 8 deep; bounds the stack (16 bytes a level) and what nonsense can cost
    WAITING = 16                 # values of one event that can wait for guards; further ones are dropped
    LONGEST = 128                # bytes of a key or guard string in the rules; a longer one cannot match


cdef enum What:
    STRING
    NUMBER
    TRUE                         # null and false never mean anything
    CONTAINER


cdef struct Value:
    const uint8_t* data          # raw; a string's inside
    size_t size
    int64_t number               # -1: not a whole number from 0 to 2^31-1
    uint32_t escaped
    What what


cdef struct Frame:               # an open container
    size_t start
    uint32_t node
    uint8_t close                # the byte that closes it


cdef struct Walk:
    const ScanRules* rules
    const uint8_t* data
    size_t size
    ScanFound* found
    uint32_t guards              # bits met so far
    uint32_t waiting
    uint32_t nodes[WAITING]
    Value values[WAITING]


cdef int scan_event(const ScanRules* rules, const uint8_t* data, size_t size, ScanFound* found) noexcept nogil:
    cdef Walk w
    cdef size_t start = skip_space(data, 0, size)
    reset(found)
    if start < size and data[start] == c"[" and is_done(data + start, size - start):
        return SCAN_DONE
    w.rules, w.data, w.size, w.found = rules, data, size, found
    w.guards = w.waiting = 0
    if walk(&w, start) == SCAN_OK:
        settle(&w)
        return SCAN_OK
    reset(found)
    return SCAN_MALFORMED


cdef int scan_event_after(
    const ScanRules* rules, ScanMemory* memory, const uint8_t* data, size_t size, ScanFound* found
) noexcept nogil:
    cdef uint32_t escaped = 0
    cdef size_t prefix, suffix
    cdef Py_ssize_t end
    cdef int result
    if memory == NULL:
        return scan_event(rules, data, size, found)
    prefix, suffix = memory.prefix, memory.suffix
    if prefix and size > prefix + suffix and memcmp(data, memory.bytes, prefix) == 0:
        end = string_end(data, prefix, size, &escaped)
        # (size leaves room for a text that is not empty)
        if end != BAD and size - end == suffix and memcmp(data + end, memory.bytes + prefix, suffix) == 0:
            reset(found)
            found.kind = memory.kind
            found.text = span(data + prefix, end - prefix)
            found.text_escaped = escaped
            memory.misses = 0
            return SCAN_OK
    result = scan_event(rules, data, size, found)
    if rules.memorable and found.kind & KIND_TOKENS:
        remember(memory, data, size, found)
    return result


cdef void remember(ScanMemory* memory, const uint8_t* data, size_t size, const ScanFound* found) noexcept nogil:
    cdef size_t prefix = found.text.data - data
    cdef size_t suffix = size - prefix - found.text.size
    memory.misses = memory.misses + 1 if memory.misses < 0xFFF0 else 16
    if memory.misses > 4 and memory.misses & 15:
        return                           # a stream whose events never repeat pays for the copies now and then only
    if found.kind & ~<uint32_t>(KIND_TOKENS | KIND_ROLE) or found.token_ids >= 0 or found.done:
        return                           # would need more than the kind to be remembered
    if prefix + suffix > sizeof(memory.bytes):
        return
    memory.prefix, memory.suffix, memory.kind = <uint16_t>prefix, <uint16_t>suffix, <uint16_t>found.kind
    memcpy(memory.bytes, data, prefix)
    memcpy(memory.bytes + prefix, data + size - suffix, suffix)


cdef inline void reset(ScanFound* found) noexcept nogil:
    found.kind = found.finish = found.text_escaped = found.done = found.finish_escaped = 0
    found.beside = 0
    found.input_tokens = found.output_tokens = found.reasoning_tokens = found.cached_tokens = found.token_ids = -1
    found.text = found.error = found.finish_reason = span(NULL, 0)


cdef bint is_done(const uint8_t* d, size_t n) noexcept nogil:
    return n >= 6 and memcmp(d, b"[DONE]", 6) == 0 and skip_space(d, 6, n) == <Py_ssize_t>n


# --- the walk: indices as in jsonlex.pxd -----------------------------------------------------------------------------


cdef int walk(Walk* w, size_t start) noexcept nogil:
    """The whole document from its first byte at `start` to the last."""
    cdef Frame frames[SCAN_DEPTH]
    cdef Frame* top = frames - 1
    cdef const uint8_t* d = w.data
    cdef const ScanNode* nodes = w.rules.nodes
    cdef Py_ssize_t i = start
    cdef Py_ssize_t n = w.size
    cdef uint32_t node = DOCUMENT
    cdef uint8_t c
    while i < n:
        c = d[i]
        if c == c"{" or c == c"[":
            if top == frames + (SCAN_DEPTH - 1):
                return SCAN_MALFORMED
            top += 1
            top.start, top.node, top.close = i, node, c + 2
            i = skip_space(d, i + 1, n)
            if i < n and d[i] != top.close:
                if c == c"{":
                    i = read_key(w, i, top.node, &node)
                    if i == BAD:
                        return SCAN_MALFORMED
                else:
                    node = nodes[node].element
                continue
        else:
            i = read_scalar(w, i, node)
            if i == BAD:
                return SCAN_MALFORMED
        while True:                      # what follows a value: commas and closing brackets
            i = skip_space(d, i, n)
            if top < frames:
                return SCAN_OK if i == n else SCAN_MALFORMED
            if i == n:
                return SCAN_MALFORMED
            if d[i] == c",":
                i = skip_space(d, i + 1, n)
                if top.close == c"]":
                    node = nodes[top.node].element
                else:
                    i = read_key(w, i, top.node, &node)
                    if i == BAD:
                        return SCAN_MALFORMED
                break
            if d[i] != top.close:
                return SCAN_MALFORMED
            i += 1
            if nodes[top.node].matters:
                meet_container(w, top, i)
            top -= 1
    return SCAN_MALFORMED


cdef inline Py_ssize_t read_key(Walk* w, Py_ssize_t i, uint32_t parent, uint32_t* node) noexcept nogil:
    """`"key" :` and the space around, in an object at `parent`; `node`: where its value is."""
    cdef const uint8_t* d = w.data
    cdef Py_ssize_t n = w.size
    cdef Py_ssize_t start = i + 1
    cdef uint32_t escaped = 0
    if i >= n or d[i] != c'"':
        return BAD
    i = string_end(d, start, n, &escaped)
    if i == BAD:
        return BAD
    if escaped:
        node[0] = child_escaped(w.rules, parent, d + start, i - start)
    else:
        node[0] = child(w.rules, parent, d + start, i - start)
    i = skip_space(d, i + 1, n)
    if i >= n or d[i] != c":":
        return BAD
    return skip_space(d, i + 1, n)


cdef inline Py_ssize_t read_scalar(Walk* w, Py_ssize_t i, uint32_t node) noexcept nogil:
    """A string, number or literal that begins at i < size."""
    cdef const uint8_t* d = w.data
    cdef Py_ssize_t n = w.size
    cdef Py_ssize_t end
    cdef Value value
    cdef uint8_t c = d[i]
    value.escaped = 0
    if c == c'"':
        i += 1
        end = string_end(d, i, n, &value.escaped)
        if end == BAD or not w.rules.nodes[node].matters:
            return end + 1 if end != BAD else BAD
        value.data, value.size, value.what = d + i, end - i, STRING
        meet(w, node, &value)
        return end + 1
    if c == c"n":
        return i + 4 if n - i >= 4 and memcmp(d + i, b"null", 4) == 0 else BAD
    if c == c"t":
        end = i + 4 if n - i >= 4 and memcmp(d + i, b"true", 4) == 0 else BAD
        value.what = TRUE
    elif c == c"f":
        return i + 5 if n - i >= 5 and memcmp(d + i, b"false", 5) == 0 else BAD
    else:
        end = number_end(d, i, n, &value.number)
        value.what = NUMBER
    if end != BAD and w.rules.nodes[node].matters:
        value.data, value.size = d + i, end - i
        meet(w, node, &value)
    return end


# --- rules: from a key to its place, from a value to what it means ---------------------------------------------------


cdef inline uint32_t child(const ScanRules* rules, uint32_t parent, const uint8_t* key, size_t size) noexcept nogil:
    cdef const ScanNode* node = rules.nodes + parent
    cdef const ScanKey* k
    cdef uint32_t i
    if not (node.lengths >> (size & 31)) & 1:
        return NOTHING
    k = rules.keys + node.first_child
    for i in range(node.child_count):
        if k[i].size == size and same_key(rules.bytes + k[i].offset, key, size):
            return k[i].node
    return NOTHING


cdef uint32_t child_escaped(const ScanRules* rules, uint32_t parent, const uint8_t* key, size_t size) noexcept nogil:
    cdef uint8_t plain[6 * LONGEST]
    if not rules.nodes[parent].child_count or size > sizeof(plain):
        return NOTHING
    size = unescape(key, size, plain)
    return child(rules, parent, plain, size)


cdef void meet(Walk* w, uint32_t at, Value* value) noexcept nogil:
    """A value at a place that has rules."""
    cdef const ScanNode* node = w.rules.nodes + at
    if node.guard_count and value.what == STRING:
        w.guards |= guard_bits(w.rules, node, value)
    if node.role:
        take(node.role, value, w.found)
    if node.case_count and w.waiting < WAITING:
        w.nodes[w.waiting] = at
        w.values[w.waiting] = value[0]
        w.waiting += 1


cdef void meet_container(Walk* w, const Frame* frame, size_t end) noexcept nogil:
    cdef Value value
    value.data, value.size = w.data + frame.start, end - frame.start
    value.what, value.escaped, value.number = CONTAINER, 0, -1
    meet(w, frame.node, &value)


cdef uint32_t guard_bits(const ScanRules* rules, const ScanNode* node, const Value* value) noexcept nogil:
    cdef uint8_t plain[6 * LONGEST]
    cdef const uint8_t* data = value.data
    cdef size_t size = value.size
    cdef const ScanGuard* guard = rules.guards + node.first_guard
    cdef uint32_t i, bits = 0
    if size > sizeof(plain):
        return 0
    if value.escaped:
        size = unescape(data, size, plain)
        data = plain
    for i in range(node.guard_count):
        if guard[i].size == size and memcmp(rules.bytes + guard[i].offset, data, size) == 0:
            bits |= guard[i].bits
    return bits


cdef void settle(Walk* w) noexcept nogil:
    """The end of the event: what waited for guards counts where one of them was met."""
    cdef uint32_t i, j
    cdef const ScanNode* node
    cdef const ScanCase* case
    for i in range(w.waiting):
        node = w.rules.nodes + w.nodes[i]
        for j in range(node.case_count):
            case = w.rules.cases + (node.first_case + j)
            if case.guards & w.guards:
                take(<Role>case.role, w.values + i, w.found)
    if w.found.beside and w.found.input_tokens >= 0:
        w.found.input_tokens = <int32_t>min(w.found.input_tokens + w.found.beside, <int64_t>INT32_MAX)


cdef void take(uint32_t role, const Value* value, ScanFound* found) noexcept nogil:
    cdef bint fresh
    if role <= ROLE_TOOL:
        if value.what == STRING and value.size:
            # the first visible text; where there is none, the first of what else was generated
            fresh = found.text.data == NULL or (role == ROLE_TEXT and not found.kind & KIND_TEXT)
            found.kind |= <uint32_t>1 << (role - ROLE_TEXT)
            if fresh:
                found.text = span(value.data, value.size)
                found.text_escaped = value.escaped
    elif role == ROLE_ROLE:
        if value.what == STRING and value.size:
            found.kind |= KIND_ROLE
    elif role == ROLE_FINISH:
        take_finish(value, found)
    elif role <= ROLE_CACHED_BESIDE:
        if value.what == NUMBER and value.number >= 0:
            found.kind |= KIND_USAGE
            take_tokens(role, <int32_t>value.number, found)
    elif role == ROLE_TOKEN_IDS:
        if value.what == CONTAINER and found.token_ids < 0 and value.data[0] == c"[":
            found.token_ids = 0
    elif role == ROLE_TOKEN_ID:
        if value.what == NUMBER:
            found.token_ids = max(found.token_ids, 0) + 1
    elif role == ROLE_ERROR:
        if value.what != STRING or value.size:
            found.kind |= KIND_ERROR
            # an error string keeps its quotes, so that the span is JSON
            found.error = span(value.data - 1, value.size + 2) if value.what == STRING else span(value.data, value.size)
    elif role == ROLE_DONE:
        if value.what == TRUE or (value.what == STRING and value.size):
            found.done = 1


cdef void take_tokens(uint32_t role, int32_t number, ScanFound* found) noexcept nogil:
    if role == ROLE_INPUT_TOKENS:
        found.input_tokens = number
    elif role == ROLE_OUTPUT_TOKENS:
        found.output_tokens = number
    elif role == ROLE_REASONING_TOKENS:
        found.reasoning_tokens = number
    elif role == ROLE_CACHED_TOKENS:
        found.cached_tokens = number
    else:
        found.beside += number
        if role == ROLE_CACHED_BESIDE:
            found.cached_tokens = number


cdef void take_finish(const Value* value, ScanFound* found) noexcept nogil:
    if value.what == TRUE:
        found.finish = FINISH_STOP
        found.finish_reason = span(NULL, 0)
    elif value.what == STRING and value.size:
        found.finish = finish_code(value.data, value.size)
        found.finish_reason = span(value.data, value.size)
        found.finish_escaped = value.escaped
    else:
        return
    found.kind |= KIND_FINISH


cdef size_t scan_unescape(const uint8_t* data, size_t size, uint8_t* out) noexcept nogil:
    return unescape(data, size, out)


# --- the Python face -------------------------------------------------------------------------------------------------


from llmgen.wire import trie

globals()["Rules"] = trie.Rules  # for Python; a plain import would clash with the cimported name


class Error(ValueError):
    """The event is neither valid JSON nor [DONE]."""


cdef str string_of(Span s, bint escaped):
    cdef bytes raw = PyBytes_FromStringAndSize(<const char*>s.data, s.size)
    cdef bytes out = raw
    if escaped:
        out = PyBytes_FromStringAndSize(NULL, s.size)
        out = out[:unescape(s.data, s.size, <uint8_t*>PyBytes_AS_STRING(out))]
    return out.decode("utf-8", "replace")


cdef object json_of(Span s):
    """The value, or its text where Python cannot represent it (numbers of thousands of digits)."""
    cdef str text = string_of(s, False)
    try:
        return json.loads(text)
    except ValueError:
        return text


cdef class Scanner:
    """Scans events one by one. `remember`: compare each with the one before it first; the results are the same."""

    cdef Rules rules
    cdef ScanMemory memory
    cdef bint remember
    cdef readonly Py_ssize_t hits        # events that were told from an earlier one's bytes, without walking their JSON

    def __cinit__(self, dialect="chat", rules=None, *, remember=False):
        self.rules = rules if isinstance(rules, Rules) else Rules(dialect, rules)
        self.remember = remember
        self.memory.prefix = self.memory.misses = 0

    def scan(self, data):
        """What the event carries. `data`: its data as bytes or str. Error if it is neither JSON nor [DONE]."""
        cdef ScanFound found
        cdef Py_buffer view
        cdef int result
        if isinstance(data, str):
            data = data.encode("utf-8", "replace")
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            result = scan_event_after(
                self.rules.c, &self.memory if self.remember else NULL, <const uint8_t*>view.buf, view.len, &found
            )
            if result == SCAN_MALFORMED:
                raise Error(f"neither JSON nor [DONE]: {bytes(data)[:80]!r}")
            if found.kind & KIND_TOKENS and self.memory.prefix and self.memory.misses == 0:
                self.hits += 1
            return found_of(&found, result)
        finally:
            PyBuffer_Release(&view)


cdef object found_of(const ScanFound* f, int result):
    cdef dict usage = None
    cdef object finish = None
    if f.kind & KIND_USAGE:
        usage = {
            name: number
            for name, number in (
                ("input_tokens", f.input_tokens),
                ("output_tokens", f.output_tokens),
                ("reasoning_tokens", f.reasoning_tokens),
                ("cached_tokens", f.cached_tokens),
            )
            if number >= 0
        } or None
    if f.kind & KIND_FINISH:
        finish = string_of(f.finish_reason, f.finish_escaped) if f.finish_reason.data != NULL else "stop"
    return Found(
        Kind(f.kind),
        string_of(f.text, f.text_escaped) if f.text.data != NULL else None,
        usage,
        finish,
        json_of(f.error) if f.kind & KIND_ERROR else None,
        result == SCAN_DONE or f.done != 0,
        f.token_ids if f.token_ids >= 0 else None,
    )
