"""The embedded engine on the wire: the same times as its model without a network, and a server's signs of distress."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmgen.errors import ConfigError
from llmgen.simulator import Options, Service
from llmgen.simulator.offline import simulate
from llmgen.simulator.truth import Truth, read_truth
from running import Offer

WAIT = 20.0  # bound of every wait; none is expected to come near it
# Steps so long that the machine's own delays are small beside them, and as few requests as they allow.
STEADY = "tiny,step=20ms,max_seqs=4,max_batched_tokens=128"


@contextmanager
def connected(service: Service) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(service.url.removeprefix("http://"), timeout=WAIT)
    try:
        yield connection
    finally:
        connection.close()


def get(service: Service, path: str) -> tuple[int, str, bytes]:
    with connected(service) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.headers["content-type"], response.read()


def body(prompt: str, tokens: int, **members: Any) -> str:
    options = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": tokens}
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": prompt}], **options, **members})


def post(service: Service, prompt: str, tokens: int, **members: Any) -> tuple[int, http.client.HTTPMessage, bytes]:
    with connected(service) as connection:
        connection.request("POST", "/v1/chat/completions", body(prompt, tokens, **members))
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def usage(answer: bytes) -> dict[str, Any]:
    events = [line.removeprefix("data: ") for line in answer.decode().split("\n\n") if line]
    assert events[-1] == "[DONE]"
    found: dict[str, Any] = json.loads(events[-2])["usage"]
    return found


def text(answer: bytes) -> str:
    events = [json.loads(line.removeprefix("data: ")) for line in answer.decode().split("\n\n")[:-2]]
    return "".join(event["choices"][0]["delta"]["content"] for event in events if event["choices"])


def words(name: str, count: int) -> str:
    return " ".join(f"{name}{i}" for i in range(count))


def at_once(service: Service, prompts: list[str], tokens: int, **members: Any) -> list[int]:
    """Statuses of requests that are sent side by side."""
    with ThreadPoolExecutor(len(prompts)) as pool:
        return list(pool.map(lambda prompt: post(service, prompt, tokens, **members)[0], prompts))


def metrics(service: Service, page: str = "/metrics") -> dict[str, float]:
    """Sums over the labels of all samples by name; label finished_reason is kept."""
    status, content_type, data = get(service, page)
    assert status == 200
    assert content_type.startswith("text/plain; version=0.0.4")
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(data.decode()):
        for sample in family.samples:
            name = sample.name + sample.labels.get("finished_reason", "")
            sums[name] = sums.get(name, 0.0) + sample.value
    return sums


def wait_for(service: Service, name: str, value: float) -> dict[str, float]:
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        found = metrics(service)
        if found[name] == value:
            return found
    pytest.fail(f"{name} never became {value}; it is {found[name]}")


def wait_idle(service: Service) -> dict[str, float]:
    """Until nothing waits or runs; requests that were sent before have arrived, since pages come behind them."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        found = metrics(service)
        if (
            found["vllm:num_requests_running"]
            == found["vllm:num_requests_waiting"]
            == found["vllm:kv_cache_usage_perc"]
            == 0
        ):
            return found
    pytest.fail(f"the engine is never idle: {found}")


def check_against_model(log: Truth, engine: str) -> None:
    """The endpoint's steps are those that the model has without a network, and nothing was sent before its time."""
    queued = log.marked("queued")
    requests = log.requests[np.argsort(log.requests["serial"])]
    asked = requests[np.searchsorted(requests["serial"], queued["serial"])]
    start = int(log.marked("ordered")["t"][0])
    stamps = simulate(queued["t"], asked["input_tokens"], asked["tokens"], engine, start_ns=start, tokens=True)
    steps = log.marked("step")
    assert steps["t"].tolist() == stamps.steps["end"].tolist()
    assert steps["tokens"].tolist() == stamps.steps["tokens"].tolist()
    assert steps["input_tokens"].tolist() == stamps.steps["prefill_tokens"].tolist()
    for position, serial in enumerate(queued["serial"]):
        writes = log.writes[(log.writes["serial"] == serial) & (log.writes["tokens"] > 0)]
        given = stamps.tokens[stamps.tokens["request"] == position]
        sent, due = np.cumsum(writes["tokens"]), np.cumsum(given["tokens"])
        assert sent[-1] == due[-1] == asked["tokens"][position]
        possible = due[np.searchsorted(given["t"], writes["t"], side="right") - 1]
        assert (writes["t"] >= given["t"][0]).all()
        assert (sent <= possible).all()


