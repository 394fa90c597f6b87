"""Reads what a request for an answer asks for.

The walker is a recursive descent over RFC 8259 with a bounded depth. It counts whitespace-separated words while it
passes over the strings that are prompt text; that count is the simulator's prompt token count.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memset

from llmgen.simulator.prefix cimport Prefix, prefix_word, word_hash
from llmgen.simulator.server cimport API_CHAT, API_COMPLETIONS, API_EMBEDDINGS, API_OLLAMA, API_RESPONSES
from llmgen.wire.span cimport Span, span

cdef enum:
    NOT_PROMPT = 1               # the member is another one
    MAX_DEPTH = 64               # deeper than any request of the APIs served here; bounds the C stack
    MAX_COUNT = 1000000000       # larger token limits are read as this one

# What a byte is inside of a JSON string.
cdef enum:
    PLAIN = 0
    BLANK = 1
    QUOTE = 2
    ESCAPE = 3
    INVALID = 4                  # control characters must be escaped

cdef uint8_t KIND[256]
memset(KIND, PLAIN, 256)
memset(KIND, INVALID, 32)
KIND[32] = BLANK
KIND[34] = QUOTE
KIND[92] = ESCAPE


cdef struct Walk:
    const uint8_t* at
    const uint8_t* end
    Prefix* prefix               # takes the words of the prompt; NULL: they are only counted
    int depth


cdef inline int look(Walk* w) noexcept nogil:
    """The next byte that is not whitespace, or -1 at the end; does not move past it."""
    cdef uint8_t byte
    while w.at < w.end:
        byte = w.at[0]
        if byte != 32 and byte != 10 and byte != 13 and byte != 9:
            return byte
        w.at += 1
    return -1


cdef inline int hex_value(uint8_t byte) noexcept nogil:
    if 48 <= byte <= 57:
        return byte - 48
    byte |= 32
    if 97 <= byte <= 102:
        return byte - 87
    return -1


cdef int escape(Walk* w) noexcept nogil:
    """Passes one escape, `at` behind its backslash; the character's value if it is below 128, 128 if above, or -1."""
    cdef uint8_t byte
    cdef int value = 0, digit, i
    if w.at >= w.end:
        return -1
    byte = w.at[0]
    w.at += 1
    if byte == c'n':
        return 10
    if byte == c't':
        return 9
    if byte == c'r':
        return 13
    if byte == c'f':
        return 12
    if byte == c'b':
        return 8
    if byte == c'"' or byte == c'\\' or byte == c'/':
        return byte
    if byte != c'u' or w.end - w.at < 4:
        return -1
    for i in range(4):
        digit = hex_value(w.at[i])
        if digit < 0:
            return -1
        value = value * 16 + digit
    w.at += 4
    return value if value < 128 else 128


cdef bint string(Walk* w, Span* text, uint32_t* words) noexcept nogil:
    """Passes a string whose opening quote is next. `text` gets its raw inside, `words` is raised by its words."""
    cdef const uint8_t* start
    cdef bint blank = True
    cdef uint32_t count = 0
    cdef uint8_t kind
    cdef int value
    if look(w) != c'"':
        return False
    w.at += 1
    start = w.at
    while w.at < w.end:
        kind = KIND[w.at[0]]
        w.at += 1
        if kind == PLAIN:
            count += blank
            blank = False
        elif kind == BLANK:
            blank = True
        elif kind == QUOTE:
            text[0] = span(start, w.at - 1 - start)
            words[0] += count
            return True
        elif kind == ESCAPE:
            value = escape(w)
            if value < 0:
                return False
            if value == 32 or 9 <= value <= 13:
                blank = True
            else:
                count += blank
                blank = False
        else:
            return False
    return False


