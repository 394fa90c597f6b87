"""Service level objectives: the grammar ``[class:NAME ]METRIC[_STAT] OP VALUE`` and what it means for a run.

With a STAT an objective is an aggregate; without one, on a latency, it is a limit on each request, and only those
define goodput. In aggregates a failed or unfinished request counts as +inf: a server must not look faster by failing.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, cast

import msgspec
import numpy as np

from llmgen.durations import parse_duration
from llmgen.errors import ConfigError
from llmgen.metrics.definitions import REQUEST_METRICS, STREAM_METRICS, TOKEN_METRICS
from llmgen.metrics.statistics import QUANTILES

LATENCIES: Final = (*REQUEST_METRICS, *TOKEN_METRICS)
SHARES: Final = ("error_rate", "goodput")
RATES: Final = (
    "requests_per_s",
    "output_tokens_per_s",
    "input_tokens_per_s",
    "events_per_s",
    "goodput_requests_per_s",
)
STATISTICS: Final = ("mean", *QUANTILES, "min", "max")
Operator = Literal["<", "<=", ">", ">="]
OPERATORS: Final[dict[Operator, Callable[[Any, Any], Any]]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}

# Metrics of a phase that a failed request may have passed well: it counts as +inf only if it never got through it.
PHASES: Final = frozenset({"queue", "connect", "tls"})


class Slo(msgspec.Struct, frozen=True, kw_only=True):
    """One objective. `limit`: ns for latencies, a share for error_rate and goodput, else the rate itself."""

    expression: str
    metric: str
    statistic: str | None
    operator: Operator
    limit: float
    klass: str | None = None

    @property
    def per_request(self) -> bool:
        """A limit on each request, part of the definition of goodput."""
        return self.metric in LATENCIES and self.statistic is None

    def holds(self, value: float) -> bool:
        return bool(OPERATORS[self.operator](value, self.limit))


def parse(expression: str, klass: str | None = None) -> Slo:
    """The objective that `expression` writes, of class `klass` unless it names one itself.

    Raises ConfigError that names the expression and what would be right.
    """
    text = " ".join(expression.split())
    match = re.fullmatch(r"(?:class:(?P<class>\S+) )?(?P<metric>\w+) ?(?P<op><=|>=|<|>) ?(?P<value>\S+)", text)
    if match is None:
        raise ConfigError(f"slo {expression!r}: {_complaint(text)}")
    metric, statistic = _split(match["metric"])
    if metric is None:
        raise ConfigError(f"slo {expression!r}: unknown metric {match['metric']!r}; known: {_known()}")
    named = match["class"]
    if named is not None and klass is not None and named != klass:
        raise ConfigError(f"slo {expression!r}: names class {named!r} but stands at class {klass!r}")
    return Slo(
        expression=text,
        metric=metric,
        statistic=statistic,
        operator=cast(Operator, match["op"]),
        limit=_limit(expression, metric, match["value"]),
        klass=klass if named is None else named,
    )


def parse_all(run_wide: Iterable[str], of_classes: dict[str, Iterable[str]]) -> list[Slo]:
    """Objectives of a run and of its classes, in that order; a class that does not exist is a ConfigError."""
    found = [parse(text) for text in run_wide]
    for slo in found:
        if slo.klass is not None and slo.klass not in of_classes:
            raise ConfigError(f"slo {slo.expression!r}: no class {slo.klass!r}; classes: {', '.join(of_classes)}")
    return found + [parse(text, klass) for klass, texts in of_classes.items() for text in texts]


def impossible(slo: Slo, streaming: dict[str, bool]) -> str | None:
    """Why no run can measure `slo`, given which classes stream; None if it can."""
    if slo.metric not in STREAM_METRICS:
        return None
    classes = [slo.klass] if slo.klass is not None else list(streaming)
    if any(streaming.get(name, True) for name in classes):
        return None
    return f"slo {slo.expression!r}: {slo.metric} does not exist without streaming; use e2e, or stream"


def _complaint(text: str) -> str:
    name = re.sub(r"^class:\S+ ", "", text)
    if re.fullmatch(r"\w+", name):
        return 'no operator; on a command line quote it ("ttft_p95<800ms"): the shell took < or > for a file'
    if "==" in name or re.search(r"\w=", name):
        return "operators are < <= > >="
    return "expected [class:NAME ]METRIC[_STAT] OP VALUE, like ttft_p95<800ms, e2e<10s, error_rate<=1%"


def _known() -> str:
    return f"{', '.join((*LATENCIES, *RATES, *SHARES))}; latencies may end in _{' _'.join(STATISTICS)}"


def _split(name: str) -> tuple[str | None, str | None]:
    """(metric, statistic) of a name; (None, None) if it is unknown."""
    if name in (*LATENCIES, *RATES, *SHARES):
        return name, None
    metric, _, statistic = name.rpartition("_")
    return (metric, statistic) if metric in LATENCIES and statistic in STATISTICS else (None, None)


def _limit(expression: str, metric: str, value: str) -> float:
    if metric in LATENCIES:
        if re.fullmatch(r"[\d.]+", value):
            raise ConfigError(f"slo {expression!r}: {value} of what? Give a unit: {value}ms or {value}s")
        try:
            return parse_duration(value) * 1e9
        except ValueError as error:
            raise ConfigError(f"slo {expression!r}: {value!r} is not a duration: {error}") from None
    number = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(%?)", value)
    if number is None or (number[2] and metric not in SHARES):
        wanted = "a share like 0.99 or 99%" if metric in SHARES else "a plain number per second"
        raise ConfigError(f"slo {expression!r}: {value!r} is not {wanted}")
    limit = float(number[1]) / (100 if number[2] else 1)
    if metric in SHARES and limit > 1:
        raise ConfigError(f"slo {expression!r}: a share is at most 1; did you mean {value}%?")
    return limit


# -- what an objective measures -----------------------------------------------------------------------------------


def aggregate(statistic: str, values: np.ndarray, weights: np.ndarray | None, missing: int) -> float | None:
    """A statistic of values (ns) and of `missing` values that are +inf; None if there is neither."""
    if weights is not None:
        values = np.repeat(values, weights)
    if not len(values) + missing:
        return None
    if statistic == "min":
        return float(values.min()) if len(values) else math.inf
    if statistic == "max":
        return math.inf if missing else float(values.max())
    if statistic == "mean":
        return math.inf if missing else float(values.mean())
    # np.quantile of the values and the infinite ones, without sorting or joining them
    position = QUANTILES[statistic] * (len(values) + missing - 1)
    low = math.floor(position)
    high = min(low + 1, len(values) + missing - 1)
    finite = [rank for rank in (low, high) if rank < len(values)]
    if not finite or (len(finite) == 1 and position > low):
        return math.inf
    ordered = np.partition(values, finite)
    a, b = float(ordered[low]), float(ordered[finite[-1]])
    part = position - low
    return b - (b - a) * (1 - part) if part >= 0.5 else a + (b - a) * part


def meets(limits: Iterable[Slo], values_of: Callable[[str], np.ndarray], ok: np.ndarray) -> np.ndarray:
    """Requests that succeeded and keep every per-request limit, bool (n,).

    values_of: ns of each request by metric, NaN where a request has none (one token has no TPOT): no limit is broken.
    """
    good = ok.copy()
    for slo in limits:
        values = values_of(slo.metric)
        with np.errstate(invalid="ignore"):
            good &= OPERATORS[slo.operator](values, slo.limit) | np.isnan(values)
    return good
