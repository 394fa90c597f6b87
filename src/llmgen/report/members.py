"""The runs in a suite's directory (a matrix, --repeat, a search, a test), as tables and comparisons take them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from llmgen.errors import RecordError
from llmgen.matrix import label_of

FILE: Final = "suite.json"


class _Cell(msgspec.Struct):
    levels: dict[str, str] = {}


class _Run(msgspec.Struct):
    number: int = 0
    cell: int = 0
    repeat: int = 0
    label: str = ""
    state: str = ""
    directory: str | None = None


class _Suite(msgspec.Struct):
    cells: list[_Cell] = []
    runs: list[_Run] = []


@dataclass(frozen=True)
class Member:
    """A complete run of a suite. label: its cell's levels, or what a series ran it for; repeat: from 0, of that."""

    path: Path
    number: int
    cell: int
    repeat: int
    label: str


def is_suite(path: Path) -> bool:
    return path.is_dir() and not (path / "run.json").exists() and (path / FILE).exists()


def members(directory: Path) -> tuple[list[Member], int]:
    """The complete runs in their turn, and how many there are that are not. RecordError for a suite without any."""
    try:
        suite = msgspec.json.decode((directory / FILE).read_bytes(), type=_Suite)
    except (OSError, ValueError) as error:  # msgspec.DecodeError and UnicodeDecodeError are ValueErrors
        raise RecordError(f"{directory}/{FILE}: unreadable ({error})") from None
    found: list[Member] = []
    seen: Counter[str] = Counter()
    for one in sorted(suite.runs, key=lambda one: one.number):
        name = one.directory or ""
        if one.state != "complete" or Path(name).name != name or not (directory / name / "run.json").exists():
            continue
        label = one.label or label_of(suite.cells[one.cell].levels if 0 <= one.cell < len(suite.cells) else {})
        repeat = seen[label] if one.label else one.repeat
        seen[label] += 1
        found.append(Member(directory / name, one.number, one.cell, repeat, label))
    if not found:
        raise RecordError(f"{directory}: a suite without a complete run")
    return found, len(suite.runs) - len(found)
