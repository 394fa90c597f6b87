"""Suites against the embedded endpoint: cells, resuming, what is told, by Python and by the command."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import llmgen
from llmgen import series
from llmgen.config import RunConfig, load_config, merge
from llmgen.errors import ConfigError, TargetError
from llmgen.series import read_suite
from llmgen.suite import run_suite
from running import configuration, llmgen_command, run_command

MATRIX = {"workload.output": [4, 16], "workload.stream": [True, False]}


def small(url: str, out: Path, **more: Any) -> RunConfig:
    config = configuration(url, out, **{"load.requests": 10})
    return msgspec.structs.replace(config, matrix=MATRIX, repeat=2, name="sampling", **more)


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_a_matrix_from_start_to_report(tmp_path: Path, serve: Any) -> None:
    endpoint = serve(ttft="5ms", itl="3ms")
    result = run_suite(small(endpoint.url, tmp_path), quiet=True)
    suite = result.suite
    assert (suite.state, result.exit_code, suite.done, len(suite.cells)) == ("complete", 0, 8, 4)
    directories = sorted(path.name for path in result.directory.iterdir() if path.is_dir() and not path.is_symlink())
    assert directories == [f"{number:04d}" for number in range(1, 9)]
    assert (tmp_path / "latest").resolve() == result.directory.resolve()
    for one in suite.runs:
        levels = suite.cells[one.cell].levels
        info = json.loads((result.directory / f"{one.number:04d}" / "run.json").read_text())
        assert info["config"]["workload"]["output"] == int(levels["workload.output"])
        assert info["config"]["workload"]["stream"] is (levels["workload.stream"] == "true")
        assert info["tags"] == {**levels, "repeat": str(one.repeat)}
        assert info["seed"] == one.seed == 1 + one.repeat
    # the same repeat has the same arrivals in every cell
    due = {}
    for one in suite.runs:
        found = np.load(result.directory / f"{one.number:04d}" / "requests.npy")
        due.setdefault(one.repeat, []).append(found["due"] - found["due"][0])
    assert all(np.array_equal(first, other) for first, *others in due.values() for other in others)
    tokens = next(
        one for one in suite.effects if one.figure == "output_tokens_per_request" and one.factor == "workload.output"
    )
    assert (tokens.base, tokens.level, tokens.pairs, tokens.base_mean, tokens.difference) == ("4", "16", 4, 4, 12)
    assert tokens.ci95 == (12, 12)
    e2e = next(one for one in suite.effects if one.figure == "e2e_p50" and one.factor == "workload.output")
    assert e2e.difference > 12 * 3 * 0.9
    assert [(one.levels, one.pairs) for one in suite.streamed] == [
        ({"workload.output": "4"}, 20),
        ({"workload.output": "16"}, 20),
    ]
    assert all(one.same_output == 1.0 for one in suite.streamed)


def test_a_suite_that_broke_goes_on_where_it_was(tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(serve().url, tmp_path)
    real, calls = series.run, []

    def breaks(config: RunConfig, **settings: Any) -> Any:
        calls.append(settings["directory"].name)
        if len(calls) == 4:
            settings["directory"].mkdir()  # what it began stays
            raise TargetError("the server has gone")
        return real(config, **settings)

    monkeypatch.setattr(series, "run", breaks)
    with pytest.raises(TargetError, match="has gone"):
        run_suite(config, quiet=True)
    (directory,) = [path for path in tmp_path.iterdir() if not path.is_symlink()]
    broken = read_suite(directory)
    assert (broken.state, broken.done) == ("incomplete", 3)
    assert calls == ["0001", "0002", "0003", "0004"]
    # started otherwise it is another suite; started the same it is this one
    other = run_suite(msgspec.structs.replace(config, repeat=1, matrix={"workload.output": [4]}), quiet=True)
    assert other.directory != directory
    assert other.suite.state == "complete"
    calls[:] = ["kept"] * 10
    result = run_suite(config, quiet=True)
    assert result.directory == directory
    assert calls[10:] == ["0004-2", "0005", "0006", "0007", "0008"]
    assert (result.suite.state, result.suite.done) == ("complete", 8)
    # complete: the next start is a new suite
    calls[:] = ["kept"] * 20
    assert run_suite(config, quiet=True).directory != directory


def test_two_processes_do_not_run_the_same_suite(tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(serve().url, tmp_path)

    def inner(_: RunConfig, **__: Any) -> Any:
        with pytest.raises(ConfigError, match="being run by another process"):
            run_suite(config, quiet=True)
        raise TargetError("enough")

    monkeypatch.setattr(series, "run", inner)
    with pytest.raises(TargetError, match="enough"):
        run_suite(config, quiet=True)


def test_a_cell_that_cannot_be_is_refused_before_anything_runs(tmp_path: Path) -> None:
    config = small("http://127.0.0.1:9", tmp_path)
    wrong = msgspec.structs.replace(config, slo=("ttft<1s",))  # there is no TTFT without streaming
    with pytest.raises(ConfigError, match=r"matrix \(output=4 stream=false\): .*ttft"):
        run_suite(wrong, quiet=True)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="matrix, repeat: are for a suite"):
        llmgen.run(config)


def test_the_exit_code_is_the_first_that_applies(tmp_path: Path, serve: Any) -> None:
    config = small(serve().url, tmp_path)
    config = msgspec.structs.replace(config, slo=("e2e_p50<20ms",), matrix={"workload.output": [2, 60]}, repeat=1)
    result = run_suite(config, quiet=True)
    assert sorted(one.exit_code for one in result.suite.runs) == [0, 3]
    assert result.exit_code == 3


def test_the_command(tmp_path: Path, serve: Any) -> None:
    endpoint = serve()
    path = tmp_path / "m.yaml"
    path.write_text(
        f"""
