"""`llmgen test`: each strategy against the embedded engine, a server that is killed and comes back, interrupts."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmgen.metrics.conclusion import Conclusion
from llmgen.report.strategy import read_conclusion
from llmgen.series import Suite, read_suite
from llmgen.simulator import Endpoint, Options
from running import llmgen_command, run_command

# 16 sequences of 64 tokens in steps of about 5 ms: some 45 requests/s, and a queue without a limit
ENGINE = "tiny,max_waiting=0"
# what is tested is not this machine's quiet
CALM = ("--verdict", "suspect_lag_ms=1000", "--verdict", "invalid_lag_ms=10000", "--verdict", "suspect_ks=1")
SHAPE = ("--input-tokens", 16, "--output-tokens", 64, "--workers", 1, "--drain", "15s", *CALM)
GOAL = ("--slo", "ttft_from_due_p95<500ms")


def concluded(out: Path) -> tuple[Suite, Conclusion]:
    suite = read_suite((out / "latest").resolve())
    assert suite.conclusion is not None
    return suite, read_conclusion(suite.conclusion)


def flags(strategy: str, url: str, out: Path, *more: object) -> list[object]:
    return ["test", strategy, "--url", url, "--out", out, *SHAPE, *more]


def started(out: Path, number: int) -> bool:
    """Whether the load of a run has begun, and has lasted a second."""
    for path in out.glob(f"*/{number:04d}/run.json"):
        start = json.loads(path.read_text())["start_ns"]
        if start > 0 and time.monotonic_ns() > start + 10**9:
            return True
    return False


def wait_for(look: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 40
    while time.monotonic() < until and process.poll() is None:
        if look():
            return
        time.sleep(0.02)
    pytest.fail("it did not come to that")


@pytest.mark.parametrize("rate", [pytest.param(20, marks=pytest.mark.full), 300])
def test_load(tmp_path: Path, serve: Any, rate: int) -> None:
    url = serve(engine=ENGINE).url
    done = run_command(*flags("load", url, tmp_path, *GOAL, "--rate", rate, "--steps", 2, "--hold", "3s"))
    suite, conclusion = concluded(tmp_path)
    assert suite.state == "complete"
    assert suite.kind == "test-load"
    if rate == 20:
        assert (done.returncode, conclusion.verdict) == (0, "passed"), done.stdout
        assert [one.label for one in suite.runs][:1] == ["10 req/s"]
    else:  # beyond what it can do: the first step is held longer, and then the ramp stops
        assert (done.returncode, conclusion.verdict) == (3, "failed"), done.stdout
        assert [one.label for one in suite.runs] == ["150 req/s", "150 req/s, held 6s"]
        assert "in flight grew" in done.stdout
    assert (tmp_path / "latest" / "report.html").stat().st_size > 1000
    again = run_command("report", tmp_path / "latest")
    assert again.stdout.splitlines()[:-1] == done.stdout.splitlines()[:-1], "but for the place that was named"


@pytest.mark.full
def test_stress_names_saturation_and_stops(tmp_path: Path, serve: Any) -> None:
    url = serve(engine=ENGINE).url
    # just below the peak of 49/s, so that the next step brings no more answers
    more = ("--rate", 46, "--factor", 1.5, "--hold", "6s", "--before", "3s", "--watch", "20s")
    done = run_command(*flags("stress", url, tmp_path, *GOAL, *more))
    suite, conclusion = concluded(tmp_path)
    assert done.returncode == 0, done.stdout
    # 46, 69 (beyond the peak: it ends there), and back
    assert len(suite.runs) == 3
    assert "saturation" in [one.rule for one in conclusion.findings]
    assert conclusion.figures["recovery_s"] is not None
    assert 0.5 < conclusion.figures["recovery_s"] < 15
    assert conclusion.figures["overload_throughput_share"] == pytest.approx(1, abs=0.2)
    assert "graceful" in done.stdout


def test_stress_is_stopped_by_errors_in_the_middle_of_a_run(tmp_path: Path, serve: Any) -> None:
    url = serve(engine="tiny,max_waiting=1").url
    more = ("--rate", 200, "--hold", "20s", "--before", "1s", "--watch", "1s", "--abort-on", "error_rate>20% for 1s")
    process = llmgen_command(*flags("stress", url, tmp_path, *more))
    out, _ = process.communicate(timeout=90)
    suite, conclusion = concluded(tmp_path)
    assert suite.runs[0].stopped is not None, out
    assert suite.runs[0].stopped.startswith("error_rate>20% for 1s was reached")
    assert conclusion.steps[0].seconds < 10
    assert process.returncode == 3
    assert "first errors   rate_limited" in out or "rate_limited at" in out


def test_baseline_takes_each_class_alone(tmp_path: Path, serve: Any) -> None:
    path = tmp_path / "mix.yaml"
    path.write_text(
        f"""
