"""The exporter of a run's counters: true, bounded, and gone when the run is."""

from __future__ import annotations

import json
import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from llmgen.columns import COUNTERS_DTYPE, HISTOGRAM_BUCKETS, Histogram, Status, bucket_bounds_ns
from llmgen.errors import ConfigError
from llmgen.exporter import MOST_SCRAPES, Exporter, exporting, parse_address
from llmgen.live import LiveHistograms

DASHBOARD = Path(__file__).parent.parent.parent / "docs" / "grafana-dashboard.json"
INFO = {"run_id": "r1", "name": 'n"'}


@pytest.fixture
def counters() -> np.ndarray:
    found = np.zeros(2, COUNTERS_DTYPE)
    found["sent"], found["in_flight"], found["cpu_ns"] = [3, 4], [1, 1], [2_000_000_000, 0]
    found["by_status"][0, Status.ok] = 5
    found["by_status"][1, Status.http_5xx] = 2
    return found


@pytest.fixture
def histograms(tmp_path: Path) -> LiveHistograms:
    counts = np.zeros((2, len(Histogram), HISTOGRAM_BUCKETS), "<u4")
    at = int(np.searchsorted(bucket_bounds_ns(), 80e6)) - 1  # 80 ms
    counts[0, Histogram.ttft, at] = 9
    counts[1, Histogram.ttft, at] = 1
    (tmp_path / "worker-0").mkdir()
    (tmp_path / "worker-0" / "histograms.live").write_bytes(counts.tobytes())
    return LiveHistograms(tmp_path, 2, 1)  # the second worker has written none yet


@pytest.fixture
def exporter(counters: np.ndarray, histograms: LiveHistograms) -> Iterator[Exporter]:
    with exporting("127.0.0.1:0", counters, histograms, INFO) as running:
        assert running is not None
        yield running


def scrape(url: str) -> dict[str, float]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert "openmetrics-text" in answer.headers["Content-Type"]
        text = answer.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            extra = sample.labels.get("status") or sample.labels.get("le") or sample.labels.get("worker") or ""
            found[f"{sample.name} {extra}".strip()] = sample.value
    return found


def test_counters_of_all_workers(exporter: Exporter, counters: np.ndarray) -> None:
    found = scrape(exporter.url)
    assert found["llmgen_requests_sent_total"] == 7
    assert found["llmgen_requests_in_flight"] == 2
    assert found["llmgen_requests_ended_total ok"] == 5
    assert found["llmgen_requests_ended_total http_5xx"] == 2
    assert found["llmgen_worker_cpu_seconds_total 0"] == 2
    counters["sent"][0] = 10
    assert scrape(exporter.url)["llmgen_requests_sent_total"] == 14


def test_histograms_become_cumulative_buckets(exporter: Exporter) -> None:
    found = scrape(exporter.url)
    assert found["llmgen_ttft_seconds_bucket 0.05"] == 0
    assert found["llmgen_ttft_seconds_bucket 0.1"] == 10
    assert found["llmgen_ttft_seconds_bucket +Inf"] == found["llmgen_ttft_seconds_count"] == 10
    assert found["llmgen_ttft_seconds_sum"] == pytest.approx(0.8, rel=0.01)
    assert found["llmgen_itl_seconds_count"] == 0


def test_the_dashboard_asks_for_what_there_is(exporter: Exporter) -> None:
    text = DASHBOARD.read_text()
    asked = set(re.findall(r"llmgen_\w+", " ".join(re.findall(r'"(?:expr|query)": "(.*)"', text))))
    with urllib.request.urlopen(exporter.url, timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        told = {sample.name for family in families for sample in family.samples}
    assert asked
    assert asked <= told
    dashboard = json.loads(text)
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)


def test_other_paths_are_not_found(exporter: Exporter) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404") as refused:
        urllib.request.urlopen(exporter.url.replace("/metrics", "/etc"), timeout=10)
    refused.value.close()


def test_silent_readers_hold_nothing(counters: np.ndarray, histograms: LiveHistograms) -> None:
    """More of them than may be served at once, and the exporter still ends at once."""
    readers = []
    with exporting("127.0.0.1:0", counters, histograms, INFO) as running:
        assert running is not None
        port = int(running.url.rpartition(":")[2].partition("/")[0])
        for _ in range(MOST_SCRAPES + 4):
            readers.append(socket.create_connection(("127.0.0.1", port), timeout=5))
        serving = sum("process_request_thread" in thread.name for thread in threading.enumerate())
    for reader in readers:
        reader.close()
    assert serving <= MOST_SCRAPES
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_no_address_no_exporter(counters: np.ndarray, histograms: LiveHistograms) -> None:
    with exporting(None, counters, histograms, INFO) as running:
        assert running is None


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9464", ("127.0.0.1", 9464)),
        (":9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("[::1]:1", ("::1", 1)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "host", "host:", "host:99999", "host:x", "1.2.3.4:-1"])
def test_wrong_addresses_say_what_would_be_right(text: str) -> None:
    with pytest.raises(ConfigError, match="write HOST:PORT"):
        parse_address(text)


def test_a_taken_port_is_a_configuration_error(
    exporter: Exporter, counters: np.ndarray, histograms: LiveHistograms
) -> None:
    taken = exporter.url.removeprefix("http://").removesuffix("/metrics")
    with pytest.raises(ConfigError, match="cannot listen"), exporting(taken, counters, histograms, INFO):
        pass
