"""`llmgen report`, `list` and `export` on run directories."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from fabricate import event_rows, request_rows, run_info, write_run
from llmgen import cli
from llmgen.cli.report import PROFILES
from llmgen.columns import Status
from llmgen.metrics import profiles
from llmgen.metrics.summary import summarise, write_summary
from llmgen.records import open_run

SECOND = 1_000_000_000


def make(path: Path, *, count: int = 20, failed: int = 2, **changes: Any) -> Path:
    rows = request_rows(count)
    rows["status"][:failed] = Status.http_5xx
    rows["http_status"][:failed] = 503
    write_run(path, rows, event_rows(rows), run_info(count, **changes))
    write_summary(path, summarise(open_run(path)))
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make(tmp_path / "runs" / "20260101T000000Z-a")


def test_text_report(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["report", str(run)]) == 0
    out = capfd.readouterr().out
    assert "TTFT" in out
    assert "\x1b" not in out  # no terminal, no colours
    assert max(map(len, out.splitlines())) <= 80


def test_json_report_is_the_summary(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["report", str(run), "--format", "json"]) == 0
    out = capfd.readouterr().out
    assert out == (run / "summary.json").read_text()
    assert json.loads(out)["requests"]["succeeded"] == 18


def test_report_into_a_file(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for kind in ("text", "json"):
        assert cli.call(["report", str(run), "--format", kind, "--output", str(tmp_path / kind)]) == 0
        assert (tmp_path / kind).stat().st_size > 500
    assert capfd.readouterr().out == ""


def test_html_report_goes_into_the_run_directory(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["report", str(run), "--format", "html"]) == 0
    page = run / "report.html"
    assert capfd.readouterr().out == f"{page}\n"
    assert page.read_text(encoding="utf-8").lower().startswith("<!doctype html>")


@pytest.mark.parametrize("command", ["report", "export", "list"])
def test_what_is_no_run_is_exit_2(command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.call([command, str(tmp_path / "none")]) == 2
    err = capfd.readouterr().err
    assert "none" in err
    assert len(err.splitlines()) == 1


def test_export_jsonl(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["export", str(run)]) == 0
    records = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [record["index"] for record in records] == list(range(20))
    assert [record["status"] for record in records[:3]] == ["http_5xx", "http_5xx", "ok"]


def test_export_csv_into_a_file(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "r.csv"
    assert cli.call(["export", str(run), "--format", "csv", "--output", str(file)]) == 0
    rows = list(csv.DictReader(io.StringIO(file.read_text(), newline="")))
    assert len(rows) == 20
    assert rows[0]["http_status"] == "503"
    assert "20 requests" in capfd.readouterr().err


def test_export_into_a_folder_that_is_not_there(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["export", str(run), "--output", "/none/file"]) == 2
    assert "/none/file" in capfd.readouterr().err


def test_list_has_the_newest_first(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs"
    start = 1_790_000_000 * SECOND
    for age, name in enumerate(["new", "middle", "old"]):
        make(folder / name, name=name, start_realtime_ns=start - age * SECOND)
    (folder / "latest").symlink_to("new")
    (folder / "unrelated").mkdir()
    assert cli.call(["list", str(folder)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [Path(line.split()[-1]).name for line in lines[1:]] == ["new", "middle", "old"]
    assert cli.call(["list", str(folder), "--json"]) == 0
    entries = json.loads(capfd.readouterr().out)
    assert [entry["name"] for entry in entries] == ["new", "middle", "old"]
    assert (entries[0]["requests"], entries[0]["succeeded"]) == (20, 18)
    assert entries[0]["ttft_p50_ms"] == pytest.approx(51.0, abs=0.5)  # 1 ms late, then 50


def test_list_shows_runs_that_never_ended(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs"
    make(folder / "a", state="running")
    (folder / "a" / "summary.json").unlink()
    (folder / "b").mkdir()
    (folder / "b" / "run.json").write_text("{")
    assert cli.call(["list", str(folder), "--json"]) == 0
    assert sorted(entry["state"] for entry in json.loads(capfd.readouterr().out)) == ["damaged", "unfinished"]


def test_an_empty_folder_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["list", str(tmp_path)]) == 0
    assert capfd.readouterr().out == f"no runs in {tmp_path}\n"


def test_a_name_from_a_file_cannot_paint_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "runs" / "x\x1b[31m")
    assert cli.call(["list", str(tmp_path / "runs")]) == 0
    assert "\x1b" not in capfd.readouterr().out


def test_profiles_beside_each_other(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["report", str(run), "--profiles"]) == 0
    out = capfd.readouterr().out
    assert "AS OTHERS TELL IT" in out
    assert all(name in out for name in PROFILES)
    assert max(map(len, out.splitlines())) <= 80


def test_one_profile(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["report", str(run), "--metrics-as", "guidellm", "--format", "json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert set(document["profiles"]) == {"guidellm"}
    # the first token is in its average: (50 + 4 x 10) / 5
    assert document["profiles"]["guidellm"]["metrics"]["tpot_ms"]["p50"] == 18
    assert cli.call(["report", str(run), "--metrics-as", "wrk"]) == 2


def test_the_options_know_every_profile() -> None:
    assert set(PROFILES) == set(profiles.PROFILES)


def test_patience_and_checklist(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["report", str(run), "--patience", "10ms", "--checklist"]) == 0
    out = capfd.readouterr().out
    assert "100 % over 0.01 s" in out
    assert "CHECKLIST" in out
