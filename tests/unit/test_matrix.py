"""The cells of a matrix: combinations, how levels are laid over the configuration, what is refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from llmgen import matrix
from llmgen.config import Klass, Load, RunConfig, Stage, Workload
from llmgen.errors import ConfigError


def cells(factors: dict[str, Any], **config: Any) -> list[matrix.Cell]:
    return matrix.cells(RunConfig(matrix=factors, **config))


def test_every_combination_in_order_the_last_changes_fastest() -> None:
    found = cells({"workload.output": [64, 256], "workload.stream": [True, False]})
    assert [cell.levels for cell in found] == [
        {"workload.output": "64", "workload.stream": "true"},
        {"workload.output": "64", "workload.stream": "false"},
        {"workload.output": "256", "workload.stream": "true"},
        {"workload.output": "256", "workload.stream": "false"},
    ]
    assert [(cell.config.workload.output, cell.config.workload.stream) for cell in found] == [
        (64, True), (64, False), (256, True), (256, False),
    ]  # fmt: skip
    assert [cell.number for cell in found] == [0, 1, 2, 3]
    assert found[1].label == "output=64 stream=false"
    assert all(cell.config.matrix == {} and cell.config.repeat is None for cell in found)


def test_without_a_matrix_there_is_one_cell() -> None:
    (cell,) = matrix.cells(RunConfig(repeat=5))
    assert (cell.levels, cell.label, cell.config) == ({}, "as configured", RunConfig())
    assert matrix.repeats(RunConfig()) == 1
    assert matrix.repeats(RunConfig(matrix={"load.rate": [1]})) == 3
    assert matrix.repeats(RunConfig(matrix={"load.rate": [1]}, repeat=1)) == 1


def test_members_of_the_body_become_one_patch_that_wins_over_classes() -> None:
    mix = {"a": Klass(body={"temperature": 0.5, "top_k": 3}), "b": Klass()}
    (cell, _) = cells(
        {"workload.body.temperature": [0, 1], "workload.body.response_format.type": ["json_object"]},
        workload=Workload(body={"seed": 1}, mix=mix),
    )
    patch = {"temperature": 0, "response_format": {"type": "json_object"}}
    assert cell.config.workload.body == {"seed": 1, **patch}
    assert cell.config.workload.mix["a"].body == {"top_k": 3, **patch}
    assert cell.config.workload.mix["b"].body == patch


def test_levels_may_have_names_and_be_anything() -> None:
    tools = {"none": None, "weather": [{"type": "function", "function": {"name": "weather"}}]}
    none, weather = cells({"workload.body.tools": tools})
    assert (none.levels, none.config.workload.body) == ({"workload.body.tools": "none"}, {"tools": None})
    assert weather.config.workload.body["tools"] == tools["weather"]
    small, both = cells({"workload.mix": {"small": {"s": {"input": 8}}, "both": {"s": {}, "l": {"output": 99}}}})
    assert list(small.config.workload.mix) == ["s"]
    assert both.config.workload.mix["l"].output == 99


def test_a_rate_replaces_stages_as_its_flag_does() -> None:
    slow, fast = cells({"load.rate": [1, 20]}, load=Load(stages=(Stage(rate=5, duration=60),), duration=10))
    assert (slow.config.load.rate, slow.config.load.stages) == (1.0, ())
    assert fast.config.load.rate == 20.0


def test_long_labels_are_cut_and_keys_told_apart() -> None:
    (cell,) = cells({"load.warmup": [1], "workload.body.x": ["y" * 60]})
    assert cell.levels["workload.body.x"] == "y" * 39 + "…"
    levels = {"workload.body.stop": "a", "load.stop": "b"}
    assert matrix.label_of(levels) == "workload.body.stop=a load.stop=b"


@pytest.mark.parametrize(
    ("factors", "complaint"),
    [
        ({"load.rate": 5}, r"matrix\.load\.rate=5: must be a list of values, or a mapping"),
        ({"load.rate": []}, r"matrix\.load\.rate=\[\]: has no levels"),
        ({"load.rate": [1, 1]}, "two levels look alike"),
        ({"load.rte": [1]}, r"matrix \(rte=1\): load\.rte: unknown key"),
        ({"load.rate": ["fast"]}, r"matrix \(rate=fast\): load\.rate='fast'"),
        ({"seed": [1, 2]}, r"matrix\.seed: cannot be a factor"),
        ({"target.headers": {"a": {"Authorization": "x"}}}, r"matrix\.target\.headers: cannot be a factor"),
        ({"load.rate": list(range(1, 102)), "seed_": list(range(101))}, "30603 runs; at most 10000"),
    ],
)
def test_what_cannot_be(factors: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        cells(factors)


def test_repeats_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"repeat=0: must be at least 1"):
        matrix.cells(RunConfig(repeat=0))


def test_the_order_is_interleaved_and_the_seeds_own() -> None:
    turns = matrix.order(5, 4, seed=7)
    rounds = [turns[at : at + 5] for at in range(0, 20, 5)]
    assert [{number for _, number in round_} for round_ in rounds] == [{0}, {1}, {2}, {3}]
    assert all(Counter(cell for cell, _ in round_) == Counter(range(5)) for round_ in rounds)
    assert len({tuple(cell for cell, _ in round_) for round_ in rounds}) > 1, "every round is shuffled anew"
    assert matrix.order(5, 4, seed=7) == turns
    assert matrix.order(5, 4, seed=8) != turns
