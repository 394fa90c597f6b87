"""Pictures of what latency depends on, and of single requests: against load, against tokens, phase by phase."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from llmgen.metrics import definitions
from llmgen.metrics.breakdown import input_tokens
from llmgen.metrics.figures import Binned, Summary
from llmgen.metrics.measurements import Measurements
from llmgen.report.palette import PALETTE
from llmgen.report.plots import MAX_CURVES, Figure, label, points

CLOUD: Final = 1500  # points of a cloud: more hide each other, and fill the page
SAMPLE: Final = 40  # requests of the timeline, in order of due time
SLOW_SAMPLE: Final = 10  # of them the slowest of all
TICKS: Final = 60  # token events drawn of one request
TIMELINE_NOTE: Final = (
    "A sample of requests and the slowest ten (marked *): our lag and queue, connecting, until the first token, "
    "until the last. Dots are token events."
)
PHASES: Final = (("lag and queue", 7), ("connect", 3), ("to the first token", 1), ("tokens", 2), ("end", 4))


def figures(m: Measurements, summary: Summary) -> dict[str, Figure]:
    """All of them by their place in the page; those without any data are left out."""
    given = input_tokens(m)
    output = m.requests["output_tokens"].astype(np.int64)
    context = np.where((given > 0) & (output > 0), given + output, -1)
    tokens = summary.by_tokens
    made = {
        "load": against_load(summary),
        "ttft-input": against_tokens(m, given, "ttft", tokens.ttft_by_input, "input tokens", "TTFT, ms"),
        "tpot-context": against_tokens(m, context, "tpot", tokens.tpot_by_context, "context length", "TPOT, ms"),
        "e2e-output": against_tokens(m, output, "e2e", tokens.e2e_by_output, "output tokens", "E2E, ms"),
        "requests": timelines(m),
    }
    return {place: figure for place, figure in made.items() if figure is not None}


# -- load -------------------------------------------------------------------------------------------------------------


def against_load(summary: Summary) -> Figure | None:
    """Percentiles of TTFT from due and of ITL over the requests in flight, a point a time window."""
    windows = summary.windows
    if windows is None:
        return None
    in_flight = np.array(windows.in_flight, np.float64)
    data: list[dict[str, Any]] = []
    panels = (("TTFT from due, ms", "ttft_from_due", "y"), ("ITL, ms", "itl", "y2"))
    for _, metric, axis in panels:
        for share, color in (("p50", 2), ("p95", 1)):
            values = np.array(getattr(windows, f"{metric}_{share}_ms"), np.float64)
            there = ~np.isnan(values)
            if there.any():
                data.append(
                    {
                        "type": "scatter",
                        "mode": "markers",
                        "name": share,
                        "legendgroup": share,
                        "showlegend": axis == "y",
                        "x": points(in_flight[there]),
                        "y": points(values[there]),
                        "yaxis": axis,
                        "marker": {"color": PALETTE[color], "size": 6, "opacity": 0.75},
                    }
                )
    if not data:
        return None
    layout = {
        "xaxis": {"title": {"text": "requests in flight at the window's end"}, "anchor": "y2", "rangemode": "tozero"},
        "yaxis": {"domain": [0.55, 1], "rangemode": "tozero", "title": {"text": panels[0][0]}},
        "yaxis2": {"domain": [0, 0.45], "rangemode": "tozero", "title": {"text": panels[1][0]}},
        "height": 430,
    }
    return {"data": data, "layout": layout}


# -- tokens -----------------------------------------------------------------------------------------------------------


def against_tokens(
    m: Measurements, tokens: np.ndarray, metric: str, bins: tuple[Binned, ...], x: str, y: str
) -> Figure | None:
    """A cloud of requests by class, and over it p50 and p95 of the bins. None where all have the same tokens."""
    values = m.value(metric)
    there = m.inside & (tokens > 0) & ~np.isnan(values)
    if not there.any() or tokens[there].min() == tokens[there].max():
        return None
    data: list[dict[str, Any]] = []
    rng = np.random.default_rng(1)
    names = m.class_names[:MAX_CURVES]
    for number, name in enumerate(names):
        rows = np.flatnonzero(there & m.of_class(name))
        if len(rows) > CLOUD // len(names):
            rows = rng.choice(rows, CLOUD // len(names), replace=False)
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": label(name),
                "x": tokens[rows].tolist(),
                "y": points(values[rows] / 1e6),
                "marker": {"color": PALETTE[(0, 3, 4, 6, 7, 5, 2)[number % 7]], "size": 4, "opacity": 0.4},
                "showlegend": len(names) > 1,
            }
        )
    for share, color in (("p50", 2), ("p95", 1)):
        line = [(b.low, b.high, getattr(b, share)) for b in bins if getattr(b, share) is not None]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": share,
                "x": [float(np.sqrt(low * max(high - 1, low))) for low, high, _ in line],
                "y": points(np.array([value for _, _, value in line], np.float64)),
                "line": {"color": PALETTE[color], "width": 2},
            }
        )
    spread = tokens[there].max() >= 8 * tokens[there].min()
    layout = {
        "xaxis": {"title": {"text": x}, "type": "log" if spread else "linear"},
        "yaxis": {"title": {"text": y}, "rangemode": "tozero"},
        "height": 320,
    }
    return {"data": data, "layout": layout}


# -- requests ---------------------------------------------------------------------------------------------------------


def timelines(m: Measurements) -> Figure | None:
    """Horizontal bars of a sample of requests, from due, phase by phase, with their token events."""
    rows = _sampled(m)
    if not len(rows):
        return None
    r = {name: m.requests[name][rows] for name in ("due", "connect_start", "send", "first_token", "last_token", "end")}
    due, end = r["due"], r["end"]
    marks = [due]
    # a phase that did not happen has no length
    steps = (
        np.where(r["connect_start"] >= 0, r["connect_start"], r["send"]),
        r["send"],
        r["first_token"],
        r["last_token"],
        end,
    )
    for step in steps:
        marks.append(np.maximum(marks[-1], np.where(step >= 0, step, marks[-1])))
    names = _row_names(m, rows)
    data: list[dict[str, Any]] = []
    for number, (name, color) in enumerate(PHASES):
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "y": names,
                "base": points((marks[number] - due) / 1e6),
                "x": points((marks[number + 1] - marks[number]) / 1e6),
                "marker": {"color": PALETTE[color], "opacity": 0.85},
                "hovertemplate": "%{x:.4g} ms<extra>" + name + "</extra>",
            }
        )
    ticks = _ticks(m, rows, names)
    if ticks is not None:
        data.append(ticks)
    layout = {
        "barmode": "overlay",
        "xaxis": {"title": {"text": "ms from due"}, "rangemode": "tozero"},
        "yaxis": {"autorange": "reversed", "type": "category", "tickfont": {"size": 10}, "automargin": True},
        "height": 90 + 16 * len(rows),
        "bargap": 0.25,
    }
    return {"data": data, "layout": layout}


def _sampled(m: Measurements) -> np.ndarray:
    """Rows in order of due time: evenly over the window's requests that ended, and the slowest of all."""
    r = m.requests
    there = np.flatnonzero(m.inside & (r["end"] >= 0) & (r["send"] >= 0))
    if not len(there):
        return there
    there = there[np.argsort(r["due"][there], kind="stable")]
    even = there[np.unique(np.linspace(0, len(there) - 1, SAMPLE - SLOW_SAMPLE).astype(np.int64))]
    rows = np.unique(np.concatenate([even, _slowest(m)]))
    return rows[np.argsort(r["due"][rows], kind="stable")]


