"""A preview as a page of its own: rate over time, and the lengths of each class."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from llmgen.errors import ConfigError
from llmgen.preview.figures import Preview
from llmgen.preview.text import render

MOST_POINTS = 2_000  # of the rate: more cannot be told apart on a screen


def write_page(found: Preview, path: Path) -> None:
    """Writes the page, which needs nothing from elsewhere. ConfigError if it cannot be written."""
    plots = [_plot(figure, first=number == 0) for number, figure in enumerate(_figures(found))]
    title = escape(f"Plan: {found.name or found.load}")
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}"
        "pre{overflow-x:auto;font-size:13px}</style></head><body>"
        f"<h1>{title}</h1><pre>{escape(render(found))}</pre>{''.join(plots)}</body></html>"
    )
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--html {str(path)!r}: cannot be written: {error.strerror}") from None


def _plot(figure: Any, *, first: bool) -> str:
    return str(figure.to_html(full_html=False, include_plotlyjs=first, config={"displayModeBar": False}))


def _figures(found: Preview) -> list[Any]:
    from plotly import graph_objects

    figures = []
    if found.arrivals is not None:
        per_second = np.array(found.arrivals.per_second, np.float64)
        parts = np.array_split(per_second, min(MOST_POINTS, len(per_second)))
        times = np.cumsum([0, *(len(part) for part in parts[:-1])])
        rate = graph_objects.Figure(
            graph_objects.Scatter(x=times.tolist(), y=[float(part.mean()) for part in parts], line_shape="hv")
        )
        rate.update_layout(title="Requests due a second", xaxis_title="s", yaxis_title="1/s", template="simple_white")
        figures.append(rate)
    names = ["min", "p50", "p90", "p99", "max"]
    for kind in ("input", "output"):
        lengths = graph_objects.Figure()
        for one in found.classes:
            values = getattr(one, kind)
            if values is not None:
                heights = [getattr(values, name) for name in names]
                lengths.add_trace(graph_objects.Bar(name=one.name, x=names, y=heights))
        lengths.update_layout(title=f"{kind.capitalize()} tokens", template="simple_white", barmode="group")
        figures.append(lengths)
    return figures
