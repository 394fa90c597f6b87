"""Panels of the server's own series for the picture over time, on the client's time axis, and marks across it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from llmgen.metrics.measurements import Measurements
from llmgen.metrics.server import readings_of
from llmgen.report.escaping import plain
from llmgen.report.palette import PALETTE
from llmgen.telemetry.families import SERIES
from llmgen.telemetry.readings import Readings, Track

Panel = tuple[str, list[dict[str, Any]], bool]

MOST_POINTS: Final = 600  # of a curve: a screen shows no more
MOST_GPUS: Final = 8  # curves in one panel
CLOSE: Final = 0.2  # of the usual time between readings
GAP: Final = 2.5  # times that: one late reading is none
MARKS: Final = {"restart": PALETTE[5], "exporter_restart": PALETTE[7], "xid": PALETTE[3], "unreachable": PALETTE[7]}

# (title, ((series, name), …), factor); counters are drawn as rates. Panels that share a unit share a row.
PANELS: Final[tuple[tuple[str, tuple[tuple[str, str], ...], float], ...]] = (
    ("server: requests running, waiting", (("running", "running"), ("waiting", "waiting")), 1.0),
    ("server: KV cache in use, %", (("kv_usage", "KV cache"),), 100.0),
    ("server: preemptions/s", (("preemptions", "preemptions"),), 1.0),
    ("server: prefix cache, tokens/s asked and hit", (("prefix_queries", "asked"), ("prefix_hits", "hit")), 1.0),
    ("server: tokens/s prompt, output", (("prompt_tokens", "prompt"), ("output_tokens", "output")), 1.0),
    ("server: failed, aborted requests/s", (("failed", "failed"), ("aborted", "aborted")), 1.0),
    ("GPU busy, %", (("gpu_util", "GPU"),), 100.0),
    ("GPU memory, GB", (("gpu_memory_used", "GPU"),), 1e-9),
    ("GPU temperature, °C", (("gpu_temperature", "GPU"),), 1.0),
    ("GPU power, W", (("gpu_power", "GPU"),), 1.0),
    ("server process: cores", (("cpu_time", "process"),), 1.0),
    ("server process: resident memory, GB", (("rss", "process"),), 1e-9),
)
# Means of what came between readings: by the server's histograms.
LATENCIES: Final = (("ttft", "TTFT"), ("queue_time", "queue"))


def panels(m: Measurements) -> list[Panel]:
    """Those that have anything to show; none without telemetry."""
    readings = readings_of(m)
    if not readings:
        return []
    found = [_latency_panel(m, readings)]
    found += [_panel(m, readings, title, series, factor) for title, series, factor in PANELS]
    found.append(_node_panel(m, readings))
    return [panel for panel in found if panel is not None]


def shapes(m: Measurements) -> list[dict[str, Any]]:
    """Restarts and XIDs as lines over all panels, times without an answer as bands; what it was is in their label."""
    found: list[dict[str, Any]] = []
    for mark in readings_of(m).marks:
        x = _seconds(m, mark.t_ns)
        color = MARKS[mark.kind]
        shape: dict[str, Any] = {"xref": "x", "yref": "paper", "y0": 0, "y1": 1, "x0": x}
        label = {"text": plain(mark.what, 60), "textangle": -90, "font": {"size": 10, "color": color}}
        if mark.kind == "unreachable":
            end = mark.until_ns if mark.until_ns is not None else m.span[1]
            shape |= {"type": "rect", "x1": max(x, _seconds(m, end)), "fillcolor": color, "opacity": 0.15}
            shape |= {"line": {"width": 0}}
        else:
            shape |= {"type": "line", "x1": x, "line": {"color": color, "width": 1.5}}
            shape |= {"label": label | {"textposition": "start"}}
        found.append(shape)
    return found


def _seconds(m: Measurements, t_ns: int) -> float:
    return round((t_ns - m.start_ns) / 1e9, 3)


def _panel(
    m: Measurements, readings: Readings, title: str, wanted: tuple[tuple[str, str], ...], factor: float
) -> Panel | None:
    traces: list[dict[str, Any]] = []
    for series, name in wanted:
        if series.startswith("gpu_") and 1 < len(readings.gpus) <= MOST_GPUS:
            each = [(f"GPU {gpu[1]}", readings.gauge(series, gpu)) for gpu in readings.gpus]
        elif SERIES[series].kind == "counter":
            each = [(name, rate(readings.counter(series)))]
        else:
            each = [(name, readings.gauge(series))]
        for label, track in each:
            if track is not None and not np.isnan(track.v).all():
                traces.append(_curve(m, track, factor, label, len(traces)))
    moves = any(any(value for value in trace["y"] if value) for trace in traces)
    return (title, traces, False) if moves else None


def _latency_panel(m: Measurements, readings: Readings) -> Panel | None:
    traces: list[dict[str, Any]] = []
    for series, name in LATENCIES:
        total, count = readings.counter(f"{series}.sum"), readings.counter(f"{series}.count")
        if total is None or count is None or not np.array_equal(total.t, count.t):
            continue
        steps = np.diff(count.v)
        mean = np.full(len(total.t), np.nan)
        np.divide(np.diff(total.v), steps, out=mean[1:], where=steps > 0)
        if not np.isnan(mean).all():
            traces.append(_curve(m, Track(total.t, mean), 1e3, name, len(traces)))
    return ("server: its own mean TTFT, queue time, ms", traces, False) if traces else None


def _node_panel(m: Measurements, readings: Readings) -> Panel | None:
    idle, total = rate(readings.counter("node_cpu_idle")), rate(readings.counter("node_cpu"))
    if idle is None or total is None or not np.array_equal(idle.t, total.t):
        return None
    busy = np.full(len(idle.t), np.nan)
    np.divide(total.v - idle.v, total.v, out=busy, where=total.v > 0)
    # a processor's idle time may be told a tick late
    return "node: CPUs busy, %", [_curve(m, Track(idle.t, np.clip(busy, 0, 1)), 100.0, "node", 0)], False


def rate(track: Track | None) -> Track | None:
    """A counter's increase a second, at the end of each interval."""
    if track is None or len(track.t) < 2:
        return None
    passed = np.diff(track.t)
    # a reading at an edge may lie close to a tick: their quotient would be noise
    apart = np.concatenate([[True], passed > CLOSE * np.median(passed)])
    t, v = track.t[apart], track.v[apart]
    if len(t) < 2:
        return None
    return Track(t[1:], np.diff(v) / np.diff(t) * 1e9)