@pytest.mark.parametrize("engine", [STEADY, STEADY + ",kv_blocks=24,block_tokens=16", STEADY + ",replicas=2"])
def test_served_times_are_those_of_the_model(engine: str, tmp_path: Path) -> None:
    path = tmp_path / "truth"
    with Service(Options(engine=engine, truth=str(path))) as service:
        statuses = at_once(service, [words(f"p{i}-", 20 + 30 * i) for i in range(8)], 25)
        assert statuses == [200] * 8
    log = read_truth(path)
    assert len(log.marked("queued")) == 8
    check_against_model(log, engine)


def test_tokens_of_a_step_leave_together(tmp_path: Path) -> None:
    path = tmp_path / "truth"
    with Service(Options(engine=STEADY, truth=str(path))) as service:
        at_once(service, [words(f"p{i}-", 10) for i in range(4)], 20)
    log = read_truth(path)
    steps = log.marked("step")
    writes = log.writes[log.writes["tokens"] > 0]
    of_step = np.searchsorted(steps["t"], writes["t"], side="right") - 1
    assert (np.bincount(of_step, writes["tokens"], len(steps))).sum() == 80
    assert (np.bincount(of_step) == 4).sum() >= 10  # all four streams between one step's end and the next one's


def test_a_client_of_ours_measures_the_engine(offer: Offer, tmp_path: Path) -> None:
    with Service(Options(engine="tiny,max_seqs=2,max_waiting=3,step=10ms")) as service:
        result = offer(
            service.url,
            **{
                "load.arrival": "poisson",
                "load.rate": 60.0,
                "load.requests": 120,
                "workload.input": 20,
                "workload.output": 12,
            },
        )
        found = metrics(service)
    requests = result.summary.requests
    assert requests.failed.get("rate_limited", 0) > 10
    assert requests.succeeded > 10
    assert requests.succeeded + sum(requests.failed.values()) == 120
    assert found["vllm:request_success_totallength"] == requests.succeeded
    assert found["vllm:generation_tokens_total"] == 12 * requests.succeeded
    assert found["vllm:num_requests_running"] == found["vllm:num_requests_waiting"] == 0


@pytest.mark.parametrize("http", ["1.1", "2"])
def test_both_protocols(offer: Offer, http: str) -> None:
    with Service(Options(engine="speculative,step=5ms,warmup_steps=0", http=http)) as service:
        result = offer(
            service.url,
            **{
                "target.http": http,
                "load.rate": 100.0,
                "load.requests": 60,
                "workload.input": 30,
                "workload.output": 40,
            },
        )
        found = metrics(service) if http == "1.1" else {}
    assert result.summary.requests.succeeded == 60
    assert result.summary.tokens.output == 60 * 40
    if http == "1.1":
        assert found["vllm:spec_decode_num_accepted_tokens_total"] > 0
        assert found["vllm:generation_tokens_total"] == 60 * 40


def test_a_full_queue_refuses() -> None:
    engine = "tiny,step=50ms,max_seqs=1,max_waiting=2"
    with Service(Options(engine=engine)) as service:
        statuses = at_once(service, [words(f"p{i}-", 3) for i in range(10)], 10)
        assert sorted(set(statuses)) == [200, 429]
        assert 2 <= statuses.count(200) <= 4
    with Service(Options(engine=engine + ",refusal=503")) as service:
        statuses = at_once(service, [words(f"p{i}-", 3) for i in range(10)], 10)
        assert sorted(set(statuses)) == [200, 503]


def test_a_model_that_is_being_loaded() -> None:
    with Service(Options(engine="tiny,load=2s")) as service:
        status, headers, answer = post(service, "hello", 2)
        assert status == 503
        assert headers["retry-after"] == "1"
        assert json.loads(answer)["error"] == {
            "message": "Loading model",
            "type": "unavailable_error",
            "param": None,
            "code": 503,
        }
        assert get(service, "/health")[0] == 503
        end = time.monotonic() + WAIT
        while get(service, "/health")[0] != 200:
            assert time.monotonic() < end
        assert post(service, "hello", 2)[0] == 200


def test_what_does_not_fit_the_context() -> None:
    with Service(Options(engine="tiny,context_tokens=50")) as service:
        assert post(service, words("w", 40), 10)[0] == 200
        status, _, answer = post(service, words("w", 41), 10)
        assert status == 400
        assert b"longer than the context" in answer


