"""The scanner against msgspec's JSON decoder on generated documents, and against itself with and without memory."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmgen.wire import scanner
from llmgen.wire.rules import DIALECTS, Rule
from llmgen.wire.scanner import Found, Kind

# a busy machine is no failure
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# --- what is valid

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=40),
    st.sampled_from(['"', "\\", '{"a":[', "}]", "\0\n\x1f", "😀", "x" * 15, "y" * 16, "z" * 17]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
LAYOUTS = st.sampled_from(
    [
        {"separators": (",", ":")},
        {"separators": (", ", ": ")},
        {"indent": 1},
        {"separators": (",", ":"), "ensure_ascii": False},
        {"indent": "\t", "ensure_ascii": False},
    ]
)
NOISE = st.sampled_from(
    [
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"0",
        b"-",
        b".",
        b"e",
        b"u",
        b" ",
        b"\n",
        b"\x00",
        b"\x1f",
        b"null",
    ]
)
EDITS = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 2), NOISE | st.binary(max_size=2)), max_size=3)


def edited(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for at, remove, insert in edits:
        at %= len(data) + 1
        data = data[:at] + insert + data[at + remove :]
    return data


def valid(data: bytes) -> bool:
    """By msgspec, with the liberties that scanner.pyx states."""
    data = data.decode("utf-8", "replace").encode()
    try:
        msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        # a number out of range ends msgspec's reading; lone surrogates it refuses, sometimes as truncated input
        if "out of range" not in str(error) and rb"\u" not in data:
            return False
        try:
            json.loads(data, parse_int=str, parse_float=str, parse_constant=lambda name: pytest.fail(name))
        except ValueError:
            return False
    return True


def scan(data: bytes, dialect: str = "chat") -> Found | None:
    try:
        return scanner.Scanner(dialect).scan(data)
    except scanner.Error:
        return None


@settings(UNTIMED, max_examples=500)
@given(VALUES, LAYOUTS, EDITS)
def test_accepts_what_msgspec_accepts(
    value: object, layout: dict[str, Any], edits: list[tuple[int, int, bytes]]
) -> None:
    data = edited(json.dumps(value, **layout).encode("utf-8", "surrogatepass"), edits)
    assert (scan(data) is not None) == valid(data)


@settings(UNTIMED, max_examples=300)
@given(st.lists(NOISE | st.sampled_from([b'"a"', b"1", b"true", b'{"', b'":']), max_size=12).map(b"".join))
def test_accepts_what_msgspec_accepts_of_scraps(data: bytes) -> None:
    assert (scan(data) is not None) == valid(data)


# --- what it means


def members(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """(path, value) of all values of a document in its order, containers after their content."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from members(inner, (*path, key))
    elif isinstance(value, list):
        for inner in value:
            yield from members(inner, (*path, "*"))
    yield path, value


