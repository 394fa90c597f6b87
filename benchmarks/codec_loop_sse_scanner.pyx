"""The loop a connection runs over its reads: sse_give, sse_next, scan. Built by test_codecs_sse_scanner.py."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from llmgen.wire.scanner cimport Rules, ScanFound, ScanMemory, scan_event_after
from llmgen.wire.sse cimport SSE_EVENT, SseEvent, SseParser, sse_free, sse_give, sse_init, sse_next


def run(bytes body, size_t read_bytes, int rounds, Rules rules, bint remember):
    """Walk `body` `rounds` times in reads of `read_bytes`. Returns (events, token events, text bytes).

    `rules` None: sse alone.
    """
    cdef SseParser p
    cdef SseEvent event
    cdef ScanFound found
    cdef ScanMemory memory
    cdef uint64_t events = 0, tokens = 0, text = 0
    cdef size_t at, step, size = len(body)
    cdef const uint8_t* data = body
    cdef bint scan = rules is not None
    memory.prefix = memory.misses = 0
    sse_init(&p, 1 << 20)
    for _ in range(rounds):
        at = 0
        while at < size:
            step = min(read_bytes, size - at)
            sse_give(&p, data + at, step)
            while sse_next(&p, &event) == SSE_EVENT:
                events += 1
                if scan:
                    scan_event_after(rules.c, &memory if remember else NULL, event.data.data, event.data.size, &found)
                    tokens += found.kind & 7 != 0
                    text += found.text.size if found.kind & 7 else 0
            at += step
    sse_free(&p)
    return events, tokens, text
