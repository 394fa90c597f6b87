"""Servers' pages become series; the traps of names, labels, ranks and blanks; a fetch that is bounded."""

from __future__ import annotations

import math
import socket
import sys
import threading
import time

import pytest

from llmgen.errors import ConfigError
from llmgen.telemetry import prometheus
from llmgen.telemetry.families import mapped
from llmgen.telemetry.prometheus import Endpoint, Page, Reading, ScrapeError
from metrics_pages import page, serving, silent

UUID = "GPU-604ac76c-d9cf-fef3-62e9-d92044ab6e52"

# What each page says, by hand: engines and data-parallel ranks added, tensor-parallel ranks not.
WANTED = {
    "vllm_v1": {
        "running": 21, "waiting": 4, "waiting_for_capacity": 3, "waiting_deferred": 1, "kv_usage": 0.4375,
        "prefix_queries": 60000, "prefix_hits": 15000, "preemptions": 7, "prompt_tokens": 45000,
        "cached_tokens": 13500, "output_tokens": 7500, "finished": 95, "aborted": 4, "failed": 1,
        "batch_tokens.sum": 5000, "batch_tokens.count": 100, "ttft.sum": 7.6, "ttft.count": 95, "itl.sum": 98,
        "itl.count": 4900, "e2e.sum": 190, "e2e.count": 95, "queue_time.sum": 1.9, "queue_time.count": 95,
        "prefill_time.sum": 4.75, "prefill_time.count": 95, "decode_time.sum": 180.5, "decode_time.count": 95,
        "spec_drafted": 400, "spec_accepted": 300, "cpu_time": 129.53, "rss": 1318076416,
        "start_time": 1794923015.37,
    },
    "vllm_v0": {
        "running": 5, "waiting": 2, "kv_usage": 0.125, "prefix_hit_rate": 0.5, "preemptions": 3,
        "output_tokens": 640, "ttft.sum": 1.5, "ttft.count": 10, "itl.sum": 12.6, "itl.count": 630,
    },
    "sglang": {
        "running": 12, "waiting": 3, "kv_usage": 0.75, "prefix_hit_rate": 0, "preemptions": 6, "load_time": 12.5,
        "prompt_tokens": 10000, "cached_tokens": 2500, "output_tokens": 4000, "finished": 42, "aborted": 1,
        "ttft.sum": 8, "ttft.count": 40, "itl.sum": 80, "itl.count": 3960, "queue_time.sum": 2, "queue_time.count": 40,
    },
    "tgi": {
        "running": 16, "waiting": 7, "batch_size": 16, "iterations": 5100, "finished": 110, "failed": 8,
        "queue_time.sum": 5.5, "queue_time.count": 110, "e2e.sum": 220, "e2e.count": 110,
        "prompt_tokens": 22000, "output_tokens": 11000,
    },
    "tensorrt_llm": {
        "running": 11, "waiting": 4, "paused": 1, "kv_usage": 0.25, "prefix_hit_rate": 0.4, "batch_size": 10,
        "finished": 40, "failed": 2, "prompt_tokens": 8000, "cached_tokens": 2000, "output_tokens": 3000,
        "ttft.sum": 4, "ttft.count": 40, "queue_time.sum": 0.8, "queue_time.count": 40,
        "spec_drafted": 100, "spec_accepted": 60,
    },
    "triton": {
        "running": 14, "waiting": 2, "kv_usage": 0.375, "batch_size": 12, "iterations": 48, "finished": 50, "failed": 4,
        "queue_time.sum": 2.5, "queue_time.count": 50, "e2e.sum": 100, "e2e.count": 50, "ttft.sum": 6, "ttft.count": 50,
        "load_time": 31.5, f"gpu_util[{UUID}]": 0.5, f"gpu_memory_used[{UUID}]": 4e10, f"gpu_power[{UUID}]": 250.5,
        f"gpu_energy[{UUID}]": 90000,
    },
    "llamacpp": {
        "running": 4, "waiting": 46, "prompt_tokens": 512, "output_tokens": 2048, "iterations": 700, "batch_size": 2.9,
    },
    "dynamo": {
        "running": 6, "waiting": 2, "aborted": 1, "finished": 33, "ttft.sum": 3.3, "ttft.count": 33,
    },
    "dcgm": {
        "gpu_clock[0]": 1.98e9, "gpu_clock[1]": 1.755e9, "gpu_temperature[0]": 61, "gpu_temperature[1]": 66,
        "gpu_memory_temperature[0]": 72, "gpu_power[0]": 512.5, "gpu_power[1]": 487.5, "gpu_energy[0]": 123456,
        "gpu_energy[1]": 120000, "gpu_util[0]": 0.97, "gpu_util[1]": 0.03, "gpu_xid[0]": 0, "gpu_xid[1]": 31,
        "gpu_memory_free[0]": 8000 * 2**20, "gpu_memory_free[1]": 8100 * 2**20, "gpu_memory_used[0]": 73000 * 2**20,
        "gpu_memory_used[1]": 72900 * 2**20, "gpu_sm_active[0]": 0.953, "gpu_sm_active[1]": 0.021,
        "gpu_memory_active[0]": 0.61,
    },
    "node_exporter": {
        "node_cpu_idle": 200, "node_cpu": 300, "node_load": 1.75, "node_memory": 1.6e10,
        "node_memory_available": 1.2e10, "start_time": 1794922000.12,
    },
}  # fmt: skip