def meaning(document: object, rules: tuple[Rule, ...]) -> Found:
    """What the scanner must find, from a decoded document without duplicate keys."""
    found: dict[str, Any] = {"kind": Kind(0), "text": None, "usage": {}, "finish": None, "error": None, "done": False}
    strings = {path: value for path, value in members(document) if isinstance(value, str)}
    ids: int | None = None
    beside = 0

    def holds(rule: Rule) -> bool:
        return len(rule) == 2 or strings.get(tuple(str(rule[2][0]).split("."))) in rule[2][1:]

    def keys(path: str | tuple[str, ...]) -> tuple[str, ...]:
        return tuple(path.split(".")) if isinstance(path, str) else path

    for guarded in (False, True):
        for path, value in members(document):
            for rule in rules:
                role = rule[1]
                if keys(rule[0]) != path or (len(rule) == 3) != guarded or not holds(rule):
                    continue
                if role in ("text", "reasoning", "tool"):
                    if isinstance(value, str) and value:
                        if found["text"] is None or (role == "text" and not found["kind"] & Kind.text):
                            found["text"] = value
                        found["kind"] |= Kind[role]
                elif role == "role":
                    found["kind"] |= Kind.role if isinstance(value, str) and value else Kind(0)
                elif role == "finish":
                    if value is True or (isinstance(value, str) and value):
                        found["kind"] |= Kind.finish
                        found["finish"] = "stop" if value is True else value
                elif role == "error":
                    if value is not None and value is not False and value != "":
                        found["kind"] |= Kind.error
                        found["error"] = value
                elif role == "done":
                    found["done"] |= value is True or (isinstance(value, str) and value != "")
                elif role == "token_ids":
                    if isinstance(value, list):
                        ids = (ids or 0) + sum(type(item) in (int, float) for item in value)
                elif type(value) is int and 0 <= value < 2**31:
                    found["kind"] |= Kind.usage
                    if role.endswith("_beside"):
                        beside += value
                    if role != "input_tokens_beside":
                        found["usage"][role.removesuffix("_beside")] = value
    if "input_tokens" in found["usage"]:
        found["usage"]["input_tokens"] = min(found["usage"]["input_tokens"] + beside, 2**31 - 1)
    return Found(**{**found, "usage": found["usage"] or None, "token_ids": ids})


def spoken(rules: tuple[Rule, ...]) -> list[str]:
    """Keys and guard values of a dialect."""
    words: list[str] = []
    for rule in rules:
        words += str(rule[0]).split(".")
        if len(rule) == 3:
            words += [*str(rule[2][0]).split("."), *rule[2][1:]]
    return sorted(set(words) - {"*"})


TEXTS = st.sampled_from(["", "Hi", " ", 'quo"te', "back\\slash", "ü😀", "\n", '"}}],"usage":{', "stop", "x" * 40])


def documents(dialect: str) -> st.SearchStrategy[object]:
    """Documents along the dialect's paths, with strange values at their ends, and its words in wrong places."""
    words = spoken(DIALECTS[dialect])
    leaves = st.one_of(
        TEXTS,
        st.sampled_from(words),
        st.integers(-2, 2**31 + 1),
        st.none(),
        st.booleans(),
        st.just(1.5),
        st.lists(st.integers(0, 9), max_size=3),
    )

    def along(path: tuple[str, ...]) -> st.SearchStrategy[object]:
        if not path:
            return leaves
        inner = along(path[1:])
        if path[0] == "*":
            return st.lists(inner, max_size=2)
        return st.dictionaries(st.just(path[0]), inner, min_size=1)

    paths = [tuple(str(rule[0]).split(".")) for rule in DIALECTS[dialect]]
    guards = [
        st.just({str(rule[2][0]): value}) for rule in DIALECTS[dialect] if len(rule) == 3 for value in rule[2][1:]
    ]
    parts = st.one_of(
        st.sampled_from(paths).flatmap(along), *guards, st.dictionaries(st.sampled_from(words), leaves, max_size=2)
    )
    return st.lists(parts, min_size=1, max_size=5).map(lambda found: merged(found))


def merged(parts: list[Any]) -> Any:
    """Objects joined key by key, arrays element by element; otherwise the later part."""
    result = parts[0]
    for part in parts[1:]:
        result = _merge(result, part)
    return result


def _merge(a: Any, b: Any) -> Any:
    if isinstance(a, dict) and isinstance(b, dict):
        return {**a, **{key: _merge(a[key], value) if key in a else value for key, value in b.items()}}
    if isinstance(a, list) and isinstance(b, list):
        return [_merge(x, y) for x, y in zip(a, b, strict=False)] + a[len(b) :] + b[len(a) :]
    return b


@settings(UNTIMED, max_examples=400)
@given(st.data(), st.sampled_from(sorted(DIALECTS)), LAYOUTS)
def test_means_what_the_decoded_document_means(data: st.DataObject, dialect: str, layout: dict[str, Any]) -> None:
    document = data.draw(documents(dialect))
    assert scan(json.dumps(document, **layout).encode(), dialect) == meaning(document, DIALECTS[dialect])


