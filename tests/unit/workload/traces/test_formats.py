"""Every reader: a small sample of its form as it should be read, and rows that are refused by number."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmgen.config import Trace
from llmgen.errors import ConfigError
from llmgen.workload import traces
from llmgen.workload.traces import Pieces, TraceBlock, lines
from llmgen.workload.traces.conversations import Conversations
from llmgen.workload.traces.rows import joined

NS = 10**9

MOONCAKE = (
    '{"timestamp": 27000, "input_length": 1100, "output_length": 52, "hash_ids": [46, 47, 48]}\n'
    '{"timestamp": 30000, "input_length": 512, "output_length": 0, "hash_ids": [46]}\n'
)
QWEN = (
    '{"chat_id": 7, "parent_chat_id": -1, "timestamp": 61.114, "input_length": 33, "output_length": 4, "type": "text", '
    '"turn": 1, "hash_ids": [1, 2, 3]}\n'
    '{"chat_id": 8, "parent_chat_id": -1, "timestamp": 61.5, "input_length": 5, "output_length": 6, "type": "file", '
    '"turn": 1, "hash_ids": [9]}\n'
    '{"chat_id": 9, "parent_chat_id": 7, "timestamp": 62, "input_length": 16, "output_length": 6, "type": "text", '
    '"turn": 2, "hash_ids": [1]}\n'
)
BURSTGPT_6 = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,472,18,490,Conversation log\n"
    "45,GPT-4,1087,0,1087,API log\n"
    "118,GPT-4,417,276,693,API log\n"
)
BURSTGPT_8 = (
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\r\n"
    "19440110.0,a-b,3.25,ChatGPT,10,20,30,Conversation log\r\n"
    "19440110.0,,1.5,GPT-4,11,21,32,API log\r\n"
    "19440112.0,a-b,3.25,ChatGPT,12,22,34,Conversation log"
)
VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n0.125,100,5\n0.75,200,6\n"
SPLITWISE = (
    "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n"
    "0,2,0,0.0,1,1024,3\n1,2,0,0.0149,1,64,9\n"
)
RAGPULSE = (
    '{"timestamp": "27", "input_length": 100, "output_length": 12, "hash_ids": {"sys_prompt": [1, 2], "passages_ids": '
    '[10], "history": [], "web_search": [], "user_input": [99]}, "session_id": "s-1"}\n'
    '{"timestamp": "30", "input_length": 40, "output_length": 8, "hash_ids": {"sys_prompt": [1], "passages_ids": [10], '
    '"history": [5], "web_search": [], "user_input": []}, "session_id": "s-2"}\n'
    '{"timestamp": "29.5", "input_length": 7, "output_length": 8, "hash_ids": {"sys_prompt": [1], "passages_ids": [], '
    '"history": [], "web_search": [], "user_input": []}, "session_id": "s-1"}\n'
)
LOG = (
    '{"timestamp": 1715472000.25, "path": "/v1/chat/completions", "body": {"model": "m", "max_tokens": 9, "messages": '
    '[{"role": "user", "content": "a b c"}]}}\n'
    '{"timestamp": "2024-05-12T00:00:01Z", "body": "{\\"prompt\\": \\"d e\\"}"}\n'
)
NEUTRAL = (
    '{"t_ns":5,"in":100,"out":4,"class":"a","session":3,"block_size":64,"prefix_ids":[1,2]}\n'
    '{"t_ns":9,"in":30,"out":1,"model":"m","parent":3,"turn":2,"prefix_ids":[7,8],"prefix_sizes":[10,30]}\n'
)


def written(tmp_path: Path, text: str, name: str = "trace") -> Path:
    path = tmp_path / name
    path.write_text(text, newline="")
    return path


def read(path: Path, **settings: Any) -> TraceBlock:
    return joined(list(traces.read(Trace(file=str(path), **settings))))


def pieces_of(block: TraceBlock) -> list[list[tuple[int, int]]]:
    """(id, words) of each row."""
    assert isinstance(block.pieces, Pieces)
    found, start = [], 0
    for count in block.pieces.counts.tolist():
        ids, words = block.pieces.ids[start : start + count], block.pieces.words[start : start + count]
        found.append(list(zip(ids.tolist(), words.tolist(), strict=True)))
        start += count
    return found


def labels_of(labels: Any) -> list[str | None]:
    return [labels.names[code] if code >= 0 else None for code in labels.codes.tolist()]


def columns(block: TraceBlock) -> tuple[list[int], list[int], list[int]]:
    return block.t_ns.tolist(), block.input.tolist(), block.output.tolist()


def test_mooncake(tmp_path: Path) -> None:
    block = read(written(tmp_path, MOONCAKE))
    assert columns(block) == ([0, 3 * NS], [1100, 512], [52, 0])
    assert pieces_of(block) == [[(46, 512), (47, 512), (48, 76)], [(46, 512)]]


def test_ids_beyond_the_prompt_are_cut(tmp_path: Path) -> None:
    block = read(written(tmp_path, '{"timestamp":0,"input_length":10,"output_length":1,"hash_ids":[1,2,3]}'))
    assert pieces_of(block) == [[(1, 10)]]


def test_qwen_follows_the_chats(tmp_path: Path) -> None:
    block = read(written(tmp_path, QWEN))
    assert columns(block) == ([0, 386_000_000, 886_000_000], [33, 5, 16], [4, 6, 6])
    turns = Conversations().link(block)
    assert turns is not None
    assert turns.session.tolist() == [0, 1, 0]
    assert turns.turn.tolist() == [0, 0, 1]
    assert turns.back.tolist() == [0, 0, 2]
    assert block.turn is not None
    assert block.turn.tolist() == [1, 1, 2]
    assert labels_of(block.klass) == ["text", "file", "text"]
    assert pieces_of(block) == [[(1, 16), (2, 16), (3, 1)], [(9, 5)], [(1, 16)]]


@pytest.mark.parametrize(
    "lines",
    [
        QWEN + '{"chat_id":5,"parent_chat_id":5,"timestamp":63,"input_length":1,"output_length":1}',
        '{"t_ns":0,"in":1,"out":1}\n' * 3 + '{"t_ns":1,"in":1,"out":1,"chat":7,"parent":7}',
    ],
)
def test_a_row_that_follows_itself_is_named(tmp_path: Path, lines: str) -> None:
    with pytest.raises(ConfigError, match=r"row 4 \(line 4\) is .*names itself as its parent; expected"):
        read(written(tmp_path, lines))


def test_burstgpt_leaves_out_what_failed_unless_told(tmp_path: Path) -> None:
    path = written(tmp_path, BURSTGPT_6)
    block = read(path)
    assert columns(block) == ([0, 113 * NS], [472, 417], [18, 276])
    assert labels_of(block.klass) == ["Conversation log", "API log"]
    assert labels_of(block.model) == ["ChatGPT", "GPT-4"]
    assert columns(read(path, zero_output="keep"))[2] == [18, 0, 276]


def test_burstgpt_with_sessions_and_a_late_origin(tmp_path: Path) -> None:
    block = read(written(tmp_path, BURSTGPT_8))
    assert columns(block) == ([0, 0, 2 * NS], [10, 11, 12], [20, 21, 22])
    assert block.session is not None
    assert block.session.tolist() == [0, -1, 0]


def test_simulators_columns(tmp_path: Path) -> None:
    assert columns(read(written(tmp_path, VIDUR))) == ([0, 625_000_000], [100, 200], [5, 6])
    assert columns(read(written(tmp_path, SPLITWISE))) == ([0, 14_900_000], [1024, 64], [3, 9])


@pytest.mark.parametrize("with_lengths", [False, True])
def test_ragpulse_components(tmp_path: Path, with_lengths: bool) -> None:
    if with_lengths:
        written(tmp_path, '{"sys_prompt_id": 1, "token_length": 30}\nnonsense\n', "1_sys_prompt.jsonl")
        written(tmp_path, '{"passages_id": 10, "token_length": 20}\n', "2_passages.jsonl")
    block = read(written(tmp_path, RAGPULSE, "0_trace.jsonl"))
    assert columns(block) == ([0, 2_500_000_000, 3 * NS], [100, 7, 40], [12, 8, 8])  # sorted: 29.5 before 30
    assert block.session is not None
    assert block.session.tolist() == [0, 0, 1]
    if with_lengths:
        # A file that breaks off is used as far as it goes.
        assert pieces_of(block) == [[(1, 30), (2, 25), (10, 20), (99, 25)], [(1, 7)], [(1, 30), (10, 10)]]
    else:
        assert pieces_of(block) == [[(1, 25), (2, 25), (10, 25), (99, 25)], [(1, 7)], [(1, 13), (10, 13), (5, 13)]]


def test_a_log_keeps_its_bodies(tmp_path: Path) -> None:
    block = read(written(tmp_path, LOG))
    assert columns(block) == ([0, 750_000_000], [3, 2], [9, 0])
    assert labels_of(block.klass) == ["/v1/chat/completions", None]
    assert block.bodies is not None
    assert json.loads(block.bodies[1]) == {"prompt": "d e"}


def test_the_neutral_form_and_back(tmp_path: Path) -> None:
    block = read(written(tmp_path, NEUTRAL))
    assert columns(block) == ([0, 4], [100, 30], [4, 1])
    assert pieces_of(block) == [[(1, 64), (2, 36)], [(7, 10), (8, 20)]]
    again = tmp_path / "again.jsonl"
    again.write_bytes(b"".join(traces.neutral.lines_of(block)))
    other = read(again)
    assert columns(other) == columns(block)
    assert pieces_of(other) == pieces_of(block)
    assert labels_of(other.klass) == labels_of(block.klass)
    for name in ("session", "parent", "turn"):
        np.testing.assert_array_equal(getattr(other, name), getattr(block, name))


@pytest.mark.parametrize("text", [MOONCAKE, QWEN, RAGPULSE, NEUTRAL, VIDUR])
def test_whatever_is_read_can_be_converted(tmp_path: Path, text: str) -> None:
    block = read(written(tmp_path, text))
    again = tmp_path / "again.jsonl"
    again.write_bytes(b"".join(traces.neutral.lines_of(block)))
    assert columns(read(again)) == columns(block)
    if block.pieces is not None:
        assert pieces_of(read(again)) == pieces_of(block)


def test_columns_of_ones_own(tmp_path: Path) -> None:
    names = {"time": "when", "input": "p", "output": "c", "class": "kind", "model": "m", "session": "user"}
    path = written(tmp_path, 'kind,when,p,c,m,user\n"a, b",1000,5.0,6,x,u\n,1500,7,8,,\n', "t.csv")
    block = read(path, columns=names, unit="ms")
    assert columns(block) == ([0, 500_000_000], [5, 7], [6, 8])
    assert labels_of(block.klass) == ["a, b", None]
    path = written(tmp_path, '{"when": "2024-05-12 00:00:00.5+02:00", "p": 1, "c": 2}\n'
                             '{"when": "2024-05-11T22:00:01Z", "p": 3, "c": 4, "kind": "k"}\n', "t.jsonl")  # fmt: skip
    block = read(path, columns=names)
    assert columns(block) == ([0, 500_000_000], [1, 3], [2, 4])
    assert labels_of(block.klass) == [None, "k"]


def test_epoch_seconds_are_exact_to_a_nanosecond(tmp_path: Path) -> None:
    path = written(tmp_path, "t,i,o\n1715472000.123456789,1,1\n1715472000.123456790,1,1\n", "t.csv")
    assert columns(read(path, columns={"time": "t", "input": "i", "output": "o"}))[0] == [0, 1]


def test_compressed_files(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl.gz"
    path.write_bytes(gzip.compress(MOONCAKE.encode()))
    assert columns(read(path))[1] == [1100, 512]
    path.write_bytes(gzip.compress(MOONCAKE.encode())[:-12])
    with pytest.raises(ConfigError, match="cannot be read"):
        read(path, format="mooncake")


@pytest.mark.parametrize("before", [0, 2, 3000])
@pytest.mark.parametrize(
    ("good", "line", "why"),
    [
        (MOONCAKE, '{"timestamp": 30000, "input_length": "x", "output_length": 1}', "Expected `int`"),
        (MOONCAKE, '{"timestamp": 30000, "input_length": -1, "output_length": 1}', ">= 0"),
        (MOONCAKE, '{"timestamp": 30000, "input_length": 99999999, "output_length": 1}', "<= 9999999"),
        (MOONCAKE, '{"timestamp": 30000, "output_length": 1}', "missing required field `input_length`"),
        (MOONCAKE, '{"timestamp": 1e300, "input_length": 1, "output_length": 1}', "no time that"),
        (MOONCAKE, '{"timestamp": 3, "input_length": 1, "output_length": 1}', "earlier than the row before"),
        (MOONCAKE, '{"timestamp": 30000, "input', "truncated"),
        (MOONCAKE, "[1]", "Expected `object`"),
        (MOONCAKE, "", "blank"),
        (QWEN, '{"timestamp": 62, "input_length": 1, "output_length": 1}', "missing required field `chat_id`"),
        (NEUTRAL, '{"t_ns": 10, "in": 9, "out": 1, "prefix_ids": [1]}', "need a block_size"),
        (NEUTRAL, '{"t_ns": 10, "in": 9, "out": 1, "prefix_ids": [1], "prefix_sizes": [0]}', "prefix_sizes must be"),
        (LOG, '{"timestamp": "2024-05-12T00:00:09Z", "body": "{"}', "its body is no JSON"),
        (LOG, '{"timestamp": "2024-05-12T00:00:09Z", "body": "[1]"}', "its body is no JSON object"),
        (LOG, '{"timestamp": "noon", "body": {}}', "is no number and no date"),
        (RAGPULSE, '{"timestamp": "x", "input_length": 1, "output_length": 1, "hash_ids": {}}', "no number of seconds"),
    ],
)
def test_a_broken_row_of_json_is_named(tmp_path: Path, good: str, line: str, why: str, before: int,
                                       monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(lines, "READ_BYTES", 4096)
    rows = good.splitlines()
    rows = [*rows, *[rows[-1]] * before]
    with pytest.raises(ConfigError) as caught:
        read(written(tmp_path, "\n".join([*rows, line, rows[-1]]) + "\n"))
    message = str(caught.value)
    assert f"row {len(rows) + 1} (line {len(rows) + 1})" in message
    assert why in message
    assert "; expected {" in message


@pytest.mark.parametrize("before", [0, 3000])
@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("200,GPT-4,417,276,693", "5 columns instead of the header's 6"),
        ("200,GPT-4,4.5,276,693,API log", "Request tokens '4.5' is no whole number"),
        ("200,GPT-4,-4,276,693,API log", "no whole number of tokens from 0"),
        ("200,GPT-4,417,99999999,693,API log", "no whole number of tokens from 0"),
        ("nan,GPT-4,417,276,693,API log", "no time that ns in 64 bits can hold"),
        ("1e400,GPT-4,417,276,693,API log", "no time that ns in 64 bits can hold"),
        (",GPT-4,417,276,693,API log", "time '' is no number"),
        ("1,GPT-4,417,276,693,API log", "earlier than the row before"),
        ('200,"GPT-4,417,276,693,API log', "no CSV"),
        ("", "blank"),
    ],
)
def test_a_broken_row_of_csv_is_named(tmp_path: Path, line: str, why: str, before: int,
                                      monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(lines, "READ_BYTES", 4096)
    rows = BURSTGPT_6.splitlines()
    rows = [*rows, *[rows[-1]] * before]
    with pytest.raises(ConfigError) as caught:
        read(written(tmp_path, "\n".join([*rows, line, rows[-1]]) + "\n"))
    message = str(caught.value)
    assert f"row {len(rows)} (line {len(rows) + 1})" in message
    assert why in message
    assert "expected Timestamp (time), Request tokens (input)" in message


def test_unsorted_rows_are_sorted_if_asked(tmp_path: Path) -> None:
    path = written(tmp_path, "\n".join(reversed(MOONCAKE.splitlines())))
    assert columns(read(path, order="sort")) == ([0, 3 * NS], [1100, 512], [52, 0])
    assert pieces_of(read(path, order="sort"))[1] == [(46, 512)]


@pytest.mark.parametrize("text", ["", "\n\n"])
@pytest.mark.parametrize("name", ["mooncake", "qwen", "ragpulse", "llmgen", "log", "vidur"])
def test_an_empty_file_is_refused(tmp_path: Path, text: str, name: str) -> None:
    with pytest.raises(ConfigError, match="no rows; expected"):
        read(written(tmp_path, text), format=name)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"columns": {"time": "t"}}, "does not say which column holds input, output"),
        ({"columns": {"when": "t"}}, "'when' is none of ours"),
        ({"columns": {"time": "t", "input": "i", "output": "nope"}}, "no column 'nope'"),
        ({"unit": "minutes"}, "load.trace.unit='minutes': unknown"),
        ({"order": "any"}, "load.trace.order='any': unknown"),
        ({"zero_output": "x"}, "load.trace.zero_output='x': unknown"),
        ({"block_size": 0}, "load.trace.block_size=0"),
        ({"rate_scale": 0.0}, "load.trace.rate_scale=0"),
        ({"window": "5s"}, "load.trace.window='5s'.*write A..B"),
        ({"window": "9s..5s"}, "ends before it starts"),
        ({"jitter": "normal:1s"}, "load.trace.jitter='normal:1s': unknown"),
        ({"jitter": "uniform:x"}, "load.trace.jitter='uniform:x'"),
        ({}, "of no format that is known by its first line"),
        ({"format": "servegen"}, "a servegen trace is a folder"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        read(written(tmp_path, "t,i,o\n1,2,3\n", "t.csv"), **settings)


# -- ServeGen ----------------------------------------------------------------------------------------------------------


def servegen(tmp_path: Path, **files: str) -> Path:
    tables = {"0": {"input_tokens": "{100: 0.5, 300: 0.5}", "output_tokens": "{7: 1.0}"},
              "21600": {"input_tokens": "{5: 1.0}", "output_tokens": "{6: 1}"}}  # fmt: skip
    written(tmp_path, "0,1.5,1,Gamma,0.5,1\n600,0,0,,0,0\n1200,2.001,1,Weibull,0.5,1\n", "chunk-0-trace.csv")
    written(tmp_path, json.dumps(tables), "chunk-0-dataset.json")
    written(tmp_path, "0,0.5,1,Gamma,2,1\n21600,1,1,Gamma,1,1\n", "chunk-12-trace.csv")
    written(tmp_path, json.dumps(tables), "chunk-12-dataset.json")
    for name, text in files.items():
        written(tmp_path, text, name.replace("_", "-").replace("-csv", ".csv").replace("-json", ".json"))
    return tmp_path


def test_servegen_fills_each_window(tmp_path: Path) -> None:
    blocks = list(traces.read(Trace(file=str(servegen(tmp_path))), seed=3))
    assert [len(block) for block in blocks] == [900 + 300, 1201, 600]
    for block, start in zip(blocks, (0, 1200, 21_600), strict=True):
        assert block.t_ns.min() >= start * NS
        assert block.t_ns.max() < (start + 600) * NS
        assert block.t_ns.max() > (start + 595) * NS
        assert np.all(np.diff(block.t_ns) >= 0)
    first, _, last = blocks
    clients = labels_of(first.klass)
    assert clients.count("client-0") == 900
    assert clients.count("client-12") == 300
    assert set(first.input.tolist()) == {100, 300}
    assert set(last.input.tolist()) == {5}
    assert np.mean(first.input == 100) == pytest.approx(0.5, abs=0.06)
    gaps = np.diff(first.t_ns[np.array(clients) == "client-0"])
    assert gaps.std() / gaps.mean() == pytest.approx(1 / np.sqrt(0.5), abs=0.15)


def test_servegen_scales_its_rate_and_skips_to_the_window(tmp_path: Path) -> None:
    trace = Trace(file=str(servegen(tmp_path)), rate_scale=0.1, window="1200s..")
    block = joined(list(traces.replayed(trace, 3)))
    assert len(block) == 121 + 60
    assert block.t_ns.min() < 60 * NS


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("chunk_0_trace_csv", "0,1,1,Gamma,0.5,1\n600,x,1,Gamma,1,1\n", r"row 2 is '600,x,1,Gamma,1,1'"),
        ("chunk_0_trace_csv", "0,1,1,Pareto,0.5,1\n", "unknown pattern 'Pareto'"),
        ("chunk_0_trace_csv", "0,1,1,Gamma,nan,1\n", "shape is out of range"),
        ("chunk_0_trace_csv", "0,1e9,1,Gamma,1,1\n", "rate out of range"),
        ("chunk_0_trace_csv", "0,1\n", "2 columns instead of 6"),
        ("chunk_0_dataset_json", "{", "cannot be read"),
        ("chunk_0_dataset_json", "{}", "no window has lengths"),
        ("chunk_0_dataset_json", '{"0": {"input_tokens": "__import__(\'os\')", "output_tokens": "{1:1}"}}', "'0'"),
        ("chunk_0_dataset_json", '{"0": {"input_tokens": "{-1: 1}", "output_tokens": "{1:1}"}}', "a length is not"),
        ("chunk_0_dataset_json", '{"0": {"input_tokens": "{1: -1}", "output_tokens": "{1:1}"}}', "probabilities must"),
        ("chunk_0_dataset_json", '{"0": {"output_tokens": "{1:1}"}}', "names no input_tokens"),
    ],
)  # fmt: skip
def test_servegen_names_what_is_broken(tmp_path: Path, name: str, text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        read(servegen(tmp_path, **{name: text}))
