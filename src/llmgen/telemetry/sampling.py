"""Takes readings during a run: a thread a source in the controller's process, at equal times and at the window's edges.

The run never waits for a source: threads are daemons, a slow page costs its own readings, and at the end `stop` gives
the last scrape a bounded time.
"""

from __future__ import annotations

import ssl
import threading
import time
from pathlib import Path
from typing import Final, Protocol

from llmgen.config import RunConfig, redact_url
from llmgen.config import Telemetry as TelemetryConfig
from llmgen.credentials import resolve_value
from llmgen.decoding import wrong
from llmgen.logs import log
from llmgen.telemetry import store
from llmgen.telemetry.families import Rule, mapped
from llmgen.telemetry.gpu import LocalGpus
from llmgen.telemetry.prometheus import Endpoint, Reading, ScrapeError, parser

NS: Final = 1_000_000_000
MIN_EVERY_S: Final = 0.1  # servers gather their metrics with the interpreter lock or a mutex held: faster is load
PATIENCE_S: Final = 2.0  # for one page; what takes longer tells nothing about this moment
STOP_S: Final = 1.0  # after the load: so long may the last scrape take
GPU_EVERY_S: Final = 0.5

# Edges of a run, in their order; a scrape at each also takes the buckets of histograms.
START, WINDOW_START, WINDOW_END, END = "start", "window_start", "window_end", "end"


class Readable(Protocol):
    def read(self, *, buckets: bool, patience_s: float) -> Reading: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


# -- configuration ------------------------------------------------------------------------------------------------


def check(config: RunConfig) -> None:
    """Refuses telemetry that cannot work as configured: keys, packages, a GPU. Nothing is fetched."""
    for number, source in enumerate(config.telemetry):
        key = f"telemetry[{number}]"
        if not source.url.startswith(("http://", "https://")) or "@" in source.url.partition("?")[0]:
            raise wrong(f"{key}.url", redact_url(source.url), "write http://HOST:PORT/metrics, without a password")
        if source.every < MIN_EVERY_S:
            raise wrong(f"{key}.every", source.every, f"must be at least {MIN_EVERY_S:g} s; 500ms is usual")
        _headers(source, key)
        _rules(source, key)
    if config.telemetry:
        parser()
    if config.gpu not in (None, "local"):
        raise wrong(
            "gpu", config.gpu, "write local, the GPUs of this machine; of others: --telemetry URL of their exporter"
        )
    if config.gpu is not None:
        LocalGpus().close()


def _rules(source: TelemetryConfig, key: str) -> tuple[Rule, ...]:
    rules = []
    for series, text in source.map.items():
        try:
            rules.append(mapped(series, text))
        except ValueError as error:
            raise wrong(f"{key}.map.{series}", text, str(error)) from None
    return tuple(rules)


def _headers(source: TelemetryConfig, key: str) -> dict[str, str]:
    return {name: resolve_value(f"{key}.headers.{name}", value) for name, value in source.headers.items()}


def _context(config: RunConfig) -> ssl.SSLContext:
    """Pages over https are verified as the target is."""
    context = ssl.create_default_context(cafile=config.target.ca)
    if config.target.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


# -- sampling -----------------------------------------------------------------------------------------------------


class Sampler:
    """All sources of a run. Without any, every method does nothing."""

    def __init__(self, config: RunConfig, directory: Path) -> None:
        self._directory = directory
        self._threads: list[_Sampling] = []
        self._writer: store.Writer | None = None
        sources: list[tuple[str, float, Readable]] = []
        for number, one in enumerate(config.telemetry):
            key = f"telemetry[{number}]"
            tls = _context(config) if one.url.startswith("https:") else None
            endpoint = Endpoint(one.url, headers=_headers(one, key), mapping=_rules(one, key), tls=tls)
            sources.append((redact_url(one.url), one.every, endpoint))
        if config.gpu is not None:
            sources.append(("gpu:local", GPU_EVERY_S, LocalGpus()))
        if not sources:
            return
        self._writer = store.Writer(directory)
        for number, (url, every_s, source) in enumerate(sources):
            self._writer.source(number, url, every_s)
            self._threads.append(_Sampling(number, url, every_s, source, self._writer))

    def start(self, start_ns: int, window_start_ns: int, window_end_ns: int) -> None:
        """Begins to read. The edges are absolute; one that is never reached is no edge."""
        edges = {START: start_ns, WINDOW_START: window_start_ns, WINDOW_END: window_end_ns}
        for thread in self._threads:
            thread.begin(edges)

    def stop(self) -> None:
        """A last scrape of every source; returns after STOP_S at the latest."""
        until = time.monotonic() + STOP_S
        for thread in self._threads:
            thread.finish()
        for thread in self._threads:
            if thread.ident is None:
                thread.source.close()  # the run ended before its start
            else:
                thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                thread.source.abort()
        if self._writer is not None:
            self._writer.close()

    def finish(self) -> None:
        """After `stop`: the run directory's final file. OSError on a full disk."""
        if self._writer is not None:
            store.finish(self._directory)
            if self._writer.full is not None:
                raise self._writer.full


class _Sampling(threading.Thread):
    """Reads one source at start + k · every, at the edges, and once more at the end."""

    def __init__(self, number: int, url: str, every_s: float, source: Readable, writer: store.Writer) -> None:
        super().__init__(name=f"telemetry-{number}", daemon=True)
        self.source = source
        self._url = url
        self._number = number
        self._every_ns = round(every_s * NS)
        self._writer = writer
        self._edges: list[tuple[int, str]] = []
        self._over = threading.Event()
        self._ever = self._said = False

    def begin(self, edges: dict[str, int]) -> None:
        self._edges = sorted((t, name) for name, t in edges.items())
        self.start()

    def finish(self) -> None:
        self._over.set()

    def run(self) -> None:
        tick = time.monotonic_ns()
        try:
            while True:
                due, edges = self._next(tick)
                if self._over.wait(max(0.0, (due - time.monotonic_ns()) / NS)):
                    break
                self._scrape(edges, PATIENCE_S)
                if due >= tick:
                    # late ones are left out, not caught up: the source is slow enough
                    behind = time.monotonic_ns() - tick
                    tick += self._every_ns * max(1, -(-behind // self._every_ns))
            self._scrape([END], STOP_S)
        finally:
            self.source.close()

    def _next(self, tick: int) -> tuple[int, list[str]]:
        """When to read next, and which edges that is. An edge shortly after a tick stands for it."""
        if not self._edges or self._edges[0][0] > tick + self._every_ns // 4:
            return tick, []
        due = self._edges[0][0]
        edges = [name for t, name in self._edges if t == due]
        self._edges = self._edges[len(edges) :]
        return due, edges

    def _say(self, why: str) -> None:
        """Once, of a source that has told nothing yet: whoever misspelled its URL should not learn it after the run."""
        if not self._said:
            log.warning("telemetry: %s tells nothing: %s; the run goes on without it", self._url, why)
            self._said = True

    def _scrape(self, edges: list[str], patience_s: float) -> None:
        began = time.monotonic_ns()
        try:
            reading = self.source.read(buckets=bool(edges), patience_s=patience_s)
        except ScrapeError as error:
            now = time.monotonic_ns()
            self._writer.failure(self._number, (began + now) // 2, now - began, str(error)[:200])
            if not self._ever:
                self._say(str(error))
            return
        self._ever = True
        now = time.monotonic_ns()
        # the page shows a moment between request and answer
        self._writer.reading(self._number, (began + now) // 2, now - began, reading, edges)