cdef void take_words(Walk* w, const Span* text) noexcept nogil:
    """Hashes the words of a string that `string` has passed: the same ones that it has counted."""
    cdef Walk inner
    cdef const uint8_t* word = NULL
    cdef const uint8_t* at
    cdef int value
    inner.at = text.data
    inner.end = text.data + text.size
    while inner.at < inner.end:
        at = inner.at
        value = at[0]
        inner.at += 1
        if value == c'\\':
            value = escape(&inner)
            if value != 32 and not 9 <= value <= 13:
                value = 128
        if value == 32 or (at[0] == c'\\' and value != 128):
            if word != NULL:
                prefix_word(w.prefix, word_hash(word, at - word))
            word = NULL
        elif word == NULL:
            word = at
    if word != NULL:
        prefix_word(w.prefix, word_hash(word, inner.end - word))


cdef bint prose(Walk* w, uint32_t* words) noexcept nogil:
    """Passes a string that is part of the prompt."""
    cdef Span text
    if not string(w, &text, words):
        return False
    if w.prefix != NULL:
        take_words(w, &text)
    return True


cdef bint number(Walk* w) noexcept nogil:
    """Passes a number (RFC 8259, section 6)."""
    cdef const uint8_t* digits
    if w.at < w.end and w.at[0] == c'-':
        w.at += 1
    digits = w.at
    while w.at < w.end and 48 <= w.at[0] <= 57:
        w.at += 1
    if w.at == digits or (digits[0] == c'0' and w.at - digits > 1):
        return False
    if w.at < w.end and w.at[0] == c'.':
        w.at += 1
        digits = w.at
        while w.at < w.end and 48 <= w.at[0] <= 57:
            w.at += 1
        if w.at == digits:
            return False
    if w.at < w.end and (w.at[0] | 32) == c'e':
        w.at += 1
        if w.at < w.end and (w.at[0] == c'+' or w.at[0] == c'-'):
            w.at += 1
        digits = w.at
        while w.at < w.end and 48 <= w.at[0] <= 57:
            w.at += 1
        if w.at == digits:
            return False
    return True


cdef bint literal(Walk* w, const char* text, size_t size) noexcept nogil:
    if <size_t>(w.end - w.at) < size or memcmp(w.at, text, size) != 0:
        return False
    w.at += size
    return True


cdef bint value(Walk* w) noexcept nogil:
    """Passes any value."""
    cdef Span ignored
    cdef uint32_t words = 0
    cdef int byte = look(w)
    if byte == c'"':
        return string(w, &ignored, &words)
    if byte == c'{' or byte == c'[':
        return container(w, byte == c'{')
    if byte == c't':
        return literal(w, b"true", 4)
    if byte == c'f':
        return literal(w, b"false", 5)
    if byte == c'n':
        return literal(w, b"null", 4)
    return number(w)


cdef bint container(Walk* w, bint is_object) noexcept nogil:
    cdef Span key
    cdef int more = enter(w)
    while more > 0:
        if is_object and not member(w, &key):
            return False
        if not value(w):
            return False
        more = another(w, is_object)
    return more == 0


cdef int enter(Walk* w) noexcept nogil:
    """Passes the opening bracket that is next: 1 with an element behind it, 0 if empty, -1 too deep or cut."""
    cdef uint8_t opening = w.at[0]
    cdef int byte
    w.at += 1
    w.depth += 1
    if w.depth > MAX_DEPTH:
        return -1
    byte = look(w)
    if byte < 0:
        return -1
    if byte == opening + 2:      # ']' and '}' lie two behind their openings in ASCII
        w.at += 1
        w.depth -= 1
        return 0
    return 1


cdef int another(Walk* w, bint is_object) noexcept nogil:
    """Behind an element: 1 if a comma was passed, 0 if the container was closed, -1 otherwise."""
    cdef int byte = look(w)
    if byte == c',':
        w.at += 1
        return 1
    if byte == (c'}' if is_object else c']'):
        w.at += 1
        w.depth -= 1
        return 0
    return -1


