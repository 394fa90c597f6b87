"""A metrics page: fetched with bounded patience, parsed with prometheus_client's parser, put into llmgen's series.

A page of a busy server has a thousand lines of which a few dozen matter, and the parser takes some 20 µs for each. So
it sees each series once: what a line's name and labels mean is remembered, and the next page costs a look-up a line.
"""

from __future__ import annotations

import contextlib
import http.client
import math
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from llmgen.errors import ConfigError
from llmgen.telemetry.families import EXPORTERS, GPU_LABELS, MAPPED, RANK_LABELS, RULES, SERIES, Over, Rule, is_blank

MAX_PAGE_BYTES: Final = 32 << 20  # no exporter's page is that long: something else answers there
MAX_KNOWN: Final = 200_000  # lines remembered; a page whose labels change with every request must not fill the memory
INSTALL: Final = "pip install 'llmgen[telemetry]'"


class ScrapeError(Exception):
    """Why a source could not be read this time, in a few words. Never ends a run."""


@dataclass(slots=True)
class Reading:
    """What a source said at one time.

    values: by key: a series ("running"), a part of a histogram ("ttft.sum", "ttft.count"), each with the GPU in
    brackets where the page tells them apart ("gpu_util[0]"). What the page does not have is not there.
    buckets: of histograms, upper bound → cumulative count.
    """

    values: dict[str, float] = field(default_factory=dict)
    buckets: dict[str, dict[float, float]] = field(default_factory=dict)
    family: str | None = None


@dataclass(frozen=True, slots=True)
class _Use:
    """What one line is good for. bound: of a bucket. priority: label of SGLang's, None without it."""

    rule: int
    key: str
    group: tuple[tuple[str, str], ...]
    priority: str | None
    bound: float | None


