"""What is fuzzed: for each codec inputs that are nearly right, and what must hold for any input.

`run` gives one input to a codec and returns a signature of what happened; inputs with a new signature are kept for
further changes. It raises Broken if something that must hold does not. Errors of the codec's own class are answers;
any other exception is a bug, and so is what the sanitizers say.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from random import Random
from typing import Any

import exact
from mutator import cut

Signature = Hashable
Events = list[Any]


class Broken(Exception):
    """Something that must hold for any input does not."""


@dataclass(frozen=True)
class Target:
    """One codec: `generate` makes an input, `run` tries one (its generator decides limits and cuts)."""

    name: str
    tokens: Sequence[bytes]
    generate: Callable[[Random], bytes]
    run: Callable[[bytes, Random], Signature]


def same(what: str, one: object, other: object) -> None:
    if one != other:
        raise Broken(f"{what}:\n  {one!r}\n  {other!r}")


def kinds(events: Events) -> tuple[str, ...]:
    """The order of the kinds of events, repetitions joined."""
    return tuple(kind for kind, _ in groupby(event[0] for event in events))[:12]


# ---- sse

SSE_TOKENS = (
    *(b"data:", b"data: ", b"data", b"event: ", b"id: ", b"retry: ", b": comment", b"\n", b"\r", b"\r\n", b"\n\n"),
    *(
        b"\r\r",
        b"\xef\xbb\xbf",
        b"\xef",
        b"\xe2\x82\xac",
        b"\xf0\x9f\x98\x80",
        b"[DONE]",
        b"\0",
        b"99999999999999999999",
    ),
)


def generate_sse(rng: Random) -> bytes:
    end = rng.choice((b"\n", b"\r", b"\r\n"))
    lines = [b"\xef\xbb\xbf"] if rng.random() < 0.2 else []
    for _ in range(rng.randrange(1, 6)):
        for _ in range(rng.randrange(1, 4)):
            field = rng.choice((b"data: ", b"data:", b"data: ", b"event: ", b"id: ", b"retry: ", b":", b"other: "))
            lines += [field, rng.randbytes(rng.randrange(8)).hex().encode(), end]
        lines.append(end)
    return b"".join(lines)


def run_sse(data: bytes, rng: Random) -> Signature:
    from llmgen.wire import sse

    limit = rng.choice((1 << 20, 1 << 20, 16, 100))

    def read(pieces: Sequence[bytes]) -> tuple[Events, str, bool]:
        parser = sse.Parser(max_event_bytes=limit)
        events: Events = []
        try:
            for piece in pieces:
                events += exact.call(parser.feed, piece)
        except sse.Error as error:
            return events + error.events, str(error), parser.close()
        return events, "", parser.close()

    whole = read([data])
    same("cut otherwise", whole, read(cut(rng, data)))
    return len(whole[0]), whole[1], whole[2], len({event.type for event in whole[0]})


# ---- ndjson

NDJSON_TOKENS = (b"\n", b"\r\n", b"\n\n", b"\r", b" ", b"\t", b'{"a":1}', b'"\\n"', b"[]", b"\0", b"\xe2\x82\xac")


def generate_ndjson(rng: Random) -> bytes:
    lines = [
        rng.choice((b"", b" ", b"\t")) + rng.randbytes(rng.randrange(12)).hex().encode() + rng.choice((b"\n", b"\r\n"))
        for _ in range(rng.randrange(1, 8))
    ]
    return b"".join(lines)[: -rng.randrange(1, 3) if rng.random() < 0.3 else None]


def run_ndjson(data: bytes, rng: Random) -> Signature:
    from llmgen.wire import ndjson

    limit = rng.choice((1 << 20, 1 << 20, 16, 100))

    def read(pieces: Sequence[bytes]) -> tuple[list[bytes], str, bytes | None]:
        parser = ndjson.Parser(max_line_bytes=limit)
        lines: list[bytes] = []
        try:
            for piece in pieces:
                lines += exact.call(parser.feed, piece)
        except ndjson.Error as error:
            return lines + error.lines, str(error), parser.close()
        return lines, "", parser.close()

    whole = read([data])
    same("cut otherwise", whole, read(cut(rng, data)))
    if not whole[1]:
        *complete, last = (line.strip(b" \r\t") for line in data.split(b"\n"))
        same("against split", whole, ([line for line in complete if line], "", last or None))
    return len(whole[0]), whole[1], whole[2] is not None


# ---- http1

HTTP1_TOKENS = (
    *(
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0 ",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"204",
        b"304",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
    ),
    *(b"\r", b"\0", b": ", b"Content-Length: ", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"gzip, "),
    *(b"chunked", b"keep-alive", b"0\r\n\r\n", b"5\r\nhello\r\n", b";a=b", b';a="\\""', b"\r\n ", b"\t", b","),
    *(b"7fffffffffffffff", b"9223372036854775807", b"ffffffffffffffff", b"18446744073709551616", b"+1", b"-1", b"0x"),
)


def http1_lines(rng: Random) -> list[bytes]:
    """Field lines; in some sections there are also such as break a rule, or the fold of one that may not be there."""
    lines = [b"A: b", b"Longer-Name:\tvalue ", b"X: folded\r\n  value", b"Connection: close", b"Connection: keep-alive"]
    if rng.random() < 0.3:
        lines += [b" ", b"\t fold", b" : x", b"B : c", b"C", b"D: \0", b"E: a\rb", b"F: a\nG: h", b"Content-Length: 5"]
    return rng.sample(lines, rng.randrange(4))


def generate_http1(rng: Random) -> bytes:
    body = rng.randbytes(rng.randrange(40))
    lines = http1_lines(rng)
    framing = rng.randrange(4)
    if framing == 0:
        lines.append(b"Content-Length: %d" % len(body))
    elif framing < 3:
        lines.append(b"Transfer-Encoding: chunked")
        parts = []
        while body:
            size = rng.randrange(1, len(body) + 1)
            parts += [b"%x%b\r\n" % (size, rng.choice((b"", b"", b";a", b';a="b;\\"c" ; d'))), body[:size], b"\r\n"]
            body = body[size:]
        trailers = http1_lines(rng) if rng.random() < 0.4 else []
        body = b"".join([*parts, b"0\r\n", *(line + b"\r\n" for line in trailers), b"\r\n"])
    rng.shuffle(lines)
    interim = rng.choice((b"", b"", b"", b"HTTP/1.1 100 Continue\r\n\r\n"))
    status = rng.choice((b"200 OK", b"200 OK", b"200", b"204 ", b"304 x", b"503 Busy"))
    line = b"HTTP/1.%d %b" % (rng.random() < 0.9, status)
    return interim + b"\r\n".join([line, *lines]) + b"\r\n\r\n" + body


def run_http1(data: bytes, rng: Random) -> Signature:
    from llmgen.wire import http1

    method = rng.choice((b"POST", b"POST", b"HEAD"))
    limit = rng.choice((65536, 65536, 64))

    def read(pieces: Sequence[bytes]) -> tuple[Events, bool, str]:
        """The first answer; bytes behind it are an error or not by where they are cut, its `reusable` too."""
        parser = http1.Parser(method=method, max_head_bytes=limit)
        events: Events = []
        text = ""
        try:
            for piece in pieces:
                events += exact.call(parser.feed, piece)
                if events and events[-1][0] == "end":
                    break
            else:
                events += parser.eof()
        except http1.Error as error:
            events += error.events
            text = str(error)
        joined: Events = []
        for event in events:
            if event[0] == "data" and joined and joined[-1][0] == "data":
                joined[-1] = ("data", joined[-1][1] + event[1])
            else:
                joined.append(event[:1] if event[0] == "end" else event)
        return joined, bool(text), text

    whole = read([data])
    same("cut otherwise", whole[:2], read(cut(rng, data))[:2])
    return kinds(whole[0]), whole[2], (whole[0][0][1], len(whole[0][0][2])) if whole[0] else 0


# ---- scanner

SCANNER_TOKENS = (
    *(
        b'{"choices":[{"delta":{"content":" x"}}]}',
        b'"content"',
        b'"delta"',
        b'"choices"',
        b'"usage"',
        b'"error"',
        b'""',
    ),
    *(
        b'"reasoning_content"',
        b'"tool_calls"',
        b'"finish_reason"',
        b'"stop"',
        b"null",
        b"true",
        b"false",
        b"{",
        b"}",
        b"[",
    ),
    *(
        b"]",
        b":",
        b",",
        b'"',
        b"\\",
        b"\\u0061",
        b"\\ud83d\\ude00",
        b"\\u",
        b"1e99",
        b"-0",
        b"0.5",
        b"99999999999",
        b" ",
    ),
    *(b"\n", b"[DONE]", b"\xff", b"\xe2\x82\xac"),
)


def generate_scanner(rng: Random) -> bytes:
    """Events as one stream brings them, one a line: nearly the same JSON again and again."""
    colon, comma = rng.choice(((b":", b","), (b": ", b", ")))
    id_ = rng.randbytes(6).hex().encode()
    events = []
    for n in range(rng.randrange(1, 6)):
        text = rng.choice((b'" w%d"' % n, b'"\\u00e4\\n"', b'""', b"null", b'"{\\"content\\"' + colon + b'1}"'))
        delta = b'"' + rng.choice((b"content", b"content", b"reasoning_content", b"role")) + b'"' + colon + text
        finish = rng.choice((b"null", b"null", b'"stop"', b'"length"'))
        choice = b'{"index"' + colon + b"0" + comma + b'"delta"' + colon + b"{" + delta + b"}" + comma
        choice += b'"finish_reason"' + colon + finish + b"}"
        members = [b'"id"' + colon + b'"' + id_ + b'"', b'"choices"' + colon + b"[" + choice + b"]"]
        if rng.random() < 0.3:
            members.append(b'"usage"' + colon + b'{"prompt_tokens"' + colon + b"%d}" % rng.randrange(1 << 33))
        if rng.random() < 0.1:
            members.append(b'"error"' + colon + b'{"message"' + colon + b'"no"}')
        events.append(b"{" + comma.join(members) + b"}")
    if rng.random() < 0.3:
        events.append(b"[DONE]")
    return b"\n".join(events)


@cache
def scanner_rules(dialect: str) -> Any:
    from llmgen.wire import scanner

    return scanner.Rules(dialect)


def run_scanner(data: bytes, rng: Random) -> Signature:
    from llmgen.wire import scanner

    dialect = rng.choice(("chat", "chat", "completions"))
    rules = scanner_rules(dialect)
    plain, remembering = scanner.Scanner(rules=rules), scanner.Scanner(rules=rules, remember=True)

    def scan(one: Any, event: bytes) -> Any:
        try:
            return exact.call(one.scan, event)
        except scanner.Error:
            return "error"

    signature = []
    for event in data.split(b"\n"):
        found = scan(plain, event)
        # repr: NaN is not equal to itself
        same("with the previous event remembered", repr(found), repr(scan(remembering, event)))
        signature.append(found if found == "error" else (int(found.kind), found.done, sorted(found.usage or ())))
    return repr([kind for kind, _ in groupby(signature)][:4])


# ---- hpack

HPACK_TOKENS = (
    *(b"\x82", b"\x88", b"\x20", b"\x3f\xe1\x1f", b"\x3f\xff\xff\xff\xff\x07", b"\x40\x01a\x01b", b"\x00\x01a\x01b"),
    *(
        b"\x10\x01a\x01b",
        b"\xbe",
        b"\xff\x00",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x7f\x80\x00",
        b"\x0f\x80",
    ),
    *(
        b"\x82\xff\xff",
        b"\x81\xff",
        b"\x85\xae\xc3\x77\x1a\x4b",
        b"\x40\x0acustom-key\x0dcustom-header",
        b"\x80",
        b"\xc0",
    ),
)


def blocks_of(data: bytes) -> list[bytes]:
    """Header blocks with a length of one byte before each."""
    blocks, at = [], 0
    while at < len(data):
        blocks.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    return blocks


def random_fields(rng: Random) -> list[tuple[bytes, bytes]]:
    names = (
        b":status",
        b"content-type",
        b"date",
        b"x-request-id",
        b"set-cookie",
        b"a",
        b"custom-" + rng.randbytes(2).hex().encode(),
    )
    values = (b"200", b"text/event-stream", b"", b"no-cache", rng.randbytes(rng.randrange(20)))
    return [(rng.choice(names), rng.choice(values)) for _ in range(rng.randrange(6))]


def generate_hpack(rng: Random) -> bytes:
    from llmgen.wire import hpack

    encoder = hpack.Encoder()
    parts = []
    for _ in range(rng.randrange(1, 5)):
        if rng.random() < 0.2:
            encoder.max_table_size = rng.choice((0, 100, 4096))
        block = encoder.encode(random_fields(rng))[:255]
        parts += [bytes([len(block)]), block]
    return b"".join(parts)


def run_hpack(data: bytes, rng: Random) -> Signature:
    from llmgen.wire import hpack

    size, limit = rng.choice((4096, 4096, 128, 0)), rng.choice((65536, 65536, 200))
    decoder = hpack.Decoder(max_table_size=size, max_header_list_size=limit)
    signature: list[object] = []
    for block in blocks_of(data):
        try:
            fields = exact.call(decoder.decode, block)
        except hpack.Error as error:
            signature.append(str(error))
            if not error.over_limit:
                break
        else:
            signature.append(min(len(fields), 8))
            if sum(len(name) + len(value) + 32 for name, value in fields) > limit:
                raise Broken("a header list above the limit")
            again = hpack.Decoder(max_header_list_size=limit)
            same("encoded and decoded again", fields, again.decode(hpack.Encoder().encode(fields)))
        table = sum(len(name) + len(value) + 32 for name, value in decoder.table)
        same("size of the dynamic table", table, decoder.table_size)
        if table > size:
            raise Broken("a dynamic table above its limit")
    return tuple(signature[:6]), decoder.table_size.bit_length()


# ---- http2

HTTP2_TOKENS = (
    *(
        b"\0\0\0\x04\0\0\0\0\0",
        b"\0\0\0\x04\x01\0\0\0\0",
        b"\0\0\x08\x06\0\0\0\0\0ABCDEFGH",
        b"\0\0\x04\x08\0\0\0\0\0\0\0\1\0",
    ),
    *(
        b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08",
        b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x03\0\0\0\0",
        b"\0\0\x01\x01\x04\0\0\0\x01\x88",
    ),
    *(b"\0\0\x01\x01\x05\0\0\0\x01\x88", b"\0\0\x01\x01\0\0\0\0\x03\x88", b"\0\0\x01\x09\x04\0\0\0\x03\x88"),
    *(
        b"\0\0\x05\0\0\0\0\0\x01hello",
        b"\0\0\x05\0\x01\0\0\0\x01hello",
        b"\0\0\x06\0\x08\0\0\0\x01\x02abc\0\0",
        b"\x88",
    ),
    *(
        b"\xff\xff\xff\xff",
        b"\x7f\xff\xff\xff",
        b"\0\0\0\x05",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x08",
        b"\x20",
        b"\x28",
    ),
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, sid: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + sid.to_bytes(4, "big") + payload


def random_settings(rng: Random) -> bytes:
    values = (
        (1, 0),
        (1, 100),
        (1, 4096),
        (3, 0),
        (3, 100),
        (4, 0),
        (4, 65535),
        (4, 1 << 20),
        (5, 16384),
        (5, 65536),
        (6, 500),
        (9, 7),
    )
    return b"".join(k.to_bytes(2, "big") + v.to_bytes(4, "big") for k, v in rng.sample(values, rng.randrange(4)))


def random_frame(rng: Random, encoder: Any, sid: int) -> bytes:
    kind = rng.randrange(10)
    if kind < 3:
        head = [(b":status", rng.choice((b"200", b"200", b"103", b"204")))]
        block = encoder.encode([*head, *(f for f in random_fields(rng) if f[0] != b":status")])
        if rng.random() < 0.3:
            return frame(1, rng.choice((0, 1)), sid, block[:2]) + frame(9, 4, sid, block[2:])
        if rng.random() < 0.2:
            return frame(1, 0x2C, sid, b"\x02" + b"\0\0\0\0\x10" + block + b"\0\0")
        return frame(1, rng.choice((4, 4, 5)), sid, block)
    if kind < 6:
        body = rng.randbytes(rng.randrange(30))
        if rng.random() < 0.2:
            return frame(0, 8, sid, b"\x03" + body + b"\0\0\0")
        return frame(0, rng.choice((0, 0, 1)), sid, body)
    return (
        frame(4, 0, 0, random_settings(rng)),
        frame(8, 0, rng.choice((0, sid)), rng.choice((1, 1000, 0x7FFFFFFF)).to_bytes(4, "big")),
        frame(6, rng.choice((0, 1)), 0, rng.randbytes(8)),
        frame(rng.choice((3, 3, 7)), 0, sid, (8).to_bytes(4, "big"))
        if rng.random() < 0.6
        else frame(7, 0, 0, sid.to_bytes(4, "big") + (0).to_bytes(4, "big")),
    )[kind - 6]


def generate_http2(rng: Random) -> bytes:
    """What comes after the first byte's role: an answer's frames to a client, or requests' frames to a server."""
    from llmgen.wire import hpack

    encoder = hpack.Encoder()
    parts = [frame(4, 1, 0)]
    if rng.random() < 0.7:
        parts += [random_frame(rng, encoder, rng.choice((1, 3, 5))) for _ in range(rng.randrange(1, 8))]
        return b"c" + b"".join(parts)
    for sid in range(1, 2 * rng.randrange(2, 5), 2):
        fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"x"), (b":path", b"/v1")]
        fields += [f for f in random_fields(rng) if f[0] != b":status"]
        parts += [frame(1, rng.choice((4, 5)), sid, encoder.encode(fields))]
        parts += [random_frame(rng, encoder, sid)] * rng.randrange(2)
    return b"s" + b"".join(parts)


