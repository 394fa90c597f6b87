"""Own prompts: what each form holds, what is refused, and how requests get them."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmgen.config import Data, Klass, Load, RunConfig, Target, Trace, Workload
from llmgen.errors import ConfigError
from llmgen.plan import PlanReader
from llmgen.planning import PlanBuilder
from llmgen.workload import datasets
from llmgen.workload.datasets import Record, records

MESSAGES = (
    '{"messages": [{"role": "system", "content": "be \\"brief\\""}, {"role": "user", "content": "ünder\\nline"}], '
    '"max_tokens": 7}\n\n{"prompt": "just text"}\n'
    '{"messages": [{"role": "user", "content": [{"type": "text", "text": "seen"}]}]}\n'
)
SHAREGPT = json.dumps(
    [
        {"id": "1", "conversations": [{"from": "human", "value": "hi there"}, {"from": "gpt", "value": "a b c"}]},
        {"id": "2", "conversations": [{"from": "gpt", "value": "starts with an answer"}]},
        {"id": "3", "conversations": [{"from": "human", "value": "never answered"}]},
        {"id": "4", "conversations": []},
        {
            "id": "5",
            "conversations": [
                {"from": "system", "value": "s"},
                {"from": "user", "value": "q"},
                {"from": "gpt", "value": ""},
            ],
        },
    ]
)


def written(tmp_path: Path, text: str, name: str) -> str:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    return str(path)


def read(file: str, **settings: Any) -> list[Record]:
    return list(records(Data(file=file, **settings), "workload.data"))


def test_messages(tmp_path: Path) -> None:
    found = read(written(tmp_path, MESSAGES, "d.jsonl"))
    assert [record.output for record in found] == [7, None, None]
    assert found[0].text == 'be "brief"\n\nünder\nline'
    assert found[1].prompt == "just text"
    assert found[2].text == "seen"
    assert len(read(written(tmp_path, MESSAGES, "d.jsonl"), limit=2)) == 2


def test_sharegpt_takes_what_comes_before_the_first_answer(tmp_path: Path) -> None:
    found = read(written(tmp_path, SHAREGPT, "d.json"))
    assert [(record.prompt, record.output) for record in found] == [
        ([{"role": "user", "content": "hi there"}], 3),
        ([{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], 1),
    ]


@pytest.mark.parametrize("chunk", [1, 2, 7, 100])
def test_an_array_is_read_in_any_pieces(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "CHUNK_CHARS", chunk)
    items = [1, "a]b,c", {"x": [1, 2, {"y": "\\u00e4ü"}]}, [], None, 2.5, "long " * 50]
    for text in (
        json.dumps(items),
        json.dumps(items, indent=3),
        " \n[" + ",\n\t".join(map(json.dumps, items)) + " ] junk",
    ):
        source = datasets._Source(Data(file="f"), "k")
        assert list(datasets.array_items(io.StringIO(text), source)) == items
    assert list(datasets.array_items(io.StringIO(" [ ] "), source)) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [("", "ends in the middle"), ("{}", "no JSON array"), ("[1", "ends in the middle|comma"), ("[1 2]", "comma"),
     ("[1,", "ends in the middle"), ('[{"a": }]', "no JSON"), ("[1, tru]", "record 2: no JSON")],
)  # fmt: skip
def test_a_broken_array_is_refused(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        list(datasets.array_items(io.StringIO(text), datasets._Source(Data(file="f"), "k")))


def test_text_csv_and_parquet(tmp_path: Path) -> None:
    assert [r.prompt for r in read(written(tmp_path, "one\r\n\n two words \n", "d.txt"))] == ["one", "two words"]
    text = 'id,question,answer_tokens\n1,"a, b\nc",5\n2,d,\n'
    found = read(written(tmp_path, text, "d.csv"), output_column="answer_tokens")
    assert [(r.prompt, r.output) for r in found] == [("a, b\nc", 5), ("d", None)]
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = arrow.table(
        {"n": [3, 4], "messages": [[{"role": "user", "content": "x"}], [{"role": "user", "content": "y"}]]}
    )
    parquet.write_table(table, tmp_path / "d.parquet")
    found = read(str(tmp_path / "d.parquet"), output_column="n")
    assert [(r.prompt, r.output) for r in found] == [
        ([{"role": "user", "content": c}], n) for c, n in (("x", 3), ("y", 4))
    ]
    with pytest.raises(ConfigError, match="no Parquet"):
        read(written(tmp_path, "PAR1 nothing", "broken.parquet"))


@pytest.mark.parametrize(
    ("name", "text", "settings", "why"),
    [
        ("d.jsonl", "[]\n", {}, "line 1: expected"),
        ("d.jsonl", '{"prompt": "a"}\n{', {}, "line 2: no JSON"),
        ("d.jsonl", '{"prompt": 5}', {}, "its prompt is int"),
        ("d.jsonl", '{"prompt": ""}', {}, "its prompt is empty"),
        ("d.jsonl", '{"messages": [{"role": "user"}]}', {}, "a message must be"),
        ("d.jsonl", '{"prompt": "a", "max_tokens": 0}', {}, "answer length is '0'"),
        ("d.json", '[{"conversations": 1}]', {}, "record 1: expected"),
        ("d.json", '[{"conversations": [{"from": "human"}]}]', {}, "a turn must be"),
        ("d.csv", "a,b\n1,2\n", {}, "which one holds the prompts"),
        ("d.csv", "a,b\n1,2\n", {"column": "c"}, "column='c': no such column"),
        ("d.csv", "a,b\n1,2\n", {"column": "a", "output_column": "z"}, "output_column='z'"),
        ("d.csv", 'a,b\n1,"2\n', {"column": "a"}, "no CSV"),
        ("d.dat", "x", {}, "does not tell what it holds"),
        ("d.dat", "x", {"format": "word"}, "format='word': unknown"),
        ("d.txt", "x", {"limit": 0}, "limit=0"),
        ("d.txt", "x", {"order": "any"}, "order='any'"),
    ],
)
def test_refusals(tmp_path: Path, name: str, text: str, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        read(written(tmp_path, text, name), **settings)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        read(str(tmp_path / "d.txt"))
    with pytest.raises(ConfigError, match="no such file"):
        read(str(tmp_path / "none.txt"))


# -- requests ----------------------------------------------------------------------------------------------------------


def planned(
    tmp_path: Path, workload: Workload, api: str = "chat", requests: int = 7
) -> list[tuple[Any, dict[str, Any]]]:
    config = RunConfig(target=Target(api=api, model="m"), load=Load(requests=requests), workload=workload)
    PlanBuilder(config, tmp_path / "plan", 1).write_all()
    return [(row, json.loads(body)) for row, body in PlanReader(tmp_path / "plan").bodies()]


def test_bodies_hold_the_messages_and_the_records_lengths(tmp_path: Path) -> None:
    data = Data(file=written(tmp_path, MESSAGES, "d.jsonl"))
    found = planned(tmp_path, Workload(data=data, output=30))
    expected = [json.loads(line) for line in MESSAGES.split("\n") if line]
    for number, (row, body) in enumerate(found):
        record = expected[number % 3]
        assert body["messages"] == record.get("messages", [{"role": "user", "content": record.get("prompt")}])
        assert body["max_tokens"] == row["planned_output"] == record.get("max_tokens", 30)
        assert row["planned_input"] == [4, 2, 1][number % 3]


def test_an_api_without_messages_gets_their_text(tmp_path: Path) -> None:
    data = Data(file=written(tmp_path, MESSAGES, "d.jsonl"))
    found = planned(tmp_path, Workload(data=data), api="completions", requests=3)
    assert [body["prompt"] for _, body in found] == ['be "brief"\n\nünder\nline', "just text", "seen"]


def test_an_api_without_system_messages_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="record 1 has a system message"):
        planned(tmp_path, Workload(data=Data(file=written(tmp_path, MESSAGES, "d.jsonl"))), api="messages")


def test_unique_puts_a_word_before_each(tmp_path: Path) -> None:
    data = Data(file=written(tmp_path, "same\n", "d.txt"), unique=True)
    found = planned(tmp_path, Workload(data=data), requests=50)
    texts = [body["messages"][0]["content"] for _, body in found]
    assert all(text.endswith(" same") for text in texts)
    assert len(set(texts)) == 50
    assert {int(row["planned_input"]) for row, _ in found} == {2}
    with pytest.raises(ConfigError, match=r"unique: record 3 begins with a list"):
        planned(tmp_path, Workload(data=Data(file=written(tmp_path, MESSAGES, "d.jsonl"), unique=True)))


def test_shuffled_rounds_have_every_record_once(tmp_path: Path) -> None:
    lines = [f"prompt number {number}" for number in range(20)]
    data = Data(file=written(tmp_path, "\n".join(lines), "d.txt"), order="shuffled")
    found = [body["messages"][0]["content"] for _, body in planned(tmp_path, Workload(data=data), requests=60)]
    rounds = [found[start : start + 20] for start in (0, 20, 40)]
    assert all(sorted(each) == sorted(lines) for each in rounds)
    assert rounds[0] != rounds[1] != rounds[2]
    assert rounds[0] != lines


def test_a_mix_of_own_and_made_prompts(tmp_path: Path) -> None:
    mix = {"own": Klass(data=Data(file=written(tmp_path, "mine\n", "d.txt"))), "made": Klass(input=9)}
    found = planned(tmp_path, Workload(mix=mix), requests=200)
    for row, body in found:
        text = body["messages"][0]["content"]
        assert text == "mine" if row["klass"] == 0 else len(text.split()) == 9
    assert 60 < sum(int(row["klass"]) for row, _ in found) < 140


def test_many_prompts_wait_in_a_file_and_come_out_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmgen import plan

    monkeypatch.setattr(plan, "SPOOL_BYTES", 1000)
    rng = random.Random(1)
    lines = ["".join(rng.choices("abc", k=rng.randint(1, 400))) for _ in range(300)]
    data = Data(file=written(tmp_path, "\n".join([*lines, *lines[:5]]), "d.txt"))
    found = planned(tmp_path, Workload(data=data), requests=305)
    assert [body["messages"][0]["content"] for _, body in found] == [*lines, *lines[:5]]


# -- logs --------------------------------------------------------------------------------------------------------------


def log_line(seconds: float, body: dict[str, Any], path: str | None = "/v1/chat/completions") -> str:
    return json.dumps({"timestamp": seconds, "path": path, "body": body})


def replayed(tmp_path: Path, lines: list[str], config: RunConfig) -> list[tuple[Any, dict[str, Any]]]:
    PlanBuilder(config, tmp_path / "plan", 1, "listed").write_all()
    return [(row, json.loads(body)) for row, body in PlanReader(tmp_path / "plan").bodies()]


def test_a_log_is_sent_as_it_was_but_for_the_overrides(tmp_path: Path) -> None:
    message = {"role": "user", "content": "what was asked"}
    lines = [
        log_line(100, {"model": "old", "messages": [message], "max_tokens": 5, "stream": False, "top_p": 0.5}),
        log_line(101.5, {"model": "old", "messages": [message, message]}),
    ]
    file = written(tmp_path, "\n".join(lines), "log.jsonl")
    config = RunConfig(
        target=Target(model="new"),
        load=Load(trace=Trace(file=file, scale=2)),
        workload=Workload(body={"top_p": None, "seed": 3}),
    )
    (first, one), (second, two) = replayed(tmp_path, lines, config)
    assert (int(first["due"]), int(second["due"])) == (0, 750_000_000)
    assert (int(first["planned_input"]), int(first["planned_output"])) == (3, 5)
    assert (int(second["planned_input"]), int(second["planned_output"])) == (6, -1)
    options = {"stream": True, "stream_options": {"include_usage": True}, "seed": 3, "model": "new"}
    assert one == {"messages": [message], "max_tokens": 5, **options}
    assert two == {"messages": [message, message], **options}


def test_a_logs_model_is_kept_where_none_is_configured(tmp_path: Path) -> None:
    lines = [log_line(1, {"model": "old", "prompt": "x"}, None)]
    config = RunConfig(
        load=Load(trace=Trace(file=written(tmp_path, lines[0], "log.jsonl"))), workload=Workload(stream=False)
    )
    ((_, body),) = replayed(tmp_path, lines, config)
    assert body == {"model": "old", "prompt": "x", "stream": False}


def test_requests_to_another_endpoint_are_refused_or_left_out(tmp_path: Path) -> None:
    lines = [log_line(1, {"messages": []}), log_line(2, {"input": "x"}, "/v1/embeddings")]
    file = written(tmp_path, "\n".join(lines), "log.jsonl")
    with pytest.raises(ConfigError, match=r'holds requests to \'/v1/embeddings\'.*classes: {"/v1/embeddings": null}'):
        replayed(tmp_path, lines, RunConfig(load=Load(trace=Trace(file=file))))
    trace = Trace(file=file, classes={"/v1/embeddings": None})
    assert len(replayed(tmp_path, lines, RunConfig(load=Load(trace=trace)))) == 1


# -- lengths that belong together --------------------------------------------------------------------------------------


def test_pairs_stay_together(tmp_path: Path) -> None:
    file = written(tmp_path, "# in,out\n10,1\n20 2\n\n30,3\n", "pairs.txt")
    found = planned(tmp_path, Workload(lengths=f"pairs:{file}"), requests=300)
    pairs = [(int(row["planned_input"]), int(row["planned_output"])) for row, _ in found]
    assert set(pairs) == {(10, 1), (20, 2), (30, 3)}
    for text in ("10\n", "10,x\n", "0,1\n", ""):
        with pytest.raises(ConfigError, match=r"workload\.lengths="):
            planned(tmp_path, Workload(lengths=f"pairs:{written(tmp_path, text, 'bad.txt')}"))


@pytest.mark.parametrize("correlation", [-0.8, 0.0, 0.6])
def test_lengths_are_correlated(tmp_path: Path, correlation: float) -> None:
    workload = Workload(input="lognormal:500,300", output="lognormal:100,80", correlation=correlation)
    rows = [row for row, _ in planned(tmp_path, workload, requests=4000)]
    found = np.corrcoef([np.log([int(row[name]) for row in rows]) for name in ("planned_input", "planned_output")])
    assert found[0, 1] == pytest.approx(correlation, abs=0.05)
    with pytest.raises(ConfigError, match="needs normal or lognormal lengths, output is '100'"):
        planned(tmp_path, Workload(input="normal:5,1", output=100, correlation=0.5))


def test_a_traces_models_and_classes_decide(tmp_path: Path) -> None:
    rows = ["Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"]
    rows += [
        f"{n},{'GPT-4' if n % 3 else 'ChatGPT'},{n + 1},1,1,{'API log' if n % 2 else 'Conversation log'}"
        for n in range(30)
    ]
    trace = Trace(
        file=written(tmp_path, "\n".join(rows), "b.csv"),
        classes={"API log": "api", "Conversation log": "chat"},
        models={"GPT-4": "large", "ChatGPT": "small"},
    )
    mix = {"chat": Klass(body={"temperature": 1}), "api": Klass(body={"temperature": 0})}
    config = RunConfig(target=Target(model="other"), load=Load(trace=trace), workload=Workload(mix=mix))
    found = replayed(tmp_path, rows, config)
    assert len(found) == 30
    for n, (row, body) in enumerate(found):
        assert body["model"] == ("large" if n % 3 else "small")
        assert body["temperature"] == int(row["klass"] == 0) == 1 - n % 2
        assert len(body["messages"][0]["content"].split()) == n + 1
