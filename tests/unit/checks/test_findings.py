"""From findings to an exit code, a table and JSON."""

from __future__ import annotations

import msgspec
import pytest

from llmgen.checks.findings import Check, Level, fail, failed, ok, report, warn
from llmgen.checks.table import render
from llmgen.errors import ConfigError, TargetError, WorkerError

FINE = ok("g", "fine", "5 ms", seconds=0.005)
ODD = warn("g", "odd", "late", "do this")


def test_the_exit_code_is_the_first_that_applies() -> None:
    unreachable = fail("h", "connect", "refused", None, 5)
    limits = fail("h", "ports", "none", "more", 2)
    assert report([FINE, ODD]).exit_code == 0
    assert report([FINE, unreachable]).exit_code == 5
    assert report([unreachable, limits]).exit_code == 2
    assert report([failed("g", "warm", WorkerError("worker 0 died")), unreachable]).exit_code == 5


@pytest.mark.parametrize(
    ("error", "found", "cure", "code"),
    [
        (TargetError("http://h: connection refused; is it up?"), "connection refused", "is it up?", 5),
        (TargetError("unix:/s: no such socket; is it up?"), "no such socket", "is it up?", 5),
        (TargetError("target.urls='http://h': the name 'h': no; spell"), "the name 'h': no", "spell", 5),
        (ConfigError("http://h: refuses the credentials (401): x"), "refuses the credentials (401): x", None, 2),
    ],
)
def test_errors_become_lines(error: TargetError | ConfigError, found: str, cure: str | None, code: int) -> None:
    line = failed("g", "n", error)
    assert (line.level, line.found, line.cure, line.exit_code) == (Level.fail, found, cure, code)


def test_the_table_fits_and_says_all() -> None:
    long = warn("Target http://h", "stream", "x" * 100, "y " * 60)
    text = render(report([FINE, ODD, long, fail("g", "bad", "broken", "mend it", 2)]), width=80, color=False)
    assert max(map(len, text.splitlines())) <= 80
    lines = text.splitlines()
    assert lines[0] == "g"
    assert lines[1].split() == ["✓", "fine", "5", "ms"]
    for part in ("! ", "✗ ", "→ do this", "→ mend it", "Target http://h", "1 of 4 checks failed"):
        assert part in text
    assert text.index("broken") < text.index("Target http://h")  # groups stay together
    assert "all 1 checks are fine" in render(report([FINE]), width=80, color=False)
    assert "\x1b[" in render(report([FINE]), width=80, color=True)


def test_json_reads_back() -> None:
    before = report([FINE, ODD])
    assert msgspec.json.decode(msgspec.json.encode(before), type=type(before)) == before
    assert isinstance(before.checks[0], Check)