def _curve(m: Measurements, track: Track, factor: float, name: str, color: int) -> dict[str, Any]:
    t, v = with_gaps(thinned(track), track.t)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": plain(name, 40),
        "x": [_seconds(m, int(at)) for at in t],
        "y": [None if np.isnan(value) else float(f"{value * factor:.5g}") for value in v],
        "connectgaps": False,
        "line": {"color": PALETTE[color % len(PALETTE)], "width": 1.6},
    }


def with_gaps(track: Track, t: np.ndarray) -> Track:
    """`track` with NaN where `t`, the times of all its readings, has a gap: a curve must not lead across an outage."""
    if len(t) < 3:
        return track
    passed = np.diff(t)
    after = t[:-1][passed > GAP * np.median(passed)] + 1
    at = np.searchsorted(track.t, after)
    return Track(np.insert(track.t, at, after), np.insert(track.v, at, np.nan))


def thinned(track: Track) -> Track:
    """At most MOST_POINTS: of each part its smallest and its largest value, so that no peak is lost."""
    n = len(track.t)
    if n <= MOST_POINTS:
        return track
    kept: list[int] = []
    for part in np.array_split(np.arange(n), MOST_POINTS // 2):
        values = track.v[part]
        if np.isnan(values).all():
            kept.append(int(part[0]))
            continue
        kept += sorted({int(part[np.nanargmin(values)]), int(part[np.nanargmax(values)])})
    return Track(track.t[kept], track.v[kept])
