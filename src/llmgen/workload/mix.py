"""Which class and model a request belongs to, and how long its prompt and answer are to be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from llmgen.config import Data, Klass, Prefix, RunConfig
from llmgen.dialects import Ask, Dialect, Frame
from llmgen.dialects.frame import compose
from llmgen.draws import normals, uniforms
from llmgen.errors import ConfigError
from llmgen.workload.lengths import Length, Lengths, Pairs, parse_length, parse_pairs
from llmgen.workload.prefixes import check_prefix

MAX_CLASSES: Final = 1 << 16  # `klass` of a plan row is 16 bits wide


@dataclass(frozen=True)
class RequestClass:
    """One class of the mix, resolved: what it does not set comes from the workload."""

    name: str
    weight: float
    input: Length
    output: Length
    pairs: Pairs | None  # input and output drawn together, in the place of both
    correlation: float
    prefix: Prefix | None
    data: Data | None
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
    models, weights = _with_mapped(models, weights, config)
    stream = (workload.stream if klass.stream is None else klass.stream) and dialect.streams
    if klass.stream and not dialect.streams:
        raise ConfigError(f"{key}.stream=True: target.api={dialect.name!r} has whole answers only; leave it out")
    lengths = {
        what: parse_length(own, f"{key}.{what}") if own is not None else parse_length(shared, f"workload.{what}")
        for what, own, shared in (("input", klass.input, workload.input), ("output", klass.output, workload.output))
    }
    pairs = klass.lengths or (workload.lengths if klass.input is None and klass.output is None else None)
    prefix, data = klass.prefix or workload.prefix, klass.data or workload.data
    if prefix is not None:
        check_prefix(prefix, f"{key}.prefix")
    if prefix is not None and data is not None:
        raise ConfigError(f"{key}.prefix: own data has its own beginnings; leave one out")
    frames = tuple(
        dialect.frame(
            Ask(
                model=one,
                stream=stream,
                exact_output=workload.exact_output,
                continuous_usage=workload.continuous_usage and stream,
                max_tokens_field=workload.max_tokens_field,
                overrides=compose(_tools(klass.tools or workload.tools), compose(workload.body, klass.body)),
                key=f"{key}.body",
                whole_prompt=data is not None or workload.sessions is not None,
            )
        )
        for one in models
    )
    return RequestClass(
        name=name,
        weight=klass.weight,
        input=lengths["input"],
        output=lengths["output"],
        pairs=parse_pairs(pairs, f"{key}.lengths") if pairs is not None else None,
        correlation=_correlation(klass, config, lengths, key),
        prefix=prefix,
        data=data,
        stream=stream,
        models=models,
        model_weights=weights,
        frames=frames,
        slo=klass.slo,
    )


def _tools(tools: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    return {"tools": list(tools)} if tools else {}


def _with_mapped(
    models: tuple[str | None, ...], weights: tuple[float, ...], config: RunConfig
) -> tuple[tuple[str | None, ...], tuple[float, ...]]:
    """The models, and those that a trace's models stand for, which are never drawn."""
    trace = config.load.trace
    more = tuple(dict.fromkeys(name for name in (trace.models.values() if trace else ()) if name not in models))
    return models + more, weights + (0.0,) * len(more)


def _correlation(klass: Klass, config: RunConfig, lengths: Mapping[str, Length], key: str) -> float:
    own = klass.correlation
    correlation = config.workload.correlation if own is None else own
    if not correlation:
        return 0.0
    if not -1 <= correlation <= 1:
        raise ConfigError(f"{key}.correlation={correlation:g}: must be from -1 to 1")
    wrong = [what for what, length in lengths.items() if length.deviate != "normal"]
    if wrong:
        raise ConfigError(
            f"{key}.correlation={correlation:g}: needs normal or lognormal lengths, {wrong[0]} is "
            f"{lengths[wrong[0]].text!r}; or draw both from a file: lengths: pairs:FILE"
        )
    return correlation


@dataclass(frozen=True)
class Draws:
    """What was drawn for a block of requests; arrays (count,)."""

    klass: NDArray[np.uint16]
    frame: NDArray[np.int64]  # number in Mix.frames
    planned_input: Lengths
    planned_output: Lengths  # -1: the body asks for no limit


class OwnLengths(Protocol):
    """What a class's own data says of the lengths of requests; answer lengths of -1 are drawn."""

    def lengths(self, index: Lengths) -> tuple[Lengths, Lengths]: ...


