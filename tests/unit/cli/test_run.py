"""`llmgen run`: flags become keys of the configuration; what is printed; what is refused."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from llmgen import cli
from llmgen.config import FLAGS, Klass, RunConfig, Telemetry
from llmgen.errors import TargetError


class FakeRun:
    """Stands in for llmgen.run: keeps what it was called with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.config: RunConfig | None = None
        self.shown: dict[str, Any] = {}
        self.error: Exception | None = None
        module = types.ModuleType("llmgen.run")
        module.run = self  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "llmgen.run", module)

    def __call__(self, config: RunConfig, **shown: Any) -> Any:
        self.config, self.shown = config, shown
        if self.error is not None:
            raise self.error
        return types.SimpleNamespace(exit_code=3, summary=None, directory="runs/x")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    return FakeRun(monkeypatch)


def run(*arguments: str) -> int:
    return cli.call(["run", "--quiet", *arguments])


VALUES: dict[str, tuple[str | None, Any]] = {
    "target.urls": ("http://h", ("http://h",)),
    "target.query": ("k=v=w", {"k": "v=w"}),
    "target.headers": ("x-a: b: c", {"x-a": "b: c"}),
    "target.http": ("2", "2"),
    "target.insecure": (None, True),
    "load.arrival": ("constant", "constant"),
    "load.rate": ("2.5", 2.5),
    "load.concurrency": ("4", 4),
    "load.trace.scale": ("2", 2.0),
    "load.trace.rate_scale": ("0.5", 0.5),
    "load.trace.loop": (None, True),
    "load.trace.turns": ("timed", "timed"),
    "target.sticky": (None, False),
    "load.normalize": (None, True),
    "load.duration": ("1m30s", 90.0),
    "load.requests": ("7", 7),
    "load.warmup": ("10%", "10%"),
    "load.cooldown": ("5s", 5.0),
    "load.drain": ("0", 0.0),
    "workload.mix": ("chat", dict.fromkeys(["chat"], Klass(input="lognormal:1155,1109", output="lognormal:211,163"))),
    "workload.prefix.tokens": ("100", 100),
    "workload.prefix.pool": ("3", 3),
    "prices.max_cost": ("2.5", 2.5),
    "workload.body": ('{"a": {"b": null}}', {"a": {"b": None}}),
    "workload.stream": (None, False),
    "workload.exact_output": (None, True),
    "workload.continuous_usage": (None, True),
    "client.workers": ("2", 2),
    "client.connections": ("5", 5),
    "client.streams_per_connection": ("6", 6),
    "client.preconnect": ("1", 1),
    "client.source_addresses": ("127.0.0.2, 127.0.0.3", ("127.0.0.2", "127.0.0.3")),
    "client.timeouts.connect": ("250ms", 0.25),
    "client.timeouts.first_token": ("1s", 1.0),
    "client.timeouts.idle": ("2", 2.0),
    "client.timeouts.total": ("1h", 3600.0),
    "client.spin": ("50us", 5e-5),
    "client.pin": (None, False),
    "client.traceparent": (None, True),
    "client.retries": ("2", 2),
    "client.resend_unprocessed": (None, True),
    "client.patience": ("3s", 3.0),
    "slo": ("ttft<1s", ("ttft<1s",)),
    "slo_presets": ("mlperf:llama2-70b:server", ("mlperf:llama2-70b:server",)),
    "verdict": ("suspect_lag_ms=5", {"suspect_lag_ms": 5.0}),
    "telemetry": ("http://n:1/metrics", (Telemetry(url="http://n:1/metrics"),)),
    "keep_bodies": (None, True),
    "repeat": ("1", 1),
    "seed": ("9", 9),
    "tags": ("a=b", {"a": "b"}),
}


# What a key cannot be without.
NEEDS: dict[str, list[str]] = {
    "load.trace.": ["--trace", "t.csv"],
    "workload.prefix.": ["--prefix-tokens", "9"],
    "workload.data.": ["--data", "d.jsonl"],
}


