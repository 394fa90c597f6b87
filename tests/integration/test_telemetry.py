"""Server metrics during whole runs: scraped at equal times and at the window's edges, kept, never in the run's way."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from llmgen.records import open_run
from llmgen.run import Result
from llmgen.simulator.endpoint import Endpoint
from llmgen.telemetry import store
from llmgen.telemetry.readings import Readings
from metrics_pages import page, serving, silent

Offer = Callable[..., Result]


def counting() -> Iterator[str]:
    """vLLM's page with ten requests and a hundred tokens more at each scrape."""
    for n in itertools.count():
        yield (
            "# TYPE vllm:num_requests_running gauge\n"
            f'vllm:num_requests_running{{engine="0",model_name="m"}} {n % 3}\n'
            f'vllm:num_requests_running{{engine="1",model_name="m"}} 1\n'
            "# TYPE vllm:generation_tokens_total counter\n"
            f'vllm:generation_tokens_total{{engine="0",model_name="m"}} {100 * n}\n'
            "# TYPE vllm:time_to_first_token_seconds histogram\n"
            f'vllm:time_to_first_token_seconds_bucket{{engine="0",le="0.1",model_name="m"}} {5 * n}\n'
            f'vllm:time_to_first_token_seconds_bucket{{engine="0",le="+Inf",model_name="m"}} {10 * n}\n'
            f'vllm:time_to_first_token_seconds_sum{{engine="0",model_name="m"}} {n}\n'
            f'vllm:time_to_first_token_seconds_count{{engine="0",model_name="m"}} {10 * n}\n'
            f"process_start_time_seconds 1.7e+09\n"
        )


def test_readings_lie_at_the_window_s_edges_and_in_the_run_directory(endpoint: Endpoint, offer: Offer) -> None:
    pages = counting()
    with serving(lambda: next(pages)) as metrics:
        result = offer(
            endpoint.url,
            **{
                "telemetry": ({"url": metrics.url, "every": 0.1},),
                "load.requests": 100,
                "load.rate": 100.0,
                "load.duration": 1.0,
                "load.warmup": 0.2,
            },
        )
        seen = len(metrics.seen)
        assert metrics.connections == 1
    assert not (result.directory / store.LIVE).exists()
    [source] = store.read(result.directory)
    assert len(source.t) == seen
    assert source.family == "vllm"
    assert not source.failed
    assert list(source.edges) == ["start", "window_start", "window_end", "end"]
    window = open_run(result.directory).info["window"]
    for edge in ("window_start", "window_end"):
        at = source.edges[edge]
        assert source.t[at] - source.took[at] // 2 >= window[f"{edge.removeprefix('window_')}_ns"]
    tokens = source.column("output_tokens")
    assert tokens is not None
    assert (np.diff(tokens) == 100).all()
    running = source.column("running")
    assert running is not None
    assert set(running) == {1.0, 2.0, 3.0}  # both engines
    scrapes = source.edges["window_end"] - source.edges["window_start"]
    bounds, counts = Readings([source]).buckets("ttft", "window_start", "window_end") or pytest.fail("no buckets")
    assert bounds.tolist() == [0.1, np.inf]
    assert counts.tolist() == [5.0 * scrapes, 5.0 * scrapes]


def test_a_page_that_never_answers_costs_the_run_nothing(endpoint: Endpoint, offer: Offer) -> None:
    with silent() as url:
        result = offer(endpoint.url, telemetry=({"url": url},))
    assert result.summary.requests.succeeded == 20
    [source] = store.read(result.directory)
    assert not len(source.t)


def test_a_page_that_is_not_there_is_said(endpoint: Endpoint, offer: Offer) -> None:
    with serving(lambda: 404) as metrics:
        result = offer(endpoint.url, telemetry=({"url": metrics.url},))
    [source] = store.read(result.directory)
    assert {why for _, why in source.failed} == {"HTTP 404"}
    assert [mark.kind for mark in Readings([source]).marks] == ["unreachable"]


