"""What is in a trace: what a replay of it would ask of a server, in numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmgen.workload.traces.conversations import Conversations
from llmgen.workload.traces.rows import NS, Ints, Labels, Pieces, TraceBlock

PERCENTILES: Final = (50, 90, 99)
MERGE_PIECES: Final = 1 << 20  # distinct beginnings are sorted in once so many have come: 8 MB
MOST_LABELS: Final = 20


class Lengths(msgspec.Struct):
    """Token lengths: mean, percentiles (the smallest length that so many are at most) and extremes."""

    mean: float
    min: int
    p50: int
    p90: int
    p99: int
    max: int
    total: int


class Reuse(msgspec.Struct):
    """What a cache that never forgets would find again, by whole pieces from each prompt's beginning on."""

    pieces: int
    distinct: int  # beginnings, up to and with each piece
    share: float  # of the pieces
    tokens_share: float


class Facts(msgspec.Struct):
    """A trace in numbers; None where it does not tell."""

    format: str
    rows: int
    span_s: float
    rate_per_s: float | None
    cv: float | None  # of the gaps between rows
    times: int  # different ones
    quantum_s: float  # the recorder's tick
    largest_at_once: int  # rows of one time
    input: Lengths
    output: Lengths
    no_output: int  # rows with an answer of no token
    sessions: int | None
    turns: Lengths | None  # of each session
    torn: int  # rows whose parent is not before them, each of which begins a session
    classes: dict[str, int] | None
    models: dict[str, int] | None
    reuse: Reuse | None