@dataclass(frozen=True)
class Given:
    """What a trace decides of a block of requests; arrays (count,)."""

    input: Lengths
    output: Lengths
    klass: Lengths | None = None  # numbers of classes; -1: drawn
    model: Lengths | None = None  # numbers of `models`; -1: drawn
    models: tuple[str, ...] = ()


class Mix:
    """Draws class, model and lengths of any block of request indices, keyed by (seed, purpose, index)."""

    def __init__(self, classes: list[RequestClass], seed: int, template_tokens: int = 0) -> None:
        self.classes = classes
        self.frames = [frame for one in classes for frame in one.frames]
        self.first_frame = np.cumsum([0, *(len(one.frames) for one in classes[:-1])])
        self.data: dict[int, OwnLengths] = {}  # of the classes that have their own
        self._seed = seed
        self._template_tokens = template_tokens
        self._upto = _cumulative([one.weight for one in classes])
        self._models_upto = [_cumulative(one.model_weights) for one in classes]

    def draw(self, first: int, count: int, given: Given | None = None) -> Draws:
        """Requests first .. first + count - 1; what a trace gives takes the place of what the classes say."""
        klass = self._classes_of(first, count, given)
        deviates = _Deviates(self._seed, first, count)
        frame = self.first_frame[klass]
        planned_input, planned_output = np.empty(count, np.int64), np.empty(count, np.int64)
        if given is not None:
            planned_input, planned_output = given.input.astype(np.int64), given.output.astype(np.int64)
        for number, one in enumerate(self.classes):
            rows: NDArray[np.intp] | slice = slice(None)
            if len(self.classes) > 1:
                rows = np.flatnonzero(klass == number)
            if len(one.frames) > 1:
                frame[rows] += self._models(number, rows, deviates, given)
            if given is None:
                planned_input[rows], planned_output[rows] = self._lengths(number, rows, first, count, deviates)
        for number, fixed in enumerate(self.frames):
            if not fixed.asks_output:
                planned_output[frame == number] = fixed.output
        # A prompt is at least one token and what the server's template puts around it.
        if self._template_tokens:
            np.maximum(planned_input, self._template_tokens + 1, out=planned_input)
        return Draws(klass.astype(np.uint16), frame, planned_input, planned_output)

    def _lengths(
        self, number: int, rows: NDArray[np.intp] | slice, first: int, count: int, deviates: _Deviates
    ) -> tuple[Lengths, Lengths]:
        """(input, output) of the rows of one class."""
        one = self.classes[number]
        if one.pairs is not None:
            inputs, outputs = one.pairs.values(deviates.get("pair", "uniform")[rows])
        else:
            deviate = deviates.get("input", one.input.deviate)[rows]
            inputs = one.input.values(deviate)
            own = deviates.get("output", one.output.deviate)[rows]
            if one.correlation:
                own = one.correlation * deviate + math.sqrt(1.0 - one.correlation**2) * own
            outputs = one.output.values(own)
        data = self.data.get(number)
        if data is not None:
            inputs, told = data.lengths(np.arange(first, first + count)[rows])
            inputs = inputs + self._template_tokens
            outputs = np.where(told > 0, told, outputs)
        return inputs, outputs

    def _models(self, number: int, rows: NDArray[np.intp] | slice, deviates: _Deviates, given: Given | None) -> Lengths:
        """Which of the class's models each of the rows asks for."""
        one = self.classes[number]
        chosen = np.searchsorted(self._models_upto[number], deviates.get("model", "uniform")[rows], "right")
        if given is not None and given.model is not None and given.models:
            where = np.array([one.models.index(name) for name in given.models], np.int64)
            told = given.model[rows]
            chosen = np.where(told >= 0, where[np.maximum(told, 0)], chosen)
        return np.asarray(chosen, np.int64)

    def _classes_of(self, first: int, count: int, given: Given | None) -> NDArray[np.int64]:
        told = None if given is None else given.klass
        if len(self.classes) == 1:
            return np.zeros(count, np.int64)
        if told is not None and int(told.min()) >= 0:
            return told.astype(np.int64)
        drawn = np.searchsorted(self._upto, uniforms(self._seed, "class", first, count), side="right").astype(np.int64)
        return drawn if told is None else np.where(told >= 0, told, drawn)


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
