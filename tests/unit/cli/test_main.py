"""The command line as a whole: exit codes and what a user reads when something goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version

import click
import pytest

from llmgen import cli
from llmgen.errors import ConfigError, TargetError, WorkerError


def test_version_is_the_installed_one() -> None:
    done = subprocess.run([sys.executable, "-m", "llmgen", "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"llmgen {version('llmgen')}\n")


def test_unknown_command_is_exit_2_and_names_it(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["rnu"]) == 2
    assert "rnu" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("load.rate: no"), 2), (TargetError("no answer"), 5), (WorkerError("worker 1 died"), 4)],
)
def test_an_error_of_ours_is_one_line_with_its_code(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "command", click.Command("llmgen", callback=lambda: (_ for _ in ()).throw(error)))
    assert cli.call([]) == code
    assert capfd.readouterr().err == f"llmgen: {error}\n"


def test_a_bug_shows_its_traceback(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "command", click.Command("llmgen", callback=lambda: 1 // 0))
    assert cli.call([]) == 1
    err = capfd.readouterr().err
    assert "ZeroDivisionError" in err
    assert "bug" in err


def test_interrupt_is_130(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "command", click.Command("llmgen", callback=interrupted))
    assert cli.call([]) == 130
    assert "interrupted" in capfd.readouterr().err


def test_a_reader_that_goes_away_is_no_bug() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        program = [sys.executable, "-m", "llmgen", "run", "--help"]
        done = subprocess.run(program, stdout=write, stderr=subprocess.PIPE, timeout=60)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_the_exit_code_of_a_command_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "command", click.Command("llmgen", callback=lambda: 3))
    assert cli.call([]) == 3
