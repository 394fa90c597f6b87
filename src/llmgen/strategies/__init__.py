"""Test strategies: each a documented schedule with stop rules and a verdict, over a series of runs.

A strategy is a module of its own: its docstring is what `llmgen test NAME --help` says; `Parameters` and `HELP` are its
flags; `check(config, parameters)` raises ConfigError before a directory is made; `run(config, series, parameters)` is
an ordinary function to a Conclusion.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

import msgspec

from llmgen.config import RunConfig
from llmgen.metrics.conclusion import Conclusion
from llmgen.series import Series

# name → what `llmgen test --help` says of it
STRATEGIES: Final = {
    "baseline": "Every class alone and together, without load: the reference.",
    "load": "A ramp to the expected rate: where the server begins to bend.",
    "stress": "Beyond the peak and back: degradation, first errors, recovery.",
    "soak": "Hours at the expected rate: drift, leaks, restarts.",
    "spike": "Sudden load: time to recover, and scaling seen from outside.",
    "coldstart": "Time to ready; first requests against warm ones; cold prefix cache.",
}


class Strategy(Protocol):
    """A module of this package."""

    __doc__: str
    HELP: dict[str, str]
    check: Callable[[RunConfig, Any], object]
    Parameters: type[msgspec.Struct]
    run: Callable[[RunConfig, Series, Any], Conclusion]


def strategy(name: str) -> Strategy:
    """One of STRATEGIES. KeyError for another name."""
    _ = STRATEGIES[name]
    return cast(Strategy, importlib.import_module(f"llmgen.strategies.{name}"))
