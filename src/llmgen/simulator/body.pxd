# What the JSON body of a request asks for: one walk over the bytes, nothing allocated, the whole document validated.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from llmgen.simulator.prefix cimport Prefix
from llmgen.wire.span cimport Span


cdef enum:
    ASK_OK = 0
    ASK_NOT_JSON = -1
    ASK_NOT_OBJECT = -2
    ASK_BAD_NUMBER = -3          # a limit of tokens is not an integer of at least 1 (min_tokens: 0)
    ASK_NO_PROMPT = -4           # without messages, prompt or input, whichever is the API's
    ASK_TOO_MANY = -5            # texts to embed, or dimensions
    MAX_ITEMS = 2048             # as OpenAI's
    MAX_DIMENSIONS = 4096


cdef struct Asked:
    int64_t max_tokens           # -1: not told
    int64_t min_tokens           # 0: not told
    uint32_t input_tokens        # whitespace-separated words of all contents
    uint32_t items               # texts to embed
    int64_t dimensions           # -1: not told
    bint stream
    bint include_usage
    bint continuous_usage        # usage in every event, as vLLM's continuous_usage_stats
    bint ignore_eos
    Span model                   # the JSON string without its quotes, escapes as sent; empty: not told


cdef int ask_read(const uint8_t* data, size_t size, uint32_t api, Asked* asked, Prefix* prefix) noexcept nogil
