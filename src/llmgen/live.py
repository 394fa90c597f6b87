"""The live view of a run: what is offered, what comes back, how the client keeps up. It reads counters only."""

from __future__ import annotations

import mmap
import sys
import time
from collections import deque
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from llmgen.columns import HISTOGRAM_BUCKETS, NOT_FAILED, Histogram, Status
from llmgen.metrics.statistics import bucket_middles_ns

WINDOW_S: Final = 5.0  # rates and percentiles are of the last seconds
PLAIN_EVERY_S: Final = 5.0  # between lines when the output is no terminal
REFRESH_S: Final = 0.25


class Snapshot:
    """Counters of all workers at one time."""

    def __init__(self, counters: np.ndarray, histograms: np.ndarray | None) -> None:
        self.t = time.monotonic()
        self.dispatched, self.sent, self.ended, self.tokens, self.events, self.in_flight, self.waiting = (
            int(counters[name].sum())
            for name in ("dispatched", "sent", "ended", "tokens", "events", "in_flight", "waiting")
        )
        self.connections = int(counters["connections"].sum())
        self.cpu_ns = int(counters["cpu_ns"].sum())
        self.by_status = counters["by_status"].sum(axis=0)
        self.histograms = histograms  # (metrics, buckets), cumulative


class LiveHistograms:
    """The workers' histograms as they are written, mapped once; a worker that has none yet is left out."""

    def __init__(self, directory: Path, workers: int, classes: int) -> None:
        self.workers = workers
        self._directory = directory
        self._classes = classes
        self._maps: dict[int, np.ndarray] = {}
        self._middles_s = bucket_middles_ns() / 1e9

    def read(self) -> np.ndarray | None:
        """Counts of all workers and classes so far, int64 (metrics, buckets); None before there are any."""
        total: np.ndarray | None = None
        for number in range(self.workers):
            mapped = self._maps.get(number)
            if mapped is None:
                try:
                    with (self._directory / f"worker-{number}" / "histograms.live").open("rb") as file:
                        content = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
                except (OSError, ValueError):
                    continue
                shape = (2 * self._classes, len(Histogram), HISTOGRAM_BUCKETS)
                mapped = self._maps[number] = np.frombuffer(content, "<u4").reshape(shape)
            counts = mapped.sum(axis=0, dtype=np.int64)
            total = counts if total is None else total + counts
        return total

    def total_s(self, counts: np.ndarray) -> float:
        """Sum of the values in seconds, each as its bucket's middle."""
        return float(counts @ self._middles_s)