cdef bint member(Walk* w, Span* key) noexcept nogil:
    """Passes a key and its colon."""
    cdef uint32_t words = 0
    if not string(w, key, &words) or look(w) != c':':
        return False
    w.at += 1
    return True


cdef inline bint named(const Span* key, const char* name, size_t size) noexcept nogil:
    return key.size == size and memcmp(key.data, name, size) == 0


cdef int count(Walk* w, int64_t least, int64_t* result) noexcept nogil:
    """An integer of at least `least`; null leaves `result` as it is. False is a number that cannot be a count."""
    cdef const uint8_t* start
    cdef int64_t total = 0
    if look(w) == c'n':
        return ASK_OK if literal(w, b"null", 4) else ASK_NOT_JSON
    start = w.at
    if not value(w):
        return ASK_NOT_JSON
    if start == w.at:
        return ASK_BAD_NUMBER
    while start < w.at:
        if not 48 <= start[0] <= 57:
            return ASK_BAD_NUMBER
        if total < MAX_COUNT:
            total = total * 10 + start[0] - 48
        start += 1
    if total < least:
        return ASK_BAD_NUMBER
    result[0] = total if total < MAX_COUNT else MAX_COUNT
    return ASK_OK


cdef int flag(Walk* w, bint* result) noexcept nogil:
    """A value that is true or something else."""
    if look(w) == c't':
        result[0] = True
        return ASK_OK if literal(w, b"true", 4) else ASK_NOT_JSON
    result[0] = False
    return ASK_OK if value(w) else ASK_NOT_JSON


cdef int contents(Walk* w, uint32_t* words) noexcept nogil:
    """A message's content: a string, or parts of which those of type text have a member `text`."""
    cdef Span key
    cdef int more, inner
    if look(w) == c'"':
        return ASK_OK if prose(w, words) else ASK_NOT_JSON
    if look(w) != c'[':
        return ASK_OK if value(w) else ASK_NOT_JSON
    more = enter(w)
    while more > 0:
        if look(w) != c'{':
            if not value(w):
                return ASK_NOT_JSON
        else:
            inner = enter(w)
            while inner > 0:
                if not member(w, &key):
                    return ASK_NOT_JSON
                if named(&key, b"text", 4) and look(w) == c'"':
                    if not prose(w, words):
                        return ASK_NOT_JSON
                elif not value(w):
                    return ASK_NOT_JSON
                inner = another(w, True)
            if inner < 0:
                return ASK_NOT_JSON
        more = another(w, False)
    return ASK_OK if more == 0 else ASK_NOT_JSON


cdef int messages(Walk* w, uint32_t* words) noexcept nogil:
    cdef Span key
    cdef int more, inner, result
    if look(w) != c'[':
        return ASK_NO_PROMPT if value(w) else ASK_NOT_JSON
    more = enter(w)
    if more == 0:
        return ASK_NO_PROMPT
    while more > 0:
        if look(w) != c'{':
            return ASK_NO_PROMPT if value(w) else ASK_NOT_JSON
        inner = enter(w)
        while inner > 0:
            if not member(w, &key):
                return ASK_NOT_JSON
            if named(&key, b"content", 7):
                result = contents(w, words)
                if result != ASK_OK:
                    return result
            elif not value(w):
                return ASK_NOT_JSON
            inner = another(w, True)
        if inner < 0:
            return ASK_NOT_JSON
        more = another(w, False)
    return ASK_OK if more == 0 else ASK_NOT_JSON


cdef int prompt(Walk* w, uint32_t* words) noexcept nogil:
    """A string, token ids (one token each), or an array of either."""
    cdef const uint8_t* digits
    cdef int byte = look(w), more, result
    if byte == c'"':
        return ASK_OK if prose(w, words) else ASK_NOT_JSON
    if byte == c'[':
        more = enter(w)
        while more > 0:
            result = prompt(w, words)
            if result != ASK_OK:
                return result
            more = another(w, False)
        return ASK_OK if more == 0 else ASK_NOT_JSON
    if byte == c'-' or 48 <= byte <= 57:
        words[0] += 1
        digits = w.at
        if not number(w):
            return ASK_NOT_JSON
        if w.prefix != NULL:
            prefix_word(w.prefix, word_hash(digits, w.at - digits))
        return ASK_OK
    return ASK_NO_PROMPT if value(w) else ASK_NOT_JSON


