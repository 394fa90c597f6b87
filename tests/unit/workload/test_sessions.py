"""Sessions in the plan: what their turns' bodies hold, and how rows of a session lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmgen import dialects
from llmgen.config import Data, Klass, Load, Prefix, RunConfig, Sessions, Target, Workload
from llmgen.errors import ConfigError
from llmgen.plan import DYNAMIC, SOURCE_ANSWER, SPAN_DTYPE, PlanReader
from llmgen.planning import PlanBuilder
from llmgen.workload.sessions import MAX_TURNS, check_sessions, parse_think, within

REQUESTS = 200


def config(api: str = "chat", load: Load | None = None, more: dict[str, Any] | None = None, **told: Any) -> RunConfig:
    return RunConfig(
        target=Target(urls=("http://127.0.0.1:9",), api=api),
        load=load or Load(rate=5.0, requests=REQUESTS),
        workload=Workload(input="uniform:3,20", output="uniform:1,9", sessions=Sessions(**told), **(more or {})),
    )


def planned(directory: Path, configured: RunConfig, workers: int = 3) -> PlanReader:
    PlanBuilder(configured, directory, workers, "m").write_all()
    return PlanReader(directory)


def words(messages: list[dict[str, Any]]) -> int:
    return sum(len(message["content"].split()) for message in messages)


@pytest.mark.parametrize("api", ["chat", "messages", "ollama"])
@pytest.mark.parametrize("history", ["real", "recorded", "none"])
def test_a_turn_holds_the_former_ones(tmp_path: Path, api: str, history: str) -> None:
    reader = planned(tmp_path, config(api, turns="uniform:1,6", history=history, system=7))
    before: list[dict[str, Any]] = []
    for row, body in reader.bodies():
        messages = json.loads(body)["messages"]
        own = messages[1:] if api != "messages" else messages
        if history == "none" or row["turn"] == 0:
            assert [message["role"] for message in own] == ["user"]
        else:
            assert own[: len(before)] == before
            assert [message["role"] for message in own[len(before) :]] == ["assistant", "user"]
        quoted = 0
        if history == "real":  # the plan leaves room: nobody knows the answers yet
            assert all(one["content"] == "" for one in own if one["role"] == "assistant")
            quoted = int(row["planned_input"]) - words(messages)
            assert quoted == answers_before(reader, row)
        assert words(messages) + quoted == row["planned_input"]
        before = own


def answers_before(reader: PlanReader, row: np.void) -> int:
    rows = reader.all_rows()
    earlier = (rows["session"] == row["session"]) & (rows["turn"] < row["turn"])
    return int(rows["planned_output"][earlier].sum())


def test_the_core_finds_the_answers_by_turn(tmp_path: Path) -> None:
    reader = planned(tmp_path, config(turns=4))
    spans = np.fromfile(tmp_path / "000000.spans", SPAN_DTYPE)
    for row in reader.rows(0):
        mine = spans[int(row["first_span"]) :][: int(row["span_count"])]
        assert mine["offset"][mine["source"] == SOURCE_ANSWER].tolist() == list(range(int(row["turn"])))


def test_rows_of_a_session_lie_side_by_side(tmp_path: Path) -> None:
    rows = planned(tmp_path, config(turns="uniform:1,6", think="uniform:1s,2s")).all_rows()
    assert len(rows) == REQUESTS
    first = rows["turn"] == 0
    assert (rows["due"][first] >= 0).all()
    assert (np.diff(rows["due"][first]) >= 0).all()
    assert (rows["due"][~first] == DYNAMIC).all()
    assert (rows["think"][first] == 0).all()
    assert (rows["think"][~first] >= 1e9).all()
    assert (rows["think"][~first] <= 2e9).all()
    np.testing.assert_array_equal(rows["worker"], rows["session"] % 3)
    np.testing.assert_array_equal(np.cumsum(first) - 1, rows["session"])
    np.testing.assert_array_equal(rows["turn"][1:][~first[1:]], rows["turn"][:-1][~first[1:]] + 1)


def test_no_session_goes_over_a_segment(tmp_path: Path) -> None:
    load = Load(rate=1000.0, requests=60_000)
    reader = planned(tmp_path, config(load=load, turns="uniform:1,3", history="none"))
    assert reader.segments > 1
    for segment in range(reader.segments):
        assert reader.rows(segment)["turn"][0] == 0
    assert len(reader.all_rows()) == 60_000


def test_workers_do_not_change_what_is_sent(tmp_path: Path) -> None:
    one, three = (planned(tmp_path / str(n), config(turns=3), n) for n in (1, 3))
    assert [body for _, body in one.bodies()] == [body for _, body in three.bodies()]


def test_tools_answer_their_calls(tmp_path: Path) -> None:
    reader = planned(tmp_path, config(turns=3, role="tool"))
    messages = next(json.loads(body)["messages"] for row, body in reader.bodies() if row["turn"] == 2)
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant", "tool"]
    calls = [message["tool_calls"][0]["id"] for message in messages if message["role"] == "assistant"]
    assert calls == [message["tool_call_id"] for message in messages if message["role"] == "tool"]
    assert len(set(calls)) == 2


def test_a_session_stays_in_its_class(tmp_path: Path) -> None:
    mix = {"a": Klass(weight=1, input=5, output=2), "b": Klass(weight=1, input=50, output=20)}
    rows = planned(tmp_path, config(more={"mix": mix}, turns=3)).all_rows()
    for number, output in ((0, 2), (1, 20)):
        assert (rows["planned_output"][rows["klass"] == number] == output).all()
    for session in np.unique(rows["session"]):
        assert len(np.unique(rows["klass"][rows["session"] == session])) == 1


def test_the_longest_session_fits(tmp_path: Path) -> None:
    load = Load(rate=1.0, requests=MAX_TURNS + 5)
    rows = planned(tmp_path, config(load=load, turns=10_000, input=2, output=1)).all_rows()
    assert int(rows["turn"].max()) == MAX_TURNS - 1
    assert rows["session"][-1] == 1


def test_sums_within_a_session() -> None:
    found = within(np.array([1, 2, 3, 10, 20, 5]), np.array([0, 1, 2, 0, 1, 0]))
    assert found.tolist() == [1, 3, 6, 10, 30, 5]


def test_think_times() -> None:
    deviates = np.array([0.0, 0.5, 0.999])
    assert parse_think("250ms").seconds(deviates).tolist() == [0.25] * 3
    assert parse_think("uniform:1s,3s").seconds(deviates)[:2].tolist() == [1.0, 2.0]
    assert parse_think("normal:1s,5s").seconds(np.array([-3.0])).tolist() == [0.0]
    drawn = parse_think("lognormal:5s,3s").seconds(np.random.default_rng(1).standard_normal(200_000))
    assert drawn.mean() == pytest.approx(5.0, rel=0.02)
    assert drawn.std() == pytest.approx(3.0, rel=0.05)
    drawn = parse_think("exponential:2s").seconds(np.random.default_rng(1).random(200_000))
    assert drawn.mean() == pytest.approx(2.0, rel=0.02)
    assert drawn.std() == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize(
    "text", ["soon", "zipf:1s,2s", "uniform:1s", "exponential:1s,2s", "uniform:3s,1s", "lognormal:0s,1s", "2d"]
)
def test_think_times_that_cannot_be(text: str) -> None:
    with pytest.raises(ConfigError, match=r"workload\.sessions\.think="):
        parse_think(text)


@pytest.mark.parametrize(
    ("configured", "said"),
    [
        (config("completions"), "no list of messages"),
        (config("responses"), "no list of messages"),
        (config(load=Load(rate=3.0, requests=9, normalize=True)), "normalize"),
        (config(more={"prefix": Prefix(tokens=9)}), "prefix"),
        (config(more={"mix": {"a": Klass(data=Data(file="x"))}}), "data"),
        (config(history="full"), "history='full'"),
        (config(role="system"), "role='system'"),
        (config("ollama", role="tool"), "role='tool'"),
        (config(system=-1), "system=-1"),
        (config(turns=0), "turns="),
        (config(first_input="many"), "first_input="),
    ],
)
def test_sessions_that_cannot_be(configured: RunConfig, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_sessions(configured, dialects.of(configured.target))
