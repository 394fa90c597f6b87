"""ServeGen (arXiv 2505.09999): a folder of clients, each described by windows of its rate and tables of its lengths.

    chunk-3-trace.csv     no header: timestamp_s, rate (requests/s), cv, Gamma | Weibull | empty, parameter, scale
    chunk-3-dataset.json  {"0": {"input_tokens": "{128: 0.25, 300: 0.75}", "output_tokens": "{…}"}, "21600": …}

Nothing here is a log: requests are drawn. In each window of 600 s a client sends rate × 600 requests, rounded up, whose
gaps come from its distribution and are scaled to fill the window exactly (as the paper's own generator does); lengths
come from the tables of the 21,600 s that the window lies in. The tables are Python literals and are read as such, never
evaluated. Classes are the clients (client-3), so that a mix may treat them apart.
"""

from __future__ import annotations

import ast
import csv
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from llmgen.draws import generator
from llmgen.errors import ConfigError
from llmgen.workload.traces.options import Options
from llmgen.workload.traces.rows import MAX_TOKENS, NS, Ints, Labels, TraceBlock

EXPECTED: Final = "timestamp_s,rate,cv,Gamma|Weibull|,parameter,scale"
WINDOW_S: Final = 600.0  # of every published trace
_NAME: Final = re.compile(r"chunk-(\d+)-trace\.csv")
INPUT_FIELDS: Final = ("input_tokens", "text_tokens")  # language and reasoning models; multimodal ones
MAX_WINDOW_REQUESTS: Final = 5_000_000  # a window is drawn at once: 8,000 requests/s of one client, 200 MB
MAX_DEPTH: Final = 1 << 26  # bytes of one table: ast would need gigabytes for more


@dataclass(frozen=True)
class Window:
    """A client's arrivals from `start_s` on."""

    start_s: float
    rate: float
    pattern: str  # Gamma | Weibull
    shape: float


@dataclass(frozen=True)
class Table:
    """A distribution of lengths: values and the probability up to each."""

    values: Ints
    upto: NDArray[np.float64]

    def draw(self, chance: NDArray[np.float64]) -> Ints:
        return self.values[np.minimum(np.searchsorted(self.upto, chance, side="right"), len(self.values) - 1)]


@dataclass(frozen=True)
class Client:
    """One chunk of the folder."""

    number: int
    windows: tuple[Window, ...]
    starts_s: tuple[float, ...]  # of the tables
    tables: tuple[tuple[Table, Table], ...]  # (input, output)

    def tables_at(self, time_s: float) -> tuple[Table, Table]:
        before = [number for number, start in enumerate(self.starts_s) if start <= time_s]
        return self.tables[before[-1] if before else 0]


def read(path: Path, options: Options) -> Iterator[TraceBlock]:
    """Blocks of one window each, all clients merged. ConfigError naming the file and row that is broken."""
    clients = [_client(path, number) for number in _numbers(path)]
    starts = sorted({window.start_s for client in clients for window in client.windows})
    if not starts:
        raise ConfigError(f"{path}: no client is ever active")
    first_s = starts[0]
    names = [f"client-{client.number}" for client in clients]
    for start_s in starts:
        begin_ns = round((start_s - first_s) * NS)
        if options.until_ns is not None and begin_ns >= options.until_ns:
            return
        if begin_ns + round(WINDOW_S * NS) <= options.from_ns:
            continue
        block = _window(clients, start_s, options)
        if block is not None:
            t_ns, lengths, outputs, codes = block
            yield TraceBlock(t_ns + begin_ns, lengths, outputs, klass=Labels(codes, names))


def _window(clients: list[Client], start_s: float, options: Options) -> tuple[Ints, Ints, Ints, Ints] | None:
    parts: list[tuple[Ints, Ints, Ints, Ints]] = []
    for code, client in enumerate(clients):
        for window in client.windows:
            if window.start_s == start_s:
                parts.append(_requests(client, window, code, options))
    if not parts:
        return None
    t_ns, lengths, outputs, codes = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(t_ns, kind="stable")
    return t_ns[order], lengths[order], outputs[order], codes[order]