def run_http2(data: bytes, rng: Random) -> Signature:
    from llmgen.wire import http2

    client = data[:1] != b"s"
    window = rng.choice((None, None, 100))
    start = frame(4, 0, 0, random_settings(rng))
    request = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"x"), (b":path", b"/v1")]
    body = bytes(rng.choice((0, 10, 70000)))

    def read(pieces: Sequence[bytes]) -> tuple[Events, tuple[int, str] | None]:
        side: Any = http2.Client(initial_window_size=window) if client else http2.Server(initial_window_size=window)
        events: Events = []
        try:
            side.open()
            events += exact.call(side.feed, start if client else PREFACE + start)
            for _ in range(min(3, side.capacity) if client else 0):
                side.request(request, body)
            side.take()
            # Nothing is sent in between: what is sent, and when, decides about windows and floods.
            for piece in pieces:
                events += exact.call(side.feed, piece)
            side.take()
            events += side.eof()
        except http2.Error as error:
            return joined_http2(events + error.events), (error.code, str(error))
        return joined_http2(events), None

    whole = read([data[1:]])
    same("cut otherwise", whole, read(cut(rng, data[1:])))
    return client, kinds(whole[0]), whole[1]


def joined_http2(events: Events) -> Events:
    """Adjacent content of a stream as one event; an empty last piece says only that the stream ends."""
    joined: Events = []
    for event in events:
        last: Any = joined[-1] if joined else (None,)
        if event[0] == "data" and last[0] == "data" and last[1] == event[1] and not last[3]:
            joined[-1] = ("data", event[1], last[2] + event[2], event[3])
        else:
            joined.append(event)
    return joined


TARGETS = {
    target.name: target
    for target in (
        Target("sse", SSE_TOKENS, generate_sse, run_sse),
        Target("ndjson", NDJSON_TOKENS, generate_ndjson, run_ndjson),
        Target("http1", HTTP1_TOKENS, generate_http1, run_http1),
        Target("scanner", SCANNER_TOKENS, generate_scanner, run_scanner),
        Target("hpack", HPACK_TOKENS, generate_hpack, run_hpack),
        Target("http2", HTTP2_TOKENS, generate_http2, run_http2),
    )
}
