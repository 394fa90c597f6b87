"""The cells of a matrix: every combination of the levels of its factors, as configurations of single runs.

    matrix:
      workload.output: [64, 256]                          a list: the levels are named by their values
      workload.body.temperature: [0, 1]                   inside of the body
      workload.tools: {none: [], weather: [{...}]}        a mapping: the levels have names

A factor is a key of the configuration, a level what stands there; both are laid over the configuration as flags are
(config.merge): what is said for the whole workload holds for every class, a rate replaces stages.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from llmgen.config import RunConfig, merge
from llmgen.decoding import show, wrong
from llmgen.errors import ConfigError

DEFAULT_REPEAT: Final = 3  # the fewest runs of a cell that tell their own spread from a difference
MAX_RUNS: Final = 10_000  # more is a slip: a week of one-minute runs
MAX_LABEL: Final = 40
BODY: Final = "workload.body"
# What names and numbers the runs themselves, or would be a matrix inside of a cell.
NO_FACTORS: Final = frozenset({"schema", "name", "tags", "note", "seed", "out", "matrix", "repeat"})


SECRETS: Final = ("target.headers", "target.api_key", "target.query")  # labels stand in suite.json and the report


@dataclass(frozen=True)
class Factor:
    """A key and its levels by their labels, in order; the first is what the others are compared with."""

    key: str
    levels: dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One combination. `config` is that of a single run, without a matrix and without a place of its own."""

    number: int
    levels: dict[str, str]  # label by factor
    config: RunConfig

    @property
    def label(self) -> str:
        return label_of(self.levels)


def label_of(levels: Mapping[str, str]) -> str:
    """One line for a combination: the last parts of its keys, where they differ, and the labels."""
    return " ".join(f"{short(key, levels)}={label}" for key, label in levels.items()) or "as configured"


def short(key: str, keys: Mapping[str, Any]) -> str:
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key


def repeats(config: RunConfig) -> int:
    """How often each cell runs. ConfigError."""
    found = (DEFAULT_REPEAT if config.matrix else 1) if config.repeat is None else config.repeat
    if found < 1:
        raise wrong("repeat", found, "must be at least 1")
    return found


def factors(config: RunConfig) -> list[Factor]:
    """The factors of `matrix:`. ConfigError for one that has no levels, or cannot be one."""
    return [Factor(key, _levels(key, value)) for key, value in config.matrix.items()]


def _levels(key: str, value: Any) -> dict[str, Any]:
    where = f"matrix.{key}"
    if key.partition(".")[0] in NO_FACTORS or key.startswith(SECRETS):
        raise ConfigError(f"{where}: cannot be a factor: a suite has its own, or must not show it")
    if isinstance(value, Mapping):
        levels = {str(label): level for label, level in value.items()}
    elif isinstance(value, (list, tuple)):
        levels = {_label(level): level for level in value}
        if len(levels) < len(value):
            raise wrong(where, value, "two levels look alike; name them in a mapping: {NAME: VALUE, …}")
    else:
        raise wrong(where, value, "must be a list of values, or a mapping of names to values")
    if not levels:
        raise wrong(where, value, "has no levels")
    return levels


def _label(level: Any) -> str:
    text = level if isinstance(level, str) else json.dumps(level, ensure_ascii=False, default=show)
    return text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 1] + "…"


def cells(config: RunConfig) -> list[Cell]:
    """All combinations, the last factor changing fastest; without a matrix the configuration itself. ConfigError."""
    found = factors(config)
    single = msgspec.structs.replace(config, matrix={}, repeat=None)
    count = repeats(config)
    for factor in found:
        count *= len(factor.levels)
    if count > MAX_RUNS:
        raise ConfigError(f"matrix: {count} runs; at most {MAX_RUNS}: name fewer levels, or repeat less")
    made = []
    for number, labels in enumerate(itertools.product(*(factor.levels for factor in found))):
        levels = {factor.key: label for factor, label in zip(found, labels, strict=True)}
        flags: dict[str, Any] = {}
        for factor, label in zip(found, labels, strict=True):
            _lay(flags, factor.key, factor.levels[label])
        try:
            made.append(Cell(number, levels, merge(single, flags)))
        except ConfigError as error:
            raise ConfigError(f"matrix ({label_of(levels)}): {error}") from None
    return made


def _lay(flags: dict[str, Any], key: str, level: Any) -> None:
    """Members of the body become one patch: they are no keys of the configuration."""
    if not key.startswith(BODY + "."):
        flags[key] = level
        return
    inner = flags.setdefault(BODY, {})
    *path, last = key.removeprefix(BODY + ".").split(".")
    for name in path:
        inner = inner.setdefault(name, {})
    inner[last] = level


def order(count: int, repeat: int, seed: int) -> list[tuple[int, int]]:
    """(cell, repeat) of the runs in turn: every cell once a round, each round shuffled anew.

    What drifts while a suite runs (a warm cache, other tenants, the time of day) then meets all cells alike.
    """
    found = []
    for number in range(repeat):
        round_ = list(range(count))
        random.Random(f"{seed} {number}").shuffle(round_)
        found += [(cell, number) for cell in round_]
    return found
