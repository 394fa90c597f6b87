"""A preview as a person reads it."""

from __future__ import annotations

from typing import Final

import numpy as np

from llmgen.durations import format_duration
from llmgen.preview.figures import Arrivals, Lengths, Preview

BARS: Final = "▁▂▃▄▅▆▇█"
WIDTH: Final = 60  # of the sparkline


def sparkline(values: list[int], width: int = WIDTH) -> str:
    """The course of `values` in at most `width` bars; each is the mean of as many values as fall on it."""
    if not values:
        return ""
    parts = np.array_split(np.array(values, np.float64), min(width, len(values)))
    means = np.array([part.mean() for part in parts])
    top = means.max()
    if top <= 0:
        return BARS[0] * len(means)
    levels = np.ceil(means / top * len(BARS)).astype(int) - 1
    return "".join(BARS[max(0, level)] for level in levels)


def render(found: Preview) -> str:
    """Some twenty lines."""
    about = "" if found.endless else f" over {_span(found.span_s)}" if found.span_s is not None else ""
    lines = [f"{found.name + ': ' if found.name else ''}{found.requests:,} requests{about}, {found.load}"]
    if found.arrivals is not None:
        lines += _arrivals(found.arrivals)
    lines += [
        "",
        f"{'class':16}{'requests':>10}{'share':>7}  {'tokens':8}{'mean':>9}{'p50':>8}{'p90':>8}{'p99':>8}{'max':>9}",
    ]
    for one in found.classes:
        share = one.requests / found.requests if found.requests else 0.0
        lines.append(f"{one.name[:15]:16}{one.requests:>10,}{share:>7.1%}  {'in':8}{_lengths(one.input)}")
        kind = "" if one.stream else "whole answers"
        lines.append(f"{', '.join(one.models)[:32]:33}  {'out':8}{_lengths(one.output)}  {kind}".rstrip())
    lines.append("")
    if found.sessions is not None:
        turns = found.sessions.turns
        lines.append(
            f"sessions    {found.sessions.sessions:,} of {turns.mean:.3g} turns on average "
            f"(p50 {turns.p50}, p90 {turns.p90}, max {turns.max})"
        )
    lines.append(f"tokens      {found.input_tokens:,} in, {found.output_tokens:,} out at the most that is asked for")
    service = found.service
    if found.arrivals is not None:
        mean = "" if service.mean_in_flight is None else f", {service.mean_in_flight:,.0f} on average"
        lines.append(
            f"in flight   {service.peak_in_flight:,} at the peak{mean}, if a request took "
            f"{format_duration(service.ttft_s)} and {format_duration(service.itl_s)} a token"
        )
    needs = found.needs
    lines.append(
        f"needs       {needs.connections:,} connections on HTTP/1.1 ({needs.ports_per_address:,} ports an address), "
        f"{needs.workers} worker{'s' if needs.workers != 1 else ''} (cores that can be used: {needs.cores})"
    )
    if found.cost is not None:
        parts = [
            f"{name} {value:,.2f}"
            for name, value in (("tokens", found.cost.tokens), ("GPUs", found.cost.gpus))
            if value
        ]
        lines.append(f"cost        {found.cost.total:,.2f} at most ({', '.join(parts) or 'nothing'})")
    lines += [f"note        {note}" for note in found.notes]
    if needs.connections > needs.ports_per_address:
        lines.append("warning     more connections than ports: name further addresses, or use --http 2")
    if needs.workers_wanted > needs.cores:
        lines.append(f"warning     {needs.workers_wanted} workers would be enough, there are {needs.cores} cores")
    return "\n".join(lines) + "\n"


def _arrivals(arrivals: Arrivals) -> list[str]:
    def number(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    return [
        f"rate        {sparkline(arrivals.per_second)}",
        f"            {number(arrivals.rate_per_s, ',.3g')}/s on average, {arrivals.peak_1s:,} in the fullest second, "
        f"CV {number(arrivals.cv, '.2f')}, dispersion {number(arrivals.dispersion_1s, '.2f')} at 1 s",
    ]


def _lengths(lengths: Lengths | None) -> str:
    if lengths is None:
        return f"{'–':>9}"
    return f"{lengths.mean:>9,.1f}{lengths.p50:>8,}{lengths.p90:>8,}{lengths.p99:>8,}{lengths.max:>9,}"


def _span(seconds: float) -> str:
    return format_duration(round(seconds, 3)) if np.isfinite(seconds) else "no end"
