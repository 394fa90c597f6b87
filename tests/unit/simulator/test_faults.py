"""The grammar of --fault."""

from __future__ import annotations

import pytest

from llmgen.errors import ConfigError
from llmgen.simulator.faults import FAULTS, Fault, describe, parse


def test_probabilities_become_cumulative_thresholds() -> None:
    rules = parse(("429:0.25", "stall:0.5", "refuse:0.125", "close-idle:5s"))
    assert rules.rules == [(2**62, Fault.status, 429), (3 * 2**62, Fault.stall, 0)]
    assert rules.refuse_below == 2**61
    assert rules.close_idle_ns == 5 * 10**9


def test_certainty_fits_into_64_bits() -> None:
    assert parse(("reset:1",)).rules == [(2**64 - 1, Fault.reset, 0)]


def test_every_fault_has_a_code_and_is_described() -> None:
    for name in FAULTS:
        assert name.replace("-", "_") in Fault.__members__
        assert name in describe()


@pytest.mark.parametrize(
    "texts",
    [("explode:0.1",), ("429",), ("429:x",), ("429:1.5",), ("429:-0.1",), ("200:0.1",), ("600:0.1",),
     ("429:0.6", "500:0.6"), ("close-idle:5",), ("stall:nan",)],
)  # fmt: skip
def test_what_is_refused(texts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"^fault"):
        parse(texts)
