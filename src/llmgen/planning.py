"""From a configuration to a plan on disk: schedule and workload put together, segment by segment.

The controller calls `write_next` a few segments ahead of the workers, so that a long or endless schedule needs neither
memory nor a long wait before the start. What is written depends on the configuration and the seed alone; the number of
workers only decides whose a row is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from llmgen import dialects, schedule
from llmgen.config import RunConfig
from llmgen.draws import DRAW_BLOCK
from llmgen.plan import ANY_TARGET, NO_SESSION, PLAN_DTYPE, Head, PlanWriter, StaticBytes
from llmgen.workload import traces
from llmgen.workload.bodies import BodyBuilder
from llmgen.workload.mix import Mix, RequestClass, request_classes
from llmgen.workload.prompts import SyntheticPrompts

# The first segment is small so that the start need not wait for more; the others are large enough that files are few
# (16 for a million requests) and small enough that one is made in some 40 ms and 20 MB.
FIRST_SEGMENT_ROWS: Final = DRAW_BLOCK
SEGMENT_ROWS: Final = 4 * DRAW_BLOCK

Pair = tuple[NDArray[np.int64], NDArray[np.int64]]
Block = tuple[NDArray[np.int64], Pair | None]  # due, and the lengths (input, output) of a trace


class PlanBuilder:
    """Writes the plan of `config` into `directory` for `workers` workers; row i is for worker i mod workers.

    `model` is the name to use where the configuration gives none; without either, bodies name no model. ConfigError,
    before anything is written, for a configuration that cannot work; a broken row of a trace is a ConfigError of the
    `write_next` that meets it.
    """

    def __init__(self, config: RunConfig, directory: Path, workers: int, model: str | None = None) -> None:
        self.schedule = schedule.check(config.load)
        self.dialect = dialects.get(config.target.api)
        self.classes: list[RequestClass] = request_classes(config, self.dialect, model)
        self.heads = _heads(config, self.dialect, self.classes)
        self.last_due_ns = 0  # of the rows written; 0 in a closed loop
        self.planned_input = 0  # tokens, of the rows written
        self.planned_output = 0
        self.rows_by_class = np.zeros(len(self.classes), np.int64)
        self.finished = False
        self._workers = workers
        self._target = 0 if len(config.target.urls) <= 1 else ANY_TARGET
        self._mix = Mix(self.classes, config.seed)
        static = StaticBytes()
        prompts = SyntheticPrompts(config.seed, static)
        self._bodies = BodyBuilder(self._mix.frames, prompts, static)
        self._blocks = _Regrouped(_blocks(config, self.schedule))
        self._writer = PlanWriter(directory, static, self.heads)

    @property
    def rows_written(self) -> int:
        return self._writer.rows

    @property
    def segments(self) -> int:
        return self._writer.segments

    @property
    def bytes_written(self) -> int:
        return self._writer.bytes

    def write_next(self) -> int:
        """Writes the next segment; number of its rows, 0 once the plan is complete.

        `finished` is true as soon as nothing more will come; plan.json is there then.
        """
        if self.finished:
            return 0
        first = self.rows_written
        due, lengths = self._blocks.take(SEGMENT_ROWS if first else FIRST_SEGMENT_ROWS)
        if len(due):
            self._write_rows(first, due, lengths)
        if self._blocks.exhausted():
            self.finished = True
            self._writer.finish(
                {
                    "last_due_ns": self.last_due_ns,
                    "planned_input": self.planned_input,
                    "planned_output": self.planned_output,
                    "classes": [
                        {"name": one.name, "rows": int(n)}
                        for one, n in zip(self.classes, self.rows_by_class, strict=True)
                    ],
                }
            )
        return len(due)

    def write_all(self) -> None:
        """All segments. Never returns for an endless schedule."""
        while self.write_next():
            pass

    def _write_rows(self, first: int, due: NDArray[np.int64], lengths: Pair | None) -> None:
        drawn = self._mix.draw(first, len(due), lengths)
        bodies = self._bodies.build(first, drawn)
        index = np.arange(first, first + len(due))
        rows = np.zeros(len(due), PLAN_DTYPE)
        rows["due"], rows["index"] = due, index
        rows["first_span"], rows["span_count"] = bodies.first_span, bodies.span_count
        rows["klass"] = rows["head"] = drawn.klass  # one head a class
        rows["target"] = self._target
        rows["worker"] = index % self._workers
        rows["session"] = NO_SESSION
        rows["planned_input"], rows["planned_output"] = drawn.planned_input, drawn.planned_output
        rows["body_bytes"] = bodies.size
        self._writer.write(rows, bodies.spans, bodies.own_bytes)
        self.last_due_ns = max(0, int(due[-1]))
        self.planned_input += int(drawn.planned_input.sum())
        self.planned_output += int(np.maximum(drawn.planned_output, 0).sum())
        self.rows_by_class += np.bincount(drawn.klass, minlength=len(self.classes))


def endpoint_paths(config: RunConfig, dialect: dialects.Dialect) -> tuple[str, ...]:
    """The request target (path and query) on each url."""
    target = config.target
    paths = []
    for url in target.urls or ("",):
        parts = urlsplit(url)
        # The path of unix:/file names the socket, not a resource.
        own = "" if parts.scheme == "unix" else parts.path + ("?" + parts.query if parts.query else "")
        paths.append(dialects.endpoint_path(own, dialect.path, target.path, target.query))
    return tuple(paths)


def _heads(config: RunConfig, dialect: dialects.Dialect, classes: list[RequestClass]) -> list[Head]:
    paths = endpoint_paths(config, dialect)
    return [Head(number, one.stream, paths) for number, one in enumerate(classes)]


def _blocks(config: RunConfig, plan: schedule.Schedule) -> Iterator[Block]:
    load = config.load
    if load.trace is None:
        return ((due, None) for due in schedule.due_blocks(load, config.seed))
    return _replayed(traces.replayed(load.trace, config.seed), load.trace.scale, plan)


def _replayed(blocks: Iterator[traces.TraceBlock], scale: float, plan: schedule.Schedule) -> Iterator[Block]:
    """Rows due below the duration, as many as were asked for; no length below 1, since nothing can be sent for it."""
    left = plan.requests
    for block in blocks:
        due = schedule.replay_due(block.t_ns, scale)
        size = len(due)
        if plan.duration_ns is not None:
            size = int(np.searchsorted(due, plan.duration_ns, side="left"))
        if left is not None:
            size = min(size, left)
            left -= size
        yield due[:size], (np.maximum(block.input[:size], 1), np.maximum(block.output[:size], 1))
        if size < len(due) or left == 0:
            return


class _Regrouped:
    """Blocks of any size in, blocks of the asked size out; knows whether anything is left."""

    def __init__(self, blocks: Iterator[Block]) -> None:
        self._blocks = blocks
        self._held: list[Block] = []
        self._rows = 0

    def _fill(self, rows: int) -> None:
        while self._rows < rows:
            block = next(self._blocks, None)
            if block is None:
                return
            if len(block[0]):
                self._held.append(block)
                self._rows += len(block[0])

    def exhausted(self) -> bool:
        self._fill(1)
        return self._rows == 0

    def take(self, rows: int) -> Block:
        """The next `rows` rows, fewer at the end."""
        self._fill(rows)
        if not self._held:
            return np.empty(0, np.int64), None
        due = np.concatenate([block[0] for block in self._held])
        lengths: Pair | None = None
        pairs = [block[1] for block in self._held if block[1] is not None]
        if pairs:
            lengths = (np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs]))
        self._held = []
        self._rows = max(0, len(due) - rows)
        if self._rows:
            rest = None if lengths is None else (lengths[0][rows:], lengths[1][rows:])
            self._held = [(due[rows:], rest)]
        return due[:rows], None if lengths is None else (lengths[0][:rows], lengths[1][:rows])
