"""When a run stops by itself: `--abort-on EXPR`, and a target that refuses whatever it is asked."""

from __future__ import annotations

import re
import time
from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np

from llmgen.columns import Status
from llmgen.durations import parse_duration
from llmgen.errors import ConfigError

DENIED_FIRST: Final = 20  # so many first answers, all 401, 403 or 404: nothing else is to be expected
STOPPED: Final = "stopped by itself: "  # so begins the reason of a run that was ended by a rule
_FORM: Final = re.compile(r"\s*(error_rate|in_flight)\s*(>=|>)\s*([0-9.]+)\s*(%?)\s*(?:for\s+(\S+))?\s*")
_COUNTED: Final = [s.value for s in Status if s not in (Status.ok, Status.cancelled, Status.in_flight)]


@dataclass(frozen=True)
class AbortRule:
    """`error_rate` (of the requests that ended) or `in_flight` above a limit for a time."""

    text: str
    metric: str
    limit: float
    span_s: float


def parse(text: str) -> AbortRule:
    """`error_rate>50% for 10s`, `in_flight>2000`. ConfigError with what would be right."""
    found = _FORM.fullmatch(text)
    try:
        if found is None:
            raise ValueError("not understood")
        metric, _, number, percent, span = found.groups()
        limit = float(number) / (100 if percent else 1)
        return AbortRule(text, metric, limit, parse_duration(span) if span else 0.0)
    except ValueError:
        raise ConfigError(
            f"client.abort_on={text!r}: write error_rate>50% for 10s or in_flight>2000 for 30s; quote it for the shell"
        ) from None


class AbortWatch:
    """Looks at the counters now and then; says why the run should stop."""

    def __init__(self, rule: AbortRule | None) -> None:
        self._rule = rule
        self._history: deque[tuple[float, int, int]] = deque()  # time, ended, failed
        self._above_since: float | None = None

    def look(self, counters: np.ndarray) -> str | None:
        ended = int(counters["ended"].sum())
        denied = int(counters["denied"].sum())
        if denied >= DENIED_FIRST and denied == ended:
            return f"the first {denied} answers were all 401, 403 or 404"
        if self._rule is None:
            return None
        now = time.monotonic()
        failed = int(counters["by_status"][:, _COUNTED].sum())
        self._history.append((now, ended, failed))
        while len(self._history) > 2 and now - self._history[1][0] > max(1.0, self._rule.span_s):
            self._history.popleft()
        _, ended_before, failed_before = self._history[0]
        if self._rule.metric == "in_flight":
            value = float(counters["in_flight"].sum())
        else:
            value = (failed - failed_before) / max(1, ended - ended_before)
        if value <= self._rule.limit:
            self._above_since = None
            return None
        self._above_since = self._above_since or now
        if now - self._above_since < self._rule.span_s:
            return None
        return f"{self._rule.text} was reached ({self._rule.metric} {value:.3g})"
