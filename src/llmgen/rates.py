"""Rate over time as a curve of straight pieces: its integral, the inverse of that, and the stages it is made of."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llmgen.config import Stage
from llmgen.errors import ConfigError

# One request in 31 years, and one a nanosecond, the resolution of due times.
MIN_RATE: Final = 1e-9
MAX_RATE: Final = 1e9
# A sine of 256 straight pieces a period is off by (2 pi / 256)^2 / 8 = 7.5e-5 of its amplitude at most.
SINE_PIECES: Final = 256
MAX_PIECES: Final = 1 << 20  # of one stage: 8 MB each column

Piece = tuple[float, float, float]  # rate at the start and at the end, length in s


class RateCurve:
    """rate(t) in requests/s, piecewise linear; its integral and the inverse of that.

    Pieces: `start` and `end` rate and `length` in s (the last may be infinite, if constant), all float64 (pieces,).
    """

    def __init__(self, pieces: list[Piece]) -> None:
        table = np.array(pieces, dtype=np.float64)
        self.start, self.end, self.length = table.T
        area = np.array([a * s if a == b else (a + b) / 2 * s for a, b, s in pieces])
        self.time = np.concatenate([[0.0], np.cumsum(self.length)])  # of each piece's start, and the end
        self.area = np.concatenate([[0.0], np.cumsum(area)])
        with np.errstate(invalid="ignore"):
            self.slope = np.where(self.start == self.end, 0.0, (self.end - self.start) / self.length)

    @property
    def span_s(self) -> float:
        return float(self.time[-1])

    @property
    def peak(self) -> float:
        return float(max(self.start.max(), self.end.max()))

    def integral(self, t: float) -> float:
        """Expected number of requests due in [0, t]."""
        return float(self.integrals(np.array([t]))[0])

    def integrals(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same for many times."""
        piece = np.minimum(np.searchsorted(self.time, t, side="right") - 1, len(self.length) - 1)
        inside = np.minimum(t, self.span_s) - self.time[piece]
        return np.asarray(self.area[piece] + self.start[piece] * inside + self.slope[piece] * inside**2 / 2)

    def invert(self, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Seconds at which the integral reaches y, ascending like y; inf where it never does."""
        piece = np.searchsorted(self.area, y, side="right") - 1
        beyond = piece >= len(self.length)
        np.minimum(piece, len(self.length) - 1, out=piece)
        rest = np.where(beyond, 0.0, y - self.area[piece])
        start, slope = self.start[piece], self.slope[piece]
        # The stable root of start*t + slope*t*t/2 = rest; without slope exactly rest / start.
        root = np.sqrt(np.maximum(start * start + 2.0 * slope * rest, 0.0))
        divisor = np.where(slope == 0.0, start, (start + root) / 2.0)
        t = np.divide(rest, divisor, out=np.zeros_like(rest), where=divisor > 0.0)
        t = np.asarray(np.minimum(self.time[piece] + t, self.time[piece + 1]))
        t[beyond] = np.inf
        return t


def check_rates(where: str, **rates: float | None) -> None:
    """ConfigError for a rate that no schedule can have."""
    for name, value in rates.items():
        if value and not (MIN_RATE <= value <= MAX_RATE):  # not a number is refused here, too
            raise ConfigError(f"{where}.{name}={value:g}: requests/s are 0 or from {MIN_RATE:g} to {MAX_RATE:g}")


def staged(stages: tuple[Stage, ...], before: float | None) -> RateCurve:
    """The curve of these stages; `before` is the rate that the first may start from. ConfigError naming the stage."""
    pieces: list[Piece] = []
    for number, stage in enumerate(stages):
        where = f"load.stages[{number}]"
        check_rates(where, rate=stage.rate, to=stage.to)
        if not (0 < stage.duration < math.inf):
            raise ConfigError(f"{where}.for={stage.duration:g}: must be above 0 s")
        _check_kind(stage, where)
        if stage.file is not None:
            pieces += _from_file(stage.file, stage.duration, where)
            before = pieces[-1][1]
            continue
        start = before if stage.rate is None else stage.rate
        if start is None:
            raise ConfigError(_no_start(stage, where))
        made, before = _made(stage, start, where)
        pieces += made
    if all(start == end == 0 for start, end, _ in pieces):
        raise ConfigError("load.stages: all rates are 0, no request would ever be due")
    return RateCurve(pieces)


def _no_start(stage: Stage, where: str) -> str:
    if stage.to is not None:
        return f"{where}.to={stage.to:g}: a first ramp needs where it starts; give `rate` as well"
    return f"{where}: needs `rate`: there is no stage before whose rate could go on"


def _check_kind(stage: Stage, where: str) -> None:
    """At most one of the ways a rate can go, and what each of them needs."""
    ways = [name for name in ("to", "spike", "sine", "file") if getattr(stage, name) is not None]
    if len(ways) > 1:
        raise ConfigError(f"{where}: {ways[0]} and {ways[1]} contradict each other; make two stages of them")
    if stage.rate is None and not ways:
        raise ConfigError(f"{where}: needs `rate` (constant), `to` (ramp from the rate before), spike, sine or file")
    if stage.steps is not None and (stage.to is None or not 1 <= stage.steps <= MAX_PIECES):
        raise ConfigError(f"{where}.steps={stage.steps}: is a whole number of steps on the way to `to`, which it needs")
    if stage.spike is not None and not 0 <= stage.spike <= MAX_RATE:
        raise ConfigError(f"{where}.spike={stage.spike:g}: the rate is multiplied by it; 0 or above")
    if stage.file is not None and stage.rate is not None:
        raise ConfigError(f"{where}.rate={stage.rate:g}: the file tells the rates; leave one out")
    if (stage.sine is None) != (stage.period is None):
        raise ConfigError(f"{where}: `sine` (share of the rate, 0 to 1) and `period` (a duration) need each other")
    if stage.sine is not None and stage.period is not None:
        if not 0 <= stage.sine <= 1:
            raise ConfigError(f"{where}.sine={stage.sine:g}: is the share by which the rate swings, 0 to 1")
        if not 0 < stage.period < math.inf or stage.duration / stage.period * SINE_PIECES > MAX_PIECES:
            raise ConfigError(f"{where}.period={stage.period:g}: above 0 s, and not thousands of them in one stage")


def _made(stage: Stage, start: float, where: str) -> tuple[list[Piece], float]:
    """The pieces of one stage and the rate that the next one starts from."""
    length = stage.duration
    if stage.spike is not None:
        check_rates(f"{where}.spike", rate=start * stage.spike)
        return [(start * stage.spike, start * stage.spike, length)], start
    if stage.sine is not None and stage.period is not None:
        return _sine(start, stage.sine, stage.period, length), start
    end = start if stage.to is None else stage.to
    if stage.steps is not None:
        levels = np.linspace(start, end, stage.steps + 1)[1:].tolist()
        return [(level, level, length / stage.steps) for level in levels], end
    return [(start, end, length)], end


def _sine(rate: float, share: float, period: float, length: float) -> list[Piece]:
    """rate (1 + share sin(2 pi t / period)), from its middle upwards."""
    count = max(1, round(length / period * SINE_PIECES))
    times = np.linspace(0.0, length, count + 1)
    values = np.maximum(rate * (1.0 + share * np.sin(2.0 * np.pi * times / period)), 0.0)
    lengths = np.diff(times)
    return list(zip(values[:-1].tolist(), values[1:].tolist(), lengths.tolist(), strict=True))


def _from_file(name: str, length: float, where: str) -> list[Piece]:
    """Rows of seconds and rate, straight lines between them, as far as `length`; the last rate goes on to there."""
    key = f"{where}.file={name!r}"
    try:
        text = Path(name).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{key}: cannot be read: {error}") from None
    points: list[tuple[float, float]] = []
    for row, fields in enumerate(csv.reader(text.splitlines()), 1):
        if not fields or fields[0].lstrip().startswith("#"):
            continue
        try:
            at, rate = (float(field) for field in fields)
        except ValueError:
            if row == 1:
                continue  # a header
            raise ConfigError(f"{key}: row {row} is {','.join(fields)[:40]!r}; expected seconds,rate") from None
        if not (0 <= at < math.inf) or (points and at < points[-1][0]):
            raise ConfigError(f"{key}: row {row}: times are seconds from the stage's start and never go back")
        if not (rate == 0 or MIN_RATE <= rate <= MAX_RATE):
            raise ConfigError(f"{key}: row {row}: requests/s are 0 or from {MIN_RATE:g} to {MAX_RATE:g}")
        points.append((at, rate))
    if not points or len(points) > MAX_PIECES:
        raise ConfigError(f"{key}: {len(points)} rows; expected seconds,rate, one to {MAX_PIECES} rows of them")
    times, rates = (np.array(column) for column in zip(*points, strict=True))
    inside = times[(times > 0) & (times < length)]
    corners = np.concatenate([[0.0], inside, [length]])
    # Two rows of one time are a step: the piece before ends at the first rate, the piece behind starts at the second.
    left = [_value(times, rates, at, "right") for at in corners[:-1]]
    right = [_value(times, rates, at, "left") for at in corners[1:]]
    spans = np.diff(corners).tolist()
    return [(a, b, span) for a, b, span in zip(left, right, spans, strict=True) if span > 0]


def _value(times: NDArray[np.float64], rates: NDArray[np.float64], at: float, side: str) -> float:
    """The rate at `at`, seen from the left or the right of a step there."""
    after = int(np.searchsorted(times, at, side="right" if side == "right" else "left"))
    if after == 0:
        return float(rates[0])
    if after == len(times):
        return float(rates[-1])
    before = after - 1
    share = (at - times[before]) / (times[after] - times[before])
    return float(rates[before] + share * (rates[after] - rates[before]))