def test_a_full_cache_shows_as_preemptions() -> None:
    with Service(Options(engine="tiny,step=2ms,max_seqs=8,kv_blocks=24,block_tokens=16,prefix_cache=no")) as service:
        assert at_once(service, [words(f"p{i}-", 60) for i in range(8)], 80) == [200] * 8
        found = metrics(service)
    assert found["vllm:num_preemptions_total"] > 0
    assert found["vllm:generation_tokens_total"] == 8 * 80
    assert found["vllm:kv_cache_usage_perc"] == 0


def test_a_cached_prefix_is_told_and_saves_its_prefill(tmp_path: Path) -> None:
    path = tmp_path / "truth"
    prompt = words("w", 400)
    with Service(Options(engine="tiny,prefill=200us", truth=str(path))) as service:
        first, second = (usage(post(service, prompt, 4)[2]) for _ in range(2))
        found = metrics(service)
    assert "prompt_tokens_details" not in first
    assert second["prompt_tokens_details"] == {"cached_tokens": 384}
    assert found["vllm:prefix_cache_queries_total"] == 800
    assert found["vllm:prefix_cache_hits_total"] == 384
    steps = read_truth(path).marked("step")
    prefills = steps[steps["input_tokens"] > 0]
    assert prefills["input_tokens"].tolist() == [400, 16]


def test_the_next_turn_of_a_conversation_finds_its_answer() -> None:
    with Service(Options(engine="tiny,step=1ms")) as service:
        answer = post(service, words("w", 50), 100)[2]
        turns = [{"role": "user", "content": words("w", 50)}, {"role": "assistant", "content": text(answer)}]
        again = post(service, "", 5, messages=[*turns, {"role": "user", "content": "and now"}])[2]
    # 50 + 100 words; the last one of the answer has no keys and values yet, so 149 are whole blocks of 16: 9 of them.
    assert usage(again)["prompt_tokens_details"] == {"cached_tokens": 144}


def test_whole_answers_come_at_the_end_of_their_last_step(tmp_path: Path) -> None:
    path = tmp_path / "truth"
    with Service(Options(engine=STEADY, truth=str(path))) as service:
        status, _, answer = post(service, "a b", 7, stream=False, stream_options=None)
        assert status == 200
        assert json.loads(answer)["usage"]["completion_tokens"] == 7
    log = read_truth(path)
    assert len(log.writes) == 1
    assert log.writes["t"][0] >= log.marked("step")["t"][6]


@contextmanager
def unread(service: Service, count: int) -> Iterator[list[socket.socket]]:
    """Connections with a long answer each, from which nobody reads."""
    host, port = service.url.removeprefix("http://").split(":")
    data = body(words("w", 30), 3000).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(data)}\r\n\r\n"
    sockets = [socket.create_connection((host, int(port)), timeout=WAIT) for _ in range(count)]
    try:
        for one in sockets:
            one.sendall(head.encode() + data)
        yield sockets
    finally:
        for one in sockets:
            one.close()


def test_a_client_that_goes_away_frees_its_place() -> None:
    with Service(Options(engine="tiny,step=5ms,max_seqs=1")) as service:
        with unread(service, 3):
            found = wait_for(service, "vllm:num_requests_waiting", 2)
            assert found["vllm:num_requests_running"] == 1
            assert found["vllm:kv_cache_usage_perc"] > 0
        wait_for(service, "vllm:request_success_totalabort", 3)
        assert metrics(service)["vllm:kv_cache_usage_perc"] == 0
        assert post(service, "hello", 3)[0] == 200


def test_a_stop_ends_what_runs_and_what_waits(tmp_path: Path) -> None:
    path = tmp_path / "truth"
    service = Service(Options(engine="tiny,step=5ms,max_seqs=1", truth=str(path)))
    with unread(service, 3):
        wait_for(service, "vllm:num_requests_waiting", 2)
        service.stop()
    log = read_truth(path)
    assert log.ends["detail"].tolist() == [255] * 3
    assert sorted(log.ends["serial"]) == sorted(log.requests["serial"])


@pytest.mark.parametrize(
    "fault", ["cut", "eof", "malformed", "error-event", "crlf", "split", "empty", "reset", "stall", "no-usage", "503"]
)
@pytest.mark.parametrize("stream", [True, False])
def test_faults_leave_nothing_in_the_engine(fault: str, stream: bool) -> None:
    with Service(Options(engine="tiny,step=1ms", fault=(f"{fault}:1",))) as service:
        host, port = service.url.removeprefix("http://").split(":")
        data = body("a b c", 8, stream=stream, stream_options=None).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        with socket.create_connection((host, int(port)), timeout=WAIT) as connection:
            connection.sendall(head.encode() + data)
            if fault != "stall":
                try:
                    while connection.recv(65536):
                        pass
                except ConnectionResetError:
                    assert fault == "reset"
        if fault == "503":
            assert metrics(service)["vllm:generation_tokens_total"] == 0
            return
        found = wait_idle(service)
        assert sum(found[f"vllm:request_success_total{reason}"] for reason in ("stop", "length", "abort")) == 1


