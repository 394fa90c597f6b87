"""What servers do wrong during a run: every request ends in exactly one status, the run ends and reports."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

import llmgen
from llmgen.columns import Flag, Status
from llmgen.simulator.faults import FAULTS, PER_CONNECTION, Fault
from llmgen.simulator.truth import read_truth
from odd_servers import (
    DONE,
    FINISH,
    GOOD,
    STREAM_HEAD,
    OddServer,
    Peer,
    Request,
    always,
    answer_get,
    answering,
    chunk,
    stream,
    token,
    whole,
)
from running import PATIENCE_S, check_run, configuration, run_command, statuses

# How a streamed request that meets the fault must end. Faults that are no failure of the answer: ok.
ENDS = {
    Fault.none: {Status.ok},
    Fault.drop: {Status.eof},
    Fault.hang: {Status.first_token_timeout},
    Fault.garbage: {Status.protocol_error},
    Fault.html: {Status.malformed_stream},
    Fault.reset: {Status.reset},
    Fault.stall: {Status.idle_timeout},
    Fault.slow: {Status.first_token_timeout},
    Fault.cut: {Status.stream_cut},
    Fault.eof: {Status.eof},
    Fault.malformed: {Status.malformed_stream},
    Fault.error_event: {Status.stream_error},
    Fault.crlf: {Status.ok},
    Fault.split: {Status.ok},
    Fault.no_usage: {Status.ok},
    Fault.content_type: {Status.ok},
    Fault.unframed: {Status.ok},
    Fault.close: {Status.ok},
    Fault.empty: {Status.empty},
}
CODES = {
    301: Status.http_other,
    400: Status.http_4xx,
    404: Status.http_4xx,
    408: Status.server_timeout,
    429: Status.rate_limited,
    500: Status.http_5xx,
    503: Status.http_5xx,
    504: Status.server_timeout,
}
ONLY_HTTP2 = {"goaway", "refused-stream", "rst-stream"}


def test_every_fault_of_the_endpoint_ends_in_its_status(serve, offer, tmp_path):
    """All at once, so that what one does to a connection meets the requests of the others."""
    names = [name for name in FAULTS if name not in ONLY_HTTP2 | {*PER_CONNECTION}]
    assert {Fault[name.replace("-", "_")] for name in names} <= ENDS.keys(), "a new fault: say how it ends"
    share = 0.95 / (len(names) + len(CODES))
    truth_file = tmp_path / "truth"
    endpoint = serve(fault=tuple(f"{name}:{share:.4f}" for name in [*names, *map(str, CODES)]), truth=str(truth_file))
    result = offer(
        endpoint.url,
        **{
            "load.rate": 400.0,
            "load.requests": 600,
            "client.timeouts.first_token": 1.0,
            "client.timeouts.idle": 1.0,
        },
    )
    endpoint.stop()
    rows = result.requests
    requests = read_truth(truth_file).requests
    seen = set()
    for request in requests[requests["index"] >= 0]:
        row = rows[int(request["index"])]
        fault, status = Fault(int(request["detail"])), Status(int(row["status"]))
        if row["flags"] & Flag.stale_resend and fault is Fault.drop:
            continue  # the second time of a request whose reused connection was closed
        seen.add(fault)
        if fault is Fault.status:
            assert status == CODES[int(row["http_status"])], row["http_status"]
        elif fault is Fault.slow:
            # one byte a second: no token in time
            assert status is Status.first_token_timeout
        else:
            assert status in ENDS[fault], f"{fault.name} ended as {status.name}"
        if status is Status.ok:
            assert row["token_events"] == 8
            assert row["output_tokens"] == 8
    assert seen == {*(Fault[name.replace("-", "_")] for name in names), Fault.status, Fault.none}
    assert len(rows) == 600
    # the first texts of each are kept
    lines = [json.loads(line) for line in (result.directory / "errors.jsonl").read_text().splitlines()]
    assert {line["status"] for line in lines} == {name for name in statuses(rows) if name != "ok"}
    assert max(np.unique([f"{line['status']} {line['http_status']}" for line in lines], return_counts=True)[1]) <= 20
    assert any("malformed" not in line["text"] and line["text"] for line in lines if line["status"] == "http_5xx")


@pytest.mark.parametrize("streaming", [True, False])
def test_faults_of_whole_answers(serve, offer, streaming):
    """Faults that say something else when the answer is no stream."""
    endpoint = serve(fault=("error-event:0.5", "garbage:0.5"))
    result = offer(endpoint.url, **{"workload.stream": streaming, "load.requests": 40})
    assert statuses(result.requests).keys() == {"stream_error" if streaming else "http_5xx", "protocol_error"}
    assert result.exit_code == 5


def test_connections_that_are_reset_at_once(offer):
    def handle(peer: Peer) -> None:
        if peer.number:  # the first asks for the models
            peer.reset()
        elif (request := peer.request()) is not None:
            answer_get(peer, request)

    with OddServer(handle) as server:
        result = offer(server.url)
    assert statuses(result.requests).keys() <= {"reset", "eof", "connect_error"}
    assert not (result.requests["flags"] & Flag.stale_resend).any()
    assert result.exit_code == 5


def test_a_server_that_dies_and_returns(offer):
    """Refused while it is away, good before and after."""
    first = OddServer(always(GOOD))
    port = first.port
    second: list[OddServer] = []
    timer: list[threading.Timer] = []

    def answer(peer: Peer, request: Request) -> None:
        peer.send(GOOD)
        if request.index == 20:
            timer.append(threading.Timer(0.0, die))
            timer[0].start()

    def die() -> None:
        first.stop()
        threading.Event().wait(0.5)
        second.append(OddServer(always(GOOD), port=port))

    first._handler = answering(answer)
    try:
        result = offer(first.url, **{"load.rate": 100.0, "load.requests": 150})
    finally:
        timer[0].join(PATIENCE_S)
        for server in second:
            server.stop()
    told = statuses(result.requests)
    assert told["connect_refused"] > 10
    assert told["ok"] > 50
    assert told.keys() <= {"ok", "connect_refused", "reset", "eof", "connect_error"}
    assert result.requests["status"][-1] == Status.ok
    assert result.exit_code == 0


def test_a_server_that_is_gone_for_good(offer):
    server = OddServer(always(GOOD))

    def answer(peer: Peer, request: Request) -> None:
        peer.send(GOOD)
        if request.index == 5:
            threading.Thread(target=server.stop, daemon=True).start()

    server._handler = answering(answer)
    result = offer(server.url, **{"load.rate": 100.0, "load.requests": 60})
    told = statuses(result.requests)
    assert told["connect_refused"] > 20
    assert told["ok"] >= 5


def test_one_byte_a_second(serve, offer):
    """Neither hangs nor counts as an answer: bytes that bring no token do not hold the first-token timeout up."""
    endpoint = serve(fault=("slow:1",))
    result = offer(endpoint.url, **{"load.requests": 5, "client.timeouts.first_token": 1.5})
    assert statuses(result.requests) == {"first_token_timeout": 5}
    assert result.exit_code == 5
    assert result.summary.requests.failed == {"first_token_timeout": 5}


def test_events_that_go_on_for_ever_meet_the_total_timeout(offer):
    def answer(peer: Peer, _: Request) -> None:
        peer.send(STREAM_HEAD)
        while True:
            peer.send(chunk(token()))
            threading.Event().wait(0.02)

    with OddServer(answering(answer)) as server:
        result = offer(server.url, **{"load.requests": 3, "client.timeouts.total": 0.7})
    rows = result.requests
    assert statuses(rows) == {"total_timeout": 3}
    assert (rows["end"] - rows["due"] >= 700_000_000).all()
    assert (rows["first_token"] > 0).all()


def test_the_drain_is_bounded_and_what_is_left_is_cancelled(serve, offer):
    endpoint = serve(fault=("hang:0.5",))
    result = offer(endpoint.url, **{"load.drain": 0.5})
    told = statuses(result.requests)
    assert told.keys() == {"ok", "cancelled"}
    assert result.summary.requests.cancelled == told["cancelled"]


def test_a_server_that_answers_nothing_at_all(offer):
    """Not even to the question for its models: the run goes on without and every request times out."""

    with OddServer(lambda peer: peer.until_closed()) as server:
        result = offer(server.url, **{"target.path": "/v1/other", "client.timeouts.first_token": 0.5})
    assert statuses(result.requests) == {"first_token_timeout": 20}
    assert result.exit_code == 5


def test_stale_idle_connections_get_one_resend(offer):
    """The server closes after every answer without saying so; the requests that meet it are sent once more."""

    def handle(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if answer_get(peer, request):
                return
            if peer.server.requests and sum(r.connection == peer.number for r in peer.server.requests) > 1:
                return  # the second request on this connection: closed without a byte
            peer.send(GOOD)

    with OddServer(handle) as server:
        result = offer(server.url, **{"load.rate": 50.0, "load.requests": 20})
        asked = [post.index for post in server.posts]
    rows = result.requests
    assert statuses(rows) == {"ok": 20}
    resent = rows["flags"] & Flag.stale_resend != 0
    assert resent.any()
    assert result.summary.requests.stale_resends == np.count_nonzero(resent)
    for row, again in zip(rows, resent, strict=True):
        assert asked.count(int(row["index"])) == 1 + int(again)
        assert row["send"] >= row["dispatch"] >= row["due"]
        if again:  # on a fresh connection, its due time kept
            assert not row["flags"] & Flag.reused
            assert row["connected"] > 0
    np.testing.assert_array_equal(np.diff(rows["due"]), 20_000_000)


def test_a_fresh_connection_that_dies_is_a_failure(offer):
    def handle(peer: Peer) -> None:
        if (request := peer.request()) is not None:
            answer_get(peer, request)

    with OddServer(handle) as server:
        result = offer(server.url, **{"load.requests": 10})
        assert len(server.posts) == 10
    assert statuses(result.requests).keys() <= {"eof", "reset"}
    assert not result.summary.requests.stale_resends


def test_idle_connections_that_the_server_closes_are_dropped_unseen(serve, offer):
    endpoint = serve(fault=("close-idle:100ms",))
    result = offer(endpoint.url, **{"load.rate": 4.0, "load.requests": 6})
    assert statuses(result.requests) == {"ok": 6}
    assert result.summary.requests.stale_resends == 0
    assert len(set(result.requests["connection"].tolist())) == 6


ODD_ANSWERS = {
    "two lengths": (whole(b"{}").replace(b"\r\n\r\n", b"\r\ncontent-length: 3\r\n\r\n", 1), "protocol_error"),
    "length and chunks": (GOOD.replace(b"\r\n\r\n", b"\r\ncontent-length: 3\r\n\r\n", 1), "ok"),  # and no reuse
    "a bad chunk size": (STREAM_HEAD + b"zz\r\n", "protocol_error"),
    "an endless header": (b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 70_000, "protocol_error"),
    "no HTTP at all": (b"SSH-2.0-OpenSSH_9.2\r\n", "protocol_error"),
    "an empty document": (whole(b""), "malformed_stream"),
    "a list": (whole(b"[1,2,3]"), None),
    "deep JSON": (whole(b"[" * 100_000), "malformed_stream"),
    "no JSON": (stream(b"data: {oops\n\n", DONE), "malformed_stream"),
    "an endless event": (STREAM_HEAD + chunk(b"data: " + b"x" * (3 << 20)), "malformed_stream"),
    "an error event": (stream(token(), b'data: {"error":{"message":"cuda","code":500}}\n\n', DONE), "stream_error"),
    "a time-out event": (stream(b'data: {"error":{"message":"Request timed out"}}\n\n', DONE), "server_timeout"),
    "no end": (stream(token(), token()), "stream_cut"),
    "no token": (stream(FINISH, DONE), "empty"),
    "only comments": (stream(b": hi\n\n", DONE), "empty"),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", "stream_cut"),
    "304": (b"HTTP/1.1 304 Not Modified\r\n\r\n", "http_other"),
    "a redirect": (whole(b"", b"302 Found", more=b"location: http://127.0.0.1:1/\r\n"), "http_other"),
    "gzip": (whole(b"\x1f\x8b\x08", kind=b"text/event-stream", more=b"content-encoding: gzip\r\n"), "malformed_stream"),
    "surplus bytes": (GOOD + GOOD, "ok"),
    "an answer cut by the end": (GOOD[:-20], "eof"),
    "half a head": (b"HTTP/1.1 200 OK\r\ncontent-", "eof"),
}


def test_odd_answers(offer):
    """One request each: the i-th meets the i-th answer, after which the server closes."""
    answers = list(ODD_ANSWERS.values())

    def answer(peer: Peer, request: Request) -> None:
        peer.send(answers[request.index][0])
        peer.socket.shutdown(1)
        peer.until_closed()

    with OddServer(answering(answer)) as server:
        result = offer(server.url, **{"load.requests": len(answers), "client.timeouts.total": 5.0})
    got = {name: Status(int(s)).name for name, s in zip(ODD_ANSWERS, result.requests["status"], strict=True)}
    assert "in_flight" not in got.values()
    wanted = {name: status for name, (_, status) in ODD_ANSWERS.items() if status is not None}
    assert {name: got[name] for name in wanted} == wanted
    assert got["a list"] in ("empty", "malformed_stream")


def test_surplus_bytes_spoil_the_connection(offer):
    """They must not become the next request's answer."""
    with OddServer(always(GOOD + GOOD)) as server:
        result = offer(server.url, **{"load.rate": 50.0, "load.requests": 6})
        assert len({post.connection for post in server.posts}) == 6
    assert statuses(result.requests) == {"ok": 6}


