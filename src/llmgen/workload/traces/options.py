"""What a reader is told beyond the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

UNITS: Final[Mapping[str, int]] = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}  # in ns


@dataclass(frozen=True)
class Options:
    """Where a format leaves something open; None is what the format says."""

    sorts: bool = False  # rows may come in any order, they are sorted afterwards
    unit_ns: int | None = None
    block_size: int | None = None
    columns: Mapping[str, str] = field(default_factory=dict)  # of generic files: our name → theirs
    # Of formats that are drawn rather than read (ServeGen):
    seed: int = 1
    rate_scale: float = 1.0
    from_ns: int = 0  # nothing before this is wanted
    until_ns: int | None = None
