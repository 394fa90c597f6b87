"""The pictures of report.html as plain plotly.js descriptions: {data, layout}; the page adds the colours of its theme.

No plotly object is built in Python: a description is a dict of lists, which keeps the page small and its making fast.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from llmgen.metrics import series
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.series import Bins
from llmgen.report import server_plots
from llmgen.report.escaping import plain
from llmgen.report.palette import PALETTE

Figure = dict[str, Any]
Panel = tuple[str, list[dict[str, Any]], bool]

DENSITY_BINS: Final = 80
MAX_CURVES: Final = 7  # classes beyond are left out of the distributions, which say so


def figures(m: Measurements) -> dict[str, Figure]:
    """All pictures by their place in the page; those without any data are left out."""
    bins = series.bins_of(m)
    made = {"over-time": over_time(m, bins)}
    for place, metric, title in (
        ("ttft", "ttft_from_due", "TTFT from due"),
        ("e2e", "e2e_from_due", "E2E from due"),
        ("itl", "itl", "ITL"),
    ):
        figure = distribution(m, metric, title)
        if figure is not None:
            made[place] = figure
    return made


# -- over time ----------------------------------------------------------------------------------------------------


def over_time(m: Measurements, bins: Bins) -> Figure:
    """Panels above each other with one time axis: load, in flight, TTFT, ITL, tokens/s, errors, lag."""
    panels = [
        panel
        for panel in (
            _load_panel(m, bins),
            ("in flight", [_line(bins, series.in_flight(m, bins), "in flight", 2)], False),
            _percentile_panel(m, bins, "ttft_from_due", "TTFT from due, ms"),
            _percentile_panel(m, bins, "itl", "ITL, ms"),
            _percentile_panel(m, bins, "e2e_from_due", "E2E from due, ms"),
            ("output tokens/s", [_line(bins, series.tokens_over_time(m, bins), "output tokens/s", 0)], False),
            _error_panel(m, bins),
            _percentile_panel(m, bins, "own_lag", "our lag, ms"),
            _percentile_panel(m, bins, "drain_lag", "kernel to us, ms"),
            *server_plots.panels(m),
        )
        if panel is not None
    ]
    return stacked(panels, "seconds since the start", _window_shapes(m) + server_plots.shapes(m))


def stacked(panels: Sequence[Panel], x_title: str, shapes: list[dict[str, Any]]) -> Figure:
    """Panels (title, traces, whether the axis is logarithmic) above each other with one x axis."""
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "xaxis": {
            "title": {"text": x_title},
            "anchor": f"y{len(panels)}" if len(panels) > 1 else "y",
        },
        "height": 160 * len(panels) + 60,
        "hovermode": "x unified",
        "showlegend": False,
        "shapes": shapes,
        "annotations": [],
    }
    share = 1 / len(panels)
    for number, (title, traces, logarithmic) in enumerate(panels):
        name = "" if number == 0 else str(number + 1)
        top = 1 - number * share
        layout[f"yaxis{name}"] = {
            "domain": [top - share * 0.78, top - share * 0.04],
            "type": "log" if logarithmic else "linear",
            "rangemode": "tozero",
            "nticks": 5,
        }
        layout["annotations"].append(
            {
                "text": title,
                "xref": "paper",
                "yref": "paper",
                "x": 0,
                "y": top - share * 0.03,
                "xanchor": "left",
                "yanchor": "bottom",
                "showarrow": False,
            }
        )
        data += [{**trace, "xaxis": "x", "yaxis": f"y{name}"} for trace in traces]
    return {"data": data, "layout": layout}


def _load_panel(m: Measurements, bins: Bins) -> Panel:
    offered, sent = series.offered_and_sent(m, bins)
    return (
        "requests/s: offered (grey), sent",
        [_line(bins, offered, "offered", 7, width=3), _line(bins, sent, "sent", 0, width=1.2)],
        False,
    )


def _percentile_panel(m: Measurements, bins: Bins, metric: str, title: str) -> Panel | None:
    found = series.percentiles_over_time(m, bins, metric)
    if np.isnan(found).all():
        return None
    names = ("p50", "p95", "p99")
    traces = [_line(bins, row, name, color) for row, name, color in zip(found, names, (2, 1, 5), strict=True)]
    low, high = np.nanmin(found), np.nanmax(found)
    return f"{title}: p50, p95, p99", traces, bool(low > 0 and high / low > 50)


def _error_panel(m: Measurements, bins: Bins) -> Panel | None:
    errors = series.errors_over_time(m, bins)
    if not errors:
        return None
    traces = [
        _line(bins, rate, label(name), (5, 3, 1, 6, 4, 0, 2, 7)[number % 8]) | {"stackgroup": "errors"}
        for number, (name, rate) in enumerate(errors.items())
    ]
    named = ", ".join(label(name) for name in list(errors)[:4]) + (", …" if len(errors) > 4 else "")
    return f"failed requests/s: {named}", traces, False


def _line(bins: Bins, values: np.ndarray, name: str, color: int, width: float = 1.6) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": points(bins.middle_s),
        "connectgaps": True,
        "y": points(values),
        "line": {"color": PALETTE[color % len(PALETTE)], "width": width},
    }


def _window_shapes(m: Measurements) -> list[dict[str, Any]]:
    """The window's edges, where something was cut off."""
    if m.inside.all():
        return []
    edges = ((edge - m.start_ns) / 1e9 for edge in m.window)
    line = {"color": PALETTE[7], "width": 1, "dash": "dot"}
    return [
        {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "xref": "x", "yref": "paper", "line": line} for x in edges
    ]