# --- memory: the same results along any sequence of events

STRINGS = st.one_of(
    TEXTS.map(lambda text: json.dumps(text).encode()[1:-1]),
    st.sampled_from(
        [
            *[b"", b"a", b"\\", b'\\"', b"\\\\", b'"', b"\n", b"\x1f", b"\\u12", b"\\u0041", b"\xff", b"x" * 250],
            b'","content":"b',
            b'"}},{"delta":{"content":"c',
            b'"},"finish_reason":null}],"usage":null}',
            b'"},"finish_reason":"stop"}],"error":{"a":"',
        ]
    ),
)
FRAMES = st.sampled_from(
    [
        (b'{"id":"%b","choices":[{"delta":{"content":"', b'"},"finish_reason":null}],"usage":null}'),
        (b'{"id":"%b","choices":[{"delta":{"content":"', b'"},"finish_reason":"stop"}]}'),
        (b'{"choices":[{"delta":{"content":"', b'"},"finish_reason":null}],"usage":null,"id":"%b"}'),
        (b'{"choices":[{"delta":{"content":"', b'","reasoning":"%b"}}]}'),
        (b'{"choices":[{"delta":{"reasoning":"%b","content":"', b'"}}]}'),
        (b'{"choices":[{"delta":{"role":"assistant","content":"', b'"}}],"usage":{"completion_tokens":%b}}'),
        (b'{"choices":[{"delta":{"content":"', b'"},"token_ids":[1]}],"x":"%b"}'),
        (b'{"type":"response.output_text.delta","delta":"', b'","x":"%b"}'),
        (b'{"type":"response.function_call_arguments.delta","delta":"', b'","x":"%b"}'),
        (b'{"delta":"', b'","type":"response.%b"}'),
        (b'{"choices":[{"delta":{"content":"', b'"},"finish_reason":%b}]}'),
        (b'{"choices":[{"delta":{"content":"', b'","%b":"c"}}]}'),
        (b'{"choices":[{"delta":{"%b":"c","content":"', b'"}}]}'),
        (b'{"error":"', b'"}'),
    ]
)
# several of the same length that mean different things
FILLERS = st.sampled_from(
    [b"1", b"2", b"", b"null", b"true", b'"eo"', b"refusal", b"refuser", b"output_text.delta", b"y" * 240, b'"', b"\\"]
)


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Few frames, so that neighbours are alike, and any strings in them."""
    frames = draw(st.lists(st.tuples(FRAMES, FILLERS), min_size=1, max_size=3))
    events = []
    for which, text in draw(st.lists(st.tuples(st.integers(0, 2), STRINGS), max_size=12)):
        (before, behind), filler = frames[which % len(frames)]
        events.append(before.replace(b"%b", filler) + text + behind.replace(b"%b", filler))
    return events


SELF_GUARDED: tuple[Rule, ...] = (("delta", "text", ("delta", "a", "stop")), ("choices.*.delta.content", "text"))


@settings(UNTIMED, max_examples=500)
@given(streams(), st.sampled_from(["chat", "responses", "custom"]))
def test_memory_changes_nothing(events: list[bytes], dialect: str) -> None:
    rules = SELF_GUARDED if dialect == "custom" else DIALECTS[dialect]
    plain, remembering = scanner.Scanner(rules=rules), scanner.Scanner(rules=rules, remember=True)

    def outcome(s: scanner.Scanner, event: bytes) -> Found | str:
        try:
            return s.scan(event)
        except scanner.Error:
            return "malformed"

    for event in events:
        assert outcome(remembering, event) == outcome(plain, event)
    assert plain.hits == 0


@settings(UNTIMED)
@given(st.lists(TEXTS.filter(bool), min_size=2))
def test_memory_is_used(texts: list[str]) -> None:
    s = scanner.Scanner(remember=True)
    for text in texts:
        assert s.scan(json.dumps({"choices": [{"delta": {"content": text}}]})).text == text
    assert s.hits == len(texts) - 1
