# A dialect's rules in the flat form that the scanner walks by. `from llmgen.wire.scanner cimport Rules` gives the same.

from libc.stdint cimport uint8_t, uint16_t, uint32_t


cdef enum Role:
    ROLE_NONE
    ROLE_TEXT                    # the first three in the order of their KIND_ bits
    ROLE_REASONING
    ROLE_TOOL
    ROLE_ROLE
    ROLE_FINISH
    ROLE_INPUT_TOKENS
    ROLE_OUTPUT_TOKENS
    ROLE_REASONING_TOKENS
    ROLE_CACHED_TOKENS
    ROLE_INPUT_BESIDE            # prompt tokens that input_tokens leave out
    ROLE_CACHED_BESIDE           # such ones that are cached tokens, too
    ROLE_TOKEN_IDS               # an array of numbers; its elements have ROLE_TOKEN_ID
    ROLE_TOKEN_ID
    ROLE_ERROR
    ROLE_DONE


cdef enum:                       # nodes
    NOTHING = 0                  # no rules here or deeper
    DOCUMENT = 1


# A node is a place in the document.
cdef struct ScanNode:
    uint32_t lengths             # bit (size & 31) for every child key's size: most keys are refused by this alone
    uint16_t first_child         # children lie side by side in `keys`
    uint16_t child_count
    uint16_t element             # node of an array's elements, 0: none
    uint16_t first_case          # roles that depend on a guard
    uint16_t first_guard         # strings which this member's value is compared with
    uint8_t case_count
    uint8_t guard_count
    uint8_t role                 # role that always holds, 0: none
    uint8_t matters              # its value is looked at: it has a role, cases or guards


cdef struct ScanKey:
    uint32_t offset              # in `bytes`
    uint16_t size
    uint16_t node


cdef struct ScanCase:
    uint32_t guards              # any of these guard bits must be set at the end of the event
    uint32_t role


cdef struct ScanGuard:
    uint32_t bits                # guard bits set when the member's value equals the string
    uint32_t offset              # in `bytes`
    uint32_t size


# Shared by all streams, never written after compilation.
cdef struct ScanRules:
    ScanNode* nodes
    ScanKey* keys
    ScanCase* cases
    ScanGuard* guards
    uint8_t* bytes
    uint32_t memorable           # nothing but the span and emptiness of a text depends on the text's own bytes


cdef class Rules:
    cdef ScanRules* c            # never NULL, valid as long as this object lives
    cdef readonly str dialect
    cdef readonly tuple rules
