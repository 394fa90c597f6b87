"""Which class and model a request belongs to, and how long its prompt and answer are to be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llmgen.config import Klass, RunConfig
from llmgen.dialects import Ask, Dialect, Frame
from llmgen.dialects.frame import compose
from llmgen.draws import normals, uniforms
from llmgen.errors import ConfigError
from llmgen.workload.lengths import Length, Lengths, parse_length

MAX_CLASSES: Final = 1 << 16  # `klass` of a plan row is 16 bits wide


@dataclass(frozen=True)
class RequestClass:
    """One class of the mix, resolved: what it does not set comes from the workload."""

    name: str
    weight: float
    input: Length
    output: Length
    stream: bool
    models: tuple[str | None, ...]
    model_weights: tuple[float, ...]
    frames: tuple[Frame, ...]  # one a model
    slo: tuple[str, ...]


def parse_models(text: str | None, key: str) -> tuple[tuple[str | None, ...], tuple[float, ...]]:
    """Names and weights of "a:3,b:1". Without a comma the text is one name, colons and all ("llama3:8b")."""
    if text is None:
        return (None,), (1.0,)
    if "," not in text:
        return (text,), (1.0,)
    names: list[str | None] = []
    weights = []
    for part in text.split(","):
        name, colon, weight_text = part.strip().rpartition(":")
        try:
            weight = float(weight_text) if colon else 1.0
        except ValueError:
            name, colon, weight = part.strip(), "", 1.0  # a name with a colon of its own
        name = name if colon else part.strip()
        if not name or not (0 < weight < math.inf):
            raise ConfigError(f"{key}={text!r}: {part.strip()!r} is no name with a weight above 0; write a:3,b:1")
        names.append(name)
        weights.append(weight)
    return tuple(names), tuple(weights)


def request_classes(config: RunConfig, dialect: Dialect, model: str | None) -> list[RequestClass]:
    """The classes of the run, in the order of the configuration; without a mix one, `default`.

    `model` is used where the configuration names none. ConfigError with key, value and cure.
    """
    workload = config.workload
    klasses = workload.mix or {"default": Klass()}
    if len(klasses) > MAX_CLASSES:
        raise ConfigError(f"workload.mix: {len(klasses)} classes; at most {MAX_CLASSES}")
    classes = [_request_class(name, klass, config, dialect, model) for name, klass in klasses.items()]
    if all(one.weight == 0 for one in classes):
        raise ConfigError("workload.mix: all weights are 0; at least one must be above")
    return classes


def _request_class(name: str, klass: Klass, config: RunConfig, dialect: Dialect, model: str | None) -> RequestClass:
    workload = config.workload
    key = f"workload.mix.{name}" if workload.mix else "workload"
    if not (0 <= klass.weight < math.inf):
        raise ConfigError(f"{key}.weight={klass.weight:g}: must be a number, 0 or above")
    if klass.model is not None:
        models, weights = parse_models(klass.model, f"{key}.model")
    else:
        models, weights = parse_models(config.target.model or model, "target.model")
    stream = workload.stream if klass.stream is None else klass.stream
    lengths = {
        what: parse_length(own, f"{key}.{what}") if own is not None else parse_length(shared, f"workload.{what}")
        for what, own, shared in (("input", klass.input, workload.input), ("output", klass.output, workload.output))
    }
    frames = tuple(
        dialect.frame(
            Ask(
                model=one,
                stream=stream,
                exact_output=workload.exact_output,
                max_tokens_field=workload.max_tokens_field,
                overrides=compose(workload.body, klass.body),
                key=f"{key}.body",
            )
        )
        for one in models
    )
    return RequestClass(
        name, klass.weight, lengths["input"], lengths["output"], stream, models, weights, frames, klass.slo
    )


@dataclass(frozen=True)
class Draws:
    """What was drawn for a block of requests; arrays (count,)."""

    klass: NDArray[np.uint16]
    frame: NDArray[np.int64]  # number in Mix.frames
    planned_input: Lengths
    planned_output: Lengths  # -1: the body asks for no limit


class Mix:
    """Draws class, model and lengths of any block of request indices, keyed by (seed, purpose, index)."""

    def __init__(self, classes: list[RequestClass], seed: int) -> None:
        self.classes = classes
        self.frames = [frame for one in classes for frame in one.frames]
        self.first_frame = np.cumsum([0, *(len(one.frames) for one in classes[:-1])])
        self._seed = seed
        self._upto = _cumulative([one.weight for one in classes])
        self._models_upto = [_cumulative(one.model_weights) for one in classes]

    def draw(self, first: int, count: int, lengths: tuple[Lengths, Lengths] | None = None) -> Draws:
        """Requests first .. first + count - 1; `lengths` (input, output) of a trace take the place of the classes'."""
        klass = self._classes_of(first, count)
        deviates = _Deviates(self._seed, first, count)
        frame = self.first_frame[klass]
        planned_input, planned_output = np.empty(count, np.int64), np.empty(count, np.int64)
        if lengths is not None:
            planned_input, planned_output = lengths[0].astype(np.int64), lengths[1].astype(np.int64)
        for number, one in enumerate(self.classes):
            rows: NDArray[np.intp] | slice = slice(None)
            if len(self.classes) > 1:
                rows = np.flatnonzero(klass == number)
            if len(one.frames) > 1:
                chosen = np.searchsorted(self._models_upto[number], deviates.get("model", "uniform")[rows], "right")
                frame[rows] += chosen
            if lengths is None:
                planned_input[rows] = one.input.values(deviates.get("input", one.input.deviate)[rows])
                planned_output[rows] = one.output.values(deviates.get("output", one.output.deviate)[rows])
        for number, fixed in enumerate(self.frames):
            if not fixed.asks_output:
                planned_output[frame == number] = fixed.output
        return Draws(klass.astype(np.uint16), frame, planned_input, planned_output)

    def _classes_of(self, first: int, count: int) -> NDArray[np.int64]:
        if len(self.classes) == 1:
            return np.zeros(count, np.int64)
        return np.searchsorted(self._upto, uniforms(self._seed, "class", first, count), side="right").astype(np.int64)


def _cumulative(weights: list[float] | tuple[float, ...]) -> NDArray[np.float64]:
    upto = np.cumsum(weights, dtype=np.float64)
    return np.asarray(upto / upto[-1])


class _Deviates:
    """The deviates of one block, drawn when first asked for and shared by all classes."""

    def __init__(self, seed: int, first: int, count: int) -> None:
        self._args = (first, count)
        self._seed = seed
        self._drawn: dict[tuple[str, str], NDArray[np.float64]] = {}

    def get(self, purpose: str, kind: str) -> NDArray[np.float64]:
        known = self._drawn.get((purpose, kind))
        if known is None:
            first, count = self._args
            if kind == "none":
                known = np.zeros(count)
            else:
                source = uniforms if kind == "uniform" else normals
                known = source(self._seed, f"{purpose} {kind}", first, count)
            self._drawn[(purpose, kind)] = known
        return known