class Page:
    """Reads the pages of one endpoint."""

    def __init__(self, mapping: Iterable[Rule] = ()) -> None:
        self._rules = (*mapping, *RULES)
        self._by_name: dict[str, list[tuple[int, str]]] = {}  # sample name → (rule, part of a histogram)
        for number, rule in enumerate(self._rules):
            for name, part in _sample_names(rule):
                self._by_name.setdefault(name, []).append((number, part))
        self._known: dict[str, tuple[_Use, ...]] = {}

    def read(self, text: str, *, buckets: bool = False) -> Reading:
        """The series on a page; those of buckets only if asked for."""
        known, found, new = self._known, [], []
        for line in text.split("\n"):  # not splitlines: labels may hold its other line ends
            if not line or line[0] == "#" or (not buckets and "_bucket{" in line):
                continue
            head, _, last = line.rpartition(" ")
            uses = known.get(head)
            if uses is None:
                new.append(line)
            elif uses:
                found.append((uses, _number(last)))
        if new:
            found += self._learn(new, [line for line in text.split("\n") if line.startswith("# TYPE ")])
        return self._reduce(found, buckets)

    def _learn(self, lines: list[str], types: list[str]) -> list[tuple[tuple[_Use, ...], float]]:
        """Parses lines that were not there before; remembers what each is for."""
        if len(self._known) > MAX_KNOWN:
            self._known.clear()
        parse = parser()
        wanted = []
        for line in lines:
            name = line.partition("{")[0].partition(" ")[0]
            if self._is_wanted(name):
                wanted.append(line)
            else:
                self._known[line.rpartition(" ")[0]] = ()
        found = []
        # one by one, so that a broken line costs itself only, and each is remembered by its own text
        told = {line.split()[2]: line for line in types if len(line.split()) == 4}
        for line in wanted:
            name = line.partition("{")[0].partition(" ")[0]
            header = told.get(name) or next((told[base] for base in _bases(name) if base in told), "")
            try:
                samples = [s for family in parse(f"{header}\n{line}\n") for s in family.samples]
            except ValueError:
                continue
            for sample in samples:
                uses = tuple(self._uses(sample.name, sample.labels))
                if sample.timestamp is None:
                    self._known[line.rpartition(" ")[0]] = uses
                if uses:
                    found.append((uses, float(sample.value)))
        return found

    def _is_wanted(self, name: str) -> bool:
        return name in self._by_name or f"{name}_total" in self._by_name

    def _uses(self, name: str, labels: Mapping[str, str]) -> Iterable[_Use]:
        for number, part in self._by_name.get(name, ()):
            rule = self._rules[number]
            if any(labels.get(label) != value for label, value in rule.labels.items()):
                continue
            base, _, own_part = rule.series.partition(".")
            gpu = next((labels[label] for label in GPU_LABELS if label in labels), None)
            inside = f"[{gpu}]" if base.startswith("gpu_") and gpu is not None else ""
            key = base + (f".{own_part or part}" if own_part or part else "") + inside
            bound = float(labels.get("le", "nan")) if part == "bucket" else None
            apart = {"le", "priority"} | RANK_LABELS
            group = tuple(sorted((label, value) for label, value in labels.items() if label not in apart))
            yield _Use(number, key, group, labels.get("priority"), bound)

    def _reduce(self, found: list[tuple[tuple[_Use, ...], float]], buckets: bool) -> Reading:
        """One value a key: the largest over ranks, then as the series says over the other labels."""
        rows: dict[tuple[str, float | None], dict[int, _Samples]] = {}
        for uses, value in found:
            if not math.isfinite(value):
                continue
            for use in uses:
                if use.bound is not None and not buckets:
                    continue
                if self._rules[use.rule].family == "dcgm" and is_blank(value):
                    continue
                by_rule = rows.setdefault((use.key, use.bound), {})
                samples = by_rule.get(use.rule)
                if samples is None:
                    samples = by_rule[use.rule] = _Samples()
                samples.add(use, value)
        reading = Reading()
        used: set[int] = set()
        for (key, bound), by_rule in rows.items():
            number = min(by_rule)
            rule = self._rules[number]
            value = by_rule[number].combined(SERIES[key.partition(".")[0].partition("[")[0]].over)
            used.add(number)
            if bound is None:
                reading.values[key] = value * (1.0 if key.endswith(".count") else rule.scale)
            else:
                base = key.removesuffix(".bucket")
                reading.buckets.setdefault(base, {})[bound * rule.scale if math.isfinite(bound) else bound] = value
        for name, steps in reading.buckets.items():
            reading.buckets[name] = dict(sorted(steps.items()))
        named = [self._rules[number].family for number in sorted(used)]
        reading.family = next((name for name in named if name not in (MAPPED, "process")), named[0] if named else None)
        if reading.family in EXPORTERS:
            for key in ("cpu_time", "rss"):
                reading.values.pop(key, None)
        return reading


class _Samples:
    """Samples of one metric for one key."""

    __slots__ = ("parts", "whole")

    def __init__(self) -> None:
        self.whole: dict[tuple[tuple[str, str], ...], float] = {}
        self.parts: dict[tuple[tuple[tuple[str, str], ...], str], float] = {}

    def add(self, use: _Use, value: float) -> None:
        if use.priority:
            at = (use.group, use.priority)
            self.parts[at] = max(self.parts.get(at, value), value)
        else:
            self.whole[use.group] = max(self.whole.get(use.group, value), value)

    def combined(self, over: Over) -> float:
        # SGLang repeats under priority="" what it tells by priority: the parts count only where there is no whole
        values = list((self.whole or self.parts).values())
        if over == "sum":
            return math.fsum(values)
        if over == "mean":
            return math.fsum(values) / len(values)
        return max(values) if over == "max" else min(values)


def _sample_names(rule: Rule) -> Iterable[tuple[str, str]]:
    """Names of the samples that a rule reads, and which part of a histogram each is."""
    base, _, part = rule.series.partition(".")
    if SERIES[base].kind == "histogram" and not part:
        yield from ((f"{rule.metric}_{name}", name) for name in ("sum", "count", "bucket"))
        return
    yield rule.metric, ""
    yield f"{rule.metric}_total", ""


