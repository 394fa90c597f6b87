# What one event of an LLM's answer carries, found by walking its JSON once, without allocating.
#
#   scan_event(rules.c, data, size, &found)                    SCAN_OK, SCAN_DONE or SCAN_MALFORMED
#   scan_event_after(rules.c, &memory, data, size, &found)     the same result, faster along a stream of like events

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t

from llmgen.wire.span cimport Span
from llmgen.wire.trie cimport Rules, ScanRules


cdef enum:                       # = columns.Kind
    KIND_TEXT = 1
    KIND_REASONING = 2
    KIND_TOOL = 4
    KIND_ROLE = 8
    KIND_FINISH = 16
    KIND_USAGE = 32
    KIND_ERROR = 64
    KIND_TOKENS = 7              # text, reasoning or tool


cdef enum:
    SCAN_OK = 0
    SCAN_DONE = 1                # the [DONE] marker, not JSON
    SCAN_MALFORMED = -1


cdef struct ScanFound:           # spans lie in the scanned bytes
    uint32_t kind                # KIND_ bits
    uint32_t finish              # columns.Finish
    int32_t input_tokens         # -1: not told
    int32_t output_tokens
    int32_t reasoning_tokens
    int32_t cached_tokens
    int32_t token_ids            # number of token ids in the event, -1: none told
    uint32_t text_escaped        # the text holds backslash escapes
    Span text                    # of the first visible text, else of the first reasoning or tool string, without its quotes
    Span error                   # the value of the error member, raw JSON
    Span finish_reason           # the string that `finish` was made from, without its quotes
    uint32_t done                # the event itself says that the answer is over (rule role `done`)
    uint32_t finish_escaped
    int64_t beside               # prompt tokens of the event that input_tokens leave out; added to it at the end


# What a stream remembers of its last event: all bytes before its text and all bytes after. Zeroed is initialised.
cdef struct ScanMemory:
    uint16_t prefix              # 0: nothing remembered
    uint16_t suffix
    uint16_t kind
    uint16_t misses              # events in a row that were not like the one before
    uint8_t bytes[248]           # prefix, then suffix; 256 bytes in all: four cache lines a stream


cdef int scan_event(const ScanRules* rules, const uint8_t* data, size_t size, ScanFound* found) noexcept nogil
cdef int scan_event_after(
    const ScanRules* rules, ScanMemory* memory, const uint8_t* data, size_t size, ScanFound* found
) noexcept nogil                 # memory == NULL: scan_event

# Resolves the escapes of a JSON string's inside (as in ScanFound.text) to UTF-8; `out` needs `size` bytes. Lone
# surrogates become U+FFFD. Returns the bytes written.
cdef size_t scan_unescape(const uint8_t* data, size_t size, uint8_t* out) noexcept nogil