target: {{urls: ["{serve(engine=ENGINE).url}"]}}
load: {{rate: 200}}
client: {{workers: 1}}
verdict: {{suspect_lag_ms: 1000, invalid_lag_ms: 10000, suspect_ks: 1}}
slo: ["class:short ttft_p95<1s"]
workload:
  mix:
    short: {{input: 8, output: 8}}
    long: {{input: 64, output: 32, slo: ["e2e<5ms"]}}
"""
    )
    out = tmp_path / "runs"
    done = run_command("test", "baseline", path, "--out", out, "--each", 20, "--share", 0.1)
    suite, conclusion = concluded(out)
    assert [one.label for one in suite.runs] == ["short", "long", "together"]
    assert (done.returncode, conclusion.verdict) == (3, "failed"), done.stdout
    assert any(reason.startswith("long: ") for reason in conclusion.reasons)
    assert not any(reason.startswith("short: ") for reason in conclusion.reasons)
    short, long = (conclusion.figures[f"{name}.e2e_p50_ms"] for name in ("short", "long"))
    assert short is not None
    assert long is not None
    assert short < long


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Restarted:
    """An endpoint that is killed in the middle of a test and comes back on its port."""

    def __init__(self) -> None:
        self.options = Options(engine=ENGINE, port=free_port())
        self.endpoint = Endpoint(self.options)
        self.url = self.endpoint.url

    def kill_and_restart(self) -> None:
        os.kill(self.endpoint.pid, signal.SIGKILL)
        self.endpoint.stop()
        gone = threading.Event()
        gone.wait(0.5)  # requests meet nobody meanwhile
        self.endpoint = Endpoint(self.options)


KILLED = {
    "load": (1, ("--rate", 20, "--steps", 1, "--hold", "5s")),
    "spike": (1, ("--rate", 15, "--before", "2s", "--spike", "2s", "--watch", "11s", "--spikes", 1)),
    "baseline": (1, ("--rate", 20, "--share", 1, "--each", 80)),
    "stress": (2, ("--rate", 20, "--factor", 5, "--hold", "4s", "--before", "2s", "--watch", "12s")),
}


@pytest.mark.parametrize(
    "strategy",
    ["spike", *(pytest.param(name, marks=pytest.mark.full) for name in ("baseline", "load", "stress"))],
)
def test_the_server_is_killed_and_comes_back(tmp_path: Path, strategy: str) -> None:
    number, more = KILLED[strategy]
    server = Restarted()
    try:
        process = llmgen_command(*flags(strategy, server.url, tmp_path, *more))
        wait_for(lambda: started(tmp_path, number), process)
        server.kill_and_restart()
        out, err = process.communicate(timeout=120)
    finally:
        server.endpoint.stop()
    assert process.returncode in (0, 3), err
    suite, conclusion = concluded(tmp_path)
    assert suite.state == "complete"
    (outage, *_) = conclusion.outages
    assert outage.run == number
    assert outage.until_s is not None
    assert 0.3 < outage.until_s - outage.from_s < 12
    assert f"run {number}: the target was away from" in out
    if strategy == "spike":
        assert len(suite.runs) == 1, "one continuous run: what was away is part of it"
    else:
        assert suite.runs[number].label.endswith(", again")
        assert "was taken again: the target was away during it" in " ".join(conclusion.notes)


def test_an_interrupted_test_is_reported_and_goes_on(tmp_path: Path, serve: Any) -> None:
    command = flags("load", serve(engine=ENGINE).url, tmp_path, "--rate", 20, "--steps", 2, "--hold", "3s")
    process = llmgen_command(*command)
    wait_for(lambda: started(tmp_path, 2), process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    suite, conclusion = concluded(tmp_path)
    assert (suite.state, conclusion.verdict, suite.done) == ("incomplete", "incomplete", 1)
    assert "INCOMPLETE" in out
    assert "20 req/s, interrupted" in out
    again = run_command(*command)
    assert again.returncode == 0, again.stdout
    suite, conclusion = concluded(tmp_path)
    assert [one.directory for one in suite.runs] == ["0001", "0002-2"]
    assert (suite.state, conclusion.verdict) == ("complete", "passed")


def test_what_cannot_be_tested_is_refused(tmp_path: Path) -> None:
    for more, what in (
        (("--rate", "inf"), "load.rate"),
        (("--rate", 5, "--steps", 0), "--steps"),
        (("--rate", 5, "--repeat", 3), "No such option"),
    ):
        done = run_command(*flags("load", "http://127.0.0.1:9", tmp_path, *more))
        assert (done.returncode, what in done.stderr) == (2, True), done.stderr
    closed = tmp_path / "closed.yaml"
    closed.write_text("target: {urls: ['http://127.0.0.1:9']}\nload: {concurrency: 3}\n")
    done = run_command("test", "load", closed, "--out", tmp_path)
    assert (done.returncode, "no trace or closed loop" in done.stderr) == (2, True), done.stderr
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
