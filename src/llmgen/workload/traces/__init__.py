"""Recorded request streams, one reader a format; each yields blocks of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llmgen.config import Trace
from llmgen.decoding import closest
from llmgen.errors import ConfigError
from llmgen.workload.traces import (
    azure,
    burstgpt,
    columns,
    detection,
    mooncake,
    neutral,
    qwen,
    ragpulse,
    requestlog,
    servegen,
    shaping,
)
from llmgen.workload.traces.options import UNITS, Options
from llmgen.workload.traces.rows import Labels, Pieces, TraceBlock, sort_by_time

__all__ = [
    "FORMATS",
    "Labels",
    "Pieces",
    "TraceBlock",
    "check",
    "format_of",
    "jitter_ns",
    "name_of",
    "read",
    "replayed",
]

SORT_BLOCK_ROWS: Final = 1 << 14
MAX_RATE_SCALE: Final = 10_000.0


@dataclass(frozen=True)
class Format:
    """A reader and what holds where the configuration says nothing."""

    read: Callable[[Path, Options], Iterator[TraceBlock]]
    about: str
    sorts: bool = False  # rows may come out of order
    drops_failed: bool = False  # rows without an answer's token are left out
    folder: bool = False
    rescales: bool = False  # draws at any rate by itself


FORMATS: Final[dict[str, Format]] = {
    "azure": Format(azure.read, "Azure LLM inference 2023 and 2024, CSV"),
    "mooncake": Format(mooncake.read, "Mooncake, JSON lines with blocks of 512 tokens"),
    "burstgpt": Format(burstgpt.read, "BurstGPT, CSV of 6 or 8 columns", drops_failed=True),
    "qwen": Format(qwen.read, "qwen-bailian, JSON lines with chats and blocks of 16 tokens"),
    "servegen": Format(servegen.read, "ServeGen, a folder of clients", folder=True, rescales=True),
    # Of its 7,106 rows one is earlier than the row before it.
    "ragpulse": Format(ragpulse.read, "RAGPulse, JSON lines with the prompts' components", sorts=True),
    "vidur": Format(columns.reader(columns.VIDUR), "vidur, CSV"),
    "splitwise": Format(columns.reader(columns.SPLITWISE), "splitwise-sim, CSV"),
    "columns": Format(columns.reader({}), "any CSV or JSON lines; columns: says what is what"),
    "log": Format(requestlog.read, "production requests, JSON lines {timestamp, path, body}"),
    "llmgen": Format(neutral.read, "what `llmgen trace convert` writes, JSON lines"),
}


def format_of(trace: Trace) -> Format:
    """The format that is named, or found out. ConfigError for an unknown name or file."""
    path = Path(trace.file).expanduser()
    known = FORMATS.get(trace.format)
    if known is None and trace.format != "auto":
        raise ConfigError(
            f"load.trace.format={trace.format!r}: unknown trace format; {closest(trace.format, ['auto', *FORMATS])}"
        )
    if not path.exists():
        raise ConfigError(f"load.trace.file={trace.file!r}: no such file")
    if known is not None and known.folder != path.is_dir():
        what = "a folder" if known.folder else "a file, not a folder"
        raise ConfigError(f"load.trace.file={trace.file!r}: a {trace.format} trace is {what}")
    if known is not None:
        return known
    name = detection.guess(path, mapped=bool(trace.columns))
    if name is None:
        raise ConfigError(
            f"load.trace.file={trace.file!r}: of no format that is known by its first line; name it with "
            f"load.trace.format (--trace-format): {', '.join(FORMATS)}"
        )
    return FORMATS[name]


def name_of(trace: Trace) -> str:
    """The format's name."""
    found = format_of(trace)
    return next(name for name, each in FORMATS.items() if each is found)


def check(trace: Trace) -> Format:
    """Refuses what cannot work, before anything is read but the first line. ConfigError."""
    shaping.parse_window(trace.window)
    shaping.parse_jitter(trace.jitter)
    if not 0 < trace.rate_scale <= MAX_RATE_SCALE:
        raise ConfigError(f"load.trace.rate_scale={trace.rate_scale:g}: must be above 0 and at most {MAX_RATE_SCALE:g}")
    for key, value, values in (
        ("order", trace.order, ("auto", "require", "sort")),
        ("zero_output", trace.zero_output, ("auto", "keep", "drop")),
        ("unit", trace.unit or "s", tuple(UNITS)),
        ("turns", trace.turns, ("after", "timed")),
    ):
        if value not in values:
            raise ConfigError(f"load.trace.{key}={value!r}: unknown; {closest(value, values)}")
    if trace.block_size is not None and trace.block_size < 1:
        raise ConfigError(f"load.trace.block_size={trace.block_size}: must be at least 1")
    return format_of(trace)


def read(trace: Trace, seed: int = 1) -> Iterator[TraceBlock]:
    """The rows as they were recorded, in order, failed ones by the policy. ConfigError for the first broken row."""
    found = check(trace)
    sorts = found.sorts if trace.order == "auto" else trace.order == "sort"
    drops = found.drops_failed if trace.zero_output == "auto" else trace.zero_output == "drop"
    from_ns, until_ns = shaping.parse_window(trace.window)
    options = Options(
        sorts=sorts,
        unit_ns=None if trace.unit is None else UNITS[trace.unit],
        block_size=trace.block_size,
        columns=trace.columns,
        seed=seed,
        rate_scale=trace.rate_scale,
        from_ns=from_ns,
        until_ns=until_ns,
    )
    blocks = found.read(Path(trace.file).expanduser(), options)
    if sorts:
        blocks = sort_by_time(blocks, SORT_BLOCK_ROWS)
    return shaping.without_failed(blocks) if drops else blocks


def jitter_ns(trace: Trace, seed: int) -> int:
    """How far rows of one time are spread, 0 if they are not; the recorder's tick needs a pass over the whole trace."""
    jitter = shaping.parse_jitter(trace.jitter)
    if isinstance(jitter, str):
        return shaping.quantum_ns(read(trace, seed))
    return jitter or 0


def replayed(trace: Trace, seed: int, jitter: int | None = None) -> Iterator[TraceBlock]:
    """The rows that are to be sent: read, cut to the window, spread, thinned or repeated, looped if asked for.

    `jitter` is `jitter_ns`, if it is known already.
    """
    found = check(trace)
    window = shaping.parse_window(trace.window)
    width = jitter_ns(trace, seed) if jitter is None else jitter

    def once() -> Iterator[TraceBlock]:
        blocks = read(trace, seed)
        if trace.window is not None:
            blocks = shaping.windowed(blocks, *window)
        if width:
            blocks = shaping.spread(blocks, width, seed)
        if trace.rate_scale != 1.0 and not found.rescales:
            blocks = shaping.rescaled(blocks, trace.rate_scale, seed)
        return blocks

    return shaping.looped(once) if trace.loop else once()