FAMILIES = {"vllm_v1": "vllm", "vllm_v0": "vllm", "tensorrt_llm": "tensorrt-llm", "llamacpp": "llama.cpp",
            "node_exporter": "node"}  # fmt: skip


@pytest.mark.parametrize("name", WANTED)
def test_a_server_s_page_says_exactly_this(name: str) -> None:
    reading = Page().read(page(name))
    assert reading.values == pytest.approx(WANTED[name])
    assert reading.family == FAMILIES.get(name, name)
    assert reading.buckets == {}


@pytest.mark.parametrize("name", WANTED)
def test_what_is_remembered_of_a_page_reads_as_what_was_parsed(name: str) -> None:
    reader = Page()
    first = reader.read(page(name), buckets=True)
    assert reader.read(page(name), buckets=True) == first
    assert reader.read(page(name)).values == first.values


def test_values_change_with_the_page() -> None:
    reader = Page()
    reader.read('vllm:num_requests_running{engine="0"} 1\n')
    assert reader.read('vllm:num_requests_running{engine="0"} 7\n').values == {"running": 7}
    assert reader.read("").values == {}


def test_buckets_are_cumulative_and_in_seconds() -> None:
    assert Page().read(page("vllm_v1"), buckets=True).buckets["ttft"] == {0.001: 0, 0.04: 20, 0.1: 80, math.inf: 95}
    assert Page().read(page("triton"), buckets=True).buckets["ttft"] == {0.1: 20, 0.5: 50, math.inf: 50}
    assert Page().read(page("vllm_v1"), buckets=True).buckets["batch_tokens"] == {1: 40, 8: 90, math.inf: 100}


def test_buckets_of_engines_are_added() -> None:
    text = "".join(
        f'vllm:time_to_first_token_seconds_bucket{{engine="{engine}",le="{bound}"}} {count}\n'
        for engine in (0, 1)
        for bound, count in (("0.1", 1 + engine), ("+Inf", 5))
    )
    assert Page().read(text, buckets=True).buckets == {"ttft": {0.1: 3, math.inf: 10}}


@pytest.mark.parametrize("suffix", ["", "_total"])
@pytest.mark.parametrize("kind", ["counter", "untyped", None])
def test_a_counter_is_found_with_and_without_total(suffix: str, kind: str | None) -> None:
    name = f"vllm:num_preemptions{suffix}"
    text = (f"# TYPE {name} {kind}\n" if kind else "") + f"{name} 4\n"
    assert Page().read(text).values == {"preemptions": 4}


