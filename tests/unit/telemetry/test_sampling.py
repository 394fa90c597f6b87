"""Sampling: what is refused before the start, edges among ticks, an end that is bounded whatever a source does."""

from __future__ import annotations

import importlib.abc
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from llmgen.config import RunConfig, Target, Telemetry
from llmgen.errors import ConfigError
from llmgen.logs import log
from llmgen.telemetry import sampling, store
from llmgen.telemetry.prometheus import Reading, ScrapeError
from llmgen.telemetry.sampling import Sampler, _Sampling
from metrics_pages import page, serving

S = 1_000_000_000


class Fake:
    """A source that notes how it was asked; `block` makes it wait until it is aborted."""

    def __init__(self, *, block: bool = False, fails: bool = False) -> None:
        self.asked: list[bool] = []
        self.closed = threading.Event()
        self.aborted = threading.Event()
        self.enough = threading.Event()
        self._block, self._fails = block, fails

    def read(self, *, buckets: bool, patience_s: float) -> Reading:
        assert patience_s <= sampling.PATIENCE_S
        self.asked.append(buckets)
        if len(self.asked) >= 3:
            self.enough.set()
        if self._block:
            self.enough.set()
            assert self.aborted.wait(30)
            raise ScrapeError("aborted")
        if self._fails:
            raise ScrapeError("no answer in time")
        return Reading({"running": float(len(self.asked))}, {}, "vllm")

    def close(self) -> None:
        self.closed.set()

    def abort(self) -> None:
        self.aborted.set()


def sampler_of(directory: Path, monkeypatch: pytest.MonkeyPatch, *fakes: Fake, every: float = 0.1) -> Sampler:
    left = list(fakes)
    monkeypatch.setattr(sampling, "Endpoint", lambda *_, **__: left.pop(0))
    pages = tuple(Telemetry(url=f"http://n:{number}/metrics", every=every) for number in range(len(fakes)))
    return Sampler(RunConfig(telemetry=pages), directory)


def test_without_a_source_there_is_no_thread_and_no_file(tmp_path: Path) -> None:
    before = threading.active_count()
    sampler = Sampler(RunConfig(), tmp_path)
    sampler.start(0, 0, 1)
    assert threading.active_count() == before
    sampler.stop()
    sampler.finish()
    assert list(tmp_path.iterdir()) == []


