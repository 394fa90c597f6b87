"""`llmgen trace inspect` and `convert`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmgen import cli

MOONCAKE = "".join(
    json.dumps({"timestamp": 3000 * (n // 4), "input_length": 600 + n, "output_length": 5, "hash_ids": [0, n + 1]})
    + "\n"
    for n in range(40)
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_text(MOONCAKE)
    return path


def test_inspect(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["trace", "inspect", str(file)]) == 0
    out = capsys.readouterr().out
    assert "format     mooncake" in out
    assert "10 different times, 3 s apart or more, up to 4 rows at one" in out
    assert "--trace-jitter uniform:quantum" in out
    assert "48.8% of 80 blocks" in out  # 39 of 80: the shared first block but once
    assert cli.call(["trace", "inspect", str(file), "--json", "--window", "3s..9s"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["rows"], facts["input"]["min"]) == (8, 604)


def test_convert_and_read_again(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / "out.jsonl.gz"
    assert (
        cli.call(["trace", "convert", str(file), "--to", str(to), "--rate-scale", "0.5", "--jitter", "uniform:1s"]) == 0
    )
    assert "rows written to" in capsys.readouterr().err
    assert cli.call(["trace", "inspect", str(to), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["format"] == "llmgen"
    assert 8 <= facts["rows"] <= 32
    assert facts["largest_at_once"] == 1


def test_convert_to_stdout(file: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert cli.call(["trace", "convert", str(file)]) == 0
    rows = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert len(rows) == 40
    assert rows[5] == {"t_ns": 3_000_000_000, "in": 605, "out": 5, "block_size": 512, "prefix_ids": [0, 6]}


def test_a_generic_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.csv"
    path.write_text("at,p,c\n0,10,5\n500,20,6\n")
    columns = ["--columns", "time=at", "--columns", "input=p", "--columns", "output=c", "--unit", "ms"]
    assert cli.call(["trace", "inspect", str(path), *columns]) == 0
    assert "over 0.500 s" in capsys.readouterr().out


def test_errors_are_one_line(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["trace", "inspect", "/no/such"]) == 2
    assert cli.call(["trace", "inspect", str(file), "--format", "monocake"]) == 2
    err = capsys.readouterr().err
    assert "did you mean 'mooncake'" in err
    assert cli.call(["trace", "convert", str(file), "--to", str(tmp_path / "no" / "out")]) == 2
    file.write_text(MOONCAKE + "{}\n")
    assert cli.call(["trace", "inspect", str(file)]) == 2
    assert "row 41 (line 41)" in capsys.readouterr().err


def test_help_lists_the_formats(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["trace", "--help"]) == 0
    out = capsys.readouterr().out
    for name in (
        "azure",
        "mooncake",
        "burstgpt",
        "qwen",
        "servegen",
        "ragpulse",
        "vidur",
        "splitwise",
        "log",
        "llmgen",
    ):
        assert name in out
