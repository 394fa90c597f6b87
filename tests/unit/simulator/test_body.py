"""What a request's JSON asks for, against msgspec's decoder."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgen.simulator import body

NOT_JSON, NOT_OBJECT, BAD_NUMBER, NO_PROMPT, TOO_MANY = -1, -2, -3, -4, -5
COMPLETIONS, CHAT, RESPONSES, MESSAGES_API, OLLAMA, EMBEDDINGS = range(6)  # server.Api
MESSAGES = [{"role": "user", "content": "hello"}]


def chat(**members: object) -> bytes:
    return json.dumps({"messages": MESSAGES, **members}).encode()


def test_everything_that_is_asked_for() -> None:
    data = chat(
        model="a-model",
        stream=True,
        max_tokens=7,
        min_tokens=3,
        ignore_eos=True,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
        temperature=0.5,
        stop=["x", None],
    )
    assert body.read(data) == {
        "max_tokens": 7,
        "min_tokens": 3,
        "input_tokens": 1,
        "stream": True,
        "include_usage": True,
        "continuous_usage": True,
        "ignore_eos": True,
        "items": 0,
        "dimensions": -1,
        "model": b"a-model",
    }


def test_what_is_absent_is_told_as_absent() -> None:
    asked = body.read(chat())
    assert isinstance(asked, dict)
    assert (asked["max_tokens"], asked["stream"], asked["include_usage"], asked["model"]) == (-1, False, False, b"")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "7", True, [7], {}, 1e3])
def test_token_limits_that_are_no_counts(name: str, value: object) -> None:
    assert body.read(chat(**{name: value})) == BAD_NUMBER


def test_null_is_no_limit() -> None:
    asked = body.read(chat(max_tokens=None, stream=None, stream_options=None))
    assert isinstance(asked, dict)
    assert asked["max_tokens"] == -1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", 0),
        ("one", 1),
        ("  two words\n", 2),
        ("tab\tand\r\nline\x0bbreaks\x0c", 4),
        ('quotes " and \\ back', 5),
        ("\u00fcmlaute z\u00e4hlen", 2),
        (None, 0),
        ([{"type": "text", "text": "a b"}, {"type": "image_url", "image_url": {"url": "not counted"}}, "odd"], 2),
    ],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_words_are_counted(content: object, words: int, ascii_only: bool) -> None:
    data = json.dumps({"messages": [{"role": "not counted", "content": content}]}, ensure_ascii=ascii_only).encode()
    asked = body.read(data)
    assert isinstance(asked, dict)
    assert asked["input_tokens"] == words


@pytest.mark.parametrize(("prompt", "tokens"), [("a b c", 3), (["a b", "c"], 3), ([1, 2, 3, 4], 4), ([[1, 2], [3]], 3)])
def test_prompts_of_completions(prompt: object, tokens: int) -> None:
    asked = body.read(json.dumps({"prompt": prompt}).encode(), api=COMPLETIONS)
    assert isinstance(asked, dict)
    assert asked["input_tokens"] == tokens


@pytest.mark.parametrize(
    ("data", "result"),
    [
        (b"", NOT_JSON),
        (b"hello", NOT_JSON),
        (b"{", NOT_JSON),
        (b'{"messages": [{"content": "x"}]', NOT_JSON),
        (b'{"messages": [{"content": "x"}]} x', NOT_JSON),
        (b'{"messages": [{"content": "x\n"}]}', NOT_JSON),
        (b'{"messages": [{"content": "\\x"}]}', NOT_JSON),
        (b"[" * 100000, NOT_JSON),
        (b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}", NOT_JSON),
        (b'["messages"]', NOT_OBJECT),
        (b"3", NOT_OBJECT),
        (b"{}", NO_PROMPT),
        (b'{"messages": []}', NO_PROMPT),
        (b'{"messages": "hello"}', NO_PROMPT),
        (b'{"messages": ["hello"]}', NO_PROMPT),
        (b'{"prompt": "for the other path"}', NO_PROMPT),
    ],
)
def test_refusals(data: bytes, result: int) -> None:
    assert body.read(data) == result


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values, st.booleans(), st.sampled_from([None, 2]))
def test_any_json_is_passed_over(value: object, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps({"any": value, "messages": MESSAGES, "then": value}, ensure_ascii=ascii_only, indent=indent)
    asked = body.read(text.encode("utf-8", "surrogatepass"))
    assert isinstance(asked, dict)
    assert asked["input_tokens"] == 1


@given(st.data())
def test_broken_json_is_refused_as_msgspec_refuses_it(data: st.DataObject) -> None:
    text = bytearray(chat(number=-1.5e10, text="a\\n\u00e9", flags=[True, False, None], nested={"a": {}}))
    at = data.draw(st.integers(0, len(text) - 1))
    byte = data.draw(st.integers(0, 127))
    text[at] = byte
    try:
        msgspec.json.decode(bytes(text))
        valid = True
    except msgspec.DecodeError:
        valid = False
    asked = body.read(bytes(text))
    if valid:
        assert asked != NOT_JSON
    else:
        assert not isinstance(asked, dict)


@pytest.mark.parametrize(
    ("api", "request_", "wanted"),
    [
        (RESPONSES, {"input": "a b c", "max_output_tokens": 9, "stream": True}, (3, 9, True)),
        (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_text", "text": "a b"}]}]}, (2, -1, False)),
        (MESSAGES_API, {"messages": MESSAGES, "max_tokens": 5, "stream": True}, (1, 5, True)),
        (OLLAMA, {"messages": MESSAGES, "options": {"seed": 1, "num_predict": 7}}, (1, 7, True)),
        (OLLAMA, {"messages": MESSAGES, "stream": False, "options": None}, (1, -1, False)),
        # what another API calls it is nothing here
        (OLLAMA, {"messages": MESSAGES, "num_predict": 7, "max_output_tokens": 7}, (1, -1, True)),
        (CHAT, {"messages": MESSAGES, "options": {"num_predict": 7}, "input": "a b"}, (1, -1, False)),
    ],
)
def test_the_other_apis(api: int, request_: object, wanted: tuple[int, int, bool]) -> None:
    asked = body.read(json.dumps(request_).encode(), api)
    assert isinstance(asked, dict)
    assert (asked["input_tokens"], asked["max_tokens"], asked["stream"]) == wanted


@pytest.mark.parametrize(
    ("api", "request_", "code"),
    [
        (RESPONSES, {"prompt": "a"}, NO_PROMPT),
        (RESPONSES, {"input": 5}, NO_PROMPT),
        (RESPONSES, {"input": "a", "max_output_tokens": 0}, BAD_NUMBER),
        (MESSAGES_API, {"input": "a"}, NO_PROMPT),
        (OLLAMA, {"messages": MESSAGES, "options": {"num_predict": "x"}}, BAD_NUMBER),
    ],
)
def test_what_the_other_apis_refuse(api: int, request_: object, code: int) -> None:
    assert body.read(json.dumps(request_).encode(), api) == code


def blocks(content: object, chat: bool = True, words: int = 2) -> list[int]:
    member = {"messages": [{"role": "user", "content": content}]} if chat else {"prompt": content}
    got = body.read_blocks(json.dumps(member).encode(), chat, words)
    assert not isinstance(got, int)
    return got[0]


def test_blocks_are_hashed_by_their_whole_prefix() -> None:
    first = blocks("a b c d e")
    assert len(first) == len(set(first)) == 2  # only full ones
    assert blocks("a b c d x") == first
    assert blocks("a b c x e")[0] == first[0]
    assert blocks("a b c x e")[1] != first[1]
    assert blocks("x b c d e")[1] != first[1]


def test_the_same_words_have_the_same_blocks_wherever_they_stand() -> None:
    want = blocks("a b c d")
    assert blocks("a\tb\n\nc  d ") == want
    assert blocks([{"type": "text", "text": "a b"}, {"type": "text", "text": "c d"}]) == want
    assert blocks("a b c d", chat=False) == want
    assert blocks(["a b", "c", "d"], chat=False) == want
    two = {"messages": [{"role": "system", "content": "a b"}, {"role": "user", "content": "c d"}]}
    assert body.read_blocks(json.dumps(two).encode(), True, 2) == (want, 4)
    twice = b'{"prompt": "z z z z", "prompt": "a b c d"}'
    assert body.read_blocks(twice, False, 2) == (want, 4)


def test_token_ids_are_hashed_by_their_digits() -> None:
    assert blocks([11, 22, 33], chat=False) == blocks("11 22 33", chat=False)
    assert blocks([11, 22], chat=False) != blocks([112, 2], chat=False)


@given(st.text(alphabet='ab \t\n\r\f\v\\"/é\u2003😀'), st.booleans())
def test_what_is_hashed_is_what_is_counted(content: str, ascii_only: bool) -> None:
    data = json.dumps({"messages": [{"content": content}]}, ensure_ascii=ascii_only).encode()
    asked = body.read(data)
    assert isinstance(asked, dict)
    hashed = body.read_blocks(data, True, 1)
    assert not isinstance(hashed, int)
    assert hashed[1] == len(hashed[0]) == asked["input_tokens"]


@pytest.mark.parametrize(
    ("given", "words", "items"),
    [
        ("one two three", 3, 1),
        (["one two", "three", ""], 3, 3),
        ([7, 8, 9], 3, 1),
        ([[7, 8], [9]], 3, 2),
        ("", 0, 1),
        (["x"] * 2048, 2048, 2048),
    ],
)
def test_texts_to_embed(given: object, words: int, items: int) -> None:
    asked = body.read(json.dumps({"input": given, "stream": True, "dimensions": 8}).encode(), EMBEDDINGS)
    assert isinstance(asked, dict)
    assert (asked["input_tokens"], asked["items"], asked["dimensions"]) == (words, items, 8)
    assert not asked["stream"]  # there is no such thing


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({}, NO_PROMPT),
        ({"input": []}, NO_PROMPT),
        ({"input": {"a": 1}}, NO_PROMPT),
        ({"input": ["x", None]}, NO_PROMPT),
        ({"input": ["x"] * 2049}, TOO_MANY),
        ({"input": "x", "dimensions": 4097}, TOO_MANY),
        ({"input": "x", "dimensions": 0}, BAD_NUMBER),
    ],
)
def test_what_cannot_be_embedded(members: object, code: int) -> None:
    assert body.read(json.dumps(members).encode(), EMBEDDINGS) == code
