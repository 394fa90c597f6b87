"""A series of runs that is decided as it goes: resuming, what breaks a run, interrupts, and who else reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from llmgen import series as module
from llmgen.config import RunConfig, merge
from llmgen.errors import ConfigError, DiskError, TargetError
from llmgen.series import Interrupted, Series, opened, read_suite
from running import configuration, run_command


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def doubling(config: RunConfig, series: Series) -> None:
    """Twice the rate until it is 400: the simplest function of what it has seen."""
    rate = 100.0
    while rate <= 400:
        taken = series.run(f"rate {rate:g}", merge(config, {"load.rate": rate, "load.requests": 10}), rate=rate)
        assert taken.summary.requests.scheduled == len(taken.open().requests) == 10
        rate *= 2
    series.conclude({"last": rate / 2}, "found")


def run(config: RunConfig, function: Callable[[RunConfig, Series], None] = doubling, **more: Any) -> Path:
    with opened(config, "trial", quiet=True, **more) as series:
        function(config, series)
    return series.directory


@pytest.fixture
def config(tmp_path: Path, serve: Any) -> RunConfig:
    return configuration(serve().url, tmp_path / "runs", name="double")


def test_a_series_and_those_who_read_it(config: RunConfig) -> None:
    directory = run(config)
    suite = read_suite(directory)
    assert (suite.kind, suite.state, suite.outcome, suite.conclusion) == ("trial", "complete", "found", {"last": 400})
    assert [(one.label, one.rate, one.directory) for one in suite.runs] == [
        ("rate 100", 100, "0001"),
        ("rate 200", 200, "0002"),
        ("rate 400", 400, "0003"),
    ]
    report = run_command("report", directory)
    assert report.returncode == 0, report.stderr
    assert "trial double: found" in report.stdout
    assert "3 rate 400" in report.stdout
    told = json.loads(run_command("report", directory, "--format", "json").stdout)
    assert told["conclusion"] == {"last": 400}
    assert "trial found" in run_command("list", directory.parent).stdout
    compared = run_command("compare", directory, directory, "--json")
    assert [one["run"].rpartition("/")[2] for one in json.loads(compared.stdout)["runs"]] == ["0001", "0002", "0003"]
    exported = [json.loads(line) for line in run_command("export", directory).stdout.splitlines()]
    assert {one["run"] for one in exported} == {1, 2, 3}
    assert len({(one["label"], one["repeat"]) for one in exported}) == 3
    assert len(exported) == sum(len(np.load(path)) for path in directory.glob("0*/requests.npy"))
    # complete: the next start is a new series
    assert run(config) != directory


def test_what_is_complete_is_not_run_again(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = module.run, []

    def counted(config: RunConfig, **settings: Any) -> Any:
        calls.append(settings["directory"].name)
        if len(calls) == 3:
            settings["directory"].mkdir()  # what it began stays
            raise DiskError("the disk is full")
        return real(config, **settings)

    monkeypatch.setattr(module, "run", counted)
    with pytest.raises(DiskError):
        run(config)
    (broken,) = [path for path in Path(config.out).iterdir() if not path.is_symlink()]
    assert run(config, parameters={"most": 3}) != broken, "asked otherwise it is another series"
    calls.clear()
    directory = run(config)
    assert directory == broken
    assert calls == ["0003-2"]
    assert [one.tries for one in read_suite(directory).runs] == [1, 1, 2]


def test_a_function_that_decides_otherwise_drops_what_follows(config: RunConfig) -> None:
    def breaks(config: RunConfig, series: Series) -> None:
        doubling(config, series)
        raise ConfigError("not yet")

    with pytest.raises(ConfigError):
        run(config, breaks)

    def otherwise(config: RunConfig, series: Series) -> None:
        series.run("rate 100", merge(config, {"load.rate": 100, "load.requests": 10}), rate=100)
        series.run("rate 150", merge(config, {"load.rate": 150, "load.requests": 10}), rate=150)

    suite = read_suite(run(config, otherwise))
    assert [(one.label, one.directory) for one in suite.runs] == [("rate 100", "0001"), ("rate 150", "0002-2")]


def incomplete(result: Any, reason: str, code: int) -> Any:
    path = result.directory / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"state": "incomplete", "reasons": [reason]}))
    verdict = msgspec.structs.replace(result.summary.verdict, status="incomplete", reasons=(reason,))
    result.summary = msgspec.structs.replace(result.summary, verdict=verdict)
    result.exit_code = code
    return result


@pytest.mark.parametrize(
    ("reason", "tries", "state"),
    [("worker 0 died", 3, "incomplete"), ("stopped by itself: error_rate>50% was reached", 1, "complete")],
)
def test_a_run_that_breaks_is_tried_again_and_one_that_was_stopped_is_not(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, reason: str, tries: int, state: str
) -> None:
    real = module.run
    monkeypatch.setattr(module, "run", lambda config, **settings: incomplete(real(config, **settings), reason, 4))

    def once(config: RunConfig, series: Series) -> None:
        taken = series.run("one", config)
        assert (taken.exit_code, taken.step.tries, taken.step.state) == (4, tries, state)

    directory = run(config, once)
    (one,) = read_suite(directory).runs
    assert one.stopped == (reason.removeprefix("stopped by itself: ") if state == "complete" else None)


def test_an_interrupt_keeps_what_ran(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.run
    monkeypatch.setattr(
        module, "run", lambda config, **settings: incomplete(real(config, **settings), "interrupted", 130)
    )
    with pytest.raises(Interrupted) as found:
        run(config)
    assert found.value.exit_code == 130
    assert found.value.taken.summary.requests.scheduled == 10
    directory = found.value.taken.directory.parent
    assert (read_suite(directory).state, read_suite(directory).runs[0].state) == ("incomplete", "incomplete")
    assert "trial unfinished, 0 runs" in run_command("list", directory.parent).stdout
    monkeypatch.setattr(module, "run", real)
    assert run(config) == directory


def test_a_server_that_was_there_is_awaited(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = module.run, []

    def absent(config: RunConfig, **settings: Any) -> Any:
        calls.append(settings["directory"].name)
        if len(calls) in (2, 3):
            raise TargetError("connection refused")
        return real(config, **settings)

    monkeypatch.setattr(module, "run", absent)
    monkeypatch.setattr(module, "KNOCK_S", 0.05)
    suite = read_suite(run(config))
    assert suite.state == "complete"
    assert [one.waited_s is not None for one in suite.runs] == [False, True, False]
    monkeypatch.setattr(module, "ABSENCE_S", 0.0)
    calls[:] = []
    with pytest.raises(TargetError, match="it answered before"):
        run(config)
    calls[:] = ["one before"]
    with pytest.raises(TargetError, match=r"^connection refused"):  # one that never was there is not awaited
        run(config, parameters={"other": True})
