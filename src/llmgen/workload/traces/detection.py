"""Which format a trace is of, from its first line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from llmgen.errors import ConfigError
from llmgen.workload.traces import columns
from llmgen.workload.traces.lines import open_text

FIRST_BYTES: Final = 1 << 20


def guess(path: Path, *, mapped: bool) -> str | None:
    """Its name in FORMATS; `columns` where a mapping is given and nothing else fits; None if nothing does."""
    if path.is_dir():
        return "servegen" if any(path.glob("chunk-*-trace.csv")) else None
    if mapped:
        return "columns"
    try:
        with open_text(path) as file:
            line = file.readline(FIRST_BYTES).removeprefix(b"\xef\xbb\xbf").strip()
    except (OSError, EOFError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    return _of_object(line) if line.startswith(b"{") else _of_header(line.decode("utf-8", "replace"))


def _of_header(line: str) -> str | None:
    names = {name.strip().strip('"') for name in line.split(",")}
    if {"TIMESTAMP", "ContextTokens", "GeneratedTokens"} <= names:
        return "azure"
    if {"Timestamp", "Request tokens", "Response tokens"} <= names:
        return "burstgpt"
    for name, wanted in (("vidur", columns.VIDUR), ("splitwise", columns.SPLITWISE)):
        if set(wanted.values()) <= names:
            return name
    return None


def _of_object(line: bytes) -> str | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    if {"t_ns", "in", "out"} <= row.keys():
        return "llmgen"
    if {"timestamp", "body"} <= row.keys():
        return "log"
    if not {"timestamp", "input_length", "output_length"} <= row.keys():
        return None
    if isinstance(row.get("hash_ids"), dict):
        return "ragpulse"
    return "qwen" if "chat_id" in row else "mooncake"
