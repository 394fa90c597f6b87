"""`llmgen compare`: exit codes, suites, pages, and text from files that may be hostile."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fabricate import MS, event_rows, request_rows, run_info, write_run
from llmgen import cli
from llmgen.metrics.summary import summarise, write_summary
from llmgen.records import open_run

HOSTILE = "</script><script>alert(1)</script>\x1b[31m\0"


def make(path: Path, *, slower: float = 1.0, seed: int = 1, regression: Any = (), **info: Any) -> Path:
    rng = np.random.default_rng(seed)
    rows = request_rows(1500, every_ms=20)
    wait = (rng.gamma(4, 25, 1500) * slower * MS).astype(np.int64)
    for name in ("first_token", "first_visible", "last_token", "end"):
        rows[name] += wait
    told = run_info(1500, every_ms=20, **info)
    told["config"]["regression"] = list(regression)
    write_run(path, rows, event_rows(rows), told)
    write_summary(path, summarise(open_run(path)))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs")
    make(path / "base")
    make(path / "same", seed=2)
    make(path / "slow", slower=1.4, seed=2, regression=["ttft_p95:5%"])
    return path


def call(*arguments: str | Path) -> int:
    return cli.call(["compare", *map(str, arguments)])


def test_a_regression_is_exit_3(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(folder / "base", folder / "slow", "--fail-on", "ttft_p95:5%") == 3
    out = capfd.readouterr().out
    assert "✗ ttft_p95:5%" in out
    assert max(map(len, out.splitlines())) <= 80
    assert call(folder / "base", folder / "same", "--fail-on", "ttft_p95:5%") == 0


def test_thresholds_of_the_configuration_count_without_others(folder: Path) -> None:
    assert call(folder / "base", folder / "slow") == 3
    assert call(folder / "base", folder / "slow", "--fail-on", "tpot_p50:5%") == 0
    assert call(folder / "slow", folder / "base") == 0


def test_a_committed_summary_is_enough_as_base(folder: Path, tmp_path: Path) -> None:
    baseline = shutil.copy(folder / "base" / "summary.json", tmp_path / "baseline.json")
    assert call(baseline, folder / "slow") == 3
    assert call(baseline, folder / "same", "--fail-on", "ttft_p95:5%") == 0


def test_an_unusable_run_is_exit_4(folder: Path, tmp_path: Path) -> None:
    bad = make(tmp_path / "bad", slower=1.4, state="incomplete", reasons=["interrupted"])
    assert call(folder / "base", bad, "--fail-on", "ttft_p95:5%") == 4


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema": "llmgen.summary/9"}', b"\xff\xfe\0"])
def test_a_broken_base_is_one_line_and_exit_2(
    folder: Path, tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "base.json"
    file.write_bytes(content)
    assert call(file, folder / "slow") == 2
    assert len(capfd.readouterr().err.splitlines()) == 1
    assert call(tmp_path / "none", folder / "slow") == 2
    assert call(folder / "base", folder / "slow", "--fail-on", "ttft:5%") == 2


def test_json(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(folder / "base", folder / "slow", folder / "same", "--json") == 3
    document = json.loads(capfd.readouterr().out)
    assert document["schema"] == "llmgen.compare/1"
    assert [run["run"] for run in document["runs"]] == ["slow", "same"]
    changes = {change["metric"]: change for change in document["runs"][0]["changes"]}
    assert changes["ttft_p50"]["verdict"] == "worse"


def test_junit(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.xml"
    call(folder / "base", folder / "slow", "--fail-on", "ttft_p95:5%", "--fail-on", "tpot_p99:5%", "--junit", file)
    text = file.read_text()
    assert 'tests="2" failures="1"' in text


def test_the_page_draws_all_runs_and_keeps_their_names_harmless(folder: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    make(odd, seed=3, classes=[{"name": HOSTILE, "slo": ["ttft<1ms"], "stream": True}], model=HOSTILE)
    page = tmp_path / "compare.html"
    call(folder / "base", odd, folder / "slow", "--html", page)
    text = page.read_text()
    assert text.count("<script") == 3
    assert "\x1b" not in text
    assert "\0" not in text
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    assert set(figures) == {"cdf-ttft_from_due", "cdf-itl", "cdf-e2e_from_due", "over-time"}
    assert [trace["name"] for trace in figures["cdf-ttft_from_due"]["data"]] == ["base", "odd", "slow"]
    assert page.stat().st_size < 8_000_000


def test_hostile_text_cannot_paint_the_terminal(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    odd = make(tmp_path / "odd", model=HOSTILE, reasons=[HOSTILE])
    call(folder / "base", odd)
    out = capfd.readouterr().out
    assert "\x1b" not in out
    assert "\0" not in out
