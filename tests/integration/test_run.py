"""Whole runs against servers that behave: what is sent, when, over which connections, and what is told of it."""

from __future__ import annotations

import json
import socket
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest

import llmgen
from llmgen.columns import EventFlag, Flag, Kind, OutputSource, Status
from llmgen.errors import ConfigError
from odd_servers import (
    DONE,
    FINISH,
    GOOD,
    STREAM_HEAD,
    USAGE,
    OddServer,
    Peer,
    Request,
    always,
    answering,
    chunk,
    stream,
    token,
    whole,
)
from running import check_run, environment, flags_of_short_run, run_command, statuses


def test_a_plain_run(offer, endpoint):
    result = offer(endpoint.url)
    rows, events, summary = result.requests, result.events, result.summary
    assert result.exit_code == 0
    assert statuses(rows) == {"ok": 20}
    start = json.loads((result.directory / "run.json").read_text())["start_ns"]
    # constant arrivals at 200/s: the schedule is exact whatever became of the requests
    np.testing.assert_array_equal(np.diff(rows["due"]), 5_000_000)
    assert (rows["due"] >= start).all()
    assert (rows["planned_output"] == 8).all()
    assert (rows["output_tokens"] == 8).all()
    assert (rows["planned_input"] == 8).all()
    assert (rows["input_tokens"] == 8).all()
    assert (rows["output_source"] == OutputSource.usage).all()
    assert (rows["token_events"] == 8).all()
    for name in ("acquired", "send", "sent", "headers", "first_byte", "first_event", "first_token", "first_visible"):
        assert (rows[name] > 0).all(), name
    fresh = rows["flags"] & Flag.reused == 0
    assert (rows["connected"][fresh] > 0).all()
    assert (rows["connect_start"][~fresh] == -1).all()
    assert not (rows["flags"] & Flag.user_stamped).any()
    assert summary.client.stamps == "kernel"
    assert (rows["flags"] & Flag.done_seen).all()
    # events belong to the rows they name, and their times are those of the rows
    tokens = events[events["kind"] & Kind.text != 0]
    assert len(tokens) == 160
    assert not (events["flags"] & EventFlag.user_stamped).any()
    for number, row in enumerate(rows):
        mine = tokens[tokens["request"] == number]
        assert mine["t"][0] == row["first_token"]
        assert mine["t"][-1] == row["last_token"]
        assert (np.diff(mine["t"]) >= 0).all()
    assert summary.requests.sent == 20
    assert summary.load.offered_rate == pytest.approx(200, rel=0.06)
    timeline = np.load(result.directory / "timeline.npy")
    assert timeline["offered"].sum() == timeline["sent"].sum() == timeline["ended"].sum() == 20
    assert timeline["tokens"].sum() == 160
    histograms = np.load(result.directory / "histograms.npy")
    assert histograms["count"][histograms["metric"] == 0].sum() == 20


def test_the_same_from_disk(offer, endpoint):
    result = offer(endpoint.url)
    again = llmgen.open_run(result.directory)
    np.testing.assert_array_equal(again.requests, result.requests)
    np.testing.assert_array_equal(again.events, result.events)
    latest = result.directory.parent / "latest"
    assert latest.resolve() == result.directory.resolve()