def _slowest(m: Measurements) -> np.ndarray:
    r = m.requests
    first = m.value("ttft_from_due")
    took = np.where(np.isnan(first), m.value("e2e_from_due"), first)
    there = np.flatnonzero(m.inside & (r["send"] >= 0) & (r["end"] >= 0) & ~np.isnan(took))
    return there[np.argsort(took[there])[::-1][:SLOW_SAMPLE]]


def _row_names(m: Measurements, rows: np.ndarray) -> list[str]:
    slow = set(_slowest(m).tolist())
    due = (m.requests["due"][rows] - m.start_ns) / 1e9
    return [
        f"{'*' if row in slow else ''}#{int(m.run.requests['index'][row])} {at:.1f} s"
        for row, at in zip(rows.tolist(), due.tolist(), strict=True)
    ]


def _ticks(m: Measurements, rows: np.ndarray, names: list[str]) -> dict[str, Any] | None:
    """At most TICKS token events of each request, as dots."""
    events = m.run.events
    if events is None or not len(events):
        return None
    chosen = np.zeros(m.count, bool)
    chosen[rows] = True
    request = np.ascontiguousarray(events["request"])
    known = request < m.count
    found = np.flatnonzero(known & chosen[np.where(known, request, 0)])
    found = found[definitions.is_token_event(events["kind"][found])]
    x: list[float | None] = []
    y: list[str] = []
    for row, name in zip(rows.tolist(), names, strict=True):
        t = np.sort(events["t"][found[request[found] == row]])
        t = t[np.unique(np.linspace(0, len(t) - 1, min(TICKS, len(t))).astype(np.int64))] if len(t) else t
        x += points((t - m.requests["due"][row]) / 1e6)
        y += [name] * len(t)
    if not x:
        return None
    marker = {"color": "rgba(0,0,0,0.55)", "size": 3}
    return {"type": "scatter", "mode": "markers", "name": "token events", "x": x, "y": y, "marker": marker,
            "hoverinfo": "skip"}  # fmt: skip
