"""Exported requests: every request, honest absences, cells that are no formulas."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from fabricate import event_rows, never_sent, request_rows, run_info, write_run
from llmgen.columns import Flag, Status
from llmgen.errors import ConfigError
from llmgen.records import Run, open_run
from llmgen.report.export import export

HOSTILE = '=1+1\x1b[31m\0\r\n,"'


@pytest.fixture
def run(tmp_path: Path) -> Run:
    rows = request_rows(5)
    rows["status"][1], rows["http_status"][1], rows["flags"][1] = Status.rate_limited, 429, Flag.reused | Flag.done_seen
    rows[4:] = never_sent(rows[4:])
    info = run_info(5, classes=[{"name": HOSTILE, "slo": []}])
    return open_run(write_run(tmp_path / "run", rows, event_rows(rows), info))


def written(run: Run, format: str) -> str:
    out = io.StringIO(newline="")
    assert export(run, format, out) == 5
    return out.getvalue()


def test_jsonl(run: Run) -> None:
    records = [json.loads(line) for line in written(run, "jsonl").splitlines()]
    assert [record["index"] for record in records] == [0, 1, 2, 3, 4]
    first, limited, unsent = records[0], records[1], records[4]
    assert (first["due_ms"], first["send_ms"], first["end_ms"]) == (0, 1, 92)
    assert (first["ttft_ms"], first["tpot_ms"], first["e2e_ms"], first["secured_ms"]) == (50, 10, 91, None)
    assert (first["status"], first["finish_reason"], first["output_source"]) == ("ok", "stop", "usage")
    assert (limited["status"], limited["http_status"], limited["flags"]) == ("rate_limited", 429, "reused|done_seen")
    assert (unsent["status"], unsent["send_ms"], unsent["ttft_ms"], unsent["output_tokens"]) == ("never_sent",) + (
        None,
    ) * 3
    assert unsent["due_ms"] == 400
    assert len({tuple(record) for record in records}) == 1


def test_csv(run: Run) -> None:
    text = written(run, "csv")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["index"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert rows[4]["send_ms"] == ""
    assert float(rows[0]["ttft_ms"]) == 50
    assert rows[0]["class"] == "'=1+1\\x1b[31m\\x00\\r\\n,\""
    for character in "\x1b\0":
        assert character not in text
    with pytest.raises(ConfigError, match="csv, jsonl"):
        export(run, "xml", io.StringIO())


def test_both_formats_say_the_same(run: Run) -> None:
    records = [json.loads(line) for line in written(run, "jsonl").splitlines()]
    rows = list(csv.DictReader(io.StringIO(written(run, "csv"), newline="")))
    for record, row in zip(records, rows, strict=True):
        assert list(record) == list(row)
        for name, value in record.items():
            if name != "class":
                assert row[name] == ("" if value is None else str(value)), name
