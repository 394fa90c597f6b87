"""How long until a server is ready, and how slow are its first requests?

\b
Schedule
  start it before the server, or with it. The target is looked at four times a
  second (its models, /health; nothing that computes) until it is ready. Then
  three runs, one request at a time: --first requests; --warm other ones; those
  again, whose prompts a prefix cache knows by then.
Stops
  when the target is not ready within --wait. If it goes away in a run, what
  follows would be cold again: all begins anew, --rounds times at most.
Answers
  time to ready, and what it answered until then; the first request, and the
  first five, against the warm ones; the same prompts for the second time
  against the first (TTFT; cached tokens where the server tells them). Effects
  are Hodges-Lehmann shifts with distribution-free 95 % intervals.
Verdict
  passed if the target was ready in time, and the goal is kept once it is warm.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
import numpy as np

from llmgen import readiness
from llmgen.columns import Status
from llmgen.config import RunConfig, merge
from llmgen.decoding import Seconds, wrong
from llmgen.durations import format_duration
from llmgen.errors import ConfigError, TargetError
from llmgen.logs import log
from llmgen.metrics.conclusion import Answer, Conclusion, Phase
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.recovery import REFUSED
from llmgen.metrics.server import readings_of
from llmgen.metrics.statistics import Shift, paired_shift, shift
from llmgen.series import Series
from llmgen.strategies.taking import TARGET_HELP, Test, missed

UNFINISHED: Final = "it did not come to its end: what follows is what ran until then"  # until it is finished
COLD: Final = 5  # first requests that are compared: what is made at first use is made by then
FEWEST: Final = 8  # of each sample: fewer have no interval worth the name
NAMES: Final = ("first", "warm", "again")


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    wait: Annotated[float, Seconds] = 600.0
    first: int = 20
    warm: int = 40
    rounds: int = 3
    target: float | None = None


HELP: Final = {
    "wait": "How long the target is waited for.",
    "first": "Requests of the first run.",
    "warm": "Requests of the warm run, and of its repetition.",
    "rounds": "How often all begins anew if the target goes away.",
    "target": TARGET_HELP,
}


class Effects(msgspec.Struct, frozen=True, kw_only=True):
    """Times in ms (TTFT; E2E where nothing streams); shares of the input's tokens that came from a cache."""

    metric: str
    first_ms: list[float]  # of the first run, in order
    warm_p50_ms: float | None
    again_p50_ms: float | None
    slower_than: int  # warm requests that were faster than the first one of all
    warm: int
    cold: Shift | None  # the first COLD above the warm ones
    cached: Shift | None  # the second time above the first, prompt by prompt
    cached_share: dict[str, float | None]


def check(config: RunConfig, parameters: Parameters) -> None:
    """ConfigError for what cannot be measured."""
    for name, least in (("first", 1), ("warm", FEWEST), ("rounds", 1)):
        if getattr(parameters, name) < least:
            raise wrong(f"--{name}", getattr(parameters, name), f"must be at least {least}")
    if config.load.trace is not None:
        raise ConfigError("load.trace: a cold start is measured one request at a time; leave the trace out")


def run(config: RunConfig, series: Series, parameters: Parameters) -> Conclusion:
    check(config, parameters)
    start = _Start(config, series, parameters)
    for number in range(1, parameters.rounds + 1):
        if start.round(number):
            break
    return start.test.finish(start.concluded())


