"""A comparison in the terminal, as JUnit cases, and as a page with both runs' curves over each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from rich.console import Console
from rich.text import Text

from llmgen.errors import RecordError
from llmgen.metrics import series
from llmgen.metrics.comparison import Change, Comparison, Rule, Side, compare
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.repeats import over_repeats
from llmgen.metrics.statistics import QUANTILES
from llmgen.metrics.summary import read_summary, summary_of
from llmgen.records import open_run
from llmgen.report import page
from llmgen.report.canvas import canvas, columns, heading, item, number, share
from llmgen.report.escaping import plain
from llmgen.report.junit import Case
from llmgen.report.members import is_suite, members
from llmgen.report.palette import PALETTE
from llmgen.report.plots import Figure, label, points

STYLES: Final = {"worse": "bold red", "better": "bold green", "no evidence": "dim"}
NAMES: Final = {
    "ttft_from_due": "TTFT due",
    "ttft": "TTFT",
    "tpot": "TPOT",
    "itl": "ITL",
    "e2e_from_due": "E2E due",
    "e2e": "E2E",
    "requests_per_s": "requests/s",
    "output_tokens_per_s": "tokens/s",
    "error_rate": "error rate",
}


@dataclass(frozen=True)
class Group:
    """What is compared as one: a run, or a cell's runs by their repeats. key: the cell's label; None: no suite."""

    label: str
    key: str | None
    sides: dict[int, Side]


def groups(path: Path) -> tuple[list[Group], int]:
    """What stands at `path`: a run directory, a summary.json, or the cells of a suite; and how many of a suite's runs
    are left out, being incomplete. Raises RecordError."""
    if not is_suite(path):
        m = Measurements(open_run(path)) if path.is_dir() and (path / "run.json").exists() else None
        summary = read_summary(path) if m is None else summary_of(m)
        label = path.name if path.is_dir() else path.stem
        return [Group(label, None, {0: Side(label, summary, m)})], 0
    found, missing = members(path)
    cells: dict[str, Group] = {}
    for one in found:
        m = Measurements(open_run(one.path))
        side = Side(f"{path.name}/{one.path.name}", summary_of(m), m)
        group = cells.setdefault(one.label, Group(f"{path.name} ({one.label})", one.label, {}))
        group.sides[one.repeat] = side
    return list(cells.values()), missing


def paired(bases: Sequence[Group], runs: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Each run with its base: the one base of all, or, of two suites, each cell with the one of the same levels."""
    if len(bases) == 1 and len(bases[0].sides) == 1 and not _both(bases[0], runs):
        return [(bases[0], Group(side.label, None, {0: side})) for group in runs for side in group.sides.values()]
    single = [group.label for group in runs if group.key is None]
    if single:
        raise RecordError(
            f"the base is a suite, {single[0]} is one run: compare it with one of the suite's runs, like SUITE/0001"
        )
    by_key = {group.key: group for group in bases}
    found = [(by_key[group.key], group) for group in runs if group.key in by_key]
    if not found:
        known = "; ".join(str(key) for key in list(by_key)[:8])
        raise RecordError(f"no cell of the suite has a counterpart in the base, whose cells are: {known}")
    return found


def _both(base: Group, runs: Sequence[Group]) -> bool:
    """Whether both are suites that have this cell."""
    return base.key is not None and any(group.key == base.key for group in runs)


def alone(bases: Sequence[Group], runs: Sequence[Group]) -> list[str]:
    """Cells of two suites that only one of them has."""
    keys = {group.key for group in bases} ^ {group.key for group in runs}
    return [] if None in keys else sorted(str(key) for key in keys)


def compared(base: Group, run: Group, rules: Sequence[Rule], margin: float) -> Comparison:
    """One comparison of two groups; repeats of the same number are pairs, else the first ones, the second ones …"""
    common = sorted(base.sides.keys() & run.sides.keys())
    if common:
        found = [(base.sides[number], run.sides[number]) for number in common]
    else:
        found = list(zip(base.sides.values(), run.sides.values(), strict=False))
    if len(found) == 1:
        return compare(*found[0], rules, margin)
    return over_repeats(found, base.label, run.label, rules, margin)


# -- terminal ---------------------------------------------------------------------------------------------------------


