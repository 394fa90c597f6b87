"""`llmgen compare`: a regression verdict on runs against a base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmgen.cli.options import use_color

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgen.metrics.comparison import Comparison, Rule, Side
    from llmgen.report.compare import Group

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
    """Compare each RUN with BASE: run directories, suites, or a committed summary.json.

    Of two suites each cell (search, test: each step) is compared with the one of the same levels, over its repeats.
    """
    from llmgen.metrics.comparison import parse_rule
    from llmgen.report import compare as report

    given = [parse_rule(rule) for rule in fail_on]
    bases = taken(base)
    others = [group for path in runs for group in taken(path)]
    found = report.paired(bases, others)
    for key in report.alone(bases, others):
        click.echo(f"llmgen: only one side has {key}: not compared", err=True)
    sides = [side for _, run in found for side in run.sides.values()]
    comparisons = [report.compared(a, b, given or configured(b), margin / 100) for a, b in found]
    if html is not None:
        bases_shown = [side for group in bases for side in group.sides.values()]
        report.write_html(html, comparisons, [*bases_shown, *sides])
    if junit is not None:
        write_junit(junit, comparisons)
    if as_json:
        click.echo(report.encode(comparisons), nl=False)
    else:
        texts = [report.render(comparison, color=use_color()) for comparison in comparisons]
        click.echo("\n".join(texts), nl=False)
    return outcome(comparisons, sides)


def taken(path: Path) -> list[Group]:
    """What stands at the path; says what of a suite is left out."""
    from llmgen.report import compare as report

    found, missing = report.groups(path)
    if missing:
        click.echo(f"llmgen: {path}: {missing} incomplete runs are left out", err=True)
    return found


def configured(group: Group) -> list[Rule]:
    """The thresholds of the runs' own configuration."""
    from llmgen.metrics.comparison import parse_rule

    side = next(iter(group.sides.values()))
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
