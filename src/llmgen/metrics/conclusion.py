"""What a test strategy concludes (`conclusion` of suite.json): verdict, answers, steps, and how it went over time.

Plain structs, the same for every strategy: the report draws what is there. None: does not exist, never 0.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from llmgen.metrics.figures import Finding


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A run of a strategy, or a phase of one: what was offered and what came of it.

    attainment: share of the scheduled requests that kept the goal. in_flight: mean; growth_per_s: its slope over the
    later part. unsettled: in flight kept growing. stopped: the stop rule that ended it.
    """

    label: str
    run: int
    seconds: float
    offered_per_s: float
    succeeded_per_s: float
    tokens_per_s: float
    ttft_p50_ms: float | None
    ttft_p95_ms: float | None
    tpot_p50_ms: float | None
    tpot_p95_ms: float | None
    e2e_p50_ms: float | None
    attainment: float | None
    error_rate: float | None
    in_flight: float | None
    growth_per_s: float | None
    unsettled: bool = False
    errors: dict[str, int] = {}
    verdict: str | None = None
    stopped: str | None = None


class Outage(msgspec.Struct, frozen=True, kw_only=True):
    """The target was away: nothing but cut and refused connections. until_s: the first success after it; None: never.

    run: number in the series; seconds since its start.
    """

    run: int
    from_s: float
    until_s: float | None
    failures: dict[str, int]


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """A time in which every look at a target saw the same, before the load; seconds since the start.

    state: unreachable, refused, silent, loading, unavailable, ready; said: the target's words.
    """

    state: str
    said: str
    from_s: float
    until_s: float
    looks: int


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    t_s: float
    text: str


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """One continuous run over time, a value for each bin of `width_s` from its start. attainment: by due time."""

    run: int
    width_s: float
    offered_per_s: list[float | None]
    in_flight: list[float | None]
    tokens_per_s: list[float | None]
    errors_per_s: list[float | None]
    attainment: list[float | None]
    ttft_p50_ms: list[float | None]
    marks: list[Mark] = []


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A question of the strategy in a word or two, and what the runs say."""

    question: str
    text: str


class Conclusion(msgspec.Struct, frozen=True, kw_only=True):
    """verdict: passed; failed (exit code 3); invalid (4: the client could not deliver or measure); incomplete (4).

    asks: the strategy's question. goal: what a good request is, in words. figures: named numbers, for programs.
    """

    strategy: str
    asks: str
    goal: str
    verdict: Literal["passed", "failed", "invalid", "incomplete"]
    reasons: list[str] = []
    answers: list[Answer] = []
    figures: dict[str, float | None] = {}
    steps: list[Step] = []
    course: Course | None = None
    outages: list[Outage] = []
    phases: list[Phase] = []
    findings: list[Finding] = []
    notes: list[str] = []
    advice: str | None = None  # what to run next


EXIT_CODES = {"passed": 0, "failed": 3, "invalid": 4, "incomplete": 4}
