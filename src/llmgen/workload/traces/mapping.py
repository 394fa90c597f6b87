"""From a trace's own classes and models to those of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from llmgen.config import Trace
from llmgen.decoding import closest
from llmgen.errors import ConfigError
from llmgen.workload.traces.rows import NONE, Ints, Labels

OTHERS: Final = "*"
DROPPED: Final = -2
DRAWN: Final = -1  # by the weights of the mix


def check(trace: Trace, classes: Sequence[str]) -> None:
    """ConfigError if rows are mapped to a class that the mix does not have."""
    for label, name in trace.classes.items():
        if name is not None and name not in classes:
            raise ConfigError(f"load.trace.classes.{label}={name!r}: no class of the mix; {closest(name, classes)}")


class ClassMap:
    """Numbers of classes for a trace's labels. Without a mapping a label that is a class's name is that class."""

    def __init__(self, trace: Trace, classes: Sequence[str]) -> None:
        self._mapping = trace.classes
        self._numbers = {name: number for number, name in enumerate(classes)}
        self._known: list[int] = []  # of the labels met so far
        self._others = self._number(OTHERS) if OTHERS in trace.classes else DRAWN

    def _number(self, label: str) -> int:
        if label not in self._mapping:
            return self._numbers.get(label, DRAWN) if not self._mapping else self._others
        name = self._mapping[label]
        return DROPPED if name is None else self._numbers[name]

    def numbers(self, labels: Labels | None, rows: int) -> Ints:
        """(rows,): a class's number, DRAWN or DROPPED."""
        if labels is None:
            return np.full(rows, self._others)
        self._known += [self._number(name) for name in labels.names[len(self._known) :]]
        table = np.array([*self._known, self._others], np.int64)  # a row without a label has the last
        return np.asarray(table[labels.codes])


class ModelMap:
    """Numbers in `names` for a trace's models."""

    def __init__(self, models: Mapping[str, str]) -> None:
        self.names = tuple(dict.fromkeys(models.values()))
        self._models = models
        self._known: list[int] = []

    def numbers(self, labels: Labels | None) -> Ints | None:
        """(rows,): a number in `names`, DRAWN where the trace's model is not mapped; None without a mapping."""
        if labels is None or not self.names:
            return None
        for name in labels.names[len(self._known) :]:
            target = self._models.get(name, self._models.get(OTHERS))
            self._known.append(DRAWN if target is None else self.names.index(target))
        return np.asarray(np.array([*self._known, DRAWN], np.int64)[labels.codes])


assert NONE == -1  # a label's code that takes the last entry of a table