class _Start:
    """A cold start under way."""

    def __init__(self, config: RunConfig, series: Series, parameters: Parameters) -> None:
        self.config, self.series, self.parameters = config, series, parameters
        self.test = Test(
            "coldstart", "how long until it is ready, how slow at first?", config, series, parameters.target
        )
        self.test.summing = self.concluded
        self.measured: dict[str, Measurements] = {}
        self.hits: dict[str, float | None] = {}  # the server's own hit rate in each run
        self.failures: list[str] = []
        self.there = series.suite.done  # runs of an earlier start of this test: what was before them is told, not seen
        before = series.suite.conclusion or {}
        self.phases = msgspec.convert(before.get("phases") or [], list[Phase]) if self.there else []
        figures = before.get("figures") or {} if self.there else {}
        self.waited: dict[str, float | None] = {name: figures.get(name) for name in ("ready_s", "process_to_ready_s")}
        self.ready_at = 0.0  # time.time()

    def round(self, number: int) -> bool:
        """Waits, and takes the three runs; False if the target went away, so that they say nothing."""
        if len(self.test.runs) >= self.there:
            self.wait()
        self.measured, self.failures = {}, []
        self.test.runs, self.test.steps = [], []
        for name in NAMES:
            label = name if number == 1 else f"{name}, round {number}"
            taken, m = self.test.run(label, self.requests(name), None)
            if taken.step.waited_s or gone(m):
                when = "before" if taken.step.waited_s else "in"
                why = f"the target went away {when} run {taken.step.number} ({label})"
                self.failures = [f"{why}, and so in every round"]
                self.test.notes.append(f"{why}: what follows is cold again, so all begins anew")
                self.there -= len(self.test.runs)
                return False
            self.measured[name] = m
            self.hits[name] = None if taken.summary.server is None else taken.summary.server.prefix_hit_rate
            self.test.steps.append(self.test.measured(m, label, taken))
            if name == "first" and self.ready_at:
                self.waited["process_to_ready_s"] = since_process_start(m, self.ready_at)
            self.test.broken_off(UNFINISHED)
        return True

    def wait(self) -> None:
        """Until the target is ready. TargetError: not within --wait."""
        seconds = self.parameters.wait

        def say(phase: readiness.Phase) -> None:
            log.info("%.1f s: the target is %s", phase.from_s, f"{phase.state} {phase.said}".strip())

        log.info("looking whether the target is ready, for %s at most", format_duration(seconds))
        seen, ready = readiness.wait(self.config, seconds, say)
        self.ready_at = time.time() if len(seen) > 1 else 0.0
        self.phases = [Phase(**vars(phase)) for phase in seen]
        # a target that is ready at the first look became so at a time that nobody saw
        self.waited = {"ready_s": seen[-1].from_s if ready and len(seen) > 1 else None, "process_to_ready_s": None}
        if not ready:
            last = f"{seen[-1].state} {seen[-1].said}".strip()
            self.failures = [f"not ready within {format_duration(seconds)}; last it was {last}"]
            self.series.conclude(self.concluded(), "failed")
            raise TargetError(f"{', '.join(self.config.target.urls)}: {self.failures[0]}; give it longer (--wait)")
        self.test.broken_off(UNFINISHED)

    def requests(self, name: str) -> RunConfig:
        """One at a time; `again` has the seed, so the prompts, of `warm`."""
        count = self.parameters.first if name == "first" else self.parameters.warm
        seed = self.config.seed + (name != "first")
        cleared = msgspec.structs.replace(self.config.load, stages=(), warmup=0.0, cooldown=0.0, duration=None)
        config = msgspec.structs.replace(self.config, load=cleared, seed=seed)
        return merge(config, {"load.concurrency": 1, "load.requests": count})

    def concluded(self) -> Conclusion:
        steps = {one.label.partition(",")[0]: one for one in self.test.steps}
        failures = list(self.failures)
        if "warm" in steps and not failures:
            failures += missed(self.test.goal, steps["warm"], "warm")
        effects = effects_of(self.measured, self.hits) if "first" in self.measured else None
        answers = [Answer(question="ready", text=ready_told(self.phases, self.waited))]
        answers += [] if effects is None else answered(effects)
        figures = dict(self.waited) | ({} if effects is None else figures_of(effects))
        found = self.test.concluded(
            failures, answers, figures, advice="the reference, now that it is warm: llmgen test baseline"
        )
        return msgspec.structs.replace(found, phases=self.phases)


# -- what it shows -----------------------------------------------------------------------------------------------------


def gone(m: Measurements) -> bool:
    """Whether requests met nobody who listens."""
    return bool(np.isin(m.requests["status"], [int(one) for one in REFUSED]).any())


def since_process_start(m: Measurements, ready_at: float) -> float | None:
    """From the start of the server's process, where its metrics tell, until it was ready."""
    starts = [source.column("start_time") for source in readings_of(m).sources]
    told = [float(np.nanmax(one)) for one in starts if one is not None and not np.isnan(one).all()]
    return ready_at - max(told) if told and 0 < ready_at - max(told) < 86_400 else None


