"""Text that came from a server or a file, made harmless for terminals and spreadsheets.

HTML is escaped by html.escape where it is put into a page (html.py).
"""

from __future__ import annotations

import unicodedata

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def plain(text: str, limit: int | None = None) -> str:
    """One line of visible text: control, format (bidi overrides) and unpaired surrogate characters become escapes.

    limit: characters at most, the last of them an ellipsis if something was cut off.
    """
    out = "".join(_visible(character) for character in (text if limit is None else text[: limit + 1]))
    return out if limit is None or len(out) <= limit else out[: limit - 1] + "…"


def _visible(character: str) -> str:
    # Cc controls and ANSI, Cf bidi overrides and zero-width, Cs surrogates, Zl and Zp line separators
    if character in _SHORT:
        return _SHORT[character]
    code = ord(character)
    # noncharacters (Unicode 23.7) are allowed in no XML
    odd = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    if not odd and unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def spreadsheet(text: str) -> str:
    """A cell that no spreadsheet takes for a formula (CWE-1236): plain, and quoted with ' if it begins like one."""
    text = plain(text)
    return f"'{text}" if text.lstrip()[:1] in ("=", "+", "-", "@", "＝", "＋", "－", "＠", "|", "%") else text