class LiveView:
    """Draws on a terminal, or writes a plain line now and then. Every method returns at once."""

    def __init__(self, histograms: LiveHistograms, title: str, duration_s: float | None) -> None:
        self._workers = histograms.workers
        self._histograms = histograms
        self._title = title
        self._duration_s = duration_s
        self._started: float | None = None
        self._history: deque[Snapshot] = deque()
        self._console = Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._last_draw = 0.0
        self._middles = bucket_middles_ns()

    def start(self) -> None:
        self._started = time.monotonic()
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()

    def stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(self, counters: np.ndarray, planned: int | None, note: str = "") -> None:
        """Shows the state; draws no more often than is of use."""
        now = time.monotonic()
        if now - self._last_draw < (REFRESH_S if self._live is not None else PLAIN_EVERY_S):
            return
        self._last_draw = now
        self._history.append(Snapshot(counters, self._histograms.read()))
        while len(self._history) > 2 and now - self._history[1].t >= WINDOW_S:
            self._history.popleft()
        try:
            if self._live is not None:
                self._live.update(self._picture(planned, note), refresh=True)
            else:
                sys.stderr.write(self._line(planned) + "\n")
                sys.stderr.flush()
        except OSError:
            self.stop()  # the terminal is gone; the run is not

    # -- figures ---------------------------------------------------------------------------------------------------

    def _percentiles_ms(self, metric: Histogram, probabilities: tuple[float, ...]) -> list[float] | None:
        newest, oldest = self._history[-1].histograms, self._history[0].histograms
        if newest is None:
            return None
        counts = newest[metric] - (oldest[metric] if oldest is not None and len(self._history) > 1 else 0)
        total = counts.sum()
        if total <= 0:
            return None
        upto = np.cumsum(counts)
        return [float(self._middles[np.searchsorted(upto, p * total)]) / 1e6 for p in probabilities]

    def _rate(self, name: str) -> float:
        first, last = self._history[0], self._history[-1]
        passed = last.t - first.t
        return (getattr(last, name) - getattr(first, name)) / passed if passed > 0 else 0.0

    def _errors(self) -> str:
        counts = self._history[-1].by_status
        failed = [
            (Status(i).name, int(n)) for i, n in enumerate(counts) if n and i < 27 and Status(i) not in NOT_FAILED
        ]
        if not failed:
            return "none"
        failed.sort(key=lambda item: -item[1])
        return "  ".join(f"{name} {count:,}" for name, count in failed[:5])

    def _elapsed(self) -> float:
        return time.monotonic() - (self._started or time.monotonic())

    # -- pictures --------------------------------------------------------------------------------------------------

    def _picture(self, planned: int | None, note: str) -> Group:
        last = self._history[-1]
        elapsed = self._elapsed()
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", width=14)
        table.add_column()
        ok = int(last.by_status[Status.ok])
        table.add_row("offered", f"{self._rate('dispatched'):,.1f}/s   {last.dispatched:,} so far")
        table.add_row("sent", f"{self._rate('sent'):,.1f}/s   waiting for a connection: {last.waiting:,}")
        table.add_row("in flight", f"{last.in_flight:,} on {last.connections:,} connections")
        table.add_row("answered", f"{self._rate('ended'):,.1f}/s   ok {ok:,}")
        table.add_row("tokens", f"{self._rate('tokens'):,.0f} events/s")
        table.add_row("TTFT", self._percentile_text(Histogram.ttft))
        table.add_row("ITL", self._percentile_text(Histogram.itl))
        table.add_row("errors", Text(self._errors(), style="red" if self._errors() != "none" else ""))
        cpu = self._rate("cpu_ns") / 1e7 / max(1, self._workers)
        table.add_row("schedule lag", f"{self._percentile_text(Histogram.lag)}   worker CPU {cpu:.0f} %")
        parts: list[Text | Table] = [Text(self._title, style="bold", overflow="ellipsis", no_wrap=True)]
        if self._duration_s:
            left = max(0.0, self._duration_s - elapsed)
            state = note or (f"{left:.0f} s left" if left else "draining")
            parts.append(Text(f"{elapsed:.0f} s of {self._duration_s:.0f} s, {state}"))
            bar = Table.grid()  # a bar alone ends no line
            bar.add_row(ProgressBar(total=self._duration_s, completed=min(elapsed, self._duration_s), width=76))
            parts.append(bar)
        else:
            of = f" of {planned:,}" if planned else ""
            parts.append(Text(f"{elapsed:.0f} s, {last.dispatched:,}{of} requests{', ' + note if note else ''}"))
        return Group(*parts, table)

    def _percentile_text(self, metric: Histogram) -> str:
        found = self._percentiles_ms(metric, (0.5, 0.95, 0.99))
        if found is None:
            return "-"
        return "   ".join(f"{name} {_ms(value)}" for name, value in zip(("p50", "p95", "p99"), found, strict=True))

    def _line(self, planned: int | None) -> str:
        last = self._history[-1]
        ttft = self._percentiles_ms(Histogram.ttft, (0.5, 0.95))
        shown = f"  TTFT p50 {_ms(ttft[0])} p95 {_ms(ttft[1])}" if ttft else ""
        errors = self._errors()
        return (
            f"{self._elapsed():6.0f} s  offered {last.dispatched:,}  in flight {last.in_flight:,}  "
            f"ok {int(last.by_status[Status.ok]):,}  {self._rate('tokens'):,.0f} events/s{shown}"
            + ("" if errors == "none" else f"  errors: {errors}")
        )


def _ms(value: float) -> str:
    return f"{value:.3f} ms" if value < 1 else f"{value:.1f} ms" if value < 100 else f"{value:,.0f} ms"
