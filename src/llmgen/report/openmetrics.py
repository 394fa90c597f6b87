"""OpenMetrics text (Prometheus): of a finished run's summary, and the writer that the live counters use as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from llmgen.columns import Status
from llmgen.metrics.figures import Group, Summary
from llmgen.metrics.slo import LATENCIES
from llmgen.metrics.statistics import QUANTILES, Dist
from llmgen.report.escaping import plain

CONTENT_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
Kind = Literal["counter", "gauge", "summary", "histogram", "info"]
Labels = Mapping[str, object]


class Exposition:
    """Lines of OpenMetrics 1.0; families must not come twice, and `text` ends them."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: Kind, help: str, unit: str = "") -> None:
        """Begins a metric family; its samples follow. A unit is the end of the name, too."""
        self._lines.append(f"# TYPE {name} {kind}")
        if unit:
            self._lines.append(f"# UNIT {name} {unit}")
        self._lines.append(f"# HELP {name} {_escaped(help)}")

    def sample(self, name: str, value: float, labels: Labels | None = None) -> None:
        shown = ",".join(f'{key}="{_escaped(str(told))}"' for key, told in (labels or {}).items())
        number = int(value) if float(value).is_integer() and abs(value) < 1e15 else value
        self._lines.append(f"{name}{{{shown}}} {number}" if shown else f"{name} {number}")

    def text(self) -> str:
        return "\n".join([*self._lines, "# EOF", ""])


def _escaped(text: str) -> str:
    # control characters become visible escapes first; then the three that the format escapes
    return plain(text).replace("\\", r"\\").replace('"', r"\"")


# -- a finished run ---------------------------------------------------------------------------------------------------


def render(summary: Summary) -> str:
    """The summary as one exposition: totals, rates, latencies by class, objectives, the verdict."""
    out = Exposition()
    out.family("llmgen_run", "info", "The run.")
    info = {"run_id": summary.run_id or "", "name": summary.name or "", "started": summary.started or ""}
    out.sample("llmgen_run_info", 1, info | {f"tag_{_name(key)}": value for key, value in summary.tags.items()})
    out.family("llmgen_verdict", "gauge", "1 for the verdict on the client: valid, suspect, invalid or incomplete.")
    for status in ("valid", "suspect", "invalid", "incomplete"):
        out.sample("llmgen_verdict", summary.verdict.status == status, {"status": status})
    groups: dict[str, Summary | Group] = {"": summary}
    if len(summary.classes) > 1:
        groups |= summary.classes
    _requests(out, groups)
    _latencies(out, groups)
    _rates(out, summary, groups)
    _objectives(out, summary)
    return out.text()


def _name(key: str) -> str:
    """A label's name: letters, digits and underscores."""
    return "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in key)


def _requests(out: Exposition, groups: Mapping[str, Summary | Group]) -> None:
    out.family("llmgen_requests", "gauge", "Requests of the run by how they ended.")
    for name, group in groups.items():
        counts = group.requests
        named = {Status.ok.name: counts.succeeded, **counts.failed}
        named |= {"cancelled": counts.cancelled, "never_sent": counts.never_sent, "lost": counts.lost}
        for status, count in named.items():
            out.sample("llmgen_requests", count, {"class": name, "status": status})


def _latencies(out: Exposition, groups: Mapping[str, Summary | Group]) -> None:
    for metric in LATENCIES:
        dists = {name: getattr(group.latency, f"{metric}_ms") for name, group in groups.items()}
        if not any(dists.values()):
            continue
        family = f"llmgen_{metric}_seconds"
        out.family(family, "summary", f"{metric} of the measured window.", "seconds")
        for name, dist in dists.items():
            if dist is not None:
                _summary(out, family, dist, {"class": name})


def _summary(out: Exposition, family: str, dist: Dist, labels: Labels) -> None:
    for point, quantile in QUANTILES.items():
        out.sample(family, getattr(dist, point) / 1e3, {**labels, "quantile": f"{quantile:g}"})
    out.sample(f"{family}_count", dist.n, labels)
    out.sample(f"{family}_sum", dist.mean * dist.n / 1e3, labels)


def _rates(out: Exposition, summary: Summary, groups: Mapping[str, Summary | Group]) -> None:
    for field, help in (
        ("requests_per_s", "Successful requests per second of the window."),
        ("output_tokens_per_s", "Output tokens per second of the window."),
        ("input_tokens_per_s", "Input tokens per second of the window."),
        ("goodput", "Share of all scheduled requests that kept their limits."),
        ("goodput_requests_per_s", "Good requests per second of the window."),
    ):
        values = {name: getattr(group.throughput, field) for name, group in groups.items()}
        if any(value is not None for value in values.values()):
            out.family(f"llmgen_{field}", "gauge", help)
            for name, value in values.items():
                if value is not None:
                    out.sample(f"llmgen_{field}", value, {"class": name})
    for field, help in (
        ("offered_rate", "Planned requests per second."),
        ("achieved_rate", "Sent requests per second."),
    ):
        value = getattr(summary.load, field)
        if value is not None:
            out.family(f"llmgen_{field}", "gauge", help)
            out.sample(f"llmgen_{field}", value)


def _objectives(out: Exposition, summary: Summary) -> None:
    results = [*summary.slo, *(result for group in summary.classes.values() for result in group.slo)]
    judged = [result for result in results if result.met is not None]
    if judged:
        out.family("llmgen_slo_met", "gauge", "1: the objective is met.")
        for result in judged:
            labels = {"objective": result.expression, "class": result.klass or ""}
            out.sample("llmgen_slo_met", bool(result.met), labels)


def cumulative(counts: Sequence[int], bounds_s: Sequence[float], limits_s: Sequence[float]) -> list[int]:
    """Counts of a fine histogram at or below coarse limits: a bucket belongs where its upper bound lies."""
    found, total, at = [], 0, 0
    for limit in limits_s:
        while at < len(counts) and bounds_s[at] <= limit:
            total += counts[at]
            at += 1
        found.append(total)
    return found
