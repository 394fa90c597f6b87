"""Text files of one row a line, plain or gzip, in blocks of whole lines and bounded size."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from llmgen.errors import ConfigError
from llmgen.workload.traces.rows import Place

READ_BYTES: Final = 1 << 20  # thousands of rows: enough to be fast, a few MB when decoded
MAX_LINE_BYTES: Final = 64 << 20  # a logged request with a long document; beyond it, this is no file of rows


def open_text(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked if its name ends in .gz. ConfigError if it cannot be read."""
    try:
        return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def whole_lines(place: Place, file: IO[bytes], most: int = MAX_LINE_BYTES) -> Iterator[list[bytes]]:
    """Blocks of lines without their ends; blank lines at the file's end are left out, others are rows (of nothing)."""
    held = b""
    row, blank = place.rows, 0
    try:
        while data := file.read(READ_BYTES):
            held += data
            *lines, held = held.split(b"\n")
            if len(held) > most:
                place.refuse(row + len(lines) + 1, held, f"longer than {most} bytes")
            if b"\r" in data or any(line.endswith(b"\r") for line in lines[:1]):  # the first began in the data before
                lines = [line.removesuffix(b"\r") for line in lines]
            lines = [b""] * blank + lines
            blank = 0
            while lines and not lines[-1].strip():
                lines.pop()
                blank += 1
            if lines:
                row += len(lines)
                yield lines
    except (OSError, EOFError) as error:  # a damaged gzip file, a disk that fails
        raise ConfigError(f"{place.path}: cannot be read behind row {row}: {error}") from None
    if held.strip():
        yield [b""] * blank + [held.removesuffix(b"\r")]
