"""From a configuration to a plan: what is in it, what it costs, and what it does not depend on."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmgen import planning
from llmgen.config import Klass, Load, RunConfig, Target, Trace, Workload
from llmgen.errors import ConfigError
from llmgen.plan import ANY_TARGET, DYNAMIC, PlanReader
from llmgen.planning import FIRST_SEGMENT_ROWS, SEGMENT_ROWS, PlanBuilder
from llmgen.schedule import due_blocks

DATA = Path(__file__).parents[3] / "shared" / "data"
TARGET = Target(urls=("http://h:1",), model="m")
HEADER = b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n"


def plan(tmp_path, config, workers=1, name="plan", model=None):
    builder = PlanBuilder(config, tmp_path / name, workers, model)
    builder.write_all()
    return builder, PlanReader(tmp_path / name)


def words(body):
    return len(json.loads(body)["messages"][0]["content"].split())


def test_rows_are_the_schedule_and_bodies_have_the_planned_lengths(tmp_path):
    config = RunConfig(
        target=TARGET,
        load=Load(rate=50, duration=20),
        workload=Workload(input="lognormal:80,60", output="uniform:1,200"),
        seed=9,
    )
    builder, reader = plan(tmp_path, config, workers=3)
    rows = reader.all_rows()
    np.testing.assert_array_equal(rows["due"], np.concatenate(list(due_blocks(config.load, 9))))
    np.testing.assert_array_equal(rows["index"], np.arange(len(rows)))
    np.testing.assert_array_equal(rows["worker"], np.arange(len(rows)) % 3)
    assert set(rows["session"].tolist()) == {-1}
    assert set(rows["target"].tolist()) == {0}
    texts = set()
    for row, body in reader.bodies():
        document = json.loads(body)
        assert document["max_tokens"] == row["planned_output"]
        assert document["model"] == "m"
        prompt = document["messages"][0]["content"]
        assert len(prompt.split()) == row["planned_input"]
        texts.add(prompt.split()[0])
    assert len(texts) == len(rows)
    facts = reader.facts()
    assert facts["rows"] == len(rows) == builder.rows_written
    assert facts["last_due_ns"] == builder.last_due_ns == rows["due"][-1]
    assert facts["planned_input"] == rows["planned_input"].sum()
    assert facts["planned_output"] == rows["planned_output"].sum()
    assert facts["classes"] == [{"name": "default", "rows": len(rows)}]


def test_nothing_depends_on_workers_or_segments(tmp_path, monkeypatch):
    config = RunConfig(
        target=TARGET,
        load=Load(arrival="gamma:2", rate=1000, requests=2000),
        workload=Workload(
            mix={"a": Klass(weight=2, input="normal:30,10"), "b": Klass(output="zipf:1.1,50", model="x:1,y:2")}
        ),
    )
    _, reader = plan(tmp_path, config, workers=1, name="one")
    one = list(reader.bodies())
    monkeypatch.setattr(planning, "FIRST_SEGMENT_ROWS", 7)
    monkeypatch.setattr(planning, "SEGMENT_ROWS", 333)
    builder, reader = plan(tmp_path, config, workers=4, name="four")
    assert builder.segments == 7
    four = list(reader.bodies())
    same = ["due", "index", "klass", "head", "planned_input", "planned_output", "body_bytes"]
    for (row, body), (other_row, other_body) in zip(one, four, strict=True):
        assert body == other_body
        assert row[same] == other_row[same]


def test_another_seed_gives_other_times_and_bodies(tmp_path):
    def made(seed):
        config = RunConfig(target=TARGET, load=Load(rate=10, requests=50), seed=seed)
        return list(plan(tmp_path, config, name=str(seed))[1].bodies())

    for (row, body), (other_row, other_body) in zip(made(1), made(2), strict=True):
        assert row["due"] != other_row["due"]
        assert body != other_body


def test_a_long_plan_is_written_in_segments(tmp_path):
    config = RunConfig(target=TARGET, load=Load(rate=1000, requests=100_000), workload=Workload(input=3))
    builder = PlanBuilder(config, tmp_path, 2)
    sizes = []
    while size := builder.write_next():
        sizes.append(size)
        assert builder.rows_written == sum(sizes)
        assert builder.finished == (sum(sizes) == 100_000)
        assert (tmp_path / "plan.json").exists() == builder.finished
        assert builder.last_due_ns == PlanReader(tmp_path).rows(len(sizes) - 1)["due"][-1]
    assert sizes == [FIRST_SEGMENT_ROWS, SEGMENT_ROWS, 100_000 - FIRST_SEGMENT_ROWS - SEGMENT_ROWS]
    assert builder.write_next() == 0
    assert np.all(np.diff(PlanReader(tmp_path).all_rows()["due"]) >= 0)


def test_a_full_last_segment_finishes_the_plan(tmp_path):
    config = RunConfig(target=TARGET, load=Load(rate=1000, requests=FIRST_SEGMENT_ROWS), workload=Workload(input=1))
    builder = PlanBuilder(config, tmp_path, 2)
    assert builder.write_next() == FIRST_SEGMENT_ROWS
    assert builder.finished


def test_a_closed_loop_is_dynamic_and_without_end(tmp_path):
    config = RunConfig(target=TARGET, load=Load(concurrency=8, duration=60), workload=Workload(input=2))
    builder = PlanBuilder(config, tmp_path, 2)
    for _ in range(4):
        assert builder.write_next() > 0
        assert not builder.finished
    assert np.all(PlanReader(tmp_path).all_rows()["due"] == DYNAMIC)
    assert builder.last_due_ns == 0
    bodies = {body for _, (_, body) in zip(range(100), PlanReader(tmp_path).bodies(), strict=False)}
    assert len(bodies) == 100


def test_a_plan_without_a_request(tmp_path):
    """0.001/s for 1 s: a schedule may be empty."""
    builder, reader = plan(tmp_path, RunConfig(target=TARGET, load=Load(rate=0.001, duration=1)))
    assert builder.finished
    assert reader.facts()["segments"] == reader.facts()["rows"] == reader.segments == 0
    assert list(reader.bodies()) == []


def test_heads_are_one_a_class_with_a_path_a_target(tmp_path):
    config = RunConfig(
        target=Target(urls=("http://a", "https://b/base/v1", "unix:/run/s.sock"), query={"v": "1"}, model="m"),
        load=Load(rate=100, requests=200),
        workload=Workload(mix={"a": Klass(), "b": Klass(stream=False)}),
    )
    builder, reader = plan(tmp_path, config)
    chat = "/v1/chat/completions?v=1"
    paths = (chat, "/base/v1/chat/completions?v=1", chat)
    assert [(head.klass, head.stream, head.paths) for head in builder.heads] == [(0, True, paths), (1, False, paths)]
    rows = reader.all_rows()
    assert set(rows["target"].tolist()) == {ANY_TARGET}
    np.testing.assert_array_equal(rows["head"], rows["klass"])
    for row, body in reader.bodies():
        assert json.loads(body)["stream"] is builder.heads[row["head"]].stream
    assert [one["rows"] for one in reader.facts()["classes"]] == np.bincount(rows["klass"]).tolist()


def test_the_model_of_the_server_is_used_where_none_is_configured(tmp_path):
    config = RunConfig(target=Target(urls=("http://h",)), load=Load(requests=1))
    (_, body), = plan(tmp_path, config, model="served", name="a")[1].bodies()  # fmt: skip
    assert json.loads(body)["model"] == "served"
    (_, body), = plan(tmp_path, config, name="b")[1].bodies()  # fmt: skip
    assert "model" not in json.loads(body)


def trace_config(path, **load):
    scale = load.pop("scale", 1.0)
    return RunConfig(target=TARGET, load=Load(trace=Trace(file=str(path), scale=scale), **load))


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_the_azure_trace_is_replayed_row_by_row(tmp_path, scale):
    path = DATA / "azure_llm_2023_conv.csv"
    if not path.is_file():
        pytest.skip(f"{path.name} is not here")
    rows = []
    for line in path.read_text().splitlines()[1:]:
        stamp, planned_input, planned_output = line.split(",")
        hours, minutes, seconds = stamp[11:19].split(":")
        whole = (int(hours) * 60 + int(minutes)) * 60 + int(seconds)
        rows.append((whole * 10**9 + int(stamp[20:27]) * 100, int(planned_input), int(planned_output)))
    expected = [(round((t - rows[0][0]) / scale), i, o) for t, i, o in rows]
    expected = [row for row in expected if row[0] < 60 * 10**9]
    _, reader = plan(tmp_path, trace_config(path, scale=scale, duration=60))
    found = reader.all_rows()
    assert list(zip(found["due"], found["planned_input"], found["planned_output"], strict=True)) == expected
    for number, (row, body) in enumerate(reader.bodies()):
        if number % 10 == 0:
            assert words(body) == row["planned_input"]
            assert json.loads(body)["max_tokens"] == row["planned_output"]


def test_what_jitter_was_used_is_told(tmp_path):
    path = tmp_path / "t.jsonl"
    rows = [f'{{"timestamp":{3000 * (n // 5)},"input_length":3,"output_length":2}}' for n in range(50)]
    path.write_text("\n".join(rows))
    config = RunConfig(target=TARGET, load=Load(trace=Trace(file=str(path), jitter="uniform:quantum")))
    builder, reader = plan(tmp_path, config)
    assert builder.schedule.describe() == "trace, jitter uniform 3s"
    assert len(np.unique(reader.all_rows()["due"])) == 50
    assert plan(tmp_path, trace_config(path), name="plain")[0].schedule.describe() == "trace"


def test_a_trace_without_duration_is_replayed_whole_and_requests_limit_it(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(HEADER + b"".join(b"2023-11-16 18:15:%02d.0000000,%d,%d\r\n" % (i, i, 2 * i) for i in range(30)))
    rows = plan(tmp_path, trace_config(path))[1].all_rows()
    assert rows["due"].tolist() == [i * 10**9 for i in range(30)]
    assert rows["planned_input"].tolist() == [1, *range(1, 30)]  # nothing can be sent for a length of 0
    assert rows["planned_output"].tolist() == [1, *range(2, 60, 2)]
    assert len(plan(tmp_path, trace_config(path, requests=7), name="b")[1].all_rows()) == 7
    assert len(plan(tmp_path, trace_config(path, requests=30), name="e")[1].all_rows()) == 30
    assert len(plan(tmp_path, trace_config(path, duration=10), name="c")[1].all_rows()) == 10
    assert len(plan(tmp_path, trace_config(path, duration=10, requests=3, scale=2), name="d")[1].all_rows()) == 3


def test_a_broken_row_of_a_trace_stops_the_plan_with_its_number(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(HEADER + b"2023-11-16 18:15:00.0000000,1,1\r\nnonsense\r\n")
    with pytest.raises(ConfigError, match="row 2"):
        plan(tmp_path, trace_config(path))


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (RunConfig(target=Target(api="nope")), "target.api"),
        (RunConfig(load=Load(arrival="x")), "load.arrival"),
        (RunConfig(workload=Workload(input="x")), "workload.input"),
        (trace_config("/no/such"), "load.trace.file"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path, config, word):
    with pytest.raises(ConfigError, match=word):
        PlanBuilder(config, tmp_path / "plan", 1)
    assert not (tmp_path / "plan").exists()


BUDGET = """
import os, sys
from pathlib import Path
from llmgen.config import Klass, Load, RunConfig, Target, Workload
from llmgen.machine import memory_of
from llmgen.planning import PlanBuilder
mix = {"short": Klass(weight=3, input="lognormal:128,100", output="lognormal:64,50"),
       "long": Klass(input="lognormal:6000,4000", output="uniform:1,300")}
config = RunConfig(target=Target(urls=("http://h",), model="m"), load=Load(rate=1000, requests=1_000_000),
                   workload=Workload(mix=mix))
builder = PlanBuilder(config, Path(sys.argv[1]), 2)
builder.write_all()
# VmHWM: ru_maxrss would be that of the test runner before the exec
print(round(memory_of(os.getpid())["peak_rss_mb"]), builder.bytes_written, builder.rows_written)
"""


def test_a_million_requests_fit_into_300_mb_of_memory_and_1_gb_of_disk(tmp_path):
    answer = subprocess.run(
        [sys.executable, "-c", BUDGET, str(tmp_path / "plan")], check=True, capture_output=True, text=True, timeout=60
    )
    rss_mb, size, rows = map(int, answer.stdout.split())
    assert rows == 1_000_000
    assert rss_mb <= 300
    assert (
        size
        == sum(path.stat().st_size for path in (tmp_path / "plan").iterdir())
        - (tmp_path / "plan" / "plan.json").stat().st_size
    )
    assert size <= 10**9