def test_names_that_only_begin_alike_are_others() -> None:
    text = 'vllm:num_requests_waiting_by_reason{reason="other"} 9\nvllm:num_requests_waiting_now 8\n'
    assert Page().read(text).values == {}


def test_created_series_are_no_counters() -> None:
    assert Page().read("vllm:num_preemptions_created 1.79e9\n").values == {}


def test_a_whole_under_an_empty_priority_is_not_added_to_its_parts() -> None:
    parts = 'sglang:num_running_reqs{priority="1"} 2\nsglang:num_running_reqs{priority="2"} 3\n'
    assert Page().read(parts).values == {"running": 5}
    assert Page().read(parts + 'sglang:num_running_reqs{priority=""} 5\n').values == {"running": 5}


@pytest.mark.parametrize("value", ["9223372036854775794", "9.223372036854776e+18", "2147483634", "140737488355330"])
def test_dcgm_s_blanks_are_no_values(value: str) -> None:
    assert Page().read(f'DCGM_FI_DEV_GPU_TEMP{{gpu="0"}} {value}\n').values == {}
    # a large number of anything else is one
    assert Page().read(f"vllm:generation_tokens_total {value}\n").values == {"output_tokens": float(value)}


@pytest.mark.parametrize("value", ["NaN", "nan", "+Inf", "-Inf", "no number"])
def test_what_is_no_number_is_absent(value: str) -> None:
    reader = Page()
    for _ in range(2):
        assert reader.read(f"llamacpp:requests_processing {value}\n").values == {}
    assert reader.read("llamacpp:requests_processing 0\n").values == {"running": 0}


def test_a_broken_line_costs_itself_only() -> None:
    text = 'vllm:num_requests_running{engine="0} 3\nvllm:num_requests_waiting 2\n<html>\n\x00\n'
    assert Page().read(text).values == {"waiting": 2}


def test_labels_may_hold_anything() -> None:
    text = 'vllm:num_requests_running{model_name="a} b,\\"c\\" 7"} 3\n'
    reader = Page()
    assert reader.read(text).values == reader.read(text).values == {"running": 3}


def test_a_line_with_its_own_time_is_read() -> None:
    reader = Page()
    for at in (1, 2):
        assert reader.read(f"vllm:num_requests_running 3 {1794922000000 + at}\n").values == {"running": 3}


def test_labels_that_change_with_every_page_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "MAX_KNOWN", 100)
    reader = Page()
    for number in range(300):
        assert reader.read(f'vllm:num_requests_running{{pod="{number}"}} 1\n').values == {"running": 1}
        assert len(reader._known) <= 102


def test_an_exporter_s_own_process_is_not_the_server() -> None:
    process = "process_cpu_seconds_total 5\nprocess_resident_memory_bytes 1e6\nprocess_start_time_seconds 9\n"
    assert Page().read("node_load1 1\n" + process).values == {"node_load": 1, "start_time": 9}
    assert Page().read(process).values == {"cpu_time": 5, "rss": 1e6, "start_time": 9}


# -- mapping ------------------------------------------------------------------------------------------------------


def test_a_mapping_reads_any_server_and_wins() -> None:
    rules = [
        mapped("waiting", "my_queue_depth"),
        mapped("kv_usage", 'pool_used_percent{pool="kv"} * 0.01'),
        mapped("ttft", "my_first_token_ms*1e-3"),
        mapped("running", "vllm:num_requests_waiting"),
        mapped("e2e.sum", "work_seconds_total"),
        mapped("e2e.count", "work_total"),
    ]
    text = (
        'my_queue_depth 3\npool_used_percent{pool="kv"} 25\npool_used_percent{pool="cpu"} 99\n'
        "my_first_token_ms_sum 500\nmy_first_token_ms_count 2\nvllm:num_requests_running 9\n"
        "vllm:num_requests_waiting 4\nwork_seconds_total 7\nwork_total 5\n"
    )
    assert Page(rules).read(text).values == pytest.approx(
        {"waiting": 3, "kv_usage": 0.25, "ttft.sum": 0.5, "ttft.count": 2, "running": 4, "e2e.sum": 7, "e2e.count": 5}
    )


