"""Packs a dialect's rules (rules.py, where they are written and compiled) into flat C arrays for the scanner."""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from llmgen.wire import rules as written

_ROLES = {
    "text": ROLE_TEXT,
    "reasoning": ROLE_REASONING,
    "tool": ROLE_TOOL,
    "role": ROLE_ROLE,
    "finish": ROLE_FINISH,
    "input_tokens": ROLE_INPUT_TOKENS,
    "output_tokens": ROLE_OUTPUT_TOKENS,
    "reasoning_tokens": ROLE_REASONING_TOKENS,
    "cached_tokens": ROLE_CACHED_TOKENS,
    "input_tokens_beside": ROLE_INPUT_BESIDE,
    "cached_tokens_beside": ROLE_CACHED_BESIDE,
    "token_ids": ROLE_TOKEN_IDS,
    "token_id": ROLE_TOKEN_ID,
    "error": ROLE_ERROR,
    "done": ROLE_DONE,
}


cdef class Rules:
    """A dialect's rules, compiled. `dialect`: a name in rules.DIALECTS; `rules`: own ones instead (see rules.Rule)."""

    def __cinit__(self, dialect="chat", rules=None):
        if rules is None:
            if dialect not in written.DIALECTS:
                raise ValueError(f"dialect {dialect!r}: known are {', '.join(sorted(written.DIALECTS))}")
            rules = written.DIALECTS[dialect]
        else:
            dialect = "custom"
        self.dialect = dialect
        self.rules = tuple(rules)
        self.c = pack(written.compile_rules(self.rules))

    def __dealloc__(self):
        if self.c != NULL:
            free_rules(self.c)


cdef void free_rules(ScanRules* r) noexcept:
    free(r.nodes)
    free(r.keys)
    free(r.cases)
    free(r.guards)
    free(r.bytes)
    free(r)


cdef ScanRules* pack(object trie) except NULL:
    """The flat form of a rules.Trie."""
    cdef ScanRules* r = <ScanRules*>calloc(1, sizeof(ScanRules))
    cdef list nodes = trie.nodes
    if r == NULL:
        raise MemoryError
    # one element more than needed: calloc(0) may be NULL
    r.nodes = <ScanNode*>calloc(len(nodes), sizeof(ScanNode))
    r.keys = <ScanKey*>calloc(sum(len(node.children) for node in nodes) + 1, sizeof(ScanKey))
    r.cases = <ScanCase*>calloc(sum(len(node.cases) for node in nodes) + 1, sizeof(ScanCase))
    r.guards = <ScanGuard*>calloc(sum(len(node.guards) for node in nodes) + 1, sizeof(ScanGuard))
    r.bytes = <uint8_t*>calloc(sum(len(key) for node in nodes for key in (*node.children, *node.guards)) + 1, 1)
    r.memorable = trie.memorable()
    if r.nodes == NULL or r.keys == NULL or r.cases == NULL or r.guards == NULL or r.bytes == NULL:
        free_rules(r)
        raise MemoryError
    fill(r, nodes)
    return r


cdef int fill(ScanRules* r, list nodes) except -1:
    cdef uint32_t keys = 0, cases = 0, guards = 0, size = 0
    cdef ScanNode* flat = r.nodes
    for node in nodes:
        flat.first_child, flat.child_count = keys, len(node.children)
        flat.first_case, flat.case_count = cases, len(node.cases)
        flat.first_guard, flat.guard_count = guards, len(node.guards)
        flat.element = node.element
        flat.role = _ROLES[node.role] if node.role else ROLE_NONE
        flat.matters = bool(node.role or node.cases or node.guards)
        for key, child_node in node.children.items():
            flat.lengths |= <uint32_t>1 << (len(key) & 31)
            r.keys[keys].offset, r.keys[keys].size, r.keys[keys].node = size, len(key), child_node
            memcpy(r.bytes + size, PyBytes_AS_STRING(key), len(key))
            size += <uint32_t>len(key)
            keys += 1
        for bits, role in node.cases:
            r.cases[cases].guards, r.cases[cases].role = bits, _ROLES[role]
            cases += 1
        for value, bits in node.guards.items():
            r.guards[guards].bits, r.guards[guards].offset, r.guards[guards].size = bits, size, len(value)
            memcpy(r.bytes + size, PyBytes_AS_STRING(value), len(value))
            size += <uint32_t>len(value)
            guards += 1
        flat += 1
    return 0
