"""Classes, models and lengths of requests, keyed by index."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from llmgen import dialects
from llmgen.config import Klass, RunConfig, Target, Workload
from llmgen.errors import ConfigError
from llmgen.workload.mix import Given, Mix, parse_models, request_classes


def mix_of(workload, model="m", seed=1):
    config = RunConfig(target=Target(model=model), workload=workload)
    return Mix(request_classes(config, dialects.get("chat"), None), seed)


THREE = Workload(
    mix={
        "short": Klass(weight=3, input=10, output="uniform:1,20"),
        "never": Klass(weight=0, input=999),
        "long": Klass(weight=1, input="lognormal:600,200", output=300, model="a:3,b:1", stream=False),
    }
)


def test_without_a_mix_one_class_is_called_default():
    mix = mix_of(Workload(input=7, output=9))
    assert [one.name for one in mix.classes] == ["default"]
    draws = mix.draw(0, 5)
    assert draws.klass.tolist() == [0] * 5
    assert draws.planned_input.tolist() == [7] * 5
    assert draws.planned_output.tolist() == [9] * 5


def test_weights_choose_classes_and_models():
    draws = mix_of(THREE).draw(0, 40_000)
    counts = np.bincount(draws.klass, minlength=3)
    assert counts[1] == 0
    assert stats.binomtest(int(counts[0]), 40_000, 0.75).pvalue > 0.001
    frames = np.bincount(draws.frame, minlength=4)
    assert frames[1] == 0
    assert stats.binomtest(int(frames[2]), int(counts[2]), 0.75).pvalue > 0.001
    short, long = draws.klass == 0, draws.klass == 2
    assert set(draws.planned_input[short].tolist()) == {10}
    assert set(draws.planned_output[short].tolist()) == set(range(1, 21))
    assert set(draws.planned_output[long].tolist()) == {300}
    assert draws.planned_input[long].std() > 100


def test_any_piece_is_a_piece_of_the_whole():
    mix = mix_of(THREE)
    whole = mix.draw(0, 50_000)
    for first, count in [(0, 1), (16_380, 10), (20_000, 30_000)]:
        piece = mix.draw(first, count)
        for field in dataclasses.fields(piece):
            np.testing.assert_array_equal(getattr(piece, field.name), getattr(whole, field.name)[first : first + count])


def test_a_trace_brings_its_lengths():
    lengths = Given(np.array([5, 6, 7]), np.array([1, 2, 3]))
    draws = mix_of(THREE).draw(0, 3, lengths)
    assert draws.planned_input.tolist() == [5, 6, 7]
    assert draws.planned_output.tolist() == [1, 2, 3]


def test_an_override_that_fixes_the_output_is_what_is_planned():
    mix = mix_of(Workload(output=50, mix={"a": Klass(body={"max_tokens": 5}), "b": Klass(body={"max_tokens": None})}))
    draws = mix.draw(0, 1000)
    assert set(draws.planned_output[draws.klass == 0].tolist()) == {5}
    assert set(draws.planned_output[draws.klass == 1].tolist()) == {-1}


def test_a_class_takes_from_the_workload_what_it_does_not_say():
    workload = Workload(
        input=11, output=22, stream=False, body={"temperature": 1, "seed": 5, "o": {"a": 1}},
        mix={"x": Klass(body={"temperature": 0, "seed": None, "o": {"b": 2}}), "y": Klass(stream=True)},
    )  # fmt: skip
    x, y = mix_of(workload).classes
    assert (x.input.mean, x.output.mean, x.stream, y.stream) == (11, 22, False, True)
    filled = x.frames[0].fill(b"p", 1)
    assert b'"temperature":0' in filled
    assert b"seed" not in filled
    assert b'"o":{"a":1,"b":2}' in filled


@pytest.mark.parametrize(
    ("text", "names", "weights"),
    [
        (None, (None,), (1.0,)),
        ("m", ("m",), (1.0,)),
        ("llama3:8b", ("llama3:8b",), (1.0,)),
        ("qwen:7", ("qwen:7",), (1.0,)),
        ("a:3,b:1", ("a", "b"), (3.0, 1.0)),
        ("a, b:0.5", ("a", "b"), (1.0, 0.5)),
        ("llama3:8b:2,llama3:70b:1", ("llama3:8b", "llama3:70b"), (2.0, 1.0)),
        ("llama3:8b,x", ("llama3:8b", "x"), (1.0, 1.0)),
    ],
)
def test_models(text, names, weights):
    assert parse_models(text, "target.model") == (names, weights)


@pytest.mark.parametrize("text", ["a:0,b", "a:-1,b", ",b", "a:nan,b", ":3,b", "a:inf,b"])
def test_models_refused(text):
    with pytest.raises(ConfigError, match=r"target\.model=.*a:3,b:1"):
        parse_models(text, "target.model")


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        (Workload(input="x"), ["workload.input='x'"]),
        (Workload(output="x", mix={"a": Klass()}), ["workload.output='x'"]),
        (Workload(mix={"a": Klass(input="x")}), ["workload.mix.a.input='x'"]),
        (Workload(mix={"a": Klass(weight=-1)}), ["workload.mix.a.weight=-1"]),
        (Workload(mix={"a": Klass(weight=float("nan"))}), ["workload.mix.a.weight=nan"]),
        (Workload(mix={"a": Klass(weight=0)}), ["workload.mix", "all weights are 0"]),
        (Workload(mix={"a": Klass(body={"messages": []})}), ["workload.mix.a.body.messages"]),
        (Workload(mix={"a": Klass(model="x:0,y")}), ["workload.mix.a.model"]),
    ],
)
def test_refused_with_the_key(workload, words):
    with pytest.raises(ConfigError) as caught:
        mix_of(workload)
    for word in words:
        assert word in str(caught.value)
