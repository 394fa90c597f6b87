"""The terminal report of a suite."""

from __future__ import annotations

from llmgen.matrix import label_of
from llmgen.metrics.factors import CellRun, Streamed, effects
from llmgen.report.suite import render_suite

FACTORS = {"workload.output": ["64", "256\x1b[31m"]}
CELLS = [{"workload.output": label} for label in FACTORS["workload.output"]]


def render(runs: list[CellRun], streamed: list[Streamed] | None = None) -> str:
    return render_suite("suite x", CELLS, runs, effects(runs, FACTORS), streamed or [], label_of, width=120)


def test_cells_effects_and_no_escape_sequences() -> None:
    runs = [
        CellRun(cell=cell, repeat=number, levels=CELLS[cell], figures={"e2e_p50": 100.0 + 50 * cell + number})
        for cell in (0, 1)
        for number in (0, 1)
    ]
    text = render(runs)
    assert "workload.output: against 64" in text
    (row,) = [line for line in text.splitlines() if "e2e p50" in line and "+50.00" in line]
    assert "100.5" in row
    assert "(+49.8 %)" in row
    assert "*" in row
    assert "\x1b" not in text


def test_nothing_yet() -> None:
    text = render([])
    assert "output=64" in text
    assert "against" not in text


def test_what_is_not_told_is_a_dash() -> None:
    one = Streamed(
        levels={},
        pairs=3,
        ttft_p50_ms=None,
        streamed_e2e_p50_ms=1234.0,
        whole_e2e_p50_ms=1200.0,
        difference_p50_ms=-34.0,
        ci95=(-40.0, -30.0),
        same_output=None,
    )
    row = next(line for line in render([], [one]).splitlines() if "1,234" in line)
    assert row.split()[:3] == ["as", "configured", "3"]
    assert row.split().count("-") == 2
    assert "-34.00" in row