def render(comparison: Comparison, *, width: int = 80, color: bool = False) -> str:
    """The comparison as text that ends in a newline."""
    console, finished = canvas(width, color)
    console.print(Text.assemble(("COMPARE ", "bold cyan"), f" {plain(comparison.base)} → {plain(comparison.run)}"))
    if comparison.different:
        heading(console, "DIFFERENT WORKLOADS", "what was asked of them is not the same")
        for key, (a, b) in comparison.different.items():
            item(console, "•", f"{plain(key)}: {plain(a, 60)} → {plain(b, 60)}", "yellow")
    heading(console, "CHANGES", "95 % interval of the change; no evidence: it may be none, or within the margin")
    table = columns("base", "run", "change", "95 % interval", "")
    for change in comparison.changes:
        _row(table, change)
    console.print(table)
    _slo(console, comparison)
    if comparison.rules:
        heading(console, "REGRESSION", "thresholds")
        for change in comparison.rules:
            mark, style = ("✗", "bold red") if change.regressed else ("✓", "green")
            item(console, mark, f"{plain(change.rule or '')}: {told(change)}", style)
    for note in comparison.notes:
        item(console, "·", plain(note), "dim")
    return finished()


def _row(table: Any, change: Change) -> None:
    style = STYLES[change.verdict]
    table.add_row(
        name(change),
        value(change, change.base),
        value(change, change.run),
        relative(change),
        interval(change),
        Text(change.verdict if change.verdict != "no evidence" else "same" if change.within_margin else "–", style),
    )


def _slo(console: Console, comparison: Comparison) -> None:
    if comparison.slo:
        heading(console, "OBJECTIVES", "whose outcome changed")
        for line in comparison.slo:
            item(console, "•", plain(line), "red" if "→ missed" in line else "green")


def name(change: Change) -> str:
    """Name of a line: short metric and percentile."""
    metric, _, point = change.metric.rpartition("_")
    short = f"{NAMES[metric]} {point}" if metric in NAMES else NAMES.get(change.metric, change.metric)
    return short if change.klass is None else f"{plain(change.klass, 12)} {short}"


def value(change: Change, amount: float | None) -> str:
    if amount is None:
        return "–"
    return share(amount) if change.unit == "share" else number(amount)


def relative(change: Change) -> str:
    if change.difference is None:
        return "–"
    if change.unit == "share" or change.relative is None:
        return _signed(change.difference, change.unit)
    return f"{100 * change.relative:+.1f} %"


def interval(change: Change) -> str:
    if change.unit != "share" and change.relative_ci95 is not None:
        low, high = change.relative_ci95
        return f"{100 * low:+.1f}…{100 * high:+.1f} %"
    if change.ci95 is None:
        return "too few"
    return f"{_signed(change.ci95[0], change.unit)}…{_signed(change.ci95[1], change.unit)}"


def _signed(amount: float, unit: str) -> str:
    return f"{100 * amount:+.2f} pp" if unit == "share" else f"{amount:+.3g}"


def told(change: Change) -> str:
    """A line of the table in words."""
    return (
        f"{value(change, change.base)} → {value(change, change.run)}, {relative(change)} "
        f"({interval(change)}): {change.verdict}"
    )


def cases(comparison: Comparison) -> list[Case]:
    """JUnit cases: a threshold each, and each objective that was met before."""
    group = f"llmgen.compare.{comparison.run}"
    found = [
        Case(
            group=group,
            name=change.rule or change.metric,
            outcome="failure" if change.regressed else "skipped" if change.ci95 is None else "passed",
            message=told(change),
        )
        for change in comparison.rules
    ]
    for line in comparison.slo:
        found.append(Case(group=group, name=line, outcome="failure" if " met → missed" in line else "passed"))
    return found


# -- page -------------------------------------------------------------------------------------------------------------


def render_html(comparisons: Sequence[Comparison], runs: Sequence[Side]) -> str:
    """A page: the tables, and the curves of all sides (the base first) over each other."""
    figures = _figures(runs)
    parts = [f"<header><h1>{page.text(_title(comparisons))}</h1></header>"]
    for comparison in comparisons:
        parts.append(_section(comparison))
    parts += [page.picture(place) for place in figures]
    return page.document("comparison · llmgen", "\n".join(parts), figures)


