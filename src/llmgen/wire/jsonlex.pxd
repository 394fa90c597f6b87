# The lexical rules of JSON (RFC 8259), for the scanner. Every reader takes the index where it begins and gives the
# index behind what it read, or BAD; none reads a byte outside of [0, n).

from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint8_t, uint32_t


cdef enum:
    BAD = -1


cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>
    #if defined(__SSE2__)
    #include <emmintrin.h>
    #endif

    /* Index >= i of the first quote, backslash or control character; n if there is none. */
    static inline size_t llmgen_string_stop(const uint8_t *d, size_t i, size_t n) {
    #if defined(__SSE2__)
        const __m128i quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8('\\\\'), control = _mm_set1_epi8(0x1f);
        while (i < n) {
            /* the last step reads 16 bytes that end at n and forgets those before i */
            size_t at = i + 16 <= n ? i : n >= 16 ? n - 16 : n;
            if (at == n) break;
            __m128i x = _mm_loadu_si128((const __m128i *)(d + at));
            unsigned hits = (unsigned)_mm_movemask_epi8(_mm_or_si128(
                _mm_or_si128(_mm_cmpeq_epi8(x, quote), _mm_cmpeq_epi8(x, backslash)),
                _mm_cmpeq_epi8(_mm_min_epu8(x, control), x))) >> (i - at);
            if (hits) return i + (size_t)__builtin_ctz(hits);
            i = at + 16;
        }
    #endif
        while (i < n && d[i] != '"' && d[i] != '\\\\' && d[i] >= 0x20) i++;
        return i;
    }

    static inline uint64_t llmgen_load8(const uint8_t *p) { uint64_t x; memcpy(&x, p, 8); return x; }
    static inline uint32_t llmgen_load4(const uint8_t *p) { uint32_t x; memcpy(&x, p, 4); return x; }

    /* memcmp(a, b, n) == 0 for keys: most have 4 to 16 bytes, which two overlapping loads cover without a call. */
    static inline int llmgen_same_key(const uint8_t *a, const uint8_t *b, size_t n) {
        if (n >= 8 && n <= 16)
            return !((llmgen_load8(a) ^ llmgen_load8(b)) | (llmgen_load8(a + n - 8) ^ llmgen_load8(b + n - 8)));
        if (n >= 4 && n < 8)
            return !((llmgen_load4(a) ^ llmgen_load4(b)) | (llmgen_load4(a + n - 4) ^ llmgen_load4(b + n - 4)));
        return memcmp(a, b, n) == 0;
    }
    """
    size_t string_stop "llmgen_string_stop"(const uint8_t* d, size_t i, size_t n) noexcept nogil
    bint same_key "llmgen_same_key"(const uint8_t* a, const uint8_t* b, size_t n) noexcept nogil


cdef inline Py_ssize_t skip_space(const uint8_t* d, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    while i < n and d[i] <= c" " and (d[i] == c" " or d[i] == c"\n" or d[i] == c"\r" or d[i] == c"\t"):
        i += 1
    return i


cdef inline int32_t hex4(const uint8_t* d, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Four hexadecimal digits at i, -1 if they are not there."""
    cdef int32_t number = 0
    cdef Py_ssize_t end = i + 4
    if end > n:
        return -1
    while i < end:
        number <<= 4
        if c"0" <= d[i] <= c"9":
            number |= d[i] - c"0"
        elif c"a" <= (d[i] | 0x20) <= c"f":
            number |= (d[i] | 0x20) - c"a" + 10
        else:
            return -1
        i += 1
    return number


cdef inline bint is_escape(uint8_t c) noexcept nogil:
    return (c == c'"' or c == c"\\" or c == c"/" or c == c"b" or c == c"f" or c == c"n" or c == c"r" or c == c"t")