target: {{urls: ["{endpoint.url}"]}}
load: {{arrival: constant, rate: 200, requests: 10}}
workload: {{input: 8, output: 4}}
client: {{workers: 1}}
matrix: {{workload.body.temperature: [0, 1], workload.stream: [true, false]}}
"""
    )
    out = tmp_path / "runs"
    done = run_command("run", path, "--out", out, "--repeat", 1, "--name", "temperature")
    assert done.returncode == 0, done.stderr
    for cell in ("temperature=0 stream=true", "temperature=1 stream=false"):
        assert f": {cell}\n" in done.stderr, "cells are listed before they start"
    assert done.stderr.index("cell 4") < done.stderr.index("run 1 of 4")
    assert "workload.body.temperature: against 0" in done.stdout
    assert "the same bodies streamed and not" in done.stdout
    again = run_command("report", out / "latest")
    assert again.returncode == 0
    assert "suite temperature: 4 of 4 runs" in again.stdout
    told = json.loads(run_command("report", out / "latest", "--format", "json").stdout)
    assert told["schema"] == "llmgen.suite/1"
    assert len(told["runs"]) == 4
    listed = run_command("list", out)
    assert "suite 4/4" in listed.stdout
    assert run_command("report", out / "latest", "--format", "html").returncode == 2


def test_an_interrupt_ends_the_suite_and_the_next_start_goes_on(tmp_path: Path, serve: Any) -> None:
    endpoint = serve()
    flags = ("--rate", 20, "--duration", "3s", "--output-tokens", 4, "--workers", 1, "--repeat", 3, "--out", tmp_path)
    command = ("run", "--url", endpoint.url, *flags, "--name", "broken")
    process = llmgen_command(*command)
    assert process.stderr is not None
    for line in process.stderr:  # ends with the process at the latest
        if "run 1: valid" in line or "run 1: suspect" in line or "run 1: invalid" in line:
            break
    wait_for(lambda: running(tmp_path))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    (directory,) = [path for path in tmp_path.iterdir() if not path.is_symlink()]
    assert (read_suite(directory).state, read_suite(directory).done) == ("incomplete", 1)
    assert (directory / "0002" / "summary.json").exists(), "an interrupted run keeps its records"
    done = run_command(*command)
    assert done.returncode == 0, done.stderr
    assert "resumed: 1 of 3 runs are there" in done.stderr
    suite = read_suite(directory)
    assert [one.directory for one in suite.runs] == ["0001", "0002-2", "0003"]
    assert suite.state == "complete"


def running(out: Path) -> list[Path]:
    """run.json of the second run, once its load has begun."""
    found = list(out.glob("*/0002/run.json"))
    return [path for path in found if json.loads(path.read_text())["start_ns"] > 0]


def wait_for(look: Callable[[], list[Path]]) -> list[Path]:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if found := look():
            return found
        time.sleep(0.02)
    pytest.fail("it did not come to that")


def test_the_example(tmp_path: Path, serve: Any) -> None:
    example = Path(__file__).parents[2] / "examples" / "sampling-matrix.yaml"
    flags = {"target.urls": (serve().url,), "load.rate": 100.0, "load.duration": 0.3, "load.warmup": 0.0, "repeat": 1}
    config = merge(load_config(example), {**flags, "workload.input": 8, "out": str(tmp_path)})
    result = run_suite(config, quiet=True)
    assert (result.exit_code, result.suite.done, len(result.suite.factors)) == (0, 8, 3)


def test_repeating_one_configuration(tmp_path: Path, serve: Any) -> None:
    flags = ("--rate", 200, "--requests", 5, "--output-tokens", 4, "--workers", 1, "--out", tmp_path)
    done = run_command("run", "--url", serve().url, *flags, "--repeat", 2, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [one["seed"] for one in told["runs"]] == [1, 2]
    assert told["effects"] == []
