"""When requests are due: int64 ns after the common start, decided by configuration and seed alone.

An arrival process is a renewal process in *operational time*: gaps of mean 1 are drawn and added up, and each sum y is
mapped to the time t at which the integrated rate reaches it, integral of rate(s) ds over [0, t] = y. With a constant
rate that is division by it; with ramps and stages the process keeps its shape (its CV) while its rate follows the
curve (Çinlar, Introduction to Stochastic Processes, 1975, ch. 4.7, for Poisson; used alike for any renewal process).

The first request of a random process is due after its first gap, that of `constant` at 0. Time 0 is a renewal, so a
process with CV c offers about (c*c - 1) / 2 requests more than rate * duration (Cox, Renewal Theory, 1962, ch. 4).

Everything comes in blocks, so that a schedule may be long or endless, and is the same however many workers there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llmgen.bursts import Bursts, Modulation
from llmgen.config import Load
from llmgen.draws import DRAW_BLOCK, Draw, draw
from llmgen.durations import format_duration, parse_duration
from llmgen.errors import ConfigError
from llmgen.plan import DYNAMIC
from llmgen.rates import RateCurve, check_rates, staged

Times = NDArray[np.int64]
Floats = NDArray[np.float64]

DEFAULT_RATE: Final = 1.0  # docs/contract.md: a bare `run --url` is 30 s at 1/s
DEFAULT_DURATION_S: Final = 30.0
NS: Final = 1_000_000_000
MOST_STEPS_SHOWN: Final = 8
MAX_CV: Final = 100.0  # gamma shape 1e-4: below it nearly every gap underflows to 0
# CV 429 to 0.013: below, a run sees one endless gap among bursts; above, the process is `constant`.
WEIBULL_SHAPES: Final = (0.1, 100.0)
# States shorter than a microsecond or longer than a month are no bursts that a run could show.
STATE_TIMES_S: Final = (1e-6, 30 * 86_400.0)
MAX_RATIO: Final = 1e9
KINDS: Final = "constant, poisson, gamma:CV, weibull:SHAPE, onoff:ON,OFF, mmpp:RATIO,HIGH,LOW or closed"


@dataclass(frozen=True)
class Arrival:
    """A parsed `load.arrival`: kind, and CV (gamma), shape (weibull) or states (onoff, mmpp)."""

    kind: str
    parameter: float = 1.0
    bursts: Bursts | None = None

    def gaps(self) -> Draw:
        """Draws gaps of mean 1 in operational time."""
        if self.kind == "poisson" or self.bursts is not None:
            return lambda g, n: g.standard_exponential(n)
        if self.kind == "gamma":
            shape = 1.0 / self.parameter**2
            return lambda g, n: g.standard_gamma(shape, n) / shape
        if self.kind == "weibull":
            mean = math.gamma(1.0 + 1.0 / self.parameter)
            return lambda g, n: g.weibull(self.parameter, n) / mean
        return lambda g, n: np.ones(n)

    @property
    def cv(self) -> float:
        """Coefficient of variation of the gaps; of a modulated process, within one state."""
        if self.kind == "gamma":
            return self.parameter
        if self.kind == "weibull":
            first = math.lgamma(1.0 + 1.0 / self.parameter)
            return math.sqrt(math.exp(math.lgamma(1.0 + 2.0 / self.parameter) - 2.0 * first) - 1.0)
        return 0.0 if self.kind in ("constant", "closed") else 1.0

    def describe(self) -> str:
        """As it is written in a configuration."""
        if self.bursts is not None:
            high, low = format_duration(self.bursts.high_s), format_duration(self.bursts.low_s)
            return f"onoff:{high},{low}" if self.kind == "onoff" else f"mmpp:{self.bursts.ratio:g},{high},{low}"
        return f"{self.kind}:{self.parameter:g}" if self.kind in ("gamma", "weibull") else self.kind


def parse_arrival(text: str) -> Arrival:
    """`load.arrival` as written. ConfigError if it is none of KINDS."""
    kind, colon, argument = text.partition(":")
    if kind in ("constant", "poisson", "closed") and not colon:
        return Arrival(kind)
    if kind in ("onoff", "mmpp"):
        return Arrival(kind, bursts=_bursts(text, kind, argument))
    if kind not in ("gamma", "weibull"):
        raise ConfigError(f"load.arrival={text!r}: unknown arrival process; use {KINDS}")
    try:
        parameter = float(argument)
    except ValueError:
        raise ConfigError(f"load.arrival={text!r}: {argument!r} is not a number; write {kind}:0.5, say") from None
    if kind == "gamma" and not 0 < parameter <= MAX_CV:
        raise ConfigError(f"load.arrival={text!r}: the CV must be above 0 and at most {MAX_CV:g}; CV 0 is `constant`")
    low, high = WEIBULL_SHAPES
    if kind == "weibull" and not low <= parameter <= high:
        raise ConfigError(f"load.arrival={text!r}: the shape must be from {low:g} to {high:g}")
    return Arrival(kind, parameter)


def _bursts(text: str, kind: str, argument: str) -> Bursts:
    form = "onoff:ON,OFF (mean times)" if kind == "onoff" else "mmpp:RATIO,HIGH,LOW (ratio of rates, mean times)"
    parts = argument.split(",")
    try:
        ratio = math.inf if kind == "onoff" else float(parts.pop(0))
        high, low = (parse_duration(part) for part in parts)
    except (ValueError, IndexError) as error:
        raise ConfigError(f"load.arrival={text!r}: {error}; write {form}, like 10s") from None
    shortest, longest = STATE_TIMES_S
    if not (shortest <= high <= longest and shortest <= low <= longest):
        raise ConfigError(f"load.arrival={text!r}: mean times are from 1us to 30d; write {form}")
    if kind == "mmpp" and not 1 < ratio <= MAX_RATIO:
        raise ConfigError(f"load.arrival={text!r}: the ratio of the high rate to the low one must be above 1")
    return Bursts(high, low, ratio)


@dataclass(frozen=True)
class Schedule:
    """A checked load: what `due_blocks` will generate. Exactly one of `curve` (open), closed, at_once, trace holds."""

    arrival: Arrival
    curve: RateCurve | None
    at_once: bool
    trace: bool
    duration_ns: int | None  # due times stay below it
    requests: int | None
    normalize: bool = False
    about: str = ""  # of a trace: what was done to its times

    @property
    def closed(self) -> bool:
        return self.arrival.kind == "closed"

    @property
    def endless(self) -> bool:
        """Rows are generated as long as someone asks: a closed loop that only time ends."""
        return self.closed and self.requests is None

    @property
    def expected_requests(self) -> float | None:
        """None where only the run or the trace can tell."""
        if self.closed or self.at_once or self.curve is None:
            return None if self.requests is None else float(self.requests)
        span = self.curve.span_s if self.duration_ns is None else self.duration_ns / NS
        expected = self.curve.integral(span) if math.isfinite(span) else math.inf
        return min(expected, math.inf if self.requests is None else self.requests)

    @property
    def expected_span_s(self) -> float | None:
        """Seconds from the start to the end of the offered schedule; None where only the run or the trace can tell."""
        if self.at_once:
            return 0.0
        span = None if self.duration_ns is None else self.duration_ns / NS
        if span is None and self.curve is not None and math.isfinite(self.curve.span_s):
            span = self.curve.span_s
        if self.curve is not None and self.requests is not None:
            by_count = float(self.curve.invert(np.array([float(self.requests)]))[0])
            span = by_count if span is None else min(span, by_count)
        return span

    def describe(self) -> str:
        """The arrival process in words, for reports: `poisson 10/s`."""
        if self.trace:
            return f"trace, {self.about}" if self.about else "trace"
        if self.closed:
            return "closed"
        if self.at_once or self.curve is None:
            return "all at once"
        rates = [self.curve.start[0], *self.curve.end]
        steps = [f"{r:g}" for i, r in enumerate(rates) if i == 0 or r != rates[i - 1]]
        if len(steps) > MOST_STEPS_SHOWN:  # a swing or a file: its range says more than its corners
            steps = [f"{min(rates):g}", f"{max(rates):g}"]
        return f"{self.arrival.describe()} {'..'.join(steps)}/s"


def check(load: Load) -> Schedule:
    """What the load means. ConfigError if it cannot work, naming the key, the value and what would be right."""
    arrival = parse_arrival(load.arrival)
    if load.concurrency is not None:
        arrival = Arrival("closed")
    duration, requests = load.duration, load.requests
    if duration is not None and not (0 < duration < math.inf):
        raise ConfigError(f"load.duration={duration:g}: must be above 0 s")
    if requests is not None and requests < 1:
        raise ConfigError(f"load.requests={requests}: must be at least 1")
    _check_conflicts(load, arrival)
    if duration is None and requests is None and load.trace is None and not load.stages:
        duration = DEFAULT_DURATION_S
    duration_ns = None if duration is None else round(duration * NS)
    curve, at_once = None, False
    if load.trace is not None:
        if not (0 < load.trace.scale < math.inf):
            raise ConfigError(f"load.trace.scale={load.trace.scale:g}: times are divided by it, it must be above 0")
        if load.trace.loop and duration is None and requests is None:
            raise ConfigError("load.trace.loop: needs an end; set load.duration (--duration) or load.requests")
    elif arrival.kind != "closed":
        at_once = load.rate == math.inf
        curve = None if at_once else _curve(load, duration)
    if at_once and requests is None:
        raise ConfigError("load.rate=inf: all at once needs a number of requests; set load.requests (--requests N)")
    return Schedule(arrival, curve, at_once, load.trace is not None, duration_ns, requests, load.normalize)


def _check_conflicts(load: Load, arrival: Arrival) -> None:
    closed = arrival.kind == "closed"
    rates = (("rate", load.rate), ("rate_to", load.rate_to), ("stages", load.stages or None))
    rated = [name for name, value in rates if value is not None]
    if closed and load.concurrency is None:
        raise ConfigError("load.arrival='closed': needs load.concurrency (--concurrency N), the number of slots")
    if load.concurrency is not None and load.concurrency < 1:
        raise ConfigError(f"load.concurrency={load.concurrency}: must be at least 1")
    if closed and rated:
        raise ConfigError(f"load.{rated[0]}: a closed loop has no rate; leave it out, or leave out load.concurrency")
    if load.trace is not None and rated:
        raise ConfigError(f"load.{rated[0]}: a trace has its own times; use load.trace.scale (--trace-scale) instead")
    if load.trace is not None and (closed or load.arrival != "poisson"):
        raise ConfigError("load.trace: a trace brings its own arrivals; leave out load.arrival and load.concurrency")
    if load.normalize and (closed or load.trace is not None or arrival.bursts is not None or load.rate == math.inf):
        raise ConfigError("load.normalize: scales drawn gaps; not for a closed loop, a trace, bursts or all at once")
    if load.stages and load.rate_to is not None:
        raise ConfigError("load.rate_to: is a ramp over the whole duration; with load.stages use `to` in a stage")


def _curve(load: Load, duration: float | None) -> RateCurve:
    rate = DEFAULT_RATE if load.rate is None else load.rate
    check_rates("load", rate=load.rate, rate_to=load.rate_to)
    if load.stages:
        return staged(load.stages, load.rate)
    if load.rate_to is not None:
        if duration is None:
            raise ConfigError(f"load.rate_to={load.rate_to:g}: a ramp needs its length; set load.duration (--duration)")
        if rate == load.rate_to == 0:
            raise ConfigError("load.rate=0: no request would ever be due")
        return RateCurve([(rate, load.rate_to, duration)])
    if rate == 0:
        raise ConfigError("load.rate=0: no request would ever be due; must be above 0")
    return RateCurve([(rate, rate, math.inf)])


def staged_span_s(load: Load) -> float | None:
    """Seconds that the load's stages last; None without stages. ConfigError as `check`."""
    return staged(load.stages, load.rate).span_s if load.stages else None


