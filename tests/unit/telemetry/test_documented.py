"""docs/telemetry.md lists the series that there are."""

from __future__ import annotations

import re
from pathlib import Path

from llmgen.telemetry.families import RULES, SERIES

DOCUMENT = Path(__file__).parents[3] / "docs" / "telemetry.md"


def test_every_series_is_documented_and_no_other() -> None:
    table = DOCUMENT.read_text().split("| series |")[1].split("\n\n")[0]
    listed = {name for cell in re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE) for name in cell.split()}
    assert listed == set(SERIES)


def test_every_rule_is_of_a_series() -> None:
    for rule in RULES:
        base, _, part = rule.series.partition(".")
        assert base in SERIES
        assert part in ("", "sum", "count")
        assert part == "" or SERIES[base].kind == "histogram"
