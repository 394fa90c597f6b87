"""From a configuration to a plan on disk: schedule and workload put together, segment by segment.

The controller calls `write_next` a few segments ahead of the workers, so that a long or endless schedule needs neither
memory nor a long wait before the start. What is written depends on the configuration and the seed alone; the number of
workers only decides whose a row is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from llmgen import dialects, schedule
from llmgen.config import RunConfig
from llmgen.draws import DRAW_BLOCK
from llmgen.durations import format_duration
from llmgen.errors import ConfigError
from llmgen.plan import ANY_TARGET, NO_SESSION, PLAN_DTYPE, ROOT, Head, PlanWriter, StaticBytes
from llmgen.workload import tokenizers, traces
from llmgen.workload.bodies import BodyBuilder, Source
from llmgen.workload.datasets import Dataset
from llmgen.workload.mix import Draws, Given, Mix, RequestClass, request_classes
from llmgen.workload.pieces import clipped
from llmgen.workload.prefixes import SharedPrefixes
from llmgen.workload.prompts import SyntheticPrompts
from llmgen.workload.requestlog import LogBodies
from llmgen.workload.sessions import SessionDraws, SessionPrompts, SessionRows, check_sessions
from llmgen.workload.tokenizers import Tokens
from llmgen.workload.traces import TraceBlock
from llmgen.workload.traces.conversations import Conversations, Turns
from llmgen.workload.traces.mapping import DROPPED, ClassMap, ModelMap
from llmgen.workload.traces.mapping import check as check_mapping
from llmgen.workload.traces.rows import joined

# The first segment is small so that the start need not wait for more; the others are large enough that files are few
# (16 for a million requests) and small enough that one is made in some 40 ms and 20 MB.
FIRST_SEGMENT_ROWS: Final = DRAW_BLOCK
NS: Final = 1_000_000_000
SEGMENT_ROWS: Final = 4 * DRAW_BLOCK

Block = tuple[NDArray[np.int64], TraceBlock | None]  # due, and what a trace tells of the requests


class PlanBuilder:
    """Writes the plan of `config` into `directory` for `workers` workers; row i is for worker i mod workers.

    `model` is the name to use where the configuration gives none; without either, bodies name no model. `tokens` are
    the words to use where they are known already (calibrated with the server). ConfigError, before anything is
    written, for a configuration that cannot work; a broken row of a trace is a ConfigError of the `write_next` that
    meets it.
    """

    def __init__(
        self,
        config: RunConfig,
        directory: Path,
        workers: int,
        model: str | None = None,
        tokens: Tokens | None = None,
    ) -> None:
        self.requests = Requests(config, model, tokens)
        self.schedule = self.requests.schedule
        self.dialect = self.requests.dialect
        self.classes = self.requests.classes
        self.heads = _heads(config, self.dialect, self.classes)
        self.last_due_ns: int = 0  # of the rows written; 0 in a closed loop
        self.planned_input = 0  # tokens, of the rows written
        self.planned_output: int = 0
        self.rows_by_class = np.zeros(len(self.classes), np.int64)
        self.finished = False
        self._workers = workers
        self._turns_wait = config.load.trace is not None and config.load.trace.turns == "after"
        self._target = 0 if len(config.target.urls) <= 1 else ANY_TARGET
        static = StaticBytes()
        tokens = self.requests.tokens
        prompts = SyntheticPrompts(config.seed, static, tokens.vocabulary)
        sources = sources_of(self.requests, prompts, static)
        self._sessions = None
        if config.workload.sessions is not None:
            self._sessions = SessionPrompts(config, self.dialect, prompts, static)
        self._bodies = BodyBuilder(self.requests.mix.frames, prompts, static, sources)
        self._log = LogBodies(config, self.dialect, self.classes)
        self._template_tokens = tokens.vocabulary.template_tokens
        self._writer = PlanWriter(directory, static, self.heads)

    @property
    def rows_written(self) -> int:
        return self._writer.rows

    @property
    def numbers_written(self) -> int:
        """What a closed loop claims: requests, or sessions."""
        return self.rows_written if self._sessions is None else self.requests.sessions

    @property
    def turns_follow(self) -> bool:
        """Requests may become due later than the plan says: turns that wait for the answers before them."""
        return self._sessions is not None or (self._turns_wait and self.requests.sessions > 0)

    @property
    def segments(self) -> int:
        return self._writer.segments

    @property
    def bytes_written(self) -> int:
        return self._writer.bytes

    def drop_bodies(self, passed: int) -> None:
        """Of the first `passed` segments: a soak's plan must not grow with its length. Their rows stay."""
        self._writer.drop_bodies(passed)

    def write_next(self) -> int:
        """Writes the next segment; number of its rows, 0 once the plan is complete.

        `finished` is true as soon as nothing more will come; plan.json is there then.
        """
        if self.finished:
            return 0
        drawn = self.requests.next_block(SEGMENT_ROWS if self.rows_written else FIRST_SEGMENT_ROWS)
        if len(drawn.due):
            self._write_rows(drawn)
        if self.requests.exhausted():
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
        return len(drawn.due)

    def write_all(self) -> None:
        """All segments. Never returns for an endless schedule."""
        while self.write_next():
            pass

    def _write_rows(self, block: RequestBlock) -> None:
        first, due, drawn, told = self.rows_written, block.due, block.drawn, block.told
        turns = block.sessions
        if turns is not None and self._sessions is not None:
            bodies = self._bodies.build(first, drawn, prompts=self._sessions.build(first, turns))
        elif told is not None and told.bodies is not None:
            bodies = self._log.build(told.bodies, drawn)
        else:
            pieces = None if told is None else told.pieces
            if pieces is not None and self._template_tokens:
                pieces = clipped(pieces, drawn.planned_input - self._template_tokens)
            bodies = self._bodies.build(first, drawn, pieces)
        index = np.arange(first, first + len(due))
        rows = np.zeros(len(due), PLAN_DTYPE)
        rows["due"], rows["index"] = due, index
        rows["first_span"], rows["span_count"] = bodies.first_span, bodies.span_count
        rows["klass"] = rows["head"] = drawn.klass  # one head a class
        rows["target"] = self._target
        rows["worker"] = index % self._workers
        rows["session"] = NO_SESSION
        if turns is not None:
            rows["session"], rows["turn"], rows["think"] = turns.session, turns.turn, turns.think
            rows["worker"] = turns.session % self._workers  # a session's answers are one worker's
        if block.turns is not None:
            self._mark_turns(rows, block.turns)
        rows["planned_input"], rows["planned_output"] = drawn.planned_input, drawn.planned_output
        rows["body_bytes"] = bodies.size
        _check_sizes(bodies.span_count, bodies.size)
        self._writer.write(rows, bodies.spans, bodies.own_bytes)
        self.last_due_ns = max(0, int(due.max()))
        self.planned_input += int(drawn.planned_input.sum())
        self.planned_output += int(np.maximum(drawn.planned_output, 0).sum())
        self.rows_by_class += np.bincount(drawn.klass, minlength=len(self.classes))

    def _mark_turns(self, rows: NDArray[np.void], turns: Turns) -> None:
        """Rows of a trace that are turns: a conversation is one worker's, which knows when its answers have ended."""
        of = turns.session >= 0
        rows["session"], rows["turn"] = turns.session, turns.turn
        rows["worker"][of] = turns.session[of] % self._workers
        if self._turns_wait:
            rows["after"][of] = turns.back[of] + ROOT