def due_blocks(load: Load, seed: int) -> Iterator[Times]:
    """Due times of requests 0, 1, 2 … in ascending blocks of at most DRAW_BLOCK, int64 ns (DYNAMIC in a closed loop).

    Ends below the duration or after the number of requests, whichever comes first; a closed loop without a number of
    requests never ends. Not for traces: `replay_due`. ConfigError before the first block.
    """
    schedule = check(load)
    if schedule.trace:
        raise ConfigError("load.trace: due times of a trace come from its rows")
    if schedule.curve is None:
        value = DYNAMIC if schedule.closed else 0
        return _same(value, schedule.requests)
    return _renewal(schedule, schedule.curve, seed)


def _same(value: int, requests: int | None) -> Iterator[Times]:
    left = requests
    while left is None or left > 0:
        size = DRAW_BLOCK if left is None else min(left, DRAW_BLOCK)
        yield np.full(size, value, dtype=np.int64)
        left = None if left is None else left - size


def _renewal(schedule: Schedule, curve: RateCurve, seed: int) -> Iterator[Times]:
    end_ns = math.inf if schedule.duration_ns is None else schedule.duration_ns
    factor, most = _normal_factor(schedule, curve, seed)
    bursts = None if schedule.arrival.bursts is None else Modulation(schedule.arrival.bursts, curve, seed)
    first = 0
    for operational in _operational(schedule.arrival, seed):
        y = operational if factor is None else operational * factor
        t = np.rint(curve.invert(y if bursts is None else bursts.areas(y)) * NS)
        if factor is not None and schedule.duration_ns is not None:
            np.minimum(t, schedule.duration_ns - 1, out=t, where=np.isfinite(t))  # what rounding puts on the very end
        size = int(np.searchsorted(t, end_ns, side="left"))  # stages end at inf, which no due time reaches
        ended = size < DRAW_BLOCK
        if most is not None:
            size = min(size, most - first)
        if size:
            yield t[:size].astype(np.int64)
        first += DRAW_BLOCK
        if ended or (most is not None and first >= most):
            return