NASTY = '</script><img src=x onerror=alert(1)>\x1b[31mred\x1b]0;title\x07\x00NUL\u202e{"a": "\\ud800"}\r\n\u2028'


def test_what_a_server_says_stays_text(serve, offer, tmp_path):
    """HTML, terminal sequences, NUL and direction marks in an error's body, a model's name and the Server header."""
    body = json.dumps({"error": {"message": NASTY}}).encode() + b"\xff\xfe" + NASTY.encode()
    models = json.dumps({"data": [{"id": NASTY}]}).encode()

    def answer(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request.method == "GET":
                peer.send(whole(models, more=b"server: <script>\x1b[1m\r\n"))
            elif request.index % 2:
                peer.send(whole(body, b"500 " + b"\x1b[31m</script>", kind=b"text/plain"))
            else:
                peer.send(stream(b"data: " + json.dumps({"error": {"message": NASTY}}).encode() + b"\n\n"))

    with OddServer(answer) as server:
        result = offer(server.url)
    assert statuses(result.requests) == {"http_5xx": 10, "stream_error": 10}
    lines = (result.directory / "errors.jsonl").read_text().split("\n")
    assert [json.loads(line) for line in lines if line]
    assert len([line for line in lines if line]) == 20  # one object a line, whatever is in it
    page = (result.directory / "report.html").read_text()
    assert "<img src=x" not in page
    assert "</script><img" not in page
    assert "\x1b" not in page
    assert "\x00" not in page
    told = run_command("report", result.directory)
    assert "\x1b[31m" not in told.stdout
    assert "\x1b]0" not in told.stdout
    assert "\x00" not in told.stdout
    assert "\x1b]0" not in (result.directory / "run.json").read_text()


def test_a_run_in_which_everything_fails_reports(serve, tmp_path):
    endpoint = serve(fault=("500:1",))
    result = llmgen.run(configuration(endpoint.url, tmp_path), quiet=True)
    summary = check_run(result.directory)
    assert result.exit_code == 5
    assert summary["requests"]["failed"] == {"http_5xx": 20}
    assert summary["latency"]["ttft_ms"] is None
    assert summary["verdict"]["status"] != "incomplete"


@pytest.mark.parametrize(("code", "stops"), [(401, True), (404, True), (500, False)])
def test_answers_that_are_all_denials_stop_the_run(serve, offer, code, stops):
    endpoint = serve(fault=(f"{code}:1",))
    result = offer(endpoint.url, **{"load.rate": 50.0, "load.requests": 100})
    summary = result.summary
    assert (summary.verdict.status == "incomplete") == stops
    assert (summary.requests.never_sent > 0) == stops
    assert result.exit_code == 5
    if stops:
        assert summary.requests.failed["http_4xx"] >= 20
        assert any("401, 403 or 404" in reason for reason in summary.verdict.reasons)


def test_abort_on(serve, offer):
    endpoint = serve(fault=("500:0.9",))
    result = offer(
        endpoint.url,
        **{"load.rate": 50.0, "load.requests": 400, "client.abort_on": "error_rate>50% for 500ms"},
    )
    assert result.summary.verdict.status == "incomplete"
    assert any("error_rate>50%" in reason for reason in result.summary.verdict.reasons)
    assert result.summary.requests.never_sent > 0