def test_every_command_takes_the_run(endpoint, tmp_path):
    done = run_command(*flags_of_short_run(endpoint.url, tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["schema"] == "llmgen.summary/1"
    directory = (tmp_path / "latest").resolve()
    assert check_run(directory) == summary
    for shown in ("text", "json", "html"):
        told = run_command("report", directory, "--format", shown)
        assert told.returncode == 0, told.stderr
    assert json.loads(run_command("report", directory, "--format", "json").stdout) == summary
    listed = run_command("list", tmp_path)
    assert listed.returncode == 0
    lines = run_command("export", directory, "--format", "jsonl").stdout.splitlines()
    assert len(lines) == 20
    assert {json.loads(line)["status"] for line in lines} == {"ok"}


def test_a_run_in_a_thread_needs_no_signals(offer, endpoint):
    results = []
    thread = threading.Thread(target=lambda: results.append(offer(endpoint.url)))
    thread.start()
    thread.join(60)
    assert results[0].summary.requests.succeeded == 20


# -- what is sent ------------------------------------------------------------------------------------------------------


def test_the_request_on_the_wire(offer, monkeypatch):
    monkeypatch.setenv("KEY_OF_TEST", "sk-secret-of-the-test")
    with OddServer(always(GOOD)) as server:
        result = offer(
            f"{server.url}/v1",
            **{
                "client.traceparent": True,
                "target.headers": {"X-Extra": "yes", "api-key": "env:KEY_OF_TEST"},
                "target.query": {"api-version": "7"},
                "workload.body": {"temperature": 0},
                "load.requests": 5,
            },
        )
        posts = sorted(server.posts, key=lambda r: r.index)
    run_id = json.loads((result.directory / "run.json").read_text())["run_id"]
    assert [post.header("x-request-id") for post in posts] == [
        f"{run_id[:8]}-{run_id[8:]}-4000-8000-{i:012}" for i in range(5)
    ]
    assert {uuid.UUID(post.header("x-request-id")).version for post in posts} == {4}
    for number, post in enumerate(posts):
        assert post.path == "/v1/chat/completions?api-version=7"
        assert post.header("host") == server.url.removeprefix("http://")
        assert post.header("x-extra") == "yes"
        assert post.header("api-key") == "sk-secret-of-the-test"
        assert post.header("content-type") == "application/json"
        assert int(post.header("content-length")) == len(post.body)
        version, trace, span, sampled = post.header("traceparent").split("-")
        assert (version, sampled) == ("00", "01")
        assert (len(trace), len(span)) == (32, 16)
        assert int(trace[:16], 16) == int(run_id, 16)
        assert int(trace[16:], 16) == number
        assert int(span, 16) != 0
        body = post.json()
        assert body["model"] == "odd"  # the first that the server lists
        assert body["temperature"] == 0
        assert body["stream"] is True
        assert body["stream_options"] == {"include_usage": True}
        assert body["max_tokens"] == 8
        assert len(body["messages"][0]["content"].split()) == 8
    beginnings = {post.json()["messages"][0]["content"].split()[0] for post in posts}
    assert len(beginnings) == 5
    assert statuses(result.requests) == {"ok": 5}
    assert (result.requests["input_tokens"] == 7).all()
    assert (result.requests["output_tokens"] == 3).all()


@pytest.mark.parametrize("arrival", ["poisson", "gamma:3"])
def test_times_and_bodies_do_not_depend_on_the_number_of_workers(offer, arrival):
    seen = []
    for workers in (1, 3):
        with OddServer(always(GOOD)) as server:
            result = offer(
                server.url,
                **{
                    "client.workers": workers,
                    "load.arrival": arrival,
                    "load.requests": 40,
                    "workload.input": "lognormal:20,9",
                    "workload.output": "uniform:1,30",
                    "seed": 5,
                },
            )
            bodies = {post.index: post.body for post in server.posts}
        info = json.loads((result.directory / "run.json").read_text())
        assert info["workers"] == workers == len(set(result.requests["worker"].tolist()))
        seen.append((result.requests["due"] - info["start_ns"], bodies, result.requests["planned_output"].copy()))
    np.testing.assert_array_equal(seen[0][0], seen[1][0])
    np.testing.assert_array_equal(seen[0][2], seen[1][2])
    assert seen[0][1] == seen[1][1]
    assert len(seen[0][1]) == 40


def test_a_body_that_fills_the_socket(offer):
    """A megabyte goes out in parts; `sent` is stamped when the kernel took the last of it."""
    with OddServer(always(GOOD)) as server:
        result = offer(server.url, **{"load.requests": 4, "workload.input": 200_000})
        sizes = [len(post.body) for post in server.posts]
        words = [len(post.json()["messages"][0]["content"].split()) for post in server.posts]
    assert min(sizes) > 1 << 20
    assert words == [200_000] * 4
    assert statuses(result.requests) == {"ok": 4}
    assert (result.requests["sent"] > result.requests["send"]).all()


def test_a_server_that_answers_before_it_has_read(offer):
    """413 while the body is still going out: the answer counts, not the reset that follows."""

    def refuse_large(peer: Peer) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            piece = peer.socket.recv(4096)
            if not piece:
                return
            received += piece
        if received.startswith(b"GET"):
            peer.send(whole(b"{}", b"404 Not Found"))
            return
        peer.send(whole(b'{"error":{"message":"too large"}}', b"413 Content Too Large", more=b"connection: close\r\n"))
        peer.socket.shutdown(socket.SHUT_WR)
        peer.until_closed()

    with OddServer(refuse_large) as server:
        result = offer(server.url, **{"load.requests": 3, "workload.input": 400_000, "target.model": "m"})
    assert statuses(result.requests) == {"http_4xx": 3}
    assert set(result.requests["http_status"].tolist()) == {413}


# -- kinds of load -----------------------------------------------------------------------------------------------------


def test_closed_loop(offer, serve):
    server = serve(ttft="20ms")
    result = offer(server.url, **{"load.concurrency": 4, "load.requests": 40})
    rows = result.requests
    assert statuses(rows) == {"ok": 40}
    np.testing.assert_array_equal(np.sort(rows["index"]), np.arange(40))
    assert peak_in_flight(rows) == 4
    # a request is due when its slot became free: at the start, or at the end of an earlier one
    ends = set(rows["end"].tolist())
    start = json.loads((result.directory / "run.json").read_text())["start_ns"]
    assert all(due == start or due in ends for due in rows["due"].tolist())


def test_closed_loop_over_workers_and_time(offer, serve):
    server = serve(ttft="10ms")
    result = offer(
        server.url,
        **{"load.concurrency": 5, "load.requests": None, "load.duration": 1.0, "client.workers": 2},
    )
    rows = result.requests
    assert statuses(rows) == {"ok": len(rows)}
    assert len(rows) >= 5
    np.testing.assert_array_equal(np.sort(rows["index"]), np.arange(len(rows)))
    assert set(rows["worker"].tolist()) == {0, 1}
    assert peak_in_flight(rows) <= 5


def test_no_more_workers_than_slots(offer, endpoint):
    result = offer(endpoint.url, **{"load.concurrency": 1, "load.requests": 6, "client.workers": 3})
    assert statuses(result.requests) == {"ok": 6}
    assert set(result.requests["worker"].tolist()) == {0}


def peak_in_flight(rows) -> int:
    # an end and the start that it makes possible have the same time: the end comes first
    points = sorted([(int(t), 1, 1) for t in rows["dispatch"]] + [(int(t), 0, -1) for t in rows["end"]])
    peak = now = 0
    for _, _, step in points:
        now += step
        peak = max(peak, now)
    return peak


def test_all_at_once(offer, endpoint):
    result = offer(endpoint.url, **{"load.rate": "inf", "load.requests": 300})
    assert statuses(result.requests) == {"ok": 300}
    assert len(set(result.requests["due"].tolist())) == 1
    assert result.requests["index"].tolist() == list(range(300))


def test_what_comes_first_ends_the_load(offer, endpoint):
    few = offer(endpoint.url, **{"load.requests": 7, "load.duration": 5.0})
    assert len(few.requests) == 7
    short = offer(endpoint.url, **{"load.requests": 1000, "load.duration": 0.25})
    assert len(short.requests) == 50


def test_warm_up_and_cool_down_are_cut_from_the_window(offer, endpoint):
    result = offer(
        endpoint.url,
        **{"load.requests": None, "load.duration": 0.5, "load.warmup": 0.1, "load.cooldown": "20%"},
    )
    info = json.loads((result.directory / "run.json").read_text())
    start = info["start_ns"]
    assert info["window"] == {"start_ns": start + 100_000_000, "end_ns": start + 400_000_000}
    due = result.requests["due"]
    inside = np.count_nonzero((due >= start + 100_000_000) & (due < start + 400_000_000))
    assert result.summary.window.requests.scheduled == inside == 60
    assert len(due) == 100


def test_whole_answers(offer, endpoint):
    result = offer(endpoint.url, **{"workload.stream": False})
    rows = result.requests
    assert statuses(rows) == {"ok": 20}
    assert (rows["flags"] & Flag.whole_answer != 0).all()
    assert (rows["first_token"] == -1).all()
    assert (rows["output_tokens"] == 8).all()
    assert result.summary.latency.ttft_ms is None
    assert result.summary.latency.e2e_ms.n == 20


@pytest.mark.parametrize("streaming", [True, False])
def test_completions(offer, endpoint, streaming):
    result = offer(endpoint.url, **{"target.api": "completions", "workload.stream": streaming})
    assert statuses(result.requests) == {"ok": 20}
    assert (result.requests["output_tokens"] == 8).all()


def test_level_requests_keeps_the_metrics(offer, endpoint):
    result = offer(endpoint.url, record="requests")
    assert result.events is None
    assert not (result.directory / "events.npy").exists()
    latency = result.summary.latency
    assert latency.ttft_ms.n == 20
    assert latency.chunk_gap_ms.n > 0
    assert latency.itl_ms.n > 0


def test_a_mix_of_classes(offer, endpoint):
    result = offer(
        endpoint.url,
        **{
            "load.requests": 60,
            "workload.mix": {
                "short": {"weight": 2, "input": 4, "output": 2, "slo": ["ttft<60s"]},
                "whole": {"output": 5, "stream": False},
            },
        },
    )
    rows = result.requests
    assert statuses(rows) == {"ok": 60}
    assert set(rows["output_tokens"][rows["klass"] == 0].tolist()) == {2}
    assert set(rows["output_tokens"][rows["klass"] == 1].tolist()) == {5}
    assert set(result.summary.classes) == {"short", "whole"}
    assert result.summary.classes["short"].requests.scheduled == np.count_nonzero(rows["klass"] == 0)


def test_user_stamps(offer, endpoint):
    result = offer(endpoint.url, **{"client.stamps": "user"})
    assert (result.requests["flags"] & Flag.user_stamped != 0).all()
    assert result.summary.client.stamps == "user"
    np.testing.assert_array_equal(result.requests["first_token"], result.requests["first_token_user"])
    assert result.summary.client.drain_lag_us.p50 > 0  # the kernel still tells how late we read


# -- connections -------------------------------------------------------------------------------------------------------


def test_idle_connections_are_reused_last_in_first_out(offer):
    """Requests that do not overlap need one connection."""
    with OddServer(always(GOOD)) as server:
        result = offer(server.url, **{"load.rate": 20.0, "load.requests": 8})
        assert len({post.connection for post in server.posts}) == 1
    flags = result.requests["flags"]
    assert not flags[0] & Flag.reused
    assert (flags[1:] & Flag.reused != 0).all()
    assert result.summary.latency.connect_ms.n == 1


def test_a_limit_of_connections_is_queueing(offer, serve):
    server = serve(ttft="30ms", itl="0")
    result = offer(server.url, **{"client.connections": 2, "load.rate": "inf", "load.requests": 10})
    rows = result.requests
    assert statuses(rows) == {"ok": 10}
    assert len(set(rows["connection"].tolist())) == 2
    waited = rows["acquired"] - rows["dispatch"]
    assert np.count_nonzero(waited > 20_000_000) == 8
    # first come, first served
    order = np.argsort(rows["acquired"], kind="stable")
    np.testing.assert_array_equal(np.sort(rows["index"][order[:2]]), [0, 1])
    assert result.summary.latency.queue_ms.max > 100
    # queueing is the limit's doing, not lateness of ours
    assert (rows["dispatch"] - rows["due"]).max() < waited.max()


def test_a_limit_over_workers(offer, serve):
    server = serve(ttft="5ms")
    result = offer(
        server.url, **{"client.connections": 3, "client.workers": 2, "load.rate": "inf", "load.requests": 12}
    )
    used = {(int(r["worker"]), int(r["connection"])) for r in result.requests}
    assert len(used) == 3
    assert statuses(result.requests) == {"ok": 12}


def test_connections_opened_ahead(offer, serve):
    server = serve(ttft="30ms")
    result = offer(server.url, **{"client.preconnect": 5, "load.rate": "inf", "load.requests": 5})
    assert statuses(result.requests) == {"ok": 5}
    assert (result.requests["connect_start"] == -1).all()
    assert not (result.requests["flags"] & Flag.reused).any()
    assert len(set(result.requests["connection"].tolist())) == 5
    assert result.summary.latency.connect_ms is None


@pytest.mark.parametrize("balance", ["round-robin", "random", "least-in-flight"])
def test_several_targets(offer, balance):
    with OddServer(always(GOOD)) as one, OddServer(always(GOOD)) as other:
        result = offer([one.url, other.url], **{"target.balance": balance, "load.requests": 40})
        got = [{post.index for post in server.posts} for server in (one, other)]
    rows = result.requests
    assert statuses(rows) == {"ok": 40}
    assert got[0].isdisjoint(got[1])
    assert got[0] | got[1] == set(range(40))
    for number in (0, 1):
        assert set(rows["index"][rows["target"] == number].tolist()) == got[number]
        assert got[number]
    if balance == "round-robin":
        assert len(got[0]) == 20
    assert set(result.summary.targets) == {one.url, other.url}


def test_one_of_two_targets_fails(offer, serve):
    bad = serve(fault=("503:1",))
    good = serve()
    result = offer([bad.url, good.url])
    rows = result.requests
    assert set(rows["status"][rows["target"] == 0].tolist()) == {Status.http_5xx}
    assert set(rows["status"][rows["target"] == 1].tolist()) == {Status.ok}


def test_unix_socket(offer, tmp_path):
    path = tmp_path / "s.sock"
    with OddServer(always(GOOD), family=socket.AF_UNIX, path=str(path)) as server:
        result = offer(f"unix:{path}")
        assert {post.path for post in server.posts} == {"/v1/chat/completions"}
    assert statuses(result.requests) == {"ok": 20}


def test_connect_to_another_place(offer):
    with OddServer(always(GOOD)) as server:
        result = offer("http://name.invalid/v1", **{"target.connect_to": f"127.0.0.1:{server.port}"})
        assert {post.header("host") for post in server.posts} == {"name.invalid"}
    assert statuses(result.requests) == {"ok": 20}


def test_a_name_with_a_dead_address_first(offer, monkeypatch):
    """The next address is tried within the connect timeout."""
    with OddServer(always(GOOD)) as server:
        real = socket.getaddrinfo

        def two(host, *args, **settings):
            if host != "two.addresses":
                return real(host, *args, **settings)
            kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
            return [(*kind, ("127.1.2.3", server.port)), (*kind, ("127.0.0.1", server.port))]

        monkeypatch.setattr(socket, "getaddrinfo", two)
        result = offer(f"http://two.addresses:{server.port}")
    assert statuses(result.requests) == {"ok": 20}


# -- how answers are read ----------------------------------------------------------------------------------------------


def test_events_that_come_in_one_write_get_no_invented_spacing(offer):
    """docs/metrics.md, chunk gap: three events in one write are one time; the gap to them carries their tokens."""
    pause = threading.Event()  # never set: the gaps are what is measured

    def answer(peer: Peer, _: Request) -> None:
        peer.send(STREAM_HEAD + chunk(token("1 ")))
        pause.wait(0.03)
        peer.send(chunk(token("2 ") + token("3 ") + token("4 ")))
        pause.wait(0.03)
        peer.send(chunk(token("5 ") + FINISH) + chunk(DONE) + b"0\r\n\r\n")

    with OddServer(answering(answer)) as server:
        result = offer(server.url, **{"load.requests": 1})
    (row,) = result.requests
    tokens = result.events[result.events["kind"] & Kind.text != 0]
    assert row["status"] == Status.ok
    assert len(tokens) == 5
    assert tokens["t"][1] == tokens["t"][2] == tokens["t"][3]
    assert [bool(f & EventFlag.coalesced) for f in tokens["flags"]][:4] == [False, True, True, False]
    gaps = result.summary.latency.chunk_gap_ms
    assert gaps.n == 2
    first, second = np.diff(np.unique(tokens["t"])) / 1e6
    assert gaps.max == pytest.approx(max(first, second), rel=0.02)
    assert row["max_gap"] == pytest.approx(max(first, second) * 1e6, rel=1e-9)
    itl = result.summary.latency.itl_ms  # 3 tokens of the first gap and 1 of the second
    assert itl.n == 4
    assert itl.mean == pytest.approx((first + second) / 4, rel=0.02)
    assert itl.min == pytest.approx(first / 3, rel=0.02)


def test_output_tokens_without_usage_are_counted_events(offer):
    with OddServer(always(stream(token("a "), token("b "), FINISH, DONE))) as server:
        result = offer(server.url, **{"load.requests": 3})
    rows = result.requests
    assert (rows["output_source"] == OutputSource.events).all()
    assert (rows["output_tokens"] == 2).all()
    assert (rows["flags"] & Flag.tokens_assumed != 0).all()
    assert any("usage" in note for note in result.summary.verdict.notes)


def test_a_whole_answer_to_a_streaming_request(offer):
    document = {
        "choices": [{"message": {"content": "a b"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }
    with OddServer(always(whole(json.dumps(document).encode()))) as server:
        result = offer(server.url, **{"load.requests": 3})
    assert statuses(result.requests) == {"ok": 3}
    assert (result.requests["flags"] & Flag.whole_answer != 0).all()
    assert (result.requests["output_tokens"] == 2).all()


def test_interim_responses_are_passed_over(offer):
    with OddServer(always(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + GOOD)) as server:
        result = offer(server.url)
        assert len({post.connection for post in server.posts}) <= 20
    assert statuses(result.requests) == {"ok": 20}


def test_an_answer_cut_into_single_bytes(offer):
    """The same as in one piece, and one row an event."""

    def answer(peer: Peer, _: Request) -> None:
        for at in range(len(GOOD)):
            peer.send(GOOD[at : at + 1])

    with OddServer(answering(answer)) as server:
        result = offer(server.url, **{"load.requests": 2})
    assert statuses(result.requests) == {"ok": 2}
    assert (result.requests["token_events"] == 3).all()
    assert (result.requests["output_tokens"] == 3).all()
    assert (
        result.requests["bytes_in"] == sum(map(len, (token("a "), token("b "), token("c "), FINISH, USAGE, DONE)))
    ).all()


def test_a_missed_objective(endpoint, tmp_path):
    done = run_command(*flags_of_short_run(endpoint.url, tmp_path), "--slo", "ttft_p50<1ms", "--slo", "ttft_p95<20s")
    assert done.returncode == 3, done.stderr
    summary = check_run((tmp_path / "latest").resolve())
    assert [objective["met"] for objective in summary["slo"]] == [False, True]
    assert "ttft_p50" in done.stdout


def test_logs_as_json_lines(endpoint, tmp_path):
    env = environment(http_proxy="http://127.0.0.1:9", HTTPS_PROXY="http://127.0.0.1:9")
    done = run_command(*flags_of_short_run(endpoint.url, tmp_path), "--log-json", "--json", env=env)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stderr.splitlines()]
    assert {"time", "level", "message"} <= rows[0].keys()
    assert any("http_proxy" in row["message"] and "ignored" in row["message"] for row in rows)


def test_a_metric_that_cannot_exist_is_refused(offer, endpoint):
    with pytest.raises(ConfigError, match="ttft"):
        offer(endpoint.url, **{"workload.stream": False, "slo": ("ttft_p95<1s",)})


def test_runs_of_one_second_get_folders_of_their_own(offer, endpoint):
    folders = {offer(endpoint.url, **{"load.requests": 1}).directory for _ in range(2)}
    assert len(folders) == 2
    assert all(isinstance(folder, Path) and folder.is_dir() for folder in folders)
