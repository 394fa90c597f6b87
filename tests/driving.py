"""An Engine without its worker process: a plan written by hand, its loop turned by the test itself."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmgen import dialects
from llmgen import target as targets_of
from llmgen._core import Engine
from llmgen.columns import EVENT_DTYPE, REQUEST_DTYPE, SEGMENT_HEADER_BYTES, SEGMENT_HEADER_DTYPE, TIMELINE_DTYPE
from llmgen.config import Target as TargetConfig
from llmgen.control import ControlBlock
from llmgen.plan import DYNAMIC, PLAN_DTYPE, SPAN_DTYPE, Head, PlanWriter, StaticBytes
from llmgen.wire.scanner import Rules
from llmgen.worker import HeadSetup, Setup, TargetSetup

S = 1_000_000_000
MS = 1_000_000
BOUND_S = 30.0  # no wait of a test may be longer
BODY = b'{"model":"m"}'
DTYPES = {"requests": REQUEST_DTYPE, "events": EVENT_DTYPE, "timeline": TIMELINE_DTYPE}


class Plan:
    """Segments of rows with the given due times (ns after the start); all bodies are BODY."""

    def __init__(self, directory: Path, workers: int = 1) -> None:
        self.directory = directory
        self.workers = workers
        static = StaticBytes()
        self._span = np.array([(static.add(BODY), len(BODY), 0)], SPAN_DTYPE)
        self._writer = PlanWriter(directory, static, [Head(0, True, ("/v1/chat/completions",))])

    def write(self, due: Sequence[int]) -> int:
        """One segment; the number of segments then."""
        rows = np.zeros(len(due), PLAN_DTYPE)
        rows["due"] = due
        rows["index"] = np.arange(self._writer.rows, self._writer.rows + len(due))
        rows["span_count"] = 1
        rows["worker"] = rows["index"] % self.workers
        rows["session"] = -1
        rows["planned_input"] = rows["planned_output"] = 1
        rows["body_bytes"] = len(BODY)
        self._writer.write(rows, self._span, np.empty(0, np.uint8))
        return self._writer.segments


class Driven:
    """One engine and the files it works with. `with` releases it."""

    def __init__(
        self,
        directory: Path,
        urls: str | Sequence[str],
        due: Sequence[int] = (0,),
        *,
        plan: Plan | None = None,
        control: ControlBlock | None = None,
        final: bool = True,
        stream: bool = True,
        worker: int = 0,
        **settings: Any,
    ) -> None:
        self.directory = directory
        if plan is None:
            plan = Plan(directory / "plan")
            if len(due):
                plan.write([DYNAMIC] * len(due) if settings.get("closed_slots") else due)
        self.plan = plan
        self.block = control or ControlBlock(directory / "control.bin", plan.workers)
        self.control, self.counters = self.block.control, self.block.counters
        self.control["plan_segments"] = len(list(plan.directory.glob("*.rows")))
        self.control["plan_final"] = int(final)
        urls = (urls,) if isinstance(urls, str) else tuple(urls)
        targets = targets_of.resolve(TargetConfig(urls=urls))
        heads = [Head(0, stream, ("/v1/chat/completions",) * len(urls))]
        values: dict[str, Any] = {
            "timeout_connect": 10 * S,
            "timeout_first_token": 10 * S,
            "timeout_idle": 10 * S,
            "timeout_total": 20 * S,
            "drain": 10 * S,
            **settings,
        }
        self.setup = Setup(
            worker=worker,
            directory=str(directory / f"worker-{worker}"),
            plan=str(plan.directory),
            control=str(directory / "control.bin"),
            id_head="r-",
            seed=1,
            trace_prefix=7,
            classes=1,
            heads=[HeadSetup(stream, dialects.get("chat").end.value, "chat")],
            targets=[
                TargetSetup(list(one.addresses), 1, False, targets_of.heads(one, number, 1, heads, {}, "r-"), one.host)
                for number, one in enumerate(targets)
            ],
            **values,
        )
        self.engine = Engine(self.setup, [Rules("chat")])
        self.poll = select.poll()
        self.poll.register(self.engine.fileno(), select.POLLIN)

    def start(self, delay_ns: int = 5 * MS, offer_for: int = 0) -> int:
        """Gives the start, `delay_ns` from now (negative: it has passed); its time."""
        start = time.monotonic_ns() + delay_ns
        self.engine.start(start, offer_for, 0, 1 << 61)
        return start

    def turn(self, ms: int = 5) -> bool:
        """Waits for the loop's descriptor; a batch if there is something, and a tick. True: the run goes on."""
        if self.poll.poll(ms):
            self.engine.on_ready()
        return self.engine.tick()

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + BOUND_S
        while not condition():
            assert time.monotonic() < end, "waited too long"
            self.turn()

    def run(self) -> np.ndarray:
        """Turns until nothing is left, finishes; REQUEST_DTYPE (requests,) in the order of dispatch."""
        end = time.monotonic() + BOUND_S
        while self.turn():
            assert time.monotonic() < end, "the run does not end"
        self.engine.finish()
        return self.rows("requests")

    def rows(self, stream: str) -> np.ndarray:
        """What is committed of a stream, over all of its segments."""
        return committed(Path(self.setup.directory), stream)

    def __enter__(self) -> Driven:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.cancel()
        self.engine.release()


def committed(directory: Path, stream: str) -> np.ndarray:
    dtype = DTYPES[stream]
    parts = []
    for path in sorted(directory.glob(f"{stream}-*.seg")):
        count = int(np.fromfile(path, SEGMENT_HEADER_DTYPE, 1)["committed"][0])
        parts.append(np.fromfile(path, dtype, count, offset=SEGMENT_HEADER_BYTES))
    return np.concatenate(parts)
