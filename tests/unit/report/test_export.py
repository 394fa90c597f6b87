"""Exported requests: every request, honest absences, cells that are no formulas."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pyarrow.parquet
import pytest

from fabricate import event_rows, never_sent, request_rows, run_info, write_run
from llmgen.columns import Flag, Status
from llmgen.errors import ConfigError
from llmgen.records import Run, open_run
from llmgen.report.export import blocks, export
from llmgen.report.interchange import vllm_json, write_parquet

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
    assert export(blocks(run), format, out) == 5
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
        export(blocks(run), "xml", io.StringIO())


def test_parquet(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "r.parquet"
    assert write_parquet(blocks(run), file, "r1") == 5
    table = pyarrow.parquet.read_table(file)
    records = [json.loads(line) for line in written(run, "jsonl").splitlines()]
    rows = table.to_pylist()
    for record, row in zip(records, rows, strict=True):
        assert list(record) == list(row)
        for name, value in record.items():
            if name != "class":
                assert row[name] == value, name
    assert rows[0]["class"] == HOSTILE  # a value like any other: Parquet has no formulas
    assert str(table.schema.field("due_ms").type) == "double"
    assert str(table.schema.field("secured_ms").type) == "double"  # though it is null in every row
    assert table.schema.metadata[b"llmgen.run_id"] == b"r1"


def test_parquet_of_nothing_and_of_several_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = open_run(write_run(tmp_path / "a", request_rows(0), event_rows(request_rows(0)), run_info(0)))
    assert write_parquet(blocks(empty), tmp_path / "a.parquet", "x") == 0
    assert pyarrow.parquet.read_table(tmp_path / "a.parquet").num_rows == 0
    monkeypatch.setattr("llmgen.report.export.BLOCK_ROWS", 7)
    rows = request_rows(20)
    full = open_run(write_run(tmp_path / "b", rows, event_rows(rows), run_info(20)))
    assert write_parquet(blocks(full), tmp_path / "b.parquet", "x") == 20
    assert pyarrow.parquet.read_table(tmp_path / "b.parquet")["index"].to_pylist() == list(range(20))


def test_parquet_says_what_to_install(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'llmgen\[parquet\]'"):
        write_parquet(blocks(run), tmp_path / "x", "x")


def test_the_file_of_vllm(tmp_path: Path) -> None:
    rows = request_rows(20)
    rows["status"][0], rows["token_events"][0] = Status.http_5xx, 0
    told = run_info(20, model="m", tags={"build": "7"})
    told["config"] |= {"load": {"arrival": "gamma:2", "rate": 10.0}, "target": {"api": "chat"}, "slo": ["ttft<60ms"]}
    document = json.loads(vllm_json(open_run(write_run(tmp_path / "run", rows, event_rows(rows), told))))
    assert (document["completed"], document["failed"], document["num_prompts"]) == (19, 1, 20)
    assert (document["total_input_tokens"], document["total_output_tokens"]) == (19 * 7, 19 * 5)
    # from the start of the window to the end of the last answer, due at 1900 ms and 92 ms long
    assert document["duration"] == pytest.approx(1.992)
    assert document["request_throughput"] == pytest.approx(19 / 1.992)
    assert document["request_goodput"] == pytest.approx(19 / 1.992)
    assert document["total_token_throughput"] == pytest.approx(19 * 12 / 1.992)
    assert (document["mean_ttft_ms"], document["median_tpot_ms"], document["p99_itl_ms"]) == (50, 10, 10)
    assert document["mean_e2el_ms"] == 90  # ends at the last event, 1 ms before the end of the answer
    assert document["std_ttft_ms"] == 0
    assert (document["burstiness"], document["request_rate"]) == (0.25, 10)
    assert (document["backend"], document["model_id"], document["build"]) == ("openai-chat", "m", "7")


def test_the_file_of_vllm_without_any_answer(tmp_path: Path) -> None:
    rows = never_sent(request_rows(3))
    document = json.loads(vllm_json(open_run(write_run(tmp_path / "run", rows, event_rows(rows), run_info(3)))))
    assert document["completed"] == 0
    assert document["mean_ttft_ms"] == 0


def test_both_formats_say_the_same(run: Run) -> None:
    records = [json.loads(line) for line in written(run, "jsonl").splitlines()]
    rows = list(csv.DictReader(io.StringIO(written(run, "csv"), newline="")))
    for record, row in zip(records, rows, strict=True):
        assert list(record) == list(row)
        for name, value in record.items():
            if name != "class":
                assert row[name] == ("" if value is None else str(value)), name
