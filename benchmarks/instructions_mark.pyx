"""Where callgrind counts: its client requests, which do nothing outside of it. Built by instructions.py."""


cdef extern from *:
    """
    #include <valgrind/callgrind.h>
    static void start(void) { CALLGRIND_START_INSTRUMENTATION; }
    static void stop(void) { CALLGRIND_STOP_INSTRUMENTATION; }
    static void dump(const char *name) { CALLGRIND_DUMP_STATS_AT(name); }
    """
    void start()
    void stop()
    void dump(const char* name)


def counted(work, int rounds, bytes name):
    """Calls work(rounds) and has callgrind write down what it took under `name`."""
    cdef const char* text = name
    start()
    work(rounds)
    dump(text)
    stop()
