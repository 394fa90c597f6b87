"""`llmgen compare`: a regression verdict on runs against a base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmgen.cli.options import use_color

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgen.metrics.comparison import Comparison, Rule, Side

REGRESSED, UNUSABLE = 3, 4


@click.command(
    "compare",
    short_help="Hold runs against a base: worse, better or no evidence.",
    epilog="""\b
Examples:
  llmgen compare runs/before runs/after
  llmgen compare baseline/summary.json runs/latest --fail-on ttft_p95:5%
  llmgen compare runs/a runs/b runs/c --html compare.html
\b
A change is worse or better if it is beyond the margin and its 95 % interval
excludes no change. Thresholds are METRIC_STAT:PERCENT, or :TIME of a latency,
like ttft_p95:5% tpot_p99:2ms error_rate:1% 'class:chat e2e_p90:10%'; without
--fail-on those of the run's configuration (regression:) count.
Exit codes: 0 no regression, 3 a threshold crossed or an objective newly missed,
4 a run that is invalid or incomplete, 2 usage.""",
)
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--fail-on", metavar="RULE", multiple=True, help="Regression threshold. Repeatable.")
@click.option("--margin", type=float, default=5.0, show_default=True, metavar="PERCENT",
              help="What a change must exceed in the table.")  # fmt: skip
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with overlaid curves.")
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Thresholds as JUnit XML, for CI.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def compare_command(
    base: Path,
    runs: tuple[Path, ...],
    fail_on: tuple[str, ...],
    margin: float,
    html: Path | None,
    junit: Path | None,
    as_json: bool,
) -> int:
    """Compare each RUN with BASE: run directories, suites, or a committed summary.json."""
    from llmgen.metrics.comparison import compare, parse_rule
    from llmgen.report import compare as report

    given = [parse_rule(rule) for rule in fail_on]
    bases = report.sides(base)
    others = [side for path in runs for side in report.sides(path)]
    found = report.pairs(bases, others)
    comparisons = [compare(a, b, given or configured(b), margin / 100) for a, b in found]
    if html is not None:
        report.write_html(html, comparisons, [*bases, *others])
    if junit is not None:
        write_junit(junit, comparisons)
    if as_json:
        click.echo(report.encode(comparisons), nl=False)
    else:
        texts = [report.render(comparison, color=use_color()) for comparison in comparisons]
        click.echo("\n".join(texts), nl=False)
    return outcome(comparisons, [b for _, b in found])


def configured(side: Side) -> list[Rule]:
    """The thresholds of the run's own configuration."""
    from llmgen.metrics.comparison import parse_rule

    config = {} if side.m is None else side.m.run.info.get("config") or {}
    return [parse_rule(str(rule)) for rule in config.get("regression") or ()]


def write_junit(path: Path, comparisons: Sequence[Comparison]) -> None:
    from llmgen.report import compare as report
    from llmgen.report import junit

    junit.write(path, junit.render("llmgen compare", [case for one in comparisons for case in report.cases(one)]))


def outcome(comparisons: Sequence[Comparison], runs: Sequence[Side]) -> int:
    """An unusable run proves nothing, so it comes before a regression."""
    if any(side.summary.verdict.status in ("invalid", "incomplete") for side in runs):
        return UNUSABLE
    return REGRESSED if any(comparison.regressed for comparison in comparisons) else 0
