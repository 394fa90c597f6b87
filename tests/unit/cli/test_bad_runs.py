"""Readers given run directories that are missing, partial, newer, crashed or edited, and texts that would do harm.

What can be read is read and said; otherwise one line and exit code 2. Never a traceback, never a control character.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fabricate import event_rows, request_rows, run_info, write_run, write_segments
from llmgen import cli
from llmgen.columns import HISTOGRAM_DTYPE, Status
from llmgen.metrics.summary import summarise, write_summary
from llmgen.records import open_run

HOSTILE = "</script><img src=x onerror=alert(1)>=cmd|' /C calc'!A0\x1b]0;owned\x07\x1b[31m\0\u202e\n# EOF"
ODD_ERRORS = b'\xff\xfe\x00\n{"status": "http_5xx", "text": "\\ud800 \x80"}\n[1]\n{"status": 5}\n'
FORMATS = ("jsonl", "csv", "parquet", "vllm-json", "openmetrics")


def readers(run: Path, out: Path) -> dict[str, list[str]]:
    """Every command that reads a run, as it reads this one."""
    commands = {
        f"report {kind}": ["report", str(run), "--format", kind, "--output", str(out / kind)]
        for kind in ("text", "json", "html")
    }
    commands |= {"profiles": ["report", str(run), "--profiles", "--checklist", "--junit", str(out / "j.xml")]}
    commands |= {
        f"export {kind}": ["export", str(run), "--format", kind, "--output", str(out / kind)] for kind in FORMATS
    }
    commands["compare"] = ["compare", str(run), str(run), "--html", str(out / "c.html"), "--fail-on", "ttft_p95:5%"]
    return commands


def make(path: Path, **changes: Any) -> Path:
    rows = request_rows(40)
    rows["status"][3], rows["http_status"][3] = Status.http_5xx, 503
    told = run_info(40, **changes)
    write_run(path, rows, event_rows(rows), told)
    write_summary(path, summarise(open_run(path)))
    return path


def edit_info(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(run: Path) -> None:
        info = json.loads((run / "run.json").read_text())
        change(info)
        (run / "run.json").write_text(json.dumps(info))

    return edit


def edit_rows(**columns: Any) -> Callable[[Path], None]:
    def edit(run: Path) -> None:
        rows = np.load(run / "requests.npy")
        for name, value in columns.items():
            rows[name][5:9] = value
        np.save(run / "requests.npy", rows)

    return edit


def cut(name: str, bytes_: int) -> Callable[[Path], None]:
    def edit(run: Path) -> None:
        content = (run / name).read_bytes()
        (run / name).write_bytes(content[:-bytes_])

    return edit


def put(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda run: (run / name).write_bytes(content) and None


def crashed(run: Path) -> None:
    """As the machine left it: raw segments, run.json of a run under way, no summary."""
    info = json.loads((run / "run.json").read_text()) | {"state": "running", "end_ns": -1}
    info["window"] = {"start_ns": None, "end_ns": None}
    info["schedule"] = {"scheduled": None, "span_ns": None, "arrival": "poisson"}
    rows, events = np.load(run / "requests.npy"), np.load(run / "events.npy")
    rows["status"][-3:] = Status.in_flight
    rows["end"][-3:] = -1
    for path in run.iterdir():
        path.unlink()
    (run / "run.json").write_text(json.dumps(info))
    write_segments(run / "worker-0", "requests", rows)
    write_segments(run / "worker-0", "events", events)


def beyond(run: Path) -> None:
    events = np.load(run / "events.npy")
    events["request"][:10] = 1_000_000
    events["t"][10:20] = -5
    np.save(run / "events.npy", events)


def foreign_histograms(run: Path) -> None:
    rows = np.zeros(3, HISTOGRAM_DTYPE)
    rows["bucket"], rows["metric"], rows["klass"], rows["count"] = [0, 5000, 7], [200, 2, 3], [9, 0, 0], 1
    np.save(run / "histograms.npy", rows)


READABLE: dict[str, Callable[[Path], object]] = {
    "whole": lambda run: None,
    "crashed": crashed,
    "no summary": lambda run: (run / "summary.json").unlink(),
    "broken summary": put("summary.json", b"{"),
    "newer summary": put("summary.json", b'{"schema": "llmgen.summary/9"}'),
    "no events": lambda run: (run / "events.npy").unlink(),
    "no timeline": lambda run: (run / "timeline.npy").unlink(),
    "no histograms": lambda run: (run / "histograms.npy").unlink(),
    "events cut within a row": cut("events.npy", 35),
    "requests cut within a row": cut("requests.npy", 300),
    "events of unknown requests": beyond,
    "foreign histograms": foreign_histograms,
    "errors that are none": put("errors.jsonl", ODD_ERRORS),
    "unknown status": edit_rows(status=200),
    "unknown class": edit_rows(klass=60000),
    "unknown target": edit_rows(target=60000),
    "unknown finish": edit_rows(finish_reason=99, output_source=99),
    "end before the start": edit_rows(end=5, last_token=3, first_token=4),
    "far future": edit_rows(end=2**62, last_token=2**62),
    "no due": edit_rows(due=-1),
    "mad tokens": edit_rows(output_tokens=2**31 - 1, input_tokens=-7, first_event_tokens=2**31 - 1),
    "mad sessions": edit_rows(session=2**31 - 1, turn=65535),
    "no classes": edit_info(lambda info: info.pop("classes")),
    "no window": edit_info(lambda info: info.pop("window")),
    "only a schema": lambda run: (run / "run.json").write_text('{"schema": "llmgen.run/1"}') and None,
    "nulls": edit_info(lambda info: info.update(dict.fromkeys([k for k in info if k != "schema"]))),
    "texts for numbers": edit_info(lambda info: info.update(
        start_ns="soon", end_ns=[], workers="many", start_realtime_ns="x")),
    "numbers for structures": edit_info(lambda info: info.update(dict.fromkeys(
        ["config", "classes", "targets", "window", "schedule", "clock", "workers_detail", "tags", "reasons"], 7))),
    "odd structures": edit_info(lambda info: info.update(
        classes=[7, {"name": 5}], targets=[None, {}], tags={"a": 1}, reasons=[1], workers_detail=[3, {"cpu_s": "x"}],
        window={"start_ns": "x"}, schedule={"span_ns": "x", "scheduled": "y"},
        config={"slo": 7, "prices": 3, "load": 4})),
    "an objective that is none": edit_info(lambda info: info["config"].update(slo=["fast please"])),
    "window upside down": edit_info(lambda info: info.update(window={"start_ns": 2**60, "end_ns": 3})),
    "hostile": edit_info(lambda info: info.update(
        name=HOSTILE, note=HOSTILE, run_id=HOSTILE, model=HOSTILE, tags={HOSTILE: HOSTILE}, reasons=[HOSTILE],
        state="incomplete", classes=[{"name": HOSTILE, "slo": ["ttft<1ms"]}], targets=[{"url": HOSTILE}])),
}  # fmt: skip

UNREADABLE: dict[str, Callable[[Path], object]] = {
    "missing": lambda run: shutil.rmtree(run),
    "a file": lambda run: (shutil.rmtree(run), run.write_text("x")),
    "empty": lambda run: [path.unlink() for path in run.iterdir()],
    "no run.json": lambda run: (run / "run.json").unlink(),
    "broken run.json": put("run.json", b'{"schema": "llmgen.run/1"'),
    "run.json of bytes": put("run.json", b"\xff\xfe\0\0"),
    "a list": put("run.json", b"[]"),
    "another schema": put("run.json", b'{"schema": "k6/1"}'),
    "a newer run": edit_info(lambda info: info.update(schema="llmgen.run/2")),
    "no records": lambda run: (run / "requests.npy").unlink(),
    "an empty requests.npy": put("requests.npy", b""),
    "no numpy file": put("requests.npy", b"\x93NUMPY\xff\xff garbage"),
    "other rows": lambda run: np.save(run / "requests.npy", np.zeros(3)),
    "newer events": lambda run: np.save(run / "events.npy", np.zeros(3, [("t", "<i8"), ("more", "<i8")])),
}


@pytest.mark.parametrize("damage", READABLE)
def test_what_can_be_read_is_read(damage: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path / "run")
    READABLE[damage](run)
    for name, command in readers(run, tmp_path).items():
        code = cli.call(command)
        told = capfd.readouterr()
        if damage == "an objective that is none":  # an edited configuration: one clear error
            assert code in (0, 2), (name, told.err)
            assert "Traceback" not in told.err
            assert "fast please" in told.err or code == 0
            continue
        # compare: a run that is incomplete or invalid proves nothing; its base says so
        assert code == 0 or (name == "compare" and code == 4), (name, code, told.err)
        assert not set(map(chr, [0, 7, 27])) & set(told.out + told.err), name
    files = [path for path in tmp_path.iterdir() if path.is_file()]
    assert damage == "an objective that is none" or len(files) >= len(FORMATS) + 4
    for path in files:
        if path.name != "parquet":
            content = path.read_text(encoding="utf-8")
            assert not {"\0", "\x07", "\x1b"} & set(content), path.name
            assert "<img src=x" not in content or path.name not in ("html", "c.html"), path.name


@pytest.mark.parametrize("damage", UNREADABLE)
def test_what_cannot_be_read_is_one_line(damage: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path / "run")
    UNREADABLE[damage](run)
    if (run / "summary.json").exists() and not (run / "run.json").exists():
        (run / "summary.json").unlink()  # that alone would be a base for compare
    for name, command in readers(run, tmp_path).items():
        if damage == "newer events" and name in ("export jsonl", "export csv", "export parquet"):
            continue  # which need none
        assert cli.call(command) == 2, name
        err = capfd.readouterr().err
        assert len(err.splitlines()) == 1, (name, err)
        assert "run" in err


def test_damage_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path / "run")
    READABLE["events cut within a row"](run)
    READABLE["texts for numbers"](run)
    assert cli.call(["report", str(run)]) == 0
    told = capfd.readouterr()
    assert "events.npy is cut short: 197 of 200 rows are there" in told.out + told.err
    assert "run.json: start_ns is not what it should be; left out" in told.out + told.err