def _requests(client: Client, window: Window, code: int, options: Options) -> tuple[Ints, Ints, Ints, Ints]:
    """Times in the window (ns), inputs, outputs and codes of one client's requests."""
    count = math.ceil(window.rate * options.rate_scale * WINDOW_S)
    random = generator(options.seed, f"servegen {client.number} {window.start_s:g}", 0)
    if window.pattern == "Gamma":
        gaps = random.standard_gamma(window.shape, count)
    else:
        gaps = random.weibull(window.shape, count)
    upto = np.cumsum(gaps)
    # All gaps may underflow to 0 at the smallest shapes: then the requests come at once.
    share = upto / upto[-1] if upto[-1] > 0 else np.zeros(count)
    # The last would fall on the next window's start, as its first may.
    t_ns = np.minimum(np.rint(share * WINDOW_S * NS), WINDOW_S * NS - 1).astype(np.int64)
    inputs, outputs = client.tables_at(window.start_s)
    return t_ns, inputs.draw(random.random(count)), outputs.draw(random.random(count)), np.full(count, code)


def _numbers(path: Path) -> list[int]:
    if not path.is_dir():
        raise ConfigError(f"{path}: a ServeGen workload is a folder of chunk-N-trace.csv and chunk-N-dataset.json")
    found = [int(match[1]) for match in map(_NAME.fullmatch, sorted(p.name for p in path.iterdir())) if match]
    if not found:
        raise ConfigError(f"{path}: holds no chunk-N-trace.csv; name the folder of one model of the workload")
    return sorted(found)


def _client(folder: Path, number: int) -> Client:
    windows = tuple(_windows(folder / f"chunk-{number}-trace.csv"))
    tables = _tables(folder / f"chunk-{number}-dataset.json") if windows else []
    return Client(number, windows, tuple(start for start, _ in tables), tuple(pair for _, pair in tables))


def _windows(path: Path) -> Iterator[Window]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    for row, line in enumerate(text.splitlines(), 1):
        fields = next(csv.reader([line]), [])
        why = ""
        try:
            if len(fields) < 4:
                raise ValueError(f"{len(fields)} columns instead of 6")
            start_s, rate, pattern = float(fields[0]), float(fields[1]), fields[3].strip()
            if not (math.isfinite(start_s) and math.isfinite(rate) and 0 <= rate * WINDOW_S <= MAX_WINDOW_REQUESTS):
                raise ValueError("time or rate out of range")
            if pattern not in ("Gamma", "Weibull", ""):
                raise ValueError(f"unknown pattern {pattern[:20]!r}")
            if not pattern or rate == 0:
                continue
            shape = float(fields[4])
            if not 1e-4 <= shape <= 1e4:
                raise ValueError("the distribution's shape is out of range")
        except (ValueError, IndexError) as error:
            why = str(error)
        if why:
            raise ConfigError(f"{path}: row {row} is {line[:80]!r}: {why}; expected {EXPECTED}")
        yield Window(start_s, rate, pattern, shape)


def _tables(path: Path) -> list[tuple[float, tuple[Table, Table]]]:
    try:
        text = path.read_text(encoding="utf-8")
        tree = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    found = []
    for start, fields in tree.items() if isinstance(tree, dict) else ():
        name = next((name for name in INPUT_FIELDS if isinstance(fields, dict) and name in fields), None)
        try:
            if name is None:
                raise ValueError("names no input_tokens")
            pair = (_table(fields[name]), _table(fields.get("output_tokens")))
            if pair[0] is not None and pair[1] is not None:
                found.append((float(start), (pair[0], pair[1])))
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
            raise ConfigError(
                f"{path}: the window {str(start)[:40]!r}: {error}; expected "
                '{"input_tokens": "{tokens: probability, …}", "output_tokens": "{…}"}'
            ) from None
    if not found:
        raise ConfigError(f"{path}: no window has lengths")
    return sorted(found, key=lambda item: item[0])


def _table(text: Any) -> Table | None:
    """None for an empty table: the client was not active in that window."""
    literal = ast.literal_eval(text) if isinstance(text, str) and len(text) < MAX_DEPTH else text
    if not isinstance(literal, dict):
        raise ValueError("lengths are no table of tokens and probabilities")
    if not literal:
        return None
    values = np.array([float(value) for value in literal], np.float64)
    chances = np.array([float(chance) for chance in literal.values()], np.float64)
    if not (np.all(np.isfinite(values)) and np.all(values >= 0) and np.all(values <= MAX_TOKENS)):
        raise ValueError(f"a length is not from 0 to {MAX_TOKENS}")
    if not (np.all(np.isfinite(chances)) and np.all(chances >= 0) and chances.sum() > 0):
        raise ValueError("probabilities must be 0 or above, and not all 0")
    upto = np.cumsum(chances)
    return Table(np.rint(values).astype(np.int64), upto / upto[-1])