def test_headers_reach_the_page_and_no_file(endpoint: Endpoint, offer: Offer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGE_KEY", "Bearer s3cret-of-the-page")
    with serving(page("vllm_v1")) as metrics:
        url = metrics.url + "?token=s3cret-too"
        result = offer(
            endpoint.url, telemetry=({"url": url, "headers": {"authorization": "env:PAGE_KEY", "x-key": "v"}},)
        )
        assert metrics.seen[0]["authorization"] == "Bearer s3cret-of-the-page"
        assert metrics.seen[0]["path"] == "/metrics?token=s3cret-too"
    for path in result.directory.rglob("*"):
        if path.is_file():
            assert b"s3cret" not in path.read_bytes(), path


def test_a_controller_that_is_killed_leaves_its_readings(endpoint: Endpoint, tmp_path: Path) -> None:
    pages = counting()
    with serving(lambda: next(pages)) as metrics:
        command = [sys.executable, "-m", "llmgen", "run", "--url", endpoint.url, "--rate", "50", "--duration", "60s",
                   "--telemetry", metrics.url, "--out", str(tmp_path), "--quiet", "--workers", "1"]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            until = time.monotonic() + 30
            while len(metrics.seen) < 4 and time.monotonic() < until and process.poll() is None:
                time.sleep(0.02)
            os.kill(process.pid, signal.SIGKILL)
        finally:
            process.kill()
            assert process.stderr is not None
            said = process.stderr.read()
            process.stderr.close()
            process.wait(10)
    assert len(metrics.seen) >= 4, said
    [directory] = [path for path in tmp_path.iterdir() if not path.is_symlink()]
    [source] = store.read(directory)
    assert len(source.t) >= 2
    assert source.column("output_tokens") is not None
    assert "end" not in source.edges


def test_three_sources_together(endpoint: Endpoint, offer: Offer) -> None:
    with serving(page("vllm_v1")) as one, serving(page("vllm_v1")) as two, serving(page("dcgm")) as gpus:
        result = offer(endpoint.url, telemetry=tuple({"url": server.url} for server in (one, two, gpus)))
    readings = Readings(store.read(result.directory))
    assert [source.family for source in readings.sources] == ["vllm", "vllm", "dcgm"]
    alone = readings.sources[0].column("running")
    assert alone is not None
    both = readings.gauge("running")
    assert both is not None
    assert np.nanmax(both.v) == 2 * alone[0]
    assert [gpu for gpu in readings.gpus if readings.gauge("gpu_util", gpu) is not None] == [(2, "0"), (2, "1")]


def test_the_engine_s_own_figures_agree_with_ours(serve: Callable[..., Endpoint], offer: Offer) -> None:
    engine = serve(engine="tiny")
    result = offer(
        engine.url,
        **{
            "telemetry": ({"url": f"{engine.url}/metrics", "every": 0.2}, {"url": f"{engine.url}/dcgm/metrics"}),
            "load.rate": 40.0,
            "load.requests": 80,
        },
    )
    server = result.summary.server
    assert server is not None
    assert [source.family for source in server.sources] == ["vllm", "dcgm"]
    told = server.against["ttft"]
    assert told.server_n == pytest.approx(told.client_n, abs=2)
    assert told.added_ms > -0.1
    assert server.counters["output_tokens"].per_s == pytest.approx(
        result.summary.throughput.output_tokens_per_s, rel=0.2
    )
    assert 0 <= server.gauges["gpu_util"].mean <= 1


def test_a_server_that_restarts_is_told_with_its_time(serve: Callable[..., Endpoint], offer: Offer) -> None:
    first = serve(engine="tiny")
    port = int(first.url.rpartition(":")[2])

    def restart() -> None:
        time.sleep(1.0)  # of the load; the run itself lasts three
        first.stop()
        serve(engine="tiny", port=port)

    thread = threading.Thread(target=restart)
    thread.start()
    result = offer(
        first.url,
        **{
            "telemetry": ({"url": f"{first.url}/metrics", "every": 0.1},),
            "load.rate": 20.0,
            "load.requests": 160,
            "load.duration": 8.0,
        },
    )
    thread.join(30)
    server = result.summary.server
    assert server is not None
    kinds = [mark.kind for mark in server.marks]
    assert kinds.count("restart") == 1
    assert "unreachable" in kinds
    assert "server-restarted" in {finding.rule for finding in result.summary.diagnosis}
    # what the old process had counted is not lost, and not counted as a fall
    assert 0 < server.counters["finished"].increase <= 160
