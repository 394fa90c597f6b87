"""Recorded request streams, one reader a format; each yields blocks of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from llmgen.errors import ConfigError
from llmgen.workload.traces import azure
from llmgen.workload.traces.rows import TraceBlock

__all__ = ["READERS", "TraceBlock", "read"]

Reader = Callable[[Path], Iterator[TraceBlock]]

READERS: Final[dict[str, Reader]] = {"azure": azure.read}


def read(file: str, trace_format: str) -> Iterator[TraceBlock]:
    """Blocks of the trace. ConfigError for an unknown format, a missing file, or the first broken row, by number."""
    reader = READERS.get(trace_format)
    if reader is None:
        raise ConfigError(f"load.trace.format={trace_format!r}: unknown trace format; use one of {', '.join(READERS)}")
    path = Path(file).expanduser()
    if not path.is_file():
        raise ConfigError(f"load.trace.file={file!r}: no such file")
    return reader(path)
