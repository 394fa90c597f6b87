"""Text of servers and files is harmless wherever it is shown."""

from __future__ import annotations

import pytest

from llmgen.report.escaping import plain, spreadsheet


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, ünïcode, 日本語 🎉", "plain text, ünïcode, 日本語 🎉"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x9b31m", "\\x9b31m"),
        ("a\0b\x7f", "a\\x00b\\x7f"),
        ("two\r\nlines\t", "two\\r\\nlines\\t"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\udcff", "\\udcff"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_plain(text: str, shown: str) -> None:
    assert plain(text) == shown
    plain(text).encode()  # and is always UTF-8


def test_limit() -> None:
    assert plain("abcdef", 6) == "abcdef"
    assert plain("abcdefg", 6) == "abcde…"
    assert len(plain("\x1b" * 10**6, 20)) == 20


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "  =1", "=cmd|' /C calc'!A0", "％", "＝1", "|x", "%x"]
)
def test_formulas_are_quoted(text: str) -> None:
    cell = spreadsheet(text)
    assert cell.startswith(("'", "\\", "％"))
    assert cell.lstrip()[0] not in "=+-@|%＝"


def test_other_cells_are_as_they_are() -> None:
    assert spreadsheet("ok") == "ok"
    assert spreadsheet("http://x/?a=b") == "http://x/?a=b"
    assert spreadsheet("") == ""
