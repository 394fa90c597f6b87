"""`llmgen export` and `llmgen compare` on suites: every complete run's rows, cell against cell over the repeats."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from fabricate import MS, event_rows, request_rows, run_info, write_run
from llmgen import cli
from llmgen.metrics.summary import summarise, write_summary
from llmgen.records import open_run

REQUESTS = 600


def make(path: Path, *, ttft_ms: float, seed: int) -> None:
    rows = request_rows(REQUESTS, every_ms=20)
    wait = (np.random.default_rng(seed).gamma(9, ttft_ms / 9, REQUESTS) * MS).astype(np.int64)
    for name in ("first_token", "first_visible", "last_token", "end"):
        rows[name] += wait
    write_run(path, rows, event_rows(rows), run_info(REQUESTS, every_ms=20))
    write_summary(path, summarise(open_run(path)))


def matrix(path: Path, ttft_ms: dict[str, float], repeat: int, seed: int, *, backwards: bool = False) -> Path:
    """A complete suite of cells named by `temperature`, and a run that is not complete."""
    names = list(ttft_ms)
    turns = [(cell, number) for number in range(repeat) for cell in range(len(names))]
    runs = []
    for turn, (cell, number) in enumerate(reversed(turns) if backwards else turns, 1):
        make(path / f"{turn:04d}", ttft_ms=ttft_ms[names[cell]], seed=seed + 10 * turn)
        runs.append({"number": turn, "cell": cell, "repeat": number, "state": "complete", "directory": f"{turn:04d}"})
    runs.append({"number": 99, "cell": 0, "repeat": 9, "state": "incomplete", "directory": "0099"})
    cells = [{"cell": n, "levels": {"workload.body.temperature": name}} for n, name in enumerate(names)]
    (path / "suite.json").write_text(json.dumps({"kind": "matrix", "cells": cells, "runs": runs}))
    return path


def series(path: Path, steps: list[tuple[str, float]]) -> Path:
    """As a search or a test leaves it: no cells, a label for each run."""
    runs = []
    for turn, (label, ttft_ms) in enumerate(steps, 1):
        make(path / f"{turn:04d}", ttft_ms=ttft_ms, seed=turn)
        runs.append({"number": turn, "label": label, "state": "complete", "directory": f"{turn:04d}"})
    (path / "suite.json").write_text(json.dumps({"kind": "search", "runs": runs}))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suites")
    matrix(path / "before", {"0": 100, "1": 100}, 3, 1)
    matrix(path / "after", {"0": 100, "1": 150, "2": 100}, 3, 2, backwards=True)
    series(path / "search", [("rate 10", 100), ("rate 20", 120), ("rate 10", 100)])
    series(path / "again", [("rate 20", 200), ("rate 10", 100), ("rate 10", 100)])
    return path


def call(*arguments: Any) -> int:
    return cli.call(list(map(str, arguments)))


# -- export ------------------------------------------------------------------------------------------------------------


def test_all_runs_of_a_matrix_are_exported(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("export", folder / "after") == 0
    found = capfd.readouterr()
    records = [json.loads(line) for line in found.out.splitlines()]
    assert len(records) == 9 * REQUESTS
    assert list(records[0])[:5] == ["run", "cell", "repeat", "label", "index"]
    assert [records[0][name] for name in ("run", "cell", "repeat", "label")] == [1, 2, 2, "temperature=2"]
    told = {(one["run"], one["cell"], one["repeat"]) for one in records}
    assert len(told) == 9
    assert {(one["cell"], one["label"]) for one in records} == {(n, f"temperature={n}") for n in range(3)}
    assert found.err == "llmgen: 1 runs that are not complete are left out\n"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_series_is_exported_by_its_labels(folder: Path, tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"r.{kind}"
    assert call("export", folder / "search", "--format", kind, "--output", file) == 0
    if kind == "csv":
        with file.open(newline="") as text:
            rows: list[dict[str, Any]] = list(csv.DictReader(text))
    else:
        rows = pyarrow.parquet.read_table(file).to_pylist()
    found = {(int(row["run"]), row["label"], int(row["repeat"])) for row in rows}
    assert found == {(1, "rate 10", 0), (2, "rate 20", 0), (3, "rate 10", 1)}
    assert len(rows) == 3 * REQUESTS


@pytest.mark.parametrize("kind", ["vllm-json", "openmetrics"])
def test_documents_of_one_run_say_so(folder: Path, capfd: pytest.CaptureFixture[str], kind: str) -> None:
    assert call("export", folder / "search", "--format", kind) == 2
    assert f"--format {kind}: is one run's, {folder / 'search'} is a suite of 3: name one" in capfd.readouterr().err


def test_a_suite_without_a_run(tmp_path: Path, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "suite.json").write_text(json.dumps({"runs": [{"state": "complete", "directory": "../etc"}]}))
    for command in (["export", tmp_path], ["compare", tmp_path, folder / "search"]):
        assert call(*command) == 2
        assert "a suite without a complete run" in capfd.readouterr().err
    (tmp_path / "suite.json").write_text("[1")
    assert call("export", tmp_path) == 2


# -- compare -----------------------------------------------------------------------------------------------------------


def test_cells_are_compared_over_their_repeats(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("compare", folder / "before", folder / "after", "--fail-on", "ttft_p50:5%") == 3
    found = capfd.readouterr()
    heads = re.findall(r"COMPARE +(.+?) → (.+)", found.out)
    assert set(heads) == {(f"before (temperature={n})", f"after (temperature={n})") for n in ("0", "1")}
    assert "✓ ttft_p50:5%" in found.out
    assert "✗ ttft_p50:5%" in found.out
    assert found.out.count("3 runs each") == 2
    assert "only one side has temperature=2: not compared" in found.err
    assert found.err.count("incomplete runs are left out") == 2
    assert max(map(len, found.out.splitlines())) <= 80


def test_the_interval_is_that_of_the_runs_mean(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("compare", folder / "before", folder / "after", "--json") == 0
    for one in json.loads(capfd.readouterr().out)["runs"]:
        change = next(change for change in one["changes"] if change["metric"] == "ttft_p50")
        slower = one["run"] == "after (temperature=1)"
        assert change["verdict"] == ("worse" if slower else "no evidence")
        low, high = change["ci95"]
        assert low < change["difference"] < high
        assert change["difference"] == pytest.approx(change["run"] - change["base"])
        assert abs(change["difference"] - (48 if slower else 0)) < 12


def test_steps_of_a_series_are_compared_by_their_labels(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("compare", folder / "search", folder / "again") == 0
    heads = re.findall(r"COMPARE +(.+?) → (.+)", capfd.readouterr().out)
    # a step that ran once is told by its runs, one that ran twice by its label
    assert set(heads) == {("search/0002", "again/0001"), ("search (rate 10)", "again (rate 10)")}


def test_one_run_against_a_suite(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("compare", folder / "before" / "0001", folder / "search") == 0
    heads = re.findall(r"COMPARE +(\S+) → (\S+)", capfd.readouterr().out)
    assert heads == [("0001", "search/0001"), ("0001", "search/0003"), ("0001", "search/0002")]
    assert call("compare", folder / "search", folder / "before" / "0001") == 2
    assert "the base is a suite, 0001 is one run: compare it with one of the suite's runs" in capfd.readouterr().err


def test_suites_without_a_common_cell(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("compare", folder / "before", folder / "search") == 2
    err = capfd.readouterr().err
    assert "no cell of the suite has a counterpart in the base, whose cells are: temperature=0; temperature=1" in err