@pytest.mark.parametrize(
    ("series", "text", "said"),
    [
        ("wating", "x", "did you mean 'waiting'"),
        ("ttft.p99", "x", "no such series"),
        ("running.sum", "x", "no such series"),
        ("running", "two words", "write a metric's name"),
        ("running", "x{label}", "labels are written"),
        ("running", "x * much", "write a metric's name"),
    ],
)
def test_a_mapping_that_means_nothing_is_refused(series: str, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        mapped(series, text)


# -- fetching -----------------------------------------------------------------------------------------------------


def read(url: str, patience_s: float = 5.0) -> Reading:
    endpoint = Endpoint(url)
    try:
        return endpoint.read(buckets=False, patience_s=patience_s)
    finally:
        endpoint.close()


def test_one_connection_serves_all_reads() -> None:
    with serving(page("tgi")) as server:
        endpoint = Endpoint(server.url)
        for _ in range(5):
            assert endpoint.read(buckets=False, patience_s=5.0).family == "tgi"
        assert server.connections == 1
        endpoint.close()


def test_a_connection_closed_between_two_reads_is_opened_again() -> None:
    closing = b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\ntgi_queue_size"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(5)
                    connection.recv(4096)
                    connection.sendall(closing.replace(b"13", b"16") + b" 2\n"[:2])

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        endpoint = Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert endpoint.read(buckets=False, patience_s=5.0).values == {"waiting": 2}
        assert endpoint.read(buckets=False, patience_s=5.0).values == {"waiting": 2}
        endpoint.close()
        thread.join(5)


def test_a_page_without_a_path_is_metrics() -> None:
    with serving(page("tgi")) as server:
        read(server.url.removesuffix("/metrics"))
        read(server.url + "?name[]=a")
        assert [one["path"] for one in server.seen] == ["/metrics", "/metrics?name[]=a"]


def test_a_server_that_says_nothing_is_given_up() -> None:
    with silent() as url, pytest.raises(ScrapeError, match="no answer in time"):
        read(url, patience_s=0.2)


def test_a_page_that_drips_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        over = threading.Event()

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
                while not over.wait(0.05):
                    try:
                        connection.sendall(b"a")
                    except OSError:
                        return

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        began = time.monotonic()
        with pytest.raises(ScrapeError, match="no answer in time"):
            read(f"http://127.0.0.1:{listener.getsockname()[1]}", patience_s=0.5)
        over.set()
        thread.join(5)
        assert time.monotonic() - began < 30  # it ends at all


def test_nobody_there_no_http_and_too_much_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ScrapeError, match="refused"):
        read(f"http://127.0.0.1:{port}/metrics")
    with serving(lambda: 503) as server, pytest.raises(ScrapeError, match="HTTP 503"):
        read(server.url)
    monkeypatch.setattr(prometheus, "MAX_PAGE_BYTES", 100)
    with serving(page("tgi")) as server, pytest.raises(ScrapeError, match="a page of more than"):
        read(server.url)


def test_a_page_that_is_no_metrics_page_is_a_failure() -> None:
    for told in ("<html>ok</html>", "", '{"status": "up"}', "other_metric 1\n"):
        with serving(told) as server, pytest.raises(ScrapeError, match="nothing on this page is known"):
            read(server.url)


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client.parser", None)
    with pytest.raises(ConfigError, match=r"llmgen\[telemetry\]"):
        prometheus.parser()