def _bases(name: str) -> Iterable[str]:
    """Names under which a sample's TYPE may stand."""
    for suffix in ("_bucket", "_sum", "_count", "_total"):
        if name.endswith(suffix):
            yield name.removesuffix(suffix)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def parser() -> Callable[[str], Iterable[Any]]:
    """prometheus_client's parser. ConfigError without the package."""
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError:
        raise ConfigError(f"telemetry: reading metrics pages needs prometheus-client; {INSTALL}") from None
    return text_string_to_metric_families


# -- fetching -----------------------------------------------------------------------------------------------------


class Endpoint:
    """One metrics page behind a URL; the connection is kept. Every wait is bounded."""

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        mapping: Iterable[Rule] = (),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(url)
        self._secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._secure else 80)
        self._path = (parts.path or "/metrics") + (f"?{parts.query}" if parts.query else "")
        # uncompressed: a page is small, and inflating it costs more than moving it
        self._headers = {"accept": "text/plain;version=0.0.4", "accept-encoding": "identity", "user-agent": "llmgen"}
        self._headers.update(headers or {})
        self._tls = tls
        self._page = Page(mapping)
        self._connection: http.client.HTTPConnection | None = None

    def read(self, *, buckets: bool, patience_s: float) -> Reading:
        """Raises ScrapeError."""
        reading = self._page.read(self._fetch(time.monotonic() + patience_s), buckets=buckets)
        if not reading.values:
            raise ScrapeError("nothing on this page is known; map its metrics")
        return reading

    def _fetch(self, until: float) -> str:
        fresh = self._connection is None
        try:
            return self._once(until)
        except (OSError, http.client.HTTPException, ScrapeError) as error:
            self.close()
            # a kept connection may have been closed meanwhile
            if fresh or isinstance(error, (ScrapeError, TimeoutError)):
                raise _as_scrape_error(error) from None
        try:
            return self._once(until)
        except (OSError, http.client.HTTPException, ScrapeError) as error:
            self.close()
            raise _as_scrape_error(error) from None

    def _once(self, until: float) -> str:
        if self._connection is None:
            self._connection = self._connect(_left(until))
        connection = self._connection
        if connection.sock is not None:
            connection.sock.settimeout(_left(until))
        connection.request("GET", self._path, headers=self._headers)
        # a server that closes after the answer takes the socket away from the connection, not from the answer
        sock = connection.sock
        answer = connection.getresponse()
        pieces, size = [], 0
        while True:
            _wait_at_most(sock, until)
            piece = answer.read1(1 << 18)
            if not piece:
                break
            pieces.append(piece)
            size += len(piece)
            if size > MAX_PAGE_BYTES:
                raise ScrapeError(f"a page of more than {MAX_PAGE_BYTES >> 20} MiB")
        answer.close()  # read1 does not notice the end by itself, and the connection would not take another request
        if answer.status != 200:
            raise ScrapeError(f"HTTP {answer.status}")
        return b"".join(pieces).decode("utf-8", "replace")

    def _connect(self, seconds: float) -> http.client.HTTPConnection:
        if self._secure:
            context = self._tls or ssl.create_default_context()
            return http.client.HTTPSConnection(self._host, self._port, timeout=seconds, context=context)
        return http.client.HTTPConnection(self._host, self._port, timeout=seconds)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def abort(self) -> None:
        """From another thread: whatever `read` waits for fails now."""
        connection = self._connection
        sock = None if connection is None else connection.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _wait_at_most(sock: socket.socket | None, until: float) -> None:
    left = _left(until)
    if sock is not None and sock.fileno() >= 0:
        sock.settimeout(left)


def _as_scrape_error(error: Exception) -> ScrapeError:
    if isinstance(error, ScrapeError):
        return error
    if isinstance(error, TimeoutError):
        return ScrapeError("no answer in time")
    if isinstance(error, OSError):
        return ScrapeError(error.strerror or str(error) or type(error).__name__)
    return ScrapeError(f"no HTTP answer ({type(error).__name__})")