class _Counts:
    """How often each length came: exact percentiles of any number of rows, in the memory of the longest length."""

    def __init__(self) -> None:
        self._counts = np.zeros(1, np.int64)

    def add(self, lengths: Ints) -> None:
        more = np.bincount(lengths, minlength=len(self._counts))
        more[: len(self._counts)] += self._counts
        self._counts = more

    def figures(self) -> Lengths:
        upto = np.cumsum(self._counts)
        rows = int(upto[-1])
        values = np.flatnonzero(self._counts)
        total = int((values * self._counts[values]).sum())
        ranks = [max(1, -(-rows * p // 100)) for p in PERCENTILES]
        p50, p90, p99 = (int(np.searchsorted(upto, rank)) for rank in ranks)
        return Lengths(total / rows, int(values[0]), p50, p90, p99, int(values[-1]), total)


class _Beginnings:
    """Distinct beginnings of prompts, as hashes of the chain of pieces up to each piece."""

    def __init__(self) -> None:
        self._seen = np.empty(0, np.uint64)
        self._waiting: list[tuple[NDArray[np.uint64], Ints]] = []
        self._waiting_pieces = 0
        self.pieces = self.words = self.new_words = 0

    def add(self, pieces: Pieces) -> None:
        if not len(pieces.ids):
            return
        ends = np.cumsum(pieces.counts)
        starts = np.repeat(ends - pieces.counts, pieces.counts)
        place = np.arange(len(pieces.ids)) - starts
        mixed = _mixed(pieces.ids.astype(np.uint64) + _mixed(place.astype(np.uint64) + np.uint64(1)))
        with np.errstate(over="ignore"):
            upto = np.cumsum(mixed, dtype=np.uint64)
            chain = upto - (upto - mixed)[starts]  # sums of all before the row fall out, modulo 2**64
        self._waiting.append((chain, pieces.words))
        self._waiting_pieces += len(chain)
        self.pieces += len(chain)
        self.words += int(pieces.words.sum())
        if self._waiting_pieces >= MERGE_PIECES:
            self._merge()

    def _merge(self) -> None:
        if not self._waiting:
            return
        chain = np.concatenate([c for c, _ in self._waiting])
        words = np.concatenate([w for _, w in self._waiting])
        new, where = np.unique(chain, return_index=True)
        unknown = ~np.isin(new, self._seen, assume_unique=True)
        self.new_words += int(words[where[unknown]].sum())
        self._seen = np.union1d(self._seen, new)
        self._waiting, self._waiting_pieces = [], 0

    def figures(self) -> Reuse | None:
        self._merge()
        if not self.pieces:
            return None
        distinct = len(self._seen)
        return Reuse(self.pieces, distinct, 1 - distinct / self.pieces, 1 - self.new_words / self.words)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of 64 bits without structure (the finaliser of splitmix64, Steele et al., OOPSLA'14)."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


class _Times:
    """Moments of the gaps and the ticks they lie on, over blocks."""

    def __init__(self) -> None:
        self.rows = self.different = 0
        self.most = 0  # rows of one time
        self.last = 0
        self._sum = self._squares = 0.0
        self._steps: list[Ints] = []
        self._at_last = 0  # rows at `last`

    def add(self, t_ns: Ints) -> None:
        gaps = np.diff(t_ns, prepend=self.last) if self.rows else np.diff(t_ns)
        seconds = gaps / NS
        self._sum += float(seconds.sum())
        self._squares += float((seconds**2).sum())
        steps = gaps[gaps > 0]
        self._steps.append(steps)
        times, counts = np.unique(t_ns, return_counts=True)
        if self.rows and int(times[0]) == self.last:
            counts[0] += self._at_last
        self.most = max(self.most, int(counts.max()))
        self._at_last = int(counts[-1])
        self.different += len(steps) + (not self.rows)
        self.rows += len(t_ns)
        self.last = int(t_ns[-1])

    @property
    def cv(self) -> float | None:
        gaps = self.rows - 1
        if gaps < 1 or self._sum <= 0:
            return None
        mean = self._sum / gaps
        return float(np.sqrt(max(0.0, self._squares / gaps - mean**2)) / mean)

    @property
    def quantum_s(self) -> float:
        steps = np.concatenate(self._steps) if self._steps else np.empty(0, np.int64)
        # As shaping.quantum_ns: what 99 % of the distances are at least.
        return float(np.quantile(steps, 0.01, method="lower")) / NS if len(steps) else 0.0


class _Turns:
    """How many turns each conversation has."""

    def __init__(self) -> None:
        self._conversations = Conversations()
        self._turns = np.empty(0, np.int64)
        self.torn = 0

    def add(self, block: TraceBlock) -> None:
        turns = self._conversations.link(block)
        if turns is None:
            return
        more = np.bincount(turns.session[turns.session >= 0], minlength=self._conversations.count)
        more[: len(self._turns)] += self._turns
        self._turns = more
        self.torn += int(turns.torn.sum())

    @property
    def sessions(self) -> int | None:
        return len(self._turns) or None

    def figures(self) -> Lengths | None:
        counts = _Counts()
        counts.add(self._turns)
        return counts.figures() if len(self._turns) else None


def inspect(blocks: Iterable[TraceBlock], name: str) -> Facts:
    """One pass over a trace of at least one row."""
    times, inputs, outputs, beginnings, turns = _Times(), _Counts(), _Counts(), _Beginnings(), _Turns()
    no_output = 0
    classes: dict[str, int] = {}
    models: dict[str, int] = {}
    for block in blocks:
        if not len(block):
            continue
        times.add(block.t_ns)
        inputs.add(block.input)
        outputs.add(block.output)
        no_output += int(np.count_nonzero(block.output == 0))
        if block.pieces is not None:
            beginnings.add(block.pieces)
        turns.add(block)
        _count(classes, block.klass)
        _count(models, block.model)
    span_s = times.last / NS
    return Facts(
        format=name,
        rows=times.rows,
        span_s=span_s,
        rate_per_s=times.rows / span_s if span_s else None,
        cv=times.cv,
        times=times.different,
        quantum_s=times.quantum_s,
        largest_at_once=times.most,
        input=inputs.figures(),
        output=outputs.figures(),
        no_output=no_output,
        sessions=turns.sessions,
        turns=turns.figures(),
        torn=turns.torn,
        classes=classes or None,
        models=models or None,
        reuse=beginnings.figures(),
    )


def _count(found: dict[str, int], labels: Labels | None) -> None:
    if labels is None:
        return
    counts = np.bincount(labels.codes[labels.codes >= 0], minlength=len(labels.names))
    for name, count in zip(labels.names, counts.tolist(), strict=True):
        if count:
            found[name] = found.get(name, 0) + count


def lines_of(facts: Facts) -> list[str]:
    """The facts as a person reads them, and what to do about a coarse clock."""

    def number(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    found = [
        f"format     {facts.format}",
        f"rows       {facts.rows:,}   over {facts.span_s:,.3f} s   {number(facts.rate_per_s, '.3f')}/s",
        f"gaps       CV {number(facts.cv, '.2f')}",
    ]
    if facts.rows > facts.times:
        found.append(
            f"clock      {facts.times:,} different times, {facts.quantum_s:g} s apart or more, up to "
            f"{facts.largest_at_once} rows at one"
        )
        if facts.rows > 2 * facts.times:
            found.append("           a replay would send bursts that the recorder made: --trace-jitter uniform:quantum")
    for name, lengths in (("input", facts.input), ("output", facts.output)):
        found.append(
            f"{name:10} mean {lengths.mean:,.1f}   p50 {lengths.p50:,}   p90 {lengths.p90:,}   p99 {lengths.p99:,}   "
            f"max {lengths.max:,}   {lengths.total:,} tokens"
        )
    if facts.no_output:
        found.append(f"failed     {facts.no_output:,} rows without an answer's token")
    if facts.turns is not None:
        t = facts.turns
        torn = f"; {facts.torn:,} begin amid a conversation" if facts.torn else ""
        turns = f"{t.mean:.2f} turns (p50 {t.p50}, p90 {t.p90}, max {t.max})"
        found.append(f"sessions   {facts.sessions:,} of {turns}{torn}")
    for name, labels in (("classes", facts.classes), ("models", facts.models)):
        if labels:
            some = sorted(labels.items(), key=lambda item: -item[1])
            more = f", and {len(some) - MOST_LABELS} more" if len(some) > MOST_LABELS else ""
            found.append(f"{name:10} " + ", ".join(f"{label} {count:,}" for label, count in some[:MOST_LABELS]) + more)
    if facts.reuse is not None:
        found.append(
            f"reuse      {facts.reuse.share:.1%} of {facts.reuse.pieces:,} blocks, {facts.reuse.tokens_share:.1%} of "
            "their tokens, in a cache that never forgets"
        )
    return found
