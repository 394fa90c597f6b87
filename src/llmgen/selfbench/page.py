"""A selfbench as one page that opens offline: error against load, schedule lag against rate, CPU against load."""

from __future__ import annotations

from typing import Any, Final

from llmgen.report.page import document, note, picture, section, table, text
from llmgen.report.palette import PALETTE
from llmgen.report.plots import Figure
from llmgen.selfbench.conclusions import held
from llmgen.selfbench.figures import Ramp, SelfBench, Step
from llmgen.selfbench.tables import limit_notes, tables, timer_text, where

COLORS: Final = {"HTTP/1.1": PALETTE[0], "HTTP/2": PALETTE[1], "TLS": PALETTE[2]}
LOOP_COLOR: Final = PALETTE[7]
SMALLEST_MS: Final = 0.001  # an error of 0 has no place on a logarithmic axis


def render(found: SelfBench) -> str:
    """The whole page."""
    figures = {
        place: figure
        for place, figure in (
            ("error", error_figure(found)),
            ("lag", lag_figure(found)),
            ("cpu", cpu_figure(found)),
        )
        if figure["data"]
    }
    titles = {
        "error": "Reported p99 against the server's log, ms of difference",
        "lag": "Schedule lag against rate, ms",
        "cpu": "Processor of client and server, % of a core",
    }
    partial = "" if found.state == "complete" else note(f"partial: {', '.join(found.reasons)}")
    head = f"<header><h1>llmgen selfbench</h1>{partial}<p><strong>{text(found.sentence)}</strong></p>"
    head += note(f"{where(found)}; C timer loop {timer_text(found)}; {found.started}, {found.took_s:.0f} s")
    head += "".join(note(told) for told in found.notes) + "</header>"
    pictures = "".join(section(titles[place], picture(place)) for place in figures)
    pictures += note("open circles: steps at which the verdict did not stand") if figures else ""
    shown = "".join(
        section(one.title.capitalize(), note(one.note) + table(("", *one.head), one.rows)) for one in tables(found)
    )
    why = section("Why each climb ended", "".join(note(told) for told in limit_notes(found)))
    return document("llmgen selfbench", f"{head}{pictures}{shown}{why}", figures)


def error_figure(found: SelfBench) -> Figure:
    """Absolute: an error may have either sign, and both are faults."""
    data = []
    for ramp in _ramps(found, "events"):
        for name, dash in (("TTFT", "solid"), ("gap", "dot")):
            errors = [(step, step.ttft if name == "TTFT" else step.gap) for step in _sorted(ramp)]
            known = [
                (step.events_per_s, max(SMALLEST_MS, abs(one.p99_error_ms)), held(step)) for step, one in errors if one
            ]
            data += _line(f"{ramp.protocol} {name}", known, COLORS[ramp.protocol], dash)
    return {"data": data, "layout": _layout("events/s")}


def lag_figure(found: SelfBench) -> Figure:
    data = []
    for ramp in _ramps(found, "requests"):
        for name, dash in (("p50", "dot"), ("p99", "solid")):
            lags = [(one, one.lag_p50_ms if name == "p50" else one.lag_p99_ms) for one in _sorted(ramp)]
            known = [(one.rate, max(SMALLEST_MS, lag), held(one)) for one, lag in lags if lag is not None]
            data += _line(f"{ramp.protocol} {name}", known, COLORS[ramp.protocol], dash)
    loops = sorted(found.timer_loop.by_rate, key=lambda one: one.rate) if found.timer_loop is not None else []
    for name, dash in (("p50", "dot"), ("p99", "solid")):
        points = [(one.rate, max(1.0, one.p50_us if name == "p50" else one.p99_us) / 1000, True) for one in loops]
        data += _line(f"C loop {name}", points, LOOP_COLOR, dash)
    return {"data": data, "layout": _layout("requests/s")}


def cpu_figure(found: SelfBench) -> Figure:
    data = []
    for ramp in _ramps(found, "events"):
        for name, dash in (("client", "solid"), ("server", "dot")):
            shares = [
                (one.events_per_s, 100 * (one.client_share if name == "client" else one.server_share), held(one))
                for one in _sorted(ramp)
            ]
            data += _line(f"{ramp.protocol} {name}", shares, COLORS[ramp.protocol], dash)
    layout = _layout("events/s")
    layout["yaxis"] |= {"type": "linear", "rangemode": "tozero"}
    return {"data": data, "layout": layout}


def _ramps(found: SelfBench, shape: str) -> list[Ramp]:
    return [ramp for ramp in found.ramps if ramp.shape == shape]


def _sorted(ramp: Ramp) -> list[Step]:
    return sorted((step for step in ramp.steps if step.events_per_s), key=lambda one: one.rate)


def _line(name: str, points: list[tuple[float, float, bool]], color: str, dash: str) -> list[dict[str, Any]]:
    """points: x, y, and whether the step held; one that did not is an open circle."""
    if not points:
        return []
    x, y, good = zip(*points, strict=True)
    marker = {"size": 7, "symbol": ["circle" if one else "circle-open" for one in good]}
    line = {"color": color, "dash": dash, "width": 1.6}
    shown = {"x": [float(f"{v:.5g}") for v in x], "y": [float(f"{v:.5g}") for v in y]}
    return [{"type": "scatter", "mode": "lines+markers", "name": name, "line": line, "marker": marker, **shown}]


def _layout(x: str) -> dict[str, Any]:
    return {
        "xaxis": {"type": "log", "title": {"text": x}},
        "yaxis": {"type": "log"},
        "height": 380,
        "legend": {"orientation": "h", "y": -0.22},
    }
