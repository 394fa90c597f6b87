"""`llmgen check` against endpoints that are well, and that are not."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from llmgen.checks import Level, check
from llmgen.checks.findings import Report
from llmgen.config import RunConfig, merge
from llmgen.errors import LoadingError
from odd_servers import GOOD, OddServer, always, whole
from running import environment, run_command

LOADING = b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'


def looked_at(url: str | tuple[str, ...], **flags: Any) -> Report:
    urls = (url,) if isinstance(url, str) else url
    given = {name.replace("__", "."): value for name, value in flags.items()}
    return check(merge(RunConfig(), {"target.urls": urls, **given}))


def line(report: Report, name: str) -> Any:
    return next(one for one in report.checks if one.name == name and not one.group.startswith("This machine"))


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_this_machine_alone():
    done = run_command("check")
    assert done.returncode == 0, done.stderr
    for name in ("cores", "frequency", "clock", "stamps", "timer", "neighbours"):
        assert name in done.stdout
    assert "Target" not in done.stdout


def test_a_target_that_is_well(serve, tmp_path):
    endpoint = serve(models=("tiny",))
    arguments = ("check", "--url", endpoint.url, "--rate", 20, "--output-tokens", 50)
    done = run_command(*arguments, "--json", env=environment(TMPDIR=str(tmp_path)), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["schema"] == "llmgen.check/1"
    found = {one["name"]: one for one in report["checks"]}
    assert found["model"]["data"]["listed"] == ["tiny"]
    warm = found["warm request"]["data"]
    assert warm["tokens"] == 16
    assert warm["stamps"] == "kernel"
    steps = warm["seconds"]
    assert 0 < steps["headers"] <= steps["first token"] < steps["end"]
    assert found["in flight"]["data"]["in_flight"] >= 1
    assert not list(tmp_path.iterdir()), "a check leaves nothing behind"


def test_http2_tells_its_settings(serve):
    report = looked_at(serve().url, target__http="2", load__concurrency=10)
    assert report.exit_code == 0
    settings = line(report, "protocol").data["settings"]
    assert settings["max_concurrent_streams"] > 0
    assert "SETTINGS" in line(report, "warm request").data["seconds"]
    assert line(report, "streams").level is Level.ok


def test_tls(serve):
    endpoint = serve(tls=True)
    report = looked_at(endpoint.url, target__insecure=True)
    assert report.exit_code == 0
    tls = line(report, "TLS")
    assert tls.level is Level.warn
    assert tls.data["alpn"] == "h2"
    refused = looked_at(endpoint.url)
    assert refused.exit_code == 5
    assert "--ca" in line(refused, "TLS").cure


def test_an_odd_server_gets_a_handful_of_requests_and_is_asked_as_the_load_would():
    with OddServer(always(GOOD)) as server:
        report = looked_at(f"{server.url}/v1", workload__body={"temperature": 0})
        asked = [(request.method, request.path) for request in server.requests]
    assert report.exit_code == 0
    posts = [request for request in server.requests if request.method == "POST"]
    assert len(posts) == 2  # a short one, and one of the load's own length
    assert all(post.json()["temperature"] == 0 for post in posts)
    assert len(asked) <= 8


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    report = looked_at(f"http://127.0.0.1:{port}")
    assert report.exit_code == 5
    assert "refused" in line(report, "connect").found
    assert all(one.name != "warm request" for one in report.checks)


def test_a_name_that_nobody_knows():
    report = looked_at("http://no-such-host.invalid")
    assert report.exit_code == 5
    assert "cannot be resolved" in line(report, "name").found


def test_a_model_that_is_not_there(serve):
    report = looked_at(serve(models=("tiny",)).url, target__model="tinny")
    assert report.exit_code == 2
    assert "tiny" in line(report, "model").cure


@pytest.mark.parametrize(
    ("fault", "code", "cure"), [("401:1", 2, "--api-key-env"), ("404:1", 5, "--model"), ("503:1", 5, "server's log")]
)
def test_a_request_that_is_refused(serve, fault, code, cure):
    report = looked_at(serve(fault=(fault,)).url)
    warm = line(report, "warm request")
    assert (report.exit_code, warm.level) == (code, Level.fail)
    assert cure in warm.cure


def test_a_load_beyond_the_ports(serve):
    report = looked_at(serve().url, load__concurrency=1_000_000)
    assert report.exit_code == 2
    assert line(report, "ports").level is Level.fail
    assert "--source-address" in line(report, "ports").cure


def test_several_targets_have_a_group_each(serve):
    urls = (serve().url, serve().url)
    report = looked_at(urls)
    assert report.exit_code == 0
    for url in urls:
        names = [one.name for one in report.checks if one.group == f"Target {url}"]
        assert names == ["connect", "protocol", "model", "warm request"]


def test_a_configuration_that_cannot_work_is_said_in_a_line(tmp_path: Path):
    done = run_command("check", "--url", "http://h", "--rate", -1, cwd=tmp_path)
    assert done.returncode == 2
    assert "load.rate" in done.stderr


def test_a_server_that_loads_its_model_is_told_so(serve, offer):
    """By check in its line, by run before anything is sent."""
    endpoint = serve(engine="tiny,load=60s")
    report = looked_at(endpoint.url)
    assert report.exit_code == 5
    assert "still loading its model (503: Loading model)" in line(report, "model").found
    with pytest.raises(LoadingError, match="coldstart"):
        offer(endpoint.url)


def test_a_model_that_is_loaded_at_the_first_request_is_told_so():
    with OddServer(always(whole(LOADING, b"503 Service Unavailable"))) as server:
        report = looked_at(server.url)
    assert report.exit_code == 5
    assert "being loaded" in line(report, "warm request").cure
