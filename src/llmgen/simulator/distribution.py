"""Distributions of times and counts, drawn beforehand: the sending loop only looks values up.

``20ms`` is a constant; ``uniform:10ms,30ms`` (bounds), ``normal:20ms,5ms`` (mean and standard deviation, cut off at
zero), ``lognormal:100ms,40ms`` (mean and standard deviation of the values themselves) and ``exponential:20ms`` (mean)
are drawn SAMPLES times. Counts are written the same way without units and may also be ``zipf:1.2,1000`` (exponent,
largest value).
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from llmgen.errors import ConfigError

# A power of two (the loop masks). 65,536 values hold p99.9 with 66 samples above it; two such tables fit into L2.
SAMPLES = 65536
MAX_TIME_NS = 86400 * 10**9  # a day: longer is a mistake, and sums of it stay far below 2^63

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(ns|us|µs|ms|s|m|h)")
_ARGUMENTS = {"uniform": 2, "normal": 2, "lognormal": 2, "exponential": 1, "zipf": 2}


def duration_ns(key: str, text: str) -> int:
    """``20ms`` in ns. Only zero may lack its unit: 20 would be milliseconds to one reader and seconds to the next."""
    match = _DURATION.fullmatch(text.strip())
    if match:
        ns = round(float(match[1]) * _UNITS[match[2]] * 1e9)
        if ns > MAX_TIME_NS:
            raise ConfigError(f"{key}: {text!r} is longer than a day")
        return ns
    if re.fullmatch(r"0+(\.0*)?", text.strip()):
        return 0
    raise ConfigError(f"{key}: {text!r} is not a duration; write it with its unit, like 20ms or 1.5s")


def times(key: str, text: str, rng: np.random.Generator) -> NDArray[np.int64]:
    """Values in ns, int64: one, or SAMPLES of them. ConfigError names `key`."""
    drawn = _draw(key, text, rng, lambda part: float(duration_ns(key, part)))
    return np.clip(np.rint(drawn), 0, MAX_TIME_NS).astype(np.int64)


def counts(key: str, text: str, rng: np.random.Generator, least: int, most: int) -> NDArray[np.int64]:
    """Whole numbers, int64: one, or SAMPLES of them, clipped to [least, most]; a constant outside is a ConfigError."""
    drawn = _draw(key, text, rng, lambda part: _number(key, part))
    if len(drawn) == 1 and not (least <= drawn[0] <= most and drawn[0] == int(drawn[0])):
        raise ConfigError(f"{key}: {text!r} is not a whole number from {least} to {most}")
    return np.clip(np.rint(drawn), least, most).astype(np.int64)


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{key}: {text!r} is not a number") from None


def _draw(key: str, text: str, rng: np.random.Generator, read: Callable[[str], float]) -> NDArray[np.float64]:
    name, colon, rest = text.partition(":")
    if not colon:
        return np.array([read(text)])
    if name not in _ARGUMENTS:
        raise ConfigError(f"{key}: no distribution {name!r}; there are {', '.join(_ARGUMENTS)}, or one constant value")
    parts = rest.split(",")
    if len(parts) != _ARGUMENTS[name]:
        raise ConfigError(f"{key}: {name} takes {_ARGUMENTS[name]} value(s), {text!r} has {len(parts)}")
    if name == "zipf":
        return _zipf(key, text, rng, _number(key, parts[0]), _number(key, parts[1]))
    first, second = read(parts[0]), read(parts[-1])
    if name == "uniform":
        if second < first:
            raise ConfigError(f"{key}: {text!r} has its upper bound first")
        return rng.uniform(first, second, SAMPLES)
    if name == "normal":
        return np.maximum(rng.normal(first, second, SAMPLES), 0.0)
    if first <= 0:
        raise ConfigError(f"{key}: {text!r} needs a mean above zero")
    if name == "exponential":
        return rng.exponential(first, SAMPLES)
    sigma2 = np.log1p((second / first) ** 2)
    return rng.lognormal(np.log(first) - sigma2 / 2, np.sqrt(sigma2), SAMPLES)


def _zipf(key: str, text: str, rng: np.random.Generator, exponent: float, largest: float) -> NDArray[np.float64]:
    if exponent <= 0 or not 1 <= largest <= 1e6:
        raise ConfigError(f"{key}: {text!r} needs an exponent above 0 and a largest value from 1 to 1e6")
    weights = np.arange(1, int(largest) + 1, dtype=np.float64) ** -exponent
    cumulative = np.cumsum(weights)
    drawn = np.searchsorted(cumulative, rng.uniform(0, cumulative[-1], SAMPLES))
    return drawn.astype(np.float64) + 1
