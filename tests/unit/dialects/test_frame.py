"""Bodies as pieces and slots; overrides merged last."""

import json

import pytest

from llmgen.dialects.frame import Ask, Frame, Slot, build, compose, merge
from llmgen.errors import ConfigError


# The examples of RFC 7396, appendix A.
@pytest.mark.parametrize(
    ("base", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(base, patch, result):
    assert merge(base, patch) == result


def test_composing_is_merging_one_after_the_other():
    first = {"a": {"x": 1, "y": 2}, "b": None, "c": 3}
    second = {"a": {"y": None, "z": {"k": 1}}, "c": None, "d": {"n": None}}
    for base in ({}, {"a": {"y": 9, "w": 8}, "b": {"m": 2}, "c": {"q": 1}, "d": {"n": 1, "o": 2}}):
        assert merge(base, compose(first, second)) == merge(merge(base, first), second)
    assert compose({"a": {"x": 1}}, {"a": 2}) == {"a": 2}
    assert compose({"a": 1}, {"a": {"x": None}}) == {"a": {"x": None}}
    assert first == {"a": {"x": 1, "y": 2}, "b": None, "c": 3}


def make(overrides, **members):
    return build({"n": Slot.output, **members}, "prompt", (b'"', b'"'), Ask(overrides=overrides, key="workload.body"))


def test_pieces_are_joined_and_the_prompt_is_last():
    frame = make({}, model="m", x=[1, "é"])
    assert frame.pieces == (b'{"n":', Slot.output, ',"model":"m","x":[1,"é"],"prompt":"'.encode(), Slot.prompt, b'"}')
    assert json.loads(frame.fill(b"a b", 17)) == {"n": 17, "model": "m", "x": [1, "é"], "prompt": "a b"}


def test_overrides_add_replace_and_remove():
    frame = make({"model": None, "x": {"k": True}, "new": 1.5}, model="m", x={"k": False, "l": 0})
    assert json.loads(frame.fill(b"p", 3)) == {"n": 3, "x": {"k": True, "l": 0}, "prompt": "p", "new": 1.5}


def test_an_override_may_fix_the_output():
    frame = make({"n": 5}, min_tokens=Slot.output)
    assert not frame.asks_output
    assert frame.output == 5
    assert json.loads(frame.fill(b"p", 99)) == {"n": 5, "min_tokens": 5, "prompt": "p"}


def test_an_override_may_remove_the_limit():
    frame = make({"n": None})
    assert (frame.asks_output, frame.output) == (False, -1)
    assert json.loads(frame.fill(b"p", 99)) == {"prompt": "p"}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"prompt": "x"}, ["workload.body.prompt", "workload.input"]),
        ({"prompt": None}, ["workload.body.prompt"]),
        ({"stream": False}, ["workload.body.stream=False", "--no-stream"]),
        ({"stream": None}, ["workload.body.stream=None"]),
        ({"n": 0}, ["workload.body.n=0", "1 or above"]),
        ({"n": "5"}, ["workload.body.n='5'", "whole number"]),
        ({"n": True}, ["workload.body.n=True"]),
        ({"t": float("nan")}, ["workload.body.t", "JSON"]),
        ({"t": float("inf")}, ["workload.body.t", "JSON"]),
        ({"t": "\ud800"}, ["workload.body.t", "JSON"]),
        ({"t": {1, 2}}, ["workload.body.t", "JSON"]),
    ],
)
def test_overrides_that_cannot_be(overrides, words):
    with pytest.raises(ConfigError) as caught:
        make(overrides)
    for word in words:
        assert word in str(caught.value)


def test_stream_may_be_said_again():
    assert b'"stream":true' in make({"stream": True}, stream=True).fill(b"", 1)


def test_a_frame_has_one_prompt():
    with pytest.raises(ValueError, match="one prompt"):
        Frame((b"{}",))
