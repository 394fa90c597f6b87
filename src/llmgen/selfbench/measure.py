"""A whole selfbench: the timer loop, then for each protocol two ramps, then the memory of streams; within a time."""

from __future__ import annotations

import datetime
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final, Literal, cast

import msgspec

from llmgen import machine
from llmgen.errors import LlmgenError
from llmgen.selfbench.accuracy import Reported, against
from llmgen.selfbench.conclusions import capacity, cause, held, limit, next_rate, per_s, sentence
from llmgen.selfbench.figures import Loop, Memory, Ramp, SelfBench, Step
from llmgen.selfbench.lag import plain_loop, timer_loop
from llmgen.selfbench.memory import stream_memory
from llmgen.selfbench.placement import place, shared_note
from llmgen.selfbench.steps import EVENTS, LEAST_ROWS, PROTOCOLS, REQUESTS, SHAPES, Shape, serving, take
from llmgen.simulator.truth import Truth, read_truth

TOKENS: Final = 128  # of the answers in the sentence: run's default
CLIMB, WEIGH = 3, 1  # parts of the time that a climb and two looks at the memory take
Told = Callable[[str], None]


@dataclass(frozen=True)
class Effort:
    """How much is measured. step_s: measured part of a step; first: of the shape's first
    rate; growth: at most from one step to the next."""

    budget_s: float
    step_s: float
    most_steps: dict[str, int]  # by protocol
    first: float
    growth: float
    loop_rates: tuple[float, ...]
    loop_s: float
    streams: dict[str, int]  # by protocol
    quick: bool = False


FULL: Final = Effort(
    budget_s=170.0,
    step_s=2.0,
    most_steps=dict.fromkeys(PROTOCOLS, 8),
    first=1.0,
    growth=4.0,
    loop_rates=(200.0, 1000.0, 5000.0, 20_000.0),
    loop_s=2.0,
    streams={"HTTP/1.1": 5000, "HTTP/2": 5000},
)
QUICK: Final = Effort(
    budget_s=34.0,
    step_s=0.6,
    most_steps={"HTTP/1.1": 3, "HTTP/2": 2, "TLS": 2},
    first=5.0,
    growth=4.0,
    loop_rates=(1000.0, 5000.0),
    loop_s=1.0,
    streams={"HTTP/1.1": 1000},
    quick=True,
)


