"""How long prompts and answers are: a number, or a distribution of whole numbers >= 1.

Grammar of `input` and `output` (--input-tokens, --output-tokens):

    512             always this
    uniform:A,B     every whole number from A to B alike
    normal:M,S      mean and standard deviation; rounded, below 1 becomes 1
    lognormal:M,S   mean and standard deviation *of the lengths*, not of their logarithms; rounded, at least 1
    zipf:A,MAX      P(k) proportional to k^-A for k = 1 .. MAX
    file:F          drawn with equal chance from a text file of one whole number a line

`lengths: pairs:F` draws input and output together, with equal chance from a file of two whole numbers a line, so that
what belongs together stays together.

A distribution turns one standard deviate a request (uniform or normal) into a length, so that the deviates can be
keyed by the request's index and shared by all classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from llmgen.errors import ConfigError

Lengths = NDArray[np.int64]
Deviates = NDArray[np.float64]

# No prompt or answer of more tokens is planned: four times the longest context in use; 2**22 words are about 25 MB.
MAX_LENGTH: Final = 1 << 22
MAX_ZIPF: Final = 1 << 20  # the table of probabilities: 8 MB
FORMS: Final = "a number, uniform:A,B, normal:M,S, lognormal:M,S, zipf:A,MAX or file:F"


@dataclass(frozen=True)
class Length:
    """A parsed distribution. `values` maps deviates of the named kind to lengths; constants need none."""

    text: str  # as written
    deviate: Literal["none", "uniform", "normal"]
    values: Callable[[Deviates], Lengths]
    smallest: int
    largest: int  # no value is above it; MAX_LENGTH where the distribution has no end
    mean: float


def parse_length(value: str | int, key: str) -> Length:
    """The distribution that stands at `key`. ConfigError with key, value and cure."""
    text = str(value).strip()
    name, colon, arguments = text.partition(":")
    if not colon:
        return _constant(_whole(text, key, text, "a length"), text)
    if name == "file":
        return _from_file(arguments, key, text)
    if name not in _TWO_NUMBERS:
        raise ConfigError(f"{key}={text!r}: unknown distribution {name!r}; use {FORMS}")
    numbers = arguments.split(",")
    if len(numbers) != 2:
        raise ConfigError(f"{key}={text!r}: needs two numbers; use {FORMS}")
    return _TWO_NUMBERS[name](numbers[0].strip(), numbers[1].strip(), key, text)


def _whole(text: str, key: str, whole_text: str, what: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise ConfigError(f"{key}={whole_text!r}: {what} must be a whole number; use {FORMS}") from None
    if not 1 <= number <= MAX_LENGTH:
        raise ConfigError(f"{key}={whole_text!r}: {what} must be from 1 to {MAX_LENGTH}")
    return number


def _real(text: str, key: str, whole_text: str, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ConfigError(f"{key}={whole_text!r}: {what} must be a number; use {FORMS}") from None
    if not 0 <= number <= MAX_LENGTH:  # not a number is refused here, too
        raise ConfigError(f"{key}={whole_text!r}: {what} must be from 0 to {MAX_LENGTH}")
    return number


def _mean(text: str, key: str, whole_text: str) -> float:
    mean = _real(text, key, whole_text, "the mean")
    if not 1 <= mean <= MAX_LENGTH:
        raise ConfigError(f"{key}={whole_text!r}: the mean must be from 1 to {MAX_LENGTH}")
    return mean


def _rounded(values: Deviates) -> Lengths:
    return np.clip(np.rint(values), 1, MAX_LENGTH).astype(np.int64)


def _constant(number: int, text: str) -> Length:
    return Length(text, "none", lambda d: np.full(len(d), number, np.int64), number, number, float(number))


def _uniform(low_text: str, high_text: str, key: str, text: str) -> Length:
    low, high = _whole(low_text, key, text, "the smallest"), _whole(high_text, key, text, "the largest")
    if low > high:
        raise ConfigError(f"{key}={text!r}: the smallest is above the largest; write uniform:{high},{low}")
    size = high - low + 1
    return Length(text, "uniform", lambda u: low + (u * size).astype(np.int64), low, high, (low + high) / 2)


def _normal(mean_text: str, deviation_text: str, key: str, text: str) -> Length:
    mean, deviation = _mean(mean_text, key, text), _real(deviation_text, key, text, "the standard deviation")
    return Length(text, "normal", lambda z: _rounded(mean + deviation * z), 1, MAX_LENGTH, mean)


def _lognormal(mean_text: str, deviation_text: str, key: str, text: str) -> Length:
    mean, deviation = _mean(mean_text, key, text), _real(deviation_text, key, text, "the standard deviation")
    variance = math.log1p((deviation / mean) ** 2)  # of the logarithm
    mu, sigma = math.log(mean) - variance / 2, math.sqrt(variance)
    return Length(text, "normal", lambda z: _rounded(np.exp(np.minimum(mu + sigma * z, 700.0))), 1, MAX_LENGTH, mean)


def _zipf(exponent_text: str, largest_text: str, key: str, text: str) -> Length:
    exponent = _real(exponent_text, key, text, "the exponent")
    largest = _whole(largest_text, key, text, "the largest")
    if largest > MAX_ZIPF:
        raise ConfigError(f"{key}={text!r}: the largest must be at most {MAX_ZIPF}")
    ranks = np.arange(1, largest + 1, dtype=np.float64)
    chance = ranks**-exponent
    upto = np.cumsum(chance)
    mean = float((ranks * chance).sum() / upto[-1])
    upto /= upto[-1]
    return Length(text, "uniform", lambda u: 1 + np.searchsorted(upto, u, side="right"), 1, largest, mean)


@dataclass(frozen=True)
class Pairs:
    """Input and output lengths that belong together."""

    table: Lengths  # (pairs, 2)

    def values(self, chance: Deviates) -> tuple[Lengths, Lengths]:
        """(input, output) for uniform deviates."""
        chosen = self.table[(chance * len(self.table)).astype(np.int64)]
        return chosen[:, 0], chosen[:, 1]


def parse_pairs(text: str, key: str) -> Pairs:
    """The pairs of "pairs:FILE": two whole numbers a line, with a comma or blanks between. ConfigError."""
    kind, _, name = text.partition(":")
    if kind != "pairs" or not name:
        raise ConfigError(f"{key}={text!r}: write pairs:FILE, a file of input,output a line")
    try:
        lines = Path(name).expanduser().read_text().splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}={text!r}: {name!r} cannot be read: {error}") from None
    pairs = []
    for row, line in enumerate(lines, 1):
        fields = line.replace(",", " ").split()
        if not fields or line.lstrip().startswith("#"):
            continue
        if len(fields) != 2 or not all(f.isascii() and f.isdigit() and 1 <= int(f) <= MAX_LENGTH for f in fields):
            raise ConfigError(
                f"{key}={text!r}: line {row} is {line[:40]!r}; must be input,output, whole, from 1 to {MAX_LENGTH}"
            )
        pairs.append([int(field) for field in fields])
    if not pairs:
        raise ConfigError(f"{key}={text!r}: the file is empty; it needs input,output a line")
    return Pairs(np.array(pairs, np.int64))


def _from_file(name: str, key: str, text: str) -> Length:
    try:
        lines = Path(name).expanduser().read_text().split()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}={text!r}: {name!r} cannot be read: {error}") from None
    if not lines:
        raise ConfigError(f"{key}={text!r}: the file is empty; it needs one whole number a line")
    numbers = []
    for row, line in enumerate(lines, 1):
        if not line.isascii() or not line.isdigit() or not 1 <= int(line) <= MAX_LENGTH:
            raise ConfigError(f"{key}={text!r}: number {row} is {line[:40]!r}; must be whole, from 1 to {MAX_LENGTH}")
        numbers.append(int(line))
    table = np.array(numbers, dtype=np.int64)
    return Length(
        text,
        "uniform",
        lambda u: table[(u * len(table)).astype(np.int64)],
        int(table.min()),
        int(table.max()),
        float(table.mean()),
    )


_TWO_NUMBERS: Final = {"uniform": _uniform, "normal": _normal, "lognormal": _lognormal, "zipf": _zipf}
