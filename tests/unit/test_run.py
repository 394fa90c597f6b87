"""Pieces of a run that need no server: folders, limits, when to stop, what to hide, where a url leads."""

from __future__ import annotations

import json
import os
import resource
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llmgen import abort, machine, rundir
from llmgen import target as targets
from llmgen.columns import COUNTERS_DTYPE, Status
from llmgen.config import RunConfig, Target
from llmgen.credentials import hide
from llmgen.errors import ConfigError, TargetError
from llmgen.run import cut_ns
from llmgen.setups import check_limits, cores, split


def test_split_differs_by_one_at_most():
    for total in range(20):
        for parts in range(1, 6):
            shares = split(total, parts)
            assert sum(shares) == total
            assert len(shares) == parts
            assert max(shares) - min(shares) <= 1
    assert split(None, 3) == [0, 0, 0]


def test_cut():
    assert cut_ns(1.5, 10) == 1_500_000_000
    assert cut_ns("10%", 2_000_000_000) == 200_000_000
    assert cut_ns("10 %", None) == 0


def test_cores(monkeypatch):
    monkeypatch.setattr(machine, "affinity", lambda: [0, 2, 4])
    assert cores(2, True) == [4, 2]  # from the last downwards: the first is where a server likes to be
    assert cores(3, True) == [4, 2, 0]
    assert cores(4, True) == [None] * 4
    assert cores(2, False) == [None] * 2
    monkeypatch.setattr(machine, "affinity", lambda: [7])
    assert cores(1, True) == [None]


# -- folders -----------------------------------------------------------------------------------------------------------


def test_folders_of_one_second(tmp_path, monkeypatch):
    monkeypatch.setattr(rundir.time, "strftime", lambda *_: "20260101T000000Z")
    names = [rundir.make(str(tmp_path), "a b/../c").name for _ in range(3)]
    assert names == [f"20260101T000000Z-a-b-..-c{end}" for end in ("", "-2", "-3")]
    assert rundir.make(str(tmp_path), "../..").name.startswith("20260101T000000Z-")
    assert {path.parent for path in tmp_path.iterdir()} == {tmp_path}


def test_latest(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        rundir.point_latest(tmp_path / name)
        assert os.readlink(tmp_path / "latest") == name
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").mkdir()
    rundir.point_latest(tmp_path / "one")  # somebody's folder of that name is left alone
    assert (tmp_path / "latest").is_dir()
    assert not (tmp_path / "latest").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "one", "two"]


def test_json_is_replaced_whole(tmp_path):
    path = tmp_path / "run.json"
    rundir.write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        rundir.write_json(path, {"a": float("nan")})  # no number of JSON
    assert json.loads(path.read_text()) == {"a": 1}


def test_errors_of_all_workers_the_first_of_each_kind(tmp_path):
    for worker in (0, 1):
        directory = tmp_path / f"worker-{worker}"
        directory.mkdir()
        rows = [
            {"status": 4, "http_status": 500, "index": 2 * i + worker, "target": 0, "text": f"key sk-1234 {i}"}
            for i in range(30)
        ]
        rows.append({"status": 12, "http_status": 0, "index": 1000 + worker, "target": 0, "text": "x" * 5000})
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (directory / "errors.jsonl").write_text(text + '{"status": 4, "http_st')  # as a killed worker leaves it
    rundir.gather_errors(tmp_path, ["sk-1234"])
    lines = [json.loads(line) for line in (tmp_path / "errors.jsonl").read_text().splitlines()]
    served = [line for line in lines if line["status"] == "http_5xx"]
    assert [line["index"] for line in served] == list(range(20))
    assert {line["text"][:8] for line in served} == {"key *** "}
    resets = [line for line in lines if line["status"] == "reset"]
    assert [line["http_status"] for line in resets] == [None, None]
    assert {len(line["text"]) for line in resets} == {2048}


def test_hide():
    assert hide("a sk-123456 b Bearer sk-123456", ["Bearer sk-123456", "sk-123456"]) == "a *** b ***"
    assert hide("cut at the end: sk-1234", ["sk-123456"]) == "cut at the end: ***"
    assert hide("sk-1", ["sk-123456"]) == "sk-1"  # four characters tell nothing
    assert hide("nothing", []) == "nothing"


# -- when to stop ------------------------------------------------------------------------------------------------------


def counters(**values: Any) -> np.ndarray:
    found = np.zeros(2, COUNTERS_DTYPE)
    for name, value in values.items():
        if name in (COUNTERS_DTYPE.names or ()):
            found[name][1] = value
        else:
            found["by_status"][0][Status[name]] = value
    return found


def test_answers_that_are_all_denials():
    watch = abort.AbortWatch(None)
    assert watch.look(counters(ended=19, denied=19)) is None
    assert "20 answers" in str(watch.look(counters(ended=20, denied=20)))
    assert watch.look(counters(ended=21, denied=20)) is None


@pytest.mark.parametrize(
    ("text", "metric", "limit", "span"),
    [
        ("error_rate>50% for 10s", "error_rate", 0.5, 10.0),
        ("error_rate>=0.25", "error_rate", 0.25, 0.0),
        ("in_flight > 2000 for 500ms", "in_flight", 2000.0, 0.5),
    ],
)
def test_rules(text, metric, limit, span):
    rule = abort.parse(text)
    assert (rule.metric, rule.limit, rule.span_s) == (metric, limit, span)


