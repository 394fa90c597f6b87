# What one event of an LLM's answer carries, found by walking its JSON once, without allocating.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t

from llmgen.wire.span cimport Span


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


cdef struct ScanFound:
    uint32_t kind                # KIND_ bits
    uint32_t finish              # columns.Finish
    int32_t input_tokens         # -1: not told
    int32_t output_tokens
    int32_t reasoning_tokens
    int32_t cached_tokens
    int32_t token_ids            # number of token ids in the event, -1: none told
    uint32_t text_escaped        # the text holds backslash escapes
    Span text                    # of the first text, reasoning or tool string, without its quotes
    Span error                   # the value of the error member, raw JSON


# A dialect's rules, compiled to a flat trie of keys; shared by all streams, never written after compilation.
cdef struct ScanRules