def effects_of(runs: dict[str, Measurements], hits: dict[str, float | None]) -> Effects:
    """From the runs by name: those that are not there yet have no effect. hits: told by the server's metrics."""
    streams = bool((runs["first"].requests["first_token"] >= 0).any())
    metric = "ttft" if streams else "e2e"
    ms = {name: values_ms(m, metric) for name, m in runs.items()}
    there = {name: values[~np.isnan(values)] for name, values in ms.items()}
    first, warm = there["first"], there.get("warm", np.empty(0))
    cold = cached = None
    if len(first) >= COLD and len(warm) >= FEWEST:
        cold = shift(first[:COLD], warm)
    if "again" in ms:
        both = min(len(ms["again"]), len(ms["warm"]))
        differences = ms["again"][:both] - ms["warm"][:both]
        differences = differences[~np.isnan(differences)]
        cached = paired_shift(differences) if len(differences) >= FEWEST else None
    return Effects(
        metric=metric,
        first_ms=[round(value, 3) for value in first.tolist()],
        warm_p50_ms=_median(warm),
        again_p50_ms=_median(there.get("again", np.empty(0))),
        slower_than=int(np.count_nonzero(warm < first[0])) if len(first) else 0,
        warm=len(warm),
        cold=cold,
        cached=cached,
        cached_share={name: hits.get(name) if (told := cached_share(m)) is None else told for name, m in runs.items()},
    )


def values_ms(m: Measurements, metric: str) -> np.ndarray:
    """In the order of the requests' numbers, NaN where one failed."""
    values = np.where(m.requests["status"] == Status.ok, m.value(metric), np.nan) / 1e6
    return values[np.argsort(m.requests["index"], kind="stable")]


def cached_share(m: Measurements) -> float | None:
    """Share of the input tokens that the server took from a cache; None where it does not tell."""
    cached, given = m.requests["cached_tokens"], m.requests["input_tokens"]
    there = (cached >= 0) & (given > 0)
    return float(cached[there].sum() / given[there].sum()) if there.any() else None


def answered(e: Effects) -> list[Answer]:
    name = e.metric.upper()
    if not e.first_ms:
        return [Answer(question="first", text="no request succeeded")]
    text = f"{name} {e.first_ms[0]:.4g} ms"
    if e.warm_p50_ms:
        text += f", {e.first_ms[0] / e.warm_p50_ms:.3g} times the warm median of {e.warm_p50_ms:.4g} ms"
        text += f"; slower than {e.slower_than} of {e.warm} warm ones"
    found = [Answer(question="request 1", text=text)]
    if e.cold is not None:
        found.append(Answer(question=f"first {COLD}", text=f"{_effect(e.cold)} against the warm ones"))
    if e.cached is not None and e.warm_p50_ms and e.again_p50_ms:
        text = f"{name} p50 {e.warm_p50_ms:.4g} → {e.again_p50_ms:.4g} ms the second time: {_effect(e.cached)}"
        found.append(Answer(question="prefix cache", text=f"{text}; {_cached(e)}"))
    return found


def _effect(of: Shift) -> str:
    clear = "" if of.low > 0 or of.high < 0 else ": no effect is shown"
    return f"{of.estimate:+.3g} ms (95 % {of.low:+.3g} … {of.high:+.3g}){clear}"


def _cached(e: Effects) -> str:
    first, second = e.cached_share.get("warm"), e.cached_share.get("again")
    if second is None:
        return "the server does not tell how many tokens were cached"
    if second <= (first or 0):
        return f"{100 * second:.3g} % of the prompt tokens were cached, no more than at first: evicted, or no cache"
    return f"cached {100 * (first or 0):.3g} % → {100 * second:.3g} % of the prompt tokens"


def figures_of(e: Effects) -> dict[str, float | None]:
    found: dict[str, float | None] = {
        f"first.{e.metric}_ms": e.first_ms[0] if e.first_ms else None,
        f"warm.{e.metric}_p50_ms": e.warm_p50_ms,
        f"again.{e.metric}_p50_ms": e.again_p50_ms,
    }
    for name, effect in (("cold", e.cold), ("cached", e.cached)):
        for part, value in zip(("ms", "low_ms", "high_ms"), effect or (None, None, None), strict=True):
            found[f"{name}_effect.{part}"] = value
    return found | {f"cached_share.{name}": value for name, value in e.cached_share.items()}


def ready_told(phases: Sequence[Phase], waited: dict[str, float | None]) -> str:
    """Time to ready."""
    if not phases:
        return "not looked at yet"
    if phases[-1].state != "ready":
        return f"not within {phases[-1].until_s:.1f} s"
    if waited["ready_s"] is None:
        return "at the first look: it was started before; what follows may not be its first requests"
    text = f"after {waited['ready_s']:.1f} s (looked at every {readiness.EVERY_S:g} s)"
    if waited["process_to_ready_s"] is not None:
        text += f", {waited['process_to_ready_s']:.1f} s after its process began"
    return text


def _median(values: np.ndarray) -> float | None:
    return float(np.median(values)) if len(values) else None