def test_a_slow_answer_in_the_engine_ends_with_its_client() -> None:
    with Service(Options(engine="tiny,step=1ms", fault=("slow:1",))) as service:
        host, port = service.url.removeprefix("http://").split(":")
        data = body("a b c", 8).encode()
        with socket.create_connection((host, int(port)), timeout=WAIT) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(data) + data
            )
            assert connection.recv(1) == b"H"
            wait_for(service, "vllm:request_success_totallength", 1)
        wait_idle(service)


def test_replicas_follow_the_load(tmp_path: Path) -> None:
    path = tmp_path / "truth"
    engine = "tiny,step=10ms,max_seqs=1,max_replicas=2,scale_waiting=2,scale_period=50ms,scale_delay=100ms"
    with Service(Options(engine=engine, truth=str(path))) as service:
        assert at_once(service, [words(f"p{i}-", 3) for i in range(6)], 40) == [200] * 6
        at_once(service, [words(f"q{i}-", 3) for i in range(4)], 10)
        data = get(service, "/metrics")[2].decode()
    log = read_truth(path)
    ordered, ready = log.marked("ordered"), log.marked("ready")
    assert ordered["connection"].tolist() == ready["connection"].tolist() == [0, 1]
    assert ready["t"][1] - ordered["t"][1] == 100_000_000
    assert set(log.marked("queued")["connection"]) == {0, 1}
    assert 'vllm:num_requests_running{engine="1"' in data


def test_the_pages_are_well_formed() -> None:
    with Service(Options(engine="ageing,leak_bytes=1000", models=('llama "3"'.replace('"', "'"),))) as service:
        before = metrics(service)
        post(service, words("w", 20), 5, model="llama '3'")
        after = metrics(service)
        families = {f.name: f for f in text_string_to_metric_families(get(service, "/metrics")[2].decode())}
        gpus = {f.name: f for f in text_string_to_metric_families(get(service, "/dcgm/metrics")[2].decode())}
    types = {name: family.type for name, family in families.items()}
    assert types["vllm:num_requests_running"] == types["vllm:kv_cache_usage_perc"] == "gauge"
    assert types["vllm:num_preemptions"] == types["vllm:prompt_tokens"] == types["vllm:request_success"] == "counter"
    for name in ("iteration_tokens_total", "time_to_first_token_seconds", "inter_token_latency_seconds"):
        assert types[f"vllm:{name}"] == "histogram"
    labels = {frozenset(sample.labels) - {"le", "finished_reason"} for sample in families["vllm:prompt_tokens"].samples}
    assert labels == {frozenset({"engine", "model_name"})}
    assert after["process_resident_memory_bytes"] - before["process_resident_memory_bytes"] == 1000
    assert after["process_start_time_seconds"] == before["process_start_time_seconds"] > 1e9
    assert after["vllm:time_to_first_token_seconds_count"] == after["vllm:e2e_request_latency_seconds_count"] == 1
    for family in families.values():
        if family.type == "histogram":
            buckets = [s.value for s in family.samples if s.name.endswith("_bucket")]
            assert buckets == sorted(buckets)
            assert buckets[-1] == next(s.value for s in family.samples if s.name.endswith("_count"))
    assert gpus["DCGM_FI_DEV_GPU_TEMP"].samples[0].value == 30
    assert gpus["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"].samples[0].value > 0
    assert set(gpus["DCGM_FI_DEV_GPU_UTIL"].samples[0].labels) == {"gpu", "UUID", "device", "modelName", "Hostname"}


def test_without_an_engine_there_are_no_pages() -> None:
    with Service(Options()) as service:
        assert get(service, "/metrics")[0] == 404
        assert get(service, "/health")[0] == 200


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"slots": 3}, "leave step and slots away"),
        ({"step": "5ms"}, "leave step and slots away"),
        ({"engine": "none"}, "no preset"),
    ],
)
def test_what_does_not_go_with_an_engine(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Service(Options(**{"engine": "tiny", **options}))
