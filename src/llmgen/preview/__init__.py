"""What a run would send, without sending: `llmgen plan`.

The requests are drawn exactly as the plan of the run draws them; only their bodies are not made. Whatever depends on
the server is told as what follows from an assumed service time.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from llmgen import machine
from llmgen.config import Prices, RunConfig
from llmgen.errors import ConfigError
from llmgen.plan import StaticBytes
from llmgen.planning import RequestBlock, Requests, sources_of
from llmgen.preview.figures import Arrivals, ClassFigures, Cost, Counts, Needs, Preview, Service, SessionFigures
from llmgen.schedule import Schedule
from llmgen.setups import workers_wanted
from llmgen.workload.prompts import SyntheticPrompts
from llmgen.workload.tokenizers import SERVER, Tokens
from llmgen.workload.vocabulary import Vocabulary

NS: Final = 1_000_000_000
BLOCK_ROWS: Final = 1 << 16
# Of a schedule without end (a closed loop that only time ends, a looped trace) so many requests are looked at.
SAMPLE_ROWS: Final = 100_000
FLIGHT_BIN_S: Final = 0.1  # resolution of the requests in flight
MAX_BINS: Final = 1 << 24  # 19 days of them; beyond, the bins are wider
TTFT_S: Final = 0.5  # what is assumed of a server that nobody told about
ITL_S: Final = 0.02


def preview(config: RunConfig, *, ttft_s: float = TTFT_S, itl_s: float = ITL_S) -> Preview:
    """What `config` would send. ConfigError as the run would have it, a broken row of a trace included."""
    tokens, notes = _tokens(config)
    requests = Requests(config, tokens=tokens)
    static = StaticBytes()
    sources_of(requests, SyntheticPrompts(config.seed, static, requests.tokens.vocabulary), static)
    endless = requests.schedule.endless
    gathered = _Gathered(requests, ttft_s, itl_s)
    while not (endless and gathered.rows >= SAMPLE_ROWS):
        block = requests.next_block(BLOCK_ROWS)
        if not len(block.due):
            break
        due, drawn = block.due, block.drawn
        order: slice | NDArray[np.intp] = slice(None)
        if block.sessions is not None:
            due = block.sessions.expected_due(ttft_s, itl_s)
            order = np.argsort(due, kind="stable")
        gathered.add_turns(block)
        gathered.add(due[order], drawn.klass[order], drawn.planned_input[order], drawn.planned_output[order])
    if endless:
        notes.append(
            f"endless: the first {gathered.rows:,} requests are shown; the run's time decides how many there are"
        )
    return gathered.figures(config, endless, notes)


def _tokens(config: RunConfig) -> tuple[Tokens | None, list[str]]:
    """No server is asked: what it would calibrate is told as words."""
    if config.workload.tokenizer != SERVER:
        return None, []
    template = config.workload.template_tokens or 0
    return Tokens(Vocabulary(template_tokens=template)), ["the server's tokenizer is asked by the run only"]


class _Gathered:
    """Counts over blocks of requests, in memory that does not grow with their number."""

    def __init__(self, requests: Requests, ttft_s: float, itl_s: float) -> None:
        self.requests = requests
        self.rows = self.events = self.last_due_ns = 0
        self._service = (ttft_s, itl_s)
        self._classes = [(Counts(), Counts()) for _ in requests.classes]
        self._seconds = np.zeros(1, np.int64)  # requests due in each
        self._turns = np.zeros(1, np.int64)  # of each session
        span = requests.schedule.expected_span_s
        self._bin_s = max(FLIGHT_BIN_S, span / MAX_BINS * 2 if span and np.isfinite(span) else FLIGHT_BIN_S)
        self._change = np.zeros(1, np.int64)  # of the requests in flight, in each bin
        self._gaps = np.zeros(3)  # number, sum, sum of squares
        self._closed = requests.schedule.closed

    def add(self, due: NDArray[np.int64], klass: NDArray[np.uint16], inputs: NDArray[np.int64], outputs: NDArray[np.int64]) -> None:  # fmt: skip  # noqa: E501
        outputs = np.maximum(outputs, 0)
        for number, (first, second) in enumerate(self._classes):
            mine = klass == number
            first.add(inputs[mine])
            second.add(outputs[mine])
        self.events += int(outputs.sum())
        if not self._closed:
            gaps = np.diff(due, prepend=self.last_due_ns) if self.rows else np.diff(due)
            seconds = np.maximum(gaps, 0) / NS  # a block's last turns may come after the next block's first
            self._gaps += [len(gaps), seconds.sum(), (seconds**2).sum()]
            self._seconds = _added(self._seconds, due // NS, 1)
            ttft_s, itl_s = self._service
            ends = due / NS + ttft_s + itl_s * np.maximum(outputs - 1, 0)
            self._change = _added(self._change, (due / NS / self._bin_s).astype(np.int64), 1)
            self._change = _added(self._change, (ends / self._bin_s).astype(np.int64) + 1, -1)
            self.last_due_ns = max(self.last_due_ns, int(due[-1]))
        self.rows += len(due)

    def add_turns(self, block: RequestBlock) -> None:
        for turns in (block.sessions, block.turns):
            if turns is not None:
                self._turns = _added(self._turns, turns.session[turns.session >= 0], 1)

    def _sessions(self) -> SessionFigures | None:
        counts = Counts()
        counts.add(self._turns[self._turns > 0])
        turns = counts.figures()
        return None if turns is None else SessionFigures(counts.rows, turns)

    def figures(self, config: RunConfig, endless: bool, notes: list[str]) -> Preview:
        schedule = self.requests.schedule
        span_s = None if self._closed else schedule.expected_span_s
        if span_s is None and not self._closed:
            span_s = self.last_due_ns / NS
        classes = [
            ClassFigures(
                one.name,
                first.rows,
                one.stream,
                [model for model in one.models if model is not None],
                first.figures(),
                second.figures(),
            )
            for one, (first, second) in zip(self.requests.classes, self._classes, strict=True)
        ]
        inputs, outputs = (sum(pair[i].total for pair in self._classes) for i in (0, 1))
        in_flight = self._in_flight(config)
        return Preview(
            name=config.name,
            load=schedule.describe(),
            requests=self.rows,
            endless=endless,
            span_s=span_s,
            input_tokens=inputs,
            output_tokens=outputs,
            arrivals=None if self._closed else self._arrivals(span_s),
            classes=classes,
            sessions=self._sessions(),
            service=Service(*self._service, *in_flight),
            needs=self._needs(config, in_flight[0]),
            cost=None if endless else cost_of(config.prices, inputs, outputs, span_s),
            notes=notes,
        )

    def _arrivals(self, span_s: float | None) -> Arrivals:
        count, total, squares = self._gaps
        mean = total / count if count else 0.0
        cv = float(np.sqrt(max(0.0, squares / count - mean**2)) / mean) if mean > 0 else None
        seconds = self._seconds[: int(max(span_s or 0, self.last_due_ns / NS)) + 1]
        whole = seconds[: max(1, int(span_s or 1))]  # a second that the load only begins is none to compare
        dispersion = float(whole.var() / whole.mean()) if len(whole) > 1 and whole.mean() > 0 else None
        return Arrivals(
            rate_per_s=self.rows / span_s if span_s else None,
            peak_1s=int(seconds.max()),
            cv=cv,
            dispersion_1s=dispersion,
            per_second=seconds.tolist(),
        )

    def _in_flight(self, config: RunConfig) -> tuple[int, float | None]:
        """(peak, mean while load is offered) requests in flight."""
        if self._closed:
            slots = config.load.concurrency or 1
            return slots, float(slots)
        flight = np.cumsum(self._change)
        offered = flight[: max(1, int(self.last_due_ns / NS / self._bin_s))]
        return int(flight.max()), float(offered.mean())

    def _needs(self, config: RunConfig, peak: int) -> Needs:
        connections = min(peak, config.client.connections or peak)
        wanted = workers_wanted(config, self)
        return Needs(
            connections=connections,
            ports_per_address=machine.ephemeral_ports(),
            workers=config.client.workers or wanted,
            workers_wanted=wanted,
            cores=machine.usable_cores(),
        )

    # What `workers_wanted` asks of a plan.

    @property
    def rows_written(self) -> int:
        return self.rows

    @property
    def planned_output(self) -> int:
        return self.events

    @property
    def schedule(self) -> Schedule:
        return self.requests.schedule


def _added(counts: NDArray[np.int64], places: NDArray[np.int64], sign: int) -> NDArray[np.int64]:
    """`counts` with `sign` more at every one of `places`, longer if need be."""
    more = np.bincount(places)
    if len(more) > len(counts):
        # At least doubled, so that growing costs no more than counting.
        counts = np.concatenate([counts, np.zeros(max(len(more) - len(counts), len(counts)), np.int64)])
    counts[: len(more)] += sign * more
    return counts


def cost_of(prices: Prices | None, inputs: int, outputs: int, span_s: float | None) -> Cost | None:
    """What the tokens and the time of the GPUs cost at the user's prices; None without any.

    The answers' lengths are those asked for, and nothing is taken as cached: it is what a run costs at most, but for
    what the GPUs do after the last due time.
    """
    if prices is None:
        return None
    tokens = gpus = None
    if prices.input_per_million is not None or prices.output_per_million is not None:
        tokens = (inputs * (prices.input_per_million or 0) + outputs * (prices.output_per_million or 0)) / 1e6
    if prices.gpu_hour is not None and span_s is not None:
        gpus = prices.gpu_hour * (prices.gpus or 1) * span_s / 3600
    if tokens is None and gpus is None:
        return None
    return Cost(tokens=tokens, gpus=gpus, total=(tokens or 0.0) + (gpus or 0.0))


def refuse_expensive(config: RunConfig) -> None:
    """ConfigError if the run would cost more than `prices.max_cost`, or if that cannot be known."""
    most = None if config.prices is None else config.prices.max_cost
    if most is None:
        return
    found = preview(config)
    if found.cost is None:
        why = (
            "this load has no end of its own; set load.requests" if found.endless else "prices are missing in `prices`"
        )
        raise ConfigError(f"prices.max_cost={most:g}: what the run will cost cannot be told: {why}")
    if found.cost.total > most:
        raise ConfigError(
            f"prices.max_cost={most:g}: the run would cost up to {found.cost.total:.2f} "
            f"({found.requests:,} requests, {found.input_tokens:,} tokens in, {found.output_tokens:,} out); shorten it "
            "or raise --max-cost"
        )
