"""A search as a page: the latency-throughput curve with its knee, and attainment against the rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from llmgen.metrics.capacity import Conclusion, Point
from llmgen.report import page
from llmgen.report.canvas import number, share
from llmgen.report.page import section, table, text
from llmgen.report.palette import PALETTE
from llmgen.report.plots import Figure
from llmgen.report.search import WORDS, answers, cells, events, headline

MARKS: Final = {"found": "valid", "at-least": "valid", "undecided": "suspect", "client": "invalid", "none": "invalid"}
COLOURS: Final = {"meets": PALETTE[2], "misses": PALETTE[5], "unsure": PALETTE[1], "unmeasured": PALETTE[7]}
CURVES: Final[Sequence[tuple[str, Callable[[Point], float | None], str]]] = (
    ("TTFT p50", lambda point: point.ttft_p50_ms, PALETTE[2]),
    ("TTFT p99", lambda point: point.ttft_p99_ms, PALETTE[1]),
    ("E2E p50", lambda point: point.e2e_p50_ms, PALETTE[0]),
)


def render_page(name: str, found: Conclusion, *, finished: bool = True) -> str:
    pictures = {"curve": curve(found), "attainment": attainment(found)}
    drawn = {place: figure for place, figure in pictures.items() if figure is not None}
    title = headline(found) if finished else f"unfinished: {headline(found)} so far"
    told = "".join(f"<li><strong>{text(label)}</strong> {text(sentence)}</li>" for label, sentence in answers(found))
    body = [
        f'<header><h1>{text(name)}</h1><p class="what">llmgen search</p>'
        f'<p class="verdict {MARKS[found.outcome] if finished else "incomplete"}"><strong>{text(title)}</strong></p>'
        f"<ul>{told}</ul></header>",
        section("Latency and throughput", page.picture("curve") + page.note(CURVE_NOTE)) if "curve" in drawn else "",
        section("Attainment", page.picture("attainment") + page.note(ATTAINMENT_NOTE)) if "attainment" in drawn else "",
        _rates(found),
        section("What happened", page.listed(events(found))),
        _runs(found),
    ]
    return page.document(f"{name} · llmgen search", "\n".join(part for part in body if part), drawn)


CURVE_NOTE: Final = (
    "A point a run: what completed in a second against latency, from due. The dotted line is the knee, where "
    "throughput ÷ latency is largest; beyond it latency is paid for little throughput."
)
ATTAINMENT_NOTE: Final = (
    "The objective nearest to its target, a point a rate with its interval; runs at neighbouring rates speak for it."
)


def curve(found: Conclusion) -> Figure | None:
    points = sorted((point for point in found.points if point.measured), key=lambda point: point.rate)
    data: list[dict[str, Any]] = []
    for name, value, colour in CURVES:
        there = [(point, y) for point in points if (y := value(point)) is not None]
        if there:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers+lines",
                    "name": name,
                    "x": [point.requests_per_s for point, _ in there],
                    "y": [y for _, y in there],
                    "text": [f"{number(point.rate)} req/s offered, run {point.run}" for point, _ in there],
                    "hovertemplate": "%{text}<br>%{x:.4g} req/s completed<br>%{y:.4g} ms<extra>" + name + "</extra>",
                    "line": {"color": colour, "width": 1},
                    "marker": {"color": colour, "size": 7},
                }
            )
    if not data:
        return None
    at_knee = [point.requests_per_s for point in points if point.rate == found.knee]
    shapes = [_vertical(sum(at_knee) / len(at_knee), "dot")] if at_knee else []
    layout = {
        "xaxis": {"title": {"text": "requests completed in a second"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "ms"}, "type": "log"},
        "height": 420,
        "shapes": shapes,
    }
    return {"data": data, "layout": layout}


def attainment(found: Conclusion) -> Figure | None:
    levels = [level for level in found.levels if level.attainment is not None]
    if not levels:
        return None
    targets = {one.name: one.target for point in found.points for one in point.shares}
    shown = [level.attainment or 0.0 for level in levels]
    points = {
        "type": "scatter",
        "mode": "markers",
        "name": "kept",
        "x": [level.rate for level in levels],
        "y": shown,
        "text": [f"{level.objective}: {WORDS[level.verdict]}" for level in levels],
        "hovertemplate": "%{text}<br>%{x:.4g} req/s offered<br>%{y:.3%} kept<extra></extra>",
        "marker": {"color": [COLOURS[level.verdict] for level in levels], "size": 9},
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, (level.high or 0.0) - y) for level, y in zip(levels, shown, strict=True)],
            "arrayminus": [max(0.0, y - (level.low or 0.0)) for level, y in zip(levels, shown, strict=True)],
            "color": PALETTE[7],
            "thickness": 1,
        },
        "showlegend": False,
    }
    shapes = [
        {
            "type": "line",
            "xref": "paper",
            "x0": 0,
            "x1": 1,
            "y0": target,
            "y1": target,
            "line": {"dash": "dot", "width": 1, "color": PALETTE[7]},
        }
        for target in {targets[level.objective] for level in levels if level.objective in targets}
    ]
    if found.capacity is not None:
        shapes.append(_vertical(found.capacity, "solid"))
    layout = {
        "xaxis": {"title": {"text": "requests offered in a second"}, "type": "linear", "rangemode": "tozero"},
        "yaxis": {"title": {"text": "share kept"}, "tickformat": ".1%", "rangemode": "tozero"},
        "height": 340,
        "shapes": shapes,
    }
    return {"data": [points], "layout": layout}


def _vertical(x: float, dash: str) -> dict[str, Any]:
    return {
        "type": "line",
        "yref": "paper",
        "x0": x,
        "x1": x,
        "y0": 0,
        "y1": 1,
        "line": {"dash": dash, "width": 1, "color": PALETTE[7]},
    }


def _rates(found: Conclusion) -> str:
    rows = [(number(level.rate), *cells(level, found.points)) for level in found.levels]
    titles = ("req/s", "runs", "kept, %", "interval, %", "completed/s", "TTFT p50", "TTFT p99", "E2E p50", "")
    marks = [{"meets": "good", "misses": "bad"}.get(level.verdict, "") for level in found.levels]
    return section("Rates", table(titles, rows, marks))


def _runs(found: Conclusion) -> str:
    rows = [
        (
            str(point.run),
            number(point.rate),
            "; ".join(f"{one.good:,} of {one.n:,} kept {one.name}" for one in point.shares),
            share(point.completed),
            "–" if point.growth_per_s is None else f"{point.growth_per_s:+.3g}/s" + (" grows" if point.growing else ""),
            point.client,
            "; ".join((*point.unmet, *point.reasons)),
        )
        for point in found.points
    ]
    return section("Runs", table(("run", "req/s", "objectives", "completed", "in flight", "client", ""), rows))
