"""BurstGPT traces (KDD'25): CSV, times in s of day one, columns found by name since there are two sets of them.

    Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type                              releases 1.x
    Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type      2.0

A row whose Response tokens are 0 failed; the format leaves those out unless `zero_output: keep` says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from llmgen.errors import ConfigError
from llmgen.workload.traces.columns import reader
from llmgen.workload.traces.lines import open_text
from llmgen.workload.traces.options import Options
from llmgen.workload.traces.rows import TraceBlock

COLUMNS: Final = {
    "time": "Timestamp",
    "input": "Request tokens",
    "output": "Response tokens",
    "class": "Log Type",
    "model": "Model",
}
MAX_HEADER_BYTES: Final = 4096


def read(path: Path, options: Options) -> Iterator[TraceBlock]:
    """Blocks of the trace in order, with the log type as class. ConfigError naming the first broken row."""
    with open_text(path) as file:
        try:
            header = file.readline(MAX_HEADER_BYTES)
        except (OSError, EOFError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from None
    columns = {**COLUMNS, "session": "Session ID"} if b"Session ID" in header else COLUMNS
    return reader(columns)(path, options)