@pytest.mark.parametrize("key", FLAGS)
def test_every_flag_sets_its_key(key: str, fake: FakeRun) -> None:
    text, value = VALUES.get(key, ("word", "word"))
    before = next((flags for start, flags in NEEDS.items() if key.startswith(start)), [])
    before = [] if FLAGS[key] in before else before
    assert run(*before, FLAGS[key], *([] if text is None else [text])) == 3
    found: Any = fake.config
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


def test_flags_that_repeat_are_collected(fake: FakeRun) -> None:
    run("--url", "http://a", "--url", "http://b", "--tag", "a=1", "--tag", "b=2", "--slo", "ttft<1s", "--slo", "e2e<9s",
        "--source-address", "::1", "--source-address", "127.0.0.2,127.0.0.3")  # fmt: skip
    assert fake.config is not None
    assert fake.config.target.urls == ("http://a", "http://b")
    assert fake.config.tags == {"a": "1", "b": "2"}
    assert fake.config.slo == ("ttft<1s", "e2e<9s")
    assert fake.config.client.source_addresses == ("::1", "127.0.0.2", "127.0.0.3")


def test_flags_win_over_the_file_and_only_those_given(fake: FakeRun, tmp_path: Path) -> None:
    file = tmp_path / "load.json"
    file.write_text(json.dumps({"seed": 5, "client": {"pin": False, "workers": 3}, "load": {"rate": 2}}))
    assert run(str(file), "--rate", "7", "--workers", "auto") == 3
    assert fake.config is not None
    assert (fake.config.seed, fake.config.client.pin, fake.config.client.workers) == (5, False, None)
    assert fake.config.load.rate == 7.0


def test_a_ramp(fake: FakeRun) -> None:
    run("--rate", "5..50")
    assert fake.config is not None
    assert (fake.config.load.rate, fake.config.load.rate_to) == (5.0, 50.0)


def test_what_is_shown_is_passed_on(fake: FakeRun) -> None:
    run("--no-progress", "--log-json", "--listen-metrics", "127.0.0.1:9464")
    shown = {"progress": False, "quiet": True, "json_out": False, "log_json": True, "listen_metrics": "127.0.0.1:9464"}
    assert fake.shown == shown


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--header", "Authorization: Bearer s3cret"], "env:VARIABLE"),
        (["--header", "api-key: s3cret"], "env:VARIABLE"),
        (["--header", "Cookie: s3cret"], "env:VARIABLE"),
        (["--header", "s3cret"], "'Name: value'"),
        (["--duration", "4y"], "write a duration"),
        (["--warmup", "100%"], "percentage"),
        (["--workers", "some"], "a whole number or auto"),
        (["--requests", "1.5"], "1.5"),
        (["--body", "{"], "not JSON"),
        (["--body", '{"a": 1, "a": 2}'], "twice"),
        (["--body", "[]"], "must be an object"),
        (["--tag", "a"], "NAME=VALUE"),
        (["--rate", "fast"], "load.rate='fast': write requests per second"),
        (["--rate", "5", "--concurrency", "3", "--arrival", "poisson"], "contradicts load.concurrency"),
        (["--rat", "5"], "--rate"),
        (["none.yaml"], "none.yaml: cannot be read"),
    ],
)
def test_wrong_usage_is_exit_2_and_says_what_is_right(
    arguments: list[str], complaint: str, fake: FakeRun, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    err = capfd.readouterr().err
    assert complaint in err
    assert "s3cret" not in err
    assert fake.config is None


def test_a_target_that_cannot_be_reached_is_exit_5(fake: FakeRun, capfd: pytest.CaptureFixture[str]) -> None:
    fake.error = TargetError("target.urls[0]='http://h': connection refused")
    assert run("--url", "http://h") == 5
    assert capfd.readouterr().err == "llmgen: target.urls[0]='http://h': connection refused\n"


def test_the_help_names_every_flag_once_with_its_default(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["run", "--help"]) == 0
    out = capfd.readouterr().out
    for flag in FLAGS.values():
        assert f"\n  {flag}" in out
    assert "Examples:" in out
    assert max(map(len, out.splitlines())) <= 80