# -- distributions ------------------------------------------------------------------------------------------------


def distribution(m: Measurements, metric: str, title: str) -> Figure | None:
    """Density over CDF of a metric on one logarithmic axis, a curve a class. None without values."""
    curves = _curves(m, metric)
    if not curves:
        return None
    positive = [values[values > 0] for _, values, _ in curves]
    low = min((float(v.min()) for v in positive if len(v)), default=0.0) / 1e6
    high = max((float(v.max()) for v in positive if len(v)), default=0.0) / 1e6
    if not high:
        return None
    edges = np.geomspace(low * 0.9, high * 1.1, DENSITY_BINS + 1)
    data: list[dict[str, Any]] = []
    for number, (name, values, weights) in enumerate(curves):
        line = {"color": PALETTE[number % len(PALETTE)], "width": 1.6}
        curve = {"type": "scatter", "mode": "lines", "name": label(name), "legendgroup": str(number), "line": line}
        at = np.sqrt(edges[1:] * edges[:-1])
        share = series.density(values, edges, weights)
        data.append(curve | {"x": points(at), "y": points(share), "line": line | {"shape": "hvh"}, "fill": "tozeroy"})
        x, y = series.cdf(values, weights)
        data.append(curve | {"x": points(x), "y": points(y), "yaxis": "y2", "showlegend": False})
    layout = {
        "title": {"text": title},
        "xaxis": {
            "type": "log",
            "title": {"text": "ms"},
            "anchor": "y2",
            "range": [math.log10(low * 0.9), math.log10(high * 1.1)],
        },
        "yaxis": {"domain": [0.56, 1], "rangemode": "tozero", "title": {"text": "share"}},
        "yaxis2": {"domain": [0, 0.46], "range": [0, 1.02], "title": {"text": "CDF"}},
        "height": 420,
        "showlegend": len(curves) > 1,
    }
    return {"data": data, "layout": layout}


def _curves(m: Measurements, metric: str) -> list[tuple[str, np.ndarray, np.ndarray | None]]:
    """(class, ns, weights) of the window's requests, for at most MAX_CURVES classes."""
    found: list[tuple[str, np.ndarray, np.ndarray | None]] = []
    for number, name in enumerate(m.class_names[:MAX_CURVES]):
        mask = m.of_class(name)
        if metric == "itl":
            pool = m.pool("itl", mask, number if len(m.class_names) > 1 else None)
            if pool is not None and len(pool.values):
                found.append((name, pool.values, pool.weights))
            continue
        values = m.value(metric)[mask & m.inside]
        values = values[~np.isnan(values)]
        if len(values):
            found.append((name, values, None))
    return found


def label(text: str) -> str:
    """Text inside a picture: plotly reads <b> and the like in labels."""
    return html.escape(plain(text, 60))


def points(values: np.ndarray) -> list[float | None]:
    """A list for a picture: five significant digits, None for what does not exist."""
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values.tolist()]
