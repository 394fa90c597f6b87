"""A run's directory while it is being made: name, `latest`, run.json, errors.jsonl. Readers are in records.py."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from llmgen.columns import Status
from llmgen.credentials import hide
from llmgen.errors import ConfigError

SAMPLES: Final = 20  # of each status and HTTP code (docs/contract.md)
SAMPLE_BYTES: Final = 2048


def make(out: str, name: str | None) -> Path:
    """A fresh directory OUT/<utc>-<name>. ConfigError if it cannot be made."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    word = re.sub(r"[^A-Za-z0-9._-]+", "-", name or "run").strip("-.")[:64] or "run"
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1000):
            path = folder / (f"{stamp}-{word}" + (f"-{number}" if number > 1 else ""))
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return path
    except OSError as error:
        raise ConfigError(f"out={out!r}: no run directory can be made there: {error.strerror}") from None
    raise ConfigError(f"out={out!r}: holds a thousand runs of this second and name")


def take(directory: Path) -> Path:
    """The directory that a caller named, made. ConfigError if it cannot be made or is there already."""
    try:
        directory.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"{directory}: no run directory can be made there: {error.strerror}") from None
    return directory


def point_latest(directory: Path) -> None:
    """OUT/latest → the run; left alone if something else of that name is in the way."""
    link = directory.parent / "latest"
    if link.exists() and not link.is_symlink():
        return
    part = directory.parent / f".latest-{os.getpid()}"
    with contextlib.suppress(OSError):
        part.symlink_to(directory.name)
        part.replace(link)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Atomically: the file is the old one or the new one, never a part."""
    part = path.with_name(f".{path.name}.tmp")
    with part.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, ensure_ascii=False, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def gather_errors(directory: Path, secrets: Sequence[str]) -> None:
    """errors.jsonl from what the workers left: the first of each status and HTTP code, secrets hidden."""
    rows: list[dict[str, Any]] = []
    for source in sorted(directory.glob("worker-*/errors.jsonl")):
        with contextlib.suppress(OSError):
            for line in source.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError):  # the last line of a killed worker
                    rows.append(json.loads(line))
    rows.sort(key=lambda row: row["index"])
    seen: Counter[tuple[int, int]] = Counter()
    part = directory / ".errors.jsonl.tmp"
    with part.open("w", encoding="utf-8") as file:
        for row in rows:
            kind = (row["status"], row["http_status"])
            seen[kind] += 1
            if seen[kind] > SAMPLES:
                continue
            text = hide(row["text"], secrets)
            shown = {
                "status": Status(row["status"]).name,
                "http_status": row["http_status"] or None,
                "index": row["index"],
                "target": row["target"],
                "text": text[:SAMPLE_BYTES],
            }
            file.write(json.dumps(shown, ensure_ascii=False) + "\n")
    part.replace(directory / "errors.jsonl")