def _title(comparisons: Sequence[Comparison]) -> str:
    first, more = comparisons[0], len(comparisons) - 1
    return f"{first.base} → {first.run}" + (f" and {more} more" if more else "")


def _section(comparison: Comparison) -> str:
    blocks = []
    if comparison.different:
        keys = [(key, a, b) for key, (a, b) in comparison.different.items()]
        blocks.append("<h3>Different workloads</h3>" + page.table(("key", "base", "run"), keys))
    rows = [
        (name(c), value(c, c.base), value(c, c.run), relative(c), interval(c), _verdict(c)) for c in comparison.changes
    ]
    marks = [{"worse": "bad", "better": "good"}.get(c.verdict, "") for c in comparison.changes]
    blocks.append(page.table(("", "base", "run", "change", "95 % interval", "verdict"), rows, marks))
    if comparison.rules:
        lines = [(c.rule or "", told(c), "regressed" if c.regressed else "kept") for c in comparison.rules]
        blocks.append("<h3>Thresholds</h3>" + page.table(("rule", "", ""), lines, _marks(comparison.rules)))
    items = [*comparison.slo, *comparison.notes]
    if items:
        blocks.append(f"<ul>{''.join(f'<li>{page.text(line)}</li>' for line in items)}</ul>")
    return page.section(f"{comparison.base} → {comparison.run}", "".join(blocks))


def _marks(changes: Sequence[Change]) -> list[str]:
    return ["bad" if change.regressed else "good" for change in changes]


def _verdict(change: Change) -> str:
    return "same within the margin" if change.verdict == "no evidence" and change.within_margin else change.verdict


def _figures(runs: Sequence[Side]) -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    for metric, title in (("ttft_from_due", "TTFT from due"), ("itl", "ITL"), ("e2e_from_due", "E2E from due")):
        curves = [(side.label, *curve) for side in runs if (curve := _curve(side, metric)) is not None]
        if curves:
            found[f"cdf-{metric}"] = _overlaid(curves, f"{title}, CDF", "ms", "share", logarithmic=True)
    courses = []
    for side in runs:
        windows = side.summary.windows
        if windows is not None:
            x = (np.arange(len(windows.scheduled)) + 0.5) * windows.width_s
            courses.append((side.label, x, np.array(windows.ttft_from_due_p50_ms, np.float64)))
    if courses:
        found["over-time"] = _overlaid(courses, "Median TTFT from due over time", "seconds since the start", "ms")
    return found


def _curve(side: Side, metric: str) -> tuple[np.ndarray, np.ndarray] | None:
    """CDF of raw values; of a summary its percentiles."""
    dist = getattr(side.summary.latency, f"{metric}_ms")
    if dist is None:
        return None
    if side.m is None:
        shares = [0.0, *QUANTILES.values(), 1.0]
        return np.array([dist.min, *(getattr(dist, point) for point in QUANTILES), dist.max]), np.array(shares)
    if metric == "itl":
        pool = side.m.pool("itl", side.m.everyone)
        return None if pool is None else series.cdf(pool.values, pool.weights)
    values = side.m.value(metric)[side.m.inside]
    return series.cdf(values[~np.isnan(values)])


def _overlaid(
    curves: Sequence[tuple[str, np.ndarray, np.ndarray]], title: str, x: str, y: str, *, logarithmic: bool = False
) -> Figure:
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": label(name),
            "x": points(xs),
            "y": points(ys),
            "line": {"color": PALETTE[(7, 0, 1, 2, 3, 4, 5, 6)[number % 8]], "width": 1.8},
        }
        for number, (name, xs, ys) in enumerate(curves)
    ]
    layout = {
        "title": {"text": title},
        "xaxis": {"title": {"text": x}, "type": "log" if logarithmic else "linear"},
        "yaxis": {"title": {"text": y}, "rangemode": "tozero"},
        "height": 360,
        "hovermode": "x unified",
    }
    return {"data": data, "layout": layout}


def write_html(path: Path, comparisons: Sequence[Comparison], runs: Sequence[Side]) -> None:
    page.write_for("--html", path, render_html(comparisons, runs))


def encode(comparisons: Sequence[Comparison]) -> bytes:
    """The comparisons as JSON."""
    return (
        msgspec.json.format(msgspec.json.encode({"schema": "llmgen.compare/1", "runs": comparisons}), indent=2) + b"\n"
    )
