"""Telemetry made by hand for run directories of fabricate.py: values by key as functions of the time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from fabricate import MS, START
from llmgen.telemetry import store
from llmgen.telemetry.prometheus import Reading

Values = Mapping[str, Callable[[float], float | None]]


def write_telemetry(
    directory: Path,
    values: Values,
    *,
    seconds: float,
    every_s: float = 0.5,
    family: str = "vllm",
    number: int = 0,
    writer: store.Writer | None = None,
    buckets: Mapping[str, Callable[[float], Mapping[float, float]]] | None = None,
    gap: tuple[float, float] | None = None,
) -> store.Writer:
    """Readings at 0, every_s, … seconds; None leaves a key out. gap: no answer in between. The writer is left open."""
    directory.mkdir(parents=True, exist_ok=True)
    writer = store.Writer(directory) if writer is None else writer
    writer.source(number, f"http://{family}:{number}/metrics", every_s)
    count = math.floor(seconds / every_s) + 1
    for at in range(count):
        t = at * every_s
        t_ns = START + round(t * 1000) * MS
        if gap is not None and gap[0] <= t < gap[1]:
            writer.failure(number, t_ns, MS, "Connection refused")
            continue
        told = {key: value for key, of in values.items() if (value := of(t)) is not None}
        edges = ["start", "window_start"] if at == 0 else ["window_end", "end"] if at == count - 1 else []
        steps = {name: dict(of(t)) for name, of in (buckets or {}).items()} if edges else {}
        writer.reading(number, t_ns, MS, Reading(told, steps, family), edges)
    return writer
