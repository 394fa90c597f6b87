"""The scanner: what real servers send, one by one; JSON's rules; odd forms; rules of one's own."""

import json
from typing import Any

import pytest

from llmgen import columns
from llmgen.wire import found, scanner, sse
from llmgen.wire.rules import DIALECTS, Rule
from llmgen.wire.scanner import Kind


def scan(event: object, dialect: str = "chat", rules: list[Rule] | None = None) -> scanner.Found:
    data = event if isinstance(event, bytes) else json.dumps(event).encode()
    return scanner.Scanner(dialect, rules).scan(data)


def chunk(**choice: Any) -> dict[str, Any]:
    """A chat chunk as vLLM writes it."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "m",
        "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": None, **choice}],
    }


def delta(**members: object) -> dict[str, Any]:
    return chunk(delta=members)


def test_kinds_are_the_record_schema() -> None:
    assert {k.name: k.value for k in Kind} == {k.name: k.value for k in columns.Kind}


@pytest.mark.parametrize(
    ("event", "kind", "text"),
    [
        (delta(content="Hi"), Kind.text, "Hi"),
        (delta(content=" "), Kind.text, " "),
        (delta(role="assistant", content=""), Kind.role, None),
        (delta(role="assistant", content=None), Kind.role, None),
        (delta(role="assistant", content="Hi"), Kind.role | Kind.text, "Hi"),
        (delta(role=None, content="Hi"), Kind.text, "Hi"),
        (delta(), Kind(0), None),
        (delta(content=""), Kind(0), None),
        (delta(content=None, reasoning_content="hm"), Kind.reasoning, "hm"),
        (delta(reasoning="hm", reasoning_content="hm", content=""), Kind.reasoning, "hm"),
        (delta(reasoning_content="", content="Hi"), Kind.text, "Hi"),
        (delta(refusal="No"), Kind.text, "No"),
        (delta(content=[{"type": "text", "text": "Hi"}]), Kind.text, "Hi"),
        (delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]), Kind.reasoning, "hm"),
        (
            delta(tool_calls=[{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]),
            Kind.tool,
            "f",
        ),
        (delta(tool_calls=[{"index": 0, "function": {"arguments": '{"a'}}]), Kind.tool, '{"a'),
        (delta(tool_calls=[{"index": 0, "function": {"arguments": ""}}]), Kind(0), None),
        (delta(tool_calls=[]), Kind(0), None),
        (delta(tool_calls=None), Kind(0), None),
        (delta(function_call={"name": "f", "arguments": ""}), Kind.tool, "f"),
        (chunk(finish_reason="stop"), Kind.finish, None),
        (chunk(finish_reason=""), Kind(0), None),
        (chunk(delta={"content": "!"}, finish_reason="length"), Kind.text | Kind.finish, "!"),
        ({"choices": []}, Kind(0), None),
        ({"choices": [{"delta": {"content": "a"}}, {"delta": {"content": "b"}}]}, Kind.text, "a"),
        ({"choices": [{"delta": {"content": ""}}, {"delta": {"content": "b"}}]}, Kind.text, "b"),
        ({"choices": [{"message": {"role": "assistant", "content": "Hi"}}]}, Kind.role | Kind.text, "Hi"),
        # the right names in the wrong places
        ({"content": "Hi"}, Kind(0), None),
        ({"delta": {"content": "Hi"}}, Kind(0), None),
        ({"choices": {"delta": {"content": "Hi"}}}, Kind(0), None),
        ({"choices": [[{"delta": {"content": "Hi"}}]]}, Kind(0), None),
        ({"choices": [{"delta": [{"content": "Hi"}]}]}, Kind(0), None),
        ({"choices": [{"delta": {"content": {"content": "Hi"}}}]}, Kind(0), None),
        ({"x": {"choices": [{"delta": {"content": "Hi"}}]}}, Kind(0), None),
        ({"choices": [{"delta": {"content": 5, "role": 7}, "finish_reason": 3}]}, Kind(0), None),
        ({"choices": [{"text": "Hi"}]}, Kind(0), None),
        ({"x": '"choices":[{"delta":{"content":"no"}}]', "choices": []}, Kind(0), None),
        (delta(content='"}}],"usage":{"prompt_tokens":1}'), Kind.text, '"}}],"usage":{"prompt_tokens":1}'),
        (delta(content='{"error": 1}'), Kind.text, '{"error": 1}'),
        ([1, 2], Kind(0), None),
        ("choices", Kind(0), None),
        (None, Kind(0), None),
    ],
)
def test_chat(event: object, kind: Kind, text: str | None) -> None:
    expected = (kind, text)
    for data in (
        json.dumps(event, separators=(",", ":")),
        json.dumps(event),
        json.dumps(event, indent=3).replace("\n", "\r\n\t"),
        json.dumps(event, sort_keys=True),
        escaped(json.dumps(event)),
    ):
        result = scanner.Scanner().scan(data)
        assert (result.kind, result.text) == expected, data
        assert scanner.Scanner().scan(data.encode()) == result


def test_visible_text_wins_whatever_the_order() -> None:
    assert scan(delta(reasoning_content="hm", content="Hi"))[:2] == (Kind.reasoning | Kind.text, "Hi")
    assert scan(delta(reasoning_content="hm", reasoning="so"))[:2] == (Kind.reasoning, "hm")
    assert scan(delta(content="Hi", reasoning_content="hm"))[:2] == (Kind.reasoning | Kind.text, "Hi")


def escaped(text: str) -> str:
    """The same JSON with every letter inside of strings written as an escape."""
    out, inside, skip = [], False, 0
    for i, c in enumerate(text):
        if skip:
            skip -= 1
        elif inside and c == "\\":
            skip = 5 if text[i + 1] == "u" else 1
        elif c == '"':
            inside = not inside
        elif inside and c.isascii():
            out.append(f"\\u{ord(c):04X}" if i % 2 else f"\\u{ord(c):04x}")
            continue
        out.append(c)
    return "".join(out)


def test_completions() -> None:
    assert scan({"choices": [{"text": "Hi", "index": 0}]}, "completions") == (
        Kind.text,
        "Hi",
        None,
        None,
        None,
        False,
        None,
    )
    assert scan({"choices": [{"text": "", "finish_reason": "length"}]}, "completions")[:4] == (
        Kind.finish,
        None,
        None,
        "length",
    )
    assert scan(delta(content="Hi"), "completions").kind == 0


@pytest.mark.parametrize(
    ("usage", "told"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}, {"input_tokens": 5, "output_tokens": 7}),
        ({"completion_tokens": 0}, {"output_tokens": 0}),
        (
            {
                "prompt_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 9},
                "completion_tokens_details": {"reasoning_tokens": 3},
            },
            {"input_tokens": 5, "reasoning_tokens": 3, "cached_tokens": 4},
        ),
        ({"prompt_tokens": 2**31 - 1, "completion_tokens": 2**31}, {"input_tokens": 2**31 - 1}),
        ({"prompt_tokens": 10**30}, None),
        ({"prompt_tokens": -1, "completion_tokens": 1.5}, None),
        ({"prompt_tokens": "5", "completion_tokens": True}, None),
        ({"prompt_tokens": None, "prompt_tokens_details": None}, None),
        ({}, None),
        (None, None),
    ],
)
def test_usage(usage: object, told: dict[str, int] | None) -> None:
    result = scan({"choices": [], "usage": usage})
    assert result.usage == told
    assert result.kind == (Kind.usage if told else 0)
    both = scan({**delta(content="Hi"), "usage": usage})
    assert both.kind == result.kind | Kind.text
    assert both.usage == told


@pytest.mark.parametrize(
    ("written", "number"),
    [(b"1e3", None), (b"1.0", None), (b"-0", None), (b"0", 0), (b"2147483648", None), (b"9" * 5000, None)],
)
def test_usage_numbers_that_are_not_whole(written: bytes, number: int | None) -> None:
    assert scan(b'{"usage":{"prompt_tokens":' + written + b"}}").usage == (
        None if number is None else {"input_tokens": number}
    )


@pytest.mark.parametrize(
    "reason", ["stop", "length", "tool_calls", "function_call", "content_filter", "abort", "weird ü", 'quo"ted']
)
def test_finish(reason: str) -> None:
    result = scan(chunk(finish_reason=reason))
    assert result.finish == reason
    assert result.kind == Kind.finish


def test_finish_of_several_choices_is_the_last() -> None:
    assert scan({"choices": [{"finish_reason": "length"}, {"finish_reason": "stop"}]}).finish == "stop"


@pytest.mark.parametrize(
    "error", [{"message": "x", "code": 500}, {}, [], [{"a": "b"}], "boom", "é\ud83d\ude00\n", 5, True]
)
def test_error(error: object) -> None:
    result = scan({"error": error, "choices": []})
    assert (result.kind, result.error, result.text) == (Kind.error, json.loads(json.dumps(error)), None)


@pytest.mark.parametrize("error", [None, False, ""])
def test_no_error(error: object) -> None:
    assert scan({"error": error, **delta(content="Hi")})[:2] == (Kind.text, "Hi")


def test_error_in_vllms_older_form() -> None:
    assert scan({"object": "error", "message": "boom", "code": 400}).error == "boom"
    assert scan({"message": "boom", "code": 400, "object": "error"}).error == "boom"
    assert scan({"object": "chat.completion.chunk", "message": "fine"}).kind == 0


def test_an_error_that_python_cannot_represent_is_text() -> None:
    assert scan(b'{"error": [' + b"9" * 5000 + b"]}").error == "[" + "9" * 5000 + "]"


def test_token_ids() -> None:
    assert scan(chunk(token_ids=[1, 22, 333])).token_ids == 3
    assert scan(chunk(token_ids=[])).token_ids == 0
    assert scan(chunk(token_ids=None)).token_ids is None
    assert scan({"choices": [{"token_ids": [1]}, {"token_ids": [1, 2]}]}).token_ids == 3
    assert scan(chunk(token_ids={"a": 1})).token_ids is None


@pytest.mark.parametrize("data", [b"[DONE]", b" [DONE]", b"[DONE] \r\n\t"])
def test_done(data: bytes) -> None:
    assert scan(data) == (0, None, None, None, None, True, None)


@pytest.mark.parametrize(
    "data", [b"[DONE", b"[DONE]x", b"[done]", b"[DONE],", b"DONE", b'["DONE"', b"[[DONE]]", b"\xa0[DONE]"]
)
def test_not_quite_done(data: bytes) -> None:
    with pytest.raises(scanner.Error):
        scan(data)


def test_duplicate_keys() -> None:
    data = b'{"choices":[{"delta":{"content":"a","content":"b"},"finish_reason":"x","finish_reason":"stop"}],"usage":'
    data += b'{"prompt_tokens":1,"prompt_tokens":2},"error":1,"error":2}'
    result = scan(data)
    assert (result.text, result.finish, result.usage, result.error) == ("a", "stop", {"input_tokens": 2}, 2)


# --- JSON's own rules


@pytest.mark.parametrize(
    "data",
    [
        *[b"", b" ", b"nul", b"nulll", b"tru", b"True", b"fals", b"NaN", b"Infinity", b"undefined", b"x", b"'a'"],
        *[
            b"{",
            b"}",
            b"[",
            b"]",
            b"{]",
            b"[}",
            b"[1}",
            b'{"a":1]',
            b"[{]}",
            b"[1",
            b'{"a"',
            b'{"a":',
            b'{"a":1',
            b'{"a":1,',
            b'{"a" 1}',
            b"{a:1}",
        ],
        *[b"[1,]", b"[,1]", b"[1 2]", b"[1,,2]", b'{"a":1,}', b'{,"a":1}', b'{"a":1 "b":2}', b'{"a"::1}', b"{1:2}"],
        *[b"1 2", b"{} {}", b"{},", b"[]]", b'{"a":1}}', b"null,", b'"a" "b"'],
        *[b"01", b"-", b"+1", b".5", b"1.", b"1.e3", b"1e", b"1e+", b"0x10", b"--1", b"1-", b"1_000", b"-01", b"00"],
        *[b'"', b'"a', b'"\\"', b'"\\', b'"\\x"', b'"\\u"', b'"\\u12"', b'"\\u12g4"', b'"\\u123', b'"\\U0041"'],
        *[b'"\n"', b'"\t"', b'"\0"', b'"\x1f"', b'"a' + b"b" * 40 + b'\x01"', b'{"\n":1}', b'"\\\n"'],
        *[b"\xef\xbb\xbf{}", b"\x00", b"{}\x00", b"\x0b1", b"\xa01", b"// x\n1", b"1 // x", b"/**/1"],
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(scanner.Error):
        scan(data)
    with pytest.raises(scanner.Error):  # the same inside of an event's text
        scan(b'{"choices":[{"delta":{"content":' + data + b"}}]}")


@pytest.mark.parametrize(
    "data",
    [
        *[
            b"0",
            b"-0",
            b"-1",
            b"1.5",
            b"1e5",
            b"1E+5",
            b"1e-5",
            b"0e0",
            b"-0.0e-0",
            b"1" * 400,
            b"1e999",
            b"true",
            b"false",
        ],
        *[
            b'""',
            b'"\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9"',
            b'"\x7f"',
            b'"\xff\xfe"',
            b'"\\ud800"',
            b"{}",
            b"[]",
            b"[{},[[]]]",
        ],
        *[b' \t\r\n{ "a" : [ ] , "b" : { } } \n', b'{"":1,"":2}', b"[" * 128 + b"]" * 128],
    ],
)
def test_well_formed(data: bytes) -> None:
    assert scan(data).kind == 0


def test_depth_is_bounded() -> None:
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        assert scan(opening * 128 + b"1" * (closing == b"}") + closing * 128).kind == 0
        with pytest.raises(scanner.Error):
            scan(opening * 129 + b"1" + closing * 129)
        with pytest.raises(scanner.Error):
            scan(opening * 1_000_000)


def test_every_prefix_is_malformed() -> None:
    event = {"choices": [{"delta": {"content": 'a"\\é😀'}, "finish_reason": None}], "usage": {"a": -1.5e3}}
    data = json.dumps(event).encode()
    assert scan(data).text == 'a"\\é😀'
    for cut in range(len(data)):
        with pytest.raises(scanner.Error):
            scan(data[:cut])


# --- text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (rb"\"\\\/\b\f\n\r\t", '"\\/\b\f\n\r\t'),
        (rb"\u0041\u00e9\u20ac\ud83d\ude00", "Aé€😀"),
        (rb"\u0000", "\0"),
        (rb"\ud83d", "�"),
        (rb"\ude00", "�"),
        (rb"\ud83dx", "�x"),
        (rb"\ud83d\n", "�\n"),
        (rb"\ud83d\ud83d\ude00", "�😀"),
        (rb"\ud83d\u0041", "�A"),
        (rb"\ud83d\\ude00", "�\\ude00"),
        (rb"\uFFFF\uD800\uDC00\udbff\udfff", "\uffff\U00010000\U0010ffff"),
        (b"\xff", "�"),
        (b"\xe2\x82\\n", "�\n"),
        ("ä€😀".encode(), "ä€😀"),
        (b"\x7f", "\x7f"),
    ],
)
def test_text_is_decoded(raw: bytes, text: str) -> None:
    for padding in (b"", b"x" * 7, b"y" * 16, b"z" * 33):
        data = b'{"choices":[{"delta":{"content":"' + padding + raw + padding + b'"}}]}'
        assert scan(data).text == padding.decode() + text + padding.decode()


def test_bytes_like_objects_and_str() -> None:
    s = scanner.Scanner()
    data = json.dumps(delta(content="ü"), ensure_ascii=False)
    expected = s.scan(data)
    assert expected.text == "ü"
    assert s.scan(data.encode()) == s.scan(bytearray(data.encode())) == s.scan(memoryview(data.encode())) == expected
    with pytest.raises(TypeError):
        s.scan(5)  # type: ignore[arg-type]


# --- other APIs


@pytest.mark.parametrize(
    ("dialect", "event", "expected"),
    [
        ("responses", {"type": "response.output_text.delta", "delta": "Hi"}, (Kind.text, "Hi")),
        ("responses", {"delta": "Hi", "type": "response.output_text.delta"}, (Kind.text, "Hi")),
        ("responses", {"type": "response.reasoning_summary_text.delta", "delta": "hm"}, (Kind.reasoning, "hm")),
        ("responses", {"type": "response.function_call_arguments.delta", "delta": "{"}, (Kind.tool, "{")),
        ("responses", {"type": "response.audio.delta", "delta": "AAAA"}, (0, None)),
        ("responses", {"type": "response.output_text.done", "text": "Hi there"}, (0, None)),
        (
            "responses",
            {
                "type": "response.completed",
                "response": {
                    "status": "completed",
                    "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hi there"}]}],
                    "usage": {"input_tokens": 3, "output_tokens": 4, "output_tokens_details": {"reasoning_tokens": 1}},
                    "error": None,
                },
            },
            (
                Kind.finish | Kind.usage,
                None,
                {"input_tokens": 3, "output_tokens": 4, "reasoning_tokens": 1},
                "completed",
                None,
                True,
            ),
        ),
        (
            "responses",
            {"type": "response.incomplete", "response": {"incomplete_details": {"reason": "max_output_tokens"}}},
            (Kind.finish, None, None, "max_output_tokens", None, True),
        ),
        ("responses", {"type": "response.created", "response": {"status": "in_progress", "error": None}}, (0, None)),
        (
            "responses",
            {"type": "response.failed", "response": {"error": {"code": "x"}}},
            (Kind.error, None, None, None, {"code": "x"}, True),
        ),
        ("responses", {"type": "error", "message": "boom"}, (Kind.error, None, None, None, "boom", False)),
        (
            "responses",
            {
                "object": "response",
                "status": "completed",
                "output": [{"role": "assistant", "content": [{"text": "Hi"}]}],
            },
            (Kind.text | Kind.role | Kind.finish, "Hi", None, "completed", None, False),
        ),
        (
            "messages",
            {"type": "message_start", "message": {"role": "assistant", "content": [], "usage": {"input_tokens": 9}}},
            (Kind.role | Kind.usage, None, {"input_tokens": 9}),
        ),
        ("messages", {"type": "content_block_start", "content_block": {"type": "text", "text": ""}}, (0, None)),
        (
            "messages",
            {"type": "content_block_start", "content_block": {"type": "tool_use", "name": "f"}},
            (Kind.tool, "f"),
        ),
        ("messages", {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hi"}}, (Kind.text, "Hi")),
        ("messages", {"type": "content_block_delta", "delta": {"thinking": "hm"}}, (Kind.reasoning, "hm")),
        ("messages", {"type": "content_block_delta", "delta": {"partial_json": '{"a'}}, (Kind.tool, '{"a')),
        ("messages", {"type": "content_block_delta", "delta": {"signature": "abc"}}, (0, None)),
        (
            "messages",
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 15}},
            (Kind.finish | Kind.usage, None, {"output_tokens": 15}, "end_turn"),
        ),
        ("messages", {"type": "message_stop"}, (0, None, None, None, None, True)),
        ("messages", {"type": "ping"}, (0, None)),
        ("messages", {"type": "error", "error": {"type": "overloaded_error"}}, (Kind.error,)),
        ("ollama", {"message": {"role": "assistant", "content": "Hi"}, "done": False}, (Kind.role | Kind.text, "Hi")),
        ("ollama", {"response": "Hi", "done": False}, (Kind.text, "Hi", None, None, None, False)),
        (
            "ollama",
            {"message": {"content": ""}, "done_reason": "stop", "done": True, "prompt_eval_count": 3, "eval_count": 4},
            (Kind.finish | Kind.usage, None, {"input_tokens": 3, "output_tokens": 4}, "stop", None, True),
        ),
        (
            "tgi",
            {"index": 1, "token": {"id": 5, "text": "Hi"}, "generated_text": None, "details": None},
            (Kind.text, "Hi"),
        ),
        (
            "tgi",
            {
                "token": {"text": "!"},
                "generated_text": "Hi!",
                "details": {"finish_reason": "eos_token", "generated_tokens": 2},
            },
            (Kind.text | Kind.finish | Kind.usage, "!", {"output_tokens": 2}, "eos_token"),
        ),
    ],
)
def test_dialects(dialect: str, event: object, expected: tuple[object, ...]) -> None:
    assert scan(event, dialect)[: len(expected)] == expected


def test_every_dialect_survives_every_other_ones_events() -> None:
    for dialect in DIALECTS:
        assert scan({"x": 1}, dialect).kind == 0
        assert scan(b"[DONE]", dialect).done


# --- rules


def test_rules_of_ones_own() -> None:
    rules: list[Rule] = [
        ("out.*.*.t", "text"),
        (("dotted.key", "*"), "reasoning"),
        ("stop", "finish"),
        ("over", "done"),
        ("n", "output_tokens"),
        ("ids", "token_ids"),
    ]
    s = scanner.Scanner(rules=rules)
    assert s.scan('{"out":[[{"t":""}],[{"t":"a"}]]}')[:2] == (Kind.text, "a")
    assert s.scan('{"dotted.key":["", "b"]}')[:2] == (Kind.reasoning, "b")
    assert s.scan('{"stop":true,"over":true,"n":5}') == (
        Kind.finish | Kind.usage,
        None,
        {"output_tokens": 5},
        "stop",
        None,
        True,
        None,
    )
    assert s.scan('{"stop":false,"over":false,"ids":[1,2]}') == (0, None, None, None, None, False, 2)
    assert scanner.Scanner(rules=[("*.x", "text")]).scan('[{"x":"a"}]').text == "a"
    assert scanner.Scanner(rules=[]).scan('{"x":"a"}').kind == 0


def test_guards_hold_in_any_order_and_with_escapes() -> None:
    rules: list[Rule] = [
        ("v", "text", ("k.t", "one", "two")),
        ("v", "tool", ("k.t", "three")),
        ("k.t", "done", ("k.t", "end")),
    ]
    s = scanner.Scanner(rules=rules)
    for value, kind in (
        ("one", Kind.text),
        ("two", Kind.text),
        ("three", Kind.tool),
        ("four", 0),
        ("on", 0),
        ("onee", 0),
    ):
        assert s.scan(json.dumps({"v": "x", "k": {"t": value}})).kind == kind
        assert s.scan(json.dumps({"k": {"t": value}, "v": "x"})).kind == kind
    assert s.scan('{"v":"x","k":{"t":"\\u006fne"}}').kind == Kind.text
    assert s.scan('{"v":"x","k":{"t":null}}').kind == 0
    assert s.scan('{"v":"x","t":"one"}').kind == 0
    assert s.scan('{"k":{"t":"end"}}').done is True


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([("a", "txt")], "unknown role"),
        ([("a",)], "must be"),
        ([("a", "text"), ("a", "finish")], "only one can always hold"),
        ([("a..b", "text")], "1 to 128 bytes"),
        ([("x" * 129, "text")], "1 to 128 bytes"),
        ([("a", "text", ("k.*", "v"))], "guard"),
        ([("a", "text", ("k",))], "guard"),
        ([("a", "text", ("k", *(str(i) for i in range(33))))], "more than 32"),
    ],
)
def test_rules_that_cannot_be(rules: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scanner.Scanner(rules=rules)


def test_unknown_dialect() -> None:
    with pytest.raises(ValueError, match="chat, completions"):
        scanner.Scanner("nope")


def test_compiled_rules_are_shared() -> None:
    rules = scanner.Rules("completions")
    assert rules.dialect == "completions"
    assert rules.rules == DIALECTS["completions"]
    assert scanner.Scanner(rules=rules).scan('{"choices":[{"text":"a"}]}').text == "a"


def test_longest_keys() -> None:
    key, near = "k" * 128, "k" * 96  # the same size modulo 32
    s = scanner.Scanner(rules=[(key, "text")])
    assert s.scan(json.dumps({near: "no", key: "yes"})).text == "yes"
    assert s.scan("{" + escaped(f'"{key}"') + ':"yes"}').text == "yes"
    assert s.scan("{" + escaped(f'"{key}k"') + ':"no"}').text is None


# --- memory


def test_an_event_like_the_one_before_is_not_walked() -> None:
    s = scanner.Scanner(remember=True)
    for i, text in enumerate(["a", "b", "lön\u2028ger", 'quo"ted\\', "x" * 5000, "{}"]):
        assert s.scan(json.dumps(delta(content=text)))[:2] == (Kind.text, text)
        assert s.hits == i
    assert s.scan(json.dumps(delta(content=""))).kind == 0
    assert s.scan(json.dumps(chunk(finish_reason="stop"))).kind == Kind.finish
    assert s.hits == 5


@pytest.mark.parametrize("reason", ["stop", "eo"])  # "eo" with its quotes is as long as null
def test_what_follows_the_text_is_compared(reason: str) -> None:
    s = scanner.Scanner(remember=True)
    for told in (None, None, reason, None):
        result = s.scan(json.dumps(chunk(delta={"content": "a"}, finish_reason=told)))
        assert result[:4] == (Kind.text | (Kind.finish if told else 0), "a", None, told)
    assert s.hits == 2


def test_an_empty_text_after_a_text_is_none() -> None:
    s = scanner.Scanner(remember=True)
    for text in ("a", "b", "", "c"):
        assert s.scan(json.dumps(delta(content=text)))[:2] == ((Kind.text, text) if text else (0, None))
    assert s.hits == 2


def test_memory_refuses_what_looks_alike_but_is_malformed() -> None:
    s = scanner.Scanner(remember=True)
    before, behind = b'{"choices":[{"delta":{"content":"', b'"}}]}'
    assert s.scan(before + b"a" + behind).text == "a"
    for bad in (b"\n", b"\\", b"\\x", b'"', b'","content":', b"\\ud8"):
        with pytest.raises(scanner.Error):
            s.scan(before + bad + behind)
    assert (
        s.scan(before + b'b","content":"c' + behind).text == "b"
    )  # duplicate keys: well-formed, the first is the text
    assert s.scan(before + b"d" + behind).text == "d"


def test_long_beginnings_take_the_plain_path() -> None:
    s = scanner.Scanner(remember=True)
    for _ in range(4):
        assert s.scan(json.dumps({"x": "x" * 300, **delta(content="a")})).text == "a"
    assert s.hits == 0


def test_sse_and_scanner_together() -> None:
    parser, s = sse.Parser(), scanner.Scanner(remember=True)
    stream = (
        b"".join(b"data: %s\n\n" % json.dumps(delta(content=f" w{i}")).encode() for i in range(50))
        + b"data: [DONE]\n\n"
    )
    results = [s.scan(event.data) for at in range(0, len(stream), 97) for event in parser.feed(stream[at : at + 97])]
    assert [r.text for r in results] == [*(f" w{i}" for i in range(50)), None]
    assert results[-1].done
    assert found.Found is scanner.Found