def _operational(arrival: Arrival, seed: int) -> Iterator[Floats]:
    """The points of the process at a rate of 1, in ascending blocks of DRAW_BLOCK, without end."""
    purpose, gaps = f"arrival {arrival.kind}", arrival.gaps()
    first, total = 0, 0.0
    while True:
        if arrival.kind == "constant":
            yield np.arange(first, first + DRAW_BLOCK, dtype=np.float64)
        else:
            y = total + np.cumsum(draw(seed, purpose, first, DRAW_BLOCK, gaps))
            total = float(y[-1])
            yield y
        first += DRAW_BLOCK


def _normal_factor(schedule: Schedule, curve: RateCurve, seed: int) -> tuple[float | None, int | None]:
    """What operational time is multiplied by, and the number of requests, so that the load is exactly what is asked.

    With a number of requests the last is due when that many are expected, n / rate (as vLLM's benchmark does); with a
    duration alone as many come as are expected in it, the next one would be due at its end. None: as drawn.
    """
    if not schedule.normalize:
        return None, schedule.requests
    span = math.inf if schedule.duration_ns is None else schedule.duration_ns / NS
    expected = curve.integral(min(span, curve.span_s)) if math.isfinite(min(span, curve.span_s)) else math.inf
    count, points = schedule.requests, schedule.requests
    goal = float(count or 0)
    if count is None or count > expected:
        count = round(expected)
        points, goal = count + 1, expected
    if not count or points is None or schedule.arrival.kind == "constant":
        return None, count
    last, left = 0.0, points
    for y in _operational(schedule.arrival, seed):
        last = float(y[min(left, DRAW_BLOCK) - 1])
        left -= DRAW_BLOCK
        if left <= 0:
            break
    return goal / last, count


def replay_due(t_ns: Times, scale: float) -> Times:
    """Due times of trace rows at t_ns after the first row, divided by `scale`; exactly the row's for scale 1."""
    return t_ns if scale == 1.0 else np.rint(t_ns / scale).astype(np.int64)
