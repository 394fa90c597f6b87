"""A run under way is read over HTTP, and the last reading fits the summary."""

from __future__ import annotations

import contextlib
import socket
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

import llmgen
from llmgen.errors import ConfigError
from llmgen.simulator import Endpoint
from running import configuration


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_run_is_read_while_it_lasts(tmp_path: Path, serve: Callable[..., Endpoint]) -> None:
    port = free_port()
    readings: list[str] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            with (
                contextlib.suppress(OSError),  # not yet, or no longer
                urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as answer,
            ):
                readings.append(answer.read().decode())
            over.wait(0.02)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        config = configuration(serve(ttft="50ms").url, tmp_path, **{"load.rate": 50.0, "load.requests": 75})
        result = llmgen.run(config, quiet=True, listen_metrics=f"127.0.0.1:{port}")
    finally:
        over.set()
        reader.join(5)
    assert result.summary.requests.succeeded == 75
    lines = [line for text in readings for line in text.splitlines()]
    in_flight = [int(line.split()[-1]) for line in lines if line.startswith("llmgen_requests_in_flight ")]
    assert max(in_flight) > 0
    sent = [int(line.split()[-1]) for line in lines if line.startswith("llmgen_requests_sent_total ")]
    assert sent == sorted(sent)
    assert 0 < sent[-1] <= 75
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2)


def test_a_port_that_is_taken_leaves_nothing_behind(tmp_path: Path, serve: Callable[..., Endpoint]) -> None:
    endpoint = serve()
    config = configuration(endpoint.url, tmp_path / "runs")
    with pytest.raises(ConfigError, match="cannot listen"):
        llmgen.run(config, quiet=True, listen_metrics=endpoint.url.partition("//")[2])
    assert not list((tmp_path / "runs").glob("*/run.json"))