cdef int texts(Walk* w, Asked* asked) noexcept nogil:
    """What is to be embedded: a text or its token ids, or an array of either."""
    cdef bint ids
    cdef int more, result
    asked.items = 1
    if look(w) != c'[':
        return prompt(w, &asked.input_tokens)
    more = enter(w)
    ids = look(w) != c'"' and look(w) != c'['
    asked.items = more == 1 and ids
    while more > 0:
        asked.items += not ids
        result = prompt(w, &asked.input_tokens)
        if result != ASK_OK:
            return result
        more = another(w, False)
    if more < 0:
        return ASK_NOT_JSON
    if asked.items > MAX_ITEMS:
        return ASK_TOO_MANY
    return ASK_OK if asked.items > 0 else ASK_NO_PROMPT


cdef int dimensions(Walk* w, Asked* asked) noexcept nogil:
    cdef int result = count(w, 1, &asked.dimensions)
    return ASK_TOO_MANY if result == ASK_OK and asked.dimensions > MAX_DIMENSIONS else result


cdef int stream_options(Walk* w, Asked* asked) noexcept nogil:
    cdef Span key
    cdef int more, result
    if look(w) != c'{':
        return ASK_OK if value(w) else ASK_NOT_JSON
    more = enter(w)
    while more > 0:
        if not member(w, &key):
            return ASK_NOT_JSON
        if named(&key, b"include_usage", 13):
            result = flag(w, &asked.include_usage)
        elif named(&key, b"continuous_usage_stats", 22):
            result = flag(w, &asked.continuous_usage)
        else:
            result = ASK_OK if value(w) else ASK_NOT_JSON
        if result != ASK_OK:
            return result
        more = another(w, True)
    return ASK_OK if more == 0 else ASK_NOT_JSON


cdef void prompt_again(Walk* w, Asked* asked) noexcept nogil:
    """The last one of several prompts counts."""
    asked.input_tokens = 0
    if w.prefix != NULL:
        w.prefix.fold = w.prefix.words = w.prefix.count = 0


cdef int ollama_options(Walk* w, Asked* asked) noexcept nogil:
    cdef Span key
    cdef int more, result
    if look(w) != c'{':
        return ASK_OK if value(w) else ASK_NOT_JSON
    more = enter(w)
    while more > 0:
        if not member(w, &key):
            return ASK_NOT_JSON
        if named(&key, b"num_predict", 11):
            result = count(w, 1, &asked.max_tokens)
        else:
            result = ASK_OK if value(w) else ASK_NOT_JSON
        if result != ASK_OK:
            return result
        more = another(w, True)
    return ASK_OK if more == 0 else ASK_NOT_JSON


cdef int prompt_member(Walk* w, const Span* key, uint32_t api, Asked* asked, bint* prompted) noexcept nogil:
    """The API's own member with the prompt, else NOT_PROMPT."""
    if api == API_COMPLETIONS:
        if not named(key, b"prompt", 6):
            return NOT_PROMPT
    elif api == API_RESPONSES or api == API_EMBEDDINGS:
        if not named(key, b"input", 5):
            return NOT_PROMPT
    elif not named(key, b"messages", 8):
        return NOT_PROMPT
    prompt_again(w, asked)
    prompted[0] = True
    if api == API_COMPLETIONS:
        return prompt(w, &asked.input_tokens)
    if api == API_EMBEDDINGS:
        return texts(w, asked)
    if api == API_RESPONSES and look(w) == c'"':
        return ASK_OK if prose(w, &asked.input_tokens) else ASK_NOT_JSON
    return messages(w, &asked.input_tokens)


