"""HTTP/2 against servers that are not written here: exact counts, and a server that dies and comes back mid-run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import foreign_servers as foreign
import llmgen
from llmgen.columns import COUNTERS_DTYPE, Flag, Status
from llmgen.control import CONTROL_BYTES
from llmgen.run import Result
from llmgen.simulator import Endpoint, Options
from running import check_run, configuration, statuses

pytestmark = pytest.mark.full

REQUESTS = 1000
EVENTS = 40
WAIT_S = 60.0
OUTPUT = 16  # tokens asked of the embedded endpoint behind nginx

# After a connection that carried nothing was lost, the next is tried 10 ms later, then 20, 40 … up to every second:
# an outage of a few seconds costs about ten.
MOST_CONNECTIONS = 20


class Site:
    """A server to offer load to, what its url needs, and how many events each of its answers has."""

    def __init__(self, server: foreign.ForeignServer, events: int, **flags: Any) -> None:
        self.server, self.events, self.flags = server, events, flags

    def config(self, out: Path, **flags: Any) -> llmgen.RunConfig:
        common = {"target.model": "m", "workload.output": OUTPUT, "load.arrival": "poisson", "load.requests": REQUESTS}
        return configuration(self.server.url, out, **{**common, **self.flags, **flags})


@pytest.fixture(params=["nghttpd", "nginx", "hypercorn", "node"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """Each of the servers, listening. On https, HTTP/2 is what ALPN agrees on; on http it is prior knowledge."""
    if request.param == "nginx":
        foreign.program("nginx")
        with Endpoint(Options(ttft="2ms", itl="1ms")) as upstream:
            server, ca = foreign.nginx(tmp_path, upstream.url, requests_per_connection=300)
            with server:
                yield Site(server, OUTPUT + 2, **{"target.ca": ca})  # with the role's event and usage's
        return
    if request.param == "hypercorn":
        server, ca = foreign.hypercorn(tmp_path, EVENTS)
        site = Site(server, EVENTS, **{"target.ca": ca})
    else:
        server = foreign.nghttpd(tmp_path, EVENTS) if request.param == "nghttpd" else foreign.node(tmp_path, EVENTS)
        site = Site(server, EVENTS, **{"target.http": "2"})
    with server:
        yield site


def run_to_end(config: llmgen.RunConfig) -> tuple[Result, np.ndarray]:
    result = llmgen.run(config, quiet=True)
    check_run(result.directory)
    return result, result.requests


def test_a_thousand_streams(site: Site, tmp_path: Path) -> None:
    result, rows = run_to_end(site.config(tmp_path / "runs", **{"load.rate": 400.0}))
    assert statuses(rows) == {"ok": REQUESTS}
    assert (rows["events"] == site.events).all()
    assert result.events is not None
    assert len(result.events) == REQUESTS * site.events
    assert (np.bincount(result.events["request"], minlength=REQUESTS) == site.events).all()
    assert ((rows["flags"] & Flag.done_seen) != 0).all()
    assert (rows["stream"] % 2 == 1).all()  # HTTP/2 it was: odd ids of our own, each once a connection
    pairs = np.stack([rows["connection"], rows["stream"]], axis=1)
    assert len(np.unique(pairs, axis=0)) == REQUESTS
    assert len(np.unique(rows["connection"])) < MOST_CONNECTIONS
    assert [row.get("flow_blocked") for row in result._run.info["workers_detail"]] == [0]


def test_all_at_once_over_few_connections(site: Site, tmp_path: Path) -> None:
    flags = {"load.rate": float("inf"), "client.connections": 2, "client.streams_per_connection": 10}
    _, rows = run_to_end(site.config(tmp_path / "runs", **flags))
    assert statuses(rows) == {"ok": REQUESTS}
    assert (rows["events"] == site.events).all()
    assert most_at_once(rows) <= 20


def most_at_once(rows: np.ndarray) -> int:
    """Streams that were open at the same time, by their stamps."""
    times = np.concatenate([rows["send"], rows["end"]])
    steps = np.concatenate([np.ones(len(rows), int), -np.ones(len(rows), int)])
    order = np.lexsort((steps, times))  # an end before a beginning at the same time
    return int(np.cumsum(steps[order]).max())


def test_a_server_that_dies_and_comes_back(site: Site, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    rate = 200.0
    config = site.config(out, **{"load.rate": rate, "client.timeouts.total": 10.0})
    found: list[Result] = []
    thread = threading.Thread(target=lambda: found.append(llmgen.run(config, quiet=True)))
    thread.start()
    try:
        wait_for(lambda: count(out, "ended") >= REQUESTS // 5, thread)
        site.server.kill()
        failed = count(out, "errors")
        wait_for(lambda: count(out, "errors") >= failed + rate // 2, thread)
        site.server.start()
    finally:
        thread.join(WAIT_S)
    assert not thread.is_alive()
    result = found[0]
    check_run(result.directory)  # each request has one end, and the books balance
    rows = result.requests
    assert len(rows) == REQUESTS
    seen = statuses(rows)
    assert set(seen) <= {"ok", "eof", "reset", "connect_refused", "unprocessed", "tls_error"}, seen
    ok = rows["status"] == Status.ok
    assert (rows["events"][ok] == site.events).all()
    first_failure = rows["end"][~ok].min()
    assert np.count_nonzero(ok & (rows["due"] > first_failure)) > REQUESTS // 10, "nothing went out after its return"
    assert rows["connection"].max() < MOST_CONNECTIONS, "a tight loop of connections"
    assert result._run.info["state"] == "complete"


def count(out: Path, name: str) -> int:
    """A counter of the running run's only worker; 0 before it starts. errors: every end that is not ok."""
    try:
        data = (out / "latest" / "control.bin").read_bytes()
    except FileNotFoundError:
        return 0
    counters = np.frombuffer(data, COUNTERS_DTYPE, 1, CONTROL_BYTES)[0]
    if name == "errors":
        return int(counters["ended"] - counters["by_status"][Status.ok])
    return int(counters[name])


def wait_for(condition: Callable[[], bool], thread: threading.Thread) -> None:
    until = time.monotonic() + WAIT_S
    while not condition():
        assert thread.is_alive(), "the run ended before what was to happen in it"
        assert time.monotonic() < until
        time.sleep(0.01)