def test_every_edge_is_read_with_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    sampler = sampler_of(tmp_path, monkeypatch, fake)
    now = time.monotonic_ns()
    sampler.start(now, now, now + S // 20)
    assert fake.enough.wait(10)
    sampler.stop()
    assert fake.closed.wait(5)
    sampler.finish()
    [source] = store.read(tmp_path)
    # the start is the window's start, too, and one reading serves both
    assert source.edges["start"] == source.edges["window_start"] == 0
    assert source.edges["end"] == len(source.t) - 1
    assert [fake.asked[at] for at in sorted(set(source.edges.values()))] == [True] * 3
    assert fake.asked.count(True) == 3


def test_edges_come_when_due_between_ticks() -> None:
    thread = _Sampling(0, "u", 1.0, Fake(), None)  # type: ignore[arg-type]
    thread._edges = [(5 * S, "start"), (5 * S, "window_start"), (7 * S + S // 2, "window_end")]
    seen = []
    for tick in (4 * S, 5 * S, 6 * S, 7 * S, 8 * S, 8 * S):
        seen.append(thread._next(tick))
    assert seen == [
        (4 * S, []),
        (5 * S, ["start", "window_start"]),
        (6 * S, []),
        (7 * S, []),
        (7 * S + S // 2, ["window_end"]),
        (8 * S, []),
    ]


def test_an_edge_just_after_a_tick_stands_for_it() -> None:
    thread = _Sampling(0, "u", 1.0, Fake(), None)  # type: ignore[arg-type]
    thread._edges = [(5 * S + S // 10, "window_end")]
    assert thread._next(5 * S) == (5 * S + S // 10, ["window_end"])


def test_a_source_that_fails_is_asked_again_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake = Fake(fails=True)
    monkeypatch.setattr(log, "propagate", True)
    sampler = sampler_of(tmp_path, monkeypatch, fake)
    sampler.start(time.monotonic_ns(), time.monotonic_ns(), 1 << 61)
    assert fake.enough.wait(10)
    sampler.stop()
    sampler.finish()
    [source] = store.read(tmp_path)
    assert len(source.failed) >= 3
    assert source.edges == {}
    # one record may be captured twice, by handlers that an earlier test has left on the logger
    records = list({id(record): record for record in caplog.records}.values())
    said = [(record.thread, record.getMessage()) for record in records]
    assert said
    assert len(set(said)) == len(said)
    assert {text for _, text in said} == {
        "telemetry: http://n:0/metrics tells nothing: no answer in time; the run goes on without it"
    }


def test_a_source_that_hangs_does_not_hold_the_others_or_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging, healthy = Fake(block=True), Fake()
    sampler = sampler_of(tmp_path, monkeypatch, hanging, healthy)
    monkeypatch.setattr(sampling, "STOP_S", 0.2)
    sampler.start(time.monotonic_ns(), time.monotonic_ns(), 1 << 61)
    assert healthy.enough.wait(10)
    assert hanging.enough.wait(10)
    sampler.stop()  # returns: that is the test
    assert hanging.closed.wait(10)
    sampler.finish()
    assert "end" in store.read(tmp_path)[1].edges


def test_a_run_that_never_began_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    sampler = sampler_of(tmp_path, monkeypatch, fake)
    sampler.stop()
    assert fake.closed.is_set()


# -- what is refused ----------------------------------------------------------------------------------------------


def check(**settings: Any) -> None:
    sampling.check(RunConfig(target=Target(urls=("http://a",)), **settings))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"url": "n:8000/metrics"}, r"telemetry\[0\]\.url='n:8000/metrics': write http://HOST"),
        ({"url": "http://u:p4ss@n/metrics"}, r"without a password"),
        ({"url": "http://n", "every": 0.01}, r"telemetry\[0\]\.every=0\.01: must be at least 0\.1 s"),
        ({"url": "http://n", "map": {"wating": "x"}}, r"telemetry\[0\]\.map\.wating='x'.*'waiting'"),
        ({"url": "http://n", "headers": {"x": "env:NO_SUCH_VARIABLE"}}, r"NO_SUCH_VARIABLE"),
    ],
)
def test_pages_that_cannot_be_read_are_refused(source: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        check(telemetry=(Telemetry(**source),))
    assert "p4ss" not in str(caught.value)


def test_other_gpus_than_those_of_this_machine_have_an_exporter() -> None:
    with pytest.raises(ConfigError, match=r"gpu='node-7'.*--telemetry"):
        check(gpu="node-7")


def test_a_missing_package_is_said_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client.parser", None)
    with pytest.raises(ConfigError, match=r"pip install 'llmgen\[telemetry\]'"):
        check(telemetry=(Telemetry(url="http://n/metrics"),))
    check()  # without telemetry nothing is missing


def test_nothing_is_imported_without_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuse(importlib.abc.MetaPathFinder):
        def find_spec(self, name: str, *_: object) -> None:
            assert not name.startswith(("prometheus_client", "pynvml")), name

    for name in [name for name in sys.modules if name.startswith(("prometheus_client", "pynvml"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Refuse(), *sys.meta_path])
    check()


def test_gpus_of_this_machine_are_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    monkeypatch.setattr(sampling, "LocalGpus", lambda: fake)
    check(gpu="local")
    with serving(page("tgi")) as server:
        sampler = Sampler(RunConfig(gpu="local", telemetry=(Telemetry(url=server.url, every=0.1),)), tmp_path)
        sampler.start(time.monotonic_ns(), time.monotonic_ns(), 1 << 61)
        assert fake.enough.wait(10)
        sampler.stop()
    assert [source.url for source in store.read(tmp_path)] == [server.url, "gpu:local"]