cdef inline Py_ssize_t string_end_escaped(const uint8_t* d, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    while i < n and d[i] == c"\\":
        if i + 1 == n:
            return BAD
        if d[i + 1] == c"u":
            if hex4(d, i + 2, n) < 0:
                return BAD
            i += 6
        elif is_escape(d[i + 1]):
            i += 2
        else:
            return BAD
        i = string_stop(d, i, n)
        if i < n and d[i] == c'"':
            return i
    return BAD                           # the end of the data, or a control character


cdef inline Py_ssize_t string_end(const uint8_t* d, Py_ssize_t i, Py_ssize_t n, uint32_t* escaped) noexcept nogil:
    """Index of the quote that closes the string whose inside begins at i."""
    i = string_stop(d, i, n)
    if i < n and d[i] == c'"':
        return i
    escaped[0] = 1
    return string_end_escaped(d, i, n)


cdef inline Py_ssize_t digits_end(const uint8_t* d, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """At least one digit."""
    cdef Py_ssize_t start = i
    while i < n and c"0" <= d[i] <= c"9":
        i += 1
    return i if i > start else BAD


cdef inline Py_ssize_t number_end(const uint8_t* d, Py_ssize_t i, Py_ssize_t n, int64_t* number) noexcept nogil:
    """`number` is -1 unless it is written as a whole number from 0 to 2^31-1 ("-0" and "1e3" are not)."""
    cdef bint whole = True
    cdef Py_ssize_t start
    number[0] = 0
    if i < n and d[i] == c"-":
        whole = False
        i += 1
    start = i
    while i < n and c"0" <= d[i] <= c"9":
        if number[0] <= INT32_MAX:
            number[0] = number[0] * 10 + (d[i] - c"0")
        i += 1
    if i == start or (d[start] == c"0" and i - start > 1):
        return BAD
    if i < n and d[i] == c".":
        whole = False
        i = digits_end(d, i + 1, n)
    if i != BAD and i < n and (d[i] == c"e" or d[i] == c"E"):
        whole = False
        i += 1
        if i < n and (d[i] == c"+" or d[i] == c"-"):
            i += 1
        i = digits_end(d, i, n)
    if not whole or number[0] > INT32_MAX:
        number[0] = -1
    return i


cdef inline uint8_t unescaped(uint8_t c) noexcept nogil:
    if c == c"n":
        return c"\n"
    if c == c"t":
        return c"\t"
    if c == c"r":
        return c"\r"
    if c == c"b":
        return c"\b"
    if c == c"f":
        return c"\f"
    return c


cdef inline size_t put_utf8(uint32_t code, uint8_t* out) noexcept nogil:
    """At most 3 bytes for one escape of 6, 4 for a pair of 12: never more than the escape had."""
    if code < 0x80:
        out[0] = <uint8_t>code
        return 1
    if code < 0x800:
        out[0] = <uint8_t>(0xC0 | code >> 6)
        out[1] = <uint8_t>(0x80 | (code & 0x3F))
        return 2
    if code < 0x10000:
        out[0] = <uint8_t>(0xE0 | code >> 12)
        out[1] = <uint8_t>(0x80 | (code >> 6 & 0x3F))
        out[2] = <uint8_t>(0x80 | (code & 0x3F))
        return 3
    out[0] = <uint8_t>(0xF0 | code >> 18)
    out[1] = <uint8_t>(0x80 | (code >> 12 & 0x3F))
    out[2] = <uint8_t>(0x80 | (code >> 6 & 0x3F))
    out[3] = <uint8_t>(0x80 | (code & 0x3F))
    return 4


cdef inline size_t unescape(const uint8_t* data, size_t size, uint8_t* out) noexcept nogil:
    """Resolve the escapes of a string's inside; `out` has `size` bytes. Lone surrogates: U+FFFD. Bytes written."""
    cdef size_t i = 0, end = 0
    cdef int32_t code, low
    while i < size:
        if data[i] != c"\\" or i + 1 == size:
            out[end] = data[i]
            i += 1
            end += 1
            continue
        if data[i + 1] != c"u":
            out[end] = unescaped(data[i + 1])
            i += 2
            end += 1
            continue
        code = hex4(data, i + 2, size)
        i += 6
        if 0xD800 <= code < 0xDC00 and i + 6 <= size and data[i] == c"\\" and data[i + 1] == c"u":
            low = hex4(data, i + 2, size)
            if 0xDC00 <= low < 0xE000:
                code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
                i += 6
        if code < 0 or 0xD800 <= code < 0xE000:
            code = 0xFFFD
        end += put_utf8(<uint32_t>code, out + end)
    return end