@pytest.mark.parametrize("text", ["", "error_rate<5", "errors>5", "error_rate>50% for ever", "in_flight>x"])
def test_rules_that_are_none(text):
    with pytest.raises(ConfigError, match=r"client\.abort_on"):
        abort.parse(text)


def test_a_rule_holds_for_its_time(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(abort.time, "monotonic", lambda: now[0])
    watch = abort.AbortWatch(abort.parse("error_rate>50% for 5s"))
    told = []
    for second in range(25):
        now[0] += 1
        # ten more requests a second, from the fifth second on all of them fail
        failed = 10 * max(0, second - 4)
        told.append(watch.look(counters(ended=10 * second, http_5xx=failed)))
    assert told[:10] == [None] * 10  # five seconds of failures are needed
    assert all(told[15:])  # the share of the last five seconds, above the limit for five more
    assert "error_rate>50% for 5s" in next(reason for reason in told if reason)


def test_a_rule_starts_anew_when_it_is_met_again(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(abort.time, "monotonic", lambda: now[0])
    watch = abort.AbortWatch(abort.parse("in_flight>10 for 3s"))
    told = []
    for value in (20, 20, 5, 20, 20, 20, 20, 20):
        now[0] += 1
        told.append(watch.look(counters(in_flight=value)))
    assert [bool(reason) for reason in told] == [False] * 6 + [True] * 2


# -- limits ------------------------------------------------------------------------------------------------------------


def limits(monkeypatch, *, descriptors: int = 1024, ports: int = 28232, protocol: int = 1, **flags: Any) -> None:
    from llmgen.config import merge

    monkeypatch.setattr(machine, "raise_descriptor_limit", lambda: descriptors)
    monkeypatch.setattr(machine, "ephemeral_ports", lambda: ports)
    found = targets.resolve(Target(urls=("http://127.0.0.1:1",)))
    prepared: Any = SimpleNamespace(looks=[SimpleNamespace(protocol=protocol)], targets=found)
    check_limits(merge(RunConfig(), flags), prepared, 2)


def test_limits_that_suffice(monkeypatch):
    limits(monkeypatch, **{"load.rate": 1e6})  # how many that needs cannot be known before
    limits(monkeypatch, **{"load.concurrency": 1700})
    limits(monkeypatch, protocol=2, **{"load.concurrency": 20_000})


def test_limits_that_do_not(monkeypatch):
    with pytest.raises(ConfigError, match=r"1800 connections need 1028 file descriptors .* is 1024; .*ulimit"):
        limits(monkeypatch, **{"load.concurrency": 1800})
    with pytest.raises(ConfigError, match="--connections"):
        limits(monkeypatch, **{"load.rate": "inf", "load.requests": 5000})
    with pytest.raises(ConfigError, match="ip_local_port_range"):
        limits(monkeypatch, descriptors=1 << 20, **{"client.connections": 30_000})


def test_the_machine_tells():
    facts = machine.environment()
    assert facts["cores"] >= len(facts["affinity"]) >= 1
    assert facts["ephemeral_ports"] > 0
    assert machine.usable_cores() >= 1
    assert machine.versions()["python"]
    mine = machine.memory_of(os.getpid())
    assert mine["peak_rss_mb"] >= mine["user_rss_mb"] > 0
    assert machine.memory_of(1 << 30) == {}
    stolen, ticks = machine.cpu_times()
    assert ticks >= stolen >= 0
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert machine.raise_descriptor_limit() >= before[0]


# -- targets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "authority", "address", "path"),
    [
        ("http://127.0.0.1:8000/v1", "127.0.0.1:8000", ("inet", "127.0.0.1", 8000), "/v1"),
        ("http://127.0.0.1", "127.0.0.1", ("inet", "127.0.0.1", 80), ""),
        ("https://127.0.0.1:443/x", "127.0.0.1", ("inet", "127.0.0.1", 443), "/x"),
        ("http://[::1]:9", "[::1]:9", ("inet6", "::1", 9, 0), ""),
        ("unix:/run/a%20b.sock", "localhost", ("unix", "/run/a b.sock"), ""),
        ("unix:///run/x.sock", "localhost", ("unix", "/run/x.sock"), ""),
    ],
)
def test_urls(url, authority, address, path):
    (found,) = targets.resolve(Target(urls=(url,)))
    assert found.authority == authority
    assert found.addresses == (address,)
    assert found.path == path
    assert found.secure == url.startswith("https")


def test_connect_to():
    (found,) = targets.resolve(Target(urls=("http://name.invalid/v1",), connect_to="127.0.0.1:77"))
    assert found.authority == "name.invalid"
    assert found.addresses == (("inet", "127.0.0.1", 77),)


def test_a_name_that_does_not_resolve_is_told_without_its_secrets():
    with pytest.raises(TargetError, match="cannot be resolved") as caught:
        targets.resolve(Target(urls=("http://nowhere.invalid/?key=hunter2",)))
    assert "hunter2" not in str(caught.value)


def test_secrets_in_the_forms_in_which_they_may_come_back():
    found = targets.secrets({"Authorization": 'Bearer a"b/c+d', "X-Plain": "visible", "api-key": "abc"})
    assert 'Bearer a"b/c+d' in found
    assert 'a"b/c+d' in found
    assert 'a\\"b/c+d' in found
    assert "a%22b%2Fc%2Bd" in found
    assert "visible" not in found
    assert "abc" not in found  # too short to be told from text
    assert found == sorted(found, key=len, reverse=True)