@dataclass
class Bench:
    """What is known so far."""

    effort: Effort
    folder: Path
    told: Told
    begun: float = field(default_factory=time.monotonic)
    loops: list[Loop] = field(default_factory=list)
    ramps: list[Ramp] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.placement = place()
        self.end = self.begun + self.effort.budget_s
        self.parts = CLIMB * len(SHAPES) * len(PROTOCOLS) + WEIGH * len(self.effort.streams)

    def measure(self) -> None:
        for number, rate in enumerate(self.effort.loop_rates):
            self.loops.append(plain_loop(rate, self.effort.loop_s, self.placement.client_core, number))
            self.told(f"C timer loop at {rate:,.0f}/s: late by {self.loops[-1].p99_us:,.0f} µs (p99)")
        for protocol in PROTOCOLS:
            for shape in SHAPES:
                self.climb(protocol, shape)
            if protocol in self.effort.streams:
                self.weigh(protocol)

    def section_end(self, parts: int) -> float:
        """The time that is left is shared among the sections that are left."""
        now = time.monotonic()
        end = now + (self.end - now) * parts / self.parts
        self.parts -= parts
        return end

    def climb(self, protocol: str, shape: Shape) -> None:
        """One ramp. A signal leaves what was measured of it."""
        end = self.section_end(CLIMB)
        if time.monotonic() >= self.end:
            self.left_out.append(f"{protocol} {shape.name}/s (no time left)")
            return
        truth = self.folder / "truth.log"
        taken: list[tuple[Step, Reported | None]] = []
        try:
            with serving(shape, protocol, self.placement, self.folder, truth) as server:
                for rate in self.rates(taken, protocol, shape, end):
                    step, told = take(server, shape, rate, self.effort.step_s, self.folder)
                    taken.append((self.explained(step), told))
                    self.tell(protocol, shape, step)
        except LlmgenError as error:
            self.left_out.append(f"{protocol} {shape.name}/s ({error})")
        finally:
            if taken:
                steps = with_errors(taken, read_truth(truth))
                self.ramps.append(
                    Ramp(
                        protocol=cast(Literal["HTTP/1.1", "HTTP/2", "TLS"], protocol),
                        shape=cast(Literal["events", "requests"], shape.name),
                        steps=steps,
                        limit=limit(steps, shape.name, tuple(self.loops), self.placement),
                    )
                )
            truth.unlink(missing_ok=True)

    def rates(
        self, taken: list[tuple[Step, Reported | None]], protocol: str, shape: Shape, end: float
    ) -> Iterator[float]:
        """Rates to try, until the limit is found, the steps are used up, or another one would take too long."""
        longest = 0.0
        while len(taken) < self.effort.most_steps[protocol]:
            steps = [step for step, _ in taken]
            rate = next_rate(
                steps, shape.first_rate * self.effort.first, self.effort.growth, tuple(self.loops), self.placement
            )
            now = time.monotonic()
            if rate is None or (taken and now + longest / 2 > end):
                return
            yield rate
            longest = max(longest, time.monotonic() - now)

    def explained(self, step: Step) -> Step:
        """Where a step failed though no core was full: how a plain C loop does in the same seconds."""
        if held(step) or cause(step, (), self.placement) != "pacing":
            return step
        loop = plain_loop(step.rate, max(self.effort.step_s, LEAST_ROWS / step.rate), self.placement.client_core, 0)
        return msgspec.structs.replace(step, loop=loop)

    def weigh(self, protocol: str) -> None:
        self.section_end(WEIGH)
        what = f"memory of a stream over {protocol}"
        if time.monotonic() >= self.end:
            self.left_out.append(f"{what} (no time left)")
            return
        try:
            found = stream_memory(protocol, self.effort.streams[protocol], self.placement, self.folder)
        except LlmgenError as error:
            self.left_out.append(f"{what} ({error})")
            return
        if found is None:
            self.left_out.append(f"{what} (not all answers came)")
            return
        self.memory.append(found)
        self.told(f"{protocol} memory: {found.bytes_per_stream:,.0f} B a stream")

    def tell(self, protocol: str, shape: Shape, step: Step) -> None:
        verdict = step.verdict if held(step) or step.verdict != "valid" else "full"
        self.told(
            f"{protocol} {shape.name}: {per_s(step, shape.name):,.0f}/s {verdict}, "
            f"client {step.client_share:.0%}, server {step.server_share:.0%} of a core"
        )

    def result(self, interrupted: bool) -> SelfBench:
        events, requests = (self.ramp("HTTP/1.1", shape) for shape in (EVENTS, REQUESTS))
        found = capacity(events, requests, TOKENS, self.placement.room)
        notes = [note for note in (shared_note(self.placement),) if note is not None]
        if self.left_out:
            notes.append(f"not measured: {', '.join(self.left_out)}")
        environment = machine.environment()
        environment.pop("timer_loop")  # that of the selfbench before this one
        return SelfBench(
            state="incomplete" if interrupted else "complete",
            reasons=("interrupted",) if interrupted else (),
            quick=self.effort.quick,
            started=(datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=self.took_s())).isoformat(
                timespec="seconds"
            ),
            took_s=round(self.took_s(), 1),
            placement=self.placement,
            timer_loop=timer_loop(tuple(self.loops)),
            ramps=tuple(self.ramps),
            memory=tuple(self.memory),
            capacity=found,
            sentence=sentence(found, events, requests),
            notes=tuple(notes),
            environment=environment,
            versions=machine.versions(),
        )

    def ramp(self, protocol: str, shape: Shape) -> Ramp | None:
        return next((one for one in self.ramps if (one.protocol, one.shape) == (protocol, shape.name)), None)

    def took_s(self) -> float:
        return time.monotonic() - self.begun


def with_errors(taken: list[tuple[Step, Reported | None]], truth: Truth) -> tuple[Step, ...]:
    steps = []
    for step, run in taken:
        ttft, gap = (None, None) if run is None else against(truth, run)
        steps.append(msgspec.structs.replace(step, ttft=ttft, gap=gap))
    return tuple(steps)


def measure(effort: Effort, told: Told = lambda _: None) -> SelfBench:
    """SIGINT and SIGTERM end it early, with what there is. Raises OSError where there is no room for files."""
    with tempfile.TemporaryDirectory(prefix="llmgen-selfbench-") as folder:
        bench = Bench(effort, Path(folder), told)
        interrupted = False
        try:
            with terminable():
                bench.measure()
        except KeyboardInterrupt:
            interrupted = True
        return bench.result(interrupted)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM like SIGINT, between runs too: servers are ended and files removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> Any:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
