"""The load against the limits: what is needed at the peak, and which limit is too small for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmgen import machine
from llmgen.checks import load
from llmgen.checks.findings import Check, Level
from llmgen.checks.warm import Warm
from llmgen.config import RunConfig, merge
from llmgen.preflight import Look
from llmgen.target import Target
from llmgen.validation import complete

TARGET = Target("http://h", False, "h", "h", (("inet", "192.0.2.1", 80),), "")
SLOW = Warm(ttft=0.1, gap=0.02, end=0.4)


def configured(**flags: Any) -> RunConfig:
    given = {"target.urls": ("http://h",), "workload.output": 96, **{k.replace("__", "."): v for k, v in flags.items()}}
    return complete(merge(RunConfig(), given))[0]


def checks(seen: Look, warm: Warm | None = SLOW, **flags: Any) -> dict[str, Check]:
    return {check.name: check for check in load.look(configured(**flags), [TARGET], [seen], warm)}


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "raise_descriptor_limit", lambda: 1128)
    monkeypatch.setattr(machine, "port_range", lambda: (40000, 40999))
    monkeypatch.setattr(machine, "usable_cores", lambda: 4)


def test_in_flight_is_littles_law_with_room_for_bursts() -> None:
    found = checks(Look(1, 0.0), load__rate=50.0)
    # 0.1 s and 95 gaps of 0.02 s are 2 s: 100 on average, and four times its root
    assert found["in flight"].data["in_flight"] == 140
    assert found["ports"].level is found["descriptors"].level is Level.ok


def test_a_slower_server_is_warned_of() -> None:
    found = checks(Look(1, 0.0), load__rate=300.0)
    assert found["in flight"].data["in_flight"] == 698
    assert found["ports"].level is found["descriptors"].level is Level.warn
    assert "--source-address" in str(found["ports"].cure)


def test_too_much_for_descriptors_and_ports() -> None:
    found = checks(Look(1, 0.0), load__concurrency=3000, client__workers=1)
    for name, cure in (("ports", "6 local addresses"), ("descriptors", "ulimit -n")):
        assert found[name].level is Level.fail
        assert found[name].exit_code == 2
        assert cure in str(found[name].cure)
    # three workers have a limit each, a limit of connections needs neither
    assert checks(Look(1, 0.0), load__concurrency=3000, client__workers=3)["descriptors"].level is Level.warn
    assert checks(Look(1, 0.0), load__concurrency=3000, client__connections=10)["ports"].level is Level.ok


def test_http2_needs_few_connections_but_streams() -> None:
    seen = Look(2, 0.0, facts={"http2_settings": {"max_concurrent_streams": 100, "initial_window_size": 1 << 20}})
    found = checks(seen, load__concurrency=3000, target__http="2")
    assert found["ports"].data["time_wait"] == 0
    assert found["descriptors"].data["connections"] == 30
    assert found["streams"].level is Level.ok
    few = checks(seen, load__concurrency=3000, target__http="2", client__connections=4)["streams"]
    assert few.level is Level.warn
    assert "--connections 30" in str(few.cure)


def test_a_body_larger_than_the_window_is_warned_of() -> None:
    seen = Look(2, 0.0, facts={"http2_settings": {"initial_window_size": 1024}})
    found = checks(seen, load__rate=1.0, target__http="2", workload__input=4000)
    assert found["streams"].level is Level.warn
    assert "window" in found["streams"].found


def test_without_an_answer_nothing_is_made_up() -> None:
    found = checks(Look(1, 0.0), None, load__rate=50.0)
    assert found["in flight"].data["in_flight"] is None
    assert "for up to" not in found["ports"].found
    assert all(check.level is Level.ok for check in found.values())


def test_workers_that_this_machine_has_no_cores_for() -> None:
    found = checks(Look(1, 0.0), load__concurrency=100_000)["workers"]
    assert found.level is Level.warn
    assert "machines like this one" in str(found.cure)
    assert checks(Look(1, 0.0), load__rate=1.0)["workers"].data == {"wanted": 1, "used": 1, "room": 3}


def test_no_plan_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    checks(Look(1, 0.0), load__rate=1.0)
    assert not list(tmp_path.iterdir())
