"""What a check found, and what to do about it."""

from __future__ import annotations

import enum
from typing import Any, Final

import msgspec

from llmgen.errors import ConfigError, LlmgenError, TargetError, WorkerError

CHECK_SCHEMA: Final = "llmgen.check/1"
CONFIGURATION, UNREACHABLE = ConfigError.exit_code, TargetError.exit_code
FIRST: Final = (CONFIGURATION, UNREACHABLE, WorkerError.exit_code)  # contract.md: the first that applies


class Level(enum.StrEnum):
    """ok: as it should be. warn: the run will work, but may not be believed. fail: the run would not work."""

    ok = "ok"
    warn = "warn"
    fail = "fail"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table. `data` holds what was measured, as numbers."""

    group: str
    name: str
    level: Level
    found: str
    cure: str | None = None
    exit_code: int = 0  # of a fail
    data: dict[str, Any] = {}


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All checks, in the order in which they are shown."""

    schema: str = CHECK_SCHEMA
    exit_code: int
    checks: tuple[Check, ...]


def report(checks: list[Check]) -> Report:
    codes = {check.exit_code for check in checks if check.level is Level.fail}
    return Report(exit_code=next((code for code in FIRST if code in codes), 0), checks=tuple(checks))


def ok(group: str, name: str, found: str, **data: Any) -> Check:
    return Check(group=group, name=name, level=Level.ok, found=found, data=data)


def warn(group: str, name: str, found: str, cure: str, **data: Any) -> Check:
    return Check(group=group, name=name, level=Level.warn, found=found, cure=cure, data=data)


def fail(group: str, name: str, found: str, cure: str | None, code: int, **data: Any) -> Check:
    return Check(group=group, name=name, level=Level.fail, found=found, cure=cure, exit_code=code, data=data)


def failed(group: str, name: str, error: LlmgenError, **data: Any) -> Check:
    """An error of ours, "url: what; cure", as a line of the table."""
    text = str(error)
    found, _, cure = text.partition("; ")
    head, colon, rest = found.partition(": ")
    if (colon and "://" in head) or head.startswith(("unix:", "target.")):
        found = rest
    return fail(group, name, found, cure or None, error.exit_code, **data)


def milliseconds(seconds: float) -> str:
    """Three digits, as a table shows a time."""
    return f"{seconds * 1000:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"