cdef int top_member(Walk* w, const Span* key, uint32_t api, Asked* asked, bint* prompted) noexcept nogil:
    """One member of the request object, `at` behind its colon."""
    cdef uint32_t words = 0
    cdef int result = prompt_member(w, key, api, asked, prompted)
    if result != NOT_PROMPT:
        return result
    if api == API_OLLAMA and named(key, b"options", 7):
        return ollama_options(w, asked)
    if api == API_RESPONSES and named(key, b"max_output_tokens", 17):
        return count(w, 1, &asked.max_tokens)
    if api == API_EMBEDDINGS:
        if named(key, b"dimensions", 10):
            return dimensions(w, asked)
    elif named(key, b"stream", 6):
        return flag(w, &asked.stream)
    if named(key, b"max_tokens", 10) or named(key, b"max_completion_tokens", 21):
        return count(w, 1, &asked.max_tokens)
    if named(key, b"min_tokens", 10):
        return count(w, 0, &asked.min_tokens)
    if named(key, b"ignore_eos", 10):
        return flag(w, &asked.ignore_eos)
    if named(key, b"stream_options", 14):
        return stream_options(w, asked)
    if named(key, b"model", 5) and look(w) == c'"':
        return ASK_OK if string(w, &asked.model, &words) else ASK_NOT_JSON
    return ASK_OK if value(w) else ASK_NOT_JSON


cdef int ask_read(const uint8_t* data, size_t size, uint32_t api, Asked* asked, Prefix* prefix) noexcept nogil:
    """Fills `asked` (and `prefix`, if there is one) from a whole body; ASK_OK or the first rule that was broken."""
    cdef Walk w
    cdef Span key
    cdef bint prompted = False
    cdef int more, result
    memset(asked, 0, sizeof(Asked))
    asked.max_tokens = asked.dimensions = -1
    asked.stream = api == API_OLLAMA             # its answers are streamed unless the request says otherwise
    w.at = data
    w.end = data + size
    w.depth = 0
    w.prefix = prefix
    if look(&w) != c'{':
        return ASK_NOT_OBJECT if value(&w) and look(&w) < 0 else ASK_NOT_JSON
    more = enter(&w)
    while more > 0:
        if not member(&w, &key):
            return ASK_NOT_JSON
        result = top_member(&w, &key, api, asked, &prompted)
        if result != ASK_OK:
            return result
        more = another(&w, True)
    if more < 0 or look(&w) >= 0:
        return ASK_NOT_JSON
    return ASK_OK if prompted else ASK_NO_PROMPT


def read(bytes data, uint32_t api=API_CHAT):
    """The request as a dict, or the negative ASK_ code: for tests. `api`: server.Api; True is chat, False completions."""
    cdef Asked asked
    cdef int result = ask_read(data, len(data), api, &asked, NULL)
    if result != ASK_OK:
        return result
    return {
        "max_tokens": asked.max_tokens,
        "min_tokens": asked.min_tokens,
        "input_tokens": asked.input_tokens,
        "stream": bool(asked.stream),
        "include_usage": bool(asked.include_usage),
        "continuous_usage": bool(asked.continuous_usage),
        "ignore_eos": bool(asked.ignore_eos),
        "items": asked.items,
        "dimensions": asked.dimensions,
        "model": asked.model.data[:asked.model.size] if asked.model.size else b"",
    }


def read_blocks(bytes data, uint32_t api, uint32_t block_words):
    """For tests: the hashes of the prompt's full blocks, and the number of words hashed."""
    cdef Asked asked
    cdef Prefix prefix
    memset(&prefix, 0, sizeof(Prefix))
    prefix.block_words = block_words
    cdef int result = ask_read(data, len(data), api, &asked, &prefix)
    hashes = [prefix.hashes[i] for i in range(prefix.count)]
    free(prefix.hashes)
    if result != ASK_OK:
        return result
    return hashes, prefix.words
