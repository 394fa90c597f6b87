"""Prometheus's own programs: node_exporter is read, and a Prometheus server reads a run's --listen-metrics."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import llmgen
from llmgen.run import Result
from llmgen.simulator.endpoint import Endpoint
from running import configuration

Offer = Callable[..., Result]

NODE_EXPORTER = shutil.which("prometheus-node-exporter") or shutil.which("node_exporter")
PROMETHEUS = shutil.which("prometheus")
READY_S = 30.0

pytestmark = pytest.mark.full


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], ready_url: str, log: Path) -> Iterator[None]:
    """A program that answers at `ready_url`; it is ended with the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + READY_S
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(ready_url, timeout=2) as answer:
                answer.read()
                break
            assert process.poll() is None, log.read_text(errors="replace")[-2000:]
            assert time.monotonic() < until, "it was not ready in time"
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


@pytest.mark.skipif(NODE_EXPORTER is None, reason="node_exporter is not installed")
def test_node_exporter_tells_of_this_machine(endpoint: Endpoint, offer: Offer, tmp_path: Path) -> None:
    assert NODE_EXPORTER is not None
    url = f"http://127.0.0.1:{free_port()}/metrics"
    command = [NODE_EXPORTER, f"--web.listen-address={urllib.parse.urlsplit(url).netloc}"]
    with running(command, url, tmp_path / "log"):
        result = offer(
            endpoint.url,
            **{"telemetry": ({"url": url},), "load.requests": 100, "load.rate": 50.0, "load.duration": 2.0},
        )
    server = result.summary.server
    assert server is not None
    [source] = server.sources
    assert (source.family, source.failed) == ("node", 0)
    assert source.scrapes >= 4
    assert server.node_cpu_share is not None
    assert 0 < server.node_cpu_share <= 1  # our own workers are at work here
    memory = int(next(line for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line).split()[1])
    assert server.gauges["node_memory"].mean == memory * 1024
    assert 0 < server.gauges["node_memory_available"].mean < memory * 1024
    # the exporter's own process is not the server's
    assert server.process_cpus is None
    assert server.marks == ()


@pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed")
def test_prometheus_reads_a_run_s_counters(endpoint: Endpoint, tmp_path: Path) -> None:
    assert PROMETHEUS is not None
    exported, port = free_port(), free_port()
    settings = tmp_path / "prometheus.yml"
    settings.write_text(
        "global: {scrape_interval: 500ms, scrape_timeout: 500ms}\n"
        f"scrape_configs: [{{job_name: llmgen, static_configs: [{{targets: ['127.0.0.1:{exported}']}}]}}]\n"
    )
    base = f"http://127.0.0.1:{port}"
    command = [
        PROMETHEUS, f"--config.file={settings}", f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip

    def ask(query: str) -> list[dict[str, Any]]:
        asked = f"{base}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(asked, timeout=5) as answer:
            found = json.load(answer)
        assert found["status"] == "success"
        result: list[dict[str, Any]] = found["data"]["result"]
        return result

    with running(command, f"{base}/-/ready", tmp_path / "log"):
        flags = {"load.requests": 400, "load.rate": 50.0, "load.duration": 8.0}
        config = configuration(endpoint.url, tmp_path / "runs", **flags)
        results: list[Result] = []
        thread = threading.Thread(
            target=lambda: results.append(llmgen.run(config, quiet=True, listen_metrics=f"127.0.0.1:{exported}"))
        )
        thread.start()
        try:
            until = time.monotonic() + 30
            values: list[float] = []
            while time.monotonic() < until and (not values or values[-1] < 100):
                values += [float(one["value"][1]) for one in ask("llmgen_requests_sent_total")]
                time.sleep(0.2)
            up = ask('up{job="llmgen"}')
            buckets = ask('llmgen_ttft_seconds_bucket{le="+Inf"}')
        finally:
            thread.join(60)
    [result] = results
    assert result.summary.requests.succeeded == 400
    assert values == sorted(values)
    assert 100 <= values[-1] <= 400
    assert [one["value"][1] for one in up] == ["1"]
    assert float(buckets[0]["value"][1]) > 0