def _check_sizes(spans: NDArray[np.int64], size: NDArray[np.int64]) -> None:
    """What PLAN_DTYPE cannot hold: 65,535 spans (a million tokens in blocks of 16) and 4 GB a body."""
    for values, name, what in ((spans, "span_count", "pieces"), (size, "body_bytes", "bytes")):
        most = int(np.iinfo(PLAN_DTYPE[name]).max)
        if len(values) and int(values.max()) > most:
            raise ConfigError(f"workload: a request of {int(values.max())} {what}; at most {most} can be planned")


@dataclass(frozen=True)
class RequestBlock:
    """Consecutive requests before their bodies: when, what kind and how long; and what a trace tells of them."""

    due: NDArray[np.int64]
    drawn: Draws
    told: TraceBlock | None
    sessions: SessionRows | None = None
    turns: Turns | None = None


class Requests:
    """The requests of a configuration in order, block by block; what a plan is written from and a preview counts."""

    def __init__(self, config: RunConfig, model: str | None = None, tokens: Tokens | None = None) -> None:
        workload, trace = config.workload, config.load.trace
        self.config = config
        self.schedule = schedule.check(config.load)
        self.dialect = dialects.of(config.target)
        check_sessions(config, self.dialect)
        self.classes: list[RequestClass] = request_classes(config, self.dialect, model)
        self.tokens = tokens or tokenizers.load(workload.tokenizer, workload.template_tokens)
        self.mix = Mix(self.classes, config.seed, self.tokens.vocabulary.template_tokens)
        self.drawn = 0  # requests so far
        self._sessions = None
        if workload.sessions is not None:
            self._sessions = SessionDraws(config, self.classes, self.mix, self.tokens.vocabulary.template_tokens)
        self._conversations = Conversations()
        names = [one.name for one in self.classes]
        if trace is not None:
            check_mapping(trace, names)
            self._jitter = traces.jitter_ns(trace, config.seed)
            if self._jitter:
                spread = f"jitter uniform {format_duration(self._jitter / NS)}"
                self.schedule = replace(self.schedule, about=spread)
            self._class_map, self._model_map = ClassMap(trace, names), ModelMap(trace.models)
        self._blocks = _Regrouped(self._all_blocks())

    def next_block(self, rows: int) -> RequestBlock:
        """The next `rows` requests, fewer at the end; about as many where sessions are kept whole."""
        if self._sessions is not None:
            return self._next_sessions(rows, self._sessions)
        due, told = self._blocks.take(rows)
        given = turns = None
        if told is not None:
            turns = self._conversations.link(told)
            given = Given(
                told.input,
                told.output,
                self._class_map.numbers(told.klass, len(told)),
                self._model_map.numbers(told.model),
                self._model_map.names,
            )
        drawn = self.mix.draw(self.drawn, len(due), given)
        self.drawn += len(due)
        return RequestBlock(due, drawn, told, turns=turns)

    @property
    def sessions(self) -> int:
        """Conversations so far, made or of a trace."""
        return self._conversations.count if self._sessions is None else self._sessions.begun

    def _next_sessions(self, rows: int, draws: SessionDraws) -> RequestBlock:
        """Whole sessions; the number of requests that was asked for ends the last one."""
        most = self.schedule.requests
        begin, _ = self._blocks.take(draws.sessions_for(rows))
        drawn, turns = draws.draw(begin, None if most is None else most - self.drawn)
        self.drawn += len(turns.turn)
        return RequestBlock(turns.due, drawn, None, turns)

    def exhausted(self) -> bool:
        if self._sessions is not None and self.drawn == self.schedule.requests:
            return True
        return self._blocks.exhausted()

    def _all_blocks(self) -> Iterator[Block]:
        load = self.config.load
        if load.trace is None:
            return ((due, None) for due in schedule.due_blocks(load, self.config.seed))
        return self._replayed(traces.replayed(load.trace, self.config.seed, self._jitter), load.trace.scale)

    def _replayed(self, blocks: Iterator[TraceBlock], scale: float) -> Iterator[Block]:
        """Rows due below the duration, as many as were asked for; no length below 1: nothing can be sent for it."""
        left, duration_ns = self.schedule.requests, self.schedule.duration_ns
        for block in blocks:
            ended = False
            if duration_ns is not None:
                size = int(np.searchsorted(schedule.replay_due(block.t_ns, scale), duration_ns, side="left"))
                ended = size < len(block)
                block = block.take(np.arange(size)) if ended else block
            dropped = self._class_map.numbers(block.klass, len(block)) == DROPPED
            if dropped.any():
                block = block.take(np.flatnonzero(~dropped))
            if left is not None:
                block = block.take(np.arange(left)) if len(block) > left else block
                left -= len(block)
            inputs, outputs = np.maximum(block.input, 1), np.maximum(block.output, 1)
            if block.bodies is not None:
                self._check_paths(block)
                outputs = np.where(block.output > 0, block.output, -1)  # the body asks for no limit
            yield schedule.replay_due(block.t_ns, scale), replace(block, input=inputs, output=outputs)
            if ended or left == 0:
                return

    def _check_paths(self, block: TraceBlock) -> None:
        """ConfigError for a logged request that was sent to another endpoint than this run's."""
        labels = block.klass
        used = [] if labels is None else [labels.names[code] for code in np.unique(labels.codes).tolist() if code >= 0]
        endpoint = self.config.target.path or self.dialect.path
        for path in used:
            if path.partition("?")[0] != endpoint.partition("?")[0]:
                raise ConfigError(
                    f"load.trace.file: holds requests to {path!r}, this run's are to {endpoint!r}; leave them out with "
                    f'load.trace.classes: {{"{path}": null}}, or set target.path'
                )


def sources_of(requests: Requests, prompts: SyntheticPrompts, static: StaticBytes) -> dict[int, Source]:
    """Where the prompts of the classes come from that are not plain synthetic ones, by the class's number.

    From here on own data tells `requests` the lengths of its prompts.
    """
    found: dict[int, Source] = {}
    for number, one in enumerate(requests.classes):
        key = f"workload.mix.{one.name}.data" if requests.config.workload.mix else "workload.data"
        if one.data is not None:
            messages = requests.dialect.prompt_field == "messages"
            system = requests.dialect.name != "messages"  # Anthropic's has a field for it
            data = Dataset(
                one.data, key, prompts, static, messages=messages, system=system, count=requests.tokens.count
            )
            found[number] = requests.mix.data[number] = data
        elif one.prefix is not None:
            found[number] = SharedPrefixes(one.prefix, one.name, prompts, static)
    return found


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
        blocks = [block[1] for block in self._held if block[1] is not None]
        told = joined(blocks) if blocks else None
        self._held = []
        self._rows = max(0, len(due) - rows)
        if self._rows:
            self._held = [(due[rows:], None if told is None else told.take(np.arange(rows, len(due))))]
            told = None if told is None else told.take(np.arange(rows))
        return due[:rows], told
