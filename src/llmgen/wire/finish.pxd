# Finish reasons of all APIs as columns.Finish.

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp


cdef enum:                       # columns.Finish
    FINISH_STOP = 1
    FINISH_OTHER = 5


cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>

    typedef struct { const char *text; size_t size; uint32_t code; } llmgen_finish_name;
    #define NAME(text, code) {text, sizeof(text) - 1, code}
    /* As OpenAI, Anthropic, Ollama, TGI, vLLM, SGLang and (the last three) llama.cpp's own API write it. */
    static const llmgen_finish_name LLMGEN_FINISH_NAMES[] = {
        NAME("stop", 1), NAME("length", 2), NAME("tool_calls", 3), NAME("content_filter", 4),
        NAME("function_call", 3), NAME("end_turn", 1), NAME("max_tokens", 2), NAME("tool_use", 3),
        NAME("stop_sequence", 1), NAME("refusal", 4), NAME("eos_token", 1), NAME("max_output_tokens", 2),
        NAME("completed", 1), NAME("eos", 1), NAME("word", 1), NAME("limit", 2), {NULL, 0, 0}
    };
    #undef NAME
    """
    ctypedef struct FinishName "llmgen_finish_name":
        const char* text
        size_t size
        uint32_t code
    const FinishName* FINISH_NAMES "LLMGEN_FINISH_NAMES"


cdef inline uint32_t finish_code(const uint8_t* s, size_t n) noexcept nogil:
    """columns.Finish of a reason as OpenAI, Anthropic, Ollama, TGI and vLLM write it."""
    cdef const FinishName* name = FINISH_NAMES
    while name.text != NULL:
        if name.size == n and memcmp(name.text, s, n) == 0:
            return name.code
        name += 1
    return FINISH_OTHER
